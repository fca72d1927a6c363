"""Find the weights that a device cannot use, and that the engine therefore keeps in host memory.

In: a `Weight`, a `Backend`. Out: yes or no. The engine's loader asks each device whether it runs the operation
that a weight is made for, on made-up inputs, before it puts the weight there.
Source: `weight_buft_supported` (llama-model-loader.cpp:927-1064).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from .._ggml.backends import Backend
from .._ggml.graph import Extents, Tensor, contiguous
from .._ggml.types import BY_NAME, TensorType
from .model import Weight

__all__ = ["can_use"]

_F32: Final = BY_NAME["f32"]
_I32: Final = BY_NAME["i32"]
_N_TOKENS: Final = 512
_N_SEQS: Final = 3
_RWKV: Final = 123  # heads, their size, tokens and sequences alike (llama-model-loader.cpp:1024)


def can_use(weight: Weight, rules: Backend) -> bool:
    """Tell whether a device with these rules runs the operation that `weight` is for."""
    t = weight.tensor
    by_shape = rules.max_tensor or weight.op in _BY_SHAPE
    return _runs(weight.op, t.type, t.shape if by_shape else (1,), weight.scan, rules)


# Operations for which the extents of a weight decide; for all others its type does, unless a device limits tensors.
_BY_SHAPE: Final = frozenset(("GET_ROWS", "SSM_CONV", "SSM_SCAN"))


@lru_cache(maxsize=1024)
def _runs(op: str, type_: TensorType, shape: tuple[int, ...], scan: tuple[int, ...], rules: Backend) -> bool:
    w = _tensor(type_, shape)
    ne = made = w.ne
    inputs: tuple[Tensor, ...]
    if op == "GET_ROWS":
        inputs = (w, _tensor(_I32, (_N_TOKENS,)))
        made = (ne[0], _N_TOKENS, 1, 1)
    elif op in ("ADD", "MUL", "DIV"):
        inputs = (_tensor(_F32, ne), w)
    elif op == "SSM_CONV":
        inputs = (_tensor(_F32, (ne[0] - 1 + _N_TOKENS, ne[1], _N_SEQS)), w)
        made = (ne[1], _N_TOKENS, _N_SEQS, 1)
    elif op == "SSM_SCAN":
        d_state, head_dim, n_head, n_group = scan
        x = _tensor(_F32, (head_dim, n_head, _N_TOKENS, _N_SEQS))
        dt = _tensor(_F32, (n_head, _N_TOKENS, _N_SEQS))
        b = _tensor(_F32, (d_state, n_group, _N_TOKENS, _N_SEQS))
        inputs = (_tensor(_F32, (d_state, head_dim, n_head, _N_SEQS)), x, dt, w, b, b)
    elif op == "MUL_MAT":
        inputs = (w, _tensor(_F32, (ne[0], _N_TOKENS, ne[2], ne[3])))
        made = (ne[1], _N_TOKENS, ne[2], ne[3])
    elif op == "MUL_MAT_ID":  # of one expert a token: how many there are decides nothing
        inputs = (w, _tensor(_F32, (ne[0], 1, _N_TOKENS)), _tensor(_I32, (1, _N_TOKENS)))
        made = (ne[1], 1, _N_TOKENS, 1)
    elif op == "RWKV_WKV6":  # on made-up sizes, whatever the weight's
        n = _RWKV
        inputs = (w, _tensor(_F32, (n, n, n, n)))
        made = (n * n, n + n * n, 1, 1)
    else:  # every device runs the others on any weight
        return not rules.max_tensor or not rules.is_too_large(w, ())
    return rules.supports_op(_tensor(_F32, made, op), inputs)


def _tensor(type_: TensorType, shape: tuple[int, ...], op: str = "NONE") -> Tensor:
    a, b, c, d = (*shape, 1, 1, 1, 1)[:4]
    ne: Extents = (a, b, c, d)
    return Tensor("", op, type_, ne, contiguous(type_, ne))
