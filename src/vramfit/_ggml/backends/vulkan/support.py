"""What Vulkan can run (`ggml_backend_vk_device_supports_op`, ggml-vulkan.cpp:15300).

Lines below are of that file. A card is taken to have what every driver of a graphics card of the last ten years has: 16-bit
floats, subgroup shuffles, votes and sums, the Vulkan memory model, and 32 KiB of shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final

from ...graph import Tensor, is_contiguous, is_contiguous_rows, param
from ..nouns import Predicate

__all__ = ["CONDITIONS", "OPS", "indexes"]

Sources = Sequence[Tensor]
_PREC_F32: Final = 10  # GGML_PREC_F32
_SHARED: Final = 32768  # maxComputeSharedMemorySize, at the least on any card
_WIDEST: Final = 1024  # max_workgroup_size
_HC: Final = 4  # residual streams that the shaders know


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALWAYS: Final = _words("ROPE_BACK NONE RESHAPE VIEW PERMUTE TRANSPOSE RMS_NORM RWKV_WKV6 RWKV_WKV7")
_BLOCKS: Final = _words("q1_0 q2_0 q4_0 q4_1 q5_0 q5_1 q8_0")
_FLOATS: Final = _words("f32 f16 bf16")
_MATRICES: Final = (
    _FLOATS
    | _BLOCKS
    | _words(  # 15394
        """
    q2_K q3_K q4_K q5_K q6_K iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s iq4_xs iq4_nl mxfp4 nvfp4 tq1_0 tq2_0
    """
    )
)
_CACHES: Final = _words("f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl")  # 15470
_WRITTEN: Final = _FLOATS | _BLOCKS | {"iq4_nl"}  # 15535, 15558
_HALVES: Final = _words("f32 f16")
_INDEXER: Final = _CACHES  # lightning_indexer_k_types, ggml-vulkan-types.h:664


def _names(src: Sources) -> tuple[str, ...]:
    return tuple(t.type.name for t in src)


def _multiplies(node: Tensor, src: Sources) -> bool:
    """A matrix and its input: floats with gaps, all others without (15376-15443)."""
    a, b = src[:2]
    if a.type.name not in _MATRICES or src[2 if node.op == "MUL_MAT_ID" else 0].ne[3] != b.ne[3]:
        return False
    if (not _dense(a) and a.type.name not in _FLOATS) or (not _dense(b) and b.type.name not in _HALVES):
        return False
    if a.type.name == "bf16" and b.type.name == "f16":
        return False
    return b.type.name != "bf16" or a.type.name == "bf16"


def _multiplies_experts(node: Tensor, src: Sources) -> bool:
    """Not where the input must stay f32."""
    return param(node, 3) != _PREC_F32 and _multiplies(node, src)


def _dense(t: Tensor) -> bool:
    """Rows and matrices without gaps (ggml_vk_dim01_contiguous, 6010); less than a block stands for any row."""
    if t.nb[0] != t.type.block_bytes:
        return False
    if t.ne[0] >= t.type.block and t.nb[1] != t.nb[0] * t.ne[0] // t.type.block:
        return False
    return t.ne[3] == 1 or t.nb[3] == t.nb[2] * t.ne[2]


def _attends(node: Tensor, src: Sources) -> bool:
    """Flash attention: head sizes of 8, each by itself; K and V both bf16 or neither (15448-15498)."""
    k, v = src[1].type.name, src[2].type.name
    if src[1].ne[0] % 8 or src[2].ne[0] % 8 or {k, v} - _CACHES or (k == "bf16") != (v == "bf16"):
        return False
    masks = _names(src[3:])
    return (
        src[0].type.name == node.type.name == "f32"
        and not set(masks) - _HALVES
        and masks[1:] in ((), ("f32",))
    )


def _copies(node: Tensor, src: Sources) -> bool:
    """15549-15611."""
    a, b = src[0].type, src[1].type if len(src) > 1 else src[0].type
    one, two = a.name, b.name
    if (one == "f32" and two in _WRITTEN) or (two == "f32" and one in _WRITTEN):
        return True
    if {one, two} == {"f32", "i32"}:
        return True
    whole = not a.is_quantized or (is_contiguous(src[0]) and is_contiguous(node))
    return a is b and whole and not a.block_bytes % 2


def _concatenates(node: Tensor, src: Sources) -> bool:
    a = src[0].type
    if not a is src[1].type is node.type:
        return False
    if not a.is_quantized:
        return a.block_bytes in (1, 2, 4, 8)
    return all(is_contiguous_rows(t) for t in (*src[:2], node))


def _looks_up(node: Tensor, src: Sources) -> bool:
    return src[0].type.name in _MATRICES or src[0].type.name == "i32"


def _sets_rows(node: Tensor, src: Sources) -> bool:
    new, at = _names(src[:2])
    return new in _HALVES and at in ("i32", "i64") and node.type.name in _WRITTEN


def _same_halves(node: Tensor, src: Sources) -> bool:
    """f32 or f16, the same in and out."""
    return src[0].type.name in _HALVES and node.type is src[0].type


def _gates(node: Tensor, src: Sources) -> bool:
    return _same_halves(node, src) and (len(src) < 2 or src[1].type is src[0].type)


def _calculates(node: Tensor, src: Sources) -> bool:
    return {*_names(src[:2]), node.type.name} <= _HALVES


def _all_f32(node: Tensor, src: Sources) -> bool:
    return {node.type.name, *_names(src)} == {"f32"}


def _f32_in(node: Tensor, src: Sources) -> bool:
    return src[0].type.name == "f32"


def _flat_f32(node: Tensor, src: Sources) -> bool:
    return src[0].type.name == "f32" and is_contiguous(src[0])


def _f32_rows(node: Tensor, src: Sources) -> bool:
    return src[0].type.name == "f32" and is_contiguous_rows(src[0])


def _sorts(node: Tensor, src: Sources) -> bool:
    return is_contiguous(node) and is_contiguous(src[0])


def _scans(node: Tensor, src: Sources) -> bool:
    """State-space scans of Mamba-2 alone (15892-15927)."""
    state, factors = src[0], src[3]
    if any(t.type.is_quantized for t in src[:6]) or state.type.name != "f32" or node.type.name != "f32":
        return False
    return factors.nb[1] == 4 and state.ne[0] in (128, 256) and not state.ne[1] % 16


def _delta(node: Tensor, src: Sources) -> bool:
    return src[2].ne[0] in (16, 32, 64, 128) and _all_f32(node, src[:6])


def indexes(node: Tensor, src: Sources, alignment: int) -> bool:
    """A sparse indexer's scores, of tensors and views that start where a card can bind them (15843-15877)."""
    if src[1].type.name not in _INDEXER or src[0].ne[0] != 128:
        return False
    return all(
        t.nb[0] == t.type.block_bytes and not t.offset % alignment and not any(n % t.nb[0] for n in t.nb[1:])
        for t in (*src[:4], node)
    )


def _solves(node: Tensor, src: Sources) -> bool:
    n, k = src[0].ne[0], src[1].ne[0]
    return _all_f32(node, src[:1]) and k <= _WIDEST and (n + k) * 4 <= _SHARED


CONDITIONS: Final[Mapping[str, Predicate]] = MappingProxyType(
    {
        "UNARY": _same_halves,
        "GLU": _gates,
        "MUL_MAT": _multiplies,
        "MUL_MAT_ID": _multiplies_experts,
        "FLASH_ATTN_EXT": _attends,
        "GET_ROWS": _looks_up,
        "SET_ROWS": _sets_rows,
        "CONT": _copies,
        "CPY": _copies,
        "DUP": _copies,
        "REPEAT": lambda n, s: n.type.block_bytes == s[0].type.block_bytes and n.type.block_bytes in (2, 4),
        "ROPE": lambda n, s: is_contiguous_rows(n) and is_contiguous_rows(s[0]),
        "GROUP_NORM": lambda n, s: is_contiguous(s[0]),
        "NORM": lambda n, s: _all_f32(n, s[:1]),
        "L2_NORM": lambda n, s: _all_f32(n, s[:1]),
        "ADD": _calculates,
        "SUB": _calculates,
        "MUL": _calculates,
        "DIV": _calculates,
        "ADD_ID": lambda n, s: _all_f32(n, s[:2]) and s[2].type.name == "i32",
        "SQR": _same_halves,
        "SQRT": _same_halves,
        "SIN": _same_halves,
        "COS": _same_halves,
        "CLAMP": _same_halves,
        "LEAKY_RELU": _same_halves,
        "LOG": _same_halves,
        "TRI": _same_halves,
        "DIAG": _same_halves,
        "OUT_PROD": lambda n, s: _all_f32(n, s) and is_contiguous(s[0]) and is_contiguous(s[1]),
        "ARGSORT": _sorts,
        "TOP_K": _sorts,
        "UPSCALE": _f32_in,
        "ACC": lambda n, s: _all_f32(n, s[:2]),
        "SET": lambda n, s: n.type is s[0].type is s[1].type and n.type.name in ("f32", "i32"),
        "CONCAT": _concatenates,
        "ADD1": lambda n, s: _names(s[:2]) in (("f32", "f32"), ("f16", "f32"), ("f16", "f16")),
        "ARANGE": lambda n, s: n.type.name == "f32",
        "FILL": lambda n, s: n.type.name in _HALVES,
        "SCALE": _flat_f32,
        "PAD": _f32_in,
        "PAD_REFLECT_1D": _f32_in,
        "ROLL": _f32_in,
        "DIAG_MASK_INF": _flat_f32,
        "SOFT_MAX": lambda n, s: _flat_f32(n, s) and (len(s) < 2 or s[1].type.name in _HALVES),
        "SUM": _f32_rows,
        "SUM_ROWS": _f32_rows,
        "MEAN": _f32_rows,
        "CUMSUM": _f32_rows,
        "DSV4_HC_COMB": _all_f32,
        "DSV4_HC_PRE": lambda n, s: _all_f32(n, s) and s[0].ne[1] == _HC,
        "DSV4_HC_POST": lambda n, s: _all_f32(n, s) and s[1].ne[1] == _HC,
        "SOLVE_TRI": _solves,
        "ARGMAX": _flat_f32,
        "COUNT_EQUAL": lambda n, s: _names(s[:2]) == ("i32", "i32") and all(map(is_contiguous, s[:2])),
        "IM2COL": lambda n, s: s[1].type.name == "f32" and n.type.name in _HALVES and is_contiguous(s[1]),
        "TIMESTEP_EMBEDDING": _f32_in,
        "CONV_2D_DW": lambda n, s: s[0].type.name in _HALVES and s[1].type.name == "f32",
        "POOL_1D": _flat_f32,
        "POOL_2D": _flat_f32,
        "GATED_LINEAR_ATTN": lambda n, s: _all_f32(n, s[:1]) and s[0].ne[0] == 64,
        "LIGHTNING_INDEXER": partial(indexes, alignment=256),
        "GATED_DELTA_NET": _delta,
        "SSM_SCAN": _scans,
        "SSM_CONV": _f32_in,
        "CONV_TRANSPOSE_1D": lambda n, s: _names(s[:2]) == ("f32", "f32"),
        "COL2IM_1D": lambda n, s: s[0].type.name in _FLOATS and n.type is s[0].type and _sorts(n, s),
    }
)
OPS: Final = _ALWAYS | CONDITIONS.keys()
