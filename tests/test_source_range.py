"""What is asked of a web server and how its answers are taken: `web` with a client that plays a script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vramfit
from vramfit._base.errors import SourceError
from vramfit._sources import web
from vramfit._sources.origin import Missing, Unauthorized
from vramfit._sources.web import RangeStream

URL = "https://host/m.gguf"
NOT_FOLLOWED = "which is not a web address; not followed"


@dataclass
class Answer:
    """What a server says next; reading gives `body` in pieces of at most `piece` bytes."""

    status: int = 206
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: Exception | None = None  # raised where the body ends
    piece: int = 1 << 30
    closed: int = 0
    sizes: list[int] = field(default_factory=list)

    def read1(self, size: int) -> bytes:
        self.sizes.append(size)
        found, self.body = self.body[: min(size, self.piece)], self.body[min(size, self.piece) :]
        if not found and self.error:
            raise self.error
        return found

    def close(self) -> None:
        self.closed += 1


class Script:
    """A client that gives these answers, and notes what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.patience = SimpleNamespace(idle=15.0)
        self.told: list[tuple[str, int]] = []
        self.progress: Any = lambda name, n: self.told.append((name, n))
        self.over = False

    def get(self, url: str, name: str, headers: Mapping[str, str]) -> Answer:
        assert name == "m"
        self.asked.append((url, dict(headers)))
        return self.answers[len(self.asked) - 1]

    def remaining(self, name: str) -> float:
        if self.over:
            raise SourceError(f"{name}: took longer")
        return 1.0

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]


def part(start: int, body: bytes, total: int | str = 1 << 30, **options: Any) -> Answer:
    """The answer to a range."""
    head = {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{total}", **options.pop("headers", {})}
    return Answer(206, head, body, **options)


def stream(*answers: Answer, **options: Any) -> tuple[RangeStream, Script]:
    script = Script(*answers)
    return RangeStream(script, URL, "m", **options), script  # type: ignore[arg-type]


def redirect(location: str, **options: Any) -> Answer:
    return Answer(302, {"Location": location}, **options)


# What is asked.


def test_three_requests() -> None:
    """64 KiB, then what is needed and 48 KiB more, then all that follows."""
    found, script = stream(part(0, bytes(65536)), part(65536, bytes(10_000)), part(75_536, bytes(99_999)))
    assert script.ranges == ["bytes=0-65535"]
    while len(script.asked) < 3:
        assert found.read(20_000)
    assert script.ranges[1:] == [f"bytes=65536-{65536 + 20_000 + 49_152 - 1}", "bytes=75536-"]
    url, headers = script.asked[0]
    assert (url, headers) == (URL, {
        "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"vramfit/{vramfit.__version__}",
        "Range": "bytes=0-65535",
    })  # fmt: skip


@pytest.mark.parametrize(
    ("size", "more"),
    [((2 << 20) - 65536 - 1, 48 << 10), ((2 << 20) - 65536, 1 << 20), (4 << 20, (65536 + (4 << 20)) // 2)],
)
def test_beyond_two_mebibytes_half_as_much_again_is_asked_for(size: int, more: int) -> None:
    found, script = stream(part(0, bytes(65536)), part(65536, b"x"))
    while len(script.asked) < 2:
        found.read(size)
    assert script.ranges[1] == f"bytes=65536-{65536 + size + more - 1}"


def test_what_was_spent_counts() -> None:
    for spent, first in ((1, "bytes=0-65535"), (2, "bytes=0-"), (3, "bytes=0-")):
        _, script = stream(part(0, b"x"), spent=spent)
        assert script.ranges == [first]


def test_a_text_is_asked_for_whole() -> None:
    script = Script(Answer(200, {}, b"text"))
    assert web.fetch(script, URL, "m", accept="a/b", limit=4) == b"text"  # type: ignore[arg-type]
    assert script.asked[0][1].keys() == {"Accept", "Accept-Encoding", "User-Agent"}
    assert script.asked[0][1]["Accept"] == "a/b"
    assert script.answers[0].closed


def test_a_text_that_is_too_long() -> None:
    script = Script(Answer(200, {}, b"texts", piece=3))
    with pytest.raises(SourceError, match="m: host answers with more than 4 bytes where a few are due"):
        web.fetch(script, URL, "m", accept="a/b", limit=4)  # type: ignore[arg-type]
    assert script.answers[0].closed
    assert max(script.answers[0].sizes) == 64 << 10


def test_a_state_that_is_known() -> None:
    """It is told; whoever says that it is still so is believed, who was not told it is not."""
    found, script = stream(redirect("/n.gguf"), Answer(304), etag='"1"')
    assert [headers["If-None-Match"] for _, headers in script.asked] == ['"1"', '"1"']
    assert found.unchanged
    assert script.answers[1].closed
    found, script = stream(part(0, b"x", headers={"ETag": "2"}), etag='"1"')
    assert (found.unchanged, found.etag) == (False, "2")
    with pytest.raises(SourceError, match=r"m: host answers 304$"):
        stream(Answer(304))
    found, script = stream(part(0, b"x"), part(1, b"y"))
    found.read(1)
    found.read(1)
    assert all("If-None-Match" not in headers for _, headers in script.asked)


SAME = ["/n", "https://HOST/n", "https://host:443/n", "https://user@host/n"]
OTHER = ["https://host:444/n", "https://other/n", "https://host.other/n", "//other/n"]


@pytest.mark.parametrize("location", SAME + OTHER)
def test_a_secret_is_for_its_host(location: str) -> None:
    """Scheme, host and port; back there it is shown again."""
    auth = {"Authorization": "Basic x"}
    _, script = stream(redirect(location), redirect(URL), part(0, b"x"), auth=auth)
    shown = [headers.get("Authorization") for _, headers in script.asked]
    assert shown == ["Basic x", "Basic x" if location in SAME else None, "Basic x"]


def test_a_secret_is_not_for_the_same_host_without_tls() -> None:
    script = Script(redirect("https://host/n"), part(0, b"x"))
    RangeStream(script, "http://host/m", "m", auth={"Authorization": "x"})  # type: ignore[arg-type]
    assert ["Authorization" in headers for _, headers in script.asked] == [True, False]


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(status: int) -> None:
    found, script = stream(Answer(status, {"Location": "n.gguf"}), part(0, b"x"))
    assert [url for url, _ in script.asked] == [URL, "https://host/n.gguf"]
    assert script.ranges == ["bytes=0-65535", "bytes=0-65535"]
    assert script.answers[0].closed
    assert found.read(9) == b"x"


@pytest.mark.parametrize("status", [300, 305, 306, 309])
def test_other_threehundreds_are_not_followed(status: int) -> None:
    with pytest.raises(SourceError, match=f"m: host answers {status}$"):
        stream(Answer(status, {"Location": "n.gguf"}))


def test_five_redirects() -> None:
    stream(*[redirect("n")] * 5, part(0, b"x"))
    with pytest.raises(SourceError, match="m: more than 5 redirects; the link leads in a circle"):
        stream(*[redirect("n")] * 6, part(0, b"x"))


@pytest.mark.parametrize(
    ("length", "sizes"), [("1024", [1024]), ("1025", []), ("0", [1024]), ("", []), ("x", [])]
)
def test_the_body_of_a_redirect(length: str, sizes: list[int]) -> None:
    """A short one is read, so that the connection serves on."""
    there = redirect("n", body=b"moved")
    there.headers["Content-Length"] = length
    stream(there, part(0, b"x"))
    assert there.sizes == sizes


@pytest.mark.parametrize(
    "location", ["", "file:///m", "ftp://host/m", "http://[::1/", "data:,x", "javascript:1"]
)
def test_redirects_that_are_not_followed(location: str) -> None:
    with pytest.raises(SourceError, match=f"m: is redirected to '.*', {NOT_FOLLOWED}"):
        web.redirected(URL, location, "m")


def test_a_redirect_to_nowhere() -> None:
    with pytest.raises(SourceError, match=f"m: is redirected to '.*', {NOT_FOLLOWED}"):
        stream(Answer(302))


def test_where_redirects_lead() -> None:
    assert web.redirected("https://h/a/b", "../c?d", "m") == "https://h/c?d"
    assert web.redirected("http://h/a", "HTTPS://g/b", "m") == "HTTPS://g/b"
    assert web.redirected("http://h/a", "http://g/b", "m") == "http://g/b"
    with pytest.raises(SourceError, match="from https to http://g/b, which anyone could forge; not followed"):
        web.redirected("https://h/a", "http://user:secret@g/b?c", "m")


# Answers.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes 0-0/1", (0, 1, 1)), ("bytes 0-9/10", (0, 10, 10)), (" Bytes 5-9/*", (5, 10, None)),
        ("bytes 0-9/9", None), ("bytes 9-8/10", None), ("bytes 9-9/*", (9, 10, None)), ("", None), ("bytes", None),
        ("items 0-9/10", None), ("bytes 0-9", None), ("bytes -9/10", None), ("bytes 0-/10", None), ("bytes 0-9/", None),
        ("bytes 0-9/²", None), ("bytes 0-" + "1" * 19 + "/*", (0, int("1" * 19) + 1, None)),
        ("bytes 0-" + "1" * 20 + "/*", None), ("bytes +0-9/10", None), ("bytes */10", None),
    ],
)  # fmt: skip
def test_content_ranges(text: str, found: object) -> None:
    if found:
        assert web._content_range(text, "m", "host") == found
        return
    with pytest.raises(SourceError, match="m: host sends no sound Content-Range"):
        web._content_range(text, "m", "host")


@given(st.text(max_size=30))
def test_any_content_range(text: str) -> None:
    """It is sound, or refused."""
    try:
        start, end, size = web._content_range(text, "m", "host")
    except SourceError:
        return
    assert 0 <= start < end <= (end if size is None else size)


@pytest.mark.parametrize(
    ("length", "size"),
    [("9", 9), ("", None), ("²", None), ("-1", None), ("9" * 19, int("9" * 19)), ("9" * 20, None)],
)
def test_an_answer_without_a_range(length: str, size: int | None) -> None:
    """Its length is the file's, where it says a sound one."""
    found, _ = stream(Answer(200, {"Content-Length": length}, b"123456789"))
    assert found.size == size
    assert found.read(100) == b"123456789"
    if size in (None, 9):
        assert found.read(100) == b""
        assert found.size == 9


def test_a_range_of_an_unknown_total() -> None:
    found, script = stream(part(0, b"x", "*"), part(1, b"y", 2))
    assert found.size is None
    assert (found.read(9), found.read(9), found.size, found.read(9)) == (b"x", b"y", 2, b"")  # type: ignore[comparison-overlap]
    assert len(script.asked) == 2


def test_beyond_the_end() -> None:
    """A range behind the last byte is how the end shows where no total was told."""
    found, script = stream(part(0, b"x", "*"), Answer(416))
    assert (found.read(9), found.read(9), found.size) == (b"x", b"", 1)
    assert script.answers[1].closed
    found, _ = stream(Answer(416))  # an empty file
    assert (found.read(9), found.size, found.etag) == (b"", 0, "")


CHANGED = [
    (
        part(1, b"y", headers={"ETag": "2"}),
        "changed on host while it was read, or host takes no ranges any more",
    ),
    (Answer(200, {"ETag": "1"}, b"xy"), "changed on host while it was read"),
    (
        part(1, b"y", 3, headers={"ETag": "1"}),
        "another range than was asked for; it cannot be read in pieces",
    ),
    (part(0, b"xy", 2, headers={"ETag": "1"}), "another range than was asked for"),
    (Answer(404), r"host has no such file \(404\)"),
]


@pytest.mark.parametrize(("answer", "message"), CHANGED)
def test_pieces_of_two_files(answer: Answer, message: str) -> None:
    """They are not put together; the refused answer is left."""
    found, _ = stream(part(0, b"x", 2, headers={"ETag": "1"}), answer)
    assert found.read(9) == b"x"
    before = answer.closed
    with pytest.raises(SourceError, match=message):
        found.read(9)
    assert answer.closed == before + 1


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_unpacked(encoding: str) -> None:
    found, _ = stream(part(0, b"x", headers={"Content-Encoding": encoding}))
    assert found.read(1) == b"x"


def test_packed() -> None:
    answer = part(0, b"x", headers={"Content-Encoding": "gzip" * 20})
    with pytest.raises(
        SourceError, match=r"m: host sends it encoded as 'gzipgzip[^ ]{31}, though asked not to"
    ):
        stream(answer)
    assert answer.closed


# Reading.


def test_no_more_is_read_than_was_promised() -> None:
    """64 KiB at a time, to the end of the range; what lies beyond is none of the file."""
    long = part(0, bytes(65536), 100_000)
    long.body += b"beyond"
    found, script = stream(long, part(65536, bytes(100_000 - 65536), 100_000))
    assert len(found.read(10)) == 10
    assert len(found.read(1 << 20)) == 65526
    while found.read(1 << 20):
        pass
    assert long.sizes == [10, 65526, 0]
    assert long.closed == 1
    assert script.told == [("m", 10), ("m", 65526), ("m", 100_000 - 65536)]
    assert len(script.asked) == 2
    whole, script = stream(Answer(200, {}, bytes(100_000)))
    whole.read(1 << 20)
    assert script.answers[0].sizes == [64 << 10]


def test_without_progress() -> None:
    script = Script(part(0, b"x"))
    script.progress = None
    assert RangeStream(script, URL, "m").read(1) == b"x"  # type: ignore[arg-type]


def test_answers_that_end_early() -> None:
    """They are taken up where they ended, three times; the fourth is too often."""

    def cut(start: int) -> Answer:
        answer = part(start, bytes(10), 100)
        answer.body = answer.body[:5]
        return answer

    found, script = stream(*(cut(i) for i in (0, 5, 10)), part(15, bytes(85), 100))
    assert sum(len(found.read(100)) for _ in range(4)) == 100
    assert script.ranges[1:] == [f"bytes=5-{5 + 100 + 49_152 - 1}", "bytes=10-", "bytes=15-"]
    found, _ = stream(*(cut(i) for i in (0, 5, 10, 15)), part(20, bytes(80), 100))
    with pytest.raises(SourceError, match="m: host ends its answers early: at byte 20 of the 25 it promises"):
        [found.read(100) for _ in range(5)]


def test_a_whole_answer_is_none_that_ends_early() -> None:
    """Ranges that come as promised may be as many as it takes."""
    found, _ = stream(*(part(i, b"x", 100) for i in range(100)))
    assert b"".join(iter(lambda: found.read(9), b"")) == b"x" * 100


@pytest.mark.parametrize("error", [TimeoutError(), OSError("it timed out"), OSError("Read Timed Out.")])
def test_silence(error: Exception) -> None:
    found, script = stream(part(0, b"x", error=error))
    found._end = None
    found.read(1)
    with pytest.raises(SourceError, match="m: host sent nothing for 15 s"):
        found.read(1)
    script.over = True
    with pytest.raises(SourceError, match="took longer"):
        found.read(1)


def test_a_connection_that_breaks() -> None:
    """As good as an end."""
    broken = part(0, b"xy", 3, error=OSError("reset"), piece=1)
    broken.body = b"x"
    found, _ = stream(broken, part(1, b"yz", 3))
    assert (found.read(9), found.read(9)) == (b"x", b"yz")


def test_left_as_soon_as_nobody_reads() -> None:
    script = Script(part(0, b"xy", headers={"ETag": "1"}))
    with web.open_url(script, URL, "m", spent=1) as found:  # type: ignore[arg-type]
        assert found is not None
        assert (found.name, found.size, found.step, found.etag) == ("m", 1 << 30, 16 << 10, "1")
    assert script.answers[0].closed == 1
    with web.open_url(Script(Answer(304)), URL, "m", etag="1") as found:  # type: ignore[arg-type]
        assert found is None


# Refusals.


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, Missing, r"m: host has no such file \(404\)"),
        (410, Missing, r"m: host has no such file \(410\)"),
        (401, Unauthorized, r"m: host refuses access \(401\); it is private, gated or needs a token"),
        (403, SourceError, r"m: host refuses access \(403\)"),
        (429, SourceError, r"m: host has had too many requests from here \(429\); try again later"),
        (400, SourceError, "m: host answers 400$"),
        (499, SourceError, "m: host answers 499$"),
        (500, SourceError, "m: host answers 500; try again later$"),
        (503, SourceError, "m: host answers 503; try again later$"),
        (204, SourceError, "m: host answers 204$"),
    ],
)
def test_refusals(status: int, kind: type[SourceError], message: str) -> None:
    answer = Answer(status, {"WWW-Authenticate": "Bearer x"})
    with pytest.raises(SourceError, match=message) as caught:
        stream(answer)
    assert type(caught.value) is kind
    assert answer.closed
    if isinstance(caught.value, Unauthorized):
        assert caught.value.challenge == "Bearer x"
        with pytest.raises(Unauthorized) as caught:
            stream(Answer(401))
        assert caught.value.challenge == ""


def test_origins() -> None:
    assert (
        web.origin_of("https://user:x@HOST/m") == ("https", "host", 443) == web.origin_of("https://host:443")
    )
    assert web.origin_of("http://host/") == ("http", "host", 80)
    assert web.origin_of("http://host:8080/") == ("http", "host", 8080)
    assert web.origin_of("ftp:///") == ("ftp", "", None)
    with pytest.raises(SourceError, match=r"^http://host:x/: is not a URL: its port is not a number"):
        web.origin_of("http://host:x/?secret")


@pytest.mark.parametrize(
    ("user", "password", "told"),
    [("a", "b", "YTpi"), ("a%40", "%3A", "YUA6Og=="), ("a", None, "YTo="), ("", "b", "OmI=")],
)
def test_who_is_told(user: str, password: str | None, told: str) -> None:
    assert web.basic_auth(user, password) == {"Authorization": f"Basic {told}"}
    assert web.basic_auth(None, password) == {}
