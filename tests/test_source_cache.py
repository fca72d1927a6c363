"""The cache of headers: what it keeps, for how long, and what cannot hurt it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gguf_bytes as raw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramfit import header
from vramfit.errors import SourceError
from vramfit.source import cache
from vramfit.source.cache import Cache
from vramfit.source.paths import local_file
from vramfit.source.session import Session


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text(max_size=40), body=st.binary(max_size=500), etag=st.text(max_size=40))
def test_what_is_put_is_got(kept: Cache, key: str, body: bytes, etag: str) -> None:
    """Any key, body and etag come back as they were."""
    key = key.encode("utf-8", "replace").decode()
    kept.put(key, body, etag=etag)
    entry = kept.get(key)
    assert entry is not None
    assert (entry.body, entry.note["etag"], entry.fresh) == (body, etag, True)


def test_nothing_is_there_at_first(kept: Cache) -> None:
    assert kept.get("key") is None
    assert not kept.folder.exists()


def test_keys_are_no_paths(kept: Cache, tmp_path: Path) -> None:
    for key in ("../../x", "/etc/passwd", "a/b", "\0", ".", ""):
        kept.put(key, b"body")
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(kept.folder.iterdir())
    assert all(len(p.name) == 64 for p in kept.folder.iterdir())


def test_the_folder_is_its_owners(kept: Cache) -> None:
    kept.put("key", b"private")
    if os.name == "posix":
        assert not kept.folder.stat().st_mode & 0o077
        assert not next(kept.folder.iterdir()).stat().st_mode & 0o077


def test_it_does_not_grow(tmp_path: Path) -> None:
    """Beyond its size, what was used least recently goes first."""
    kept = Cache(tmp_path, max_bytes=5000)
    for i in range(4):
        kept.put(f"key {i}", bytes(1000))
        os.utime(kept._path(f"key {i}"), (1000 + i, 1000 + i))
    assert kept.get("key 0") is not None
    kept.put("key 4", bytes(1500))
    assert [i for i in range(5) if kept.get(f"key {i}")] == [0, 2, 3, 4][-4:] or not kept.get("key 1")
    assert kept.get("key 1") is None
    assert kept.get("key 0") is not None
    assert sum(p.stat().st_size for p in kept.folder.iterdir()) <= 5000
    kept.put("huge", bytes(6000))
    assert kept.get("huge") is None


def test_entries_grow_old(kept: Cache) -> None:
    """An entry is fresh for an hour after it was last known to be true; being used does not renew it."""
    kept.put("key", b"body")
    old = time.time() - 2 * cache.FRESH_SECONDS
    os.utime(kept._path("key"), (old, old))
    for _ in range(2):
        entry = kept.get("key")
        assert entry is not None
        assert not entry.fresh
    kept.confirm("key")
    entry = kept.get("key")
    assert entry is not None
    assert entry.fresh
    os.utime(kept._path("key"), (old, time.time() + 10_000))
    entry = kept.get("key")
    assert entry is not None
    assert not entry.fresh  # a clock that was set back


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\nbody", b"[]\nbody", b"{" * 5000, b"\xff\n", b"null\n"])
def test_damaged_entries_are_none(kept: Cache, content: bytes) -> None:
    kept.put("key", b"body")
    kept._path("key").write_bytes(content)
    assert kept.get("key") is None


def test_an_entry_of_another_key_is_none(kept: Cache) -> None:
    kept.put("key", b"body")
    kept._path("key").rename(kept._path("other"))
    assert kept.get("other") is None


def test_a_cut_entry_is_none(kept: Cache) -> None:
    kept.put("key", b"body")
    path = kept._path("key")
    path.write_bytes(path.read_bytes()[:-1])
    assert kept.get("key") is None


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_links_are_not_followed(kept: Cache, tmp_path: Path) -> None:
    """Neither for reading nor for writing, be it an entry or the folder."""
    kept.put("key", b"body")
    outside = tmp_path / "outside"
    kept._path("key").rename(outside)
    kept._path("key").symlink_to(outside)
    before = outside.read_bytes()
    assert kept.get("key") is None
    kept.put("key", b"new")
    assert outside.read_bytes() == before
    assert not kept._path("key").is_symlink()
    elsewhere = tmp_path / "elsewhere"
    kept.folder.rename(elsewhere)
    kept.folder.symlink_to(elsewhere)
    assert kept.get("key") is None
    kept.put("other", b"body")
    assert len(list(elsewhere.iterdir())) == 1


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A file where the folder should be: as good as no cache."""
    (tmp_path / "file").touch()
    kept = Cache(tmp_path / "file")
    kept.put("key", b"body")
    kept.confirm("key")
    assert kept.get("key") is None


def test_what_a_killed_process_left_goes(kept: Cache) -> None:
    kept.put("key", b"body")
    left, current = kept.folder / ".new-left", kept.folder / ".new-current"
    left.touch()
    current.touch()
    os.utime(left, (1, 1))
    kept.put("key", b"body")
    assert not left.exists()
    assert current.exists()


def test_several_processes_share_it(tmp_path: Path) -> None:
    """Whoever reads meanwhile gets a whole entry of one of the writers, or none."""
    code = (
        "import sys; from pathlib import Path; from vramfit.source.cache import Cache\n"
        "c = Cache(Path(sys.argv[1]), max_bytes=300_000); me = sys.argv[2].encode()\n"
        "for i in range(100):\n"
        "    c.put(f'key {i % 5}', me * 50_000)\n"
        "    e = c.get(f'key {(i + 2) % 5}')\n"
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


STRINGS = raw.array("str", 3000, raw.string("word") * 3000)


@pytest.mark.parametrize(
    "strings", [None, {"t": 3000 * 12}, {"t": 7}, {"t": 1 << 60}, {"t": -1}, {"t": 24_040}, {"t": "x"}, [], 7]
)
def test_what_is_kept_beside_a_header_cannot_change_it(kept: Cache, strings: object) -> None:
    """How long arrays of strings are is kept too, to step over them; where that is no truth, they are walked."""
    data = raw.file([raw.key("t", "arr", STRINGS), raw.key("general.name", "str", raw.string("m"))])
    session = Session(cache=False)
    session.cache = kept
    file = replace(local_file(Path("absent")), key="key", lasting=True)
    with pytest.raises(SourceError):
        session.read(file)
    note = {} if strings is None else {"strings": strings}
    kept.put("key", data, etag="", size=-1, **note)
    if strings in ({"t": 24_040}, {"t": "x"}, [], 7):  # no header any more, so that the file is read again
        with pytest.raises(SourceError, match="no such file"):
            session.read(file)
    else:
        assert session.read(file).metadata == header.parse(data, name="absent").metadata


def test_long_arrays_are_stepped_over(kept: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one session kept, the next reads without walking its strings."""
    path = tmp_path / "m.gguf"
    path.write_bytes(raw.file([raw.key("t", "arr", STRINGS)]))
    file = replace(local_file(path), key="key", lasting=True)
    session = Session(cache=False)
    session.cache = kept
    first = session.read(file)
    monkeypatch.setattr(header.Parser, "_skip_strings", None)
    path.unlink()
    assert session.read(file) == first
