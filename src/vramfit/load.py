"""Any reference to a model → `Model`: the whole way from bytes in one call."""

from __future__ import annotations

import os

from .architectures import describe
from .model import Model
from .source import open_headers, reference_name

__all__ = ["read"]


def read(reference: str | os.PathLike[str] | bytes, *, assume: str | None = None) -> Model:
    """The model that `reference` names: a path to a GGUF file, any shard of a split one, or bytes.

    Only the header is read. `assume` names the architecture to take in place of an unknown one; the
    result records it. Raises `SourceError`, `HeaderError` or `ModelError`.
    """
    return describe(open_headers(reference), assume=assume, source=reference_name(reference))
