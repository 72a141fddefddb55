"""The generators of the experiment, and its arms where the answer is known."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latent.core.errors import ConfigError
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.gen.experiments import gan_multidir_arms
from latent.gen.experiments.gan_multidir import ARMS, CLAIMS, MEASURES, PRESETS, Experiment, run_arm
from latent.gen.experiments.gan_multidir_arms import Comparing, Method, Probing, Walking, of_exact
from latent.gen.experiments.gan_multidir_worlds import (
    Digits,
    DigitsSettings,
    Entangled,
    EntangledSettings,
    digits,
    judge_errors,
    judged,
)
from latent.gen.methods.gan_multidir import LatentProbes, LatentProbesConfig, Walk
from latent.gen.regressors import FactorPictures, FactorRegressor, FactorRegressorConfig, FactorRegressorLearner
from latent.gen.small_gan import SmallGANConfig, SmallGANTraining

SMALL = EntangledSettings(latent=12, attributes=3, reads=5, latents=3000, rows=80)
needs_data = pytest.mark.skipif(
    not (Path(os.environ.get("LATENT_DATA", "-")) / "morphomnist_ti" / "t10k.npz").is_file(),
    reason="needs morphomnist_ti",
)


@pytest.fixture
def context(tmp_path):
    made = []

    def make(arm="gradient"):
        made.append(ArmContext(folder=tmp_path / arm, shared=tmp_path / "shared", method="gen/gan-multidir", seed=4))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module", params=[False, True], ids=["entangled", "monotone"])
def world(request):
    return Entangled(SMALL, seed=4, monotone=request.param)


def test_attributes_are_standardised_and_read_few_coordinates(world):
    w = world.latents("train", 3000)
    found = world.attributes(w)
    assert torch.allclose(found.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(found.std(0), torch.ones(3), atol=1e-4)
    w = w[:200].requires_grad_()
    for index in range(3):
        (gradient,) = torch.autograd.grad(world.attributes(w)[:, index].sum(), w)
        assert int((gradient != 0).any(0).sum()) == SMALL.reads
    assert world.attributes(w.reshape(4, 50, 12)).shape == (4, 50, 3)


def test_the_sign_of_a_coordinate_depends_on_the_others_in_the_entangled_generator_alone(world):
    w = world.latents("test", 500).requires_grad_()
    (gradient,) = torch.autograd.grad(world.attributes(w)[:, 0].sum(), w)
    signs = (gradient > 0).float().mean(0)[(gradient != 0).any(0)]
    strongest = gradient.abs().mean(0)[(gradient != 0).any(0)].argmax()
    assert (0.2 < signs[strongest] < 0.8) != world.monotone


def test_latents_are_the_same_for_a_name_and_go_together_a_little(world):
    assert torch.equal(world.latents("test", 5), world.latents("test", 5))
    assert not torch.equal(world.latents("test", 5), world.latents("train", 5))
    assert Entangled(SMALL, seed=5, monotone=False).latents("test", 5).sub(world.latents("test", 5)).abs().max() > 0.1


def test_what_an_arm_measures_is_relative_to_the_plain_gradient(context):
    world = Entangled(SMALL, seed=4, monotone=False)
    probing = Probing(steps=300, rows=64, hidden=24)
    walking = Walking(channels=2, steps=5, length=3.0)
    arms = ("gradient", "project", "mask", "linear", "linear-projected", "shuffled")
    found = {arm: of_exact(arm, "exact", world, probing, walking, context(arm)) for arm in arms}
    plain = found["gradient"]
    assert (plain["saved"], plain["cost"], plain["relative"], plain["kept"]) == (0.0, 0.0, 1.0, 1.0)
    assert plain["target"] > 1.0 > 0.4 > abs(found["linear"]["target"])
    assert abs(found["shuffled"]["target"]) < 0.5
    assert found["shuffled"]["probe"] < 0.65 < 0.9 < plain["probe"]
    project = found["project"]
    assert project["saved"] == pytest.approx(1 - project["off"] / plain["off"])
    assert project["cost"] == pytest.approx(1 - project["target"] / plain["target"])
    assert project["relative"] > 1.1
    assert project["rotation_gap"] < 1e-3
    projected = found["linear-projected"]
    assert projected["paired"] == pytest.approx(projected["ratio"] / project["ratio"])
    mask = found["mask"]
    assert mask["saved_fewer"] < mask["saved"] < mask["saved_more"]  # 1, 2 and 3 coordinates
    assert mask["cost_fewer"] < mask["cost_more"]
    # Signs of attributes do not cancel.
    assert found["shuffled"]["target_size"] > abs(found["shuffled"]["target"])


def test_all_methods_walk_equally_far(context):
    z = torch.randn(400, 6, generator=generator(0, "z")) * 3
    scores = {"a": z[:, 0], "b": z[:, 1] + z[:, 2], "kind": z[:, 3:]}
    with isolated(0, "probes"):
        probes = LatentProbes(LatentProbesConfig(latent=6, attributes=("a", "b", "kind"), classes=(1, 1, 3)))
    probes.standardise(z)
    to = torch.tensor([1, -1, 1, -1])
    for arm in ARMS:
        method = Method(arm, z, scores, probes, 1.0, Probing(quantile=0.2, linear=0.2), seed=0)
        found = method.walk("a", Walking(steps=4, length=2.0, channels=1))(z[:4], to)
        path = found.path
        assert found.steps.tolist() == [4] * 4
        assert bool((found.kept <= 1).all())
        assert torch.equal(path[0], z[:4])
        steps = (path[1:] - path[:-1]).norm(dim=2)
        assert torch.allclose(steps, 0.5 * probes.scale, rtol=1e-3), arm
        classes = method.walk("kind", Walking(steps=4, length=2.0, channels=1))(z[:4], torch.tensor([0, 1, 2, 0])).path
        assert classes.shape == (5, 4, 6)
        if arm in ("linear", "pca"):
            moved = path[-1] - path[0]
            assert bool((moved[:, 0] * to > 0).all()), arm
            assert bool(((classes[-1] - classes[0])[range(4), [3, 4, 5, 3]] > 0).all()), arm


def test_a_rotated_method_gives_the_same_answers():
    z = torch.randn(50, 6, generator=generator(0, "z"))
    with isolated(0, "probes"):
        probes = LatentProbes(LatentProbesConfig(latent=6, attributes=("a",), classes=(1,)))
    probes.standardise(z + 1)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator(0, "turn")))[0]
    turned = Method("mask", z, {"a": z[:, 0]}, probes, 1.0, Probing(), seed=0).rotated(turn)
    assert torch.allclose(turned.probes.score(z @ turn), probes.score(z), atol=1e-5)


def test_presets_claims_and_measures_belong_together():
    assert set(PRESETS) == {"smoke", "cpu", "gpu", "paper"}
    for claim in CLAIMS:
        for arm, measure in claim.pairs:
            assert arm in ARMS
            assert measure in MEASURES
    with pytest.raises(ConfigError, match=r"digits\.gan\.size"):
        Experiment(digits=DigitsSettings(size=28))
    with pytest.raises(ConfigError, match="above 0"):
        Experiment(comparing=Comparing(thinner=0.0))


def test_an_arm_without_digits_needs_no_data(context, monkeypatch):
    monkeypatch.delenv("LATENT_DATA", raising=False)
    config = replace(
        PRESETS["smoke"], exact=SMALL, walking=Walking(channels=2), digits=DigitsSettings(used=False),
        probing=Probing(steps=20, rows=16),
    )  # fmt: skip
    result = run_arm("mask", config, context("mask"))
    assert {"exact_target", "monotone_target", "rotation_gap"} <= set(result.measures)
    assert set(result.measures) <= set(MEASURES)


def little(**settings):
    return DigitsSettings(
        gan=SmallGANConfig(channels=4, latent=6), training=SmallGANTraining(steps=3, rows=4), judge_steps=40,
        latents=60, rows=4, **settings,
    )  # fmt: skip


# What is measured of digits -------------------------------------------------------------------------------------------


class Plane:
    """A generator whose pictures are their latent states, and a judge that reads them; both are linear."""

    def __init__(self, thicker, thinner):
        self.speeds = {1: torch.tensor(thicker), -1: torch.tensor(thinner)}

    def walk(self, _target, walking):
        """Walks that move thickness and intensity by known amounts in all, and each digit's logit by ten."""

        def go(z, to):
            share = torch.linspace(0, 1, walking.steps + 1)[:, None, None]
            if set(to.tolist()) <= {1, -1}:
                change = torch.stack([self.speeds[int(sign)] for sign in to])
                change = torch.cat([change, torch.zeros(len(z), 10)], 1)
            else:
                change = torch.cat([torch.full((len(z), 2), 0.5), 10 * torch.eye(10)[to]], 1)
            return Walk(z + share * change, torch.full((len(z),), 0.7), torch.full((len(z),), walking.steps - 1))

        return go


class Reads(torch.nn.Module):
    def encode(self, x):
        return x.flatten(1)


class Formula:
    """A world whose formula sees half of the thickness."""

    def measure(self, images):
        return images.flatten(1)[:, :2] * torch.tensor([0.5, 1.0])

    def standardise(self, factors):
        return factors


def plane():
    return Digits(Formula(), lambda name, count: torch.zeros(count, 12), lambda z: z[:, None, None], Reads(), Reads())


def test_thicker_and_thinner_are_measured_apart():
    method = Plane(thicker=[2.0, 1.0], thinner=[-0.2, 0.6])
    found, arrays = gan_multidir_arms._thickness(method, plane(), torch.zeros(6, 12), Walking(steps=8), Comparing())
    assert found["thicker_most"] == pytest.approx(2.0)
    assert found["thicker_intensity"] == pytest.approx(0.5)
    assert found["thicker_digit"] == pytest.approx(0.0)
    assert found["thicker_reached"] == 1.0
    assert found["thinner_most"] == pytest.approx(0.2)
    assert found["thinner_reached"] == 0.0
    assert found["thinner_intensity"] == pytest.approx(0.9)  # .6 for .2, at .3
    assert found["thicker_formula"] == pytest.approx(0.5)
    assert found["formula_most"] == pytest.approx(1.0)
    assert found["formula_intensity"] == pytest.approx(0.3)  # .3 deviations by the formula are .6 by the judge
    assert found["thickness_kept"] == pytest.approx(0.7)
    assert found["thickness_stopped"] == 1.0
    assert arrays["curve"].shape == (2, 3, 9)
    assert arrays["curve"][0, 0, -1] == pytest.approx(2.0)
    assert arrays["curve"][1, 1, -1] == pytest.approx(0.6)
    assert arrays["thickness"].shape[:2] == (4, 9)
    assert arrays["thickness"][2, -1, 0, 0, 0] == pytest.approx(-0.2)


def test_one_sign_that_goes_the_wrong_way_is_seen():
    method = Plane(thicker=[2.0, 0.0], thinner=[0.5, 0.0])
    found, _ = gan_multidir_arms._thickness(method, plane(), torch.zeros(4, 12), Walking(steps=8), Comparing())
    assert found["thicker_most"] == pytest.approx(2.0)
    assert found["thinner_most"] == 0.0
    assert found["thinner_intensity"] != found["thinner_intensity"]  # NaN: there is no price of nothing


def test_the_digit_is_a_probability_that_moved():
    measured = gan_multidir_arms._measured(
        plane(), torch.tensor([[[[0.0, 0, *[0.0] * 9, 50.0]]]]), torch.tensor([[[[0.0, 0, 50.0, *[0.0] * 9]]]])
    )
    assert measured[0, 2] == pytest.approx(1.0)


def test_walks_to_digits_are_compared_where_a_share_of_them_arrived():
    z = torch.zeros(3, 12)
    z[:, 2:] = torch.tensor([4.9, *[0.0] * 9])  # of the digit 0, until another's logit has risen by half of its way
    found, arrays = gan_multidir_arms._classes(Plane([0.0, 0], [0.0, 0]), plane(), z, Walking(steps=100), 0.55)
    assert found["classes_success"] == 1.0
    assert found["classes_off"] == pytest.approx(0.5 * 0.49, abs=0.006)  # a tenth is there at once, the others at .49
    assert arrays["classes"].shape[:2] == (10, 9)


def test_sure_rows_are_told_from_surer_ones():
    logits = torch.tensor([[60.0, 0.0, 0.0], [90.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert logits.softmax(1)[0, 0] == logits.softmax(1)[1, 0]
    odds = gan_multidir_arms._class_odds(logits)
    assert odds[1, 0] > odds[0, 0] + 10
    assert odds.argmax(1).tolist() == [0, 0, 1]
    assert odds[2, 1] == pytest.approx(float(logits[2].softmax(0)[1].logit()), abs=1e-5)


def test_a_judge_of_classes_learns_probabilities():
    images = torch.rand(40, 1, 8, 8, generator=generator(0, "images")) * 2 - 1
    labels = torch.cat([images.mean((2, 3)), torch.tensor([[0.25, 0.75]]).expand(40, -1)], 1)
    with isolated(0, "judge"):
        judge = FactorRegressor(FactorRegressorConfig(size=8, factors=3, widths=(8, 8)))
    learner = FactorRegressorLearner(judge, steps=150, learning_rate=1e-2, classes=2)
    source = FactorPictures(images, labels, rows=40)
    for step in range(150):
        metrics = learner.step(source.batch(step, seed=0, device=torch.device("cpu")), step=step)
    assert set(metrics) == set(FactorRegressorLearner.METRICS)
    assert torch.allclose(judged_like(judge, images), torch.tensor([0.25, 0.75]).expand(40, -1), atol=0.1)


def judged_like(judge, images):
    with torch.no_grad():
        return judge.encode(images)[:, 1:].softmax(1)


@needs_data
def test_judges_were_trained_with_other_digits_and_generators_are_shared(context, monkeypatch):
    from latent.gen.experiments import gan_multidir_worlds

    given = []

    def source(images, labels):
        given.append(images)
        return FactorPictures(images, labels)

    monkeypatch.setattr(gan_multidir_worlds, "FactorPictures", source)
    made = digits(little(), context("one"))
    first, second = ({picture.numpy().tobytes() for picture in images} for images in given)
    assert len(first) > 4000
    assert len(second) > 4000
    assert not first & second
    again = digits(little(), context("two"))
    z = made.latents("test", 3)
    assert torch.equal(z, again.latents("test", 3))
    assert torch.equal(made.decode(z), again.decode(z))
    pairs = zip(made.teacher.parameters(), made.examiner.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)
    assert len(given) == 2
    factors, logits = judged(made.examiner, made.decode(z))
    assert factors.shape == (3, 2)
    assert logits.shape == (3, 10)
    errors = judge_errors(made.examiner, little())
    assert 0 < errors["digit"] < 0.9
    assert 0 < errors["intensity"] < 2.0


@needs_data
def test_a_vae_of_diffusers_takes_the_gans_place(context, tmp_path):
    from diffusers import AutoencoderKL

    with isolated(0, "vae"):
        vae = AutoencoderKL(
            latent_channels=2, norm_num_groups=4, block_out_channels=(4, 8), layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    made = digits(little(backbone=str(tmp_path / "vae"), backbone_size=16), context())
    z = made.latents("test", 3)
    assert z.shape == (3, 2 * 8 * 8)
    assert made.decode(z).shape == (3, 1, 14, 14)
    assert not torch.equal(made.latents("train", 3), z)
