"""The command line as a user meets it: help, summaries, JSON, exit codes, and errors of one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from cli import LOG_EVERY_S, _LogLines, app

runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(scope="module")
def store(tiny_night, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "night.zarr"
    result = invoke(
        "inject", tiny_night / "science", "--reference", tiny_night / "reference.fits", "--out", out,
        "--stars-per-frame", 20, "--realisations", 1, "--truth", tiny_night / "truth.ecsv", "--negatives",
        "--match-radius-sigma", 4, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def error_of(result, code=1):
    """The one line of an error, checked to be one line without traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.output
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("inject",),
        ("subtract",),
        ("benchmark",),
        ("info",),
        ("completeness",),
        ("emulate",),
        ("train",),
        ("score",),
        ("export",),
        ("audit",),
        ("reference", "stack"),
    ],
)
def test_every_command_has_help(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_help_of_inject_gives_units():
    text = invoke("inject", "--help").stdout
    for words in ("electrons per ADU", "in deg", "in px", "sigma", "matched-filter S/N", "file.fits[EXT]"):
        assert words in text


def test_help_is_quick_because_nothing_heavy_is_imported():
    heavy = "('torch', 'galsim', 'dask', 'astropy', 'zarr')"
    code = f"import sys, cli; sys.exit(', '.join(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_unknown_options_are_usage_errors():
    assert invoke("inject", "--no-such-option").exit_code == 2
    assert invoke("benchmark").exit_code == 2


def test_info_and_inject_agree(store):
    path, facts = store
    shown = json.loads(invoke("info", path, "--json").stdout)
    assert shown == facts | {"path": str(path)}
    assert shown["n_stamps"] == shown["n_real"] + shown["n_bogus"] + shown["n_excluded"] + shown["n_lost"]
    assert shown["kinds"]["negative"] == shown["n_excluded"] > 0
    assert set(shown["false_per_frame"]) > {"hot_pixel", "dipole", "unexplained"}
    assert {"n_frames", "n_groups", "n_injected", "n_detected", "near_galaxy_placed"} <= set(shown)
    text = invoke("info", path).stdout
    assert f"{facts['n_stamps']:,}" in text
    assert "exposure blocks" in text
    assert "false positives per frame" in text


def test_mistakes_are_one_line(store, tiny_night, tmp_path):
    path, _ = store
    frames, reference = tiny_night / "science", tiny_night / "reference.fits"
    inject = ["inject", frames, "--reference", reference, "--out"]
    assert "exists already; give --overwrite" in error_of(invoke(*inject, path))
    assert "none.fits: no such file" in error_of(
        invoke("inject", frames, "--reference", tmp_path / "none.fits", "--out", tmp_path / "x")
    )
    (tmp_path / "known.csv").write_text("ra,radius\n1,2\n")
    assert "known.csv: needs columns ra, dec or x, y; it has ra, radius" in error_of(
        invoke(*inject, tmp_path / "x", "--known", tmp_path / "known.csv")
    )
    assert "near-galaxy is 2.0" in error_of(invoke(*inject, tmp_path / "x", "--near-galaxy", 2))
    assert "matches no file" in error_of(
        invoke("inject", tmp_path / "*.fits", "--reference", reference, "--out", tmp_path / "x")
    )
    assert "no such store" in error_of(invoke("info", tmp_path / "none.zarr"))
    assert "is not known; there are demo, tiny" in error_of(
        invoke("emulate", "--night", "moon", "--out", tmp_path / "n")
    )
    assert not (tmp_path / "x").exists()


def test_failed_frames_are_told_and_the_rest_is_done(tiny_night, tmp_path):
    broken = tmp_path / "broken.fits"
    broken.write_text("not a frame")
    frames = sorted((tiny_night / "science").glob("*.fits"))[:2]
    inject = ["inject", broken, "--reference", tiny_night / "reference.fits", "--realisations", 1]
    result = invoke(*inject, *frames, "--out", tmp_path / "a.zarr")
    assert result.exit_code == 0
    assert "left out:" in result.stderr
    assert "broken.fits" in result.stderr
    assert "3 (1 failed)" in result.stdout
    assert "none of 1 frames could be used" in error_of(invoke(*inject, "--out", tmp_path / "b.zarr"))


def test_stack_writes_a_reference_that_inject_takes(tiny_night, tmp_path):
    frames = sorted((tiny_night / "science").glob("*.fits"))
    out = tmp_path / "ref.fits"
    result = invoke("reference", "stack", *frames[:4], "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_used"] == 4
    with fits.open(out) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["VARIANCE", "MASK", "COVERAGE"]
        assert hdus["COVERAGE"].data.max() == 4
        assert np.isfinite(hdus[0].data[hdus["COVERAGE"].data == 4]).all()
    assert "exists already" in error_of(invoke("reference", "stack", *frames[:4], "--out", out))
    done = invoke("inject", frames[4], "--reference", out, "--out", tmp_path / "s.zarr", "--realisations", 1)
    assert done.exit_code == 0, done.output


def test_one_frame_is_no_stack(tiny_night, tmp_path):
    frame = next((tiny_night / "science").glob("*.fits"))
    assert "a stack needs at least 2" in error_of(
        invoke("reference", "stack", frame, tmp_path / "gone.fits", "--out", tmp_path / "r.fits")
    )


def test_benchmark_writes_a_report(synthetic_store, tmp_path):
    out = tmp_path / "report"
    result = invoke(
        "benchmark",
        synthetic_store.path,
        "--out",
        out,
        "--methods",
        "baseline",
        "--min-steps",
        0,
        "--json",
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert [row["method"] for row in summary["rows"]] == ["baseline"]
    assert Path(summary["report"]).read_text().lower().startswith("<!doctype html>")
    assert len((out / "results.jsonl").read_text().splitlines()) == 1
    assert "exists" in error_of(invoke("benchmark", synthetic_store.path, "--out", out))
    two = invoke("benchmark", synthetic_store.path, "--out", tmp_path / "two", "--methods", "oracle,magic")
    assert "methods are oracle, magic; choose each once of" in error_of(two)


def test_too_few_groups_for_a_split(tiny_night, tmp_path):
    path = tmp_path / "two.zarr"
    frames = sorted((tiny_night / "science").glob("*.fits"))[:2]
    done = invoke(
        "inject", *frames, "--reference", tiny_night / "reference.fits", "--out", path, "--realisations", 1
    )
    assert done.exit_code == 0, done.output
    assert "more frames" in error_of(invoke("benchmark", path, "--out", tmp_path / "r"))


def test_logs_get_a_line_now_and_then_and_one_at_the_end(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr("cli.time.monotonic", lambda: now_s)
    lines, said = _LogLines(20), []
    for done in range(20, 121):
        line = lines.line(done, 120)
        if line:
            said.append(line)
        now_s += 1.0
    # 100 s of work in all, a line every 30 s, and the frames of an earlier run do not make it look fast.
    assert said == [
        "50 of 120, 0:01:10 left",
        "80 of 120, 0:00:40 left",
        "110 of 120, 0:00:10 left",
        "120 of 120",
    ]
    short = _LogLines(0)
    now_s += LOG_EVERY_S / 2
    assert short.line(5, 5) == ""
