"""Where injected stars go: at random, near galaxies, or where a catalogue says."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from rbsim import schema
from rbsim.schema import INJECTION_FLAG, KIND_CODES
from rbsim.sources import Sources

MAX_HOST_RADII = 2.5


@dataclass(frozen=True, eq=False)
class Places:
    """Positions of stars to inject; all arrays of shape (n,).

    Attributes
    ----------
    x_pix, y_pix : 0-based.
    kind : codes of schema.KINDS.
    host_offset_pix, host_radius_pix : distance to the host, its half-light radius; NaN without host.
    flag : bits of schema.INJECTION_FLAGS.
    row : row in the catalogue, -1 without one.
    """

    x_pix: np.ndarray
    y_pix: np.ndarray
    kind: np.ndarray
    host_offset_pix: np.ndarray
    host_radius_pix: np.ndarray
    flag: np.ndarray
    row: np.ndarray


def min_separation(fwhm_pix: float) -> float:
    """Smallest distance along x or y of two stars of one realisation: one stamp and 2 FWHM.

    In the maximum norm, so that neither two stamps nor a stamp and a neighbour's core share a pixel.
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

    Returns
    -------
    Places
        At most `n_stars`: fewer if they do not fit.
    """
    separation = min_separation(fwhm_pix)
    taken = np.empty((n_stars, 2))
    kind, offset = np.empty(n_stars, np.int8), np.full(n_stars, np.nan)
    radius = np.full(n_stars, np.nan)
    n = 0
    n_near = round(near_galaxy * n_stars)
    for host in rng.permutation(len(hosts)):
        if n >= n_near:
            break
        distance = hosts.radius_half_pix[host] * MAX_HOST_RADII * rng.random()
        angle = 2 * np.pi * rng.random()
        at = np.array(
            [hosts.x_pix[host] + distance * np.cos(angle), hosts.y_pix[host] + distance * np.sin(angle)]
        )
        if _is_free(at, taken[:n], usable, separation):
            taken[n], kind[n], offset[n] = at, KIND_CODES["injected_near_galaxy"], distance
            radius[n] = hosts.radius_half_pix[host]
            n += 1
    ny, nx = usable.shape
    tries = qmc.Halton(d=2, rng=rng).random(40 * n_stars) * [nx, ny] - 0.5
    for at in tries:
        if n >= n_stars:
            break
        if _is_free(at, taken[:n], usable, separation):
            taken[n], kind[n] = at, KIND_CODES["injected_random"]
            n += 1
    return Places(
        x_pix=taken[:n, 0].copy(),
        y_pix=taken[:n, 1].copy(),
        kind=kind[:n],
        host_offset_pix=offset[:n],
        host_radius_pix=radius[:n],
        flag=np.zeros(n, np.int32),
        row=np.full(n, -1),
    )


def _is_free(at: np.ndarray, taken: np.ndarray, usable: np.ndarray, separation: float) -> bool:
    x, y = int(np.rint(at[0])), int(np.rint(at[1]))
    ny, nx = usable.shape
    if not (0 <= x < nx and 0 <= y < ny) or not usable[y, x]:
        return False
    return not len(taken) or bool(np.all(np.abs(taken - at).max(axis=1) >= separation))


def place_catalogue(
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    flag: np.ndarray,
    usable: np.ndarray,
    *,
    realisations: int,
    fwhm_pix: float,
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

    Returns
    -------
    list of Places
        One per realisation. Rows that cannot be drawn are in the first, flagged.
    """
    separation = min_separation(fwhm_pix)
    ny, nx = usable.shape
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
        free = next((r for r in members if _is_free(at, positions[r], usable, separation)), None)
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
            host_offset_pix=np.full(len(rows), np.nan),
            host_radius_pix=np.full(len(rows), np.nan),
            flag=flag[rows].astype(np.int32),
            row=np.array(rows, int),
        )
        for rows in (np.array(m, int) for m in members)
    ]
