"""`Alternative`: one way to run the model other than as asked, with all that speaks for and against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from ..._base.errors import SettingsError, shown
from ..._base.shown import Shown
from ..._ggml.types import tensor_type
from ..._llama.cparams import physical_batch
from ..._llama.params import Settings
from ..plan import Plan
from ..quality import Measure

__all__ = ["PREFERENCES", "Alternative", "Alternatives", "Prefer", "by_preference", "cache_bits", "checked"]

Prefer = Literal["speed", "quality", "context"]
PREFERENCES: Final[tuple[Prefer, ...]] = ("speed", "quality", "context")


@dataclass(frozen=True, slots=True)
class Alternative(Shown):
    """A change of the settings and its plan. Sizes are bytes; contexts are tokens of one slot.

    `flags` are llama.cpp's, to be put behind those that were asked about; "" where nothing changes.
    `host_bytes` is what the host reads for each token beyond what it reads as asked: active weights, and
    the cache where that lies there. `before` is 0 where the model did not fit as asked.
    """

    kind: str
    flags: str
    before: int
    plan: Plan
    costs: tuple[str, ...] = ()
    host_bytes: int = 0
    tokens_per_second: float | None = None  # upper bound; None where a bandwidth is not known
    measure: Measure | None = None  # of the cache types, published

    @property
    def n_ctx(self) -> int:
        """The context of one slot; 0 where it does not fit."""
        return self.plan.estimate.n_ctx_seq if self.fits else 0

    @property
    def gain(self) -> int:
        """Tokens more than as asked; below 0 where the change takes some away."""
        return self.n_ctx - self.before

    @property
    def fits(self) -> bool:
        """Whether it fits with the margin on every card."""
        return self.plan.fits

    @property
    def exact(self) -> bool:
        """Whether every figure of its plan is what the engine allocates."""
        return self.plan.estimate.exact


@dataclass(frozen=True, slots=True)
class Alternatives(Shown):
    """The plan as asked and every change alone, in order of preference where one was stated."""

    asked: Plan
    rows: tuple[Alternative, ...] = field(repr=False)
    prefer: Prefer | None = None

    @property
    def useful(self) -> tuple[Alternative, ...]:
        """Those that hold more context than as asked."""
        return tuple(row for row in self.rows if row.gain > 0)

    def most(self, n: int = 2) -> tuple[Alternative, ...]:
        """The `n` changes that buy the most context, one of each kind; what gives the host more to do comes after."""
        best: dict[str, Alternative] = {}
        for row in sorted(self.useful, key=lambda row: (row.host_bytes > 0, *by_preference(row, "context"))):
            best.setdefault(row.kind, row)
        return tuple(best.values())[:n]


def checked(prefer: str) -> Prefer:
    """Check that `prefer` is a preference. Raises `SettingsError`."""
    for known in PREFERENCES:
        if isinstance(prefer, str) and prefer == known:
            return known
    raise SettingsError(f"prefer={shown(prefer)}: give one of {', '.join(PREFERENCES)}")


def cache_bits(settings: Settings) -> int:
    """Count the bits of 256 cached elements of K and of V: how wide a cache is, whatever its rows."""
    return sum(tensor_type(name).row_bytes(256) * 8 for name in (settings.type_k, settings.type_v))


def by_preference(row: Alternative, prefer: Prefer) -> tuple[float, ...]:
    """Make a sorting key: what fits first, then what is to be kept, the dearest thing first."""
    s = row.plan.settings
    width = (-cache_bits(s), -tensor_type(s.type_k).row_bytes(256))
    slots, batch, context = -s.n_seq_max, -physical_batch(s), -row.n_ctx
    order: dict[Prefer, tuple[float, ...]] = {
        "speed": (row.host_bytes, slots, batch, *width, context),
        "quality": (*width, row.host_bytes, slots, batch, context),
        "context": (context, row.host_bytes, *width, slots, batch),
    }
    return (not row.fits, *order[prefer])
