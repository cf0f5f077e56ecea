"""A Tomo-e night on disk: exposures, earlier epochs, PS1's images of the field, and the truth."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from rbsim import __version__
from rbsim.emulate.night import ARTEFACT_UNITS
from rbsim.emulate.tomoe import ps1_files, ps1_images
from rbsim.emulate.tomoe.artefacts import STRENGTHS
from rbsim.emulate.tomoe.exposure import emulate_exposure
from rbsim.emulate.tomoe.products import START_UTC, field_name, header_of, write_image
from rbsim.emulate.tomoe.scene import Galaxies, Row, Stars
from rbsim.emulate.tomoe.sensor_night import SensorNight, Visit, make_sensor_night, stream
from rbsim.emulate.tomoe.settings import NightSettings, TomoeCondition
from rbsim.emulate.tomoe.truth import TRUTH_COLUMNS
from rbsim.errors import InputError
from rbsim.folder import new_folder
from rbsim.parallel import Run, run_here
from rbsim.tomoe.sensors import PIXEL_SCALE_ARCSEC, SHAPE_PIX, Sensor, find_sensors, read_sensors

log = logging.getLogger(__name__)

PS1_KINDS = ("warped", "skycells", "none")
NIGHT_YR = START_UTC.year + (START_UTC.timetuple().tm_yday - 1) / 365.25
REFERENCE_BORDER_PIX = 10
"""Of the warped PS1 image beyond the dithers."""
ARTEFACT_COLUMNS = {**ARTEFACT_UNITS, "single_frame": None}


@dataclass(frozen=True)
class NightPlan:
    """What to emulate.

    Attributes
    ----------
    settings : NightSettings
    sensors : tuple of Sensor
    n_exposures : int
        Of the night, each by all sensors.
    n_epochs : int
        Earlier nights with one exposure each, for a reference of the survey's own.
    seed : int
    ps1 : str
        One of `PS1_KINDS`: PS1 on the sensors' pixels, as the skycells of the archive, or not at all.
    with_cubes : bool
        Also write the single frames of the night's exposures.
    shape : (ny, nx)
        Of the images.
    """

    settings: NightSettings
    sensors: tuple[Sensor, ...]
    n_exposures: int
    n_epochs: int
    seed: int
    ps1: str = "warped"
    with_cubes: bool = False
    shape: tuple[int, int] = SHAPE_PIX

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if self.n_exposures < 1:
            raise InputError(f"exposures is {self.n_exposures}; it must be at least 1")
        if self.n_epochs < 0:
            raise InputError(f"epochs is {self.n_epochs}; it must be at least 0")
        if self.ps1 not in PS1_KINDS:
            raise InputError(f"ps1 is {self.ps1!r}; choose one of {', '.join(PS1_KINDS)}")


@dataclass(frozen=True)
class TomoeSummary:
    """What `emulate_tomoe_night` wrote: files, transient rows by kind, artefact rows by class."""

    path: Path
    n_exposures: int
    n_epochs: int
    n_ps1: int
    n_transients: Mapping[str, int]
    n_artefacts: Mapping[str, int]


def choose_sensors(text: str, condition: TomoeCondition) -> tuple[Sensor, ...]:
    """Sensors from ``all`` or a comma list of their numbers, within what the condition allows.

    Raises
    ------
    InputError
        If one is unknown, named twice, or outside the part of the field that the condition is about; with a
        list of those there are.
    """
    allowed = {
        number: sensor
        for number, sensor in read_sensors().items()
        if condition.field_low_deg
        <= np.hypot(sensor.x_field_deg, sensor.y_field_deg)
        <= condition.field_high_deg
    }
    if text == "all":
        return tuple(allowed.values())
    known = ", ".join(map(str, allowed))
    words = [word.strip() for word in text.split(",")]
    bad = [word for word in words if not word.isdigit()]
    if bad:
        raise InputError(f"sensors: {', '.join(map(repr, bad))} is no number; give all, or some of {known}")
    chosen = find_sensors([int(word) for word in words])
    if len(set(chosen)) < len(chosen):
        raise InputError(f"sensors: {text} names one twice; give each once")
    outside = [str(sensor.det_id) for sensor in chosen if sensor.det_id not in allowed]
    if outside:
        raise InputError(
            f"sensor {', '.join(outside)} is not in the part of the field that condition"
            f" {condition.name!r} is about; there are {known}"
        )
    return chosen


def emulate_tomoe_night(
    out: Path,
    plan: NightPlan,
    *,
    overwrite: bool = False,
    run: Run = run_here,
    n_workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> TomoeSummary:
    """Write a night; the same bits for any workers.

    ``science/`` and ``epochs/`` have the stacks, ``cubes/`` the frames if asked for, ``ps1/`` the images of
    PS1, ``truth.ecsv`` and ``artefacts.ecsv`` what is in the science frames (and of which kind the
    references' masks are), ``night.json`` what was asked for.

    Parameters
    ----------
    out : Path
        Folder to make. It gets its name only when it is whole.
    plan : NightPlan
    overwrite : bool
        Replace an emulated night of this name.
    run : Run, optional
        Who does the work.
    n_workers : int
        How many parts are to be worked on at a time.
    progress : callable, optional
        Called with what is done, how much of it, and its total.

    Raises
    ------
    InputError
        If `out` exists and may not be replaced, is not an emulated night, or cannot be written.
    """
    with new_folder(out, overwrite=overwrite, proof="truth.ecsv", command="rbsim emulate") as work:
        for folder, is_wanted in (("science", True), ("epochs", plan.n_epochs), ("cubes", plan.with_cubes)):
            if is_wanted:
                (work / folder).mkdir()
        done: list[_Done] = []
        items = _items(plan, n_workers)
        n_images = sum(len(item.visits) for item in items)

        def on_done(result: _Done) -> None:
            done.append(result)
            if progress is not None:
                progress("emulating", sum(part.n_images for part in done), n_images)

        if progress is not None:
            progress("emulating", 0, n_images)
        run(_emulate_item, (plan, work), items, on_done=on_done)
        if plan.ps1 == "skycells":
            _skycells(plan, work, run, done, progress)
        # Workers finish in any order.
        done.sort(key=lambda part: part.key)
        transients = [row for part in done for row in part.transients]
        # A sensor's work may be in several parts, and its reference is made with one of them.
        artefacts = sorted((row for part in done for row in part.artefacts), key=lambda row: row["frame"])
        meta = {
            "mode": plan.settings.mode.name,
            "condition": plan.settings.condition.name,
            "seed": plan.seed,
        }
        _write_table(work / "truth.ecsv", transients, TRUTH_COLUMNS, meta)
        _write_table(work / "artefacts.ecsv", artefacts, ARTEFACT_COLUMNS, {**meta, "strength": STRENGTHS})
        (work / "night.json").write_text(json.dumps(_facts(plan), indent=1) + "\n", encoding="utf-8")
        n_ps1 = sum(part.n_ps1 for part in done)
    log.info("%s: %d transients, %d artefacts", out, len(transients), len(artefacts))
    return TomoeSummary(
        path=out,
        n_exposures=plan.n_exposures * len(plan.sensors),
        n_epochs=plan.n_epochs * len(plan.sensors),
        n_ps1=n_ps1,
        n_transients=dict(sorted(Counter(row["kind"] for row in transients).items())),
        n_artefacts=dict(sorted(Counter(row["class"] for row in artefacts).items())),
    )


@dataclass(frozen=True)
class _Item:
    """Visits of one sensor that are made together, and whether PS1's image of it is too."""

    sensor: Sensor
    visits: tuple[Visit, ...]
    with_ps1: bool
    part: int


@dataclass(frozen=True)
class _Done:
    """Rows of the tables from one item."""

    key: tuple[int, int]
    n_images: int
    n_ps1: int
    transients: list[dict[str, Any]]
    artefacts: list[dict[str, Any]]


def _items(plan: NightPlan, n_workers: int) -> list[_Item]:
    visits = [Visit(index, is_epoch=True) for index in range(plan.n_epochs)]
    visits += [Visit(index) for index in range(plan.n_exposures)]
    n_parts = min(-(-n_workers // len(plan.sensors)), len(visits)) if n_workers > 1 else 1
    shares = [tuple(visits[part::n_parts]) for part in range(n_parts)]
    return [
        _Item(sensor, share, plan.ps1 == "warped" and part == 0, part)
        for sensor in plan.sensors
        for part, share in enumerate(shares)
    ]


def _emulate_item(shared: tuple[NightPlan, Path], item: _Item) -> _Done:
    plan, work = shared
    night = make_sensor_night(plan.settings, item.sensor, seed=plan.seed, shape=plan.shape)
    transients: list[dict[str, Any]] = []
    artefacts: list[dict[str, Any]] = []
    for visit in item.visits:
        with_cube = plan.with_cubes and not visit.is_epoch
        made = emulate_exposure(night, visit, with_cube=with_cube)
        for pixels, kind, letter, folder in (
            (made.stack, "STACK", "s", "epochs" if visit.is_epoch else "science"),
            (made.cube, "CUBE", "r", "cubes"),
        ):
            if pixels is None:
                continue
            header = header_of(
                made.name,
                made.wcs,
                kind=kind,
                n_frames=len(pixels) if kind == "CUBE" else plan.settings.mode.n_stacked,
                mode=plan.settings.mode,
                camera=plan.settings.camera,
                temperature_k=made.weather.temperature_k,
                pointing=made.pointing,
            )
            write_image(work / folder / made.name.file_name(letter), pixels, header)
        if not visit.is_epoch:
            name = made.name.file_name("s")
            transients += [{"frame": name, **row} for row in made.transients]
            artefacts += _artefact_rows(name, made.artefacts)
    if item.with_ps1:
        name = f"{field_name(night.field_ra_deg, night.field_dec_deg)}_{item.sensor.det_id}.fits"
        warped = _write_warped(work / "ps1" / name, night)
        artefacts += _artefact_rows(name, warped.rows)
    return _Done((item.sensor.det_id, item.part), len(item.visits), int(item.with_ps1), transients, artefacts)


def _artefact_rows(frame: str, rows: Iterable[Row]) -> list[dict[str, Any]]:
    names = ("class", "x_pix", "y_pix", "strength", "single_frame", "length_pix", "angle_deg")
    return [{"frame": frame, **dict(zip(names, astuple(row), strict=True))} for row in rows]


def _write_warped(path: Path, night: SensorNight) -> ps1_images.WarpedImage:
    """PS1 on the pixels of the sensor, a little larger than all its dithers together."""
    border = REFERENCE_BORDER_PIX + int(np.ceil(night.settings.mode.dither_arcsec / PIXEL_SCALE_ARCSEC))
    wcs: WCS = night.wcs.deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix + border
    wcs.wcs.set()
    ny, nx = night.shape
    warped = ps1_images.draw_warped(
        night.sky.stars,
        night.sky.galaxies,
        wcs,
        (ny + 2 * border, nx + 2 * border),
        rng=night.rng("ps1"),
        epoch_yr=NIGHT_YR,
    )
    field = field_name(night.field_ra_deg, night.field_dec_deg)
    ps1_files.write_warped(path, warped, wcs, field=field, sensor=night.sensor.det_id)
    return warped


def _skycells(
    plan: NightPlan,
    work: Path,
    run: Run,
    done: list[_Done],
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Every skycell that the sensors need, once; of the sky that the sensors see."""
    nights = [
        make_sensor_night(plan.settings, sensor, seed=plan.seed, shape=plan.shape) for sensor in plan.sensors
    ]
    cells = ps1_images.skycell_parts([(night.wcs, night.shape) for night in nights])
    stars = _joined(Stars, [night.sky.stars for night in nights])
    galaxies = _joined(Galaxies, [night.sky.galaxies for night in nights])
    n_done = 0

    def on_done(result: _Done) -> None:
        nonlocal n_done
        done.append(result)
        n_done += 1
        if progress is not None:
            progress("emulating skycells", n_done, len(cells))

    run(
        _emulate_skycell,
        (plan, work, stars, galaxies),
        list(enumerate(cells)),
        on_done=on_done,
    )


def _emulate_skycell(
    shared: tuple[NightPlan, Path, Stars, Galaxies], item: tuple[int, ps1_images.SkycellPart]
) -> _Done:
    (plan, work, stars, galaxies), (number, cell) = shared, item
    rng = stream(plan.seed, "ps1 skycell", number)
    rows: list[dict[str, Any]] = []
    for emulated in ps1_images.emulate_skycells(stars, galaxies, [cell], rng=rng, epoch_yr=NIGHT_YR):
        path = ps1_files.write_skycell(work / "ps1", emulated)
        rows += _artefact_rows(path.name, emulated.rows)
    return _Done((10**6, number), 0, 1, [], rows)  # after all sensors


def _joined(kind: type, values: Sequence[Any]) -> Any:
    names = vars(values[0])
    return kind(**{name: np.concatenate([getattr(value, name) for value in values]) for name in names})


def _facts(plan: NightPlan) -> dict[str, Any]:
    return {
        "rbsim": __version__,
        "mode": plan.settings.mode.name,
        "condition": plan.settings.condition.name,
        "sensors": [sensor.det_id for sensor in plan.sensors],
        "exposures": plan.n_exposures,
        "epochs": plan.n_epochs,
        "ps1": plan.ps1,
        "cubes": plan.with_cubes,
        "seed": plan.seed,
        "shape": list(plan.shape),
    }


def _write_table(
    path: Path, rows: Sequence[Mapping[str, Any]], units: Mapping[str, str | None], meta: dict[str, Any]
) -> None:
    texts, integers = ("frame", "kind", "class"), ("transient_id", "single_frame")
    dtypes = [str if name in texts else int if name in integers else float for name in units]
    values = [tuple(row[name] for name in units) for row in rows]
    table = Table(rows=values or None, names=list(units), dtype=dtypes, units=dict(units), meta=meta)
    table.write(path, format="ascii.ecsv")
