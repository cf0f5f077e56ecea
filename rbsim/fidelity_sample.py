"""Real isolated stars of a frame, and injected ones that passed the same selection beside them."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from rbsim import fidelity_stamps
from rbsim.fidelity_stamps import StarStamps, fit_stamps, inside
from rbsim.frame import Frame
from rbsim.inject import NOISELESS_GAIN_E_PER_ADU, inject_frame
from rbsim.lights import Lights, point_lights
from rbsim.psf import Psf
from rbsim.reference import sources_of
from rbsim.shine import InjectedFrame
from rbsim.sources import Sources, is_point_like

log = logging.getLogger(__name__)

SNR_BINS = ((10.0, 20.0), (20.0, 50.0), (50.0, 150.0))
N_TRIES = 6
"""Realisations in which a star may find its partner; the crowded ones are left without."""

N_PLACES = 40
"""Places that are tried for one star in one realisation."""

REACH_RADII = 6.0
"""A partner lies within this many isolation radii of its star: same PSF, same sky."""

MATCH_PIX = 1.5


@dataclass(frozen=True, eq=False)
class Pairs:
    """Stars of one frame: row i of `real` and of `injected` are partners; all arrays have shape (n,).

    Attributes
    ----------
    real, injected : StarStamps
    real_snr, injected_snr : ndarray
        As measured by `sources_of`.
    star : ndarray of int
        Identity of the real star, the same in all frames.
    fold : ndarray of int
    fwhm_pix : ndarray
        Of the frame's PSF.
    x_share, y_share : ndarray
        Position of the real star over the frame's size, 0 to 1.
    n_selected : int
        Real stars that passed the selection, with or without a partner.
    """

    real: StarStamps
    injected: StarStamps
    real_snr: np.ndarray
    injected_snr: np.ndarray
    star: np.ndarray
    fold: np.ndarray
    fwhm_pix: np.ndarray
    x_share: np.ndarray
    y_share: np.ndarray
    n_selected: int

    @property
    def snr_bin(self) -> np.ndarray:
        """Number of the S/N bin of each pair, shape (n,)."""
        return bin_of(self.real_snr)


def mean_residuals(stamps: StarStamps, star: np.ndarray) -> np.ndarray:
    """Mean residual of each star over its frames, in units of its error, shape (n_stars, size, size).

    A neighbour recurs in all frames of its star: stars, not stamps, are independent.
    """
    _, member = np.unique(star, return_inverse=True)
    out = np.zeros((int(member.max(initial=-1)) + 1, *stamps.light_adu.shape[1:]))
    np.add.at(out, member, stamps.residual_sigma)
    return out / np.bincount(member)[:, None, None]


def concatenate_pairs(parts: list[Pairs]) -> Pairs:
    """Pairs of several frames in one value."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("real_snr", "injected_snr", "star", "fold", "fwhm_pix", "x_share", "y_share")
    }
    return Pairs(
        real=fidelity_stamps.concatenate([part.real for part in parts]),
        injected=fidelity_stamps.concatenate([part.injected for part in parts]),
        n_selected=sum(part.n_selected for part in parts),
        **columns,
    )


def bin_of(snr: np.ndarray) -> np.ndarray:
    """Number of the S/N bin, -1 outside all of them, shape (n,)."""
    out = np.full(len(snr), -1)
    for number, (low, high) in enumerate(SNR_BINS):
        out[(snr >= low) & (snr < high)] = number
    return out


def lights_at(x_pix: np.ndarray, y_pix: np.ndarray, flux_adu: np.ndarray) -> Lights:
    """Stars to inject: the one place here that makes `Lights`."""
    return point_lights(x_pix, y_pix, flux_adu)


def widened(psf: Psf, factor: float) -> Psf:
    """The PSF stretched about its centre, for the control: FWHM times `factor`, flux as before."""
    return replace(psf, scale_pix=psf.scale_pix * factor)


def without_photon_noise(frame: Frame) -> Frame:
    """The frame with so many electrons per ADU that light has no noise, for the control."""
    return replace(frame, detector=replace(frame.detector, gain_e_per_adu=NOISELESS_GAIN_E_PER_ADU))


def selected(
    frame: Frame, sources: Sources, star_radius_pix: float, *, isolation_pix: float, half: int
) -> np.ndarray:
    """Which sources are isolated, clean, unsaturated stars in one of the S/N bins, shape (n,), bool.

    Real and injected stars pass this same rule, on what the same detection measured of them: a rule for one
    kind alone would tell the kinds apart.
    """
    position = np.column_stack([sources.x_pix, sources.y_pix])
    if not len(position):
        return np.zeros(0, bool)
    alone = cKDTree(position).query_ball_point(position, isolation_pix, return_length=True) == 1
    return np.asarray(
        alone
        & is_point_like(sources, star_radius_pix)
        & ~sources.saturated
        & (bin_of(sources.snr) >= 0)
        & inside(frame, sources.x_pix, sources.y_pix, half)
    )


@dataclass(frozen=True, eq=False)
class FrameStars:
    """A frame with its PSFs and its selected real stars.

    Attributes
    ----------
    frame : Frame
    psf : Psf
        Fitted to all stars: what injection uses.
    fold_psfs : tuple of Psf
        For each fold the PSF fitted without the stars of that fold: what is subtracted from both kinds, so
        that a real star never meets a PSF that was bent to its own noise.
    sources : Sources
    star_radius_pix, isolation_pix : float
    half : int
    rows : ndarray of int
        Selected sources.
    star, fold : ndarray of int, shape (len(rows),)
    """

    frame: Frame
    psf: Psf
    fold_psfs: tuple[Psf, ...]
    sources: Sources
    star_radius_pix: float
    isolation_pix: float
    half: int
    rows: np.ndarray
    star: np.ndarray
    fold: np.ndarray


def pair_stars(stars: FrameStars, *, psf: Psf, rng: np.random.Generator) -> Pairs:
    """Inject a partner for every selected star of a frame, as bright, near it, alike selected.

    Places are random, for whatever faint light lies under a star lies there by chance for both kinds. Only a
    brighter source within the isolation radius forbids a place: of a blend the brighter one has the name.
    All other rules are those of `selected`, on the frame with the injected stars in it; and what a single
    pixel explains better than the PSF is not a star of either kind.

    Parameters
    ----------
    stars : FrameStars
    psf : Psf
        What the partners are drawn with: the frame's, or a wrong one for the control.
    rng : numpy.random.Generator
    """
    sources, rows = stars.sources, stars.rows
    real = _fit_by_fold(stars, stars.frame, sources.x_pix[rows], sources.y_pix[rows], stars.fold)
    # The aperture of the catalogue loses the wings; the fitted flux is that of the whole PSF.
    flux = real.flux_adu
    pending = np.flatnonzero(np.isfinite(flux) & ~real.is_single_pixel)
    done: list[np.ndarray] = []
    partners: list[StarStamps] = []
    snrs: list[np.ndarray] = []
    for _ in range(N_TRIES):
        if not len(pending):
            break
        order = rng.permutation(pending)
        x, y = _places(stars, order, flux[order], rng=rng)
        found = np.isfinite(x)
        order, x, y = order[found], x[found], y[found]
        if not len(order):
            continue
        injected = inject_frame(stars.frame, psf, lights_at(x, y, flux[order]), rng=rng)
        measured, good = _find_again(stars, injected, x, y, flux[order])
        number = bin_of(measured.snr) == bin_of(sources.snr[rows[order[good]]])
        measured, kept = measured.select(number), order[good][number]
        part = _fit_by_fold(stars, injected.science, measured.x_pix, measured.y_pix, stars.fold[kept])
        fitted = np.isfinite(part.flux_adu) & ~part.is_single_pixel
        done.append(kept[fitted])
        partners.append(part.select(fitted))
        snrs.append(measured.snr[fitted])
        pending = np.setdiff1d(pending, kept)
    which = np.concatenate([*done, []]).astype(int)
    empty = real.select(np.zeros(0, int))
    return Pairs(
        real=real.select(which),
        injected=fidelity_stamps.concatenate([empty, *partners]),
        real_snr=sources.snr[rows[which]],
        injected_snr=np.concatenate([*snrs, []]),
        star=stars.star[which],
        fold=stars.fold[which],
        fwhm_pix=np.full(len(which), stars.psf.fwhm_pix),
        x_share=sources.x_pix[rows[which]] / stars.frame.shape[1],
        y_share=sources.y_pix[rows[which]] / stars.frame.shape[0],
        n_selected=len(rows),
    )


def _fit_by_fold(
    stars: FrameStars, frame: Frame, x_pix: np.ndarray, y_pix: np.ndarray, fold: np.ndarray
) -> StarStamps:
    """Stamps in the order given, each fitted with the PSF that has not seen its fold."""
    order = np.argsort(fold, kind="stable")
    parts = []
    for number, psf in enumerate(stars.fold_psfs):
        rows = order[fold[order] == number]
        parts.append(fit_stamps(frame, psf, x_pix[rows], y_pix[rows], half=stars.half))
    back = np.empty(len(order), int)
    back[order] = np.arange(len(order))
    return fidelity_stamps.concatenate(parts).select(back)


def _places(
    stars: FrameStars, order: np.ndarray, flux: np.ndarray, *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A place for each star, NaN where none was free; no two within three isolation radii."""
    sources, radius = stars.sources, stars.isolation_pix
    centre = np.column_stack([sources.x_pix, sources.y_pix])[stars.rows[order]]
    angle = rng.uniform(0, 2 * np.pi, (len(order), N_PLACES))
    distance = radius * np.sqrt(rng.uniform(1, REACH_RADII**2, (len(order), N_PLACES)))
    x, y = centre[:, :1] + distance * np.cos(angle), centre[:, 1:] + distance * np.sin(angle)
    free = inside(stars.frame, x.ravel(), y.ravel(), stars.half).reshape(x.shape)
    tree = cKDTree(np.column_stack([sources.x_pix, sources.y_pix]))
    near = tree.query_ball_point(np.stack([x, y], axis=-1), radius)
    out = np.full((len(order), 2), np.nan)
    taken: list[tuple[float, float]] = []
    for i in range(len(order)):
        for k in np.flatnonzero(free[i]):
            if len(near[i, k]) and sources.flux_adu[near[i, k]].max() > flux[i]:
                continue
            if taken and np.hypot(*(np.array(taken) - (x[i, k], y[i, k])).T).min() < 3 * radius:
                continue
            out[i] = x[i, k], y[i, k]
            taken.append((x[i, k], y[i, k]))
            break
    return out[:, 0], out[:, 1]


def _find_again(
    stars: FrameStars, injected: InjectedFrame, x_pix: np.ndarray, y_pix: np.ndarray, flux: np.ndarray
) -> tuple[Sources, np.ndarray]:
    """The injected stars that the detection finds and the selection passes, and which those are."""
    found = sources_of(injected.science)
    passed = selected(
        injected.science,
        found,
        stars.star_radius_pix,
        isolation_pix=stars.isolation_pix,
        half=stars.half,
    )
    if not passed.any():
        return found.select(np.zeros(0, int)), np.zeros(0, int)
    passing = np.flatnonzero(passed)
    tree = cKDTree(np.column_stack([found.x_pix, found.y_pix])[passing])
    distance, nearest = tree.query(np.column_stack([x_pix, y_pix]))
    good = np.flatnonzero((distance < MATCH_PIX) & injected.drawn & (flux > 0))
    return found.select(passing[nearest[good]]), good
