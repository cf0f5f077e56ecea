"""Calibrating many files of Tomo-e: each RAW file finds its dark and flat, and becomes a stack."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from rbsim.cluster import run_partitions
from rbsim.difference_files import write_table
from rbsim.errors import InputError, OutputError, out_of_memory
from rbsim.folder import new_folder
from rbsim.inputs import find_frames
from rbsim.locations import location
from rbsim.parallel import IN_PROCESS, Parallel
from rbsim.reference import Progress
from rbsim.schema import MASK
from rbsim.tomoe.calibrate import Calibration, calibrate_cube, make_calibration, write_stack
from rbsim.tomoe.header import TomoeHeader
from rbsim.tomoe.read import CalibrationFile, choose_calibration, list_calibration, read_card

PLANES = ("BAD", "SATURATED", "ONE_FRAME")
CUBES = "cubes"
FILES_PER_TASK = 16
"""Files for which a worker reads dark and flat and finds the bad pixels once."""
SUMMARY = "calibrated.ecsv"
COLUMNS = {
    "file": (str, "what was calibrated"),
    "stack": (str, "what was written; empty if it failed"),
    "reason": (str, "why it failed"),
    "kind": (str, "raw or cube"),
    "det_id": (int, "sensor; 0 if unknown"),
    "object": (str, "field and dither"),
    "gain_setting": (str, "high, mid, low"),
    "n_frames": (int, "single frames in the mean"),
    "dark": (str, "dark that was subtracted"),
    "flat": (str, "flat that was divided by"),
    "n_bad": (int, "pixels without a value, by dark, flat or all frames"),
    "n_saturated": (int, "pixels saturated in at least one frame, and their neighbours"),
    "n_one_frame": (int, "pixels that a single frame stands out of"),
}


@dataclass(frozen=True)
class CalibrateSummary:
    """What became of the files: the rows of the summary, and reasons of those that failed."""

    out: Path
    rows: tuple[dict[str, Any], ...]
    failed: dict[str, str]

    def text(self) -> list[tuple[str, str]]:
        """The same as label and value lines for people."""
        facts = self.facts()
        return [
            ("stacks", f"{self.out}: {facts['n_stacks']} of {facts['n_files']} files"),
            ("bad pixels", f"{facts['n_bad']:,}"),
            ("saturated", f"{facts['n_saturated']:,}"),
            ("in one frame only", f"{facts['n_one_frame']:,}"),
        ]

    def facts(self) -> dict[str, Any]:
        """The figures as they go into JSON."""
        return {
            "out": str(self.out),
            "n_files": len(self.rows),
            "n_stacks": len(self.rows) - len(self.failed),
            "failed": self.failed,
            **{name: sum(row[name] for row in self.rows) for name in ("n_bad", "n_saturated", "n_one_frame")},
        }


def parse_first_pixel(text: str) -> tuple[int, int]:
    """``X,Y`` as (y, x).

    Raises
    ------
    InputError
        If it is not two whole numbers from 0 on.
    """
    x, _, y = text.partition(",")
    if not (x.strip().isdigit() and y.strip().isdigit()):
        raise InputError(f"--first-pixel is {text!r}; give two whole numbers from 0 on, X,Y")
    return int(y), int(x)


@dataclass(frozen=True)
class _Task:
    """Files of one dark and flat (None: they are calibrated already), with the names of their stacks."""

    dark: CalibrationFile | None
    flat: CalibrationFile | None
    files: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class _Plan:
    out: Path
    first_pixel: tuple[int, int] | None
    cubes: bool


def calibrate_files(
    sources: Sequence[str],
    out: Path,
    *,
    darks: Sequence[str] = (),
    flats: Sequence[str] = (),
    dark_id: str | None = None,
    flat_id: str | None = None,
    first_pixel: tuple[int, int] | None = None,
    cubes: bool = False,
    parallel: Parallel = IN_PROCESS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CalibrateSummary:
    """Make stacks of RAW files and cubes, in a folder that gets its name when all are done.

    The folder has ``sFRAME_ID.fits`` per file, with the plane MASK, and ``calibrated.ecsv``. Files that
    cannot be used are rows with a reason.

    Parameters
    ----------
    sources : sequence of str
        RAW files and cubes, globs or folders.
    out : Path
    darks, flats : sequence of str
        Files, globs or folders; of several the one that fits each file is taken, see
        `rbsim.tomoe.read.choose_calibration`. Cubes need none.
    dark_id, flat_id : str, optional
    first_pixel : (y, x), optional
        First lit pixel of RAW frames, if neither header nor light tell.
    cubes : bool
        Write the calibrated frames of RAW files too, in ``OUT/cubes``.
    parallel : Parallel
    overwrite : bool
        Replace a folder that an earlier run wrote.
    progress : callable, optional
        Called with (description, done, total).

    Raises
    ------
    InputError
        For unusable arguments, or if no file could be used (the message has the first reason).
    OutputError
        If `out` cannot be written any more; nothing is left of it.
    """
    tell = progress or (lambda *_: None)
    with new_folder(out, overwrite=overwrite, proof=SUMMARY, command="rbsim calibrate") as work:
        paths = [location(name) for name in find_frames(sources)]
        cards, rows = _read_cards(paths)
        kinds = {card.kind for card in cards.values()}
        found = {
            kind: list_calibration([location(name) for name in find_frames(given)], kind)
            if given and "raw" in kinds
            else ()
            for kind, given in (("dark", darks), ("flat", flats))
        }
        if cubes:
            (work / CUBES).mkdir()
        tasks, refused = _plan_tasks(cards, found, {"dark": dark_id, "flat": flat_id})
        rows += refused
        tell("calibrating", len(rows), len(paths))

        def on_done(new: list[dict[str, Any]]) -> None:
            rows.extend(new)
            tell("calibrating", len(rows), len(paths))

        run_partitions(
            _process,
            _Plan(work, first_pixel, cubes),
            tasks,
            parallel=parallel,
            on_done=on_done,
            on_lost=lambda task, reason: on_done([_row(path, reason=reason) for path, _ in task.files]),
        )
        order = {path.name: number for number, path in enumerate(paths)}
        rows.sort(key=lambda row: order[row["file"]])
        failed = {row["file"]: row["reason"] for row in rows if row["reason"]}
        if len(failed) == len(rows):
            first = rows[0]["reason"]
            raise InputError(
                first if len(rows) == 1 else f"none of {len(rows)} files could be used; the first: {first}"
            )
        write_table(work / SUMMARY, _table(rows))
    return CalibrateSummary(out, tuple(rows), failed)


def _read_cards(paths: Sequence[Path]) -> tuple[dict[Path, TomoeHeader], list[dict[str, Any]]]:
    """What the files are, and rows of those that cannot be used; two of one stack are refused."""
    cards: dict[Path, TomoeHeader] = {}
    rows = []
    stacks: dict[str, Path] = {}
    for path in paths:
        try:
            card = read_card(path)
            if card.kind not in ("raw", "cube"):
                raise InputError(f"{path}: is a {card.kind}; RAW files and cubes are calibrated")
        except InputError as error:
            rows.append(_row(path, reason=str(error)))
            continue
        name = _stack_name(path, card)
        if name in stacks:
            raise InputError(f"{path}: is of the exposure and sensor of {stacks[name]}; give one of them")
        stacks[name] = path
        cards[path] = card
    return cards, rows


def _stack_name(path: Path, card: TomoeHeader) -> str:
    """As the archive names stacks; without a FRAME_ID after the file."""
    return f"s{path.name.split('.')[0] if card.frame_id is None else card.frame_id.text}.fits"


def _plan_tasks(
    cards: dict[Path, TomoeHeader],
    found: dict[str, tuple[CalibrationFile, ...]],
    ids: dict[str, str | None],
) -> tuple[list[_Task], list[dict[str, Any]]]:
    """Files by the dark and flat that they need, and rows of those for which there is none."""
    groups: dict[tuple[CalibrationFile, CalibrationFile], list[tuple[Path, str]]] = {}
    tasks, rows = [], []
    for path, card in cards.items():
        file = (path, _stack_name(path, card))
        if card.kind == "cube":
            tasks.append(_Task(None, None, (file,)))
            continue
        try:
            for kind in ("dark", "flat"):
                if not found[kind]:
                    raise InputError(f"{path}: is RAW; give --{kind}")
            dark, flat = (
                choose_calibration(found[kind], card, kind, wanted_id=ids[kind]) for kind in ("dark", "flat")
            )
        except InputError as error:
            rows.append(_row(path, card, reason=str(error)))
            continue
        groups.setdefault((dark, flat), []).append(file)
    tasks += [
        _Task(dark, flat, tuple(files[start : start + FILES_PER_TASK]))
        for (dark, flat), files in groups.items()
        for start in range(0, len(files), FILES_PER_TASK)
    ]
    return tasks, rows


def _process(plan: _Plan, task: _Task) -> list[dict[str, Any]]:
    """The files of one dark and flat: stacks written, rows returned; a failed one gives its reason.

    Raises
    ------
    OutputError
        If a stack cannot be written or memory is short: no file is at fault.
    """
    calibration: Calibration | None = None
    if task.dark is not None and task.flat is not None:
        try:
            calibration = make_calibration(task.dark, task.flat)
        except InputError as error:
            return [_row(path, reason=str(error)) for path, _ in task.files]
    rows = []
    for path, stack in task.files:
        try:
            cube_path = plan.out / CUBES / f"r{stack[1:]}" if plan.cubes and calibration else None
            card, mean = calibrate_cube(path, calibration, first_pixel=plan.first_pixel, cube_path=cube_path)
            write_stack(plan.out / stack, card, mean, calibration)
        except OutputError:
            raise
        except MemoryError as error:
            raise out_of_memory(path) from error
        except InputError as error:
            rows.append(_row(path, reason=str(error)))
            continue
        counts = {f"n_{name.lower()}": int(((mean.mask & MASK[name]) != 0).sum()) for name in PLANES}
        names = {} if calibration is None else {"dark": calibration.dark_name, "flat": calibration.flat_name}
        rows.append(_row(path, card, stack=stack, n_frames=mean.cube.n_frames, **names, **counts))
    return rows


def _row(path: Path, card: TomoeHeader | None = None, **values: Any) -> dict[str, Any]:
    row: dict[str, Any] = {name: kind() for name, (kind, _) in COLUMNS.items()}
    if card is not None:
        row |= {name: getattr(card, name) for name in ("kind", "det_id", "object", "gain_setting")}
    return row | {"file": path.name} | values


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table({name: np.array([row[name] for row in rows], kind) for name, (kind, _) in COLUMNS.items()})
    for name, (_, description) in COLUMNS.items():
        table[name].description = description
    return table
