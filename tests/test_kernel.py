"""The kernel fit: a known kernel is recovered, also where it varies; variable stars do not count."""

import numpy as np
import pytest
from scipy.signal import fftconvolve

from rbsim import spatial
from rbsim.errors import InputError
from rbsim.kernel import fit_kernel
from rbsim.kernel_basis import DeltaBasis, GaussHermiteBasis, choose_basis

SHAPE = (360, 400)
SIGMA_FROM_PIX = 1.0


def stars_on(shape, n, seed, flux=(2_000, 60_000)):
    rng = np.random.default_rng(seed)
    ny, nx = shape
    return (
        rng.uniform(4, nx - 5, n),
        rng.uniform(4, ny - 5, n),
        np.exp(rng.uniform(*np.log(flux), n)),
    )


def gaussians(shape, x, y, flux, sigma_pix):
    """Sum of Gaussian stars of equal or individual widths."""
    image = np.zeros(shape)
    span = np.arange(-20, 21)
    for xi, yi, fi, si in zip(x, y, flux, np.broadcast_to(sigma_pix, len(x)), strict=True):
        x0, y0 = round(xi), round(yi)
        gx, gy = x0 + span, y0 + span
        gx, gy = gx[(gx >= 0) & (gx < shape[1])], gy[(gy >= 0) & (gy < shape[0])]
        profile = np.exp(-0.5 * ((gx[None, :] - xi) ** 2 + (gy[:, None] - yi) ** 2) / si**2)
        image[gy[0] : gy[-1] + 1, gx[0] : gx[-1] + 1] += fi * profile / (2 * np.pi * si**2)
    return image


def fit(source, target, x, y, *, noise=1.0, **options):
    return fit_kernel(
        source,
        target,
        np.full(source.shape, noise**2),
        np.ones(source.shape, bool),
        x,
        y,
        fwhm_from_pix=2.355 * SIGMA_FROM_PIX,
        fwhm_to_pix=2.355 * 1.8,
        **options,
    )


@pytest.fixture(scope="module")
def sharp():
    x, y, flux = stars_on(SHAPE, 150, 1)
    return x, y, flux, gaussians(SHAPE, x, y, flux, SIGMA_FROM_PIX)


@pytest.mark.parametrize("basis", ["gauss-hermite", "delta"])
def test_an_elliptical_shifted_kernel_is_recovered(sharp, basis):
    x, y, _, source = sharp
    axis = np.arange(-7, 8)
    true = np.exp(-0.5 * ((axis[None, :] - 0.4) ** 2 / 1.7**2 + (axis[:, None] + 0.3) ** 2 / 1.3**2))
    true *= 1.4 / true.sum()
    noisy = fftconvolve(source, true, mode="same") + np.random.default_rng(2).normal(0, 1, SHAPE)
    kernel = fit(source, noisy, x, y, basis=basis)
    found = kernel.at(np.array([200.0]), np.array([180.0]))[0]
    half = found.shape[0] // 2
    assert kernel.flux_scale == pytest.approx(1.4, rel=3e-3)
    # Kernels that differ only where the source has no power are the same kernel: compare what stars become.
    psf = np.exp(-0.5 * np.add.outer(axis**2, axis**2) / SIGMA_FROM_PIX**2)
    wanted, got = fftconvolve(true, psf), fftconvolve(found, psf)
    shared = len(wanted) // 2 - abs(half - 7) if half < 7 else len(wanted) // 2
    middle = [slice(len(a) // 2 - shared, len(a) // 2 + shared + 1) for a in (wanted, got)]
    difference = got[middle[1], middle[1]] - wanted[middle[0], middle[0]]
    assert np.abs(difference).max() < 0.01 * wanted.max()
    assert 0.7 < kernel.fit.chi2_per_pixel < 1.05  # the model error in the weights pulls it below 1


def test_a_kernel_sum_that_varies_like_vignetting_is_followed(sharp):
    x, y, flux, source = sharp
    gain = 1 - 0.4 * ((x - 200) / 200) ** 2
    target = gaussians(SHAPE, x, y, gain * flux, 1.8)
    kernel = fit(source, target, x, y)
    found = spatial.on_grid(kernel.sum_coefficients, SHAPE, kernel.order)
    assert found[180, 200] == pytest.approx(1, rel=0.01)
    assert found[180, 20] == pytest.approx(1 - 0.4 * 0.9**2, rel=0.02)


def test_a_background_beside_the_kernel_is_found_with_its_slope(sharp):
    x, y, _, source = sharp
    tilt = 5 + 4 * np.linspace(-1, 1, SHAPE[1])[None, :]
    target = fftconvolve(source, choose_basis("gauss-hermite", 2.355, 4.2, 50).images[0], mode="same") + tilt
    kernel = fit(source, target, x, y, background_order=1)
    found = spatial.on_grid(kernel.background, SHAPE, kernel.background_order)
    np.testing.assert_allclose(found, np.broadcast_to(tilt, SHAPE), atol=0.1)


def test_variable_stars_are_clipped_and_do_not_pull_the_kernel_sum(sharp):
    x, y, flux, source = sharp
    changed = flux.copy()
    changed[::8] *= 1.3
    noise = np.random.default_rng(3).normal(0, 1, SHAPE)
    kernel = fit(source, gaussians(SHAPE, x, y, changed, 1.8) + noise, x, y)
    assert kernel.flux_scale == pytest.approx(1, rel=3e-3)
    used = set(zip(kernel.fit.stamp_x_pix, kernel.fit.stamp_y_pix, strict=True))
    bright_variables = [i for i in range(0, len(x), 8) if flux[i] > 10_000]
    assert len(bright_variables) > 3
    assert not any((round(x[i]), round(y[i])) in used for i in bright_variables)
    assert kernel.fit.n_clipped >= len(bright_variables)


def test_too_wide_a_psf_is_seen_in_the_residual_share(sharp):
    """A kernel that is forced to be constant leaves the corners of a field whose PSF grows outwards."""
    x, y, flux, source = sharp
    radius = np.hypot(x - 200, y - 180) / 270
    target = gaussians(SHAPE, x, y, flux, 1.6 + 1.2 * radius**2)
    free, stiff = (fit(source, target, x, y, max_order=order) for order in (2, 0))
    assert free.fit.residual_share < 0.02
    assert stiff.fit.residual_share > 0.05


@pytest.mark.parametrize("basis", [GaussHermiteBasis((0.8, 1.5), (3, 1), 6), DeltaBasis(3)])
def test_design_is_convolution_with_each_function(basis):
    stamp = np.random.default_rng(4).normal(size=(1, 25, 25))
    design = basis.design(stamp)
    out = 25 - 2 * basis.half_pix
    assert design.shape == (1, basis.size, out * out)
    for column, image in zip(design[0], basis.images, strict=True):
        direct = fftconvolve(stamp[0], image, mode="valid")
        np.testing.assert_allclose(column.reshape(out, out), direct, atol=1e-10)


def test_penalty_is_zero_only_for_what_has_no_curvature():
    basis = DeltaBasis(3)
    flat = np.zeros((7, 7))
    flat[3, 3] = 1.0
    peak = flat.ravel() @ basis.penalty @ flat.ravel()
    smooth = np.exp(-0.5 * np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2) / 1.5**2)
    smooth /= np.linalg.norm(smooth)
    assert smooth.ravel() @ basis.penalty @ smooth.ravel() < 0.2 * peak


def test_solution_respects_the_order_of_each_function():
    rng = np.random.default_rng(5)
    places = spatial.terms(rng.uniform(0, 99, 40), rng.uniform(0, 99, 40), (100, 100), 2)
    grams = np.einsum("nij,nkj->nik", *(2 * [rng.normal(size=(40, 3, 9))]))
    solution = spatial.solve(grams, rng.normal(size=(40, 3)), places, orders=np.array([2, 1, 0]))
    assert np.all(solution[:, 0] != 0)
    assert np.array_equal(solution[3:, 1], np.zeros(3))
    assert np.array_equal(solution[1:, 2], np.zeros(5))


def test_unknown_basis_is_refused(sharp):
    x, y, _, source = sharp
    with pytest.raises(InputError, match="basis is 'wavelets'; allowed are gauss-hermite, delta"):
        fit(source, source, x, y, basis="wavelets")
