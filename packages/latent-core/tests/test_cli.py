import json
import os
import subprocess
import sys


def test_list_json_and_family(latent):
    rows = json.loads(latent("list", "--json", "--family", "toy").stdout)
    assert [row["name"] for row in rows] == ["toy/regression"]
    assert rows[0]["available"] is True


def test_wrong_words_are_answered_with_a_hint_and_write_nothing(latent, tmp_path):
    for arguments, said in [
        (["lsit"], "Did you mean 'list'?"),
        (["info", "toy/regresion"], "Did you mean 'toy/regression'?"),
        (["info", "toy"], "See: latent list"),
        (["info"], "Missing argument 'ID'"),
        (["list", "--family", "tyo"], "Did you mean 'toy'?"),
        (["list", "--jsno"], "Did you mean '--json'?"),
        (["list", "toy/regression"], "unexpected extra argument (toy/regression)"),
        (["plugins", "--jsno"], "Did you mean '--json'?"),
        (["plugins", "toy-plugin"], "unexpected extra argument (toy-plugin)"),
        (["plugins", "--json=yes"], "does not take a value"),
        (["doctor", "--jsno"], "Did you mean '--json'?"),
        (["doctor", "toy/regression"], "unexpected extra argument (toy/regression)"),
        (["doctor", "--device", "cuda"], "No such option '--device'"),
        (["reproduce", "toy/regresion"], "Did you mean 'toy/regression'?"),
        (["reproduce", "toy/regression", "--preset", "cup"], "Did you mean 'cpu'?"),
        (["reproduce", "--seeds", "0,x"], "is not a number or a list of numbers such as 0,1,2"),
        (["run", "toy/regression", "--preset", "cup"], "Did you mean 'cpu'?"),
        (["run", "toy/regression", "stesp=3"], "Did you mean 'steps'?"),
        (["run", "toy/regression", "--device", "cuda:9"], "Use --device cpu."),
        (["run", "toy/regression", "--dtype", "float8"], "bfloat16"),
        (["run", "toy/regression", "--arms", "tyo"], "Did you mean 'toy'?"),
        (["run", "toy/regression", "--seed", "one"], "is not a number"),
        (["run", "toy/regression", "--seed", "0,1,0"], "names a number twice"),
        (["run", "toy/regression", "--jobs", "-1"], "-1 is not in the range"),
        (["run", "toy/regression", "--tracker", "tensorbord"], "Did you mean 'tensorboard'?"),
        (["run", "--resume", "nowhere", "--seed", "3"], "Run: latent run --resume nowhere"),
        (["run"], "latent list"),
        (["run", "--resume", "nowhere"], "There is no run folder nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["report"], "Missing argument"),
        (["report", "--open", "nowhere"], "No such option"),
        (["compare"], "Missing argument"),
        (["compare", "nowhere"], "Give two or more run folders"),
        (["compare", "nowhere", "nowhere-either"], "nowhere"),
    ]:
        done = latent(*arguments, check=False)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert said in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_refused_at_once(latent, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for arguments, said in [
        (["run", "toy/regression", "--out", "file/run"], "Cannot write in file/run: Not a directory."),
        (
            ["reproduce", "toy/regression", "--ledger", "ledger", "--out", "file/runs"],
            "Cannot write in file/runs/toy-regression-cpu",
        ),
        (
            ["reproduce", "toy/regression", "--ledger", "file/docs"],
            "No ledger can be written in file/docs: Not a directory.",
        ),
    ]:
        done = latent(*arguments, check=False)
        assert done.returncode in (1, 2), (arguments, done.stdout, done.stderr)
        assert said in done.stderr, (arguments, done.stderr)
        assert "Choose another" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(latent):
    assert "Traceback" in latent("info", "toy/x", check=False, LATENT_DEBUG="1").stderr


def test_info_explains_settings_arms_claims_and_metrics(latent):
    text = latent("info", "toy/regression").stdout
    for part in (
        "learning_rate = 0.02",
        "Step size.",
        "shuffled (control)",
        "learns: Regression explains",
        "loss: Mean squared",
    ):
        assert part in text
    assert "by itself" not in text  # a model, which is made by its experiment
    assert "@article{regression1809" in latent("info", "toy/regression", "--bibtex").stdout


def test_plugin_commands_are_listed_and_run(distribution, latent):
    distribution(
        "hello-plugin",
        {
            "hello_plugin": "from latent.core.plugins import CommandSpec, hookimpl\n"
            "@hookimpl\ndef latent_commands():\n"
            "    yield CommandSpec(name='hello', target='hello_command:hello', summary='Say hello.')\n",
            "hello_command": "import click\n@click.command()\n@click.argument('who')\n"
            "def hello(who):\n    click.echo(f'hello {who}')\n",
        },
        "[latent.plugins.v1]\nhello = hello_plugin\n",
    )
    assert "Say hello." in latent("--help").stdout
    assert latent("hello", "you").stdout == "hello you\n"


def test_a_shadowing_distribution_is_named(tmp_path):
    shadow = tmp_path / "latent"
    shadow.mkdir()
    (shadow / "__init__.py").write_text("")
    code = "import sys, _latent_launcher; sys.exit(_latent_launcher.main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert str(shadow / "__init__.py") in done.stderr
    assert "pip uninstall latent" in done.stderr
