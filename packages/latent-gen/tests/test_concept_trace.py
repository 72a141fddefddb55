"""Trajectories in concept space: learning times, turns and their intervals."""

import math

import pytest
import torch

from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.run.seed import generator
from latent.gen.concept_trace import ConceptTrace, learning_times, spearman, turning

FOUR = ("00", "01", "10", "11")


def trace_of(paths, *, samples=40, smooth=0.0, every=10):
    """Return a trace whose held-out class has these shares, and whose other classes are what they should be."""
    trace = ConceptTrace(FOUR, smooth=smooth)
    for place, point in enumerate(paths):
        shown = torch.zeros(4, samples, 2)
        shown[1, :, 1] = shown[2, :, 0] = 1.0
        for concept, share in enumerate(point):
            shown[3, : round(share * samples), concept] = 1.0
        trace.add((place + 1) * every, shown)
    return trace


def test_a_path_is_the_share_of_value_one():
    trace = trace_of([(0.25, 0.5), (0.75, 1.0)])
    path = trace.path()
    torch.testing.assert_close(path[:, 3], torch.tensor([[0.25, 0.5], [0.75, 1.0]], dtype=torch.double))
    torch.testing.assert_close(path[0, :3], torch.tensor([[0, 0], [0, 1], [1, 0]], dtype=torch.double))
    torch.testing.assert_close(trace.accuracy("11"), path[:, 3])
    assert trace.accuracy("10")[0].tolist() == [1, 1]
    # Concepts are right in different pictures: the first quarter is blue, the first half small.
    assert trace.joint("11").tolist() == [0.25, 0.75]


def test_pictures_that_show_nothing_are_wrong_but_in_the_middle():
    trace = ConceptTrace(FOUR, smooth=0.0)
    trace.add(1, torch.full((4, 6, 2), torch.nan))
    assert bool((trace.path() == 0.5).all())
    assert bool((trace.accuracy("00") == 0).all())
    assert float(trace.joint("00")) == 0


def test_smoothing_keeps_constants_and_the_order_of_checkpoints():
    constant = trace_of([(0.5, 0.5)] * 5, smooth=2.0).path()
    torch.testing.assert_close(constant[:, 3], torch.full((5, 2), 0.5, dtype=torch.double))
    rising = trace_of([(share, 1.0) for share in (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)], smooth=1.0).path()[:, 3, 0]
    assert bool((rising.diff() > 0).all())
    assert 0 < float(rising[2]) < 0.5 < float(rising[3]) < 1


def test_learning_times_need_a_run_of_checkpoints():
    accuracy = torch.tensor([[0.95, 0.0], [0.5, 0.0], [0.95, 0.95], [0.92, 0.95], [0.99, 0.89], [1.0, 0.95]])
    steps = [10, 20, 30, 40, 50, 60]
    assert learning_times(steps, accuracy).tolist() == [30, math.inf]
    assert learning_times(steps, accuracy, consecutive=1).tolist() == [10, 30]
    assert learning_times(steps, accuracy, threshold=0.4).tolist() == [10, 30]
    with pytest.raises(ConfigError, match="consecutive"):
        learning_times(steps, accuracy, consecutive=0)
    trace = trace_of([(0.0, 1.0)] * 2 + [(1.0, 1.0)] * 4)
    assert trace.learning_times("11").tolist() == [30, 10]


def test_what_is_obeyed_is_of_two_classes_and_nothing_shown_is_wrong():
    trace = ConceptTrace(FOUR)
    shown = torch.zeros(4, 10, 2)
    shown[0, :2, 0] = 1.0  # a fifth of red big is blue
    shown[2, :9, 0] = 1.0  # nine tenths of blue big are
    shown[1, :, 1] = 1.0
    shown[0, 5:, 1] = torch.nan  # half of red big has no size
    shown[3] = torch.nan
    trace.add(1, shown)
    assert trace.obeyed(0).tolist() == pytest.approx([(0.8 + 0.9) / 2])
    assert trace.obeyed(1).tolist() == pytest.approx([(0.5 + 1) / 2])
    with pytest.raises(UnknownName, match="combination"):
        ConceptTrace(("00", "10"), _shown=[shown[:2]], steps=[1]).obeyed(1)


def test_leaning_is_what_a_prompt_alone_is_drawn_as():
    blue_big, red_small = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    shown = torch.zeros(4, 10, 2)
    shown[1, :, 1] = shown[2, :, 0] = 1.0
    shown[3, :6], shown[3, 6:8] = blue_big, red_small
    shown[3, 8:] = torch.nan  # no circles: they do not count
    trace = ConceptTrace(FOUR)
    trace.add(1, torch.zeros(4, 10, 2))  # leans nowhere
    trace.add(2, shown)
    assert trace.leaning("11", "10", "01", first=2) == pytest.approx((6 - 2) / 8)
    assert trace.leaning("11", "01", "10", first=2) == pytest.approx((2 - 6) / 8)
    assert trace.leaning("11", "10", "01") == pytest.approx((6 - 2) / 8 / 2)  # the mean of both checkpoints
    assert trace.leaning("11", "10", "01", last=1) == 0
    # A generator that draws red small whatever it is told leans nowhere.
    deaf = ConceptTrace(FOUR)
    deaf.add(1, red_small.expand(4, 10, 2))
    assert deaf.leaning("11", "10", "01") == 0
    blind = ConceptTrace(FOUR)
    blind.add(1, torch.full((4, 10, 2), torch.nan))
    assert math.isnan(blind.leaning("11", "10", "01"))
    with pytest.raises(UnknownName, match="banana"):
        trace.leaning("banana", "10", "01")


def test_contrasts_are_between_classes_that_differ_in_one_concept():
    trace = ConceptTrace(FOUR, smooth=0.0)
    shown = torch.zeros(4, 10, 2)
    shown[0, :2, 0] = 1.0  # a fifth of red big is blue
    shown[2, :9, 0] = 1.0  # nine tenths of blue big
    shown[1, :5, 1] = 1.0  # half of red small is small
    shown[3] = 1.0
    trace.add(1, shown)
    torch.testing.assert_close(trace.contrasts(), torch.tensor([[0.7, 0.5]], dtype=torch.double))
    with pytest.raises(UnknownName, match="combination"):
        ConceptTrace(("00", "11"), _shown=[shown[:2]], steps=[1]).contrasts()


def test_the_turn_is_where_the_path_turns():
    # To the right first, then upwards, in equal ways for equal factors of updates.
    path = [(0.0, 0.2 * place) for place in range(4)] + [(0.2 * place, 0.6) for place in range(1, 4)]
    trace = trace_of(path, samples=200)
    trace.steps[:] = [10 * 2**place for place in range(7)]
    sharpness, angles = turning(trace.path()[:, 3], trace.steps, reach=2.0)
    assert int(sharpness.argmax()) == 3
    assert float(sharpness[3]) == pytest.approx(0.2 * 0.2)  # at a right angle: the product of both ways
    assert float(angles[3]) == pytest.approx(math.pi / 2)
    assert float(sharpness[[0, 1, 2, 4, 5, 6]].abs().max()) < 1e-9  # straight, or not known so far back or ahead
    turn = trace.turn("11", generator=generator(0, "turn"), resamples=100, reach=2.0)
    assert (float(turn.step.estimate), turn.angle) == (80, pytest.approx(90))
    assert turn.sharpness == pytest.approx(0.2 * 0.2)
    assert float(turn.step.low) <= 80 <= float(turn.step.high)


def test_a_turn_back_is_sharper_than_one_aside_and_fewer_pictures_are_less_sure():
    steps = [10 * 2**place for place in range(5)]
    back = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.6, 0.0], [0.3, 0.0], [0.0, 0.0]], dtype=torch.double)
    aside = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.6, 0.0], [0.6, 0.3], [0.6, 0.6]], dtype=torch.double)
    (one, angle), (two, _) = (turning(path, steps, reach=2.0) for path in (back, aside))
    assert float(one[2]) == pytest.approx(2 * float(two[2]))
    assert float(angle[2]) == pytest.approx(math.pi)
    widths = []
    for samples in (10, 1000):
        trace = trace_of([(0.5, 0.5), (0.5, 0.7), (0.5, 0.9), (0.7, 0.9), (0.9, 0.9)], samples=samples)
        trace.steps[:] = steps
        turn = trace.turn("11", generator=generator(0, "turn"), resamples=100, reach=2.0)
        widths.append(float(turn.step.high - turn.step.low))
    assert widths[0] > widths[1]


def test_what_does_not_move_does_not_turn():
    turn = trace_of([(0.0, 1.0)] * 6, smooth=2.0).turn("11", generator=generator(0, "turn"), resamples=20)
    assert turn.sharpness == 0
    assert math.isnan(turn.angle)
    assert all(bool(each.isnan()) for each in (turn.step.estimate, turn.step.low, turn.step.high))


def test_ways_between_checkpoints_are_straight():
    path = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.double)
    # A reach of the root of 2 is half the way to the next checkpoint.
    sharpness, angles = turning(path, [100, 200, 400], reach=2**0.5)
    assert float(sharpness[1]) == pytest.approx(0.25)
    assert float(angles[1]) == pytest.approx(math.pi / 2)
    for steps, reach in (([1, 2], 2.0), ([1, 2, 3], 1.0)):
        with pytest.raises(ConfigError, match="no turn"):
            turning(path[: len(steps)], steps, reach=reach)


def test_speeds_are_over_the_logarithm_of_updates():
    trace = trace_of([(0.0, 0.0), (0.25, 0.0), (0.5, 0.0)])
    trace.steps[:] = [10, 20, 40]
    speeds = trace.speeds("11")
    torch.testing.assert_close(speeds, torch.full((2,), 0.25 / math.log(2), dtype=torch.double))


def test_spearman_is_of_ranks():
    first = torch.tensor([0.1, 0.2, 0.4, 0.8])
    assert float(spearman(first, first.exp())) == pytest.approx(1)
    assert float(spearman(first, 1 / first)) == pytest.approx(-1)
    from scipy.stats import spearmanr

    tied = torch.tensor([3.0, 1.0, 1.0, 2.0])
    assert float(spearman(first, tied)) == pytest.approx(spearmanr(first, tied).statistic)
    assert bool(spearman(first, torch.ones(4)).isnan())


def test_checkpoints_come_in_order_and_in_one_shape():
    trace = trace_of([(0.0, 0.0)])
    for asked in (trace.accuracy, trace.joint, trace.learning_times):
        with pytest.raises(UnknownName, match="banana"):
            asked("banana")
    with pytest.raises(ConfigError, match="10 is not after 10"):
        trace.add(10, torch.zeros(4, 40, 2))
    for wrong in (torch.zeros(3, 40, 2), torch.zeros(4, 41, 2), torch.zeros(4, 40, 3), torch.zeros(4, 40)):
        with pytest.raises(ShapeError, match="classes=4"):
            trace.add(20, wrong)
    with pytest.raises(ConfigError, match="no checkpoint"):
        _ = ConceptTrace(FOUR).shown
    assert len(trace.shown) == 1
    trace.add(20, torch.zeros(4, 40, 2))
    assert len(trace.shown) == 2  # what was read before is not what is read now
