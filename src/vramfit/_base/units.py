"""Read and write sizes as people do; inside the library a size is an `int` of bytes."""

from __future__ import annotations

import re
from typing import Final

from .errors import SettingsError

__all__ = ["GIB", "MIB", "format_bytes", "format_mib", "parse_count", "parse_size"]

MIB: Final = 1 << 20
GIB: Final = 1 << 30

# Memory is sold in binary units under decimal names: a "24 GB" card has 24 GiB.
_UNITS: Final = {"": MIB, "k": 1 << 10, "m": MIB, "g": GIB, "t": 1 << 40}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])i?b?|b)?\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Read "24GiB", "22000MiB" or "1.5g" as bytes; a bare number counts MiB, as llama.cpp's options do.

    Raises `SettingsError` for anything else.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise SettingsError(f"{text!r} is not a size; write 24GiB, 512MiB or a number of MiB")
    number, unit = match.groups()
    if unit is None and text.strip().lower().endswith("b"):
        return int(float(number))
    return int(float(number) * _UNITS[(unit or "").lower()])


def format_mib(n: int) -> str:
    """Write bytes as whole MiB with thousands separated: "11,286"."""
    return f"{round(n / MIB):,}"


def format_bytes(n: int) -> str:
    """Write bytes in the unit that keeps three digits: "15.7 GiB", "640 MiB", "12.0 KiB"."""
    sign, n = ("-", -n) if n < 0 else ("", n)
    for unit, size in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", 1 << 10)):
        if n >= size:
            return f"{sign}{n / size:.3g} {unit}" if n / size < 100 else f"{sign}{n / size:,.0f} {unit}"
    return f"{sign}{n} B"


_COUNT: Final = re.compile(r"(\d{1,12}|\d{1,3}(?:[,_]\d{3}){1,4})(?:(\.\d{1,6})?\s*([km])i?)?", re.IGNORECASE)


def parse_count(text: str) -> int:
    """Read "32768", "32k", "65,536" or "1.5k" as a number, where k is 1,024 and m is k times k.

    Raises `SettingsError` for anything else.
    """
    match = _COUNT.fullmatch(text.strip()) if text.isascii() and len(text) < 64 else None
    if not match:
        raise SettingsError(f"{text[:80]!r}: not a number; write 32768, 32k or 65,536")
    digits, part, unit = match.groups()
    whole = int(digits.replace(",", "").replace("_", ""))
    scale = {"k": 1 << 10, "m": 1 << 20}.get((unit or "").lower(), 1)
    return whole * scale + int(float(part or 0) * scale)
