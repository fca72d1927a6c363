"""Results as a terminal shows them: what `print(result)` prints."""

from __future__ import annotations

from ..comparison import Comparison
from ..solve import Plan
from .comparisons import comparison_text
from .grids import sweep_text
from .plans import plan_text

__all__ = ["text"]


def text(result: object) -> str:
    """The same text that the command prints. Raises `TypeError` for what is no result."""
    if isinstance(result, Plan):
        return plan_text(result)
    if isinstance(result, Comparison):
        return comparison_text(result)
    from ..sweeps import Sweep

    if isinstance(result, Sweep):
        return sweep_text(result)
    raise TypeError(f"{type(result).__name__} is no result that vramfit prints")
