"""All that answers prompts on another device than the CPU: nothing of two devices meets, and answers are the same."""

import copy

import pytest
import torch

from latent.core.activations.decode import (
    Aligned,
    Gated,
    NormMatched,
    Projected,
    Raw,
    Sampling,
    SoftToken,
    decode,
    prefill,
    readout,
    replay,
)
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.seed import generator
from latent.core.testing.devices import assert_alike
from latent.reason.answering import Answering, answer_all
from latent.reason.baselines.written import BASELINES, RandomSearch, RandomSearchConfig, Written, WrittenConfig
from latent.reason.data.problem import Problem, Problems
from latent.reason.intention import dimension_curve, option_entropy
from latent.reason.methods.coconut import (
    Coconut,
    CoconutConfig,
    CoconutLearner,
    CoconutTraining,
    Curriculum,
    examples_of,
    with_markers,
)
from latent.reason.methods.intention_collapse import IntentionCollapse, IntentionCollapseConfig
from latent.reason.methods.latent_trajectory import LatentTrajectory, LatentTrajectoryConfig
from latent.reason.methods.latentmas import LatentMAS, LatentMASConfig
from latent.reason.methods.latentseek import LatentSeek, LatentSeekConfig
from latent.reason.methods.roles import Role
from latent.reason.recoverability import routed, transfer
from latent.reason.rewards import CHECKS, ExactReward, SelfReward
from latent.reason.selection import Drawn, interval, sequential
from latent.reason.trace import Budget

WORDS = [*"0123456789", "+", "-", "*", "=", "a", "b", "c", "d"]
PROMPTS = ["1 + 2 =", "3 =", "4 * 5 - 6 = a b c"]
BUDGET = Budget(tokens=5)
PROBLEMS = Problems("known", [Problem(prompt, "a") for prompt in PROMPTS], str, lambda item, text: item.answer in text)
TEAM = (Role(name="first", task="{question}"), Role(name="second", task="a", notes="b {text}"),
        Role(name="third", task="{question} d", notes="c {text}"))  # fmt: skip


def model_on(device):
    model = small_llama(0, vocabulary=3 + len(WORDS), width=16, layers=2, longest=512, spread=0.4)
    return Backbone(model.to(device).eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), "random")


def asked(kind, config, backbone, **more):
    """Return what the traces of a solver tell."""
    solver = kind(config, backbone, extract=str, keep_states=True, **more)
    streams = [generator(row, "row", device=backbone.device) for row in range(len(PROMPTS))]
    traces = solver.answer(PROMPTS, budget=BUDGET, generator=streams)
    return [(each.text, each.samples, each.cut, each.cost.inputs, dict(each.signals), each.states) for each in traces]


CONFIGS = {
    **{f"{name} baseline": config for name, (_, config) in BASELINES.items()},
    "team": LatentMASConfig(latent_steps=2),
    "team, raw": LatentMASConfig(latent_steps=2, feedback="raw"),
    "team, last": LatentMASConfig(latent_steps=2, feedback="norm-matched", handover="last"),
    "team, latents": LatentMASConfig(latent_steps=2, handover="latents", positions="restarted"),
    "team, text": LatentMASConfig(latent_steps=2, handover="text"),
    "seek": LatentSeekConfig(rho=0.6, learning_rate=0.7, max_updates=2, clip=1.0),
    "seek, noise": LatentSeekConfig(rho=0.6, search="noise", max_updates=2, noise=2.0),
    "seek, resample": LatentSeekConfig(rho=0.6, search="resample", max_updates=2),
    "path": LatentTrajectoryConfig(segment=1, samples=2, partial=True),
    "path, sequential": LatentTrajectoryConfig(segment=1, samples=2, select="sequential", threshold=-9.0),
    "path, early": LatentTrajectoryConfig(segment=1, samples=2, select="early", early=2),
}
KINDS = {
    WrittenConfig: Written,
    RandomSearchConfig: RandomSearch,
    LatentMASConfig: LatentMAS,
    LatentSeekConfig: LatentSeek,
    LatentTrajectoryConfig: LatentTrajectory,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_answers(name):
    config = CONFIGS[name]
    more = {"reward": ExactReward(PROBLEMS)} if isinstance(config, RandomSearchConfig | LatentSeekConfig) else {}
    more |= {"roles": TEAM} if isinstance(config, LatentMASConfig) else {}
    assert_alike(lambda device: asked(KINDS[type(config)], config, model_on(device), **more))


def test_answers_that_the_model_judges_itself():
    def work(device):
        backbone = model_on(device)
        reward = SelfReward(backbone, checks=CHECKS[:1], tokens=2)
        return asked(LatentSeek, CONFIGS["seek"], backbone, reward=reward)

    assert_alike(work)


def test_answers_are_kept(tmp_path):
    def work(device):
        solver = LatentMAS(CONFIGS["team"], model_on(device), roles=TEAM, extract=str, keep_states=True)
        folder = tmp_path / device.type
        given = Answering(budget=BUDGET, batch=2, states=folder / "states")
        traces = [answer_all("team", solver, PROMPTS, folder / "answers.jsonl", given) for _ in range(2)]
        assert len([*given.states.iterdir()]) == len(PROMPTS)
        return [[each.text for each in some] for some in traces]

    assert_alike(work)


def test_intentions():
    prompts = [f"{one} + {other} =" for one in range(5) for other in range(6)]
    right = torch.arange(30) % 2 == 0

    def work(device):
        backbone, random = model_on(device), generator(0, "probe", device=device)
        config = IntentionCollapseConfig(shuffles=1, resamples=9)
        solver = IntentionCollapse(config, backbone, extract=str)
        held, after = solver.capture(prompts), solver.capture(prompts, ["1", "2 3"] * 15)
        regimes = {"now": held.features, "then": after.features}
        found = solver.fit(held, right, generator=random)
        scores = found.probe(held.features)
        numbers = [found.auroc, found.low, found.high, *transfer(regimes, dict.fromkeys(regimes, right),
                   generator=random).values(), *routed(scores, right, ~right, 0.3)]  # fmt: skip
        signals = [solver.entropy(held), solver.top_entropy(held), *option_entropy(held.logits, [3, 4])]
        dimensions = [solver.dimension(held).per_layer, dimension_curve(held.states, (5, 10), random)]
        return numbers, regimes, scores, signals, dimensions, asked(IntentionCollapse, config, backbone)

    assert_alike(work)


def test_samples_of_the_cpu_are_drawn_from_by_a_generator_of_another_device():
    def work(device):
        good = torch.rand(6, 4, generator=generator(0, "samples"))
        drawn = Drawn(good, good > 0.4, (9 * good).long(), good[:, 0] > 0.5)
        random = generator(0, "interval", device=device)
        return interval(lambda some: sequential(drawn.of(some), 0.7).accuracy, 6, generator=random, resamples=9)

    assert_alike(work)


@pytest.mark.parametrize("thought", ["latent", "pause", "zero"])
def test_coconut(thought):
    config = CoconutConfig(latents=2, thought=thought, begin="")
    problems = [Problem(prompt, "d", ("a b", "c", "b")) for prompt in PROMPTS]

    def work(device):
        trained = with_markers(model_on(device), config, like="a")
        source = Curriculum(
            examples=examples_of(trained, problems, config), stages=(0, 1, 2), updates=1, most=2, rows=4, mixing=0.5
        )
        learner = CoconutLearner(trained, config, CoconutTraining(renew=2, learning_rate=1e-2))
        batches = (source.batch(step, seed=0, device=device) for step in range(3))
        losses = [learner.step(batch, step=step)["loss"] for step, batch in enumerate(batches)]
        learner.load_state_dict(copy.deepcopy(learner.state_dict()))
        trained.model.eval()
        return losses, asked(Coconut, config, trained)

    assert_alike(work)


def read(backbone):
    given = backbone.encode(PROMPTS)
    return prefill(backbone.model, given["input_ids"], given["attention_mask"])


FEEDBACKS = {
    "raw": lambda model: Raw(),
    "norm": NormMatched,
    "aligned": Aligned,
    "soft": SoftToken,
    "soft-cut": lambda model: SoftToken(model, top_k=4, top_p=0.8, scale="spread"),
    "soft-nucleus": lambda model: SoftToken(model, top_p=0.8, scale="none"),
    "gated": Gated,
    "projected": Projected,
}


@pytest.mark.parametrize("name", FEEDBACKS)
def test_decoding(name):
    def work(device):
        backbone = model_on(device)
        rollout = decode(
            backbone.model, read(backbone), latent_steps=torch.tensor([2, 0, 3]), max_new_tokens=4,
            feedback=FEEDBACKS[name](backbone.model), mix=lambda tokens: tokens[:, -1] % 2 == 0, stop=[2, [5, 6]],
            sampling=Sampling(temperature=1.0, top_p=0.9), generator=generator(0, "here"),
        )  # fmt: skip
        found = [rollout.tokens, rollout.log_probs, rollout.states, readout(backbone.model, rollout.states)]
        return *found, *(replay(backbone.model, rollout, cached=cached) for cached in (True, False))

    assert_alike(work)


def test_memories():
    def work(device):
        backbone = model_on(device)
        model, ids = backbone.model, backbone.encode(PROMPTS)["input_ids"]
        memory = decode(model, read(backbone), latent_steps=2, max_new_tokens=2).memory
        others = memory.fork(2).select([0, 3, 4]), memory.crop(1), memory.keep(memory.positions % 3 != 1), memory
        after = [prefill(model, ids[:, -2:], memory=each) for each in others]
        with torch.no_grad():
            last = [decode(model, after[0], max_new_tokens=2, static=static, stop=()) for static in (True, False)]
        return [(each.mask, each.logits) for each in after], [(each.tokens, each.states) for each in last]

    assert_alike(work)
