"""Difference imaging: science minus reference, PSFs matched, with variance and mask."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, signal

from rbsim import psf as psf_model
from rbsim.convolve import convolve_varying
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.kernel import Kernel, fit_kernel
from rbsim.psf import Psf
from rbsim.schema import MASK
from rbsim.sources import Sources, measure_background

log = logging.getLogger(__name__)

DIRECTIONS = ("auto", "reference", "science")


@dataclass(frozen=True, eq=False)
class Difference:
    """Difference image on the pixels of the science frame, in its ADU.

    Attributes
    ----------
    image, variance : ndarray, shape (ny, nx), float32
        NaN and inf where there is no value.
    mask : ndarray, shape (ny, nx), uint8
        Bits of schema.MASK_PLANES.
    kernel : Kernel
    convolved : str
        ``reference`` or ``science``: which image the kernel was applied to.
    flux_scale : float
        Science ADU per reference ADU.
    noise_factor : float
        Standard deviation of the filtered difference over that for pixels of this variance and
        independent noise: convolution correlates the noise. Expected from the kernel until
        `rbsim.detect.calibrate_noise` measures it.
    psf_at : callable
        PSFs of point sources in the difference, (x, y) -> (n, k, k), flux 1.
    """

    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    kernel: Kernel
    convolved: str
    flux_scale: float
    noise_factor: float
    psf_at: Callable[[np.ndarray, np.ndarray], np.ndarray]

    @property
    def bad(self) -> np.ndarray:
        """Pixels without a value, shape (ny, nx), bool."""
        return ~np.isfinite(self.image)

    def light_of(self, science_light: np.ndarray) -> np.ndarray:
        """What light added to the science frame adds to the difference, shape (ny, nx).

        The identity where the reference is convolved; ``K * light / sum(K)`` where the science is.
        """
        if self.convolved == "reference":
            return science_light
        return convolve_varying(science_light, self.kernel.at) / np.float32(self.kernel.flux_scale)

    def noise_of(self, science_variance: np.ndarray) -> np.ndarray:
        """What variance added to the science frame adds to that of the difference, shape (ny, nx)."""
        if self.convolved == "reference":
            return science_variance
        squared = convolve_varying(science_variance, lambda x, y: self.kernel.at(x, y) ** 2)
        return squared / np.float32(self.kernel.flux_scale**2)


def subtract(
    science: Frame,
    science_psf: Psf,
    reference: Frame,
    reference_fwhm_pix: float,
    stars: Sources,
    *,
    convolve: str = "auto",
    max_order: int = 2,
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
        Stars of the *reference* at their science positions: what is only in the science frame (transients,
        injected stars) never becomes a fit stamp.
    convolve : str
        ``auto`` convolves the sharper image; ``reference`` or ``science`` force it.
    max_order : int
        Highest degree of the kernel in position.

    Raises
    ------
    InputError
        If there is no overlap, too few stars, or the fit is not sane (flux scale not positive).
    """
    if convolve not in DIRECTIONS:
        raise InputError(f"convolve is {convolve!r}; allowed are {', '.join(DIRECTIONS)}")
    good = ~science.bad & ~reference.bad
    if np.mean(good) < 0.05:
        raise InputError(
            f"{science.name}: overlaps the reference by {np.mean(good):.1%}; at least 5 % are needed"
        )
    direction = convolve
    if direction == "auto":
        direction = "reference" if reference_fwhm_pix <= science_psf.fwhm_pix else "science"
    usable = good & ~science.saturated & ~reference.saturated
    source, target = (reference, science) if direction == "reference" else (science, reference)
    widths = (reference_fwhm_pix, science_psf.fwhm_pix)
    fwhm_from, fwhm_to = widths if direction == "reference" else widths[::-1]
    try:
        kernel = fit_kernel(
            source.image,
            target.image,
            science.variance + reference.variance,
            usable,
            stars.x_pix,
            stars.y_pix,
            fwhm_from_pix=fwhm_from,
            fwhm_to_pix=fwhm_to,
            max_order=max_order,
        )
    except InputError as error:
        raise InputError(f"{science.name}: {error}") from error
    scale = kernel.flux_scale
    if not scale > 0:
        raise InputError(
            f"{science.name}: kernel sum is {scale:.3g}, must be positive; is the reference registered?"
        )
    convolved = convolve_varying(np.nan_to_num(source.image), kernel.at)
    noise = convolve_varying(
        np.where(np.isfinite(source.variance), source.variance, 0), lambda x, y: kernel.at(x, y) ** 2
    )
    reach = _core_radius(kernel)
    # Beyond the border the image counts as zero in the convolution: as bad as a bad pixel.
    outside = np.pad(source.bad, 1, constant_values=True)
    lost = ndimage.binary_dilation(outside, structure=_disc(reach))[1:-1, 1:-1] | target.bad
    if direction == "reference":
        image, variance = science.image - convolved, science.variance + noise
    else:
        image, variance = (convolved - reference.image) / scale, (noise + reference.variance) / scale**2
    mask = science.mask.copy()
    mask[lost & ~science.bad] |= MASK["NO_REFERENCE"]
    mask[reference.saturated] |= MASK["SATURATED_REFERENCE"]
    image = np.where(lost | science.bad, np.float32(np.nan), image)
    variance = np.where(np.isfinite(image) & (variance > 0), variance, np.float32(np.inf))
    psf_at = _difference_psf(science_psf, kernel, direction)
    difference = Difference(
        image=image.astype(np.float32),
        variance=variance.astype(np.float32),
        mask=mask,
        kernel=kernel,
        convolved=direction,
        flux_scale=scale if direction == "reference" else 1 / scale,
        noise_factor=1.0 if direction == "reference" else _correlation(psf_at, kernel),
        psf_at=psf_at,
    )
    return _flatten(difference)


def _flatten(difference: Difference) -> Difference:
    """Take out what is left of the background."""
    background = measure_background(difference.image, difference.bad)
    return replace(difference, image=difference.image - background.sky_adu)


def _difference_psf(
    science_psf: Psf, kernel: Kernel, direction: str
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def at(x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        stamps = psf_model.sample(science_psf, x_pix, y_pix)
        if direction == "science":
            stamps = signal.fftconvolve(stamps, kernel.at(x_pix, y_pix), mode="same", axes=(1, 2))
            stamps /= stamps.sum(axis=(1, 2), keepdims=True)
        return stamps

    return at


def _correlation(psf_at: Callable[[np.ndarray, np.ndarray], np.ndarray], kernel: Kernel) -> float:
    """Gain of white noise through kernel and PSF filter, ``|P*K| / (|P| |K|)``, at the centre."""
    ny, nx = kernel.frame_shape
    centre = np.array([nx / 2]), np.array([ny / 2])
    psf, kernel_here = psf_at(*centre)[0], kernel.at(*centre)[0]
    both = signal.fftconvolve(psf, kernel_here[::-1, ::-1])
    return float(np.sqrt((both**2).sum() / ((psf**2).sum() * (kernel_here**2).sum())))


def _core_radius(kernel: Kernel) -> int:
    """Radius that holds 99 % of the kernel's absolute weight at the centre."""
    ny, nx = kernel.frame_shape
    weight = np.abs(kernel.at(np.array([nx / 2]), np.array([ny / 2]))[0])
    axis = np.arange(weight.shape[0]) - kernel.basis.half_pix
    radius = np.hypot(axis[:, None], axis[None, :])
    order = np.argsort(radius, axis=None, kind="stable")
    share = np.cumsum(weight.ravel()[order]) / weight.sum()
    return max(1, int(np.ceil(radius.ravel()[order][np.searchsorted(share, 0.99)])))


def _disc(radius_pix: int) -> np.ndarray:
    axis = np.arange(-radius_pix, radius_pix + 1)
    return np.hypot(axis[:, None], axis[None, :]) <= radius_pix
