"""Count the bytes of a run of layers on one card, which the solver asks for again and again.

In: `Model`, the cards in use, `Settings`. Out: bytes of layers [start, end) on a card at a context.
Weights and context are prefix sums over layers. A compute buffer depends on a segment only through
the kinds of layer in it and their order, on whether it holds the first and the output layer, and on
the card's rules; segments that agree in all of that share what is known of them. One replay of a whole
split gives the figures of all its segments, so they are learned split by split.

Two things are known of a compute buffer. Its size, at a context that was replayed, or along a stretch of
contexts: it can fall as the context grows, because the allocator then fills other gaps. And its floor, the bytes that are alive in it at once:
tensors only grow with the context, so the floor at a smaller context is a lower bound at every larger one,
and a run of layers within a longer one is a lower bound of that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

from .._base.memo import Memo
from .._devices import Gpu
from .._estimate.compute import Compute, compute_bytes
from .._estimate.context_ranges import NotStraight, Piece, Stretch
from .._estimate.layer_runs import collapse, layer_kinds
from .._estimate.reserve import Case, prepare_case, reservations
from .._ggml.backends import Backend, pad
from .._ggml.galloc import most_alive
from .._graphs import Unbuildable
from .._llama.cparams import CONTEXT_STEP, Context, cells, context_step, resolve, streams, trained_ctx
from .._llama.eras import era_of, rules_of
from .._llama.memory import layer_context_bytes, weight_sizes
from .._llama.model import Home, Model, Weight
from .._llama.params import Settings
from .._llama.placement import HOST, Placement, pipeline_copies, place, place_split
from .likeness import likeness

__all__ = ["Learned", "Segments"]

_FEW: Final = 4  # contexts that are replayed one by one
_BELOW: Final = 8  # part of the contexts below the one asked for that are learned with it
_OFTEN: Final = 5  # times from which a split is learned along contexts, which takes as long as four replays
_NEAR: Final = 16  # part of the contexts below the one asked for that are learned with it then
_MORE: Final = 4  # stretches that are learned beyond what is asked for: the next question may be about them
_ENDS: Final = 3  # splits of a graph beside one for each card
_LIKENED: Final = 4096  # tokens at least at which cache types are compared
Points = list[tuple[int, int]]  # (context in tokens of all slots, bytes there), ascending
Place = tuple[object, ...]  # beside the kinds of layer: the card's rules, what ends of the model are there
Kinds = str  # of layers, a character each: runs within runs are found fastest so


class _Line(NamedTuple):
    """Sizes that grow evenly: `first` bytes at the first of the contexts, `slope` bytes more at each further one."""

    contexts: range
    first: int
    slope: int

    def size(self, n_ctx: int) -> int:
        return self.first + (n_ctx - self.contexts[0]) // self.contexts.step * self.slope


@dataclass(slots=True)
class _Known:
    """What is known of the compute buffer of segments that are alike."""

    sizes: Points = field(default_factory=list)
    floors: Points = field(default_factory=list)
    lines: list[_Line] = field(default_factory=list)

    def size(self, n_ctx: int) -> int | None:
        """Return the size in bytes at this very context; None if it is not known."""
        at = bisect_left(self.sizes, (n_ctx,))
        if at < len(self.sizes) and self.sizes[at][0] == n_ctx:
            return self.sizes[at][1]
        return next((line.size(n_ctx) for line in self.lines if n_ctx in line.contexts), None)

    def least(self, contexts: range) -> int | None:
        """Return the least size in bytes at any of these contexts; None unless it is known at all of them."""
        found: list[int] = []
        while contexts:
            line = next((x for x in self.lines if contexts[0] in x.contexts), None)
            if line is None or line.contexts.step != contexts.step:
                return None
            last = min(line.contexts[-1], contexts[-1])
            found += (line.size(contexts[0]), line.size(last))
            contexts = contexts[(last - contexts[0]) // contexts.step + 1 :]
        return min(found, default=None)


@dataclass(slots=True)
class _Along:
    """A split along contexts, and how often it was learned there."""

    contexts: range
    stretch: Stretch
    asked: int = 0


@dataclass(slots=True)
class _Often:
    """A split that is asked about at many contexts, and what was learned along them once it was worth it."""

    asked: int = 0
    along: _Along | None = None
    pieces: list[Piece] = field(default_factory=list)
    failed: bool = False


CacheTypes = tuple[str, str]  # types of K and V, by name: ("q8_0", "q4_0")


@dataclass(slots=True)
class _Types:
    """Groups of cache types that make the same compute buffers: the first of the group for each, and what tells groups apart."""

    chosen: dict[CacheTypes, CacheTypes] = field(default_factory=dict)
    like: dict[Hashable, CacheTypes] = field(default_factory=dict)


Learned = dict[
    Hashable, Any
]  # for each question its places, for several which cache types are alike, for all what is usual


class _Tables(NamedTuple):
    """Prefix sums of one backend: `weights[i]` is the bytes of layers before i, shared tensors left out."""

    weights: tuple[int, ...]
    shared: tuple[tuple[int, tuple[int, ...]], ...]  # bytes of a tensor, the layers that use it


class Segments:
    """Counts bytes of runs of layers for one model, one set of cards and settings; caches what it has computed.

    Layers [`first`, `last`) are on cards, counted with the output layer, which comes last. What is computed goes
    into `learned`, which questions about one model may share whatever the cards and its
    tensors' types.
    """

    def __init__(
        self, model: Model, gpus: Sequence[Gpu], settings: Settings, learned: Learned | None = None
    ) -> None:
        self._model = model
        self._gpus = gpus
        self._settings = settings
        self._rules = [rules_of(g, era_of(settings.engine_build)) for g in gpus]
        placement = place(model, gpus, settings)
        on_cards = [i for i, at in enumerate(placement.layers) if at != HOST]
        self.first = on_cards[0] if on_cards else model.n_layer + 1
        self.last = on_cards[-1] + 1 if on_cards else model.n_layer + 1
        on_host = tuple([w == HOST for w in placement.weights])
        self._kinds = layer_kinds(model, on_host)
        self._tables = {rules: _remembered(model, on_host, rules) for rules in self._rules}
        self._caches: dict[tuple[int, Backend], list[int]] = {}
        self._contexts: dict[int, Context] = {}
        self._cached = {cache for layer in model.layers for cache in layer.caches}
        self._stretches: dict[tuple[tuple[int, ...], range], _Along] = {}
        self._case: tuple[object, Case] | None = None  # behind the last floors: often replayed next
        self._uneven = False  # whether sizes were found to grow in steps of their own
        self._alikes: dict[tuple[Place, int], int] = {}  # guesses since something was learned last
        self._learned = {} if learned is None else learned
        self.never_falls = False  # whether what was learned last was a formula, not a replay
        copied = (
            w.tensor.type.id
            for w, at in zip(model.weights, placement.weights, strict=True)
            if at == HOST and w.home is not Home.INPUT
        )
        # what figures depend on beside the segment: `kinds` alone would not tell two file types apart
        asked = replace(settings, n_ctx=0, tensor_split=(), type_k="f16", type_v="f16")
        question = (tuple(self._rules), asked, tuple(copied))
        # by place and kinds: what may be known, and the little of it of which something is
        self._known_at: dict[Place, dict[Kinds, _Known]]
        self._learned_at: dict[Place, dict[Kinds, _Known]]
        kept = (question, self._alike(question))
        if kept not in self._learned:
            self._learned[kept] = ({}, {}, {}, {}, {}, self._piles_up())
        self._replayed: dict[tuple[Sequence[int], int], Compute]
        self._often: dict[tuple[int, ...], _Often]
        self._known_at, self._learned_at, self._replayed, self._often, places, self._counts = self._learned[
            kept
        ]
        step = context_step(settings)
        self._all = range(step, max(trained_ctx(model, settings), _LIKENED * streams(settings)) + 1, step)
        self._places: dict[tuple[int, int, int], tuple[Place, Kinds, _Known]]
        self._places = places.setdefault(self._kinds, {})

        self._usual: dict[Place, int] = self._learned.setdefault(tuple(self._rules), {})

    def _alike(self, question: Hashable) -> CacheTypes:
        """Return the cache types asked for, or others that were asked for before and make the same compute buffers."""
        types = (self._settings.type_k, self._settings.type_v)
        known: _Types = self._learned.setdefault(question, _Types())
        if types not in known.chosen:
            for first in known.chosen if not known.like else ():  # told apart when there are two
                known.like[self._likeness(first)] = first
            same = known.like.setdefault(self._likeness(types), types) if known.chosen else types
            known.chosen[types] = same
        return known.chosen[types]

    def _likeness(self, types: CacheTypes) -> Hashable:
        """Collect what tells these cache types from others; themselves where there is no graph to tell by."""
        try:
            return likeness(*self._evenly(types))
        except Unbuildable:
            return types

    def _piles_up(self) -> bool:
        """Tell whether each layer of a card adds to its buffer: copies for parts that run elsewhere, in a pipeline."""
        try:
            model, placement, context, rules = self._evenly((self._settings.type_k, self._settings.type_v))
            if pipeline_copies(placement, rules) == 1:
                return False
            case = prepare_case(model, placement, context, rules)
            prompt = reservations(case, context)[0]
            return len(case.graph(prompt)[1].splits) > len(rules) + _ENDS
        except Unbuildable:
            return False

    def _evenly(self, types: CacheTypes) -> tuple[Model, Placement, Context, Sequence[Backend]]:
        """Spread the layers over all cards, at a context that shows what depends on settings."""
        n_ctx = pad(max(_LIKENED, self._settings.n_batch), CONTEXT_STEP) * self._settings.n_seq_max
        settings = replace(
            self._settings,
            type_k=types[0],
            type_v=types[1],
            n_ctx=n_ctx,
            tensor_split=(1.0,) * len(self._gpus),
        )
        placement = place(self._model, self._gpus, settings)
        return self._model, placement, resolve(self._model, settings), self._rules

    def fixed(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Count the bytes of weights and context of layers [start, end) on card `device` (index in use)."""
        if start == end:
            return 0
        rules = self._rules[device]
        tables = self._tables[rules]
        caches = self._cache_table(n_ctx, rules)
        size = tables.weights[end] - tables.weights[start] + caches[end] - caches[start]
        for n, users in tables.shared:
            at = bisect_left(users, start)
            if at < len(users) and users[at] < end:
                size += n
        return size

    def context(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Count the bytes of context alone of layers [start, end) on card `device`."""
        caches = self._cache_table(n_ctx, self._rules[device])
        return caches[end] - caches[start]

    def size(self, device: int, start: int, end: int, n_ctx: int) -> int | None:
        """Return the segment's compute buffer in bytes where it is known at this very context."""
        return self._known(device, start, end).size(n_ctx)

    def at_least(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Return a lower bound of the segment's compute buffer in bytes: its size if that is known, else its best floor."""
        size = self._known(device, start, end).size(n_ctx)
        return self.floor(device, start, end, n_ctx) if size is None else size

    def at_least_each(self, counts: Sequence[int], n_ctx: int) -> list[int]:
        """Return a lower bound of the bytes that each card of a split takes, from what is known."""
        ends = list(accumulate(counts, initial=self.first))
        return [
            self.fixed(i, start, end, n_ctx) + self.at_least(i, start, end, n_ctx)
            for i, (start, end) in enumerate(pairwise(ends))
        ]

    def least(self, device: int, start: int, end: int, contexts: range) -> int:
        """Return a lower bound in bytes of the compute buffer at all of these contexts: never falls as they get fewer."""
        size = self._known(device, start, end).least(contexts)
        return self.floor(device, start, end, contexts[0]) if size is None else size

    def floor(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Return a lower bound of the bytes alive at once in the compute buffer: never falls as the context grows."""
        place, kinds, known = self._where(device, start, end)
        if known.floors:
            return _below(known.floors, n_ctx)
        parts = (k for x, k in self._learned_at.get(place, {}).items() if x and x in kinds)
        return max((_below(k.floors, n_ctx) for k in parts), default=0)

    def holds(self, counts: Sequence[int], n_ctx: int, free: Sequence[int]) -> bool:
        """Tell whether it is known, without computing, that each card with so many layers has room for them.

        Only figures of this very context count: between two contexts a compute buffer can be larger
        than at either, because the allocator leaves other gaps.
        """
        start = self.first
        for device, (count, room) in enumerate(zip(counts, free, strict=True)):
            compute = self._known(device, start, start + count).size(n_ctx)
            if compute is None:
                return False
            size = self.fixed(device, start, start + count, n_ctx) + compute
            if size > room and size:
                return False
            start += count
        return True

    def has_floors(self, counts: Sequence[int], n_ctx: int) -> bool:
        """Tell whether floors of these segments are known at this very context, or better than that, sizes."""
        start = self.first
        for device, count in enumerate(counts):
            known = self._known(device, start, start + count)
            at = bisect_left(known.floors, (n_ctx,))
            if (at == len(known.floors) or known.floors[at][0] != n_ctx) and known.size(n_ctx) is None:
                return False
            start += count
        return True

    def probably(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Guess the compute buffer in bytes: on the line through the two nearest contexts known.

        Of a segment of which nothing is known, as much as the largest of the same place, if need be under
        settings that were asked about before.
        """
        place, _, known = self._where(device, start, end)
        size = known.size(n_ctx)
        if size is not None:
            return size
        if known.sizes:
            return _on_line(known.sizes, n_ctx)
        if start == end:
            return 0
        if (place, n_ctx) not in self._alikes:
            alike = (_on_line(k.sizes, n_ctx) for k in self._learned_at.get(place, {}).values() if k.sizes)
            usual = self._usual.get(place) or max(self._usual.values(), default=0)
            self._alikes[place, n_ctx] = max(alike, default=usual)
        return self._alikes[place, n_ctx]

    def learn(self, counts: Sequence[int], n_ctx: int) -> tuple[int, ...]:
        """Replay a split, and return the bytes on each card when it has so many layers: exact as `compute` is. Cached."""
        found = self.compute(counts, n_ctx)
        self.never_falls = not found.replayed
        self._alikes.clear()
        totals = []
        start = self.first
        for device, (count, compute) in enumerate(zip(counts, found.gpus, strict=True)):
            place, kinds, known = self._where(device, start, start + count)
            self._learned_at.setdefault(place, {})[kinds] = known
            _remember(known.sizes, n_ctx, compute)
            self._usual[place] = compute
            if not found.replayed:  # a formula that never falls
                _remember(known.floors, n_ctx, compute)
            totals.append(self.fixed(device, start, start + count, n_ctx) + compute)
            start += count
        return tuple(totals)

    def compute(self, counts: Sequence[int], n_ctx: int) -> Compute:
        """Replay the compute buffers of a split; cached, and shared by cache types that make the same."""
        key = (tuple(counts), n_ctx)
        if key not in self._replayed:
            self._replayed[key] = self._from_lines(key[0], n_ctx) or self._compute(counts, n_ctx)
        return self._replayed[key]

    def _compute(self, counts: Sequence[int], n_ctx: int) -> Compute:
        placement, context = self._split(counts, n_ctx)
        case = self._case[1] if self._case and self._case[0] == (placement, context) else None
        self._case = None
        return compute_bytes(self._model, placement, context, self._rules, case=case)

    def _from_lines(self, counts: tuple[int, ...], n_ctx: int) -> Compute | None:
        """Read the compute buffers of a split that was asked about often off a straight line; None where there is none."""
        often = self._often.setdefault(counts, _Often())
        often.asked += 1
        if often.asked < _OFTEN or often.failed or n_ctx not in self._all:
            return None
        before = next(x for (of, _), x in self._replayed.items() if of == counts)
        try:
            along = often.along = often.along or self._along(counts, self._all)
            if n_ctx not in along.contexts or not before.replayed or along.stretch.is_sure is None:
                return None
            at = along.contexts.index(n_ctx)
            piece = next((p for p in often.pieces if p.first <= at <= p.last), None)
            if piece is None:
                pieces = _pieces(along.stretch, at - at // _NEAR, at)
                often.pieces += pieces
                self._draw(counts, along.contexts, pieces)
                piece = pieces[-1]
        except (NotStraight, Unbuildable):
            often.failed = True
            return None
        *gpus, host = (size + at * slope for size, slope in zip(piece.sizes, piece.slopes, strict=True))
        return before._replace(gpus=tuple(gpus), host=host)

    def _along(self, counts: tuple[int, ...], contexts: range) -> _Along:
        """Prepare to learn a split along the last of these contexts, as far as that can be done. Raises as `Stretch` does."""
        even = self._even(contexts)
        if len(even) < _FEW:
            raise NotStraight
        placement, _ = self._split(counts, even[0])
        reach = len(even) - 1
        return _Along(
            even,
            Stretch(self._model, placement, lambda i: self._context(even[i]), reach, self._rules),
        )

    def _draw(self, counts: Sequence[int], contexts: range, pieces: Sequence[Piece]) -> None:
        """Keep the lines of each segment of a split."""
        start = self.first
        for device, count in enumerate(counts):
            lines = self._known(device, start, start + count).lines
            for p in pieces:
                size = p.sizes[device] + p.first * p.slopes[device]
                lines.append(_Line(contexts[p.first : p.last + 1], size, p.slopes[device]))
            start += count

    def learn_lines(self, counts: Sequence[int], contexts: range, n_ctx: int) -> bool:
        """Learn the sizes of the segments of a split at many of these contexts; tell whether `n_ctx` is among them.

        From some way below `n_ctx` on, and from further below each time: pieces are the shorter the smaller the context.
        """
        found = self._stretch(tuple(counts), contexts)
        if found is None or n_ctx not in found.contexts:
            return False
        contexts, stretch = found.contexts, found.stretch
        at, reach = contexts.index(n_ctx), len(contexts) - 1
        start = max(0, at - (at << found.asked) // _BELOW)
        found.asked += 1
        try:
            pieces = _pieces(stretch, start, at)
            while len(pieces) < _MORE and pieces[-1].last < reach:
                pieces.append(stretch.piece(pieces[-1].last + 1))
        except (NotStraight, Unbuildable):
            self._uneven = True
            return False
        self._draw(counts, contexts, pieces)
        return True

    def _stretch(self, counts: tuple[int, ...], contexts: range) -> _Along | None:
        """Prepare to learn a split along the last of these contexts; cached. None where that cannot be done."""
        key = (counts, contexts)
        if key not in self._stretches and not self._uneven:
            try:
                self._stretches[key] = self._along(counts, contexts)
            except (NotStraight, Unbuildable):
                self._uneven = True
        return self._stretches.get(key)

    def _even(self, contexts: range) -> range:
        """Cut the contexts down to the last ones with equal steps in all that a cache holds of them."""

        def counts(i: int) -> tuple[int, ...]:
            context = self._context(contexts[i])
            return (context.n_ubatch, context.n_ctx_seq, *(cells(cache, context) for cache in self._cached))

        last = len(contexts) - 1
        ends, before = counts(last), counts(max(0, last - 1))

        def even(i: int) -> bool:
            steps = zip(counts(i), ends, before, strict=True)
            return all(n == end - (last - i) * (end - previous) for n, end, previous in steps)

        return contexts[bisect_left(range(len(contexts)), True, key=even) :]

    def learn_floors(self, counts: Sequence[int], n_ctx: int) -> None:
        """Learn the floors of the segments of a split. The last reservation counts: every buffer holds it."""
        placement, context = self._split(counts, n_ctx)
        try:
            case = prepare_case(self._model, placement, context, self._rules)
            self._case = (placement, context), case
            last = reservations(case, context)[-1]
            floors: Sequence[int] = most_alive(case.graph(last)[1])
        except Unbuildable:
            floors = self._formula(placement, context)
        start = self.first
        for device, count in enumerate(counts):
            place, kinds, known = self._where(device, start, start + count)
            self._learned_at.setdefault(place, {})[kinds] = known
            _remember(known.floors, n_ctx, floors[device])
            start += count

    def _formula(self, placement: Placement, context: Context) -> Sequence[int]:
        """Floors where no graph is known: the size is a formula that never falls."""
        return compute_bytes(self._model, placement, context, self._rules).gpus

    def _split(self, counts: Sequence[int], n_ctx: int) -> tuple[Placement, Context]:
        return place_split(self._model, self._gpus, self._settings, counts), self._context(n_ctx)

    def _known(self, device: int, start: int, end: int) -> _Known:
        return self._where(device, start, end)[2]

    def _where(self, device: int, start: int, end: int) -> tuple[Place, Kinds, _Known]:
        segment = (device, start, end)
        if segment not in self._places:
            n_layer = self._model.n_layer
            run = self._kinds[start : min(end, n_layer)]
            kept = range(len(run)) if self._counts else collapse(run).kept
            kinds = "".join(chr(run[i]) for i in kept)
            # the first card also takes what is offloaded from the host, and of the last layer only rows of outputs go on
            ends = end >= n_layer and start < n_layer
            edges = (device == 0, start == self.first, ends, end == n_layer + 1, start == end)
            place = (self._rules.index(self._rules[device]), edges)
            known = self._known_at.setdefault(place, {}).setdefault(kinds, _Known())
            self._places[segment] = (place, kinds, known)
        return self._places[segment]

    def _context(self, n_ctx: int) -> Context:
        if n_ctx not in self._contexts:
            self._contexts[n_ctx] = resolve(self._model, replace(self._settings, n_ctx=n_ctx))
        return self._contexts[n_ctx]

    def _cache_table(self, n_ctx: int, rules: Backend) -> list[int]:
        key = (n_ctx, rules)
        if key not in self._caches:
            self._caches[key] = list(accumulate([*self._cache_sizes(n_ctx, rules), 0], initial=0))
        return self._caches[key]

    def _cache_sizes(self, n_ctx: int, rules: Backend) -> list[int]:
        if not self._settings.offload_kqv:
            return [0] * self._model.n_layer
        context = self._context(n_ctx)
        known: dict[object, int] = {}
        sizes = []
        for layer in self._model.layers:
            alike = (layer.caches, layer.states)
            if alike not in known:
                known[alike] = layer_context_bytes(self._model, layer, context, rules)
            sizes.append(known[alike])
        return sizes


# of a model and of which weights are on the host: a plan of each alternative asks for them
_TABLES: Final[Memo[_Tables]] = Memo(16)


def _remembered(model: Model, on_host: tuple[bool, ...], rules: Backend) -> _Tables:
    return _TABLES.get(model, (on_host, rules), lambda: _tables(model, on_host, rules))


def _tables(model: Model, on_host: Sequence[bool], rules: Backend) -> _Tables:
    repeated = {w.tensor.name for w in model.weights if w.duplicate}
    each = [0] * (model.n_layer + 1)
    users: dict[str, set[int]] = {}
    size: dict[str, int] = {}
    for weight, n, is_there in zip(model.weights, weight_sizes(model, rules), on_host, strict=True):
        if is_there:
            continue
        index = _index(weight, model)
        if weight.tensor.name in repeated:
            users.setdefault(weight.tensor.name, set()).add(index)
            size[weight.tensor.name] = n
        else:
            each[index] += n
    shared = tuple((size[name], tuple(sorted(at))) for name, at in users.items())
    return _Tables(tuple(accumulate(each, initial=0)), shared)


def _index(weight: Weight, model: Model) -> int:
    return model.n_layer if isinstance(weight.home, Home) else weight.home


def _pieces(stretch: Stretch, start: int, at: int) -> list[Piece]:
    """List the pieces from one position on until another is within the last of them."""
    pieces = [stretch.piece(start)]
    while pieces[-1].last < at:
        pieces.append(stretch.piece(pieces[-1].last + 1))
    return pieces


def _remember(points: Points, n_ctx: int, size: int) -> None:
    """Keep the size at a context; of two for one context the larger."""
    at = bisect_left(points, (n_ctx,))
    if at == len(points) or points[at][0] != n_ctx:
        points.insert(at, (n_ctx, size))
    else:
        points[at] = max(points[at], (n_ctx, size))


def _below(points: Points, n_ctx: int) -> int:
    """Return the largest size at a context of at most `n_ctx`; 0 without one."""
    return max((size for at, size in points if at <= n_ctx), default=0)


def _on_line(points: Points, n_ctx: int) -> int:
    """Guess a size: on the line through the two nearest; from one in proportion, which at smaller contexts is little."""
    if len(points) < 2:
        return points[0][1] * n_ctx // points[0][0]
    at = min(max(1, bisect_left(points, (n_ctx,))), len(points) - 1)
    (x0, y0), (x1, y1) = points[at - 1 : at + 1]
    return y0 + (y1 - y0) * (n_ctx - x0) // (x1 - x0)
