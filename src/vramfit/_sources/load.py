"""Read any reference to a model as a `Model`: the whole way from bytes in one call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._base.errors import SourceError, shown
from .._coerce import call, flag, word
from .._llama.arch import describe
from .._llama.model import Model
from . import Reference, Resolved, open_headers, reference_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read"]


def read(
    reference: Reference | Resolved,
    *,
    assume: str | None = None,
    revision: str = "",
    token: str = "",
    cache: bool = True,
    progress: Callable[[str, int], None] | None = None,
) -> Model:
    """Read the model that `reference` names: a path to a GGUF file, any shard of a split one, bytes, a URL, a name on
    the Hugging Face Hub, in Ollama or LM Studio, `-` for standard input, or what `source.resolve` found.

    Only headers are read. `assume` names the architecture to take in place of an unknown one; the
    result records it. `revision` is a branch, tag or commit on the Hub, `token` one for it in place of that
    which huggingface-hub finds. `cache=False` neither uses headers that were read before nor keeps those read now. `progress` is told the name of a remote file and how many
    bytes of it came, from any thread. Raises `SourceError`, `HeaderError` or `ModelError`.
    """
    assume = None if assume is None else word("assume", assume)
    revision, token = word("revision", revision), word("token", token)
    cache = flag("cache", cache)
    call("progress", progress)
    if not isinstance(reference, Resolved | str | os.PathLike | bytes | bytearray | memoryview):
        raise SourceError(f"reference={shown(reference)}: give a path, a URL, a name, or bytes")
    if isinstance(reference, memoryview) and not reference.c_contiguous:
        reference = bytes(reference)
    if isinstance(reference, Resolved):
        return describe(reference.headers, assume=assume, source=reference.name)
    headers = open_headers(reference, revision=revision, token=token, cache=cache, progress=progress)
    return describe(headers, assume=assume, source=reference_name(reference))
