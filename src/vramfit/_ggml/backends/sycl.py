"""SYCL: follows the engine's source (ggml/src/ggml-sycl/), and is not measured."""

from __future__ import annotations

from math import prod
from typing import Final

from .cuda.fattn import has_head_sizes
from .nouns import Backend, Node, pad

__all__ = ["SYCL"]

_F16_BYTES: Final = 2
_ONEDNN: Final = frozenset(("f16", "f32", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"))  # fattn-onednn.cpp:50


def _scratch(n_bytes: int, node: Node) -> int:
    """The worst case over all kernels: Q, K, V, a scale and the result in f16 (fattn.cpp:383-453).

    oneDNN takes some cache types only; of the others the tile kernel copies K and V, once where V is a view of K. What
    else oneDNN asks depends on build and card, so where it takes the types all is counted, and never too little.
    """
    q, k, v = node.src[:3]
    if k.type.name in _ONEDNN and v.type.name in _ONEDNN:
        n_q = q.ne[2] * q.ne[1] * k.ne[0]
        copies = [n_q, prod(k.ne), prod(v.ne), 1, n_q]
    else:
        copies = [prod(t.ne) for t in (k, v) if t.type.name != "f16"]
        copies = copies[: 1 if node.views(2, 1) else 2]
    for n in copies:
        n_bytes = pad(n_bytes, 128) + n * _F16_BYTES
    return n_bytes


SYCL: Final = Backend(
    name="sycl",
    alignment=128,
    row_padding=512,
    conditions={"FLASH_ATTN_EXT": has_head_sizes},
    scratch={"FLASH_ATTN_EXT": _scratch},
    offload_batch=32,
    async_events=True,
    host_buffer=True,
    # get_max_size is what the driver reports (ggml-sycl.cpp:1030), 0.6 of it on one card: `max_buffer` of `backend`
)
