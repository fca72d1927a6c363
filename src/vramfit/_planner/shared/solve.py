"""Find which models fit together, on which cards, each with which context.

In: `Tenant`s, cards, a margin. Out: a `SharedPlan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..._base.errors import GpuError, SettingsError, shown
from ..._coerce import AUTO, AnyGpus, AnyHost, AnyModel, AnySettings, cards, host_of, margin
from ..._coerce import max_ctx as limit
from ..._devices import Gpu
from ..plan import DEFAULT_MARGIN, Plan
from ..question import contexts
from .asked import Asked, Placed
from .beside import plan_at_its_place, plan_left_out
from .choose import Choosing
from .nouns import MAX_TENANTS, OBJECTIVES, SharedPlan, Tenant, tenant_of

__all__ = ["plan_shared"]


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
    objective is one of `OBJECTIVES`: "share" makes the smallest share of a wish as large as can be, then that of the models
    which can still grow; "order" the context of each in turn. Where not all fit, as many as can be are loaded, the first ones first.
    Raises as `plan` does, `SettingsError` for a model that is given twice, `GpuError` for cards of other machines.
    """
    tenants = _tenants(models, settings)
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise SettingsError(f"objective={shown(objective)}: give one of {', '.join(OBJECTIVES)}")
    if objective == "order" and any(t.weight != 1 for t in tenants):
        raise SettingsError("objective='order' asks for no shares; leave the weights out, or take 'share'")
    found = _on_one_machine(cards(gpus))
    asked = Asked(
        tenants, [_candidates(t, limit(max_ctx)) for t in tenants], found, host_of(host, found), margin(margin_bytes),
        limit(max_ctx), objective,
    )  # fmt: skip
    return _answer(asked)


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


def _answer(asked: Asked) -> SharedPlan:
    """Choose the models, their contexts, their places, and write a plan for each."""
    choosing = Choosing(asked)
    loaded, least = choosing.together()
    best = choosing.best(loaded, least) if least else None
    plans, at = list[Plan](), list[tuple[int, ...]]()
    for i in range(len(asked.tenants)):
        if best and i in loaded:
            plans.append(plan_at_its_place(asked, loaded, best, i))
            at.append(best.placement[loaded.index(i)][0].cards)
        else:
            plans.append(plan_left_out(asked, loaded, least, i))
            at.append(tuple(range(len(asked.gpus))))
    note = "" if _has_all(asked, loaded, best) else choosing.note()
    return SharedPlan(
        asked.tenants, tuple(plans), tuple(at), loaded, asked.objective, _share(asked, loaded, plans), not note,
        asked.gpus, asked.host, asked.margin, asked.extra(len(loaded)), note,
    )  # fmt: skip


def _share(asked: Asked, loaded: Sequence[int], plans: Sequence[Plan]) -> float | None:
    """The smallest share of its wish that a model gets for each part of its weight; 1 where all get what they wish."""
    free = [i for i in loaded if not asked.tenants[i].settings.n_ctx]
    if not free:
        return None
    parts = (
        plans[i].settings.n_ctx / asked.tenants[i].wished / asked.tenants[i].weight
        for i in free
        if plans[i].settings.n_ctx < asked.candidates[i][-1]
    )
    return min(parts, default=1.0)


def _has_all(asked: Asked, loaded: Sequence[int], best: Placed | None) -> bool:
    """Whether all models get the longest context that they may have: nothing can be better."""
    most = tuple(own[-1] for own in asked.candidates)
    return best is not None and len(loaded) == len(most) and best.contexts == most
