"""Find which models fit together, on which cards, each with which context.

In: `Tenant`s, cards, a margin. Out: a `SharedPlan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..._base.errors import SettingsError, shown
from ..._coerce import AUTO, AnyGpus, AnyHost, AnyModel, AnySettings, cards, host_of, margin
from ..plan import DEFAULT_MARGIN, plan
from .nouns import MAX_TENANTS, OBJECTIVES, SharedPlan, Tenant, tenant_of
from .processes import process_bytes

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

    `settings` and `max_ctx` (tokens of all slots together) are for the models that are no `Tenant`s. The objective is one of
    `OBJECTIVES`: "share" makes the smallest share of a wish as large as can be, then the contexts of the models in
    their order; "order" those alone. Raises as `plan` does.
    """
    tenants = tuple(tenant_of(m, settings) for m in models)
    if not 1 <= len(tenants) <= MAX_TENANTS:
        raise SettingsError(f"{len(tenants)} models: give 1 to {MAX_TENANTS}")
    if objective not in OBJECTIVES:
        raise SettingsError(f"objective={shown(objective)}: give one of {', '.join(OBJECTIVES)}")
    gpus, margin_bytes = cards(gpus), margin(margin_bytes)
    host = host_of(host, gpus)
    extra = tuple((len(tenants) - 1) * process_bytes(g) for g in gpus)
    free = [g.free - e for g, e in zip(gpus, extra, strict=True)]
    plans = []
    for t in tenants:  # first come, first served: to be replaced
        own = [replace(g, free_bytes=max(0, f)) for g, f in zip(gpus, free, strict=True)]
        found = plan(
            t.model,
            own,
            t.settings,
            margin_bytes=margin_bytes,
            max_ctx=None if t.settings.n_ctx else t.wished,
        )
        plans.append(found)
        if found.fits:
            free = [f - d.total - d.beside for f, d in zip(free, found.estimate.gpus, strict=True)]
    loaded = tuple(i for i, p in enumerate(plans) if p.fits)
    shares = [
        plans[i].n_ctx / tenants[i].wished / tenants[i].weight
        for i in loaded
        if not tenants[i].settings.n_ctx
    ]
    return SharedPlan(
        tenants, tuple(plans), tuple(tuple(range(len(gpus))) for _ in tenants), loaded, objective,
        min(shares, default=None), False, tuple(gpus), host, margin_bytes, extra,
        "first come, first served",
    )  # fmt: skip
