"""Read the words of a llama-server command line: what they set, which model they name, what sizes nothing.

A flag that sizes nothing is passed over and said; one that takes memory which no plan counts is said as a warning.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from ..._base.errors import SettingsError
from ..._base.matches import get_close_matches
from .table import Does, Flag, by_variable, find, flags
from .values import LARGEST, LOAD_SWITCHES, is_switch, value_of

__all__ = ["Line", "is_command", "read", "split_text", "take"]

SLOTS: Final = 4  # of a server that is told none (server.cpp:159)
_ASSIGNED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_LISTS: Final = frozenset({"cpu_tensors", "draft_cpu_tensors", "lora", "control_vector"})
_SETTING: Final = (Does.SETS, Does.COMPANY)
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Line(NamedTuple):
    """What a command line asks for. Flags that are only listed stand without their values, which may be secret.

    `given` holds fields of `Settings`; `n_ctx` 0 in it is the trained context, asked for. `model` are the words
    that name the model. `company` are arguments of `accompany`. `uncounted` says why for the flags that take memory which is not planned.
    """

    given: Mapping[str, Any] = _NOTHING
    model: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    uncounted: tuple[tuple[str, tuple[str, ...]], ...] = ()
    company: Mapping[str, Any] = _NOTHING

    @property
    def passed_over(self) -> tuple[str, ...]:
        """All flags that were passed over: they change nothing in a plan."""
        return (*self.ignored, *self.host, *self.other)

    @property
    def extends(self) -> bool:
        """Whether the line sets RoPE scaling itself."""
        return any(name.startswith(("--rope-scal", "--rope-freq", "--yarn")) for name in self.ignored)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the flags that were passed over."""
        said = (
            ("Ignored, sizes nothing", self.ignored),
            ("Ignored, memory of the host that is not counted", self.host),
            ("Ignored, not a flag of llama-server", self.other),
        )
        return tuple(f"{what}: {' '.join(names)}." for what, names in said if names)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about the flags that take or change memory that is not counted."""
        return tuple(f"not counted: {' '.join(names)} ({why})" for why, names in self.uncounted)


def split_text(text: str) -> list[str]:
    """Split a command line into words as a shell does. Raises `SettingsError` for a quote that is not closed."""
    try:
        return shlex.split(text.replace("\\\r\n", " ").replace("\\\n", " "))
    except ValueError as e:
        raise SettingsError(f"{text[:200]!r} is not a command line: {e}") from None


def is_command(words: Sequence[str]) -> bool:
    """Tell whether `words` are a program's command line rather than names: one is a flag or a variable, or the
    first is a program of another engine."""
    if any(find(word) or by_variable(word.partition("=")[0]) for word in words):
        return True
    rest = [*dropwhile(_ASSIGNED.fullmatch, words)]
    return len(rest) > 1 and _other_program(rest[0]) is not None


def read(words: Iterable[str]) -> Line:
    """Read `words`, which may begin with variables and the program, into a `Line`.

    Raises `SettingsError` for a flag that no program of the engine has, one that cannot be planned for, and a
    value that is missing or malformed.
    """
    words = list(words)
    made = _Making()
    at = 0
    while at < len(words) and (assigned := _ASSIGNED.fullmatch(words[at])):
        if known := by_variable(assigned[1]):
            made.assign(assigned[1], *known, assigned[2])
        at += 1
    if at < len(words) and not words[at].startswith("-"):
        program, at = PurePath(words[at]).name, at + 1
        if (other := _other_program(program)) is not None:
            raise SettingsError(f"{program}: give a command line of llama-server{other}")
    while at < len(words):
        at = made.take(words, at)
    return made.line()


# Programs whose command lines people paste, and what to do instead.
_OTHERS: Final = {
    "ollama": ", or name the model and say --engine ollama",
    "lms": ", or name the model and say --engine lm-studio",
    "python": ", or name the model and say --engine llama-cpp-python",
    "docker": ": that which runs in the container",
    "podman": ": that which runs in the container",
}


def _other_program(word: str) -> str | None:
    """Say what to do instead of pasting a line of this other program; None where the program is not known."""
    name = PurePath(word).name
    return next((said for known, said in _OTHERS.items() if name.startswith(known)), None)


def take(words: Sequence[str], at: int) -> tuple[Flag, bool, int, str | None] | None:
    """Find the flag at a position, whether it is on, how many words it takes, and its value behind `=`; None for none.

    `--flag=value` is understood where the flag has one value. Flash attention may stand without its value, as
    older builds have it.
    """
    name, equals, value = words[at].partition("=")
    known = find(words[at]) or (find(name) if equals and name.startswith("--") else None)
    if known is None:
        return None
    flag, on = known
    if equals and not find(words[at]):
        return (flag, on, 1, value) if flag.n_values == 1 else None
    if flag.kind == "switch" and not (at + 1 < len(words) and _is_value(words[at + 1])):
        return flag, on, 1, "on"
    return flag, on, 1 + flag.n_values, None


def _is_value(word: str) -> bool:
    """Tell whether `word` is a value of the switch before it: a flag, a file or a card is not."""
    return is_switch(word) or word.isalpha()


class _Making:
    """Collects a `Line` while its words are read."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.company: dict[str, Any] = {}
        self.model: list[str] = []
        self.listed: dict[Does, dict[str, None]] = {}
        self.uncounted: dict[str, dict[str, None]] = {}

    def assign(self, name: str, flag: Flag, on: bool, value: str) -> None:
        """Take the variable `name`; a flag without a value is set by `on`, and not at all by another."""
        if not on:
            value = "off"
        if flag.does in _SETTING:
            self._set(flag, name, value)
        else:
            self._pass(flag, name, (value,), on)

    def take(self, words: Sequence[str], at: int) -> int:
        """Take the flag at a position; return the position behind it and its values."""
        found = take(words, at)
        if found is None:
            raise SettingsError(_unknown(words[at]))
        flag, on, length, behind = found
        name = words[at].partition("=")[0] if behind is not None else words[at]
        values = (behind,) if behind is not None else tuple(words[at + 1 : at + length])
        if behind is None and len(values) < flag.n_values:
            raise SettingsError(
                f"{name} needs {'a value' if flag.n_values == 1 else f'{flag.n_values} values'}"
            )
        if flag.does in _SETTING:
            self._set(flag, name, values[0] if flag.n_values else "on" if on else "off")
        else:
            self._pass(flag, name, values, on)
        return at + length

    def _set(self, flag: Flag, name: str, word: str) -> None:
        value = value_of(flag.kind, name, word)
        into = self.given if flag.does is Does.SETS else self.company
        if flag.field in _LISTS:
            value = (*into.get(flag.field, ()), *value)
        if flag.kind == "rerank" and value:  # arg.cpp:3487
            into["pooling"] = "rank"
        into[flag.kind if flag.kind in LOAD_SWITCHES else flag.field] = value

    def _pass(self, flag: Flag, name: str, values: tuple[str, ...], on: bool) -> None:
        if flag.does is Does.REFUSED:
            raise SettingsError(f"{name}: {flag.why}")
        if flag.does is Does.MODEL:
            self.model += [flag.names[0], *values]
        elif flag.does is Does.UNCOUNTED and on:
            self.uncounted.setdefault(flag.why, {})[name] = None
        else:
            does = Does.NOTHING if flag.does is Does.UNCOUNTED else flag.does
            self.listed.setdefault(does, {})[name] = None

    def line(self) -> Line:
        """Return what was read."""
        given = dict(self.given)
        if given.get("n_ctx") == LARGEST:
            del given["n_ctx"]
        if given.get("n_seq_max", 1) < 0:
            del given["n_seq_max"]  # auto: the default
        older = {name: given.pop(name) for name in LOAD_SWITCHES if name in given}
        if older and "load_mode" not in given:
            given["load_mode"] = _load_mode(**older)
        each = given.pop("n_ctx_slot", 0)
        if each and "n_ctx" not in self.given:
            given["n_ctx"] = each * given.get("n_seq_max", SLOTS)
        names = {does: tuple(self.listed.get(does, ())) for does in (Does.NOTHING, Does.HOST, Does.OTHER)}
        return Line(
            MappingProxyType(given), tuple(self.model), names[Does.NOTHING], names[Does.HOST], names[Does.OTHER],
            tuple((why, tuple(found)) for why, found in self.uncounted.items()),
            MappingProxyType(dict(self.company)),
        )  # fmt: skip


def _load_mode(mlock: bool = False, mmap: bool = True, direct_io: bool = False) -> str:
    """The mode that the flags of older builds make; direct reads took the place of a mapping there, too."""
    if mlock:
        return "mmap+mlock" if mmap and not direct_io else "mlock"
    return "dio" if direct_io else "mmap" if mmap else "none"


def _unknown(word: str) -> str:
    known = [name for flag in flags() for name in (*flag.names, *flag.off)]
    near = get_close_matches(word, known, n=2, cutoff=0.7)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; leave it out"
    return f"{word[:80]!r}: not a flag of llama-server{hint}"
