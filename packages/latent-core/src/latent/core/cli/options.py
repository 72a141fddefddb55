"""Options that several commands share."""

import click

__all__ = ["numbers", "words"]


def numbers(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Read `0,1,2`."""
    try:
        given = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number or a list of numbers such as 0,1,2.") from None
    if len(set(given)) != len(given):  # one run counted twice would look like two
        raise click.BadParameter(f"{value!r} names a number twice.")
    return given


def words(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Read `a,b`."""
    return tuple(part.strip() for part in value.split(",") if part.strip())
