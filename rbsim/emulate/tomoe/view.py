"""How the sky maps to pixels and electrons in one exposure, and its true PSF."""

import math
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from rbsim.emulate.tomoe import optics, pointing, transients
from rbsim.emulate.tomoe.sensor_night import SensorNight
from rbsim.emulate.tomoe.weather import Weather
from rbsim.tomoe.sensors import FIELD_RADIUS_DEG, PIXEL_SCALE_ARCSEC, Sensor, field_positions


@dataclass(frozen=True, eq=False)
class View:
    """One exposure.

    Attributes
    ----------
    night : SensorNight
    wcs : WCS
        As the header states it.
    error : pointing.WcsError
        Of that.
    psf : optics.PsfField
    zero_point : float
        Magnitude of one electron per frame at the field's centre, through the clouds.
    """

    night: SensorNight
    wcs: WCS
    error: pointing.WcsError
    psf: optics.PsfField
    zero_point: float

    def to_pix(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True 0-based positions, of the shape given."""
        x, y = self.wcs.wcs_world2pix(np.ravel(ra_deg), np.ravel(dec_deg), 0)
        dx, dy = self.error(x, y)
        return (x + dx).reshape(np.shape(ra_deg)), (y + dy).reshape(np.shape(ra_deg))

    def to_sky(self, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination of true positions, shape (n,)."""
        # The error changes by hundredths of a pixel over its own size.
        dx, dy = self.error(x_pix, y_pix)
        ra, dec = self.wcs.wcs_pix2world(x_pix - dx, y_pix - dy, 0)
        return np.asarray(ra), np.asarray(dec)

    def electrons(self, mag: np.ndarray) -> np.ndarray:
        """Per frame, at the field's centre."""
        return np.asarray(10 ** (-0.4 * (mag - self.zero_point)))

    def lights(self, lights: transients.Lights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions and electrons per frame, shape (n, frames)."""
        x, y = self.to_pix(lights.ra_deg, lights.dec_deg)
        return x, y, lights.relative * 10 ** (0.4 * self.zero_point)

    def at(self, image: np.ndarray, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """Values of the pixels nearest to positions, also from outside."""
        ny, nx = image.shape
        row = np.clip(np.rint(y_pix), 0, ny - 1).astype(int)
        return np.asarray(image[row, np.clip(np.rint(x_pix), 0, nx - 1).astype(int)])


def psf_of(night: SensorNight, weather: Weather) -> optics.PsfField:
    """True PSF of a sensor in some weather: worse images outside, a tilted sensor, wind and drift."""
    settings, shape = night.settings.optics, night.shape
    sensor, mode = night.sensor, night.settings.mode
    rng = night.rng("tilt")
    tilt, direction = rng.normal(0, settings.defocus_arcsec), rng.uniform(0, 2 * np.pi)
    motion = optics.Blur.along(weather.shake_rms_pix, _angle_on(sensor, weather.shake_angle_deg))
    trail_pix = weather.drift_pix_per_s * mode.n_taken * mode.frame_s
    motion += optics.Blur.along(trail_pix / math.sqrt(12), _angle_on(sensor, weather.drift_angle_deg))
    rows, columns = optics.cell_centres(shape)
    blurs = np.empty((len(rows), len(columns)), object)
    for row, column in np.ndindex(*blurs.shape):
        x, y = columns[column], rows[row]
        field_x, field_y = field_positions(sensor, np.array(x), np.array(y), shape=shape)
        share = float(np.hypot(field_x, field_y) / FIELD_RADIUS_DEG) ** 2
        edge = settings.fwhm_edge_arcsec - settings.fwhm_centre_arcsec
        u, v = 2 * x / (shape[1] - 1) - 1, 2 * y / (shape[0] - 1) - 1
        defocus = tilt * (u * math.cos(direction) + v * math.sin(direction))
        optics_pix = math.hypot(settings.fwhm_centre_arcsec + edge * share, defocus) / PIXEL_SCALE_ARCSEC
        radial_deg = math.degrees(math.atan2(float(field_y), float(field_x)))
        stretch = (weather.fwhm_arcsec / PIXEL_SCALE_ARCSEC / 2.3548) * math.sqrt(
            4 * settings.ellipticity_edge * share
        )
        blurs[row, column] = (
            optics.Blur.round(optics_pix) + optics.Blur.along(stretch, _angle_on(sensor, radial_deg)) + motion
        )
    seeing = math.sqrt(max(weather.fwhm_arcsec**2 - settings.fwhm_centre_arcsec**2, 0.25))
    return optics.make_psf(shape, kolmogorov_fwhm_pix=seeing / PIXEL_SCALE_ARCSEC, blurs=blurs)


def _angle_on(sensor: Sensor, field_angle_deg: float) -> float:
    """Angle on the pixels of a direction in the field's plane."""
    angle = field_angle_deg - sensor.rotation_deg
    return 180 - angle if sensor.flip else angle
