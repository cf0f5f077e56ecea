"""Registration of two frames by WCS or star patterns, refined on stars."""

import logging
from dataclasses import replace

import astroalign
import numpy as np
from astropy.wcs import WCS
from scipy.spatial import cKDTree

from rbsim import spatial
from rbsim.errors import InputError
from rbsim.sources import Sources
from rbsim.transform import Transform, fit_transform, transform_from_wcs

log = logging.getLogger(__name__)

MAX_RMS_PIX = 0.3
"""Largest weighted residual of the matched stars, per axis. Good frames have 0.02 to 0.1; a false or failed
match has the scatter of its search radius, 0.5 and more."""
MIN_MATCHES = 5
MAX_WCS_ERROR_PIX = 30.0
MATCH_RADIUS_PIX = 4.0
MATCH_STARS = 1000
PATTERN_STARS = 60
CENTROID_FLOOR_PIX = 0.05
"""What pixels, blends and neighbours do to a centroid, whatever its S/N."""
STARS_OF_ORDER = ((0, MIN_MATCHES), (1, 6), (2, 10), (3, 15))
"""Matches from which on a correction of each order is tried."""


def transform_from_patterns(stars_from: Sources, stars_to: Sources, shape: tuple[int, int]) -> Transform:
    """Similarity transform from triangles of bright stars (astroalign); unrefined.

    Parameters
    ----------
    stars_from, stars_to : Sources
        Brightest first.
    shape : (ny, nx)
        Of the frame of `stars_from`.

    Raises
    ------
    InputError
        If no consistent pattern is found.
    """
    xy_from, xy_to = (np.column_stack([s.x_pix, s.y_pix]) for s in (stars_from, stars_to))
    tries = [(PATTERN_STARS, PATTERN_STARS)]
    # Of the brightest stars of a larger frame fewer lie in the other: then take equal numbers per area.
    ratio = float(np.ptp(xy_to, axis=0).prod() / np.ptp(xy_from, axis=0).prod())
    if not 1 / 1.5 < ratio < 1.5:
        few = PATTERN_STARS // 2
        tries.insert(0, (min(round(few * max(1 / ratio, 1)), 150), min(round(few * max(ratio, 1)), 150)))
    for n_from, n_to in tries:
        try:
            found, _ = astroalign.find_transform(
                xy_from[:n_from], xy_to[:n_to], max_control_points=max(n_from, n_to)
            )
        except (astroalign.MaxIterError, TypeError, ValueError):
            continue
        ny, nx = shape
        corners = np.array([[0, 0], [nx, 0], [0, ny], [nx, ny]], float)
        to = found(corners)
        bare = fit_transform(corners[:, 0], corners[:, 1], to[:, 0], to[:, 1], shape, 1)
        return replace(bare, n_matches=0, rms_pix=float("nan"), error_pix=float("nan"))
    raise InputError(
        f"its star pattern does not match the reference's ({len(stars_from)} and {len(stars_to)} stars);"
        " is it the same field, with overlap?"
    )


def refine(
    start: Transform,
    stars_from: Sources,
    stars_to: Sources,
    *,
    search_pix: float = MATCH_RADIUS_PIX,
    keep_linear: bool = True,
) -> Transform:
    """Improve a transform on matched stars.

    The constant offset comes first, as the densest place among the differences of all pairs within
    `search_pix`. Then mutual nearest neighbours are fitted with a shrinking radius, and with clipping of
    what disagrees (false matches, proper motion, blends). The correction has the order, from a shift to
    cubic, that the number of matches and their scatter justify (AICc with a robust likelihood).

    Parameters
    ----------
    start : Transform
    stars_from, stars_to : Sources
        Brightest first.
    search_pix : float
        How far `start` may be off.
    keep_linear : bool
        Whether a mere shift of `start` is a possible result; else its linear part is measured anew.

    Raises
    ------
    InputError
        If too few stars match, no more than by chance, or they scatter by more than `MAX_RMS_PIX`.
    """
    a, b = _in_overlap(start, stars_from, stars_to, search_pix)
    if min(len(a), len(b)) < MIN_MATCHES:
        raise InputError(
            f"only {len(a)} of its stars and {len(b)} of the reference's lie in the overlap;"
            f" registration needs {MIN_MATCHES}"
        )
    tree = cKDTree(np.column_stack([b.x_pix, b.y_pix]))
    current = start.shifted(*_offset(start, a, tree, search_pix))
    radius = MATCH_RADIUS_PIX
    max_order = 1
    for _ in range(6):
        x, y = current.apply(a.x_pix, a.y_pix)
        distance, partner = tree.query(np.column_stack([x, y]), distance_upper_bound=radius)
        rows = _mutual(distance, partner)
        if len(rows) < MIN_MATCHES:
            raise InputError(
                f"only {len(rows)} stars in common with the reference, needs {MIN_MATCHES}; is there overlap?"
            )
        pair = a.select(rows), b.select(partner[rows])
        current = _fit_best_order(start, *pair, max_order=max_order, keep_linear=keep_linear)
        radius, max_order = float(np.clip(5 * current.rms_pix, 0.5, radius)), 3
    _check(current, a, b)
    return current


def _in_overlap(
    start: Transform, stars_from: Sources, stars_to: Sources, margin_pix: float
) -> tuple[Sources, Sources]:
    """The brightest unsaturated stars of both in the part of the sky that both cover."""
    a, b = (stars.select(~stars.saturated) for stars in (stars_from, stars_to))
    if len(a) < MIN_MATCHES or len(b) < MIN_MATCHES:
        return a, b
    x, y = start.apply(a.x_pix, a.y_pix)
    a = a.select(_within(x, y, b.x_pix, b.y_pix, margin_pix))
    b = b.select(_within(b.x_pix, b.y_pix, x, y, margin_pix))
    # A deep reference has many faint stars that the frame lacks; they would only be false partners.
    n_to = min(MATCH_STARS, max(4 * len(a), 200))
    return a.select(np.arange(len(a)) < MATCH_STARS), b.select(np.arange(len(b)) < n_to)


def _within(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray, margin: float) -> np.ndarray:
    inside_x = (x > of_x.min() - margin) & (x < of_x.max() + margin)
    return np.asarray(inside_x & (y > of_y.min() - margin) & (y < of_y.max() + margin))


def _offset(start: Transform, stars: Sources, tree: cKDTree, search_pix: float) -> tuple[float, float]:
    """Constant that the map lacks: where the differences of all pairs crowd most, (x, y) in pixels."""
    at = np.column_stack(start.apply(stars.x_pix, stars.y_pix))
    partners = tree.query_ball_point(at, search_pix)
    n_partners = np.array([len(found) for found in partners])
    if not n_partners.sum():
        raise InputError(f"none of its {len(stars)} stars has a partner within {search_pix:.0f} px")
    difference = tree.data[np.concatenate(partners).astype(int)] - np.repeat(at, n_partners, axis=0)
    differences = cKDTree(difference)
    near = np.minimum(MATCH_RADIUS_PIX / 2, search_pix)
    crowd = differences.query_ball_point(difference, near, return_length=True)
    members = differences.query_ball_point(difference[np.argmax(crowd)], near)
    x, y = np.median(difference[members], axis=0)
    return float(x), float(y)


def _mutual(distance: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Rows whose partner is not closer to another row."""
    rows = np.flatnonzero(np.isfinite(distance))
    rows = rows[np.argsort(distance[rows], kind="stable")]
    _, first = np.unique(partner[rows], return_index=True)
    return np.sort(rows[first])


def _centroid_error(stars: Sources) -> np.ndarray:
    """Standard error of the centroids, px: width over S/N, with a floor for what the pixels do to them."""
    return np.hypot(stars.radius_half_pix / np.maximum(stars.snr, 1), CENTROID_FLOOR_PIX)


def _fit_best_order(
    start: Transform, a: Sources, b: Sources, *, max_order: int, keep_linear: bool
) -> Transform:
    """Clipped fit of the order with the lowest Akaike criterion, corrected for small samples (AICc)."""
    n = len(a)
    error = np.hypot(_centroid_error(a), _centroid_error(b))
    best, lowest = None, np.inf
    for order, needed in STARS_OF_ORDER:
        if order > max_order or n < needed or (order == 0 and not keep_linear):
            continue
        fit, deviation = _fit_clipped(start, a, b, error, order)
        n_parameters = 2 * spatial.n_terms(order) + 1
        penalty = 2 * n_parameters * (1 + (n_parameters + 1) / max(2 * n - n_parameters - 1, 1))
        criterion = _robust_deviance(deviation) + penalty
        if criterion < lowest:
            best, lowest = fit, criterion
    if best is None:
        raise InputError(f"only {n} stars in common with the reference, needs {STARS_OF_ORDER[1][1]}")
    return best


def _fit_clipped(
    start: Transform, a: Sources, b: Sources, error_pix: np.ndarray, order: int
) -> tuple[Transform, np.ndarray]:
    """Fit without the pairs that disagree with it, and the deviation of all pairs over their errors."""
    keep = np.ones(len(a), bool)
    for _ in range(6):
        fit = fit_transform(
            a.x_pix[keep],
            a.y_pix[keep],
            b.x_pix[keep],
            b.y_pix[keep],
            start.from_shape,
            order,
            error_pix=error_pix[keep],
            start=start,
        )
        x, y = fit.apply(a.x_pix, a.y_pix)
        deviation = np.hypot(b.x_pix - x, b.y_pix - y) / error_pix
        # The median of a Rayleigh distribution is 1.1774 sigma; at 4 sigma one pair in 3,000 is lost.
        kept = deviation <= 4 * max(float(np.median(deviation[keep])) / 1.1774, 0.5)
        if kept.sum() < max(MIN_MATCHES, spatial.n_terms(order)) or np.array_equal(kept, keep):
            break
        keep = kept
    return fit, deviation


def _robust_deviance(deviation: np.ndarray) -> float:
    """-2 log likelihood of deviations in two dimensions under Student's t with 4 degrees of freedom.

    At its own best scale. Unlike with a sum of squares, a few false pairs do not make a high order
    look better because it bends towards them.
    """
    freedom = 4.0
    squares = deviation**2
    scale2 = max(float(np.median(squares)) / 1.386, 1e-12)
    for _ in range(30):
        weight = (freedom + 2) / (freedom + squares / scale2)
        scale2 = max(float(np.mean(weight * squares)) / 2, 1e-12)
    return float(np.sum(2 * np.log(scale2) + (freedom + 2) * np.log1p(squares / (freedom * scale2))))


def _check(transform: Transform, a: Sources, b: Sources) -> None:
    """Refuse a map that fits badly, or whose matches may all be chance."""
    n = transform.n_matches
    measured = f"{transform.rms_pix:.2f} px rms over {n} of {len(a)} stars"
    log.debug("registered with %s, order %d", measured, transform.order)
    if transform.rms_pix > MAX_RMS_PIX:
        raise InputError(f"registration residual is {measured}, allowed {MAX_RMS_PIX} px")
    # Pairs count as matched within this radius; among them 5 parameters and clipping pick the best set.
    radius = float(np.clip(5 * transform.rms_pix, 1.0, MATCH_RADIUS_PIX))
    area = max(float(np.ptp(b.x_pix) * np.ptp(b.y_pix)), 1.0)
    by_chance = len(a) * min(len(b) * np.pi * radius**2 / area, 1.0)
    needed = MIN_MATCHES + min(4 * by_chance, 0.5 * len(a))
    if n < needed:
        raise InputError(
            f"registration residual is {measured}, and as many may match by chance"
            f" (needs {int(np.ceil(needed))}); is it the same field, with overlap?"
        )


def register(
    stars_from: Sources,
    wcs_from: WCS | None,
    shape_from: tuple[int, int],
    stars_to: Sources,
    wcs_to: WCS | None,
) -> Transform:
    """Map from one frame to another: by WCS where both have one, by star patterns otherwise, then refined.

    Parameters
    ----------
    stars_from, stars_to : Sources
        Brightest first.
    wcs_from, wcs_to : astropy.wcs.WCS or None
    shape_from : (ny, nx)

    Returns
    -------
    Transform
        From pixels of the first frame to those of the second, with its residual and error.

    Raises
    ------
    InputError
        If there are too few stars, or the frames do not overlap or do not match; with the measured
        residual where one could be measured.
    """
    for stars, whose in ((stars_from, "it"), (stars_to, "the reference")):
        n_saturated = int(np.count_nonzero(stars.saturated))
        n = len(stars) - n_saturated
        if n < MIN_MATCHES:
            raise InputError(
                f"only {n} {'unsaturated ' if n_saturated else ''}stars found on {whose}"
                f"{f', beside {n_saturated} saturated ones' if n_saturated else ''};"
                f" registration needs {MIN_MATCHES}, better 20: check focus, clouds and mask"
                f"{', and the saturation level' if n_saturated else ''}"
            )
    wcs_failure = ""
    if wcs_from is not None and wcs_to is not None:
        try:
            start = transform_from_wcs(wcs_from, wcs_to, shape_from)
            return refine(start, stars_from, stars_to, search_pix=MAX_WCS_ERROR_PIX)
        except InputError as error:
            log.info("the WCS does not lead to common stars (%s); trying star patterns", error)
            wcs_failure = f"by WCS: {error}; by star patterns: "
    try:
        start = transform_from_patterns(stars_from, stars_to, shape_from)
        return refine(start, stars_from, stars_to, keep_linear=False)
    except InputError as error:
        raise InputError(f"{wcs_failure}{error}") from error
