"""Which matrices the engine multiplies by without what adapters add: an adapter for one is loaded, and never used.

An architecture's graph calls `build_lora_mm` for most of its matrices and plain `ggml_mul_mat` for these (src/models); the matrix of
values of latent attention is such a one everywhere (`build_attn_mha`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["ignores_adapters", "ignores_vectors"]

_LATENT: Final = r"attn_(?:q|q_a|q_b|kv_a_mqa|kv_b|k_b|v_b)"
_DELTA: Final = r"attn_(?:q|k|v|qkv|gate|output)|ssm_(?:beta|f_a|f_b|g|g_a|g_b)"
_INDEXER: Final = r"indexer\.(?:attn_k|attn_q_b|proj)|indexer_compressor_gate"
_STREAMS: Final = r"hc_(?:attn|ffn)_fn|output_hc_fn"
_DENSE: Final = r"ffn_(?:down|gate|up)(?:_shexp)?|ffn_gate_inp|ffn_routed_(?:down|up)"
_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "arwkv7": (r"time_mix_[agvw][12]",),
    "bailingmoe3": (_LATENT, _DELTA, "output"),
    "deepseek2": (_LATENT, "output"),
    "deepseek2-ocr": ("output",),
    "deepseek32": (_LATENT, _INDEXER, "output"),
    "deepseek4": (_STREAMS, "attn_output_a", "output"),
    "dflash": (_STREAMS, "attn_output_a"),
    "dots3note": (_LATENT, _INDEXER, "output"),
    "gemma3n": (r"altup_(?:router|proj|unembd_proj)",),
    "glm-dsa": (_LATENT, _INDEXER, "output"),
    "glm5-next": (_LATENT, _DELTA, _INDEXER, _STREAMS, "output"),
    "graniteswitch": ("attn_qkv|attn_output|ffn_(?:gate|up|down)",),  # it has adapters of its own
    "hy_v4": (_LATENT, _INDEXER, _STREAMS, "attn_gate", "output"),
    "kimi-k3": (_LATENT, _DELTA, _DENSE, "output"),
    "kimi-linear": (_LATENT, _DELTA, "output"),
    "minicpm3": (_LATENT,),
    "mistral4": (_LATENT, "output"),
    "nemotron_h": (r"ffn_latent_(?:down|up)",),
    "nemotron_h_moe": (r"ffn_latent_(?:down|up)",),
    "plm": (_LATENT,),
    "rwkv6": (r"time_mix_(?:decay_w1|decay_w2|w1)",),
    "rwkv6qwen2": (r"time_mix_(?:decay_w1|decay_w2|w1)",),
    "rwkv7": (r"time_mix_[agvw][12]",),
})  # fmt: skip
_PATTERNS: Final = {
    name: re.compile(rf"(?:blk\.\d+\.)?(?:{'|'.join(parts)})\.weight") for name, parts in _NAMES.items()
}


# In layers that keep a state alone
_OF_STATES: Final = {"kimi-linear": "attn_output.weight"}


def ignores_adapters(architecture: str, weight: str, *, recurrent: bool = False) -> bool:
    """Tell whether an architecture multiplies by a weight of this name without what adapters add.

    `recurrent`: whether the layer keeps a state.
    """
    if not recurrent and architecture in _OF_STATES and weight.endswith(f".{_OF_STATES[architecture]}"):
        return False
    pattern = _PATTERNS.get(architecture)
    return pattern is not None and pattern.fullmatch(weight) is not None


_UNSTEERED: Final = frozenset(
    (
        "bert", "dflash", "eagle3", "eurobert", "gemma4-assistant", "hy_v4", "jina-bert-v2", "jina-bert-v3", "modern-bert",
        "neo-bert", "nomic-bert", "nomic-bert-moe", "plamo2", "qwen4exp", "wavtokenizer-dec",
    )
)  # fmt: skip


def ignores_vectors(architecture: str) -> bool:
    """Tell whether an architecture's layers end without what a control vector adds (build_cvec)."""
    return architecture in _UNSTEERED
