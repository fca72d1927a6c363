"""Model + template → `Prepared`: which kind every layer is of.

In: a `Template`, a `Model`. Out: the block of each layer, and which layers come out alike whatever is
reserved. Raises `OutsideTemplate` where the template does not cover the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .._ggml.graph import Extents, contiguous
from .._llama.model import Layer, Model
from .compiled import Compiled
from .dims import (
    Scope,
    count,
    equal,
    header_number,
    header_value,
    is_of_layer,
    layer_weights,
    literals,
    n_bank,
    outer_weights,
    traits,
)
from .expressions import OutsideTemplate, format_expression, names
from .text import Block, Template

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model whose layers have found their kinds. Blocks are numbered as in the template."""

    model: Model
    template: Template
    blocks: tuple[int, ...]  # the block of each layer of the main graph
    kinds: tuple[int, ...]  # equal for layers of which the template says the same, whatever the reservation
    alike: tuple[int, ...]  # equal for layers whose tensors have the same layouts, too
    own: tuple[dict[str, int], ...]  # weights of each layer: suffix → position in Model.weights
    outer: dict[str, list[int]]
    asked: tuple[tuple[str, ...], ...]  # by block: the conditions that decide which lines apply
    compiled: dict[object, Compiled] = field(default_factory=dict, compare=False)
    shapes: dict[int, tuple[Extents, Extents]] = field(default_factory=dict, compare=False)

    def shape(self, index: int) -> tuple[Extents, Extents]:
        """Extents and strides of a weight; remembered."""
        found = self.shapes.get(index)
        if found is None:
            tensor = self.model.weights[index].tensor
            a, b, c, d = (*tensor.shape, 1, 1, 1, 1)[:4]
            found = self.shapes[index] = ((a, b, c, d), contiguous(tensor.type, (a, b, c, d)))
        return found


def prepare(template: Template, model: Model) -> Prepared:
    """Match every layer of `model` to a kind. Raises `OutsideTemplate` with the first reason why not."""
    outer = outer_weights(model)
    _check_weights("outside layers", outer, template.needs, template.allows)
    _check_known(template, model)
    _check_untraced(template, model)
    _check_window(template, model)
    _check_ties(template, model)
    own = layer_weights(model)
    trunk = [x for x in model.layers if not x.is_nextn]
    blocks = tuple(_kind(template, x, own[x.index]) for x in trunk)
    _check_unseen(template, trunk, blocks)
    asked = tuple(map(_asked, template.blocks))
    numbers: dict[object, int] = {}
    kinds = tuple(
        numbers.setdefault((b, _own_truths(model, x, own[x.index], outer, asked[b])), len(numbers))
        for b, x in zip(blocks, trunk, strict=True)
    )
    asks = tuple(map(_header_names, template.blocks))
    alike = tuple(
        numbers.setdefault((k, _layout_of(model, x, own[x.index], asks[b])), len(numbers))
        for k, b, x in zip(kinds, blocks, trunk, strict=True)
    )
    return Prepared(model, template, blocks, kinds, alike, tuple(own), outer, asked)


def _layout_of(model: Model, layer: Layer, own: dict[str, int], asks: Sequence[str]) -> object:
    """What the extents of a layer's tensors depend on, the reservation apart."""
    tensors = tuple(
        (n, model.weights[i].tensor.type.use, model.weights[i].tensor.shape) for n, i in own.items()
    )
    numbers = tuple(header_number(model, layer, x[1:]) for x in asks)
    return replace(layer, index=0), tensors, numbers, n_bank(model, layer), n_bank(model, layer, before=True)


def _header_names(block: Block) -> tuple[str, ...]:
    es = [e for line in block.lines for e in (*line.ne, *line.nb, line.count) if e is not None]
    return tuple(sorted({n for e in es for n in names(e) if n[0] == "."}))


def _own_truths(
    model: Model, layer: Layer, own: dict[str, int], outer: dict[str, list[int]], asked: Sequence[str]
) -> tuple[bool, ...]:
    """The conditions that depend on the layer alone."""
    scope = Scope(model, None, outer, {}, layer, own)
    return tuple(scope.truth(x) for x in asked if is_of_layer(x))


def _asked(block: Block) -> tuple[str, ...]:
    found = {x for line in block.lines for x in literals(line.guard)}
    args = [arg for line in block.lines for arg in line.args if arg[0][0] in "@$"]
    optional = {a.rstrip("?") for arg in args for a in arg if len(arg) > 1 or a[-1] == "?"}
    return tuple(sorted(found | optional))


def _check_weights(
    where: str, found: dict[str, list[int]], needs: Sequence[str], allows: Sequence[str]
) -> None:
    missing = [n for n in needs if n not in found]
    strange = [n for n in found if n not in needs and n not in allows]
    if missing or strange:
        what = f"lacks {missing[0]}" if missing else f"has {strange[0]}"
        raise OutsideTemplate(f"{where}: the model {what}, which no trace did")


def _check_unseen(template: Template, trunk: Sequence[Layer], blocks: Sequence[int]) -> None:
    """Layers must be of kinds that were traced where they are: inputs and outputs come in with the ends of a graph."""
    if len(trunk) < 2:
        raise OutsideTemplate("the main graph has a single layer or none, which no trace had")
    for end, at in (("first", 0), ("last", -1)):
        if blocks and end in template.blocks[blocks[at]].unseen:
            raise OutsideTemplate(f"the {end} layer is of a kind that no trace had there")
    for block, layer in zip(blocks, trunk, strict=True):
        if layer.n_head_kv and not (layer.head_k and layer.head_v):
            raise OutsideTemplate(f"layer {layer.index} has heads of no elements, which no trace had")
        if layer.n_head_kv == 1 and "one_head" in template.blocks[block].unseen:
            raise OutsideTemplate(f"layer {layer.index} has a single K/V head, which no trace had")


def _check_window(template: Template, model: Model) -> None:
    """With a windowed cache beside it the engine builds attention otherwise: where all traces had one, models must."""
    had = any("swa" in kind.traits for block in template.blocks for kind in block.kinds)
    told = any(
        x == "window" for block in template.blocks for line in block.lines for x in literals(line.guard)
    )
    if had and not told and model.has_cache and not any(x.is_swa for x in model.layers):
        raise OutsideTemplate("no layer has a window, and in all traces some had")


def _check_known(template: Template, model: Model) -> None:
    """Conditions on the header that change the graph must have a value that was traced."""
    values: dict[str, list[str]] = {}
    for condition in template.known:
        key, _, value = condition.partition("=")
        values.setdefault(key.removeprefix("."), []).append(value)
    for key, seen in values.items():
        for layer in model.layers:
            value = header_value(model, layer, key)
            if value not in seen:
                raise OutsideTemplate(f"{key} = {value or 'absent'}: no trace had that")


def _check_untraced(template: Template, model: Model) -> None:
    """Values that no trace had together may make what none of them makes alone."""
    for together in template.untraced:
        for layer in model.layers:
            if all(_has(model, layer, condition) for condition in together):
                raise OutsideTemplate(f"{' with '.join(map(_said, together))}: no trace had that")


def _has(model: Model, layer: Layer, condition: str) -> bool:
    """Whether a header value (".key=value") or a count ("n_layer=64") is the model's."""
    name, _, value = condition.partition("=")
    if name[0] == ".":
        return header_value(model, layer, name[1:]) == value
    return count(model, name) == int(value)


def _said(condition: str) -> str:
    name, _, value = condition.removeprefix(".").partition("=")
    return f"{name} = {value or 'absent'}"


def _check_ties(template: Template, model: Model) -> None:
    """Sizes that no trace told apart must be equal: an expression may have taken one for the other."""
    for one, other in template.ties:
        for layer in model.layers:
            if not layer.is_nextn and equal(model, layer, one, other) is False:
                raise OutsideTemplate(
                    f"layer {layer.index}: {format_expression(one)} is not {format_expression(other)},"
                    " as it was in all traces"
                )


def _kind(template: Template, layer: Layer, own: dict[str, int]) -> int:
    """The block of the kind that has the layer's traits, and its weights and no others."""
    its = traits(layer)
    found = own.keys()
    for i, block in enumerate(template.blocks[1:-1], 1):
        for kind in block.kinds:
            if kind.traits == its and found >= set(kind.needs) and found <= {*kind.needs, *kind.allows}:
                return i
    raise OutsideTemplate(f"layer {layer.index} is of no kind that was traced")
