"""Which stars a PSF is fitted to, their stamps, and the sources whose light falls on these stamps."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from rbsim import profile, spatial
from rbsim.sources import Sources, is_point_like

MIN_STAR_SNR = 15.0
MAX_STARS = 200
N_PARTS = 24
"""Parts of the frame that take turns in giving stars."""

MIN_LIGHT_SIGMA = 0.1
"""Neighbours that add less than this to every pixel of a stamp are left alone."""

MIN_SURFACE_STARS = 40

CHUNK_PIX = 2**15
"""Pixels of stamps that are worked on at a time: a quarter MB per array."""


def find_candidates(sources: Sources, radius_pix: float, shape: tuple[int, int]) -> np.ndarray:
    """Unsaturated sources with the size of a star at their place, shape (n,), bool.

    The size changes over a frame, so it is a quadratic surface through the stars' half-light radii, found
    in turn with the stars; a constant where they are few.

    Parameters
    ----------
    sources : Sources
    radius_pix : float
        Half-light radius of the point sources, see `rbsim.sources.star_radius`.
    shape : (ny, nx)
    """
    stars = is_point_like(sources, radius_pix) & ~sources.saturated
    terms = spatial.terms(sources.x_pix, sources.y_pix, shape, 2)
    for _ in range(3):
        bright = stars & (sources.snr > 2 * MIN_STAR_SNR)
        if np.count_nonzero(bright) < MIN_SURFACE_STARS:
            break
        surface = terms @ np.linalg.lstsq(terms[bright], sources.radius_half_pix[bright], rcond=1e-6)[0]
        # Where no star is near, a surface may go anywhere.
        surface = np.clip(surface, 0.6 * radius_pix, 1.6 * radius_pix)
        stars = is_point_like(sources, surface) & ~sources.saturated
    return stars


def choose(
    sources: Sources,
    candidates: np.ndarray,
    shape: tuple[int, int],
    half: int,
    scale: float,
    *,
    most: int = MAX_STARS,
) -> np.ndarray:
    """Rows of the stars to use: the cleanest of each part of the frame in turn, so that all parts count.

    What blurs a star is its noise and the light of its nearest neighbours, relative to its own.
    """
    ny, nx = shape
    x, y = sources.x_pix, sources.y_pix
    inside = (x > half + 1) & (x < nx - half - 2) & (y > half + 1) & (y < ny - half - 2)
    rows = np.flatnonzero(candidates & (sources.snr > MIN_STAR_SNR) & inside)
    if len(rows) <= most:
        return rows
    position = np.column_stack([x, y])
    distance, near = cKDTree(position).query(position[rows], k=min(10, len(x)))
    core2 = (profile.MOFFAT_CORE * scale) ** 2
    light = sources.flux_adu[near[:, 1:]] * (1 + distance[:, 1:] ** 2 / core2) ** -2.5
    blur = np.hypot(1 / sources.snr[rows], light.sum(axis=1) / sources.flux_adu[rows])
    rows = rows[np.argsort(blur, kind="stable")]
    side = np.sqrt(ny * nx / N_PARTS)
    part = (y[rows] // side).astype(int) * (int(nx // side) + 1) + (x[rows] // side).astype(int)
    together = np.argsort(part, kind="stable")  # cleanest first within each part
    first = np.r_[True, np.diff(part[together]) > 0]
    rank = np.empty(len(rows), int)
    rank[together] = np.arange(len(rows)) - np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
    return np.sort(rows[np.argsort(rank, kind="stable")[:most]])


@dataclass(frozen=True, eq=False)
class Positions:
    """What is known of all sources so far: arrays that the fit improves in place."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray


@dataclass(frozen=True, eq=False)
class PsfStars:
    """PSF stars: rows in the sources, and stamps of values and inverse variances, (n, size, size)."""

    rows: np.ndarray
    corner_x: np.ndarray
    corner_y: np.ndarray
    data: np.ndarray
    weight: np.ndarray

    @property
    def half(self) -> int:
        """Half size of the stamps."""
        return self.data.shape[-1] // 2

    def select(self, which: np.ndarray | slice) -> "PsfStars":
        """Some of the stars."""
        return PsfStars(**{name: values[which] for name, values in vars(self).items()})

    def chunks(self) -> Iterator[slice]:
        """Slices of stars whose stamps fit into the processor's cache."""
        step = max(1, CHUNK_PIX // self.data[0].size)
        return (slice(start, start + step) for start in range(0, len(self.rows), step))

    def crop(self, half: int) -> "PsfStars":
        """The middle of the stamps."""
        cut = max(self.half - half, 0)
        inner = (slice(None), slice(cut, self.data.shape[-1] - cut), slice(cut, self.data.shape[-1] - cut))
        return replace(
            self,
            corner_x=self.corner_x + cut,
            corner_y=self.corner_y + cut,
            data=self.data[inner],
            weight=self.weight[inner],
        )

    def grid(self, at: Positions, scale: float, half: int) -> profile.Grid:
        """The functions of the profile on the stamps."""
        axis = np.arange(self.data.shape[-1])
        x = axis + (self.corner_x - at.x[self.rows])[:, None]
        y = axis + (self.corner_y - at.y[self.rows])[:, None]
        return profile.grid(x, y, scale_pix=scale, half_pix=half)


def cut(
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, at: Positions, rows: np.ndarray, half: int
) -> PsfStars:
    """Stamps around the sources in `rows`; weight 0 where a pixel is bad or its variance not finite."""
    corner_x, corner_y = np.rint(at.x[rows]).astype(int) - half, np.rint(at.y[rows]).astype(int) - half
    size = 2 * half + 1
    data, weight = np.empty((2, len(rows), size, size), np.float32)
    for k, (x, y) in enumerate(zip(corner_x, corner_y, strict=True)):
        box = (slice(y, y + size), slice(x, x + size))
        good = ~bad[box] & np.isfinite(variance[box])
        data[k] = np.where(good, image[box], 0)
        weight[k] = np.where(good, 1 / np.where(good, variance[box], 1), 0)
    return PsfStars(rows, corner_x, corner_y, data, weight)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Pairs of a star (index into the stars) and another source near it (row), sorted by star."""

    star: np.ndarray
    other: np.ndarray

    def select(self, which: np.ndarray) -> "Neighbours":
        """Some of the pairs."""
        return Neighbours(self.star[which], self.other[which])

    def of_stars(self, kept: np.ndarray) -> "Neighbours":
        """The pairs of the stars kept, shape (n,) of bool, which are renumbered."""
        number = np.cumsum(kept) - 1
        which = kept[self.star]
        return Neighbours(number[self.star[which]], self.other[which])


def find_neighbours(sources: Sources, stars: PsfStars, fwhm_pix: float) -> Neighbours:
    """Saturated sources that reach a star's stamp, and others that add more than noise to it."""
    position = np.column_stack([sources.x_pix, sources.y_pix])
    near = cKDTree(position).query_ball_point(
        position[stars.rows], 2 * stars.half, p=np.inf, return_sorted=True
    )
    star = np.repeat(np.arange(len(stars.rows)), [len(rows) for rows in near])
    other = np.concatenate([*near, []]).astype(int)
    apart = np.abs(position[other] - position[stars.rows[star]]) - stars.half
    distance2 = (np.maximum(apart, 0) ** 2).sum(axis=1)
    # The wing of the PSF: a Moffat of flux 1, as in `profile`.
    core2 = (profile.MOFFAT_CORE * fwhm_pix / 2.355) ** 2
    light = sources.flux_adu[other] * 1.5 / (np.pi * core2) * (1 + distance2 / core2) ** -2.5
    seen = light * np.sqrt(stars.weight.max(axis=(1, 2), initial=0))[star] > MIN_LIGHT_SIGMA
    return Neighbours(star, other).select((other != stars.rows[star]) & (seen | sources.saturated[other]))


def free_of(
    stars: PsfStars, sources: Sources, neighbours: Neighbours, fwhm_pix: float, *, blind: bool
) -> np.ndarray:
    """False near neighbours, shape (n, size, size): the saturated ones if `blind`, else the others."""
    out = np.ones(stars.data.shape, bool)
    span = np.arange(stars.data.shape[-1])
    reach2 = (fwhm_pix * (4 if blind else 1.5)) ** 2
    chosen = neighbours.select(sources.saturated[neighbours.other] == blind)
    dx = span + (stars.corner_x[chosen.star] - sources.x_pix[chosen.other])[:, None]
    dy = span + (stars.corner_y[chosen.star] - sources.y_pix[chosen.other])[:, None]
    for k, x, y in zip(chosen.star, dx**2, dy**2, strict=True):
        out[k] &= x[None, :] + y[:, None] >= reach2
    return out
