"""Training: learns, repeats bit for bit, restores its best epoch; checkpoints come back or are refused."""

import copy
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rbmodel.checkpoint import load_checkpoint, save_checkpoint
from rbmodel.dataset import Batch, TrainingSet, normalise
from rbmodel.losses import absolute_error, cross_entropy_loss
from rbmodel.networks import make_network
from rbmodel.recipes.unlabelled import LossTerms, semi_supervised_loss
from rbmodel.train import TrainConfig, fit, predict
from rbmodel.train_config import choose_precision
from rbsim.errors import InputError

# Threads that share cores with other work wait for each other; these fits are too small for two.
torch.set_num_threads(1)

FAST = TrainConfig(n_epochs=4, batch_size=32)


def _data(n, *, seed=0):
    """Stars of S/N about 10 and pure noise, half each."""
    rng = np.random.default_rng(seed)
    label = (np.arange(n) % 2).astype(np.int8)
    y, x = np.mgrid[:29, :29] - 14
    star = np.exp(-(x**2 + y**2) / 4.5)
    stamps = rng.normal(0, 1, (n, 3, 29, 29))
    stamps[:, 1:] += label[:, None, None, None] * 3 * star
    return TrainingSet(normalise(stamps.astype(np.float32), method="minmax"), label, np.arange(n) % 10)


@pytest.fixture(scope="module")
def data():
    return _data(256, seed=1), _data(64, seed=2), _data(400, seed=3)


def _network(seed=0, name="simple"):
    return make_network(name, generator=torch.Generator().manual_seed(seed))


def _fit(data, config=FAST, *, seed=0, loss=cross_entropy_loss, progress=None):
    network = _network()
    return network, fit(network, data[0], data[1], loss, config, seed=seed, progress=progress)


def test_the_network_learns_and_bfloat16_ranks_like_float32(data):
    network, result = _fit(data, TrainConfig(n_epochs=8, batch_size=32))
    test = data[2]
    rounded = predict(network, test.stamps, precision="bfloat16")
    exact = predict(network, test.stamps, precision="float32")
    assert rounded.dtype == exact.dtype == np.float32
    assert roc_auc_score(test.label_given, exact) > 0.95
    assert roc_auc_score(test.label_given, rounded) == pytest.approx(
        roc_auc_score(test.label_given, exact), abs=2e-3
    )
    # bfloat16 logits would have some hundred distinct values at most.
    assert len(np.unique(rounded)) > 0.98 * len(test)
    assert result.train_loss[-1] < result.train_loss[0]


@pytest.mark.parametrize(("name", "n_epochs"), [("simple", 40), ("complex", 10), ("compact", 40)])
def test_networks_overfit_32_stamps(name, n_epochs):
    few, network = _data(32), _network(name=name)
    config = TrainConfig(n_epochs=n_epochs, batch_size=8, learning_rate=5e-4, patience=n_epochs)
    result = fit(network, few, few, cross_entropy_loss, config, seed=0)
    assert result.train_loss[-1] < 0.1
    assert np.array_equal(predict(network, few.stamps) >= 0, few.label_given == 1)


def test_same_seed_same_weights_other_seed_others(data):
    runs = []
    for seed in (3, 3, 4):
        torch.rand(5)  # what else draws from the global generator must not matter
        runs.append(_fit(data, seed=seed))
    for one, same, other in zip(*(network.parameters() for network, _ in runs), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    assert runs[0][1].train_loss == runs[1][1].train_loss


def test_global_random_states_are_left_alone(data):
    torch.manual_seed(11)
    before, before_numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    _fit(data)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002


def test_the_best_epoch_is_restored_and_patience_stops(data):
    train, _, _ = data
    # Labels opposite to the training's: the first epoch is the least wrong one.
    validation = data[1].with_labels(1 - data[1].label_given)
    network = _network()
    config = TrainConfig(n_epochs=12, batch_size=32, patience=2, precision="float32")
    result = fit(network, train, validation, cross_entropy_loss, config, seed=0)
    assert result.n_epochs == result.best_epoch + 3 < 12
    assert result.validation_loss[result.best_epoch] == min(result.validation_loss)
    with torch.no_grad():
        logits = network(torch.from_numpy(validation.stamps))
    error = float(absolute_error(logits, torch.from_numpy(validation.label_given)))
    assert error == pytest.approx(result.validation_loss[result.best_epoch], rel=1e-5)


def _interrupted(data, path, *, after, config, stage2=False):
    """Stop in the epoch after `after`, then go on from the file."""

    class StopError(Exception):
        pass

    def stop(_what, done, _total):
        if done == after:
            raise StopError

    with pytest.raises(StopError):
        _kept(data, path, config, stage2=stage2, progress=stop)
    torch.rand(3)
    return _kept(data, path, config, stage2=stage2)


def _kept(data, path, config, *, stage2=False, progress=None):
    generator = torch.Generator().manual_seed(5)
    terms = LossTerms(vat_fraction=0.5)
    loss = semi_supervised_loss(terms, generator=generator) if stage2 else cross_entropy_loss
    network = _network()
    return network, fit(
        network, data[0], data[1], loss, config,
        seed=3, progress=progress, checkpoint=path, generators=[generator],
    )  # fmt: skip


@pytest.mark.parametrize("stage2", [False, True])
def test_an_interrupted_training_ends_with_the_same_bits(data, tmp_path, stage2):
    config = TrainConfig(n_epochs=4, batch_size=64, augment=True)
    whole, result = _kept(data, None, config, stage2=stage2)
    other, resumed = _interrupted(data, tmp_path / "state.pt", after=2, config=config, stage2=stage2)
    for one, same in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
    assert resumed.train_loss == result.train_loss
    assert resumed.validation_loss == result.validation_loss
    calls = []
    again, _ = _kept(data, tmp_path / "state.pt", config, stage2=stage2, progress=lambda *c: calls.append(c))
    assert calls == []  # nothing was left to do
    for one, same in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, same)
    assert list(tmp_path.iterdir()) == [tmp_path / "state.pt"]


def test_a_training_that_stopped_early_does_not_go_on(data, tmp_path):
    opposite = (data[0], data[1].with_labels(1 - data[1].label_given))
    config = TrainConfig(n_epochs=12, batch_size=64, patience=1)
    _, result = _kept(opposite, tmp_path / "state.pt", config)
    _, again = _kept(opposite, tmp_path / "state.pt", config)
    assert again.validation_loss == result.validation_loss
    assert result.n_epochs < 12


def test_a_foreign_or_damaged_state_is_refused(data, tmp_path):
    path = tmp_path / "state.pt"
    _kept(data, path, FAST)
    with pytest.raises(InputError, match="belongs to a training with other data"):
        _kept(data, path, TrainConfig(n_epochs=4, batch_size=64))
    with pytest.raises(InputError, match="belongs to a training with other data"):
        _kept((data[0].with_labels(1 - data[0].label_given), data[1]), path, FAST)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="is not a readable state of a training"):
        _kept(data, path, FAST)


def test_orientations_are_switched_on_by_the_config_and_change_the_result(data):
    plain, turned = (_fit(data, TrainConfig(n_epochs=2, augment=augment))[0] for augment in (False, True))
    assert not torch.equal(plain.head[0].weight, turned.head[0].weight)


def test_optimisers_and_a_constant_rate_do_what_they_say(data):
    config = TrainConfig(n_epochs=1, batch_size=256, optimiser="sgd", constant_rate=True, precision="float32")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 29 * 29, 2))
    before = copy.deepcopy(network)
    fit(network, data[0], data[1], cross_entropy_loss, config, seed=0)
    batch = Batch(torch.from_numpy(data[0].stamps), torch.from_numpy(data[0].label_given.astype(np.int64)))
    cross_entropy_loss(before, batch).backward()
    for got, start in zip(network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(got.detach(), (start - 1e-3 * start.grad).detach(), rtol=1e-5, atol=1e-7)
    assert config.rate_factor(0.0) == config.rate_factor(0.99) == 1
    falling = TrainConfig(warmup=0.1)
    assert falling.rate_factor(0.05) == 0.5
    assert falling.rate_factor(1.0) == pytest.approx(0)


@pytest.mark.parametrize(
    ("amx", "expected"), [({"amx_bf16": True}, "bfloat16"), ({"amx_bf16": False}, "float32"), ({}, "float32")]
)
def test_auto_precision_of_a_processor(monkeypatch, amx, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: amx)
    assert choose_precision("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_auto_precision_of_a_gpu(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_options: native)
    assert choose_precision("auto", torch.device("cuda")) == expected


def test_float16_is_refused_on_a_processor(data):
    with pytest.raises(InputError, match="precision is 'float16', which needs a GPU"):
        _fit(data, TrainConfig(precision="float16"))


def test_progress_counts_epochs(data):
    calls = []
    _fit(data, progress=lambda *call: calls.append(call))
    assert calls == [("epoch", done, 4) for done in (1, 2, 3, 4)]


def test_a_loss_that_is_not_finite_stops_training(data):
    def broken(network, batch):
        return cross_entropy_loss(network, batch) * float("inf")

    with pytest.raises(FloatingPointError, match="not finite in epoch 0"):
        _fit(data, loss=broken)


@pytest.mark.parametrize("which", ["training", "validation"])
def test_a_set_without_a_class_is_refused(data, which):
    sets = {"training": data[0], "validation": data[1]}
    sets[which] = sets[which].with_labels(np.ones(len(sets[which])))
    with pytest.raises(InputError, match=f"the {which} set has .* 0 given bogus"):
        fit(_network(), sets["training"], sets["validation"], cross_entropy_loss, FAST, seed=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_epochs", 0, "n_epochs is 0; it must be at least 1"),
        ("learning_rate", 0.0, "learning_rate is 0.0"),
        ("warmup", 1.0, "warmup is 1.0"),
        ("precision", "float8", "precision is 'float8'; choose one of auto, bfloat16, float16, float32"),
        ("device", "tpu", "device is 'tpu'; choose one of auto, cpu, cuda"),
    ],
)
def test_unusable_configurations_are_refused(field, value, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**{field: value})


def test_prediction_keeps_the_mode_and_does_not_depend_on_the_batch_size(data):
    network = _network().train()
    stamps = data[2].stamps
    whole = predict(network, stamps, precision="float32")
    assert network.training
    np.testing.assert_allclose(whole, predict(network, stamps, precision="float32", batch_size=7), atol=1e-5)
    assert predict(network, stamps[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["simple", "complex"])
def test_a_checkpoint_gives_the_same_scores(tmp_path, data, name):
    network, stamps = _network(name=name), data[2].stamps[:8]
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, normalisation="asinh", details={"run_id": "a"})
    loaded = load_checkpoint(path, network=name)
    assert loaded.normalisation == "asinh"
    assert loaded.details == {"run_id": "a"}
    assert not loaded.network.training
    np.testing.assert_array_equal(predict(network, stamps), predict(loaded.network, stamps))


def test_foreign_and_broken_checkpoints_are_refused(tmp_path):
    path, sidecar = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_checkpoint(path, _network(), normalisation="minmax")
    with pytest.raises(InputError, match="holds the network 'simple', not complex"):
        load_checkpoint(path, network="complex")
    content = json.loads(sidecar.read_text())
    for change, message in (
        ({"network": "complex"}, "its weights are not those of the network 'complex'"),
        ({"network": "resnet"}, "holds the network 'resnet', not simple or complex"),
        ({"version": 99}, "has checkpoint version 99"),
        ({"channels": ["science"]}, "other channels"),
    ):
        sidecar.write_text(json.dumps(content | change))
        with pytest.raises(InputError, match=message):
            load_checkpoint(path)
    sidecar.write_text(json.dumps(content))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="is not a readable checkpoint"):
        load_checkpoint(path)
    with pytest.raises(InputError, match="is not a readable checkpoint"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_small_sets_get_more_epochs_and_as_much_more_patience():
    config = TrainConfig(n_epochs=10, patience=3, min_steps=400, batch_size=50)
    assert config.schedule(n_stamps=100) == (200, 60)
    assert config.schedule(n_stamps=100_000) == (10, 3)
