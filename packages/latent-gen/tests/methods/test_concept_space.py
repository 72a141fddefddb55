"""The generator that is told concepts, its training, checkpoints of diffusers, and the experiment."""

import contextlib
import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from latent.core.errors import ConfigError, Interrupted, ShapeError
from latent.core.hub.format import load_model, save_model
from latent.core.run.context import ArmContext
from latent.core.run.seed import generator, isolated
from latent.core.run.training import fit_in_memory
from latent.gen.concept_trace import ConceptTrace
from latent.gen.experiments import concept_space as module
from latent.gen.experiments.concept_space_asking import ways_of_asking
from latent.gen.experiments.concept_space_measures import of_asking
from latent.gen.experiments.concept_space_runs import (
    Observed,
    Task,
    Training,
    Watching,
    _begin,
    learned,
    observe,
    time_to_learn,
)
from latent.gen.methods.concept_space import ConceptConfig, ConceptGenerator, ConceptLearner, ConceptPictures
from latent.gen.sampling import Sampler
from latent.gen.worlds.circles import Circles

SMALL = ConceptConfig(size=8, widths=(16,), condition=2, hidden=8, steps=4)
CPU = torch.device("cpu")
TWO_LEVELS = json.dumps({
    "sample_size": 4, "in_channels": 12, "out_channels": 12, "block_out_channels": [16, 16], "layers_per_block": 1,
    "norm_num_groups": 4, "add_attention": False, "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
})  # fmt: skip


def small(config=SMALL, seed=0):
    with isolated(seed, "model"):
        return ConceptGenerator(config).eval()


def randn(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name))


# Model ----------------------------------------------------------------------------------------------------------------


def test_pictures_are_a_function_of_noise_and_condition_row_by_row():
    model = small()
    told = randn(3, 2)
    one, again, other = (model.sample(3, condition=told, generator=generator(0, name)) for name in ("a", "a", "b"))
    assert one.shape == (3, 3, 8, 8)
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert not torch.allclose(one, other)
    noise = model.start(3, generator=generator(0, "a"))
    alone = model.decode(noise[1:2], told[1:2])
    torch.testing.assert_close(alone[0], one[1], atol=1e-5, rtol=1e-4)
    for_all = model.sample(3, condition=told[0], generator=generator(0, "a"))
    torch.testing.assert_close(for_all[0], one[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(for_all[1], one[1], atol=1e-4)
    listed = model.sample(3, condition=told.tolist(), generator=generator(0, "a"))
    torch.testing.assert_close(listed, one, rtol=0, atol=0)
    unsaid = model.sample(3, generator=generator(0, "a"))
    torch.testing.assert_close(unsaid, model.decode(noise, torch.zeros(3, 2)))


def test_squares_become_channels_and_pictures_again():
    image = randn(2, 3, 8, 8)
    model = small()
    squares = model.squares(image)
    assert squares.shape == model.start(2).shape == (2, 12, 4, 4)
    torch.testing.assert_close(squares[0, :4, 1, 2], image[0, 0, 2:4, 4:6].flatten())
    whole = small(replace(SMALL, patch=1))
    assert whole.start(1).shape == (1, 3, 8, 8)


def test_guidance_moves_away_from_what_is_said_of_nothing():
    model = small()
    noise, told = model.start(2, generator=generator(0, "a")), torch.ones(2, 2)
    plain, null = (model.denoiser(noise, torch.full((2,), 999), each) for each in (told, torch.zeros(2, 2)))
    seen = []
    model.sampler.decode = lambda denoiser, start, **_: seen.append(denoiser(start, torch.full((2,), 999))) or start
    for scale in (1.0, 0.0, 3.0):
        model.decode(noise, told, guidance=scale)
    for found, scale in zip(seen, (1.0, 0.0, 3.0), strict=True):
        torch.testing.assert_close(found, null + scale * (plain - null), atol=1e-4, rtol=1e-4)


def test_a_generator_in_half_precision_draws():
    drawn = small().bfloat16().sample(2, condition=[1.0, 0.0], generator=generator(0, "a"))
    assert drawn.dtype == torch.bfloat16
    assert bool(drawn.isfinite().all())


def test_a_saved_generator_draws_the_same(tmp_path):
    model = small()
    loaded, _ = load_model(save_model(model, tmp_path, method="gen/concept-space")), None
    drawn = [each.sample(2, condition=torch.ones(2), generator=generator(0, "a")) for each in (model, loaded)]
    torch.testing.assert_close(*drawn, rtol=0, atol=0)


def test_what_does_not_fit_is_refused():
    model = small()
    for condition in (torch.ones(2, 3), torch.ones(3, 2), torch.ones(2)):
        with pytest.raises(ShapeError, match="condition"):
            model.decode(model.start(2), condition)
    with pytest.raises(ConfigError, match="squares of 3"):
        ConceptConfig(size=8, patch=3)
    with pytest.raises(ConfigError, match="condition=0"):
        ConceptConfig(condition=0)
    for settings, words in (({"channels": 1}, "12 to 12 channels"), ({"size": 10}, "sides of 5")):
        with pytest.raises(ConfigError, match=words):
            ConceptGenerator(replace(SMALL, unet=TWO_LEVELS, **settings))
    with pytest.raises(ConfigError, match="config"):
        ConceptGenerator(replace(SMALL, unet="{"))
    images, told, noise, times = (
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 2),
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2).long(),
    )
    for wrong in (
        (images[:, :1], told, noise[:, :1], times), (images, told[:, :1], noise, times),
        (images, told, noise[:, :1], times), (images, told, noise, times[:1]),
    ):  # fmt: skip
        with pytest.raises(ShapeError):
            model.loss(*wrong)
    for text in ("{", "[1]"):
        with pytest.raises(ConfigError, match="JSON"):
            replace(SMALL, scheduler=text)
    with pytest.raises(ConfigError, match="do not divide"):
        replace(SMALL, steps=7)
    with pytest.raises(ShapeError, match="2 pictures and 3 conditions"):
        ConceptPictures(torch.zeros(2, 3, 8, 8), torch.zeros(3, 2))
    for settings in ({"dropped": 1.0}, {"clip": -1.0}, {"weight_decay": -1.0}):
        with pytest.raises(ConfigError, match="dropped"):
            ConceptLearner(model, **settings)


# Training -------------------------------------------------------------------------------------------------------------


def batch(rows=8, **changed):
    source = ConceptPictures(randn(20, 3, 8, 8), randn(20, 2, name="told"), rows=rows)
    return {**source.batch(0, seed=0, device=CPU), **changed}


def test_the_loss_is_that_of_the_prediction():
    given = batch()
    times = torch.arange(8) * 120
    for prediction in ("epsilon", "v_prediction", "sample"):
        model = small(replace(SMALL, prediction=prediction))
        clean = model.squares(given["images"])
        sampler = Sampler(model.config.levels, 4)
        noise = model.squares(given["noise"])
        noisy = sampler.noisy(clean, noise, times)
        predicted = model.denoiser(noisy, times, given["condition"])
        level = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)[times].sqrt()[:, None, None, None]
        velocity = level * noise - (1 - level.square()).sqrt() * clean
        target = {"epsilon": noise, "sample": clean, "v_prediction": velocity}[prediction]
        wanted = (predicted - target).square().mean()
        found = model.loss(given["images"], given["condition"], given["noise"], times)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    level = torch.tensor([0.0, 0.12, 0.24, 0.36, 0.48, 0.6, 0.72, 0.8401])
    stepped = ConceptLearner(small()).step(batch(level=level), step=0)["loss"]
    wanted = small().loss(given["images"], given["condition"], given["noise"], (level * 1000).long())
    torch.testing.assert_close(stepped, wanted.detach(), atol=1e-5, rtol=1e-4)


def test_dropped_conditions_say_nothing_and_only_they():
    losses = []
    for dropped, chance in ((0.5, torch.zeros(8)), (0.5, torch.ones(8)), (0.0, torch.zeros(8))):
        given = batch(chance=chance)
        losses.append(float(ConceptLearner(small(), dropped=dropped).step(given, step=0)["loss"]))
    unsaid = float(ConceptLearner(small()).step(batch(condition=torch.zeros(8, 2)), step=0)["loss"])
    assert losses[0] == pytest.approx(unsaid, rel=1e-6)
    assert losses[1] == losses[2] != losses[0]


def test_a_clipped_step_reports_the_norm_before_and_moves_alike():
    plain, clipped = ConceptLearner(small()), ConceptLearner(small(), clip=1e-3)
    rows = [learner.step(batch(), step=0) for learner in (plain, clipped)]
    torch.testing.assert_close(rows[0]["gradient"], rows[1]["gradient"])
    assert float(rows[0]["gradient"]) > 1e-2
    left = sum(weight.grad.square().sum() for weight in clipped.model.parameters()).sqrt()
    assert float(left) == pytest.approx(1e-3, rel=1e-2)


def test_weights_decay_apart_from_the_gradient():
    plain, decayed = (ConceptLearner(small(), learning_rate=0.1, weight_decay=each) for each in (0.0, 0.5))
    before = [weight.detach().clone() for weight in plain.model.parameters()]
    for learner in (plain, decayed):
        learner.step(batch(), step=0)
    for old, one, two in zip(before, plain.model.parameters(), decayed.model.parameters(), strict=True):
        torch.testing.assert_close(two, one - 0.1 * 0.5 * old, atol=1e-5, rtol=1e-4)


def test_batches_pair_pictures_with_what_they_show():
    told = torch.arange(20.0)[:, None].expand(-1, 2)
    images = told[:, :1, None, None].expand(-1, 3, 8, 8)
    source = ConceptPictures(images, told, rows=50)
    first, again, next_one = (source.batch(step, seed=0, device=CPU) for step in (3, 3, 4))
    assert torch.equal(first["images"][:, 0, 0, 0], first["condition"][:, 0])
    assert len(first["condition"].unique()) > 10
    for key in first:
        assert torch.equal(first[key], again[key]), key
        assert not torch.equal(first[key], next_one[key]), key
    assert 0 <= float(first["level"].min()) < 0.1 < 0.9 < float(first["level"].max()) < 1


def test_training_in_half_precision_is_finite():
    learner = ConceptLearner(small(), dtype=torch.bfloat16)
    for step in range(2):
        assert bool(learner.step(batch(), step=step)["loss"].isfinite())
    assert learner.model.denoiser.unet.conv_in.weight.dtype == torch.float32


# Checkpoints of diffusers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    with isolated(1, "unet"):
        unet = UNet2DModel(
            sample_size=16, block_out_channels=(16,), layers_per_block=1, norm_num_groups=4, add_attention=False,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")).save_pretrained(
        folder
    )
    return folder


def test_a_checkpoint_without_conditions_begins_as_it_was(pipeline, tmp_path):
    model = ConceptGenerator.from_backbone(pipeline, condition=5, steps=4)
    unet = UNet2DModel.from_pretrained(pipeline / "unet").eval()
    noise = model.start(2, generator=generator(0, "a"))
    drawn = model.decode(noise, randn(2, 5))
    config = json.loads((pipeline / "scheduler" / "scheduler_config.json").read_text())
    with torch.no_grad():
        wanted = Sampler(config, 4).decode(lambda noisy, times: unet(noisy, times).sample, noise)
    torch.testing.assert_close(drawn, wanted, atol=1e-5, rtol=1e-4)
    assert model.sampler.levels == 100
    # It can be trained, saved and loaded as any other: its config builds it.
    images, told = randn(12, 3, 16, 16), randn(12, 5)
    source = ConceptPictures(images, told, rows=6)
    fit_in_memory(ConceptLearner(model), source, steps=3, seed=0, device=CPU)
    model.eval()
    trained = model.decode(noise, randn(2, 5))
    assert not torch.allclose(trained, model.decode(noise, torch.zeros(2, 5)), atol=1e-4)
    loaded = load_model(save_model(model, tmp_path / "saved", method="gen/concept-space"))
    torch.testing.assert_close(loaded.decode(noise, randn(2, 5)), trained, rtol=0, atol=0)


def test_a_checkpoint_whose_pictures_have_no_size_is_refused(tmp_path):
    UNet2DModel(
        block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, add_attention=False,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ConfigError, match="size None"):
        ConceptGenerator.from_backbone(tmp_path, condition=5)


# Experiment -----------------------------------------------------------------------------------------------------------


QUICK = module.PRESETS["smoke"]


@pytest.fixture(scope="module")
def context():
    """Make contexts of arms, which are closed in the end."""
    with contextlib.ExitStack() as opened:

        def make(folder):
            arm = ArmContext(folder=folder / "arm", shared=folder / "shared", method="gen/concept-space", seed=0)
            opened.callback(arm.close)
            return arm

        yield make


@pytest.fixture(scope="module")
def weak(tmp_path_factory, context):
    """An arm that was run to its end, with its folder."""
    folder = tmp_path_factory.mktemp("weak")
    return module.run_arm("weak", QUICK, context(folder)), folder


def test_an_arm_measures_what_claims_ask_for(weak):
    result, _ = weak
    wanted = {measure for claim in module.CLAIMS for arm, measure in claim.pairs if arm == "weak"}
    assert wanted <= set(result.measures)
    assert set(result.measures) <= set(module.MEASURES)
    assert result.arrays["path"].shape == (3, 4, 2)
    assert result.arrays["held"].shape == (3, 4, 6, 3, 16, 16)
    assert result.arrays["at"].tolist() == [20, 40, 60]
    for family in ("naive", "overprompt", "latent", "h-space", "irrelevant", "random"):
        assert result.arrays[f"joint-{family}"].shape == (3,)
        assert result.arrays[f"ways-{family}"].shape == (3, 6, 3, 16, 16)
    assert result.measures["signal_colour"] < result.measures["signal_size"]


def test_an_arm_that_was_stopped_is_bitwise_the_one_that_was_not(weak, tmp_path, context):
    result, _ = weak
    stopped = context(tmp_path)
    done = []

    def progress(_task, at, _total, _note=""):
        done.append(at)
        stopped.stop.requested = at >= 50 and len(done) < 1000

    stopped.progress.update = progress
    with pytest.raises(Interrupted):
        module.run_arm("weak", QUICK, stopped)
    again = module.run_arm("weak", QUICK, context(tmp_path))
    assert again.measures == result.measures
    for key, value in result.arrays.items():
        assert torch.equal(again.arrays[key], value), key


def test_permuted_descriptions_belong_to_other_pictures(tmp_path, context):
    training = replace(QUICK.training, pictures=40)
    sources = [
        _begin(training, Task(0.8, 0.3, permuted=permuted), context(tmp_path / str(permuted)))[2]
        for permuted in (False, True)
    ]
    assert torch.equal(sources[0].images, sources[1].images)
    assert not torch.equal(sources[0].condition, sources[1].condition)
    assert torch.equal(sources[0].condition.sort(dim=0).values, sources[1].condition.sort(dim=0).values)


def test_an_arm_may_begin_with_a_checkpoint_of_diffusers(pipeline, tmp_path, context):
    training = replace(QUICK.training, backbone=str(pipeline), pictures=40)
    model, learner, source, world = _begin(training, Task(0.8, 0.3), context(tmp_path))
    assert (model.sampler.levels, model.config.patch, world.shape) == (100, 1, (3, 16, 16))
    before = model.sample(2, condition=world.prompt("11"), generator=generator(0, "a"))
    fit_in_memory(learner, source, steps=2, seed=0, device=CPU)
    after = model.sample(2, condition=world.prompt("11"), generator=generator(0, "a"))
    assert not torch.allclose(before, after, atol=1e-4)


def test_a_generator_that_obeys_is_seen_to_obey(tmp_path, context):
    """A generator that draws what it is told, but that small circles are always red."""
    task = Task(0.8, 0.4)
    world = task.world()

    def obeys(_model, noise, condition):
        scene = world.draw_class("00", len(noise), generator=generator(0, "obeys"))
        blue, small = condition[:, 2] - condition[:, 0], condition[:, 3] < 0.45
        scene.factors[:, 0] = torch.where(small, torch.full_like(blue, -0.6), blue)  # as it was trained
        scene.factors[:, 1] = condition[:, 3]
        return world.render(scene)

    watching = Watching(every=4, elicit_every=4, samples=12, early=4, window=4, over=(0.9,), alphas=(1.0,))
    training = replace(QUICK.training, model=replace(QUICK.training.model, steps=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConceptGenerator, "decode", obeys)
        seen = observe(training, watching, task, 12, context(tmp_path), families=("naive", "overprompt"))
    assert seen.trace.contrasts().tolist() == [[1.0, 1.0]] * 3
    assert [learned(seen.trace, concept) for concept in range(2)] == [4, 4]
    assert seen.trace.path()[0].tolist() == [[0, 0], [0, 1], [1, 0], [0, 1]]  # blue small is drawn as red small
    measures = module.of_trace(seen.trace, watching, 12, 0)
    assert measures["leaning"] == -1
    # What does not move does not turn, and what is never learned takes all updates.
    assert (measures["turn"], measures["turn_sharpness"]) == (12, 0)
    assert (measures["held_colour"], measures["held_size"]) == (12, 4)
    assert seen.joint("naive").tolist() == [0, 0, 0]
    assert seen.concept("naive", 1).tolist() == [1, 1, 1]


def test_the_law_stops_when_colours_are_learned(tmp_path, context):
    quick = replace(QUICK.training, model=replace(QUICK.training.model, steps=2))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        # Right from the third checkpoint on, wrong in half of the pictures before.
        def measured(_world, pictures):
            made.append(len(pictures))
            colour = torch.tensor([-1.0, 1.0]).repeat_interleave(len(pictures) // 2)
            colour[: len(pictures) // 4] *= 1 if len(made) > 2 else -1
            return torch.stack([colour, colour, colour], dim=1)

        patch.setattr(Circles, "measure", measured)
        arguments = {"every": 4, "samples": 8, "name": "colour"}
        assert time_to_learn(quick, Task(0.8, 0.3), context(tmp_path), most=400, **arguments) == 12
        assert len(made) == 5  # the third, and two more that confirm it
        made.clear()
        assert time_to_learn(quick, Task(0.8, 0.3), context(tmp_path / "late"), most=8, **arguments) == 8
    law = replace(QUICK, training=quick, law=replace(QUICK.law, every=4, most=8, samples=4))
    result = module.run_arm("law", law, context(tmp_path / "law"))
    assert result.arrays["law"].shape == (3, 3)
    assert set(result.measures) <= set(module.MEASURES)


def test_a_law_that_was_stopped_is_the_one_that_was_not(tmp_path, context):
    """Colours are learned after 12 updates here; the second one is stopped after 10."""

    def measured(world, pictures):
        calls.append(1)
        colour = torch.tensor([-1.0, 1.0]).repeat_interleave(len(pictures) // 2)
        return torch.stack([colour, colour, colour + pictures.mean()], dim=1)

    quick = replace(QUICK.training, model=replace(QUICK.training.model, steps=2))
    law = replace(QUICK, training=quick, law=replace(QUICK.law, every=4, most=400, samples=4))
    calls, rows = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Circles, "measure", measured)
        whole = module.run_arm("law", law, context(tmp_path / "whole"))
        assert len(calls) == 3 * 3
        calls.clear()
        stopped = context(tmp_path / "stopped")
        stopped.checkpoint_steps = 2

        def look(_world, pictures):
            stopped.stop.requested = len(calls) == 4
            return measured(_world, pictures)

        patch.setattr(Circles, "measure", look)
        with pytest.raises(Interrupted):
            module.run_arm("law", law, stopped)
        patch.setattr(Circles, "measure", measured)
        resumed = context(tmp_path / "stopped")
        again = module.run_arm("law", law, resumed)
    assert len(calls) == 3 * 3  # no checkpoint was looked at twice
    assert again.measures == whole.measures
    assert torch.equal(again.arrays["law"], whole.arrays["law"])
    for folder in ("whole", "stopped"):
        lines = (tmp_path / folder / "arm" / "metrics.jsonl").read_text().splitlines()
        rows.append([json.loads(line) for line in lines])
    assert rows[0] == rows[1]


def fabricated(right, tried=None, at=(10, 20, 30)):
    """Return what was observed where families were right in these shares of pictures, of 20, in both concepts."""

    def pictures(shares):
        made = torch.zeros(len(at), 20, 2, dtype=torch.bool)
        for place, share in enumerate(shares):
            made[place, : round(20 * share)] = True
        return made

    tried = {**right, **(tried or {})}
    halves = [{key: pictures(value) for key, value in half.items()} for half in (tried, right)]
    moved = {key: torch.full((len(at), 2), 0.5) for key in right}
    nothing = torch.zeros(0)
    return Observed(ConceptTrace(("00",)), list(at), *halves, moved, nothing, {})


def test_gaps_are_where_the_other_half_saw_them_and_late_enough():
    seen = fabricated(
        {"naive": (0.0, 0.2, 0.1), "overprompt": (1.0, 0.6, 0.9), "latent": (0.0, 0.3, 0.2)},
        tried={"overprompt": (1.0, 0.9, 0.6), "naive": (0.0, 0.0, 0.0), "latent": (0.0, 0.1, 0.4)},
    )
    measures = of_asking(seen, Watching(window=20, every=10, early=10, elicit_every=10), 30)
    # At 10 the gap is widest, but that is before the window; at 30 it is widest on the half that is reported.
    assert measures["gap_step"] == 20
    assert measures["gap_over"] == pytest.approx(0.6 - 0.2)
    assert (measures["gap_naive_blue"], measures["gap_over_blue"]) == pytest.approx((0.2, 0.6))
    assert measures["gap_latent"] == pytest.approx(0.2 - 0.1)  # at 30
    assert measures["gain_over"] == pytest.approx((1.0 + 0.4 + 0.8) / 3)
    assert measures["gap_small"] == pytest.approx(0.2)
    assert measures["moved_over"] == measures["moved_latent"] == 0.5
    assert seen.widest("overprompt", 0) == 0


def test_what_it_can_do_is_chosen_apart_from_what_is_reported():
    shares = {"naive": (0.0, 0.0, 0.9), "overprompt": (0.9, 0.0, 0.9), "latent": (0.0, 0.9, 0.9)}
    tried = {"overprompt": (0.1, 0.2, 0.9), "latent": (0.2, 0.1, 0.8)}
    measures = of_asking(fabricated(shares, tried), Watching(window=20, every=10, early=10, elicit_every=10), 30)
    assert measures["capable"] == measures["behaves"] == 30  # the lucky family of the reported half was not chosen
    measures = of_asking(fabricated(shares), Watching(window=20, every=10, early=10, elicit_every=10), 30)
    assert measures["capable"] == 10


def test_controls_move_the_embedding_as_far_as_what_they_control(tmp_path, context):
    arm = context(tmp_path)
    model, learner, source, world = _begin(replace(QUICK.training, pictures=40), Task(0.2, 0.3), arm)
    fit_in_memory(learner, source, steps=20, seed=0, device=CPU)
    model.eval()
    state = torch.get_rng_state()
    ways = ways_of_asking(model, world, over=(0.1, 0.3, 0.9), alphas=(1.0, 3.0), draws=2, seed=0, step=50)
    families = {family.name: family.attempts for family in ways}
    assert [attempt.name for attempt in families["overprompt"]] == ["0.3", "0.9"]
    assert torch.equal(torch.get_rng_state(), state)
    plain, told = world.prompt("11"), model.denoiser.embed
    with torch.no_grad():
        for over, other in zip(families["overprompt"], families["irrelevant"], strict=True):
            far, near = ((told(each.prompt[None]) - told(plain[None])).norm() for each in (over, other))
            torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-6)
            assert torch.equal(other.prompt[:4], plain[:4])
        # From each trained neighbour along what it lacks: red small becomes blue, blue big becomes small.
        for attempt, start, lacks in zip(families["latent"][::2], ("01", "10"), ("10", "01"), strict=True):
            direction = (told(world.prompt(lacks)[None]) - told(world.prompt("00")[None]))[0]
            torch.testing.assert_close(attempt.shift.vector, direction, atol=1e-5, rtol=1e-4)
            assert torch.equal(attempt.prompt, world.prompt(start))
    lengths = {attempt.name: attempt.shift.vector.norm() for attempt in families["latent"]}
    assert float(lengths["01 +1"]) != pytest.approx(float(lengths["10 +1"]), rel=0.01)
    assert len(families["random"]) == 2 * len(families["latent"])
    for attempt in families["random"]:
        start, _, alpha = attempt.name.split()
        torch.testing.assert_close(attempt.shift.vector.norm(), lengths[f"{start} {alpha}"])
        assert torch.equal(attempt.prompt, world.prompt(start))
    one, two = (attempt.shift.vector for attempt in families["random"][:3:2])
    assert abs(float(torch.cosine_similarity(one, two, dim=0))) < 0.9


def test_generators_of_something_else_than_circles_are_refused(tmp_path, context):
    for settings in ({"channels": 1}, {"condition": 4}):
        training = replace(QUICK.training, model=replace(QUICK.training.model, **settings))
        with pytest.raises(ConfigError, match="circles have 3 and 5"):
            _begin(training, Task(0.8, 0.3), context(tmp_path / str(settings)))


def test_claims_name_what_arms_measure():
    for claim in module.CLAIMS:
        for arm, measure in claim.pairs:
            assert arm in module.ARMS
            assert measure in module.MEASURES
    assert {arm for claim in module.CLAIMS for arm in claim.arms} == set(module.ARMS)


def test_settings_that_measure_nothing_are_refused():
    with pytest.raises(ConfigError, match="end before"):
        module.Experiment(steps=100)
    with pytest.raises(ConfigError, match="multiple"):
        Watching(elicit_every=75)
    with pytest.raises(ConfigError, match="samples"):
        Watching(samples=13)
    with pytest.raises(ConfigError, match="draws=0"):
        Watching(draws=0)
    with pytest.raises(ConfigError, match="three"):
        replace(module.Experiment(), law=replace(module.Experiment().law, colours=(0.1, 0.2)))
    assert Training().model.condition == len(Circles().prompt("00"))
