"""A header → random headers around it.

An `Edit` says in words what it does and does it to a draft. What the engine does not load is refused by it and
counted; so edits need not know which architecture reads which key or weight.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from vramfit._ggml.types import BY_NAME

from .draft import Draft, Shape

__all__ = ["SWITCHES", "Edit", "applied", "draw_edits", "draw_overrides"]

_F32: Final = BY_NAME["f32"]

# Keys that graphs hang on, with values that decide: most architectures read few of them, and must not read the others.
SWITCHES: Final[dict[str, tuple[Any, ...]]] = {
    "attention.causal": (False, True),
    "attention.clamp_kqv": (0.0, 8.0),
    "attention.indexer.block_size": (4, 16, 128),
    "attention.indexer.kpool": (0, 1, 4),
    "attention.indexer.kpool_select_tail": (False, True),
    "attention.indexer.top_k": (1, 64, 2048),
    "attention.max_alibi_bias": (0.0, 8.0),
    "attention.output_group_count": (1, 2, 4, 8),
    "attention.output_scale": (0.0, 0.5),
    "attention.scale": (0.0, 1.0, 0.125),
    "attention.shared_kv_layers": (0, 1, 2, 3),
    "attention.sliding_window": (0, 1, 100, 512, 4096),
    "attention.sliding_window_pattern": (0, 1, 2, 3, 4, 6),
    "attention.temperature_length": (0, 1, 4096),
    "attention.temperature_scale": (0.0, 0.1),
    "attention.value_scale": (0.0, 0.5),
    "attn_logit_softcapping": (0.0, 50.0),
    "attn_res.block_size": (0, 1, 2, 3, 4, 5),
    "embedding_scale": (0.0, 1.0, 12.0),
    "expert_gating_func": (0, 1, 2, 3, 4),
    "expert_group_count": (0, 1, 2, 4),
    "expert_group_scale": (0.0, 1.0, 2.0),
    "expert_group_used_count": (0, 1, 2),
    "expert_shared_count": (0, 1, 2),
    "expert_used_count": (1, 2, 3, 8),
    "expert_weights_norm": (False, True),
    "expert_weights_scale": (0.0, 1.0, 2.5),
    "final_logit_softcapping": (0.0, 30.0),
    "full_attention_interval": (1, 2, 3, 4),
    "hash_layer_count": (0, 1, 2, 3),
    "hidden_activation": ("silu", "gelu", "relu"),
    "interleave_moe_layer_step": (0, 1, 2, 4),
    "kda.safe_gate": (False, True),
    "leading_dense_block_count": (0, 1, 2, 3),
    "logit_scale": (0.0, 1.0, 0.0625),
    "moe_every_n_layers": (0, 1, 2, 3),
    "n_deepstack_layers": (0, 1, 3),
    "nextn_predict_layers": (0, 1),
    "norm_before_fc": (False, True),
    "norm_before_residual": (False, True),
    "num_loops": (1, 2, 3),
    "pooling_type": (0, 1, 2, 3, 4),
    "rescale_every_n_layers": (0, 1, 2, 6),
    "residual_scale": (0.0, 1.0, 0.22),
    "rope.dimension_sections": ([8, 8, 8, 0], [11, 11, 10, 0], [0, 0, 0, 0]),
    "rope.scaling.attn_factor": (0.0, 1.0, 1.19),
    "rope.scaling.factor": (0.0, 1.0, 8.0),
    "rope.scaling.finetuned": (False, True),
    "rope.scaling.original_context_length": (256, 4096, 131072),
    "rope.scaling.type": ("none", "linear", "yarn", "longrope"),
    "rope.scaling.yarn_log_multiplier": (0.0, 0.1),
    "router_logit_softcapping": (0.0, 30.0),
    "skip_loop_final_norm": (False, True),
    "ssm.dt_b_c_rms": (False, True),
    "ssm.group_count": (0, 1, 2),
    "swiglu_clamp_exp": (0.0, 7.0),
    "swiglu_clamp_shexp": (0.0, 7.0),
    "swin_norm": (False, True),
    "token_shift_count": (1, 2),
    "use_parallel_residual": (False, True),
}
_FIXED: Final = frozenset(("block_count", "vocab_size", "context_length"))  # others edit these
_OFTEN_OPTIONAL: Final = re.compile(
    r"scale$|\.bias|_norm|^output|rope_f|probs|sinks|shexp|gate|^cls|token_types|position|nextn|_b\b|lerp|first"
)
_MATRIX: Final = re.compile(r"^blk\.\d+\.(?:attn|ffn|ssm)_\w+\.weight$")
_KIND: Final = re.compile(r"^blk\.\d+\.")
_LAYERS: Final = (1, 2, 3, 4, 5, 7, 8, 26, 27, 32, 48, 61, 64, 80)


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a header, and how a person would say it."""

    words: str
    apply: Callable[[Draft], None]


def applied(draft: Draft, edits: list[Edit]) -> Draft:
    """A copy with all edits."""
    copy = Draft(dict(draft.keys), dict(draft.tensors))
    for edit in edits:
        edit.apply(copy)
    return copy


def draw_overrides(rng: random.Random) -> dict[str, Any]:
    """Switches for a model that is yet to be made, so that its tensors follow from them."""
    names = rng.sample(sorted(SWITCHES), rng.choice((0, 1, 1, 2, 2, 3)))
    return {name: rng.choice((None, *SWITCHES[name])) for name in names}


def draw_edits(rng: random.Random, draft: Draft) -> list[Edit]:
    """One to four edits."""
    makers = (
        _key,
        _key,
        _switch,
        _switch,
        _list,
        _drop,
        _drop,
        _drop,
        _add,
        _scales,
        _split,
        _fuse,
        _layers,
        _layers,
    )
    found = [rng.choice(makers)(rng, draft) for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))]
    return [edit for edit in found if edit is not None]


def _put(name: str, value: Any) -> Edit:
    words = f"without {name}" if value is None else f"{name} = {value}"
    return Edit(words, lambda draft: draft.put(name, value))


def _key(rng: random.Random, draft: Draft) -> Edit | None:
    """A number or switch that is there: absent, zero, one, many."""
    prefix = draft.own("")
    found = [
        name.removeprefix(prefix)
        for name, key in draft.keys.items()
        if name.startswith(prefix)
        and isinstance(key.value, int | float)
        and name.removeprefix(prefix) not in _FIXED
    ]
    if not found:
        return None
    name = rng.choice(found)
    old = draft.get(name)
    if isinstance(old, bool):
        return _put(name, rng.choice((None, not old)))
    kind = type(old)
    return _put(
        name,
        rng.choice(
            (None, kind(0), kind(1), kind(2), kind(old * 2), kind(old // 2), kind(rng.randrange(3, 9)))
        ),
    )


def _switch(rng: random.Random, draft: Draft) -> Edit:
    """A key that decides something, there or not."""
    name = rng.choice(sorted(SWITCHES))
    return _put(name, rng.choice((None, *SWITCHES[name])))


def _list(rng: random.Random, draft: Draft) -> Edit | None:
    """A list by layer: absent, one number, all alike, turned round, each kind first."""
    prefix = draft.own("")
    found = [
        n
        for n, k in draft.keys.items()
        if n.startswith(prefix) and isinstance(k.value, list) and k.type != "str"
    ]
    if not found:
        return None
    name = rng.choice(found).removeprefix(prefix)
    old = draft.get(name)
    zero = type(old[0])(0)
    return _put(
        name,
        rng.choice(
            (None, old[0], max(old), [old[0]] * len(old), [zero] * len(old), old[::-1], [*old[1:], old[0]])
        ),
    )


def _drop(rng: random.Random, draft: Draft) -> Edit | None:
    """A kind of tensors away: everywhere, in one layer, or with all of its suffix."""
    kinds = draft.kinds()
    likely = [k for k in kinds if _OFTEN_OPTIONAL.search(k)]
    kind = rng.choice(likely if likely and rng.random() < 0.85 else kinds)
    if kind.startswith("blk.N.") and rng.random() < 0.2:
        block = rng.choice((0, rng.randrange(max(1, draft.n_layer)), max(0, draft.n_layer - 1)))
        return Edit(f"without {kind} in block {block}", lambda d: d.drop(kind, block))
    suffix = kind.rpartition(".")[2]
    if suffix in ("scale", "input_scale", "bias") and rng.random() < 0.5:
        alike = [k for k in kinds if k.endswith("." + suffix)]

        def drop(d: Draft) -> None:
            for each in alike:
                d.drop(each)

        return Edit(f"without any .{suffix}", drop)
    return Edit(f"without {kind}", lambda d: d.drop(kind))


def _add(rng: random.Random, draft: Draft) -> Edit | None:
    """An optional tensor that is not there."""
    flat = {_KIND.sub("blk.N.", name) for name, t in draft.tensors.items() if len(t.ne) < 2}
    matrices = sorted({k for k in draft.kinds() if _MATRIX.match(k.replace("N", "0"))} - flat)
    if not matrices:
        return None
    if rng.random() < 0.25:
        return _rope_factors(rng, draft)
    if rng.random() < 0.2:
        embd = draft.tensors.get("token_embd.weight")
        return Edit(
            "with output.weight", lambda d: d.tensors.update({"output.weight": embd}) if embd else None
        )
    kind = rng.choice(matrices)

    def add(d: Draft) -> None:
        for name in [x for x in d.tensors if _KIND.sub("blk.N.", x) == kind]:
            ne = d.tensors[name].ne
            d.tensors.setdefault(
                name.removesuffix("weight") + "bias", Shape(_F32, ne[1:2] if len(ne) < 3 else ne[1:3])
            )

    return Edit(f"with {kind.removesuffix('weight')}bias", add)


def _rope_factors(rng: random.Random, draft: Draft) -> Edit:
    n = int(draft.get("rope.dimension_count") or draft.get("attention.key_length") or 64) // 2
    names = rng.choice((("rope_freqs.weight",), ("rope_factors_long.weight", "rope_factors_short.weight")))
    return Edit(
        f"with {' and '.join(names)}", lambda d: d.tensors.update({x: Shape(_F32, (n,)) for x in names})
    )


def _scales(rng: random.Random, draft: Draft) -> Edit:
    """Scales beside the matrices of some kinds, with or without those of their inputs."""
    part = rng.choice((".", "attn_", "ffn_", "exps", "shexp"))
    suffixes = rng.choice((("scale",), ("scale",), ("scale", "input_scale")))

    def add(d: Draft) -> None:
        for name in [x for x in d.tensors if _MATRIX.match(x) and part in x and "norm" not in x]:
            ne = d.tensors[name].ne
            for suffix in suffixes:
                d.tensors.setdefault(name.removesuffix("weight") + suffix, Shape(_F32, ne[2:3] or (1,)))

    return Edit(f"with {' and '.join(suffixes)} beside weights with {part!r}", add)


def _split(rng: random.Random, draft: Draft) -> Edit:
    """What is fused apart: projections, experts."""
    return rng.choice(
        (Edit("attn_qkv apart", _split_projections), Edit("ffn_gate_up_exps apart", _split_experts))
    )


def _fuse(rng: random.Random, draft: Draft) -> Edit:
    """What is apart fused."""
    return rng.choice(
        (Edit("attn_qkv fused", _fuse_projections), Edit("ffn_gate_up_exps fused", _fuse_experts))
    )


def _blocks_with(draft: Draft, rest: str) -> Iterator[tuple[str, Shape]]:
    """Prefixes of the blocks that have a tensor, and its shape."""
    for name, shape in list(draft.tensors.items()):
        if name.startswith("blk.") and name.partition(".")[2].partition(".")[2] == rest:
            yield name.removesuffix(rest), shape


def _of_layer(value: Any, block: int, default: int) -> int:
    if isinstance(value, list):
        return int(value[block]) if block < len(value) else default
    return default if value is None else int(value)


def _split_projections(draft: Draft) -> None:
    for suffix in ("weight", "bias"):
        for prefix, shape in _blocks_with(draft, f"attn_qkv.{suffix}"):
            block, axis = int(prefix.split(".")[1]), 1 if suffix == "weight" else 0
            heads = _of_layer(draft.get("attention.head_count"), block, 1)
            groups = _of_layer(draft.get("attention.head_count_kv"), block, heads)
            k = _of_layer(
                draft.get("attention.key_length"), block, draft.get("embedding_length", 0) // max(heads, 1)
            )
            v = _of_layer(draft.get("attention.value_length"), block, k)
            for one, n in zip("qkv", (heads * k, groups * k, groups * v), strict=True):
                ne = (*shape.ne[:axis], n)
                draft.tensors[f"{prefix}attn_{one}.{suffix}"] = Shape(shape.type, ne)
            del draft.tensors[f"{prefix}attn_qkv.{suffix}"]


def _fuse_projections(draft: Draft) -> None:
    for suffix in ("weight", "bias"):
        for prefix, q in _blocks_with(draft, f"attn_q.{suffix}"):
            rest = [draft.tensors.get(f"{prefix}attn_{one}.{suffix}") for one in "kv"]
            if None in rest:
                continue
            n = q.ne[-1] + sum(x.ne[-1] for x in rest if x)
            for one in "qkv":
                del draft.tensors[f"{prefix}attn_{one}.{suffix}"]
            draft.tensors[f"{prefix}attn_qkv.{suffix}"] = Shape(q.type, (*q.ne[:-1], n))


def _split_experts(draft: Draft) -> None:
    for suffix in ("weight", "bias", "scale"):
        for prefix, shape in _blocks_with(draft, f"ffn_gate_up_exps.{suffix}"):
            axis = {"weight": 1, "bias": 0}.get(suffix)
            ne = tuple(n // 2 if i == axis else n for i, n in enumerate(shape.ne))
            for one in ("gate", "up"):
                draft.tensors[f"{prefix}ffn_{one}_exps.{suffix}"] = Shape(shape.type, ne)
            del draft.tensors[f"{prefix}ffn_gate_up_exps.{suffix}"]


def _fuse_experts(draft: Draft) -> None:
    for suffix in ("weight", "bias", "scale"):
        for prefix, gate in _blocks_with(draft, f"ffn_gate_exps.{suffix}"):
            if f"{prefix}ffn_up_exps.{suffix}" not in draft.tensors:
                continue
            axis = {"weight": 1, "bias": 0}.get(suffix)
            ne = tuple(2 * n if i == axis else n for i, n in enumerate(gate.ne))
            for one in ("gate", "up"):
                del draft.tensors[f"{prefix}ffn_{one}_exps.{suffix}"]
            draft.tensors[f"{prefix}ffn_gate_up_exps.{suffix}"] = Shape(gate.type, ne)


def _layers(rng: random.Random, draft: Draft) -> Edit | None:
    """Another number of layers, in another order; what predicts further tokens stays last."""
    nextn = int(draft.get("nextn_predict_layers") or 0)
    old = draft.n_layer - nextn
    if old < 1:
        return None
    n = rng.choice((*_LAYERS, old, old))
    start = rng.choice((0, 0, 0, 1, rng.randrange(old)))
    same = rng.random() < 0.15
    order = [start if same else (start + i) % old for i in range(n)]
    words = f"{n} layers" + (
        f", all of them layer {start}" if same else f", from layer {start}" if start else ""
    )
    return Edit(words, lambda d: d.reorder([*order, *range(old, old + nextn)]))
