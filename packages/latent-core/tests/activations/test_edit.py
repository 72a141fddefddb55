"""Writing: exact operations, the same with and without a cache, and a model that is restored to the bit."""

import threading

import pytest
import torch
from torch import nn

from latent.core.activations import (
    Add,
    Clamp,
    Patch,
    ProjectOnto,
    ProjectOut,
    Replace,
    Resample,
    Scale,
    Zero,
    capture,
    edit,
)
from latent.core.errors import ConfigError, LatentError, ShapeError, UnknownName

SITE = "layers.1.resid_post"
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(5))
OTHER = torch.randn(32, generator=torch.Generator().manual_seed(6))
BASIS = torch.stack([VECTOR, OTHER, VECTOR + OTHER])  # of rank 2
OPS = {
    "add": lambda **k: Add(VECTOR, **k),
    "scale": lambda **k: Scale(3.0, **k),
    "zero": lambda **k: Zero(**k),
    "replace": lambda **k: Replace(VECTOR, **k),
    "resample": lambda **k: Resample(BASIS, seed=0, **k),
    "project-out": lambda **k: ProjectOut(BASIS, **k),
    "project-onto": lambda **k: ProjectOnto(BASIS, **k),
    "clamp": lambda **k: Clamp(VECTOR, low=2.0, high=2.0, **k),
    "patch": lambda **k: Patch(BASIS[:2], places=[1, 3], **k),
}


def both(model, ids, ops, site=SITE, **inputs):
    """What the model made at a site, and what the edit made of it."""
    with capture(model, site) as before, edit(model, {site: ops}), capture(model, site) as after:
        model(ids, **inputs)
    return before[site], after[site]


@pytest.mark.parametrize("name", OPS)
def test_zero_strength_is_the_model_to_the_bit(model, ids, name):
    plain = model(ids).logits
    for strength in (0.0, torch.zeros(3)):
        with edit(
            model,
            {"layers.*.*": OPS[name](strength=strength)} if name == "scale" else {SITE: OPS[name](strength=strength)},
        ):
            assert torch.equal(model(ids).logits, plain)
    with edit(model, {SITE: OPS[name]()}):
        assert not torch.equal(model(ids).logits, plain)
    assert torch.equal(model(ids).logits, plain)


def test_operations_do_what_they_say(llama, ids):
    unit = VECTOR / VECTOR.norm()
    h, new = both(llama, ids, Add(VECTOR, strength=2.0))
    assert torch.equal(new, h + 2.0 * VECTOR)
    h, new = both(llama, ids, Scale(torch.tensor([1.0, 2.0, 3.0])))
    assert torch.equal(new, h * torch.tensor([1.0, 2.0, 3.0])[:, None, None])
    assert not both(llama, ids, Zero())[1].any()
    assert torch.equal(both(llama, ids, Replace(VECTOR))[1], VECTOR.expand(3, 6, 32))
    _, new = both(llama, ids, Resample(BASIS, seed=3))
    assert all(any(torch.equal(row[0], donor) for donor in BASIS) for row in new)
    assert torch.equal(new, new[:, :1].expand_as(new))
    h, out = both(llama, ids, ProjectOut(BASIS))
    onto = both(llama, ids, ProjectOnto(BASIS))[1]
    torch.testing.assert_close(out + onto, h)
    torch.testing.assert_close(out @ BASIS.T, torch.zeros(3, 6, 3), atol=1e-4, rtol=0)
    assert torch.linalg.matrix_rank(onto.flatten(0, 1)) == 2
    h, new = both(llama, ids, Clamp(VECTOR, low=-0.1, high=0.2))
    torch.testing.assert_close(new @ unit, (h @ unit).clamp(-0.1, 0.2))
    torch.testing.assert_close(new - (new @ unit)[..., None] * unit, h - (h @ unit)[..., None] * unit)
    new = both(llama, ids, Clamp(VECTOR, low=2.0, high=2.0))[1]
    torch.testing.assert_close(new @ unit, torch.full((3, 6), 2.0))


def test_edits_reach_what_follows(model, ids):
    """An edit at every kind of site, tuples, flattened tensors and keyword inputs included."""
    plain = model(ids).logits
    for key in ("resid_pre", "attn_heads", "attn_out", "mlp_in", "mlp_out", "resid_post"):
        h, new = both(model, ids, Scale(2.0), site=f"layers.1.{key}")
        assert torch.equal(new, h * 2.0)
        with edit(model, {f"layers.1.{key}": Scale(2.0)}):
            assert not torch.equal(model(ids).logits, plain), key
    with edit(model, {"logits": Zero()}):
        assert not model(ids).logits.any()
    with capture(model, "layers.2.resid_pre") as acts, edit(model, {SITE: Zero()}):
        model(ids)
    assert not acts["layers.2.resid_pre"].any()


def test_several_operations_run_in_order(llama, ids):
    h, new = both(llama, ids, [Add(VECTOR), Scale(2.0)])
    assert torch.equal(new, (h + VECTOR) * 2.0)
    h, new = both(llama, ids, [Scale(2.0), Add(VECTOR)])
    assert torch.equal(new, h * 2.0 + VECTOR)


def test_rows_have_their_own_vectors_and_strengths(model, ids):
    vectors, strengths = torch.stack([VECTOR, OTHER, VECTOR]), torch.tensor([1.0, 0.0, -2.0])
    plain = model(ids).logits
    with edit(model, {SITE: Add(vectors, strength=strengths)}):
        logits = model(ids).logits
    assert torch.equal(logits[1], plain[1])
    for row in (0, 2):
        with edit(model, {SITE: Add(vectors[row], strength=float(strengths[row]))}):
            torch.testing.assert_close(logits[row], model(ids[row : row + 1]).logits[0], atol=1e-5, rtol=1e-4)


def test_positions_are_counted_without_padding(model, padded):
    ids, mask = padded
    places = (mask.cumsum(1) - 1).clamp(min=0)
    for positions in (slice(1, 3), slice(torch.tensor([0, 1, 2]), None), lambda place: place == 2):
        with edit(model, {SITE: Add(VECTOR, positions=positions)}):
            logits = model(ids, attention_mask=mask, position_ids=places).logits
        for row in range(3):
            own = (
                slice(positions.start[row].item(), None)
                if isinstance(positions, slice) and isinstance(positions.start, torch.Tensor)
                else positions
            )
            with edit(model, {SITE: Add(VECTOR, positions=own)}):
                alone = model(ids[row : row + 1, mask[row] == 1]).logits[0]
            torch.testing.assert_close(logits[row, mask[row] == 1], alone, atol=1e-4, rtol=1e-3)


SCHEDULES = {
    "always": None,
    "window": slice(2, 7),
    "after-the-prompt": slice(torch.tensor([6, 4, 3]), None),
    "decay": lambda place: 0.8**place,
    "every-other": lambda place: place % 2 == 0,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_gives_the_same_ids_with_and_without_a_cache(model, padded, schedule):
    ids, mask = padded
    settings = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    plain = model.generate(ids, **settings)
    made = []
    for use_cache in (True, False):
        with edit(model, {SITE: Add(VECTOR, strength=8.0, positions=SCHEDULES[schedule])}):
            made.append(model.generate(ids, use_cache=use_cache, **settings))
    assert torch.equal(*made)
    assert not torch.equal(made[0], plain)


def test_conditions_choose_rows_and_tokens(llama, ids):
    h, new = both(llama, ids, Add(VECTOR, when=torch.tensor([True, False, True])))
    assert torch.equal(new, torch.stack([h[0] + VECTOR, h[1], h[2] + VECTOR]))
    seen = []
    h, new = both(llama, ids, [Scale(2.0), Add(VECTOR, when=lambda h: seen.append(h) or h @ OTHER > 0)])
    assert torch.equal(seen[0], h * 2.0)
    chosen = (h * 2.0) @ OTHER > 0
    assert 0 < chosen.sum() < 18
    assert torch.equal(new, torch.where(chosen[..., None], h * 2.0 + VECTOR, h * 2.0))
    h, new = both(llama, ids, Zero(when=lambda h: h.mean((1, 2)) > h.mean()))
    assert torch.equal(new.any(2).any(1), ~(h.mean((1, 2)) > h.mean()))
    assert 0 < (h.mean((1, 2)) > h.mean()).sum() < 3


def test_conditions_multiply_with_strength_and_positions(llama, padded):
    ids, mask = padded
    strength = torch.tensor([0.0, 2.0, -1.0])
    op = Add(VECTOR, strength=strength, positions=slice(1, 3), when=lambda h: (h @ OTHER).sigmoid())
    h, new = both(llama, ids, op, attention_mask=mask)
    place = mask.cumsum(1) - 1
    chosen = (mask == 1) & (place >= 1) & (place < 3)
    weight = strength[:, None] * chosen * (h @ OTHER).sigmoid()
    torch.testing.assert_close(new, h + weight[..., None] * VECTOR)
    assert torch.equal(new[weight == 0], h[weight == 0])
    with edit(llama, {SITE: Add(VECTOR, when=torch.tensor([True, False, True]))}, copies=2), capture(llama, SITE) as x:
        llama(ids.repeat_interleave(2, 0))
    with capture(llama, SITE) as plain:
        llama(ids.repeat_interleave(2, 0))
    changed = (x[SITE] != plain[SITE]).any(2).any(1)
    assert changed.tolist() == [True, True, False, False, True, True]


def test_a_condition_on_tokens_gives_the_same_ids_with_and_without_a_cache(model, padded):
    ids, mask = padded
    settings = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    op = Add(VECTOR, strength=8.0, positions=slice(1, None), when=lambda h: h @ OTHER > 0)
    made = []
    for use_cache in (True, False):
        with edit(model, {SITE: op}):
            made.append(model.generate(ids, use_cache=use_cache, **settings))
    assert torch.equal(*made)
    assert not torch.equal(made[0], model.generate(ids, **settings))


def test_a_condition_that_never_holds_is_the_model_to_the_bit(llama, ids):
    plain = llama(ids).logits
    never = (torch.zeros(3, dtype=torch.bool), lambda h: h[..., 0] > 1e9, lambda h: torch.zeros(3))
    for when in never:
        for name in OPS:
            with edit(llama, {SITE: OPS[name](when=when)}):
                assert torch.equal(llama(ids).logits, plain)


def test_wrong_conditions_are_answered(llama, ids):
    for when in (torch.ones(3), torch.ones(3, 6, dtype=torch.bool)):
        with pytest.raises(ConfigError, match="a bool for each row"):
            Add(VECTOR, when=when)
    for when, answer in (
        (lambda h: h > 0, "a condition must return"),
        (lambda h: True, "a condition must return"),
        (torch.ones(2, dtype=torch.bool), "3 rows"),
    ):
        with pytest.raises(ShapeError, match=answer), edit(llama, {SITE: Add(VECTOR, when=when)}):
            llama(ids)
    op = Add(VECTOR, when=torch.tensor([True, False, True, False]))
    with pytest.raises(LatentError, match="other settings"), edit(llama, {SITE: op}):
        llama.generate(ids[:1], num_beams=4, max_new_tokens=8)


def test_vectors_run_along_the_axis_that_is_named():
    model = nn.Sequential(nn.Conv2d(2, 4, 3))
    x = torch.randn(3, 2, 7, 6, generator=torch.Generator().manual_seed(0))
    h, channels = model(x), torch.arange(4.0)
    with edit(model, {"0": Add(channels, axis=1, strength=torch.tensor([0.0, 1.0, 2.0]))}):
        new = model(x)
    expected = h + torch.tensor([0.0, 1.0, 2.0])[:, None, None, None] * channels[:, None, None]
    assert torch.equal(new, expected)
    assert new.stride() == h.stride()
    whole = torch.randn(4 * 5 * 4, generator=torch.Generator().manual_seed(1))
    with edit(model, {"0": Add(whole, axis=None)}):
        assert torch.equal(model(x), h + whole.reshape(4, 5, 4))
    with edit(model, {"0": ProjectOut(whole, axis=None)}):
        assert (model(x).flatten(1) @ whole).abs().max() < 1e-4
    with edit(model, {"0": Zero(axis=1, when=lambda h: h[..., 0] > 0)}):
        assert torch.equal(model(x), torch.where(h[:, :1] > 0, 0, h))
    with pytest.raises(ShapeError, match="width 4"), edit(model, {"0": Add(whole, axis=1)}):
        model(x)
    with pytest.raises(ShapeError, match="A basis is"), edit(model, {"0": ProjectOut(torch.ones(3, 4, 4))}):
        model(x)


def test_a_patch_carries_another_run_over(llama, ids, padded):
    short, mask = padded
    with capture(llama, SITE, positions=[0, 2]) as source:
        llama(ids)
    with edit(llama, {SITE: Patch(source[SITE], places=[0, 2])}), capture(llama, SITE, positions=[0, 2]) as seen:
        llama(short, attention_mask=mask)
    assert torch.equal(seen[SITE], source[SITE])
    with capture(llama, SITE) as whole:
        logits = llama(ids).logits
    with edit(llama, {SITE: Patch(whole[SITE], places=range(6))}):
        assert torch.equal(llama(ids.flip(0)).logits, logits)
    with pytest.raises(ConfigError, match="given the places"), edit(llama, {SITE: Patch(whole[SITE], places=[1])}):
        llama(ids)


def test_copies_of_rows_are_spread_or_refused(llama, ids):
    vectors = torch.stack([VECTOR, -OTHER, OTHER]) * 8
    plain = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with edit(llama, {SITE: Add(vectors)}):
        greedy = llama.generate(ids, **plain)
        with pytest.raises(ShapeError, match=r"6 rows\.\nWith num_return_sequences"):
            llama.generate(ids, num_return_sequences=2, max_new_tokens=2, do_sample=True)
    with edit(llama, {SITE: Add(vectors)}, copies=2):
        several = llama.generate(
            ids, num_return_sequences=2, do_sample=True, top_k=1, max_new_tokens=5, min_new_tokens=5
        )
    assert torch.equal(several, greedy.repeat_interleave(2, 0))
    with edit(llama, {SITE: Add(vectors)}, copies=3):
        beams = llama.generate(ids, num_beams=3, **plain)
    for row in range(3):
        with edit(llama, {SITE: Add(vectors[row])}):
            assert torch.equal(beams[row], llama.generate(ids[row : row + 1], num_beams=3, **plain)[0])


def test_settings_for_each_beam_are_refused_when_beams_move(llama, ids):
    with pytest.raises(LatentError, match="other settings"), edit(llama, {SITE: Add(torch.stack([VECTOR, OTHER] * 2))}):
        llama.generate(ids[:1], num_beams=4, max_new_tokens=8)


def test_beams_that_move_without_a_cache_are_refused_too(llama, ids):
    settings = {"num_beams": 3, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "use_cache": False}
    vectors = torch.stack([VECTOR, OTHER, -VECTOR]) * 3
    with pytest.raises(LatentError, match="other settings"), edit(llama, {SITE: Add(vectors.repeat(3, 1))}):
        llama.generate(ids, **settings)
    made = []
    same = ids[:1].repeat(3, 1)  # three equal prompts with settings of their own: a beam may look like another text's
    for use_cache in (True, False):
        with edit(llama, {SITE: Add(vectors)}, copies=3):
            made.append(llama.generate(same, **{**settings, "use_cache": use_cache}))
    assert torch.equal(*made)
    with edit(llama, {SITE: Add(VECTOR)}):
        llama.generate(ids, **settings)


def test_batches_that_follow_one_another_are_no_moved_beams(llama, ids):
    with edit(llama, {SITE: Add(torch.stack([VECTOR, OTHER, -VECTOR]))}):
        for end in (4, 5, 6):
            llama(ids[:, :end])
        llama(ids[:, :3])
        llama(ids.flip(0)[:, 1:5])
        llama(inputs_embeds=llama.get_input_embeddings()(ids))
        llama(ids[:, :5])
    with edit(llama, {SITE: Add(torch.stack([VECTOR, OTHER, -VECTOR]))}):
        llama(ids[:, :4])
        with pytest.raises(LatentError, match="moves row 2 to row 0"):
            llama(ids.flip(0)[:, :5])


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_restored(llama, ids, error):
    plain = llama(ids).logits
    weights = {key: value.clone() for key, value in llama.state_dict().items()}

    def work():
        with edit(llama, {"layers.*.resid_post": Add(VECTOR)}):
            llama(ids)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert torch.equal(llama(ids).logits, plain)
    assert all(torch.equal(value, weights[key]) for key, value in llama.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.modules())


def test_other_threads_are_not_edited(llama, ids):
    plain, seen = llama(ids).logits, []

    def elsewhere():
        with torch.no_grad():
            seen.append(llama(ids).logits)

    with edit(llama, {SITE: Add(VECTOR)}):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert not torch.equal(llama(ids).logits, plain)
    assert torch.equal(seen[0], plain)


def test_threads_with_edits_of_their_own_at_the_same_time(llama, ids):
    """Each is inside its context, and in the middle of its pass, while the other is."""
    edits = [{SITE: Add(VECTOR)}, {SITE: [Scale(3.0), Add(OTHER, positions=slice(2, 4))]}]
    expected = []
    for ops in edits:
        with edit(llama, ops):
            expected.append(llama(ids).logits)
    meet, seen = threading.Barrier(2, timeout=20), {}

    def work(index):
        with torch.no_grad(), edit(llama, edits[index]), capture(llama, "layers.0.resid_post") as acts:
            meet.wait()
            seen[index] = llama(ids).logits, len(acts.passes)
            meet.wait()

    def pause(*_):
        meet.wait()

    handle = llama.model.layers[0].register_forward_hook(pause)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    for index in range(2):
        assert torch.equal(seen[index][0], expected[index])
        assert seen[index][1] == 1


def test_a_generated_batch_is_its_rows_one_by_one(model, padded):
    ids, mask = padded
    vectors, settings = torch.stack([VECTOR, -OTHER, OTHER]) * 6, {"max_new_tokens": 5, "min_new_tokens": 5}
    starts = torch.tensor([4, 2, 3])

    def ops(rows):
        probe = {"strength": 0.5, "when": lambda h: h @ VECTOR > 0}
        return {SITE: [Add(vectors[rows], positions=slice(starts[rows], None)), ProjectOut(BASIS, **probe)]}

    with edit(model, ops(slice(None))):
        together = model.generate(ids, attention_mask=mask, do_sample=False, **settings)
    for row in range(3):
        alone = ids[row : row + 1, mask[row] == 1]
        with edit(model, ops(slice(row, row + 1))):
            assert torch.equal(model.generate(alone, do_sample=False, **settings)[0, -5:], together[row, -5:])


def test_nested_edits_add_up(llama, ids):
    with edit(llama, {SITE: Add(VECTOR)}), edit(llama, {SITE: Scale(2.0)}):
        nested = llama(ids).logits
    with edit(llama, {SITE: [Add(VECTOR), Scale(2.0)]}):
        assert torch.equal(llama(ids).logits, nested)


def test_gradients_reach_the_vector(llama, ids):
    vector = torch.zeros(32, requires_grad=True)
    with torch.enable_grad(), edit(llama, {SITE: Add(vector, positions=slice(2, None))}):
        llama(ids).logits[..., 7].sum().backward()
    assert vector.grad.abs().sum() > 0


@pytest.mark.parametrize("name", OPS)
def test_operations_keep_the_dtype(llama, ids, name):
    h, new = both(llama.to(torch.bfloat16), ids, OPS[name](strength=torch.tensor([0.0, 0.5, 1.0])))
    assert new.dtype == torch.bfloat16
    assert torch.equal(new[0], h[0])
    assert not torch.equal(new[1], h[1])


def test_a_static_cache_is_edited_but_not_counted(llama, padded):
    """Its mask has four axes, from which sliding windows and padding cannot be told apart."""
    ids, mask = padded
    settings = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    static = {"cache_implementation": "static", "disable_compile": True}
    made = []
    for more in (static, {"use_cache": False}):
        with edit(llama, {"layers.0.mlp_out": Add(VECTOR, strength=8.0)}):
            made.append(llama.generate(ids, **more, **settings))
    assert torch.equal(*made)
    with pytest.raises(ShapeError, match="cache is static"), capture(llama, "logits", positions="last"):
        llama.generate(ids, **static, **settings)


def test_any_module_can_be_edited():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.ones(5, 3)
    expected = model[2](torch.ones(5, 4))
    with edit(model, {"2:input": Replace(torch.ones(5, 4))}):
        assert torch.equal(model(x), expected)
    with pytest.raises(ShapeError, match="no vector for each token"), edit(model, {"0": Zero(positions=slice(1, 2))}):
        model(x)


def test_wrong_operations_are_answered(llama, ids):
    for op, answer in (
        (Add(torch.ones(31)), "width 32"),
        (Add(torch.ones(2, 32)), "3 rows"),
        (ProjectOut(torch.ones(31)), "width 32"),
        (Add(VECTOR, strength=torch.ones(2)), "3 rows"),
        (Add(VECTOR, positions=lambda place: place[:1]), "A schedule must return"),
    ):
        with pytest.raises(ShapeError, match=answer), edit(llama, {SITE: op}):
            llama(ids)
    with pytest.raises(ShapeError, match="attention mask"), edit(llama, {SITE: Add(VECTOR, positions=slice(1, 2))}):
        llama(ids, attention_mask=torch.ones(3, 1, 6, 6, dtype=torch.bool))
    with pytest.raises(UnknownName):
        edit(llama, {"layers.7.resid_post": Zero()})
    with pytest.raises(ConfigError, match="named twice"):
        edit(llama, {"layers.*.resid_post": Zero(), SITE: Zero()})
    for positions in (slice(-3, None), slice(0, 4, 2), slice(torch.tensor([0.5]), None)):
        with pytest.raises(ConfigError, match="not counted from the start"):
            Add(VECTOR, positions=positions)
    with pytest.raises(ConfigError, match="copies"):
        edit(llama, {SITE: Zero()}, copies=0)


@pytest.mark.parametrize("given", [VECTOR, 2.0, lambda h: h, [Add(VECTOR), VECTOR]])
def test_what_is_no_operation_is_refused_at_once(llama, given):
    with pytest.raises(ConfigError, match=r"is no operation\.\nAdd\(vector\)"):
        edit(llama, {SITE: given})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(llama, number):
    for make in (lambda: Add(VECTOR, strength=number), lambda: Scale(number), lambda: Zero(strength=number)):
        with pytest.raises(ConfigError, match="no finite number"):
            make()
    if number != number:
        with pytest.raises(ConfigError, match="high=nan"):
            Clamp(VECTOR, high=number)
    else:
        Clamp(VECTOR, low=number, high=number)
