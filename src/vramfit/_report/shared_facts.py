"""What there is to say of several models on one machine: the sentences and rows of tables that text and pages share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .._base.foreign import printable
from .._base.units import format_bytes, format_mib
from .._devices import numbered, told_apart
from .._estimate.estimate import DeviceEstimate
from .._llama.cparams import context_step
from .._planner.plan import MAX_CTX, REQUEST
from .._planner.shared import OBJECTIVES, SharedPlan
from .look import Marked
from .plans import is_short, left_words, to_be_left_on

__all__ = [
    "PROCESSES",
    "device_rows",
    "missing",
    "model_rows",
    "names",
    "on_devices",
    "terms",
    "verdict",
]

PROCESSES: Final = "further processes"
NAME: Final = 60  # characters of a model's name
BRANDS: Final = frozenset({"NVIDIA", "GeForce", "RTX", "GTX", "AMD", "Radeon", "RX", "Intel", "Arc", "Apple"})
OTHERS: Final = "what the others take"


def names(plan: SharedPlan) -> tuple[str, ...]:
    """Name each model on a screen as no other is."""
    return numbered([printable(tenant.name, NAME) for tenant in plan.tenants])


def verdict(plan: SharedPlan) -> str:
    """Whether all fit together, with what left, which share of their wishes they get, and whether more was possible."""
    n, k = len(plan.tenants), len(plan.loaded)
    if not k:
        return f"None of {_models(n)} fits {to_be_left_on(plan)}."
    fit = "fits" if k == 1 else "fit together"
    called = names(plan)
    who = "" if plan.fits else f", {' and '.join(called[t] for t in plan.loaded)},"
    left = left_words(plan, any(d.total for d in plan.devices[:-1]))
    return f"{k} of {_models(n)}{who} {fit}{left}; {_shares(plan)}."


def _proof(plan: SharedPlan) -> str:
    if plan.proved:
        return "and no other placement gives more"
    return f"which is not proved to be the most{': ' if plan.note else ''}{printable(plan.note)}"


def _models(n: int) -> str:
    return "1 model" if n == 1 else f"{n} models"


def _shares(plan: SharedPlan) -> str:
    """Say who gets the smallest part of its wish for a weight of 1, and whether there is more to be had."""
    free = [t for t in plan.loaded if not plan.tenants[t].settings.n_ctx and plan.tenants[t].wished]
    best = f"maximised is {OBJECTIVES[plan.objective]}, {_proof(plan)}"
    if not free and plan.fits:
        return "each context is as asked for"
    if not free:
        return f"each context is as asked for; {best}"
    growing = [t for t in free if not _has_all(plan, t)]  # as of `share`
    if plan.fits and all(plan.plans[t].n_ctx >= plan.tenants[t].wished for t in free):
        return "each gets all the context that it wishes"
    return f"{_least(plan, growing or free)}; {best}"


def _least(plan: SharedPlan, growing: Sequence[int]) -> str:
    least = min(growing, key=lambda t: plan.plans[t].n_ctx / plan.tenants[t].wished / plan.tenants[t].weight)
    weight = plan.tenants[least].weight
    said = f" (weight {weight:g})" if weight != 1 else ""
    return f"the smallest share is {_part(plan, least)} of its wish, of {names(plan)[least]}{said}"


def _part(plan: SharedPlan, tenant: int) -> str:
    """How much of its wish a model gets, in percent, never rounded up."""
    wished = plan.tenants[tenant].wished
    percent = min(100, plan.plans[tenant].n_ctx * 100 // wished) if wished else None
    return "" if percent is None else f"{percent} %" if percent else "under 1 %"


def missing(plan: SharedPlan) -> list[str]:
    """Say of each model that does not fit what it lacks, and where."""
    beside = " beside the others" if plan.loaded else ""
    return [
        f"{name} does not fit{beside}: at {p.n_ctx:,} tokens {_limiting(plan, t)} is short of"
        f" {format_bytes(p.shortfall)} ({to_be_left_on(plan)})."
        for t, (name, p) in enumerate(zip(names(plan), plan.plans, strict=True))
        if t not in plan.loaded
    ]


def model_rows(plan: SharedPlan) -> list[list[str]]:
    """List the models, each with its context, what limits it and where its layers are; a head, then a row for each."""
    slots = any(p.estimate.n_ctx_seq != p.n_ctx for p in plan.plans)
    head = ["model", "context", "a slot", "of wish", "bytes", "limited by", "layers"]
    rows = [[name, *_cells(plan, t)] for t, name in enumerate(names(plan))]
    table = [head, *rows]
    return table if slots else [[cell for i, cell in enumerate(row) if i != 2] for row in table]


def _cells(plan: SharedPlan, tenant: int) -> Iterator[str]:
    p, estimate = plan.plans[tenant], plan.plans[tenant].estimate
    if tenant not in plan.loaded:
        short = f"{_limiting(plan, tenant)}, by {format_bytes(p.shortfall)}"
        yield from (Marked("does not fit", "bad"), "", "", "", Marked(short, "bad"), "")
        return
    yield f"{p.n_ctx:,}"
    yield f"{estimate.n_ctx_seq:,}"
    fixed = plan.tenants[tenant].settings.n_ctx
    yield "" if fixed else _part(plan, tenant)
    yield "exact" if estimate.exact else "bound"
    yield "fixed" if fixed else _limit(plan, tenant)
    cards = _short_names(plan)
    on = [(d, device) for d, device in on_devices(plan, tenant) if device.layers]
    yield " · ".join(f"{cards[d]}: {device.layers}" for d, device in on)


def _limit(plan: SharedPlan, tenant: int) -> str:
    """Say what keeps a context from being longer."""
    p, wished = plan.plans[tenant], plan.tenants[tenant].wished
    if wished and p.n_ctx + context_step(p.settings) > wished:
        return "its wish" if plan.tenants[tenant].wish else "the trained context"
    return OTHERS if p.limited_by == REQUEST else _limiting(plan, tenant)


def _has_all(plan: SharedPlan, tenant: int) -> bool:
    """Whether a model gets its wish, or all that any model may have."""
    p, wished = plan.plans[tenant], plan.tenants[tenant].wished
    return p.n_ctx + context_step(p.settings) > wished or p.limited_by == MAX_CTX


def _limiting(plan: SharedPlan, tenant: int) -> str:
    """Name the device that limits a model as no other is: its own plan knows the cards that it may use alone."""
    p = plan.plans[tenant]
    cards = zip(plan.cards[tenant], p.estimate.gpus, strict=True)
    at = next((card for card, device in cards if device.name == p.limited_by), None)
    return printable(p.limited_by) if at is None else _short_names(plan)[at]


def _short_names(plan: SharedPlan) -> list[str]:
    """Name cards without their brands, then the host."""
    full = told_apart(plan.gpus)
    short = [" ".join(w for w in name.split(" ") if w not in BRANDS) or name for name in full]
    return [printable(name, NAME) for name in (*(short if len(set(short)) == len(full) else full), "host")]


def on_devices(plan: SharedPlan, tenant: int) -> list[tuple[int, DeviceEstimate]]:
    """What a model takes of each device of the plan that it is told of, by the index of `plan.devices`; of none where it does not fit."""
    if tenant not in plan.loaded:
        return []
    estimate = plan.plans[tenant].estimate
    return [*zip(plan.cards[tenant], estimate.gpus, strict=True), (len(plan.gpus), estimate.host)]


def terms(device: DeviceEstimate) -> list[tuple[str, int]]:
    """List the bytes of a model on a device by term; their sum is what it takes of it, without what is read and never held."""
    never = max(0, -device.beside)
    weights = max(0, device.model - never)
    company = device.company - (never - (device.model - weights))
    found = (
        ("weights", weights),
        ("context", device.context),
        ("compute", device.compute),
        ("company", company),
        ("other", max(0, device.beside)),
    )
    return [(name, n_bytes) for name, n_bytes in found if n_bytes > 0]


def device_rows(plan: SharedPlan) -> list[list[str]]:
    """List in MiB what each model takes of each device, and what is left, under the devices' names."""
    devices, called = plan.devices, names(plan)
    further = any(d.processes for d in devices)
    return [
        ["MiB", *(d.name for d in devices)],
        *([called[t], *(format_mib(d.taken[t]) if d.taken[t] else "" for d in devices)] for t in plan.loaded),
        *(
            [[PROCESSES, *(format_mib(d.processes) if d.processes else "" for d in devices)]]
            if further
            else []
        ),
        ["total", *(format_mib(d.total) for d in devices)],
        ["free", *(format_mib(d.free_bytes) if d.total_bytes else "" for d in devices)],
        ["left", *(_left(plan, i) if d.total_bytes else "" for i, d in enumerate(devices))],
    ]


def _left(plan: SharedPlan, device: int) -> str:
    found = plan.devices[device]
    return Marked(format_mib(found.left), "bad" if is_short(found, plan.margin_bytes) else "")
