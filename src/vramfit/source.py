"""Any reference to `Header`s: the one place where model files are opened.

A reference is a path (any shard of a split model stands for the whole), or the bytes themselves.
Every kind comes down to an `_Origin`: a name for messages, a size if it is known, and a stream that
is read from its start, in small steps, until the header is whole. Another kind of reference is another
way to open an `_Origin` and to name a shard's siblings; nothing else changes.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from . import header
from .errors import SourceError, Truncated
from .header import Header

__all__ = ["Reference", "open_headers", "read_header", "reference_name"]

Reference: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview

# The window grows by this much: small beside a header with a vocabulary, so that little is read
# and held beyond it, and large enough for a header without one to take a single read.
STEP_BYTES: Final = 256 << 10

# What is looked at to tell which format a file is of.
MAGIC_BYTES: Final = 64

# A shard's name as llama.cpp writes it (llama.cpp, LLAMA_SPLIT_PATH "%s-%05d-of-%05d.gguf").
_SHARD_NAME: Final = re.compile(r"(?P<stem>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.gguf", re.DOTALL)

# Keys that may differ from shard to shard of one model.
_OF_ONE_SHARD: Final = frozenset({"split.no", "general.alignment"})

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


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where the bytes of one file come from."""

    name: str
    stream: BinaryIO
    size: int | None  # of the whole file; None when only reading on would tell


def reference_name(reference: Reference) -> str:
    """What messages call `reference`."""
    if isinstance(reference, bytes | bytearray | memoryview):
        return f"<{len(reference)} bytes>"
    if isinstance(reference, str | os.PathLike):
        return str(os.fspath(reference))
    raise SourceError(f"a model is named by a path or given as bytes, not by {reference!r}")


def read_header(reference: Reference) -> Header:
    """The header of the one file that `reference` names; no byte of the tensor data is needed.

    Raises `SourceError` when the file cannot be read or is no GGUF, `InvalidHeader` when its header
    is damaged or ends with the file, `Truncated` when bytes or a pipe end inside the header.
    Bytes are not copied: the arrays of their header read them later.
    """
    if isinstance(reference, bytes | bytearray | memoryview):
        data, name = memoryview(reference).cast("B"), reference_name(reference)
        _check_magic(bytes(data[:MAGIC_BYTES]), name)
        # The caller may hand over just the start of a file, so their length is not the file's size.
        return header.parse(data, name=name)
    with _open(reference) as origin:
        return _read(origin)


def open_headers(reference: Reference) -> tuple[Header, ...]:
    """The headers of all files of the model, in the order of its shards; one for a model of one file.

    `reference` may name any shard: the others are looked for beside it, under the names that llama.cpp
    gives them. Raises as `read_header` does, and `SourceError` when a shard is missing or belongs to another
    model (llama-model-loader.cpp:595-673).
    """
    given = read_header(reference)
    if given.split_count <= 1:
        return (given,)
    if isinstance(reference, bytes | bytearray | memoryview):
        raise SourceError(
            f"{given.name}: these bytes are shard {given.split_no + 1} of {given.split_count}; "
            "give the path of a shard, with the others beside it"
        )
    paths = _shard_paths(Path(reference), given)
    shards = tuple(given if i == given.split_no else read_header(path) for i, path in enumerate(paths))
    _check_shards(shards)
    return shards


@contextmanager
def _open(reference: str | os.PathLike[str]) -> Iterator[_Origin]:
    name = reference_name(reference)
    path = Path(reference)
    try:
        if path.is_dir():
            raise SourceError(f"{name}: is a directory; name {_files_in(path)}")
        stream = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise SourceError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise SourceError(f"{name}: cannot be opened: {_reason(error)}") from error
    with stream:
        status = os.fstat(stream.fileno())
        yield _Origin(name, stream, status.st_size if stat.S_ISREG(status.st_mode) else None)


def _read(origin: _Origin) -> Header:
    """The header of `origin`, from a window that grows only as far as the parser asks."""
    parser = header.Parser(file_size=origin.size, name=origin.name)
    window = bytearray()
    need = STEP_BYTES
    while True:
        ended = not _fill(window, max(need, len(window) + STEP_BYTES), origin)
        _check_magic(bytes(window[:MAGIC_BYTES]), origin.name)
        try:
            return parser.parse(window)
        except Truncated as truncated:
            if ended:
                raise
            need = truncated.need


def _fill(window: bytearray, size: int, origin: _Origin) -> bool:
    """Read on until `window` has `size` bytes; whether it has."""
    while len(window) < size:
        try:
            chunk = origin.stream.read(min(size - len(window), 16 * STEP_BYTES))
        except OSError as error:
            raise SourceError(f"{origin.name}: cannot be read: {_reason(error)}") from error
        if not chunk:
            return False
        window += chunk
    return True


def _check_magic(start: bytes, name: str) -> None:
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


def _shard_paths(path: Path, given: Header) -> Sequence[Path]:
    """The paths of all shards of the model that `path` is a shard of; all exist."""
    match = _SHARD_NAME.fullmatch(path.name)
    number, count = given.split_no + 1, given.split_count
    if number > count:
        raise SourceError(f"{path}: says it is shard {number} of {count}; it is damaged: fetch it again")
    if not match or (int(match["number"]), int(match["count"])) != (number, count):
        raise SourceError(
            f"{path}: is shard {number} of {count}, but is not called "
            f"<name>-{number:05d}-of-{count:05d}.gguf, so that the others cannot be found: give it its name back"
        )
    paths = [path.with_name(f"{match['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    missing = [p.name for p in paths if not p.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SourceError(
            f"{path}: is shard {number} of {count}; missing beside it: {', '.join(missing[:3])}{more}"
        )
    return paths


def _check_shards(shards: Sequence[Header]) -> None:
    """Refuse shards that are not one model."""
    first = shards[0]
    owner: dict[str, Header] = {}
    for no, shard in enumerate(shards):
        if (shard.split_no, shard.split_count) != (no, len(shards)):
            raise SourceError(
                f"{shard.name}: says it is shard {shard.split_no + 1} of {shard.split_count}, "
                f"but its name says {no + 1} of {len(shards)}"
            )
        for key in shard.metadata.keys() & first.metadata.keys() - _OF_ONE_SHARD:
            if shard.metadata[key] != first.metadata[key]:
                raise SourceError(
                    f"{shard.name}: belongs to another model: its {key!r} differs from {first.name}"
                )
        for tensor in shard.tensors:
            other = owner.setdefault(tensor.name, shard)
            if other is not shard:
                raise SourceError(f"{shard.name}: tensor {tensor.name!r} is in {other.name} too")
    if len(owner) != first.split_tensors_count:
        raise SourceError(
            f"{first.name}: the model has {first.split_tensors_count} tensors, but its shards hold {len(owner)}: "
            "one of them belongs to another model"
        )


def _files_in(path: Path) -> str:
    names = sorted(p.name for p in path.glob("*.gguf"))
    if not names:
        return "a .gguf file; it holds none"
    return "one of its files: " + ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
