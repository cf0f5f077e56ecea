"""Sources: hot pixels are not stars, the star radius is that of stars, galaxies are extended."""

import galsim
import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field

from rbsim.errors import InputError
from rbsim.reference import sources_of
from rbsim.sources import is_extended, is_point_like, measure_background, star_radius


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Stars, eight galaxies (known places) and forty hot pixels (known places)."""
    rng = np.random.default_rng(1)
    shape = (400, 400)
    field = make_field(shape=shape, n_stars=70, flux=(2_000, 40_000))
    image = draw_field(field, shape=shape, fwhm_pix=3.0)
    galaxies = galsim.ImageF(400, 400)
    at = [(40 + 45 * i, 30 + 47 * i) for i in range(8)]
    for x, y in at:
        profile = galsim.Convolve(
            galsim.Exponential(half_light_radius=4.0, flux=20_000), galsim.Moffat(beta=3.5, fwhm=3)
        )
        profile.drawImage(galaxies, scale=1.0, center=galsim.PositionD(x + 1, y + 1), add_to_image=True)
    hot = rng.integers(10, 390, (40, 2))
    image += galaxies.array
    image[hot[:, 1], hot[:, 0]] += 3_000
    return frame_of(tmp_path_factory.mktemp("scene"), image), np.array(at), hot, field


def test_hot_pixels_are_not_sources(scene):
    frame, _, hot, field = scene
    sources = sources_of(frame)
    distance = np.hypot(sources.x_pix[:, None] - hot[:, 0], sources.y_pix[:, None] - hot[:, 1])
    near_star = np.hypot(hot[:, 0, None] - field.x_pix, hot[:, 1, None] - field.y_pix).min(axis=1) < 8
    assert (distance[:, ~near_star].min(axis=0) > 0.7).mean() > 0.9


def test_star_radius_and_classes(scene):
    frame, galaxies, _, field = scene
    sources = sources_of(frame)
    radius = star_radius(sources)
    star = galsim.Convolve(galsim.Moffat(beta=3.5, fwhm=3.0), galsim.Pixel(1.0))
    light = star.drawImage(nx=201, ny=201, scale=0.1, method="no_pixel").array
    from_star = np.hypot(*np.mgrid[-100:101, -100:101]) * 0.1
    inside = np.argsort(from_star, axis=None)[: np.count_nonzero(from_star < 4)]
    share = np.cumsum(light.ravel()[inside]) / light.ravel()[inside].sum()
    truth = from_star.ravel()[inside][np.searchsorted(share, 0.5)]
    assert radius == pytest.approx(truth, rel=0.02)
    extended, point = is_extended(sources, radius), is_point_like(sources, radius)
    assert not (extended & point & (sources.snr < 50)).any()
    to_galaxy = np.hypot(sources.x_pix[:, None] - galaxies[:, 0], sources.y_pix[:, None] - galaxies[:, 1])
    assert extended[to_galaxy.argmin(axis=0)].sum() >= 7
    isolated = np.hypot(field.x_pix[:, None] - field.x_pix, field.y_pix[:, None] - field.y_pix)
    np.fill_diagonal(isolated, np.inf)
    alone = isolated.min(axis=1) > 20
    to_star = np.hypot(
        sources.x_pix[:, None] - field.x_pix[alone], sources.y_pix[:, None] - field.y_pix[alone]
    )
    assert point[to_star.argmin(axis=0)].mean() > 0.9


def test_sources_are_brightest_first_and_centred(scene):
    frame, _, _, field = scene
    sources = sources_of(frame)
    assert (np.diff(sources.flux_adu) <= 0).all()
    bright = field.flux_adu > 10_000
    distance = np.hypot(
        sources.x_pix[:, None] - field.x_pix[bright], sources.y_pix[:, None] - field.y_pix[bright]
    )
    assert np.median(distance.min(axis=0)) < 0.05


def test_background_of_a_gradient_and_its_noise():
    rng = np.random.default_rng(2)
    gradient = np.linspace(100, 140, 300)[None, :] * np.ones((256, 1))
    image = (gradient + rng.normal(0, 5, gradient.shape)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    bad[50:60] = True
    image[bad] = np.nan
    background = measure_background(image, bad)
    assert np.abs(background.sky_adu - gradient)[20:-20, 20:-20].max() < 2
    assert np.median(background.rms_adu) == pytest.approx(5, rel=0.05)


def test_too_few_stars_or_good_pixels_are_refused(scene):
    frame = scene[0]
    with pytest.raises(InputError, match="only 0 unsaturated stars"):
        star_radius(sources_of(frame).select(np.zeros(len(sources_of(frame)), bool)))
    with pytest.raises(InputError, match="of the pixels are usable"):
        measure_background(frame.image, np.ones(frame.shape, bool))
