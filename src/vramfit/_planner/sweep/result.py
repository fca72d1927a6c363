"""`Sweep`: points in columns, that read as rows and as frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ..._base.errors import SettingsError
from ..._base.shown import Drawn
from ..._devices import Gpu
from ..._llama.model import Model
from ..._llama.params import Settings

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["Array", "Row", "Sweep"]

Array = npt.NDArray[Any]
Row = dict[str, int | str | bool]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep(Drawn):
    """Points in columns of equal length; iterates as rows of plain Python values.

    Sizes are int64 bytes, counts int32 tokens or slots. `gpus`, `file_type`, `type_k`, `type_v` and
    `refused` are int16 codes of the words in `categories`. Card i of a point is
    `gpu<i>_model`, `gpu<i>_context` and `gpu<i>_compute`, then the host; a set with fewer cards has 0 there.
    Where a draft or a projector is beside the model, `gpu<i>_company` and `host_company` are theirs.

    - `fits`: the margin is left on every card; `left`: bytes left on the card that is shortest.
    - `exact`: every compute figure is what the engine reserves; elsewhere it is an upper bound.
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
        """Keep, of every combination of the other settings, the point with the largest context that fits.

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
        """Make a pandas frame over the same memory; codes become categoricals. Raises `SettingsError` without pandas."""
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
        """Make a polars frame of the same numbers; codes become enums. Raises `SettingsError` without polars."""
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
