"""CUDA (ggml/src/ggml-cuda/); `hip` is the same source compiled for AMD.

`fattn` chooses attention kernels and their scratch, `support` says what runs, `fusions` what a fused group
keeps alive. The build is the default one: CUDA 11.7 or newer, `GGML_CUDA_FA_QUANTS` as shipped.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

from ...._base.errors import GpuError
from ..nouns import Backend, Node
from . import fattn
from .fusions import graph_optimize
from .support import CONDITIONS, OPS

__all__ = ["CUDA", "in_older_build", "of_capability"]

# One capability of each family whose kernels differ: no tensor cores, Volta's, Turing's, Ada's and newer.
_FAMILIES: Final = ("6.1", "7.0", "7.5", "8.9")

_ANY: Final = Backend(
    name="cuda",
    title="CUDA",
    proof="its own functions on devices without memory, and loads that were printed",
    alignment=128,  # ggml-cuda.cu:897
    exact=True,
    row_padding=512,  # ggml-cuda.cu:903
    ops=OPS,
    conditions=CONDITIONS,
    own_memory_only=True,  # ggml-cuda.cu:5153
    graph_optimize=graph_optimize,
    offload_batch=32,  # ggml-cuda.cu:5651
    async_events=True,
    host_buffer=True,
)


@lru_cache(maxsize=64)
def of_capability(compute_capability: str) -> Backend:
    """Make the rules of CUDA on a card of this compute capability ("8.6"). Raises `GpuError` for any other text."""
    major, dot, minor = compute_capability.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal() and len(compute_capability) < 8):
        raise GpuError(f"compute_capability={compute_capability!r}: give it as NVIDIA does, such as 8.6")
    cc = 100 * int(major) + 10 * int(minor)
    return replace(_ANY, scratch={"FLASH_ATTN_EXT": partial(fattn.alloc_size, cc=cc)})


_MAY_BE: Final = tuple(map(of_capability, _FAMILIES))


def _largest(n_bytes: int, node: Node) -> int:
    return max(b.with_scratch(n_bytes, node) for b in _MAY_BE)


CUDA: Final = replace(_ANY, scratch={"FLASH_ATTN_EXT": _largest}, may_be=_MAY_BE)


def in_older_build(rules: Backend, *, pooled_copies: bool, keeps_sum: bool, keeps_choice: bool) -> Backend:
    """Make the rules of a build that lacks some of what the pinned one reserves or keeps alive."""
    optimize = partial(graph_optimize, sums=keeps_sum, choices=keeps_choice)
    return replace(
        rules,
        graph_optimize=optimize if keeps_sum or keeps_choice else None,
        scratch={} if pooled_copies else rules.scratch,
        may_be=() if pooled_copies else rules.may_be,
    )
