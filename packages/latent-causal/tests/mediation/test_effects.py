"""Effects: by brute force, by first order, along a path; identities that hold for any network."""

import pytest
import torch
from torch import nn

from latent.causal.errors import DataError
from latent.causal.mediation.calls import call_of
from latent.causal.mediation.effects import effects, interchange_accuracy
from latent.causal.mediation.featurizers import Directions
from latent.causal.mediation.interventions import Interchange, Mean, Resample, Zero
from latent.causal.mediation.metrics import Chosen, LogitDifference, Metric
from latent.causal.mediation.study import RowNumbers, Study
from latent.causal.mediation.units import Place, Units, units
from latent.core.activations import capture
from latent.core.errors import ConfigError, LatentError
from latent.core.run.seed import isolated

SEARCHES = ("exhaustive", "attribution", "integrated")


@pytest.fixture
def study(network, base, source, difference):
    some = units(network, "neuron", inputs=base, sites=["1", "3"])
    return Study(network, some, base, source, difference)


@pytest.fixture
def curved(base):
    """A smooth network in which effects are far from linear."""
    with isolated(1, "curved"):
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 2)).eval()


def by_hand(network, base, source, site, unit, difference):
    """Return NIE of one neuron with a hook of torch, row by row."""
    with torch.no_grad(), capture(network, site) as acts:
        network(source)
    found = []
    for row in range(len(base)):

        def swap(module, args, output, row=row):
            new = output.clone()
            new[:, unit] = acts[site][row, unit]
            return new

        with torch.no_grad():
            plain = difference(network(base[row : row + 1]))
            handle = network[int(site)].register_forward_hook(swap)
            found.append(difference(network(base[row : row + 1])) - plain)
            handle.remove()
    return torch.cat(found)


def test_exhaustive_effects_are_those_of_one_unit_and_one_row_at_a_time(study, network, base, source, difference):
    found = effects(study)
    for unit, (site, index) in {0: ("1", 0), 7: ("1", 7), 16: ("3", 0), 31: ("3", 15)}.items():
        expected = by_hand(network, base, source, site, index, difference)
        assert torch.allclose(found.indirect[:, unit], expected, atol=1e-6)
    assert found.indirect.abs().max() > 0.1
    with torch.no_grad():
        assert torch.allclose(found.total, difference(network(source)) - difference(network(base)), atol=1e-6)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_size_of_a_pass_changes_nothing(network, base, source, difference, search):
    some = units(network, "neuron", inputs=base, sites=["1", "3"])
    large, small = (
        effects(Study(network, some, base, source, difference, batch=batch), search=search, steps=4, direct=True)
        for batch in (256, 3)
    )
    assert torch.allclose(large.indirect, small.indirect, atol=1e-6)
    assert torch.allclose(large.direct, small.direct, atol=1e-6)
    assert torch.allclose(large.total, small.total, atol=1e-6)


@pytest.mark.parametrize("replacement", [Interchange(), Zero(), Mean(), Resample(0)], ids=lambda r: type(r).__name__)
def test_total_is_direct_and_indirect_and_interaction(network, base, source, difference, replacement):
    some = units(network, "neuron", inputs=base, sites=["1", "3"])
    found = effects(Study(network, some, base, source, difference, replacement=replacement), direct=True)
    whole = found.direct + found.indirect + found.interaction
    assert torch.allclose(whole, found.total.unsqueeze(1).expand_as(whole), atol=1e-5)
    assert found.interaction.abs().max() > 1e-3  # nonzero in a network that is not linear


def test_direct_effects_are_those_of_everything_but_the_unit(network, base, source, difference):
    """NDE is m(x'; M := M(x)) - m(x): the definition, with a whole layer it is nothing, as all goes through it."""
    some = units(network, "layer", inputs=base, sites="1")
    found = effects(Study(network, some, base, source, difference), direct=True)
    assert torch.allclose(found.direct, torch.zeros(10, 1), atol=1e-6)
    assert torch.allclose(found.indirect[:, 0], found.total, atol=1e-6)
    neurons = units(network, "neuron", inputs=base, sites="3")
    one = effects(Study(network, neurons, base, source, difference), direct=True)
    back = by_hand(network, source, base, "3", 5, difference)
    assert torch.allclose(one.direct[:, 5], one.total + back, atol=1e-5)


def test_denoising_is_the_way_back(network, base, source, difference):
    some = units(network, "neuron", inputs=base, sites="3")
    study = Study(network, some, base, source, difference)
    there, back = effects(study, direct=True), effects(study, denoise=True)
    assert torch.allclose(back.total, -there.total, atol=1e-6)
    assert torch.allclose(there.direct, there.total.unsqueeze(1) + back.indirect, atol=1e-6)
    with pytest.raises(ConfigError, match="Zero takes nothing from a run on source"):
        effects(Study(network, some, base, source, difference, replacement=Zero()), denoise=True)


@pytest.mark.parametrize("kind", ["neuron", "head", "direction", "feature"])
def test_attribution_and_integrated_gradients_are_exact_in_a_linear_model(base, source, dictionary, kind):
    with isolated(2, "linear"):
        linear = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 2)).eval()
    given = {"head": {"heads": 4}, "direction": {"vectors": torch.eye(16)[3:7]}, "feature": {"dictionary": dictionary}}
    some = units(linear, kind, inputs=base, sites="0", **given.get(kind, {}))
    study = Study(linear, some, base, source, lambda outputs: outputs[:, 0])
    exact, first, path = (effects(study, search=search, steps=2, direct=kind != "feature") for search in SEARCHES)
    assert exact.indirect.abs().max() > 0.1
    for other in (first, path):
        assert torch.allclose(other.indirect, exact.indirect, atol=1e-5)
        if kind != "feature":  # the code of an autoencoder is not linear in the vector that it is restored in
            assert torch.allclose(other.direct, exact.direct, atol=1e-5)
            assert torch.allclose(other.interaction, torch.zeros_like(other.direct), atol=1e-4)


@pytest.mark.parametrize("search", ["attribution", "integrated"])
def test_direct_effects_past_zeros_are_exact_in_a_linear_model(base, source, search):
    """Where nothing is taken from a run on source, the direct effect is that of all other units."""
    with isolated(2, "linear"):
        linear = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 2)).eval()
    some = units(linear, "neuron", inputs=base, sites="0")
    study = Study(linear, some, base, source, lambda outputs: outputs[:, 0], replacement=Zero())
    exact, other = effects(study, direct=True), effects(study, search=search, steps=2, direct=True)
    assert exact.direct.abs().max() > 0.1
    assert torch.allclose(other.direct, exact.direct, atol=1e-5)


def test_units_of_a_site_need_not_stand_together(network, base, source, difference):
    first, second = (units(network, "neuron", inputs=base, sites=site).places[0] for site in ("1", "3"))
    halves = [Place("1", Directions(torch.eye(16)[half])) for half in (slice(0, 8), slice(8, 16))]
    mixed = Units([halves[0], second, halves[1]])
    plain = Units([first, second])
    for search in SEARCHES:
        one = effects(Study(network, plain, base, source, difference), search=search, steps=3).indirect
        two = effects(Study(network, mixed, base, source, difference), search=search, steps=3).indirect
        assert torch.allclose(two, torch.cat([one[:, :8], one[:, 16:], one[:, 8:16]], 1), atol=1e-5), search


def test_integrated_gradients_are_complete_and_attribution_is_not(curved, base, source, difference):
    some = units(curved, "neuron", inputs=base, sites=["1", "3"])
    study = Study(curved, some, base, source, difference)
    path, first = effects(study, search="integrated", steps=20), effects(study, search="attribution")
    assert max(path.completeness.values()) < 0.02
    assert set(path.completeness) == {"1", "3"}
    for site, share in path.shares.items():
        assert share == pytest.approx(1, abs=0.02), site  # each layer carries everything
    assert abs(first.shares["1"] - 1) > 0.05
    coarse = effects(study, search="integrated", steps=1)
    assert coarse.completeness["1"] > path.completeness["1"]
    with pytest.raises(ConfigError, match="Attribution does not run the replacement"):
        first.completeness  # noqa: B018
    # Row by row too: a mean of wrong rows could be right.
    whole = torch.stack([path.indirect[:, numbers].sum(1) for numbers in some.sites.values()], 1)
    assert torch.allclose(whole, path.total.unsqueeze(1).expand(-1, 2), atol=0.02)


def test_one_step_at_the_middle_is_the_gradient_there(curved, base, source, difference):
    """Midpoints, not left or right ends."""
    some = units(curved, "neuron", inputs=base, sites="1")
    found = effects(Study(curved, some, base, source, difference), search="integrated", steps=1)
    low, high = (curved[:2](each).detach() for each in (base, source))
    middle = ((low + high) / 2).requires_grad_()
    gradient = torch.autograd.grad(difference(curved[2:](middle)).sum(), middle)[0]
    assert torch.allclose(found.indirect, (high - low) * gradient, atol=1e-5)


def test_a_site_is_integrated_while_the_others_stay(curved, base, source, difference):
    alone = units(curved, "neuron", inputs=base, sites="3")
    both = units(curved, "neuron", inputs=base, sites=["1", "3"])
    one, two = (
        effects(Study(curved, some, base, source, difference), search="integrated", steps=5) for some in (alone, both)
    )
    assert torch.allclose(one.indirect, two.indirect[:, 16:], atol=1e-6)


def test_places_of_a_site_keep_their_numbers(llama, texts):
    """Two positions at two sites: integrated gradients gather by site, and give back the order of the units."""
    some = units(llama, "layer", inputs=texts[0], positions=[0, -1])
    study = Study(llama, some, *texts, LogitDifference(3, 4))
    path, first = effects(study, search="integrated", steps=64), effects(study)
    assert torch.allclose(path.joint["layers.1.resid_post"], first.joint["layers.1.resid_post"], atol=1e-4)
    # After the last layer the first token no longer matters, and the last one is everything.
    assert first.indirect[:, 2].abs().max() < 1e-5
    assert path.indirect[:, 2].abs().max() < 1e-5
    assert torch.allclose(first.indirect[:, 3], first.total, atol=1e-4)
    assert torch.allclose(path.indirect[:, 3], first.total, rtol=0.05, atol=0.02)


def test_a_batch_of_padded_texts_is_its_rows_one_by_one(language, texts, alone):
    for kind, positions in (("head", -1), ("neuron", 0), ("layer", None)):
        some = units(language, kind, inputs=texts[0], positions=positions)
        for search in SEARCHES:
            found = effects(Study(language, some, *texts, LogitDifference(3, 4)), search=search, steps=3)
            for row, (base, source) in enumerate(alone):
                single = effects(Study(language, some, base, source, LogitDifference(3, 4)), search=search, steps=3)
                assert torch.allclose(single.indirect[0], found.indirect[row], atol=1e-4), (kind, search, row)


def test_each_row_is_measured_by_its_own_label(network, base, source):
    """Many units are rows of one pass: labels must follow their rows."""
    labels = torch.arange(10) % 2
    some = units(network, "neuron", inputs=base, sites="3")
    metric = LogitDifference(labels, 1 - labels)
    found = effects(Study(network, some, base, source, metric, batch=7), direct=True)
    plain = effects(Study(network, some, base, source, LogitDifference(0, 1), batch=7), direct=True)
    sign = (1 - 2 * labels).unsqueeze(1)
    assert torch.allclose(found.indirect, sign * plain.indirect, atol=1e-6)
    assert torch.allclose(found.direct, sign * plain.direct, atol=1e-6)
    part = Study(network, some, base, source, metric).part(torch.tensor([7, 2]))
    assert isinstance(part.metric, Chosen)
    assert torch.allclose(effects(part).indirect, found.indirect[[7, 2]], atol=1e-6)


def test_counted_passes(study):
    """Attribution takes a pass on source, one on base and one gradient, however many units there are."""
    first = effects(study, search="attribution")
    assert (first.forwards, first.backwards) == (2, 1)
    both = effects(study, search="attribution", direct=True)
    assert (both.forwards, both.backwards) == (4, 2)
    exact = effects(study)
    assert (exact.forwards, exact.backwards) == (32 + 2 + 2, 0)  # units, two ends, all units of each site
    path = effects(study, search="integrated", steps=5)
    assert (path.forwards, path.backwards) == (2 * 5 + 2 + 2, 10)


def test_passes_are_no_larger_than_asked(network, base, source, difference):
    seen = []
    handle = network[0].register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    some = units(network, "neuron", inputs=base, sites=["1", "3"])
    seen.clear()
    effects(Study(network, some, base, source, difference, batch=4), direct=True)
    handle.remove()
    assert max(seen) == 4


def test_nothing_is_left_in_the_network(study, network, base, source, difference):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = network(base)

    class Fails(Metric):
        def __call__(self, outputs, rows):
            raise KeyError("metric")

    for search in SEARCHES:
        effects(study, search=search, steps=2)
        with pytest.raises(KeyError):
            effects(Study(network, study.units, base, source, Fails()), search=search)
    assert torch.equal(network(base), plain)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_half_precision_is_measured_in_single(network, base, source, difference):
    import copy

    half = copy.deepcopy(network).bfloat16()
    some = units(half, "neuron", inputs=base.bfloat16(), sites="3")
    found = effects(Study(half, some, base.bfloat16(), source.bfloat16(), difference), search="attribution")
    exact = effects(Study(network, units(network, "neuron", inputs=base, sites="3"), base, source, difference))
    assert found.indirect.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.scores, exact.scores]))[0, 1] > 0.99


def test_what_cannot_be_asked(study, network, base, source):
    with pytest.raises(ConfigError, match="none of exhaustive, attribution, integrated"):
        effects(study, search="greedy")
    with pytest.raises(ConfigError, match="steps=0"):
        effects(study, search="integrated", steps=0)
    with pytest.raises(ConfigError, match="needs direct effects"):
        effects(study).interaction  # noqa: B018
    same = effects(Study(network, study.units, base, base, lambda outputs: outputs[:, 0]))
    with pytest.raises(DataError, match="same mean"):
        same.recovery  # noqa: B018
    with pytest.raises(DataError, match="together have no effect"):
        same.completeness  # noqa: B018
    close = effects(Study(network, study.units, base, source, lambda outputs: 1e3 + 5e-4 * outputs[:, 0]))
    with pytest.raises(DataError, match="same mean"):
        close.recovery  # noqa: B018
    with pytest.raises(DataError, match="together have no effect"):
        close.completeness  # noqa: B018
    for wrong, name in (("mean", "'mean'"), (Mean, "Mean"), (3, "int")):
        with pytest.raises(ConfigError, match=f"replacement={name} replaces nothing"):
            Study(network, study.units, base, source, lambda outputs: outputs[:, 0], replacement=wrong)
    for metric in (lambda outputs: outputs.argmax(1), lambda outputs: outputs[:, 0] > 0):
        same = effects(Study(network, study.units, base, source, lambda outputs, m=metric: m(outputs).float()))
        assert torch.equal(effects(Study(network, study.units, base, source, metric)).indirect, same.indirect)
    counts = Study(network, study.units, base, source, lambda outputs: outputs.argmax(1).float())
    with pytest.raises(LatentError, match="search='exhaustive'"):
        effects(counts, search="attribution")
    assert effects(counts).indirect.abs().max() >= 0


def test_the_greatest_units_are_named(study):
    found = effects(study)
    (first, score), *_ = found.top(3).items()
    assert len(found.top(3)) == 3
    assert abs(score) == float(found.scores.abs().max())
    assert found.scores[study.units.number(first)] == score
    assert torch.allclose(found.recovery * found.total.mean(), found.scores, atol=1e-6)


def test_interchange_accuracy_counts_counterfactual_labels(network, base, source):
    some = units(network, "layer", inputs=base, sites="1")
    with torch.no_grad():
        labels, own = network(source).argmax(1), network(base).argmax(1)
    assert interchange_accuracy(network, some, base, source, labels) == 1.0
    assert interchange_accuracy(network, some, base, source, own, weights=torch.zeros(1)) == 1.0
    share = float((labels == own).float().mean())
    assert 0 < share < 1
    assert interchange_accuracy(network, some, base, source, own) == pytest.approx(share)


def test_rows_of_a_step_follow_from_seed_and_step():
    numbers = RowNumbers(100, 8)
    one, again, next_one = (
        numbers.batch(step, seed=0, device=torch.device("cpu"))["rows"].tolist() for step in (0, 0, 1)
    )
    assert one == again != next_one
    assert RowNumbers(5, 8).batch(0, seed=0, device=torch.device("cpu"))["rows"].tolist() == [0, 1, 2, 3, 4]


def test_a_call_can_be_shared(network, base, source, difference):
    call = call_of(network)
    some = units(call, "layer", inputs=base, sites="1")
    first = effects(Study(call, some, base, source, difference))
    second = effects(Study(call, some, base, source, difference))
    assert first.forwards == second.forwards
    assert torch.equal(first.indirect, second.indirect)
