"""Build the compute graph of an architecture: one builder for each, and the parts that builders share.

| module         | one responsibility                                                            |
|----------------|-------------------------------------------------------------------------------|
| `run`          | what a graph is built for, and what is built                                  |
| `known`        | a model as builders look things up in it; which of its layers come out alike  |
| `context`      | what every builder has at hand: numbers, weights, caches, ggml's operations   |
| `parts`        | embeddings, norms, projections, rotation, the output                          |
| `attention`    | inputs and masks, caches, the products between                                |
| `feed_forward` | dense networks and mixtures of experts                                        |
| `recurrent`    | states, and Mamba's layers                                                    |
| `pooling`      | what becomes of embeddings                                                    |
| `next_tokens`  | the graphs of next-token-prediction blocks, in a context of their own         |
| `stand_in`     | a graph that holds more than that of any architecture: for bounds             |
| `models/`      | the builders, named as in the engine                                          |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .._ggml.ops import Unbuildable
from .._llama.model import Model
from .._llama.placement import Placement
from . import known as _known
from .context import GraphContext
from .known import Known
from .models import Builder, architectures, builder_for
from .pooling import pool
from .run import FUSED, Instance, Run
from .stand_in import build as make_stand_in

__all__ = [
    "FUSED",
    "Instance",
    "Known",
    "Run",
    "Unbuildable",
    "architectures",
    "build",
    "know",
    "one_sequence",
]


def know(model: Model, *, stand_in: bool = False) -> Known:
    """Look up once what all graphs of a model start from. Raises `Unbuildable` where no builder knows the architecture.

    `stand_in`: for a graph that holds more than its own (see there), for which every architecture is known.
    """
    if stand_in:
        return replace(_known.know(model), stand_in=True)
    try:
        return _known.know(model, _builder(model).traits)
    except (ArithmeticError, LookupError) as e:
        raise Unbuildable(f"the layers of {model.architecture} cannot be told apart: {e!r}") from e


def build(known: Known, run: Run, placement: Placement, layers: Sequence[int] | None = None) -> Instance:
    """Build the graph of one reservation over `placement`, of all layers or of those given by position (in order).

    Raises `Unbuildable` where the engine would build none.
    """
    architecture = known.model.architecture
    kept = known.trunk if layers is None else tuple(known.trunk[i] for i in layers)
    g = GraphContext(known, run, placement, kept)
    try:
        (make_stand_in if known.stand_in else _builder(known.model).build)(g)
        pool(g)
    except (ArithmeticError, LookupError, RecursionError) as e:
        raise Unbuildable(f"the graph of {architecture} cannot be built: {e!r}") from e
    return g.instance()


def one_sequence(known: Known) -> bool:
    """Tell whether the last reservation of a context is made with one sequence (llama-context.cpp:717)."""
    return known.stand_in or _builder(known.model).one_sequence


def _builder(model: Model) -> Builder:
    architecture = model.architecture
    if model.layers[0].is_nextn:  # seen as its next-token-prediction blocks alone
        from .next_tokens import next_tokens_builder

        return next_tokens_builder(architecture)
    found = builder_for(architecture)
    if found is None:
        raise Unbuildable(f"there is no graph of {architecture} yet")
    return found
