"""Find which context a model would have to come down to, so that another finds room beside it.

In: a `Plan` or a `SharedPlan`, and what the next model needs: bytes on one card, or a `Tenant`. Out: `GivesUp`. Bytes are taken
away from the free memory of a card and the plan is made again, for each card; nothing is estimated, and the split may move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

from .._base.errors import EngineRefusal, SettingsError
from .._base.units import GIB
from .._coerce import margin, shown
from .._devices import told_apart
from .._llama.params import Settings
from .._llama.speculation import predicts
from .left import Left, leaves
from .plan import Plan
from .plan import plan as solve
from .segments import Learned
from .shared import SharedPlan, Tenant, plan_shared
from .warnings import process_bytes

__all__ = ["GivesUp", "gives_up", "next_size"]


@dataclass(frozen=True, slots=True)
class GivesUp:
    """The largest context of a model (`n_ctx`, tokens of all slots together) that leaves room for another, and the `plan` with it.

    `tensor_split` is its layers on each of the cards of the plan that was asked about.
    `size` is what the other takes, in bytes: on `card`, and on no other; or, where it is a model that was named (`beside`, at
    `beside_ctx` tokens), on all cards together. `proved` says that no longer context does; of a draft whose layers are divided
    as the model's are, and where the engine refuses a split, that is not known.
    """

    n_ctx: int
    size: int
    card: str
    tensor_split: tuple[int, ...]
    plan: Plan = field(repr=False)
    beside: str = ""
    beside_ctx: int = 0
    proved: bool = True


@overload
def gives_up(plan: Plan, needs: int | str | Tenant, *, learned: Learned | None = ...) -> GivesUp | None: ...


@overload
def gives_up(
    plan: SharedPlan, needs: int | str, *, learned: Learned | None = ...
) -> tuple[GivesUp | None, ...]: ...


def gives_up(
    plan: Plan | SharedPlan, needs: int | str | Tenant, *, learned: Learned | None = None
) -> GivesUp | tuple[GivesUp | None, ...] | None:
    """Find the largest context that leaves room for what a next model `needs`, never above the plan's own; None where none does.

    `needs` is bytes, or a size such as "4GiB", on one card that the next model's process sees alone (`--device`): whichever card
    allows the longest context. How a model that is spread over cards would take them depends on the model: give it as a `Tenant`
    whose settings fix its context, and its layers are placed as `plan` places those of several models.
    Of a `SharedPlan` the answer has a place for each model: what it would come down to by itself, on the cards that it has,
    while all others keep theirs. `learned` is as in `plan`, an empty dict that questions about one plan share.

    A context that was fixed is kept where that leaves enough, else the largest is found. A plan that does not fit has no answer.
    Raises `SettingsError` for a size or a plan that makes no sense, and what `plan` raises.
    """
    if isinstance(plan, SharedPlan):
        if isinstance(needs, Tenant):
            raise SettingsError(f"needs={needs.name}: give plan() all models at once, or a size here")
        size, places = margin(needs, "needs"), _places(plan)
        known: Learned = {} if learned is None else learned
        return tuple(
            _tenant_gives(plan, i, size, places, known.setdefault(i, {})) for i in range(len(plan.tenants))
        )
    if not isinstance(plan, Plan):
        raise SettingsError(
            f"plan={shown(plan)}: give a Plan or a SharedPlan, as `vramfit.plan` returns them"
        )
    if not plan.fits:
        return None
    if isinstance(needs, Tenant):
        return _beside(plan, needs)
    size = margin(needs, "needs")
    return _kept(plan, size, _places(plan)) or _longest(plan, size, {} if learned is None else learned)


def next_size(plan: Plan | SharedPlan) -> int:
    """Return the smallest of 1, 2, 4, 8, ... GiB that a plan does not leave on any card."""
    most, size = max((left.n_bytes for left in _places(plan)), default=0), GIB
    while size <= most:
        size *= 2
    return size


def _places(plan: Plan | SharedPlan) -> tuple[Left, ...]:
    """What is left on each place for the next model: the cards, or without one the host."""
    return leaves(plan)[: len(plan.gpus) or 1]


def _kept(plan: Plan, size: int, places: Sequence[Left]) -> GivesUp | None:
    """Return the plan as it is where it leaves `size` bytes already, on the card that has most."""
    if not size:
        return GivesUp(plan.n_ctx, 0, "", plan.tensor_split, plan)
    most = max(places, key=lambda left: left.n_bytes, default=None)
    if most is None or most.n_bytes < size:
        return None
    return GivesUp(plan.n_ctx, size, most.name, plan.tensor_split, plan)


def _longest(plan: Plan, size: int, learned: Learned) -> GivesUp | None:
    """Find the card on which `size` bytes less leave most context."""
    found: list[GivesUp] = []
    proved = len(plan.gpus) < 2 or (plan.model.company is None and not predicts(plan.asked))  # as `plan` says
    for name, fewer in _with_less(plan, size):
        again, refused = _again(fewer, learned)
        proved = proved and not refused
        if again is not None:
            found.append(GivesUp(again.n_ctx, size, name, again.tensor_split, again))
    best = max(found, key=lambda given: given.n_ctx, default=None)
    return best and replace(best, proved=proved or best.n_ctx == plan.n_ctx)


def _with_less(plan: Plan, size: int) -> Iterator[tuple[str, Plan]]:
    """List the cards that may have so much less memory, and the plan with that to be made again; without a card the host."""
    for i, (name, gpu) in enumerate(zip(told_apart(plan.gpus), plan.gpus, strict=True)):
        free = gpu.free - size - process_bytes(gpu)
        if free < 0:
            continue
        gpus = (*plan.gpus[:i], replace(gpu, free_bytes=free), *plan.gpus[i + 1 :])
        if any(g.free for g in gpus):
            yield name, replace(plan, gpus=gpus)
    if not plan.gpus and plan.host is not None and plan.host.free >= size:
        yield (
            plan.estimate.host.name,
            replace(plan, host=replace(plan.host, free_bytes=plan.host.free - size)),
        )


def _again(plan: Plan, learned: Learned) -> tuple[Plan | None, bool]:
    """Make a plan again for the memory that it has now, no longer than it was; and whether the engine refused a split that was found."""
    refused = False
    for settings, most in _questions(plan):
        try:
            found = solve(
                plan.model, plan.gpus, settings, margin_bytes=plan.margin_bytes, max_ctx=most, host=plan.host,
                learned=learned,
            )  # fmt: skip
        except EngineRefusal:  # of a buffer above a card's limit
            refused = True
            continue
        if found.fits and found.n_ctx <= plan.n_ctx:
            return found, refused
    return None, refused


def _questions(plan: Plan) -> Iterator[tuple[Settings, int | None]]:
    """What to ask about less memory: whether a context that was fixed fits, then for the longest up to the plan's own."""
    if plan.asked.n_ctx:
        yield plan.asked, None
    yield replace(plan.asked, n_ctx=0), plan.settings.n_ctx


def _tenant_gives(
    shared: SharedPlan, at: int, size: int, places: Sequence[Left], learned: Learned
) -> GivesUp | None:
    """Find what one of several models would come down to, in the memory that the others leave."""
    if at not in shared.loaded:
        return None
    own, asked = shared.plans[at], shared.tenants[at].settings
    if (kept := _kept(own, size, places)) is not None:
        return replace(kept, tensor_split=_spread(shared, at, own))
    split = own.asked.tensor_split if asked.tensor_split else ()  # what the solver chose may move
    alone = replace(
        own,
        asked=replace(own.asked, n_ctx=asked.n_ctx, tensor_split=split),
        gpus=tuple(
            replace(shared.gpus[i], free_bytes=_beside_others(shared, at, i)) for i in shared.cards[at]
        ),
        host=shared.host and replace(shared.host, free_bytes=_beside_others(shared, at, -1)),
    )
    found = _longest(alone, size, learned)
    if found is None or not alone.gpus:
        return found
    card = told_apart(shared.gpus)[shared.cards[at][told_apart(alone.gpus).index(found.card)]]
    return replace(found, card=card, tensor_split=_spread(shared, at, found.plan))


def _spread(shared: SharedPlan, at: int, plan: Plan) -> tuple[int, ...]:
    """Count the layers of one of several models on each of all cards."""
    layers = dict(zip(shared.cards[at], plan.tensor_split, strict=True))
    return tuple(layers.get(i, 0) for i in range(len(shared.gpus)))


def _beside_others(shared: SharedPlan, at: int, place: int) -> int:
    """Count the bytes of a card, or of the host (-1), that all models but one leave free."""
    device = shared.devices[place]
    return max(0, device.left + device.taken[at])


def _beside(plan: Plan, other: Tenant) -> GivesUp | None:
    """Find the longest context beside a model whose context is fixed, wherever the layers of both lie."""
    if not other.settings.n_ctx:
        raise SettingsError(f"{other.name}: give settings with n_ctx, the context that it is to have")
    for settings, most in _questions(plan):
        mine = Tenant(plan.model, settings, most or 0)
        shared = plan_shared(
            [other, mine], plan.gpus, margin_bytes=plan.margin_bytes, host=plan.host, objective="order"
        )
        if shared.fits:
            theirs, own = shared.plans
            size = sum(d.total + d.beside for d in theirs.estimate.gpus)
            split = _spread(shared, 1, own)
            return GivesUp(own.n_ctx, size, "", split, own, other.name, theirs.n_ctx, shared.proved)
    return None
