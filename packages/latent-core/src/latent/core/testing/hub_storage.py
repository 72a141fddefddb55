"""Repositories of the loopback Hub: commits, branches, tags and pull requests in memory."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Refusal", "Repository", "blob_id"]


class Refusal(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        code: Value of `X-Error-Code`, by which the client tells its errors apart; empty for none.
        message: What is wrong.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def blob_id(content: bytes) -> str:
    """Return the id that git gives to a file's content, 40 hexadecimal digits."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """One repository of models.

    Attributes:
        name: `owner/name`.
        private: Whether only its owner may see it.
        branches: Newest commit of each branch; pull requests are `refs/pr/1` and so on.
        tags: Commit of each tag.
        titles: Title of each commit that a client made, oldest first.
        snapshots: The files of each commit.
        large: Paths that were uploaded by the protocol for large files.
    """

    name: str
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    snapshots: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin with an empty commit, as a Hub does."""
        self.branches["main"] = self._snapshot({}, parent="")

    def commit(self, files: Mapping[str, bytes], *, branch: str = "main", onto: str = "") -> str:
        """Make `files` the content of a branch and return the commit; `onto` is what a new branch grows from."""
        parent = self.branches.get(branch) or self.resolve(onto or "main")
        self.branches[branch] = sha = self._snapshot(dict(files), parent=parent)
        return sha

    def resolve(self, revision: str) -> str:
        """Return the commit of a branch, a tag, a pull request or a commit's own id.

        Raises:
            Refusal: There is none.
        """
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.snapshots:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision by path."""
        return self.snapshots[self.resolve(revision)]

    def file(self, revision: str, path: str) -> bytes:
        """Return one file.

        Raises:
            Refusal: The revision or the file does not exist.
        """
        sha = self.resolve(revision)
        if path not in self.snapshots[sha]:
            raise Refusal(404, "EntryNotFound", f"{path} is not in {self.name}", {"X-Repo-Commit": sha})
        return self.snapshots[sha][path]

    def tree(self, revision: str, folder: str, *, recursive: bool) -> list[dict[str, object]]:
        """Return the entries of a folder (`""` for the whole repository) as the Hub lists them.

        Raises:
            Refusal: The revision or the folder does not exist.
        """
        prefix = f"{folder}/" if folder else ""
        below = {path: content for path, content in self.files(revision).items() if path.startswith(prefix)}
        if folder and not below:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        entries: dict[str, dict[str, object]] = {}
        for path, content in sorted(below.items()):
            head, slash, _ = path.removeprefix(prefix).partition("/")
            if slash and not recursive:
                place = prefix + head
                entries[place] = {"type": "directory", "path": place, "oid": blob_id(place.encode()), "size": 0}
            else:
                entries[path] = self._entry(path, content)
        return list(entries.values())

    def is_large(self, path: str) -> bool:
        """Whether the file is served as a large one."""
        return path in self.large

    def _entry(self, path: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if self.is_large(path):
            oid = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
        return entry

    def _snapshot(self, files: dict[str, bytes], *, parent: str) -> str:
        listing = json.dumps([parent, len(self.snapshots), sorted((path, blob_id(files[path])) for path in files)])
        sha = blob_id(listing.encode())
        self.snapshots[sha] = files
        return sha
