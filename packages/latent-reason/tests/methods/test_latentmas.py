"""Hand-overs are exact in any batch, say what they cost, and keep what they promise; two views of one problem."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from latent.core.activations.decode import Aligned, NormMatched, Thought, embedding_norm
from latent.core.activations.directions import fingerprint
from latent.core.errors import ConfigError, UnknownName
from latent.core.language import Backbone
from latent.core.language.training import IGNORED, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.reason.data.problem import Problem, Problems
from latent.reason.data.two_views import (
    WORDS,
    TwoViews,
    TwoViewsModel,
    first_view,
    second_view,
    two_views,
    two_views_backbone,
)
from latent.reason.experiments import latentmas as module
from latent.reason.experiments import teams
from latent.reason.experiments.exact_handover import ARCHITECTURES, exact, naive
from latent.reason.experiments.handovers import PaddedRight, dropped, one_agent, reencoded, stranger
from latent.reason.methods.latentmas import LatentMAS, LatentMASConfig
from latent.reason.methods.roles import ROLES, TEAMS, Role, team_of
from latent.reason.trace import Budget, Cost, Trace

LETTERS = [f"w{number}" for number in range(47)]
PROMPTS = ["w1 w2 w3 w4 w5 w6 w7", "w8", "w9 w10 w11", "w20 w21 w22 w23 w24"]
CHAIN = (
    Role(name="first", task="w30 {question}"),
    Role(name="second", task="w31", thoughts="w32 w33", notes="w34 {text}"),
    Role(name="third", task="{question} w35", notes="w36 {text}"),
)
BUDGET = Budget(tokens=6)


def make(name):
    with isolated(3, "test", name):
        model = ARCHITECTURES[name]().eval().requires_grad_(requires_grad=False)
    return Backbone(model, word_tokenizer(LETTERS), name)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def any_backbone(request):
    return make(request.param)


@pytest.fixture(scope="module")
def llama():
    return make("llama")


def team(backbone, roles=CHAIN, kind=LatentMAS, **settings):
    settings = {"latent_steps": 3, "temperature": 1.0, "top_p": 1.0, **settings}
    return kind(LatentMASConfig(**settings), backbone, roles=roles, extract=str)


def generators(rows):
    return [generator(0, "row", row) for row in rows]


def ids_of(text):
    return torch.tensor([[3 + int(word[1:]) for word in text.split()]])


def messages(prompt):
    return [role.message(prompt, others=place > 0) for place, role in enumerate(CHAIN)]


def counted(trace):
    return (trace.text, trace.cost.prefill_tokens, trace.cost.latent_steps, trace.cost.decoded_tokens)


# Caches ---------------------------------------------------------------------------------------------------------------


def test_without_latent_steps_the_cache_is_that_of_all_messages_in_one_text(any_backbone):
    agents = team(any_backbone, latent_steps=0)
    memory = agents.memory(PROMPTS)
    after = agents.read([CHAIN[2].message(prompt, others=True) for prompt in PROMPTS], memory=memory)
    for row, prompt in enumerate(PROMPTS):
        alone = any_backbone.model(ids_of(" ".join(messages(prompt)))).logits[0, -1]
        torch.testing.assert_close(after.logits[row], alone, rtol=1e-4, atol=1e-5)


def test_no_latent_steps_are_not_a_single_agent(llama):
    agents = team(llama, latent_steps=0, temperature=0.0)
    whole, single = agents.answer(PROMPTS, budget=BUDGET), dropped(agents, PROMPTS, BUDGET, None)
    assert [trace.cost.prefill_tokens for trace in whole] == [len(" ".join(messages(p)).split()) for p in PROMPTS]
    assert [trace.text for trace in whole] != [trace.text for trace in single]
    # The budget may ask for none as well.
    asked = team(llama, temperature=0.0).answer(PROMPTS, budget=Budget(tokens=6, latent_steps=0))
    assert [trace.text for trace in asked] == [trace.text for trace in whole]


def test_latent_steps_are_those_of_reading_everything_again(any_backbone):
    """The oracle keeps no cache: in each step it reads all vectors of one row."""
    model = any_backbone.model
    norm = model.get_input_embeddings().weight.norm(dim=-1).mean()
    memory = team(any_backbone, feedback="norm-matched").memory(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        inputs = torch.zeros(1, 0, 32)
        for message in messages(prompt)[:2]:
            inputs = torch.cat([inputs, model.get_input_embeddings()(ids_of(message))], 1)
            for _ in range(3):
                state = model(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1][:, -1:]
                inputs = torch.cat([inputs, state / state.norm(dim=-1, keepdim=True) * norm], 1)
        length = int(memory.lengths[row])
        assert length == inputs.shape[1]
        torch.testing.assert_close(memory.inputs(model)[row, -length:], inputs[0], rtol=1e-3, atol=1e-4)
        logits = model(inputs_embeds=inputs).logits[0, -1]
        torch.testing.assert_close(memory.logits[row], logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"handover": "last"},
        {"handover": "latents"},
        {"handover": "latents", "positions": "restarted"},
        {"handover": "text"},
    ],
    ids=str,
)
def test_a_row_is_the_same_alone_and_in_a_batch(any_backbone, settings):
    agents = team(any_backbone, **settings)
    together = agents.answer(PROMPTS, budget=BUDGET, generator=generators(range(4)))
    alone = [agents.answer([p], budget=BUDGET, generator=generators([row]))[0] for row, p in enumerate(PROMPTS)]
    backwards = agents.answer(PROMPTS[::-1], budget=BUDGET, generator=generators(range(4))[::-1])
    assert [counted(t) for t in together] == [counted(t) for t in alone] == [counted(t) for t in backwards[::-1]]
    assert len({trace.text for trace in together}) > 1


def test_the_model_stays_as_it_is(llama):
    before = fingerprint(llama.model)
    team(llama, feedback="aligned").answer(PROMPTS, budget=BUDGET, generator=generators(range(4)))
    assert fingerprint(llama.model) == before
    assert not any(module._forward_hooks for module in llama.model.modules())


def test_only_the_last_agent_s_additions_are_handed_over(any_backbone):
    kept, whole = team(any_backbone, handover="last").memory(PROMPTS), team(any_backbone).memory(PROMPTS)
    read = ids_of(messages(PROMPTS[0])[1])[0].tolist()
    assert kept.tokens.tolist() == [[*read, -1, -1, -1]] * len(PROMPTS)
    assert torch.equal(kept.next_positions, whole.next_positions)
    assert torch.equal(kept.positions[:, -1], whole.next_positions - 1)
    fresh = team(any_backbone, handover="last", positions="restarted").memory(PROMPTS)
    assert fresh.next_positions.tolist() == [len(read) + 3] * len(PROMPTS)
    assert torch.equal(fresh.positions, kept.positions)  # the keys stay as they were made


def test_only_latent_positions_are_handed_over(llama):
    agents = team(llama, handover="latents")
    memory = agents.memory(PROMPTS)
    assert memory.latent.all()
    assert memory.lengths.tolist() == [6] * len(PROMPTS)  # of both agents
    assert team(llama, CHAIN[1:], handover="latents").memory(PROMPTS).lengths.tolist() == [3] * len(PROMPTS)
    assert agents.memory(PROMPTS, latent_steps=5).lengths.tolist() == [10] * len(PROMPTS)


def test_one_memory_serves_several_answers(llama):
    agents = team(llama)
    memory = agents.memory(PROMPTS)
    doubled = [prompt for prompt in PROMPTS for _ in range(2)]
    once = agents.answer(PROMPTS, budget=BUDGET, generator=generators(range(4)))
    forked = agents.conclude(doubled, memory.fork(2), budget=BUDGET, generator=generators([0, 9, 1, 9, 2, 9, 3, 9]))
    assert [trace.text for trace in forked[::2]] == [trace.text for trace in once]
    assert [t.cost.prefill_tokens for t in forked[::2]] == [t.cost.prefill_tokens for t in once]
    assert forked[1].cost.latent_steps == 0  # copies are free
    assert forked[0].cost.latent_steps == 6


@pytest.mark.parametrize("kind", ["raw", "norm-matched", "aligned"])
def test_what_is_fed_back(llama, kind):
    agents = team(llama, CHAIN[1:], feedback=kind)
    agents.keep_states = True
    states = agents.answer(PROMPTS, budget=BUDGET, generator=generators(range(4)))[1].states
    assert states.shape == (3, 32)
    first = agents.read([CHAIN[1].message(PROMPTS[1], others=False)]).state[0]
    expected = {
        "raw": first,
        "norm-matched": first / first.norm() * embedding_norm(llama.model),
        "aligned": Aligned(llama.model).forward(Thought(first[None]))[0],
    }[kind]
    torch.testing.assert_close(states[0], expected, rtol=1e-4, atol=1e-5)
    if kind != "raw":
        torch.testing.assert_close(states.norm(dim=1), torch.full((3,), embedding_norm(llama.model)))


# Costs and texts ------------------------------------------------------------------------------------------------------


def test_the_ledger_has_what_each_agent_took(llama):
    prompt = PROMPTS[0]
    trace = team(llama).answer([prompt], budget=BUDGET, generator=generators([0]))[0]
    assert trace.signals["prefill_tokens"] == tuple(len(message.split()) for message in messages(prompt))
    assert trace.signals["latent_steps"] == (3, 3, 0)
    assert trace.signals["decoded_tokens"] == (0, 0, trace.cost.decoded_tokens)
    assert trace.cost.prefill_tokens == sum(trace.signals["prefill_tokens"])
    assert trace.cost.seconds > 0
    assert trace.answer == trace.text != ""
    assert (team(llama).heeds, team(llama, handover="text").heeds) == (("latent_steps",), ())


def test_texts_are_read_by_those_who_come_after(llama):
    agents = team(llama, handover="text", temperature=0.0)
    read = []
    listen = agents.read
    agents.read = lambda texts, *, memory=None: read.append((texts, memory)) or listen(texts, memory=memory)
    traces = agents.answer(PROMPTS, budget=BUDGET)
    (first, _), (second, _), (third, _) = read
    assert all(memory is None for _, memory in read)  # nothing but words
    assert first == [f"w30 {prompt}" for prompt in PROMPTS]
    for row, prompt in enumerate(PROMPTS):
        one = second[row].split()[1:-1]
        assert second[row].split() == ["w34", *one, "w31"]
        two = third[row].split()[2 + len(one) : -1 - len(prompt.split())]
        assert third[row].split() == ["w36", *one, "w36", *two, *prompt.split(), "w35"]
        took = traces[row].signals
        assert took["latent_steps"] == (0, 0, 0)
        assert took["prefill_tokens"] == tuple(len(texts[row].split()) for texts, _ in read)
        assert took["decoded_tokens"][0] >= len(one)
        assert traces[row].cost.decoded_tokens == sum(took["decoded_tokens"])


def test_reading_again_changes_nothing_but_the_bill(any_backbone):
    agents = team(any_backbone, temperature=0.0)
    once, again = agents.answer(PROMPTS, budget=BUDGET), reencoded(agents, PROMPTS, BUDGET, None)
    assert [trace.text for trace in once] == [trace.text for trace in again]
    for first, second, length in zip(once, again, agents.memory(PROMPTS).lengths.tolist(), strict=True):
        assert second.cost.prefill_tokens == first.cost.prefill_tokens + length
        assert second.cost.latent_steps == first.cost.latent_steps


def test_controls_break_what_they_say(llama):
    agents = team(llama, temperature=0.0)
    right = [trace.text for trace in agents.answer(PROMPTS, budget=BUDGET)]
    others = [trace.text for trace in stranger(agents, PROMPTS, BUDGET, None, others=[*PROMPTS[1:], PROMPTS[0]])]
    assert all(one != other for one, other in zip(right, others, strict=True))
    padded = team(llama, kind=PaddedRight, temperature=0.0)
    assert [padded.answer([prompt], budget=BUDGET)[0].text for prompt in PROMPTS] == right
    assert [trace.text for trace in padded.answer(PROMPTS, budget=BUDGET)] != right
    one = LatentMAS(replace(agents.config), llama, roles=[one_agent(CHAIN)], extract=str)
    plain = team(llama, temperature=0.0, latent_steps=0)
    assert [t.text for t in one.answer(PROMPTS, budget=BUDGET)] == [
        t.text for t in plain.answer(PROMPTS, budget=BUDGET)
    ]


def test_hand_overs_are_exact_and_careless_padding_is_not():
    found, broken = exact(11, rows=4, latent_steps=2), naive(11, rows=4, latent_steps=2)
    assert max(found.values()) < 1e-5
    assert min(broken.values()) > 0.1


# Settings and roles ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_handed_over_is_refused(llama):
    for wrong in (
        {"latent_steps": -1},
        {"latent_steps": 0, "handover": "latents"},
        {"positions": "restarted"},
        {"positions": "restarted", "handover": "text"},
        {"temperature": -1.0},
        {"top_p": 0.0},
    ):
        with pytest.raises(ConfigError):
            LatentMASConfig(**wrong)
    with pytest.raises(ConfigError, match="nothing to hand over"):
        team(llama, handover="latents").check(Budget(latent_steps=0))
    team(llama, handover="cache").check(Budget(latent_steps=0))
    with pytest.raises(ConfigError, match="nothing to hand over"):
        team(llama, handover="latents").answer(PROMPTS, budget=Budget(latent_steps=0))
    with pytest.raises(ConfigError, match="no cache"):
        team(llama, handover="text").memory(PROMPTS)
    with pytest.raises(ConfigError, match="no cache"):
        team(llama, CHAIN[:1]).memory(PROMPTS)
    with pytest.raises(ConfigError, match="a name of its own"):
        team(llama, (CHAIN[0], CHAIN[0]))
    with pytest.raises(UnknownName, match="judger"):
        LatentMAS(LatentMASConfig(roles=("juger",)), llama)
    with pytest.raises(ConfigError, match="twice"):
        LatentMAS(LatentMASConfig(roles=("judger", "judger")), llama)


def test_a_topology_names_its_roles():
    assert [role.name for role in team_of("sequential")] == ["planner", "critic", "refiner", "judger"]
    assert [role.name for role in team_of("hierarchical")] == list(TEAMS["hierarchical"])
    assert [role.name for role in team_of("hierarchical", ("planner", "judger"))] == ["planner", "judger"]


@pytest.mark.parametrize("name", ROLES)
def test_every_role_says_the_question_and_who_went_before(name):
    role, question = ROLES[name], "What is {2, 3} of {question}?"
    first = role.message(question, others=False)
    assert first.count(question) == 1  # braces of a question mean nothing
    assert "{question}" not in first.replace(question, "")
    later = role.message(question, others=True)
    assert later.endswith(first)
    assert len(later) > len(first)
    notes = role.message(question, others=True, written={"planner": "add {x}"})
    expert = name in TEAMS["hierarchical"][:-1]
    assert (notes == first) == expert  # experts do not read each other
    assert ("Notes of the planner:\nadd {x}" in notes) != expert


def test_a_chat_template_is_used_and_turns_may_begin_with_a_word(llama):
    tokenizer = word_tokenizer(LETTERS)
    tokenizer.chat_template = (
        "{% for message in messages %}w40 {{ message['content'] }} w41{% endfor %}"
        "{% if add_generation_prompt %} w42{% endif %}"
    )
    chatting = Backbone(llama.model, tokenizer, "chat")
    memory = team(chatting, CHAIN[:2], begin=" w43").memory(["w1"])
    assert memory.tokens[0, :-3].tolist() == ids_of("w40 w30 w1 w41 w42 w43")[0].tolist()
    after = team(chatting, CHAIN[:2], begin=" w43").answer(["w1"], budget=BUDGET, generator=generators([0]))[0]
    assert after.signals["prefill_tokens"] == (6, 6)  # the judger's turn begins without it: w40 w32 w33 w31 w41 w42


# Two views ------------------------------------------------------------------------------------------------------------


def test_problems_have_their_facts_in_one_view_and_the_question_in_the_other():
    problems = two_views(200, seed=3, fewest=2, most=7)
    assert two_views(200, seed=3, fewest=2, most=7).items == problems.items
    assert two_views(200, seed=4, fewest=2, most=7).items != problems.items
    lengths = set()
    for problem in problems.items:
        facts, asked = first_view(problem.question).split(), second_view(problem.question).split()
        assert (facts[0], facts[-1], asked[-2]) == ("FACTS", "NOTES", "ASK")
        known = dict(fact.split("=") for fact in facts[1:-1])
        assert len(known) == len(facts) - 2  # no name has two values
        assert known[asked[-1]] == problem.answer
        assert problems.correct(problem, problems.extract(f" {problem.answer}"))
        assert not problems.correct(problem, problems.extract("FACTS"))
        lengths.add(len(known))
    assert lengths == set(range(2, 8))
    assert len({second_view(problem.question).split().count("PLEASE") for problem in problems.items}) == 3


def test_texts_to_train_on_count_what_an_agent_must_write():
    batch = TwoViews(rows=300, fewest=2, most=5).batch(7, seed=1, device=torch.device("cpu"))
    words = dict(enumerate(WORDS, start=3)) | {0: "<pad>", 2: "</s>"}
    kinds = set()
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        text = [words[token] for token in ids.tolist()]
        length = int(mask.sum())
        assert text[length - 1] == "</s>"
        assert set(text[length:]) <= {"<pad>"}
        counts = [label != IGNORED for label in labels.tolist()]
        assert all(label in (IGNORED, token) for label, token in zip(labels.tolist(), ids.tolist(), strict=True))
        known = dict(word.split("=") for word in text if "=" in word)
        for place, word in enumerate(text[:length]):
            if word in "0123456789":
                assert word == known[text[place - 1]]
                assert text[place - 2] == "ASK"
                assert counts[place]
            elif "=" in word:  # notes count where the facts are known, and never the facts themselves
                assert counts[place] == ("FACTS" in text and "NOTES" in text[:place])
            else:
                assert counts[place] == (word == "</s>")
        kinds.add(("FACTS" in text, "NOTES" in text, "ASK" in text))
    assert kinds == {(True, True, True), (True, True, False), (False, True, True), (False, False, True)}


def test_impossible_problems_are_refused():
    for wrong in (
        {"count": 0},
        {"count": 3, "fewest": 0},
        {"count": 3, "fewest": 5, "most": 4},
        {"count": 3, "most": 11},
    ):
        with pytest.raises(ConfigError):
            two_views(seed=0, **wrong)


# Experiment -----------------------------------------------------------------------------------------------------------

TINY = module.Experiment(
    count=8, batch=4, tokens=3, sweep=(1, 2), compared=4, exact_steps=1,
    model=TwoViewsModel(width=16, layers=1, steps=3, rows=4),
)  # fmt: skip


@pytest.fixture
def context(tmp_path):
    made = ArmContext(tmp_path / "arm", tmp_path / "shared", "reason/latentmas", seed=10)
    yield made
    made.close()


@pytest.mark.parametrize("arm", sorted(set(module.ARMS) - {"exact", "naive"}))
def test_every_arm_measures_what_its_claims_need(arm, context):
    result = module.run_arm(arm, TINY, context)
    needed = {measure for claim in module.CLAIMS for other, measure in claim.pairs if other == arm}
    assert needed <= set(result.measures) <= set(module.MEASURES)
    assert all(torch.isfinite(torch.tensor(value)) for value in result.measures.values())
    if arm in ("cache", "latents", "restarted"):
        assert result.arrays["over_steps"].shape == (2,)


def test_an_arm_s_bill(context):
    cache, again = (module.run_arm(arm, TINY, context).measures for arm in ("cache", "reencoded"))
    assert cache["read_share"] == 1.0
    assert again["read_share"] > 1.5
    assert again["accuracy"] == cache["accuracy"]
    assert cache["silent"] == 3.0
    assert cache["batch_disagreement"] == 0.0


def test_tied_embeddings_are_tied_and_others_are_not(context):
    tied, untied = (two_views_backbone(context, TINY.model, tied=each).model for each in (True, False))
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
    words, head = untied.get_input_embeddings().weight, untied.get_output_embeddings().weight
    assert (words - head).abs().max() > 0.01


def test_another_model_answers_other_problems(context, tmp_path, llama):
    folder, lines = tmp_path / "model", tmp_path / "problems.jsonl"
    llama.save(folder)
    lines.write_text("\n".join(json.dumps({"question": f"w{n}", "answer": n}) for n in range(8)), encoding="utf-8")
    config = replace(
        TINY, backbone=str(folder), problems=str(lines), team=LatentMASConfig(latent_steps=2, temperature=0)
    )
    measures = module.run_arm("cache", config, context).measures
    assert measures["silent"] == 6.0  # of planner, critic and refiner
    with pytest.raises(ConfigError, match="backbone"):
        replace(config, backbone="")


def test_settings_without_a_comparison_are_refused():
    for wrong in ({"count": 1, "compared": 1}, {"batch": 0}, {"compared": 9}, {"sweep": ()}, {"sweep": (0, 1)}):
        with pytest.raises(ConfigError):
            replace(TINY, **wrong)
    with pytest.raises(ConfigError, match="arms choose"):
        replace(TINY, team=LatentMASConfig(handover="text"))


def test_aligned_states_are_those_of_the_embedding(context):
    """With a head that is the rotated embedding, states along the head are mapped back onto the embedding."""
    backbone = two_views_backbone(context, TINY.model, tied=False)
    model = backbone.model
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight @ rotation)
    states = model.get_output_embeddings().weight[5:9]
    near = (Aligned(model)(Thought(states)) - model.get_input_embeddings().weight[5:9]).norm(dim=1)
    far = (NormMatched(model)(Thought(states)) - model.get_input_embeddings().weight[5:9]).norm(dim=1)
    assert (near < 0.6 * far).all()


def test_alignment_is_measured_against_the_next_token(context, monkeypatch):
    """States along the head's row of the token that was written are mapped onto the embedding of this token."""
    scene = teams.scene_of(TINY, context, tied=False)
    model = scene.backbone.model
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    embeddings = torch.nn.functional.normalize(model.get_input_embeddings().weight.detach(), dim=-1)
    head = 3 * embeddings @ rotation
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(embeddings)
        model.get_output_embeddings().weight.copy_(head)
    sizes = []

    def written(model, memory, **settings):
        rows = len(memory)
        sizes.append(rows)
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        tokens = 5 + torch.arange(3 * rows).view(rows, 3) + 3 * rows * len(sizes)
        tokens[0, 2] = -1  # a row that has ended: what stands there is nobody's state
        return SimpleNamespace(tokens=tokens, states=head[tokens] + 100 * (tokens < 0).unsqueeze(-1))

    monkeypatch.setattr(teams, "decode", written)
    found = teams.alignment(replace(scene, config=replace(TINY, team=replace(TINY.team, ridge=1e-9))))
    assert sizes == [4, 2, 2]
    assert found["aligned_distance"] < 0.02  # padding has no length, which the mean over words has in it
    assert found["matched_distance"] > 0.5
    assert found["alignment_gain"] == pytest.approx(found["matched_distance"] - found["aligned_distance"])


# Ways -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked():
    """Five questions; an odd number, so that some batch has one row."""
    questions = [*PROMPTS, "w12 w13"]
    return Problems("words", [Problem(each, "w1") for each in questions], str, lambda item, given: False)


def expected_of(backbone, arm, questions):
    """What the last agent writes in an arm, with nothing of the experiment."""

    def agents(**settings):
        return team(backbone, temperature=0.0, **settings)

    following = [*questions[1:], questions[0]]
    budget = Budget(tokens=12)
    made = {
        "cache": lambda: agents().answer(questions, budget=budget),
        "latents": lambda: agents(handover="latents").answer(questions, budget=budget),
        "restarted": lambda: agents(handover="latents", positions="restarted").answer(questions, budget=budget),
        "text": lambda: agents(handover="text").answer(questions, budget=budget),
        "concatenated": lambda: team(backbone, [one_agent(CHAIN)], temperature=0.0).answer(questions, budget=budget),
        "dropped": lambda: agents().conclude(questions, None, budget=budget),
        "stranger": lambda: agents().conclude(questions, agents().memory(following), budget=budget),
        "stranger-latents": lambda: agents().conclude(
            questions, agents(handover="latents").memory(following), budget=budget
        ),
    }  # fmt: skip
    return [trace.text for trace in made[arm]()]


ARMS = ("cache", "latents", "restarted", "text", "concatenated", "dropped", "stranger", "stranger-latents")


@pytest.mark.parametrize("batch", [5, 2])
def test_every_way_hands_over_what_its_name_says_in_any_batch(llama, context, asked, batch):
    config = replace(
        TINY, count=5, batch=batch, compared=5, tokens=12,
        team=LatentMASConfig(latent_steps=3, temperature=0.0, top_p=1.0),
    )  # fmt: skip
    scene = teams.Scene(config, context, llama, asked, CHAIN, 0.0)
    questions = [item.question for item in asked.items]
    found = {arm: [trace.text for trace in scene.ask(teams.WAYS[arm](scene))] for arm in (*ARMS, "reencoded")}
    for arm in ARMS:
        assert found[arm] == expected_of(llama, arm, questions), arm
    assert found["reencoded"] == found["cache"]
    assert len({tuple(found[arm]) for arm in ARMS}) == len(ARMS), "arms that write the same prove nothing"
    padded = [trace.text for trace in scene.ask(teams.WAYS["padded-right"](scene))]
    assert padded != found["cache"]


def test_a_stranger_is_one_wherever_a_batch_is_halved(llama, context, asked, monkeypatch):
    config = replace(TINY, count=5, batch=5, compared=3, team=LatentMASConfig(latent_steps=3, temperature=0.0))
    scene = teams.Scene(config, context, llama, asked, CHAIN, 0.0)
    pairs, sizes, plain = [], [], teams.stranger

    def told(agents, prompts, budget, generator, *, others):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        pairs.extend(zip(prompts, others, strict=True))
        return plain(agents, prompts, budget, generator, others=others)

    monkeypatch.setattr(teams, "stranger", told)
    questions = [item.question for item in asked.items]
    assert len(scene.ask(teams.WAYS["stranger"](scene))) == 5
    assert sizes == [5, 2, 2, 1]
    assert pairs == list(zip(questions, [*questions[1:], questions[0]], strict=True))
    pairs.clear()
    assert len(scene.ask(teams.WAYS["stranger"](scene), size=1, count=3)) == 3
    assert pairs == [*pairwise(questions)][:3]


# Measures -------------------------------------------------------------------------------------------------------------


def scripted(context, text_of, count=16):
    """A scene without a model, and answers `text_of(size of the batch, row)`; the answer of row n is n."""
    rows = {f"question {n}": n for n in range(count)}
    problems = Problems(
        "rows", [Problem(question, str(n)) for question, n in rows.items()], str,
        lambda item, given: given == item.answer,
    )  # fmt: skip
    scene = teams.Scene(replace(TINY, count=count, batch=8, compared=count), context, None, problems, None, 0.6)

    def answer(prompts, others, budget, generators):
        texts = [text_of(len(prompts), rows[prompt]) for prompt in prompts]
        cost = Cost(prefill_tokens=9, latent_steps=2, decoded_tokens=3)
        return [Trace(prompt=p, text=t, answer=t, cost=cost) for p, t in zip(prompts, texts, strict=True)]

    return scene, answer


def test_measures_are_those_of_known_answers(context):
    scene, answer = scripted(context, lambda size, row: str(row) if row < 8 else "none")
    found = scene.measured(answer, {"accuracy": 0.75, "read": 10.0, "written": 12.0})
    assert found.pop("milliseconds") > 0
    assert found == pytest.approx(
        {
            "accuracy": 0.5, "lost": 0.25, "off_chance": 0.1, "read": 9, "silent": 2, "written": 3,
            "read_share": 0.9, "read_error": 0.1, "written_share": 0.25, "made_share": 5 / 12,
        }
    )  # fmt: skip


def test_batches_are_compared_with_single_rows(context):
    def text(size, row):
        """In fours one of four is wrong, in sixteens one of two."""
        wrong = {1: False, 4: row % 4 == 3, 16: row % 2 == 1}
        return "none" if wrong[size] else str(row)

    scene, answer = scripted(context, text)
    assert scene.over_batches(answer) == {"batch_disagreement": 0.5, "batch_loss": 0.5}
    scene, answer = scripted(context, lambda size, row: "none" if size == 4 and row % 4 else str(row))
    assert scene.over_batches(answer) == {"batch_disagreement": 0.75, "batch_loss": 0.0}


def test_the_control_of_alignment_has_random_weights(context, monkeypatch):
    models = {}
    for arm in ("untied", "untied-untrained"):
        monkeypatch.setattr(module, "alignment", lambda scene, arm=arm: models.update({arm: scene.backbone}) or {})
        module.run_arm(arm, TINY, context)
    trained, random = models["untied"], models["untied-untrained"]
    assert fingerprint(trained.model) == fingerprint(two_views_backbone(context, TINY.model, tied=False).model)
    assert fingerprint(random.model) == fingerprint(trained.untrained(context.seed).model)
    assert fingerprint(random.model) != fingerprint(trained.model)


def test_claims_tell_too_little_from_too_much():
    """What is as far from the statement on the other side fails too."""
    checks = {claim.id: claim.check for claim in module.CLAIMS}
    for name, right, wrong in (
        ("cache-is-needed", 0.03, 0.06),
        ("read-once", 0.0, 0.698),
        ("alignment-brings-nearer", 0.01, -0.01),
    ):
        check = checks[name]
        assert check.passes({check.pair: right})
        assert not check.passes({check.pair: wrong})
    one = next(claim for claim in module.CLAIMS if claim.id == "read-once")
    assert "dropped" in [control.arm for control in one.controls]
