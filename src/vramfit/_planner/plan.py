"""The largest context that is safe, and the split of the layers that carries it.

In: `Model`, cards, `Settings`, a margin. Out: a `Plan`. The engine places layers in order, so a split
is a chain of segments, one a card; `search` finds the best chain, with compute buffers counted as
`compute` counts them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

from .._base.errors import SettingsError
from .._base.given import call
from .._base.shown import Drawn
from .._coerce import AnyGpus, AnyModel, AnySettings, cards, margin, model_of, settings_of, shown
from .._coerce import max_ctx as limit
from .._devices import Gpu, assumed
from .._estimate.estimate import DeviceEstimate, Estimate, assemble, estimate
from .._llama.cparams import context_step, physical_batch, resolve, trained_ctx
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import devices, place, split_is_given
from .._llama.speculation import loaded, predicts
from .search import Chains, Split, largest, least_short
from .segments import Learned, Segments
from .warnings import context_warnings, margin_warning, pool_warning, settings_warnings, wired_warnings

__all__ = ["DEFAULT_MARGIN", "Plan", "carries", "may_carry", "plan"]

DEFAULT_MARGIN: Final = 1 << 30  # what llama.cpp's --fit-target leaves on each device
REQUEST: Final = "the context asked for"  # what `limited_by` may say beside the name of a card
TRAINED: Final = "the trained context"
MAX_CTX: Final = "max_ctx"
_ROUNDS: Final = 4  # in which splits are tried that a draft is divided like


@dataclass(frozen=True, slots=True)
class Plan(Drawn):
    """The answer: a context, the split that carries it, and why it is not larger.

    `fits` is false when not even the smallest context (or the one asked for) leaves the margin on
    every card; `estimate` then shows that context under the best split found, and `shortfall` how many
    bytes are missing on the card that is shortest. `limited_by` is what keeps the context from being larger: the
    request, the trained context, `max_ctx`, or a card by the name that `estimate` gives it; where it does not fit,
    the card that is shortest.
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

    def command(self, engine: str = "llama-server") -> str:
        """What to run for this plan in `engine`.

        Raises `SettingsError` for an unknown engine and for settings that it cannot be told.
        """
        return cast(str, call("command", self, engine))

    def modelfile(self, engine: str = "ollama") -> str:
        """An Ollama Modelfile that carries this plan. Raises as `command` does."""
        return cast(str, call("modelfile", self, engine))


def plan(
    model: AnyModel,
    gpus: AnyGpus,
    settings: AnySettings = None,
    *,
    margin_bytes: int | str = DEFAULT_MARGIN,
    max_ctx: int | str | None = None,
    learned: Learned | None = None,
) -> Plan:
    """The largest context that leaves `margin_bytes` of free memory on every card.

    Takes every setting as given; `n_ctx` other than 0 asks about that one context, a `tensor_split`
    fixes the split. `max_ctx` (tokens of all slots together) defaults to the trained context.
    `learned` is an empty dict that several plans of one model share to save time, whatever the cards, the
    settings and its tensors' types.
    Raises what `estimate` raises, and `SettingsError` for a margin or limit below zero.
    """
    model, gpus, settings = model_of(model), cards(gpus), settings_of(settings)
    margin_bytes, max_ctx = margin(margin_bytes), limit(max_ctx)
    if learned is not None and not isinstance(learned, dict):
        raise SettingsError(f"learned={shown(learned)}: give a dict, or None")
    said = settings_warnings(model, settings)
    if settings.n_ubatch > settings.n_batch:  # as `said` says
        settings = replace(settings, n_ubatch=physical_batch(settings))
    model = loaded(model, settings)
    candidates = _contexts(model, settings, max_ctx)
    question = _Question(model, gpus, settings, margin_bytes, {} if learned is None else learned)
    found = _answer(question, candidates)
    n_ctx, split = found or (candidates[0], _least_short(question, candidates[0]))
    chosen = _with(question, n_ctx, split)
    result = _estimate(question, chosen)
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
        settings=chosen,
        estimate=result,
        margin_bytes=margin_bytes,
        shortfall=0 if fits or shortest is None else max(0, margin_bytes - shortest.left),
        warnings=(*said, *_warnings(question, result, limited_by)),
        gpus=tuple(gpus),
    )


def carries(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    *,
    margin_bytes: int = DEFAULT_MARGIN,
    learned: Learned | None = None,
) -> bool:
    """Whether the context asked for fits: what `plan` says of it, without the work to say anything else."""
    question = _Question(
        loaded(model, settings), gpus, settings, margin_bytes, {} if learned is None else learned
    )
    return _answer(question, _contexts(model, settings, None)) is not None


def may_carry(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    *,
    margin_bytes: int,
    learned: Learned,
    less: float = 0,
) -> bool:
    """A guess at what `carries` would say: compute buffers are as under other settings, or by a part `less`."""
    q = _Question(loaded(model, settings), gpus, settings, margin_bytes, learned)
    if not q.used:
        return True
    segments = q.segments()

    def hoped(device: int, start: int, end: int, n_ctx: int) -> int:
        return int(segments.probably(device, start, end, n_ctx) * (1 - less))

    return q.chains().find(hoped, settings.n_ctx) is not None


def _contexts(model: Model, settings: Settings, max_ctx: int | None) -> range:
    """The contexts to choose from, in tokens of all slots together."""
    if settings.n_ctx:
        return range(settings.n_ctx, settings.n_ctx + 1)
    step = context_step(settings)
    if max_ctx is None and not model.n_ctx_train:
        raise SettingsError("the header names no trained context; set max_ctx or n_ctx")
    most = trained_ctx(model, settings) if max_ctx is None else max_ctx
    return range(step, max(step, most // step * step) + 1, step)


@dataclass(slots=True)
class _Question:
    """What stays the same while contexts and splits are tried, and what was learned on the way."""

    model: Model
    gpus: Sequence[Gpu]
    settings: Settings
    margin: int
    learned: Learned
    known: Segments | None = None  # once they were asked for
    assumed: Split | None = None  # the layers that a draft's are divided like
    found: dict[Hashable, list[int]] = field(default_factory=dict)  # what is loaded beside the model takes

    @property
    def used(self) -> tuple[int, ...]:
        """Indexes of the cards in use."""
        return devices(self.gpus, self.settings)

    @property
    def split_is_free(self) -> bool:
        """Whether there is a split to choose."""
        return len(self.used) > 1 and not split_is_given(self.settings)

    def segments(self) -> Segments:
        """Bytes of runs of layers on the cards in use."""
        if self.known is None:
            settings = replace(self.settings, main_gpu=0)  # indexes count the cards in use
            used = [self.gpus[i] for i in self.used]
            self.known = Segments(self.model, used, settings, self.learned)
        return self.known

    def room(self) -> list[int]:
        """Bytes that may be taken on each card in use."""
        return [self.gpus[i].free - self.margin for i in self.used]

    def chains(self) -> Chains:
        """All splits to choose from, or the one that the caller fixed."""
        alone = self.model.company is None and not predicts(self.settings)
        beside = None if alone else self.beside
        return Chains(self.segments(), self.room(), self.given_split(), beside)

    def beside(self, n_ctx: int, most: bool) -> list[int]:
        """Bytes that what is loaded beside the model takes on each card in use (see `search.Beside`)."""
        from .._estimate.company import beside, beside_at_least

        key = (n_ctx, most, self.assumed)
        if key not in self.found:
            chosen = _with(self, n_ctx, self.assumed)
            look, padded = (beside_at_least if most else beside), resolve(self.model, chosen).n_ctx
            sizes = look(self.model, self.gpus, chosen, padded, estimate)
            self.found[key] = [sizes[i] for i in self.used]
        return self.found[key]

    def given_split(self) -> Split | None:
        """Layers on each card in use where the caller fixed the split."""
        if not split_is_given(self.settings):
            return None
        placement = place(self.model, self.gpus, self.settings)
        return tuple(map(placement.count, range(placement.n_devices)))


def _answer(q: _Question, candidates: range) -> tuple[int, Split | None] | None:
    """The largest context that fits, and its split; without a card the host takes them all."""
    if not q.used:
        return candidates[-1], None
    found = largest(q.chains(), candidates)
    if found is None or not q.split_is_free or not (q.model.company is not None or predicts(q.settings)):
        return found
    from .._company import company_of

    if company_of(q.model).draft is None and not predicts(q.settings):
        return found
    return _settled(q, candidates, *found)


def _settled(q: _Question, candidates: range, n_ctx: int, split: Split) -> tuple[int, Split | None] | None:
    """The answer when a draft's layers are divided as the model's are: no better split was found for that division."""
    for _ in range(_ROUNDS):
        q.assumed = split
        better = largest(q.chains(), candidates)
        if better is None or better[1] == split:
            break
        split = better[1]
    q.assumed = split
    return largest(replace(q.chains(), only=split), candidates)


def _with(q: _Question, n_ctx: int, split: Split | None) -> Settings:
    """The settings for one context and the split found; a split given by the caller stays."""
    if split is None or not q.split_is_free:
        return replace(q.settings, n_ctx=n_ctx)
    return replace(q.settings, n_ctx=n_ctx, tensor_split=tuple(map(float, split)))


def _estimate(q: _Question, chosen: Settings) -> Estimate:
    """What `estimate` says of the settings chosen; compute buffers are those that the search replayed."""
    if not q.used:
        return estimate(q.model, q.gpus, chosen)
    placement = place(q.model, q.gpus, chosen)
    counts = tuple(map(placement.count, range(placement.n_devices)))
    compute = q.segments().compute(counts, chosen.n_ctx)
    return assemble(q.model, q.gpus, chosen, resolve(q.model, chosen), placement, compute)


def _least_short(q: _Question, n_ctx: int) -> Split | None:
    return least_short(q.chains(), n_ctx) if q.split_is_free else None


def _shortest(result: Estimate) -> DeviceEstimate | None:
    """The card with the least left of those in use."""
    return min((g for g in result.gpus if g.total), key=lambda g: g.left, default=None)


def _name(shortest: DeviceEstimate | None) -> str:
    return shortest.name if shortest else "memory"


def _limit(q: _Question, max_ctx: int | None, result: Estimate, candidates: range) -> str:
    """What keeps a context that fits from being larger, in a person's words."""
    if q.settings.n_ctx:
        return REQUEST
    if result.n_ctx >= candidates[-1]:
        return TRAINED if max_ctx is None else MAX_CTX
    at = _full(q, result, result.n_ctx + candidates.step)
    return result.gpus[at].name


def _full(q: _Question, result: Estimate, n_ctx: int) -> int:
    """Index of the card that the next context would overfill under the same split.

    That is not always the one with the least left: of a card without a layer that caches, nothing more is taken.
    """
    if len(q.used) == 1:
        return q.used[0]
    split = [result.gpus[i].layers for i in q.used]
    at_least = min(_spare(q, q.segments().at_least_each(split, n_ctx), n_ctx), default=(0, 0))
    if at_least[0] < 0:
        return at_least[1]
    return min(_spare(q, q.segments().learn(split, n_ctx), n_ctx))[1]


def _spare(q: _Question, sizes: Sequence[int], n_ctx: int) -> list[tuple[int, int]]:
    """What is left on each card that is used when they take this much, with its index."""
    rooms = q.chains().rooms(n_ctx)
    return [(room - size, i) for room, size, i in zip(rooms, sizes, q.used, strict=True) if size]


def _wired(q: _Question, result: Estimate, limit: str) -> tuple[str, ...]:
    """What a Mac can be told where its limit is what limits."""
    for gpu, card in zip(q.gpus, result.gpus, strict=True):
        if card.name == limit:
            return wired_warnings(gpu, card.total + q.margin)
    return ()


def _encoder_warnings(q: _Question) -> tuple[str, ...]:
    from .._company import company_of
    from .._company.encoders import encoder_warnings
    from .._estimate.company import encoder_reserve

    encoder = company_of(q.model).encoder
    return () if encoder is None else encoder_warnings(q.model, encoder_reserve(encoder, q.gpus, q.settings))


def _warnings(q: _Question, result: Estimate, limit: str) -> tuple[str, ...]:
    """What a person should know of the answer: of the model, the cards, the context and the margin."""
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
    found += context_warnings(model, result.n_ctx_seq)
    found += pool_warning(model, resolve(model, result.settings), [g.backend for g in gpus])
    found += margin_warning({d.name: g for g, d in zip(gpus, result.gpus, strict=True) if d.total}, q.margin)
    return (*found, *_wired(q, result, limit))
