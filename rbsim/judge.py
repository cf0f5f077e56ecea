"""What each detection of a frame is: a star of the truth, a known object, an artefact, or not known."""

from dataclasses import dataclass

import numpy as np

from rbsim import schema
from rbsim.cause import TrueArtefacts, causes_of, joined, onto_frame
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.detect import Detections, peak_width, position_error, psfs_by_tile
from rbsim.known import KnownInFrame, known_row
from rbsim.match import Matches, match

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


def judge(
    frame: Subtracted,
    detections: Detections,
    config: InjectConfig,
    *,
    known: KnownInFrame | None,
    transients_xy: np.ndarray | None,
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
    transients_xy : ndarray, shape (m, 2), or None
        The emulator's transients, which win over known objects; None for a real frame.
    artefacts, reference_artefacts : TrueArtefacts or None
        Of the frame, and of the reference in its own pixels.
    """
    codes, positive = schema.KIND_CODES, detections.is_positive
    other = codes["detection" if transients_xy is None else "artefact"]
    kind = np.where(positive, other, codes["negative"])
    rows = known_row(known, detections.x_pix, detections.y_pix)
    kind[positive & (rows >= 0)] = codes["known_object"]
    if transients_xy is not None and positive.any():
        matches = match_truth(frame, transients_xy, None, detections.select(positive), None, config)
        hit = matches.detection[matches.detection >= 0]
        kind[np.flatnonzero(positive)[hit]] = codes["emulated_transient"]
    cause = np.full(len(detections), schema.NO_CAUSE, np.int8)
    if artefacts is not None:
        if reference_artefacts is not None:
            artefacts = joined(artefacts, onto_frame(reference_artefacts, frame.transform))
        false = (kind == codes["artefact"]) | (kind == codes["negative"])
        cause[false] = causes_of(
            detections.x_pix[false],
            detections.y_pix[false],
            positive[false],
            artefacts,
            fwhm_pix=frame.psf.fwhm_pix,
        )
    return Judged(detections, kind.astype(np.int8), rows, cause)


def _positions(detections: Detections) -> np.ndarray:
    return np.column_stack([detections.x_pix, detections.y_pix])
