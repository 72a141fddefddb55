"""The device that is not there: right values, and an error wherever two devices meet."""

import pytest
import torch
from torch import nn

from latent.core.testing.devices import other_device


def test_values_are_right_and_come_back():
    x = torch.arange(6.0).view(2, 3)
    with other_device() as device:
        there = x.to(device)
        assert there.device == device
        made = (there @ torch.ones(3, 2, device=device)).relu()
        assert made.device == device
        assert torch.equal(made.cpu(), x @ torch.ones(3, 2))
        assert float(there.sum()) == 15
        assert there.argmax(1).tolist() == [2, 2]
        assert torch.tensor([1, 2], device=device).device == device


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here,
        lambda there, here: here @ there.mT,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.where(there > 0, there, here),
        lambda there, here: there.add_(here),
    ],
)
def test_two_devices_do_not_meet(mixed):
    x = torch.ones(2, 3)
    with other_device() as device, pytest.raises(RuntimeError, match="lazy:0 and on cpu"):
        mixed(x.to(device), x)


def test_numbers_and_indices_of_the_cpu_are_taken():
    with other_device() as device:
        there = torch.arange(4.0, device=device)
        assert (there * torch.tensor(2.0)).cpu().tolist() == [0, 2, 4, 6]
        assert there[torch.tensor([3, 1])].cpu().tolist() == [3, 1]


def test_a_tensor_that_was_not_brought_back_is_no_array():
    with other_device() as device, pytest.raises(TypeError, match=r"cpu\(\)"):
        torch.ones(2, device=device).numpy()


def test_networks_train_there_as_they_do_here():
    x, weights = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), []
    for elsewhere in (False, True):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        with other_device() as device:
            network.to(device if elsewhere else "cpu")
            inputs = x.to(device if elsewhere else "cpu")
            optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
            for _ in range(5):
                optimiser.zero_grad()
                network(inputs).square().mean().backward()
                optimiser.step()
            weights.append(network[0].weight.detach().cpu().clone())
    assert torch.allclose(weights[0], weights[1], atol=1e-6)


def test_nothing_is_left_of_it():
    before = torch.autocast
    with pytest.raises(ValueError, match="stop"), other_device():
        raise ValueError("stop")
    assert torch.autocast is before
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(2, device="lazy") + 1
