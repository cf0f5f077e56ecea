"""The separable sums equal sums over drawn functions; slopes are those of finite differences."""

import numpy as np
import pytest

from rbsim import profile

HALF, SCALE = 9, 1.3
BASES = [profile.BASIS, profile.make_basis((1.0, 6), (2.0, 2), (4.0, 0))]


def grid_at(dx, dy, basis):
    axis = np.arange(-HALF, HALF + 1)
    return profile.grid(
        axis - np.atleast_1d(dx)[:, None],
        axis - np.atleast_1d(dy)[:, None],
        scale_pix=SCALE,
        half_pix=HALF,
        basis=basis,
    )


def drawn(on):
    """Every function on the stamp, shape (n, size * size, n_functions)."""
    n = on.basis.n_functions
    planes = [profile.values(on, np.repeat(row[None], len(on.x), axis=0)) for row in np.eye(n)]
    return np.stack(planes, axis=-1).reshape(len(on.x), -1, n)


@pytest.mark.parametrize("basis", BASES)
def test_normal_equations_are_those_of_the_drawn_functions(basis):
    rng = np.random.default_rng(1)
    on = grid_at([0.3, -0.4], [0.1, 0.45], basis)
    data, weight = rng.normal(0, 1, (2, 2, 2 * HALF + 1, 2 * HALF + 1))
    weight = weight**2 * (rng.random(weight.shape) < 0.8)
    grams, rights = profile.normal_equations(on, data, weight)
    for k, raw in enumerate(drawn(on)):
        w = weight[k].ravel()
        functions = raw - w @ raw / w.sum()
        d = data[k].ravel() - w @ data[k].ravel() / w.sum()
        np.testing.assert_allclose(grams[k], (functions.T * w) @ functions, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(rights[k], (functions.T * w) @ d, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("basis", BASES)
def test_sums_and_slopes(basis):
    rng = np.random.default_rng(2)
    weights = rng.normal(0, 1, (1, basis.n_functions))
    on = grid_at(0.2, -0.3, basis)
    np.testing.assert_allclose(profile.sums(on)[0], drawn(on)[0].sum(axis=0), rtol=1e-9, atol=1e-10)
    step = 1e-4
    inside = np.hypot(on.x[0][None, :], on.y[0][:, None]) < profile.EDGE_START * HALF - 1
    for slope, dx, dy in zip(profile.slopes(on, weights), (step, 0), (0, step), strict=True):
        ahead, behind = (
            profile.values(grid_at(0.2 + s * dx, -0.3 + s * dy, basis), weights) for s in (1, -1)
        )
        difference = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(slope[0][inside], difference[0][inside], atol=3e-3 * np.abs(slope).max())


def test_first_function_is_a_gaussian_and_the_last_a_moffat():
    on = grid_at(0.0, 0.0, BASES[1])
    r2 = on.x[0][None, :] ** 2 + on.y[0][:, None] ** 2
    inside = np.sqrt(r2) < profile.EDGE_START * HALF
    functions = drawn(on)[0].reshape(*r2.shape, -1)
    np.testing.assert_allclose(functions[..., 0][inside], np.exp(-r2 / 2 / SCALE**2)[inside], rtol=1e-12)
    moffat = (1 + r2 / (2 * SCALE) ** 2) ** -2.5
    np.testing.assert_allclose(functions[..., -1][inside], moffat[inside], rtol=1e-12)
    assert functions[0, 0, -1] == pytest.approx(0, abs=1e-9)


def test_a_change_of_shape_is_that_of_second_differences():
    rng = np.random.default_rng(3)
    basis = profile.BASIS
    weights = rng.normal(0, 1, (1, basis.n_functions))
    weights[:, basis.n_symmetric : -1] = 0  # tails stay as they are
    shape = np.array([[0.03, -0.02, 0.01]])
    step = 0.02

    def at(dx, dy):
        return profile.values(grid_at(float(dx), float(dy), basis), weights)

    xx, yy = ((at(dx, dy) + at(-dx, -dy) - 2 * at(0, 0)) / step**2 for dx, dy in ((step, 0), (0, step)))
    xy = (at(step, step) + at(-step, -step) - at(step, -step) - at(-step, step)) / (4 * step**2)
    on = grid_at(0.0, 0.0, basis)
    inside = np.hypot(on.x[0][None, :], on.y[0][:, None]) < profile.BENT_REACH * SCALE
    expected = at(0, 0) + 0.03 * (xx + yy) - 0.02 * (xx - yy) + 2 * 0.01 * xy
    found = profile.values(on, weights, shape)
    np.testing.assert_allclose(found[0][inside], expected[0][inside], atol=1e-3 * np.abs(found).max())


def test_a_tail_is_an_exponential_smeared_by_the_seeing():
    offset = np.linspace(-12, 30, 85)[None, :]
    found = profile._tail(offset, SCALE, 6.0)
    step = 0.005
    t = np.arange(0, 80, step) + step / 2
    gauss = np.exp(-0.5 * ((offset[0][:, None] - t) / SCALE) ** 2) / (np.sqrt(2 * np.pi) * SCALE)
    np.testing.assert_allclose(found[0], (gauss * np.exp(-t / 6) / 6).sum(axis=1) * step, atol=1e-6)
    for scale in (0.4, 3.4, 40.0):
        assert np.isfinite(profile._tail(np.array([[-900.0, 900.0]]), scale, 6.0)).all()


def test_derivatives_are_sums_of_the_functions():
    basis = profile.BASIS
    offset = np.linspace(-12, 12, 49)[None, :]
    slope = profile._slope_map(basis, SCALE)[: basis.n_1d]
    # A star that moves by +d has its pixels at offsets smaller by d.
    ahead, behind = (profile._along(offset - d, SCALE, basis)[: basis.n_1d, 0] for d in (1e-4, -1e-4))
    found = slope @ profile._along(offset, SCALE, basis)[:, 0]
    np.testing.assert_allclose(found, (ahead - behind) / 2e-4, atol=1e-6)
