"""Turn what a caller of `sweep` gives into the values of every axis, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any, Final

import numpy as np

from ..._base.errors import SettingsError
from ..._coerce import cards, shown, words
from ..._company import company_of
from ..._devices import Gpu
from ..._llama.cparams import physical_batch, wanted_ctx
from ..._llama.model import Model
from ..._llama.params import Settings
from ..._llama.speculation import predicts
from ..._quant import file_type
from .result import Array

__all__ = ["Counts", "Grid", "make_grid"]

Counts = int | Sequence[int] | Array
MAX_POINTS: Final = 10**8  # ten gigabytes of columns


@dataclass(frozen=True, slots=True)
class Grid:
    """The values of every axis, checked."""

    model: Model
    settings: Settings
    gpu_sets: tuple[tuple[Gpu, ...], ...]
    file_types: tuple[str, ...]  # empty: the model as it is
    cache_types: tuple[tuple[str, str], ...]
    n_seq_max: Array
    n_ubatch: Array
    n_ctx: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes: gpus, file types, cache types, n_seq_max, n_ubatch, n_ctx."""
        axes = (self.gpu_sets, self.file_types, self.cache_types, self.n_seq_max, self.n_ubatch, self.n_ctx)
        return tuple(map(len, axes))

    @property
    def terms(self) -> tuple[str, ...]:
        """What a device's bytes are told apart by: the model's own, and those of what is loaded beside it."""
        own = ("model", "context", "compute")
        return (*own, "company") if company_of(self.model).takes_room else own

    @property
    def n_points(self) -> int:
        """How many combinations there are."""
        return prod(self.shape)

    @property
    def n_curves(self) -> int:
        """Compute curves at most: contexts share one, and most often file types do."""
        return len(self.gpu_sets) * len(self.cache_types) * len(self.n_seq_max) * len(self.n_ubatch)


def make_grid(
    model: Model, gpus: Any, settings: Settings, n_ctx: Counts | None, n_seq_max: Counts | None,
    n_ubatch: Counts | None, type_k: Any, type_v: Any, file_types: Any, gpu_sets: Any,
) -> Grid:  # fmt: skip
    """Make the grid of `sweep`'s arguments. Raises `SettingsError` or `GpuError` for what makes no sense."""
    if predicts(settings) and (model.mtp or company_of(model).draft is None):
        raise SettingsError("a sweep counts no next-token layers of the model itself: leave out draft-mtp")
    further = (gpu_sets,) if isinstance(gpu_sets, str | Gpu) else () if gpu_sets is None else gpu_sets
    if not isinstance(further, Sequence):
        raise SettingsError(f"gpu_sets={shown(gpu_sets)}: give a list of sets of cards")
    given = [*([] if gpus is None else [gpus]), *further]
    sets = tuple(
        cards(each, "gpus" if gpus is not None and not at else "gpu_sets") for at, each in enumerate(given)
    )
    keys = _words("type_k", type_k, settings.type_k)
    if type_v is not None or (type_k is None and settings.type_v != settings.type_k):
        pairs = tuple(product(keys, _words("type_v", type_v, settings.type_v)))
    else:
        pairs = tuple((k, k) for k in keys)
    if not sets:
        raise SettingsError('no cards: give gpus or gpu_sets, or "none" for the host alone')
    names = tuple(dict.fromkeys(file_type(n).name if n else "" for n in _words("file_types", file_types, "")))
    if not pairs or not names:
        raise SettingsError("an axis without values: give at least one for each setting")
    found = Grid(
        model=model,
        settings=settings,
        gpu_sets=sets,
        file_types=names,
        cache_types=pairs,
        n_seq_max=_counts(settings, "n_seq_max", n_seq_max, settings.n_seq_max),
        n_ubatch=_counts(settings, "n_ubatch", n_ubatch, physical_batch(settings)),
        n_ctx=_counts(settings, "n_ctx", n_ctx, wanted_ctx(model, settings)),
    )
    if found.n_points > MAX_POINTS:
        raise SettingsError(f"{found.n_points:,} points: a sweep takes {MAX_POINTS:,}; do it in parts")
    return found


def _words(name: str, given: object, default: str) -> tuple[str, ...]:
    found = words(name, given)
    return (default,) if found is None else found


def _counts(settings: Settings, name: str, given: Counts | None, default: int) -> Array:
    """Check the values of one count, each of which `Settings` would take and none of them 0; return them as int64."""
    try:
        values = np.atleast_1d(np.asarray(default if given is None else given))
    except (TypeError, ValueError, OverflowError):
        raise SettingsError(f"{name}={shown(given)}: give whole numbers, in one dimension") from None
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
        raise SettingsError(f"{name}={shown(given)}: give whole numbers, in one dimension")
    if values.min() < 1:
        raise SettingsError(f"{name} holds {values.min()}: give 1 or more")
    checked: dict[str, Any] = {name: int(values.max())}
    replace(settings, **checked)
    return values.astype(np.int64)
