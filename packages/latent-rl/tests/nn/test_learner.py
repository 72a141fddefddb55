import copy

import pytest
import torch
from torch.nn import functional

from latent.core.errors import ConfigError, ShapeError
from latent.core.nn import project_to_sphere
from latent.rl.baselines.byol_gamma import ByolGamma, ByolGammaConfig, ByolGammaLearner, ByolGammaTraining
from latent.rl.baselines.forward_backward import (
    ForwardBackward,
    ForwardBackwardConfig,
    ForwardBackwardLearner,
    ForwardBackwardTraining,
)
from latent.rl.methods.td_jepa import TDJEPA, TDJEPAConfig, TDJEPALearner, TDJEPATraining
from latent.rl.nn.learner import actor_loss
from latent.rl.nn.objective import draw_noise

SIZES = {
    "obs_shape": (4,), "action_dim": 2, "state_dim": 6, "task_dim": 5, "state_layers": 1, "task_layers": 1,
    "encoder_width": 8, "predictor_width": 8, "actor_width": 8, "flow_width": 8, "pixel_features": 7,
}  # fmt: skip
METHODS = {
    "td-jepa": (TDJEPA, TDJEPAConfig, TDJEPALearner, TDJEPATraining),
    "fb": (ForwardBackward, ForwardBackwardConfig, ForwardBackwardLearner, ForwardBackwardTraining),
    "byol-gamma": (ByolGamma, ByolGammaConfig, ByolGammaLearner, ByolGammaTraining),
}
PIXELS = {"obs_shape": (3, 16, 16)}
FLOW = {"actor": "flow", "actor_input": "observation"}


def learner(method="td-jepa", *, seed=0, sizes=None, weights=0, **training):
    model, config, trainer, settings = METHODS[method]
    torch.manual_seed(weights)
    return trainer(model(config(**SIZES | (sizes or {}))), settings(**training), seed=seed)


def transitions(step, rows=12, shape=(4,)):
    random = torch.Generator().manual_seed(step)

    def obs():
        if len(shape) == 3:
            return torch.randint(0, 256, (rows, *shape), generator=random, dtype=torch.uint8)
        return torch.randn(rows, *shape, generator=random)

    return {
        "obs": obs(), "action": 2 * torch.rand(rows, 2, generator=random) - 1, "next_obs": obs(), "future_obs": obs(),
        "terminated": torch.rand(rows, generator=random) < 0.2,
    }  # fmt: skip


def train(trained, steps, start=0):
    for step in range(start, start + steps):
        metrics = trained.step(transitions(step, shape=trained.model.config.obs_shape), step=step)
    return metrics


def flat(state, prefix=""):
    """Leaves of nested dicts and lists by their path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {key: leaf for name, value in items for key, leaf in flat(value, f"{prefix}/{name}").items()}
    return {prefix: state}


def same(first, second):
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    equal = (
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )
    return all(equal)


VARIANTS = [
    ("td-jepa", {}, {}),
    ("td-jepa", {"symmetric": True, "state_dim": 5}, {"whiten_goals": True}),
    ("td-jepa", FLOW, {"behaviour_cloning": 0.3, "pessimism": 0.5, "actor_pessimism": 0.5}),
    ("td-jepa", PIXELS, {"dtype": "bfloat16"}),
    ("fb", {}, {}),
    ("byol-gamma", {}, {"behaviour_cloning": 1.0}),
    ("byol-gamma", PIXELS | FLOW, {}),
]


@pytest.mark.parametrize(("method", "sizes", "training"), VARIANTS)
def test_resuming_is_bitwise_equal_to_never_stopping(method, sizes, training):
    straight = learner(method, sizes=sizes, **training)
    train(straight, 2)
    state = copy.deepcopy(straight.state_dict())
    train(straight, 2, start=2)
    resumed = learner(method, sizes=sizes, weights=7, **training)
    resumed.load_state_dict(state)
    train(resumed, 2, start=2)
    assert same(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_is_all_that_is_random(method):
    first, second, other = learner(method), learner(method), learner(method, seed=1)
    for each in (first, second, other):
        torch.rand(3)  # the global stream must not matter
        train(each, 2)
    assert same(first.state_dict(), second.state_dict())
    assert not same(first.state_dict(), other.state_dict())


def test_noise_depends_on_the_step():
    first, second = learner(), learner()
    batch = transitions(0)
    first.step(batch, step=0)
    second.step(batch, step=1)
    assert not same(first.state_dict(), second.state_dict())


def test_a_step_leaves_the_global_stream_and_the_batch_alone():
    batch = transitions(0)
    before, stream = copy.deepcopy(batch), torch.get_rng_state()
    learned = learner()
    stream = torch.get_rng_state()
    learned.step(batch, step=0)
    assert torch.equal(torch.get_rng_state(), stream)
    assert same(batch, before)


@pytest.mark.parametrize(("method", "sizes", "training"), VARIANTS)
def test_metrics_are_finite_documented_scalars(method, sizes, training):
    trained = learner(method, sizes=sizes, **training)
    metrics = train(trained, 1)
    assert metrics.keys() <= trained.METRICS.keys()
    assert {"loss", "actor_loss", "task_rank", "value", "target_norm"} <= metrics.keys()
    for value in metrics.values():
        assert value.shape == ()
        assert value.isfinite()
        assert not value.requires_grad


@pytest.mark.parametrize(("method", "sizes", "training"), VARIANTS)
def test_every_part_learns_and_targets_follow(method, sizes, training):
    trained = learner(method, sizes=sizes, **training)
    before = copy.deepcopy(trained.state_dict())
    train(trained, 2)
    after = trained.state_dict()
    still = {"observation_scale", "observation_offset"}
    for part in ("model", "targets"):
        for name, value in after[part].items():
            assert name in still or not torch.equal(value, before[part][name]), f"{part} {name} did not move"
    assert not any(value.requires_grad for value in trained.targets.parameters())
    assert all(value.requires_grad for value in trained.model.parameters())


def test_targets_follow_after_both_steps():
    trained = learner(tau_encoder=1.0, tau_predictor=0.0)
    start = copy.deepcopy(trained.targets)
    train(trained, 1)
    assert same(trained.targets["state_head"].state_dict(), trained.model.state_encoder.head.state_dict())
    assert same(trained.targets["successor"].state_dict(), start["successor"].state_dict())


def test_the_moment_follows_psi_at_its_rate():
    trained = learner(moment_rate=0.25)
    batch = transitions(0)
    with torch.no_grad():
        psi = trained.model.encode_task(batch["obs"])
    trained.step(batch, step=0)
    torch.testing.assert_close(trained.model.task_moment, 0.75 * torch.eye(5) + 0.25 * psi.T @ psi / 12)


def test_each_part_has_its_own_learning_rate():
    trained = learner(lr_state=0.0, lr_task=0.0, lr_predictor=0.0, lr_actor=1e-3)
    before = copy.deepcopy(trained.model.state_dict())
    train(trained, 1)
    moved = {
        name.split(".")[0] for name, value in trained.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"actor", "task_moment"}


def test_one_fused_adam_equals_one_adam_per_part():
    trained = learner(lr_state=1e-3, lr_task=1e-2, lr_predictor=3e-3)
    model = copy.deepcopy(trained.model)
    separate = [
        torch.optim.Adam(part.parameters(), lr=rate)
        for part, rate in ((model.state_encoder, 1e-3), (model.task_encoder, 1e-2), (model.successor, 3e-3))
    ]
    trained.step(transitions(0), step=0)
    for name, value in model.named_parameters():
        gradient = dict(trained.model.named_parameters())[name].grad
        value.grad = None if gradient is None else gradient.clone()
    for optimiser in separate:
        optimiser.step()
    for part in ("state_encoder", "task_encoder", "successor"):
        for ours, theirs in zip(
            getattr(trained.model, part).parameters(), getattr(model, part).parameters(), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


# The actor's loss ----------------------------------------------------------------------------------------------------


def pieces(sizes=None, **training):
    trained = learner(sizes=sizes, **training)
    batch = transitions(0)
    noise = draw_noise(torch.Generator().manual_seed(3), 12, task=5, action=2, goal_probability=0.5)
    tasks = project_to_sphere(noise.task)
    return trained.model, trained.training, batch["obs"], batch["action"], tasks, noise


def test_actor_loss_is_minus_the_mean_value_of_its_actions():
    model, training, obs, action, tasks, noise = pieces()
    loss, metrics = actor_loss(model, training, obs, action, tasks, noise)
    with torch.no_grad():
        proposed = model.actor(model.encode(obs), tasks, noise.action)
        expected = -model.values(obs, proposed, tasks).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["value"], -expected)


def test_actor_loss_improves_the_value_and_spares_the_encoder():
    model, training, obs, action, tasks, noise = pieces()
    loss, _ = actor_loss(model, training, obs, action, tasks, noise)
    loss.backward()
    assert all(value.grad is None for value in model.state_encoder.parameters())
    assert all(value.grad is None for value in model.task_encoder.parameters())
    with torch.no_grad():
        for value in model.actor.parameters():
            value -= 0.01 * value.grad
    assert actor_loss(model, training, obs, action, tasks, noise)[0] < loss


def test_cloning_divides_the_value_by_its_size_and_adds_the_distance_to_the_data():
    model, training, obs, action, tasks, noise = pieces(behaviour_cloning=0.7)
    loss, metrics = actor_loss(model, training, obs, action, tasks, noise)
    proposed = model.actor(model.encode(obs), tasks, noise.action)
    values = (model.successor(model.encode(obs), proposed, tasks) * tasks).sum(-1)
    distance = functional.mse_loss(proposed, action)
    torch.testing.assert_close(loss, -values.mean() / values.abs().mean() + 0.7 * distance)
    torch.testing.assert_close(metrics["cloning_error"], distance)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_flow_actor_clones_the_behaviour_flow(weight):
    model, training, obs, action, tasks, noise = pieces(FLOW, behaviour_cloning=weight)
    loss, metrics = actor_loss(model, training, obs, action, tasks, noise)
    time, start = noise.flow_time, noise.flow_start
    velocity = model.actor.velocity(obs, (1 - time) * start + time * action, time)
    matching = functional.mse_loss(velocity, action - start)
    proposed = model.actor(obs, tasks, noise.action)
    distance = functional.mse_loss(proposed, model.actor.behaviour(obs, noise.action).detach())
    values = (model.successor(model.encode(obs), proposed, tasks) * tasks).sum(-1)
    value = values.mean() / values.abs().mean() if weight else values.mean()
    torch.testing.assert_close(loss, -value + weight * distance + matching)
    torch.testing.assert_close(metrics["flow_matching"], matching)
    loss.backward()
    # Only flow matching may train the field: the clone is a target.
    field = {name: value.grad.clone() for name, value in model.actor.field.named_parameters()}
    model.actor.field.zero_grad()
    matching.backward()
    for name, value in model.actor.field.named_parameters():
        torch.testing.assert_close(field[name], value.grad)


def test_settings_out_of_range_are_refused():
    for change, words in (({"discount": 1.5}, "discount"), ({"behaviour_cloning": -1.0}, "behaviour_cloning")):
        with pytest.raises(ConfigError, match=words):
            TDJEPATraining(**change)


def test_misshaped_batches_are_refused():
    batch = transitions(0)
    with pytest.raises(ShapeError, match="obs"):
        learner().step(batch | {"obs": torch.zeros(12, 3)}, step=0)


def test_terminated_may_be_a_column():
    batch = transitions(0)
    flat_one, column = learner(), learner()
    flat_one.step(batch, step=0)
    column.step(batch | {"terminated": batch["terminated"][:, None]}, step=0)
    assert same(flat_one.state_dict(), column.state_dict())


def test_pixel_shift_is_applied_to_training_only():
    plain, shifted = (learner(sizes=PIXELS, pixel_shift=pad) for pad in (0, 2))
    batch = transitions(0, rows=2, shape=(3, 16, 16))
    assert not torch.equal(plain.step(batch, step=0)["loss"], shifted.step(batch, step=0)["loss"])
    fresh = learner(sizes=PIXELS).model
    assert torch.equal(fresh.encode(batch["obs"]), fresh.encode(batch["obs"]))


@pytest.mark.compile
@pytest.mark.parametrize(
    ("method", "sizes", "training"),
    [("td-jepa", {"state_dim": 20}, {}), VARIANTS[2], ("fb", {}, {}), ("byol-gamma", PIXELS, {})],
)
def test_compiled_steps_agree_with_eager_ones(method, sizes, training):
    eager, compiled = (learner(method, sizes=sizes, compile=value, **training) for value in (False, True))
    for step in range(3):
        batch = transitions(step, shape=eager.model.config.obs_shape)
        ours, theirs = eager.step(batch, step=step), compiled.step(batch, step=step)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(eager.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
