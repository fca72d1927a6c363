"""Compute buffers against the context: replayed at some contexts, bounded at the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..backends import Backend
from ..bound import compute_bound
from ..collapse import collapse, layer_kinds
from ..compute import compute_bytes
from ..context import resolve
from ..model import Home, Model
from ..placement import HOST, Placement
from ..settings import Settings
from .result import Array

__all__ = ["Curve", "Curves", "learn"]

STEPS: Final = 2  # contexts at which a bound is known, for each that is replayed
Figures = tuple[int, ...]  # compute bytes of each device in use, and last of the host


@dataclass(frozen=True, slots=True)
class Curve:
    """Compute bytes of all devices against the context.

    `sizes` (contexts × devices) are those reserved at `contexts`. In between they may be larger than at
    either neighbour, because the allocator leaves other gaps; there `bounds` hold, a formula that
    never falls as the context grows, known at `steps`.
    """

    contexts: Array
    sizes: Array
    exact: Array
    steps: Array
    bounds: Array

    def at(self, n_ctx: Array) -> tuple[Array, Array]:
        """Sizes (contexts × devices) that are never too low, and where they are exact."""
        near = np.minimum(np.searchsorted(self.contexts, n_ctx), len(self.contexts) - 1)
        learned = self.contexts[near] == n_ctx
        sizes = self.sizes[near]
        if not learned.all():
            above = np.searchsorted(self.steps, n_ctx[~learned])
            sizes[~learned] = self.bounds[above]
        return sizes, learned & self.exact[near]


def learn(
    replay: Callable[[int], tuple[Figures, bool]],
    bound: Callable[[int], Figures],
    contexts: Sequence[int],
    limit: int,
) -> Curve:
    """The curve over ascending `contexts`: at `limit` of them replayed, evenly spread, both ends included."""
    chosen = _spread(contexts, limit)
    known = [replay(n_ctx) for n_ctx in chosen]
    steps = _spread(contexts, limit * STEPS) if len(chosen) < len(contexts) else []
    return Curve(
        contexts=np.array(chosen),
        sizes=np.array([sizes for sizes, _ in known]),
        exact=np.array([exact for _, exact in known]),
        steps=np.array(steps),
        bounds=np.array([bound(n_ctx) for n_ctx in steps]),
    )


def _spread(contexts: Sequence[int], n: int) -> list[int]:
    """At most `n` of `contexts`, and at least both ends."""
    positions = np.linspace(0, len(contexts) - 1, min(max(n, 2), len(contexts)))
    return [contexts[at] for at in np.unique(positions.round().astype(int))]


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

            def bound(n_ctx: int) -> Figures:
                at = replace(settings, n_ctx=n_ctx)
                found = compute_bound(model, placement, resolve(model, at), at, rules)
                return (*found.gpus, found.host)

            self._known[key] = learn(replay, bound, self._contexts, self._limit)
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
