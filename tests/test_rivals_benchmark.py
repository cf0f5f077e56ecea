"""Rivals in a benchmark: rows, files, two networks side by side, and the ladder of the report."""

import dataclasses

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli import app
from rbmodel.benchmark_config import METHODS, BenchmarkConfig
from rbmodel.checkpoint import load_checkpoint
from rbmodel.dataset import load_stamps
from rbmodel.ensemble import Ensemble
from rbmodel.evaluate import evaluate, fpr_at_tpr, operating_points
from rbmodel.networks import NETWORKS, Simple
from rbmodel.recipes.table import RECIPES
from rbmodel.report import build_report
from rbmodel.study import run_benchmark
from rbmodel.train import TrainConfig, predict

torch.set_num_threads(1)

CONFIG = BenchmarkConfig(
    mislabel_bogus=0.05,
    mislabel_real=0.08,
    n_folds=2,
    rounds=2,
    confidence=0.6,
    n_bootstrap=30,
    train=TrainConfig(n_epochs=1, batch_size=64),
)


ENTRIES = ("baseline:other", "baseline", "ce_auc", "removed", "removed:other", "gce", "ensemble", "oracle")


class Other(Simple):
    """A second network that is as fast as the first."""

    name = "other"


@pytest.fixture(scope="module")
def benchmark(synthetic_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("rivals") / "out"
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "other", Other)
        config = dataclasses.replace(CONFIG, methods=ENTRIES)
        rows = run_benchmark(synthetic_store.path, out, config, progress=lambda *call: calls.append(call))
    return out, rows, calls


def test_every_method_has_its_row_and_each_network_its_stage_1(benchmark):
    out, rows, calls = benchmark
    assert [(row["method"], row["network"]) for row in rows] == [
        ("baseline", "other"), ("baseline", "simple"), ("ce_auc", "simple"), ("removed", "simple"),
        ("removed", "other"), ("gce", "simple"), ("ensemble", "simple"), ("oracle", "simple"),
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"ok"}
    assert (out / "runs" / "stage1_seed0.npz").exists()
    assert (out / "runs" / "stage1_seed0_other.npz").exists()
    assert ("removed (other), seed 0: stage 1, epoch", 4, 4) in calls


def test_rows_state_what_was_computed(benchmark):
    _, rows, _ = benchmark
    by_method = {row["method"]: row for row in rows if row["network"] == "simple"}
    for method in ("baseline", "ce_auc", "gce", "oracle"):
        assert by_method[method]["forward_passes"] == by_method[method]["backward_passes"] == 1
    assert by_method["ensemble"]["forward_passes"] == 5
    with np.load(benchmark[0] / "runs" / "stage1_seed0.npz") as stage1:
        n = by_method["removed"]["n_train"]
        kept = n - stage1["suspect"].sum()
        assert by_method["removed"]["forward_passes"] == pytest.approx(float(stage1["passes"]) + kept / n)
        assert 1 < stage1["passes"] <= 2  # two rounds of two folds, half of the stamps each
    for row in rows:
        assert row["fpr_at_tpr95"] <= row["fpr_at_tpr99"] <= row["fpr_at_tpr99_high"]
        staged = row["method"] == "removed"
        assert (row["cleaning_ap"] is not None) is staged
        if staged:
            low, value, high = (row[f"mislabel_estimate{end}"] for end in ("_low", "", "_high"))
            assert low <= value <= high


def test_an_ensemble_is_saved_whole(benchmark, synthetic_store):
    out, rows, _ = benchmark
    (row,) = (row for row in rows if row["method"] == "ensemble")
    checkpoint = load_checkpoint(out / "runs" / f"{row['run_id']}.safetensors", network="simple")
    assert isinstance(checkpoint.network, Ensemble)
    with np.load(out / "runs" / f"{row['run_id']}.npz") as run:
        stamps = load_stamps(synthetic_store, run["test_row"], normalisation=checkpoint.normalisation)
        np.testing.assert_array_equal(predict(checkpoint.network, stamps), run["test_score"])


def test_the_report_has_the_ladder_and_the_curve_of_stage_1(benchmark, synthetic_store):
    out, _, _ = benchmark
    page = build_report(out, synthetic_store.path).read_text()
    ladder = page.split('<table class="ladder">')[1].split("</table>")[0]
    names = [
        "baseline, other",
        "baseline, simple",
        "cross-entropy + AUC, simple",
        "removed, simple",
        "oracle, simple",
    ]
    places = [ladder.index(f"<td>{name}</td>") for name in names]
    assert places == sorted(places)
    header, *lines = (out / "figures" / "cleaning_curve.csv").read_text().splitlines()
    assert header == "seed,threshold,recall,precision"
    assert float(lines[-1].split(",")[2]) == 1
    assert list((out / "figures").glob("cleaning_curve*.png"))


def test_method_by_method_the_seeds_of_a_network_are_the_same(benchmark, synthetic_store, tmp_path):
    """Which other methods a benchmark has changes nothing: comparisons are paired."""
    config = dataclasses.replace(CONFIG, methods=("gce",))
    (alone,) = run_benchmark(synthetic_store.path, tmp_path / "out", config)
    (before,) = (row for row in benchmark[1] if row["method"] == "gce")
    times = ("train_seconds", "samples_per_second")
    assert [alone[k] for k in alone if k not in times] == [before[k] for k in before if k not in times]


def test_fpr_at_tpr_99_is_that_of_counting():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 1000)
    scores = rng.normal(2.0 * label, 1)
    metrics = evaluate(scores, label, np.arange(1000) % 20, n_bootstrap=100, rng=rng)
    threshold = np.sort(scores[label == 1])[::-1][int(np.ceil(0.99 * np.sum(label == 1))) - 1]
    assert metrics.fpr_at_tpr99.value == np.mean(scores[label == 0] >= threshold)
    assert metrics.fpr_at_tpr99.low < metrics.fpr_at_tpr99.value < metrics.fpr_at_tpr99.high
    assert metrics.fpr_at_tpr99.interval == "bootstrap"
    points = operating_points(scores, label == 1)
    assert fpr_at_tpr(points, 0.99) == metrics.fpr_at_tpr99.value


def test_the_command_line_names_every_method_and_refuses_a_bad_threshold(synthetic_store, tmp_path):
    words = " ".join(CliRunner().invoke(app, ["benchmark", "--help"], env={"COLUMNS": "300"}).output.split())
    assert all(method in words for method in METHODS)
    result = CliRunner().invoke(
        app, ["benchmark", str(synthetic_store.path), "--out", str(tmp_path / "o"), "--confidence", "0.3"]
    )
    assert result.exit_code == 1
    assert "confidence is 0.3; it must be at least 0.5 and below 1" in result.stderr
    assert set(RECIPES) < set(METHODS)
