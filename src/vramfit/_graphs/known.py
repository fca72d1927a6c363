"""Prepare a model for its builders: where its weights are, and which of its layers come out alike.

In: a `Model`. Out: `Known`, which every graph of the model starts from. Raises `Unbuildable` where no builder knows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .._ggml.graph import Extents, contiguous
from .._ggml.ops import Unbuildable
from .._llama.model import Home, Layer, Model

__all__ = ["Known", "know"]

_ADAPTER: Final = re.compile(r"\.(lora_a|lora_b|direction)(?:\.\d+)?$")  # as `_company.adapters` names them
_SCALES: Final = (".scale", ".input_scale")
Homes = Mapping[Home | int, int]  # where a weight was created for: its position in `Model.weights`


@dataclass(frozen=True, slots=True)
class Known:
    """A model, and where its weights are. `own` and `outer` hold positions in `Model.weights`."""

    model: Model
    trunk: tuple[int, ...]  # the layers of the main graph
    own: tuple[Mapping[str, int], ...]  # by layer: "attn_q.weight" -> position
    outer: Mapping[str, Homes]  # weights outside layers, by name and home
    shapes: Mapping[int, tuple[Extents, Extents]] = field(compare=False, repr=False)  # extents, strides
    alike: tuple[
        Hashable, ...
    ]  # of the trunk: equal for layers that make the same nodes, whatever the reservation
    adapters: Mapping[str, tuple[tuple[int, int], ...]]  # by weight: positions of each adapter's two matrices
    steered: Mapping[int, int]  # by layer: position of a control vector's direction
    stand_in: bool = False  # whether its graph is made by `stand_in`, and not by its architecture's builder


def know(model: Model, traits: Callable[[Model, int], Hashable] | None = None) -> Known:
    """Look up the weights of each layer once, and group layers that come out alike.

    `traits`: what else than its weights, its geometry and the header's arrays tells a builder's layers apart.
    """
    trunk = tuple(x.index for x in model.layers if not x.is_nextn)
    if not trunk:
        raise Unbuildable("the main graph has no layers")
    own, outer = _layer_weights(model), _outer_weights(model)
    shapes = {i: _shape(model, i) for i in range(len(model.weights))}
    arrays = [
        (key, x) for key, x in model.hparams.items() if isinstance(x, (list, tuple)) and len(x) > trunk[-1]
    ]
    # the first layer with a state brings the views of which states there are
    opens = next((il for il in trunk if model.layers[il].is_recurrent), None)
    alike = tuple(
        (_kind(model, model.layers[il], own[il], outer, arrays), il == opens, traits and traits(model, il))
        for il in trunk
    )
    return Known(model, trunk, own, outer, shapes, alike, *_adapters(model))


def _adapters(model: Model) -> tuple[Mapping[str, tuple[tuple[int, int], ...]], Mapping[int, int]]:
    """Adapters that are applied, by the weight that each changes; and directions of a control vector, by layer."""
    if model.company is None:
        return {}, {}
    from .unadapted import ignores_adapters, ignores_vectors  # few models have adapters

    low: dict[str, int] = {}
    found: dict[str, list[tuple[int, int]]] = {}
    steered: dict[int, int] = {}
    for i, weight in enumerate(model.weights):
        name, part = weight.tensor.name, _ADAPTER.search(weight.tensor.name)
        if part and part[1] == "direction" and isinstance(weight.home, int):
            if not ignores_vectors(model.architecture):
                steered[weight.home] = i
        elif part and weight.beside is not None:
            base = model.weights[weight.beside].tensor.name
            keeps = isinstance(weight.home, int) and model.layers[weight.home].is_recurrent
            if ignores_adapters(model.architecture, base, recurrent=keeps):
                continue
            if part[1] == "lora_a":
                low[name] = i
            else:
                found.setdefault(base, []).append((low[name.replace(".lora_b", ".lora_a")], i))
    return {name: tuple(pairs) for name, pairs in found.items()}, steered


def _kind(
    model: Model,
    layer: Layer,
    own: Mapping[str, int],
    outer: Mapping[str, Homes],
    arrays: Sequence[tuple[str, Sequence[object]]],
) -> Hashable:
    """Collect all that a builder can tell of a layer, but its index."""
    weights = tuple((name, _look(model, i)) for name, i in own.items())
    shared = tuple(name for name, homes in outer.items() if layer.index in homes)
    values = tuple(repr(x[layer.index]) for _, x in arrays)
    return replace(layer, index=0, block=None), weights, shared, values


def _look(model: Model, i: int) -> tuple[object, ...]:
    tensor = model.weights[i].tensor
    return tensor.shape, tensor.type.use


def _shape(model: Model, index: int) -> tuple[Extents, Extents]:
    tensor = model.weights[index].tensor
    a, b, c, d = (*tensor.shape, 1, 1, 1, 1)[:4]
    return (a, b, c, d), contiguous(tensor.type, (a, b, c, d))


def _of_layer(name: str) -> bool:
    """Tell whether a tensor is named after a layer: some encoders and decoders say so in front of it."""
    return name.startswith(("blk.", "enc.blk.", "dec.blk."))


def _layer_weights(model: Model) -> tuple[Mapping[str, int], ...]:
    """List the weights of each layer: its own, or those of the block that it runs again, with scales of its own."""
    found: list[dict[str, int]] = [{} for _ in model.layers]
    for i, weight in enumerate(model.weights):
        if isinstance(weight.home, int) and weight.home < len(found) and _of_layer(weight.tensor.name):
            name = weight.tensor.name.replace(
                f"blk.{weight.home}.", "", 1
            )  # "dec.blk.3.attn_q" is "dec.attn_q"
            found[weight.home][name] = i
    return tuple(
        found[x.index]
        if x.block is None
        else {n: i for n, i in found[x.block].items() if not n.endswith(_SCALES)}
        | {n: i for n, i in found[x.index].items() if n.endswith(_SCALES)}
        for x in model.layers
    )


def _outer_weights(model: Model) -> Mapping[str, Homes]:
    """List the weights outside layers. One can have several homes: a tied embedding, RoPE factors."""
    found: dict[str, dict[Home | int, int]] = {}
    for i, weight in enumerate(model.weights):
        if not _of_layer(weight.tensor.name):
            found.setdefault(weight.tensor.name, {}).setdefault(weight.home, i)
    return found
