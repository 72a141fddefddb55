"""Reinforcement learning in latent spaces."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent.rl.methods.td_jepa import TDJEPA as TDJEPA
    from latent.rl.methods.td_jepa import TDJEPAConfig as TDJEPAConfig
    from latent.rl.methods.td_jepa import TDJEPALearner as TDJEPALearner
else:  # lazily, so that looking for plugins never imports torch; hidden from type checkers, so that typos are reported
    _WHERE = {"TDJEPA": "methods.td_jepa", "TDJEPAConfig": "methods.td_jepa", "TDJEPALearner": "methods.td_jepa"}

    def __getattr__(name):  # noqa: ANN001, ANN202
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202
        return sorted([*globals(), *_WHERE])
