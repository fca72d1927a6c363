"""What one look-up shares: when it asks, when it keeps, when it trusts what was kept."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import gguf_bytes as raw
import pytest

from vramfit._base.errors import InvalidHeader, SourceError
from vramfit._sources.cache import Cache
from vramfit._sources.origin import File, Origin
from vramfit._sources.session import Session

KEY = ("url", "far")


def gguf(name: str, n_strings: int = 1, kind: str = "str") -> bytes:
    word = raw.string("word") if kind == "str" else b"word"
    array = raw.array(kind, n_strings, word * n_strings)
    return raw.file([raw.key("general.name", "str", raw.string(name)), raw.key("a", "arr", array)])


@dataclass
class Place:
    """A place that is asked for one file, and notes of which state it was told."""

    body: bytes
    size: int | None = 1 << 40
    etag: str = "one"
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def open(self, known: str) -> Iterator[Origin | None]:
        self.asked.append(known)
        same = known and known == self.etag
        yield None if same else Origin("far", io.BytesIO(self.body), self.size, 64, self.etag)

    def file(self, **options: Any) -> File:
        return File("far", "m.gguf", self.open, **{"key": KEY, **options})


@pytest.fixture
def session(alone: Path) -> Session:
    return Session()


def age(session: Session, key: tuple[str, ...] = KEY, seconds: float = 7200.0) -> None:
    """Let what is kept grow old."""
    import os
    import time

    assert session.cache
    then = time.time() - seconds
    os.utime(session.cache._path(key, session.cache._secret()), (then, then))


def kept(session: Session) -> Any:
    assert session.cache
    return session.cache.get(KEY)


def name_of(session: Session, file: File) -> object:
    return session.read(file).metadata["general.name"]


def test_a_session_without_a_cache(alone: Path) -> None:
    session, place = Session(cache=False), Place(gguf("m"))
    assert session.cache is None
    for _ in range(2):
        assert name_of(session, place.file()) == "m"
    assert place.asked == ["", ""]
    assert [session.remembered(KEY, lambda i=i: bytes([i])) for i in range(2)] == [b"\0", b"\1"]  # type: ignore[misc]
    assert not (alone / "vramfit").exists()


def test_what_is_fresh_is_not_asked_for(session: Session) -> None:
    place = Place(gguf("m"))
    first = session.read(place.file())
    assert session.read(place.file()) == first
    assert place.asked == [""]


def test_what_is_old_is_confirmed(session: Session) -> None:
    """By its state; then it is fresh again. One that changed is read and kept."""
    place = Place(gguf("old"))
    name_of(session, place.file())
    age(session)
    assert name_of(session, place.file()) == "old"
    assert name_of(session, place.file()) == "old"
    assert place.asked == ["", "one"]
    age(session)
    place.body, place.etag = gguf("new"), "two"
    assert [name_of(session, place.file()) for _ in range(2)] == ["new", "new"]
    assert place.asked == ["", "one", "one"]
    assert kept(session).note["etag"] == "two"


def test_what_lasts_is_never_asked_for_again(session: Session) -> None:
    place = Place(gguf("m"), etag="")
    name_of(session, place.file(lasting=True))
    age(session, seconds=1e8)
    assert name_of(session, place.file(lasting=True)) == "m"
    assert place.asked == [""]


def test_without_a_state_or_a_key_nothing_is_kept(session: Session) -> None:
    for place, options in ((Place(gguf("m"), etag=""), {}), (Place(gguf("m")), {"key": ()})):
        for _ in range(2):
            name_of(session, place.file(**options))
        assert place.asked == ["", ""]
    assert kept(session) is None
    assert session.cache
    assert session.cache.get(()) is None
    session.cache.put((), gguf("nobody's"))
    assert name_of(session, Place(gguf("m")).file(key=())) == "m"


@pytest.mark.parametrize(("size", "noted"), [(1 << 40, 1 << 40), (None, -1)])
def test_what_is_kept(session: Session, size: int | None, noted: int) -> None:
    """The header and no more, the size of the file, its state, and how long arrays of 1,000 strings or more are."""
    body = gguf("m", 1000)
    session.read(Place(body + bytes(1000), size).file())
    entry = kept(session)
    assert entry.body == body
    assert entry.note == {"etag": "one", "size": noted, "strings": {"a": 12_000}}
    session.read(Place(gguf("m", 999), size, "two").file(key=("short",)))
    assert session.cache
    assert session.cache.get(("short",)).note["strings"] == {}  # type: ignore[union-attr]
    session.read(Place(gguf("m", 4000, "u32"), size).file(key=("numbers",)))
    assert session.cache.get(("numbers",)).note["strings"] == {}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "note",
    [{"size": "1"}, {"etag": 7}, {"strings": []}, {"strings": {"a": "1"}}],
    ids=str,
)
@pytest.mark.parametrize("n_bytes", [None, 1 << 40])
def test_a_note_that_makes_no_sense(session: Session, note: dict[str, object], n_bytes: int | None) -> None:
    """What was kept beside it is read anew, and its state is not told."""
    place = Place(gguf("new"))
    assert session.cache
    session.cache.put(KEY, gguf("old"), **{"etag": "one", "size": -1, "strings": {}, **note})
    assert name_of(session, place.file(n_bytes=n_bytes)) == "new"
    assert place.asked == [""]


@pytest.mark.parametrize("size", [5, (1 << 40) - 1])
def test_a_size_that_is_not_the_one_announced(session: Session, size: int) -> None:
    place = Place(gguf("new"))
    assert session.cache
    session.cache.put(KEY, gguf("old"), etag="one", size=size)
    assert name_of(session, place.file(n_bytes=1 << 40)) == "new"
    assert place.asked == [""]


@pytest.mark.parametrize("size", [1 << 40, -1])
def test_a_note_that_makes_sense(session: Session, size: int) -> None:
    """A missing one says that nothing is known."""
    place = Place(gguf("new"))
    assert session.cache
    session.cache.put(KEY, gguf("old"), size=size)
    assert name_of(session, place.file(n_bytes=1 << 40)) == "old"
    session.cache.put(KEY, gguf("older"))
    assert name_of(session, place.file(n_bytes=1 << 40)) == "older"
    assert place.asked == []
    age(session)
    assert name_of(session, place.file()) == "new"
    assert place.asked == [""]


def test_the_size_of_the_file_is_kept(session: Session) -> None:
    """Of what was kept the tensors are held against it, as of what is read."""
    body = raw.file((), [raw.tensor("t", (1 << 20,))])
    place = Place(body)
    assert session.cache
    session.cache.put(KEY, body, etag="one", size=len(body) + 5000)  # it was cut
    assert session.read(place.file()).n_tensors == 1
    assert place.asked == [""]
    with pytest.raises(InvalidHeader):
        session.read(Place(body, len(body) + 5000).file(key=("cut",)))


def test_the_limit_holds_for_what_was_kept(session: Session) -> None:
    place = Place(gguf("m"))
    name_of(session, place.file())
    assert session.read(place.file(), len(place.body)).header_bytes == len(place.body)
    with pytest.raises(SourceError, match="its header takes"):
        session.read(place.file(), 60)
    assert place.asked == ["", ""]


def test_what_was_announced(session: Session) -> None:
    """Size and digest are compared as far as is known; a file of this machine is its owner's."""
    body = gguf("m")
    digest = sha256(body).hexdigest()
    for size in (len(body), None):
        assert session.read(Place(body, size).file(key=(), digest=digest, n_bytes=len(body)))
    assert session.read(Place(body).file(key=(), digest="0" * 64, n_bytes=1 << 40))  # its end was not read
    assert session.read(Place(body, len(body)).file(key=(), digest="0" * 64, path=Path("m.gguf")))
    with pytest.raises(
        SourceError, match=r"far: has 1,000 bytes, but 1,001 in its manifest; try again later"
    ):
        session.read(Place(body, 1000).file(n_bytes=1001))
    with pytest.raises(
        SourceError, match=f"far: the file is another .* is {digest}, not {'0' * 64}; try again"
    ):
        session.read(Place(body, len(body)).file(digest="0" * 64))
    assert kept(session) is None


def test_what_is_remembered(session: Session) -> None:
    """For an hour; then it is fetched again."""
    answers = iter([b"first", b"second"])
    for expected in (b"first", b"first"):
        assert session.remembered(KEY, lambda: next(answers)) == expected
    age(session)
    for expected in (b"second", b"second"):
        assert session.remembered(KEY, lambda: next(answers)) == expected


def test_one_client_for_all_threads(session: Session) -> None:
    """Made when it is first needed, and left when the session ends."""
    meeting, found = Barrier(4), []

    def ask() -> None:
        meeting.wait()
        found.append(session.client)

    assert session._client is None
    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    left: list[object] = []
    found[0].__class__.__exit__, before = lambda *_: left.append(1), found[0].__class__.__exit__  # type: ignore[method-assign]
    try:
        with session as same:
            assert same is session
    finally:
        found[0].__class__.__exit__ = before  # type: ignore[method-assign]
    assert left == [1]
    with Session():  # without a client nothing is left
        pass


def test_what_a_session_is_told(alone: Path) -> None:
    def progress(_: str, __: int) -> None: ...

    session = Session(revision="v1", token="t", progress=progress)
    assert (session.revision, session.token, session.client.progress) == ("v1", "t", progress)
    assert isinstance(session.cache, Cache)
    assert (Session().revision, Session().token, Session().client.progress) == ("", "", None)
