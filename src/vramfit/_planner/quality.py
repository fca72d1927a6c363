"""Look up published measures of what a quantization costs in quality, each with its model and its source.

Nothing here is estimated. A measure belongs to the model it was taken on: other models lose more or
less (Llama 2 7B at Q4_K_M loses 0.013 where Llama 3 8B loses 0.031), so it ranks file types and cache types
and predicts nothing. What nobody published has no measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .._coerce import flag, word
from .._quant import file_type as find_file_type

__all__ = ["MODEL", "Measure", "cache_measure", "file_type_measure"]

MODEL: Final = "Llama 3 8B"
METRIC: Final = "mean KL divergence from F16 logits, Wikitext-2 test set"
README: Final = "llama.cpp tools/perplexity/README.md, LLaMA 3 8b Scoreboard, revision f364eb6f"
CACHE_PR: Final = "https://github.com/ggml-org/llama.cpp/pull/7412, 2024-05-20, f16 weights"


@dataclass(frozen=True, slots=True)
class Measure:
    """One published figure. `kld` is in nats, `perplexity` of the quantized model; lower is better."""

    kld: float
    perplexity: float
    imatrix: bool  # whether it was quantized with an importance matrix
    model: str = MODEL
    metric: str = METRIC
    source: str = README


# file type, mean KLD, perplexity; first without an importance matrix, then with (10m Wikitext tokens).
_PLAIN: Final = {
    "F16": (0.000551, 6.233160),
    "Q8_0": (0.001355, 6.234284),
    "Q6_K": (0.005452, 6.253382),
    "Q5_K_M": (0.010762, 6.288607),
    "Q5_K_S": (0.016595, 6.336598),
    "Q5_1": (0.018045, 6.337857),
    "Q5_0": (0.022239, 6.363224),
    "Q4_K_M": (0.031273, 6.407115),
    "Q4_K_S": (0.043136, 6.500529),
    "Q4_1": (0.071683, 6.682737),
    "Q4_0": (0.071940, 6.700147),
    "Q3_K_L": (0.087176, 6.787876),
    "Q3_K_M": (0.101913, 6.888498),
    "Q3_K_S": (0.228217, 7.863786),
    "Q2_K": (0.445132, 9.751568),
}
_IMATRIX: Final = {
    "Q4_K_M": (0.028152, 6.382937),
    "Q4_K_S": (0.031951, 6.409697),
    "IQ4_NL": (0.035742, 6.455593),
    "IQ4_XS": (0.036334, 6.459705),
    "Q3_K_L": (0.073077, 6.671223),
    "Q3_K_M": (0.084358, 6.734255),
    "IQ3_M": (0.102534, 6.898327),
    "IQ3_S": (0.111278, 6.965501),
    "IQ3_XS": (0.138693, 7.163043),
    "IQ3_XXS": (0.183625, 7.458436),
    "Q3_K_S": (0.199821, 7.602878),
    "IQ2_M": (0.325989, 8.600799),
    "Q2_K": (0.332223, 8.647825),
    "Q2_K_S": (0.403360, 9.323778),
    "IQ2_S": (0.439197, 9.650781),
    "IQ2_XS": (0.546290, 10.761424),
    "IQ2_XXS": (0.812022, 14.091782),
    "IQ1_M": (1.393084, 25.493722),
    "IQ1_S": (2.254554, 60.694593),
}
# K and V type together; only these were found published.
_CACHE: Final = {("f16", "f16"): (0.000189, 6.232196), ("q8_0", "q8_0"): (0.000980, 6.234369)}


def file_type_measure(name: str, imatrix: bool = False) -> Measure | None:
    """Look up the measure of a file type; None where none was published.

    Where only one of the two ways to quantize was measured, that one is returned, and says so.
    Raises `SettingsError` for a file type that does not exist.
    """
    name, imatrix = word("name", name), flag("imatrix", imatrix)
    name = find_file_type(name).name
    ways = ((True, _IMATRIX), (False, _PLAIN)) if imatrix else ((False, _PLAIN), (True, _IMATRIX))
    return next((Measure(*table[name], imatrix=way) for way, table in ways if name in table), None)


def cache_measure(type_k: str, type_v: str) -> Measure | None:
    """Look up the measure of a pair of cache types under f16 weights; None where none was published."""
    type_k, type_v = word("type_k", type_k), word("type_v", type_v)
    found = _CACHE.get((type_k, type_v))
    return Measure(*found, imatrix=False, source=CACHE_PR) if found else None
