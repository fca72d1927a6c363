"""Headers of DFlash drafts that run without their target: with embeddings of their own, one of each kind.

No file like these is published whole; the tensors are those that the engine's loader asks for (models/dflash.cpp:109-261).
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from vramfit._ggml.types import BY_NAME

from .draft import Draft, Key, Shape

__all__ = ["KINDS", "write"]

_LAYERS, _WIDTH, _HEADS, _KV, _HEAD, _FF, _VOCAB, _CHOSEN = 3, 512, 8, 2, 64, 768, 4096, 1024
_KERNEL, _GROUP, _RANK, _BLOCK = 3, 32, 64, 8
_Tensors = dict[str, tuple[int, ...]]


def write(kind: str, path: pathlib.Path) -> None:
    """Write the header of a kind; KeyError for another."""
    keys, tensors = KINDS[kind]()
    draft = Draft({}, {})
    draft.keys["general.architecture"] = Key("str", "dflash")
    for name, value in {**_keys(), **keys}.items():
        draft.keys[f"dflash.{name}"] = _key(value)
    draft.keys["tokenizer.ggml.model"] = Key("str", "none")
    for name, ne in tensors.items():
        small = len(ne) == 1 or "conv_base" in name
        draft.tensors[name] = Shape(BY_NAME["i64" if name == "d2t" else "f32" if small else "q8_0"], ne)
    draft.write(path)


def _key(value: Any) -> Key:
    first = value[0] if isinstance(value, list) else value
    of = {bool: "bool", int: "u32", float: "f32", str: "str"}[type(first)]
    return Key("i32" if of == "u32" and isinstance(value, list) else of, value)


def _keys() -> dict[str, Any]:
    return {
        "block_count": _LAYERS, "embedding_length": _WIDTH, "feed_forward_length": _FF, "vocab_size": _VOCAB,
        "attention.head_count": _HEADS, "attention.head_count_kv": _KV, "context_length": 32768,
        "attention.key_length": _HEAD, "attention.value_length": _HEAD, "rope.freq_base": 1e6,
        "attention.layer_norm_rms_epsilon": 1e-6, "target_layers": [1, 4, 7], "block_size": _BLOCK,
    }  # fmt: skip


def _ends(vocab: int = _VOCAB) -> _Tensors:
    return {
        "token_embd.weight": (_WIDTH, _VOCAB), "output.weight": (_WIDTH, vocab), "fc.weight": (3 * _WIDTH, _WIDTH),
        "enc.output_norm.weight": (_WIDTH,), "output_norm.weight": (_WIDTH,),
    }  # fmt: skip


def _every(layer: Mapping[str, tuple[int, ...]]) -> _Tensors:
    return {f"blk.{il}.{name}": ne for il in range(_LAYERS) for name, ne in layer.items()}


def _layer() -> _Tensors:
    return {
        "attn_norm.weight": (_WIDTH,), "attn_q.weight": (_WIDTH, _HEAD * _HEADS),
        "attn_k.weight": (_WIDTH, _HEAD * _KV), "attn_v.weight": (_WIDTH, _HEAD * _KV),
        "attn_output.weight": (_HEAD * _HEADS, _WIDTH), "attn_q_norm.weight": (_HEAD,),
        "attn_k_norm.weight": (_HEAD,), "ffn_norm.weight": (_WIDTH,), "ffn_gate.weight": (_WIDTH, _FF),
        "ffn_down.weight": (_FF, _WIDTH), "ffn_up.weight": (_WIDTH, _FF),
    }  # fmt: skip


def _plain() -> tuple[dict[str, Any], _Tensors]:
    """Keys that serve as values, normed results, sinks: what only some targets have."""
    layer = _layer() | {
        "post_attention_norm.weight": (_WIDTH,), "post_ffw_norm.weight": (_WIDTH,),
        "layer_output_scale.weight": (1,), "attn_sinks.weight": (_HEADS,),
    }  # fmt: skip
    del layer["attn_v.weight"]
    keys = {"hidden_activation": "gelu", "embedding_scale": 2.0, "attention.value_scale": 0.5}
    sections = {"rope.dimension_sections": [32, 0, 0, 0]}
    return keys | sections, _ends() | _every(layer)


def _windows() -> tuple[dict[str, Any], _Tensors]:
    windows = [True, False, True]
    keys = {"attention.sliding_window": 1024, "attention.sliding_window_pattern": windows}
    return keys, _ends() | _every(_layer())


def _markov(sure: bool) -> tuple[dict[str, Any], _Tensors]:
    tensors = _ends(_CHOSEN) | _every(_layer()) | {"d2t": (_CHOSEN,)}
    tensors |= {"markov_w1.weight": (_RANK, _VOCAB), "markov_w2.weight": (_RANK, _CHOSEN)}
    if sure:
        tensors |= {"markov_w2.scale": (1,), "conf_proj.weight": (_WIDTH + _RANK, 1), "conf_proj.bias": (1,)}
    return {"block_size": 256} if sure else {"block_size": 8192}, tensors


def _selector() -> tuple[dict[str, Any], _Tensors]:
    projected = 2 * _KERNEL * (_WIDTH // _GROUP)
    layer = _layer()
    for part in ("attn", "ffn"):
        layer[f"{part}_conv_base"] = (_WIDTH, _KERNEL, 2)
        layer[f"{part}_conv_proj.weight"] = (_WIDTH, projected)
    tensors = _ends() | _every(layer) | {
        "selector_predecessor.weight": (_RANK, _VOCAB), "selector_successor.weight": (_RANK, _VOCAB),
        "selector_hidden.weight": (_WIDTH, _RANK),
    }  # fmt: skip
    keys = {
        "conv_kernel_size": _KERNEL,
        "conv_group_size": _GROUP,
        "selector_rank": _RANK,
        "selector_top_k": 4,
    }
    return keys | {"block_size": 64, "logit_scale": 0.5, "final_logit_softcapping": 30.0}, tensors


def _streams() -> tuple[dict[str, Any], _Tensors]:
    """Blocks of DeepSeek V4."""
    lora, groups, count, experts, width = 128, 2, 4, 8, 256
    mixed, streams = (2 + count) * count, count * _WIDTH
    layer: _Tensors = {
        "attn_norm.weight": (_WIDTH,), "attn_sinks.weight": (_HEADS,), "attn_q_a.weight": (_WIDTH, lora),
        "attn_q_a_norm.weight": (lora,), "attn_q_b.weight": (lora, _HEADS * _HEAD), "attn_kv.weight": (_WIDTH, _HEAD),
        "attn_kv_a_norm.weight": (_HEAD,), "attn_output_a.weight": (_HEADS * _HEAD // groups, lora, groups),
        "attn_output_b.weight": (groups * lora, _WIDTH), "ffn_norm.weight": (_WIDTH,),
        "ffn_gate_inp.weight": (_WIDTH, experts), "exp_probs_b.bias": (experts,),
        "ffn_gate_exps.weight": (_WIDTH, width, experts), "ffn_down_exps.weight": (width, _WIDTH, experts),
        "ffn_up_exps.weight": (_WIDTH, width, experts), "ffn_gate_shexp.weight": (_WIDTH, width),
        "ffn_down_shexp.weight": (width, _WIDTH), "ffn_up_shexp.weight": (_WIDTH, width),
    }  # fmt: skip
    for part in ("attn", "ffn"):
        layer |= {f"hc_{part}_fn.weight": (streams, mixed), f"hc_{part}_base.weight": (mixed,)}
        layer[f"hc_{part}_scale.weight"] = (3,)
    head = {
        "output_hc_fn.weight": (streams, count),
        "output_hc_base.weight": (count,),
        "output_hc_scale.weight": (1,),
    }
    keys = {
        "hyper_connection.count": count, "attention.q_lora_rank": lora, "attention.sliding_window": 128,
        "expert_feed_forward_length": width, "expert_shared_count": 1, "expert_weights_scale": 1.5,
        "expert_weights_norm": True, "expert_gating_func": 4, "swiglu_clamp_exp": 10.0, "expert_count": experts,
        "expert_used_count": 2, "attention.output_group_count": groups, "attention.output_lora_rank": lora,
        "hyper_connection.sinkhorn_iterations": 4, "hyper_connection.epsilon": 1e-6, "rope.dimension_count": 32,
        "attention.head_count_kv": 1, "attention.compress_ratios": [0] * _LAYERS,
    }  # fmt: skip
    return keys, _ends() | head | _every(layer)


KINDS: Final[dict[str, Callable[[], tuple[dict[str, Any], _Tensors]]]] = {
    "keys-as-values": _plain,
    "windows": _windows,
    "markov": lambda: _markov(False),
    "markov-sure": lambda: _markov(True),
    "selector": _selector,
    "streams": _streams,
}
