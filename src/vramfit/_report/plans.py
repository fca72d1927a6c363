"""Write a `Plan` as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from .._base.foreign import printable
from .._base.units import format_bytes, format_mib
from .._devices import told_apart
from .._estimate.estimate import DeviceEstimate, Estimate
from .._llama.model import Model
from .._planner.bounds import speed_of
from .._planner.older import era_title, older_needs
from .._planner.plan import Plan
from .._planner.warnings import overheads, rope_sentence
from .left import leaves_sentence, left_as_schema
from .look import PLAIN, Look, Marked
from .safety import notes
from .speeds import speed_as_schema, speed_sentence
from .tables import fits, render_table

if TYPE_CHECKING:
    from .._estimate.company import Companion
    from .._planner.shared import SharedPlan
    from .._planner.shared.nouns import SharedDevice
    from .schema import CompanyJson, DeviceJson, EstimateJson, PlanJson

__all__ = [
    "adapter_notes",
    "company_notes",
    "device_rows",
    "device_table",
    "estimate_answer",
    "estimate_as_schema",
    "estimate_text",
    "is_short",
    "left_words",
    "model_facts",
    "model_name",
    "plan_as_schema",
    "plan_text",
    "settings_line",
    "settings_words",
    "title",
    "to_be_left_on",
    "verdict",
]

SHARED: Final = (
    "host, as well"  # rows of a table: what the host takes of a card's memory that is the system's
)
LOCKED: Final = "locked"
UNREAD: Final = "not held"
NAME: Final = 200  # characters of a model's name


def plan_text(plan: Plan, look: Look = PLAIN, host_bandwidth_gbs: float | None = None) -> str:
    """Show the answer, the cards side by side, the settings used, and what else there is to know."""
    parts = [
        look.paragraph(verdict(plan), "good" if plan.fits else "bad"),
        look.paragraph(title(plan)),
        device_table(plan.estimate, plan.margin_bytes, look),
        look.paragraph(settings_line(plan)),
    ]
    if any(g.remote for g in plan.gpus):
        from .machines import machines_text

        parts.append(machines_text(plan, look))
    parts += [look.paragraph(note) for note in notes(plan)]
    if left := leaves_sentence(plan):
        parts.append(look.paragraph(left))
    if plan.fits:
        parts.append(look.paragraph(speed_sentence(speed_of(plan, host_bandwidth_gbs))))
    parts += [look.paragraph(f"Warning: {w}", "warn") for w in plan.warnings]
    if plan.estimate.exact and any(g.backend != "cuda" for g in plan.gpus):
        parts.append(look.paragraph(f"Exact. What the rules were checked against: {plan.estimate.proof}."))
    parts += [look.paragraph(note) for note in (*company_notes(plan.estimate), *adapter_notes(plan.model))]
    if not plan.estimate.compute_exact:
        note = f"Compute buffers are an upper bound, not exact: {plan.estimate.compute_note}."
        parts.append(look.paragraph(note))
    return "\n\n".join(parts)


def company_notes(estimate: Estimate) -> list[str]:
    """What is loaded beside the model, a sentence each, and whether its bytes are exact."""
    return [
        f"Beside the model: {c.kind} {printable(c.name, NAME)}, {format_bytes(c.total)}"
        + ("." if c.exact else f"; not exact: {c.note}.")
        for c in estimate.company
    ]


def adapter_notes(model: Model) -> list[str]:
    """Which adapters are among the weights, in a sentence."""
    if model.company is None:
        return []
    from .._company import company_of

    company = company_of(model)
    n_bytes = sum(w.tensor.n_bytes for w in model.weights if w.beside is not None)
    names = ", ".join(printable(PurePath(a.source).name, NAME) for a in company.adapters)
    vectors = ", ".join(printable(PurePath(v.source).name, NAME) for v in company.control_vectors)
    said = [f"Among the weights: adapter {names}, {format_bytes(n_bytes)}."] if names else []
    return said + ([f"Among the weights: control vector {vectors}."] if vectors else [])


def model_name(model: Model) -> str:
    """Name a model on a screen: its own name, else its file's."""
    return printable(model.name or PurePath(model.source).stem or "unnamed model", NAME)


def title(plan: Plan) -> str:
    """Describe the model in one line."""
    return f"{model_name(plan.model)} · {model_facts(plan.model)}"


def model_facts(model: Model) -> str:
    """Describe a model that was named: architecture, file type, size, trained length."""
    known = [model.architecture, model.file_type, format_bytes(model.tensor_bytes)]
    known.append(f"trained for {model.n_ctx_train:,} tokens")
    return " · ".join(printable(k) for k in known if k)


def estimate_text(estimate: Estimate, look: Look = PLAIN) -> str:
    """Show the context, and the devices side by side."""
    answer = look.paragraph(estimate_answer(estimate), "good" if estimate.fits else "bad")
    said = f"Counted by the rules of llama.cpp {era_title(estimate.settings.engine_build)}."
    return "\n\n".join((answer, device_table(estimate, 0, look), look.paragraph(said)))


def estimate_answer(estimate: Estimate) -> str:
    """Whether the context fits, with no margin asked for."""
    slot = f" ({estimate.n_ctx_seq:,} a slot)" if estimate.n_ctx_seq != estimate.n_ctx else ""
    fits = "fits" if estimate.fits else "does not fit"
    return f"Context {estimate.n_ctx:,} tokens{slot} {fits}; no margin is counted."


def device_table(estimate: Estimate, margin: int, look: Look = PLAIN) -> str:
    """Show devices as columns and the engine's terms as rows, in MiB; turned round where the screen is too narrow."""
    table = device_rows(estimate, margin)
    if not fits(table[0], table[1:], look):
        table = [list(column) for column in zip(*table, strict=True)]
    return render_table(table[0], table[1:], look=look)


def device_rows(estimate: Estimate, margin: int) -> list[list[str]]:
    """List the numbers of every device in MiB, under their names; what is left is marked where it is below the margin."""
    devices = [*estimate.gpus, estimate.host]
    terms = (("weights", "model"), ("context", "context"), ("compute", "compute"))
    company = [[c.kind, *(format_mib(t.total) for t in (*c.gpus, c.host))] for c in estimate.company]
    return [
        ["MiB", *(d.name for d in devices)],
        ["layers", *(str(d.layers) for d in devices)],
        *([name, *(format_mib(getattr(d, field)) for d in devices)] for name, field in terms),
        *company,
        ["total", *(format_mib(d.total) for d in devices)],
        *_beside(devices),
        ["free", *(format_mib(d.free_bytes) if d.total_bytes else "" for d in devices)],
        ["left", *(_left(d, margin) if d.total_bytes else "" for d in devices)],
    ]


def _beside(devices: Sequence[DeviceEstimate]) -> list[list[str]]:
    """The rows of what counts against a memory beside its own terms: the host's on a card, what is locked on the host."""
    *cards, host = devices
    rows = []
    if any(d.beside for d in cards):
        rows.append([SHARED, *(format_mib(d.beside) if d.beside else "" for d in cards), ""])
    if host.beside and host.total_bytes:
        rows.append([LOCKED if host.beside > 0 else UNREAD, *[""] * len(cards), format_mib(host.beside)])
    return rows


def _left(device: DeviceEstimate, margin: int) -> str:
    return Marked(format_mib(device.left), "bad" if is_short(device, margin) else "")


def is_short(device: DeviceEstimate | SharedDevice, margin: int) -> bool:
    """Whether a card that is used, or a host that is known, has less left than the margin."""
    return device.is_judged and device.left < margin


def verdict(plan: Plan) -> str:
    """Whether it fits, and what limits it."""
    slots = plan.settings.n_seq_max
    share = (
        f"shared by {slots}"
        if plan.settings.kv_unified
        else f"{plan.estimate.n_ctx_seq:,} for each of {slots}"
    )
    each = f" ({share} slots)" if slots > 1 else ""
    if not plan.fits:
        return (
            f"Context {plan.n_ctx:,} tokens{each} does not fit: {printable(plan.limited_by)} is short of"
            f" {format_bytes(plan.shortfall)} ({to_be_left_on(plan)})."
        )
    left = left_words(plan, any(d.total for d in plan.estimate.gpus))
    return f"Context {plan.n_ctx:,} tokens{each} fits{left}; limited by {printable(plan.limited_by)}."


def left_words(plan: Plan | SharedPlan, on_cards: bool) -> str:
    """Say what is left where all fits, on cards that are used or on the host."""
    margin = format_bytes(plan.margin_bytes)
    left = f" with at least {margin} left on every card" if on_cards else " on the host"
    if plan.host is not None:
        left += " and the host" if on_cards else f" with at least {margin} left"
    return left


def to_be_left_on(plan: Plan | SharedPlan) -> str:
    """Say what was to be left, and where."""
    cards = "every card" if plan.gpus or plan.host is None else ""
    where = " and ".join(filter(None, (cards, "the host" if plan.host else "")))
    return f"with {format_bytes(plan.margin_bytes)} to be left on {where}"


def settings_line(plan: Plan) -> str:
    """Name the settings that a reader would want to know."""
    words = settings_words(plan)
    if len(plan.tensor_split) > 1:
        words.append("--tensor-split " + ",".join(map(str, plan.tensor_split)))
    return f"Settings (defaults of {plan.settings.defaults}): " + ", ".join(words)


def settings_words(plan: Plan) -> list[str]:
    """Name the settings that say more than where the layers are."""
    s = plan.settings
    words = [
        f"flash attention {s.flash_attn}"
        + (f" ({_on(plan.estimate.flash_attn)})" if s.flash_attn == "auto" else ""),
        f"cache {s.type_k}/{s.type_v}",
        f"batch {s.n_batch}/{s.n_ubatch}",
        f"slots {s.n_seq_max}",
    ]
    if s.load_mode != "auto":
        words.append(f"load mode {s.load_mode}")
    return words


def _on(value: bool) -> str:
    return "on" if value else "off"


def plan_as_schema(plan: Plan, host_bandwidth_gbs: float | None = None) -> PlanJson:
    """Make the pydantic object behind `vramfit plan --json`."""
    from .machines import machines_as_schema
    from .schema import OlderJson, OverheadJson, PlanJson, settings_json

    older, link = older_needs(plan), plan.link()
    return PlanJson(
        model=plan.model.source or plan.model.name,
        architecture=plan.model.architecture,
        n_ctx=plan.n_ctx,
        n_ctx_seq=plan.estimate.n_ctx_seq,
        n_ctx_train=plan.model.n_ctx_train,
        fits=plan.fits,
        limited_by=plan.limited_by,
        shortfall=plan.shortfall,
        margin=plan.margin_bytes,
        tensor_split=list(plan.tensor_split),
        gpus=[_device_as_schema(d) for d in plan.estimate.gpus],
        host=_device_as_schema(plan.estimate.host),
        settings=settings_json(plan.settings),
        flash_attn=plan.estimate.flash_attn,
        company=[_companion_as_schema(c) for c in plan.estimate.company],
        exact=plan.estimate.exact,
        compute_note=plan.estimate.compute_note,
        proof=plan.estimate.proof,
        warnings=list(plan.warnings),
        reach=rope_sentence(plan.model),
        era=era_title(plan.settings.engine_build),
        speed=speed_as_schema(speed_of(plan, host_bandwidth_gbs)) if plan.fits else None,
        older_build=OlderJson(gpu=older.card, n_bytes=older.n_bytes) if older else None,
        overheads=[
            OverheadJson(gpu=card, name=o.name, n_bytes=o.n_bytes, counted=o.counted, why=o.why)
            for card, gpu in zip(told_apart(plan.gpus), plan.gpus, strict=True)
            for o in overheads(gpu)
        ],
        machines=machines_as_schema(plan),
        link_seconds=link.seconds if link else None,
        leaves=left_as_schema(plan),
    )


def estimate_as_schema(estimate: Estimate) -> EstimateJson:
    """Make the pydantic object of an estimate alone."""
    from .schema import EstimateJson, settings_json

    return EstimateJson(
        n_ctx=estimate.n_ctx,
        n_ctx_seq=estimate.n_ctx_seq,
        fits=estimate.fits,
        gpus=[_device_as_schema(d) for d in estimate.gpus],
        host=_device_as_schema(estimate.host),
        settings=settings_json(estimate.settings),
        flash_attn=estimate.flash_attn,
        company=[_companion_as_schema(c) for c in estimate.company],
        exact=estimate.exact,
        compute_note=estimate.compute_note,
        proof=estimate.proof,
        era=era_title(estimate.settings.engine_build),
    )


def _device_as_schema(d: DeviceEstimate) -> DeviceJson:
    from .schema import DeviceJson

    return DeviceJson(
        name=d.name, layers=d.layers, model=d.model, context=d.context, compute=d.compute,
        total=d.total, free=d.free_bytes or None, left=d.left if d.free_bytes else None,
        compute_exact=d.compute_exact, beside=d.beside, mapped=d.mapped, company=d.company,
    )  # fmt: skip


def _companion_as_schema(c: Companion) -> CompanyJson:
    from .schema import CompanyJson, TermsJson

    gpus = [TermsJson(model=t.model, context=t.context, compute=t.compute) for t in (*c.gpus, c.host)]
    return CompanyJson(kind=c.kind, name=c.name, gpus=gpus[:-1], host=gpus[-1], exact=c.exact, note=c.note)
