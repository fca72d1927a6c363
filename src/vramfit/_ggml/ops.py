"""Make tensors as ggml's constructors do, and order them as a graph runs them.

In: `Tensor`s and whole numbers. Out: new `Tensor`s with ggml's extents, strides and views, and the `Graph` of those that were
asked for. An operation that ggml would stop at (an assertion of its constructor) raises `Unbuildable`.
Names are ggml's without the prefix. A result that keeps the layout of its source is made by the same few lines.
Source: ggml/src/ggml.c, the functions `ggml_*` of these names, and `ggml_visit_parents_graph` (7245) for the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

from .graph import COMPUTE, INPUT, NONE, Extents, Graph, Tensor, contiguous, is_contiguous
from .types import BY_NAME, TensorType

__all__ = ["F16", "F32", "GLU", "I32", "I64", "UNARY", "Ops", "Unbuildable"]

F32: Final = BY_NAME["f32"]
F16: Final = BY_NAME["f16"]
I32: Final = BY_NAME["i32"]
I64: Final = BY_NAME["i64"]

# What the first word of op_params says of a UNARY node (enum ggml_unary_op, ggml.h:607) and of a GLU node (634).
UNARY: Final = [
    "abs",
    "sgn",
    "neg",
    "step",
    "tanh",
    "elu",
    "relu",
    "sigmoid",
    "gelu",
    "gelu_quick",
    "silu",
    "hardswish",
    "hardsigmoid",
    "exp",
    "expm1",
    "softplus",
    "gelu_erf",
    "xielu",
    "floor",
    "ceil",
    "round",
    "trunc",
]
GLU: Final = ["reglu", "geglu", "swiglu", "swiglu_oai", "geglu_erf", "geglu_quick", "swiglu_clamp"]
_UNARY: Final = {name: (i,) for i, name in enumerate(UNARY)}
_GLU: Final = {name: (i,) for i, name in enumerate(GLU)}
_HADAMARD: Final = (0, 1)  # GGML_HINT_SRC0_IS_HADAMARD


class Unbuildable(Exception):
    """The engine builds no such graph, or nothing here says which it builds."""


class Ops:
    """Makes tensors. Those that `expand` reaches form the graph, in ggml's order."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.leafs: list[int] = []
        self.nodes: list[int] = []
        self._reached: set[int] = set()

    def graph(self) -> Graph:
        """Return the graph of all that was expanded."""
        return Graph(self.tensors, self.leafs, self.nodes)

    # --- order

    def expand(self, t: Tensor) -> Tensor:
        """Append `t` to the graph, behind all that it reads and that is not there yet (ggml_build_forward_expand)."""
        if t.index not in self._reached:
            self._visit(t.index)
        return t

    def _visit(self, i: int) -> None:
        reached = self._reached
        reached.add(i)
        t = self.tensors[i]
        for s in t.src:
            if s not in reached:
                self._visit(s)
        (self.leafs if t.op == "NONE" else self.nodes).append(i)

    # --- leaves

    def leaf(self, t: Tensor) -> Tensor:
        """Take in a leaf made elsewhere: a weight, a cache."""
        t.index = len(self.tensors)
        self.tensors.append(t)
        return t

    def tensor(self, type_: TensorType, *ne: int, name: str = "", flags: int = 0) -> Tensor:
        """Make a leaf without data of its own (ggml_new_tensor)."""
        extents = _extents(ne)
        if min(extents) < 0:
            raise Unbuildable(f"{name or 'a tensor'} of extents {list(ne)}")
        return self.leaf(
            Tensor(name, "NONE", type_, extents, contiguous(type_, extents), flags=flags, usage=COMPUTE)
        )

    def input(self, name: str, type_: TensorType, *ne: int) -> Tensor:
        """Make a leaf that the caller fills before the graph runs (ggml_set_input)."""
        return self.tensor(type_, *ne, name=name, flags=INPUT)

    # --- how every node is made

    def _make(
        self, op: str, type_: TensorType, ne: Extents, src: tuple[int, ...], params: tuple[int, ...] = ()
    ) -> Tensor:
        """Make a node with memory of its own."""
        bytes0 = type_.block_bytes
        nb1 = ne[0] // type_.block * bytes0
        nb2 = nb1 * ne[1]
        index = len(self.tensors)
        t = Tensor(
            "",
            op,
            type_,
            ne,
            (bytes0, nb1, nb2, nb2 * ne[2]),
            src,
            NONE,
            0,
            0,
            COMPUTE,
            NONE,
            NONE,
            params,
            index,
        )
        self.tensors.append(t)
        return t

    def _look(
        self, op: str, a: Tensor, ne: Extents, nb: Extents, offset: int = 0, src: tuple[int, ...] = ()
    ) -> Tensor:
        """Make a node that shares the memory of `a`."""
        root, index = (a.index, offset) if a.view == NONE else (a.view, a.offset + offset), len(self.tensors)
        t = Tensor(
            "", op, a.type, ne, nb, src or (a.index,), root[0], root[1], 0, COMPUTE, NONE, NONE, (), index
        )
        self.tensors.append(t)
        return t

    def _same(self, op: str, a: Tensor, *others: Tensor | None, params: tuple[int, ...] = ()) -> Tensor:
        """Make a node of the extents and type of its first source."""
        src = (a.index, *[b.index for b in others if b is not None])
        return self._make(op, a.type, a.ne, src, params)

    def _in_place(self, op: str, a: Tensor, *others: Tensor) -> Tensor:
        return self._look(op, a, a.ne, a.nb, 0, (a.index, *[b.index for b in others]))

    # --- element by element

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` + `b`, where `b` is repeated to the extents of `a`."""
        return self._binary("ADD", a, b)

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` - `b`."""
        return self._binary("SUB", a, b)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` x `b`, element by element."""
        return self._binary("MUL", a, b)

    def div(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` / `b`."""
        return self._binary("DIV", a, b)

    def _binary(self, op: str, a: Tensor, b: Tensor) -> Tensor:
        p, q = a.ne, b.ne
        if p != q and not (
            q[0] and q[1] and q[2] and q[3]
            and not (p[0] % q[0] or p[1] % q[1] or p[2] % q[2] or p[3] % q[3])
        ):  # fmt: skip
            raise Unbuildable(f"ggml makes no {op} of {list(p)} and {list(q)} ({a.name}, {b.name})")
        return self._make(op, a.type, p, (a.index, b.index))

    def add_id(self, a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
        """`a` + the rows of `b` that `ids` names."""
        return self._same("ADD_ID", a, b, ids)

    def acc(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` with `b` added to a part of it (ggml_acc)."""
        return self._same("ACC", a, b)

    def add_in_place(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` + `b`, over `a`."""
        return self._in_place("ADD", a, b)

    def add1(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` + one number."""
        return self._same("ADD1", a, b)

    def scale(self, a: Tensor) -> Tensor:
        """`a` x a constant (+ another)."""
        return self._same("SCALE", a)

    def scale_in_place(self, a: Tensor) -> Tensor:
        """`a` x a constant, over `a`."""
        return self._in_place("SCALE", a)

    def sqr(self, a: Tensor) -> Tensor:
        """Squares."""
        return self._same("SQR", a)

    def sqrt(self, a: Tensor) -> Tensor:
        """Square roots."""
        return self._same("SQRT", a)

    def log(self, a: Tensor) -> Tensor:
        """Natural logarithms."""
        return self._same("LOG", a)

    def sin(self, a: Tensor) -> Tensor:
        """Sines."""
        return self._same("SIN", a)

    def cos(self, a: Tensor) -> Tensor:
        """Cosines."""
        return self._same("COS", a)

    def clamp(self, a: Tensor) -> Tensor:
        """`a` within limits."""
        return self._same("CLAMP", a)

    def fill(self, a: Tensor) -> Tensor:
        """A constant in the extents of `a`."""
        return self._same("FILL", a)

    def leaky_relu(self, a: Tensor) -> Tensor:
        """`a` where it is positive, a fraction of it elsewhere."""
        return self._same("LEAKY_RELU", a)

    def unary(self, kind: str, a: Tensor) -> Tensor:
        """A function of each element; `kind` is one of `UNARY`."""
        return self._same("UNARY", a, params=_UNARY[kind])

    def silu(self, a: Tensor) -> Tensor:
        """x sigmoid(x)."""
        return self.unary("silu", a)

    def gelu(self, a: Tensor) -> Tensor:
        """x times the normal distribution at x."""
        return self.unary("gelu", a)

    def relu(self, a: Tensor) -> Tensor:
        """x, or zero below it."""
        return self.unary("relu", a)

    def sigmoid(self, a: Tensor) -> Tensor:
        """1 / (1 + exp(-x))."""
        return self.unary("sigmoid", a)

    def tanh(self, a: Tensor) -> Tensor:
        """Hyperbolic tangents."""
        return self.unary("tanh", a)

    def softplus(self, a: Tensor) -> Tensor:
        """log(1 + exp(x))."""
        return self.unary("softplus", a)

    def exp(self, a: Tensor) -> Tensor:
        """Exponentials."""
        return self.unary("exp", a)

    def neg(self, a: Tensor) -> Tensor:
        """-x."""
        return self.unary("neg", a)

    def glu(self, kind: str, a: Tensor, b: Tensor | None = None) -> Tensor:
        """A gated unit; `kind` is one of `GLU`. Without `b` the rows of `a` hold both halves."""
        if b is not None:
            return self._same("GLU", a, b, params=_GLU[kind])
        return self._make("GLU", a.type, (a.ne[0] // 2, *a.ne[1:]), (a.index,), _GLU[kind])

    # --- row by row

    def rms_norm(self, a: Tensor) -> Tensor:
        """Rows over their root mean square."""
        return self._same("RMS_NORM", a)

    def norm(self, a: Tensor) -> Tensor:
        """Rows less their mean, over their deviation."""
        return self._same("NORM", a)

    def l2_norm(self, a: Tensor) -> Tensor:
        """Rows over their length."""
        return self._same("L2_NORM", a)

    def group_norm(self, a: Tensor) -> Tensor:
        """Groups of channels, each normed."""
        return self._same("GROUP_NORM", a)

    def soft_max(
        self, a: Tensor, mask: Tensor | None = None, sinks: Tensor | None = None, *, alibi: bool = False
    ) -> Tensor:
        """Softmax of rows, with a mask and attention sinks; `alibi` says that its bias is above zero."""
        if mask is not None and (mask.ne[0] != a.ne[0] or mask.ne[1] < a.ne[1]):
            raise Unbuildable(f"ggml masks no {list(a.ne)} by {list(mask.ne)}")
        return self._same("SOFT_MAX", a, mask, sinks, params=(0, 1) if alibi else ())

    def sum_rows(self, a: Tensor) -> Tensor:
        """The sum of each row."""
        return self._make("SUM_ROWS", a.type, (1, *a.ne[1:]), (a.index,))

    def mean(self, a: Tensor) -> Tensor:
        """The mean of each row, in f32."""
        return self._make("MEAN", F32, (1, *a.ne[1:]), (a.index,))

    def argsort(self, a: Tensor) -> Tensor:
        """The order of each row's elements, as i32."""
        return self._make("ARGSORT", I32, a.ne, (a.index,))

    def argmax(self, a: Tensor) -> Tensor:
        """Where the largest element of each row is, as i32."""
        return self._make("ARGMAX", I32, (a.ne[1], 1, 1, 1), (a.index,))

    def argsort_top_k(self, a: Tensor, k: int) -> Tensor:
        """The first `k` of the sorted order: a view of all of it (ggml_argsort_top_k)."""
        if a.ne[0] < k:
            raise Unbuildable(f"ggml takes no {k} largest of {a.ne[0]}")
        order = self.argsort(a)
        return self.view(order, (k, *order.ne[1:]), order.nb[1:])

    def top_k(self, a: Tensor, k: int) -> Tensor:
        """The `k` largest of each row, in no order, as i32."""
        if a.ne[0] < k:
            raise Unbuildable(f"ggml takes no {k} largest of {a.ne[0]}")
        return self._make("TOP_K", I32, (k, *a.ne[1:]), (a.index,))

    def get_rows(self, a: Tensor, rows: Tensor) -> Tensor:
        """The rows of `a` that `rows` names; i32 stays, all else becomes f32."""
        p, q = a.ne, rows.ne
        if p[2] != q[1] or p[3] != q[2]:
            raise Unbuildable(f"ggml gets no rows {list(q)} of {list(p)} ({a.name})")
        return self._make(
            "GET_ROWS", I32 if a.type is I32 else F32, (p[0], q[0], q[1], q[2]), (a.index, rows.index)
        )

    def set_rows(self, a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
        """`a` with `b` in the rows that `rows` names: a view of `a`."""
        p, q = a.ne, b.ne
        if p[0] != q[0] or p[2:] != q[2:] or q[1] != rows.ne[0]:
            raise Unbuildable(f"ggml sets no rows {list(q)} in {list(p)} at {list(rows.ne)} ({a.name})")
        return self._look("SET_ROWS", a, a.ne, a.nb, 0, (b.index, rows.index, a.index))

    def rope(self, a: Tensor, positions: Tensor, factors: Tensor | None = None) -> Tensor:
        """Rotary positions (ggml_rope_ext, ggml_rope_multi)."""
        return self._same("ROPE", a, positions, factors)

    def rope_back(self, a: Tensor, positions: Tensor, factors: Tensor | None = None) -> Tensor:
        """Rotary positions, turned back."""
        return self._same("ROPE_BACK", a, positions, factors)

    # --- products

    def mul_mat(self, a: Tensor, b: Tensor, params: tuple[int, ...] = ()) -> Tensor:
        """`b` times the transposed matrix `a`, in f32: [k, m] and [k, n] make [m, n]."""
        p, q = a.ne, b.ne
        if p[0] != q[0] or not (p[2] and p[3]) or q[2] % p[2] or q[3] % p[3]:
            raise Unbuildable(f"ggml multiplies no {list(p)} by {list(q)} ({a.name}, {b.name})")
        return self._make("MUL_MAT", F32, (p[1], q[1], q[2], q[3]), (a.index, b.index), params)

    def hadamard(self, a: Tensor, rotation: Tensor) -> Tensor:
        """`a` with each stretch of a row rotated (llama_mul_mat_hadamard, llama-impl.h:57)."""
        n = rotation.ne[0]
        count = prod(a.ne)
        flat = self.reshape(a, n, count // n) if is_contiguous(a) else self.cont(a, n, count // n)
        return self.reshape(self.mul_mat(rotation, flat, _HADAMARD), *a.ne)

    def mul_mat_id(self, a: Tensor, b: Tensor, ids: Tensor, params: tuple[int, ...] = ()) -> Tensor:
        """`b` times those matrices of `a` that `ids` names for each token, in f32."""
        if a.ne[0] != b.ne[0]:
            raise Unbuildable(f"ggml multiplies no {list(a.ne)} by {list(b.ne)} ({a.name}, {b.name})")
        src = (a.index, b.index, ids.index)
        return self._make("MUL_MAT_ID", F32, (a.ne[1], ids.ne[0], b.ne[2], 1), src, params)

    def out_prod(self, a: Tensor, b: Tensor) -> Tensor:
        """The outer product of columns, in f32."""
        return self._make("OUT_PROD", F32, (a.ne[0], b.ne[0], b.ne[2], b.ne[3]), (a.index, b.index))

    def flash_attn_ext(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        sinks: Tensor | None = None,
        *,
        alibi: bool = False,
        soft_cap: bool = False,
    ) -> Tensor:
        """Attention in one operation, in f32: [head of v, heads, tokens, streams]."""
        p, r = k.ne, q.ne
        if (
            p[0] != r[0]
            or not (p[2] and p[3])
            or r[2] % p[2]
            or not p[3] == r[3] == v.ne[3]
            or p[2] != v.ne[2]
        ):
            raise Unbuildable(
                f"ggml attends with no queries {list(r)} to keys {list(p)} and values {list(v.ne)}"
            )
        src = tuple([t.index for t in (q, k, v, mask, sinks) if t is not None])
        ne = (v.ne[0], r[2], r[1], r[3])
        return self._make(
            "FLASH_ATTN_EXT", F32, ne, src, (0, int(alibi), int(soft_cap)) if alibi or soft_cap else ()
        )

    # --- other looks at the same memory

    def view(self, a: Tensor, ne: Sequence[int], nb: Sequence[int] = (), offset: int = 0) -> Tensor:
        """A part of `a`, `offset` bytes into it; `nb` are the strides in bytes from the second extent on.

        Where strides are left out, extents follow each other without gaps (ggml_view_1d .. ggml_view_4d).
        """
        extents, strides = _extents(ne), [a.type.block_bytes, *nb]
        if len(strides) == 1:
            strides.append(extents[0] // a.type.block * a.type.block_bytes)
        while len(strides) < 4:
            strides.append(strides[-1] * extents[len(strides) - 1])
        return self._look("VIEW", a, extents, (strides[0], strides[1], strides[2], strides[3]), offset)

    def reshape(self, a: Tensor, *ne: int) -> Tensor:
        """The elements of `a` in other extents; it must have no gaps."""
        extents = _extents(ne)
        if prod(extents) != prod(a.ne) or not is_contiguous(a):
            raise Unbuildable(f"ggml reshapes no {list(a.ne)} to {list(extents)} ({a.name})")
        return self._look("RESHAPE", a, extents, contiguous(a.type, extents))

    def permute(self, a: Tensor, *axes: int) -> Tensor:
        """Extent i of `a` becomes extent `axes[i]`."""
        ne, nb = [0] * 4, [0] * 4
        for axis, n, stride in zip(axes, a.ne, a.nb, strict=True):
            ne[axis], nb[axis] = n, stride
        return self._look("PERMUTE", a, (ne[0], ne[1], ne[2], ne[3]), (nb[0], nb[1], nb[2], nb[3]))

    def transpose(self, a: Tensor) -> Tensor:
        """The first two extents of `a` changed over."""
        ne, nb = a.ne, a.nb
        return self._look("TRANSPOSE", a, (ne[1], ne[0], *ne[2:]), (nb[1], nb[0], *nb[2:]))

    # --- copies

    def cont(self, a: Tensor, *ne: int) -> Tensor:
        """A copy of `a` without gaps, in other extents where some are given (ggml_cont, ggml_cont_2d ..)."""
        extents = _extents(ne) if ne else a.ne
        if ne and prod(extents) != prod(a.ne):
            raise Unbuildable(f"ggml copies no {list(a.ne)} to {list(extents)}")
        return self._make("CONT", a.type, extents, (a.index,))

    def cpy(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` copied over `b`: a view of `b`."""
        if prod(a.ne) != prod(b.ne):
            raise Unbuildable(f"ggml copies no {list(a.ne)} to {list(b.ne)}")
        return self._look("CPY", b, b.ne, b.nb, 0, (a.index, b.index))

    def cast(self, a: Tensor, type_: TensorType) -> Tensor:
        """A copy of `a` in another type; it names itself as its second source."""
        t = self._make("CPY", type_, a.ne, ())
        t.src = (a.index, t.index)
        return t

    def repeat(self, a: Tensor, *ne: int) -> Tensor:
        """`a` again and again until it fills these extents."""
        return self._make("REPEAT", a.type, _extents(ne), (a.index,))

    def concat(self, a: Tensor, b: Tensor, axis: int) -> Tensor:
        """`b` behind `a` along one extent."""
        ne = [n + (b.ne[axis] if d == axis else 0) for d, n in enumerate(a.ne)]
        if any(p != q for d, (p, q) in enumerate(zip(a.ne, b.ne, strict=True)) if d != axis):
            raise Unbuildable(f"ggml joins no {list(a.ne)} and {list(b.ne)} along {axis}")
        return self._make("CONCAT", a.type, (ne[0], ne[1], ne[2], ne[3]), (a.index, b.index))

    def pad(self, a: Tensor, *by: int) -> Tensor:
        """`a` with so many zeros behind each extent."""
        ne = [n + more for n, more in zip(a.ne, (*by, 0, 0, 0, 0)[:4], strict=True)]
        return self._make("PAD", a.type, (ne[0], ne[1], ne[2], ne[3]), (a.index,))

    def roll(self, a: Tensor) -> Tensor:
        """`a` shifted along its extents."""
        return self._same("ROLL", a)

    def set(self, a: Tensor, b: Tensor) -> Tensor:
        """`a` with `b` written into a part of it."""
        return self._same("SET", a, b)

    def arange(self, n: int) -> Tensor:
        """The first `n` numbers, in f32."""
        return self._make("ARANGE", F32, (n, 1, 1, 1), ())

    # --- recurrence, and operations of one architecture

    def ssm_conv(self, x: Tensor, kernel: Tensor) -> Tensor:
        """A short convolution along the tokens: [channels, tokens, sequences]."""
        return self._make(
            "SSM_CONV", F32, (kernel.ne[1], x.ne[0] - kernel.ne[0] + 1, x.ne[2], 1), (x.index, kernel.index)
        )

    def of(
        self,
        op: str,
        ne: Sequence[int],
        *src: Tensor | None,
        params: tuple[int, ...] = (),
        type_: TensorType = F32,
    ) -> Tensor:
        """A node of an operation that a single helper uses, which states its extents."""
        return self._make(op, type_, _extents(ne), tuple([t.index for t in src if t is not None]), params)


def _extents(ne: Sequence[int]) -> Extents:
    a, b, c, d = (*ne, 1, 1, 1, 1)[:4]
    return a, b, c, d
