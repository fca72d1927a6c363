"""Count what each further process takes of a card before it loads a model: its driver's context, and a workspace.

In: a card. Out: bytes. A card's free memory is what one process finds; each model runs in a process of its own
(llama-server, the router's children, Ollama's runners, LM Studio's), and each makes its context on every card that it sees.
"""

from __future__ import annotations

from dataclasses import replace

from ..._devices import Gpu
from ..warnings import overheads

__all__ = ["process_bytes"]

_NOT_A_PROCESS = "wired limit"  # of the machine, once


def process_bytes(gpu: Gpu) -> int:
    """Count the bytes of a card that a further process takes, by the rules of the catalogue."""
    unmeasured = replace(gpu, free_bytes=None, free_measured=False)
    return sum(o.n_bytes for o in overheads(unmeasured) if o.name != _NOT_A_PROCESS)
