"""Replay the backend scheduler: which backend runs each node, where the graph is split, and what is copied between splits.

In: a `Graph` and the backends. Out: a `Schedule`: the graph that the allocator walks. A replay of
`ggml_backend_sched_split_graph` (ggml/src/ggml-backend.cpp:1066-1588), pass by pass; line numbers
below are of that file.

Backends are numbered as the engine ranks them: the devices in order, the CPU last. A buffer belongs
to exactly one backend (each device reads its own memory, the CPU all host memory), so the number of
a backend also names its buffer type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .._base.errors import EngineRefusal
from .backends import Backend, Node, SplitGraph, host_of
from .backends.rpc import answers
from .graph import HOST, INPUT, NONE, OUTPUT, VIEW_OPS, WEIGHT, Graph, Tensor, n_bytes

__all__ = ["PIPELINE_COPIES", "Schedule", "Split", "copies_of_inputs", "node_of", "schedule"]

PIPELINE_COPIES: Final = 4  # GGML_SCHED_MAX_COPIES
MAX_SOURCES: Final = 10  # GGML_MAX_SRC
_UNSET: Final = -1
# Too small a weight to draw the node to its backend: RoPE factors, attention sinks (951-955).
_UNMOVED: Final = frozenset({"ROPE", "FLASH_ATTN_EXT"})


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
    in_place: bool = True  # whether all results that can take over the memory of a source do
    leaders: dict[int, int] = field(
        default_factory=dict
    )  # of the nodes that a backend ordered: the first of each one's batch
    answers: dict[int, int] = field(
        default_factory=dict
    )  # of nodes on other machines: the earlier one whose bytes theirs are taken for


def copies_of_inputs(
    devices: Sequence[Backend], *, all_layers: bool, split_by_layer: bool, offload_kqv: bool, overrides: bool
) -> int:
    """Count the copies of each input that the scheduler keeps: several with pipeline parallelism, else one.

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
    backends = (*devices, host_of(devices))
    home = _homes(graph, len(devices))
    on = _assign(graph, backends, home, op_offload)
    return _Splitter(graph, backends, home, on, n_copies).run()


def node_of(i: int, tensors: Sequence[Tensor], src: tuple[int, ...]) -> Node:
    """Put tensor `i` and these sources into the form in which a backend is asked about a node."""
    return Node(tensors[i], tuple([tensors[s] for s in src]), src)


# --- passes 1 to 4: every tensor gets a backend


def _assign(graph: Graph, backends: tuple[Backend, ...], home: list[int], op_offload: bool) -> list[int]:
    """Give each tensor the number of a backend, in the engine's four passes and a check."""
    tensors = graph.tensors
    cpu = len(backends) - 1
    refused = _refusals(graph, backends)
    on = [_UNSET] * len(tensors)
    for i in graph.leafs:
        _check_reach(tensors[i], home[i], backends)
        on[i] = home[i] if home[i] != NONE else cpu if tensors[i].flags & INPUT else _UNSET
    for i in graph.nodes:
        t = tensors[i]
        on[i] = _first_choice(t, i, tensors, home, refused, backends, op_offload)
    work = [i for i in graph.nodes if tensors[i].op not in VIEW_OPS]
    _expand(work, on, refused, cpu)
    _place_rest(work, graph, on, home, refused, len(backends))
    _follow(graph, on, refused, len(backends))
    _check_servers(work, tensors, on, backends)
    return on


def _check_servers(
    work: Sequence[int], tensors: Sequence[Tensor], on: Sequence[int], backends: tuple[Backend, ...]
) -> None:
    """Refuse what an rpc-server is given to run and cannot: the engine does not ask, and the server ends itself."""
    if not any(b.behind for b in backends):
        return
    for i in work:
        rules, t = backends[on[i]].behind, tensors[i]
        if rules and not rules.supports_op(t, [tensors[s] for s in t.src]):
            raise EngineRefusal(
                f"{rules.name} does not run {t.op} on {_said(t, tensors)}, and over RPC the engine does not ask: the"
                " rpc-server would end itself. Take another type of cache, -fa off, or other cards for these layers"
            )


def _check_reach(t: Tensor, home: int, backends: tuple[Backend, ...]) -> None:
    """Raise `EngineRefusal` for a weight or a cache above the largest tensor of its device: it cannot be moved (GGML_ABORT, 941)."""
    if home >= 0 and backends[home].max_tensor and backends[home].is_too_large(t, ()):
        raise EngineRefusal(
            f"{t.name}: {n_bytes(t)} bytes on a device that reaches {backends[home].max_tensor}; the engine aborts. Take a shorter context or more devices"
        )


def _homes(graph: Graph, cpu: int) -> list[int]:
    """Find the backend whose buffer each tensor, or the tensor it views, already lies in; NONE for no buffer yet."""
    tensors = graph.tensors
    own = [cpu if t.home == HOST else t.home for t in tensors]
    return [own[i] if t.view == NONE else own[t.view] for i, t in enumerate(tensors)]


def _refusals(graph: Graph, backends: tuple[Backend, ...]) -> dict[int, frozenset[int]]:
    """Map each node that some backend cannot run to the backends that refuse it (supports_op)."""
    tensors = graph.tensors
    work = [i for i in graph.nodes if tensors[i].op not in VIEW_OPS]
    refused = _foreign_memory(work, tensors, backends)
    for rules in dict.fromkeys(backends):
        ops, conditions = rules.ops, rules.conditions
        here = frozenset(n for n, b in enumerate(backends) if b is rules)
        for i in work:
            t = tensors[i]
            if ops is not None and t.op not in ops:
                refused[i] = refused.get(i, frozenset()) | here
                continue
            condition = conditions.get(t.op)
            if condition is None and not rules.max_tensor:
                continue
            if not rules.supports_op(t, [tensors[s] for s in t.src]):
                refused[i] = refused.get(i, frozenset()) | here
    return refused


def _foreign_memory(
    work: Sequence[int], tensors: Sequence[Tensor], backends: tuple[Backend, ...]
) -> dict[int, frozenset[int]]:
    """Add the refusals of devices that read only their own memory, for nodes that read another device's tensor.

    A view has no buffer of its own yet when the engine asks, so it does not count.
    """
    strict = frozenset(n for n, b in enumerate(backends) if b.own_memory_only)
    refused: dict[int, frozenset[int]] = {}
    if len(strict) < 2:
        return refused
    others = [strict - {home} for home in range(len(backends))]
    placed = {i for i, t in enumerate(tensors) if t.home in strict}
    for i in work:
        for s in placed.intersection(tensors[i].src):
            refused[i] = refused.get(i, frozenset()) | others[tensors[s].home]
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
    """Pass 1 (921-985): put a node where the caller pinned it, where its result already lies, or where its weights are."""
    cpu = len(backends) - 1
    if t.pinned != NONE:
        return cpu if t.pinned == HOST else t.pinned
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
        if op_offload and where == cpu and not _is_repacked(t, tensors[s], backends):
            for b in range(cpu):
                if b not in bad and backends[b].offload_op(t.op, t.ne):
                    return b
        return where
    return _UNSET


def _is_repacked(node: Tensor, weight: Tensor, backends: tuple[Backend, ...]) -> bool:
    """Tell whether a weight on the host is stored in an order that only the CPU reads (ggml_backend_buffer_is_host, 976).

    Repacked is what no device's pinned memory takes first (make_cpu_buft_list, llama-model.cpp:1078): matrices, and
    experts in one tensor (repack.cpp:5183).
    """
    if node.op != ("MUL_MAT" if weight.ne[2] == 1 else "MUL_MAT_ID"):
        return False
    pinned = any(b.host_buffer for b in backends[:-1])
    return not pinned and backends[-1].repacks(weight.type, weight.ne)


def _expand(work: list[int], on: list[int], refused: dict[int, frozenset[int]], cpu: int) -> None:
    """Pass 2 (1117-1195): give unassigned nodes the backend of a neighbour: devices down, then up; then all backends."""
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
    """Pass 3 (1204-1262): put each node still unassigned on the supporting backend that holds most of its sources.

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
    """Find the backend whose buffer type a tensor has or will have; unset while unknown (1037-1056)."""
    if home[i] != NONE:
        return home[i]
    return on[i] if on[i] != _UNSET or t.view == NONE else on[t.view]


def _follow(graph: Graph, on: list[int], refused: dict[int, frozenset[int]], n_backends: int) -> None:
    """Pass 4 (1265-1293): put unassigned views beside the tensor they view, and unassigned sources beside their reader."""
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
            on[i] = next((b for b in range(n_backends) if b not in bad), _UNSET)
            if on[i] == _UNSET:  # GGML_ASSERT, 1294
                raise EngineRefusal(
                    f"{t.name}: no device, nor the host, runs {t.op} on {_said(t, tensors)}; the engine aborts"
                )


def _said(t: Tensor, tensors: Sequence[Tensor]) -> str:
    """List the sources of a node for an error message."""
    return " and ".join(tensors[s].type.name for s in t.src[:2])


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
        self.order = list(graph.nodes)  # as the backends run them
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
        kept = self._optimize()
        self._list_nodes(kept)
        self._list_leafs()
        self.out.answers.update(answers(self.out.nodes, self.out.tensors, self.out.backends))
        return self.out

    def _cut(self) -> None:
        """Pass 5 (1296-1402): start a split where the backend changes, or where a weight has to be copied in."""
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
        """Tell whether tensor `i`, which another backend computes or holds, also lies in memory that is not `here`."""
        home = self.home[i]
        return (home if home != NONE else self.on[i]) != here

    def _brings_weight(self, t: Tensor, here: int) -> bool:
        """Tell whether a node copies in a weight, for which a new split starts so that earlier copies can be freed (1325-1341)."""
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
        """Append a tensor of the same layout, gaps included (ggml_dup_tensor_layout, 749); return its index."""
        t = self.graph.tensors[i]
        return self._add(Tensor(t.name, "NONE", t.type, t.ne, t.nb), flags)

    def _add(self, t: Tensor, flags: int = 0) -> int:
        self.out.tensors.append(t)
        self.out.src.append(t.src)
        self.out.flags.append(flags)
        return len(self.out.tensors) - 1

    def _optimize(self) -> dict[int, list[int]]:
        """Let each backend reorder its nodes; return the tensors it keeps alive, by the node until which (1442-1468)."""
        graph, out = self.graph, self.out
        kept: dict[int, list[int]] = {}

        def keep(tensor: int, until: int) -> None:
            found = kept.setdefault(until, [])
            if tensor not in found:
                found.append(tensor)

        uses = _Uses(graph)
        for split in out.splits:
            optimize = out.backends[split.backend].graph_optimize
            if optimize is None:
                continue
            batches = optimize(
                SplitGraph(out.tensors, out.src, graph.nodes, split.start, split.end, uses.of), keep
            )
            if batches is not None:
                self.order[split.start : split.end] = [i for batch in batches for i in batch]
                out.leaders.update((i, batch[0]) for batch in batches for i in batch)
        return kept

    def _list_nodes(self, kept: Mapping[int, Sequence[int]]) -> None:
        """List the nodes that the allocator walks: of each split the copies of its inputs, then its own (1490-1541).

        A dependency keeps the source of a copy alive until the copy is placed; behind a node stand those of
        the tensors that are kept until it has run.
        """
        on, nodes, out = self.on, self.order, self.out
        for split in out.splits:
            for s in split.inputs:
                out.nodes.append((self._depend((s,)), on[s]))
                out.nodes.append((self.copies[s, split.backend][0], split.backend))
            for i in nodes[split.start : split.end]:
                out.nodes.append((i, on[i]))
                if i in kept:
                    for at in range(0, len(kept[i]), MAX_SOURCES):
                        sources = tuple(kept[i][at : at + MAX_SOURCES])
                        out.nodes.append((self._depend(sources), split.backend))

    def _depend(self, sources: tuple[int, ...]) -> int:
        """Append a node that computes nothing and reads `sources`, so that they stay alive until it has run."""
        t = self.out.tensors[sources[0]]
        root = t.view if t.view != NONE else sources[0]
        return self._add(Tensor(t.name, "NONE", t.type, t.ne, t.nb, sources, root))

    def _list_leafs(self) -> None:
        """List the leafs; with pipeline parallelism the copies of all inputs come first and are never freed (1404-1432, 1547-1583)."""
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


class _Uses:
    """Counts how often each tensor of a graph is read (use_counts, ggml.c), when it is first asked."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._counts: list[int] = []

    def of(self, i: int) -> int:
        """Count the reads of tensor `i`."""
        if not self._counts:
            self._counts = [0] * len(self._graph.tensors)
            for n in self._graph.nodes:
                for s in self._graph.tensors[n].src:
                    self._counts[s] += 1
        return self._counts[i]
