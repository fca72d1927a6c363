"""Bytes to `Header`: the GGUF container, and nothing that needs a file.

A header is 24 fixed bytes, the metadata, the table of tensors; the tensor data follows, aligned.
Everything is checked on the way: against the limits named in `limits`, and against the size of the
file where the caller knows it. Strings and array bodies stay where they lie: they decode on request.
So a header costs its own bytes, its keys, about 1 KiB a tensor and 1/2 KiB a key, and nothing else grows with it.

Source of the rules: `ggml/src/gguf.cpp` (gguf_init_from_reader) of the modelled engine. Wider than
the engine in one point, byte order: files of either order are read on any machine. Narrower in
the limits that say so, which keep the work that hostile bytes can cause small.
"""

from __future__ import annotations

from .limits import MAGIC
from .nouns import Array, Header, Pairs, Scalar, TensorInfo, Text, Value
from .parser import Buffer, Parser, parse

__all__ = [
    "MAGIC",
    "Array",
    "Buffer",
    "Header",
    "Pairs",
    "Parser",
    "Scalar",
    "TensorInfo",
    "Text",
    "Value",
    "parse",
]
