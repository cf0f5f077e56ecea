"""Polynomials in position, and least squares whose coefficients are such polynomials.

The PSF and the subtraction kernel have the same form: basis functions times coefficients that vary
smoothly over the frame. Both are solved here.
"""

import numpy as np
from scipy import linalg


def n_terms(order: int) -> int:
    """Number of terms of a 2-D polynomial of total degree `order`."""
    return (order + 1) * (order + 2) // 2


def terms(x_pix: np.ndarray, y_pix: np.ndarray, shape: tuple[int, int], order: int) -> np.ndarray:
    """Legendre products of total degree up to `order` at positions of a frame.

    Parameters
    ----------
    x_pix, y_pix : ndarray, shape (n,)
        0-based positions.
    shape : (ny, nx)
        Frame that is mapped to [-1, 1]; the normal equations stay well conditioned.
    order : int

    Returns
    -------
    ndarray, shape (n, n_terms)
        The first column is 1.
    """
    ny, nx = shape
    u = 2 * np.atleast_1d(x_pix) / max(nx - 1, 1) - 1
    v = 2 * np.atleast_1d(y_pix) / max(ny - 1, 1) - 1
    along_x = np.polynomial.legendre.legvander(u, order)
    along_y = np.polynomial.legendre.legvander(v, order)
    columns = [
        along_x[:, i] * along_y[:, total - i] for total in range(order + 1) for i in range(total, -1, -1)
    ]
    return np.stack(columns, axis=-1)


def solve(
    grams: np.ndarray, rights: np.ndarray, position_terms: np.ndarray, *, ridge: float = 1e-9
) -> np.ndarray:
    """Least squares with coefficients that are polynomials in position.

    Minimises the sum over places i of ``|d_i - B_i (sum_s c_s t_is)|^2`` in the metric of each
    place, given ``B_i^T W_i B_i`` and ``B_i^T W_i d_i``: the position enters only through `position_terms`
    (Alard 2000, A&AS 144, 363, eq. 3-6), so the large matrix is one product.

    Parameters
    ----------
    grams : ndarray, shape (n, b, b)
    rights : ndarray, shape (n, b)
    position_terms : ndarray, shape (n, t)
    ridge : float
        Relative to each diagonal element; makes nearly degenerate bases solvable.

    Returns
    -------
    ndarray, shape (t, b)
    """
    n, b, _ = grams.shape
    t = position_terms.shape[-1]
    pairs = (position_terms[:, :, None] * position_terms[:, None, :]).reshape(n, t * t)
    matrix = (
        (pairs.T @ grams.reshape(n, b * b)).reshape(t, t, b, b).transpose(0, 2, 1, 3).reshape(t * b, t * b)
    )
    right = (position_terms.T @ rights).reshape(t * b)
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale[None, :]
    scaled[np.diag_indices_from(scaled)] += ridge
    # Cholesky: linalg.solve estimates the condition too, which costs more than the solution.
    solution = linalg.cho_solve(linalg.cho_factor(scaled), right * scale) * scale
    return solution.reshape(t, b)
