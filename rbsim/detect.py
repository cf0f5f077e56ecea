"""Detection on the S/N map of a difference: threshold, deblending, positions."""

from dataclasses import dataclass

import numpy as np
import sep

from rbsim.significance import MatchedFilter


@dataclass(frozen=True, eq=False)
class Detections:
    """Peaks of the S/N map, all arrays of shape (n,); positions 0-based."""

    x_pix: np.ndarray
    y_pix: np.ndarray
    snr: np.ndarray
    flux_adu: np.ndarray
    flux_err_adu: np.ndarray

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.x_pix)

    def select(self, rows: np.ndarray) -> "Detections":
        """The detections of a boolean mask or an index array."""
        return Detections(**{name: values[rows] for name, values in vars(self).items()})


def detect(filtered: MatchedFilter, bad: np.ndarray, *, threshold_snr: float = 5.0) -> Detections:
    """Positive detections: connected regions of the S/N map above the threshold, deblended.

    Parameters
    ----------
    filtered : MatchedFilter
    bad : ndarray of bool, shape (ny, nx)
        No detection has its peak here.
    threshold_snr : float

    Returns
    -------
    Detections
        Ordered by row and column; empty if there is nothing. Positions and values are those of a
        Gaussian through the peak of the S/N map and its neighbours, per axis.
    """
    snr = np.ascontiguousarray(np.where(bad, 0, filtered.snr), dtype=np.float32)
    sep.set_extract_pixstack(max(300_000, snr.size))
    # A peak between pixels shows up to 15 % less on them: search lower, cut on the interpolated value.
    found = sep.extract(
        snr, 0.85 * threshold_snr, minarea=1, filter_kernel=None, deblend_cont=0.005, clean=False
    )
    x, y = found["xpeak"].astype(int), found["ypeak"].astype(int)
    order = np.lexsort((x, y))
    x, y = x[order], y[order]
    keep = ~bad[y, x] if len(x) else np.zeros(0, bool)
    x, y = x[keep], y[keep]
    offset_x, gain_x = _peak(snr, y, x, 0, 1)
    offset_y, gain_y = _peak(snr, y, x, 1, 0)
    # An undersampled star loses several per cent of its peak when it falls between pixels.
    gain = np.exp(gain_x + gain_y)
    found_here = Detections(
        x_pix=x + offset_x,
        y_pix=y + offset_y,
        snr=snr[y, x] * gain,
        flux_adu=filtered.flux_adu[y, x] * gain,
        flux_err_adu=filtered.flux_err_adu[y, x],
    )
    return found_here.select(found_here.snr >= threshold_snr)


def _peak(
    snr: np.ndarray, y: np.ndarray, x: np.ndarray, step_y: int, step_x: int
) -> tuple[np.ndarray, np.ndarray]:
    """Offset of a maximum along one axis and the gain in log(S/N) there: a Gaussian through three pixels."""
    padded = np.pad(snr, 1, mode="edge")
    y, x = y + 1, x + 1
    here = padded[y, x]
    # A neighbour at or below zero has no logarithm; a tenth of the peak is as good as nothing here.
    before = np.log(np.maximum(padded[y - step_y, x - step_x] / here, 0.1))
    after = np.log(np.maximum(padded[y + step_y, x + step_x] / here, 0.1))
    curvature = before + after
    offset = np.divide(before - after, 2 * curvature, out=np.zeros(len(x)), where=curvature < 0)
    offset = np.clip(offset, -0.5, 0.5)
    return offset, -0.25 * (before - after) * offset
