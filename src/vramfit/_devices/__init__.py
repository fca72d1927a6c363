"""Cards: what one offers, how a person names it, which ones this machine has.

| module      | one responsibility                                   |
|-------------|------------------------------------------------------|
| `noun`      | `Gpu`                                                |
| `catalogue` | `data/gpus.yaml` → `Card`, its rules, the size a driver reports |
| `names`     | what people type → the cards it can mean, least memory first |
| `drivers`   | what a card's driver reports to Vulkan, by driver |
| `spec`      | "2x4090,3090ti:22GiB" → `Gpu`s                       |
| `machines`  | which machine each card is in, and the engine's order of them |
| `backend_of` | a card → the rules of its backend |
| `detect`    | this machine → `Gpu`s; imported by those who ask     |
| `servers`   | rpc-servers that run → the memory that they find free |
| `host_memory`, `ask` | this machine's memory, what its programs print; imported by those who ask |
| `host`      | "64GiB:58GiB" → `Host`                               |
| `host_detection` | this machine → `Host`                           |
| `check`     | every fault of a catalogue in one error              |
"""

from __future__ import annotations

from .backend_of import backend_of
from .catalogue import Card, Rules, all_cards, rules
from .check import validate_catalogue
from .host import Host, parse_host
from .machines import Machine, in_engine_order, machines
from .names import find, versions
from .noun import BACKENDS, MAX_GPUS, Gpu, assumed, numbered, told_apart
from .spec import all_gpus, parse_gpus, select_gpus

__all__ = [
    "BACKENDS",
    "MAX_GPUS",
    "Card",
    "Gpu",
    "Host",
    "Machine",
    "Rules",
    "all_cards",
    "all_gpus",
    "assumed",
    "backend_of",
    "find",
    "in_engine_order",
    "machines",
    "numbered",
    "parse_gpus",
    "parse_host",
    "rules",
    "select_gpus",
    "told_apart",
    "validate_catalogue",
    "versions",
]
