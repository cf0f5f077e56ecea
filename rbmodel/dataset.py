"""Stamps of a store as normalised arrays, the value that recipes see, and its batches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rbsim import schema
from rbsim.errors import InputError
from rbsim.store import Store

N_CHANNELS = len(schema.CHANNELS)
NORMALISATIONS = ("minmax", "asinh", "raw")


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """All that a recipe may know of its samples: pixels, given labels, groups; never the truth.

    Attributes
    ----------
    stamps : ndarray, shape (n, 3, 29, 29), float32
        Normalised, finite.
    label_given : ndarray, shape (n,), int8
        1 real, 0 bogus, -1 unlabelled.
    group : ndarray, shape (n,), int32
        Samples of one group may share sky or exposure: keep them together.
    """

    stamps: np.ndarray
    label_given: np.ndarray
    group: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.stamps) == len(self.label_given) == len(self.group):
            raise InputError(
                f"a training set has {len(self.stamps)} stamps, {len(self.label_given)} labels and"
                f" {len(self.group)} groups; give one of each per sample"
            )

    def __len__(self) -> int:
        return len(self.stamps)

    def subset(self, chosen: np.ndarray) -> "TrainingSet":
        """The samples of a boolean mask or an index array."""
        # By the view with channels last, so that the chosen ones keep that order.
        stamps = self.stamps.transpose(0, 2, 3, 1)[chosen].transpose(0, 3, 1, 2)
        return TrainingSet(stamps, self.label_given[chosen], self.group[chosen])

    def with_labels(self, label_given: np.ndarray) -> "TrainingSet":
        """The same samples with other given labels."""
        return TrainingSet(self.stamps, np.asarray(label_given, np.int8), self.group)


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's samples.

    Attributes
    ----------
    stamps : Tensor, shape (b, 3, 29, 29), float32, channels_last
    label_given : Tensor, shape (b,), int64
    """

    stamps: torch.Tensor
    label_given: torch.Tensor


def normalise(
    stamps: np.ndarray,
    *,
    method: str,
    noise_adu: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Scale stamps for the networks.

    ``minmax`` maps each channel of each stamp to [0, 1], as the authors do. Pixels without a value
    (outside the frame, masked) do not take part and get the level of 0 ADU, the subtracted background: as
    the darkest pixels of the stamp they would show the network every mask. A constant or empty channel
    becomes 0.

    ``asinh`` is arcsinh(pixel / noise) and keeps what min-max throws away: the signal-to-noise ratio
    and the flux ratio of the channels. Pixels without a value become 0, the subtracted background.

    ``raw`` leaves ADU as they are, for networks that scale inside as the authors' do; pixels without a value
    become 0.

    Parameters
    ----------
    stamps : ndarray, shape (n, channel, y, x), float32
        Background-subtracted, ADU; NaN or infinite where there is no pixel.
    method : str
        One of `NORMALISATIONS`.
    noise_adu : ndarray, shape (n,)
        Noise per stamp, for ``asinh``.
    out : ndarray, same shape, float32, optional
        Where to write; in any order of memory.

    Returns
    -------
    ndarray
        Same shape, float32, finite; `out`, if given.

    Raises
    ------
    InputError
        If the method is not known or a noise is missing or not positive.
    """
    scaled = np.empty(stamps.shape, np.float32) if out is None else out
    if method == "minmax":
        _minmax(stamps, scaled)
        return scaled
    if method == "raw":
        np.copyto(scaled, np.nan_to_num(stamps, nan=0.0, posinf=0.0, neginf=0.0))
        return scaled
    if method == "asinh":
        if noise_adu is None or len(noise_adu) != len(stamps):
            raise InputError("normalisation asinh needs one noise_adu per stamp; use minmax")
        n_wrong = int(np.sum(~(np.isfinite(noise_adu) & (noise_adu > 0))))
        if n_wrong:
            raise InputError(
                f"noise_adu is not positive for {n_wrong} of {len(stamps)} stamps; use normalisation minmax"
            )
        valid = np.isfinite(stamps)
        in_noise = np.where(valid, stamps, 0) / np.asarray(noise_adu)[:, None, None, None]
        scaled[:] = np.where(valid, np.arcsinh(in_noise), 0)
        return scaled
    raise InputError(f"normalisation is {method!r}; choose one of {', '.join(NORMALISATIONS)}")


def _minmax(stamps: np.ndarray, out: np.ndarray) -> None:
    """Nearly all stamps have a value at every pixel: four passes over them; the others are done once more."""
    with np.errstate(all="ignore"):
        low, high = (pick(stamps, axis=(2, 3), keepdims=True) for pick in (np.min, np.max))
        spread = high - low
        # Channel by channel: thrice as fast where `out` has the channels last.
        for channel in range(stamps.shape[1]):
            shifted = stamps[:, channel] - low[:, channel]
            np.divide(shifted, spread[:, channel], out=out[:, channel], casting="same_kind")
    rest = ~np.all(np.isfinite(spread) & (spread > 0), axis=(1, 2, 3))
    if rest.any():
        out[rest] = _minmax_with_holes(stamps[rest])


def _minmax_with_holes(stamps: np.ndarray) -> np.ndarray:
    valid = np.isfinite(stamps)
    low = np.where(valid, stamps, np.inf).min(axis=(2, 3), keepdims=True)
    high = np.where(valid, stamps, -np.inf).max(axis=(2, 3), keepdims=True)
    spread = high - low
    # An empty channel has low = inf and high = -inf, so the guard covers it too.
    usable = spread > 0
    scaled = (np.where(valid, stamps, 0) - np.where(usable, low, 0)) / np.where(usable, spread, 1)
    return np.where(usable, np.clip(scaled, 0, 1), 0).astype(np.float32)


def load_stamps(store: Store, rows: np.ndarray, *, normalisation: str) -> np.ndarray:
    """Normalised stamps of a store, shard by shard.

    Parameters
    ----------
    store : Store
    rows : ndarray, shape (n,), integer
    normalisation : str
        See `normalise`.

    Returns
    -------
    ndarray, shape (n, 3, 29, 29), float32
        In the order of `rows`; channels in the order of `schema.CHANNELS`, whatever the store's.

    Raises
    ------
    InputError
        If the store lacks a channel, or from `normalise`.
    """
    names = list(store.attributes["channels"])
    missing = [name for name in schema.CHANNELS if name not in names]
    if missing:
        raise InputError(
            f"{store.path}: has channels {', '.join(names)}, lacks {', '.join(missing)}; inject again"
        )
    channel_order = [names.index(name) for name in schema.CHANNELS]
    noise_adu = store.column("noise_adu")
    out = empty_stamps(len(rows))
    # One shard's rows at a time: the raw copy stays small beside the normalised one.
    shard = rows // schema.SHARD_STAMPS
    for number in np.unique(shard):
        here = np.flatnonzero(shard == number)
        raw = store.read_stamps(rows[here])[:, channel_order]
        out[here] = normalise(
            raw, method=normalisation, noise_adu=noise_adu[rows[here]], out=empty_stamps(len(here))
        )
    return out


def empty_stamps(n_stamps: int) -> np.ndarray:
    """Uninitialised stamps, shape (n, 3, 29, 29), float32, whose channels lie together in memory.

    That is the order in which networks compute: `make_tensor` need not copy.
    """
    return np.empty((n_stamps, *schema.STAMP_SHAPE[1:], N_CHANNELS), np.float32).transpose(0, 3, 1, 2)


def make_tensor(stamps: np.ndarray) -> torch.Tensor:
    """Stamps, shape (n, 3, 29, 29), as a channels_last tensor; not copied if they are in that order."""
    channels_last = np.ascontiguousarray(stamps.transpose(0, 2, 3, 1))
    return torch.from_numpy(channels_last).permute(0, 3, 1, 2)


def stratified_order(label_given: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every stretch has nearly the same share of each label.

    Each label's samples are shuffled and spread evenly, with a random offset each, over the order. A
    stretch of b samples holds its share of each label to within a few samples, so that a batch has both
    classes for the AUC loss unless a class has only a few samples per batch.

    Parameters
    ----------
    label_given : ndarray, shape (n,), integer
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (n,), integer
        A permutation.
    """
    position = np.empty(len(label_given))
    for label in np.unique(label_given):
        members = rng.permutation(np.flatnonzero(label_given == label))
        position[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
    return np.argsort(position, kind="stable")


def make_batches(
    stamps: torch.Tensor, label_given: torch.Tensor, *, batch_size: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch of batches of nearly equal size (at most `batch_size`), each sample once.

    Parameters
    ----------
    stamps : Tensor, shape (n, 3, 29, 29)
        See `make_tensor`.
    label_given : Tensor, shape (n,), int64
    batch_size : int
    rng : numpy.random.Generator
        Draws the order, see `stratified_order`.

    Yields
    ------
    Batch
    """
    order = stratified_order(label_given.cpu().numpy(), rng=rng)
    # Equal sizes: a remainder of a few samples would make one noisy step per epoch.
    for chosen in np.array_split(order, math.ceil(len(order) / batch_size)):
        index = torch.from_numpy(chosen).to(stamps.device)
        # Gathering rows of the (n, y, x, c) view keeps the memory order that the convolutions want.
        batch = stamps.permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)  # (b, 3, 29, 29)
        yield Batch(batch, label_given[index])


def turned(batch: Batch, *, rng: np.random.Generator) -> Batch:
    """The same samples, each stamp in a random one of the eight orientations of a square.

    The sky has no preferred direction: turning and mirroring makes other stamps of the same kind. All
    channels of a stamp turn together.

    Parameters
    ----------
    batch : Batch
    rng : numpy.random.Generator
    """
    flip_y, flip_x, swap = (torch.from_numpy(bits) for bits in rng.random((3, len(batch.stamps))) < 0.5)
    stamps = batch.stamps.permute(0, 2, 3, 1).contiguous()  # (b, y, x, 3)
    for chosen, turn in (
        (flip_y, lambda part: part.flip(1)),
        (flip_x, lambda part: part.flip(2)),
        (swap, lambda part: part.transpose(1, 2)),
    ):
        here = chosen.to(stamps.device)[:, None, None, None]
        stamps = torch.where(here, turn(stamps), stamps)
    # The memory order of what a mirrored or transposed view gives is torch's choice.
    return Batch(stamps.contiguous().permute(0, 3, 1, 2), batch.label_given)
