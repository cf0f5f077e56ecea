"""Sanity figures of a difference, with limits: garbage fails here and is not a thousand detections."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from rbsim.difference import Difference
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.significance import MatchedFilter
from rbsim.sources import Sources

MAX_STARS = 200
MIN_STARS = 3
CORE_FWHM = 1.5
APERTURE_FWHM = 2.5
MIN_USABLE = 0.8
"""Share of a star's aperture that must have values."""
EXPECTED_SNR = 20.0
"""Stars of the reference that would be brighter than this in the difference are expected in the frame."""


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
    star_chi2 : float
        Square of what is left of these stars over its variance, per pixel within 1.5 FWHM: the median. Far
        below 1 if the variance of starlight, so the gain, is wrong; above 1 where the PSF is not matched.
    stars_missing : float
        Share of the reference's bright stars, as bright as the flux scale says, of which less than half is
        in the frame.
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
    star_shape_residual: float
    star_chi2: float
    stars_missing: float
    pixel_noise_ratio: float
    snr_scale: float

    def as_dict(self) -> dict[str, float]:
        """All figures by name."""
        return asdict(self)


LIMITS: dict[str, tuple[float, float, str]] = {
    "flux_scale_spread": (
        0.0,
        1.0,
        "clouds, or the kernel runs away from the stars; lower --kernel-order",
    ),
    "flux_scale_over_photometry": (
        0.8,
        1.25,
        "the kernel disagrees with the stars' fluxes; is it registered?",
    ),
    "chi2_per_pixel": (0.0, 30.0, "no kernel of this basis matches the PSFs; try --basis delta"),
    "star_residual": (0.0, 0.3, "the stars do not vanish; check registration, clouds and reference"),
    "star_shape_residual": (
        0.0,
        0.15,
        "more than colours is left of the stars; check registration, tracking and reference",
    ),
    "star_chi2": (0.3, math.inf, "starlight has less noise than it must have; the gain is too low"),
    "stars_missing": (0.0, 0.25, "clouds, a shutter or another field hide the reference's stars"),
    "pixel_noise_ratio": (0.3, 3.0, "gain or noise are wrong, or the difference is"),
}
"""Allowed range of a figure, and what to do beyond it. Good frames are far inside."""


def measure_quality(
    science: Frame,
    reference: Frame,
    difference: Difference,
    filtered: MatchedFilter,
    stars: Sources,
    reference_sources: Sources,
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
    filtered : MatchedFilter
        Of the difference.
    stars : Sources
        Unsaturated stars of the reference with their positions in the science frame, best first.
    reference_sources : Sources
        All of the reference, also those that the frame lacks.
    fwhm_pix : float
        The wider of the two PSFs.
    snr_scale : float
        From `rbsim.significance.calibrate_noise`.
    """
    valid = ~difference.bad
    sigma = np.sqrt(difference.variance[::3, ::3])
    pixels = difference.image[::3, ::3][valid[::3, ::3]] / sigma[valid[::3, ::3]]
    residual, shape, chi2, ratio = _stars(science, reference, difference, stars, fwhm_pix)
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
        star_shape_residual=shape,
        star_chi2=chi2,
        stars_missing=_missing(difference, filtered, reference_sources),
        pixel_noise_ratio=1.4826 * float(np.median(np.abs(pixels))) if len(pixels) else math.nan,
        snr_scale=snr_scale,
    )


def _stars(
    science: Frame, reference: Frame, difference: Difference, stars: Sources, fwhm_pix: float
) -> tuple[float, float, float, float]:
    """Medians over the stars: residual, its shape's part, chi-square, flux ratio science over reference.

    NaN with fewer than 3 stars. Pixels without a value in one image count in none.
    """
    ny, nx = science.shape
    reach = math.ceil(APERTURE_FWHM * fwhm_pix)
    x, y = np.rint(stars.x_pix).astype(int), np.rint(stars.y_pix).astype(int)
    inside = (x >= reach) & (x < nx - reach) & (y >= reach) & (y < ny - reach) & ~stars.saturated
    x, y = x[inside][: 2 * MAX_STARS], y[inside][: 2 * MAX_STARS]
    axis = np.arange(-reach, reach + 1)
    radius = np.hypot(axis[:, None], axis[None, :])
    core, aperture = radius < CORE_FWHM * fwhm_pix, radius < APERTURE_FWHM * fwhm_pix
    index = (y[:, None, None] + axis[:, None], x[:, None, None] + axis[None, :])
    usable = ~difference.bad[index] & ~science.saturated[index] & ~reference.bad[index] & aperture
    seen_enough = (usable & core).sum(axis=(1, 2)) >= MIN_USABLE * core.sum()
    seen_enough &= usable.sum(axis=(1, 2)) >= MIN_USABLE * aperture.sum()
    rows = np.flatnonzero(seen_enough)[:MAX_STARS]
    if len(rows) < MIN_STARS:
        return math.nan, math.nan, math.nan, math.nan
    index, usable = (index[0][rows], index[1][rows]), usable[rows]
    core = usable & core
    left, variance, seen, before = (
        np.where(usable, plane[index], 0)
        for plane in (difference.image, difference.variance, science.image, reference.image)
    )
    squares, noise = (np.where(core, plane, 0).sum(axis=(1, 2)) for plane in (left**2, variance))
    light = np.where(core, seen**2, 0).sum(axis=(1, 2))
    # The star that was subtracted, which unlike the one that is seen shares little noise with what is left.
    taken = seen - left if difference.convolved == "reference" else before * difference.flux_scale
    taken = np.where(core, taken, 0)
    of_star = (left * taken).sum(axis=(1, 2)) ** 2 / np.maximum((taken**2).sum(axis=(1, 2)), 1e-30)
    n_pix = core.sum(axis=(1, 2))
    shape = (squares - of_star - noise * (1 - 1 / n_pix)) / light
    chi2 = np.where(core, left**2 / np.where(core, variance, 1), 0).sum(axis=(1, 2)) / n_pix
    fluxes = seen.sum(axis=(1, 2)), before.sum(axis=(1, 2))
    bright = (fluxes[0] > 0) & (fluxes[1] > 0)
    if np.count_nonzero(bright) < MIN_STARS:
        return math.nan, math.nan, math.nan, math.nan
    return (
        float(np.median(np.sqrt(np.maximum(squares - noise, 0) / light))),
        float(np.median(np.sqrt(np.maximum(shape, 0)))),
        float(np.median(chi2)),
        float(np.median(fluxes[0][bright] / fluxes[1][bright])),
    )


def _missing(difference: Difference, filtered: MatchedFilter, reference_sources: Sources) -> float:
    """See `Quality`; NaN with fewer than 3 stars."""
    ny, nx = difference.image.shape
    x = np.clip(np.rint(reference_sources.x_pix).astype(int), 0, nx - 1)
    y = np.clip(np.rint(reference_sources.y_pix).astype(int), 0, ny - 1)
    flux, error = filtered.flux_adu[y, x], filtered.flux_err_adu[y, x]
    due = reference_sources.flux_adu * difference.flux_scale
    expected = ~difference.bad[y, x] & ~reference_sources.saturated & (due > EXPECTED_SNR * error)
    if np.count_nonzero(expected) < MIN_STARS:
        return math.nan
    return float(np.mean(flux[expected] < -0.5 * due[expected]))


class QualityError(InputError):
    """A difference outside the limits, with its figures.

    Attributes
    ----------
    quality : Quality
    """

    def __init__(self, message: str, quality: Quality) -> None:
        super().__init__(message)
        self.quality = quality


def check_quality(quality: Quality, *, frame_name: str) -> None:
    """Refuse a difference whose figures are outside `LIMITS`; NaN passes.

    Raises
    ------
    QualityError
        Naming the frame, the figure, its value, the limits and the remedy.
    """
    for name, (low, high, remedy) in LIMITS.items():
        value = getattr(quality, name)
        if value < low or value > high:
            figure = name.replace("_", " ")
            raise QualityError(
                f"{frame_name}: {figure} is {value:.3g}, allowed {low:g} to {high:g}; {remedy}", quality
            )
