"""Paths have the geometry they say, rows have paths of their own, and selection pays for what it writes."""

import copy
import itertools
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from latent.core.activations import capture
from latent.core.activations.decode import Sampling, decode, prefill
from latent.core.errors import ConfigError, LatentError
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.reason.data import Problem, Problems
from latent.reason.data.countdown import CountdownModel
from latent.reason.experiments import latent_trajectory as module
from latent.reason.methods.latent_trajectory import LatentTrajectory, LatentTrajectoryConfig
from latent.reason.selection import calibrate, sequential
from latent.reason.trace import Budget, Trace
from latent.reason.trajectory import SIGNALS, Path, TrajectoryRecorder, path_over, segment_means, segments_of

WORDS = [*"0123456789", "+", "-", "*", "=", "a", "b", "c", "d"]
SIZE = 3 + len(WORDS)
DRAWN = Sampling(temperature=1.0)
PROMPTS = ["1 + 2 =", "3 =", "4 * 5 - 6 = a b c"]


def gpt2():
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, eos_token_id=2, bos_token_id=1, pad_token_id=0, **settings))


def qwen2():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=SIZE, eos_token_id=2, pad_token_id=0, **sizes, **heads))


def llama():
    return small_llama(0, vocabulary=SIZE, width=32, layers=3, longest=128, spread=0.3)


@pytest.fixture(scope="module", params=[gpt2, llama, qwen2], ids=lambda make: make.__name__)
def any_backbone(request):
    with isolated(0, "models"):
        model = request.param()
    return Backbone(model.eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), request.param.__name__)


def streams(rows):
    return [torch.Generator().manual_seed(row) for row in range(rows)]


def walk(points, segment=1, **others):
    """Return the signals of one path in one layer, given its points `(time, hidden)`."""
    path = Path(segment, **others)
    for point in points:
        path.add(point[None, None], torch.tensor([True]))
    return path.signals()


def directly(points, segment):
    """The definitions, from all states at once: `(time, layers, hidden)`."""
    count = len(points) // segment
    means = points[: count * segment].view(count, segment, *points.shape[1:]).mean(1)
    updates, drift = means[1:] - means[:-1], means[-1] - means[0]
    cosines = torch.cosine_similarity(updates, drift.expand_as(updates), dim=-1).mean(0)
    return (
        drift.norm(dim=-1) / (count - 1),
        updates.norm(dim=-1).sum(0),
        cosines if count > 2 else torch.full_like(cosines, torch.nan),
    )


# Geometry -------------------------------------------------------------------------------------------------------------


def test_a_straight_line_is_aligned_and_no_longer_than_its_drift():
    step = torch.tensor([3.0, 4.0])
    found = walk([step * index for index in range(6)])
    assert float(found.net) == pytest.approx(5)
    assert float(found.cumulative) == pytest.approx(25)
    assert float(found.aligned) == pytest.approx(1)


def test_a_loop_goes_nowhere():
    corners = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    found = walk(corners)
    assert (float(found.net), float(found.cumulative), float(found.aligned)) == (0, 4, 0)


def test_the_one_update_of_two_segments_is_no_sign_of_a_straight_path():
    points = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert walk(points[:2]).aligned.isnan().all()
    assert walk(points[:2]).net.isfinite().all()
    assert walk(points).aligned.isfinite().all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_what_rounding_leaves_of_an_update_has_no_direction(scale):
    random = torch.Generator().manual_seed(1)
    start, end = scale * torch.randn(2, 64, generator=random)
    still = [end * (1 + 7e-8 * torch.randn(64, generator=random)) for _ in range(3)]
    assert any(not torch.equal(one, end) for one in still), "nothing was rounded"
    found = walk([start, end, *still])
    assert float(found.aligned) == pytest.approx(1 / 4, abs=1e-6), "one update of four goes anywhere"
    assert float(found.cumulative) == pytest.approx(float((end - start).norm()), rel=1e-5)
    back = walk([end, start, still[0]])
    assert (float(back.net), float(back.aligned)) == (0, 0), "a drift of rounding is none"
    small = walk([end, end * (1 + 1e-5), end * (1 + 2e-5)])
    assert float(small.aligned) > 0.99, "a small update is one"


def test_random_steps_are_aligned_like_the_inverse_root_of_their_number():
    updates = torch.randn(16, 4000, generator=torch.Generator().manual_seed(0))
    found = walk(torch.cat([torch.zeros(1, 4000), updates.cumsum(0)]))
    assert float(found.aligned) == pytest.approx(1 / math.sqrt(16), abs=0.02)


def test_a_rotation_changes_nothing_and_a_detour_does():
    random = torch.Generator().manual_seed(1)
    points = torch.randn(12, 5, generator=random)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=random)).Q
    one, other = walk(points, 3), walk(points @ rotation, 3)
    for name in ("net", "cumulative", "aligned"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
    detour = walk(torch.stack([points[0], points[5] * 9, *points[1:]]))
    assert float(detour.cumulative) > float(walk(points).cumulative) + 1


def test_sums_are_what_the_definitions_say_and_segments_are_means():
    points = torch.randn(23, 4, 6, generator=torch.Generator().manual_seed(2))
    path = Path(5)
    for point in points:
        path.add(point[None], torch.tensor([True]))
    found = path.signals()
    for mine, theirs in zip((found.net, found.cumulative, found.aligned), directly(points, 5), strict=True):
        torch.testing.assert_close(mine[0], theirs, atol=1e-5, rtol=1e-5)
    assert found.segments.tolist() == [4]
    so_far = torch.stack([torch.stack([each.mean() for each in directly(points[: 5 * n], 5)]) for n in (2, 3, 4)])
    torch.testing.assert_close(found.series[0], so_far, atol=1e-5, rtol=1e-5, equal_nan=True)


def test_less_than_two_segments_have_no_path():
    points = torch.randn(7, 3)
    assert walk(points, 4).net.isnan().all()
    assert walk(points, 7).segments.tolist() == [1]
    assert walk(points, 8).segments.tolist() == [0]
    partial = walk(points, 4, partial=True)
    expected = points[4:].mean(0) - points[:4].mean(0)
    torch.testing.assert_close(partial.net[0, 0], expected.norm())
    with pytest.raises(LatentError, match="No token"):
        Path(3).signals()
    with pytest.raises(ConfigError, match="at least 1"):
        Path(0)


def test_rows_have_clocks_of_their_own_and_may_be_chosen():
    points = torch.randn(3, 9, 2, 4, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([9, 4, 7])
    path = Path(2)
    for step in range(9):
        path.add(points[:, step], lengths > step)
    found = path.signals()
    for row, length in enumerate(lengths.tolist()):
        for mine, theirs in zip(
            (found.net, found.cumulative, found.aligned), directly(points[row, :length], 2), strict=True
        ):
            torch.testing.assert_close(mine[row], theirs, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert found.series.isnan().sum(1).tolist() == [[0, 0, 1], [2, 2, 3], [1, 1, 2]]
    for row, updates in enumerate((3, 1, 2)):
        so_far = found.so_far(row)
        assert [len(so_far[name]) for name in SIGNALS] == [updates] * 3
        for name in SIGNALS:
            last = float(found.mean(name)[row])
            assert so_far[name][-1] == pytest.approx(last, rel=1e-5, nan_ok=True), "the last is that of all"
    path.select(torch.tensor([2, 0]))
    again = path.signals()
    torch.testing.assert_close(again.net, found.net[[2, 0]])
    with pytest.raises(LatentError, match="2 texts"):
        path.add(points[:, 0], lengths > 0)


# Recording ------------------------------------------------------------------------------------------------------------


def test_the_recorder_sees_what_was_written_and_nothing_else(any_backbone):
    model = any_backbone.model
    given = any_backbone.encode(PROMPTS)
    memory = prefill(model, given["input_ids"], given["attention_mask"])
    with torch.no_grad():
        free = decode(model, memory, max_new_tokens=14, stop=[], sampling=DRAWN, generator=streams(3))
    rows = free.tokens.tolist()
    firsts = {token: [row.index(token) if token in row else 13 for row in rows] for row in rows for token in row}
    ends = [max(firsts, key=lambda token: len(set(firsts[token])))]  # so that rows end at different times
    with torch.no_grad(), TrajectoryRecorder(model, 2, ends=ends) as recorder:
        done = decode(model, memory, max_new_tokens=14, stop=ends, sampling=DRAWN, generator=streams(3))
    lengths = done.fed.sum(1).tolist()
    assert len(set(lengths)) > 1, "rows of one length prove nothing"
    found = recorder.path.signals()
    for row, length in enumerate(lengths):
        prompt = any_backbone.encode([PROMPTS[row]])["input_ids"]
        text = torch.cat([prompt, done.tokens[row : row + 1, :length]], 1)
        with torch.no_grad(), capture(model, "layers.*.resid_post") as acts:
            model(text)
        states = torch.stack([acts[name][0, prompt.shape[1] :] for name in acts.passes[0]], 1)
        assert found.segments[row] == length // 2
        if length >= 4:
            for mine, theirs in zip((found.net, found.cumulative, found.aligned), directly(states, 2), strict=True):
                torch.testing.assert_close(mine[row], theirs, atol=1e-4, rtol=1e-4, equal_nan=True)


def test_padding_of_what_is_read_in_between_does_not_count(backbone):
    given = backbone.encode(PROMPTS)
    memory = prefill(backbone.model, given["input_ids"], given["attention_mask"])
    more = backbone.encode(["1", "2 + 3", "4 5"])
    with torch.no_grad(), TrajectoryRecorder(backbone.model, 1) as recorder:
        prefill(backbone.model, more["input_ids"], more["attention_mask"], memory=memory)
    assert recorder.path.signals().segments.tolist() == [1, 3, 2]


def test_generate_is_recorded_alike(any_backbone):
    given = any_backbone.encode(PROMPTS)
    model = any_backbone.model
    with TrajectoryRecorder(model, 2, ends=[2]) as recorder:
        model.generate(**given, max_new_tokens=9, do_sample=False, pad_token_id=0)
    memory = prefill(model, given["input_ids"], given["attention_mask"])
    with torch.no_grad(), TrajectoryRecorder(model, 2, ends=[2]) as other:
        decode(model, memory, max_new_tokens=9, stop=[2])
    torch.testing.assert_close(
        recorder.path.signals().cumulative, other.path.signals().cumulative, atol=1e-4, rtol=1e-4, equal_nan=True
    )


# Texts that are there already ----------------------------------------------------------------------------------------


def ragged():
    """Three texts padded on the left, and which of their tokens are counted: 9, 4 and 1."""
    ids = torch.randint(3, SIZE, (3, 12), generator=torch.Generator().manual_seed(4))
    mask = torch.arange(12) >= torch.tensor([[1], [5], [8]])
    return ids, mask.long(), mask & (torch.arange(12) >= torch.tensor([[3], [8], [11]]))


def test_means_of_segments_are_those_of_all_states_at_once(any_backbone):
    ids, mask, counted = ragged()
    cuts = segments_of(counted, [2, 2, 2]), segments_of(counted, [3, 1, 1])
    assert [[list(each.shape) for each in cut] for cut in cuts] == [[[4, 2], [2, 2], [0, 2]], [[3, 3], [4, 1], [1, 1]]]
    assert cuts[0][1].tolist() == [[8, 9], [10, 11]]
    found = segment_means(any_backbone, ids, mask, *cuts)
    with torch.no_grad(), capture(any_backbone.model, "layers.*.resid_post") as acts:
        any_backbone.model(**any_backbone.inputs(ids, mask))
    states = torch.stack([acts[name] for name in acts.passes[0]], 2)
    for cut, rows in zip(cuts, found, strict=True):
        assert [len(row) for row in rows] == [len(row) for row in cut]
        for row, means in enumerate(rows):
            for columns, mean in zip(cut[row], means, strict=True):
                torch.testing.assert_close(mean, states[row, columns].mean(0), atol=1e-5, rtol=1e-5)
        signals = path_over(rows).signals()
        assert signals.segments.tolist() == [len(row) for row in cut]
        for row, columns in enumerate(cut):
            if len(columns) > 1:
                points = states[row, columns.flatten()]
                for mine, theirs in zip(
                    (signals.net, signals.cumulative, signals.aligned), directly(points, columns.shape[1]), strict=True
                ):
                    torch.testing.assert_close(mine[row], theirs, atol=1e-4, rtol=1e-4, equal_nan=True)
            else:
                assert signals.cumulative[row].isnan().all()
    assert path_over([row[:0] for row in found[0]]).signals().net.isnan().all()


class Kept(TorchDispatchMode):
    """Counts, at any time, how many tensors of at least `least` numbers there are of those made inside."""

    def __init__(self, least):
        super().__init__()
        self.least, self.made, self.most, self.largest = least, [], 0, 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        made = call(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and each.numel() >= self.least:
                self.largest = max(self.largest, each.numel())
                self.made = [*(ref for ref in self.made if ref() is not None), weakref.ref(each)]
                self.most = max(self.most, len(self.made))
        return made


def test_the_states_of_one_layer_are_kept_at_a_time():
    rows, time, width, layers = 2, 40, 8, 48
    model = small_llama(0, vocabulary=SIZE, width=width, layers=layers, longest=64, spread=0.1).eval()
    deep = Backbone(model.requires_grad_(requires_grad=False), word_tokenizer(WORDS), "deep")
    ids = torch.randint(3, SIZE, (rows, time), generator=torch.Generator().manual_seed(5))
    cut = segments_of(torch.ones(rows, time, dtype=torch.bool), [10, 10])
    with Kept(rows * time * width) as kept:
        (found,) = segment_means(deep, ids, torch.ones_like(ids), cut)
    assert found[0].shape == (4, layers, width)
    assert kept.most < layers // 2
    assert kept.largest < rows * time * width * layers // 2
    with Kept(rows * time * width) as all_of_them, torch.no_grad(), capture(model, "layers.*.resid_post"):
        model(ids, use_cache=False)
    assert all_of_them.most >= layers, "what is counted does not tell"


# Choosing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["best", "sequential", "early"])
def test_a_batch_is_its_rows_alone(any_backbone, select):
    config = LatentTrajectoryConfig(segment=2, select=select, samples=3, early=1, threshold=-8.0, temperature=1.0)
    method = LatentTrajectory(config, any_backbone)
    before = {name: value.clone() for name, value in any_backbone.model.state_dict().items()}
    together = method.answer(PROMPTS, budget=Budget(tokens=12), generator=streams(3))
    for row, (prompt, trace) in enumerate(zip(PROMPTS, together, strict=True)):
        (alone,) = method.answer([prompt], budget=Budget(tokens=12), generator=[streams(3)[row]])
        assert (alone.text, alone.samples) == (trace.text, trace.samples)
        assert replace(alone.cost, seconds=0.0) == replace(trace.cost, seconds=0.0)
        for name, values in trace.signals.items():
            np.testing.assert_allclose(alone.signals[name], values, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in any_backbone.model.state_dict().items())


def test_the_best_signal_is_chosen_and_all_texts_are_paid_for(backbone):
    for name, sign in (("net", 1), ("cumulative", -1), ("aligned", 1)):
        config = LatentTrajectoryConfig(segment=2, signal=name, samples=4, temperature=1.0)
        for trace in LatentTrajectory(config, backbone).answer(PROMPTS, budget=Budget(tokens=12), generator=streams(3)):
            good = [sign * value for value in trace.signals[name]]
            best = max(range(4), key=lambda each: (not math.isnan(good[each]), good[each]))
            assert trace.text == trace.samples[best]
            assert trace.cost.decoded_tokens == sum(trace.signals["tokens"])


def test_traces_of_all_ways_have_the_values_as_they_are(backbone):
    for signal in ("net", "cumulative", "aligned"):
        updates = 2 if signal == "aligned" else 1
        settings = {"segment": 2, "samples": 3, "early": updates, "temperature": 1.0}
        found = {}
        for select in ("best", "sequential", "early"):
            config = LatentTrajectoryConfig(select=select, signal=signal, **settings)
            # What is read of five tokens is four, two segments (of seven six): early selection sees all of them.
            found[select] = LatentTrajectory(config, backbone).answer(
                PROMPTS, budget=Budget(tokens=3 + 2 * updates), generator=streams(3)
            )
        for best, one_by_one, begun in zip(*found.values(), strict=True):
            assert set(begun.signals) == set(best.signals) == set(one_by_one.signals)
            for name, values in best.signals.items():
                np.testing.assert_allclose(values, begun.signals[name], rtol=1e-4, atol=1e-4)
                if name.endswith("_so_far"):
                    continue
                assert len(values) == 3
                assert values[0] == pytest.approx(one_by_one.signals[name][0], rel=1e-4, abs=1e-4, nan_ok=True)
            assert begun.samples == best.samples
            assert begun.text in begun.samples
            assert all(math.isnan(each) or each > 0 for each in begun.signals["cumulative"])


@pytest.mark.parametrize("select", ["best", "sequential", "early"])
def test_traces_have_the_path_of_the_text_that_was_chosen(backbone, select):
    config = LatentTrajectoryConfig(segment=2, samples=3, early=7, select=select, temperature=1.0, threshold=-110.0)
    lengths, places = set(), set()
    given = {"prompts": PROMPTS * 4, "budget": Budget(tokens=12), "generator": streams(12)}
    for trace in LatentTrajectory(config, backbone).answer(**given):
        chosen = trace.samples.index(trace.text)
        places.add(chosen)
        for name in SIGNALS:
            series = trace.signals[f"{name}_so_far"]
            lengths.add(len(series))
            last = series[-1] if series else math.nan
            assert last == pytest.approx(trace.signals[name][chosen], rel=1e-5, nan_ok=True)
        assert all(one <= other for one, other in itertools.pairwise(trace.signals["cumulative_so_far"]))
        assert math.isnan((trace.signals["aligned_so_far"] or (math.nan,))[0])
        np.testing.assert_equal(dict(Trace.from_json(trace.to_json()).signals), dict(trace.signals))
    assert max(lengths) > 2
    assert max(places) > 0, "what is first proves nothing"


@pytest.mark.parametrize("select", ["best", "sequential", "early"])
def test_rounding_decides_nothing(backbone, select, monkeypatch):
    noise = torch.tensor([0.0, 1e-6, 3e-6, 2e-6])
    for value in (-8.0, 0.7):
        monkeypatch.setattr(
            LatentTrajectory, "good", lambda self, signals, value=value: value + noise[-len(signals.net) :]
        )
        config = LatentTrajectoryConfig(segment=2, samples=4, early=2, select=select, temperature=1.0, threshold=value)
        (trace,) = LatentTrajectory(config, backbone).answer(
            PROMPTS[:1], budget=Budget(tokens=12), generator=streams(1)
        )
        assert len(trace.samples) == 4, "equal is not above"
        if select != "sequential":
            assert trace.text == trace.samples[0]


def test_aligned_change_chooses_among_paths_that_may_bend(backbone):
    config = LatentTrajectoryConfig(segment=2, signal="aligned", samples=6, temperature=1.0)
    asked = [f"{row} + {row % 7} =" for row in range(10)] * 2
    given = {"prompts": asked, "budget": Budget(tokens=12)}
    traces = LatentTrajectory(config, backbone).answer(**given, generator=streams(len(asked)))
    beside = 0
    for trace in traces:
        segments = [(int(tokens) - 1) // 2 for tokens in trace.signals["tokens"]]
        if max(segments) > 2:
            beside += 2 in segments
            assert segments[trace.samples.index(trace.text)] > 2
    assert beside > 2, "no text of two segments beside a longer one proves nothing"


def test_the_threshold_of_the_cumulative_signal_has_a_minus(backbone):
    plain = LatentTrajectoryConfig(segment=2, select="sequential", samples=1, temperature=1.0)
    given = {"prompts": PROMPTS[:1], "budget": Budget(tokens=12)}
    (seen,) = LatentTrajectory(plain, backbone).answer(**given, generator=streams(1))
    value = seen.signals["cumulative"][0]
    assert value > 0
    for threshold, texts in ((-1.1 * value, 1), (-0.9 * value, 3), (0.9 * value, 3)):
        config = replace(plain, samples=3, threshold=threshold)
        (trace,) = LatentTrajectory(config, backbone).answer(**given, generator=streams(1))
        assert (len(trace.samples) == 1) is (texts == 1), threshold


@pytest.mark.parametrize("select", ["best", "sequential", "early"])
def test_texts_that_end_with_their_first_token_have_no_path(backbone, select):
    config = LatentTrajectoryConfig(segment=2, select=select, samples=2, temperature=1.0, threshold=-1e9)
    silent = replace(backbone, model=copy.deepcopy(backbone.model))
    silent.model.generation_config.eos_token_id = [*range(len(backbone.tokenizer))]
    for trace in LatentTrajectory(config, silent).answer(PROMPTS, budget=Budget(tokens=8), generator=streams(3)):
        assert trace.signals["tokens"] == (1.0, 1.0)
        assert all(math.isnan(value) for value in trace.signals["cumulative"])
        assert trace.cost.decoded_tokens == 2
        likely = trace.signals["log_probability"]
        assert select != "best" or trace.text == trace.samples[likely.index(max(likely))]


def test_segments_suit_the_budget_where_nobody_chose_them(backbone):
    plain = LatentTrajectoryConfig()
    assert LatentTrajectory.suited(plain, Budget(tokens=256)).segment == 32
    assert LatentTrajectory.suited(plain, Budget(tokens=1001)) == plain
    assert LatentTrajectory.suited(plain, Budget(tokens=3)).segment == 1
    for tokens in (3, 7, 8, 256, 1000, 1001):
        LatentTrajectory(LatentTrajectory.suited(plain, Budget(tokens=tokens)), backbone).check(Budget(tokens=tokens))
    with pytest.raises(ConfigError, match=r"no path[\s\S]*segment=32"):
        LatentTrajectory(plain, backbone).check(Budget(tokens=256))
    straight = replace(plain, signal="aligned")
    assert LatentTrajectory.suited(straight, Budget(tokens=1001)).segment == 125
    for tokens in (4, 7, 8, 23, 24, 256, 1001, 1501):
        LatentTrajectory(LatentTrajectory.suited(straight, Budget(tokens=tokens)), backbone).check(
            Budget(tokens=tokens)
        )
    for config, tokens, match in (
        (replace(plain, segment=1), 2, r"no two segments of 1 [\s\S]*--tokens 3 with segment=1"),
        (plain, 2, r"no two segments of 500 [\s\S]*--tokens 3 with segment=1"),
        (replace(straight, segment=1), 3, r"no three segments of 1 [\s\S]*--tokens 4 with segment=1"),
        (straight, 1500, r"no three segments of 500 [\s\S]*segment=187, or use --tokens 1501"),
    ):
        with pytest.raises(ConfigError, match=match):
            LatentTrajectory(config, backbone).check(Budget(tokens=tokens))
    with pytest.raises(ConfigError, match=r"early=1 [\s\S]*aligned[\s\S]*early=2"):
        replace(straight, early=1)


def test_sequential_selection_stops_where_it_is_satisfied(backbone):
    config = LatentTrajectoryConfig(segment=2, select="sequential", samples=4, temperature=1.0)
    given = {"prompts": PROMPTS, "budget": Budget(tokens=12)}
    nothing = LatentTrajectory(config, backbone).answer(**given, generator=streams(3))
    assert [len(trace.samples) for trace in nothing] == [4, 4, 4]
    anything = replace(config, threshold=-1e9)
    first = LatentTrajectory(anything, backbone).answer(**given, generator=streams(3))
    assert all(trace.text == trace.samples[-1] for trace in first)
    assert sum(trace.cost.decoded_tokens for trace in first) < sum(trace.cost.decoded_tokens for trace in nothing)
    assert [trace.samples[0] for trace in first] == [trace.samples[0] for trace in nothing]


def test_early_selection_goes_on_with_the_one_it_chose(backbone):
    early = LatentTrajectoryConfig(segment=2, select="early", samples=3, early=2, temperature=1.0)
    whole = replace(early, select="best")
    given = {"prompts": PROMPTS, "budget": Budget(tokens=16)}
    traces = LatentTrajectory(early, backbone).answer(**given, generator=streams(3))
    begun = LatentTrajectory(whole, backbone).answer(
        PROMPTS, budget=Budget(tokens=7), generator=streams(3)
    )  # what is read of seven tokens is six: three segments
    for trace, start in zip(traces, begun, strict=True):
        assert trace.text.startswith(start.text)
        assert start.cost.decoded_tokens <= trace.cost.decoded_tokens <= start.cost.decoded_tokens + 9
    assert any(len(trace.text.split()) > 7 for trace in traces)
    one = LatentTrajectory(replace(early, samples=1, temperature=0.01), backbone)
    plain = LatentTrajectory(replace(early, samples=1, temperature=0.01, select="best"), backbone)
    assert [t.text for t in one.answer(**given, generator=streams(3))] == [
        t.text for t in plain.answer(**given, generator=streams(3))
    ]


# Arms -----------------------------------------------------------------------------------------------------------------


def arm_context(folder, name="arm"):
    return ArmContext(folder=folder / name, shared=folder / "shared", method="reason/latent-trajectory", seed=0)


@pytest.fixture
def measure(tmp_path):
    """Returns what an arm measures of texts that are given."""

    def measured(arm, texts, **settings):
        context = arm_context(tmp_path, arm)
        context.artifact("texts", lambda: {name: value.clone() for name, value in vars(texts).items()}, shared=True)
        config = replace(module.PRESETS["smoke"], resamples=40, **settings)
        try:
            return module.run_arm(arm, config, context).measures
        finally:
            context.close()

    return measured


def known(**others):
    """Texts of 60 questions, three each: right ones have few tokens, and all signals tell no more than the length."""
    random = torch.Generator().manual_seed(6)
    correct = torch.rand(60, 3, generator=random) < 0.5
    tokens = torch.randint(10, 14, (60, 3), generator=random) + 3 * ~correct
    told = -tokens.float()
    return module.Texts(
        **{
            "correct": correct,
            "tokens": tokens,
            "log_probs": told,
            "signals": torch.stack([told] * 3, -1),
            "layers": torch.stack([told] * 2, -1),
            "shuffled": torch.stack([told] * 6, -1).view(60, 3, 2, 3),
            "prompts": torch.stack([told] * 3, -1),
            "voted": correct.sum(1) > 1,
            "early": told,
        }
        | others
    )


def test_what_length_explains_is_not_within_equal_lengths(measure):
    found = measure("trajectory", known())
    assert found["area"] > 0.9
    assert (found["within"], found["least_within"]) == (0.5, 0.5)


@pytest.mark.parametrize("arm", ["trajectory", "log-probability", "length", "layers", "prompt", "shuffled", "random"])
def test_areas_of_all_arms_are_of_the_texts_that_have_a_path(measure, arm, monkeypatch):
    texts, seen = known(), []
    missing = texts.tokens < 12  # the right ones, above all
    texts = replace(texts, signals=texts.signals.masked_fill(missing.unsqueeze(-1), torch.nan))
    monkeypatch.setattr(module, "area", lambda scores, correct: seen.append((scores.isnan(), correct)) or 0.5)
    measure(arm, texts)
    whole = [each for each, correct in seen if torch.equal(correct, texts.correct)]  # others are resamples
    assert whole
    assert all(torch.equal(each, missing) for each in whole)


def test_of_several_signals_the_best_lower_end_counts(measure):
    texts = known()
    better = texts.signals.clone()
    better[..., 0] += 0.5 * texts.correct
    found = measure("trajectory", replace(texts, signals=better))
    assert found["within"] == 0.5, "that of the configured signal"
    assert found["least_within"] == 1


def test_thresholds_are_not_calibrated_on_what_they_are_used_for(measure, monkeypatch):
    seen = []

    def spied(call):
        def told(some, *others):
            seen.append(set(some.tokens[:, 0].tolist()))  # names of questions here
            return call(some, *others)

        return told

    monkeypatch.setattr(module, "calibrate", spied(calibrate))
    monkeypatch.setattr(module, "sequential", spied(sequential))
    measure("trajectory", replace(known(), tokens=torch.arange(180).view(60, 3)))
    assert len(seen) == 6
    for calibrated, used in zip(seen[::2], seen[1::2], strict=True):
        assert (len(calibrated), len(used)) == (18, 42)
        assert not calibrated & used
    assert len({frozenset(each) for each in seen[::2]}) == 3, "splits differ"


def test_early_selection_is_compared_with_the_vote_and_all_tokens(measure):
    correct = torch.tensor([[True, False, False]] * 6 + [[False, False, False]] * 2)
    good = torch.tensor([[3.0, 1.0, 2.0]] * 8)
    tokens = torch.tensor([[50, 60, 10]] * 8)
    texts = known()
    some = {name: value[:8] for name, value in vars(texts).items()}
    some |= {"correct": correct, "tokens": tokens, "voted": torch.tensor([True] + [False] * 7), "early": good}
    method = LatentTrajectoryConfig(segment=8, early=2, samples=3)
    found = measure("trajectory", module.Texts(**some), method=method)
    assert found["early"] == pytest.approx(6 / 8 - 1 / 8)
    begun = 3 * 8 + 1  # two updates are of three segments, and the last token that was written is not read
    assert found["early_tokens"] == pytest.approx((50 + begun + 10) / 120)


QUESTIONS = ["1 + 2 =", "3 =", "4 * 5 - 6 = a b c", "a b + 1", "7 8 9 - 2 * 3 1 0"]


@pytest.fixture
def written(backbone, tmp_path, monkeypatch):
    """Returns the texts of a model with random weights, in batches of some questions, and how they were set up."""

    def texts(batch, **settings):
        items = tuple(Problem(each, "1") for each in QUESTIONS)
        problems = Problems("some", items, lambda text: text, lambda item, given: "1" in given.split()[:3])
        monkeypatch.setattr(module, "countdown", lambda count, seed: problems)
        monkeypatch.setattr(module, "countdown_backbone", lambda context, config: backbone)
        method = LatentTrajectoryConfig(segment=2, samples=2, early=3, temperature=1.0, **settings)
        config = replace(module.PRESETS["smoke"], count=5, tokens=12, resamples=4, batch=batch, method=method)
        context = arm_context(tmp_path / str(batch))
        try:
            module.run_arm("length", config, context)
            return module.Texts(**context.artifact("texts", dict, shared=True)), config
        finally:
            context.close()

    return texts


def test_texts_do_not_depend_on_the_batch(written):
    (whole, _), (pairs, _), (alone, _) = written(5), written(2), written(1)
    assert len(set(whole.tokens.flatten().tolist())) > 2, "rows of one length prove nothing"
    for name, value in vars(whole).items():
        for other in (pairs, alone):
            torch.testing.assert_close(getattr(other, name), value, atol=1e-4, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("signal", SIGNALS)
def test_texts_are_scored_by_the_states_that_the_model_has(written, backbone, signal):
    texts, config = written(5, signal=signal)
    method = LatentTrajectory(config.method, backbone)
    draws = [generator(0, "text", row) for row in range(2 * len(QUESTIONS))]
    found = method.sample(method.prompt(QUESTIONS).fork(2), tokens=12, generators=draws)
    assert torch.equal(found.lengths.view(5, 2), texts.tokens)
    read, moved = found.rollout.fed.sum(1).tolist(), 0
    for row, (question, sample) in enumerate(itertools.product(range(5), range(2))):
        prompt = backbone.encode([QUESTIONS[question]])["input_ids"]
        ids = torch.cat([prompt, torch.tensor([found.rollout.sequences[row]])], 1)
        with torch.no_grad(), capture(backbone.model, "layers.*.resid_post") as acts:
            backbone.model(ids)
        states = torch.stack([acts[name][0] for name in acts.passes[0]], 1)
        asked, text = states[: prompt.shape[1]], states[prompt.shape[1] : prompt.shape[1] + read[row]]
        expected = {
            "prompts": spoken(asked, max(1, len(asked) // 3)),
            "signals": spoken(text, 2),
            "early": spoken(text[:8], 2)[SIGNALS.index(signal)],  # three updates are of four segments
        }
        if len(text):
            expected["layers"] = between_layers(text)
        for name, value in expected.items():
            mine = getattr(texts, name)[question, sample]
            torch.testing.assert_close(mine, value, atol=1e-4, rtol=1e-3, equal_nan=True, msg=name)
        shuffled, straight = texts.shuffled[question, sample]
        torch.testing.assert_close(straight, expected["signals"], atol=1e-4, rtol=1e-3, equal_nan=True)
        means = text[: len(text) // 2 * 2].view(-1, 2, *text.shape[1:]).mean(1)
        if len(means) > 2:
            orders = torch.stack([spoken(means[list(each)], 1) for each in itertools.permutations(range(len(means)))])
            assert (orders - shuffled).abs().amax(1).min() < 1e-3, "some order of its segments"
            moved += not torch.allclose(shuffled, straight, atol=1e-3)
    assert moved > 2


def spoken(states, segment):
    """The three signals of states `(time, layers, hidden)`, more is better; NaN without two segments."""
    if len(states) < 2 * segment:
        return torch.full((3,), torch.nan)
    net, cumulative, aligned = (each.mean() for each in directly(states, segment))
    return torch.stack([net, -cumulative, aligned])


def between_layers(states):
    """How far the mean state goes between layers, the more the better, and how much it turns, the less the better."""
    first, *_, last = points = states.mean(0).double().unbind(0)

    def angle(one, other):
        return math.acos(max(-1.0, min(1.0, float(one @ other / one.norm() / other.norm()))))

    pairs = list(itertools.pairwise(points))
    length = sum(float((b - a).norm()) for a, b in pairs) / len(pairs) / float((last - first).norm())
    turn = sum(angle(a, b) for a, b in pairs) / len(pairs) / angle(first, last)
    return torch.tensor([length, -turn])


@pytest.mark.parametrize("arm", module.ARMS)
def test_arms_measure_what_they_say(arm, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "trajectory"
    context = ArmContext(
        folder=folder / arm, shared=folder / "shared", method="reason/latent-trajectory", seed=0, label=arm
    )
    config = replace(
        module.PRESETS["smoke"], count=6, tokens=40, resamples=10, countdown=CountdownModel(steps=2, rows=4)
    )
    try:
        result = module.run_arm(arm, config, context)
    finally:
        context.close()
    assert set(result.measures) <= set(module.MEASURES)
    if arm == "vote":
        assert result.measures["tokens"] == 1
    if arm == "shuffled":
        assert set(result.measures) >= {"area", "lengthening"}
