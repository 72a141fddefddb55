"""The packages share one namespace without owning it."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

PORTIONS = sorted(
    name for name in {dist.name for dist in importlib.metadata.distributions()} if name.startswith("latent-")
)


def test_the_namespace_has_no_file():
    import latent

    assert getattr(latent, "__file__", None) is None
    assert PORTIONS


@pytest.mark.parametrize(
    "distribution",
    [
        name
        for name in PORTIONS
        if name in ("latent-core", "latent-rl", "latent-reason", "latent-steer", "latent-causal", "latent-gen")
    ],
)
def test_every_portion_registers_its_plugin(distribution):
    done = subprocess.run(
        [sys.executable, "-m", "latent.core", "plugins", "--json"], capture_output=True, text=True, check=True
    )
    records = {row["name"]: row["status"] for row in json.loads(done.stdout)}
    assert records[f"{distribution}:{distribution.removeprefix('latent-')}"] == "loaded"
