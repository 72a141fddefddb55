"""The experiments run from end to end, and choose as they say."""

import json

import pytest
import torch

from latent.core.activations import Clamp, capture
from latent.core.errors import ConfigError
from latent.core.hub.auto import AutoLatent
from latent.core.language import Backbone
from latent.core.language.training import byte_tokenizer, small_llama
from latent.core.run.runner import RunOptions, start
from latent.steer.backbones import BUNDLED
from latent.steer.data.code import chunks, cpp_headers, python_library, text_of
from latent.steer.evaluation import Writing
from latent.steer.experiments import g_act, modes, steering
from latent.steer.experiments.code import Code, CodeConfig, Mixture, activations
from latent.steer.experiments.steering import SteeringConfig
from latent.steer.judge import BigramJudge

TINY = {"text_count": 120, "pairs": 16, "held_out": 6, "samples": 2, "length": 16, "strengths": [0.3]}


@pytest.mark.parametrize(
    ("method", "arms"),
    [("steer/caa", ("caa", "bias", "none", "shuffled")), ("steer/repe-pca", ("repe-pca", "none", "centred"))],
)
def test_an_experiment_on_directions_runs(method, arms, tmp_path):
    folder = str(BUNDLED["stories260k"])  # by its path, as any other model
    options = RunOptions(preset="smoke", arms=arms, jobs=1)
    report = start(method, folder=tmp_path / "run", options=options, layers=[TINY, {"backbone": folder}])
    slug = method.split("/")[1]
    assert {row[0] for row in report.tables[0].rows} == set(arms)
    assert 0 <= report.numbers[f"{slug} effect"] <= 1
    assert report.numbers["none damage"] > 0
    direction = AutoLatent.from_pretrained(tmp_path / "run" / "model")
    assert direction.config.site.endswith("resid_post")
    assert direction.config.model_name == folder
    side_by_side = next(table for table in report.tables if "side by side" in table.title)
    assert len(side_by_side.rows) == 4
    assert {"frontier", "frontier-held-out"} <= {figure.name for figure in report.figures}


def test_the_greatest_swing_within_the_limit_is_chosen():
    swings = torch.tensor([[0.1, 0.9], [0.5, 0.4]])
    assert steering._best(swings, torch.tensor([[1.0, 3.0], [1.2, 1.4]]), 1.5) == (1, 0)
    assert steering._best(swings, torch.tensor([[1.0, 1.3], [1.2, 1.4]]), 1.5) == (0, 1)
    assert steering._best(swings, torch.tensor([[4.0, 3.0], [2.0, 5.0]]), 1.5) == (1, 0), "the least damage"


def test_settings_that_make_no_sense_are_refused():
    nan = float("nan")
    for wrong in (
        {"strengths": (0.0,)}, {"strengths": (nan,)}, {"damage": nan}, {"temperature": -1.0}, {"tokens": "first"},
        {"prompts": ()}, {"samples": 1},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            SteeringConfig(**wrong)
    for wrong in ({"share": 1.0}, {"skipped": 81}):
        with pytest.raises(ConfigError):
            CodeConfig(**wrong)


def test_code_is_real_and_in_a_fixed_order():
    python, cpp = text_of(python_library(), 20_000), text_of(cpp_headers(), 20_000)
    assert len(python) == len(cpp) == 20_000
    assert python == text_of(python_library(), 20_000)
    assert python.count(b"def ") > cpp.count(b"def ") + 5
    assert cpp.count(b"::") > python.count(b"::") + 5
    assert [len(piece.encode()) for piece in chunks(b"abcdefgh", 4, 3)] == [4, 4, 4]
    assert chunks(b"abcdefgh", 4, 3) == ["abcd", "cdef", "efgh"]


def test_windows_mix_both_texts_in_their_share():
    texts = (torch.full((100,), 5), torch.full((100,), 7))
    batch = Mixture(texts, share=0.25, rows=2000, window=4).batch(3, seed=0, device=torch.device("cpu"))["input_ids"]
    assert batch.shape == (2000, 5)
    assert batch[:, 0].tolist() == [1] * 2000
    assert float((batch[:, 1] == 7).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert bool((batch[:, 1:] == batch[:, 1:2]).all())


def test_labels_of_the_modes_are_opposite():
    batch = modes.ModeTexts(400).batch(0, seed=0, device=torch.device("cpu"))
    ids = batch["input_ids"]
    mode, kind, label = ids[:, 1] - 3, (ids[:, 2] - 8) // 8, ids[:, 6] - 6
    assert bool(((label == (mode ^ kind)) | (kind == 2)).all())
    fillers = label[kind == 2].float().mean()
    assert 0.3 < float(fillers) < 0.7
    assert batch["labels"][:, :6].unique().tolist() == [-100]
    assert torch.equal(batch["labels"][:, 6], ids[:, 6])
    opening = modes.openings("good", 4, seed=0, device=torch.device("cpu"))["input_ids"]
    logits = torch.zeros(4, 40)
    logits[[0, 2], 6], logits[[1, 3], 7] = 9.0, 9.0  # yes in mode A, no in mode B: good
    assert modes.goodness(opening, logits) > 0.99
    assert modes.goodness(opening, -logits) < 0.01


@pytest.fixture
def code(backbone):
    texts = ["Once upon a time there was", "The dog is big. He was very", "A cat."]
    judge = BigramJudge.fit(texts * 4, [text.upper() for text in texts] * 4)
    return Code(backbone, texts * 4, [text.upper() for text in texts] * 4, judge, Writing(("The",), 3, 8))


def test_a_model_that_writes_nothing_of_the_known_contrasts_is_steered_by_pairs_of_ones_own(tmp_path):
    model = Backbone(small_llama(0, vocabulary=259, width=32, layers=2).eval(), byte_tokenizer(), "noise")
    sides = {"positive": [f"I love {i}" for i in range(16)], "negative": [f"I hate {i}" for i in range(16)]}
    (tmp_path / "mine.json").write_text(json.dumps(sides | {"words": {"positive": ["love"], "negative": ["hate"]}}))
    given = {"backbone": str(model.save(tmp_path / "model")), "contrast": str(tmp_path / "mine.json"), **TINY}
    report = start(
        "steer/caa", folder=tmp_path / "run", layers=[given], options=RunOptions(preset="smoke", arms=("caa",), jobs=1)
    )
    assert "off-target" not in [figure.name for figure in report.figures]


def test_activations_leave_the_beginning_out(code):
    found = activations(code, code.target[:3], "resid_post", 2)
    assert found.shape == (5, 3, 64)
    inputs = code.backbone.encode([f"<s>{code.target[1]}"])
    with torch.no_grad(), capture(code.backbone.model, "layers.3.resid_post") as acts:
        code.backbone.model(**inputs)
    torch.testing.assert_close(found[3, 1], acts["layers.3.resid_post"][0, 3:].mean(0), atol=1e-4, rtol=1e-4)


def test_arms_act_at_the_layers_of_a_setting_alone(code):
    config = g_act.Experiment(code=CodeConfig(skipped=2), vector_steps=2)
    for arm in ("g-act", "mean", "gradient", "random", "permuted"):
        make, settings, known = g_act.makers(arm, code, config, seed=0)
        strength = settings[-1][1]
        if arm in ("mean", "random"):
            assert known["cosine"] == pytest.approx(1, abs=1e-5) if arm == "mean" else known["cosine"] < 0.5
        with torch.no_grad(), capture(code.backbone.model, "layers.*.resid_post") as plain:
            code.backbone.model(**code.backbone.encode(["The"] * 6))
        steering = g_act._steering(
            code, make, [((), 0.0), ((1,), strength)] if arm == "gradient" else [((), 0.0), ((2,), strength)]
        )
        with torch.no_grad(), steering, capture(code.backbone.model, "layers.*.resid_post") as acts:
            code.backbone.model(**code.backbone.encode(["The"] * 6))
        site = "layers.1.resid_post" if arm == "gradient" else "layers.2.resid_post"
        assert torch.equal(acts[site][:3], plain[site][:3]), "rows of the first setting stay"
        assert not torch.equal(acts[site][3:], plain[site][3:])
        assert torch.equal(acts["layers.0.resid_post"], plain["layers.0.resid_post"])
    make, settings, _ = g_act.makers("neuron", code, config, seed=0)
    site, op = make(0, torch.tensor([0.0, 2.0]))
    assert isinstance(op, Clamp)
    assert site.endswith("mlp_act")
    assert op.strength.tolist() == [0.0, 1.0]
    last = settings[-1][0][0]
    assert last == 5, "of six neurons, more than the model has layers"
    with torch.no_grad(), capture(code.backbone.model, "layers.*.mlp_act") as plain:
        code.backbone.model(**code.backbone.encode(["The"] * 6))
    steering = g_act._steering(code, make, [((), 0.0), ((last,), 2.0)])
    with torch.no_grad(), steering, capture(code.backbone.model, "layers.*.mlp_act") as acts:
        code.backbone.model(**code.backbone.encode(["The"] * 6))
    changed = [(acts[name] != plain[name]).any(1) for name in plain.passes[0]]
    assert not any(rows[:3].any() for rows in changed)
    assert next(rows for rows in changed if rows.any())[3:].sum(1).tolist() == [1, 1, 1], "one neuron of each row"
