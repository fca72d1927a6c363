"""Learn compute buffers against the context: exact at as many contexts as work allows, bounded at the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from ..._estimate.bound import bounds
from ..._estimate.compute import compute_bytes
from ..._estimate.context_ranges import NotStraight
from ..._estimate.layer_runs import collapse, layer_kinds
from ..._ggml.backends import Backend
from ..._graphs import Unbuildable
from ..._llama.cparams import Context, resolve
from ..._llama.model import Home, Model
from ..._llama.params import Settings
from ..._llama.placement import HOST, Placement
from .result import Array
from .runs import Run, along, cut, distinct

__all__ = ["Curve", "Curves", "Ways", "learn"]

STEPS: Final = 8  # contexts at which a bound is known, for each that is replayed
# Work is counted in replays, and measured so: three graphs with lines for sizes, and one walk of the allocator.
STRETCH: Final = 3.0
PIECE: Final = 0.7
FEW: Final = 6  # contexts that are replayed one by one with less
LEAST: Final = 2  # contexts of a curve that are replayed in any case
SKIP: Final = 8  # part of a gap that is left out where pieces are too short for all of it
Figures = tuple[int, ...]  # compute bytes of each device in use, and last of the host


@dataclass(frozen=True, slots=True)
class Curve:
    """Compute bytes of all devices against the context.

    Contexts that the engine pads to the same one share a figure: `largest` is the largest of each such
    group. `sizes` (contexts × devices) are what is reserved there, or where not `exact`, no less.
    """

    largest: Array
    sizes: Array
    exact: Array
    work: float  # that it took to learn

    def at(self, n_ctx: Array) -> tuple[Array, Array]:
        """Return sizes in bytes (contexts × devices) that are never too low, and where they are exact."""
        near = np.searchsorted(self.largest, n_ctx)
        return self.sizes[near], self.exact[near]


class Ways(NamedTuple):
    """How one curve can be learned.

    At one context, with whether that is exact; along a run, from one of its contexts on as far as it is straight,
    which raises `NotStraight` or `Unbuildable`; from above, by a formula that never falls as the context grows.
    """

    replay: Callable[[int], tuple[Figures, bool]]
    pieces: Callable[[Run], Callable[[int], Array]]
    bound: Callable[[int], Figures]
    exact: bool  # whether pieces are


def learn(ways: Ways, contexts: Array, runs: Sequence[Run], work: float) -> Curve:
    """Learn the curve over ascending `contexts`, no two alike, of which `runs` lie on straight lines.

    The longest runs first, as long as that is less work than to replay their contexts; of those that are
    left as many are replayed as `work` allows, evenly spread, the largest in any case.
    """
    sheet = _Sheet(len(contexts))
    spent = _along(ways, runs, sheet, work)
    rest = np.flatnonzero(~sheet.known)
    chosen = _spread(rest, max(work - spent, 1 if sheet.known.any() else LEAST))
    for at in chosen:
        figures, exact = ways.replay(int(contexts[at]))
        sheet.write(slice(at, at + 1), np.array([figures]), exact)
    above = rest[~sheet.known[rest]]
    if len(above):
        steps = _spread(rest, len(chosen) * STEPS)
        bounds = np.array([ways.bound(int(contexts[at])) for at in steps])
        sheet.write(above, bounds[np.searchsorted(steps, above)], False)
    return Curve(contexts, sheet.sizes, sheet.exact, spent + len(chosen))


class _Sheet:
    """What is known of a curve while it is learned."""

    def __init__(self, n: int) -> None:
        self.known = np.zeros(n, np.bool_)
        self.exact = np.zeros(n, np.bool_)
        self.sizes: Array = np.zeros((n, 0), np.int64)

    def write(self, where: slice | Array, sizes: Array, exact: bool) -> None:
        if not self.sizes.shape[1]:
            self.sizes = np.zeros((len(self.known), sizes.shape[1]), np.int64)
        self.sizes[where], self.exact[where], self.known[where] = sizes, exact, True


def _along(ways: Ways, runs: Sequence[Run], sheet: _Sheet, work: float) -> float:
    """Learn runs piece by piece; return the work it took, in replays."""
    spent = 0.0
    for run in sorted(runs, key=len, reverse=True):
        while len(run) > FEW and spent + STRETCH + PIECE <= work:
            try:
                spent += STRETCH
                spent += _pieces(ways, run, sheet, work - spent)
                break
            except NotStraight:
                run = run.upper()
            except Unbuildable:
                return 0.0
    return spent


def _pieces(ways: Ways, run: Run, sheet: _Sheet, work: float) -> float:
    """Learn what `work` allows of a run, from its first context on; return the work it took, in replays.

    Pieces are short where contexts are small. Where such as the last would not get to the end, the next one
    starts further on.
    """
    learned = ways.pieces(run)
    spent = 0.0
    gaps = [(0, len(run), len(run) / 2)]  # of contexts not known yet, and how long the piece before was
    while gaps and spent + PIECE <= work:
        gaps.sort(key=lambda gap: gap[1] - gap[0])
        first, end, before = gaps.pop()
        reaches = before * (work - spent) >= (end - first) * PIECE
        at = first if reaches else first + (end - first) // SKIP
        sizes = learned(at)[: end - at]
        spent += PIECE
        behind = at + len(sizes)
        sheet.write(slice(run.start + at, run.start + behind), sizes, ways.exact)
        gaps += [gap for gap in ((first, at, before), (behind, end, len(sizes))) if gap[0] < gap[1]]
    return spent


def _spread(positions: Array, n: float) -> Array:
    """Choose at most `n` of `positions`, evenly spread, the last one and then the first included."""
    if len(positions) <= n:
        return positions
    chosen: Array = positions[np.unique(np.linspace(len(positions) - 1, 0, int(n)).round().astype(int))]
    return chosen


class Curves:
    """Curves that were asked for, each learned once: `n` of them are expected, which share `work` evenly.

    What one leaves over the next ones may use. `advance` is called for each curve that is learned.
    """

    def __init__(self, contexts: Array, work: float, n: int, advance: Callable[[], None]) -> None:
        self._contexts = np.unique(contexts)
        self._work = work
        self._n = n
        self._advance = advance
        self._known: dict[object, Curve] = {}

    def of(self, model: Model, placement: Placement, rules: Sequence[Backend]) -> Callable[[Settings], Curve]:
        """Learn the curve of a placed model under any settings, but for their context. Raises `EngineRefusal`."""
        place = tuple(rules), _needs(model, placement)

        def under(settings: Settings) -> Curve:
            key = (place, replace(settings, n_ctx=0, tensor_split=()))
            if key not in self._known:
                contexts = distinct(model, settings, self._contexts)
                runs = cut(model, settings, contexts)
                curve = learn(_ways(model, placement, rules, settings), contexts, runs, self._share())
                self._known[key] = curve
                self._work = max(self._work - curve.work, 0)
                self._advance()
            return self._known[key]

        return under

    def _share(self) -> float:
        """Work for the next curve: its even share, or as much as a stretch needs where that leaves enough for the rest."""
        others = max(self._n - len(self._known) - 1, 0)
        return max(self._work / (others + 1), min(self._work - LEAST * others, STRETCH + 2 * PIECE))


def _ways(model: Model, placement: Placement, rules: Sequence[Backend], settings: Settings) -> Ways:
    """Prepare the ways in which the curve of a placed model can be learned."""
    without_flash = False
    of_context = bounds(model, placement, rules)

    def context(n_ctx: int) -> Context:
        return resolve(model, replace(settings, n_ctx=n_ctx))

    def replay(n_ctx: int) -> tuple[Figures, bool]:
        nonlocal without_flash
        found = compute_bytes(model, placement, context(n_ctx), rules)
        without_flash |= not (found.replayed and found.flash_attn)
        return (*found.gpus, found.host), found.exact

    def bound(n_ctx: int) -> Figures:
        # what scheduling settles hangs on the sizes of heads, not on cells: all contexts answer alike
        at = context(n_ctx)
        found = of_context(at if without_flash else at._replace(auto_fa=False))
        return (*found.gpus, found.host)

    exact = all(rule.exact for rule in rules) and not model.assumed
    return Ways(replay, lambda run: along(model, placement, settings, rules, run), bound, exact)


def _needs(model: Model, placement: Placement) -> object:
    """Collect what of a placed model its compute buffers depend on: equal values share their curves.

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
