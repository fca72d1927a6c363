"""Read what a model says of itself: name, file type, vocabulary, trained context, RoPE scaling.

Source: llama.h (enum llama_ftype), `llama_model_loader::llama_model_loader`, llama-vocab.cpp:1949-1967,
llama-model.cpp:1395-1420.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from ..._gguf import Array, Value
from ..model import Rope, Tensor
from .metadata import Metadata

__all__ = ["file_type", "name", "rope", "tokenizer", "vocabulary"]

GUESSED: Final = 1024  # flag of general.file_type: the engine guessed it (LLAMA_FTYPE_GUESSED)
FILE_TYPES: Final[Mapping[int, str]] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
SCALINGS: Final = ("none", "linear", "yarn", "longrope")
LONG_FACTORS: Final = "rope_factors_long.weight"


def name(pairs: Mapping[str, Value]) -> str:
    """Read general.name, or "" when it is absent or not a string."""
    value = pairs.get("general.name", "")
    return value if isinstance(value, str) else ""


def tokenizer(pairs: Mapping[str, Value]) -> str:
    """Read tokenizer.ggml.model: the kind of vocabulary; "" when it is absent or not a string."""
    value = pairs.get("tokenizer.ggml.model", "")
    return value if isinstance(value, str) else ""


def file_type(pairs: Mapping[str, Value]) -> str:
    """Read general.file_type by name; "" when it is absent or not known."""
    value = pairs.get("general.file_type")
    if isinstance(value, bool) or not isinstance(value, int):
        return ""
    return FILE_TYPES.get(value & ~GUESSED, "")


def vocabulary(meta: Metadata, tensors: Mapping[str, Tensor], is_draft: bool) -> int:
    """Count the tokens: of the tokenizer, else of `vocab_size`, else rows of the embedding.

    Raises `ModelError` when tokenizer and embedding disagree, as the engine does.
    """
    tokens = meta.pairs.get("tokenizer.ggml.tokens")
    model = meta.pairs.get("tokenizer.ggml.model")
    rows = [
        t.shape[1]
        for key in ("token_embd.weight", "output.weight")
        if (t := tensors.get(key)) and len(t.shape) > 1
    ]
    if model in ("no_vocab", "none") or not isinstance(tokens, Array):
        n_vocab = meta.number("vocab_size", rows[0] if rows else 0)
    else:
        n_vocab = len(tokens)
    if rows and rows[0] != n_vocab and not is_draft:
        meta.fail("vocab_size", f"or tokenizer gives {n_vocab} tokens, the embedding has {rows[0]}")
    return n_vocab


def rope(meta: Metadata, head_k: int, tensors: Collection[str]) -> Rope:
    """Read the RoPE scaling of the header. Without a factor `linear` (the engine's default) scales nothing.

    A file with long RoPE factors (Phi-3) is stretched by them whether its header says so or not, from
    the original context to the trained one.
    """
    scaling = meta.text("rope.scaling.type", "linear")
    if scaling not in SCALINGS:
        meta.fail("rope.scaling.type", f"= {scaling!r} is none of {', '.join(SCALINGS)}")
    given = meta.real("rope.scaling.factor", 0.0) or meta.real("rope.scale_linear", 0.0)
    original = meta.number("rope.scaling.original_context_length", 0)
    if scaling == "linear" and given in (0.0, 1.0):
        scaling = "longrope" if LONG_FACTORS in tensors else "none"
    if scaling == "longrope" and not given and original:
        given = max(1.0, meta.require("context_length") / original)
    return Rope(
        scaling=scaling,
        factor=given or 1.0,
        original_context=original,
        freq_base=meta.real("rope.freq_base", 10000.0),
        dimensions=meta.number("rope.dimension_count", head_k),
    )
