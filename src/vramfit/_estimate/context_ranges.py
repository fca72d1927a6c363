"""Size compute buffers over a range of contexts, exactly at each, from a few replays.

In: a placed model and `Context`s that lie equally far apart. Out: a `Piece`: bytes of each device at the first
context, and what each further one adds. Between contexts only the sizes of a graph's tensors differ, and each grows by
the same bytes from one context to the next: three graphs show that. So one walk of the allocator over
`Line`s does what it does at every context, as far as its decisions stay the same; there the piece ends. A buffer is
not monotone in the context, but it is straight between the points where a decision changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from .._ggml.backends import Backend
from .._ggml.galloc import Walk, held
from .._ggml.graph import Tensor
from .._ggml.sched import Schedule
from .._graphs import Instance, Run
from .._llama.cparams import Context
from .._llama.model import Model
from .._llama.placement import Placement
from .affine import Line, Number, Span, line
from .reserve import Case, Needs, is_by_address, is_sure, needs_of_all, prepare_case, reservations

__all__ = ["NotStraight", "Piece", "Stretch"]


class NotStraight(Exception):
    """Raised where the graphs of contexts differ in more than sizes that grow evenly."""


class Piece(NamedTuple):
    """Bytes of each device's compute buffer, the host last: `sizes` + i * `slopes` at context i, `first` to `last`."""

    sizes: tuple[int, ...]
    slopes: tuple[int, ...]
    first: int
    last: int


class Stretch:
    """Sizes the buffers of a placed model at contexts 0 to `reach` (2 or more), of which `context` gives each.

    Raises `NotStraight`, and `Unbuildable` as `reserve.reserve_context` does.
    """

    def __init__(
        self,
        model: Model,
        placement: Placement,
        context: Callable[[int], Context],
        reach: int,
        backends: Sequence[Backend],
    ) -> None:
        ends = [context(i) for i in (0, 1, reach)]
        if ends[0].era.is_raised:
            raise NotStraight
        self._case = prepare_case(model, placement, ends[0], backends)
        self._span = Span(0, reach)
        self._reach = reach
        self._runs = tuple(zip(*(reservations(self._case, each) for each in ends), strict=True))
        if is_by_address(self._case.graph(self._runs[0][0])[1]):
            raise NotStraight
        self._sheets: dict[tuple[int, int], _Sheet] = {}
        self._steps = [0] * len(self._runs)  # of the ladder: where the proof held last

    @property
    def is_sure(self) -> bool | None:
        """Whether cards whose kind is not known would all take the same at all contexts; None where it depends."""
        found = {is_sure(self._case.graph(run)[1]) for runs in self._runs for run in runs}
        return found.pop() if len(found) == 1 else None

    def pieces(self) -> Iterator[Piece]:
        """List the pieces that cover all contexts, in order."""
        first = 0
        while first <= self._reach:
            piece = self.piece(first)
            yield piece
            first = piece.last + 1

    def piece(self, first: int) -> Piece:
        """Size the buffers from context `first` on, as far as they grow in a straight line."""
        span = self._span
        span.first, span.last = first, self._reach
        needs: list[Any] = []  # the allocator's ints may be lines here
        for i, runs in enumerate(self._runs):
            same = self._runs.index(runs)
            needs.append(needs[same] if same < i else self._needs(i))
        found: Sequence[Number] = held(needs)
        return Piece(
            tuple(x.at if isinstance(x, Line) else x for x in found),
            tuple(x.slope if isinstance(x, Line) else 0 for x in found),
            first,
            span.last,
        )

    def _needs(self, i: int) -> Needs:
        """Size the chunks of each backend for one reservation, from as few layers as are proven to be enough."""
        last = self._span.last
        while True:
            sheet = self._sheet(i, self._steps[i])
            found = needs_of_all(self._case, self._steps[i], sheet.instance, sheet.plan)
            if found is not None:
                return found
            self._steps[i] += 1
            self._span.last = last  # what failed to be a proof decided nothing

    def _sheet(self, i: int, step: int) -> _Sheet:
        if (i, step) not in self._sheets:
            self._sheets[i, step] = _Sheet(self._case, self._runs[i], self._reach, self._span, step)
        return self._sheets[i, step]


class _Sheet:
    """The schedule of one reservation at all contexts, with a `Line` for each size that grows."""

    def __init__(self, case: Case, runs: Sequence[Run], reach: int, span: Span, step: int) -> None:
        instances, plans = zip(*(case.graph(run, step) for run in runs), strict=True)
        _check(instances, plans)
        self._reach, self._span = reach, span
        self._looks = [Walk(plan) for plan in plans]
        self._raw = {b: replace(b, alignment=1) for b in plans[0].backends}
        self._sizes: dict[tuple[int, Backend], Number] = {}
        self.instance = instances[0]
        tensors = list(map(self._tensor, *(p.tensors for p in plans)))
        sizes: Any = self._size  # lines where the allocator knows ints
        self.plan = replace(plans[0], tensors=tensors, sizes=sizes)

    def _size(self, i: int, backend: Backend) -> Number:
        """Count the bytes of tensor `i` on a backend, padded to its alignment."""
        key = (i, backend)
        if key not in self._sizes:
            raw, step = self._raw[backend], backend.alignment
            grown = self._straight(*(look.bytes_of(i, raw) for look in self._looks))
            if isinstance(grown, int):
                self._sizes[key] = -(-grown // step) * step
            elif grown.slope % step:
                raise NotStraight  # padding would make stairs of it
            else:
                self._sizes[key] = Line(-(-grown.at // step) * step, grown.slope, self._span)
        return self._sizes[key]

    def _tensor(self, *looks: Tensor) -> Tensor:
        """Merge one tensor's sizes at three contexts into lines."""
        first = looks[0]
        for t in looks[1:]:
            if (t.op, t.type, t.view, t.home, t.usage) != (
                first.op, first.type, first.view, first.home, first.usage,
            ):  # fmt: skip
                raise NotStraight
        if all((t.ne, t.nb, t.offset) == (first.ne, first.nb, first.offset) for t in looks[1:]):
            return first
        ne: Any = tuple(map(self._straight, *(t.ne for t in looks)))
        nb: Any = tuple(map(self._straight, *(t.nb for t in looks)))
        offset: Any = self._straight(*(t.offset for t in looks))
        return replace(first, ne=ne, nb=nb, offset=offset)

    def _straight(self, first: int, second: int, last: int) -> Number:
        if last - first != (second - first) * self._reach:
            raise NotStraight
        return line(first, second - first, self._span)


def _check(instances: Sequence[Instance], plans: Sequence[Schedule]) -> None:
    """Raise `NotStraight` unless graphs are the same but for sizes."""
    first, one = instances[0], plans[0]
    for instance, plan in zip(instances[1:], plans[1:], strict=True):
        same = instance.starts == first.starts and instance.graph.nodes == first.graph.nodes
        if not same or plan.copies != one.copies:
            raise NotStraight
        if (plan.nodes, plan.leafs, plan.src, plan.flags) != (one.nodes, one.leafs, one.src, one.flags):
            raise NotStraight
