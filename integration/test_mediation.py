"""One toolbox on models of two families: which parts of an agent and of a language model carry what they do.

What is called is found by the capabilities alone: the toolbox knows neither package.
"""

import pytest
import torch

from latent.causal.mediation.calls import call_of
from latent.causal.mediation.effects import effects
from latent.causal.mediation.metrics import LogitDifference
from latent.causal.mediation.result import trade_off
from latent.causal.mediation.study import Study
from latent.causal.mediation.units import units
from latent.causal.methods.right_mediator import MediationAnalysis, MediationConfig
from latent.core.errors import LatentError
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.seed import isolated
from latent.rl import TDJEPA, TDJEPAConfig

WORDS = [*"0123456789", "+", "="]


@pytest.fixture(scope="module")
def agent():
    config = TDJEPAConfig(
        obs_shape=(2,), action_dim=2, state_dim=16, task_dim=12, state_layers=1, task_layers=1, encoder_width=32,
        predictor_width=32, actor_width=32,
    )  # fmt: skip
    with isolated(0, "agent"):
        return TDJEPA(config).eval()


@pytest.fixture(scope="module")
def backbone():
    model = small_llama(0, vocabulary=3 + len(WORDS), width=32, layers=2, spread=0.3)
    return Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), "random")


def sideways(actions):
    return actions[:, 0]


def test_what_an_agent_does_goes_through_its_features_and_its_task(agent):
    """Two ways lead to the action: the state's and the task's. Exchanging one leaves the effect of the other."""
    random = torch.Generator().manual_seed(0)
    obs, task = 2 * torch.rand(2, 24, 2, generator=random) - 1, torch.randn(2, 24, 12, generator=random)
    base, source = (obs[0], task[0]), (obs[0], task[1])  # pairs that differ in the task alone
    ways = units(agent, "layer", inputs=base, sites=["actor.net.first", "actor.net.second", "actor.net.trunk"])
    found = effects(Study(agent, ways, base, source, sideways), direct=True)
    assert found.total.abs().max() > 0.01
    assert torch.allclose(found.indirect[:, 2], found.total, atol=1e-6)
    assert torch.allclose(found.direct[:, 2], torch.zeros(24), atol=1e-6)
    carriers = [bool(effect.abs().max() > 1e-6) for effect in found.indirect[:, :2].T]
    assert sorted(carriers) == [False, True]
    everything = effects(Study(agent, ways.part([0, 1]), (obs[0], task[0]), (obs[1], task[1]), sideways))
    assert all(bool(effect.abs().max() > 1e-4) for effect in everything.indirect.T)
    with pytest.raises(LatentError, match="search='exhaustive'"):  # `act` runs without gradients
        effects(Study(agent, ways, base, source, sideways), search="attribution")


def test_an_agents_encoder_is_searched_by_gradients_and_the_agent_stays_as_it_is(agent):
    random = torch.Generator().manual_seed(1)
    base, source = 2 * torch.rand(2, 32, 2, generator=random) - 1
    task = torch.randn(1, 12, generator=random)
    before = agent.act(base, task[0])
    encoder = call_of(agent, method="encode")
    neurons = units(encoder, "neuron", inputs=base, sites="state_encoder.head.net.2")
    config = MediationConfig(searches=("exhaustive", "attribution", "integrated"), size=0.25)
    found = MediationAnalysis(config).analyse(encoder, neurons, base, source, lambda latents: latents[:, 0])
    exact, first, path = (each.effects for each in found)
    assert path.completeness["state_encoder.head.net.2"] < 0.02
    assert torch.corrcoef(torch.stack([exact.scores, path.scores]))[0, 1] > 0.95
    assert torch.corrcoef(torch.stack([exact.scores, first.scores]))[0, 1] > 0.5
    assert found[0].curve.cmd < found[0].controls["cmd random"]
    assert torch.equal(agent.act(base, task[0]), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in agent.modules())


def test_a_language_model_by_kinds_of_mediator(backbone):
    base = backbone.encode([f"{a} + {b} =" for a, b in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 0), (2, 2))] + ["1 ="] * 2)
    source = backbone.encode(
        [f"{a} + {b} =" for a, b in ((1, 9), (3, 0), (5, 1), (7, 2), (9, 4), (2, 7))] + ["8 ="] * 2
    )
    kinds = {
        "layer": units(backbone, "layer", inputs=base),
        "head": units(backbone, "head", inputs=base),
        "neuron": units(backbone, "neuron", inputs=base, positions=-1),
    }
    metric = LogitDifference(4, 5)
    config = MediationConfig(searches=("exhaustive", "attribution"), batch=64)
    found = MediationAnalysis(config).analyse(backbone, kinds, base, source, metric)
    assert [(each.kind, each.search) for each in found] == [(k, s) for k in kinds for s in config.searches]
    layers = found[0].effects
    assert torch.allclose(layers.indirect, layers.total.unsqueeze(1).expand(-1, 2), atol=1e-4)
    assert found[0].test.sufficiency == pytest.approx(0)  # one layer kept while the next one is replaced
    assert "neuron, attribution" in trade_off(found).alt
    for row in (0, 7):  # with and without padding
        one = {name: value[row : row + 1, -2 if row == 7 else 0 :] for name, value in base.items()}
        other = {name: value[row : row + 1, -2 if row == 7 else 0 :] for name, value in source.items()}
        single = effects(Study(backbone, kinds["head"], one, other, metric)).indirect
        together = effects(Study(backbone, kinds["head"], base, source, metric)).indirect[row]
        assert torch.allclose(single[0], together, atol=1e-4)
