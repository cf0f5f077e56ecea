"""PS1 skycells summed onto the pixels of a frame: counts, variance, and how much of each pixel was masked.

At 0.25" the skycells are several times finer than the frame, so nothing is interpolated: their pixels are
shared out (`rbsim.ps1.deposit`). Before that they are smoothed a little (`WarpConfig.smoothing_fwhm_pix`):
seeing of 1.2" on pixels of 1.19" is undersampled, and such an image cannot be shifted by the fraction of a
pixel that registration finds without ringing at every star (docs/references.md has the figures).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from scipy import ndimage

from rbsim.errors import InputError
from rbsim.ps1.deposit import deposit
from rbsim.ps1.mask_bits import BAD, BITS
from rbsim.ps1.skycell import SkycellCard, SkycellPixels, read_pixels
from rbsim.schema import MASK
from rbsim.transform import transform_from_wcs

log = logging.getLogger(__name__)

FWHM_PER_SIGMA = 2.3548
COVERED = 0.97
"""A pixel with more of its area on a skycell is whole: squares of turned pixels do not tile exactly."""
_USABLE = 0xFFFF & ~BAD & ~BITS["MARK"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class WarpConfig:
    """How skycells become a reference.

    Attributes
    ----------
    smoothing_fwhm_pix : float
        FWHM of the Gaussian that is laid over the PS1 PSF, in pixels of the frame; 0: none.
    max_bad_share : float
        A pixel with more of its area masked has no value; less is filled from the rest of it.
    min_kernel_share : float
        A fine pixel has a value if at least this much of the smoothing kernel around it was on good ones.
    """

    smoothing_fwhm_pix: float = 1.6
    max_bad_share: float = 0.25
    min_kernel_share: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing_fwhm_pix <= 10:
            raise InputError(f"smoothing_fwhm_pix is {self.smoothing_fwhm_pix}; give 0 to 10 px")
        for name in ("max_bad_share", "min_kernel_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a share from 0 to below 1")


@dataclass(frozen=True, eq=False)
class Warped:
    """A mosaic of skycells on the pixels of a frame; planes of shape (ny, nx).

    Attributes
    ----------
    image : ndarray, float32
        Counts; NaN where BAD.
    variance : ndarray, float32
        Counts squared, of the white noise with the same power at low frequency; inf where BAD.
    mask : ndarray, uint8
        BAD, SATURATED (the pixel holds some of a saturated core) and EDGE of schema.MASK_PLANES.
    bad_share, flagged_share : ndarray, float32
        Area without a value in PS1 (1 where there is no skycell); area with a value that PS1 doubts (spikes,
        ghosts, star cores, ...).
    n_inputs : ndarray, float32
        PS1 exposures behind the pixel, NaN if unknown.
    wcs : astropy.wcs.WCS
    zero_point_mag : float
        AB, in the PS1 band.
    names : tuple of str
        Skycells in it.
    """

    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    bad_share: np.ndarray
    flagged_share: np.ndarray
    n_inputs: np.ndarray
    wcs: WCS
    zero_point_mag: float
    names: tuple[str, ...]


def warp(
    cards: Sequence[SkycellCard],
    wcs: WCS,
    shape: tuple[int, int],
    *,
    config: WarpConfig | None = None,
    progress: Progress | None = None,
) -> Warped:
    """Mosaic of skycells on a pixel grid.

    Where skycells overlap they are averaged, not added up as independent: they were made from the same
    exposures. All are scaled to the zero point of the first.

    Parameters
    ----------
    cards : sequence of SkycellCard
        Those that do not overlap are left out.
    wcs : astropy.wcs.WCS
    shape : (ny, nx)
        Of the wanted grid.
    config : WarpConfig, optional
    progress : callable, optional
        Called with (description, done, total).

    Raises
    ------
    InputError
        If none overlaps, or all of their pixels on the frame are masked; or a file cannot be read.
    """
    config = config or WarpConfig()
    tell = progress or (lambda *_: None)
    windows = [(card, window) for card in cards if (window := _window(card, wcs, shape, config)) is not None]
    if not windows:
        there = ", ".join(card.name for card in cards[:4]) + (" ..." if len(cards) > 4 else "")
        raise InputError(f"none of the {len(cards)} skycells overlaps with the frame (there are {there})")
    zero_point = windows[0][0].zero_point_mag
    sums = _Sums(shape)
    for number, (card, window) in enumerate(windows):
        tell(card.name, number, len(windows))
        sums.add(
            card, read_pixels(card, window), wcs, 10 ** (0.4 * (zero_point - card.zero_point_mag)), config
        )
    tell("mosaic", len(windows), len(windows))
    result = sums.mosaic(wcs, zero_point, tuple(card.name for card, _ in windows), config)
    if np.isnan(result.image).all():
        raise InputError(
            f"all pixels of {', '.join(result.names)} on the frame are masked; give other skycells or a band"
        )
    return result


def _window(
    card: SkycellCard, wcs: WCS, shape: tuple[int, int], config: WarpConfig
) -> tuple[slice, slice] | None:
    """The part of a skycell that a frame needs; None if it has none."""
    ny, nx = shape
    edge_x, edge_y = np.linspace(-0.5, nx - 0.5, 41), np.linspace(-0.5, ny - 0.5, 41)
    x = np.concatenate([edge_x, edge_x, np.full(41, -0.5), np.full(41, nx - 0.5)])
    y = np.concatenate([np.full(41, -0.5), np.full(41, ny - 0.5), edge_y, edge_y])
    with np.errstate(all="ignore"):
        at_x, at_y = card.wcs.world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
    if not (np.isfinite(at_x).all() and np.isfinite(at_y).all()):
        return None  # on the other side of the sky
    per_pixel = np.hypot(np.ptp(at_x), np.ptp(at_y)) / np.hypot(nx, ny)
    margin = 8 + 3 * config.smoothing_fwhm_pix * per_pixel / FWHM_PER_SIGMA
    my, mx = card.shape
    low_x, high_x = max(int(at_x.min() - margin), 0), min(int(at_x.max() + margin) + 1, mx)
    low_y, high_y = max(int(at_y.min() - margin), 0), min(int(at_y.max() + margin) + 1, my)
    if high_x - low_x < 8 or high_y - low_y < 8:
        return None
    return slice(low_y, high_y), slice(low_x, high_x)


class _Sums:
    """What the skycells so far give to each pixel, weighted with the area that they cover."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.weight, self.image, self.variance = (np.zeros(shape) for _ in range(3))
        self.good, self.area, self.saturated, self.flagged = (np.zeros(shape) for _ in range(4))
        self.n_inputs = np.full(shape, np.nan)

    def add(
        self, card: SkycellCard, pixels: SkycellPixels, wcs: WCS, scale: float, config: WarpConfig
    ) -> None:
        y0, x0 = pixels.origin
        own = card.wcs.slice((slice(y0, None), slice(x0, None)))
        transform = transform_from_wcs(own, wcs, (pixels.counts.shape[0], pixels.counts.shape[1]))
        my, mx = pixels.counts.shape
        area = transform.apply_grid(np.array([mx / 2]), np.array([my / 2]))[2].item()
        sigma = config.smoothing_fwhm_pix / FWHM_PER_SIGMA / np.sqrt(area)
        counts, bad = smooth(pixels.counts, pixels.bad, sigma, min_share=config.min_kernel_share)
        counts[bad] = 0
        variance = pixels.variance  # of low frequencies, which smoothing does not change
        if bad.any() or pixels.bad.any():
            variance = np.where(bad, 0, np.where(pixels.bad, np.nanmedian(variance[::9, ::9]), variance))
        saturated, flagged = (pixels.mask & BITS["SAT"]) != 0, ((pixels.mask & _USABLE) != 0) & ~bad
        (image, noise, lost, saturated, flagged), covered = deposit(
            [counts, variance, bad, saturated, flagged], transform, self.shape
        )
        good = covered - lost
        # What is masked of a pixel is taken to be like the rest of it.
        fill = np.where(covered > COVERED, covered, 1) / np.maximum(good, 1e-6)
        self.weight += good
        self.image += good * image * fill * scale
        self.variance += good * noise * (fill * scale) ** 2
        self.good = np.maximum(self.good, good / np.maximum(covered, COVERED))
        self.area = np.maximum(self.area, covered)
        self.saturated = np.maximum(self.saturated, saturated)
        self.flagged = np.maximum(self.flagged, flagged)
        if pixels.n_inputs is not None:
            _nearest(pixels.n_inputs, own, wcs, self.n_inputs)

    def mosaic(self, wcs: WCS, zero_point_mag: float, names: tuple[str, ...], config: WarpConfig) -> Warped:
        outside = self.area < COVERED
        bad_share = np.clip(1 - self.good, 0, 1)
        bad_share[self.good > COVERED] = 0  # not the last per cent of the tiling
        bad = outside | (bad_share > config.max_bad_share)
        mask = np.zeros(self.shape, np.uint8)
        mask[self.saturated > 0] |= MASK["SATURATED"]
        mask[bad] |= MASK["BAD"]
        mask[outside] |= MASK["EDGE"]
        weight = np.maximum(self.weight, 1e-6)
        return Warped(
            image=np.where(bad, np.nan, self.image / weight).astype(np.float32),
            variance=np.where(bad, np.inf, self.variance / weight).astype(np.float32),
            mask=mask,
            bad_share=np.where(outside, 1, bad_share).astype(np.float32),
            flagged_share=np.clip(self.flagged, 0, 1).astype(np.float32),
            n_inputs=np.where(outside, np.nan, self.n_inputs).astype(np.float32),
            wcs=wcs,
            zero_point_mag=zero_point_mag,
            names=names,
        )


def smooth(
    counts: np.ndarray, bad: np.ndarray, sigma_pix: float, *, min_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Convolve with a Gaussian; bad pixels take no part, and what is left of the kernel is scaled up.

    Parameters
    ----------
    counts : ndarray, shape (ny, nx), float32
        Where bad, anything.
    bad : ndarray, shape (ny, nx), bool
    sigma_pix : float
        0: nothing is changed.
    min_share : float
        Less of the kernel on good pixels gives no value.

    Returns
    -------
    counts : ndarray, shape (ny, nx), float32
    bad : ndarray, shape (ny, nx), bool
        Pixels without a value. Small holes are filled, large ones grow by about one sigma.
    """
    filled = np.where(bad, np.float32(0), counts)
    if sigma_pix <= 0:
        return filled, bad
    smoothed = ndimage.gaussian_filter(filled, sigma_pix, mode="nearest", truncate=3.5)
    if not bad.any():
        return smoothed, bad
    share = ndimage.gaussian_filter((~bad).astype(np.float32), sigma_pix, mode="nearest", truncate=3.5)
    lost = share < min_share
    smoothed /= np.maximum(share, np.float32(min_share) / 2)
    return smoothed, lost


def _nearest(plane: np.ndarray, own: WCS, wcs: WCS, out: np.ndarray) -> None:
    """Fill what is still NaN in `out` with the plane's nearest pixel, where it lies on it."""
    to_fine = transform_from_wcs(wcs, own, (out.shape[0], out.shape[1]))
    x, y, _ = to_fine.apply_grid(np.arange(out.shape[1]), np.arange(out.shape[0]))
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    wanted = (column >= 0) & (row >= 0) & (column < plane.shape[1]) & (row < plane.shape[0]) & np.isnan(out)
    out[wanted] = plane[row[wanted], column[wanted]]


def noise_ratio(warped: Warped, *, box_pix: int = 6) -> float:
    """Measured noise of the sky over what the variance says; NaN if there is too little of it.

    From differences of neighbouring boxes, so that smoothing and gradients do not count: above 1 the variance
    of PS1 lacks something, as the correlation of its pixels.
    """
    ny, nx = (size // box_pix for size in warped.image.shape)
    shape = (ny, box_pix, nx, box_pix)
    cut = (slice(0, ny * box_pix), slice(0, nx * box_pix))
    with np.errstate(invalid="ignore"):
        sums = warped.image[cut].astype(float).reshape(shape).sum(axis=(1, 3))
        expected = warped.variance[cut].astype(float).reshape(shape).sum(axis=(1, 3))
        score = (sums[:, 1:] - sums[:, :-1]) / np.sqrt(expected[:, 1:] + expected[:, :-1])
    score = score[np.isfinite(score)]
    if len(score) < 50:
        return float("nan")
    return float(1.4826 * np.median(np.abs(score - np.median(score))))
