"""Single nodes of a graph, for asking backends about them."""

from __future__ import annotations

from collections.abc import Sequence

from vramfit._ggml.backends import Backend, Node
from vramfit._ggml.graph import NONE, Tensor, contiguous
from vramfit._ggml.types import BY_NAME, TensorType

F16, F32 = BY_NAME["f16"], BY_NAME["f32"]


def leaf(shape: tuple[int, ...], type_: TensorType = F32) -> Tensor:
    """A tensor without gaps."""
    a, b, c, d = (*shape, 1, 1, 1, 1)[:4]
    return Tensor("", "NONE", type_, (a, b, c, d), contiguous(type_, (a, b, c, d)))


def node(
    op: str,
    shape: tuple[int, ...],
    sources: Sequence[Tensor],
    type_: TensorType = F32,
    params: tuple[int, ...] = (),
) -> Node:
    """An operation on `sources`, which count as tensors 0, 1, ... of their graph."""
    result = leaf(shape, type_)
    result.op, result.params = op, params
    return Node(result, tuple(sources), tuple(range(len(sources))))


def attention(
    k: int,
    v: int,
    gqa: int = 1,
    n_tokens: int = 512,
    k_type: TensorType = F16,
    v_type: TensorType = F16,
    n_kv: int = 256,
    n_head_kv: int = 8,
    v_in_k: bool = False,
    mask: bool = True,
    alibi: bool = False,
) -> Node:
    """Flash attention with these head sizes, as contexts reserve it."""
    sources = [
        leaf((k, n_tokens, n_head_kv * gqa)),
        leaf((k, n_kv, n_head_kv), k_type),
        leaf((v, n_kv, n_head_kv), v_type),
    ]
    if v_in_k:
        sources[2].view = 1
    else:
        sources[2].view = NONE
    if mask:
        sources.append(leaf((n_kv, n_tokens), F16))
    shape = (v, n_head_kv * gqa, n_tokens)
    return node("FLASH_ATTN_EXT", shape, sources, params=(0, 1) if alibi else ())


def runs(rules: Backend, asked: Node) -> bool:
    """Whether a backend runs a node."""
    return rules.supports_op(asked.tensor, asked.src)
