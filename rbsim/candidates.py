"""Candidates to be scored, in pieces that fit into memory: what a store gives, and any other source must."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rbsim import schema
from rbsim.errors import InputError
from rbsim.store import Store


@dataclass(frozen=True, eq=False)
class Piece:
    """Some neighbouring candidates.

    Attributes
    ----------
    identity : mapping of str to ndarray, shape (n,)
        Columns that tell which candidate it is; ``row`` counts from 0 in the whole source.
    stamps : ndarray, shape (n, 3, 29, 29), float32
        Channels in the order of `rbsim.schema.CHANNELS`, ADU, background-subtracted; NaN without pixel.
    noise_adu : ndarray, shape (n,), float32
        Noise of the difference per pixel; NaN if not known.
    reason : ndarray, shape (n,), str
        Why there are no pixels; empty where there are.
    """

    identity: Mapping[str, np.ndarray]
    stamps: np.ndarray
    noise_adu: np.ndarray
    reason: np.ndarray


class Candidates(Protocol):
    """A source of candidates."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def fingerprint(self) -> str:
        """What tells it from every other source, so that work begun on it is not continued on another."""

    @property
    def n_stamps(self) -> int:
        """Number of candidates."""

    def pieces(self, first: int, last: int, *, n_at_once: int) -> Iterator[Piece]:
        """Candidates `first` to `last` (without it), at most `n_at_once` together."""


@dataclass(frozen=True, eq=False)
class StoreCandidates:
    """All stamps of a store; see `of_store`."""

    store: Store
    channel_order: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        return self.store.path.name

    @property
    def fingerprint(self) -> str:
        """Checksum of the store's manifest."""
        return self.store.manifest_sha256

    @property
    def n_stamps(self) -> int:
        """Number of stamps."""
        return self.store.n_stamps

    def pieces(self, first: int, last: int, *, n_at_once: int) -> Iterator[Piece]:
        """See `Candidates.pieces`; fast where pieces begin with a chunk of the store."""
        noise_adu = _noise(self.store, first, last)
        in_order = self.channel_order == tuple(range(len(schema.CHANNELS)))
        for start in range(first, last, n_at_once):
            stop = min(start + n_at_once, last)
            raw = np.empty(
                (stop - start, len(self.store.attributes["channels"]), *schema.STAMP_SHAPE[1:]), "f4"
            )
            self.store.read_run(start, raw)
            yield Piece(
                {"row": np.arange(start, stop)},
                raw if in_order else raw[:, self.channel_order],
                noise_adu[start - first : stop - first],
                np.full(stop - start, ""),
            )


def _noise(store: Store, first: int, last: int) -> np.ndarray:
    """Only these rows of the column: all of them would be a gigabyte for the largest stores."""
    array: Any = store.root["noise_adu"]
    try:
        return np.asarray(array[first:last], np.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{store.path}: noise_adu is damaged ({error}); rbsim verify says more") from error


def of_store(store: Store) -> StoreCandidates:
    """The stamps of a store as candidates.

    Raises
    ------
    InputError
        If it lacks a channel.
    """
    names = list(store.attributes["channels"])
    missing = [name for name in schema.CHANNELS if name not in names]
    if missing:
        raise InputError(
            f"{store.path}: has channels {', '.join(names)}, lacks {', '.join(missing)}; inject again"
        )
    return StoreCandidates(store, tuple(names.index(name) for name in schema.CHANNELS))
