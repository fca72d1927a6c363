"""Split a line of a shell into its commands, without its redirections and comments, with variables put in.

What only a shell can know is refused: other variables, what a command prints, here-documents.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from ..._base.errors import SettingsError, shown
from ..._llama.flags import split_text

__all__ = ["at_home", "commands_of", "logical_lines"]

MAX_COMMAND: Final = 1 << 16  # characters, variables put in
_QUOTED: Final = r"""'[^']*'|"(?:\\.|[^"\\])*"|\\."""
_WORD: Final = rf"""(?:[^\s;&|<>()'"\\]|{_QUOTED})+"""
_PART: Final = re.compile(
    rf"""(?P<comment>(?<![^\s;&|()])\#.*)
    |(?P<redirect>(?:(?<![^\s;&|()])\d)?(?:&>>?|>>?\|?|<(?!<))(?:&[\d-]|\s*{_WORD}))
    |(?P<control>&&|\|\||[;&|()])
    |(?P<single>'[^']*')
    |(?P<double>"(?:\\.|[^"\\])*")
    |(?P<text>(?:[^\s;&|<>()'"\\]|\\.|\\\Z)+|\s+)""",
    re.VERBOSE | re.DOTALL,
)
_VARIABLE: Final = re.compile(r"\\.|\$(?:([A-Za-z_]\w*)|\{(\w+)\}|(?=[({@*#?!$\d-]))|`", re.DOTALL)


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """List the lines of a script with the number where each begins; one that ends with a backslash goes on."""
    start, parts = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        start = start if parts else number
        is_comment = not parts and line.lstrip().startswith("#")
        if (len(line) - len(line.rstrip("\\"))) % 2 and not is_comment:
            parts.append(line[:-1])
            continue
        yield start, " ".join([*parts, line])
        parts = []
    if parts:
        yield start, " ".join(parts)


def commands_of(line: str, variables: Mapping[str, str]) -> list[list[str]]:
    """Split a line into the words of its commands. Raises `SettingsError` for what only a shell can know."""
    commands, at = [""], 0
    while at < len(line):
        part = _PART.match(line, at)
        if part is None:
            split_text(line[at:])  # says so where a quote is not closed
            raise SettingsError(f"{shown(line[at:])}: give plain commands, one a line")
        at, kind, text = part.end(), part.lastgroup, part[0]
        if kind == "control":
            commands.append("")
        elif kind == "text" and text.endswith("$") and line.startswith("(", at):
            raise _unknown(line[part.end() - 1 :])
        elif kind == "single":
            commands[-1] += text
        elif kind in ("text", "double"):
            commands[-1] += _put(text, variables)
        if len(commands[-1]) > MAX_COMMAND:
            raise _too_long()
    found = (split_text(c) for c in commands)
    return [[at_home(w) for w in words] for words in found if words]


def _put(text: str, variables: Mapping[str, str]) -> str:
    """Put values of variables where they are named."""
    size = len(text)

    def value(found: re.Match[str]) -> str:
        nonlocal size
        if found[0].startswith("\\"):
            return found[0]
        name = found[1] or found[2]
        if name not in variables or re.search(r"""['"\\]""", variables[name]):
            raise _unknown(found[0] if name else text[found.start() :])
        size += len(variables[name])
        if size > MAX_COMMAND:
            raise _too_long()
        return variables[name]

    return _VARIABLE.sub(value, text) if "$" in text or "`" in text else text


def _unknown(text: str) -> SettingsError:
    return SettingsError(f"{shown(text[:40])} is for a shell to know; write out what it stands for")


def _too_long() -> SettingsError:
    return SettingsError(f"a command of more than {MAX_COMMAND:,} characters; write it shorter")


def at_home(word: str) -> str:
    """Put the home folder where a shell would: for a `~` before a slash."""
    return os.path.expanduser(word) if word.startswith("~/") else word
