"""Replay what an engine keeps loaded by itself when models are asked for one after another, and what it evicts for them.

In: a `SharedPlan`, or tenants, cards and an engine; the requests in their order, each answered before the next. Out:
`Residents`: after each request what is loaded, on which cards, with which context, what went and why.

Ollama: server/sched.go of 0.33, whose rules are in `ollama_sched`. llama-server's router: tools/server/server-models.cpp:260-390
and :1063-1160 of the pinned build, which counts models and looks at no memory; each child has `--fit` on unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, cast

from .._base.errors import SettingsError, shown
from .._base.foreign import printable
from .._base.units import GIB, format_bytes
from .._coerce import AnyGpus, AnyModel, cards, count
from .._devices import Gpu, told_apart
from .._llama.cparams import trained_ctx
from .._llama.params import Settings
from .._planner.plan import Plan
from .._planner.plan import plan as solve
from .._planner.segments import Learned
from .._planner.shared import SharedPlan, Tenant
from . import ollama, ollama_sched
from .beside import cards_beside, sees, taken
from .choose import plan_for
from .settings import as_run
from .several_ollama import file_of, widened
from .shared import tenants_for
from .table import Engine, find

__all__ = ["MODELS_MAX", "Resident", "Residents", "Step", "residents"]

MODELS_MAX: Final = 4  # --models-max of the router (common.h:688)
FIT_LEAST: Final = 4096  # tokens that --fit leaves at the least (common.h:489, -fitc)
FIT_TARGET: Final = GIB  # bytes that --fit leaves free on each card (common.h:487, -fitt)
NEVER: Final = float("inf")
LONGEST: Final = 1e9  # seconds
MAX_REQUESTS: Final = 1000
REPLAYED: Final = ("ollama", "llama-server")


class Resident(NamedTuple):
    """A model that is loaded: its tenant, its context in tokens of all slots, and its bytes on each card.

    `at_most` says that the engine's `--fit` chooses: no longer a context than `n_ctx`, and bytes as in the best split.
    `asleep`: its process is there, its memory is free.
    """

    tenant: int
    n_ctx: int
    taken: tuple[int, ...]
    at_most: bool = False
    asleep: bool = False


class Step(NamedTuple):
    """What one request does: `loaded` are the models afterwards, `evicted` those that went, by tenant, and `why`."""

    asked: int
    loaded: tuple[Resident, ...]
    evicted: tuple[int, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Residents:
    """What an engine keeps loaded, request by request. `most` is the number of models that it keeps, 0: any number."""

    engine: str
    names: tuple[str, ...]
    gpus: tuple[Gpu, ...] = field(repr=False)
    most: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Show the models that are loaded after each request, a line for each, and what it evicted and why."""
        rows = [("asked for", "loaded", "tokens", *told_apart(self.gpus), "")]
        for step in self.steps:
            told = [self._row(r) for r in step.loaded] or [("nothing", "", *("" for _ in self.gpus))]
            rows += [
                (self.names[step.asked] if n == 0 else "", *row, step.why if n == 0 else "")
                for n, row in enumerate(told)
            ]
        widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def _row(self, resident: Resident) -> tuple[str, ...]:
        tokens = "asleep" if resident.asleep else f"{'≤ ' if resident.at_most else ''}{resident.n_ctx:,}"
        return (self.names[resident.tenant], tokens, *(format_bytes(n) if n else "-" for n in resident.taken))


def residents(
    models: SharedPlan | Sequence[AnyModel | Tenant],
    engine: str | Engine = "ollama",
    gpus: AnyGpus = (),
    *,
    requests: Sequence[int] | None = None,
    most: int = 0,
    keep_alive: Sequence[float] | float | None = None,
    apart: float = 0,
) -> Residents:
    """Replay what `engine` keeps loaded when it is asked for models in the order of `requests` (indexes; each once by default).

    Models of a `SharedPlan` are told what it says; tenants what their settings say, on `gpus`, and the engine chooses the rest.
    `most` is OLLAMA_MAX_LOADED_MODELS or `--models-max` (0: the engine's default), `apart` the seconds between requests, `keep_alive` those
    after which an idle model goes (Ollama: 300, one for each model or for all) or sleeps (the router's `--sleep-idle-seconds`: never).
    Raises `SettingsError` for an engine that is not replayed (LM Studio publishes no source) and for a request of no model.
    """
    chosen = find(engine)
    if chosen.name not in REPLAYED:
        raise SettingsError(
            f"{chosen.title}: what it keeps loaded is not replayed; give {' or '.join(REPLAYED)}"
        )
    all_cards = models.gpus if isinstance(models, SharedPlan) else cards(gpus)
    asked = _asked(models, chosen)
    order = _order(requests, len(asked))
    most = count("most", most)
    seconds = _seconds("apart", apart)
    is_ollama = chosen.name == "ollama"
    own = ollama_sched.KEEP_ALIVE if is_ollama else NEVER
    kept = _durations(own if keep_alive is None else keep_alive, len(asked))
    limit = ollama_sched.most_models(all_cards, most) if is_ollama else most or MODELS_MAX
    machine = (_Ollama if is_ollama else _Router)(asked, all_cards, chosen, limit, kept)
    steps = tuple(machine.ask(t, n * seconds) for n, t in enumerate(order))
    return Residents(chosen.name, machine.names(), tuple(all_cards), limit, steps, machine.notes())


def _order(requests: Sequence[int] | None, n: int) -> tuple[int, ...]:
    if requests is None:
        return tuple(range(n))
    order = tuple(requests) if isinstance(requests, list | tuple) else (requests,)
    if len(order) > MAX_REQUESTS:
        raise SettingsError(f"{len(order)} requests: give at most {MAX_REQUESTS}")
    for index in order:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < n:
            raise SettingsError(f"requests={shown(index)}: give indexes of the models, 0 to {n - 1}")
    return cast("tuple[int, ...]", order)


def _durations(value: Sequence[float] | float, n: int) -> tuple[float, ...]:
    found = tuple(value) if isinstance(value, list | tuple) else (value,) * n
    if len(found) != n:
        raise SettingsError(
            f"keep_alive of {len(found)} durations for {n} models: give one for each, or one for all"
        )
    seconds = (_seconds("keep_alive", x, least=-NEVER) for x in found)
    return tuple(NEVER if x < 0 else x for x in seconds)


def _seconds(name: str, value: object, least: float = 0) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (least <= value <= LONGEST or value == NEVER):  # type: ignore[operator]
        raise SettingsError(f"{name}={shown(value)}: give seconds, such as 300")
    return float(value)  # type: ignore[arg-type]


class _Asked(NamedTuple):
    """A model as the engine is asked for it. With a plan it is told its context and layers, so that no `--fit` chooses."""

    tenant: Tenant
    settings: Settings
    layers: int  # that are told to be put on cards; -1: none told
    plan: Plan | None = None
    cards: tuple[int, ...] = ()  # of the plan


def _asked(models: SharedPlan | Sequence[AnyModel | Tenant], engine: Engine) -> tuple[_Asked, ...]:
    if isinstance(models, SharedPlan):
        return tuple(_of_plan(models, i, engine) for i in models.loaded)
    return tuple(_Asked(t, t.settings, t.settings.n_gpu_layers) for t in tenants_for(models, engine))


def _of_plan(shared: SharedPlan, index: int, engine: Engine) -> _Asked:
    plan, tenant = shared.plans[index], shared.tenants[index]
    layers = sum(plan.tensor_split)
    if engine.name != "ollama":
        return _Asked(tenant, plan.settings, layers, plan, shared.cards[index])
    wide = widened(shared, index)
    settings = as_run(replace(wide.settings, n_ctx=wide.n_ctx), engine)
    if (
        ollama.by_free_memory(wide) == wide.tensor_split
    ):  # it is told no split, and makes it anew at each load
        settings = replace(settings, tensor_split=())
    return _Asked(tenant, settings, layers, wide, shared.cards[index])


class _Here(NamedTuple):
    """A model that is loaded, the cards that its process sees, and when it was used: at a second, in a request."""

    resident: Resident
    seen: frozenset[int]
    second: float
    turn: int


@dataclass(slots=True)
class _Machine:
    """The cards and what is loaded on them: what both engines have in common."""

    asked: tuple[_Asked, ...]
    gpus: Sequence[Gpu]
    engine: Engine
    most: int
    keep: tuple[float, ...]
    loaded: dict[int, _Here] = field(default_factory=dict)
    turn: int = 0
    learned: dict[int, Learned] = field(default_factory=dict)
    chose: bool = False  # which of several goes

    def left(self) -> tuple[Gpu, ...]:
        """Count what the loaded models leave on each card."""
        here = list(self.loaded.values())
        return cards_beside(self.gpus, [h.resident.taken for h in here], [h.seen for h in here])

    def use(self, tenant: int, now: float) -> None:
        """Use a model that is loaded."""
        self.turn += 1
        self.loaded[tenant] = self.loaded[tenant]._replace(second=now, turn=self.turn)

    def ask(self, tenant: int, now: float) -> Step:
        """Answer one request."""
        raise NotImplementedError

    def notes(self) -> tuple[str, ...]:
        """Say what no header tells."""
        return ()

    def put(self, plan: Plan, tenant: int, now: float, room: Sequence[Gpu], at_most: bool) -> None:
        """Load a model; `at_most`: `--fit` sees to it that its target stays free on each card."""
        takes = taken(plan)
        if at_most:
            takes = tuple(min(n, max(0, g.free - FIT_TARGET)) for n, g in zip(takes, room, strict=True))
        found = Resident(tenant, plan.n_ctx, takes, at_most=at_most)
        self.keep_loaded(found, sees(plan, self.engine), now)

    def idle(self, now: float) -> list[int]:
        """List the models that were idle for as long as they are kept."""
        return [t for t, h in self.loaded.items() if now > h.second and now - h.second >= self.keep[t]]

    def keep_loaded(self, found: Resident, seen: frozenset[int], now: float) -> None:
        """Take note of a model that was loaded."""
        self.loaded[found.tenant] = _Here(found, seen, now, self.turn)
        self.use(found.tenant, now)

    def step(self, tenant: int, evicted: Sequence[int], why: Sequence[str]) -> Step:
        """Tell what is loaded now."""
        return Step(tenant, tuple(h.resident for h in self.loaded.values()), tuple(evicted), "; ".join(why))

    def names(self) -> tuple[str, ...]:
        """Return the models' names, fit to be shown, no two alike."""
        plain = [printable(a.tenant.name) for a in self.asked]
        return tuple(
            name if plain.count(name) == 1 else f"{name} #{plain[:i].count(name) + 1}"
            for i, name in enumerate(plain)
        )

    def name(self, tenant: int) -> str:
        """Return one model's name."""
        return self.names()[tenant]


class _Ollama(_Machine):
    def ask(self, tenant: int, now: float) -> Step:
        evicted, why = self._expire(now)
        if tenant in self.loaded:
            self.use(tenant, now)
            return self.step(tenant, evicted, [*why, "it is loaded"])
        twin = self._twin(tenant)
        if twin is not None and self.asked[twin].settings == self.asked[tenant].settings:
            return self.step(tenant, evicted, [*why, f"its file is loaded, for {self.name(twin)}"])
        if twin is not None:
            del self.loaded[twin]
            evicted.append(twin)
            why.append(f"{self.name(twin)} goes, for it is the same file with other settings")
        while True:
            room = self.left()
            settings = self._settings(tenant, room)
            cause = self._cause(tenant, settings, room)
            if not cause:
                break
            self.chose = self.chose or len(self.loaded) > 1
            gone = ollama_sched.first_to_go(map(self._kept, self.loaded)).tenant
            del self.loaded[gone]
            evicted.append(gone)
            why.append(f"{self.name(gone)} goes, {cause}")
        self._load(tenant, settings, room, now, evicted, why)
        return self.step(tenant, evicted, why)

    def _twin(self, tenant: int) -> int | None:
        """Find the loaded model that is of the same file: one file is loaded once (sched.go:107)."""
        own = file_of(self.asked[tenant].tenant)
        return next((t for t in self.loaded if own and file_of(self.asked[t].tenant) == own), None)

    def _expire(self, now: float) -> tuple[list[int], list[str]]:
        gone = self.idle(now)
        for t in gone:
            del self.loaded[t]
        return gone, [f"{self.name(t)} was idle for {self.keep[t]:g} s" for t in gone]

    def _cause(self, tenant: int, settings: Settings, room: Sequence[Gpu]) -> str:
        """Say why another has to go before the model is loaded; "" where none has."""
        if not self.loaded:
            return ""
        if len(self.loaded) >= self.most:
            return f"for {self.most} are loaded at most"
        asked = self.asked[tenant]
        if ollama_sched.has_room(asked.tenant.model, room, settings, settings.n_ctx, asked.layers):
            return ""
        on = ollama_sched.looked_at(asked.tenant.model, room, settings, settings.n_ctx)
        free = sum(room[i].free for i in on)
        need = ollama_sched.needed(asked.tenant.model, settings.n_ctx, settings.n_batch)
        return f"for {format_bytes(need)} expected are more than 80 % of {format_bytes(free)} free"

    def _settings(self, tenant: int, room: Sequence[Gpu]) -> Settings:
        """What Ollama makes of what it is told: a context by the memory of all cards, a batch by what is free."""
        asked = self.asked[tenant]
        if asked.plan is not None:
            return asked.settings
        model = asked.tenant.model
        settings = ollama.settle(asked.settings, model, self.gpus)
        slots = settings.n_seq_max
        most = trained_ctx(model, settings) or NEVER
        n_ctx = int(min(settings.n_ctx or ollama.default_context(self.gpus) * slots, most))
        batch = settings.n_batch
        if batch == self.engine.defaults["n_batch"]:
            batch = ollama.auto_batch(model, room, n_ctx, settings.flash_attn)
        return replace(settings, n_ctx=n_ctx, n_batch=batch, n_ubatch=batch)

    def _load(
        self,
        tenant: int,
        settings: Settings,
        room: Sequence[Gpu],
        now: float,
        evicted: list[int],
        why: list[str],
    ) -> None:
        plan = self._plan(tenant, settings, room)
        if self.asked[tenant].layers >= 0 and not plan.fits and self.loaded:  # sched.go:650, :1590
            why.append("it runs out of memory, so all others go and it is tried once more")
            evicted += self.loaded
            self.loaded.clear()
            room = self.left()
            plan = self._plan(tenant, settings, room)
        if self.asked[tenant].layers >= 0 and not plan.fits:
            why.append("it does not fit even alone")
            return
        fitted = not plan.fits or any(
            n > max(0, g.free - FIT_TARGET) for n, g in zip(taken(plan), room, strict=True)
        )
        fitted = fitted and self.asked[tenant].layers < 0
        self.put(plan, tenant, now, room, fitted)
        why.append("--fit moves layers to the host" if fitted else "it fits")

    def _plan(self, tenant: int, settings: Settings, room: Sequence[Gpu]) -> Plan:
        return plan_for(
            self.asked[tenant].tenant.model, room, settings, self.engine, margin_bytes=0, compare=False,
            learned=self.learned.setdefault(tenant, {}),
        )  # fmt: skip

    def _kept(self, tenant: int) -> ollama_sched.Kept:
        return ollama_sched.Kept(tenant, self.keep[tenant], self.asked[tenant].tenant.model.source)

    def notes(self) -> tuple[str, ...]:
        if len(set(self.keep)) == len(self.keep) or not self.chose:
            return ()
        return (
            "of models that are kept for the same time the one goes whose file comes first by its name in Ollama's store,"
            " which is its checksum: no header tells it, and here their own paths stand for it",
        )


class _Router(_Machine):
    def ask(self, tenant: int, now: float) -> Step:
        why: list[str] = []
        self._sleep(now)
        if tenant in self.loaded and not self.loaded[tenant].resident.asleep:
            self.use(tenant, now)
            return self.step(tenant, (), ["it is loaded"])
        evicted: list[int] = []
        if tenant not in self.loaded and len(self.loaded) >= self.most:
            gone = min(self.loaded, key=lambda t: self.loaded[t].turn)
            del self.loaded[gone]
            evicted.append(gone)
            why.append(f"{self.name(gone)} goes, used the longest ago, for {self.most} are loaded at most")
        self.loaded.pop(tenant, None)
        why.append(self._start(tenant, now))
        return self.step(tenant, evicted, why)

    def _sleep(self, now: float) -> None:
        for t in self.idle(now):
            here = self.loaded[t]
            free = here.resident._replace(asleep=True, taken=(0,) * len(self.gpus))
            self.loaded[t] = here._replace(resident=free)

    def _start(self, tenant: int, now: float) -> str:
        """Start a child for the model; nobody looks whether it has room."""
        asked, room = self.asked[tenant], self.left()
        if asked.plan is not None:
            return self._start_planned(tenant, asked.plan, now, room)
        plan = self._plan(tenant, asked.settings, room)
        whole = asked.settings.n_ctx or trained_ctx(asked.tenant.model, asked.settings)
        if plan.fits and (asked.settings.n_ctx or plan.n_ctx >= min(FIT_LEAST, whole)):
            shorter = plan.n_ctx < whole
            self.put(plan, tenant, now, room, at_most=shorter)
            return "--fit shortens its context" if shorter else "it fits"
        plan = self._plan(
            tenant, replace(asked.settings, n_ctx=asked.settings.n_ctx or min(FIT_LEAST, whole)), room
        )
        self.put(plan, tenant, now, room, at_most=True)
        return "--fit moves layers to the host"

    def _start_planned(self, tenant: int, plan: Plan, now: float, room: Sequence[Gpu]) -> str:
        """Start a child that is told a plan and `--fit off`: it takes what was planned, or ends."""
        takes = [0] * len(room)
        for i, n in zip(self.asked[tenant].cards, taken(plan), strict=True):
            takes[i] = n
        names = told_apart(self.gpus)
        short = [names[i] for i, n in enumerate(takes) if n > room[i].free]
        if short:
            return f"it does not start, out of memory on {', '.join(short)}"
        found = Resident(tenant, plan.n_ctx, tuple(takes))
        self.keep_loaded(found, frozenset(range(len(room))), now)
        return "it fits, as planned"

    def _plan(self, tenant: int, settings: Settings, room: Sequence[Gpu]) -> Plan:
        return solve(
            self.asked[tenant].tenant.model, room, settings, margin_bytes=FIT_TARGET,
            learned=self.learned.setdefault(tenant, {}),
        )  # fmt: skip

    def notes(self) -> tuple[str, ...]:
        if not any(h.resident.at_most for h in self.loaded.values()):
            return ()
        return (
            "≤: what --fit chooses is not replayed; the context is the longest that it could choose, with 1 GiB left on each card",
        )
