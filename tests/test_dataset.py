"""Normalisation, the recipes' view of the data, and batches."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rbmodel.dataset import (
    Batch,
    TrainingSet,
    empty_stamps,
    load_stamps,
    make_batches,
    make_tensor,
    normalise,
    stratified_order,
    turned,
)
from rbsim.errors import InputError


@pytest.fixture
def stamps():
    return np.random.default_rng(0).normal(20, 5, (4, 3, 29, 29)).astype(np.float32)


def test_a_recipe_sees_pixels_given_labels_and_groups_only():
    assert [field.name for field in dataclasses.fields(TrainingSet)] == ["stamps", "label_given", "group"]


def test_minmax_fills_the_unit_interval_per_stamp_and_channel(stamps):
    scaled = normalise(stamps, method="minmax")
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled.min(axis=(2, 3)), 0)
    np.testing.assert_array_equal(scaled.max(axis=(2, 3)), 1)


def test_minmax_forgets_the_unit_and_asinh_does_not(stamps):
    noise = np.full(4, 5.0)
    np.testing.assert_allclose(
        normalise(3 * stamps + 7, method="minmax"), normalise(stamps, method="minmax"), atol=1e-5
    )
    bright, faint = (normalise(k * stamps, method="asinh", noise_adu=noise) for k in (3, 1))
    assert np.mean(bright) > np.mean(faint) + 0.5


@pytest.mark.parametrize("method", ["minmax", "asinh"])
def test_missing_pixels_become_zero_and_change_no_other(stamps, method):
    holes = stamps.copy()
    holes[:, :, :5] = np.nan
    holes[:, :, 5, 0] = np.inf
    noise = np.full(4, 5.0)
    scaled = normalise(holes, method=method, noise_adu=noise)
    assert np.all(np.isfinite(scaled))
    assert np.all(scaled[:, :, :5] == 0)
    expected = normalise(holes[:, :, 6:], method=method, noise_adu=noise)
    if method == "asinh":
        np.testing.assert_array_equal(scaled[:, :, 6:], expected)
    assert scaled[:, :, 6:].max() > 0.5


@pytest.mark.parametrize("method", ["minmax", "asinh"])
def test_stamps_with_holes_among_others_change_none_and_the_result_can_have_the_channels_last(method):
    stamps = np.random.default_rng(1).normal(20, 5, (6, 3, 29, 29)).astype(np.float32)
    stamps[1, 0, 3:7] = np.nan
    stamps[4, 2] = np.inf
    noise = np.full(6, 5.0)
    together = normalise(stamps, method=method, noise_adu=noise)
    alone = [normalise(s[None], method=method, noise_adu=noise[:1])[0] for s in stamps]
    np.testing.assert_array_equal(together, alone)
    out = np.empty((6, 29, 29, 3), np.float32).transpose(0, 3, 1, 2)
    assert normalise(stamps, method=method, noise_adu=noise, out=out) is out
    np.testing.assert_array_equal(out, together)


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan])
def test_a_constant_or_empty_channel_becomes_zero(stamps, value):
    stamps[1, 2] = value
    scaled = normalise(stamps, method="minmax")
    assert np.all(scaled[1, 2] == 0)
    assert scaled[1, 1].max() == 1


def test_asinh_is_in_units_of_the_noise(stamps):
    noise = np.array([1.0, 2.0, 5.0, 10.0])
    expected = np.arcsinh(stamps / noise[:, None, None, None])
    np.testing.assert_allclose(normalise(stamps, method="asinh", noise_adu=noise), expected, rtol=1e-6)


def test_unusable_normalisations_are_refused(stamps):
    with pytest.raises(InputError, match="normalisation is 'l2'; choose one of minmax, asinh"):
        normalise(stamps, method="l2")
    with pytest.raises(InputError, match="needs one noise_adu per stamp"):
        normalise(stamps, method="asinh")
    with pytest.raises(InputError, match="not positive for 2 of 4 stamps"):
        normalise(stamps, method="asinh", noise_adu=np.array([1, np.nan, 0, 2]))


def test_loading_keeps_the_order_asked_for(synthetic_store):
    rows = np.array([5, 900, 3, 1700])
    loaded = load_stamps(synthetic_store, rows, normalisation="minmax")
    expected = normalise(synthetic_store.read_stamps(rows), method="minmax")
    np.testing.assert_array_equal(loaded, expected)


def test_a_training_set_needs_equal_lengths(stamps):
    with pytest.raises(InputError, match="has 4 stamps, 3 labels and 4 groups"):
        TrainingSet(stamps, np.zeros(3, np.int8), np.zeros(4, np.int32))


def test_with_labels_leaves_the_original_alone(stamps):
    data = TrainingSet(stamps, np.zeros(4, np.int8), np.arange(4))
    changed = data.with_labels(np.ones(4))
    assert np.all(data.label_given == 0)
    assert np.all(changed.label_given == 1)
    assert changed.subset(np.array([2, 3])).group.tolist() == [2, 3]


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=80, deadline=None)
def test_every_stretch_has_its_share_of_each_label(counts, width, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(labels, rng=np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    width = min(width, len(labels))
    for start in range(len(labels) - width + 1):
        for label, count in enumerate(counts):
            share = width * count / len(labels)
            found = np.sum(labels[order[start : start + width]] == label)
            # Each label has one sample per cell of its own grid, a stretch cuts two cells of each grid.
            assert abs(found - share) <= 2 + 2 * len(counts) * count / len(labels) + 1e-9


def test_batches_hold_every_sample_once_in_fast_memory_order():
    stamps = make_tensor(np.arange(70 * 3 * 29 * 29, dtype=np.float32).reshape(70, 3, 29, 29))
    labels = torch.tensor([1] * 15 + [0] * 55)
    batches = list(make_batches(stamps, labels, batch_size=24, rng=np.random.default_rng(0)))
    assert [len(batch.label_given) for batch in batches] == [24, 23, 23]
    firsts = torch.cat([batch.stamps[:, 0, 0, 0] for batch in batches])
    assert torch.equal(torch.sort(firsts).values, stamps[:, 0, 0, 0])
    for batch in batches:
        assert batch.stamps.is_contiguous(memory_format=torch.channels_last)
        assert set(batch.label_given.tolist()) == {0, 1}
        # Pixels stay with their labels.
        number = (batch.stamps[:, 0, 0, 0] / (3 * 29 * 29)).round().long()
        assert torch.equal(labels[number], batch.label_given)


def test_epochs_of_one_generator_differ_and_seeds_repeat():
    stamps, labels = make_tensor(np.zeros((40, 3, 29, 29), np.float32)), torch.tensor([0, 1] * 20)

    def labels_of(rng):
        return torch.cat([b.label_given for b in make_batches(stamps, labels, batch_size=8, rng=rng)])

    rng = np.random.default_rng(1)
    first, second = labels_of(rng), labels_of(rng)
    assert torch.equal(first, labels_of(np.random.default_rng(1)))
    assert not torch.equal(first, second)


def test_stamps_with_channels_last_are_not_copied_and_stay_so_in_a_subset(stamps):
    last = empty_stamps(4)
    last[:] = stamps
    tensor = make_tensor(last)
    assert tensor.data_ptr() == last.ctypes.data
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(tensor, make_tensor(stamps), rtol=0, atol=0)
    chosen = TrainingSet(last, np.zeros(4, np.int8), np.arange(4)).subset(np.array([3, 1]))
    assert chosen.stamps.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(chosen.stamps, stamps[[3, 1]])


def test_turned_stamps_are_the_eight_orientations_each_as_often():
    one = np.random.default_rng(0).normal(size=(1, 3, 29, 29)).astype(np.float32)
    batch = Batch(make_tensor(np.repeat(one, 1600, axis=0)), torch.arange(1600))
    got = turned(batch, rng=np.random.default_rng(1))
    assert torch.equal(got.label_given, batch.label_given)
    assert got.stamps.is_contiguous(memory_format=torch.channels_last)
    eight = [np.rot90(side, k, axes=(2, 3)) for side in (one, one[:, :, :, ::-1]) for k in range(4)]
    counts = [int(np.sum(np.all(got.stamps.numpy() == each, axis=(1, 2, 3)))) for each in eight]
    assert sum(counts) == 1600
    # Each a binomial of 200 +- 13.
    assert min(counts) > 200 - 5 * 13.2
    assert max(counts) < 200 + 5 * 13.2
    again = turned(batch, rng=np.random.default_rng(1))
    assert torch.equal(got.stamps, again.stamps)
