"""Find how much has to stay on the host until a context fits: as few experts, tensors or layers as will do.

Counts are bisected: more on the host leaves more room on the cards. What is returned fits, and one layer
less on the host was tried and does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final

from ..._llama.model import Model
from ..._llama.params import Settings
from ..search import last_where
from .changes import expert_tensors, host_layers, with_experts
from .question import Question

__all__ = ["experts_levels", "fewest_experts", "first_that_fits", "host_levels", "most_layers"]


_DOUBT: Final = (
    1 / 32
)  # part of a compute buffer by which one may be less than that of almost the same layers


def first_that_fits(q: Question, levels: Sequence[Settings], n_ctx: int) -> int | None:
    """Find the first of `levels`, each of which leaves more room than those before, under which `n_ctx` fits.

    A guess comes first; from there the steps double until the answer lies between two of them.
    """
    levels = q.within_host(levels, n_ctx)
    end = len(levels) - 1
    if end < 0 or not q.carries(levels[end], n_ctx):
        return None
    known = {0: True}  # by how many levels were spared

    def carries(spared: int) -> bool:
        if spared not in known:
            known[spared] = q.carries(levels[end - spared], n_ctx)
        return known[spared]

    low, high = 0, end
    if q.guesser is not None:
        guess = last_where(lambda spared: q.may_carry(levels[end - spared], n_ctx), 0, end)
        low, high = _around(carries, guess, end)
    return end - last_where(carries, low, high)


def _around(holds: Callable[[int], bool], guess: int, end: int) -> tuple[int, int]:
    """Bracket where `holds` begins, up to `end`: steps from a guess on double."""
    step = 1
    if holds(guess):
        while guess < end and holds(min(guess + step, end)):
            guess, step = min(guess + step, end), 2 * step
        return guess, min(guess + step, end)
    while not holds(max(guess - step, 0)):
        guess, step = max(guess - step, 0), 2 * step
    return max(guess - step, 0), guess


def experts_levels(model: Model, settings: Settings) -> list[Settings]:
    """List settings with the experts of 0, 1, 2, … layers on the host; `settings` alone for a model without experts."""
    return [settings, *(with_experts(settings, il + 1) for il in expert_tensors(model, settings))]


def layers_levels(model: Model, settings: Settings) -> list[Settings]:
    """List settings with all layers on the cards that were to be there, then one fewer, down to none."""
    asked, most = settings.n_gpu_layers, model.n_layer + 1
    on_cards = most if asked < 0 else min(asked, most)
    return [settings, *(replace(settings, n_gpu_layers=n) for n in range(on_cards - 1, -1, -1))]


def host_levels(model: Model, settings: Settings) -> list[Settings]:
    """List settings with ever more on the host: experts, tensor by tensor, then whole layers; what costs least speed first."""
    experts = [settings]
    spared = host_layers(settings)
    for il, stacks in expert_tensors(model, settings).items():
        names = [t.name for t in stacks]
        experts += [with_experts(settings, spared, names[:n]) for n in range(1, len(names))]
        spared = il + 1
        experts.append(with_experts(settings, spared))
    return [*experts, *layers_levels(model, experts[-1])[1:]]


def most_layers(q: Question, n_ctx: int) -> Settings | None:
    """Find the largest number of layers on the cards (`-ngl`) under which `n_ctx` fits; None if there is none."""
    levels = layers_levels(q.model, q.settings)
    at = first_that_fits(q, levels, n_ctx)
    return None if not at else levels[at]


def fewest_experts(q: Question, n_ctx: int) -> Settings | None:
    """Find the fewest layers whose experts have to stay on the host (`-ncmoe`), of the last one single tensors if they are enough."""
    levels = experts_levels(q.model, q.settings)
    at = first_that_fits(q, levels, n_ctx)
    if at is None:  # a layer more may be too much for the host, and single tensors of it enough
        beyond = len(q.within_host(levels, n_ctx))
        return _single_tensors(q, beyond, n_ctx) if 0 < beyond < len(levels) else None
    if not at:
        return None
    return _single_tensors(q, at, n_ctx) or levels[at]


def _single_tensors(q: Question, at: int, n_ctx: int) -> Settings | None:
    """Try one layer less, and of that layer the tensors that take least and are enough."""
    layers = expert_tensors(q.model, q.settings)
    order = list(layers)
    stacks = layers[order[at - 1]]
    spared = order[at - 2] + 1 if at > 1 else host_layers(q.settings)
    choices = [c for n in range(1, len(stacks)) for c in combinations(stacks, n)]
    for chosen in sorted(choices, key=lambda c: sum(t.n_bytes for t in c)):
        settings = with_experts(q.settings, spared, [t.name for t in chosen])
        if (q.guesser is None or q.may_carry(settings, n_ctx, _DOUBT)) and q.carries(settings, n_ctx):
            return settings
    return None
