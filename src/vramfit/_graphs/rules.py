"""What ggml makes of an operation: type, extents and strides of its result from those of its sources.

In: an operation as a template names it, and its sources' shapes. Out: a `Shape`, or None where the
operation has no rule and the template must state the extents. Operations are named as ggml does, in
small letters; a number after a dot is the parameter that decides the shape ("permute.0213", "concat.1").
"cast" is a copy to another type; "repeat.for" repeats its first source for each column of the second, by which
rows are then picked; "flat" a reshape of what has no gaps and a copy of what has (ggml_cont).
Source: ggml/src/ggml.c (`ggml_*` constructors).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Final, NamedTuple

from .._ggml.graph import Extents
from .._ggml.types import BY_NAME, TensorType

__all__ = ["ROOT", "VIEWS", "Shape", "derive", "possible", "result_type", "view_root", "without_gaps"]

F32: Final = BY_NAME["f32"]
I32: Final = BY_NAME["i32"]


class Shape(NamedTuple):
    """Layout of a tensor: what is needed to count its bytes."""

    type: TensorType
    ne: Extents
    nb: Extents


# The source whose memory the result shares, by operation (view_src).
ROOT: Final[dict[str, int]] = {
    "view": 0,
    "reshape": 0,
    "permute": 0,
    "transpose": 0,
    "cpy": 1,
    "set_rows": 2,
}
VIEWS: Final = frozenset(("view", "reshape", "permute", "transpose"))

_AS_FIRST: Final = frozenset(
    [
        "add",
        "add1",
        "add_id",
        "sub",
        "mul",
        "div",
        "scale",
        "sqr",
        "sqrt",
        "log",
        "sin",
        "cos",
        "unary",
        "rms_norm",
        "norm",
        "l2_norm",
        "group_norm",
        "rope",
        "rope_back",
        "soft_max",
        "clamp",
        "diag_mask_inf",
        "fill",
        "cumsum",
        "tri",
        "cont",
        "acc",
        "set",
        "glu",
        "cast",
    ]
)


def view_root(op: str) -> int | None:
    """Position of the source that the result of `op` is a view of; None when it has its own memory."""
    return ROOT.get(op.partition(".")[0])


def without_gaps(shape: Shape) -> bool:
    """Whether elements follow each other without gaps (ggml_is_contiguous)."""
    step = shape.type.block_bytes
    for d, (n, stride) in enumerate(zip(shape.ne, shape.nb, strict=True)):
        if n != 1 and stride != step:
            return False
        step = step * n // shape.type.block if d == 0 else step * n
    return True


def result_type(op: str, sources: Sequence[Shape]) -> TensorType:
    """Type of the result where the template states none."""
    base = op.partition(".")[0]
    root = ROOT.get(base)
    if root is not None and root < len(sources):
        return sources[root].type
    if base in ("argsort", "top_k"):
        return I32
    if base == "get_rows" and sources:
        return I32 if sources[0].type is I32 else F32
    if base in _TYPE_OF_FIRST and sources:
        return sources[0].type
    return F32


_TYPE_OF_FIRST: Final = _AS_FIRST | {"concat", "repeat", "sum_rows", "pad", "roll", "flat"}


def derive(op: str, sources: Sequence[Shape]) -> tuple[Extents, Extents | None] | None:
    """Extents and, where the result has gaps or another order, strides. None: there is no rule."""
    base, _, parameter = op.partition(".")
    if base in _AS_FIRST and sources:
        return _first(base, sources)
    if base == "permute":
        return _permuted(sources[0], tuple(map(int, parameter)))
    if base == "transpose":
        return _permuted(sources[0], (1, 0, 2, 3))
    if base in ("cpy", "set_rows"):
        root = sources[ROOT[base]]
        return root.ne, root.nb
    if base == "concat":
        return _concat(sources, int(parameter)), None
    rule = _RULES.get(base)
    if rule is None or len(sources) < rule[0]:
        return None
    return rule[1](*(s.ne for s in sources[: rule[0]])), None


def _first(base: str, sources: Sequence[Shape]) -> tuple[Extents, Extents | None]:
    ne = sources[0].ne
    if base == "glu" and len(sources) == 1:
        ne = (ne[0] // 2, *ne[1:])
    return ne, None


def _permuted(source: Shape, axes: tuple[int, ...]) -> tuple[Extents, Extents]:
    ne, nb = [0] * 4, [0] * 4
    for axis, n, stride in zip(axes, source.ne, source.nb, strict=True):
        ne[axis], nb[axis] = n, stride
    return (ne[0], ne[1], ne[2], ne[3]), (nb[0], nb[1], nb[2], nb[3])


def _concat(sources: Sequence[Shape], axis: int) -> Extents:
    a, b = sources[0].ne, sources[1].ne
    ne = [n + (b[axis] if d == axis else 0) for d, n in enumerate(a)]
    return (ne[0], ne[1], ne[2], ne[3])


_RULES: Final[dict[str, tuple[int, Callable[..., Extents]]]] = {
    "mul_mat": (2, lambda a, b: (a[1], b[1], b[2], b[3])),
    "mul_mat_id": (3, lambda a, b, ids: (a[1], ids[0], b[2], 1)),
    "out_prod": (2, lambda a, b: (a[0], b[0], b[2], b[3])),
    "get_rows": (2, lambda a, b: (a[0], b[0], b[1], b[2])),
    "flash_attn_ext": (3, lambda q, k, v: (v[0], q[2], q[1], q[3])),
    "argsort": (1, lambda a: a),
    "sum_rows": (1, lambda a: (1, a[1], a[2], a[3])),
    "mean": (1, lambda a: (1, a[1], a[2], a[3])),
    "repeat": (2, lambda a, rows: (a[0], a[1], rows[1], 1)),  # "repeat.for" what picks rows of it
    "ssm_conv": (2, lambda x, c: (x[0] - c[0] + 1, x[1], x[2], 1)),
}


def possible(op: str, sources: Sequence[Shape], result: Shape) -> bool:
    """Whether ggml makes such a tensor: those assertions of its constructors that a header can break.

    Source: ggml.c:3342, 3401, 4009, 5506. The engine stops where one fails: it builds no such graph.
    """
    rule = _ASSERTED.get(op)
    if rule is not None and len(sources) >= rule[0]:
        return rule[1](*(s.ne for s in sources[: rule[0]]))
    return op != "reshape" or prod(sources[0].ne) == prod(result.ne)


def _multiplies(a: Extents, b: Extents) -> bool:
    return a[0] == b[0] and a[2] > 0 and not b[2] % a[2]


_ASSERTED: Final[dict[str, tuple[int, Callable[..., bool]]]] = {
    "mul_mat": (2, _multiplies),
    "mul_mat_id": (3, lambda a, b, ids: a[0] == b[0]),
    "flash_attn_ext": (3, lambda q, k, v: _multiplies(k, q) and k[2] == v[2]),
    "set_rows": (3, lambda b, rows, a: a[0] == b[0]),
}
