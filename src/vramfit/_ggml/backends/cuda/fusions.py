"""Groups of nodes that CUDA fuses in a mixture of experts, and the tensors that they keep alive.

A fused group writes its result while it still reads its inputs, so `graph_optimize` asks the scheduler to
keep those inputs until the group's last node has run. Source: `ggml_backend_cuda_graph_optimize`
(ggml-cuda.cu:4522), `ggml_cuda_match_moe_weighted_reduction` (:3044), `ggml_cuda_topk_moe_fusion` (:2813),
`ggml_cuda_should_use_topk_moe` (topk-moe.cu:403), `ggml_can_fuse_subgraph_ext` (ggml.c:7769).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ...graph import NONE, Tensor, is_contiguous
from ..nouns import Keep, SplitGraph, can_fuse

__all__ = ["graph_optimize"]

_MOST_SUMMED: Final = 15  # experts in use: MOE_WEIGHTED_REDUCTION_MAX_EXPERTS
_EXPERTS: Final = frozenset(
    (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 288, 576)
)  # with a kernel to choose among
_GATES: Final = frozenset(("SOFT_MAX", "UNARY"))


def graph_optimize(g: SplitGraph, keep: Keep, *, sums: bool = True, choices: bool = True) -> None:
    """Tell `keep` which tensors of a split stay alive until which node; builds may lack either group."""
    nodes, tensors = g.nodes, g.tensors
    i = g.start
    while i < g.end:
        op = tensors[nodes[i]].op
        if op == "MUL" and sums:
            found = _weighted_sum(g, i)
            if found is not None:
                for tensor in found.inputs:
                    keep(tensor, nodes[found.last])
                i = found.last
        elif op in _GATES and choices:
            n = _choice_of_experts(g, i)
            if n and i + n < len(nodes):
                _keep_all(g, keep, range(i, i + n), nodes[i + n])
                i += n - 1
        i += 1


def _keep_all(g: SplitGraph, keep: Keep, positions: Sequence[int], until: int) -> None:
    """Keep the nodes of a group and all that they read alive; `until` is the node behind the group."""
    for p in positions:
        keep(g.nodes[p], until)
        for s in g.src(p):
            keep(s, until)


# --- the weighted sum of the experts in use


class _Sum(NamedTuple):
    """A matched sum: what it reads, and the position of its last addition."""

    inputs: tuple[int, ...]
    last: int


def _weighted_sum(g: SplitGraph, first: int) -> _Sum | None:
    """Match experts, scaled or not, times their weights; a view of each; and their sum, one by one."""
    if not _is_flat_f32(g.at(first)):
        return None
    scaled = _scaled_product(g, first)
    plain = None if scaled else _product(g, first)
    inputs, n_products = (scaled, 2) if scaled else (plain, 1)
    if inputs is None:
        return None
    weighted = first + n_products - 1
    n_used = g.at(weighted).ne[1]
    last = weighted + 2 * n_used - 1
    if not 2 <= n_used <= _MOST_SUMMED or last >= g.end or not _sums_slices(g, weighted, last):
        return None
    return _Sum(inputs, last) if can_fuse(g, range(first, last + 1), (last,)) else None


def _scaled_product(g: SplitGraph, first: int) -> tuple[int, ...] | None:
    """Match the experts, their weights and their scale, where a second product follows that reads the first."""
    second = first + 1
    if second >= g.end or g.op(second) != "MUL" or not _is_flat_f32(g.at(second)):
        return None
    outer, inner = _product(g, second), _product(g, first)
    if outer is None or inner is None or outer[0] != g.nodes[first]:
        return None
    return inner[0], outer[1], inner[1]


def _product(g: SplitGraph, position: int) -> tuple[int, int] | None:
    """Match the experts and their weights, whichever comes first."""
    t, (a, b) = g.at(position), g.src(position)
    if _is_expert(g.tensors[a], t) and _is_weight(g.tensors[b], t):
        return a, b
    return (b, a) if _is_expert(g.tensors[b], t) and _is_weight(g.tensors[a], t) else None


def _is_expert(t: Tensor, product: Tensor) -> bool:
    return t.ne == product.ne and _is_flat_f32(t)


def _is_weight(t: Tensor, product: Tensor) -> bool:
    return t.ne == (1, *product.ne[1:]) and _is_flat_f32(t)


def _is_flat_f32(t: Tensor) -> bool:
    return t.type.name == "f32" and is_contiguous(t)


def _sums_slices(g: SplitGraph, weighted: int, last: int) -> bool:
    """Whether the nodes behind `weighted` are views of its slices and additions of them, in order."""
    whole = g.at(weighted)
    slices: list[int] = []
    total = NONE
    n_added = 0
    for p in range(weighted + 1, last + 1):
        i, t = g.nodes[p], g.at(p)
        if t.op == "VIEW":
            if not _is_slice(g, t, p, weighted, len(slices)):
                return False
            slices.append(i)
            continue
        if t.op != "ADD" or t.type.name != "f32" or n_added + 1 >= len(slices):
            return False
        if g.src(p)[:2] != (total if n_added else slices[0], slices[n_added + 1]):
            return False
        total, n_added = i, n_added + 1
    t = g.at(last)
    done = len(slices) == whole.ne[1] and n_added == len(slices) - 1 and total == g.nodes[last]
    return done and t.ne == (whole.ne[0], whole.ne[2] * whole.ne[3], 1, 1) and is_contiguous(t)


def _is_slice(g: SplitGraph, t: Tensor, position: int, weighted: int, expert: int) -> bool:
    whole, root = g.at(weighted), g.nodes[weighted]
    return (
        expert < whole.ne[1]
        and g.src(position)[0] == root == t.view
        and t.type.name == "f32"
        and t.ne == (whole.ne[0], whole.ne[2] * whole.ne[3], 1, 1)
        and (t.nb[0], t.nb[1]) == (whole.nb[0], whole.nb[2])
        and t.offset == expert * whole.nb[1]
    )


# --- the choice of the experts


def _choice_of_experts(g: SplitGraph, first: int) -> int:
    """Count how many nodes the choice of experts that starts with their gate takes; 0 where it is not fused.

    Gates are a softmax, a sigmoid, or the root of a softplus; a graph has no other unary operation in such a place.
    """
    gate = first
    if g.op(first) == "UNARY" and g.op(first + 1) == "SQRT" and g.reads(first + 1, 0, first):
        gate += 1
    if g.op(gate + 1) != "RESHAPE" or not g.reads(gate + 1, 0, gate):
        return 0
    chosen = _chosen(g, gate)
    if chosen is None:
        return 0
    ids, last = chosen
    if last + 1 < g.end:
        last = _scaled(g, _normalised(g, last))
    positions = range(first, last + 1)
    if not can_fuse(g, positions, (ids, last)) or not _has_kernel(g, first, ids, last):
        return 0
    return len(positions)


def _chosen(g: SplitGraph, gate: int) -> tuple[int, int] | None:
    """Find the positions of the ids of the experts and of their weights, from the reshaped gate on."""
    reshaped = gate + 1
    p = reshaped + 1
    sorted_ = gate
    if g.op(p) == "ADD" and g.reads(p, 0, gate):
        sorted_ = p
        p += 1
    if g.op(p) != "ARGSORT" or not g.reads(p, 0, sorted_):
        return None
    if g.op(p + 1) != "VIEW" or not g.reads(p + 1, 0, p):
        return None
    weights = p + 2
    if g.op(weights) != "GET_ROWS" or not g.reads(weights, 0, reshaped) or not g.reads(weights, 1, p + 1):
        return None
    return (p + 1, weights) if weights < g.end else None


def _normalised(g: SplitGraph, last: int) -> int:
    """Find the position of the last node with the division by the sum, where that follows."""
    p = last
    for op in ("RESHAPE", "SUM_ROWS", "CLAMP"):
        if g.op(p + 1) != op or not g.reads(p + 1, 0, p):
            return last
        p += 1
    if g.op(p + 1) != "DIV" or not g.reads(p + 1, 1, p) or not g.reads(p + 1, 0, p - 2):
        return last
    return p + 2 if g.op(p + 2) == "RESHAPE" and g.reads(p + 2, 0, p + 1) else last


def _scaled(g: SplitGraph, last: int) -> int:
    """Find the position of the last node with the scale, where that follows.

    Behind a reshape that opens no division the engine does not look for one.
    """
    return last + 1 if g.op(last + 1) == "SCALE" and g.reads(last + 1, 0, last) else last


def _has_kernel(g: SplitGraph, first: int, ids: int, last: int) -> bool:
    gate, chosen = g.at(first), g.at(ids)
    logits = g.tensors[g.src(first)[0]]
    if chosen.nb[1] // chosen.nb[0] not in _EXPERTS:
        return False
    if gate.op == "SOFT_MAX" and len(g.src(first)) > 1:  # with a mask or sinks
        return False
    return is_contiguous(logits) and is_contiguous(g.at(last))
