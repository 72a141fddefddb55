"""The experiment of CausalDiffAE: what arms are given, and what is measured of an oracle that answers by the world."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latent.core.errors import ConfigError
from latent.core.hub.auto import AutoLatent
from latent.core.run.context import ArmContext
from latent.core.run.seed import isolated
from latent.gen.experiments import causal_diffae
from latent.gen.experiments.causal_diffae import ARMS, CLAIMS, MEASURES, PRESETS
from latent.gen.experiments.counterfactual_worlds import answers, graph_of, load, reader, world_graph
from latent.gen.worlds.pendulum import Pendulum

CONFIG = PRESETS["cpu"]
TRAINING = replace(CONFIG.pendulum, size=32, tested=40, pictures=100)
GRAPH = Pendulum.graph


@pytest.fixture
def context(tmp_path):
    made = ArmContext(tmp_path / "arm", tmp_path / "shared", "gen/causal-diffae", seed=3)
    yield made
    made.close()


class Oracle:
    """Answers with the pictures that the world itself draws."""

    def __init__(self, data):
        self.data, self.graph = data, data.graph
        self.middle, self.spread, self.space = data.world.middle, data.world.spread, data.world.shape

    def restore(self, deviations, factor):
        return float(self.middle[factor] + deviations * self.spread[factor])

    def invert(self, x):
        return torch.zeros_like(x)

    def encode(self, x):
        return self.data.factors[self._rows(x)]

    def counterfactual(self, x, do):
        return self.counterfactuals(x, [do])[:, 0]

    def counterfactuals(self, x, sets, noise=None, guidance=1.0):
        world, scene = self.data.world, self.data.scene.rows(self._rows(x))
        return torch.stack([world.render(world.intervene(scene, do) if do else scene) for do in sets], dim=1)

    def _rows(self, x):
        """Which of the tested pictures is most like each; a light or a shadow that is set hides no pendulum."""
        return torch.cdist(x.flatten(1), self.data.tested.flatten(1)).argmin(dim=1)


def test_an_oracle_has_the_responses_of_the_truth(context):
    data = load("pendulum", "pendulum", CONFIG, TRAINING, context)
    read = reader("pendulum", CONFIG, TRAINING, context)
    measures, arrays = answers(Oracle(data), data, read, CONFIG, context)
    assert torch.equal(arrays["effects"], arrays["true_effects"])
    assert torch.allclose(arrays["effects"].diagonal(), torch.ones(4), atol=0.1)
    assert arrays["effects"][2, :2].abs().max() < 0.02  # a shadow's length moves neither pendulum nor light
    assert measures["reconstruction"] == 0
    assert measures["effectiveness"] < 0.1
    assert measures["minimality"] < 0.02
    assert measures["informativeness"] > 0.5
    assert arrays["shown"].shape == (8, 10, 3, 32, 32)
    assert arrays["truth"].shape == (8, 8, 3, 32, 32)
    assert torch.equal(arrays["shown"][:, 2:], arrays["truth"])


def test_an_oracle_casts_shadows_where_they_must_be(context):
    data = load("pendulum", "pendulum", CONFIG, TRAINING, context)
    found = causal_diffae._shadows(Oracle(data), data, CONFIG, context)
    assert found["shadow_error"] < 0.15
    assert found["shadow_unset"] > 1.5
    assert found["bob_moved"] < 0.02
    assert found["bob_moved_by_shadow"] < 0.02
    assert found["bob_set"] > 0.5
    assert found["shadow_unseen"] == 0
    assert found["shadow_obeys"] == pytest.approx(1.0, abs=0.05)


def test_a_run_begins_with_a_pipeline_of_diffusers_and_its_model_comes_back(context, tmp_path):
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with isolated(0, "pipeline"):
        unet = UNet2DConditionModel(
            block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12, sample_size=8,
            attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1, mid_block_add_attention=False,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    StableDiffusionPipeline(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(tmp_path / "pipeline")  # fmt: skip
    smoke = PRESETS["smoke"]
    training = replace(
        smoke.pendulum, size=16, pictures=60, steps=2, rows=4,
        model=replace(smoke.pendulum.model, steps=2, encoder_widths=(8,)),
    )  # fmt: skip
    config = replace(smoke, world="pendulum", pendulum=training, backbone=str(tmp_path / "pipeline"))
    result = causal_diffae.run_arm("pendulum", config, context)
    assert set(result.measures) <= set(MEASURES)
    assert result.arrays["shown"].shape[2:] == (3, 16, 16)
    model = AutoLatent.from_pretrained(str(context.folder / "model"))
    assert model.space == (4, 8, 8)
    for name, weight in vae.state_dict().items():
        assert torch.equal(model.autoencoder.state_dict()[name], weight)
    # Two updates move its weights by little: it is the pipeline's network, and no other.
    after, before = model.denoiser.unet.state_dict(), unet.state_dict()
    assert max((after[name] - weight).abs().max() for name, weight in before.items()) < 5 * training.learning_rate
    with pytest.raises(ConfigError, match=r"from 4 to 4 channels .* pictures have 3 channels"):
        causal_diffae.run_arm("pendulum", replace(config, backbone=str(tmp_path / "pipeline" / "unet")), context)


def test_arms_are_told_their_graphs():
    assert graph_of("no-graph", GRAPH).edges == ()
    assert "shadow_length->light_angle" in graph_of("reversed", GRAPH).edges
    for arm in ("scm", "shuffled", "few-labels", "correlated", "pendulum"):
        assert graph_of(arm, GRAPH) == GRAPH


def test_labels_of_other_pictures_and_few_labels(context):
    plain, shuffled, few = (
        load("pendulum", arm, CONFIG, TRAINING, context) for arm in ("scm", "shuffled", "few-labels")
    )
    assert torch.equal(plain.images, shuffled.images)
    assert torch.equal(plain.labels, plain.truth)
    assert not torch.equal(shuffled.labels, plain.labels)
    assert torch.equal(shuffled.labels.sort(dim=0).values, plain.labels.sort(dim=0).values)
    known = ~few.labels.isnan()
    assert 0.02 < known.float().mean() < 0.25
    assert torch.equal(known.all(dim=1), known.any(dim=1))
    assert torch.equal(few.labels[known], plain.labels[known])


def test_tested_pictures_are_not_trained_on(context):
    data = load("pendulum", "scm", CONFIG, replace(TRAINING, pictures=10_000), context)
    trained = {tuple(row) for row in data.truth.tolist()}
    assert not trained & {tuple(row) for row in data.factors.tolist()}


def test_responses_are_those_of_the_first_edge():
    data = type("Data", (), {"world": Pendulum()})()
    table = torch.arange(16.0).view(4, 4)
    arrays = {f"{prefix}effects": table for prefix in causal_diffae.SETTINGS}
    arrays["true_effects"] = table + 0.25
    found = causal_diffae._responses(arrays, data)
    assert found["cause"] == 0  # pendulum_angle on itself
    assert found["passed"] == 2  # on shadow_length
    assert found["leaked"] == 8
    assert found["effect"] == 10
    assert found["obeyed"] == 0
    assert found["wrong_way"] == 8
    assert found["passed_gap"] == pytest.approx(0.25)


@pytest.mark.skipif(
    not (Path(os.environ.get("LATENT_DATA", "")) / "morphomnist_ti").is_dir(), reason="needs morphomnist_ti"
)
def test_the_judge_reads_in_the_deviations_of_the_arm(context):
    """It is trained on digits of another spread than those of the arm with their own intensity."""
    config, training = replace(CONFIG, judge_steps=2), replace(CONFIG.digits, pictures=200, tested=40)
    data = load("morphomnist", "correlated", config, training, context)
    plain, own = (reader("morphomnist", config, training, context, units) for units in (None, data.world))
    base = load("morphomnist", "judge", config, training, context).world
    with torch.no_grad():
        wanted = data.world.standardise(base.restore(plain(data.tested)))
        assert torch.allclose(own(data.tested), wanted, atol=1e-4)
    assert abs(float(data.world.spread[1] / base.spread[1]) - 1) > 0.1


def test_every_claim_is_of_arms_and_measures_that_there_are():
    for claim in CLAIMS:
        assert set(claim.arms) <= set(ARMS)
        for measure in (claim.check.measure, *(control.measure for control in claim.controls)):
            assert measure in MEASURES
    assert world_graph("flow").nodes == ("ball_radius", "water_height", "hole", "jet_reach")
