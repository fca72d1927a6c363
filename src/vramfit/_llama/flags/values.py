"""Read the word behind a flag as the value of a field of `Settings`, as the engine does and a little kinder.

Kinder: `32k` and `65,536` are counts, `max` and `train` contexts, and the case of a word does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..._base.errors import SettingsError
from ..._base.units import parse_count
from ..params import DENSE, EXPERTS, LOAD_MODES, POOLINGS, SPEC_TYPES, SPLIT_MODES, UNPLANNED_MODES

__all__ = ["LARGEST", "LOAD_SWITCHES", "first_dense", "first_experts", "is_switch", "value_of"]

LOAD_SWITCHES: Final = ("mlock", "mmap", "direct_io")  # of older builds; together they make a load mode
LARGEST: Final = "max"  # a context: the largest that fits
MAX_LAYERS: Final = 512  # LLAMA_MAX_LAYERS
_ON: Final = ("on", "enabled", "true", "1")  # arg.cpp:1334-1344
_OFF: Final = ("off", "disabled", "false", "0")
_AUTO: Final = ("auto", "-1")


def value_of(kind: str, flag: str, word: str) -> Any:
    """Read `word` as the value behind `flag`. Raises `SettingsError`, which names both."""
    return _READERS[kind](flag, word)


def is_switch(word: str) -> bool:
    """Tell whether `word` can only be the value of a switch, which older builds had none of."""
    return word.lower() in (*_ON, *_OFF, *_AUTO)


def first_experts(n: int) -> tuple[str, ...]:
    """List patterns of the experts of the first `n` layers: `--n-cpu-moe`."""
    return tuple(rf"blk\.{i}{EXPERTS}" for i in range(n))


def first_dense(n: int) -> tuple[str, ...]:
    """List patterns of the dense feed-forward weights of the first `n` layers: `--n-cpu-ffn`."""
    return tuple(rf"blk\.{i}{DENSE}" for i in range(n))


def _on(flag: str, word: str) -> bool:
    if word.lower() in _ON:
        return True
    if word.lower() in _OFF:
        return False
    raise SettingsError(f"{flag} {word!r}: give on or off")


def _switch(flag: str, word: str) -> str:
    low = word.lower()
    for meaning, words in (("on", _ON), ("off", _OFF), ("auto", _AUTO)):
        if low in words:
            return meaning
    raise SettingsError(f"{flag} {word!r}: give on, off or auto")


def _count(flag: str, word: str) -> int:
    try:
        return parse_count(word)
    except SettingsError as e:
        raise SettingsError(f"{flag} {e}") from None


def _context(flag: str, word: str) -> int | str:
    """Read a context in tokens; 0, which `train` means too, is the trained context, as in the engine."""
    low = word.lower()
    if low in (LARGEST, "train"):
        return LARGEST if low == LARGEST else 0
    try:
        return parse_count(word)
    except SettingsError as e:
        raise SettingsError(f"{flag} {e}, or max, or train") from None


def _number(flag: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise SettingsError(f"{flag} {word!r}: not a whole number") from None


def _layers(flag: str, word: str) -> int:
    if word.lower() in ("auto", "all"):
        return -1
    try:
        return int(word)
    except ValueError:
        raise SettingsError(f"{flag} {word!r}: not a number of layers, auto or all") from None


def _name(flag: str, word: str) -> str:
    return word.lower()


def _mode(flag: str, word: str) -> str:
    mode = word.lower()
    if mode in UNPLANNED_MODES:
        raise SettingsError(f"{flag} {mode}: {UNPLANNED_MODES[mode]}; give {' or '.join(SPLIT_MODES)}")
    if mode not in SPLIT_MODES:
        raise SettingsError(f"{flag} {word!r}: give one of {', '.join(SPLIT_MODES)}")
    return mode


def _load(flag: str, word: str) -> str:
    if word.lower() not in LOAD_MODES:
        raise SettingsError(f"{flag} {word!r}: give one of {', '.join(LOAD_MODES)}")
    return word.lower()


def _shares(flag: str, word: str) -> tuple[float, ...]:
    try:
        return tuple(float(x) for x in re.split(r"[,/]+", word) if x)
    except ValueError:
        raise SettingsError(f"{flag} {word!r}: not a number; give shares such as 3,1") from None


def _overrides(flag: str, word: str) -> tuple[str, ...]:
    """Cut at commas, and each part at its first `=` (arg.cpp:281-311)."""
    found = []
    for part in word.split(","):
        pattern, _, buffer = part.partition("=")
        if not pattern or buffer.upper() != "CPU":
            raise SettingsError(f"{flag} {part!r}: write REGEX=CPU; only the host is a target here")
        found.append(pattern)
    return tuple(found)


def _pooling(flag: str, word: str) -> str:
    low = word.lower()
    if low not in POOLINGS:
        raise SettingsError(f"{flag} {word!r}: give one of {', '.join(POOLINGS)}")
    return low


def _first(flag: str, word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 4 and int(word) <= MAX_LAYERS):
        raise SettingsError(f"{flag} {word!r}: give a number of layers, at most {MAX_LAYERS}")
    return int(word)


def _methods(flag: str, word: str) -> str:
    found = word.lower()
    if not set(found.split(",")) <= set(SPEC_TYPES):
        raise SettingsError(f"{flag} {word!r}: give one or more of {', '.join(SPEC_TYPES)}")
    return found


def _devices(flag: str, word: str) -> tuple[int, ...]:
    """Read names such as CUDA0,CUDA1 as indexes of cards; none is none of them."""
    if word.lower() == "none":
        return ()
    found = [re.fullmatch(r"[A-Za-z]*([0-9]{1,2})", name) for name in word.split(",")]
    if not all(found):
        raise SettingsError(f"{flag} {word!r}: give names such as CUDA0,CUDA1, or none")
    return tuple(int(name[1]) for name in found if name)


def _files(flag: str, word: str) -> tuple[tuple[str, float], ...]:
    return tuple((name, 1.0) for name in word.split(",") if name)


def _scaled(flag: str, word: str) -> tuple[tuple[str, float], ...]:
    """Read FILE:SCALE,... ; a colon of a path needs none, where the last one stands before a number."""
    found = []
    for part in word.split(","):
        name, _, scale = part.rpartition(":")
        try:
            found.append((name, float(scale)))
        except ValueError:
            name = ""
        if not name:
            raise SettingsError(f"{flag} {part!r}: write FILE:SCALE")
    return tuple(found)


_READERS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    **dict.fromkeys(LOAD_SWITCHES, _on),
    "context": _context,
    "count": _count,
    "devices": _devices,
    "experts": lambda flag, word: (EXPERTS,) if _on(flag, word) else (),
    "files": _files,
    "first_dense": lambda flag, word: first_dense(_first(flag, word)),
    "first_experts": lambda flag, word: first_experts(_first(flag, word)),
    "hub": lambda flag, word: f"hf://{word}",
    "layers": _layers,
    "load": _load,
    "methods": _methods,
    "mode": _mode,
    "name": _name,
    "number": _number,
    "on": _on,
    "overrides": _overrides,
    "pooling": _pooling,
    "rerank": _on,
    "path": lambda flag, word: word,
    "scaled": _scaled,
    "shares": _shares,
    "slots": _number,
    "switch": _switch,
}
