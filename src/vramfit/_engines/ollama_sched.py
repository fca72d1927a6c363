"""Replay the rules of Ollama's scheduler: how many models it keeps, when one has room beside others, which one goes.

Source: server/sched.go of Ollama 0.33: :86 and :286 (the most models), :525-560 (room beside others), :906 (surcharge
of a batch), :1561 and :1664 (which goes). Before 0.30 the last three were other rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .._devices import Gpu
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import split_is_given
from . import ollama

__all__ = ["KEEP_ALIVE", "Kept", "first_to_go", "has_room", "looked_at", "most_models", "needed"]

KEEP_ALIVE: Final = 300.0  # seconds that an idle model stays (envconfig/config.go:130)
_FOR_EACH_CARD: Final = 3


class Kept(NamedTuple):
    """A loaded model as the scheduler sees it: how long it is kept, in seconds, and the path of its file."""

    tenant: int
    keep_alive: float
    path: str


def most_models(gpus: Sequence[Gpu], told: int = 0) -> int:
    """Count the models that stay loaded at most; `told` is OLLAMA_MAX_LOADED_MODELS, 0: left to Ollama."""
    return told or _FOR_EACH_CARD * max(1, len(gpus))


def needed(model: Model, n_ctx: int, n_batch: int) -> int:
    """Count the bytes that Ollama expects a model to take with its batch; its own formula, not ours."""
    surcharge = next((more for size, *_, more in ollama.BATCHES if n_batch >= size), 0)
    return ollama.predicted(model, n_ctx) + (0 if model.is_encoder else surcharge)


def looked_at(model: Model, gpus: Sequence[Gpu], settings: Settings, n_ctx: int) -> tuple[int, ...]:
    """List the cards whose free memory counts for a model: the one that it is put on, or all, as where it is told a split."""
    if settings.split_mode == "none" and len(gpus) > 1:
        return (max(0, settings.main_gpu),)
    if not split_is_given(settings) and ollama.takes_one_card(model, gpus, n_ctx):
        return (ollama.best_card(gpus),)
    return tuple(range(len(gpus)))


def has_room(model: Model, gpus: Sequence[Gpu], settings: Settings, n_ctx: int, num_gpu: int = -1) -> bool:
    """Whether Ollama loads a model beside others that leave `gpus`: it expects at most 80 % of what is free there.

    `num_gpu` is the number of layers that it was told to put on cards, -1 for none told. Where that is not all of them,
    or there are no cards, it does not ask.
    """
    if not gpus or num_gpu == 0 or 0 < num_gpu < len(model.layers) + 1:
        return True
    free = sum(gpus[i].free for i in looked_at(model, gpus, settings, n_ctx))
    return needed(model, n_ctx, settings.n_batch) <= free * 80 // 100


def first_to_go(loaded: Iterable[Kept]) -> Kept:
    """Find which of several idle models goes: the one kept for the shortest time, then the first by path, used lately or not."""
    return min(loaded, key=lambda k: (k.keep_alive, k.path))
