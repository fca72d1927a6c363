"""Read short text files that a person names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .._base.errors import SourceError
from .origin import reason
from .paths import start_of

__all__ = ["short_file"]

_OPENED: Final = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # what a shell opened for us, as in <(command)


def short_file(path: str, limit: int) -> bytes:
    """Read no more than `limit` bytes of a regular file, or of a pipe that a shell opened. Raises `SourceError`."""
    try:
        if path.startswith(_OPENED):
            with open(path, "rb") as pipe:
                return pipe.read(limit)
        return start_of(Path(path), limit)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except (OSError, ValueError) as e:  # ValueError: a zero byte in the path
        raise SourceError(f"{path}: cannot be read: {reason(e)}") from None
