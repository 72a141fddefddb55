"""Prepared edits: bitwise those of `edit`, changed without compiling again, and gone when they are removed."""

import copy
import threading
from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn
from transformers import StaticCache

from latent.core.activations import (
    Add,
    AddFeature,
    Clamp,
    ClampFeature,
    Patch,
    ProjectOnto,
    ProjectOut,
    Replace,
    Resample,
    Scale,
    ScaleFeature,
    Zero,
    edit,
    prepare,
)
from latent.core.activations.decode.language import traits
from latent.core.errors import ConfigError, LatentError, ShapeError, UnknownKey, UnknownName
from latent.core.nn import SparseAutoencoder, SparseAutoencoderConfig
from latent.core.run.seed import generator, isolated

SITE = "layers.1.resid_post"


def draw(*shape, name="vector"):
    return torch.randn(*shape, generator=generator(0, name))


with isolated(0, "sae"):
    SAE = SparseAutoencoder(SparseAutoencoderConfig(hidden=32, latents=64, activation="relu")).requires_grad_(
        requires_grad=False
    )

# An operation as it is prepared, and what is set afterwards.
OPS = {
    "add": (Add(torch.zeros(32)), {"vector": draw(3, 32)}),
    "project-out": (ProjectOut(draw(2, 32)), {"basis": draw(2, 32, name="other")}),
    "project-onto": (ProjectOnto(draw(2, 32)), {"basis": torch.stack([draw(32), 2 * draw(32)])}),
    "clamp": (Clamp(draw(32), low=0.0, high=0.0), {"direction": draw(3, 32), "low": torch.ones(3), "high": 2.0}),
    "scale": (Scale(1), {"factor": torch.tensor([0.5, 2.0, -1.0])}),
    "zero": (Zero(), {}),
    "replace": (Replace(torch.zeros(32)), {"value": draw(3, 32)}),
    "add-feature": (AddFeature(SAE, 3, 0.0), {"latents": 5, "value": torch.tensor([1.0, 0.0, -4.0])}),
    "clamp-feature": (ClampFeature(SAE, [3, 4], [0.0, 0.0]), {"value": draw(3, 2), "latents": [7, 1]}),
    "scale-feature": (ScaleFeature(SAE, [3, 4], [1.0, 1.0]), {"factor": [3.0, -2.0]}),
}
STRENGTH = torch.tensor([1.0, 0.5, -2.0])


def hooks(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


POSITIONS = (slice(0, None), slice(1, 3), slice(torch.tensor([0, 1, 2]), None))


def counted(mask):
    return {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


@pytest.mark.parametrize("name", OPS)
def test_results_are_those_of_edit_to_the_bit(llama, padded, name):
    model, (ids, mask) = llama, padded
    inputs = counted(mask)
    op, changes = OPS[name]
    settings = [{**changes, "strength": STRENGTH, "positions": positions} for positions in POSITIONS]
    plain = model(ids, **inputs).logits
    expected = []
    for setting in settings:
        with edit(model, {SITE: replace(op, **setting)}):
            expected.append(model(ids, **inputs).logits)
    with prepare(model, {SITE: replace(op, strength=0.0, positions=slice(0, None))}, rows=3) as prepared:
        assert torch.equal(model(ids, **inputs).logits, plain)
        for setting, logits in zip(settings, expected, strict=True):
            prepared[SITE].set(**setting)
            assert torch.equal(model(ids, **inputs).logits, logits)
            assert not torch.equal(logits, plain)
        prepared[SITE].set(strength=0.0)
        assert torch.equal(model(ids, **inputs).logits, plain)
    assert torch.equal(model(ids, **inputs).logits, plain)


def test_generation_is_that_of_edit(llama, padded):
    model, (ids, mask) = llama, padded
    settings = {"attention_mask": mask, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    op = Add(draw(3, 32), strength=8.0, positions=slice(2, 7), when=lambda h: h.sum(-1) > -1)
    with edit(model, {SITE: op}):
        expected = model.generate(ids, **settings)
    with prepare(model, {SITE: op}, copies=1):
        for use_cache in (True, False):
            assert torch.equal(model.generate(ids, use_cache=use_cache, **settings), expected)
    with edit(model, {SITE: op}, copies=2):
        expected = model.generate(ids, num_beams=2, **settings)
    with prepare(model, {SITE: op}, copies=2):
        assert torch.equal(model.generate(ids, num_beams=2, **settings), expected)


def test_every_architecture_can_be_prepared(model, padded):
    ids, mask = padded
    ops = {
        f"layers.1.{key}": Scale(1.5, positions=slice(1, 3)) for key in ("resid_pre", "attn_out", "mlp_in", "mlp_out")
    }
    ops |= {"layers.0.resid_post": [Add(draw(3, 32)), ProjectOut(draw(32))], "final_norm": AddFeature(SAE, 3, 1.0)}
    with edit(model, ops):
        expected = model(ids, **counted(mask)).logits
    with prepare(model, ops):
        assert torch.equal(model(ids, **counted(mask)).logits, expected)


def test_several_operations_run_in_order(llama, ids):
    ops = [Add(draw(32)), Scale(2.0), Add(draw(32, name="other"))]
    with edit(llama, {SITE: ops, "layers.0.mlp_in": Scale(0.5), "logits": Scale(3.0)}):
        expected = llama(ids).logits
    with prepare(llama, {SITE: ops, "layers.0.mlp_in": Scale(0.5), "logits": Scale(1.0)}) as prepared:
        prepared["logits"].set(factor=3.0)
        assert torch.equal(llama(ids).logits, expected)
        prepared[SITE, 1].set(factor=-1.0)
        assert not torch.equal(llama(ids).logits, expected)
        with pytest.raises(UnknownName, match="3 operations"):
            prepared[SITE]


def test_whole_numbers_leave_room_for_others(llama, ids):
    with edit(llama, {SITE: Scale(torch.tensor([0.5, 2.5, 1.0]))}):
        expected = llama(ids).logits
    with prepare(llama, {SITE: Scale(torch.tensor([1, 2, 3]), strength=torch.tensor(1))}) as prepared:
        prepared[SITE].set(factor=torch.tensor([0.5, 2.5, 1.0]))
        assert torch.equal(llama(ids).logits, expected)


def test_conditions_for_each_row_can_be_set(llama, ids):
    plain = llama(ids).logits
    with prepare(llama, {SITE: Add(draw(32), when=torch.ones(3, dtype=torch.bool))}) as prepared:
        prepared[SITE].set(when=torch.tensor([False, True, False]))
        changed = (llama(ids).logits != plain).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


def test_every_token_or_every_real_token(llama, padded):
    """Without positions padding is changed as well, as by edit; then nothing is counted, and no mask is needed."""
    ids, mask = padded
    with edit(llama, {SITE: Add(draw(32))}):
        expected = llama(ids, attention_mask=mask).logits
    with prepare(llama, {SITE: Add(draw(32))}):
        assert torch.equal(llama(ids, attention_mask=mask).logits, expected)
        llama(ids, attention_mask=torch.ones(3, 1, 6, 6, dtype=torch.bool))
    with (
        pytest.raises(ShapeError, match="attention mask"),
        prepare(llama, {SITE: Add(draw(32), positions=slice(0, None))}),
    ):
        llama(ids, attention_mask=torch.ones(3, 1, 6, 6, dtype=torch.bool))
    with (
        pytest.raises((ShapeError, TypeCheckError), match=r"dict|full_attention"),
        prepare(llama, {SITE: Add(draw(32), positions=slice(0, None))}),
    ):
        llama(ids, attention_mask={"full_attention": None})


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_restored_and_owns_nothing(llama, ids, error):
    plain, before = llama(ids).logits, hooks(llama)
    state = {key: value.clone() for key, value in llama.state_dict().items()}
    names = [name for name, _ in (*llama.named_parameters(), *llama.named_buffers(), *llama.named_modules())]

    def work():
        with prepare(llama, {"layers.*.resid_post": [Add(draw(32)), ClampFeature(SAE, 3, 0.0)]}):
            llama(ids)
            assert list(llama.state_dict()) == list(state)
            now = (*llama.named_parameters(), *llama.named_buffers(), *llama.named_modules())
            assert [name for name, _ in now] == names
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert hooks(llama) == before
    assert torch.equal(llama(ids).logits, plain)
    assert all(torch.equal(value, state[key]) for key, value in llama.state_dict().items())


def test_a_pass_that_breaks_off_leaves_the_next_alone(llama, ids):
    def fail(*_):
        raise KeyboardInterrupt

    with prepare(llama, {SITE: Add(draw(32))}):
        expected = llama(ids).logits
        handle = llama.model.layers[2].register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            llama(ids[:2])
        handle.remove()
        assert torch.equal(llama(ids).logits, expected)


def test_threads_see_the_operations_and_keep_their_passes_apart(llama, ids):
    """Each thread has another number of rows, and stands in the middle of its pass when the other begins one."""
    ready, done, seen = threading.Event(), threading.Event(), []
    op = Add(draw(32), positions=slice(1, 4))
    with edit(llama, {SITE: op}):
        expected = [llama(ids).logits, llama(ids[:1, :5]).logits]

    def elsewhere():
        ready.wait(10)
        with torch.no_grad():
            seen.append(llama(ids[:1, :5]).logits)
        done.set()

    def pause(*_):
        if threading.current_thread() is threading.main_thread():
            ready.set()
            done.wait(10)

    thread = threading.Thread(target=elsewhere)
    with prepare(llama, {SITE: op}):
        handle = llama.model.layers[0].register_forward_hook(pause)
        thread.start()
        assert torch.equal(llama(ids).logits, expected[0])
        thread.join()
        handle.remove()
    assert torch.equal(seen[0], expected[1])


def test_beams_that_move_to_other_settings_are_refused(llama, ids):
    with (
        pytest.raises(LatentError, match="other settings"),
        prepare(llama, {SITE: Add(torch.stack([draw(32), draw(32, name="other")] * 2))}),
    ):
        llama.generate(ids[:1], num_beams=4, max_new_tokens=8)


def test_what_is_set_stays_the_users(llama, ids):
    vector = torch.zeros(32)
    with prepare(llama, {SITE: Add(vector)}) as prepared:
        plain = llama(ids).logits
        vector += 1
        assert torch.equal(llama(ids).logits, plain)
        prepared[SITE].set(vector=vector)
        assert not torch.equal(llama(ids).logits, plain)
        assert torch.equal(prepared[SITE].op.vector, vector)
    with torch.inference_mode():
        inside = prepare(llama, {SITE: ProjectOut(draw(32))})
        llama(ids)
    inside[SITE].set(basis=draw(32, name="other"))
    llama(ids)
    inside.remove()
    inside.remove()


def test_what_cannot_be_prepared_is_answered(llama, ids):
    for op in (Patch(draw(1, 32), places=[0]), Resample(draw(2, 32), seed=0)):
        with pytest.raises(ConfigError, match="cannot be prepared"):
            prepare(llama, {SITE: op})
    for op in (Add(draw(32).requires_grad_()), Add(draw(32), strength=torch.ones(3, requires_grad=True))):
        with pytest.raises(ConfigError, match="no gradient"):
            prepare(llama, {SITE: op})
    with pytest.raises(ConfigError, match="needs prepared rows"):
        prepare(llama, {SITE: ClampFeature(SAE, [1, 2], [0.0, 1.0])})
    foreign = nn.Module()
    foreign.encode, foreign.decode = SAE.encode, SAE.decode
    with pytest.raises(ConfigError, match="attribute `hidden`"):
        prepare(llama, {SITE: AddFeature(foreign, 1, 0.0)})
    with pytest.raises(ConfigError, match="at least 1"):
        prepare(llama, {SITE: Zero()}, rows=0)
    with pytest.raises(ConfigError, match="named twice"):
        prepare(llama, {"layers.*.resid_post": Zero(), SITE: Zero()})
    with pytest.raises(UnknownName):
        prepare(llama, {})
    assert not any(hooks(llama))


def test_wrong_settings_are_answered_and_change_nothing(llama, ids):
    with prepare(llama, {SITE: Add(draw(32), positions=slice(0, None))}) as prepared:
        plain = llama(ids).logits
        slot = prepared[SITE]
        for changes, error, answer in (
            ({"vector": draw(3, 32)}, ShapeError, "rows=N"),
            ({"strength": 2.0, "vector": draw(31)}, ShapeError, r"shape \(32,\), given \(31,\)"),
            ({"strength": torch.ones(3)}, ShapeError, "rows=N"),
            ({"vectors": draw(32)}, UnknownKey, "Did you mean 'vector'"),
            ({"positions": None}, ConfigError, "prepared as a slice, given nothing"),
            ({"positions": lambda place: place > 0}, ConfigError, "given function"),
            ({"positions": slice(-1, None)}, ConfigError, "not counted from the start"),
            ({"when": torch.ones(3, dtype=torch.bool)}, ConfigError, "prepared as nothing"),
            ({"axis": 1}, ConfigError, "part of the prepared program"),
        ):
            with pytest.raises(error, match=answer):
                slot.set(**changes)
        assert torch.equal(llama(ids).logits, plain)
        with pytest.raises(UnknownName, match="prepared site"):
            prepared["layers.0.resid_post"]


def test_passes_that_do_not_fit_are_answered(llama, ids):
    vectors = llama.get_input_embeddings()(ids)
    with pytest.raises(LatentError, match="No forward pass"), prepare(llama, {SITE: Zero()}):
        pass
    with pytest.raises(LatentError, match="outside of a"), prepare(llama, {"embed": Zero()}):
        llama.model(ids)
    with pytest.raises(LatentError, match="did not reach 'embed'"), prepare(llama, {"embed": Zero()}):
        llama(inputs_embeds=vectors)
    with pytest.raises(ShapeError, match="2 rows"), prepare(llama, {SITE: Add(draw(32))}, rows=3):
        llama(ids[:2])
    shared = nn.Linear(3, 3)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    with pytest.raises(LatentError, match="twice"), prepare(twice, {"0": Zero()}):
        twice(torch.ones(2, 3))


def compiled(model, backend, way):
    """Return the model compiled as a whole, inside a function or in place, and the counter of compilations."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    if way == "module":
        return torch.compile(model, fullgraph=True, backend=counter), counter
    if way == "function":
        return torch.compile(lambda *a, **k: model(*a, **k), fullgraph=True, backend=counter), counter
    model.compile(fullgraph=True, backend=counter)
    return model, counter


PREPARED = {
    "layers.0.mlp_out": [Clamp(draw(32), low=-1.0, high=1.0), Scale(1.0)],
    SITE: [Add(draw(32), strength=0.0, positions=slice(0, None)), ProjectOut(draw(32))],
    "layers.1.attn_out": Replace(torch.zeros(32), strength=0.0, when=lambda h: h.sum(-1) > 0),
    "layers.2.resid_post": [AddFeature(SAE, 3, 1.0), ClampFeature(SAE, [3, 4], 0.0), ScaleFeature(SAE, 6, 2.0)],
}


def change(prepared, turn):
    """Set everything that can be set."""
    prepared["layers.0.mlp_out", 0].set(low=-0.1 * turn, high=torch.rand(3), direction=draw(32, name=f"d{turn}"))
    prepared["layers.0.mlp_out", 1].set(factor=1.0 + turn)
    prepared[SITE, 0].set(
        vector=draw(3, 32, name=f"v{turn}"),
        strength=draw(3, name=f"s{turn}"),
        positions=slice(turn, torch.tensor([3, 4, 9])),
    )
    prepared[SITE, 1].set(basis=draw(32, name=f"b{turn}"), strength=0.5 * turn)
    prepared["layers.1.attn_out"].set(value=draw(32, name=f"r{turn}"), strength=0.1 * turn)
    prepared["layers.2.resid_post", 0].set(latents=turn + 7, value=float(turn))
    prepared["layers.2.resid_post", 1].set(latents=[turn, turn + 20], value=torch.tensor([1.0, 2.0, 3.0]))


def ops_of(prepared):
    """What was set, as operations for edit."""
    return {
        name: [prepared[name, index].op for index in range(len(given))]
        if isinstance(given, list)
        else prepared[name].op
        for name, given in PREPARED.items()
    }


@pytest.mark.compile
@pytest.mark.parametrize(
    ("way", "backend"),
    [("module", "eager"), ("in place", "eager"), ("function", "aot_eager"), ("function", "inductor")],
)
def test_what_is_set_compiles_nothing_again(llama, padded, way, backend):
    ids, mask = padded
    inputs = counted(mask)
    plain = llama(ids, **inputs).logits
    other = copy.deepcopy(llama)
    with prepare(llama, PREPARED, rows=3) as prepared:
        run, counter = compiled(llama, backend, way)
        run(ids, **inputs)
        first = counter.frame_count
        for turn in range(1, 5):
            change(prepared, turn)
            made = run(ids, **inputs).logits
            with edit(other, ops_of(prepared)):
                expected = other(ids, **inputs).logits
            torch.testing.assert_close(made, expected, atol=1e-5 if backend == "inductor" else 0, rtol=0)
            assert (made - plain).abs().max() > 1e-3
        assert counter.frame_count == first
        assert not torch._dynamo.utils.counters["graph_break"]
    torch.testing.assert_close(run(ids, **inputs).logits, plain, atol=1e-6 if backend == "inductor" else 0, rtol=0)


@pytest.mark.compile
@pytest.mark.parametrize(("name", "backend"), [("gpt2", "aot_eager"), ("llama", "inductor")])
def test_steps_with_a_static_cache_compile_once_and_count_places(name, llama, gpt2, padded, backend):
    """The mask spans the cache; it and the cache's length are tensors, so that all steps have one program."""
    ids, mask = padded
    model = {"llama": llama, "gpt2": gpt2}[name]
    other = copy.deepcopy(model)
    op = Add(draw(32), strength=0.0, positions=slice(0, None))

    def decode(step, steps=4):
        cache = StaticCache(config=model.config, max_cache_len=12)
        whole = nn.functional.pad(mask, (0, 6))
        place = mask.cumsum(1) - 1
        known = {traits(model).cache: cache}
        made = [model(ids, attention_mask=whole, position_ids=place.clamp(min=0), **known).logits[:, -1:]]
        for index in range(steps):
            whole[:, 6 + index] = 1
            at = place[:, -1:] + index + 1
            token = made[-1].argmax(-1)
            made.append(step(token, attention_mask=whole, position_ids=at, **known).logits)
        return torch.cat(made, 1)

    with prepare(model, {SITE: op}, rows=3) as prepared:
        step, counter = compiled(model, backend, "function")
        decode(step)
        first = counter.frame_count
        assert first == 1
        for turn in range(3):
            positions = slice(torch.tensor([6, 4, 3]) + turn, torch.tensor([9, 7, 6]))  # the steps alone
            prepared[SITE].set(vector=draw(3, 32, name=f"{turn}"), strength=4.0, positions=positions)
            made = decode(step)
            ids_made = torch.cat([ids, made.argmax(-1)[:, :-1]], 1)
            whole = torch.cat([mask, torch.ones(3, 4, dtype=mask.dtype)], 1)
            with edit(other, {SITE: prepared[SITE].op}):
                expected = other(ids_made, **counted(whole)).logits[:, 5:]
            torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-3)
        assert counter.frame_count == first


@pytest.mark.compile
def test_a_program_that_was_compiled_before_is_noticed(llama, ids):
    run, _ = compiled(llama, "eager", "function")
    plain = run(ids).logits
    with pytest.raises(LatentError, match="Prepare before the first call"), prepare(llama, {SITE: Zero()}):
        assert torch.equal(run(ids).logits, plain)


@pytest.mark.compile
def test_gradients_flow_through_prepared_operations(llama, ids):
    with prepare(llama, {SITE: Add(draw(32), strength=2.0)}), torch.enable_grad():
        run, _ = compiled(llama, "aot_eager", "function")
        grads = []
        for call in (llama, run):
            llama.zero_grad()
            call(ids).logits.square().sum().backward()
            grads.append(llama.model.layers[0].mlp.down_proj.weight.grad.clone())
    torch.testing.assert_close(*grads)
