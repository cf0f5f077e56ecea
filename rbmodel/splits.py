"""Training, validation and test parts that share neither exposures nor sky."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rbsim.errors import InputError
from rbsim.store import Store

ROLES = ("train", "validation", "test")
UNUSED = -1
FRACTIONS = (0.55, 0.15, 0.30)
"""Shares of blocks, and of tiles, per role. A role's share of the stamps is about its square."""
FRACTIONS_WITHOUT_TEST = (0.8, 0.2, 0.0)
"""The same where the test is another store."""

MIN_GROUPS = 5


@dataclass(frozen=True, eq=False)
class Tiling:
    """Borders of the sky tiles on the reference grid; tile number = iy * nx + ix.

    Attributes
    ----------
    x_edges_pix, y_edges_pix : ndarray, shape (nx + 1,), (ny + 1,)
        Rising. What lies outside belongs to the nearest tile.
    """

    x_edges_pix: np.ndarray
    y_edges_pix: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of tiles (ny, nx)."""
        return len(self.y_edges_pix) - 1, len(self.x_edges_pix) - 1


@dataclass(frozen=True, eq=False)
class Footprints:
    """Where and when each stamp was taken; arrays of shape (n,), named as in the store."""

    block: np.ndarray
    tile: np.ndarray
    group: np.ndarray
    x_ref_pix: np.ndarray
    y_ref_pix: np.ndarray
    footprint_half_ref_pix: np.ndarray


@dataclass(frozen=True, eq=False)
class Split:
    """Who may be used for what.

    Attributes
    ----------
    role : ndarray, shape (n,), int8
        Index into `ROLES` per stamp; -1 unused.
    block_roles, tile_roles : mapping of int to str
    """

    role: np.ndarray
    block_roles: Mapping[int, str]
    tile_roles: Mapping[int, str]

    def rows(self, role: str) -> np.ndarray:
        """Store rows of a role, rising."""
        return np.flatnonzero(self.role == ROLES.index(role))

    @property
    def n_unused(self) -> int:
        """Stamps whose block and tiles have different roles."""
        return int(np.sum(self.role == UNUSED))


def read_footprints(store: Store) -> Footprints:
    """The columns of a store that a split needs."""
    return Footprints(**{name: store.column(name) for name in Footprints.__dataclass_fields__})


def read_tiling(store: Store) -> Tiling:
    """The tiling of a store's reference grid.

    Raises
    ------
    InputError
        If the store has none or it is not a grid.
    """
    try:
        attribute = store.attributes["tiling"]
        edges = [np.asarray(attribute[key], np.float64) for key in ("x_edges_pix", "y_edges_pix")]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{store.path}: has no sky tiling, so that it cannot be split; inject again"
        ) from error
    if any(edge.ndim != 1 or len(edge) < 2 or not np.all(np.diff(edge) > 0) for edge in edges):
        raise InputError(f"{store.path}: the borders of its sky tiling do not rise; inject again")
    return Tiling(*edges)


def make_split(
    footprints: Footprints,
    tiling: Tiling,
    *,
    split_seed: int,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Split:
    """Give every stamp a role such that different roles share no exposure block and no sky.

    Roles are given to the blocks and, independently, to the tiles, by the rank of a hash of seed and
    number: the same for every method, and independent of labels. A stamp has a role if its block and
    *all* tiles that its footprint touches have it; otherwise nobody uses it. This leaves roughly the
    squares of the fractions: the price of a test on unseen sky in unseen nights.

    Parameters
    ----------
    footprints : Footprints
    tiling : Tiling
    split_seed : int
    fractions : tuple of float
        Shares of `ROLES`, summing to 1; each role gets at least one block and one tile. The last may be
        0, for a test on another store.

    Returns
    -------
    Split

    Raises
    ------
    InputError
        If there are fewer than 5 groups, 3 blocks or 3 tiles (2 without a test), or the fractions are
        unusable.
    """
    usable = len(fractions) == len(ROLES) and min(fractions[:2]) > 0 and fractions[2] >= 0
    if not usable or not np.isclose(sum(fractions), 1):
        raise InputError(
            f"split fractions are {fractions}; give three positive numbers that sum to 1 (the last may be 0)"
        )
    blocks, tiles = np.unique(footprints.block), np.unique(footprints.tile)
    n_groups = len(np.unique(footprints.group))
    n_roles = int(np.count_nonzero(fractions))
    if n_groups < MIN_GROUPS or len(blocks) < n_roles or len(tiles) < n_roles:
        raise InputError(
            f"{n_groups} groups in {len(blocks)} exposure blocks and {len(tiles)} sky tiles are too few for a"
            f" split, which needs {MIN_GROUPS}, {n_roles} and {n_roles}; inject into more frames or a larger"
            " field"
        )
    block_roles = _rank_into_roles(blocks, kind="block", split_seed=split_seed, fractions=fractions)
    tile_roles = _rank_into_roles(tiles, kind="tile", split_seed=split_seed, fractions=fractions)

    n_y, n_x = tiling.shape
    role_of_tile = np.full(n_y * n_x, UNUSED, np.int8)
    if tiles.min() < 0 or tiles.max() >= len(role_of_tile):
        raise InputError(
            f"tiles {tiles.min()} to {tiles.max()} do not fit {n_y} x {n_x} sky tiles; inject again"
        )
    for tile, name in tile_roles.items():
        role_of_tile[tile] = ROLES.index(name)
    role_of_block = np.array([ROLES.index(block_roles[int(block)]) for block in blocks], np.int8)
    by_block = role_of_block[np.searchsorted(blocks, footprints.block)]

    half = footprints.footprint_half_ref_pix.astype(float)
    x_first, x_last = _touched(footprints.x_ref_pix, half, tiling.x_edges_pix)
    y_first, y_last = _touched(footprints.y_ref_pix, half, tiling.y_edges_pix)
    role = np.full(len(by_block), UNUSED, np.int8)
    for code in range(len(ROLES)):
        # Summed-area table: foreign tiles within each footprint's rectangle of tiles in four look-ups.
        foreign = (role_of_tile != code).reshape(n_y, n_x)
        table = np.pad(foreign.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))  # (ny + 1, nx + 1)
        n_foreign = (
            table[y_last + 1, x_last + 1]
            - table[y_first, x_last + 1]
            - table[y_last + 1, x_first]
            + table[y_first, x_first]
        )
        role[(by_block == code) & (n_foreign == 0)] = code
    return Split(role, block_roles, tile_roles)


def _touched(
    centre_pix: np.ndarray, half_pix: np.ndarray, edges_pix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and last tile along one axis that closed footprints touch."""
    n_tiles = len(edges_pix) - 1
    first = np.searchsorted(edges_pix, centre_pix - half_pix, side="left") - 1
    last = np.searchsorted(edges_pix, centre_pix + half_pix, side="right") - 1
    return np.clip(first, 0, n_tiles - 1), np.clip(last, 0, n_tiles - 1)


def _rank_into_roles(
    numbers: np.ndarray, *, kind: str, split_seed: int, fractions: tuple[float, float, float]
) -> dict[int, str]:
    ranked = sorted(
        (int(number) for number in numbers),
        key=lambda number: hashlib.sha256(f"{split_seed}:{kind}:{number}".encode()).digest(),
    )
    n_test = max(1, round(fractions[2] * len(ranked))) if fractions[2] else 0
    n_validation = max(1, round(fractions[1] * len(ranked)))
    n_train = len(ranked) - n_test - n_validation
    if n_train < 1:
        raise InputError(f"split fractions {fractions} leave no {kind} for training; lower the other two")
    roles = ["test"] * n_test + ["validation"] * n_validation + ["train"] * n_train
    return dict(sorted(zip(ranked, roles, strict=True)))
