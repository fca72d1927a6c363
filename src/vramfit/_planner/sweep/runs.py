"""Group the contexts of a sweep that are alike, and those that lie on one straight line.

In: a `Model`, `Settings`, the contexts asked for. Out: contexts that the engine makes the same of share one, and those
that are left are cut into `Run`s: in each, every count that shapes a graph grows evenly with the context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ..._estimate.context_ranges import Stretch
from ..._ggml.backends import Backend
from ..._llama.cparams import Context, cells, least, resolve, resolve_counts
from ..._llama.model import Model
from ..._llama.params import Settings
from ..._llama.placement import Placement
from .result import Array

__all__ = ["Run", "along", "cut", "distinct"]


@dataclass(frozen=True, slots=True)
class Run:
    """Contexts that follow each other: positions `start` to `stop` of those asked for, and their padded `cells`."""

    start: int
    cells: Array

    def __len__(self) -> int:
        return len(self.cells)

    def upper(self) -> Run:
        """Its larger half."""
        half = -(-len(self) // 2)
        return Run(self.start + half, self.cells[half:])


def distinct(model: Model, settings: Settings, contexts: Array) -> Array:
    """Keep, of ascending contexts that the engine makes the same of, the largest."""
    made = _made(model, settings, contexts)
    same = np.ones(len(contexts) - 1, np.bool_)
    # a prompt is filled up to whole tokens a slot, no further
    n_outputs = least(made.n_outputs_max, made.n_ubatch + settings.n_seq_max)
    for counts in (made.n_ctx, made.n_ctx_seq, made.n_ubatch, n_outputs):
        same &= np.diff(np.broadcast_to(counts, contexts.shape)) == 0
    found: Array = contexts[np.append(~same, True)]
    return found


def cut(model: Model, settings: Settings, contexts: Array) -> list[Run]:
    """Cut ascending contexts, no two alike, where caches stop growing evenly or the physical batch is another."""
    made = _made(model, settings, contexts)
    caches = {cache for layer in model.layers for cache in layer.caches}
    counts = [made.n_ctx_seq, *(cells(cache, made) for cache in caches)]
    across = np.diff(np.broadcast_to(made.n_ctx, contexts.shape))
    up = np.diff([np.broadcast_to(n, contexts.shape) for n in counts])
    bends = (up[:, 1:] * across[:-1] != up[:, :-1] * across[1:]).any(axis=0)
    apart = (np.diff(np.broadcast_to(made.n_ubatch, contexts.shape)) != 0) | (across == 0)
    starts = [0]
    for at in np.flatnonzero(apart | np.append(False, bends)).tolist():
        if apart[at] or at > starts[-1]:  # a bend right behind a cut is none
            starts.append(at + 1)
    padded = np.broadcast_to(made.n_ctx, contexts.shape)
    return [Run(a, padded[a:b]) for a, b in zip(starts, [*starts[1:], len(contexts)], strict=True)]


def _made(model: Model, settings: Settings, contexts: Array) -> Context:
    """Resolve all contexts as the engine does."""
    # an array where a count is asked for: the arithmetic behind it is made for both
    wanted = cast(int, contexts)
    return resolve_counts(model, settings, wanted)


def along(
    model: Model, placement: Placement, settings: Settings, rules: Sequence[Backend], run: Run
) -> Callable[[int], Array]:
    """Learn the compute bytes (contexts × devices) of a run, from the context at a position on as far as they are straight.

    Raises `NotStraight`, then or when asked, and `Unbuildable` as `Stretch` does. Three contexts at least.
    """
    first = int(run.cells[0])
    step = int(np.gcd.reduce(np.diff(run.cells)))
    points = (run.cells - first) // step

    def context(i: int) -> Context:
        return resolve(model, replace(settings, n_ctx=first + i * step))

    stretch = Stretch(model, placement, context, int(points[-1]), rules)

    def learned(at: int) -> Array:
        piece = stretch.piece(int(points[at]))
        here = points[at : np.searchsorted(points, piece.last, "right"), None]
        sizes: Array = np.array(piece.sizes) + here * np.array(piece.slopes)
        return sizes

    return learned
