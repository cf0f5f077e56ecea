"""One exposure of one sensor: light from the sky to the pixels, with its truth."""

import dataclasses
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from astropy.wcs import WCS

from rbsim import seeding
from rbsim.emulate.tomoe import detector, optics, parts, pointing, transients
from rbsim.emulate.tomoe.products import START_UTC, ExposureName, field_name
from rbsim.emulate.tomoe.scene import Flash, Layer, Row, Scene
from rbsim.emulate.tomoe.settings import NightSettings
from rbsim.emulate.tomoe.sky import Sky, draw_sky
from rbsim.emulate.tomoe.weather import Weather, draw_weather
from rbsim.tomoe.sensors import PIXEL_SCALE_ARCSEC, SHAPE_PIX, Sensor, field_positions

PS1_EPOCH_YR = 2012.5
MARGIN_PIX = 60.0
"""Sky beyond the sensor and its dithers, for the wings of stars outside."""
N_DITHERS = 5
FAINT_E = 20.0
"""Stars below this many electrons per frame are drawn together on a grid."""
MIN_SNR_LISTED = 2.0
"""Fainter transients are drawn, but not listed: what is found at their places was not them."""
SNR_HALF_PIX = 12
FLARE_MEMORY_S = 600.0
FIRST_EXPOSURE_ID = 860_262
EPOCH_SPACING_DAYS = 20


@dataclass(frozen=True)
class Visit:
    """Which exposure: of the night itself, or the only one of an earlier night.

    Attributes
    ----------
    index : int
        Exposure from 0, or number of the earlier night.
    is_epoch : bool
        An earlier night, which has none of the night's transients.
    """

    index: int
    is_epoch: bool = False

    @property
    def key(self) -> int:
        """A different number for every visit."""
        return 2 * self.index + self.is_epoch


@dataclass(frozen=True, eq=False)
class SensorNight:
    """What all exposures of a sensor share.

    Attributes
    ----------
    settings : NightSettings
    seed : int
    sensor : Sensor
    shape : (ny, nx)
    field_ra_deg, field_dec_deg : float
        Pointing of the telescope without dither.
    wcs : WCS
        Of the sensor without dither and without error.
    sky : Sky
    chip : detector.Chip
    slow : transients.Slow
        Of the night.
    """

    settings: NightSettings
    seed: int
    sensor: Sensor
    shape: tuple[int, int]
    field_ra_deg: float
    field_dec_deg: float
    wcs: WCS
    sky: Sky
    chip: detector.Chip
    slow: transients.Slow

    def rng(self, part: str, *key: int) -> np.random.Generator:
        """Stream of a part of this sensor."""
        return _stream(self.seed, part, self.sensor.det_id, *key)


@dataclass(frozen=True, eq=False)
class Exposure:
    """An emulated exposure.

    Attributes
    ----------
    name : ExposureName
    wcs : WCS
        As the header states it.
    weather : Weather
    pointing : (ra_deg, dec_deg)
        Of the telescope, dither included.
    stack : ndarray, shape (ny, nx), float32
        Calibrated ADU per frame.
    cube : ndarray, shape (n, ny, nx), or None
        Frames, the first of which is not in the stack.
    transients : list of dict
        Truth rows with the keys of `rbsim.emulate.night.TRUTH_UNITS`, without ``frame``.
    artefacts : list of Row
        `Row.frame` counts the frames of the stack.
    """

    name: ExposureName
    wcs: WCS
    weather: Weather
    pointing: tuple[float, float]
    stack: np.ndarray
    cube: np.ndarray | None
    transients: list[dict[str, Any]]
    artefacts: list[Row]


def _stream(seed: int, part: str, *key: int) -> np.random.Generator:
    return seeding.stream(seed, "emulate", seeding.key_of_name(f"tomoe {part}"), *key)


def field_centre(settings: NightSettings) -> tuple[float, float]:
    """Right ascension and declination of the field, in degrees."""
    from astropy.coordinates import SkyCoord

    condition = settings.condition
    place = SkyCoord(
        l=condition.galactic_longitude_deg, b=condition.galactic_latitude_deg, unit="deg", frame="galactic"
    ).icrs
    return float(place.ra.deg), float(place.dec.deg)


def make_sensor_night(
    settings: NightSettings, sensor: Sensor, *, seed: int, shape: tuple[int, int] = SHAPE_PIX
) -> SensorNight:
    """Draw all that the exposures of a sensor share.

    Parameters
    ----------
    settings : NightSettings
    sensor : Sensor
    seed : int
    shape : (ny, nx), optional
        Less than the whole sensor, around its middle, as of a partial readout.
    """
    ra, dec = field_centre(settings)
    wcs = pointing.sensor_wcs(sensor, ra, dec, shape)
    dither_pix = settings.mode.dither_arcsec / PIXEL_SCALE_ARCSEC
    sky = draw_sky(
        wcs,
        shape,
        1.5 * dither_pix + MARGIN_PIX,
        settings=settings.sky,
        condition=settings.condition,
        rng=_stream(seed, "sky", sensor.det_id),
    )
    return SensorNight(
        settings=settings,
        seed=seed,
        sensor=sensor,
        shape=shape,
        field_ra_deg=ra,
        field_dec_deg=dec,
        wcs=wcs,
        sky=sky,
        chip=detector.make_chip(
            settings.camera,
            pointing.efficiency_map(sensor, shape),
            rng=_stream(seed, "chip", sensor.det_id),
        ),
        slow=transients.draw_slow(
            sky, wcs, shape, settings, rng=_stream(seed, "transients", sensor.det_id)
        ),
    )


def weather_of(settings: NightSettings, visit: Visit, *, seed: int) -> Weather:
    """Weather of a visit, the same for all sensors."""
    n, night = (1, visit.index + 1) if visit.is_epoch else (visit.index + 1, 0)
    return draw_weather(settings.condition, n, rng=_stream(seed, "weather", night))[-1]


def dither_of(settings: NightSettings, visit: Visit, *, seed: int) -> tuple[int, float, float]:
    """Number of the dither, and its offsets east and north in arcsec."""
    if not settings.mode.dither_arcsec:
        return 1, 0.0, 0.0
    number = visit.index % N_DITHERS
    east, north = _stream(seed, "dither", number).uniform(-1, 1, 2) * settings.mode.dither_arcsec
    return number + 1, float(east), float(north)


def name_of(night: SensorNight, visit: Visit) -> ExposureName:
    """Name of a visit's files; known before it is emulated."""
    number, _, _ = dither_of(night.settings, visit, seed=night.seed)
    field = field_name(night.field_ra_deg, night.field_dec_deg)
    return ExposureName(
        sensor=night.sensor,
        exposure_id=FIRST_EXPOSURE_ID + (-1000 - visit.index if visit.is_epoch else visit.index),
        start=start_of(night.settings, visit),
        object=f"{field}_dith{number}",
    )


def start_of(settings: NightSettings, visit: Visit) -> datetime:
    """Start of the first pixel, UTC."""
    if visit.is_epoch:
        return START_UTC - timedelta(days=EPOCH_SPACING_DAYS * (visit.index + 1))
    return START_UTC + timedelta(seconds=settings.mode.interval_s * visit.index)


def emulate_exposure(night: SensorNight, visit: Visit, *, with_cube: bool = False) -> Exposure:
    """Emulate one exposure; the same whatever else is made before, after or elsewhere.

    Parameters
    ----------
    night : SensorNight
    visit : Visit
    with_cube : bool
        Draw every frame; the stack is then their mean, and has other noise than without.
    """
    settings, mode, camera = night.settings, night.settings.mode, night.settings.camera
    weather = weather_of(settings, visit, seed=night.seed)
    _, east, north = dither_of(settings, visit, seed=night.seed)
    dec = night.field_dec_deg + north / 3600
    ra = night.field_ra_deg + east / 3600 / math.cos(math.radians(dec))
    wcs = pointing.sensor_wcs(night.sensor, ra, dec, night.shape)
    error = pointing.draw_wcs_error(
        night.shape,
        settings.optics,
        sensor_rng=night.rng("distortion"),
        rng=night.rng("wcs error", visit.key),
    )
    psf = psf_of(night, weather)
    # Through the clouds at the field's centre; vignetting comes later.
    zero_point = camera.zero_point_e_per_s_mag + 2.5 * math.log10(mode.exposure1_s) - weather.extinction_mag
    view = _View(night, wcs, error, psf, zero_point)

    star_x, star_y = view.to_pix(night.sky.stars.ra_deg, night.sky.stars.dec_deg)
    star_e = view.electrons(night.sky.stars.mag)
    sources = _draw_steady(view, star_x, star_y, star_e)
    background = _background(night, weather, zero_point + weather.extinction_mag)
    dark_e = camera.dark_e_per_s_at(weather.temperature_k) * mode.frame_s
    scene = _scene(view, weather, star_x, star_y, star_e, float(np.median(background)) + dark_e)
    layers = parts.artefact_layers(
        scene,
        settings.condition.artefact_rates,
        sensor_rng=night.rng("artefacts of sensor"),
        rng=night.rng("artefacts", visit.key),
    )
    start_s = (start_of(settings, visit) - START_UTC).total_seconds()
    lights = transients.lights_at(
        None if visit.is_epoch else night.slow,
        {} if visit.is_epoch else _flares(night, visit),
        night.sky,
        start_s + (np.arange(mode.n_stacked) + 1.5) * mode.frame_s,  # the first one is not stacked
        star_delay_s=np.clip(star_y, 0, night.shape[0]) * camera.line_s,
    )
    through = night.chip.efficiency * _transparency(layers)
    light_x, light_y, light_e = view.lights(lights)
    constant = light_e.min(axis=1, keepdims=True) / mode.n_stacked
    everywhere = np.broadcast_to(constant, light_e.shape)
    sources += psf.draw(night.shape, light_x.ravel(), light_y.ravel(), everywhere.ravel())
    steady = sources * through + background
    for layer in layers:
        if layer.steady_e is not None:
            steady += layer.steady_e
    flashes = _flashes(view, light_x, light_y, light_e, through)
    rows = _truth_rows(view, lights, light_x, light_y, light_e, through, steady + dark_e)
    light = detector.Light(
        steady_e=steady,
        flashes=[*flashes, *(flash for layer in layers for flash in layer.flashes)],
        impacts=[layer.impacts for layer in layers if layer.impacts is not None],
        dark_e=dark_e,
        dark_frame_e=camera.dark_e_per_s_at(weather.temperature_k - settings.condition.dark_frame_offset_k)
        * mode.frame_s,
    )
    rng = night.rng("noise", visit.key)
    if with_cube:
        cube = detector.expose_frames(night.chip, _one_later(light), mode.n_taken, rng=rng)
        stack = cube[1:].mean(axis=0, dtype=np.float32)
    else:
        cube, stack = None, detector.expose_mean(night.chip, light, mode.n_stacked, rng=rng)
    return Exposure(
        name=name_of(night, visit),
        wcs=wcs,
        weather=weather,
        pointing=(ra, dec),
        stack=stack,
        cube=cube,
        transients=rows,
        artefacts=[row for layer in layers for row in layer.rows],
    )


@dataclass(frozen=True, eq=False)
class _View:
    """How the sky maps to pixels and electrons per frame in one exposure."""

    night: SensorNight
    wcs: WCS
    error: pointing.WcsError
    psf: optics.PsfField
    zero_point: float

    def to_pix(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.wcs.wcs_world2pix(np.ravel(ra_deg), np.ravel(dec_deg), 0)
        dx, dy = self.error(x, y)
        return (x + dx).reshape(np.shape(ra_deg)), (y + dy).reshape(np.shape(ra_deg))

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
        share = float(np.hypot(field_x, field_y) / 4.5) ** 2
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


def _draw_steady(view: _View, star_x: np.ndarray, star_y: np.ndarray, star_e: np.ndarray) -> np.ndarray:
    """Stars and galaxies, expected electrons per frame before vignetting."""
    night, glow = view.night, view.night.sky.glow
    is_faint = star_e < FAINT_E
    image = view.psf.draw(night.shape, star_x[~is_faint], star_y[~is_faint], star_e[~is_faint])
    glow_x, glow_y = view.to_pix(glow.ra_deg, glow.dec_deg)
    glow_e = view.electrons(night.sky.galaxies.mag)[glow.galaxy] * glow.share
    image += view.psf.draw_diffuse(
        night.shape,
        np.concatenate([star_x[is_faint], glow_x]),
        np.concatenate([star_y[is_faint], glow_y]),
        np.concatenate([star_e[is_faint], glow_e]),
    )
    # The deconvolved grid may undershoot by a hair.
    return np.maximum(image, 0)


def _background(night: SensorNight, weather: Weather, clear_zero_point: float) -> np.ndarray:
    """Sky electrons per pixel and frame, vignetted; clouds do not dim it."""
    ny, nx = night.shape
    mag = weather.sky_mag_per_arcsec2 - 5 * math.log10(PIXEL_SCALE_ARCSEC)
    sky_e = 10 ** (-0.4 * (mag - clear_zero_point))
    slope_x, slope_y = weather.sky_slope
    tilt = (slope_y * np.linspace(-1, 1, ny))[:, None] + slope_x * np.linspace(-1, 1, nx)
    return np.asarray(sky_e * (1 + tilt) * night.chip.efficiency)


def _scene(
    view: _View,
    weather: Weather,
    star_x: np.ndarray,
    star_y: np.ndarray,
    star_e: np.ndarray,
    background_e: float,
) -> Scene:
    night, stars, galaxies = view.night, view.night.sky.stars, view.night.sky.galaxies
    mode, efficiency = night.settings.mode, night.chip.efficiency
    galaxy_x, galaxy_y = view.to_pix(galaxies.ra_deg, galaxies.dec_deg)
    years = START_UTC.year - PS1_EPOCH_YR
    moved = np.hypot(stars.pm_ra_mas_per_yr, stars.pm_dec_mas_per_yr) * years / 1000 / PIXEL_SCALE_ARCSEC
    return Scene(
        shape=night.shape,
        n_frames=mode.n_stacked,
        frame_s=mode.frame_s,
        line_s=night.settings.camera.line_s,
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
        zero_point_e_mag=view.zero_point + 2.5 * math.log10(night.chip.efficiency_middle),
        background_e=background_e,
        psf=view.psf,
        star_x_pix=star_x,
        star_y_pix=star_y,
        star_e=star_e * view.at(efficiency, star_x, star_y),
        star_colour_mag=stars.colour_mag,
        star_pm_pix=moved,
        galaxy_x_pix=galaxy_x,
        galaxy_y_pix=galaxy_y,
        galaxy_e=view.electrons(galaxies.mag) * view.at(efficiency, galaxy_x, galaxy_y),
        temperature_k=weather.temperature_k,
    )


def _transparency(layers: list[Layer]) -> np.ndarray | float:
    factors = [layer.transparency for layer in layers if layer.transparency is not None]
    return np.prod(factors, axis=0) if factors else 1.0


def _flares(night: SensorNight, visit: Visit) -> dict[int, transients.Flares]:
    """Flares of this exposure, and of those before that may still glow."""
    mode = night.settings.mode
    first = max(0, visit.index - int(FLARE_MEMORY_S / mode.interval_s))
    return {
        index: transients.draw_flares(
            night.sky,
            night.wcs,
            night.shape,
            night.settings,
            mode.interval_s * index,
            rng=night.rng("flares", index),
        )
        for index in range(first, visit.index + 1)
    }


def _flashes(
    view: _View, x_pix: np.ndarray, y_pix: np.ndarray, light_e: np.ndarray, through: np.ndarray
) -> list[Flash]:
    """What changes from frame to frame, beyond what all frames have."""
    extra_e = light_e - light_e.min(axis=1, keepdims=True)
    half = optics.CORE_HALF_PIX
    flashes = []
    for i, frame in np.argwhere(extra_e > optics.FAINTEST_DRAWN_E):
        x, y = float(x_pix[i, frame]), float(y_pix[i, frame])
        electrons = view.psf.stamp(x, y, half_pix=half) * extra_e[i, frame]
        electrons *= float(view.at(through, np.array(x), np.array(y)))
        box = math.floor(y + 0.5) - half, math.floor(x + 0.5) - half
        flashes.append(Flash(int(frame), *box, electrons))
    return flashes


def _one_later(light: detector.Light) -> detector.Light:
    """Frames counted from the first one of the cube, which the stack lacks."""
    return dataclasses.replace(
        light,
        flashes=[dataclasses.replace(flash, frame=flash.frame + 1) for flash in light.flashes],
        impacts=[
            dataclasses.replace(some, frame=np.where(some.frame < 0, some.frame, some.frame + 1))
            for some in light.impacts
        ],
    )


def _truth_rows(
    view: _View,
    lights: transients.Lights,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    light_e: np.ndarray,
    through: np.ndarray,
    expected_e: np.ndarray,
) -> list[dict[str, Any]]:
    """Truth of the transients; S/N of the stack from the local variance of what is expected."""
    night, n_frames = view.night, light_e.shape[1]
    half = SNR_HALF_PIX
    variance = n_frames * (expected_e + night.settings.camera.read_noise_e**2)
    padded = np.pad(variance, half, constant_values=np.inf)
    rows: list[dict[str, Any]] = []
    for i in range(len(lights.number)):
        x, y = float(x_pix[i].mean()), float(y_pix[i].mean())
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        if not (0 <= column < night.shape[1] and 0 <= row < night.shape[0]):
            continue
        flux_e = float(light_e[i].sum() * through[row, column])
        local = padded[row : row + 2 * half + 1, column : column + 2 * half + 1]
        snr = flux_e * math.sqrt(float(np.sum(view.psf.stamp(x, y, half_pix=half) ** 2 / local)))
        if snr < MIN_SNR_LISTED:
            continue
        offset = float(lights.host_offset_arcsec[i]) / PIXEL_SCALE_ARCSEC
        rows.append(
            {
                "kind": str(lights.kind[i]),
                "transient_id": int(lights.number[i]),
                "x_pix": x,
                "y_pix": y,
                "ra_deg": float(lights.ra_deg[i].mean()),
                "dec_deg": float(lights.dec_deg[i].mean()),
                "mag": -2.5 * math.log10(float(lights.relative[i].mean())),
                "flux_e": flux_e,
                "snr_expected": snr,
                "host_offset_pix": offset,
            }
        )
    return rows
