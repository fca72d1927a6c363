"""One architecture: models, traces, template."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tools.engine.models import DENSE_OR_MIXTURE
from vramfit._graphs.dims import (
    BY_INDEX,
    FUSED,
    UNKNOWN,
    equal,
    header_value,
    layer_weights,
    outer_weights,
)
from vramfit._graphs.expressions import Expression, parse_expression
from vramfit._graphs.text import Block, Guard, Kind, Line, Template
from vramfit._llama.model import Model

from . import plan
from .collect import collect
from .infer import Inferrer, Sample, Unexplained
from .merge import Observation, Position, find_guard, merge, signature
from .observe import Seen, Traced, kind_traits, n_trunk
from .workshop import SCALES, Workshop

ENGINE = "0c1e57098"
MAX_SAMPLES = 20


@dataclass
class Report:
    """What went wrong, by block."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        if text not in self.lines:
            self.lines.append(text)


_RUN_ATOMS = (
    "fa",
    "vtrans",
    "krot",
    "vrot",
    "kq",
    "vq",
    "kf32",
    "vf32",
    "step",
    "single",
    "slots",
    "split",
    "gather",
    "emb",
    "short_output",
)
# Conditions that often hold together; a guard must not take one for the other.
_APART = (("slots", "split"), ("krot", "vrot"), ("kf32", "vf32"), ("kq", "vq"))
_LAYER_ATOMS = ("last", "first", "swa", "one_expert", "one_head", *BY_INDEX, "window")


class Learner:
    """Turns traces into a template."""

    def __init__(
        self, architecture: str, traced: Sequence[Traced], optional: Sequence[str], known: Sequence[str]
    ) -> None:
        self.architecture = architecture
        self.traced = traced
        self.optional = set(optional)
        self.known = known
        self.report = Report()
        self.inferrer = Inferrer()
        self.typical: set[int] = set()
        self.odd: set[str] = set()
        self.read: set[str] = set()  # weights that a line reads: a guard must name no others
        self.kinds: dict[int, tuple[tuple[str, ...], frozenset[str]]] = {}

    def template(self) -> Template:
        groups = self._groups()
        kinds = [self._kind(name, group) for name, group in groups.items()]
        self._split_far(kinds)
        self._label(kinds)
        seen = [x for k in kinds for p in k.positions for x in p.found.values()]
        self.read = {f"{k}{what}" for x in seen for k, what in x.refs if k in "@$"}
        for kind in kinds:
            self._guards(kind)
        self._link(kinds)
        said = list(self.report.lines)
        for _ in range(2):  # the second time kinds can lend each other what they have learned
            self.report.lines = list(said)
            blocks = tuple(self._block(k) for k in kinds)
        needs, allows = _presence([set(outer_weights(t.model)) for t in self.traced])
        return Template(
            self.architecture,
            ENGINE,
            blocks,
            needs,
            allows,
            tuple(sorted(set(self.known))),
            tuple(self._untraced()),
            tuple(self._ties()),
            one_sequence=any(t.run.n_seqs == 1 < t.run.context.n_seq_max for t in self.traced),
            one_stream=all(t.run.context.n_stream == 1 for t in self.traced)
            and any(x.caches for t in self.traced for x in t.model.layers),
        )

    def _untraced(self) -> Iterator[tuple[str, ...]]:
        """Pairs of header values that no model had together, and counts that the engine branches on."""
        models = {id(t.model): t.model for t in self.traced}.values()
        had = [{x for x in self.known if _has(m, x)} for m in models]
        for pair in itertools.combinations(sorted(set(self.known)), 2):
            keys = {x.partition("=")[0] for x in pair}
            if len(keys) == 2 and not any(set(pair) <= x for x in had):
                yield pair
        yield from (tuple(x.split("&")) for x in plan.BRANCHES.get(self.architecture, ()))

    def _ties(self) -> Iterator[tuple[Expression, Expression]]:
        """Sizes that are equal in all traces though they are not the same."""
        models = {id(t.model): t.model for t in self.traced}.values()
        for one, other in plan.TIES:
            a, b = parse_expression(one), parse_expression(other)
            found = {equal(m, x, a, b) for m in models for x in m.layers if not x.is_nextn}
            if True in found and False not in found:
                yield a, b

    def _groups(self) -> dict[str, list[Observation]]:
        """Blocks by what they keep between batches: layers that attend, layers that recur, ...; few of each topology."""
        named: dict[tuple[str, ...], list[Observation]] = defaultdict(list)
        for t in self.traced:
            own = layer_weights(t.model)
            for b, lines in t.blocks.items():
                layer = t.layer(b)
                its = kind_traits(t, b)
                o = Observation(t, b, lines, self._truths(t, b, own[b] if layer else {}))
                if layer is not None:
                    must = frozenset(
                        n for n in own[b] if f"@{n}" not in self.optional and not re.search(SCALES, n)
                    )
                    self.kinds[id(o)] = (its, must)
                named[tuple(x for x in its if x != "swa")].append(o)
        order = sorted(
            named, key=lambda k: (k != ("prologue",), k == ("epilogue",), min(o.block for o in named[k]))
        )
        return {
            " ".join(k) if k in (("prologue",), ("epilogue",)) else f"layer {n}": _thin(named[k])
            for n, k in enumerate(order)
        }

    def _truths(self, t: Traced, b: int, own: dict[str, int]) -> frozenset[str]:
        layer = t.layer(b)
        found = {n for n, true in t.scope(b).conditions(t.run).items() if true}
        found |= {f"@{n}" for n in own} | {f"${n}" for n in outer_weights(t.model)}
        found |= t.fused
        for x in self.known:
            key, _, value = x[1:].partition("=")
            if header_value(t.model, layer or t.model.layers[0], key) == value:
                found.add(x)
        found |= {x for x in (*BY_INDEX, "short_output") if t.scope(b).truth(x)}
        if layer is not None:
            found |= {f"il%{p}={layer.index % p}" for p in (4, 2, 3, 6)}
        return frozenset(found)

    def _kind(self, name: str, group: list[Observation]) -> _Kind:
        positions = merge(group)
        kind = _Kind(name, group, positions)
        for p in positions:
            p.once = self._is_once(kind, p)
        return kind

    def _is_once(self, kind: _Kind, p: Position) -> bool:
        """Whether a line that depends on no layer is made once a graph, not once a layer."""
        if not all(x.outer for x in p.found.values()) or p.like.op == "cache":
            return False
        if kind.name in ("prologue", "epilogue"):
            return p.like.op == "input"
        per_trace: dict[int, set[int]] = defaultdict(set)
        shared = p.like.op == "input"
        for i, x in p.found.items():
            o = kind.group[i]
            per_trace[id(o.traced)].add(x.id)
            shared = shared or o.traced.readers()[x.id] > {o.block}
        return shared and all(len(ids) == 1 for ids in per_trace.values())

    def _split_far(self, kinds: Sequence[_Kind]) -> None:
        """What layers further on read of one that is not the last is a line of its own: its like in others comes
        between. The readers tell by which condition: all that one of them reads is of layers alike in that.
        """
        where = {
            (id(o.traced), line.id): (kind, at, i)
            for kind in kinds
            if kind.name not in ("prologue", "epilogue")
            for i, o in enumerate(kind.group)
            for line, at in zip(o.lines, o.at, strict=True)
        }
        read: dict[tuple[int, int], dict[object, set[int]]] = defaultdict(lambda: defaultdict(set))
        hit: dict[tuple[int, int], tuple[_Kind, int]] = {}
        for kind in kinds:
            for o in kind.group:
                for line, at in zip(o.lines, o.at, strict=True):
                    for slot, (k, what) in enumerate(line.refs):
                        found = where.get((id(o.traced), what)) if k == "t" else None  # type: ignore[arg-type]
                        if found is not None and o.block > found[0].group[found[2]].block + 1:
                            hit[id(found[0]), found[1]] = found[:2]
                            read[id(found[0]), found[1]][kind.name, at, slot].add(found[2])
        for key in sorted(hit, key=lambda x: -x[1]):
            self._split(*hit[key], list(read[key].values()))

    def _split(self, kind: _Kind, at: int, readers: Sequence[set[int]]) -> None:
        p = kind.positions[at]
        for atom in ("first", "high") if not p.once else ():
            true = {i for i in p.found if atom in kind.group[i].truths}
            apart = all(r <= true or not r & true for r in readers) and any(r <= true for r in readers)
            if apart and len(true) < len(p.found):
                kind.split(at, true)
                return

    # labels: the engine's names; lines of one name follow each other as assignments to a variable do

    def _label(self, kinds: Sequence[_Kind]) -> None:
        for kind in kinds:
            for p in kind.positions:
                names = [x.name for x in p.found.values() if x.name]
                p.label = (
                    "next"
                    if p.like.op == "next"
                    else max(sorted(set(names)), key=names.count)
                    if names
                    else _default_name(p.like)
                )

        for kind in kinds:
            self._carry(kind)
        inputs = {p.label for kind in kinds for p in kind.positions if p.like.op == "input"}
        often = {p.label for kind in kinds for p in kind.positions if not p.once}
        for kind in kinds:
            for p in kind.positions:
                if p.label in inputs and p.like.op != "input":
                    p.label += f".{p.like.op.split('.')[0]}"
                if p.once and any(x.endswith(".swa") for x in p.like.inputs):
                    p.label += ".swa"
                if p.once and p.label in often and p.like.op != "input":
                    p.label += ".once"
                if p.once and "within" in p.like.marks:  # all kinds must call what is made once the same
                    p.label += ".tail"

    def _carry(self, kind: _Kind) -> None:
        """An optional weight that is applied to a tensor without a new name leaves it its name: whoever
        reads the tensor then reads it with what was applied, in models that no trace had, too.
        """
        where = {
            (id(o.traced), x.id): p
            for o in kind.group
            for x, p in zip(o.lines, (kind.positions[a] for a in o.at), strict=True)
        }
        for p in kind.positions:
            i, x = next(iter(p.found.items()))
            tensors = [what for k, what in x.refs if k == "t"]
            if (
                x.op not in ("mul", "add")
                or len(tensors) != 1
                or len(x.refs) != 2
                or any(y.name for y in p.found.values())
            ):
                continue
            source = where.get((id(kind.group[i].traced), tensors[0]))
            if source is not None:
                p.label = source.label

    def _guards(self, kind: _Kind) -> None:
        own = sorted({x for o in kind.group for x in o.truths if x[0] in "@$"} & self.read)
        fused = sorted({x for o in kind.group for x in o.truths if x in FUSED})
        switches = sorted({x for o in kind.group for x in o.truths if x[0] == "."})
        periods = sorted(
            {x for o in kind.group for x in o.truths if x.startswith("il%")}, key=lambda x: "4236".index(x[3])
        )
        of_inputs: dict[str, list[str]] = {}
        for p in sorted(kind.positions, key=lambda p: p.like.op != "input"):
            weights = [f"{k}{w}" for k, w in p.like.refs if k in "@$"]
            weights += [x for name in p.like.inputs for x in of_inputs.get(name, ())]
            atoms = [
                *weights,
                *_RUN_ATOMS,
                *_LAYER_ATOMS,
                *fused,
                "index_head",
                "equal_heads",
                *(a for a in own if a not in weights),
                *switches,
                *periods,
            ]
            eligible = [i for i, o in enumerate(kind.group) if not p.once or self._open(kind, p, i)]
            if p.like.op == "next":  # which of several places: only blocks that have one can tell
                eligible = [i for i, o in enumerate(kind.group) if any(x.op == "next" for x in o.lines)]
            guard = find_guard(
                [kind.group[i].truths for i in eligible], [i in p.found for i in eligible], atoms
            )
            if guard is None:
                self.odd |= self._odd(kind, p, eligible, atoms, switches)
                here = sum(i in p.found for i in eligible)
                self.report.say(
                    f"{kind.name}: no condition for {p.label} = {p.like.op} ({here} of {len(eligible)})"
                )
                p.guard = (("unknown",),)
            else:
                p.guard = _doubted(guard, [kind.group[i].truths for i in eligible])
            if p.like.op == "input":
                of_inputs[p.like.name] = [
                    x.removeprefix("!") for one in p.guard for x in one if x != "unknown"
                ]

    def _odd(
        self, kind: _Kind, p: Position, eligible: list[int], atoms: Sequence[str], switches: Sequence[str]
    ) -> set[str]:
        """The header value without which there would be a condition."""
        counts = {x: sum(x in kind.group[i].truths for i in eligible) for x in switches}
        for x in sorted(switches, key=lambda x: counts[x]):
            rest = [i for i in eligible if x not in kind.group[i].truths]
            if (
                len(rest) * 2 > len(eligible)
                and find_guard([kind.group[i].truths for i in rest], [i in p.found for i in rest], atoms)
                is not None
            ):
                return {x}
        return set()

    def _open(self, kind: _Kind, p: Position, i: int) -> bool:
        """Whether a line that is made once had not been made before this block: by itself or its namesake."""
        if i in p.found:
            return True
        o = kind.group[i]
        names = {x.name for x in p.found.values()}
        earlier = (x for b, lines in o.traced.blocks.items() if b < o.block for x in lines)
        return not any(x.outer and x.op == p.like.op and x.name in names for x in earlier)

    # sources

    def _link(self, kinds: Sequence[_Kind]) -> None:
        """Name what each line reads, and tell lines of one name apart where the last one is not meant."""
        placed: dict[tuple[int, int], tuple[_Kind, Position]] = {}
        for kind in kinds:
            for _i, o in enumerate(kind.group):
                for line, at in zip(o.lines, o.at, strict=True):
                    placed[id(o.traced), line.id] = (kind, kind.positions[at])
        self._complete(kinds, placed)
        for _ in range(40):
            wrong = self._wrong(kinds, placed)
            if not wrong:
                break
            for p in wrong:
                self._rename(p, kinds)
        else:
            self.report.say(
                f"names could not be told apart: {', '.join(sorted({p.label for p in wrong})[:6])}"
            )
        for kind in kinds:
            for p in kind.positions:
                p.args = self._args(kind, p, placed)
        self._begin(kinds)

    def _begin(self, kinds: Sequence[_Kind]) -> None:
        """What one kind of layer reads of the prologue where there is no layer before, the others read there, too."""
        outer = {p.label for kind in kinds if kind.name == "prologue" for p in kind.positions}
        before: dict[str, set[str]] = defaultdict(set)
        layers = [p for kind in kinds if kind.name not in ("prologue", "epilogue") for p in kind.positions]
        for slot in (slot for p in layers for slot in p.args):
            for label in set(slot) - outer:
                before[label] |= {x for x in slot if x in outer and label[0] not in "@$%"}
        for p in layers:
            p.args = tuple(
                tuple(dict.fromkeys((*sorted(set().union(*(before[x] for x in slot)) - set(slot)), *slot)))
                for slot in p.args
            )

    def _complete(
        self, kinds: Sequence[_Kind], placed: dict[tuple[int, int], tuple[_Kind, Position]]
    ) -> None:
        """Where blocks were left out of the groups, find the position of their lines by topology."""
        known: dict[object, tuple[_Kind, list[int]]] = {}
        for kind in kinds:
            for o in kind.group:
                known[signature(o)] = (kind, o.at)
        wanted = {id(o.traced): o.traced for kind in kinds for o in kind.group}
        for t in wanted.values():
            for b, lines in t.blocks.items():
                if lines and (id(t), lines[0].id) in placed and (id(t), lines[-1].id) in placed:
                    continue
                kind, at = known.get(signature(Observation(t, b, lines, frozenset())), (None, []))
                if kind is None:
                    continue
                for line, a in zip(lines, at, strict=True):
                    placed[id(t), line.id] = (kind, kind.positions[a])

    def _wrong(
        self, kinds: Sequence[_Kind], placed: dict[tuple[int, int], tuple[_Kind, Position]]
    ) -> list[Position]:
        """Positions that a name would miss: another line of the name comes between."""
        targets = self._targets(kinds, placed)
        wrong: dict[int, Position] = {}
        if not self.typical:
            shapes = {
                tuple(signature(Observation(t, b, x, frozenset())) for b, x in t.blocks.items()): id(t)
                for t in self.traced
            }
            self.typical = set(shapes.values())
        orders: dict[int, tuple[list[int], dict[int, int]]] = {}
        for kind in kinds:
            for o in kind.group:
                if id(o.traced) not in self.typical:
                    continue
                order = self._order(o.traced, placed, orders)
                for line, at in zip(o.lines, o.at, strict=True):
                    for slot, (k, what) in enumerate(line.refs):
                        if k != "t":
                            continue
                        names = targets[id(kind.positions[at]), slot]
                        ids, where = order
                        meant = where.get(what, -1)
                        for j in range(where[line.id] - 1, meant, -1):
                            hit = placed.get((id(o.traced), ids[j]))
                            if hit is not None and hit[1].label in names:
                                target = placed.get((id(o.traced), what))
                                wrong[id(hit[1])] = hit[1]
                                if target is not None:
                                    wrong[id(target[1])] = target[1]
                                break
        return list(wrong.values())

    def _order(
        self,
        t: Traced,
        placed: dict[tuple[int, int], tuple[_Kind, Position]],
        memo: dict[int, tuple[list[int], dict[int, int]]],
    ) -> tuple[list[int], dict[int, int]]:
        if id(t) not in memo:
            ids = _in_order(t)
            memo[id(t)] = (ids, {i: n for n, i in enumerate(ids)})
        return memo[id(t)]

    def _targets(
        self, kinds: Sequence[_Kind], placed: dict[tuple[int, int], tuple[_Kind, Position]]
    ) -> dict[tuple[int, int], set[str]]:
        found: dict[tuple[int, int], set[str]] = defaultdict(set)
        for kind in kinds:
            for o in kind.group:
                for line, at in zip(o.lines, o.at, strict=True):
                    for slot, (k, what) in enumerate(line.refs):
                        if k == "t" and (id(o.traced), what) in placed:
                            found[id(kind.positions[at]), slot].add(placed[id(o.traced), what][1].label)
        return found

    def _rename(self, p: Position, kinds: Sequence[_Kind]) -> None:
        if p.once:
            return
        stem = p.label.split("#")[0]
        taken = {q.label for k in kinds for q in k.positions if q is not p}
        if p.label not in taken:
            return
        p.label = next(f"{stem}#{n}" for n in itertools.count(2) if f"{stem}#{n}" not in taken)

    def _args(
        self, kind: _Kind, p: Position, placed: dict[tuple[int, int], tuple[_Kind, Position]]
    ) -> tuple[tuple[str, ...], ...]:
        slots: list[dict[str, None]] = []
        rows = [(kind.group[i], x) for i, x in p.found.items()]
        longest = max(len(x.refs) for _, x in rows)
        full = [(o, x) for o, x in rows if len(x.refs) == longest]
        order = {q.label: n for n, q in enumerate(kind.positions)}
        for slot in range(longest):
            names: dict[str, None] = {}
            for o, x in full:
                k, what = x.refs[slot]
                if k != "t":
                    names[f"{k}{what}"] = None
                elif (id(o.traced), what) in placed:
                    names[placed[id(o.traced), what][1].label] = None
                else:
                    self.report.say(f"{kind.name}: {p.label} reads what no kind makes")
            slots.append(names)
        for o, x in rows:
            if len(x.refs) == longest:
                continue
            given = [
                f"{k}{w}" if k != "t" else placed[id(o.traced), w][1].label
                for k, w in x.refs
                if k != "t" or (id(o.traced), w) in placed
            ]
            missing = list(slots)
            for g in given:
                hit = next((s for s in missing if g in s), None)
                if hit is None:
                    hit = missing[0]
                    hit[g] = None
                missing = [s for s in missing if s is not hit]
            for s in missing:
                for n in list(s):
                    if n[0] in "@$" and n[-1] != "?":
                        del s[n]
                        s[n + "?"] = None
        for s in slots:
            if len(s) > 1 and any(n[0] in "@$%" for n in s) and not all(n[0] in "@$" for n in s):
                self.report.say(f"{kind.name}: {p.label} reads {'|'.join(s)}")
        return tuple(tuple(sorted(s, key=lambda n: (order.get(n, -1), n))) for s in slots)

    # text

    def _block(self, kind: _Kind) -> Block:
        lines = [x for p in kind.positions for x in self._lines(kind, p)]
        if kind.name in ("prologue", "epilogue"):
            return Block(kind.name, tuple(lines))
        members: dict[object, list[set[str]]] = defaultdict(list)
        for o in kind.group:
            members[self.kinds[id(o)]].append(set(layer_weights(o.traced.model)[o.block]))
        kinds = [Kind(its, *_presence(sets)) for (its, _), sets in members.items()]  # type: ignore[misc]
        asked = ("first", "last", "one_head") if self.architecture in plan.UNROLLED else ("first", "last")
        unseen = [x for x in asked if not any(x in o.truths for o in kind.group)]
        return Block(
            kind.name, tuple(lines), tuple(sorted(kinds, key=lambda k: (k.traits, k.needs))), tuple(unseen)
        )

    def _lines(self, kind: _Kind, p: Position) -> list[Line]:
        """The line of a position, or two where one condition decides what it reads or which extents it has."""
        for slot, names in enumerate(p.args):
            if names[0][-1] == "?" and (literal := self._refrains(kind, p, names)):
                bare = (*p.args[:slot], *p.args[slot + 1 :])
                halves = [
                    _half(kind, p, literal, bare),
                    _half(kind, p, _opposite(literal), p.args),
                ]
                return [line for half in halves for line in self._lines(kind, half)]
        try:
            return [self._line(kind, p)]
        except Unexplained as e:
            reason = str(e)
        weights = sorted({x for i in p.found for x in kind.group[i].truths if x[0] in "@$"})
        for atom in (*_RUN_ATOMS, *_LAYER_ATOMS, *self.known, *weights):
            halves = [_half(kind, p, literal, p.args) for literal in (atom, "!" + atom)]
            if all(h.found for h in halves):
                try:
                    return [self._line(kind, h) for h in halves]
                except Unexplained:
                    continue
        node = p.like.node
        guard = tuple(tuple(sorted((*one, "unknown"))) for one in (p.guard or ((),)))
        self.report.say(f"{kind.name}: {p.label} = {p.like.op}: {reason}")
        return [Line(p.label, p.like.op, p.args, None, node.type, tuple(node.ne), (), frozenset(), guard)]

    def _refrains(self, kind: _Kind, p: Position, names: tuple[str, ...]) -> str:
        """The condition under which a line does not read an optional weight that is there; "" for none."""
        having = [i for i in p.found if any(n[:-1] in kind.group[i].truths for n in names)]
        without = {i for i in having if len(p.found[i].refs) < len(p.args)}
        for atom in _LAYER_ATOMS if 0 < len(without) < len(having) else ():
            true = {i for i in having if atom in kind.group[i].truths}
            if true == without:
                return atom
            if true == set(having) - without:
                return "!" + atom
        return ""

    def _line(self, kind: _Kind, p: Position) -> Line:
        return self.inferrer.line(p, self._samples(kind, p))

    def _samples(self, kind: _Kind, p: Position) -> list[Sample]:
        """Occurrences that differ most: of every model's dimensions, then of other reservations."""
        by_dims: dict[object, dict[object, int]] = defaultdict(dict)
        for i in p.found:
            t = kind.group[i].traced
            r, c = t.run, t.run.context
            run = (
                r.n_tokens,
                r.n_seqs,
                r.n_outputs,
                c.n_ctx,
                c.n_stream,
                c.type_k.id,
                c.type_v.id,
                c.v_trans,
                *(x in kind.group[i].truths for x in _LAYER_ATOMS),
            )
            by_dims[t.model.n_embd, n_trunk(t.model), t.model.n_vocab].setdefault(run, i)
        chosen: list[int] = []
        for number, runs in enumerate(by_dims.values()):
            picks = sorted(runs, key=lambda run: hash((run, number)))
            chosen += [runs[x] for x in picks[:MAX_SAMPLES]]
        return [(p.found[i], kind.group[i].traced, kind.group[i].block) for i in chosen]


@dataclass(eq=False)
class _Kind:
    name: str
    group: list[Observation]
    positions: list[Position]

    def split(self, at: int, apart: Collection[int]) -> None:
        """Give the observations `apart` a position of their own, behind the one at `at` that they share with others."""
        p = self.positions[at]
        mine = {i: p.found[i] for i in apart if i in p.found}
        if not mine or len(mine) == len(p.found):
            return
        p.found = {i: x for i, x in p.found.items() if i not in mine}
        p.like = next(iter(p.found.values()))
        self.positions.insert(at + 1, Position(next(iter(mine.values())), mine, once=p.once))
        for i, o in enumerate(self.group):
            o.at = [a + (a > at or (a == at and i in mine)) for a in o.at]


def _doubted(guard: Guard, truths: Sequence[frozenset[str]]) -> Guard:
    """`guard`, true where both conditions of a pair hold that no block tells apart, unknown where one does."""
    for pair in _APART:
        if any((pair[0] in t) != (pair[1] in t) for t in truths):
            continue
        found: list[tuple[str, ...]] = []
        for one in guard:
            mine = {x for x in one if x.removeprefix("!") in pair}
            if not mine:
                found.append(one)
                continue
            rest = tuple(x for x in one if x not in mine)
            sign = "!" if min(mine)[0] == "!" else ""
            found.append(tuple(sorted((*rest, *(sign + x for x in pair)))))
            for yes, no in (pair, pair[::-1]):
                found.append(tuple(sorted((*rest, yes, "!" + no, UNKNOWN))))
        guard = tuple(dict.fromkeys(found))
    return guard


def _opposite(literal: str) -> str:
    return literal[1:] if literal[0] == "!" else "!" + literal


def _half(kind: _Kind, p: Position, literal: str, args: tuple[tuple[str, ...], ...]) -> Position:
    """What remains of a position where a literal holds."""
    atom = literal.removeprefix("!")
    found = {i: x for i, x in p.found.items() if (atom in kind.group[i].truths) == (literal == atom)}
    guard = tuple(tuple(sorted({*one, literal})) for one in (p.guard or ((),)))
    guard = tuple(one for one in guard if not any("!" + x in one for x in one))
    like = next(iter(found.values()), p.like)
    return Position(like, found, p.label, p.once, guard, args)


def _in_order(t: Traced) -> list[int]:
    """Tensors of a trace in the order they are made: early lines of a layer stand where the layer before waits."""
    found: list[int] = []
    order = list(t.blocks)

    def emit(at: int, early: bool) -> None:
        for x in t.blocks[order[at]]:
            if x.op == "cache" or ("early" in x.marks) != early:
                continue
            if x.op == "next":
                emit(at + 1, True)
                continue
            found.append(x.id)

    for at in range(len(order)):
        emit(at, False)
    return found


def _thin(group: list[Observation], each: int = 2) -> list[Observation]:
    """A few blocks of every topology under every condition, and enough of each model."""
    count: dict[object, int] = defaultdict(int)
    found = []
    for o in group:
        key = (
            id(o.traced),
            signature(o),
            frozenset(x for x in o.truths if x in _LAYER_ATOMS),
            frozenset(layer_weights(o.traced.model)[o.block]) if o.traced.layer(o.block) else None,
        )
        count[key] += 1
        if count[key] <= each:
            found.append(o)
    return found


def _presence(sets: Sequence[set[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What all have, and what only some have."""
    every = set.intersection(*sets) if sets else set()
    some = set.union(*sets) - every if sets else set()
    return tuple(sorted(every)), tuple(sorted(some))


def _default_name(x: Seen) -> str:
    weights = [str(w) for k, w in x.refs if k in "@$"]
    base = x.op.split(".")[0]
    return f"{base}.{weights[0].split('.')[0]}" if weights else base


def learn(
    architecture: str, folder: str | None = None, careful: bool = False
) -> tuple[Template, Report, Workshop]:
    """The template of an architecture and what it could not express."""
    folder = folder or tempfile.mkdtemp(prefix="templates-")
    shop = Workshop(architecture, folder, careful)
    optional: set[str] = set()
    known: set[str] = set()
    for shop.experts in (False, True) if architecture in DENSE_OR_MIXTURE else (None,):
        found = collect(shop)
        optional |= set(found[0])
        known |= set(found[1])
    template, report = _without_odd_switches(architecture, shop.traced, optional, known)
    for key, value in plan.FIXED.get(architecture, {}).items():
        template = replace(template, known=tuple(sorted({*template.known, f".{key}={value}"})))
    return template, report, shop


def _without_odd_switches(
    architecture: str, traced: list[Traced], optional: set[str], known: set[str]
) -> tuple[Template, Report]:
    """Learn; header values under which no condition is found for a line are left to the bound."""
    for _ in range(4):
        learner = Learner(architecture, traced, sorted(optional), sorted(known))
        template = learner.template()
        if not learner.odd:
            break
        known -= learner.odd
        traced = [t for t in traced if not any(_has(t.model, x) for x in learner.odd)]
    return template, learner.report


def _has(model: Model, condition: str) -> bool:
    key, _, value = condition[1:].partition("=")
    return header_value(model, model.layers[0], key) == value
