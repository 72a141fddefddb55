"""`latent counterfactual`: files, values, sweeps, and mistakes in two lines."""

import shutil

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from latent.core.errors import ConfigError, FormatError, UnknownName
from latent.core.hub.format import save_model
from latent.core.run.seed import generator, isolated
from latent.core.testing.directions import direction
from latent.gen import editing
from latent.gen.cli import counterfactual
from latent.gen.methods.causal_diffae import CausalDiffAE, CausalDiffAEConfig
from latent.gen.pictures import parameters_of, save_png


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an untrained model of three factors and five pictures."""
    folder = tmp_path_factory.mktemp("run")
    config = CausalDiffAEConfig(
        factors=("angle", "light", "shadow"), edges=("angle->shadow", "light->shadow"), middle=(0.0, 1.5, 5.0),
        spread=(0.4, 0.5, 2.0), channels=3, size=8, block=2, encoder_widths=(8,), widths=(8, 16),
        prediction="v_prediction", steps=4,
    )  # fmt: skip
    with isolated(0, "test"):
        model = CausalDiffAE(config)
    save_model(model, folder / "model", method="gen/causal-diffae")
    images = torch.rand(5, 3, 8, 8, generator=generator(1)) * 2 - 1
    save_file({"images": images}, folder / editing.EXAMPLES)
    return folder


@pytest.fixture(scope="module")
def model(run):
    return editing.load(str(run), device="cpu")[0]


def call(*words):
    return CliRunner().invoke(counterfactual, [str(word) for word in words])


def test_every_picture_is_a_file_that_knows_what_was_set(run, tmp_path):
    done = call(run, "--do", "angle=0.5", "--do", "light=+1sd,shadow=3", "--count", 2, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(names) == 1 + 2 * 4
    assert {"grid.png", "0-0-original.png", "1-2-angle=0.5.png", "1-3-light=2_shadow=3.png"} <= names
    known = parameters_of(tmp_path / "out" / "1-2-angle=0.5.png")
    assert known["do"] == {"angle": 0.5}
    assert known["command"].endswith(f"--count 2 --out {tmp_path / 'out'}")
    assert "--do angle=0.5 --do light=+1sd,shadow=3" in known["command"]
    assert known["picture"] == 1
    assert known["edges"] == ["angle->shadow", "light->shadow"]
    assert known["noise"] == "inverted"
    assert "mean squared error" in done.output


def test_the_files_hold_what_the_model_answers(run, model, tmp_path):
    call(run, "--do", "angle=0.5", "--count", 3, "--guidance", 2, "--out", tmp_path)
    images = editing.examples(run / editing.EXAMPLES, 3)
    with torch.no_grad():
        wanted = model.counterfactuals(images, [{"angle": 0.5}], guidance=2.0)[:, 0]
    stored = editing.read_pictures(model, [tmp_path / f"{row}-2-angle=0.5.png" for row in range(3)])
    assert (stored - wanted.clamp(-1, 1)).abs().max() < 0.02


def test_a_sweep_is_an_animation_there_and_back(run, tmp_path):
    done = call(run, "--do", "light=1", "--sweep", "angle=-1sd:+1sd:5", "--count", 2, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "animation.png") as opened:
        assert opened.n_frames == 8  # of the sweep alone
    assert (tmp_path / "1-3-angle=-0.4.png").exists()
    assert (tmp_path / "1-6-angle=0.2.png").exists()


def test_values_that_differ_by_little_are_files_of_their_own(run, tmp_path):
    call(run, "--sweep", "shadow=5.001:5.004:4", "--do", "angle=1", "--count", 1, "--out", tmp_path)
    assert len(list(tmp_path.glob("0-*.png"))) == 2 + 1 + 4
    assert parameters_of(tmp_path / "0-4-shadow=5.png")["do"] == {"shadow": pytest.approx(5.002)}


def test_pictures_of_ones_own_are_scaled_to_the_model(run, model, tmp_path):
    big = torch.full((3, 16, 16), -1.0)
    big[:, :, 8:] = 1.0
    path = save_png(big, tmp_path / "big.png", {})
    read = editing.read_pictures(model, [path])
    assert read.shape == (1, 3, 8, 8)
    assert (read[..., :3] == -1).all()
    assert (read[..., 5:] == 1).all()
    done = call(run, "--do", "angle=0", "--image", path, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "0-2-angle=0.png").exists()


def test_random_noise_depends_on_the_seed_and_nothing_else(model, run):
    images = editing.examples(run / editing.EXAMPLES, 4)
    made = [
        editing.edit_pictures(model, images, [{"angle": 0.1}], noise="random", seed=seed, batch=batch).counterfactual
        for seed, batch in ((1, 4), (1, 2), (2, 4))
    ]
    assert torch.allclose(made[0], made[1], atol=1e-4)
    assert (made[0] - made[2]).abs().max() > 0.1


def test_a_batch_that_does_not_fit_is_halved_and_said(model, run, monkeypatch):
    images, said, whole = editing.examples(run / editing.EXAMPLES, 4), [], model.counterfactuals

    def small(x, *args, **kwargs):
        if len(x) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return whole(x, *args, **kwargs)

    class Heard(editing.SilentProgress):
        def message(self, text):
            said.append(text)

    wanted = editing.edit_pictures(model, images, [{"angle": 0.1}])
    monkeypatch.setattr(model, "counterfactuals", small)
    made = editing.edit_pictures(model, images, [{"angle": 0.1}], progress=Heard())
    assert torch.allclose(made.counterfactual, wanted.counterfactual, atol=1e-4)
    assert said == [
        "Out of memory with 4 pictures at a time; going on with 2.",
        "Out of memory with 2 pictures at a time; going on with 1.",
    ]


def test_interventions_that_do_not_fit_together_go_one_after_another_by_one_inversion(model, run, monkeypatch):
    images, said, whole, inverted = editing.examples(run / editing.EXAMPLES, 1), [], model.counterfactuals, []

    def small(x, interventions, **kwargs):
        if len(interventions) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(x, interventions, **kwargs)

    class Heard(editing.SilentProgress):
        def message(self, text):
            said.append(text)

    sets = [{"angle": 0.1}, {"light": 1.0}, {"angle": -0.1}]
    wanted = editing.edit_pictures(model, images, sets)
    invert = model.invert
    monkeypatch.setattr(model, "counterfactuals", small)
    monkeypatch.setattr(model, "invert", lambda x, **kwargs: inverted.append(len(x)) or invert(x, **kwargs))
    made = editing.edit_pictures(model, images, sets, progress=Heard())
    assert torch.allclose(made.counterfactual, wanted.counterfactual, atol=1e-4)
    assert torch.allclose(made.reconstructed, wanted.reconstructed, atol=1e-4)
    assert said == ["Out of memory with 4 interventions at a time; going on with 2."]
    assert inverted == [1]


def test_values_are_numbers_or_deviations(model):
    assert editing.read_value(model, "light", "1.25") == 1.25
    assert editing.read_value(model, "light", "+2sd") == 2.5
    assert editing.read_value(model, "light", "-1 SD") == 1.0
    for text in ("bright", "nan", "inf", "1.2.3sd"):
        with pytest.raises(ConfigError, match=f"light={text!r} is no value"):
            editing.read_value(model, "light", text)


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        (["--do", "angel=1"], UnknownName, "angle"),
        (["--do", "angle"], ConfigError, "is not NAME=VALUE"),
        (["--do", "angle=1,angle=2"], ConfigError, "is not NAME=VALUE"),
        (["--do", "angle=wide"], ConfigError, r"angle=\+1sd"),
        (["--sweep", "angle=1:2"], ConfigError, "FROM:TO:COUNT"),
        (["--sweep", "angle=1:2:1"], ConfigError, "two values"),
        ([], ConfigError, "Nothing is set"),
    ],
)
def test_mistakes_are_named(run, tmp_path, words, kind, text):
    done = call(run, *words, "--out", tmp_path / "out")
    assert isinstance(done.exception, kind)
    with pytest.raises(kind, match=text):
        raise done.exception
    assert not (tmp_path / "out").exists()


def test_a_model_without_pictures_asks_for_some(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "alone")
    done = call(tmp_path / "alone", "--do", "angle=1")
    assert isinstance(done.exception, ConfigError)
    assert "--image FILE" in str(done.exception)


def test_what_is_no_picture_is_refused(model, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(FormatError, match="Cannot read"):
        editing.read_pictures(model, [tmp_path / "a.png"])


def test_models_of_other_methods_are_refused(tmp_path):
    save_model(direction(0).model, tmp_path / "model", method="core/direction")
    with pytest.raises(ConfigError, match="no named factors"):
        editing.load(str(tmp_path), device="cpu")
