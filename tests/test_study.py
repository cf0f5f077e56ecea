"""The benchmark end to end on a synthetic store: rows, files, fairness, and what happens when things fail."""

import dataclasses
import errno
import json
import pathlib
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import zarr

from rbmodel import results
from rbmodel.benchmark_config import DEFAULT_METHODS, BenchmarkConfig
from rbmodel.checkpoint import load_checkpoint
from rbmodel.dataset import load_stamps
from rbmodel.evaluate import area_under_curve, operating_points
from rbmodel.recipes.table import RECIPES, Recipe
from rbmodel.splits import make_split, read_footprints, read_tiling
from rbmodel.study import run_benchmark
from rbmodel.train import TrainConfig, predict
from rbmodel.trial import balanced, load_pools, make_trial, positives
from rbsim import schema
from rbsim.cluster import run_partitions
from rbsim.errors import InputError, OutputError

# Threads that share cores with other work wait for each other; these fits are too small for two.
torch.set_num_threads(1)

FAST = BenchmarkConfig(
    mislabel_bogus=0.05,
    mislabel_real=0.08,
    n_folds=2,
    n_bootstrap=50,
    train=TrainConfig(n_epochs=2, batch_size=64),
)
TIMES = ("train_seconds", "samples_per_second")


def _timeless(row):
    return {name: value for name, value in row.items() if name not in TIMES}


@pytest.fixture(scope="module")
def benchmark(synthetic_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "out"
    calls = []
    rows = run_benchmark(synthetic_store.path, out, FAST, progress=lambda *call: calls.append(call))
    return out, rows, calls


def test_every_method_has_a_complete_row_on_disk(benchmark):
    out, rows, _ = benchmark
    assert [row["method"] for row in rows] == list(DEFAULT_METHODS)
    assert all(tuple(row) == results.ROW_FIELDS and row["status"] == "ok" for row in rows)
    assert results.read_rows(out) == rows
    for row in rows:
        assert 0 <= row["auc_low"] <= row["auc"] <= row["auc_high"] <= 1
        assert row["fpr_at_tpr90_low"] <= row["fpr_at_tpr90"] <= row["fpr_at_tpr90_high"]
        assert sum(row["confusion"].values()) == row["n_test_real"] + row["n_test_bogus"]
        assert row["n_train"] == row["n_train_real"] + row["n_train_bogus"]
        assert (row["condition"], row["reference"], row["label_noise"]) == (
            "synthetic",
            "none",
            "class_conditional",
        )


def test_stage_1_figures_belong_to_the_methods_that_use_it(benchmark):
    out, rows, _ = benchmark
    for row in rows:
        with np.load(out / "runs" / f"{row['run_id']}.npz", allow_pickle=False) as run:
            has_cleaning = row["method"] in ("removed", "unlabelled")
            assert (row["mislabel_true"] is not None) is has_cleaning
            assert ("train_oof_score" in run.files) is has_cleaning
            if has_cleaning:
                wrong = run["train_label_given"] != run["train_label_true"]
                assert row["mislabel_true"] == np.mean(wrong)
                # Both contaminations are exact to half a sample.
                for label, rate in ((0, 0.05), (1, 0.08)):
                    given = run["train_label_given"] == label
                    assert abs(np.sum(wrong & given) - rate * given.sum()) <= 1
                assert row["cleaning_recall"] == np.mean(run["train_suspect"][wrong])


def test_scores_on_disk_give_the_figures_of_the_row(benchmark, synthetic_store):
    out, rows, _ = benchmark
    split = json.loads((out / "study.json").read_text())
    for row in rows:
        with np.load(out / "runs" / f"{row['run_id']}.npz", allow_pickle=False) as run:
            assert len(run["history_validation_loss"]) == row["n_epochs"]
            label, kind, scores, rows_of_test = (
                run[f"test_{name}"] for name in ("label_true", "kind", "score", "row")
            )
        np.testing.assert_array_equal(synthetic_store.column("kind")[rows_of_test], kind)
        roles = {split["block_roles"][str(b)] for b in synthetic_store.column("block")[rows_of_test]}
        assert roles == {"test"}
        assert not np.any(synthetic_store.column("flags")[rows_of_test] & schema.CANDIDATE_FLAG["AMBIGUOUS"])
        emulated, injected, headline = positives(kind, label)
        assert row["test_positives"] == headline
        for name, real in (
            ("auc", emulated if headline == "emulated" else injected),
            ("auc_injected", injected),
        ):
            used = real | (label == 0)
            auc = area_under_curve(operating_points(scores[used].astype(float), label[used] == 1))
            assert row[name] == pytest.approx(float(auc))
    assert row["n_test_emulated"] == emulated.sum()


def test_a_saved_network_gives_the_scores_of_its_run(benchmark, synthetic_store):
    out, rows, _ = benchmark
    stem = out / "runs" / rows[0]["run_id"]
    checkpoint = load_checkpoint(stem.with_name(stem.name + ".safetensors"), network="simple")
    with np.load(stem.with_name(stem.name + ".npz")) as run:
        stamps = load_stamps(synthetic_store, run["test_row"], normalisation=checkpoint.normalisation)
        np.testing.assert_array_equal(predict(checkpoint.network, stamps), run["test_score"])


def test_progress_names_method_and_seed(benchmark):
    _, _, calls = benchmark
    assert ("baseline, seed 0: epoch", 2, 2) in calls
    assert ("removed, seed 0: stage 1, epoch", 4, 4) in calls
    # Stage 1 is run once and shared.
    assert not any(call[0].startswith("unlabelled, seed 0: stage 1") for call in calls)


def test_recipes_cannot_read_the_truth(benchmark, synthetic_store, tmp_path):
    """Scrambling the true labels of training and validation rows changes no score but the oracle's."""
    out, rows, _ = benchmark
    copy = tmp_path / "scrambled.zarr"
    shutil.copytree(synthetic_store.path, copy)
    with np.load(out / "runs" / f"{rows[0]['run_id']}.npz") as run:
        in_test = np.isin(np.arange(synthetic_store.n_stamps), run["test_row"])
    truth = zarr.open_group(copy, mode="r+")["label_true"]
    truth[:] = np.where(in_test, truth[:], np.random.default_rng(0).integers(0, 2, len(in_test)))
    run_benchmark(copy, tmp_path / "out", FAST)
    for row in rows:
        first, second = (np.load(o / "runs" / f"{row['run_id']}.npz") for o in (out, tmp_path / "out"))
        with first, second:
            same = np.array_equal(first["test_score"], second["test_score"])
            assert same is (row["method"] != "oracle")


def test_without_wrong_labels_the_oracle_is_the_baseline(synthetic_store, tmp_path):
    config = BenchmarkConfig(
        methods=("baseline", "oracle"), mislabel_bogus=0, mislabel_real=0, n_bootstrap=10, train=FAST.train
    )
    baseline, oracle = run_benchmark(synthetic_store.path, tmp_path / "out", config)
    assert baseline["label_noise"] == "none"
    differ = {name for name in results.ROW_FIELDS if baseline[name] != oracle[name]}
    assert differ - set(TIMES) == {"run_id", "method"}


def test_only_the_oracle_is_handed_the_truth(synthetic_store, tmp_path, monkeypatch):
    seen = []

    def record(_network, training_set, validation_set, _config, **_options):
        seen.append((training_set.label_given, validation_set.label_given))
        raise RuntimeError("not trained")

    monkeypatch.setitem(RECIPES, "baseline", Recipe(record))
    config = BenchmarkConfig(methods=("baseline", "oracle"), mislabel_bogus=0.3, mislabel_real=0.3)
    run_benchmark(synthetic_store.path, tmp_path / "out", config)
    for given, true in zip(*seen, strict=True):
        assert np.mean(given != true) == pytest.approx(0.3, abs=2 / len(true))  # counts are whole


def test_a_method_that_fails_is_a_row_and_resume_repeats_only_it(
    benchmark, synthetic_store, tmp_path, monkeypatch
):
    _, whole, _ = benchmark
    out = tmp_path / "out"

    def fail(*_args, **_options):
        raise FloatingPointError("the loss is not finite\nand more")

    with monkeypatch.context() as patch:
        patch.setitem(RECIPES, "removed", Recipe(fail, needs_cleaning=True))
        rows = run_benchmark(synthetic_store.path, out, FAST)
    by_method = {row["method"]: row for row in rows}
    assert by_method["removed"]["status"] == "failed"
    assert by_method["removed"]["reason"] == "FloatingPointError: the loss is not finite"
    assert by_method["removed"]["auc"] is None
    assert by_method["unlabelled"]["status"] == "ok"
    with (out / "results.jsonl").open("a") as file:
        file.write('{"run_id": "cut sho')
    resumed = run_benchmark(synthetic_store.path, out, FAST, resume=True)
    assert [row["method"] for row in resumed] == ["baseline", "oracle", "unlabelled", "removed"]
    assert resumed[:3] == [row for row in rows if row["status"] == "ok"]
    assert results.read_rows(out) == resumed
    assert _timeless(resumed[3]) == _timeless(whole[2])


def test_what_exists_is_not_overwritten_unasked(benchmark, synthetic_store, tmp_path):
    out, _, _ = benchmark
    with pytest.raises(InputError, match="exists already; give --resume, --overwrite or another --out"):
        run_benchmark(synthetic_store.path, out, FAST)
    with pytest.raises(InputError, match="was begun with another config"):
        run_benchmark(synthetic_store.path, out, BenchmarkConfig(), resume=True)
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    study = json.loads((moved / "study.json").read_text())
    study["store"]["manifest_sha256"] = "0" * 64  # of other pixels under the same name
    (moved / "study.json").write_text(json.dumps(study))
    with pytest.raises(InputError, match="was begun with another store;"):
        run_benchmark(synthetic_store.path, moved, FAST, resume=True)
    with pytest.raises(InputError, match="exclude each other"):
        run_benchmark(synthetic_store.path, out, FAST, resume=True, overwrite=True)
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not a benchmark, so it is not overwritten"):
        run_benchmark(synthetic_store.path, tmp_path, FAST, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_overwrite_starts_anew(synthetic_store, tmp_path):
    for seed in (0, 1):
        rows = run_benchmark(
            synthetic_store.path,
            tmp_path / "out",
            BenchmarkConfig(methods=("baseline",), n_bootstrap=5, seed=seed, train=FAST.train),
            overwrite=seed == 1,
        )
    assert (
        [row["seed"] for row in results.read_rows(tmp_path / "out")] == [row["seed"] for row in rows] == [1]
    )
    assert len(list((tmp_path / "out" / "runs").glob("*.npz"))) == 1


def test_seeds_change_labels_and_weights_but_not_the_split(synthetic_store):
    split = make_split(read_footprints(synthetic_store), read_tiling(synthetic_store), split_seed=0)
    pools = load_pools(synthetic_store, split, normalisation="minmax")
    options = {"bogus_per_real": 1.0, "mislabel_bogus": 0.1, "mislabel_real": 0.1}
    first, same, other = (make_trial(pools, seed=seed, **options) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.training_set.label_given, same.training_set.label_given)
    assert not np.array_equal(first.training_set.label_given, other.training_set.label_given)
    kinds = synthetic_store.column("kind")
    everything = make_trial(pools, seed=0, **(options | {"bogus_per_real": None}))
    assert len(everything.training_set) == len(pools.training) > len(first.training_set)
    assert set(everything.training_set.label_given) == {0, 1}
    for trial in (first, everything):
        assert schema.KIND_CODES["emulated_transient"] not in kinds[trial.training_row]
    assert schema.KIND_CODES["emulated_transient"] in pools.test.kind


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.0, (40, 40)), (2.0, (40, 80)), (10.0, (10, 100)), (None, (40, 100))]
)
def test_balancing_gives_the_ratio_from_what_there_is(ratio, expected):
    label = np.repeat([1, 0], [40, 100])
    chosen = balanced(label, bogus_per_real=ratio, rng=np.random.default_rng(0))
    assert (np.sum(label[chosen] == 1), np.sum(label[chosen] == 0)) == expected
    assert len(np.unique(chosen)) == len(chosen)


@pytest.mark.parametrize(
    ("n_emulated", "n_injected", "headline"), [(30, 5, "emulated"), (29, 5, "injected"), (3, 0, "emulated")]
)
def test_headline_positives_are_emulated_if_there_are_enough(n_emulated, n_injected, headline):
    kind = np.repeat(
        [schema.KIND_CODES[name] for name in ("emulated_transient", "injected_random", "artefact")],
        [n_emulated, n_injected, 9],
    )
    emulated, injected, name = positives(kind, (kind != schema.KIND_CODES["artefact"]).astype(int))
    assert (emulated.sum(), injected.sum(), name) == (n_emulated, n_injected, headline)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"methods": ("magic",)},
            "methods are magic; choose each once of baseline, ce_auc, removed, .*, oracle",
        ),
        ({"methods": ()}, "methods are none"),
        ({"network": "resnet"}, "network is 'resnet'; choose one of simple, complex"),
        ({"normalisation": "l2"}, "normalisation is 'l2'; choose one of minmax, asinh"),
        ({"mislabel_real": 0.7}, "mislabel_real is 0.7; it must be at least 0 and below 0.5"),
        ({"bogus_per_real": 0.0}, "bogus_per_real is 0.0; it must be positive"),
        ({"n_seeds": 0}, "n_seeds is 0; it must be at least 1"),
        ({"methods": ("baseline:resnet",)}, "network is 'resnet'; choose one of simple, complex"),
        ({"methods": ("gce", "gce:simple")}, "methods are gce, gce:simple; choose each once"),
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"confidence": 0.4}, "confidence is 0.4; it must be at least 0.5 and below 1"),
        ({"confidence": 1.0}, "confidence is 1.0; it must be at least 0.5 and below 1"),
    ],
)
def test_unusable_configurations_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        BenchmarkConfig(**change)


def test_rows_of_another_version_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read .* rbsim benchmark"):
        results.read_rows(tmp_path)
    (tmp_path / "results.jsonl").write_text('{"run_id": "a"}\n')
    with pytest.raises(InputError, match="line 1 lacks status, reason"):
        results.read_rows(tmp_path)
    with pytest.raises(ValueError, match="not fields of a result row"):
        results.complete_row({"speed": 1})


@pytest.mark.slow
def test_workers_give_the_same_rows(benchmark, synthetic_store, tmp_path, two_workers):
    """Two methods for two workers: the first needs nothing, the second what stage 1 leaves on disk."""
    methods = ("baseline", "removed")
    out = tmp_path / "out"
    calls = []
    rows = run_benchmark(
        synthetic_store.path,
        out,
        dataclasses.replace(FAST, methods=methods),
        run=partial(run_partitions, parallel=two_workers),
        progress=lambda *call: calls.append(call),
    )
    in_order = {row["method"]: _timeless(row) for row in rows}
    alone = [_timeless(row) for row in benchmark[1] if row["method"] in methods]
    assert [in_order[method] for method in methods] == alone
    assert {row["run_id"] for row in results.read_rows(out)} == {row["run_id"] for row in rows}
    assert calls[-1] == ("grid points", 2, 2)
    assert (out / "runs" / "stage1_seed0.npz").exists()


def test_a_point_that_no_worker_survives_is_a_row_with_its_reason(synthetic_store, tmp_path):
    def run(function, shared, items, *, on_done, on_lost):
        for item in items:
            if item.method == "removed":
                on_lost(item, "killed its worker")
            else:
                on_done(function(shared, item))

    config = dataclasses.replace(FAST, methods=("baseline", "removed"))
    rows = {r["method"]: r for r in run_benchmark(synthetic_store.path, tmp_path / "out", config, run=run)}
    assert rows["baseline"]["status"] == "ok"
    assert (rows["removed"]["status"], rows["removed"]["reason"]) == ("failed", "killed its worker")
    resumed = run_benchmark(synthetic_store.path, tmp_path / "out", config, resume=True)
    assert {row["status"] for row in resumed} == {"ok"}


def test_a_full_disk_ends_the_benchmark_and_is_no_methods_fault(tmp_path, monkeypatch):
    def disk_full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "runs").mkdir()
    row = results.complete_row({"run_id": "a"})
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", disk_full)
        with pytest.raises(OutputError, match=r"results.jsonl: cannot be written \(No space left"):
            results.append_row(tmp_path, row)
    monkeypatch.setattr(np, "savez", disk_full)
    with pytest.raises(OutputError, match=r"a.npz: cannot be written .*; free space and run with --resume"):
        results.write_run(tmp_path, "a", {"score": np.zeros(3)})
    assert list((tmp_path / "runs").iterdir()) == []
