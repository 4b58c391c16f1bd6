"""A small hub: the part of the Hugging Face HTTP interface that a download uses, on loopback, with faults on request.

Two listeners, as the real one has: the hub itself, and the storage that large files are redirected to. Real in what matters here:
commits and branches, listings with checksums, redirects for large files, ranges, gated and private repositories, the error codes.
Not real: no TLS, no signed addresses, no paging, no Xet.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

GOOD_TOKEN = "hf_accepted"  # of an account that accepted every licence
OTHER_TOKEN = "hf_not_accepted"  # of an account that did not


@dataclass
class HubFile:
    """One file at one commit."""

    content: bytes
    large: bool = False  # stored outside git, redirected to, and named by its sha256
    listed_size: int | None = None  # what the listing says, where that is not the truth

    @property
    def etag(self) -> str:
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def entry(self, name: str) -> dict[str, object]:
        size = len(self.content) if self.listed_size is None else self.listed_size
        entry: dict[str, object] = {"rfilename": name, "size": size, "blobId": self.etag[:40]}
        if self.large:
            entry["lfs"] = {"sha256": self.etag, "size": size, "pointerSize": 134}
        return entry


@dataclass
class HubRepo:
    """A repository: files by commit, commits by branch or tag."""

    commits: dict[str, dict[str, HubFile]]
    refs: dict[str, str]
    gated: bool = False  # listed for everybody, fetched only with GOOD_TOKEN
    private: bool = False  # not there without GOOD_TOKEN

    def at(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    """One request as it came, and what went out."""

    method: str
    path: str
    token: str | None
    range: str | None
    status: int
    sent_bytes: int
    at_storage: bool  # the second listener


@dataclass
class Faults:
    """What goes wrong from now on. A fault that is used up is removed from the list."""

    cut_after: dict[str, list[int]] = field(
        default_factory=dict
    )  # by file: bytes sent before the connection breaks, one a GET
    statuses: list[int] = field(default_factory=list)  # answered instead, one a GET of a file
    damage: bool = False  # the first byte of every file comes out wrong
    ignore_ranges: bool = False
    empty: bool = False  # ranges are answered with no byte
    not_a_hub: bool = False  # every answer is a web page


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a download that failed leaves the others unread
            super().handle_error(request, client_address)


class Hub:
    """Use as a context manager; `endpoint` is what HF_ENDPOINT would be."""

    def __init__(self) -> None:
        self.repos: dict[str, HubRepo] = {}
        self.requests: list[Request] = []
        self.faults = Faults()
        self._hub = _Server(("127.0.0.1", 0), _handler(self, at_storage=False))
        self._storage = _Server(("127.0.0.1", 0), _handler(self, at_storage=True))

    def __enter__(self) -> Self:
        for server in (self._hub, self._storage):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_port}"

    @property
    def storage(self) -> str:
        return f"http://localhost:{self._storage.server_port}"  # another host by name, as a storage network is

    def publish(self, repo: str, files: dict[str, HubFile], revision: str = "main") -> str:
        """A new commit of `files` alone on `revision`. Returns the commit."""
        known = self.repos.setdefault(repo, HubRepo({}, {}))
        commit = hashlib.sha1(f"{repo} {len(known.commits)}".encode()).hexdigest()
        known.commits[commit] = dict(files)
        known.refs[revision] = commit
        return commit

    def gets(self, name: str) -> list[Request]:
        """The GET requests that were answered with bytes of a file called so, or meant to be."""
        return [
            request
            for request in self.requests
            if request.method == "GET" and request.path.endswith(f"/{name}") and request.status not in (301, 302)
        ]


@dataclass
class _Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def _handler(hub: Hub, at_storage: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body leave in two writes

        def do_GET(self) -> None:
            self._respond(hub_answer=_storage_answer if at_storage else _hub_answer)

        do_HEAD = do_GET

        def _respond(self, hub_answer: Callable[[Hub, str, str, str | None], _Answer]) -> None:
            authorization = self.headers.get("authorization")
            token = authorization.removeprefix("Bearer ") if authorization else None
            path = unquote(urlsplit(self.path).path)
            asked = self.headers.get("range")
            answer = hub_answer(hub, self.command, path, token)
            if answer.status == 200 and "ETag" in answer.headers:
                answer = _file_answer(hub.faults, self.command, answer, asked)
            body = answer.body if self.command == "GET" else b""
            cuts = hub.faults.cut_after.get(path.rsplit("/", 1)[-1])
            sent = body[: cuts.pop(0)] if body and cuts else body
            hub.requests.append(Request(self.command, path, token, asked, answer.status, len(sent), at_storage))
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)
            self.close_connection = self.close_connection or len(sent) < len(body)

        def log_message(self, format: str, *args: object) -> None:
            pass  # `requests` is the log

    return Handler


def _hub_answer(hub: Hub, method: str, path: str, token: str | None) -> _Answer:
    """/api/models/OWNER/NAME[/revision/REVISION] and /OWNER/NAME/resolve/REVISION/FILE."""
    if hub.faults.not_a_hub:
        return _Answer(200, {"Content-Type": "text/html"}, b"<html>Please sign in to this network</html>")
    parts = path.strip("/").split("/")
    listing = parts[:2] == ["api", "models"]
    owner_name, rest = ("/".join(parts[2:4]), parts[4:]) if listing else ("/".join(parts[:2]), parts[2:])
    if token not in (None, GOOD_TOKEN, OTHER_TOKEN):
        return _Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    repo = hub.repos.get(owner_name)
    if repo is None or (repo.private and token != GOOD_TOKEN):
        # Anonymous callers are not told whether there is such a repository.
        return _Answer(404, {"X-Error-Code": "RepoNotFound"}) if token else _Answer(401)
    commit = repo.at(rest[1] if rest else "main")
    if commit is None:
        return _Answer(404, {"X-Error-Code": "RevisionNotFound"})
    if listing:
        entries = [file.entry(name) for name, file in repo.commits[commit].items()]
        body = {"id": owner_name, "sha": commit, "gated": "auto" if repo.gated else False, "siblings": entries}
        return _Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())
    if repo.gated and token != GOOD_TOKEN:
        return _Answer(403 if token else 401, {"X-Error-Code": "GatedRepo"})
    return _resolve_answer(hub, repo, owner_name, commit, "/".join(rest[2:]))


def _resolve_answer(hub: Hub, repo: HubRepo, owner_name: str, commit: str, name: str) -> _Answer:
    file = repo.commits[commit].get(name)
    if file is None:
        return _Answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
    if not file.large:
        return _Answer(200, {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit}, file.content)
    headers = {
        "Location": f"{hub.storage}/{owner_name}/{commit}/{name}",
        "X-Repo-Commit": commit,
        "X-Linked-Etag": f'"{file.etag}"',
        "X-Linked-Size": str(len(file.content)),
    }
    return _Answer(302, headers)


def _storage_answer(hub: Hub, method: str, path: str, token: str | None) -> _Answer:
    """/OWNER/NAME/COMMIT/FILE. Who has the address may read it."""
    owner, repo, commit, name = path.strip("/").split("/")
    file = hub.repos[f"{owner}/{repo}"].commits[commit][name]
    return _Answer(200, {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}, file.content)


def _file_answer(faults: Faults, method: str, answer: _Answer, asked: str | None) -> _Answer:
    """The whole file or the range that was asked for, with the faults that are on."""
    if faults.statuses and method == "GET":
        return _Answer(faults.statuses.pop(0))
    whole = answer.body
    if faults.damage and whole:
        whole = bytes([whole[0] ^ 1]) + whole[1:]
    if asked is None or faults.ignore_ranges:
        return _Answer(200, answer.headers, whole)
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if start >= len(whole):
        return _Answer(416, {"Content-Range": f"bytes */{len(whole)}"})
    part = b"" if faults.empty else whole[start:]
    return _Answer(206, answer.headers | {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"}, part)
