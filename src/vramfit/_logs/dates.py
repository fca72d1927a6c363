"""The builds of llama.cpp that print such lines: a span, where a log names no build.

In: the names of functions and settings that were printed. Out: the first and the last build that prints them so.
Source: the numbers of builds beside lines of logs that name one; a bound is where the newer form was first seen, or the
older one last.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

__all__ = ["MARKS", "NEWEST", "OLDEST", "builds_of"]

OLDEST, NEWEST = 1700, 99999

# What was printed → the first build that can have printed it, and the last.
MARKS: Final = {
    "llm_load_tensors": (OLDEST, 4420),
    "llm_load_print_meta": (OLDEST, 4420),
    "llama_new_context_with_model": (OLDEST, 4480),
    "llama_init_from_model": (4460, 4885),
    "print_info": (4400, NEWEST),
    "llama_context": (4880, NEWEST),
    "llama_kv_cache_init": (OLDEST, 4885),
    "llama_kv_cache_unified": (4990, 6250),
    "llama_kv_cache_unified_iswa": (5400, 6250),
    "llama_kv_cache": (6180, NEWEST),
    "n_ctx_per_seq": (4100, 6930),
    "kv_unified": (6000, NEWEST),
    "n_ctx_seq": (6900, NEWEST),
    "flash_attn=auto": (6320, NEWEST),
    "sched_reserve": (7700, NEWEST),
    "llama_memory_recurrent": (5570, NEWEST),
    "n_outputs_max": (9452, NEWEST),
    "llama_prepare_model_devices": (8900, NEWEST),
    "resolve_fused_ops": (9600, NEWEST),
    "n_embd_inp": (7050, NEWEST),
}


def builds_of(marks: Collection[str]) -> tuple[int, int]:
    """The builds that print all of `marks`, the first and the last; a fork prints what no build does: then all."""
    spans = [MARKS[m] for m in marks if m in MARKS]
    low, high = max((a for a, _ in spans), default=OLDEST), min((b for _, b in spans), default=NEWEST)
    return (low, high) if low <= high else (OLDEST, NEWEST)
