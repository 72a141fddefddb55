"""Which heads are kept, what their probes know, and how each token is moved."""

import copy
from dataclasses import replace

import pytest
import torch

from latent.core.activations import capture, edit, prepare
from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator, isolated
from latent.steer.baselines.act import ACT, ACTConfig, attention_heads

LAYERS, HEADS, HEAD_DIM = 2, 4, 12  # 48 at the site, of a model that is 32 wide
CONCEPT = torch.nn.functional.normalize(torch.arange(1.0, HEAD_DIM + 1), dim=0)


def noise(count, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, LAYERS, count, HEADS * HEAD_DIM, generator=random).unbind()


def planted(count=120, seed=0, size=3.0):
    """Head 2 of layer 1 carries the concept, and nothing else does."""
    target, other = noise(count, seed)
    target[1, :, 2 * HEAD_DIM : 3 * HEAD_DIM] += size * CONCEPT
    return target, other


def fitted(pairs=None, **settings):
    target, other = pairs or planted()
    return ACT.fit(target, other, heads=HEADS, config=ACTConfig(**{"clusters": 1, "kept": 1, **settings}))


@pytest.fixture(scope="module")
def model():
    """Grouped queries, and heads that do not share out the width of the model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, head_dim=HEAD_DIM, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.5,
    )  # fmt: skip
    with isolated(0, "model with grouped queries"):
        return LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)


def test_the_head_that_carries_the_concept_is_kept_and_points_to_it():
    act = fitted()
    assert act.kept.nonzero().tolist() == [[1, 2, 0]]
    assert float(act.directions[1, 2, 0] @ CONCEPT) > 0.8
    unseen = act.accuracy_on(*planted(400, seed=1))
    assert float(act.accuracy[1, 2, 0]) > 0.85 < float(unseen[1, 2, 0])
    others = ~act.kept
    assert float((unseen[others] - 0.5).abs().max()) < 0.1
    side_by_side = torch.cat(planted(), 1)[1, :, 2 * HEAD_DIM : 3 * HEAD_DIM] @ act.directions[1, 2, 0]
    torch.testing.assert_close(act.deviation[1, 2, 0], side_by_side.std(correction=0))


def test_one_cluster_is_one_probe_for_each_head_as_scikit_learn_fits_it():
    from sklearn.linear_model import LogisticRegression

    act = fitted(penalty=0.5)
    target, other = planted()
    order = torch.randperm(120, generator=generator(act.config.seed, "probe split"))
    for layer in range(LAYERS):
        for head in range(HEADS):
            part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            sides = torch.stack([target[layer, :, part], other[layer, :, part]]).double()
            scale = (sides - sides.mean((0, 1))).square().mean().sqrt()
            rows, held_out = sides[:, order[24:]].flatten(0, 1), sides[:, order[:24]].flatten(0, 1)
            truth = torch.tensor([1] * 96 + [0] * 96)
            theirs = LogisticRegression(C=1 / 0.5, tol=1e-10, max_iter=1000).fit(rows / scale, truth)
            ours = torch.cat([act.weight[layer, head, 0] * scale, act.bias[layer, head]])
            expected = torch.tensor([*theirs.coef_[0], *theirs.intercept_])
            torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=1e-4)
            right = theirs.score(held_out / scale, torch.tensor([1] * 24 + [0] * 24))
            assert float(act.accuracy[layer, head, 0]) == pytest.approx(right)


def test_on_noise_unseen_rows_are_told_at_chance_and_only_several_clusters_look_better():
    """A pair's cluster follows from its labels, so that several clusters seem to know what nobody can."""
    target, other = planted()
    swapped = (torch.rand(120, generator=torch.Generator().manual_seed(4)) < 0.5)[:, None]
    pairs = target.where(swapped, other), other.where(swapped, target)
    for clusters in (1, 3):
        act = fitted(pairs, clusters=clusters)
        assert float((act.accuracy_on(*planted(400, seed=1)).mean() - 0.5).abs()) < 0.05
        assert (float(act.accuracy.mean()) > 0.6) == (clusters == 3)
    assert float((fitted(pairs).accuracy.mean() - 0.5).abs()) < 0.08


def test_clusters_have_probes_of_their_own():
    target, other = noise(150)
    sign = torch.where(torch.arange(150) % 3 > 0, 6.0, -6.0)  # the concept points either way, twice as often one way
    target[1, :, 2 * HEAD_DIM : 3 * HEAD_DIM] += sign[:, None] * CONCEPT
    act = fitted((target, other), clusters=2)
    assert act.kept.nonzero().tolist() == [[1, 2, 0], [1, 2, 1]]
    along = act.directions[1, 2] @ CONCEPT
    assert float(along[0]) > 0.7
    assert float(along[1]) < -0.7


def test_a_cluster_with_few_validation_pairs_is_not_kept():
    target, other = planted()
    target[:, :3] += 50  # a cluster of three at every head
    act = fitted((target, other), clusters=2, kept=LAYERS * HEADS)
    assert not act.accuracy[..., 1].any()
    assert not act.kept[..., 1].any()
    assert bool(act.kept[..., 0].all())
    with pytest.raises(ConfigError, match="No cluster has 40 of the 24"):
        fitted(least=40)


def test_the_best_heads_are_kept_over_all_layers():
    act = fitted(clusters=2, kept=3)
    for cluster in range(2):
        accuracy, kept = act.accuracy[..., cluster], act.kept[..., cluster]
        assert int(kept.sum()) == 3
        assert float(accuracy[kept].min()) >= float(accuracy[~kept].max())


def test_a_base_of_minus_one_is_constant_steering(model):
    act = fitted(clusters=2, kept=5, base=-1.0)
    ids = torch.randint(3, 50, (3, 6), generator=torch.Generator().manual_seed(2))
    h, new = _both(model, act.operation(1, 2.0), ids)
    step = torch.zeros(HEADS * HEAD_DIM)
    for head, cluster in act.kept[1].nonzero().tolist():
        part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        step[part] += 2.0 * act.deviation[1, head, cluster] * act.directions[1, head, cluster]
    assert bool(step.any())
    torch.testing.assert_close(new, h + step)


def test_each_token_is_moved_by_what_its_own_probes_say(model):
    act = fitted(clusters=2, kept=5, base=0.25)
    ids = torch.randint(3, 50, (3, 6), generator=torch.Generator().manual_seed(2))
    h, new = _both(model, act.operation(1, 2.0), ids)
    expected = h.clone()
    for head, cluster in act.kept[1].nonzero().tolist():
        part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        weight, theta = act.weight[1, head, cluster], act.directions[1, head, cluster]
        for row in range(3):
            for token in range(6):
                p = torch.sigmoid(h[row, token, part] @ weight + act.bias[1, head, cluster])
                expected[row, token, part] += 2.0 * act.deviation[1, head, cluster] * theta * (1.25 - p)
    torch.testing.assert_close(new, expected, atol=1e-4, rtol=1e-4)
    op = act.operation(1)
    inside = 100 * act.directions[1, 2, 0]
    seen = op.probabilities(torch.cat([inside.new_zeros(2 * HEAD_DIM), inside, inside.new_zeros(HEAD_DIM)]))
    assert float(seen[0, 2]) > 0.99  # what has the concept already is hardly moved


def _both(model, op, ids):
    site = "layers.1.attn_heads"
    with capture(model, site) as before, edit(model, {site: op}), capture(model, site) as after:
        model(ids)
    return before[site], after[site]


def test_rows_with_strengths_and_positions_of_their_own_are_the_rows_alone(model):
    act = fitted(clusters=2, kept=6)
    ids = torch.randint(3, 50, (3, 6), generator=torch.Generator().manual_seed(2))
    ids[1, :2], mask = 0, torch.ones_like(ids)
    mask[1, :2] = 0
    strengths, starts = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([0, 2, 0])
    plain = model(ids, attention_mask=mask).logits
    with act.on(model, strengths, positions=slice(starts, None)):
        logits = model(ids, attention_mask=mask).logits
    assert torch.equal(logits[2], plain[2])
    for row in range(2):
        real = mask[row] == 1
        with act.on(model, float(strengths[row]), positions=slice(int(starts[row]), None)):
            alone = model(ids[row : row + 1, real]).logits[0]
        torch.testing.assert_close(logits[row, real], alone, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(logits[row], plain[row], atol=1e-2)


def test_half_precision_stays_half_and_is_nearly_the_same(model):
    act = fitted(clusters=2, kept=8)
    ids = torch.randint(3, 50, (2, 5), generator=torch.Generator().manual_seed(2))
    h, new = _both(model, act.operation(1, 1.0), ids)
    low, moved = _both(copy.deepcopy(model).bfloat16(), act.operation(1, 1.0), ids)
    assert moved.dtype == torch.bfloat16
    torch.testing.assert_close((moved - low).float(), new - h, atol=0.1, rtol=0.1)


def test_the_model_is_as_before_and_a_strength_of_zero_is_nothing(model):
    act = fitted(clusters=2, kept=8)
    assert attention_heads(model) == HEADS
    ids = torch.randint(3, 50, (2, 5), generator=torch.Generator().manual_seed(2))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    plain = model(ids).logits
    for strength in (0.0, torch.zeros(2)):
        with act.on(model, strength):
            assert torch.equal(model(ids).logits, plain)
    with act.on(model, 1.0):
        steered = model(ids).logits
        written = model.generate(ids, max_new_tokens=4, do_sample=False)
        again = model.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(written, again)
    assert not torch.equal(steered, plain)
    assert torch.equal(model(ids).logits, plain)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with prepare(model, {f"layers.{layer}.attn_heads": act.operation(layer, 1.0) for layer in range(LAYERS)}):
        torch.testing.assert_close(model(ids).logits, steered)


def test_wrong_inputs_are_answered(model):
    target, other = planted()
    with pytest.raises(ShapeError, match=r"layers pairs heads\*head_dim"):
        ACT.fit(target, other[:, 1:], heads=HEADS)
    with pytest.raises(ShapeError, match="5 heads"):
        ACT.fit(target, other, heads=5)
    with pytest.raises(ShapeError, match=r"\[120, 48\]"):
        ACT.fit(target[0], other[0], heads=HEADS)
    with pytest.raises(ConfigError, match="kept=24 of 8"):
        ACT.fit(target, other, heads=HEADS)
    with pytest.raises(ConfigError, match="not finite"):
        fitted((target / 0, other))
    with pytest.raises(ConfigError, match="make no sense"):
        ACTConfig(validation=1.0)
    act = fitted()
    with pytest.raises(ShapeError, match="layers=2"):
        act.accuracy_on(target[:1], other[:1])
    with pytest.raises(ConfigError, match="no layer 2"):
        act.operation(2)
    with pytest.raises(ShapeError, match="1 layers of 4 heads"):
        replace(act, **{key: getattr(act, key)[:1] for key in ("weight", "bias", "deviation", "accuracy", "kept")}).on(
            model
        )
    with pytest.raises(ShapeError, match="width 32"), edit(model, {"layers.1.resid_post": act.operation(1)}):
        model(torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(ConfigError, match="Linear does not tell"):
        attention_heads(torch.nn.Linear(2, 2))
