"""Where stores lie: a path on a disk, or an fsspec URL such as ``s3://bucket/night.zarr``."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from urllib.request import url2pathname

from rbsim.errors import InputError, OutputError


def location(text: str | Path) -> Path:
    """A path for a name on a disk; for a URL a `upath.UPath`, which has the methods of a Path.

    Raises
    ------
    InputError
        If the URL's scheme is not known to fsspec or needs a package that is not there.
    """
    if isinstance(text, str) and text.startswith("file://"):
        return Path(url2pathname(text.removeprefix("file://")))
    if isinstance(text, str) and "://" in text:
        from upath import UPath

        try:
            path = UPath(text)
            _ = path.fs
        except (ValueError, ImportError) as error:
            raise InputError(
                f'{text}: {str(error).splitlines()[0]}; for s3:// install "rbsim[s3]"'
            ) from error
        return cast(Path, path)
    return Path(text)


def place(text: str) -> Path:
    """`location` of something that a user names as an input or output, reachable and with a name.

    Raises
    ------
    InputError
        If it is a URL that cannot be reached, or the name is that of no file or folder.
    """
    path = location(text)
    if not is_local(path):
        try:
            path.exists()
        except Exception as error:  # every protocol has exceptions of its own
            raise unreachable(text, error) from error
    elif path.name in ("", ".."):  # names are made from it, such as that of an unfinished store
        path = path.resolve() if text else path
        if not path.name:
            raise InputError(f"{text!r}: names no file or folder; give one")
    return path


def unreachable(text: str, error: Exception) -> InputError:
    """What to say of a URL that raised what its protocol likes."""
    return InputError(
        f"{text}: cannot be reached ({type(error).__name__}: {error}); check URL, network and credentials"
    )


def target_of(path: Path) -> Path:
    """Where a link leads: a store is locked, built and renamed there, whatever name it was given by."""
    return path.resolve() if isinstance(path, Path) and path.is_symlink() else path


def is_local(path: Path) -> bool:
    """Whether this is a path on a disk, with rename and locks."""
    return isinstance(path, Path)


def is_there(path: Path) -> bool:
    """Whether a file exists now, not when its folder was last listed."""
    if not is_local(path):
        cast(Any, path).fs.invalidate_cache()
    return path.exists()


def zarr_store(path: Path) -> Any:
    """What zarr opens for this location."""
    if is_local(path):
        return path
    from zarr.storage import FsspecStore

    remote = cast(Any, path)
    return FsspecStore.from_url(str(path), storage_options=dict(remote.storage_options))


def list_files(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, by their path relative to it, in one listing."""
    if is_local(folder):
        found = {}
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                with suppress(FileNotFoundError):  # another process has just renamed it
                    found[path.relative_to(folder).as_posix()] = path.stat().st_size
        return found
    remote = cast(Any, folder)
    remote.fs.invalidate_cache()
    root = str(remote.path).rstrip("/")
    listing = remote.fs.find(root, detail=True)
    return {name[len(root) :].lstrip("/"): int(entry["size"]) for name, entry in listing.items()}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is complete or not there at all, also after a loss of power."""
    if not is_local(path):
        path.write_bytes(content)  # an object appears when it is whole
        return
    with under_another_name(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        flush(file)


@contextmanager
def under_another_name(path: Path) -> Iterator[Path]:
    """A name to write a file on a disk under; it becomes `path` when the block ends well, else it goes."""
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):  # on a disk that cannot be written
            temporary.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """`under_another_name` for what a user asked for.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        with under_another_name(path) as temporary:
            yield temporary
    except OSError as error:  # of astropy with a text instead of a number
        reason = error.strerror or str(error).splitlines()[0]
        raise OutputError(f"{path}: cannot be written ({reason}); free space and run again") from error


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def flush(file: Any) -> None:
    """Bring a file's content to the disk: a rename must not overtake it."""
    file.flush()
    os.fsync(file.fileno())


def remove_folder(folder: Path) -> None:
    """Remove a folder and all that is in it."""
    if is_local(folder):
        shutil.rmtree(folder)
    else:
        cast(Any, folder).fs.rm(str(cast(Any, folder).path), recursive=True)


def give_name(folder: Path, final: Path, *, last: str) -> None:
    """Rename a folder; where there is no rename, copy its files, `last` as the last one, and remove it.

    Whoever finds the file `last` then finds the others too.
    """
    if is_local(folder):
        folder.rename(final)
        return
    filesystem = cast(Any, folder).fs
    source, target = str(cast(Any, folder).path), str(cast(Any, final).path)
    names = sorted(name for name in list_files(folder) if name != last)
    for some in (names, [last]):  # all of a list at once
        filesystem.copy([f"{source}/{name}" for name in some], [f"{target}/{name}" for name in some])
    filesystem.rm(source, recursive=True)
