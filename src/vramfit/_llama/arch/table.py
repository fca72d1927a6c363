"""List every architecture that the engine knows, as rules: the one place that holds their names.

Most are plain: a K and a V row for every token in every layer, an output matrix that falls back on
the token embedding. An entry says only where an architecture differs. To add one, add its name to
the group that fits, or an entry of its own.
Source: `LLM_ARCH_NAMES` (llama-arch.cpp:6-158), `create_memory` (llama-model.cpp:2352-2885), and
`load_arch_hparams` and `load_arch_tensors` of each src/models/*.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

__all__ = [
    "NOT_MODELS",
    "ROLLBACK",
    "TABLE",
    "Architecture",
    "Feed",
    "Indexer",
    "Memory",
    "Mla",
    "Output",
    "Pattern",
    "Recurrent",
    "Rope",
    "State",
    "Window",
]


class Memory(Enum):
    """What the engine keeps between batches."""

    NONE = "none"  # encoders and diffusion models
    ATTENTION = "attention"  # caches, recurrent states, or both
    COMPRESSED = "compressed"  # a window, and compressed keys behind it (DeepSeek-V4)
    BORROWED = "borrowed"  # the caches of another model's context


class Feed(Enum):
    """How wide the dense feed-forward weights are, by feed_forward_length."""

    FULL = "full"  # as it says
    HALF = "half"  # it counts two matrices together
    OTHER = "other"  # of another width


class Pattern(Enum):
    """Which layers see a window only, where no period says so."""

    ARRAY = "array"  # attention.sliding_window_pattern, which must be there
    ATTENTION = "attention"  # every layer that is not recurrent
    EVERY = "every"


# Whose recurrent states can be gone back to (llama-arch.cpp:1123).
ROLLBACK: Final = frozenset(
    [
        "kimi-k3",
        "qwen35",
        "qwen35moe",
        "qwen4exp",
        "deepseek4",
        "glm5-next",
        "nemotron_h",
        "nemotron_h_moe",
        "lfm2",
        "lfm2moe",
        "bailingmoe3",
    ]
)


class Window(NamedTuple):
    """Sliding-window attention: which layers, and how wide.

    A `period` of n makes every nth layer dense: the last of each n, or with `dense_first` the
    first. A pattern in the header wins over a period. `only_layers`: a window for models of exactly
    that many layers.
    """

    layers: int | Pattern
    dense_first: bool = False
    default: int | None = None  # window when the header has none; None: it must have one
    can_be_off: bool = False  # a window of 0 turns it off
    fixed: int | None = None  # window that the engine takes, whatever the header says
    only_layers: int | None = None


_OPTIONAL: Final[Mapping[str, Any]] = {"default": 0, "can_be_off": True}


class Recurrent(Enum):
    """Which layers keep a recurrent state."""

    NEVER = "never"
    ALL = "all"  # and no cache
    BOTH = "both"  # every layer has a cache and a state
    HEADLESS = "headless"  # layers without KV heads
    IDLE = "idle"  # layers without KV heads and feed-forward; attention has no feed-forward either
    INTERVAL = "interval"  # all but every nth


class State(Enum):
    """What a recurrent state holds (llama-hparams.cpp:208-262)."""

    SSM = "ssm"  # mamba, gated delta nets: convolution and state space
    SSM_UNGROUPED = "ssm without groups"
    WKV = "wkv"  # token shift and time mix
    SHORT_CONVOLUTION = "shortconv"
    KDA = "kda"  # Kimi delta attention
    LIGHTNING = "lightning"


class Indexer(Enum):
    """Which layers keep keys for a sparse-attention indexer."""

    NEVER = "never"
    TRUNK = "trunk"  # every layer that has a cache
    TYPED = "typed"  # those that attention.indexer.types marks
    SPARSE = "sparse"  # all but the leading dense ones, and with a V row


class Mla(Enum):
    """Latent attention: one K row for all heads, and no V."""

    NEVER = "never"
    OPTIONAL = "optional"  # when the header has the decompressed head sizes
    REQUIRED = "required"


class Output(Enum):
    """Where the output matrix comes from when the file has no `output.weight`, and if it may have one."""

    TIED = "tied"  # the token embedding, created again
    TIED_FIRST = "tied first"  # the same, created before the input: never shared with it
    ALWAYS_TIED = "always tied"  # a file with its own is refused
    OWN = "own"  # it must be there
    OPTIONAL = "optional"  # another model's
    EMBEDS = "embeds"  # it must be there, and stands in for a missing token embedding
    NONE = "none"  # no output matrix; the graph may use the token embedding where it is


class Rope(Enum):
    """Which layers create the shared RoPE factor tensors for themselves."""

    NONE = "none"
    TRUNK = "trunk"
    ALL = "all"  # next-token-prediction blocks too
    DENSE = "dense"  # layers without a window


class Architecture(NamedTuple):
    """How one architecture differs from the plain case."""

    memory: Memory = Memory.ATTENTION
    width: str = "embedding_length"  # key of n_embd
    window: Window | None = None
    recurrent: Recurrent = Recurrent.NEVER
    interval: int = 0  # default of full_attention_interval
    state: State | None = None
    indexer: Indexer = Indexer.NEVER
    # attention.indexer.types when the header has none, the last repeated; None: it must have them
    indexer_default: tuple[int, ...] | None = (1,)
    pooled_indexer: bool = False  # the indexer also keeps gates and pooled keys
    mla: Mla = Mla.NEVER
    output: Output = Output.TIED
    rope: Rope = Rope.NONE
    has_nextn: bool = False  # knows next-token-prediction blocks
    nextn_loaded: str = ""  # pattern of the tensors of such a block that are created all the same
    nextn_cached: bool = False  # such blocks have a cache in the main context
    kv_layers: int | None = None  # only the first so many have a cache, the rest share
    shared_kv: bool = False  # attention.shared_kv_layers of the last layers share
    latent_v: bool = False  # head_v is kv_lora_rank
    reread_heads: bool = False  # head sizes are read even when layer 0 has no heads
    key_lengths_swa: bool = False  # head sizes of windowed layers must be there
    loops: str = ""  # key that multiplies the layers without weights of their own
    stacks: bool = False  # two stacks of layers, run in turns
    router: bool = False  # one more layer, of a single head, without weights
    norm_is_output: bool = False  # token_embd_norm is the output norm
    lazy_embeddings: bool = False  # per_layer_token_embd is read on demand when it is large
    is_causal: bool = True
    is_encoder: bool = False
    is_draft: bool = False  # embeddings may be another model's
    flash_attn: bool = True
    lone_expert_is_dense: bool = False  # expert_count = 1 counts as none
    headless: bool = False  # a layer without KV heads has no attention
    rotates_all: bool = False  # rope.dimension_count must be the size of a key head
    gated_query: bool = False  # the query's weights hold a gate of the same size
    feed: Feed = Feed.FULL
    variant: tuple[str, Mapping[str, Any]] | None = None  # changes when a key is above zero

    @property
    def scans(self) -> bool:
        """Whether its states are carried by a state-space scan, as in Mamba, and not by a delta net."""
        return self.state in (State.SSM, State.SSM_UNGROUPED) and self.recurrent is not Recurrent.INTERVAL


def _same(names: str, **rules: Any) -> dict[str, Architecture]:
    return dict.fromkeys(names.split(), Architecture(**rules))


_GLM_5_2_INDEXER: Final = (1, 1, *((1, 0, 0, 0) * 19), 0)  # models/glm-dsa.cpp:6-28
_ROPED: Final[Mapping[str, Any]] = {"rope": Rope.TRUNK}
_OWN: Final[Mapping[str, Any]] = {"output": Output.OWN}
_NEXTN: Final[Mapping[str, Any]] = {"has_nextn": True}
_MLA: Final[Mapping[str, Any]] = {"mla": Mla.REQUIRED}
_ENCODER: Final[Mapping[str, Any]] = {"memory": Memory.NONE, "output": Output.NONE}
_DIFFUSION: Final[Mapping[str, Any]] = {"memory": Memory.NONE, "is_causal": False}
_ARRAY: Final = Window(Pattern.ARRAY)
_GDN: Final[Mapping[str, Any]] = {
    "recurrent": Recurrent.INTERVAL,
    "interval": 4,
    "state": State.SSM,
    "gated_query": True,
}
_HYBRID: Final[Mapping[str, Any]] = {"recurrent": Recurrent.HEADLESS, "nextn_cached": True}
_SHARED_HEAD: Final = r"nextn\.(embed_tokens|shared_head_head|shared_head_norm)"

TABLE: Final[Mapping[str, Architecture]] = {
    # a K and a V row for every token in every layer
    **_same(
        "gpt2 mpt starcoder starcoder2 bloom qwen2 qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe qwen3tts"
        " olmo deepseek deepseek2-ocr chatglm jais2 ernie4_5 ernie4_5-moe paddleocr hunyuan-moe"
        " smollm3 seed_oss grovemoe maincoder chameleon"
    ),
    **_same("falcon", rotates_all=True),
    **_same("arctic", feed=Feed.OTHER),
    **_same("hrm_text", stacks=True),
    **_same("llama llama-embed", **_ROPED, rotates_all=True),
    **_same("deci", **_ROPED, rotates_all=True, headless=True),
    **_same(
        "arcee cogvlm exaone refact granite granitemoe minicpm minicpm3 phi3 pangu-embedded mistral3",
        **_ROPED,
    ),
    **_same(
        "baichuan bailingmoe dbrx dots1 gptneox internlm2 jais minimax-m2 nemotron olmoe orion phi2 plamo"
        " qwen2moe stablelm talkie xverse",
        **_OWN,
    ),
    **_same("qwen", **_OWN, feed=Feed.HALF),
    **_same("apertus phimoe", **_OWN, **_ROPED),
    **_same("command-r gemma openelm pockettts plm", output=Output.ALWAYS_TIED),
    **_same("hunyuan-dense hunyuan_vl", lone_expert_is_dense=True),
    **_same("glm4 glm4moe", **_NEXTN),
    **_same("bailingmoe2", **_OWN, **_NEXTN),
    **_same("hy_v3", **_NEXTN, nextn_loaded=rf"ffn_(?!norm)|exp_probs_b|{_SHARED_HEAD}"),
    **_same("codeshell", output=Output.EMBEDS),
    **_same("bitnet", output=Output.NONE),
    **_same("grok", flash_attn=False),
    **_same("nanbeige", **_ROPED, loops="num_loops"),
    **_same("graniteswitch", router=True),
    **_same("t5 t5encoder", is_encoder=True),
    # drafts of another model
    **_same("eagle3", **_ROPED, output=Output.OPTIONAL, is_encoder=True, is_draft=True),
    **_same(
        "dflash",
        **_ROPED,
        is_encoder=True,
        is_draft=True,
        window=Window(Pattern.ARRAY, **_OPTIONAL),
        variant=("hyper_connection.count", {"window": Window(Pattern.EVERY), "rope": Rope.NONE}),
    ),
    **_same(
        "gemma4-assistant", memory=Memory.BORROWED, output=Output.ALWAYS_TIED, window=_ARRAY, rope=Rope.DENSE
    ),
    # no memory at all
    **_same("bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert", **_ENCODER),
    **_same("modern-bert", **_ENCODER, window=Window(3, dense_first=True, **_OPTIONAL)),
    **_same("gemma-embedding", **_DIFFUSION, window=Window(6)),
    **_same("wavtokenizer-dec", memory=Memory.NONE, width="features_length", **_OWN),
    **_same("dream rnd1", **_DIFFUSION),
    **_same("llada", **_DIFFUSION, **_ROPED),
    **_same("llada-moe", **_DIFFUSION, **_OWN),
    # interleaved sliding windows
    **_same("gemma2", window=Window(2, default=4096), output=Output.ALWAYS_TIED),
    **_same("gemma3", window=Window(6, **_OPTIONAL)),
    **_same("gemma3n", window=Window(5), output=Output.TIED_FIRST, kv_layers=20),
    **_same(
        "gemma4",
        window=_ARRAY,
        output=Output.TIED_FIRST,
        rope=Rope.DENSE,
        shared_kv=True,
        key_lengths_swa=True,
        lazy_embeddings=True,
    ),
    **_same("cohere2", window=Window(4), output=Output.ALWAYS_TIED),
    **_same("cohere2moe", window=Window(4, dense_first=True), **_NEXTN, nextn_loaded=_SHARED_HEAD),
    **_same("afmoe", window=Window(4, **_OPTIONAL)),
    **_same("olmo2 mellum", window=Window(4, **_OPTIONAL), **_OWN),
    **_same("plamo3", window=Window(8, **_OPTIONAL)),
    **_same("laguna", window=Window(4, dense_first=True, **_OPTIONAL)),
    **_same("smallthinker", window=Window(4, dense_first=True, fixed=4096, **_OPTIONAL)),
    **_same("llama4", window=Window(4, default=8192, can_be_off=True, fixed=8192), **_ROPED),
    **_same("gpt-oss", window=Window(2), **_OWN),
    **_same("muse-glimmer", window=Window(4), **_OWN),
    **_same("exaone4", window=Window(4, default=4096, only_layers=64), **_ROPED, **_NEXTN),
    **_same("exaone-moe", window=Window(4), **_OWN, **_ROPED, **_NEXTN),
    **_same("granite_swa", window=_ARRAY, **_ROPED),
    **_same("spark2_5", window=_ARRAY),
    **_same("maple", window=_ARRAY, **_OWN),
    **_same("mimo2", window=_ARRAY, **_OWN, **_NEXTN),
    **_same(
        "step35",
        window=_ARRAY,
        **_OWN,
        **_NEXTN,
        rope=Rope.ALL,
        nextn_loaded=rf"attn_(q_norm|k_norm|gate)|ffn_(?!norm)|exp_probs_b|{_SHARED_HEAD}",
    ),
    # latent attention, sparse attention
    **_same("deepseek2 mistral4", mla=Mla.OPTIONAL, **_NEXTN),
    **_same("deepseek32", **_MLA, **_NEXTN, indexer=Indexer.TRUNK, nextn_loaded="exp_probs_b"),
    **_same(
        "glm-dsa",
        **_MLA,
        **_NEXTN,
        indexer=Indexer.TYPED,
        indexer_default=_GLM_5_2_INDEXER,
        nextn_loaded="exp_probs_b",
    ),
    **_same(
        "hy_v4",
        **_MLA,
        **_OWN,
        nextn_cached=True,
        variant=("attention.indexer.top_k", {"indexer": Indexer.TYPED, "indexer_default": (0,)}),
    ),
    **_same("dots3note", **_MLA, **_NEXTN, window=_ARRAY, indexer=Indexer.TYPED, indexer_default=None),
    **_same("minimax-m3", **_OWN, nextn_cached=True, indexer=Indexer.SPARSE),
    **_same("deepseek4", memory=Memory.COMPRESSED, **_OWN, **_NEXTN, window=Window(Pattern.EVERY)),
    # recurrent
    **_same("mamba", recurrent=Recurrent.ALL, state=State.SSM_UNGROUPED),
    **_same("mamba2", recurrent=Recurrent.ALL, state=State.SSM),
    **_same("rwkv6 rwkv6qwen2 rwkv7 arwkv7", recurrent=Recurrent.ALL, state=State.WKV, **_OWN),
    # attention in some layers, a recurrent state in others
    **_same("jamba", **_HYBRID, state=State.SSM_UNGROUPED),
    **_same("plamo2", **_HYBRID, state=State.SSM, reread_heads=True),
    **_same("granitehybrid", **_HYBRID, **_ROPED, state=State.SSM),
    **_same("falcon-h1", **_ROPED, recurrent=Recurrent.BOTH, nextn_cached=True, state=State.SSM),
    **_same(
        "nemotron_h nemotron_h_moe", recurrent=Recurrent.IDLE, nextn_cached=True, state=State.SSM, **_NEXTN
    ),
    **_same(
        "lfm2",
        **_HYBRID,
        state=State.SHORT_CONVOLUTION,
        norm_is_output=True,
        window=Window(Pattern.ATTENTION, **_OPTIONAL),
    ),
    **_same("lfm2moe", **_HYBRID, state=State.SHORT_CONVOLUTION, norm_is_output=True),
    **_same("qwen3next qwen35 qwen35moe", **_GDN, **_NEXTN),
    **_same("qwen4exp", **_GDN, indexer=Indexer.TRUNK, lazy_embeddings=True),
    **_same("minimax-01", recurrent=Recurrent.INTERVAL, interval=8, state=State.LIGHTNING),
    **_same("kimi-linear", **_HYBRID, **_MLA, **_OWN, state=State.KDA),
    **_same("kimi-k3", **_HYBRID, **_MLA, **_OWN, state=State.KDA, latent_v=True),
    **_same("bailingmoe3", **_HYBRID, **_MLA, **_NEXTN, state=State.KDA),
    **_same(
        "glm5-next",
        **_MLA,
        **_OWN,
        **_NEXTN,
        recurrent=Recurrent.HEADLESS,
        state=State.KDA,
        indexer=Indexer.TYPED,
        pooled_indexer=True,
        latent_v=True,
    ),
}

# names that the engine knows and cannot load as a text model
NOT_MODELS: Final[Mapping[str, str]] = {
    "clip": "an image or audio projector, not a text model; give the text model it belongs to",
    "gptj": "known to the engine by name only; it cannot load such a model",
}
