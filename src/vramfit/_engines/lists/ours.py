"""Read the YAML that vramfit takes: `models`, a list, and the cards, host, margin and objective for all of them."""

from __future__ import annotations

from typing import Any, Final

from ..._base.errors import SettingsError, shown
from ..._llama.flags import is_command, split_text
from .nouns import MAX_LISTED, TRAINED, Raw, check_keys, placed, tokens
from .shell import at_home

__all__ = ["KEYS", "MODEL_KEYS", "of_ours"]

KEYS: Final = ("gpus", "host", "margin", "maximise", "models")
MODEL_KEYS: Final = ("model", "name", "ctx", "wish", "weight", "flags", "command")


def of_ours(found: dict[str, Any], source: str) -> tuple[list[Raw], dict[str, str]]:
    """Read what YAML holds: models, and what is said for all. Raises `SettingsError`, which names the key."""
    check_keys(source, found, KEYS)
    models = found.get("models")
    if not isinstance(models, list):
        raise SettingsError(f"{source}: models: give a list, each with - before it")
    if len(models) > MAX_LISTED:
        raise SettingsError(f"{source}: more than {MAX_LISTED} models; cut the list")
    shared = {key: _word(f"{source}: {key}", found.get(key), several=key == "gpus") for key in KEYS[:-1]}
    return [_model(one, f"{source}: models[{i}]") for i, one in enumerate(models)], shared


def _word(where: str, value: Any, *, several: bool = False) -> str:
    """Take one word; where `several` may stand, they become one with commas."""
    if several and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ",".join(value)
    if value is not None and not isinstance(value, str):
        raise SettingsError(f"{where}: {shown(value)}: give one value")
    return (value or "").strip()


def _model(one: Any, where: str) -> Raw:
    if isinstance(one, str):
        with placed(where):
            if " " in one and is_command(split_text(one)):
                raise SettingsError(f"{shown(one)} is a command; write - command: before it")
        return Raw(where, (), reference=at_home(one))
    if not isinstance(one, dict):
        raise SettingsError(
            f"{where}: {shown(one)}: give a model's name, or a mapping with {', '.join(MODEL_KEYS)}"
        )
    check_keys(where, one, MODEL_KEYS)
    told = {key: _word(f"{where}: {key}", one.get(key)) for key in MODEL_KEYS}
    if bool(told["model"]) == bool(told["command"]):
        raise SettingsError(f"{where}: give model, or command, which names one: one of the two")
    if told["command"] and told["flags"]:
        raise SettingsError(f"{where}: flags beside command: write them into the command")
    with placed(where):
        words = tuple(split_text(told["command"] or told["flags"]))
        if told["flags"] and not (words and words[0].startswith("-")):
            raise SettingsError(f"flags {shown(told['flags'])}: give flags of llama-server, as in -fa on")
        return Raw(
            where, words, told["name"], at_home(told["model"]), told["ctx"] or None, _wish(told["wish"]), _weight(told["weight"])
        )  # fmt: skip


def _wish(word: str) -> int | None:
    if not word:
        return None
    return 0 if word.lower() == TRAINED else tokens("wish", word)


def _weight(word: str) -> float:
    try:
        return float(word or 1)
    except ValueError:
        raise SettingsError(f"weight {shown(word)}: give a number above 0, such as 2") from None
