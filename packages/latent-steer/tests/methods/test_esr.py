"""Attempts, rates, trials that are their own, replays, calibration, detectors, and what a model is taught."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from latent.core.activations import Add, Clamp, ClampFeature, capture
from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.moments import Moments
from latent.core.errors import ConfigError, LatentError, ProvenanceError, UnknownName
from latent.core.language import Backbone
from latent.core.language.training import IGNORED, LanguageModelLearner, small_llama, word_tokenizer
from latent.core.nn.sparse import SparseAutoencoder, SparseAutoencoderConfig
from latent.core.run.context import ArmContext
from latent.core.run.seed import isolated
from latent.steer.data.corrections import SelfCorrectionMix, answer, collate, correction
from latent.steer.detectors import contrastive_latents, deranged, pooled_code, random_active
from latent.steer.experiments import derailing, topics
from latent.steer.experiments import esr as module
from latent.steer.methods.esr import EndogenousResistance, EndogenousResistanceConfig
from latent.steer.trials import (
    Attempt,
    MarkerJudge,
    Order,
    Rate,
    Sampling,
    Trial,
    Trials,
    _OwnNoise,
    run_trials,
)

WIDTH = 16
WORDS = ("left", "right", "up", "down", "WAIT")
CPU = torch.device("cpu")


def share(prompt, text):
    return text.split().count(prompt.split()[0]) / len(text.split())


JUDGE = MarkerJudge(("WAIT",), share)


@pytest.fixture(scope="module")
def tiny():
    model = small_llama(0, vocabulary=3 + len(WORDS), width=WIDTH, layers=2, longest=32, spread=0.4)
    return Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), "tiny")


@pytest.fixture(scope="module")
def directions(tiny):
    """Two of one site and one of another."""
    found = {}
    for name, layer in (("a", 0), ("b", 0), ("c", 1)):
        random = torch.Generator().manual_seed(ord(name))
        config = DirectionConfig(width=WIDTH, site=f"layers.{layer}.resid_post", model=tiny.fingerprint)
        found[name] = Direction(config).set(
            torch.randn(WIDTH, generator=random), Moments.of(torch.randn(20, WIDTH, generator=random))
        )
    return found


def orders(strengths=(0.0, 0.7, 1.5)):
    prompts = ("left", "right up", "up down left right")
    return [
        Order(prompts[index % 3], name, strength, 100 * index + place)
        for strength in strengths
        for place, name in enumerate("abc")
        for index in range(4)
    ]


SAMPLING = Sampling(tokens=6, temperature=1.0)


# Attempts and rates ---------------------------------------------------------------------------------------------------


def test_an_attempt_begins_where_the_model_says_so_and_nowhere_else():
    judge = MarkerJudge(("WAIT", "WAIT1", "hold on."), share)
    texts = [attempt.text for attempt in judge("left", "right up WAIT1 left WAIT left up hold on. left")]
    assert texts == ["right up", "left", "left up", "left"]
    assert [attempt.score for attempt in judge("left", "right left WAIT left left")] == [0.5, 1.0]
    assert len(judge("left", "WAITING left AWAIT")) == 1
    assert [attempt.text for attempt in judge("left", "WAIT WAIT left WAIT")] == ["left"]  # nothing is no attempt
    assert judge("left", "") == judge("left", " WAIT ") == []
    assert len(MarkerJudge((), share)("left", "left WAIT")) == 1


def trial(*scores, strength=1.0):
    return Trial(Order("left", "a", strength, 0), "", tuple(Attempt("x", score) for score in scores))


def test_rates_count_restarts_and_recoveries_and_say_what_was_left_out():
    some = Trials((trial(0.5), trial(0.2, 0.9, 0.4), trial(0.4, 0.6, 0.4), trial(0.6, 0.1), trial()))
    summary = some.summary()
    assert (summary.n, summary.excluded) == (4, 1)
    assert summary.multi_attempt == Rate(3, 4)
    assert summary.resistance == Rate(1, 4)  # the last against the first, and better, not equal
    assert summary.improvement == Rate(1, 3)
    assert summary.first_score == pytest.approx((0.5 + 0.2 + 0.4 + 0.6) / 4)
    assert summary.gain == pytest.approx((0.2 + 0.0 - 0.5) / 3)
    nothing = Trials((trial(),)).summary()
    assert math.isnan(nothing.first_score)
    assert math.isnan(nothing.multi_attempt.value)
    assert nothing.multi_attempt.interval == (0.0, 1.0)


def test_trials_are_chosen_by_strength():
    some = Trials((trial(1.0, strength=0.0), trial(0.5), trial(0.2, strength=2.0)))
    assert some.strengths == [0.0, 1.0, 2.0]
    assert [len(some.at(1.0)), len(some.steered), len(some[1:])] == [1, 2, 2]
    assert some.steered.summary().first_score == pytest.approx(0.35)


# Trials ---------------------------------------------------------------------------------------------------------------


def test_a_trial_does_not_depend_on_its_batch(tiny, directions):
    whole = run_trials(tiny, orders(), directions, JUDGE, SAMPLING)
    parts = run_trials(tiny, orders(), directions, JUDGE, replace(SAMPLING, batch=5))
    backwards = run_trials(tiny, orders()[::-1], directions, JUDGE, SAMPLING)
    assert whole.records == parts.records == backwards.records[::-1]
    assert len({trial.response for trial in whole}) > 20


def test_a_replay_is_the_same_to_the_bit_and_an_inactive_latent_changes_nothing(tiny, directions):
    base = run_trials(tiny, orders(), directions, JUDGE, SAMPLING)
    assert run_trials(tiny, base.orders, directions, JUDGE, SAMPLING) == base
    with isolated(0, "sae"):
        sae = SparseAutoencoder(SparseAutoencoderConfig(hidden=WIDTH, latents=32, k=4))
    with torch.no_grad():
        sae.encoder_bias[5] = -1e6  # never among the greatest
        sae.encoder_bias[6] = 1e2
    for latent, same in ((5, True), (6, False)):
        clamp = {"layers.1.resid_post": ClampFeature(sae, latent, value=0.0)}
        assert (run_trials(tiny, base.orders, directions, JUDGE, SAMPLING, extra=clamp) == base) == same


def test_strength_zero_is_the_model_as_it_is_and_others_are_not(tiny, directions):
    base = run_trials(tiny, orders(), directions, JUDGE, SAMPLING)
    plain = run_trials(tiny, orders(strengths=(0.0,)) * 3, directions, JUDGE, SAMPLING)
    same = [one.response == other.response for one, other in zip(base, plain, strict=True)]
    assert all(same[:12])
    assert sum(same[12:]) < 12


def test_steering_begins_at_the_last_token_of_the_prompt(tiny, directions):
    order = Order("up down left", "a", 0.8, 0)
    shown = []
    for strength in (0.8, 0.0):
        with capture(tiny.model, "layers.1.resid_pre") as acts:
            run_trials(tiny, [replace(order, strength=strength)] * 2, directions, JUDGE, replace(SAMPLING, tokens=2))
        shown.append(acts.prefill("layers.1.resid_pre")[0])
    moved = shown[0] - shown[1]
    assert not bool(moved[:-1].any())
    torch.testing.assert_close(moved[-1], 0.8 * directions["a"].step("norm"))


def test_further_operations_find_what_steering_made_and_act_at_the_same_tokens(tiny, directions):
    site, vector = directions["a"].config.site, directions["a"].vector
    clamp = {site: Clamp(vector, low=0.0, high=0.0)}
    asked = [replace(order, distractor="a") for order in orders((0.0,))]
    steered = [replace(order, strength=2.0) for order in asked]
    one, two = (run_trials(tiny, some, directions, JUDGE, SAMPLING, extra=clamp) for some in (asked, steered))
    assert [trial.response for trial in one] == [trial.response for trial in two]  # the clamp has the last word
    shown = []
    for op in (Add(vector), Add(vector, positions=slice(0, None)), Add(vector, strength=0.0)):
        with capture(tiny.model, "layers.1.resid_pre") as acts:
            run_trials(tiny, [Order("up down", "a", 0.0, 0)], directions, JUDGE, replace(SAMPLING, tokens=2),
                       extra={site: [op]})  # fmt: skip
        shown.append(acts.prefill("layers.1.resid_pre")[0])
    assert (shown[0] != shown[2]).any(-1).tolist() == [False, True]
    assert (shown[1] != shown[2]).any(-1).tolist() == [True, True]  # positions of its own


def test_the_noise_of_a_seed_samples_the_model_s_distribution():
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0]])
    noise = _OwnNoise(range(4000), 0.7, CPU)
    drawn = noise(torch.zeros(4000, 1), logits.expand(4000, -1)).argmax(-1)
    share_of = drawn.bincount(minlength=4) / 4000
    torch.testing.assert_close(share_of, (logits[0] / 0.7).softmax(-1), atol=0.025, rtol=0)
    again = _OwnNoise([7], 0.7, CPU)(torch.zeros(1, 1), logits).argmax(-1)
    assert again[0] == drawn[7]


def test_temperature_zero_takes_the_likeliest_token(tiny, directions):
    greedy = run_trials(tiny, orders((0.0,)), directions, JUDGE, replace(SAMPLING, temperature=0.0))
    done = tiny.complete([order.prompt for order in orders((0.0,))], tokens=6, seed=3, temperature=0.0)
    assert [trial.response for trial in greedy] == done.continuations
    fresh = replace(SAMPLING, temperature=0.0, repetition_penalty=1e4, tokens=3)
    for trial in run_trials(tiny, orders((0.0,)), directions, JUDGE, fresh):
        said = trial.order.prompt.split()[-1:] + trial.response.split()
        assert len(set(said)) == len(said)


def test_wrong_orders_are_answered(tiny, directions):
    with pytest.raises(ConfigError, match="no trial"):
        run_trials(tiny, [], directions, JUDGE, SAMPLING)
    with pytest.raises(UnknownName, match="z"):
        run_trials(tiny, [Order("left", "z", 1.0, 0)], directions, JUDGE, SAMPLING)
    other = Direction(replace(directions["a"].config, model="0" * 16))
    other.load_state_dict(directions["a"].state_dict())
    with pytest.raises(ProvenanceError):
        run_trials(tiny, [Order("left", "a", 1.0, 0)], {"a": other}, JUDGE, SAMPLING)


# The procedure --------------------------------------------------------------------------------------------------------


def test_trials_are_paired_over_strengths(tiny, directions):
    procedure = EndogenousResistance(EndogenousResistanceConfig(tokens=3, trials=4))
    done = procedure.measure(tiny, ["left", "right", "up"], directions, JUDGE, [0.0, 1.0], seed=1)
    assert len(done) == 4 * 3 * 2
    pairs = [[(order.prompt, order.distractor, order.seed) for order in done.at(s).orders] for s in (0.0, 1.0)]
    assert pairs[0] == pairs[1]
    assert len({order.seed for order in done.orders}) == 12
    assert procedure.replay(tiny, done, directions, JUDGE) == done
    own = procedure.measure(tiny, {"a": ["left"], "b": ["up"], "c": ["down"]}, directions, JUDGE,
                            {"a": 0.5, "b": 1.0, "c": 2.0}, seed=1)  # fmt: skip
    asked = {(order.distractor, order.prompt, order.strength) for order in own.orders}
    assert asked == {("a", "left", 0.5), ("b", "up", 1.0), ("c", "down", 2.0)}
    with pytest.raises(ConfigError, match="no prompt for 'a'"):
        procedure.measure(tiny, [], directions, JUDGE, [1.0], seed=0)


class Logistic(EndogenousResistance):
    """Scores are 0 or 1, with a probability that falls where each direction has its threshold."""

    thresholds = {"a": 1.1, "b": 2.0, "c": 3.3}  # noqa: RUF012

    def measure(self, backbone, prompts, directions, judge, strengths, *, seed, extra=None):
        random = torch.Generator().manual_seed(seed % 2**31)
        records = []
        for name in directions:
            rate = 1 / (1 + math.exp(10 * (strengths[name] - self.thresholds[name])))
            for drawn in torch.rand(self.config.trials, generator=random).tolist():
                done = (Attempt("x", float(drawn < rate)),)
                records.append(Trial(Order("", name, strengths[name], 0), "x", done))
        return Trials(tuple(records))


def test_calibration_recovers_every_threshold_within_five_per_cent():
    settings = EndogenousResistanceConfig(target=0.5, mean=2.5, deviation=1.5, highest=5.0, trials=20, queries=20)
    found = Logistic(settings).calibrate(None, ["x"], dict.fromkeys("abc"), JUDGE, seed=0)
    for name, threshold in Logistic.thresholds.items():
        assert found[name].strength == pytest.approx(threshold, rel=0.05)
        assert len(found[name].tried) == 20
    assert len({each.tried[0] for each in found.values()} | {each.tried[-1] for each in found.values()}) > 3


def test_what_cannot_be_scored_counts_as_nothing_in_a_calibration():
    class Silent(Logistic):
        def measure(self, *arguments, **settings):
            done = super().measure(*arguments, **settings)
            return Trials(tuple(replace(each, attempts=()) for each in done))

    settings = EndogenousResistanceConfig(mean=2.5, deviation=1.5, highest=5.0, trials=20, queries=12)
    assert Silent(settings).calibrate(None, ["x"], {"c": None}, JUDGE, seed=0)["c"].strength < 0.3


def test_a_sweep_spans_three_deviations_and_no_negative_strength():
    settings = EndogenousResistanceConfig(mean=2.5, deviation=1.5, highest=5.0, trials=20, levels=7)
    procedure = Logistic(settings)
    found = procedure.calibrate(None, ["x"], dict.fromkeys("abc"), JUDGE, seed=0)
    strengths = torch.tensor([each.strength for each in found.values()])
    levels = procedure.sweep(found)
    assert levels[0] == 0.0
    assert levels[-1] == pytest.approx(float(strengths.mean() + 3 * strengths.std()), rel=1e-5)
    assert min(levels) >= 0
    with pytest.raises(ConfigError, match="no spread"):
        procedure.sweep({"a": found["a"]})


# Detectors ------------------------------------------------------------------------------------------------------------


def codes():
    """Latent 0: strict detector; 1: fires a little on topic, much off; 2: the other way round; 3: rare; 4: noise."""
    random = torch.Generator().manual_seed(0)
    on, off = torch.zeros(40, 5), torch.zeros(50, 5)
    off[:45, 0] = 1.0
    on[:, 1], off[:, 1] = 0.5, 3.0
    on[:, 2] = 2.0
    off[:5, 3] = 9.0
    on[:, 4], off[:, 4] = torch.rand(40, generator=random), torch.rand(50, generator=random)
    return on, off


def test_each_rule_chooses_what_it_says():
    on, off = codes()
    assert contrastive_latents(on, off).latents == [0]
    assert contrastive_latents(on, off, frequency=0.95).latents == []
    assert contrastive_latents(on, off, rule="gap", k=3).latents == [1, 0, 3]
    assert contrastive_latents(on, off, rule="auc", k=2).latents == [1, 0]
    found = contrastive_latents(on, off, rule="gap", k=10)
    assert 2 not in found.latents
    assert found.silent.tolist()[:3] == [1.0, 0.0, 0.0]
    assert found.fires[0] == pytest.approx(0.9)
    for wrong in ({"rule": "gap"}, {"rule": "best", "k": 2}, {"k": 0}):
        with pytest.raises((ConfigError, LatentError)):
            contrastive_latents(on, off, **wrong)


def test_pooled_codes_are_those_of_each_text_alone(tiny):
    with isolated(0, "sae"):
        sae = SparseAutoencoder(SparseAutoencoderConfig(hidden=WIDTH, latents=12, k=3))
    texts = ["left", "up down left right", "right up"]
    with torch.no_grad(), capture(tiny.model, "layers.1.resid_post") as acts:
        tiny.model(**tiny.encode(texts))
        shown = acts["layers.1.resid_post"][0]
        sae.bias.copy_(shown[-1])
        sae.encoder[:, 0] = shown[0] - shown[-1]  # a latent for padding
    pooled = pooled_code(tiny, sae, "layers.1.resid_post", texts)
    for text, row in zip(texts, pooled, strict=True):
        with torch.no_grad(), capture(tiny.model, "layers.1.resid_post") as acts:
            tiny.model(**tiny.encode([text]))
        torch.testing.assert_close(row, sae.encode(acts["layers.1.resid_post"][0]).amax(0), atol=1e-2, rtol=1e-4)


def test_everybody_gets_a_partner_of_another_group():
    groups = [0] * 5 + [1] * 3 + [2] * 2
    for seed in range(20):
        partner = deranged(10, seed=seed, groups=groups)
        assert sorted(partner) == list(range(10))
        assert all(groups[index] != groups[other] for index, other in enumerate(partner))
        alone = deranged(7, seed=seed)
        assert sorted(alone) == list(range(7))
        assert all(index != other for index, other in enumerate(alone))
    assert len({tuple(deranged(7, seed=seed)) for seed in range(20)}) > 15
    for wrong in ({"count": 1}, {"count": 4, "groups": [0, 0, 0, 1]}, {"count": 3, "groups": [0, 1]}):
        with pytest.raises(ConfigError, match="cannot be exchanged"):
            deranged(seed=0, **wrong)


def test_random_latents_are_active_and_others():
    levels = torch.tensor([0.0, 1.0, 2.0, 0.0, 0.5, 3.0])
    for seed in range(10):
        drawn = random_active(levels, 3, seed=seed, but=[2])
        assert sorted(drawn) == [1, 4, 5]
    with pytest.raises(LatentError, match="3 other latents"):
        random_active(levels, 4, seed=0, but=[2])


# What a model is taught -----------------------------------------------------------------------------------------------


def test_masked_tokens_carry_no_gradient():
    batch = collate([correction((3, 4), (5, 6, 7), (8,), (3, 3, 2)), answer((3, 4), (6, 2))])
    assert batch["labels"][0].tolist() == [IGNORED] * 5 + [8, 3, 3, 2]
    assert batch["labels"][1].tolist() == [IGNORED, IGNORED, 6, 2] + [IGNORED] * 5
    model = small_llama(0, vocabulary=9, width=8, layers=1, heads=2, longest=16)
    logits = []
    model.register_forward_hook(lambda *given: (given[-1].logits.retain_grad(), logits.append(given[-1].logits))[0])
    LanguageModelLearner(model, steps=1).step(batch, step=0)
    reached = logits[0].grad.abs().sum(-1)[:, :-1] > 0
    assert reached.tolist() == (batch["labels"][:, 1:] != IGNORED).tolist()


def test_the_mixture_has_the_ratio_and_is_a_function_of_the_step():
    normal, wrong = [answer((3,), (4, 2))], [correction((3,), (5, 6), (7,), (4, 2))]
    mix = SelfCorrectionMix(normal, wrong, 0.3, 400)
    batch = mix.batch(0, seed=1, device=CPU)
    corrected = batch["attention_mask"].sum(1) == 6
    assert float(corrected.float().mean()) == pytest.approx(0.3, abs=0.08)
    assert torch.equal(batch["input_ids"], mix.batch(0, seed=1, device=CPU)["input_ids"])
    assert not torch.equal(corrected, mix.batch(1, seed=1, device=CPU)["attention_mask"].sum(1) == 6)
    for ratio, length in ((0.0, 3), (1.0, 6)):
        assert replace(mix, ratio=ratio).batch(0, seed=1, device=CPU)["attention_mask"].sum(1).unique() == length
    unmasked = replace(mix, ratio=1.0, mask=("prompt",)).batch(0, seed=1, device=CPU)["labels"]
    assert unmasked[0].tolist() == [IGNORED, 5, 6, 7, 4, 2]
    with pytest.raises(ConfigError, match="no share"):
        SelfCorrectionMix(normal, wrong, 1.5, 4)
    with pytest.raises(ConfigError, match="empty"):
        SelfCorrectionMix(normal, [], 0.3, 4)
    with pytest.raises(ConfigError, match="no token"):
        collate(normal, mask=("prompt", "answer"))


def test_the_language_keeps_to_its_topics():
    words = topics.vocabulary(3)
    tokenizer = word_tokenizer(words)
    texts = topics.Texts.draw(200, seed=0, phrases=3)
    for normal, wrong, topic, other in zip(
        texts.normal, texts.corrections, texts.topics.tolist(), texts.others.tolist(), strict=True
    ):
        prompt, _, said = tokenizer.decode(normal.ids, skip_special_tokens=True).partition(" A ")
        assert (prompt, other != topic) == (f"Q T{topic}", True)
        assert topics.on_topic(topics.prompt_of(topic), said) == 1.0
        attempts = MarkerJudge(topics.restarts(3), topics.on_topic)(
            topics.prompt_of(topic), tokenizer.decode(wrong.ids, skip_special_tokens=True).partition(" A ")[2]
        )
        assert [attempt.score for attempt in attempts] == [0.0, 1.0]
        assert attempts[1].text == said
    follows = [(b - a) % 16 == 1 for row in texts.words.tolist() for a, b in itertools.pairwise(row)]
    assert sum(follows) / len(follows) == pytest.approx(0.9 + 0.1 / 16, abs=0.03)


# The experiment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["esr", "random", "normal"])
def test_arms_measure_what_they_say(arm, tmp_path):
    config = replace(
        module.PRESETS["smoke"], width=16, steps=3, rows=8, examples=32, latents=32, active=4, sae_steps=3, pairs=64
    )
    context = ArmContext(tmp_path / arm, tmp_path / "shared", "steer/esr", 0)
    result = module.run_arm(arm, config, context)
    context.close()
    assert set(result.measures) <= set(module.MEASURES)
    assert all(math.isfinite(value) for value in result.measures.values())
    assert ("removed" in result.measures) == (arm != "normal")
    needed = {measure for claim in module.CLAIMS for one, measure in claim.pairs if one == arm}
    assert needed <= set(result.measures)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"strengths": (0.5, 1.0, 2.0)}, {"strengths": (0.0, 2.0, 1.0)}, {"layer": 2}, {"moderate": ()}):
        with pytest.raises(ConfigError):
            derailing.Experiment(**wrong)
    for wrong in ({"tokens": 0}, {"levels": 1}, {"temperature": -1.0}, {"repetition_penalty": 0.0}):
        with pytest.raises(ConfigError):
            EndogenousResistanceConfig(**wrong)
