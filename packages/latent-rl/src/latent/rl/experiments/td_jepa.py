"""The experiment of rl/td-jepa (arXiv:2510.00739): zero-shot tasks after training on data without rewards.

Every arm of one seed trains on the same collected transitions with the same batches, networks and actor; they differ in
the representation's objective alone. The small world is dm_control's point mass with goals in the four corners: at the
`cpu` preset its claims must hold. `gpu` and `paper` use the walker.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from latent.core.config import setting
from latent.core.errors import UnknownName
from latent.core.metrics.rank import effective_rank
from latent.core.metrics.stats import bootstrap_interval, probability_of_improvement
from latent.core.report.claims import AtLeast, AtMost, Below, Claim, Control, Exceeds, judge
from latent.core.report.figures import Curve, Figure, Panel, bars_with_intervals, lines, trajectories
from latent.core.report.report import Report, Table
from latent.core.run.context import ArmContext
from latent.core.run.experiment import Arm, ArmResult
from latent.core.run.seed import isolated
from latent.rl.baselines.byol_gamma import ByolGamma, ByolGammaLearner, ByolGammaTraining
from latent.rl.baselines.forward_backward import ForwardBackward, ForwardBackwardLearner, ForwardBackwardTraining
from latent.rl.data.buffer import TransitionBuffer, TransitionSource
from latent.rl.data.collect import SmoothedRandom, collect
from latent.rl.data.rnd import RND, RNDConfig
from latent.rl.envs.point_mass import GOALS
from latent.rl.experiments.zero_shot import (
    Arena,
    PointMassWorld,
    Scores,
    SuiteWorld,
    World,
    infer_tasks,
    policy,
    random_tasks,
    summarise,
    uniform,
)
from latent.rl.methods.td_jepa import TDJEPA, TDJEPAConfig, TDJEPALearner, TDJEPATraining
from latent.rl.nn.agent import ZeroShotAgent
from latent.rl.nn.learner import ZeroShotLearner

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["ARMS", "CLAIMS", "PRESETS", "TDJEPAExperiment", "experiment", "run_arm"]


@dataclass(frozen=True, kw_only=True)
class TDJEPAExperiment:
    """Settings of the experiment."""

    world: Literal["point-mass", "walker", "cheetah", "quadruped"] = setting("point-mass", "Where the agent lives.")
    collector: Literal["smoothed-random", "rnd"] = setting("smoothed-random", "Who collects the data.", paper="rnd")
    episodes: int = setting(250, "Episodes of data (smoothed-random).", paper="5,000")
    episode_length: int = setting(60, "Decisions in an episode of data.", paper="1,000")
    rnd: RNDConfig = setting(RNDConfig(), "The RND collector.")
    updates: int = setting(9_000, "Updates of every arm.", paper="2M")
    inference_samples: int = setting(5_000, "Rewards from which a task is inferred.", paper="10,000")
    evaluation_episodes: int = setting(20, "Episodes per task and condition.", paper="20")
    evaluate_every: int = setting(1_500, "Updates between two looks at rank, R2 and return.")
    agent: TDJEPAConfig = setting(TDJEPAConfig(), "Networks of every arm; obs_shape and action_dim follow the world.")
    training: TDJEPATraining = setting(TDJEPATraining(), "Training of every arm.")


_SMALL = TDJEPAExperiment(
    agent=TDJEPAConfig(
        obs_shape=(4,), action_dim=2, state_dim=32, task_dim=16, state_layers=2, task_layers=2, encoder_width=128,
        predictor_width=128, actor_width=128,
    ),
    training=TDJEPATraining(
        batch=256, lr_state=1e-3, lr_task=1e-3, lr_predictor=1e-3, lr_actor=1e-3,
        tau_encoder=0.005, tau_predictor=0.005,
    ),
)  # fmt: skip
_WALKER = TDJEPAExperiment(
    world="walker",
    collector="rnd",
    episode_length=1_000,
    inference_samples=10_000,
    evaluation_episodes=20,
    evaluate_every=100_000,
    updates=2_000_000,
    rnd=RNDConfig(steps=5_000_000),
)
PRESETS: Mapping[str, TDJEPAExperiment] = {
    "smoke": replace(_SMALL, episodes=20, updates=100, inference_samples=500, evaluation_episodes=1, evaluate_every=50),
    "cpu": _SMALL,
    "gpu": replace(
        _WALKER,
        collector="smoothed-random",
        episodes=300,
        updates=60_000,
        evaluation_episodes=10,
        evaluate_every=20_000,
        training=TDJEPATraining(dtype="bfloat16", compile=True),
    ),
    "paper": _WALKER,
}

ARMS: Mapping[str, Arm] = {
    "td-jepa": Arm("method", "TD-JEPA: phi and psi predict each other's discounted future.", quick=True),
    "fb": Arm("baseline", "Forward-backward representations with the same networks and actor.", quick=True),
    "byol-gamma": Arm("baseline", "Successor features on BYOL-gamma features, same networks and actor."),
    "symmetric": Arm("baseline", "TD-JEPA with one encoder and one predictor."),
    "gamma-0": Arm("control", "TD-JEPA with discount 0: predicts one step only."),
    "lambda-0": Arm("control", "TD-JEPA without orthonormality: features may collapse."),
    "untrained": Arm("control", "TD-JEPA's networks as initialised; also the random policy.", quick=True),
}

_TABLE_1 = "arXiv:2510.00739 Table 1"
_THEOREM_2 = "arXiv:2510.00739 section 4 and Theorem 2"
_UNTRAINED = Control(arm="untrained", measure="zero_shot", summary="untrained networks")
_RANDOM = Control(arm="td-jepa", measure="random_task", summary="random task vectors")
_WRONG = Control(arm="td-jepa", measure="wrong_goal", summary="vector of the opposite corner")
CLAIMS = (
    Claim(
        id="zero-shot",
        statement="Tasks inferred from rewards are solved without training: at least 0.55 reward per decision.",
        source=_TABLE_1,
        paper_value="479.3 of 1000 (point mass maze)",
        check=AtLeast(arm="td-jepa", measure="zero_shot", value=0.55),
        controls=(_UNTRAINED, _RANDOM, _WRONG),
    ),
    Claim(
        id="task-vector",
        statement="The inferred task vector matters: at least 0.35 above random vectors.",
        source=_TABLE_1,
        paper_value="not given",
        check=Exceeds(arm="td-jepa", measure="zero_shot", over=("td-jepa", "random_task"), margin=0.35),
        controls=(_UNTRAINED, _WRONG),
    ),
    Claim(
        id="right-goal",
        statement="It is the right task that is solved: at least 0.35 above the vector of the opposite corner.",
        source=_TABLE_1,
        paper_value="not given",
        check=Exceeds(arm="td-jepa", measure="zero_shot", over=("td-jepa", "wrong_goal"), margin=0.35),
        controls=(_UNTRAINED, _RANDOM),
    ),
    Claim(
        id="wrong-goal-below-random",
        statement="The vector of the opposite corner scores below uniformly random actions.",
        source=_TABLE_1,
        paper_value="not given",
        check=Below(arm="td-jepa", measure="wrong_goal", over=("untrained", "random_policy")),
        controls=(Control(arm="td-jepa", measure="zero_shot", summary="vector of the right corner"),),
    ),
    Claim(
        id="long-term",
        statement="Predicting the discounted future beats predicting one step (gamma = 0) by at least 0.2.",
        source="arXiv:2510.00739 section 3",
        paper_value="not given",
        check=Exceeds(arm="td-jepa", measure="zero_shot", over=("gamma-0", "zero_shot"), margin=0.2),
        controls=(_UNTRAINED, _RANDOM),
    ),
    Claim(
        id="orthonormality",
        statement="Orthonormality regularisation beats none (lambda = 0) by at least 0.2.",
        source=_THEOREM_2,
        paper_value="not given",
        check=Exceeds(arm="td-jepa", measure="zero_shot", over=("lambda-0", "zero_shot"), margin=0.2),
        controls=(_UNTRAINED, _RANDOM),
    ),
    Claim(
        id="no-collapse",
        statement="With regularisation psi keeps an effective rank of at least 6 of 16.",
        source=_THEOREM_2,
        paper_value="no collapse",
        check=AtLeast(arm="td-jepa", measure="task_effective_rank", value=6.0),
        controls=(Control(arm="lambda-0", measure="task_effective_rank", summary="no orthonormality"),),
    ),
    Claim(
        id="collapse",
        statement="Without regularisation psi's effective rank falls to 5 or less.",
        source=_THEOREM_2,
        paper_value="collapse",
        check=AtMost(arm="lambda-0", measure="task_effective_rank", value=5.0),
        controls=(Control(arm="td-jepa", measure="task_effective_rank", summary="with orthonormality"),),
    ),
)

_TASKS = {
    "walker": ("stand", "walk", "run", "spin"),
    "cheetah": ("walk", "run", "walk_backward", "run_backward"),
    "quadruped": ("stand", "walk", "run", "jump"),
}


def run_arm(arm: str, config: TDJEPAExperiment, context: ArmContext) -> ArmResult:
    """Collect (or read) the data of this seed, train the arm's agent and measure it in every task."""
    world = _world(config)
    buffer = TransitionBuffer(context.artifact("transitions", lambda: _collect(world, config, context), shared=True))
    agent, learner = _build(arm, config, buffer, context)
    arena = Arena(world, episodes=config.evaluation_episodes, seed=context.seed)

    def look(step: int) -> dict[str, float]:
        tasks, fits = infer_tasks(agent.eval(), world, buffer, samples=config.inference_samples, seed=context.seed)
        score = arena.play(policy(agent, tasks.repeat_interleave(config.evaluation_episodes, 0)))
        agent.train()
        return {**_ranks(agent, buffer), "inference_r2": sum(fits.values()) / len(fits), "zero_shot": score.mean}

    if learner is not None:
        future = config.training.discount if arm == "byol-gamma" else None
        source = TransitionSource(buffer, batch_size=config.training.batch, future=future)
        context.fit(learner, source, config.updates, evaluate=look, evaluate_every=config.evaluate_every)
    agent.eval()
    if arm == "td-jepa":
        context.save(agent)
    tasks, fits = infer_tasks(agent, world, buffer, samples=config.inference_samples, seed=context.seed)
    scores = _score(agent, tasks, world, arena, reference=arm == "untrained", seed=context.seed)
    arena.close()
    measures = {**summarise(scores, world), **_ranks(agent, buffer), "inference_r2": sum(fits.values()) / len(fits)}
    measures |= {f"inference_r2/{task}": fit for task, fit in fits.items()}
    arrays = {f"rewards/{name}": score.rewards for name, score in scores.items()}
    return ArmResult(measures, {**arrays, "paths": scores["zero_shot"].paths})


def experiment(config: TDJEPAExperiment, context: "RunContext") -> Report:
    """Run the arms and report return per task, trajectories, rank and R2 over training, and the claims' verdicts."""
    results = context.run_arms(config)
    world = _world(config)
    if "td-jepa" in results:
        context.adopt_model(results, "td-jepa")
    conditions = _conditions(results, len(context.seeds))
    figures = [_bars(conditions), *_paths(results, world, context.seeds[0]), *_curves(results)]
    # A run of the quick arms alone could not judge most claims; its note says what can.
    stated_here = context.options.preset == "cpu" and config.world == "point-mass"
    verdicts = [judge(claim, results) for claim in CLAIMS] if stated_here and context.options.arms == ("all",) else []
    return context.report(
        title="TD-JEPA: zero-shot tasks from data without rewards",
        config=config,
        summary=_headline(conditions, verdicts),
        numbers={name: float(rewards.mean()) for name, rewards in conditions.items()},
        tables=[_return_table(conditions, world), _feature_table(results), *_improvement_table(conditions)],
        figures=figures,
        verdicts=verdicts,
        notes=_notes(config, context, results),
        artefacts=["model/model.safetensors", "model/config.json"] if "td-jepa" in results else [],
    )


# Data and agents -----------------------------------------------------------------------------------------------------


def _world(config: TDJEPAExperiment) -> World:
    return PointMassWorld() if config.world == "point-mass" else SuiteWorld(config.world, _TASKS[config.world])


def _collect(world: World, config: TDJEPAExperiment, context: ArmContext) -> dict[str, Tensor]:
    environment = world.for_data(config.episode_length)

    def progress(done: int, total: int) -> None:
        context.report_progress("collect", done, total)

    if config.collector == "rnd":
        explorer = RND(
            environment.observation_size, environment.action_size, config.rnd, seed=context.seed, device=context.device
        )
        buffer = explorer.collect(environment, on_progress=progress)
    else:
        behaviour = SmoothedRandom(environment.action_size)
        buffer = collect(environment, behaviour, config.episodes, seed=context.seed, on_progress=progress)
    environment.close()
    return {key: buffer[key] for key in buffer.keys()}  # noqa: SIM118 - not a dict


def _build(
    arm: str, config: TDJEPAExperiment, buffer: TransitionBuffer, context: ArmContext
) -> tuple[ZeroShotAgent, ZeroShotLearner | None]:
    """Return the arm's agent and learner; every agent starts from the same random stream."""
    agent_config = replace(config.agent, obs_shape=buffer.observation_shape, action_dim=buffer.action_size)
    training = config.training
    if context.dtype is torch.bfloat16:
        training = replace(training, dtype="bfloat16")
    if arm == "symmetric":
        agent_config = replace(agent_config, symmetric=True, state_dim=agent_config.task_dim)
    elif arm == "gamma-0":
        training = replace(training, discount=0.0)
    elif arm == "lambda-0":
        training = replace(training, orthonormality_state=0.0, orthonormality_task=0.0)
    placed: dict[str, Any] = {"seed": context.seed, "device": context.device}
    with isolated(context.seed, "agent"):
        if arm == "fb":
            forward_backward = ForwardBackward(_shared(agent_config, ForwardBackward.Config))
            return forward_backward, ForwardBackwardLearner(
                forward_backward, _shared(training, ForwardBackwardTraining), **placed
            )
        if arm == "byol-gamma":
            byol = ByolGamma(_shared(agent_config, ByolGamma.Config))
            return byol, ByolGammaLearner(byol, _shared(training, ByolGammaTraining), **placed)
        if arm not in ARMS:
            raise UnknownName.of("arm", arm, ARMS)
        agent = TDJEPA(agent_config)
    return agent.to(context.device), None if arm == "untrained" else TDJEPALearner(agent, training, **placed)


def _shared(config: Any, target: Callable[..., Any]) -> Any:
    """Return `target` with every setting that it shares with `config`: baselines get the method's own settings."""
    names = set(getattr(target, "__dataclass_fields__")) & set(config.__dataclass_fields__)  # noqa: B009
    return target(**{name: getattr(config, name) for name in names})


# Measures ------------------------------------------------------------------------------------------------------------


def _ranks(agent: ZeroShotAgent, buffer: TransitionBuffer) -> dict[str, float]:
    obs = buffer["obs"][:: max(1, len(buffer) // 5_000)].to(agent.task_moment.device)
    with torch.no_grad():
        return {
            "task_effective_rank": float(effective_rank(agent.encode_task(obs), of="variances")),
            "state_effective_rank": float(effective_rank(agent.encode(obs), of="variances")),
        }


def _score(
    agent: ZeroShotAgent, tasks: Tensor, world: World, arena: Arena, *, reference: bool, seed: int
) -> dict[str, Scores]:
    each = arena.episodes
    wrong = torch.stack([tasks[world.tasks.index(world.wrong(task))] for task in world.tasks])
    scores = {
        "zero_shot": arena.play(policy(agent, tasks.repeat_interleave(each, 0))),
        "wrong_goal": arena.play(policy(agent, wrong.repeat_interleave(each, 0))),
        "random_task": arena.play(policy(agent, random_tasks(agent, arena.rows, seed=seed))),
    }
    if reference:
        scores["random_policy"] = arena.play(uniform(arena.rows, arena.action_size, seed=seed))
        if isinstance(world, PointMassWorld):
            scores["controller"] = arena.play(world.controller(each))
    return scores


# Report --------------------------------------------------------------------------------------------------------------

_LABELS = {
    ("td-jepa", "zero_shot"): "TD-JEPA",
    ("fb", "zero_shot"): "FB",
    ("byol-gamma", "zero_shot"): "BYOL-gamma",
    ("symmetric", "zero_shot"): "TD-JEPA, symmetric",
    ("gamma-0", "zero_shot"): "TD-JEPA, gamma = 0",
    ("lambda-0", "zero_shot"): "TD-JEPA, lambda = 0",
    ("td-jepa", "random_task"): "TD-JEPA, random task vector",
    ("td-jepa", "wrong_goal"): "TD-JEPA, wrong goal",
    ("untrained", "zero_shot"): "untrained networks",
    ("untrained", "random_policy"): "random actions",
    ("untrained", "controller"): "controller that knows the goal",
}


def _conditions(results: "Results", seeds: int) -> dict[str, Tensor]:
    """Rewards per decision of every condition, `[seeds x episodes, tasks]`."""
    found = {}
    for (arm, measure), label in _LABELS.items():
        if arm in results and measure in results[arm][0]:
            found[label] = torch.cat([results.arrays(arm, index)[f"rewards/{measure}"].T for index in range(seeds)])
    return found


def _interval(rewards: Tensor) -> tuple[float, float, float]:
    interval = bootstrap_interval(rewards, "mean", generator=torch.Generator().manual_seed(0))
    return float(interval.estimate), float(interval.low), float(interval.high)


def _headline(conditions: Mapping[str, Tensor], verdicts: list[Any]) -> str:
    if any(verdict.status != "not enough seeds" for verdict in verdicts) or "TD-JEPA" not in conditions:
        return ""  # the verdicts speak
    others = [name for name in ("FB", "random actions") if name in conditions]
    compared = ", ".join(f"{name} {float(conditions[name].mean()):.2f}" for name in others)
    earned = (
        f"TD-JEPA earns {float(conditions['TD-JEPA'].mean()):.2f} of 1 per decision in tasks that it never trained on"
    )
    return f"{earned} ({compared})." if compared else f"{earned}."


def _bars(conditions: Mapping[str, Tensor]) -> Figure:
    return bars_with_intervals(
        "returns",
        {label: _interval(rewards) for label, rewards in conditions.items()},
        label="mean reward per decision",
        caption="Mean reward per decision over all tasks, with 95 % bootstrap intervals over episodes.",
        emphasis=("TD-JEPA",),
    )


def _curves(results: "Results") -> list[Figure]:
    """Rank, R2 and return over training, the mean over seeds with their range."""
    drawn = {
        "task_effective_rank": ("rank", "effective rank of psi", "Effective rank of the task encoding over training."),
        "inference_r2": ("r2", "R2", "Share of the rewards' variance that the task encoding explains, over training."),
        "zero_shot": ("learning", "mean reward per decision", "Zero-shot reward over training."),
    }
    figures = []
    for key, (name, label, caption) in drawn.items():
        curves = {}
        for arm in results:
            seeds = [
                {row["step"]: row[key] for row in results.metrics(arm, index=index) if key in row}
                for index in range(len(results[arm]))
            ]
            steps = sorted(set.intersection(*(set(seed) for seed in seeds)))
            if steps:
                values = torch.tensor([[seed[step] for step in steps] for seed in seeds])
                low, high = (values.amin(0), values.amax(0)) if len(seeds) > 1 else (None, None)
                label_of_arm = _LABELS.get((arm, "zero_shot"), arm)
                curves[label_of_arm] = Curve(steps=steps, values=values.mean(0), low=low, high=high)
        if curves:
            figures.append(lines(name, curves, x_label="updates", y_label=label, caption=caption))
    return figures


def _paths(results: "Results", world: World, seed: int) -> list[Figure]:
    if not isinstance(world, PointMassWorld) or "td-jepa" not in results:
        return []
    paths = results.arrays("td-jepa")["paths"]
    panels = {task: Panel(paths=list(paths[index]), goal=GOALS[task]) for index, task in enumerate(world.tasks)}
    caption = (
        f"Paths in the plane with the task vector inferred for each goal (seed {seed}; rings: starts, stars: goals)."
    )
    return [trajectories("paths", panels, caption=caption, bounds=(-0.3, 0.3, -0.3, 0.3))]


def _return_table(conditions: Mapping[str, Tensor], world: World) -> Table:
    rows = []
    for label, rewards in conditions.items():
        mean, low, high = _interval(rewards)
        interval = f"{low:.3f} to {high:.3f}" if len(rewards) > 1 else None
        rows.append([label, *(f"{value:.3f}" for value in rewards.mean(0)), f"{mean:.3f}", interval])
    columns = ["agent", *world.tasks, "mean", "95 % interval"]
    return Table(
        title="Mean reward per decision", columns=columns, rows=rows, note=f"Episodes per task: {len(rewards)}."
    )


def _feature_table(results: "Results") -> Table:
    rows = []
    for arm, seeds in results.items():
        keys = ("task_effective_rank", "state_effective_rank", "inference_r2")
        means = [sum(seed[key] for seed in seeds) / len(seeds) for key in keys]
        rows.append([arm, ARMS[arm].role, *(f"{mean:.2f}" for mean in means)])
    columns = ["arm", "role", "rank of psi", "rank of phi", "R2 of task inference"]
    return Table(title="Features after training", columns=columns, rows=rows)


def _improvement_table(conditions: Mapping[str, Tensor]) -> list[Table]:
    """How often TD-JEPA beats each baseline on a random task and episode."""
    rows = []
    for label in ("FB", "BYOL-gamma", "TD-JEPA, symmetric"):
        if label in conditions and "TD-JEPA" in conditions:
            stream = torch.Generator().manual_seed(0)
            better = probability_of_improvement(conditions["TD-JEPA"], conditions[label], generator=stream)
            rows.append(
                [label, f"{float(better.estimate):.2f}", f"{float(better.low):.2f} to {float(better.high):.2f}"]
            )
    columns = ["baseline", "probability", "95 % interval"]
    return [Table(title="Probability that TD-JEPA beats a baseline", columns=columns, rows=rows)] if rows else []


def _notes(config: TDJEPAExperiment, context: "RunContext", results: "Results") -> list[str]:
    seconds = ", ".join(f"{arm} {sum(results.seconds(arm)) / len(results[arm]):.0f}" for arm in results)
    notes = [f"Seeds {', '.join(map(str, context.seeds))}. Seconds per arm, collection included: {seconds}."]
    if context.options.preset != "cpu" or config.world != "point-mass":
        notes.append("The claims are stated for the preset cpu on the point mass; this run gives no verdict on them.")
    elif context.options.arms != ("all",) or len(context.seeds) < 3:
        notes.append("A verdict on a claim needs three seeds and all controls: latent reproduce rl/td-jepa.")
    return notes
