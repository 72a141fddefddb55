"""What latent-core itself offers, through the same door as everybody."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from latent.core.plugins import DoctorCheck, Health, MethodSpec, MetricSpec, TrackerSpec, hookimpl


@hookimpl
def latent_methods() -> Iterator[MethodSpec]:
    """Yield what methods of several families make and save: they have an id to be loaded by, and no experiment."""
    yield MethodSpec(
        name="core/direction",
        target="latent.core.activations.directions:Direction",
        config="latent.core.activations.directions:DirectionConfig",
        specimen="latent.core.testing.directions:direction",
        summary="A direction of activations that knows its site, model and data.",
        capabilities=("Intervenes", "Scores"),
        status="stable",
    )
    yield MethodSpec(
        name="core/subspace",
        target="latent.core.activations.directions:Subspace",
        config="latent.core.activations.directions:SubspaceConfig",
        specimen="latent.core.testing.directions:subspace",
        summary="A subspace of activations that knows its site, model and data.",
        capabilities=("Intervenes",),
        status="stable",
    )


@hookimpl
def latent_metrics() -> Iterator[MetricSpec]:
    """Yield core's metrics."""
    yield MetricSpec(
        name="effective-rank",
        target="latent.core.metrics.rank:effective_rank",
        summary="Exponential of the entropy of the normalised singular values.",
    )
    yield MetricSpec(
        name="participation-ratio",
        target="latent.core.metrics.rank:participation_ratio",
        summary="Squared trace of the covariance over the trace of its square.",
    )
    yield MetricSpec(
        name="linear-cka",
        target="latent.core.metrics.similarity:linear_cka",
        summary="Linear centred kernel alignment of two representations.",
    )
    yield MetricSpec(
        name="mcc",
        target="latent.core.metrics.identifiability:mcc",
        summary="Mean correlation of best-matched latent coordinates.",
    )


@hookimpl
def latent_trackers() -> Iterator[TrackerSpec]:
    """Yield core's trackers."""
    yield TrackerSpec(
        name="tensorboard",
        target="latent.core.run.tracking:TensorBoardTracker",
        summary="TensorBoard event files in the run folder.",
        requires=("tensorboard",),
        extra="latent-core[tensorboard]",
    )


@hookimpl
def latent_doctor_checks() -> Iterator[DoctorCheck]:
    """Yield core's checks."""
    yield DoctorCheck(name="python", check=_python)
    yield DoctorCheck(name="torch", check=_torch)
    yield DoctorCheck(name="torchvision", check=_torchvision)
    yield DoctorCheck(name="data", check=_data)


def _python() -> Health:
    version = ".".join(map(str, sys.version_info[:3]))
    return Health(sys.version_info >= (3, 11), f"Python {version}", "Install Python 3.11 or newer.")


def _torch() -> Health:
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Health(True, f"torch {torch.__version__}, {', '.join(devices) or 'no CUDA device'}")


def _torchvision() -> Health:
    if importlib.util.find_spec("torchvision") is None:
        return Health(True, "not installed, and not needed")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        return Health(False, f"torchvision does not fit this torch: {error}", "Run: pip uninstall torchvision")
    return Health(True, "importable")


def _data() -> Health:
    folder = os.environ.get("LATENT_DATA")
    if folder is None:
        return Health(True, "LATENT_DATA is not set; bundled data only")
    return Health(Path(folder).is_dir(), f"LATENT_DATA={folder}", "Set LATENT_DATA to an existing folder or unset it.")
