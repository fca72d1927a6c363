"""What is loaded beside a model, in bytes on each card: a draft's weights, caches and buffers.

In: a model with `company`, cards, the settings that it runs with. Out: `Companion`s, one for each part of its company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from .._company import Draft, Encoder, company_of
from .._company.drafts import draft_cards, draft_settings, kept_for_draft
from .._company.encoders import encoder_card
from .._devices import Gpu
from .._ggml.galloc import most_alive
from .._graphs import Unbuildable
from .._llama.cparams import resolve
from .._llama.eras import era_of, rules_of
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import devices, place, split_is_given
from .._llama.speculation import loaded, next_tokens, predicts
from .._mtmd import Reserve, reserve
from .reserve import prepare_case, reservations

if TYPE_CHECKING:
    from .estimate import DeviceEstimate, Estimate

__all__ = ["Companion", "Estimator", "Terms", "beside", "beside_at_least", "companions", "encoder_reserve"]


@dataclass(frozen=True, slots=True)
class Terms:
    """Bytes on one device, by the engine's terms."""

    model: int = 0
    context: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        """Bytes of all three."""
        return self.model + self.context + self.compute


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
        self, model: Model, gpus: Sequence[Gpu], settings: Settings, *, bound: bool = False
    ) -> Estimate:
        """What a model allocates."""


def companions(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    n_ctx: int,
    taken: Sequence[int],
    estimator: Estimator,
) -> tuple[Companion, ...]:
    """All parts of a model's company, when the model itself has taken so many bytes of each card.

    `n_ctx` is the model's context after padding; `estimator` estimates a draft as any other model.
    """
    company, found = company_of(model), list[Companion]()
    if company.draft is not None:
        drafting = _draft(company.draft, gpus, settings, n_ctx, taken, estimator)
        found.append(_keeping(drafting, gpus, settings, kept_for_draft(model, settings)))
    elif predicts(settings):
        found.append(_next_tokens(model, gpus, settings, n_ctx, estimator))
    if company.encoder is not None:
        found.append(_encoder(company.encoder, gpus, settings))
    return tuple(found)


def encoder_reserve(encoder: Encoder, gpus: Sequence[Gpu], settings: Settings) -> Reserve:
    """What the engine allocates for a projector."""
    at = encoder_card(encoder, gpus)
    rules = None if at is None else rules_of(gpus[at], era_of(settings.engine_build))
    return reserve(encoder.projector, rules, settings.flash_attn, encoder.max_tokens)


def _encoder(encoder: Encoder, gpus: Sequence[Gpu], settings: Settings) -> Companion:
    found, at = encoder_reserve(encoder, gpus, settings), encoder_card(encoder, gpus)
    here = Terms(found.weights, 0, found.compute)
    return Companion(
        "projector",
        encoder.projector.name or encoder.projector.source,
        tuple(here if i == at else Terms() for i in range(len(gpus))),
        here if at is None else Terms(compute=found.host),
        found.note,
    )


def beside(
    model: Model, gpus: Sequence[Gpu], settings: Settings, n_ctx: int, estimator: Estimator
) -> tuple[int, ...]:
    """Bytes that a model's company takes on each card beside a context of `n_ctx` tokens."""
    nothing = [0] * len(gpus)
    found = companions(model, gpus, settings, n_ctx, nothing, estimator)
    return tuple(sum(c.gpus[i].total for c in found) for i in range(len(gpus)))


def beside_at_least(
    model: Model, gpus: Sequence[Gpu], settings: Settings, n_ctx: int, estimator: Estimator
) -> tuple[int, ...]:
    """No more than `beside` says at this context or any larger one.

    Weights and caches never shrink as the context grows, nor does what is alive in a buffer at once.
    """
    draft = company_of(model).draft or (_own(model) if predicts(settings) else None)
    sizes = list(beside(model, gpus, settings, n_ctx, estimator))
    if draft is None:
        return tuple(sizes)
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
        alive = most_alive(case.graph(reservations(case, context)[-1])[1])
    except Unbuildable:
        if not predicts(settings):  # its buffers are a formula that never falls
            return tuple(sizes)
        alive = (0,) * len(used)
    found = companions(model, gpus, settings, n_ctx, [0] * len(gpus), estimator)[0]
    for device, i in enumerate(used):
        sizes[at[i]] -= max(0, found.gpus[at[i]].compute - alive[device])  # what is kept besides is left out
    return tuple(sizes)


def _draft(
    draft: Draft,
    gpus: Sequence[Gpu],
    settings: Settings,
    n_ctx: int,
    taken: Sequence[int],
    estimator: Estimator,
) -> Companion:
    at, own = draft_cards(draft, gpus), draft_settings(draft, settings, n_ctx)
    offered, note = [gpus[i] for i in at], ""
    if len(devices(offered, own)) > 1 and not split_is_given(own):
        offered = [replace(g, free_bytes=max(0, g.free - taken[i])) for i, g in zip(at, offered, strict=True)]
        note = "its layers are divided by the memory that the model leaves free"
    found = estimator(_drafting(draft.model, settings), offered, own)
    terms = dict(zip(at, map(_terms, found.gpus), strict=True))
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
    terms = tuple(
        replace(t, compute=t.compute + n_bytes) if i in used else t for i, t in enumerate(found.gpus)
    )
    note = "what the model keeps of its layers for the draft is an upper bound"
    host = replace(found.host, compute=found.host.compute + n_bytes)
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
    model: Model, gpus: Sequence[Gpu], settings: Settings, n_ctx: int, estimator: Estimator
) -> Companion:
    """The context of the model's own next-token-prediction blocks, whose weights are among the model's.

    It keeps the model's layers and cards, and takes its cache types from the draft's flags.
    """
    own = _own_settings(model, settings, n_ctx)
    found = estimator(_drafting(model, settings), gpus, own)
    note = "" if found.exact else found.compute_note
    if not found.exact:  # of the two bounds this one is far lower
        found = estimator(_drafting(model, settings), gpus, own, bound=True)
    terms = [Terms(0, d.context, d.compute) for d in (*found.gpus, found.host)]
    return Companion(
        "next-token layers", model.name or model.architecture, tuple(terms[:-1]), terms[-1], note
    )


def _terms(device: DeviceEstimate) -> Terms:
    return Terms(device.model, device.context, device.compute)
