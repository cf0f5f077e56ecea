"""One exposure of one sensor: light from the sky to the pixels, with its truth."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS

from rbsim.emulate.tomoe import artefacts, detector, optics, pointing, transients
from rbsim.emulate.tomoe.products import START_UTC, ExposureName
from rbsim.emulate.tomoe.scene import Flash, Layer, Row, Scene
from rbsim.emulate.tomoe.sensor_night import (
    SensorNight,
    Visit,
    dither_of,
    name_of,
    start_of,
    weather_of,
)
from rbsim.emulate.tomoe.truth import trail_rows, truth_rows
from rbsim.emulate.tomoe.view import View, psf_of
from rbsim.emulate.tomoe.weather import Weather
from rbsim.tomoe.sensors import PIXEL_SCALE_ARCSEC

PS1_EPOCH_YR = 2012.5
FAINT_E = 20.0
"""Stars below this many electrons per frame are drawn together on a grid."""
FLARE_MEMORY_S = 600.0


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
        Truth rows with the keys of `rbsim.emulate.tomoe.truth.TRUTH_COLUMNS`, without ``frame``.
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
    view = View(night, wcs, error, psf, zero_point)

    star_x, star_y = view.to_pix(night.sky.stars.ra_deg, night.sky.stars.dec_deg)
    star_e = view.electrons(night.sky.stars.mag)
    sources = _draw_steady(view, star_x, star_y, star_e)
    background = _background(night, weather, zero_point + weather.extinction_mag)
    dark_e = camera.dark_e_per_s_at(weather.temperature_k) * mode.frame_s
    start_s = (start_of(settings, visit) - START_UTC).total_seconds()
    lights = transients.lights_at(
        None if visit.is_epoch else night.slow,
        {} if visit.is_epoch else _flares(night, visit),
        night.sky,
        start_s + (np.arange(mode.n_stacked) + 1.5) * mode.frame_s,  # the first one is not stacked
        star_delay_s=np.clip(star_y, 0, night.shape[0]) * camera.line_s,
    )
    light_x, light_y, light_e = view.lights(lights)
    layers = artefacts.all_layers(
        _scene(
            view,
            weather,
            star_x,
            star_y,
            star_e,
            _changes(lights, light_e, night),
            background_e=float(np.median(background)) + dark_e,
        ),
        artefacts.load_artefacts(settings.condition.artefact_rates),
        sensor_rng=night.rng("artefacts of sensor"),
        rng=night.rng("artefacts", visit.key),
    )
    through = night.chip.efficiency * _transparency(layers)
    constant = light_e.min(axis=1, keepdims=True) / mode.n_stacked
    everywhere = np.broadcast_to(constant, light_e.shape)
    sources += psf.draw(night.shape, light_x.ravel(), light_y.ravel(), everywhere.ravel())
    steady = sources * through + background
    for layer in layers:
        if layer.steady_e is not None:
            steady += layer.steady_e
    flashes = _flashes(view, light_x, light_y, light_e, through)
    rows = truth_rows(view, lights, light_x, light_y, light_e, through, steady + dark_e)
    rows += trail_rows(view, layers, through, steady + dark_e, exposure=visit.index)
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


def _draw_steady(view: View, star_x: np.ndarray, star_y: np.ndarray, star_e: np.ndarray) -> np.ndarray:
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
    view: View,
    weather: Weather,
    star_x: np.ndarray,
    star_y: np.ndarray,
    star_e: np.ndarray,
    star_change_e: np.ndarray,
    *,
    background_e: float,
) -> Scene:
    night, stars, galaxies = view.night, view.night.sky.stars, view.night.sky.galaxies
    mode, efficiency = night.settings.mode, night.chip.efficiency
    galaxy_x, galaxy_y = view.to_pix(galaxies.ra_deg, galaxies.dec_deg)
    years = START_UTC.year - PS1_EPOCH_YR
    arrives = view.at(efficiency, star_x, star_y)
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
        star_e=star_e * arrives,
        star_colour_mag=stars.colour_mag,
        star_pm_pix=moved,
        galaxy_x_pix=galaxy_x,
        galaxy_y_pix=galaxy_y,
        galaxy_e=view.electrons(galaxies.mag) * view.at(efficiency, galaxy_x, galaxy_y),
        galaxy_colour_mag=galaxies.colour_mag,
        temperature_k=weather.temperature_k,
        throughput=efficiency / night.chip.efficiency_middle,
        star_change_e=star_change_e * arrives,
    )


def _changes(lights: transients.Lights, light_e: np.ndarray, night: SensorNight) -> np.ndarray:
    """By how much every star is brighter than its mean, electrons per frame before vignetting."""
    change_e = np.zeros(len(night.sky.stars.mag))
    change_e[night.sky.variables.star] = light_e[lights.kind == "variable"].mean(axis=1)
    return change_e


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
    view: View, x_pix: np.ndarray, y_pix: np.ndarray, light_e: np.ndarray, through: np.ndarray
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
