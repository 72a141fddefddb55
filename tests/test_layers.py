"""The light layer stays light: three guards catch what each other miss; import-linter's contracts run in `nox -s
lint`."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "jaxtyping",
    "matplotlib",
    "rich",
    "safetensors",
    "gymnasium",
    "mujoco",
    "dm_control",
}


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_plugin_module_imports_nothing_heavy(package):
    short = package.name.removeprefix("latent-")
    modules = modules_after(f"import latent.{short}._plugin")
    assert not modules & HEAVY
    siblings = {name for name in modules if name.startswith("latent.")} - {"latent.core"}
    allowed = ("latent.core", f"latent.{short}")
    assert all(name.startswith(allowed) for name in siblings), siblings


@pytest.mark.parametrize(
    "module", ["errors", "files", "config", "plugins.manager", "registry", "cli.main", "cli.catalogue", "report.claims"]
)
def test_the_light_layer_imports_nothing_heavy(module):
    assert not modules_after(f"import latent.core.{module}") & HEAVY


def ruff(root, path):
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID253", "--stdin-filename", path, "-"]
    return subprocess.run(command, input="import torch\n", capture_output=True, text=True, check=False, cwd=root)


@pytest.mark.parametrize(
    "path", ["core/plugins/x.py", "core/cli/x.py", "core/config.py", "core/registry.py", "core/_plugin.py"]
)
def test_ruff_bans_torch_in_the_light_layer(root, path):
    done = ruff(root, f"packages/latent-core/src/latent/{path}")
    assert "TID253" in done.stdout, done


@pytest.mark.parametrize("path", ["core/nn/x.py", "core/run/x.py", "core/typing.py"])
def test_ruff_allows_torch_elsewhere(root, path):
    assert ruff(root, f"packages/latent-core/src/latent/{path}").returncode == 0


def test_a_lazy_package_reports_typos(package):
    short = package.name.removeprefix("latent-")
    module = __import__(f"latent.{short}", fromlist=["x"])
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018
    for name in dir(module):
        assert getattr(module, name) is not None or name.startswith("__")
