"""List what the engine creates from the file's tensors, and where.

Not every tensor list is repeated here: a tensor that fits a name the engine knows counts as wanted.
Source: `llama_model_loader::create_tensor` (llama-model-loader.cpp:1116-1400) and the
`load_arch_tensors` of src/models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ..._base.errors import ModelError
from ..model import Home, Tensor, Weight
from .geometry import Geometry
from .names import Name, parse
from .table import Architecture, Output, Rope

__all__ = ["Created", "create"]

LAZY_ABOVE: Final = 4 << 30  # bytes (llama-model-loader.cpp:1095)
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


class Created(NamedTuple):
    """What the engine creates, and the names of the tensors that it would refuse the file for."""

    weights: tuple[Weight, ...]
    unknown: tuple[str, ...]
    mtp: tuple[Weight, ...] = ()  # of next-token-prediction blocks, created only where these are loaded


def create(arch: Architecture, g: Geometry, tensors: Sequence[Tensor], source: str = "") -> Created:
    """List weights in the engine's order where the order matters. Raises `ModelError` for a missing embedding."""
    weights: list[Weight] = []
    unknown: list[str] = []
    for tensor in tensors:
        name = parse(tensor.name)
        if name is None or not _wanted(arch, g, tensor, name):
            unknown.append(tensor.name)
        elif not name.is_unused:
            weights.extend(_weights(arch, g, tensor, name))
    tied = _tied(arch, {t.name: t for t in tensors}, source)
    made = {w.tensor.name for w in weights}
    mtp = tuple(w for t in tensors if t.name not in made for w in _of_nextn(arch, g, t))
    first = arch.output in (Output.TIED_FIRST, Output.EMBEDS)
    return Created((*tied, *weights) if first else (*weights, *tied), tuple(unknown), mtp)


def _of_nextn(arch: Architecture, g: Geometry, tensor: Tensor) -> Iterator[Weight]:
    """The weight of a next-token-prediction block, if the tensor is one that the engine has a use for."""
    name = parse(tensor.name)
    known = name is not None and not name.is_unused and _wanted(arch, g, tensor, name)
    if known and name is not None and isinstance(name.home, int) and name.home >= g.n_trunk > 0:
        yield Weight(tensor, name.home, op=name.op)


def _wanted(arch: Architecture, g: Geometry, tensor: Tensor, name: Name) -> bool:
    if isinstance(name.home, int) and name.home >= g.n_weights:
        # layers that run the weights of others may have scales of their own (llama-model.cpp:1634)
        return bool(arch.loops) and name.home < g.n_layer and tensor.name.endswith((".scale", ".input_scale"))
    if isinstance(name.home, int) and name.home >= g.n_trunk > 0 and not arch.has_nextn:
        return False
    if name.is_shared:
        return arch.rope is not Rope.NONE
    return not (tensor.name == OUTPUT and arch.output in (Output.ALWAYS_TIED, Output.NONE))


def _weights(arch: Architecture, g: Geometry, tensor: Tensor, name: Name) -> Iterator[Weight]:
    if name.is_shared:
        homes = [il for il in range(g.n_weights) if _has_rope(arch, g, il)]
        yield from (Weight(tensor, il, duplicate=i > 0, op=name.op) for i, il in enumerate(homes))
    elif name.base == "token_embd_norm" and arch.norm_is_output:
        yield Weight(tensor, Home.OUTPUT, op=name.op)
    elif isinstance(name.home, int) and name.home >= g.n_trunk > 0:
        if arch.nextn_loaded and re.match(arch.nextn_loaded, name.base.removeprefix("blk.")):
            yield Weight(tensor, name.home, op=name.op)
    elif name.base == "blk.ssm_a":
        scan = _scan(g, tensor)
        yield Weight(tensor, name.home, op="SSM_SCAN" if scan else "MUL", scan=scan)
    elif name.base == "blk.indexer_compressor_ape" and not arch.pooled_indexer:  # two tensors of one name
        yield Weight(tensor, name.home, op="GET_ROWS")
    else:
        lazy = arch.lazy_embeddings and name.base == "per_layer_token_embd" and tensor.n_bytes > LAZY_ABOVE
        yield Weight(tensor, name.home, lazy=lazy, op=name.op)


def _scan(g: Geometry, tensor: Tensor) -> tuple[int, ...]:
    """Make the scan that the loader tests a device with: state, head, heads, groups (llama-model-loader.cpp:1010-1026)."""
    if g.ssm is None:
        return ()
    state, inner, groups = g.ssm
    ne0, n_head = (*tensor.shape, 1)[:2]
    return state if ne0 == 1 else ne0, inner // max(n_head, 1), n_head, groups


def _has_rope(arch: Architecture, g: Geometry, il: int) -> bool:
    if arch.rope is Rope.DENSE:
        return not g.is_swa[il]
    return arch.rope is Rope.ALL or il < g.n_trunk


def _tied(arch: Architecture, tensors: dict[str, Tensor], source: str) -> tuple[Weight, ...]:
    """Give an embedding its second life as output matrix, or the other way round."""
    embedding, output = tensors.get(EMBEDDING), tensors.get(OUTPUT)
    if embedding is None and not arch.is_draft and (output is None or arch.output is not Output.EMBEDS):
        _missing(EMBEDDING, source)
    if output is None and arch.output in (Output.OWN, Output.EMBEDS):
        _missing(OUTPUT, source)
    if arch.output is Output.EMBEDS:
        return () if embedding or output is None else (Weight(output, Home.OUTPUT, duplicate=True),)
    ties = arch.output in (Output.TIED, Output.TIED_FIRST) and output is None
    if embedding is not None and (ties or arch.output is Output.ALWAYS_TIED):
        return (Weight(embedding, Home.OUTPUT, duplicate=True),)
    return ()


def _missing(name: str, source: str) -> None:
    where = f"{source}: " if source else ""
    raise ModelError(f"{where}tensor {name!r} is missing; is this a part of a split file, or a projector?")
