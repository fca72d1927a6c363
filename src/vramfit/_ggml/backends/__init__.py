"""The rules of each backend: how many bytes a tensor takes, what runs where, what is kept alive.

In: nodes of a graph, with their sources. Out: `int` bytes, yes or no, and tensors to keep. A backend is a
value (`Backend`) whose fields are data and small functions; scheduler and allocator ask it what the engine
asks, and know no backend by name. Each has a module of its own, with the engine's file and line beside each rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from ..._base.errors import GpuError
from . import sycl
from .cpu import CPU, cpu_of
from .cuda import CUDA, in_older_build, of_capability
from .hip import HIP, of_architecture
from .metal import METAL
from .nouns import Backend, Node, SplitGraph, pad
from .rpc import over_rpc
from .sycl import SYCL
from .vulkan import VULKAN, of_card

__all__ = [
    "BACKENDS",
    "HOST_BACKEND",
    "Backend",
    "Node",
    "SplitGraph",
    "backend",
    "cpu_of",
    "host_of",
    "over_rpc",
    "pad",
]

HOST_BACKEND: Final = CPU
BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType(
    {b.name: b for b in (CUDA, HIP, VULKAN, METAL, SYCL, CPU)}
)


@lru_cache(maxsize=256)
def backend(
    name: str,
    compute_capability: str | None = None,
    alignment: int | None = None,
    host_alignment: int | None = None,
    max_tensor: int | None = None,
    max_buffer: int | None = None,
    *,
    reached_tensor: int | None = None,
    fp16: bool = True,
    pooled_copies: bool = False,
    keeps_sum: bool = True,
    keeps_choice: bool = True,
) -> Backend:
    """Find the rules of the backend called `name`, in any case, for a card of which this is known.

    A compute capability ("8.6") counts for CUDA, an architecture ("gfx1100", "Xe-HPG") for HIP and SYCL. The next four are bytes that the card's
    driver reports: the alignments of tensors and of pinned memory and the largest tensor for Vulkan, the largest buffer for
    Vulkan, Metal and SYCL; `reached_tensor` is what Vulkan reaches for certain where its limit is not known, and `fp16` whether
    its shaders have 16-bit floats. The others are what CUDA and HIP did otherwise in older builds: f16 copies of a quantized cache in a pool and in no buffer, nothing kept alive for a mixture's
    sum or choice of experts. One value for each question, so that backends can be compared by identity. What is not known takes
    the largest figure.
    Raises `GpuError` that names the known backends if there is none.
    """
    found = BACKENDS.get(name.lower())
    if found is None:
        raise GpuError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    if found is VULKAN:
        return of_card(alignment, host_alignment, max_tensor, max_buffer, reached_tensor, fp16)
    if found is SYCL:
        return sycl.of_card(compute_capability, max_buffer)
    if found is METAL:
        return replace(found, max_buffer=max_buffer) if max_buffer else found
    if found not in (CUDA, HIP):
        return found
    if compute_capability:
        found = of_capability(compute_capability) if found is CUDA else of_architecture(compute_capability)
    if keeps_sum and keeps_choice and not pooled_copies:
        return found
    return in_older_build(found, pooled_copies=pooled_copies, keeps_sum=keeps_sum, keeps_choice=keeps_choice)


def host_of(devices: Sequence[Backend], *, of_weights: bool = False) -> Backend:
    """The rules of host memory beside these devices: the first one pins it (llama-context.cpp:367), for weights the
    first that can (llama-model.cpp:1078), which differ where other machines come first.
    """
    able = [d for d in devices if d.host_buffer] if of_weights else devices
    return (able[0].pinned if able else None) or HOST_BACKEND
