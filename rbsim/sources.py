"""Background and sources of one image, with sep (Source Extractor's algorithms)."""

import logging
from dataclasses import dataclass

import numpy as np
import sep

from rbsim import spatial
from rbsim.errors import InputError
from rbsim.robust import robust_width

log = logging.getLogger(__name__)

BACKGROUND_BOX_PIX = 64
GRADIENT_ORDER, GRADIENT_STEP_PIX, GRADIENT_CLIPS = 2, 13, 5
MAX_RADIUS_SHARE, MAX_APERTURE_PIX = 0.55, 14.0
"""The half-light radius of most sources, as a share of the aperture; above, the aperture grows."""
MAX_SHARPNESS, NARROW_SHARPNESS, MAX_NARROW_SHARPNESS = 0.6, 0.4, 0.9
EXTRACT_BUFFER_PIX, EXTRACT_BLEND_SOURCES = 300_000, 1024
"""Sizes of sep's buffers to begin with: pixels of unfinished objects, sources in one blend."""


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
    image: np.ndarray, bad: np.ndarray, *, box_pix: int = BACKGROUND_BOX_PIX, digit_adu: float = 0.0
) -> Background:
    """Sky and noise maps from clipped boxes, sources masked in a second pass.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        ADU; values under `bad` are ignored and may be NaN.
    bad : ndarray of bool, shape (ny, nx)
    box_pix : int
        Size of the boxes; larger than any object whose light must stay.
    digit_adu : float
        Step of the values if they are rounded (1 for whole ADU). They are spread evenly over it, else
        medians stick to it: up to 0.6 ADU beside the sky.

    Raises
    ------
    InputError
        If fewer than a tenth of the pixels are good, or they are constant or without noise.
    """
    share_bad = np.count_nonzero(bad) / bad.size
    if share_bad > 0.9:
        raise InputError(
            f"only {1 - share_bad:.1%} of the pixels are usable; check the mask or drop the frame"
        )
    first_good = image.flat[np.argmin(bad)]
    if np.all((image == first_good) | bad):
        raise InputError("the image is constant; check that it is a sky frame")
    work = np.array(image, dtype=np.float32, order="C")
    if digit_adu:
        work += _spread(work.shape, digit_adu)
    if share_bad:
        work[bad] = 0
    # A strong gradient first: boxes see it as noise, and at the edges, where they are cut off or the median
    # of neighbours is one-sided, as a step.
    gradient = _gradient(work, bad)
    work -= gradient
    if share_bad:
        work[bad] = 0
    box = min(box_pix, *image.shape)
    first = sep.Background(work, mask=bad if share_bad else None, bw=box, bh=box)
    sky = first.back()
    # From here on around the first sky: then a gradient within a box is no noise in the second pass.
    work -= sky
    sky += gradient
    mask = grow(work > 3 * first.rms(), 3)
    mask |= bad
    # In a crowded field the second mask may leave boxes empty; then the clipped first pass must do.
    if np.count_nonzero(mask) >= 0.7 * mask.size:
        mask = bad
    second = sep.Background(work, mask=mask, bw=box, bh=box)
    sky += second.back()
    rms = second.rms()
    if digit_adu:
        rms *= rms
        rms -= np.float32(digit_adu**2 / 12)  # what the spread added
        np.sqrt(np.maximum(rms, 0, out=rms), out=rms)
    if not np.all(np.isfinite(rms)) or second.globalrms <= 0:
        raise InputError("the background has no noise; check that it is a sky frame")
    return Background(sky, np.maximum(rms, np.float32(0.1 * second.globalrms), out=rms))


def _gradient(image: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Quadratic surface through a lattice of pixels without what stands out, shape (ny, nx), float32."""
    ny, nx = image.shape
    y, x = (axis.ravel() for axis in np.mgrid[0:ny:GRADIENT_STEP_PIX, 0:nx:GRADIENT_STEP_PIX])
    good = ~bad[y, x]
    y, x = y[good], x[good]
    values = image[y, x].astype(float)
    terms = spatial.terms(x, y, (ny, nx), GRADIENT_ORDER)
    coefficients = np.zeros(terms.shape[1])
    for _ in range(GRADIENT_CLIPS if len(x) >= 10 * terms.shape[1] else 0):
        left = values - terms @ coefficients
        middle = np.median(left)
        keep = np.abs(left - middle) <= 3 * 1.4826 * np.median(np.abs(left - middle))
        coefficients = np.linalg.lstsq(terms[keep], values[keep], rcond=1e-6)[0]
    return spatial.on_grid(coefficients, (ny, nx), GRADIENT_ORDER)


def _spread(shape: tuple[int, ...], digit_adu: float) -> np.ndarray:
    """Offsets that fill -digit / 2 to digit / 2 evenly in every part of a frame, float32.

    A lattice of two irrational steps instead of random numbers: the same for all frames, and more even.
    """
    ny, nx = shape
    along_y, along_x = (np.arange(n) * step % 1 for n, step in ((ny, 0.5698402910), (nx, 0.7548776662)))
    offset = np.add.outer(along_y, along_x).astype(np.float32)
    offset -= np.floor(offset)
    offset -= np.float32(0.5)
    offset *= np.float32(digit_adu)
    return offset


def grow(mask: np.ndarray, n_pix: int) -> np.ndarray:
    """A mask with all pixels within `n_pix` steps along rows and columns, shape (ny, nx), bool.

    The same as `scipy.ndimage.binary_dilation` with as many iterations, eight times faster.
    """
    out = mask.astype(bool)
    for _ in range(n_pix):
        before = out
        out = before.copy()
        out[1:] |= before[:-1]
        out[:-1] |= before[1:]
        out[:, 1:] |= before[:, :-1]
        out[:, :-1] |= before[:, 1:]
    return out


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
        Radius of the aperture; it grows, up to 14 px, where it would cut the stars (above 4 px FWHM).

    Returns
    -------
    Sources
        Brightest first; empty if nothing was found.
    """
    work = np.array(image, dtype=np.float32, order="C")
    noise = np.ascontiguousarray(noise_adu, dtype=np.float32)
    mask = None
    if bad.any():
        work[bad] = 0
        mask = bad
    found = _extract(work, threshold_snr, noise, mask)
    x, y = found["x"], found["y"]
    while True:
        flux, flux_err, _ = sep.sum_circle(work, x, y, aperture_pix, err=noise, mask=mask)
        whole = work
        if mask is not None:
            whole = work.copy()
            _fill(whole, mask, x, y, reach_pix=int(np.ceil(aperture_pix)))
        radius, _ = sep.flux_radius(whole, x, y, np.full(len(x), aperture_pix), 0.5, normflux=flux, subpix=5)
        # An aperture that cuts stars makes them look equally small, and fluxes depend on seeing.
        bright = (flux > 20 * flux_err) & np.isfinite(radius)
        typical = float(np.median(radius[bright])) if bright.any() else 0.0
        if typical < MAX_RADIUS_SHARE * aperture_pix or aperture_pix >= MAX_APERTURE_PIX:
            break
        aperture_pix = min(1.5 * aperture_pix, MAX_APERTURE_PIX)
    work = whole
    # Three samples a side for the pixels at the rim of the window, where it has fallen to nothing.
    sigma = np.maximum(radius, 0.8) * 2 / 2.355
    x_win, y_win, win_flag = sep.winpos(work, x, y, sigma, subpix=3)
    centred = (win_flag == 0) & (np.hypot(x_win - x, y_win - y) < 2)
    x, y = np.where(centred, x_win, x), np.where(centred, y_win, y)
    peak = found["peak"]
    sharpness = np.divide(peak, flux, out=np.ones_like(flux), where=flux > 0)
    hit = np.zeros(len(x), bool)
    if saturated is not None and saturated.any():
        hit = _near(saturated, x, y, reach_pix=2)
    limit = _sharpest(sharpness[(flux > 20 * flux_err) & ~hit])
    keep = (flux > 0) & np.isfinite(radius) & ((sharpness < limit) | hit)
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


def _sharpest(sharpness: np.ndarray) -> float:
    """Share of one pixel in a source's flux from which on it is a hot pixel rather than a star.

    Where most sources are nearly that sharp, the PSF is far narrower than a pixel (below 0.9 px FWHM), and
    stars in the middle of theirs must not be lost: the phases of those left would not be even.
    """
    blunt = sharpness[sharpness < MAX_SHARPNESS]
    if len(blunt) and np.median(blunt) > NARROW_SHARPNESS:
        return MAX_NARROW_SHARPNESS
    return MAX_SHARPNESS


def _extract(
    work: np.ndarray, threshold_snr: float, noise: np.ndarray, mask: np.ndarray | None
) -> np.ndarray:
    """Objects of `sep.extract`, with its buffers enlarged where they overflow, at last without deblending.

    Buffers for the worst case would cost 100 MB and a third of the time.
    """
    pixels, parts, n_levels = EXTRACT_BUFFER_PIX, EXTRACT_BLEND_SOURCES, 32
    while True:
        sep.set_extract_pixstack(pixels)
        sep.set_sub_object_limit(parts)
        try:
            return sep.extract(
                work,
                threshold_snr,
                err=noise,
                mask=mask,
                minarea=4,
                deblend_cont=0.005,
                deblend_nthresh=n_levels,
            )
        except Exception as error:
            if "pixel buffer full" in str(error) and pixels < 2 * work.size:
                pixels *= 4
            elif "deblending overflow" in str(error) and parts < 16 * EXTRACT_BLEND_SOURCES:
                parts *= 4
            elif "deblending overflow" in str(error) and n_levels > 1:
                log.warning("more than %d sources in one blend; blends are not taken apart", parts)
                n_levels = 1
            else:
                raise


def _fill(work: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, *, reach_pix: int) -> None:
    """Give the bad pixels of sources the mean of their good neighbours, in place; 0 if they have none.

    Radius and centre are measured on all pixels of a source: zeros would widen and shift it.
    """
    rows, columns = np.divmod(np.unique(_boxes(work.shape, x, y, reach_pix)), work.shape[1])
    holes = bad[rows, columns]
    rows, columns = rows[holes], columns[holes]
    around = _boxes(work.shape, columns, rows, 1).reshape(len(rows), 9)
    good = ~bad.ravel()[around]
    total = np.where(good, work.ravel()[around], 0).sum(axis=1)
    work[rows, columns] = total / np.maximum(good.sum(axis=1), 1)


def _boxes(shape: tuple[int, ...], x: np.ndarray, y: np.ndarray, reach_pix: int) -> np.ndarray:
    """Flat indices of the boxes of +- `reach_pix` around positions, shape (n, size, size)."""
    ny, nx = shape
    step = np.arange(-reach_pix, reach_pix + 1)
    rows = np.clip(_pixel(y, ny)[:, None, None] + step[:, None], 0, ny - 1)
    columns = np.clip(_pixel(x, nx)[:, None, None] + step, 0, nx - 1)
    return np.asarray(rows * nx + columns)


def _near(mask: np.ndarray, x: np.ndarray, y: np.ndarray, *, reach_pix: int) -> np.ndarray:
    """Whether any pixel of the mask lies in the box of +- `reach_pix` around each position, shape (n,)."""
    return np.asarray(mask.ravel()[_boxes(mask.shape, x, y, reach_pix)].any(axis=(1, 2)))


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


def is_point_like(sources: Sources, radius_pix: float | np.ndarray) -> np.ndarray:
    """Which sources have the size of a star (perhaps of their place, (n,)), shape (n,), bool."""
    # Below a pixel the radius depends on where in its pixel a star lies.
    return np.abs(sources.radius_half_pix - radius_pix) < 0.2 * np.maximum(radius_pix, 1.0)


def is_extended(sources: Sources, radius_pix: float) -> np.ndarray:
    """Which sources are well measured and clearly larger than a star: galaxies, and blends like them.

    Larger than the star radius by a tenth, by 4 times the scatter of the stars' own radii, and by
    twice the source's error.
    """
    stars = is_point_like(sources, radius_pix) & (sources.snr > 20) & ~sources.saturated
    ratio = sources.radius_half_pix[stars] / radius_pix
    scatter = robust_width(ratio) if stars.any() else 0.0
    limit = 1 + max(0.1, 4 * scatter) + 2 / np.maximum(sources.snr, 1)
    return (sources.radius_half_pix > limit * radius_pix) & (sources.snr > 10) & ~sources.saturated
