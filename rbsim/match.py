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
    truth_xy: np.ndarray, detected_xy: np.ndarray, before_xy: np.ndarray, *, radius_pix: float
) -> Matches:
    """Match truth to detections within a radius, nearest pairs first.

    Parameters
    ----------
    truth_xy : ndarray, shape (n_truth, 2)
        Positions of the stars that were drawn; NaN never matches.
    detected_xy : ndarray, shape (n_detected, 2)
    before_xy : ndarray, shape (n_before, 2)
        Detections on the same difference without the stars.
    radius_pix : float

    Returns
    -------
    Matches
    """
    n = len(truth_xy)
    detection, separation = np.full(n, -1), np.full(n, np.nan)
    ambiguous = np.zeros(n, bool)
    usable = np.flatnonzero(np.isfinite(truth_xy).all(axis=1))
    old = np.zeros(len(detected_xy), bool)
    if len(before_xy) and len(detected_xy):
        old = cKDTree(before_xy).query(detected_xy, distance_upper_bound=radius_pix)[0] <= radius_pix
    if len(usable) and len(before_xy):
        near_before = (
            cKDTree(before_xy).query(truth_xy[usable], distance_upper_bound=radius_pix)[0] <= radius_pix
        )
        ambiguous[usable] |= near_before
    pairs = np.empty((0, 2), int)
    if len(usable) and len(detected_xy):
        lists = cKDTree(detected_xy).query_ball_point(truth_xy[usable], radius_pix)
        pairs = np.array([(usable[i], d) for i, found in enumerate(lists) for d in found], int).reshape(-1, 2)
    if len(pairs):
        distance = np.hypot(*(truth_xy[pairs[:, 0]] - detected_xy[pairs[:, 1]]).T)
        per_truth = np.bincount(pairs[:, 0], minlength=n)
        per_detection = np.bincount(pairs[:, 1], minlength=len(detected_xy))
        ambiguous |= per_truth > 1
        ambiguous[pairs[per_detection[pairs[:, 1]] > 1, 0]] = True
        taken = np.zeros(len(detected_xy), bool)
        for k in np.argsort(distance, kind="stable"):
            truth, found = pairs[k]
            if detection[truth] < 0 and not taken[found]:
                detection[truth], separation[truth] = found, distance[k]
                taken[found] = True
        old |= taken
        old[pairs[:, 1]] = True
    return Matches(detection, separation, ambiguous, np.flatnonzero(~old))
