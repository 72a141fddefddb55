"""The experiment of SDM: arms, claims and worlds."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latent.causal import SDMEstimator
from latent.causal.experiments import sdm as module
from latent.causal.experiments.sdm_worlds import World, few_points, load_world
from latent.core.errors import ConfigError
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator

QUICK = {
    "exemplar_dim": 12, "restarts": 2, "epochs": 8, "learning_rate": 0.01, "rescaler_epochs": 60,
    "rescaler_learning_rate": 0.05, "exemplars": 2,
}  # fmt: skip


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "tests"))


def blobs(rows, *, classes=2, width=5, spread=3.0, seed=0):
    y = torch.arange(rows) % classes
    centres = spread * randn(classes, width, seed=99)
    return centres[y] + randn(rows, width, seed=seed), y


@pytest.fixture(scope="module")
def fitted():
    h, y = blobs(240, seed=4)
    return SDMEstimator(**QUICK, random_state=3).fit(h, y)


def test_every_arm_measures_what_its_claims_need(tmp_path):
    config = replace(
        module.PRESETS["smoke"],
        fit=module.Fit(restarts=1, epochs=2, rescaler_epochs=3, exemplar_dim=8, rescaler_batch_size=400),
    )
    found = {}
    for arm in module.ARMS:
        context = ArmContext(tmp_path / arm, tmp_path / "shared", "causal/sdm", seed=0)
        found[arm] = module.run_arm(arm, config, context).measures
        context.close()
    foreign = {key for key in module.MEASURES if key.startswith("foreign")}
    assert set().union(*found.values()) | foreign == set(module.MEASURES)
    for claim in module.CLAIMS:
        for arm, measure in claim.pairs:
            assert math.isfinite(found[arm][measure]), (arm, measure)
    assert found["sdm"]["self_distance"] == 1.0


def test_training_points_without_themselves_are_as_far_as_new_ones_and_the_check_can_fail(tmp_path, monkeypatch):
    """With each point its own neighbour, as if nobody had left it out, the claim breaks."""
    claim = next(claim for claim in module.CLAIMS if claim.id == "self-is-left-out")
    config = replace(module.PRESETS["smoke"], fit=module.Fit(restarts=1, epochs=5, rescaler_epochs=3, exemplar_dim=16))

    def measured(name):
        context = ArmContext(tmp_path / name, tmp_path / "shared", "causal/sdm", seed=0)
        found = module.run_arm("sdm", config, context).measures
        context.close()
        return found

    found = measured("left-out")
    means = {(claim.check.arm, name): value for name, value in found.items()}
    assert claim.check.passes(means)
    assert not claim.check.about(("sdm", "self_gap")).passes(means)
    assert found["left_out_gap"] == abs(found["train_distance"] - found["distance"])
    whole = module._of_training

    def not_left_out(solver, h, y):
        return whole(solver, h, y) | {"train_distance": whole(solver, h, y)["self_distance"]}

    monkeypatch.setattr(module, "_of_training", not_left_out)
    means = {(claim.check.arm, name): value for name, value in measured("kept").items()}
    assert not claim.check.passes(means)


def test_a_world_without_a_shift_to_reject_tells_nothing(fitted):
    h, y = blobs(200, seed=5)
    easy, hard = (h, y), (h, 1 - y)
    found = module._of_shifts(fitted, World(easy, easy, {"noise": easy, "turned": hard, "unseen": (h, None)}))
    assert found["shifts_counted"] == 2
    assert found["shift_admitted"] == found["turned_admitted"] > 0
    with pytest.raises(ConfigError, match="no shifted set is to be rejected"):
        module._of_shifts(fitted, World(easy, easy, {"noise": easy}))


def test_arms_run_on_the_device_of_their_context(monkeypatch, tmp_path):
    asked = []

    def to(self, device):
        asked.append(device)
        return self

    monkeypatch.setattr(World, "to", to)
    context = ArmContext(tmp_path / "few", tmp_path / "shared", "causal/sdm", seed=0)
    config = module.Experiment(fit=module.Fit(restarts=1, epochs=1, rescaler_epochs=1, exemplar_dim=8))
    module.run_arm("few", config, context)
    assert asked == [context.device]
    context.close()
    monkeypatch.undo()
    h, y = blobs(4)
    moved = World((h, y), (h, y), {"noise": (h, y), "unseen": (h, None)}).to(torch.device("meta"))
    parts = [*moved.train, *moved.test, *moved.shifts["noise"], moved.shifts["unseen"][0]]
    assert {part.device.type for part in parts} == {"meta"}
    assert moved.shifts["unseen"][1] is None


def test_worlds_split_without_overlap_and_shift_what_they_say():
    world = load_world("digits", count=300, share=0.7, noise=0.4, encoder="", seed=0)
    assert (len(world.train[0]), len(world.test[0])) == (210, 90)
    both = torch.cat([world.train[0], world.test[0]])
    assert len(both.unique(dim=0)) == 300
    torch.testing.assert_close(world.shifts["inverted"][0], 1 - world.test[0])
    assert 0.3 < float((world.shifts["noise"][0] - world.test[0]).std()) < 0.5
    turned = world.shifts["turned"][0].unflatten(1, (8, 8))
    torch.testing.assert_close(turned[:, ::1].rot90(-1, (1, 2)).flatten(1), world.test[0])
    other = load_world("digits", count=300, share=0.7, noise=0.4, encoder="", seed=1)
    assert not torch.equal(world.train[0], other.train[0])
    assert set(few_points(share=0.7, seed=0).train[1].tolist()) == set(range(10))
    with pytest.raises(ConfigError, match="count=9999"):
        load_world("digits", count=9999, share=0.7, noise=0.4, encoder="", seed=0)


def test_worlds_of_larger_images():
    folder = Path(os.environ.get("LATENT_DATA", ""))
    if not (folder / "mnist").is_dir() or not (folder / "fashion_mnist").is_dir():
        pytest.skip("LATENT_DATA does not hold mnist and fashion_mnist")
    world = load_world("mnist", count=50, share=0.6, noise=0.4, encoder="", seed=0)
    assert world.train[0].shape == (30, 784)
    assert float(world.train[0].max()) == 1.0
    assert world.shifts["foreign"][1] is None
    assert world.shifts["foreign"][0].shape == (2000, 784)
