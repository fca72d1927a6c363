"""Which models of an architecture are traced: everything that it can be made to do.

In: a `Workshop`. Out: its traces, the names of optional tensors, and the header values that change a graph.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from tools.engine.metadata import Dims, metadata
from tools.engine.models import MIXTURES
from vramfit._graphs.dims import header_value, traits
from vramfit._llama.model import Cells, Model

from . import plan
from .merge import Observation, signature
from .observe import Traced, Untraceable, n_trunk
from .trace import read
from .workshop import SCALES, Mini, Workshop, either, pattern_of


def collect(shop: Workshop) -> tuple[list[str], list[str]]:
    """Trace everything that the architecture can be made to do; optional tensors, switches."""
    minis = [m for d in plan.dimensions() if (m := shop.fitting(d, SCALES))]
    if not minis:
        raise Untraceable(f"no model loads: {shop.refused[-1] if shop.refused else ''}")
    base = min(minis, key=lambda m: m.dims.n_layer)
    other = max(minis, key=lambda m: m.dims.n_layer)
    optional = shop.optional(base)
    least = either(SCALES, *map(pattern_of, optional))
    for number, mini in enumerate(minis):
        _least_and_most(shop, mini, least, number)
    _one_by_one(shop, base, other, optional)
    _try(shop, replace(base.dims, n_embd=_WIDE), least)
    for number, mini in enumerate(minis[:2]):
        for without in ("", least):  # with all that is optional, too: it tells in which order lines come
            _try(shop, replace(mini.dims, n_expert_used=1), without, number)
        for lead in (0, mini.dims.n_layer):  # mixtures from the first layer on, and none
            _try(shop, replace(mini.dims, n_dense_lead=lead), least, number)
        if _DENSE in optional:
            _try(shop, mini.dims, _dense_at_first(mini, optional), number)
    if any(x.is_recurrent for x in read(base.path).layers):
        for mini in (base, other):
            d = mini.dims
            d = replace(d, dt_rank=d.n_group, d_inner=d.n_group * d.d_state)
            equal = shop.make(d, without=least) or shop.make(d, without=SCALES)
            if equal is not None:
                shop.trace(equal, plan.settings(plan.FEW, part=minis.index(mini)))
    _each_at_last(shop, (base, other), least)
    return optional, _switches(shop, base, other, least)


def _each_at_last(shop: Workshop, minis: tuple[Mini, ...], least: str) -> None:
    """Trace models of other lengths, until every kind of layer was the last of one; where kinds differ, short ones."""

    def kind(model: Model, block: int) -> frozenset[str]:
        return frozenset(traits(model.layers[block])) - {"swa"}

    models = [t.model for t in shop.traced]
    wanted = {kind(m, b) for m in models for b in range(n_trunk(m))}
    for mini in minis if len(wanted) > 1 else ():
        for n_layer in (2, 3):
            _try(shop, replace(mini.dims, n_layer=n_layer), least)
    wanted -= {kind(m, n_trunk(m) - 1) for m in (t.model for t in shop.traced)}
    for mini in minis:
        missing = set(wanted)
        for n_layer in range(2, _LONGEST):
            made = shop.make(replace(mini.dims, n_layer=n_layer), without=least) if missing else None
            model = read(made.path) if made else None
            if made and model and kind(model, n_trunk(model) - 1) in missing:
                missing.remove(kind(model, n_trunk(model) - 1))
                shop.trace(made, plan.settings(plan.FEW))


_WIDE = 1184  # n_embd beyond what engines take for a least size
_LONGEST = 13  # layers of a model that is made to end in another kind


def _least_and_most(shop: Workshop, mini: Mini, least: str, number: int) -> None:
    """Trace a model without all that is optional, and with it; with fused weights, too."""
    bare = shop.make(mini.dims, without=least)
    if bare is None or not shop.trace(bare, plan.settings(part=number)):
        bare = mini  # without everything that is optional alone there is no model left
        shop.trace(mini, plan.settings(part=number))
    if (whole := shop.fused(bare)) is not None:
        shop.trace(whole, plan.settings(plan.SOME, part=number))
    caches = [c for x in read(bare.path).layers for c in x.caches]
    if any(c.kind != "kv" for c in caches):
        shop.trace(bare, plan.short(number, min(c.ratio for c in caches if c.kind != "kv")))
    if any(c.cells is Cells.COMPRESSED for c in caches):
        shop.trace(bare, plan.long(number))
    full = shop.make(mini.dims)
    if full is not None and (whole := shop.fused(full)) is not None:
        shop.trace(whole, plan.settings(plan.FEW, part=number))
    if full is not None:
        shop.trace(full, plan.settings(plan.SOME if number < 2 else plan.FEW, part=number))


def _one_by_one(shop: Workshop, base: Mini, other: Mini, optional: list[str]) -> None:
    """Trace models with one optional tensor only, and with all but one."""
    for name in optional:
        rest = [o for o in optional if o != name]
        _try(shop, base.dims, either(SCALES, *map(pattern_of, rest)))
        _try(shop, base.dims, either(SCALES, pattern_of(name)))
    for name in (o for o in optional if o.endswith(".weight") and other is not base):
        _try(shop, other.dims, either(SCALES, pattern_of(name)), 1)


def _try(shop: Workshop, dims: Dims, without: str, number: int = 0) -> None:
    made = shop.make(dims, without=without)
    if made is not None:
        shop.trace(made, plan.settings(plan.FEW, part=number))


_DENSE = "@ffn_down.weight"
_DENSE_NAMES = r"ffn_(?:up|gate|down)\.weight$"
_MIXTURE = r"(?:ffn_\w+_(?:exps|shexp)\.\w+|ffn_gate_inp\w*\.\w+|exp_probs_b\.bias)$"


def _dense_at_first(mini: Mini, optional: list[str]) -> str:
    """What to leave out for a model whose first layers are dense, where its tensors alone decide that."""
    half = range(mini.dims.n_layer // 2)
    first, later = ("|".join(map(str, x)) for x in (half, range(len(half), mini.dims.n_layer)))
    others = [o for o in optional if not re.search(_DENSE_NAMES, o)]
    return either(
        SCALES,
        rf"^blk\.(?:{first})\.{_MIXTURE}",
        rf"^blk\.(?:{later})\.{_DENSE_NAMES}",
        *map(pattern_of, others),
    )


def _switches(shop: Workshop, base: Mini, other: Mini, least: str) -> list[str]:
    """Header values that change the graph: traced with each value that the engine takes."""
    few = [next(plan.settings(plan.FEW))]
    mini = shop.make(base.dims, without=least) or base
    shapes = {_topology(t) for t in shop.trace(mini, few, keep=False)}
    known: list[str] = []
    given = metadata(
        shop.architecture, base.dims, shop.architecture in MIXTURES if shop.experts is None else shop.experts
    )
    for key, values in plan.SWITCHES.items():
        changed: list[Mini] = []
        same: list[Mini] = []
        for value in values:
            if given.get(key) == value:
                continue
            made = _with(shop, mini, key, value)
            if made is None:
                continue
            found = {_topology(t) for t in shop.trace(made, few, keep=False)}
            (same if found and found <= shapes else changed if found else []).append(made)
        if changed:
            again = [m for x in changed if (m := _with(shop, other, key, x.overrides[key], least))]
            for made in (mini, *changed, *same, *again):
                found = shop.trace(made, plan.settings(plan.FEW))
                if found:
                    known.append(f".{key}={header_value(found[0].model, found[0].model.layers[0], key)}")
    return sorted(set(known))


def _with(shop: Workshop, mini: Mini, key: str, value: Any, without: str = "") -> Mini | None:
    return shop.make(mini.dims, {**mini.overrides, key: value}, without or mini.without)


def _topology(t: Traced) -> object:
    blocks = [Observation(t, b, lines, frozenset()) for b, lines in t.blocks.items()]
    inputs = tuple(tuple(x.node.ne) for lines in t.blocks.values() for x in lines if x.op == "input")
    return tuple(signature(o) for o in blocks), inputs


# --- observations → template
