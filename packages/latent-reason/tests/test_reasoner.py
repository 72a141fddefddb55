"""What all ways to reason share: prompts and templates, generators by row, traces as JSON, ordinary baselines."""

import copy
import time
from dataclasses import replace

import pytest
import torch

import latent.reason
from latent.core.errors import ConfigError, FormatError
from latent.reason.baselines.written import BASELINES, RandomSearch, RandomSearchConfig, Written, WrittenConfig, vote
from latent.reason.reasoner import Prompts, for_each_row, rendered
from latent.reason.trace import Budget, Cost, Trace

PROMPTS = ["1 + 2 =", "a b c 3 * 4 - 5 =", "7"]
SHORT = Budget(tokens=6)


def streams(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def key(trace):
    return trace.text, trace.answer, replace(trace.cost, seconds=0.0), trace.samples


def rewarded(prompts, texts):
    """Accept texts that begin with a 1, 3 or 5."""
    return torch.tensor([0.0 if text[:1] in ("1", "3", "5") else -1.0 for text in texts])


def ways(backbone):
    for name, (kind, config) in BASELINES.items():
        plain = replace(config, instruction="a b")  # the model knows no words
        yield name, kind(plain, backbone, **({"reward": rewarded} if kind is RandomSearch else {}))


def test_a_batch_is_its_rows_alone(backbone):
    for name, way in ways(backbone):
        together = way.answer(PROMPTS, budget=SHORT, generator=streams((5, 6, 7)))
        alone = [
            way.answer([p], budget=SHORT, generator=streams([s]))[0] for p, s in zip(PROMPTS, (5, 6, 7), strict=True)
        ]
        assert [key(trace) for trace in together] == [key(trace) for trace in alone], name


def test_the_model_is_as_before(backbone):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    for _, way in ways(backbone):
        way.answer(PROMPTS, budget=SHORT, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())


def test_greedy_answers_are_those_of_generate(backbone):
    traces = Written(WrittenConfig(), backbone).answer(PROMPTS, budget=SHORT)
    expected = backbone.complete(PROMPTS, tokens=6, seed=0, temperature=0).continuations
    assert [trace.text for trace in traces] == expected
    assert [trace.cost.prefill_tokens for trace in traces] == [4, 9, 1]


def test_texts_that_the_budget_ended_say_so(backbone):
    for name, way in ways(backbone):
        traces = way.answer(PROMPTS * 4, budget=Budget(tokens=3), generator=streams(range(12)))
        assert any(trace.cut for trace in traces), name
        for trace in traces:  # a text that ended by itself is not one that was cut
            assert not trace.cut or trace.cost.decoded_tokens >= 3
    ended = Written(WrittenConfig(), backbone).answer(PROMPTS, budget=Budget(tokens=100))
    assert [trace.cut for trace in ended] == [trace.cost.decoded_tokens == 100 for trace in ended]


def test_texts_end_where_the_tokenizer_says_though_the_model_does_not(backbone):
    plain = WrittenConfig()
    words = Written(plain, backbone).answer(PROMPTS[:1], budget=SHORT)[0].text.split()
    model, tokenizer = copy.deepcopy(backbone.model), copy.deepcopy(backbone.tokenizer)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    tokenizer.eos_token = words[2]
    silent = replace(backbone, model=model, tokenizer=tokenizer)
    (trace,) = Written(plain, silent).answer(PROMPTS[:1], budget=SHORT)
    assert trace.cost.decoded_tokens == words.index(words[2]) + 1
    assert not trace.cut


def test_the_seconds_of_a_batch_are_shared(backbone):
    for name, way in ways(backbone):
        begin = time.perf_counter()
        traces = way.answer(PROMPTS, budget=SHORT, generator=streams((5, 6, 7)))
        taken = time.perf_counter() - begin
        (share,) = {trace.cost.seconds for trace in traces}
        assert 0.5 * taken < 3 * share <= taken, name


def test_a_method_says_which_parts_of_a_budget_count(backbone):
    several = WrittenConfig(temperature=1.0, samples=2, choose="vote")
    for config, heeds in ((WrittenConfig(), ()), (replace(several, choose="first"), ()), (several, ("samples",))):
        way = Written(config, backbone)
        assert way.heeds == heeds
        (trace,) = way.answer(PROMPTS[:1], budget=replace(SHORT, samples=4), generator=streams([1]))
        assert len(trace.samples) == (4 if heeds else 0)


def test_all_names_are_there_without_a_type_checker():
    scope = {}
    exec("from latent.reason import *", scope)
    assert scope["Budget"] is Budget
    assert set(latent.reason.__all__) <= {*scope} & {*dir(latent.reason)}


def test_samples_are_paid_for_and_the_prompt_once(backbone):
    config = WrittenConfig(temperature=1.0, samples=3, choose="likelihood")
    (trace,) = Written(config, backbone).answer(["1 + 2 ="], budget=SHORT, generator=streams([1]))
    assert len(set(trace.samples)) == 3
    assert trace.cost.prefill_tokens == 4
    assert 3 <= trace.cost.decoded_tokens <= 18
    likelihoods = trace.signals["log_probability"]
    assert trace.text == trace.samples[likelihoods.index(max(likelihoods))]
    (more,) = Written(config, backbone).answer(["1 + 2 ="], budget=replace(SHORT, samples=5), generator=streams([1]))
    assert more.samples[:3] == trace.samples


def test_the_majority_counts():
    assert vote(["4", "5", "5.0", "4", "10/2"]) == (1, (2.0, 3.0, 3.0, 2.0, 3.0))
    assert vote(["", "", "7"])[0] == 2
    assert vote(["", ""])[0] == 0
    assert vote(["1", "2"])[0] == 0


def test_a_search_ends_where_it_is_accepted_and_returns_the_best(backbone):
    search = RandomSearch(RandomSearchConfig(instruction="", samples=6), backbone, reward=rewarded)
    traces = search.answer(PROMPTS, budget=SHORT, generator=streams((1, 2, 3)))
    assert {len(trace.samples) for trace in traces} != {6}
    for trace in traces:
        rewards = trace.signals["reward"]
        assert trace.cost.checks == len(rewards) == len(trace.samples)
        assert all(reward == -1 for reward in rewards[:-1])
        assert rewards[-1] == 0 or len(rewards) == 6
        assert trace.text == trace.samples[-1 if rewards[-1] == 0 else 0]
    never = RandomSearch(
        RandomSearchConfig(instruction="", samples=3), backbone, reward=lambda p, t: torch.full((len(t),), -1.0)
    )
    assert all(trace.cost.checks == 3 for trace in never.answer(PROMPTS, budget=SHORT, generator=streams((1, 2, 3))))
    assert RandomSearch(RandomSearchConfig(judge_tokens=7), backbone).reward.tokens == 7
    with pytest.raises(ConfigError, match="judge_tokens=0"):
        RandomSearchConfig(judge_tokens=0)


def test_wrong_input_is_answered(backbone):
    way = Written(WrittenConfig(), backbone)
    for prompts in ([], ["1", ""]):
        with pytest.raises(ConfigError, match="no prompt"):
            way.answer(prompts)
    drawing = Written(WrittenConfig(temperature=1.0), backbone)
    with pytest.raises(ConfigError, match="no generator"):
        drawing.answer(PROMPTS)
    with pytest.raises(ConfigError, match="2 generators for 3 prompts"):
        drawing.answer(PROMPTS, generator=streams((1, 2)))
    with pytest.raises(ConfigError, match="all texts would be the same"):
        WrittenConfig(samples=2)
    for wrong in ({"tokens": 0}, {"samples": 0}, {"latent_steps": -1}):
        with pytest.raises(ConfigError, match="no budget"):
            Budget(**wrong)


def test_one_generator_makes_one_for_each_row():
    first, again = (for_each_row(torch.Generator().manual_seed(3), 2) for _ in range(2))
    draws = [torch.rand(3, generator=each) for each in first]
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(torch.rand(3, generator=again[1]), draws[1])
    assert for_each_row(None, 2) is None


def test_a_chat_template_is_used_where_there_is_one(backbone):
    message = {"role": "user", "content": "1 + 2 ="}
    assert rendered(backbone, message, begin=" 3") == "1 + 2 = 3"
    tokenizer = type(backbone.tokenizer)(tokenizer_object=backbone.tokenizer._tokenizer, pad_token="<pad>")
    tokenizer.chat_template = (
        "<s> {% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} ={% endif %}"
    )
    chatting = replace(backbone, tokenizer=tokenizer)
    assert rendered(chatting, {"role": "user", "content": "1 + 2"}) == "<s> 1 + 2 ="
    ids = Prompts.of(chatting, ["<s> 1 + 2 ="]).ids
    assert ids.tolist() == [backbone.tokenizer.convert_tokens_to_ids(["<s>", "1", "+", "2", "="])]


def test_traces_are_read_back():
    trace = Trace(
        prompt="é?", text="so 2", answer="2", cost=Cost(prefill_tokens=3, seconds=0.5),
        signals={"entropy": (0.5, 1.0)}, samples=("so 2", "3"), cut=True,
    )  # fmt: skip
    again = Trace.from_json(trace.to_json())
    assert (again.prompt, again.text, again.answer, again.cost, again.samples) == (
        trace.prompt, trace.text, trace.answer, trace.cost, trace.samples,
    )  # fmt: skip
    assert dict(again.signals) == {"entropy": (0.5, 1.0)}
    assert again.cut
    assert (trace.cost + Cost(prefill_tokens=1, checks=2)).inputs == 4
    with pytest.raises(FormatError, match="no trace"):
        Trace.from_json({"prompt": "?"})
