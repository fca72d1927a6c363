"""Write a plan as keyword arguments of `llama_cpp.Llama` (llama_cpp/llama.py:60-120 of 0.3.36), in Python."""

from __future__ import annotations

from typing import Final

from .._ggml.types import tensor_type
from .._llama.cparams import physical_batch
from .._llama.params import POOLINGS, Settings
from .._planner.plan import Plan
from .settings import as_run

__all__ = ["keywords", "source"]

SPLIT_MODE: Final = {"none": 0, "layer": 1}  # enum llama_split_mode


def source(plan: Plan) -> str:
    """Write the call that loads the model as planned."""
    path = plan.model.source if not plan.model.source.startswith("<") else ""
    words = [f"    model_path={path or 'model.gguf'!r},"]
    words += [f"    {name}={value!r}," for name, value in keywords(plan).items()]
    return "\n".join(["from llama_cpp import Llama", "", "llm = Llama(", *words, ")"])


def keywords(plan: Plan) -> dict[str, object]:
    """List the arguments beside the path. Flash attention is on or off here: what `auto` became in the plan."""
    s: Settings = as_run(plan.settings, "llama-cpp-python")
    found: dict[str, object] = {
        "n_ctx": s.n_ctx,
        "n_batch": s.n_batch,
        "n_ubatch": physical_batch(s),
        "n_gpu_layers": s.n_gpu_layers,
        "flash_attn": plan.estimate.flash_attn,
        "swa_full": s.swa_full,
        "offload_kqv": s.offload_kqv,
        "op_offload": s.op_offload,
        "type_k": tensor_type(s.type_k).id,
        "type_v": tensor_type(s.type_v).id,
    }
    if s.tensor_split:
        found["tensor_split"] = list(s.tensor_split)
    if s.split_mode == "none":
        found |= {"split_mode": SPLIT_MODE["none"], "main_gpu": s.main_gpu}
    if s.load_mode != "auto":  # llama.py:248
        found |= {"use_mmap": "mmap" in s.load_mode, "use_mlock": "mlock" in s.load_mode}
    if s.embeddings:
        found["embedding"] = True
    if s.pooling:
        found["pooling_type"] = POOLINGS.index(s.pooling)  # enum llama_pooling_type
    return found
