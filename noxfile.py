#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.5.1"]
# ///
"""Every task of the repository: `nox -l` lists them, `nox -s NAME` runs one.

Packages are found by folder: adding one to `packages/` changes nothing here.
"""

import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint"]

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml"))
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
TESTS = [f"packages/{package}/tests" for package in PACKAGES]
# Files stay whole, because tests of a file share what is dear to make.
PARALLEL = ("-n", "auto", "--dist", "loadfile")
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
PINS = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))

# Libraries that read and write activations, which no package of ours needs. The first three fit our constraints.
ORACLES = ("nnsight==0.8.1", "pyvene==0.1.8", "transformer-lens==3.9.0")

# Two threads on two busy cores were measured 3 to 17 times slower than one; without bytecode every `import torch`
# costs 4 s.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"),
    "PYTHONDONTWRITEBYTECODE": "",
    "LATENT_DATA": os.environ.get("LATENT_DATA", str(ROOT.parent / "shared" / "data")),
}


def _prepare(session: nox.Session) -> None:
    """Set the environment; uv does not read pip's configuration, so pass on where pip finds a CPU build of torch."""
    session.env.update(ENVIRONMENT)
    session.env["UV_FIND_LINKS"] = os.environ.get("UV_FIND_LINKS") or ",".join(_find_links())


def _find_links() -> list[str]:
    """Return where pip is configured to find wheels; the interpreter that runs nox need not have pip itself."""
    for pip in ([sys.executable, "-m", "pip"], ["python3", "-m", "pip"], ["pip"]):
        if shutil.which(pip[0]):
            command = [*pip, "config", "get", "global.find-links"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.split()
    return os.environ.get("PIP_FIND_LINKS", "").split()


def _extras(package: str) -> list[str]:
    content = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8"))
    return sorted(set(content["project"].get("optional-dependencies", {})) - {"ray"})  # heavy: the session `ray` has it


def _with_extras(package: str, target: str) -> str:
    extras = _extras(package)
    return f"{target}[{','.join(extras)}]" if extras else target


def _wheels(session: nox.Session, packages: list[str]) -> dict[str, str]:
    """Build the packages' wheels and return the path of each."""
    session.install(*CONSTRAINTS, *GROUPS["build"])
    folder = Path(session.create_tmp())
    wheels = {}
    for package in packages:
        out = folder / package
        for old in out.glob("*.whl"):
            old.unlink()
        session.run(
            "python",
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(out),
            f"packages/{package}",
            silent=True,
        )
        (wheel,) = out.glob("*.whl")
        wheels[package] = str(wheel)
    return wheels


def _install_wheels(session: nox.Session, packages: list[str], *more: str) -> dict[str, str]:
    wheels = _wheels(session, packages)
    session.install(*CONSTRAINTS, *(_with_extras(package, wheel) for package, wheel in wheels.items()), *more)
    return wheels


def _install_editable(session: nox.Session, *more: str) -> None:
    targets = [_with_extras(package, f"./packages/{package}") for package in PACKAGES]
    session.install(*CONSTRAINTS, *(word for target in targets for word in ("-e", target)), *more)


@nox.session(reuse_venv=True)
def quickstart(session: nox.Session) -> None:
    """Train TD-JEPA on real physics, compare it with FB and its controls, write a report, reload the model and act."""
    _prepare(session)
    session.install(*CONSTRAINTS, "./packages/latent-core", "./packages/latent-rl[mujoco]")
    folder = f"runs/quickstart-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    session.run("latent", "run", "rl/td-jepa", "--preset", "cpu", "--seed", "0", "--out", folder, *session.posargs)
    session.run("python", "examples/rl/td_jepa.py", f"{folder}/model")


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests of all packages from their wheels, the repository's and the integration tests."""
    _prepare(session)
    wheels = _install_wheels(session, PACKAGES, *GROUPS["test"])
    session.env["LATENT_WHEELS"] = os.pathsep.join(wheels.values())
    present = [folder for folder in (*TESTS, "tests", "integration") if any((ROOT / folder).rglob("test_*.py"))]
    session.run("python", "-m", "pytest", *PARALLEL, *present, *session.posargs)


def _make_test_package(package: str) -> None:
    @nox.session(name=f"test-{package}")
    def test_package(session: nox.Session) -> None:
        """Run the tests of one package from its wheel alone (with the wheel of latent-core, which it stands on)."""
        _prepare(session)
        needed = sorted({"latent-core", package})
        _install_wheels(session, needed, *GROUPS["test"])
        session.run("python", "-m", "pytest", *PARALLEL, f"packages/{package}/tests", *session.posargs)


for _package in PACKAGES:
    _make_test_package(_package)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, types and layers."""
    _prepare(session)
    _install_editable(session, *GROUPS["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    portions = [word for package in PACKAGES for word in ("-p", package.replace("-", "."))]
    session.run("mypy", *portions)
    session.run("lint-imports", "--config", str(_import_contracts(Path(session.create_tmp()))))


def _import_contracts(folder: Path) -> Path:
    """Write the layers of docs/design.md as contracts of import-linter, for the packages that there are."""
    roots = [package.replace("-", ".") for package in PACKAGES]
    siblings = [root for root in roots if root != "latent.core"]
    contracts = {
        "layers": {
            "name": "Layers of latent-core",
            "type": "layers",
            "containers": ["latent.core"],
            "layers": [
                "cli", "testing", "run : hub : report : language",
                "activations : nn : metrics : capabilities : contract : typing",
                "registry", "plugins", "config", "errors",
            ],
        },
        "core": {
            "name": "Core imports no sibling",
            "type": "forbidden",
            "source_modules": ["latent.core"],
            "forbidden_modules": siblings,
        },
        "plugins": {
            "name": "A plugin module imports latent.core.plugins alone",
            "type": "forbidden",
            "source_modules": [f"{root}._plugin" for root in siblings],
            "forbidden_modules": [f"{root}.{part}" for root in siblings for part in ("methods", "experiments")],
        },
    }  # fmt: skip
    if len(siblings) > 1:
        contracts["siblings"] = {"name": "Siblings are independent", "type": "independence", "modules": siblings}
    lines = ["[importlinter]", "root_packages =", *(f"    {root}" for root in roots), ""]
    for name, contract in contracts.items():
        lines.append(f"[importlinter:contract:{name}]")
        for key, value in contract.items():
            lines += (
                [f"{key} = {value}"] if isinstance(value, str) else [f"{key} =", *(f"    {item}" for item in value)]
            )
        lines.append("")
    path = folder / "importlinter.ini"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the packages' tests with the oldest versions that the packages say they work with."""
    _prepare(session)
    session.install("uv")
    wheels = _wheels(session, PACKAGES)
    pins = Path(session.create_tmp()) / "lowest.txt"
    # From the sources, because `lowest-direct` lowers nothing when it is given a wheel.
    sources = [str(path) for path in sorted((ROOT / "packages").glob("*/pyproject.toml"))]
    ours = [f"--no-emit-package={package}" for package in PACKAGES]
    # The option replaces the variable, so name what the variable names too: else uv resolves the CUDA build of torch.
    links = [link for link in (session.env["UV_FIND_LINKS"] or "").split(",") if link]
    links += [str(Path(wheel).parent) for wheel in wheels.values()]
    found = [word for link in links for word in ("--find-links", link)]
    extras = [f"--extra={extra}" for package in PACKAGES for extra in _extras(package)]
    resolve = ["uv", "pip", "compile", "--resolution=lowest-direct", *extras, "--quiet", "-o", str(pins)]
    session.run(*resolve, *ours, *found, *sources)
    # The floor of torch is the tested version. Of two builds of one version the resolver calls CUDA's the lower, so
    # torch
    # comes as in the other sessions, and the libraries of the CUDA build stay out.
    cuda = ("torch==", "triton==", "nvidia-", "cuda-")
    lines = [line for line in pins.read_text(encoding="utf-8").splitlines() if not line.startswith(cuda)]
    pins.write_text("\n".join(lines), encoding="utf-8")
    session.install(*CONSTRAINTS, "torch")
    session.install("-r", str(pins), *GROUPS["test"])
    session.install("--no-deps", *wheels.values())
    # Old libraries use what new ones deprecate; those warnings are not ours.
    session.run("python", "-m", "pytest", "-W", "default", *PARALLEL, *TESTS, *session.posargs)


@nox.session
def compile(session: nox.Session) -> None:
    """Run the tests that need torch.compile."""
    _prepare(session)
    _install_wheels(session, PACKAGES, *GROUPS["test"])
    session.run("python", "-m", "pytest", "-m", "compile", *TESTS, *session.posargs)


@nox.session
def oracle(session: nox.Session) -> None:
    """Compare what we read and write inside models with what nnsight, pyvene and transformer-lens do."""
    _prepare(session)
    _install_wheels(session, ["latent-core"], *GROUPS["test"], *ORACLES)
    session.run("python", "-m", "pytest", "-m", "oracle", "packages/latent-core/tests", *session.posargs)


@nox.session
def kills(session: nox.Session) -> None:
    """Kill a run with kill -9 at 100 random moments, resume it and compare bitwise (half an hour on two cores)."""
    _prepare(session)
    _install_wheels(session, PACKAGES)
    figure = ("--figure", "docs/images/kills.svg")
    session.run("python", "integration/kills.py", *(session.posargs or figure))


@nox.session
def ray(session: nox.Session) -> None:
    """Run the tests that start a Ray cluster on this machine."""
    _prepare(session)
    _install_wheels(session, PACKAGES, *GROUPS["test"], "ray")
    session.env["TMPDIR"] = tempfile.gettempdir()  # nox's own is inside the environment, where Ray refuses to work
    session.run("python", "-m", "pytest", "-m", "ray", *TESTS, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Load models with random damage for a minute (LATENT_FUZZ_SECONDS); led by coverage if `--atheris` is given."""
    _prepare(session)
    led = ["atheris>=3"] if "--atheris" in session.posargs else []
    _install_wheels(session, ["latent-core"], *GROUPS["test"], *led)
    rest = [word for word in session.posargs if word != "--atheris"]
    session.run("python", "-m", "pytest", "-m", "fuzz", "packages/latent-core/tests", *rest)


@nox.session(name="checks-all")
def checks_all(session: nox.Session) -> None:
    """Run the packages' tests with every annotated function checked, not only the public ones."""
    _prepare(session)
    _install_wheels(session, PACKAGES, *GROUPS["test"])
    session.env["LATENT_CHECKS"] = "all"
    # The rooms of tensor code; elsewhere beartype would meet annotations such as Self, which it reads in classes alone.
    rooms = {"nn", "metrics", "activations", "methods", "baselines"}
    sources = [path for package in PACKAGES for path in (ROOT / "packages" / package / "src").glob("latent/*/*")]
    modules = [".".join(path.parts[-3:]) for path in sorted(sources) if path.name in rooms]
    hook = f"--jaxtyping-packages={','.join(modules)},beartype.beartype"
    # The hook's own wrappers draw from Python's random and cannot be traced, which the conformance kit finds at once.
    rest = "--ignore-glob=packages/*/tests/test_conformance.py"
    session.run("python", "-m", "pytest", hook, rest, *PARALLEL, *TESTS, *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example: the scripts of the methods, and those of the packages in examples/plugins."""
    _prepare(session)
    plugins = sorted(path.parent for path in (ROOT / "examples" / "plugins").glob("*/pyproject.toml"))
    _install_wheels(session, PACKAGES, *map(str, plugins))
    for path in [*sorted((ROOT / "examples").glob("*/*.py")), *(plugin / "example.py" for plugin in plugins)]:
        session.run("python", str(path.relative_to(ROOT)))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build with warnings as errors."""
    _prepare(session)
    _install_wheels(session, PACKAGES, *GROUPS["docs"])
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", "docs/_build", *session.posargs)


@nox.session
def template(session: nox.Session) -> None:
    """Follow docs/plugin-tutorial.md word for word in a fresh environment, `latent new` included."""
    _prepare(session)
    _install_wheels(session, ["latent-core"], *GROUPS["template"])
    session.run("python", "-m", "pytest", "-m", "install", "tests/test_plugin_tutorial.py", *session.posargs)


@nox.session
def downstream(session: nox.Session) -> None:
    """Run the tests of packages that stand on ours, as downstream.toml says, against the wheels of this tree."""
    _prepare(session)
    recipes = tomllib.loads((ROOT / "downstream.toml").read_text(encoding="utf-8"))
    names = session.posargs or list(recipes)
    if unknown := set(names) - set(recipes):
        session.error(f"downstream.toml has no {', '.join(sorted(unknown))}; it has: {', '.join(recipes)}")
    _install_wheels(session, PACKAGES)
    for name in names:
        work = Path(session.create_tmp()) / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        recipe = {
            key: [[word.replace("{work}", str(work)) for word in line] for line in lines]
            for key, lines in recipes[name].items()
        }
        for command in recipe.get("before", []):
            session.run(*command)
        for requirements in recipe["install"]:
            session.install(*CONSTRAINTS, *requirements)
        session.run("latent", "plugins", env={"LATENT_STRICT_PLUGINS": "1"})
        for command in recipe["test"]:
            session.run(*command)


@nox.session
def claims(session: nox.Session) -> None:
    """Measure every claim again (up to 45 minutes a method on two cores); runs that were stopped go on."""
    _prepare(session)
    _install_editable(session)
    session.run("latent", "reproduce", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed against peers and limits in the same run."""
    _prepare(session)
    _install_editable(session, "transformers")
    for path in sorted((ROOT / "benchmarks").rglob("[!_]*.py")):
        session.run("python", str(path.relative_to(ROOT)), *session.posargs)


def _bench_beside(session: nox.Session) -> None:
    """Measure what activations cost beside the libraries that are installed, and print all that was measured so."""
    script, results = "benchmarks/activations/overhead.py", ROOT / "runs" / "bench"
    results.mkdir(parents=True, exist_ok=True)
    session.run("python", script, "--json", str(results / f"{session.name}.json"), *session.posargs)
    session.run("python", script, "--table", *map(str, sorted(results.glob("bench-*.json"))))


@nox.session(name="bench-peers")
def bench_peers(session: nox.Session) -> None:
    """Measure what activations cost beside nnsight, pyvene and transformer-lens."""
    _prepare(session)
    session.install(*CONSTRAINTS, "-e", "./packages/latent-core", "transformers", *ORACLES)
    _bench_beside(session)


@nox.session(name="bench-das")
def bench_das(session: nox.Session) -> None:
    """Measure updates of distributed alignment search beside pyvene."""
    _prepare(session)
    pyvene = next(name for name in ORACLES if name.startswith("pyvene"))
    session.install(*CONSTRAINTS, "-e", "./packages/latent-core", "-e", "./packages/latent-causal", pyvene)
    session.run("python", "benchmarks/causal/das.py", *session.posargs)


@nox.session(name="bench-repeng")
def bench_repeng(session: nox.Session) -> None:
    """Measure what activations cost beside repeng, which wants numpy 1."""
    _prepare(session)
    pinned = [f"{name}=={PINS[name]}" for name in ("torch", "transformers")]
    session.install(*pinned, "repeng==0.4.0", "-e", "./packages/latent-core")
    _bench_beside(session)


@nox.session(name="bench-steering-vectors")
def bench_steering_vectors(session: nox.Session) -> None:
    """Measure what activations cost beside steering-vectors, which wants transformers 4."""
    _prepare(session)
    pinned = [f"{name}=={PINS[name]}" for name in ("torch", "beartype", "jaxtyping")]
    session.install(*pinned, "transformers==4.57.6", "steering-vectors==0.12.2")
    session.install("--no-deps", "-e", "./packages/latent-core")  # it asks for a newer huggingface-hub
    _bench_beside(session)


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make `.venv` with every package editable and every tool."""
    _prepare(session)
    session.run(sys.executable, "-m", "venv", ".venv")
    python = ".venv/bin/python" if os.name == "posix" else r".venv\Scripts\python.exe"
    targets = [_with_extras(package, f"./packages/{package}") for package in PACKAGES]
    editable = [word for target in targets for word in ("-e", target)]
    tools = [name for group in GROUPS.values() for name in group]
    session.run(python, "-m", "pip", "install", *CONSTRAINTS, *editable, *tools)
