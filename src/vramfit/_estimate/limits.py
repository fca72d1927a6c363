"""Refuse what the engine cannot load: a weight above the largest buffer of the card that it is placed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .._base.errors import EngineRefusal
from .._base.foreign import printable
from .._base.units import format_bytes
from .._devices import Gpu
from .._llama.model import Model
from .._llama.placement import HOST, Placement

__all__ = ["check_buffers"]

# They allocate a weight in one buffer (ggml-alloc.c:1187, ggml-metal-device.m:2208, ggml-sycl.cpp:1030); Vulkan says of such a
# weight that it cannot use it, so that it stays on the host (ggml-vulkan.cpp:15308).
_ONE_BUFFER: Final = ("metal", "sycl")


def check_buffers(model: Model, placement: Placement, used: Sequence[Gpu]) -> None:
    """Raise `EngineRefusal` for the largest weight that no buffer of its card can hold. `used` are the cards in use."""
    for weight, device in zip(model.weights, placement.weights, strict=True):
        gpu = None if device == HOST else used[device]
        if gpu is None or gpu.backend not in _ONE_BUFFER or not gpu.max_buffer_bytes:
            continue
        if weight.tensor.n_bytes > gpu.max_buffer_bytes:
            name = printable(weight.tensor.name, 80)
            raise EngineRefusal(
                f"{name}: {format_bytes(weight.tensor.n_bytes)} in one buffer of {gpu.name}, whose largest is"
                f" {format_bytes(gpu.max_buffer_bytes)}: the engine does not load it; keep it on the host, as in"
                f" -ot '{name}=CPU', or take a file type whose tensors are smaller"
            )
