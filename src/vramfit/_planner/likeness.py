"""Tell whether two ways to store a cache make the same compute buffers, without walking the allocator.

In: a placed model and a context. Out: all that the allocator sees of its graphs, to be compared. The type of a cache
decides which nodes there are, where attention runs, what its kernel sets aside, and how large copies of the cache
are where some are made. Most types agree in all of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from .._estimate.reserve import Case, is_sure, prepare_case, reservations
from .._ggml.backends import Backend
from .._ggml.galloc import Walk
from .._ggml.sched import Schedule
from .._graphs import build
from .._llama.cparams import Context
from .._llama.model import Model
from .._llama.placement import Placement

__all__ = ["likeness"]


def likeness(model: Model, placement: Placement, context: Context, backends: Sequence[Backend]) -> Hashable:
    """Collect a value that is equal where the allocator would do the same, step by step, for each reservation. Raises `Unbuildable`.

    Where settings that differ in nothing but cache types agree at one context, they do at all: a type counts by
    conditions and by sizes for each cell, and neither depends on how many cells there are.
    """
    case = prepare_case(model, placement, context, backends)
    runs = dict.fromkeys(reservations(case, context))
    layers = _one_of_each(case)
    instances = [build(case.known, run, placement, layers) for run in runs]
    plans = map(case.schedule, instances)
    return tuple((run.flash_attn, is_sure(x), _seen(x)) for run, x in zip(runs, plans, strict=True))


def _one_of_each(case: Case) -> list[int]:
    """Choose layers of every kind in every place, each with the layer whose cache it reads."""
    at, caches, alike = case.placement.layers, case.placement.caches, case.known.alike
    found: dict[object, int] = {}
    for i, kind in enumerate(alike):
        opens = i == 0 or at[i] != at[i - 1]
        found.setdefault((kind, at[i], caches[i], opens, i == len(alike) - 1), i)
    kept = set(found.values())
    layers = case.known.model.layers
    owners = (layers[i].shares_kv_with for i in kept)
    return sorted(kept | {i for i in owners if i is not None})


def _seen(plan: Schedule) -> Hashable:
    """Collect the nodes and their order, who reads what, bytes, and which sources a node could write over."""
    walk, tensors = Walk(plan), plan.tensors
    nodes = []
    for i, backend in plan.nodes:
        t, rules = tensors[i], plan.backends[backend]
        sources = [s for s in plan.src[i] if walk.loose[s]]
        sizes = tuple(walk.bytes_of(s, rules) for s in (i, *sources) if walk.loose[s])
        layout = (t.type, t.ne, t.nb)
        same = [s for s in sources if (tensors[s].type, tensors[s].ne, tensors[s].nb) == layout]
        nodes.append((i, backend, t.op, t.view, plan.src[i], sizes, tuple(same)))
    return tuple(nodes), tuple(plan.leafs), tuple(plan.flags)
