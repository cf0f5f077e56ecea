"""The functions that a PSF profile is made of, on stamps, and the sums over stamps that fit them.

Gauss-Hermite functions for the core, wider ones, tails along rows and columns and a Moffat for the wings,
all under a cosine edge that ends the support. All but the Moffat are products of functions of x and of y,
and so are the products of two of them. Sums over a stamp, such as those of normal equations, are two
small matrix products, and no function is ever drawn on the stamp.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import special

MOFFAT_CORE = 2.0
"""Core radius of the Moffat in units of the scale; its exponent is 2.5."""

BENT_REACH = 4.0
"""In units of the scale; beyond, stars differ from their PSF by nothing that is seen."""

MORE_DEGREES = 2
"""Each derivative of a Gauss-Hermite function is one of the next degree; two of them are wanted."""

TAIL_REACH = 50.0
"""In units of the scale; a tail reaches less far on its other side."""

EDGE_START = 0.8
"""Where the cosine edge starts, as a share of the radius of the support."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Which functions there are.

    Attributes
    ----------
    families : tuple of (width, degree)
        Width in units of the scale and highest total degree of each Gauss-Hermite family.
    tail_pix : float or None
        Length of the tails along +x, -x, +y, -y that a read-out leaves behind stars: exponentials,
        convolved with a Gaussian of the scale.
    along_x, along_y : ndarray, shape (n_functions - 1,)
        For each 2-D Gauss-Hermite function its 1-D functions in x and in y.
    pair : ndarray, shape (n_1d, n_1d)
        For each pair of 1-D functions the number of their product.
    family_rows : tuple of ndarray
        For each family the numbers of its 1-D functions by degree, `MORE_DEGREES` beyond its own included;
        those come after the n_1d of the basis.
    """

    families: tuple[tuple[float, int], ...]
    tail_pix: float | None
    along_x: np.ndarray
    along_y: np.ndarray
    pair: np.ndarray
    family_rows: tuple[np.ndarray, ...]

    @property
    def n_1d(self) -> int:
        """Number of 1-D functions."""
        return len(self.pair)

    @property
    def tail_rows(self) -> tuple[int, int]:
        """Numbers of the tails towards + and -, if there are any."""
        return self.n_1d - 2, self.n_1d - 1

    @property
    def n_functions(self) -> int:
        """Number of functions; the last one is the Moffat."""
        return len(self.along_x) + 1

    @property
    def n_symmetric(self) -> int:
        """Functions before the tails."""
        return len(self.along_x) - (0 if self.tail_pix is None else 4)

    @property
    def is_core(self) -> np.ndarray:
        """Functions of the first family, shape (n_functions,), bool; the others are for the wings."""
        n_first = (self.families[0][1] + 1) * (self.families[0][1] + 2) // 2
        return np.arange(self.n_functions) < n_first


def make_basis(*families: tuple[float, int], tail_pix: float | None = None) -> Basis:
    """The functions of families of (width, degree), four tails if they have a length, and a Moffat."""
    along_x: list[int] = []
    along_y: list[int] = []
    start = 0
    own_rows = []
    for _, degree in families:
        own_rows.append(np.arange(start, start + degree + 1))
        along_x += [start + i for i in range(degree + 1) for j in range(degree + 1 - i)]
        along_y += [start + j for i in range(degree + 1) for j in range(degree + 1 - i)]
        start += degree + 1
    if tail_pix is not None:
        along_x += [start, start + 1, 0, 0]
        along_y += [0, 0, start, start + 1]
        start += 2
    pair = np.zeros((start, start), int)
    first, second = np.triu_indices(start)
    pair[first, second] = pair[second, first] = np.arange(len(first))
    more = start + np.arange(MORE_DEGREES * len(families)).reshape(len(families), MORE_DEGREES)
    family_rows = tuple(np.concatenate(rows) for rows in zip(own_rows, more, strict=True))
    return Basis(families, tail_pix, np.array(along_x), np.array(along_y), pair, family_rows)


BASIS = make_basis((1.0, 8), (2.0, 4), (4.0, 0), tail_pix=6.0)
"""Holds pixel-convolved Moffats from 0.7 px FWHM (before the pixel) to 0.1 % of their peak."""


def _along(offset: np.ndarray, scale_pix: float, basis: Basis) -> np.ndarray:
    """1-D functions at offsets (m, size), shape (n_1d + n_more, m, size).

    Behind those of the basis come, family by family, the next `MORE_DEGREES` of each: the derivatives
    are sums of them (`_slope_map`).
    """
    out = np.empty((basis.n_1d + MORE_DEGREES * len(basis.families), *offset.shape))
    for (relative_width, _), rows in zip(basis.families, basis.family_rows, strict=True):
        u = offset / (relative_width * scale_pix)
        np.exp(-0.5 * u**2, out=out[rows[0]])
        for k, (row, following) in enumerate(pairwise(rows)):
            np.multiply(u, out[row], out=out[following])
            if k:
                out[following] -= np.sqrt(k) * out[rows[k - 1]]
            out[following] /= np.sqrt(k + 1)
    if basis.tail_pix is not None:
        for row, sign in zip(basis.tail_rows, (1, -1), strict=True):
            out[row] = _tail(sign * offset, scale_pix, basis.tail_pix)
    return out


def _slope_map(basis: Basis, scale_pix: float) -> np.ndarray:
    """Derivatives of the 1-D functions with the position of the star as sums of those of `_along`.

    Shape (n_1d + n_more, n_1d + n_more): what times the functions gives the slopes; those of the last
    functions of each family are left out.
    """
    n = basis.n_1d + MORE_DEGREES * len(basis.families)
    out = np.zeros((n, n))
    for (relative_width, _), rows in zip(basis.families, basis.family_rows, strict=True):
        out[rows[:-1], rows[1:]] = np.sqrt(np.arange(1, len(rows))) / (relative_width * scale_pix)
    if basis.tail_pix is not None:
        # (gauss - tail) / length, and the Gaussian is the first function, but for its area.
        core = basis.family_rows[0][0], basis.families[0][0] * scale_pix
        for row, sign in zip(basis.tail_rows, (1, -1), strict=True):
            out[row, row] = sign / basis.tail_pix
            out[row, core[0]] = -sign / (basis.tail_pix * np.sqrt(2 * np.pi) * core[1])
    return out


@dataclass(frozen=True, eq=False)
class Grid:
    """The functions on grids around n stars.

    Attributes
    ----------
    x, y : ndarray, shape (n, size)
        Offsets of the pixels from the star.
    along_x, along_y : ndarray, shape (n, n_1d, size)
        1-D functions of x and of y.
    all_x, all_y : ndarray, shape (n, n_1d + n_more, size)
        The same and those that their derivatives are sums of.
    moffat, edge : ndarray, shape (n, size_y, size_x)
    scale_pix : float
    basis : Basis
    """

    x: np.ndarray
    y: np.ndarray
    all_x: np.ndarray
    all_y: np.ndarray
    moffat: np.ndarray
    edge: np.ndarray
    scale_pix: float
    basis: Basis

    @property
    def along_x(self) -> np.ndarray:
        """See above; a view."""
        return self.all_x[:, : self.basis.n_1d]

    @property
    def along_y(self) -> np.ndarray:
        """See above; a view."""
        return self.all_y[:, : self.basis.n_1d]


def grid(x: np.ndarray, y: np.ndarray, *, scale_pix: float, half_pix: int, basis: Basis = BASIS) -> Grid:
    """Evaluate all functions on separable grids.

    Parameters
    ----------
    x, y : ndarray, shape (n, size)
        Offsets from the star, px.
    scale_pix : float
        Standard deviation of the core functions.
    half_pix : int
        The support ends at radius half_pix + 0.5.
    basis : Basis
    """
    radius2 = (x**2)[:, None, :] + (y**2)[:, :, None]
    # In single precision, in which roots and cosines are several times faster: good to 1e-6 of the edge,
    # and nothing is differenced here.
    edge = radius2.astype(np.float32)
    np.sqrt(edge, out=edge)
    edge *= np.float32(np.pi / ((half_pix + 0.5) * (1 - EDGE_START)))
    edge -= np.float32(np.pi * EDGE_START / (1 - EDGE_START))
    np.clip(edge, 0, np.float32(np.pi), out=edge)
    np.cos(edge, out=edge)
    edge += 1
    edge *= np.float32(0.5)
    radius2 *= 1 / (MOFFAT_CORE * scale_pix) ** 2
    radius2 += 1
    inverse = np.divide(1, radius2, out=radius2)
    moffat = np.sqrt(inverse)
    moffat *= inverse
    moffat *= inverse
    both = _along(np.concatenate([x, y]), scale_pix, basis).transpose(1, 0, 2)
    return Grid(x, y, both[: len(x)], both[len(x) :], moffat, edge.astype(float), scale_pix, basis)


def _matrix(weights: np.ndarray, basis: Basis) -> np.ndarray:
    """Weights of the products along_y x along_x, shape (n, n_1d, n_1d)."""
    matrix = np.zeros((len(weights), *basis.pair.shape))
    matrix[:, basis.along_y, basis.along_x] = weights[:, :-1]
    return matrix


def values(on: Grid, weights: np.ndarray, shape_pix2: np.ndarray | None = None) -> np.ndarray:
    """The weighted sum of the functions, shape (n, size_y, size_x), for weights (n, n_functions).

    With `shape_pix2`, coefficients (n, 3) in px squared, the sum P plus
    ``s0 (P_xx + P_yy) + s1 (P_xx - P_yy) + 2 s2 P_xy`` within `BENT_REACH` of the grid's middle.
    """
    matrix = _matrix(weights, on.basis)
    total = (on.along_y.transpose(0, 2, 1) @ matrix) @ on.along_x
    total += on.moffat * weights[:, -1, None, None]
    if shape_pix2 is not None:
        half = int(np.ceil(BENT_REACH * on.scale_pix / (on.x[0, 1] - on.x[0, 0])))
        middle_y, middle_x = (
            slice(max(size // 2 - half, 0), size // 2 + half + 1) for size in total.shape[1:]
        )
        total[:, middle_y, middle_x] += _bend(on, weights, matrix, shape_pix2, middle_y, middle_x)
    total *= on.edge
    return total


def _bend(
    on: Grid, weights: np.ndarray, matrix: np.ndarray, shape_pix2: np.ndarray, rows: slice, columns: slice
) -> np.ndarray:
    """What `shape_pix2` adds to `values`, on some rows and columns of the grid."""
    of_xx, of_yy, of_xy = (shape_pix2 @ [[1, 1, 0], [1, -1, 0], [0, 0, 2]]).T[..., None, None]
    n_1d = on.basis.n_1d
    slope = _slope_map(on.basis, on.scale_pix)
    second = (slope @ slope)[:n_1d]
    slope = slope[:n_1d]
    if on.basis.tail_pix is not None:
        second[on.basis.tail_rows, :] = 0  # a tail is faint, and has nearly no second derivative
    bent = slope.T @ (of_xy * matrix) @ slope
    bent[:, :n_1d] += (of_xx * matrix) @ second
    bent[:, :, :n_1d] += second.T @ (of_yy * matrix)
    out = (on.all_y[:, :, rows].transpose(0, 2, 1) @ bent) @ on.all_x[:, :, columns]
    core2 = (MOFFAT_CORE * on.scale_pix) ** 2
    x, y = on.x[:, None, columns], on.y[:, rows, None]
    q = (1 + x**2 / core2) + y**2 / core2
    of_moffat = 35 / core2**2 * weights[:, -1, None, None]
    steep = (of_xx * of_moffat) * x**2 + (of_yy * of_moffat) * y**2
    steep += (of_xy * of_moffat) * x * y
    steep /= q
    steep -= 5 / core2 * (of_xx + of_yy) * weights[:, -1, None, None]
    steep /= q
    steep *= on.moffat[:, rows, columns]
    out += steep
    return out


def _tail(offset: np.ndarray, scale_pix: float, length_pix: float) -> np.ndarray:
    """Exponential towards positive offsets convolved with a Gaussian, both of area 1."""
    z = (scale_pix / length_pix - offset / scale_pix) / np.sqrt(2)
    # Far on the other side, where the tail is 0, the exponential is kept finite.
    offset = np.maximum(offset, -TAIL_REACH * min(scale_pix, length_pix))
    rise = np.exp(0.5 * (scale_pix / length_pix) ** 2 - offset / length_pix)
    return np.asarray(0.5 / length_pix * rise * special.erfc(z))


def slopes(on: Grid, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of `values` with x and y of the star, inside the edge, shapes (n, size_y, size_x)."""
    matrix = _matrix(weights, on.basis)
    core = (MOFFAT_CORE * on.scale_pix) ** 2
    # The Moffat is q^2.5 with q = 1 / (1 + r^2 / core), so its derivative is 5 x q^3.5 / core.
    steep = on.moffat * (5 / core * weights[:, -1, None, None])
    steep /= 1 + ((on.x**2)[:, None, :] + (on.y**2)[:, :, None]) / core
    slope = _slope_map(on.basis, on.scale_pix)[: on.basis.n_1d]
    with_x = (on.along_y.transpose(0, 2, 1) @ (matrix @ slope)) @ on.all_x
    with_x += steep * on.x[:, None, :]
    with_y = on.all_y.transpose(0, 2, 1) @ ((slope.T @ matrix) @ on.along_x)
    with_y += steep * on.y[:, :, None]
    return with_x * on.edge, with_y * on.edge


def normal_equations(on: Grid, data: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each stamp for the least-squares fit of the functions and a constant to data.

    The constant is solved for already: the weighted means are taken out of data and functions.

    Parameters
    ----------
    on : Grid
    data, weight : ndarray, shape (n, size_y, size_x)
        Values and inverse variances; 0 leaves a pixel out.

    Returns
    -------
    grams : ndarray, shape (n, n_functions, n_functions)
    rights : ndarray, shape (n, n_functions)
    """
    n, basis = len(data), on.basis
    data, weight = data.astype(float), weight.astype(float)  # sums in single precision would not do
    first, second = np.triu_indices(len(basis.pair))
    edged = weight * on.edge
    twice = edged * on.edge
    pairs_x = on.along_x[:, first] * on.along_x[:, second]
    pairs_y = on.along_y[:, first] * on.along_y[:, second]
    products = pairs_y @ twice @ pairs_x.transpose(0, 2, 1)
    row = basis.pair[basis.along_y[:, None], basis.along_y]
    column = basis.pair[basis.along_x[:, None], basis.along_x]
    grams = np.empty((n, basis.n_functions, basis.n_functions))
    grams[:, :-1, :-1] = products.reshape(n, -1)[:, row * len(first) + column]
    planes = np.stack([twice * on.moffat, edged, edged * data], axis=1)
    sums = on.along_y[:, None] @ planes @ on.along_x[:, None].transpose(0, 1, 3, 2)
    sums = sums[:, :, basis.along_y, basis.along_x]
    of_moffat = np.einsum("nkyx,nyx->nk", planes, on.moffat)
    grams[:, -1, :-1] = grams[:, :-1, -1] = sums[:, 0]
    grams[:, -1, -1] = of_moffat[:, 0]
    mean = np.concatenate([sums[:, 1], of_moffat[:, 1:2]], axis=1)
    right = np.concatenate([sums[:, 2], of_moffat[:, 2:]], axis=1)
    total = np.maximum(weight.sum(axis=(1, 2)), 1e-30)
    grams -= mean[:, :, None] * (mean / total[:, None])[:, None, :]
    right -= mean * (np.einsum("nyx,nyx->n", weight, data) / total)[:, None]
    return grams, right


def sums(on: Grid) -> np.ndarray:
    """The sum of each function over each stamp, shape (n, n_functions)."""
    of_products = (on.along_y @ on.edge @ on.along_x.transpose(0, 2, 1))[
        :, on.basis.along_y, on.basis.along_x
    ]
    of_moffat = np.einsum("nyx,nyx->n", on.moffat, on.edge)
    return np.concatenate([of_products, of_moffat[:, None]], axis=1)
