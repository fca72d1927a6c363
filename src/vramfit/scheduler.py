"""Which backend runs every node, where the graph is cut, and what is copied across the cuts.

In: a `Graph` and the backends. Out: a `Schedule`: the graph that the allocator walks. A replay of
`ggml_backend_sched_split_graph` (ggml/src/ggml-backend.cpp:1066-1588), pass by pass; line numbers
below are of that file.

Backends are numbered as the engine ranks them: the devices in order, the CPU last. A buffer belongs
to exactly one backend (each device reads its own memory, the CPU all host memory), so the number of
a backend also names its buffer type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .backends import HOST_BACKEND, Attention, Backend
from .graph import INPUT, NONE, OUTPUT, VIEW_OPS, WEIGHT, Graph, Tensor

__all__ = ["PIPELINE_COPIES", "Schedule", "Split", "attention", "copies_of_inputs", "schedule"]

PIPELINE_COPIES: Final = 4  # GGML_SCHED_MAX_COPIES
_UNSET: Final = -1
_HADAMARD: Final = 1  # GGML_HINT_SRC0_IS_HADAMARD, the second parameter of MUL_MAT
# Too small a weight to draw the node to its backend: RoPE factors, attention sinks (951-955).
_UNMOVED: Final = frozenset({"ROPE", "FLASH_ATTN_EXT"})
_RESTRICTED: Final = frozenset({"FLASH_ATTN_EXT", "MUL_MAT"})


@dataclass(slots=True, eq=False)
class Split:
    """A run of nodes on one backend, and the tensors copied to it before it starts."""

    backend: int
    start: int  # positions in `Graph.nodes`
    end: int
    inputs: list[int]


@dataclass(slots=True, eq=False)
class Schedule:
    """The graph as the allocator sees it. Indices are positions in `tensors`.

    `tensors` starts with those of the graph; copies and dependencies follow. `src` and `flags` take
    the place of the tensors' own.
    """

    backends: tuple[Backend, ...]
    tensors: list[Tensor]
    src: list[tuple[int, ...]]
    flags: list[int]
    leafs: list[tuple[int, int]]  # index, backend
    nodes: list[tuple[int, int]]
    splits: list[Split]
    copies: dict[tuple[int, int], list[int]]  # a tensor and the backend it is copied to: its copies
    sizes: Callable[[int, Backend], int] | None = (
        None  # padded bytes of a tensor, where they are known already
    )


def copies_of_inputs(
    devices: Sequence[Backend], *, all_layers: bool, split_by_layer: bool, offload_kqv: bool, overrides: bool
) -> int:
    """How many copies of each input the scheduler keeps: several with pipeline parallelism, else one.

    It needs several devices that compute asynchronously and hold everything: `all_layers` with the output
    layer, the cache too, and no tensor kept back (llama-context.cpp:430-455).
    """
    pipeline = (
        len(devices) > 1
        and all_layers
        and split_by_layer
        and offload_kqv
        and not overrides
        and all(d.async_events for d in devices)
    )
    return PIPELINE_COPIES if pipeline else 1


def schedule(
    graph: Graph, devices: Sequence[Backend], *, n_copies: int = 1, op_offload: bool = True
) -> Schedule:
    """Assign and split `graph` over `devices` and the CPU, with the nodes that the caller pinned.

    `n_copies` is `PIPELINE_COPIES` when pipeline parallelism is on, else 1.
    """
    backends = (*devices, HOST_BACKEND)
    home = _homes(graph, len(devices))
    on = _assign(graph, backends, home, op_offload)
    return _Splitter(graph, backends, home, on, n_copies).run()


def attention(tensors: Sequence[Tensor], src: Sequence[int]) -> Attention:
    """What the backends ask about a flash-attention node with these sources."""
    q, k, v = (tensors[i] for i in src[:3])
    shared = v.view != NONE and (v.view == src[1] or (v.view == k.view and v.offset == k.offset))
    mask = tensors[src[3]].ne if len(src) > 3 else (0, 0, 0, 0)
    return Attention(q.ne, k.ne, v.ne, k.type, v.type, mask, shared)


# --- passes 1 to 4: every tensor gets a backend


def _assign(graph: Graph, backends: tuple[Backend, ...], home: list[int], op_offload: bool) -> list[int]:
    """The backend of every tensor."""
    tensors = graph.tensors
    cpu = len(backends) - 1
    refused = _refusals(graph, backends)
    on = [_UNSET] * len(tensors)
    for i in graph.leafs:
        on[i] = home[i] if home[i] != NONE else cpu if tensors[i].flags & INPUT else _UNSET
    for i in graph.nodes:
        t = tensors[i]
        on[i] = _first_choice(t, i, tensors, home, refused, backends, op_offload)
    work = [i for i in graph.nodes if tensors[i].op not in VIEW_OPS]
    _expand(work, on, refused, cpu)
    _place_rest(work, graph, on, home, refused, len(backends))
    _follow(graph, on, refused, len(backends))
    return on


def _homes(graph: Graph, cpu: int) -> list[int]:
    """Backend that owns the buffer of each tensor, or of the root it views; NONE without a buffer."""
    tensors = graph.tensors
    own = [t.home if t.home >= NONE else cpu for t in tensors]
    return [own[i] if t.view == NONE else own[t.view] for i, t in enumerate(tensors)]


def _refusals(graph: Graph, backends: tuple[Backend, ...]) -> dict[int, frozenset[int]]:
    """For the nodes that some backend cannot run (supports_op): which backends those are."""
    tensors = graph.tensors
    refused = {}
    for i in graph.nodes:
        t = tensors[i]
        if t.op not in _RESTRICTED:
            continue
        if t.op == "MUL_MAT":
            a, b = (tensors[s].type for s in t.src[:2])
            if b.name == "f32":  # the usual case: everyone can
                continue
            hint = len(t.params) > 1 and t.params[1] == _HADAMARD
            bad = frozenset(n for n, be in enumerate(backends) if not be.runs_mul_mat(a, b, hint))
        else:
            node = attention(tensors, t.src)
            bad = frozenset(n for n, be in enumerate(backends) if not be.runs_attention(node))
        if bad:
            refused[i] = bad
    return refused


def _first_choice(
    t: Tensor,
    i: int,
    tensors: list[Tensor],
    home: list[int],
    refused: dict[int, frozenset[int]],
    backends: tuple[Backend, ...],
    op_offload: bool,
) -> int:
    """Pass 1 (921-985): the caller's choice, the buffer it writes to, or its weights; else unset."""
    cpu = len(backends) - 1
    if t.pinned != NONE:
        return t.pinned if t.pinned >= 0 else cpu
    bad = refused.get(i, ())
    if home[i] != NONE:
        return home[i] if home[i] not in bad else _UNSET
    if t.flags & INPUT:
        return cpu
    if t.op in _UNMOVED:
        return _UNSET
    for s in t.src:
        if tensors[s].usage != WEIGHT:
            continue
        where = home[s]
        if where in bad:
            return _UNSET
        if op_offload and where == cpu:
            for b in range(cpu):
                if b not in bad and backends[b].offloads(t.op, t.ne):
                    return b
        return where
    return _UNSET


def _expand(work: list[int], on: list[int], refused: dict[int, frozenset[int]], cpu: int) -> None:
    """Pass 2 (1117-1195): devices spread down, then up; then every backend down, then up."""
    backwards = work[::-1]
    for order, stop_at in ((work, cpu), (backwards, cpu), (work, _UNSET), (backwards, _UNSET)):
        current = _UNSET
        for i in order:
            here = on[i]
            if here != _UNSET:
                current = _UNSET if here == stop_at else here
            elif current != _UNSET and (i not in refused or current not in refused[i]):
                on[i] = current


def _place_rest(
    work: list[int],
    graph: Graph,
    on: list[int],
    home: list[int],
    refused: dict[int, frozenset[int]],
    n_backends: int,
) -> None:
    """Pass 3 (1204-1262): what nobody could reach goes where most of its sources are.

    The engine also moves nodes to a better backend with the same buffer type; no two have one here.
    """
    tensors = graph.tensors
    for i in work:
        if on[i] != _UNSET:
            continue
        best = -1
        for b in range(n_backends):
            if i in refused and b in refused[i]:
                continue
            near = sum(1 for s in tensors[i].src if _buffer_of(s, tensors[s], on, home) == b)
            if near > best:
                best, on[i] = near, b


def _buffer_of(i: int, t: Tensor, on: list[int], home: list[int]) -> int:
    """The backend whose buffer type a tensor has or will have; unset while unknown (1037-1056)."""
    if home[i] != NONE:
        return home[i]
    return on[i] if on[i] != _UNSET or t.view == NONE else on[t.view]


def _follow(graph: Graph, on: list[int], refused: dict[int, frozenset[int]], n_backends: int) -> None:
    """Pass 4 (1265-1293): views follow their root, sources their reader."""
    tensors = graph.tensors
    for i in graph.nodes:
        t = tensors[i]
        if on[i] == _UNSET and t.view != NONE:
            on[i] = on[t.view]
        for s in t.src:
            if on[s] == _UNSET:
                view = tensors[s].view
                on[s] = on[view] if view != NONE else on[i]
        if on[i] == _UNSET:
            bad = refused.get(i, ())
            on[i] = next(b for b in range(n_backends) if b not in bad)


# --- pass 5 and the copy of the graph


class _Splitter:
    """Cuts an assigned graph and writes the graph that the allocator walks."""

    def __init__(
        self, graph: Graph, backends: tuple[Backend, ...], home: list[int], on: list[int], n_copies: int
    ) -> None:
        self.graph = graph
        self.on = on
        self.n_copies = n_copies
        self.home = home
        self.out = Schedule(
            backends,
            list(graph.tensors),
            [t.src for t in graph.tensors],
            [t.flags for t in graph.tensors],
            [],
            [],
            [],
            {},
        )
        self.copies = self.out.copies

    def run(self) -> Schedule:
        self._cut()
        self._list_nodes()
        self._list_leafs()
        return self.out

    def _cut(self) -> None:
        """Pass 5 (1296-1402): a split ends where the backend changes, or a foreign weight comes in."""
        tensors, on, nodes = self.graph.tensors, self.on, self.graph.nodes
        split: Split | None = None
        for position, i in enumerate(nodes):
            t = tensors[i]
            if t.op in VIEW_OPS:
                continue
            here = on[i]
            if split is None:
                split = Split(here, 0, len(nodes), [])
                self.out.splits.append(split)
            elif here != split.backend or (split.inputs and self._brings_weight(t, here)):
                split.end = position
                split = Split(here, position, len(nodes), [])
                self.out.splits.append(split)
            for s in t.src:
                if on[s] != here and self._foreign(s, here):
                    self._bring_inputs(i, split)
                    break

    def _foreign(self, i: int, here: int) -> bool:
        """Whether a tensor that is assigned elsewhere also lies elsewhere."""
        home = self.home[i]
        return (home if home != NONE else self.on[i]) != here

    def _brings_weight(self, t: Tensor, here: int) -> bool:
        """By starting anew, the memory of weights copied before can be reused (1325-1341)."""
        tensors = self.graph.tensors
        return any(
            tensors[s].usage == WEIGHT and self.on[s] != here and self._foreign(s, here) for s in t.src
        )

    def _bring_inputs(self, i: int, split: Split) -> None:
        """Replace each foreign source of node `i` by its first copy on the split's backend."""
        here = split.backend
        sources = list(self.out.src[i])
        for j, s in enumerate(sources):
            if self.on[s] == here or not self._foreign(s, here):
                continue
            if (s, here) not in self.copies:
                flags = INPUT | OUTPUT if self.n_copies > 1 else 0
                self.copies[s, here] = [self._duplicate(s, flags) for _ in range(self.n_copies)]
                split.inputs.append(s)
            sources[j] = self.copies[s, here][0]
        self.out.src[i] = tuple(sources)

    def _duplicate(self, i: int, flags: int) -> int:
        """A tensor of the same layout, gaps and all (ggml_dup_tensor_layout, 749)."""
        t = self.graph.tensors[i]
        return self._add(Tensor(t.name, "NONE", t.type, t.ne, t.nb), flags)

    def _add(self, t: Tensor, flags: int = 0) -> int:
        self.out.tensors.append(t)
        self.out.src.append(t.src)
        self.out.flags.append(flags)
        return len(self.out.tensors) - 1

    def _list_nodes(self) -> None:
        """The nodes of each split after its inputs (1490-1541).

        A dependency keeps the source of a copy alive until the copy is placed.
        """
        tensors, on, nodes, out = self.graph.tensors, self.on, self.graph.nodes, self.out
        for split in out.splits:
            for s in split.inputs:
                t = tensors[s]
                root = t.view if t.view != NONE else s
                dependency = Tensor(t.name, "NONE", t.type, t.ne, t.nb, (s,), root)
                out.nodes.append((self._add(dependency), on[s]))
                out.nodes.append((self.copies[s, split.backend][0], split.backend))
            out.nodes += [(i, on[i]) for i in nodes[split.start : split.end]]

    def _list_leafs(self) -> None:
        """With pipeline parallelism the copies of all inputs come first, and live on (1404-1432, 1547-1583)."""
        out, on = self.out, self.on
        if self.n_copies > 1:
            for i in self.graph.leafs:
                if not out.flags[i] & INPUT:
                    continue
                out.flags[i] |= OUTPUT
                here = on[i]
                copies = [i, *(self._duplicate(i, INPUT | OUTPUT) for _ in range(1, self.n_copies))]
                out.leafs += [(c, here) for c in copies]
            for split in out.splits:
                for s in split.inputs:
                    out.leafs += [(c, split.backend) for c in self.copies[s, split.backend]]
        out.leafs += [(i, on[i]) for i in self.graph.leafs if self.graph.tensors[i].home == NONE]
