"""Questions about paths in a graph: the published ProsQA (arXiv:2412.06769), more of its kind, and a small one.

An entity is somewhere in a directed graph of categories. Which of two categories does it belong to? One can be reached
from it, the other only from somebody else, so guessing is right half of the time, and the solution is a path that has
to be found among branches that lead elsewhere.

The file with which the published models were trained is not at hand; `draw` makes questions of the same kind, matched
to the 800 published ones in nodes, edges, steps and the depth of both candidates. `symbolic` is the same problem in a
few tokens for models of two layers.
"""

import itertools
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from latent.core.data import data_file, read_text
from latent.core.errors import ConfigError, FormatError
from latent.core.run.seed import derive
from latent.reason.data.problem import Problem, Problems

__all__ = ["SYMBOLS", "WORDS", "Graph", "draw", "load", "read_answer", "spaced", "symbolic"]

ENTITIES = (
    "Alex", "Bob", "Carol", "Davis", "Eva", "Fae", "Gabriel", "Jack", "Max", "Oliver", "Polly", "Rex", "Sally", "Sam",
    "Stella", "Tom", "Wren",
)  # fmt: skip
CATEGORIES = tuple(
    f"{stem}pus"
    for stem in (
        "bom", "boom", "brim", "chor", "dum", "fel", "fom", "ger", "gor", "grim", "gwom", "hil", "im", "jel", "jom",
        "ker", "lem", "lor", "num", "quim", "rem", "rom", "ror", "scrom", "shum", "ster", "stor", "ter", "tim", "tum",
        "vum", "wor", "wum", "yer", "yim", "yum", "zhor", "zum",
    )
)  # fmt: skip
#: Every word of `draw` and of the published questions, after `spaced`.
WORDS = ("Every", "is", "a", "Is", "or", ".", "?", "###", *ENTITIES, *CATEGORIES)
_NODES = tuple("abcdefghij")
#: Every word of `symbolic`: nodes, edges, and what begins the question and the answer.
SYMBOLS = (*_NODES, *(f"{one}>{two}" for one, two in itertools.permutations(_NODES, 2)), "?", "###")
_SAID = re.compile(r"\b([A-Z]\w*)[*_]* is an? [*_]*(\w+)")


@dataclass(frozen=True)
class Graph:
    """A question as a graph. Nodes are numbered; each edge leads from a node to a later one.

    Attributes:
        edges: Pairs of nodes.
        root: The node that is asked about.
        target: The candidate that can be reached from it.
        other: The candidate that cannot.
        path: A shortest path from root to target, both included.
    """

    edges: tuple[tuple[int, int], ...]
    root: int
    target: int
    other: int
    path: tuple[int, ...]

    @property
    def nodes(self) -> list[int]:
        """Every node that has an edge, in order."""
        return sorted({node for edge in self.edges for node in edge})


# The published questions ----------------------------------------------------------------------------------------------


def load(part: Literal["valid", "test"] = "test") -> Problems:
    """Return the published questions of `LATENT_DATA`: 300 to validate with or 500 to test with.

    Raises:
        ConfigError: `LATENT_DATA` does not have them.
        FormatError: The file is another one.
    """
    path = data_file(f"prosqa/{part}.json.gz")
    try:
        rows = json.loads(read_text(path))
        items = tuple(_published(row) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} holds no ProsQA: {type(error).__name__} {error}.", hint="Copy it again.") from None
    return _problems(items)


def _published(row: Mapping[str, Any]) -> Problem:
    return Problem(str(row["question"]), str(row["answer"]), tuple(map(str, row["steps"])))


def _problems(items: tuple[Problem, ...]) -> Problems:
    return Problems("prosqa", items, read_answer, lambda problem, given: given == read_answer(problem.answer))


def read_answer(text: str) -> str:
    """Return the last sentence of the kind `Tom is a lempus.`; empty when there is none."""
    found = _SAID.findall(text)
    return "{} is a {}.".format(*found[-1]) if found else ""


def spaced(problems: Problems) -> Problems:
    """Return problems with a space before each full stop and question mark, for tokenizers of words between spaces."""

    def apart(text: str) -> str:
        return re.sub(r"(?<=\w)([.?])", r" \1", text)

    items = tuple(
        Problem(apart(each.question), apart(each.answer), tuple(map(apart, each.steps))) for each in problems.items
    )
    return _problems(items)


# More of their kind ---------------------------------------------------------------------------------------------------


def draw(count: int, *, seed: int, name: str = "") -> Problems:
    """Return new questions of the published kind.

    Args:
        count: How many.
        seed: Names them.
        name: Names the stream they are drawn from.

    Raises:
        ConfigError: `count` is below 1.
    """
    _check(count)
    chance = random.Random(derive(seed, "prosqa", name))
    return _problems(tuple(_told(_like_published(chance), chance) for _ in range(count)))


def _like_published(chance: random.Random) -> Graph:
    """Return a graph as the published ones are: from 0 and 1 grow two groups that seldom meet.

    Nodes are added one by one, each below some of those before: of one group, of the other or of any. The numbers are
    fitted to the 800 published graphs: Poisson parents, deep ones preferred, and the deepest leaf as target.
    """
    while True:
        sides, depths, edges = [1, 2], [0, 0], []
        for node in range(2, max(8, round(chance.gauss(23, 2)))):
            luck = chance.random()
            allowed = 1 if luck < 0.35 else 2 if luck < 0.8 else 3
            below = [each for each in range(node) if sides[each] & ~allowed == 0]
            parents = _some(below, [depths[each] + 1 for each in below], _parents(chance), chance)
            edges += [(parent, node) for parent in parents]
            sides.append(_union(sides[parent] for parent in parents))
            depths.append(1 + min((depths[parent] for parent in parents), default=-1))
        found = _asked(edges, sides, chance)
        if found is not None:
            return found


def _parents(chance: random.Random) -> int:
    """Return how many parents a node has: seldom none, else of a Poisson distribution of mean 1.45 without zero."""
    if chance.random() < 0.03:
        return 0
    luck, number, weight = chance.random() * 3.2631, 0, 1.0  # e ** 1.45 - 1
    while luck > 0:
        number += 1
        weight *= 1.45 / number
        luck -= weight
    return number


def _some(of: Sequence[int], weights: Sequence[int], number: int, chance: random.Random) -> list[int]:
    """Return `number` different ones, or all if there are fewer, the heavy ones more often."""
    left = dict(zip(of, weights, strict=True))
    chosen: list[int] = []
    while left and len(chosen) < number:
        chosen += chance.choices([*left], [*left.values()])
        del left[chosen[-1]]
    return chosen


def _union(sides: Iterable[int]) -> int:
    """Return the group of a node: the bits of all its parents' groups."""
    whole = 0
    for side in sides:
        whole |= side
    return whole


def _asked(edges: Sequence[tuple[int, int]], sides: Sequence[int], chance: random.Random) -> Graph | None:
    """Ask for the deepest leaf of either group, three steps away or more; None when there is none, or no other leaf."""
    paths = [_paths(edges, root) for root in (0, 1)]
    inner = {begin for begin, _ in edges}
    leaves = [[node for node in paths[root] if node not in inner and sides[node] == 1 << root] for root in (0, 1)]
    far = [(len(paths[root][node]) - 1, root, node) for root in (0, 1) for node in leaves[root]]
    depth = max((each[0] for each in far), default=0)
    if depth not in range(3, 7):
        return None
    _, root, target = chance.choice([each for each in far if each[0] == depth])
    others = [node for node in leaves[1 - root] if node > 1]
    if not others:
        return None
    return Graph(tuple(edges), root, target, chance.choice(others), paths[root][target])


def _paths(edges: Sequence[tuple[int, int]], root: int) -> dict[int, tuple[int, ...]]:
    """Return a shortest path to each node that can be reached from `root`."""
    children: dict[int, list[int]] = {}
    for begin, end in edges:
        children.setdefault(begin, []).append(end)
    paths: dict[int, tuple[int, ...]] = {root: (root,)}
    queue = [root]
    for node in queue:
        for child in children.get(node, ()):
            if child not in paths:
                paths[child] = (*paths[node], child)
                queue.append(child)
    return paths


def _told(graph: Graph, chance: random.Random) -> Problem:
    """Return a graph in words. What is nobody's child is somebody, all else is a category."""
    children = {end for _, end in graph.edges}
    people, kinds = (chance.sample(names, len(names)) for names in (ENTITIES, CATEGORIES))
    names = {node: (kinds if node in children else people).pop() for node in graph.nodes}

    def sentence(begin: int, end: int) -> str:
        return f"{'Every ' if begin in children else ''}{names[begin]} is a {names[end]}."

    said = [sentence(*edge) for edge in chance.sample(graph.edges, len(graph.edges))]
    one, two = chance.sample([names[graph.target], names[graph.other]], 2)
    question = f"{' '.join(said)} Is {names[graph.root]} a {one} or {two}?"
    steps = tuple(sentence(*edge) for edge in itertools.pairwise(graph.path))
    return Problem(question, f"{names[graph.root]} is a {names[graph.target]}.", steps)


# Symbols --------------------------------------------------------------------------------------------------------------


def symbolic(
    count: int,
    *,
    seed: int,
    name: str = "",
    nodes: tuple[int, int] = (8, 10),
    hops: tuple[int, int] = (2, 3),
) -> Problems:
    """Return small questions in which an edge is one word: `c>a d>b a>f ? d b f` asks whether d leads to b or to f.

    Both candidates are equally far from a root of their own, and nothing but the edges tells them apart. Steps are the
    edges of the path, the answer is a node.

    Args:
        count: How many.
        seed: Names them.
        name: Names the stream they are drawn from.
        nodes: Fewest and most nodes.
        hops: Fewest and most steps.

    Raises:
        ConfigError: There are more nodes than names, too few for the steps, or `count` is below 1.
    """
    _check(count)
    if not (1 <= hops[0] <= hops[1] and 2 * hops[1] + 2 <= nodes[0] <= nodes[1] <= len(_NODES)):
        raise ConfigError(
            f"Graphs of {nodes} nodes cannot have two paths of {hops} steps.",
            hint=f"Give at least 2 * steps + 2 nodes, at most {len(_NODES)}.",
        )
    chance = random.Random(derive(seed, "symbolic prosqa", name))
    items = tuple(_written(_two_trees(chance, nodes, hops), chance) for _ in range(count))
    return Problems("symbolic-prosqa", items, read_node, lambda problem, given: given == problem.answer)


def read_node(text: str) -> str:
    """Return the word after `###`; empty when there is none."""
    said = text.rpartition("###")[2].split() if "###" in text else []
    return said[0] if said else ""


def _two_trees(chance: random.Random, nodes: tuple[int, int], hops: tuple[int, int]) -> Graph:
    """Return two paths of equal length with branches, each node below one other."""
    length, total = chance.randint(*hops), chance.randint(*nodes)
    paths = [tuple(range(side, 2 * length + 2, 2)) for side in (0, 1)]
    edges = [edge for path in paths for edge in itertools.pairwise(path)]
    # A branch may begin anywhere but at a candidate: both candidates are leaves, and so are others.
    inner = [node for path in paths for node in path[:-1]]
    for node in range(2 * length + 2, total):
        edges.append((chance.choice(inner), node))
        inner.append(node)
    root = chance.randrange(2)
    return Graph(tuple(edges), root, paths[root][-1], paths[1 - root][-1], paths[root])


def _written(graph: Graph, chance: random.Random) -> Problem:
    names = chance.sample(_NODES, len(_NODES))

    def pair(edge: tuple[int, int]) -> str:
        return f"{names[edge[0]]}>{names[edge[1]]}"

    edges = " ".join(pair(edge) for edge in chance.sample(graph.edges, len(graph.edges)))
    one, two = chance.sample([names[graph.target], names[graph.other]], 2)
    steps = tuple(pair(edge) for edge in itertools.pairwise(graph.path))
    return Problem(f"{edges} ? {names[graph.root]} {one} {two}", names[graph.target], steps)


def _check(count: int) -> None:
    if count < 1:
        raise ConfigError(f"count={count} is below 1.", hint="Ask for at least one question.")
