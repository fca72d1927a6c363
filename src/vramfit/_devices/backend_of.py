"""The rules of a card's backend, with what is known of the card."""

from __future__ import annotations

from .._ggml.backends import Backend, backend, over_rpc
from .noun import Gpu

__all__ = ["backend_of"]


def backend_of(
    gpu: Gpu, *, pooled_copies: bool = False, keeps_sum: bool = True, keeps_choice: bool = True
) -> Backend:
    """Find the rules by which the engine allocates on a card; the switches are those of older builds (`backend`)."""
    rules = backend(
        gpu.backend,
        gpu.compute_capability,
        gpu.alignment,
        gpu.host_alignment,
        gpu.max_tensor_bytes,
        gpu.max_buffer_bytes,
        reached_tensor=gpu.reached_tensor_bytes,
        fp16=gpu.fp16,
        pooled_copies=pooled_copies,
        keeps_sum=keeps_sum,
        keeps_choice=keeps_choice,
    )
    return over_rpc(rules) if gpu.remote else rules
