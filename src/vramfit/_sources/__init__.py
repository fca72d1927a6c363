"""Read the headers that any reference names: the one place where model files are opened.

A reference is bytes, a path, or a text in the grammar of `grammar`. `lookup` finds the `File` it means in one of
the places (`paths`, `folders`, `ollama`, `hub`, `web`); opened, every file is an `Origin`, a stream that is read from
its start until the header is whole; `shards` adds the other files of a split model. Another place is another way to
make a `File`; nothing else changes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .. import _gguf as header
from .._base.errors import SourceError
from .._gguf import Header
from . import origin, shards
from .nouns import Companion, Located, Resolved
from .paths import local_file
from .redact import redacted
from .session import Session

if TYPE_CHECKING:
    from .client import Progress

__all__ = ["Companion", "Reference", "Resolved", "open_headers", "read_header", "reference_name", "resolve"]

Reference: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview


def reference_name(reference: Reference) -> str:
    """Name `reference` for messages."""
    if isinstance(reference, bytes | bytearray | memoryview):
        return f"<{len(reference)} bytes>"
    if isinstance(reference, str | os.PathLike):
        return redacted(str(os.fspath(reference)))
    raise SourceError(f"a model is named by a path or given as bytes, not by {reference!r}")


def resolve(
    reference: Reference,
    *,
    revision: str = "",
    token: str = "",
    cache: bool = True,
    progress: Progress | None = None,
) -> Resolved:
    """Find the model that `reference` names, with what comes with it: projector, parameters, template.

    `revision` is a branch, tag or commit of a repository on the Hub. `token` is shown to the Hub alone, in place of
    the one that huggingface-hub finds. `cache` is whether headers that were read
    before may be used and those read now kept. `progress` is told the name of a remote file and the bytes just
    read, from any thread. Raises as `open_headers` does.
    """
    if isinstance(reference, bytes | bytearray | memoryview):
        return Resolved(reference_name(reference), open_headers(reference))
    with Session(revision=revision, token=token, cache=cache, progress=progress) as session:
        located = _locate(reference, session)
        headers = shards.read_all(located.file, session.read)
        return Resolved(
            located.file.name, headers, located.file.path, located.companions, located.parameters(), located.template()
        )  # fmt: skip


def open_headers(
    reference: Reference,
    *,
    revision: str = "",
    token: str = "",
    cache: bool = True,
    progress: Progress | None = None,
) -> tuple[Header, ...]:
    """Read the headers of all files of the model, in the order of its shards; one for a model of one file.

    `reference` may name any shard: the others are looked for beside it, under the names that llama.cpp gives
    them. Nothing but headers is read; the other arguments are those of `resolve`. Raises as `read_header` does,
    and `SourceError` when a shard is missing or belongs to another model.
    """
    if isinstance(reference, bytes | bytearray | memoryview):
        given = read_header(reference)
        if given.split_count > 1:
            raise SourceError(
                f"{given.name}: these bytes are shard {given.split_no + 1} of {given.split_count}; "
                "give the path of a shard, with the others beside it"
            )
        return (given,)
    with Session(revision=revision, token=token, cache=cache, progress=progress) as session:
        return shards.read_all(_locate(reference, session).file, session.read)


def read_header(reference: Reference) -> Header:
    """Read the header of the one file that `reference` names; no byte of the tensor data is needed.

    Raises `SourceError` when the file cannot be found or read or is not GGUF, `InvalidHeader` when its header
    is damaged or ends with the file, `Truncated` when bytes or a pipe end inside the header.
    Bytes are not copied: the arrays of their header read them later.
    """
    if isinstance(reference, bytes | bytearray | memoryview):
        data, name = memoryview(reference).cast("B"), reference_name(reference)
        origin.check_magic(bytes(data[: origin.MAGIC_BYTES]), name)
        # The caller may hand over just the start of a file, so their length is not the file's size.
        return header.parse(data, name=name)
    with Session() as session:
        return session.read(_locate(reference, session).file)


def _locate(reference: str | os.PathLike[str], session: Session) -> Located:
    """Find where the model is. What is given as a `Path` is one; a text may be any name.

    A file that is here needs none of the code that looks for names.
    """
    text = reference_name(reference)
    if not session.revision and os.path.isfile(reference):
        return Located(local_file(Path(reference)))
    from .grammar import parse, split_digest
    from .lookup import check_digest, locate
    from .names import Name, PathName

    if not isinstance(reference, str):
        return locate(PathName(Path(reference)), text, session)
    digest = ""
    if not os.path.lexists(reference):
        reference, digest = split_digest(reference)
    name: Name = parse(reference)
    located = locate(name, text, session)
    if digest:
        check_digest(located, digest)
    return located
