"""Bytes to `Header`: the GGUF container, and nothing that needs a file.

A header is 24 fixed bytes, the metadata, the table of tensors; the tensor data follows, aligned.
Everything is checked on the way: against the limits named here, and against the size of the file
where the caller knows it. Array bodies are stepped over, not decoded: `Array` decodes on request.

Source of the rules: `ggml/src/gguf.cpp` (gguf_init_from_reader) of the modelled engine. Wider than
the engine in one point, byte order: files of either order are read on any machine. Narrower in
the limits that say so, which keep the work that hostile bytes can cause small.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Final, NoReturn, TypeAlias

from . import ggml
from .errors import InvalidHeader, ModelError, Truncated

__all__ = ["Array", "Header", "Parser", "Scalar", "TensorInfo", "Value", "parse"]

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)  # 1 had 32-bit counts; the engine dropped it (gguf.cpp:505-519)
DEFAULT_ALIGNMENT: Final = 32  # gguf.h, GGUF_DEFAULT_ALIGNMENT

# The engine's limits.
MAX_DIMS: Final = 4  # GGML_MAX_DIMS
MAX_NAME_BYTES: Final = 63  # GGML_MAX_NAME less the terminating zero
MAX_STRING_BYTES: Final = 1 << 30  # GGUF_MAX_STRING_LENGTH
MAX_ARRAY_LENGTH: Final = 1 << 30  # GGUF_MAX_ARRAY_ELEMENTS
MAX_ELEMENTS: Final = (1 << 63) - 1  # a tensor's element count is an int64
MAX_FILE_BYTES: Final = (1 << 63) - 1  # file offsets are int64: nothing can lie beyond

# Our own limits: they bound the memory and the time of a parse, far above every model seen.
MAX_HEADER_BYTES: Final = 256 << 20  # the largest published tokenizers take about 20 MiB
MAX_KEYS: Final = 1 << 16  # models carry 20 to 60
MAX_TENSORS: Final = 1 << 17  # 61 layers of 256 experts, every expert on its own, are 47,000
MAX_KEY_BYTES: Final = (1 << 16) - 1  # the format's own limit (GGUF specification, "key")

FIXED_BYTES: Final = 24  # magic, version, two counts
MIN_KEY_BYTES: Final = 8 + 1 + 4 + 1  # length, one letter, type, the smallest value
MIN_TENSOR_BYTES: Final = 8 + 4 + 4 + 8  # length, number of dimensions, type, offset
MIN_STRING_BYTES: Final = 8  # the length alone

# Value types by id, as the engine abbreviates them, and the `struct` code of those of fixed width.
TYPE_NAMES: Final = (
    *("u8", "i8", "u16", "i16", "u32", "i32", "f32"),
    *("bool", "str", "arr", "u64", "i64", "f64"),
)
_CODES: Final = dict(zip(TYPE_NAMES, "BbHhIif?__QqdQ", strict=False)) | {"bool": "B"}
_STRING: Final = TYPE_NAMES.index("str")
_ARRAY: Final = TYPE_NAMES.index("arr")

# Ids of tensor types that ggml once had: files with them exist, no engine of today loads them.
REMOVED_TYPES: Final[Mapping[int, str]] = MappingProxyType({
    4: "q4_2", 5: "q4_3", 31: "q4_0_4_4", 32: "q4_0_4_8", 33: "q4_0_8_8",
    36: "iq4_nl_4_4", 37: "iq4_nl_4_8", 38: "iq4_nl_8_8",
})  # fmt: skip

Buffer: TypeAlias = bytes | bytearray | memoryview
Scalar: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the metadata: its length is known, its elements decode when asked for.

    It reads the buffer that was parsed, which must therefore not change while the array lives.
    """

    key: str
    type: str  # of the elements, one of TYPE_NAMES
    count: int
    byte_order: str
    body: memoryview = field(repr=False, hash=False)  # the elements as they lie in the file

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Scalar]:
        return self._strings() if self.type == "str" else iter(self.values())

    def values(self) -> tuple[Scalar, ...]:
        """All elements; `InvalidHeader` when a string of the array is no UTF-8."""
        if self.type == "str":
            return tuple(self._strings())
        numbers: tuple[Scalar, ...] = struct.unpack(
            f"{self.byte_order}{self.count}{_CODES[self.type]}", self.body
        )
        return tuple(map(bool, numbers)) if self.type == "bool" else numbers

    def _strings(self) -> Iterator[str]:
        length_at = struct.Struct(self.byte_order + "Q").unpack_from
        at = 0
        for i in range(self.count):
            start = at + 8
            at = start + length_at(self.body, at)[0]
            try:
                yield str(self.body[start:at], "utf-8")
            except UnicodeDecodeError as error:
                raise InvalidHeader(f"key {self.key!r}: string {i} of the array is no UTF-8: {error}") from None


Value: TypeAlias = bool | int | float | str | Array


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of the table of tensors. `shape` is in ggml's order: the fastest dimension first."""

    name: str
    shape: tuple[int, ...]
    type: ggml.TensorType
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
    """Everything that stands before the tensor data of one GGUF file."""

    version: int
    byte_order: str  # "<" little endian, ">" big endian
    alignment: int  # of every tensor's data, bytes
    metadata: Mapping[str, Value] = field(hash=False)  # read-only, in the order of the file
    types: Mapping[str, str] = field(hash=False, repr=False)  # of each key, one of TYPE_NAMES
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
        return self._split("split.no")

    @property
    def split_count(self) -> int:
        """How many shards the model has; 0 when the file is no shard."""
        return self._split("split.count")

    @property
    def split_tensors_count(self) -> int:
        """How many tensors all shards hold together; 0 when the file does not say."""
        return self._split("split.tensors.count")

    def _split(self, key: str) -> int:
        value = self.metadata.get(key, 0)
        assert isinstance(value, int)  # the parser has seen to it
        return value


def parse(data: Buffer, *, file_size: int | None = None, name: str = "") -> Header:
    """The header at the start of `data`, which may end anywhere behind it.

    `file_size` is the size of the whole file in bytes where it is known: what would lie beyond it is
    then refused. A file may end right after its header; one that holds some tensor data must hold
    all. `name` is put before every message.

    Raises `Truncated` when `data` ends inside the header (never when `file_size` says that no more
    can follow), `InvalidHeader` when the bytes break the format or a limit of this module.
    """
    return Parser(file_size=file_size, name=name).parse(data)


class Parser:
    """A parse that can go on: after `Truncated`, call `parse` again with more of the same file.

    What was read is not read again, so that a window that grows in small steps costs no more than
    one that was large enough from the start. No view of `data` is kept before the header is whole: a `bytearray`
    may grow in place in between.
    """

    def __init__(self, *, file_size: int | None = None, name: str = "") -> None:
        self._file_size = file_size
        self._name = name
        self._data: Buffer = b""
        self._at = 0  # the next item: everything before it is done
        self._order = ""
        self._version = 0
        self._keys_left = 0
        self._tensors_left = 0
        self._values: dict[str, Scalar | tuple[str, int, int, int]] = {}  # arrays: type, count, start, end
        self._types: dict[str, str] = {}
        self._walk = (0, 0)  # strings passed and place reached in the string array being read
        self._tensors: dict[str, TensorInfo] = {}
        self._alignment = DEFAULT_ALIGNMENT
        self._data_bytes = 0

    def parse(self, data: Buffer) -> Header:
        """Go on with `data`, all bytes of the file from its start; see the function `parse`."""
        self._data = data
        try:
            if not self._at:
                self._read_fixed()
            while self._keys_left:
                self._read_key()
            while self._tensors_left:
                self._read_tensor()
            return self._finish()
        finally:
            self._data = b""

    # What the bytes are held against.

    def _invalid(self, message: str) -> NoReturn:
        raise InvalidHeader(f"{self._name}: {message}" if self._name else message)

    def _want(self, end: int, what: str) -> None:
        """Make sure that the bytes up to `end` are there, and that the rest of the header can be."""
        if end <= len(self._data) and end <= MAX_HEADER_BYTES:
            return
        need = end + self._keys_left * MIN_KEY_BYTES + self._tensors_left * MIN_TENSOR_BYTES
        if need > MAX_HEADER_BYTES:
            self._invalid(
                f"{what} would make the header {need:,} bytes or longer; vramfit reads headers of up to "
                f"{MAX_HEADER_BYTES:,}. The file is damaged, or no model"
            )
        if self._file_size is not None and need > self._file_size:
            self._invalid(
                f"{what} needs {need:,} bytes, but the file has {self._file_size:,}; "
                "it is damaged or its download is incomplete: fetch it again"
            )
        message = f"{what} needs {need:,} bytes of the file, {len(self._data):,} were given"
        raise Truncated(f"{self._name}: {message}" if self._name else message, need)

    def _number(self, code: str, at: int, what: str) -> int:
        layout = struct.Struct(self._order + code)
        self._want(at + layout.size, what)
        value: int = layout.unpack_from(self._data, at)[0]
        return value

    def _string(self, at: int, limit: int, what: str) -> tuple[str, int]:
        """The string whose length stands at `at`, and where it ends."""
        length = self._number("Q", at, what)
        if length > limit:
            self._invalid(f"{what} is {length:,} bytes long; the limit is {limit:,}")
        start, end = at + 8, at + 8 + length
        self._want(end, what)
        try:
            return str(self._data[start:end], "utf-8"), end
        except UnicodeDecodeError as error:
            self._invalid(f"{what} is no UTF-8: {error}")

    # The three parts of a header.

    def _read_fixed(self) -> None:
        start = bytes(self._data[:FIXED_BYTES])
        if start[:4] != MAGIC[: len(start)]:
            self._invalid(f"not a GGUF file: it starts with {start[:4]!r}, not {MAGIC!r}")
        self._order = "<"
        self._version = self._number("I", 4, "the version")
        if self._version & 0xFFFF == 0:  # no version is that large: the other byte order
            self._order = ">"
            self._version = self._number("I", 4, "the version")
        if self._version not in VERSIONS:
            self._invalid(
                f"GGUF version {self._version}; the engine reads {VERSIONS[0]} and {VERSIONS[1]}. "
                "Convert the model again with a current llama.cpp"
            )
        n_tensors = self._count(8, MAX_TENSORS, "tensors")
        n_kv = self._count(16, MAX_KEYS, "keys")
        self._tensors_left, self._keys_left = n_tensors, n_kv
        self._want(FIXED_BYTES, "the header")
        self._at = FIXED_BYTES

    def _count(self, at: int, limit: int, what: str) -> int:
        count = self._number("q", at, f"the number of {what}")
        if not 0 <= count <= limit:
            self._invalid(f"the number of {what} is {count:,}; it must lie between 0 and {limit:,}")
        return count

    def _read_key(self) -> None:
        self._keys_left -= 1  # `_want` counts what follows this key
        try:
            what = f"key {len(self._values)}"
            key, at = self._string(self._at, MAX_KEY_BYTES, what)
            if not key or key in self._values:
                self._invalid(f"key {key!r} appears twice" if key else f"{what} is empty")
            what = f"key {key!r}"
            type_id, at = self._number("i", at, what), at + 4
            value: Scalar | tuple[str, int, int, int]
            if type_id == _STRING:
                value, end = self._string(at, MAX_STRING_BYTES, what)
            elif type_id == _ARRAY:
                value = self._array(at, what)
                end = value[3]
            else:
                code = _CODES[self._type_name(type_id, what)]
                value, end = self._number(code, at, what), at + struct.calcsize("=" + code)
        except Truncated:
            self._keys_left += 1
            raise
        name = TYPE_NAMES[type_id]
        self._types[key], self._values[key] = name, bool(value) if name == "bool" else value
        self._at = end
        if not self._keys_left:
            self._check_keys()

    def _type_name(self, type_id: int, what: str) -> str:
        if 0 <= type_id < len(TYPE_NAMES):
            return TYPE_NAMES[type_id]
        self._invalid(f"{what} has value type {type_id}; known are 0 to {len(TYPE_NAMES) - 1}")

    def _array(self, at: int, what: str) -> tuple[str, int, int, int]:
        """Element type, count, start and end of the array at `at`, without touching its elements."""
        name = self._type_name(self._number("i", at, what), what)
        count = self._number("Q", at + 4, what)
        if name == "arr":
            self._invalid(f"{what} is an array of arrays; the engine reads none")
        if count > MAX_ARRAY_LENGTH:
            self._invalid(f"{what} is an array of {count:,} elements; the limit is {MAX_ARRAY_LENGTH:,}")
        start = at + 12
        if name == "str":
            end = self._skip_strings(start, count, what)
        else:
            end = start + count * struct.calcsize("=" + _CODES[name])
            self._want(end, what)
        return name, count, start, end

    def _skip_strings(self, start: int, count: int, what: str) -> int:
        """Where the `count` strings from `start` end.

        The one loop that runs once a token. Nothing is checked inside it: a length that leads out
        of the data makes the next step fail, and what is wrong is found out then.
        """
        done, at = self._walk if self._walk[1] >= start else (0, start)
        self._want(at + (count - done) * MIN_STRING_BYTES, what)
        length_at = struct.Struct(self._order + "Q").unpack_from
        data, length = self._data, 0
        try:
            for done in range(done, count):  # noqa: B020 - it goes on where the last window ended
                (length,) = length_at(data, at)
                at += length + 8
            done = count
        except (struct.error, OverflowError, IndexError):
            pass
        if length > MAX_STRING_BYTES:
            self._invalid(
                f"{what}: string {done - 1} of the array is {length:,} bytes long; the limit is {MAX_STRING_BYTES:,}"
            )
        self._walk = (done, at)
        self._want(at + (count - done) * MIN_STRING_BYTES, what)
        return at

    def _check_keys(self) -> None:
        """The types and values of the keys that the container itself uses."""
        for key, type_name in (
            ("general.alignment", "u32"),
            ("split.no", "u16"),
            ("split.count", "u16"),
            ("split.tensors.count", "i32"),
        ):
            if self._types.get(key, type_name) != type_name:
                self._invalid(f"key {key!r} is of type {self._types[key]}, but must be {type_name}")
        alignment = self._values.get("general.alignment", DEFAULT_ALIGNMENT)
        assert isinstance(alignment, int)
        if alignment.bit_count() != 1:
            self._invalid(f"key 'general.alignment' is {alignment}; it must be a power of two")
        self._alignment = alignment

    def _read_tensor(self) -> None:
        self._tensors_left -= 1
        try:
            what = f"tensor {len(self._tensors)}"
            name, at = self._string(self._at, MAX_NAME_BYTES, f"the name of {what}")
            if name in self._tensors:
                self._invalid(f"tensor {name!r} appears twice")
            what = f"tensor {name!r}"
            n_dims = self._number("I", at, what)
            if n_dims > MAX_DIMS:
                self._invalid(f"{what} has {n_dims} dimensions; ggml has at most {MAX_DIMS}")
            layout = struct.Struct(f"{self._order}{n_dims}qiQ")
            self._want(at + 4 + layout.size, what)
        except Truncated:
            self._tensors_left += 1
            raise
        *shape, type_id, offset = layout.unpack_from(self._data, at + 4)
        info = TensorInfo(name, tuple(shape) or (1,), self._tensor_type(type_id, what), offset)
        self._place(info, what)
        self._tensors[name] = info
        self._at = at + 4 + layout.size

    def _tensor_type(self, type_id: int, what: str) -> ggml.TensorType:
        known = ggml.BY_ID.get(type_id)
        if known:
            return known
        removed = REMOVED_TYPES.get(type_id)
        if removed:
            self._invalid(
                f"{what} has type {type_id}, {removed}, which llama.cpp has removed: quantize the model again"
            )
        self._invalid(
            f"{what} has type {type_id}, which is unknown (known: 0 to {max(ggml.BY_ID)}): "
            "the file is damaged, or made for a newer or another engine"
        )

    def _place(self, info: TensorInfo, what: str) -> None:
        """Check a tensor's shape, and that it lies right behind the one before (gguf.cpp:790-815)."""
        n_elements = 1
        for extent in info.shape:
            n_elements *= extent
            if extent < 0 or n_elements > MAX_ELEMENTS:
                self._invalid(f"{what} has the shape {info.shape}: extents must be at least 0, elements fewer than 2^63")
        try:
            n_bytes = info.n_bytes
        except ModelError as error:
            self._invalid(f"{what}: {error}")
        if info.offset != self._data_bytes:
            known = "overlaps the tensor before it" if info.offset < self._data_bytes else "leaves a gap"
            self._invalid(
                f"{what} lies at offset {info.offset:,} of the tensor data and {known}: "
                f"the engine wants it at {self._data_bytes:,}"
            )
        self._data_bytes += _pad(n_bytes, self._alignment)
        if self._data_bytes > MAX_FILE_BYTES:
            self._invalid(f"{what} ends {self._data_bytes:,} bytes into the tensor data, where no file reaches")

    def _finish(self) -> Header:
        header_bytes = self._at
        data_offset = _pad(header_bytes, self._alignment) if self._tensors else header_bytes
        self._check_size(data_offset)
        body = memoryview(self._data)[:header_bytes].toreadonly()
        metadata: dict[str, Value] = {}
        for key, value in self._values.items():
            if isinstance(value, tuple):
                name, count, start, end = value
                metadata[key] = Array(key, name, count, self._order, body[start:end])
            else:
                metadata[key] = value
        return Header(
            version=self._version,
            byte_order=self._order,
            alignment=self._alignment,
            metadata=MappingProxyType(metadata),
            types=MappingProxyType(self._types),
            tensors=tuple(self._tensors.values()),
            header_bytes=header_bytes,
            data_offset=data_offset,
            data_bytes=self._data_bytes,
            name=self._name,
        )

    def _check_size(self, data_offset: int) -> None:
        """A file holds all of its tensors, or ends before the first."""
        size = self._file_size
        if size is None or size <= data_offset:
            return
        for info in reversed(self._tensors.values()):  # the last tensor need not be padded
            if data_offset + info.offset + info.n_bytes > size:
                self._invalid(
                    f"tensor {info.name!r} ends at byte {data_offset + info.offset + info.n_bytes:,}, but the file has "
                    f"{size:,}; its download is incomplete: fetch it again"
                )
            return


def _pad(size: int, alignment: int) -> int:
    return (size + alignment - 1) & -alignment
