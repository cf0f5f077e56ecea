"""Triplets in FITS files, one or many in each, as candidates to be scored."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from rbsim import schema
from rbsim.candidates import Piece
from rbsim.convert.rows import measure_stamps
from rbsim.errors import InputError

SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz")
CARD = "CHANNELS"
"""Card that says the order of channels of a cube: a comma list."""

_STAMP = schema.STAMP_SHAPE[1:]
_WANTED = f"{_STAMP[0]} x {_STAMP[1]} px"


@dataclass(frozen=True)
class _File:
    """What one file holds: a triplet or many, in three HDUs or in one; or why it cannot be used.

    ``hdus`` are the HDUs of the channels, three times the same for a cube, and ``planes`` the place of each
    channel within a cube. ``has_noise``: its CANDIDATES have noise_adu.
    """

    path: Path
    n: int = 1
    hdus: tuple[int, ...] = ()
    planes: tuple[int, ...] | None = None
    is_single: bool = False
    has_noise: bool = False
    reason: str = ""


@dataclass(frozen=True, eq=False)
class FitsTriplets:
    """Candidates of one file or of a folder; see `open_triplets`."""

    place: Path
    files: tuple[_File, ...]

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        return self.place.name

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the names, sizes and times of change of the files."""
        digest = hashlib.sha256()
        for file in self.files:
            state = file.path.stat()
            digest.update(f"{file.path.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
        return digest.hexdigest()

    @cached_property
    def _first(self) -> np.ndarray:
        """Row of each file's first triplet, and the number of all, shape (n_files + 1,)."""
        return np.cumsum([0, *(file.n for file in self.files)])

    @property
    def n_stamps(self) -> int:
        """Number of triplets, files without any counted as one."""
        return int(self._first[-1])

    def pieces(self, first: int, last: int, *, n_at_once: int) -> Iterator[Piece]:
        """See `rbsim.candidates.Candidates.pieces`; noise from the file's table, else from pixels."""
        for start in range(first, last, n_at_once):
            stop = min(start + n_at_once, last)
            at, parts = start, []
            while at < stop:
                number = int(np.searchsorted(self._first, at, side="right")) - 1
                end = min(stop, int(self._first[number + 1]))
                file = self.files[number]
                parts.append(_read(file, at - int(self._first[number]), end - int(self._first[number])))
                at = end
            identity = {"row": np.arange(start, stop)}
            for column in ("file", "file_row"):
                identity[column] = np.concatenate([part.identity[column] for part in parts])
            yield Piece(
                identity,
                np.concatenate([part.stamps for part in parts]),
                np.concatenate([part.noise_adu for part in parts]),
                np.concatenate([part.reason for part in parts]),
            )


def is_fits(path: Path) -> bool:
    """Whether a name is that of a FITS file."""
    return path.name.lower().endswith(SUFFIXES)


def open_triplets(place: Path, *, channels: tuple[str, ...] | None = None) -> FitsTriplets:
    """Look into FITS files, headers only.

    A file has the HDUs REFERENCE, SCIENCE and DIFFERENCE, each (29, 29) or (n, 29, 29), as `rbsim convert
    --to fits` writes them; or one image (3, 29, 29) or (n, 3, 29, 29), whose order of channels the card
    CHANNELS or `channels` says. Pixels are background-subtracted ADU on one zero point.

    Parameters
    ----------
    place : Path
        A file, or a folder of them, read in the order of their names.
    channels : tuple of str, optional
        Order of the channels of images without that card.

    Raises
    ------
    InputError
        If there is no triplet at all, or a single file cannot be used. In a folder such a file is one
        candidate with a reason.
    """
    if channels is not None:
        _check_channels(channels, "--channels")
    paths = sorted(path for path in place.iterdir() if is_fits(path)) if place.is_dir() else [place]
    if not paths:
        raise InputError(
            f"{place}: holds neither a store nor FITS files; give a store, a FITS file or a folder"
        )
    files = tuple(_look_into(path, channels) for path in paths)
    if all(file.reason for file in files):
        more = f"; so are all {len(files)} files" if len(files) > 1 else ""
        raise InputError(f"{files[0].path}: {files[0].reason}{more}")
    return FitsTriplets(place, files)


def _check_channels(channels: tuple[str, ...], where: str) -> None:
    if sorted(channels) != sorted(schema.CHANNELS):
        raise InputError(f"{where} is {','.join(channels)!r}; name each once of {', '.join(schema.CHANNELS)}")


def _look_into(path: Path, channels: tuple[str, ...] | None) -> _File:
    try:
        with _opened(path) as hdus, warnings.catch_warnings():
            # Its pixels are looked at later, by a thread, where warnings cannot be caught.
            warnings.filterwarnings("error", message="File may have been truncated")
            return _layout(path, hdus, channels)
    except InputError as error:
        return _File(path, reason=str(error))
    except Exception as error:  # astropy raises many kinds on bytes that are no FITS
        what = (str(error).splitlines() or [type(error).__name__])[0]
        return _File(path, reason=f"is no readable FITS file ({what})")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # astropy leaves a file open that it cannot read.
    with path.open("rb") as file, fits.open(file, memmap=True) as hdus:
        yield hdus


def _layout(path: Path, hdus: Any, channels: tuple[str, ...] | None) -> _File:
    names = [hdu.name.upper() for hdu in hdus]
    found = [name for name in schema.CHANNELS if name.upper() in names]
    if found:
        missing = [name for name in schema.CHANNELS if name not in found]
        if missing:
            raise InputError(f"has HDUs for {', '.join(found)}, lacks {', '.join(missing)}")
        index = tuple(names.index(name.upper()) for name in schema.CHANNELS)
        shapes = [tuple(hdus[i].shape) for i in index]
        if len(set(shapes)) > 1 or shapes[0][-2:] != _STAMP or len(shapes[0]) not in (2, 3):
            raise InputError(f"its channels have shapes {', '.join(map(str, shapes))}; stamps are {_WANTED}")
        is_single = len(shapes[0]) == 2
        n = 1 if is_single else shapes[0][0]
        return _File(path, n, index, None, is_single, _has_noise(hdus, names, n))
    image = next((i for i, hdu in enumerate(hdus) if hdu.is_image and len(hdu.shape) > 1), None)
    if image is None:
        raise InputError("has no image")
    shape = tuple(hdus[image].shape)
    if shape[-3:] != schema.STAMP_SHAPE or len(shape) not in (3, 4):
        raise InputError(
            f"its image has the shape {shape}; a triplet is {schema.STAMP_SHAPE}, channels of {_WANTED}"
        )
    order = channels
    if CARD in hdus[image].header:
        order = tuple(name.strip().lower() for name in str(hdus[image].header[CARD]).split(","))
        _check_channels(order, f"its card {CARD}")
        if channels not in (None, order):
            raise InputError(
                f"its card {CARD} is {','.join(order)}, --channels says {','.join(channels or ())}"
            )
    if order is None:
        raise InputError(
            f"does not say the order of its channels; give --channels, e.g. {','.join(schema.CHANNELS)}"
        )
    planes = tuple(order.index(name) for name in schema.CHANNELS)
    is_single = len(shape) == 3
    n = 1 if is_single else shape[0]
    return _File(path, n, (image,) * len(planes), planes, is_single, _has_noise(hdus, names, n))


def _has_noise(hdus: Any, names: list[str], n: int) -> bool:
    if "CANDIDATES" not in names:
        return False
    table = hdus[names.index("CANDIDATES")]
    return table.header.get("NAXIS2") == n and "noise_adu" in table.columns.names


def _read(file: _File, first: int, last: int) -> Piece:
    n = last - first
    stamps, reason = np.full((n, *schema.STAMP_SHAPE), np.nan, np.float32), file.reason
    noise_adu = np.full(n, np.nan, np.float32)
    if not reason:
        try:
            with _opened(file.path) as hdus:
                for channel, hdu in enumerate(file.hdus):
                    where = () if file.planes is None else (file.planes[channel],)
                    rows = where if file.is_single else (slice(first, last), *where)
                    stamps[:, channel] = hdus[hdu].section[(*rows, slice(None), slice(None))]
                if file.has_noise:
                    noise_adu[:] = hdus["CANDIDATES"].data["noise_adu"][first:last]
        except Exception as error:  # as above: a file may be cut
            what = (str(error).splitlines() or [type(error).__name__])[0]
            stamps[:], reason = np.nan, f"cannot be read ({what})"
    if not file.has_noise and not reason:
        noise_adu[:] = measure_stamps(stamps)["noise_adu"]
    identity = {"file": np.full(n, file.path.name), "file_row": np.arange(first, last)}
    return Piece(identity, stamps, noise_adu, np.full(n, reason))
