"""Starts the `latent` command.

It lives outside the namespace so that it still runs when an unrelated distribution called `latent`, with an
`__init__.py` of its own, hides `latent.core`; then it names the file that is in the way.
"""

import importlib.util
import sys


def main() -> int:
    """Run the command line and return the exit code."""
    spec = importlib.util.find_spec("latent")
    if spec is not None and spec.origin is not None:  # a namespace package has no file
        sys.stderr.write(
            f"Error: {spec.origin} hides the packages of latent.\n"
            "It belongs to an unrelated project. Run: pip uninstall latent (or remove that file), then try again.\n"
        )
        return 3
    from latent.core.cli.main import main as run

    return run()
