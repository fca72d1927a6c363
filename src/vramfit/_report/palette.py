"""Choose the colours of pictures, on paper and on a dark screen: series that the colour-blind tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DARK", "LIGHT", "Palette"]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one of the two modes."""

    paper: str
    ink: str
    rule: str
    limit: str
    cycle: tuple[str, ...]
    is_dark: bool = False

    def color(self, i: int) -> str:
        """Choose the colour of series `i`; marks and dashes repeat at other lengths, so that no two series agree."""
        return self.cycle[i % len(self.cycle)]


_VIVID: Final = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442")
LIGHT: Final = Palette(
    "#ffffff", "#1a1a1a", "#d0d0d0", "#d55e00", ("#0072b2", *_VIVID[:-1], "#56b4e9", "#6b6b6b")
)
DARK: Final = Palette(
    "#16181c", "#e8e8e8", "#3c4048", "#ff8a4c", ("#56b4e9", *_VIVID, "#9fc9e8", "#a0a0a0"), is_dark=True
)
