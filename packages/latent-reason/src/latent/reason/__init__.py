"""Reasoning in latent space, around any causal language model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent.reason.backbones import load as load
    from latent.reason.baselines.written import BASELINES as BASELINES
    from latent.reason.data.loaders import load_problems as load_problems
    from latent.reason.data.problem import Problem as Problem
    from latent.reason.data.problem import Problems as Problems
    from latent.reason.grading import final_answer as final_answer
    from latent.reason.grading import same_answer as same_answer
    from latent.reason.methods.coconut import Coconut as Coconut
    from latent.reason.methods.coconut import CoconutConfig as CoconutConfig
    from latent.reason.methods.coconut import CoconutLearner as CoconutLearner
    from latent.reason.methods.coconut import CoconutTraining as CoconutTraining
    from latent.reason.methods.coconut import Curriculum as Curriculum
    from latent.reason.methods.coconut import examples_of as examples_of
    from latent.reason.methods.coconut import with_markers as with_markers
    from latent.reason.methods.intention_collapse import IntentionCollapse as IntentionCollapse
    from latent.reason.methods.intention_collapse import IntentionCollapseConfig as IntentionCollapseConfig
    from latent.reason.methods.latent_trajectory import LatentTrajectory as LatentTrajectory
    from latent.reason.methods.latent_trajectory import LatentTrajectoryConfig as LatentTrajectoryConfig
    from latent.reason.methods.latentmas import LatentMAS as LatentMAS
    from latent.reason.methods.latentmas import LatentMASConfig as LatentMASConfig
    from latent.reason.methods.latentseek import LatentSeek as LatentSeek
    from latent.reason.methods.latentseek import LatentSeekConfig as LatentSeekConfig
    from latent.reason.reasoner import Reasoner as Reasoner
    from latent.reason.rewards import ExactReward as ExactReward
    from latent.reason.rewards import SelfReward as SelfReward
    from latent.reason.trace import Budget as Budget
    from latent.reason.trace import Cost as Cost
    from latent.reason.trace import Trace as Trace
    from latent.reason.trajectory import TrajectoryRecorder as TrajectoryRecorder
else:  # lazily, so that looking for plugins never imports torch; hidden from type checkers, so that typos are reported
    _WHERE = {
        "BASELINES": "baselines.written",
        "Budget": "trace",
        "Coconut": "methods.coconut",
        "CoconutConfig": "methods.coconut",
        "CoconutLearner": "methods.coconut",
        "CoconutTraining": "methods.coconut",
        "Cost": "trace",
        "Curriculum": "methods.coconut",
        "ExactReward": "rewards",
        "IntentionCollapse": "methods.intention_collapse",
        "IntentionCollapseConfig": "methods.intention_collapse",
        "LatentMAS": "methods.latentmas",
        "LatentMASConfig": "methods.latentmas",
        "LatentSeek": "methods.latentseek",
        "LatentSeekConfig": "methods.latentseek",
        "LatentTrajectory": "methods.latent_trajectory",
        "LatentTrajectoryConfig": "methods.latent_trajectory",
        "Problem": "data.problem",
        "Problems": "data.problem",
        "Reasoner": "reasoner",
        "SelfReward": "rewards",
        "Trace": "trace",
        "TrajectoryRecorder": "trajectory",
        "examples_of": "methods.coconut",
        "final_answer": "grading",
        "load": "backbones",
        "load_problems": "data.loaders",
        "same_answer": "grading",
        "with_markers": "methods.coconut",
    }
    __all__ = [*_WHERE]

    def __getattr__(name):  # noqa: ANN001, ANN202
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202
        return sorted([*globals(), *_WHERE])
