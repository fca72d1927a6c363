"""Write what one Ollama server has to be told for several models: its environment, a Modelfile each, and the requests.

The environment holds for all models at once; a Modelfile for its own alone. Where two models need one variable to be
two values, no server runs as planned, and that is said. Source: envconfig/config.go, server/sched.go of Ollama 0.33.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from .._base.errors import SettingsError
from .._base.foreign import json_text, shell
from .._planner.plan import Plan
from .._planner.shared import SharedPlan, Tenant
from . import ollama
from .ollama import ONE_SLOT
from .table import Engine
from .told import checked

__all__ = ["check_files", "environment", "file_of", "lines", "modelfiles", "requests", "wide", "widened"]

_ADDRESS: Final = "http://127.0.0.1:11434"
_FOREVER: Final = "-1"
# What a model that was planned without the variable would get by it.
_FOLLOWS: Final = {
    "OLLAMA_NUM_PARALLEL": "each gets that many contexts",
    "OLLAMA_FLASH_ATTENTION": "each gets other compute buffers",
    "OLLAMA_KV_CACHE_TYPE": "each gets a cache of that type",
    "LLAMA_ARG_TENSOR_SPLIT": "each is divided like that",
    "OLLAMA_SCHED_SPREAD": "each is put on all cards",
}


def environment(shared: SharedPlan, engine: Engine) -> dict[str, str]:
    """List the variables of the one server. Raises `SettingsError` where two models need different values."""
    check_files(shared.tenants[i] for i in shared.loaded)
    own = {i: ollama.environment(shared.plans[i], engine) for i in shared.loaded}
    found: dict[str, str] = {}
    for name in dict.fromkeys(name for variables in own.values() for name in variables):
        values = {i: variables.get(name) for i, variables in own.items() if _minds(shared.plans[i], name)}
        if name == "OLLAMA_CONTEXT_LENGTH":  # for models of no Modelfile: the shortest takes the least
            found[name] = str(min(int(v) for v in values.values() if v))
            continue
        if len(set(values.values())) > 1:
            raise SettingsError(_conflict(shared, name, values))
        value = next(iter(values.values()), None)
        if value is not None:
            found[name] = value
    found["OLLAMA_NUM_PARALLEL"] = found.get("OLLAMA_NUM_PARALLEL", "1")
    found["OLLAMA_MAX_LOADED_MODELS"] = str(max(1, len(shared.loaded)))
    found["OLLAMA_KEEP_ALIVE"] = _FOREVER  # one that went and came again would find other memory free
    return found


def check_files(tenants: Iterable[Tenant]) -> None:
    """Raise `SettingsError` for two models of one file: Ollama knows a loaded model by its file (sched.go:107)."""
    seen: dict[str, str] = {}
    for tenant in tenants:
        source = file_of(tenant)
        if source and source in seen:
            raise SettingsError(
                f"{seen[source]} and {tenant.name} are one file: Ollama loads a file once, and anew where the second asks for"
                " other settings; leave one out, or run a server for each (OLLAMA_HOST)"
            )
        seen[source] = tenant.name


def file_of(tenant: Tenant) -> str:
    """Return what Ollama knows the tenant's model by; "" where that is not known."""
    source = tenant.model.source
    return "" if source.startswith("<") else source


def _minds(plan: Plan, name: str) -> bool:
    """Whether a variable changes anything for the model: some have one slot, or one card, whatever it says."""
    if name == "OLLAMA_NUM_PARALLEL":
        model = plan.model
        return not (model.is_encoder or plan.settings.embeddings or model.architecture in ONE_SLOT)
    if name in ("LLAMA_ARG_TENSOR_SPLIT", "OLLAMA_SCHED_SPREAD"):
        return len(plan.gpus) > 1 and plan.settings.split_mode != "none" and sum(plan.tensor_split) > 0
    return True


def _conflict(shared: SharedPlan, name: str, values: dict[int, str | None]) -> str:
    said = ", ".join(
        f"{shared.tenants[i].name}: {'unset' if value is None else value}" for i, value in values.items()
    )
    what = _FOLLOWS.get(name, "it changes each of them")
    return (
        f"{name} ({said}): it holds for all models of an Ollama server, so that {what}; give them the same settings, run"
        " a server for each (OLLAMA_HOST), or plan for Ollama itself"
    )


def lines(shared: SharedPlan, engine: Engine, names: tuple[str, ...]) -> list[str]:
    """Write the server's command, what makes each model of its Modelfile, and the requests that load them in order."""
    variables = environment(shared, engine)
    serve = " ".join([*(f"{k}={shell(v)}" for k, v in variables.items()), "ollama serve"])
    made = [f"ollama create {names[i]} -f {names[i]}.Modelfile" for i in shared.loaded]
    return [serve, *made, *requests(shared, names)]


def requests(shared: SharedPlan, names: tuple[str, ...]) -> tuple[str, ...]:
    """Write a request each that loads a model and asks it nothing, in the order in which they were planned."""
    found = []
    for i in shared.loaded:
        plan = shared.plans[i]
        path = "embed" if plan.model.is_encoder or plan.settings.embeddings else "generate"
        body = json_text({"model": names[i]}, indent=None)
        found.append(f"curl {_ADDRESS}/api/{path} -d {shell(body)}")
    return tuple(found)


def modelfiles(shared: SharedPlan, engine: Engine, names: tuple[str, ...]) -> dict[str, str]:
    """Write a Modelfile for each model that is loaded, by the name of the file."""
    variables = environment(shared, engine)
    found = {}
    for i in shared.loaded:
        text = ollama.modelfile_text(shared.plans[i], engine)
        kept = [line for line in text.splitlines() if not line.startswith("# server: ")]
        said = [f"# server: {name}={value}" for name, value in variables.items()]
        found[f"{names[i]}.Modelfile"] = "\n".join([kept[0], *said, *kept[1:]]) + "\n"
    return found


def wide(shared: SharedPlan, engine: Engine) -> SharedPlan:
    """Say the same of all cards for each model, as a server has to be told that sees them all."""
    plans = tuple(widened(shared, i) for i in range(len(shared.plans)))
    for i in shared.loaded:
        checked(plans[i], engine)
    everything = tuple(range(len(shared.gpus)))
    return replace(shared, plans=plans, cards=(everything,) * len(plans))


def widened(shared: SharedPlan, index: int) -> Plan:
    """Say what one model's plan says of its cards of all cards: zeros where it has none, one card alone as such."""
    plan, cards = shared.plans[index], shared.cards[index]
    if (
        len(shared.gpus) < 2
        or not cards
        or (plan.settings.split_mode == "none" and len(cards) == len(shared.gpus))
    ):
        return plan
    gpus = list(shared.gpus)
    layers = [0] * len(gpus)
    for at, i in enumerate(cards):
        gpus[i], layers[i] = plan.gpus[at], plan.tensor_split[at]
    used = [i for i, n in enumerate(layers) if n]
    settings = plan.settings
    if len(used) == 1:
        settings = replace(settings, split_mode="none", main_gpu=used[0], tensor_split=())
    elif used:
        settings = replace(settings, tensor_split=tuple(map(float, layers)))
    return replace(plan, gpus=tuple(gpus), tensor_split=tuple(layers), settings=settings)
