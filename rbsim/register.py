"""Registration of two frames by WCS or star patterns, refined on stars."""

import logging
import warnings
from dataclasses import dataclass, replace

import astroalign
import numpy as np
from astropy.wcs import WCS
from scipy.spatial import cKDTree

from rbsim import spatial
from rbsim.errors import InputError
from rbsim.sources import Sources

log = logging.getLogger(__name__)

MIN_MATCHES = 3
MAX_RMS_PIX = 1.0
PATTERN_STARS = 60


@dataclass(frozen=True, eq=False)
class Transform:
    """Polynomial map from pixels of one frame to pixels of another.

    Attributes
    ----------
    x_coefficients, y_coefficients : ndarray, shape (n_terms,)
        For `spatial.terms` of `from_shape`.
    order : int
    from_shape : (ny, nx)
    n_matches : int
        Stars behind the last refinement; 0 for a bare WCS.
    rms_pix : float
        Their residual per axis in pixels of the target; NaN for a bare WCS.
    """

    x_coefficients: np.ndarray
    y_coefficients: np.ndarray
    order: int
    from_shape: tuple[int, int]
    n_matches: int
    rms_pix: float

    def apply(self, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the target frame."""
        position_terms = spatial.terms(np.ravel(x_pix), np.ravel(y_pix), self.from_shape, self.order)
        shape = np.shape(x_pix)
        return (position_terms @ self.x_coefficients).reshape(shape), (
            position_terms @ self.y_coefficients
        ).reshape(shape)

    def invert(self, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the source frame of target positions, by Newton steps with a constant Jacobian."""
        ny, nx = self.from_shape
        jacobian_inverse = np.linalg.inv(self.jacobian(np.array([nx / 2]), np.array([ny / 2]))[0])
        guess_x, guess_y = np.full(np.shape(x_pix), nx / 2), np.full(np.shape(y_pix), ny / 2)
        for _ in range(20):
            at_x, at_y = self.apply(guess_x, guess_y)
            step = np.stack([x_pix - at_x, y_pix - at_y], axis=-1) @ jacobian_inverse.T
            guess_x, guess_y = guess_x + step[..., 0], guess_y + step[..., 1]
        return guess_x, guess_y

    def jacobian(self, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """d(target) / d(source) at positions, shape (n, 2, 2)."""
        step = 0.5
        right, left = self.apply(x_pix + step, y_pix), self.apply(x_pix - step, y_pix)
        up, down = self.apply(x_pix, y_pix + step), self.apply(x_pix, y_pix - step)
        along_x = np.stack([right[0] - left[0], right[1] - left[1]], axis=-1)
        along_y = np.stack([up[0] - down[0], up[1] - down[1]], axis=-1)
        return np.stack([along_x, along_y], axis=-1)


def fit_transform(
    x_from: np.ndarray,
    y_from: np.ndarray,
    x_to: np.ndarray,
    y_to: np.ndarray,
    shape: tuple[int, int],
    order: int,
    *,
    error_pix: np.ndarray | None = None,
) -> Transform:
    """Least-squares polynomial map through pairs of positions (0-based pixels), weighted by their errors."""
    position_terms = spatial.terms(x_from, y_from, shape, order)
    weight = np.ones(len(x_from)) if error_pix is None else 1 / error_pix
    target = np.column_stack([x_to, y_to])
    solution, *_ = np.linalg.lstsq(position_terms * weight[:, None], target * weight[:, None], rcond=None)
    freedom = max(1 - position_terms.shape[1] / max(len(x_from), 1), 1 / max(len(x_from), 1))
    rms = _rms(target - position_terms @ solution, weight) / np.sqrt(freedom)
    return Transform(solution[:, 0], solution[:, 1], order, shape, len(x_from), rms)


def _rms(residual: np.ndarray, weight: np.ndarray) -> float:
    """Weighted rms per axis of residuals, shape (n, 2)."""
    return float(np.sqrt(np.average((residual**2).mean(axis=1), weights=weight**2)))


def _centroid_error(stars: Sources) -> np.ndarray:
    """Standard error of the centroids, px: width over S/N, with a floor for what the pixels do to them."""
    return np.hypot(stars.radius_half_pix / np.maximum(stars.snr, 1), 0.05)


def transform_from_wcs(wcs_from: WCS, wcs_to: WCS, shape: tuple[int, int]) -> Transform:
    """Cubic approximation of pixel -> sky -> pixel over a frame; unrefined."""
    ny, nx = shape
    grid_y, grid_x = (
        axis.ravel() for axis in np.meshgrid(np.linspace(0, ny - 1, 12), np.linspace(0, nx - 1, 12))
    )
    to_x, to_y = wcs_to.world_to_pixel_values(*wcs_from.pixel_to_world_values(grid_x, grid_y))
    good = np.isfinite(to_x) & np.isfinite(to_y)
    if good.sum() < 20:
        raise InputError("its WCS does not overlap with the reference's")
    transform = fit_transform(grid_x[good], grid_y[good], to_x[good], to_y[good], shape, 3)
    return replace(transform, n_matches=0, rms_pix=float("nan"))


def transform_from_patterns(stars_from: Sources, stars_to: Sources, shape: tuple[int, int]) -> Transform:
    """Similarity transform from triangles of bright stars (astroalign); unrefined.

    Raises
    ------
    InputError
        If no consistent pattern is found.
    """
    brightest = (
        np.column_stack([s.x_pix[:PATTERN_STARS], s.y_pix[:PATTERN_STARS]]) for s in (stars_from, stars_to)
    )
    try:
        found, _ = astroalign.find_transform(*brightest, max_control_points=PATTERN_STARS)
    except (astroalign.MaxIterError, TypeError, ValueError) as error:
        raise InputError(
            f"its star pattern does not match the reference's ({len(stars_from)} and {len(stars_to)} stars);"
            " is it the same field, with overlap?"
        ) from error
    ny, nx = shape
    corners = np.array([[0, 0], [nx, 0], [0, ny], [nx, ny]], float)
    to = found(corners)
    bare = fit_transform(corners[:, 0], corners[:, 1], to[:, 0], to[:, 1], shape, 1)
    return replace(bare, n_matches=0, rms_pix=float("nan"))


def refine(
    transform: Transform, stars_from: Sources, stars_to: Sources, *, radius_pix: float = 4.0
) -> Transform:
    """Improve a transform on matched stars with shrinking radius and clipping.

    The order follows the number of matches: shift only below 8, affine below 40, then quadratic, cubic
    from 200.

    Raises
    ------
    InputError
        If fewer than 3 stars match, or they scatter by more than 1 px.
    """
    tree = cKDTree(np.column_stack([stars_to.x_pix, stars_to.y_pix]))
    current = transform
    for _ in range(5):
        x, y = current.apply(stars_from.x_pix, stars_from.y_pix)
        distance, partner = tree.query(np.column_stack([x, y]), distance_upper_bound=radius_pix)
        rows = _mutual(distance, partner)
        rows = rows[np.argsort(-stars_from.flux_adu[rows], kind="stable")][:1000]
        if len(rows) < MIN_MATCHES:
            raise InputError(f"only {len(rows)} stars in common with the reference; is there overlap?")
        shift = np.column_stack(
            [stars_to.x_pix[partner[rows]] - x[rows], stars_to.y_pix[partner[rows]] - y[rows]]
        )
        off = np.abs(shift - np.median(shift, axis=0)).max(axis=1)
        rows = rows[off <= max(4 * 1.4826 * float(np.median(off)), 0.1)]
        current = _fit_matches(current, stars_from, stars_to, rows, partner[rows])
        radius_pix = float(np.clip(5 * current.rms_pix, 0.5, radius_pix))
    if current.rms_pix > MAX_RMS_PIX:
        raise InputError(f"registration residual is {current.rms_pix:.2f} px rms, allowed {MAX_RMS_PIX} px")
    return current


def _mutual(distance: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Rows whose partner is not closer to another row."""
    rows = np.flatnonzero(np.isfinite(distance))
    rows = rows[np.argsort(distance[rows], kind="stable")]
    _, first = np.unique(partner[rows], return_index=True)
    return np.sort(rows[first])


def _fit_matches(
    old: Transform, stars_from: Sources, stars_to: Sources, rows: np.ndarray, partner: np.ndarray
) -> Transform:
    x_from, y_from = stars_from.x_pix[rows], stars_from.y_pix[rows]
    x_to, y_to = stars_to.x_pix[partner], stars_to.y_pix[partner]
    error = np.hypot(_centroid_error(stars_from)[rows], _centroid_error(stars_to)[partner])
    if len(rows) >= 8:
        order = 1 if len(rows) < 40 else 2 if len(rows) < 200 else 3
        return fit_transform(x_from, y_from, x_to, y_to, old.from_shape, order, error_pix=error)
    x, y = old.apply(x_from, y_from)
    residual = np.column_stack([x_to - x, y_to - y])
    shift = np.average(residual, axis=0, weights=error**-2)
    constant = np.zeros(len(old.x_coefficients))
    constant[0] = 1
    return replace(
        old,
        x_coefficients=old.x_coefficients + shift[0] * constant,
        y_coefficients=old.y_coefficients + shift[1] * constant,
        n_matches=len(rows),
        rms_pix=_rms(residual - shift, 1 / error),
    )


def register(
    stars_from: Sources,
    wcs_from: WCS | None,
    shape_from: tuple[int, int],
    stars_to: Sources,
    wcs_to: WCS | None,
) -> Transform:
    """Map from one frame to another: by WCS where both have one, by star patterns otherwise, then refined.

    Raises
    ------
    InputError
        If the frames do not overlap or do not match.
    """
    if wcs_from is not None and wcs_to is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = transform_from_wcs(wcs_from, wcs_to, shape_from)
        try:
            return refine(start, stars_from, stars_to)
        except InputError as error:
            log.info("the WCS does not lead to common stars (%s); trying star patterns", error)
    return refine(transform_from_patterns(stars_from, stars_to, shape_from), stars_from, stars_to)
