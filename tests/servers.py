"""Servers on loopback: a web server that can be told to misbehave, a stand-in for the Hub, one for a registry.

Each counts what it is asked and what it sends. `Server.files` maps a path to a `Served`; what is not there is 404.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Served:
    """One file, and how the server is to behave over it."""

    body: bytes = b""
    size: int | None = None  # of the file, filled up with zeros; None: that of the body
    etag: str | None = None
    ranges: bool = True  # whether Range is honoured
    encoding: str = ""  # Content-Encoding to claim
    length: int | None = None  # Content-Length to claim
    content_range: str | None = None  # to claim in place of the true one; "" for none
    redirect: str = ""  # Location
    fail: list[int] = field(default_factory=list)  # statuses of the next answers
    retry_after: str = ""
    cut: int | None = None  # send only so many bytes of an answer, then hang up
    drip: float = 0.0  # seconds before every byte
    drip_head: float = 0.0  # the same, of the answer's head
    endless: bool = False  # repeat the end of the body for ever
    chunked: bool = False
    token: str = ""  # what must be shown to have it
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"

    @property
    def total(self) -> int:
        return len(self.body) if self.size is None else self.size

    def piece(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of the file from `start` to before `end`, a few at a time."""
        while start < end:
            stop = min(start + (16 << 10), end)
            yield self.body[start:stop].ljust(stop - start, b"\0")
            start = stop


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0  # bytes of body that left for the client

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


class Server(ThreadingHTTPServer):
    """A server on a port of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.answer: Callable[[Handler], bool] | None = None  # the routes of a stand-in; whether it answered
        self.log: list[Request] = []
        self.connections = 0
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def sent(self) -> int:
        return sum(r.sent for r in self.log)

    def handle_error(self, *_: object) -> None:
        """A client that hung up is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        self.server.connections += 1
        # A small send buffer: what `sent` counts has left, but for this.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.current = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        self.server.log.append(self.current)
        with suppress(OSError):
            if self.server.answer and self.server.answer(self):
                return
            self.serve(self.server.files.get(path))

    do_HEAD = do_GET  # noqa: N815 - the name that the base class looks for

    def serve(self, served: Served | None) -> None:
        if served is None:
            self.reply(404, b"not here")
        elif served.fail:
            self.reply(
                served.fail.pop(0), b"busy", {"Retry-After": served.retry_after} if served.retry_after else {}
            )
        elif served.token and self.headers.get("Authorization") != f"Bearer {served.token}":
            self.reply(401, b"who are you?")
        elif served.redirect:
            self.reply(302, b"", {"Location": served.redirect, **served.headers})
        elif served.etag and self.headers.get("If-None-Match") == served.etag:
            self.reply(304, b"", {"ETag": served.etag})
        else:
            self.send_file(served)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.write(body)

    def send_file(self, served: Served) -> None:
        start, end = 0, served.total
        wanted = self.headers.get("Range", "") if served.ranges else ""
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else end, end)
            if start >= served.total:
                self.reply(416, b"", {"Content-Range": f"bytes */{served.total}"})
                return
        self.send_head(served, start, end, bool(wanted))
        if self.command == "HEAD":
            return
        left = served.cut if served.cut is not None else -1
        for piece in self.pieces(served, start, end):
            part = piece if left < 0 else piece[:left]
            self.write(part, served.drip, chunked=served.chunked)
            if left >= 0:
                left -= len(part)
                if not left:
                    self.close_connection = True
                    return
        if served.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def send_head(self, served: Served, start: int, end: int, partial: bool) -> None:
        lines = [
            f"HTTP/1.1 {'206 Partial Content' if partial else '200 OK'}",
            f"Content-Type: {served.content_type}",
        ]
        length = end - start if served.length is None else served.length
        if served.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif length >= 0:
            lines.append(f"Content-Length: {length}")
        else:
            lines.append("Connection: close")
            self.close_connection = True
        if partial and served.content_range != "":
            lines.append(
                "Content-Range: " + (served.content_range or f"bytes {start}-{end - 1}/{served.total}")
            )
        if served.etag:
            lines.append(f"ETag: {served.etag}")
        if served.encoding:
            lines.append(f"Content-Encoding: {served.encoding}")
        lines += [f"{k}: {v}" for k, v in served.headers.items()]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        if not served.drip_head:
            self.wfile.write(head)
            return
        for i in range(len(head)):
            self.server.stopping.wait(served.drip_head)
            self.wfile.write(head[i : i + 1])

    def pieces(self, served: Served, start: int, end: int) -> Iterator[bytes]:
        yield from served.piece(start, end)
        while served.endless and not self.server.stopping.is_set():
            yield served.body[-(16 << 10) :]

    def write(self, data: bytes, drip: float = 0.0, *, chunked: bool = False) -> None:
        step = 1 if drip else len(data) or 1
        for i in range(0, len(data), step):
            if drip:
                self.server.stopping.wait(drip)
                if self.server.stopping.is_set():
                    return
            part = data[i : i + step]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            self.current.sent += len(part)


@contextmanager
def running(server: Server | None = None) -> Iterator[Server]:
    """A server that answers until the block ends."""
    server = server or Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()


class Hub(Server):
    """What of the Hub huggingface-hub needs: listing, metadata with a redirect to another host, gates."""

    def __init__(self, store: Server) -> None:
        super().__init__()
        self.store = store  # the other host, where the bytes lie
        self.repos: dict[str, dict[str, Served]] = {}
        self.gated: set[str] = set()
        self.private: dict[str, str] = {}  # repository -> token
        self.revisions = {"main"}
        self.busy: list[int] = []  # statuses of the next answers
        self.answer = self.route

    def put(self, repo: str, filename: str, served: Served) -> None:
        served.etag = f'"{hashlib.sha256(served.body).hexdigest()}"'
        self.repos.setdefault(repo, {})[filename] = served
        self.store.files[f"/cdn/{repo}/{filename}"] = served

    def route(self, handler: Handler) -> bool:
        path = unquote(urlsplit(handler.path).path)
        if self.busy:
            handler.reply(self.busy.pop(0), b"{}")
            return True
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.model(handler, "/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif len(parts) > 4 and parts[2] == "resolve":
            self.resolve(handler, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            handler.reply(404, b"{}")
        return True

    def refused(self, handler: Handler, repo: str, revision: str) -> bool:
        token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        code, status = "", 404
        if repo in self.gated:
            code, status = "GatedRepo", 403
        elif repo not in self.repos or (repo in self.private and self.private[repo] != token):
            code, status = "RepoNotFound", 401
        elif revision not in self.revisions:
            code = "RevisionNotFound"
        if code:
            handler.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})
        return bool(code)

    def model(self, handler: Handler, repo: str, revision: str) -> None:
        if self.refused(handler, repo, revision):
            return
        siblings = [{"rfilename": name} for name in ("README.md", *self.repos[repo])]
        body = json.dumps({"id": repo, "modelId": repo, "siblings": siblings, "sha": "0" * 40}).encode()
        handler.reply(200, body, {"Content-Type": "application/json"})

    def resolve(self, handler: Handler, repo: str, revision: str, filename: str) -> None:
        if self.refused(handler, repo, revision):
            return
        served = self.repos[repo].get(filename)
        if served is None:
            handler.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        assert served.etag
        head = {
            "X-Repo-Commit": "0" * 40, "X-Linked-Etag": served.etag, "X-Linked-Size": str(served.total),
            "ETag": served.etag, "Location": f"{self.store.url}/cdn/{repo}/{filename}?sig=secret",
        }  # fmt: skip
        handler.reply(302, b"", head)


class Registry(Server):
    """The manifest and blob routes of an Ollama registry; blobs are redirected to another host."""

    def __init__(self, store: Server | None = None) -> None:
        super().__init__()
        self.store = store
        self.manifests: dict[str, bytes] = {}  # "library/model/tag"
        self.answer = self.route

    def put(self, name: str, **layers: bytes | Served) -> dict[str, object]:
        """A model of these layers by kind, under "library/model/tag"."""
        rows = []
        for kind, content in layers.items():
            served = content if isinstance(content, Served) else Served(content)
            digest = "sha256:" + hashlib.sha256(served.body).hexdigest()
            (self.store or self).files[f"/blobs/{digest}"] = served
            rows.append({
                "mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": served.total,
            })  # fmt: skip
        manifest: dict[str, object] = {
            "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"digest": "sha256:" + "0" * 64, "size": 2}, "layers": rows,
        }  # fmt: skip
        self.manifests[name] = json.dumps(manifest).encode()
        return manifest

    def route(self, handler: Handler) -> bool:
        parts = unquote(urlsplit(handler.path).path).strip("/").split("/")
        if parts[:1] != ["v2"] or len(parts) != 5:
            return False
        if parts[3] == "manifests":
            found = self.manifests.get("/".join([*parts[1:3], parts[4]]))
            handler.reply(200 if found else 404, found or b"{}")
        elif self.store:
            handler.reply(307, b"", {"Location": f"{self.store.url}/blobs/{parts[4]}"})
        else:
            handler.serve(self.files.get(f"/blobs/{parts[4]}"))
        return True


class Images(Server):
    """A container registry that gives a token to anyone, and redirects blobs to another host."""

    def __init__(self, store: Server) -> None:
        super().__init__()
        self.store = store
        self.manifests: dict[str, bytes] = {}  # "ai/model/tag"
        self.token = "t0ken"  # that it wants; "" for none
        self.challenge: str | None = None  # in place of the sound one
        self.gives: bytes | None = None  # in place of a sound token
        self.answer = self.route

    def put(self, name: str, *layers: tuple[str, Served, str]) -> str:
        """An image of these layers (type, content, title) under "ai/model/tag"; its manifest's digest."""
        rows = []
        for media_type, served, title in layers:
            digest = "sha256:" + hashlib.sha256(served.body).hexdigest()
            self.store.files[f"/blobs/{digest}"] = served
            notes = {"annotations": {"org.opencontainers.image.title": title}} if title else {}
            rows.append({"mediaType": media_type, "digest": digest, "size": served.total, **notes})
        body = json.dumps({"schemaVersion": 2, "layers": rows}).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        repository = name.rpartition("/")[0]
        self.manifests[name] = self.manifests[f"{repository}/{digest}"] = body
        return digest

    def route(self, handler: Handler) -> bool:
        parts = unquote(urlsplit(handler.path).path).strip("/").split("/")
        if parts == ["token"]:
            gives = json.dumps({"token": self.token}).encode() if self.gives is None else self.gives
            handler.reply(200, gives)
        elif self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            challenge = self.challenge
            if challenge is None:
                challenge = f'Bearer realm="{self.url}/token",service="images",scope="everything"'
            handler.reply(401, b"{}", {"WWW-Authenticate": challenge})
        elif parts[-2] == "manifests":
            found = self.manifests.get("/".join([*parts[1:-2], parts[-1]]))
            handler.reply(200 if found else 404, found or b"{}")
        else:
            handler.reply(307, b"", {"Location": f"{self.store.url}/blobs/{parts[-1]}"})
        return True


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return as soon as it is true; fail when it never is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
