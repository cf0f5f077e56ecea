"""Streaming: every row once, in the seed's order, well mixed, in bounded memory, without a deadlock."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_store import partition

from rbmodel.dataset import TrainingSet, load_stamps, normalise
from rbmodel.losses import cross_entropy_loss
from rbmodel.networks import make_network
from rbmodel.stream import StreamConfig, StreamDataset, make_loader, open_stream
from rbmodel.train import TrainConfig, fit
from rbsim import build
from rbsim.errors import InputError
from rbsim.pack import finalise

N_FRAMES, PER_FRAME = 16, 320
N = N_FRAMES * PER_FRAME
SMALL = StreamConfig(batch_size=64, buffer_stamps=1024)


def number_store(path, n_frames=N_FRAMES, per_frame=PER_FRAME):
    """A store whose stamps tell their row, sorted by frame and, in each frame, by label."""
    build.init(path, config={}, inputs=[str(i) for i in range(n_frames)], summary={})
    for frame in range(n_frames):
        part = partition(per_frame, n_truth=0, seed=frame, name=f"f{frame}.fits")
        row = frame * per_frame + np.arange(per_frame)
        part.stamps[:] = np.linspace(0, 1, 841).reshape(29, 29)
        part.stamps[:, 0, 14, 14] = row
        part.candidates["noise_adu"][:] = 1
        part.candidates["label_given"][:] = np.arange(per_frame) < per_frame // 4
        build.write_partition(path, frame, part)
    return finalise(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return number_store(tmp_path_factory.mktemp("stream") / "rows.zarr")


def rows_of(batches):
    """The rows in batches, by the pixel that tells them (asinh: sinh gives it back)."""
    return [np.rint(np.sinh(batch.stamps[:, 0, 14, 14].double().numpy())).astype(int) for batch in batches]


def config(**changes):
    return StreamConfig(**{"batch_size": 64, "buffer_stamps": 1024, "normalisation": "asinh"} | changes)


def epoch(store, number=0, *, part=0, n_parts=1, rows=None, **changes):
    stamps = open_stream(store, rows=rows, config=config(**changes))
    return np.concatenate(rows_of(stamps.epoch(number, part=part, n_parts=n_parts)))


def test_every_row_comes_once_per_epoch(store):
    for number in (0, 1, 7):
        np.testing.assert_array_equal(np.sort(epoch(store, number)), np.arange(N))


@pytest.mark.parametrize("n_rows", [1, 63, 700, 4000])
def test_only_the_rows_asked_for_come(store, n_rows):
    rows = np.random.default_rng(n_rows).permutation(N)[:n_rows]
    np.testing.assert_array_equal(np.sort(epoch(store, rows=rows)), np.sort(rows))


def test_chunks_without_a_row_are_not_read(store, monkeypatch):
    read = []
    original = type(store).read_run
    monkeypatch.setattr(
        type(store), "read_run", lambda self, first, out: (read.append(first), original(self, first, out))
    )
    epoch(store, rows=np.array([300, 310, 2600]))
    assert sorted(read) == [256, 2560]


def test_the_order_is_that_of_seed_and_epoch(store):
    first = epoch(store)
    np.testing.assert_array_equal(first, epoch(store))
    for other in (epoch(store, 1), epoch(store, seed=1)):
        assert np.mean(first == other) < 0.01
    np.testing.assert_array_equal(first, epoch(store, rows=np.random.default_rng(0).permutation(N)))
    np.testing.assert_array_equal(first, epoch(store, n_readers=4))


def test_labels_and_pixels_stay_together_and_are_normalised(store):
    label = np.random.default_rng(5).integers(-1, 2, N)
    order = np.random.default_rng(6).permutation(N)
    stamps = open_stream(store, rows=order, label_given=label[order], config=config())
    raw = store.read_stamps()
    for batch in stamps.epoch(3):
        (rows,) = rows_of([batch])
        np.testing.assert_array_equal(batch.label_given, label[rows])
        expected = normalise(raw[rows], method="asinh", noise_adu=np.ones(len(rows), np.float32))
        np.testing.assert_array_equal(batch.stamps, expected)
        assert batch.stamps.is_contiguous(memory_format=torch.channels_last)
        assert (batch.label_given.dtype, batch.stamps.dtype) == (torch.int64, torch.float32)
        assert len(rows) <= 64
    one = next(open_stream(store, config=SMALL).epoch(0)).stamps.numpy()
    assert (one.min(), one.max()) == (0, 1)


def test_neighbours_in_the_store_end_far_apart(store):
    order = epoch(store)
    place = np.argsort(order)
    apart = np.abs(np.diff(place))
    # Two rows put at random lie N / 3 apart; two of a run share a buffer of 1,024: 341 apart.
    assert np.median(apart) > 200
    assert np.mean(apart < 10) < 0.03
    assert abs(np.corrcoef(order, np.arange(N))[0, 1]) < 0.1


def test_a_batch_is_a_fair_sample_of_a_sorted_store(store):
    stamps = open_stream(store, config=config())
    share = np.array([batch.label_given.double().mean() for batch in stamps.epoch(0)])
    assert abs(share.mean() - 0.25) < 0.01
    assert np.all(np.abs(share - 0.25) < 0.2)
    # Without the buffer a batch is of one frame, and every fourth has one label only.
    frames = [len(np.unique(rows // PER_FRAME)) for rows in rows_of(stamps.epoch(0))]
    assert min(frames) >= 4
    large = open_stream(store, config=config(buffer_stamps=4096))
    assert np.std([b.label_given.double().mean() for b in large.epoch(0)]) < np.std(share)


def test_parts_are_the_epoch(store):
    whole = rows_of(open_stream(store, config=config()).epoch(2))
    parts = [rows_of(open_stream(store, config=config()).epoch(2, part=part, n_parts=3)) for part in range(3)]
    assert all(parts)
    assert sorted(rows.tolist() for rows in whole) == sorted(rows.tolist() for p in parts for rows in p)


def test_two_spawned_workers_neither_hang_nor_lose_a_row(store):
    dataset = StreamDataset(open_stream(store, config=config()))
    loader = make_loader(dataset, n_workers=2, persistent_workers=True, timeout=60)
    orders = []
    for number in (0, 1, 0):
        dataset.set_epoch(number)
        orders.append(np.concatenate(rows_of(loader)))
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(N))
    np.testing.assert_array_equal(orders[0], orders[2])
    assert np.mean(orders[0] == orders[1]) < 0.01


def test_without_workers_the_loader_reads_here(store):
    dataset = StreamDataset(open_stream(store, config=config()))
    dataset.set_epoch(4)
    np.testing.assert_array_equal(np.concatenate(rows_of(make_loader(dataset, n_workers=0))), epoch(store, 4))


def test_forked_workers_are_refused(store, monkeypatch):
    dataset = StreamDataset(open_stream(store, config=config()))
    monkeypatch.setattr("os.getpid", lambda: 1)  # a forked worker has the data set and another number
    with pytest.raises(InputError, match="are forked, and zarr deadlocks there; use make_loader"):
        iter(dataset)
    iter(pickle.loads(pickle.dumps(dataset)))


RSS = """
import json, resource, sys
from pathlib import Path
from rbmodel.train import TrainConfig, fit
from rbmodel.stream import StreamConfig, open_stream
from rbsim.store import open_store
stamps = open_stream(open_store(Path(sys.argv[1])), config=StreamConfig(buffer_stamps=1024))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
n = sum(len(batch.label_given) for batch in stamps.epoch(0))
print(json.dumps([n, peak() - before]))
"""


def test_memory_is_that_of_the_buffer_not_of_the_store(tmp_path):
    path = number_store(tmp_path / "large.zarr", n_frames=10, per_frame=2048).path
    out = subprocess.run([sys.executable, "-c", RSS, str(path)], capture_output=True, check=True, text=True)
    n, grown_mb = json.loads(out.stdout)
    assert n == 20_480  # 197 MB of pixels
    assert grown_mb < 60  # a buffer of 10 MB, what is read, and the libraries' own


def test_an_epoch_of_training_runs_from_it(synthetic_store):
    network = make_network("simple", generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    label = synthetic_store.column("label_true")
    rows = np.flatnonzero(label >= 0)
    stamps = open_stream(synthetic_store, rows=rows, label_given=label[rows], config=SMALL)
    means = []
    for number in range(3):
        losses = []
        for batch in stamps.epoch(number):
            loss = cross_entropy_loss(network, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        means.append(np.mean(losses))
    assert means[2] < 0.6 * means[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"run_stamps": 100}, "run_stamps is 100; it must be a multiple of 256"),
        ({"buffer_stamps": 200}, "buffer_stamps is 200, less than a run"),
        ({"seed": -1}, "seed is -1"),
        ({"normalisation": "l2"}, "choose one of minmax, asinh"),
    ],
)
def test_unusable_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        StreamConfig(**changes)


def test_unusable_rows_and_labels_are_refused(store):
    for rows, message in [
        ([], "no rows to stream"),
        ([3, 5, 3], "row 3 was given twice"),
        ([0, N], f"has {N} stamps, rows 0 to {N} were asked for"),
        ([-1], "rows -1 to -1"),
    ]:
        with pytest.raises(InputError, match=message):
            open_stream(store, rows=np.array(rows, int))
    with pytest.raises(InputError, match="2 labels for 3 rows"):
        open_stream(store, rows=np.arange(3), label_given=np.zeros(2))


def test_fit_takes_a_stream_for_training_and_validation(store):
    training = open_stream(store, rows=np.arange(0, N, 2), config=config())
    rows = np.arange(1, 641, 2)
    validation = open_stream(store, rows=rows, config=config())
    whole = TrainingSet(
        load_stamps(store, rows, normalisation="asinh"), validation.label_given, np.zeros(len(rows), np.int32)
    )
    seen, results = [], []

    def loss(network, batch):
        seen.append(batch)
        return cross_entropy_loss(network, batch)

    for held_out in (validation, whole):
        network = make_network("simple", generator=torch.Generator().manual_seed(0))
        results.append(fit(network, training, held_out, loss, TrainConfig(n_epochs=2), seed=0))
    for number in range(2):
        n_batches = len(seen) // 4
        here = np.concatenate(rows_of(seen[number * n_batches : (number + 1) * n_batches]))
        np.testing.assert_array_equal(np.sort(here), np.arange(0, N, 2))
    assert results[0].train_loss == results[1].train_loss
    np.testing.assert_allclose(results[0].validation_loss, results[1].validation_loss, rtol=1e-5)
