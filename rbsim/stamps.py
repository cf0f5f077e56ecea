"""Cutting 29 x 29 px triplets, and choosing stamps that do not overlap."""

from dataclasses import dataclass

import numpy as np

from rbsim.difference import Difference
from rbsim.schema import CANDIDATE_FLAG, MASK, STAMP_HALF_PIX, STAMP_SIZE_PIX


@dataclass(frozen=True, eq=False)
class Stamps:
    """Triplets and what is known from their pixels.

    Attributes
    ----------
    pixels : ndarray, shape (n, 3, 29, 29), float32
        Channels of schema.CHANNELS; NaN where there is no pixel.
    x0_pix, y0_pix : ndarray, shape (n,), int
        Frame pixel of each stamp's first pixel; may be negative at the edge.
    noise_adu : ndarray, shape (n,), float32
        Median standard deviation of the difference pixels.
    flags : ndarray, shape (n,), uint32
        Bits of schema.CANDIDATE_FLAGS that follow from the pixels.
    """

    pixels: np.ndarray
    x0_pix: np.ndarray
    y0_pix: np.ndarray
    noise_adu: np.ndarray
    flags: np.ndarray

    def select(self, rows: np.ndarray) -> "Stamps":
        """The stamps of a boolean mask or an index array."""
        return Stamps(**{name: values[rows] for name, values in vars(self).items()})


def cut_stamps(
    reference: np.ndarray,
    science: np.ndarray,
    difference: Difference,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    *,
    fwhm_pix: float,
) -> Stamps:
    """Cut triplets centred on the pixel nearest to each position.

    Parameters
    ----------
    reference, science : ndarray, shape (ny, nx)
        Background-subtracted, in the ADU of the science frame; NaN where bad.
    difference : Difference
    x_pix, y_pix : ndarray, shape (n,)
        0-based.
    fwhm_pix : float
        A saturated pixel within this distance flags the candidate.

    Returns
    -------
    Stamps
    """
    planes = [
        np.pad(plane, STAMP_SIZE_PIX, constant_values=np.nan)
        for plane in (reference, science, difference.image)
    ]
    sigma = np.pad(np.sqrt(difference.variance), STAMP_SIZE_PIX, constant_values=np.inf)
    mask = np.pad(difference.mask, STAMP_SIZE_PIX, constant_values=MASK["EDGE"])
    x0 = np.rint(x_pix).astype(int) - STAMP_HALF_PIX
    y0 = np.rint(y_pix).astype(int) - STAMP_HALF_PIX
    span = np.arange(STAMP_SIZE_PIX) + STAMP_SIZE_PIX
    index = (y0[:, None, None] + span[None, :, None], x0[:, None, None] + span[None, None, :])
    pixels = np.stack([plane[index] for plane in planes], axis=1).astype(np.float32)
    stamp_mask, stamp_sigma = mask[index], sigma[index]
    ny, nx = science.shape
    axis = np.arange(STAMP_SIZE_PIX) - STAMP_HALF_PIX
    core = np.hypot(axis[:, None], axis[None, :]) <= fwhm_pix
    flags = np.zeros(len(x0), np.uint32)
    outside = (x0 < 0) | (y0 < 0) | (x0 + STAMP_SIZE_PIX > nx) | (y0 + STAMP_SIZE_PIX > ny)
    saturated = (stamp_mask & (MASK["SATURATED"] | MASK["SATURATED_REFERENCE"])) != 0
    for name, hit in (
        ("EDGE", outside),
        ("MASK_SCIENCE", ((stamp_mask & MASK["BAD"]) != 0).any(axis=(1, 2))),
        ("MASK_REFERENCE", ((stamp_mask & MASK["NO_REFERENCE"]) != 0).any(axis=(1, 2))),
        ("SATURATED", (saturated & core).any(axis=(1, 2))),
    ):
        flags[hit] |= np.uint32(CANDIDATE_FLAG[name])
    finite = np.where(np.isfinite(stamp_sigma), stamp_sigma, np.nan).reshape(len(x0), STAMP_SIZE_PIX**2)
    noise = np.array(
        [np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in finite]
    )
    return Stamps(pixels, x0, y0, noise.astype(np.float32), flags)


def choose_apart(
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    *,
    first: np.ndarray,
    rng: np.random.Generator,
    taken: np.ndarray | None = None,
) -> np.ndarray:
    """Rows whose stamps share no pixel, chosen in random order so that no kind of detection is preferred.

    Parameters
    ----------
    x_pix, y_pix : ndarray, shape (n,) or (n, k)
        Of k images, of which each has a stamp for every row: they share no pixel in any.
    first : ndarray of bool, shape (n,)
        Rows to consider before all others.
    rng : numpy.random.Generator
    taken : ndarray, shape (m, 2) or (m, k, 2), optional
        Positions x, y of stamps that exist already.

    Returns
    -------
    ndarray of int
        Ascending.
    """
    centres = np.stack([np.rint(x_pix), np.rint(y_pix)], axis=-1)
    order = rng.permutation(len(centres))
    order = order[np.argsort(~first[order], kind="stable")]
    chosen: list[int] = []
    if taken is not None and len(taken):
        gaps = np.abs(centres[:, None] - np.rint(taken)[None]).max(axis=-1)
        order = order[gaps.min(axis=tuple(range(1, gaps.ndim)))[order] >= STAMP_SIZE_PIX]
    for row in order:
        apart = np.abs(centres[chosen] - centres[row]).max(axis=-1) if chosen else np.array([np.inf])
        if apart.min() >= STAMP_SIZE_PIX:
            chosen.append(int(row))
    return np.sort(np.array(chosen, int))
