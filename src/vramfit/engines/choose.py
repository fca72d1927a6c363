"""A plan for what an engine will really do with several cards, and what that costs.

An engine that is told the split gets the best one. Ollama takes one card as long as it believes that the model
fits there, else all of them in proportion to free memory; LM Studio loads all evenly. For these the split is
given to the solver, which then finds the context that it carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..context import CONTEXT_STEP
from ..estimates import estimate
from ..gpus import Gpu
from ..model import Model
from ..placement import devices
from ..settings import Settings
from ..solve import DEFAULT_MARGIN, Plan
from ..solve import plan as solve
from . import ollama
from .settings import as_run
from .table import Engine, find

__all__ = ["own_split", "plan_for"]


def plan_for(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    engine: str | Engine,
    *,
    margin_bytes: int = DEFAULT_MARGIN,
    max_ctx: int | None = None,
) -> Plan:
    """The largest context that `engine` carries with `settings`; a warning says what its own split costs.

    Raises what `plan` raises, and `SettingsError` for settings that the engine cannot be told.
    """
    chosen = find(engine)
    settings = as_run(settings, chosen)
    best = solve(model, gpus, settings, margin_bytes=margin_bytes, max_ctx=max_ctx)
    free = len(devices(gpus, settings)) > 1 and not any(settings.tensor_split)
    if chosen.split == "told" or not free:
        return best
    tried = _own_splits(model, gpus, settings, chosen, best)
    plans = [
        solve(
            model,
            gpus,
            s,
            margin_bytes=margin_bytes,
            max_ctx=limit if max_ctx is None else min(limit, max_ctx),
        )
        for s, limit in tried
    ]
    own = _reached(plans, [limit for _, limit in tried])
    if own.limited_by == "max_ctx" and own.n_ctx != max_ctx and own.settings.split_mode == "none":
        own = replace(own, limited_by=f"{chosen.title}, which beyond it spreads the model over all cards")
    return replace(own, warnings=(*own.warnings, *_cost(own, best, chosen)))


def _own_splits(
    model: Model, gpus: Sequence[Gpu], settings: Settings, engine: Engine, best: Plan
) -> list[tuple[Settings, int]]:
    """What the engine does, from the largest context down: settings, and the context up to which they hold."""
    top = max(best.n_ctx, model.n_ctx_train * (1 if settings.kv_unified else settings.n_seq_max))
    if engine.split == "even":
        return [(replace(settings, tensor_split=(1.0,) * len(gpus)), top)]
    spread = replace(settings, tensor_split=tuple(float(g.free) for g in gpus))
    step = CONTEXT_STEP * (1 if settings.kv_unified else settings.n_seq_max)
    alone = ollama.largest_on_one_card(model, gpus, step)
    if settings.n_ctx and not ollama.takes_one_card(model, gpus, settings.n_ctx):
        alone = 0
    if not alone:
        return [(spread, top)]
    one = replace(settings, split_mode="none", main_gpu=ollama.best_card(gpus))
    if settings.n_ctx:
        return [(one, top)]
    return [(spread, top), (one, min(top, alone))]


def own_split(plan: Plan, engine: Engine) -> tuple[int, ...]:
    """Layers on each card when `engine` loads the plan's model by itself."""
    if engine.split == "even" and len(devices(plan.gpus, plan.settings)) > 1:
        even = replace(plan.settings, tensor_split=(1.0,) * len(plan.gpus))
        return tuple(g.layers for g in estimate(plan.model, plan.gpus, even).gpus)
    return ollama.by_free_memory(plan)


def _reached(plans: Sequence[Plan], limits: Sequence[int]) -> Plan:
    """The first plan whose context is one at which the engine would do that; else the last."""
    for plan, below in zip(plans, limits[1:], strict=False):
        if plan.fits and plan.n_ctx > below:
            return plan
    return plans[-1]


def _cost(own: Plan, best: Plan, engine: Engine) -> tuple[str, ...]:
    """What the engine's own split costs against the best one, and how it can be told, in a sentence."""
    doing = {
        "even": "splits the layers evenly",
        "free": "splits the layers by free memory",
    }[engine.split]
    if own.settings.split_mode == "none":
        doing = f"takes {own.gpus[own.settings.main_gpu].name} alone"
    if not best.fits or (own.fits and own.n_ctx >= best.n_ctx):
        return (f"{engine.title} {doing}; the plan counts on that",)
    split = ",".join(map(str, best.tensor_split))
    here = f"against {own.n_ctx:,}" if own.fits else "and do not with its own"
    gain = f"{best.n_ctx:,} tokens fit with the split {split}, {here}"
    how = (
        f"; LLAMA_ARG_TENSOR_SPLIT={split} and OLLAMA_SCHED_SPREAD=1 in the server's environment, or --tensor-split"
        " here, make it so"
        if engine.name == "ollama"
        else "; it cannot be told another"
    )
    return (f"{engine.title} {doing}: {gain}{how}",)
