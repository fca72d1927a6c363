"""A `Plan` as a table and as JSON."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from ..estimates import DeviceEstimate, Estimate
from ..gpus import told_apart
from ..model import Model
from ..safety import overheads, rope_sentence
from ..solve import Plan
from ..units import format_bytes, format_mib
from .safety import notes
from .tables import render_table

if TYPE_CHECKING:
    from ..alternatives import Alternative, Alternatives
    from .schema import PlanJson

__all__ = ["model_name", "plan_as_schema", "plan_json", "plan_text", "settings_line", "title", "verdict"]


def plan_text(plan: Plan) -> str:
    """The cards side by side, the context, what limits it and the settings used."""
    parts = [title(plan), device_table(plan.estimate), verdict(plan), settings_line(plan)]
    parts += notes(plan)
    parts += [f"Warning: {w}" for w in plan.warnings]
    if not plan.estimate.exact:
        parts.append(f"Compute buffers are an upper bound, not exact: {plan.estimate.compute_note}.")
    return "\n\n".join(parts)


def model_name(model: Model) -> str:
    """What to call a model: its own name, else its file's."""
    return model.name or PurePath(model.source).stem or "unnamed model"


def title(plan: Plan) -> str:
    """The model in one line."""
    model = plan.model
    known = [model_name(model), model.architecture, model.file_type]
    known.append(format_bytes(model.tensor_bytes))
    known.append(f"trained for {model.n_ctx_train:,} tokens")
    return " · ".join(k for k in known if k)


def device_table(estimate: Estimate) -> str:
    """Devices as columns, the engine's three terms as rows, in MiB."""
    devices = [*estimate.gpus, estimate.host]
    rows: list[list[str]] = [["layers", *(str(d.layers) for d in devices)]]
    for name, attribute in (
        ("weights", "model"),
        ("context", "context"),
        ("compute", "compute"),
        ("total", "total"),
    ):
        rows.append([name, *(format_mib(getattr(d, attribute)) for d in devices)])
    rows.append(["free", *(format_mib(d.free_bytes) for d in estimate.gpus), ""])
    rows.append(["left", *(_left(d) for d in estimate.gpus), ""])
    return render_table(["MiB", *(d.name for d in devices)], rows)


def _left(device: DeviceEstimate) -> str:
    return format_mib(device.left)


def verdict(plan: Plan) -> str:
    """Whether it fits, and what limits it."""
    slots = plan.settings.n_seq_max
    share = (
        f"shared by {slots}"
        if plan.settings.kv_unified
        else f"{plan.estimate.n_ctx_seq:,} for each of {slots}"
    )
    each = f" ({share} slots)" if slots > 1 else ""
    margin = format_bytes(plan.margin_bytes)
    if not plan.fits:
        return (
            f"Context {plan.n_ctx:,} tokens{each} does not fit: {plan.limited_by} is short of"
            f" {format_bytes(plan.shortfall)} (with {margin} to be left on every card)."
        )
    used = any(d.total for d in plan.estimate.gpus)
    left = f" with at least {margin} left on every card" if used else " on the host"
    return f"Context {plan.n_ctx:,} tokens{each} fits{left}; limited by {plan.limited_by}."


def settings_line(plan: Plan) -> str:
    """The settings that a reader would want to know."""
    s = plan.settings
    words = [
        f"flash attention {s.flash_attn}"
        + (f" ({_on(plan.estimate.flash_attn)})" if s.flash_attn == "auto" else ""),
        f"cache {s.type_k}/{s.type_v}",
        f"batch {s.n_batch}/{s.n_ubatch}",
        f"slots {s.n_seq_max}",
    ]
    if len(plan.tensor_split) > 1:
        words.append("--tensor-split " + ",".join(map(str, plan.tensor_split)))
    return "Settings: " + ", ".join(words)


def _on(value: bool) -> str:
    return "on" if value else "off"


def plan_json(
    plan: Plan,
    engine: str | None = None,
    *,
    prefer: str | None = None,
    changed: Alternative | None = None,
    alternatives: Alternatives | None = None,
) -> str:
    """The JSON object of `vramfit plan --json` (see docs/json.md); of an engine, with what to run there.

    `changed` is what `prefer` made of the settings.
    """
    from .alternatives import alternative_as_schema  # the text of a plan starts without it

    rows = None if alternatives is None else [alternative_as_schema(row) for row in alternatives.rows]
    found = plan_as_schema(plan).model_copy(
        update={
            "prefer": prefer,
            "changed": None if changed is None else alternative_as_schema(changed),
            "alternatives": rows,
        }
    )
    if engine is not None and plan.fits:
        text = plan.modelfile(engine) if engine.startswith("ollama") else None
        found = found.model_copy(
            update={"engine": engine, "command": plan.command(engine), "modelfile": text}
        )
    return found.model_dump_json(indent=2)


def plan_as_schema(plan: Plan) -> PlanJson:
    """The pydantic object behind `plan_json`."""
    from .schema import DeviceJson, OverheadJson, PlanJson, settings_json

    def device(d: DeviceEstimate) -> DeviceJson:
        return DeviceJson(
            name=d.name, layers=d.layers, model=d.model, context=d.context, compute=d.compute,
            total=d.total, free=d.free_bytes or None, left=d.left if d.free_bytes else None,
            compute_exact=d.compute_exact,
        )  # fmt: skip

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
        gpus=[device(d) for d in plan.estimate.gpus],
        host=device(plan.estimate.host),
        settings=settings_json(plan.settings),
        flash_attn=plan.estimate.flash_attn,
        exact=plan.estimate.exact,
        compute_note=plan.estimate.compute_note,
        warnings=list(plan.warnings),
        reach=rope_sentence(plan.model),
        overheads=[
            OverheadJson(gpu=card, name=o.name, n_bytes=o.n_bytes, counted=o.counted, why=o.why)
            for card, gpu in zip(told_apart(plan.gpus), plan.gpus, strict=True)
            for o in overheads(gpu)
        ],
    )
