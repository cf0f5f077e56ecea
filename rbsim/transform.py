"""Polynomial maps between the pixels of two frames."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from astropy.wcs import WCS
from numpy.polynomial import legendre

from rbsim import spatial
from rbsim.errors import InputError

WCS_ORDER = 3
NONLINEAR_PRIOR_PIX = 1.0
"""Expected size of each non-linear coefficient. Weak where there are stars, it keeps a polynomial from
running away, and perhaps folding back, where there are none."""


@dataclass(frozen=True, eq=False)
class Transform:
    """Polynomial map from pixels of one frame to pixels of another.

    Attributes
    ----------
    x_coefficients, y_coefficients : ndarray, shape (n_terms,)
        For `spatial.terms` of `from_shape`, pixels.
    order : int
    from_shape : (ny, nx)
    n_matches : int
        Stars behind the last refinement; 0 for a bare WCS.
    rms_pix : float
        Their weighted residual per axis in pixels of the target, centroid errors of the stars included;
        NaN for a bare WCS.
    error_pix : float
        Standard error per axis of the map itself, averaged over these stars; NaN if unknown.
    """

    x_coefficients: np.ndarray
    y_coefficients: np.ndarray
    order: int
    from_shape: tuple[int, int]
    n_matches: int
    rms_pix: float
    error_pix: float = float("nan")

    def apply(self, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the target frame."""
        position_terms = spatial.terms(np.ravel(x_pix), np.ravel(y_pix), self.from_shape, self.order)
        shape = np.shape(x_pix)
        return (position_terms @ self.x_coefficients).reshape(shape), (
            position_terms @ self.y_coefficients
        ).reshape(shape)

    def apply_grid(self, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions and area ratios on the grid of columns `x_pix` (n,) and rows `y_pix` (m,).

        The terms are products of one-dimensional polynomials, so a grid costs two small matrix
        products, a hundred times less than `apply` on all of its points.

        Returns
        -------
        x_pix, y_pix, area : ndarray, shape (m, n)
            `area` is that of a pixel of the source frame in pixels of the target, the absolute
            determinant of the local Jacobian.
        """
        ny, nx = self.from_shape
        along_x, along_y = _legendre(x_pix, nx, self.order)[0], _legendre(y_pix, ny, self.order)[0]
        to_x, to_y = (_as_matrix(c, self.order) for c in (self.x_coefficients, self.y_coefficients))
        # The area is a polynomial too, of this degree in x and in y: known exactly from its nodes.
        degree = max(2 * self.order - 2, 0)
        nodes = np.linspace(0, 1, degree + 1) if degree else np.array([0.5])
        at_nodes = self._area(nodes * max(nx - 1, 1), nodes * max(ny - 1, 1))
        inverse = np.linalg.inv(legendre.legvander(2 * nodes - 1, degree))
        area = inverse @ at_nodes @ inverse.T
        area_x, area_y = _legendre(x_pix, nx, degree)[0], _legendre(y_pix, ny, degree)[0]
        return along_y @ to_x @ along_x.T, along_y @ to_y @ along_x.T, np.abs(area_y @ area @ area_x.T)

    def _area(self, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """Signed determinant of the Jacobian on a small grid."""
        ny, nx = self.from_shape
        along_x, slope_x = _legendre(x_pix, nx, self.order)
        along_y, slope_y = _legendre(y_pix, ny, self.order)
        to_x, to_y = (_as_matrix(c, self.order) for c in (self.x_coefficients, self.y_coefficients))
        straight = (slope_y @ to_y @ along_x.T) * (along_y @ to_x @ slope_x.T)
        return np.asarray(straight - (slope_y @ to_x @ along_x.T) * (along_y @ to_y @ slope_x.T))

    def invert(self, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the source frame of target positions, by Newton steps with a constant Jacobian.

        Positions that come to lie more than half a frame outside are NaN: the polynomial is not
        known there.
        """
        ny, nx = self.from_shape
        jacobian_inverse = np.linalg.inv(self.jacobian(np.array([nx / 2]), np.array([ny / 2]))[0])
        guess_x, guess_y = np.full(np.shape(x_pix), nx / 2), np.full(np.shape(y_pix), ny / 2)
        for _ in range(30):
            at_x, at_y = self.apply(guess_x, guess_y)
            step = np.stack([x_pix - at_x, y_pix - at_y], axis=-1) @ jacobian_inverse.T
            guess_x, guess_y = guess_x + step[..., 0], guess_y + step[..., 1]
            far = (np.abs(guess_x - nx / 2) > nx) | (np.abs(guess_y - ny / 2) > ny)
            guess_x, guess_y = np.where(far, np.nan, guess_x), np.where(far, np.nan, guess_y)
            if np.all(far | ~(np.abs(step).max(axis=-1) > 1e-10)):
                break
        return guess_x, guess_y

    def jacobian(self, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """d(target) / d(source) at positions, shape (n, 2, 2)."""
        step = 0.5
        right, left = self.apply(x_pix + step, y_pix), self.apply(x_pix - step, y_pix)
        up, down = self.apply(x_pix, y_pix + step), self.apply(x_pix, y_pix - step)
        along_x = np.stack([right[0] - left[0], right[1] - left[1]], axis=-1)
        along_y = np.stack([up[0] - down[0], up[1] - down[1]], axis=-1)
        return np.stack([along_x, along_y], axis=-1)

    def shifted(self, x_pix: float, y_pix: float) -> "Transform":
        """The map plus a constant in the target frame."""
        x, y = self.x_coefficients.copy(), self.y_coefficients.copy()
        x[0] += x_pix
        y[0] += y_pix
        return replace(self, x_coefficients=x, y_coefficients=y)


def _legendre(positions: np.ndarray, size: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Legendre polynomials of one axis and their derivatives per pixel, both shape (n, order + 1)."""
    per_pixel = 2 / max(size - 1, 1)
    values = legendre.legvander(per_pixel * np.asarray(positions, float) - 1, order)
    slopes = np.zeros_like(values)
    if order:
        slopes = values[:, :-1] @ legendre.legder(np.eye(order + 1)) * per_pixel
    return values, slopes


def _as_matrix(coefficients: np.ndarray, order: int) -> np.ndarray:
    """Coefficients of `spatial.terms` as a matrix (power of y, power of x)."""
    matrix = np.zeros((order + 1, order + 1))
    powers = [(total - i, i) for total in range(order + 1) for i in range(total, -1, -1)]
    matrix[tuple(np.transpose(powers))] = coefficients
    return matrix


def fit_transform(
    x_from: np.ndarray,
    y_from: np.ndarray,
    x_to: np.ndarray,
    y_to: np.ndarray,
    shape: tuple[int, int],
    order: int,
    *,
    error_pix: np.ndarray | None = None,
    start: Transform | None = None,
) -> Transform:
    """Least-squares polynomial map through pairs of positions, weighted by their errors.

    Parameters
    ----------
    x_from, y_from, x_to, y_to : ndarray, shape (n,)
        0-based pixels.
    shape : (ny, nx)
        Of the frame of the first two.
    order : int
        With `start`, 0 is allowed and means a shift of it.
    error_pix : ndarray, shape (n,), optional
        Standard errors per axis; all equal without.
    start : Transform, optional
        A map whose non-linear part is kept and corrected: coefficients above the first order are drawn
        to it with `NONLINEAR_PRIOR_PIX`. Its linear part is forgotten, except for order 0.
    """
    n = len(x_from)
    weight = np.ones(n) if error_pix is None else 1 / error_pix
    total_order = order if start is None else max(order, start.order)
    kept = np.zeros((spatial.n_terms(total_order), 2))
    if start is not None:
        first = 0 if order == 0 else spatial.n_terms(1)
        old = np.column_stack([start.x_coefficients, start.y_coefficients])
        kept[first : len(old)] = old[first:]
    target = np.column_stack([x_to, y_to])
    wanted = target - spatial.terms(x_from, y_from, shape, total_order) @ kept
    position_terms = spatial.terms(x_from, y_from, shape, order)
    n_terms = position_terms.shape[1]
    prior = np.eye(n_terms)[spatial.n_terms(1) :] / NONLINEAR_PRIOR_PIX
    if start is None:
        prior = prior[:0]
    design = np.concatenate([position_terms * weight[:, None], prior])
    right = np.concatenate([wanted * weight[:, None], np.zeros((len(prior), 2))])
    solution, *_ = np.linalg.lstsq(design, right, rcond=None)
    residual = wanted - position_terms @ solution
    freedom = max(1 - n_terms / max(n, 1), 1 / max(n, 1))
    rms = float(np.sqrt(np.average((residual**2).mean(axis=1), weights=weight**2) / freedom))
    # Each weighted row has variance chi2; the mean leverage gives the error of the fitted map.
    chi2 = float(((residual * weight[:, None]) ** 2).mean()) / freedom
    leverage = np.einsum("nt,nt->n", position_terms @ np.linalg.pinv(design.T @ design), position_terms)
    kept[:n_terms] += solution
    return Transform(
        kept[:, 0], kept[:, 1], total_order, shape, n, rms, float(np.sqrt(max(chi2 * leverage.mean(), 0)))
    )


def transform_from_wcs(wcs_from: WCS, wcs_to: WCS, shape: tuple[int, int]) -> Transform:
    """Cubic approximation of pixel -> sky -> pixel over a frame; unrefined.

    Raises
    ------
    InputError
        If the frames are on different parts of the sky.
    """
    ny, nx = shape
    grid_y, grid_x = (
        axis.ravel() for axis in np.meshgrid(np.linspace(0, ny - 1, 12), np.linspace(0, nx - 1, 12))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # far from its field a WCS may diverge: those points are NaN
        to_x, to_y = wcs_to.world_to_pixel_values(*wcs_from.pixel_to_world_values(grid_x, grid_y))
    good = np.isfinite(to_x) & np.isfinite(to_y)
    if good.sum() < 20:
        raise InputError("its WCS does not overlap with the reference's")
    transform = fit_transform(grid_x[good], grid_y[good], to_x[good], to_y[good], shape, WCS_ORDER)
    return replace(transform, n_matches=0, rms_pix=float("nan"), error_pix=float("nan"))
