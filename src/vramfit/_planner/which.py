"""List the cards that hold a context: the reverse of a plan.

In: `Model`, `Settings` with a context, a margin, cards to choose from. Out: a `Shortlist` of single cards and
pairs. More free memory never holds less, so the smallest card of a backend that holds the
context is found by bisection, and for pairs one walk finds for each card the smallest partner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from typing import Final, Literal, get_args

from .._base.errors import GpuError, SettingsError
from .._base.progress import Bar
from .._base.shown import Shown
from .._coerce import (
    AnyGpus,
    AnyHost,
    AnyModel,
    AnySettings,
    cards,
    count,
    host_of,
    margin,
    model_of,
    settings_of,
)
from .._devices import Gpu, Host, all_gpus, select_gpus
from .._llama.cparams import resolve, wanted_ctx
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import place
from .._llama.speculation import predicts
from .host import Beside
from .plan import DEFAULT_MARGIN, carries
from .search import Chains, largest, last_where
from .segments import Segments
from .speed import GB, active_bytes

__all__ = ["MAX_CARDS", "SORTS", "Carrier", "Shortlist", "Sort", "which"]

MAX_CARDS: Final = 2
MAX_CHOICES: Final = 10_000  # cards to choose from
Sort = Literal["memory", "bandwidth", "speed"]
SORTS: Final[tuple[Sort, ...]] = get_args(Sort)


@dataclass(frozen=True, slots=True)
class Carrier:
    """Cards that hold the context. `gpus` are one, or two in the order in which they do.

    `alike` holds for each of them the names of all cards with as much free memory, the same backend and the same
    bandwidth. `tokens_per_second` is what no split of the weights over them exceeds (see `speed`), None where a
    bandwidth is not known.
    """

    gpus: tuple[Gpu, ...]
    alike: tuple[tuple[str, ...], ...]
    tokens_per_second: float | None = None

    @property
    def built_in(self) -> bool:
        """Whether it comes with its computer: a laptop's chip, a Jetson, a Mac."""
        return any(g.built_in for g in self.gpus)

    @property
    def bandwidth_gbs(self) -> float | None:
        """GB/s of the slowest; None where one is not known."""
        known = [g.bandwidth_gbs for g in self.gpus]
        return None if None in known else min(x for x in known if x is not None)

    @property
    def total_bytes(self) -> int:
        """Memory of the cards together, as their driver reports it."""
        return sum(g.total_bytes for g in self.gpus)

    @property
    def free_bytes(self) -> int:
        """Free memory of the cards together."""
        return sum(g.free for g in self.gpus)


@dataclass(frozen=True, slots=True)
class Shortlist(Shown):
    """Single cards, then pairs of which neither card is enough; each in the order of `sort`, built-in ones last."""

    model: Model = field(repr=False)
    n_ctx: int  # of all slots together
    settings: Settings
    margin_bytes: int
    singles: tuple[Carrier, ...] = field(repr=False)
    pairs: tuple[Carrier, ...] = field(repr=False)
    sort: Sort = "memory"

    @property
    def carriers(self) -> tuple[Carrier, ...]:
        """All carriers in the order of `sort`; of equal ones the single card first."""
        return _sorted((*self.singles, *self.pairs), self.sort)

    @property
    def fits(self) -> bool:
        """Whether any card or pair holds the context."""
        return bool(self.singles or self.pairs)


def which(
    model: AnyModel,
    settings: AnySettings = None,
    *,
    max_cards: int = MAX_CARDS,
    margin_bytes: int | str = DEFAULT_MARGIN,
    gpus: AnyGpus | None = None,
    sort: Sort = "memory",
    host: AnyHost = None,
) -> Shortlist:
    """List the cards, and with `max_cards` 2 the pairs, on which `settings.n_ctx` tokens fit as `plan` has it.

    `n_ctx` 0 means the trained context. `gpus` are the cards to choose from: by default those of the
    catalogue whose memory is known; a string is read by `gpus.select_gpus`, as in "nvidia" or "amd,3090". Pairs are
    cards of one backend that do not come with a computer; where one card is enough no pair is listed. `sort` is
    "memory" (least first), "bandwidth" or "speed" (most first); laptops' chips and others that come with their
    computer stand behind cards. `host` is the memory beside cards that have their own. Raises what `plan` raises, and `SettingsError` for `max_cards` and for a
    `tensor_split`, which is for cards that are known.
    """
    model, settings, margin_bytes = model_of(model), settings_of(settings), margin(margin_bytes)
    max_cards = count("max_cards", max_cards, least=1, most=MAX_CARDS)
    if sort not in SORTS:
        raise SettingsError(f"sort={sort!r}: give one of {', '.join(SORTS)}")
    if settings.tensor_split or settings.main_gpu:
        raise SettingsError("tensor_split and main_gpu are for cards that are known; leave them out")
    memory = host_of(host)
    n_ctx = resolve(model, settings).n_ctx
    settings = replace(settings, n_ctx=wanted_ctx(model, settings))
    singles: list[Carrier] = []
    pairs: list[Carrier] = []
    choice = (
        select_gpus(gpus)
        if isinstance(gpus, str)
        else all_gpus()
        if gpus is None
        else cards(gpus, most=MAX_CHOICES)
    )
    speed = _Speed.of(model, settings, choice, margin_bytes)
    with Bar("which") as bar:
        for sizes in _by_backend(choice):
            one = _Cards(model, settings, margin_bytes, sizes[-1][0], 1, bar, memory)
            at = _first_enough(one, sizes)
            singles += [c for group in sizes[at:] for c in _carriers(speed, group)]
            own = [[g for g in group if not g.built_in] for group in sizes[:at]]
            if max_cards > 1 and settings.split_mode != "none" and any(own):
                two = _Cards(model, settings, margin_bytes, sizes[-1][0], 2, bar, memory)
                pairs += [c for pair in _pairs(two, [x for x in own if x]) for c in _carriers(speed, *pair)]
    return Shortlist(model, n_ctx, settings, margin_bytes, _sorted(singles, sort), _sorted(pairs, sort), sort)


Group = Sequence[Gpu]  # as much free memory, the same backend


def _by_backend(gpus: Sequence[Gpu]) -> Iterable[list[Group]]:
    """Group the cards of each backend by equal free memory, least first; those that share the system's memory apart."""
    if not gpus:
        raise GpuError("no cards to choose from")
    ordered = sorted(gpus, key=lambda g: (g.backend, g.unified, g.free, g.total_bytes, g.name))
    for _, together in groupby(ordered, key=lambda g: (g.backend, g.unified)):
        yield [list(group) for _, group in groupby(together, key=lambda g: g.free)]


def _first_enough(one: _Cards, sizes: Sequence[Group]) -> int:
    """Find the position of the smallest size of which one card is enough, else their number."""
    return 1 + last_where(lambda at: not one.carry(sizes[at][0]), -1, len(sizes) - 1)


@dataclass(frozen=True, slots=True)
class _Speed:
    """What bounds decoding: bytes of weights that a token reads on the cards, and the room for them."""

    n_bytes: int  # 0: no bound is known
    margin: int

    @classmethod
    def of(cls, model: Model, settings: Settings, gpus: Sequence[Gpu], margin: int) -> _Speed:
        """Weights on the host are read at a rate that is not known."""
        if not model.has_cache or not gpus:
            return cls(0, margin)
        *cards, host = active_bytes(model, place(model, gpus[:1], settings))
        return cls(0 if host else sum(cards), margin)

    def bound(self, gpus: Sequence[Gpu]) -> float | None:
        """Bound the tokens per second of any split: as much as has room is read by the fastest card."""
        if not self.n_bytes or any(g.bandwidth_gbs is None for g in gpus):
            return None
        rest, seconds = self.n_bytes, 0.0
        ordered = sorted(gpus, key=lambda g: -(g.bandwidth_gbs or 0))
        for gpu in ordered:
            share = rest if gpu is ordered[-1] else min(rest, max(0, gpu.free - self.margin))
            seconds += share / ((gpu.bandwidth_gbs or 0) * GB)
            rest -= share
        return 1 / seconds


def _carriers(speed: _Speed, *groups: Group) -> Iterable[Carrier]:
    """Make the carriers; of cards that are alike in all that is shown, the one of least memory stands for all."""
    for parts in product(*map(_alike, groups)):
        gpus = tuple(part[0] for part in parts)
        names = tuple(tuple(g.name for g in part) for part in parts)
        yield Carrier(gpus, names, speed.bound(gpus))


def _alike(group: Group) -> list[Group]:
    """Group cards of equal free memory by bandwidth and by whether they come with their computer."""
    found: dict[tuple[float | None, bool], list[Gpu]] = {}
    for gpu in group:
        found.setdefault((gpu.bandwidth_gbs, gpu.built_in), []).append(gpu)
    return list(found.values())


def _sorted(carriers: Iterable[Carrier], sort: Sort) -> tuple[Carrier, ...]:
    def key(c: Carrier) -> tuple[object, ...]:
        first = {"memory": 0.0, "bandwidth": c.bandwidth_gbs or 0, "speed": c.tokens_per_second or 0}[sort]
        return (c.built_in, -first, c.total_bytes, len(c.gpus), c.free_bytes, c.alike)

    return tuple(sorted(carriers, key=key))


class _Cards:
    """Tells whether the context fits on a number of cards of one backend, by the search that `plan` makes."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        margin: int,
        example: Gpu,
        count: int,
        bar: Bar,
        host: Host | None = None,
    ) -> None:
        self._bar = bar
        self._question = (model, settings, host)
        self._segments = Segments(model, [example] * count, settings)
        self._candidates = range(settings.n_ctx, settings.n_ctx + 1)
        self._margin = margin

    def carry(self, *gpus: Gpu) -> bool:
        """Tell whether the context fits on these cards, in this order."""
        self._bar.advance()
        model, settings, host = self._question
        own = None if any(g.unified for g in gpus) else host
        if model.company is not None or predicts(settings):  # it may take more than segments tell
            return carries(model, gpus, settings, margin_bytes=self._margin, host=own)
        room = [g.free - self._margin for g in gpus]
        beside = Beside(
            model, gpus, settings, range(len(gpus)), room, self._margin, own, lambda: self._segments
        )
        if beside.counts:
            return beside.largest(self._candidates) is not None
        return largest(Chains(self._segments, room), self._candidates) is not None


def _pairs(two: _Cards, sizes: Sequence[Group]) -> Iterable[tuple[Group, Group]]:
    """List the pairs that hold the context, the larger card first if that will do.

    As the larger card grows, the smallest partner that is enough shrinks: one walk finds them all.
    """
    smallest = turned = len(sizes)
    for at, group in enumerate(sizes):
        while smallest and two.carry(group[0], sizes[smallest - 1][0]):
            smallest -= 1
        while turned and two.carry(sizes[turned - 1][0], group[0]):
            turned -= 1
        for i, partner in enumerate(sizes[: at + 1]):
            if i >= smallest:
                yield group, partner
            elif i >= turned:
                yield partner, group
