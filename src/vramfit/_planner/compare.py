"""Compare every file type under every cache type on the same cards: what each gives and what it costs.

In: a `Model`, cards, `Settings`. Out: a `Comparison` of `Choice`s, each from a plan of its own. Quality is
somebody's published measure or nothing (see `quality`), speed an upper bound (see `speed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .._base.errors import EngineRefusal, SettingsError
from .._base.progress import Bar
from .._base.shown import Drawn
from .._coerce import (
    AnyGpus,
    AnyHost,
    AnyModel,
    AnySettings,
    bandwidth,
    cards,
    flag,
    host_of,
    margin,
    model_of,
    settings_of,
    words,
)
from .._coerce import max_ctx as limit
from .._devices import Gpu
from .._llama.model import Model
from .._llama.params import CACHE_TYPES, Settings
from .._llama.placement import devices
from .._llama.speculation import tokens_per_pass
from .._quant import FILE_TYPES, bits_per_weight, file_bytes, needs_imatrix, requantize
from .._quant import file_type as find_file_type
from .plan import DEFAULT_MARGIN, Plan, plan
from .quality import Measure, cache_measure, file_type_measure
from .segments import Learned
from .speed import decode_limit

__all__ = ["CACHES", "TYPES", "Choice", "Comparison", "compare"]

AS_IT_IS: Final = "COPY"  # llama-quantize's name for leaving every tensor alone
TYPES: Final = (
    "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_L", "Q3_K_M", "IQ3_M", "IQ3_XXS",
    "Q2_K",
)  # fmt: skip
CACHES: Final = ("f16", "q8_0", "q4_0")


@dataclass(frozen=True, slots=True)
class Choice:
    """One file type with one pair of cache types. Sizes are bytes, `n_ctx` tokens of all slots.

    `refused` gives the reason where the engine or the quantizer would not do it; nothing else holds then.
    """

    file_type: str
    type_k: str
    type_v: str
    bits_per_weight: float = 0.0
    file_bytes: int = 0  # tensor data and its padding; a header comes on top
    needs_imatrix: bool = False  # whether it is useless without an importance matrix
    n_ctx: int = 0  # the largest that fits, or the one asked about
    fits: bool = False
    limited_by: str = ""
    shortfall: int = 0
    tensor_split: tuple[int, ...] = ()
    exact: bool = False  # whether every compute buffer counted is what the engine reserves
    tokens_per_second: float | None = None  # upper bound; None where a bandwidth is not known
    measure: Measure | None = None  # of the file type, published
    cache_measure: Measure | None = None  # of the cache types, published
    on_front: bool = False  # no other choice is as good in context and in divergence, and better in one
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Comparison(Drawn):
    """All choices, file types in the order given, under each its cache types."""

    model: Model = field(repr=False)
    gpus: tuple[Gpu, ...]
    settings: Settings
    margin_bytes: int
    choices: tuple[Choice, ...] = field(repr=False)

    @property
    def fits(self) -> bool:
        """Whether any choice fits."""
        return any(c.fits for c in self.choices)

    @property
    def front(self) -> tuple[Choice, ...]:
        """The choices that no other one beats (the Pareto front), largest context first."""
        return tuple(sorted((c for c in self.choices if c.on_front), key=lambda c: -c.n_ctx))


def compare(
    model: AnyModel,
    gpus: AnyGpus,
    settings: AnySettings = None,
    *,
    file_types: str | Sequence[str] | None = None,
    cache_types: str | Sequence[str] | None = None,
    margin_bytes: int | str = DEFAULT_MARGIN,
    max_ctx: int | str | None = None,
    imatrix: bool = False,
    host_bandwidth_gbs: float | None = None,
    host: AnyHost = None,
) -> Comparison:
    """Find the largest context, size, quality and speed of each file type under each pair of cache types.

    `file_types` are llama-quantize's names, "COPY" the file as it is; `cache_types` are such as "q8_0", or
    "q8_0/q4_0" for K and V apart. `imatrix` says that one is used to quantize. Everything else is as in
    `plan`. Raises what `plan` raises, but for `EngineRefusal`: a refused choice says why.
    """
    model, gpus, base = model_of(model), cards(gpus), settings_of(settings)
    left, most = margin(margin_bytes), limit(max_ctx)
    host_bandwidth_gbs = bandwidth("host_bandwidth_gbs", host_bandwidth_gbs)
    pairs = [_pair(text) for text in _default_caches(base, words("cache_types", cache_types))]
    models = _Models(model, flag("imatrix", imatrix))
    learned: Learned = {}
    memory = host_of(host, gpus)
    asked = words("file_types", file_types)
    names = _default_types(model, models) if asked is None else asked
    wanted = [(find_file_type(name).name, k, v) for name in names for k, v in pairs]

    def choose(name: str, type_k: str, type_v: str) -> Choice:
        at = replace(base, type_k=type_k, type_v=type_v)
        try:
            made = models.get(name)
            found = plan(made, gpus, at, margin_bytes=left, max_ctx=most, learned=learned, host=memory)
        except EngineRefusal as e:
            return Choice(_label(name), type_k, type_v, refused=str(e))
        return _choice(_label(name), found, gpus, imatrix, host_bandwidth_gbs)

    choices = []
    with Bar("compare", len(wanted)) as bar:
        for each in wanted:
            choices.append(choose(*each))
            bar.advance()
    return Comparison(model, gpus, base, left, tuple(_marked(choices)))


def _default_types(model: Model, models: _Models) -> tuple[str, ...]:
    """List the usual file types, behind the file as it is where its own mix is none of them."""
    if model.file_type in TYPES and models.get(model.file_type).tensors == model.tensors:
        return TYPES
    return (AS_IT_IS, *TYPES)


def _default_caches(settings: Settings, given: Sequence[str] | None) -> Sequence[str]:
    """List the cache types given, else the pair that the settings ask for, else the usual ones."""
    if given is not None:
        return given
    asked = f"{settings.type_k}/{settings.type_v}"
    return CACHES if asked == "f16/f16" else (asked,)


def _pair(text: str) -> tuple[str, str]:
    type_k, _, type_v = text.lower().partition("/")
    for name in (type_k, type_v or type_k):
        if name not in CACHE_TYPES:
            raise SettingsError(
                f"cache type {text!r}: give one of {', '.join(CACHE_TYPES)}, or K/V as in q8_0/q4_0"
            )
    return type_k, type_v or type_k


class _Models:
    """Makes the model under each file type, once. Raises `EngineRefusal` for one that cannot be made."""

    def __init__(self, model: Model, imatrix: bool) -> None:
        self._model = model
        self._imatrix = imatrix
        self._made: dict[str, Model] = {}

    def get(self, name: str) -> Model:
        """Return the model as file type `name`."""
        if name not in self._made:
            self._made[name] = requantize(self._model, name, imatrix=self._imatrix)
        return self._made[name]


def _label(name: str) -> str:
    return "this file" if name == AS_IT_IS else name


def _choice(name: str, found: Plan, gpus: Sequence[Gpu], imatrix: bool, host_gbs: float | None) -> Choice:
    used = [gpus[i] for i in devices(gpus, found.settings)]
    return Choice(
        file_type=name,
        type_k=found.settings.type_k,
        type_v=found.settings.type_v,
        bits_per_weight=bits_per_weight(found.model),
        file_bytes=file_bytes(found.model),
        needs_imatrix=bool(needs_imatrix(found.model)),
        n_ctx=found.n_ctx,
        fits=found.fits,
        limited_by=found.limited_by,
        shortfall=found.shortfall,
        tensor_split=found.tensor_split,
        exact=found.estimate.exact,
        tokens_per_second=decode_limit(
            found.model, found.estimate.placement, used, host_gbs, tokens_per_pass(found.settings)
        ),
        measure=file_type_measure(name, imatrix) if name in FILE_TYPES else None,
        cache_measure=cache_measure(found.settings.type_k, found.settings.type_v),
    )


Marks = tuple[int, float]  # context, minus the divergence: more is better


def _marked(choices: Iterable[Choice]) -> Iterable[Choice]:
    """Mark the Pareto front among the choices that fit and have the measures to be ranked by."""
    choices = list(choices)
    one_cache = len({(c.type_k, c.type_v) for c in choices}) == 1
    marks = [_marks(c, one_cache) for c in choices]
    ranked = [m for m in marks if m is not None]
    for choice, mine in zip(choices, marks, strict=True):
        beaten = mine is None or any(_beats(other, mine) for other in ranked)
        yield replace(choice, on_front=not beaten)


def _marks(choice: Choice, one_cache: bool) -> Marks | None:
    """Divergences of weights and cache are of the same model and metric, and add up; one cache's sets none apart."""
    if not choice.fits or choice.measure is None:
        return None
    if one_cache:
        return choice.n_ctx, -choice.measure.kld
    if choice.cache_measure is None:
        return None
    return choice.n_ctx, -(choice.measure.kld + choice.cache_measure.kld)


def _beats(a: Marks, b: Marks) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))
