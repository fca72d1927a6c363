"""Find, read and replace Modelfiles on disk, without a moment in which they are lost."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, Final

from .._base.errors import SourceError

__all__ = ["find", "read", "replace"]

MAX_BYTES: Final = 64 << 20  # of a Modelfile: licences are long, models are not in it
MAX_BACKUPS: Final = 1000
_OPENED: Final = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def find(folder: str) -> Iterator[str]:
    """Find the Modelfiles of a folder and those below it, in order. Raises `SourceError` for a folder that cannot be read."""

    def refused(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be read: {error.strerror or error}")

    for here, folders, names in os.walk(folder, onerror=refused):
        folders.sort()
        for name in sorted(names):
            low = name.lower()
            if low == "modelfile" or low.startswith("modelfile.") or low.endswith(".modelfile"):
                yield os.path.join(here, name)


def read(path: str) -> bytes:
    """Read the bytes of a Modelfile. Raises `SourceError` for anything but a file of a sensible size."""
    try:
        with _open(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as e:  # ValueError: a zero byte in the path
        raise SourceError(f"{path}: {getattr(e, 'strerror', None) or e}") from None
    if len(data) > MAX_BYTES:
        raise SourceError(f"{path}: larger than {MAX_BYTES >> 20} MiB; this is not a Modelfile")
    return data


def _open(path: str) -> BinaryIO:
    """Open the file, if reading it cannot wait for anybody: no pipe but one that a shell opened for us, no device."""
    if path.startswith(_OPENED):
        return open(path, "rb")
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):
        return open(number, "rb")
    os.close(number)
    raise OSError(
        errno.EINVAL, f"it is {'a pipe' if stat.S_ISFIFO(mode) else 'no regular file'}, and no Modelfile"
    )


def replace(path: str, data: bytes) -> str:
    """Put `data` in the file's place at once, or leave all as it was; its permissions stay. Returns its backup.

    The new file is written beside the old one first, so that a full disk costs nothing.
    """
    target = os.path.realpath(path)
    aside = backup = ""
    try:
        number, aside = tempfile.mkstemp(".tmp", f".{os.path.basename(target)}.", os.path.dirname(target))
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, os.stat(target).st_mode & 0o7777)
        backup = _backup(target)
        os.replace(aside, target)
    except BaseException as e:
        for left in filter(None, (aside, backup)):
            if os.path.lexists(left):
                os.unlink(left)
        if not isinstance(e, OSError):
            raise
        raise SourceError(f"{path}: cannot be written: {e.strerror or e}; it is as it was") from None
    return backup


def _backup(target: str) -> str:
    """Copy the file beside itself, under a name that is free: `Modelfile~`, `Modelfile~2`, …"""
    for n in range(1, MAX_BACKUPS):
        name = f"{target}~{n if n > 1 else ''}"
        try:
            with open(name, "xb"):
                pass
        except FileExistsError:
            continue
        try:
            shutil.copy2(target, name)
        except BaseException:
            os.unlink(name)
            raise
        return name
    raise FileExistsError(f"{MAX_BACKUPS} backups of it are there")
