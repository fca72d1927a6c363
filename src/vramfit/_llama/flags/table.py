"""Find a flag of the engine by any spelling or environment variable."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from . import engine

__all__ = ["Does", "Flag", "by_variable", "find", "flags"]

# `--ctx` is vramfit's own short form of `--ctx-size`.
OURS: Final = {"--ctx": "--ctx-size"}


class Does(Enum):
    """What a flag means for a plan."""

    SETS = "sets a field of Settings"
    MODEL = "names the model"
    COMPANY = "says what is loaded beside the model"
    NOTHING = "sizes nothing"
    HOST = "host memory that no plan counts"
    OTHER = "not a flag of llama-server"
    UNCOUNTED = "takes memory that is not planned"
    REFUSED = "cannot be planned for"


class Flag(NamedTuple):
    """One flag of the engine. `off` are its negated spellings, `n_values` how many words follow it.

    `field` is what it sets in `Settings`, or which argument of `accompany` it is, and `kind` how its value is read; `why` says why it is not planned.
    """

    names: tuple[str, ...]
    off: tuple[str, ...]
    n_values: int
    variable: str  # of the environment; "" for none
    does: Does
    field: str = ""
    kind: str = ""
    why: str = ""


@lru_cache(maxsize=1)
def flags() -> tuple[Flag, ...]:
    """List every flag; where two share a spelling, the one of llama-server comes first."""
    return tuple(_all())


def find(word: str) -> tuple[Flag, bool] | None:
    """Find the flag that `word` spells, and whether it is spelt as on; None for none.

    In a word with two dashes an underscore stands for a dash (arg.cpp:836).
    """
    if not word.startswith("-"):
        return None
    name = word.replace("_", "-") if word.startswith("--") else word
    return _index().get(OURS.get(name, name))


def by_variable(name: str) -> tuple[Flag, bool] | None:
    """Find the flag that an environment variable sets; LLAMA_ARG_NO_X is the negation of LLAMA_ARG_X (arg.cpp:124)."""
    for flag in flags():
        if flag.variable and flag.variable == name:
            return flag, True
        if flag.off and flag.variable and flag.variable.replace("LLAMA_ARG_", "LLAMA_ARG_NO_") == name:
            return flag, False
    return None


@lru_cache(maxsize=1)
def _index() -> dict[str, tuple[Flag, bool]]:
    found: dict[str, tuple[Flag, bool]] = {}
    for flag in flags():
        for on, names in ((True, flag.names), (False, flag.off)):
            for name in names:
                found.setdefault(name, (flag, on))
    return found


def _all() -> Iterator[Flag]:
    settings = ((engine.SETS, Does.SETS), (engine.OLDER, Does.SETS), (engine.COMPANY, Does.COMPANY))
    for text, does in settings:
        for meaning, *words in _entries(text):
            field, _, kind = meaning.partition(":")
            yield _flag(words, does, field=field, kind=kind)
    for text, does in (
        (engine.MODEL, Does.MODEL),
        (engine.HOST, Does.HOST),
        (engine.NOTHING, Does.NOTHING),
    ):
        for entry in _entries(text):
            yield _flag(entry, does)
    for reasons, does in ((engine.UNCOUNTED, Does.UNCOUNTED), (engine.REFUSED, Does.REFUSED)):
        for why, text in reasons.items():
            for entry in _entries(text):
                yield _flag(entry, does, why=why)
    for entry in _entries(engine.OTHER):
        yield _flag(entry, Does.OTHER)


def _entries(text: str) -> Iterator[list[str]]:
    for entry in text.split(";"):
        if words := entry.split():
            yield words


def _flag(words: list[str], does: Does, *, field: str = "", kind: str = "", why: str = "") -> Flag:
    marked = {mark: tuple(w[1:] for w in words if w[0] == mark) for mark in "~=$"}
    return Flag(
        names=tuple(w for w in words if w[0] == "-"),
        off=marked["~"],
        n_values=int(next(iter(marked["="]), 0)),
        variable=next(iter(marked["$"]), ""),
        does=does,
        field=field,
        kind=kind,
        why=why,
    )
