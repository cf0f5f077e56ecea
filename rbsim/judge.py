"""What each detection of a frame is: a star of the truth, a known object, an artefact, or not known."""

from dataclasses import dataclass, replace

import numpy as np

from rbsim import schema
from rbsim.asked import AskedStars
from rbsim.cause import TrueArtefacts, causes_of, joined, onto_frame
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.detect import Detections, peak_width, position_error, psfs_by_tile
from rbsim.known import KnownInFrame, known_row
from rbsim.match import Matches, match
from rbsim.true_transients import TrueTransients

MIN_RADIUS_PIX = 0.5
MIN_RADIUS_FWHM = 0.3
"""Smallest match radius. The position error knows the noise, not the residual of a host or neighbour: at
0.7 FWHM from the star and with half of its S/N, that moves the peak by 0.2 FWHM."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Detections without injection, and what each of them is; arrays of shape (n,).

    Attributes
    ----------
    detections : Detections
    kind : codes of schema.KINDS.
    known_row : row in the catalogue of known objects, -1 without one.
    cause : codes of schema.ARTEFACTS, `schema.NO_CAUSE` without one.
    """

    detections: Detections
    kind: np.ndarray
    known_row: np.ndarray
    cause: np.ndarray


def match_truth(
    frame: Subtracted,
    truth_xy: np.ndarray,
    truth_snr: np.ndarray | None,
    found: Detections,
    before: Detections | None,
    config: InjectConfig,
) -> Matches:
    """Match stars of the truth to detections, see `rbsim.match.match`; from 0.3 to one FWHM apart at most.

    Parameters
    ----------
    frame : Subtracted
    truth_xy : ndarray, shape (n, 2)
        NaN never matches.
    truth_snr : ndarray, shape (n,), or None
        Expected S/N; None where it is not known, then the detections' own errors decide.
    found, before : Detections
        On the difference with and without the stars; None: nothing was detected before.
    config : InjectConfig
    """
    fwhm = frame.psf.fwhm_pix
    error = np.zeros(len(truth_xy))
    drawn = np.isfinite(truth_xy).all(axis=1)
    if truth_snr is not None and drawn.any():
        psfs, tile = psfs_by_tile(frame.difference.psf_at, *truth_xy[drawn].T)
        error[drawn] = position_error(truth_snr[drawn], peak_width(psfs)[tile])
    return match(
        truth_xy,
        _positions(found),
        np.empty((0, 2)) if before is None else _positions(before),
        truth_err_pix=error,
        detected_err_pix=found.position_err_pix,
        radius_sigma=config.match_radius_sigma,
        min_radius_pix=max(MIN_RADIUS_PIX, MIN_RADIUS_FWHM * fwhm),
        max_radius_pix=max(MIN_RADIUS_PIX, fwhm),
    )


def match_asked(
    frame: Subtracted,
    asked: AskedStars,
    drawn: np.ndarray,
    found: Detections,
    before: Detections,
    config: InjectConfig,
) -> Matches:
    """Match injected stars to detections of their sign; trails to the strongest detection along them.

    Parameters
    ----------
    frame : Subtracted
    asked : AskedStars
    drawn : ndarray of bool, shape (n,)
        Others never match.
    found, before : Detections
        On the difference with and without the stars.
    config : InjectConfig

    Returns
    -------
    Matches
        Rows of `found`; the separation of a trail is that from its line. Unmatched are only positive
        detections.
    """
    positive = _match_sign(frame, asked, drawn & ~asked.is_negative, found, before, config, positive=True)
    if not asked.is_negative.any():
        return positive
    negative = _match_sign(frame, asked, drawn & asked.is_negative, found, before, config, positive=False)
    return Matches(
        detection=np.where(asked.is_negative, negative.detection, positive.detection),
        separation_pix=np.where(asked.is_negative, negative.separation_pix, positive.separation_pix),
        ambiguous=np.where(asked.is_negative, negative.ambiguous, positive.ambiguous),
        unmatched=positive.unmatched,
    )


def _match_sign(
    frame: Subtracted,
    asked: AskedStars,
    wanted: np.ndarray,
    found: Detections,
    before: Detections,
    config: InjectConfig,
    *,
    positive: bool,
) -> Matches:
    rows = np.flatnonzero(found.is_positive == positive)
    here = found.select(rows)
    truth_xy = np.column_stack([asked.x_pix, asked.y_pix])
    truth_xy[~wanted] = np.nan
    trails = np.flatnonzero(wanted & (asked.trail_length_pix > 0))
    truth_xy[trails] = _brightest_along(
        asked, trails, here, reach_pix=max(MIN_RADIUS_PIX, frame.psf.fwhm_pix)
    )
    earlier = before.select(before.is_positive == positive)
    matches = match_truth(frame, truth_xy, np.abs(asked.snr), here, earlier, config)
    return replace(
        matches,
        detection=np.where(matches.detection >= 0, rows[matches.detection], -1)
        if len(rows)
        else matches.detection,
        unmatched=rows[matches.unmatched],
    )


def _brightest_along(
    asked: AskedStars, trails: np.ndarray, found: Detections, *, reach_pix: float
) -> np.ndarray:
    """Point of each trail that is nearest to the strongest detection along it; its middle without one."""
    middle = np.column_stack([asked.x_pix, asked.y_pix])[trails]
    if not (len(trails) and len(found)):
        return middle
    place, distance, along = _from_lines(
        _positions(found), middle, asked.trail_length_pix[trails], asked.trail_angle_deg[trails]
    )
    height = np.where(distance <= reach_pix, np.abs(found.snr), 0)
    best = np.argmax(height, axis=1)
    rows = np.arange(len(trails))
    return middle + np.where(height[rows, best] > 0, place[rows, best], 0)[:, None] * along


def _from_lines(
    xy: np.ndarray, middle: np.ndarray, length_pix: np.ndarray, angle_deg: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest places along lines and the distances to them, (lines, n); the lines' directions, (lines, 2)."""
    angle = np.radians(angle_deg)
    along = np.column_stack([np.cos(angle), np.sin(angle)])
    half = length_pix[:, None] / 2
    off = xy[None] - middle[:, None]
    place = np.clip((off * along[:, None]).sum(axis=2), -half, half)
    return place, np.linalg.norm(off - place[..., None] * along[:, None], axis=2), along


def find_transients(
    frame: Subtracted, transients: TrueTransients, found: Detections, config: InjectConfig
) -> np.ndarray:
    """Which detections are the emulator's transients, bool, shape (n,); never negative ones.

    A point is the one detection that matches it. A trail is every detection within one FWHM of its line: a
    filter for points finds it piece by piece, and the light of each piece is as real as that of the next.
    """
    real = on_trail(transients, found, reach_pix=max(MIN_RADIUS_PIX, frame.psf.fwhm_pix))
    positive = np.flatnonzero(found.is_positive & ~real)
    points = transients.xy
    points[transients.is_trail] = np.nan
    matches = match_truth(frame, points, None, found.select(positive), None, config)
    real[positive[matches.detection[matches.detection >= 0]]] = True
    return real


def on_trail(transients: TrueTransients, found: Detections, *, reach_pix: float) -> np.ndarray:
    """Which positive detections lie within `reach_pix` of the line of a trail, bool, shape (n,)."""
    trails = transients.is_trail
    if not trails.any():
        return np.zeros(len(found), bool)
    _, distance, _ = _from_lines(
        _positions(found),
        transients.xy[trails],
        transients.trail_length_pix[trails],
        transients.trail_angle_deg[trails],
    )
    return np.asarray(found.is_positive & (distance <= reach_pix).any(axis=0))


def judge(
    frame: Subtracted,
    detections: Detections,
    config: InjectConfig,
    *,
    known: KnownInFrame | None,
    transients: TrueTransients | None,
    artefacts: TrueArtefacts | None,
    reference_artefacts: TrueArtefacts | None,
) -> Judged:
    """Kind and cause of what is detected without injection.

    Parameters
    ----------
    frame : Subtracted
    detections : Detections
        Of both signs.
    config : InjectConfig
    known : KnownInFrame or None
        Positive detections on them are known objects.
    transients : TrueTransients or None
        Of the emulator; they win over known objects. None for a real frame.
    artefacts, reference_artefacts : TrueArtefacts or None
        Of the frame, and of the reference in its own pixels. What is neither transient nor known gets its
        cause from them, and so do the pieces of a trail, which is among them too.
    """
    codes, positive = schema.KIND_CODES, detections.is_positive
    other = codes["detection" if transients is None else "artefact"]
    kind = np.where(positive, other, codes["negative"])
    rows = known_row(known, detections.x_pix, detections.y_pix)
    kind[positive & (rows >= 0)] = codes["known_object"]
    has_cause = np.zeros(len(detections), bool)
    if transients is not None:
        kind[find_transients(frame, transients, detections, config)] = codes["emulated_transient"]
        has_cause = on_trail(transients, detections, reach_pix=max(MIN_RADIUS_PIX, frame.psf.fwhm_pix))
    cause = np.full(len(detections), schema.NO_CAUSE, np.int8)
    if artefacts is not None:
        if reference_artefacts is not None:
            artefacts = joined(artefacts, onto_frame(reference_artefacts, frame.transform))
        has_cause |= (kind == codes["artefact"]) | (kind == codes["negative"])
        cause[has_cause] = causes_of(
            detections.x_pix[has_cause],
            detections.y_pix[has_cause],
            positive[has_cause],
            artefacts,
            fwhm_pix=frame.psf.fwhm_pix,
            snr=detections.snr[has_cause],
        )
    return Judged(detections, kind.astype(np.int8), rows, cause)


def _positions(detections: Detections) -> np.ndarray:
    return np.column_stack([detections.x_pix, detections.y_pix])
