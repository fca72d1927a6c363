"""Flash attention on CUDA: which kernel runs a node, and the scratch behind its result.

Source: `ggml_cuda_get_best_fattn_kernel` (fattn.cu:541), `ggml_cuda_flash_attn_ext_get_alloc_size` (:722),
`ggml_cuda_get_fattn_vec_case` (:436), `ggml_cuda_flash_attn_ext_get_f16_extra_data` (fattn-common.cuh:53).
Compute capabilities are ints as there: 860 for 8.6, `AMD` + 0x1100 for gfx1100 (common.cuh:63-100).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from math import prod
from typing import Final

from ...graph import Tensor, param
from ..nouns import Node, pad

__all__ = ["AMD", "Kernel", "alloc_size", "has_head_sizes", "has_kernel", "kernel"]

_VOLTA, _TURING, _ADA = 700, 750, 890
AMD: Final = 0x1000000  # GGML_CUDA_CC_OFFSET_AMD
_CDNA, _RDNA, _RDNA3 = AMD + 0x908, AMD + 0x1010, AMD + 0x1100
_GCN_CHIPS: Final = frozenset((AMD + 0x909, AMD + 0x90C))  # GCN in processors, numbered among CDNA
_STRIDE: Final = 256  # FATTN_KQ_STRIDE: cells that a cache is a multiple of, for kernels over grouped heads
_F16_BYTES: Final = 2

_SQUARE: Final = frozenset((40, 64, 72, 80, 96, 112, 128, 256))  # head sizes of K that V must share
# Head sizes of K for which heads must come in groups: the size of V, and what the group is a multiple of.
_GROUPED: Final = {192: (128, 8), 320: (256, 32), 512: (512, 1), 576: (512, 1)}
_NO_TENSOR_CORES: Final = (40, 72)  # head sizes without a kernel for them
# Cache types that a kernel reads or converts (fattn.cu:525)
_TYPES: Final = frozenset(("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"))
# Pairs of K and V that a vector kernel of the default build reads as they are
_VECTOR_PAIRS: Final = frozenset((t, t) for t in ("f16", "bf16", "q8_0", "q4_0"))


class Kernel(Enum):
    """The families of kernels that a node can run on."""

    TILE = "tile"
    VECTOR = "vector"
    TENSOR_CORES = "mma"


def has_head_sizes(node: Tensor, src: Sequence[Tensor]) -> bool:
    """Whether there is a kernel for the head sizes and the grouping of a node's heads."""
    k, v = src[1].ne[0], src[2].ne[0]
    if k in _SQUARE:
        return v == k
    if k not in _GROUPED:
        return False
    width, step = _GROUPED[k]
    return v == width and _groups_heads(node, src) and not _group(src) % step


def has_kernel(node: Tensor, src: Sequence[Tensor]) -> bool:
    """Whether any kernel runs a node (ggml_cuda_flash_attn_ext_supported)."""
    types = src[1].type.name in _TYPES and src[2].type.name in _TYPES
    one_mask = len(src) < 4 or src[3].ne[2] == 1
    return types and one_mask and has_head_sizes(node, src)


def kernel(node: Tensor, src: Sequence[Tensor], cc: int) -> Kernel:
    """Choose the kernel that runs a node which has one."""
    q, k = src[0], src[1]
    width, n_tokens = q.ne[0], q.ne[1]
    vector = width <= 256 and not width % 64 and width != 192 and not k.ne[1] % _STRIDE
    if cc >= AMD:
        if width not in _NO_TENSOR_CORES and _amd_prefers_matrix_cores(node, src, cc):
            return Kernel.TENSOR_CORES
    elif cc >= _TURING and width not in _NO_TENSOR_CORES:
        return Kernel.VECTOR if vector and _turing_prefers_vector(node, src, cc) else Kernel.TENSOR_CORES
    elif cc >= _VOLTA and width not in _NO_TENSOR_CORES:
        columns = n_tokens * _columns(_group(src), width)
        if vector and columns <= 2:
            return Kernel.VECTOR
        return Kernel.TILE if columns <= 16 else Kernel.TENSOR_CORES
    if not vector:
        return Kernel.TILE
    few = n_tokens <= 2 if _quantized(src) else n_tokens == 1 and not _groups_heads(node, src)
    return Kernel.VECTOR if few else Kernel.TILE


def alloc_size(n_bytes: int, node: Node, cc: int) -> int:
    """Count the bytes of a node whose result has `n_bytes`, with the f16 copies of K and V behind it."""
    if not has_kernel(node.tensor, node.src):
        return n_bytes
    k, v = node.src[1], node.src[2]
    copies_k, copies_v = _converts(k.type.name, v.type.name, kernel(node.tensor, node.src, cc))
    if copies_k and k.type.name != "f16":
        n_bytes = pad(n_bytes, 128) + prod(k.ne) * _F16_BYTES
    if copies_v and v.type.name != "f16" and not node.views(2, 1):
        n_bytes = pad(n_bytes, 128) + prod(v.ne) * _F16_BYTES
    return n_bytes


def _converts(k: str, v: str, chosen: Kernel) -> tuple[bool, bool]:
    """Whether K and V of these types must be f16 for a kernel."""
    if chosen is not Kernel.VECTOR:
        return True, True
    if ("f16" if k == "f32" else k, "f16" if v == "f32" else v) not in _VECTOR_PAIRS:
        return True, True
    return k == "f32", v == "f32"


def _turing_prefers_vector(node: Tensor, src: Sequence[Tensor], cc: int) -> bool:
    """Sparse attention has no say: its heads are wide and grouped, which rules the vector kernel out."""
    q, n_kv = src[0], src[1].ne[1]
    n_tokens = q.ne[1]
    if _quantized(src):
        if n_tokens <= (2 if cc >= _ADA else 1):
            return True
    elif (
        cc >= _ADA and n_tokens == q.ne[3] == 1 and not (_group(src) > 4 and (q.ne[0] >= 256 or n_kv >= 8192))
    ):
        return True
    return n_tokens == 1 and not _groups_heads(node, src)


def _amd_prefers_matrix_cores(node: Tensor, src: Sequence[Tensor], cc: int) -> bool:
    """Whether a card of AMD has them, and enough columns to make use of them (fattn.cu:683-702)."""
    width = src[0].ne[0]
    columns = src[0].ne[1] * _columns(_group(src), width)
    if _CDNA <= cc < _RDNA and cc not in _GCN_CHIPS:
        if width > 256:
            return columns > 128 and _groups_heads(node, src)
        return columns > (8 if width <= 64 else 16 if width <= 128 else 64)
    return (
        cc >= _RDNA3 and width <= 256 and columns > (8 if width <= 128 else 16) and _groups_heads(node, src)
    )


def _quantized(src: Sequence[Tensor]) -> bool:
    return src[1].type.is_quantized or src[2].type.is_quantized


def _group(src: Sequence[Tensor]) -> int:
    """Count the query heads for each head of K."""
    return src[0].ne[2] // src[1].ne[2]


def _columns(group: int, width: int) -> int:
    """Count the query heads that one tile takes together: a power of two that divides the group."""
    most = {320: 32, 576: 16, 192: 16}.get(width, 8)
    columns = 1
    while not group % (2 * columns) and columns < most:
        columns *= 2
    return columns


def _groups_heads(node: Tensor, src: Sequence[Tensor]) -> bool:
    """Whether kernels can take query heads together: with a mask, no ALiBi, whole tiles, aligned strides."""
    if _group(src) < 2 or len(src) < 4 or param(node, 1) or src[1].ne[1] % _STRIDE:
        return False
    return all(t.type.is_quantized or not any(n % 16 for n in t.nb[1:]) for t in src[:4])
