"""The generators of the experiment, and its arms where the answer is known."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latent.core.errors import ConfigError
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.gen.experiments.gan_multidir import ARMS, CLAIMS, MEASURES, PRESETS, Experiment, run_arm
from latent.gen.experiments.gan_multidir_arms import Method, Probing, Walking, of_exact
from latent.gen.experiments.gan_multidir_worlds import DigitsSettings, Entangled, EntangledSettings, digits, judged
from latent.gen.methods.gan_multidir import LatentProbes, LatentProbesConfig
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
    found = {
        arm: of_exact(arm, "exact", world, probing, walking, context(arm))
        for arm in ("gradient", "project", "linear", "shuffled")
    }
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


def test_all_methods_walk_equally_far(context):
    z = torch.randn(400, 6, generator=generator(0, "z")) * 3
    scores = {"a": z[:, 0], "b": z[:, 1] + z[:, 2], "kind": z[:, 3:]}
    with isolated(0, "probes"):
        probes = LatentProbes(LatentProbesConfig(latent=6, attributes=("a", "b", "kind"), classes=(1, 1, 3)))
    probes.standardise(z)
    to = torch.tensor([1, -1, 1, -1])
    for arm in ARMS:
        method = Method(arm, z, scores, probes, 1.0, Probing(quantile=0.2), seed=0)
        path, _ = method.walk("a", Walking(steps=4, length=2.0, channels=1))(z[:4], to)
        assert torch.equal(path[0], z[:4])
        steps = (path[1:] - path[:-1]).norm(dim=2)
        assert torch.allclose(steps, 0.5 * probes.scale, rtol=1e-3), arm
        classes, _ = method.walk("kind", Walking(steps=4, length=2.0, channels=1))(z[:4], torch.tensor([0, 1, 2, 0]))
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


@needs_data
def test_judges_were_trained_with_other_digits_and_generators_are_shared(context):
    made = digits(little(), context("one"))
    again = digits(little(), context("two"))
    z = made.latents("test", 3)
    assert torch.equal(z, again.latents("test", 3))
    assert torch.equal(made.decode(z), again.decode(z))
    pairs = zip(made.teacher.parameters(), made.examiner.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)
    factors, shares = judged(made.examiner, made.decode(z))
    assert factors.shape == (3, 2)
    assert shares.shape == (3, 10)
    assert bool(((shares >= 0) & (shares <= 1)).all())
    other = digits(little(), context("three"), correlated=True)
    assert not torch.equal(other.decode(z), made.decode(z))


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
