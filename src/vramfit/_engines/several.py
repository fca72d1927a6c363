"""Write what to run for several models that share the cards, in any engine.

In: a `SharedPlan`, an engine. Out: text, one thing to run for each model that is loaded, and the files that it takes.
llama-server has two ways: a server for each model, or its router, which starts the same servers as its children.
"""

from __future__ import annotations

import re
from typing import Final

from .._base.errors import SettingsError
from .._base.foreign import printable, shell_line
from .._devices import Gpu
from .._planner.shared import SharedPlan
from . import binding, several_ollama
from .presets import section
from .residents import REPLAYED, residents
from .server import Among, all_flags, device_names
from .table import Engine, find
from .told import checked, command

__all__ = [
    "FIRST_PORT",
    "PRESETS",
    "several_command",
    "several_commands",
    "several_files",
    "short_names",
]

FIRST_PORT: Final = 8080  # llama-server's own
PRESETS: Final = "models.ini"
_PREDEFINED: Final = frozenset({"default"})  # a section of that name is no model (preset.cpp:299)
# What hides cards from a program; they are counted in the order of the backend.
_VISIBLE: Final = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "hip": "HIP_VISIBLE_DEVICES",
    "vulkan": "GGML_VK_VISIBLE_DEVICES",
}


def several_command(
    shared: SharedPlan, engine: str | Engine = "llama-server", *, router: bool = False
) -> str:
    """Write all that is to be run, as text; `router` asks for the one llama-server that starts the others.

    Raises `SettingsError` as `several_commands` does.
    """
    chosen = find(engine)
    if router and chosen.name != "llama-server":
        raise SettingsError(f"{chosen.title} has no router; leave router=True out, or give llama-server")
    left_out = [shared.tenants[i].name for i in range(len(shared.tenants)) if i not in shared.loaded]
    said = [f"# does not fit beside the others: {printable(name)}" for name in left_out]
    if router:
        several_files(shared, chosen)  # raises for what no preset can hold
        n = len(shared.loaded)
        return "\n".join([*said, f"llama-server --models-preset {PRESETS} --models-max {n}"])
    if chosen.name.startswith("ollama"):
        said += _evictions(shared, chosen)
        return "\n".join(
            [*said, *several_ollama.lines(several_ollama.wide(shared, chosen), chosen, short_names(shared))]
        )
    mark = "# a process of its own: " if chosen.name == "llama-cpp-python" else "# "
    texts = [
        f"{mark}{printable(shared.tenants[i].name)}\n{text}"
        for i, text in zip(shared.loaded, several_commands(shared, chosen), strict=True)
    ]
    return "\n".join([*said, ("\n\n" if chosen.name == "llama-cpp-python" else "\n").join(texts)])


def several_commands(shared: SharedPlan, engine: str | Engine = "llama-server") -> tuple[str, ...]:
    """Write what loads each model that is loaded, in their order; for Ollama a request, once `several_command` has run.

    Raises `SettingsError` for an unknown engine, for settings, splits and cards that it cannot be told, and where one
    setting of it would have to be two.
    """
    chosen = find(engine)
    if chosen.name.startswith("ollama"):
        wide = several_ollama.wide(shared, chosen)
        several_ollama.environment(wide, chosen)
        return several_ollama.requests(wide, short_names(shared))
    return tuple(_one(shared, i, n, chosen) for n, i in enumerate(shared.loaded))


def several_files(shared: SharedPlan, engine: str | Engine = "llama-server") -> dict[str, str]:
    """Write the files that the engine takes, by name: the router's presets, a Modelfile each. Raises as `several_commands`."""
    chosen = find(engine)
    names = short_names(shared)
    if chosen.name == "llama-server":
        for i in shared.loaded:
            checked(shared.plans[i], chosen)
        texts = [section(names[i], _words(shared, i), load_on_startup="true") for i in shared.loaded]
        return {PRESETS: "\n".join(texts)} if texts else {}
    if chosen.name.startswith("ollama"):
        return several_ollama.modelfiles(several_ollama.wide(shared, chosen), chosen, names)
    return {}


def _evictions(shared: SharedPlan, engine: Engine) -> list[str]:
    """Say where Ollama does not keep what was planned: it goes by its own formula."""
    if engine.name not in REPLAYED:
        return []
    found = residents(shared, engine)
    return [
        f"# not as planned: when {found.names[step.asked]} is asked for, {step.why}"
        for step in found.steps
        if step.evicted
    ]


def short_names(shared: SharedPlan) -> tuple[str, ...]:
    """Give each model a name that every engine takes: letters, digits, dots, dashes and underscores, no two alike."""
    found: list[str] = []
    for tenant in shared.tenants:
        plain = re.sub(r"[^A-Za-z0-9._]+", "-", tenant.name).strip("-._")[:60].strip("-._") or "model"
        name, n = plain, 2
        while name.lower() in (*(x.lower() for x in found), *_PREDEFINED):
            name, n = f"{plain}-{n}", n + 1
        found.append(name)
    return tuple(found)


def _one(shared: SharedPlan, index: int, n: int, engine: Engine) -> str:
    plan = shared.plans[index]
    checked(plan, engine)
    if engine.name == "llama-server":
        return shell_line(["llama-server", *_words(shared, index), "--port", str(FIRST_PORT + n)])
    if engine.name == "llama-cpp-python":
        return "\n".join([*_hidden(shared.gpus, shared.cards[index], engine), binding.source(plan)])
    _all_cards(shared, index, engine)
    return command(plan, engine)


def _words(shared: SharedPlan, index: int) -> list[str]:
    """List the words behind llama-server for one model: those of its plan, and its cards where it has not all."""
    plan, cards = shared.plans[index], shared.cards[index]
    among = Among(shared.gpus, cards)
    words = all_flags(plan, among)
    if len(cards) < len(shared.gpus):
        words += ["-dev", device_names(plan, tuple(range(len(cards))), among)]
    return words


def _hidden(gpus: tuple[Gpu, ...], cards: tuple[int, ...], engine: Engine) -> list[str]:
    """Write the lines of Python that hide the cards which a model does not use."""
    lines: list[str] = []
    for backend in dict.fromkeys(g.backend for g in gpus):
        here = [i for i, g in enumerate(gpus) if g.backend == backend]
        if set(here) <= set(cards):
            continue
        if backend not in _VISIBLE:
            raise SettingsError(
                f"{engine.title} cannot be told which {backend} devices to use; run llama-server, which can"
            )
        seen = ",".join(str(here.index(i)) for i in cards if i in here)
        lines.append(f'os.environ["{_VISIBLE[backend]}"] = "{seen}"')
    return ["import os", "", *lines, ""] if lines else []


def _all_cards(shared: SharedPlan, index: int, engine: Engine) -> None:
    if len(shared.cards[index]) < len(shared.gpus):
        raise SettingsError(
            f"{printable(shared.tenants[index].name)}: {engine.title} cannot be told to leave out a card; plan for it:"
            f" engines.shared.shared_for(..., {engine.name!r}), or --engine {engine.name}"
        )
