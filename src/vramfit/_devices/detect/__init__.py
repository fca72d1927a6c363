"""This machine's cards: each source is a module with a pure function for what it prints, and one that asks.

| module    | one responsibility                                              |
|-----------|-----------------------------------------------------------------|
| `nouns`   | `Here` (the machine asked), `Seen` (a card by one source), `Asked`, `Found` |
| `nvidia`  | `nvidia-ml-py`, `nvidia-smi`                                    |
| `amd`     | `amdsmi`, /sys, `rocm-smi`                                      |
| `intel`   | `xpu-smi`, /sys                                                 |
| `apple`   | `sysctl`                                                        |
| `engine`  | `llama-server --list-devices`                                   |
| `pci`, `fdinfo` | the kernel: cards on the bus and their names; who holds memory |
| `visible` | CUDA_VISIBLE_DEVICES and its like                               |
| `merge`   | the engine's devices and the drivers' cards, put together       |
| `gpus`    | a card that was seen → `Gpu`                                    |
| `find`    | all of it → `Found`                                             |
"""

from __future__ import annotations

from .find import detect_gpus, find_cards, own_cards
from .nouns import Asked, Found, Here, Seen, User

__all__ = ["Asked", "Found", "Here", "Seen", "User", "detect_gpus", "find_cards", "own_cards"]
