"""Plan for several models in an engine that places each by itself: in their order, each beside those loaded before it.

In: tenants, cards, an engine, an objective. Out: a `SharedPlan`. llama-server and llama-cpp-python are told a placement, and the
best one is the solver's business. Ollama and LM Studio are told contexts alone, so what is searched here is those: the
largest smallest share by halving, then each context in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from .._base.errors import SettingsError, shown
from .._coerce import AnyGpus, AnyHost, AnyModel, cards, host_of, margin
from .._devices import Gpu, Host
from .._llama.cparams import context_step
from .._planner.plan import DEFAULT_MARGIN, Plan
from .._planner.segments import Learned
from .._planner.shared import OBJECTIVES, SharedPlan, Tenant, plan_shared
from .._planner.shared.nouns import MAX_TENANTS
from .._planner.warnings import process_bytes
from . import ollama_sched
from .beside import cards_beside, host_beside, process_counts, sees, taken
from .choose import plan_for
from .settings import as_run, engine_settings
from .several_ollama import check_files
from .table import Engine, named

__all__ = ["shared_for", "tenants_for"]

_HALVINGS: Final = 30  # of a share, or of a context: finer than any has steps
OTHERS: Final = "the other models"  # what `limited_by` may say here


def shared_for(
    models: Sequence[AnyModel | Tenant],
    gpus: AnyGpus,
    engine: str | Engine = "llama-server",
    *,
    margin_bytes: int | str = DEFAULT_MARGIN,
    host: AnyHost = None,
    objective: str = "share",
) -> SharedPlan:
    """Find which models fit together in `engine`, on the cards that it puts them on, and the contexts that serve `objective` best.

    A model that is no `Tenant` has the engine's defaults. For an engine that makes its own splits the models are loaded in their order,
    and each plan's cards have what those before it leave; one that does not fit beside them is left out. Ollama moreover
    evicts what is loaded where it expects a model to need more than 80 % of what is free, and a context at which it would
    do so counts as none that fits. Raises as `plan` does for several models, and `plan_for`.
    """
    chosen, _ = named(engine)
    tenants = tenants_for(models, engine)
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise SettingsError(f"objective={shown(objective)}: give one of {', '.join(OBJECTIVES)}")
    if chosen.split == "told":
        return plan_shared(tenants, gpus, margin_bytes=margin_bytes, host=host, objective=objective)
    if chosen.name.startswith("ollama"):
        check_files(tenants)
    gpus = cards(gpus)
    loads = _Loads(tenants, gpus, chosen, margin(margin_bytes), host_of(host, gpus))
    loaded = loads.find_loaded()
    contexts = loads.most(loaded, objective)
    return _answer(loads, loaded, contexts, objective)


def tenants_for(models: Sequence[AnyModel | Tenant], engine: str | Engine) -> tuple[Tenant, ...]:
    """Take models as an engine's tenants: its defaults where none are given, and what it makes of settings.

    Raises `SettingsError` for what is no list of models, for too many, and for settings that it cannot be told.
    """
    if not isinstance(models, list | tuple):
        raise SettingsError(f"models={shown(models)}: give a list of models or tenants")
    if not 1 <= len(models) <= MAX_TENANTS:
        raise SettingsError(f"{len(models)} models: give 1 to {MAX_TENANTS}")
    chosen, build = named(engine)
    build = build or str(chosen.defaults.get("engine_build", ""))
    return tuple(_tenant(m, engine, chosen, build) for m in models)


def _tenant(value: AnyModel | Tenant, name: str | Engine, engine: Engine, build: str) -> Tenant:
    if not isinstance(value, Tenant):
        return Tenant(value, engine_settings(name))
    settings = value.settings if value.settings.engine_build else replace(value.settings, engine_build=build)
    return Tenant(value.model, as_run(settings, engine), value.wish, value.weight, value.name)


class _Loaded(NamedTuple):
    """Models that were loaded, as far as all of them fit: their indexes, contexts and plans."""

    tenants: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()
    plans: tuple[Plan, ...] = ()


@dataclass(slots=True)
class _Loads:
    """All loads that were tried, so that two that begin alike share their beginning."""

    tenants: tuple[Tenant, ...]
    gpus: tuple[Gpu, ...]
    engine: Engine
    margin: int
    host: Host | None
    tried: dict[tuple[tuple[int, ...], tuple[int, ...]], Plan] = field(default_factory=dict)
    learned: dict[int, Learned] = field(default_factory=dict)

    def beside(self, before: _Loaded, tenant: int, n_ctx: int) -> Plan:
        """Plan for a model at a context, beside those that are loaded before it."""
        key = ((*before.tenants, tenant), (*before.contexts, n_ctx))
        if key not in self.tried:
            asked = self.tenants[tenant]
            self.tried[key] = plan_for(
                asked.model,
                self.left(before),
                replace(asked.settings, n_ctx=n_ctx),
                self.engine,
                margin_bytes=self.margin,
                compare=False,
                learned=self.learned.setdefault(tenant, {}),
                host=host_beside(self.host, before.plans),
            )
        return self.tried[key]

    def left(self, before: _Loaded) -> tuple[Gpu, ...]:
        """Count what the loaded models leave."""
        seen = [sees(p, self.engine) for p in before.plans]
        return cards_beside(self.gpus, [taken(p) for p in before.plans], seen)

    def stays(self, before: _Loaded, plan: Plan) -> bool:
        """Whether the engine loads the model and evicts none of those before it."""
        if not plan.fits or not before.plans or self.engine.name != "ollama":
            return plan.fits
        layers = sum(plan.tensor_split)
        return ollama_sched.has_room(plan.model, plan.gpus, plan.settings, plan.n_ctx, layers)

    def load(self, order: Sequence[int], contexts: Sequence[int]) -> _Loaded | None:
        """Load models one after the other at these contexts; None where one of them does not fit."""
        found = _Loaded()
        for tenant, n_ctx in zip(order, contexts, strict=True):
            plan = self.beside(found, tenant, n_ctx)
            if not self.stays(found, plan):
                return None
            found = _Loaded((*found.tenants, tenant), (*found.contexts, n_ctx), (*found.plans, plan))
        return found

    def find_loaded(self) -> tuple[int, ...]:
        """List the models that fit at the smallest contexts, each beside those before it that do."""
        order: tuple[int, ...] = ()
        for tenant in range(len(self.tenants)):
            if self.load((*order, tenant), [self.least(t) for t in (*order, tenant)]) is not None:
                order = (*order, tenant)
        return order

    def least(self, tenant: int) -> int:
        """Return the smallest context that a model may get."""
        asked = self.tenants[tenant]
        return asked.settings.n_ctx or min(context_step(asked.settings), self.wish(tenant))

    def wish(self, tenant: int) -> int:
        """Return the context that a model would have. Raises `SettingsError` where its header names none."""
        asked = self.tenants[tenant]
        if not asked.wished:
            raise SettingsError(
                f"{asked.name}: the header names no context that it was trained for; give a wish or n_ctx"
            )
        return asked.wished

    def at_share(self, order: Sequence[int], share: float) -> tuple[int, ...]:
        """Return the contexts that give each model this share of its wish, times its weight."""
        return tuple(self._at(t, share * self.tenants[t].weight) for t in order)

    def _at(self, tenant: int, share: float) -> int:
        asked, wish = self.tenants[tenant], self.wish(tenant)
        if asked.settings.n_ctx or share >= 1:
            return wish
        step = context_step(asked.settings)
        return min(wish, max(self.least(tenant), -int(-share * wish // step) * step))

    def most(self, order: tuple[int, ...], objective: str) -> tuple[int, ...]:
        """Find the contexts: the largest smallest share that was found, then each in their order as long as can be."""
        contexts = tuple(map(self.least, order))
        free = [t for t in order if not self.tenants[t].settings.n_ctx]
        if objective == "share" and free:
            full = 1 / min(self.tenants[t].weight for t in free)
            contexts = self._halved(order, contexts, lambda part: self.at_share(order, part * full))
        for at, tenant in enumerate(order):
            if tenant in free:
                contexts = self._halved(order, contexts, self._raised(contexts, at, tenant))
        return contexts

    def _raised(self, contexts: tuple[int, ...], at: int, tenant: int) -> Callable[[float], tuple[int, ...]]:
        step, wish = context_step(self.tenants[tenant].settings), self.wish(tenant)

        def raised(part: float) -> tuple[int, ...]:
            more = wish if part >= 1 else contexts[at] + int(part * (wish - contexts[at])) // step * step
            return (*contexts[:at], max(contexts[at], min(wish, more)), *contexts[at + 1 :])

        return raised

    def _halved(
        self, order: tuple[int, ...], known: tuple[int, ...], at: Callable[[float], tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Find the largest part in 0..1 at which all load, by halving; `known` are contexts that do."""
        if self.load(order, at(1.0)) is not None:
            return at(1.0)
        low, high, best = 0.0, 1.0, known
        for _ in range(_HALVINGS):  # contexts that were tried before cost nothing
            middle = (low + high) / 2
            if self.load(order, at(middle)) is not None:
                low, best = middle, at(middle)
            else:
                high = middle
        return best


def _answer(loads: _Loads, loaded: tuple[int, ...], contexts: tuple[int, ...], objective: str) -> SharedPlan:
    found = loads.load(loaded, contexts)
    assert found is not None
    by_tenant = {t: _limited(loads, t, p) for t, p in zip(found.tenants, found.plans, strict=True)}
    plans = [by_tenant.get(t) or loads.beside(found, t, loads.least(t)) for t in range(len(loads.tenants))]
    seen = [sees(p, loads.engine) for p in found.plans]
    free = {t: p for t, p in by_tenant.items() if not loads.tenants[t].settings.n_ctx}
    shares = [
        p.n_ctx / loads.wish(t) / loads.tenants[t].weight for t, p in free.items() if p.n_ctx < loads.wish(t)
    ]
    all_wishes = len(loaded) == len(plans) and all(p.n_ctx >= loads.wish(t) for t, p in by_tenant.items())
    extra = process_counts(loads.gpus, seen)
    return SharedPlan(
        loads.tenants, tuple(plans), (tuple(range(len(loads.gpus))),) * len(plans), loaded, objective,
        min(shares, default=1.0 if free else None), all_wishes, loads.gpus, loads.host, loads.margin,
        tuple(n * process_bytes(g) if n else 0 for n, g in zip(extra, loads.gpus, strict=True)),
        "" if all_wishes else f"{loads.engine.title} places each model by itself, in this order; contexts were found by halving, and another order may hold more",
        tuple(_said(loads, by_tenant, plans)),
    )  # fmt: skip


def _limited(loads: _Loads, tenant: int, plan: Plan) -> Plan:
    """Say what keeps a context from being longer, which was asked for here and not by the caller."""
    if loads.tenants[tenant].settings.n_ctx or plan.n_ctx >= loads.wish(tenant):
        return plan
    return replace(plan, limited_by=OTHERS if len(loads.tenants) > 1 else loads.engine.title)


def _said(loads: _Loads, by_tenant: dict[int, Plan], plans: Sequence[Plan]) -> Iterator[str]:
    """Say why Ollama keeps a model out which fits."""
    for t, plan in enumerate(plans):
        if t not in by_tenant and plan.fits:
            yield (
                f"{loads.tenants[t].name} fits beside the others, but {loads.engine.title} expects it to need more than"
                " 80 % of what is free, and evicts them to load it"
            )
