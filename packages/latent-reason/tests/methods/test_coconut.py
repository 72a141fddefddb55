"""The chain is exact, differentiable to its first latent, and a row's own; the curriculum replaces what it says."""

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from latent.core.activations.decode import Raw, prefill
from latent.core.errors import ConfigError, LatentError, ShapeError
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.reason.data.problem import Problem
from latent.reason.experiments import coconut as module
from latent.reason.methods.coconut import (
    Coconut,
    CoconutConfig,
    CoconutLearner,
    CoconutTraining,
    Curriculum,
    Example,
    examples_of,
    feedback_of,
    likelihood,
    think,
    with_markers,
)
from latent.reason.trace import Budget, Cost, Trace

CONFIG = CoconutConfig(latents=3)
MARKERS = (CONFIG.start, CONFIG.pause, CONFIG.end)
WORDS = [*"abcdefgh", "<<", "###", "?", *MARKERS]
SIZE = 3 + len(WORDS)
START, PAUSE, END = (3 + WORDS.index(word) for word in MARKERS)
CPU = torch.device("cpu")
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
PROBLEMS = [
    Problem("a b c ?", "c", ("a b", "b c")),
    Problem("d e f a b c g h ?", "h", ("d e", "e f", "f a", "a h")),
    Problem("g ?", "g", ("g",)),
    Problem("h a ?", "b"),
]


def gpt2():
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
    config = GPT2Config(vocab_size=SIZE, eos_token_id=2, bos_token_id=1, pad_token_id=0, **settings)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return GPT2LMHeadModel(config)


def qwen2():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=SIZE, eos_token_id=2, pad_token_id=0, **sizes, **heads))


def llama():
    return small_llama(0, vocabulary=SIZE, width=32, layers=2, longest=64, spread=0.2)


@pytest.fixture(params=[gpt2, llama, qwen2], ids=lambda make: make.__name__)
def backbone(request):
    with isolated(0, "models"):
        model = request.param()
    return Backbone(model.eval(), word_tokenizer(WORDS), request.param.__name__)


@pytest.fixture
def small():
    return Backbone(llama(), word_tokenizer(WORDS), "small")


def curriculum(backbone, config=CONFIG, **settings):
    return Curriculum(
        **{
            "examples": examples_of(backbone, PROBLEMS, config),
            "stages": (0, 1, 2, 3, 4),
            "updates": 10,
            "most": 3,
            "rows": 12,
            "mixing": 1.0,
            **settings,
        }
    )


def a_batch(backbone, config=CONFIG, **settings):
    """A batch whose rows have different numbers of latents, some of them none."""
    batch = curriculum(backbone, config, **settings).batch(1, seed=0, device=CPU)
    assert {0, 3} <= set(batch["latents"].tolist()), batch["latents"]
    return batch


def chances(backbone, batch, config=CONFIG, *, cached=True):
    memory = prefill(backbone.model, batch["question"], batch["question_mask"])
    memory = think(backbone.model, memory, batch["latents"], feedback_of(backbone, config))
    return likelihood(backbone.model, memory, batch["written"], cached=cached)


def by_hand(model, question, latents, written, vector=None):
    """The chain of one row without cache, padding or decode loop: everything is read again for each latent."""
    inputs = model.get_input_embeddings()(torch.tensor([question]))
    for _ in range(latents):
        if vector is None:
            states = model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
            made = states[:, -1:]
        else:
            made = vector.expand(1, 1, -1)
        inputs = torch.cat([inputs, made], 1)
    inputs = torch.cat([inputs, model.get_input_embeddings()(torch.tensor([written]))], 1)
    logits = model(inputs_embeds=inputs, use_cache=False).logits[0].log_softmax(-1)
    ends = logits[-len(written) - 1 : -1]
    return ends.gather(1, torch.tensor(written).unsqueeze(1))[:, 0]


def rows_of(batch):
    for row in range(len(batch["latents"])):
        question = batch["question"][row][batch["question_mask"][row] == 1].tolist()
        written = [token for token in batch["written"][row].tolist() if token >= 0]
        yield row, question, int(batch["latents"][row]), written


# The chain ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_padded_batch_is_each_row_by_hand(backbone):
    batch = a_batch(backbone)
    found = chances(backbone, batch)
    for row, question, latents, written in rows_of(batch):
        expected = by_hand(backbone.model, question, latents, written)
        torch.testing.assert_close(found[row, : len(written)], expected, **CLOSE)
        assert (found[row, len(written) :] == 0).all()


@torch.no_grad()
def test_the_cached_chain_is_one_pass_over_its_inputs(backbone):
    batch = a_batch(backbone)
    both = [chances(backbone, batch, cached=cached) for cached in (True, False)]
    assert float((both[0] - both[1]).abs().max()) < 1e-5
    assert float(both[0].abs().max()) > 1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pause", "zero"])
def test_other_vectors_in_their_place(backbone, kind):
    config = replace(CONFIG, thought=kind)
    batch = a_batch(backbone, config)
    token = backbone.model.get_input_embeddings().weight[PAUSE]
    vector = token if kind == "pause" else torch.zeros(32)
    found = chances(backbone, batch, config)
    for row, question, latents, written in rows_of(batch):
        expected = by_hand(backbone.model, question, latents, written, vector)
        torch.testing.assert_close(found[row, : len(written)], expected, **CLOSE)
    assert not torch.allclose(found, chances(backbone, batch))


@torch.no_grad()
def test_zeros_are_a_pause_token_without_an_embedding(small):
    batch = a_batch(small)
    zeros = chances(small, batch, replace(CONFIG, thought="zero"))
    pause = chances(small, batch, replace(CONFIG, thought="pause"))
    assert not torch.equal(zeros, pause)
    small.model.get_input_embeddings().weight[PAUSE] = 0.0
    # The logit of the pause token changes with its embedding, and with it all probabilities: both are computed again.
    again = [chances(small, batch, replace(CONFIG, thought=kind)) for kind in ("zero", "pause")]
    assert torch.equal(*again)


def test_without_latents_it_is_a_plain_language_model(backbone):
    config = replace(CONFIG, thought="none")
    batch = curriculum(backbone, config, stages=(0,), mixing=0.0, per_step=0).batch(0, seed=0, device=CPU)
    loss = CoconutLearner(backbone, config, CoconutTraining()).loss(batch)
    losses = []
    for _, question, latents, written in rows_of(batch):
        assert latents == 0
        ids = torch.tensor([question + written])
        logits = backbone.model(ids).logits[0, len(question) - 1 : -1]
        losses.append(cross_entropy(logits, torch.tensor(written), reduction="none"))
    torch.testing.assert_close(loss, torch.cat(losses).mean(), **CLOSE)


def test_gradients_reach_the_first_latent_through_all_others(backbone):
    """The vector of the first latent moves the loss only by way of the chain."""
    tokens = torch.tensor([[3, 4, START]])
    made = []

    class Watched(Raw):
        def forward(self, thought):
            vector = super().forward(thought)
            vector.retain_grad()
            made.append(vector)
            return vector

    memory = think(backbone.model, prefill(backbone.model, tokens), 4, Watched())
    likelihood(backbone.model, memory, torch.tensor([[END, 5, 2]]))[0, 1:].sum().backward()
    assert len(made) == 4
    assert all(float(vector.grad.norm()) > 0 for vector in made)
    # The total derivative by a finite difference of the whole chain, along one direction.
    direction = torch.randn(32, generator=generator(0, "direction"))
    direction = direction / direction.norm()
    ends = []
    for size in (-1e-2, 1e-2):
        with torch.no_grad():
            memory = think(backbone.model, prefill(backbone.model, tokens), 4, FirstMoved(size * direction))
            ends.append(float(likelihood(backbone.model, memory, torch.tensor([[END, 5, 2]]))[0, 1:].sum()))
    slope = float((made[0].grad[0] * direction).sum())
    assert (ends[1] - ends[0]) / 2e-2 == pytest.approx(slope, rel=0.05, abs=2e-3)


class FirstMoved(Raw):
    """Moves the first latent."""

    def __init__(self, shift):
        super().__init__()
        self.shifts = [shift]

    def forward(self, thought):
        return super().forward(thought) + (self.shifts.pop() if self.shifts else 0)


def test_the_gradient_of_a_batch_is_that_of_its_rows(small):
    batch = a_batch(small)
    learner = CoconutLearner(small, CONFIG, CoconutTraining())
    total = batch["counted"].sum()
    learner.loss(batch).backward()
    whole = [p.grad.clone() for p in small.model.parameters()]
    small.model.zero_grad()
    for row in range(len(batch["latents"])):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        (learner.loss(alone) * alone["counted"].sum() / total).backward()
    for one, other in zip(whole, small.model.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-3, atol=1e-6)


def test_the_token_after_the_latents_does_not_count(small):
    batch = a_batch(small)
    assert (batch["written"][:, 0] == END).all()
    assert (batch["counted"][:, 0] == 0).all()
    chance = chances(small, batch)
    expected = -chance[:, 1:].sum() / (batch["written"][:, 1:] >= 0).sum()
    torch.testing.assert_close(CoconutLearner(small, CONFIG, CoconutTraining()).loss(batch), expected)


def test_latents_are_float32_under_bfloat16(backbone):
    batch = a_batch(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        memory = prefill(backbone.model, batch["question"], batch["question_mask"])
        memory = think(backbone.model, memory, batch["latents"], Raw())
    assert memory.vectors.dtype == torch.float32
    learner = CoconutLearner(backbone, CONFIG, CoconutTraining(), dtype=torch.bfloat16)
    assert torch.isfinite(learner.step(batch, step=0)["loss"])


# The curriculum -------------------------------------------------------------------------------------------------------


def words(tokens):
    return " ".join((["<pad>", "<s>", "</s>", *WORDS])[token] for token in tokens)


def test_stages_replace_the_first_steps(small):
    source = curriculum(small, mixing=0.0, rows=1, examples=examples_of(small, PROBLEMS[1:2], CONFIG))
    said = []
    for step in (0, 9, 10, 20, 30, 40, 1000):
        batch = source.batch(step, seed=0, device=CPU)
        ((_, question, latents, written),) = rows_of(batch)
        assert words(question) == f"d e f a b c g h ? {CONFIG.start}"
        said.append((latents, words(written).removeprefix(f"{CONFIG.end} ").removesuffix(" </s>")))
    assert said[0] == said[1] == (0, "d e e f f a a h ### h")
    assert said[2] == (1, "e f f a a h ### h")
    assert said[3] == (2, "f a a h ### h")
    assert said[4] == (3, "a h ### h")
    assert said[5] == said[6] == (3, "### h")
    assert source.latents == 3


def test_latents_are_padded_or_not(small):
    one = examples_of(small, PROBLEMS[:1], CONFIG)
    for padded, expected in ((True, 6), (False, 4)):
        source = curriculum(small, mixing=0.0, examples=one, stages=(3,), per_step=2, padded=padded)
        assert source.batch(0, seed=0, device=CPU)["latents"].unique().tolist() == [expected]


def test_mixed_stages_are_uniform_over_those_of_a_problem(small):
    example = Example((3,), (), ((4,), (5,)), (6,))
    source = curriculum(small, examples=(example,), rows=3000, most=2, stages=(0,), mixing=0.6)
    batch = source.batch(0, seed=0, device=CPU)
    shares = torch.bincount(batch["latents"], minlength=3) / 3000
    assert shares[0] == pytest.approx(0.4 + 0.2, abs=0.03)
    assert shares[1:].tolist() == pytest.approx([0.2, 0.2], abs=0.03)


def test_the_ends_of_the_curriculum_are_the_baselines(small):
    plain = replace(CONFIG, thought="none")
    assert examples_of(small, PROBLEMS, plain)[0].question == (3, 4, 5, 3 + WORDS.index("?"))
    for stages, said in (((0,), "g ### g </s>"), ((4,), "### g </s>")):
        source = curriculum(small, plain, examples=examples_of(small, PROBLEMS[2:3], plain), stages=stages, mixing=0.0)
        batch = replace(source, per_step=0).batch(5, seed=0, device=CPU)
        assert batch["latents"].sum() == 0
        assert {words(written) for *_, written in rows_of(batch)} == {said}
        assert (batch["counted"] == (batch["written"] >= 0)).all()


def test_batches_are_functions_of_seed_and_step(small):
    source = curriculum(small, mixing=0.5)
    one, again, later, other = (
        source.batch(step, seed=seed, device=CPU)["question"] for step, seed in ((3, 0), (3, 0), (4, 0), (3, 1))
    )
    assert torch.equal(one, again)
    assert one.shape != later.shape or not torch.equal(one, later)
    assert one.shape != other.shape or not torch.equal(one, other)


@pytest.mark.parametrize(
    "wrong", [{"stages": ()}, {"stages": (-1,)}, {"updates": 0}, {"mixing": 1.5}, {"examples": ()}]
)
def test_curricula_that_cannot_be_are_refused(small, wrong):
    with pytest.raises(ConfigError):
        curriculum(small, **wrong)


# The learner ----------------------------------------------------------------------------------------------------------


def test_the_optimiser_is_made_anew_and_warms_up_again(small):
    learner = CoconutLearner(small, CONFIG, CoconutTraining(renew=3, warmup=2, learning_rate=1e-3))
    batch = a_batch(small)
    counts, rates = [], []
    for step in range(5):
        learner.step(batch, step=step)
        state = learner.state_dict()["optimiser"]
        counts.append(int(state["state"][0]["step"]))
        rates.append(state["param_groups"][0]["lr"])
    assert counts == [1, 2, 3, 1, 2]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4, 1e-3])


def test_training_learns_the_training_problems(small):
    source = curriculum(small, stages=(4,), mixing=0.0)
    learner = CoconutLearner(small, CONFIG, CoconutTraining(learning_rate=1e-2))
    first = learner.loss(source.batch(0, seed=1, device=CPU)).item()
    for step in range(40):
        metrics = learner.step(source.batch(step, seed=0, device=CPU), step=step)
        assert set(metrics) == set(CoconutLearner.METRICS)
    small.model.eval()
    assert learner.loss(source.batch(0, seed=1, device=CPU)).item() < first / 4
    answers = Coconut(CONFIG, small, extract=str.split).answer([each.question for each in PROBLEMS])
    assert [trace.answer[-1] for trace in answers] == [each.answer for each in PROBLEMS]
    # What was learned stands on the latents: the same model does not answer so with zeros in their place.
    with torch.no_grad():
        batch = source.batch(0, seed=1, device=CPU)
        assert not torch.allclose(chances(small, batch), chances(small, batch, replace(CONFIG, thought="zero")))


def test_frozen_models_are_not_trained(small):
    small.model.requires_grad_(requires_grad=False)
    with pytest.raises(ConfigError, match="frozen") as error:
        CoconutLearner(small, CONFIG, CoconutTraining())
    assert "with_markers" in error.value.hint


# Answers --------------------------------------------------------------------------------------------------------------

PROMPTS = [each.question for each in PROBLEMS]
BUDGET = Budget(tokens=6)


@pytest.mark.parametrize("kind", ["latent", "pause", "zero", "none"])
def test_answers_are_those_of_each_prompt_alone(backbone, kind):
    reasoner = Coconut(replace(CONFIG, thought=kind), backbone, extract=str, keep_states=True)
    before = copy.deepcopy(backbone.model.state_dict())
    together = reasoner.answer(PROMPTS, budget=BUDGET)
    for prompt, trace in zip(PROMPTS, together, strict=True):
        (alone,) = reasoner.answer([prompt], budget=BUDGET)
        assert alone.text == trace.text
        assert replace(alone.cost, seconds=0) == replace(trace.cost, seconds=0)
        assert (alone.states is None) == (kind == "none")
        if alone.states is not None:
            torch.testing.assert_close(alone.states, trace.states, **CLOSE)
            assert alone.states.shape == (3, 32)
        thinks = kind != "none"
        assert trace.cost.prefill_tokens == len(prompt.split()) + 2 * thinks
        assert trace.cost.latent_steps == 3 * thinks
        assert 1 <= trace.cost.decoded_tokens <= 6
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())


def test_answers_are_the_likeliest_of_what_is_trained(backbone):
    """Training and answering read the same tokens: the greedy answer is the likeliest at each place."""
    (example,) = examples_of(backbone, PROBLEMS[:1], CONFIG)
    (trace,) = Coconut(CONFIG, backbone, extract=str).answer(PROMPTS[:1], budget=Budget(tokens=3))
    model = backbone.model
    ids = backbone.tokenizer(trace.text)["input_ids"]
    memory = think(model, prefill(model, torch.tensor([example.question])), 3, Raw())
    for place, token in enumerate(ids):
        ways = torch.tensor([[*example.end, *ids[:place], other] for other in range(SIZE)])
        best = likelihood(model, memory.fork(SIZE), ways)[:, -1].argmax()
        assert int(best) == token


def test_the_budget_says_how_many_latents(small):
    reasoner = Coconut(CONFIG, small, extract=str)
    for steps in (0, 1, 5):
        trace = reasoner.answer(PROMPTS[:2], budget=Budget(tokens=2, latent_steps=steps))[1]
        assert trace.cost.latent_steps == steps
    texts = [reasoner.answer(PROMPTS, budget=Budget(tokens=6, latent_steps=steps)) for steps in (0, 3)]
    assert [trace.text for trace in texts[0]] != [trace.text for trace in texts[1]]


def test_a_model_without_markers_is_remarked_on(small):
    plain = Backbone(small.model, word_tokenizer(WORDS[:-3]), "plain")
    assert "of plain has no <|start-latent|> and no <|end-latent|>" in Coconut(CoconutConfig(), plain).remark
    assert "latents=6, thought='pause'" in Coconut(CoconutConfig(thought="pause"), plain).remark
    assert not Coconut(CoconutConfig(), small).remark
    assert not Coconut(CoconutConfig(start="", end=""), plain).remark
    assert not Coconut(CoconutConfig(thought="none"), plain).remark


def test_markers_are_added_to_a_copy():
    with isolated(0, "models"):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=SIZE - 3, n_embd=32, n_layer=1, n_head=4, n_positions=64))
    given = Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS[:-3]), "plain")
    with pytest.raises(ConfigError, match="no token"):
        Coconut(replace(CONFIG, thought="pause"), given).answer(["a ?"])
    assert Coconut(CONFIG, given, extract=str).answer(["a ?"], budget=BUDGET)[0].cost.prefill_tokens == 2
    copied = with_markers(given, CONFIG)
    table = copied.model.get_input_embeddings().weight
    assert len(given.tokenizer) == len(model.get_input_embeddings().weight) == SIZE - 3
    assert [copied.tokenizer.convert_tokens_to_ids(name) for name in MARKERS] == [START, PAUSE, END]
    like = model.get_input_embeddings().weight[3 + WORDS.index("<<")]
    assert all(torch.equal(table[token], like) for token in (START, PAUSE, END))
    assert all(weight.requires_grad for weight in copied.model.parameters())
    CoconutLearner(copied, CONFIG, CoconutTraining(learning_rate=0.1)).step(a_batch(copied), step=0)
    assert not torch.equal(table[PAUSE], like) or not torch.equal(table[START], like)
    assert torch.equal(model.get_input_embeddings().weight[3 + WORDS.index("<<")], like)


def test_wrong_inputs_are_answered(backbone):
    model = backbone.model
    memory = prefill(model, torch.tensor([[3, 4], [5, 6]]))
    with pytest.raises(ShapeError, match="memory of 2 rows"):
        likelihood(model, memory, torch.tensor([[3]]))
    with pytest.raises(ShapeError, match="memory of 2 rows"):
        likelihood(model, memory, torch.full((2, 1), -1))
    with pytest.raises(ConfigError, match="latents=-1"):
        CoconutConfig(latents=-1)
    if backbone.name == "gpt2":
        with pytest.raises(LatentError, match="64 positions"):
            likelihood(model, memory, torch.full((2, 63), 3))


# The experiment -------------------------------------------------------------------------------------------------------


TINY = replace(
    module.PRESETS["smoke"], width=16, examples=40, tests=8, rows=4, written=2, updates=1, last=1, nodes=(8, 8)
)


def test_arms_differ_in_what_they_say(tmp_path):
    measures = {}
    for arm in module.ARMS:
        context = ArmContext(tmp_path / arm, tmp_path / "shared", "reason/coconut", seed=10)
        measures[arm] = module.run_arm(arm, TINY, context).measures
        context.close()
    assert set(module.MEASURES) == set(measures["coconut"])
    assert {arm: found["latent_steps"] for arm, found in measures.items()} == {
        "coconut": 3, "no-cot": 0, "cot": 0, "pause": 3, "zero": 3, "no-thought": 0, "no-curriculum": 3,
    }  # fmt: skip
    assert measures["coconut"]["cached_error"] < 1e-4
    assert measures["zero"]["zeroed"] == measures["zero"]["accuracy"]


@pytest.mark.parametrize(
    ("arm", "fits"),
    [
        ("coconut", [("written", (0,), 0, 20), ("train", (1, 2, 3, 4), 3, 25)]),
        ("pause", [("written", (0,), 0, 20), ("train", (1, 2, 3, 4), 3, 25)]),
        ("zero", [("written", (0,), 0, 20), ("train", (1, 2, 3, 4), 3, 25)]),
        ("no-thought", [("written", (0,), 0, 20), ("train", (1, 2, 3, 4), 0, 25)]),
        ("no-curriculum", [("train", (4,), 3, 45)]),
        ("no-cot", [("train", (4,), 0, 45)]),
        ("cot", [("written", (0,), 0, 20), ("train", (0,), 0, 25)]),
    ],
)
def test_arms_are_trained_by_their_own_plan(tmp_path, monkeypatch, arm, fits):
    made = []

    class Enough(Exception):
        pass

    def fit(self, learner, source, steps, *, name="train"):
        mixed = source.mixing > 0
        made.append((name, source.stages, source.latents, steps))
        assert mixed == (len(source.stages) > 1)
        if name == "train":
            raise Enough

    monkeypatch.setattr(ArmContext, "fit", fit)
    context = ArmContext(tmp_path / arm, tmp_path / "shared", "reason/coconut", seed=10)
    with pytest.raises(Enough):
        module.run_arm(arm, replace(module.PRESETS["smoke"], width=16, examples=40), context)
    context.close()
    assert made == fits


def test_problems_that_are_too_long_are_named_before_anything_is_trained(tmp_path, monkeypatch):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=SIZE - 3, n_embd=16, n_layer=1, n_head=2, n_positions=14))
    path = Backbone(model, word_tokenizer(WORDS[:-3]), "short").save(tmp_path / "short")
    monkeypatch.setattr(ArmContext, "fit", lambda *given, **named: pytest.fail("it was trained"))
    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "reason/coconut", seed=10)
    config = replace(TINY, backbone=str(path), tokens=2)
    with pytest.raises(ConfigError, match=r"of 40 problems to train on take more than the 14 positions of"):
        module.run_arm("coconut", config, context)
    context.close()


def test_short_and_long_problems_are_told_apart(tmp_path, monkeypatch, small):
    config = replace(TINY, tests=40)
    test = module._problems(config, 10)[1]
    monkeypatch.setattr(module, "_keep_texts", lambda *given: None)
    monkeypatch.setattr(module, "_right", lambda test, traces: [float(len(each.steps) == 3) for each in test.items])
    nothing = Cost(prefill_tokens=1, latent_steps=0, decoded_tokens=1, seconds=0.0)
    monkeypatch.setattr(module, "_answers", lambda *given: [Trace(prompt="a", text="", answer="", cost=nothing)] * 40)
    method = module._method("none", config)
    found = module._measured(small, method, None, test, config, None).measures
    assert (found["short"], found["long"]) == (0, 1)
    assert found["accuracy"] == sum(len(each.steps) == 3 for each in test.items) / 40


def test_a_model_that_is_given_is_trained_as_a_copy(tmp_path, small):
    plain = Backbone(small_llama(0, vocabulary=SIZE - 3, width=16, layers=1), word_tokenizer(WORDS[:-3]), "plain")
    path = plain.save(tmp_path / "plain")
    files = {each.name: each.read_bytes() for each in path.iterdir()}
    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "reason/coconut", seed=10)
    config = replace(TINY, backbone=str(path), markers=True)
    assert module.run_arm("pause", config, context).measures["latent_steps"] == 3
    assert {each.name: each.read_bytes() for each in path.iterdir()} == files
    # A curriculum needs steps, which a plain file of questions and answers does not have.
    problems = tmp_path / "answers.jsonl"
    problems.write_text('{"question": "a b ?", "answer": "b"}\n' * 20)
    with pytest.raises(ConfigError, match="without steps"):
        module.run_arm("pause", replace(config, problems=str(problems)), context)
    context.close()


@pytest.mark.skipif(
    not Path(os.environ.get("LATENT_DATA") or "nowhere", "prosqa").is_dir(), reason="LATENT_DATA has no prosqa"
)
def test_the_published_questions_are_answered(tmp_path):
    context = ArmContext(tmp_path / "arm", tmp_path / "shared", "reason/coconut", seed=10)
    config = replace(TINY, problems="prosqa", examples=8, tests=2, rows=2, most=6, tokens=4)
    found = module.run_arm("coconut", config, context).measures
    context.close()
    assert found["latent_steps"] == 6
    assert found["cached_error"] < 1e-3
