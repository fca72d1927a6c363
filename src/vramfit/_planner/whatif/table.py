"""List every change alone, each with a plan of its own: `trades`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from ..._base.progress import Bar
from ..._coerce import AnyGpus, AnyHost, AnyModel, AnySettings, flag
from ..._llama.params import Settings
from ..plan import DEFAULT_MARGIN
from .changes import cache_pairs, one_slot, ubatches, with_pair
from .host import experts_levels, fewest_experts, most_layers
from .nouns import Alternative, Alternatives, by_preference, checked
from .question import LEAST, Planner, Question, question

__all__ = ["trades"]


def trades(
    model: AnyModel,
    gpus: AnyGpus,
    settings: AnySettings = None,
    *,
    margin_bytes: int | str = DEFAULT_MARGIN,
    max_ctx: int | str | None = None,
    prefer: str | None = None,
    host_bandwidth_gbs: float | None = None,
    planner: Planner | None = None,
    brief: bool = False,
    host: AnyHost = None,
) -> Alternatives:
    """List what context each single change of `settings` would reach, and what it would cost.

    All pairs of cache types and all batches are tried; for what stays on the host, the least that is
    enough is sought (see `host`), unless the cards share its memory. Changes that the engine refuses are left out, and there are none where
    the context is as long as it may get. `prefer` ("speed", "quality" or "context") orders the rows.
    `brief` leaves out pairs of unlike cache types. `planner` plans in the place of `plan`, as
    `engines.plan_for` does for one engine. Everything else is as in `plan`.
    Raises what `plan` raises, and `SettingsError` for an unknown preference.
    """
    order = None if prefer is None else checked(prefer)
    q = question(model, gpus, settings, margin_bytes, max_ctx, host_bandwidth_gbs, planner, host=host)
    rows = _table(q, flag("brief", brief))
    if order is not None:
        rows.sort(key=lambda row: by_preference(row, order))
    return Alternatives(q.asked, tuple(rows), order)


def _table(q: Question, brief: bool) -> list[Alternative]:
    """List every change alone, the least painful kinds first."""
    if q.reached >= q.goal or not q.has_limits:
        return []
    seen = {q.settings}
    rows = []
    changes = [*_on_cards(q, brief), *_on_host(q)]
    with Bar("alternatives", len(changes)) as bar:
        for kind, change in changes:
            settings = change()
            row = None if settings in seen else q.alternative(kind, settings)
            seen.add(settings)
            rows += [] if row is None else [row]
            bar.advance()
    return rows


_Change = tuple[str, Callable[[], Settings]]  # kind, what the settings become


def _on_cards(q: Question, brief: bool) -> Iterable[_Change]:
    asked = q.settings
    if not q.asked.estimate.flash_attn:
        yield "flash attention", partial(replace, asked, flash_attn="on")
    for pair in cache_pairs(q.model, asked)[1:]:
        if not brief or pair[0] == pair[1]:
            yield "cache types", partial(with_pair, asked, pair)
    for n_ubatch in ubatches(asked)[1:]:
        yield "physical batch", partial(replace, asked, n_ubatch=n_ubatch)
    if asked.n_seq_max > 1:
        yield "slots", partial(one_slot, q.model, asked)


def _on_host(q: Question) -> Iterable[_Change]:
    """List what on the host is enough for twice the context (or for a usable one), and what is enough for all of it."""
    if not q.has_host:
        return
    halfway = q.goal if q.settings.n_ctx else min(max(LEAST, 2 * q.reached), q.goal)
    goals = sorted({halfway, q.goal})
    for goal in goals:
        yield "experts on the host", partial(_experts, q, goal)
    yield "cache on the host", partial(replace, q.settings, offload_kqv=False)
    for goal in goals:
        yield "layers on the host", partial(_layers, q, goal)


def _experts(q: Question, goal: int) -> Settings:
    """Keep the experts of as few layers on the host as will do; of all, where not even these are enough."""
    return fewest_experts(q, goal) or experts_levels(q.model, q.settings)[-1]


def _layers(q: Question, goal: int) -> Settings:
    return most_layers(q, goal) or replace(q.settings, n_gpu_layers=0)
