"""The definitions of a C++ file: functions, types, tables and macros, with their lines and what they say.

In: text. Out: `Definition`s, in the order of the file. No compiler is asked: tokens are told apart, braces counted, and of
conditional branches that open other braces than they close only the first counts. Enough for the engine's own style; what it
cannot name is left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = ["Definition", "definitions"]

_TOKEN: Final = re.compile(
    r"""
      (?P<directive>^[ \t]*\#(?:\\\r?\n|/\*.*?\*/|[^\n])*)
    | (?P<space>[ \t\f\v\r]+|\\\r?\n|//(?:\\\r?\n|[^\n])*)
    | (?P<line>\n)
    | (?P<comment>/\*.*?\*/)
    | (?P<text>R"(?P<mark>[^()\s\\"]{0,16})\(.*?\)(?P=mark)"|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<word>\d[\w.]*(?:'\w+)*|[^\W\d]\w*)
    | (?P<sign>::|.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_TYPES: Final = frozenset(("struct", "class", "union", "enum"))
_ATTRIBUTES: Final = frozenset(
    ("__attribute__", "alignas", "__declspec", "GGML_ATTRIBUTE_FORMAT", "decltype")
)
_DEFINE: Final = re.compile(r"#\s*define\s+(\w+)")


class Definition(NamedTuple):
    """One definition. `lines` are those of the file without comments and layout, empty ones left out, each with its number."""

    name: str
    start: int
    end: int
    lines: tuple[tuple[int, str], ...]


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def definitions(text: str) -> list[Definition]:
    """Find the definitions outside of functions and types; a member function that stands in its type is part of that."""
    tokens = list(_tokens(text))
    return [d for d in map(_definition, _items(tokens, _braces(tokens))) if d is not None]


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or ""
        if kind == "mark":
            kind = "text"
        if kind not in ("space", "line", "comment"):
            yield _Token(kind, found[0], line)
        line += found[0].count("\n")


def _braces(tokens: Sequence[_Token]) -> list[int]:
    """What each token opens (1) or closes (-1), with one branch of each condition alone where branches differ."""
    found = [{"{": 1, "}": -1}.get(t.text, 0) if t.kind == "sign" else 0 for t in tokens]
    branches: list[list[int]] = []  # of each open condition: where its branches start
    for i, t in enumerate(tokens):
        word = t.text.lstrip(" \t#").split(None, 1)[:1] if t.kind == "directive" else []
        if word and word[0].startswith("if"):
            branches.append([i])
        elif word and word[0].startswith("el") and branches:
            branches[-1].append(i)
        elif word and word[0].startswith("endif") and branches:
            starts = branches.pop()
            spans = list(itertools.pairwise([*starts, i]))
            if any(sum(found[a:b]) for a, b in spans):
                for a, b in spans[1:]:
                    found[a:b] = [0] * (b - a)
    return found


@dataclass(slots=True)
class _Item:
    """What has been read of a definition. `head` ends where its body begins."""

    tokens: list[_Token] = field(default_factory=list)
    head: int = 0  # tokens before the body; 0 while there is none
    is_function: bool = False


def _items(tokens: Sequence[_Token], braces: Sequence[int]) -> Iterator[_Item]:
    """Cut the file where a definition ends: behind the body of a function, else at a semicolon."""
    item, depth, inner, parens = _Item(), 0, 0, 0  # `inner`: braces in a list of a constructor's members
    for t, brace in zip(tokens, braces, strict=True):
        if t.kind == "directive" and not depth:
            yield _Item([t])
            continue
        item.tokens.append(t)
        if t.kind != "sign":
            continue
        if not depth and not inner:
            parens += (t.text == "(") - (t.text == ")")
        if brace > 0:
            if not depth and not inner:
                if _is_open(item.tokens):
                    item = _Item()
                    continue
                if parens > 0 or _starts_member(item.tokens):
                    inner += 1
                    continue
                item.is_function, item.head = (
                    _is_function(item.tokens[:-1]),
                    item.head or len(item.tokens) - 1,
                )
            if inner:
                inner += 1
            else:
                depth += 1
        elif brace < 0:
            if inner:
                inner -= 1
                continue
            if not depth:  # of a namespace
                item = _Item()
                continue
            depth -= 1
            if not depth and item.is_function:
                yield item
                item, parens = _Item(), 0
        elif t.text == ";" and not depth and parens <= 0:
            yield item
            item, parens = _Item(), 0


def _is_open(tokens: Sequence[_Token]) -> bool:
    """Whether a brace opens a namespace or a linkage, whose definitions count by themselves."""
    words = [t.text for t in tokens[:3]]
    return "namespace" in words[:2] or words[:2] == ["extern", '"C"']


def _starts_member(tokens: Sequence[_Token]) -> bool:
    """Whether a brace initializes a member, in a list between a constructor's head and body."""
    texts = [t.text for t in tokens[:-1]]
    if (
        ")" not in texts
        or tokens[-2].kind != "word"
        or texts[-1] in ("const", "override", "noexcept", "final")
    ):
        return False
    close = texts.index(")")
    return ":" in texts[close:] and "=" not in texts[:close] and texts[0] not in _TYPES


def _is_function(head: Sequence[_Token]) -> bool:
    level, opened, after = 0, False, ""
    for t in _plain(head):
        level += (t.text == "(") - (t.text == ")")
        if t.text == "(" and level == 1:
            opened = True
        if level or t.text == ")":
            after = ""
            continue
        if t.text == "=" and "operator" not in after:
            return False
        after += t.text
    return opened and not (
        head[0].text in _TYPES and after and not after.startswith(("const", "override", ":"))
    )


def _plain(head: Sequence[_Token]) -> Iterator[_Token]:
    """The head without what a template's parameters and attributes say."""
    i = 0
    while i < len(head):
        t = head[i]
        if t.text == "template":
            i = _behind(head, i + 1, "<", ">")
        elif t.text in _ATTRIBUTES:
            i = _behind(head, i + 1, "(", ")")
        else:
            yield t
            i += 1


def _behind(head: Sequence[_Token], i: int, opens: str, closes: str) -> int:
    level = 0
    while i < len(head):
        level += (head[i].text == opens) - (head[i].text == closes)
        i += 1
        if level <= 0:
            break
    return i


def _definition(item: _Item) -> Definition | None:
    tokens = item.tokens
    if tokens[0].kind == "directive":
        found = _DEFINE.match(tokens[0].text.lstrip())
        name = found[1] if found else ""
    elif item.is_function:
        name = _called(list(_plain(tokens[: item.head])))
    else:
        name = _typed(tokens, item.head)
    if not name:
        return None
    end = tokens[-1].line + tokens[-1].text.count("\n")
    return Definition(name, tokens[0].line, end, tuple(_lines(tokens)))


def _called(head: Sequence[_Token]) -> str:
    """The name before the first parenthesis, with its type: `llama_context::graph_reserve`."""
    at = next((i for i, t in enumerate(head) if t.text == "("), 0)
    operator = next((i for i in range(at) if head[i].text == "operator"), None)
    if operator is not None:
        name, at = "".join(t.text for t in head[operator:at]), operator
    elif at and head[at - 1].kind == "word":
        name, at = head[at - 1].text, at - 1
    else:
        return ""
    if at and head[at - 1].text == "~":
        name, at = "~" + name, at - 1
    while at >= 2 and head[at - 1].text == "::" and (before := _before(head, at - 1)) >= 0:
        name, at = f"{head[before].text}::{name}", before
    return name


def _before(head: Sequence[_Token], at: int) -> int:
    """The position of the type's name in front of `at`, without what it is a template of; -1 where there is none."""
    level = 0
    for i in range(at - 1, -1, -1):
        level += (head[i].text == ">") - (head[i].text == "<")
        if not level and head[i].kind == "word":
            return i
        if not level and head[i].text != "<":
            return -1
    return -1


def _typed(tokens: Sequence[_Token], head: int) -> str:
    """The name of a type or of a table; nothing for a declaration."""
    plain = list(_plain(tokens[: head or len(tokens)]))
    texts = [t.text for t in plain]
    if "=" in texts:
        words = [
            t.text for t in itertools.takewhile(lambda t: t.text not in ("=", "["), plain) if t.kind == "word"
        ]
        is_declared = words[:1] == ["using"] or "(" in texts[: texts.index("=")]
        return words[-1] if len(words) > 1 and not is_declared else ""
    if not head:
        return _alias(tokens)
    for i, text in enumerate(texts):
        if text in _TYPES:
            named = [
                t.text
                for t in itertools.takewhile(lambda t: t.text != ":", plain[i + 1 :])
                if t.kind == "word"
            ]
            named = [w for w in named if w not in (*_TYPES, "final")]
            return "::".join(named[-1:]) if named else _alias(tokens)
    words = [t.text for t in itertools.takewhile(lambda t: t.text != "[", plain) if t.kind == "word"]
    return words[-1] if len(words) > 1 else ""


def _alias(tokens: Sequence[_Token]) -> str:
    """What a `typedef` calls something."""
    if tokens[0].text != "typedef":
        return ""
    texts = [t.text for t in tokens]
    if "(" in texts and "*" in texts and "{" not in texts:
        return texts[texts.index("*", texts.index("(")) + 1]
    return next((t.text for t in reversed(tokens) if t.kind == "word"), "")


def _lines(tokens: Sequence[_Token]) -> Iterator[tuple[int, str]]:
    for line, of_it in itertools.groupby(tokens, key=lambda t: t.line):
        text, before = "", ""
        for t in of_it:
            said = _said(t)
            text += " " + said if before and _is_word(before[-1]) and _is_word(said[:1]) else said
            before = said
        yield line, text


def _said(token: _Token) -> str:
    if token.kind != "directive":
        return token.text
    bare = re.sub(r"//[^\n]*|/\*.*?\*/|\\\r?\n", " ", token.text, flags=re.DOTALL)
    return " ".join(bare.split())


def _is_word(text: str) -> bool:
    return text.isalnum() or text == "_"
