"""Vulkan: follows the engine's source (ggml/src/ggml-vulkan/ggml-vulkan.cpp), and is not measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..graph import Tensor
from .nouns import Backend

__all__ = ["VULKAN"]


def _attends(node: Tensor, src: Sequence[Tensor]) -> bool:
    """Head sizes are multiples of 8 (ggml-vulkan.cpp:15454)."""
    return not src[1].ne[0] % 8 and not src[2].ne[0] % 8


VULKAN: Final = Backend(
    name="vulkan",
    alignment=256,  # minStorageBufferOffsetAlignment: 4 to 256, the largest that is allowed
    conditions={"FLASH_ATTN_EXT": _attends},
    offload_batch=32,
    async_events=True,
    host_buffer=True,
    max_buffer=1 << 30,  # ggml-vulkan.cpp:4216
)
