"""Plan for what an engine will really do with several cards, and say what that costs.

An engine that is told the split gets the best one. Ollama takes one card as long as it believes that the model
fits there, else all of them in proportion to free memory; LM Studio loads all evenly. For these the split is
given to the solver, which then finds the largest context that fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .._coerce import AnyGpus, AnyHost, AnyModel, AnySettings, cards, host_of, margin, model_of, settings_of
from .._coerce import max_ctx as limit
from .._devices import Gpu, Host
from .._estimate.estimate import estimate
from .._llama.cparams import context_step, trained_ctx
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import devices, split_is_given
from .._planner.plan import DEFAULT_MARGIN, MAX_CTX, Plan
from .._planner.plan import plan as solve
from .._planner.segments import Learned
from .._planner.warnings import context_warnings
from . import ollama
from .settings import as_run, check_machines, engine_settings
from .table import Engine, named

__all__ = ["own_split", "plan_for"]


def plan_for(
    model: AnyModel,
    gpus: AnyGpus,
    settings: AnySettings,
    engine: str | Engine,
    *,
    margin_bytes: int | str = DEFAULT_MARGIN,
    max_ctx: int | None = None,
    compare: bool = True,
    learned: Learned | None = None,
    host: AnyHost = None,
) -> Plan:
    """Find the largest context that fits in `engine` with `settings`; a warning says what its own split costs.

    `compare=False` leaves that warning out, and the search for the best split that it takes.
    `learned` and `host` are as in `plan`.

    Raises what `plan` raises, `SettingsError` for settings that the engine cannot be told, and `GpuError` for a card under a
    backend that it lacks.
    """
    chosen, build = named(engine)
    model, gpus = model_of(model), cards(gpus)
    chosen.check_backends(gpus)
    check_machines(gpus, chosen)
    settings = engine_settings(engine, settings) if isinstance(settings, Mapping) else settings_of(settings)
    build = build or str(chosen.defaults.get("engine_build", ""))
    if build and not settings.engine_build:
        settings = replace(settings, engine_build=build)
    settings = as_run(settings, chosen)
    if chosen.split == "free":
        settings = as_run(ollama.settle(settings, model, gpus), chosen)
    settings, said = _loaded(settings, model, chosen)
    asked = _Asked(
        model,
        gpus,
        chosen,
        margin(margin_bytes),
        limit(max_ctx),
        {} if learned is None else learned,
        host_of(host, gpus),
    )
    if chosen.split == "told" or len(devices(gpus, settings)) < 2 or split_is_given(settings):
        return _saying(asked.solve(settings), said)
    own = asked.solve(_even(settings, gpus)) if chosen.split == "even" else _ollamas(asked, settings)
    own = _saying(own, said)
    if not compare:
        return own
    return replace(own, warnings=(*own.warnings, *_cost(own, asked.solve(settings), chosen)))


def _loaded(settings: Settings, model: Model, engine: Engine) -> tuple[Settings, tuple[str, ...]]:
    """Cut the context to what the engine loads, with a warning where that is not the one asked for.

    Ollama since 0.30 loads no more than the trained length (llm/llama_server.go).
    """
    most = trained_ctx(model, settings)
    if engine.name != "ollama" or not most or settings.n_ctx <= most:
        return settings, ()
    return replace(settings, n_ctx=most), (
        f"{engine.title} loads {model.n_ctx_train:,} tokens a slot: the model was trained for no more",
    )


def _saying(plan: Plan, said: tuple[str, ...]) -> Plan:
    return replace(plan, warnings=(*said, *plan.warnings)) if said else plan


@dataclass(slots=True)
class _Asked:
    """What all plans for one question have in common, and what was learned on the way."""

    model: Model
    gpus: tuple[Gpu, ...]
    engine: Engine
    margin: int
    max_ctx: int | None
    learned: Learned
    host: Host | None = None

    def solve(self, settings: Settings, below: int | None = None) -> Plan:
        """Plan for settings, with no more context than `below`."""
        limits = [n for n in (self.max_ctx, below) if n is not None]
        max_ctx = min(limits, default=None)
        found = solve(
            self.model,
            self.gpus,
            settings,
            margin_bytes=self.margin,
            max_ctx=max_ctx,
            learned=self.learned,
            host=self.host,
        )
        general = context_warnings(self.model, found.estimate.n_ctx_seq)
        if not general or self.engine.name == "llama-server":
            return found
        others = tuple(w for w in found.warnings if w not in general)
        own = context_warnings(self.model, found.estimate.n_ctx_seq, self.engine.name)
        return replace(found, warnings=(*others, *own))


def _even(settings: Settings, gpus: Sequence[Gpu]) -> Settings:
    return replace(settings, tensor_split=(1.0,) * len(gpus))


def _ollamas(asked: _Asked, settings: Settings) -> Plan:
    """Find the largest context at which Ollama does what the plan says: one card up to a context, all beyond."""
    model, gpus = asked.model, asked.gpus
    spread = replace(settings, tensor_split=tuple(float(g.free) for g in gpus))
    one = replace(settings, split_mode="none", main_gpu=ollama.best_card(gpus))
    if settings.n_ctx:
        return asked.solve(one if ollama.takes_one_card(model, gpus, settings.n_ctx) else spread)
    below = ollama.largest_on_one_card(model, gpus, context_step(settings))
    wide = asked.solve(spread)
    if not below or (wide.fits and wide.n_ctx > below):
        return wide
    if asked.max_ctx is None and below >= trained_ctx(model, settings):
        return asked.solve(one)
    alone = asked.solve(one, below)
    if alone.limited_by == MAX_CTX and (asked.max_ctx is None or below < asked.max_ctx):
        return replace(alone, limited_by="Ollama, which beyond it spreads the model over all cards")
    return alone


def own_split(plan: Plan, engine: Engine) -> tuple[int, ...]:
    """Count the layers on each card when `engine` loads the plan's model by itself."""
    if engine.split == "even" and len(devices(plan.gpus, plan.settings)) > 1:
        found = estimate(plan.model, plan.gpus, _even(plan.settings, plan.gpus))
        return tuple(g.layers for g in found.gpus)
    return ollama.by_free_memory(plan)


def _cost(own: Plan, best: Plan, engine: Engine) -> tuple[str, ...]:
    """Say in a sentence what the engine's own split costs against the best one, and how it can be told that."""
    doing = {
        "even": "splits the layers evenly",
        "free": "splits the layers by free memory",
    }[engine.split]
    if own.settings.split_mode == "none":
        doing = f"takes {own.estimate.gpus[own.settings.main_gpu].name} alone"
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
