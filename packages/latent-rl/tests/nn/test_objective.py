import pytest
import torch

from latent.core.nn import project_to_sphere
from latent.rl.nn.objective import (
    draw_noise,
    inverse,
    orthonormality,
    pessimistic,
    sample_tasks,
    second_moment,
    td_latent_loss,
    td_target,
)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def naive_orthonormality(e):
    batch = len(e)
    pairs = sum((e[i] @ e[j]) ** 2 for i in range(batch) for j in range(batch) if i != j)
    return pairs / (2 * batch * (batch - 1)) - sum(row @ row for row in e) / batch


@pytest.mark.parametrize(("batch", "features"), [(9, 4), (4, 9), (6, 6), (2, 50)])
@pytest.mark.parametrize("normed", [True, False])
def test_orthonormality_is_the_sum_over_pairs(batch, features, normed, random):
    e = torch.randn(batch, features, generator=random, dtype=torch.float64)
    e = (project_to_sphere(e) if normed else e).requires_grad_()
    loss, _ = orthonormality(e)
    expected = naive_orthonormality(e)
    torch.testing.assert_close(loss, expected)
    gradients = (torch.autograd.grad(value, e)[0] for value in (loss, expected))
    torch.testing.assert_close(*gradients)


def test_both_forms_of_orthonormality_agree_at_training_size(random):
    # A column of zeros changes no value but makes the same batch take the other branch.
    e = project_to_sphere(torch.randn(256, 50, generator=random) + 0.3)
    wide = torch.cat((e, torch.zeros(256, 256)), -1)
    torch.testing.assert_close(orthonormality(e)[0], orthonormality(wide)[0], atol=1e-5, rtol=1e-5)


def test_orthonormality_prefers_orthonormal_features(random):
    orthonormal = project_to_sphere(torch.eye(4).repeat(8, 1))
    spread, rank = orthonormality(orthonormal)
    collapsed, rank_of_collapsed = orthonormality(torch.full((32, 4), 1.0))
    assert spread < collapsed
    torch.testing.assert_close(rank, torch.tensor(4.0))
    torch.testing.assert_close(rank_of_collapsed, torch.tensor(1.0))


def test_orthonormality_of_one_row_and_under_autocast(random):
    e = project_to_sphere(torch.randn(300, 16, generator=random))
    assert orthonormality(e[:1])[0] == -16.0
    with torch.autocast("cpu", torch.bfloat16):
        inside = orthonormality(e)[0]
    assert torch.equal(inside, orthonormality(e)[0])


def test_pessimism_subtracts_pairwise_disagreement():
    values = torch.tensor([[1.0, 2.0], [3.0, 2.0], [8.0, 2.0]])
    assert torch.equal(pessimistic(values, 0.0), torch.tensor([4.0, 2.0]))
    # |1-3|, |1-8|, |3-8| each twice, over 9 - 3 ordered pairs
    torch.testing.assert_close(pessimistic(values, 0.5), torch.tensor([4.0 - 0.5 * 28 / 6, 2.0]))
    assert torch.equal(pessimistic(values[:1], 0.5), values[0])


def test_td_target_bootstraps_only_where_the_discount_is_positive(random):
    features = torch.randn(3, 5, generator=random)
    successors = torch.randn(2, 3, 5, generator=random)
    target = td_target(features, successors, torch.tensor([0.9, 0.0, 0.5]))
    torch.testing.assert_close(target[0], features[0] + 0.9 * successors[:, 0].mean(0))
    assert torch.equal(target[1], features[1])
    torch.testing.assert_close(target[2], features[2] + 0.5 * successors[:, 2].mean(0))


def test_td_latent_loss_sums_features_and_averages_the_rest():
    prediction = torch.zeros(2, 3, 4)
    prediction[0] = 1.0
    target = torch.zeros(3, 4)
    target[2] = 1.0
    # distances: member 0 gives 4, 4, 0; member 1 gives 0, 0, 4
    torch.testing.assert_close(td_latent_loss(prediction, target), torch.tensor(12.0 / 6))


def test_tasks_are_permuted_goals_or_random_directions(random):
    noise = draw_noise(random, 64, task=5, action=2, goal_probability=0.5)
    goals = project_to_sphere(torch.randn(64, 5, generator=random))
    tasks = sample_tasks(goals, noise)
    torch.testing.assert_close(tasks.norm(dim=-1), torch.full((64,), 5.0**0.5))
    chosen = noise.use_goal[:, 0]
    assert 16 < chosen.sum() < 48
    torch.testing.assert_close(tasks[chosen], goals[noise.permutation][chosen])
    torch.testing.assert_close(tasks[~chosen], project_to_sphere(noise.task[~chosen]))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_goal_probability_reaches_both_ends(probability, random):
    noise = draw_noise(random, 32, task=3, action=2, goal_probability=probability)
    assert noise.use_goal.float().mean() == probability


def test_the_inverse_moment_undoes_the_scale_of_features(random):
    noise = draw_noise(random, 40, task=3, action=2, goal_probability=1.0)
    stretch = torch.diag(torch.tensor([1.0, 10.0, 0.1]))
    plain = torch.randn(40, 3, generator=random)
    goals = plain @ stretch
    tasks = sample_tasks(goals, noise, moment=second_moment(goals))
    expected = (plain @ inverse(second_moment(plain)) @ torch.linalg.inv(stretch))[noise.permutation]
    torch.testing.assert_close(tasks, project_to_sphere(expected), atol=1e-3, rtol=1e-3)


def test_noise_has_the_documented_shapes_and_moments(random):
    noise = draw_noise(random, 4096, task=3, action=2, goal_probability=0.25)
    assert noise.task.shape == (4096, 3)
    assert noise.flow_time.shape == (4096, 1)
    assert torch.equal(noise.permutation.sort().values, torch.arange(4096))
    for normal in (noise.task, noise.next_action, noise.action, noise.flow_start):
        assert normal.mean().abs() < 0.06
        assert (normal.std() - 1).abs() < 0.05
    assert noise.flow_time.min() >= 0
    assert noise.flow_time.max() <= 1
    assert (noise.use_goal.float().mean() - 0.25).abs() < 0.03
    assert not torch.equal(noise.next_action, noise.action)
