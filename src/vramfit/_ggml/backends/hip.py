"""HIP: CUDA's source compiled for AMD (ggml/src/ggml-hip/CMakeLists.txt compiles ggml/src/ggml-cuda/).

Alignment, padding, what runs, fused mixtures, pinned memory and offload are CUDA's own lines. What differs:

- Attention runs on other kernels (`fattn.kernel`): on matrix cores of CDNA (fattn.cu:683) and of RDNA3 and newer (:699), else as on
  a card of NVIDIA without tensor cores. Turing's and Volta's kernels ask for NVIDIA (common.cuh:360-366).
- Sorts have no CUB (common.cuh:114): a row must fit into shared memory (ggml-cuda.cu:5568), which is 64 KiB.
- A card is known by its architecture ("gfx1100", ggml-cuda.cu:172) and not by a compute capability.

The build is the default one: with MFMA, with peer copies (hence events), `GGML_CUDA_FA_QUANTS` as shipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

from ..graph import Tensor
from .cuda import CUDA, fattn
from .nouns import Backend, Node

__all__ = ["HIP", "of_architecture"]

_ARCHITECTURE: Final = re.compile(r"gfx([0-9a-f]{1,2})([0-9a-f]{2})")
_PROOF: Final = "its own functions, compiled for AMD, on devices without memory"
_LONGEST_SORT: Final = 65536 // 4  # elements that shared memory holds, a power of two
# One of each family whose kernels differ: without matrix cores, CDNA, RDNA3 and newer.
_FAMILIES: Final = ("gfx1030", "gfx908", "gfx1100")


def _sorts(node: Tensor, src: Sequence[Tensor]) -> bool:
    return src[0].ne[0] <= _LONGEST_SORT


_ANY: Final = replace(
    CUDA, name="hip", title="HIP", proof=_PROOF, conditions={**CUDA.conditions, "ARGSORT": _sorts}, may_be=()
)


@lru_cache(maxsize=64)
def of_architecture(name: str) -> Backend:
    """Make the rules of HIP on a card of this architecture ("gfx1100"); those of any card where it is no such name."""
    found = _ARCHITECTURE.fullmatch(
        name.partition(":")[0]
    )  # behind the colon: features, as in gfx90a:sramecc+
    if found is None:
        return HIP
    cc = fattn.AMD + 0x100 * int(found[1], 16) + int(found[2], 16)
    return replace(_ANY, scratch={"FLASH_ATTN_EXT": partial(fattn.alloc_size, cc=cc)})


_MAY_BE: Final = tuple(map(of_architecture, _FAMILIES))


def _largest(n_bytes: int, node: Node) -> int:
    return max(b.with_scratch(n_bytes, node) for b in _MAY_BE)


HIP: Final = replace(_ANY, scratch={"FLASH_ATTN_EXT": _largest}, may_be=_MAY_BE)
