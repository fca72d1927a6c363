"""Compute buffers against the context: learned at some contexts, bounded between them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..backends import Backend
from ..collapse import collapse, layer_kinds
from ..compute import compute_bytes
from ..context import resolve
from ..model import Home, Model
from ..placement import HOST, Placement
from ..settings import Settings
from .result import Array

__all__ = ["Curve", "Curves", "learn"]

Figures = tuple[int, ...]  # compute bytes of each device in use, and last of the host


@dataclass(frozen=True, slots=True)
class Curve:
    """Compute bytes of all devices against the context, at the contexts where they were learned."""

    contexts: Array
    sizes: Array  # contexts × devices
    exact: Array

    def at(self, n_ctx: Array) -> tuple[Array, Array]:
        """Sizes (contexts × devices) that are never too low, and where they are exact.

        Between two contexts with the same figures nothing can lie but these figures.
        """
        above = np.searchsorted(self.contexts, n_ctx, side="left")
        below = np.searchsorted(self.contexts, n_ctx, side="right") - 1
        same = (self.sizes[above] == self.sizes[below]).all(axis=1)
        return self.sizes[above], same & self.exact[above] & self.exact[below]


def learn(replay: Callable[[int], tuple[Figures, bool]], contexts: list[int], limit: int) -> Curve:
    """The curve at both ends and, up to `limit` in all, wherever neighbours differ most."""
    known = {at: replay(contexts[at]) for at in (0, len(contexts) - 1)}
    gaps = [_gap(known, 0, len(contexts) - 1)]
    while gaps and len(known) < limit:
        gap, low, high = heapq.heappop(gaps)
        if not gap or high - low < 2:
            continue
        middle = (low + high) // 2
        known[middle] = replay(contexts[middle])
        for part in ((low, middle), (middle, high)):
            heapq.heappush(gaps, _gap(known, *part))
    order = sorted(known)
    return Curve(
        contexts=np.array([contexts[at] for at in order]),
        sizes=np.array([known[at][0] for at in order]),
        exact=np.array([known[at][1] for at in order]),
    )


def _gap(known: Mapping[int, tuple[Figures, bool]], low: int, high: int) -> tuple[int, int, int]:
    """How far apart two learned contexts are, in bytes; negative, as a heap gives the least first."""
    return -sum(abs(a - b) for a, b in zip(known[low][0], known[high][0], strict=True)), low, high


class Curves:
    """Curves that were asked for, each learned once: at `limit` contexts at most, or at two.

    `advance` is called for each compute buffer that is learned.
    """

    def __init__(self, contexts: Array, limit: int, advance: Callable[[], None]) -> None:
        self._contexts: list[int] = np.unique(contexts).tolist()
        self._limit = limit
        self._advance = advance
        self._known: dict[object, Curve] = {}

    def of(self, model: Model, placement: Placement, rules: Sequence[Backend], settings: Settings) -> Curve:
        """The curve of a placed model under all of `settings` but its context. Raises `EngineRefusal`."""
        names = tuple(r.name for r in rules)
        key = (names, _needs(model, placement), replace(settings, n_ctx=0, tensor_split=()))
        if key not in self._known:

            def replay(n_ctx: int) -> tuple[Figures, bool]:
                at = replace(settings, n_ctx=n_ctx)
                found = compute_bytes(model, placement, resolve(model, at), at, rules)
                self._advance()
                return (*found.gpus, found.host), found.exact

            self._known[key] = learn(replay, self._contexts, self._limit)
        return self._known[key]


def _needs(model: Model, placement: Placement) -> object:
    """What of a placed model its compute buffers depend on: equal values share their curves.

    Types of weights on a card are in no compute buffer, nor is that of a table that the host looks
    rows up in; all other weights of the host may be copied to a card.
    """
    on_host = [at == HOST for at in placement.weights]
    kinds = layer_kinds(model, on_host)

    def run(device: int) -> tuple[int, ...]:
        here = [kind for kind, at in zip(kinds, placement.layers, strict=False) if at == device]
        return tuple(here[i] for i in collapse(here).kept)

    runs = tuple(run(device) for device in range(HOST, placement.n_devices))
    copied = tuple(
        w.tensor.type.id
        for w, host in zip(model.weights, on_host, strict=True)
        if host and w.home is not Home.INPUT
    )
    return runs, placement.output, copied
