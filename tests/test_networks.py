"""Weight counts, initial weights, and what the layers compute."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from rbmodel.layers import ByteDropout, FilterResponseNorm, ResidualBlock, SqueezeExcitation
from rbmodel.networks import NETWORKS, count_weights, make_network
from rbsim.errors import InputError


def _network(name, seed=0):
    return make_network(name, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "count"), [("simple", 234_242), ("complex", 2_401_638)])
def test_weight_counts_are_the_authors(name, count):
    assert count_weights(_network(name)) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_float32_also_under_autocast(name):
    network = _network(name).eval()
    stamps = torch.rand(5, 3, 29, 29, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = network(stamps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(stamps)
    assert plain.shape == rounded.shape == (5, 2)
    assert plain.dtype == rounded.dtype == torch.float32
    assert not torch.equal(plain, rounded)
    torch.testing.assert_close(plain, rounded, atol=0.05, rtol=0.05)


def test_compact_costs_a_fifth_of_complex_at_most():
    stamps, flops = torch.rand(2, 3, 29, 29), {}
    for name in ("complex", "compact"):
        network = _network(name).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(stamps)
        flops[name] = counter.get_total_flops()
    assert flops["compact"] < flops["complex"] / 5


@pytest.mark.parametrize("name", ["simple", "complex"])
def test_maps_have_the_published_sizes(name):
    network = _network(name).eval()
    shapes = []
    for layer in network.maps:
        layer.register_forward_hook(lambda _module, _inputs, out: shapes.append(tuple(out.shape[1:])))
    network(torch.rand(1, 3, 29, 29))
    expected = {
        "simple": [(32, 25, 25), (32, 12, 12), (64, 10, 10), (64, 5, 5)],
        "complex": [(32, 29, 29), (32, 15, 15), (64, 15, 15), (64, 8, 8), (128, 8, 8), (256, 4, 4)],
    }[name]
    assert list(dict.fromkeys(shapes)) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_gets_a_gradient(name):
    network = _network(name)
    torch.manual_seed(0)
    network(torch.rand(8, 3, 29, 29)).square().sum().backward()
    dead = [key for key, weight in network.named_parameters() if not torch.any(weight.grad != 0)]
    # tau = beta = 0 ties nowhere at random input, but a channel of tau may lie below all its map.
    assert [key for key in dead if not key.endswith("tau")] == []


def test_initial_weights_depend_on_the_generator_only():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = _network("simple"), _network("simple"), _network("simple", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)


def test_kernels_are_glorot_uniform():
    kernel = _network("complex").maps[2].weight.detach().numpy()  # 3x3, 32 to 32
    limit = np.sqrt(6 / (9 * 32 + 9 * 32))
    assert np.abs(kernel).max() <= limit
    # Variance of a uniform distribution; 9,216 draws fix it to about 1 %.
    assert kernel.var() == pytest.approx(limit**2 / 3, rel=0.05)


def test_filter_response_norm_divides_by_the_root_of_the_sum():
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    norm = FilterResponseNorm(3)
    with torch.no_grad():
        norm.gamma.fill_(2.0)
        norm.beta.fill_(0.1)
        norm.tau.fill_(-0.2)
        norm.e.fill_(0.5)
    squares = np.sum(x.numpy() ** 2, axis=(2, 3), keepdims=True)
    scaled = 2.0 * x.numpy() / np.sqrt(squares + 1e-6 + np.log1p(np.exp(0.5))) + 0.1
    np.testing.assert_allclose(norm(x).detach().numpy(), np.maximum(scaled, -0.2), rtol=1e-5, atol=1e-6)


def test_filter_response_norm_has_the_gradients_of_the_maximum():
    def plain(norm, x):
        power = x.square().sum(dim=(2, 3), keepdim=True)
        scale = norm.gamma * torch.rsqrt(power + 1e-6 + F.softplus(norm.e))
        return torch.maximum(x * scale + norm.beta, norm.tau)

    gradients = []
    for function in (FilterResponseNorm.forward, plain):
        x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
        norm = FilterResponseNorm(3)
        with torch.no_grad():
            norm.tau.fill_(-0.1)
        function(norm, x).square().sum().backward()
        gradients.append([x.grad, *(weight.grad for weight in norm.parameters())])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    dropout, x = ByteDropout(0.3), torch.ones(1000, 1001)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        dropped = dropout(x)
        again = dropout(x)
    # A million draws: five standard errors.
    assert float((dropped == 0).float().mean()) == pytest.approx(77 / 256, abs=5 * np.sqrt(0.21 / 1e6))
    assert float(dropped.mean()) == pytest.approx(1, abs=5 * np.sqrt(0.43 / 1e6))
    assert not torch.equal(dropped, again)
    # Neighbours come from one word: they must not hang together.
    kept = (dropped != 0).double() - (1 - 77 / 256)
    for lag in (1, 7, 8):
        assert abs(float((kept[:, lag:] * kept[:, :-lag]).mean())) < 5 * 0.21 / 1e3
    assert torch.equal(dropout.eval()(x), x)


def test_pooling_before_the_rectifier_changes_nothing():
    network = _network("simple").eval()
    stamps = torch.rand(6, 3, 29, 29, generator=torch.Generator().manual_seed(1))
    conv1, conv2 = network.maps[0], network.maps[3]
    as_published = F.max_pool2d(F.relu(conv1(stamps)), 2)
    as_published = F.max_pool2d(F.relu(conv2(as_published)), 2).flatten(1)
    assert torch.equal(network.features(stamps), as_published)


def test_attention_weights_lie_between_zero_and_two():
    attention = SqueezeExcitation(8)
    x = torch.rand(4, 8, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    ratio = attention(x) / x
    assert ratio.min() > 0
    assert ratio.max() < 2


def test_a_stride_halves_the_map():
    assert ResidualBlock(4, 6, stride=2)(torch.rand(1, 4, 8, 8)).shape == (1, 6, 4, 4)


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="network is 'resnet'; choose one of simple, complex, "):
        make_network("resnet", generator=torch.Generator())
