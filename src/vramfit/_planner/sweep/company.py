"""What is loaded beside a model, over the points of a sweep: a draft has curves of its own, a projector one figure.

In: a model with `company`, a set of cards, rows of settings, contexts. Out: `Beside`, arrays of slots × batches × contexts, which
are for each point what `company.company_bytes` says there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from ..._base.errors import SettingsError
from ..._base.memo import Memo
from ..._company import Draft, company_of
from ..._company.drafts import draft_cards, draft_settings, kept_for_draft, kept_on_host
from ..._company.encoders import encoder_card
from ..._devices import Gpu, Host
from ..._estimate.company import drafting_beside, encoder_reserve
from ..._llama.cparams import resolve_counts
from ..._llama.eras import era_of, rules_of
from ..._llama.host_memory import host_needs, shared_card
from ..._llama.model import Model
from ..._llama.params import Settings
from ..._llama.placement import devices, place, split_is_given
from .curves import Curves
from .result import Array

__all__ = ["Beside", "Known", "company_beside"]


class Beside(NamedTuple):
    """Bytes of a model's company: on each card of a set, what counts `beside` them there, on the host, and beside that."""

    gpus: tuple[Array, ...]
    beside: tuple[Array, ...]
    host: Array
    host_beside: Array
    exact: Array


class _Drafting(NamedTuple):
    """A draft along the contexts of one row: bytes (cards that it is offered, then the host), and what counts beside them."""

    sizes: tuple[Array, ...]
    beside: tuple[Array, ...]
    exact: Array


Known = Memo[_Drafting]  # drafts that were counted before


def company_beside(
    model: Model, gpus: Sequence[Gpu], rows: Sequence[Sequence[Settings]], contexts: Array, work: float, known: Known,
    host: Host | None = None,
) -> Beside:  # fmt: skip
    """Count a model's company at every point; `rows` are the settings of each number of slots and each batch.

    `work` is for each curve of a draft, in replays. Raises `EngineRefusal` as `estimate`, and `SettingsError` for a draft whose
    layers are divided by what the model leaves free.
    """
    shape = (len(rows), len(rows[0]), len(contexts))
    on_gpus, aside, (host_size, host_aside) = (
        tuple(np.zeros(shape, np.int64) for _ in each) for each in (gpus, gpus, range(2))
    )
    found = Beside(on_gpus, aside, host_size, host_aside, np.ones(shape, np.bool_))
    company = company_of(model)
    for s, row in enumerate(rows):
        for u, settings in enumerate(row):
            if company.draft is not None:
                made = resolve_counts(model, settings, cast(int, contexts))
                n_ctx = np.broadcast_to(made.n_ctx, contexts.shape)
                drafting = _draft(model, company.draft, gpus, settings, n_ctx, work, known, host)
                _add_draft(found, (s, u), model, company.draft, gpus, settings, drafting)
            if company.encoder is not None:
                _add_encoder(found, (s, u), model, gpus, settings)
    return found


def _draft(
    model: Model, draft: Draft, gpus: Sequence[Gpu], settings: Settings, n_ctx: Array, work: float, known: Known,
    host: Host | None,
) -> _Drafting:  # fmt: skip
    own = draft_settings(draft, settings, int(n_ctx.max()))
    offered = tuple(gpus[i] for i in draft_cards(draft, gpus))
    if len(devices(offered, own)) > 1 and not split_is_given(own):
        raise SettingsError(
            "a sweep places a draft once for all contexts: over several cards give a tensor_split, or the draft one card"
        )
    drafting = drafting_beside(model, draft, gpus, settings, own)
    key = (offered, own, n_ctx.tobytes())
    return known.get(drafting, key, lambda: _along(drafting, offered, own, n_ctx, work, host))


def _along(
    drafting: Model, offered: Sequence[Gpu], own: Settings, n_ctx: Array, work: float, host: Host | None
) -> _Drafting:
    """Count one draft at every context."""
    used = devices(offered, own)
    placement = place(drafting, offered, own)
    rules = [rules_of(offered[i], era_of(own.engine_build)) for i in used]
    context = resolve_counts(drafting, own, cast(int, n_ctx))
    needs, weights, caches = host_needs(drafting, offered, own, context, placement, host)
    curve = Curves(n_ctx, work, 1, lambda: None).of(drafting, placement, rules)(own)
    compute, exact = curve.at(n_ctx)
    sizes, aside = (tuple(np.zeros(n_ctx.shape, np.int64) for _ in range(len(offered) + 1)) for _ in range(2))
    for at, w, c, column in zip(
        (*used, len(offered)), (*weights.gpus, weights.host), (*caches.gpus, caches.host), compute.T, strict=True
    ):  # fmt: skip
        sizes[at][:] = w + c + column
    aside[-1][:] = needs.beside
    if needs.card is not None:
        aside[used[needs.card]][:] = needs.pooled + compute[:, -1]
    return _Drafting(sizes, aside, exact)


def _shared(gpus: Sequence[Gpu], settings: Settings) -> int | None:
    used = devices(gpus, settings)
    found = shared_card([gpus[i] for i in used])
    return None if found is None else used[found]


def _add_draft(
    found: Beside, at: tuple[int, int], model: Model, draft: Draft, gpus: Sequence[Gpu], settings: Settings, one: _Drafting
) -> None:  # fmt: skip
    cards, shared = draft_cards(draft, gpus), _shared(gpus, settings)
    for i, size, aside in zip(cards, one.sizes, one.beside, strict=False):
        found.gpus[i][at] += size
        found.beside[i][at] += aside
    found.host[at] += one.sizes[-1]
    found.host_beside[at] += one.beside[-1]
    found.exact[at] &= one.exact
    offered = [gpus[i] for i in cards]
    own = draft_settings(draft, settings, 0)
    if shared is not None and shared_card([offered[i] for i in devices(offered, own)]) is None:
        found.beside[shared][at] += one.sizes[-1] + one.beside[-1]
    kept = kept_for_draft(model, settings)
    if kept:
        for i in devices(gpus, settings):
            found.gpus[i][at] += kept
        found.host[at] += kept + kept_on_host(model, settings.n_batch)
        found.exact[at] = False
        if shared is not None:
            found.beside[shared][at] += kept + kept_on_host(model, settings.n_batch)


def _add_encoder(
    found: Beside, at: tuple[int, int], model: Model, gpus: Sequence[Gpu], settings: Settings
) -> None:
    encoder = company_of(model).encoder
    assert encoder is not None
    reserve, card, shared = (
        encoder_reserve(encoder, gpus, settings),
        encoder_card(encoder, gpus),
        _shared(gpus, settings),
    )
    here = reserve.weights + reserve.compute
    on_host = here if card is None else reserve.host
    if card is not None:
        found.gpus[card][at] += here
    found.host[at] += on_host
    found.exact[at] &= not reserve.note
    if shared is not None:
        found.beside[shared][at] += on_host
