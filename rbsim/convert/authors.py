"""The public data set of Takahashi et al. (2022) as a store: ``imagesN.npy``, ``paramsN.csv`` per detector.

The files are described by the authors' own reader (github.com/ichiro-takahashi/tomoe-realbogus,
``src/data/make_record.py``): images (n, 29, 29, 3), channels last, and one row of the table per image whose
column ``object_type`` is the class. The order of the channels is documented nowhere; reference, new,
subtracted is that of the talk.
"""

import csv
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rbsim import build, schema
from rbsim.convert.rows import (
    HALF_STAMP_PIX,
    TILE_PIX,
    blank_candidates,
    blank_frame,
    measure_stamps,
    no_truth,
    set_labels,
    store_config,
    store_summary,
)
from rbsim.errors import InputError
from rbsim.lock import build_lock
from rbsim.pack import finalise
from rbsim.partition import Columns, Partition
from rbsim.store import Store

CLASS_COLUMN = "object_type"
KIND_OF_CLASS = {
    "artifact": "detection",
    "galx_artificial_real": "injected_near_galaxy",
    "rand_artificial_real": "injected_random",
}
CHANNEL_NAMES = {"ref": "reference", "new": "science", "sub": "difference"}
DEFAULT_CHANNELS = "ref,new,sub"

PIECE_STAMPS = 20_000
"""Stamps per partition: 200 MB of pixels."""

N_BLOCKS = 10
"""Pieces of consecutive rows that stand for exposure blocks, per detector."""

MIN_SENSORS = 3
"""From so many detectors on each of them is a tile; a split needs three tiles."""

_NOT_FROM_FILES = ("x_ref_pix", "y_ref_pix", "footprint_half_ref_pix")
COLUMN_OF_NAME = {
    spec.name: spec.name
    for spec in schema.CANDIDATE_COLUMNS
    if np.dtype(spec.dtype).kind == "f" and spec.name not in _NOT_FROM_FILES
} | {"x": "x_pix", "y": "y_pix", "ra": "ra_deg", "dec": "dec_deg", "magnitude": "mag", "fwhm": "fwhm_pix"}
"""Columns of the tables that are kept, by their name there in lower case."""


@dataclass(frozen=True)
class SensorFiles:
    """The two files of one detector."""

    sensor: int
    images: Path
    params: Path


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one detector: a partition of the store."""

    files: SensorFiles
    start: int
    stop: int
    n_sensor: int
    tile: int
    n_tiles: int

    @property
    def name(self) -> str:
        """Name of the frame that the piece is in the store."""
        return f"{self.files.images.name}[{self.start}:{self.stop}]"


@dataclass(frozen=True)
class Imported:
    """What became of the files.

    Attributes
    ----------
    store : Store
    n_of_class : dict of str to int
    kept, dropped : dict of str to str, tuple of str
        Columns of the tables: those kept with their name in the store, and those that are lost.
    """

    store: Store
    n_of_class: dict[str, int]
    kept: dict[str, str]
    dropped: tuple[str, ...]


def find_files(folder: Path) -> list[SensorFiles]:
    """The pairs of files of a folder, by the number of the detector.

    Raises
    ------
    InputError
        If there are none, one of a pair is missing, or two files have the same number.
    """
    found: dict[str, dict[int, Path]] = {"images": {}, "params": {}}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"(images)(\d+)\.npy|(params)(\d+)\.csv", path.name)
        if match is None:
            continue
        what, number = match[1] or match[3], int(match[2] or match[4])
        if number in found[what]:
            raise InputError(f"{path}: {found[what][number].name} has the same number; keep one of them")
        if number > np.iinfo(np.int32).max:
            raise InputError(f"{path}: the number of a detector is at most {np.iinfo(np.int32).max}")
        found[what][number] = path
    if not found["images"]:
        raise InputError(f"{folder}: holds no imagesN.npy; give the folder of the authors' data set")
    alone = sorted(set(found["images"]) ^ set(found["params"]))
    if alone:
        has = "images" if alone[0] in found["images"] else "params"
        lacks = f"params{alone[0]}.csv" if has == "images" else f"images{alone[0]}.npy"
        raise InputError(f"{found[has][alone[0]]}: there is no {lacks} beside it; add it or take this away")
    return [SensorFiles(n, found["images"][n], found["params"][n]) for n in sorted(found["images"])]


def parse_channels(text: str) -> list[int]:
    """Position of each of `schema.CHANNELS` in the files, from e.g. ``ref,new,sub``.

    Raises
    ------
    InputError
    """
    names = [CHANNEL_NAMES.get(name.strip(), name.strip()) for name in text.split(",")]
    if sorted(names) != sorted(schema.CHANNELS):
        raise InputError(f"channels are {text!r}; give ref, new and sub once each, in the order of the files")
    return [names.index(name) for name in schema.CHANNELS]


def open_images(path: Path) -> np.ndarray:
    """The images of a file, mapped into memory, shape (n, 29, 29, 3); no pickle is ever loaded.

    Raises
    ------
    InputError
        If the file is no array of floats of this shape.
    """
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        what = str(error).splitlines()[0]
        raise InputError(
            f"{path}: is no NumPy array of numbers ({what}); give .npy files of floats"
        ) from error
    wanted = (schema.STAMP_SIZE_PIX, schema.STAMP_SIZE_PIX, len(schema.CHANNELS))
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.shape[1:] != wanted:
        shape = getattr(images, "shape", "no shape")
        raise InputError(f"{path}: has shape {shape}; (n, 29, 29, 3) is wanted, the channels last")
    if images.dtype.kind != "f" or images.dtype.itemsize not in (4, 8):
        raise InputError(f"{path}: has data type {images.dtype}; float32 is wanted")
    return images


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a table one after the other.

    Raises
    ------
    InputError
        If it cannot be read, lacks the class column, or a row has another number of cells.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if header.count(CLASS_COLUMN) != 1:
                raise InputError(
                    f"{path}: needs one column {CLASS_COLUMN}, has {', '.join(header) or 'none'}"
                )
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells and the header {len(header)};"
                        " write the table again"
                    )
                yield dict(zip(header, cells, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); give CSV in UTF-8") from error


def import_authors(
    folder: Path,
    out: Path,
    *,
    channels: str = DEFAULT_CHANNELS,
    resume: bool = False,
    overwrite: bool = False,
    piece_stamps: int = PIECE_STAMPS,
) -> Imported:
    """Build a store from the authors' files; memory holds one piece at a time.

    There are no exposures in the files. So that a store can be split, consecutive rows of a detector are
    ten blocks, and each detector is a tile; with fewer than three detectors every third row is. Stamps of one
    exposure or of one place may therefore lie on both sides of a split: leakage cannot be excluded.

    Parameters
    ----------
    folder : Path
        Of ``imagesN.npy`` and ``paramsN.csv``; N becomes the sensor.
    out : Path
        The store.
    channels : str
        Order of the channels in the files; it is not documented, the default is that of the talk.
    resume, overwrite : bool
        See `rbsim.build.begin`.
    piece_stamps : int
        Stamps per partition.

    Raises
    ------
    InputError
        For unusable files; nothing is written then.
    """
    order = parse_channels(channels)
    sensors = find_files(folder)
    pieces: list[Piece] = []
    inputs: list[str] = []
    n_of_class = dict.fromkeys(KIND_OF_CLASS, 0)
    columns: dict[str, None] = {}
    by_row = len(sensors) < MIN_SENSORS
    n_tiles = MIN_SENSORS * len(sensors) if by_row else len(sensors)
    for number, files in enumerate(sensors):
        images = open_images(files.images)
        n_rows = 0
        for n_rows, row in enumerate(read_rows(files.params), start=1):
            if row[CLASS_COLUMN] not in n_of_class:
                raise InputError(
                    f"{files.params}: row {n_rows} has {CLASS_COLUMN} {row[CLASS_COLUMN]!r};"
                    f" known are {', '.join(KIND_OF_CLASS)}"
                )
            n_of_class[row[CLASS_COLUMN]] += 1
            if n_rows == 1:
                columns |= dict.fromkeys(row)
        if n_rows != len(images):
            raise InputError(
                f"{files.params}: has {n_rows} rows and {files.images.name} {len(images)} images; they must"
                " belong to each other row by row"
            )
        table_crc = zlib.crc32(files.params.read_bytes())
        for start in range(0, n_rows, piece_stamps):
            stop = min(start + piece_stamps, n_rows)
            piece = Piece(files, start, stop, n_rows, MIN_SENSORS * number if by_row else number, n_tiles)
            pieces.append(piece)
            # Mapped anew for every piece: what was read stays in memory as long as its mapping.
            crc = zlib.crc32(open_images(files.images)[start:stop].tobytes(), table_crc)
            inputs.append(f"{piece.name} {crc:08x}")
    if not pieces:
        raise InputError(f"{folder}: its files hold no images; give the folder of the authors' data set")
    lowered = {name: COLUMN_OF_NAME[name.lower()] for name in columns if name.lower() in COLUMN_OF_NAME}
    kept = {name: column for name, column in lowered.items() if list(lowered.values()).count(column) == 1}
    dropped = tuple(name for name in columns if name not in kept and name != CLASS_COLUMN)
    config = store_config(
        "authors' data set",
        {"channels_of_files": channels, "columns_kept": kept, "columns_dropped": list(dropped)},
    )
    edges = (np.arange(n_tiles + 1) * TILE_PIX).tolist()
    groups = (
        f"block: {N_BLOCKS} pieces of consecutive rows per detector; tile: "
        + ("every third row of a detector" if by_row else "the detector")
        + "; exposures and sky positions are not in the files, so that leakage cannot be excluded"
    )
    summary = store_summary({"x_edges_pix": edges, "y_edges_pix": [0.0, TILE_PIX]}, groups=groups)
    with build_lock(out):
        todo = set(
            build.init(out, config=config, inputs=inputs, summary=summary, resume=resume, overwrite=overwrite)
        )
        index = 0
        for files in sensors:
            rows = read_rows(files.params)
            for piece in (piece for piece in pieces if piece.files is files):
                table = list(islice(rows, piece.stop - piece.start))
                if index in todo:
                    build.write_partition(out, index, _partition(piece, table, kept, order, by_row))
                index += 1
        store = finalise(out, overwrite=overwrite or resume)
    return Imported(store, n_of_class, kept, dropped)


def _partition(
    piece: Piece,
    table: Sequence[dict[str, str]],
    kept: dict[str, str],
    order: list[int],
    by_row: bool,
) -> Partition:
    """One piece as a partition."""
    n = piece.stop - piece.start
    images = open_images(piece.files.images)
    stamps = np.ascontiguousarray(
        images[piece.start : piece.stop].transpose(0, 3, 1, 2)[:, order], np.float32
    )
    columns = blank_candidates(n) | measure_stamps(stamps)
    codes = {name: schema.KIND_CODES[kind] for name, kind in KIND_OF_CLASS.items()}
    set_labels(columns, np.array([codes[row[CLASS_COLUMN]] for row in table], np.int64))
    for name, column in kept.items():
        values = _numbers(table, name, piece)
        if column == "noise_adu":
            values = np.where(values > 0, values, columns[column])
        columns[column] = values
    columns["sensor"][:] = piece.files.sensor
    row = np.arange(piece.start, piece.stop)
    _set_groups(
        columns, block=row * N_BLOCKS // piece.n_sensor, tile=piece.tile + row % 3 * by_row, piece=piece
    )
    frame = blank_frame(
        sensor=piece.files.sensor,
        exposure=piece.start,
        block=int(columns["block"][0]),
        n_bogus=int(np.count_nonzero(columns["label_true"] == schema.LABEL_BOGUS)),
    )
    return Partition(piece.name, "", frame, stamps, columns, no_truth())


def _set_groups(columns: Columns, *, block: np.ndarray, tile: np.ndarray, piece: Piece) -> None:
    columns["block"], columns["tile"] = block, tile
    columns["group"] = block * piece.n_tiles + tile
    # Every tile is a square of a grid that exists only so that a split finds stamps within their tile.
    columns["x_ref_pix"] = (tile + 0.5) * TILE_PIX
    columns["y_ref_pix"][:] = 0.5 * TILE_PIX
    columns["footprint_half_ref_pix"][:] = HALF_STAMP_PIX


def _numbers(table: Sequence[dict[str, Any]], name: str, piece: Piece) -> np.ndarray:
    """One column as numbers; an empty cell is NaN."""
    out = np.full(len(table), np.nan)
    for i, row in enumerate(table):
        try:
            out[i] = float(row[name]) if row[name].strip() else np.nan
        except ValueError as error:
            raise InputError(
                f"{piece.files.params}: row {piece.start + i + 1} has {name} {row[name]!r}; give a number"
            ) from error
    return out
