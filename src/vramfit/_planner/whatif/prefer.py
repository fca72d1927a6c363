"""Combine changes until the context fits, giving up what a person wants to keep last: `best`.

A preference orders what may be given up, the dearest first. One after the other each is given up as little
as will do while all cheaper ones are given up in full; then it stays. That is the least in this order as long as
giving up more never takes more memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..._base.progress import Bar
from ..._coerce import AnyGpus, AnyHost, AnyModel, AnySettings
from ..._llama.params import Settings
from ..plan import DEFAULT_MARGIN
from .changes import cache_pairs, one_slot, ubatches, with_pair
from .host import host_levels
from .nouns import Alternative, Prefer, by_preference, checked
from .question import LEAST, Planner, Question, question

__all__ = ["best"]

Change = Callable[[Settings], Settings]

# What each preference keeps longest, first; what is not named stays as asked. The host is left alone where that
# will do. Where not, batches stay large: its weights are copied to the cards for each (op offload).
_ON_CARDS: Final[dict[Prefer, tuple[str, ...]]] = {
    "speed": ("slots", "ubatch", "cache", "flash"),
    "quality": ("slots", "ubatch", "flash"),
    "context": ("cache", "slots", "ubatch", "flash"),
}
_WITH_HOST: Final[dict[Prefer, tuple[str, ...]]] = {
    "speed": ("ubatch", "host", "slots", "cache", "flash"),
    "quality": ("cache", "ubatch", "host", "slots", "flash"),
    "context": ("ubatch", "host", "cache", "slots", "flash"),
}


@dataclass(frozen=True, slots=True)
class _Ladder:
    """One thing that can be given up, step by step; step 0 gives up nothing.

    `falls`: every step takes less memory than the one before.
    """

    name: str
    steps: Sequence[Change]
    falls: bool = True


def best(
    model: AnyModel,
    gpus: AnyGpus,
    settings: AnySettings = None,
    *,
    prefer: str = "speed",
    margin_bytes: int | str = DEFAULT_MARGIN,
    max_ctx: int | str | None = None,
    host_bandwidth_gbs: float | None = None,
    planner: Planner | None = None,
    host: AnyHost = None,
) -> Alternative:
    """Find the plan that a preference makes of the settings, and what was changed for it.

    "speed" and "quality" change what they must for the context asked about, or, where none is, for 4,096
    tokens a slot; "context" changes what it must for the longest. Quality keeps the cache's types longest, the others
    keep the host out as long as they can. Where no change is enough the plan as asked comes back, which
    then does not fit. Everything else is as in `trades`.
    """
    order = checked(prefer)
    with Bar(f"what {prefer} gives up") as bar:
        q = question(
            model,
            gpus,
            settings,
            margin_bytes,
            max_ctx,
            host_bandwidth_gbs,
            planner,
            advance=bar.advance,
            host=host,
        )
        return _best(q, order)


def _best(q: Question, order: Prefer) -> Alternative:
    goal = _goal(q, order)
    as_asked = q.described("as asked", q.settings, q.asked)
    if q.reached >= goal or not q.has_limits:
        return as_asked
    ladders = _ladders(q)
    on_cards = _least(q, [ladders[name] for name in _ON_CARDS[order]], goal)
    if on_cards is not None and on_cards.n_ctx >= goal:
        return on_cards
    found = [_with_host(q, ladders, order, goal, host) for host in _hosts(q)]
    if order == "context" and not any(row is not None and row.n_ctx >= goal for row in found):
        # all of all carries no more, but on the way there something may: what is read from the host is copied to the cards
        others: tuple[Prefer, ...] = ("speed", "quality")
        found += [_with_host(q, ladders, x, _goal(q, x), host) for x in others for host in _hosts(q)]
    reaching = [row for row in found if row is not None and row.n_ctx > q.reached]
    return min(reaching, key=lambda row: by_preference(row, order), default=as_asked)


def _with_host(
    q: Question, ladders: Mapping[str, _Ladder], order: Prefer, goal: int, host: _Ladder
) -> Alternative | None:
    """As little as will do, the host among it; a smaller context where the goal is out of reach."""
    return _least(
        q, [host if name == "host" else ladders[name] for name in _WITH_HOST[order]], goal, short=True
    )


def _goal(q: Question, prefer: Prefer) -> int:
    return q.goal if prefer == "context" or q.settings.n_ctx else min(LEAST, q.goal)


def _ladders(q: Question) -> dict[str, _Ladder]:
    """List what may be given up on the cards, by name."""
    asked = q.settings
    slots: list[Change] = [lambda s: one_slot(q.model, s)] if asked.n_seq_max > 1 else []
    flash: list[Change] = [] if q.asked.estimate.flash_attn else [_flash]
    found = (
        _Ladder("slots", [_same, *slots]),
        _Ladder("ubatch", [_same, *map(_ubatch, ubatches(asked)[1:])]),
        _Ladder("cache", [_same, *map(_pair, cache_pairs(q.model, asked)[1:])], falls=False),
        _Ladder("flash", [_same, *flash]),
    )
    return {ladder.name: ladder for ladder in found}


def _hosts(q: Question) -> tuple[_Ladder, ...]:
    """The host with experts and layers, or with the cache alone; nothing where it is the cards' own memory."""
    if not q.has_host:
        return (_Ladder("host", [_same]),)
    levels = q.within_host(host_levels(q.model, q.settings), min(LEAST, q.goal)) or [q.settings]
    return (
        _Ladder("host", [_host(level) for level in levels]),
        _Ladder("host", [_same, lambda s: replace(s, offload_kqv=False)]),
    )


def _same(settings: Settings) -> Settings:
    return settings


def _flash(settings: Settings) -> Settings:
    return replace(settings, flash_attn="on")


def _ubatch(n_ubatch: int) -> Change:
    return lambda s: replace(s, n_ubatch=n_ubatch)


def _pair(pair: tuple[str, str]) -> Change:
    return lambda s: with_pair(s, pair)


def _host(level: Settings) -> Change:
    return lambda s: replace(s, n_gpu_layers=level.n_gpu_layers, cpu_tensors=level.cpu_tensors)


def _least(q: Question, ladders: Sequence[_Ladder], goal: int, short: bool = False) -> Alternative | None:
    """Give up as little as will do of each, the dearest first; None where all of all is not enough.

    `short`: a smaller context will do where the goal is out of reach.
    """
    steps = {ladder.name: len(ladder.steps) - 1 for ladder in ladders}

    def settings() -> Settings:
        found = q.settings
        for ladder in ladders:
            found = ladder.steps[steps[ladder.name]](found)
        return found

    full = q.answer(settings())
    if full is None or not full.fits or (full.estimate.n_ctx_seq < goal and not short):
        return None
    goal = min(goal, full.estimate.n_ctx_seq)
    for ladder in ladders:
        steps[ladder.name] = _step(q, ladder, goal, steps, settings)
    return q.alternative("together", settings())


def _step(
    q: Question, ladder: _Ladder, goal: int, steps: dict[str, int], settings: Callable[[], Settings]
) -> int:
    """Find the first step under which the goal fits; `steps` says where the other ladders stand."""

    def carries(step: int) -> bool:
        steps[ladder.name] = step
        return q.carries(settings(), goal)

    last = len(ladder.steps) - 1
    if not ladder.falls:
        return next((step for step in range(last) if carries(step)), last)
    if carries(0):
        return 0
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if carries(middle) else (middle, high)
    return high
