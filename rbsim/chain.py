"""One frame to its difference: sources, registration, PSF, subtraction, S/N map."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.psf import Psf
from rbsim.reference import Reference, match_to_frame, psf_of, sources_of
from rbsim.register import Transform, register
from rbsim.significance import MatchedFilter, calibrate_noise, filter_difference
from rbsim.sources import Sources, is_extended, star_radius
from rbsim.subtract import Difference, subtract

MIN_KERNEL_SNR = 20.0
MIN_KERNEL_STARS = 12


@dataclass(frozen=True, eq=False)
class Subtracted:
    """A frame, everything measured on it, and its difference."""

    science: Frame
    psf: Psf
    transform: Transform
    reference: Frame
    reference_sources: Sources
    hosts: Sources
    difference: Difference
    snr_scale: float
    filtered: MatchedFilter


def subtract_frame(science: Frame, reference: Reference, config: InjectConfig) -> Subtracted:
    """Register the reference to a frame, fit PSF and kernel, subtract, and set the noise scale.

    Stars are sources that the reference has too, so nothing here sees what is only in the science
    frame.

    Raises
    ------
    InputError
        If any step is impossible on this frame.
    """
    found = sources_of(science)
    transform = register(found, science.wcs, science.shape, reference.sources, reference.frame.wcs)
    warped, reference_sources = match_to_frame(reference, transform)
    if not len(reference_sources):
        raise InputError("no overlap with the reference")
    common = _in_both(found, reference_sources)
    radius = star_radius(found.select(common))
    psf = psf_of(science, found, radius, among=common, max_order=config.psf_order)
    difference = subtract(
        science,
        psf,
        warped,
        reference.fwhm_pix,
        reference_sources.select(_kernel_stars(reference_sources, found)),
        convolve=config.convolve,
        max_order=config.kernel_order,
    )
    difference, snr_scale = calibrate_noise(difference)
    filtered = filter_difference(difference)
    hosts = reference_sources.select(is_extended(reference_sources, reference.star_radius_pix))
    return Subtracted(
        science, psf, transform, warped, reference_sources, hosts, difference, snr_scale, filtered
    )


def _kernel_stars(reference_sources: Sources, found: Sources) -> np.ndarray:
    """Unsaturated reference sources that are bright in the science frame too; at least the brightest few.

    Noise of the image that is convolved pulls the kernel sum down (errors in variables), so stars that
    only the deeper image shows are worse than none.
    """
    usable = ~reference_sources.saturated & (reference_sources.snr > MIN_KERNEL_SNR)
    bright = found.select((found.snr > MIN_KERNEL_SNR) & ~found.saturated)
    both = usable & _in_both(reference_sources, bright)
    if both.sum() >= MIN_KERNEL_STARS:
        return both
    return usable & (np.cumsum(usable) <= MIN_KERNEL_STARS)


def _in_both(sources: Sources, others: Sources) -> np.ndarray:
    """Which sources of the first list are in the second, within 2 px."""
    if not len(others):
        return np.zeros(len(sources), bool)
    tree = cKDTree(np.column_stack([others.x_pix, others.y_pix]))
    distance, _ = tree.query(np.column_stack([sources.x_pix, sources.y_pix]))
    return np.asarray(distance < 2.0)
