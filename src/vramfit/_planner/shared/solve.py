"""Find which models fit together, on which cards, each with which context.

In: `Tenant`s, cards, a margin. Out: a `SharedPlan`. First the models that fit together at all, as many as can be; then their
contexts, as the objective has it; then, for these, a place for each with as few cards as can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Final, NamedTuple

from ..._base.errors import EngineRefusal, GpuError, ModelError, SettingsError, shown
from ..._coerce import AUTO, AnyGpus, AnyHost, AnyModel, AnySettings, cards, host_of, margin
from ..._coerce import max_ctx as limit
from ..._devices import Gpu, Host, told_apart
from ..._llama.cparams import physical_batch, trained_ctx
from ..plan import DEFAULT_MARGIN, MAX_CTX, REQUEST, TRAINED, Plan, plan
from ..question import chosen, contexts
from ..search import Split
from ..segments import Learned
from ..warnings import process_bytes
from .goals import furthest, goals
from .nouns import MAX_TENANTS, OBJECTIVES, SharedPlan, Tenant, tenant_of
from .packing import Contexts, Packing, Placement
from .spots import ALL_SETS, Spot, spots

__all__ = ["WISH", "plan_shared"]

WISH: Final = "its wish"  # what `limited_by` may say of a tenant's plan, beside what it says of one model
_UNTRIED: Final = "there are more places for these models than were tried"
_NEIGHBOURS: Final = f"of more than {ALL_SETS} cards, a model was given neighbours only"


def plan_shared(
    models: Sequence[AnyModel | Tenant],
    gpus: AnyGpus = AUTO,
    settings: AnySettings = None,
    *,
    margin_bytes: int | str = DEFAULT_MARGIN,
    max_ctx: int | str | None = None,
    host: AnyHost = None,
    objective: str = "share",
) -> SharedPlan:
    """Find which models fit together on the cards, each in a process of its own, and the contexts that serve `objective` best.

    `settings` are for the models that are no `Tenant`s; none gets more than `max_ctx` tokens (of all slots together). The
    objective is one of `OBJECTIVES`: "share" makes the smallest share of a wish as large as can be, then the contexts of the
    models in their order; "order" those alone. Where not all fit, as many as can be are loaded, the first ones first.
    Raises as `plan` does, `SettingsError` for a model that is given twice, `GpuError` for cards of other machines.
    """
    tenants = _tenants(models, settings)
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise SettingsError(f"objective={shown(objective)}: give one of {', '.join(OBJECTIVES)}")
    if objective == "order" and any(t.weight != 1 for t in tenants):
        raise SettingsError("objective='order' asks for no shares; leave the weights out, or take 'share'")
    found = _on_one_machine(cards(gpus))
    asked = _Asked(
        tenants, [_candidates(t, limit(max_ctx)) for t in tenants], found, host_of(host, found), margin(margin_bytes),
        limit(max_ctx), objective,
    )  # fmt: skip
    return asked.answer()


def _tenants(models: Sequence[AnyModel | Tenant], settings: AnySettings) -> tuple[Tenant, ...]:
    """Take tenants, each with a name of its own. Raises `SettingsError` for one that is given twice, or too many."""
    if not 1 <= len(models) <= MAX_TENANTS:
        raise SettingsError(f"{len(models)} models: give 1 to {MAX_TENANTS}")
    found = list[Tenant]()
    for tenant in (tenant_of(m, settings) for m in models):
        name, number = tenant.name, 1
        for other in found:
            if other.name == tenant.name and _is_same(other, tenant):
                raise SettingsError(
                    f"{tenant.name} is given twice; leave one out, or give each a name of its own if it is to be loaded twice"
                )
        while any(other.name == name for other in found):
            number += 1
            name = f"{tenant.name} #{number}"
        found.append(replace(tenant, name=name))
    return tuple(found)


def _is_same(one: Tenant, other: Tenant) -> bool:
    source = one.model.source
    named = source and not source.startswith("<")
    return source == other.model.source if named else one.model is other.model


def _on_one_machine(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    for gpu in gpus:
        if gpu.remote:
            raise GpuError(
                f"{gpu.host}/{gpu.name}: an rpc-server serves one process at a time, and each model has one of its own;"
                " plan several models for the cards of one machine"
            )
    return gpus


def _candidates(tenant: Tenant, max_ctx: int | None) -> range:
    """List the contexts that a model may get, in tokens of all slots together."""
    limits = [n for n in (tenant.wished, max_ctx) if n]
    if not limits:
        raise SettingsError(f"{tenant.name}: the header names no trained context; give it a wish or an n_ctx")
    return contexts(tenant.model, tenant.settings, min(limits))


class _Placed(NamedTuple):
    """Contexts and a place for each of the models that are loaded."""

    contexts: Contexts
    placement: Placement


@dataclass(slots=True)
class _Asked:
    """What is asked, and what was learned of each model on the way."""

    tenants: tuple[Tenant, ...]
    candidates: Sequence[range]
    gpus: tuple[Gpu, ...]
    host: Host | None
    margin: int
    max_ctx: int | None
    objective: str
    known: dict[int, tuple[Spot, ...]] = field(default_factory=dict)
    learned: dict[int, Learned] = field(default_factory=dict)
    incomplete: bool = False

    def answer(self) -> SharedPlan:
        """Choose the models, their contexts, their places."""
        loaded, least = self._together()
        best = self._best(loaded, least) if least else None
        plans, at = list[Plan](), list[tuple[int, ...]]()
        for i in range(len(self.tenants)):
            if best and i in loaded:
                plans.append(self._plan(loaded, best, i))
                at.append(best.placement[loaded.index(i)][0].cards)
            else:
                plans.append(self._beside(loaded, least, i))
                at.append(tuple(range(len(self.gpus))))
        note = "" if self._has_all(loaded, best) else self._note()
        return SharedPlan(
            self.tenants, tuple(plans), tuple(at), loaded, self.objective, self._share(loaded, plans), not note,
            self.gpus, self.host, self.margin, self._extra(len(loaded)), note,
        )  # fmt: skip

    def _spots(self, i: int) -> tuple[Spot, ...]:
        """The places that a model may have."""
        if i not in self.known:
            tenant = self.tenants[i]
            told = replace(tenant.settings, n_ubatch=physical_batch(tenant.settings))
            own = self.learned.setdefault(i, {})
            self.known[i] = spots(tenant.model, told, self.gpus, self.host, own)
        return self.known[i]

    def _extra(self, n_loaded: int) -> tuple[int, ...]:
        """Bytes of each card that go to processes beyond the first."""
        return tuple(max(0, n_loaded - 1) * process_bytes(g) for g in self.gpus)

    def _packing(self, loaded: Sequence[int]) -> Packing:
        extra = self._extra(len(loaded))
        rooms = [g.free - self.margin - more for g, more in zip(self.gpus, extra, strict=True)]
        host = None if self.host is None else self.host.free - self.margin
        return Packing([self._spots(i) for i in loaded], rooms, host, thorough=len(self.gpus) <= ALL_SETS)

    def _together(self) -> tuple[tuple[int, ...], _Placed | None]:
        """Find the most models that fit together at the least of their contexts, the first ones first."""
        each = [i for i in range(len(self.tenants)) if self._alone(i)]
        for n in range(len(each), 0, -1):
            for some in combinations(each, n):
                found = self._least(some)
                if found is not None:
                    return some, found
        return (), None

    def _alone(self, i: int) -> bool:
        """Whether a model fits by itself. Raises what the engine refuses of it, with its name where there are others."""
        try:
            return self._least((i,)) is not None
        except (EngineRefusal, SettingsError, ModelError) as e:
            if len(self.tenants) > 1:
                e.args = (f"{self.tenants[i].name}: {e.args[0]}", *e.args[1:])
            raise

    def _least(self, loaded: tuple[int, ...]) -> _Placed | None:
        packing = self._packing(loaded)
        least = tuple(self.candidates[i][0] for i in loaded)
        found = packing.carry(least)
        self.incomplete |= found is None and packing.incomplete
        return None if found is None else _Placed(least, found)

    def _best(self, loaded: tuple[int, ...], least: _Placed) -> _Placed:
        """Find the contexts that serve the objective best, and a place for each with as few cards as can be."""
        packing, (wanted, placed) = self._packing(loaded), least
        candidates = [self.candidates[i] for i in loaded]
        worth = [self.tenants[i].wished * self.tenants[i].weight for i in loaded]
        growing = list(range(len(loaded)))
        while growing:
            row = goals(wanted, candidates, worth, growing if self.objective == "share" else growing[:1])
            at, better = furthest(packing, row, 0, placed)
            wanted, placed = row.at(at), better or placed
            done = growing if at + 1 == row.length else [row.raised(at + 1)]
            growing = [i for i in growing if i not in (done if self.objective == "share" else growing[:1])]
        self.incomplete |= packing.incomplete
        return _Placed(wanted, packing.carry(wanted) or placed)

    def _share(self, loaded: Sequence[int], plans: Sequence[Plan]) -> float | None:
        """The smallest share of its wish that a model gets for each part of its weight; 1 where all get what they wish."""
        free = [i for i in loaded if not self.tenants[i].settings.n_ctx]
        if not free:
            return None
        parts = (
            plans[i].settings.n_ctx / self.tenants[i].wished / self.tenants[i].weight
            for i in free
            if plans[i].settings.n_ctx < self.candidates[i][-1]
        )
        return min(parts, default=1.0)

    def _has_all(self, loaded: Sequence[int], best: _Placed | None) -> bool:
        """Whether all models get the longest context that they may have: nothing can be better."""
        most = tuple(own[-1] for own in self.candidates)
        return best is not None and len(loaded) == len(most) and best.contexts == most

    def _note(self) -> str:
        """Say why it is not proved that no other place does better; "" where it is."""
        several = len(self.gpus) > ALL_SETS
        return "; ".join((_UNTRIED,) * self.incomplete + (_NEIGHBOURS,) * several)

    def _free(self, loaded: Sequence[int], placed: _Placed | None, without: int) -> tuple[list[int], int]:
        """Bytes of each card, and of the host, that are free beside all models but one, and beside their processes."""
        n = len(loaded) + (without not in loaded)
        free = [g.free - more for g, more in zip(self.gpus, self._extra(n), strict=True)]
        host = self.host.free if self.host else 0
        if placed is None:
            return free, host
        for i, n_ctx, (spot, split) in zip(loaded, *placed, strict=True):
            if i == without:
                continue
            for card, size in zip(spot.cards, spot.learn(split, n_ctx), strict=True):
                free[card] -= size
            host -= spot.held(split, n_ctx) if self.host else 0
        return free, host

    def _left(
        self, loaded: Sequence[int], placed: _Placed | None, without: int
    ) -> tuple[list[Gpu], Host | None]:
        """The machine as one model finds it, when all others are loaded."""
        free, host = self._free(loaded, placed, without)
        gpus = [
            replace(g, name=name, free_bytes=min(g.free, max(1, n)))  # a card is called as it is among all
            for g, n, name in zip(self.gpus, free, told_apart(self.gpus), strict=True)
        ]
        return gpus, self.host and replace(self.host, free_bytes=max(0, host))

    def _plan(self, loaded: Sequence[int], placed: _Placed, i: int) -> Plan:
        """Plan a model at its place and context, beside the others."""
        at = loaded.index(i)
        (spot, split), n_ctx = placed.placement[at], placed.contexts[at]
        gpus, host = self._left(loaded, placed, i)
        own, q = [gpus[c] for c in spot.cards], spot.question
        told = chosen(q, n_ctx, split)
        told = replace(
            told, n_batch=self.tenants[i].settings.n_batch, n_ubatch=self.tenants[i].settings.n_ubatch
        )
        found = plan(q.model, own, told, margin_bytes=self.margin, host=host, learned=self.learned[i])
        return replace(found, limited_by=self._limit(spot, split, found, i))

    def _limit(self, spot: Spot, split: Split, found: Plan, i: int) -> str:
        """Name what keeps a model's context from being larger."""
        tenant, n_ctx = self.tenants[i], found.settings.n_ctx
        if not found.fits:
            return found.limited_by
        if tenant.settings.n_ctx:
            return REQUEST
        if n_ctx >= self.candidates[i][-1]:
            if tenant.wish and tenant.wish <= (self.max_ctx or tenant.wish):
                return WISH
            return (
                TRAINED
                if self.max_ctx is None or self.max_ctx >= trained_ctx(tenant.model, tenant.settings)
                else MAX_CTX
            )
        sizes = spot.learn(split, n_ctx + self.candidates[i].step)
        cards = found.estimate.gpus
        spare = [(d.free_bytes - size, d.name) for d, size in zip(cards, sizes, strict=True) if size]
        room, worst = min(spare, default=(0, found.estimate.host.name))
        return worst if room < self.margin or self.host is None else found.estimate.host.name

    def _beside(self, loaded: Sequence[int], least: _Placed | None, i: int) -> Plan:
        """Plan a model that does not fit beside those that are loaded, with the least context for all of them."""
        gpus, host = self._left(loaded, least, i)
        tenant = self.tenants[i]
        told = replace(tenant.settings, n_ctx=self.candidates[i][0])
        found = plan(tenant.model, gpus, told, margin_bytes=self.margin, host=host)
        shortfall, card = self._pushed_out(loaded, least, i)
        return (
            replace(found, fits=False, limited_by=card, shortfall=shortfall) if found.fits and card else found
        )

    def _pushed_out(self, loaded: Sequence[int], least: _Placed | None, i: int) -> tuple[int, str]:
        """The card on which others lack most when the process of one more model is there, by bytes; "": on none."""
        free, _ = self._free(loaded, least, i)
        before = [g.free - n for g, n in zip(self.gpus, self._extra(len(loaded) + 1), strict=True)]
        names = told_apart(self.gpus)
        short = [
            (self.margin - n, name)
            for n, had, name in zip(free, before, names, strict=True)
            if n < had and n < self.margin
        ]
        return max(short, default=(0, ""))
