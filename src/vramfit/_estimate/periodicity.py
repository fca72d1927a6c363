"""Prove that repeating a block of layers more often does not change the peak of any compute buffer.

In: a `Graph`, its `Schedule`, where two repeats of a block lie. Out: `Repeats`: the bytes, and after how
many repeats the allocator is back where it was. Models repeat a block of layers many times; a graph with a few repeats
stands for all of them if the last ones only bring back what was there before them:

* the nodes of one repeat are those of the repeat before it, one for one, and so are their backends,
  their sources and the copies that the scheduler made for them: whatever is not common to both is the
  same distance away in both;
* a backend that orders its nodes gathered the same ones, from the same first node on: it looks ahead
  no further than a repeat's worth and so would go on like that;
* no repeat brings a tensor that is placed before everything else;
* the allocator finds after one repeat, or after two, what it found before: the same free blocks, and
  alive at the same addresses the same tensors, or those that play the same part so many repeats later.
  Two, because the tensor that one layer hands to the next often alternates between two places.

Then so many further repeats would start where these started and end where these ended: by induction
they leave every high-water mark, and everything that follows, as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .._ggml.galloc import Walk, allocate
from .._ggml.graph import NONE, Graph, Tensor
from .._ggml.sched import Schedule

__all__ = ["Repeats", "Run", "walk_repeats"]

Run = tuple[int, int, int]  # positions in Graph.nodes: one repeat is [0]:[1], the next is [1]:[2]


class Repeats(NamedTuple):
    """What a walk of the allocator needs, and the cycle that it found for each run."""

    needs: tuple[tuple[int, ...], ...]  # bytes of each backend, chunk by chunk, as of `allocate`
    cycles: tuple[int, ...]  # how many repeats bring the allocator back to where it was: 1, 2; 0: neither


def walk_repeats(graph: Graph, plan: Schedule, runs: Sequence[Run]) -> Repeats:
    """Allocate a schedule that holds a few repeats of each run, and find after how many the allocator is back where it was.

    Any multiple of a run's cycle of repeats may stand between the two that are given, with the same
    compute buffers; with a cycle of 0 nothing is promised. Runs may lie within the repeats of others.
    """
    places = {i: at for at, (i, _) in enumerate(plan.nodes)}
    walk = Walk(plan)
    pairing = _Pairing(graph, plan, walk)
    cuts = {p: _boundary(plan, places[graph.nodes[p]], len(graph.tensors)) for run in runs for p in run}
    if any(cuts[p] >= cuts[q] for p, q in pairwise(sorted(cuts))):  # repeats are too short to be told apart
        return Repeats(allocate(plan), (0,) * len(runs))
    walk.begin()
    at = 0
    states = {}
    for p in sorted(cuts):
        walk.advance(at, cuts[p])
        states[p] = _State(walk)
        at = cuts[p]
    walk.advance(at, len(plan.nodes))
    found = [_cycle(run, [cuts[p] for p in run], [states[p] for p in run], plan, pairing) for run in runs]
    return Repeats(tuple(arena.peaks for arena in walk.arenas), tuple(found))


def _cycle(run: Run, cuts: Sequence[int], states: Sequence[_State], plan: Schedule, pairing: _Pairing) -> int:
    first, second, third = cuts
    length = run[2] - run[1]
    pairing.distance = length
    if run[1] - run[0] != length or not pairing.same_nodes(
        plan.nodes[first:second], plan.nodes[second:third]
    ):
        return 0
    if states[1].returns_in(states[2], pairing):
        return 1
    pairing.distance = 2 * length
    return 2 if states[0].returns_in(states[2], pairing) else 0


def _boundary(plan: Schedule, at: int, n_original: int) -> int:
    while at and plan.nodes[at - 1][0] >= n_original:
        at -= 1
    return at


class _State:
    """The allocator's state between two nodes: free blocks, and where which tensors lie."""

    def __init__(self, walk: Walk) -> None:
        self.free = [arena.blocks for arena in walk.arenas]
        self.live = sorted(
            (owner, walk.address[i], walk.size[i], walk.children[i], walk.views[i], i)
            for i, owner in enumerate(walk.owner)
            if owner != NONE
        )

    def returns_in(self, later: _State, pairing: _Pairing) -> bool:
        """Whether `later` is this state again, one repeat on."""
        if self.free != later.free or len(self.live) != len(later.live):
            return False
        for a, b in zip(self.live, later.live, strict=True):
            if a[:3] != b[:3]:
                return False
            # What both repeats read has fewer readers left; what one made has as many as the other's.
            if a[5] != b[5] and (a[3:5] != b[3:5] or not pairing.same(a[5], b[5])):
                return False
        return True


class _Pairing:
    """Says which tensors play the same part in two repeats that are `distance` nodes apart."""

    def __init__(self, graph: Graph, plan: Schedule, walk: Walk) -> None:
        self.plan = plan
        self.walk = walk
        self.distance = 0
        self.n_original = len(graph.tensors)
        self.position = [NONE] * self.n_original
        for p, i in enumerate(graph.nodes):
            self.position[i] = p
        self.copied = {s for s, _ in plan.copies}
        self.origin = {copy: (s, b) for (s, b), copies in plan.copies.items() for copy in copies}

    def same_nodes(self, one: Sequence[tuple[int, int]], two: Sequence[tuple[int, int]]) -> bool:
        """Whether two stretches of the scheduled graph are equal node for node."""
        return len(one) == len(two) and all(
            here == there and self._same_node(a, b, here)
            for (a, here), (b, there) in zip(one, two, strict=True)
        )

    def _same_node(self, a: int, b: int, where: int) -> bool:
        src, flags = self.plan.src, self.plan.flags
        t, u = self.plan.tensors[a], self.plan.tensors[b]
        return (
            t.op == u.op
            and flags[a] == flags[b] == 0
            and _alike(t, u)
            and len(src[a]) == len(src[b])
            and (
                t.view == u.view == NONE or (t.view != NONE and u.view != NONE and self.same(t.view, u.view))
            )
            and all(self.same(x, y) for x, y in zip(src[a], src[b], strict=True))
            and self._same_bytes(a, b, where)
            and self._same_leader(a, b)
        )

    def _same_leader(self, a: int, b: int) -> bool:
        """Whether the backend gathered both in the same way, from first nodes of the same part."""
        leaders = self.plan.leaders
        one, two = leaders.get(a, NONE), leaders.get(b, NONE)
        if one == NONE or two == NONE:
            return one == two
        return self.position[two] - self.position[one] == self.distance

    def _same_bytes(self, a: int, b: int, where: int) -> bool:
        """Whether two nodes of one layout carry the same beside their results on a backend."""
        backend = self.plan.backends[where]
        if self.plan.tensors[a].op not in backend.scratch:
            return True
        return self.walk.bytes_of(a, backend) == self.walk.bytes_of(b, backend)

    def same(self, a: int, b: int) -> bool:
        """Whether `b` is to the later repeat what `a` is to the earlier one."""
        if a == b:
            return True
        if a >= self.n_original or b >= self.n_original:
            return self._same_copy(a, b)
        t, u = self.plan.tensors[a], self.plan.tensors[b]
        if self.position[a] != NONE and self.position[b] != NONE:
            return self.position[b] - self.position[a] == self.distance and _alike(t, u)
        if t.home == NONE or t.home != u.home or t.usage != u.usage or t.ne != u.ne:
            return False
        # how a weight is stored counts only where it is copied: in its own buffer it takes no compute memory
        return _alike(t, u) or not (a in self.copied or b in self.copied)

    def _same_copy(self, a: int, b: int) -> bool:
        """Copies of paired tensors on one backend; not where they live on and pile up (pipelines)."""
        one, two = self.origin.get(a), self.origin.get(b)
        if one is None or two is None or one[1] != two[1] or self.plan.flags[a] or self.plan.flags[b]:
            return False
        return self.same(one[0], two[0])


def _alike(t: Tensor, u: Tensor) -> bool:
    return t.type is u.type and t.ne == u.ne and t.nb == u.nb
