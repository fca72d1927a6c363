"""Adapters of a model: LoRA matrices that lie beside the weights that they change, and control vectors.

In: headers of adapters, a `Model`. Out: the `Model` with their tensors among its weights, so that they are placed, counted
and multiplied as the engine does. What does not match is refused with what does not.
Source: `llama_adapter_lora_init_impl` (llama-adapter.cpp:157-420), `llama_adapter_cvec::init` (35-85),
`common_control_vector_load` (common.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .._base.errors import ModelError, shown
from .._ggml.types import BY_NAME
from .._gguf import Header
from .._llama.model import Model, Tensor, Weight

__all__ = ["Adapter", "ControlVector", "adapt", "read_adapter", "read_control_vector", "steer"]

_F32: Final = BY_NAME["f32"]
_UNCOUNTED: Final = frozenset(
    {"hrm_text"}
)  # it runs its layers many times, and its buffers have no bound with adapters
_EMBEDDING: Final = "token_embd.weight"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: for each weight that it changes two matrices. With a scale of 0 it is loaded and not applied."""

    source: str
    architecture: str
    pairs: tuple[tuple[str, Tensor, Tensor], ...]  # name of the weight, A and B
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ControlVector:
    """Directions that are added to what layers pass on: the file's own, of so many elements."""

    source: str
    n_embd: int
    scale: float = 1.0


def read_adapter(header: Header, source: str, scale: float = 1.0) -> Adapter:
    """Take a LoRA adapter from its header. Raises `ModelError` for what is none, or lacks one of two matrices."""
    kind, what = header.metadata.get("general.type"), header.metadata.get("adapter.type")
    if kind != "adapter" or what != "lora":
        raise ModelError(
            f"{source}: general.type = {shown(kind)}, adapter.type = {shown(what)}: not a LoRA adapter;"
            " give a file that convert_lora_to_gguf.py wrote"
        )
    halves: dict[str, dict[str, Tensor]] = {}
    for t in header.tensors:
        name, dot, half = t.name.rpartition(".")
        if dot and half in ("lora_a", "lora_b"):
            halves.setdefault(name, {})[half] = Tensor(t.name, t.shape, t.type)
        elif not t.name.endswith("_norm.weight"):
            raise ModelError(f"{source}: tensor {shown(t.name)}: an adapter's end with .lora_a or .lora_b")
    for name, found in halves.items():
        if len(found) != 2:
            raise ModelError(f"{source}: {shown(name)} has {', '.join(found)} alone; take a whole adapter")
    pairs = tuple((name, x["lora_a"], x["lora_b"]) for name, x in halves.items())
    return Adapter(source, str(header.metadata.get("general.architecture", "")), pairs, scale)


def adapt(model: Model, adapters: Sequence[Adapter]) -> Model:
    """The model with the tensors of adapters beside its own. Raises `ModelError` for an adapter of another model."""
    _check_counted(model, adapters)
    places: dict[str, int] = {}
    for i, weight in enumerate(model.weights):
        places.setdefault(weight.tensor.name, i)
    more: list[Weight] = []
    for number, adapter in enumerate(adapters):
        if adapter.architecture != model.architecture:
            raise ModelError(
                f"{adapter.source}: an adapter of {shown(adapter.architecture)}, but the model is"
                f" {model.architecture}; give one that was made for it"
            )
        for name, a, b in adapter.pairs:
            if name not in places:
                raise ModelError(
                    f"{adapter.source}: it changes {shown(name)}, which the model does not have; is it made for another?"
                )
            more += _beside(model, places[name], a, b, number, adapter)
    return replace(model, weights=(*model.weights, *more))


def _check_counted(model: Model, given: Sequence[Adapter | ControlVector]) -> None:
    if given and model.architecture in _UNCOUNTED:
        raise ModelError(
            f"{given[0].source}: adapters of {model.architecture} cannot be counted; plan without"
        )


def _beside(model: Model, at: int, a: Tensor, b: Tensor, number: int, adapter: Adapter) -> Iterator[Weight]:
    base = model.weights[at]
    _check_shape(base.tensor, a, b, adapter.source)
    tail = f".{number}" if adapter.scale else ".idle"
    for t, half in ((a, "lora_a"), (b, "lora_b")):
        named = replace(t, name=f"{base.tensor.name}.{half}{tail}")
        yield Weight(named, base.home, op=base.op, beside=at)


def _check_shape(base: Tensor, a: Tensor, b: Tensor, source: str) -> None:
    """Raise `ModelError` where the engine would (llama-adapter.cpp:345-360)."""
    n, m = (*base.shape, 1)[:2]
    (a0, a1), (b0, b1) = (*a.shape, 1)[:2], (*b.shape, 1)[:2]
    sound = (n, m) == (b1, a1) if base.name == _EMBEDDING else (n, m, a1) == (a0, b1, b0)
    if not sound:
        raise ModelError(
            f"{source}: {shown(base.name)} is {list(base.shape)} in the model, and the adapter multiplies by"
            f" {list(a.shape)} and {list(b.shape)}; is it made for another?"
        )


def read_control_vector(header: Header, source: str, scale: float = 1.0) -> ControlVector:
    """Take a control vector from its header. Raises `ModelError` for what is none."""
    found = [t for t in header.tensors if re.fullmatch(r"direction\.[1-9]\d{0,3}", t.name)]
    if not found or any(t.type is not _F32 or len(t.shape) != 1 or t.shape != found[0].shape for t in found):
        raise ModelError(
            f"{source}: a control vector has tensors direction.1, direction.2, ... of one size in f32"
        )
    return ControlVector(source, found[0].shape[0], scale)


def steer(model: Model, vectors: Sequence[ControlVector]) -> Model:
    """The model with a direction in each layer but the first; several vectors are one, their sum.

    Raises `ModelError` for one of another size.
    """
    _check_counted(model, vectors)
    for vector in vectors:
        if vector.n_embd != model.n_embd:
            raise ModelError(
                f"{vector.source}: directions of {vector.n_embd} elements, but the model has {model.n_embd};"
                " give one that was made for it"
            )
    homes = {w.home for w in model.weights}  # a router has none, and is no layer to the engine
    runs = [x for x in model.layers[1:] if not x.is_nextn and (x.block is not None or x.index in homes)]
    layers = [x.index for x in runs] if vectors else []
    # the engine makes one for every layer that it runs but the first, whatever the files have
    more = [Weight(Tensor(f"blk.{il}.direction", (model.n_embd,), _F32), il, op="ADD") for il in layers]
    return replace(model, weights=(*model.weights, *more))
