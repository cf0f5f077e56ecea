"""Frames of the survey's size, 2000x1128, with everything that goes wrong: background, sources, PSF."""

import logging
import tracemalloc

import numpy as np
import pytest
from _star_field import write_frame
from scipy import ndimage
from scipy.spatial import cKDTree

from rbsim import sources as sources_module
from rbsim.frame import read_frame
from rbsim.psf import sample
from rbsim.psf_fit import fit_psf
from rbsim.reference import psf_of, sources_of
from rbsim.sources import find_sources, grow, is_point_like, measure_background, star_radius

SHAPE = (1128, 2000)
MOFFAT_CORE_PIX = 2.2  # of exponent 3: FWHM 2.24 px
NOISE_ADU = 10.0


def stars(n, *, flux, seed):
    """A noiseless field, and x, y, flux of its stars."""
    rng = np.random.default_rng(seed)
    ny, nx = SHAPE
    x, y = rng.uniform(0, nx - 1, n), rng.uniform(0, ny - 1, n)
    flux = np.exp(rng.uniform(np.log(flux[0]), np.log(flux[1]), n))
    image = np.zeros((ny + 40, nx + 40))
    axis = np.arange(-15, 16)
    i, j = np.rint(x).astype(int), np.rint(y).astype(int)
    for k in range(n):
        r2 = (axis + i[k] - x[k])[None, :] ** 2 + (axis + j[k] - y[k])[:, None] ** 2
        profile = (1 + r2 / MOFFAT_CORE_PIX**2) ** -3.0 * (2 / (np.pi * MOFFAT_CORE_PIX**2))
        image[j[k] + 5 : j[k] + 36, i[k] + 5 : i[k] + 36] += flux[k] * profile
    return image[20:-20, 20:-20], x, y, flux


@pytest.fixture(scope="module")
def sparse():
    """1,000 stars on a sky of 200 ADU with noise."""
    light, x, y, flux = stars(1000, flux=(300, 30_000), seed=1)
    noise = np.random.default_rng(2).normal(0, NOISE_ADU, SHAPE)
    return (light + noise + 200).astype(np.float32), x, y, flux


def holes(kind):
    mask = np.zeros(SHAPE, bool)
    if kind == "borders":
        mask[:50] = mask[-50:] = True
        mask[:, :50] = mask[:, -50:] = True
    elif kind == "half":
        mask[:, :1000] = True
    elif kind == "every second row":
        mask[::2] = True
    elif kind == "every second pixel":
        mask[np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) % 2 == 0] = True
    return mask


SKIES = {
    "plain": 0.0,
    "negative": -700.0,
    "gradient": 2000 * np.linspace(0, 1, SHAPE[1])[None, :] + 500 * np.linspace(0, 1, SHAPE[0])[:, None],
}


@pytest.mark.parametrize(
    ("sky", "mask"),
    [
        ("plain", "none"),
        ("negative", "none"),
        ("gradient", "none"),
        ("plain", "borders"),
        ("gradient", "half"),
        ("plain", "every second row"),
        ("plain", "every second pixel"),
    ],
)
def test_sky_sources_and_psf_are_right(tmp_path, sparse, sky, mask):
    image, x, y, flux = sparse
    bad = holes(mask)
    frame = read_frame(write_frame(tmp_path / "a.fits", np.where(bad, np.nan, image + SKIES[sky])))
    # Sky and noise, away from the border, where a spline cannot know how a gradient goes on.
    inner = np.zeros(SHAPE, bool)
    inner[64:-64, 64:-64] = True
    inner &= ~bad if mask != "half" else ~grow(bad, 128)
    off = (frame.sky_adu - 200 - SKIES[sky])[inner]
    # On a chequered mask sep's mode scatters by up to 0.1 sigma between noises; elsewhere by far less.
    assert abs(np.median(off)) < (0.15 if mask == "every second pixel" else 0.05) * NOISE_ADU
    assert np.std(off) < (0.1 if sky == "gradient" else 0.06) * NOISE_ADU
    quiet = inner & (np.abs(frame.image) < 2 * NOISE_ADU)
    assert np.sqrt(np.median(frame.variance[quiet])) == pytest.approx(NOISE_ADU, rel=0.05)
    # Sources: the bright stars on good pixels, and not much else.
    found = sources_of(frame)
    ny, nx = SHAPE
    near_hole = ndimage.uniform_filter(bad.astype(float), 9)[np.rint(y).astype(int), np.rint(x).astype(int)]
    wanted = (flux > 2000) & (near_hole < 0.7) & (np.abs(y - ny / 2) < 510) & (np.abs(x - nx / 2) < 940)
    wanted &= near_hole == 0 if mask in ("half", "borders") else True
    distance, _ = cKDTree(np.c_[found.x_pix, found.y_pix]).query(np.c_[x, y][wanted])
    assert np.mean(distance < 1.5) > 0.97
    truth = cKDTree(np.c_[x, y])
    assert np.mean(truth.query(np.c_[found.x_pix, found.y_pix])[0] < 3) > 0.97
    psf = psf_of(frame, found, star_radius(found))
    assert psf.n_stars > 80
    assert psf.fwhm_pix == pytest.approx(2.24, rel=0.06)
    assert psf.quality.chi2_per_pixel < 1.2


def test_crowded_field(tmp_path):
    light, x, y, flux = stars(20_000, flux=(100, 20_000), seed=3)
    rng = np.random.default_rng(4)
    frame = read_frame(
        write_frame(tmp_path / "a.fits", (light + rng.normal(200, 5, SHAPE)).astype(np.float32))
    )
    assert abs(np.median(frame.sky_adu) - 200) < 0.1 * 5
    found = sources_of(frame)
    assert 7_000 < len(found) < 20_000
    bright = flux > 8_000
    distance, _ = cKDTree(np.c_[found.x_pix, found.y_pix]).query(np.c_[x, y][bright])
    assert np.mean(distance < 1) > 0.9
    psf = psf_of(frame, found, star_radius(found))
    got = sample(psf, np.array([1000.0]), np.array([564.0]))[0]
    axis = np.arange(-psf.half_pix, psf.half_pix + 1)
    truth = (1 + np.add.outer(axis**2, axis**2) / MOFFAT_CORE_PIX**2) ** -3.0
    assert np.abs(got - truth / truth.sum()).max() < 0.06 * got.max()


def test_one_very_bright_star_costs_only_its_surroundings(tmp_path, sparse):
    image, x, y, flux = sparse
    ny, nx = SHAPE
    from_star = np.hypot(*np.ogrid[-500.0 : ny - 500, -900.0 : nx - 900])
    glare = np.minimum(1e6 * (1 + (from_star / 3) ** 2) ** -1.5, 60_000)
    frame = read_frame(write_frame(tmp_path / "a.fits", (image + glare).astype(np.float32)))
    assert frame.saturated[500, 900]
    far = from_star > 200
    assert abs(np.median((frame.sky_adu - 200 - glare)[far])) < 0.05 * NOISE_ADU
    found = sources_of(frame)
    assert 700 < len(found) < 1100
    assert found.saturated[np.hypot(found.x_pix - 900, found.y_pix - 500) < 5].any()
    wanted = (flux > 2000) & (np.hypot(x - 900, y - 500) > 150)
    distance, _ = cKDTree(np.c_[found.x_pix, found.y_pix]).query(np.c_[x, y][wanted])
    assert np.mean(distance < 1.5) > 0.95


@pytest.mark.parametrize("noise_adu", [0.7, 1.1, 2.5])
@pytest.mark.parametrize("sky_adu", [350.0, 350.3, 350.5])
def test_sky_of_whole_numbers_does_not_stick_to_them(noise_adu, sky_adu):
    rng = np.random.default_rng(6)
    image = np.rint(rng.normal(sky_adu, noise_adu, (384, 384))).astype(np.float32)
    background = measure_background(image, np.zeros(image.shape, bool), digit_adu=1.0)
    assert abs(np.median(background.sky_adu) - sky_adu) < 0.1
    assert np.std(background.sky_adu) < 0.06 * noise_adu
    assert np.median(background.rms_adu) == pytest.approx(np.hypot(noise_adu, 12**-0.5), rel=0.04)


def test_grown_mask_equals_that_of_scipy():
    mask = np.random.default_rng(7).random((60, 80)) < 0.03
    for n in (0, 1, 3):
        expected = ndimage.binary_dilation(mask, iterations=n) if n else mask
        before = mask.copy()
        assert np.array_equal(grow(mask, n), expected)
        assert np.array_equal(mask, before)


def test_small_buffers_give_the_same_sources(sparse, monkeypatch, caplog):
    image = sparse[0][:400, :400] - 200
    # One object with two dozen peaks.
    blob = 100 * np.exp(-0.5 * np.add.outer(np.arange(-40, 41) ** 2, np.arange(-40, 41) ** 2) / 20**2)
    blob[10:70:5, 40] += 2000
    blob[40, 10:70:5] += 2000
    image[150:231, 150:231] += ndimage.gaussian_filter(blob, 1).astype(np.float32)
    noise, bad = np.full(image.shape, NOISE_ADU), np.zeros(image.shape, bool)
    usual = find_sources(image, noise, bad)
    monkeypatch.setattr(sources_module, "EXTRACT_BUFFER_PIX", 1_000)
    monkeypatch.setattr(sources_module, "EXTRACT_BLEND_SOURCES", 16)
    same = find_sources(image, noise, bad)
    for name, values in vars(usual).items():
        assert np.array_equal(values, getattr(same, name)), name
    monkeypatch.setattr(sources_module, "EXTRACT_BLEND_SOURCES", 1)
    with caplog.at_level(logging.WARNING):
        joined = find_sources(image, noise, bad)
    assert "blends are not taken apart" in caplog.text
    assert 0 < len(joined) < len(usual)


def test_psf_fit_needs_little_memory(tmp_path, sparse):
    frame = read_frame(write_frame(tmp_path / "a.fits", sparse[0]))
    found = sources_of(frame)
    stars_of = is_point_like(found, star_radius(found))
    bad = frame.bad
    tracemalloc.start()
    # A wide guess: the largest stamps there are.
    fit_psf(frame.image, frame.variance, bad, found, stars_of, fwhm_guess_pix=8.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70e6
