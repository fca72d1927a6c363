"""What a draft reads of the model that it drafts for: tables that its own file lacks, and caches that it keeps none of.

In: a draft, its target, where the target's parts lie. Out: the draft with these parts among its own, marked as lent: they are
read where they are, and take no room of the draft's.
Source: llama-context.cpp:147-162 (ctx_other), models/eagle3.cpp:170 and 296, models/dflash.cpp:683, models/gemma4-assistant.cpp:97,
`llama_model::create_memory` (llama-model.cpp:2809-2822), `llama_kv_cache` (llama-kv-cache.cpp:148-160).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from .._base.errors import EngineRefusal, ModelError
from .._llama.model import Home, Layer, Model, Tensor, Weight
from .._llama.placement import HOST, Placement

__all__ = ["lend", "reads_caches", "reads_target"]

_TABLES: Final = frozenset({"eagle3", "dflash"})  # whose embeddings or output matrix may be the target's
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_BEHIND: Final = {True: 2, False: 1}  # from the target's end: whose cache is read, with windows and without


def reads_caches(draft: Model) -> bool:
    """Whether a draft keeps no keys and values, but reads its target's."""
    return draft.architecture == "gemma4-assistant"


def reads_target(draft: Model) -> bool:
    """Whether a draft reads something of its target's: the engine makes no context of it alone."""
    return reads_caches(draft) or bool(draft.architecture in _TABLES and _missing(draft))


def lend(
    draft: Model, target: Model, placed: Placement, numbers: Mapping[int, int], types: tuple[str, str]
) -> Model:
    """Put what a draft reads of its target among its own parts, by the numbers that the target's devices have in the draft.

    `types` are those of the target's caches.

    Raises `EngineRefusal` for what lies on a device that the draft does not use, `ModelError` for a target that it was not made for.
    """
    if reads_caches(draft):
        return replace(_with_caches(draft, target, placed, numbers), lent_types=types)
    lent = [_table(draft, target, placed, numbers, *part) for part in _missing(draft)]
    return replace(draft, weights=(*draft.weights, *lent), borrows=True)


def _missing(draft: Model) -> tuple[tuple[str, Home], ...]:
    """The tables that a draft's file lacks."""
    there = {(w.tensor.name, w.home) for w in draft.weights}
    return tuple(part for part in ((_EMBEDDING, Home.INPUT), (_OUTPUT, Home.OUTPUT)) if part not in there)


def _table(
    draft: Model, target: Model, placed: Placement, numbers: Mapping[int, int], name: str, home: Home, prefix: str = ""
) -> Weight:  # fmt: skip
    """The target's embeddings or output matrix, as a weight of the draft's."""
    known = (_EMBEDDING,) if home is Home.INPUT else (_OUTPUT, _EMBEDDING)
    for sought in known:
        for weight, at in zip(target.weights, placed.weights, strict=True):
            if weight.tensor.name == sought and weight.home is home and weight.lent is None:
                number = _number(draft, sought, at, numbers)
                _check_width(draft, weight.tensor, prefix)
                return Weight(replace(weight.tensor, name=prefix + name), home, op=weight.op, lent=number)
    raise ModelError(f"{draft.source}: it has no {name} of its own, and the model none that it could read")


def _check_width(draft: Model, table: Tensor, prefix: str) -> None:
    """Raise `ModelError` for a table whose rows are not as wide as what the draft puts beside or before them."""
    width = draft.hparams.get("embedding_length_out") if prefix else draft.n_embd
    if table.shape[0] != width:
        raise ModelError(
            f"{draft.source}: it reads rows of {width} elements, and the model's {table.name} has {table.shape[0]};"
            " give a draft that was made for it"
        )


def _number(draft: Model, what: str, at: int, numbers: Mapping[int, int]) -> int:
    if at == HOST:
        return HOST
    if at not in numbers:
        raise EngineRefusal(
            f"the draft {draft.name or draft.architecture} reads the model's {what} on a card that is not among its own, at which"
            " the engine stops; leave out --device-draft, or name that card, too"
        )
    return numbers[at]


def _with_caches(draft: Model, target: Model, placed: Placement, numbers: Mapping[int, int]) -> Model:
    """A draft without caches, each layer of which reads that of one of the target's last two layers."""
    table = _table(draft, target, placed, numbers, _EMBEDDING, Home.INPUT, prefix="target.")
    layers = tuple(_reading(draft, x, target, placed, numbers) for x in draft.layers)
    return replace(
        draft,
        weights=(*draft.weights, table),
        layers=layers,
        v_width_max=target.v_width_max,
        borrows=True,
    )


def _reading(
    draft: Model, layer: Layer, target: Model, placed: Placement, numbers: Mapping[int, int]
) -> Layer:
    own = [x for x in target.layers if not x.is_nextn]
    read = own[-_BEHIND[layer.is_swa]] if len(own) > 1 else None
    if read is not None and read.shares_kv_with is not None:
        read = target.layers[read.shares_kv_with]
    width = layer.head_k * layer.n_head_kv
    if read is None or read.is_swa != layer.is_swa or [c.k_width for c in read.caches] != [width]:
        raise ModelError(
            f"{draft.source}: its layer {layer.index} reads keys of {width} elements, and the model's last layers have none"
            " such; give the assistant that was made for it"
        )
    number = _number(draft, f"cache of layer {read.index}", placed.caches[read.index], numbers)
    return replace(layer, caches=read.caches, is_nextn=False, lent=number)
