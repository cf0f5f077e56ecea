"""Parts share neither exposures nor sky, and do not depend on anything but the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbmodel.splits import ROLES, Footprints, Tiling, make_split, read_footprints, read_tiling
from rbsim.errors import InputError

TILING = Tiling(np.arange(5) * 100.0, np.arange(4) * 120.0)  # 4 x 3 tiles


def _footprints(n, *, seed=0, n_blocks=6, half=16.0, margin=0.0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-margin, 400 + margin, n), rng.uniform(-margin, 360 + margin, n)
    tile = (y // 120).clip(0, 2).astype(int) * 4 + (x // 100).clip(0, 3).astype(int)
    block = rng.integers(0, n_blocks, n)
    return Footprints(block, tile, block * 12 + tile, x, y, np.full(n, half) * rng.uniform(0.8, 1.2, n))


def _overlap(footprints, first, second):
    """Pairs of footprints that share sky, by brute force."""
    reach = footprints.footprint_half_ref_pix[first][:, None] + footprints.footprint_half_ref_pix[second]
    near = [
        np.abs(axis[first][:, None] - axis[second]) <= reach
        for axis in (footprints.x_ref_pix, footprints.y_ref_pix)
    ]
    return int(np.sum(near[0] & near[1]))


@given(
    seed=st.integers(0, 10_000),
    n_blocks=st.integers(3, 12),
    half=st.floats(1, 60),
    margin=st.sampled_from([0, 40]),
)
@settings(max_examples=40, deadline=None)
def test_no_two_roles_share_sky_or_block(seed, n_blocks, half, margin):
    footprints = _footprints(500, seed=seed, n_blocks=n_blocks, half=half, margin=margin)
    split = make_split(footprints, TILING, split_seed=seed)
    rows = {role: split.rows(role) for role in ROLES}
    assert sum(map(len, rows.values())) + split.n_unused == 500
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert _overlap(footprints, rows[one], rows[other]) == 0
        assert not set(footprints.block[rows[one]]) & set(footprints.block[rows[other]])
        assert not set(footprints.group[rows[one]]) & set(footprints.group[rows[other]])


def test_the_guard_band_is_what_keeps_the_sky_apart():
    """Without it, by the tile of the centre alone, footprints of different roles do overlap."""
    footprints = _footprints(2000)
    split = make_split(footprints, TILING, split_seed=0)
    by_centre = np.array([split.tile_roles[int(tile)] for tile in footprints.tile])
    assert _overlap(footprints, np.flatnonzero(by_centre == "train"), np.flatnonzero(by_centre == "test")) > 0


def test_a_footprint_is_used_only_if_all_tiles_it_touches_agree():
    tiling = Tiling(np.array([0.0, 100, 200, 300]), np.array([0.0, 100.0]))
    n = 12
    block = np.arange(n) % 6
    x = np.full(n, 50.0)
    x[6:] = 85.0  # within 15 of the border: closed boxes touch the next tile
    tile = np.zeros(n, int)
    tile[:3] = [0, 1, 2]
    x[:3] = [50.0, 150.0, 250.0]
    footprints = Footprints(block, tile, block * 3 + tile, x, np.full(n, 50.0), np.full(n, 15.0))
    for split_seed in range(20):
        split = make_split(footprints, tiling, split_seed=split_seed)
        for row in range(n):
            touched = {split.tile_roles[int(tile[row])]}
            if row >= 6:
                touched.add(split.tile_roles[1])
            agree = touched | {split.block_roles[int(block[row])]}
            expected = ROLES.index(next(iter(agree))) if len(agree) == 1 else -1
            assert split.role[row] == expected


def test_shares_of_blocks_and_tiles_follow_the_fractions():
    split = make_split(
        _footprints(4000, n_blocks=20, half=0.1), TILING, split_seed=3, fractions=(0.5, 0.25, 0.25)
    )
    blocks, tiles = list(split.block_roles.values()), list(split.tile_roles.values())
    assert [blocks.count(role) for role in ROLES] == [10, 5, 5]
    assert [tiles.count(role) for role in ROLES] == [6, 3, 3]


def test_the_split_depends_on_its_seed_only():
    footprints = _footprints(600)
    first, second = (make_split(footprints, TILING, split_seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.role, second.role)
    others = [make_split(footprints, TILING, split_seed=seed).tile_roles for seed in range(2, 6)]
    assert any(other != first.tile_roles for other in others)


def test_roles_of_blocks_do_not_depend_on_which_stamps_there_are():
    footprints = _footprints(600)
    half = Footprints(*(getattr(footprints, name)[::2] for name in Footprints.__dataclass_fields__))
    whole, part = (make_split(f, TILING, split_seed=1) for f in (footprints, half))
    assert whole.block_roles == part.block_roles
    np.testing.assert_array_equal(whole.role[::2], part.role)


@pytest.mark.parametrize(
    ("n_blocks", "tiles", "message"),
    [
        (2, (0, 1, 2), "6 groups in 2 exposure blocks and 3 sky tiles are too few"),
        (6, (0, 1), "12 groups in 6 exposure blocks and 2 sky tiles are too few"),
    ],
)
def test_too_few_blocks_or_tiles_are_refused(n_blocks, tiles, message):
    block, tile = (a.ravel() for a in np.meshgrid(np.arange(n_blocks), tiles))
    zeros = np.zeros(len(block))
    with pytest.raises(InputError, match=message):
        make_split(Footprints(block, tile, block * 12 + tile, zeros, zeros, zeros + 1), TILING, split_seed=0)


def test_too_few_groups_are_refused():
    number = np.arange(3)
    with pytest.raises(InputError, match=r"3 groups .* inject into more frames or a larger field"):
        make_split(
            Footprints(number, number, number, np.zeros(3), np.zeros(3), np.ones(3)), TILING, split_seed=0
        )


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.1, 0.45, 0.45)])
def test_unusable_fractions_are_refused(fractions):
    with pytest.raises(InputError, match="split fractions"):
        make_split(_footprints(200, n_blocks=4), TILING, split_seed=0, fractions=fractions)


def test_a_tile_outside_the_grid_is_refused():
    footprints = _footprints(200)
    footprints.tile[7] = 12
    with pytest.raises(InputError, match="tiles 0 to 12 do not fit 3 x 4 sky tiles"):
        make_split(footprints, TILING, split_seed=0)


def test_a_store_is_split_by_its_own_columns(synthetic_store):
    split = make_split(read_footprints(synthetic_store), read_tiling(synthetic_store), split_seed=0)
    assert len(split.role) == synthetic_store.n_stamps
    assert all(len(split.rows(role)) for role in ROLES)
