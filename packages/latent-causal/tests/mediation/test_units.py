"""Featurizers and units: coordinates, names, numbers, and what is refused."""

import pytest
import torch
from torch import nn

from latent.causal.mediation.featurizers import Directions, Features, Heads, Neurons, Span, Whole
from latent.causal.mediation.units import Place, Units, units
from latent.core.activations import Direction, DirectionConfig, Moments, Subspace, SubspaceConfig
from latent.core.errors import ConfigError, LatentError, ProvenanceError, ShapeError, UnknownName


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(count, width):
    return torch.linalg.qr(rows(width, count))[0].mT


FEATURIZERS = {
    "whole": lambda: Whole(8),
    "heads": lambda: Heads(8, 2),
    "neurons": lambda: Neurons(8),
    "directions": lambda: Directions(orthonormal(3, 8)),
    "span": lambda: Span(rows(3, 8)),
}


@pytest.mark.parametrize("make", FEATURIZERS.values(), ids=FEATURIZERS)
def test_all_units_together_are_the_part_that_the_coordinates_explain(make):
    featurizer = make()
    h = rows(5, 8)
    share = featurizer.spread(torch.ones(featurizer.units))
    part = featurizer.decode(share * featurizer.encode(h))
    assert torch.allclose(featurizer.decode(featurizer.encode(part)), part, atol=1e-6)  # a projection
    each = [featurizer.decode(featurizer.spread(one) * featurizer.encode(h)) for one in torch.eye(featurizer.units)]
    assert torch.allclose(torch.stack(each).sum(0), part, atol=1e-6)
    assert len({featurizer.label(unit) for unit in range(featurizer.units)}) == featurizer.units


def test_heads_are_blocks_of_neighbours():
    assert Heads(6, 3).spread(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1, 1, 2, 2, 3, 3]
    with pytest.raises(ConfigError, match="no 4 equal heads"):
        Heads(6, 4)


def test_the_length_and_angle_of_basis_vectors_do_not_matter_to_a_span():
    basis = rows(2, 8)
    skewed = Span(torch.stack([5 * basis[0], basis[1] - 3 * basis[0]]))
    h = rows(4, 8, seed=1)
    one, other = (span.decode(span.encode(h)) for span in (Span(basis), skewed))
    assert torch.allclose(one, other, atol=1e-5)
    with pytest.raises(ConfigError, match="depend on each other"):
        Span(torch.stack([basis[0], 2 * basis[0]]))
    with pytest.raises(ShapeError, match="no more rows than"):
        Span(rows(8, 2))


def test_directions_have_unit_length_and_right_angles():
    scaled = Directions(3 * orthonormal(2, 8))
    assert torch.allclose(scaled.vectors.norm(dim=1), torch.ones(2))
    with pytest.raises(ConfigError, match="not at right angles"):
        Directions(rows(2, 8))
    with pytest.raises(ConfigError, match="not at right angles"):
        Directions(torch.zeros(8))
    with pytest.raises(ShapeError, match="int64"):
        Directions(torch.ones(2, 8, dtype=torch.long))


def test_features_are_latents_of_the_dictionary_and_keep_their_numbers(dictionary):
    features = Features(dictionary, 16, [5, 2])
    h = rows(4, 16)
    assert torch.equal(features.encode(h), dictionary.encode(h)[:, [5, 2]])
    step = torch.tensor([[1.0, 0.0]])
    assert torch.allclose(features.decode(step), dictionary.decoder[5], atol=1e-5)
    assert [features.label(unit) for unit in range(2)] == ["[feature 5]", "[feature 2]"]
    assert Features(dictionary, 16).units == 24
    with pytest.raises(ConfigError, match="different numbers"):
        Features(dictionary, 16, [1, 1])
    with pytest.raises(ShapeError):
        Features(dictionary, 16, [24])
    with pytest.raises(ConfigError, match="encode and decode"):
        Features(nn.Linear(2, 2), 2)


def test_a_decoder_that_is_not_linear_is_refused(dictionary):
    class Bent(nn.Module):
        def encode(self, h):
            return dictionary.encode(h)

        def decode(self, z):
            return dictionary.decode(z).relu()

    with pytest.raises(LatentError, match="not a linear map"):
        Features(Bent(), 16)


def test_units_are_numbered_place_after_place():
    many = Units([Place("a", Neurons(3), 2), Place("b", Whole(4)), Place("a", Heads(4, 2), -1)], "mixed")
    assert list(many) == ["a[0] @2", "a[1] @2", "a[2] @2", "b", "a[head 0] @-1", "a[head 1] @-1"]
    assert many.number("b") == 3
    assert many[-1] == "a[head 1] @-1"
    assert {site: numbers.tolist() for site, numbers in many.sites.items()} == {"a": [0, 1, 2, 4, 5], "b": [3]}
    parts = many.split(torch.arange(6.0))
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3], [4, 5]]
    assert list(many.part([1]) + many.part([0])) == ["b", "a[0] @2", "a[1] @2", "a[2] @2"]
    with pytest.raises(UnknownName, match=r"a\[head 9\]"):
        many.number("a[head 9] @-1")
    with pytest.raises(ShapeError, match=r"shape \(5,\) for 6 units"):
        many.split(torch.zeros(5))
    with pytest.raises(ConfigError, match="without a place"):
        Units([])


def test_each_kind_has_its_site_in_a_language_model(language, texts):
    counts = {"layer": 2, "head": 2 * 4, "neuron": 2 * language_width(language)}
    for kind, count in counts.items():
        found = units(language, kind, inputs=texts[0])
        assert len(found) == count
        assert found.kind == kind
    assert units(language, "head", inputs=texts[0])[5] == "layers.1.attn_heads[head 1]"
    at = units(language, "layer", inputs=texts[0], positions=[1, -1], sites="layers.0.mlp_out")
    assert list(at) == ["layers.0.mlp_out @1", "layers.0.mlp_out @-1"]


def language_width(model):
    return model.config.intermediate_size if hasattr(model.config, "intermediate_size") else 4 * model.config.n_embd


def test_any_module_path_is_a_site(network, base):
    found = units(network, "neuron", inputs=base, sites=["1", "3"])
    assert len(found) == 32
    assert found[16] == "3[0]"
    assert len(units(network, "layer", inputs=base, sites="2:input")) == 1
    assert len(units(network, "head", inputs=base, sites="1", heads=4)) == 4


def test_what_cannot_be_is_refused_by_name(network, base, dictionary):
    with pytest.raises(UnknownName, match="nowhere"):
        units(network, "neuron", inputs=base, sites="nowhere")
    with pytest.raises(ConfigError, match="none of layer, head"):
        units(network, "expert", inputs=base, sites="1")
    with pytest.raises(UnknownName, match="layers"):
        units(network, "neuron", inputs=base)
    with pytest.raises(ConfigError, match="at which site the features"):
        units(network, "feature", inputs=base, dictionary=dictionary)
    with pytest.raises(ConfigError, match="how many heads"):
        units(network, "head", inputs=base, sites="1")
    with pytest.raises(ConfigError, match="given by its vectors"):
        units(network, "subspace", inputs=base, sites="1")
    with pytest.raises(ConfigError, match="those of a dictionary"):
        units(network, "feature", inputs=base, sites="1")
    with pytest.raises(ShapeError, match=r"width 16, the vectors \(2, 8\)"):
        units(network, "subspace", inputs=base, sites="1", vectors=rows(2, 8))
    with pytest.raises(ConfigError, match="different whole numbers"):
        units(network, "neuron", inputs=base, sites="1", positions=[0, 0])


def test_the_output_mediates_nothing(language, texts):
    with pytest.raises(ConfigError, match="mediates nothing"):
        units(language, "layer", inputs=texts[0], sites="logits")


def test_directions_and_subspaces_refuse_another_model_and_site(network, base):
    vectors = rows(2, 16)
    subspace = Subspace(SubspaceConfig(width=16, rank=2, site="1")).set(vectors)
    found = units(network, "subspace", inputs=base, vectors=subspace)
    assert list(found) == ["1[subspace]"]
    with pytest.raises(ProvenanceError, match="found at '1'"):
        units(network, "subspace", inputs=base, vectors=subspace, sites="3")
    assert len(units(network, "subspace", inputs=base, vectors=subspace, sites="3", transfer=True)) == 1
    config = DirectionConfig(width=16, site="1", model="0" * 16)
    direction = Direction(config).set(vectors[0], Moments.of(rows(9, 16)))
    with pytest.raises(ProvenanceError, match="another model"):
        units(network, "direction", inputs=base, vectors=direction)
    assert list(units(network, "direction", inputs=base, vectors=direction, transfer=True)) == ["1[direction]"]


def test_sizes_of_directions_and_subspaces_are_dimensions():
    frame = torch.eye(8)
    two = Units([Place("a", Span(frame[:2])), Place("b", Directions(frame[:3]))])
    assert two.size() == 5 / 16
    assert two.size(torch.tensor([True, False, True, False])) == 3 / 16
    mixed = Units([Place("a", Span(frame[:2])), Place("b", Neurons(8))])
    assert mixed.size(torch.arange(9) < 3) == pytest.approx(1 / 3)
