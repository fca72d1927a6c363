"""Which models and which settings are traced to learn an architecture.

Every dimension varies on its own where the engine lets it: values are picked so that no small product or
sum of some equals another. Where the engine ties dimensions, a tighter style is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tools.engine.metadata import Dims

_FREE = (
    Dims(n_embd=352, n_layer=9, n_head=6, n_head_kv=3, head_k=64, head_v=128, n_rot=48, n_ff=432, n_vocab=610,
         window=160, period=3, n_expert=7, n_expert_used=2, n_expert_shared=1, n_ff_exp=176, n_ff_shexp=112,
         n_dense_lead=4, q_lora=104, kv_lora=128, mla_rot=32, mla_k=96, mla_v=72, d_state=16, d_inner=480,
         d_conv=4, dt_rank=8, n_group=2, kda_head=32, index_heads=4, index_size=64, index_top_k=1024, lora=24),
    Dims(n_embd=432, n_layer=8, n_head=10, n_head_kv=5, head_k=96, head_v=64, n_rot=96, n_ff=608, n_vocab=1004,
         window=352, period=4, n_expert=11, n_expert_used=3, n_expert_shared=2, n_ff_exp=144, n_ff_shexp=80,
         n_dense_lead=5, q_lora=72, kv_lora=192, mla_rot=16, mla_k=56, mla_v=104, d_state=24, d_inner=1200,
         d_conv=3, dt_rank=12, n_group=3, kda_head=48, index_heads=6, index_size=32, index_top_k=320, lora=40),
    Dims(n_embd=288, n_layer=5, n_head=8, n_head_kv=2, head_k=192, head_v=320, n_rot=64, n_ff=736, n_vocab=388,
         window=224, period=2, n_expert=5, n_expert_used=4, n_expert_shared=3, n_ff_exp=208, n_ff_shexp=272,
         n_dense_lead=3, q_lora=136, kv_lora=320, mla_rot=64, mla_k=112, mla_v=88, d_state=40, d_inner=720,
         d_conv=5, dt_rank=6, n_group=3, kda_head=64, index_heads=8, index_size=96, index_top_k=576, lora=16),
    Dims(n_embd=560, n_layer=8, n_head=12, n_head_kv=4, head_k=128, head_v=256, n_rot=128, n_ff=944, n_vocab=812,
         window=96, period=6, n_expert=13, n_expert_used=5, n_expert_shared=1, n_ff_exp=240, n_ff_shexp=304,
         n_dense_lead=6, q_lora=88, kv_lora=256, mla_rot=48, mla_k=80, mla_v=120, d_state=32, d_inner=880,
         d_conv=4, dt_rank=10, n_group=5, kda_head=40, index_heads=5, index_size=128, index_top_k=704, lora=56),
)  # fmt: skip


def styles(dims: Dims) -> Iterator[Dims]:
    """`dims` as it is, then with what engines tie."""
    yield dims
    one = replace(dims, head_v=dims.head_k)
    yield one
    full = replace(one, n_rot=dims.head_k)
    yield full
    yield replace(one, n_head_kv=dims.n_head)
    yield replace(full, n_head_kv=dims.n_head)
    # as many value heads as steps, of the size of the state
    linear = {"d_inner": dims.dt_rank * dims.d_state}
    yield replace(dims, **linear)
    yield replace(one, **linear)
    yield replace(full, **linear)
    wide = {"n_embd": dims.n_head * dims.head_k}
    for x in (one, full):
        yield replace(x, **wide)
        yield replace(x, **wide, **linear)
        yield replace(x, **wide, d_inner=2 * dims.n_head * dims.head_k)
        yield replace(x, **wide, n_head_kv=dims.n_head)
        yield replace(x, **wide, n_head_kv=1)
    for head in (64, 128) if dims.n_head % 4 else (128, 64):
        sized = replace(full, head_k=head, head_v=head, n_rot=head, kda_head=head)
        yield replace(sized, n_embd=dims.n_head * head)
        yield replace(sized, n_embd=dims.n_head * head, n_head_kv=dims.n_head)
        yield replace(sized, n_embd=dims.n_head * head, n_head_kv=dims.n_head, d_inner=2 * dims.n_head * head)


# Sizes that a style or the engine may make equal.
TIES = (
    ("n_embd", "n_head*head_k"),
    ("n_embd", "n_head*head_v"),
    ("n_embd", "n_head_kv*head_k"),
    ("n_head", "n_head_kv"),
    ("head_k", "head_v"),
    ("n_head_kv", "1"),
    (".attention.key_length_swa", ".attention.key_length"),
    (".attention.value_length_swa", ".attention.value_length"),
    ("head_v", ".attention.kv_lora_rank"),
    (".rope.dimension_count", "head_k"),
    (".token_shift_count", "2"),
    (".experts_per_group", "1"),
    (".kda.head_dim", "head_k"),
    (".ssm.inner_size", "n_embd*2"),
    (".ssm.inner_size", "n_head*head_k*2"),
    (".ssm.inner_size", ".ssm.time_step_rank*.ssm.state_size"),
)


def dimensions() -> tuple[Dims, ...]:
    """One a model."""
    return _FREE


@dataclass(frozen=True)
class Setting:
    """Arguments of a trace."""

    values: tuple[tuple[str, Any], ...]

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.values)

    @property
    def one_stream(self) -> bool:
        """Whether all sequences share one stream of the cache."""
        return self.arguments.get("n_seq_max", 1) == 1 or bool(self.arguments.get("kv_unified"))


_TYPES = {
    "on": (
        ("f16", "f16"),
        ("f32", "f32"),
        ("q8_0", "q8_0"),
        ("q8_0", "f16"),
        ("f16", "q8_0"),
        ("f16", "f32"),
    ),
    "off": (("f16", "f16"), ("q8_0", "f16"), ("f32", "f32")),
    "auto": (("f16", "f16"), ("q8_0", "f16"), ("f32", "f32")),
}
_STREAMS: tuple[dict[str, Any], ...] = (
    {"n_ctx": 20480, "n_ubatch": 320, "n_outputs_max": 3},
    {"n_ctx": 15360, "n_ubatch": 96, "n_outputs_max": 5, "n_seq_max": 3},
    {"n_ctx": 9216, "n_ubatch": 130, "n_outputs_max": 7, "n_seq_max": 2, "kv_unified": True},
    {"n_ctx": 7168, "n_ubatch": 192, "n_outputs_max": 9, "n_seq_max": 4},
)
_OTHERS: tuple[dict[str, Any], ...] = (
    {"n_ctx": 5120, "n_ubatch": 416, "n_outputs_max": 4},
    {"n_ctx": 24576, "n_ubatch": 160, "n_outputs_max": 7, "n_seq_max": 4},
    {"n_ctx": 13312, "n_ubatch": 75, "n_outputs_max": 6, "n_seq_max": 3, "kv_unified": True},
    {"n_ctx": 6144, "n_ubatch": 210, "n_outputs_max": 8, "n_seq_max": 2},
)


ALL, SOME, FEW = range(3)
_ONE_OF_EACH = (
    (0, "on", "f16", "f16"),
    (1, "on", "q8_0", "q8_0"),
    (0, "on", "q8_0", "f16"),
    (3, "off", "f16", "f16"),
)


def settings(extent: int = ALL, part: int = 0) -> Iterator[Setting]:
    """Settings to trace under: all variants, those that differ most, or one of each topology.

    `part` numbers the models: they get different sizes, and all but the first every third variant.
    """
    streams = _OTHERS if part % 2 else _STREAMS
    for number, setting in enumerate(_settings(extent, streams)):
        types = {setting.arguments.get(x, "f16") for x in ("type_k", "type_v")}
        if not part or extent == FEW or "q8_0" in types or (number + number // len(streams)) % 3 == part % 3:
            yield setting


def short(part: int = 0, ratio: int = 1) -> Iterator[Setting]:
    """One of each topology at contexts of few cells: what picks among cells cannot pick more than there are.

    `ratio`: tokens of a cell.
    """
    for number, setting in enumerate(settings(FEW, part)):
        cells = 256 * (1, 3)[number % 2] * ratio
        n_ctx = cells * int(setting.arguments.get("n_seq_max", 1))
        yield Setting(tuple((setting.arguments | {"n_ctx": n_ctx}).items()))


def long(part: int = 0) -> Iterator[Setting]:
    """One of each topology at contexts of which even a cache of one cell for every 128 has several sizes."""
    for number, setting in enumerate(settings(FEW, part)):
        n_ctx = 128 * 256 * (2 + number) * int(setting.arguments.get("n_seq_max", 1))
        yield Setting(tuple((setting.arguments | {"n_ctx": n_ctx}).items()))


def _settings(extent: int, streams: tuple[dict[str, Any], ...]) -> Iterator[Setting]:
    if extent == FEW:
        for stream, flash, k, v in _ONE_OF_EACH:
            yield Setting(tuple((streams[stream] | {"flash_attn": flash, "type_k": k, "type_v": v}).items()))
        return
    for flash, types in _TYPES.items():
        for type_k, type_v in types:
            for stream in streams:
                mixed = type_k != type_v and not ("q8_0" in (type_k, type_v) and stream is streams[0])
                if extent == SOME and (mixed or stream.get("kv_unified") or flash == "auto"):
                    continue
                more = {"flash_attn": flash, "type_k": type_k, "type_v": type_v}
                if flash == "auto":
                    more["offload_kqv"] = False  # attention then leaves the layer's device: resolved to off
                yield Setting(tuple((stream | more).items()))
    if extent == ALL:
        for stream in streams:
            yield Setting(tuple((stream | {"flash_attn": "on", "embeddings": True}).items()))
            yield Setting(tuple((stream | {"flash_attn": "on", "offload_kqv": False}).items()))


# Metadata that engines branch on: what to try beside what `metadata` gives. None: absent.
SWITCHES: dict[str, tuple[Any, ...]] = {
    "expert_gating_func": (None, 0, 1, 2, 3, 4),
    "expert_weights_norm": (None, False, True),
    "expert_weights_scale": (None, 0.0, 1.0, 2.5),
    "expert_shared_count": (None, 0),
    "logit_scale": (None, 0.0, 0.5),
    "residual_scale": (None, 0.0, 0.5),
    "embedding_scale": (None, 0.0, 12.0),
    "attention.scale": (None, 0.0, 0.1),
    "attention.clamp_kqv": (None, 0.0, 8.0),
    "attention.max_alibi_bias": (None, 0.0, 8.0),
    "attn_logit_softcapping": (None, 0.0, 50.0),
    "final_logit_softcapping": (None, 0.0, 30.0),
    "use_parallel_residual": (None, False, True),
    "attention.output_scale": (None, 0.0, 0.5),
    "attention.temperature_length": (None, 0, 8192),
    "attention.temperature_scale": (None, 0.0, 0.1),
    "attention.causal": (None, False, True),
    "rope.scaling.type": (None, "none", "linear", "yarn", "longrope"),
    "ssm.dt_b_c_rms": (None, False, True),
    "kda.safe_gate": (None, False, True),
    "swiglu_clamp_exp": (None, 0.0, 7.0),
    "swiglu_clamp_shexp": (None, 0.0, 7.0),
    "attention.indexer.kpool": (0, 4),
    "attention.indexer.kpool_select_tail": (None, False, True),
    "hash_layer_count": (None, 0, 2),
    "attn_res.block_size": (64,),
    "n_deepstack_layers": (None, 0, 2, 3),
    "expert_group_count": (None, 0, 1, 4),
    "rope.dimension_sections": (None, [0, 0, 0, 0], [8, 8, 16, 0]),
    "attention.sliding_window": (None, 0),
    "rescale_every_n_layers": (None, 0, 2),
    "swin_norm": (None, False, True),
}

# Counts that the engine takes for a certain model, which it then builds in another way than those that are traced.
BRANCHES: dict[str, tuple[str, ...]] = {
    "baichuan": ("n_layer=32",),  # models/baichuan.cpp:58: of 7B, which has RoPE
    "deepseek2": tuple(  # models/deepseek2.cpp:26: without a gate they are GLM 4.7 Flash
        f"n_layer={n}&n_vocab=154880&.expert_gating_func={x}" for n in (47, 48) for x in ("", "0")
    ),
    "llama4": ("n_expert=128",),  # models/llama4.cpp:41: keys and queries are not normed
    "smallthinker": ("n_layer=4",),  # models/smallthinker.cpp:106: every layer has RoPE
}

# Architectures that build attention for each stream of the cache and look at how its tensors lie, which no line
# expresses: models with a single K/V head and contexts with several streams are outside.
UNROLLED = frozenset(("minimax-m3",))

# What is held fixed for an architecture: other values make models that the engine builds no sound graph for.
FIXED: dict[str, dict[str, Any]] = {}
