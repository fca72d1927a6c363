"""A card of another machine, behind llama.cpp's RPC backend (ggml/src/ggml-rpc/ggml-rpc.cpp, line numbers of that file).

In: the rules of the card's own backend. Out: the rules that the engine sees from afar. Sizes are the server's answers:
alignment and largest buffer are asked once (1098), the bytes of a tensor for the operations that may need more than
their result and for rows that are completed (845-940). Nothing else is asked: every operation is said to run (2188), none
is worth fetching host weights for, no order is changed (no `graph_optimize`), and host memory is not pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Final

from ..graph import NONE, Tensor
from .nouns import Backend, Node, Scratch

__all__ = ["answers", "over_rpc"]

# Operations whose bytes the server is asked for (ggml_op_alloc_size_may_expand, ggml-backend.cpp:2124).
_ASKED: Final = frozenset({"FLASH_ATTN_EXT", "MUL_MAT", "MUL_MAT_ID", "CUMSUM", "ARGSORT", "TOP_K"})


@lru_cache(maxsize=64)
def over_rpc(rules: Backend) -> Backend:
    """The rules of a card that `rules` hold for, seen through an rpc-server: one value for each."""
    return replace(
        rules,
        name=f"{rules.name} over RPC",
        title=f"{rules.title} over RPC",
        behind=rules,
        ops=None,
        conditions=MappingProxyType({}),
        own_memory_only=False,
        scratch={op: partial(_asked, rule) for op, rule in rules.scratch.items() if op in _ASKED},
        may_be=tuple(map(over_rpc, rules.may_be)),
        graph_optimize=None,
        orders_by_address=False,
        offload_batch=0,
        async_events=True,  # 2153
        host_buffer=False,
        pinned=None,
        max_tensor=0,
        repacked=MappingProxyType({}),
    )


def _asked(rule: Scratch, n_bytes: int, node: Node) -> int:
    """What the server answers, and no less than the result (925)."""
    return max(n_bytes, rule(n_bytes, _on_the_wire(node)))


def _on_the_wire(node: Node) -> Node:
    """A node as the server reads it: each source a tensor of its own, for what it views is not sent along (1407-1438)."""
    sources = tuple([replace(t, view=NONE, offset=at) for at, t in enumerate(node.src)])
    return Node(node.tensor, sources, tuple(range(len(sources))))


def answers(
    nodes: Sequence[tuple[int, int]], tensors: Sequence[Tensor], backends: Sequence[Backend]
) -> dict[int, int]:
    """For each node whose bytes were asked before of the same device: the node that they were asked for.

    The engine remembers an answer by the result's type, shape, operation and parameters, and not by its sources
    (866-906): a second attention over a longer cache gets the bytes of the first.
    `nodes` are positions in `tensors`, with the backend of each, in the order in which they are placed.
    """
    if not any(b.behind and b.scratch for b in backends):
        return {}
    first: dict[object, int] = {}
    found: dict[int, int] = {}
    for i, at in nodes:
        t, rules = tensors[i], backends[at]
        if rules.behind is None or t.op not in rules.scratch:
            continue
        known = first.setdefault((at, t.op, t.type.name, t.ne, t.nb, t.params), i)
        if known != i:
            found[i] = known
    return found
