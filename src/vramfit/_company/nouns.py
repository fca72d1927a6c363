"""A `Company`: what is loaded beside a model, as it is told to the engine. `Model.company` holds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from .._llama.model import Model
from .._mtmd import Projector
from .adapters import Adapter, ControlVector

__all__ = ["Company", "Draft", "Encoder", "alone", "company_of"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A model that proposes tokens to another one. The fields are the engine's flags for it, with its defaults.

    `devices` are indexes of cards; None: those of the model, an empty one: the host alone.
    """

    model: Model
    n_gpu_layers: int = -1
    type_k: str = "f16"
    type_v: str = "f16"
    cpu_tensors: tuple[str, ...] = ()
    devices: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Encoder:
    """A projector of images or sound, and where the engine is told to put it.

    `device` is the index of its card, None for the first one; it is on the host if not `offload`. `max_tokens` limits the
    tokens of an image, 0: as the projector has it.
    """

    projector: Projector
    offload: bool = True
    device: int | None = None
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Company:
    """All that shares the cards with one model."""

    draft: Draft | None = None
    encoder: Encoder | None = None
    draft_types: tuple[str, str] = ("f16", "f16")  # of the caches of next-token layers, the model's own
    adapters: tuple[Adapter, ...] = ()  # their tensors are among the model's weights
    control_vectors: tuple[ControlVector, ...] = ()  # as well

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing beside the model."""
        return self == _NOBODY

    @property
    def takes_room(self) -> bool:
        """Whether something is beside the model whose bytes are not among the model's own."""
        return self.draft is not None or self.encoder is not None


_NOBODY: Final = Company()


def alone(model: Model) -> Model:
    """The model without what takes room of its own beside it; adapters stay, whose tensors are the model's."""
    company = company_of(model)
    return replace(model, company=replace(company, draft=None, encoder=None)) if company.takes_room else model


def company_of(model: Model) -> Company:
    """What is loaded beside a model."""
    return model.company if isinstance(model.company, Company) else _NOBODY
