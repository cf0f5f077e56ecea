"""A store as the files that the authors' code reads: ``imagesN.npy`` and ``paramsN.csv`` per sensor."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rbsim import schema
from rbsim.convert.authors import CHANNEL_NAMES, CLASS_COLUMN, DEFAULT_CHANNELS, KIND_OF_CLASS, parse_channels
from rbsim.errors import InputError
from rbsim.folder import new_folder
from rbsim.store import Store

MARK_FILE = "rbsim_export.txt"
"""Proof that a folder is an export of ours and may be replaced; it also says what is in the files."""

READ_STAMPS = 16 * schema.CHUNK_STAMPS
"""Stamps at a time: whole chunks of the store."""

MEASURED = (
    *("x_pix", "y_pix", "ra_deg", "dec_deg", "snr", "flux_adu", "flux_err_adu", "mag", "zero_point_mag"),
    *("noise_adu", "fwhm_pix"),
)
"""Columns beside the class; `rbsim.convert.authors` takes them back."""


@dataclass(frozen=True)
class ExportedArrays:
    """What was written.

    Attributes
    ----------
    n_of_class : dict of str to int
    n_left_out : int
        Stamps whose given label is neither real nor bogus.
    n_filled_pixels : int
        Pixels without a value that got the fill value.
    sensors : tuple of int
    """

    n_of_class: dict[str, int]
    n_left_out: int
    n_filled_pixels: int
    sensors: tuple[int, ...]


def export_authors(
    store: Store,
    out: Path,
    *,
    channels: str = DEFAULT_CHANNELS,
    fill: float = 0.0,
    labels: np.ndarray | None = None,
    overwrite: bool = False,
) -> ExportedArrays:
    """Write a store some thousand stamps at a time; memory does not grow with the number of stamps.

    Real are ``galx_artificial_real`` if their kind is injected_near_galaxy and ``rand_artificial_real``
    otherwise, bogus are ``artifact``.

    Parameters
    ----------
    store : Store
    out : Path
        Folder to write.
    channels : str
        Order of the channels, see `rbsim.convert.authors.parse_channels`.
    fill : float
        For pixels without a value: the authors' code turns a stamp with a NaN into NaN. In ADU; 0 is the
        level of the subtracted background.
    labels : ndarray, shape (n_stamps,), integer, optional
        Given labels instead of the store's; -1 is left out.
    overwrite : bool
        Replace an older export.

    Raises
    ------
    InputError
        If no stamp has a label, labels are of another length, a sensor is negative, or nothing can be
        written.
    """
    order = np.argsort(parse_channels(channels))
    label = store.column("label_given") if labels is None else np.asarray(labels)
    if label.shape != (store.n_stamps,):
        raise InputError(
            f"labels have shape {label.shape} and the store {store.n_stamps} stamps; give one each"
        )
    if not np.isfinite(fill):
        raise InputError(f"fill is {fill}; give a finite number of ADU")
    sensor, kind = store.column("sensor"), store.column("kind")
    used = np.isin(label, (schema.LABEL_REAL, schema.LABEL_BOGUS))
    if not used.any():
        raise InputError(f"{store.path}: no stamp has a given label, so that there is nothing to export")
    if sensor[used].min() < 0:
        raise InputError(f"{store.path}: has sensor {sensor[used].min()}; the authors' files need 0 or more")
    near = kind == schema.KIND_CODES["injected_near_galaxy"]
    classes = np.where(label == schema.LABEL_BOGUS, 0, np.where(near, 1, 2))
    names = list(KIND_OF_CLASS)
    sensors, n_of_sensor = np.unique(sensor[used], return_counts=True)
    n_filled = 0
    with new_folder(out, overwrite=overwrite, proof=MARK_FILE, command="rbsim convert --to authors") as work:
        shape = (schema.STAMP_SIZE_PIX, schema.STAMP_SIZE_PIX, len(schema.CHANNELS))
        files = {int(number): work / f"images{number}.npy" for number in sensors}
        for path, n in zip(files.values(), n_of_sensor, strict=True):
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(int(n), *shape))
        written = dict.fromkeys(files, 0)
        for start in range(0, store.n_stamps, READ_STAMPS):
            here = slice(start, min(start + READ_STAMPS, store.n_stamps))
            if not used[here].any():
                continue
            stamps = store.read_stamps(here)[used[here]]
            missing = ~np.isfinite(stamps)
            n_filled += int(np.count_nonzero(missing))
            stamps[missing] = fill
            images = stamps[:, order].transpose(0, 2, 3, 1)
            for number in np.unique(sensor[here][used[here]]):
                some = images[sensor[here][used[here]] == number]
                first = written[int(number)]
                # Mapped anew every time: what was written stays in memory as long as its mapping.
                mapped = np.load(files[int(number)], mmap_mode="r+", allow_pickle=False)
                mapped[first : first + len(some)] = some
                del mapped
                written[int(number)] += len(some)
        columns = {name: store.column(name) for name in MEASURED}
        label_true = store.column("label_true")
        kind_names = {k.code: k.name for k in schema.KINDS}
        for number in sensors:
            rows = np.flatnonzero(used & (sensor == number))
            with (work / f"params{number}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow([CLASS_COLUMN, "stamp", "kind", "label_true", *columns])
                writer.writerows(
                    [
                        names[classes[row]],
                        row,
                        kind_names.get(int(kind[row]), int(kind[row])),
                        label_true[row],
                        *(values[row] for values in columns.values()),
                    ]
                    for row in rows
                )
        (work / MARK_FILE).write_text(_note(store, channels, fill, int(np.count_nonzero(~used))))
    counts = np.bincount(classes[used], minlength=len(names))
    return ExportedArrays(
        dict(zip(names, counts.tolist(), strict=True)),
        int(np.count_nonzero(~used)),
        n_filled,
        tuple(int(number) for number in sensors),
    )


def _note(store: Store, channels: str, fill: float, n_left_out: int) -> str:
    spelt = ", ".join(CHANNEL_NAMES.get(name.strip(), name.strip()) for name in channels.split(","))
    return (
        f"Export of the rbsim store {store.path.name}.\n"
        f"imagesN.npy: float32, (n, 29, 29, 3), channels {spelt}; N is the sensor.\n"
        f"Pixels without a value: {fill:g} ADU. Left out, without a given label: {n_left_out} stamps.\n"
        "paramsN.csv: object_type is the given label; stamp is the row in the store, and label_true the\n"
        "truth, for evaluation only.\n"
    )
