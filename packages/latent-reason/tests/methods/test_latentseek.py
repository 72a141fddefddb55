"""Updates of latents: their sign, rows that are their own, what is read again and what is not, the best answer."""

import copy
from dataclasses import replace
from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from latent.core.activations.decode import decode, prefill
from latent.core.errors import ConfigError, ShapeError
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.reason import rewards
from latent.reason.data.chains import ChainModel, chains
from latent.reason.data.problem import Problem, Problems
from latent.reason.experiments import latentseek as module
from latent.reason.grading import final_answer, same_answer
from latent.reason.methods.latentseek import GradientSearch, LatentSeek, LatentSeekConfig
from latent.reason.prefix_search import GaussianNoise, PrefixSearch, Start, likeliest, vocabulary_logits
from latent.reason.rewards import CHECKS, Check, ExactReward, SelfReward, constant, rated
from latent.reason.trace import Budget, Cost, Trace

WORDS = [*"0123456789", "+", "-", "*", "=", "a", "b", "c", "d"]
SIZE = 3 + len(WORDS)
PROMPTS = ["1 + 2 =", "3 =", "4 * 5 - 6 =", "a b"]
BUDGET = Budget(tokens=10)
SETTINGS = LatentSeekConfig(rho=0.4, learning_rate=0.7, max_updates=4)


def gpt2():
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, eos_token_id=2, bos_token_id=1, pad_token_id=0, **settings))


def qwen2():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=SIZE, eos_token_id=2, pad_token_id=0, **sizes, **heads))


def llama():
    return small_llama(0, vocabulary=SIZE, width=32, layers=2, longest=128, spread=0.3)


@pytest.fixture(scope="module", params=[gpt2, llama, qwen2], ids=lambda make: make.__name__)
def any_backbone(request):
    with isolated(0, "models"):
        model = request.param()
    return Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), request.param.__name__)


def wants(word):
    """Reward answers that begin with a word; a graded one for words near it, so that rewards vary."""

    def reward(prompts, texts):
        found = [WORDS.index((text.split() or ["d"])[0]) for text in texts]
        return torch.tensor([-abs(place - WORDS.index(word)) / len(WORDS) for place in found])

    return reward


STRICT = replace(SETTINGS, threshold=-1e-6)


def seeds(rows):
    return [generator(row, "answers") for row in range(rows)]


def start_of(backbone, lengths=(4, 2, 3, 4)):
    """The beginnings of greedy answers, as the method takes them."""
    given = backbone.encode(PROMPTS)
    with torch.no_grad():
        greedy = decode(backbone.model, prefill(backbone.model, given["input_ids"], given["attention_mask"]),
                        max_new_tokens=10, stop=())  # fmt: skip
    real = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    states = greedy.states[:, : max(lengths)].float() * real.unsqueeze(-1)
    return Start(backbone.model, greedy.start, states, greedy.tokens[:, : max(lengths)], lengths, [7, 8, 9, 10]), real


# Updates --------------------------------------------------------------------------------------------------------------


def log_probs(backbone, latents, tokens):
    with torch.no_grad():
        return vocabulary_logits(backbone.model, latents).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def test_an_update_lowers_every_token_that_failed(any_backbone):
    start, real = start_of(any_backbone)
    search = GradientSearch(start, learning_rate=1e-2)
    before = log_probs(any_backbone, search.latents, start.tokens)
    search.propose(1, torch.arange(4), start.tokens, real, torch.tensor([-1.0, -0.3, -0.5, -1.0]))
    moved = log_probs(any_backbone, search.latents, start.tokens) - before
    assert bool((moved[real] < 0).all())
    assert torch.equal(search.latents[~real], start.states[~real])


def test_a_perfect_row_stays_where_it_is_and_rows_that_are_left_out_get_no_gradient(any_backbone):
    start, real = start_of(any_backbone)
    search = GradientSearch(start, learning_rate=1e-2)
    search.propose(1, torch.tensor([2, 0]), start.tokens[[2, 0]], real[[2, 0]], torch.tensor([0.0, -1.0]))
    assert [not torch.equal(search.latents[row], start.states[row]) for row in range(4)] == [True, False, False, False]


def test_the_gradient_is_that_of_reinforce(any_backbone):
    start, real = start_of(any_backbone)
    search, given = GradientSearch(start, learning_rate=1.0), torch.tensor([-1.0, -0.2, -0.5, -0.7])
    found = search.gradient(start.states, start.tokens, real, given)
    row, place, coordinate = 1, 1, 5
    for step in (1e-3, -1e-3):
        moved = start.states.clone()
        moved[row, place, coordinate] += step
        change = log_probs(any_backbone, moved, start.tokens) - log_probs(any_backbone, start.states, start.tokens)
        assert float(-given[row] * change[row, place]) == pytest.approx(step * float(found[row, place, coordinate]),
                                                                        rel=0.05, abs=1e-6)  # fmt: skip
    clipped = GradientSearch(start, 1.0, clip=0.01).gradient(start.states, start.tokens, real, given)
    norms = clipped.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, found.flatten(1).norm(dim=1).clamp(max=0.01))
    assert bool(torch.cosine_similarity(clipped.flatten(1), found.flatten(1)).gt(0.999).all())


def test_latents_are_split_into_parts_without_a_difference(any_backbone, monkeypatch):
    start, real = start_of(any_backbone)
    given, whole = torch.tensor([-1.0, -0.2, -0.5, -0.7]), GradientSearch(start, 1.0)
    expected = whole.gradient(start.states, start.tokens, real, given), likeliest(start.model, start.states)
    monkeypatch.setattr("latent.reason.prefix_search._MOST_LOGITS", 1)
    torch.testing.assert_close(whole.gradient(start.states, start.tokens, real, given), expected[0])
    assert torch.equal(likeliest(start.model, start.states), expected[1])


def test_latents_are_float32_whatever_the_model_is():
    backbone = Backbone(llama().eval().bfloat16(), word_tokenizer(WORDS), "half")
    start, real = start_of(backbone)
    search = GradientSearch(replace(start, states=start.states + 100), learning_rate=1e-3)
    for update in range(3):
        search.propose(update, torch.arange(4), start.tokens, real, -torch.ones(4))
    moved = (search.latents - start.states - 100)[0, 0].abs().max()
    assert moved == pytest.approx(3e-3, rel=0.1)  # below what bfloat16 can add to 100


# The loop -------------------------------------------------------------------------------------------------------------


def test_without_updates_or_when_accepted_the_answer_is_the_greedy_one(any_backbone):
    theirs = any_backbone.complete(PROMPTS, tokens=10, seed=0, temperature=0).continuations
    for settings, reward in ((replace(STRICT, max_updates=0), constant()), (STRICT, constant(0.0)),
                             (replace(STRICT, rho=0.0), constant())):  # fmt: skip
        traces = LatentSeek(settings, any_backbone, reward=reward).answer(PROMPTS, budget=BUDGET)
        assert [trace.text for trace in traces] == theirs
        assert [trace.cost.checks for trace in traces] == [1] * 4
        assert [trace.signals["updates"] for trace in traces] == [(0.0,)] * 4
    one = LatentSeek(STRICT, any_backbone, reward=constant()).answer(PROMPTS, budget=Budget(tokens=10, samples=1))
    assert [trace.text for trace in one] == theirs


@pytest.mark.parametrize("search", ["gradient", "noise", "resample"])
def test_a_row_does_not_depend_on_its_batch(any_backbone, search):
    settings = replace(STRICT, search=search, noise=2.0, temperature=2.0)
    solver = LatentSeek(settings, any_backbone, reward=wants("7"))
    whole = solver.answer(PROMPTS, budget=BUDGET, generator=seeds(4))
    order = [2, 0, 3]
    some = solver.answer([PROMPTS[row] for row in order], budget=BUDGET, generator=[seeds(4)[row] for row in order])
    single = [
        solver.answer([prompt], budget=BUDGET, generator=[seeds(4)[row]])[0] for row, prompt in enumerate(PROMPTS)
    ]

    def told(trace):
        cost = replace(trace.cost, seconds=0.0)
        return trace.text, trace.samples, cost, trace.signals["updates"], trace.signals["best"]

    assert [told(trace) for trace in single] == [told(trace) for trace in whole]
    assert [told(trace) for trace in some] == [told(whole[row]) for row in order]
    assert len({trace.signals["updates"] for trace in whole} | {trace.samples for trace in whole}) > 3
    assert any(len(trace.samples) > 2 for trace in whole)


def test_the_best_answer_is_returned_and_the_last_one_where_that_is_asked_for(backbone):
    for result in ("best", "last"):
        settings = replace(STRICT, result=result, max_updates=6)
        for trace in LatentSeek(settings, backbone, reward=wants("7")).answer(PROMPTS, budget=BUDGET):
            found = trace.signals["rewards"]
            place = found.index(max(found)) if result == "best" else len(found) - 1
            assert trace.signals["best"] == (float(place),)
            assert float(wants("7")([""], [trace.text])[0]) == pytest.approx(found[place])
            assert len(found) == trace.signals["updates"][0] + 1
            assert len(found) == 7 or found[-1] > STRICT.threshold  # it stops when, and only when, one is accepted


def test_weights_stay_and_get_no_gradient():
    model = llama().train(mode=False)
    assert all(weight.requires_grad for weight in model.parameters())
    before = copy.deepcopy(model.state_dict())
    solver = LatentSeek(STRICT, Backbone(model, word_tokenizer(WORDS), "open"), reward=constant())
    assert any(trace.signals["updates"][0] for trace in solver.answer(PROMPTS, budget=BUDGET))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


class Given(PrefixSearch):
    """Proposes beginnings of its own."""

    def __init__(self, start, plan):
        super().__init__(start)
        self.plan, self.seen = plan, []

    def propose(self, update, rows, tokens, real, rewards):
        self.seen.append((rows.tolist(), tokens.tolist(), real.tolist(), rewards.tolist()))
        return torch.tensor(self.plan[update - 1])[rows]


class Planned(LatentSeek):
    plan: list

    def search(self, start):
        self.made = Given(start, self.plan)
        return self.made


def planned(backbone, plan, reward=None, **settings):
    given = replace(STRICT, max_updates=len(plan), rho=1.0, latents=3, result="last", **settings)
    solver = Planned(given, backbone, reward=reward or constant())
    solver.plan = plan
    return solver


def test_an_answer_goes_on_from_its_beginning_as_the_model_does(any_backbone):
    plan = [[[5, 6, 7], [8, 9, 10], [5, 5, 5], [12, 3, 4]]]
    traces = planned(any_backbone, plan).answer(PROMPTS, budget=BUDGET)
    for prompt, ids, trace in zip(PROMPTS, plan[0], traces, strict=True):
        words = " ".join(WORDS[token - 3] for token in ids)
        rest = any_backbone.complete([f"{prompt} {words}"], tokens=7, seed=0, temperature=0).continuations[0]
        assert trace.text == f"{words} {rest}".strip()


def test_a_beginning_that_ends_the_text_ends_it(backbone):
    plan = [[[5, 2, 7]] * 4, [[2, 6, 7]] * 4, [[5, 6, 7]] * 4]
    solver = planned(backbone, plan)
    traces = solver.answer(PROMPTS, budget=BUDGET)
    assert all(trace.samples[1:3] == ("2", "") for trace in traces)
    _, tokens, real, _ = solver.made.seen[1]
    assert (tokens, real) == ([[5, 2, 0]] * 4, [[True, True, False]] * 4)  # what follows the end takes no part
    assert solver.made.seen[2][2] == [[True, False, False]] * 4


def test_a_beginning_that_was_tried_is_not_written_again(backbone):
    greedy = LatentSeek(replace(STRICT, max_updates=0), backbone, reward=constant()).answer(PROMPTS, budget=BUDGET)
    slow = LatentSeek(replace(STRICT, learning_rate=1e-7), backbone, reward=constant()).answer(PROMPTS, budget=BUDGET)
    for one, other in zip(greedy, slow, strict=True):
        assert replace(one.cost, seconds=0) == replace(other.cost, seconds=0)
        assert other.signals["rewards"] == (-1.0,) * 5
    plan = [[[5, 6, 7]] * 4, [[8, 6, 7]] * 4, [[5, 6, 7]] * 4]
    asked = []

    def reward(prompts, texts):
        asked.append(len(texts))
        return -torch.ones(len(texts))

    back = planned(backbone, plan, reward).answer(PROMPTS, budget=BUDGET)
    assert asked == [4, 4, 4]
    assert all(trace.text == trace.samples[1] and trace.cost.checks == 3 for trace in back)


def test_prompts_are_read_once_and_costs_are_what_was_done(backbone):
    plan = [[[5, 6, 7]] * 4, [[8, 2, 7]] * 4]
    read = []
    handle = backbone.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs.get("input_ids")), with_kwargs=True
    )
    traces = planned(backbone, plan).answer(PROMPTS, budget=BUDGET)
    handle.remove()
    wide = [ids for ids in read if ids is not None and ids.shape[1] > 1]
    assert [tuple(ids.shape) for ids in wide] == [(4, 6), (4, 3)]  # the prompts, then the beginnings
    assert [trace.cost.prefill_tokens for trace in traces] == [4, 2, 6, 2]
    for trace in traces:
        ends = [len(text.split()) for text in trace.samples]
        # A text of ten words was cut; a shorter one has its end beside its words.
        assert trace.cost.decoded_tokens == sum(min(10, words + 1) for words in ends)
        assert trace.cost.checks == 3


def test_a_row_pays_for_its_own_tokens_beside_longer_beginnings(any_backbone):
    greedy = any_backbone.complete(PROMPTS, tokens=10, seed=0, temperature=0).written.tolist()
    ends = {token: [row.index(token) if token in row else 10 for row in greedy] for row in greedy for token in row}
    model = copy.deepcopy(any_backbone.model)
    model.generation_config.eos_token_id = max(ends, key=lambda token: len(set(ends[token])))
    other = replace(any_backbone, model=model)
    solver = LatentSeek(replace(STRICT, search="resample", temperature=2.0), other, reward=constant())
    together = solver.answer(PROMPTS, budget=BUDGET, generator=seeds(4))
    assert len({len(trace.samples[0].split()) for trace in together}) > 1, "equal beginnings prove nothing"
    for row, prompt in enumerate(PROMPTS):
        (alone,) = solver.answer([prompt], budget=BUDGET, generator=[seeds(4)[row]])
        assert alone.cost == together[row].cost


def test_a_beginning_that_was_drawn_is_written_and_read_again(backbone):
    """All inputs of the model are counted: each pass is watched."""
    solver = LatentSeek(replace(STRICT, search="resample", temperature=2.0), backbone, reward=constant())
    fed = []
    hook = backbone.model.get_decoder().register_forward_pre_hook(
        lambda module, args, given: fed.append(given["position_ids"].numel()), with_kwargs=True
    )
    (trace,) = solver.answer(PROMPTS[:1], budget=BUDGET, generator=[generator(2, "answers")])
    hook.remove()
    assert all(len(text.split()) > 2 for text in trace.samples), "a text that ends as it begins is not read again"
    # Nobody reads the last token of a text, nor the last of a beginning while it is drawn.
    rounds = len(trace.signals["rewards"])
    assert sum(fed) == trace.cost.inputs - rounds - (rounds - 1)


def test_texts_keep_to_the_budget(backbone):
    for tokens in (1, 2, 5):
        traces = planned(backbone, [[[5, 6, 7]] * 4]).answer(PROMPTS, budget=Budget(tokens=tokens))
        assert all(len(text.split()) <= tokens for trace in traces for text in trace.samples)


# Controls -------------------------------------------------------------------------------------------------------------


def test_broken_updates_return_greedy_answers(backbone):
    settings = replace(STRICT, max_updates=8, learning_rate=1.0)
    right = LatentSeek(settings, backbone, reward=wants("7")).answer(PROMPTS, budget=BUDGET)
    assert any(len(trace.samples) > 1 for trace in right)
    for kind in (module._Flipped, module._Reread):
        traces = kind(settings, backbone, reward=wants("7")).answer(PROMPTS, budget=BUDGET)
        assert all(len(trace.samples) == 1 for trace in traces)


def test_noise_moves_only_what_belongs_to_a_row_and_is_drawn_anew(backbone):
    start, _ = start_of(backbone)
    search = GaussianNoise(start, 3.0)
    rounds = [search.propose(update, torch.arange(4), start.tokens, None, None) for update in (1, 2, 1)]
    assert torch.equal(rounds[0], rounds[2])
    assert not torch.equal(rounds[0], rounds[1])
    assert torch.equal(GaussianNoise(start, 1e-6).propose(1, torch.arange(4), None, None, None),
                       likeliest(start.model, start.states))  # fmt: skip


def test_what_draws_needs_a_generator(backbone):
    for search in ("noise", "resample"):
        with pytest.raises(ConfigError, match="no generator"):
            LatentSeek(replace(STRICT, search=search), backbone, reward=constant()).answer(PROMPTS, budget=BUDGET)
    with pytest.raises(ConfigError, match="no generator"):
        replace(start_of(backbone)[0], seeds=None).random(0, 1)


# Rewards --------------------------------------------------------------------------------------------------------------


def test_rewards_are_checked():
    with pytest.raises(ShapeError, match="2 texts"):
        rated(lambda prompts, texts: torch.zeros(3), ["a", "b"], ["c", "d"])
    for wrong in (0.5, -1.5, float("nan")):
        with pytest.raises(ConfigError, match="expected -1 to 0"):
            rated(constant(wrong), ["a"], ["b"])


def test_a_row_needs_no_positions_that_only_another_row_uses():
    with isolated(0, "models"):
        backbone = Backbone(gpt2().eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), "gpt2")
    prompts, budget = ["a b", "1 + 2 ="], Budget(tokens=60)  # 64 positions: the longer prompt has just enough
    long = decode(backbone.model, LatentSeek(SETTINGS, backbone).read(prompts), max_new_tokens=60, stop=()).sequences

    class Ending(LatentSeek):
        # One answer then begins with 24 tokens, one with 6.
        ends = (next(token for token in long[1] if token not in long[0]),)

    method = Ending(replace(SETTINGS, threshold=0.5), backbone, reward=wants("4"))
    together = method.answer(prompts, budget=budget)
    alone = [method.answer([prompt], budget=budget)[0] for prompt in prompts]
    assert [(each.samples, each.signals, each.cost) for each in together] == [
        (each.samples, each.signals, each.cost) for each in alone
    ]


def test_the_exact_reward_knows_each_question():
    items = (Problem("q", "1"), Problem("r", "2"))
    reward = ExactReward(Problems("two", items, str.strip, lambda item, answer: item.answer == answer))
    assert reward(["r", "q", "q"], ["2", "2", " 1"]).tolist() == [0.0, -1.0, 0.0]
    with pytest.raises(ConfigError, match="'s' is no question"):
        reward(["s"], ["1"])


def test_the_exact_reward_refuses_a_question_with_two_answers():
    def problems(*answers):
        return Problems("twice", tuple(Problem("q", answer) for answer in answers), final_answer,
                        lambda item, given: same_answer(given, item.answer))  # fmt: skip

    with pytest.raises(ConfigError, match="'q' has the answers '2' and '3' in twice"):
        ExactReward(problems("2", "3"))
    assert ExactReward(problems("1/2", "0.5"))(["q", "q"], ["0.50", "2"]).tolist() == [0.0, -1.0]


def test_a_judge_weighs_the_checks_that_failed(backbone, monkeypatch):
    verdicts = iter([["yes", "No reason. YES", "no"], ["yes", "so no.", "maybe"], ["yes", "yes", "yes but no"],
                     ["Yes", "yes", "nothing to say"]])  # fmt: skip
    monkeypatch.setattr(rewards, "texts_of", lambda *given: next(verdicts))
    judge = SelfReward(backbone, tokens=3)
    torch.testing.assert_close(judge(["1", "2", "3"], ["a", "b", "c"]), torch.tensor([0.0, -2 / 6, -1.0]))
    assert [check.weight for check in CHECKS] == [2, 2, 1, 1]
    assert all(cost.prefill_tokens > 40 and cost.decoded_tokens >= 4 for cost in judge.costs)
    with pytest.raises(ConfigError, match="positive weight"):
        SelfReward(backbone, checks=[Check("none", 0.0, "?")])


def test_the_model_judges_itself_when_no_reward_is_given(backbone):
    solver = LatentSeek(replace(STRICT, max_updates=1), backbone)
    assert isinstance(solver.reward, SelfReward)
    solver.reward.tokens = 4
    trace = solver.answer(["1 + 2 ="], budget=BUDGET)[0]
    assert trace.signals["rewards"][0] == -1.0  # random words are no verdict
    assert trace.cost.prefill_tokens > 4 + 40 * trace.cost.checks


@pytest.mark.parametrize(
    "wrong",
    [{"rho": 1.5}, {"latents": -1}, {"learning_rate": 0.0}, {"noise": 0.0}, {"clip": -1.0}, {"judge_tokens": 0}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        LatentSeekConfig(**wrong)


def test_an_experiment_without_questions_is_refused_with_what_to_type():
    with pytest.raises(ConfigError, match="tokens=0") as refused:
        replace(TINY, tokens=0)
    assert "count=400" in refused.value.hint


# The experiment -------------------------------------------------------------------------------------------------------


def test_guesses_are_as_many_as_the_checks_of_the_search():
    problems = Problems(
        "digits", [Problem(str(n), str(n)) for n in range(10)], str, lambda problem, given: given == problem.answer
    )  # fmt: skip

    def guessed(first, checks):
        traces = [SimpleNamespace(samples=[first(n)], cost=SimpleNamespace(checks=checks)) for n in range(10)]
        return module._guessed(traces, problems, generator(0, "guesses"))

    def wrong(n):
        return str((n + 1) % 10)

    assert guessed(str, 5) == {"accuracy": 1.0, "gain": 0.0, "checks": 1.0}
    assert guessed(wrong, 1) == {"accuracy": 0.0, "gain": 0.0, "checks": 1.0}
    assert guessed(wrong, 10)["accuracy"] == 1.0, "all nine others, each once"
    some = guessed(wrong, 4)
    assert 0 < some["accuracy"] < 1
    assert some["accuracy"] == some["gain"]
    assert 1 < some["checks"] <= 4


TINY = replace(
    module.PRESETS["smoke"], count=9, batch=9, chains=ChainModel(width=16, layers=1, steps=3, rows=4)
)  # fmt: skip


@pytest.fixture
def context(tmp_path):
    made = ArmContext(tmp_path / "arm", tmp_path / "shared", "reason/latentseek", seed=0)
    yield made
    made.close()


@pytest.mark.parametrize("arm", ["latentseek", "noise", "noise-tuned", "resample-1", "resample-2", "guess"])
def test_an_arm_goes_on_in_smaller_batches_where_memory_does_not_suffice(arm, context, monkeypatch):
    plain, sizes, found = LatentSeek.answer, [], []

    def answer(self, prompts, *, most, **settings):
        sizes.append(len(prompts))
        if len(prompts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        traces = plain(self, prompts, **settings)
        found.extend((trace.text, trace.samples, trace.signals, trace.cost) for trace in traces)
        return traces

    config = replace(TINY, method=replace(TINY.method, noise=5.0, max_updates=3))
    done = []
    for most in (9, 4):
        monkeypatch.setattr(LatentSeek, "answer", partialmethod(answer, most=most))
        done.append(module.run_arm(arm, config, context))
    assert sizes == [9, 9, 4, 4, 1]
    assert found[:9] == found[9:]
    assert len({samples for _, samples, _, _ in found}) > 5, "alike rows prove nothing"
    assert done[0].measures == pytest.approx(done[1].measures)


@pytest.mark.parametrize(
    ("arm", "changed"),
    {
        "latentseek": {},
        "paper-rate": {"learning_rate": 0.03},
        "greedy": {"max_updates": 0},
        "resample-1": {"search": "resample", "temperature": 1.0},
        "resample-2": {"search": "resample", "temperature": 2.0},
        "noise-tuned": {"search": "noise", "noise": 7.0},
        "guess": {},
        "noise": {"search": "noise"},
        "constant": {"result": "last"},
        "flipped": {},
        "reread": {},
    }.items(),
)
def test_an_arm_searches_with_the_settings_that_it_names(arm, changed, context, monkeypatch):
    method = LatentSeekConfig(learning_rate=0.4, max_updates=1, temperature=3.0, noise=0.5)
    made, plain = [], LatentSeek.__init__
    monkeypatch.setattr(
        LatentSeek, "__init__", lambda self, config, *given, **named: made.append((self, config)) or plain(
            self, config, *given, **named
        ),
    )  # fmt: skip
    module.run_arm(arm, replace(TINY, count=2, method=method, tuned_noise=7.0), context)
    ((solver, config),) = made
    assert config == replace(method, **changed)
    assert isinstance(solver.reward, ExactReward) == (arm != "constant")
    assert type(solver) is {"flipped": module._Flipped, "reread": module._Reread}.get(arm, LatentSeek)


def test_a_judge_may_write_as_much_as_the_settings_say(backbone):
    assert LatentSeek(LatentSeekConfig(judge_tokens=7), backbone).reward.tokens == 7
    given = replace(TINY, reward="self", method=LatentSeekConfig(judge_tokens=9))
    assert module._reward("latentseek", given, backbone, chains(2, seed=0)).tokens == 9
    assert module.PRESETS["paper"].method.judge_tokens == 4096


def trace(text, *others, rounds):
    """An answer, as a search returns it after the greedy one and others."""
    return Trace(
        prompt="?", text=text, answer=final_answer(text), samples=others or (text,),
        signals={"updates": (rounds,)}, cost=Cost(checks=len(others) or 1, decoded_tokens=10 * rounds),
    )  # fmt: skip


def test_measures_are_those_of_known_answers():
    problems = chains(4, seed=3, operators=(3,))
    right = [" ".join(item.steps) for item in problems.items]
    other = [f"{9 - int(item.steps[0])} {item.steps[1]} {item.answer}" for item in problems.items]
    wrong = [f"{item.steps[0]} {item.steps[1]} {9 - int(item.answer)}" for item in problems.items]
    found = module._measures(
        [
            trace(right[0], rounds=0),
            trace(other[1], wrong[1], other[1], rounds=2),  # a right number, on another way
            trace(wrong[2], wrong[2], "0 0 0", rounds=3),
            trace(wrong[3], right[3], wrong[3], rounds=3),  # what the greedy answer had is lost
        ],
        problems,
    )
    assert found == {
        "accuracy": 0.5, "gain": 0.0, "steps_right": 0.25, "changed": 0.5, "updates": 2.0, "checks": 7 / 4,
        "written": 20.0,
    }  # fmt: skip


def test_a_search_that_finds_nothing_is_not_one_that_stays_where_it_is(backbone):
    """With a constant reward the first answer is the best, whatever else is tried."""
    problems = Problems("texts", [Problem(prompt, "9") for prompt in PROMPTS], str, lambda item, given: False)
    claims = {claim.id: claim.check for claim in module.CLAIMS}
    for kind, stays in ((LatentSeek, False), (module._Flipped, True), (module._Reread, True)):
        solver = kind(replace(STRICT, learning_rate=1.0, max_updates=8), backbone, reward=constant())
        found = module._measures(solver.answer(PROMPTS, budget=BUDGET), problems)
        assert found["updates"] == 8
        assert found["changed"] == 0
        for name in ("sign-matters", "latents-are-kept"):
            assert claims[name].passes({claims[name].pair: found[claims[name].measure]}) == stays


def test_gains_are_compared_with_searches_that_learn_nothing():
    (claim,) = (claim for claim in module.CLAIMS if claim.id == "better-than-noise")
    assert {"guess", "resample-1", "resample-2"} <= {control.arm for control in claim.controls}


def test_every_arm_measures_the_same_questions(tmp_path):
    tiny = ChainModel(width=16, layers=1, steps=3, rows=4)
    config = replace(module.PRESETS["smoke"], count=12, batch=8, chains=tiny)
    found = {}
    for arm in module.ARMS:
        context = ArmContext(tmp_path / arm, tmp_path / "shared", "reason/latentseek", seed=0)
        done = module.run_arm(arm, config, context)
        found[arm] = done.measures
        context.close()
        if arm == "guess":
            continue
        assert set(done.measures) == set(module.MEASURES)
        assert tuple(done.arrays["curve"].shape) == (config.method.max_updates + 1,)
    greedy = found["greedy"]["accuracy"]
    assert 1 <= found["guess"]["checks"] <= found["latentseek"]["checks"]
    for arm, each in found.items():
        assert each["gain"] == pytest.approx(each["accuracy"] - greedy), arm
    assert found["flipped"]["changed"] == found["reread"]["changed"] == found["greedy"]["changed"] == 0
    assert found["constant"]["updates"] == config.method.max_updates
