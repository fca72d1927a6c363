"""What is loaded beside a model, in bytes on each card: a draft's weights, caches and buffers.

In: a model with `company`, cards, the settings that it runs with. Out: `Companion`s, one for each part of its company.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .._company import Draft, Encoder, company_of
from .._company.drafts import draft_cards, draft_settings, is_tapped, kept_for_draft, kept_on_host, taps_of
from .._company.encoders import encoder_card
from .._company.lent import lend, reads_target
from .._devices import Gpu, Host
from .._ggml.galloc import most_alive
from .._graphs import Unbuildable
from .._llama.cparams import resolve
from .._llama.eras import era_of, rules_of
from .._llama.host_memory import shared_card
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import devices, place, split_is_given
from .._llama.speculation import blocks_of, loaded, next_tokens, predicts
from .._mtmd import Reserve, reserve
from .compute import compute_bytes
from .later_blocks import GROWS, later_blocks
from .reserve import prepare_case, reservations

if TYPE_CHECKING:
    from .estimate import DeviceEstimate, Estimate

__all__ = [
    "Companion",
    "CompanyBytes",
    "Divided",
    "Estimator",
    "Terms",
    "companions",
    "company_apart",
    "company_at_least",
    "company_bytes",
    "divided",
    "drafting_beside",
    "encoder_reserve",
]


class Terms(NamedTuple):
    """Bytes on one device, by the engine's terms; `beside` is as in `DeviceEstimate`, and none of them."""

    model: int = 0
    context: int = 0
    compute: int = 0
    beside: int = 0

    @property
    def total(self) -> int:
        """Bytes of all three."""
        return self.model + self.context + self.compute

    @property
    def taken(self) -> int:
        """Bytes that count against the device's memory."""
        return self.total + self.beside


@dataclass(frozen=True, slots=True)
class Companion:
    """What one part of a model's company takes: on each card, and on the host.

    `kind` is "draft", "projector", ...; `note` says why the bytes are not known to be exact, "" where they are.
    """

    kind: str
    name: str
    gpus: tuple[Terms, ...]
    host: Terms
    note: str = ""

    @property
    def total(self) -> int:
        """Bytes on all cards and the host."""
        return sum(t.total for t in self.gpus) + self.host.total

    @property
    def exact(self) -> bool:
        """Whether the bytes are those that the engine allocates."""
        return not self.note


class Estimator(Protocol):
    """`estimate`, which this module cannot import."""

    def __call__(
        self,
        model: Model,
        gpus: Sequence[Gpu],
        settings: Settings,
        *,
        bound: bool = False,
        host: Host | None = None,
    ) -> Estimate:
        """Count what a model allocates."""


def companions(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    n_ctx: int,
    taken: Sequence[int],
    estimator: Estimator,
    host: Host | None = None,
) -> tuple[Companion, ...]:
    """Count all parts of a model's company, when the model itself has taken so many bytes of each card.

    `n_ctx` is the model's context after padding; `estimator` estimates a draft as any other model.
    """
    company, found = company_of(model), list[Companion]()
    if company.draft is not None:
        drafting = _draft(model, company.draft, gpus, settings, n_ctx, taken, estimator, host)
        tapped = is_tapped(settings)
        found.append(
            _keeping(drafting, model, company.draft.model, gpus, settings, n_ctx) if tapped else drafting
        )
    elif predicts(settings):
        found.append(_next_tokens(model, gpus, settings, n_ctx, estimator, host))
    if company.encoder is not None:
        found.append(_encoder(company.encoder, gpus, settings))
    return tuple(found)


def _shared(gpus: Sequence[Gpu], settings: Settings) -> int | None:
    """Find the card that has the system's memory, by its index: what is on the host counts against it, too."""
    used = devices(gpus, settings)
    found = shared_card([gpus[i] for i in used])
    return None if found is None else used[found]


def encoder_reserve(encoder: Encoder, gpus: Sequence[Gpu], settings: Settings) -> Reserve:
    """What the engine allocates for a projector."""
    at = encoder_card(encoder, gpus)
    rules = None if at is None else rules_of(gpus[at], era_of(settings.engine_build))
    return reserve(encoder.projector, rules, settings.flash_attn, encoder.max_tokens)


def _encoder(encoder: Encoder, gpus: Sequence[Gpu], settings: Settings) -> Companion:
    found, at = encoder_reserve(encoder, gpus, settings), encoder_card(encoder, gpus)
    here = Terms(found.weights, 0, found.compute)
    host = here if at is None else Terms(compute=found.host)
    shared = _shared(gpus, settings)
    terms = [here if i == at else Terms() for i in range(len(gpus))]
    if shared is not None:
        terms[shared] = terms[shared]._replace(beside=host.total)
    name = encoder.projector.name or encoder.projector.source
    return Companion("projector", name, tuple(terms), host, found.note)


class CompanyBytes(NamedTuple):
    """Bytes that a model's company takes of each card, what counts `beside` them there, and of the host."""

    gpus: tuple[int, ...]
    beside: tuple[int, ...]
    host: int

    @property
    def taken(self) -> tuple[int, ...]:
        """Bytes of each card's memory that are the company's."""
        return tuple(size + beside for size, beside in zip(self.gpus, self.beside, strict=True))


def company_bytes(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    n_ctx: int,
    estimator: Estimator,
    host: Host | None = None,
) -> CompanyBytes:
    """Count what a model's company takes beside a context of `n_ctx` tokens."""
    found = companions(model, gpus, settings, n_ctx, [0] * len(gpus), estimator, host)
    cards = range(len(gpus))
    return CompanyBytes(
        tuple(sum(c.gpus[i].total for c in found) for i in cards),
        tuple(sum(c.gpus[i].beside for c in found) for i in cards),
        sum(c.host.taken for c in found),
    )


def company_at_least(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    n_ctx: int,
    estimator: Estimator,
    host: Host | None = None,
) -> CompanyBytes:
    """Count no more than `company_bytes` says at this context or any larger one.

    Weights and caches never shrink as the context grows, nor does what is alive in a buffer at once.
    """
    draft = company_of(model).draft or (_own(model) if predicts(settings) else None)
    taken = company_bytes(model, gpus, settings, n_ctx, estimator, host)
    if draft is None:
        return taken
    found = companions(model, gpus, settings, n_ctx, [0] * len(gpus), estimator, host)[0]
    lowest, beside, shared = list(taken.gpus), list(taken.beside), _shared(gpus, settings)
    for i, kept in _alive(model, draft, gpus, settings, n_ctx):
        lowest[i] -= max(0, found.gpus[i].compute - kept)  # what is kept besides is left out
    if shared is not None:
        beside[shared] -= found.host.compute
    return CompanyBytes(tuple(lowest), tuple(beside), taken.host - found.host.compute)


class Divided(NamedTuple):
    """A model whose layers are divided over all cards by the shares of another, and the settings that it runs with."""

    model: Model
    settings: Settings
    is_own: bool  # whether it is the context of the other model's own next-token layers, whose weights count there


def divided(model: Model, gpus: Sequence[Gpu], settings: Settings) -> Divided | None:
    """Find what is loaded beside a model and divided over all `gpus` as it is; None where nothing is.

    Nor where its bytes on a card hang on more of a split than that card's layers: on where what it reads of the model lies,
    where layers are that it is handed the inputs of, or where further next-token blocks run.
    """
    draft = company_of(model).draft
    if predicts(settings) and len(blocks_of(loaded(model if draft is None else draft.model, settings))) > 1:
        return None
    if draft is not None and draft_cards(draft, gpus) == tuple(range(len(gpus))):
        tapped = is_tapped(settings) and taps_of(model, draft.model)
        if tapped or reads_target(draft.model):
            return None
        return Divided(_drafting(draft.model, settings), draft_settings(draft, settings, 0), is_own=False)
    if draft is None and predicts(settings):
        return Divided(_drafting(model, settings), _own_settings(model, settings, 0), is_own=True)
    return None


def company_apart(model: Model, gpus: Sequence[Gpu], settings: Settings) -> CompanyBytes:
    """Count what a model's company takes of the cards beside what is `divided`: the same under every split, at every context."""
    company, used = company_of(model), devices(gpus, settings)
    kept = kept_for_draft(model, settings) if company.draft is not None else 0
    sizes = [kept if i in used else 0 for i in range(len(gpus))]
    if company.encoder is not None:
        terms = _encoder(company.encoder, gpus, settings).gpus
        sizes = [size + t.total for size, t in zip(sizes, terms, strict=True)]
    return CompanyBytes(tuple(sizes), (0,) * len(gpus), 0)


def _alive(
    model: Model, draft: Draft, gpus: Sequence[Gpu], settings: Settings, n_ctx: int
) -> Iterable[tuple[int, int]]:
    """List what is alive at once in a draft's buffer on each card that it uses; nothing where its buffers never shrink."""
    at, own = draft_cards(draft, gpus), draft_settings(draft, settings, n_ctx)
    if company_of(model).draft is None:
        own = _own_settings(model, settings, n_ctx)
    drafting = drafting_beside(model, draft, gpus, settings, own)
    offered = [gpus[i] for i in at]
    used = devices(offered, own)
    context = resolve(drafting, own)
    rules = [rules_of(offered[i], era_of(own.engine_build)) for i in used]
    try:
        case = prepare_case(drafting, place(drafting, offered, own), context, rules)
        alive: Sequence[int] = most_alive(case.graph(reservations(case, context)[-1])[1])
    except Unbuildable:
        if not predicts(settings):  # its buffers are a formula that never falls
            return ()
        alive = (0,) * len(used)
    return [(at[i], alive[device]) for device, i in enumerate(used)]


def _draft(
    model: Model,
    draft: Draft,
    gpus: Sequence[Gpu],
    settings: Settings,
    n_ctx: int,
    taken: Sequence[int],
    estimator: Estimator,
    host: Host | None,
) -> Companion:
    at, own = draft_cards(draft, gpus), draft_settings(draft, settings, n_ctx)
    offered, note = [gpus[i] for i in at], ""
    if len(devices(offered, own)) > 1 and not split_is_given(own):
        offered = [replace(g, free_bytes=max(0, g.free - taken[i])) for i, g in zip(at, offered, strict=True)]
        note = "its layers are divided by the memory that the model leaves free"
    found = estimator(drafting_beside(model, draft, gpus, settings, own), offered, own, host=host)
    more = (0,) * (len(at) + 1)
    if predicts(settings):
        more = _growth(loaded(draft.model, settings), offered, own, found, estimator)
    terms = {i: _terms(d, n, more[-1]) for i, d, n in zip(at, found.gpus, more[:-1], strict=True)}
    on_host = _terms(found.host, more[-1])
    shared = _shared(gpus, settings)
    if shared is not None and shared_card([offered[i] for i in devices(offered, own)]) is None:
        terms[shared] = terms.get(shared, Terms())._replace(beside=on_host.taken)
    return Companion(
        "draft",
        draft.model.name or draft.model.architecture,
        tuple(terms.get(i, Terms()) for i in range(len(gpus))),
        on_host,
        "; ".join(
            n for n in (note, "" if found.exact else found.compute_note, GROWS if any(more) else "") if n
        ),
    )


class _Kept(NamedTuple):
    """Bytes that a model keeps of its layers for a draft: on each card in use, and on the host."""

    gpus: tuple[int, ...]
    host: int
    note: str = ""


def _keeping(
    found: Companion, model: Model, draft: Model, gpus: Sequence[Gpu], settings: Settings, n_ctx: int
) -> Companion:
    """The same with what the model keeps for its draft, on each card that it uses and the host."""
    kept = _kept(model, draft, gpus, replace(settings, n_ctx=n_ctx))
    more = dict(zip(devices(gpus, settings), kept.gpus, strict=True))
    shared = _shared(gpus, settings)
    terms = tuple(
        t._replace(
            compute=t.compute + more.get(i, 0),
            beside=t.beside + (kept.host if i == shared else 0),
        )
        for i, t in enumerate(found.gpus)
    )
    host = found.host._replace(compute=found.host.compute + kept.host)
    return replace(found, gpus=terms, host=host, note="; ".join(n for n in (found.note, kept.note) if n))


def _kept(model: Model, draft: Model, gpus: Sequence[Gpu], settings: Settings) -> _Kept:
    """What the model's buffers grow by where inputs of layers are outputs: reserved again, which a draft asks for."""
    taps, context = taps_of(model, draft), resolve(model, settings)
    used = devices(gpus, settings)
    rules = [rules_of(gpus[i], era_of(settings.engine_build)) for i in used]
    placement = place(model, gpus, settings)
    if taps:
        plain = compute_bytes(model, placement, context, rules)
        tapped = compute_bytes(model, placement, context._replace(taps=taps), rules)
        if plain.exact and tapped.exact:
            grown = (max(0, a - b) for a, b in zip(tapped.gpus, plain.gpus, strict=True))
            host = max(0, tapped.host - plain.host) + kept_on_host(model, context.n_batch, len(taps))
            return _Kept(tuple(grown), host)
    most = kept_for_draft(model, settings)
    note = "what the model keeps of its layers for the draft is an upper bound"
    return _Kept((most,) * len(used), most + kept_on_host(model, settings.n_batch), note)


def _drafting(draft: Model, settings: Settings) -> Model:
    """A draft as its context sees it: whole, or as its next-token-prediction blocks where these are to draft."""
    return next_tokens(loaded(draft, settings)) if predicts(settings) else draft


def drafting_beside(
    model: Model, draft: Draft, gpus: Sequence[Gpu], settings: Settings, own: Settings
) -> Model:
    """A draft as its context sees it, with what it reads of the model where that lies."""
    if not reads_target(draft.model):
        return _drafting(draft.model, settings)
    at = draft_cards(draft, gpus)
    cards = [at[i] for i in devices([gpus[i] for i in at], own)]
    used = devices(gpus, settings)
    numbers = {number: cards.index(card) for number, card in enumerate(used) if card in cards}
    return lend(draft.model, model, place(model, gpus, settings), numbers, (settings.type_k, settings.type_v))


def _own(model: Model) -> Draft:
    """The model as its own draft, by its next-token-prediction blocks."""
    type_k, type_v = company_of(model).draft_types
    return Draft(model, type_k=type_k, type_v=type_v)


def _own_settings(model: Model, settings: Settings, n_ctx: int) -> Settings:
    """What the context of the model's own blocks runs with: a draft's settings, and the model's places."""
    return replace(draft_settings(_own(model), settings, n_ctx), n_gpu_layers=settings.n_gpu_layers,
                   cpu_tensors=settings.cpu_tensors, split_mode=settings.split_mode)  # fmt: skip


def _next_tokens(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    n_ctx: int,
    estimator: Estimator,
    host: Host | None,
) -> Companion:
    """The context of the model's own next-token-prediction blocks, whose weights are among the model's.

    It keeps the model's layers and cards, and takes its cache types from the draft's flags.
    """
    own, drafting = _own_settings(model, settings, n_ctx), _drafting(model, settings)
    found = estimator(drafting, gpus, own, host=host)
    note = "" if found.exact else found.compute_note
    if not found.exact:  # of the two bounds this one is far lower
        found = estimator(drafting, gpus, own, bound=True, host=host)
    more = _growth(loaded(model, settings), gpus, own, found, estimator)
    note = "; ".join(n for n in (note, GROWS if any(more) else "") if n)
    devices_of = zip((*found.gpus, found.host), more, strict=True)
    terms = [Terms(0, d.context, d.compute + n) for d, n in devices_of]
    shared = _shared(gpus, settings)
    if shared is not None:
        terms[shared] = terms[shared]._replace(beside=terms[-1].total)
    return Companion(
        "next-token layers", model.name or model.architecture, tuple(terms[:-1]), terms[-1], note
    )


def _growth(
    model: Model, gpus: Sequence[Gpu], own: Settings, first: Estimate, estimator: Estimator
) -> tuple[int, ...]:
    """Bytes more on each card, and last on the host, when all next-token blocks of a model have run."""
    if len(blocks_of(model)) < 2:
        return (0,) * (len(gpus) + 1)

    def of_block(block: int) -> Estimate:
        return estimator(next_tokens(model, block), gpus, own, bound=not first.exact)

    return later_blocks(model, place(next_tokens(model), gpus, own).layers, first, of_block)


def _terms(device: DeviceEstimate, more: int, on_host: int = 0) -> Terms:
    """What is on a device whose buffers are larger by `more`, and the host's by `on_host`."""
    beside = device.beside + (on_host if device.beside else 0)
    return Terms(device.model, device.context, device.compute + more, beside)
