"""Text of any size → lines that patterns can be asked about: without colours, ends and what is not text.

In: a string, bytes, an open file, or pieces of text. Out: lines, one by one, each of bounded length, so that a log of
many gigabytes takes no more memory than a short one. What stands before a line (times, names of containers, levels)
stays: patterns look behind it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["LONGEST", "lines_of"]

LONGEST: Final = 1 << 16  # characters of a line; what is behind them is passed over
_PIECE: Final = 1 << 20
_ENDS: Final = re.compile(r"\r\n|\n|\r")
_CODES: Final = re.compile(
    r"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b]{0,999}(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b-\x1f\x7f]"
)
# A container's log in JSON: the text with its escapes, which a line of its own must not cross.
_JSON: Final = re.compile(r'\{"log":"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_MEANING: Final = {"n": " ", "r": "", "t": " ", '"': '"', "\\": "\\", "/": "/"}


def lines_of(text: str | bytes | Iterable[str | bytes]) -> Iterator[str]:
    """Cut text into clean lines; pieces may end anywhere, as those of a file or a pipe do."""
    rest, skipping = "", False
    for piece in _pieces(text):
        parts = _ENDS.split(rest + piece) if not skipping else _ENDS.split(piece)
        rest = parts.pop()
        for n, part in enumerate(parts):
            if not (skipping and n == 0):
                yield _clean(part)
        skipping = skipping and not parts
        if skipping:
            rest = ""
        elif len(rest) > LONGEST:
            yield _clean(rest)
            rest, skipping = "", True
    if rest:
        yield _clean(rest)


def _pieces(text: str | bytes | Iterable[str | bytes]) -> Iterator[str]:
    """Pieces of text; bytes are read as UTF-8, or as UTF-16 where they begin so, as PowerShell writes them."""
    decoder = None
    for piece in _cut(text) if isinstance(text, str | bytes) else text:
        if isinstance(piece, str):
            yield piece
            continue
        if decoder is None:
            decoder = _decoder(piece)
        yield decoder.decode(piece)


def _cut(text: str | bytes) -> Iterator[str | bytes]:
    for i in range(0, len(text), _PIECE):
        yield text[i : i + _PIECE]


def _decoder(first: bytes) -> codecs.IncrementalDecoder:
    wide = first[:2] in (b"\xff\xfe", b"\xfe\xff")
    return codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")("replace")


def _clean(line: str) -> str:
    line = line[:LONGEST]
    if line.startswith('{"log":"') and (found := _JSON.match(line)):
        line = _ESCAPED.sub(lambda m: chr(int(m[1], 16)) if m[1] else _MEANING.get(m[2], m[2]), found[1])
    if "\x1b" in line or not line.isprintable():
        line = _CODES.sub("", line)
    return line.rstrip()
