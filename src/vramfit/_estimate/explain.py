"""Break every number of an estimate down into terms.

In: `Model`, cards, `Settings`. Out: `Explanation`s whose terms add up to the figures of `estimate`: weights by
what they are for, caches by their formula, and the tensors that are alive when a compute buffer is
fullest. Terms of a bound are not known: its compute is one term that says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .._devices import Gpu
from .._ggml.backends import Backend, host_of
from .._ggml.galloc import Live, fullest
from .._graphs import Unbuildable
from .._llama.cparams import Context, cache_streams, cells, resolve
from .._llama.eras import era_of, rules_of
from .._llama.memory import layer_context_bytes, stored_rows, weight_size
from .._llama.model import Home, Layer, Model, Weight
from .._llama.params import Settings
from .._llama.placement import HOST, devices
from .._llama.speculation import loaded
from .estimate import DeviceEstimate, Estimate, estimate
from .reserve import plans

__all__ = ["Explanation", "Term", "explain"]

SHOWN: Final = 6  # tensors of a compute buffer that are named one by one


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a figure, in bytes; `why` is its formula or what it is for."""

    name: str
    n_bytes: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The terms of one device. Each tuple adds up to the figure of the same name, exactly."""

    device: DeviceEstimate
    model: tuple[Term, ...]
    context: tuple[Term, ...]
    compute: tuple[Term, ...]


def explain(model: Model, gpus: Sequence[Gpu], settings: Settings) -> tuple[Explanation, ...]:
    """List the terms of every device that holds anything, the host last. Raises what `estimate` raises."""
    model = loaded(model, settings)
    found = estimate(model, gpus, settings)
    context = resolve(model, settings)
    used = devices(gpus, settings)
    rules = [rules_of(gpus[i], era_of(settings.engine_build)) for i in used]
    places = [(found.gpus[i], at, rules[at]) for at, i in enumerate(used)]
    places.append((found.host, HOST, host_of(rules)))
    live = _live(model, found, context, rules, [device.compute for device, *_ in places])
    return tuple(
        Explanation(
            device,
            _weights(model, found, device, at, backend_),
            _context(model, found, context, at, backend_),
            live[at] if live else _bound(device, found.compute_note),
        )
        for device, at, backend_ in places
        if device.total
    )


# --- weights

_PURPOSES: Final = (
    (re.compile(r"ffn_\w*_?(?:exps|chexps)"), "experts"),
    (re.compile(r"ffn_"), "feed-forward"),
    (re.compile(r"attn_|indexer"), "attention"),
    (re.compile(r"ssm_|shortconv|time_mix|channel_mix"), "recurrent mixing"),
)


def _purpose(weight: Weight) -> str:
    if weight.beside is not None or weight.tensor.name.endswith(".direction"):
        return "adapters"
    if weight.home is Home.INPUT:
        return "input embeddings"
    if weight.home is Home.OUTPUT:
        return "output"
    return next(
        (name for pattern, name in _PURPOSES if pattern.search(weight.tensor.name)), "other weights of layers"
    )


def _weights(
    model: Model, found: Estimate, device: DeviceEstimate, at: int, rules: Backend
) -> tuple[Term, ...]:
    sums: Counter[str] = Counter()
    for weight, place in zip(model.weights, found.placement.weights, strict=True):
        if place == at:
            sums[_purpose(weight)] += weight_size(weight, rules)
    terms = [Term(name, n) for name, n in sums.most_common()]
    return _closed(terms, device.model, "shared copies", "counted above for each use, held once")


# --- context


def _context(model: Model, found: Estimate, context: Context, at: int, rules: Backend) -> tuple[Term, ...]:
    here = [x for x, device in zip(model.layers, found.placement.caches, strict=True) if device == at]
    groups: dict[tuple[object, ...], list[Layer]] = {}
    for layer in here:
        groups.setdefault((layer.caches, layer.states), []).append(layer)
    terms = []
    for layers in groups.values():
        size = sum(layer_context_bytes(model, x, context, rules) for x in layers)
        if size:
            terms.append(Term(f"{len(layers)} layers", size, "; ".join(_formulas(model, layers[0], context))))
    return tuple(terms)


def _formulas(model: Model, layer: Layer, context: Context) -> Iterable[str]:
    for cache in layer.caches:
        rows = " + ".join(f"{width} {kind.name}" for kind, width in stored_rows(model, cache, context))
        streams = cache_streams(cache, context)
        yield f"{cache.kind}: ({rows}) x {cells(cache, context):,} cells" + (
            f" x {streams} slots" if streams > 1 else ""
        )
    if any(layer.states):
        yield f"state: {' + '.join(map(str, layer.states))} f32 x {context.n_seq_max} slots" + (
            f" x {1 + context.n_rs_seq} to go back to" if context.n_rs_seq else ""
        )


# --- compute


def _live(
    model: Model,
    found: Estimate,
    context: Context,
    rules: Sequence[Backend],
    figures: Sequence[int],
) -> dict[int, tuple[Term, ...]]:
    """List the terms of each compute buffer, by device; none where there is only a bound."""
    try:
        scheduled = plans(model, found.placement, context, rules)
    except Unbuildable:
        return {}
    places = [*range(len(rules)), HOST]
    return {
        at: _named(fullest(scheduled, number), figure)
        for number, (at, figure) in enumerate(zip(places, figures, strict=True))
    }


def _named(live: Iterable[Live], figure: int) -> tuple[Term, ...]:
    sums: Counter[tuple[str, str]] = Counter()
    for tensor in live:
        sums[tensor.name, tensor.op.lower()] += tensor.n_bytes
    terms = [Term(name, n, "" if op == "none" else op) for (name, op), n in sums.most_common(SHOWN)]
    return _closed(terms, figure, "the rest", "smaller tensors, padding and gaps between them")


def _bound(device: DeviceEstimate, note: str) -> tuple[Term, ...]:
    return (Term("upper bound", device.compute, note),) if device.compute else ()


def _closed(terms: list[Term], figure: int, name: str, why: str) -> tuple[Term, ...]:
    """Add to `terms` one for the bytes that they lack of the total, or exceed it by."""
    rest = figure - sum(t.n_bytes for t in terms)
    return tuple(terms) if not rest else (*terms, Term(name, rest, why))
