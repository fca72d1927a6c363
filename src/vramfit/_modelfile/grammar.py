"""Parse Modelfiles as Ollama's own parser does (parser/parser.go), without losing a byte.

A line is `COMMAND value`; `#` opens a comment where a command could start. A value runs to the end of the line, or
stands in `"…"` or `\"\"\"…\"\"\"` and may then span lines: it ends at the first line end after which the quote is
closed, and no escape exists. A byte order mark chooses the encoding, else it is UTF-8.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .._base.errors import ModelfileError, shown

__all__ = ["Command", "Modelfile", "parse_modelfile"]

COMMANDS: Final = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message", "requires",
)  # fmt: skip
ROLES: Final = ("system", "user", "assistant")
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BLANK: Final = " \t"
_ENDS: Final = "\r\n"
_TRIPLE: Final = '"""'
_END: Final = re.compile(r"[\r\n]")
# Each quote, and where it closes: behind it nothing but blanks, to the end of the line.
_QUOTES: Final = tuple((quote, re.compile(rf"{quote}[^\S\r\n]*(?=[\r\n]|\Z)")) for quote in (_TRIPLE, '"'))
_WORD: Final = re.compile(r"([^ \t\r\n]*)([ \t]?)")
_PARAMETER: Final = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `name` is in lower case; `key` is the name of a parameter or the role of a message.

    `value` is without its quotes and lies at [start, end) of the text.
    """

    name: str
    value: str
    line: int  # from 1: where the command stands
    start: int
    end: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """A Modelfile: its whole text, and where the commands are in it."""

    text: str
    commands: tuple[Command, ...]
    mark: bytes = b""  # the byte order mark
    encoding: str = "utf-8"
    name: str = "Modelfile"  # for messages

    def to_bytes(self) -> bytes:
        """Write the file. Of one that was not changed, every byte is as it was read."""
        return self.mark + self.text.encode(self.encoding, _errors(self.encoding))

    def parameters(self, key: str) -> tuple[Command, ...]:
        """List the PARAMETER commands of that name, in order; the last one counts."""
        return tuple(c for c in self.commands if c.name == "parameter" and c.key == key)

    def values(self, name: str) -> tuple[str, ...]:
        """List the values of every command `name`, such as "from"."""
        return tuple(c.value for c in self.commands if c.name == name)

    def replace(self, command: Command, value: str) -> Modelfile:
        """Give one command of the file another value; nothing else changes."""
        changed = self.text[: command.start] + value + self.text[command.end :]
        commands = _commands(changed, self.name)
        return Modelfile(changed, tuple(commands), self.mark, self.encoding, self.name)


def parse_modelfile(data: bytes | str, *, name: str = "Modelfile") -> Modelfile:
    """Parse the Modelfile in `data`. Raises `ModelfileError`, with the line, for what Ollama would not accept."""
    mark, encoding = b"", "utf-8"
    if not isinstance(data, bytes | str) or not isinstance(name, str):
        raise ModelfileError(
            f"data={shown(data)}, name={shown(name)}: give the text of a Modelfile, and a name"
        )
    if isinstance(data, bytes):
        mark, encoding = next(((m, e) for m, e in _MARKS if data.startswith(m)), (b"", "utf-8"))
        try:
            data = data[len(mark) :].decode(encoding, _errors(encoding))
        except UnicodeDecodeError as e:
            raise ModelfileError(f"{name}: not {encoding} as its byte order mark says: {e.reason}") from None
    commands = tuple(_commands(data, name))
    if not any(c.name == "from" for c in commands):
        raise ModelfileError(f"{name}: no FROM line; a Modelfile names its model with FROM")
    return Modelfile(data, commands, mark, encoding, name)


def _errors(encoding: str) -> str:
    """Choose what happens to faulty bytes: what is not UTF-8 is kept, what is not UTF-16 is refused."""
    return "surrogateescape" if encoding == "utf-8" else "strict"


def _commands(text: str, name: str) -> Iterator[Command]:
    return _Reader(text, name).commands()


class _Reader:
    """Walks a text once; a position is an index into it."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._line_starts = [0, *(m.end() for m in re.finditer(r"\r\n|\r|\n", text))]

    def commands(self) -> Iterator[Command]:
        """List every command, in order."""
        at, text = 0, self._text
        while at < len(text):
            if text[at] in _BLANK + _ENDS:
                at += 1
            elif text[at] == "#":
                at = self._line_end(at)
            else:
                command, at = self._command(at)
                yield command

    def _command(self, at: int) -> tuple[Command, int]:
        line = bisect_right(self._line_starts, at)
        where = f"{self._name}, line {line}"
        word, after = self._word(at)
        command, key = word.lower(), ""
        if command not in COMMANDS:
            raise ModelfileError(f"{where}: {word!r} is not a command; give {', '.join(COMMANDS).upper()}")
        if command in ("parameter", "message"):
            key, after = self._word(after)
        if command == "message" and key not in ROLES:
            raise ModelfileError(f"{where}: MESSAGE {key!r}: give {', '.join(ROLES)}")
        if command == "parameter" and not _PARAMETER.fullmatch(key):
            raise ModelfileError(f"{where}: PARAMETER {key!r}: a name has letters, digits and _")
        if after > len(self._text):
            raise ModelfileError(f"{where}: {word.upper()} has no value")
        start, end, at = self._value(after, where)
        return Command(command, self._text[start:end], line, start, end, key), at

    def _word(self, at: int) -> tuple[str, int]:
        """Read the word at `at`, and where its value may start: behind one blank, else past the text."""
        match = _WORD.match(self._text, at)
        if match is None:  # past the text already
            return "", len(self._text) + 1
        return match[1], match.end() if match[2] else len(self._text) + 1

    def _line_end(self, at: int) -> int:
        match = _END.search(self._text, at)
        return match.start() if match else len(self._text)

    def _value(self, at: int, where: str) -> tuple[int, int, int]:
        """Start and end of the value proper, and where the next command may start. Every character is looked at once."""
        text, end = self._text, self._line_end(at)
        start = at + len(text[at:end]) - len(text[at:end].lstrip())
        for quote, closing in _QUOTES:
            if text.startswith(quote, start, end):
                closed = closing.search(text, start + len(quote))
                if closed is None:
                    raise ModelfileError(f"{where}: a quote is not closed before the end of the file")
                return start + len(quote), closed.start(), closed.end()
        return start, start + len(text[start:end].rstrip()), end
