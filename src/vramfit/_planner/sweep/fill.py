"""A grid → its columns: block by block, each one set of cards, file type and pair of cache types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, cast

import numpy as np

from ..._base.errors import EngineRefusal
from ..._base.progress import Bar
from ..._coerce import (
    AnyGpus,
    AnyHost,
    AnyModel,
    AnySettings,
    count,
    flag,
    host_of,
    margin,
    model_of,
    settings_of,
)
from ..._devices import Gpu, Host
from ..._llama.cparams import Context, resolve_counts
from ..._llama.eras import era_of, rules_of
from ..._llama.host_memory import HostNeeds, host_needs
from ..._llama.memory import DeviceBytes
from ..._llama.model import Model
from ..._llama.params import Settings
from ..._llama.placement import devices, place
from ..._quant import requantize
from ..plan import DEFAULT_MARGIN
from .company import Beside, Known, company_beside
from .curves import Curve, Curves
from .grid import Counts, Grid, make_grid
from .result import Array, Sweep

__all__ = ["sweep"]

REPLAYS: Final = 96  # work for a whole sweep, unless asked otherwise, counted in compute buffers replayed
_At = tuple[int, int, int]  # indexes of cards, file type and cache types


def sweep(
    model: AnyModel,
    gpus: AnyGpus | None = None,
    settings: AnySettings = None,
    *,
    n_ctx: Counts | None = None,
    n_seq_max: Counts | None = None,
    n_ubatch: Counts | None = None,
    type_k: str | Sequence[str] | None = None,
    type_v: str | Sequence[str] | None = None,
    file_types: str | Sequence[str] | None = None,
    gpu_sets: Sequence[AnyGpus] | None = None,
    margin_bytes: int | str = DEFAULT_MARGIN,
    imatrix: bool = False,
    replays: int | None = REPLAYS,
    host: AnyHost = None,
) -> Sweep:
    """Estimate every combination of the values given, in columns; what is not given is as in `settings`.

    `type_v` left out follows `type_k`. `file_types` are llama-quantize's (see `requantize`; `imatrix` as
    there); left out, the model as it is. `gpu_sets` are further sets of cards beside `gpus`; "none" is the
    host alone. Layers are placed as `settings.tensor_split` says, or as the engine does by itself: to
    sweep the best split, take it from a `plan`. `host` is the memory beside cards that have their own, as in `plan`.

    `replays` limits the work that goes into compute buffers, counted in replays of one (at least two a curve);
    points that it does not reach have an upper bound. None makes every point as exact as `estimate`. Raises what `estimate` raises, but for
    `EngineRefusal`: a refused combination stays in the grid and says why.
    """
    model, left, imatrix = model_of(model), margin(margin_bytes), flag("imatrix", imatrix)
    work = inf if replays is None else count("replays", replays, least=1)
    grid = make_grid(
        model, gpus, settings_of(settings), n_ctx, n_seq_max, n_ubatch, type_k, type_v, file_types, gpu_sets
    )
    sheet = _Sheet(grid, left, work, host_of(host))
    models = [_made(model, name, imatrix) for name in grid.file_types]
    with Bar("sweep", grid.n_curves) as bar:
        curves = Curves(grid.n_ctx, work, grid.n_curves, bar.advance)
        for i_gpus, i_types in np.ndindex(len(grid.gpu_sets), len(grid.cache_types)):
            _fill(sheet, i_gpus, i_types, models, curves)
    return sheet.result()


def _made(model: Model, file_type: str, imatrix: bool) -> Model | EngineRefusal:
    """Make the model as a file type; return why that cannot be done otherwise."""
    if not file_type:
        return model
    try:
        return requantize(model, file_type, imatrix=imatrix)
    except EngineRefusal as e:
        return e


class _Sheet:
    """The columns of one sweep while they are filled."""

    def __init__(self, grid: Grid, margin: int, work: float, host: Host | None = None) -> None:
        self.grid = grid
        self.work = work
        self.host = host
        self.margin = margin
        self.drafts = Known(64)
        self._cache_words = tuple(dict.fromkeys(word for pair in grid.cache_types for word in pair))
        self._refusals: dict[str, int] = {"": 0}
        names = [*(f"gpu{i}" for i in range(max(map(len, grid.gpu_sets)))), "host"]
        sizes = [f"{name}_{term}" for name in names for term in grid.terms]
        self._columns: dict[str, Array] = {
            **self._axes(),
            **{name: np.zeros(grid.n_points, np.int64) for name in (*sizes, "left")},
            **{name: np.zeros(grid.n_points, np.bool_) for name in ("fits", "exact")},
            "refused": np.zeros(grid.n_points, np.int16),
        }

    def _axes(self) -> dict[str, Array]:
        """The columns that the axes say."""
        g = self.grid
        code = {word: i for i, word in enumerate(self._cache_words)}
        values: dict[str, tuple[int, Array]] = {
            "gpus": (0, np.arange(len(g.gpu_sets), dtype=np.int16)),
            "file_type": (1, np.arange(len(g.file_types), dtype=np.int16)),
            "type_k": (2, np.array([code[k] for k, _ in g.cache_types], np.int16)),
            "type_v": (2, np.array([code[v] for _, v in g.cache_types], np.int16)),
            "n_seq_max": (3, g.n_seq_max.astype(np.int32)),
            "n_ubatch": (4, g.n_ubatch.astype(np.int32)),
            "n_ctx": (5, g.n_ctx.astype(np.int32)),
        }
        columns = {}
        for name, (axis, axis_values) in values.items():
            shape = [1] * len(g.shape)
            shape[axis] = -1
            columns[name] = np.broadcast_to(axis_values.reshape(shape), g.shape).ravel()
        return columns

    def block(self, name: str, at: _At) -> Array:
        """One block of a column, to write into: slots × batches × contexts."""
        view: Array = self._columns[name].reshape(self.grid.shape)[at]
        return view

    def refuse(self, at: _At, reason: EngineRefusal) -> None:
        """Note why the points of a block have no sizes."""
        self.block("refused", at)[:] = self._refusals.setdefault(str(reason), len(self._refusals))

    def result(self) -> Sweep:
        """The columns, now that they are filled."""
        g = self.grid
        labels = tuple(" + ".join(x.name for x in gpus) or "none" for gpus in g.gpu_sets)
        return Sweep(
            model=g.model,
            gpu_sets=g.gpu_sets,
            settings=g.settings,
            margin_bytes=self.margin,
            shape=g.shape,
            columns=self._columns,
            categories={
                "gpus": _distinct(labels),
                "file_type": tuple(name or g.model.file_type or "as it is" for name in g.file_types),
                "type_k": self._cache_words,
                "type_v": self._cache_words,
                "refused": tuple(self._refusals),
            },
        )


def _fill(
    sheet: _Sheet, i_gpus: int, i_types: int, models: Sequence[Model | EngineRefusal], curves: Curves
) -> None:
    """All points of one set of cards and one pair of cache types."""
    g = sheet.grid
    gpus, (type_k, type_v) = g.gpu_sets[i_gpus], g.cache_types[i_types]
    settings = replace(g.settings, type_k=type_k, type_v=type_v)
    used = devices(gpus, settings)
    rules = [rules_of(gpus[i], era_of(settings.engine_build)) for i in used]
    for i_file, model in enumerate(models):
        at = (i_gpus, i_file, i_types)
        try:
            if isinstance(model, EngineRefusal):
                raise model
            placement = place(model, gpus, settings)  # a type that a card cannot multiply stays on the host
            host = None if any(gpus[i].unified for i in used) else sheet.host
            needs, weights, caches = host_needs(model, gpus, settings, _context(g, settings), placement, host)
            curve = curves.of(model, placement, rules)
            learned = [[curve(each) for each in row] for row in _rows(g, settings)]
            beside = _company(sheet, model, gpus, settings, host)
        except EngineRefusal as e:
            sheet.refuse(at, e)
            continue
        block = _Block(sheet, at, gpus, used, needs, host, beside)
        block.write(weights, caches, learned)


def _company(
    sheet: _Sheet, model: Model, gpus: Sequence[Gpu], settings: Settings, host: Host | None
) -> Beside | None:
    """Count what is loaded beside the model, at every point of a block; None for nothing."""
    g = sheet.grid
    if "company" not in g.terms:
        return None
    rows = _rows(g, settings)
    return company_beside(model, gpus, rows, g.n_ctx, sheet.work / g.n_curves, sheet.drafts, host)


def _context(grid: Grid, settings: Settings) -> Context:
    """The context of every combination of counts: slots × batches × contexts."""
    slots, batches = grid.n_seq_max[:, None, None], grid.n_ubatch[:, None]
    # arrays where counts are asked for: the arithmetic behind it is made for both
    counts = (cast(int, values) for values in (grid.n_ctx, slots, batches))
    return resolve_counts(grid.model, settings, *counts)


def _rows(grid: Grid, settings: Settings) -> list[list[Settings]]:
    """The settings of every curve: a row for each number of slots, in it one for each physical batch."""
    batches = grid.n_ubatch.tolist()
    return [[replace(settings, n_seq_max=s, n_ubatch=u) for u in batches] for s in grid.n_seq_max.tolist()]


@dataclass(frozen=True, slots=True)
class _Block:
    """The points of one set of cards, file type and pair of cache types, and where they are written."""

    sheet: _Sheet
    at: _At
    gpus: tuple[Gpu, ...]
    used: tuple[int, ...]  # indexes of the cards in use
    needs: HostNeeds  # of arrays
    host: Host | None = None
    company: Beside | None = None

    def column(self, name: str) -> Array:
        """The block's part of a column, as slots × batches × contexts."""
        return self.sheet.block(name, self.at)

    def write(self, weights: DeviceBytes, caches: DeviceBytes, curves: list[list[Curve]]) -> None:
        """The three terms of every device in use, and what follows from them."""
        names = [*(f"gpu{i}" for i in self.used), "host"]
        for name, w, c in zip(names, (*weights.gpus, weights.host), (*caches.gpus, caches.host), strict=True):
            self.column(f"{name}_model")[:] = w
            self.column(f"{name}_context")[:] = c
        exact = self.column("exact")
        compute = [self.column(f"{name}_compute") for name in names]
        for s, row in enumerate(curves):
            for u, curve in enumerate(row):
                sizes, exact[s, u] = curve.at(self.sheet.grid.n_ctx)
                for device, figures in enumerate(compute):
                    figures[s, u] = sizes[:, device]
        if self.company is not None:
            sizes_of = (*self.company.gpus, self.company.host)
            for name, figures in zip(
                (*(f"gpu{i}" for i in range(len(self.gpus))), "host"), sizes_of, strict=True
            ):
                self.column(f"{name}_company")[:] = figures
            exact &= self.company.exact
        self._judge()

    def _judge(self) -> None:
        """What is left on the shortest card in use, and whether that is enough."""
        left, fits = self.column("left"), self.column("fits")
        left[:] = min((self.gpus[i].free for i in self.used), default=self.host.free if self.host else 0)
        fits[:] = True
        shared = None if self.needs.card is None else self.used[self.needs.card]
        for i in range(len(self.gpus)) if self.company else self.used:
            total = sum(self.column(f"gpu{i}_{term}") for term in self.sheet.grid.terms)
            here = self.gpus[i].free - total
            if i == shared:
                here = here - self.needs.pooled - self.column("host_compute")
            if self.company is not None:
                here = here - self.company.beside[i]
            judged = here if i in self.used else np.where(total, here, left)
            np.minimum(left, judged, out=left)
            fits &= (here >= self.sheet.margin) | (total == 0)
        if self.host is not None:
            here = self.host.free - self.needs.held - self.column("host_compute")
            if self.company is not None:
                here = here - self.company.host - self.company.host_beside
            np.minimum(left, here, out=left)
            fits &= here >= self.sheet.margin


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that can be told apart: sets of cards with equal names are numbered."""
    return tuple(
        f"{label} #{labels[:i].count(label) + 1}" if labels.count(label) > 1 else label
        for i, label in enumerate(labels)
    )
