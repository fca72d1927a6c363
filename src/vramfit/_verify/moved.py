"""How many layers keep their experts on the host, where the log says only how many bytes lie on the cards.

`--n-cpu-moe`, `-ot` and the engine's own fit leave experts of some layers on the host while the layers count as offloaded; newer
builds do not print which. What the cards hold of the file tells how many; a reserved compute buffer then has room for the
experts that are copied there for a batch, whichever layer they are of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .._devices import Gpu
from .._ggml.graph import HOST
from .._llama.eras import era_of, rules_of
from .._llama.flags import first_experts
from .._llama.model import Model
from .._llama.params import EXPERTS, Settings
from .._llama.placement import place
from .._logs import HOST as HOST_PLACE
from .._logs import Load, Size

__all__ = ["experts_on_host"]

LEAST: Final = 0.03  # of the file: a smaller difference is one of quantization
_LAYER: Final = re.compile(rf"blk\.(\d+){EXPERTS}")


def experts_on_host(load: Load, model: Model, gpus: Sequence[Gpu], settings: Settings) -> tuple[str, ...]:
    """Patterns of the experts of as many first layers as the bytes on the cards leave to the host; () for none."""
    if settings.cpu_tensors or not gpus or not model.n_expert or load.own_runner:
        return ()
    on_cards = sum(s.middle for place in load.places if (s := load.sizes(place, "model")))
    whole = _whole(load, model)
    if not on_cards or not whole:
        return ()
    placed, rules = place(model, gpus[:1], settings), rules_of(gpus[0], era_of(settings.engine_build))
    ours, experts = 0, [0] * model.n_layer
    for weight, device in zip(model.weights, placed.weights, strict=True):
        if device == HOST:
            continue
        n = rules.alloc_bytes(weight.tensor.type, weight.tensor.shape)
        ours += n
        if found := _LAYER.match(weight.tensor.name):
            experts[min(int(found[1]), model.n_layer - 1)] += n
    missing = ours / model.tensor_bytes - on_cards / whole
    if missing < LEAST:
        return ()
    left, count = missing * model.tensor_bytes, 0
    while count < model.n_layer and left > experts[count] / 2:
        left -= experts[count]
        count += 1
    return first_experts(count)


def _whole(load: Load, model: Model) -> int:
    """Bytes of the file that was loaded: as printed, else what lies on cards and host where that was not mapped."""
    size = load.facts.get("file_size")
    if isinstance(size, Size):
        return size.middle
    if any(b.is_mapped for b in load.buffers if b.device == HOST_PLACE):
        return model.tensor_bytes
    parts = [s.middle for place in (*load.places, HOST_PLACE) if (s := load.sizes(place, "model"))]
    return sum(parts) if len(parts) > len(load.places) else model.tensor_bytes
