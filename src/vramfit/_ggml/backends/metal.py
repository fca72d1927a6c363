"""Metal: follows the engine's source (ggml/src/ggml-metal/), and is not measured."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

from ..graph import Tensor
from .nouns import Backend, Node, pad

__all__ = ["METAL"]

_F16_BYTES: Final = 2
_TAIL: Final = 64  # cells that attention takes at a time (OP_FLASH_ATTN_EXT_NCPSG)
# K and V head sizes that a kernel exists for (ggml-metal-device.m:1727-1750)
_HEADS: Final = frozenset(
    [
        *((n, n) for n in (32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576)),
        (192, 128),
        (320, 256),
        (576, 512),
    ]
)


def _attends(node: Tensor, src: Sequence[Tensor]) -> bool:
    k, v = src[1], src[2]
    return k.type is v.type and (k.ne[0], v.ne[0]) in _HEADS


def _attention(n_bytes: int, node: Node) -> int:
    """Always reserved, used or not (ggml-metal-ops.cpp:3064-3211).

    A padded tail of K, V and mask; a map of masked blocks; partial results of 32 workgroups; f16
    copies of K and V.
    """
    q, k, v = (t.ne for t in node.src[:3])
    mask = node.src[3].ne if len(node.src) > 3 else (0, 0, 0, 0)
    tail = _TAIL * (_row(node.src[1]) + _row(node.src[2]) + _F16_BYTES * prod(mask[1:]))
    blocks = pad(-(-mask[0] // 32) * q[1] * mask[2] * mask[3], 32)
    partial = 4 * min(q[1], 32) * q[2] * q[3] * 32 * (v[0] + 2)
    copies = pad(_F16_BYTES * prod(k), 16) + pad(_F16_BYTES * prod(v), 16)
    return n_bytes + tail + blocks + partial + copies


def _row(t: Tensor) -> int:
    """One cell of K or V in all heads: each counts a row from cell to cell, or its f16 copy if that is more."""
    return max(t.nb[1], _F16_BYTES * t.ne[0]) * t.ne[2] * t.ne[3]


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
    alignment=32,
    conditions={"FLASH_ATTN_EXT": _attends},
    scratch={
        "FLASH_ATTN_EXT": _attention,
        "MUL_MAT_ID": _experts,
        "CUMSUM": _twice,
        "ARGSORT": _twice,
        "TOP_K": _top_k,
    },
    offload_batch=32,
    offload_ops=frozenset({"MUL_MAT", "MUL_MAT_ID"}),
    async_events=True,
)
