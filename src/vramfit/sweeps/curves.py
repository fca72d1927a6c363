"""Compute buffers against the context: replayed at some contexts, bounded at the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np

from ..backends import Backend
from ..bound import bounds
from ..collapse import collapse, layer_kinds
from ..compute import compute_bytes
from ..context import resolve, resolve_counts
from ..model import Home, Model
from ..placement import HOST, Placement
from ..settings import Settings
from .result import Array

__all__ = ["Curve", "Curves", "learn"]

STEPS: Final = 8  # contexts at which a bound is known, for each that is replayed
Figures = tuple[int, ...]  # compute bytes of each device in use, and last of the host


@dataclass(frozen=True, slots=True)
class Curve:
    """Compute bytes of all devices against the context.

    Contexts that the engine pads to the same one share a figure: `largest` is the largest of each such
    group. `sizes` (contexts × devices) are those reserved at `contexts`. In between they may be larger than at
    either neighbour, because the allocator leaves other gaps; there `bounds` hold, a formula that
    never falls as the context grows, known at `steps`.
    """

    largest: Array
    contexts: Array
    sizes: Array
    exact: Array
    steps: Array
    bounds: Array

    def at(self, n_ctx: Array) -> tuple[Array, Array]:
        """Sizes (contexts × devices) that are never too low, and where they are exact."""
        n_ctx = self.largest[np.searchsorted(self.largest, n_ctx)]
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
    """The curve over ascending `contexts`, no two padded alike: at `limit` of them replayed, evenly spread, both ends included."""
    chosen = _spread(contexts, limit)
    known = [replay(n_ctx) for n_ctx in chosen]
    steps = _spread(contexts, limit * STEPS) if len(chosen) < len(contexts) else []
    return Curve(
        largest=np.array(contexts),
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
        self._contexts = np.unique(contexts)
        self._limit = limit
        self._advance = advance
        self._known: dict[object, Curve] = {}

    def of(self, model: Model, placement: Placement, rules: Sequence[Backend]) -> Callable[[Settings], Curve]:
        """The curve of a placed model under any settings, but for their context. Raises `EngineRefusal`."""
        place = tuple(r.name for r in rules), _needs(model, placement)

        def under(settings: Settings) -> Curve:
            key = (place, replace(settings, n_ctx=0, tensor_split=()))
            if key not in self._known:
                self._known[key] = self._learn(model, placement, rules, settings)
            return self._known[key]

        return under

    def _learn(
        self, model: Model, placement: Placement, rules: Sequence[Backend], settings: Settings
    ) -> Curve:
        without_flash = False

        def replay(n_ctx: int) -> tuple[Figures, bool]:
            nonlocal without_flash
            at = replace(settings, n_ctx=n_ctx)
            found = compute_bytes(model, placement, resolve(model, at), at, rules)
            without_flash |= not (found.replayed and found.flash_attn)
            self._advance()
            return (*found.gpus, found.host), found.exact

        of_context = bounds(model, placement, settings, rules)

        def bound(n_ctx: int) -> Figures:
            # "auto" asks for kernels by the sizes of heads, not by cells: all contexts answer alike
            flash_attn = settings.flash_attn if without_flash else "on"
            found = of_context(resolve(model, replace(settings, n_ctx=n_ctx, flash_attn=flash_attn)))
            return (*found.gpus, found.host)

        return learn(replay, bound, _largest(model, settings, self._contexts), self._limit)


def _largest(model: Model, settings: Settings, contexts: Array) -> list[int]:
    """Of ascending contexts that the engine makes the same of, the largest."""
    # an array where a count is asked for: the arithmetic behind it is made for both
    wanted = cast(int, contexts)
    made = resolve_counts(model, settings, wanted, settings.n_seq_max, settings.n_ubatch or settings.n_batch)
    same = np.ones(len(contexts) - 1, np.bool_)
    for counts in (made.n_ctx, made.n_ctx_seq, made.n_batch):
        same &= np.diff(np.broadcast_to(counts, contexts.shape)) == 0
    found: list[int] = contexts[np.append(~same, True)].tolist()
    return found


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
