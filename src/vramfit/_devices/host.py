"""`Host`: the memory of the machine beside its cards, and what its CPU can do; read from words such as "64GiB"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .._base.errors import GpuError, shown
from .._base.units import GIB, MIB
from .noun import MAX_BYTES

__all__ = ["FEATURES", "Host", "parse_host"]

# What decides in which order and size the engine keeps weights (repack.cpp:4974, amx.cpp:150); "sve" is that of 256 bits.
FEATURES: Final = ("avx2", "avx512", "amx", "neon", "dotprod", "i8mm", "sve", "vxe")
_IMPLIED: Final = {
    "avx512": ("avx2",),
    "amx": ("avx2", "avx512"),
    **dict.fromkeys(("dotprod", "i8mm", "sve"), ("neon",)),
}
LEAST_MIB: Final = 256  # below, a bare number is more likely to be GiB
_SIZE: Final = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?\s*(TiB|TB|T|GiB|GB|G|MiB|MB|M)?", re.IGNORECASE)
_UNITS: Final = {"t": 1 << 40, "g": GIB, "m": MIB}
_EXAMPLE: Final = "such as 64GiB, 64GiB:58GiB (free) or 32GiB,avx2,avx512"


@dataclass(frozen=True, slots=True)
class Host:
    """The machine's own memory, in bytes, and the features of its CPU that matter for it.

    `free_bytes` is what a process may take; left out, all of `total_bytes`. `features` are of `FEATURES`; None: not
    known, and taken to be an x86 with AVX2 and AVX-512; a feature brings those that it cannot be without. Raises `GpuError` for a value that no machine has.
    """

    total_bytes: int
    free_bytes: int | None = None
    features: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check each field, then resolve what may be left out."""
        _check("total_bytes", self.total_bytes, 1, MAX_BYTES)
        if self.free_bytes is None:
            object.__setattr__(self, "free_bytes", self.total_bytes)
        _check("free_bytes", self.free_bytes, 0, self.total_bytes)
        if self.features is not None:
            object.__setattr__(self, "features", _features(self.features))

    @property
    def free(self) -> int:
        """Bytes that a process may take."""
        assert self.free_bytes is not None  # set by __post_init__
        return self.free_bytes


def _check(field: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise GpuError(f"host: {field}={shown(value)}: give a whole number of bytes")
    if not low <= value <= high:
        most = "the host's memory" if field == "free_bytes" else "the most that is read"
        raise GpuError(f"host: {field}={shown(value)}: give {low} to {high} bytes, {most}")


def _features(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (tuple, list, set, frozenset)):
        raise GpuError(f"host: features={shown(value)}: give some of {', '.join(FEATURES)}, or None")
    unknown = [x for x in value if x not in FEATURES]
    if unknown:
        raise GpuError(f"host: no feature {shown(unknown[0])}; give some of {', '.join(FEATURES)}")
    known = {y for x in value for y in (x, *_IMPLIED.get(x, ()))}
    return tuple(x for x in FEATURES if x in known)


def parse_host(words: str) -> Host:
    """Read SIZE[:FREE][,FEATURE...] as a `Host`; GB means GiB, as on the box, and a bare number counts MiB.

    Raises `GpuError` for anything else, and for more free memory than there is.
    """
    if not isinstance(words, str):
        raise GpuError(f"host={shown(words)}: give a size {_EXAMPLE}")
    if words.strip().lower() == "auto":
        raise GpuError(
            "host='auto': take what vramfit.detect_host() answers on the machine that the plan is for"
        )
    size, *features = (part.strip() for part in words.split(","))
    total, colon, free = size.partition(":")
    total_bytes = _bytes(total, words)
    free_bytes = _bytes(free, words) if colon else None
    if free_bytes is not None and free_bytes > total_bytes:
        raise GpuError(
            f"--host {words.strip()!r}: more is free than there is; write the whole memory first, as in 64GiB:58GiB"
        )
    return Host(total_bytes, free_bytes, tuple(x.lower() for x in features) if features else None)


def _bytes(text: str, words: str) -> int:
    match = _SIZE.fullmatch(text.strip()) if text.isascii() else None
    if not match:
        raise GpuError(f"--host {words.strip()!r}: {text.strip()!r} is not a size; give one {_EXAMPLE}")
    whole, part, unit = match[1], match[2] or "", match[3]
    if unit is None and (part or int(whole) < LEAST_MIB):
        raise GpuError(f"--host {words.strip()!r}: {text.strip()} MiB, or GiB? Give a unit, as in 64GiB")
    found = int(whole + part) * _UNITS[unit[0].lower() if unit else "m"] // int("1" + "0" * len(part))
    if not found:
        raise GpuError(
            f"--host {words.strip()!r}: a host has memory; to plan without a limit leave out --host"
        )
    return found
