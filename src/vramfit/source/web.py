"""HTTP: as few requests and bytes as a header needs, from servers that are not trusted.

The size of a header shows only while it is read. So each request asks for a range that surely is not
too much (`_SPARE_BYTES` beyond what the header is known to need), and the last one that the budget of three allows
asks for all that follows and is dropped once the header is whole. What a server may do meanwhile is bounded:
redirects, retries, silence, the time of all exchanges together, and what the system buffers of an answer.
urllib3 does the talking; it is imported when the first reference is remote.
"""

from __future__ import annotations

import io
import os
import random
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urljoin, urlsplit

from ..errors import SourceError
from .grammar import shown
from .origin import Missing, Origin

if TYPE_CHECKING:
    from ssl import SSLContext

    from urllib3 import BaseHTTPResponse, PoolManager

REQUESTS: Final = 3  # that one header may cost
STEP_BYTES: Final = 16 << 10  # the window of a remote header grows by this much
_SPARE_BYTES: Final = 48 << 10  # asked for beyond one step, so that 64 KiB are never passed
_SMALL_BYTES: Final = 2 << 20  # until here, what is under way counts; then speed does
_TIGHT_BUFFER: Final = 32 << 10  # less makes the sender stall; Linux doubles it, half of that for its own use
_WIDE_BUFFER: Final = 1 << 20
_MAX_REDIRECTS: Final = 5
_ATTEMPTS: Final = 4
_RETRIED: Final = frozenset({429, 500, 502, 503, 504})
_IDLE_SECONDS: Final = 15.0
_TOTAL_SECONDS: Final = 120.0
_MAX_WAIT_SECONDS: Final = 30.0  # the longest that a server may tell us to wait

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server may take. Times in seconds."""

    idle: float = _IDLE_SECONDS  # without a byte
    total: float = _TOTAL_SECONDS  # for everything that one reference needs
    back_off: float = 0.5  # before the first retry; doubled for each one after

    @classmethod
    def from_environment(cls) -> Patience:
        """As `VRAMFIT_TIMEOUT` (seconds in all) says."""
        text = os.environ.get("VRAMFIT_TIMEOUT", "").strip()
        try:
            total = float(text) if text else _TOTAL_SECONDS
        except ValueError:
            total = -1.0
        if not 0 < total <= 86_400:
            raise SourceError(f"VRAMFIT_TIMEOUT={text}: give a number of seconds, as in VRAMFIT_TIMEOUT=120")
        return cls(idle=min(_IDLE_SECONDS, total), total=total)


class Client:
    """The connections of one look-up, kept alive between its requests; several threads may share it."""

    def __init__(self, patience: Patience | None = None, progress: Progress | None = None) -> None:
        self.patience = patience or Patience.from_environment()
        self.progress = progress
        self.deadline = time.monotonic() + self.patience.total
        self.requests = 0
        self._lock = Lock()
        self.received = 0  # bytes, of heads and bodies alike
        self._managers: dict[tuple[str, bool], PoolManager] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.clear()

    def remaining(self, name: str) -> float:
        """Seconds left; `SourceError` when none is."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise SourceError(
                f"{name}: took longer than {self.patience.total:g} s; VRAMFIT_TIMEOUT=<seconds> allows more"
            )
        return left

    def get(self, url: str, name: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """One exchange, retried while the server is busy; redirects and refusals are the caller's matter."""
        for attempt in range(_ATTEMPTS):
            last = attempt == _ATTEMPTS - 1
            answer = self._attempt(url, name, headers, last)
            if answer is not None and (answer.status not in _RETRIED or last):
                return answer
            wait = self._wait(attempt, answer)
            if answer is not None:
                answer.close()
            if wait > min(_MAX_WAIT_SECONDS, self.remaining(name)):
                raise SourceError(
                    f"{name}: the server asks to wait {wait:.0f} s before the next request; try again later"
                )
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(
        self, url: str, name: str, headers: Mapping[str, str], last: bool
    ) -> BaseHTTPResponse | None:
        from urllib3.exceptions import HTTPError, LocationParseError, SSLError

        self.remaining(name)
        self.requests += 1
        try:
            return self._manager(url).request(
                "GET", url, headers=dict(headers), redirect=False, retries=False,
                preload_content=False, decode_content=False,
            )  # fmt: skip
        except (LocationParseError, UnicodeError, ValueError) as error:
            raise SourceError(f"{name}: {shown(url)} is no URL: {error}") from None
        except (HTTPError, OSError) as error:
            self.remaining(name)
            if last or isinstance(error, SSLError):
                raise SourceError(f"{name}: {host_of(url)} cannot be reached: {_told(error)}") from error
            return None

    def _wait(self, attempt: int, answer: BaseHTTPResponse | None) -> float:
        told = answer.headers.get("Retry-After", "") if answer is not None else ""
        if told.isascii() and told.isdigit():
            return float(told[:9])
        return self.patience.back_off * float(2**attempt) * random.uniform(0.75, 1.25)

    def _manager(self, url: str) -> PoolManager:
        proxy = _proxy(url)
        secure = url.startswith("https:") or proxy.startswith("https:")  # certificates take long to load
        with self._lock:
            manager = self._managers.get((proxy, secure))
            if manager is None:
                manager = self._managers[proxy, secure] = _new_manager(self, proxy, secure)
            return manager


def _proxy(url: str) -> str:
    """The proxy that the environment names for `url`, "" for none."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _new_manager(client: Client, proxy: str, secure: bool) -> PoolManager:
    import urllib3
    from urllib3 import connection, connectionpool

    # Subclasses made here, so that urllib3 is only imported where it is needed.
    class Plain(connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = _GuardedSocket(self.sock, client)

    class Secure(connection.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = _GuardedSocket(self.sock, client)

    class PlainPool(connectionpool.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(connectionpool.HTTPSConnectionPool):
        ConnectionCls = Secure

    options: dict[str, Any] = {
        "num_pools": 8, "maxsize": 8, "ssl_context": _certificates() if secure else None,
        "timeout": urllib3.Timeout(connect=client.patience.idle, read=client.patience.idle),
    }  # fmt: skip
    if proxy:
        parts, proxy_headers = urlsplit(proxy), None
        if parts.username is not None:
            proxy_headers = urllib3.make_headers(
                proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            )
        manager: PoolManager = urllib3.ProxyManager(proxy, proxy_headers=proxy_headers, **options)
    else:
        manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager


@cache
def _certificates() -> SSLContext:
    """Whom to trust: the system's own list, which some Pythons cannot find, and certifi's where it is installed."""
    import ssl

    context = ssl.create_default_context()
    with suppress(ImportError, OSError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


class _GuardedSocket:
    """A connected socket whose reads end with the client's time, however slowly the server drips."""

    def __init__(self, sock: Any, client: Client) -> None:
        self._sock, self._client = sock, client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def fileno(self) -> int:
        """Of the socket inside."""
        return int(self._sock.fileno())

    def makefile(self, mode: str = "rb", *_: object, **__: object) -> io.BufferedReader:
        """What an answer is read from: one for each answer of a connection."""
        return io.BufferedReader(_GuardedReader(self._sock, self._client))


class _GuardedReader(io.RawIOBase):
    """Reads one answer. While it is short, little of it may be under way beyond what was read."""

    def __init__(self, sock: Any, client: Client) -> None:
        self._sock, self._client = sock, client
        self._raw = sock.makefile("rb", buffering=0)
        self._received = 0
        self._buffer(_TIGHT_BUFFER)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Read what is there; `TimeoutError` when the server is silent or the time is over."""
        left = self._client.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is over")
        with suppress(OSError):  # closed meanwhile: the read says so
            self._sock.settimeout(min(left, self._client.patience.idle))
        n: int | None = self._raw.readinto(buffer)
        before, self._received = self._received, self._received + (n or 0)
        self._client.received += n or 0
        if before < _SMALL_BYTES <= self._received:
            self._buffer(_WIDE_BUFFER)
        return n

    def close(self) -> None:
        """Let go of the socket."""
        if not self.closed:
            self._raw.close()
        super().close()

    def _buffer(self, size: int) -> None:
        with suppress(OSError, AttributeError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


class RangeStream:
    """A remote file from its start, asked for piece by piece and left as soon as nobody reads on."""

    def __init__(
        self, client: Client, url: str, name: str, *, auth: Mapping[str, str] | None = None,
        spent: int = 0, etag: str = "", accept: str = "*/*", ranged: bool = True,
    ) -> None:  # fmt: skip
        self._client, self._url, self.name = client, url, name
        self._accepted, self._ranged = accept, ranged
        self._auth, self._auth_origin = dict(auth or {}), origin_of(url)
        self._spent = spent
        self._position = 0
        self._end: int | None = 0  # of the range being read; None when the server does not say
        self._answer: BaseHTTPResponse | None = None
        self._cut = 0  # answers that ended before what they promised
        self.size: int | None = None
        self.etag = ""
        self.unchanged = False
        self._request(STEP_BYTES, known=etag)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end of the file."""
        while not self._at_end():
            if self._answer is None:
                self._request(size)
                continue
            chunk = self._chunk(size)
            if chunk:
                self._position += len(chunk)
                if self._client.progress:
                    self._client.progress(self.name, len(chunk))
                return chunk
            self._ended()
        return b""

    def close(self) -> None:
        """Leave the server; what it still sends is not read."""
        if self._answer is not None:
            self._answer.close()  # one that was read to its end has given its connection back already
            self._answer = None

    def _at_end(self) -> bool:
        return self.size is not None and self._position >= self.size

    def _chunk(self, size: int) -> bytes:
        from urllib3.exceptions import HTTPError

        assert self._answer is not None
        if self._end is not None:
            size = min(size, self._end - self._position)
        try:
            return self._answer.read1(min(size, 64 << 10)) or b""
        except (HTTPError, OSError) as error:
            self._client.remaining(self.name)
            if isinstance(error, TimeoutError) or "timed out" in str(error).lower():
                raise SourceError(
                    f"{self.name}: {host_of(self._url)} sent nothing for {self._client.patience.idle:g} s"
                ) from error
            return b""

    def _ended(self) -> None:
        """An answer is over: as promised, with the file, or too early."""
        self.close()
        if self._end is None:  # no length was promised: this is the end
            self.size = self._position
        if self._position == (self.size if self._end is None else self._end):
            return
        self._cut += 1
        if self._cut >= _ATTEMPTS:
            raise SourceError(
                f"{self.name}: {host_of(self._url)} ends its answers early: at byte {self._position:,} "
                f"of the {self._end:,} it promises"
            )

    def _request(self, size: int, known: str = "") -> None:
        """Ask for what follows, at least `size` bytes where there are as many."""
        for _ in range(_MAX_REDIRECTS + 1):
            last = self._spent >= REQUESTS - 1
            headers = {
                "Accept": self._accepted, "Accept-Encoding": "identity", "User-Agent": user_agent(),
            }  # fmt: skip
            if self._ranged:
                end = "" if last else self._position + self._ask(size) - 1
                headers["Range"] = f"bytes={self._position}-{end}"
            if origin_of(self._url) == self._auth_origin:
                headers |= self._auth
            if known:
                headers["If-None-Match"] = known
            self._spent += 1
            answer = self._client.get(self._url, self.name, headers)
            if answer.status not in (301, 302, 303, 307, 308):
                self._accept(answer, known)
                return
            self._follow(answer)
        raise SourceError(f"{self.name}: more than {_MAX_REDIRECTS} redirects; the link leads in a circle")

    def _ask(self, size: int) -> int:
        """Bytes to ask for: no more than the bounds on a whole header allow, given that it takes `size` more."""
        need = self._position + size
        return size + (_SPARE_BYTES if need < _SMALL_BYTES else need // 2)

    def _follow(self, answer: BaseHTTPResponse) -> None:
        location = answer.headers.get("Location", "")
        with suppress(Exception):  # a short body is read, so that the connection serves on
            if int(answer.headers.get("Content-Length", "")) <= 1024:
                answer.read1(1024)
        answer.close()
        target = urljoin(self._url, location)
        scheme = urlsplit(target).scheme.lower()
        if not location or scheme not in ("http", "https"):
            raise SourceError(
                f"{self.name}: is redirected to {shown(target)!r}, which is no web address; not followed"
            )
        if scheme == "http" and urlsplit(self._url).scheme == "https":
            raise SourceError(
                f"{self.name}: is redirected from https to {shown(target)}, which anyone could forge; not followed"
            )
        self._url = target

    def _accept(self, answer: BaseHTTPResponse, known: str) -> None:
        try:
            if answer.status == 304 and known:
                self.unchanged = True
                answer.close()
                return
            if answer.status == 416:
                self.size = self._position
                answer.close()
                return
            self._check(answer)
        except BaseException:
            answer.close()
            raise
        self._answer = answer

    def _check(self, answer: BaseHTTPResponse) -> None:
        """Refuse what is not the piece that was asked for; note what it is a piece of."""
        host = host_of(self._url)
        if answer.status not in (200, 206):
            raise_for_status(answer.status, self.name, host)
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise SourceError(
                f"{self.name}: {host} sends it encoded as {encoding!r:.40}, though asked not to; not unpacked"
            )
        etag = answer.headers.get("ETag", "")
        if self._position and (answer.status == 200 or etag != self.etag):
            raise SourceError(
                f"{self.name}: changed on {host} while it was read, or {host} takes no ranges any more; try again"
            )
        self.etag = etag
        if answer.status == 200:  # the range was ignored: read what is needed, then leave
            length = answer.headers.get("Content-Length", "")
            self.size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
            self._end = self.size
            return
        start, self._end, size = _content_range(answer.headers.get("Content-Range", ""), self.name, host)
        if start != self._position or (self.size is not None and size != self.size):
            raise SourceError(
                f"{self.name}: {host} answers with another range than was asked for; it cannot be read in pieces"
            )
        self.size = size


def _content_range(text: str, name: str, host: str) -> tuple[int, int, int | None]:
    """First byte, byte behind the last, and size of the whole file of a Content-Range."""
    unit, _, rest = text.strip().partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    numbers = [first, last] if total == "*" else [first, last, total]
    if unit.lower() == "bytes" and all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers):
        start, end, size = int(first), int(last) + 1, None if total == "*" else int(total)
        if start < end and (size is None or end <= size):
            return start, end, size
    raise SourceError(
        f"{name}: {host} sends no sound Content-Range ({text!r:.60}); it cannot be read in pieces"
    )


@contextmanager
def open_url(
    client: Client, url: str, name: str, *, auth: Mapping[str, str] | None = None,
    spent: int = 0, etag: str = "",
) -> Iterator[Origin | None]:  # fmt: skip
    """The file at `url`; None when its state is still `etag`. `auth` is shown to the host of `url` alone."""
    stream = RangeStream(client, url, name, auth=auth, spent=spent, etag=etag)
    try:
        yield None if stream.unchanged else Origin(name, stream, stream.size, STEP_BYTES, stream.etag)
    finally:
        stream.close()


def fetch(client: Client, url: str, name: str, *, accept: str, limit: int) -> bytes:
    """A small text, whole: of at most `limit` bytes."""
    stream = RangeStream(client, url, name, accept=accept, ranged=False)
    body = bytearray()
    try:
        while chunk := stream.read(64 << 10):
            body += chunk
            if len(body) > limit:
                raise SourceError(
                    f"{name}: {host_of(url)} answers with more than {limit:,} bytes where a few are due"
                )
    finally:
        stream.close()
    return bytes(body)


def raise_for_status(status: int, name: str, host: str) -> None:
    """The error that a refusal of the server means to the person who asked."""
    if status in (404, 410):
        raise Missing(f"{name}: {host} has no such file ({status})")
    if status in (401, 403):
        raise SourceError(f"{name}: {host} refuses access ({status}); it is private, gated or needs a token")
    if status == 429:
        raise SourceError(f"{name}: {host} has had too many requests from here (429); try again later")
    raise SourceError(f"{name}: {host} answers {status}" + ("; try again later" if status >= 500 else ""))


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token is bound to."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise SourceError(f"{shown(url)}: is no URL: {error}") from None
    return parts.scheme, (parts.hostname or "").lower(), port or {"http": 80, "https": 443}.get(parts.scheme)


def host_of(url: str) -> str:
    """The host of `url`, for messages."""
    return urlsplit(url).hostname or shown(url)


def basic_auth(user: str | None, password: str | None) -> dict[str, str]:
    """The header that shows the user and password of a URL, where it has them."""
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return {"Authorization": "Basic " + b64encode(pair.encode()).decode()}


def user_agent() -> str:
    """What servers are told of who asks."""
    from .. import __version__

    return f"vramfit/{__version__}"


def _told(error: Exception) -> str:
    """What urllib3 or the system says, in short."""
    cause = getattr(error, "reason", None) or error
    return str(cause).split(": ", 1)[-1][:200] or type(cause).__name__
