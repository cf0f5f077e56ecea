"""Virtual adversarial training: the perturbation has the right length and direction, and leaves no trace."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rbmodel.dataset import make_tensor, normalise
from rbmodel.networks import NETWORKS, make_network
from rbmodel.vat import (
    adversarial_perturbation,
    divergence,
    evaluation_mode,
    predict_twice,
    random_direction,
    smoothness_loss,
    unit_direction,
)

OPTIONS = {"epsilon": 1.0, "xi": 0.5, "power_steps": 1}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def stamps():
    rng = np.random.default_rng(0)
    return make_tensor(normalise(rng.normal(0, 1, (32, 3, 29, 29)).astype(np.float32), method="minmax"))


@pytest.fixture
def network():
    network = make_network("simple", generator=_generator(1))
    with torch.no_grad():
        # Away from p = 0.5, where the fresh network is nearly constant.
        network.head[-1].weight.mul_(5)
    return network


def _perturb(network, stamps, *, autocast=False, seed=0, **options):
    with evaluation_mode(network), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        with torch.no_grad():
            log_p = F.log_softmax(network(stamps), dim=1)
        return adversarial_perturbation(
            network, stamps, log_p, generator=_generator(seed), **(OPTIONS | options)
        ), log_p


def test_no_perturbation_no_loss(network, stamps):
    loss = smoothness_loss(network, stamps, epsilon=0.0, xi=0.5, generator=_generator())
    assert float(loss.detach()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("epsilon", [0.1, 3.0])
def test_perturbation_has_the_length_asked_for(name, epsilon, stamps):
    network = make_network(name, generator=_generator(1))
    perturbation, _ = _perturb(network, stamps[:4], epsilon=epsilon)
    torch.testing.assert_close(
        torch.linalg.vector_norm(perturbation, dim=(1, 2, 3)), torch.full((4,), epsilon), rtol=1e-5, atol=0
    )


def test_one_power_step_hurts_more_than_a_random_direction(network, stamps):
    adversarial, log_p = _perturb(network, stamps)
    random, _ = _perturb(network, stamps, power_steps=0)
    with evaluation_mode(network), torch.no_grad():
        of_adversarial = float(divergence(log_p, network(stamps + adversarial)))
        of_random = float(divergence(log_p, network(stamps + random)))
    # A random direction in 2,523 dimensions has hardly any share in the few that matter.
    assert of_adversarial > 50 * of_random > 0


def test_direction_of_a_linear_network_is_its_weight_vector(stamps):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 29 * 29, 2))
    weight = (network[1].weight[1] - network[1].weight[0]).detach()
    perturbation, _ = _perturb(network, stamps)
    cosine = F.cosine_similarity(perturbation.flatten(1), weight[None, :], dim=1)
    torch.testing.assert_close(cosine.abs(), torch.ones(32), rtol=1e-4, atol=0)


def test_direction_in_bfloat16_agrees_with_float64(network, stamps):
    rounded, _ = _perturb(network, stamps, autocast=True)
    exact_network = copy.deepcopy(network).double()
    noise = random_direction(stamps, generator=_generator())  # the same start in both precisions
    with evaluation_mode(exact_network):
        log_p = F.log_softmax(exact_network(stamps.double()), dim=1).detach()
        start = noise.double().requires_grad_(True)
        change = divergence(log_p, exact_network(stamps.double() + OPTIONS["xi"] * start))
        exact = torch.autograd.grad(change, start)[0]
    # To second order r and -r do the same, so the sign is free.
    cosine = F.cosine_similarity(rounded.double().flatten(1), exact.flatten(1), dim=1).abs()
    assert cosine.median() > 0.97
    assert cosine.min() > 0.9


def test_gradients_buffers_and_modes_are_left_alone(stamps):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 27 * 27, 2)
    )
    network.train()
    network[2].eval()  # a mode of its own must come back too
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, 7.0)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    weights = copy.deepcopy(list(network.parameters()))
    loss = smoothness_loss(network, stamps, generator=_generator(), **OPTIONS)
    assert [module.training for module in network] == [True, True, False, True, True]
    for name, value in network.named_buffers():
        assert torch.equal(value, buffers[name])
    for weight, before in zip(network.parameters(), weights, strict=True):
        assert torch.equal(weight, before)
        assert torch.all(weight.grad == 7.0)
    loss.backward()
    assert any(torch.any(weight.grad != 7.0) for weight in network.parameters())


def test_the_mode_comes_back_after_an_error():
    network = nn.Sequential(nn.Dropout(0.5)).train()
    with pytest.raises(RuntimeError, match="broken"), evaluation_mode(network):
        raise RuntimeError("broken")
    assert network.training
    assert network[0].training


def test_loss_depends_on_its_generator_only(network, stamps):
    first = smoothness_loss(network, stamps, generator=_generator(3), **OPTIONS)
    torch.rand(7)
    second = smoothness_loss(network, stamps, generator=_generator(3), **OPTIONS)
    other = smoothness_loss(network, stamps, generator=_generator(4), **OPTIONS)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_clean_prediction_is_shared_and_is_that_without_dropout(name, stamps):
    network = make_network(name, generator=_generator(1)).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        logits, log_p = predict_twice(network, stamps[:4])
        torch.manual_seed(2)
        torch.testing.assert_close(logits, network(stamps[:4]))
    assert logits.requires_grad
    assert not log_p.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(log_p, F.log_softmax(network.eval()(stamps[:4]), dim=1))
    known = smoothness_loss(network, stamps[:4], log_p=log_p, generator=_generator(3), **OPTIONS)
    torch.testing.assert_close(
        known, smoothness_loss(network, stamps[:4], generator=_generator(3), **OPTIONS)
    )


def test_predict_twice_leaves_statistics_of_a_batch_out_of_the_clean_one(stamps):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 29 * 29, 2)).train()
    logits, log_p = predict_twice(network, stamps)
    assert network.training
    assert int(network[0].num_batches_tracked) == 1
    assert not torch.allclose(F.log_softmax(logits, dim=1), log_p, atol=1e-3)


def test_random_directions_prefer_none(stamps):
    directions = random_direction(stamps, generator=_generator()).flatten(1)
    torch.testing.assert_close(torch.linalg.vector_norm(directions, dim=1), torch.ones(32))
    # 32 x 2523 components of variance 1/2523: the mean to five standard errors.
    assert abs(float(directions.mean())) < 5 / np.sqrt(32 * 2523 * 2523)
    overlap = directions @ directions.T - torch.eye(32)
    assert float(overlap.abs().max()) < 5 / np.sqrt(2523)


def test_perturbed_pass_gives_the_gradient_of_the_divergence_only(network, stamps):
    """Neither the prediction at x nor the perturbation passes a gradient on."""
    network.eval()
    loss = smoothness_loss(network, stamps, generator=_generator(3), **OPTIONS)
    ours = torch.autograd.grad(loss, list(network.parameters()))
    perturbation, log_p = _perturb(network, stamps, seed=3)
    alone = divergence(log_p.detach(), network((stamps + perturbation).detach()))
    for got, expected in zip(ours, torch.autograd.grad(alone, list(network.parameters())), strict=True):
        torch.testing.assert_close(got, expected)


def test_unit_direction_of_tiny_and_zero_vectors():
    direction = torch.zeros(2, 1, 2, 2)
    direction[0, 0, 0] = torch.tensor([3e-30, 4e-30])  # squares underflow in float32
    unit = unit_direction(direction)
    torch.testing.assert_close(unit[0, 0, 0], torch.tensor([0.6, 0.8]))
    assert torch.all(unit[1] == 0)
