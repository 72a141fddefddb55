import copy

import pytest
import torch
from torch import nn

from latent.core.errors import ConfigError
from latent.core.nn import FusedAdam


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def groups(model: nn.Sequential) -> list[dict]:
    return [
        {"params": list(model[0].parameters()), "lr": 1e-2},
        {"params": list(model[2].parameters()), "lr": 1e-3, "betas": (0.5, 0.9), "weight_decay": 0.1},
    ]


def descend(model: nn.Sequential, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        model(x).square().sum().backward()
        optimiser.step()


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_weights_are_bitwise_those_of_torch():
    ours, theirs = network(), network()
    descend(ours, FusedAdam(groups(ours)), range(20))
    descend(theirs, torch.optim.Adam(groups(theirs), fused=True), range(20))
    assert equal(ours, theirs)
    assert not equal(ours, network())


def test_a_gradient_in_another_layout_moves_the_coordinates_it_is_for():
    weight = nn.Parameter(torch.zeros(2, 3))
    optimiser = FusedAdam([weight], lr=1.0)
    weight.grad = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]).mT  # as autograd.grad may return it
    optimiser.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("before", [0, 7])
def test_state_goes_to_torch_and_back_without_a_trace(before):
    straight = network()
    descend(straight, FusedAdam(groups(straight)), range(before + 6))

    model = network()
    first = FusedAdam(groups(model))
    descend(model, first, range(before))
    second = torch.optim.Adam(groups(model), fused=True)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    descend(model, second, range(before, before + 3))
    third = FusedAdam(groups(model))
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    descend(model, third, range(before + 3, before + 6))
    assert equal(model, straight)
    assert {int(state["step"]) for state in third.state_dict()["state"].values()} == {before + 6}


def test_a_weight_without_gradient_is_an_error_and_nothing_moves():
    model = network()
    optimiser = FusedAdam(model.parameters())
    model[2](torch.ones(1, 5)).sum().backward()
    with pytest.raises(ConfigError, match=r"shape \[5, 3\] has no gradient"):
        optimiser.step()
    assert equal(model, network())


def test_a_group_of_unequal_counts_cannot_be_loaded():
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    descend(model, optimiser, range(2))
    optimiser.zero_grad()
    model[2](torch.ones(1, 5)).sum().backward()
    optimiser.step()
    with pytest.raises(ConfigError, match="2 to 3 steps"):
        FusedAdam(model.parameters()).load_state_dict(optimiser.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_too():
    ours, theirs = network().cuda(), network().cuda()
    x = torch.randn(16, 3, device="cuda")
    for model, optimiser in (
        (ours, FusedAdam(groups(ours))),
        (theirs, torch.optim.Adam(groups(theirs), fused=True)),
    ):
        for _ in range(5):
            optimiser.zero_grad()
            model(x).square().sum().backward()
            optimiser.step()
    assert equal(ours, theirs)
