"""Talk to servers that are not trusted: certificates, proxies, retries, and how long all of it may take.

urllib3 does the talking; it is imported when the first reference is remote. What it leaves open is bounded here: the time of
all exchanges together, however slowly a server drips, and what the system buffers of an answer that nobody reads on.
What it says of an address, in errors or logs, goes through `redact`.
"""

from __future__ import annotations

import io
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from .._base.errors import SourceError
from .redact import redacted, redacted_within

if TYPE_CHECKING:
    from logging import LogRecord
    from ssl import SSLContext

    from urllib3 import BaseHTTPResponse, PoolManager

ATTEMPTS: Final = 4  # at anything that may work the next time
SMALL_BYTES: Final = 2 << 20  # of an answer: until here, what is under way counts; then speed does
_TIGHT_BUFFER: Final = 32 << 10  # less makes the sender stall; Linux doubles it, half of that for its own use
_WIDE_BUFFER: Final = 1 << 20
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
        """Read the time limits from `VRAMFIT_TIMEOUT` (seconds in all)."""
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
        self._lock = threading.Lock()
        self.received = 0  # bytes, of heads and bodies alike
        self._managers: dict[tuple[str, bool], PoolManager] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.clear()

    def remaining(self, name: str) -> float:
        """Return the seconds left; raises `SourceError` when none is."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise SourceError(
                f"{name}: took longer than {self.patience.total:g} s; VRAMFIT_TIMEOUT=<seconds> allows more"
            )
        return left

    def get(self, url: str, name: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Make one exchange, retried while the server is busy; redirects and refusals are the caller's matter."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
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
            with _quiet_log():
                return self._manager(url).request(
                    "GET", url, headers=dict(headers), redirect=False, retries=False,
                    preload_content=False, decode_content=False,
                )  # fmt: skip
        except (LocationParseError, UnicodeError, ValueError):  # what they say may hold a password
            raise SourceError(f"{name}: {redacted(url)} is not a URL that can be asked for") from None
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
        secure = "https" in (urlsplit(url).scheme, urlsplit(proxy).scheme)  # certificates take long to load
        with self._lock:
            manager = self._managers.get((proxy, secure))
            if manager is None:
                manager = self._managers[proxy, secure] = _new_manager(self, proxy, secure)
            return manager


def _proxy(url: str) -> str:
    """Find the proxy that the environment names for `url`, "" for none."""
    from urllib.request import proxy_bypass

    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return ""
    proxies = sound_proxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if proxy and not proxy.lower().startswith(("http://", "https://")):
        raise SourceError(
            f"proxy {redacted(proxy)}: only http and https proxies are spoken to; set NO_PROXY for {host_of(url)}"
        )
    return proxy


def sound_proxies() -> dict[str, str]:
    """Read the proxies that the environment names by scheme ("http", "https", "all"), each an address.

    Raises `SourceError` without the address when one is none: a part of its password may stand where the host should.
    """
    from urllib.request import getproxies

    found = getproxies()
    proxies = {}
    for scheme in ("http", "https", "all"):
        proxy = found.get(scheme, "").strip()
        proxy = proxy if not proxy or "://" in proxy else f"http://{proxy}"
        if proxy and not _is_address(proxy):
            raise SourceError(
                f"{scheme.upper()}_PROXY: is not an address; write http://user:password@host:port, "
                "and / @ ? # : of a password as %2F %40 %3F %23 %3A"
            )
        proxies[scheme] = proxy
    return proxies


def _is_address(proxy: str) -> bool:
    """Whether scheme, user, password, host and port of `proxy` can be told apart."""
    try:
        parts = urlsplit(proxy)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    beyond = parts.path + parts.query + parts.fragment
    return re.fullmatch(r"[\w.:%-]+", host) is not None and "@" not in beyond and not re.search(r"\s", proxy)


class _QuietLog(threading.local):
    """urllib3's log of requests, without the queries of ours: others' are left as they are."""

    ours = False

    def __call__(self, record: LogRecord) -> bool:
        if self.ours and isinstance(record.args, tuple):
            record.args = tuple(a.partition("?")[0] if isinstance(a, str) else a for a in record.args)
        return True


_QUIET: Final = _QuietLog()


@contextmanager
def _quiet_log() -> Iterator[None]:
    import logging

    logging.getLogger("urllib3.connectionpool").addFilter(_QUIET)  # once, however often it is added
    _QUIET.ours = True
    try:
        yield
    finally:
        _QUIET.ours = False


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
    """Load whom to trust: the system's own list, which some Pythons cannot find, and certifi's if installed."""
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
        """Return that of the socket inside."""
        return int(self._sock.fileno())

    def makefile(self, mode: str = "rb", *_: object, **__: object) -> io.BufferedReader:
        """Make the file that an answer is read from: one for each answer of a connection."""
        return io.BufferedReader(_GuardedReader(self._sock, self._client))


class _GuardedReader(io.RawIOBase):
    """Reads one answer. While it is short, little of it may be under way beyond what was read."""

    def __init__(self, sock: Any, client: Client) -> None:
        self._sock, self._client = sock, client
        self._raw = sock.makefile("rb", buffering=0)
        self._received = 0
        self._buffer(_TIGHT_BUFFER)

    def readable(self) -> bool:
        """Return True: it always is."""
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
        if before < SMALL_BYTES <= self._received:
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


def host_of(url: str) -> str:
    """Find the host of `url`, for messages."""
    return urlsplit(url).hostname or redacted(url)


def _told(error: Exception) -> str:
    """Shorten what urllib3 or the system says."""
    cause = getattr(error, "reason", None) or error
    return redacted_within(str(cause)).split(": ", 1)[-1][:200] or type(cause).__name__
