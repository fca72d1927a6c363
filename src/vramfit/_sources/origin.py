"""Read one file's header through a window that grows only as far as the parser asks.

Wherever a file is, it comes down to an `Origin`: a name for messages, a size if it is known, and a
stream that is read from its start, in small steps, until the header is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from .. import _gguf as header
from .._base.errors import SourceError, Truncated
from .._gguf import Header
from .._gguf.limits import MAX_HEADER_BYTES

# The window grows by this much: small beside a header with a vocabulary, so that little is read
# and held beyond it, and large enough for a header without one to take a single read.
STEP_BYTES: Final = 256 << 10

# What is looked at to tell which format a file is of.
MAGIC_BYTES: Final = 64

# How files begin that people mistake for GGUF, and what to do.
_LEGACY: Final = "a legacy GGML file, from before GGUF: download the model as GGUF"
_OTHER_FORMATS: Final = (
    (b"lmgg", _LEGACY),
    (b"fmgg", _LEGACY),
    (b"tjgg", _LEGACY),
    (b"algg", _LEGACY),
    (b"PK\x03\x04", "a ZIP archive, as PyTorch writes: convert it with llama.cpp's convert_hf_to_gguf.py"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file: run `git lfs pull`"),
    (b"<", "a web page, not the file: download it from the link that resolves to the file itself"),
    (b"\x1f\x8b", "compressed with gzip: decompress it"),
    (b"\xfd7zXZ", "compressed with xz: decompress it"),
    (b"(\xb5/\xfd", "compressed with zstd: decompress it"),
    (b"FROM ", "a Modelfile: name the model that its FROM line names"),
    (b"{", "a JSON text"),
)


class Missing(SourceError):
    """Nothing is there under this name."""


class Unauthorized(SourceError):
    """A server wants to know who asks; `challenge` is its WWW-Authenticate, which says how to tell it."""

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class Stream(Protocol):
    """What is read of a file: its bytes in order, from the start."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes, as many as are there; none at the end of the file."""


class Origin(NamedTuple):
    """Where the bytes of one file come from, once it is open."""

    name: str
    stream: Stream
    size: int | None  # of the whole file; None when only reading on would tell
    step: int = STEP_BYTES
    etag: str = ""  # what the place calls this state of the file, if it does


class File(NamedTuple):
    """One file, wherever it is.

    `open` takes the etag of the state that is known already ("" for none) and yields None where the
    file has not changed since. `beside` names another file of the same place.
    """

    name: str  # what messages call it
    filename: str  # the last part of its name, which tells shards
    open: Callable[[str], AbstractContextManager[Origin | None]]
    beside: Callable[[str], File] | None = None
    path: Path | None = None  # of a file on this machine that is whole
    key: tuple[
        str, ...
    ] = ()  # where it came from, under which its header is cached; () when that saves nothing
    lasting: bool = False  # `key` holds a digest: the bytes behind it never change
    digest: str = ""  # sha256 of the file in hex, where the place announces it
    n_bytes: int | None = None  # of the file, where the place announces it


def read_header(origin: Origin, limit: int = MAX_HEADER_BYTES) -> tuple[Header, bytearray]:
    """Read the header of `origin`; return it with the bytes that were read for it, in which its arrays lie.

    Raises `SourceError` when the file cannot be read, is not GGUF, or has a header of more than `limit` bytes;
    `InvalidHeader` and `Truncated` as the parser does.
    """
    parser = header.Parser(file_size=origin.size, name=origin.name)
    window = bytearray()
    need = origin.step
    while True:
        if need > limit:
            raise SourceError(
                f"{origin.name}: its header takes {need:,} bytes or more; no sound file of this kind takes {limit:,}"
            )
        ended = not _fill(window, max(need, len(window) + origin.step), origin)
        check_magic(bytes(window[:MAGIC_BYTES]), origin.name)
        try:
            return parser.parse(window), window
        except Truncated as truncated:
            if ended:
                raise
            need = truncated.need


def _fill(window: bytearray, size: int, origin: Origin) -> bool:
    """Read on until `window` has `size` bytes; whether it has."""
    while len(window) < size:
        try:
            chunk = origin.stream.read(min(size - len(window), 16 * STEP_BYTES))
        except OSError as error:
            raise SourceError(f"{origin.name}: cannot be read: {reason(error)}") from error
        if not chunk:
            return False
        window += chunk
    return True


def check_magic(start: bytes, name: str) -> None:
    """Refuse a file that starts as no GGUF does, saying what it is where that tells."""
    if not start:
        raise SourceError(f"{name}: is empty; its download may not have begun")
    if header.MAGIC.startswith(start[:4]):
        return
    known = next((what for magic, what in _OTHER_FORMATS if start.lstrip().startswith(magic)), None)
    if not any(start):
        known = "zeros so far: a download that reserved its space and has not begun"
    elif start[8:10] == b'{"':
        known = "a safetensors file: convert it with llama.cpp's convert_hf_to_gguf.py"
    raise SourceError(f"{name}: is not a GGUF file but {known or f'starts with {start[:8]!r}'}")


def reason(error: OSError | ValueError) -> str:
    """Say why the system refused, in its own words."""
    return getattr(error, "strerror", None) or str(error)
