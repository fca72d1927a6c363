"""Choose the type that llama.cpp's quantizer gives a tensor, before overrides and shapes have their say.

In: names, positions and a few numbers of the model (`Traits`). Out: names of tensor types.
Source: src/llama-quant.cpp; each function names the lines it answers for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .._base.errors import EngineRefusal
from .._llama.model import Model, Tensor

__all__ = ["Category", "Traits", "allows_quantization", "category", "choose", "layer_of", "traits"]


class Category(Enum):
    """What a tensor is for, as far as the quantizer cares (llama-quant.cpp:24-37)."""

    OUTPUT = "output"
    TOKEN_EMBD = "token_embd"
    ATTN_V = "attn_v"  # fused QKV and latent KV count as V (llama-quant.cpp:150-154)
    ATTN_K = "attn_k"
    ATTN_Q = "attn_q"
    ATTN_OUTPUT = "attn_output"
    FFN_UP = "ffn_up"
    FFN_GATE = "ffn_gate"
    FFN_DOWN = "ffn_down"
    OTHER = "other"


# The first part that a name contains decides (llama-quant.cpp:111-148).
_PARTS: Final = (
    ("attn_qkv.weight", Category.ATTN_V),
    ("attn_kv_b.weight", Category.ATTN_V),
    ("attn_v.weight", Category.ATTN_V),
    ("attn_k.weight", Category.ATTN_K),
    ("attn_q.weight", Category.ATTN_Q),
    ("attn_output.weight", Category.ATTN_OUTPUT),
    ("ffn_up", Category.FFN_UP),
    ("ffn_gate", Category.FFN_GATE),
    ("ffn_down", Category.FFN_DOWN),
)
_FFN: Final = frozenset({Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN})


def category(name: str) -> Category:
    """Find the category of the tensor called `name`."""
    if name == "output.weight":
        return Category.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return Category.TOKEN_EMBD
    return next((found for part, found in _PARTS if part in name), Category.OTHER)


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What the quantizer does differently for one architecture."""

    kept: tuple[str, ...] = ()  # parts of names of tensors that stay as they are
    eight_bits: tuple[str, ...] = ()  # parts of names of tensors that get q8_0 in every mix
    falcon_mix: bool = False  # q8_0 output, fewer bits for ffn_down and attn_output
    experts_by_name: bool = False  # MXFP4_MOE: latent projections are 3-D too, so ask for ffn_* names
    n_layer_70b: int = 0  # LLM_TYPE_70B is a model with this many layers
    gqa_70b: bool = False  # ... and fewer KV heads than heads


# The only place here that knows architectures by name. 70B: `type =` in src/models/<name>.cpp.
_ARCHITECTURES: Final[Mapping[str, _Architecture]] = {
    "falcon": _Architecture(falcon_mix=True),
    "bailingmoe3": _Architecture(experts_by_name=True),
    "llama": _Architecture(n_layer_70b=80, gqa_70b=True),
    "llama-embed": _Architecture(n_layer_70b=80, gqa_70b=True),
    "deci": _Architecture(n_layer_70b=80),
    "olmo": _Architecture(n_layer_70b=80),
    "qwen2": _Architecture(n_layer_70b=80),
    "jais2": _Architecture(n_layer_70b=68),
    "glm5-next": _Architecture(
        kept=(
            "hc_",
            "indexer.attn_q_b",
            "indexer.attn_k",
            "indexer.proj",
            "indexer_compressor_gate",
            "indexer_compressor_ape",
            "ssm_f_a.weight",
            "ssm_f_b.weight",
            "ssm_g_a.weight",
            "ssm_g_b.weight",
            "ssm_beta.weight",
            "attn_kv_a_mqa.weight",
            "attn_k_b.weight",
            "attn_v_b.weight",
        ),
        eight_bits=("attn_q_a", "attn_q_b", "nextn.eh_proj"),
    ),
}
_PLAIN: Final = _Architecture()


@dataclass(frozen=True, slots=True)
class Traits:
    """What the rules look at in a model, the tensor at hand aside."""

    architecture: _Architecture
    n_layer: int  # next-token-prediction layers included (n_layer_all)
    n_expert: int
    n_gqa: int  # heads a KV head in layer 0; 0 when that layer has no KV head
    n_attn_v: int  # tensors of category ATTN_V
    is_70b: bool
    is_tied: bool  # no output.weight: token_embd gets the rules of the output
    imatrix: bool


def traits(model: Model, imatrix: bool) -> Traits:
    """Collect the traits of `model` (llama-hparams.cpp:99-108, llama-quant.cpp:927-941)."""
    architecture = _ARCHITECTURES.get(model.architecture, _PLAIN)
    n_head, n_head_kv = model.layers[0].n_head, model.layers[0].n_head_kv
    n_main = sum(not layer.is_nextn for layer in model.layers)
    categories = [category(t.name) for t in model.tensors]
    return Traits(
        architecture=architecture,
        n_layer=model.n_layer,
        n_expert=model.n_expert,
        n_gqa=n_head // n_head_kv if n_head_kv else 0,
        n_attn_v=categories.count(Category.ATTN_V),
        is_70b=n_main == architecture.n_layer_70b and not (architecture.gqa_70b and n_head == n_head_kv),
        is_tied=Category.OUTPUT not in categories,
        imatrix=imatrix,
    )


# Parts of names of matrices that are never quantized (llama-quant.cpp:296-380): norms, expert
# routers, small convolutions, tiny projections, positions, mixing coefficients, encoders' odds and ends.
_KEPT: Final = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_KEPT_WHOLE: Final = frozenset({"position_embd.weight", "token_types.weight"})


def allows_quantization(tensor: Tensor, model: Traits) -> bool:
    """Whether the quantizer may change the type of `tensor` at all (llama-quant.cpp:289-383).

    Matrices only (more than one dimension above 1), whose name ends with `weight`.
    """
    name = tensor.name
    if not any(n > 1 for n in tensor.shape[1:]):
        return False
    if name.rfind("weight") != len(name) - len("weight") or name in _KEPT_WHOLE:
        return False
    return not any(part in name for part in _KEPT + model.architecture.kept)


_LAYER: Final = re.compile(r"blk\.(\d+)")


def layer_of(name: str) -> int:
    """Read the layer from a tensor's name, or -1: non-layer tensors come first (llama-model-loader.h:54-65)."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def _more_bits(i: int, n: int) -> bool:
    """Tell whether a layer is worth more bits: the first and last eighth, and every third between (llama-quant.cpp:452)."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


# File types below about three bits, which share one mix of their own.
_TWO_BITS: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
_TWO_BITS_LARGE: Final = frozenset({"IQ2_S", "IQ2_M"})


def choose(file_type: str, base: str, base_block: int, tensor: Tensor, position: int, model: Traits) -> str:
    """Choose the type for a tensor under the mix of `file_type`, whose quantized `base` has `base_block` elements.

    `position` counts the tensors of the same category that came before. Source: llama-quant.cpp:446-714.
    Raises `EngineRefusal` for a mixture model whose FFN tensor names no layer.
    """
    what = category(tensor.name)
    if any(part in tensor.name for part in model.architecture.eight_bits):
        return "q8_0"
    if what is Category.OUTPUT or (what is Category.TOKEN_EMBD and model.is_tied):
        return _output(file_type, base, base_block, tensor, model)
    if file_type == "MXFP4_MOE":
        return _mxfp4(tensor, what, model)
    if what is Category.TOKEN_EMBD:
        return _TOKEN_EMBD.get(file_type, base)
    if file_type in _TWO_BITS:
        return _two_bits(file_type, base, what, position, model)
    if what is Category.ATTN_V:
        return _attn_v(file_type, base, position, model)
    if what in _FFN:
        return _ffn(file_type, base, what, _layer(tensor.name, position, model), model)
    return _attention(file_type, base, what, model)


def _output(file_type: str, base: str, base_block: int, tensor: Tensor, model: Traits) -> str:
    """Choose for the output matrix, or the embeddings that serve as one (llama-quant.cpp:494-511)."""
    if file_type == "MXFP4_MOE" or model.architecture.falcon_mix or tensor.shape[0] % base_block:
        return "q8_0"
    if file_type in _TWO_BITS or file_type == "IQ3_XXS":
        return "q5_K"
    return base if base == "q8_0" else "q6_K"


def _mxfp4(tensor: Tensor, what: Category, model: Traits) -> str:
    """Choose MXFP4 for experts, which are the 3-D tensors, and q8_0 for the rest (llama-quant.cpp:512-524)."""
    is_stack = len(tensor.shape) > 2 and tensor.shape[2] > 1
    is_expert = is_stack and (what in _FFN or not model.architecture.experts_by_name)
    return "mxfp4" if is_expert else "q8_0"


# Token embeddings that are not the output too (llama-quant.cpp:529-541).
_TOKEN_EMBD: Final[Mapping[str, str]] = {
    "IQ1_S": "q2_K",
    "IQ1_M": "q2_K",
    "IQ2_XXS": "q2_K",
    "IQ2_XS": "q2_K",
    "IQ2_S": "iq3_s",
    "IQ2_M": "iq3_s",
    "IQ3_XXS": "iq3_s",
    "TQ1_0": "q4_K",
    "TQ2_0": "q4_K",
    "Q2_0": "q4_K",
}


def _two_bits(file_type: str, base: str, what: Category, position: int, model: Traits) -> str:
    """Choose by the mix of the file types below three bits (llama-quant.cpp:543-566)."""
    better = "iq3_s" if file_type in _TWO_BITS_LARGE else "q2_K"
    eight_experts = model.n_expert == 8
    match what:
        case Category.ATTN_V:
            return "q4_K" if model.n_gqa >= 4 or model.n_expert >= 4 else better
        case Category.ATTN_K if eight_experts:
            return "q4_K"
        case Category.FFN_DOWN if position < model.n_layer // 8:
            return better
        case Category.ATTN_OUTPUT if eight_experts:
            return "q5_K"
        case Category.ATTN_OUTPUT if file_type in ("IQ1_S", "IQ1_M"):
            return "iq2_xxs"
        case Category.ATTN_OUTPUT if file_type in _TWO_BITS_LARGE:
            return "iq3_s"
    return base


def _attn_v(file_type: str, base: str, position: int, model: Traits) -> str:
    """Choose for attention V: small and sensitive, hence the most bits (llama-quant.cpp:567-604)."""
    if model.n_expert == 8:
        return "q8_0"
    chosen = _attn_v_mix(file_type, base, position, model)
    return "q5_K" if model.is_70b and chosen in ("q3_K", "q4_K") else chosen


def _attn_v_mix(file_type: str, base: str, position: int, model: Traits) -> str:
    """Choose for attention V by file type and by how many heads share it (llama-quant.cpp:568-592)."""
    is_shared = model.n_gqa >= 4
    match file_type:
        case "Q2_K":
            return "q4_K" if is_shared else "q3_K"
        case "Q2_K_S" | "IQ3_XS" | "IQ3_S" | "IQ3_XXS" if is_shared:
            return "q4_K"
        case "IQ3_XXS":
            return "iq3_xxs" if model.imatrix else "iq3_s"
        case "IQ3_M":
            return "q4_K"
        case "Q3_K_M":
            return "q5_K" if position < 2 else "q4_K"
        case "Q3_K_L":
            return "q5_K"
        case "IQ4_NL" | "IQ4_XS" if is_shared:
            return "q5_K"
        case "Q4_K_M" | "Q5_K_M" if _more_bits(position, model.n_attn_v):
            return "q6_K"
        case "Q4_K_S" if position < 4:
            return "q5_K"
    return base


# Attention Q and K where they get fewer bits than the base (llama-quant.cpp:611-623).
_ATTN_QK: Final[Mapping[str, str]] = {"IQ3_XS": "iq3_xxs", "IQ3_XXS": "iq2_s"}

# Attention output, by kind of model (llama-quant.cpp:669-687).
_ATTN_OUTPUT: Final[Mapping[str, str]] = {
    "Q2_K": "q3_K",
    "IQ3_XXS": "iq3_s",
    "Q3_K_M": "q4_K",
    "Q3_K_L": "q5_K",
    "IQ3_M": "q4_K",
}
_ATTN_OUTPUT_FALCON: Final[Mapping[str, str]] = {"Q3_K_L": "q4_K"}
_ATTN_OUTPUT_EIGHT_EXPERTS: Final[Mapping[str, str]] = dict.fromkeys(
    (
        "Q2_K",
        "Q3_K_S",
        "Q3_K_M",
        "Q4_K_S",
        "Q4_K_M",
        "IQ3_XXS",
        "IQ3_XS",
        "IQ3_S",
        "IQ3_M",
        "IQ4_NL",
        "IQ4_XS",
    ),
    "q5_K",
)


def _attention(file_type: str, base: str, what: Category, model: Traits) -> str:
    """Choose for attention Q, K and output, and everything that has no rule (llama-quant.cpp:605-623, 669-688)."""
    eight_experts = model.n_expert == 8
    match what:
        case Category.ATTN_K if eight_experts:
            return "q8_0"
        case Category.ATTN_K | Category.ATTN_Q:
            return _ATTN_QK.get(file_type, base)
        case Category.ATTN_OUTPUT if model.architecture.falcon_mix:
            return _ATTN_OUTPUT_FALCON.get(file_type, base)
        case Category.ATTN_OUTPUT:
            return (_ATTN_OUTPUT_EIGHT_EXPERTS if eight_experts else _ATTN_OUTPUT).get(file_type, base)
    return base


def _layer(name: str, position: int, model: Traits) -> int:
    """Find the layer of an FFN tensor: its position, or in a mixture what its name says (llama-quant.cpp:456-470)."""
    if model.n_expert <= 1:
        return position
    layer = layer_of(name)
    if not 0 <= layer < model.n_layer:
        raise EngineRefusal(
            f"{name}: the quantizer cannot tell its layer, which must be in [0, {model.n_layer}) in a model with "
            f"{model.n_expert} experts; name its type with tensor_types"
        )
    return layer


def _ffn(file_type: str, base: str, what: Category, i: int, model: Traits) -> str:
    """Choose for the feed-forward matrices of layer `i` (llama-quant.cpp:624-668, 696-711)."""
    n = model.n_layer
    if what is not Category.FFN_DOWN:
        return "iq3_xxs" if file_type == "IQ3_XS" and n // 8 <= i < 7 * n // 8 else base
    if model.architecture.falcon_mix:
        return _ffn_down_falcon(file_type, base, i, model)
    return _ffn_down(file_type, base, i, model)


def _ffn_down(file_type: str, base: str, i: int, model: Traits) -> str:
    """Choose for the down projection: more bits where errors hurt, which is early (llama-quant.cpp:627-667)."""
    n = model.n_layer
    is_early = i < n // 8
    match file_type:
        case "Q2_K":
            return "q3_K"
        case "Q2_K_S" if is_early:
            return "q4_K"
        case "IQ3_XXS" if not model.imatrix:
            return "q4_K" if is_early else "q3_K"
        case "Q3_K_M":
            return "q5_K" if i < n // 16 else "q4_K"
        case "IQ3_M" if is_early or (model.n_expert == 8 and _more_bits(i, n)):
            return "q4_K"
        case "Q3_K_L":
            return "q5_K"
        case "Q4_K_M" | "Q5_K_M" if _more_bits(i, n):
            return "q6_K"
        case "IQ4_NL" | "IQ4_XS" if is_early and not model.imatrix:
            return "q5_K"
        case "Q4_K_S" if is_early:
            return "q5_K"
        case "Q4_0" | "Q5_0" if is_early and model.imatrix:
            return {"Q4_0": "q4_1", "Q5_0": "q5_1"}[file_type]
    return base


def _ffn_down_falcon(file_type: str, base: str, i: int, model: Traits) -> str:
    """Choose under the four file types that spare Falcon's wide down projection (llama-quant.cpp:634-660)."""
    n = model.n_layer
    match file_type:
        case "Q3_K_M":
            return "q5_K" if i < n // 16 else "q4_K" if _more_bits(i, n) else "q3_K"
        case "Q3_K_L":
            return "q4_K"
        case "Q4_K_M":
            return "q6_K" if i < n // 16 else "q5_K" if _more_bits(i, n) else "q4_K"
        case "Q4_K_S":
            return base
    return _ffn_down(file_type, base, i, model)
