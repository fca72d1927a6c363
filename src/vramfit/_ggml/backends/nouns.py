"""Name what a backend's rules are made of, and answer what scheduler and allocator ask of them.

In: graphs. Out: `Backend`, a value of data and functions. The functions are named as the engine's
interface names them (ggml-backend-impl.h): `supports_op`, `offload_op`, `get_alloc_size`, `graph_optimize`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from ..graph import NONE, OUTPUT, WEIGHT, Extents, Tensor, n_bytes
from ..types import TensorType

__all__ = [
    "Backend",
    "Batch",
    "Keep",
    "Node",
    "Optimize",
    "Scratch",
    "SplitGraph",
    "Tiles",
    "can_fuse",
    "pad",
]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def pad(n: int, step: int) -> int:
    """Round `n` up to a multiple of `step` (GGML_PAD)."""
    return (n + step - 1) // step * step


class Node(NamedTuple):
    """One node as a backend is asked about it, with its sources as they are at that moment."""

    tensor: Tensor
    src: tuple[Tensor, ...]
    ids: tuple[int, ...] = ()  # positions of the sources in the graph: they tell views of one another

    def views(self, one: int, other: int) -> bool:
        """Tell whether source `one` is a view of source `other`, or both start at one place of the same memory."""
        a, b = self.src[one], self.src[other]
        return a.view != NONE and (a.view == self.ids[other] or (a.view == b.view and a.offset == b.offset))


@dataclass(frozen=True, slots=True, eq=False)
class SplitGraph:
    """The nodes of one split, sources replaced by copies, as `graph_optimize` is given them.

    Positions count from the start of the whole graph; the split is [start, end). What lies behind its end
    can be looked at, as the engine does in places.
    """

    tensors: Sequence[Tensor]
    sources: Sequence[tuple[int, ...]]  # of each tensor
    nodes: Sequence[int]  # of the whole graph
    start: int
    end: int
    uses: Callable[[int], int]  # tensor -> how many sources of the graph it was, before any copy

    def op(self, position: int) -> str:
        """Return the operation of the node at `position`, "" behind the end of the graph."""
        return self.tensors[self.nodes[position]].op if position < len(self.nodes) else ""

    def at(self, position: int) -> Tensor:
        """Return the node at `position`."""
        return self.tensors[self.nodes[position]]

    def src(self, position: int) -> tuple[int, ...]:
        """Return the sources of the node at `position`."""
        return self.sources[self.nodes[position]]

    def reads(self, position: int, source: int, made_at: int) -> bool:
        """Tell whether that source of the node at `position` is the node at `made_at`."""
        src = self.src(position)
        return source < len(src) and src[source] == self.nodes[made_at]


def can_fuse(g: SplitGraph, positions: Sequence[int], outputs: tuple[int, ...]) -> bool:
    """Tell whether nobody outside reads a node of a group, but for its outputs (ggml_can_fuse_subgraph_ext, ggml.c:7769)."""
    if positions[-1] >= g.end:
        return False
    inside = {g.nodes[p] for p in positions}
    read: dict[int, int] = {}
    for p in positions:
        for s in g.src(p):
            if s in inside:
                read[s] = read.get(s, 0) + 1
    for p in positions:
        if p in outputs:
            continue
        i, t = g.nodes[p], g.at(p)
        if t.flags & OUTPUT or read.get(i, 0) != g.uses(i):
            return False
        if t.view != NONE and t.view not in inside and g.tensors[t.view].usage != WEIGHT:
            return False
    return True


Keep = Callable[[int, int], None]  # keep a tensor alive until a node has run (add_alloc_dep)
Batch = Sequence[int]  # nodes that a backend gathers, in the order in which they run
# What a backend does with the nodes of a split: says what to keep, and the order that it gives them; None: they stay.
Optimize = Callable[[SplitGraph, Keep], "Sequence[Batch] | None"]
Predicate = Callable[[Tensor, Sequence[Tensor]], bool]  # a node and its sources -> whether it runs
Scratch = Callable[[int, Node], int]  # bytes of the result, node -> bytes with what it carries beside it


class Tiles(NamedTuple):
    """How a type is laid out in tiles: what its rows and columns are multiples of, and bytes more a block."""

    rows: int
    columns: int
    more: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """What the replay must know of a backend. Sizes are bytes, counts are as each field says."""

    name: str
    alignment: int  # every tensor starts at and is padded to a multiple of it
    exact: bool = False  # whether the rules were checked against what the engine allocates
    title: str = ""  # its name as people write it
    proof: str = ""  # what its rules were checked against
    unproved: str = "follow the engine's source and are not measured"  # what its rules are, where not exact
    row_padding: int = 0  # elements: a quantized tensor's last row is padded to a multiple of it
    ops: frozenset[str] | None = None  # the operations that it knows; None: all
    conditions: Mapping[str, Predicate] = field(
        default_factory=lambda: _NOTHING
    )  # of operations run in some cases only
    own_memory_only: bool = False  # runs nothing that has a source in another device's memory
    scratch: Mapping[str, Scratch] = field(
        default_factory=lambda: _NOTHING
    )  # operations that need more than their result
    may_be: tuple[Backend, ...] = ()  # the kinds of card that one of no known capability can be
    graph_optimize: Optimize | None = None
    orders_by_address: bool = False  # its order of nodes compares addresses of weights and caches
    offload_batch: int = 0  # rows from which operations on host weights move here; 0: never
    offload_ops: frozenset[str] = frozenset()  # only these; empty: all
    async_events: bool = False  # asynchronous compute and events: pipeline parallelism can switch on
    host_buffer: bool = False  # has a pinned host buffer type
    max_buffer: int = 0  # largest single buffer; 0: no limit
    buffer_extra: int = 0  # bytes that each compute buffer takes beside what lies in it
    pinned: Backend | None = None  # the host, where the first device pins its memory in a manner of its own
    max_tensor: int = 0  # largest tensor that an operation reads or makes; 0: no limit
    reached_tensor: int = 0  # where that is not known: no smaller one is above it; 0: nothing to tell
    behind: Backend | None = None  # of another machine: the rules of the card that an rpc-server answers for
    # types whose matrices are kept in another order, in a buffer apart -> rows of which they have a multiple
    repacked: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    # the same in the order of AMX, experts apart
    tiles: Mapping[str, Tiles] = field(default_factory=lambda: _NOTHING)

    def alloc_bytes(self, type_: TensorType, shape: tuple[int, ...]) -> int:
        """Count the bytes that a weight or cache tensor asks for, before alignment (get_alloc_size)."""
        return type_.row_bytes(shape[0]) * prod(shape[1:]) + self.padding_bytes(type_, shape[0])

    def repacks(self, type_: TensorType, shape: tuple[int, ...]) -> bool:
        """Whether a matrix is stored with its rows interleaved, where single rows cannot be read from."""
        if len(shape) < 2:
            return False
        rows = self.repacked.get(type_.name)
        return (rows is not None and not shape[1] % rows) or self._tiles(type_, shape) is not None

    def tile_bytes(self, type_: TensorType, shape: tuple[int, ...]) -> int:
        """Bytes that AMX's order of a matrix takes beside its own."""
        tiles = self._tiles(type_, shape)
        return prod(shape) // type_.block * tiles.more if tiles else 0

    def _tiles(self, type_: TensorType, shape: tuple[int, ...]) -> Tiles | None:
        tiles = self.tiles.get(type_.name)
        if tiles is None or len(shape) != 2 or shape[1] % tiles.rows or shape[0] % tiles.columns:
            return None
        return tiles

    def padding_bytes(self, type_: TensorType, ne0: int) -> int:
        """Count the bytes that complete the last row of a quantized tensor (ggml-cuda.cu:911-916).

        A row may be a head of a wider row, and no multiple of the block: the engine then rounds down.
        """
        if not self.row_padding or type_.block == 1 or not ne0 % self.row_padding:
            return 0
        return (self.row_padding - ne0 % self.row_padding) * type_.block_bytes // type_.block

    def tensor_bytes(self, t: Tensor) -> int:
        """Count the bytes that a tensor asks for, before alignment, where its operation needs no scratch."""
        return n_bytes(t) + self.padding_bytes(t.type, t.ne[0]) if t.type.block > 1 else n_bytes(t)

    def node_bytes(self, node: Node) -> int:
        """Count the bytes that a node of a graph asks for, before alignment (get_alloc_size)."""
        t = node.tensor
        size = self.with_scratch(n_bytes(t), node)
        return size + self.padding_bytes(t.type, t.ne[0]) if t.type.block > 1 else size

    def with_scratch(self, size: int, node: Node) -> int:
        """Add a node's scratch to the `size` of its result, in bytes."""
        rule = self.scratch.get(node.tensor.op)
        return size if rule is None else rule(size, node)

    def is_sure_of(self, node: Node) -> bool:
        """Whether all kinds of card that this one may be take the same bytes for a node, and can run it."""
        reach = self.reached_tensor
        if reach and any(n_bytes(t) > reach for t in (node.tensor, *node.src)):
            return False
        return len({b.with_scratch(0, node) for b in self.may_be}) < 2

    @property
    def has_doubts(self) -> bool:
        """Whether a node must be looked at before figures are called exact (`is_sure_of`)."""
        return bool(self.may_be or self.reached_tensor)

    def supports_op(self, node: Tensor, src: Sequence[Tensor]) -> bool:
        """Tell whether the backend can run a node with these sources, wherever they are."""
        if self.ops is not None and node.op not in self.ops:
            return False
        if self.max_tensor and self.is_too_large(node, src):
            return False
        condition = self.conditions.get(node.op)
        return condition is None or condition(node, src)

    def is_too_large(self, node: Tensor, src: Sequence[Tensor]) -> bool:
        """Tell whether a node or a source of it is above the largest tensor."""
        return any(n_bytes(t) > self.max_tensor for t in (node, *src))

    def offload_op(self, op: str, ne: Extents) -> bool:
        """Tell whether the backend takes over an operation whose weight stays on the host."""
        if not self.offload_batch or (self.offload_ops and op not in self.offload_ops):
            return False
        return _batch(op, ne) >= self.offload_batch


def _batch(op: str, ne: Extents) -> int:
    """Count the rows that an operation computes (get_op_batch_size, ggml-cuda.cu:5636)."""
    if op == "GET_ROWS":
        return 0
    if op == "MUL_MAT":
        return ne[1]
    if op in ("MUL_MAT_ID", "ROPE", "ROPE_BACK"):
        return ne[2]
    return ne[1] * ne[2] * ne[3]
