"""The cache of headers: what it keeps, for how long, and what cannot hurt it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import gguf_bytes as raw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramfit import _gguf as header
from vramfit._base.errors import SourceError
from vramfit._sources import cache
from vramfit._sources.cache import Cache, Key
from vramfit._sources.paths import local_file
from vramfit._sources.session import Session

KEYS = st.lists(st.text(max_size=20), max_size=3).map(tuple)


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def path_of(kept: Cache, key: Key) -> Path:
    """Where what is kept under `key` lies."""
    return kept._path(key, kept._secret())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEYS, body=st.binary(max_size=500), etag=st.text(max_size=40))
def test_what_is_put_is_got(kept: Cache, key: Key, body: bytes, etag: str) -> None:
    """Any key, body and etag come back as they were."""
    kept.put(key, body, etag=etag)
    entry = kept.get(key)
    assert entry is not None
    assert (entry.body, entry.note["etag"], entry.fresh) == (body, etag, True)


def test_nothing_is_there_at_first(kept: Cache) -> None:
    assert kept.get(("key",)) is None
    assert not kept.folder.exists()


def test_keys_are_no_paths(kept: Cache, tmp_path: Path) -> None:
    for key in ("../../x", "/etc/passwd", "a/b", "\0", ".", ""):
        kept.put((key,), b"body")
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(kept.folder.iterdir())
    assert {len(p.name) for p in kept.folder.iterdir()} == {len(".secret"), 64}


def test_the_folder_is_its_owners(kept: Cache) -> None:
    kept.put(("key",), b"private")
    if os.name == "posix":
        assert kept.folder.stat().st_mode & 0o777 == 0o700
        assert all(not path.stat().st_mode & 0o077 for path in kept.folder.iterdir())


def test_bounds(alone: Path) -> None:
    """As documented: 512 MiB in all, an hour."""
    kept = Cache()
    assert kept.folder == alone / "vramfit" / "v1"
    assert (kept.max_bytes, cache.MAX_ENTRY_BYTES, cache.FRESH_SECONDS) == (512 << 20, 64 << 20, 3600)
    ages = {-0.1: False, 0.0: True, 3599.9: True, 3600.0: False, 1e9: False}
    assert {age: cache.Entry(b"", {}, age).fresh for age in ages} == ages


def test_entries_that_are_too_large_are_not_kept(kept: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bound it is kept and got, of a byte more it is not; nothing that alone is more than all may be."""
    monkeypatch.setattr(cache, "MAX_ENTRY_BYTES", 300)
    for size in (300, 301):
        kept.put((str(size),), bytes(size))
    entry = kept.get(("300",))
    assert entry is not None
    assert entry.body == bytes(300)
    assert kept.get(("301",)) is None
    kept.max_bytes = 200
    kept.put(("201",), bytes(201))
    assert kept.get(("300",)) is not None  # it was not let go of for what is not kept either


def test_notes_that_are_too_long_are_not_kept(kept: Cache) -> None:
    """A line of 64 KiB is kept and got, one of a byte more is not."""
    longest = (64 << 10) - len('{"etag": ""}\n')
    for length in (longest, longest + 1):
        kept.put((str(length),), b"body", etag="x" * length)
    entry = kept.get((str(longest),))
    assert entry is not None
    assert entry.note == {"etag": "x" * longest}
    assert not path_of(kept, (str(longest + 1),)).exists()


def test_an_entry_is_its_bytes_and_when_they_were_true(kept: Cache) -> None:
    """Being used is noted, beside when it was true, to the second."""
    kept.put(("key",), memoryview(b"body"))
    path = path_of(kept, ("key",))
    os.utime(path, (1000, time.time() - 100))
    entry = kept.get(("key",))
    assert entry is not None
    assert entry.body == b"body"
    assert 100 <= entry.age < 110
    assert abs(path.stat().st_atime - time.time()) < 10
    assert 100 <= time.time() - path.stat().st_mtime < 110
    kept.confirm(("key",))
    assert time.time() - path.stat().st_mtime < 10
    kept.confirm(("absent",))
    assert kept.get(("absent",)) is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_was_begun_goes_when_it_fails(
    kept: Cache, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A full disk is as good as no cache; what interrupts the program still does."""
    kept.put(("key",), b"body")
    before = set(kept.folder.iterdir())

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    interrupted = False
    try:
        kept.put(("other",), b"body")
    except KeyboardInterrupt:
        interrupted = True
    assert interrupted == isinstance(error, KeyboardInterrupt)
    assert set(kept.folder.iterdir()) == before


def test_it_is_trimmed_to_its_size(kept: Cache) -> None:
    """To the byte; what was used least recently goes first, folders and the secret stay."""
    for i in range(3):
        kept.put((str(i),), bytes(100))
    size = path_of(kept, ("0",)).stat().st_size
    for i in range(3):
        os.utime(path_of(kept, (str(i),)), (1000 - i, time.time()))
    (kept.folder / "folder").mkdir()
    (kept.folder.parent / "large").write_bytes(bytes(100_000))
    if os.name == "posix":
        (kept.folder / "link").symlink_to(kept.folder.parent / "large")  # it is as large as its own name
    held = (
        sum(path.lstat().st_size for path in kept.folder.iterdir()) - (kept.folder / ".secret").stat().st_size
    )
    for spare, left in ((0, "012"), (-1, "01"), (-1 - size, "0")):
        kept.max_bytes = held + spare
        kept._trim()
        assert "".join(i for i in "012" if path_of(kept, (i,)).exists()) == left
    assert (kept.folder / ".secret").exists()
    assert (kept.folder / "folder").exists()


def test_it_does_not_grow(tmp_path: Path) -> None:
    """Beyond its size, what was used least recently goes first."""
    kept = Cache(tmp_path, max_bytes=5000)
    for i in range(4):
        kept.put((f"key {i}",), bytes(1000))
        os.utime(path_of(kept, (f"key {i}",)), (1000 + i, 1000 + i))
    assert kept.get(("key 0",)) is not None
    kept.put(("key 4",), bytes(1500))
    assert [i for i in range(5) if kept.get((f"key {i}",))] == [0, 2, 3, 4][-4:] or not kept.get(("key 1",))
    assert kept.get(("key 1",)) is None
    assert kept.get(("key 0",)) is not None
    assert sum(p.stat().st_size for p in kept.folder.iterdir()) <= 5000
    kept.put(("huge",), bytes(6000))
    assert kept.get(("huge",)) is None


def test_entries_grow_old(kept: Cache) -> None:
    """An entry is fresh for an hour after it was last known to be true; being used does not renew it."""
    kept.put(("key",), b"body")
    old = time.time() - 2 * cache.FRESH_SECONDS
    os.utime(path_of(kept, ("key",)), (old, old))
    for _ in range(2):
        entry = kept.get(("key",))
        assert entry is not None
        assert not entry.fresh
    kept.confirm(("key",))
    entry = kept.get(("key",))
    assert entry is not None
    assert entry.fresh
    os.utime(path_of(kept, ("key",)), (old, time.time() + 10_000))
    entry = kept.get(("key",))
    assert entry is not None
    assert not entry.fresh  # a clock that was set back


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\nbody", b"[]\nbody", b"{" * 5000, b"\xff\n", b"null\n"])
def test_damaged_entries_are_none(kept: Cache, content: bytes) -> None:
    kept.put(("key",), b"body")
    path_of(kept, ("key",)).write_bytes(content)
    assert kept.get(("key",)) is None


def test_an_entry_of_another_key_is_none(kept: Cache) -> None:
    kept.put(("key",), b"body")
    path_of(kept, ("key",)).rename(path_of(kept, ("other",)))
    assert kept.get(("other",)) is None


def test_an_entry_that_another_made_is_none(kept: Cache, tmp_path: Path) -> None:
    """Whoever does not know the secret of the folder can put no entry there that is taken for one."""
    kept.put(("key",), b"body")
    other = Cache(tmp_path / "other")
    other.put(("key",), b"planted")
    path_of(kept, ("key",)).write_bytes(path_of(other, ("key",)).read_bytes())
    assert kept.get(("key",)) is None


def test_every_byte_is_sealed(kept: Cache) -> None:
    """An entry of which any one byte changed is none; repaired, it is one again."""
    kept.put(("key",), b"body", etag="e")
    path = path_of(kept, ("key",))
    sound = path.read_bytes()
    for i in range(len(sound)):
        changed = bytearray(sound)
        changed[i] ^= 1
        path.write_bytes(changed)
        assert kept.get(("key",)) is None, i
    path.write_bytes(sound + b"x")
    assert kept.get(("key",)) is None
    path.write_bytes(sound)
    assert kept.get(("key",)) is not None


def test_parts_of_keys_are_not_mixed_up(kept: Cache) -> None:
    kept.put(("a b", "c"), b"body")
    for key in (("a", "b c"), ("a b c",), ("a b", "c", ""), ()):
        assert kept.get(key) is None


def test_keys_are_written_nowhere(kept: Cache) -> None:
    """They may hold passwords: neither a file nor its name tells one, not even to who can guess it."""
    from hashlib import blake2b

    secret = "http://user:password@host/m?sig=signed"
    kept.put(("url", secret), b"body", etag="e")
    for path in kept.folder.iterdir():
        told = path.name.encode() + path.read_bytes()
        assert not any(part in told for part in (b"user", b"password", b"signed", b"host"))
    other = Cache(kept.folder.parent / "other")
    other.put(("url", secret), b"body")
    assert path_of(kept, ("url", secret)).name != path_of(other, ("url", secret)).name
    assert path_of(kept, ("url", secret)).name != blake2b(secret.encode(), digest_size=32).hexdigest()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_none(kept: Cache, mode: int) -> None:
    kept.put(("key",), b"body")
    kept.folder.chmod(mode)
    assert kept.get(("key",)) is None
    kept.put(("other",), b"body")
    assert len(list(kept.folder.iterdir())) == 2  # the secret and the first
    kept.folder.chmod(0o755)
    assert kept.get(("key",)) is not None


@pytest.mark.skipif(os.name != "posix", reason="owners are POSIX's")
def test_a_folder_of_another_is_none(kept: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put(("key",), b"body")
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    assert kept.get(("key",)) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names elsewhere")
def test_what_is_no_file_is_not_waited_for(kept: Cache) -> None:
    """A pipe in place of an entry or of the secret: none, at once; what is kept next takes its place."""
    for name in (lambda: path_of(kept, ("key",)), lambda: kept.folder / ".secret"):
        kept.put(("key",), b"body")
        path = name()  # type: ignore[no-untyped-call]
        path.unlink()
        os.mkfifo(path)
        assert kept.get(("key",)) is None
        kept.put(("key",), b"body")
        entry = kept.get(("key",))
        assert entry is not None
        assert entry.body == b"body"


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33)])
def test_a_secret_that_is_damaged_is_made_anew(kept: Cache, content: bytes) -> None:
    kept.put(("key",), b"body")
    (kept.folder / ".secret").write_bytes(content)
    assert kept.get(("key",)) is None
    assert (kept.folder / ".secret").read_bytes() == content  # looking writes nothing
    kept.put(("key",), b"body")
    assert kept.get(("key",)) is not None
    assert len((kept.folder / ".secret").read_bytes()) == 32


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_secret_that_is_a_link_is_made_anew(kept: Cache, tmp_path: Path) -> None:
    """Who chose where it leads would know it."""
    kept.put(("key",), b"body")
    known = tmp_path / "known"
    (kept.folder / ".secret").rename(known)
    (kept.folder / ".secret").symlink_to(known)
    before = known.read_bytes()
    assert kept.get(("key",)) is None
    kept.put(("key",), b"body")
    assert not (kept.folder / ".secret").is_symlink()
    assert known.read_bytes() == before != (kept.folder / ".secret").read_bytes()
    assert kept.get(("key",)) is not None


def test_a_cut_entry_is_none(kept: Cache) -> None:
    kept.put(("key",), b"body")
    path = path_of(kept, ("key",))
    path.write_bytes(path.read_bytes()[:-1])
    assert kept.get(("key",)) is None


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_links_are_not_followed(kept: Cache, tmp_path: Path) -> None:
    """Neither for reading nor for writing, be it an entry or the folder."""
    kept.put(("key",), b"body")
    outside = tmp_path / "outside"
    path_of(kept, ("key",)).rename(outside)
    path_of(kept, ("key",)).symlink_to(outside)
    before = outside.read_bytes()
    assert kept.get(("key",)) is None
    kept.put(("key",), b"new")
    assert outside.read_bytes() == before
    assert not path_of(kept, ("key",)).is_symlink()
    elsewhere = tmp_path / "elsewhere"
    kept.folder.rename(elsewhere)
    kept.folder.symlink_to(elsewhere)
    there = set(elsewhere.iterdir())
    assert kept.get(("key",)) is None
    kept.put(("other",), b"body")
    assert set(elsewhere.iterdir()) == there


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A file where the folder should be: as good as no cache."""
    (tmp_path / "file").touch()
    kept = Cache(tmp_path / "file")
    kept.put(("key",), b"body")
    kept.confirm(("key",))
    assert kept.get(("key",)) is None


def test_what_a_killed_process_left_goes(kept: Cache) -> None:
    kept.put(("key",), b"body")
    left, current = kept.folder / ".new-left", kept.folder / ".new-current"
    for path, age in ((left, 3601), (current, 3500)):
        path.write_bytes(bytes(1 << 20))
        os.utime(path, (time.time() - age, time.time() - age))
    kept.max_bytes = 1 << 20  # what is being written does not count
    kept.put(("key",), b"body")
    assert not left.exists()
    assert current.exists()
    assert kept.get(("key",)) is not None


def test_several_processes_share_it(tmp_path: Path) -> None:
    """Whoever reads meanwhile gets a whole entry of one of the writers, or none."""
    code = (
        "import sys; from pathlib import Path; from vramfit._sources.cache import Cache\n"
        "c = Cache(Path(sys.argv[1]), max_bytes=300_000); me = sys.argv[2].encode()\n"
        "for i in range(100):\n"
        "    c.put((f'key {i % 5}',), me * 50_000)\n"
        "    e = c.get((f'key {(i + 2) % 5}',))\n"
        "    assert e is None or (len(e.body) == 50_000 and len(set(e.body)) == 1)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert not list(Cache(tmp_path).folder.glob(".new-*"))


def test_where_it_is(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMFIT_CACHE", "~/mine")
    assert cache.default_folder() == alone / "mine"
    monkeypatch.delenv("VRAMFIT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache.default_folder() == alone / ".cache" / "vramfit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(alone / "xdg"))
    assert cache.default_folder() == alone / "xdg" / "vramfit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.default_folder() == alone / ".cache" / "vramfit"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.default_folder() == alone / "Library" / "Caches" / "vramfit"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert cache.default_folder() == alone / "AppData" / "Local" / "vramfit"
    monkeypatch.setenv("LOCALAPPDATA", str(alone / "local"))
    assert cache.default_folder() == alone / "local" / "vramfit"
    assert cache.home() == alone


STRINGS = raw.array("str", 3000, raw.string("word") * 3000)


@pytest.mark.parametrize(
    "strings", [None, {"t": 3000 * 12}, {"t": 7}, {"t": 1 << 60}, {"t": -1}, {"t": 24_040}, {"t": "x"}, [], 7]
)
def test_what_is_kept_beside_a_header_cannot_change_it(kept: Cache, strings: object) -> None:
    """How long arrays of strings are is kept too, to step over them; where that is no truth, they are walked."""
    data = raw.file([raw.key("t", "arr", STRINGS), raw.key("general.name", "str", raw.string("m"))])
    session = Session(cache=False)
    session.cache = kept
    file = local_file(Path("absent"))._replace(key=("key",), lasting=True)
    with pytest.raises(SourceError):
        session.read(file)
    note = {} if strings is None else {"strings": strings}
    kept.put(("key",), data, etag="", size=-1, **note)
    if strings in ({"t": 24_040}, {"t": "x"}, [], 7):  # no header any more, so that the file is read again
        with pytest.raises(SourceError, match="no such file"):
            session.read(file)
    else:
        assert session.read(file).metadata == header.parse(data, name="absent").metadata


def test_long_arrays_are_stepped_over(kept: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one session kept, the next reads without walking its strings."""
    path = tmp_path / "m.gguf"
    path.write_bytes(raw.file([raw.key("t", "arr", STRINGS)]))
    file = local_file(path)._replace(key=("key",), lasting=True)
    session = Session(cache=False)
    session.cache = kept
    first = session.read(file)
    monkeypatch.setattr(header.Parser, "_skip_strings", None)
    path.unlink()
    assert session.read(file) == first
