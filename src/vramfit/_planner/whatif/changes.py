"""Turn settings into others that take less memory, and into the flags that say the difference.

Nothing here asks whether something fits. Flags are llama.cpp's (common/arg.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ..._ggml.types import tensor_type
from ..._llama.cparams import needs_flash_attn, physical_batch, resolve
from ..._llama.model import Home, Model, Tensor
from ..._llama.params import EXPERTS, Settings

__all__ = [
    "SMALLEST_UBATCH", "cache_pairs", "expert_tensors", "flags", "host_layers", "one_slot", "ubatches", "with_experts",
    "with_pair",
]  # fmt: skip

TYPES: Final = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
SMALLEST_UBATCH: Final = 64
_FLAGS: Final = {"flash_attn": "-fa", "type_k": "-ctk", "type_v": "-ctv", "n_ubatch": "-ub", "n_seq_max": "-np",
                 "n_gpu_layers": "-ngl"}  # fmt: skip
_LAYER: Final = re.compile(r"blk\\\.(\d+)" + re.escape(EXPERTS))


def flags(asked: Settings, settings: Settings) -> str:
    """Write the flags to append to a command line of `asked`, so that it asks for `settings`; contexts and splits apart."""
    found = [
        f"{flag} {getattr(settings, field)}"
        for field, flag in _FLAGS.items()
        if getattr(settings, field) != getattr(asked, field)
    ]
    found += ["-nkvo"] if asked.offload_kqv and not settings.offload_kqv else []
    layers = sum(bool(_LAYER.fullmatch(p)) for p in settings.cpu_tensors)
    found += (
        [f"-ncmoe {layers}"] if layers > sum(bool(_LAYER.fullmatch(p)) for p in asked.cpu_tensors) else []
    )
    found += [
        f"-ot '{p}=CPU'"
        for p in settings.cpu_tensors
        if p not in asked.cpu_tensors and not _LAYER.fullmatch(p)
    ]
    return " ".join(found)


def cache_pairs(model: Model, asked: Settings) -> tuple[tuple[str, str], ...]:
    """List the pairs of cache types that are no wider than those asked about, widest first; of equal pairs the wider K.

    Those asked about come first. Where the model caches no V, its type stays.
    """
    has_v = any(cache.has_v for layer in model.layers for cache in layer.caches)
    pairs = [
        (k, v)
        for k in _no_wider(asked.type_k)
        for v in (_no_wider(asked.type_v) if has_v else (asked.type_v,))
        if (k, v) != (asked.type_k, asked.type_v)
    ]
    pairs.sort(key=lambda pair: (-_bits(pair[0]) - _bits(pair[1]), -_bits(pair[0])))
    return ((asked.type_k, asked.type_v), *pairs)


def _bits(name: str) -> int:
    return tensor_type(name).row_bytes(256)


def _no_wider(name: str) -> Sequence[str]:
    return (name, *(other for other in TYPES if _bits(other) < _bits(name)))


def with_pair(settings: Settings, pair: tuple[str, str]) -> Settings:
    """Return `settings` with these cache types, and with flash attention where a quantized V needs it."""
    needs = needs_flash_attn(tensor_type(pair[1])) and settings.flash_attn == "off"
    flash_attn = "on" if needs else settings.flash_attn
    return replace(settings, type_k=pair[0], type_v=pair[1], flash_attn=flash_attn)


def ubatches(settings: Settings) -> tuple[int, ...]:
    """List physical batches, in tokens: the one asked about, its half, and so on down to 64."""
    sizes = [physical_batch(settings)]
    while sizes[-1] // 2 >= SMALLEST_UBATCH:
        sizes.append(sizes[-1] // 2)
    return tuple(sizes)


def one_slot(model: Model, settings: Settings) -> Settings:
    """Return `settings` with one slot that has the context of each; it keeps one row of logits where each kept one."""
    n_ctx = resolve(model, settings).n_ctx_seq if settings.n_ctx else 0
    outputs = min(1, settings.n_outputs_max)
    return replace(settings, n_seq_max=1, n_ctx=n_ctx, n_outputs_max=outputs)


def with_experts(settings: Settings, n_layers: int, tensors: Sequence[str] = ()) -> Settings:
    """Return `settings` with the experts of the first `n_layers` layers on the host, and single `tensors` beside them."""
    others = [p for p in settings.cpu_tensors if not _LAYER.fullmatch(p)]
    single = [re.escape(name) for name in tensors]
    layers = [rf"blk\.{i}{EXPERTS}" for i in range(n_layers)]
    return replace(settings, cpu_tensors=(*others, *single, *layers))


def host_layers(settings: Settings) -> int:
    """Count the layers whose experts `settings` keep on the host (`-ncmoe`)."""
    return sum(bool(_LAYER.fullmatch(p)) for p in settings.cpu_tensors)


def expert_tensors(model: Model, settings: Settings) -> dict[int, tuple[Tensor, ...]]:
    """List the stacks of experts that `settings` leave on the cards, by layer, smallest first."""
    on_host = [re.compile(p) for p in settings.cpu_tensors]
    found: dict[int, list[Tensor]] = {}
    for weight in model.weights:
        name = weight.tensor.name
        if isinstance(weight.home, Home) or not re.search(EXPERTS, name):
            continue
        if not any(p.search(name) for p in on_host):
            found.setdefault(weight.home, []).append(weight.tensor)
    return {il: tuple(sorted(found[il], key=lambda t: t.n_bytes)) for il in sorted(found)}
