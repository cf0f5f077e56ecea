"""Least squares with coefficients that vary in position equals the explicit design matrix."""

import numpy as np

from rbsim import spatial


def test_terms_are_polynomials_of_the_degree_with_a_constant_first():
    x, y = np.array([0.0, 99.0, 50.0]), np.array([0.0, 49.0, 10.0])
    terms = spatial.terms(x, y, (50, 100), 2)
    assert terms.shape == (3, spatial.n_terms(2))
    np.testing.assert_array_equal(terms[:, 0], 1)


def test_solve_equals_the_explicit_design_matrix():
    rng = np.random.default_rng(1)
    n, pixels, b, order = 40, 30, 4, 2
    basis, data = rng.normal(size=(n, pixels, b)), rng.normal(size=(n, pixels))
    terms = spatial.terms(rng.uniform(0, 99, n), rng.uniform(0, 49, n), (50, 100), order)
    grams = np.einsum("npb,npc->nbc", basis, basis)
    rights = np.einsum("npb,np->nb", basis, data)
    fast = spatial.solve(grams, rights, terms, ridge=0)
    design = np.einsum("npb,nt->nptb", basis, terms).reshape(n * pixels, -1)
    slow = np.linalg.lstsq(design, data.ravel(), rcond=None)[0].reshape(-1, b)
    np.testing.assert_allclose(fast, slow, atol=1e-10)
