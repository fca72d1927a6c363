"""What the scheduler makes of a graph, and where the allocator puts it.

    from tools.engine.reserve import blocks_to_text, reservations

    for r in reservations("model.gguf", [24564, 12288], n_ctx=4096, compute_capability="8.9"):
        print(r.n_splits, r.n_bytes)
        print(blocks_to_text(r))

The graph that the allocator walks holds more than the architecture built: for every split a view of each
input and its copy, and for every fused group a view named after what must stay alive until its last node.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from .binding import engine
from .load import MAX_DEVICES, load
from .trace import Dump, dump_at, line_of


class Block(NamedTuple):
    """Where a tensor runs and lies; `offset` and `n_bytes` are -1 where it has no block of its own."""

    backend: int  # the devices in order, then the CPU
    offset: int
    n_bytes: int


class Reservation(NamedTuple):
    """One of the three reservations of a context's start."""

    graph: Dump  # as the architecture builds it
    allocated: Dump  # as the scheduler hands it to the allocator
    blocks: list[Block]  # of the leafs, then the nodes, of `allocated`
    n_copies: int
    n_splits: int
    n_bytes: tuple[int, ...]  # held by each backend afterwards, the CPU last


def reservations(
    header: str | os.PathLike[str], gpus_mib: Sequence[int] = (), **settings: Any
) -> tuple[Reservation, ...]:
    """The reservations of prompt, generation, and prompt again. Raises Refused."""
    graphs: list[Dump] = []
    done: list[Reservation] = []

    def on_allocation(address: int, rows: Any) -> None:
        allocated = dump_at(address)
        n = len(allocated.leafs) + len(allocated.nodes)
        blocks = [Block(*rows[3 * i : 3 * i + 3]) for i in range(n)]
        cells = (ctypes.c_int64 * (3 + MAX_DEVICES))()
        n_backends = engine().vf_schedule(cells)
        n_copies, n_splits, *n_bytes = cells[: 2 + n_backends]
        done.append(Reservation(graphs[-1], allocated, blocks, n_copies, n_splits, tuple(n_bytes)))

    with load(header, gpus_mib, lambda address: graphs.append(dump_at(address)), on_allocation, **settings):
        return tuple(done)


def blocks_to_text(reservation: Reservation) -> str:
    """One line for each tensor that the allocator walks: backend, block, and the tensor as a trace has it."""
    lines = []
    for i, block in enumerate(reservation.blocks):
        where = f"[{block.offset},+{block.n_bytes})" if block.n_bytes >= 0 else "-"
        lines.append(f"backend={block.backend} {where} {line_of(reservation.allocated, i)}")
    return "\n".join(lines) + "\n"
