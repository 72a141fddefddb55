"""erase/leace: no linear model finds the concept, nothing moves more than it must, and what it cannot do is refused."""

import pytest
import torch
from latent.core import AutoLatent
from latent.core.errors import ConfigError, ShapeError
from latent.core.hub.format import save_model
from latent.core.metrics.probe import logistic_probe
from latent.core.registry import registry
from latent.core.run.runner import RunOptions, start
from latent.core.run.seed import generator
from latent.core.testing import conformance

from linear_eraser.experiments.leace import CLAIMS, FREQUENCIES, Settings, make_eraser, rows
from linear_eraser.methods.leace import LinearEraser, LinearEraserConfig

CPU = torch.device("cpu")

test_conformance = conformance.tests("erase/leace")
SETTINGS = Settings(samples=4000, features=12)


@pytest.fixture(scope="module")
def data():
    """Representations and classes to fit on."""
    return rows(SETTINGS, 0, "fit", CPU)[:2]


def fit(x, y, concepts=4):
    return LinearEraser(LinearEraserConfig(features=x.shape[1], concepts=concepts)).fit(x, y)


def correlation(x, z):
    """Largest correlation between a coordinate and a column of the concept; 0 where a coordinate is constant."""
    x, z = (each.double() - each.double().mean(dim=0) for each in (x, z))
    scale = (x.square().mean(dim=0)[:, None] * z.square().mean(dim=0)).sqrt()
    return ((x.mT @ z / len(x)).abs() / scale.clamp_min(1e-12)).max().item()


def one_hot(classes):
    return torch.nn.functional.one_hot(classes).double()


def test_the_spec_says_what_the_code_is():
    from latent.core.capabilities import capabilities_of

    spec = registry().spec("erase/leace")
    assert registry().resolve(spec) is LinearEraser
    assert capabilities_of(LinearEraser) == spec.capabilities


def test_it_is_the_closed_form_of_the_paper(data):
    """x - W+ P W (x - mean), with the symmetric whitening W and the projection P on the columns of W C."""
    x, z = data[0].double(), one_hot(data[1])
    centred, z = x - x.mean(dim=0), z - z.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(x))
    whitening, unwhitening = ((vectors * values**power) @ vectors.mT for power in (-0.5, 0.5))
    columns = torch.linalg.svd(whitening @ centred.mT @ z / len(x)).U[:, :3]
    expected = x - centred @ whitening @ columns @ columns.mT @ unwhitening
    assert torch.allclose(fit(x, data[1]).encode(x), expected, atol=1e-5)


def test_nothing_is_left_to_correlate_with(data):
    x, classes = data
    assert correlation(x, one_hot(classes)) > 0.2
    assert correlation(fit(x, classes).encode(x), one_hot(classes)) < 1e-5


def test_attributes_of_any_scale_are_erased(data):
    x = data[0]
    attributes = torch.stack([1e4 * (x[:, 0] + x[:, 3]), 1e-4 * (x[:, 5] - x[:, 1])], dim=1)
    erased = fit(x, attributes, concepts=2).encode(x)
    assert correlation(erased, attributes) < 1e-4
    assert correlation(x, attributes) > 0.5


def test_constant_and_repeated_coordinates_do_no_harm(data):
    x, classes = data
    wide = torch.cat([x, x[:, :2], torch.ones(len(x), 1)], dim=1)
    erased = fit(wide, classes).encode(wide)
    assert correlation(erased[:, :12], one_hot(classes)) < 1e-5
    assert torch.allclose(erased[:, :12], fit(x, classes).encode(x), atol=1e-4)
    assert torch.allclose(erased[:, 14], torch.ones(len(x)), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_every_other_map_that_erases_moves_the_rows_more(data, seed):
    """In any inner product: the other maps are this one plus N (x - mean) with N C = 0."""
    x, classes = data[0].double(), data[1]
    eraser, stream = fit(x, classes), generator(seed, "other")
    centred, moved = x - x.mean(dim=0), x - eraser.encode(x)
    off = torch.linalg.svd(eraser.left_.double()).U[:, 3:]  # orthogonal to the columns of C
    inner = torch.randn(12, 12, dtype=torch.float64, generator=stream)
    other = 0.1 * torch.randn(12, 9, dtype=torch.float64, generator=stream) @ off.mT
    assert correlation(x - moved - centred @ other.mT, one_hot(classes)) < 1e-4
    assert (moved @ inner).square().sum() < ((moved + centred @ other.mT) @ inner).square().sum()


def test_orthogonal_projection_erases_too_and_moves_the_rows_more(data):
    x, classes = data
    moved = {}
    for arm in ("leace", "projection"):
        erased = make_eraser(arm, x, classes, generator(0, "arm")).encode(x)
        assert correlation(erased, one_hot(classes)) < 1e-4
        moved[arm] = (erased - x).square().sum()
    assert moved["leace"] < 0.95 * moved["projection"]


@pytest.mark.parametrize(("arm", "found"), [("leace", False), ("nothing", True), ("random", True), ("one-class", True)])
def test_on_new_rows_a_linear_probe_is_no_better_than_a_constant(data, arm, found):
    eraser = make_eraser(arm, *data, generator(0, "arm"))
    x, classes, _ = rows(SETTINGS, 0, "measure", CPU)
    probe = logistic_probe(eraser.encode(x), classes, generator=generator(0, "probe"))
    advantage = float(probe.score - probe.majority)
    assert advantage > 0.1 if found else advantage < 0.03


def test_before_fit_and_at_strength_zero_nothing_changes(data):
    x, classes = data
    assert torch.equal(LinearEraser(LinearEraserConfig(features=12)).encode(x), x)
    h = x[:24].view(4, 6, 12)
    assert torch.equal(fit(x, classes).intervene(h, strength=0.0), h)


def test_strength_is_the_share_that_is_taken_away(data):
    x, classes = data
    eraser, h = fit(x, classes), x[:24].view(4, 6, 12)
    whole = eraser.intervene(h, strength=1.0)
    assert torch.allclose(whole.reshape(24, 12), eraser.encode(x[:24]), atol=1e-6)
    assert torch.allclose(eraser.intervene(h, strength=0.5), (h + whole) / 2, atol=1e-6)
    mixed = eraser.intervene(h, strength=torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert torch.equal(mixed[0], h[0])
    assert torch.equal(mixed[1], whole[1])


def test_dtypes_stay_and_low_precision_is_computed_in_float32(data):
    x, classes = data
    eraser = fit(x, classes)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 5e-2)):
        erased = eraser.encode(x.to(dtype))
        assert erased.dtype is dtype
        assert torch.allclose(erased.float(), eraser.encode(x), atol=tolerance)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.zeros(9, 3), None, ConfigError, "needs the concept"),
        (torch.zeros(9, 3), torch.zeros(9, dtype=torch.long), ConfigError, "the same in all rows"),
        (torch.zeros(9, 3), torch.arange(9), ShapeError, "classes are 0 to 8, expected 0 to 1"),
        (torch.zeros(9, 3), torch.zeros(9), ShapeError, r"expected \[9, 2\]"),
        (torch.zeros(9, 4), torch.arange(9) % 2, ShapeError, r"expected floating \[samples, 3\]"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x, y, error, message):
    with pytest.raises(error, match=message):
        LinearEraser(LinearEraserConfig(features=3)).fit(x, y)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="samples=40 are too few"):
        Settings(samples=40)
    with pytest.raises(ConfigError, match="concepts=0"):
        LinearEraserConfig(concepts=0)


def test_a_saved_eraser_loads_again(data, tmp_path):
    x, classes = data
    eraser = fit(x, classes)
    save_model(eraser, tmp_path / "model", method="erase/leace")
    assert torch.equal(AutoLatent.from_pretrained(tmp_path / "model").encode(x), eraser.encode(x))


def test_rows_are_those_of_one_population():
    first, second = rows(SETTINGS, 0, "fit", CPU), rows(SETTINGS, 0, "measure", CPU)
    assert not torch.equal(first[0], second[0])
    share = torch.bincount(second[1], minlength=4) / len(second[1])
    assert torch.allclose(share, torch.tensor(FREQUENCIES), atol=0.03)
    means = [torch.stack([x[classes == k].mean(dim=0) for k in range(4)]) for x, classes, _ in (first, second)]
    assert torch.allclose(*means, atol=0.15)


def test_the_experiment_runs_and_its_claims_have_controls(tmp_path):
    report = start("erase/leace", folder=tmp_path / "run", options=RunOptions(preset="smoke"))
    assert report.numbers["leace advantage"] < report.numbers["nothing advantage"] - 0.1
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert all(claim.controls for claim in CLAIMS)
