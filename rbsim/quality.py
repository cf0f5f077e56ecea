"""Sanity figures of a difference, with limits: garbage fails here and is not a thousand detections."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from rbsim.difference import Difference
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.sources import Sources

MAX_STARS = 200
MIN_STARS = 3
CORE_FWHM = 1.5
APERTURE_FWHM = 2.5


@dataclass(frozen=True)
class Quality:
    """What tells a good difference from a bad one; NaN where there are too few stars to know.

    Attributes
    ----------
    overlap : float
        Share of the frame's valid pixels that have a difference.
    flux_scale : float
        Kernel sum at the centre, as science ADU per reference ADU.
    flux_scale_spread : float
        Largest minus smallest kernel sum within the frame, over the median.
    flux_scale_over_photometry : float
        The flux scale over the stars' own flux ratio, in apertures of 2.5 FWHM.
    n_stamps, n_clipped : int
        Stamps used in the kernel fit and left out of it.
    chi2_per_pixel : float
        Of the kernel fit.
    star_residual : float
        Root mean square of what is left of a bright star beyond noise, over that of the star, within 1.5
        FWHM: the median over the stars of both images, fitted or not.
    pixel_noise_ratio : float
        Robust width of the difference over its propagated standard deviation, pixel by pixel: below 1
        where the resampling of the reference smooths its noise.
    snr_scale : float
        The same for the filtered difference, where the correlations count.
    """

    overlap: float
    flux_scale: float
    flux_scale_spread: float
    flux_scale_over_photometry: float
    n_stamps: int
    n_clipped: int
    chi2_per_pixel: float
    star_residual: float
    pixel_noise_ratio: float
    snr_scale: float

    def as_dict(self) -> dict[str, float]:
        """All figures by name."""
        return asdict(self)


LIMITS: dict[str, tuple[float, float, str]] = {
    "flux_scale_spread": (0.0, 1.5, "the kernel runs away from the stars; lower --kernel-order"),
    "flux_scale_over_photometry": (
        0.7,
        1.4,
        "the kernel disagrees with the stars' fluxes; is it registered?",
    ),
    "star_residual": (0.0, 0.5, "the stars do not vanish; check registration and reference"),
    "pixel_noise_ratio": (0.3, 3.0, "gain or noise are wrong, or the difference is"),
}
"""Allowed range of a figure, and what to do beyond it. Good frames are far inside."""


def measure_quality(
    science: Frame,
    reference: Frame,
    difference: Difference,
    stars: Sources,
    *,
    fwhm_pix: float,
    snr_scale: float,
) -> Quality:
    """Sanity figures of a difference.

    Parameters
    ----------
    science, reference : Frame
        Both on the pixels of the science frame.
    difference : Difference
    stars : Sources
        Unsaturated stars of the reference with their positions in the science frame, best first.
    fwhm_pix : float
        The wider of the two PSFs.
    snr_scale : float
        From `rbsim.significance.calibrate_noise`.
    """
    valid = ~difference.bad
    sigma = np.sqrt(difference.variance[::3, ::3])
    pixels = difference.image[::3, ::3][valid[::3, ::3]] / sigma[valid[::3, ::3]]
    residual, ratio = _stars(science, reference, difference, stars, fwhm_pix)
    sums = difference.kernel_sum[::8, ::8]
    return Quality(
        overlap=float(np.mean(valid[~science.bad])),
        flux_scale=difference.flux_scale,
        flux_scale_spread=float((sums.max() - sums.min()) / np.median(sums)),
        flux_scale_over_photometry=difference.flux_scale / ratio,
        n_stamps=difference.fit.n_stamps,
        n_clipped=difference.fit.n_clipped,
        chi2_per_pixel=difference.fit.chi2_per_pixel,
        star_residual=residual,
        pixel_noise_ratio=1.4826 * float(np.median(np.abs(pixels))) if len(pixels) else math.nan,
        snr_scale=snr_scale,
    )


def _stars(
    science: Frame, reference: Frame, difference: Difference, stars: Sources, fwhm_pix: float
) -> tuple[float, float]:
    """Median star residual, and median flux ratio science over reference; NaN with fewer than 3 stars."""
    ny, nx = science.shape
    reach = math.ceil(APERTURE_FWHM * fwhm_pix)
    x, y = np.rint(stars.x_pix).astype(int), np.rint(stars.y_pix).astype(int)
    inside = (x >= reach) & (x < nx - reach) & (y >= reach) & (y < ny - reach) & ~stars.saturated
    x, y = x[inside][:MAX_STARS], y[inside][:MAX_STARS]
    axis = np.arange(-reach, reach + 1)
    index = (y[:, None, None] + axis[:, None], x[:, None, None] + axis[None, :])
    radius = np.hypot(axis[:, None], axis[None, :])
    left, variance = difference.image[index], difference.variance[index]
    seen, before = science.image[index], reference.image[index]
    usable = np.isfinite(left) & ~science.saturated[index]
    whole = (usable | (radius > APERTURE_FWHM * fwhm_pix)).all(axis=(1, 2))
    if np.count_nonzero(whole) < MIN_STARS:
        return math.nan, math.nan
    left, variance, seen, before = left[whole], variance[whole], seen[whole], before[whole]
    core, aperture = radius < CORE_FWHM * fwhm_pix, radius < APERTURE_FWHM * fwhm_pix
    excess = np.where(core, left**2 - variance, 0).sum(axis=(1, 2))
    light = np.where(core, seen**2, 0).sum(axis=(1, 2))
    fluxes = [np.where(aperture, image, 0).sum(axis=(1, 2)) for image in (seen, before)]
    bright = (fluxes[0] > 0) & (fluxes[1] > 0)
    if np.count_nonzero(bright) < MIN_STARS:
        return math.nan, math.nan
    return (
        float(np.median(np.sqrt(np.maximum(excess, 0) / light))),
        float(np.median(fluxes[0][bright] / fluxes[1][bright])),
    )


def check_quality(quality: Quality) -> None:
    """Refuse a difference whose figures are outside `LIMITS`; NaN passes.

    Raises
    ------
    InputError
        Naming the figure, its value, the limits and the remedy.
    """
    for name, (low, high, remedy) in LIMITS.items():
        value = getattr(quality, name)
        if value < low or value > high:
            raise InputError(
                f"{name.replace('_', ' ')} is {value:.3g}, allowed {low:g} to {high:g}; {remedy}"
            )
