"""Suggest the known words nearest to a wrong one, as `difflib` does; it is imported when somebody errs."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["get_close_matches"]


def get_close_matches(word: str, known: Iterable[str], n: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the best `n` words of `known` that are at least `cutoff` (0 to 1) like `word`, the best first."""
    import difflib

    return difflib.get_close_matches(word, list(known), n, cutoff)
