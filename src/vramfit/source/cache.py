"""Headers that were read once, kept on disk so that the second look costs nothing.

One file an entry: a line of JSON, then the bytes. Its name is the digest of its key, so that nothing
a server says becomes a path. Entries appear by renaming, so that several processes may share the folder and
none reads half of one. When it all grows too large, what was used least recently goes. A folder that cannot be
written, or an entry that is damaged, is as good as none: the cache never makes a look-up fail.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAX_BYTES: Final = 512 << 20  # about a hundred headers with the largest vocabularies
MAX_ENTRY_BYTES: Final = 64 << 20
FRESH_SECONDS: Final = 3600.0  # for so long, what a name means is not asked again
_MAX_NOTE_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Entry:
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

    def get(self, key: str) -> Entry | None:
        """What is kept under `key`."""
        path = self._path(key)
        try:
            if self.folder.is_symlink():
                return None
            with os.fdopen(os.open(path, os.O_RDONLY | _NO_LINK), "rb") as file:
                changed = os.fstat(file.fileno()).st_mtime
                note = json.loads(file.readline(_MAX_NOTE_BYTES))
                body = file.read(MAX_ENTRY_BYTES + 1)
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(note, dict) or note.get("key") != key or note.get("bytes") != len(body):
            return None
        with suppress(OSError):
            os.utime(path, (time.time(), changed))  # used now; true since then
        return Entry(body, note, time.time() - changed)

    def put(self, key: str, body: bytes | bytearray | memoryview, **note: object) -> None:
        """Keep `body` under `key`."""
        line = json.dumps({"key": key, "bytes": len(body), **note}).encode() + b"\n"
        if len(body) > min(MAX_ENTRY_BYTES, self.max_bytes) or len(line) > _MAX_NOTE_BYTES:
            return
        from tempfile import mkstemp

        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.folder.is_symlink():
                return
            handle, temporary = mkstemp(dir=self.folder, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(line)
                    file.write(body)
                os.replace(temporary, self._path(key))
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
            self._trim()

    def confirm(self, key: str) -> None:
        """Note that what is kept under `key` is still true."""
        with suppress(OSError):
            os.utime(self._path(key))

    def _path(self, key: str) -> Path:
        from hashlib import sha256  # takes longer to load than a header takes to read

        return self.folder / sha256(key.encode()).hexdigest()

    def _trim(self) -> None:
        """Let go of the least recently used, and of what a process that was killed left behind."""
        entries = []
        for item in os.scandir(self.folder):
            with suppress(OSError):
                status = item.stat(follow_symlinks=False)
                if item.name.startswith(".new-") and time.time() - status.st_mtime > FRESH_SECONDS:
                    os.unlink(item.path)
                elif not item.name.startswith(".new-"):
                    entries.append((status.st_atime, status.st_size, item.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                return
            with suppress(OSError):
                os.unlink(path)
            total -= size


_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def default_folder() -> Path:
    """`VRAMFIT_CACHE`, else what the platform calls its folder of caches."""
    chosen = os.environ.get("VRAMFIT_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    return platform_caches() / "vramfit"


def platform_caches() -> Path:
    """Where programs of this platform and person keep their caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return home() / "Library" / "Caches"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return Path(chosen) if os.path.isabs(chosen) else home() / ".cache"


def home() -> Path:
    """The person's home; a path that is nowhere where the system knows none, as in some containers."""
    return Path(os.path.expanduser("~"))
