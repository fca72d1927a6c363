"""Plans of several models, made by hand: what each takes of its cards when those before it are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vramfit._devices import Gpu
from vramfit._llama.params import Settings
from vramfit._planner.plan import Plan, plan
from vramfit._planner.shared import SharedPlan, Tenant

ON = Settings(flash_attn="on", n_outputs_max=1)


def together(
    tenants: Sequence[Tenant], cards: Sequence[Sequence[int]], gpus: Sequence[Gpu], **known: Any
) -> SharedPlan:
    """Plan each model on its cards with what the models before it leave free; `known` are other fields of the answer."""
    host, margin = known.get("host"), known.setdefault("margin_bytes", 1 << 20)
    extra = known.setdefault("processes", (0,) * len(gpus))
    free = [g.free - e for g, e in zip(gpus, extra, strict=True)]
    plans: list[Plan] = []
    for tenant, own in zip(tenants, cards, strict=True):
        seen = [replace(gpus[i], free_bytes=max(0, free[i])) for i in own]
        most = None if tenant.settings.n_ctx else tenant.wished or None
        found = plan(tenant.model, seen, tenant.settings, margin_bytes=margin, max_ctx=most, host=host)
        plans.append(found)
        if found.fits:
            for i, device in zip(own, found.estimate.gpus, strict=True):
                free[i] -= device.total + device.beside
    loaded = tuple(i for i, p in enumerate(plans) if p.fits)
    shares = [
        plans[i].n_ctx / tenants[i].wished / tenants[i].weight
        for i in loaded
        if not tenants[i].settings.n_ctx and tenants[i].wished
    ]
    known = {"objective": "share", "share": min(shares, default=None), "proved": True, **known}
    return SharedPlan(
        tuple(tenants), tuple(plans), tuple(map(tuple, cards)), loaded, gpus=tuple(gpus), **known
    )
