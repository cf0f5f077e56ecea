"""Injection of stars into a frame and, by linearity, into its difference.

Subtraction is linear in the science pixels as long as background, registration and kernel do not see
the star. So a frame is subtracted once, and every realisation adds its stars to science and difference.
"""

from dataclasses import dataclass, replace

import numpy as np

from rbsim.difference import Difference
from rbsim.frame import Frame
from rbsim.lights import Lights
from rbsim.psf import Psf
from rbsim.shine import InjectedFrame, shine


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

    Raises
    ------
    InputError
        If the gain is not known, or a light without a flag is not finite.
    """
    known = difference.image if difference.convolved == "reference" else None
    stars = shine(science, psf, lights, difference_image=known, rng=rng)
    return Injected(stars.science, _into_difference(difference, stars), stars.flag, stars.drawn)


def inject_frame(science: Frame, psf: Psf, lights: Lights, *, rng: np.random.Generator) -> InjectedFrame:
    """Add stars to a frame alone; arguments as of `inject`."""
    return shine(science, psf, lights, rng=rng)


def _into_difference(difference: Difference, stars: InjectedFrame) -> Difference:
    mask = difference.mask | stars.science.mask
    if not len(stars.light.pixels):
        return replace(difference, mask=mask)
    if difference.convolved == "reference":
        image, variance = stars.light.to(difference.image.copy()), stars.noise.to(difference.variance.copy())
    else:
        image = difference.image + difference.light_of(stars.added_adu)
        variance = difference.variance + difference.noise_of(stars.added_variance)
    return replace(difference, image=image, variance=variance, mask=mask)
