"""Light in the reference: as if it had been there before the subtraction, in both directions."""

from dataclasses import replace

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field

from rbsim.config import SubtractConfig
from rbsim.convolve import tile_centres
from rbsim.errors import InputError
from rbsim.inject import inject, psf_of_warped
from rbsim.lights import point_lights
from rbsim.reference import psf_of, sources_of
from rbsim.schema import INJECTION_FLAG, MASK
from rbsim.significance import matched_filter
from rbsim.sources import star_radius
from rbsim.subtract import subtract

SHAPE = (300, 320)
SCALE = 0.8
"""Science ADU per reference ADU."""


@pytest.fixture(scope="module", params=["reference", "science"])
def pair(request, tmp_path_factory):
    """Science frame, its PSF, reference and difference, made by convolving one or the other."""
    folder = tmp_path_factory.mktemp("pair")
    field = make_field(shape=SHAPE, n_stars=130, flux=(3_000, 40_000))
    widths = (3.0, 2.3) if request.param == "reference" else (2.3, 3.0)
    dim = replace(field, flux_adu=field.flux_adu * SCALE)
    science = frame_of(folder, draw_field(dim, shape=SHAPE, fwhm_pix=widths[0]), "s.fits")
    bright = draw_field(field, shape=SHAPE, fwhm_pix=widths[1], gain=40.0, seed=8)
    reference = frame_of(folder, bright, "r.fits", GAIN=40.0)
    sources = sources_of(science)
    psf = psf_of(science, sources, star_radius(sources))
    difference = again(science, psf, reference, request.param)
    return science, psf, reference, difference


def again(science, psf, reference, direction):
    own = sources_of(reference)
    stars = own.select(~own.saturated & (own.snr > 30))
    config = SubtractConfig(convolve=direction)
    return subtract(science, psf, reference, psf_of_warped(reference).fwhm_pix, stars, config=config)


def lattice():
    x, y = np.meshgrid(np.arange(40.0, 285, 60), np.arange(40.0, 265, 60))
    return x.ravel(), y.ravel()


def in_reference(x, y, flux, reference_flux):
    lights = point_lights(x, y, np.full(len(x), float(flux)))
    return replace(lights, reference_flux_adu=np.full(len(x), float(reference_flux)))


def fluxes(difference, x, y):
    bad = difference.bad
    variance = np.where(bad, np.inf, difference.variance)
    filtered = matched_filter(np.where(bad, np.nan, difference.image), variance, difference.psf_at)
    at = np.rint(y).astype(int), np.rint(x).astype(int)
    return filtered.flux_adu[at], (filtered.flux_err_adu * difference.noise_factor)[at]


def test_a_star_of_the_same_flux_in_both_frames_vanishes(pair):
    science, psf, reference, difference = pair
    x, y = lattice()
    before, _ = fluxes(difference, x, y)
    out = inject(
        science,
        psf,
        difference,
        in_reference(x, y, 5000, 5000),
        reference=reference,
        rng=np.random.default_rng(1),
    )
    assert out.reference is not None
    added = np.nansum(out.reference.image - reference.image)
    assert added == pytest.approx(5000 * len(x) / SCALE, rel=0.02)
    after, error = fluxes(out.difference, x, y)
    off = (after - before) / error
    assert np.mean(after - before) == pytest.approx(0, abs=0.01 * 5000)
    assert np.std(off) < 1.3  # photon noise of the two stars is new, and in the variance
    only = inject(science, psf, difference, in_reference(x, y, 5000, 0), rng=np.random.default_rng(1))
    assert np.mean(fluxes(only.difference, x, y)[0] - before) == pytest.approx(5000, rel=0.03)


def test_light_in_the_reference_is_what_a_new_subtraction_finds(pair):
    science, psf, reference, difference = pair
    x, y = lattice()
    out = inject(
        science,
        psf,
        difference,
        in_reference(x, y, 0, 2500),
        reference=reference,
        rng=np.random.default_rng(2),
    )
    assert out.science.image.tobytes() == science.image.tobytes()
    before, _ = fluxes(difference, x, y)
    predicted, error = fluxes(out.difference, x, y)
    np.testing.assert_allclose((predicted - before).mean(), -2500, rtol=0.03)
    rerun, _ = fluxes(again(science, psf, out.reference, difference.convolved), x, y)
    # Kernel and background of the new subtraction have seen the stars; their share is what linearity leaves.
    assert np.quantile(np.abs(rerun - predicted) / error, 0.9) < 1
    assert abs(np.mean(rerun - predicted)) < 0.02 * 2500
    finite = np.isfinite(difference.variance)
    assert out.difference.variance[finite].sum() > difference.variance[finite].sum()
    assert ((out.difference.mask & MASK["INJECTED"]) != 0).any()


def test_pixels_are_those_of_the_same_kernel_applied_again(pair):
    science, psf, reference, difference = pair
    tiles_x, tiles_y = tile_centres(SHAPE)
    x, y = np.rint(tiles_x[4:5]), np.rint(tiles_y[4:5])
    out = inject(
        science,
        psf,
        difference,
        in_reference(x, y, 0, 9000),
        reference=reference,
        rng=np.random.default_rng(3),
    )
    change = (out.difference.image - difference.image).astype(float)
    light = np.nan_to_num(out.reference.image - reference.image).astype(float)
    if difference.convolved == "science":
        expected = -light / difference.kernel_sum
    else:
        kernel = difference.kernel_at(tiles_x[4:5], tiles_y[4:5])[0]
        half = len(kernel) // 2
        wide = np.pad(light, half)
        expected = -sum(
            kernel[j, i]
            * wide[2 * half - j : 2 * half - j + SHAPE[0], 2 * half - i : 2 * half - i + SHAPE[1]]
            for j in range(len(kernel))
            for i in range(len(kernel))
        )
    box = np.s_[int(y[0]) - 12 : int(y[0]) + 13, int(x[0]) - 12 : int(x[0]) + 13]
    assert np.nanmax(np.abs(change - expected)[box]) < 1e-5 * np.abs(expected).max()


def test_a_star_that_was_brighter_before_fades_in_the_reference(pair):
    science, psf, reference, difference = pair
    own = sources_of(reference)
    keep = (
        (own.flux_adu > 20_000) & (own.x_pix > 30) & (own.x_pix < 290) & (own.y_pix > 30) & (own.y_pix < 270)
    )
    x, y = own.x_pix[keep][:8], own.y_pix[keep][:8]
    out = inject(
        science,
        psf,
        difference,
        in_reference(x, y, 0, -4000),
        reference=reference,
        rng=np.random.default_rng(4),
    )
    gain = fluxes(out.difference, x, y)[0] - fluxes(difference, x, y)[0]
    assert np.median(gain) == pytest.approx(4000, rel=0.05)
    assert (out.flag == 0).all()
    assert (out.reference.variance > 0).all()


def test_a_reference_that_is_missing_or_has_no_psf_is_said(pair):
    science, psf, reference, difference = pair
    x, y = (values[:2] for values in lattice())
    with pytest.raises(InputError, match="give inject the reference frame"):
        inject(science, psf, difference, in_reference(x, y, 0, 100), rng=np.random.default_rng(5))
    empty = replace(reference, image=np.random.default_rng(6).normal(0, 1, SHAPE).astype(np.float32))
    lights = in_reference(x, y, 300, 100)
    lights.reference_flux_adu[0] = 0
    out = inject(science, psf, difference, lights, reference=empty, rng=np.random.default_rng(5))
    assert list(out.flag) == [0, INJECTION_FLAG["PSF_COMPUTE_ERROR"]]
    assert list(out.drawn) == [True, False]


def test_a_reference_without_gain_gets_light_without_noise(pair):
    science, psf, reference, difference = pair
    x, y = lattice()
    blind = replace(reference, detector=replace(reference.detector, gain_e_per_adu=float("nan")))
    out = inject(
        science, psf, difference, in_reference(x, y, 0, 100), reference=blind, rng=np.random.default_rng(7)
    )
    scale = difference.flux_scale_at(x, y)
    assert np.nansum(out.reference.image - reference.image) == pytest.approx((100 / scale).sum(), rel=1e-3)
    np.testing.assert_allclose(out.reference.variance, reference.variance, rtol=1e-4)
