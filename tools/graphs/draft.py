"""A header that can be edited, and written again: keys and a table of tensors, no data."""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass
from typing import Any, Final

import gguf
import numpy as np

from vramfit._ggml.types import TensorType
from vramfit._gguf import parse
from vramfit._gguf.nouns import Array

__all__ = ["Draft", "Key", "Shape"]

_BLOCK: Final = re.compile(r"^blk\.(\d+)\.(.+)$")
_TYPES: Final = {
    name: gguf.GGUFValueType[long]
    for name, long in (
        ("u8", "UINT8"), ("i8", "INT8"), ("u16", "UINT16"), ("i16", "INT16"), ("u32", "UINT32"), ("i32", "INT32"),
        ("f32", "FLOAT32"), ("bool", "BOOL"), ("str", "STRING"), ("u64", "UINT64"), ("i64", "INT64"), ("f64", "FLOAT64"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """A value of the metadata: its type, or that of the elements of a list."""

    type: str
    value: Any


@dataclass(frozen=True, slots=True)
class Shape:
    """Type and extents of a tensor, the fastest first."""

    type: TensorType
    ne: tuple[int, ...]


@dataclass(slots=True)
class Draft:
    """A header in the making. Names of keys are whole; `own` gives one of the architecture's."""

    keys: dict[str, Key]
    tensors: dict[str, Shape]

    @classmethod
    def read(cls, path: pathlib.Path) -> Draft:
        """The header of a file, without its vocabulary: no graph depends on more than its length."""
        header = parse(path.read_bytes(), name=str(path))
        keys: dict[str, Key] = {}
        for name, value in header.metadata.items():
            if not name.startswith("tokenizer."):
                of = value.type if isinstance(value, Array) else header.types[name]
                keys[name] = Key(of, list(value.values()) if isinstance(value, Array) else value)
        found = cls(keys, {t.name: Shape(t.type, t.shape) for t in header.tensors})
        words = header.metadata.get("tokenizer.ggml.tokens")
        if isinstance(words, Array):
            found.put("vocab_size", len(words))
        for name in ("tokenizer.ggml.token_type_count",):
            if isinstance(count := header.metadata.get(name), int):
                keys[name] = Key("u32", count)
        keys["tokenizer.ggml.model"] = Key("str", "none")
        return found

    def write(self, path: pathlib.Path) -> None:
        """Write the header; the data is not there."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for name, key in self.keys.items():
            if name == "general.architecture":
                continue
            if not isinstance(key.value, list):
                writer.add_key_value(name, key.value, _TYPES[key.type])
            elif key.value:
                writer.add_key_value(name, key.value, gguf.GGUFValueType.ARRAY, _TYPES[key.type])
        for name, t in self.tensors.items():
            n_bytes = t.type.row_bytes(t.ne[0]) * int(np.prod(t.ne[1:], dtype=np.int64))
            kind = gguf.GGMLQuantizationType(t.type.id)
            writer.add_tensor_info(name, t.ne[::-1], np.dtype(np.float32), n_bytes, kind)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()

    @property
    def architecture(self) -> str:
        """The architecture that the header names."""
        return str(self.keys["general.architecture"].value)

    def own(self, name: str) -> str:
        """The whole name of one of the architecture's keys."""
        return f"{self.architecture}.{name}"

    def get(self, name: str, default: Any = None) -> Any:
        """The value of one of the architecture's keys."""
        key = self.keys.get(self.own(name))
        return default if key is None else key.value

    def put(self, name: str, value: Any) -> None:
        """Set one of the architecture's keys, or take it away (None). Keeps the type where the value allows it."""
        whole = self.own(name)
        old = self.keys.pop(whole, None)
        if value is None or value == []:
            return
        one = value[0] if isinstance(value, list) else value
        self.keys[whole] = Key(_type_of(one, old), value)

    @property
    def n_layer(self) -> int:
        """Blocks, those that predict further tokens included."""
        return int(self.get("block_count", 0))

    def kinds(self) -> list[str]:
        """Names of the tensors without the number of their block, each once."""
        return list(dict.fromkeys(_kind(name) for name in self.tensors))

    def drop(self, kind: str, block: int | None = None) -> None:
        """Take tensors away: of all blocks, or of one."""
        for name in [x for x in self.tensors if _kind(x) == kind]:
            if block is None or name.startswith(f"blk.{block}."):
                del self.tensors[name]

    def reorder(self, order: list[int]) -> None:
        """Make block i of what is block `order[i]` (counted on from the first), with its elements of the lists by layer."""
        n = max(1, self.n_layer)
        order = [i % n for i in order]
        for name, key in list(self.keys.items()):
            if isinstance(key.value, list) and len(key.value) == n:
                self.keys[name] = Key(key.type, [key.value[i] for i in order])
        blocks: dict[int, list[tuple[str, Shape]]] = {}
        outer: dict[str, Shape] = {}
        for name, shape in self.tensors.items():
            if m := _BLOCK.match(name):
                blocks.setdefault(int(m[1]), []).append((m[2], shape))
            else:
                outer[name] = shape
        for new, old in enumerate(order):
            outer.update((f"blk.{new}.{rest}", shape) for rest, shape in blocks.get(old, ()))
        self.tensors = outer
        self.put("block_count", len(order))


def _kind(name: str) -> str:
    m = _BLOCK.match(name)
    return f"blk.N.{m[2]}" if m else name


def _type_of(value: Any, old: Key | None) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        signed = value < 0 or (old is not None and old.type in ("i32", "i64"))
        return ("i" if signed else "u") + ("64" if value >> (31 if signed else 32) not in (0, -1) else "32")
    return "f32" if isinstance(value, float) else "str"
