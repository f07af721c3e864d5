"""A hub of our own on this machine: as much of the interface of the hub as srd-rs uses, with faults on request.

Weight files (safetensors) are large files: the hub redirects to a second server, which stands for a content network and
sends ranges. What is uploaded goes to this network as well (the batch interface of Git LFS). A commit names it.
`Hub.faults` says what goes wrong.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "76543210fedcba9876543210fedcba9876543210"


@dataclass
class Faults:
    """What goes wrong. A list of numbers counts the requests for weights from 0."""

    token: str | None = None
    """The hub asks for this token."""
    statuses: dict[int, int] = field(default_factory=dict)
    """Number of a request for weights -> the status that answers it instead."""
    retry_after: str | None = None
    cut_every: int = 0
    """Each so many bytes of an answer the connection ends."""
    rate: float = 0.0
    """Bytes per second of each connection; 0 for no limit."""
    stop_after: int | None = None
    """After so many requests for weights every further one is refused with the status 503."""
    change_after: int | None = None
    """After so many requests for weights the files have another version."""
    move_after: int | None = None
    """After so many requests for weights the hub answers for another commit, and its addresses have expired."""
    expire_every: int = 0
    """An address of the network is taken for so many requests."""
    upload_statuses: dict[int, int] = field(default_factory=dict)
    """Number of an upload to the network -> the status that answers it instead."""
    upload_rate: float = 0.0
    """Bytes per second that the network takes of an upload; 0 for no limit."""
    commit_status: int | None = None
    """The status that answers a commit."""
    no_ranges: bool = False
    wrong_sha256: bool = False


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as snapshot_download and a conversion with --stream use."""

    protocol_version = "HTTP/1.1"
    folders: ClassVar[dict[str, Path]] = {}
    fetched: ClassVar[list[str]] = []
    faults: ClassVar[Faults] = Faults()
    tokens: ClassVar[dict[str, set[str]]] = {}
    """Role of a server (hub or network) -> the values of Authorization that it saw."""
    ranges: ClassVar[list[tuple[str, int, int]]] = []
    sent: ClassVar[int] = 0
    requests: ClassVar[int] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()
    stored: ClassVar[dict[str, bytes]] = {}
    """SHA-256 -> what was uploaded to the network. It has no name before a commit."""
    commits: ClassVar[dict[str, list[dict[str, bytes]]]] = {}
    """Repository -> the files of each commit."""
    uploads: ClassVar[int] = 0
    multipart_above: ClassVar[int] = 1 << 62
    """Larger files are uploaded in pieces of half of this size."""
    pieces: ClassVar[dict[tuple[str, int], bytes]] = {}
    in_git: ClassVar[set[str]] = set()
    """The names of weight files that are small enough for git: the hub states no SHA-256 of them."""
    _hashes: ClassVar[dict[tuple[Path, int], str]] = {}

    @classmethod
    def forget(cls) -> None:
        """Forget what was asked, and what goes wrong."""
        kept = (
            cls.folders,
            cls.fetched,
            cls.tokens,
            cls.ranges,
            cls.stored,
            cls.commits,
            cls.pieces,
            cls.in_git,
        )
        for each in kept:
            each.clear()  # type: ignore[attr-defined]
        cls.faults, cls.sent, cls.requests, cls.uploads = Faults(), 0, 0, 0
        cls.multipart_above = 1 << 62

    @property
    def role(self) -> str:
        return str(self.server.role)  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass

    def _json(self, data: Any, status: int = 200, error: str | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._get()

    def _get(self) -> None:
        path = unquote(urlparse(self.path).path)
        with self.lock:
            self.tokens.setdefault(self.role, set()).add(self.headers.get("Authorization", ""))
        if self.role == "network":
            return self._weights(path)
        wanted = self.faults.token
        if wanted is not None and self.headers.get("Authorization") != f"Bearer {wanted}":
            return self._json({"error": "Invalid credentials"}, 401, "GatedRepo")
        if "org/shut" in path:
            return self._json({"error": "Access to model org/shut is restricted"}, 403, "GatedRepo")
        for name, folder in self.folders.items():
            files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            if path.startswith(f"/api/models/{name}/tree/"):
                tree = [self._entry(folder, f) for f in files]
                return self._json(tree)
            if path == f"/api/models/{name}" or path.startswith(f"/api/models/{name}/revision/"):
                siblings = [self._sibling(folder, f) for f in files]
                return self._json({"id": name, "sha": COMMIT, "siblings": siblings, "private": False})
            head = f"/{name}/resolve/"
            if path.startswith(head):
                file = folder / path[len(head) :].split("/", 1)[1]
                if file.suffix == ".safetensors" and file.is_file() and self.server.network:  # type: ignore[attr-defined]
                    return self._redirect(name, folder, file)
                return self._file(file)
        for name, commits in self.commits.items():
            if path.startswith(f"/api/models/{name}/tree/"):
                made = {file: data for commit in commits for file, data in commit.items()}
                tree = [{"type": "file", "path": f, "size": len(d), "oid": "0" * 40} for f, d in made.items()]
                return self._json(tree)
        return self._json({"error": "Repository not found"}, 404, "RepoNotFound")

    def _received(self) -> bytes:
        """The body of a request, which may come in chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self._read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self._read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _read(self, size: int) -> bytes:
        rate, pieces = self.faults.upload_rate if self.command == "PUT" else 0, []
        while size:
            piece = self.rfile.read(min(size, 1 << 16))
            if not piece:
                raise ConnectionResetError
            pieces.append(piece)
            size -= len(piece)
            if rate:
                time.sleep(len(piece) / rate)
        return b"".join(pieces)

    def do_POST(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._post(self._received())

    def _post(self, body: bytes) -> None:
        path = unquote(urlparse(self.path).path)
        if self.role == "network":  # the end of an upload in pieces
            return self._join(path.rsplit("/", 1)[1], len(json.loads(body)["parts"]))
        wanted = self.faults.token
        if wanted is not None and self.headers.get("Authorization") != f"Bearer {wanted}":
            return self._json({"error": "Invalid credentials"}, 401)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            is_new = name not in self.commits
            self.commits.setdefault(name, [])
            return self._json({"url": f"{self._address()}/{name}"}, 200 if is_new else 409)
        for name in self.commits:
            if path == f"/api/models/{name}/preupload/main":
                return self._json({"files": [self._mode(file) for file in json.loads(body)["files"]]})
            if path == f"/{name}.git/info/lfs/objects/batch":
                objects = [self._place(asked) for asked in json.loads(body)["objects"]]
                return self._json({"transfer": "basic", "objects": objects})
            if path == f"/api/models/{name}/commit/main":
                return self._commit(name, [json.loads(line) for line in body.splitlines()])
        return self._json({"error": "Repository not found"}, 404, "RepoNotFound")

    def _address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        """Text is kept in git, everything else is a large file."""
        is_text = file["path"].endswith((".md", ".json", ".Modelfile"))
        return {"path": file["path"], "uploadMode": "regular" if is_text else "lfs", "shouldIgnore": False}

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where an object is to be sent; nowhere if it is there already."""
        oid, size, network = asked["oid"], asked["size"], self.server.network  # type: ignore[attr-defined]
        if oid in self.stored:
            return {"oid": oid, "size": size}
        upload: dict[str, Any] = {"href": f"{network}/objects/{oid}"}
        if size > self.multipart_above:
            piece = self.multipart_above // 2
            numbers = range(1, -(-size // piece) + 1)
            upload["header"] = {"chunk_size": str(piece)}
            upload["header"] |= {f"{n:05}": f"{network}/pieces/{n}/{oid}" for n in numbers}
        return {"oid": oid, "size": size, "actions": {"upload": upload}}

    def do_PUT(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._put()

    def _put(self) -> None:
        kind, *number, oid = urlparse(self.path).path.strip("/").split("/")
        with self.lock:
            count = Hub.uploads
            Hub.uploads += 1
        body = self._received()
        status = self.faults.upload_statuses.get(count)
        if status is None and kind == "objects" and hashlib.sha256(body).hexdigest() != oid:
            status = 400
        if status is None and kind == "objects":
            self.stored[oid] = body
        elif status is None:
            self.pieces[oid, int(number[0])] = body
        self.send_response(status or 200)
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _join(self, oid: str, count: int) -> None:
        body = b"".join(self.pieces[oid, number + 1] for number in range(count))
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "the pieces have another SHA-256"}, 400)
        self.stored[oid] = body
        return self._json({})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if self.faults.commit_status is not None:
            return self._json({"error": "no commit"}, self.faults.commit_status)
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
        self.commits[name].append(files)
        url = f"{self._address()}/{name}/commit/{OTHER_COMMIT}"
        return self._json({"commitUrl": url, "commitOid": OTHER_COMMIT, "success": True})

    def _entry(self, folder: Path, name: str) -> dict[str, Any]:
        data = (folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _sibling(self, folder: Path, name: str) -> dict[str, Any]:
        size = (folder / name).stat().st_size
        entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": "0" * 40}
        if name.endswith(".safetensors") and name not in self.in_git:
            entry["lfs"] = {"size": size, "sha256": self._hash(folder / name), "pointerSize": 134}
        return entry

    def _hash(self, path: Path) -> str:
        if self.faults.wrong_sha256:
            return "0" * 64
        key = (path, path.stat().st_mtime_ns)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[key]

    def _redirect(self, name: str, folder: Path, file: Path) -> None:
        moved = self.faults.move_after is not None and Hub.requests >= self.faults.move_after
        number = Hub.requests
        inside = file.relative_to(folder).as_posix()
        self.send_response(302)
        self.send_header("Location", f"{self.server.network}/{name}/{inside}?signature={number}")  # type: ignore[attr-defined]
        self.send_header("X-Repo-Commit", OTHER_COMMIT if moved else COMMIT)
        self.send_header("X-Linked-Size", str(file.stat().st_size))
        self.send_header("X-Linked-Etag", f'"{self._hash(file)}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _weights(self, path: str) -> None:
        """Answer a request for a range of a weight file."""
        faults = self.faults
        with self.lock:
            number = Hub.requests
            Hub.requests += 1
        name, folder = next((n, f) for n, f in self.folders.items() if path.startswith(f"/{n}/"))
        file = folder / path[len(name) + 2 :]
        status = faults.statuses.get(number)
        if faults.stop_after is not None and number >= faults.stop_after:
            status = 503
        signature = int(self.path.rsplit("=", 1)[1])
        expired = faults.expire_every and number >= signature + faults.expire_every
        moved = faults.move_after is not None and number >= faults.move_after
        if status is None and (expired or moved):
            status = 403
        if status is not None:
            self.send_response(status)
            if faults.retry_after is not None:
                self.send_header("Retry-After", faults.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(file, changed=faults.change_after is not None and number >= faults.change_after)

    def _send(self, file: Path, *, changed: bool) -> None:
        size = file.stat().st_size
        etag = f'"{self._hash(file)}{"-changed" if changed else ""}"'
        asked = self.headers.get("Range")
        version = self.headers.get("If-Range")
        start, end = 0, size
        partial = asked is not None and not self.faults.no_ranges and version in (None, etag)
        if partial:
            assert asked is not None
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last) + 1, size)
        if start >= size:
            return self._json({}, 416)
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        with self.lock:
            self.ranges.append((file.name, start, end))
        self._body(file, start, end)
        return None

    def _body(self, file: Path, start: int, end: int) -> None:
        faults = self.faults
        piece = 1 << 16 if faults.rate == 0 else max(1024, int(faults.rate / 20))
        left = faults.cut_every or end - start
        with file.open("rb") as data:
            data.seek(start)
            while start < end:
                n = min(piece, end - start, left)
                self.wfile.write(data.read(n))
                start, left = start + n, left - n
                with self.lock:
                    Hub.sent += n
                if faults.rate:
                    time.sleep(n / faults.rate)
                if left == 0:
                    self.wfile.flush()
                    self.close_connection = True
                    return

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._json({"error": "Entry not found"}, 404, "EntryNotFound")
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.fetched.append(path.name)
            self.wfile.write(data)
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    role = "hub"
    network: str | None = None
    """Address of the server that the hub redirects to; None where the hub sends all files itself."""


@contextlib.contextmanager
def serving(home: Path, *, network: bool) -> Iterator[dict[str, str]]:
    """Run a hub, and with `network` the server that it redirects to. Gives the environment of a run that uses both."""
    Hub.forget()
    servers = [_Server(("127.0.0.1", 0), Hub)]
    if network:
        far = _Server(("127.0.0.1", 0), Hub)
        far.role = "network"
        servers[0].network = f"http://127.0.0.1:{far.server_port}"
        servers.append(far)
    threads = [threading.Thread(target=s.serve_forever, args=(0.05,), daemon=True) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{servers[0].server_port}",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": "",
        }
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join(10)
        Hub.forget()
