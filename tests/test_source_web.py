"""Headers from web servers: what they cost, and what a server that misbehaves gets."""

from __future__ import annotations

import base64
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import gguf_bytes as raw
import pytest
from conftest import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from servers import Handler, Served, Server, running

from vramfit import _sources as source
from vramfit._base.errors import HeaderError, InvalidHeader, SourceError, VramfitError
from vramfit._gguf import Array
from vramfit._gguf.limits import MAX_HEADER_BYTES
from vramfit._sources import client, web

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
EXAMPLES = Path(__file__).parents[1] / "examples"
FAR = 1 << 40  # the size of files that must not be downloaded


def header(n_strings: int = 1) -> bytes:
    """A header of about 16 bytes a string."""
    return raw.file([raw.key("a", "arr", raw.array("str", n_strings, raw.string("wordword") * n_strings))])


@pytest.fixture
def server(alone: Path) -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that loses patience at once."""
    patience = client.Patience(idle=0.3, total=1.0, back_off=0.001)
    monkeypatch.setattr(client.Patience, "from_environment", lambda: patience)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[client.Client]:
    """The clients that look-ups make."""
    made: list[client.Client] = []
    init = client.Client.__init__

    def remember(self: client.Client, *args: object, **options: object) -> None:
        init(self, *args, **options)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(client.Client, "__init__", remember)
    return made


def put(server: Server, body: bytes | None = None, name: str = "m.gguf", **behaviour: object) -> str:
    server.files[f"/{name}"] = Served(header() if body is None else body, **behaviour)  # type: ignore[arg-type]
    return f"{server.url}/{name}"


@pytest.mark.parametrize("n_strings", [1, 3_000, 5_000, 20_000, 120_000, 300_000])
def test_costs(server: Server, clients: list[client.Client], n_strings: int) -> None:
    """At most three requests, and the header with 64 KiB more; twice the header where that is over 2 MiB."""
    url = put(server, header(n_strings), size=FAR)
    found = source.read_header(url)
    assert len(cast("Array", found.metadata["a"])) == n_strings
    assert len(server.log) <= 3
    allowed = 64 << 10 if found.header_bytes < 2 << 20 else found.header_bytes
    heads = 400 * len(server.log)
    assert clients[0].received <= found.header_bytes + allowed + heads


@pytest.mark.parametrize("n_strings", [1, 5_000, 20_000])
def test_what_is_asked_for(server: Server, n_strings: int) -> None:
    """Every request but the third asks for a range that keeps within the bounds whatever the server sends."""
    url = put(server, header(n_strings), size=FAR)
    found = source.read_header(url)
    for request in server.log[:2]:
        assert int(request.range.rpartition("-")[2]) < found.header_bytes + (64 << 10)
        assert request.headers["accept-encoding"] == "identity"
    assert sum(r.range.endswith("-") for r in server.log) == (len(server.log) == 3)


def test_a_redirect_is_one_of_the_three(server: Server) -> None:
    put(server, header(100_000), "far.gguf", size=FAR)
    url = put(server, redirect="/far.gguf")
    assert source.read_header(url).header_bytes == len(header(100_000))
    assert len(server.log) == 3


def test_connections_are_kept(server: Server) -> None:
    """What was read to its end leaves its connection to the next request."""
    put(server, header(10_000), "far.gguf", size=FAR)
    source.read_header(put(server, redirect="/far.gguf"))
    assert len(server.log) == 3
    assert server.connections == 1


def test_a_file_shorter_than_the_first_range(server: Server) -> None:
    found = source.read_header(put(server))
    assert found.header_bytes == len(header())
    assert len(server.log) == 1


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.gguf")), ids=lambda p: p.stem)
def test_real_headers(server: Server, path: Path) -> None:
    """A header says the same from a file and from a server."""
    here, there = source.read_header(path), source.read_header(put(server, path.read_bytes()))
    assert here.tensors == there.tensors
    assert here.metadata.keys() == there.metadata.keys()


@pytest.mark.parametrize(
    "behaviour", [{"chunked": True}, {"length": -1}, {"content_type": "text/html"}], ids=str
)
@pytest.mark.parametrize("ranges", [True, False])
def test_harmless_ways(server: Server, behaviour: dict[str, Any], ranges: bool) -> None:
    """Chunked answers, answers without a length, wrong types: the header is read all the same."""
    body = header(10_000)
    assert source.read_header(put(server, body, ranges=ranges, **behaviour)).header_bytes == len(body)


def test_a_server_that_ignores_ranges_is_left(server: Server) -> None:
    """It is read as far as the header goes, in one request, and dropped."""
    body = header(30_000)
    found = source.read_header(put(server, body, size=FAR, ranges=False))
    assert found.header_bytes == len(body)
    assert len(server.log) == 1
    settled = server.sent
    time.sleep(0.1)
    assert server.sent == settled < len(body) + (8 << 20)


def test_any_window_gives_the_same(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the server's answers are cut into pieces, the header is that of the file."""
    body = (EXAMPLES / "gemma-3-12b-q4_k_m.gguf").read_bytes()
    monkeypatch.setattr(web, "_SPARE_BYTES", 17)
    monkeypatch.setattr(web, "STEP_BYTES", 1000)
    monkeypatch.setattr(web, "REQUESTS", 1 << 30)
    found = source.read_header(put(server, body))
    assert found.tensors == source.read_header(body).tensors
    assert len(server.log) > 3


# What servers do wrong, and what is said of it.
MISBEHAVIOURS: dict[str, tuple[dict[str, object], str]] = {
    "not there": ({"fail": [404]}, r"has no such file \(404\)"),
    "private": ({"token": "secret"}, r"refuses access \(401\); it is private"),
    "forbidden": ({"fail": [403]}, r"refuses access \(403\)"),
    "out of order": ({"fail": [503] * 9}, "answers 503; try again later"),
    "busy": ({"fail": [429] * 9}, r"too many requests from here \(429\); try again later"),
    "busy for long": ({"fail": [429], "retry_after": "3600"}, "asks to wait 3600 s"),
    "a status nobody knows": ({"fail": [299]}, "answers 299"),
    "redirect to a file": ({"redirect": "file:///etc/passwd"}, "redirected to 'file:///etc/passwd', which is not a web"),
    "redirect to another scheme": ({"redirect": "ftp://127.0.0.1/m"}, "which is not a web address; not followed"),
    "redirect to nowhere": ({"redirect": "gopher:"}, "which is not a web address"),
    "redirect in a circle": ({"redirect": "/m.gguf"}, "more than 5 redirects"),
    "packed": ({"encoding": "gzip"}, "sends it encoded as 'gzip', though asked not to; not unpacked"),
    "a bomb": ({"encoding": "br", "endless": True}, "encoded as 'br'"),
    "no Content-Range": ({"content_range": ""}, "no sound Content-Range"),
    "another range": ({"content_range": "bytes 5-9/1000"}, "another range than was asked for"),
    "a range backwards": ({"content_range": "bytes 9-5/1000"}, "no sound Content-Range"),
    "a range beyond the file": ({"content_range": "bytes 0-9/5"}, "no sound Content-Range"),
    "a range of words": ({"content_range": "bytes a-b/c"}, "no sound Content-Range"),
    "a huge range": ({"content_range": "bytes 0-" + "9" * 40 + "/*"}, "no sound Content-Range"),
    "hangs up": ({"cut": 10, "body": header(50_000)}, "ends its answers early: at byte 40 of the"),
    "a length too long": ({"length": 1 << 20, "body": header(5)[:-3], "ranges": False}, "ends its answers early|nothing for"),
    "silent": ({"drip": 5.0}, "sent nothing for 0.3 s"),
    "drips": ({"drip": 0.05, "body": header(1000)}, "took longer than 1 s"),
    "drips its head": ({"drip_head": 0.05}, "took longer than 1 s"),
    "a web page": ({"body": b"<!DOCTYPE html><html>"}, "is not a GGUF file but a web page"),
    "nothing": ({"body": b"", "ranges": False}, "is empty"),
    "nothing, in ranges": ({"body": b""}, "is empty"),
}  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", MISBEHAVIOURS)
def test_misbehaviours(server: Server, fault: str) -> None:
    """Each is refused, in our words, naming the reference; it costs neither long nor many requests."""
    behaviour, message = MISBEHAVIOURS[fault]
    options: dict[str, Any] = {"body": header(), **behaviour}
    body = options.pop("body")
    assert isinstance(body, bytes)
    url = put(server, body, **options)
    with pytest.raises(SourceError, match=message) as caught:
        source.read_header(url)
    assert url in str(caught.value)
    assert len(server.log) <= 8


@pytest.mark.usefixtures("quick")
def test_a_length_that_lies(server: Server) -> None:
    """A header cannot be larger than the file is said to be, nor its tensors."""
    body = header(5000)
    with pytest.raises(InvalidHeader, match="but the file has 1,000; it is damaged"):
        source.read_header(put(server, body, size=1000))
    tensors = raw.file((), [raw.tensor("t", (1 << 20,))])
    with pytest.raises(InvalidHeader, match="its download is incomplete"):
        source.read_header(put(server, tensors, size=len(tensors) + 5000))


@pytest.mark.usefixtures("quick")
def test_a_file_that_changes_meanwhile(server: Server) -> None:
    """Pieces of two states of a file are not put together."""
    url = put(server, header(20_000), size=FAR, etag='"one"')
    served = server.files["/m.gguf"]

    def change(handler: Handler) -> bool:
        if len(server.log) == 2:
            served.etag = '"two"'
        return False

    server.answer = change
    with pytest.raises(SourceError, match=r"changed on 127\.0\.0\.1 while it was read"):
        source.read_header(url)


@pytest.mark.usefixtures("quick")
def test_a_server_that_forgets_ranges(server: Server) -> None:
    url = put(server, header(20_000), size=FAR)

    def forget(handler: Handler) -> bool:
        server.files["/m.gguf"].ranges = len(server.log) < 2
        return False

    server.answer = forget
    with pytest.raises(SourceError, match="takes no ranges any more"):
        source.read_header(url)


@pytest.mark.usefixtures("quick")
def test_a_server_that_sends_more_than_the_range(server: Server) -> None:
    """What lies beyond the range that was asked for is not taken for the file's."""
    body = header(20_000)
    url = put(server, body, endless=True)
    server.files["/m.gguf"].length = 1 << 30
    assert source.read_header(url).header_bytes == len(body)


def test_a_header_without_end(server: Server) -> None:
    """A header that only grows is left at the limit, with no more memory than that."""
    string = raw.string(bytes(1 << 20).replace(b"\0", b"x"))
    start = b"GGUF" + struct.pack("<Iqq", 3, 0, 1 << 16)
    server.files["/m.gguf"] = Served(
        start + raw.key("a", "arr", raw.array("str", 1 << 30, string)), endless=True, ranges=False, length=FAR
    )
    with pytest.raises(HeaderError):
        source.read_header(f"{server.url}/m.gguf")
    assert server.sent < MAX_HEADER_BYTES


def test_memory_is_bounded_by_what_the_header_claims(server: Server) -> None:
    """A claim of gigabytes reserves nothing before bytes come."""
    key = raw.string("a") + struct.pack("<iQ", raw.TYPES.index("str"), 200 << 20)
    url = put(server, b"GGUF" + struct.pack("<Iqq", 3, 0, 1) + key, size=FAR, cut=5000)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError):
            source.read_header(url)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    source.read_header(put(server, fail=[status, status], retry_after="0"))
    assert len(server.log) == 3


@pytest.mark.usefixtures("quick")
def test_an_answer_that_breaks_off_is_taken_up(server: Server) -> None:
    """Reading goes on where the connection ended."""
    body = header(10_000)
    url = put(server, body, cut=100_000)
    assert source.read_header(url).header_bytes == len(body)


@pytest.mark.usefixtures("quick")
def test_nobody_there(alone: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/m.gguf"
        with pytest.raises(SourceError, match=rf"{url}: 127\.0\.0\.1 cannot be reached"):
            source.read_header(url)


@pytest.mark.usefixtures("quick")
def test_an_answer_that_is_no_http(alone: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def babble() -> None:
            for _ in range(4):
                connection, _ = listener.accept()
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n" * 3)
                connection.close()

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(SourceError, match="cannot be reached"):
            source.read_header(f"http://127.0.0.1:{listener.getsockname()[1]}/m.gguf")
        thread.join()


def test_a_password_stays_with_its_host(server: Server) -> None:
    """Who the person is, is told to the host that was named, not to where it redirects, and shown to nobody."""
    with running() as other:
        put(other, header(10_000))
        url = put(server, redirect=f"{other.url}/m.gguf").replace("//", "//user:pass%20word@") + "?sig=secret"
        found = source.read_header(url)
        assert (
            server.log[0].headers["authorization"] == "Basic " + base64.b64encode(b"user:pass word").decode()
        )
        assert all("authorization" not in r.headers for r in other.log)
        assert "secret" not in found.name + source.reference_name(url)
        assert "pass" not in found.name + source.reference_name(url)
        put(server, fail=[404])
        with pytest.raises(SourceError) as caught:
            source.read_header(url)
        assert "secret" not in str(caught.value)
        assert "pass" not in str(caught.value)


def test_back_on_its_host_the_password_is_shown_again(server: Server) -> None:
    put(server, name="there.gguf")
    url = put(server, redirect="/there.gguf").replace("//", "//user:word@")
    source.read_header(url)
    assert all("authorization" in r.headers for r in server.log)


def test_https_is_not_left_for_http() -> None:
    with pytest.raises(
        SourceError, match=r"m: is redirected from https to http://example\.com/m\.gguf, which anyone"
    ):
        web.redirected("https://example.com/m.gguf", "http://example.com/m.gguf?sig=1", "m")
    assert web.redirected("http://a.com/b/c", "../d?e", "m") == "http://a.com/d?e"
    for location in ("", "http://[::1/", "javascript:1", "//"):
        with pytest.raises(SourceError, match="which is not a web address"):
            web.redirected("data:,", location, "m")


def test_proxies_of_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is asked for the whole URL; NO_PROXY names hosts that are asked themselves."""
    server.files["/m.gguf"] = Served(header())
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:word@"))
    source.read_header("http://models.example/m.gguf")
    assert server.log[0].path == "http://models.example/m.gguf"
    assert server.log[0].headers["proxy-authorization"] == "Basic " + base64.b64encode(b"user:word").decode()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source.read_header(f"{server.url}/m.gguf")
    assert server.log[1].path == "/m.gguf"


def test_proxies_of_other_kinds(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://user:word@127.0.0.1:1080")
    with pytest.raises(SourceError, match=r"^proxy socks5://127\.0\.0\.1:1080: only http and https proxies"):
        source.read_header(put(server))


@pytest.mark.parametrize("text", ["no number", "0", "-1", "nan", "1e9"])
def test_patience_is_a_number(server: Server, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VRAMFIT_TIMEOUT", text)
    with pytest.raises(SourceError, match=f"VRAMFIT_TIMEOUT={text}: give a number of seconds"):
        source.read_header(put(server))
    monkeypatch.setenv("VRAMFIT_TIMEOUT", "5")
    assert client.Patience.from_environment().total == 5


def test_progress_counts_the_bytes(server: Server) -> None:
    seen: list[tuple[str, int]] = []
    url = put(server, header(10_000))
    source.open_headers(url, progress=lambda name, n: seen.append((name, n)))
    assert {name for name, _ in seen} == {url}
    assert sum(n for _, n in seen) >= len(header(10_000))


# Split models.


def put_shards(server: Server, count: int = 10, total: int | None = None) -> str:
    for i in range(count):
        keys = [
            raw.key("split.no", "u16", struct.pack("<H", i)),
            raw.key("split.count", "u16", struct.pack("<H", count)),
            raw.key("split.tensors.count", "i32", struct.pack("<i", total or count)),
        ]
        put(
            server,
            raw.file(keys, [raw.tensor(f"t{i}", (8,))]),
            f"m-{i + 1:05d}-of-{count:05d}.gguf",
            size=FAR,
        )
    return f"{server.url}/m-00001-of-{count:05d}.gguf"


def test_shards(server: Server) -> None:
    """Any shard's URL gives all headers in order, for one request each."""
    url = put_shards(server)
    found = source.open_headers(url.replace("m-00001", "m-00004"))
    assert [t.name for h in found for t in h.tensors] == [f"t{i}" for i in range(10)]
    assert len(server.log) == 10


def test_shards_are_read_several_at_once(server: Server) -> None:
    """Two requests are under way at the same time: each waits for the other."""
    url = put_shards(server, 3)
    meeting = threading.Barrier(2, timeout=10)

    def meet(handler: Handler) -> bool:
        if "m-00001" not in handler.path:
            meeting.wait()
        return False

    server.answer = meet
    assert len(source.open_headers(url)) == 3


def test_a_missing_shard(server: Server) -> None:
    url = put_shards(server, 3)
    del server.files["/m-00002-of-00003.gguf"]
    with pytest.raises(SourceError, match=r"is shard 1 of 3; missing beside it: m-00002-of-00003\.gguf"):
        source.open_headers(url)


def test_a_shard_of_another_model(server: Server) -> None:
    url = put_shards(server, 3)
    server.files["/m-00002-of-00003.gguf"] = server.files["/m-00003-of-00003.gguf"]
    with pytest.raises(SourceError, match="says it is shard 3 of 3, but its name says 2 of 3"):
        source.open_headers(url)
    put_shards(server, 3, total=4)
    with pytest.raises(SourceError, match="one of them belongs to another model"):
        source.open_headers(url, cache=False)


def test_a_shard_with_a_huge_header(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards beyond the first hold no vocabulary, so that a large header is no sound one."""
    monkeypatch.setattr("vramfit._sources.shards._MAX_SHARD_HEADER_BYTES", 1 << 20)
    url = put_shards(server, 2)
    put(server, header(100_000), "m-00002-of-00002.gguf", size=FAR)
    with pytest.raises(SourceError, match=r"m-00002-of-00002.gguf: its header takes 1,\d+,\d+ bytes or more"):
        source.open_headers(url)


def test_shards_that_are_large_together(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramfit._sources.shards._MAX_TOTAL_BYTES", 300)
    with pytest.raises(SourceError, match="the headers of its shards take more than 300 bytes"):
        source.open_headers(put_shards(server))


def test_too_many_shards(server: Server) -> None:
    keys = [raw.key("split.no", "u16", b"\0\0"), raw.key("split.count", "u16", b"\xff\xff")]
    with pytest.raises(SourceError, match="says it is shard 1 of 65535; it is damaged"):
        source.open_headers(put(server, raw.file(keys), "m-00001-of-65535.gguf"))
    assert len(server.log) == 1


# The cache.


def test_the_second_look_asks_nobody(server: Server) -> None:
    url = put(server, header(10_000), size=FAR, etag='"1"')
    first = source.read_header(url)
    asked = len(server.log)
    second = source.read_header(url)
    assert len(server.log) == asked
    assert second.metadata["a"].values() == first.metadata["a"].values()  # type: ignore[union-attr]
    assert second.name == first.name == url


def test_no_cache(server: Server) -> None:
    url = put(server, etag='"1"')
    for _ in range(2):
        source.open_headers(url, cache=False)
    assert len(server.log) == 2


def test_without_an_etag_nothing_is_kept(server: Server) -> None:
    url = put(server)
    for _ in range(2):
        source.read_header(url)
    assert len(server.log) == 2


def test_an_old_look_is_confirmed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the server is asked whether the file is the same: one request without a body, if it is."""
    monkeypatch.setattr("vramfit._sources.cache.FRESH_SECONDS", 0)
    url = put(server, etag='"1"')
    source.read_header(url)
    sent = server.sent
    source.read_header(url)
    assert [r.headers.get("if-none-match") for r in server.log] == [None, '"1"']
    assert server.sent == sent
    put(server, header(5), etag='"2"')
    assert len(cast("Array", source.read_header(url).metadata["a"])) == 5


def test_a_damaged_entry_is_read_anew(server: Server, alone: Path) -> None:
    url = put(server, etag='"1"')
    source.read_header(url)
    (entry,) = (p for p in (alone / "vramfit" / "v1").iterdir() if len(p.name) == 64)
    entry.write_bytes(entry.read_bytes()[:-1] + b"x")
    assert len(cast("Array", source.read_header(url).metadata["a"])) == 1
    assert len(server.log) == 2


# Any bytes.


@pytest.mark.usefixtures("quick")
def test_the_corpus_over_the_network(server: Server) -> None:
    """The fuzzed headers get the same answer from a server as from a file, or one that says more."""
    seeds = sorted(CORPUS.iterdir())
    assert len(seeds) > 20
    for seed in seeds:
        body = seed.read_bytes()
        url = put(server, body, name=f"{seed.name}.gguf")
        assert _outcome(url) == _outcome(seed), seed.name


def _outcome(reference: str | Path) -> object:
    try:
        return source.read_header(reference).tensors
    except VramfitError as error:
        return type(error)


@pytest.mark.usefixtures("quick")
@examples(16, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_from_any_server(server: Server, data: st.DataObject) -> None:
    """Whatever a server sends, and however, gives a `Header` or a `VramfitError`."""
    seed = bytearray(data.draw(st.sampled_from(sorted(CORPUS.iterdir()))).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, max(len(seed) - 1, 0)))
        seed[at : at + 1] = data.draw(st.binary(max_size=9))
    url = put(
        server, bytes(seed), ranges=data.draw(st.booleans()), chunked=data.draw(st.booleans()),
        cut=data.draw(st.none() | st.integers(1, 500)), size=data.draw(st.none() | st.integers(0, 5000)),
        content_range=data.draw(st.none() | st.sampled_from(["", "bytes */*", "bytes 0-5/*", "bytes 0-99/5000"])),
    )  # fmt: skip
    with suppress(VramfitError):
        source.open_headers(url, cache=False)
