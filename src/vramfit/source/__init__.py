"""Any reference to `Header`s: the one place where model files are opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from .. import header
from ..errors import SourceError
from ..header import Header
from . import origin, shards
from .origin import File
from .paths import local_file

__all__ = ["Reference", "open_headers", "read_header", "reference_name"]

Reference: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview


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
        origin.check_magic(bytes(data[: origin.MAGIC_BYTES]), name)
        # The caller may hand over just the start of a file, so their length is not the file's size.
        return header.parse(data, name=name)
    return _read(local_file(Path(reference)), origin.MAX_HEADER_BYTES)


def _read(file: File, limit: int) -> Header:
    with file.open("") as opened:
        assert opened is not None
        return origin.read_header(opened, limit)[0]


def open_headers(reference: Reference) -> tuple[Header, ...]:
    """The headers of all files of the model, in the order of its shards; one for a model of one file."""
    if isinstance(reference, bytes | bytearray | memoryview):
        given = read_header(reference)
        if given.split_count > 1:
            raise SourceError(
                f"{given.name}: these bytes are shard {given.split_no + 1} of {given.split_count}; "
                "give the path of a shard, with the others beside it"
            )
        return (given,)
    reference_name(reference)
    return shards.read_all(local_file(Path(reference)), _read)
