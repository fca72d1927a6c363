"""Count what one model takes on some of the cards: a `Spot`, for each set of cards that it may have.

In: a `Tenant`, cards. Out: bytes on each card and the host, under a split, at a context: exactly, or no more than that. A
spot is what the engine is told with `-dev`: the model sees these cards alone, in the machine's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from itertools import combinations, pairwise
from typing import Final, NamedTuple

from ..._company import Company, Draft, company_of
from ..._company.lent import reads_target
from ..._devices import Gpu, Host
from ..._estimate.company import CompanyBytes
from ..._llama.model import Model
from ..._llama.params import Settings
from ..._llama.placement import devices, split_is_given
from ..._llama.speculation import loaded, predicts
from ..question import Question
from ..search import Chains, Split
from ..segments import Learned

__all__ = ["Bound", "Divided", "Option", "Spot", "fewest", "fits", "spots"]

ALL_SETS: Final = 4  # cards up to which a model may have any set of them; of more, neighbours


class Bound(Enum):
    """How compute buffers are counted where they were not replayed."""

    FLOOR = "floor"  # no more than at any context as large
    AT_LEAST = "at_least"  # no more than at this context
    PROBABLY = "probably"  # a guess


class Option(NamedTuple):
    """A split, and the bytes that it takes of each card."""

    sizes: tuple[int, ...]
    split: Split


class Divided(NamedTuple):
    """One model that is divided: its cards, and what each split takes of them."""

    cards: tuple[int, ...]
    options: Sequence[Option]


def fewest(options: Sequence[Option]) -> list[Option]:
    """Leave out of options over two cards those that take as much of both as another."""
    found = list[Option]()
    for option in sorted(options, key=lambda o: o.sizes):
        if not found or option.sizes[1] < found[-1].sizes[1]:
            found.append(option)
    return found


def fits(sizes: Sequence[int], rooms: Sequence[int]) -> bool:
    """Tell whether each card has so much room; a card that is not used needs none."""
    return all(size <= room or not size for size, room in zip(sizes, rooms, strict=True))


@dataclass(slots=True, eq=False)
class Spot:
    """One model on the cards `cards` (indexes of the machine's), and what is known of it there.

    `sizes` and `hosts` are what was replayed; `company` is what is loaded beside the model at contexts that were asked for:
    exactly, and no more than at any context as large.
    """

    cards: tuple[int, ...]
    question: Question
    sizes: dict[tuple[Split, int], tuple[int, ...]] = field(default_factory=dict)
    hosts: dict[tuple[Split, int], int] = field(default_factory=dict)
    company: dict[bool, dict[int, CompanyBytes]] = field(default_factory=lambda: {True: {}, False: {}})
    listed: dict[tuple[int, Bound], list[Option]] = field(default_factory=dict)
    lowest: dict[tuple[int, Bound], int] = field(default_factory=dict)

    @property
    def split_is_known(self) -> bool:
        """Whether there is one split only."""
        return len(self.cards) < 2 or not self.question.split_is_free

    @property
    def follows(self) -> bool:
        """Whether what is loaded beside the model is divided as the model is."""
        draft = company_of(self.question.model).draft
        divided = draft is not None and len(draft.devices or ()) > 1
        return len(self.cards) > 1 and (divided or predicts(self.question.settings))

    @property
    def is_filled(self) -> bool:
        """Whether some split puts something on each of its cards."""
        alone = len(self.cards) < 2 or company_of(self.question.model).takes_room
        return alone or self._last - self._first >= len(self.cards) or split_is_given(self.question.settings)

    def only(self) -> Split:
        """Return the layers on each card where there is one split only."""
        if not self.cards:
            return ()
        return self.question.given_split() or (self._last - self._first,)

    @property
    def _first(self) -> int:
        return self.question.segments().first

    @property
    def _last(self) -> int:
        return self.question.segments().last

    def splits(self) -> Iterator[Split]:
        """List the splits of the layers over the cards: each card has some, unless something else is loaded there."""
        if self.split_is_known:
            yield self.only()
            return
        least = 0 if company_of(self.question.model).takes_room else 1
        parts = len(self.cards)
        n = self._last - self._first - least * parts
        for ends in combinations(range(n + parts - 1), parts - 1) if n >= 0 else ():
            marks = (-1, *ends, n + parts - 1)
            yield tuple(b - a - 1 + least for a, b in pairwise(marks))

    def options(self, n_ctx: int, bound: Bound) -> list[Option]:
        """List what each split takes, but for those that take as much of every card as another."""
        if (n_ctx, bound) not in self.listed:
            found = [Option(self.taken(split, n_ctx, bound), split) for split in self.splits()]
            self.listed[n_ctx, bound] = fewest(found) if len(self.cards) == 2 else found
        return self.listed[n_ctx, bound]

    def least(self, n_ctx: int, bound: Bound) -> int:
        """Count no more bytes than it takes of all its cards together under any split."""
        if (n_ctx, bound) not in self.lowest:
            self.lowest[n_ctx, bound] = self._least(n_ctx, bound)
        return self.lowest[n_ctx, bound]

    def _least(self, n_ctx: int, bound: Bound) -> int:
        if len(self.cards) == 2:
            return min((sum(o.sizes) for o in self.options(n_ctx, bound)), default=0)
        segments, cards = self.question.segments(), range(len(self.cards))
        fixed = min((segments.fixed(i, self._first, self._last, n_ctx) for i in cards), default=0)
        if company_of(self.question.model).takes_room:  # a card may have none of its layers
            return fixed + sum(self._beside(n_ctx, Bound.FLOOR).taken)
        layers = range(self._first, self._last)
        return fixed + sum(min(segments.floor(i, at, at + 1, n_ctx) for at in layers) for i in cards)

    def taken(self, split: Split, n_ctx: int, bound: Bound) -> tuple[int, ...]:
        """Count what a split takes of each card, compute buffers as `bound` says; exactly where it was learned, but for floors."""
        if bound is not Bound.FLOOR and (split, n_ctx) in self.sizes:
            return self.sizes[split, n_ctx]
        if not self.cards:
            return ()
        segments, found, start = self.question.segments(), list[int](), self._first
        compute: Callable[[int, int, int, int], int] = getattr(segments, bound.value)
        for device, count in enumerate(split):
            end = start + count
            found.append(segments.fixed(device, start, end, n_ctx) + compute(device, start, end, n_ctx))
            start = end
        if not self.follows:
            found = [a + b for a, b in zip(found, self._beside(n_ctx, bound).taken, strict=True)]
        card, pooled = self._pooled(n_ctx)
        if card is not None:
            found[card] += pooled
        return tuple(found)

    def _beside(self, n_ctx: int, bound: Bound) -> CompanyBytes:
        """What is loaded beside the model, from what is known; nothing where nothing is."""
        exact, least = self.company[False], self.company[True]
        if bound is not Bound.FLOOR and n_ctx in exact:
            return exact[n_ctx]
        if bound is Bound.PROBABLY and exact:
            return exact[min(exact, key=lambda n: abs(n - n_ctx))]
        below = max((n for n in least if n <= n_ctx), default=None)
        none = (0,) * len(self.cards)
        return CompanyBytes(none, none, 0) if below is None else least[below]

    def _pooled(self, n_ctx: int) -> tuple[int | None, int]:
        """What of the host's counts against the memory of which card, by its place among the spot's."""
        if not any(g.unified for g in self.question.gpus):
            return None, 0
        needs = self.question.beside().needs(n_ctx)
        return needs.card, needs.pooled

    def held(self, split: Split | None, n_ctx: int, bound: Bound = Bound.AT_LEAST) -> int:
        """Count what it needs of the host; without compute buffers there where they are not known."""
        if split is not None and bound is not Bound.FLOOR and (split, n_ctx) in self.hosts:
            return self.hosts[split, n_ctx]
        return self.question.beside().needs(n_ctx).held + self._beside(n_ctx, bound).host

    def learn(self, split: Split, n_ctx: int) -> tuple[int, ...]:
        """Replay a split at a context, and return what it takes of each card: exactly as `plan` counts it."""
        key, q = (split, n_ctx), self.question
        if key in self.sizes:
            return self.sizes[key]
        self._forget()
        if self.follows:
            q.assumed = split
        if not q.is_alone:
            self.company[False][n_ctx] = q.company(n_ctx, most=False)
        if self.cards:
            q.segments().learn(split, n_ctx)
        compute = q.beside().compute(split, n_ctx)
        found = list(self.taken(split, n_ctx, Bound.AT_LEAST))
        if self.follows:
            found = [a + b for a, b in zip(found, self.company[False][n_ctx].taken, strict=True)]
        card, _ = self._pooled(n_ctx)
        if card is not None:
            found[card] += compute
        self.hosts[key] = self.held(None, n_ctx, Bound.AT_LEAST) + compute
        self.sizes[key] = tuple(found)
        return self.sizes[key]

    def _forget(self) -> None:
        """Forget what follows from what is known: more is known now."""
        self.listed.clear()
        self.lowest.clear()

    def has_floors(self, split: Split, n_ctx: int) -> bool:
        """Whether floors of a split are known at a context."""
        beside = self.follows or self.question.is_alone or n_ctx in self.company[True]
        return beside and (not self.cards or self.question.segments().has_floors(split, n_ctx))

    def learn_floors(self, split: Split, n_ctx: int) -> None:
        """Learn the floors of a split at a context."""
        self._forget()
        if not self.follows and not self.question.is_alone:
            self.company[True][n_ctx] = self.question.company(n_ctx, most=True)
        segments = self.question.segments()
        if self.cards and not segments.has_floors(split, n_ctx):
            segments.learn_floors(split, n_ctx)
        for short in self._short() if len(self.cards) > 2 and not self.split_is_known else ():
            if not segments.has_floors(short, n_ctx):
                segments.learn_floors(short, n_ctx)

    def _short(self) -> Iterator[Split]:
        """List splits with one layer on each card but one: no run of layers has less alive than its layers have."""
        rest = self._last - self._first - len(self.cards) + 1
        for device in range(len(self.cards)) if rest > 0 else ():
            yield tuple(rest if i == device else 1 for i in range(len(self.cards)))

    def walk(self, rooms: Sequence[int], n_ctx: int, bound: Bound) -> Split | None:
        """Find a split that fits so much room on each of its cards, compute buffers as `bound` says."""
        card, pooled = self._pooled(n_ctx)
        less = [*self._beside(n_ctx, bound).taken]
        if card is not None:
            less[card] += pooled
        if any(size > room for size, room in zip(less, rooms, strict=True) if size):
            return None
        segments = self.question.segments()
        room = [r - size for r, size in zip(rooms, less, strict=True)]
        compute = cache(getattr(segments, bound.value))
        return Chains(segments, room, self.question.given_split()).find(compute, n_ctx)


def spots(
    model: Model, settings: Settings, gpus: Sequence[Gpu], host: Host | None, learned: Learned
) -> tuple[Spot, ...]:
    """List the sets of cards that a model may have, each with what is beside it; fewest cards first."""
    model, found = loaded(model, settings), list[Spot]()
    for cards in _sets(model, settings, gpus):
        own = [gpus[i] for i in cards]
        told = replace(settings, main_gpu=0) if settings.split_mode == "none" and cards else settings
        for variant in _variants(model, len(cards), len(gpus)):
            spot = Spot(cards, Question(variant, own, told, 0, learned, host))
            if not found or spot.is_filled:
                found.append(spot)
    return tuple(found)


def _sets(model: Model, settings: Settings, gpus: Sequence[Gpu]) -> Sequence[tuple[int, ...]]:
    """List sets of cards, by their indexes: all of them, but where the settings or what is beside the model name cards."""
    every = tuple(range(len(gpus)))
    found = _named_sets(every, model, settings, gpus)
    return [
        cards for cards in found if any(gpus[i].free for i in cards)
    ] or found  # a full card holds nothing


def _named_sets(
    every: tuple[int, ...], model: Model, settings: Settings, gpus: Sequence[Gpu]
) -> Sequence[tuple[int, ...]]:
    if settings.split_mode == "none" and gpus:
        return [devices(gpus, settings)]
    if len(gpus) < 2 or split_is_given(settings) or _names_cards(company_of(model)):
        return [every]
    if len(gpus) > ALL_SETS:
        return [every[a : a + n] for n in range(1, len(gpus) + 1) for a in range(len(gpus) - n + 1)]
    return [cards for n in range(1, len(gpus) + 1) for cards in combinations(every, n)]


def _names_cards(company: Company) -> bool:
    """Whether a draft or a projector is told its cards."""
    draft, encoder = company.draft, company.encoder
    return bool((draft and draft.devices) or (encoder and encoder.device is not None))


def _variants(model: Model, n_cards: int, n_all: int) -> Iterator[Model]:
    """The model with a draft and a projector that are told their cards: each card that it has for the draft, the first for the projector."""
    company = company_of(model)
    if not company.takes_room or n_all < 2 or not n_cards or _names_cards(company):
        yield model
        return
    draft, encoder = company.draft, company.encoder
    if encoder is not None and encoder.offload:
        encoder = replace(encoder, device=0)
    for at in _for_draft(draft, n_cards):
        told = draft if draft is None or at is None else replace(draft, devices=at)
        yield replace(model, company=replace(company, draft=told, encoder=encoder))


def _for_draft(draft: Draft | None, n_cards: int) -> Iterator[tuple[int, ...] | None]:
    """List the cards that a draft may be told: each of its model's, or all of them where it reads what lies there; None: none need be."""
    if draft is None or draft.devices == ():
        yield None
    elif reads_target(draft.model):
        yield tuple(range(n_cards))
    else:
        yield from ((i,) for i in range(n_cards))
