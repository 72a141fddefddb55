import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from latent.core.errors import ConfigError
from latent.core.nn import MLP, Tanh, orthogonal_, tanh


def kinds(network: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in network]


def test_layers_come_in_the_documented_order():
    assert kinds(MLP(3, 2, layers=0)) == ["Linear"]
    assert kinds(MLP(3, 2, layers=2, activation="gelu")) == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    assert kinds(MLP(3, 2, layers=2, norm_first=True)) == ["Linear", "LayerNorm", "Tanh", "Linear", "ReLU", "Linear"]


def test_shapes_with_leading_axes():
    assert MLP(3, 2, width=8)(torch.zeros(4, 5, 3)).shape == (4, 5, 2)


def test_a_leaky_unit_passes_a_fifth_of_what_is_below_zero():
    network = MLP(1, 1, width=1, layers=1, activation="leaky-relu")
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight.fill_(1.0)
    torch.testing.assert_close(network(torch.tensor([[-5.0], [5.0]])), torch.tensor([[-1.0], [5.0]]))


def test_norm_first_bounds_inputs_of_any_scale():
    network = MLP(3, 2, width=8, layers=1, norm_first=True)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(1e6 * x), network(1e3 * x), atol=1e-3, rtol=1e-3)


def test_orthogonal_weights_keep_lengths():
    layer = orthogonal_(nn.Linear(4, 6), gain=2.0)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x).norm(dim=-1), 2.0 * x.norm(dim=-1))
    assert layer.bias.eq(0.0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tanh_is_torchs_with_its_gradient(dtype):
    x = torch.linspace(-12.0, 12.0, 401).to(dtype).requires_grad_()
    y, expected = tanh(x), torch.tanh(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, atol=3e-7, rtol=0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    (expected_slope,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(slope, expected_slope, atol=1e-6, rtol=0)
    assert torch.equal(Tanh()(x), y)


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="width=0"):
        MLP(3, 2, width=0)
    # Where every function is checked (nox -s checks-all) the annotation refuses it before we do.
    with pytest.raises((ConfigError, TypeCheckError), match="swish"):
        MLP(3, 2, activation="swish")
