"""`trades`: every change alone, each with a plan of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..gpus import Gpu
from ..model import Model
from ..settings import Settings
from ..solve import DEFAULT_MARGIN
from .changes import cache_pairs, one_slot, ubatches, with_pair
from .host import experts_levels, fewest_experts, most_layers
from .nouns import Alternative, Alternatives, by_preference, checked
from .question import LEAST, Planner, Question, question

__all__ = ["trades"]


def trades(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings | None = None,
    *,
    margin_bytes: int = DEFAULT_MARGIN,
    max_ctx: int | None = None,
    prefer: str | None = None,
    host_bandwidth_gbs: float | None = None,
    planner: Planner | None = None,
    brief: bool = False,
) -> Alternatives:
    """What each single change of `settings` would carry, and what it would cost.

    All pairs of cache types and all batches are tried; for what stays on the host, the least that is
    enough is sought (see `host`). Changes that the engine refuses are left out, and there are none where
    the context is as long as it may get. `prefer` ("speed", "quality" or "context") orders the rows.
    `brief` leaves out pairs of unlike cache types. `planner` plans in the place of `plan`, as
    `engines.plan_for` does for one engine. Everything else is as in `plan`.
    Raises what `plan` raises, and `SettingsError` for an unknown preference.
    """
    order = None if prefer is None else checked(prefer)
    q = question(model, gpus, settings, margin_bytes, max_ctx, host_bandwidth_gbs, planner)
    rows = _table(q, brief)
    if order is not None:
        rows.sort(key=lambda row: by_preference(row, order))
    return Alternatives(q.asked, tuple(rows), order)


def _table(q: Question, brief: bool) -> list[Alternative]:
    """Every change alone, the least painful kinds first."""
    if q.reached >= q.goal or not any(g.total for g in q.asked.estimate.gpus):
        return []
    seen = {q.settings}
    rows = []
    for kind, settings in _changes(q, brief):
        row = None if settings in seen else q.alternative(kind, settings)
        seen.add(settings)
        rows += [] if row is None else [row]
    return rows


def _changes(q: Question, brief: bool) -> Iterable[tuple[str, Settings]]:
    asked = q.settings
    if not q.asked.estimate.flash_attn:
        yield "flash attention", replace(asked, flash_attn="on")
    for pair in cache_pairs(q.model, asked)[1:]:
        if not brief or pair[0] == pair[1]:
            yield "cache types", with_pair(asked, pair)
    for n_ubatch in ubatches(asked)[1:]:
        yield "physical batch", replace(asked, n_ubatch=n_ubatch)
    yield "slots", one_slot(q.model, asked)
    yield from _on_host(q)


def _on_host(q: Question) -> Iterable[tuple[str, Settings]]:
    """What is enough for twice the context (or for a usable one), and what is enough for all of it."""
    halfway = q.goal if q.settings.n_ctx else min(max(LEAST, 2 * q.reached), q.goal)
    goals = sorted({halfway, q.goal})
    everything = experts_levels(q.model, q.settings)[-1]
    for goal in goals:
        yield "experts on the host", fewest_experts(q, goal) or everything
    yield "cache on the host", replace(q.settings, offload_kqv=False)
    for goal in goals:
        yield "layers on the host", most_layers(q, goal) or replace(q.settings, n_gpu_layers=0)
