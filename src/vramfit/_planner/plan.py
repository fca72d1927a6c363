"""Find the largest context that is safe, and the split of the layers that holds it.

In: `Model`, cards, `Settings`, a margin. Out: a `Plan`. The engine places layers in order, so a split
is a chain of segments, one a card; `search` finds the best chain, with compute buffers counted as
`compute` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, cast

from .._base.errors import SettingsError
from .._base.given import call
from .._base.shown import Drawn
from .._coerce import (
    AUTO,
    AnyGpus,
    AnyHost,
    AnyModel,
    AnySettings,
    cards,
    host_of,
    margin,
    model_of,
    settings_of,
    shown,
)
from .._coerce import max_ctx as limit
from .._devices import Gpu, Host, assumed
from .._estimate.estimate import DeviceEstimate, Estimate
from .._llama.cparams import physical_batch, resolve
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.speculation import loaded, predicts
from .host import host_warnings, lent_warnings
from .question import Question, chosen, contexts, estimated
from .search import Chains, Split, largest, least_short
from .segments import Learned
from .warnings import context_warnings, margin_warning, pool_warning, settings_warnings, wired_warnings

if TYPE_CHECKING:
    from .link import Link

__all__ = ["DEFAULT_MARGIN", "Plan", "carries", "host_holds", "in_rounds", "may_carry", "plan"]

DEFAULT_MARGIN: Final = 1 << 30  # what llama.cpp's --fit-target leaves on each device
REQUEST: Final = "the context asked for"  # what `limited_by` may say beside the name of a card
TRAINED: Final = "the trained context"
MAX_CTX: Final = "max_ctx"
_ROUNDS: Final = 4  # in which splits are tried that a draft is divided like


@dataclass(frozen=True, slots=True)
class Plan(Drawn):
    """The answer: a context, the split that holds it, and what keeps it from being larger.

    `fits` is false when not even the smallest context (or the one asked for) leaves the margin on
    every card; `estimate` then shows that context under the best split found, and `shortfall` how many
    bytes are missing on the card that is shortest. `limited_by` is what keeps the context from being larger: the
    request, the trained context, `max_ctx`, or a card by the name that `estimate` gives it; where it does not fit,
    the card that is shortest. A `host` of known memory is judged as a card is, by the name "host". `asked` is what the
    caller fixed of `settings`: without a context or split of its own where these were found.
    """

    model: Model = field(repr=False)
    n_ctx: int
    fits: bool
    limited_by: str
    tensor_split: tuple[int, ...]  # layers on each card, as the engine takes them
    settings: Settings
    estimate: Estimate
    margin_bytes: int
    shortfall: int = 0
    warnings: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = field(default=(), repr=False)
    host: Host | None = field(default=None, repr=False)  # None: its memory is not known
    asked: Settings = field(
        default_factory=Settings, repr=False, compare=False
    )  # `settings` before the choice

    def command(self, engine: str = "llama-server") -> str:
        """Return what to run for this plan in `engine`, as text.

        Raises `SettingsError` for an unknown engine and for settings that it cannot be told.
        """
        return cast(str, call("command", self, engine))

    def link(self) -> Link | None:
        """What the network between the machines of this plan carries; None where all cards are in one."""
        if not any(g.remote for g in self.gpus):
            return None
        from .link import link  # plans on one machine, which are most, need none of it

        return link(self.model, self.gpus, self.settings, self.estimate.placement)

    def modelfile(self, engine: str = "ollama") -> str:
        """Write an Ollama Modelfile for this plan. Raises as `command` does."""
        return cast(str, call("modelfile", self, engine))


def plan(
    model: AnyModel,
    gpus: AnyGpus = AUTO,
    settings: AnySettings = None,
    *,
    margin_bytes: int | str = DEFAULT_MARGIN,
    max_ctx: int | str | None = None,
    host: AnyHost = None,
    learned: Learned | None = None,
) -> Plan:
    """Find the largest context of one model that leaves the margin on every card and a known `host`; arguments as of `any_plan.plan`."""
    model, gpus, settings = model_of(model), cards(gpus), settings_of(settings)
    margin_bytes, max_ctx, host = margin(margin_bytes), limit(max_ctx), host_of(host, gpus)
    if learned is not None and not isinstance(learned, dict):
        raise SettingsError(f"learned={shown(learned)}: give a dict, or None")
    said = settings_warnings(model, settings)
    if settings.n_ubatch > settings.n_batch:  # as `said` says
        settings = replace(settings, n_ubatch=physical_batch(settings))
    model = loaded(model, settings)
    candidates = contexts(model, settings, max_ctx)
    question = Question(model, gpus, settings, margin_bytes, {} if learned is None else learned, host)
    found = _answer(question, candidates)
    n_ctx, split = found or (candidates[0], _shown(question, candidates[0]))
    settled = chosen(question, n_ctx, split)
    result = estimated(question, settled)
    shortest = _shortest(result)
    # what is loaded beside the model may be on a card that the model does not use
    fits = found is not None and (not result.company or shortest is None or shortest.left >= margin_bytes)
    limited_by = _limit(question, max_ctx, result, candidates) if fits else _name(shortest)
    return Plan(
        model=model,
        n_ctx=result.n_ctx,
        fits=fits,
        limited_by=limited_by,
        tensor_split=tuple(g.layers for g in result.gpus),
        settings=settled,
        estimate=result,
        margin_bytes=margin_bytes,
        shortfall=0 if fits or shortest is None else max(0, margin_bytes - shortest.left),
        warnings=(*said, *_warnings(question, result, limited_by)),
        gpus=tuple(gpus),
        host=host,
        asked=settings,
    )


def carries(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    *,
    margin_bytes: int = DEFAULT_MARGIN,
    learned: Learned | None = None,
    host: Host | None = None,
) -> bool:
    """Tell whether the context asked for fits, as `plan` does, without the work to say anything else."""
    model, known = loaded(model, settings), {} if learned is None else learned
    question = Question(model, gpus, settings, margin_bytes, known, host)
    return _answer(question, contexts(model, settings, None)) is not None


def host_holds(
    model: Model, gpus: Sequence[Gpu], settings: Settings, *, margin_bytes: int, host: Host | None
) -> bool:
    """Whether the host has room for all but compute buffers at the context asked for: what any plan needs there."""
    question = Question(loaded(model, settings), gpus, settings, margin_bytes, {}, host)
    return question.beside().has_room(settings.n_ctx)


def may_carry(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    *,
    margin_bytes: int,
    learned: Learned,
    less: float = 0,
    host: Host | None = None,
) -> bool:
    """Guess what `carries` would say: take compute buffers to be as under other settings, or by a part `less`."""
    q = Question(loaded(model, settings), gpus, settings, margin_bytes, learned, host)
    beside = q.beside()
    if beside.counts and not beside.has_room(settings.n_ctx):
        return False
    if not q.used:
        return True
    chains = q.chains(settings.n_ctx)

    def hoped(device: int, start: int, end: int, n_ctx: int) -> int:
        return int(chains.segments.probably(device, start, end, n_ctx) * (1 - less))

    return chains.find(hoped, settings.n_ctx) is not None


def _answer(q: Question, candidates: range) -> tuple[int, Split | None] | None:
    """Find the largest context that fits, in tokens, and its split, in layers; without a card an unknown host takes them all."""
    if not q.used and not q.beside().counts:
        return candidates[-1], None
    found = _largest(q, candidates)
    if not q.split_is_free:
        return found
    if in_rounds(q):
        found = _settled(q, candidates, found[1] if found else _least_short(q, candidates[0]))
    remote = [q.gpus[i].remote for i in q.used]
    if found is not None and any(remote) and not q.beside().counts:
        found = found[0], _nearer(q, remote, *found)
    if found is not None:
        q.assumed = found[1]
    return found


def _largest(q: Question, candidates: range, only: Split | None = None) -> tuple[int, Split] | None:
    """Find the largest context that fits cards and a known host, and its split; `only` is the one split to try."""
    beside = q.beside()
    if beside.counts:
        return (beside if only is None else replace(beside, only=only)).largest(candidates)
    chains = q.chains(candidates[0])
    return largest(chains if only is None else chains._replace(only=only), candidates)


def in_rounds(q: Question) -> bool:
    """Tell whether what a card takes beside the model depends on the whole split: no search knows that run by run."""
    if q.is_alone or not q.split_is_free or q.paired() is not None:
        return False
    from .._company import company_of

    draft = company_of(q.model).draft
    if draft is None:
        return predicts(q.settings)
    return draft.devices is None or len(draft.devices) > 1


def _rounds_warning(q: Question, limit: str) -> tuple[str, ...]:
    """Say that the split may not be the best, where it was sought in rounds and a card limits the context."""
    if limit in (REQUEST, TRAINED, MAX_CTX) or not in_rounds(q) or q.segments().first == q.segments().last:
        return ()
    return (
        "what is beside the model on a card depends on the whole split here, so that the split was sought in rounds: another"
        " may hold a larger context, which --tensor-split tries",
    )


def _settled(q: Question, candidates: range, split: Split) -> tuple[int, Split] | None:
    """Find an answer in rounds: no better split was found for what a draft is divided like. There may be better ones."""
    for _ in range(_ROUNDS):
        q.assumed = split
        better = _largest(q, candidates)
        if better is None or better[1] == split:
            break
        split = better[1]
    q.assumed = split
    return _largest(q, candidates, split)


def _nearer(q: Question, remote: Sequence[bool], n_ctx: int, split: Split) -> Split:
    """Find a split with less on other machines, which carries the context with a draft divided like it, too."""
    from .nearer import nearer

    found = nearer(q.chains(n_ctx), remote, n_ctx, split)
    if found == split or not in_rounds(q):
        return found
    q.assumed = found
    if _largest(q, range(n_ctx, n_ctx + 1), found) is None:
        q.assumed = found = split
    return found


def _least_short(q: Question, n_ctx: int) -> Split:
    return least_short(q.chains(n_ctx), n_ctx)


def _shown(q: Question, n_ctx: int) -> Split | None:
    """Choose the split to show where none fits: the one that lacks least, or the last of those tried in rounds."""
    if not q.split_is_free:
        return None
    return (q.assumed if in_rounds(q) else None) or _least_short(q, n_ctx)


def _shortest(result: Estimate) -> DeviceEstimate | None:
    """Find the card with the least left of those in use, or a host that is known."""
    return min((d for d in (*result.gpus, result.host) if d.is_judged), key=lambda d: d.left, default=None)


def _name(shortest: DeviceEstimate | None) -> str:
    return shortest.name if shortest else "memory"


def _limit(q: Question, max_ctx: int | None, result: Estimate, candidates: range) -> str:
    """Name what keeps a context that fits from being larger."""
    if q.settings.n_ctx:
        return REQUEST
    if result.n_ctx >= candidates[-1]:
        return TRAINED if max_ctx is None else MAX_CTX
    further = result.n_ctx + candidates.step
    if not q.used or q.beside().is_full([result.gpus[i].layers for i in q.used], further):
        return result.host.name
    return result.gpus[_full(q, result, further)].name


def _full(q: Question, result: Estimate, n_ctx: int) -> int:
    """Find the index of the card that the next context would overfill under the same split.

    That is not always the one with the least left: of a card without a layer that caches, nothing more is taken.
    """
    if len(q.used) == 1:
        return q.used[0]
    split = [result.gpus[i].layers for i in q.used]
    at_least = min(_spare(q, q.segments().at_least_each(split, n_ctx), n_ctx), default=(0, 0))
    if at_least[0] < 0:
        return at_least[1]
    return min(_spare(q, q.segments().learn(split, n_ctx), n_ctx))[1]


def _spare(q: Question, sizes: Sequence[int], n_ctx: int) -> list[tuple[int, int]]:
    """List the bytes left on each card that is used when they take this much, with its index."""
    rooms = q.room() if q.is_alone else Chains(q.segments(), q.room(), None, q.company).rooms(n_ctx)
    return [(room - size, i) for room, size, i in zip(rooms, sizes, q.used, strict=True) if size]


def _wired(q: Question, result: Estimate, limit: str) -> tuple[str, ...]:
    """Say how the limit of a Mac, or of Linux beside a chip of AMD's, is raised where it is what limits."""
    for gpu, card in zip(q.gpus, result.gpus, strict=True):
        if card.name == limit:
            needed = card.total + card.beside + q.margin
            return (*wired_warnings(gpu, needed), *lent_warnings(gpu, needed))
    return ()


def _encoder_warnings(q: Question) -> tuple[str, ...]:
    from .._company import company_of
    from .._company.encoders import encoder_warnings
    from .._estimate.company import encoder_reserve

    encoder = company_of(q.model).encoder
    return () if encoder is None else encoder_warnings(q.model, encoder_reserve(encoder, q.gpus, q.settings))


def _warnings(q: Question, result: Estimate, limit: str) -> tuple[str, ...]:
    """List the warnings of an answer: of the model, the cards, the context and the margin."""
    model, gpus, found = q.model, q.gpus, list[str]()
    if model.assumed:
        found.append(f"the architecture is unknown; planned as {model.assumed}, which may be wrong")
    if model.unknown_tensors:
        found.append(
            f"the engine has no use for {', '.join(model.unknown_tensors[:3])}"
            f" ({len(model.unknown_tensors)} tensors) and may refuse this file"
        )
    if model.company is not None or q.settings.spec_type != "none":
        from .._company.drafts import speculation_warnings

        found += speculation_warnings(model, q.settings)
        found += _encoder_warnings(q)
    found += assumed(gpus)
    found += _rounds_warning(q, limit)
    found += context_warnings(model, result.n_ctx_seq)
    found += pool_warning(model, resolve(model, result.settings), [g.backend for g in gpus])
    found += host_warnings(result, q.margin)
    found += margin_warning({d.name: g for g, d in zip(gpus, result.gpus, strict=True) if d.total}, q.margin)
    return (*found, *_wired(q, result, limit))
