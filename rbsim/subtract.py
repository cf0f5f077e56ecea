"""Difference imaging: which image is convolved, with which kernel, by which engine."""

import logging

import numpy as np

from rbsim import spatial
from rbsim.config import SubtractConfig
from rbsim.convolve import convolve_varying
from rbsim.difference import Difference, RawDifference, complete, filled, flatten
from rbsim.errors import InputError
from rbsim.external.hotpants import find_hotpants, subtract_hotpants
from rbsim.external.sfft import check_sfft, subtract_sfft
from rbsim.frame import Frame
from rbsim.kernel import Kernel, KernelFit, fit_kernel
from rbsim.kernel_basis import matching_sigma
from rbsim.psf import Psf
from rbsim.sources import Sources

log = logging.getLogger(__name__)

MIN_OVERLAP = 0.05
LOST_WEIGHT = 0.005
"""A pixel has no value if more than this share of its kernel's absolute weight lies on bad pixels."""
MAX_VARIANCE_ERROR = 0.1
"""The kernel is fitted again if the variance in its weights was off by more than this."""
SIMILAR_FWHM = 0.1
"""Relative difference of the FWHM below which both directions are fitted and compared."""


def subtract(
    science: Frame,
    science_psf: Psf,
    reference: Frame,
    reference_fwhm_pix: float,
    stars: Sources,
    *,
    config: SubtractConfig | None = None,
) -> Difference:
    """Subtract a registered reference.

    Parameters
    ----------
    science : Frame
    science_psf : Psf
    reference : Frame
        On the pixels of the science frame.
    reference_fwhm_pix : float
    stars : Sources
        Stars of the *reference* at their science positions, best first: what is only in the science frame
        (transients, injected stars) never becomes a fit stamp.
    config : SubtractConfig, optional
        Which image is convolved, basis, orders.

    Raises
    ------
    InputError
        If there is no overlap, too few stars, or the kernel sum is not positive.
    """
    config = config or SubtractConfig()
    good = ~science.bad & ~reference.bad
    overlap = float(np.mean(good))
    if overlap < MIN_OVERLAP:
        raise InputError(
            f"{science.name}: overlaps the reference by {overlap:.1%}; at least {MIN_OVERLAP:.0%} are needed"
        )
    fwhm = {"science": science_psf.fwhm_pix, "reference": reference_fwhm_pix}
    try:
        if config.backend == "rbsim":
            usable = good & ~science.saturated & ~reference.saturated
            direction, kernel = _fit(science, reference, usable, fwhm, stars, config)
            difference = apply_kernel(science, science_psf, reference, kernel, direction)
        else:
            direction = (
                min(fwhm, key=lambda name: fwhm[name]) if config.convolve == "auto" else config.convolve
            )
            raw = _external(science, reference, direction, fwhm, stars, config)
            difference = complete(science, science_psf, reference, raw, direction)
    except InputError as error:
        raise InputError(f"{science.name}: {error}") from error
    return flatten(difference)


def apply_kernel(
    science: Frame, science_psf: Psf, reference: Frame, kernel: Kernel, direction: str
) -> Difference:
    """The difference for a kernel that is known, its residual background left in.

    Parameters
    ----------
    science, reference : Frame
        On the same pixels.
    science_psf : Psf
    kernel : Kernel
    direction : str
        ``reference`` or ``science``: which image the kernel convolves.
    """
    source, target = (reference, science) if direction == "reference" else (science, reference)
    return complete(science, science_psf, reference, _apply(source, target, kernel, direction), direction)


def check_backend(config: SubtractConfig) -> None:
    """Refuse an external engine that is not installed.

    Raises
    ------
    InputError
        With the way to get it.
    """
    {"rbsim": lambda: None, "hotpants": find_hotpants, "sfft": check_sfft}[config.backend]()


def _external(
    science: Frame,
    reference: Frame,
    direction: str,
    fwhm: dict[str, float],
    stars: Sources,
    config: SubtractConfig,
) -> RawDifference:
    """What HOTPANTS or sfft make of the frames."""
    engine = {"hotpants": subtract_hotpants, "sfft": subtract_sfft}[config.backend]
    found = engine(
        science,
        reference,
        direction=direction,
        fwhm_from_pix=fwhm[direction],
        fwhm_to_pix=fwhm["science" if direction == "reference" else "reference"],
        kernel_order=config.kernel_order,
        background_order=config.background_order,
        stars_x_pix=stars.x_pix,
        stars_y_pix=stars.y_pix,
    )
    places = np.meshgrid(*(np.linspace(0, size - 1, 9) for size in science.shape), indexing="ij")
    y, x = (axis.ravel() for axis in places)
    sums = spatial.spread_over(found.kernel_at(x, y).sum(axis=(1, 2)).reshape(9, 9), science.shape)
    # The programs' images are divided by the kernel sum at the centre; ours is the local one.
    image = found.image * (found.flux_scale / sums) if direction == "science" else found.image
    fit = KernelFit(
        n_stamps=found.n_stamps,
        n_clipped=0,
        chi2_per_pixel=found.chi2_per_pixel,
        residual_share=float("nan"),
        stamp_x_pix=found.stamp_x_pix,
        stamp_y_pix=found.stamp_y_pix,
        stamp_half_pix=found.stamp_half_pix,
    )
    return RawDifference(image, found.lost, found.kernel_at, sums, fit)


def _fit(
    science: Frame,
    reference: Frame,
    usable: np.ndarray,
    fwhm: dict[str, float],
    stars: Sources,
    config: SubtractConfig,
) -> tuple[str, Kernel]:
    """The kernel in the wanted direction; the better of both where the FWHM does not decide."""
    wanted = [config.convolve]
    if config.convolve == "auto":
        wanted = sorted(fwhm, key=lambda name: fwhm[name])
        if fwhm[wanted[0]] < (1 - SIMILAR_FWHM) * fwhm[wanted[1]]:
            wanted = wanted[:1]
    frames = {"science": science, "reference": reference}
    kernels: dict[str, Kernel] = {}
    problems: list[InputError] = []
    for direction in wanted:
        other = "science" if direction == "reference" else "reference"
        try:
            kernels[direction] = _fit_direction(
                frames[direction], frames[other], usable, (fwhm[direction], fwhm[other]), stars, config
            )
        except InputError as error:
            problems.append(error)
    if not kernels:
        raise problems[0]
    shares = {direction: kernel.fit.residual_share for direction, kernel in kernels.items()}
    best = min(shares, key=lambda name: shares[name])
    log.debug("%s: the %s is convolved; left of the stars: %s", science.name, best, shares)
    return best, kernels[best]


def _fit_direction(
    source: Frame,
    target: Frame,
    usable: np.ndarray,
    fwhm_pix: tuple[float, float],
    stars: Sources,
    config: SubtractConfig,
) -> Kernel:
    """Fit the kernel; again, if its own noise turns out to differ from what the weights took it for."""
    gain = _expected_noise_gain(source, target, usable, stars, *fwhm_pix)
    for _ in range(2):
        kernel = fit_kernel(
            source.image,
            target.image,
            target.variance + np.float32(gain) * source.variance,
            usable,
            stars.x_pix,
            stars.y_pix,
            fwhm_from_pix=fwhm_pix[0],
            fwhm_to_pix=fwhm_pix[1],
            basis=config.basis,
            max_order=config.kernel_order,
            background_order=config.background_order,
        )
        lowest = float(spatial.on_grid(kernel.sum_coefficients, kernel.frame_shape, kernel.order, n=9).min())
        if not lowest > 0:
            raise InputError(
                f"kernel sum falls to {lowest:.3g} within the frame, must be positive;"
                " is the reference registered?"
            )
        ny, nx = kernel.frame_shape
        found = float((kernel.at(np.array([nx / 2]), np.array([ny / 2])) ** 2).sum())
        noise = [float(np.median(frame.variance[::8, ::8][usable[::8, ::8]])) for frame in (target, source)]
        if abs(found - gain) * noise[1] < MAX_VARIANCE_ERROR * (noise[0] + found * noise[1]):
            break
        gain = found
    return kernel


def _expected_noise_gain(
    source: Frame,
    target: Frame,
    usable: np.ndarray,
    stars: Sources,
    fwhm_from_pix: float,
    fwhm_to_pix: float,
) -> float:
    """Variance of the convolved source over that of the source, before the kernel is known.

    Scaled by the flux ratio of the stars and reduced as by the Gaussian that matches the PSFs.
    """
    ny, nx = target.shape
    x = np.clip(np.rint(stars.x_pix).astype(int), 0, nx - 1)
    y = np.clip(np.rint(stars.y_pix).astype(int), 0, ny - 1)
    here = usable[y, x]
    peaks = source.image[y, x][here], target.image[y, x][here]
    # A peak is flux over FWHM squared.
    ratio = np.median(peaks[1] / peaks[0]) * (fwhm_to_pix / fwhm_from_pix) ** 2 if here.any() else 1.0
    sigma = matching_sigma(fwhm_from_pix, fwhm_to_pix)
    return float(ratio**2 / (1 + 4 * np.pi * sigma**2))


def _apply(source: Frame, target: Frame, kernel: Kernel, direction: str) -> RawDifference:
    """Convolve the source and subtract."""
    convolved = convolve_varying(filled(source.image, source.bad), kernel.at)
    convolved += spatial.on_grid(kernel.background, kernel.frame_shape, kernel.background_order)
    sums = spatial.on_grid(kernel.sum_coefficients, kernel.frame_shape, kernel.order)
    image = target.image - convolved if direction == "reference" else (convolved - target.image) / sums
    # Beyond the border the image counts as zero in the convolution: as bad as a bad pixel.
    half = kernel.basis.half_pix
    outside = np.pad(source.bad, half, constant_values=True)
    weight = convolve_varying(outside, lambda x, y: _absolute(kernel.at(x - half, y - half)))
    lost = weight[half:-half, half:-half] > LOST_WEIGHT
    return RawDifference(image, lost, kernel.at, sums, kernel.fit)


def _absolute(kernels: np.ndarray) -> np.ndarray:
    """Share of each pixel in the kernels' absolute weight."""
    weight = np.abs(kernels)
    return np.asarray(weight / weight.sum(axis=(1, 2), keepdims=True))
