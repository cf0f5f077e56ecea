"""Difference imaging of many frames without injection: images, candidates and sanity figures of each."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rbsim import tables
from rbsim.cluster import IN_PROCESS, Parallel, run_partitions
from rbsim.config import InjectConfig
from rbsim.difference_files import candidate_table, frame_table, write_difference, write_table
from rbsim.errors import InputError, OutputError, out_of_memory
from rbsim.folder import new_folder
from rbsim.inputs import FrameTask, Gain, find_gain, gather_inputs, refuse_equal_names, stem_of
from rbsim.known import KnownObjects
from rbsim.observe import name_of, observe, observed_columns, observed_row, reason_of
from rbsim.quality import QualityError
from rbsim.reference import Progress
from rbsim.references import ReferenceCache
from rbsim.tables import Tiling

log = logging.getLogger(__name__)

SUMMARY = "frames.ecsv"


@dataclass(frozen=True, eq=False)
class _Plan:
    """Everything that workers need, the same for all frames."""

    out: Path
    tasks: tuple[FrameTask, ...]
    references: ReferenceCache
    config: InjectConfig
    gain: Gain | None
    tiling: Tiling
    known: KnownObjects | None
    images: bool


@dataclass(frozen=True)
class SubtractSummary:
    """What `run_subtraction` wrote: rows of all frames in order of time, and why some failed."""

    out: Path
    rows: tuple[dict[str, Any], ...]
    failed: dict[str, str]
    condition: str

    def _median(self, name: str) -> float | None:
        values = [row[name] for row in self.rows if row["ok"] and np.isfinite(row[name])]
        return float(np.median(values)) if values else None

    def facts(self) -> dict[str, Any]:
        """Counts and medians over the frames that worked; JSON-ready."""
        worked = [row for row in self.rows if row["ok"]]
        medians = ("fwhm_pix", "registration_rms_pix", "star_residual", "snr_scale", "flux_scale")
        return {
            "out": str(self.out),
            "condition": self.condition,
            "n_frames": len(self.rows),
            "n_frames_failed": len(self.failed),
            "failed": self.failed,
            "n_positive": sum(row["n_bogus_detected"] for row in worked),
            "n_negative": sum(row["n_negative"] for row in worked),
            "n_known": sum(row["n_known"] for row in worked),
            **{f"median_{name}": self._median(name) for name in medians},
        }

    def text(self) -> list[tuple[str, str]]:
        """The same as label and value lines for people."""
        facts = self.facts()
        return [
            ("frames", f"{facts['n_frames']} ({facts['n_frames_failed']} failed), {self.condition}"),
            ("candidates", f"{facts['n_positive']:,} positive, {facts['n_negative']:,} negative"),
            ("known objects", f"{facts['n_known']:,}"),
            *(
                (label, f"{facts[name]:.3g} (median)")
                for label, name in (
                    ("PSF FWHM, px", "median_fwhm_pix"),
                    ("registration, px rms", "median_registration_rms_pix"),
                    ("left of bright stars", "median_star_residual"),
                    ("noise over expected", "median_snr_scale"),
                )
                if facts[name] is not None
            ),
        ]


def run_subtraction(
    frames: Sequence[str],
    reference_path: Path,
    out: Path,
    config: InjectConfig,
    *,
    parallel: Parallel = IN_PROCESS,
    overwrite: bool = False,
    images: bool = True,
    truth_path: Path | None = None,
    known_path: Path | None = None,
    progress: Progress | None = None,
) -> SubtractSummary:
    """Subtract the reference from every frame and write what is detected.

    The folder gets its name when all frames are done: ``frames.ecsv``, and for each frame
    ``NAME.candidates.ecsv`` and ``NAME.difference.fits``.

    Parameters
    ----------
    frames : sequence of str
        FITS files, see `rbsim.inputs.find_frames`.
    reference_path : Path
        A reference image, or a folder of them: one per field and sensor, see `rbsim.references`.
    out : Path
    config : InjectConfig
        Its parts on detector, subtraction, detection and matching.
    parallel : Parallel
        0: in this process; otherwise dask worker processes. The result is the same.
    overwrite : bool
        Replace a folder that an earlier run wrote.
    images : bool
        Write the difference images, not only tables.
    truth_path, known_path : Path, optional
        See `rbsim.run.run_injection`.
    progress : callable, optional
        Called with (description, done, total).

    Raises
    ------
    InputError
        For unusable arguments, or if no frame could be subtracted (the message has the first reason).
    """
    tell = progress or (lambda *_: None)
    with new_folder(out, overwrite=overwrite, proof=SUMMARY, command="rbsim subtract") as work:
        given = gather_inputs(
            frames, reference_path, out, config, truth_path=truth_path, known_path=known_path
        )
        tasks = given.tasks
        refuse_equal_names(tasks)
        gain = find_gain(tasks, config, tell)
        tiling = given.tiling(config.tile_pix)
        plan = _Plan(work, tasks, given.references[""], config, gain, tiling, given.known, images)
        rows: list[dict[str, Any]] = []
        tell("subtracting", 0, len(tasks))

        def on_done(row: dict[str, Any]) -> None:
            rows.append(row)
            tell("subtracting", len(rows), len(tasks))

        run_partitions(
            _process,
            plan,
            range(len(tasks)),
            parallel=parallel,
            on_done=on_done,
            on_lost=lambda index, reason: on_done(_failed_row(plan, index) | {"reason": reason}),
        )
        rows.sort(key=lambda row: row["index"])
        failed = {row["frame"]: row["reason"] for row in rows if not row["ok"]}
        if len(failed) == len(rows):
            raise InputError(f"none of {len(rows)} frames could be used; the first: {rows[0]['reason']}")
        write_table(work / SUMMARY, frame_table(rows))
    return SubtractSummary(out, tuple(rows), failed, config.condition.name)


def _process(plan: _Plan, index: int) -> dict[str, Any]:
    """One frame: its files written, its row returned; a failed one gives its reason."""
    task = plan.tasks[index]
    try:
        observed = observe(
            task,
            plan.references,
            plan.config,
            gain=plan.gain,
            tiling=plan.tiling,
            known=plan.known,
        )
        everything = np.arange(len(observed.judged.detections))
        _, columns = observed_columns(observed, everything, plan.config)
        stem = stem_of(task.path)
        if plan.images:
            write_difference(plan.out / f"{stem}.difference.fits", observed.frame)
        names = None if plan.known is None else plan.known.name
        write_table(plan.out / f"{stem}.candidates.ecsv", candidate_table(columns, known_names=names))
        return _row(plan, index) | observed_row(task, observed, n_asked=0)
    except OutputError:
        raise
    except MemoryError as error:
        raise out_of_memory(task.path) from error
    except Exception as error:
        # What was measured before it failed stays in the row.
        figures = error.quality.as_dict() if isinstance(error, QualityError) else {}
        return _failed_row(plan, index) | figures | {"reason": reason_of(error, task.path)}


def _row(plan: _Plan, index: int) -> dict[str, Any]:
    return {"index": index, "frame": name_of(plan.tasks[index].path), "reason": "", "ok": False}


def _failed_row(plan: _Plan, index: int) -> dict[str, Any]:
    task = plan.tasks[index]
    return tables.failed_row(task.exposure, task.block) | _row(plan, index)
