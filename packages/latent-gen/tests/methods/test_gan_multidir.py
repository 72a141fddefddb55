"""Walks along gradients of probes whose gradients are known, and what masks and projections take away from them."""

import pytest
import torch
from torch import nn

from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.run.seed import generator, isolated
from latent.gen.methods.gan_multidir import (
    GradientWalk,
    LatentProbes,
    LatentProbesConfig,
    log_odds,
    most_salient,
    without_span,
)

WIDTH = 6


class Linear(nn.Module):
    """Logits that are linear in the state: their gradients are the rows of the weight."""

    def __init__(self, rows):
        super().__init__()
        self.weight = torch.tensor(rows)

    def forward(self, z):
        return z @ self.weight.mT


def linear_probes(**attributes):
    """Probes whose logits are these linear functions."""
    classes = tuple(len(rows) for rows in attributes.values())
    config = LatentProbesConfig(latent=WIDTH, attributes=tuple(attributes), classes=classes)
    probes = LatentProbes(config)
    probes.branches = nn.ModuleList(Linear(rows) for rows in attributes.values())
    return probes


def probes(*, classes=(1, 1, 3), seed=0, shared=0):
    names = ("target", "other", "kind")[: len(classes)]
    with isolated(seed, "probes"):
        made = LatentProbes(
            LatentProbesConfig(latent=WIDTH, attributes=names, classes=classes, hidden=8, shared=shared)
        )
    return made.eval().requires_grad_(requires_grad=False)


def states(rows=5, seed=0):
    return torch.randn(rows, WIDTH, generator=generator(seed, "states"))


def unit(index):
    return [float(index == place) for place in range(WIDTH)]


# The field ------------------------------------------------------------------------------------------------------------


def test_a_step_goes_along_the_gradient_whatever_its_length():
    made = linear_probes(target=[[3.0, 4.0, 0, 0, 0, 0]])
    z = states()
    walk = GradientWalk(made, "target", steps=4, length=2.0)(z)
    wanted = torch.tensor([0.6, 0.8, 0, 0, 0, 0])
    for step in range(5):
        assert torch.allclose(walk.path[step], z + 0.5 * step * wanted, atol=1e-6)
    assert torch.equal(walk.path[0], z)
    assert walk.steps.tolist() == [4] * 5


def test_each_row_has_its_own_sign():
    made = linear_probes(target=[unit(2)])
    z = states(3)
    end = GradientWalk(made, "target", steps=2, length=1.0)(z, to=torch.tensor([1, -1, 1])).path[-1]
    assert torch.allclose((end - z)[:, 2], torch.tensor([1.0, -1.0, 1.0]))


def test_lengths_are_in_units_of_the_scale_and_angles_do_not_change():
    made = linear_probes(target=[unit(1)])
    made.scale.fill_(7.0)
    assert (
        GradientWalk(made, "target", steps=3, length=2.0)(states())
        .path[-1]
        .sub(states())[:, 1]
        .allclose(torch.tensor(14.0))
    )


def test_the_gradient_is_taken_anew_at_each_step():
    made = probes()
    z = states()
    walk = GradientWalk(made, "target", steps=3, length=3.0)(z)
    for step in range(3):
        here = walk.path[step].clone().requires_grad_()
        (expected,) = torch.autograd.grad(made.logits(here, "target").sum(), here)
        moved = walk.path[step + 1] - walk.path[step]
        assert torch.allclose(moved, expected / expected.norm(dim=1, keepdim=True), atol=1e-5)
    straight = nn.functional.cosine_similarity(walk.path[1] - walk.path[0], walk.path[3] - walk.path[2])
    assert bool((straight < 0.9999).any())


def test_a_saturated_probe_still_has_a_direction():
    made = linear_probes(target=[[500.0, 0, 0, 0, 0, 0]])  # its probability is 1 in float32, and has no gradient
    z = states() + 10 * torch.tensor(unit(0))
    end = GradientWalk(made, "target", steps=2, length=1.0)(z, to=-1).path[-1]
    assert torch.allclose((end - z)[:, 0], torch.tensor(-1.0), atol=1e-5)


def test_a_class_is_reached_by_its_odds_against_all_others():
    made = linear_probes(kind=[unit(0), unit(1), unit(2)])
    z = torch.zeros(3, WIDTH)
    moved = GradientWalk(made, "kind", steps=1, length=1.0)(z, to=torch.tensor([0, 1, 2])).path[-1]
    expected = torch.full((3, 3), -0.5)
    expected.fill_diagonal_(1.0)
    assert torch.allclose(moved[:, :3], expected / expected.norm(dim=1, keepdim=True), atol=1e-6)


def test_log_odds_are_those_of_the_probability():
    logits = torch.tensor([[0.3, -1.0, 2.0]])
    share = logits.softmax(1)[0]
    for label in range(3):
        assert torch.allclose(log_odds(logits, torch.tensor([label])), share[label].logit())
    assert log_odds(torch.tensor([[0.7]]), torch.tensor([-1])).item() == pytest.approx(-0.7)


def test_every_walks_to_all_classes_in_one_batch():
    made = probes()
    z = states(4)
    together = GradientWalk(made, "kind", keep=("other",), mode="project", steps=3).every(z).path.unflatten(1, (3, 4))
    for label in range(3):
        alone = GradientWalk(made, "kind", keep=("other",), mode="project", steps=3)(z, to=label).path
        assert torch.allclose(together[:, label], alone, atol=1e-5)
    both = GradientWalk(made, "target", steps=3).every(z).path.unflatten(1, (2, 4))
    assert torch.allclose(both[:, 1], GradientWalk(made, "target", steps=3)(z, to=-1).path, atol=1e-6)


def test_rows_do_not_mix_and_nothing_is_left_behind():
    made = probes(shared=1)
    z = states(6)
    for mode in ("none", "mask", "project"):
        walk = GradientWalk(made, "target", keep=("other", "kind"), mode=mode, channels=2, steps=3)
        whole = walk(z).path
        single = torch.cat([walk(z[row : row + 1]).path for row in range(6)], 1)
        assert torch.allclose(whole, single, atol=1e-5), mode
    assert not whole.requires_grad
    assert all(parameter.grad is None for parameter in made.parameters())


def test_walks_work_where_autograd_is_off():
    with torch.no_grad():
        moved = GradientWalk(probes(), "target", steps=1)(states()).path
    assert bool((moved[1] != moved[0]).any())


# What is left out -----------------------------------------------------------------------------------------------------


def test_a_mask_leaves_out_what_matters_most_for_others():
    made = linear_probes(target=[[1.0] * 6], first=[[5.0, 0.1, 0, 4.0, 0, 0]], second=[[0.0, 9.0, 0.2, 0, 0, 0]])
    walk = GradientWalk(
        made, "target", keep=("first", "second"), mode="mask", channels={"first": 2, "second": 1}, steps=1, length=1.0
    )
    found = walk(states())
    moved = found.path[1] - found.path[0]
    assert torch.allclose(moved, torch.tensor([0, 0, 1.0, 0, 1, 1]) / 3**0.5, atol=1e-6)
    assert torch.allclose(found.kept, torch.tensor(0.5))


def test_a_classes_saliency_is_that_of_all_its_outputs():
    gradients = torch.tensor([[[1.0, 0, 3.0, 0], [1.0, 0, 0.0, 2.0]]])
    assert most_salient(gradients, 2).tolist() == [[False, False, True, True]]
    assert most_salient(gradients, 0).tolist() == [[False] * 4]


def test_projection_leaves_the_kept_logits_where_they_are():
    made = linear_probes(
        target=[[1.0, 1, 1, 0, 0, 0]], other=[[1.0, 0, 0, 2, 0, 0]], kind=[unit(1), unit(5), [0.0, 0, 0, 0, 1, 1]]
    )
    z = states()
    end = GradientWalk(made, "target", keep=("other", "kind"), mode="project", steps=2, length=3.0)(z).path[-1]
    assert bool((made.logits(end, "target") > made.logits(z, "target") + 0.5).all())
    assert torch.allclose(made.logits(end, "other"), made.logits(z, "other"), atol=1e-5)
    shares = [made.logits(states_, "kind").softmax(1) for states_ in (z, end)]
    assert torch.allclose(*shares, atol=1e-5)


def test_what_all_classes_have_in_common_may_change():
    common = unit(3)
    kind = [[a + b for a, b in zip(unit(place), common, strict=True)] for place in range(3)]
    made = linear_probes(target=[common], kind=kind)
    z = states()
    end = GradientWalk(made, "target", keep=("kind",), mode="project", steps=1, length=1.0)(z).path[-1]
    assert torch.allclose(end - z, torch.tensor(common), atol=1e-5)


def test_gradients_that_are_zero_or_equal_take_nothing_more_away():
    vectors = torch.tensor([[1.0, 2.0, 3.0]])
    away = torch.tensor([[1.0, 0.0, 0.0]])
    for rows in (
        [[1.0, 0, 0]],
        [[0.0, 0, 0], [2.0, 0, 0]],
        [[1.0, 0, 0], [1.0, 0, 0]],
        [[1.0, 0, 0], [-3.0, 0, 0], [0.0, 0, 0]],
    ):
        left = without_span(vectors, torch.tensor([rows]))
        assert torch.allclose(left, vectors * (1 - away), atol=1e-5), rows


def test_projection_does_not_depend_on_the_length_of_gradients():
    vectors, rows = states(4), torch.randn(4, 2, WIDTH, generator=generator(1, "rows"))
    scaled = rows * torch.tensor([1e-6, 1e4])[:, None]
    assert torch.allclose(without_span(vectors, rows), without_span(vectors, scaled), atol=1e-4)


def test_rotating_the_space_rotates_the_projected_walk_and_not_the_masked_one():
    made = probes()
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator(0, "turn")))[0]
    turned = probes()
    for branch, original in zip(turned.branches, made.branches, strict=True):
        branch[0].weight.copy_(original[0].weight @ turn)
    z = states()
    gaps = {}
    for mode in ("project", "mask"):
        walks = [
            GradientWalk(each, "target", keep=("other", "kind"), mode=mode, channels=2, steps=5)
            for each in (made, turned)
        ]
        gaps[mode] = float((walks[0](z).path[-1] - walks[1](z @ turn).path[-1] @ turn.mT).abs().max())
    assert gaps["project"] < 1e-3 < 0.1 < gaps["mask"]


def test_a_row_without_a_direction_stays_and_the_others_go_on():
    made = linear_probes(target=[unit(0)], other=[unit(0)])
    found = GradientWalk(made, "target", keep=("other",), mode="project", steps=3)(states())
    assert torch.equal(found.path[-1], states())
    assert found.steps.tolist() == [0] * 5
    masked = GradientWalk(made, "target", keep=("other",), mode="mask", channels=WIDTH, steps=3)(states())
    assert torch.equal(masked.path[-1], states())
    assert bool(masked.kept.isnan().all())


def test_a_row_stops_when_its_probability_is_reached():
    made = linear_probes(target=[unit(0)])
    z = torch.zeros(3, WIDTH)
    z[:, 0] = torch.tensor([-1.0, 0.0, 5.0])
    found = GradientWalk(made, "target", steps=8, length=4.0, until=0.75)(z)
    assert found.steps.tolist() == [5, 3, 0]  # log 3 = 1.0986 from -1 and from 0, in steps of one half
    assert torch.equal(found.path[-1, 2], z[2])
    probability = made.logits(found.path[-1], "target").sigmoid()
    assert bool((probability >= 0.75).all())


def test_a_random_control_is_repeated_by_its_seed_and_is_another_field():
    made = probes()
    ends = [
        GradientWalk(made, "target", keep=("other", "kind"), mode=mode, channels=2, random=seed)(states()).path[-1]
        for mode, seed in (("mask", 1), ("mask", 1), ("mask", 2), ("project", 1), ("mask", None))
    ]
    assert torch.equal(ends[0], ends[1])
    assert all(not torch.equal(ends[0], other) for other in ends[2:])


def test_a_random_control_has_one_mask_and_one_span_for_each_row_on_the_whole_path():
    made = probes()
    found = GradientWalk(made, "target", keep=("other",), mode="mask", channels=3, steps=4, random=1)(states(20))
    still = found.path[1:] == found.path[:-1]  # [steps, batch, latent]: what the mask leaves out does not move
    assert bool((still.sum(2) == 3).all())
    assert torch.equal(still, still[:1].expand_as(still))
    assert len(still[0].unique(dim=0)) > 5  # rows have masks of their own
    away = GradientWalk(made, "target", keep=("other",), mode="project", steps=4, random=1)(states(20)).path.diff(dim=0)
    # All steps of a row are orthogonal to one random vector: six steps do not span six coordinates.
    six = GradientWalk(made, "target", keep=("other",), mode="project", steps=12, random=1)(states(3)).path.diff(dim=0)
    assert bool((torch.linalg.svdvals(six.transpose(0, 1))[:, -1] < 1e-5).all())
    assert away.abs().max() > 0


def test_paths_are_float32_whatever_states_and_probes_are():
    z = states()
    wanted = GradientWalk(probes(), "target", keep=("other", "kind"), mode="project", steps=40)(z).path
    double = GradientWalk(probes(), "target", keep=("other", "kind"), mode="project", steps=40)(z.double()).path
    assert double.dtype == torch.float32
    assert torch.equal(double, wanted)
    small = GradientWalk(probes().bfloat16(), "target", steps=40, length=1.0)(z.bfloat16()).path
    assert small.dtype == torch.float32
    # Steps of a fortieth would be lost in sums of bfloat16.
    assert torch.allclose(small.diff(dim=0).norm(dim=2), torch.tensor(1 / 40), rtol=1e-2)
    assert probes().logits(z.double(), "kind").dtype == torch.float32


# Probes ---------------------------------------------------------------------------------------------------------------


def test_score_is_the_log_odds_of_the_first_attribute():
    z = states()
    made = probes(classes=(1, 3))
    assert torch.equal(made.score(z), made.logits(z, "target")[:, 0])
    many = probes(classes=(3, 1))
    assert torch.allclose(many.score(z), many.logits(z, "target").softmax(1)[:, 0].logit(), atol=1e-5)


def test_standardising_keeps_angles():
    made = probes().standardise(3.0 + 2.0 * torch.tensor([1.0, 5, 1, 1, 1, 1]) * states(4000))
    assert made.scale.shape == ()
    assert float(made.scale) == pytest.approx(2 * (30 / 6) ** 0.5, rel=0.05)
    assert torch.allclose(made.mean, torch.full((WIDTH,), 3.0), atol=0.4)


def test_errors():
    made = probes()
    with pytest.raises(UnknownName, match="known: kind, other, target"):
        GradientWalk(made, "age")
    with pytest.raises(ConfigError, match="target"):
        GradientWalk(made, "target", keep=("target",), mode="mask")
    with pytest.raises(ConfigError, match="'project'"):
        GradientWalk(made, "target", mode="project")
    with pytest.raises(UnknownName, match="mode"):
        GradientWalk(made, "target", mode="erase")
    with pytest.raises(ConfigError, match="channels=7"):
        GradientWalk(made, "target", keep=("other",), mode="mask", channels=7)
    with pytest.raises(UnknownName, match="channels"):
        GradientWalk(made, "target", keep=("other",), mode="mask", channels={"kind": 2})
    with pytest.raises(ConfigError, match="length"):
        GradientWalk(made, "target", length=0.0)
    with pytest.raises(ShapeError, match="latent=6"):
        GradientWalk(made, "target")(torch.zeros(2, WIDTH + 1))
    with pytest.raises(ConfigError, match="to=0"):
        GradientWalk(made, "target")(states(), to=0)
    with pytest.raises(ConfigError, match="Use 0 to 2"):
        GradientWalk(made, "kind")(states(), to=3)
    with pytest.raises(ConfigError, match="classes"):
        LatentProbesConfig(attributes=("a",), classes=(2,))
    with pytest.raises(ConfigError, match="comes twice"):
        LatentProbesConfig(attributes=("a", "a"), classes=(1, 1))
