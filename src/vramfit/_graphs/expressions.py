"""Expressions over named dimensions: what the extents in a template are written in.

In: text such as "n_embd/n_head*2" or "min(n_kv, @indexer.top_k)". Out: nested tuples, and their
values as `int`. The grammar: whole numbers, names, `+ - * /` with the usual ranks, parentheses, and
the functions `min`, `max`, `pad(x, step)` and `ceil(x, by)`. A division leaves no remainder: where it
would, the model is not of the shape that the template was learned from, and `OutsideTemplate` says so.

Names are looked up by the caller's function: a dimension ("n_tokens"), a number of the header
(".ssm.state_size"), an extent of a weight ("@attn_q.weight:1", "$token_embd.weight:0" outside layers),
an extent of a source of the line ("a0" is the first extent of the first source, "b2" the third of the
second).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Final, TypeAlias

from .._ggml.ops import Unbuildable as OutsideTemplate

__all__ = ["Expression", "OutsideTemplate", "evaluate", "format_expression", "names", "parse_expression"]

# A number, a name, or an operator with its operands.
Expression: TypeAlias = "int | str | tuple[str, Expression, Expression]"

_TOKEN: Final = re.compile(r"\s*(?:(\d+)|([.@$]?[A-Za-z_][\w.]*(?::\d)?)|([-+*/(),]))")
_FUNCTIONS: Final = frozenset(("min", "max", "pad", "ceil"))
_RANK: Final = {"+": 1, "-": 1, "*": 2, "/": 2}


def evaluate(e: Expression, look_up: Callable[[str], int]) -> int:
    """The value of `e`. Raises `OutsideTemplate` for a division with a remainder, and what `look_up` raises."""
    if isinstance(e, int):
        return e
    if isinstance(e, str):
        return look_up(e)
    op, left, right = e
    a, b = evaluate(left, look_up), evaluate(right, look_up)
    if op == "*":
        return a * b
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "min":
        return min(a, b)
    if op == "max":
        return max(a, b)
    if b <= 0:
        raise OutsideTemplate(f"{format_expression(e)}: {a} by {b}")
    if op == "/":
        if a % b:
            raise OutsideTemplate(f"{format_expression(e)}: {b} does not divide {a}")
        return a // b
    return -(-a // b) * (b if op == "pad" else 1)


def names(e: Expression) -> frozenset[str]:
    """The names that `e` asks for."""
    if isinstance(e, tuple):
        return names(e[1]) | names(e[2])
    return frozenset((e,) if isinstance(e, str) else ())


def format_expression(e: Expression) -> str:
    """The text of `e`, with no more parentheses than it needs."""
    if not isinstance(e, tuple):
        return str(e)
    op, left, right = e
    if op in _FUNCTIONS:
        return f"{op}({format_expression(left)}, {format_expression(right)})"
    return f"{_operand(left, _RANK[op])}{op}{_operand(right, _RANK[op] + 1)}"


def _operand(e: Expression, rank: int) -> str:
    text = format_expression(e)
    return f"({text})" if isinstance(e, tuple) and _RANK.get(e[0], 3) < rank else text


@cache
def parse_expression(text: str) -> Expression:
    """The expression that `text` stands for. Raises `ValueError` where the text is none."""
    tokens = _tokens(text)
    e, at = _sum(tokens, 0, text)
    if at != len(tokens):
        raise ValueError(f"{text!r}: unexpected {tokens[at]!r}")
    return e


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text.rstrip()):
        m = _TOKEN.match(text, at)
        if m is None:
            raise ValueError(f"{text!r}: no expression at {text[at:]!r}")
        found.append(m[m.lastindex or 0])
        at = m.end()
    return found


def _sum(tokens: list[str], at: int, text: str) -> tuple[Expression, int]:
    e, at = _product(tokens, at, text)
    while at < len(tokens) and tokens[at] in "+-":
        op = tokens[at]
        right, at = _product(tokens, at + 1, text)
        e = (op, e, right)
    return e, at


def _product(tokens: list[str], at: int, text: str) -> tuple[Expression, int]:
    e, at = _atom(tokens, at, text)
    while at < len(tokens) and tokens[at] in "*/":
        op = tokens[at]
        right, at = _atom(tokens, at + 1, text)
        e = (op, e, right)
    return e, at


def _atom(tokens: list[str], at: int, text: str) -> tuple[Expression, int]:
    if at >= len(tokens):
        raise ValueError(f"{text!r}: ends too early")
    token = tokens[at]
    if token.isdigit():
        return int(token), at + 1
    if token in _FUNCTIONS and tokens[at + 1 : at + 2] == ["("]:
        left, at = _sum(tokens, at + 2, text)
        at = _expect(tokens, at, ",", text)
        right, at = _sum(tokens, at, text)
        return (token, left, right), _expect(tokens, at, ")", text)
    if token == "(":
        e, at = _sum(tokens, at + 1, text)
        return e, _expect(tokens, at, ")", text)
    if token in "+-*/),":
        raise ValueError(f"{text!r}: unexpected {token!r}")
    return token, at + 1


def _expect(tokens: list[str], at: int, token: str, text: str) -> int:
    if tokens[at : at + 1] != [token]:
        raise ValueError(f"{text!r}: {token!r} expected")
    return at + 1
