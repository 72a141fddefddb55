"""Every question has one right answer, candidates look alike, and new questions are like the published ones."""

import gzip
import itertools
import os
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from latent.core.errors import ConfigError, FormatError
from latent.reason.data import prosqa

needs_data = pytest.mark.skipif(
    not Path(os.environ.get("LATENT_DATA") or "nowhere", "prosqa").is_dir(), reason="LATENT_DATA has no prosqa"
)


def told_edges(question):
    """Return the edges of a question in words, the candidates, and who is asked about."""
    *sentences, asked = question.replace("Every ", "").split(". ")
    edges = [tuple(sentence.split(" is a ")) for sentence in sentences]
    who, _, kinds = asked.removeprefix("Is ").rstrip("?").partition(" a ")
    return edges, kinds.split(" or "), who


def pair_edges(question):
    """Return the same of a question in symbols."""
    listed, _, asked = question.partition(" ? ")
    who, *candidates = asked.split()
    return [tuple(edge.split(">")) for edge in listed.split()], candidates, who


def reached(edges, start):
    """Return the distance of each node that can be reached."""
    distance, queue = {start: 0}, [start]
    for node in queue:
        for begin, end in edges:
            if begin == node and end not in distance:
                distance[end] = distance[node] + 1
                queue.append(end)
    return distance


def statistics(problems):
    """Return what new questions share with published ones."""
    asked = [told_edges(each.question) for each in problems]
    sizes = [len({node for edge in edges for node in edge}) for edges, _, _ in asked]
    inner = [len({begin for begin, _ in edges}) for edges, _, _ in asked]
    steps = Counter(len(each.steps) for each in problems)
    first = [each.answer.endswith(f" {kinds[0]}.") for each, (_, kinds, _) in zip(problems, asked, strict=True)]
    return {
        "nodes": fmean(sizes),
        "edges": fmean(len(edges) for edges, _, _ in asked),
        "inner": fmean(inner),
        "steps": fmean(steps.elements()),
        "three": steps[3] / len(problems),
        "five": (steps[5] + steps[6]) / len(problems),
        "first": fmean(first),
    }


@pytest.fixture(scope="module")
def drawn():
    return prosqa.draw(800, seed=10)


def test_the_answer_of_a_drawn_question_alone_can_be_reached(drawn):
    for problem in drawn.items[:200]:
        edges, kinds, who = told_edges(problem.question)
        distance = reached(edges, who)
        right = problem.answer.split()[-1].rstrip(".")
        assert [kind in distance for kind in kinds].count(True) == 1
        assert distance[right] == len(problem.steps) >= 3
        path = [tuple(step.removeprefix("Every ").rstrip(".").split(" is a ")) for step in problem.steps]
        assert path[0][0] == who
        assert path[-1][1] == right
        assert all(one[1] == other[0] for one, other in itertools.pairwise(path))
        assert set(path) <= set(edges)
        # Nobody's child is somebody; everything else is a category.
        children = {end for _, end in edges}
        assert all((begin in children) == (f"Every {begin} is" in problem.question) for begin, _ in edges)


def test_words_are_those_of_the_list(drawn):
    said = " ".join(f"{each.question} {each.answer}" for each in prosqa.spaced(drawn).items).split()
    assert set(said) | {"###"} == set(prosqa.WORDS)
    assert len(prosqa.WORDS) == 63


@needs_data
def test_new_questions_are_like_the_published_ones(drawn):
    published = [*prosqa.load("valid").items, *prosqa.load("test").items]
    assert len(published) == 800
    words = " ".join(each.question for each in prosqa.spaced(prosqa.load("test")).items).split()
    assert set(words) | {"###"} == set(prosqa.WORDS)
    ours, theirs = statistics(drawn.items), statistics(published)
    allowed = {"nodes": 0.4, "edges": 1.2, "inner": 0.5, "steps": 0.12, "three": 0.08, "five": 0.05, "first": 0.07}
    assert {key for key, most in allowed.items() if abs(ours[key] - theirs[key]) > most} == set(), (ours, theirs)


@needs_data
def test_published_questions_are_solved_by_their_steps():
    found = prosqa.load("test")
    for problem in found.items:
        assert found.correct(problem, found.extract(f"### {problem.answer}"))
        assert found.extract(problem.steps[-1]) == ""  # a fact about kinds is no answer about somebody
        edges, kinds, who = told_edges(problem.question)
        assert [kind in reached(edges, who) for kind in kinds].count(True) == 1
    assert found.extract("I do not know") == ""


def test_the_last_sentence_is_the_answer():
    assert prosqa.read_answer("Every rempus is a lempus .\n### Tom is a rempus .") == "Tom is a rempus."
    assert prosqa.read_answer("Is it?") == ""


def test_a_missing_or_wrong_file_is_answered(monkeypatch, tmp_path):
    monkeypatch.delenv("LATENT_DATA", raising=False)
    with pytest.raises(ConfigError, match="LATENT_DATA is not set"):
        prosqa.load()
    monkeypatch.setenv("LATENT_DATA", str(tmp_path))
    (tmp_path / "prosqa").mkdir()
    with pytest.raises(ConfigError, match="there is no"):
        prosqa.load()
    with gzip.open(tmp_path / "prosqa" / "test.json.gz", "wt") as file:
        file.write('[{"question": "?"}]')
    with pytest.raises(FormatError, match="holds no ProsQA"):
        prosqa.load()


def test_symbolic_questions_have_one_answer_and_candidates_that_look_alike():
    found = prosqa.symbolic(1000, seed=10)
    firsts, degrees, hops = [], Counter(), Counter()
    for problem in found.items:
        edges, candidates, who = pair_edges(problem.question)
        nodes = {node for edge in edges for node in edge}
        assert 8 <= len(nodes) <= 10
        distance = reached(edges, who)
        (other,) = (each for each in candidates if each != problem.answer)
        assert problem.answer in distance
        assert other not in distance
        roots = {begin for begin, _ in edges} - {end for _, end in edges}
        (elsewhere,) = roots - {who}
        # Neither depth nor the number of edges tells the candidates apart.
        assert reached(edges, elsewhere)[other] == distance[problem.answer] == len(problem.steps)
        assert all(begin != candidate for candidate in candidates for begin, _ in edges)
        assert problem.steps[-1].split(">")[1] == problem.answer
        firsts.append(candidates[0] == problem.answer)
        hops[len(problem.steps)] += 1
        degrees[edges[-1][1] == problem.answer] += 1
        degrees[edges[-1][1] == other] -= edges[-1][1] == other
        assert found.correct(problem, found.extract(f"{problem.steps[0]} ### {problem.answer} "))
        assert not found.correct(problem, found.extract(f"### {other}"))
        assert set(f"{problem.question} {' '.join(problem.steps)}".split()) <= set(prosqa.SYMBOLS)
    assert abs(fmean(firsts) - 0.5) < 0.05
    assert set(hops) == {2, 3}
    assert found.extract("a>b") == ""


def test_draws_are_those_of_their_seed_and_name():
    one, again, other = (prosqa.symbolic(50, seed=seed).items for seed in (10, 10, 11))
    assert one == again
    assert not set(one) & set(other)
    assert not set(one) & set(prosqa.symbolic(50, seed=10, name="test").items)
    assert prosqa.draw(3, seed=10).items == prosqa.draw(3, seed=10).items != prosqa.draw(3, seed=11).items


@pytest.mark.parametrize("given", [{"nodes": (6, 10)}, {"nodes": (8, 11)}, {"hops": (0, 2)}, {"hops": (3, 2)}])
def test_graphs_that_cannot_be_are_refused(given):
    with pytest.raises(ConfigError, match="cannot have two paths"):
        prosqa.symbolic(1, seed=0, **given)
    with pytest.raises(ConfigError, match="below 1"):
        prosqa.draw(0, seed=0)


def test_the_last_sentence_about_somebody_counts():
    assert prosqa.read_answer("Tom is a lempus. The answer is a lempus.") == "Tom is a lempus."
    assert prosqa.read_answer("So Tom is a **lempus**.") == "Tom is a lempus."
    assert prosqa.read_answer("The answer is a lempus.") == ""
