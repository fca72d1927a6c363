"""Put a person's options over an engine's defaults, and say what an engine makes of any settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from .._base.errors import SettingsError
from .._coerce import checked_fields, shown
from .._devices import Gpu
from .._llama.cparams import physical_batch
from .._llama.eras import era_of
from .._llama.model import Model
from .._llama.params import MAX_SEQUENCES, Settings
from .._llama.placement import split_is_given
from .._llama.speculation import kept_rows
from .table import Engine, find, named

__all__ = ["as_run", "check_machines", "defaults", "engine_settings", "server_settings", "settings_for"]


_FOLLOWS: Final = frozenset({"n_outputs_max", "tensor_split", "engine_build", "defaults"})


def defaults(engine: str | Engine) -> Settings:
    """Make the settings that an engine runs with when it is told nothing."""
    return engine_settings(engine)


def server_settings(**given: Any) -> Settings:
    """Make the settings of a llama-server that is told the `given` fields of `Settings`; see `engine_settings`."""
    return engine_settings("llama-server", given)


def engine_settings(
    engine: str | Engine = "llama-server", given: Mapping[str, Any] | None = None, **more: Any
) -> Settings:
    """Make the settings of an engine that is told the `given` fields of `Settings`, in a mapping or by name.

    Defaults that hang on others follow them: a llama-server that is told its slots no longer shares one
    cache among them (server.cpp:156), and an engine with one batch size takes it from either name.
    Raises `SettingsError` for what the engine cannot be told.
    """
    chosen, build = named(engine)
    if given is not None and not isinstance(given, Mapping):
        raise SettingsError(f"given={shown(given)}: give a mapping of fields of Settings")
    given = checked_fields({**(given or {}), **more}, "given")
    given.pop("defaults", None)
    given = {"engine_build": build, **given} if build else given
    one_slot = chosen.name == "llama-server" and era_of(given.get("engine_build", "")).one_slot
    split = Settings(tensor_split=given.get("tensor_split", ()))
    if split_is_given(split) and "tensor_split" not in chosen.told:
        raise SettingsError(f"{chosen.title} cannot be told a tensor_split; leave it out to plan for its own")
    values: dict[str, Any] = {**chosen.defaults, **given}
    if "n_seq_max" in given and "kv_unified" not in given:
        values["kv_unified"] = chosen.name == "lm-studio"
    if "n_seq_max" not in given and chosen.name == "llama-server":
        values["kv_unified"] = True  # whatever it is told
        if one_slot:
            values |= {"n_seq_max": 1, "kv_unified": given.get("kv_unified", False)}
    if chosen.one_batch:
        size = given.get("n_batch", given.get("n_ubatch", values["n_batch"]))
        values |= {"n_batch": size, "n_ubatch": given.get("n_ubatch", size)}
    return as_run(Settings(**values, defaults=chosen.name), chosen)


def settings_for(model: Model, given: Mapping[str, Any], engine: str | Engine = "llama-server") -> Settings:
    """Make the settings of an engine that loads `model` and is told the `given` fields of `Settings`.

    `n_ctx` 0 among them is the context that the model was trained for; a draft beside the model implies how tokens are
    drafted. Raises `SettingsError` for what the engine cannot be told, and for a header without a trained context.
    """
    told = dict(given)
    if told.get("n_ctx") == 0:
        if not model.n_ctx_train:
            raise SettingsError("the header has no trained context; give --ctx a number")
        told["n_ctx"] = model.n_ctx_train
    if model.company is not None and "spec_type" not in told:
        from .._company.drafts import inferred

        told |= inferred(model)
    return engine_settings(engine, told)


def as_run(settings: Settings, engine: str | Engine) -> Settings:
    """Make the settings that `engine` really runs with when it is told `settings`.

    Rows of logits follow from the engine and are not a choice. An engine with one batch size gets the physical
    one, which buffers are sized for. Raises `SettingsError` for a setting that the engine cannot be told and that
    is not what it does anyway; a split is left as it is, since only the layers that it gives can be compared.
    """
    chosen = find(engine)
    plain = Settings(**chosen.defaults)  # type: ignore[arg-type]
    if settings.embeddings and chosen.embeds_in_slots:
        slots = min(settings.n_batch, settings.n_ctx or MAX_SEQUENCES, MAX_SEQUENCES)
        plain = replace(plain, n_seq_max=slots, kv_unified=True)
        settings = replace(settings, n_seq_max=slots, kv_unified=True)
    for f in fields(Settings):
        value, own = getattr(settings, f.name), getattr(plain, f.name)
        if f.name not in chosen.told | _FOLLOWS and value != own:
            raise SettingsError(f"{chosen.title} cannot be told {f.name}={value!r}; it uses {own!r}")
    _check_values(settings, chosen)
    if chosen.one_batch or (settings.embeddings and not chosen.all_outputs):  # server.cpp:150
        size = physical_batch(settings)
        settings = replace(settings, n_batch=size, n_ubatch=size)
    pooled = settings.embeddings or settings.pooling not in ("", "none")  # server-context.cpp:41
    outputs = 0 if chosen.all_outputs or pooled else kept_rows(settings)
    return replace(settings, n_outputs_max=outputs, n_gpu_layers=max(settings.n_gpu_layers, -1))


def check_machines(gpus: Sequence[Gpu], engine: Engine) -> None:
    """Raise `SettingsError` for cards of other machines in an engine that reaches none."""
    remote = next((g for g in gpus if g.remote), None)
    if remote and engine.name != "llama-server":
        raise SettingsError(
            f"{remote.host}/{remote.name}: {engine.title} uses the cards of its own machine alone; llama-server reaches others, over --rpc"
        )


def _check_values(settings: Settings, engine: Engine) -> None:
    if engine.one_cache_type and settings.type_k != settings.type_v:
        raise SettingsError(
            f"type_k={settings.type_k}, type_v={settings.type_v}: {engine.title} has one type for both"
            " (OLLAMA_KV_CACHE_TYPE); set them alike"
        )
    for name in ("type_k", "type_v"):
        if getattr(settings, name) not in engine.cache_types:
            raise SettingsError(
                f"{name}={getattr(settings, name)}: {engine.title} takes {', '.join(engine.cache_types)}"
            )
