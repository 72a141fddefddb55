"""What latent-reason offers."""

from collections.abc import Iterator

from latent.core.plugins import CommandSpec, MethodSpec, hookimpl


@hookimpl
def latent_methods() -> Iterator[MethodSpec]:
    """Yield the methods of this package."""
    yield MethodSpec(
        name="reason/coconut",
        target="latent.reason.methods.coconut:Coconut",
        config="latent.reason.methods.coconut:CoconutConfig",
        learner="latent.reason.methods.coconut:CoconutLearner",
        experiment="latent.reason.experiments.coconut:experiment",
        specimen="latent.reason.experiments.specimens_coconut:coconut",
        summary="Coconut: states in place of written steps, taught by a curriculum.",
        capabilities=("Reasons",),
        paper="2412.06769",
        title="Training Large Language Models to Reason in a Continuous Latent Space",
        authors=(
            "Hao, Shibo and Sukhbaatar, Sainbayar and Su, DiJia and Li, Xian and Hu, Zhiting and Weston, Jason and "
            "Tian, Yuandong"
        ),
        year=2024,
    )
    yield MethodSpec(
        name="reason/latentmas",
        target="latent.reason.methods.latentmas:LatentMAS",
        config="latent.reason.methods.latentmas:LatentMASConfig",
        experiment="latent.reason.experiments.latentmas:experiment",
        specimen="latent.reason.experiments.specimens_latentmas:latentmas",
        summary="LatentMAS: agents think in latent steps and hand over caches.",
        capabilities=("Reasons",),
        paper="2511.20639",
        title="Latent Collaboration in Multi-Agent Systems",
        authors=(
            "Zou, Jiaru and Yang, Xiyuan and Qiu, Ruizhong and Li, Gaotang and Tieu, Katherine and Lu, Pan and "
            "Shen, Ke and Tong, Hanghang and Choi, Yejin and He, Jingrui and Zou, James and Wang, Mengdi and Yang, Ling"
        ),
        year=2025,
    )
    yield MethodSpec(
        name="reason/latentseek",
        target="latent.reason.methods.latentseek:LatentSeek",
        config="latent.reason.methods.latentseek:LatentSeekConfig",
        experiment="latent.reason.experiments.latentseek:experiment",
        specimen="latent.reason.experiments.specimens_latentseek:latentseek",
        summary="LatentSeek: policy gradients on the latents of one answer.",
        capabilities=("Reasons",),
        paper="2505.13308",
        title="Seek in the Dark: Reasoning via Test-Time Instance-Level Policy Gradient in Latent Space",
        authors=(
            "Li, Hengli and Li, Chenxi and Wu, Tong and Zhu, Xuekai and Wang, Yuxuan and Yu, Zhaoxin and "
            "Jiang, Eric Hanchen and Zhu, Song-Chun and Jia, Zixia and Wu, Ying Nian and Zheng, Zilong"
        ),
        year=2025,
    )
    yield MethodSpec(
        name="reason/latent-trajectory",
        target="latent.reason.methods.latent_trajectory:LatentTrajectory",
        config="latent.reason.methods.latent_trajectory:LatentTrajectoryConfig",
        experiment="latent.reason.experiments.latent_trajectory:experiment",
        specimen="latent.reason.experiments.specimens_latent_trajectory:latent_trajectory",
        summary="Latent-trajectory signals: choose a text by the path of its states.",
        capabilities=("Reasons",),
        paper="2510.10494",
        title="Tracing the Traces: Latent Temporal Signals for Efficient and Accurate Reasoning",
        authors=(
            "Vilas, Martina G. and Yousefi, Safoora and Nushi, Besmira and Horvitz, Eric and Balachandran, Vidhisha"
        ),
        year=2025,
    )
    yield MethodSpec(
        name="reason/intention-collapse",
        target="latent.reason.methods.intention_collapse:IntentionCollapse",
        config="latent.reason.methods.intention_collapse:IntentionCollapseConfig",
        experiment="latent.reason.experiments.intention_collapse:experiment",
        specimen="latent.reason.experiments.specimens_intention_collapse:intention_collapse",
        summary="Intention collapse: entropy, dimension and success read before writing.",
        capabilities=("Reasons",),
        paper="2601.01011",
        title="Intention Collapse: Intention-Level Metrics for Reasoning in Language Models",
        authors="Vera, Patricio M.",
        year=2026,
    )


@hookimpl
def latent_commands() -> Iterator[CommandSpec]:
    """Yield the commands of this package."""
    yield CommandSpec(
        name="reason",
        target="latent.reason.cli:reason",
        summary="Answer prompts with any method, and see what accuracy costs.",
        requires=("transformers",),
        extra="latent-reason",
    )
