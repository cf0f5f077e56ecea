"""A folder of results that exists only when it is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbsim.errors import InputError

MARK = ".rbsim-unfinished"
"""File in a folder that is being written: whatever lacks it is not ours to remove."""


def check_folder(out: Path, *, overwrite: bool, proof: str, command: str, option: str = "--out") -> Path:
    """The working folder ``OUT.partial`` of a folder that may be written; nothing is touched.

    Arguments as of `new_folder`.

    Raises
    ------
    InputError
        If `out` exists and may not be replaced, or ``OUT.partial`` is not ours.
    """
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; give --overwrite to replace it, or another {option}")
    if out.exists() and not (out / proof).exists():
        raise InputError(
            f"{out}: is not an output of {command} (no {proof}) and is not replaced; give another {option}"
        )
    final = out.resolve()  # "." has no name, and a link stays a link
    work = final.with_name(final.name + ".partial")
    if work.exists() and not (work / MARK).exists():
        raise InputError(f"{work}: is in the way and not of {command}; move it or give another {option}")
    return work


@contextmanager
def new_folder(
    out: Path,
    *,
    overwrite: bool,
    proof: str,
    command: str,
    option: str = "--out",
    resume: bool | None = None,
) -> Iterator[Path]:
    """A working folder ``OUT.partial`` that gets the name of `out` when the block ends well.

    If it does not, also if it is interrupted, nothing is left of it and an older `out` stays. A folder left
    by a killed process is started anew. With `resume` not None, an unfinished folder stays for a later run.

    Parameters
    ----------
    out : Path
    overwrite : bool
        Replace an older folder that has `proof`.
    proof : str
        Name of a file that every finished folder of this kind has.
    command : str
        What writes such folders, for the message.
    option : str
        What the user names the folder by, for the message.
    resume : bool, optional
        True: go on with a folder that an earlier run left unfinished. True or False: leave it unfinished if
        the block ends with an exception, unless the block has removed it.

    Raises
    ------
    InputError
        If `out` exists and may not be replaced, ``OUT.partial`` is not ours, or it cannot be written.
    """
    final, work = (
        out.resolve(),
        check_folder(out, overwrite=overwrite, proof=proof, command=command, option=option),
    )
    try:
        if work.exists() and not resume:
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        (work / MARK).touch()
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another {option}") from error
    try:
        yield work
        for left in work.glob(".*.tmp"):  # of a worker that was killed
            left.unlink()
        if final.exists():
            shutil.rmtree(final)
        (work / MARK).unlink()
        work.rename(final)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror}); free space or choose another {option}"
        ) from error
    finally:
        if resume is None:
            shutil.rmtree(work, ignore_errors=True)  # gone already if all went well
