"""Read llama-swap's config.yaml: names, each with the command that starts its server, and macros that stand in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..._base.errors import SettingsError, shown
from ..._base.matches import get_close_matches
from ..._llama.flags import split_text
from .commands import raw_of
from .nouns import MAX_LISTED, Raw, absent, placed
from .shell import MAX_COMMAND

__all__ = ["of_swap"]

_MACRO: Final = re.compile(r"\$\{([^{}\s]{1,128})\}")
_FIRST_PORT: Final = "5800"  # each model has a port of its own, which sizes nothing


def of_swap(found: Mapping[str, Any], source: str, only: tuple[str, ...] = ()) -> list[Raw]:
    """Read the models of a config, or those in `only`. Raises `SettingsError`, which names the model."""
    models = found["models"]
    if len(models) > MAX_LISTED:
        raise SettingsError(f"{source}: more than {MAX_LISTED} models; cut the list")
    for name in only:
        if name not in models:
            raise absent(source, name, models)
    shared = _macros(f"{source}: macros", found.get("macros"), {})
    raws = []
    for name, one in models.items():
        if not only or name in only:
            where = f"{source}: models.{name}"
            with placed(where):
                raws.append(raw_of(where, _words(name, one, shared), name))
    return raws


def _words(name: str, one: Any, shared: Mapping[str, str]) -> list[str]:
    """The words of a model's command, its variables first."""
    if not isinstance(one, dict) or not isinstance(one.get("cmd"), str):
        raise SettingsError(
            "it has no cmd; write the command that starts its server, or a list of models with - before each"
        )
    env = one.get("env") or []
    if not isinstance(env, list) or not all(isinstance(e, str) for e in env):
        raise SettingsError("env: give a list of NAME=value")
    macros = {**shared, "PORT": _FIRST_PORT, "MODEL_ID": name}
    macros = {**macros, **_macros("macros", one.get("macros"), macros)}
    cmd = "\n".join(line for line in one["cmd"].split("\n") if not line.strip().startswith("#"))
    words = split_text(_put(cmd, macros).replace("\\\n", " "))
    return [*_put("\0".join(env), macros).split("\0"), *words] if env else words


def _macros(where: str, given: Any, known: Mapping[str, str]) -> dict[str, str]:
    """Read macros, which may stand in those behind them; those of a model's own wait for it."""
    if given is not None and not (
        isinstance(given, dict) and all(isinstance(v, str) for v in given.values())
    ):
        raise SettingsError(f"{where}: give a mapping of words")
    if len(given or ()) > MAX_LISTED:
        raise SettingsError(f"{where}: more than {MAX_LISTED}; cut them")
    found: dict[str, str] = {}
    for name, value in (given or {}).items():
        with placed(where):
            found[name] = _put(value, {"PORT": _FIRST_PORT, **known, **found}, later=("MODEL_ID",))
    return found


def _put(text: str, macros: Mapping[str, str], later: tuple[str, ...] = ()) -> str:
    """Put macros into `text`, but for those that are known later. Raises `SettingsError` for one that nobody defined."""
    size = len(text)

    def value(found: re.Match[str]) -> str:
        nonlocal size
        name = found[1]
        if name in later and name not in macros:
            return found[0]
        if name.startswith("env."):
            raise SettingsError(
                f"{shown(found[0])} is of llama-swap's environment; write out what it stands for"
            )
        if name not in macros:
            near = get_close_matches(name, macros, n=1)
            raise SettingsError(
                f"{shown(found[0])}: no such macro; {f'did you mean {near[0]}?' if near else 'define it under macros'}"
            )
        size += len(macros[name])
        if size > MAX_COMMAND:
            raise SettingsError(f"macros make it longer than {MAX_COMMAND:,} characters; write it shorter")
        return macros[name]

    once = _MACRO.sub(value, text)
    return once if later else _MACRO.sub(value, once)
