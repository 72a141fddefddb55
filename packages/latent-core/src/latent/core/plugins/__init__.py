"""The plugin side of `latent`: everything that a plugin module may import, and nothing heavy."""

from latent.core.plugins.hooks import hookimpl as hookimpl
from latent.core.plugins.specs import BenchmarkSpec as BenchmarkSpec
from latent.core.plugins.specs import CommandSpec as CommandSpec
from latent.core.plugins.specs import DatasetSpec as DatasetSpec
from latent.core.plugins.specs import DoctorCheck as DoctorCheck
from latent.core.plugins.specs import EnvironmentSpec as EnvironmentSpec
from latent.core.plugins.specs import Health as Health
from latent.core.plugins.specs import MethodSpec as MethodSpec
from latent.core.plugins.specs import MetricSpec as MetricSpec
from latent.core.plugins.specs import TrackerSpec as TrackerSpec
