"""The files of a benchmark: result rows, arrays per run, the study's description. Knows no torch.

``results.jsonl`` has one row per line, written when its run is done; ``runs/<run_id>.npz`` has the
scores behind it; ``study.json`` says what was asked for.
"""

import json
import math
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rbsim.errors import InputError, OutputError

RESULTS_VERSION = 2

ROW_FIELDS = (
    "run_id", "status", "reason", "method", "network", "label_noise", "mislabel_bogus", "mislabel_real",
    "condition", "reference", "normalisation", "bogus_per_real", "seed", "n_train", "n_train_real",
    "n_train_bogus", "n_validation", "n_unused_by_split", "n_test_real", "n_test_bogus", "n_test_injected",
    "n_test_emulated", "test_positives",
    "auc", "auc_low", "auc_high",
    "fpr_at_tpr90", "fpr_at_tpr90_low", "fpr_at_tpr90_high", "fpr_at_tpr90_interval",
    "fpr_at_tpr95", "fpr_at_tpr95_low", "fpr_at_tpr95_high", "fpr_at_tpr95_interval",
    "fpr_at_tpr99", "fpr_at_tpr99_low", "fpr_at_tpr99_high", "fpr_at_tpr99_interval",
    "tpr_at_fpr1e3", "accuracy", "precision", "recall", "f1", "confusion", "prevalence", "threshold",
    "auc_injected", "fpr_at_tpr90_injected",
    "cleaning_recall", "cleaning_precision", "cleaning_ap",
    "mislabel_estimate", "mislabel_estimate_low", "mislabel_estimate_high", "mislabel_true",
    "train_seconds", "samples_per_second", "n_epochs", "forward_passes", "backward_passes", "versions",
)  # fmt: skip
"""Every row has all of these; null where a figure does not apply or the run failed.

``n_train_real`` and ``n_train_bogus`` count given labels; ``mislabel_bogus`` and ``mislabel_real`` are
the contaminations asked for, or with a label setting (``label_noise`` is then mechanism/name) those that the
training set has; ``mislabel_true`` is the resulting share of wrong training labels and
``mislabel_estimate`` what stage 1 makes of it without the truth. ``cleaning_ap`` is the average precision of
its scores as a search for wrong labels. ``train_seconds`` includes stage 1 where
the method needs it, although it is run only once; ``samples_per_second`` is that of the final fit.
``forward_passes`` and ``backward_passes`` are passes through one network per training stamp in all epochs, of
stage 1 too; scoring and validation are left out.
"""


def prepare_folder(out: Path, description: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Make `out` ready for rows and runs, or refuse.

    Parameters
    ----------
    out : Path
    description : mapping
        Contents of ``study.json``; to resume, all but ``versions`` must be the same as before.
    resume : bool
        Keep what is there.
    overwrite : bool
        Remove an earlier benchmark's files; nothing else is removed.

    Raises
    ------
    InputError
        If `out` exists and neither allows it, is no benchmark, was begun with something else, or
        cannot be written.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    path = out / "study.json"
    if out.exists() and resume:
        try:
            old = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read, nothing to resume; give --overwrite or another --out"
            ) from error
        new = json.loads(json.dumps(description))
        changed = [key for key in new if key != "versions" and old.get(key) != new[key]]
        if changed:
            raise InputError(
                f"{out}: was begun with another {', '.join(changed)}; give --overwrite or another --out"
            )
        return
    if out.exists():
        if not out.is_dir():
            raise InputError(f"{out}: is a file; give a folder as --out")
        if not overwrite:
            raise InputError(f"{out}: exists already; give --resume, --overwrite or another --out")
        if any(out.iterdir()) and not path.exists():
            raise InputError(f"{out}: is not a benchmark, so it is not overwritten; give another --out")
        path.unlink(missing_ok=True)
        shutil.rmtree(out / "runs", ignore_errors=True)
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
        (out / "results.jsonl").write_text("")
        path.write_text(json.dumps(description, indent=1))
    except OSError as error:
        raise InputError(f"{out}: cannot write there ({error.strerror}); choose another --out") from error


def write_stage1(out: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep stage 1 of a seed for all points that need it; complete or not there at all."""
    _write_arrays(out / "runs" / f"{name}.npz", arrays)


def read_stage1(out: Path, name: str) -> dict[str, np.ndarray] | None:
    """What `write_stage1` kept; None if it is not there or cannot be read."""
    try:
        with np.load(out / "runs" / f"{name}.npz", allow_pickle=False) as data:
            return {field: data[field] for field in ("fold", "oof_score", "suspect", "seconds", "passes")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def complete_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row with every field of `ROW_FIELDS`, in order; NaN and missing values are None.

    Raises
    ------
    ValueError
        If a name is not a field.
    """
    unknown = sorted(set(values) - set(ROW_FIELDS))
    if unknown:
        raise ValueError(f"not fields of a result row: {unknown}")
    return {name: _plain(values.get(name)) for name in ROW_FIELDS}


def _plain(value: Any) -> Any:
    """NumPy scalars as Python ones, NaN as None: JSON has neither."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_row(out: Path, row: Mapping[str, Any]) -> None:
    """Add one row to ``results.jsonl``.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = out / "results.jsonl"
    with _writing(path), path.open("a") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_rows(out: Path) -> list[dict[str, Any]]:
    """All rows of a benchmark; a last line that a kill cut short is left out.

    Raises
    ------
    InputError
        If there is no benchmark or a row is not ours.
    """
    path = out / "results.jsonl"
    try:
        lines = path.read_text().splitlines(keepends=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a folder made by rbsim benchmark"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{path}: line {number} is not JSON; run the benchmark again with --overwrite"
            ) from error
        missing = [name for name in ROW_FIELDS if name not in row]
        if missing:
            raise InputError(
                f"{path}: line {number} lacks {', '.join(missing)}; written by another version of rbsim"
            )
        rows.append(row)
    return rows


def replace_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``results.jsonl`` anew, whole or not at all."""
    temporary = out / "results.jsonl.tmp"
    with _writing(out / "results.jsonl", temporary):
        temporary.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        temporary.replace(out / "results.jsonl")


def write_run(out: Path, run_id: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays behind one row, no pickles in them."""
    _write_arrays(out / "runs" / f"{run_id}.npz", arrays)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # A name of its own: a worker that was given up may still be at the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with _writing(path, temporary):
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)


@contextmanager
def _writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """What cannot be written ends the benchmark in one line; nothing half-written stays."""
    try:
        yield
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free space and run with --resume"
        ) from error
