"""What bounds an exchange with a server: attempts, waits, time, buffers, proxies. Without a network where it can be."""

from __future__ import annotations

import gzip
import logging
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import Served, Server, running

from vramfit._base.errors import SourceError
from vramfit._sources import client
from vramfit._sources.client import Client, Patience

QUICK = Patience(idle=0.3, total=5.0, back_off=0.5)


@pytest.fixture
def server(alone: Path) -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept, without sleeping; chance is left out."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)
    return slept


def ask(server: Server, patience: Patience = QUICK) -> int:
    """The status of one exchange."""
    with Client(patience) as asking:
        answer = asking.get(f"{server.url}/m", "m", {"X": "y"})
        answer.close()
        assert asking.requests == len(server.log)
        return answer.status


# Attempts and waits.


def test_waits_double(server: Server, sleeps: list[float]) -> None:
    """Four attempts, with pauses of 0.5, 1 and 2 s; what the last one says is the answer."""
    server.files["/m"] = Served(b"x", fail=[503] * 9)
    assert ask(server) == 503
    assert (len(server.log), sleeps) == (4, [0.5, 1.0, 2.0])
    assert server.log[0].headers["x"] == "y"


def test_the_fourth_attempt_may_work(server: Server, sleeps: list[float]) -> None:
    server.files["/m"] = Served(b"x", fail=[429, 500, 502])
    assert ask(server) == 200
    assert len(sleeps) == 3


@pytest.mark.parametrize("status", [200, 301, 304, 400, 404, 501, 505])
def test_other_answers_are_not_asked_for_again(server: Server, sleeps: list[float], status: int) -> None:
    server.files["/m"] = Served(b"x", fail=[status])
    assert ask(server) == status
    assert (len(server.log), sleeps) == (1, [])


def test_nothing_is_unpacked(server: Server) -> None:
    """A packed answer comes as it is, be it of a redirect: there are no bombs."""
    packed = gzip.compress(bytes(1000))
    server.files["/m"] = Served(packed, encoding="gzip")
    with Client(QUICK) as asking:
        assert asking.get(f"{server.url}/m", "m", {}).read1(10_000) == packed


def test_waits_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a quarter up or down, so that many clients do not come back at once."""
    monkeypatch.setattr(random, "uniform", lambda low, high: (low, high) == (0.75, 1.25) and 3.0)
    assert Client(QUICK)._wait(2, None) == 0.5 * 4 * 3.0


@pytest.mark.parametrize(
    ("told", "waited"),
    [("3", 3.0), ("0", 0.0), ("", 0.5), ("²", 0.5), ("Wed, 21 Oct 2015", 0.5), ("-1", 0.5)],
)
def test_what_a_server_says_to_wait(sleeps: list[float], told: str, waited: float) -> None:
    answer: Any = SimpleNamespace(headers={"Retry-After": told})
    assert Client(QUICK)._wait(0, answer) == waited
    assert Client(QUICK)._wait(0, None) == 0.5


def test_a_wait_that_is_too_long(server: Server, sleeps: list[float]) -> None:
    """30 s are waited where there is the time, no more; nor more than is left."""
    patience = Patience(idle=0.3, total=31.0)
    server.files["/m"] = Served(b"x", fail=[429], retry_after="30")
    assert ask(server, patience) == 200
    assert sleeps == [30.0]
    for told, bounded in (("31", Patience(idle=0.3, total=100.0)), ("30", QUICK), ("9" * 5000, QUICK)):
        server.log.clear()
        server.files["/m"] = Served(b"x", fail=[429], retry_after=told)
        with pytest.raises(
            SourceError, match=f"m: the server asks to wait {told[:9]} s before the next request"
        ):
            ask(server, bounded)
        assert len(server.log) == 1


def test_nobody_there_is_asked_four_times(alone: Path, sleeps: list[float]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/m"
        asking = Client(QUICK)
        with pytest.raises(SourceError, match=r"^m: 127\.0\.0\.1 cannot be reached: .*refused"):
            asking.get(url, "m", {})
    assert (asking.requests, len(sleeps)) == (4, 3)


def test_a_certificate_is_refused_once(
    alone: Path, monkeypatch: pytest.MonkeyPatch, sleeps: list[float]
) -> None:
    """Asking again would not help."""
    from urllib3.exceptions import SSLError

    asking = Client(QUICK)

    def refuse(*_: object, **__: object) -> None:
        raise SSLError(ssl.SSLError("bad certificate"))

    monkeypatch.setattr(asking, "_manager", lambda _: SimpleNamespace(request=refuse))
    with pytest.raises(SourceError, match="h cannot be reached"):
        asking.get("https://h/m", "m", {})
    assert (asking.requests, sleeps) == (1, [])


@pytest.mark.parametrize("url", ["http://h:99999/", "http://a b/", "http://[x/"])
def test_what_cannot_be_asked_for(alone: Path, sleeps: list[float], url: str) -> None:
    """It is no matter of waiting."""
    with pytest.raises(SourceError) as caught:
        Client(QUICK).get(url, "m", {})
    assert str(caught.value).startswith("m: http://")
    assert str(caught.value).endswith(" is not a URL that can be asked for")
    assert not sleeps


# Time.


def test_patience() -> None:
    assert (Patience().idle, Patience().total, Patience().back_off) == (15.0, 120.0, 0.5)


@pytest.mark.parametrize(
    ("text", "idle", "total"),
    [("", 15, 120), (" 5 ", 5, 5), ("0.5", 0.5, 0.5), ("60", 15, 60), ("86400", 15, 86400)],
)
def test_patience_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, idle: float, total: float
) -> None:
    """No longer for a byte than for all."""
    monkeypatch.setenv("VRAMFIT_TIMEOUT", text)
    assert Patience.from_environment() == Patience(idle, total)
    assert Client().patience == Patience(idle, total)


@pytest.mark.parametrize("text", ["86401", "0", "inf", "five"])
def test_patience_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VRAMFIT_TIMEOUT", text)
    with pytest.raises(SourceError, match=f"VRAMFIT_TIMEOUT={text}: give a number of seconds"):
        Patience.from_environment()


def test_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts from the first moment, and at its end nothing is asked any more."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    asking = Client(Patience(idle=1.0, total=5.0))
    assert asking.remaining("m") == 5.0
    now[0] = 104.0
    assert asking.remaining("m") == 1.0
    now[0] = 105.0
    for late in (asking.remaining, lambda name: asking.get("http://127.0.0.1:9/", name, {})):
        with pytest.raises(
            SourceError, match="m: took longer than 5 s; VRAMFIT_TIMEOUT=<seconds> allows more"
        ):
            late("m")
    assert asking.requests == 0


def test_time_that_ends_during_an_exchange_is_told_so(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Client(QUICK)

    def take_long(*_: object, **__: object) -> None:
        asking.deadline = time.monotonic()
        raise OSError("gone")

    monkeypatch.setattr(asking, "_manager", lambda _: SimpleNamespace(request=take_long))
    with pytest.raises(SourceError, match="took longer than 5 s"):
        asking.get("http://h/", "m", {})


# What is read of a connection.


class Wire:
    """A socket that gives what it is told to, and notes what is set."""

    def __init__(self, data: bytes) -> None:
        self.data, self.buffers, self.timeouts, self.closed = data, [], [], False  # type: ignore[var-annotated]

    def makefile(self, mode: str, buffering: int) -> Wire:
        assert (mode, buffering) == ("rb", 0)
        return self

    def setsockopt(self, level: int, option: int, size: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.buffers.append(size)

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def readinto(self, buffer: memoryview) -> int | None:
        piece, self.data = self.data[: len(buffer)], self.data[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self.closed = True


def test_buffers_are_small_until_it_is_much() -> None:
    """32 KiB until 2 MiB have come, 1 MiB then, set once; all that came is counted."""
    wire, asking = Wire(bytes(3 << 20)), Client(QUICK)
    reader = client._GuardedReader(wire, asking)
    assert reader.readable()
    piece = bytearray((1 << 20) - 1)
    for _ in range(2):
        reader.readinto(piece)
    assert wire.buffers == [32 << 10]
    reader.readinto(bytearray(1))
    assert wire.buffers == [32 << 10]
    reader.readinto(bytearray(1))
    assert wire.buffers == [32 << 10, 1 << 20]
    while reader.readinto(piece):
        pass
    assert wire.buffers == [32 << 10, 1 << 20]
    assert asking.received == 3 << 20
    reader.close()
    reader.close()
    assert wire.closed
    assert reader.closed


def test_reads_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits no longer than for a byte, nor than for all; with no time left none begins."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    wire, asking = Wire(bytes(100)), Client(Patience(idle=2.0, total=5.0))
    reader = client._GuardedReader(wire, asking)
    for now[0] in (100.0, 104.0):
        reader.readinto(bytearray(10))
    assert wire.timeouts == [2.0, 1.0]
    now[0] = 105.0
    with pytest.raises(TimeoutError, match="the time is over"):
        reader.readinto(bytearray(10))
    assert len(wire.data) == 80


def test_a_read_without_bytes_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, asking = Wire(b""), Client(QUICK)
    reader = client._GuardedReader(wire, asking)
    monkeypatch.setattr(wire, "readinto", lambda _: None)
    assert reader.readinto(bytearray(10)) is None
    assert asking.received == 0


def test_a_socket_is_itself_but_for_what_is_read() -> None:
    left, right = socket.socketpair()
    with left, right:
        guarded = client._GuardedSocket(left, Client(QUICK))
        assert guarded.fileno() == left.fileno()
        assert guarded.getsockname() == left.getsockname()
        right.sendall(b"some")
        with guarded.makefile("rb") as file:
            assert file.read(4) == b"some"


def test_connections_end_with_the_client(server: Server) -> None:
    server.files["/m"] = Served(b"x")
    with Client(QUICK) as asking:
        asking.get(f"{server.url}/m", "m", {}).read()
        (manager,) = asking._managers.values()
        assert len(manager.pools) == 1
    assert len(manager.pools) == 0


def test_managers_are_shared(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all plain hosts, one for all secure ones; certificates are loaded for these alone."""
    loaded: list[int] = []
    context = ssl.create_default_context()
    monkeypatch.setattr(client, "_certificates", lambda: (loaded.append(1), context)[1])  # type: ignore[func-returns-value]
    asking = Client(QUICK)
    plain = asking._manager("http://a/")
    assert asking._manager("http://b/") is plain
    assert not loaded
    secure = asking._manager("https://a/")
    assert secure is not plain
    assert asking._manager("https://b/") is asking._manager("HTTPS://c/") is secure
    assert loaded == [1]
    assert secure.connection_pool_kw["ssl_context"] is context
    timeout = plain.connection_pool_kw["timeout"]
    assert (timeout.connect_timeout, timeout.read_timeout) == (0.3, 0.3)
    assert plain.connection_pool_kw["maxsize"] >= 8  # as many shards are read at once
    monkeypatch.setenv("http_proxy", "https://proxy:1")
    asking._manager("http://a/")
    assert loaded == [1, 1]


def test_whom_to_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's list and certifi's, where there is one; names are checked."""
    asked: list[str] = []
    certifi = SimpleNamespace(where=lambda: (asked.append("certifi"), "/nowhere")[1])  # type: ignore[func-returns-value]
    monkeypatch.setitem(sys.modules, "certifi", certifi)
    client._certificates.cache_clear()
    context = client._certificates()
    assert asked == ["certifi"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert client._certificates() is context
    client._certificates.cache_clear()


def test_secure_connections_are_guarded(alone: Path) -> None:
    """A server that drips inside TLS ends with the time as well."""
    pool = Client(QUICK)._manager("https://h/").connection_from_host("h", 443, scheme="https")
    assert pool.ConnectionCls.__name__ == "Secure"


# Proxies.


def test_which_proxy(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of the scheme, else the one for all; none for hosts that NO_PROXY names."""
    assert client._proxy("http://h/") == ""
    monkeypatch.setenv("all_proxy", "p:1")
    assert client._proxy("http://h/") == client._proxy("https://h/") == "http://p:1"
    monkeypatch.setenv("https_proxy", "HTTPS://q:2")
    assert client._proxy("https://h/") == "HTTPS://q:2"
    assert client._proxy("http://h/") == "http://p:1"
    monkeypatch.setenv("no_proxy", "h")
    assert client._proxy("http://h/") == client._proxy("https://h/") == ""
    assert client._proxy("http://g/") == "http://p:1"


@pytest.mark.parametrize(
    ("user", "told"), [("user:p%40ss@", "Basic dXNlcjpwQHNz"), ("user@", "Basic dXNlcjo="), ("", None)]
)
def test_who_is_told_to_a_proxy(
    server: Server, monkeypatch: pytest.MonkeyPatch, user: str, told: str | None
) -> None:
    server.files["/m"] = Served(b"x")
    monkeypatch.setenv("http_proxy", f"{user}{server.host}")
    with Client(QUICK) as asking:
        asking.get("http://models.example/m", "m", {}).close()
    assert server.log[0].headers.get("proxy-authorization") == told


# What is said.


def test_what_the_library_says() -> None:
    """The reason behind the last colon, short and without secrets; else the kind of error."""
    said = client._told
    assert said(OSError("HTTPPool(host='h'): why")) == "why"
    assert said(SimpleNamespace(reason=ValueError("inner"))) == "inner"  # type: ignore[arg-type]
    assert said(TimeoutError()) == "TimeoutError"
    assert len(said(OSError("x" * 1000))) == 200
    assert said(OSError("got http://u:secret@h/x?y")) == "got http://h/x"


def test_hosts_for_messages() -> None:
    assert client.host_of("http://user:secret@host:80/m?x") == "host"
    assert client.host_of("/a") == "/a"


def test_the_log_is_quiet_for_ours_alone() -> None:
    """In this thread, while a request is under way; what is no text stays."""

    def logged(*args: object) -> tuple[object, ...]:
        record = logging.LogRecord("n", 10, "p", 1, "%s", args, None)
        assert client._QUIET(record)
        return record.args  # type: ignore[return-value]

    with client._quiet_log():
        assert logged("/m?sig=s", 200, None) == ("/m", 200, None)
        elsewhere: list[object] = []
        thread = threading.Thread(target=lambda: elsewhere.append(logged("/m?a=b", 1)))
        thread.start()
        thread.join()
        assert elsewhere == [("/m?a=b", 1)]
    assert logged("/m?a=b", 1) == ("/m?a=b", 1)
    with suppress(RuntimeError), client._quiet_log():
        raise RuntimeError
    assert logged("/m?a=b", 1) == ("/m?a=b", 1)
    assert logging.getLogger("urllib3.connectionpool").filters.count(client._QUIET) == 1
