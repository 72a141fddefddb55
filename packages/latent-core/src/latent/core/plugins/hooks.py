"""The hooks of `latent`: one class holds them all.

A plugin is a light module named in the entry-point group `latent.plugins.v1`. It implements any of these hooks with
`@hookimpl`. Offer hooks take no argument and yield frozen specs; event hooks are told what a run does.

Example:
    A complete plugin module::

        from latent.core.plugins import MethodSpec, hookimpl


        @hookimpl
        def latent_methods():
            yield MethodSpec(name="acme/echo", target="acme.echo:Echo", summary="Repeats its input.")
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pluggy

from latent.core.plugins.specs import (
    BenchmarkSpec,
    CommandSpec,
    DatasetSpec,
    DoctorCheck,
    EnvironmentSpec,
    MethodSpec,
    MetricSpec,
    TrackerSpec,
)

__all__ = ["EVENTS", "OFFERS", "LatentHooks", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("latent")
hookimpl = pluggy.HookimplMarker("latent")


class LatentHooks:
    """All hooks that a plugin may implement."""

    @hookspec
    def latent_methods(self) -> Iterable[MethodSpec]:  # type: ignore[empty-body]
        """Yield the methods of this package."""

    @hookspec
    def latent_benchmarks(self) -> Iterable[BenchmarkSpec]:  # type: ignore[empty-body]
        """Yield evaluation protocols."""

    @hookspec
    def latent_environments(self) -> Iterable[EnvironmentSpec]:  # type: ignore[empty-body]
        """Yield families of environments; `dm_control/walker-walk` is task `walker-walk` of the family `dm_control`."""

    @hookspec
    def latent_datasets(self) -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
        """Yield data sets."""

    @hookspec
    def latent_metrics(self) -> Iterable[MetricSpec]:  # type: ignore[empty-body]
        """Yield metrics."""

    @hookspec
    def latent_commands(self) -> Iterable[CommandSpec]:  # type: ignore[empty-body]
        """Yield subcommands of `latent`."""

    @hookspec
    def latent_trackers(self) -> Iterable[TrackerSpec]:  # type: ignore[empty-body]
        """Yield trackers for `latent run --tracker NAME`."""

    @hookspec
    def latent_doctor_checks(self) -> Iterable[DoctorCheck]:  # type: ignore[empty-body]
        """Yield checks for `latent doctor`."""

    @hookspec
    def latent_run_started(self, folder: Path, method: str) -> None:
        """Learn that a run begins or goes on in `folder`."""

    @hookspec
    def latent_step(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Learn of one logged row of metrics."""

    @hookspec
    def latent_run_finished(self, folder: Path, method: str) -> None:
        """Learn that a run has written its report."""


#: Offer hooks by kind, with the class of what they yield.
OFFERS: dict[str, tuple[str, type]] = {
    "method": ("latent_methods", MethodSpec),
    "benchmark": ("latent_benchmarks", BenchmarkSpec),
    "environment": ("latent_environments", EnvironmentSpec),
    "dataset": ("latent_datasets", DatasetSpec),
    "metric": ("latent_metrics", MetricSpec),
    "command": ("latent_commands", CommandSpec),
    "tracker": ("latent_trackers", TrackerSpec),
    "doctor check": ("latent_doctor_checks", DoctorCheck),
}

EVENTS = ("latent_run_started", "latent_step", "latent_run_finished")
