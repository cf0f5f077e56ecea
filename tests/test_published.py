"""Every switch of the published code does what it says, and nothing else."""

import dataclasses

import numpy as np
import pytest
import torch

from rbmodel.dataset import TrainingSet, make_tensor, normalise
from rbmodel.layers import FilterResponseNorm
from rbmodel.networks import count_weights, make_network
from rbmodel.published import (
    AS_INTENDED,
    AS_PUBLISHED,
    PUBLISHED_TERMS,
    config_of,
    input_of,
    network_name,
    terms_of,
    train_published,
    validation_of,
)
from rbmodel.recipes.unlabelled import LossTerms
from rbmodel.train import TrainConfig, predict
from rbmodel.vat import smoothness_loss
from rbsim.errors import InputError

torch.set_num_threads(1)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def raw():
    """Stamps in ADU: noise of 20, stars of S/N about 10 in every other one."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:29, :29] - 14
    stamps = rng.normal(0, 20, (64, 3, 29, 29))
    stamps[::2, 1:] += 60 * np.exp(-(x**2 + y**2) / 4.5)
    label = (np.arange(64) % 2 == 0).astype(np.int8)
    return TrainingSet(stamps.astype(np.float32), label, np.arange(64))


def test_all_switches_are_on_as_published_and_off_as_intended():
    for field in dataclasses.fields(AS_PUBLISHED):
        assert getattr(AS_PUBLISHED, field.name) is True
        assert getattr(AS_INTENDED, field.name) is False


def test_weights_end_in_the_wrong_place():
    published = terms_of(AS_PUBLISHED)
    assert (published.cross_entropy, published.auc, published.vat) == (0.1, 0.1, 1.0)
    assert published.auc_cap == 6.0
    assert terms_of(AS_INTENDED) == PUBLISHED_TERMS
    assert LossTerms(cross_entropy=0.1, auc=1.0, vat=0.1, epsilon=0.1, xi=1.0) == PUBLISHED_TERMS
    without_vat = dataclasses.replace(PUBLISHED_TERMS, vat=0.0)
    assert terms_of(AS_PUBLISHED, without_vat).auc == 1.0


def test_the_validation_set_leaks_only_where_it_is_switched_on(raw):
    training, validation = raw.subset(np.arange(40)), raw.subset(np.arange(40, 64))
    leaking = validation_of(AS_PUBLISHED, training, validation)
    np.testing.assert_array_equal(leaking.stamps, raw.stamps)
    np.testing.assert_array_equal(leaking.label_given, raw.label_given)
    assert validation_of(AS_INTENDED, training, validation) is validation


def test_training_is_plain_sgd_as_published():
    config = config_of(AS_PUBLISHED, TrainConfig(n_epochs=1000))
    assert (config.optimiser, config.batch_size, config.patience) == ("sgd", 256, 10)
    assert config.rate_factor(0.9) * config.learning_rate == 1e-3
    assert config.stop_measure == "cross_entropy"
    assert config_of(AS_INTENDED, TrainConfig()) == TrainConfig()


def test_networks_of_the_variants_have_the_published_weights():
    names = [network_name(p, n) for p in (AS_PUBLISHED, AS_INTENDED) for n in ("simple", "complex")]
    assert names == ["simple-raw", "complex-raw", "simple", "complex-mean"]
    counts = [count_weights(make_network(name, generator=_generator())) for name in names]
    assert counts == [234_242, 2_401_638] * 2
    for name in names:
        assert make_network(name, generator=_generator()).name == name
    with pytest.raises(InputError, match="network is 'compact'; the authors published simple and complex"):
        network_name(AS_PUBLISHED, "compact")
    with pytest.raises(InputError, match="frn_sum is off and raw_perturbation on"):
        network_name(dataclasses.replace(AS_PUBLISHED, frn_sum=False), "complex")


def test_norm_by_the_mean_is_that_by_the_sum_of_a_smaller_x():
    x = torch.randn(2, 3, 8, 8, generator=_generator())
    by_sum, by_mean = FilterResponseNorm(3), FilterResponseNorm(3, mean=True)
    with torch.no_grad():
        for norm in (by_sum, by_mean):
            norm.e.fill_(-40.0)  # no floor: then the two differ by the root of the number of pixels
    torch.testing.assert_close(by_mean(x), 8 * by_sum(x), rtol=1e-4, atol=1e-4)


def test_scaling_inside_gives_the_same_scores_as_scaling_before(raw):
    inside, before = (make_network(name, generator=_generator(3)) for name in ("simple-raw", "simple"))
    scaled = normalise(raw.stamps, method="minmax")
    np.testing.assert_allclose(
        predict(inside, normalise(raw.stamps, method=input_of(AS_PUBLISHED)), precision="float32"),
        predict(before, scaled, precision="float32"),
        atol=1e-4,
    )
    constant = torch.ones(1, 3, 29, 29)
    assert torch.all(torch.isfinite(inside(constant)))


def test_perturbation_in_raw_units_is_nothing_for_a_bright_stamp(raw):
    options = {"epsilon": 0.1, "xi": 1.0}
    inside, before = (make_network(name, generator=_generator(3)) for name in ("simple-raw", "simple"))
    values = {}
    for brightness in (1, 100):
        stamps = brightness * raw.stamps
        values["raw", brightness] = smoothness_loss(
            inside, make_tensor(stamps), generator=_generator(), **options
        )
        scaled = make_tensor(normalise(stamps, method="minmax"))
        values["scaled", brightness] = smoothness_loss(before, scaled, generator=_generator(), **options)
    values = {key: float(value.detach()) for key, value in values.items()}
    assert values["scaled", 100] == pytest.approx(values["scaled", 1], rel=1e-2)
    # Spreads of some 100 ADU make 0.1 ADU 1e-3 of the scaled range; the divergence goes as the square.
    assert values["raw", 1] < 1e-3 * values["scaled", 1]
    assert values["raw", 100] < values["raw", 1] + 1e-9


@pytest.mark.parametrize("published", [AS_PUBLISHED, AS_INTENDED])
def test_both_variants_train(raw, published):
    data = TrainingSet(normalise(raw.stamps, method=input_of(published)), raw.label_given, raw.group)
    network, result = train_published(
        "simple", data, data, TrainConfig(n_epochs=2), published=published, seed=0
    )
    assert result.n_epochs == 2
    assert network.name == network_name(published, "simple")
    assert np.all(np.isfinite(predict(network, data.stamps)))
