"""What is loaded beside a model, in bytes on each card: a draft's weights, caches and buffers.

In: a model with `company`, cards, the settings that it runs with. Out: `Companion`s, one for each part of its company.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .._company import Draft, Encoder, company_of
from .._company.drafts import draft_cards, draft_settings, kept_for_draft
from .._company.encoders import encoder_card
from .._devices import Gpu, Host
from .._ggml.galloc import most_alive
from .._graphs import Unbuildable
from .._llama.cparams import resolve
from .._llama.eras import era_of, rules_of
from .._llama.host_memory import shared_card
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import devices, place, split_is_given
from .._llama.speculation import loaded, next_tokens, predicts
from .._mtmd import Reserve, reserve
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
        drafting = _draft(company.draft, gpus, settings, n_ctx, taken, estimator, host)
        found.append(_keeping(drafting, gpus, settings, kept_for_draft(model, settings)))
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
    """Find what is loaded beside a model and divided over all `gpus` as it is; None where nothing is."""
    draft = company_of(model).draft
    if draft is not None and draft_cards(draft, gpus) == tuple(range(len(gpus))):
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
    drafting = _drafting(draft.model, settings)
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
    found = estimator(_drafting(draft.model, settings), offered, own, host=host)
    terms = dict(zip(at, map(_terms, found.gpus), strict=True))
    shared = _shared(gpus, settings)
    if shared is not None and shared_card([offered[i] for i in devices(offered, own)]) is None:
        terms[shared] = terms.get(shared, Terms())._replace(beside=_terms(found.host).taken)
    return Companion(
        "draft",
        draft.model.name or draft.model.architecture,
        tuple(terms.get(i, Terms()) for i in range(len(gpus))),
        _terms(found.host),
        "; ".join(n for n in (note, "" if found.exact else found.compute_note) if n),
    )


def _keeping(found: Companion, gpus: Sequence[Gpu], settings: Settings, n_bytes: int) -> Companion:
    """The same with what the model keeps for its draft, on each card that it uses and the host."""
    if not n_bytes:
        return found
    used = devices(gpus, settings)
    shared = _shared(gpus, settings)
    terms = tuple(
        t._replace(
            compute=t.compute + (n_bytes if i in used else 0),
            beside=t.beside + (n_bytes if i == shared else 0),
        )
        for i, t in enumerate(found.gpus)
    )
    note = "what the model keeps of its layers for the draft is an upper bound"
    host = found.host._replace(compute=found.host.compute + n_bytes)
    return replace(found, gpus=terms, host=host, note="; ".join(n for n in (found.note, note) if n))


def _drafting(draft: Model, settings: Settings) -> Model:
    """A draft as its context sees it: whole, or as its next-token-prediction blocks where these are to draft."""
    return next_tokens(loaded(draft, settings)) if predicts(settings) else draft


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
    own = _own_settings(model, settings, n_ctx)
    found = estimator(_drafting(model, settings), gpus, own, host=host)
    note = "" if found.exact else found.compute_note
    if not found.exact:  # of the two bounds this one is far lower
        found = estimator(_drafting(model, settings), gpus, own, bound=True, host=host)
    terms = [Terms(0, d.context, d.compute) for d in (*found.gpus, found.host)]
    shared = _shared(gpus, settings)
    if shared is not None:
        terms[shared] = terms[shared]._replace(beside=terms[-1].total)
    return Companion(
        "next-token layers", model.name or model.architecture, tuple(terms[:-1]), terms[-1], note
    )


def _terms(device: DeviceEstimate) -> Terms:
    return Terms(device.model, device.context, device.compute, device.beside)
