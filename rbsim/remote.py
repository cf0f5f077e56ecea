"""Input files on a disk or at an fsspec URL (``s3://``, ``https://``, ...), read where they are used.

A file at a URL is fetched whole by whoever needs it, also by a worker on another machine: nothing is left
on a disk. Who may read it is a matter of the environment (``AWS_...``, ``FSSPEC_...``), which workers must
have too.
"""

import io
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, cast

from rbsim.errors import InputError
from rbsim.locations import is_local, location, unreachable

_HEADER_BYTES = 1 << 17


def is_url(text: str | Path) -> bool:
    """Whether a name is an fsspec URL."""
    return "://" in str(text)


def open_input(path: Path) -> BinaryIO:
    """Open a file for reading; one at a URL is fetched first, in one piece.

    Raises
    ------
    OSError
        If it cannot be opened or fetched, whatever the reason.
    """
    if is_local(path):
        return path.open("rb")
    try:
        return io.BytesIO(path.read_bytes())
    except OSError:
        raise
    except Exception as error:  # every protocol has exceptions of its own
        raise OSError(f"cannot be fetched: {type(error).__name__}: {error}") from error


def open_header(path: Path) -> BinaryIO:
    """Open a file of which little is wanted: one at a URL is fetched bit by bit.

    Reading it may raise whatever the protocol raises.
    """
    if is_local(path):
        return path.open("rb")
    remote = cast(Any, path)
    return cast(BinaryIO, remote.fs.open(remote.path, "rb", block_size=_HEADER_BYTES))


def same_bytes(path: Path, other: Path) -> bool:
    """Whether two files are equal byte by byte.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    with closing(open_input(path)) as one, closing(open_input(other)) as two:
        while True:
            block = one.read(1 << 20)
            if block != two.read(1 << 20):
                return False
            if not block:
                return True


def find_remote(text: str, suffixes: tuple[str, ...]) -> list[str]:
    """URLs of files from a URL, a glob (``*``) or a folder (globs and folders sorted).

    A single file need not be there: like one on a disk, it fails when its turn comes.

    Raises
    ------
    InputError
        If the place cannot be reached, or a glob or folder holds no FITS file.
    """
    if text.endswith("]"):  # an extension; brackets are no glob in a URL
        return [text]
    path = cast(Any, location(text))
    try:
        if "*" in text:
            found = sorted(path.fs.unstrip_protocol(name) for name in path.fs.glob(text))
        elif text.lower().endswith(suffixes):
            path.exists()  # wrong credentials end the run here, not every frame
            return [text]
        elif path.is_dir():
            names = path.fs.ls(path.path, detail=False)
            found = sorted(
                path.fs.unstrip_protocol(name) for name in names if name.lower().endswith(suffixes)
            )
        else:
            return [text]
    except Exception as error:  # every protocol has exceptions of its own
        raise unreachable(text, error) from error
    if not found:
        what = "matches no file" if "*" in text else f"folder holds no FITS file ({', '.join(suffixes)})"
        raise InputError(f"{text}: {what}")
    return found
