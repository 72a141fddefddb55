"""What latent-rl offers."""

from collections.abc import Iterator

from latent.core.plugins import BenchmarkSpec, EnvironmentSpec, MethodSpec, hookimpl


@hookimpl
def latent_methods() -> Iterator[MethodSpec]:
    """Yield the methods of this package."""
    yield MethodSpec(
        name="rl/td-jepa",
        target="latent.rl.methods.td_jepa:TDJEPA",
        config="latent.rl.methods.td_jepa:TDJEPAConfig",
        learner="latent.rl.methods.td_jepa:TDJEPALearner",
        experiment="latent.rl.experiments.td_jepa:experiment",
        specimen="latent.rl.experiments.specimens:td_jepa",
        summary="Zero-shot RL from reward-free data by TD latent prediction.",
        capabilities=("Encodes", "Acts", "InfersTask"),
        paper="2510.00739",
        title="TD-JEPA: Latent-predictive Representations for Zero-Shot Reinforcement Learning",
        authors="Bagatella, Marco and Pirotta, Matteo and Touati, Ahmed and Lazaric, Alessandro and Tirinzoni, Andrea",
        year=2025,
        requires=("dm_control", "mujoco"),
        extra="latent-rl[mujoco]",
    )


@hookimpl
def latent_environments() -> Iterator[EnvironmentSpec]:
    """Yield the families of environments."""
    yield EnvironmentSpec(
        name="dm_control",
        target="latent.rl.envs.dm_control:make",
        summary="DeepMind Control Suite, such as dm_control/walker-walk.",
        requires=("dm_control", "mujoco"),
        extra="latent-rl[mujoco]",
    )
    yield EnvironmentSpec(
        name="point_mass",
        target="latent.rl.envs.point_mass:make",
        summary="Point mass with goals in the corners, such as point_mass/top-left.",
        requires=("dm_control", "mujoco"),
        extra="latent-rl[mujoco]",
    )
    yield EnvironmentSpec(
        name="gymnasium",
        target="latent.rl.envs.gymnasium:make",
        summary="Any Gymnasium id with box actions, such as gymnasium/Pendulum-v1.",
        requires=("gymnasium",),
        extra="latent-rl",
    )


@hookimpl
def latent_benchmarks() -> Iterator[BenchmarkSpec]:
    """Yield the benchmarks of this package."""
    yield BenchmarkSpec(
        name="rl/point-mass-zero-shot",
        target="latent.rl.benchmarks.point_mass:zero_shot",
        summary="Reward in the four corners of a point mass, tasks inferred from rewards.",
        capabilities=("Acts", "InfersTask"),
        requires=("dm_control", "mujoco"),
        extra="latent-rl[mujoco]",
    )
