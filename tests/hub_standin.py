"""A model hub on loopback: repositories in memory, with faults on demand, and a list of what was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_allowed"
LARGE = (".safetensors", ".bin", ".parquet")  # kept with LFS, whose digests the hub states


def commit_of(number: int) -> str:
    """A commit's name."""
    return f"{number:040x}"


@dataclass
class Repository:
    """A repository and what is wrong with it.

    Attributes:
        commits: commit -> name -> bytes.
        revisions: branch or tag -> commit.
        gated: its files are for ``TOKEN`` alone.
        moved_to: the name that it has now; it redirects there.
        statuses: answers in place of the next ones; the last one stays if ``lasting``.
        headers: sent with these.
        cuts: so many bodies of large files end in the middle.
        silent: bodies of large files begin, and nothing follows.
        lies: large files have other bytes than the hub states.
        licence: in its card.
        any_commit: whatever commit is asked for holds the files of ``main``, as a config may pin a real one.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    moved_to: str | None = None
    statuses: list[int] = field(default_factory=list)
    lasting: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    cuts: int = 0
    silent: bool = False
    lies: bool = False
    licence: str | None = "mit"
    any_commit: bool = False

    def find_commit(self, revision: str) -> str:
        """The commit that a branch, a tag or a commit's name means; it may be one that is not there."""
        if self.any_commit and len(revision) == 40:
            self.commits.setdefault(revision, self.commits[self.revisions["main"]])
        return self.revisions.get(revision, revision)


Makers: TypeAlias = Mapping[tuple[str, str], Callable[[], Repository]]


@dataclass
class Hub:
    """The repositories by (kind, id), and what was asked: ``HEAD /path``.

    Attributes:
        makers: of repositories that are made when they are first asked for.
    """

    makers: Makers = field(default_factory=dict)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""
    _making: threading.Lock = field(default_factory=threading.Lock)

    def find(self, kind: str, id: str) -> Repository | None:
        """A repository of ``models`` or ``datasets``, if there is one."""
        with self._making:
            if (kind, id) not in self.repositories and (kind, id) in self.makers:
                self.repositories[kind, id] = self.makers[kind, id]()
            return self.repositories.get((kind, id))

    def add(self, id: str, files: dict[str, bytes | str], kind: str = "models", **traits: Any) -> Repository:
        """A repository with one commit, which is ``main``."""
        content = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
        commit = commit_of(len(self.repositories) + 1)
        repository = Repository({commit: content}, {"main": commit}, **traits)
        self.repositories[kind, id] = repository
        return repository


@contextmanager
def serve(makers: Makers | None = None, port: int = 0) -> Iterator[Hub]:
    """A hub that answers at ``address`` until the block ends."""
    hub = Hub(makers or {})
    stopped = threading.Event()
    handler = type("Handler", (_Handler,), {"hub": hub, "stopped": stopped})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            stopped.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    stopped: threading.Event

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts == [""]:
            return self.send(200)
        api = parts[0] == "api"
        parts = parts[api:]
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        verbs = ("revision", "tree", "paths-info", "resolve")
        place = next((number for number, part in enumerate(parts) if part in verbs), len(parts))
        id, rest = "/".join(parts[:place]), parts[place:]
        return self.answer(kind, id, rest, api=api)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self, kind: str, id: str, rest: list[str], *, api: bool) -> None:
        repository = self.hub.find(kind, id)
        if repository is None:
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        if repository.statuses:
            status = repository.statuses[0] if repository.lasting else repository.statuses.pop(0)
            if status != 200:
                return self.send(status, **repository.headers)
        if repository.moved_to:
            return self.send(307, Location=self.path.replace(id, repository.moved_to, 1))
        commit = repository.find_commit(rest[1] if rest else "main")
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        if api:
            return self.describe(repository, id, commit, rest)
        token = self.headers.get("Authorization")
        if repository.gated and token != f"Bearer {TOKEN}":
            return self.refuse(403 if token else 401, "GatedRepo", "Access is restricted.")
        return self.send_file(repository, commit, "/".join(rest[2:]))

    def describe(self, repository: Repository, id: str, commit: str, rest: list[str]) -> None:
        entries = [_entry(name, data) for name, data in sorted(repository.commits[commit].items())]
        verb = rest[0] if rest else "revision"
        if verb == "tree":
            return self.list_folder(entries, "/".join(rest[2:]))
        if verb == "paths-info":
            wanted = json.loads(self.body)["paths"] if self.body[:1] == b"{" else parse_qs(self.body.decode())["paths"]
            return self.send_json([entry for entry in entries if entry["path"] in wanted])
        siblings = [
            {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
            | (
                {"lfs": {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 1}}
                if "lfs" in entry
                else {}
            )
            for entry in entries
        ]
        card = {"license": repository.licence} if repository.licence else {}
        told = {"id": id, "sha": commit, "siblings": siblings, "cardData": card, "tags": [], "downloads": 0, "likes": 0}
        return self.send_json({"_id": "0", "private": False, "gated": repository.gated, "disabled": False, **told})

    def list_folder(self, entries: list[dict[str, Any]], folder: str) -> None:
        """Files and folders in a folder, with all that is in those if that is asked for."""
        deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        parents = {str(parent) for entry in entries for parent in PurePosixPath(entry["path"]).parents} - {"."}
        every = [*entries, *({"type": "directory", "path": path, "oid": "0", "size": 0} for path in sorted(parents))]
        inside = [entry for entry in every if not folder or entry["path"].startswith(f"{folder}/")]
        if folder and not inside:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist")
        return self.send_json([entry for entry in inside if deep or _folder(entry["path"]) == folder])

    def send_file(self, repository: Repository, commit: str, name: str) -> None:
        data = repository.commits[commit].get(name)
        if data is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
        entry = _entry(name, data)
        digest = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        if repository.lies and "lfs" in entry:
            data = bytes(len(data))
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        whole, first = len(data), 0
        if asked := self.headers.get("Range"):
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, whole = int(start), min(int(end or whole) + 1, whole)
            headers["Content-Range"] = f"bytes {first}-{whole - 1}/{len(data)}"
        return self.send(206 if asked else 200, data[first:whole], cut=self.cut(repository, name), **headers)

    def cut(self, repository: Repository, name: str) -> bool:
        if self.command != "GET" or not name.endswith(LARGE):
            return False
        repository.cuts -= 1
        return repository.cuts >= 0 or repository.silent

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        self.send(status, **{"X-Error-Code": code, "X-Error-Message": message, **headers})

    def send(self, status: int, data: bytes = b"", *, cut: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True
            if self.path.endswith(LARGE) and self.is_silent():
                self.stopped.wait(20)

    def is_silent(self) -> bool:
        return any(repository.silent for repository in self.hub.repositories.values())


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


@lru_cache(maxsize=1000)
def _digests(data: bytes) -> tuple[str, str]:
    """git's, and the one of LFS."""
    git = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    git.update(data)
    return git.hexdigest(), hashlib.sha256(data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    git, digest = _digests(data)
    entry = {"type": "file", "path": name, "size": len(data), "oid": git}
    lfs = {"oid": digest, "size": len(data), "pointerSize": 1}
    return entry | ({"lfs": lfs} if name.endswith(LARGE) else {})
