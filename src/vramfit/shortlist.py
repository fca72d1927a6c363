"""Which cards carry a context: the reverse of a plan.

In: `Model`, `Settings` with a context, a margin, cards to choose from. Out: a `Shortlist` of single cards and
pairs, least memory first. More free memory never carries less, so the smallest card of a backend that carries the
context is found by bisection, and for pairs one walk finds for each card the smallest partner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final

from .coerce import AnyGpus, AnyModel, AnySettings, cards, count, margin, model_of, settings_of
from .context import resolve
from .errors import GpuError, SettingsError
from .gpus import Gpu, all_gpus
from .model import Model
from .search import Chains, largest, last_where
from .segments import Segments
from .settings import Settings
from .shown import Shown
from .solve import DEFAULT_MARGIN

__all__ = ["MAX_CARDS", "Carrier", "Shortlist", "which"]

MAX_CARDS: Final = 2
MAX_CHOICES: Final = 10_000  # cards to choose from


@dataclass(frozen=True, slots=True)
class Carrier:
    """Cards that carry the context. `gpus` are one, or two in the order in which they do.

    `alike` holds for each of them the names of all cards with as much free memory and the same backend.
    """

    gpus: tuple[Gpu, ...]
    alike: tuple[tuple[str, ...], ...]

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
    """Single cards, then pairs of which neither card is enough; each least memory first."""

    model: Model = field(repr=False)
    n_ctx: int  # of all slots together
    settings: Settings
    margin_bytes: int
    singles: tuple[Carrier, ...] = field(repr=False)
    pairs: tuple[Carrier, ...] = field(repr=False)

    @property
    def carriers(self) -> tuple[Carrier, ...]:
        """All of them, least memory first; of equal memory the single card."""
        return tuple(sorted((*self.singles, *self.pairs), key=lambda c: (c.total_bytes, len(c.gpus))))

    @property
    def fits(self) -> bool:
        """Whether anything carries the context."""
        return bool(self.singles or self.pairs)


def which(
    model: AnyModel,
    settings: AnySettings = None,
    *,
    max_cards: int = MAX_CARDS,
    margin_bytes: int | str = DEFAULT_MARGIN,
    gpus: AnyGpus | None = None,
) -> Shortlist:
    """The cards, and with `max_cards` 2 the pairs, on which `settings.n_ctx` tokens fit as `plan` has it.

    `n_ctx` 0 means the trained context. `gpus` are the cards to choose from: by default those of the
    catalogue whose memory is known. Pairs are cards of one backend with memory of their own; where one
    card is enough no pair is listed. Raises what `plan` raises, and `SettingsError` for `max_cards` and for a
    `tensor_split`, which is for cards that are known.
    """
    model, settings, margin_bytes = model_of(model), settings_of(settings), margin(margin_bytes)
    max_cards = count("max_cards", max_cards, least=1, most=MAX_CARDS)
    if settings.tensor_split or settings.main_gpu:
        raise SettingsError("tensor_split and main_gpu are for cards that are known; leave them out")
    n_ctx = resolve(model, settings).n_ctx
    settings = replace(settings, n_ctx=settings.n_ctx or model.n_ctx_train)
    singles: list[Carrier] = []
    pairs: list[Carrier] = []
    for sizes in _by_backend(all_gpus() if gpus is None else cards(gpus, most=MAX_CHOICES)):
        one = _Cards(model, settings, margin_bytes, sizes[-1][0], 1)
        at = _first_enough(one, sizes)
        singles += [_carrier(group) for group in sizes[at:]]
        own = [[g for g in group if not g.unified] for group in sizes[:at]]
        if max_cards > 1 and settings.split_mode != "none" and any(own):
            pairs += _pairs(_Cards(model, settings, margin_bytes, sizes[-1][0], 2), [x for x in own if x])
    return Shortlist(model, n_ctx, settings, margin_bytes, _sorted(singles), _sorted(pairs))


Group = Sequence[Gpu]  # as much free memory, the same backend


def _by_backend(gpus: Sequence[Gpu]) -> Iterable[list[Group]]:
    """For each backend its cards in groups of equal free memory, least first."""
    if not gpus:
        raise GpuError("no cards to choose from")
    ordered = sorted(gpus, key=lambda g: (g.backend, g.free, g.total_bytes, g.name))
    for _, together in groupby(ordered, key=lambda g: g.backend):
        yield [list(group) for _, group in groupby(together, key=lambda g: g.free)]


def _first_enough(one: _Cards, sizes: Sequence[Group]) -> int:
    """Position of the smallest size of which one card is enough, else their number."""
    return 1 + last_where(lambda at: not one.carry(sizes[at][0]), -1, len(sizes) - 1)


def _carrier(*groups: Group) -> Carrier:
    """Of cards that are alike, the one of least memory stands for all."""
    return Carrier(
        tuple(group[0] for group in groups), tuple(tuple(g.name for g in group) for group in groups)
    )


def _sorted(carriers: Iterable[Carrier]) -> tuple[Carrier, ...]:
    return tuple(sorted(carriers, key=lambda c: (c.total_bytes, c.free_bytes, c.alike)))


class _Cards:
    """A number of cards of one backend: whether the context fits on them, by the search that `plan` makes."""

    def __init__(self, model: Model, settings: Settings, margin: int, example: Gpu, count: int) -> None:
        self._segments = Segments(model, [example] * count, settings)
        self._candidates = range(settings.n_ctx, settings.n_ctx + 1)
        self._margin = margin

    def carry(self, *gpus: Gpu) -> bool:
        """Whether the context fits on these cards, in this order."""
        room = [g.free - self._margin for g in gpus]
        return largest(Chains(self._segments, room), self._candidates) is not None


def _pairs(two: _Cards, sizes: Sequence[Group]) -> Iterable[Carrier]:
    """All pairs that carry the context, the larger card first if that will do.

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
                yield _carrier(group, partner)
            elif i >= turned:
                yield _carrier(partner, group)
