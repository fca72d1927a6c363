"""A template and its text: the compute graph of an architecture, for a person and for `build`.

In: text. Out: a `Template`, and back: `format_template(parse_template(text)) == text`. docs/internals/graphs.md
explains the format by an example. Nothing here knows what an operation does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .expressions import Expression, format_expression, parse_expression

__all__ = [
    "Block",
    "Guard",
    "Kind",
    "Line",
    "Template",
    "format_guard",
    "format_line",
    "format_template",
    "parse_guard",
    "parse_line",
    "parse_template",
]

# Alternatives of literals that must all hold; a literal is the name of a condition, "!" before its opposite.
# Empty: always.
Guard = tuple[tuple[str, ...], ...]

MARKS: Final = (
    "early",
    "once",
    "input",
    "output",
    "layer",
    "kv",
    "hadamard",
    "alibi",
    "precise",
    "within",
    "inplace",
    "unread",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One tensor of a block: `label = op(arguments) × count : type [extents] /[strides] marks if guard`.

    An argument is a tuple of alternatives, of which the tensor made last is meant. `ne` and `nb` are
    empty where the operation gives them; `nb` holds elements for the second and further extents, None
    for "without gaps from the extent before".
    """

    label: str
    op: str
    args: tuple[tuple[str, ...], ...] = ()
    count: Expression | None = None
    type: str = ""
    ne: tuple[Expression, ...] = ()
    nb: tuple[Expression | None, ...] = ()
    marks: frozenset[str] = frozenset()
    guard: Guard = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of layer that was traced: its traits, the weights that all such layers have, and that some have."""

    traits: tuple[str, ...]
    needs: tuple[str, ...]
    allows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """What one layer adds to the graph if it is of one of the `kinds`, or the prologue, or the epilogue.

    `unseen`: of "first", "last" and "one_head", what no such layer was in any trace.
    """

    name: str
    lines: tuple[Line, ...]
    kinds: tuple[Kind, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """The graph of an architecture."""

    architecture: str
    engine: str  # the commit it was traced from
    blocks: tuple[Block, ...]  # the prologue, kinds of layers, the epilogue
    needs: tuple[str, ...] = ()  # tensors outside layers
    allows: tuple[str, ...] = ()
    known: tuple[str, ...] = ()  # conditions on the header that were traced, with those that were not seen
    untraced: tuple[tuple[str, ...], ...] = ()  # header values and counts that no trace had together
    ties: tuple[
        tuple[Expression, Expression], ...
    ] = ()  # sizes that were equal in all models that were traced
    one_sequence: bool = False  # the last reservation of a context is made with one sequence
    one_stream: bool = False  # no trace had caches with a stream for each sequence
    notes: tuple[str, ...] = field(default=(), compare=False)


# --- guards


def parse_guard(text: str) -> Guard:
    """The guard that `text` stands for: `fa & !@attn_q.bias | last`."""
    return tuple(tuple(sorted(x.strip() for x in one.split("&"))) for one in text.split("|")) if text else ()


def format_guard(guard: Guard) -> str:
    """The text of a guard."""
    return " | ".join(" & ".join(one) for one in guard)


# --- lines

_LINE: Final = re.compile(
    r"(?P<label>\S+) = (?P<op>[\w.]+)\((?P<args>[^()]*)\)"
    r"(?: x (?P<count>\S+))?(?: : (?P<type>\w+))?"
    r"(?: \[(?P<ne>[^\]]*)\])?(?: /\[(?P<nb>[^\]]*)\])?"
    r"(?P<marks>(?: [a-z]+)*?)(?: if (?P<guard>.+))?"
)


def parse_line(text: str) -> Line:
    """The line that `text` stands for. Raises `ValueError` where it is none."""
    m = _LINE.fullmatch(text)
    if m is None:
        raise ValueError(f"no line of a template: {text!r}")
    label, op, args, count, type_, ne, nb, marks, guard = m.groups()
    return Line(
        label,
        op,
        tuple(tuple(a.split("|")) for a in args.split(", ")) if args else (),
        parse_expression(count) if count else None,
        type_ or "",
        tuple(parse_expression(e) for e in ne.split("; ")) if ne else (),
        tuple(None if e == "~" else parse_expression(e) for e in nb.split("; ")) if nb else (),
        frozenset(marks.split()),
        parse_guard(guard or ""),
    )


def format_line(line: Line) -> str:
    """The text of `line`."""
    parts = [f"{line.label} = {line.op}({', '.join('|'.join(a) for a in line.args)})"]
    if line.count is not None:
        parts.append(f"x {format_expression(line.count)}")
    if line.type:
        parts.append(f": {line.type}")
    if line.ne:
        parts.append(f"[{'; '.join(map(format_expression, line.ne))}]")
    if line.nb:
        parts.append(f"/[{'; '.join('~' if e is None else format_expression(e) for e in line.nb)}]")
    parts += [m for m in MARKS if m in line.marks]
    if line.guard:
        parts.append(f"if {format_guard(line.guard)}")
    return " ".join(parts)


# --- templates


def format_template(template: Template) -> str:
    """The text of `template`."""
    return "\n".join(_template_lines(template)) + "\n"


def _template_lines(t: Template) -> Iterator[str]:
    yield f"template {t.architecture}"
    yield f"engine {t.engine}"
    yield from (f"note {note}" for note in t.notes)
    if t.one_sequence:
        yield "one_sequence"
    if t.one_stream:
        yield "one_stream"
    yield from _words("needs", t.needs)
    yield from _words("allows", t.allows)
    yield from _words("known", t.known)
    yield from _words("untraced", ["&".join(x) for x in t.untraced])
    yield from _words("ties", [f"{format_expression(a)}={format_expression(b)}" for a, b in t.ties])
    for block in t.blocks:
        yield ""
        yield f"block {block.name}"
        yield from _words("  unseen", block.unseen)
        for kind in block.kinds:
            yield f"  kind {' '.join(kind.traits)}"
            yield from _words("    needs", kind.needs)
            yield from _words("    allows", kind.allows)
        yield from (f"  {format_line(line)}" for line in block.lines)


def _words(head: str, words: Sequence[str]) -> Iterator[str]:
    if words:
        yield f"{head} {' '.join(words)}"


def parse_template(text: str) -> Template:
    """The template that `text` stands for. Raises `ValueError` where it is none."""
    head, *blocks = text.strip("\n").split("\n\n")
    words = _heads(head.split("\n"))
    return Template(
        architecture=words["template"],
        engine=words["engine"],
        blocks=tuple(map(_parse_block, blocks)),
        needs=tuple(words.get("needs", "").split()),
        allows=tuple(words.get("allows", "").split()),
        known=tuple(words.get("known", "").split()),
        untraced=tuple(tuple(x.split("&")) for x in words.get("untraced", "").split()),
        ties=tuple(map(_parse_tie, words.get("ties", "").split())),
        one_sequence="one_sequence" in words,
        one_stream="one_stream" in words,
        notes=tuple(n.removeprefix("note ") for n in head.split("\n") if n.startswith("note ")),
    )


def _parse_tie(text: str) -> tuple[Expression, Expression]:
    one, _, other = text.partition("=")
    return parse_expression(one), parse_expression(other)


def _heads(lines: Sequence[str]) -> dict[str, str]:
    return {key: rest for key, _, rest in (line.strip().partition(" ") for line in lines)}


def _parse_block(text: str) -> Block:
    first, *rest = text.split("\n")
    at = next((i for i, line in enumerate(rest) if " = " in line), len(rest))
    kinds: list[Kind] = []
    unseen: tuple[str, ...] = ()
    for line in rest[:at]:
        key, _, words = line.strip().partition(" ")
        found = tuple(words.split())
        if key == "unseen":
            unseen = found
        elif key == "kind":
            kinds.append(Kind(found, ()))
        elif key == "needs":
            kinds[-1] = replace(kinds[-1], needs=found)
        else:
            kinds[-1] = replace(kinds[-1], allows=found)
    lines = tuple(parse_line(x.strip()) for x in rest[at:])
    return Block(first.removeprefix("block "), lines, tuple(kinds), unseen)
