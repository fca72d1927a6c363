"""Metadata from which the engine makes a model of any architecture at chosen dimensions.

`metadata(architecture, dims)` gives GGUF key-values by their short names (`embedding_length`, without the
architecture's prefix). Keys that an architecture does not read do no harm, so most are set for all; what
some architectures need otherwise is in `_SPECIAL`. Which keys are read: src/models/*.cpp of the engine,
whose own generator (tests/test-llama-archs.cpp) knows the demands of most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Metadata = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dims:
    """Dimensions of a model. Each varies alone; where the engine ties two, the model fails to load."""

    n_embd: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_head_kv: int = 2
    head_k: int = 64
    head_v: int = 64
    n_rot: int = 64
    n_ff: int = 384
    n_vocab: int = 512
    n_ctx_train: int = 4096
    window: int = 256
    period: int = 2  # every how many layers the other kind of layer comes
    n_expert: int = 8
    n_expert_used: int = 2
    n_expert_shared: int = 1
    n_ff_exp: int = 160
    n_ff_shexp: int = 96
    n_dense_lead: int = 1
    q_lora: int = 96
    kv_lora: int = 128
    mla_rot: int = 32
    mla_k: int = 96
    mla_v: int = 64
    d_state: int = 64
    d_inner: int = 512
    d_conv: int = 4
    dt_rank: int = 8
    n_group: int = 2
    kda_head: int = 64
    index_heads: int = 8
    index_size: int = 64
    index_top_k: int = 1024
    lora: int = 32  # of RWKV's mixes

    def every(self, first: Any, other: Any) -> list[Any]:
        """`first` for each layer but the last of each period, which gets `other`."""
        return [other if i % self.period == self.period - 1 else first for i in range(self.n_layer)]


def metadata(architecture: str, dims: Dims, experts: bool) -> Metadata:
    """Key-values for `architecture`; `experts` asks for the mixture where a model can be dense, too."""
    values = _common(dims)
    if experts:
        values |= _mixture(dims)
    for names, special in _SPECIAL:
        if architecture in names:
            values |= special(dims)
    return values


def _common(d: Dims) -> Metadata:
    return {
        "vocab_size": d.n_vocab,
        "context_length": d.n_ctx_train,
        "embedding_length": d.n_embd,
        "block_count": d.n_layer,
        "feed_forward_length": d.n_ff,
        "leading_dense_block_count": d.n_dense_lead,
        "use_parallel_residual": False,
        "logit_scale": 1.0,
        "residual_scale": 1.5,
        "full_attention_interval": d.period,
        "attention.head_count": d.n_head,
        "attention.head_count_kv": d.n_head_kv,
        "attention.key_length": d.head_k,
        "attention.value_length": d.head_v,
        "rope.dimension_count": d.n_rot,
        "rope.dimension_sections": [d.n_rot // 8, d.n_rot // 8, d.n_rot // 4, 0],
        "attention.max_alibi_bias": 8.0,
        "attention.clamp_kqv": 1.0,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.q_lora_rank": d.q_lora,
        "attention.kv_lora_rank": d.kv_lora,
        "attention.relative_buckets_count": 16,
        "attention.sliding_window": d.window,
        "attention.sliding_window_pattern": d.period,
        "attention.indexer.head_count": d.index_heads,
        "attention.indexer.key_length": d.index_size,
        "attention.indexer.top_k": d.index_top_k,
        "attention.indexer.block_size": 4 if d.n_group % 2 == 0 else 8,
        "attention.indexer.kpool": 4,
        "attention.indexer.kpool_select_tail": True,
        "attention.indexer.local_blocks": 1,
        "ssm.conv_kernel": d.d_conv,
        "ssm.inner_size": d.d_inner,
        "ssm.state_size": d.d_state,
        "ssm.time_step_rank": d.dt_rank,
        "ssm.group_count": d.n_group,
        "kda.head_dim": d.kda_head,
        "kda.safe_gate": True,
        "kda.gate_lower_bound": -5.0,
        "wkv.head_size": d.head_k,
        "time_mix_extra_dim": d.lora,
        "time_decay_extra_dim": 2 * d.lora,
        "attention.decay_lora_rank": d.lora,
        "attention.iclr_lora_rank": 2 * d.lora,
        "attention.value_residual_mix_lora_rank": d.lora,
        "attention.gate_lora_rank": 3 * d.lora,
        "shortconv.l_cache": d.d_conv,
        "attn_res.block_size": 3 if d.period % 3 else 5,
        "activation.situ_beta": 4.0,
        "activation.situ_linear_beta": 25.0,
        "xielu.alpha_n": 1.0,
        "xielu.alpha_p": 1.0,
        "xielu.beta": 1.0,
        "xielu.eps": 1e-7,
        "tokenizer.ggml.model": "none",
        "tokenizer.ggml.token_type_count": 2,
    }


def _mixture(d: Dims) -> Metadata:
    return {
        "expert_count": d.n_expert,
        "expert_used_count": d.n_expert_used,
        "expert_shared_count": d.n_expert_shared,
        "expert_feed_forward_length": d.n_ff_exp,
        "expert_shared_feed_forward_length": d.n_ff_shexp,
        "expert_chunk_feed_forward_length": d.n_ff_exp,
        "expert_latent_length": d.n_ff_shexp,
        "interleave_moe_layer_step": d.period,
        "moe_every_n_layers": d.period,
        "expert_gating_func": 2,
        "expert_group_scale": 1.0,
        "experts_per_group": 1,
    }


_LATENT_NAMES = (
    "deepseek2 deepseek32 glm-dsa dots3note kimi-linear bailingmoe3 kimi-k3 glm5-next mistral4 hy_v4"
)
_HYBRID_NAMES = "plamo2 jamba granitehybrid lfm2 lfm2moe"


def _latent(d: Dims) -> Metadata:
    """Latent attention: a cache row is the compressed latent with the rotated part."""
    return {
        "attention.key_length": d.kv_lora + d.mla_rot,
        "attention.value_length": d.kv_lora,
        "rope.dimension_count": d.mla_rot,
        "attention.head_count_kv": 1,
        "attention.key_length_mla": d.mla_k,
        "attention.value_length_mla": d.mla_v,
    }


def _recurrent_by_heads(d: Dims) -> Metadata:
    """Layers without KV heads are recurrent; the first is not, its numbers are taken for all."""
    return {"attention.head_count_kv": d.every(d.n_head_kv, 0)}


def _recurrent_latent(d: Dims) -> Metadata:
    return {"attention.head_count_kv": d.every(1, 0)}


def _nemotron_h(d: Dims) -> Metadata:
    """Three kinds of layers: attention, recurrent, feed-forward; each has only its own part."""
    kinds = [i % 3 for i in range(d.n_layer)]
    return {
        "feed_forward_length": [d.n_ff if k == 2 else 0 for k in kinds],
        "attention.head_count_kv": [0 if k == 1 else d.n_head_kv for k in kinds],
    }


def _window_list(d: Dims) -> Metadata:
    return {
        "attention.sliding_window_pattern": d.every(1, 0),
        "attention.key_length_swa": d.head_k,
        "attention.value_length_swa": d.head_v,
        "rope.dimension_count_swa": d.n_rot,
        "rope.freq_base_swa": 10000.0,
    }


def _dots3note(d: Dims) -> Metadata:
    return {
        "attention.kv_lora_rank_swa": d.kv_lora,
        "attention.key_length_swa": d.kv_lora + d.mla_rot,
        "attention.value_length_swa": d.kv_lora,
        "attention.key_length_mla_swa": d.mla_k,
        "attention.value_length_mla_swa": d.mla_v,
        "rope.dimension_count_swa": d.mla_rot,
        "rope.freq_base_swa": 10000.0,
        "attention.indexer.types": d.every(0, 1),
        "attention.sliding_window_pattern": d.every(1, 0),
    }


def _engram(d: Dims) -> Metadata:
    """Hyper-connections, compressed attention, and n-gram embeddings on the first layer."""
    return _hyper_connections(d) | {
        "attention.compress_ratios": [4] * d.n_layer,
        "ple.layers": [0],
        "ple.ngram_size": 3,
        "ple.heads_per_ngram": 2,
        "ple.conv_kernel": 4,
        "ple.eos_token_id": 0,
        "embedding_length_per_layer_input": d.n_embd // 4,
        "ple.layer_multipliers": Long([1, 3, 5]),
        "ple.head_offsets": Long([i * d.n_vocab for i in range(4)]),
        "ple.head_vocab_sizes": Long([d.n_vocab] * 4),
    }


def _hyper_connections(d: Dims) -> Metadata:
    return {
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 2,
        "hyper_connection.epsilon": 1e-6,
        "hyper_connection.low_rank": 8,
        "hyper_connection.magnitude": 2.0,
    }


class Long(list[int]):
    """A list of 64-bit numbers."""


def _deepseek4(d: Dims) -> Metadata:
    index = 1 << max(
        6, (d.head_k // 2 - 1).bit_length()
    )  # rotated as a whole, and no smaller than what RoPE turns
    return _hyper_connections(d) | {
        "attention.head_count_kv": 1,
        "attention.key_length": d.head_k,
        "attention.value_length": d.head_k,
        "rope.dimension_count": d.head_k // 2,
        "attention.output_group_count": d.n_head,
        "attention.output_lora_rank": d.lora,
        "attention.compress_ratios": [(0, 0, 4, 128)[i % 4] for i in range(d.n_layer)],
        "attention.compress_rope_freq_base": 160000.0,
        "attention.indexer.key_length": 2 * index if index == d.head_k else index,
        "hash_layer_count": 0,
        "swiglu_clamp_exp": 10.0,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "expert_gating_func": 4,
    }


def _hy_v4(d: Dims) -> Metadata:
    return _hyper_connections(d) | {
        "swiglu_clamp_exp": 10.0,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "attention.indexer.types": [1 if i % d.period == 0 else 0 for i in range(d.n_layer)],
    }


def _hrm(d: Dims) -> Metadata:
    stack, passes = max(1, d.n_layer // 4), 2 + d.n_layer % 2
    return {
        "block_count": 2 * (passes + 1) * stack,
        "hrm.layers_per_stack": stack,
        "hrm.h_cycles": 2,
        "hrm.l_cycles": passes,
    }


def _gemma3n(d: Dims) -> Metadata:
    return {
        "block_count": max(22, d.n_layer),
        "embedding_length_per_layer_input": d.n_embd // 2,
        "attention.sliding_window_pattern": 5,  # the last layers share what layers 18 and 19 keep
    }


def _gemma4(d: Dims) -> Metadata:
    return _window_list(d) | {
        "embedding_length_per_layer_input": d.n_embd // 2,
        "attention.shared_kv_layers": 0,
    }


def _mrope(d: Dims) -> Metadata:
    return {"rope.dimension_sections": [d.mla_rot // 8, d.mla_rot // 8, d.mla_rot // 4, 0]}


_Special = Callable[[Dims], Metadata]
_SPECIAL: tuple[tuple[frozenset[str], _Special], ...] = tuple(
    (frozenset(names.split()), special)
    for names, special in (
        (_LATENT_NAMES, _latent),
        (_HYBRID_NAMES, _recurrent_by_heads),
        ("nemotron_h nemotron_h_moe", _nemotron_h),
        ("cohere2moe mimo2 step35 spark2_5 muse-glimmer granite_swa maple laguna", _window_list),
        ("kimi-linear bailingmoe3 kimi-k3 glm5-next", _recurrent_latent),
        ("dots3note", _dots3note),
        ("qwen4exp glm5-next", _engram),
        ("qwen4exp", lambda d: {"attention.indexer.key_length": d.head_k}),
        ("glm5-next", lambda d: {
            "attention.head_count": d.n_head,
            "attention.key_length": d.kv_lora,
            "rope.dimension_count": 0,
        }),
        ("deepseek4", _deepseek4),
        ("hy_v4", _hy_v4),
        ("hrm_text", _hrm),
        ("gemma3n", _gemma3n),
        ("gemma4", _gemma4),
        ("bailingmoe3", _mrope),
        ("minimax-m3", lambda d: {
            "attention.indexer.head_count": d.n_head_kv,
            "rope.dimension_count": min(d.head_k, d.index_size),
        }),
        ("jamba mamba granitehybrid", lambda d: {
            "ssm.inner_size": 2 * d.n_embd,
        }),
        ("plamo2", lambda d: {"ssm.group_count": 0}),
        ("llama4", lambda d: {"block_count": -(-d.n_layer // 4) * 4}),
        ("maple", lambda d: {"swiglu_clamp_exp": 7.0}),
        ("wavtokenizer-dec", lambda d: {
            "features_length": d.n_embd,
            "posnet.embedding_length": d.n_embd,
            "posnet.block_count": 6,
            "convnext.embedding_length": d.n_embd,
            "convnext.block_count": d.n_layer,
            "attention.group_norm_groups": 8,
            "attention.group_norm_epsilon": 1e-6,
        }),
        ("t5 t5encoder", lambda d: {"decoder_start_token_id": 0, "decoder_block_count": d.n_layer}),
        ("rwkv6 rwkv7 rwkv6qwen2 arwkv7", lambda d: {"attention.head_count": 0, "attention.head_count_kv": 0}),
        ("rwkv6qwen2", lambda d: {
            "attention.head_count": d.n_embd // d.head_k,
            "attention.head_count_kv": d.n_embd // d.head_k // (1 + (d.n_embd // d.head_k + 1) % 2),
        }),
        ("rwkv6 rwkv7", lambda d: {"token_shift_count": 2}),
        ("llama4", lambda d: {"expert_feed_forward_length": d.n_ff_exp}),
        ("rwkv6qwen2 arwkv7", lambda d: {"token_shift_count": 1}),
        ("minicpm3 t5 t5encoder olmoe chameleon", lambda d: {"attention.head_count_kv": d.n_head}),
        ("minicpm3", lambda d: {"rope.dimension_count": d.mla_rot}),
        ("qwen3tts", lambda d: {"vocab_size": 3072 + d.n_vocab * (d.n_layer % 5 > 0)}),
        ("chameleon", lambda d: {"vocab_size": max(d.n_vocab, 10240)}),
        ("graniteswitch", lambda d: {
            "adapters.count": 3,
            "adapters.lora_rank": d.lora,
            "adapters.router_gain": 1.0,
            "adapters.token_ids_activate": [1, 2, 3],
            "adapters.token_ids_substitute": [4, 5, 6],
        }),
    )
)  # fmt: skip
