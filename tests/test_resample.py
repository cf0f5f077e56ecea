"""Resampling keeps flux, centroids, noise and exact pixels, and never spreads a bad one."""

import numpy as np
import pytest
from _warped_fields import TrueMap, draw_gaussians
from scipy import ndimage

from rbsim.errors import InputError
from rbsim.resample import interpolant, resample
from rbsim.schema import MASK
from rbsim.transform import fit_transform

SHAPE = (240, 300)


def transform_of(true_map, *, shape=None, order=3):
    """The polynomial of a known map, exact to rounding for its terms."""
    ny, nx = shape or true_map.shape
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9)))
    return fit_transform(x, y, *true_map(x, y), (ny, nx), order)


def shift(dx, dy, shape=SHAPE):
    return transform_of(TrueMap(shape, shift=(dx, dy)), order=1)


def linear(matrix, offset, shape=SHAPE):
    x, y = np.array([0.0, shape[1], 0.0, shape[1]]), np.array([0.0, 0.0, shape[0], shape[0]])
    to = np.array(matrix) @ [x, y] + np.array(offset)[:, None]
    return fit_transform(x, y, *to, shape, 1)


def warp(image, transform, *, variance=None, mask=None):
    variance = np.ones_like(image) if variance is None else variance
    mask = np.zeros(image.shape, np.uint8) if mask is None else mask
    return resample(interpolant(image.astype(np.float32), variance, mask), transform)


MAPS = {
    "shift": {"shift": (5.37, -3.21)},
    "turn": {"angle_rad": 0.02, "shift": (0.3, 0.8)},
    "large turn": {"angle_rad": 0.5},
    "upside down": {"angle_rad": 3.1416, "shift": (0.3, 0.8)},
    "quarter": {"angle_rad": 1.5608, "shift": (0.3, 0.8)},
    "scale": {"scale": 1.02, "shift": (0.4, 0.2)},
    "distortion": {"distortion_pix": 4.0, "shift": (0.4, 0.2)},
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("fwhm_pix", [1.8, 3.0])
def test_flux_and_centroid_of_stars_survive(name, fwhm_pix):
    """With the local area: the distortion changes it by several per cent over the frame."""
    true_map = TrueMap(SHAPE, **MAPS[name])
    rng = np.random.default_rng(1)
    grid_x, grid_y = (a.ravel() for a in np.meshgrid(np.arange(60.0, 250, 30), np.arange(50.0, 200, 30)))
    x, y = grid_x + rng.uniform(-0.5, 0.5, grid_x.size), grid_y + rng.uniform(-0.5, 0.5, grid_x.size)
    flux = np.full(x.size, 1000.0)
    warped, _, _ = warp(draw_gaussians(*true_map(x, y), flux, SHAPE, fwhm_pix), transform_of(true_map))
    covered = 0
    for star_x, star_y in zip(x, y, strict=True):
        ix, iy = round(star_x), round(star_y)
        box = warped[iy - 10 : iy + 11, ix - 10 : ix + 11].astype(float)
        if not np.isfinite(box).all():
            continue
        covered += 1
        total = box.sum()
        assert total == pytest.approx(1000.0, rel=1e-3)
        offset = np.arange(-10, 11)
        assert (box.sum(axis=0) @ offset) / total == pytest.approx(star_x - ix, abs=0.005)
        assert (box.sum(axis=1) @ offset) / total == pytest.approx(star_y - iy, abs=0.005)
    assert covered >= 15


@pytest.mark.parametrize("name", MAPS)
def test_blocks_equal_the_slow_interpolation(name):
    """Against scipy's quintic spline on every pixel."""
    true_map = TrueMap(SHAPE, **MAPS[name])
    transform = transform_of(true_map)
    image = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=SHAPE), 0.8).astype(np.float32)
    variance = ndimage.gaussian_filter(np.random.default_rng(3).random(SHAPE), 2).astype(np.float32)
    got, got_variance, _ = warp(image, transform, variance=variance)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    at = np.stack(transform.apply(x, y)[::-1])
    area = np.abs(np.linalg.det(transform.jacobian(x.ravel(), y.ravel()))).reshape(SHAPE)
    slow = ndimage.map_coordinates(image.astype(float), at, order=5, mode="mirror") * area
    slow_variance = ndimage.map_coordinates(variance.astype(float), at, order=1) * area
    valid = np.isfinite(got)
    inside = (at > 2.01).all(axis=0) & (at[0] < SHAPE[0] - 3.01) & (at[1] < SHAPE[1] - 3.01)
    assert valid[inside].all()
    np.testing.assert_allclose(got[valid], slow[valid], rtol=0, atol=1e-5)
    np.testing.assert_allclose(got_variance[valid], slow_variance[valid], rtol=1e-4)
    assert np.isinf(got_variance[~valid]).all()


def test_whole_pixels_come_through_bit_for_bit():
    rng = np.random.default_rng(1)
    image = rng.normal(size=SHAPE).astype(np.float32)
    image[100, 120] = np.nan
    variance = rng.random(SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint8)
    mask[100, 120], mask[50, 60] = MASK["BAD"], MASK["SATURATED"]
    same, same_variance, same_mask = warp(image, shift(0, 0), variance=variance, mask=mask)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(same_variance[~np.isnan(image)], variance[~np.isnan(image)])
    np.testing.assert_array_equal(same_mask, mask)
    moved, _, _ = warp(image, shift(7, -3))
    np.testing.assert_array_equal(moved[3:, :-7], image[:-3, 7:])
    assert np.isnan(moved[:3]).all()
    assert np.isnan(moved[:, -7:]).all()
    turned, _, turned_mask = warp(image, linear([[-1, 0], [0, -1]], [SHAPE[1] - 1, SHAPE[0] - 1]), mask=mask)
    np.testing.assert_array_equal(turned, image[::-1, ::-1])
    np.testing.assert_array_equal(turned_mask, mask[::-1, ::-1])


@pytest.mark.parametrize("scale", [1.0, 1.1, 0.9])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5])
def test_variance_is_that_of_a_psf_weighted_sum(fraction, scale):
    """White noise, resampled: the matched filter has the noise that the variance says, single pixels less.

    Linear in the area: at scale 1.1 the square would be wrong by 21 % (10 % in sigma).
    """
    rng = np.random.default_rng(5)
    shape = (200, 200)
    transform = linear([[scale, 0], [0, scale]], [10 + fraction, 10 + fraction], shape)
    half = np.arange(-8, 9)
    profile = np.exp(-(half**2) / (2 * (2.5 / 2.3548) ** 2))
    psf = np.outer(profile, profile)
    squares, pixels = [], []
    for _ in range(12):
        noise = rng.normal(0, 3.0, (250, 250)).astype(np.float32)
        warped, variance, _ = warp(noise, transform, variance=np.full_like(noise, 9.0))
        inner = slice(12, -12)
        filtered = ndimage.convolve(np.nan_to_num(warped.astype(float)), psf)[inner, inner]
        squares.append(np.mean(filtered**2) / (np.sum(psf**2) * np.median(variance)))
        pixels.append(np.mean(warped[inner, inner].astype(float) ** 2) / np.median(variance))
    assert np.sqrt(np.mean(squares)) == pytest.approx(1, abs=0.025)
    if scale == 1.0:
        impulse = np.zeros((250, 250))
        impulse[100, 100] = 1  # its image has the weights with which noise enters a pixel
        weights = np.nan_to_num(warp(impulse, transform)[0].astype(float))
        assert np.mean(pixels) == pytest.approx(np.sum(weights**2), rel=0.03)
        assert np.sqrt(np.mean(pixels)) < {0.0: 1.01, 0.25: 0.96, 0.5: 0.86}[fraction]


def test_bad_pixels_neither_spread_beyond_the_kernel_nor_ring_into_a_star():
    x, y = np.array([120.0]), np.array([100.0])
    whole = draw_gaussians(x, y, np.array([1e5]), SHAPE, 2.5)
    image = whole.copy()
    image[100, 121] = np.nan  # beside the peak
    image[:, :40] = np.nan
    image[200:, 200:] = np.nan
    transform = shift(0.5, 0.25)
    warped, variance, mask = warp(image, transform)
    truth, _, _ = warp(whole, transform)
    lost = ~np.isfinite(warped)
    assert ((mask & MASK["BAD"]) != 0)[lost].all()
    assert ((mask & MASK["BAD"]) == 0)[~lost].all()
    assert np.isinf(variance[lost]).all()
    near = lost[60:140, 60:180]
    rows, columns = np.nonzero(near)
    assert 4 <= len(rows) <= 24
    assert np.abs(columns + 60 - 120.5).max() <= 3
    assert np.abs(rows + 60 - 99.75).max() <= 3
    assert not lost[10:190, 44:290][:, 100:].any()
    assert lost[:, :39].all()
    # Filled with zero the hole would ring by 5 % of the peak just outside.
    kept = ~lost
    assert np.abs(warped - truth)[kept].max() < 0.01 * whole.max()


def test_every_map_marks_what_touches():
    """Whatever the turn of the map, a saturated pixel marks all positions where the spline may ring."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[120, 150] = MASK["SATURATED"]
    image = np.zeros(SHAPE, np.float32)
    image[60, 70] = np.nan
    for name, settings in MAPS.items():
        transform = transform_of(TrueMap(SHAPE, **settings))
        _, _, new = warp(image, transform, mask=mask)
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
        at_x, at_y = transform.apply(x, y)
        hit = (new & MASK["SATURATED"]) != 0
        valid = (new & MASK["BAD"]) == 0
        touching = (np.abs(at_x - 150) < 1) & (np.abs(at_y - 120) < 1)
        assert hit[touching & valid].all(), name
        assert not hit[(np.abs(at_x - 150) > 3.001) | (np.abs(at_y - 120) > 3.001)].any(), name
        if not np.allclose(at_x, np.rint(at_x)):  # whole pixels are copied and do not ring
            assert hit[(np.abs(at_x - 150) + np.abs(at_y - 120) < 2) & valid].all(), name
        close = np.abs(at_x - 70) + np.abs(at_y - 60) < 2
        assert not valid[close].any(), name
        inside = (at_x > 3) & (at_y > 3) & (at_x < SHAPE[1] - 4) & (at_y < SHAPE[0] - 4)
        far = (np.abs(at_x - 70) > 3.001) | (np.abs(at_y - 60) > 3.001)
        assert valid[far & inside].all(), name


def test_outside_the_source_is_edge():
    warped, variance, mask = warp(np.ones(SHAPE, np.float32), shift(100.3, 0.2))
    outside = np.zeros(SHAPE, bool)
    outside[:, 198:] = True
    assert np.isnan(warped[outside]).all()
    assert np.isinf(variance[outside]).all()
    assert ((mask & MASK["EDGE"]) != 0)[outside].all()
    away, _, mask = warp(np.ones(SHAPE, np.float32), shift(1000.3, 0.2))
    assert np.isnan(away).all()
    assert ((mask & MASK["EDGE"]) != 0).all()


def test_inputs_are_not_changed():
    image = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    image[3, 4] = np.nan
    variance = np.full(SHAPE, np.inf, np.float32)
    mask = np.zeros(SHAPE, np.uint8)
    copies = image.copy(), variance.copy(), mask.copy()
    source = interpolant(image, variance, mask)
    first = resample(source, shift(0.3, 0.2))
    for now, before in zip((image, variance, mask), copies, strict=True):
        np.testing.assert_array_equal(now, before)
    for again, once in zip(resample(source, shift(0.3, 0.2)), first, strict=True):
        np.testing.assert_array_equal(again, once)


def test_another_pixel_scale_is_refused():
    with pytest.raises(InputError, match=r"pixel areas differ by a factor 4\.00; resample the reference"):
        warp(np.ones(SHAPE, np.float32), linear([[2, 0], [0, 2]], [0, 0]))
