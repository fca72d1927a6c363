"""Vulkan (ggml/src/ggml-vulkan/ggml-vulkan.cpp; lines below are of that file).

`order` says in which order the nodes of a split run, `support` which of them a card runs. What differs by card is what its
driver reports: `of_card` takes it, and without it the largest figures hold.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

from ..cpu import CPU
from ..nouns import Backend
from .order import graph_optimize
from .support import CONDITIONS, OPS, indexes

__all__ = ["VULKAN", "of_card"]

_BLOCK: Final = 1 << 30  # suballocation_block_size, 4216: buffers of cards and pinned ones alike


def _pinned(alignment: int, block: int) -> Backend:
    """The host as the first card pins it: 32 bytes more a buffer, and no larger ones than the card's (13074-13099)."""
    return replace(CPU, alignment=alignment, max_buffer=block, buffer_extra=32)


VULKAN: Final = Backend(
    name="vulkan",
    title="Vulkan",
    proof="the real backend on Mesa's software device, and its own functions with other limits",
    alignment=256,  # minStorageBufferOffsetAlignment, 13036: the largest that Vulkan allows
    unproved="want alignment, host_alignment and max_tensor_bytes of the card; the largest alignments were taken",
    ops=OPS,
    conditions=CONDITIONS,
    graph_optimize=graph_optimize,
    offload_batch=32,  # 16117
    async_events=True,
    host_buffer=True,
    max_buffer=_BLOCK,
    pinned=_pinned(4096, _BLOCK),  # minMemoryMapAlignment, 13093: 64 or a page
)


@lru_cache(maxsize=64)
def of_card(
    alignment: int | None,
    host_alignment: int | None,
    max_tensor: int | None,
    max_buffer: int | None,
    reached_tensor: int | None = None,
    fp16: bool = True,
) -> Backend:
    """Make the rules of Vulkan for a card whose driver reports these, in bytes; None: not known.

    Minimum alignments of storage buffers and of mapped memory; the lesser of the storage buffer range and the largest
    buffer; the largest allocation; what such drivers reach at the least, where the limit is not known.
    """
    if alignment is host_alignment is max_tensor is max_buffer is reached_tensor is None and fp16:
        return VULKAN
    step = alignment or VULKAN.alignment
    block = min(_BLOCK, max_buffer or _BLOCK)
    return replace(
        VULKAN,
        alignment=step,
        ops=OPS if fp16 else OPS - {"LIGHTNING_INDEXER"},  # 15843
        conditions={**CONDITIONS, "LIGHTNING_INDEXER": partial(indexes, alignment=step)},
        max_tensor=max_tensor or 0,
        reached_tensor=0 if max_tensor else reached_tensor or 0,
        max_buffer=block,
        pinned=_pinned(host_alignment or 4096, block),
        exact=None not in (alignment, host_alignment, max_tensor or reached_tensor),
    )
