"""Stamps where an injected star should be and is not: on a mask, in a saturated core, below the noise."""

import numpy as np
from scipy.spatial import cKDTree

from rbsim import schema
from rbsim.asked import AskedStars
from rbsim.detect import Detections
from rbsim.inject import Injected
from rbsim.match import Matches
from rbsim.schema import INJECTION_FLAG
from rbsim.significance import MatchedFilter
from rbsim.stamps import Stamps, choose_apart

NOWHERE = sum(
    INJECTION_FLAG[name]
    for name in (
        *("MAG_BAD", "TYPE_UNKNOWN", "NO_OVERLAP", "PSF_COMPUTE_ERROR", "CROWDED"),
        *("NO_CUBE", "NO_STAR", "NO_SCALE", "PARAMETER_BAD"),
    )
)
"""Flags of stars that were not asked for properly, or for which the frame has no room: they are not lost."""


def lost_stars(
    asked: AskedStars,
    stars: Injected,
    matches: Matches,
    found: Detections,
    before: Detections,
    *,
    reach_pix: float,
) -> np.ndarray:
    """Which stars were asked for, and are not to be seen.

    Not those that fade, nor glints, which nobody would call real; and not those with a new detection within
    reach that another star got: something shines there.

    Parameters
    ----------
    asked : AskedStars
    stars : Injected
    matches : Matches
        Of the stars, rows of `found`.
    found, before : Detections
        On the difference with and without the stars.
    reach_pix : float
        How far from a star, or from the line of a trail, its light may be detected.

    Returns
    -------
    ndarray of int
        Rows of `asked`, ascending.
    """
    ny, nx = stars.science.shape
    on_frame = (asked.x_pix > -0.5) & (asked.x_pix < nx - 0.5)
    on_frame &= (asked.y_pix > -0.5) & (asked.y_pix < ny - 0.5)  # False for NaN
    lost = on_frame & ((stars.flag & NOWHERE) == 0) & (matches.detection < 0) & (asked.net_flux_adu > 0)
    lost &= asked.kind != schema.KIND_CODES["injected_glint"]
    rows = np.flatnonzero(lost)
    new = _new(found, before, reach_pix)
    return rows[_distance(asked, rows, new) > reach_pix]


def as_detections(x: np.ndarray, y: np.ndarray, filtered: MatchedFilter) -> Detections:
    """What the S/N map has at positions, shape (n,), as if it had been detected; NaN for errors not known."""
    column, line = np.rint(x).astype(int), np.rint(y).astype(int)
    error = filtered.flux_err_adu[line, column]
    return Detections(
        x_pix=x,
        y_pix=y,
        snr=filtered.flux_adu[line, column] / error,
        flux_adu=filtered.flux_adu[line, column],
        flux_err_adu=np.where(np.isfinite(error), error, np.nan),
        position_err_pix=np.full(len(x), np.nan),
        is_positive=np.ones(len(x), bool),
    )


def choose_lost(
    cut: Stamps,
    at: Detections,
    ambiguous: np.ndarray,
    on_mask: np.ndarray,
    is_full: np.ndarray,
    taken: Detections,
    *,
    threshold_snr: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Which stamps of lost stars to keep, and the flags of all, which tell the reason.

    Left out are stamps without any pixel of the science frame, stars that merge with something that was
    there before (the noise did not hide them), and stamps that share pixels with others.

    Parameters
    ----------
    cut : Stamps
        Of n places.
    at : Detections
        The places.
    ambiguous, on_mask, is_full : ndarray of bool, shape (n,)
        Something was detected there before; the star was not drawn, as there is no pixel; the central pixel
        was saturated without the star.
    taken : Detections
        What has stamps in this realisation.
    threshold_snr : float
        Of detections; where the S/N map reaches it, something is to be seen, also beside a core.
    rng : numpy.random.Generator
        Which of two that overlap is kept.

    Returns
    -------
    rows : ndarray of int
    flags : ndarray, shape (n,), uint32
    """
    flags = cut.flags | np.where(on_mask, np.uint32(schema.CANDIDATE_FLAG["ON_MASK"]), np.uint32(0))
    has_pixels = np.isfinite(cut.pixels[:, schema.CHANNELS.index("science")]).any(axis=(1, 2))
    shines = ambiguous | (np.abs(at.snr) >= threshold_snr)
    good = np.flatnonzero(has_pixels & (on_mask | is_full | ~shines))
    apart = choose_apart(
        at.x_pix[good],
        at.y_pix[good],
        first=np.zeros(len(good), bool),
        rng=rng,
        taken=np.column_stack([taken.x_pix, taken.y_pix]),
    )
    return good[apart], flags


def _new(found: Detections, before: Detections, reach_pix: float) -> np.ndarray:
    """Positions of positive detections that the stars brought, shape (n, 2)."""
    xy, old = (np.column_stack([some.x_pix, some.y_pix])[some.is_positive] for some in (found, before))
    if not (len(xy) and len(old)):
        return np.asarray(xy)
    return np.asarray(xy[cKDTree(old).query(xy)[0] > reach_pix])


def _distance(asked: AskedStars, rows: np.ndarray, xy_pix: np.ndarray) -> np.ndarray:
    """Distance of stars, or of the lines of trails, to the nearest of some positions; inf without any."""
    if not (len(rows) and len(xy_pix)):
        return np.full(len(rows), np.inf)
    angle = np.radians(asked.trail_angle_deg[rows])
    along = np.column_stack([np.cos(angle), np.sin(angle)])
    half = asked.trail_length_pix[rows, None] / 2
    off = xy_pix[None] - np.column_stack([asked.x_pix[rows], asked.y_pix[rows]])[:, None]
    place = np.clip((off * along[:, None]).sum(axis=2), -half, half)
    return np.asarray(np.linalg.norm(off - place[..., None] * along[:, None], axis=2).min(axis=1))
