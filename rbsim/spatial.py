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


def on_grid(
    coefficients: np.ndarray, shape: tuple[int, int], order: int, *, n: int | None = None
) -> np.ndarray:
    """A polynomial with `terms` on all pixels of a frame, or on `n` by `n` points that span it.

    Parameters
    ----------
    coefficients : ndarray, shape (n_terms,)
    shape : (ny, nx)
    order : int
    n : int, optional

    Returns
    -------
    ndarray, shape (ny, nx) or (n, n), float32
        The terms are products, so the grid costs two small matrix products.
    """
    ny, nx = shape
    matrix = np.zeros((order + 1, order + 1))
    pairs = [(total - i, i) for total in range(order + 1) for i in range(total, -1, -1)]
    matrix[tuple(np.array(pairs).T)] = coefficients
    along = [
        np.polynomial.legendre.legvander(np.linspace(-1, 1, size) if size > 1 else np.zeros(1), order)
        for size in ((ny, nx) if n is None else (n, n))
    ]
    return np.asarray((along[0] @ matrix).astype(np.float32) @ along[1].T.astype(np.float32))


def spread_over(values: np.ndarray, shape: tuple[int, int], *, boxes: bool = False) -> np.ndarray:
    """Bilinear map through a grid of values that spans the frame.

    Parameters
    ----------
    values : ndarray, shape (rows, columns)
        At equidistant places whose outermost ones are the corners of the frame; with `boxes`, of equal boxes
        that tile it, constant beyond the centres of the outermost ones.
    shape : (ny, nx)
    boxes : bool

    Returns
    -------
    ndarray, shape (ny, nx), float32
    """
    along_y, along_x = (_linear_weights(n, size, boxes) for n, size in zip(values.shape, shape, strict=True))
    return np.asarray(along_y @ values.astype(np.float32) @ along_x.T)


def _linear_weights(n: int, size: int, boxes: bool) -> np.ndarray:
    """Weights of n equidistant values at each of `size` pixels, shape (size, n), float32."""
    place = np.linspace(0, n - 1, size)
    if boxes:
        place = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(n)), 0).astype(np.float32)


def box_means(values: np.ndarray, keep: np.ndarray, box_pix: int) -> np.ndarray:
    """Mean of the pixels kept in each of the equal boxes that tile a frame.

    Parameters
    ----------
    values : ndarray, shape (ny, nx)
        Finite where kept.
    keep : ndarray of bool, shape (ny, nx)
    box_pix : int
        Size of the boxes, about.

    Returns
    -------
    ndarray, shape (rows, columns)
        NaN where less than a tenth of a box is kept.
    """
    edges = [
        np.linspace(0, size, max(1, round(size / box_pix)) + 1).astype(int)[:-1] for size in values.shape
    ]
    sums, counts, sizes = (
        np.add.reduceat(np.add.reduceat(plane, edges[0], axis=0, dtype=float), edges[1], axis=1)
        for plane in (np.where(keep, values, 0), keep, np.ones_like(keep))
    )
    return np.where(counts >= 0.1 * sizes, sums / np.maximum(counts, 1), np.nan)


def solve(
    grams: np.ndarray,
    rights: np.ndarray,
    position_terms: np.ndarray,
    *,
    ridge: float = 1e-9,
    orders: np.ndarray | None = None,
    penalty: np.ndarray | None = None,
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
    orders : ndarray of int, shape (b,), optional
        Highest degree in position of each function; terms beyond are 0.
    penalty : ndarray, shape (b, b) or (t, b, b), optional
        Quadratic form on the coefficients of every term, or one for each, in the units of `grams`.

    Returns
    -------
    ndarray, shape (t, b)
    """
    n, b, _ = grams.shape
    t = position_terms.shape[-1]
    pairs = (position_terms[:, :, None] * position_terms[:, None, :]).reshape(n, t * t)
    matrix = (pairs.T @ grams.reshape(n, b * b)).reshape(t, t, b, b).transpose(0, 2, 1, 3)
    if penalty is not None:
        matrix[np.arange(t), :, np.arange(t), :] += penalty
    active = np.ones((t, b), bool)
    if orders is not None:
        # Terms come in order of their degree.
        active = np.arange(t)[:, None] < np.array([n_terms(int(order)) for order in orders])[None, :]
    chosen = active.ravel()
    matrix = matrix.reshape(t * b, t * b)[np.ix_(chosen, chosen)]
    right = (position_terms.T @ rights).reshape(t * b)[chosen]
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale[None, :]
    scaled[np.diag_indices_from(scaled)] += ridge
    solution = np.zeros(t * b)
    # Cholesky: linalg.solve estimates the condition too, which costs more than the solution.
    solution[chosen] = linalg.cho_solve(linalg.cho_factor(scaled), right * scale) * scale
    return solution.reshape(t, b)
