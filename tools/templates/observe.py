"""A traced graph → its blocks, in the words of a template.

In: a `Dump` of the engine, the `Model` and the `Run` it was traced with. Out: one `Block` of `Seen` lines
for the prologue, each layer and the epilogue. Extents are still numbers; `merge` and `infer` do the rest.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tools.engine.trace import CACHE, HOST, NONE, WEIGHT, Dump, Node
from vramfit._graphs.dims import FUSED, Run, Scope, layer_weights, outer_weights, owner, run_dims, traits
from vramfit._graphs.rules import view_root
from vramfit._llama.cparams import cells
from vramfit._llama.memory import cache_rows
from vramfit._llama.model import Layer, Model

INPUT, OUTPUT = 1, 2
_LOOKS = frozenset(("VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"))  # compute nothing
_SUFFIX = re.compile(r"-(\d+)(?= |$)")
_CACHE_NAME = re.compile(r"(?:cache_)?(.+?)(?:_l|-)(\d+)$")
_BLK = re.compile(r"blk\.(\d+)\.(.+)$")

# What a line reads: ("@", weight of the layer), ("$", weight outside), ("%", cache), ("t", tensor of the dump)
Ref = tuple[str, object]


@dataclass(eq=False)
class Seen:
    """One tensor of a traced block."""

    id: int  # in the dump
    op: str
    name: str
    node: Node
    refs: tuple[Ref, ...]
    sources: tuple[Node, ...]
    marks: frozenset[str]
    outer: bool = False  # depends on no layer
    count: int = 0  # of the slices that are summed
    inputs: tuple[str, ...] = ()  # the inputs that it reads, told apart
    grown: tuple[tuple[str, str], ...] = ()  # what unnamed concatenations that it reads began with


@dataclass(eq=False)
class Traced:
    """One graph, cut into blocks: -1 is the prologue, n_layer the epilogue."""

    model: Model
    run: Run
    dump: Dump
    blocks: dict[int, list[Seen]]
    fused: frozenset[str]
    scopes: dict[int, Scope] = field(default_factory=dict)
    signatures: dict[int, tuple[object, ...]] = field(default_factory=dict)
    _readers: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def readers(self) -> dict[int, set[int]]:
        """The blocks that read each tensor."""
        if not self._readers:
            for b, lines in self.blocks.items():
                for kind, what in ((k, w) for x in lines for k, w in x.refs):
                    if kind == "t" and isinstance(what, int):
                        self._readers[what].add(b)
        return self._readers

    def scope(self, block: int) -> Scope:
        """The names of a block."""
        if block not in self.scopes:
            n = n_trunk(self.model)
            layer = self.model.layers[block] if 0 <= block < n else None
            own = layer_weights(self.model)[block] if layer is not None else {}
            self.scopes[block] = Scope(
                self.model, self.run, outer_weights(self.model), run_dims(self.model, self.run), layer, own
            )
        return self.scopes[block]

    def layer(self, block: int) -> Layer | None:
        return self.model.layers[block] if 0 <= block < n_trunk(self.model) else None


_INDEXES = {"indexer": "lid"}  # kinds of caches whose indexes go by another name


class Untraceable(Exception):
    """A graph that the format cannot express; the text is the reason."""


class Ambiguous(Untraceable):
    """Tensors of this trace cannot be told apart; other sizes can help."""


def n_trunk(model: Model) -> int:
    """Layers of the main graph."""
    return sum(not x.is_nextn for x in model.layers)


def observe(dump: Dump, model: Model, run: Run) -> Traced:
    """Cut a graph into blocks."""
    return _Observer(dump, model, run).traced()


class _Observer:
    def __init__(self, dump: Dump, model: Model, run: Run) -> None:
        self.dump, self.model, self.run = dump, model, run
        self.t = dump.tensors
        self.n = n_trunk(model)
        self.layers = layer_weights(model)
        self.lay: dict[int, int] = {}
        self.cut: dict[int, int] = {}
        self.early: dict[int, int] = {}
        self.told: dict[int, str] = {}
        self.rotated = {t.src[1] for t in self.t if _is_rotation(t)}
        self.picked = {t.src[0]: t.src[1] for t in self.t if t.op == "GET_ROWS"}

    def traced(self) -> Traced:
        self._assign()
        blocks: dict[int, list[Seen]] = {b: [] for b in range(-1, self.n + 1)}
        inputs = self._inputs()
        folded = self._folds()
        waiting: set[int] = set()
        before: dict[int, list[Seen]] = {}
        current = -1
        for i in self.dump.nodes:
            b = self.cut[i]
            to = blocks[b]
            if i in self.early:
                if b not in waiting:
                    waiting.add(b)
                    blocks[current].append(Seen(-1 - b, "next", "next", self.t[i], (), (), frozenset()))
                to = before.setdefault(b, [])
            else:
                current = b
            for leaf in inputs.get(i, ()):
                to.append(self._input(leaf, b))
            if i in folded:
                if folded[i] is not None:
                    to.append(folded[i])
                continue
            to.append(self._seen(i, b))
        for b, lines in before.items():
            for x in lines:
                x.marks |= {"early"}
            blocks[b] = lines + blocks[b]
        for b, lines in blocks.items():
            blocks[b] = self._caches(lines, b) + lines
        fused = frozenset(x.op.lower() for x in self.t) & FUSED
        return Traced(self.model, self.run, self.dump, blocks, fused)

    # which block

    def _own_layer(self, i: int) -> int:
        """The layer that a tensor tells by its name or its direct sources; -1 for none."""
        t = self.t[i]
        if t.usage == WEIGHT:
            m = _BLK.match(t.name)
            return int(m[1]) if m else -1
        if t.usage == CACHE and t.op == "NONE":
            m = _CACHE_NAME.match(t.name)
            return int(m[2]) if m else -1
        m = _SUFFIX.search(t.name)
        if m and int(m[1]) < self.n and t.op != "NONE":
            return int(m[1])
        return -1

    def _assign(self) -> None:
        current, last = -1, -1
        for i in self.dump.nodes:
            direct = self._own_layer(i)
            if direct < 0:
                direct = max(
                    (self._own_layer(s) for s in self.t[i].src if self.t[s].op == "NONE"), default=-1
                )
            self.lay[i] = max([direct, *(self.lay.get(s, -1) for s in self.t[i].src)])
            if direct >= 0:
                last = i
        self._find_early()
        for i in self.dump.nodes:
            if i in self.early:
                self.cut[i] = self.early[i]
                continue
            current = max(current, min(self.lay[i], self.n - 1))
            self.cut[i] = current if i <= last or last < 0 else self.n
        if last < 0:
            for i in self.dump.nodes:
                self.cut[i] = -1

    def _find_early(self) -> None:
        """Nodes that come before their layer because they depend on its caches and weights, or on layers before the
        last, alone: the engine puts them into the graph while what the layer before still has to compute waits for
        its reader.
        """
        users: dict[int, list[int]] = {}
        free: set[int] = set()
        start: dict[int, int] = {}
        for place, i in enumerate(self.dump.nodes):
            t = self.t[i]
            for s in t.src:
                users.setdefault(s, []).append(i)
            sources = [s for s in t.src if self.t[s].op != "NONE" and s != i]
            weighs = any(self.t[s].usage == WEIGHT and self.t[s].op == "NONE" for s in t.src)
            if (all(s in free for s in sources) and (not weighs or t.op in _LOOKS)) or (
                weighs and self.lay[i] > 0 and all(self.lay[s] < self.lay[i] - 1 for s in sources)
            ):
                free.add(i)
            else:
                start.setdefault(self.lay[i], place)
        for place, i in reversed(list(enumerate(self.dump.nodes))):
            layer = self.lay[i]
            if i not in free:
                to = {self.early.get(u, -1) for u in users.get(i, [])}
                if len(to) == 1 and layer < min(to) - 1 and place < start.get(min(to), 0):
                    self.early[i] = min(to)
                continue
            if layer < 0:
                reader = users.get(i, [i])[0]
                if reader in self.early and place < start.get(self.early[reader], 0):
                    self.early[i] = self.early[reader]
            elif layer < self.n and place < start.get(layer, 0):
                self.early[i] = layer

    # leafs

    def _inputs(self) -> dict[int, list[int]]:
        """For each node the leafs that come into the graph just before it, in the order of the leafs."""
        leafs = [i for i in self.dump.leafs if self.t[i].usage == 0]
        first: dict[int, int] = {}
        for i in self.dump.nodes:
            for s in self.t[i].src:
                first.setdefault(s, i)
        where, at = [], NONE
        for leaf in reversed(leafs):  # a leaf that nobody reads comes with the one before
            if leaf in first:
                at = first[leaf] if at == NONE else min(at, first[leaf])
            where.append(at if leaf in first else NONE)
        where.reverse()
        found: dict[int, list[int]] = {}
        for n, leaf in enumerate(leafs):
            if where[n] == NONE:
                where[n] = where[n - 1] if n else self.dump.nodes[0]
            found.setdefault(where[n], []).append(leaf)
        return found

    def _input(self, i: int, block: int) -> Seen:
        t = self.t[i]
        marks = {"once"} | ({"input"} if t.flags & INPUT else set())
        if not any(i in self.t[n].src for n in self.dump.nodes):
            marks.add("unread")
        return Seen(i, "input", self._told(i), t, (), (), frozenset(marks), outer=True)

    def _tell_apart(self, i: int, name: str) -> str:
        """Inputs of one name: those of sliding-window layers get a suffix; of others that a layer reads
        several of, the further ones a number.
        """
        same = [j for j in self.dump.leafs if self.t[j].usage == 0 and self.t[j].name == name]
        if len(same) < 2:
            return name
        suffix = ".swa" if self._of_windows(i) else ""
        number = [j for j in same if self._of_windows(j) == bool(suffix)].index(i)
        return f"{name}{suffix}.{number + 1}" if number else name + suffix

    def _by_reader(self, i: int) -> str:
        """A leaf without a name; those that all layers read are told by the operation that reads them first."""
        if not self.t[i].flags & INPUT:
            return "constant"
        unnamed = [
            j for j in self.dump.leafs if self.t[j].name.startswith("leaf_") and self.t[j].flags & INPUT
        ]
        reads = {
            j: next((self.t[n].op for n in self.dump.nodes if j in self.t[n].src), "none") for j in unnamed
        }
        number = [j for j in unnamed if reads[j] == reads[i]].index(i)
        return f"constant.{reads[i].lower()}" + (f".{number + 1}" if number else "")

    def _of_windows(self, i: int) -> bool:
        """Whether only sliding-window layers read an input."""
        users = [self.cut[n] for n in self.dump.nodes if i in self.t[n].src]
        return {self.model.layers[b].is_swa for b in users if 0 <= b < self.n} == {True}

    def _caches(self, lines: list[Seen], block: int) -> list[Seen]:
        found: dict[str, Seen] = {}
        for line in lines:
            for kind, what in line.refs:
                if kind == "%" and what not in found:
                    i = (
                        next(
                            s
                            for s in line.node.src
                            if self.t[s].usage == CACHE and self._cache_name(s) == what
                        )
                        if line.id >= 0
                        else -1
                    )
                    found[str(what)] = Seen(
                        i, "cache", f"%{what}", self.t[i], (), (), frozenset(), outer=True
                    )
        return list(found.values())

    # nodes

    def _seen(self, i: int, block: int) -> Seen:
        t = self.t[i]
        op, src = t.op.lower(), t.src
        if op == "permute":
            op += "." + "".join(map(str, t.params[:4]))
        elif op == "concat":
            op += f".{t.params[0]}"
        elif op == "cpy" and i in src:
            op, src = "cast", tuple(s for s in src if s != i)
        elif i in self.rotated and op in ("cont", "reshape"):
            op = "flat"
        elif op == "repeat" and i in self.picked:
            op, src = "repeat.for", (*src, self.picked[i])
        marks = set()
        if t.view != NONE and view_root(op) is None and op != "flat":
            marks.add("inplace")
        if t.view != NONE and src:
            root = 0 if "inplace" in marks else view_root(op)
            if root is not None and t.offset > self.t[src[root]].offset:
                marks.add("within")
        if t.flags & OUTPUT:
            marks.add("output")
        if t.flags & INPUT:
            marks.add("input")
        if t.pinned != NONE:
            marks.add("kv" if t.pinned == HOST else "layer")
        if _is_rotation(t):
            marks.add("hadamard")
        if t.op == "MUL_MAT_ID" and any(t.params[3:4]):
            marks.add("precise")
        if t.op == "FLASH_ATTN_EXT" and any(t.params[1:2]):
            marks.add("alibi")
        refs = tuple(self._ref(s, block) for s in src)
        outer = block >= 0 and block < self.n and self.lay[i] < 0
        read = tuple(self._told(s) for s in src if self.t[s].op == "NONE" and self.t[s].usage == 0)
        sources, grown = tuple(self.t[s] for s in src), tuple(g for s in src for g in self._grown(s))
        return Seen(i, op, base_name(t.name), t, refs, sources, frozenset(marks), outer, 0, read, grown)

    def _grown(self, s: int) -> Iterator[tuple[str, str]]:
        """What a chain of unnamed concatenations began with: operation and name."""
        first = s
        while self.t[first].op == "CONCAT" and not base_name(self.t[first].name):
            first = self.t[first].src[0]
        if first != s:
            yield self.t[first].op, base_name(self.t[first].name)

    def _told(self, i: int) -> str:
        if i not in self.told:
            name = self.t[i].name
            self.told[i] = self._by_reader(i) if name.startswith("leaf_") else self._tell_apart(i, name)
        return self.told[i]

    def _ref(self, s: int, block: int) -> Ref:
        t = self.t[s]
        if t.usage == WEIGHT and t.op == "NONE":
            m = _BLK.match(t.name)
            if m is None:
                return ("$", t.name)
            own = self.layers[block].get(m[2]) if 0 <= block < self.n else None
            if own is None or self.model.weights[own].tensor.name != t.name:
                raise Untraceable(f"layer {block} reads {t.name}")
            return ("@", m[2])
        if t.usage == CACHE and t.op == "NONE":
            return ("%", self._cache_name(s))
        return ("t", s)

    def _cache_name(self, i: int) -> str:
        """The engine's name without the layer; where a layer has several caches of one name, with the kind."""
        t = self.t[i]
        m = _CACHE_NAME.match(t.name)
        if m is None:
            return t.name
        same = [j for j in self.dump.leafs if self.t[j].usage == CACHE and self.t[j].name == t.name]
        if len(same) < 2:
            return m[1]
        context = self.run.context
        kinds = [
            cache.kind
            for cache in owner(self.model, self.model.layers[int(m[2])]).caches
            if t.ne[:2]
            in [(width, cells(cache, context)) for _, width in cache_rows(self.model, cache, context)]
        ]
        if not kinds:
            raise Untraceable(f"{t.name} {t.ne} is no cache of the layer")
        kind = kinds[0] if len(kinds) == 1 else self._written_as(i, kinds)
        return m[1] if kind == "kv" else f"{m[1]}.{kind}"

    def _written_as(self, i: int, kinds: Sequence[str]) -> str:
        """Of several kinds the one that a cache is by the name of the indexes that it is written with."""
        indexes = [
            self.t[n.src[1]].name
            for n in map(self.t.__getitem__, self.dump.nodes)
            if n.op == "SET_ROWS" and n.view == i
        ]
        found = [k for k in kinds if any(f"_{_INDEXES.get(k, k)}_" in name for name in indexes)]
        if len(found) > 1 or not (found or "kv" in kinds) or not indexes:
            raise Ambiguous(f"{self.t[i].name} {self.t[i].ne} may be {' or '.join(kinds)}")
        return found[0] if found else "kv"

    def _folds(self) -> dict[int, Seen | None]:
        """Sums over the slices of a tensor that the engine unrolls: the line stands for the last node."""
        found: dict[int, Seen | None] = {}
        nodes = self.dump.nodes
        at = 0
        while at < len(nodes):
            n, heads = self._slices(nodes, at), self._heads(nodes, at)
            if n > 1 and self._sums(nodes[at : at + n], nodes[at + n : at + 2 * n - 1]):
                found |= self._fold("sum_slices", nodes[at : at + 2 * n - 1], n)
                at += 2 * n - 1
            elif heads:
                found |= self._fold("sum_heads", nodes[at : at + 2 * heads], heads)
                at += 2 * heads
            else:
                at += 1
        return found

    def _fold(self, op: str, nodes: Sequence[int], n: int) -> dict[int, Seen | None]:
        last, src = nodes[-1], self.t[nodes[0]].src[0]
        t = self.t[last]
        ref = self._ref(src, self.cut[last])
        line = Seen(last, op, base_name(t.name), t, (ref,), (self.t[src],), frozenset(), False, n)
        return {**dict.fromkeys(nodes), last: line}

    def _heads(self, nodes: list[int], at: int) -> int:
        """How many slices are copied or added one by one from `at` on, all of one tensor; 0 for none."""
        first = self.t[nodes[at]]
        if first.op != "VIEW":
            return 0
        x = self.t[first.src[0]]
        n = x.ne[1]
        if n < 2 or first.ne != (x.ne[0], x.ne[2], x.ne[3], 1) or x.op == "NONE" or at + 2 * n > len(nodes):
            return 0
        total = NONE
        for i, (j, k) in enumerate(
            zip(nodes[at : at + 2 * n : 2], nodes[at + 1 : at + 2 * n : 2], strict=True)
        ):
            t, result = self.t[j], self.t[k]
            if (t.op, t.src, t.ne, t.offset - x.offset) != ("VIEW", first.src, first.ne, i * x.nb[1]):
                return 0
            if (result.op, result.src) != (("ADD", (total, j)) if i else ("CONT", (j,))):
                return 0
            total = k
        return n

    def _slices(self, nodes: list[int], at: int) -> int:
        """How many nodes from `at` on are the slices of one tensor, all of them."""
        first = self.t[nodes[at]]
        if first.op != "VIEW":
            return 0
        x = self.t[first.src[0]]
        if x.ne[3] != 1 or first.ne != (x.ne[0], x.ne[2], 1, 1) or x.op == "NONE":
            return 0
        n = x.ne[1]
        for i, j in enumerate(nodes[at : at + n]):
            t = self.t[j]
            if (
                t.op != "VIEW"
                or t.src != first.src
                or t.ne != first.ne
                or t.nb[1] != x.nb[2]
                or t.offset - x.offset != i * x.nb[1]
            ):
                return 0
        return n if at + n <= len(nodes) else 0

    def _sums(self, slices: list[int], chain: list[int]) -> bool:
        total = slices[0]
        for one, j in zip(slices[1:], chain, strict=False):
            if self.t[j].op != "ADD" or self.t[j].src != (total, one) or self.t[j].flags & OUTPUT:
                return False
            total = j
        return len(chain) == len(slices) - 1


def _is_rotation(t: Node) -> bool:
    """Whether a tensor is multiplied by the matrix that rotates what quantized caches hold."""
    return t.op == "MUL_MAT" and t.params[1:2] == (1,)  # GGML_HINT_SRC0_IS_HADAMARD


def base_name(name: str) -> str:
    """The engine's name without the layer and without what views add; "" for none."""
    if name.startswith(("node_", "leaf_")):
        return ""
    name = re.sub(r"^blk\.\d+\.", "", _SUFFIX.sub("", name.split(" (")[0]))
    m = re.match(r"(cache_)?(.+)_l\d+$", name)
    if m:
        name = f"{m[2]}_cache" if m[1] else m[2]
    return re.sub(r"[^\w.]", "_", name)


def kind_traits(traced: Traced, block: int) -> tuple[str, ...]:
    """Traits of a block: of its layer, or which end of the graph it is."""
    layer = traced.layer(block)
    return traits(layer) if layer is not None else ("prologue" if block < 0 else "epilogue",)
