"""What broadens the PSF of a frame that is there already: kernels, and photons that fall elsewhere.

A kernel is a list of pixel steps with shares that are not negative and sum to 1: the share of the photons
of a pixel that a worse seeing would have sent to its neighbours. So it acts on the effective PSF exactly,
at every sub-pixel position, and photon noise stays photon noise.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ive

from rbsim import psf as psf_model
from rbsim.psf import Psf

LEAST_SHARE = 1e-5
OVERSAMPLE = 8


@dataclass(frozen=True, eq=False)
class Kernel:
    """Shares of a pixel's light by step.

    Attributes
    ----------
    dy_pix, dx_pix : ndarray of int, shape (n,)
    share : ndarray, shape (n,)
        Not negative, of sum 1.
    """

    dy_pix: np.ndarray
    dx_pix: np.ndarray
    share: np.ndarray

    @property
    def reach_pix(self) -> int:
        """Longest step along an axis."""
        return int(max(np.abs(self.dy_pix).max(), np.abs(self.dx_pix).max()))


def gaussian_kernels(variance_pix2: float) -> tuple[Kernel, Kernel]:
    """A round Gaussian of this variance as two kernels, along x and along y; none if it is 0.

    The discrete Gaussian exp(-s) I_n(s) (Lindeberg 1990, IEEE PAMI 12, 234), whose variance is exact at
    every width, where a sampled Gaussian of 0.3 px would be none.
    """
    reach = 1
    while ive(reach + 1, variance_pix2) > LEAST_SHARE:
        reach += 1
    step = np.arange(-reach, reach + 1)
    share = ive(np.abs(step), variance_pix2)
    share /= share.sum()
    none = np.zeros_like(step)
    return Kernel(none, step, share), Kernel(step, none, share)


def line_kernel(rms_pix: float, angle_deg: float) -> Kernel:
    """A Gaussian along a line, from +x towards +y.

    One step along the axis that is closer to the line, split between the two pixels beside the line. The
    splitting widens the line across by a variance of at most 1/4, on average 1/6, square pixel.
    """
    angle = np.deg2rad(angle_deg)
    cosine, sine = np.cos(angle), np.sin(angle)
    steep = abs(sine) > abs(cosine)
    along, slope = (abs(sine), cosine / sine) if steep else (abs(cosine), sine / cosine)
    kernel = gaussian_kernels((rms_pix * along) ** 2)[0]
    step = kernel.dx_pix
    aside = step * slope
    low = np.floor(aside + 1e-9).astype(int)
    upper = np.maximum(aside - low, 0)
    u, v = np.concatenate([step, step]), np.concatenate([low, low + 1])
    share = np.concatenate([kernel.share * (1 - upper), kernel.share * upper])
    keep = share > LEAST_SHARE**2
    u, v, share = u[keep], v[keep], share[keep] / share[keep].sum()
    return Kernel(u, v, share) if steep else Kernel(v, u, share)


def blur_plain(image: np.ndarray, kernel: Kernel, *, step: int = 1) -> np.ndarray:
    """Convolution alone, without noise; beyond the border 0, shape (ny, nx).

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    kernel : Kernel
    step : int
        Samples of the image per pixel.
    """
    out = np.zeros_like(image)
    for dy, dx, share in zip(kernel.dy_pix * step, kernel.dx_pix * step, kernel.share, strict=True):
        to, source = _shifted(image.shape, dy, dx)
        out[to] += image.dtype.type(share) * image[source]
    return out


def scatter_photons(
    image: np.ndarray, variance: np.ndarray, kernel: Kernel, *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Send the light of every pixel to its neighbours, photon by photon as far as noise is concerned.

    Photons of a Poisson process that fall into other pixels at random are Poisson again, and independent
    from pixel to pixel. With Gaussian noise of the same moments: let pixel x send the random numbers
    r(x, d) of variance k(d) v(x) along the steps d of the kernel k. Then

        k * (image - sum_d r(x, d)) + sum_d r(x - d, d)

    has the expected value k * image; its noise has the variance k * v in every pixel and no correlation
    between pixels, if the noise of the image was independent with variance v, however v varies.

    Parameters
    ----------
    image : ndarray, shape (ny, nx), float32
    variance : ndarray, shape (ny, nx), float32
        Of the image, its unit squared; noise independent from pixel to pixel.
    kernel : Kernel
    rng : numpy.random.Generator

    Returns
    -------
    image, variance : ndarray, shape (ny, nx), float32
        Beyond the border there is no light: pixels closer to it than the kernel reaches lack some.
    """
    sigma = np.sqrt(variance)
    left = image.copy()
    arrived = np.zeros_like(image)
    for dy, dx, share in zip(kernel.dy_pix, kernel.dx_pix, kernel.share, strict=True):
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        noise *= sigma
        noise *= np.float32(np.sqrt(share))
        left -= noise
        to, source = _shifted(image.shape, dy, dx)
        arrived[to] += noise[source]
    arrived += blur_plain(left, kernel)
    return arrived, blur_plain(variance, kernel)


def _shifted(shape: tuple[int, ...], dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the target and the source of a step."""
    ny, nx = shape
    to = slice(max(dy, 0), ny + min(dy, 0)), slice(max(dx, 0), nx + min(dx, 0))
    source = slice(max(-dy, 0), ny + min(-dy, 0)), slice(max(-dx, 0), nx + min(-dx, 0))
    return to, source


def blurred_psf(psf: Psf, kernels: tuple[Kernel, ...], *, oversample: int) -> np.ndarray:
    """The PSF at the frame's centre after the kernels, shape (size, size), flux 1, padded by their reach."""
    ny, nx = psf.frame_shape
    image = psf_model.sample(psf, np.array([nx / 2]), np.array([ny / 2]), oversample=oversample)[0]
    image = np.pad(image, oversample * sum(kernel.reach_pix for kernel in kernels))
    for kernel in kernels:
        image = blur_plain(image, kernel, step=oversample)
    return image


def fwhm_of(image: np.ndarray, *, oversample: int) -> float:
    """Diameter of the circle with the area above half maximum, px, as `rbsim.psf.Psf.fwhm_pix`."""
    return float(2 * np.sqrt(np.count_nonzero(image > image.max() / 2) / np.pi) / oversample)


def broadening_kernels(psf: Psf, fwhm_factor: float) -> tuple[Kernel, ...]:
    """Kernels after which the FWHM is `fwhm_factor` times that of the PSF; none for 1.

    The width is solved for on the PSF itself: widths add in quadrature only if both are Gaussian.
    """
    if fwhm_factor <= 1:
        return ()

    def excess(variance_pix2: float) -> float:
        wide = blurred_psf(psf, gaussian_kernels(variance_pix2), oversample=OVERSAMPLE)
        return fwhm_of(wide, oversample=OVERSAMPLE) - fwhm_factor * psf.fwhm_pix

    guess = (psf.fwhm_pix / 2.355) ** 2 * (fwhm_factor**2 - 1)
    high = 2 * guess
    while excess(high) < 0:
        high *= 2
    return gaussian_kernels(brentq(excess, 1e-6, high, xtol=1e-3 * guess))
