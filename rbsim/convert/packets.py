"""ZTF alert packets: avro files, read record by record, from sources that are not trusted.

The fields are those of github.com/ZwickyTransientFacility/ztf-avro-alert, ``docs/schema.md``.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rbsim.convert.cutouts import pad_cutout, read_cutout
from rbsim.errors import InputError

CUTOUTS = {"reference": "cutoutTemplate", "science": "cutoutScience", "difference": "cutoutDifference"}
SIGNS = {"t": True, "1": True, "f": False, "0": False}
MISSING = -999.0
"""Stands for no value in the packets."""

ORIGIN_PIX = 1.0
"""xpos and ypos count from 1, as in FITS: in the packets ``mindtoedge`` is 3080.5 - ypos near the upper edge
of frames of 3080 rows. The schema does not say it."""

_LONGEST_CUTOUT_BYTES = 1_000_000


@dataclass(frozen=True, eq=False)
class Alert:
    """One packet.

    Attributes
    ----------
    source : str
        File, and number of the record if it is not the first.
    object_id : str
    candid, pid : int
        Of the candidate and of the science image.
    jd : float
    is_positive : bool
    candidate : mapping
        Fields of the candidate as they are.
    cutouts : dict of str to ndarray, shape (63, 63)
        By channel; DN as in the packet, NaN without pixel. The difference is science minus reference,
        whatever the sign of the candidate.
    is_cut : bool
        The border of the frame cut a cut-out.
    """

    source: str
    object_id: str
    candid: int
    pid: int
    jd: float
    is_positive: bool
    candidate: Mapping[str, Any]
    cutouts: dict[str, np.ndarray]
    is_cut: bool

    def number(self, name: str) -> float:
        """A field of the candidate; NaN if it is missing, no number, or -999."""
        return number_of(self.candidate, name)


@dataclass(frozen=True)
class Broken:
    """A file or packet that cannot be used."""

    source: str
    reason: str


def number_of(candidate: Mapping[str, Any], name: str) -> float:
    """A field as a float; NaN if it is missing, no number, or -999."""
    value = candidate.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return np.nan
    return np.nan if value == MISSING or not np.isfinite(value) else float(value)


def read_packets(path: Path) -> Iterator[Alert | Broken]:
    """All packets of a file; what cannot be used comes as `Broken`, and nothing is raised for it.

    Raises
    ------
    InputError
        If fastavro is not installed.
    """
    try:
        fastavro = importlib.import_module("fastavro")
    except ImportError as error:
        raise InputError('reading alerts needs fastavro; pip install "rbsim[convert]"') from error
    n_read = 0
    try:
        with path.open("rb") as file:
            reader = fastavro.reader(file)
            _check_header(reader.writer_schema, reader.metadata)
            for record in reader:
                source = path.name if n_read == 0 else f"{path.name}[{n_read}]"
                n_read += 1
                try:
                    yield _alert(record, source)
                except InputError as error:
                    yield Broken(source, f"{source}: {error}")
        if n_read == 0:
            yield Broken(path.name, f"{path.name}: holds no packet")
    except Exception as error:  # whatever a file that is no avro makes of the decoder
        what = (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
        where = path.name if n_read == 0 else f"{path.name}[{n_read}]"
        yield Broken(where, f"{where}: cannot be read as avro ({what})")


def _check_header(schema: Any, metadata: Mapping[str, Any]) -> None:
    """Refuse what could make much out of little: compressed blocks, arrays of values without bytes."""
    codec = metadata.get("avro.codec", "null")
    if codec not in ("null", b"null"):
        raise InputError(f"its blocks are compressed with {codec}; alerts are not: write it with codec null")
    named: dict[str, Any] = {}
    parts = list(_parts(schema, named))
    if any(not _has_bytes(part[key], named) for part in parts for key in ("items", "values") if key in part):
        raise InputError("its schema has an array of values that take no bytes")


def _parts(schema: Any, named: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All dictionaries of a schema; those with a name are put into `named` by the last part of it."""
    if isinstance(schema, dict):
        yield schema
        if "name" in schema and "type" in schema:
            named.setdefault(str(schema["name"]).rsplit(".", 1)[-1], schema)
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for part in inner:
        yield from _parts(part, named)


def _has_bytes(schema: Any, named: Mapping[str, Any], depth: int = 0) -> bool:
    """Whether a value surely takes at least a byte; unions do, for the number of the branch."""
    if isinstance(schema, list):
        return True
    if depth > 20 or schema == "null":
        return False
    if isinstance(schema, dict):
        match schema.get("type"):
            case "record":
                return any(_has_bytes(f.get("type"), named, depth + 1) for f in schema.get("fields", ()))
            case "fixed":
                return int(schema.get("size", 0)) > 0
            case inner:
                return _has_bytes(inner, named, depth + 1)
    reference = named.get(str(schema).rsplit(".", 1)[-1])
    # What is neither a name nor null is a primitive type, an enum, an array or a map: at least a byte.
    return reference is None or _has_bytes(reference, named, depth + 1)


def _alert(record: Any, source: str) -> Alert:
    """A record as an alert.

    Raises
    ------
    InputError
        If a field that is needed is missing or makes no sense.
    """
    candidate = record.get("candidate") if isinstance(record, dict) else None
    if not isinstance(candidate, dict):
        raise InputError("has no candidate; is it a ZTF alert?")
    sign = SIGNS.get(str(candidate.get("isdiffpos")))
    if sign is None:
        raise InputError(f"isdiffpos is {candidate.get('isdiffpos')!r}; known are t, f, 1, 0")
    candid, pid = (
        _whole(value, name)
        for value, name in (
            (record.get("candid", candidate.get("candid")), "candid"),
            (candidate.get("pid"), "pid"),
        )
    )
    jd = number_of(candidate, "jd")
    if not np.isfinite(jd):
        raise InputError("has no jd")
    x_pix, y_pix = (number_of(candidate, name) - ORIGIN_PIX for name in ("xpos", "ypos"))
    cutouts = {}
    is_cut = False
    for channel, name in CUTOUTS.items():
        cutout = record.get(name)
        content = cutout.get("stampData") if isinstance(cutout, dict) else None
        if not isinstance(content, bytes) or len(content) > _LONGEST_CUTOUT_BYTES:
            raise InputError(f"{name} is missing or too long")
        image = read_cutout(content)
        padded = pad_cutout(image, x_pix=x_pix, y_pix=y_pix)
        is_cut |= padded.shape != image.shape
        cutouts[channel] = padded
    if not sign:
        # ZTF takes the reference minus science image for negative candidates.
        cutouts["difference"] = -cutouts["difference"]
    return Alert(source, str(record.get("objectId", "")), candid, pid, jd, sign, candidate, cutouts, is_cut)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InputError(f"has no {name}")
    return value
