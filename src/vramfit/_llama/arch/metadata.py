"""Read the metadata of a header as the engine does: typed, within its ranges, with errors that name the key.

In: a `Header`'s key-value pairs. Out: int, float, bool, str and tuples of them, or `ModelError`.
Source: `llama_model_loader::get_key`, `get_arr` and `get_key_or_arr` (llama-model-loader.cpp:300-500).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn

from ..._base.errors import ModelError
from ..._gguf import Array, Text, Value

__all__ = ["MAX_LAYERS", "U32_MAX", "Kept", "Metadata"]

MAX_LAYERS: Final = 512  # LLAMA_MAX_LAYERS (llama-hparams.h:10)
U32_MAX: Final = 2**32 - 1
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_COUNTS: Final = ("u32", "i32", "bool")  # elements that the engine reads as numbers of layers
LONGEST_KEPT: Final = 1024  # elements of an array, or characters of a string, that a model keeps
MOST_DECODED: Final = 64  # arrays that stay decoded


class Metadata(NamedTuple):
    """Key-value pairs, and how the keys of one architecture begin."""

    pairs: Mapping[str, Value]
    prefix: str
    source: str
    types: Mapping[str, str] = _NOTHING  # of the values; one that is not in it is not checked

    def raw(self, key: str) -> Value | None:
        """Return the value under `<prefix>.<key>`, or None."""
        return self.pairs.get(f"{self.prefix}.{key}")

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raise the `ModelError` of a value that cannot be right."""
        where = f"{self.source}: " if self.source else ""
        raise ModelError(
            f"{where}{self.prefix}.{key} {problem}; convert the model again or take another file"
        )

    def require(self, key: str) -> int:
        """Read an unsigned number that must be there."""
        value = self.integer(key)
        if value is None:
            self.fail(key, "is missing")
        return value

    def number(self, key: str, default: int) -> int:
        """Read an unsigned number, with the engine's default."""
        value = self.integer(key)
        return default if value is None else value

    def integer(self, key: str) -> int | None:
        """Read an unsigned 32-bit number; None without one."""
        value = self.raw(key)
        return None if value is None else self._u32(key, self._typed(key, value, "u32"))

    def _typed(self, key: str, value: Value, wanted: str) -> Value:
        """Read a value; raises `ModelError` if the file has it as another type than the engine insists on."""
        found = self.types.get(f"{self.prefix}.{key}", wanted)
        if found != wanted:
            self.fail(key, f"is of type {found}, but must be {wanted}")
        return value

    def real(self, key: str, default: float) -> float:
        """Read a floating-point number, with the engine's default."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            self.fail(key, f"= {value!r} is not a finite number")
        self._typed(key, value, "f32")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """Read a string, with the engine's default."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(key, f"= {value!r} is not a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Read a truth value, with the engine's default."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, f"= {value!r} is not a truth value")
        return value

    def array(self, key: str) -> tuple[int, ...] | None:
        """Read an array of numbers or truth values, of any length up to `MAX_LAYERS`; None without one."""
        value = self.raw(key)
        if not isinstance(value, Array):
            return None
        if len(value) > MAX_LAYERS:
            self.fail(key, f"has {len(value)} elements; the engine takes at most {MAX_LAYERS}")
        if value.type not in _COUNTS:
            self.fail(key, f"is an array of {value.type}, but must be one of {', '.join(_COUNTS)}")
        return tuple(self._u32(key, int(x) if isinstance(x, bool) else x) for x in value)

    def per_layer(self, key: str, n: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Read one number for each layer: an array of exactly `n`, or one number for all. Without either: `default`, or 0."""
        value = self.raw(key)
        if value is None:
            return (0,) * n if default is None else default
        values = self.array(key)
        if values is None:
            return (self._u32(key, self._typed(key, value, "u32")),) * n
        if len(values) != n:
            self.fail(key, f"has {len(values)} elements where {n} are needed, one a layer")
        return values

    def kept(self) -> Kept:
        """Keep all keys of the architecture without prefix, short arrays as tuples, long ones left out."""
        start = self.prefix + "."
        pairs = ((key, self.pairs[key]) for key in self.pairs if key.startswith(start))
        return Kept({key[len(start) :]: _packed(x) for key, x in pairs if _is_short(x)})

    def _u32(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(key, f"= {value!r} is not a whole number")
        if not 0 <= value <= U32_MAX:
            self.fail(key, f"= {value} is not between 0 and {U32_MAX}")
        return value


class Kept(Mapping[str, object]):
    """What a model keeps of its header: numbers, strings, arrays. Arrays are bytes until they are asked for."""

    __slots__ = ("_decoded", "_values")

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self._decoded: dict[str, tuple[object, ...]] = {}

    def __getitem__(self, key: str) -> object:
        found = self._values[key]
        if not isinstance(found, _Packed):
            return found
        values = self._decoded.get(key)
        if values is None:
            values = Array(key, found.type, found.length, found.byte_order, memoryview(found.body)).values()
            if len(self._decoded) < MOST_DECODED:
                self._decoded[key] = values
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Kept({dict(self)})"


class _Packed(NamedTuple):
    """A copy of an array's bytes, so that the header's need not be held for it."""

    type: str
    length: int
    byte_order: str
    body: bytes


def _is_short(value: Value) -> bool:
    return not isinstance(value, Text) and not (isinstance(value, Array) and len(value) > LONGEST_KEPT)


def _packed(value: Value) -> object:
    if isinstance(value, Array):
        return _Packed(value.type, value.count, value.byte_order, bytes(value.body))
    return value[:LONGEST_KEPT] if isinstance(value, str) else value
