"""The constants of the format, and what a header is held against."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

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
MAX_KEY_BYTES: Final = (1 << 16) - 1  # the GGUF specification's own limit

# A string that is longer is given as it lies: templates and licences are shorter, and others nobody asks for.
LONGEST_TEXT: Final = 1 << 20
TEXT_STEP: Final = 1 << 18  # bytes that are held decoded at once while a string is checked

# The least that each part takes: what a count promises can be held against the bytes left.
FIXED_BYTES: Final = 24  # magic, version, two counts
MIN_KEY_BYTES: Final = 8 + 1 + 4 + 1  # length, one letter, type, the smallest value
MIN_TENSOR_BYTES: Final = 8 + 4 + 4 + 8  # length, number of dimensions, type, offset
MIN_STRING_BYTES: Final = 8  # the length alone

# Value types by id, as the engine abbreviates them.
TYPE_NAMES: Final = (
    *("u8", "i8", "u16", "i16", "u32", "i32", "f32"),
    *("bool", "str", "arr", "u64", "i64", "f64"),
)

# The `struct` codes of the types of fixed width. A bool is a byte that is zero or not.
CODES: Final[Mapping[str, str]] = MappingProxyType({
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f",
    "bool": "B", "u64": "Q", "i64": "q", "f64": "d",
})  # fmt: skip
WIDTHS: Final[Mapping[str, int]] = MappingProxyType({
    "u8": 1, "i8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "f32": 4,
    "bool": 1, "u64": 8, "i64": 8, "f64": 8,
})  # fmt: skip

# The keys that the container itself uses, with the type that the engine insists on.
CONTAINER_KEYS: Final[Mapping[str, str]] = MappingProxyType({
    "general.alignment": "u32",
    "split.no": "u16",
    "split.count": "u16",
    "split.tensors.count": "i32",
})  # fmt: skip

# Ids of tensor types that ggml once had: files with them exist, no engine of today loads them.
REMOVED_TYPES: Final[Mapping[int, str]] = MappingProxyType({
    4: "q4_2", 5: "q4_3", 31: "q4_0_4_4", 32: "q4_0_4_8", 33: "q4_0_8_8",
    36: "iq4_nl_4_4", 37: "iq4_nl_4_8", 38: "iq4_nl_8_8",
})  # fmt: skip
