"""Parse a header in one pass over its bytes, which can stop at their end and go on with more."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from .._base.errors import InvalidHeader, ModelError, Truncated
from .._ggml import types as ggml
from . import limits
from .nouns import Header, Pairs, Span, TensorInfo

Buffer: TypeAlias = bytes | bytearray | memoryview


def parse(data: Buffer, *, file_size: int | None = None, name: str = "") -> Header:
    """Parse the header at the start of `data`, which may end anywhere behind it.

    `file_size` is the size of the whole file in bytes where it is known: what would lie beyond it is
    then refused. A file may end right after its header; one that holds some tensor data must hold
    all. `name` is put before every message.

    Raises `Truncated` when `data` ends inside the header (never when `file_size` says that no more
    can follow), `InvalidHeader` when the bytes break the format or one of `limits`.
    """
    return Parser(file_size=file_size, name=name).parse(data)


class Parser:
    """A parse that can go on: after `Truncated`, call `parse` again with more of the same file.

    What was read is not read again, so that a window that grows in small steps costs no more than
    one that was large enough from the start. No view of `data` is kept before the header is whole:
    a `bytearray` may grow in place in between.

    `string_bytes` are the sizes of arrays of strings by key, where an earlier parse of the same bytes found them:
    what they hold is then stepped over at once.
    """

    def __init__(
        self, *, file_size: int | None = None, name: str = "", string_bytes: Mapping[str, int] | None = None
    ) -> None:
        self._file_size = file_size
        self._prefix = f"{name}: " if name else ""
        self._name = name
        self._data: Buffer = b""
        self._at = 0  # where the next item starts: everything before it is done
        self._version, self._order = 0, ""
        self._keys_left = self._tensors_left = 0  # the item being read included
        self._values: dict[str, bool | int | float | Span] = {}
        self._types: dict[str, str] = {}
        self._string_bytes = string_bytes or {}
        self._walked = (0, 0)  # of the string array being read: strings passed, place reached
        self._alignment = limits.DEFAULT_ALIGNMENT
        self._tensors: dict[str, TensorInfo] = {}
        self._data_bytes = 0

    def parse(self, data: Buffer) -> Header:
        """Go on with `data`, all bytes of the file from its start; see the function `parse`."""
        self._data = data
        try:
            if not self._at:
                self._read_fixed()
            while self._keys_left:
                self._read_key()
            self._check_keys()
            while self._tensors_left:
                self._read_tensor()
            return self._finish()
        finally:
            self._data = b""

    # What the bytes are held against.

    def _invalid(self, message: str) -> InvalidHeader:
        return InvalidHeader(self._prefix + message)

    def _require(self, end: int, what: str) -> None:
        """Make sure that the bytes before `end` are there."""
        if end <= len(self._data) and end <= limits.MAX_HEADER_BYTES:
            return
        keys_after = max(self._keys_left - 1, 0)
        tensors_after = self._tensors_left if self._keys_left else max(self._tensors_left - 1, 0)
        need = end + keys_after * limits.MIN_KEY_BYTES + tensors_after * limits.MIN_TENSOR_BYTES
        if need > limits.MAX_HEADER_BYTES:
            raise self._invalid(
                f"{what} would make the header {need:,} bytes or longer; vramfit reads headers of up to "
                f"{limits.MAX_HEADER_BYTES:,}. The file is damaged, or no model"
            )
        if self._file_size is not None and need > self._file_size:
            raise self._invalid(
                f"{what} needs {need:,} bytes, but the file has {self._file_size:,}; "
                "it is damaged or its download is incomplete: fetch it again"
            )
        given = f"{len(self._data):,} were given"
        raise Truncated(f"{self._prefix}{what} needs {need:,} bytes of the file, {given}", need)

    def _number(self, type_name: str, at: int, what: str) -> int:
        self._require(at + limits.WIDTHS[type_name], what)
        value: int = struct.unpack_from(self._order + limits.CODES[type_name], self._data, at)[0]
        return value

    def _length(self, at: int, limit: int, what: str) -> int:
        length = self._number("u64", at, what)
        if length > limit:
            raise self._invalid(f"{what} is {length:,} bytes long; the limit is {limit:,}")
        return length

    def _string(self, at: int, limit: int, what: str) -> tuple[str, int]:
        """Read the string whose length stands at `at`; return it and where it ends."""
        length = self._length(at, limit, what)
        start, end = at + 8, at + 8 + length
        self._require(end, what)
        try:
            return str(self._data[start:end], "utf-8"), end
        except UnicodeDecodeError as error:
            raise self._invalid(f"{what} is not UTF-8: {error}") from None

    def _text(self, at: int, what: str) -> Span:
        """Find where the string lies whose length stands at `at`: checked a step at a time, and not kept."""
        length = self._length(at, limits.MAX_STRING_BYTES, what)
        start, end = at + 8, at + 8 + length
        self._require(end, what)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            with memoryview(self._data) as data:
                for step in range(start, end, limits.TEXT_STEP):
                    stop = min(step + limits.TEXT_STEP, end)
                    decoder.decode(data[step:stop], stop == end)
        except UnicodeDecodeError as error:
            raise self._invalid(f"{what} is not UTF-8: {error}") from None
        return Span("str", -1, start, end)

    # The fixed part.

    def _read_fixed(self) -> None:
        start = bytes(self._data[:4])
        if not limits.MAGIC.startswith(start):
            raise self._invalid(f"not a GGUF file: it starts with {start!r}, not {limits.MAGIC!r}")
        self._order = "<"
        version = self._number("u32", 4, "the version")
        if version & 0xFFFF == 0:  # no version is that large: the file is of the other byte order
            self._order = ">"
            version = self._number("u32", 4, "the version")
        if version not in limits.VERSIONS:
            raise self._invalid(
                f"GGUF version {version}; the engine reads {' and '.join(map(str, limits.VERSIONS))}: "
                "convert the model again with a current llama.cpp"
            )
        self._require(limits.FIXED_BYTES, "the fixed part")
        n_tensors = self._count(8, limits.MAX_TENSORS, "tensors")
        n_kv = self._count(16, limits.MAX_KEYS, "keys")
        self._version, self._at = version, limits.FIXED_BYTES
        self._tensors_left, self._keys_left = n_tensors, n_kv

    def _count(self, at: int, limit: int, what: str) -> int:
        count = self._number("i64", at, f"the number of {what}")
        if not 0 <= count <= limit:
            raise self._invalid(f"the number of {what} is {count:,}; it must lie between 0 and {limit:,}")
        return count

    # The metadata.

    def _read_key(self) -> None:
        what = f"key {len(self._values)}"
        key, at = self._string(self._at, limits.MAX_KEY_BYTES, what)
        if not key or key in self._values:
            raise self._invalid(f"key {key!r} appears twice" if key else f"{what} is empty")
        what = f"key {key!r}"
        type_name = self._type_name(at, what)
        value, end = self._value(type_name, at + 4, what, self._string_bytes.get(key, 0))
        self._types[key], self._values[key] = type_name, value
        self._at = end
        self._keys_left -= 1

    def _type_name(self, at: int, what: str) -> str:
        type_id = self._number("i32", at, what)
        if not 0 <= type_id < len(limits.TYPE_NAMES):
            raise self._invalid(
                f"{what} has value type {type_id}; known are 0 to {len(limits.TYPE_NAMES) - 1}"
            )
        return limits.TYPE_NAMES[type_id]

    def _value(self, type_name: str, at: int, what: str, known: int) -> tuple[bool | int | float | Span, int]:
        """Read the value at `at`; return it and where it ends."""
        if type_name == "str":
            span = self._text(at, what)
            return span, span.end
        if type_name == "arr":
            span = self._array(at, what, known)
            return span, span.end
        number = self._number(type_name, at, what)
        return bool(number) if type_name == "bool" else number, at + limits.WIDTHS[type_name]

    def _array(self, at: int, what: str, known: int) -> Span:
        type_name = self._type_name(at, what)
        if type_name == "arr":
            raise self._invalid(f"{what} is an array of arrays; the engine reads none")
        count = self._number("u64", at + 4, what)
        if count > limits.MAX_ARRAY_LENGTH:
            raise self._invalid(
                f"{what} is an array of {count:,} elements; the limit is {limits.MAX_ARRAY_LENGTH:,}"
            )
        start = at + 12
        if type_name == "str":
            if count * limits.MIN_STRING_BYTES <= known <= len(self._data) - start:
                return Span(type_name, count, start, start + known)
            return Span(type_name, count, start, self._skip_strings(start, count, what))
        end = start + count * limits.WIDTHS[type_name]
        self._require(end, what)
        return Span(type_name, count, start, end)

    def _skip_strings(self, start: int, count: int, what: str) -> int:
        """Find where the `count` strings from `start` end.

        Its loop is the only one that runs once a token. Nothing is checked inside it: a length that leads
        out of the data makes the next step fail, and what is wrong is found out then.
        """
        passed, at = self._walked if self._walked[1] > start else (0, start)
        self._require(at + (count - passed) * limits.MIN_STRING_BYTES, what)
        length_at = struct.Struct(self._order + "Q").unpack_from
        data, length = self._data, 0
        try:
            for passed in range(passed, count):  # noqa: B007, B020 - on from where the last window ended
                (length,) = length_at(data, at)
                at += length + 8
            passed = count
        except (struct.error, OverflowError):  # OverflowError: `at` is not an offset at all
            pass
        if length > limits.MAX_STRING_BYTES:
            raise self._invalid(
                f"{what}: string {passed - 1} of the array is {length:,} bytes long; "
                f"the limit is {limits.MAX_STRING_BYTES:,}"
            )
        self._walked = (passed, at)
        self._require(at + (count - passed) * limits.MIN_STRING_BYTES, what)
        return at

    def _check_keys(self) -> None:
        """Check types and values of the keys that the container itself uses."""
        for key, wanted in limits.CONTAINER_KEYS.items():
            found = self._types.get(key, wanted)
            if found != wanted:
                raise self._invalid(f"key {key!r} is of type {found}, but must be {wanted}")
        alignment = self._values.get("general.alignment", limits.DEFAULT_ALIGNMENT)
        assert isinstance(alignment, int)
        if alignment.bit_count() != 1:
            raise self._invalid(f"key 'general.alignment' is {alignment}; it must be a power of two")
        self._alignment = alignment

    # The table of tensors.

    def _read_tensor(self) -> None:
        what = f"the name of tensor {len(self._tensors)}"
        name, at = self._string(self._at, limits.MAX_NAME_BYTES, what)
        if name in self._tensors:
            raise self._invalid(f"tensor {name!r} appears twice")
        what = f"tensor {name!r}"
        n_dims = self._number("u32", at, what)
        if n_dims > limits.MAX_DIMS:
            raise self._invalid(f"{what} has {n_dims} dimensions; ggml has at most {limits.MAX_DIMS}")
        end = at + 4 + 8 * n_dims + 12
        self._require(end, what)
        *shape, type_id, offset = struct.unpack_from(f"{self._order}{n_dims}qiQ", self._data, at + 4)
        info = TensorInfo(name, tuple(shape) or (1,), self._tensor_type(type_id, what), offset)
        self._place(info, what)
        self._tensors[name] = info
        self._at = end
        self._tensors_left -= 1

    def _tensor_type(self, type_id: int, what: str) -> ggml.TensorType:
        known = ggml.BY_ID.get(type_id)
        if known:
            return known
        removed = limits.REMOVED_TYPES.get(type_id)
        if removed:
            raise self._invalid(
                f"{what} has type {type_id}, {removed}, which llama.cpp has removed: quantize the model again"
            )
        raise self._invalid(
            f"{what} has type {type_id}, which no engine of {max(ggml.BY_ID) + 1} types knows: the file is "
            "damaged, or made for a newer or another engine"
        )

    def _place(self, info: TensorInfo, what: str) -> None:
        """Check a tensor's shape, and that it lies right behind the one before (gguf.cpp:790-815)."""
        n_elements = 1
        for extent in info.shape:
            n_elements *= extent
            if extent < 0 or n_elements > limits.MAX_ELEMENTS:
                raise self._invalid(
                    f"{what} has the shape {info.shape}: no extent may be negative, "
                    f"nor their product greater than {limits.MAX_ELEMENTS:,}"
                )
        try:
            n_bytes = info.n_bytes
        except ModelError as error:
            raise self._invalid(f"{what}: {error}") from None
        if info.offset != self._data_bytes:
            fault = "overlaps the tensor before it" if info.offset < self._data_bytes else "leaves a gap"
            raise self._invalid(
                f"{what} lies at offset {info.offset:,} of the tensor data and {fault}: "
                f"the engine wants it at {self._data_bytes:,}"
            )
        self._data_bytes += _pad(n_bytes, self._alignment)
        if self._data_bytes > limits.MAX_FILE_BYTES:
            raise self._invalid(
                f"{what} ends at {self._data_bytes:,} of the tensor data: no file is that long"
            )

    # The whole.

    def _finish(self) -> Header:
        data_offset = _pad(self._at, self._alignment) if self._tensors else self._at
        self._check_size(data_offset)
        body = memoryview(self._data)[: self._at].toreadonly()
        return Header(
            version=self._version,
            byte_order=self._order,
            alignment=self._alignment,
            metadata=Pairs(self._values, body, self._order),
            types=MappingProxyType(self._types),
            tensors=tuple(self._tensors.values()),
            header_bytes=self._at,
            data_offset=data_offset,
            data_bytes=self._data_bytes,
            name=self._name,
        )

    def _check_size(self, data_offset: int) -> None:
        """Refuse a file that ends amid its tensor data; the padding behind the last tensor may lack."""
        if self._file_size is None or self._file_size <= data_offset:
            return
        for info in self._tensors.values():
            end = data_offset + info.offset + info.n_bytes
            if end > self._file_size:
                raise self._invalid(
                    f"tensor {info.name!r} ends at byte {end:,}, but the file has {self._file_size:,}; "
                    "its download is incomplete: fetch it again"
                )


def _pad(size: int, alignment: int) -> int:
    return (size + alignment - 1) & -alignment
