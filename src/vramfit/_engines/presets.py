"""Write a model's command line as a section of the router's presets (`--models-preset`), an INI of the engine's own kind.

In: a name and the words behind llama-server. Out: lines of text. Source: common/preset.cpp:184-330 (grammar, keys), :41-80
(a section becomes a child's arguments), common/arg.h:65 (in the order of the flags' first spellings: --rpc before -dev, and what stays on the host in
another order, which changes nothing).
A value runs to the end of its line or to ; or #, which no quoting keeps; a key stands once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .._base.errors import SettingsError, shown
from .._llama.flags import Flag, take

__all__ = ["section"]

_ENDS: Final = ";#"  # each begins a comment, wherever it stands
_JOINED: Final = frozenset(
    {"--override-tensor", "--override-tensor-draft", "--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled"}
)  # fmt: skip


def section(name: str, words: Sequence[str], **more: str) -> str:
    """Write the section `name` of a model that is told `words`; `more` are keys that no command line has.

    Raises `SettingsError` for a value that no preset can hold.
    """
    values: dict[str, str] = {}
    at = 0
    while at < len(words):
        found = take(words, at)
        assert found is not None  # our own words
        flag, on, length, _ = found
        key = _long(flag)
        value = words[at + 1] if flag.n_values else "true" if on else "false"
        _check(words[at], value)
        values[key] = f"{values[key]},{value}" if key in values and f"--{key}" in _JOINED else value
        at += length
    values |= {key.replace("_", "-"): value for key, value in more.items()}
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]) + "\n"


def _long(flag: Flag) -> str:
    """Find the spelling that the engine itself writes: the last one (preset.cpp:51)."""
    return flag.names[-1].lstrip("-")


def _check(flag: str, value: str) -> None:
    if not value or value != value.strip() or not value.isprintable() or any(c in value for c in _ENDS):
        raise SettingsError(
            f"{flag} {shown(value)}: no preset can hold it, for spaces at an end, ; and # cut it; rename the file, or run"
            " a llama-server for each model"
        )
