"""A Hub on loopback: enough of its API for huggingface_hub and datasets themselves, and the faults of a real one.

Repositories have commits; a revision is ``main`` or a commit's sha. ``FakeHub.add_fault`` makes the next answers to matching
requests go wrong.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class HubFault:
    """What happens to the next ``times`` requests whose method and path match ``pattern``."""

    def __init__(
        self, pattern: str, kind: str, *, times: float = 1, after: int = 0, retry_after: float = 0.1, method: str = "GET"
    ):
        self.pattern, self.kind, self.remaining = re.compile(pattern), kind, times
        self.after_bytes, self.retry_after, self.method = after, retry_after, method
        self.hits = 0


class HubRequest(NamedTuple):
    """A request that the server got."""

    method: str
    path: str
    range: str | None
    status: int


class _Refused(Exception):  # noqa: N818  an answer, not an error of ours
    def __init__(self, status: int, code: str, **headers: str):
        super().__init__(code)
        self.status, self.code, self.headers = status, code, headers


class FakeHub:
    """The repositories, what was asked, and what goes wrong."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], list[tuple[str, dict[str, bytes]]]] = {}
        self.gated: set[str] = set()
        self.requests: list[HubRequest] = []
        self.faults: list[HubFault] = []
        self.on_info = None
        """Called with the id when a repository's info has been given: for what moves just then."""
        self.lock = threading.Lock()
        self.endpoint = ""

    def push_commit(self, name: str, files: Mapping[str, bytes], kind: str = "datasets") -> str:
        """A new commit that main points at; its sha."""
        commits = self.repos.setdefault((kind, name), [])
        digest = hashlib.sha1(f"{name} {len(commits)}".encode(), usedforsecurity=False)
        for path, content in sorted(files.items()):
            digest.update(f"{path} {len(content)}".encode())
            digest.update(content)
        commits.append((digest.hexdigest(), dict(files)))
        return digest.hexdigest()

    def add_fault(self, pattern: str, kind: str, **options) -> HubFault:
        """``kind``: 404, 429, 500, 503; ``drop``: it ends after ``after_bytes`` bytes of the body; ``refuse``: before a word."""
        fault = HubFault(pattern, kind, **options)
        self.faults.append(fault)
        return fault

    def find_fault(self, method: str, path: str) -> HubFault | None:
        with self.lock:
            for fault in self.faults:
                if fault.remaining > 0 and fault.method in (method, "*") and fault.pattern.search(path):
                    fault.remaining -= 1
                    fault.hits += 1
                    return fault
        return None

    def find_commit(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Raises what the Hub answers for repositories and revisions that it does not have, or not for everybody."""
        commits = self.repos.get((kind, name))
        if commits is None:
            raise _Refused(401, "RepoNotFound", **{"X-Error-Message": "Invalid username or password."})
        if revision == "main":
            return commits[-1]
        for sha, files in commits:
            if sha == revision:
                return sha, files
        raise _Refused(404, "RevisionNotFound", **{"X-Error-Message": f"Invalid rev id: {revision}"})

    def find_file(self, kind: str, name: str, revision: str, path: str) -> tuple[str, bytes]:
        sha, files = self.find_commit(kind, name, revision)
        if name in self.gated:
            message = f"Access to dataset {name} is restricted. You must have access to it and be authenticated to access it."
            raise _Refused(401, "GatedRepo", **{"X-Error-Message": message})
        if path not in files:
            raise _Refused(404, "EntryNotFound", **{"X-Error-Message": "Entry not found", "X-Repo-Commit": sha})
        return sha, files[path]


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(path: str, content: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(content), "oid": _etag(content)[:40]}


def _folders(files: Mapping[str, bytes], under: str, recursive: bool) -> list[dict]:
    """What ``/tree`` lists."""
    prefix = f"{under}/" if under else ""
    found: dict[str, dict] = {}
    for path, content in files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": _etag(folder.encode())[:40]}
        if recursive or len(parts) == 1:
            found[path] = _entry(path, content)
    return [found[path] for path in sorted(found)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *_args) -> None:
        """Everything is in ``FakeHub.requests``."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = hub.find_fault(self.command, path)
        try:
            if fault is not None and fault.kind == "refuse":
                self._noted(0)
                self.close_connection = True
                return
            self._page(path, body, fault)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            raw = json.dumps({"error": refused.headers.get("X-Error-Message", "")}).encode()
            self._send(refused.status, raw, **headers, **refused.headers)
        except (BrokenPipeError, ConnectionResetError):  # the reader had enough: a slice ends where its target is reached
            self.close_connection = True

    def _page(self, path: str, body: bytes, fault: HubFault | None) -> None:
        if fault is not None and fault.kind != "drop":
            headers = {"Retry-After": str(fault.retry_after), "X-Error-Message": "slow down"}
            raise _Refused(int(fault.kind), "TooManyRequests" if fault.kind == "429" else "", **headers)
        if api := _API.fullmatch(path):
            self._api(api, body)
        elif resolve := _RESOLVE.fullmatch(path):
            self._file("datasets" if resolve[1] else "models", *resolve.groups()[1:], fault)
        else:
            raise _Refused(404, "", **{"X-Error-Message": "no such page"})

    def _api(self, asked: re.Match[str], body: bytes) -> None:
        hub = self.server.hub
        kind, name, what, revision, path = asked.groups()
        sha, files = hub.find_commit(kind, name, revision or "main")
        if what in (None, "revision"):
            document = {
                "_id": "0" * 24,
                "id": name,
                "sha": sha,
                "private": False,
                "gated": "auto" if name in hub.gated else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": "2024-01-01T00:00:00.000Z",
                "createdAt": "2024-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
            self._json(document)
            if hub.on_info is not None:
                hub.on_info(name)
            return
        if name in hub.gated:
            hub.find_file(kind, name, sha, "")
        if what == "tree":
            listed = _folders(
                files, path or "", parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            )
            if not listed and path:
                raise _Refused(404, "EntryNotFound", **{"X-Error-Message": f"{path} does not exist"})
            self._json(listed)
            return
        everything = {entry["path"]: entry for entry in _folders(files, "", recursive=True)}
        paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
        self._json([everything[path] for path in paths if path in everything])

    def _file(self, kind: str, name: str, revision: str, path: str, fault: HubFault | None) -> None:
        sha, content = self.server.hub.find_file(kind, name, revision, path)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_etag(content)}"', "Accept-Ranges": "bytes"}
        status, part = 200, content
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
            if start >= len(content):
                self._send(416, b"", **headers, **{"Content-Range": f"bytes */{len(content)}"})
                return
            status, part = 206, content[start : stop + 1]
            headers["Content-Range"] = f"bytes {start}-{stop}/{len(content)}"
        self._send(status, part, cut=None if fault is None else fault.after_bytes, **headers)

    def _json(self, document) -> None:
        self._send(200, json.dumps(document).encode(), **{"Content-Type": "application/json"})

    def _noted(self, status: int) -> None:
        with self.server.hub.lock:
            self.server.hub.requests.append(HubRequest(self.command, unquote(self.path), self.headers.get("Range"), status))

    def _send(self, status: int, body: bytes, *, cut: int | None = None, **headers: str) -> None:
        self._noted(status)
        self.send_response(status)
        for key, value in {"Content-Type": "application/octet-stream", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: FakeHub

    def handle_error(self, *_args) -> None:
        """A client that went away is no news."""


@contextmanager
def serve_hub(hub: FakeHub):
    """Serve it on a free port of loopback; ``hub.endpoint`` is then what HF_ENDPOINT should be."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.hub = hub
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def make_hub_environment(hub: FakeHub, home, base: Mapping[str, str]) -> dict[str, str]:
    """``base`` as a child needs it that asks this hub and nothing else. ``home``: its HF_HOME."""
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    kept = {
        key: value
        for key, value in base.items()
        if key not in offline and "proxy" not in key.lower() and not key.startswith("HF_")
    }
    return {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
