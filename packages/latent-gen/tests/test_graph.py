"""Causal graphs: orders, what follows, and mistakes in edges."""

import pytest
import torch

from latent.core.errors import ConfigError, UnknownName
from latent.gen.graph import CausalGraph

CHAIN = CausalGraph(("c", "a", "b"), ("a->b", "b->c"))


def test_causes_come_before_effects_and_free_nodes_keep_their_order():
    assert CHAIN.order == (1, 2, 0)
    assert CausalGraph(("x", "y", "z")).order == (0, 1, 2)


def test_parents_and_descendants():
    assert CHAIN.parents("c") == (2,)
    assert CHAIN.parents(1) == ()
    assert CHAIN.descendants([1]) == (2, 0)
    assert CHAIN.descendants([2]) == (0,)
    assert CHAIN.descendants([1, 2]) == (0,)
    assert CHAIN.descendants([0]) == ()


def test_a_node_with_two_causes_names_both_in_the_order_of_the_nodes():
    graph = CausalGraph(("a", "b", "c"), ("b->c", "a->c"))
    assert graph.parents("c") == (0, 1)


def test_the_adjacency_matrix_points_from_cause_to_effect():
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert torch.equal(CHAIN.adjacency(), expected)


def test_reversed_and_empty_keep_the_nodes():
    assert torch.equal(CHAIN.reversed().adjacency(), CHAIN.adjacency().T)
    assert CHAIN.reversed().nodes == CHAIN.nodes
    assert CHAIN.empty().edges == ()


@pytest.mark.parametrize(
    ("nodes", "edges", "text"),
    [
        ((), (), "are none"),
        (("a", "a"), (), "comes twice"),
        (("a->b", "b"), (), "cannot be the name"),
        (("a", "b"), ("a-b",), "is no edge"),
        (("a", "b"), ("a->b", "a -> b"), "comes twice"),
        (("a", "b"), ("a->b", "b->a"), "a -> b -> a|b -> a -> b"),
        (("a",), ("a->a",), "a -> a"),
    ],
)
def test_what_is_no_graph_is_refused(nodes, edges, text):
    with pytest.raises(ConfigError, match=text):
        CausalGraph(nodes, edges)


def test_a_node_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="thickness"):
        CausalGraph(("thickness", "intensity"), ("thicknes->intensity",))
    with pytest.raises(UnknownName, match="Unknown factor 'd'"):
        CHAIN.index("d")
