"""The `latent` command: a click group whose subcommands are imported when they are called.

Plugins add ordinary click commands through `CommandSpec`; a broken plugin is named in a warning and changes nothing
else.
"""

import importlib
import logging
import os
import sys
import traceback
from typing import Any

import click

from latent.core.errors import LatentError, did_you_mean, explain_os_error

__all__ = ["LatentGroup", "latent", "main"]

# name -> (target, one-line help): nothing is imported to print the list of commands.
COMMANDS = {
    "list": ("latent.core.cli.catalogue:list_methods", "List the methods of all installed packages."),
    "info": ("latent.core.cli.catalogue:info", "Explain one method: paper, presets, settings, metrics."),
    "plugins": ("latent.core.cli.catalogue:plugins", "List plugins, with the reason if one is not loaded."),
    "doctor": ("latent.core.cli.doctor:doctor", "Check this installation."),
    "run": ("latent.core.cli.run:run", "Run a method's experiment."),
    "reproduce": ("latent.core.cli.reproduce:reproduce", "Measure the claims of methods again, with all controls."),
    "sweep": ("latent.core.cli.sweep:sweep", "Run methods x presets x seeds, here or on a Ray cluster."),
    "report": ("latent.core.cli.reports:report", "Show the reports of runs."),
    "compare": ("latent.core.cli.reports:compare", "Compare two or more runs."),
    "evaluate": ("latent.core.cli.evaluate:evaluate", "Evaluate a saved or published model on a benchmark."),
    "push": ("latent.core.cli.hub:push", "Publish a model on the Hub."),
    "pull": ("latent.core.cli.hub:pull", "Fetch a model from the Hub."),
    "check": ("latent.core.cli.check:check", "Check that a method holds to the rules that every method follows."),
    "new": ("latent.core.cli.new:new", "Write a new plugin with a working method."),
}


class LatentGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of our commands, then those of plugins."""
        return [*COMMANDS, *sorted(set(_plugin_commands()) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name in COMMANDS:
            module, _, name = COMMANDS[cmd_name][0].partition(":")
            return _command(getattr(importlib.import_module(module), name))
        if cmd_name in _plugin_commands():
            from latent.core.registry import registry

            return _command(registry().load("command", cmd_name))
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            hint = did_you_mean(args[0], self.list_commands(ctx)) or "See: latent --help"
            raise click.UsageError(f"There is no command {args[0]!r}. {hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = [(name, help_line) for name, (_, help_line) in COMMANDS.items()]
        rows += [(name, summary) for name, summary in sorted(_plugin_commands().items()) if name not in COMMANDS]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugin_commands() -> dict[str, str]:
    from latent.core.registry import registry

    return {entry.spec.name: entry.spec.summary for entry in registry().entries("command").values()}


def _command(found: Any) -> click.Command:
    if not isinstance(found, click.Command):
        raise LatentError(f"{found!r} is not a click command.", hint="Decorate the function with @click.command().")
    return found


@click.group(cls=LatentGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="latent-core", prog_name="latent")
def latent() -> None:
    """Learn, predict, reason, generate, explain and steer in latent spaces.

    Exit codes: 0 success, 1 failure, 2 usage, 3 missing plugin or extra, 130 interrupted. LATENT_DEBUG=1 shows
    tracebacks.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        latent.main(args=arguments, prog_name="latent", standalone_mode=False)
    except LatentError as error:
        return _fail(error, error.message, error.hint, error.exit_code)
    except click.ClickException as error:
        if os.environ.get("LATENT_DEBUG") == "1":
            traceback.print_exc()
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:  # `latent list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that is read-only: the system's to say, not a defect here
        told = explain_os_error(error)
        return _fail(error, told.message, told.hint, told.exit_code)
    return 0


def _fail(error: Exception, message: str, hint: str, code: int) -> int:
    if os.environ.get("LATENT_DEBUG") == "1":
        traceback.print_exception(error)
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(hint, err=True)
    return code
