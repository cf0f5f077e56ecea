"""One conversion: what the sources are, which options the target allows, which function does it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rbsim.convert.alerts import import_alerts
from rbsim.convert.authors import DEFAULT_CHANNELS, import_authors
from rbsim.convert.authors_out import export_authors
from rbsim.convert.fits_sample import MAX_STAMPS, export_fits
from rbsim.convert.parquet import export_parquet
from rbsim.errors import InputError
from rbsim.locations import is_local
from rbsim.store import is_store, open_store

AUTHORS, ALERTS, STORE = "the authors' data set", "ZTF alerts", "a store"


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion may be told; None is not told.

    Attributes
    ----------
    channels : str, optional
        Order of the channels in the authors' files, e.g. ``ref,new,sub``.
    fill : float, optional
        ADU for pixels without a value in the authors' files.
    resample : bool, optional
        Alerts: all of the cut-out, not its centre.
    label : str, optional
        Alerts: label to give. FITS: given label of the stamps to take.
    kind : str, optional
        FITS: kind of the stamps to take.
    max_stamps, seed : int, optional
        FITS: size and seed of the sample.
    resume : bool, optional
        To a store: go on with an unfinished conversion.
    """

    channels: str | None = None
    fill: float | None = None
    resample: bool | None = None
    label: str | None = None
    kind: str | None = None
    max_stamps: int | None = None
    seed: int | None = None
    resume: bool | None = None


ALLOWED = {
    ("store", AUTHORS): ("channels", "resume"),
    ("store", ALERTS): ("resample", "label", "resume"),
    ("authors", STORE): ("channels", "fill"),
    ("fits", STORE): ("max_stamps", "seed", "kind", "label"),
    ("parquet", STORE): (),
}
"""Options that each pair of target and source takes."""

FORMATS = tuple(dict.fromkeys(target for target, _ in ALLOWED))


@dataclass(frozen=True)
class Conversion:
    """What came out.

    Attributes
    ----------
    facts : dict
        JSON-ready.
    failed : dict of str to str
        Reasons of sources that were left out.
    """

    facts: dict[str, Any]
    failed: dict[str, str]

    def text(self) -> list[tuple[str, str]]:
        """Label and value lines for people."""
        lines = [(name.replace("_", " "), _as_text(value)) for name, value in self.facts.items()]
        return [(name, value) for name, value in lines if value]


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} -> {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def recognise(sources: Sequence[Path]) -> str:
    """What the sources are: the authors' data set, ZTF alerts, or a store.

    Raises
    ------
    InputError
        If they are nothing of these, or of several kinds.
    """
    found = {}
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
        if is_store(source):
            found[STORE] = source
        elif source.suffix == ".avro" or (source.is_dir() and any(source.glob("*.avro"))):
            found[ALERTS] = source
            if source.is_dir() and any(source.glob("images*.npy")):
                found[AUTHORS] = source
        elif source.is_dir() and any(source.glob("images*.npy")):
            found[AUTHORS] = source
        else:
            raise InputError(f"{source}: is no store, no folder with imagesN.npy and no *.avro")
    if len(found) != 1:
        names = " and ".join(f"{name} ({source})" for name, source in found.items())
        raise InputError(f"sources are {names}; convert one kind at a time")
    kind = next(iter(found))
    if kind != ALERTS and len(sources) > 1:
        raise InputError(f"{len(sources)} sources given; {kind} is one folder, convert one at a time")
    return kind


def convert(
    sources: Sequence[Path],
    target: str,
    out: Path,
    options: ConvertOptions,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Conversion:
    """Convert to a store, or a store to something else.

    Parameters
    ----------
    sources : sequence of Path
        One folder of the authors' files, one store, or any number of avro files and folders of them.
    target : str
        Of `FORMATS`.
    out : Path
        What to write; it exists when it is whole.
    options : ConvertOptions
    overwrite : bool
        Replace an output that exists.
    progress : callable, optional
        Called with (description, done, total).

    Raises
    ------
    InputError
        For sources, options or a target that do not fit each other, and from the conversions.
    """
    if target not in FORMATS:
        raise InputError(f"--to is {target!r}; choose one of {', '.join(FORMATS)}")
    source = recognise(sources)
    if (target, source) not in ALLOWED:
        wanted = " or ".join(s for t, s in ALLOWED if t == target)
        raise InputError(f"{sources[0]}: is {source}, and --to {target} takes {wanted}")
    told = {field.name: getattr(options, field.name) for field in fields(options)}
    given = {name: value for name, value in told.items() if value is not None and value is not False}
    wrong = [name for name in given if name not in ALLOWED[target, source]]
    if wrong:
        allowed = ", ".join(f"--{name.replace('_', '-')}" for name in ALLOWED[target, source]) or "none"
        raise InputError(
            f"--{wrong[0].replace('_', '-')} has no meaning for {source} --to {target}; allowed: {allowed}"
        )
    if target != "store" and not is_local(out):
        raise InputError(f"{out}: --to {target} writes to a disk; give a path")
    if source != STORE and not all(is_local(path) for path in sources):
        raise InputError(f"{sources[0]}: {source} is read from a disk; copy it there")
    if is_local(out):
        resolved = out.resolve()
        for path in (p.resolve() for p in sources if is_local(p)):
            if resolved == path or path in resolved.parents or resolved in path.parents:
                raise InputError(f"{out}: lies in the source {path} or holds it; give another --out")
    if target == "store" and source == AUTHORS:
        return _from_authors(sources[0], out, given, overwrite)
    if target == "store":
        return _from_alerts(sources, out, given, overwrite, progress)
    return _from_store(sources[0], target, out, given, overwrite)


def _from_authors(source: Path, out: Path, given: dict[str, Any], overwrite: bool) -> Conversion:
    done = import_authors(source, out, overwrite=overwrite, **given)
    facts = {
        "store": str(out),
        "stamps": done.store.n_stamps,
        "classes": done.n_of_class,
        "sensors": len({int(n) for n in done.store.column("frames/sensor")}),
        "channels_of_the_files": f"{given.get('channels', DEFAULT_CHANNELS)} (not documented by the authors)",
        "columns_kept": done.kept,
        "columns_dropped": list(done.dropped),
        "groups": done.store.attributes["groups"],
    }
    return Conversion(facts, {})


def _from_alerts(
    sources: Sequence[Path],
    out: Path,
    given: dict[str, Any],
    overwrite: bool,
    progress: Callable[[str, int, int], None] | None,
) -> Conversion:
    done = import_alerts(
        sources,
        out,
        resampled=given.pop("resample", False),
        overwrite=overwrite,
        progress=None if progress is None else lambda n, total: progress("reading alerts", n, total),
        **given,
    )
    label = given.get("label")
    facts = {
        "store": str(out),
        "alerts": done.n_alerts,
        "negative": f"{done.n_negative} (never labelled)",
        "science_images": int(done.store.column("frames/ok").sum()),
        "left_out": len(done.failed),
        "label": f"{label}, assumed" if label else "none: neither trained on nor scored",
        "other_fields": str(done.extra),
    }
    return Conversion(facts, done.failed)


def _from_store(source: Path, target: str, out: Path, given: dict[str, Any], overwrite: bool) -> Conversion:
    store = open_store(source)
    facts: dict[str, Any]
    if target == "authors":
        arrays = export_authors(store, out, overwrite=overwrite, **given)
        facts = {
            "folder": str(out),
            "classes": arrays.n_of_class,
            "sensors": len(arrays.sensors),
            "left_out_without_label": arrays.n_left_out,
            "pixels_filled": arrays.n_filled_pixels,
        }
    elif target == "fits":
        sample = export_fits(store, out, overwrite=overwrite, **({"max_stamps": MAX_STAMPS} | given))
        facts = {"file": str(out), "stamps": sample.n_stamps, "of": sample.n_eligible}
    else:
        tables = export_parquet(store, out, overwrite=overwrite)
        facts = {"folder": str(out), "rows": tables.n_rows}
    return Conversion(facts, {})
