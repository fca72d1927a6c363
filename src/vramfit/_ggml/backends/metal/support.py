"""What Metal can run (`ggml_metal_device_supports_op`, ggml-metal-device.m:1542), on an M1 or newer.

Those chips have bf16, matrices and sums over a group of threads, and 32 KiB of memory that a group shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from ...graph import Tensor, is_contiguous, is_contiguous_rows, param
from ..nouns import Predicate

__all__ = ["CONDITIONS", "OPS"]

Sources = Sequence[Tensor]
_IS_HADAMARD: Final = 1  # GGML_HINT_SRC0_IS_HADAMARD
_HADAMARD: Final = frozenset(1 << n for n in range(6, 14))  # widths, the largest as shared memory allows
# Head sizes that a kernel exists for (1727-1753); V may be narrower than K
_HEADS: Final = frozenset((32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576))
_CACHES: Final = frozenset(("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"))
_JOINED: Final = (_CACHES | {"i8", "i16", "i32", "i64"}) - {"f64"}
_STORED: Final = frozenset(("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "tq2_0"))
_HALVES: Final = frozenset(("f32", "f16"))
_TO: Final = {  # CPY and its kin: from -> to
    "f32": _STORED | {"q1_0", "q2_0", "i32"},
    "f16": {"f32", "f16"},
    "bf16": {"f32", "bf16"},
    "i32": {"f32", "i32"},
    **dict.fromkeys(("q1_0", "q2_0", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq2_0"), _HALVES),
}
_NO_MATRIX: Final = frozenset(("nvfp4", "tq1_0"))


def _attends(node: Tensor, src: Sources) -> bool:
    q, k, v = src[:3]
    if q.ne[0] not in _HEADS or k.ne[0] < v.ne[0] or (k.ne[0] == 72 and v.ne[0] != 72):
        return False
    return k.type is v.type and k.type.name in _CACHES


def _multiplies(node: Tensor, src: Sources) -> bool:
    a, b = src[:2]
    if a.type.name == "f32" and b.type.name == "f16" and _is_hadamard(node, b):
        return True
    flat = not (a.nb[0] > a.nb[1] or b.nb[0] > b.nb[1])  # ggml_is_transposed
    return _takes(a, b, has_vector=True, many=flat and a.ne[0] >= 64 and b.ne[1] > 8)


def _multiplies_experts(node: Tensor, src: Sources) -> bool:
    return _takes(src[0], src[1], has_vector=False, many=src[0].ne[0] >= 64 and src[2].ne[1] >= 32)


def _takes(a: Tensor, b: Tensor, *, has_vector: bool, many: bool) -> bool:
    """ggml_metal_supports_mul_mat_op, 1517."""
    if a.type.name in _NO_MATRIX:
        return False
    if b.type.name != "f16":
        return True
    if a.type.name == "bf16":
        return False
    return many or (has_vector and a.type.name == "f16")


def _is_hadamard(node: Tensor, b: Tensor) -> bool:
    flat = is_contiguous(b) and is_contiguous(node)
    return param(node, 1) == _IS_HADAMARD and flat and b.ne == node.ne and b.ne[0] in _HADAMARD


def _copies(node: Tensor, src: Sources) -> bool:
    return node.type.name in _TO.get(src[0].type.name, ())


def _sets_rows(node: Tensor, src: Sources) -> bool:
    if src[0].type.name == "f16":
        return node.type.name == "f16"
    return src[0].type.name == "f32" and node.type.name in _STORED


def _rows(node: Tensor, src: Sources) -> bool:
    return is_contiguous_rows(src[0])


def _half_rows(node: Tensor, src: Sources) -> bool:
    return is_contiguous_rows(src[0]) and src[0].type.name in _HALVES


def _calculates(node: Tensor, src: Sources) -> bool:
    return _half_rows(node, src) and is_contiguous_rows(src[1]) and src[0].type is src[1].type


def _indexes(node: Tensor, src: Sources) -> bool:
    q, k, w, mask = src[:4]
    kinds = (q.type.name, w.type.name, mask.type.name) == ("f32", "f32", "f16")
    return (
        q.ne[:2] == (128, 64) and kinds and k.type.name in _CACHES and all(map(is_contiguous_rows, src[:4]))
    )


def _mixes(node: Tensor, src: Sources) -> bool:
    """Hyper-connections: f32 alone, rows without gaps."""
    return all(t.type.name == "f32" and is_contiguous_rows(t) for t in src)


CONDITIONS: Final[Mapping[str, Predicate]] = MappingProxyType(
    {
        **dict.fromkeys(("SCALE", "FILL", "CLAMP", "SQR", "SQRT", "SIN", "COS", "LOG", "UNARY"), _half_rows),
        **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "ADD_ID"), _calculates),
        **dict.fromkeys(
            (
                "TRI", "SUM_ROWS", "CUMSUM", "MEAN", "SOFT_MAX", "GROUP_NORM", "L2_NORM", "NORM", "RMS_NORM",
            ),
            _rows,
        ),
        **dict.fromkeys(("SET", "CPY", "DUP", "CONT"), _copies),
        "GLU": lambda n, s: is_contiguous(s[0], 1) and s[0].type.name in _HALVES,
        "CONCAT": lambda n, s: n.type is s[0].type is s[1].type and n.type.name in _JOINED,
        "ACC": lambda n, s: all(map(is_contiguous_rows, s[:2])) and s[0].type.name == "f32",
        "SUM": lambda n, s: is_contiguous(s[0]),
        "IM2COL": lambda n, s: is_contiguous(s[1]) and s[1].type.name == "f32" and n.type.name in _HALVES,
        "ROLL": lambda n, s: is_contiguous(s[0]),
        "FLASH_ATTN_EXT": _attends,
        "LIGHTNING_INDEXER": _indexes,
        "DSV4_HC_COMB": lambda n, s: _mixes(n, s) and s[0].ne[0] == s[2].ne[0] == 24,
        "DSV4_HC_PRE": _mixes,
        "DSV4_HC_POST": lambda n, s: _mixes(n, s) and s[1].ne[1] == s[2].ne[0] == 4,
        "GATED_DELTA_NET": lambda n, s: not s[2].ne[0] % 32,
        "MUL_MAT": _multiplies,
        "MUL_MAT_ID": _multiplies_experts,
        "GET_ROWS": lambda n, s: s[0].type.name not in _NO_MATRIX,
        "SET_ROWS": _sets_rows,
    }
)  # fmt: skip
OPS: Final = CONDITIONS.keys() | frozenset(
    [
        "NONE",
        "RESHAPE",
        "VIEW",
        "TRANSPOSE",
        "PERMUTE",
        "REPEAT",
        "CONV_TRANSPOSE_1D",
        "COL2IM_1D",
        "ARGMAX",
        "COUNT_EQUAL",
        "ROPE",
        "ROPE_BACK",
        "CONV_2D",
        "CONV_2D_DW",
        "UPSCALE",
        "POOL_1D",
        "POOL_2D",
        "PAD",
        "PAD_REFLECT_1D",
        "TIMESTEP_EMBEDDING",
        "LEAKY_RELU",
        "ARGSORT",
        "TOP_K",
        "ARANGE",
        "SSM_SCAN",
        "SSM_CONV",
        "RWKV_WKV6",
        "RWKV_WKV7",
        "SOLVE_TRI",
        "DIAG",
    ]
)
