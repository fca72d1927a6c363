"""One model over arrays of settings: a grid of estimates in columns.

In: a `Model`, sets of cards, the values of each setting. Out: a `Sweep`. Weights and context come from
the formulas of `memory`, evaluated on whole arrays. A compute buffer has no formula: it is learned at some
contexts of each curve (`_Curve`), and between two of them the figure of the larger one is taken, which
is never too low, because a compute buffer never falls as the context grows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from .backends import HOST_BACKEND, Backend, backend
from .collapse import collapse, layer_kinds
from .compute import compute_bytes
from .context import resolve, resolve_counts
from .errors import EngineRefusal, SettingsError
from .gpus import Gpu, parse_gpus
from .memory import DeviceBytes, context_bytes, weight_bytes
from .model import Home, Model
from .placement import HOST, Placement, devices, place
from .progress import shown
from .quants import requantize
from .settings import Settings
from .shown import Shown
from .solve import DEFAULT_MARGIN

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["Sweep", "sweep"]

Array = npt.NDArray[Any]
Counts = int | Sequence[int] | Array
Row = dict[str, int | str | bool]

REPLAYS: Final = 256  # compute buffers learned for a whole sweep, unless asked otherwise
TERMS: Final = ("model", "context", "compute")


@dataclass(frozen=True, slots=True, eq=False)
class Sweep(Shown):
    """Points in columns of equal length; iterates as rows of plain Python values.

    Sizes are int64 bytes, counts int32 tokens or slots. `gpus`, `file_type`, `type_k`, `type_v` and
    `refused` are int8 or int16 codes of the words in `categories`. Card i of a point is
    `gpu<i>_model`, `gpu<i>_context` and `gpu<i>_compute`, then the host; a set with fewer cards has 0 there.

    - `fits`: the margin is left on every card; `left`: bytes left on the card that is shortest.
    - `exact`: every compute figure is what the engine reserves; elsewhere it is never too low.
    - `refused`: why the engine would not run it, or ""; the sizes are 0 then.
    """

    model: Model = field(repr=False)
    gpu_sets: tuple[tuple[Gpu, ...], ...] = field(repr=False)
    settings: Settings
    margin_bytes: int
    shape: tuple[int, ...]  # gpus, file type, cache types, n_seq_max, n_ubatch, n_ctx
    columns: Mapping[str, Array] = field(repr=False)
    categories: Mapping[str, tuple[str, ...]] = field(repr=False)

    def __len__(self) -> int:
        return prod(self.shape)

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), _CHUNK):
            part = [self._plain(name, slice(start, start + _CHUNK)) for name in self.columns]
            yield from (dict(zip(self.columns, values, strict=True)) for values in zip(*part, strict=True))

    def __getitem__(self, index: int) -> Row:
        at = range(len(self))[index]
        return {name: self._plain(name, slice(at, at + 1))[0] for name in self.columns}

    def _plain(self, name: str, rows: slice) -> list[Any]:
        values: list[Any] = self.columns[name][rows].tolist()
        words = self.categories.get(name)
        return values if words is None else [words[code] for code in values]

    @property
    def nbytes(self) -> int:
        """Memory of all columns, in bytes."""
        return sum(column.nbytes for column in self.columns.values())

    def largest(self) -> Sweep:
        """Of every combination of the other settings, the point with the largest context that fits.

        Combinations of which no point fits are left out.
        """
        contexts = np.where(self.columns["fits"], self.columns["n_ctx"], -1).reshape(-1, self.shape[-1])
        best = contexts.argmax(axis=1)
        rows = np.arange(len(best))
        found = contexts[rows, best] >= 0
        index = (rows * self.shape[-1] + best)[found]
        columns = {name: column[index] for name, column in self.columns.items()}
        return replace(self, shape=(len(index), 1), columns=columns)

    def to_pandas(self) -> pandas.DataFrame:
        """A frame over the same memory; codes become categoricals. Raises `SettingsError` without pandas."""
        try:
            import pandas as pd
        except ImportError as e:
            raise SettingsError("to_pandas() needs pandas: pip install pandas") from e
        columns: dict[str, Any] = dict(self.columns)
        for name, words in self.categories.items():
            dtype = pd.CategoricalDtype(words)
            columns[name] = pd.Categorical.from_codes(columns[name], dtype=dtype, validate=False)
        return pd.DataFrame(columns, copy=False)

    def to_polars(self) -> polars.DataFrame:
        """A frame over the same numbers; codes become enums. Raises `SettingsError` without polars."""
        try:
            import polars as pl
        except ImportError as e:
            raise SettingsError("to_polars() needs polars: pip install polars") from e
        frame = pl.DataFrame(dict(self.columns))
        enums = [
            pl.col(name).replace_strict(range(len(words)), words, return_dtype=pl.Enum(words))
            for name, words in self.categories.items()
        ]
        return frame.with_columns(enums)


_CHUNK: Final = 4096


def sweep(
    model: Model,
    gpus: str | Sequence[str | Gpu] | None = None,
    settings: Settings | None = None,
    *,
    n_ctx: Counts | None = None,
    n_seq_max: Counts | None = None,
    n_ubatch: Counts | None = None,
    type_k: str | Sequence[str] | None = None,
    type_v: str | Sequence[str] | None = None,
    file_types: Sequence[str] | None = None,
    gpu_sets: Sequence[str | Sequence[str | Gpu]] | None = None,
    margin_bytes: int = DEFAULT_MARGIN,
    imatrix: bool = False,
    replays: int | None = REPLAYS,
) -> Sweep:
    """Every combination of the values given; what is not given is as in `settings`.

    `type_v` left out follows `type_k`. `file_types` are llama-quantize's (see `requantize`; `imatrix` as
    there); left out, the model as it is. `gpu_sets` are further sets of cards beside `gpus`; "none" is the
    host alone. Layers are placed as `settings.tensor_split` says, or as the engine does by itself: to
    sweep the best split, take it from a `plan`.

    `replays` bounds the compute buffers that are learned (at least two a curve); None learns all,
    which makes every point as exact as `estimate`. Raises what `estimate` raises, but for
    `EngineRefusal`: a refused combination stays in the grid and says why.
    """
    grid = _grid(
        model, gpus, settings or Settings(), n_ctx, n_seq_max, n_ubatch, type_k, type_v, file_types, gpu_sets
    )
    return _Filler(grid, margin_bytes, replays, imatrix).fill()


@dataclass(frozen=True, slots=True)
class _Grid:
    """The values of every axis, checked."""

    model: Model
    settings: Settings
    gpu_sets: tuple[tuple[Gpu, ...], ...]
    file_types: tuple[str, ...]  # "" is the model as it is
    cache_types: tuple[tuple[str, str], ...]
    n_seq_max: Array
    n_ubatch: Array
    n_ctx: Array

    @property
    def shape(self) -> tuple[int, ...]:
        axes = (self.gpu_sets, self.file_types, self.cache_types, self.n_seq_max, self.n_ubatch, self.n_ctx)
        return tuple(map(len, axes))

    @property
    def n_curves(self) -> int:
        """Compute curves at most: contexts share one, and most often file types do."""
        return len(self.gpu_sets) * len(self.cache_types) * len(self.n_seq_max) * len(self.n_ubatch)


def _grid(
    model: Model, gpus: Any, settings: Settings, n_ctx: Counts | None, n_seq_max: Counts | None,
    n_ubatch: Counts | None, type_k: Any, type_v: Any, file_types: Sequence[str] | None, gpu_sets: Any,
) -> _Grid:  # fmt: skip
    resolve(model, replace(settings, type_k="f16", type_v="f16"))  # no context at all is an error
    given = ([] if gpus is None else [gpus]) + list(gpu_sets or ())
    sets = tuple(parse_gpus(cards) for cards in given)
    keys = _words(type_k, settings.type_k)
    if type_v is not None or (type_k is None and settings.type_v != settings.type_k):
        pairs = tuple(product(keys, _words(type_v, settings.type_v)))
    else:
        pairs = tuple((k, k) for k in keys)
    if not sets:
        raise SettingsError('no cards: give gpus or gpu_sets, or "none" for the host alone')
    if not pairs or (file_types is not None and not len(file_types)):
        raise SettingsError("an axis without values: give at least one for each setting")
    return _Grid(
        model=model,
        settings=settings,
        gpu_sets=sets,
        file_types=("",) if file_types is None else tuple(file_types),
        cache_types=pairs,
        n_seq_max=_counts(settings, "n_seq_max", n_seq_max, settings.n_seq_max),
        n_ubatch=_counts(settings, "n_ubatch", n_ubatch, settings.n_ubatch or settings.n_batch),
        n_ctx=_counts(settings, "n_ctx", n_ctx, settings.n_ctx or model.n_ctx_train),
    )


def _words(given: str | Sequence[str] | None, default: str) -> tuple[str, ...]:
    if given is None:
        return (default,)
    return (given,) if isinstance(given, str) else tuple(given)


def _counts(settings: Settings, name: str, given: Counts | None, default: int) -> Array:
    """The values of one count as int64, each of which `Settings` would take, and none of them 0."""
    values = np.atleast_1d(np.asarray(default if given is None else given))
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
        raise SettingsError(f"{name}={given!r}: give whole numbers, in one dimension")
    if values.min() < 1:
        raise SettingsError(f"{name} holds {values.min()}: give 1 or more")
    checked: dict[str, Any] = {name: int(values.max())}
    replace(settings, **checked)
    return values.astype(np.int64)


def _count(values: Array) -> int:
    """Counts where one is asked for: the arithmetic behind it is made for both."""
    return cast(int, values)


class _Filler:
    """Fills the columns of one sweep: first what the axes say, then block by block."""

    def __init__(self, grid: _Grid, margin: int, replays: int | None, imatrix: bool) -> None:
        self.grid = grid
        self.margin = margin
        each = None if replays is None else max(2, replays // grid.n_curves)
        self.limit = len(grid.n_ctx) if each is None else each
        self.models = [
            grid.model if not name else requantize(grid.model, name, imatrix=imatrix)
            for name in grid.file_types
        ]
        self.curves: dict[object, _Curve] = {}
        self.refusals: dict[str, int] = {"": 0}
        n_cards = max(map(len, grid.gpu_sets))
        self.devices = [*(f"gpu{i}" for i in range(n_cards)), "host"]
        sizes = [f"{device}_{term}" for device in self.devices for term in TERMS]
        n = prod(grid.shape)
        self.columns: dict[str, Array] = {
            **self._axes(),
            **{name: np.zeros(n, np.int64) for name in (*sizes, "left")},
            **{name: np.zeros(n, np.bool_) for name in ("fits", "exact")},
            "refused": np.zeros(n, np.int16),
        }

    def _axes(self) -> dict[str, Array]:
        """The columns that the axes say."""
        g = self.grid
        kinds = [(k, v) for k, v in g.cache_types]
        self.cache_words = tuple(dict.fromkeys(word for pair in kinds for word in pair))
        code = {word: i for i, word in enumerate(self.cache_words)}
        values: dict[str, tuple[int, Array]] = {
            "gpus": (0, np.arange(len(g.gpu_sets), dtype=np.int16)),
            "file_type": (1, np.arange(len(g.file_types), dtype=np.int8)),
            "type_k": (2, np.array([code[k] for k, _ in kinds], np.int8)),
            "type_v": (2, np.array([code[v] for _, v in kinds], np.int8)),
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

    def fill(self) -> Sweep:
        g = self.grid
        for at in shown(list(np.ndindex(*g.shape[:3:2])), "sweep"):
            self._fill_block(*at)
        labels = tuple(" + ".join(x.name for x in gpus) or "none" for gpus in g.gpu_sets)
        return Sweep(
            model=g.model, gpu_sets=g.gpu_sets, settings=g.settings, margin_bytes=self.margin, shape=g.shape,
            columns=self.columns,
            categories={
                "gpus": _distinct(labels),
                "file_type": tuple(m.file_type or "as it is" for m in self.models),
                "type_k": self.cache_words,
                "type_v": self.cache_words,
                "refused": tuple(self.refusals),
            },
        )  # fmt: skip

    def _fill_block(self, i_gpus: int, i_types: int) -> None:
        """All points of one set of cards and one pair of cache types."""
        g = self.grid
        gpus, (type_k, type_v) = g.gpu_sets[i_gpus], g.cache_types[i_types]
        try:
            settings = replace(g.settings, type_k=type_k, type_v=type_v)
            slots, batches = g.n_seq_max[:, None, None], g.n_ubatch[:, None]
            context = resolve_counts(g.model, settings, _count(g.n_ctx), _count(slots), _count(batches))
            placement = place(g.model, gpus, settings)
            rules = [backend(gpus[i].backend) for i in devices(gpus, settings)]
            caches = context_bytes(g.model, placement, context, rules, HOST_BACKEND)
            for i_file, model in enumerate(self.models):
                block = _Block(self, (i_gpus, i_file, i_types), gpus, settings)
                weights = weight_bytes(model, placement, rules, HOST_BACKEND)
                block.write(weights, caches, self._curves(model, placement, settings, rules))
        except EngineRefusal as e:
            code = self.refusals.setdefault(str(e), len(self.refusals))
            self.columns["refused"].reshape(g.shape)[i_gpus, :, i_types] = code

    def _curves(
        self, model: Model, placement: Placement, settings: Settings, rules: Sequence[Backend]
    ) -> list[list[_Curve]]:
        """A curve for each number of slots and each physical batch."""
        alike = (settings.type_k, settings.type_v, tuple(r.name for r in rules), _needs(model, placement))
        contexts = np.unique(self.grid.n_ctx)

        def curve(n_seq_max: int, n_ubatch: int) -> _Curve:
            key = (alike, n_seq_max, n_ubatch)
            if key not in self.curves:
                asked = replace(settings, n_seq_max=n_seq_max, n_ubatch=n_ubatch)

                def replay(n_ctx: int) -> tuple[Figures, bool]:
                    at = replace(asked, n_ctx=n_ctx)
                    found = compute_bytes(model, placement, resolve(model, at), at, rules)
                    return (*found.gpus, found.host), found.exact

                self.curves[key] = _learn(replay, contexts.tolist(), self.limit)
            return self.curves[key]

        g = self.grid
        return [[curve(int(s), int(u)) for u in g.n_ubatch] for s in g.n_seq_max]


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


@dataclass(frozen=True, slots=True)
class _Block:
    """The points of one set of cards, file type and pair of cache types, and where they are written."""

    filler: _Filler
    at: tuple[int, int, int]
    gpus: tuple[Gpu, ...]
    settings: Settings

    def column(self, name: str) -> Array:
        """The block's part of a column, as slots × batches × contexts."""
        view: Array = self.filler.columns[name].reshape(self.filler.grid.shape)[self.at]
        return view

    def write(self, weights: DeviceBytes, caches: DeviceBytes, curves: list[list[_Curve]]) -> None:
        used = devices(self.gpus, self.settings)
        names = [*(f"gpu{i}" for i in used), "host"]
        for name, w, c in zip(names, (*weights.gpus, weights.host), (*caches.gpus, caches.host), strict=True):
            self.column(f"{name}_model")[:] = w
            self.column(f"{name}_context")[:] = c
        exact = self.column("exact")
        compute = [self.column(f"{name}_compute") for name in names]
        for s, row in enumerate(curves):
            for u, curve in enumerate(row):
                sizes, exact[s, u] = curve.at(self.filler.grid.n_ctx)
                for device, figures in enumerate(compute):
                    figures[s, u] = sizes[:, device]
        self._judge(used)

    def _judge(self, used: Iterable[int]) -> None:
        """What is left on the shortest card in use, and whether that is enough."""
        left, fits = self.column("left"), self.column("fits")
        left[:] = min((self.gpus[i].free for i in used), default=0)
        fits[:] = True
        for i in used:
            total = sum(self.column(f"gpu{i}_{term}") for term in TERMS)
            here = self.gpus[i].free - total
            np.minimum(left, here, out=left)
            fits &= (here >= self.filler.margin) | (total == 0)


Figures = tuple[int, ...]  # compute bytes of each device in use, and last of the host


@dataclass(frozen=True, slots=True)
class _Curve:
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


def _learn(replay: Callable[[int], tuple[Figures, bool]], contexts: list[int], limit: int) -> _Curve:
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
    return _Curve(
        contexts=np.array([contexts[at] for at in order]),
        sizes=np.array([known[at][0] for at in order]),
        exact=np.array([known[at][1] for at in order]),
    )


def _gap(known: Mapping[int, tuple[Figures, bool]], low: int, high: int) -> tuple[int, int, int]:
    """How far apart two learned contexts are, in bytes; negative, as a heap gives the least first."""
    return -sum(abs(a - b) for a, b in zip(known[low][0], known[high][0], strict=True)), low, high


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that can be told apart: sets of cards with equal names are numbered."""
    return tuple(
        f"{label} #{labels[:i].count(label) + 1}" if labels.count(label) > 1 else label
        for i, label in enumerate(labels)
    )
