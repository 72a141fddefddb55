"""A process with the real client, because the client reads its settings when it is imported."""

import json
import subprocess
import sys

import pytest

WORKER = """
import contextlib, io, json, os, sys, traceback

answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    order = json.loads(line)
    out, err, answer = io.StringIO(), io.StringIO(), {}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            space = {}
            exec(order["code"], space)
            answer["value"] = space.get("value")
        except BaseException as error:
            answer["error"] = [kind.__name__ for kind in type(error).__mro__]
            answer["message"] = getattr(error, "message", str(error))
            answer["hint"] = getattr(error, "hint", "")
            answer["traceback"] = traceback.format_exc()
    print(json.dumps({**answer, "out": out.getvalue(), "err": err.getvalue()}), file=answers, flush=True)
"""


class Client:
    """Runs code, or the command line, in a process of its own."""

    def __init__(self, environment, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder,
        )  # fmt: skip

    def ask(self, code):
        self.process.stdin.write(json.dumps({"code": code}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def python(self, code):
        """Run code and return its `value`."""
        answer = self.ask(code)
        assert "error" not in answer, answer["traceback"]
        return answer["value"]

    def latent(self, *arguments):
        """Run the command line; returns (exit code, standard output, standard error)."""
        words = [str(argument) for argument in arguments]
        answer = self.ask(f"from latent.core.cli.main import main\nvalue = main({words!r})")
        assert "error" not in answer, answer["traceback"]
        return answer["value"], answer["out"], answer["err"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def start_client():
    """Start a client: start_client(environment, folder)."""
    clients = []

    def start(environment, folder):
        clients.append(Client(environment, folder))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
        client.process.stdout.close()


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory, shared_latent):
    """A folder, and the environment of processes in which the toy method is installed."""
    return tmp_path_factory.mktemp("hub"), shared_latent.environment
