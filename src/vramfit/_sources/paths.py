"""Open files of this machine: paths, standard input, and the files inside other programs' stores."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .._base.errors import SourceError
from .origin import File, Missing, Origin, reason

STDIN_NAME = "<standard input>"
_KINDS: Final = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory"}
_AT_ONCE: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)


def local_file(path: Path, *, name: str = "", within: Path | None = None, digest: str = "") -> File:
    """Make the file at `path`. `within` is the store it belongs to: no symbolic link may lead out of it."""
    shown = name or str(path)

    @contextmanager
    def open_path(_: str) -> Iterator[Origin]:
        if within is not None:
            check_inside(path, within, shown)
        with _open(path, shown) as origin:
            yield origin

    def beside(other: str) -> File:
        return local_file(path.with_name(other), within=within)

    return File(shown, path.name, open_path, beside, path=path, digest=digest)


def check_inside(path: Path, store: Path, name: str) -> None:
    """Refuse a `path` that a symbolic link takes out of `store`."""
    try:
        target, inside = path.resolve(), store.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise SourceError(f"{name}: {path} cannot be followed: {error}") from error
    if not target.is_relative_to(inside):
        raise SourceError(
            f"{name}: {path} is a link out of {store}, to {target}; name that file itself if you trust it"
        )


def standard_input() -> File:
    """Make a file of what is piped in: it can be read once, and no other file is beside it."""

    @contextmanager
    def open_stdin(_: str) -> Iterator[Origin]:
        yield Origin(STDIN_NAME, sys.stdin.buffer, None)

    return File(STDIN_NAME, "", open_stdin)


def open_regular(path: Path, *, follow: bool = True) -> io.FileIO:
    """Open the file at `path` for reading. Raises `OSError`, for anything but a regular file too: a pipe or a device may
    have no end, or nobody who writes, and opening it can have effects. `follow` is whether a link may stand for it.
    """
    _check_kind(os.stat(path, follow_symlinks=follow))
    stream = io.FileIO(os.open(path, os.O_RDONLY | _AT_ONCE | (0 if follow else _NO_LINK)))
    try:
        _check_kind(os.fstat(stream.fileno()))  # it may have become another meanwhile
    except BaseException:
        stream.close()
        raise
    return stream


def start_of(path: Path, limit: int) -> bytes:
    """Read the first `limit` bytes of the file at `path`. Raises `OSError` as `open_regular` does."""
    with open_regular(path) as stream, io.BufferedReader(stream) as file:
        return file.read(limit)


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")


@contextmanager
def _open(path: Path, name: str) -> Iterator[Origin]:
    try:
        if path.is_dir():
            raise SourceError(f"{name}: is a directory; name {_files_in(path)}")
        stream = open_regular(path)
    except FileNotFoundError:
        raise Missing(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        why = reason(error)
        hint = "; redirect what it gives to standard input, and name that: -" if "a pipe" in why else ""
        raise SourceError(f"{name}: cannot be opened: {why}{hint}") from error
    with stream:
        yield Origin(name, stream, os.fstat(stream.fileno()).st_size)


def _files_in(path: Path) -> str:
    names = sorted(p.name for p in path.glob("*.gguf"))
    if not names:
        return "a .gguf file; it holds none"
    return "one of its files: " + ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
