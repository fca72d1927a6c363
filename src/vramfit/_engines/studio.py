"""Write a plan for LM Studio: `lms load`, and the settings that only its window has.

Source: its documentation of `lms load` and the load configuration of its SDK. It takes no split: layers go
evenly over the cards, or fill one after the other.
"""

from __future__ import annotations

from pathlib import PurePath

from .._base.foreign import shell_line
from .._planner.plan import Plan
from .settings import as_run

__all__ = ["words"]


def words(plan: Plan) -> str:
    """Write the command, and the load settings beside it as comments."""
    s = as_run(plan.settings, "lm-studio")
    layers, whole = sum(plan.tensor_split), plan.model.n_layer + 1
    gpu = "max" if layers >= whole else "off" if not layers else f"{layers / whole:.4g}"
    key = PurePath(plan.model.source).stem if not plan.model.source.startswith("<") else ""
    command = [
        "lms",
        "load",
        key or "MODEL",
        "--gpu",
        gpu,
        "--context-length",
        str(s.n_ctx),
        "--parallel",
        str(s.n_seq_max),
    ]
    beside = [
        f"Flash Attention {'on' if plan.estimate.flash_attn else 'off'}",
        f"K Cache Quantization {s.type_k}",
        f"V Cache Quantization {s.type_v}",
        f"Evaluation Batch Size {s.n_batch}",
        f"Unified KV Cache {'on' if s.kv_unified else 'off'}",
        f"Offload KV Cache to GPU Memory {'on' if s.offload_kqv else 'off'}",
    ]
    return "\n".join([*(f"# {line}" for line in beside), shell_line(command)])
