"""A block of a template under fixed conditions: the lines that apply, and where their sources come from.

In: a `Block`, a `Scope` that knows which conditions hold. Out: `Compiled`, which `build` instantiates layer
by layer; nothing in it depends on the sizes of a reservation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from .._ggml.graph import INPUT, OUTPUT
from .dims import FUSED, Scope, holds
from .expressions import OutsideTemplate
from .rules import view_root
from .text import Block, Line

__all__ = [
    "CACHE",
    "HERE",
    "LAYER",
    "MADE",
    "OUTER",
    "Compiled",
    "Op",
    "Ref",
    "compile_block",
    "compile_line",
]

# Where a source comes from, and what names it there.
HERE: Final = 0  # position in the block
MADE: Final = 1  # labels, of which the tensor made last is meant
LAYER: Final = 2  # suffix of a weight of the layer
OUTER: Final = 3  # name of a weight outside layers
CACHE: Final = 4  # kind of a cache of the layer
_ORIGIN: Final = {"@": LAYER, "$": OUTER, "%": CACHE}

# The operations that are made by rules of their own; all others are nodes.
_NODE: Final = "node"
_MADE_BY: Final = {
    "input": "leaf",
    "cache": "leaf",
    "sum_slices": "fold",
    "sum_heads": "fold",
    "next": "next",
}

# The parameters of an operation that a backend's rule reads (op_params), by the mark that states them.
_PARAMS: Final = {
    "hadamard": (0, 1),  # GGML_HINT_SRC0_IS_HADAMARD
    "alibi": (0, 1),  # a bias above zero
    "precise": (0, 0, 0, 10),  # GGML_PREC_F32 of the second source
}


class Ref(NamedTuple):
    """A source of a line."""

    origin: int
    what: object


class Op:
    """A line that applies, with all that the block alone tells of its tensor."""

    __slots__ = (
        "early", "engine_op", "flags", "foreign", "fused", "how", "label", "line", "name", "on_kv", "on_layer",
        "once", "params", "root", "src", "within",
    )  # fmt: skip

    def __init__(self, line: Line, src: tuple[Ref, ...]) -> None:
        base = line.op.partition(".")[0]
        marks = line.marks
        self.line = line
        self.label = line.label
        self.name = line.op
        self.src = src
        self.foreign = tuple(j for j, ref in enumerate(src) if ref.origin == MADE)
        self.how = _MADE_BY.get(base, _NODE)
        self.engine_op = "CPY" if base == "cast" else base.upper()
        self.root = 0 if "inplace" in marks else view_root(line.op)
        self.once = "once" in marks
        self.early = "early" in marks or base == "cache"
        self.params = next((_PARAMS[mark] for mark in marks if mark in _PARAMS), ())
        self.flags = (INPUT if "input" in marks else 0) | (OUTPUT if "output" in marks else 0)
        self.on_layer = "layer" in marks
        self.on_kv = "kv" in marks
        self.within = int("within" in marks)
        self.fused = line.op in FUSED or line.op == "flash_attn_ext"


@dataclass(frozen=True, slots=True)
class Compiled:
    """The operations of a block, in order; `early`: positions of the nodes that the block before emits."""

    ops: tuple[Op, ...]
    early: tuple[int, ...] = ()


def compile_block(block: Block, scope: Scope) -> Compiled:
    """The lines of `block` that apply. Raises `OutsideTemplate` where a weight they need is missing."""
    lines = _wanted([x for x in block.lines if holds(x.guard, scope)], block)
    ops: list[Op] = []
    last: dict[str, int] = {}
    lasting = {x.label for x in lines if "once" in x.marks}
    for line in lines:
        ops.append(Op(line, tuple(r for a in line.args for r in _refs(a, last, scope))))
        if line.label not in lasting:
            last[line.label] = len(ops) - 1
    return Compiled(tuple(ops), tuple(i for i, op in enumerate(ops) if op.early and op.how == _NODE))


def compile_line(line: Line, scope: Scope) -> Op:
    """A line on its own: all that it reads was made elsewhere."""
    return Op(line, tuple(r for a in line.args for r in _refs(a, {}, scope)))


def _wanted(lines: list[Line], block: Block) -> list[Line]:
    """Without what is made once for lines of which none applies."""
    known = {label for x in block.lines for arg in x.args for label in arg}
    used: set[str] = set()
    kept: list[Line] = []
    for line in reversed(lines):
        is_idle = line.label in known and line.label not in used
        if is_idle and "once" in line.marks and "unread" not in line.marks:
            continue
        kept.append(line)
        used.update(label for arg in line.args for label in arg)
    return kept[::-1]


def _refs(alternatives: tuple[str, ...], last: dict[str, int], scope: Scope) -> Sequence[Ref]:
    if alternatives[0][0] in _ORIGIN:
        named = [a.rstrip("?") for a in alternatives]
        chosen = next((a for a in named if a[0] == "%" or scope.truth(a)), None)
        if chosen is not None:
            return [Ref(_ORIGIN[chosen[0]], chosen[1:])]
        if alternatives[0][-1] == "?":
            return []
        raise OutsideTemplate(f"the model has no {named[0]}")
    here = [last[a] for a in alternatives if a in last]
    return [Ref(HERE, max(here)) if here else Ref(MADE, alternatives)]
