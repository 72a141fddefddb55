"""Blend: exact at both ends, at its positions, row by row; and what units are replaced by."""

import pytest
import torch
from torch import nn

from latent.causal.errors import DataError
from latent.causal.mediation.calls import call_of, take
from latent.causal.mediation.featurizers import Directions, Heads, Neurons, Span
from latent.causal.mediation.interventions import Blend, Interchange, Mean, Resample, Values, Zero, patched, read
from latent.causal.mediation.units import Place, Units, units
from latent.core.activations import Replace as EngineReplace
from latent.core.activations import capture, edit
from latent.core.capabilities import EncodesSequence
from latent.core.errors import LatentError, ShapeError

EVERY = torch.tensor([0, 1, 2])


def run(model, some, weights, values, inputs):
    call = call_of(model)
    with torch.no_grad(), patched(call, some, weights, values):
        return call(inputs)


def seen(model, site, inputs):
    with torch.no_grad(), capture(model, site) as acts:
        call_of(model)(inputs)
    return acts[site]


@pytest.fixture
def kinds(network, base, dictionary):
    """Units of every kind at the first hidden layer of the perceptron."""
    basis = torch.linalg.qr(torch.randn(16, 3, generator=torch.Generator().manual_seed(5)))[0].mT
    more = {
        "head": {"heads": 4},
        "direction": {"vectors": basis},
        "subspace": {"vectors": basis},
        "feature": {"dictionary": dictionary},
    }
    names = ("layer", "head", "neuron", "direction", "subspace", "feature")
    return {kind: units(network, kind, inputs=base, sites="1", **more.get(kind, {})) for kind in names}


def test_a_weight_of_zero_changes_no_bit_for_any_kind(network, base, source, kinds):
    call = call_of(network)
    for kind, some in kinds.items():
        values = read(call, some, source)
        plain = read(call, some, base)
        with patched(call, some, torch.zeros(len(some)), values):
            edited = read(call, some, base)
        assert torch.equal(edited.by_place[0], plain.by_place[0]), kind
        assert torch.equal(edited.outputs, plain.outputs), kind


def test_a_weight_of_one_puts_plain_coordinates_in_to_the_bit(network, base, source, kinds):
    for kind in ("layer", "head", "neuron"):
        some = kinds[kind]
        values = read(call_of(network), some, source)
        assert torch.equal(run(network, some, torch.ones(len(some)), values, base), values.outputs), kind


def test_only_the_coordinates_of_the_unit_move(network, base, source):
    some = units(network, "head", inputs=base, sites="1", heads=4)
    values = read(call_of(network), some, source)
    one = torch.tensor([0.0, 0.0, 1.0, 0.0])
    call = call_of(network)
    with torch.no_grad(), patched(call, some, one, values):
        new = read(call, some, base).by_place[0]
    old, other = seen(network, "1", base), seen(network, "1", source)
    assert torch.equal(new[:, 8:12], other[:, 8:12])
    assert torch.equal(new[:, :8], old[:, :8])
    assert torch.equal(new[:, 12:], old[:, 12:])


def test_a_subspace_is_exchanged_and_what_is_at_right_angles_stays(network, base, source, kinds):
    some = kinds["subspace"]
    basis = some.places[0].featurizer.vectors
    call = call_of(network)
    with torch.no_grad(), patched(call, some, torch.ones(1), read(call, some, source)):
        new = read(call, some, base).by_place[0]
    old, other = seen(network, "1", base), seen(network, "1", source)
    assert torch.allclose(new @ basis.mT, other @ basis.mT, atol=1e-5)
    rest = torch.eye(16) - basis.mT @ basis
    assert torch.allclose(new @ rest, old @ rest, atol=1e-5)
    assert not torch.allclose(new, old, atol=1e-2)


def test_features_keep_what_the_dictionary_does_not_explain(network, base, source, kinds, dictionary):
    some = kinds["feature"]
    call = call_of(network)
    with torch.no_grad(), patched(call, some, torch.ones(24), read(call, some, source)):
        new = read(call, some, base).by_place[0]
    old, other = seen(network, "1", base), seen(network, "1", source)
    with torch.no_grad():
        error = old - dictionary.decode(dictionary.encode(old))
        assert torch.allclose(new, dictionary.decode(dictionary.encode(other)) + error, atol=1e-5)
    assert error.abs().max() > 0.1  # or the test could not tell


def test_weights_may_differ_between_rows(network, base, source):
    some = units(network, "layer", inputs=base, sites="1")
    values = read(call_of(network), some, source)
    weights = torch.zeros(10, 1)
    weights[3:] = 1.0
    found = run(network, some, weights, values, base)
    with torch.no_grad():
        assert torch.equal(found[:3], network(base)[:3])
        assert torch.equal(found[3:], network(source)[3:])


def test_half_a_strength_is_half_a_weight(network, base):
    """Blend is an operation of the engine like others."""
    value = torch.randn(16, generator=torch.Generator().manual_seed(0))
    for featurizer in (Neurons(16), Span(torch.eye(2, 16))):
        found = []
        for weight, strength in ((0.5, 1.0), (1.0, 0.5)):
            op = Blend(featurizer, torch.full((featurizer.units,), weight), value, strength=strength)
            with torch.no_grad(), edit(network, {"1": op}):
                found.append(network(base))
        assert torch.allclose(found[0], found[1], atol=1e-6)


def test_gradients_reach_weights_values_and_featurizers(network, base):
    some = units(network, "neuron", inputs=base, sites="1")
    call = call_of(network)
    weights = torch.zeros(16, requires_grad=True)
    value = torch.ones(10, 16, requires_grad=True)
    with patched(call, some, weights, Values((value,))):
        outputs = call(base)
    gradient, into = torch.autograd.grad(outputs[:, 0].sum(), [weights, value])
    old = seen(network, "1", base).requires_grad_()
    inner = torch.autograd.grad(network[2:](old)[:, 0].sum(), old)[0]
    assert torch.allclose(gradient, ((1 - old) * inner).sum(0), atol=1e-5)
    assert into.abs().max() == 0  # nothing of it is used at weight 0
    span = Span(torch.eye(2, 16))
    span.vectors.requires_grad_()
    with patched(call, Units([Place("1", span)]), torch.ones(1), Values((value,))):
        found = call(base)[:, 0].sum()
    assert torch.autograd.grad(found, span.vectors)[0].abs().max() > 0


def test_padding_does_not_move_positions(language, texts, alone):
    """A batch with padding on the left is what its rows are one by one, at one position and at all."""
    for positions in (None, 0, 2, -1, -2):
        for kind in ("layer", "head", "neuron"):
            some = units(language, kind, inputs=texts[0], positions=positions)
            weights = torch.rand(len(some), generator=torch.Generator().manual_seed(4))
            with torch.no_grad():
                together = run(language, some, weights, read(call_of(language), some, texts[1]), texts[0])
                for row, (base, source) in enumerate(alone):
                    single = run(language, some, weights, read(call_of(language), some, source), base)
                    assert torch.allclose(single[0], together[row], atol=1e-4), (positions, kind, row)


def test_padding_of_base_and_source_may_differ(llama, texts, alone):
    some = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post")
    values = read(call_of(llama), some, alone[2][1])  # three tokens, no padding
    padded = take(texts[0], torch.tensor([2]))  # three tokens behind three of padding
    found = run(llama, some, torch.ones(1), values, padded)
    assert torch.allclose(found, values.outputs, atol=1e-5)


def test_only_the_token_at_the_position_changes_and_padding_never(llama, texts):
    site = "layers.0.mlp_out"
    mask = texts[0]["attention_mask"].bool()
    for position, columns in ((1, [1, 3, 4]), (-1, [5, 5, 5]), (None, None)):
        some = units(llama, "layer", inputs=texts[0], sites=site, positions=position)
        call = call_of(llama)
        value = torch.full((3, 32), 7.0)
        with torch.no_grad(), patched(call, some, torch.ones(1), Values((value,))), capture(llama, site) as acts:
            call(texts[0])
        changed = (acts[site] == 7.0).all(-1)
        expected = mask if columns is None else torch.nn.functional.one_hot(torch.tensor(columns), 6).bool()
        assert torch.equal(changed, expected)
        assert torch.equal(acts[site][~expected], seen(llama, site, texts[0])[~expected])


def test_models_of_sequences_have_positions_too(base):
    class Reader(nn.Module, EncodesSequence):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def encode_sequence(self, x, mask):
            return self.inner(x).cumsum(1) * mask.unsqueeze(-1)

    x, mask = base[:, :, None].expand(-1, -1, 4), torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]] * 5)
    call = call_of(Reader().eval())
    for position, columns in ((0, [2, 0]), (-1, [5, 3])):
        some = units(call, "layer", inputs=(x, mask), sites="inner", positions=position)
        with (
            patched(call, some, torch.ones(1), Values((torch.full((10, 4), 9.0),))),
            capture(call.root, "inner") as acts,
        ):
            call((x, mask))
        changed = (acts["inner"] == 9.0).all(-1).nonzero()
        assert changed[:, 1].tolist() == columns * 5


def test_a_head_at_one_position_is_a_raw_edit_of_its_block(language, texts):
    """The oracle is the engine of activations, used by hand."""
    some = units(language, "head", inputs=texts[0], positions=-1)
    values = read(call_of(language), some, texts[1])
    weights = torch.zeros(8)
    weights[some.number("layers.1.attn_heads[head 2] @-1")] = 1.0
    found = run(language, some, weights, values, texts[0])
    site = "layers.1.attn_heads"
    new = seen(language, site, texts[0])[:, -1].clone()
    new[:, 16:24] = seen(language, site, texts[1])[:, -1, 16:24]
    last = EngineReplace(new, positions=lambda place: place == place.amax(1, keepdim=True))
    with torch.no_grad(), edit(language, {site: last}):
        assert torch.allclose(found, call_of(language)(texts[0]), atol=1e-5)


def test_the_model_is_restored_after_errors(network, base, source):
    some = units(network, "neuron", inputs=base, sites="1")
    call = call_of(network)
    before, weights = network(base), {name: value.clone() for name, value in network.state_dict().items()}
    values = read(call, some, source)
    with pytest.raises(ZeroDivisionError), patched(call, some, torch.ones(16), values):
        call(base[: 1 // 0])
    with pytest.raises(ShapeError), patched(call, some, torch.ones(16), values.take(EVERY)):
        call(base)
    assert torch.equal(network(base), before)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_wrong_widths_rows_positions_and_counts_are_named(network, llama, base, texts):
    call = call_of(network)
    some = units(network, "neuron", inputs=base, sites="1")
    with pytest.raises(ShapeError, match=r"'1' has width 16, the units 4"):
        run(network, Units([Place("1", Neurons(4))]), torch.ones(4), Values((torch.ones(10, 16),)), base)
    with pytest.raises(ShapeError, match=r"shape \(3, 16\).*10 rows"):
        run(network, some, torch.ones(16), Values((torch.ones(3, 16),)), base)
    with pytest.raises(ShapeError, match="2 values for 1 places"):
        patched(call, some, torch.ones(16), Values((torch.ones(16), torch.ones(16))))
    with pytest.raises(ShapeError, match="no vector for each token"):
        run(network, Units([Place("1", Neurons(16), 0)]), torch.ones(16), Values((torch.ones(16),)), base)
    at = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post", positions=4)
    with pytest.raises(LatentError, match="Not every row has tokens"):
        read(call_of(llama), at, texts[0])
    with pytest.raises(ShapeError, match="row 1 has 4 tokens, and none at place 4"):
        run(llama, at, torch.ones(1), Values((torch.ones(32),)), texts[0])
    with pytest.raises(ShapeError, match="one place was given vectors of shape"):
        run(llama, at, torch.ones(1), Values((torch.ones(3, 6, 32),)), texts[0])
    every = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post")
    with pytest.raises(ShapeError, match="up to 6 tokens, and vectors for 2 places"):
        run(llama, every, torch.ones(1), Values((torch.ones(3, 2, 32),)), texts[0])


# Replacements --------------------------------------------------------------------------------------------------------


def bound(replacement, model, some, base, source):
    return replacement.bind(call_of(model), some, base, source, batch=2)


def test_an_interchange_takes_the_source_row_with_the_same_number(network, base, source):
    some = units(network, "layer", inputs=base, sites="1")
    numbers = torch.tensor([4, 1])
    values = bound(Interchange(), network, some, base, source)(numbers)
    assert torch.allclose(values.by_place[0], seen(network, "1", source)[numbers], atol=1e-6)
    assert torch.allclose(values.outputs, network(source)[numbers], atol=1e-6)
    with pytest.raises(ShapeError, match="10 base rows and 3 source rows"):
        bound(Interchange(), network, some, base, source[:3])


def test_lengths_must_agree_where_units_are_at_every_position(llama, texts):
    shorter = {"input_ids": texts[1]["input_ids"], "attention_mask": texts[1]["attention_mask"].clone()}
    shorter["attention_mask"][1, 2] = 0
    every = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post")
    with pytest.raises(ShapeError, match="Row 1 has 4 tokens in base and 3 in source"):
        bound(Interchange(), llama, every, texts[0], shorter)
    at = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post", positions=-1)
    bound(Interchange(), llama, at, texts[0], shorter)


def test_each_run_has_the_mask_of_its_own_inputs(llama, texts):
    """The source of other lengths is read under its own mask, not under that of base."""
    swapped = {name: value.flip(0) for name, value in texts[1].items()}
    at = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post", positions=-1)
    values = bound(Interchange(), llama, at, texts[0], swapped)(EVERY)
    assert torch.allclose(values.by_place[0], seen(llama, "layers.0.resid_post", texts[1]).flip(0)[:, -1], atol=1e-5)
    assert torch.allclose(values.outputs, call_of(llama)(texts[1]).flip(0), atol=1e-4)


def test_a_resampled_row_is_never_its_own(network, base, source):
    some = units(network, "layer", inputs=base, sites="1")
    every = torch.arange(10)
    values = bound(Resample(3), network, some, base, source)(every)
    drawn = torch.cdist(values.by_place[0], seen(network, "1", source)).argmin(1)
    assert sorted(drawn.tolist()) == list(range(10))
    assert not bool((drawn == every).any())
    again = bound(Resample(3), network, some, base, source)(every)
    assert torch.equal(values.by_place[0], again.by_place[0])
    other = bound(Resample(4), network, some, base, source)(every)
    assert not torch.equal(values.by_place[0], other.by_place[0])


def test_a_resampled_text_has_as_many_tokens(llama, texts):
    every = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post")
    with pytest.raises(DataError, match="no other row with 3 tokens"):
        bound(Resample(), llama, every, *texts)
    doubled = [{name: value.repeat(2, 1) for name, value in each.items()} for each in texts]
    doubled[1]["input_ids"][3:] = doubled[1]["input_ids"][3:].roll(1, 1) * doubled[1]["attention_mask"][3:]
    values = bound(Resample(), llama, every, *doubled)(EVERY)
    expected = read(call_of(llama), every, take(doubled[1], EVERY + 3))
    assert torch.allclose(values.by_place[0], expected.by_place[0], atol=1e-5)


def test_means_are_those_of_each_site_and_each_place(llama, texts):
    """One mean for each place among real tokens: not over sites, not over padding, not of the last token alone."""
    some = units(llama, "layer", inputs=texts[0], sites=["layers.0.resid_post", "layers.1.mlp_out"])
    values = bound(Mean(), llama, some, *texts)(EVERY)
    mask = texts[1]["attention_mask"].bool()
    for index, site in enumerate(("layers.0.resid_post", "layers.1.mlp_out")):
        tokens = [row[real] for row, real in zip(seen(llama, site, texts[1]), mask, strict=True)]
        for place in range(6):
            mean = torch.stack([row[place] for row in tokens if len(row) > place]).mean(0)
            assert torch.allclose(values.by_place[index][1, place], mean, atol=1e-5)
    last = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post", positions=-1)
    one = bound(Mean(texts[0]), llama, last, *texts)(EVERY).by_place[0]
    assert torch.allclose(one[0], seen(llama, "layers.0.resid_post", texts[0])[:, -1].mean(0), atol=1e-5)


def test_means_are_of_places_where_the_data_have_tokens(llama, texts):
    """The last three columns of the data are padding in every row: a longer row finds no mean there, not NaN."""
    every = units(llama, "layer", inputs=texts[0], sites="layers.0.resid_post")
    short = {name: value.clone() for name, value in texts[1].items()}
    short["input_ids"], short["attention_mask"] = short["input_ids"].flip(1), short["attention_mask"].flip(1)
    short["attention_mask"][:, 3:] = 0
    values = bound(Mean(short), llama, every, *texts)(EVERY)
    assert values.by_place[0].shape[1] == 3
    assert bool(values.by_place[0].isfinite().all())
    call = call_of(llama)
    replaced = patched(call, every, torch.ones(1), values)
    with pytest.raises(ShapeError, match="up to 6 tokens, and vectors for 3 places"), torch.no_grad(), replaced:
        call(texts[0])


def test_zero_means_inactive_latents_and_not_the_code_of_a_zero_vector(network, base, source, kinds, dictionary):
    for kind in ("neuron", "feature"):
        some = kinds[kind]
        values = bound(Zero(), network, some, base, source)(torch.arange(10))
        call = call_of(network)
        with torch.no_grad(), patched(call, some, torch.ones(len(some)), values):
            new = read(call, some, base).by_place[0]
        old = seen(network, "1", base)
        if kind == "neuron":
            assert bool((new == 0).all())
        else:
            with torch.no_grad():
                expected = old - dictionary.encode(old) @ dictionary.decoder
            assert torch.allclose(new, expected, atol=1e-5)
            assert dictionary.encode(torch.zeros(1, 16)).abs().max() > 0.1  # or the test could not tell


def test_heads_and_directions_at_once(network, base, source):
    """Places of different kinds are edited in one pass."""
    both = Units([Place("1", Heads(16, 4)), Place("3", Directions(torch.eye(2, 16)))])
    assert list(both)[3:5] == ["1[head 3]", "3[direction 0]"]
    values = read(call_of(network), both, source)
    found = run(network, both, torch.ones(6), values, base)
    with torch.no_grad():
        hidden = network[2:4](seen(network, "1", source))  # the second layer sees the first one's new vectors
        hidden[:, :2] = seen(network, "3", source)[:, :2]
        assert torch.allclose(found, network[4](hidden), atol=1e-5)
