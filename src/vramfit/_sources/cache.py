"""Keep headers that were read once on disk, so that the second look costs nothing.

One file an entry: a seal, a line of JSON, then the bytes. A key says where the bytes came from, and may hold passwords:
it is written nowhere. The entry's name is its digest and the seal one of key, line and bytes, both keyed with a
secret of the folder, so that nothing a server says becomes a path, no key can be guessed from a name, and an entry
that was damaged, renamed or put there by another is none. Entries appear by renaming, so that several processes may
share the folder and none reads half of one. When it all grows too large, what was used least recently goes. A folder that cannot be
written, or that others can write, is as good as none: the cache never makes a look-up fail.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from .paths import open_regular

MAX_BYTES: Final = 512 << 20  # about a hundred headers with the largest vocabularies
MAX_ENTRY_BYTES: Final = 64 << 20
FRESH_SECONDS: Final = 3600.0  # for so long, what a name means is not asked again
_MAX_NOTE_BYTES: Final = 64 << 10
_SECRET: Final = ".secret"
_SECRET_BYTES: Final = 32
_SEAL_BYTES: Final = 64  # in hex, without the end of its line
_NEW: Final = ".new-"  # before the name of a file that is being written

Key: TypeAlias = tuple[str, ...]  # where something came from: place, address, name


class Entry(NamedTuple):
    """What was kept under a key."""

    body: bytes
    note: Mapping[str, Any]  # what goes with it: "size" of the file, "etag"
    age: float  # seconds since it was known to be true

    @property
    def fresh(self) -> bool:
        """Whether it is so young that nobody needs to be asked."""
        return 0 <= self.age < FRESH_SECONDS


class Cache:
    """A folder of entries."""

    def __init__(self, folder: Path | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = (folder or default_folder()) / "v1"
        self.max_bytes = max_bytes

    def get(self, key: Key) -> Entry | None:
        """Look up what is kept under `key`."""
        try:
            secret = self._secret()
            path = self._path(key, secret)
            with open_regular(path, follow=False) as stream, io.BufferedReader(stream) as file:
                changed = os.fstat(file.fileno()).st_mtime
                seal, line = file.readline(_SEAL_BYTES + 1), file.readline(_MAX_NOTE_BYTES)
                body = file.read(MAX_ENTRY_BYTES + 1)
            if seal != _seal(secret, key, line, body).encode() + b"\n":
                return None
            note = json.loads(line)
        except (OSError, ValueError):
            return None
        with suppress(OSError):
            os.utime(path, (time.time(), changed))  # used now; true since then
        return Entry(body, note, time.time() - changed)

    def put(self, key: Key, body: bytes | bytearray | memoryview, **note: object) -> None:
        """Keep `body` under `key`."""
        line = json.dumps(note).encode() + b"\n"
        if len(body) > min(MAX_ENTRY_BYTES, self.max_bytes) or len(line) > _MAX_NOTE_BYTES:
            return
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            secret = self._secret(make=True)
            seal = _seal(secret, key, line, body).encode() + b"\n"
            self._write(self._path(key, secret), seal, line, body)
            self._trim()

    def confirm(self, key: Key) -> None:
        """Note that what is kept under `key` is still true."""
        with suppress(OSError):
            os.utime(self._path(key, self._secret()))

    def _path(self, key: Key, secret: bytes) -> Path:
        return self.folder / _seal(secret, key)

    def _secret(self, *, make: bool = False) -> bytes:
        """Read the secret that names and seals are made with, or make it. Raises `OSError` where it cannot be kept."""
        if not _is_ours(self.folder):
            raise PermissionError(errno.EPERM, "others can write there")
        path = self.folder / _SECRET
        for missing in (make, False):
            with suppress(OSError), open_regular(path, follow=False) as file:
                secret = file.read(_SECRET_BYTES + 1)
                if len(secret) == _SECRET_BYTES:
                    return secret
            if (
                missing
            ):  # of two that make one at a time the later wins, and entries of the other are never found
                self._write(path, os.urandom(_SECRET_BYTES))
        raise FileNotFoundError(errno.ENOENT, "no secret yet")

    def _write(self, path: Path, *parts: bytes | bytearray | memoryview) -> None:
        from tempfile import mkstemp

        handle, temporary = mkstemp(dir=self.folder, prefix=_NEW)
        try:
            with os.fdopen(handle, "wb") as file:
                for part in parts:
                    file.write(part)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _trim(self) -> None:
        """Let go of the least recently used, and of what a process that was killed left behind."""
        entries = []
        for item in os.scandir(self.folder):
            with suppress(OSError):
                status = item.stat(follow_symlinks=False)
                if item.name.startswith(_NEW) and time.time() - status.st_mtime > FRESH_SECONDS:
                    os.unlink(item.path)
                elif not item.name.startswith("."):
                    entries.append((status.st_atime, status.st_size, item.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                return
            with suppress(OSError):
                os.unlink(path)
            total -= size


def _seal(secret: bytes, key: Key, *parts: bytes | bytearray | memoryview) -> str:
    """Make the digest, in hex, that only who knows `secret` can make."""
    from hashlib import blake2b  # takes longer to load than a header takes to read

    digest = blake2b(json.dumps(key).encode() + b"\n", key=secret, digest_size=_SEAL_BYTES // 2)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can write to `folder`, and it is no link."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return False
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def default_folder() -> Path:
    """Find the cache's folder: `VRAMFIT_CACHE`, else below what the platform calls its folder of caches."""
    chosen = os.environ.get("VRAMFIT_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    return platform_caches() / "vramfit"


def platform_caches() -> Path:
    """Find where programs of this platform and person keep their caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return home() / "Library" / "Caches"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return Path(chosen) if os.path.isabs(chosen) else home() / ".cache"


def home() -> Path:
    """Find the person's home; a path that is nowhere where the system knows none, as in some containers."""
    return Path(os.path.expanduser("~"))
