"""Registration recovers known maps; resampling keeps flux and never invents pixels."""

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field

from rbsim.errors import InputError
from rbsim.reference import sources_of
from rbsim.register import fit_transform, register
from rbsim.resample import resample
from rbsim.schema import MASK


def identity(shape, dx=0.0, dy=0.0, angle=0.0):
    ny, nx = shape
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, nx, 50), rng.uniform(0, ny, 50)
    to_x = np.cos(angle) * x - np.sin(angle) * y + dx
    to_y = np.sin(angle) * x + np.cos(angle) * y + dy
    return fit_transform(x, y, to_x, to_y, shape, 1)


def test_shift_is_found_by_star_patterns(tmp_path):
    field = make_field(n_stars=80)
    a = frame_of(tmp_path, draw_field(field), "a.fits")
    b = frame_of(tmp_path, draw_field(field, shift=(17.3, -9.6), seed=9), "b.fits")
    transform = register(sources_of(a), None, a.shape, sources_of(b), None)
    x, y = transform.apply(np.array([100.0]), np.array([150.0]))
    assert (x[0], y[0]) == (pytest.approx(117.3, abs=0.05), pytest.approx(140.4, abs=0.05))
    assert transform.rms_pix < 0.1


def test_another_field_is_refused(tmp_path):
    a = frame_of(tmp_path, draw_field(make_field(seed=1)), "a.fits")
    b = frame_of(tmp_path, draw_field(make_field(seed=99)), "b.fits")
    with pytest.raises(InputError, match=r"star pattern|in common|residual"):
        register(sources_of(a), None, a.shape, sources_of(b), None)


def test_inverse_undoes_the_map():
    transform = identity((256, 300), dx=12.0, dy=-7.0, angle=0.02)
    x, y = np.array([3.0, 290.0]), np.array([250.0, 10.0])
    back_x, back_y = transform.invert(*transform.apply(x, y))
    np.testing.assert_allclose([back_x, back_y], [x, y], atol=1e-9)


def test_resampling_keeps_flux_and_variance():
    field = make_field(n_stars=1, flux=(10_000, 10_001))
    field = type(field)(np.array([150.0]), np.array([120.0]), field.flux_adu)
    image = draw_field(field, sky_adu=0.0, gain=1e6)
    transform = identity(image.shape, dx=5.37, dy=-3.21, angle=0.01)
    variance = np.full_like(image, 4.0)
    warped, warped_variance, _ = resample(image, variance, np.zeros(image.shape, np.uint8), transform)
    assert np.nansum(warped) == pytest.approx(image.sum(), rel=2e-3)
    np.testing.assert_allclose(warped_variance[np.isfinite(warped)], 4.0, rtol=1e-5)


def test_identity_keeps_pixels_and_edges_are_marked():
    image = draw_field(make_field())
    transform = identity(image.shape)
    warped, _, mask = resample(image, image, np.zeros(image.shape, np.uint8), transform)
    inner = np.isfinite(warped)
    np.testing.assert_allclose(warped[inner], image[inner], rtol=1e-3, atol=0.05)
    assert inner[5:-5, 5:-5].all()
    assert ((mask & MASK["EDGE"]) != 0)[~inner].all()


def test_bad_pixels_do_not_spread_beyond_the_kernel_nor_vanish():
    image = draw_field(make_field())
    image[100, 120] = np.nan
    warped, variance, mask = resample(
        image, image, np.zeros(image.shape, np.uint8), identity(image.shape, dx=0.5)
    )
    lost_y, lost_x = np.nonzero(~np.isfinite(warped[20:-20, 20:-20]))
    assert len(lost_x) > 0
    assert np.abs(lost_x + 20 - 119.5).max() <= 4
    assert np.abs(lost_y + 20 - 100).max() <= 4
    lost = ~np.isfinite(warped)
    assert ((mask & MASK["BAD"]) != 0)[lost].all()
    assert np.isinf(variance[lost]).all()


def test_another_pixel_scale_is_refused():
    image = draw_field(make_field())
    x, y = np.random.default_rng(1).uniform(0, 250, (2, 30))
    doubled = fit_transform(x, y, 2 * x, 2 * y, image.shape, 1)
    with pytest.raises(InputError, match="factor 4"):
        resample(image, image, np.zeros(image.shape, np.uint8), doubled)
