"""Headers with one tensor in place of several: what converters write for some models.

The engine makes models from metadata with Q, K and V apart; files of the same architectures can hold
them as one. `fuse` rewrites the tensor table of a header so; the engine then says whether it takes that.
"""

from __future__ import annotations

import pathlib
import re
import struct

from vramfit._gguf import parse

_PARTS = ("attn_q", "attn_k", "attn_v")
_ALIGNMENT = 32


def fuse(source: str, target: str) -> bool:
    """Write `source` to `target` with `attn_qkv` in place of Q, K and V; False if there are none."""
    data = pathlib.Path(source).read_bytes()
    tensors = [(t.name, tuple(t.shape), t.type) for t in parse(data, name=source).tensors]
    names = {name for name, _, _ in tensors}
    table: list[tuple[str, tuple[int, ...], object]] = []
    fused = False
    for name, shape, kind in tensors:
        m = re.fullmatch(r"(blk\.\d+\.)(attn_[qkv])\.(weight|bias)", name)
        parts = [f"{m[1]}{p}.{m[3]}" for p in _PARTS] if m else []
        if not m or not all(p in names for p in parts):
            table.append((name, shape, kind))
        elif m[2] == "attn_q":
            rows = sum(s[-1] for n, s, _ in tensors if n in parts)
            table.append((f"{m[1]}attn_qkv.{m[3]}", (*shape[:-1], rows), kind))
            fused = True
    if fused:
        pathlib.Path(target).write_bytes(_spliced(data, tensors[0][0], table))
    return fused


def _spliced(data: bytes, first: str, table: list[tuple[str, tuple[int, ...], object]]) -> bytes:
    """`data` with another tensor table: the metadata before it stay as they are."""
    start = data.index(struct.pack("<Q", len(first)) + first.encode())
    head = bytearray(data[:start])
    struct.pack_into("<Q", head, 8, len(table))
    offset = 0
    for name, shape, kind in table:
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind.id, offset)  # type: ignore[attr-defined]
        size = kind.row_bytes(shape[0])  # type: ignore[attr-defined]
        for n in shape[1:]:
            size *= n
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    return bytes(head) + bytes(-len(head) % _ALIGNMENT)
