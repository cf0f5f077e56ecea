"""Training from a store that is larger than the memory: batches from a shuffled buffer, in a known order."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from rbmodel.dataset import NORMALISATIONS, Batch, normalise, stratified_order
from rbsim import schema
from rbsim.errors import InputError
from rbsim.seeding import stream
from rbsim.store import Store

_PIECE = 64
"""Stamps normalised at a time: both copies fit into a core's cache."""


@dataclass(frozen=True)
class StreamConfig:
    """How to stream.

    Attributes
    ----------
    batch_size : int
        Largest batch.
    buffer_stamps : int
        Stamps in memory at a time, per process, to within a few per cent; 10 kB each.
    run_stamps : int
        Neighbours read together. Whole chunks; the fewer, the better mixed, the more, the fewer reads.
    n_readers : int
        Threads that read at the same time. 1 is right for disks; 16 where every read waits, as on S3.
    normalisation : str
        See `rbmodel.dataset.normalise`.
    seed : int
        Of the order.
    """

    batch_size: int = 128
    buffer_stamps: int = 32_768
    run_stamps: int = schema.CHUNK_STAMPS
    n_readers: int = 1
    normalisation: str = "minmax"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "buffer_stamps", "n_readers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.run_stamps < 1 or self.run_stamps % schema.CHUNK_STAMPS:
            raise InputError(
                f"run_stamps is {self.run_stamps}; it must be a multiple of {schema.CHUNK_STAMPS}, a chunk"
            )
        if self.buffer_stamps < self.run_stamps:
            raise InputError(
                f"buffer_stamps is {self.buffer_stamps}, less than a run ({self.run_stamps}); enlarge it"
            )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must not be negative")
        if self.normalisation not in NORMALISATIONS:
            raise InputError(
                f"normalisation is {self.normalisation!r}; choose one of {', '.join(NORMALISATIONS)}"
            )


@dataclass(frozen=True, eq=False)
class StampStream:
    """Rows of a store with their given labels, to be streamed epoch by epoch; see `open_stream`.

    Attributes
    ----------
    store : Store
    rows : ndarray, shape (n,), int64
        Rising, each once.
    label_given : ndarray, shape (n,), int8
    noise_adu : ndarray, shape (n,), float32
    channel_order : tuple of int
        The store's channels in the order of `schema.CHANNELS`.
    config : StreamConfig
    """

    store: Store
    rows: np.ndarray
    label_given: np.ndarray
    noise_adu: np.ndarray
    channel_order: tuple[int, ...]
    config: StreamConfig

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, number: int, *, part: int = 0, n_parts: int = 1) -> Iterator[Batch]:
        """The batches of one epoch: every row once, in an order drawn from the seed and the epoch.

        The rows wanted are cut into runs, neighbours in the store. A buffer is filled with one random run
        of each stretch of the store, so that it is a fair sample of all frames, and emptied in an order in
        which every stretch has both labels (`stratified_order`). What is in a batch does not depend on
        `n_parts`.

        Parameters
        ----------
        number : int
            Of the epoch, from 0.
        part, n_parts : int
            Only every `n_parts`-th buffer from `part` on, for workers that share an epoch.

        Yields
        ------
        Batch

        Raises
        ------
        InputError
            If the store is damaged.
        """
        groups = self._groups(number)[part::n_parts]
        if not groups:
            return
        size = schema.STAMP_SIZE_PIX
        n_most = max(sum(last - first for first, last in group) for group in groups)
        # Channels last, as the networks want them; the one large array of the process.
        buffer = np.empty((n_most, size, size, len(self.channel_order)), np.float32)
        with ThreadPoolExecutor(self.config.n_readers) as readers:
            for index, group in enumerate(groups):
                edges = np.cumsum([0, *(last - first for first, last in group)])
                slots = [buffer[start:end] for start, end in pairwise(edges)]
                load = map if self.config.n_readers == 1 else readers.map
                deque(load(self._load, group, slots), maxlen=0)
                label = np.concatenate([self.label_given[first:last] for first, last in group])
                rng = stream(self.config.seed, "train", number, part + index * n_parts)
                yield from _batches(buffer, label, batch_size=self.config.batch_size, rng=rng)

    def _groups(self, number: int) -> list[list[tuple[int, int]]]:
        """Runs of each buffer, as ranges within `rows`."""
        run = self.rows // self.config.run_stamps
        first = np.flatnonzero(np.diff(run, prepend=-1))
        last = np.append(first[1:], len(run))
        n_groups = -(-len(self.rows) // self.config.buffer_stamps)
        rng = stream(self.config.seed, "train", number)
        groups: list[list[tuple[int, int]]] = [[] for _ in range(n_groups)]
        for start in range(0, len(first), n_groups):  # one run of each stretch to every buffer
            stretch = rng.permutation(np.arange(start, min(start + n_groups, len(first))))
            for group, index in zip(rng.permutation(n_groups), stretch, strict=False):
                groups[group].append((int(first[index]), int(last[index])))
        return [group for group in groups if group]

    def _load(self, run: tuple[int, int], out: np.ndarray) -> None:
        """Read and normalise a run into its place in the buffer, shape (n, y, x, channel)."""
        rows = self.rows[slice(*run)]
        first = int(rows[0]) // schema.CHUNK_STAMPS * schema.CHUNK_STAMPS
        last = min(-(-(int(rows[-1]) + 1) // schema.CHUNK_STAMPS) * schema.CHUNK_STAMPS, self.store.n_stamps)
        raw = np.empty((last - first, out.shape[3], *out.shape[1:3]), np.float32)
        self.store.read_run(first, raw)
        wanted = raw if len(rows) == len(raw) else raw[rows - first]
        if self.channel_order != tuple(range(len(schema.CHANNELS))):
            wanted = wanted[:, self.channel_order]
        noise_adu = self.noise_adu[slice(*run)]
        for start in range(0, len(rows), _PIECE):
            piece = slice(start, start + _PIECE)
            normalise(
                wanted[piece],
                method=self.config.normalisation,
                noise_adu=noise_adu[piece],
                out=out[piece].transpose(0, 3, 1, 2),
            )


def open_stream(
    store: Store,
    *,
    rows: np.ndarray | None = None,
    label_given: np.ndarray | None = None,
    config: StreamConfig | None = None,
) -> StampStream:
    """Stream some rows of a store, or all of them.

    Parameters
    ----------
    store : Store
    rows : ndarray, shape (n,), integer, optional
        Rows to use, e.g. `Split.rows("train")`; in any order, which does not matter.
    label_given : ndarray, shape (n,), integer, optional
        Given label of each of `rows`, 1 real, 0 bogus, -1 unlabelled; default: the store's ``label_given``.
    config : StreamConfig, optional

    Raises
    ------
    InputError
        If there are no rows, one is given twice or not in the store, if labels do not fit, or if the store
        lacks a channel.
    """
    config = config or StreamConfig()
    wanted = np.arange(store.n_stamps) if rows is None else np.asarray(rows)
    if not wanted.size:
        raise InputError(f"{store.path}: no rows to stream; choose others")
    order = np.argsort(wanted, kind="stable")
    ordered = wanted[order].astype(np.int64)
    if ordered[0] < 0 or ordered[-1] >= store.n_stamps:
        raise InputError(
            f"{store.path}: has {store.n_stamps} stamps, rows {ordered[0]} to {ordered[-1]} were asked for"
        )
    if np.any(np.diff(ordered) == 0):
        raise InputError(f"{store.path}: row {ordered[:-1][np.diff(ordered) == 0][0]} was given twice")
    if label_given is None:
        label = store.column("label_given")[ordered]
    elif len(label_given) == len(wanted):
        label = np.asarray(label_given)[order]
    else:
        raise InputError(
            f"{store.path}: {len(label_given)} labels for {len(wanted)} rows; give one label per row"
        )
    names = list(store.attributes["channels"])
    missing = [name for name in schema.CHANNELS if name not in names]
    if missing:
        raise InputError(f"{store.path}: has channels {', '.join(names)}, lacks {', '.join(missing)}")
    return StampStream(
        store=store,
        rows=ordered,
        label_given=label.astype(np.int8),
        noise_adu=store.column("noise_adu")[ordered].astype(np.float32),
        channel_order=tuple(names.index(name) for name in schema.CHANNELS),
        config=config,
    )


def _batches(
    buffer: np.ndarray, label_given: np.ndarray, *, batch_size: int, rng: np.random.Generator
) -> Iterator[Batch]:
    order = stratified_order(label_given, rng=rng)
    for chosen in np.array_split(order, -(-len(order) // batch_size)):
        stamps = torch.from_numpy(buffer[chosen]).permute(0, 3, 1, 2)  # (b, 3, 29, 29), channels_last
        yield Batch(stamps, torch.from_numpy(label_given[chosen].astype(np.int64)))


class StreamDataset(IterableDataset):
    """A `StampStream` for torch's DataLoader, whose workers share the buffers of an epoch.

    Use `make_loader`: zarr deadlocks in forked workers, which are refused. The order is the same for the
    same seed, epoch and number of workers.

    Parameters
    ----------
    stamps : StampStream
    """

    def __init__(self, stamps: StampStream) -> None:
        self.stamps = stamps
        # Shared memory: workers that stay alive between epochs see it too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._process = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._process = os.getpid()  # a spawned worker comes here, a forked one does not

    def set_epoch(self, number: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self._epoch[0] = number

    def __iter__(self) -> Iterator[Batch]:
        if os.getpid() != self._process:
            raise InputError("the workers of a stream are forked, and zarr deadlocks there; use make_loader")
        worker = get_worker_info()
        part, n_parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self.stamps.epoch(int(self._epoch[0]), part=part, n_parts=n_parts)


def make_loader(dataset: StreamDataset, *, n_workers: int, **loader: Any) -> DataLoader:
    """A DataLoader of whole batches with spawned workers, never forked ones.

    Parameters
    ----------
    dataset : StreamDataset
    n_workers : int
        0 reads in this process. Each worker has a buffer of its own; more workers than buffers idle.
    **loader
        For torch's DataLoader, e.g. ``persistent_workers``.
    """
    context = "spawn" if n_workers else None
    return DataLoader(
        dataset, batch_size=None, num_workers=n_workers, multiprocessing_context=context, **loader
    )
