"""One process at a time: a lock that the system takes back when its holder dies."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbsim.errors import InputError
from rbsim.locations import is_local

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


def lock_path(path: Path) -> Path:
    """The file that processes lock while they build the store `path`."""
    return path.with_name(path.name + ".lock")


@contextmanager
def build_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the build of a store; released also by kill -9.

    On a location without locks (an object store, some network disks) nothing is held: partitions are
    written whole and are the same whoever writes them, so that two processes do the work twice and no harm.

    Parameters
    ----------
    path : Path
        The store.
    shared : bool
        Several jobs of one build (``--partition``) hold it together; only one holds it alone.

    Raises
    ------
    InputError
        If another process holds it, or the place is not writable.
    """
    if fcntl is None or not is_local(path):
        yield
        return
    held = _take(path, shared=shared)
    try:
        yield
    finally:
        if held is not None:
            if not shared:
                lock_path(path).unlink(missing_ok=True)
            os.close(held)


def _take(path: Path, *, shared: bool) -> int | None:
    """File descriptor of the lock; None where the file system has none."""
    file = lock_path(path)
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            held = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(
                f"{path}: cannot write there ({error.strerror}); choose another --out"
            ) from error
        try:
            fcntl.flock(held, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(held)
            raise InputError(
                f"{path}: another process is building this store; wait for it, or stop it and give --resume"
            ) from error
        except OSError as error:
            os.close(held)
            log.info("%s: no locks on this file system (%s)", path, error.strerror)
            return None
        try:
            # Its holder may have removed the file between our opening and locking it.
            if os.path.samestat(os.fstat(held), file.stat()):
                return held
        except FileNotFoundError:
            pass
        os.close(held)
