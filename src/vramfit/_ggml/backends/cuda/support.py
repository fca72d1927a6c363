"""What CUDA can run (`ggml_backend_cuda_device_supports_op`, ggml-cuda.cu:5149).

Lines below are of that file. An operation that stands in neither list runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from ...graph import Tensor, is_contiguous, is_contiguous_rows, param
from .fattn import has_kernel

__all__ = ["CONDITIONS", "OPS"]

Sources = Sequence[Tensor]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALWAYS: Final = _words(
    """
    NONE RESHAPE VIEW PERMUTE TRANSPOSE ADD_ID ADD1 SQR SQRT SIN COS CLAMP LOG DUP ARGMAX COUNT_EQUAL CONT
    DIAG_MASK_INF SOFT_MAX TOP_K ARGSORT CONV_TRANSPOSE_2D POOL_1D POOL_2D PAD UPSCALE PAD_REFLECT_1D ARANGE
    TIMESTEP_EMBEDDING LEAKY_RELU RWKV_WKV6 RWKV_WKV7 GATED_LINEAR_ATTN GATED_DELTA_NET FILL CUMSUM TRI DIAG
    SOLVE_TRI
    """
)
_IS_HADAMARD: Final = 1  # GGML_HINT_SRC0_IS_HADAMARD
_PREC_F32: Final = 10  # GGML_PREC_F32
_SUPER_BLOCK: Final = 256  # QK_K
_FLOATS: Final = frozenset(("f32", "f16", "bf16"))
_MATRICES: Final = _words(  # 5251-5281
    """
    f32 f16 bf16 q1_0 q2_0 q4_0 q4_1 q5_0 q5_1 q8_0 mxfp4 nvfp4 q2_K q3_K q4_K q5_K q6_K q8_K iq1_m iq1_s
    iq2_s iq2_xs iq2_xxs iq3_s iq3_xxs iq4_nl iq4_xs
    """
)
_ROWS: Final = _words(  # 5291-5316
    """
    f32 f16 bf16 i32 q1_0 q2_0 q4_0 q4_1 q5_0 q5_1 q8_0 q2_K q3_K q4_K q5_K q6_K iq1_m iq1_s iq2_s iq2_xs
    iq2_xxs iq3_s iq3_xxs iq4_xs
    """
)
_ROWS_OF_SUPER_BLOCKS: Final = frozenset(("iq4_nl", "mxfp4"))
_WRITTEN: Final = _words("f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl")  # 5331-5336
_COPIED: Final = _words("q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl i32")  # from f32: 5355-5395
_COPIED_BACK: Final = _COPIED - {"iq4_nl"}
_INDEXER_TYPES: Final = _words("f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0")


def _types(src: Sources) -> tuple[str, ...]:
    return tuple(t.type.name for t in src)


def _multiplies(node: Tensor, src: Sources) -> bool:
    a, b = src[:2]
    if a.nb[0] != a.type.block_bytes or b.nb[0] != b.type.block_bytes:
        return False
    if b.type.name == "f16" and a.type.name != "f16" and not _is_hadamard(node, src):
        return False
    return a.type.name in _MATRICES


def _is_hadamard(node: Tensor, src: Sources) -> bool:
    """Whether a product is a Walsh-Hadamard transform (fwht.cu:101)."""
    t, (a, b) = node, src[:2]
    return (
        param(node, 1) == _IS_HADAMARD
        and a.type.name == t.type.name == "f32"
        and b.type.name in ("f32", "f16")
        and b.ne == t.ne
        and is_contiguous(b)
        and is_contiguous(t)
    )


def _multiplies_experts(node: Tensor, src: Sources) -> bool:
    """Not where the input must stay f32."""
    return param(node, 3) != _PREC_F32 and _multiplies(node, src)


def _gets_rows(node: Tensor, src: Sources) -> bool:
    name = src[0].type.name
    return name in _ROWS or (name in _ROWS_OF_SUPER_BLOCKS and not src[0].ne[0] % _SUPER_BLOCK)


def _sets_rows(node: Tensor, src: Sources) -> bool:
    to, (new, at) = node.type.name, _types(src)[:2]
    written = (new == "f32" and to in _WRITTEN) or new == to == "f16"
    return written and at in ("i64", "i32")


def _copies(node: Tensor, src: Sources) -> bool:
    a, b = _types(src)[:2]
    if a in _FLOATS and b in _FLOATS:
        return True
    if (a == "f32" and b in _COPIED) or (b == "f32" and a in _COPIED_BACK):
        return True
    return a == b and (a == "i32" or (is_contiguous(src[0]) and is_contiguous(src[1])))


def _calculates(node: Tensor, src: Sources) -> bool:
    """ADD, SUB, MUL, DIV."""
    (a, b), to = _types(src)[:2], node.type.name
    if "bf16" in (a, b, to):
        return a == to == "bf16" and b in ("bf16", "f32")
    return {a, b, to} <= {"f32", "f16"}


def _concatenates(node: Tensor, src: Sources) -> bool:
    a, b = src[:2]
    if not a.type is b.type is node.type:
        return False
    if not a.type.is_quantized:
        return a.type.block_bytes in (1, 2, 4, 8)
    # the kernel also takes some gaps, but no graph concatenates quantized tensors that have any
    return all(is_contiguous(t) and not t.ne[0] % t.type.block for t in (a, b))


def _scans(node: Tensor, src: Sources) -> bool:
    """State-space scans: Mamba-2's have one factor a head, Mamba's one for each element of the state."""
    state, factors, groups = src[0].ne, src[3].ne, src[4].ne
    if factors[0] == 1:
        return state[0] in (96, 128, 256) and not state[1] % 16
    return param(node, 0) <= 1 and state[:2] == (16, 1) and not state[2] % 128 and groups[1] == 1


def _indexes(node: Tensor, src: Sources) -> bool:
    """A sparse indexer's scores (ggml_cuda_lightning_indexer_supported, lightning-indexer.cu:536)."""
    q, k = src[:2]
    aligned = all(t.type.is_quantized or not any(n % 16 for n in t.nb[1:]) for t in (q, k))
    return q.ne[0] == 128 and q.ne[1] in (32, 64) and aligned and k.type.name in _INDEXER_TYPES


def _all_f32(node: Tensor, src: Sources) -> bool:
    return {node.type.name, *_types(src)} == {"f32"}


CONDITIONS: Final = MappingProxyType(
    {
        "UNARY": lambda n, s: is_contiguous(s[0]),
        "GLU": lambda n, s: is_contiguous(s[0], 1),
        "MUL_MAT": _multiplies,
        "MUL_MAT_ID": _multiplies_experts,
        "OUT_PROD": _all_f32,
        "GET_ROWS": _gets_rows,
        "SET_ROWS": _sets_rows,
        "SET": lambda n, s: n.type.name in ("f32", "i32") and set(_types(s)) == {n.type.name},
        "CPY": _copies,
        "REPEAT": lambda n, s: s[0].type.name in ("f32", "f16"),
        "CONCAT": _concatenates,
        "CONV_TRANSPOSE_1D": _all_f32,
        "COL2IM_1D": lambda n, s: (
            s[0].type.name in _FLOATS and n.type is s[0].type and is_contiguous(s[0]) and is_contiguous(n)
        ),
        "NORM": lambda n, s: is_contiguous_rows(s[0]),
        "RMS_NORM": lambda n, s: is_contiguous_rows(s[0]),
        "L2_NORM": lambda n, s: is_contiguous_rows(s[0]),
        "GROUP_NORM": lambda n, s: is_contiguous(s[0]),
        "SCALE": lambda n, s: s[0].type.name in ("f32", "bf16") and n.type is s[0].type,
        "ADD": _calculates,
        "SUB": _calculates,
        "MUL": _calculates,
        "DIV": _calculates,
        "SSM_SCAN": _scans,
        "SSM_CONV": lambda n, s: not s[0].ne[1] % 128,
        "ROLL": lambda n, s: s[0].type.name == "f32" and is_contiguous(s[0]),
        "ROPE": lambda n, s: s[0].nb[0] == s[0].type.block_bytes and is_contiguous(s[0], 2),
        "ROPE_BACK": lambda n, s: s[0].nb[0] == s[0].type.block_bytes and is_contiguous(s[0], 2),
        "IM2COL": lambda n, s: is_contiguous(s[0]) and is_contiguous(s[1]),
        "CONV_2D": lambda n, s: is_contiguous(s[0]) and is_contiguous(s[1]),
        "CONV_2D_DW": lambda n, s: s[0].type.name in ("f16", "f32") and _all_f32(n, s[1:]),
        "ACC": lambda n, s: is_contiguous(s[0]) and is_contiguous(s[1]),
        "SUM": lambda n, s: is_contiguous_rows(s[0]),
        "SUM_ROWS": lambda n, s: _all_f32(n, s) and is_contiguous_rows(s[0]),
        "MEAN": lambda n, s: _all_f32(n, s) and is_contiguous_rows(s[0]),
        "DSV4_HC_COMB": _all_f32,
        "DSV4_HC_PRE": _all_f32,
        "DSV4_HC_POST": _all_f32,
        "FLASH_ATTN_EXT": has_kernel,
        "LIGHTNING_INDEXER": _indexes,
    }
)
OPS: Final = _ALWAYS | CONDITIONS.keys()
