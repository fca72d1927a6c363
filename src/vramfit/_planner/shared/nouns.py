"""`Tenant`, a model that shares the cards with others, and `SharedPlan`, the answer for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final, NamedTuple, cast

from ..._base.errors import SettingsError, shown
from ..._base.foreign import printable
from ..._base.given import call
from ..._base.shown import Drawn
from ..._coerce import AnyModel, AnySettings, count, model_of, settings_of
from ..._devices import Gpu, Host, told_apart
from ..._llama.cparams import trained_ctx
from ..._llama.model import Model
from ..._llama.params import Settings
from ..plan import Plan

__all__ = ["MAX_TENANTS", "OBJECTIVES", "SharedDevice", "SharedPlan", "Tenant", "tenant_of"]

MAX_TENANTS: Final = 8
OBJECTIVES: Final = {
    "share": "the smallest share of what each model wishes",
    "order": "the context of the first model, then of the next, and so on",
}
LEAST_WEIGHT: Final = 1e-6
MOST_WEIGHT: Final = 1e6


@dataclass(frozen=True, slots=True)
class Tenant:
    """One of several models that share the cards: what it is told, and how long a context it wishes.

    `settings` with an `n_ctx` fix its context. Else it gets as much as can be of `wish`, in tokens of all slots together
    (0: the context that it was trained for); `weight` says how much of its wish it gets for each part that a model of weight 1
    gets. `name` is what it is called; "": the model's own name, or that of its file.
    Raises `SettingsError` for a value that makes no sense, `ModelError` for what is no model.
    """

    model: Model = field(repr=False)
    settings: Settings = field(default_factory=Settings)
    wish: int = 0
    weight: float = 1.0
    name: str = ""

    def __init__(
        self,
        model: AnyModel,
        settings: AnySettings = None,
        wish: int | str = 0,
        weight: float = 1.0,
        name: str = "",
    ) -> None:
        """Take what plainly means a model, settings and a number of tokens."""
        put = object.__setattr__
        put(self, "model", model_of(model))
        put(self, "settings", settings_of(settings))
        put(self, "wish", count("wish", wish))
        put(self, "weight", _weight(weight))
        put(self, "name", _name(name) or _own_name(self.model))
        if self.settings.n_ctx and (self.wish or self.weight != 1):
            what = f"wish={self.wish}" if self.wish else f"weight={self.weight:g}"
            raise SettingsError(
                f"{self.name}: n_ctx={self.settings.n_ctx} fixes its context, and {what} asks for another; give one of the two"
            )

    @property
    def wished(self) -> int:
        """Tokens of all slots together that it would have, had it the cards for itself; 0: the header names no such length."""
        return self.settings.n_ctx or self.wish or trained_ctx(self.model, self.settings)


def _weight(value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not LEAST_WEIGHT <= float(value) <= MOST_WEIGHT:  # type: ignore[arg-type]
        raise SettingsError(f"weight={shown(value)}: give a number above 0, such as 2")
    return float(value)  # type: ignore[arg-type]


def _name(value: object) -> str:
    if not isinstance(value, str) or not (value.isprintable() or not value):
        raise SettingsError(f"name={shown(value)}: give a printable name")
    return value.strip()


def _own_name(model: Model) -> str:
    """Name a model as its file is named, else as its header has it; others wrote both."""
    named = model.source and not model.source.startswith("<")
    return printable(PurePath(model.source).stem if named else model.name).strip() or "model"


def tenant_of(value: object, settings: AnySettings = None) -> Tenant:
    """Take a tenant, or a model with `settings`. Raises as `Tenant` does."""
    return value if isinstance(value, Tenant) else Tenant(value, settings)  # type: ignore[arg-type]


class SharedDevice(NamedTuple):
    """One card, or the host, beside all models on it. Bytes; `taken` has one number for each tenant, 0 where it is not loaded.

    `processes` is what the driver takes for each process beyond the first, which is already out of `free_bytes`.
    """

    name: str
    taken: tuple[int, ...]
    processes: int
    free_bytes: int  # 0: a host whose memory is not known
    total_bytes: int

    @property
    def total(self) -> int:
        """Bytes of all models and further processes."""
        return sum(self.taken) + self.processes

    @property
    def left(self) -> int:
        """Free bytes that remain; negative where it is short."""
        return self.free_bytes - self.total

    @property
    def is_judged(self) -> bool:
        """Whether it is used, and its memory known."""
        return self.total > 0 and self.total_bytes > 0


@dataclass(frozen=True, slots=True)
class SharedPlan(Drawn):
    """The answer for several models: which fit together, on which cards, each with which context.

    `plans` has one plan for each of `tenants`: what `plan` says of it on the cards `cards[i]` (indexes of `gpus`) when all
    others are loaded, so its `gpus` have what those leave free. A tenant that is not in `loaded` (indexes of `tenants`) does not fit beside those
    that are; its plan says by how much. `fits` says that all are loaded. `share` is the smallest part of its wish that a loaded tenant of weight 1
    gets, among those whose context is not fixed; None where all are. `proved` says that no placement of the layers on cards does better; `note` why that is not proved.
    """

    tenants: tuple[Tenant, ...]
    plans: tuple[Plan, ...] = field(repr=False)
    cards: tuple[tuple[int, ...], ...]
    loaded: tuple[int, ...]
    objective: str
    share: float | None
    proved: bool
    gpus: tuple[Gpu, ...] = field(repr=False)
    host: Host | None = field(default=None, repr=False)
    margin_bytes: int = 0
    processes: tuple[int, ...] = ()  # bytes of each card that go to processes beyond the first
    note: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether all models fit together."""
        return len(self.loaded) == len(self.tenants)

    @property
    def devices(self) -> tuple[SharedDevice, ...]:
        """Each card, then the host, with what every tenant takes of it."""
        names = told_apart(self.gpus)
        cards = [
            SharedDevice(
                name,
                tuple(self._taken(t, i) for t in range(len(self.tenants))),
                extra,
                gpu.free,
                gpu.total_bytes,
            )
            for i, (name, gpu, extra) in enumerate(zip(names, self.gpus, self._extra(), strict=True))
        ]
        hosts = [self.plans[t].estimate.host for t in range(len(self.tenants))]
        taken = tuple(h.total + h.beside if t in self.loaded else 0 for t, h in enumerate(hosts))
        known = (self.host.free, self.host.total_bytes) if self.host else (0, 0)
        return (*cards, SharedDevice("host", taken, 0, *known))

    def command(self, engine: str = "llama-server", *, router: bool = False) -> str:
        """Return all that is to be run in `engine`, as text; `router`: the one llama-server that starts the others.

        Raises `SettingsError` for an unknown engine, and for settings, splits and cards that it cannot be told.
        """
        return cast(str, call("several_command", self, engine, router=router))

    def commands(self, engine: str = "llama-server") -> tuple[str, ...]:
        """Return what loads each model that is loaded, in their order. Raises as `command` does."""
        return cast("tuple[str, ...]", call("several_commands", self, engine))

    def files(self, engine: str = "llama-server") -> dict[str, str]:
        """Write the files that the engine takes, by name: the router's presets, a Modelfile each. Raises as `command` does."""
        return cast("dict[str, str]", call("several_files", self, engine))

    def residents(self, engine: str = "ollama", **options: Any) -> Any:
        """Return `vramfit.residents` of these models as planned: what `engine` keeps loaded; `options` and errors as there."""
        return call("residents", self, engine, **options)

    def _extra(self) -> Sequence[int]:
        return self.processes or [0] * len(self.gpus)

    def _taken(self, tenant: int, gpu: int) -> int:
        if tenant not in self.loaded or gpu not in self.cards[tenant]:
            return 0
        device = self.plans[tenant].estimate.gpus[self.cards[tenant].index(gpu)]
        return device.total + device.beside
