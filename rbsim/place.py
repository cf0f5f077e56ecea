"""Where injected stars go: at random, near galaxies, or where a catalogue says."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from rbsim import schema
from rbsim.schema import INJECTION_FLAG, KIND_CODES
from rbsim.sources import Sources

TRIES_PER_STAR = 40


@dataclass(frozen=True, eq=False)
class Places:
    """Positions of stars to inject; all arrays of shape (n,).

    Attributes
    ----------
    x_pix, y_pix : 0-based.
    kind : codes of schema.KINDS.
    host : row of the host, -1 without one.
    host_offset_pix, host_pa_deg, host_radius_pix : distance to the host, direction from it (from +x towards
        +y, 0 to 360), its half-light radius; NaN without host.
    flag : bits of schema.INJECTION_FLAGS.
    row : row in the catalogue, -1 without one.
    """

    x_pix: np.ndarray
    y_pix: np.ndarray
    kind: np.ndarray
    host: np.ndarray
    host_offset_pix: np.ndarray
    host_pa_deg: np.ndarray
    host_radius_pix: np.ndarray
    flag: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, eq=False)
class Taken:
    """Places that are taken in a realisation: positions, and half sizes of trails, shape (n, 2) each."""

    xy_pix: np.ndarray
    half_pix: np.ndarray

    def with_more(self, xy_pix: np.ndarray, half_pix: np.ndarray) -> "Taken":
        """Further places; those without position take none."""
        there = np.isfinite(xy_pix).all(axis=1)
        return Taken(
            np.concatenate([self.xy_pix, xy_pix[there]]), np.concatenate([self.half_pix, half_pix[there]])
        )


NOTHING_TAKEN = Taken(np.empty((0, 2)), np.empty((0, 2)))


def half_size_of_trails(length_pix: np.ndarray, angle_deg: np.ndarray) -> np.ndarray:
    """Half widths along x and y of the boxes around trails, shape (n, 2)."""
    angle = np.radians(angle_deg)
    return np.abs(np.column_stack([np.cos(angle), np.sin(angle)])) * length_pix[:, None] / 2


def min_separation(fwhm_pix: float) -> float:
    """Smallest distance along x or y of two stars of one realisation: one stamp and 2 FWHM.

    In the maximum norm, so that neither two stamps nor a stamp and a neighbour's core share a pixel. Of
    trails it is the boxes around them that are so far apart.
    """
    return schema.STAMP_SIZE_PIX + 2 * fwhm_pix


def place(
    usable: np.ndarray,
    hosts: Sources,
    *,
    n_stars: int,
    near_galaxy: float,
    fwhm_pix: float,
    rng: np.random.Generator,
    offset_max_radii: float = 2.5,
    taken: Taken = NOTHING_TAKEN,
) -> Places:
    """Draw positions for one realisation.

    Stars near galaxies come first, each at a host of its own; the others follow a scrambled Halton
    sequence, which fills a frame more evenly than independent draws.

    Parameters
    ----------
    usable : ndarray of bool, shape (ny, nx)
        Pixels that may hold the centre of a star.
    hosts : Sources
        Extended sources, with positions in this frame.
    n_stars : int
        Stars wanted.
    near_galaxy : float
        Fraction of them wanted near galaxies. Where hosts run short, fewer are, and the kinds say so.
    fwhm_pix : float
    rng : numpy.random.Generator
    offset_max_radii : float
        Largest distance to a host in its half-light radii; uniform from 0.
    taken : Taken
        What is placed already.

    Returns
    -------
    Places
        At most `n_stars`: fewer if they do not fit.
    """
    separation = min_separation(fwhm_pix)
    n_near = round(near_galaxy * n_stars)
    near: list[tuple[float, ...]] = []
    for host in rng.permutation(len(hosts)):
        if len(near) >= n_near:
            break
        distance = hosts.radius_half_pix[host] * offset_max_radii * rng.random()
        angle = 2 * np.pi * rng.random()
        at = np.array(
            [hosts.x_pix[host] + distance * np.cos(angle), hosts.y_pix[host] + distance * np.sin(angle)]
        )
        if _is_free(at, taken, usable, separation):
            near.append((*at, host, distance, np.degrees(angle), hosts.radius_half_pix[host]))
            taken = taken.with_more(at[None], np.zeros((1, 2)))
    by_host = np.array(near).reshape(-1, 6)
    spread = scatter(
        usable,
        np.zeros((n_stars - len(near), 2)),
        n_tries=TRIES_PER_STAR * n_stars,
        fwhm_pix=fwhm_pix,
        rng=rng,
        taken=taken,
    )
    spread = spread[np.isfinite(spread[:, 0])]
    m, k = len(near), len(spread)
    nowhere = np.full(k, np.nan)
    return Places(
        x_pix=np.concatenate([by_host[:, 0], spread[:, 0]]),
        y_pix=np.concatenate([by_host[:, 1], spread[:, 1]]),
        kind=np.repeat(
            np.array([KIND_CODES["injected_near_galaxy"], KIND_CODES["injected_random"]], np.int8), [m, k]
        ),
        host=np.concatenate([by_host[:, 2], np.full(k, -1)]).astype(int),
        host_offset_pix=np.concatenate([by_host[:, 3], nowhere]),
        host_pa_deg=np.concatenate([by_host[:, 4], nowhere]),
        host_radius_pix=np.concatenate([by_host[:, 5], nowhere]),
        flag=np.zeros(m + k, np.int32),
        row=np.full(m + k, -1),
    )


def scatter(
    usable: np.ndarray,
    half_pix: np.ndarray,
    *,
    n_tries: int,
    fwhm_pix: float,
    rng: np.random.Generator,
    taken: Taken,
) -> np.ndarray:
    """Positions all over the frame by a scrambled Halton sequence, shape (n, 2); NaN where there is no room.

    Parameters
    ----------
    usable : ndarray of bool, shape (ny, nx)
    half_pix : ndarray, shape (n, 2)
        Half sizes along x and y of the objects, in the order in which they get places.
    n_tries : int
        Terms of the sequence to look at. A trail is given up after `TRIES_PER_STAR` of them, so that the
        others get their turn.
    fwhm_pix : float
    rng : numpy.random.Generator
    taken : Taken
    """
    separation = min_separation(fwhm_pix)
    ny, nx = usable.shape
    out = np.full(half_pix.shape, np.nan)
    row = misses = 0
    for at in qmc.Halton(d=2, rng=rng).random(n_tries) * [nx, ny] - 0.5:
        if row >= len(out):
            break
        if _is_free(at, taken, usable, separation + half_pix[row]):
            taken = taken.with_more(at[None], half_pix[row : row + 1])
            out[row] = at
            row, misses = row + 1, 0
        elif half_pix[row].any():
            misses += 1
            if misses == TRIES_PER_STAR:
                row, misses = row + 1, 0
    return out


def _is_free(at: np.ndarray, taken: Taken, usable: np.ndarray, separation: float | np.ndarray) -> bool:
    """Whether a place is usable and, along x or y, the separation away from all others."""
    x, y = int(np.rint(at[0])), int(np.rint(at[1]))
    ny, nx = usable.shape
    if not (0 <= x < nx and 0 <= y < ny) or not usable[y, x]:
        return False
    gap = np.abs(taken.xy_pix - at) - taken.half_pix - separation
    return bool(np.all(gap.max(axis=1) >= 0))


def place_catalogue(
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    flag: np.ndarray,
    usable: np.ndarray,
    *,
    realisations: int,
    fwhm_pix: float,
    half_pix: np.ndarray | None = None,
) -> list[Places]:
    """Distribute given positions over realisations so that none comes too close to another.

    Parameters
    ----------
    x_pix, y_pix : ndarray, shape (n,)
        0-based positions in this frame.
    flag : ndarray, shape (n,)
        Flags that the rows have already (bad magnitude, unknown type).
    usable : ndarray of bool, shape (ny, nx)
    realisations : int
    fwhm_pix : float
    half_pix : ndarray, shape (n, 2), optional
        Half sizes of trails along x and y.

    Returns
    -------
    list of Places
        One per realisation. Rows that cannot be drawn are in the first, flagged.
    """
    separation = min_separation(fwhm_pix)
    ny, nx = usable.shape
    half = np.zeros((len(x_pix), 2)) if half_pix is None else half_pix
    members: list[list[int]] = [[] for _ in range(realisations)]
    flag = flag.copy()
    positions = np.column_stack([x_pix, y_pix])
    for row, at in enumerate(positions):
        finite = bool(np.isfinite(at).all())
        if not finite or not (-0.5 <= at[0] < nx - 0.5 and -0.5 <= at[1] < ny - 0.5):
            flag[row] |= INJECTION_FLAG["NO_OVERLAP"]
        elif not usable[int(np.rint(at[1])), int(np.rint(at[0]))]:
            flag[row] |= INJECTION_FLAG["ON_MASK"]
        if flag[row]:
            continue
        free = next(
            (
                r
                for r in members
                if _is_free(at, Taken(positions[r], half[r]), usable, separation + half[row])
            ),
            None,
        )
        if free is None:
            flag[row] |= INJECTION_FLAG["CROWDED"]
        else:
            free.append(row)
    members[0] = sorted(members[0] + [int(row) for row in np.flatnonzero(flag)])
    return [
        Places(
            x_pix=positions[rows, 0],
            y_pix=positions[rows, 1],
            kind=np.full(len(rows), KIND_CODES["injected_catalogue"], np.int8),
            host=np.full(len(rows), -1),
            host_offset_pix=np.full(len(rows), np.nan),
            host_pa_deg=np.full(len(rows), np.nan),
            host_radius_pix=np.full(len(rows), np.nan),
            flag=flag[rows].astype(np.int32),
            row=np.array(rows, int),
        )
        for rows in (np.array(m, int) for m in members)
    ]
