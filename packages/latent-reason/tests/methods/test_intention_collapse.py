"""Entropies, dimensions, probes that do not leak, and states at the place that was asked for."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from latent.core.errors import ConfigError, ShapeError
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.reason.data.chains import ChainModel, chains_backbone
from latent.reason.data.problem import Problem, Problems
from latent.reason.experiments import intention_collapse as module
from latent.reason.intention import (
    Intention,
    dimension_curve,
    effective_dimension,
    entropy,
    option_entropy,
    top_entropy,
    variance_dimension,
)
from latent.reason.methods.intention_collapse import IntentionCollapse, IntentionCollapseConfig
from latent.reason.recoverability import LinearScore, Split, auroc, recoverability, routed, transfer
from latent.reason.trace import Budget, Cost, Trace

WORDS = [*"0123456789", "+", "-", "*", "=", "a", "b", "c", "d"]
SIZE = 3 + len(WORDS)
PROMPTS = ["1 + 2 =", "3 =", "4 * 5 - 6 =", "a b"]
QUICK = {"resamples": 100, "shuffles": 2}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "tests"))


# Entropies ------------------------------------------------------------------------------------------------------------


def test_entropies_have_their_known_values():
    sure = torch.tensor([50.0, 0.0, 0.0, 0.0])
    even = torch.zeros(2, 8)
    assert entropy(even).tolist() == pytest.approx([3.0, 3.0])
    assert entropy(even, unit="nats").tolist() == pytest.approx([math.log(8)] * 2)
    assert float(entropy(sure)) == pytest.approx(0.0, abs=1e-9)
    assert float(entropy(torch.tensor([0.0, -math.inf, 0.0]))) == pytest.approx(1.0)
    assert top_entropy(even, 2).tolist() == pytest.approx([1.0, 1.0])
    assert float(top_entropy(torch.tensor([2.0, 1.0, 5.0]), 1)) == 0.0
    with pytest.raises(ConfigError, match="bans"):
        entropy(even, unit="bans")
    with pytest.raises(ConfigError, match="no word"):
        top_entropy(even, 0)


def test_fewer_words_never_have_more_entropy():
    for scale in (0.1, 1.0, 5.0):
        logits = scale * randn(200, 30)
        found = [top_entropy(logits, k) for k in (1, 2, 5, 20, 29, 30, 100)]
        for fewer, more in pairwise(found):
            assert bool((more >= fewer - 1e-9).all())
        torch.testing.assert_close(found[-1], entropy(logits))


def test_the_mass_of_options_is_that_in_the_whole_distribution():
    logits = torch.tensor([[0.6, 0.1, 0.1, 0.2], [0.1, 0.1, 0.7, 0.1]]).log()
    among, mass = option_entropy(logits, [1, 2])
    assert mass.tolist() == pytest.approx([0.2, 0.8])
    assert among.tolist() == pytest.approx([1.0, -(1 / 8) * math.log2(1 / 8) - (7 / 8) * math.log2(7 / 8)])
    for wrong in ([], [1, 1], [4]):
        with pytest.raises(ConfigError, match="different tokens"):
            option_entropy(logits, wrong)


# Dimension ------------------------------------------------------------------------------------------------------------


def test_dimensions_of_known_clouds():
    wide = randn(100 * 8, 1, 8)
    assert effective_dimension(wide).total == pytest.approx(8, rel=0.03)
    line = randn(50, 1) * randn(1, 8, seed=1)
    both = effective_dimension(torch.stack([line + 5, 10 * wide[:50, 0]], 1))
    assert float(both.per_layer[0]) == pytest.approx(1.0, abs=1e-5)
    assert both.ninety.tolist()[0] == 1
    variances = torch.stack([line.var(0).sum(), 100 * wide[:50, 0].var(0).sum()]).double()
    torch.testing.assert_close(both.weights, variances / variances.sum())
    assert both.total == pytest.approx(float((both.weights * both.per_layer).sum()))
    scaled = torch.diag(torch.tensor([10.0, 1.0, 1.0])).double()
    cloud = torch.cat([scaled, -scaled])
    assert int(variance_dimension(cloud)) == 1  # 100 of 102
    assert int(variance_dimension(cloud, 0.985)) == 2
    nothing = effective_dimension(torch.full((20, 1, 4), 0.1))
    assert (nothing.total, nothing.ninety.tolist()) == (0.0, [0])


def test_a_curve_draws_rows_without_replacement():
    states = randn(60, 2, 4)
    curve = dimension_curve(states, [10, 60, 61], generator(0, "draws"))
    assert list(curve) == [10, 60]
    assert curve[60] == pytest.approx(effective_dimension(states).total)


# Probes ---------------------------------------------------------------------------------------------------------------


def cloud(rows=300, features=10, seed=0):
    x = randn(rows, features, seed=seed)
    return x, x[:, 3] + 0.5 * randn(rows, seed=seed + 100) > 0


def test_areas_are_those_of_pairs():
    scores, labels = torch.tensor([0.1, 0.4, 0.35, 0.8, 0.35]), torch.tensor([False, False, True, True, False])
    assert auroc(scores, labels) == pytest.approx((1 + 0 + 0.5 + 3) / 6)
    assert auroc(torch.zeros(5), labels) == 0.5
    # By stratum: (0.1, 0.35) in one, (0.4, 0.35; 0.8) in the other.
    assert auroc(scores, labels, ["a", "b", "a", "b", "b"]) == pytest.approx((1 + 2) / 3)
    with pytest.raises(ConfigError, match="compared"):
        auroc(scores, torch.ones(5, dtype=torch.bool))


def test_a_length_alone_tells_nothing_among_equal_lengths():
    length = torch.arange(200) % 4
    labels = torch.rand(200, generator=generator(0, "labels")) > length / 4
    assert auroc(-length.double(), labels) > 0.7
    assert auroc(-length.double(), labels, length.tolist()) == 0.5


@pytest.mark.parametrize("shape", [(120, 10), (60, 200)])
def test_the_fit_is_scikit_learn_s(shape):
    from sklearn.linear_model import LogisticRegression

    x, y = cloud(*shape)
    for strength in (1e-3, 1.0, 100.0):
        ours = LinearScore.fit(x, y, strength)
        scaled = ((x.double() - x.double().mean(0)) / x.double().std(0, correction=0)).numpy()
        theirs = LogisticRegression(C=strength, max_iter=10_000, tol=1e-10).fit(scaled, y.numpy())
        torch.testing.assert_close(ours(x), torch.from_numpy(theirs.decision_function(scaled)), atol=2e-3, rtol=2e-3)


def test_items_stay_together():
    items = [row // 3 for row in range(90)]
    split = Split.of(items, generator(0, "split"))
    parts = [{items[row] for row in part.tolist()} for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [18, 6, 6]
    assert set.union(*parts) == set(range(30))
    assert sum(map(len, parts)) == 30
    with pytest.raises(ConfigError, match="part empty"):
        Split.of([0, 0, 1], generator(0, "split"))


def test_success_is_recovered_and_shuffled_labels_are_not():
    x, y = cloud()
    found = recoverability(x, y, generator=generator(0, "probe"))
    assert found.auroc > 0.85
    assert 0.5 < found.low < found.auroc < found.high
    assert abs(sum(found.shuffled) / 5 - 0.5) < 0.15
    assert found.auroc == pytest.approx(auroc(found.probe(x[found.split.test]), y[found.split.test]))
    again = recoverability(x, y, generator=generator(0, "probe"))
    assert (again.auroc, again.low, again.shuffled) == (found.auroc, found.low, found.shuffled)
    flipped = recoverability(x, ~y, generator=generator(0, "probe"))
    assert flipped.auroc == pytest.approx(found.auroc, abs=1e-6)


def test_random_features_say_nothing_about_unseen_items_even_when_they_fit_the_seen_ones():
    areas = []
    for seed in range(6):
        x, y = randn(100, 400, seed=seed), randn(100, seed=seed + 50) > 0
        found = recoverability(x, y, generator=generator(seed, "probe"), **QUICK)
        assert found.train > 0.95
        assert found.gap == pytest.approx(found.train - found.auroc)
        areas.append(found.auroc)
    assert abs(sum(areas) / 6 - 0.5) < 0.1


def test_nothing_of_a_row_that_is_scored_reaches_the_probe(monkeypatch):
    """More features than rows: a scaler that has seen all rows would be told here."""
    x, y = randn(100, 400), randn(100, seed=1) > 0
    seed = {"generator": generator(0, "probe"), **QUICK}
    found = recoverability(x, y, **seed)
    for part in (found.split.test, found.split.validation):
        torch.testing.assert_close(found.probe.mean, x[found.split.train].double().mean(0))
        moved, relabelled = x.clone(), y.clone()
        moved[part] = 1000 * moved[part] + 7
        if part is found.split.test:
            relabelled[part[:2]] = ~relabelled[part[:2]]
            other = recoverability(moved, relabelled, **{**seed, "generator": generator(0, "probe")})
            assert torch.equal(other.probe.weight, found.probe.weight)
            assert (other.train, other.strength) == (found.train, found.strength)

    # The check above can fail: with a scaler of all rows the probe is another one.
    fit = LinearScore.fit
    everything = torch.stack([x.double().mean(0), x.double().std(0, correction=0)])

    def leaking(states, labels, strength):
        return fit((states.double() - everything[0]) / everything[1] + 1e3, labels, strength)

    monkeypatch.setattr(LinearScore, "fit", staticmethod(leaking))
    leaked = recoverability(x, y, **{**seed, "generator": generator(0, "probe")})
    assert not torch.allclose(leaked.probe.mean, x[leaked.split.train].double().mean(0), atol=1e-3)


def test_constant_features_are_chance():
    found = recoverability(torch.ones(100, 4), randn(100) > 0, generator=generator(0, "probe"), **QUICK)
    assert (found.auroc, found.low, found.high, found.train) == (0.5, 0.5, 0.5, 0.5)


def test_parts_without_both_outcomes_are_refused():
    labels = torch.zeros(50, dtype=torch.bool)
    labels[0] = True
    with pytest.raises(ConfigError, match="nothing can be told"):
        recoverability(randn(50, 3), labels, generator=generator(0, "probe"))
    with pytest.raises(ShapeError, match="items for 50 rows"):
        recoverability(randn(50, 3), randn(50) > 0, ["a"], generator=generator(0, "probe"))


def test_transfer_shares_the_split_and_finds_what_is_common():
    x, y = cloud()
    turned = -x
    states, labels = {"one": x, "same": x + 3, "turned": turned}, dict.fromkeys(("one", "same", "turned"), y)
    found = transfer(states, labels, generator=generator(0, "probe"))
    alone = recoverability(x, y, generator=generator(0, "probe"), **QUICK).auroc
    assert found["one", "one"] == pytest.approx(alone, abs=1e-6)
    assert found["one", "same"] == pytest.approx(alone, abs=1e-6)  # an offset is no matter
    assert found["one", "turned"] == pytest.approx(1 - alone, abs=1e-6)
    with pytest.raises(ShapeError, match="same items"):
        transfer({"one": x, "two": x[:20]}, {"one": y, "two": y[:20]}, generator=generator(0, "probe"))


def test_a_router_sends_the_lowest_scores():
    scores = torch.tensor([0.9, 0.1, 0.8, 0.2])
    cheap, dear = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, True])
    assert routed(scores, cheap, dear, 0.5) == (1.0, pytest.approx(0.5 * 0.75 + 0.5 * 0.5))
    assert routed(-scores, cheap, dear, 0.5)[0] == 0.25
    assert routed(scores, cheap, dear, 0.0) == (0.5, 0.5)
    assert routed(scores, cheap, dear, 1.0) == (0.75, 0.75)


# States ---------------------------------------------------------------------------------------------------------------


def gpt2():
    settings = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, eos_token_id=2, bos_token_id=1, **settings))


def qwen2():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "initializer_range": 0.3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=SIZE, eos_token_id=2, pad_token_id=0, **sizes, **heads))


def llama():
    return small_llama(0, vocabulary=SIZE, width=32, layers=3, longest=128, spread=0.3)


@pytest.fixture(scope="module", params=[gpt2, llama, qwen2], ids=lambda make: make.__name__)
def any_backbone(request):
    with isolated(0, "models"):
        model = request.param()
    return Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), request.param.__name__)


def truth(backbone, text):
    """States of every layer at every token of a text alone, and its logits, by transformers itself."""
    with torch.no_grad():
        out = backbone.model(**backbone.encode([text]), output_hidden_states=True)
    return [state[0] for state in out.hidden_states[1:]], out.logits[0]


def test_states_are_those_of_the_last_token_of_each_prompt(any_backbone):
    solver = IntentionCollapse(IntentionCollapseConfig(layers=(0, 1), batch=3), any_backbone)
    found = solver.capture(PROMPTS)
    assert found.sites == ("layers.0.resid_post", "layers.1.resid_post")
    assert (len(found), tuple(found.states.shape), tuple(found.features.shape)) == (4, (4, 2, 32), (4, 64))
    for row, prompt in enumerate(PROMPTS):
        states, logits = truth(any_backbone, prompt)
        for layer in (0, 1):
            torch.testing.assert_close(found.states[row, layer], states[layer][-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.logits[row], logits[-1], atol=1e-4, rtol=1e-4)


def test_states_can_be_those_of_other_places(any_backbone):
    solver = IntentionCollapse(IntentionCollapseConfig(layers=(1,)), any_backbone)
    first = solver.capture(PROMPTS, place=0)
    written = ["7 8", "", "9", "a a a"]
    after = solver.capture(PROMPTS, written)
    for row, (prompt, text) in enumerate(zip(PROMPTS, written, strict=True)):
        torch.testing.assert_close(first.states[row, 0], truth(any_backbone, prompt)[0][1][0], atol=1e-4, rtol=1e-4)
        whole = truth(any_backbone, f"{prompt} {text} </s>")
        torch.testing.assert_close(after.states[row, 0], whole[0][1][-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after.logits[row], whole[1][-1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ShapeError, match="1 texts for 4"):
        solver.capture(PROMPTS, ["7"])


def test_answers_are_greedy_and_carry_entropy_and_score(any_backbone):
    before = {name: value.clone() for name, value in any_backbone.model.state_dict().items()}
    solver = IntentionCollapse(IntentionCollapseConfig(top_k=3), any_backbone)
    traces = solver.answer(PROMPTS, budget=Budget(tokens=6))
    assert [trace.text for trace in traces] == any_backbone.complete(PROMPTS, tokens=6, seed=0,
                                                                    temperature=0).continuations  # fmt: skip
    found = solver.capture(PROMPTS)
    whole, some = solver.entropy(found), solver.top_entropy(found)
    for row, trace in enumerate(traces):
        assert set(trace.signals) == {"entropy", "top_entropy"}
        assert trace.signals["entropy"][0] == pytest.approx(float(whole[row]), abs=1e-4)
        assert trace.signals["top_entropy"][0] == pytest.approx(float(some[row]), abs=1e-4)
        assert trace.cost.prefill_tokens == len(PROMPTS[row].split())
        assert 1 <= trace.cost.decoded_tokens <= 6
    asked = [f"{one} {other}" for one in WORDS for other in WORDS]
    labels = torch.tensor([text.split()[1] in WORDS[:9] for text in asked])
    solver = IntentionCollapse(IntentionCollapseConfig(**QUICK), any_backbone)
    recovered = solver.fit(solver.capture(asked), labels, generator=generator(0, "probe"))
    assert recovered.auroc > 0.7
    single = [solver.answer([text], budget=Budget(tokens=2))[0].signals["score"][0] for text in asked[:4]]
    scores = [trace.signals["score"][0] for trace in solver.answer(asked, budget=Budget(tokens=2))]
    assert scores[:4] == pytest.approx(single, abs=1e-3)
    assert auroc(torch.tensor(scores), labels) > 0.75  # most of them were fitted
    assert all(torch.equal(before[name], value) for name, value in any_backbone.model.state_dict().items())


def test_layers_are_chosen(backbone):
    assert IntentionCollapse(IntentionCollapseConfig(last=1), backbone).sites == ("layers.1.resid_post",)
    assert len(IntentionCollapse(IntentionCollapseConfig(), backbone).sites) == 2  # there are no more
    for wrong in ((2,), (0, 0), (-1,)):
        with pytest.raises(ConfigError, match="different layers"):
            IntentionCollapse(IntentionCollapseConfig(layers=wrong), backbone)
    for wrong in ({"last": 0}, {"strengths": ()}, {"strengths": (0.0,)}):
        with pytest.raises(ConfigError):
            IntentionCollapseConfig(**wrong)


# The experiment -------------------------------------------------------------------------------------------------------


def test_every_arm_measures_what_its_claims_need(tmp_path, monkeypatch):
    tiny = ChainModel(width=16, layers=1, steps=3, rows=4)
    config = replace(module.PRESETS["smoke"], count=120, many=60, few=20, chains=tiny)
    answered = module._Answered.by.__func__

    def by(cls, solver, *given):
        """As a model that can do half of it: one of three updates can do nothing."""
        done = answered(cls, solver, *given)
        known = torch.tensor([item.question.split()[3] in "01234" for item in done.problems.items])
        return replace(done, steps=known, right=known | done.right)

    monkeypatch.setattr(module._Answered, "by", classmethod(by))
    found = {}
    for arm in module.ARMS:
        context = ArmContext(tmp_path / arm, tmp_path / "shared", "reason/intention-collapse", seed=0)
        done = module.run_arm(arm, config, context)
        found[arm] = done.measures
        assert done.arrays["curve"].shape[1] == 2
        context.close()
    assert set().union(*found.values()) == set(module.MEASURES)
    for claim in module.CLAIMS:
        for arm, measure in claim.pairs:
            assert math.isfinite(found[arm][measure]), (arm, measure)
    assert found["first"]["recov"] == 0.5
    assert found["mixed"]["length_within"] == 0.5
    assert found["intention"]["entropy"] >= found["intention"]["top_entropy"]


def test_words_are_counted_alone_and_beside_each_other():
    found = module._words(["a b a b", "a a b", "c"])
    assert found.shape == (3, 6), "a, b, a b, b a, a a and c"
    assert found.tolist()[0] == [2, 2, 2, 1, 0, 0]
    assert found.tolist()[1] == [2, 1, 1, 0, 1, 0]
    assert found.tolist()[2] == [0, 0, 0, 0, 0, 1]


def test_the_untrained_arm_reads_other_weights_and_the_same_answers(tmp_path):
    tiny = ChainModel(width=16, layers=1, steps=3, rows=4)
    config = replace(module.PRESETS["smoke"], count=40, many=20, few=10, chains=tiny)
    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "reason/intention-collapse", seed=0)
    solver = IntentionCollapse(config.method, chains_backbone(context, tiny))
    done = module._Answered.by(solver, module._problems(config, context), config, context)
    own, other, words = (module._states(arm, solver, done, context) for arm in ("intention", "untrained", "words"))
    context.close()
    assert own.states.shape == other.states.shape
    assert not torch.allclose(own.states, other.states, atol=1e-2)
    assert words.states.shape[:2] == (40, 1)
    assert torch.equal(words.features, module._words(done.questions))


class Known:
    """Stands in for a method: its states are 1 for prompts with an even number."""

    config = IntentionCollapseConfig(**QUICK, batch=40)
    sites = ("layers.0.resid_post",)

    def __init__(self):
        self.written = []

    def capture(self, prompts, written=None, *, place=-1):
        self.written += written or []
        even = torch.tensor([float(prompt.split()[0]) % 2 == 0 for prompt in prompts])
        states = 0.1 * randn(len(prompts), 1, 4) + even[:, None, None]
        return Intention(self.sites, states, torch.stack([9.0 * even, torch.zeros(len(prompts))], 1))

    def entropy(self, intention):
        return entropy(intention.logits)

    top_entropy = entropy


@pytest.fixture
def known(tmp_path):
    """Chains of which those with an even number are solved, and what reads them."""
    items = [Problem(f"{number} = ?", "1", ("1",) * (1 + number % 3)) for number in range(240)]
    even = torch.arange(240) % 2 == 0
    cost = Cost(prefill_tokens=1, latent_steps=0, decoded_tokens=1, seconds=0.0)
    traces = [Trace(prompt=item.question, text=f"text {n}", answer="1", cost=cost) for n, item in enumerate(items)]
    done = module._Answered(Problems("mine", items, str, lambda problem, given: True), traces, even, even)
    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "reason/intention-collapse", seed=0)
    yield Known(), done, context
    context.close()


def test_a_model_that_is_never_right_is_named(tmp_path, backbone):
    path = backbone.save(tmp_path / "random")
    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "reason/intention-collapse", seed=0)
    config = replace(module.PRESETS["smoke"], backbone=str(path), count=40, many=20, few=10)
    with pytest.raises(ConfigError, match=r"answers none of 40 questions rightly[\s\S]*another model"):
        module.run_arm("intention", config, context)
    context.close()


def test_states_after_the_answer_are_read_behind_its_text(known):
    solver, done, context = known
    module._states("after", solver, done, context)
    assert solver.written == [trace.text for trace in done.traces]
    for arm in ("intention", "first"):
        module._states(arm, solver, done, context)
    assert len(solver.written) == len(done.traces)


def test_states_are_read_in_halved_batches_when_memory_does_not_suffice(known):
    solver, done, context = known
    whole, sizes = solver.capture, []

    def limited(prompts, *given, **named):
        sizes.append(len(prompts))
        if len(prompts) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(prompts, *given, **named)

    solver.capture = limited
    found = module._captured(solver, done.questions, context)
    assert sizes == [40, *[20] * 12]
    assert (found.states[:, 0, 0] > 0.5).tolist() == done.steps.tolist()
    assert len(found.logits) == 240


def test_low_entropy_is_taken_for_success(known):
    solver, done, context = known
    found = module._before(solver, module._states("intention", solver, done, context), done, context)
    assert found["entropy_recov"] == 1.0


def test_a_router_sends_what_the_probe_doubts(known, monkeypatch):
    """Direct answers to even numbers are right, those in steps always: the odd ones are worth sending."""
    solver, done, context = known
    direct = replace(done, steps=done.right)
    monkeypatch.setattr(module._Answered, "by", classmethod(lambda *given: direct))
    every = replace(done, right=torch.arange(240) % 10 != 0)
    config = replace(module.PRESETS["smoke"], share=0.5)
    states = module._states("intention", solver, done, context)
    found = module._regimes(solver, states, every, config, context)
    assert found["routed"] > 0.85
    assert found["routed_random"] == pytest.approx(0.7, abs=0.1)


def test_the_length_is_left_out_within_lengths(known):
    """States that know nothing but the length."""
    solver, done, context = known
    lengths = torch.tensor([len(item.steps) for item in done.problems.items])
    read = Intention(solver.sites, lengths[:, None, None] + 0.01 * randn(240, 1, 4), randn(240, 2))
    labels = lengths <= 1 + (torch.arange(240) % 7 == 0).long()
    done = replace(done, steps=labels)
    found = module._recov(solver, read, labels, context, shuffles=0)
    measures = module._lengths(read, done, found)
    assert measures["length"] > 0.9
    assert measures["length_within"] == 0.5
    assert found.auroc > 0.85
    assert measures["within"] < 0.75


def test_rows_of_one_item_make_no_interval_narrower():
    random = torch.Generator().manual_seed(4)
    labels = torch.rand(150, generator=random) < 0.5
    states = torch.randn(150, 4, generator=random) + labels.unsqueeze(1)
    items = list(range(150))
    widths = []
    for copies in (1, 10):
        found = recoverability(
            states.repeat(copies, 1), labels.repeat(copies), items * copies, generator=torch.Generator().manual_seed(0)
        )
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.3)  # by rows it would be a third
