"""Write a `SharedPlan`, several models on one machine, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._planner.shared import SharedPlan
from .left import given_up, left_as_schema, left_text
from .look import PLAIN, Look, mark_of
from .plans import plan_as_schema
from .shared_facts import device_rows, missing, model_rows, verdict
from .shared_notes import shared_notes
from .tables import fits, render_table

if TYPE_CHECKING:
    from .shared_schema import SharedPlanJson, TenantJson

__all__ = ["shared_as_schema", "shared_text"]


def shared_text(plan: SharedPlan, look: Look = PLAIN, host_bandwidth_gbs: float | None = None) -> str:
    """Show the answer, the models, the devices with all of them, and what else there is to know of each and of all."""
    said = shared_notes(plan, host_bandwidth_gbs)
    head, *rows = model_rows(plan)
    parts = [
        look.paragraph(verdict(plan), "good" if plan.fits else "bad"),
        *(look.paragraph(text, "bad") for text in missing(plan)),
        render_table(head, rows, last_left=True, look=look),
        _devices(plan, look),
        *((left_text(plan, look),) if plan.loaded else ()),
        *(look.paragraph(text) for text in said.common),
    ]
    for title, notes in said.models:
        lines = [look.paragraph(title, "strong")]
        lines += [look.paragraph(f"  {text}", mark_of(text)) for text in notes]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _devices(plan: SharedPlan, look: Look) -> str:
    """Show models as rows and devices as columns; turned round where the screen is too narrow."""
    table = device_rows(plan)
    if not fits(table[0], table[1:], look):
        table = [list(column) for column in zip(*table, strict=True)]
    return render_table(table[0], table[1:], look=look)


def shared_as_schema(plan: SharedPlan, host_bandwidth_gbs: float | None = None) -> SharedPlanJson:
    """Make the pydantic object behind `vramfit plan --json` for several models."""
    from .shared_schema import GivenUpJson, SharedDeviceJson, SharedPlanJson

    return SharedPlanJson(
        fits=plan.fits,
        objective=plan.objective,
        share=plan.share,
        proved=plan.proved,
        note=plan.note,
        margin=plan.margin_bytes,
        models=[_tenant(plan, t, host_bandwidth_gbs) for t in range(len(plan.tenants))],
        devices=[
            SharedDeviceJson(
                name=d.name,
                taken=list(d.taken),
                processes=d.processes,
                total=d.total,
                free=d.free_bytes if d.total_bytes else None,
                left=d.left if d.total_bytes else None,
            )
            for d in plan.devices
        ],
        leaves=left_as_schema(plan) if plan.loaded else [],
        gives_up=[GivenUpJson(size=size, n_ctx=contexts) for size, contexts in given_up(plan)],
        warnings=list(plan.warnings),
    )


def _tenant(plan: SharedPlan, at: int, host_bandwidth_gbs: float | None) -> TenantJson:
    from .shared_schema import TenantJson

    tenant, own = plan.tenants[at], plan.plans[at]
    loaded, fixed = at in plan.loaded, tenant.settings.n_ctx > 0
    return TenantJson(
        name=tenant.name,
        loaded=loaded,
        fixed=fixed,
        wish=tenant.wished,
        weight=tenant.weight,
        share=own.n_ctx / tenant.wished if loaded and tenant.wished and not fixed else None,
        cards=list(plan.cards[at]),
        plan=plan_as_schema(own, host_bandwidth_gbs),
    )
