"""Sizes as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit._base.errors import SettingsError
from vramfit._base.units import GIB, MIB, format_bytes, format_mib, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * GIB), ("24 gb", 24 * GIB), ("512", 512 * MIB), ("1.5g", 3 * GIB // 2), ("64k", 64 << 10),
     ("100B", 100), ("2TiB", 2 << 40), (" 0 ", 0)],
)  # fmt: skip
def test_sizes_are_binary(text: str, size: int) -> None:
    """Units are binary whatever they are called; a bare number counts MiB."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1e9", "24 GiB free", "1.2.3"])
def test_other_words_are_errors(text: str) -> None:
    """What is not a size is refused with what would be one."""
    with pytest.raises(SettingsError, match="write 24GiB"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_mib_are_rounded_to_the_nearest(n: int) -> None:
    """A figure in MiB is within half a MiB of the bytes."""
    assert abs(int(format_mib(n).replace(",", "")) * MIB - n) <= MIB // 2


@given(st.integers(-(1 << 50), 1 << 50))
def test_bytes_keep_their_size(n: int) -> None:
    """The number and unit that a person reads are within one percent, and never lose the sign."""
    text = format_bytes(n)
    assert text.startswith("-") == (n < 0)
    number, unit = text.lstrip("-").replace(",", "").split()
    factor = {"B": 1, "KiB": 1 << 10, "MiB": MIB, "GiB": GIB, "TiB": 1 << 40}[unit]
    assert abs(float(number) * factor - abs(n)) <= abs(n) / 100
