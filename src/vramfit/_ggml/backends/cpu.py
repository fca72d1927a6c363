"""The CPU: all host memory, and whatever no device runs.

Source: ggml/src/ggml-cpu/ggml-cpu.cpp, repack.cpp, amx/; ggml-backend.cpp:2474 for the alignment. Which matrices are
repacked was measured on an x86 with AVX-512; for other processors it follows the source.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from ..graph import Tensor, param
from .nouns import Backend, Tiles

__all__ = ["CPU", "cpu_of"]

_IS_HADAMARD: Final = 1  # GGML_HINT_SRC0_IS_HADAMARD, the second parameter of MUL_MAT


def _multiplies(node: Tensor, src: Sequence[Tensor]) -> bool:
    """f32 activations, or pairs of one unquantized type (ggml-cpu.cpp:453)."""
    a, b = src[0].type, src[1].type
    if b.name == "f32" or a is b:
        return True
    return a.name == "f32" and (b.name == "bf16" or (b.name == "f16" and param(node, 1) == _IS_HADAMARD))


# Rows of which a matrix must have a multiple, and what a CPU must have for it (repack.cpp:4974-5096).
_NEON: Final = ("neon i8mm", "neon dotprod")
_REPACKED: Final[Mapping[str, tuple[tuple[int, tuple[str, ...]], ...]]] = {
    "q4_0": ((8, ("avx2", "sve i8mm")), (4, (*_NEON, "vxe"))),
    "q4_K": ((8, ("avx2", *_NEON)),),
    "q2_K": ((8, ("avx512",)),),
    "q5_K": ((8, _NEON),),
    "q6_K": ((8, _NEON),),
    "iq4_nl": ((8, ("avx2",)), (4, ("neon dotprod",))),
    "mxfp4": ((8, ("avx2",)), (4, ("neon dotprod",))),
    "q8_0": ((4, _NEON),),
    "q1_0": ((4, _NEON),),
}
# AMX takes matrices before that, experts in one tensor not (amx.cpp:146-185); what it adds to a block: mmq.cpp:246.
_TILES: Final = MappingProxyType(
    {
        "q4_0": Tiles(32, 32), "q4_1": Tiles(32, 32), "q8_0": Tiles(32, 32, 4), "f16": Tiles(32, 16),
        "q4_K": Tiles(32, 256, 4), "q5_K": Tiles(32, 256, 4), "q6_K": Tiles(32, 256), "iq4_xs": Tiles(32, 256, 2),
    }
)  # fmt: skip


def _repacked(features: Collection[str]) -> Mapping[str, int]:
    """For each type that is repacked the fewest rows of which a matrix must have a multiple."""
    found = {
        name: [rows for rows, any_of in ways if any(set(words.split()) <= set(features) for words in any_of)]
        for name, ways in _REPACKED.items()
    }
    return MappingProxyType({name: min(rows) for name, rows in found.items() if rows})


CPU: Final = Backend(
    name="cpu",
    title="CPU",
    proof="the engine's own",
    alignment=32,
    exact=True,
    conditions={"MUL_MAT": _multiplies},
    # x86 with AVX2 and AVX-512, where nothing is known: q2_K with AVX-512 only, which is the larger answer
    repacked=_repacked(("avx2", "avx512")),
)


@lru_cache(maxsize=64)
def cpu_of(features: tuple[str, ...] | None) -> Backend:
    """The rules of a CPU with these features ("avx2", "avx512", "amx", "neon", "dotprod", "i8mm", "sve", "vxe"); None: `CPU`."""
    if features is None:
        return CPU
    return replace(
        CPU, repacked=_repacked(features), tiles=_TILES if "amx" in features else MappingProxyType({})
    )
