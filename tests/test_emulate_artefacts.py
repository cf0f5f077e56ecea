"""Emulated artefacts are where their truth rows say, and reach the frame."""

import dataclasses

import numpy as np
import pytest
from _emulated import CAMERA, FLAT_PSF, NO_ARTEFACTS, SEED, TINY, without_sources

from rbsim.emulate import artefacts, exposure, optics


@pytest.mark.parametrize(
    "name", ["hot_pixel", "flicker_pixel", "cosmic_ray", "bad_column", "satellite_streak"]
)
def test_charge_is_where_the_truth_rows_say(name):
    shape, config = (300, 320), dataclasses.replace(TINY.artefacts, streak_probability=1.0)
    own, fixed = np.random.default_rng(5), np.random.default_rng(6)
    layer = {
        "hot_pixel": lambda: artefacts.hot_pixels(shape, config=config, rng=fixed),
        "flicker_pixel": lambda: artefacts.flicker_pixels(shape, config=config, detector_rng=fixed, rng=own),
        "cosmic_ray": lambda: artefacts.cosmic_rays(shape, config=config, rng=own),
        "bad_column": lambda: artefacts.bad_columns(shape, config=config, detector_rng=fixed, rng=own),
        "satellite_streak": lambda: artefacts.satellite_streak(shape, fwhm_pix=3.0, config=config, rng=own),
    }[name]()
    assert {row.artefact for row in layer.rows} == {name}
    noise_e = np.sqrt(CAMERA.sky_e(TINY.optics.pixel_scale_arcsec))
    for row in layer.rows:
        x, y = round(row.x_pix), round(row.y_pix)
        near = layer.electrons[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
        assert np.abs(near).max() > noise_e / 2
        assert near.flat[np.abs(near).argmax()] * row.strength > 0
    far = np.ones(shape, bool)
    for row in layer.rows:
        y0, y1 = (0, 300) if name == "bad_column" else (max(round(row.y_pix) - 8, 0), round(row.y_pix) + 9)
        far[y0:y1, max(round(row.x_pix) - 8, 0) : round(row.x_pix) + 9] = False
    if name != "satellite_streak":
        np.testing.assert_allclose(layer.electrons[far], 0, atol=1e-6)
        inside = [r for r in layer.rows if 8 < r.x_pix < 311 and 8 < r.y_pix < 291]
        if name != "bad_column" and len(inside) == len(layer.rows):
            assert layer.electrons.sum() == pytest.approx(sum(r.strength for r in layer.rows), rel=0.01)


def test_hot_pixels_reach_the_frame_and_stay_on_the_detector():
    night = dataclasses.replace(
        TINY, artefacts=dataclasses.replace(NO_ARTEFACTS, hot_per_mpix=200.0, crosstalk_most=0.0)
    )
    empty = without_sources(exposure.make_sky(TINY, seed=SEED))
    frames = [exposure.emulate_frame(night, empty, index, seed=SEED) for index in (0, 1)]
    assert [r.x_pix for r in frames[0].artefacts] == [r.x_pix for r in frames[1].artefacts]
    for frame in frames:
        background = np.median(frame.image)
        for row in frame.artefacts:
            expected = min(background + row.strength / CAMERA.gain_e_per_adu, CAMERA.well_adu)
            sigma = np.sqrt(expected / CAMERA.gain_e_per_adu)
            assert frame.image[int(row.y_pix), int(row.x_pix)] == pytest.approx(expected, abs=5 * sigma + 20)


@pytest.mark.parametrize("fwhm_pix", [2.6, 3.0, 3.5])
def test_a_moved_star_leaves_the_lobes_that_the_rows_are_chosen_by(fwhm_pix):
    shift, flux = 0.3, 1e5
    psf = dataclasses.replace(FLAT_PSF, fwhm_pix=fwhm_pix, shear=(0.0, 0.0))
    here, there = (
        optics.draw_points_exactly(
            (121, 141), np.array([70 + d]), np.array([60.0]), np.array([flux]), psf=psf
        )
        for d in (0, shift)
    )
    kernel = optics.unit_stamp(psf, 70.0, 60.0, half_pix=12)
    windows = np.lib.stride_tricks.sliding_window_view(there - here, kernel.shape)
    filtered = np.einsum("yxij,ij->yx", windows, kernel) / np.sum(kernel**2)
    lobe = artefacts.LOBE * shift / (fwhm_pix / 2.355) * flux
    assert filtered.max() == pytest.approx(lobe, rel=0.1)


def test_star_residuals_lists_stars_that_have_changed_and_no_others():
    stars = {
        "flux_e": np.array([1e4, 1e4, 1e4, 50.0, 1e4]),
        "flux_ratio": np.array([1.2, 1.0, 1.0, 1.2, 1.2]),
        "shift_pix": np.array([0.0, 0.5, 0.0, 0.5, 0.5]),
    }
    x, y = np.array([10.0, 20.0, 30.0, 40.0, -5.0]), np.full(5, 50.0)
    rows = artefacts.star_residuals(
        (100, 100), x, y, **stars, fwhm_pix=3.0, noise_e=80.0, config=TINY.artefacts
    )
    assert [(row.artefact, row.x_pix) for row in rows] == [("colour_residual", 10.0), ("dipole", 20.0)]
    assert [row.strength for row in rows] == pytest.approx([0.2, 0.5])


def test_holes_of_the_reference_are_where_the_truth_rows_say():
    image = 100 + np.random.default_rng(7).normal(size=(200, 220)).astype(np.float32)
    image[50, 60] = np.nan
    star = np.array([150.0]), np.array([120.0])
    holed, rows = artefacts.mask_in_reference(
        image, *star, config=TINY.artefacts, rng=np.random.default_rng(8)
    )
    assert np.isnan(holed[49:52, 59:62]).all()
    assert (rows[0].x_pix, rows[0].y_pix) == (60, 50)
    assert len(rows) == 1 + TINY.artefacts.dead_areas
    changed = ~((holed == image) | (np.isnan(holed) & np.isnan(image)))
    assert 0 < changed.sum() <= sum(abs(row.strength) for row in rows)
    assert {row.strength > 0 for row in rows} == {True, False}
    for row in rows:
        assert changed[max(round(row.y_pix) - 1, 0) : round(row.y_pix) + 2, round(row.x_pix) - 1 :][
            :, :3
        ].any()
