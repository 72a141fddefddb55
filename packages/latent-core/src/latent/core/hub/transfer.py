"""Publishing saved models and fetching them: `push`, `pull` and `fetch`.

A fetched repository is judged by its `config.json` before anything else of it is asked for. Only files at its top level
with a harmless ending are ever downloaded, and no file is executed or unpickled.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latent.core.contract import Model
from latent.core.errors import FormatError, HubError
from latent.core.hub import weights
from latent.core.hub.card import model_card, published_card
from latent.core.hub.client import check_name, explained, is_offline, missing_offline, transport_error
from latent.core.hub.format import LARGEST_CONFIG, blueprint, load_model, read_config, save_model
from latent.core.hub.strict import read_json, readable
from latent.core.registry import registry

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from latent.core.report.report import Report

__all__ = ["Pushed", "fetch", "pull", "push"]

log = logging.getLogger("latent.hub")

# Top level only; the client is never given a name that holds a slash.
_ALLOWED = re.compile(r"[A-Za-z0-9][\w.-]*\.(safetensors|json|md|txt)")
_OURS = re.compile(r"model(-[\w-]+)?\.safetensors|model\.safetensors\.index\.json|results\.json|run\.json")
_LARGEST_OTHER = weights.LARGEST_HEADER


@dataclass(frozen=True)
class Pushed:
    """What a push sent, or would send.

    Attributes:
        address: Where it is; empty for a dry run.
        commit: The one commit that was made; empty for a dry run.
        sizes: Bytes of each file.
    """

    address: str
    commit: str
    sizes: dict[str, int]


def fetch(repo: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False) -> Path:
    """Bring a published model into the client's cache and return its folder there.

    Args:
        repo: `owner/name`.
        revision: Branch, tag, commit or `refs/pr/N`; `main` if None.
        token: Token; the one that the client knows if None.
        local_files_only: Use the cache alone; also so if `HF_HUB_OFFLINE=1` or the Hub cannot be reached.

    Raises:
        HubError: The Hub refuses, or a file is neither in the cache nor to be had.
        FormatError: The repository does not hold a whole model of the strict format.
        MethodNotInstalled: No installed package provides the model's method.
        ConfigError: The config has an unknown key or a wrong value.
    """
    from huggingface_hub import HfApi, hf_hub_download

    check_name(repo)
    offline = local_files_only or is_offline()
    with explained(repo, revision=revision, token=token):
        api = HfApi(token=token)
        if not offline:
            offline = not _config_is_small(api, repo, revision)
        config = hf_hub_download(repo, "config.json", revision=revision, token=token, local_files_only=offline)
        folder = Path(config).parent
        model = blueprint(folder)
        if offline:
            _check_cached(folder, repo, revision)
        else:
            # At the commit of config.json: a push in between must not mix two models. It is the folder's name.
            for name in _wanted(api, repo, folder.name, model):
                with explained(repo, revision=revision, token=token, file=name):
                    hf_hub_download(repo, name, revision=folder.name, token=token)
    return folder


def pull(repo: str, *, revision: str | None = None, to: Path | None = None, token: str | None = None) -> Path:
    """Fetch a published model, load it once to see that it is whole, and return its folder.

    Args:
        repo: `owner/name`.
        revision: Branch, tag, commit or `refs/pr/N`; `main` if None.
        to: A new folder to copy it to; the client's cache if None.
        token: Token; the one that the client knows if None.

    Raises:
        HubError: As `fetch`, or there is something at `to` already.
        FormatError, MethodNotInstalled, ConfigError: As `fetch`.
    """
    if to is not None and to.exists():
        raise HubError(f"{to} exists already.", hint="Choose another --to, or remove it.")
    folder = fetch(repo, revision=revision, token=token)
    load_model(folder)
    if to is None:
        return folder
    temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for path in folder.iterdir():
            if _ALLOWED.fullmatch(path.name) and path.is_file():
                shutil.copyfile(path, temporary / path.name)
        temporary.rename(to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return to


def push(
    source: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    pull_request: bool = False,
    licence: str = "",
    dry_run: bool = False,
    token: str | None = None,
) -> Pushed:
    """Publish a saved model in one commit.

    The files are written to a temporary folder, loaded from there and compared bitwise before anything is sent.

    Args:
        source: A run folder, or a folder that holds a saved model.
        repo: `owner/name`; created if it does not exist.
        private: Create it as private. A repository that is public already is refused.
        revision: Branch to commit to, created if need be; `main` if None.
        pull_request: Propose the commit as a pull request instead.
        licence: Licence of the weights for the card, such as `apache-2.0`.
        dry_run: Only say what would be sent; nothing is asked of the Hub.
        token: Token; the one that the client knows if None.

    Raises:
        HubError: The Hub refuses or cannot be reached.
        FormatError: The folder does not hold a whole model of the strict format.
    """
    check_name(repo)
    folder = source / "model" if (source / "model" / "config.json").is_file() else source
    model = load_model(folder)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model"
        fresh = _write(model, folder, source, target, repo)
        _check_same(model, load_model(target))
        card = _Card(fresh, repo, licence, target)
        if dry_run:
            card.write("")
            return Pushed("", "", _sizes(target))
        return _send(target, card, repo, private, revision, pull_request, token)


def _config_is_small(api: "HfApi", repo: str, revision: str | None) -> bool:
    """Refuse a config that is too large before it is downloaded; return False if the Hub cannot be reached."""
    from huggingface_hub import errors, hf_hub_url

    try:
        found = api.get_hf_file_metadata(url=hf_hub_url(repo, "config.json", revision=revision, endpoint=api.endpoint))
    except errors.HfHubHTTPError:
        raise
    except transport_error() as error:
        log.warning("the Hub cannot be reached (%s); what is in the cache is used", error)
        return False
    if found.size is None or found.size > LARGEST_CONFIG:
        raise FormatError(
            f"config.json of {repo} is larger than {readable(LARGEST_CONFIG)}.",
            hint="This is not a file that latent wrote.",
        )
    return True


def _wanted(api: "HfApi", repo: str, commit: str, model: Model) -> list[str]:
    """Return the names of the files to download, if the weights are not larger than the config says."""
    sizes = {
        entry.path: size
        for entry in api.list_repo_tree(repo, revision=commit)
        if (size := getattr(entry, "size", None)) is not None and _ALLOWED.fullmatch(entry.path)
    }
    tensors = model.state_dict()
    expected = sum(tensors[name].nbytes for name in weights.owned(model))
    stored = [size for name, size in sizes.items() if name.endswith(".safetensors")]
    if sum(stored) > expected + len(stored) * weights.LARGEST_HEADER:
        raise FormatError(
            f"{repo} holds {readable(sum(stored))} of weights, its config describes {readable(expected)}.",
            hint="Tell whoever published it; nothing of the weights was downloaded.",
        )
    return [name for name in sizes if name.endswith(".safetensors") or sizes[name] <= _LARGEST_OTHER]


def _check_cached(folder: Path, repo: str, revision: str | None) -> None:
    """Name a file of weights that is not in the cache."""
    for name in weights.files(folder):
        if not (folder / name).is_file():
            raise missing_offline(repo, revision, name)


def _write(model: Model, folder: Path, source: Path, target: Path, repo: str) -> str:
    """Write what is published and return its generated card."""
    content = read_config(folder)
    method = content["latent"]["method"]
    save_model(model, target, method=method)
    known: dict[str, Any] = {}
    for name in ("results", "run"):
        path = folder / f"{name}.json"
        if path.is_file():
            known[name] = read_json(path)
            (target / path.name).write_text(json.dumps(known[name], indent=1) + "\n", encoding="utf-8")
    entry = registry().find("method", method)
    return model_card(entry, content["config"], place=repo, report=_report(source), **known)


def _report(source: Path) -> "Report | None":
    from latent.core.report.report import Report

    path = source / "report.json"
    return Report.from_json(path.read_text(encoding="utf-8"), source) if path.is_file() else None


def _check_same(model: Model, other: Model) -> None:
    """Compare two models bit by bit."""
    theirs = other.state_dict()
    for name, tensor in model.state_dict().items():
        same = torch.equal(tensor.contiguous().view(-1).view(torch.uint8), theirs[name].view(-1).view(torch.uint8))
        if not same:
            raise FormatError(f"{name} is not the same after saving.", hint="Is the disk full or damaged?")


@dataclass
class _Card:
    """The card of a push, which is finished when the one that is there is known."""

    fresh: str
    repo: str
    licence: str
    folder: Path

    def write(self, existing: str) -> None:
        """Write `README.md`."""
        results = self.folder / "results.json"
        text = published_card(
            self.fresh,
            existing,
            entry=registry().find("method", read_config(self.folder)["latent"]["method"]),
            name=self.repo,
            licence=self.licence,
            results=read_json(results) if results.is_file() else None,
        )
        (self.folder / "README.md").write_text(text, encoding="utf-8")


def _send(
    target: Path,
    card: _Card,
    repo: str,
    private: bool,
    revision: str | None,
    pull_request: bool,
    token: str | None,
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    with explained(repo, revision=revision, token=token):
        api = HfApi(token=token)
        _prepare(api, repo, private, None if pull_request else revision)
        parent = api.model_info(repo, revision=revision).sha
        there = {entry.path for entry in api.list_repo_tree(repo, revision=parent)}
        card.write(_existing_card(api, repo, parent) if "README.md" in there else "")
        files = _sizes(target)
        stale = sorted(name for name in there - files.keys() if _OURS.fullmatch(name))
        made = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, str(target / name)) for name in files),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Push {read_config(target)['latent']['method']} with latent",
            revision=revision,
            create_pr=pull_request,
            parent_commit=parent,
        )
        return Pushed(made.pr_url or f"{api.endpoint}/{repo}", made.oid, files)


def _prepare(api: "HfApi", repo: str, private: bool, branch: str | None) -> None:
    """Create the repository and the branch if they are not there."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
    else:
        if private and not found.private:
            raise HubError(f"{repo} exists and is public.", hint="Make it private on the Hub first, or omit --private.")
    if branch is not None and branch != "main":
        api.create_branch(repo, branch=branch, exist_ok=True)


def _existing_card(api: "HfApi", repo: str, commit: str | None) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        path = api.hf_hub_download(repo, "README.md", revision=commit, local_dir=scratch)
        return Path(path).read_text(encoding="utf-8", errors="replace")


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
