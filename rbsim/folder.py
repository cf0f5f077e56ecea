"""A folder of results that exists only when it is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbsim.errors import InputError

MARK = ".rbsim-unfinished"
"""File in a folder that is being written: whatever lacks it is not ours to remove."""


@contextmanager
def new_folder(out: Path, *, overwrite: bool, proof: str, command: str) -> Iterator[Path]:
    """A working folder ``OUT.partial`` that gets the name of `out` when the block ends well.

    If it does not, also if it is interrupted, nothing is left of it and an older `out` stays. A folder left
    by a killed process is started anew.

    Parameters
    ----------
    out : Path
    overwrite : bool
        Replace an older folder that has `proof`.
    proof : str
        Name of a file that every finished folder of this kind has.
    command : str
        What writes such folders, for the message.

    Raises
    ------
    InputError
        If `out` exists and may not be replaced, ``OUT.partial`` is not ours, or it cannot be written.
    """
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; give --overwrite to replace it, or another --out")
    if out.exists() and not (out / proof).exists():
        raise InputError(
            f"{out}: is not an output of {command} (no {proof}) and is not replaced; give another --out"
        )
    final = out.resolve()  # "." has no name, and a link stays a link
    work = final.with_name(final.name + ".partial")
    if work.exists() and not (work / MARK).exists():
        raise InputError(f"{work}: is in the way and not of {command}; move it or give another --out")
    try:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        (work / MARK).touch()
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        yield work
        if final.exists():
            shutil.rmtree(final)
        (work / MARK).unlink()
        work.rename(final)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror}); free space or choose another --out"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # gone already if all went well
