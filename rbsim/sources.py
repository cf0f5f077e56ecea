"""Background and sources of one image, with sep (Source Extractor's algorithms)."""

from dataclasses import dataclass

import numpy as np
import sep
from scipy import ndimage

from rbsim.errors import InputError

BACKGROUND_BOX_PIX = 64


@dataclass(frozen=True, eq=False)
class Background:
    """Smooth sky and its noise.

    Attributes
    ----------
    sky_adu, rms_adu : ndarray, shape (ny, nx), float32
    """

    sky_adu: np.ndarray
    rms_adu: np.ndarray


@dataclass(frozen=True, eq=False)
class Sources:
    """Measured sources, brightest first; all arrays have shape (n,).

    Attributes
    ----------
    x_pix, y_pix : 0-based windowed centroids.
    flux_adu : flux in an aperture of radius `aperture_pix`.
    snr : flux over its background noise.
    radius_half_pix : radius that holds half of the flux.
    sharpness : share of the brightest pixel in the flux; about 1 for a hot pixel.
    saturated : whether a saturated pixel lies within the aperture.
    """

    x_pix: np.ndarray
    y_pix: np.ndarray
    flux_adu: np.ndarray
    snr: np.ndarray
    radius_half_pix: np.ndarray
    sharpness: np.ndarray
    saturated: np.ndarray

    def __len__(self) -> int:
        """Number of sources."""
        return len(self.x_pix)

    def select(self, rows: np.ndarray) -> "Sources":
        """The sources of a boolean mask or an index array."""
        return Sources(**{name: values[rows] for name, values in vars(self).items()})


def measure_background(
    image: np.ndarray, bad: np.ndarray, *, box_pix: int = BACKGROUND_BOX_PIX
) -> Background:
    """Sky and noise maps from clipped boxes, sources masked in a second pass.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        ADU; values under `bad` are ignored and may be NaN.
    bad : ndarray of bool, shape (ny, nx)
    box_pix : int
        Size of the boxes; larger than any object whose light must stay.

    Raises
    ------
    InputError
        If fewer than a tenth of the pixels are good, or they are constant or without noise.
    """
    if np.mean(~bad) < 0.1:
        raise InputError(
            f"only {np.mean(~bad):.1%} of the pixels are usable; check the mask or drop the frame"
        )
    if np.ptp(image[~bad]) == 0:
        raise InputError("the image is constant; check that it is a sky frame")
    work = np.ascontiguousarray(np.where(bad, 0, image), dtype=np.float32)
    box = min(box_pix, *image.shape)
    first = sep.Background(work, mask=bad, bw=box, bh=box)
    bright = ndimage.binary_dilation(work - first.back() > 3 * first.rms(), iterations=3) & ~bad
    # In a crowded field the second mask may leave boxes empty; then the clipped first pass must do.
    mask = bad | bright if np.mean(bad | bright) < 0.7 else bad
    sky = sep.Background(work, mask=mask, bw=box, bh=box).back()
    # The noise is that around the sky: a gradient within a box is none.
    around = sep.Background(work - sky, mask=mask, bw=box, bh=box)
    rms = around.rms()
    if not np.all(np.isfinite(rms)) or around.globalrms <= 0:
        raise InputError("the background has no noise; check that it is a sky frame")
    return Background(sky, np.maximum(rms, 0.1 * around.globalrms))


def find_sources(
    image: np.ndarray,
    noise_adu: np.ndarray,
    bad: np.ndarray,
    *,
    saturated: np.ndarray | None = None,
    threshold_snr: float = 5.0,
    aperture_pix: float = 4.0,
) -> Sources:
    """Sources above a threshold, without those that are a single hot pixel.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Background-subtracted, ADU; values under `bad` are ignored and may be NaN.
    noise_adu : ndarray, shape (ny, nx)
    bad, saturated : ndarray of bool, shape (ny, nx)
    threshold_snr : float
        Per pixel after smoothing with sep's default 3x3 filter.
    aperture_pix : float
        Radius of the aperture.

    Returns
    -------
    Sources
        Brightest first; empty if nothing was found.
    """
    work = np.ascontiguousarray(np.where(bad, 0, image), dtype=np.float32)
    noise = np.ascontiguousarray(noise_adu, dtype=np.float32)
    found = sep.extract(work, threshold_snr, err=noise, mask=bad, minarea=4, deblend_cont=0.005)
    x, y = found["x"], found["y"]
    flux, flux_err, _ = sep.sum_circle(work, x, y, aperture_pix, err=noise, mask=bad)
    radius, _ = sep.flux_radius(work, x, y, np.full(len(x), 2 * aperture_pix), 0.5, normflux=flux, subpix=5)
    x_win, y_win, win_flag = sep.winpos(work, x, y, np.maximum(radius, 0.8) * 2 / 2.355, mask=bad)
    centred = (win_flag == 0) & (np.hypot(x_win - x, y_win - y) < 2)
    x, y = np.where(centred, x_win, x), np.where(centred, y_win, y)
    peak = found["peak"]
    sharpness = np.divide(peak, flux, out=np.ones_like(flux), where=flux > 0)
    hit = np.zeros(len(x), bool)
    if saturated is not None and saturated.any():
        near = ndimage.maximum_filter(saturated, size=5)
        hit = near[_pixel(y, image.shape[0]), _pixel(x, image.shape[1])]
    keep = (flux > 0) & np.isfinite(radius) & ((sharpness < 0.6) | hit)
    order = np.flatnonzero(keep)[np.argsort(-flux[keep], kind="stable")]
    return Sources(
        x_pix=x,
        y_pix=y,
        flux_adu=flux,
        snr=flux / flux_err,
        radius_half_pix=radius,
        sharpness=sharpness,
        saturated=hit,
    ).select(order)


def _pixel(position: np.ndarray, size: int) -> np.ndarray:
    return np.clip(np.rint(position).astype(int), 0, size - 1)


def star_radius(sources: Sources) -> float:
    """Half-light radius of the point sources: the densest part of the distribution, px.

    Found by the half-sample mode of the unsaturated sources with S/N above 20, so that galaxies,
    blends and cosmic rays on either side do not pull it.

    Raises
    ------
    InputError
        If there are fewer than 3 such sources.
    """
    usable = (sources.snr > 20) & ~sources.saturated
    values = np.sort(sources.radius_half_pix[usable])
    if len(values) < 3:
        raise InputError(f"only {len(values)} unsaturated stars with S/N > 20; a frame needs 3, better 20")
    while len(values) > 3:
        half = (len(values) + 1) // 2
        widths = values[half - 1 :] - values[: len(values) - half + 1]
        start = int(np.argmin(widths))
        values = values[start : start + half]
    return float(np.median(values))


def is_point_like(sources: Sources, radius_pix: float) -> np.ndarray:
    """Which sources have the size of a star, shape (n,), bool."""
    return np.abs(sources.radius_half_pix / radius_pix - 1) < 0.2


def is_extended(sources: Sources, radius_pix: float) -> np.ndarray:
    """Which sources are well measured and clearly larger than a star: galaxies, and blends like them.

    Larger than the star radius by a tenth, by 4 times the scatter of the stars' own radii, and by
    twice the source's error.
    """
    stars = is_point_like(sources, radius_pix) & (sources.snr > 20) & ~sources.saturated
    ratio = sources.radius_half_pix[stars] / radius_pix
    scatter = 1.4826 * float(np.median(np.abs(ratio - np.median(ratio)))) if stars.any() else 0.0
    limit = 1 + max(0.1, 4 * scatter) + 2 / np.maximum(sources.snr, 1)
    return (sources.radius_half_pix > limit * radius_pix) & (sources.snr > 10) & ~sources.saturated
