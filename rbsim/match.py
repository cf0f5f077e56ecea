"""Which detection belongs to which injected star."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True, eq=False)
class Matches:
    """One-to-one matches of truth and detections.

    Attributes
    ----------
    detection : ndarray, shape (n_truth,), int
        Row of the matching detection, -1 for none.
    separation_pix : ndarray, shape (n_truth,)
        NaN without match.
    ambiguous : ndarray of bool, shape (n_truth,)
        More than one detection or truth within the radius, or something was detected there before.
    unmatched : ndarray of int
        Detections that belong to no truth and were not there before.
    """

    detection: np.ndarray
    separation_pix: np.ndarray
    ambiguous: np.ndarray
    unmatched: np.ndarray


def match(
    truth_xy: np.ndarray,
    detected_xy: np.ndarray,
    before_xy: np.ndarray,
    *,
    truth_err_pix: np.ndarray,
    detected_err_pix: np.ndarray,
    radius_sigma: float,
    min_radius_pix: float,
    max_radius_pix: float,
) -> Matches:
    """Match truth to detections within a radius in units of the position error, nearest in sigma first.

    The truth is exact, so the error of a pair is that of the detection's position. It is known twice: as
    the truth's flux lets expect, and as the detection's own S/N says. The larger of the two counts, so
    that neither a lucky peak nor an optimistic expectation narrows the radius. The radius is
    `radius_sigma` errors, but at least `min_radius_pix`, for what the error does not know, and at most
    `max_radius_pix`: two sources closer than about one FWHM are one peak, so beyond it a detection is
    another source. For the same reason
    whatever was detected before within `max_radius_pix` makes a match ambiguous.

    The result does not depend on the order of the rows (except among rows that are equal).

    Parameters
    ----------
    truth_xy : ndarray, shape (n_truth, 2)
        Positions of the stars that were drawn; NaN never matches.
    detected_xy : ndarray, shape (n_detected, 2)
    before_xy : ndarray, shape (n_before, 2)
        Detections on the same difference without the stars.
    truth_err_pix : ndarray, shape (n_truth,)
        Standard error per axis that a detection of each truth is expected to have; 0 if not known.
    detected_err_pix : ndarray, shape (n_detected,)
        Standard error per axis of the detections.
    radius_sigma : float
    min_radius_pix : float
        At most `max_radius_pix`.
    max_radius_pix : float
        About one FWHM.

    Returns
    -------
    Matches
    """
    n = len(truth_xy)
    detection, separation = np.full(n, -1), np.full(n, np.nan)
    ambiguous = np.zeros(n, bool)
    usable = np.flatnonzero(np.isfinite(truth_xy).all(axis=1))
    old = np.zeros(len(detected_xy), bool)
    if len(before_xy):
        tree = cKDTree(before_xy)
        if len(detected_xy):
            old = tree.query(detected_xy)[0] <= max_radius_pix
        if len(usable):
            ambiguous[usable] = tree.query(truth_xy[usable])[0] <= max_radius_pix
    pairs = np.empty((0, 2), int)
    if len(usable) and len(detected_xy):
        lists = cKDTree(detected_xy).query_ball_point(truth_xy[usable], max_radius_pix * (1 + 1e-9))
        pairs = np.array([(usable[i], d) for i, found in enumerate(lists) for d in found], int).reshape(-1, 2)
    distance = np.hypot(*(truth_xy[pairs[:, 0]] - detected_xy[pairs[:, 1]]).T)
    sigma = np.maximum(truth_err_pix[pairs[:, 0]], detected_err_pix[pairs[:, 1]])
    radius = np.clip(radius_sigma * sigma, min_radius_pix, max_radius_pix)
    near = distance <= radius
    pairs, distance, radius = pairs[near], distance[near], radius[near]
    per_truth = np.bincount(pairs[:, 0], minlength=n)
    per_detection = np.bincount(pairs[:, 1], minlength=len(detected_xy))
    ambiguous |= per_truth > 1
    ambiguous[pairs[per_detection[pairs[:, 1]] > 1, 0]] = True
    taken = np.zeros(len(detected_xy), bool)
    # Equal distances are decided by the positions, so that the order of the rows does not matter.
    ties = (*truth_xy[pairs[:, 0]].T, *detected_xy[pairs[:, 1]].T, distance)
    for k in np.lexsort((*ties, distance / radius)):
        truth, found = pairs[k]
        if detection[truth] < 0 and not taken[found]:
            detection[truth], separation[truth] = found, distance[k]
            taken[found] = True
    old[pairs[:, 1]] = True
    return Matches(detection, separation, ambiguous, np.flatnonzero(~old))
