"""Difference imaging by programs of others, called and never copied: one file each.

They do the fit and the subtraction; PSF, variance, S/N map and everything after are rbsim's own,
computed from `ExternalDifference.kernel_at` whatever the engine.
"""

from dataclasses import dataclass

import numpy as np

from rbsim.convolve import KernelAt
from rbsim.errors import InputError
from rbsim.frame import Frame

DIRECTIONS = ("reference", "science")


@dataclass(frozen=True, eq=False)
class ExternalDifference:
    """What an external program makes of a science frame and a registered reference.

    Attributes
    ----------
    image : ndarray, shape (ny, nx), float32
        Science minus reference in ADU of the science frame, whichever image was convolved. NaN, never a
        fill value of the program, where there is no value.
    lost : ndarray, shape (ny, nx), bool
        Pixels the program could not do: bad in the image that stays, or more than 1 % of the kernel's
        absolute weight on bad pixels or beyond the border in the image that is convolved.
    flux_scale : float
        Kernel sum at the centre of the frame: target flux per flux of the convolved image.
    chi2_per_pixel : float
        Of the fit stamps; NaN where the program does not say.
    n_stamps : int
        Fit stamps that were left.
    stamp_x_pix, stamp_y_pix : ndarray, shape (n_stamps,)
        Their centres, 0-based.
    stamp_half_pix : int
    kernel_at : callable
        Kernels at positions, (x, y) -> (n, k, k), k odd: the target is the source convolved with them.
    """

    image: np.ndarray
    lost: np.ndarray
    flux_scale: float
    chi2_per_pixel: float
    n_stamps: int
    stamp_x_pix: np.ndarray
    stamp_y_pix: np.ndarray
    stamp_half_pix: int
    kernel_at: KernelAt


def source_and_target(science: Frame, reference: Frame, direction: str) -> tuple[Frame, Frame]:
    """The frame that is convolved and the one that stays.

    Raises
    ------
    InputError
        If the direction is neither ``reference`` nor ``science`` or the frames differ in shape.
    """
    if direction not in DIRECTIONS:
        raise InputError(f"direction is {direction!r}; allowed are {', '.join(DIRECTIONS)}")
    if science.shape != reference.shape:
        raise InputError(
            f"{science.name}: science frame is {science.shape} px (ny, nx) and reference {reference.shape};"
            " register the reference first"
        )
    return (reference, science) if direction == "reference" else (science, reference)


def science_minus_reference(
    target_minus_model: np.ndarray, lost: np.ndarray, *, direction: str, flux_scale: float
) -> np.ndarray:
    """Difference in science ADU, NaN where lost, from what the fit leaves of its target.

    Raises
    ------
    InputError
        If the kernel sum is not positive: there is no flux scale to divide by.
    """
    if not flux_scale > 0:
        raise InputError(f"kernel sum is {flux_scale:.3g}, must be positive; is the reference registered?")
    factor = 1.0 if direction == "reference" else -1.0 / flux_scale
    return np.where(lost, np.float32(np.nan), target_minus_model * np.float32(factor)).astype(np.float32)
