"""Count what a plan would need in a build of the engine before the changes of June 2026.

In: a `Plan` made without a build. Out: the card that lacks most then, and how many bytes more it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from .._base.errors import VramfitError
from .._base.units import MIB, format_mib
from .._estimate.estimate import estimate
from .._llama.eras import BEFORE, era_of
from .plan import Plan

__all__ = [
    "Older",
    "build_sentence",
    "era_title",
    "more_on_each",
    "most_needed",
    "older_needs",
    "rules_sentence",
]


class Older(NamedTuple):
    """How many bytes more an older build takes on the card where that is most, by the name that the estimate gives it."""

    card: str
    n_bytes: int


def era_title(build: str) -> str:
    """Name the rules that a result was counted by."""
    return f"{era_of(build).title}{'' if build else ' (assumed)'}"


def older_needs(plan: Plan) -> Older | None:
    """Find the card on which a build before June 2026 needs most more; None where the build is known, or no card needs a MiB more."""
    return most_needed([g.name for g in plan.estimate.gpus], more_on_each(plan))


def more_on_each(plan: Plan) -> list[int]:
    """Count the bytes that a build before June 2026 needs more on each card; [] where the build is known, or would refuse."""
    if plan.settings.engine_build or not plan.estimate.gpus:
        return []
    try:
        before = estimate(plan.model, plan.gpus, replace(plan.settings, engine_build=BEFORE))
    except VramfitError:  # that build would refuse it
        return []
    return [b.total - g.total for g, b in zip(plan.estimate.gpus, before.gpus, strict=True)]


def most_needed(names: Sequence[str], more: Sequence[int]) -> Older | None:
    """Find the card on which most more is needed; None where none needs a MiB more."""
    most = max(map(Older, names, more), key=lambda x: x.n_bytes, default=None)
    return most if most and most.n_bytes >= MIB else None


def build_sentence(plan: Plan) -> str:
    """Say whose rules were counted, and where none were named what an older build would need more."""
    return rules_sentence(plan.settings.engine_build, older_needs(plan))


def rules_sentence(build: str, older: Older | None) -> str:
    """Say whose rules were counted, and what an older build would need more."""
    said = f"Counted by the rules of llama.cpp {era_title(build)}."
    if older:
        said += f" A build before June 2026 would need {format_mib(older.n_bytes)} MiB more on {older.card}; name yours with --engine-build."
    return said
