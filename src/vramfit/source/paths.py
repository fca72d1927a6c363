"""Files of this machine: paths, standard input, and the files inside other programs' stores."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..errors import SourceError
from .origin import File, Missing, Origin, reason

PIPE_SECONDS = 10
STDIN_NAME = "<standard input>"


def local_file(path: Path, *, name: str = "", within: Path | None = None, digest: str = "") -> File:
    """The file at `path`. `within` is the store it belongs to: no symbolic link may lead out of it."""
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
    """What is piped in: it can be read once, and no other file is beside it."""

    @contextmanager
    def open_stdin(_: str) -> Iterator[Origin]:
        yield Origin(STDIN_NAME, sys.stdin.buffer, None)

    return File(STDIN_NAME, "", open_stdin)


@contextmanager
def _open(path: Path, name: str) -> Iterator[Origin]:
    try:
        if path.is_dir():
            raise SourceError(f"{name}: is a directory; name {_files_in(path)}")
        stream = _Pipe(path) if path.is_fifo() else path.open("rb", buffering=0)
    except FileNotFoundError:
        raise Missing(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise SourceError(f"{name}: cannot be opened: {reason(error)}") from error
    with closing(stream):
        status = os.fstat(stream.fileno())
        yield Origin(name, stream, status.st_size if stat.S_ISREG(status.st_mode) else None)


class _Pipe:
    """A named pipe: read as it fills, and given up when nothing comes."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes. Raises `OSError` after `PIPE_SECONDS` without any."""
        ready, _, _ = select.select([self._number], [], [], PIPE_SECONDS)
        if not ready:
            raise OSError(errno.ETIMEDOUT, f"it is a pipe, and nothing came for {PIPE_SECONDS} s")
        return os.read(self._number, size)

    def fileno(self) -> int:
        """Its number."""
        return self._number

    def close(self) -> None:
        """Let go of it."""
        os.close(self._number)


def _files_in(path: Path) -> str:
    names = sorted(p.name for p in path.glob("*.gguf"))
    if not names:
        return "a .gguf file; it holds none"
    return "one of its files: " + ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
