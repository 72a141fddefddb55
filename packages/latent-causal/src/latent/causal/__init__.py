"""Causal structure in latents: shared factors, effects of unseen actions, mediators, verified predictions."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent.causal.calibration import NoRegion as NoRegion
    from latent.causal.calibration import Region as Region
    from latent.causal.control_function import ControlFunction as ControlFunction
    from latent.causal.control_function import Do as Do
    from latent.causal.data.leaderboard import open_llm_leaderboard as open_llm_leaderboard
    from latent.causal.data.linear_sem import linear_domains as linear_domains
    from latent.causal.data.linear_sem import nested_span_error as nested_span_error
    from latent.causal.data.tables import DomainTable as DomainTable
    from latent.causal.data.tables import read_table as read_table
    from latent.causal.errors import DataError as DataError
    from latent.causal.errors import DataWarning as DataWarning
    from latent.causal.hca_study import study_domains as study_domains
    from latent.causal.methods.hca import HCA as HCA
    from latent.causal.methods.rep4ex import Rep4ExConfig as Rep4ExConfig
    from latent.causal.methods.rep4ex import Rep4ExLearner as Rep4ExLearner
    from latent.causal.methods.rep4ex import Rep4ExModel as Rep4ExModel
    from latent.causal.methods.right_mediator import MediationAnalysis as MediationAnalysis
    from latent.causal.methods.right_mediator import MediationConfig as MediationConfig
    from latent.causal.methods.sdm import SDM as SDM
    from latent.causal.methods.sdm import SDMConfig as SDMConfig
    from latent.causal.methods.sdm import SDMLearner as SDMLearner
    from latent.causal.methods.sdm import SDMOutput as SDMOutput
    from latent.causal.rep4ex_estimator import Rep4Ex as Rep4Ex
    from latent.causal.sdm_activation import sdm_cross_entropy as sdm_cross_entropy
    from latent.causal.sdm_activation import sdm_log_softmax as sdm_log_softmax
    from latent.causal.sdm_estimator import SDMEstimator as SDMEstimator
    from latent.causal.selective import selective_report as selective_report
    from latent.causal.subspaces import invariant_domains as invariant_domains
else:  # lazily, so that looking for plugins never imports torch; hidden from type checkers, so that typos are reported
    _WHERE = {
        "ControlFunction": "control_function",
        "DataError": "errors",
        "DataWarning": "errors",
        "Do": "control_function",
        "DomainTable": "data.tables",
        "HCA": "methods.hca",
        "MediationAnalysis": "methods.right_mediator",
        "MediationConfig": "methods.right_mediator",
        "NoRegion": "calibration",
        "Region": "calibration",
        "Rep4Ex": "rep4ex_estimator",
        "Rep4ExConfig": "methods.rep4ex",
        "Rep4ExLearner": "methods.rep4ex",
        "Rep4ExModel": "methods.rep4ex",
        "SDM": "methods.sdm",
        "SDMConfig": "methods.sdm",
        "SDMEstimator": "sdm_estimator",
        "SDMLearner": "methods.sdm",
        "SDMOutput": "methods.sdm",
        "invariant_domains": "subspaces",
        "linear_domains": "data.linear_sem",
        "nested_span_error": "data.linear_sem",
        "open_llm_leaderboard": "data.leaderboard",
        "read_table": "data.tables",
        "sdm_cross_entropy": "sdm_activation",
        "sdm_log_softmax": "sdm_activation",
        "selective_report": "selective",
        "study_domains": "hca_study",
    }

    def __getattr__(name):  # noqa: ANN001, ANN202
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202
        return sorted([*globals(), *_WHERE])
