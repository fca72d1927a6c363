"""Metal (ggml/src/ggml-metal/): checked against its own functions, and not measured on a Mac.

`order` says in which order the nodes of a split run. A card's largest buffer (maxBufferLength) comes from its driver.
"""

from __future__ import annotations

from math import prod
from typing import Final

from ...graph import Extents, param
from ..nouns import Backend, Node, pad
from .order import graph_optimize
from .support import CONDITIONS, OPS

__all__ = ["METAL"]

_F16_BYTES: Final = 2
_TAIL: Final = 64  # cells that attention takes at a time (OP_FLASH_ATTN_EXT_NCPSG)
_COPIED: Final = frozenset(("q8_0", "q4_0", "q4_1", "q5_0", "q5_1"))  # to f16, for 32 tokens or more
_SPARSE: Final = 4096  # cells that an index list may hold (ggml-metal-ops.cpp:3004)
_VECTOR_TAIL: Final = 32  # cells that the vector kernel takes at a time (OP_FLASH_ATTN_EXT_VEC_NCPSG)


def _attention(n_bytes: int, node: Node) -> int:
    """Always reserved, used or not (ggml-metal-ops.cpp:3064-3233).

    A padded tail of K, V and mask; a map of masked blocks; partial results of 32 workgroups; f16
    copies of K and V, one where V is a view of K; the lists of a sparse mask.
    """
    (q, k, v), kinds = (t.ne for t in node.src[:3]), node.src[1]
    mask = node.src[3].ne if len(node.src) > 3 else (0, 0, 0, 0)
    copied = q[1] >= 32 and kinds.type.name in _COPIED
    shared = node.views(2, 1)
    row_k, row_v = kinds.nb[1], node.src[2].nb[1]
    if copied:
        row_k, row_v = _F16_BYTES * k[0], _F16_BYTES * (k[0] if shared else v[0])
    tail = _TAIL * (row_k * k[2] * k[3] + row_v * v[2] * v[3] + _F16_BYTES * prod(mask[1:]))
    partial = 4 * min(q[1], 32) * q[2] * q[3] * 32 * (v[0] + 2)
    copies = pad(_F16_BYTES * prod(k), 16) + (0 if shared else pad(_F16_BYTES * prod(v), 16))
    return n_bytes + tail + _blocks(q, mask) + partial + copies + _lists(node, mask)


def _blocks(q: Extents, mask: Extents) -> int:
    """A byte for each block of the mask: 1 token and 32 cells for the vector kernel, else 8 and 64."""
    vector = q[1] < 20 and not q[0] % 32
    tokens, cells = (1, 32) if vector else (8, 64)
    return pad(-(-mask[0] // cells) * -(-q[1] // tokens) * mask[2] * mask[3], 32)


def _lists(node: Node, mask: Extents) -> int:
    """Lists of the cells that a sparse mask leaves open, one for each of its rows."""
    cells = param(node.tensor, 4)
    if not 0 < cells <= _SPARSE:
        return 0
    return pad(4 * pad(cells, _VECTOR_TAIL) * prod(mask[1:]), 16)


def _experts(n_bytes: int, node: Node) -> int:
    """A map of tokens to experts (ggml-metal.cpp:220-252)."""
    n_expert, n_tokens = node.src[0].ne[2], node.src[2].ne[1]
    return n_bytes + 4 * n_expert * (1 + n_tokens) + 8 + 4 * 256


def _twice(n_bytes: int, node: Node) -> int:
    """Sorts and sums write a second half."""
    return 2 * n_bytes


def _top_k(n_bytes: int, node: Node) -> int:
    return 8 * prod(node.src[0].ne)


METAL: Final = Backend(
    name="metal",
    title="Metal",
    unproved="follow the engine's source; its functions answered alike on devices without memory, no Mac was measured",
    alignment=32,
    ops=frozenset(OPS),
    conditions=CONDITIONS,
    scratch={
        "FLASH_ATTN_EXT": _attention,
        "MUL_MAT_ID": _experts,
        "CUMSUM": _twice,
        "ARGSORT": _twice,
        "TOP_K": _top_k,
    },
    graph_optimize=graph_optimize,
    orders_by_address=True,  # ggml-metal-common.cpp:84: what touches in a buffer, counts as one
    offload_batch=32,
    offload_ops=frozenset({"MUL_MAT", "MUL_MAT_ID"}),
    async_events=True,
)
