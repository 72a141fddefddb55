"""Steering on another device than the CPU: nothing of two devices meets, and directions and texts are the same."""

from dataclasses import replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latent.core import AutoLatent
from latent.core.activations import (
    ActivationReader,
    ActivationWriter,
    Add,
    AddFeature,
    Clamp,
    ClampFeature,
    Patch,
    ProjectOnto,
    ProjectOut,
    Replace,
    Resample,
    Scale,
    ScaleFeature,
    Stream,
    Subspace,
    SubspaceConfig,
    Zero,
    bisect,
    capture,
    edit,
    linear_probe,
    logistic_probe,
    matched_random,
    off_target,
    optimise_vector,
    prepare,
    stream_moments,
)
from latent.core.activations.directions import Direction, DirectionConfig
from latent.core.activations.frontier import Cell
from latent.core.hub.format import save_model
from latent.core.language import Backbone
from latent.core.language.training import small_llama, word_tokenizer
from latent.core.nn.sparse import (
    SparseAutoencoder,
    SparseAutoencoderConfig,
    SparseAutoencoderLearner,
    SparseAutoencoderTraining,
)
from latent.core.run.seed import generator, isolated
from latent.core.testing.devices import assert_alike, other_device
from latent.steer.baselines.act import ACT, ACTConfig
from latent.steer.data.contrast import Contrast, Words
from latent.steer.detectors import contrastive_latents, pooled_code, random_active
from latent.steer.evaluation import Writing, frontier_of, text_cost, try_cells, write
from latent.steer.learning import learn
from latent.steer.methods.caa import CAA
from latent.steer.methods.esr import EndogenousResistance, EndogenousResistanceConfig
from latent.steer.methods.g_act import GACT, GACTConfig
from latent.steer.methods.repe_pca import RepEPCA
from latent.steer.trials import MarkerJudge, Order, Sampling, run_trials

WIDTH = 16
SITES = ["layers.0.resid_post", "layers.1.resid_post"]
WORDS = ("left", "right", "up", "down", "WAIT")
TEXTS = [f"{one} {other} {one}" for one in WORDS for other in WORDS]
CONTRAST = Contrast(
    "left-right", tuple(f"{text} left" for text in TEXTS), tuple(f"{text} right" for text in TEXTS),
    Words(("left",), ("right",)),
)  # fmt: skip
WRITING = Writing(("up", "down right"), samples=2, tokens=4)


def model_on(device):
    model = small_llama(0, vocabulary=3 + len(WORDS), width=WIDTH, layers=2, longest=32, spread=0.4)
    return Backbone(model.to(device).eval().requires_grad_(requires_grad=False), word_tokenizer(WORDS), "tiny")


def rows(backbone, site=SITES[0], batch=4):
    """Return streams of the activations of both sides."""
    sides = (CONTRAST.positive, CONTRAST.negative)
    return [Stream(backbone.model, backbone.batches(side, batch), site) for side in sides]


def heads_of(backbone):
    """Return the outputs of all heads at the last token of both sides."""
    with capture(backbone.model, "layers.*.attn_heads", positions="last") as acts, torch.no_grad():
        for side in (CONTRAST.positive, CONTRAST.negative):
            backbone.model(**backbone.encode(side))
    return [torch.stack(list(each.values())) for each in acts.passes]


def dictionary(device):
    with isolated(0, "sae"):
        return SparseAutoencoder(SparseAutoencoderConfig(hidden=WIDTH, latents=24, k=6)).to(device)


def test_directions():
    def work(device):
        backbone = model_on(device)
        found = [learn(kind, backbone, CONTRAST, site=SITES[0]) for kind in (CAA, RepEPCA)]
        positive, negative = rows(backbone)
        probes = [linear_probe(positive, negative), logistic_probe(positive, negative)]
        gradient = optimise_vector(
            backbone.model, SITES[1], backbone.batches(CONTRAST.positive[:4], 2), width=WIDTH, steps=3, norm=2.0,
            generator=generator(0, "start"),
        )  # fmt: skip
        moments = stream_moments(backbone.model, backbone.batches(TEXTS, 9), "layers.*.resid_post")[
            "layers.1.resid_post"
        ]
        made = Direction(DirectionConfig(width=WIDTH)).to(device).set(probes[0], moments)
        controls = [found[0].negated(), found[0].random(generator(0, "random", device=device)), made]
        h = torch.stack(list(positive)[:2])
        other = [each.intervene(h, strength=torch.tensor([0.0, 2.0])) for each in controls]
        return [each.vector for each in found], probes, gradient, other, made.score(h[0]), made.deviation

    assert_alike(work)


def test_pairs_are_shuffled_by_a_generator_of_any_device():
    assert_alike(lambda device: CONTRAST.shuffled(generator(0, "shuffled", device=device)).positive)


def test_what_was_fitted_on_the_cpu_acts_elsewhere(tmp_path):
    here = model_on("cpu")
    save_model(learn(CAA, here, CONTRAST, site=SITES[0]), tmp_path, method="steer/caa")
    loaded = AutoLatent.from_pretrained(tmp_path)
    positive, negative = (torch.cat(list(side)) for side in rows(here))
    bank = GACT(GACTConfig(width=WIDTH, site=SITES[0], clusters=2, steps=2)).fit_differences(
        positive - negative, negative
    )
    banks = [
        ACT.fit(*heads_of(here), heads=4, config=ACTConfig(clusters=2, kept=3, least=1, base=base))
        for base in (0.0, -1.0)
    ]
    space = Subspace(SubspaceConfig(width=WIDTH, site=SITES[1], rank=2)).set(positive[:2])

    def work(device):
        model, given = (backbone := model_on(device)).model, backbone.encode(["up", "down left"])
        found = []
        for steering in (loaded.on(model, torch.tensor([0.0, 1.0])), bank.on(model), *(act.on(model) for act in banks),
                         space.on(model)):  # fmt: skip
            with torch.no_grad(), steering:
                found.append(model(**given).logits)
        return found

    assert_alike(work)


def test_estimators_are_fitted_to_activations_of_another_device():
    x, y = torch.randn(40, WIDTH, generator=generator(0, "activations")), torch.arange(40) % 2

    def work(device):
        settings = {"width": WIDTH, "clusters": 2, "steps": 3}
        made = CAA(DirectionConfig(width=WIDTH)), RepEPCA(DirectionConfig(width=WIDTH)), GACT(GACTConfig(**settings))
        states = [each.fit(x.to(device), y).state_dict() for each in made]
        made[2].refine(x[::2].to(device), x[1::2].to(device))
        return [{name: value.tolist() for name, value in state.items()} for state in states]

    assert_alike(work)


def test_banks():
    def work(device):
        backbone = model_on(device)
        positive, negative = (torch.cat(list(side)) for side in rows(backbone))
        config = GACTConfig(width=WIDTH, site=SITES[0], clusters=2, steps=5)
        bank = GACT(config).to(device).fit(torch.cat([positive, negative]), [1] * 25 + [0] * 25)
        loss = bank.refine(positive - negative, negative)
        target, other = heads_of(backbone)
        act = ACT.fit(target, other, heads=4, config=ACTConfig(clusters=2, kept=3, least=1))
        shown = [
            bank.centroids,
            bank.accuracy,
            loss,
            act.weight,
            act.deviation,
            act.kept,
            act.accuracy_on(target, other),
        ]
        for mode in ("soft", "hard"):
            bank.config = replace(bank.config, mode=mode, gate=0.1)
            with torch.no_grad(), bank.on(backbone.model, 2.0), act.on(backbone.model, 3.0):
                shown.append(backbone.model(**backbone.encode(["up", "down left"])).logits)
        return shown

    assert_alike(work)


def test_texts():
    def work(device):
        backbone = model_on(device)
        found = [learn(CAA, backbone, CONTRAST, site=site) for site in SITES]
        judge = CONTRAST.words.score
        plain = write(backbone, WRITING, judge, seed=0)
        cells = [Cell(found[0], 0.5), Cell(tuple(found), 1.5), Cell(found[1], 0.0)]
        # With likeliest tokens: a sample depends on the device.
        outcomes = try_cells(backbone, replace(WRITING, temperature=0.0), judge, cells, seed=0)
        frontier = frontier_of(cells, outcomes)

        def damage(strength):
            return text_cost(backbone, TEXTS[:4], found[0].on(backbone.model, strength), longest=8)

        def measure(name):
            return {"cost": 0.0 if name is None else damage(2.0)}

        strength = bisect(damage, damage(3.0), low=0.0, high=4.0, steps=3, tolerance=1e-4).strength
        effects = off_target(measure, ["first"], ["cost"])
        return (
            len(plain.texts),
            [each.texts for each in outcomes],
            [p.damage for p in frontier.points],
            strength,
            effects.tolist(),
        )

    assert_alike(work)


def test_trials():
    judge = MarkerJudge(("WAIT",), lambda prompt, text: text.split().count("left") / len(text.split()))
    config = EndogenousResistanceConfig(tokens=4, queries=2, trials=2, repetition_penalty=1.2, levels=2)

    def work(device):
        backbone, sae = model_on(device), dictionary(device)
        directions = {f"to {site}": learn(CAA, backbone, CONTRAST, site=site) for site in SITES}
        procedure = EndogenousResistance(config)
        strengths = procedure.calibrate(backbone, ["up", "down right"], directions, judge, seed=0)
        measured = {name: each.strength for name, each in strengths.items()}
        done = procedure.measure(backbone, ["up"], directions, judge, measured, seed=1)
        extra = {SITES[1]: [ScaleFeature(sae, [1, 2], 0.0), Scale(1.5)]}
        again = procedure.replay(backbone, done, directions, judge, extra=extra)
        return measured, [[trial.response for trial in each] for each in (done, again)]

    assert_alike(work)


def operations(device, sae):
    """Return operations by name, with something for each of two rows where that is possible."""
    random, by_row = generator(0, "vectors"), torch.tensor([0.5, -2.0])
    vectors = torch.randn(3, 2, WIDTH, generator=random)
    return {
        "add": Add(vectors[0], strength=by_row, positions=slice(torch.tensor([0, 1]), None)),
        "scale": Scale(by_row, when=torch.tensor([True, False])),
        "zero": Zero(positions=lambda place: (place % 2 == 1).float()),
        "replace": Replace(vectors[1].to(device), when=lambda h: h[..., 0] > 0),
        "resample": Resample(vectors[1], seed=3),
        "out": ProjectOut(vectors[2]),
        "onto": ProjectOnto(vectors[2].to(device), strength=by_row),
        "clamp": Clamp(vectors[0], low=by_row, high=torch.tensor([1.0, 1.0])),
        "patch": Patch(vectors[:2], places=[0, 1]),
        "add feature": AddFeature(sae, [1, 5], by_row.to(device)),
        "clamp feature": ClampFeature(sae, 3, 2.0, strength=by_row),
        "scale feature": ScaleFeature(sae, [3, 4], torch.tensor([[2.0, 0.0], [0.5, 1.0]])),
    }


def test_operations():
    def work(device):
        backbone, sae = model_on(device), dictionary(device)
        given = backbone.encode(["up left down", "right left"])
        logits = {}
        with torch.no_grad():
            for name, op in operations(device, sae).items():
                with edit(backbone.model, {SITES[0]: op}):
                    logits[name] = backbone.model(**given).logits
                if name in ("resample", "patch", "zero", "replace"):
                    continue
                with prepare(backbone.model, {SITES[0]: op}, rows=2) as prepared:
                    prepared[SITES[0]].set(strength=torch.tensor([1.0, 0.3]))
                    logits[f"prepared {name}"] = backbone.model(**given).logits
        space = (
            Subspace(SubspaceConfig(width=WIDTH, rank=2)).to(device).set(torch.randn(2, WIDTH, generator=generator(0)))
        )
        with torch.no_grad(), space.on(backbone.model, site=SITES[1]):
            logits["subspace"] = backbone.model(**given).logits
        return logits

    assert_alike(work)


def test_features(tmp_path):
    def work(device):
        backbone, sae = model_on(device), dictionary(device)
        writer = ActivationWriter(tmp_path / device.type, megabytes=0.001)
        with torch.no_grad(), capture(backbone.model, SITES, positions="tokens", into=writer):
            for batch in backbone.batches(TEXTS, 4):
                backbone.model(**batch)
        reader = ActivationReader(tmp_path / device.type)
        chosen = torch.randperm(len(reader), generator=generator(0, "rows", device=device), device=device)[:20]
        h = reader.rows(SITES[0], chosen).to(device)
        training = SparseAutoencoderTraining(dead_after=1, revive_k=4)
        learner = SparseAutoencoderLearner(sae, training)
        losses = [learner.step({"h": h}, step=step)["loss"] for step in range(2)]
        learner.load_state_dict(learner.state_dict())
        code = [pooled_code(backbone, sae, SITES[0], side) for side in (CONTRAST.positive, CONTRAST.negative)]
        detectors = [contrastive_latents(*code, rule=rule, k=3) for rule in ("strict", "gap", "auc")]
        levels = torch.cat(code).mean(0)
        drawn = matched_random(levels, [int(levels.argmax())], seed=0, within=9.0), random_active(levels, 2, seed=0)
        return losses, code, [each.latents for each in detectors], drawn

    assert_alike(work)


class Seen(TorchDispatchMode):
    """Notes on which device an operation finds its first tensor."""

    def __init__(self, name):
        super().__init__()
        self.name, self.devices = name, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() == self.name:
            self.devices.append(args[0].device)
        return func(*args, **(kwargs or {}))


def test_noise_is_drawn_where_the_logits_are():
    with other_device() as device:
        backbone = model_on(device)
        directions = {"aside": learn(CAA, backbone, CONTRAST, site=SITES[0])}
        with Seen("aten::exponential_") as seen:
            run_trials(backbone, [Order("up", "aside", 0.0, 0)], directions, lambda *_: (), Sampling(tokens=3))
    assert seen.devices == [device] * len(seen.devices) != []


def test_a_choice_among_many_latents_does_not_wait_for_each():
    on, off = torch.rand(2, 5, 500, generator=generator(0, "codes"))
    with Seen("aten::_local_scalar_dense") as seen:
        found = contrastive_latents(on, off, rule="gap", k=3).latents
    assert found == (off.mean(0) - on.mean(0)).argsort(descending=True)[:3].tolist()
    assert len(seen.devices) < 10
