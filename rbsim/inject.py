"""Injection of stars into a frame, its reference and, by linearity, their difference.

Subtraction is linear in the pixels as long as background, registration and kernel do not see the star. So
a frame is subtracted once, and every realisation adds its stars to science, reference and difference.
"""

from dataclasses import dataclass, replace

import numpy as np

from rbsim.difference import Difference
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.lights import Lights
from rbsim.linearity import linearity_flags
from rbsim.psf import Psf
from rbsim.reference import psf_of, sources_of
from rbsim.schema import INJECTION_FLAG, MASK
from rbsim.shine import InjectedFrame, shine
from rbsim.sources import star_radius

NOISELESS_GAIN_E_PER_ADU = 1e9
"""For a reference of unknown gain, and to try what noise does: so many electrons that theirs is nothing."""


@dataclass(frozen=True, eq=False)
class Injected:
    """A frame with stars, its difference, and what became of each star.

    Attributes
    ----------
    science : Frame
    difference : Difference
    reference : Frame or None
        On the pixels of the science frame, with the stars that shine there too; None if none was given.
    flag : ndarray, shape (n,), int32
        Bits of schema.INJECTION_FLAGS of every light asked for.
    drawn : ndarray of bool, shape (n,)
    stars : InjectedFrame
        The frame with stars alone, for a further reference.
    """

    science: Frame
    difference: Difference
    reference: Frame | None
    flag: np.ndarray
    drawn: np.ndarray
    stars: InjectedFrame


def inject(
    science: Frame,
    psf: Psf,
    difference: Difference,
    lights: Lights,
    *,
    reference: Frame | None = None,
    reference_psf: Psf | None = None,
    stars: InjectedFrame | None = None,
    rng: np.random.Generator,
) -> Injected:
    """Add stars to a frame, to its reference, and to their difference.

    Parameters
    ----------
    science : Frame
        With known gain.
    psf : Psf
    difference : Difference
        Of `science`.
    lights : Lights
    reference : Frame, optional
        On the pixels of `science`, as `difference` was made from; needed for light in the reference.
    reference_psf : Psf, optional
        Its PSF on these pixels, see `psf_of_warped`, which is called if it is needed and not given.
    stars : InjectedFrame, optional
        `science` with these lights, from the injection with another reference: the same light and noise.
    rng : numpy.random.Generator
        Photon noise and digitisation.

    Returns
    -------
    Injected
        Pixels at or above saturation stay as they are; those lifted to it are clipped and flagged. Where the
        reference has no PSF, stars that shine in it are not drawn at all: PSF_COMPUTE_ERROR. Stars that the
        subtraction would have seen are flagged, see `rbsim.linearity`.

    Raises
    ------
    InputError
        If the gain is not known, a light without a flag is not finite, or one shines in a reference that is
        not given.
    """
    in_reference = (lights.flag == 0) & (lights.reference_flux_adu != 0)
    if in_reference.any():
        if reference is None:
            raise InputError("a light shines in the reference; give inject the reference frame")
        if reference_psf is None:
            try:
                reference_psf = psf_of_warped(reference)
            except InputError:
                lights = not_in_reference(lights)
                in_reference = np.zeros_like(in_reference)
    if stars is None:
        known = difference.image if difference.convolved == "reference" else None
        stars = shine(science, psf, lights, difference_image=known, rng=rng)
    changed = _into_difference(difference, stars)
    flag = stars.flag | linearity_flags(difference, lights)
    if in_reference.any() and reference is not None and reference_psf is not None:
        own = lights.select(in_reference)
        scale = difference.flux_scale_at(own.x_pix, own.y_pix)
        # The reference has no single frames.
        steady = np.zeros_like(own.n_cube_frames)
        own = replace(own, flux_adu=own.reference_flux_adu / scale, n_cube_frames=steady)
        with_stars = shine(_as_warped(reference), reference_psf, own, rng=rng)
        flag[in_reference] |= with_stars.flag
        changed = _reference_into_difference(changed, with_stars)
        reference = replace(with_stars.science, detector=reference.detector)
    return Injected(stars.science, changed, reference, flag, stars.drawn, stars)


def not_in_reference(lights: Lights) -> Lights:
    """The lights with those flagged PSF_COMPUTE_ERROR that shine in a reference, which has no PSF."""
    failed = (lights.flag == 0) & (lights.reference_flux_adu != 0)
    flag = np.where(failed, INJECTION_FLAG["PSF_COMPUTE_ERROR"], 0)
    return replace(lights, flag=lights.flag | flag.astype(lights.flag.dtype))


def inject_frame(science: Frame, psf: Psf, lights: Lights, *, rng: np.random.Generator) -> InjectedFrame:
    """Add stars to a frame alone; arguments as of `inject`."""
    return shine(science, psf, lights, rng=rng)


def psf_of_warped(reference: Frame) -> Psf:
    """PSF of a reference on the pixels of a science frame: resampling is part of it.

    Raises
    ------
    InputError
        If there are too few stars.
    """
    sources = sources_of(reference)
    return psf_of(reference, sources, star_radius(sources))


def _as_warped(reference: Frame) -> Frame:
    """A reference whose pixels are what resampling makes of them: not whole, without a level to saturate at.

    What is saturated in it stays masked. Without a gain its light has no photon noise.
    """
    gain = reference.detector.gain_e_per_adu
    detector = replace(
        reference.detector,
        gain_e_per_adu=gain if gain > 0 else NOISELESS_GAIN_E_PER_ADU,
        saturation_adu=float("nan"),
        is_integer=False,
        nonlinearity=0.0,
        bias_adu=0.0,
    )
    return replace(reference, detector=detector)


def _into_difference(difference: Difference, stars: InjectedFrame) -> Difference:
    mask = difference.mask | stars.science.mask
    if not stars.light:
        return replace(difference, mask=mask)
    if difference.convolved == "reference":
        image, variance = stars.light.to(difference.image.copy()), stars.noise.to(difference.variance.copy())
    else:
        image, variance = difference.light_of(stars.light), difference.noise_of(stars.noise)
        image += difference.image
        variance += difference.variance
    return replace(difference, image=image, variance=variance, mask=mask)


def _reference_into_difference(difference: Difference, stars: InjectedFrame) -> Difference:
    if not stars.light:
        return difference
    mask = difference.mask.copy()
    mask[stars.touched] |= MASK["INJECTED"]
    return replace(
        difference,
        image=difference.image + difference.reference_light_of(stars.light),
        variance=difference.variance + difference.reference_noise_of(stars.noise),
        mask=mask,
    )
