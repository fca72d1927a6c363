"""Read the numbers of every layer from metadata: heads, head sizes, windows, recurrence.

Source: `llama_model_base::load_hparams` (llama-model.cpp:1273-1450), llama-hparams.cpp and the
`load_arch_hparams` of src/models.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from .metadata import MAX_LAYERS, Metadata
from .table import Architecture, Indexer, Memory, Mla, Pattern, Recurrent, State, Window

__all__ = ["Geometry", "read"]

MAX_EXPERTS: Final = 1024  # LLAMA_MAX_EXPERTS (llama-hparams.h:11)


class Geometry(NamedTuple):
    """What the engine's hparams say of every layer; tuples have one element a layer."""

    n_embd: int
    n_trunk: int  # layers of the main context; next-token-prediction blocks come after
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    n_ff: tuple[int, ...]
    n_expert: int
    n_expert_used: tuple[int, ...]
    head_k: tuple[int, ...]
    head_v: tuple[int, ...]
    n_weights: int  # layers that have weights of their own
    is_mla: bool = False
    window: int = 0
    is_swa: tuple[bool, ...] = ()
    is_recurrent: tuple[bool, ...] = ()
    n_with_kv: int | None = None  # only the first so many layers have a cache; None: all
    ssm: tuple[int, int, int] | None = None  # of state-space scans: elements of a state, channels, groups

    @property
    def n_layer(self) -> int:
        """All layers (n_layer_all)."""
        return len(self.n_head)


def read(arch: Architecture, meta: Metadata, tensors: Collection[str]) -> Geometry:
    """Read the geometry of a model whose file holds the `tensors` of these names; `ModelError` when it cannot be."""
    n_layer, n_trunk = _layer_counts(arch, meta, tensors)
    n_head = meta.per_layer("attention.head_count", n_layer)
    n_expert, n_expert_used = _experts(arch, meta, n_layer)
    plain = Geometry(
        n_embd=meta.require(arch.width),
        n_trunk=n_trunk,
        n_head=n_head,
        n_head_kv=meta.per_layer("attention.head_count_kv", n_layer, n_head),
        n_ff=meta.per_layer("feed_forward_length", n_layer),
        n_expert=n_expert,
        n_expert_used=n_expert_used,
        head_k=(),
        head_v=(),
        n_weights=n_layer,
        is_mla=_is_mla(arch, meta),
    )
    if plain.n_embd == 0:
        meta.fail(arch.width, "= 0 is no width")
    recurrent = plain._replace(is_recurrent=_recurrent(arch, meta, plain))
    window, is_swa = _window(arch, meta, recurrent)
    windowed = recurrent._replace(window=window, is_swa=is_swa)
    head_k, head_v = _head_sizes(arch, meta, windowed)
    whole = windowed._replace(
        head_k=head_k, head_v=head_v, n_with_kv=_with_kv(arch, meta, n_layer), ssm=_ssm(arch, meta)
    )
    return _extended(arch, meta, whole)


def _ssm(arch: Architecture, meta: Metadata) -> tuple[int, int, int] | None:
    if not arch.scans:
        return None
    state, inner = meta.require("ssm.state_size"), meta.require("ssm.inner_size")
    groups = meta.number("ssm.group_count", 0) if arch.state is State.SSM else 0  # Mamba's has none
    return state, inner, groups or 1


def _layer_counts(arch: Architecture, meta: Metadata, tensors: Collection[str]) -> tuple[int, int]:
    n_layer = meta.require("block_count")
    if not 0 < n_layer <= MAX_LAYERS:
        meta.fail("block_count", f"= {n_layer} is not between 1 and {MAX_LAYERS}")
    n_nextn = meta.number("nextn_predict_layers", 0)
    if n_nextn > n_layer:
        meta.fail("nextn_predict_layers", f"= {n_nextn} is more than block_count = {n_layer}")
    n_trunk = n_layer - n_nextn
    if arch.memory is Memory.COMPRESSED and f"blk.{n_trunk}.nextn.eh_proj.weight" not in tensors:
        n_trunk = n_layer  # models/deepseek4.cpp:17-26
    return n_layer, n_trunk


def _experts(arch: Architecture, meta: Metadata, n_layer: int) -> tuple[int, tuple[int, ...]]:
    n_expert = meta.number("expert_count", 0)
    used = meta.per_layer("expert_used_count", n_layer)
    if n_expert <= 1 and arch.lone_expert_is_dense:
        return 0, (0,) * n_layer
    if n_expert > MAX_EXPERTS:
        meta.fail("expert_count", f"= {n_expert}; the engine takes at most {MAX_EXPERTS}")
    if max(used) > n_expert:
        meta.fail("expert_used_count", f"= {max(used)} is more than expert_count = {n_expert}")
    if n_expert and not max(used):
        meta.fail("expert_used_count", f"is missing or 0, with expert_count = {n_expert}")
    _check_groups(meta, n_expert)
    return n_expert, used


def _check_groups(meta: Metadata, n_expert: int) -> None:
    """Check that experts are chosen by groups of equal size (llama-model.cpp:1343-1355)."""
    groups, used = meta.number("expert_group_count", 0), meta.number("expert_group_used_count", 0)
    if groups and groups >= n_expert:
        meta.fail("expert_group_count", f"= {groups} is not below expert_count = {n_expert}")
    if groups > 1 and n_expert % groups:
        meta.fail("expert_group_count", f"= {groups} does not divide expert_count = {n_expert}")
    if groups > 1 and not 0 < used < groups:
        meta.fail("expert_group_used_count", f"= {used} is not between 1 and expert_group_count = {groups}")


def _is_mla(arch: Architecture, meta: Metadata) -> bool:
    if arch.mla is Mla.NEVER:
        return False
    keys = ("attention.key_length_mla", "attention.value_length_mla")
    sizes = [meta.number(key, 0) for key in keys]
    for key, size in zip(keys, sizes, strict=True):
        if not size and (arch.mla is Mla.REQUIRED or any(sizes)):
            meta.fail(key, "is missing or 0")
    return all(sizes)


def _recurrent(arch: Architecture, meta: Metadata, g: Geometry) -> tuple[bool, ...]:
    layers = range(g.n_layer)
    if arch.recurrent is Recurrent.NEVER:
        return (False,) * g.n_layer
    if arch.recurrent in (Recurrent.ALL, Recurrent.BOTH):
        return (True,) * g.n_layer
    if arch.recurrent is Recurrent.INTERVAL:
        return _interval(arch, meta, g)
    idle = arch.recurrent is Recurrent.IDLE
    return tuple(il < g.n_trunk and g.n_head_kv[il] == 0 and not (idle and g.n_ff[il]) for il in layers)


def _interval(arch: Architecture, meta: Metadata, g: Geometry) -> tuple[bool, ...]:
    if meta.raw("attention.recurrent_layers") is not None:
        return tuple(map(bool, meta.per_layer("attention.recurrent_layers", g.n_layer)))
    interval = meta.number("full_attention_interval", arch.interval)
    if interval == 0:
        meta.fail("full_attention_interval", "= 0 is not an interval")
    return tuple(il < g.n_trunk and (il + 1) % interval != 0 for il in range(g.n_layer))


def _window(arch: Architecture, meta: Metadata, g: Geometry) -> tuple[int, tuple[bool, ...]]:
    """Read the window, and which layers have it (set_swa_pattern in llama-hparams.cpp:8, load_swa_pattern)."""
    none = (0, (False,) * g.n_layer)
    rule, key = arch.window, "attention.sliding_window"
    if rule is None or (rule.only_layers or g.n_trunk) != g.n_trunk:
        return none
    size = meta.require(key) if rule.default is None else meta.number(key, rule.default)
    if rule.can_be_off and size == 0:
        return none
    is_swa = _windowed(rule, meta, g)
    if not any(is_swa) and _wants_window(arch):
        meta.fail(f"{key}_pattern", "leaves no layer with a window, which the engine refuses")
    return (size if rule.fixed is None else rule.fixed), is_swa


def _wants_window(arch: Architecture) -> bool:
    """Tell whether the engine aborts when it has a window for no layer (llama-model.cpp:2813)."""
    plain = arch.recurrent is Recurrent.NEVER and arch.indexer is Indexer.NEVER
    return plain and arch.memory is not Memory.NONE


def _windowed(rule: Window, meta: Metadata, g: Geometry) -> tuple[bool, ...]:
    key = "attention.sliding_window_pattern"
    layers = range(g.n_layer)
    if rule.layers is Pattern.EVERY:
        return (True,) * g.n_layer
    if rule.layers is Pattern.ATTENTION:
        return tuple(il < g.n_trunk and not g.is_recurrent[il] for il in layers)
    given = meta.array(key)
    if given is not None:
        return tuple(il < len(given) and given[il] != 0 for il in layers)
    if rule.layers is Pattern.ARRAY:
        meta.fail(key, "is missing or no array")
    period = meta.number(key, rule.layers)
    dense = 0 if rule.dense_first else period - 1
    return tuple(il < g.n_trunk and (period == 0 or il % period != dense) for il in layers)


def _head_sizes(arch: Architecture, meta: Metadata, g: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read key and value head sizes by layer; windowed layers can have their own."""
    per_head = g.n_embd // g.n_head[0] if g.n_head[0] else 0
    sizes = []
    for which in ("key", "value"):
        full = meta.number(f"attention.{which}_length", per_head) if per_head or arch.reread_heads else 0
        key = f"attention.{which}_length_swa"
        swa = meta.require(key) if arch.key_lengths_swa else meta.number(key, full)
        if which == "value" and arch.latent_v:
            full = meta.require("attention.kv_lora_rank")
        sizes.append(tuple(swa if windowed else full for windowed in g.is_swa))
    return sizes[0], sizes[1]


def _with_kv(arch: Architecture, meta: Metadata, n_layer: int) -> int | None:
    n_kv = n_layer - meta.number("attention.shared_kv_layers", 0) if arch.shared_kv else arch.kv_layers
    if n_kv is not None and n_kv < 2:
        meta.fail(
            "attention.shared_kv_layers", f"leaves {n_kv} of {n_layer} layers a cache; the engine wants 2"
        )
    return n_kv


def _extended(arch: Architecture, meta: Metadata, g: Geometry) -> Geometry:
    """Add layers that have a cache and no weights of their own."""
    loops = meta.number(arch.loops, 1) if arch.loops else 1
    if not 1 <= loops * g.n_layer <= MAX_LAYERS:
        meta.fail(arch.loops, f"= {loops} makes {loops * g.n_layer} layers, not between 1 and {MAX_LAYERS}")
    if loops > 1:
        return _looped(g, loops)
    return _with_router(meta, g) if arch.router else g


def _looped(g: Geometry, loops: int) -> Geometry:
    """Repeat the same layers several times, each pass with caches of its own (models/nanbeige.cpp:12-35)."""
    return g._replace(
        n_trunk=g.n_trunk + (loops - 1) * g.n_layer,
        n_head=g.n_head * loops,
        n_head_kv=g.n_head_kv * loops,
        n_ff=g.n_ff * loops,
        n_expert_used=g.n_expert_used * loops,
        head_k=g.head_k * loops,
        head_v=g.head_v * loops,
        is_swa=g.is_swa * loops,
        is_recurrent=g.is_recurrent * loops,
    )


def _with_router(meta: Metadata, g: Geometry) -> Geometry:
    """Add one more layer of a single head that only routes adapters (models/granite-switch.cpp:53-72)."""
    if g.n_trunk != g.n_layer or g.n_layer == MAX_LAYERS:
        meta.fail("block_count", f"= {g.n_layer} leaves no room for the router layer")
    return g._replace(
        n_trunk=g.n_trunk + 1,
        n_head=(*g.n_head, 1),
        n_head_kv=(*g.n_head_kv, 1),
        n_ff=(*g.n_ff, 0),
        n_expert_used=(*g.n_expert_used, 0),
        head_k=(*g.head_k, g.head_k[0]),
        head_v=(*g.head_v, g.head_v[0]),
        is_swa=(*g.is_swa, False),
        is_recurrent=(*g.is_recurrent, False),
    )
