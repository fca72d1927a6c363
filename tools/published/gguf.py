"""A GGUF header as bytes: keys and the table of tensors, without their data."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vramfit._ggml.types import BY_NAME

_ALIGNMENT = 32
# GGUF's numbers for value types, with the struct codes of one value
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64 = (
    (4, "I"),
    (5, "i"),
    (6, "f"),
    (7, "?"),
    (8, ""),
    (9, ""),
    (10, "Q"),
)
_LONG = ("ple.layer_multipliers", "ple.head_offsets", "ple.head_vocab_sizes")  # arrays that hold 64 bits each


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a header; `shape` in the engine's order, the row first."""

    name: str
    shape: tuple[int, ...]
    type: str = "f32"

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        kind = BY_NAME[self.type]
        return kind.row_bytes(self.shape[0]) * math.prod(self.shape[1:])


def header(keys: Mapping[str, Any], tensors: Sequence[Tensor]) -> bytes:
    """The header, padded to where the data would begin."""
    parts = [b"GGUF", struct.pack("<Iqq", 3, len(tensors), len(keys))]
    parts += [_string(name) + _value(name, value) for name, value in keys.items()]
    offset = 0
    for tensor in tensors:
        parts.append(_string(tensor.name) + struct.pack("<I", len(tensor.shape)))
        parts.append(struct.pack(f"<{len(tensor.shape)}q", *tensor.shape))
        parts.append(struct.pack("<iQ", BY_NAME[tensor.type].id, offset))
        offset += _padded(tensor.n_bytes)
    whole = b"".join(parts)
    return whole.ljust(_padded(len(whole)), b"\0")


def _padded(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<i", _STRING[0]) + _string(value)
    if isinstance(value, list):
        number, code = _U64 if name.endswith(_LONG) else _kind(value)
        return struct.pack("<iiQ", _ARRAY[0], number, len(value)) + struct.pack(
            f"<{len(value)}{code}", *value
        )
    number, code = _U32 if _is_count(value) else _kind([value])
    return struct.pack("<i" + code, number, value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32


def _kind(values: list[Any]) -> tuple[int, str]:
    """The one type of a list's elements: the converter writes integers as signed ones."""
    if isinstance(values[0], bool):
        return _BOOL
    if any(isinstance(v, float) for v in values):
        return _F32
    return _I32
