"""Count the bytes of a run of layers on one card together with those of a draft's layers that follow it there.

In: `Segments` of a model, and of what is divided over the cards by the same shares: a draft, or the context of
next-token layers. Out: `Paired`, which the search asks as it asks `Segments`. A share decides between two layers of the draft by
nothing but how many of the model's layers come before it, so where a run of the model's layers starts and ends says
which of the draft's are on its card: no other part of the split matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from .._devices import Gpu
from .._estimate.company import Divided
from .._estimate.compute import Compute, compute_bytes
from .._llama.cparams import Context
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import Placement, ends_like
from .segments import Learned, Segments

__all__ = ["Paired", "paired"]


def paired(
    own: Segments, found: Divided, gpus: Sequence[Gpu], padded: Callable[[int], int], learned: Learned
) -> Paired:
    """Pair the model's segments with those of what is divided as it is; `gpus` are the cards in use."""
    kind = NextTokens if found.is_own else Segments
    other = kind(found.model, gpus, found.settings, learned.setdefault(("beside", found.is_own), {}))
    return Paired(own, other, padded, has_weights=not found.is_own)


class NextTokens(Segments):
    """Segments of the context of a model's own next-token layers: buffers that are not exact are bounds, as in its estimate."""

    def __init__(self, model: Model, gpus: Sequence[Gpu], settings: Settings, learned: Learned) -> None:
        super().__init__(model, gpus, settings, learned)
        self._bounds: dict[tuple[tuple[int, ...], int], Compute] = {}

    def compute(self, counts: Sequence[int], n_ctx: int) -> Compute:
        """Replay the compute buffers of a split, or bound them; cached."""
        found = super().compute(counts, n_ctx)
        if found.exact:
            return found
        key = (tuple(counts), n_ctx)
        if key not in self._bounds:
            placement, context = self._split(counts, n_ctx)
            bound = compute_bytes(self._model, placement, context, self._rules, bound=True)
            self._bounds[key] = bound._replace(replayed=True)  # it may fall as a replay may
        return self._bounds[key]

    def learn_lines(self, counts: Sequence[int], contexts: range, n_ctx: int) -> bool:
        """Learn sizes at many contexts where they are exact; see `Segments`."""
        return self.compute(counts, n_ctx).exact and super().learn_lines(counts, contexts, n_ctx)

    def _formula(self, placement: Placement, context: Context) -> Sequence[int]:
        return (0,) * len(self._rules)  # a bound may be below the formula


class Paired:
    """Counts bytes of runs of a model's layers, and of the layers of another model that are on the same card.

    Contexts are the model's; `padded` says what the engine makes of one, which the other model's context gets.
    """

    def __init__(
        self, own: Segments, other: Segments, padded: Callable[[int], int], *, has_weights: bool = True
    ) -> None:
        self.first, self.last = own.first, own.last
        self._own, self._other, self._padded = own, other, padded
        self._fixed = other.fixed if has_weights else other.context
        ends = ends_like(own.last - own.first, other.last - other.first)
        self._ends = [other.first + n for n in ends]

    @property
    def never_falls(self) -> bool:
        """Whether all of what was learned last was a formula, not a replay."""
        return self._own.never_falls and self._other.never_falls

    def fixed(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Count the bytes of weights and context of both on card `device`, by the model's layers [start, end)."""
        others = self._fixed(device, *self._run(start, end), self._padded(n_ctx))
        return self._own.fixed(device, start, end, n_ctx) + others

    def at_least(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Return a lower bound of both compute buffers in bytes."""
        others = self._other.at_least(device, *self._run(start, end), self._padded(n_ctx))
        return self._own.at_least(device, start, end, n_ctx) + others

    def least(self, device: int, start: int, end: int, contexts: range) -> int:
        """Return a lower bound of both compute buffers in bytes at all of these contexts."""
        others = self._other.least(device, *self._run(start, end), self._along(contexts))
        return self._own.least(device, start, end, contexts) + others

    def probably(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Guess both compute buffers in bytes."""
        others = self._other.probably(device, *self._run(start, end), self._padded(n_ctx))
        return self._own.probably(device, start, end, n_ctx) + others

    def holds(self, counts: Sequence[int], n_ctx: int, free: Sequence[int]) -> bool:
        """Tell whether it is known, without computing, that each card with so many layers has room for both."""
        ends = accumulate(counts, initial=self.first)
        for device, ((start, end), room) in enumerate(zip(pairwise(ends), free, strict=True)):
            own = self._own.size(device, start, end, n_ctx)
            other = self._other.size(device, *self._run(start, end), self._padded(n_ctx))
            if own is None or other is None:
                return False
            size = self.fixed(device, start, end, n_ctx) + own + other
            if size > room and size:
                return False
        return True

    def has_floors(self, counts: Sequence[int], n_ctx: int) -> bool:
        """Tell whether floors of both are known at this very context."""
        return all(part.has_floors(split, n) for part, split, n in self._parts(counts, n_ctx))

    def learn_floors(self, counts: Sequence[int], n_ctx: int) -> None:
        """Learn the floors of both under a split of the model's layers, where they are not known."""
        for part, split, n in self._parts(counts, n_ctx):
            if not part.has_floors(split, n):
                part.learn_floors(split, n)

    def learn_lines(self, counts: Sequence[int], contexts: range, n_ctx: int) -> bool:
        """Learn the sizes of both at many of these contexts; tell whether `n_ctx` is among them for both."""
        found = True
        for part, split, n in self._parts(counts, n_ctx):
            if part.never_falls:
                part.learn(split, n)
            else:
                along = contexts if part is self._own else self._along(contexts)
                found = part.learn_lines(split, along, n) and found
        return found

    def learn(self, counts: Sequence[int], n_ctx: int) -> tuple[int, ...]:
        """Replay both under a split of the model's layers, and return the bytes on each card."""
        for part, split, n in self._parts(counts, n_ctx):
            part.learn(split, n)
        ends = accumulate(counts, initial=self.first)
        return tuple(
            self.fixed(device, start, end, n_ctx) + self.at_least(device, start, end, n_ctx)
            for device, (start, end) in enumerate(pairwise(ends))
        )

    def _parts(self, counts: Sequence[int], n_ctx: int) -> tuple[tuple[Segments, Sequence[int], int], ...]:
        """Both, each with its layers on each card and its context."""
        ends = accumulate(counts, initial=self.first)
        others = [end - start for start, end in (self._run(*run) for run in pairwise(ends))]
        return (self._own, counts, n_ctx), (self._other, others, self._padded(n_ctx))

    def _run(self, start: int, end: int) -> tuple[int, int]:
        return self._ends[start - self.first], self._ends[end - self.first]

    def _along(self, contexts: range) -> range:
        """The other model's contexts: steps between contexts are of what is padded already, a context that was asked for may not be."""
        if len(contexts) > 1:
            return contexts
        n_ctx = self._padded(contexts[0])
        return range(n_ctx, n_ctx + 1)
