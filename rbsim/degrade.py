"""A real frame as it would have been under worse conditions: what docs/conditions.md says, step by step.

Everything that the atmosphere does happens to the light, everything that the detector does stays sharp, and
noise is added in electrons so that what comes out has the noise of one exposure under these conditions.
"""

from dataclasses import dataclass, replace

import numpy as np

from rbsim import blur
from rbsim.condition import Condition
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.photon_noise import add_source_noise
from rbsim.psf import Psf
from rbsim.schema import MASK
from rbsim.sharp import find_sharp
from rbsim.sky_noise import SkyNoise, measure_sky_noise, without_digits
from rbsim.sources import grow, measure_background

ROUNDING_VARIANCE = 1 / 12
"""Of whole ADU, ADU squared."""
UNKNOWN_SHARE = 1e-3
"""Pixels that get more than this share of the light of saturated ones are as unknown as these."""
FILL_REACH_PIX = 2
LIMIT_SNR = 5.0


@dataclass(frozen=True)
class Depth:
    """How deep a frame is.

    Attributes
    ----------
    noise_adu : float
        Median noise of the sky per pixel that is independent from pixel to pixel; see `rbsim.sky_noise`.
    fwhm_pix : float
        Of the PSF at the frame's centre.
    limit_mag : float
        A point source of this magnitude has the matched-filter S/N `LIMIT_SNR` against white sky noise.
    """

    noise_adu: float
    fwhm_pix: float
    limit_mag: float


@dataclass(frozen=True, eq=False)
class Degraded:
    """A degraded frame, and what it should be.

    Attributes
    ----------
    frame : Frame
    sharp : ndarray of bool, shape (ny, nx)
        Pixels that were taken for artefacts of the detector and kept sharp.
    transparency : float
        Share of the light of the sources that arrived.
    jitter_angle_deg : float
        NaN without jitter.
    predicted : Depth
        What the condition makes of the frame's noise, PSF and zero point.
    """

    frame: Frame
    sharp: np.ndarray
    transparency: float
    jitter_angle_deg: float
    predicted: Depth


def degrade(frame: Frame, psf: Psf, condition: Condition, *, rng: np.random.Generator) -> Degraded:
    """Make a frame worse.

    Parameters
    ----------
    frame : Frame
        With known gain. A read noise that is not known counts as 0: then all noise of the sky is taken
        for that of its photons.
    psf : Psf
        Of the frame.
    condition : Condition
        Not a neutral one.
    rng : numpy.random.Generator

    Returns
    -------
    Degraded
        The frame has new image, sky, variance, mask and zero point, and keeps everything else. Whole ADU
        stay whole; BAD pixels stay BAD; what was saturated stays so, and pixels that its unknown light
        reaches are SATURATED too.

    Raises
    ------
    InputError
        If the brighter sky saturates the frame.
    """
    gain, t = frame.detector.gain_e_per_adu, np.float32(condition.transparency)
    is_whole, bad, saturated = frame.detector.is_integer, frame.bad, frame.saturated
    light = np.where(bad, 0, frame.image).astype(np.float32)
    # From here to the end the light has no digits.
    light, noise = _sky_noise(frame, light, psf, share=rng.random(light.shape) if is_whole else None)
    bands = noise.bands_adu
    light -= bands
    # What the bands hold of the white noise stays in the frame with them.
    sky_variance = noise.white_variance * np.float32(1 - noise.white_in_bands)
    known_variance = add_source_noise(sky_variance, light, gain)
    sharp = find_sharp(light, known_variance, sky_variance, bad | saturated, psf)
    light, artefacts = _take_out(light, sharp, bad, sky_variance, gain, psf, rng=rng)
    artefacts += bands

    source_variance = add_source_noise(sky_variance, light, gain) - sky_variance
    if t < 1:
        lost = sky_variance * (1 - t**2) + source_variance * (t * (1 - t))
        light = t * light + np.sqrt(lost) * _normal(light.shape, rng=rng)
        source_variance = t * source_variance
    kernels, angle = _kernels(psf, condition, rng=rng)
    # Noise that the bands and the rest have in common is lost as far as the rest is dimmed or smoothed.
    common = (noise.white_taken - noise.white_in_bands) * (1.0 if kernels else 1 - float(t))
    light = light + np.sqrt(np.float32(common) * noise.white_variance) * _normal(light.shape, rng=rng)
    light, variance = _scattered(light, sky_variance + source_variance, kernels, rng=rng)

    read_noise = 0.0 if np.isnan(frame.detector.read_noise_e) else frame.detector.read_noise_e
    # What is added is as flat as moonlight, so one value: a map would print the noise map's boxes on the sky.
    sky_e = max(float(np.median(noise.white_variance)) * gain**2 - read_noise**2, 0.0)
    added_e = (condition.sky_factor - 1) * sky_e
    if added_e > 0:
        light += ((rng.poisson(added_e, light.shape) - added_e) / gain).astype(np.float32)
    if condition.read_noise_added_e > 0:
        light += np.float32(condition.read_noise_added_e / gain) * _normal(light.shape, rng=rng)
    more_variance = (added_e + condition.read_noise_added_e**2) / gain**2

    sky = frame.sky_adu + np.float32(added_e / gain)
    raw = light + artefacts + sky
    if is_whole:
        raw = np.rint(raw)
    raw, mask = _saturate(raw, frame, sky, kernels)
    image = np.where(bad, np.float32(np.nan), raw - sky)
    measured = _sky_variance(frame, raw, bad | ((mask & MASK["SATURATED"]) != 0))
    if frame.variance_given:
        change = variance + more_variance - known_variance
        new_variance = np.maximum(frame.variance + change, np.minimum(frame.variance, measured))
    else:
        new_variance = add_source_noise(measured, image, gain)
    zero_point = frame.zero_point_mag + 2.5 * np.log10(condition.transparency)
    degraded = replace(
        frame,
        cube=None,  # its single frames are not degraded: lights in them are flagged NO_CUBE
        image=image.astype(np.float32, copy=False),
        sky_adu=sky,
        variance=np.where(bad, np.float32(np.inf), new_variance).astype(np.float32, copy=False),
        mask=mask,
        zero_point_mag=float(zero_point),
    )
    wanted = _noise_adu(frame, noise.white_variance, more_variance)
    predicted = _depth(psf, kernels, wanted, float(zero_point))
    return Degraded(degraded, sharp, condition.transparency, angle, predicted)


def measure_depth(frame: Frame, psf: Psf) -> Depth:
    """Depth of a frame with this PSF."""
    y, x = np.ogrid[: frame.shape[0], : frame.shape[1]]
    even = (0.5698402910 * y + 0.7548776662 * x) % 1  # as even as random numbers, and always the same
    _, noise = _sky_noise(
        frame, np.where(frame.bad, 0, frame.image), psf, share=even if frame.detector.is_integer else None
    )
    return _depth(psf, (), _noise_adu(frame, noise.white_variance), frame.zero_point_mag)


def _noise_adu(frame: Frame, white_variance: np.ndarray, more_variance: float = 0.0) -> float:
    """Median noise of the sky, rounding included."""
    digits = ROUNDING_VARIANCE if frame.detector.is_integer else 0.0
    return float(np.sqrt(np.median(white_variance) + more_variance + digits))


def _depth(psf: Psf, kernels: tuple[blur.Kernel, ...], noise_adu: float, zero_point_mag: float) -> Depth:
    fine = blur.blurred_psf(psf, kernels, oversample=blur.OVERSAMPLE)
    flux = LIMIT_SNR * noise_adu / np.sqrt(_square_sum(psf, kernels))
    return Depth(
        noise_adu,
        blur.fwhm_of(fine, oversample=blur.OVERSAMPLE),
        float(zero_point_mag - 2.5 * np.log10(flux)),
    )


def _square_sum(psf: Psf, kernels: tuple[blur.Kernel, ...]) -> float:
    """Sum of the squares of the PSF's pixels: one over the area of a matched aperture."""
    return float((blur.blurred_psf(psf, kernels, oversample=1) ** 2).sum())


def _normal(shape: tuple[int, ...], *, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _sky_noise(
    frame: Frame, light: np.ndarray, psf: Psf, *, share: np.ndarray | None
) -> tuple[np.ndarray, SkyNoise]:
    """The light without digits (whole ADU need `share`), and the parts of its noise without rounding."""
    out = frame.bad | frame.saturated
    variance = _sky_variance(frame, light + frame.sky_adu, out)
    if share is not None:
        variance = np.maximum(variance - np.float32(ROUNDING_VARIANCE), 0.1 * variance)
        light = without_digits(light, frame.sky_adu, np.sqrt(variance), share)
    return light, measure_sky_noise(light, variance, out, psf)


def _sky_variance(frame: Frame, raw: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Noise of the sky as `rbsim.frame.read_frame` measures it, ADU squared, rounding included."""
    try:
        background = measure_background(raw, out, digit_adu=1.0 if frame.detector.is_integer else 0.0)
    except InputError as error:
        raise InputError(f"{frame.name}: {error}; a milder condition may do") from error
    return np.asarray(background.rms_adu**2)


def _take_out(
    light: np.ndarray,
    sharp: np.ndarray,
    bad: np.ndarray,
    sky_variance: np.ndarray,
    gain: float,
    psf: Psf,
    *,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The light without artefacts and holes, filled from around them with noise, and the artefacts alone."""
    artefacts = np.zeros_like(light)
    holes = sharp | bad
    if not holes.any():
        return light, artefacts
    y, x = np.nonzero(holes)
    step = np.arange(-FILL_REACH_PIX, FILL_REACH_PIX + 1)
    width = np.clip(psf.fwhm_pix / 2.355, 0.5, FILL_REACH_PIX)
    weight = np.exp(-0.5 * np.add.outer(step**2, step**2) / width**2)
    margin = FILL_REACH_PIX
    around = (y[:, None, None] + step[:, None] + margin, x[:, None, None] + step + margin)
    weights = weight * ~np.pad(holes, margin, constant_values=True)[around]
    total = weights.sum(axis=(1, 2))
    mean = (weights * np.pad(light, margin)[around]).sum(axis=(1, 2)) / np.where(total > 0, total, 1)
    filled = light.copy()
    noise = np.sqrt(sky_variance[y, x] + np.maximum(mean, 0) / gain)
    filled[y, x] = mean + noise * rng.standard_normal(len(y))
    artefacts[y, x] = np.where(sharp[y, x], light[y, x] - mean, 0)
    return filled, artefacts


def _kernels(
    psf: Psf, condition: Condition, *, rng: np.random.Generator
) -> tuple[tuple[blur.Kernel, ...], float]:
    """The kernels of seeing and jitter, and the angle of the jitter."""
    kernels = blur.broadening_kernels(psf, condition.fwhm_factor)
    if condition.jitter_rms_pix <= 0:
        return kernels, float("nan")
    angle = condition.jitter_angle_deg
    angle = float(rng.uniform(0, 180)) if angle is None else angle
    return (*kernels, blur.line_kernel(condition.jitter_rms_pix, angle)), angle


def _scattered(
    light: np.ndarray, variance: np.ndarray, kernels: tuple[blur.Kernel, ...], *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Light and variance after the kernels; what comes in from beyond the border is a mirror image."""
    if not kernels:
        return light, variance
    margin = sum(kernel.reach_pix for kernel in kernels)
    light, variance = (np.pad(plane, margin, mode="symmetric") for plane in (light, variance))
    for kernel in kernels:
        light, variance = blur.scatter_photons(light, variance, kernel, rng=rng)
    inside = (slice(margin, -margin), slice(margin, -margin))
    return light[inside], variance[inside]


def _saturate(
    raw: np.ndarray, frame: Frame, sky: np.ndarray, kernels: tuple[blur.Kernel, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Raw values with the full well, and the mask: what was saturated stays, what is now is added.

    How much light a saturated pixel lost nobody knows, so neither is known what it would send elsewhere.
    """
    mask = frame.mask.copy()
    saturated = frame.saturated
    if saturated.any():
        raw = np.where(saturated, frame.image + frame.sky_adu, raw)
        reached = saturated.astype(np.float32)
        for kernel in kernels:
            reached = blur.blur_plain(reached, kernel)
        mask[(reached > UNKNOWN_SHARE) & ~frame.bad] |= MASK["SATURATED"]
    limit = frame.detector.saturation_adu
    if np.isnan(limit):
        return raw, mask
    if np.median(sky) >= limit:
        raise InputError(
            f"{frame.name}: the sky of {np.median(sky):.0f} ADU is above saturation ({limit:.0f} ADU);"
            " take a smaller sky_factor"
        )
    full = raw >= limit
    mask[grow(full, 1) & ~frame.bad] |= MASK["SATURATED"]
    return np.where(full, np.float32(limit), raw), mask
