"""Count what models that are loaded leave on each card and on the host, for the next one.

In: cards, a host, the plans of what is loaded, in their order. Out: cards and host with less free. Each model runs in a
process of its own, which takes its driver's context on every card that it sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .._devices import Gpu, Host
from .._planner.plan import Plan
from .._planner.warnings import process_bytes
from .table import Engine

__all__ = ["cards_beside", "host_beside", "process_counts", "sees", "taken"]


def taken(plan: Plan) -> tuple[int, ...]:
    """Count the bytes that the plan's model takes of each of its cards."""
    return tuple(d.total + d.beside for d in plan.estimate.gpus)


def sees(plan: Plan, engine: Engine) -> frozenset[int]:
    """List the cards that the process of a model sees; Ollama shows it one alone where it uses one (sched.go:1033)."""
    if engine.name == "ollama" and plan.settings.split_mode == "none" and plan.gpus:
        return frozenset({max(0, plan.settings.main_gpu)})
    return frozenset(range(len(plan.gpus)))


def process_counts(gpus: Sequence[Gpu], seen: Iterable[frozenset[int]]) -> tuple[int, ...]:
    """Count the processes on each card beyond the first, whose own bytes are already out of what is free."""
    seen = list(seen)
    return tuple(max(0, sum(i in cards for cards in seen) - 1) for i in range(len(gpus)))


def cards_beside(
    gpus: Sequence[Gpu], loaded: Sequence[Sequence[int]], seen: Sequence[frozenset[int]]
) -> tuple[Gpu, ...]:
    """Take off each card what the loaded models have of it (`loaded`: bytes of each card), and a context for each that sees it.

    With one process on a card the next one's context is one more; with none it is already out of what is free. At least a
    byte is left, since layers are placed by free memory.
    """
    found = []
    for i, gpu in enumerate(gpus):
        processes = sum(i in cards for cards in seen)
        less = sum(t[i] for t in loaded) + (processes * process_bytes(gpu) if processes else 0)
        found.append(replace(gpu, free_bytes=max(1, gpu.free - less)) if less else gpu)
    return tuple(found)


def host_beside(host: Host | None, loaded: Iterable[Plan]) -> Host | None:
    """Take off a host of known memory what the loaded models hold there."""
    if host is None:
        return None
    less = sum(max(0, p.estimate.host.total + p.estimate.host.beside) for p in loaded)
    return replace(host, free_bytes=max(0, host.free - less))
