"""One frame to its difference: sources, registration, PSF, subtraction, S/N map."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from rbsim.config import SubtractConfig
from rbsim.difference import Difference
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.psf import Psf
from rbsim.quality import Quality, check_quality, measure_quality
from rbsim.reference import Reference, match_to_frame, psf_of, sources_of
from rbsim.register import Transform, register
from rbsim.significance import MatchedFilter, calibrate_noise
from rbsim.sources import Sources, is_extended, star_radius
from rbsim.subtract import subtract

MIN_KERNEL_SNR = 20.0
MIN_KERNEL_STARS = 12


@dataclass(frozen=True, eq=False)
class Registered:
    """A frame, the reference on its pixels, and what was measured on both.

    Attributes
    ----------
    science : Frame
    common : Sources
        Sources of the science frame that the reference has too.
    psf : Psf
        Of the science frame.
    transform : Transform
        From the science frame to the reference.
    reference : Frame
        On the pixels of the science frame.
    reference_sources : Sources
        Of the reference, with positions in the science frame.
    extended : ndarray of bool
        Which of them are galaxies, or blends like them.
    stars : Sources
        Those that may shape the kernel, best first.
    reference_fwhm_pix : float
    """

    science: Frame
    common: Sources
    psf: Psf
    transform: Transform
    reference: Frame
    reference_sources: Sources
    extended: np.ndarray
    stars: Sources
    reference_fwhm_pix: float


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
    quality: Quality
    filtered: MatchedFilter


def register_frame(science: Frame, reference: Reference, config: SubtractConfig) -> Registered:
    """Register the reference to a frame and fit the frame's PSF.

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
    in_both = _in_both(found, reference_sources)
    common = found.select(in_both)
    psf = psf_of(science, found, star_radius(common), among=in_both, max_order=config.psf_order)
    extended = is_extended(reference_sources, reference.star_radius_pix)
    stars = reference_sources.select(_kernel_stars(reference_sources, found, extended))
    return Registered(
        science=science,
        common=common,
        psf=psf,
        transform=transform,
        reference=warped,
        reference_sources=reference_sources,
        extended=extended,
        stars=stars,
        reference_fwhm_pix=reference.fwhm_pix,
    )


def subtract_frame(science: Frame, reference: Reference, config: SubtractConfig) -> Subtracted:
    """Register the reference to a frame, subtract it, set the noise scale, and check the result.

    Raises
    ------
    InputError
        If any step is impossible on this frame, or a sanity figure is outside its limits.
    """
    pair = register_frame(science, reference, config)
    difference = subtract(
        science, pair.psf, pair.reference, pair.reference_fwhm_pix, pair.stars, config=config
    )
    difference, filtered, snr_scale = calibrate_noise(difference)
    quality = measure_quality(
        science,
        pair.reference,
        difference,
        filtered,
        pair.stars,
        pair.reference_sources,
        fwhm_pix=max(pair.psf.fwhm_pix, pair.reference_fwhm_pix),
        snr_scale=snr_scale,
    )
    check_quality(quality, frame_name=science.name)
    return Subtracted(
        science=science,
        psf=pair.psf,
        transform=pair.transform,
        reference=pair.reference,
        reference_sources=pair.reference_sources,
        hosts=pair.reference_sources.select(pair.extended),
        difference=difference,
        quality=quality,
        filtered=filtered,
    )


def _kernel_stars(reference_sources: Sources, found: Sources, extended: np.ndarray) -> np.ndarray:
    """Unsaturated reference stars that are bright in the science frame too; at least the brightest few.

    Noise of the image that is convolved pulls the kernel sum down (errors in variables), so stars that
    only the deeper image shows are worse than none. Cores of galaxies, whose light is not a PSF in either
    band, serve only where stars are too few.
    """
    usable = ~reference_sources.saturated & (reference_sources.snr > MIN_KERNEL_SNR)
    bright = found.select((found.snr > MIN_KERNEL_SNR) & ~found.saturated)
    both = usable & _in_both(reference_sources, bright)
    for chosen in (both & ~extended, both):
        if chosen.sum() >= MIN_KERNEL_STARS:
            return chosen
    return usable & (np.cumsum(usable) <= MIN_KERNEL_STARS)


def _in_both(sources: Sources, others: Sources) -> np.ndarray:
    """Which sources of the first list are in the second, within 2 px."""
    if not len(others):
        return np.zeros(len(sources), bool)
    tree = cKDTree(np.column_stack([others.x_pix, others.y_pix]))
    distance, _ = tree.query(np.column_stack([sources.x_pix, sources.y_pix]))
    return np.asarray(distance < 2.0)
