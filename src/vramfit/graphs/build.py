"""Template + model + reservation + devices → `Graph`.

In: what the text of a template says, a `Model`, a `Run`, a `Placement`. Out: the graph that the engine
would hand to its scheduler, tensor by tensor. `prepare` matches the layers of a model to the kinds of
its template once; `build` instantiates as many layers as it is asked for. Where the template does not
cover the model or the run, both raise `OutsideTemplate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final

from ..ggml import BY_NAME, TensorType
from ..graph import (
    CACHE,
    COMPUTE,
    CPU,
    HOST,
    INPUT,
    NONE,
    OUTPUT,
    WEIGHT,
    Extents,
    Graph,
    Tensor,
    contiguous,
)
from ..model import Home, Layer, Model
from ..placement import Placement
from .dims import (
    FUSED,
    Run,
    Scope,
    equal,
    header_number,
    header_value,
    holds,
    is_of_layer,
    layer_weights,
    literals,
    outer_weights,
    owner,
    run_dims,
    traits,
)
from .expressions import OutsideTemplate, evaluate, format_expression, names
from .rules import Shape, derive, result_type, view_root, without_gaps
from .text import Block, Line, Template

__all__ = ["Instance", "Prepared", "build", "layout", "prepare"]

FULL_BATCH: Final = 32  # from so many tokens the engine pins norms only if all layers are on devices


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model whose layers have found their kinds. Blocks are numbered as in the template."""

    model: Model
    template: Template
    blocks: tuple[int, ...]  # the block of each layer of the main graph
    kinds: tuple[int, ...]  # equal for layers of which the template says the same, whatever the reservation
    alike: tuple[int, ...]  # equal for layers whose tensors have the same layouts, too
    own: tuple[dict[str, int], ...]  # weights of each layer: suffix → position in Model.weights
    outer: dict[str, list[int]]
    asked: tuple[tuple[str, ...], ...]  # by block: the conditions that decide which lines apply
    compiled: dict[object, _Compiled] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Instance:
    """A graph, and where its layers begin.

    `starts` are positions in `Graph.nodes`: of the first node of each layer that was built, and last of
    the epilogue. `fused` names the fused nodes: index of the tensor, its layer, its operation.
    """

    graph: Graph
    starts: tuple[int, ...]
    fused: tuple[tuple[int, int, str], ...]


# --- which kind a layer is of


def prepare(template: Template, model: Model) -> Prepared:
    """Match every layer of `model` to a kind. Raises `OutsideTemplate` with the first reason why not."""
    outer = outer_weights(model)
    _check_weights("outside layers", outer, template.needs, template.allows)
    _check_known(template, model)
    _check_ties(template, model)
    own = layer_weights(model)
    trunk = [x for x in model.layers if not x.is_nextn]
    blocks = tuple(_kind(template, x, own[x.index]) for x in trunk)
    asked = tuple(map(_asked, template.blocks))
    numbers: dict[object, int] = {}
    kinds = tuple(
        numbers.setdefault((b, _own_truths(model, x, own[x.index], outer, asked[b])), len(numbers))
        for b, x in zip(blocks, trunk, strict=True)
    )
    asks = tuple(map(_header_names, template.blocks))
    alike = tuple(
        numbers.setdefault((k, _layout_of(model, x, own[x.index], asks[b])), len(numbers))
        for k, b, x in zip(kinds, blocks, trunk, strict=True)
    )
    return Prepared(model, template, blocks, kinds, alike, tuple(own), outer, asked)


def _layout_of(model: Model, layer: Layer, own: dict[str, int], asks: Sequence[str]) -> object:
    """What the extents of a layer's tensors depend on, the reservation apart."""
    tensors = tuple(
        (n, model.weights[i].tensor.type.id, model.weights[i].tensor.shape) for n, i in own.items()
    )
    return replace(layer, index=0), tensors, tuple(header_number(model, layer, x[1:]) for x in asks)


def _header_names(block: Block) -> tuple[str, ...]:
    es = [e for line in block.lines for e in (*line.ne, *line.nb, line.count) if e is not None]
    return tuple(sorted({n for e in es for n in names(e) if n[0] == "."}))


def _own_truths(
    model: Model, layer: Layer, own: dict[str, int], outer: dict[str, list[int]], asked: Sequence[str]
) -> tuple[bool, ...]:
    """The conditions that depend on the layer alone."""
    scope = Scope(model, None, outer, {}, layer, own)
    return tuple(scope.truth(x) for x in asked if is_of_layer(x))


def _asked(block: Block) -> tuple[str, ...]:
    found = {x for line in block.lines for x in literals(line.guard)}
    args = [arg for line in block.lines for arg in line.args if arg[0][0] in "@$"]
    optional = {a.rstrip("?") for arg in args for a in arg if len(arg) > 1 or a[-1] == "?"}
    return tuple(sorted(found | optional))


def _check_weights(
    where: str, found: dict[str, list[int]], needs: Sequence[str], allows: Sequence[str]
) -> None:
    missing = [n for n in needs if n not in found]
    strange = [n for n in found if n not in needs and n not in allows]
    if missing or strange:
        what = f"lacks {missing[0]}" if missing else f"has {strange[0]}"
        raise OutsideTemplate(f"{where}: the model {what}, which no trace did")


def _check_known(template: Template, model: Model) -> None:
    """Conditions on the header that change the graph must have a value that was traced."""
    values: dict[str, list[str]] = {}
    for condition in template.known:
        key, _, value = condition.partition("=")
        values.setdefault(key.removeprefix("."), []).append(value)
    for key, seen in values.items():
        for layer in model.layers:
            value = header_value(model, layer, key)
            if value not in seen:
                raise OutsideTemplate(f"{key} = {value or 'absent'}: no trace had that")


def _check_ties(template: Template, model: Model) -> None:
    """Sizes that no trace told apart must be equal: an expression may have taken one for the other."""
    for one, other in template.ties:
        for layer in model.layers:
            if not layer.is_nextn and equal(model, layer, one, other) is False:
                raise OutsideTemplate(
                    f"layer {layer.index}: {format_expression(one)} is not {format_expression(other)},"
                    " as it was in all traces"
                )


def _kind(template: Template, layer: Layer, own: dict[str, int]) -> int:
    """The block of the kind that has the layer's traits, and its weights and no others."""
    its = traits(layer)
    found = own.keys()
    for i, block in enumerate(template.blocks[1:-1], 1):
        for kind in block.kinds:
            if kind.traits == its and found >= set(kind.needs) and found <= {*kind.needs, *kind.allows}:
                return i
    raise OutsideTemplate(f"layer {layer.index} is of no kind that was traced")


# --- a block under fixed conditions


class _Op:
    """A line that applies, its sources found as far as the block alone tells."""

    __slots__ = ("early", "engine_op", "fold", "line", "once", "params", "root", "src", "type")

    def __init__(self, line: Line, src: tuple[_Ref, ...]) -> None:
        base = line.op.partition(".")[0]
        self.line = line
        self.src = src
        self.fold = base == "sum_slices"
        self.engine_op = "CPY" if base == "cast" else base.upper()
        self.type = line.type
        self.root = 0 if "inplace" in line.marks else view_root(line.op)
        self.once = "once" in line.marks
        self.early = "early" in line.marks or base == "cache"
        self.params = (0, 1) if "hadamard" in line.marks else ()


# ("here", position), ("made", labels), ("@", suffix), ("$", name), ("%", cache)
_Ref = tuple[str, object]


@dataclass(slots=True)
class _Compiled:
    ops: list[_Op]
    shapes: dict[object, list[Shape]] = field(default_factory=dict)


# The extents of the sources that a layout was found for, and the layout.
_Known = tuple[list[Extents], Shape]


@dataclass(slots=True)
class _Frame:
    """A block on its way into the graph: what each of its lines has become."""

    compiled: _Compiled
    scope: Scope
    layer: Layer | None
    number: int
    at: list[int]
    known: dict[int, _Known]  # by line: what its like in another layer came out as


def _compile(block: Block, scope: Scope) -> _Compiled:
    lines = _wanted([x for x in block.lines if holds(x.guard, scope)], block)
    ops: list[_Op] = []
    last: dict[str, int] = {}
    lasting = {x.label for x in lines if "once" in x.marks}
    for line in lines:
        ops.append(_Op(line, tuple(r for a in line.args for r in _refs(a, last, lasting, scope))))
        if line.label not in lasting:
            last[line.label] = len(ops) - 1
    return _Compiled(ops)


def _wanted(lines: list[Line], block: Block) -> list[Line]:
    """Without what is made once for lines of which none applies."""
    known = {label for x in block.lines for arg in x.args for label in arg}
    used: set[str] = set()
    kept: list[Line] = []
    for line in reversed(lines):
        if "once" in line.marks and line.label in known and line.label not in used:
            continue
        kept.append(line)
        used.update(label for arg in line.args for label in arg)
    return kept[::-1]


def _refs(
    alternatives: tuple[str, ...], last: dict[str, int], lasting: set[str], scope: Scope
) -> Sequence[_Ref]:
    if alternatives[0][0] in "@$%":
        named = [a.rstrip("?") for a in alternatives]
        chosen = next((a for a in named if a[0] == "%" or scope.truth(a)), None)
        if chosen is not None:
            return [(chosen[0], chosen[1:])]
        if alternatives[0][-1] == "?":
            return []
        raise OutsideTemplate(f"the model has no {named[0]}")
    here = [last[a] for a in alternatives if a in last]
    if here:
        return [("here", max(here))]
    return [("made", alternatives)]


# --- building


_RUN_TYPES: Final[dict[str, Callable[[Run], TensorType]]] = {
    "K": lambda run: run.context.type_k,
    "V": lambda run: run.context.type_v,
}


def build(
    prepared: Prepared, run: Run, placement: Placement, layers: Sequence[int] | None = None
) -> Instance:
    """The graph of one reservation over `placement`, of all layers or of those given (in order)."""
    return _Builder(prepared, run, placement).run(range(len(prepared.blocks)) if layers is None else layers)


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
        self.known: dict[tuple[int, int], dict[int, _Known]] = {}
        self.common = run_dims(prepared.model, run)
        all_on_devices = placement.n_devices > 0 and min(placement.layers) >= 0
        self.pins_norms = run.n_tokens < FULL_BATCH or all_on_devices
        self.cache_on_host = placement.n_devices > 0 and not placement.offload_kqv  # llama-graph.cpp:2746

    def run(self, layers: Sequence[int]) -> Instance:
        p = self.p
        starts = []
        numbers = [
            (0, None),
            *((p.blocks[il], p.model.layers[il]) for il in layers),
            (len(p.template.blocks) - 1, None),
        ]
        self.frames = [self._frame(number, layer) for number, layer in numbers]
        for i in range(len(self.frames)):
            if i:
                starts.append(len(self.graph.nodes))
            self._emit(i, early=False)
        return Instance(self.graph, tuple(starts), tuple(self.fused))

    def _frame(self, number: int, layer: Layer | None) -> _Frame:
        p = self.p
        own = p.own[layer.index] if layer is not None else {}
        scope = Scope(p.model, self.r, p.outer, self.common, layer, own)
        compiled = self._compiled(number, p.template.blocks[number], scope)
        like = -1 - number if layer is None else p.alike[layer.index]
        known = self.known.setdefault((id(compiled), like), {})
        return _Frame(compiled, scope, layer, number, [NONE] * len(compiled.ops), known)

    def _compiled(self, number: int, block: Block, scope: Scope) -> _Compiled:
        key = (number, tuple(scope.truth(x) for x in self.p.asked[number]))
        found = self.p.compiled.get(key)
        if found is None:
            found = self.p.compiled[key] = _compile(block, scope)
        return found

    def _emit(self, frame_number: int, early: bool) -> None:
        """Append a block: its early lines, or the others with the early lines of the next block among them."""
        frame = self.frames[frame_number]
        at, scope, layer = frame.at, frame.scope, frame.layer
        for i, op in enumerate(frame.compiled.ops):
            if op.early != early:
                if op.early and at[i] == NONE:
                    self._emit(frame_number, early=True)
                continue
            if op.once and op.line.label in self.made:
                at[i] = self.made[op.line.label]
            elif op.engine_op == "NEXT":
                self._emit(frame_number + 1, early=True)
            elif op.engine_op in ("INPUT", "CACHE"):
                at[i] = self._leaf(op, scope, layer)
            else:
                src = [self._source(ref, at, layer, frame.number) for ref in op.src]
                at[i] = (
                    self._fold(op, src, scope)
                    if op.fold
                    else self._node(op, src, scope, layer, frame.known, i)
                )
                self.made[op.line.label] = at[i]

    # sources

    def _source(self, ref: _Ref, at: list[int], layer: Layer | None, number: int) -> int:
        kind, what = ref
        if kind == "here":
            return at[what]  # type: ignore[call-overload, no-any-return]
        if kind == "made":
            found = [self.made[a] for a in what if a in self.made]  # type: ignore[attr-defined]
            return max(found) if found else self._make(what, layer, number)  # type: ignore[arg-type]
        name = str(what)
        if kind == "%":
            return self._cache(name, layer)
        if kind == "@" and layer is not None:
            return self._weight(self.p.own[layer.index][name])
        return self._weight(self._outer(name, layer, number))

    def _make(self, labels: tuple[str, ...], layer: Layer | None, number: int) -> int:
        """Make what the first layer of another kind would have made: an input, or what all layers share."""
        frame = next(f for f in self.frames if f.layer is layer and f.number == number)
        for block in self.p.template.blocks:
            for line in block.lines:
                if line.label in labels and "once" in line.marks and holds(line.guard, frame.scope):
                    op = _Op(line, tuple(r for a in line.args for r in _refs(a, {}, set(), frame.scope)))
                    if op.engine_op == "INPUT":
                        return self._leaf(op, frame.scope, layer)
                    src = [self._source(ref, [], layer, number) for ref in op.src]
                    index = self.made[line.label] = self._node(op, src, frame.scope, layer, {}, 0)
                    return index
        raise OutsideTemplate(f"nothing made {'|'.join(labels)} yet")

    def _outer(self, name: str, layer: Layer | None, number: int) -> int:
        """Which of the homes of a tensor outside layers is meant."""
        found = self.p.outer.get(name)
        if not found:
            raise OutsideTemplate(f"the model has no {name}")
        wanted = Home.INPUT if number == 0 else Home.OUTPUT if layer is None else layer.index
        weights = self.p.model.weights
        return next((i for i in found if weights[i].home == wanted), found[0])

    def _weight(self, index: int) -> int:
        device = self.placement.weights[index]
        t = self.p.model.weights[index].tensor
        key = (id(t), device)
        found = self.weights.get(key)
        if found is None:
            ne = _extents(t.shape)
            leaf = Tensor(
                t.name, "NONE", t.type, ne, contiguous(t.type, ne), usage=WEIGHT, home=_home(device)
            )
            found = self.weights[key] = self._add(leaf, self.graph.leafs)
        return found

    def _cache(self, name: str, layer: Layer | None) -> int:
        index = self.caches.get((name, owner(self.p.model, layer).index)) if layer is not None else None
        if index is None:
            raise OutsideTemplate(f"no cache {name}")
        return index

    # tensors

    def _add(self, t: Tensor, order: list[int]) -> int:
        self.graph.tensors.append(t)
        order.append(len(self.graph.tensors) - 1)
        return order[-1]

    def _leaf(self, op: _Op, scope: Scope, layer: Layer | None) -> int:
        line = op.line
        is_cache = op.engine_op == "CACHE"
        key = (line.label[1:], owner(self.p.model, layer).index if layer is not None else -1)
        if is_cache and key in self.caches:
            return self.caches[key]
        type_ = self._type(line.type)
        ne = layout(line, type_, (), scope.value).ne
        home = _home(self.placement.caches[key[1]]) if is_cache else NONE
        flags = 0 if is_cache or "input" not in line.marks else INPUT
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

    def _node(
        self, op: _Op, src: list[int], scope: Scope, layer: Layer | None, known: dict[int, _Known], i: int
    ) -> int:
        tensors = self.graph.tensors
        line = op.line
        extents = [tensors[s].ne for s in src]
        found = known.get(i)
        if found is None or found[0] != extents:
            shape = self._shape(op, [Shape(t.type, t.ne, t.nb) for t in (tensors[s] for s in src)], scope)
            found = known[i] = (extents, shape)
        shape = found[1]
        if line.op == "repeat.for":
            src = src[:1]
        t = Tensor(line.label, op.engine_op, shape.type, shape.ne, shape.nb, tuple(src), params=op.params)
        at = op.root
        if line.op == "flat":
            first = tensors[src[0]]
            gaps = not without_gaps(Shape(first.type, first.ne, first.nb))
            t.op, at = ("CONT", None) if gaps else ("RESHAPE", 0)
        if at is not None:
            root = tensors[src[at]]
            t.view = src[at] if root.view == NONE else root.view
            t.offset = root.offset + ("within" in line.marks)
        if line.marks:
            self._mark(t, line.marks, layer)
        index = self._add(t, self.graph.nodes)
        if line.op == "cast":
            t.src = (*t.src, index)
        if layer is not None and (line.op in FUSED or line.op == "flash_attn_ext"):
            self.fused.append((index, layer.index, line.op))
        return index

    def _mark(self, t: Tensor, marks: frozenset[str], layer: Layer | None) -> None:
        t.flags = (INPUT if "input" in marks else 0) | (OUTPUT if "output" in marks else 0)
        if "layer" in marks and self.pins_norms and layer is not None:
            device = self.placement.layers[layer.index]
            t.pinned = HOST if device < 0 else device
        if "kv" in marks and self.cache_on_host:
            t.pinned = HOST

    def _shape(self, op: _Op, sources: Sequence[Shape], scope: Scope) -> Shape:
        line = op.line
        type_ = self._type(line.type) if line.type else result_type(line.op, sources)
        found = None if line.ne else derive(line.op, sources)
        if found is not None:
            ne, nb = found
            return Shape(type_, ne, nb or contiguous(type_, ne))
        if not line.ne:
            raise OutsideTemplate(f"{line.label}: no rule gives the extents of {line.op}")
        return layout(line, type_, sources, _look_up(sources, scope))

    def _fold(self, op: _Op, src: list[int], scope: Scope) -> int:
        """The sum over the slices of the second extent, as the engine unrolls it (llama-graph.cpp:2341-2368)."""
        x = self.graph.tensors[src[0]]
        n = evaluate(op.line.count or 1, scope.value)
        ne, nb = (x.ne[0], x.ne[2], 1, 1), (x.nb[0], x.nb[2], x.nb[2] * x.ne[2], x.nb[2] * x.ne[2])
        root = src[0] if x.view == NONE else x.view
        slices = [
            self._add(
                Tensor(op.line.label, "VIEW", x.type, ne, nb, (src[0],), root, int(i > 0)), self.graph.nodes
            )
            for i in range(n)
        ]
        flat = contiguous(x.type, ne)
        total = slices[0]
        for one in slices[1:]:
            total = self._add(Tensor(op.line.label, "ADD", x.type, ne, flat, (total, one)), self.graph.nodes)
        return total


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
    return device if device >= 0 else CPU
