"""`latent push` and `latent pull`."""

from pathlib import Path

import click

__all__ = ["pull", "push"]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="Create the repository as private.")
@click.option("--revision", help="Branch to commit to; main by default.")
@click.option("--pr", "pull_request", is_flag=True, help="Propose the commit as a pull request.")
@click.option("--license", "licence", default="", help="Licence of the weights, such as apache-2.0.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@click.option("--token", help="Token; HF_TOKEN is not seen by other users of this machine, this option is.")
def push(
    run: Path,
    repo: str,
    private: bool,
    revision: str | None,
    pull_request: bool,
    licence: str,
    dry_run: bool,
    token: str | None,
) -> None:
    """Publish the model of the run folder RUN (or a folder that holds a saved model) as REPO, in one commit."""
    from latent.core.hub import transfer
    from latent.core.hub.strict import readable

    done = transfer.push(
        run,
        repo,
        private=private,
        revision=revision,
        pull_request=pull_request,
        licence=licence,
        dry_run=dry_run,
        token=token,
    )
    for name, size in done.sizes.items():
        click.echo(f"{name}  {readable(size)}")
    click.echo(f"Commit {done.commit} at {done.address}" if done.commit else "Nothing was sent (--dry-run).")


@click.command()
@click.argument("repo")
@click.option("--revision", help="Branch, tag, commit or refs/pr/N; main by default.")
@click.option("--to", type=click.Path(path_type=Path), help="New folder to copy the model to.")
@click.option("--token", help="Token; HF_TOKEN is not seen by other users of this machine, this option is.")
def pull(repo: str, revision: str | None, to: Path | None, token: str | None) -> None:
    """Fetch the model REPO, check that it is whole, and print its folder."""
    from latent.core.hub import transfer

    click.echo(transfer.pull(repo, revision=revision, to=to, token=token))
