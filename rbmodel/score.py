"""Scores of any number of candidates: read, scored and written in parts, which outlive a run that ends."""

import importlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rbsim
from rbmodel.model import Model
from rbmodel.train import Progress
from rbsim import schema
from rbsim.candidates import Candidates, Piece
from rbsim.errors import InputError
from rbsim.locations import written_whole

log = logging.getLogger(__name__)

STAMPS_PER_PART = schema.COLUMN_CHUNK
"""Rows of a part and of a row group: the columns of a store are read chunk by chunk."""

STAMPS_PER_PIECE = 4096
"""Stamps in memory at a time, thrice: one piece is read while another is scored."""

PLAN = "plan.json"
METADATA = b"rbsim"


@dataclass(frozen=True)
class Scored:
    """What a run did.

    Attributes
    ----------
    n_stamps : int
        Candidates in the table.
    n_new : int
        Of these, scored by this run and not by an earlier one.
    n_without_score : int
    reasons : dict of str to int
        Why, and how many each.
    seconds, stamps_per_second : float
        Of this run; reading and writing included.
    """

    n_stamps: int
    n_new: int
    n_without_score: int
    reasons: dict[str, int]
    seconds: float
    stamps_per_second: float


def score_candidates(
    model: Model,
    candidates: Candidates,
    out: Path,
    *,
    prevalence: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stamps_per_part: int = STAMPS_PER_PART,
    progress: Progress | None = None,
) -> Scored:
    """Write a parquet table with a row per candidate, in their order.

    Columns: what tells the candidate (``row``; of FITS files also ``file`` and ``file_row``), ``score``
    (logit(real) - logit(bogus), float32), ``probability`` (calibrated P(real), float32), ``model`` (the
    model's version) and ``reason``. Where a stamp cannot be scored, both are null and `reason` says why: a
    channel without any value or with one value everywhere, no noise where the normalisation needs it, or a
    score that is not finite. Single pixels without a value do not matter: networks have seen such.

    Parts are files in ``OUT.partial``, each whole or not there; `out` gets its name when all are. Memory
    does not grow with the number of candidates.

    Parameters
    ----------
    model : Model
    candidates : Candidates
    out : Path
        ``.parquet`` file.
    prevalence : float, optional
        Share of reals among the candidates; default: that of the stamps that the model was calibrated on.
    resume : bool
        Go on with parts of an earlier run of the same model on the same candidates.
    overwrite : bool
        Replace `out` and parts of an earlier run.
    stamps_per_part : int
    progress : callable, optional

    Raises
    ------
    InputError
        If pyarrow is not there, if `out` or its parts exist and may not be replaced, if parts are of another
        model, of other candidates or settings, or if files cannot be read or written.
    """
    arrow = _pyarrow()
    started = time.perf_counter()
    plan = {
        "model": model.version,
        "temperature": model.temperature,
        "prevalence_calibrated": model.prevalence,
        "prevalence": prevalence,
        "source": candidates.name,
        "source_fingerprint": candidates.fingerprint,
        "n_stamps": candidates.n_stamps,
        "stamps_per_part": stamps_per_part,
        "rbsim": rbsim.__version__,
    }
    if not candidates.n_stamps:
        raise InputError(f"{candidates.name}: has no candidates to score")
    model.probability(np.zeros(1), prevalence=prevalence)  # refuses a wrong one before anything is written
    work = out.with_name(out.name + ".partial")
    if out.exists() and resume and _plan_of(out) == plan:
        log.info("%s: is finished already", out)
        return _summed_up(out, 0, started)
    _prepare(out, work, plan, resume=resume, overwrite=overwrite)
    n_new = n_done = 0
    firsts = range(0, candidates.n_stamps, stamps_per_part)
    paths = [work / f"part_{number:06d}.parquet" for number in range(len(firsts))]
    for first, path in zip(firsts, paths, strict=True):
        last = min(first + stamps_per_part, candidates.n_stamps)
        if not path.exists():
            tables = []
            for piece in _ahead(candidates.pieces(first, last, n_at_once=STAMPS_PER_PIECE)):
                tables.append(_score_piece(model, piece, prevalence))
                n_new += len(piece.stamps)
                if progress is not None:
                    progress("stamps", n_done + sum(map(len, tables)), candidates.n_stamps)
            with written_whole(path) as temporary:
                arrow.parquet.write_table(arrow.concat_tables(tables), temporary, compression="zstd")
        n_done += last - first
    _join(out, paths, plan)
    shutil.rmtree(work)
    return _summed_up(out, n_new, started)


def _pyarrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise InputError(
            'scores are written as parquet, which needs pyarrow; pip install "rbsim[convert]"'
        ) from error


def _prepare(out: Path, work: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give a file such as scores.parquet as --out")
    if out.exists() and not overwrite:
        more = " of another model, other candidates or settings" if resume else ""
        raise InputError(f"{out}: exists already{more}; give --overwrite to replace it, or another --out")
    if work.exists():
        try:
            old = json.loads((work / PLAN).read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{work}: is in the way and not of rbsim score; move it or give another --out"
            ) from error
        changed = sorted(key for key in plan if old.get(key) != plan[key])
        if resume and changed:
            raise InputError(
                f"{work}: was begun with another {', '.join(changed)}; give --overwrite or another --out"
            )
        if resume:
            return
        if not overwrite:
            raise InputError(
                f"{work}: scores are unfinished; give --resume to go on, or --overwrite to start anew"
            )
        shutil.rmtree(work)
    try:
        work.mkdir(parents=True)
        with written_whole(work / PLAN) as temporary:
            temporary.write_text(json.dumps(plan, indent=1))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def _ahead(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same pieces, the next of which is read while one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = reader.submit(next, pieces, None)
            yield piece


def _score_piece(model: Model, piece: Piece, prevalence: float | None) -> Any:
    arrow = _pyarrow()
    reason = np.where(piece.reason == "", _reasons(model, piece), piece.reason)
    usable = reason == ""
    # The others are not taken out of the batch: every stamp's neighbours, and with them its last bit, stay.
    noise_adu = np.where(usable, piece.noise_adu, 1)
    score = model.score(piece.stamps, noise_adu=noise_adu)
    reason[usable & ~np.isfinite(score)] = "score is not finite"
    usable = reason == ""
    probability = model.probability(score, prevalence=prevalence).astype(np.float32)
    columns = {name: arrow.array(values) for name, values in piece.identity.items()}
    columns["score"] = arrow.array(score, mask=~usable)
    columns["probability"] = arrow.array(probability, mask=~usable)
    columns["model"] = arrow.array(np.full(len(reason), model.version), arrow.string())
    columns["reason"] = arrow.array(reason, arrow.string())
    return arrow.table(columns)


def _reasons(model: Model, piece: Piece) -> np.ndarray:
    """Why stamps cannot be scored, shape (n,), str; empty for nearly all of them."""
    with np.errstate(invalid="ignore"):
        spread = np.ptp(piece.stamps, axis=(2, 3))  # (n, 3), NaN where a pixel is
    suspect = np.flatnonzero(~np.all(np.isfinite(spread) & (spread > 0), axis=1))
    reason = np.full(len(spread), "", dtype="U64")
    for row in suspect:  # few
        finite = [channel[np.isfinite(channel)] for channel in piece.stamps[row]]
        for name, values in zip(schema.CHANNELS, finite, strict=True):
            if not values.size:
                reason[row] = f"{name} has no pixel"
            elif values.min() == values.max():
                reason[row] = f"{name} is constant"
    if model.normalisation == "asinh":
        without = ~(np.isfinite(piece.noise_adu) & (piece.noise_adu > 0))
        reason[without & (reason == "")] = "noise_adu is not positive"
    return reason


def _join(out: Path, paths: list[Path], plan: dict[str, Any]) -> None:
    """All parts as row groups of one file, one of them in memory at a time."""
    arrow = _pyarrow()
    metadata = {METADATA: json.dumps(plan).encode()}
    described = _table_of(paths[0]).schema.with_metadata(metadata)
    with (
        written_whole(out) as temporary,
        arrow.parquet.ParquetWriter(temporary, described, compression="zstd") as writer,
    ):
        for path in paths:
            writer.write_table(_table_of(path).replace_schema_metadata(metadata))


def _table_of(path: Path) -> Any:
    arrow = _pyarrow()
    try:
        return arrow.parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        raise InputError(f"{path}: is damaged ({error}); remove this file and go on with --resume") from error


def _plan_of(path: Path) -> dict[str, Any] | None:
    """The plan that a finished table was made with; None if it is none of ours."""
    arrow = _pyarrow()
    try:
        return json.loads(arrow.parquet.read_metadata(path).metadata[METADATA])
    except (OSError, ValueError, KeyError, TypeError, arrow.ArrowException):
        return None


def _summed_up(out: Path, n_new: int, started: float) -> Scored:
    """Counts of a finished table, row group by row group."""
    arrow = _pyarrow()
    reasons: dict[str, int] = {}
    n_stamps = 0
    with arrow.parquet.ParquetFile(out) as file:
        for number in range(file.num_row_groups):
            column = file.read_row_group(number, columns=["reason"]).column("reason")
            n_stamps += len(column)
            for entry in column.value_counts().to_pylist():
                if entry["values"]:
                    reasons[entry["values"]] = reasons.get(entry["values"], 0) + entry["counts"]
    seconds = time.perf_counter() - started
    n_without = sum(reasons.values())
    return Scored(n_stamps, n_new, n_without, dict(sorted(reasons.items())), seconds, n_new / seconds)
