"""ZTF alert packets as a store: one frame per science image, 29 x 29 px of every packet's cut-outs."""

import io
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from rbsim import build, schema
from rbsim.convert.cutouts import CUTOUT_SIZE_PIX, crop, resample
from rbsim.convert.packets import MISSING, ORIGIN_PIX, Alert, Broken, read_packets
from rbsim.convert.rows import (
    HALF_STAMP_PIX,
    blank_candidates,
    blank_frame,
    failed_partition,
    measure_stamps,
    no_truth,
    store_config,
    store_summary,
)
from rbsim.errors import InputError, OutputError
from rbsim.locations import is_local, write_whole
from rbsim.lock import build_lock
from rbsim.pack import finalise
from rbsim.partition import Columns, Partition
from rbsim.store import Store

LABELS = {"real": schema.LABEL_REAL, "bogus": schema.LABEL_BOGUS}

PIXEL_SCALE_ARCSEC = 1.01
"""Of ZTF (Bellm et al. 2019, PASP 131, 018002); it is not in the packets."""

TILE_DEG = 1.0
ARCSEC_PER_DEG = 3600.0
JD_OF_NIGHT_0 = 2457754.5
"""nid counts days from 2017-01-01 UT: so it does in packets."""

EXTRA = ("fid", "field", "rb", "rbversion", "drb", "drbversion", "magpsf", "sigmapsf", "magnr", "programid")
"""Fields without a column in the store, kept in the table beside it."""

NUMBERS = (
    *("ra", "dec", "xpos", "ypos", "fwhm", "seeratio", "elong", "nbad", "scorr", "magzpsci", "rcid", "nid"),
    *("distnr", "mindtoedge", "magpsf", "sigmapsf", "magnr"),
)
"""Fields that columns of the store are made of."""

N_TILES = (round(180 / TILE_DEG), round(360 / TILE_DEG))  # (y, x)


@dataclass(frozen=True)
class ImportedAlerts:
    """What became of the packets.

    Attributes
    ----------
    store : Store
    extra : Path
        Table of the fields that have no column in the store.
    n_alerts, n_negative : int
    failed : dict of str to str
        Reasons by file, or file and number of the record.
    """

    store: Store
    extra: Path
    n_alerts: int
    n_negative: int
    failed: dict[str, str]


def find_alerts(sources: Sequence[Path]) -> list[Path]:
    """Avro files, and those of folders, by name; each once.

    Raises
    ------
    InputError
        If there are none.
    """
    found: dict[Path, None] = {}
    for source in sources:
        inside = sorted(source.glob("*.avro")) if source.is_dir() else [source]
        if not inside:
            raise InputError(f"{source}: folder holds no *.avro; give alert packets")
        found |= dict.fromkeys(inside)
    return list(found)


def extra_path(out: Path) -> Path:
    """Where the table beside a store lies."""
    return out.with_name(f"{out.name.removesuffix('.zarr')}.extra.ecsv")


def _is_extra(path: Path) -> bool:
    """Whether this is such a table, by its first column names."""
    with path.open("rb") as file:
        head = file.read(1000)
    return head.startswith(b"# %ECSV") and b"{name: stamp," in head and b"{name: candid," in head


def import_alerts(
    sources: Sequence[Path],
    out: Path,
    *,
    resampled: bool = False,
    label: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportedAlerts:
    """Build a store from alert packets; each is read once, and pixels wait in a temporary file.

    A packet that cannot be used is a failed frame with its reason. Stamps are science minus reference for
    both signs. From science and reference the median of the cut-out is subtracted; the packet does not
    give the zero point of the reference, it is taken as it is.

    Parameters
    ----------
    sources : sequence of Path
        Avro files and folders of them.
    out : Path
        The store; the fields without a column there go to ``OUT.extra.ecsv``.
    resampled : bool
        Take all 63 x 63 px as 29 x 29 larger ones, see `rbsim.convert.cutouts.resample`; otherwise the
        central 29 x 29.
    label : str, optional
        ``real`` or ``bogus`` for all positive candidates; without it, and for negative ones, none (-1).
    resume, overwrite : bool
        See `rbsim.build.begin`.
    progress : callable, optional
        Called with the number of files read and their number.

    Raises
    ------
    InputError
        If no packet can be used, or for an unknown label.
    """
    if label is not None and label not in LABELS:
        raise InputError(f"label is {label!r}; choose one of {', '.join(LABELS)}, or leave it away")
    paths = find_alerts(sources)
    extra = extra_path(out)
    if extra.exists() and not (overwrite or resume):
        raise InputError(f"{extra}: exists already; give --overwrite to replace it, or another --out")
    if extra.exists() and not overwrite and not _is_extra(extra):
        raise InputError(f"{extra}: is in the way and not of rbsim; move it, or give another --out")
    with build_lock(out), tempfile.TemporaryFile(dir=out.parent if is_local(out) else None) as file:
        rows, failed = _read_all(paths, file, resampled, progress or (lambda *_: None))
        if not rows:
            reasons = next(iter(failed.values()))
            raise InputError(f"none of {len(paths)} files holds a usable alert; the first: {reasons}")
        file.flush()
        shape = (len(rows), *schema.STAMP_SHAPE)
        pixels = np.memmap(file, np.float32, "r", shape=shape)
        images: dict[int, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            images[row["pid"]].append(number)
        jds = sorted({row["jd"] for row in rows})
        exposure_of = {jd: number for number, jd in enumerate(jds)}
        by_time = sorted(images, key=lambda pid: (rows[images[pid][0]]["jd"], pid))
        partitions = [sorted(images[pid], key=lambda n: rows[n]["candid"]) for pid in by_time]
        inputs = [
            f"ztf_{pid} {_crc(pixels, rows, numbers):08x}"
            for pid, numbers in zip(by_time, partitions, strict=True)
        ] + [f"{name} {zlib.crc32(reason.encode()):08x}" for name, reason in failed.items()]
        config = store_config("ZTF alerts", {"resampled": resampled, "label": label})
        todo = build.init(
            out, config=config, inputs=inputs, summary=_summary(), resume=resume, overwrite=overwrite
        )
        for index in todo:
            if index < len(partitions):
                some = [rows[n] for n in partitions[index]]
                stamps = np.array(pixels[partitions[index]])
                partition = _partition(f"ztf_{by_time[index]}", some, stamps, label, resampled, exposure_of)
            else:
                name = list(failed)[index - len(partitions)]
                partition = failed_partition(name, failed[name])
            build.write_partition(out, index, partition)
        del pixels
        _write_extra(extra, [rows[n] for numbers in partitions for n in numbers])
        store = finalise(out, overwrite=overwrite or resume)
    n_negative = sum(not row["is_positive"] for row in rows)
    return ImportedAlerts(store, extra, len(rows), n_negative, failed)


def _summary() -> dict[str, Any]:
    tiling = {
        "x_edges_pix": (np.arange(N_TILES[1] + 1) * TILE_DEG * ARCSEC_PER_DEG).tolist(),
        "y_edges_pix": (np.arange(N_TILES[0] + 1) * TILE_DEG * ARCSEC_PER_DEG).tolist(),
    }
    groups = (
        "block: the night (nid); tile: a square degree in ra, dec; x_ref_pix and y_ref_pix are ra and"
        " dec + 90 deg in arcsec"
    )
    return store_summary(tiling, groups=groups)


def _read_all(
    paths: Sequence[Path], file: Any, resampled: bool, progress: Callable[[int, int], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of all usable packets, their stamps appended to a file, and why the others are not used."""
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    seen: dict[int, str] = {}
    n_of_name: dict[str, int] = defaultdict(int)
    for n_done, path in enumerate(paths):
        progress(n_done, len(paths))
        n_of_name[path.name] += 1
        for packet in _packets(path):
            source = packet.source if n_of_name[path.name] == 1 else f"{path.parent.name}/{packet.source}"
            if isinstance(packet, Broken):
                failed[source] = packet.reason
            elif packet.candid in seen:
                failed[source] = (
                    f"{source}: candid {packet.candid} was read already from {seen[packet.candid]}"
                )
            else:
                seen[packet.candid] = source
                stamp, is_edge = _stamp(packet, resampled)
                try:
                    file.write(stamp.tobytes())
                except OSError as error:
                    raise OutputError(
                        f"{source}: its stamp cannot be kept ({error.strerror or error}); free space and run"
                        " again"
                    ) from error
                rows.append(_row(packet, is_edge) | {"source": source})
    progress(len(paths), len(paths))
    return rows, failed


def _packets(path: Path) -> Iterable[Alert | Broken]:
    if path.is_file():
        return read_packets(path)
    return [Broken(path.name, f"{path}: no such file")]


def _stamp(alert: Alert, resampled: bool) -> tuple[np.ndarray, bool]:
    """Stamp of an alert, shape (3, 29, 29), and whether pixels outside the frame are in it."""
    scale = resample if resampled else crop
    parts = []
    for channel in schema.CHANNELS:
        image = alert.cutouts[channel]
        # The difference has no sky of its own: its median would be the source's light in small cut-outs.
        if channel != "difference" and np.isfinite(image).any():
            image = image - np.nanmedian(image)
        parts.append(scale(image))
    stamp = np.stack(parts).astype(np.float32)
    border = np.concatenate([stamp[:, [0, -1]].ravel(), stamp[:, :, [0, -1]].ravel()])
    return stamp, alert.is_cut and bool(np.isnan(border).any())


def _row(alert: Alert, is_edge: bool) -> dict[str, Any]:
    """What is kept of an alert beside its pixels."""
    extra = {name: alert.candidate.get(name) for name in EXTRA}
    return (
        {f"field_{k}": _known(v) for k, v in extra.items()}
        | {name: alert.number(name) for name in NUMBERS}
        | {"candid": alert.candid, "object_id": alert.object_id, "pid": alert.pid, "jd": alert.jd}
        | {"is_positive": alert.is_positive, "is_edge": is_edge}
    )


def _known(value: Any) -> Any:
    """A text or number that is one; None for -999 and whatever else a packet may hold."""
    return None if value == MISSING or not isinstance(value, str | int | float) else value


def _crc(pixels: np.ndarray, rows: Sequence[dict[str, Any]], numbers: Sequence[int]) -> int:
    crc = 0
    for n in numbers:
        crc = zlib.crc32(repr(sorted(rows[n].items(), key=lambda item: item[0])).encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(pixels[n]).tobytes(), crc)
    return crc


def _partition(
    name: str,
    rows: Sequence[dict[str, Any]],
    stamps: np.ndarray,
    label: str | None,
    resampled: bool,
    exposure_of: dict[float, int],
) -> Partition:
    """All alerts of one science image."""
    value = {key: np.array([row[key] for row in rows], float) for key in (*NUMBERS, "jd")}
    is_positive = np.array([row["is_positive"] for row in rows])
    shrink = CUTOUT_SIZE_PIX / schema.STAMP_SIZE_PIX if resampled else 1.0
    columns = blank_candidates(len(rows)) | measure_stamps(stamps)
    columns["flags"][[row["is_edge"] for row in rows]] |= np.uint32(schema.CANDIDATE_FLAG["EDGE"])
    _set_photometry(columns, value, is_positive)
    _set_places(columns, value, shrink)
    columns["shape_fwhm_pix"] = value["fwhm"] / shrink
    # seeratio is the FWHM of the difference's PSF over that of the source.
    columns["fwhm_pix"] = value["fwhm"] * value["seeratio"] / shrink
    columns["elongation"] = value["elong"]
    if not resampled:
        known = np.isfinite(value["nbad"])
        columns["n_bad"] = np.where(known, value["nbad"], columns["n_bad"]).clip(0, 25)
    kind = np.where(is_positive, schema.KIND_CODES["detection"], schema.KIND_CODES["negative"])
    given = LABELS[label] if label is not None else schema.LABEL_EXCLUDED
    columns["kind"] = kind.astype(np.int8)
    columns["label_true"] = np.where(is_positive, given, schema.LABEL_EXCLUDED).astype(np.int8)
    columns["label_given"] = columns["label_true"].copy()
    sensor, night = _whole(value["rcid"], 0), np.floor(value["jd"] - JD_OF_NIGHT_0)
    columns["sensor"] = sensor
    columns["block"] = _whole(np.where(np.isfinite(value["nid"]), value["nid"], night), 0)
    columns["group"] = columns["block"] * (N_TILES[0] * N_TILES[1]) + columns["tile"]
    frame = blank_frame(
        sensor=int(sensor[0]),
        exposure=exposure_of[rows[0]["jd"]],
        block=int(columns["block"][0]),
        zero_point_mag=value["magzpsci"][0],
        zero_point_calibrated=bool(np.isfinite(value["magzpsci"][0])),
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC * shrink,
        noise_adu=_median(columns["noise_adu"]),
        fwhm_pix=_median(columns["fwhm_pix"]),
        n_bogus=int(np.count_nonzero(columns["label_true"] == schema.LABEL_BOGUS)),
        n_negative=int(np.count_nonzero(~is_positive)),
    )
    return Partition(name, "", frame, stamps, columns, no_truth())


def _set_photometry(columns: Columns, value: dict[str, np.ndarray], is_positive: np.ndarray) -> None:
    """Fluxes from magnitudes: magpsf is that of the absolute flux."""
    flux = 10 ** (0.4 * (value["magzpsci"] - value["magpsf"]))
    columns["is_positive"] = is_positive
    columns["zero_point_mag"] = value["magzpsci"]
    columns["flux_adu"] = np.where(is_positive, flux, -flux)
    columns["flux_err_adu"] = flux * value["sigmapsf"] * np.log(10) / 2.5
    columns["mag"] = np.where(is_positive, value["magpsf"], np.nan)
    columns["snr"] = value["scorr"]
    columns["reference_flux_ratio"] = 10 ** (0.4 * (value["magnr"] - value["magpsf"]))


def _set_places(columns: Columns, value: dict[str, np.ndarray], shrink: float) -> None:
    """Positions in the frame in its own pixels (also if stamps are resampled), and on the sky's grid."""
    x_pix, y_pix = value["xpos"] - ORIGIN_PIX, value["ypos"] - ORIGIN_PIX
    half = int(CUTOUT_SIZE_PIX // 2 if shrink > 1 else schema.STAMP_HALF_PIX)
    columns["x_pix"], columns["y_pix"] = x_pix, y_pix
    columns["x0_pix"], columns["y0_pix"] = (_whole(np.floor(p + 0.5), 0) - half for p in (x_pix, y_pix))
    columns["reference_distance_pix"], columns["edge_distance_pix"] = value["distnr"], value["mindtoedge"]
    ra, dec = value["ra"], value["dec"]
    columns["ra_deg"], columns["dec_deg"] = ra, dec
    ix, iy = (_whole(np.floor(v / TILE_DEG), 0) for v in (ra, dec + 90))
    columns["tile"] = iy.clip(0, N_TILES[0] - 1) * N_TILES[1] + ix.clip(0, N_TILES[1] - 1)
    columns["x_ref_pix"], columns["y_ref_pix"] = ra * ARCSEC_PER_DEG, (dec + 90) * ARCSEC_PER_DEG
    # A stamp is wider in ra than on the sky; one half width for both is the larger.
    stretch = 1 / np.cos(np.radians(dec)).clip(0.01)
    columns["footprint_half_ref_pix"] = HALF_STAMP_PIX * shrink * PIXEL_SCALE_ARCSEC * stretch


def _whole(values: np.ndarray, otherwise: int) -> np.ndarray:
    """Floats as 32-bit whole numbers."""
    usable = np.isfinite(values) & (np.abs(values) < 2**31)
    return np.where(usable, values, otherwise).astype(np.int64)


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else np.nan


def _write_extra(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The table beside the store: one row per stamp, in the order of the stamps."""
    table = Table()
    table["stamp"] = np.arange(len(rows))
    for name in ("candid", "object_id", "pid", "jd", "source"):
        table[name] = [row[name] for row in rows]
    for name in EXTRA:
        table[name] = _column([row[f"field_{name}"] for row in rows])
    for name, unit in (("jd", "d"), ("magpsf", "mag"), ("sigmapsf", "mag"), ("magnr", "mag")):
        if table[name].dtype.kind == "f":
            table[name].unit = unit
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    try:
        write_whole(path, text.getvalue().encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error


def _column(values: Sequence[Any]) -> np.ndarray:
    """Values of one field: text if one of them is, whole numbers if all are, else floats."""
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values], dtype=str)
    if all(isinstance(value, int) and abs(value) < 2**63 for value in values):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], float)
