"""SYCL (ggml/src/ggml-sycl/; lines are of ggml-sycl.cpp unless another file is named), built for Intel with oneDNN.

Nodes stay in their order: there is no `graph_optimize`. A card's largest buffer is what its driver reports (`get_max_mem_alloc_size`,
1030), 0.6 of it on one card. On Arc's first generation ("Xe-HPG") oneDNN takes no heads of 64 (fattn-onednn.cpp:73).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from types import MappingProxyType
from typing import Final

from ..graph import Tensor, is_contiguous, param
from .cpu import CPU
from .nouns import Backend, Node, Predicate, pad

__all__ = ["SYCL", "of_card"]

Sources = Sequence[Tensor]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_F16_BYTES: Final = 2
_WARP: Final = 16
_STRIDE: Final = 256  # FATTN_KQ_STRIDE
_SOLVED: Final = 64  # SYCL_SOLVE_TRI_MAX_N and _K
_SQUARE: Final = frozenset((40, 64, 72, 80, 96, 112, 128, 256, 512))  # fattn.cpp:213
_CACHES: Final = frozenset(("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"))
_ONEDNN: Final = _CACHES - {"bf16", "f16"}  # where not both are f16: fattn-onednn.cpp:50
_SOFTCAP: Final = 2  # the word of op_params that holds it
_INDEXER: Final = _CACHES | {"iq4_nl"}
_ROWS: Final = _words(
    """
    i32 f16 bf16 f32 q1_0 mxfp4 nvfp4 iq2_xxs iq2_xs iq2_s iq3_xxs iq1_s iq1_m iq3_s iq4_nl iq4_xs q2_K q3_K q4_0 q4_1 q4_K q5_0
    q5_1 q5_K q6_K q8_0
    """
)
_TERNARY: Final = frozenset(("tq1_0", "tq2_0"))
_SUPER: Final = _words("q2_K q3_K q4_K q5_K q6_K iq2_xxs iq2_xs iq2_s iq3_xxs iq1_s iq1_m iq3_s iq4_xs")
# What CPY does not write: from -> to (6592-6680)
_NOT_TO: Final = {"f16": _SUPER, "f32": _SUPER, "bf16": _SUPER | {"q4_0", "q4_1", "q8_0"}}
_NOT_TO_F32: Final = _SUPER | {"q1_0", "nvfp4", "iq4_nl"}
_NOT_ALIKE: Final = frozenset(("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1_s", "iq1_m"))


# --- attention


def _onednn(node: Tensor, src: Sources, *, alchemist: bool) -> bool:
    """Whether oneDNN takes a node, whatever its number of tokens (fattn-onednn.cpp:29)."""
    q, k, v = src[:3]
    kinds = {k.type.name, v.type.name}
    if kinds != {"f16"} and not kinds <= _ONEDNN:
        return False
    if alchemist and k.ne[0] == 64:
        return False
    if len(src) != 4 or src[3].type.name != "f16" or src[3].ne[2:] != (1, 1):  # no mask, or sinks behind it
        return False
    return not param(node, 1) and not param(node, _SOFTCAP) and v.ne[0] == k.ne[0] and q.ne[3] == 1


def _runs_on_onednn(node: Tensor, src: Sources, *, alchemist: bool) -> bool:
    """Prompts alone; caches that it has to convert from 1024 cells on."""
    if src[0].ne[1] < 32 or not _onednn(node, src, alchemist=alchemist):
        return False
    return src[1].type.name == src[2].type.name == "f16" or src[1].ne[1] >= 1024


def _multiplies_on_mkl(node: Tensor, src: Sources) -> bool:
    """Grouped heads of a prompt over 1024 cells and more (fattn.cpp:176)."""
    q, k, v = src[:3]
    if (
        len(src) != 4
        or q.ne[2] < 2 * k.ne[2]
        or q.ne[0] != v.ne[0]
        or q.ne[0] % 64
        or not 64 <= q.ne[0] <= 512
    ):
        return False
    if (
        q.ne[1] < 32
        or k.ne[1] < 1024
        or param(node, 1)
        or param(node, _SOFTCAP)
        or k.ne[3] not in (1, q.ne[3])
    ):
        return False
    return not any(t.type.name == "f16" and t.nb[1] % (t.ne[0] * 2) for t in (k, v))


def _groups_heads(node: Tensor, src: Sources) -> bool:
    q, k = src[:2]
    if q.ne[2] < 2 * k.ne[2] or len(src) < 4 or param(node, 1) or k.ne[1] % _STRIDE:
        return False
    return all(t.type.is_quantized or not any(n % 16 for n in t.nb[1:]) for t in src[:4])


def _attends(node: Tensor, src: Sources, *, alchemist: bool) -> bool:
    """Whether there is a kernel (ggml_sycl_get_best_fattn_kernel, fattn.cpp:113)."""
    k, v = src[1:3]
    if _runs_on_onednn(node, src, alchemist=alchemist) or _multiplies_on_mkl(node, src):
        return True
    wide = k.ne[0] == 576 and v.ne[0] == 512 and _groups_heads(node, src)
    if not wide and (k.ne[0] not in _SQUARE or v.ne[0] != k.ne[0]):
        return False
    return k.type.name in _CACHES and (len(src) < 4 or src[3].ne[2] == 1)


def _scratch(n_bytes: int, node: Node, *, alchemist: bool) -> int:
    """The worst case over all kernels: Q, K, V, a scale and the result in f16 (ggml_sycl_fattn_get_extra, fattn.cpp:383)."""
    q, k, v = node.src[:3]
    onednn = _onednn(node.tensor, node.src, alchemist=alchemist)
    bound_in_place = k.type.name == v.type.name == "f16"
    n_q = q.ne[2] * q.ne[1] * k.ne[0] if onednn else 0
    n_k, n_v = (prod(t.ne) if t.type.name != "f16" or (onednn and not bound_in_place) else 0 for t in (k, v))
    if n_v and not onednn and node.views(2, 1):
        n_v = 0
    for n in (n_q, n_k, n_v, int(onednn), n_q):
        if n:
            n_bytes = pad(n_bytes, 128) + n * _F16_BYTES
    return n_bytes


# --- the other operations


def _multiplies(node: Tensor, src: Sources) -> bool:
    a, b = src[:2]
    if a.ne[3] != b.ne[3] or a.type.name in _TERNARY:
        return False
    if a.type.name != "f16":
        return True
    if _is_permuted(a):
        return is_contiguous(a) or a.ne[2] == 1 or a.ne[3] == 1
    return not (_is_permuted(b) and b.ne[2] > 1 and b.ne[3] > 1 and a.ne[0] > 128 and a.ne[2] == 1)


def _is_permuted(t: Tensor) -> bool:
    return t.nb[0] > t.nb[1] or t.nb[1] > t.nb[2] or t.nb[2] > t.nb[3]


def _copies(node: Tensor, src: Sources) -> bool:
    a = src[0].type.name
    b = src[1].type.name if len(src) > 1 else node.type.name
    if b in _NOT_TO.get(a, ()) or (b == "f32" and a in _NOT_TO_F32) or {a, b} & _TERNARY:
        return False
    return a != b or a not in _NOT_ALIKE


def _sets_rows(node: Tensor, src: Sources) -> bool:
    new, at = src[0].type.name, src[1].type.name
    return node.type.name not in _TERNARY and new in ("f32", "f16", "bf16") and at in ("i64", "i32")


def _scans(node: Tensor, src: Sources) -> bool:
    """State-space scans of Mamba-2 alone."""
    return src[3].ne[0] == 1 and src[0].ne[0] in (128, 256) and not src[0].ne[1] % _WARP


def _indexes(node: Tensor, src: Sources) -> bool:
    kinds = (src[0].type.name, src[2].type.name, src[3].type.name)
    return kinds == ("f32", "f32", "f16") and src[1].type.name in _INDEXER and src[0].ne[0] == 8 * _WARP


def _all_f32(node: Tensor, src: Sources) -> bool:
    return {node.type.name, *(t.type.name for t in src)} == {"f32"}


_CONDITIONS: Final[Mapping[str, Predicate]] = MappingProxyType(
    {
        "GLU": lambda n, s: is_contiguous(s[0], 1),
        "MUL_MAT": _multiplies,
        "MUL_MAT_ID": _multiplies,
        "GET_ROWS": lambda n, s: s[0].type.name in _ROWS,
        "SET": _all_f32,
        "SET_ROWS": _sets_rows,
        "DSV4_HC_PRE": _all_f32,
        "DSV4_HC_COMB": _all_f32,
        "DSV4_HC_POST": _all_f32,
        "LIGHTNING_INDEXER": _indexes,
        "CPY": _copies,
        "PAD_REFLECT_1D": lambda n, s: is_contiguous(s[0]) and _all_f32(n, s[:1]),
        "TRI": lambda n, s: n.type.name == "f32" and is_contiguous(s[0]),
        "COL2IM_1D": lambda n, s: (
            is_contiguous(s[0]) and n.type is s[0].type and n.type.name in ("f32", "f16", "bf16")
        ),
        "SUM": lambda n, s: is_contiguous(s[0]),
        "SUM_ROWS": lambda n, s: is_contiguous(s[0]),
        "MEAN": lambda n, s: is_contiguous(s[0]),
        "TOP_K": lambda n, s: s[0].type.name == "f32" and is_contiguous(s[0]),
        "OUT_PROD": _all_f32,
        "SSM_CONV": _all_f32,
        "ROLL": lambda n, s: n.type.name == "f32",
        "ARANGE": lambda n, s: n.type.name == "f32",
        "CONV_TRANSPOSE_1D": lambda n, s: _all_f32(s[0], s[1:2]),
        "SSM_SCAN": _scans,
        "SOLVE_TRI": lambda n, s: s[0].ne[0] <= _SOLVED and s[1].ne[0] <= _SOLVED,
    }
)
_ALWAYS: Final = _words(
    """
    CONV_2D CONV_2D_DW CONV_TRANSPOSE_2D UNARY CONCAT DUP ARGMAX NONE RESHAPE VIEW PERMUTE TRANSPOSE ADD ADD1 ADD_ID SUB COUNT_EQUAL
    MUL DIV REPEAT SQR SQRT SIN COS CLAMP LOG NORM L2_NORM GROUP_NORM RMS_NORM SCALE CONT DIAG_MASK_INF SOFT_MAX ROPE ROPE_BACK
    IM2COL IM2COL_3D UPSCALE ARGSORT POOL_2D POOL_1D ACC PAD LEAKY_RELU TIMESTEP_EMBEDDING RWKV_WKV6 RWKV_WKV7 GATED_LINEAR_ATTN
    GATED_DELTA_NET FILL CUMSUM DIAG FLASH_ATTN_EXT
    """
)


def _rules(*, alchemist: bool) -> Backend:
    return Backend(
        name="sycl",
        title="SYCL",
        proof="its own functions on devices without memory",
        alignment=128,  # SYCL_BUFFER_ALIGNMENT
        unproved="want max_buffer_bytes and the family of the card; no largest buffer and a newer family were taken",
        row_padding=512,
        ops=_ALWAYS | _CONDITIONS.keys(),
        conditions={**_CONDITIONS, "FLASH_ATTN_EXT": partial(_attends, alchemist=alchemist)},
        scratch={"FLASH_ATTN_EXT": partial(_scratch, alchemist=alchemist)},
        offload_batch=32,
        async_events=True,
        host_buffer=True,
    )


SYCL: Final = _rules(alchemist=False)
_ALCHEMIST: Final = _rules(alchemist=True)


@lru_cache(maxsize=64)
def of_card(family: str | None, max_buffer: int | None) -> Backend:
    """Make the rules of SYCL for a card of this family ("Xe-HPG" is Arc's first) and this largest buffer in bytes; None: not known."""
    found = _ALCHEMIST if family == "Xe-HPG" else SYCL
    if not max_buffer:
        return found
    host = replace(CPU, max_buffer=max_buffer)  # pinned by the same driver (1624)
    return replace(found, max_buffer=max_buffer, pinned=host, exact=family is not None)
