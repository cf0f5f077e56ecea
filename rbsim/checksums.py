"""What tells a file from another of the same name: its content, as a short checksum."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rbsim.frame import split_extension
from rbsim.locations import is_local, write_whole
from rbsim.remote import open_input

FILE = "checksums.json"
"""In the folder of a build: checksums of frames, so that not every job has to read every frame."""


def checksum(path: Path) -> int:
    """First 32 bits of the SHA-256 of a file; 0 if it cannot be read."""
    try:
        with open_input(path) as file:
            digest = hashlib.file_digest(cast(Any, file), "sha256")
    except OSError:
        return 0
    return int(digest.hexdigest()[:8], 16)


def fingerprint(source: str | Path | None) -> str | None:
    """Name and checksum of a file (perhaps with ``[EXT]``); None without one."""
    if source is None:
        return None
    path = split_extension(source)[0]
    return f"{path.name} {checksum(path):08x}"


@dataclass(frozen=True)
class Seen:
    """Checksums of files that another job has read: path -> (bytes, time of change in ns, checksum)."""

    of: Mapping[str, tuple[int, int, int]]

    def checksum(self, path: Path) -> int:
        """That of the other job if the file has the same size and time of change; else read anew."""
        size, changed_ns, known = self.of.get(str(path), (-1, -1, 0))
        return known if size >= 0 and _state(path) == (size, changed_ns) else checksum(path)


def read_seen(work: Path) -> Seen:
    """What earlier jobs have left in the folder of a build; nothing if it is not there."""
    try:
        entries = json.loads((work / FILE).read_bytes())
        return Seen({str(path): (int(a), int(b), int(c)) for path, (a, b, c) in entries.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return Seen({})


def write_seen(work: Path, checksums: Iterable[tuple[Path, int]]) -> None:
    """Leave checksums for later jobs."""
    entries = {str(path): (*_state(path), known) for path, known in checksums}
    write_whole(work / FILE, json.dumps(entries, indent=0).encode())


def _state(path: Path) -> tuple[int, int]:
    if not is_local(path):
        return (-2, -2)  # not every protocol tells the time of change: is read again
    try:
        stat = path.stat()
    except OSError:
        return (-2, -2)  # is read, and fails there
    return stat.st_size, stat.st_mtime_ns
