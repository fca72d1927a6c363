"""Template + model + reservation + devices → `Graph`.

In: a `Prepared` model, a `Run`, a `Placement`. Out: the graph that the engine would hand to its scheduler,
tensor by tensor, of as many layers as it is asked for. Where the template does not cover the run,
`OutsideTemplate` is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple

from .._ggml.graph import CACHE, COMPUTE, HOST, INPUT, NONE, WEIGHT, Extents, Graph, Tensor, contiguous
from .._ggml.types import BY_NAME, TensorType
from .._llama.model import Home, Layer, Model
from .._llama.placement import Placement
from . import compiled as origin
from .compiled import Compiled, Op, Ref, compile_block, compile_line
from .dims import Scope, holds, owner, run_dims
from .expressions import OutsideTemplate, evaluate
from .prepare import Prepared
from .rules import Shape, derive, possible, result_type, without_gaps
from .run import FUSED, Instance, Run
from .text import Line

__all__ = ["Instance", "build", "layout"]

FULL_BATCH: Final = 32  # from so many tokens the engine pins norms only if all layers are on devices


class _Like(NamedTuple):
    """What a line came out as in a layer: in the next one of its like it does again, if what both read from
    elsewhere has the same layout."""

    foreign: tuple[tuple[int, Shape], ...]  # sources made elsewhere: position, layout
    shape: Shape
    engine_op: str
    root: int | None  # the source whose memory it shares


@dataclass(slots=True)
class _Kind:
    """What layers of a kind have in common under one reservation."""

    compiled: Compiled
    scope: Scope
    like: dict[int, _Like]  # by position in the block


@dataclass(slots=True)
class _Frame:
    """A block on its way into the graph: what each of its lines has become."""

    kind: _Kind
    layer: Layer | None
    number: int
    at: list[int]
    repeats: bool = True  # so far, a block of this kind that came before


_RUN_TYPES: Final[dict[str, Callable[[Run], TensorType]]] = {
    "K": lambda run: run.context.type_k,
    "V": lambda run: run.context.type_v,
}


def build(
    prepared: Prepared, run: Run, placement: Placement, layers: Sequence[int] | None = None
) -> Instance:
    """The graph of one reservation over `placement`, of all layers or of those given (in order)."""
    if prepared.template.one_stream and run.context.n_stream > 1:
        raise OutsideTemplate("no trace had a stream for each sequence")
    _check_v_widths(prepared.model, run)
    return _Builder(prepared, run, placement).run(range(len(prepared.blocks)) if layers is None else layers)


def _check_v_widths(model: Model, run: Run) -> None:
    """Transposed V rows are padded to the widest layer's, where they differ (llama-kv-cache.cpp:1406)."""
    rows = {c.v_width for x in model.layers for c in x.caches if c.kind == "kv" and c.has_v}
    if run.context.v_trans and any(width < model.v_width_max for width in rows):
        raise OutsideTemplate("V rows of different widths without flash attention, which no trace had")


class _Builder:
    """Appends blocks to one graph."""

    def __init__(self, prepared: Prepared, run: Run, placement: Placement) -> None:
        self.p = prepared
        self.r = run
        self.placement = placement
        self.graph = Graph([], [], [])
        self.made: dict[str, int] = {}
        self.weights: dict[tuple[int, int], int] = {}
        self.caches: dict[tuple[str, int], int] = {}
        self.fused: list[tuple[int, int, str]] = []
        self.kinds: dict[object, _Kind] = {}
        self.common = run_dims(prepared.model, run)
        all_on_devices = placement.n_devices > 0 and min(placement.layers) >= 0
        self.pins_norms = run.n_tokens < FULL_BATCH or all_on_devices
        self.cache_on_host = placement.n_devices > 0 and not placement.offload_kqv  # llama-graph.cpp:2746

    def run(self, layers: Sequence[int]) -> Instance:
        p = self.p
        starts = []
        self.frames = [
            self._frame(0, None),
            *(self._frame(p.blocks[il], p.model.layers[il]) for il in layers),
            self._frame(len(p.template.blocks) - 1, None),
        ]
        for i in range(len(self.frames)):
            if i:
                starts.append(len(self.graph.nodes))
            self._emit(i, early=False)
        return Instance(self.graph, tuple(starts), tuple(self.fused))

    def _frame(self, number: int, layer: Layer | None) -> _Frame:
        p = self.p
        key: object = number
        if layer is not None:
            key = (number, p.alike[layer.index], layer.index == 0, layer.index == len(p.blocks) - 1)
        kind = self.kinds.get(key)
        if kind is None:
            own = p.own[layer.index] if layer is not None else {}
            scope = Scope(p.model, self.r, p.outer, self.common, layer, own)
            kind = self.kinds[key] = _Kind(self._compiled(number, scope), scope, {})
        return _Frame(kind, layer, number, [NONE] * len(kind.compiled.ops))

    def _compiled(self, number: int, scope: Scope) -> Compiled:
        key = (number, tuple(scope.truth(x) for x in self.p.asked[number]))
        found = self.p.compiled.get(key)
        if found is None:
            found = self.p.compiled[key] = compile_block(self.p.template.blocks[number], scope)
        return found

    def _emit(self, frame_number: int, early: bool) -> None:
        """Append a block: its early lines, or the others with the early lines of the next block among them."""
        frame = self.frames[frame_number]
        at, made = frame.at, self.made
        if not early:
            for i in (
                frame.kind.compiled.early
            ):  # of a name that the rest of the block before gave away, that is meant
                if at[i] != NONE:
                    at[i] = max(at[i], made[frame.kind.compiled.ops[i].label])
        for i, op in enumerate(frame.kind.compiled.ops):
            if op.early != early:
                if op.early and at[i] == NONE:
                    self._emit(frame_number, early=True)
                continue
            if op.how == "node":
                if op.once and op.label in made:
                    at[i] = made[op.label]
                else:
                    made[op.label] = at[i] = self._node(op, frame, i)
            elif op.how == "next":
                self._emit(frame_number + 1, early=True)
            elif op.once and op.label in made:
                at[i] = made[op.label]
            elif op.how == "leaf":
                at[i] = self._leaf(op, frame.kind.scope, frame.layer)
            else:
                made[op.label] = at[i] = self._fold(op, frame)

    # sources

    def _source(self, ref: Ref, frame: _Frame) -> int:
        what = ref.what
        if ref.origin == origin.HERE:
            return frame.at[what]  # type: ignore[call-overload, no-any-return]
        if ref.origin == origin.MADE:
            made = self.made
            found = [made[a] for a in what if a in made]  # type: ignore[attr-defined]
            return max(found) if found else self._make(what, frame)  # type: ignore[arg-type]
        name = str(what)
        if ref.origin == origin.CACHE:
            return self._cache(name, frame.layer)
        if ref.origin == origin.LAYER and frame.layer is not None:
            return self._weight(self.p.own[frame.layer.index][name])
        return self._weight(self._outer(name, frame))

    def _make(self, labels: tuple[str, ...], frame: _Frame) -> int:
        """Make what the first layer of another kind would have made: an input, or what all layers share."""
        scope = frame.kind.scope
        for block in self.p.template.blocks:
            for line in block.lines:
                if line.label in labels and "once" in line.marks and holds(line.guard, scope):
                    op = compile_line(line, scope)
                    if op.how == "leaf":
                        return self._leaf(op, scope, frame.layer)
                    alone = _Frame(_Kind(Compiled((op,)), scope, {}), frame.layer, frame.number, [NONE])
                    index = self.made[line.label] = self._node(op, alone, 0)
                    return index
        raise OutsideTemplate(f"nothing made {'|'.join(labels)} yet")

    def _outer(self, name: str, frame: _Frame) -> int:
        """Which of the homes of a tensor outside layers is meant."""
        found = self.p.outer.get(name)
        if not found:
            raise OutsideTemplate(f"the model has no {name}")
        layer = frame.layer
        wanted = Home.INPUT if frame.number == 0 else Home.OUTPUT if layer is None else layer.index
        weights = self.p.model.weights
        return next((i for i in found if weights[i].home == wanted), found[0])

    def _weight(self, index: int) -> int:
        device = self.placement.weights[index]
        t = self.p.model.weights[index].tensor
        key = (id(t), device)
        found = self.weights.get(key)
        if found is None:
            ne, nb = self.p.shape(index)
            leaf = Tensor(t.name, "NONE", t.type, ne, nb, (), NONE, 0, 0, WEIGHT, _home(device))
            found = self.weights[key] = self._add(leaf, self.graph.leafs)
        return found

    def _cache(self, name: str, layer: Layer | None) -> int:
        index = self.caches.get((name, owner(self.p.model, layer).index)) if layer is not None else None
        if index is None:
            raise OutsideTemplate(f"no cache {name}")
        return index

    # tensors

    def _add(self, t: Tensor, order: list[int]) -> int:
        tensors = self.graph.tensors
        index = len(tensors)
        tensors.append(t)
        order.append(index)
        return index

    def _leaf(self, op: Op, scope: Scope, layer: Layer | None) -> int:
        line = op.line
        is_cache = op.engine_op == "CACHE"
        key = (line.label[1:], owner(self.p.model, layer).index if layer is not None else -1)
        if is_cache and key in self.caches:
            return self.caches[key]
        type_ = self._type(line.type)
        ne = layout(line, type_, (), scope.value).ne
        home = _home(self.placement.caches[key[1]]) if is_cache else NONE
        flags = 0 if is_cache else op.flags & INPUT
        usage = CACHE if is_cache else COMPUTE
        leaf = Tensor(
            line.label, "NONE", type_, ne, contiguous(type_, ne), flags=flags, usage=usage, home=home
        )
        index = self._add(leaf, self.graph.leafs)
        if is_cache:
            self.caches[key] = index
        else:
            self.made[line.label] = index
        return index

    def _type(self, name: str) -> TensorType:
        if name in _RUN_TYPES:
            return _RUN_TYPES[name](self.r)
        return BY_NAME[name]

    def _node(self, op: Op, frame: _Frame, i: int) -> int:
        tensors, nodes = self.graph.tensors, self.graph.nodes
        at = frame.at
        src = tuple([at[r[1]] if not r[0] else self._source(r, frame) for r in op.src])  # type: ignore[call-overload]
        like = frame.kind.like.get(i) if frame.repeats else None
        if like is None or not self._agrees(like, src):
            frame.repeats = frame.repeats and i not in frame.kind.like
            like = frame.kind.like[i] = self._like(op, src, frame)
        (type_, ne, nb), engine_op, shares = like[1:]
        view, offset = NONE, 0
        if shares is not None:
            root = tensors[src[shares]]
            view = src[shares] if root.view == NONE else root.view
            offset = root.offset + op.within
        pinned = self._pinned(op, frame.layer) if op.on_layer or op.on_kv else NONE
        index = len(tensors)
        if op.name == "cast":
            src = (*src, index)
        elif op.name == "repeat.for":
            src = src[:1]
        tensors.append(
            Tensor(
                op.label,
                engine_op,
                type_,
                ne,
                nb,
                src,
                view,
                offset,
                op.flags,
                COMPUTE,
                NONE,
                pinned,
                op.params,
            )
        )
        nodes.append(index)
        if op.name in FUSED and op.name not in self.r.fused:
            raise OutsideTemplate(f"no trace went without {op.name}")
        if op.fused and frame.layer is not None:
            self.fused.append((index, frame.layer.index, op.name))
        return index

    def _agrees(self, like: _Like, src: tuple[int, ...]) -> bool:
        tensors = self.graph.tensors
        for j, (type_, ne, nb) in like.foreign:
            t = tensors[src[j]]
            if t.ne != ne or t.nb != nb or t.type is not type_:
                return False
        return True

    def _like(self, op: Op, src: tuple[int, ...], frame: _Frame) -> _Like:
        sources = [Shape(t.type, t.ne, t.nb) for t in (self.graph.tensors[s] for s in src)]
        shape = self._shape(op, sources, frame.kind.scope)
        if not possible(op.name, sources, shape):
            raise OutsideTemplate(f"{op.label}: ggml makes no {op.name} of {[s.ne for s in sources]}")
        engine_op, root = op.engine_op, op.root
        if op.name == "flat":
            engine_op, root = ("RESHAPE", 0) if without_gaps(sources[0]) else ("CONT", None)
        return _Like(tuple((j, sources[j]) for j in op.foreign), shape, engine_op, root)

    def _pinned(self, op: Op, layer: Layer | None) -> int:
        if op.on_kv and self.cache_on_host:
            return HOST
        if op.on_layer and self.pins_norms and layer is not None:
            device = self.placement.layers[layer.index]
            return HOST if device < 0 else device
        return NONE

    def _shape(self, op: Op, sources: Sequence[Shape], scope: Scope) -> Shape:
        line = op.line
        type_ = self._type(line.type) if line.type else result_type(line.op, sources)
        found = None if line.ne else derive(line.op, sources)
        if found is not None:
            ne, nb = found
            return Shape(type_, ne, nb or contiguous(type_, ne))
        if not line.ne:
            raise OutsideTemplate(f"{line.label}: no rule gives the extents of {line.op}")
        return layout(line, type_, sources, _look_up(sources, scope))

    def _fold(self, op: Op, frame: _Frame) -> int:
        """A sum over the slices of the second extent, as the engine unrolls it."""
        src = self._source(op.src[0], frame)
        n = evaluate(op.line.count or 1, frame.kind.scope.value)
        return (self._slice_by_slice if op.name == "sum_heads" else self._all_slices_first)(op, src, n)

    def _all_slices_first(self, op: Op, src: int, n: int) -> int:
        """Over the experts in use (llama-graph.cpp:2341-2368)."""
        x = self.graph.tensors[src]
        ne, nb = (x.ne[0], x.ne[2], 1, 1), (x.nb[0], x.nb[2], x.nb[2] * x.ne[2], x.nb[2] * x.ne[2])
        slices = [self._slice(op, src, ne, nb, i) for i in range(n)]
        total = slices[0]
        for one in slices[1:]:
            total = self._new(op, "ADD", ne, (total, one))
        return total

    def _slice_by_slice(self, op: Op, src: int, n: int) -> int:
        """Over the heads of an indexer (qwen4exp.cpp:659-663)."""
        x = self.graph.tensors[src]
        ne, nb = (x.ne[0], x.ne[2], x.ne[3], 1), (x.nb[0], x.nb[2], x.nb[3], x.nb[3] * x.ne[3])
        total = self._new(op, "CONT", ne, (self._slice(op, src, ne, nb, 0),))
        for i in range(1, n):
            total = self._new(op, "ADD", ne, (total, self._slice(op, src, ne, nb, i)))
        return total

    def _slice(self, op: Op, src: int, ne: Extents, nb: Extents, i: int) -> int:
        x = self.graph.tensors[src]
        root = src if x.view == NONE else x.view
        view = Tensor(op.label, "VIEW", x.type, ne, nb, (src,), root, x.offset + i * x.nb[1])
        return self._add(view, self.graph.nodes)

    def _new(self, op: Op, name: str, ne: Extents, src: tuple[int, ...]) -> int:
        type_ = self.graph.tensors[src[0]].type
        return self._add(Tensor(op.label, name, type_, ne, contiguous(type_, ne), src), self.graph.nodes)


def _look_up(sources: Sequence[Shape], scope: Scope) -> Callable[[str], int]:
    def look_up(name: str) -> int:
        if len(name) == 2 and name[1].isdigit():
            return sources[ord(name[0]) - 97].ne[int(name[1])]
        return scope.value(name)

    return look_up


def layout(line: Line, type_: TensorType, sources: Sequence[Shape], look_up: Callable[[str], int]) -> Shape:
    """The extents and strides that a line states. Raises `OutsideTemplate`.

    "rest" is the extent that takes what the others leave of the first source's elements.
    """
    values = [1 if e == "rest" else evaluate(e, look_up) for e in line.ne]
    if "rest" in line.ne:
        n, known = prod(sources[0].ne), prod(values)
        if known < 1 or n % known:
            raise OutsideTemplate(f"{line.label}: {n} elements do not fill {values}")
        values[line.ne.index("rest")] = n // known
    if min(values) < 0:
        raise OutsideTemplate(f"{line.label}: extents {values}")
    ne = _extents(values)
    if not line.nb:
        return Shape(type_, ne, contiguous(type_, ne))
    nb = [type_.block_bytes]
    for d, e in enumerate(line.nb):
        if e is None:
            nb.append(ne[0] // type_.block * type_.block_bytes if d == 0 else nb[d] * ne[d])
        elif isinstance(e, str) and len(e) == 3 and e[0] == "s" and e[2].isdigit():
            nb.append(sources[ord(e[1]) - 97].nb[int(e[2])])
        else:
            nb.append(evaluate(e, look_up) // type_.block * type_.block_bytes)
    return Shape(type_, ne, (nb[0], nb[1], nb[2], nb[3]))


def _extents(ne: Sequence[int]) -> Extents:
    a, b, c, d = (*ne, 1, 1, 1, 1)[:4]
    return a, b, c, d


def _home(device: int) -> int:
    return device if device >= 0 else HOST
