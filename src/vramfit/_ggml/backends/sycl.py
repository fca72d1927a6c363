"""SYCL: follows the engine's source (ggml/src/ggml-sycl/), and is not measured."""

from __future__ import annotations

from math import prod
from typing import Final

from .cuda.fattn import has_head_sizes
from .nouns import Backend, Node, pad

__all__ = ["SYCL"]

_F16_BYTES: Final = 2


def _scratch(n_bytes: int, node: Node) -> int:
    """The worst case over all kernels: Q, K, V, a scale and the result in f16 (fattn.cpp:383)."""
    q, k, v = node.src[:3]
    n_q = q.ne[2] * q.ne[1] * k.ne[0]
    for n in (n_q, prod(k.ne), prod(v.ne), 1, n_q):
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
)
