"""Where a sensor looks: its WCS as the header states it, the error of that, the light that reaches it."""

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from rbsim.emulate.tomoe.settings import OpticsSettings
from rbsim.tomoe.sensors import PIXEL_SCALE_ARCSEC, Sensor, beam_efficiency, field_positions

STEP_DEG = 0.01
EFFICIENCY_STEP_PIX = 16


def sensor_wcs(sensor: Sensor, field_ra_deg: float, field_dec_deg: float, shape: tuple[int, int]) -> WCS:
    """Tangential projection of a sensor (TAN, CD matrix), around its own centre.

    The sensors lie on a sphere with the telescope's focal length as radius, so each has its own tangent
    point, the distance of its centre from the field's is an angle, and the scale is the same everywhere.

    Parameters
    ----------
    sensor : Sensor
    field_ra_deg, field_dec_deg : float
        Where the telescope points.
    shape : (ny, nx)
        Of the image, whose middle is that of the sensor.
    """
    field = WCS(naxis=2)
    field.wcs.ctype = ["RA---ARC", "DEC--ARC"]
    field.wcs.crval = [field_ra_deg, field_dec_deg]
    field.wcs.crpix = [1.0, 1.0]
    field.wcs.cdelt = [-1.0, 1.0]
    x, y = sensor.x_field_deg, sensor.y_field_deg
    (ra, dec), (ra_up, dec_up) = field.wcs_pix2world([[x, y], [x, y + STEP_DEG]], 0)
    # Angle of the field's y axis at the sensor, from north towards west: the meridians converge.
    west = -((ra_up - ra + 180) % 360 - 180) * np.cos(np.radians(dec))
    turn = np.arctan2(west, dec_up - dec)
    cos, sin = np.cos(np.radians(sensor.rotation_deg)), np.sin(np.radians(sensor.rotation_deg))
    flip = -1.0 if sensor.flip else 1.0
    to_field = np.array([[cos * flip, -sin], [sin * flip, cos]])  # pixels to (x_field, y_field)
    to_sky = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])  # to (west, north)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cd = np.diag([-1.0, 1.0]) @ to_sky @ to_field * PIXEL_SCALE_ARCSEC / 3600
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


@dataclass(frozen=True, eq=False)
class WcsError:
    """How far light falls from where the header's WCS says, in pixels; smooth over the sensor.

    Attributes
    ----------
    shape : (ny, nx)
    terms : ndarray, shape (2, 6)
        Of x and y: coefficients of 1, u^2, u v, v^2, u^3, v^3, where u and v run from -1 to 1.
    """

    shape: tuple[int, int]
    terms: np.ndarray

    def __call__(self, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Displacement at positions, of their shape."""
        ny, nx = self.shape
        u, v = 2 * np.asarray(x_pix) / (nx - 1) - 1, 2 * np.asarray(y_pix) / (ny - 1) - 1
        u, v = np.clip(u, -1.2, 1.2), np.clip(v, -1.2, 1.2)
        powers = np.stack([np.ones_like(u), u * u, u * v, v * v, u**3, v**3])
        dx, dy = np.tensordot(self.terms, powers, axes=1)
        return dx, dy


def draw_wcs_error(
    shape: tuple[int, int],
    settings: OpticsSettings,
    *,
    sensor_rng: np.random.Generator,
    rng: np.random.Generator,
) -> WcsError:
    """Draw the error of one exposure: a shift of its own, and terms that grow towards the corners.

    Half of the variance of the latter belongs to the sensor (distortion that the WCS has no terms for).

    Parameters
    ----------
    shape : (ny, nx)
    settings : OpticsSettings
    sensor_rng : numpy.random.Generator
        The same stream for every exposure of a sensor.
    rng : numpy.random.Generator
        Of the exposure.
    """
    terms = np.zeros((2, 6))
    terms[:, 0] = rng.normal(0, settings.wcs_shift_pix, 2)
    # Five terms of size 1 in a corner add up to wcs_corner_pix there.
    scale = settings.wcs_corner_pix / np.sqrt(5 * 2)
    terms[:, 1:] = scale * (sensor_rng.normal(size=(2, 5)) + rng.normal(size=(2, 5)))
    return WcsError(shape, terms)


def efficiency_map(sensor: Sensor, shape: tuple[int, int]) -> np.ndarray:
    """Share of the light at the field's centre that reaches every pixel, shape (ny, nx), float32."""
    ny, nx = shape
    # The law is nearly linear over a few pixels: evaluated on a coarse grid and interpolated.
    y = np.minimum(np.arange(0, ny + EFFICIENCY_STEP_PIX, EFFICIENCY_STEP_PIX), ny - 1)
    x = np.minimum(np.arange(0, nx + EFFICIENCY_STEP_PIX, EFFICIENCY_STEP_PIX), nx - 1)
    x_field, y_field = field_positions(sensor, *np.meshgrid(x, y), shape=shape)
    coarse = beam_efficiency(np.hypot(x_field, y_field))
    rows = np.array([np.interp(np.arange(nx), x, row) for row in coarse])
    position = np.interp(np.arange(ny), y, np.arange(len(y)))
    low = np.minimum(position.astype(int), len(y) - 2)
    share = (position - low)[:, None]
    return (rows[low] * (1 - share) + rows[low + 1] * share).astype(np.float32)
