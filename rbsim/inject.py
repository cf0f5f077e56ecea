"""Injection of stars into a frame and, by linearity, into its difference.

Subtraction is linear in the science pixels as long as background, registration and kernel do not see
the star. So a frame is subtracted once, and every realisation adds its stars to science and difference.
"""

from dataclasses import dataclass, replace

import galsim
import numpy as np
from scipy.special import ndtr, ndtri

from rbsim import psf as psf_model
from rbsim.difference import Difference
from rbsim.frame import Frame
from rbsim.lights import Lights
from rbsim.photon_noise import add_source_noise
from rbsim.psf import Psf
from rbsim.schema import INJECTION_FLAG, MASK


@dataclass(frozen=True, eq=False)
class InjectedFrame:
    """A frame with stars, and what they added to it.

    Attributes
    ----------
    science : Frame
    added_adu : ndarray, shape (ny, nx), float32
        Light, with its photon noise.
    added_variance : ndarray, shape (ny, nx), float32
        ADU squared.
    touched : ndarray of bool, shape (ny, nx)
        Pixels that changed.
    flag : ndarray, shape (n,), int32
        Bits of schema.INJECTION_FLAGS of every light asked for.
    drawn : ndarray of bool, shape (n,)
    """

    science: Frame
    added_adu: np.ndarray
    added_variance: np.ndarray
    touched: np.ndarray
    flag: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True, eq=False)
class Injected:
    """A frame with stars, its difference, and what became of each star.

    Attributes
    ----------
    science : Frame
    difference : Difference
    flag : ndarray, shape (n,), int32
        Bits of schema.INJECTION_FLAGS of every light asked for.
    drawn : ndarray of bool, shape (n,)
    """

    science: Frame
    difference: Difference
    flag: np.ndarray
    drawn: np.ndarray


def oversampling(fwhm_pix: float) -> int:
    """Samples per pixel with which a PSF image is free of aliasing: 4 below 3 px FWHM, else 2."""
    return 4 if fwhm_pix < 3 else 2


def draw_stars(
    psf: Psf, x_pix: np.ndarray, y_pix: np.ndarray, flux: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noiseless pixel-sampled stars, drawn by GalSim from the effective PSF at each position.

    The effective PSF holds the pixel already, so GalSim only interpolates (``no_pixel``).

    Parameters
    ----------
    psf : Psf
    x_pix, y_pix : ndarray, shape (n,)
        0-based positions.
    flux : ndarray, shape (n,)

    Returns
    -------
    stars : ndarray, shape (n, size, size), float64
        size = 2 * psf.half_pix + 1.
    corner_x, corner_y : ndarray, shape (n,), int
        Frame pixel of each stamp's first pixel.
    """
    oversample = oversampling(psf.fwhm_pix)
    size = 2 * psf.half_pix + 1
    corner_x, corner_y = np.rint(x_pix).astype(int) - psf.half_pix, np.rint(y_pix).astype(int) - psf.half_pix
    out = np.empty((len(x_pix), size, size))
    if not len(x_pix):
        return out, corner_x, corner_y
    profiles = psf_model.sample(psf, x_pix, y_pix, oversample=oversample)
    for i, profile in enumerate(profiles):
        star = galsim.InterpolatedImage(
            galsim.Image(profile, scale=1 / oversample),
            x_interpolant="quintic",
            normalization="flux",
            flux=flux[i],
            # Only Fourier methods use these, no_pixel does not; measuring them would take an FFT each.
            _force_stepk=np.pi / size,
            _force_maxk=np.pi * oversample,
        )
        star.drawImage(
            galsim.Image(out[i], xmin=1, ymin=1, scale=1.0),
            method="no_pixel",
            center=_galsim_position(x_pix[i] - corner_x[i], y_pix[i] - corner_y[i]),
        )
    return out, corner_x, corner_y


def _galsim_position(x_pix: float, y_pix: float) -> galsim.PositionD:
    """GalSim counts pixels from 1, everything else here from 0."""
    return galsim.PositionD(x_pix + 1, y_pix + 1)


def add_noise(stars: np.ndarray, gain_e_per_adu: float, *, rng: np.random.Generator) -> np.ndarray:
    """Photon noise of the stars alone; that of sky and detector is in the frame already.

    Parameters
    ----------
    stars : ndarray
        Expected ADU; what is negative (far wings of the PSF model) gets no noise.
    gain_e_per_adu : float
    rng : numpy.random.Generator

    Returns
    -------
    ndarray
        ADU, of the same shape.
    """
    return rng.poisson(np.maximum(stars, 0) * gain_e_per_adu) / gain_e_per_adu + np.minimum(stars, 0)


def digitise(
    light: np.ndarray, raw: np.ndarray, expected: np.ndarray, sigma: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Whole ADU that the light adds to pixels that are rounded already.

    The camera rounds sky and star once, together. So the fraction that the frame's own rounding took
    away is drawn anew, from a normal distribution cut to the pixel's last digit, the light is added, and
    the sum is rounded. Rounding the light by itself would cut the wings of faint stars wherever they are
    below half an ADU, or count the noise of rounding twice.

    Parameters
    ----------
    light : ndarray
        ADU to add, with its photon noise.
    raw : ndarray
        Pixel values of the frame, whole ADU.
    expected, sigma : ndarray
        Mean and standard deviation of `raw` before rounding. Where `raw` is more than 4 sigma off (a
        source), the fraction is uniform.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray
        ADU, whole; 0 where the light is 0.
    """
    share = rng.random(light.shape)
    low, high = ndtr((raw - 0.5 - expected) / sigma), ndtr((raw + 0.5 - expected) / sigma)
    near = np.abs(raw - expected) < 4 * sigma
    quantile = np.where(near, low + share * (high - low), 0.5)
    fraction = np.where(near, expected + sigma * ndtri(quantile) - raw, share - 0.5)
    fraction = np.clip(fraction, -0.4999, 0.4999)  # rounding alone must give the pixel back
    return np.where(light == 0, 0.0, np.rint(raw + fraction + light) - raw)


def inject(
    science: Frame, psf: Psf, difference: Difference, lights: Lights, *, rng: np.random.Generator
) -> Injected:
    """Add stars to a frame and to its difference.

    Parameters
    ----------
    science : Frame
        With known gain.
    psf : Psf
    difference : Difference
        Of `science`.
    lights : Lights
    rng : numpy.random.Generator
        Photon noise and digitisation.

    Returns
    -------
    Injected
        Pixels at or above saturation stay as they are; those lifted to it are clipped and flagged.
    """
    stars = inject_frame(science, psf, lights, rng=rng)
    return Injected(stars.science, _into_difference(difference, stars), stars.flag, stars.drawn)


def inject_frame(science: Frame, psf: Psf, lights: Lights, *, rng: np.random.Generator) -> InjectedFrame:
    """Add stars to a frame alone; arguments as of `inject`."""
    ny, nx = science.shape
    flag = lights.flag.copy()
    drawn = flag == 0
    rows = np.flatnonzero(drawn)
    stars, corner_x, corner_y = draw_stars(psf, lights.x_pix[rows], lights.y_pix[rows], lights.flux_adu[rows])
    gain, limit = science.detector.gain_e_per_adu, science.detector.saturation_adu
    stars = add_noise(stars, gain, rng=rng)
    added = np.zeros((ny, nx), np.float32)
    touched = np.zeros((ny, nx), bool)
    mask = science.mask.copy()
    for i, row in enumerate(rows):
        inside, part = _overlap(corner_x[i], corner_y[i], stars.shape[1], ny, nx)
        light = stars[i][part].astype(np.float32)
        raw = science.image[inside] + science.sky_adu[inside]
        if science.detector.is_integer:
            sigma = np.sqrt(science.variance[inside])
            known = np.isfinite(raw) & np.isfinite(sigma)
            light = np.where(known, light, 0)
            light[known] = digitise(
                light[known], np.rint(raw[known]), science.sky_adu[inside][known], sigma[known], rng=rng
            )
        if not np.isnan(limit):
            room = np.maximum(limit - raw, 0)
            clipped = light > room
            light = np.minimum(light, room)
            mask[inside][clipped] |= MASK["SATURATED"]
            if clipped.any():
                flag[row] |= INJECTION_FLAG["SATURATED"]
        light = np.where(np.isfinite(raw), light, 0)
        added[inside] += light
        touched[inside] |= light != 0
    mask[touched] |= MASK["INJECTED"]
    image = np.where(touched, science.image + added, science.image)
    # The frame's own rule for the noise of sources, applied to the new light.
    with_stars, without = (add_source_noise(science.variance, sky, gain) for sky in (image, science.image))
    known = touched & np.isfinite(with_stars)
    more = np.subtract(with_stars, without, out=np.zeros_like(with_stars), where=known)
    injected = replace(science, image=image, mask=mask, variance=science.variance + more)
    return InjectedFrame(injected, added, more, touched, flag, drawn)


def _into_difference(difference: Difference, stars: InjectedFrame) -> Difference:
    mask = difference.mask | stars.science.mask
    if not stars.touched.any():
        return replace(difference, mask=mask)
    light = difference.light_of(stars.added_adu)
    return replace(
        difference,
        image=np.where(light != 0, difference.image + light, difference.image),
        variance=difference.variance + np.maximum(difference.noise_of(stars.added_variance), 0),
        mask=mask,
    )


def _overlap(
    corner_x: int, corner_y: int, size: int, ny: int, nx: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a stamp inside the frame: slices into the frame and into the stamp."""
    x0, x1 = max(corner_x, 0), min(corner_x + size, nx)
    y0, y1 = max(corner_y, 0), min(corner_y + size, ny)
    return (slice(y0, y1), slice(x0, x1)), (
        slice(y0 - corner_y, y1 - corner_y),
        slice(x0 - corner_x, x1 - corner_x),
    )
