"""A Hub on this machine: a small server in memory that the real `huggingface_hub` client talks to.

It serves repositories of models: creating and deleting, uploads in one commit (the regular protocol, or the one for
large files), branches, tags, pull requests, listings, downloads, tokens and private repositories. Nothing is kept when
it ends. Start it in a test with `with LoopbackHub() as hub:`, or by hand with `python -m latent.core.testing.hub`.

The client reads `HF_ENDPOINT` when it is imported, so what talks to a loopback Hub runs in a process that was started
with `hub.environment(...)`.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click

from latent.core.testing.hub_storage import Refusal, Repository, blob_id

__all__ = ["LoopbackHub"]

TOKEN = "hf_loopback"
USER = "me"


class LoopbackHub:
    """A Hub on 127.0.0.1, running between `with` and the end of its block.

    Args:
        large_files: Have weights uploaded by the protocol for large files (git LFS), as the public Hub does; the
            client then needs `HF_HUB_DISABLE_XET=1`, which `environment` sets.
        tokens: Names of users by token.
        port: Port to listen on; 0 for any that is free.

    Attributes:
        repositories: The repositories by `owner/name`.
        requests: What was asked for, such as `"GET /me/a/resolve/main/config.json"`, in order of arrival.
        objects: Large files by the SHA-256 of their content.
    """

    def __init__(self, *, large_files: bool = False, tokens: Mapping[str, str] | None = None, port: int = 0) -> None:
        self.large_files = large_files
        self.tokens = dict(tokens or {TOKEN: USER})
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Address of the server, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: Path, *, token: str | None = TOKEN) -> dict[str, str]:
        """Return the variables of a process whose client talks to this Hub.

        Args:
            home: Folder of the client's cache.
            token: Token of the client; None for a client that has none.
        """
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": token or "",
        }

    def place(self, name: str, files: Mapping[str, bytes], *, branch: str = "main", private: bool = False) -> str:
        """Make `files` (any names, any content) the content of a repository and return the commit."""
        with self.lock:
            repository = self.repositories.setdefault(name, Repository(name, private=private))
            return repository.commit(files, branch=branch)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a repository by path."""
        return self.repositories[name].files(revision)

    def downloads(self) -> set[str]:
        """Return the names of the files that were asked for."""
        found = (re.search(r"/resolve/[^/]+/(.+)$", request) for request in self.requests)
        return {urllib.parse.unquote(match[1]) for match in found if match}


@dataclass
class _Request:
    """What a route is given: the parts of its path, the query, the body, the user and where the request came from."""

    hub: LoopbackHub
    parts: dict[str, str]
    query: dict[str, str]
    body: bytes
    user: str | None

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body or b"{}")
        return content

    def repository(self, *, write: bool = False) -> Repository:
        """Return the repository of the path, if this user may see it (or write to it)."""
        repository = self.hub.repositories.get(self.parts["repo"])
        owner = self.parts["repo"].partition("/")[0]
        if repository is None or (repository.private and self.user != owner):
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write and self.user != owner:
            raise Refusal(403 if self.user else 401, "", "You have no right to write to this repository")
        return repository


@dataclass
class _Answer:
    """What a route returns; a mapping or a list is sent as JSON."""

    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


Route = Callable[[_Request], Any]
_ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def _route(methods: str, path: str) -> Callable[[Route], Route]:
    """Register a function for a path, in which `{name}` stands for a part and `{repo}` for owner and name."""
    pattern = path.replace("{repo}", r"(?P<repo>[^/]+/[^/]+?)").replace("{path}", "(?P<path>.+)")
    compiled = re.compile(re.sub(r"(?<!P)\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))

    def register(function: Route) -> Route:
        _ROUTES.extend((method, compiled, function) for method in methods.split())
        return function

    return register


@_route("GET", "/api/whoami-v2")
def _who_am_i(request: _Request) -> Any:
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    return {"type": "user", "name": request.user, "orgs": [], "auth": {"accessToken": {"role": "write"}}}


@_route("POST", "/api/validate-yaml")
def _validate_yaml(request: _Request) -> Any:
    return {"errors": [], "warnings": []}


@_route("POST", "/api/repos/create")
def _create(request: _Request) -> Any:
    given = request.json
    name = f"{given.get('organization') or request.user}/{given['name']}"
    if request.user is None or request.user != name.partition("/")[0]:
        raise Refusal(403 if request.user else 401, "", f"You have no right to create {name}")
    url = {"url": f"{request.hub.url}/{name}", "name": name, "id": name}
    if name in request.hub.repositories:
        raise Refusal(409, "", "You already created this model repo", {"X-Url": url["url"]})
    private = given.get("visibility") == "private" or bool(given.get("private"))
    request.hub.repositories[name] = Repository(name, private=private)
    return url


@_route("DELETE", "/api/repos/delete")
def _delete(request: _Request) -> Any:
    given = request.json
    request.parts["repo"] = f"{given.get('organization') or request.user}/{given['name']}"
    del request.hub.repositories[request.repository(write=True).name]
    return {}


@_route("GET", "/api/models/{repo}")
@_route("GET", "/api/models/{repo}/revision/{revision}")
def _model(request: _Request) -> Any:
    repository = request.repository()
    sha = repository.resolve(request.parts.get("revision", "main"))
    siblings = [{"rfilename": path} for path in repository.files(sha)]
    return {"id": repository.name, "sha": sha, "private": repository.private, "tags": [], "siblings": siblings}


@_route("GET", "/api/models/{repo}/tree/{revision}")
@_route("GET", "/api/models/{repo}/tree/{revision}/{path}")
def _tree(request: _Request) -> Any:
    recursive = request.query.get("recursive", "").lower() in ("1", "true")
    folder = request.parts.get("path", "").strip("/")
    return request.repository().tree(request.parts["revision"], folder, recursive=recursive)


@_route("GET", "/api/models/{repo}/refs")
def _refs(request: _Request) -> Any:
    repository = request.repository()
    heads = {name: sha for name, sha in repository.branches.items() if not name.startswith("refs/")}
    pulls = {name: sha for name, sha in repository.branches.items() if name.startswith("refs/")}
    listed: dict[str, list[dict[str, str]]] = {
        "branches": [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in heads.items()],
        "tags": [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha} for name, sha in repository.tags.items()
        ],
        "converts": [],
    }
    if request.query.get("include_prs"):
        listed["pullRequests"] = [{"name": name, "ref": name, "targetCommit": sha} for name, sha in pulls.items()]
    return listed


@_route("POST", "/api/models/{repo}/tag/{revision}")
def _tag(request: _Request) -> Any:
    repository = request.repository(write=True)
    if request.json["tag"] in repository.tags:
        raise Refusal(409, "", "Tag reference exists already")
    repository.tags[request.json["tag"]] = repository.resolve(request.parts["revision"])
    return {}


@_route("POST", "/api/models/{repo}/branch/{revision}")
def _branch(request: _Request) -> Any:
    repository = request.repository(write=True)
    if request.parts["revision"] in repository.branches:
        raise Refusal(409, "", "Reference already exists")
    repository.branches[request.parts["revision"]] = repository.resolve(request.json.get("startingPoint") or "main")
    return {}


@_route("POST", "/api/models/{repo}/preupload/{revision}")
def _preupload(request: _Request) -> Any:
    repository = request.repository(write=True)
    known = repository.files(request.parts["revision"])
    answers = []
    for given in request.json["files"]:
        path, content = given["path"], known.get(given["path"])
        large = request.hub.large_files and path.endswith(".safetensors") and given["size"] > 0
        old = None
        if content is not None:
            old = hashlib.sha256(content).hexdigest() if large else blob_id(content)
        answers.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": old})
    return {"files": answers}


@_route("POST", "/{repo}.git/info/lfs/objects/batch")
def _batch(request: _Request) -> Any:
    request.repository(write=True)
    objects: list[dict[str, Any]] = []
    for given in request.json["objects"]:
        answer = dict(given)
        if given["oid"] not in request.hub.objects:
            href = f"{request.hub.url}/objects/{given['oid']}"
            answer["actions"] = {
                "upload": {"href": href, "header": {}},
                "verify": {"href": f"{request.hub.url}/verify", "header": {}},
            }
        objects.append(answer)
    return {"transfer": "basic", "objects": objects}


@_route("PUT", "/objects/{oid}")
def _put(request: _Request) -> Any:
    if hashlib.sha256(request.body).hexdigest() != request.parts["oid"]:
        raise Refusal(400, "", "The content does not have this SHA-256")
    request.hub.objects[request.parts["oid"]] = request.body
    return _Answer(b"")


@_route("POST", "/verify")
def _verify(request: _Request) -> Any:
    given = request.json
    if len(request.hub.objects.get(given["oid"], b"")) != given["size"]:
        raise Refusal(404, "", "The object was not uploaded")
    return {}


@_route("POST", "/api/models/{repo}/commit/{revision}")
def _commit(request: _Request) -> Any:
    wants_pull_request = request.query.get("create_pr") in ("1", "true")
    repository = request.repository(write=not wants_pull_request)
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    base = repository.resolve(request.parts["revision"])
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit") not in (None, base):
        raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
    files = dict(repository.files(base))
    for line in lines:
        _apply(request.hub, repository, files, line["key"], line["value"])
    branch, answer = request.parts["revision"], {}
    if wants_pull_request:
        number = 1 + sum(name.startswith("refs/pr/") for name in repository.branches)
        branch = f"refs/pr/{number}"
        answer = {"pullRequestUrl": f"{request.hub.url}/{repository.name}/discussions/{number}"}
    elif branch not in repository.branches:
        raise Refusal(404, "RevisionNotFound", f"{branch} is not a branch")
    sha = repository.commit(files, branch=branch, onto=base)
    repository.titles.append(header["summary"])
    return {**answer, "commitUrl": f"{request.hub.url}/{repository.name}/commit/{sha}", "commitOid": sha}


def _apply(hub: LoopbackHub, repository: Repository, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
    """Apply one line of a commit to `files`."""
    path = value.get("path", "")
    if key == "file":
        files[path] = base64.b64decode(value["content"])
        repository.large.discard(path)
    elif key == "lfsFile":
        if value["oid"] not in hub.objects:
            raise Refusal(400, "", f"{path} was not uploaded")
        files[path] = hub.objects[value["oid"]]
        repository.large.add(path)
    elif key in ("deletedFile", "deletedFolder"):
        for name in [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]:
            del files[name]


@_route("GET HEAD", "/{repo}/resolve/{revision}/{path}")
def _resolve(request: _Request) -> Any:
    repository = request.repository()
    sha = repository.resolve(request.parts["revision"])
    path = request.parts["path"]
    content = repository.file(sha, path)
    headers = {"X-Repo-Commit": sha, "ETag": f'"{blob_id(content)}"', "Content-Type": "application/octet-stream"}
    if repository.is_large(path):
        headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        headers["X-Linked-Size"] = str(len(content))
    return _Answer(content, headers)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Finds the route of a request and sends its answer."""

    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def handle_request(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))  # also of refused requests: keep-alive
        try:
            answer = self._answer(body)
        except Refusal as refusal:
            content = json.dumps({"error": refusal.message, "url": refusal.headers.get("X-Url", "")}).encode()
            known = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message} if refusal.code else {}
            self._send(refusal.status, content, {**refusal.headers, **known, "Content-Type": "application/json"})
        else:
            self._send(200, answer.content, answer.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet: `hub.requests` holds what was asked."""

    def _answer(self, body: bytes) -> _Answer:
        place = urllib.parse.urlsplit(self.path)
        query = {key: values[-1] for key, values in urllib.parse.parse_qs(place.query).items()}
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {place.path}")
            for method, pattern, function in _ROUTES:
                if method == self.command and (match := pattern.fullmatch(place.path)):
                    parts = {key: urllib.parse.unquote(value) for key, value in match.groupdict().items()}
                    answer = function(_Request(self.hub, parts, query, body, self._user()))
                    if isinstance(answer, _Answer):
                        return answer
                    return _Answer(json.dumps(answer).encode(), {"Content-Type": "application/json"})
        raise Refusal(404, "", f"This Hub does not answer {self.command} {place.path}")

    def _user(self) -> str | None:
        given = self.headers.get("Authorization")
        if given is None:
            return None
        token = given.removeprefix("Bearer ")
        if token not in self.hub.tokens:
            raise Refusal(401, "", "Invalid username or password.")
        return self.hub.tokens[token]

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@click.command()
@click.option("--port", default=0, show_default=True, help="Port to listen on; 0 for any that is free.")
def serve(port: int) -> None:
    """Serve an empty Hub on this machine until Ctrl-C."""
    with LoopbackHub(port=port) as hub:
        click.echo(f"A Hub in memory at {hub.url}; it forgets everything at Ctrl-C. In another shell:")
        click.echo(f"export HF_ENDPOINT={hub.url} HF_TOKEN={TOKEN}")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("Stopped.")


if __name__ == "__main__":
    serve()
