"""Bytes of a run of layers on one card: what the solver asks again and again.

In: `Model`, the cards in use, `Settings`. Out: bytes of layers [start, end) on a card at a context.
Weights and context are sums over layers. A compute buffer depends on a segment only through the
kinds of layer in it and their order, on whether it holds the first and the output layer, and on the
card's rules; runs of equal layers beyond a few repeats change nothing. Segments that agree in all of
that share one computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from .backends import Backend, backend
from .collapse import collapse, layer_kinds
from .compute import compute_bytes
from .context import Context, resolve
from .gpus import Gpu
from .memory import layer_context_bytes, weight_size
from .model import Home, Model, Weight
from .placement import HOST, Placement, place
from .settings import Settings

__all__ = ["Segments"]


@dataclass(frozen=True, slots=True)
class _Tables:
    """Prefix sums of one backend: `weights[i]` is what layers before i take, shared tensors left out."""

    weights: list[int]
    shared: dict[str, tuple[int, frozenset[int]]]  # name -> bytes, layers that use it


class Segments:
    """Answers for one model, one set of cards and settings; remembers what it has computed.

    `first` and `last` bound the layers on cards: the output layer is `last` - 1.
    """

    def __init__(self, model: Model, gpus: Sequence[Gpu], settings: Settings) -> None:
        self._model = model
        self._gpus = gpus
        self._settings = settings
        self._rules = [backend(g.backend) for g in gpus]
        placement = place(model, gpus, settings)
        self.last = model.n_layer + 1
        self.first = placement.layers.count(HOST)
        self._on_host = tuple(w == HOST for w in placement.weights)
        self._tables = {rules.name: _tables(model, placement, rules) for rules in self._rules}
        self._contexts: dict[tuple[int, str], list[int]] = {}
        self._computed: dict[tuple[object, ...], int] = {}
        self._resolved: dict[int, Context] = {}

    @cached_property
    def _kinds(self) -> tuple[int, ...]:
        return layer_kinds(self._model, self._on_host)

    def bytes(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Bytes of layers [start, end) on card `device` (index in use) at `n_ctx` tokens."""
        return self.fixed_bytes(device, start, end, n_ctx) + self.compute_bytes(device, start, end, n_ctx)

    def fixed_bytes(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """Weights and context: everything but the compute buffer."""
        rules = self._rules[device]
        tables = self._tables[rules.name]
        weights = tables.weights[end] - tables.weights[start]
        shared = sum(n for n, users in tables.shared.values() if any(start <= u < end for u in users))
        caches = self._context_table(n_ctx, rules)
        return weights + shared + caches[end] - caches[start]

    def compute_bytes(self, device: int, start: int, end: int, n_ctx: int) -> int:
        """The compute buffer of the card."""
        kept = collapse(self._kinds[start : min(end, self.last - 1)])
        key = (n_ctx, device == 0, self._rules[device].name, start == self.first, end == self.last, kept)
        if key not in self._computed:
            self._compute(device, start, end, n_ctx, key)
        return self._computed[key]

    def _compute(self, device: int, start: int, end: int, n_ctx: int, key: tuple[object, ...]) -> None:
        counts = [0] * len(self._gpus)
        counts[device] = end - start
        if device > 0:
            counts[device - 1] = start - self.first
        if device + 1 < len(counts):
            counts[device + 1] = self.last - end
        settings = replace(self._settings, tensor_split=tuple(counts), n_ctx=n_ctx)
        placement = place(self._model, self._gpus, settings)
        context = self._context(n_ctx)
        found = compute_bytes(self._model, placement, context, settings, self._rules)
        self._computed[key] = found.gpus[device]

    def _context(self, n_ctx: int) -> Context:
        if n_ctx not in self._resolved:
            self._resolved[n_ctx] = resolve(self._model, replace(self._settings, n_ctx=n_ctx))
        return self._resolved[n_ctx]

    def _context_table(self, n_ctx: int, rules: Backend) -> list[int]:
        key = (n_ctx, rules.name)
        if key not in self._contexts:
            context = self._context(n_ctx)
            on_card = self._settings.offload_kqv
            each = [
                layer_context_bytes(self._model, x, context, rules) if on_card else 0
                for x in self._model.layers
            ]
            self._contexts[key] = list(accumulate([*each, 0], initial=0))
        return self._contexts[key]


def _tables(model: Model, placement: Placement, rules: Backend) -> _Tables:
    repeated = {w.tensor.name for w in model.weights if w.duplicate}
    each = [0] * (model.n_layer + 1)
    users: dict[str, set[int]] = {}
    size: dict[str, int] = {}
    for weight, device in zip(model.weights, placement.weights, strict=True):
        if device == HOST:
            continue
        n = weight_size(weight, rules)
        index = _index(weight, model)
        if weight.tensor.name in repeated:
            users.setdefault(weight.tensor.name, set()).add(index)
            size[weight.tensor.name] = n
        else:
            each[index] += n
    shared = {name: (size[name], frozenset(at)) for name, at in users.items()}
    return _Tables(list(accumulate(each, initial=0)), shared)


def _index(weight: Weight, model: Model) -> int:
    return model.n_layer if isinstance(weight.home, Home) else weight.home
