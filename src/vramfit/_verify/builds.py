"""Which builds of the engine a log can be of: the one that it names, else one for each era that prints such lines."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from .._base.errors import SettingsError
from .._llama.eras import CHANGES, PINNED_BUILD, Era, era_of
from .._logs import Load, builds_of

__all__ = ["FORK", "candidates", "named_build", "representatives"]

FORK: Final = "b3600"  # what ik_llama.cpp left llama.cpp at, August 2024; its own numbers count otherwise
FORK_LATENT: Final = "b5150"  # and where it stores latent attention compressed, as llama.cpp does since then


def named_build(load: Load) -> str:
    """The build that the log names, as `era_of` takes it; "" where it names none that can be counted by."""
    if load.program == "ik_llama.cpp":
        return FORK_LATENT if load.settings.get("mla_attn") else FORK
    try:
        era_of(load.build)
    except SettingsError:
        return ""
    return load.build


@lru_cache(maxsize=64)
def _between(low: int, high: int) -> tuple[str, ...]:
    """One build for each set of switches between two builds, the newest first."""
    edges = {low, high, PINNED_BUILD} | {
        n for c in CHANGES for n in (c.first - 1, c.first, c.sure, c.sure - 1)
    }
    found: dict[tuple[object, ...], str] = {}
    for n in sorted((n for n in edges if low <= n <= high), reverse=True):
        found.setdefault(_switches(era_of(f"b{n}")), f"b{n}")
    return tuple(found.values())


def _switches(era: Era) -> tuple[object, ...]:
    return tuple(getattr(era, c.switch) for c in CHANGES)


def candidates(load: Load) -> tuple[str, ...]:
    """Builds to try for a log that names none, one for each era, the pinned one first where it is among them."""
    low, high = builds_of(load.marks)
    found = _between(low, min(high, PINNED_BUILD + 1)) or (f"b{low}",)
    return tuple(sorted(found, key=lambda build: build != f"b{PINNED_BUILD}"))


def representatives() -> tuple[str, ...]:
    """One build for each era there is, the newest first."""
    return _between(5000, PINNED_BUILD + 1)
