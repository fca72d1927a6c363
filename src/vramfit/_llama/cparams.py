"""Resolve settings for one model as the engine does: pad, clamp, and refuse what it refuses.

In: `Model` and `Settings`. Out: a `Context`, or `EngineRefusal` with the engine's own reason. Counts may
as well be int64 arrays of one shape: the arithmetic is the same, point by point. Whoever must know a
resolved count before there is a context asks the functions here; nobody else interprets `Settings`.
Source: the constructor of `llama_context` (llama-context.cpp:225-311) and
`llama_init_from_model` (llama-context.cpp:3798-3880).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .._base.errors import EngineRefusal
from .._ggml.backends import pad
from .._ggml.types import TensorType, tensor_type
from .eras import Era, era_of
from .model import Cache, Cells, Model
from .params import POOLINGS, FlashAttn, Settings
from .speculation import snapshots

__all__ = [
    "CONTEXT_STEP",
    "Context",
    "cache_streams",
    "cells",
    "context_step",
    "least",
    "more_inputs",
    "needs_flash_attn",
    "physical_batch",
    "prompt_tokens",
    "resolve",
    "resolve_counts",
    "shares_cache",
    "streams",
    "trained_ctx",
    "wanted_ctx",
]

CONTEXT_STEP: Final = 256  # llama-context.cpp:288: n_ctx is padded to a multiple of this


class Context(NamedTuple):
    """The engine's context parameters (cparams) after it has resolved them.

    Flash attention is on or off here, but under `auto_fa` that is settled only when the graph is scheduled:
    what was found then is in the `Run` of a reservation and in the results, never in a context. Caches keep
    the layout that they were made with before.
    """

    n_ctx: int  # cells of all streams together
    n_ctx_seq: int  # cells of one stream: the longest a sequence can get
    n_stream: int  # 1 when unified, else one a slot
    n_seq_max: int
    n_batch: int
    n_ubatch: int
    n_outputs_max: int
    flash_attn: bool
    auto_fa: bool  # on only where every layer's attention runs on the device of that layer
    type_k: TensorType
    type_v: TensorType
    kv_unified: bool
    swa_full: bool
    op_offload: bool
    embeddings: bool
    era: Era  # of the engine's build
    n_rs_seq: int = 0  # recurrent states that each sequence keeps beside its own, to go back to
    taps: tuple[int, ...] = ()  # layers whose inputs are kept for a draft (embeddings_layer_inp)
    pooling: int | None = None  # of embeddings, by its number in the engine; None: as the header says

    @property
    def v_trans(self) -> bool:
        """Whether V is stored transposed; every layer then gets the widest V row."""
        return not self.flash_attn


def resolve(model: Model, settings: Settings) -> Context:
    """Resolve `settings` to the context that the engine creates. Raises `EngineRefusal` where it creates none."""
    wanted = wanted_ctx(model, settings)
    if not wanted:
        raise EngineRefusal("n_ctx and the trained context length cannot both be zero; set n_ctx")
    return resolve_counts(model, settings, wanted)


def resolve_counts(
    model: Model, settings: Settings, n_ctx: int, n_seq_max: int | None = None, n_ubatch: int | None = None
) -> Context:
    """Resolve `settings` with other counts (above 0) in place of its own; ints or int64 arrays."""
    n_seq_max = settings.n_seq_max if n_seq_max is None else n_seq_max
    n_ubatch = physical_batch(settings) if n_ubatch is None else n_ubatch
    type_k, type_v = tensor_type(settings.type_k), tensor_type(settings.type_v)
    flash_attn = _flash_attn(model, settings, type_k, type_v)
    if model.lent_types:
        type_k, type_v = map(tensor_type, model.lent_types)
    wanted, n_ctx = n_ctx, pad(n_ctx, CONTEXT_STEP)
    era, unified = era_of(settings.engine_build), shares_cache(settings)
    n_stream = streams(settings, n_seq_max)
    n_ctx_seq = n_ctx if unified else pad(n_ctx // n_stream, CONTEXT_STEP)
    n_batch = least(wanted, settings.n_batch) if model.is_causal else settings.n_batch
    n_ubatch = least(n_batch, n_ubatch)
    all_outputs = settings.n_outputs_max == 0 or model.is_encoder or era.all_logits  # llama-context.cpp:249
    return Context(
        n_ctx=n_ctx if unified else n_ctx_seq * n_stream,
        n_ctx_seq=n_ctx_seq,
        n_stream=n_stream,
        n_seq_max=n_seq_max,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_outputs_max=n_batch if all_outputs else settings.n_outputs_max,
        flash_attn=flash_attn != "off",
        auto_fa=flash_attn == "auto",
        type_k=type_k,
        type_v=type_v,
        kv_unified=unified,
        swa_full=settings.swa_full or era.full_windows,
        op_offload=settings.op_offload,
        embeddings=settings.embeddings,
        era=era,
        n_rs_seq=snapshots(settings) if model.rollback else 0,
        pooling=POOLINGS.index(settings.pooling) if settings.pooling else None,
    )


def wanted_ctx(model: Model, settings: Settings) -> int:
    """Return the context asked for, unpadded, in tokens of all slots; 0 where neither settings nor header name one."""
    return settings.n_ctx or model.n_ctx_train


def physical_batch(settings: Settings) -> int:
    """Return the most tokens computed at once (n_ubatch): 0 stands for n_batch, which is also its limit."""
    return min(settings.n_batch, settings.n_ubatch or settings.n_batch)


def shares_cache(settings: Settings) -> bool:
    """Whether all slots share one cache: where that is asked for, or the build knows nothing else."""
    if settings.kv_unified:
        return True
    return era_of(settings.engine_build).one_cache


def streams(settings: Settings, n_seq_max: int | None = None) -> int:
    """Count the slots that the context is divided among: all, or one where they share a cache.

    `n_seq_max` takes the place of that in `settings`: an int or an int64 array.
    """
    if shares_cache(settings):
        return 1
    return settings.n_seq_max if n_seq_max is None else n_seq_max


def context_step(settings: Settings) -> int:
    """Return the step between contexts that the engine tells apart, in tokens of all slots."""
    return CONTEXT_STEP * streams(settings)


def trained_ctx(model: Model, settings: Settings) -> int:
    """Return the context that gives each slot the trained one, in tokens of all slots; 0 where the header names none."""
    return model.n_ctx_train * streams(settings)


def least(a: int, b: int) -> int:
    """Return the smaller of two counts, for arrays point by point: arithmetic that both kinds of number have."""
    return b + (a - b) * (a < b)


def needs_flash_attn(type_v: TensorType) -> bool:
    """Tell whether only flash attention can read a V cache of this type (llama-context.cpp:3864-3880)."""
    return type_v.is_quantized


def _flash_attn(model: Model, settings: Settings, type_k: TensorType, type_v: TensorType) -> FlashAttn:
    flash_attn = settings.flash_attn if model.flash_attn else "off"
    if model.same_kv_type and type_k is not type_v:
        raise EngineRefusal(
            f"model does not support different K ({type_k.name}) and V ({type_v.name}) cache types;"
            " set both to the same type"
        )
    if needs_flash_attn(type_v) and flash_attn != "on":
        if flash_attn == "off":
            raise EngineRefusal(
                f"quantized V cache ({type_v.name}) requires flash_attn to be enabled;"
                " turn flash attention on or use an f16 V cache"
            )
        flash_attn = "on"
    if flash_attn != "off":
        _check_blocks(model, "K", type_k)
        _check_blocks(model, "V", type_v)
    return flash_attn


def _check_blocks(model: Model, which: str, kind: TensorType) -> None:
    """Raise `EngineRefusal` where a head of a quantized cache is not a whole number of blocks (llama-context.cpp:3842-3862)."""
    if not kind.is_quantized:
        return
    for layer in model.layers:
        head = layer.head_k if which == "K" else layer.head_v
        if not layer.is_nextn and head % kind.block:
            raise EngineRefusal(
                f"{which} cache type {kind.name} with block size {kind.block} does not divide"
                f" n_embd_head_{which.lower()}={head} of layer {layer.index}; use an f16 cache"
            )


def prompt_tokens(context: Context, *, one_sequence: bool = False) -> int:
    """Count the tokens of the prompt that buffers are reserved for: as many in each sequence, or all in one.

    Source: `llama_context::sched_reserve` (llama-context.cpp:613-760) and `graph_reserve` after it.
    """
    return pad(least(context.n_ctx, context.n_ubatch), 1 if one_sequence else context.n_seq_max)


# Whose graphs scale rows by an input of their own after the pinned build (build_inp_embd of b11549), which is not replayed
_SCALED_ROWS: Final = frozenset(("gemma-embedding", "gemma3", "gemma3n", "gemma4"))


def more_inputs(model: Model, context: Context) -> int:
    """Count the bytes that are added for a build after the pinned one where its graph is not replayed: an upper figure.

    Two rows of the embedding for each token, where there are states or factors of rows. In a mixture what the chosen experts make,
    too, which CUDA keeps alive beside a shared expert (ggml_cuda_match_shared_expert of b11549).
    """
    replayed = not model.n_expert and not any(x.is_recurrent for x in model.layers)
    if not context.era.more_inputs or (replayed and model.architecture not in _SCALED_ROWS):
        return 0
    width = model.hparams.get("expert_feed_forward_length", 0)
    used = max((x.n_expert_used for x in model.layers), default=0)
    made = used * (width if isinstance(width, int) else model.n_embd)
    return (2 * model.n_embd + made) * context.n_ubatch * 4


def cache_streams(cache: Cache, context: Context) -> int:
    """Count the streams of cells that `cache` has."""
    return context.n_seq_max if cache.always_split else context.n_stream


def cells(cache: Cache, context: Context) -> int:
    """Count the cells of one stream of `cache`.

    Source: llama-kv-cache-iswa.cpp:69-80 (window), llama-kv-cache-dsv4.cpp:1266-1292 (compressed).
    """
    size = context.n_ctx_seq
    if cache.cells is Cells.COMPRESSED:
        return pad(-(-size // cache.ratio), CONTEXT_STEP)
    if cache.cells is Cells.WINDOW and not context.swa_full:
        unified = context.kv_unified and not cache.always_split
        sequences = context.n_seq_max if unified else 1
        return pad(least(size, cache.window * sequences + context.n_ubatch), CONTEXT_STEP)
    return size
