"""The difference image, and what follows from frames and kernel: variance, mask, PSF, correlated noise."""

from dataclasses import dataclass, replace

import numpy as np
import sep
from scipy import ndimage, signal

from rbsim import psf as psf_model
from rbsim import spatial
from rbsim.added import Added
from rbsim.convolve import KernelAt, convolve_varying
from rbsim.frame import Frame
from rbsim.kernel import KernelFit
from rbsim.psf import Psf
from rbsim.schema import MASK
from rbsim.sources import BACKGROUND_BOX_PIX

SOURCE_SIGMA, SOURCE_BOX_PIX = 3.0, 5
"""Where the mean over about this box is off by more than this, and around it, there is no background."""
MOST_MASKED = 0.7
"""With more than this masked the background is measured on all pixels, clipped."""
CLIP_SIGMA = 4.0


@dataclass(frozen=True, eq=False)
class Difference:
    """Difference image on the pixels of the science frame, in its ADU.

    Attributes
    ----------
    image, variance : ndarray, shape (ny, nx), float32
        NaN and inf where there is no value. The variance is that of single pixels.
    mask : ndarray, shape (ny, nx), uint8
        Bits of schema.MASK_PLANES.
    kernel_at : callable
        Kernels at positions, (x, y) -> (n, k, k).
    fit : KernelFit
        What the kernel rests on.
    convolved : str
        ``reference`` or ``science``: which image the kernel was applied to.
    kernel_sum : ndarray, shape (ny, nx), float32
        Flux of the other image per flux of the convolved one.
    noise_factor : ndarray, shape (ny, nx), float32
        Standard deviation of the filtered difference over that for pixels of this variance and
        independent noise: convolution correlates the noise. Follows from the kernel, until
        `rbsim.significance.calibrate_noise` multiplies it by what is measured.
    psf_at : callable
        PSFs of point sources in the difference, (x, y) -> (n, k, k), flux 1.
    """

    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    kernel_at: KernelAt
    fit: KernelFit
    convolved: str
    kernel_sum: np.ndarray
    noise_factor: np.ndarray
    psf_at: KernelAt

    @property
    def bad(self) -> np.ndarray:
        """Pixels without a value, shape (ny, nx), bool."""
        return ~np.isfinite(self.image)

    @property
    def flux_scale(self) -> float:
        """Science ADU per reference ADU at the centre of the frame."""
        ny, nx = self.image.shape
        here = float(self.kernel_sum[ny // 2, nx // 2])
        return here if self.convolved == "reference" else 1 / here

    def light_of(self, science_light: Added) -> np.ndarray:
        """What light added to the science frame adds to the difference, shape (ny, nx).

        The identity where the reference is convolved; ``K * light / sum(K)`` where the science is.
        """
        if self.convolved == "reference":
            return science_light.plane()
        light = science_light.convolved(self.kernel_at)
        light /= self.kernel_sum
        return light

    def noise_of(self, science_variance: Added) -> np.ndarray:
        """What variance added to the science frame adds to that of the difference, shape (ny, nx)."""
        if self.convolved == "reference":
            return science_variance.plane()
        noise = science_variance.convolved(_squared(self.kernel_at))
        noise /= self.kernel_sum**2
        return noise

    def flux_scale_at(self, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """Science ADU per reference ADU at positions, shape (n,); outside the frame that of its border."""
        ny, nx = self.image.shape
        x = np.clip(np.rint(x_pix), 0, nx - 1).astype(int)
        y = np.clip(np.rint(y_pix), 0, ny - 1).astype(int)
        here = self.kernel_sum[y, x].astype(float)
        return here if self.convolved == "reference" else 1 / here

    def reference_light_of(self, reference_light: Added) -> np.ndarray:
        """What light added to the reference, in its ADU, adds to the difference, shape (ny, nx); negative.

        ``-K * light`` where the reference is convolved, ``-light / sum(K)`` where the science frame is.
        """
        if self.convolved == "reference":
            return -reference_light.convolved(self.kernel_at)
        return -reference_light.plane() / self.kernel_sum

    def reference_noise_of(self, reference_variance: Added) -> np.ndarray:
        """What variance added to the reference adds to that of the difference, shape (ny, nx)."""
        if self.convolved == "reference":
            return reference_variance.convolved(_squared(self.kernel_at))
        return reference_variance.plane() / self.kernel_sum**2


@dataclass(frozen=True, eq=False)
class RawDifference:
    """Science minus reference in science ADU, without the pixels that the convolution lost."""

    image: np.ndarray
    lost: np.ndarray
    kernel_at: KernelAt
    kernel_sum: np.ndarray
    fit: KernelFit


def complete(
    science: Frame, science_psf: Psf, reference: Frame, raw: RawDifference, direction: str
) -> Difference:
    """Variance, mask, PSF and correlation of the noise beside a difference."""
    source, target = (reference, science) if direction == "reference" else (science, reference)
    noise = convolve_varying(filled(source.variance, source.bad), _squared(raw.kernel_at))
    np.maximum(noise, 0, out=noise)  # rounding of the Fourier transform
    variance = noise + target.variance
    share = np.divide(noise, variance, out=np.zeros_like(noise), where=np.isfinite(variance) & (variance > 0))
    if direction == "science":
        variance /= raw.kernel_sum**2
    lost = raw.lost | target.bad
    mask = science.mask.copy()
    mask[reference.bad & ~science.bad] |= MASK["NO_REFERENCE"]
    mask[lost & ~science.bad & ~reference.bad] |= MASK["EDGE"]
    mask[reference.saturated] |= MASK["SATURATED_REFERENCE"]
    image = np.where(lost | science.bad, np.float32(np.nan), raw.image)
    variance[~np.isfinite(image) | ~(variance > 0)] = np.inf
    psf_at = _difference_psf(science_psf, raw.kernel_at, direction)
    correlation = _correlation(psf_at, raw.kernel_at, science.shape)
    return Difference(
        image=image,
        variance=variance,
        mask=mask,
        kernel_at=raw.kernel_at,
        fit=raw.fit,
        convolved=direction,
        kernel_sum=raw.kernel_sum,
        noise_factor=np.sqrt(1 + share * (correlation - 1), dtype=np.float32),
        psf_at=psf_at,
    )


def filled(plane: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """A plane with 0 where it is bad or not finite, as a convolution wants it."""
    return np.where(bad | ~np.isfinite(plane), np.float32(0), plane)


def _squared(kernel_at: KernelAt) -> KernelAt:
    return lambda x, y: kernel_at(x, y) ** 2


def flatten(difference: Difference) -> Difference:
    """Take out what is left of the background, in boxes as large as those of the frames' own.

    The background is the mean of the pixels without sources, not their mode: photon noise is skewed, and
    a filter that sums pixels sees the mean.
    """
    image = difference.image
    box = max(min(BACKGROUND_BOX_PIX, *image.shape) // 2, 1)
    # On means of 2 x 2 pixels: a quarter of the work, and sources stand out as well.
    thin, noise = _halved(image), _halved(difference.variance)
    bad = ~(np.isfinite(thin) & np.isfinite(noise))
    thin = np.ascontiguousarray(np.where(bad, np.float32(0), thin))
    # A first guess, so that background is not taken for sources.
    guess = sep.Background(thin, mask=bad, bw=box, bh=box).back()
    above = np.where(bad, np.float32(0), (thin - guess) / np.sqrt(noise / 4))
    smooth = np.abs(ndimage.uniform_filter(above, SOURCE_BOX_PIX // 2))
    # 1.4826 times the median deviation is the width, whatever the correlations of the noise.
    limit = SOURCE_SIGMA * 1.4826 * np.median(smooth[::3, ::3][~bad[::3, ::3]])
    near = ndimage.maximum_filter((smooth > limit).view(np.uint8), SOURCE_BOX_PIX).view(bool)
    empty = ~bad & (np.abs(above) < CLIP_SIGMA)
    if np.mean(near[empty]) < MOST_MASKED:
        empty &= ~near
    means = spatial.box_means(thin - guess, empty, box)
    means = np.where(np.isfinite(means), means, np.nanmedian(means) if np.isfinite(means).any() else 0.0)
    guess += spatial.spread_over(ndimage.median_filter(means, size=3, mode="nearest"), thin.shape, boxes=True)
    rest = np.pad(guess, [(0, size % 2) for size in image.shape], mode="edge")
    rest = rest.repeat(2, axis=0).repeat(2, axis=1)[: image.shape[0], : image.shape[1]]
    return replace(difference, image=image - rest)


def _halved(plane: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels, a last odd row or column left out."""
    ny, nx = (size // 2 * 2 for size in plane.shape)
    rows = plane[0:ny:2, :nx] + plane[1:ny:2, :nx]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


def _difference_psf(science_psf: Psf, kernel_at: KernelAt, direction: str) -> KernelAt:
    def at(x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        stamps = psf_model.sample(science_psf, x_pix, y_pix)
        if direction == "science":
            stamps = signal.fftconvolve(stamps, kernel_at(x_pix, y_pix), mode="same", axes=(1, 2))
            stamps /= stamps.sum(axis=(1, 2), keepdims=True)
        return stamps

    return at


def _correlation(psf_at: KernelAt, kernel_at: KernelAt, shape: tuple[int, int], *, n: int = 5) -> np.ndarray:
    """Variance of kernel-filtered white noise after the PSF filter, over that of white noise of its size.

    ``|P * K|^2 / (|P|^2 |K|^2)``, K turned over, at n x n places and a bilinear map between them, shape
    (ny, nx).
    """
    places = np.meshgrid(*(np.linspace(0, size - 1, n) for size in shape), indexing="ij")
    y, x = (axis.ravel() for axis in places)
    psf, kernels = psf_at(x, y), kernel_at(x, y)
    both = signal.fftconvolve(psf, kernels[:, ::-1, ::-1], axes=(1, 2))
    ratio = (both**2).sum(axis=(1, 2)) / ((psf**2).sum(axis=(1, 2)) * (kernels**2).sum(axis=(1, 2)))
    return spatial.spread_over(ratio.reshape(n, n), shape)
