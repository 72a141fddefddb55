import copy

import pytest
import torch
from torch import nn

from latent.core.errors import ConfigError
from latent.core.nn import EnsembleLayerNorm, EnsembleLinear

GENERATOR = torch.Generator().manual_seed(0)


def member(layer: EnsembleLinear, index: int) -> nn.Linear:
    """The plain linear map with this member's weights."""
    _, features, outputs = layer.weight.shape
    plain = nn.Linear(features, outputs)
    plain.load_state_dict({"weight": layer.weight[index].T, "bias": layer.bias[index, 0]})
    return plain


@pytest.fixture
def linear():
    layer = EnsembleLinear(3, 4, 5)
    nn.init.normal_(layer.bias, generator=GENERATOR)
    return layer


def test_each_member_is_a_linear_map_of_its_own_rows(linear):
    x = torch.randn(3, 6, 4, generator=GENERATOR)
    y = linear(x)
    assert y.shape == (3, 6, 5)
    for index in range(3):
        torch.testing.assert_close(y[index], member(linear, index)(x[index]))


def test_an_input_without_ensemble_axis_goes_to_every_member(linear):
    x = torch.randn(6, 4, generator=GENERATOR)
    torch.testing.assert_close(linear(x), linear(x.repeat(3, 1, 1)))


def test_members_do_not_share_gradients(linear):
    linear(torch.randn(6, 4, generator=GENERATOR))[1].sum().backward()
    assert linear.weight.grad[1].abs().sum() > 0
    assert linear.weight.grad[[0, 2]].abs().sum() == 0
    assert linear.bias.grad[1].eq(6.0).all()


@pytest.mark.parametrize(("features", "outputs"), [(6, 4), (4, 6)])
def test_weights_start_orthogonal_with_the_gain_and_differ(features, outputs):
    weight = EnsembleLinear(2, features, outputs, gain=2.0).weight
    product = weight.mT @ weight if features > outputs else weight @ weight.mT
    torch.testing.assert_close(product, 4.0 * torch.eye(4).expand(2, 4, 4), atol=1e-5, rtol=0)
    assert not torch.allclose(weight[0], weight[1])


def test_layer_norm_is_each_members_own():
    layer = EnsembleLayerNorm(2, 5)
    nn.init.normal_(layer.weight, generator=GENERATOR)
    nn.init.normal_(layer.bias, generator=GENERATOR)
    x = 3.0 + 7.0 * torch.randn(2, 6, 5, generator=GENERATOR)
    y = layer(x)
    for index in range(2):
        expected = nn.functional.layer_norm(x[index], (5,), layer.weight[index, 0], layer.bias[index, 0])
        torch.testing.assert_close(y[index], expected)


def test_layers_are_built_on_meta_and_copied():
    with torch.device("meta"):
        layers = nn.Sequential(EnsembleLinear(2, 3, 4), EnsembleLayerNorm(2, 4))
    assert all(value.is_meta for value in layers.parameters())
    assert copy.deepcopy(layers)(torch.empty(7, 3, device="meta")).shape == (2, 7, 4)


def test_sizes_below_one_are_refused():
    with pytest.raises(ConfigError, match="members=0"):
        EnsembleLinear(0, 3, 4)
