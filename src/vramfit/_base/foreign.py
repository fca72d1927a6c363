"""Quote text that others wrote (headers, paths, registries, servers) for screens, shells, YAML, JSON and Modelfiles.

In: any string. Out: one that stays in its place: a line of a terminal, a word of a shell, a scalar of YAML or JSON,
a value of a Modelfile, and reads back as what went in. One function a language; Python's is `repr`. What is no
printable character is escaped everywhere: line ends, escape codes, marks that turn the order of writing, halves of
characters that stand for bytes of a path.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from math import isfinite
from typing import Final

__all__ = ["html_text", "json_text", "modelfile_value", "printable", "shell", "shell_line", "yaml_text"]

LONGEST: Final = 2000  # characters of one foreign text on a screen


def printable(text: str, longest: int = LONGEST) -> str:
    """Make `text` one line that a terminal shows as it is: what is not printable becomes `\\x1b`, `\\n` or `\\u202e`.

    Of a text longer than `longest` characters the middle is left out.
    """
    if len(text) > longest:
        text = f"{text[: longest * 2 // 3]} … {text[-longest // 3 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    return c.encode("unicode_escape", "backslashreplace").decode("ascii")


def html_text(text: str) -> str:
    """Escape `text` for the inside of an element or of a quoted attribute."""
    from html import escape  # only pages need it, with its thousand names of characters

    return escape(printable(text))


def json_text(value: object, indent: int | None = 2) -> str:
    """Write plain values as JSON, lossless; a number that is not finite becomes null."""
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False)
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    return [_finite(x) for x in value] if isinstance(value, list | tuple) else value


def yaml_text(text: str) -> str:
    """Write `text` as a double-quoted scalar of YAML."""
    return '"' + "".join(_in_yaml(c) for c in text) + '"'


def _in_yaml(c: str) -> str:
    if c in '"\\':
        return f"\\{c}"
    if c.isprintable():
        return c
    n = ord(c)
    return f"\\x{n:02x}" if n < 0x100 else f"\\u{n:04x}" if n < 0x10000 else f"\\U{n:08x}"


def shell(word: str) -> str:
    """Quote one word for a POSIX shell; for bash, zsh or ksh where it has what is not printable (`$'…'`)."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_in_shell, word))}'"


def _in_shell(c: str) -> str:
    if c in "'\\":
        return f"\\{c}"
    if c.isprintable():
        return c
    return "".join(f"\\x{byte:02x}" for byte in c.encode("utf-8", "surrogateescape"))


def shell_line(words: Iterable[str]) -> str:
    """Join words into a command line of a shell."""
    return " ".join(map(shell, words))


def modelfile_value(text: str) -> str | None:
    """Quote a value of a Modelfile's command where it has to be; None where no quoting can hold it.

    Modelfiles know no escapes: a value runs to the end of its line, or to the quote that it began with.
    """
    if not text or not text.isprintable():
        return None
    if text == text.strip() and not text.startswith('"'):
        return text
    return None if '"' in text else f'"{text}"'
