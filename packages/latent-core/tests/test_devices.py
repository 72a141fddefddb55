"""The device that is not there: right values, and an error wherever two devices meet."""

import pytest
import torch
from torch import nn

from latent.core.run.seed import generator
from latent.core.testing.devices import assert_alike, other_device


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
        lambda there, here: here[0, 0].add_(there[0, 0]),
        lambda there, here: torch.stack([there[0, 0], here[0, 0]]),
        lambda there, here: here[there[0].long()],
        lambda there, here: there.__setitem__(there > 0, here[0]),
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
        there[torch.tensor([0, 2])] = torch.tensor(7.0)
        assert there.cpu().tolist() == [7, 1, 7, 3]


def test_a_generator_draws_on_its_own_device():
    with other_device() as device:
        there, here = generator(0, "draw", device=device), generator(0, "draw")
        assert (there.device, here.device) == (device, torch.device("cpu"))
        assert isinstance(there, torch.Generator)
        assert isinstance(torch.default_generator, torch.Generator)
        drawn = torch.rand(3, generator=there, device=device)
        assert torch.equal(drawn.cpu(), torch.rand(3, generator=here))
        for wrong in (
            lambda: torch.randperm(3, generator=there),
            lambda: torch.rand(3, generator=here, device=device),
            lambda: torch.multinomial(drawn, 1, generator=here),
            lambda: torch.empty(3).exponential_(generator=there),
        ):
            with pytest.raises(RuntimeError, match="generator of another device"):
                wrong()


def test_views_share_memory_and_shapes_follow():
    with other_device() as device:
        x = torch.zeros(2, 3, device=device)
        x[1, 1:] = torch.ones(2)
        assert x.cpu().tolist() == [[0, 0, 0], [0, 1, 1]]
        assert x[1].untyped_storage().data_ptr() == x.untyped_storage().data_ptr() != x.clone().data_ptr()
        weight = torch.ones(2, device=device, requires_grad=True)
        (weight @ x @ torch.ones(3, device=device)).backward()  # inside, a matrix becomes a vector in place
        assert weight.grad.cpu().tolist() == [0, 2]
        weight.data = x[0]
        assert weight.detach().cpu().tolist() == [0, 0, 0]


def test_tied_weights_stay_tied():
    with other_device() as device:
        network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        network[1].weight = network[0].weight
        optimiser = torch.optim.SGD(network.parameters())
        network.to(device)
        assert network[1].weight is network[0].weight
        assert optimiser.param_groups[0]["params"][0].device == device


def test_results_that_differ_or_are_elsewhere_are_told():
    assert_alike(lambda device: {"text": ["a"], "number": 0.5, "tensor": torch.ones(2, device=device)})
    with pytest.raises(AssertionError, match="1 of 1 results are not on lazy:0"):
        assert_alike(lambda device: torch.ones(2))
    for wrong in (
        lambda device: device.type,
        lambda device: float(device.type == "cpu"),
        lambda device: device.type == "cpu",
    ):
        with pytest.raises(AssertionError):
            assert_alike(wrong)


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
            optimiser = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
            for _ in range(5):
                optimiser.zero_grad()
                network(inputs).square().mean().backward()
                optimiser.step()
            weights.append(network[0].weight.detach().cpu().clone())
    assert torch.allclose(weights[0], weights[1], atol=1e-6)


def test_nothing_is_left_of_it():
    names = ("autocast", "is_autocast_enabled", "Generator")
    before = [getattr(torch, name) for name in names]
    with pytest.raises(ValueError, match="stop"), other_device():
        raise ValueError("stop")
    assert [getattr(torch, name) for name in names] == before
    assert not torch.__future__.get_swap_module_params_on_conversion()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(2, device="lazy") + 1
