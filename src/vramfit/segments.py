"""Bytes of a run of layers on one card: what the solver asks again and again.

In: `Model`, the cards in use, `Settings`. Out: bytes of layers [start, end) on a card at a context.
Weights and context are prefix sums over layers. A compute buffer depends on a segment only through
the kinds of layer in it and their order, on whether it holds the first and the output layer, and on
the card's rules; segments that agree in all of that share one figure. One replay of a whole split
gives the figures of all its segments, so they are learned split by split; in between, a figure at a
smaller context is a lower bound, because a compute buffer never falls as the context grows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from .backends import Backend, backend
from .collapse import collapse, layer_kinds
from .compute import compute_bytes
from .context import Context, resolve
from .gpus import Gpu
from .memory import layer_context_bytes, weight_size
from .model import Home, Model, Weight
from .placement import HOST, Placement, place
from .settings import Settings

__all__ = ["Learned", "Segments", "chain"]

Key = tuple[object, ...]
Points = tuple[list[int], list[int]]  # contexts, ascending, and the compute bytes at each
Learned = dict[Key, Points]


@dataclass(frozen=True, slots=True)
class _Tables:
    """Prefix sums of one backend: `weights[i]` is what layers before i take, shared tensors left out."""

    weights: list[int]
    shared: tuple[tuple[int, tuple[int, ...]], ...]  # bytes of a tensor, the layers that use it


class Segments:
    """Answers for one model, one set of cards and settings; remembers what it has computed.

    `first` and `last` bound the layers on cards: the output layer is `last` - 1. What is computed goes
    into `learned`, which questions about one model may share whatever the cards and its
    tensors' types.
    """

    def __init__(
        self, model: Model, gpus: Sequence[Gpu], settings: Settings, learned: Learned | None = None
    ) -> None:
        self._model = model
        self._gpus = gpus
        self._settings = settings
        self._rules = [backend(g.backend) for g in gpus]
        placement = place(model, gpus, settings)
        self.last = model.n_layer + 1
        self.first = placement.layers.count(HOST)
        self._kinds = layer_kinds(model, [w == HOST for w in placement.weights])
        self._tables = {rules.name: _tables(model, placement, rules) for rules in self._rules}
        self._caches: dict[tuple[int, str], list[int]] = {}
        self._contexts: dict[int, Context] = {}
        self._keys: dict[tuple[int, int, int], Key] = {}
        self._learned = {} if learned is None else learned
        copied = (
            w.tensor.type.id
            for w, at in zip(model.weights, placement.weights, strict=True)
            if at == HOST and w.home is not Home.INPUT
        )
        # what figures depend on beside the segment: `kinds` alone would not tell two file types apart
        cards = tuple(rules.name for rules in self._rules)
        self._question = (cards, replace(settings, n_ctx=0, tensor_split=()), tuple(copied))

    def fixed(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Weights and context of layers [start, end) on card `device` (index in use), in bytes."""
        if start == end:
            return 0
        rules = self._rules[device]
        tables = self._tables[rules.name]
        caches = self._cache_table(n_ctx, rules)
        size = tables.weights[end] - tables.weights[start] + caches[end] - caches[start]
        for n, users in tables.shared:
            at = bisect_left(users, start)
            if at < len(users) and users[at] < end:
                size += n
        return size

    def at_least(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """A compute buffer that the segment needs at least: what it needs at a context not larger."""
        contexts, sizes = self._points(device, start, end)
        at = bisect_right(contexts, n_ctx)
        return sizes[at - 1] if at else 0

    def holds(self, counts: Sequence[int], n_ctx: int, free: Sequence[int]) -> bool:
        """Whether it is known, without computing, that each card with so many layers has room for them.

        Only figures of this very context count: between two contexts a compute buffer can be larger
        than at either, because the allocator leaves other gaps.
        """
        start = self.first
        for device, (count, room) in enumerate(zip(counts, free, strict=True)):
            contexts, sizes = self._points(device, start, start + count)
            at = bisect_left(contexts, n_ctx)
            if at == len(contexts) or contexts[at] != n_ctx:
                return False
            size = self.fixed(device, start, start + count, n_ctx) + sizes[at]
            if size > room and size:
                return False
            start += count
        return True

    def probably(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """A guess at the compute buffer: on the line through the two nearest contexts known."""
        contexts, sizes = self._points(device, start, end)
        if len(contexts) < 2:
            return sizes[0] if sizes else 0
        at = min(max(1, bisect_left(contexts, n_ctx)), len(contexts) - 1)
        (x0, x1), (y0, y1) = contexts[at - 1 : at + 1], sizes[at - 1 : at + 1]
        return y0 + (y1 - y0) * (n_ctx - x0) // (x1 - x0)

    def learn(self, counts: Sequence[int], n_ctx: int) -> tuple[int, ...]:
        """Bytes on each card when it has so many layers: exact as `compute` is. Remembered."""
        settings = replace(self._settings, tensor_split=tuple(map(float, counts)), n_ctx=n_ctx)
        placement = place(self._model, self._gpus, settings)
        context = self._context(n_ctx)
        found = compute_bytes(self._model, placement, context, settings, self._rules)
        totals = []
        start = self.first
        for device, count in enumerate(counts):
            compute = found.gpus[device]
            self._remember(device, start, start + count, n_ctx, compute)
            totals.append(self.fixed(device, start, start + count, n_ctx) + compute)
            start += count
        return tuple(totals)

    def _remember(self, device: int, start: int, end: int, n_ctx: int, size: int) -> None:
        contexts, sizes = self._points(device, start, end)
        at = bisect_left(contexts, n_ctx)
        if at == len(contexts) or contexts[at] != n_ctx:
            contexts.insert(at, n_ctx)
            sizes.insert(at, size)

    def _points(self, device: int, start: int, end: int) -> Points:
        where = (device, start, end)
        if where not in self._keys:
            kinds = self._kinds[start : min(end, self.last - 1)]
            kept = tuple(kinds[i] for i in collapse(kinds).kept)
            # the first card also takes what is offloaded from the host
            place = (device == 0, start == self.first, end == self.last, start == end)
            self._keys[where] = (self._rules[device].name, place, kept, self._question)
        return self._learned.setdefault(self._keys[where], ([], []))

    def _context(self, n_ctx: int) -> Context:
        if n_ctx not in self._contexts:
            self._contexts[n_ctx] = resolve(self._model, replace(self._settings, n_ctx=n_ctx))
        return self._contexts[n_ctx]

    def _cache_table(self, n_ctx: int, rules: Backend) -> list[int]:
        key = (n_ctx, rules.name)
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


Compute = Callable[[int, int, int, int], int]  # device, start, end, context -> bytes


def chain(segments: Segments, compute: Compute, n_ctx: int, free: Sequence[int]) -> tuple[int, ...] | None:
    """Layers on each card such that every segment fits into `free` bytes, or None.

    Walks the cards and keeps every layer that the cards so far can end at, with the layer it came
    from. Of all starts for an end, the latest takes least; earlier ones are tried too, because a
    compute buffer may be smaller for a segment of other kinds.
    """
    reached: dict[int, tuple[int, ...]] = {segments.first: ()}
    for device, room in enumerate(free):
        starts = sorted(reached, reverse=True)
        last_card = device == len(free) - 1
        ends = (segments.last,) if last_card else range(segments.first, segments.last + 1)
        further: dict[int, tuple[int, ...]] = {}
        for end in ends:
            for start in starts:
                if start > end:
                    continue
                fixed = segments.fixed(device, start, end, n_ctx)
                if fixed > max(room, 0):
                    break
                size = fixed + compute(device, start, end, n_ctx)
                if size <= room or not size:  # an unused card needs no room
                    further[end] = (*reached[start], end - start)
                    break
        reached = further
    return reached.get(segments.last)


def _tables(model: Model, placement: Placement, rules: Backend) -> _Tables:
    repeated = {w.tensor.name for w in model.weights if w.duplicate}
    each = [0] * (model.n_layer + 1)
    users: dict[str, set[int]] = {}
    size: dict[str, int] = {}
    for weight, device in zip(model.weights, placement.weights, strict=True):
        if device == HOST:
            continue
        n = weight_size(weight, rules)
        index = _index(weight, model)
        if weight.tensor.name in repeated:
            users.setdefault(weight.tensor.name, set()).add(index)
            size[weight.tensor.name] = n
        else:
            each[index] += n
    shared = tuple((size[name], tuple(sorted(at))) for name, at in users.items())
    return _Tables(list(accumulate(each, initial=0)), shared)


def _index(weight: Weight, model: Model) -> int:
    return model.n_layer if isinstance(weight.home, Home) else weight.home
