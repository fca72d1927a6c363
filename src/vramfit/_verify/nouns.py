"""What came of comparing: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .._base.shown import Shown
from .._devices import Gpu
from .._llama.model import Model
from .._llama.params import Settings
from .._logs import Load, Size

__all__ = ["Cause", "Row", "Verdict", "Verification"]

Verdict = Literal["equal", "near", "higher", "lower", "other model", "unchecked"]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of memory on one device: the estimate in bytes, and what was printed.

    `judged` is false where the two are not the same thing, and `why` says so: a mapped file, other weights.
    """

    device: str
    kind: str  # model, context or compute
    estimate: int
    measured: Size
    judged: bool = True
    why: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the estimate prints as what was printed."""
        return self.measured.holds(self.estimate)

    @property
    def ratio(self) -> float | None:
        """The estimate over the measurement; None where nothing was measured."""
        return self.estimate / self.measured.middle if self.measured.middle > 0 else None

    @property
    def differs(self) -> bool:
        """Whether it is judged and does not agree."""
        return self.judged and not self.agrees


@dataclass(frozen=True, slots=True)
class Cause:
    """Settings changed, and how many of the rows that differed agree then."""

    what: str  # in words: "the rules of b9000", "flash attention off"
    settings: Settings
    rows: tuple[Row, ...]
    agrees: bool  # whether all judged rows agree


@dataclass(frozen=True, slots=True)
class Verification(Shown):
    """An estimate beside one load of a log.

    `model` is None where the log alone was checked. `gpus` and `settings` are those of the load, as far as the log says;
    `taken` says in sentences what it does not.
    """

    load: Load
    rows: tuple[Row, ...]
    verdict: Verdict
    model: Model | None = None
    gpus: tuple[Gpu, ...] = ()
    settings: Settings = field(default_factory=Settings)
    exact: bool = False  # whether the estimate calls itself exact
    taken: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()  # why the log is of another model, or what cannot be checked
    causes: tuple[Cause, ...] = ()
    searched: bool = False  # whether causes were sought
    command: str = ""  # of a llama-server that prints what the log has
    loads: int = 1  # how many loads the log holds
    at: int = 1  # which of them this is, from 1

    @property
    def agrees(self) -> bool:
        """Whether every figure that can be judged is as printed."""
        return self.verdict == "equal"

    def total(self, device: str) -> tuple[int, int]:
        """Bytes of a device over the kinds that were printed: estimated, measured."""
        own = [r for r in self.rows if r.device == device]
        return sum(r.estimate for r in own), sum(r.measured.middle for r in own)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices in the order of the rows."""
        return tuple(dict.fromkeys(r.device for r in self.rows))
