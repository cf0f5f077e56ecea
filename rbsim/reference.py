"""The reference image: stacked from frames, written, read, brought to the pixels of a science frame."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.spatial import cKDTree

from rbsim import __version__
from rbsim.errors import InputError
from rbsim.frame import DetectorOptions, Frame, read_frame, split_extension, with_gain
from rbsim.gain import estimate_gain
from rbsim.psf import Psf
from rbsim.psf_fit import fit_psf
from rbsim.psf_stars import find_candidates
from rbsim.register import register
from rbsim.resample import Interpolant, interpolant, resample
from rbsim.schema import MASK
from rbsim.sources import Sources, find_sources, star_radius
from rbsim.stack import clipped_mean
from rbsim.transform import Transform, fit_transform

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference image with all that is measured on it once and serves every frame.

    Attributes
    ----------
    frame : Frame
    sources : Sources
    star_radius_pix : float
        Half-light radius of its stars.
    fwhm_pix : float
    interpolant : Interpolant
        Its spline coefficients and grown masks.
    """

    frame: Frame
    sources: Sources
    star_radius_pix: float
    fwhm_pix: float
    interpolant: Interpolant


@dataclass(frozen=True)
class StackSummary:
    """What became of the frames of a stack: names, and reasons of those left out."""

    n_used: int
    failed: dict[str, str]
    fwhm_pix: float
    coverage_max: int


def load_reference(source: str | Path) -> Reference:
    """Read a reference image and find its sources.

    Raises
    ------
    InputError
        As `rbsim.frame.read_frame`, or if it has too few stars.
    """
    return measure_reference(read_frame(source))


def measure_reference(frame: Frame) -> Reference:
    """Sources and PSF of a frame that serves as reference."""
    try:
        sources = sources_of(frame)
        radius = star_radius(sources)
        psf = psf_of(frame, sources, radius)
    except InputError as error:
        raise InputError(f"{frame.name}: {error}") from error
    spline = interpolant(frame.image, frame.variance, frame.mask)
    return Reference(frame, sources, radius, psf.fwhm_pix, spline)


def psf_of(
    frame: Frame,
    sources: Sources,
    star_radius_pix: float,
    *,
    among: np.ndarray | None = None,
    max_order: int = 3,
) -> Psf:
    """Effective PSF of a frame from its unsaturated point sources, of all or of those in a mask `among`."""
    stars = find_candidates(sources, star_radius_pix, frame.shape)
    return fit_psf(
        frame.image,
        frame.variance,
        frame.bad | frame.saturated,
        sources,
        stars if among is None else stars & among,
        fwhm_guess_pix=2 * star_radius_pix,
        max_order=max_order,
    )


def sources_of(frame: Frame) -> Sources:
    """Sources of a frame above 5 sigma, brightest first."""
    noise = np.sqrt(np.where(np.isfinite(frame.variance), frame.variance, 1))
    return find_sources(frame.image, noise, frame.bad, saturated=frame.saturated)


def match_to_frame(reference: Reference, transform: Transform) -> tuple[Frame, Sources]:
    """Reference image and sources on the pixels of a science frame.

    Parameters
    ----------
    reference : Reference
    transform : Transform
        From the science frame to the reference.

    Returns
    -------
    Frame
        Resampled; the sky map is zero, its light having been subtracted.
    Sources
        With positions in the science frame; those outside are left out.
    """
    frame = reference.frame
    image, variance, mask = resample(reference.interpolant, transform)
    warped = replace(frame, image=image, variance=variance, mask=mask, sky_adu=np.zeros_like(image), wcs=None)
    x, y = transform.invert(reference.sources.x_pix, reference.sources.y_pix)
    ny, nx = image.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    return warped, replace(reference.sources, x_pix=x, y_pix=y).select(inside)


def stack_reference(
    paths: Sequence[str | Path],
    out: Path,
    *,
    options: DetectorOptions | None = None,
    overwrite: bool = False,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> StackSummary:
    """Register frames to the middle one, scale to its flux, and write their clipped mean.

    The grid is that of the middle frame, extended to hold all frames. The file has the image and
    the extensions VARIANCE, MASK (schema.MASK_PLANES) and COVERAGE (frames per pixel).

    Parameters
    ----------
    paths : sequence
        FITS files in order of time.
    out : Path
    options : DetectorOptions, optional
    overwrite : bool
    rng : numpy.random.Generator
        For the error of an estimated gain.
    progress : callable, optional
        Called with (description, done, total).

    Raises
    ------
    InputError
        If `out` exists or cannot be written, or fewer than two frames can be used.
    """
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; give --overwrite to replace it, or another --out")
    if out.resolve() in {split_extension(path)[0].resolve() for path in paths}:
        raise InputError(f"{out}: is one of the frames to stack; choose another --out")
    tell = progress or (lambda *_: None)
    failed: dict[str, str] = {}
    frames: list[Frame] = []
    for number, path in enumerate(paths):
        tell("reading", number, len(paths))
        try:
            frames.append(read_frame(path, options=options))
        except InputError as error:
            failed[str(path)] = str(error)
    frames = [frame for frame in frames if _same_shape_or_failed(frame, frames[0], failed)]
    if len(frames) < 2:
        reasons = "; ".join(failed.values())
        raise InputError(
            f"{len(frames)} usable frames; a stack needs at least 2 ({reasons or 'give more frames'})"
        )
    frames = _complete_gain(frames, rng=rng)
    stacked, n_used = _stack(frames, failed, tell)
    middle = frames[len(frames) // 2]
    if any(frame.dither != middle.dither for frame in frames):
        middle = replace(middle, dither="")
    _write(out, *stacked, middle, sorted(f.name for f in frames if f.name not in failed))
    reference = load_reference(out)
    return StackSummary(n_used, failed, reference.fwhm_pix, int(stacked[3].max()))


def _complete_gain(frames: list[Frame], *, rng: np.random.Generator) -> list[Frame]:
    """Frames with an estimated gain where the header has none; without, if it cannot be estimated.

    A stack can do without: then its variance lacks the photon noise of the sources.
    """
    unknown = [bool(np.isnan(frame.detector.gain_e_per_adu)) for frame in frames]
    if not any(unknown):
        return frames
    try:
        gain = estimate_gain(frames, rng=rng)
    except InputError as error:
        log.warning("%s; the variance of the stack will lack the photon noise of the stars", error)
        return frames
    return [
        with_gain(frame, gain.gain_e_per_adu, gain.gain_err_e_per_adu) if missing else frame
        for frame, missing in zip(frames, unknown, strict=True)
    ]


def _same_shape_or_failed(frame: Frame, first: Frame, failed: dict[str, str]) -> bool:
    if frame.shape == first.shape:
        return True
    failed[frame.name] = f"{frame.name}: has shape {frame.shape}, the first frame {first.shape}"
    return False


def _stack(
    frames: list[Frame], failed: dict[str, str], tell: Progress
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[int, int]], int]:
    middle = frames[len(frames) // 2]
    stars = [sources_of(frame) for frame in frames]
    base_stars = stars[len(frames) // 2]
    kept: list[tuple[Frame, Sources, Transform]] = []
    for number, (frame, own) in enumerate(zip(frames, stars, strict=True)):
        tell("registering", number, len(frames))
        try:
            kept.append((frame, own, register(own, frame.wcs, frame.shape, base_stars, middle.wcs)))
        except InputError as error:
            failed[frame.name] = f"{frame.name}: {error}"
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} frames could be registered; a stack needs at least 2 ({'; '.join(failed.values())})"
        )
    shape, origin = _union(kept, middle.shape)
    images = np.empty((len(kept), *shape), np.float32)
    variances = np.empty_like(images)
    saturated = np.zeros(shape, bool)
    for number, (frame, own, transform) in enumerate(kept):
        tell("resampling", number, len(kept))
        images[number], variances[number], mask = resample(
            interpolant(frame.image, frame.variance, frame.mask), _inverse_on_grid(transform, shape, origin)
        )
        scale = _flux_ratio(own, transform, base_stars)
        images[number] *= scale
        variances[number] *= scale**2
        saturated |= (mask & MASK["SATURATED"]) != 0
    tell("averaging", 0, 1)
    image, variance, coverage, one_frame = clipped_mean(images, variances)
    mask = np.zeros(shape, np.uint8)
    mask[coverage == 0] |= MASK["BAD"]
    mask[saturated & (coverage > 0)] |= MASK["SATURATED"]
    mask[one_frame] |= MASK["ONE_FRAME"]
    tell("averaging", 1, 1)
    return (image, variance, mask, coverage, origin), len(kept)


def _union(
    kept: list[tuple[Frame, Sources, Transform]], shape: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shape of the grid that holds all frames, and the (y, x) of the base's first pixel on it."""
    ny, nx = shape
    corners_x, corners_y = np.array([0, nx - 1, 0, nx - 1], float), np.array([0, 0, ny - 1, ny - 1], float)
    at = np.concatenate([np.column_stack(transform.apply(corners_x, corners_y)) for _, _, transform in kept])
    low = np.minimum(np.floor(at.min(axis=0)), 0).astype(int)
    high = np.maximum(np.ceil(at.max(axis=0)), [nx - 1, ny - 1]).astype(int)
    return (int(high[1] - low[1] + 1), int(high[0] - low[0] + 1)), (int(-low[1]), int(-low[0]))


def _inverse_on_grid(transform: Transform, shape: tuple[int, int], origin: tuple[int, int]) -> Transform:
    """Map from the stack's grid to a frame, fitted to the inverse of frame -> base."""
    ny, nx = transform.from_shape
    grid_y, grid_x = (a.ravel() for a in np.meshgrid(np.linspace(0, ny - 1, 25), np.linspace(0, nx - 1, 25)))
    base_x, base_y = transform.apply(grid_x, grid_y)
    order = max(transform.order, 3)
    return fit_transform(base_x + origin[1], base_y + origin[0], grid_x, grid_y, shape, order)


def _flux_ratio(stars: Sources, transform: Transform, base: Sources) -> float:
    """Median flux of the base over the frame's, over matched unsaturated stars; 1 if there are too few."""
    x, y = transform.apply(stars.x_pix, stars.y_pix)
    distance, partner = cKDTree(np.column_stack([base.x_pix, base.y_pix])).query(np.column_stack([x, y]))
    good = (distance < 1.0) & (stars.snr > 20) & ~stars.saturated
    good[good] &= ~base.saturated[partner[good]]
    if good.sum() < 5:
        return 1.0
    return float(np.median(base.flux_adu[partner[good]] / stars.flux_adu[good]))


def _write(
    out: Path,
    image: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    coverage: np.ndarray,
    origin: tuple[int, int],
    base: Frame,
    names: list[str],
) -> None:
    header = fits.Header()
    if base.wcs is not None:
        wcs = base.wcs.deepcopy()
        wcs.wcs.crpix += [origin[1], origin[0]]
        header.update(wcs.to_header(relax=True))
    if base.field:
        header["OBJECT"] = base.field + base.dither
    if base.sensor:
        header["DET_ID"] = (base.sensor, "sensor number")
    header["NCOMBINE"] = (len(names), "frames in the stack")
    if not np.isnan(base.detector.gain_e_per_adu):
        header["GAIN"] = (base.detector.gain_e_per_adu * len(names), "[e-/ADU] of the mean, full coverage")
    if base.zero_point_calibrated:
        header["MAGZERO"] = (base.zero_point_mag, "[mag] of 1 ADU per exposure")
    header["BUNIT"] = "ADU"
    header["CREATOR"] = f"rbsim {__version__}"
    for name in names:
        header["HISTORY"] = f"stacked {name}"
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(image, header),
            fits.ImageHDU(variance, name="VARIANCE"),
            fits.ImageHDU(mask, name="MASK"),
            fits.ImageHDU(coverage, name="COVERAGE"),
        ]
    )
    temporary = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        hdus.writeto(temporary, overwrite=True)
        temporary.replace(out)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
