"""`rbsim benchmark TRAIN --test OTHER`: the test is another store, of which training sees nothing."""

import json

import numpy as np
import pytest
import torch
from _synthetic_store import make_store

from rbmodel.benchmark_config import BenchmarkConfig
from rbmodel.report import build_report
from rbmodel.splits import FRACTIONS_WITHOUT_TEST, make_split, read_footprints, read_tiling
from rbmodel.study import run_benchmark
from rbmodel.train import TrainConfig
from rbmodel.trial import load_pools
from rbsim import schema
from rbsim.errors import InputError
from rbsim.store import Store

torch.set_num_threads(1)

FAST = BenchmarkConfig(methods=("baseline",), n_bootstrap=20, train=TrainConfig(n_epochs=2, batch_size=64))


@pytest.fixture(scope="module")
def other_store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("other") / "other.zarr", n_stamps=400, n_blocks=2, seed=5)


def without_test(store):
    footprints, tiling = read_footprints(store), read_tiling(store)
    return make_split(footprints, tiling, split_seed=0, fractions=FRACTIONS_WITHOUT_TEST)


def test_without_a_test_role_all_blocks_train_or_validate(synthetic_store):
    split = without_test(synthetic_store)
    assert set(split.block_roles.values()) == set(split.tile_roles.values()) == {"train", "validation"}
    assert len(split.rows("test")) == 0
    blocks = [set(synthetic_store.column("block")[split.rows(role)]) for role in ("train", "validation")]
    assert not blocks[0] & blocks[1]


def test_the_test_is_the_other_store_and_nothing_else(synthetic_store, other_store, tmp_path):
    (row,) = run_benchmark(synthetic_store.path, tmp_path / "out", FAST, test_path=other_store.path)
    assert row["status"] == "ok"
    with np.load(tmp_path / "out" / "runs" / f"{row['run_id']}.npz") as run:
        tested, kind = run["test_row"], run["test_kind"]
    ambiguous = other_store.column("flags") & schema.CANDIDATE_FLAG["AMBIGUOUS"]
    expected = np.flatnonzero((other_store.column("label_true") >= 0) & (ambiguous == 0))
    np.testing.assert_array_equal(tested, expected)
    np.testing.assert_array_equal(kind, other_store.column("kind")[tested])
    assert row["n_test_bogus"] == np.sum(other_store.column("label_true")[expected] == 0)
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    assert study["test_store"]["manifest_sha256"] == other_store.manifest_sha256
    page = build_report(tmp_path / "out", synthetic_store.path, test_path=other_store.path)
    assert "other.zarr" in page.read_text()
    with pytest.raises(InputError, match="was begun with another test_store"):
        run_benchmark(synthetic_store.path, tmp_path / "out", FAST, resume=True)


def test_training_has_more_stamps_and_none_of_the_test(synthetic_store, other_store):
    split = without_test(synthetic_store)
    pools = load_pools(synthetic_store, split, normalisation="minmax", test_store=other_store)
    inner = load_pools(
        synthetic_store,
        make_split(read_footprints(synthetic_store), read_tiling(synthetic_store), split_seed=0),
        normalisation="minmax",
    )
    assert len(pools.training) > len(inner.training)
    known = {stamp.tobytes() for stamp in pools.training.pixels}
    assert not known & {stamp.tobytes() for stamp in pools.test.pixels}


def test_stores_with_a_frame_in_common_are_refused(synthetic_store, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is the store that is trained on"):
        run_benchmark(synthetic_store.path, tmp_path / "a", FAST, test_path=synthetic_store.path)
    same = make_store(tmp_path / "same.zarr", n_stamps=400, n_blocks=3)
    split = without_test(synthetic_store)
    # Both have frames b0, b1, ...; of those with a level b0 alone is the same.
    levels = {8: np.arange(100.0, 108.0), 3: np.array([100.0, 107.5, np.nan])}
    read = Store.column
    monkeypatch.setattr(
        Store,
        "column",
        lambda store, name: levels[len(store.frame_names)] if "sky" in name else read(store, name),
    )
    with pytest.raises(InputError, match=r"has 1 frames of .* \(b0 first\); test on others"):
        load_pools(synthetic_store, split, normalisation="minmax", test_store=same)
