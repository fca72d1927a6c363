"""Read the presets of llama-server's router as it does: sections are models, keys are flags without dashes.

Source: common/preset.cpp (the grammar 162-231, keys 234-270, values 45-74), tools/server/server-models.cpp:664-711.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ..._base.errors import SettingsError, shown
from ..._base.matches import get_close_matches
from ..._llama.flags import Flag, by_variable, flags
from .nouns import MAX_LISTED, Raw

__all__ = ["HEADER", "of_preset"]

ALL: Final = "*"  # the section whose keys hold for every model
UNNAMED: Final = "default"  # that of keys before any section
HEADER: Final = re.compile(r"\[([^\]\n]+)\][ \t]*(?:[;#].*)?")
_KEY: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=([^;#]*)(?:[;#].*)?")
_REPO: Final = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_TAG: Final = re.compile(r"[-.]([A-Za-z0-9_]+)$")
_TRUE: Final = ("on", "enabled", "true", "1")  # common/arg.cpp:1334
_FALSE: Final = ("off", "disabled", "false", "0")
# Of presets alone (arg.cpp:4742), a key for later, and what the router sets itself (server-models.cpp:469).
_ROUTERS: Final = ("version", "load-on-startup", "stop-timeout", "dedup-cache-models")
_RESERVED: Final = (
    "LLAMA_ARG_MODELS_DIR", "LLAMA_ARG_MODELS_MAX", "LLAMA_ARG_MODELS_PRESET", "LLAMA_ARG_MODELS_AUTOLOAD", "LLAMA_ARG_ALIAS",
)  # fmt: skip

_Section = dict[str, str]


def of_preset(text: str, source: str) -> list[Raw]:
    """Read presets, those of `[*]` under each model's own. Raises `SettingsError`, which names the line, section or key."""
    sections = _sections(text, source)
    for_all = _options(sections.pop(ALL, {}), f"{source}: [{ALL}]")
    found = []
    for section, keys in sections.items():
        where, name = f"{source}: [{section}]", _named(section)
        own = _options(keys, where)
        if section == UNNAMED and not own:
            continue
        told = {**for_all, **own}
        names_one = any(
            w in ("--model", "--hf-repo", "--model-url", "--docker-repo")
            for words in told.values()
            for w in words[:1]
        )
        reference = "" if names_one or not _REPO.fullmatch(section) else f"hf://{name}"
        if not names_one and not reference:
            what = (
                f"keys that hold for all models stand under [{ALL}]"
                if section == UNNAMED
                else "add model = FILE or hf-repo = USER/REPO"
            )
            raise SettingsError(f"{where}: names no model; {what}")
        found.append(Raw(where, tuple(w for words in told.values() for w in words), name, reference))
    return found


def _sections(text: str, source: str) -> dict[str, _Section]:
    found: dict[str, _Section] = {}
    now = UNNAMED
    for number, line in enumerate(text.split("\n"), 1):
        if header := HEADER.fullmatch(line):
            now = header[1].strip(" \t")
            found[now] = {}
            if len(found) > MAX_LISTED:
                raise SettingsError(f"{source}: more than {MAX_LISTED} sections; cut the list")
        elif key := _KEY.fullmatch(line):
            found.setdefault(now, {})[key[1]] = key[2].strip(" \t")
        elif line.strip(" \t") and not line.lstrip(" \t").startswith((";", "#")):
            raise SettingsError(
                f"{source}: line {number}: {shown(line)}: write [section], key = value, or ; and a comment"
            )
    return found


def _options(keys: _Section, where: str) -> dict[tuple[str, ...], list[str]]:
    """Turn keys into words, one flag each: two spellings of a flag are one, the last by the alphabet (a std::map)."""
    found: dict[tuple[str, ...], list[str]] = {}
    for key, value in sorted(keys.items()):
        if key in _ROUTERS:
            continue
        flag, on = _flag(key, where)
        if flag.variable in _RESERVED:
            continue
        if flag.n_values > 1:
            raise SettingsError(
                f"{where}: {key}: it takes {flag.n_values} values, which a preset cannot give"
            )
        found[flag.names] = [flag.names[-1], value] if flag.n_values else _switched(flag, on, value)
    return found


def _flag(key: str, where: str) -> tuple[Flag, bool]:
    """Find the flag of a key, and whether it is spelt as on. Raises `SettingsError`."""
    known = _known()
    found = known.get(key)
    if found is None and (variable := by_variable(key)):
        found = variable[0], True  # the value of LLAMA_ARG_NO_X is not turned round (preset.cpp:253)
    if found is None:
        near = get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "leave it out"
        raise SettingsError(f"{where}: {shown(key)} is no flag of llama-server; {hint}")
    return found


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[Flag, bool]]:
    """Every spelling without its dashes; where two flags share one, that of llama-server counts."""
    found: dict[str, tuple[Flag, bool]] = {}
    for flag in flags():
        for on, names in ((True, flag.names), (False, flag.off)):
            for name in names:
                found.setdefault(name.lstrip("-"), (flag, on))
    return found


def _switched(flag: Flag, on: bool, value: str) -> list[str]:
    """The word of a flag without a value: a negated key turns its value round, what is false is negated or left out."""
    low = value.lower()
    off = low in _TRUE if not on else low in _FALSE
    if not off:
        return [flag.names[-1]]
    return [flag.off[-1]] if flag.off else []


def _named(section: str) -> str:
    """What the router calls a section: the tag of a repository is written large (preset.cpp:19)."""
    name, colon, tag = section.rpartition(":")
    if not colon:
        return section
    last = _TAG.search(tag)
    return f"{name}:{(last[1] if last else tag).upper()}"
