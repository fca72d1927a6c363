"""Name what a graph is built for (`Run`), and what is built (`Instance`)."""

from __future__ import annotations

from typing import Final, NamedTuple

from .._ggml.graph import Graph
from .._llama.cparams import Context

__all__ = ["FUSED", "Instance", "Run"]

# Operations that the engine gives up where a backend cannot run them (llama-context.cpp:507-582); others it fuses always (233-238).
FUSED: Final = frozenset(("dsv4_hc_pre", "dsv4_hc_comb", "dsv4_hc_post"))


class Run(NamedTuple):
    """One reservation: the batch that the engine assumes, and how it builds the graph for it."""

    context: Context
    n_tokens: int
    n_seqs: int
    n_outputs: int
    flash_attn: bool  # as scheduling settled it, see `Context.auto_fa`
    embeddings: bool = False
    fused: frozenset[str] = FUSED


class Instance(NamedTuple):
    """A graph, and where its layers begin.

    `starts` are positions in `Graph.nodes`: of the first node of each layer that was built, and last of
    the epilogue. `fused` names the fused nodes: index of the tensor, its layer, its operation.
    """

    graph: Graph
    starts: tuple[int, ...]
    fused: tuple[tuple[int, int, str], ...]
