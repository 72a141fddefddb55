"""How a model is run: by what it can do, with inputs in any form, rows apart."""

import pytest
import torch
from torch import Tensor, nn

from latent.causal.mediation.calls import call_of, chunks, rows_of, take
from latent.causal.mediation.units import units
from latent.core.capabilities import Acts, Encodes, EncodesSequence, Predicts, Scores
from latent.core.errors import ConfigError, LatentError, ShapeError, UnknownName
from latent.core.language import Backbone
from latent.core.language.training import word_tokenizer


class Able(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)


class Agent(Able, Acts, Encodes):
    def act(self, obs, task=None, *, generator=None):
        return torch.tanh(self.inner(obs) * (1 if task is None else task))

    def encode(self, x: Tensor):
        return self.inner(x)


class Reader(Able, EncodesSequence):
    def encode_sequence(self, x, mask):
        return self.inner(x) * mask.unsqueeze(-1)


class Critic(Able, Scores):
    def score(self, z):
        return self.inner(z).sum(-1)


class Dreamer(Able, Predicts):
    def predict(self, z, action=None):
        return self.inner(z) + (0 if action is None else action)


@pytest.fixture
def obs():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_the_method_follows_from_the_capability(obs):
    task = torch.full((4, 3), 2.0)
    agent = Agent().eval()
    assert torch.equal(call_of(agent)((obs, task)), agent.act(obs, task))
    assert torch.equal(call_of(agent)({"task": task, "obs": obs}), agent.act(obs, task))
    assert torch.equal(call_of(agent, method="encode")(obs), agent.encode(obs))
    critic, dreamer, reader = Critic().eval(), Dreamer().eval(), Reader().eval()
    assert torch.equal(call_of(critic)(obs), critic.score(obs))
    assert torch.equal(call_of(dreamer)({"z": obs, "action": task}), dreamer.predict(obs, task))
    x, mask = obs.reshape(2, 2, 3), torch.tensor([[0, 1], [1, 1]])
    for inputs in ((x, mask), {"mask": mask, "x": x}):
        assert torch.equal(call_of(reader)(inputs), reader.encode_sequence(x, mask))
    assert torch.equal(call_of(reader).real((x, mask)), mask.bool())


def test_sites_are_named_in_the_users_model(obs):
    call = call_of(Agent().eval())
    assert call.sites("inner") == ["inner"]
    assert list(units(call, "layer", inputs=obs, sites="inner:input")) == ["inner:input"]
    with pytest.raises(UnknownName, match="known: inner"):
        call.sites("model.inner")


def test_a_call_of_a_call_is_itself_and_counts_rows(obs):
    call = call_of(Agent().eval())
    assert call_of(call) is call
    call(obs)
    call(obs[:1])
    assert call.forwards == 5


def test_logits_are_those_of_the_last_real_token_however_it_is_padded(language, texts, alone):
    call = call_of(language)
    with torch.no_grad():
        padded = call(texts[0])
        right = {name: value.clone() for name, value in texts[0].items()}
        for row, (single, _) in enumerate(alone):
            assert torch.allclose(call(single)[0], padded[row], atol=1e-5)
            length = single["input_ids"].shape[1]
            right["input_ids"][row] = torch.cat([single["input_ids"][0], torch.zeros(6 - length, dtype=torch.long)])
            right["attention_mask"][row] = (torch.arange(6) < length).long()
        assert torch.allclose(call(right), padded, atol=1e-5)
        expected = language(**alone[2][0]).logits[0, -1]
        assert torch.allclose(padded[2], expected, atol=1e-5)
        assert torch.equal(call(texts[0]["input_ids"]), call({"input_ids": texts[0]["input_ids"]}))


def test_logits_at_several_places(language, texts, alone):
    call = call_of(language, at=[0, -1])
    with torch.no_grad():
        found = call(texts[0])
        assert found.shape == (3, 2, 64)
        for row, (single, _) in enumerate(alone):
            assert torch.allclose(found[row], language(**single).logits[0, [0, -1]], atol=1e-5)
    with pytest.raises(LatentError, match="tokens at the places 5"):
        call_of(language, at=5)(texts[0])


def test_a_backbone_is_its_model(llama, texts):
    backbone = Backbone(llama, word_tokenizer(["a"]), "tiny")
    with torch.no_grad():
        assert torch.equal(call_of(backbone)(texts[0]), call_of(llama)(texts[0]))


def test_rows_are_taken_in_the_form_that_was_given(obs):
    numbers = torch.tensor([2, 2, 0])
    assert torch.equal(take(obs, numbers), obs[[2, 2, 0]])
    first, second = take((obs, obs + 1), numbers)
    assert torch.equal(second, first + 1)
    assert torch.equal(take({"a": obs}, numbers)["a"], obs[[2, 2, 0]])
    assert [each.tolist() for each in chunks(5, 2)] == [[0, 1], [2, 3], [4]]
    assert rows_of({"a": obs}) == 4


def test_wrong_inputs_are_named(obs, language):
    call = call_of(Agent().eval())
    with pytest.raises(ShapeError, match=r"different numbers of rows.*\[4, 3\].*\[1, 3\]"):
        call((obs, obs[:1]))
    with pytest.raises(ShapeError, match="given list"):
        rows_of([])
    with pytest.raises(ShapeError, match="str"):
        rows_of(("text",))
    with pytest.raises(ShapeError, match="observation"):
        call({"observation": obs})
    with pytest.raises(ShapeError, match="expected input_ids"):
        call_of(language)({"ids": torch.ones(1, 2, dtype=torch.long)})
    with pytest.raises(ConfigError, match="batch=0"):
        next(chunks(3, 0))


def test_models_that_cannot_be_run_are_refused(obs):
    with pytest.raises(ConfigError, match="training mode"):
        call_of(Agent())
    with pytest.raises(ConfigError, match="no method 'reason'"):
        call_of(Agent().eval(), method="reason")
    with pytest.raises(ConfigError, match="str is no module"):
        call_of("gpt2")

    class Sums(nn.Module):
        def forward(self, x):
            return x.sum()

    with pytest.raises(ShapeError, match="for 4 rows"):
        call_of(Sums().eval())(obs)


@pytest.mark.parametrize("form", [lambda x: x.numpy(), lambda x: (x.numpy(),), lambda x: {"x": x.numpy()}])
def test_arrays_are_refused_in_a_short_text(form):
    given = form(torch.full((4, 3), 0.125))
    for call in (rows_of, lambda x: take(x, torch.tensor([0])), lambda x: units(nn.Identity(), "layer", inputs=x)):
        if call is not rows_of and isinstance(given, dict):
            continue
        with pytest.raises((ShapeError, ConfigError)) as error:
            call(given)
        assert "0.125" not in str(error.value)
        assert len(str(error.value)) < 300


def test_texts_are_refused_in_a_short_text():
    for given in (["one text"] * 1000, ("one text",) * 1000, "one text"):
        for call in (rows_of, lambda x: take(x, torch.tensor([0]))):
            with pytest.raises(ShapeError, match="str") as error:
                call(given)
            assert len(str(error.value)) < 250
