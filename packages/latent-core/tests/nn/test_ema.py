import pytest
import torch
from torch import nn

from latent.core.errors import ConfigError
from latent.core.nn import EMA, target_copy


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_targets_move_by_their_rate_towards_their_own_source():
    fast, slow = network(0), network(1)
    targets = target_copy(network(2)), target_copy(network(3))
    before = [[value.clone() for value in target.parameters()] for target in targets]
    EMA([(fast, targets[0], 0.5), (slow, targets[1], 0.1)]).update()
    for source, target, old, rate in zip((fast, slow), targets, before, (0.5, 0.1), strict=True):
        for new, value, start in zip(target.parameters(), source.parameters(), old, strict=True):
            torch.testing.assert_close(new, (1 - rate) * start + rate * value)


def test_float_buffers_are_averaged_and_counters_copied():
    source, target = network(0), target_copy(network(0))
    source(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    EMA([(source, target, 0.25)]).update()
    torch.testing.assert_close(target[1].running_mean, 0.25 * source[1].running_mean)
    assert target[1].num_batches_tracked == 1


def test_sources_never_move_and_targets_get_no_gradient():
    source = network(0)
    target = target_copy(source)
    weights = [value.clone() for value in source.parameters()]
    nn.init.zeros_(target[0].weight)
    EMA([(source, target, 1.0)]).update()
    assert all(torch.equal(value, old) for value, old in zip(source.parameters(), weights, strict=True))
    torch.testing.assert_close(target[0].weight, source[0].weight)
    assert not any(value.requires_grad for value in target.parameters())
    assert all(value.requires_grad for value in source.parameters())


def test_a_loaded_target_is_still_followed():
    source, target = network(0), target_copy(network(1))
    ema = EMA([(source, target, 0.5)])
    target.load_state_dict(network(2).state_dict())
    expected = 0.5 * (target[0].weight + source[0].weight)
    ema.update()
    torch.testing.assert_close(target[0].weight, expected)


def test_wrong_pairs_and_rates_are_refused():
    with pytest.raises(ConfigError, match="rate"):
        EMA([(network(0), network(0), 1.5)])
    with pytest.raises(ConfigError, match=r"0\.bias"):
        EMA([(nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 5)), 0.5)])
