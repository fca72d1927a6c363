"""Give each layer the caches and recurrent states that the engine creates for it, and their widths.

Source: `llama_model::create_memory` (llama-model.cpp:2352-2885) and the constructors in
llama-kv-cache*.cpp, llama-memory-*.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..model import Cache, Cells, Layer
from .geometry import Geometry
from .metadata import U32_MAX, Metadata
from .table import Architecture, Indexer, Memory, Recurrent, State

__all__ = ["indexer_heads", "layers"]

CSA, HCA = 4, 128  # tokens a compressed key stands for (llama-kv-cache-dsv4.h)
INDEXER_TYPES: Final = "attention.indexer.types"


def layers(arch: Architecture, meta: Metadata, g: Geometry) -> tuple[Layer, ...]:
    """List the layers of the model, each with the caches and states that the engine keeps for it between batches."""
    caches = _caches(arch, meta, g)
    states = _states(arch, meta, g)
    found = tuple(_layer(arch, g, il, caches[il], states[il]) for il in range(g.n_layer))
    if arch.stacks:
        blocks = _blocks_of_stacks(meta, g.n_layer)
        found = tuple(replace(x, block=block) for x, block in zip(found, blocks, strict=True))
    if arch.loops:  # later rounds run the blocks of the first one (nanbeige.cpp:66-73)
        size = g.n_layer // meta.number(arch.loops, 1)
        found = tuple(x if x.index < size else replace(x, block=x.index % size) for x in found)
    for layer in found:
        _check(meta, g, layer)
    return found


def _layer(
    arch: Architecture, g: Geometry, il: int, caches: tuple[Cache, ...], states: tuple[int, ...]
) -> Layer:
    shares = None
    if g.n_with_kv is not None and il >= g.n_with_kv and arch.memory is Memory.ATTENTION:
        shares = g.n_with_kv - (2 if g.is_swa[il] else 1)
    return Layer(
        index=il,
        caches=caches,
        states=states,
        n_head=g.n_head[il],
        n_head_kv=g.n_head_kv[il],
        head_k=g.head_k[il],
        head_v=g.head_v[il],
        n_ff=g.n_ff[il],
        n_expert_used=g.n_expert_used[il],
        is_swa=g.is_swa[il],
        is_recurrent=g.is_recurrent[il],
        is_nextn=il >= g.n_trunk,
        shares_kv_with=shares,
    )


def _blocks_of_stacks(meta: Metadata, n_layer: int) -> list[int]:
    """Number the blocks of layers that are run in turns: a low stack for some passes, then a high one (hrm-text.cpp:49-63)."""
    size, passes, turns = (meta.require(f"hrm.{key}") for key in ("layers_per_stack", "l_cycles", "h_cycles"))
    if not size or not passes or size * (passes + 1) * turns != n_layer:
        meta.fail("block_count", f"= {n_layer} is not {turns} turns of {passes} + 1 stacks of {size} layers")
    stacks = (il // size for il in range(n_layer))
    return [il % size + (size if n % (passes + 1) == passes else 0) for il, n in enumerate(stacks)]


def _check(meta: Metadata, g: Geometry, layer: Layer) -> None:
    for cache in layer.caches:
        if cache.kind == "kv" and layer.n_head_kv and not layer.head_k:
            meta.fail("attention.head_count", f"gives the keys of layer {layer.index} no width")
        if max(cache.k_width, cache.v_width) > U32_MAX:
            meta.fail(
                "attention.key_length", f"makes rows of {cache.k_width} elements, more than the engine counts"
            )
    if max(layer.states, default=0) > U32_MAX:
        meta.fail(
            "embedding_length", f"makes a state of {max(layer.states)} elements, more than the engine counts"
        )
    other = layer.shares_kv_with
    if other is not None and g.is_swa[other] != layer.is_swa:
        meta.fail(
            "attention.sliding_window_pattern",
            f"lets layer {layer.index} share the cache of layer {other}, which is of the other kind",
        )


def _caches(arch: Architecture, meta: Metadata, g: Geometry) -> list[tuple[Cache, ...]]:
    if arch.memory in (Memory.NONE, Memory.BORROWED):
        return [()] * g.n_layer
    if arch.memory is Memory.COMPRESSED:
        return _compressed(meta, g)
    attends = [_attends(arch, g, il) for il in range(g.n_layer)]
    main: list[tuple[Cache, ...]] = [(_main_cache(g, il),) if attends[il] else () for il in range(g.n_layer)]
    if arch.indexer is Indexer.NEVER:
        return main
    indexed = _indexed(arch, meta, g)
    sparse = [attends[il] and indexed[il] for il in range(g.n_layer)]
    return [
        (*main[il], _index_cache(arch, meta, g, il)) if sparse[il] else main[il] for il in range(g.n_layer)
    ]


def _attends(arch: Architecture, g: Geometry, il: int) -> bool:
    """Tell whether layer `il` has a K/V cache in the main context."""
    if g.n_with_kv is not None and il >= g.n_with_kv:
        return False
    # a model of nothing but next-token-prediction blocks keeps them all (llama-model.cpp:2799)
    if il >= g.n_trunk > 0 and not arch.nextn_cached:
        return False
    if arch.recurrent is Recurrent.IDLE and g.n_ff[il]:
        return False
    return arch.recurrent is Recurrent.BOTH or not g.is_recurrent[il]


def _main_cache(g: Geometry, il: int) -> Cache:
    heads = g.n_head_kv[il]
    return Cache(
        kind="kv",
        k_width=g.head_k[il] * heads,
        v_width=0 if g.is_mla else g.head_v[il] * heads,
        cells=Cells.WINDOW if g.is_swa[il] else Cells.FULL,
        window=g.window if g.is_swa[il] else 0,
        has_v=not g.is_mla,
    )


def indexer_heads(meta: Metadata) -> int:
    """Count the heads of the indexers; 0 where the header has none, or the engine would not read them."""
    found = meta.raw("attention.indexer.head_count")
    return found if isinstance(found, int) else 0


def _indexed(arch: Architecture, meta: Metadata, g: Geometry) -> tuple[bool, ...]:
    """Tell for each layer whether it owns an indexer."""
    if arch.indexer is Indexer.TRUNK:
        return tuple(il < g.n_trunk for il in range(g.n_layer))
    if arch.indexer is Indexer.SPARSE:
        n_dense = meta.number("leading_dense_block_count", 0)
        return tuple(il >= n_dense for il in range(g.n_layer))
    return tuple(il < g.n_trunk and kind != 0 for il, kind in enumerate(_indexer_types(arch, meta, g)))


def _indexer_types(arch: Architecture, meta: Metadata, g: Geometry) -> tuple[int, ...]:
    if arch.indexer_default is None:  # required, and of any length (models/dots3note.cpp)
        given = meta.array(INDEXER_TYPES)
        if given is None:
            meta.fail(INDEXER_TYPES, "is missing or no array")
        return (*given, *(0,) * g.n_layer)[: g.n_layer]
    kinds = arch.indexer_default
    if len(kinds) > 1 and meta.require("context_length") < 1 << 20:
        kinds = (1,)  # before GLM 5.2 every layer had an indexer (models/glm-dsa.cpp:57-65)
    default = (*kinds, *kinds[-1:] * g.n_layer)[: g.n_layer]
    trunk = meta.per_layer(INDEXER_TYPES, g.n_trunk, default)
    return (*trunk, *(0,) * g.n_layer)[: g.n_layer]


def _index_cache(arch: Architecture, meta: Metadata, g: Geometry, il: int) -> Cache:
    """Make the indexer's cache, of one key head (llama-kv-cache-dsa.cpp:36-52, -msa.cpp:40-52, hybrid-idx.cpp:52-75)."""
    width = meta.require("attention.indexer.key_length")
    if arch.pooled_indexer and meta.number("attention.indexer.kpool", 0):
        width *= 3  # key, gate and pooled key
    has_v = arch.indexer is Indexer.SPARSE
    return Cache(
        kind="indexer",
        k_width=g.head_k[il] if g.is_swa[il] else width,
        v_width=g.head_v[il] if has_v else 0,
        has_v=has_v,
    )


def _compressed(meta: Metadata, g: Geometry) -> list[tuple[Cache, ...]]:
    """Make the caches of compressed attention: a window of raw keys, and compressed keys where the ratio says so (llama-kv-cache-dsv4.cpp:1210-1331)."""
    ratios, index = _ratios(meta, g), meta.require("attention.indexer.key_length")
    found = []
    for il, ratio in enumerate(ratios):
        width = g.head_k[il] * g.n_head_kv[il]
        caches = [Cache("kv", width, 0, Cells.WINDOW, g.window, always_split=True, has_v=False)]
        if ratio in (CSA, HCA):
            kind = "csa" if ratio == CSA else "hca"
            caches.append(Cache(kind, width, 0, Cells.COMPRESSED, 0, ratio, always_split=True, has_v=False))
        if ratio == CSA:
            caches.append(
                Cache("indexer", index, 0, Cells.COMPRESSED, 0, ratio, always_split=True, has_v=False)
            )
        found.append(tuple(caches))
    return found


def _ratios(meta: Metadata, g: Geometry) -> tuple[int, ...]:
    key = "attention.compress_ratios"
    ratios = meta.array(key)
    if ratios is None or len(ratios) < g.n_layer:
        meta.fail(key, f"is missing or has fewer elements than the {g.n_layer} layers")
    return ratios[: g.n_layer]


def _states(arch: Architecture, meta: Metadata, g: Geometry) -> list[tuple[int, ...]]:
    if arch.memory is Memory.COMPRESSED:
        return _compressor_states(meta, g)
    if arch.state is None:
        return [()] * g.n_layer
    state = _state(arch.state, meta, g)
    extra = _ple_state(meta, g) if arch.lazy_embeddings else {}
    whole = arch.recurrent in (Recurrent.ALL, Recurrent.BOTH)
    return [
        (*state, *extra.get(il, ())) if g.is_recurrent[il] and (whole or il < g.n_trunk) else ()
        for il in range(g.n_layer)
    ]


def _state(kind: State, meta: Metadata, g: Geometry) -> tuple[int, int]:
    """Count the elements of the rolling and of the recurrent state (llama-hparams.cpp:208-262)."""
    if kind is State.WKV:
        size = meta.require("wkv.head_size")
        return meta.number("token_shift_count", 2) * g.n_embd, size * g.n_embd
    if kind is State.SHORT_CONVOLUTION:
        return g.n_embd * max(meta.require("shortconv.l_cache") - 1, 0), 0
    if kind is State.LIGHTNING:
        return 0, g.head_k[0] ** 2 * g.n_head[0]
    kernel = meta.require("ssm.conv_kernel")
    if kind is State.KDA:
        head = meta.require("kda.head_dim")
        return 3 * (kernel - 1 if kernel else 3) * g.n_head[0] * head, head * head * g.n_head[0]
    inner, state = meta.require("ssm.inner_size"), meta.require("ssm.state_size")
    groups = meta.require("ssm.group_count") if kind is State.SSM else 0
    return max(kernel - 1, 0) * (inner + 2 * groups * state), state * inner


def _ple_state(meta: Metadata, g: Geometry) -> dict[int, tuple[int]]:
    """Count the elements of the n-gram embeddings' history, on the one layer that has it (llama-hparams.cpp:264-271)."""
    found = meta.array("ple.layers") or ()
    if not found:
        return {}
    rows = (meta.require("ple.conv_kernel") - 1) * meta.require("ple.ngram_size")
    return {il: (max(rows, 0) * meta.require("hyper_connection.count") * g.n_embd,) for il in found}


def _compressor_states(meta: Metadata, g: Geometry) -> list[tuple[int, ...]]:
    """Count the elements of keys and scores not yet compressed: (csa, csa, indexer, indexer) or (hca, hca), of trunk layers only."""
    index, head = meta.require("attention.indexer.key_length"), g.head_k[0]
    sizes = {CSA: (2 * CSA * 2 * head,) * 2 + (2 * CSA * 2 * index,) * 2, HCA: (HCA * head,) * 2}
    return [sizes.get(ratio, ()) if il < g.n_trunk else () for il, ratio in enumerate(_ratios(meta, g))]
