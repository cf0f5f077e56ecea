"""The calibration of emulated nights that is shipped belongs to the catalogues that are shipped."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "calibrate_night.py"
REMEDY = "run benchmarks/calibrate_night.py WORK --write"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("calibrate_night", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result(script):
    return json.loads(script.RESULT.read_text())["results"]["dark"]


def test_it_was_made_with_the_artefacts_and_the_frozen_sky_that_are_shipped(script, result):
    for name, value in script.digests("dark").items():
        assert result[name] == value, f"{name}: {REMEDY}"
    assert result["rates"] == {}


def test_its_figures_are_judged_by_the_targets(script, result):
    assert result["meets"] == script.meets(result)
    assert result["targets"] == script.TARGETS
    runs = result["runs"]
    for name in ("auc", "fpr_at_tpr90"):
        assert result[name] == pytest.approx(sum(run[name] for run in runs) / len(runs))
    assert len(runs) == script.N_RUNS
    assert sum(result["bogus_by_class"].values()) == pytest.approx(result["bogus_per_exposure"], abs=0.05)


def test_what_misses_a_target_is_said_to_miss_it(script):
    easy = {"bogus_per_exposure": 20.0, "auc": 1.0, "fpr_at_tpr90": 0.0}
    assert script.meets(easy) == {"bogus_per_exposure": True, "auc": False, "fpr_at_tpr90": False}
    near = {"bogus_per_exposure": 25.0, "auc": 0.9940, "fpr_at_tpr90": 0.017}
    assert script.meets(near) == {"bogus_per_exposure": False, "auc": True, "fpr_at_tpr90": True}
