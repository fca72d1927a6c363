"""The CPU: all host memory, and whatever no device runs.

Source: ggml/src/ggml-cpu/ggml-cpu.cpp, repack.cpp; ggml-backend.cpp:2474 for the alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..graph import Tensor, param
from .nouns import Backend

__all__ = ["CPU"]

_IS_HADAMARD: Final = 1  # GGML_HINT_SRC0_IS_HADAMARD, the second parameter of MUL_MAT


def _multiplies(node: Tensor, src: Sequence[Tensor]) -> bool:
    """f32 activations, or pairs of one unquantized type (ggml-cpu.cpp:453)."""
    a, b = src[0].type, src[1].type
    if b.name == "f32" or a is b:
        return True
    return a.name == "f32" and (b.name == "bf16" or (b.name == "f16" and param(node, 1) == _IS_HADAMARD))


CPU: Final = Backend(
    name="cpu",
    title="CPU",
    proof="the engine's own",
    alignment=32,
    exact=True,
    conditions={"MUL_MAT": _multiplies},
    # x86 with AVX2 (repack.cpp:4974-5096); q2_K with AVX-512 only, which is the larger answer
    repacked=frozenset({"q4_0", "q4_K", "iq4_nl", "mxfp4", "q2_K"}),
)
