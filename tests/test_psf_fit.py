"""The fit of the PSF: any width, changing shape, few stars, dirt, and how stars differ from one another."""

import galsim
import numpy as np
import pytest
from _star_field import Field, draw_field, frame_of, make_field

from rbsim import moffat
from rbsim.errors import InputError
from rbsim.psf import draw_shapes, sample
from rbsim.psf_fit import fit_psf
from rbsim.reference import psf_of, sources_of
from rbsim.sources import star_radius

SKY, GAIN = 200.0, 2.0


def draw(field, profile_at, shape, *, seed=3):
    """Noisy image of stars whose profiles, before the pixel, are functions of the star's number."""
    image = galsim.ImageD(shape[1], shape[0])
    for i, (x, y, flux) in enumerate(zip(field.x_pix, field.y_pix, field.flux_adu, strict=True)):
        stamp = galsim.ImageD(61, 61)
        profile_at(i).withFlux(flux).drawImage(
            stamp, scale=1.0, center=galsim.PositionD(31 + x - round(x), 31 + y - round(y))
        )
        stamp.setCenter(round(x) + 1, round(y) + 1)
        both = stamp.bounds & image.bounds
        image[both] += stamp[both]
    rng = np.random.default_rng(seed)
    return (rng.poisson(np.maximum(image.array + SKY, 0) * GAIN) / GAIN).astype(np.float32)


def fit(frame, **options):
    sources = sources_of(frame)
    return psf_of(frame, sources, star_radius(sources), **options)


def pixelated(profile, psf, *, dx=0.0, dy=0.0):
    size = 2 * psf.half_pix + 1
    return profile.drawImage(nx=size, ny=size, scale=1.0, offset=(dx, dy)).array


@pytest.mark.parametrize("fwhm_pix", [0.7, 1.2, 4.0, 8.0])
def test_any_width_and_any_phase(tmp_path, fwhm_pix):
    shape = (450, 450)
    field = make_field(shape=shape, n_stars=60, flux=(10_000, 100_000), seed=5)
    star = galsim.Moffat(beta=3.5, fwhm=fwhm_pix)
    psf = fit(frame_of(tmp_path, draw(field, lambda _: star, shape)), max_order=0)
    assert not psf.quality.is_moffat
    for dx, dy in ((0.0, 0.0), (0.5, 0.5), (-0.25, 0.4)):
        found = sample(
            psf, np.array([225.0]), np.array([225.0]), dx_pix=np.array([dx]), dy_pix=np.array([dy])
        )
        true = pixelated(star, psf, dx=dx, dy=dy)
        assert np.abs(found[0] - true).max() < 0.03 * true.max()


def test_size_and_ellipticity_across_the_chip_are_recovered(tmp_path):
    shape = (600, 700)
    field = make_field(shape=shape, n_stars=260, flux=(5_000, 80_000), seed=6)

    def at(x, y):
        u, v = x / shape[1] - 0.5, y / shape[0] - 0.5
        return galsim.Moffat(beta=3.0, fwhm=2.2 + 0.6 * u + 0.7 * v * v).shear(g1=0.12 * u, g2=-0.10 * v)

    psf = fit(frame_of(tmp_path, draw(field, lambda i: at(field.x_pix[i], field.y_pix[i]), shape)))
    x, y = (axis.ravel() for axis in np.meshgrid([80.0, 350.0, 620.0], [80.0, 300.0, 520.0]))
    for found, place_x, place_y in zip(sample(psf, x, y), x, y, strict=True):
        true = pixelated(at(place_x, place_y), psf)
        moments = [galsim.hsm.FindAdaptiveMom(galsim.Image(image)) for image in (found, true)]
        assert moments[0].moments_sigma == pytest.approx(moments[1].moments_sigma, rel=0.01)
        assert moments[0].observed_shape.e1 == pytest.approx(moments[1].observed_shape.e1, abs=0.01)
        assert moments[0].observed_shape.e2 == pytest.approx(moments[1].observed_shape.e2, abs=0.01)


def test_of_two_stars_a_moffat_is_left_and_of_none_an_error(tmp_path):
    shape = (200, 200)
    field = Field(np.array([60.3, 130.8]), np.array([70.6, 120.2]), np.array([6_000.0, 9_000.0]))
    star = galsim.Moffat(beta=2.8, fwhm=2.5).shear(g1=0.1)
    frame = frame_of(tmp_path, draw(field, lambda _: star, shape))
    sources = sources_of(frame)
    given = (frame.image, frame.variance, frame.bad, sources)
    psf = fit_psf(*given, np.ones(len(sources), bool), fwhm_guess_pix=3.0)
    assert psf.quality.is_moffat
    assert psf.order == 0
    found = sample(psf, np.array([100.0]), np.array([100.0]))[0]
    true = pixelated(star, psf)
    assert np.abs(found - true).max() < 0.05 * true.max()
    assert psf.ellipticity[0] > 0.05
    with pytest.raises(InputError, match="no star for the PSF; at least one isolated unsaturated star"):
        fit_psf(*given, np.zeros(len(sources), bool), fwhm_guess_pix=3.0)


def test_the_order_falls_with_the_number_of_stars(tmp_path):
    orders = []
    for n_stars in (8, 35, 150):
        field = make_field(shape=(400, 400), n_stars=n_stars, flux=(5_000, 50_000), seed=7)
        orders.append(fit(frame_of(tmp_path, draw_field(field, shape=(400, 400)))).order)
    assert orders == [0, 1, 3]


def test_cosmic_rays_neighbours_and_saturation_leave_no_trace(tmp_path):
    shape = (400, 400)
    field = make_field(shape=shape, n_stars=100, flux=(3_000, 60_000), seed=8)
    star = galsim.Moffat(beta=3.5, fwhm=2.4)
    image = draw(field, lambda _: star, shape)
    rng = np.random.default_rng(9)
    # A hit next to every third star, a faint companion to every fourth, and full wells.
    for x, y in zip(field.x_pix[::3], field.y_pix[::3], strict=True):
        row, column = int(y) + rng.integers(-4, 5), int(x) + rng.integers(-4, 5)
        if 0 <= row < 400 and 0 <= column < 400:
            image[row, column] += 4_000
    near = Field(field.x_pix[::4] + 4.5, field.y_pix[::4] - 3.0, 0.2 * field.flux_adu[::4])
    image += draw(near, lambda _: star, shape) - np.float32(SKY)
    image = np.minimum(image, 6_000)
    frame = frame_of(tmp_path, image, SATURATE=6_000.0)
    psf = fit(frame)
    found = sample(psf, np.array([200.0]), np.array([200.0]))[0]
    true = pixelated(star, psf)
    assert np.abs(found - true).max() < 0.025 * true.max()


@pytest.mark.parametrize("scatter", [0.0, 0.02])
def test_how_stars_differ_is_measured_beyond_their_noise(tmp_path, scatter):
    shape = (500, 500)
    field = make_field(shape=shape, n_stars=150, flux=(8_000, 60_000), seed=10)
    rng = np.random.default_rng(11)
    # P + s (P_xx + P_yy) is P convolved with a Gaussian of variance 2 s.
    extra = 0.1 + scatter * rng.standard_normal(150)
    core = galsim.Gaussian(sigma=1.2)

    def star(i):
        return galsim.Convolve(core, galsim.Gaussian(sigma=float(np.sqrt(2 * extra[i]))))

    psf = fit(frame_of(tmp_path, draw(field, star, shape)))
    width, e1, e2 = psf.quality.shape_scatter_pix2
    if scatter:
        assert width == pytest.approx(scatter, rel=0.3)
    assert max(e1, e2, 0.0 if scatter else width) < 0.007
    shapes = draw_shapes(psf, 4_000, rng=rng)
    np.testing.assert_allclose(shapes.std(axis=0), psf.quality.shape_scatter_pix2, rtol=0.06)


def test_quality_figures_tell_the_truth(tmp_path):
    shape = (500, 500)
    errors, claimed = [], []
    for seed in range(6):
        field = make_field(shape=shape, n_stars=60, flux=(2_000, 10_000), seed=seed)
        psf = fit(frame_of(tmp_path, draw_field(field, shape=shape, seed=seed)), max_order=0)
        errors.append(psf.fwhm_pix)
        claimed.append(psf.quality.fwhm_err_pix)
        assert psf.quality.aperture_ratio == pytest.approx(1, abs=4 * psf.quality.aperture_ratio_err + 0.002)
        assert 0.8 < psf.quality.chi2_per_pixel < 1.2
    assert 0.3 < np.std(errors, ddof=1) / np.mean(claimed) < 3


def test_the_starting_moffat_is_the_true_one_however_narrow():
    image = moffat.effective_image(moffat.round_moffat(0.7, 3.5), 7, 8)
    true = galsim.Convolve(galsim.Moffat(beta=3.5, fwhm=0.7), galsim.Pixel(1.0)).drawImage(
        nx=113, ny=113, scale=1 / 8, method="no_pixel"
    )
    expected = true.array * 64 / true.array.sum()
    np.testing.assert_allclose(image, expected, atol=0.01 * expected.max())
    assert image.sum() == pytest.approx(64)
