"""GGUF headers put together by hand, faults included: what `gguf.GGUFWriter` would refuse to write."""

from __future__ import annotations

import struct
from collections.abc import Sequence

TYPES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")


def string(text: str | bytes, order: str = "<") -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(order + "Q", len(raw)) + raw


def key(name: str | bytes, type_id: int | str, value: bytes, order: str = "<") -> bytes:
    number = TYPES.index(type_id) if isinstance(type_id, str) else type_id
    return string(name, order) + struct.pack(order + "i", number) + value


def array(type_id: int | str, count: int, body: bytes, order: str = "<") -> bytes:
    number = TYPES.index(type_id) if isinstance(type_id, str) else type_id
    return struct.pack(order + "iQ", number, count) + body


def tensor(
    name: str | bytes, shape: Sequence[int], type_id: int = 0, offset: int = 0, order: str = "<"
) -> bytes:
    return (
        string(name, order)
        + struct.pack(order + "I", len(shape))
        + struct.pack(f"{order}{len(shape)}q", *shape)
        + struct.pack(order + "iQ", type_id, offset)
    )


def file(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    *,
    version: int = 3,
    n_kv: int | None = None,
    n_tensors: int | None = None,
    order: str = "<",
) -> bytes:
    """A whole header; the counts are those of the lists unless they are to lie."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_kv is None else n_kv)
    return b"GGUF" + struct.pack(order + "Iqq", version, *counts) + b"".join((*keys, *tensors))
