"""List the file types that llama-quantize offers, by name, alias and number.

Source: `QUANT_OPTIONS` (tools/quantize/quantize.cpp:32-77) for names, `llama_ftype` (llama.h) for
numbers, `llama_ftype_get_default_type` (llama-quant.cpp:881-924) for the type that each starts from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .._base.errors import SettingsError, shown
from .._base.matches import get_close_matches
from .._ggml.types import BY_NAME, TensorType

__all__ = ["FILE_TYPES", "FileType", "file_type"]


@dataclass(frozen=True, slots=True)
class FileType:
    """One choice of llama-quantize: `base` is the type that a tensor gets when no rule changes it.

    `id` is the number in `general.file_type`. `COPY` has no base of its own: it keeps every type.
    """

    name: str
    id: int
    base: TensorType
    description: str
    aliases: tuple[str, ...] = ()

    @property
    def copies(self) -> bool:
        """Whether every tensor keeps the type it has."""
        return self.name == "COPY"


# name, id, base, description, aliases. COPY comes after F32, so that the number 0 means F32.
_TABLE: Final[tuple[tuple[str, int, str, str, tuple[str, ...]], ...]] = (
    ("Q1_0", 40, "q1_0", "one bit in blocks of 128", ()),
    ("Q2_0", 41, "q2_0", "two bits in blocks of 64", ()),
    ("Q4_0", 2, "q4_0", "four bits in blocks of 32", ()),
    ("Q4_1", 3, "q4_1", "four bits and a minimum in blocks of 32", ()),
    ("MXFP4_MOE", 38, "mxfp4", "experts in MXFP4, everything else in Q8_0", ()),
    ("Q5_0", 8, "q5_0", "five bits in blocks of 32", ()),
    ("Q5_1", 9, "q5_1", "five bits and a minimum in blocks of 32", ()),
    ("IQ2_XXS", 19, "iq2_xxs", "two bits by codebook, smallest; needs an importance matrix", ()),
    ("IQ2_XS", 20, "iq2_xs", "two bits by codebook, small; needs an importance matrix", ()),
    ("IQ2_S", 28, "iq2_xs", "two bits by codebook; needs an importance matrix", ()),
    ("IQ2_M", 29, "iq2_s", "two bits by codebook, largest; needs an importance matrix", ()),
    ("IQ1_S", 24, "iq1_s", "one and a half bits by codebook; needs an importance matrix", ()),
    ("IQ1_M", 31, "iq1_m", "one and three quarter bits by codebook; needs an importance matrix", ()),
    ("TQ1_0", 36, "tq1_0", "ternary, packed in bytes", ()),
    ("TQ2_0", 37, "tq2_0", "ternary, two bits each", ()),
    ("Q2_K", 10, "q2_K", "two-bit k-quants, sensitive tensors in three and four bits", ()),
    ("Q2_K_S", 21, "q2_K", "two-bit k-quants, few tensors in four bits; needs an importance matrix", ()),
    ("IQ3_XXS", 23, "iq3_xxs", "three bits by codebook, smallest; needs an importance matrix", ()),
    ("IQ3_S", 26, "iq3_s", "three bits by codebook", ()),
    ("IQ3_M", 27, "iq3_s", "three bits by codebook, sensitive tensors in four bits", ()),
    ("IQ3_XS", 22, "iq3_s", "three bits by codebook, small; needs an importance matrix", ()),
    ("Q3_K_S", 11, "q3_K", "three-bit k-quants", ()),
    ("Q3_K_M", 12, "q3_K", "three-bit k-quants, sensitive tensors in four and five bits", ("Q3_K",)),
    ("Q3_K_L", 13, "q3_K", "three-bit k-quants, sensitive tensors in five bits", ()),
    ("IQ4_NL", 25, "iq4_nl", "four non-linear bits in blocks of 32", ()),
    ("IQ4_XS", 30, "iq4_xs", "four non-linear bits in blocks of 256", ()),
    ("Q4_K_S", 14, "q4_K", "four-bit k-quants, first sensitive tensors in five bits", ()),
    ("Q4_K_M", 15, "q4_K", "four-bit k-quants, half of the sensitive tensors in six bits", ("Q4_K",)),
    ("Q5_K_S", 16, "q5_K", "five-bit k-quants", ()),
    ("Q5_K_M", 17, "q5_K", "five-bit k-quants, half of the sensitive tensors in six bits", ("Q5_K",)),
    ("Q6_K", 18, "q6_K", "six-bit k-quants", ()),
    ("Q8_0", 7, "q8_0", "eight bits in blocks of 32", ()),
    ("F16", 1, "f16", "half precision", ()),
    ("BF16", 32, "bf16", "bfloat16", ()),
    ("F32", 0, "f32", "single precision", ()),
    ("COPY", 0, "f32", "every tensor as it is", ()),
)

FILE_TYPES: Final[dict[str, FileType]] = {
    name: FileType(name, number, BY_NAME[base], description, aliases)
    for name, number, base, description, aliases in _TABLE
}

_BY_ALIAS: Final = {alias: kind for kind in FILE_TYPES.values() for alias in (kind.name, *kind.aliases)}


def file_type(name: str) -> FileType:
    """Find the file type called `name`: a name or alias in any case, or a number as llama-quantize takes it.

    Raises `SettingsError`, with the nearest names, when there is none (quantize.cpp:95-124).
    """
    wanted = name.strip().upper()
    if wanted in _BY_ALIAS:
        return _BY_ALIAS[wanted]
    if wanted.isascii() and wanted.isdecimal() and len(wanted) < 4:
        for kind in FILE_TYPES.values():
            if kind.id == int(wanted):
                return kind
    near = get_close_matches(wanted, _BY_ALIAS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(FILE_TYPES)}"
    raise SettingsError(f"file_type={shown(name)}: llama-quantize offers no such file type; {hint}")
