"""Hold what a header says, as read-only values."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, TypeAlias

from .._base.errors import InvalidHeader
from .._ggml.types import TensorType
from .limits import CODES, LONGEST_TEXT

Scalar: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the metadata: its length is known, its elements decode when asked for.

    It reads the buffer that was parsed, which must therefore not change while the array lives.
    """

    key: str
    type: str  # of the elements: one of `limits.TYPE_NAMES`, not "arr"
    count: int
    byte_order: str  # as the header's
    body: memoryview = field(repr=False, hash=False)  # the elements as they lie in the file

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Scalar]:
        return self._strings() if self.type == "str" else iter(self.values())

    def values(self) -> tuple[Scalar, ...]:
        """Decode all elements; raises `InvalidHeader` when a string of the array is not UTF-8."""
        if self.type == "str":
            return tuple(self._strings())
        numbers = struct.unpack(f"{self.byte_order}{self.count}{CODES[self.type]}", self.body)
        return tuple(map(bool, numbers)) if self.type == "bool" else numbers

    def _strings(self) -> Iterator[str]:
        length_at = struct.Struct(self.byte_order + "Q").unpack_from
        end = 0
        for i in range(self.count):
            start = end + 8
            end = start + length_at(self.body, end)[0]
            try:
                yield str(self.body[start:end], "utf-8")
            except UnicodeDecodeError as error:
                raise InvalidHeader(
                    f"key {self.key!r}: string {i} of the array is not UTF-8: {error}"
                ) from None


@dataclass(frozen=True, slots=True)
class Text:
    """A string of the metadata that is longer than `limits.LONGEST_TEXT`: it decodes when asked for."""

    key: str
    body: memoryview = field(repr=False, hash=False)  # its bytes, which are UTF-8

    def __len__(self) -> int:
        """Count the bytes."""
        return len(self.body)

    def __str__(self) -> str:
        return str(self.body, "utf-8")


Value: TypeAlias = bool | int | float | str | Text | Array


class Span(NamedTuple):
    """Where a string or an array lies in a header."""

    type: str  # of the elements, or "str"
    length: int  # elements; -1: a string, no array
    start: int
    end: int


class Pairs(Mapping[str, Value]):
    """The metadata, read-only, in the order of the file: strings and arrays stay where they lie until asked for."""

    __slots__ = ("_body", "_found", "_order")

    def __init__(self, found: Mapping[str, bool | int | float | Span], body: memoryview, order: str) -> None:
        self._found, self._body, self._order = found, body, order

    def __getitem__(self, key: str) -> Value:
        found = self._found[key]
        if not isinstance(found, Span):
            return found
        body = self._body[found.start : found.end]
        if found.length >= 0:
            return Array(key, found.type, found.length, self._order, body)
        return Text(key, body) if len(body) > LONGEST_TEXT else str(body, "utf-8")

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"Pairs({list(self._found)})"


class TensorInfo(NamedTuple):
    """One entry of the table of tensors. `shape` is in ggml's order: the fastest dimension first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int  # bytes from the start of the tensor data

    @property
    def n_elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes in the file, without padding (ggml_nbytes)."""
        return self.type.row_bytes(self.shape[0]) * prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class Header:
    """Everything that stands before the tensor data of one GGUF file. Sizes and places in bytes."""

    version: int
    byte_order: str  # "<" little endian, ">" big endian
    alignment: int  # of every tensor's data
    metadata: Mapping[str, Value] = field(hash=False, repr=False)  # read-only, in the order of the file
    types: Mapping[str, str] = field(hash=False, repr=False)  # of each key, one of `limits.TYPE_NAMES`
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    header_bytes: int  # where the table of tensors ends
    data_offset: int  # where the tensor data starts: header_bytes, aligned
    data_bytes: int  # what the tensors take, padding included
    name: str = ""  # what the bytes were called, for messages

    @property
    def n_kv(self) -> int:
        """Number of keys."""
        return len(self.metadata)

    @property
    def n_tensors(self) -> int:
        """Number of tensors in this file."""
        return len(self.tensors)

    @property
    def split_no(self) -> int:
        """Which shard of a split model this is, from 0."""
        return self._integer("split.no")

    @property
    def split_count(self) -> int:
        """How many shards the model has; 0 when the file is no shard."""
        return self._integer("split.count")

    @property
    def split_tensors_count(self) -> int:
        """How many tensors all shards hold together; 0 when the file does not say."""
        return self._integer("split.tensors.count")

    def _integer(self, key: str) -> int:
        value = self.metadata.get(key, 0)
        assert isinstance(value, int)  # the parser lets no other type of these keys pass
        return value
