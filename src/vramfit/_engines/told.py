"""Render a `Plan` as what to run, for any engine."""

from __future__ import annotations

from .._base.errors import SettingsError
from .._base.foreign import shell
from .._base.units import format_bytes
from .._estimate.estimate import estimate
from .._planner.plan import Plan
from . import binding, ollama, server, studio
from .choose import own_split
from .settings import as_run, check_machines
from .table import Engine, find

__all__ = ["checked", "command", "modelfile"]


def command(plan: Plan, engine: str | Engine = "llama-server") -> str:
    """Write what to run for `plan`: a shell command, or Python source for llama-cpp-python.

    For Ollama it is the server's; `modelfile` has the rest. Where the plan does not fit, the text is the same but for
    `--fit off`. Raises `SettingsError` for an unknown engine, for settings and splits that it cannot be told, and
    where the plan fits but the engine, which may keep more logits than were counted, would not.
    """
    chosen = checked(plan, engine)
    if chosen.name == "llama-server":
        return server.words(plan)
    if chosen.name == "llama-cpp-python":
        return binding.source(plan)
    if chosen.name == "lm-studio":
        return studio.words(plan)
    variables = ollama.environment(plan, chosen)
    return " ".join([*(f"{k}={shell(v)}" for k, v in variables.items()), "ollama serve"])


def modelfile(plan: Plan, engine: str | Engine = "ollama") -> str:
    """Write an Ollama Modelfile for `plan`. Raises `SettingsError` for an engine that reads none."""
    chosen = checked(plan, engine)
    if not chosen.name.startswith("ollama"):
        raise SettingsError(f"{chosen.title} reads no Modelfile; give ollama or ollama-before-0.30")
    return ollama.modelfile_text(plan, chosen)


def checked(plan: Plan, engine: str | Engine) -> Engine:
    """Find the engine, if it does with the plan what the plan says."""
    chosen = find(engine)
    check_machines(plan.gpus, chosen)
    settings = as_run(plan.settings, chosen)
    hint = f"plan for it: engines.plan_for(..., {chosen.name!r}), or --engine {chosen.name}"
    if "tensor_split" not in chosen.told and plan.tensor_split != own_split(plan, chosen):
        split = ",".join(map(str, plan.tensor_split))
        raise SettingsError(f"{chosen.title} cannot be told the split {split}; {hint}")
    if plan.fits and settings.n_outputs_max != plan.settings.n_outputs_max:
        found = estimate(plan.model, plan.gpus, settings)
        short = [g for g in found.gpus if g.total and g.left < plan.margin_bytes]
        if short:
            missing = format_bytes(plan.margin_bytes - short[0].left)
            raise SettingsError(
                f"{chosen.title} keeps logits of the whole batch, for which {short[0].name} is short of {missing}; {hint}"
            )
    return chosen
