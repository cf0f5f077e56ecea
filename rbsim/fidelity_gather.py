"""Real and injected stars of many frames, each star with one identity and one piece of sky."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.wcs import WCS
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from rbsim.errors import InputError
from rbsim.fidelity_sample import SNR_BINS, FrameStars, bin_of, selected
from rbsim.frame import DetectorOptions, Frame, read_frame, with_gain
from rbsim.inputs import FrameTask, Gain
from rbsim.psf import Psf
from rbsim.reference import Progress, psf_of, sources_of
from rbsim.register import register
from rbsim.sources import Sources, star_radius

log = logging.getLogger(__name__)

N_FOLDS = 4
TILE_PIX = 100.0
SAME_STAR_PIX = 1.0
ISOLATION_FWHM, MIN_ISOLATION_PIX = 4.0, 8.0
HALF_FWHM, MIN_HALF_PIX, MAX_HALF_PIX = 2.5, 5, 12
MIN_FOLD_STARS = 20
"""A PSF without the stars of one fold is fitted from so many others on."""


@dataclass(frozen=True, eq=False)
class Surveyed:
    """What a first look at a frame gave.

    Attributes
    ----------
    task : FrameTask
    sources : Sources
    star_radius_pix : float
    sky_x, sky_y : ndarray, shape (n,)
        Positions of the sources on the common grid.
    """

    task: FrameTask
    sources: Sources
    star_radius_pix: float
    sky_x: np.ndarray
    sky_y: np.ndarray


@dataclass(frozen=True, eq=False)
class Identities:
    """For each surveyed frame the identity of every source, and its fold; lists of arrays (n,)."""

    star: list[np.ndarray]
    fold: list[np.ndarray]


def load(task: FrameTask, options: DetectorOptions, gain: Gain | None) -> Frame:
    """A frame with its gain.

    Raises
    ------
    InputError
        If it is unreadable or has no gain.
    """
    frame = read_frame(task.path, options=options)
    if np.isnan(frame.detector.gain_e_per_adu):
        if gain is None:
            raise InputError(f"{frame.name}: no gain in the header; give --gain (electrons per ADU)")
        frame = with_gain(frame, gain.gain_e_per_adu, gain.gain_err_e_per_adu)
    return frame


def survey(
    tasks: Sequence[FrameTask], options: DetectorOptions, gain: Gain | None, tell: Progress
) -> tuple[list[Surveyed], dict[str, str]]:
    """Sources of all frames on the grid of the middle one, and the reasons of those that failed."""
    failed: dict[str, str] = {}
    # Only what registration needs: the pixels are read again when their turn comes.
    seen: list[Surveyed] = []
    frames: list[tuple[str, WCS | None, tuple[int, int]]] = []
    for number, task in enumerate(tasks):
        tell("looking at the frames", number, len(tasks))
        try:
            frame = load(task, options, gain)
            sources = sources_of(frame)
            radius = _radius(frame, sources)
            seen.append(Surveyed(task, sources, radius, sources.x_pix, sources.y_pix))
            frames.append((frame.name, frame.wcs, frame.shape))
        except InputError as error:
            failed[task.path] = str(error)
    tell("looking at the frames", len(tasks), len(tasks))
    if not seen:
        return [], failed
    grid = len(seen) // 2
    surveyed = []
    for number, (one, (name, wcs, shape)) in enumerate(zip(seen, frames, strict=True)):
        if number == grid:
            surveyed.append(one)
            continue
        try:
            to_grid = register(one.sources, wcs, shape, seen[grid].sources, frames[grid][1])
        except InputError as error:
            failed[one.task.path] = f"{name}: not on one sky with {frames[grid][0]}: {error}"
            continue
        x, y = to_grid.apply(one.sources.x_pix, one.sources.y_pix)
        surveyed.append(replace(one, sky_x=x, sky_y=y))
    return surveyed, failed


def _radius(frame: Frame, sources: Sources) -> float:
    try:
        return star_radius(sources)
    except InputError as error:
        raise InputError(f"{frame.name}: {error}") from error


def identify(surveyed: Sequence[Surveyed], *, rng: np.random.Generator) -> Identities:
    """Give each source the identity of its star and the fold of its tile of sky.

    Sources of any frames within `SAME_STAR_PIX` on the common grid are one star; its mean position says its
    tile. Tiles are dealt to the folds at random, as evenly as their number of stars allows.
    """
    counts = [len(one.sky_x) for one in surveyed]
    position = np.column_stack(
        [np.concatenate([one.sky_x for one in surveyed]), np.concatenate([one.sky_y for one in surveyed])]
    )
    n = len(position)
    pairs = cKDTree(position).query_pairs(SAME_STAR_PIX, output_type="ndarray")
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, star = connected_components(links, directed=False)
    number = np.bincount(star)
    mean = np.column_stack([np.bincount(star, position[:, k]) / number for k in (0, 1)])
    column, row = np.floor(mean / TILE_PIX).astype(int).T
    _, tile = np.unique(np.column_stack([column, row]), axis=0, return_inverse=True)
    tile = np.ravel(tile)
    stars_of_tile = np.bincount(tile)
    fold_of_tile = np.zeros(len(stars_of_tile), int)
    filled = np.zeros(N_FOLDS)
    shuffled = rng.permutation(len(stars_of_tile))
    for one in shuffled[np.argsort(-stars_of_tile[shuffled], kind="stable")]:
        fold_of_tile[one] = int(np.argmin(filled))
        filled[fold_of_tile[one]] += stars_of_tile[one]
    fold = fold_of_tile[tile][star]
    ends = np.cumsum(counts)[:-1]
    return Identities(np.split(star, ends), np.split(fold, ends))


def sizes(surveyed: Sequence[Surveyed]) -> tuple[int, float]:
    """Half size of the stamps and isolation radius, the same for all frames, from their typical FWHM."""
    fwhm = 2 * float(np.median([one.star_radius_pix for one in surveyed]))
    half = int(np.clip(np.ceil(HALF_FWHM * fwhm), MIN_HALF_PIX, MAX_HALF_PIX))
    return half, max(ISOLATION_FWHM * fwhm, MIN_ISOLATION_PIX)


def frame_stars(
    surveyed: Surveyed,
    frame: Frame,
    star: np.ndarray,
    fold: np.ndarray,
    *,
    half: int,
    isolation_pix: float,
    n_most: int,
    psf_order: int,
    rng: np.random.Generator,
) -> FrameStars:
    """PSFs and selected stars of one frame, at most `n_most` of each S/N bin.

    Raises
    ------
    InputError
        If the frame has no PSF.
    """
    sources, radius = surveyed.sources, surveyed.star_radius_pix
    try:
        psf = psf_of(frame, sources, radius, max_order=psf_order)
    except InputError as error:
        raise InputError(f"{frame.name}: {error}") from error
    if psf.half_pix < half:
        raise InputError(
            f"{frame.name}: its PSF is much narrower than that of the other frames"
            f" (support {psf.half_pix} px, stamps need {half} px); measure it apart"
        )
    rows = np.flatnonzero(selected(frame, sources, radius, isolation_pix=isolation_pix, half=half))
    number = bin_of(sources.snr[rows])
    chosen = [rng.permutation(rows[number == k])[:n_most] for k in range(len(SNR_BINS))]
    rows = np.sort(np.concatenate(chosen))
    fold_psfs = tuple(_psf_without(frame, sources, radius, fold == k, psf, psf_order) for k in range(N_FOLDS))
    return FrameStars(
        frame, psf, fold_psfs, sources, radius, isolation_pix, half, rows, star[rows], fold[rows]
    )


def _psf_without(
    frame: Frame, sources: Sources, radius: float, held_out: np.ndarray, whole: Psf, order: int
) -> Psf:
    """The PSF from the stars of the other folds; that of all stars where these are too few."""
    try:
        psf = psf_of(frame, sources, radius, among=~held_out, max_order=order)
    except InputError:
        return whole
    if psf.n_stars < MIN_FOLD_STARS:
        return whole
    return psf
