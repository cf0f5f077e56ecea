"""Drawing: what GalSim draws of the same PSF, trails as GalSim convolves them, stamps that overlap."""

from dataclasses import replace

import galsim
import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field

from rbsim import psf as psf_model
from rbsim.draw import draw, draw_stars, draw_trail
from rbsim.lights import point_lights
from rbsim.reference import psf_of, sources_of
from rbsim.sources import star_radius

SHAPE = (240, 260)


@pytest.fixture(scope="module", params=[1.6, 3.0])
def psf(request, tmp_path_factory):
    """PSF of a field whose stars get wider along x: one undersampled, one not."""
    width = request.param
    field = make_field(shape=SHAPE, n_stars=110, flux=(2_000, 40_000))
    image = draw_field(field, shape=SHAPE, fwhm_pix=lambda x, _y: width * (1 + 0.1 * x / SHAPE[1]))
    frame = frame_of(tmp_path_factory.mktemp("psf"), image)
    sources = sources_of(frame)
    return psf_of(frame, sources, star_radius(sources))


def galsim_image(psf, x, y, oversample):
    """GalSim's object of the PSF at one place, flux 1."""
    profile = psf_model.sample(psf, np.array([x]), np.array([y]), oversample=oversample)[0]
    return galsim.InterpolatedImage(
        galsim.Image(profile, scale=1 / oversample),
        x_interpolant="quintic",
        normalization="flux",
        flux=1.0,
        # As wide and as fine as the image is: GalSim would measure both, at the price of large transforms.
        _force_stepk=np.pi / (4 * psf.half_pix),
        _force_maxk=np.pi * oversample / 2,
    )


def galsim_stamp(profile, x, y, corner_x, corner_y, shape):
    """The object at a 0-based place of the frame, on a stamp."""
    stamp = galsim.ImageD(shape[1], shape[0], xmin=1, ymin=1, scale=1.0)
    profile.drawImage(stamp, method="no_pixel", center=galsim.PositionD(x - corner_x + 1, y - corner_y + 1))
    return stamp.array


def test_stars_are_what_galsim_converges_to(psf):
    rng = np.random.default_rng(1)
    n = 25
    x, y = rng.uniform(20, SHAPE[1] - 20, n), rng.uniform(20, SHAPE[0] - 20, n)
    stars, corner_x, corner_y = draw_stars(psf, x, y, np.ones(n))
    worst = {}
    for oversample in (4, 8):
        drawn = np.stack(
            [
                galsim_stamp(
                    galsim_image(psf, x[i], y[i], oversample),
                    x[i],
                    y[i],
                    corner_x[i],
                    corner_y[i],
                    stars.shape[1:],
                )
                for i in range(n)
            ]
        )
        # GalSim conserves the flux of the finer image, we that of the pixels; a model is not band-limited to
        # the last digit, so the two differ with the sub-pixel phase.
        sums = drawn.sum(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(sums, 1, atol=3e-3)
        worst[oversample] = np.max(np.abs(drawn / sums - stars).max(axis=(1, 2)) / stars.max(axis=(1, 2)))
    assert worst[8] < 1e-4
    assert worst[8] < worst[4]


def test_flux_is_conserved_at_any_sub_pixel_phase(psf):
    x = 100 + np.linspace(-0.5, 0.5, 41)
    stars, _, _ = draw_stars(psf, x, x[::-1].copy(), np.full(41, 1234.0))
    np.testing.assert_allclose(stars.sum(axis=(1, 2)), 1234.0, rtol=1e-12)


@pytest.mark.parametrize(("length", "angle"), [(2.5, 0.0), (14.0, 30.0), (9.0, 250.0)])
def test_trails_are_the_psf_convolved_with_a_line(psf, length, angle):
    # Of one shape everywhere: GalSim's single image does not vary along the trail.
    constant = np.zeros_like(psf.coefficients)
    constant[0] = psf.coefficients[0]
    psf = replace(psf, coefficients=constant)
    x, y = 120.3, 118.7
    image, left, bottom = draw_trail(psf, x, y, length, angle)
    assert image.sum() == pytest.approx(1, rel=1e-9)
    axis_x, axis_y = np.arange(image.shape[1]) + left, np.arange(image.shape[0]) + bottom
    star, star_x, star_y = draw_stars(psf, np.array([x]), np.array([y]), np.ones(1))
    own_x = star[0].sum(axis=0) @ (np.arange(star.shape[2]) + star_x[0])
    own_y = star[0].sum(axis=1) @ (np.arange(star.shape[1]) + star_y[0])
    # Middle of the exposure, to the PSF's own centroid.
    assert image.sum(axis=0) @ axis_x == pytest.approx(own_x, abs=0.02)
    assert image.sum(axis=1) @ axis_y == pytest.approx(own_y, abs=0.02)
    line = galsim.Box(length, 1e-3).rotate(angle * galsim.degrees)
    moving = galsim.Convolve(galsim_image(psf, x, y, 8), line)
    drawn = galsim_stamp(moving, x, y, left, bottom, image.shape)
    assert np.abs(drawn / drawn.sum() - image).max() < 3e-4 * image.max()
    second = (axis_x - x) @ (image.sum(axis=0) * (axis_x - x)) - (
        np.arange(star.shape[2]) + star_x[0] - x
    ) ** 2 @ star[0].sum(axis=0)
    assert second == pytest.approx((length * np.cos(np.deg2rad(angle))) ** 2 / 12, abs=0.03 + 0.01 * length)


def test_a_trail_that_leaves_the_frame_keeps_what_is_inside(psf):
    image, left, _ = draw_trail(psf, -3.0, 100.0, 40.0, 0.0)
    assert left + image.shape[1] - 1 <= 17 + psf.half_pix + 1
    assert 0.3 < image.sum() < 0.9
    assert not draw_trail(psf, -500.0, 100.0, 40.0, 0.0)[0].size


def test_no_trail_is_a_point(psf):
    image, left, bottom = draw_trail(psf, 50.2, 60.4, 0.0, 12.0)
    stars, corner_x, corner_y = draw_stars(psf, np.array([50.2]), np.array([60.4]), np.ones(1))
    assert (left, bottom) == (corner_x[0], corner_y[0])
    np.testing.assert_allclose(image, stars[0], atol=1e-12)


def test_every_light_is_drawn_once_and_none_overlap_within_a_stack(psf):
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-5, SHAPE[1] + 5, 150), rng.uniform(-5, SHAPE[0] + 5, 150)
    size = 2 * psf.half_pix + 1
    seen = []
    for drawn in draw(psf, point_lights(x, y, np.ones(150)), np.arange(150)):
        gap = np.maximum(
            np.abs(drawn.corner_x[:, None] - drawn.corner_x), np.abs(drawn.corner_y[:, None] - drawn.corner_y)
        )
        assert gap[np.triu_indices(len(gap), 1)].min(initial=size) >= size
        seen += list(drawn.rows)
    assert sorted(seen) == list(range(150))
