"""Write the plan of each of several models: at its place beside the others, or why it has none.

In: `Asked`, the models that are loaded, `Placed`. Out: a `Plan`, whose cards have what all others leave free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ..._devices import Gpu, Host, told_apart
from ..._llama.cparams import trained_ctx
from ..plan import MAX_CTX, REQUEST, TRAINED, Plan, plan
from ..question import chosen
from ..search import Split
from .asked import Asked, Placed
from .spots import Spot

__all__ = ["WISH", "plan_at_its_place", "plan_left_out"]

WISH: Final = "its wish"  # what `limited_by` may say of a tenant's plan, beside what it says of one model


def _free(asked: Asked, loaded: Sequence[int], placed: Placed | None, without: int) -> tuple[list[int], int]:
    """Bytes of each card, and of the host, that are free beside all models but one, and beside their processes."""
    n = len(loaded) + (without not in loaded)
    free = [g.free - more for g, more in zip(asked.gpus, asked.extra(n), strict=True)]
    host = asked.host.free if asked.host else 0
    if placed is None:
        return free, host
    for i, n_ctx, (spot, split) in zip(loaded, *placed, strict=True):
        if i == without:
            continue
        for card, size in zip(spot.cards, spot.learn(split, n_ctx), strict=True):
            free[card] -= size
        host -= spot.held(split, n_ctx) if asked.host else 0
    return free, host


def _left(
    asked: Asked, loaded: Sequence[int], placed: Placed | None, without: int
) -> tuple[list[Gpu], Host | None]:
    """The machine as one model finds it, when all others are loaded."""
    free, host = _free(asked, loaded, placed, without)
    gpus = [
        replace(g, name=name, free_bytes=min(g.free, max(1, n)))  # a card is called as it is among all
        for g, n, name in zip(asked.gpus, free, told_apart(asked.gpus), strict=True)
    ]
    return gpus, asked.host and replace(asked.host, free_bytes=max(0, host))


def plan_at_its_place(asked: Asked, loaded: Sequence[int], placed: Placed, i: int) -> Plan:
    """Plan a model at its place and context, beside the others."""
    at = loaded.index(i)
    (spot, split), n_ctx = placed.placement[at], placed.contexts[at]
    gpus, host = _left(asked, loaded, placed, i)
    own, q = [gpus[c] for c in spot.cards], spot.question
    told = chosen(q, n_ctx, split)
    told = replace(
        told, n_batch=asked.tenants[i].settings.n_batch, n_ubatch=asked.tenants[i].settings.n_ubatch
    )
    found = plan(q.model, own, told, margin_bytes=asked.margin, host=host, learned=asked.learned[i])
    return replace(found, limited_by=_limit(asked, spot, split, found, i))


def _limit(asked: Asked, spot: Spot, split: Split, found: Plan, i: int) -> str:
    """Name what keeps a model's context from being larger."""
    tenant, n_ctx = asked.tenants[i], found.settings.n_ctx
    if not found.fits:
        return found.limited_by
    if tenant.settings.n_ctx:
        return REQUEST
    if n_ctx >= asked.candidates[i][-1]:
        if tenant.wish and tenant.wish <= (asked.max_ctx or tenant.wish):
            return WISH
        return (
            TRAINED
            if asked.max_ctx is None or asked.max_ctx >= trained_ctx(tenant.model, tenant.settings)
            else MAX_CTX
        )
    sizes = spot.learn(split, n_ctx + asked.candidates[i].step)
    cards = found.estimate.gpus
    spare = [(d.free_bytes - size, d.name) for d, size in zip(cards, sizes, strict=True) if size]
    room, worst = min(spare, default=(0, found.estimate.host.name))
    return worst if room < asked.margin or asked.host is None else found.estimate.host.name


def plan_left_out(asked: Asked, loaded: Sequence[int], least: Placed | None, i: int) -> Plan:
    """Plan a model that does not fit beside those that are loaded, with the least context for all of them."""
    gpus, host = _left(asked, loaded, least, i)
    tenant = asked.tenants[i]
    told = replace(tenant.settings, n_ctx=asked.candidates[i][0])
    found = plan(tenant.model, gpus, told, margin_bytes=asked.margin, host=host)
    shortfall, card = _pushed_out(asked, loaded, least, i)
    return replace(found, fits=False, limited_by=card, shortfall=shortfall) if found.fits and card else found


def _pushed_out(asked: Asked, loaded: Sequence[int], least: Placed | None, i: int) -> tuple[int, str]:
    """The card on which others lack most when the process of one more model is there, by bytes; "": on none."""
    free, _ = _free(asked, loaded, least, i)
    before = [g.free - n for g, n in zip(asked.gpus, asked.extra(len(loaded) + 1), strict=True)]
    names = told_apart(asked.gpus)
    short = [
        (asked.margin - n, name)
        for n, had, name in zip(free, before, names, strict=True)
        if n < had and n < asked.margin
    ]
    return max(short, default=(0, ""))
