"""The image of a FITS file: which extension it is in, and its planes."""

import gzip
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from rbsim.errors import InputError
from rbsim.locations import is_local
from rbsim.remote import open_input
from rbsim.tomoe.standard import standard_header


@contextmanager
def opened(path: Path, *, pixels: bool = True) -> Iterator[fits.HDUList]:
    """The HDUs of a file; whatever goes wrong with it is an InputError.

    Parameters
    ----------
    path : Path
    pixels : bool
        They are wanted too: a gzipped file is then unpacked on the disk first. Cubes are read out of order,
        and going back in a gzipped one would start at its beginning each time.
    """
    if is_local(path) and not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # A truncated file is a warning and then garbage pixels: make it an error.
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.filterwarnings("error", message=".*truncated.*")
            # Opened here: astropy leaves a file that is not FITS open.
            with (
                open_input(path) as file,
                _unpacked(file, pixels) as plain,
                fits.open(plain, memmap=False) as hdus,
            ):
                yield hdus
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error, TypeError, ValueError, IndexError, AstropyWarning) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as FITS ({reason}); is it complete?") from error


@contextmanager
def _unpacked(file: BinaryIO, pixels: bool) -> Iterator[BinaryIO]:
    """The file itself, or what a gzipped one holds, as a temporary file."""
    magic = file.read(2)
    file.seek(0)
    if not pixels or magic != b"\x1f\x8b":
        yield file
        return
    with tempfile.NamedTemporaryFile(suffix=".fits") as plain:
        with gzip.open(file) as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
        plain.flush()
        with Path(plain.name).open("rb") as again:  # astropy takes only a file that cannot be written
            yield again


def read_image(
    path: Path, extension: str | int | None
) -> tuple[np.ndarray, fits.Header, dict[str, np.ndarray | None]]:
    """Pixels, header, and the planes MASK and VARIANCE of the same shape, None where there is none.

    The header of a file of Tomo-e is completed, see `rbsim.tomoe.standard`.

    Raises
    ------
    InputError
        If the file is missing, not FITS, truncated, or has no 2-D image.
    """
    with opened(path) as hdus:
        hdu = choose_hdu(hdus, extension, path)
        data = np.asarray(hdu.data)
        header = standard_header(hdu.header, path)
        planes = {name: _plane(hdus, name, data.shape) for name in ("MASK", "VARIANCE")}
    return data.astype(data.dtype.newbyteorder("=")), header, planes


def choose_hdu(hdus: fits.HDUList, extension: str | int | None, path: Path) -> fits.ImageHDU:
    """The first HDU with an image, or the extension asked for; 2-D, or a cube of frames."""
    images = [hdu for hdu in hdus if hdu.is_image and hdu.header.get("NAXIS", 0) > 0]
    names = ", ".join(str(i) if not hdu.name else hdu.name for i, hdu in enumerate(hdus))
    if extension is not None:
        try:
            images = [hdus[extension]]
        except (KeyError, IndexError) as error:
            raise InputError(f"{path}: has no extension {extension}; it has {names}") from error
    if not images:
        raise InputError(f"{path}: holds no image; its extensions are {names or 'none'}")
    hdu = images[0]
    if not hdu.is_image or hdu.header.get("NAXIS") not in (2, 3):
        raise InputError(
            f"{path}: extension {hdu.name or 0} is neither a 2-D image nor a cube of them"
            f" (NAXIS = {hdu.header.get('NAXIS')})"
        )
    return hdu


def _plane(hdus: fits.HDUList, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    for hdu in hdus[1:]:
        if hdu.name == name and hdu.is_image and hdu.data is not None and hdu.data.shape == shape:
            return np.asarray(hdu.data)
    return None
