"""Write how far a model reaches and what lies outside every buffer, as lines of a page."""

from __future__ import annotations

from collections.abc import Sequence

from .._base.foreign import printable
from .._base.units import format_mib
from .._devices import Gpu
from .._planner.host import host_sentence, lent_sentence
from .._planner.older import build_sentence
from .._planner.plan import Plan
from .._planner.warnings import overheads, reach, rope_sentence, swa_sentence, wired_sentence

__all__ = ["lent_lines", "model_notes", "notes", "overhead_lines"]


def notes(plan: Plan) -> list[str]:
    """Say how the model was extended, what its windows are worth, and which memory no buffer shows."""
    used = [gpu for gpu, d in zip(plan.gpus, plan.estimate.gpus, strict=False) if d.total]
    lost, host, lent = overhead_lines(used), host_sentence(plan.estimate), lent_lines(used)
    said = [*model_notes(plan), *lost, host, *lent, printable(build_sentence(plan))]
    return [text for text in said if text]


def model_notes(plan: Plan) -> list[str]:
    """Say how the model was extended, and what its windows are worth."""
    rope = rope_sentence(plan.model) if reach(plan.model).method else ""
    return [text for text in (rope, swa_sentence(plan.model, plan.settings)) if text]


def lent_lines(gpus: Sequence[Gpu]) -> list[str]:
    """Say how much of the machine's memory its system lends to cards that have none of their own."""
    said = [*dict.fromkeys(map(wired_sentence, gpus)), *dict.fromkeys(map(lent_sentence, gpus))]
    return [f"{sentence}." for sentence in said if sentence]


def overhead_lines(gpus: Sequence[Gpu]) -> list[str]:
    """Write what cards lose outside every buffer, where the size is known, in MiB card by card."""
    sizes: dict[tuple[str, bool], list[str]] = {}
    for gpu in gpus:
        for overhead in overheads(gpu):
            if overhead.n_bytes:
                sizes.setdefault((overhead.name, overhead.counted), []).append(format_mib(overhead.n_bytes))
    parts = [_part(name, counted, found) for (name, counted), found in sizes.items()]
    return [f"Not counted above: {'; '.join(parts)}."] if parts else []


def _part(name: str, counted: bool, sizes: Sequence[str]) -> str:
    where = "already subtracted from free" if counted else "comes out of the margin"
    return f"{name} {' + '.join(sizes)} MiB ({where})"
