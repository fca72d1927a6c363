"""The largest context that is safe, and the split of the layers that carries it.

In: `Model`, cards, `Settings`, a margin. Out: a `Plan`. The engine places layers in order, so a split
is a chain of segments, one a card; for one context every chain is tried, with compute buffers
counted as `compute` counts them, and the context is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .context import CONTEXT_STEP
from .errors import SettingsError
from .estimates import Estimate, estimate
from .gpus import Gpu
from .model import Model
from .placement import devices
from .segments import Segments
from .settings import Settings

__all__ = ["DEFAULT_MARGIN", "Plan", "plan"]

DEFAULT_MARGIN: Final = 1 << 30  # what llama.cpp's --fit-target leaves on each device


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: a context, the split that carries it, and why it is not larger.

    `fits` is false when not even the smallest context (or the one asked for) leaves the margin on
    every card; `estimate` then shows that context under the best split found, and `shortfall` how many
    bytes are missing on the card that is shortest.
    """

    model: Model = field(repr=False)
    n_ctx: int
    fits: bool
    limited_by: str
    tensor_split: tuple[int, ...]  # layers on each card, as the engine takes them
    settings: Settings
    estimate: Estimate
    margin_bytes: int
    shortfall: int = 0
    warnings: tuple[str, ...] = ()


def plan(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings | None = None,
    *,
    margin_bytes: int = DEFAULT_MARGIN,
    max_ctx: int | None = None,
) -> Plan:
    """The largest context that leaves `margin_bytes` of free memory on every card.

    Takes every setting as given; `n_ctx` other than 0 asks about that one context, a `tensor_split`
    fixes the split. `max_ctx` (tokens of all slots together) defaults to the trained context.
    Raises what `estimate` raises, and `SettingsError` for a margin or limit below zero.
    """
    settings = settings or Settings()
    if margin_bytes < 0:
        raise SettingsError(f"margin_bytes={margin_bytes}: give 0 or more")
    if max_ctx is not None and max_ctx < 1:
        raise SettingsError(f"max_ctx={max_ctx}: give 1 or more")
    candidates = _contexts(model, settings, max_ctx)
    split_for = _splitter(model, gpus, settings, margin_bytes)
    found = _bisect(candidates, split_for)
    n_ctx, split = found if found else (candidates[0], None)
    chosen = _with(settings, n_ctx, split)
    result = estimate(model, gpus, chosen)
    fits = found is not None
    if not fits:
        chosen, result = _least_short(model, gpus, chosen, margin_bytes)
    shortest = min((g for g in result.gpus if g.total), key=lambda g: g.left, default=None)
    short = 0 if fits or shortest is None else margin_bytes - shortest.left
    return Plan(
        model=model,
        n_ctx=result.n_ctx,
        fits=fits,
        limited_by=_limit(model, settings, max_ctx, result, candidates, shortest.name if shortest else ""),
        tensor_split=tuple(g.layers for g in result.gpus),
        settings=chosen,
        estimate=result,
        margin_bytes=margin_bytes,
        shortfall=max(0, short),
        warnings=_warnings(model, result),
    )


def _contexts(model: Model, settings: Settings, max_ctx: int | None) -> range:
    """The contexts to choose from, in tokens of all slots together."""
    if settings.n_ctx:
        return range(settings.n_ctx, settings.n_ctx + 1)
    streams = 1 if settings.kv_unified else settings.n_seq_max
    step = CONTEXT_STEP * streams
    if max_ctx is None and not model.n_ctx_train:
        raise SettingsError("the header names no trained context; set max_ctx or n_ctx")
    most = model.n_ctx_train * streams if max_ctx is None else max_ctx
    return range(step, max(step, most // step * step) + 1, step)


Splitter = Callable[[int], "tuple[int, ...] | None"]


def _splitter(model: Model, gpus: Sequence[Gpu], settings: Settings, margin: int) -> Splitter:
    """A function from a context to layers on each card that leave the margin, or None."""
    used = devices(gpus, settings)
    free = [gpus[i].free - margin for i in used]
    if len(used) < 2 or any(settings.tensor_split):

        def as_given(n_ctx: int) -> tuple[int, ...] | None:
            result = estimate(model, gpus, replace(settings, n_ctx=n_ctx))
            ok = all(g.left >= margin for g in result.gpus if g.total)
            return tuple(g.layers for g in result.gpus) if ok else None

        return as_given
    segments = Segments(model, [gpus[i] for i in used], settings)

    def best(n_ctx: int) -> tuple[int, ...] | None:
        return _chain(segments, n_ctx, free)

    return best


def _chain(segments: Segments, n_ctx: int, free: Sequence[int]) -> tuple[int, ...] | None:
    """Layers on each card such that every segment fits, or None if there is no such chain.

    Reaches are explored card by card: from every layer that the cards before can end at.
    """
    first, last = segments.first, segments.last
    reached: dict[int, tuple[int, ...]] = {first: ()}
    for device, room in enumerate(free):
        further: dict[int, tuple[int, ...]] = {}
        for start, taken in reached.items():
            further.setdefault(start, (*taken, 0))
            ends = (last,) if device == len(free) - 1 else range(last, start, -1)
            for end in ends:
                if end not in further and segments.bytes(device, start, end, n_ctx) <= room:
                    further[end] = (*taken, end - start)
        reached = further
    return reached.get(last)


def _bisect(candidates: range, split_for: Splitter) -> tuple[int, tuple[int, ...]] | None:
    """The largest candidate that fits and its split; memory never falls as the context grows."""
    low, high, best = 0, len(candidates) - 1, None
    split = split_for(candidates[high])
    if split is not None:
        return candidates[high], split
    while low < high:
        middle = (low + high) // 2
        split = split_for(candidates[middle])
        if split is None:
            high = middle
        else:
            best, low = (candidates[middle], split), middle + 1
    return best


def _with(settings: Settings, n_ctx: int, split: tuple[int, ...] | None) -> Settings:
    """`settings` for one context and the split found; a split given by the caller stays."""
    if split is None or any(settings.tensor_split) or len(split) < 2:
        return replace(settings, n_ctx=n_ctx)
    return replace(settings, n_ctx=n_ctx, tensor_split=tuple(float(n) for n in split))


def _least_short(
    model: Model, gpus: Sequence[Gpu], settings: Settings, margin: int
) -> tuple[Settings, Estimate]:
    """The split under which the shortest card lacks least, when no split fits.

    The margin is raised in bisection until some chain of segments fits into it: a negative margin is
    a shortfall that every card shares.
    """
    used = devices(gpus, settings)
    if len(used) < 2 or any(settings.tensor_split):
        return settings, estimate(model, gpus, settings)
    segments = Segments(model, [gpus[i] for i in used], settings)
    low, high = 0, max(segments.bytes(0, segments.first, segments.last, settings.n_ctx), 1)
    best = None
    while high - low > _SHORTFALL_STEP:
        middle = (low + high) // 2
        split = _chain(segments, settings.n_ctx, [gpus[i].free - margin + middle for i in used])
        if split is None:
            low = middle
        else:
            best, high = split, middle
    chosen = _with(settings, settings.n_ctx, best)
    return chosen, estimate(model, gpus, chosen)


_SHORTFALL_STEP: Final = 1 << 20


def _limit(
    model: Model, settings: Settings, max_ctx: int | None, result: Estimate, candidates: range, card: str
) -> str:
    """What keeps the context from being larger, in a person's words."""
    if settings.n_ctx:
        return card or "the context asked for"
    if result.n_ctx < candidates[-1]:
        return card or "memory"
    if (max_ctx is not None and max_ctx < model.n_ctx_train) or not model.n_ctx_train:
        return "max_ctx"
    return "the trained context" if max_ctx is None else "max_ctx"


def _warnings(model: Model, result: Estimate) -> tuple[str, ...]:
    found = []
    if model.assumed:
        found.append(f"the architecture is unknown; planned as {model.assumed}, which may be wrong")
    if model.n_ctx_train and result.n_ctx_seq > model.n_ctx_train:
        found.append(
            f"{result.n_ctx_seq:,} tokens a slot are more than the model was trained for"
            f" ({model.n_ctx_train:,}): expect worse answers"
        )
    return tuple(found)
