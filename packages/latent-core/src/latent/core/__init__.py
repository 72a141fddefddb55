"""Core of `latent`: contracts, plugins, runner, reports and file formats that every package shares."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latent.core.config import setting as setting
    from latent.core.contract import Estimator as Estimator
    from latent.core.contract import Learner as Learner
    from latent.core.contract import Model as Model
    from latent.core.contract import Procedure as Procedure
    from latent.core.contract import Source as Source
    from latent.core.errors import LatentError as LatentError
    from latent.core.hub.auto import AutoLatent as AutoLatent
    from latent.core.typing import checked as checked
else:  # lazily, so that the command line never imports torch; hidden from type checkers, so that typos are reported
    _WHERE = {
        "AutoLatent": "hub.auto",
        "Estimator": "contract",
        "LatentError": "errors",
        "Learner": "contract",
        "Model": "contract",
        "Procedure": "contract",
        "Source": "contract",
        "checked": "typing",
        "setting": "config",
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
