"""A subtraction finds what the emulator spoils, where and of the sign that the truth rows say."""

import dataclasses

import numpy as np
import pytest
from _tomoe_scene import GaussianPsf, image_of, scene
from astropy.io import fits

from rbsim.cause import TrueArtefacts, find_instances
from rbsim.chain import subtract_frame
from rbsim.config import SubtractConfig
from rbsim.detect import detect
from rbsim.emulate.tomoe.artefacts import all_layers, load_artefacts
from rbsim.emulate.tomoe.artefacts.expected import snr_of
from rbsim.frame import DetectorOptions, read_frame
from rbsim.reference import load_reference
from rbsim.schema import ARTEFACTS

SHAPE = (420, 520)
OPTIONS = DetectorOptions(1.0, 8.2, None, 25.0, None, None)
NONE = (
    "satellite_streak",
    "moving_object",
    "bad_column",
    "banding",
    "clouds",
    "ghost",
    "crosstalk",
    "image_edge",
)
RATES = dict.fromkeys(NONE, 0.0) | {
    "hot_pixel": 2.0,
    "flicker_pixel": 5.0,
    "cosmic_ray": 120.0,
    "satellite_glint": 6e4,
}
CODES = {kind.name: kind.code for kind in ARTEFACTS}


def star_field(rng):
    """150 stars; one in five is of another colour, brighter or fainter now than the reference says."""
    n = 150
    star_e = 10 ** rng.uniform(1.8, 4.2, n)
    colour = np.where(np.arange(n) % 5 == 0, rng.choice([-0.3, 0.3], n), 0.0)
    x, y = rng.uniform(10, SHAPE[1] - 11, n), rng.uniform(10, SHAPE[0] - 11, n)
    none = np.empty(0)
    return scene(
        shape=SHAPE,
        star_x_pix=x,
        star_y_pix=y,
        star_e=star_e,
        star_colour_mag=colour,
        star_pm_pix=np.zeros(n),
        galaxy_x_pix=none,
        galaxy_y_pix=none,
        galaxy_e=none,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Rows, detections and the instance of each, of one exposure of 17 frames against a deep reference."""
    folder, rng = tmp_path_factory.mktemp("detected"), np.random.default_rng(20)
    here = star_field(rng)
    settings = load_artefacts(RATES)
    larger = dataclasses.replace(settings.flicker_pixel, step_high_e=300.0)
    layers = all_layers(
        here,
        dataclasses.replace(settings, flicker_pixel=larger),
        sensor_rng=np.random.default_rng(1),
        rng=np.random.default_rng(2),
    )
    where = here.star_x_pix, here.star_y_pix
    light = here.background_e + here.psf.draw(SHAPE, *where, here.star_e)
    stack = rng.normal(0, 2.0 * np.sqrt(17), SHAPE)
    for frame in range(17):
        parts = [
            (layer, image_of(dataclasses.replace(layer, impacts=None), SHAPE, frame)) for layer in layers
        ]
        stack += rng.poisson(np.maximum(light + sum(part for _, part in parts), 0))
        stack += sum(
            image_of(dataclasses.replace(a, flashes=(), steady_e=None), SHAPE, frame) for a in layers
        )
    deep = GaussianPsf(fwhm_pix=2.4).draw(SHAPE, *where, here.star_e * 10 ** (0.4 * here.star_colour_mag))
    reference = 17 * (deep + here.background_e) + rng.normal(0, 3.0, SHAPE)
    for name, image in (("science", stack), ("reference", reference)):
        fits.PrimaryHDU(image.astype(np.float32)).writeto(folder / f"{name}.fits")
    frame = subtract_frame(
        read_frame(folder / "science.fits", options=OPTIONS),
        load_reference(folder / "reference.fits"),
        SubtractConfig(),
    )
    detections = detect(frame.filtered, frame.difference.bad, psf_at=frame.difference.psf_at)
    rows = [row for layer in layers for row in layer.rows]
    columns = ("x_pix", "y_pix", "strength", "length_pix", "angle_deg")
    truth = TrueArtefacts(
        np.array([CODES[row.artefact] for row in rows]),
        *(np.array([getattr(row, name) for row in rows]) for name in columns),
    )
    instance = find_instances(
        detections.x_pix,
        detections.y_pix,
        detections.is_positive,
        truth,
        fwhm_pix=frame.psf.fwhm_pix,
        snr=detections.snr,
    )
    return here, rows, detections, instance


def shares(found, name, strong):
    """Detected share of the instances for which `strong` holds and that are away from borders and stars."""
    here, rows, _, instance = found
    mine = [
        i
        for i, row in enumerate(rows)
        if row.artefact == name
        and strong(row)
        and 20 < row.x_pix < SHAPE[1] - 21
        and 20 < row.y_pix < SHAPE[0] - 21
        and (name == "colour_residual" or nearest(here, row) > 6)
    ]
    assert len(mine) >= 4, name
    return np.mean(np.isin(mine, instance))


def nearest(here, row):
    return np.hypot(here.star_x_pix - row.x_pix, here.star_y_pix - row.y_pix).min()


def test_glints_far_above_the_limit_are_found_and_those_below_rarely(found):
    here, noise = found[0], load_artefacts().noise

    def snr(row):
        # All its light is in one of 17 frames.
        return snr_of(here, noise, np.array([row.strength / 17]), np.array([row.strength / 17]))[0]

    assert shares(found, "satellite_glint", lambda row: snr(row) > 8) > 0.9
    assert shares(found, "satellite_glint", lambda row: snr(row) < 4) < 0.4


def test_cosmic_rays_and_strong_pixels_are_found(found):
    assert shares(found, "cosmic_ray", lambda row: row.strength > 700) > 0.85
    # A pixel needs about 11 sigma of its own to be 5 sigma to a filter of the PSF's shape.
    assert shares(found, "flicker_pixel", lambda row: abs(row.strength) > 250) > 0.8
    assert shares(found, "flicker_pixel", lambda row: abs(row.strength) < 150) < 0.3


def test_stars_of_another_colour_are_found_with_their_sign(found):
    _, rows, detections, instance = found
    assert shares(found, "colour_residual", lambda row: abs(row.strength) > 0.15) > 0.7
    hit = np.flatnonzero(instance >= 0)
    signed = [i for i in hit if rows[instance[i]].artefact in ("colour_residual", "flicker_pixel")]
    assert {bool(detections.is_positive[i]) for i in signed} == {True, False}
    for i in signed:
        assert detections.is_positive[i] == (rows[instance[i]].strength > 0)


def test_almost_everything_that_is_found_has_a_cause(found):
    assert np.mean(found[3] < 0) < 0.1
