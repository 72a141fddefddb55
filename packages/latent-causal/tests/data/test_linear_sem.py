"""Linear worlds are what their equations say."""

import pytest
import torch

from latent.causal.data.linear_sem import linear_domains, nested_span_error
from latent.core.errors import ConfigError, UnknownName
from latent.core.run.seed import generator


def test_features_and_effects_make_the_factors():
    world = linear_domains(generator=generator(3, "world"), samples=20_000)
    for index, (name, table) in enumerate(world.domains.items()):
        factors = world.factors[name]
        torch.testing.assert_close(table @ world.unmixing.mT, factors, atol=0.5, rtol=0.1)
        caused = factors @ world.adjacency[index]  # entry [cause, effect]
        noise = factors - caused
        correlation = torch.corrcoef(noise.mT) - torch.eye(3)
        assert float(correlation.abs().max()) < 0.03  # independent once the effects are taken out
        assert float(world.adjacency[index].tril().abs().max()) == 0
        assert 0.5 <= float(world.adjacency[index][0, 1].abs()) <= 1.5


@pytest.mark.parametrize(("law", "kurtosis"), [("laplace", 3.0), ("gaussian", 0.0), ("uniform", -1.2)])
def test_laws_have_unit_variance_and_their_kurtosis(law, kurtosis):
    world = linear_domains(generator=generator(4, "world"), samples=50_000, law=law, domains=1)
    source = world.factors["domain 0"][:, 0]  # the most upstream factor is noise alone
    standard = (source - source.mean()) / source.std()
    assert float((standard**4).mean() - 3) == pytest.approx(kurtosis, abs=0.25)


def test_alike_domains_have_the_same_effects():
    world = linear_domains(generator=generator(5, "world"), alike=True)
    assert bool((world.adjacency == world.adjacency[0]).all())
    assert not bool((linear_domains(generator=generator(5, "world")).adjacency == world.adjacency[0]).all())


def test_span_error_is_that_of_spans_and_not_of_rows():
    true = torch.eye(3, 6)
    mixed = torch.tensor([[1.0, 0, 0], [2, 1, 0], [3, -1, 1]]) @ true
    torch.testing.assert_close(nested_span_error(mixed, true), torch.zeros(3).double(), atol=1e-7, rtol=0)
    swapped = true[[1, 0, 2]]
    errors = nested_span_error(swapped, true)
    assert errors[0] == pytest.approx(1)
    assert float(errors[1:].max()) < 1e-7


def test_mistakes_are_named():
    with pytest.raises(UnknownName, match="Unknown law"):
        linear_domains(generator=generator(0), law="cauchy")
    with pytest.raises(ConfigError, match="7 factors cannot be told from 6"):
        linear_domains(generator=generator(0), components=7)
