import pytest
import torch

from latent.core.capabilities import Acts, Encodes, Scores, capabilities_of
from latent.core.contract import Estimator, Learner, Source
from latent.core.errors import did_you_mean
from latent.core.testing.toy import ToyConfig, ToyModel


def test_capabilities_are_found_by_class_and_instance():
    assert capabilities_of(ToyModel) == ("Encodes",)
    assert capabilities_of(ToyModel(ToyConfig())) == ("Encodes",)

    class Both(Encodes, Scores):
        pass

    assert capabilities_of(Both) == ("Encodes", "Scores")


@pytest.mark.parametrize("interface", [Learner, Source, Estimator, Acts, Encodes])
def test_interfaces_cannot_be_instantiated(interface):
    with pytest.raises(TypeError, match="abstract"):
        interface()


def test_a_model_keeps_its_config():
    config = ToyConfig(features=5)
    model = ToyModel(config)
    assert model.config is config
    assert model.encode(torch.ones(1, 5)).shape == (1, 1)


def test_did_you_mean():
    assert did_you_mean("rl/td-jpea", ["rl/td-jepa", "rl/cip"]) == "Did you mean 'rl/td-jepa'?"
    assert did_you_mean("td-jepa", ["rl/td-jepa", "rl/cip"]) == "Did you mean 'rl/td-jepa'?"
    assert did_you_mean("zzz", ["rl/td-jepa"]) == ""
