"""Bytes that a projector takes: its weights, and the compute buffers that the engine reserves when it loads it.

In: a `Projector`, the rules of the device that it is on. Out: a `Reserve`. Where no graph is known, buffers are a bound
that is meant to be no lower than the engine's.
Source: `load_tensors`, `warmup` and `reserve_compute_meta` (clip.cpp:2064-2190, 3640-3850).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from .._base.errors import EngineRefusal
from .._ggml.backends import HOST_BACKEND, Backend, pad
from .._ggml.galloc import allocate, held
from .._ggml.graph import HOST
from .._ggml.ops import Unbuildable
from .._ggml.sched import Schedule, node_of, schedule
from .builders import build
from .context import TowerContext
from .header import Projector, Tower
from .warmup import Frame, largest, patch_size, warmup

__all__ = ["Reserve", "reserve"]

F32: Final = 4
_IMAGE_COPIES: Final = 6  # the pixels, and what a convolution makes of them
_TOKEN_COPIES: Final = 12  # rows of a layer that may be alive at once
_SCORE_COPIES: Final = 4
_CONVOLVED: Final = 128  # channels of a convolution at half the size of the image
_SLACK: Final = 16 << 20
_MASKS: Final = 6


@dataclass(frozen=True, slots=True)
class Reserve:
    """Bytes on the device, or on the host where there is none, and of buffers on the host beside a device.

    `later` is how much larger the buffers get with the largest image that the engine makes of any, on the device, and
    `tokens` is how many an image, or a tile of one, then takes of the context; `widths` are elements of the rows that each
    tower makes. What is not known is 0, or no width. `note` says why bytes are not known to be exact, "" where they are.
    """

    weights: int
    compute: int
    host: int
    later: int
    tokens: int = 0
    widths: tuple[int, ...] = ()
    note: str = ""


@lru_cache(maxsize=16)
def reserve(
    projector: Projector, device: Backend | None, flash_attn: str = "auto", max_tokens: int = 0
) -> Reserve:
    """What the engine allocates for a projector on a device, or without one on the host."""
    rules = device or HOST_BACKEND
    weights, compute, host, later, notes, tokens = 0, 0, 0, 0, list[str](), 0
    widths: list[int] = []
    for tower in projector.towers:
        weights += sum(
            pad(rules.alloc_bytes(t.type, t.shape), rules.alignment) for t in tower.tensors.values()
        )
        first, big = warmup(tower, max_tokens), largest(tower, max_tokens)
        needs, note = _needs(tower, first, device, flash_attn)
        most = needs if big == first else _needs(tower, big, device, flash_attn)[0]
        compute, host = compute + needs[0], host + (needs[1] if device else 0)
        later += max(0, most[0] - needs[0])
        notes += [note] if note else []
        rows = _rows(tower, big)
        if rows is not None:
            widths.append(rows[0])
            tokens = max(tokens, rows[1] if tower.modality == "vision" else 0)
    return Reserve(weights, compute, host, later, tokens, tuple(widths), "; ".join(dict.fromkeys(notes)))


def _rows(tower: Tower, frame: Frame) -> tuple[int, int] | None:
    """Elements of a row that the graph ends with, and rows; None where no graph is known."""
    try:
        g = TowerContext(tower, frame, HOST, flash_attn=True)
        build(g)
    except Unbuildable:
        return None
    ne = g.tensors[g.nodes[-1]].ne
    return ne[0], ne[1] * ne[2]


def _needs(
    tower: Tower, frame: Frame, device: Backend | None, flash_attn: str
) -> tuple[tuple[int, ...], str]:
    """Bytes of the buffer on the device, and on the host behind it; and why they are not exact."""
    try:
        found = _replayed(tower, frame, device, flash_attn)
    except (Unbuildable, EngineRefusal) as reason:
        return (_bound(tower, frame), _inputs(tower, frame)), str(reason)
    note = "" if device is None or device.exact else f"the rules of {device.name} {device.unproved}"
    return found, note


def _replayed(tower: Tower, frame: Frame, device: Backend | None, flash_attn: str) -> tuple[int, ...]:
    """What is reserved, with flash attention where the device runs it."""
    # the host's memory is never pinned here
    backends = () if device is None else (replace(device, pinned=None),)
    plan = _plan(tower, frame, backends, flash_attn=flash_attn != "off")
    if flash_attn == "auto" and device is not None and not _attends(plan, device):
        slow = _plan(tower, frame, backends, flash_attn=False)
        return held([allocate(plan), allocate(slow)])
    return held([allocate(plan)])


def _plan(tower: Tower, frame: Frame, backends: Sequence[Backend], *, flash_attn: bool) -> Schedule:
    g = TowerContext(tower, frame, 0 if backends else HOST, flash_attn=flash_attn)
    build(g)
    return schedule(g.graph(), backends, n_copies=1, op_offload=True)


def _attends(plan: Schedule, device: Backend) -> bool:
    """Whether the device runs every attention of the graph."""
    for i, _ in plan.nodes:
        if plan.tensors[i].op == "FLASH_ATTN_EXT":
            node = node_of(i, plan.tensors, plan.src[i])
            if not device.supports_op(node.tensor, node.src):
                return False
    return True


def _inputs(tower: Tower, frame: Frame) -> int:
    """The image or the recording, positions, and masks of windows."""
    pixels, n = frame.width * frame.height * (3 if tower.modality == "vision" else 1), _tokens(tower, frame)
    return (pixels + 64 * n + (_MASKS * n * n if tower.modality == "vision" else 0)) * F32 + _SLACK


def _tokens(tower: Tower, frame: Frame) -> int:
    """Positions that a layer computes."""
    if tower.modality == "audio":
        return frame.width
    size = patch_size(tower)
    return (frame.width // size + 1) * (frame.height // size + 1)


def _bound(tower: Tower, frame: Frame) -> int:
    """Rows of a layer, scores of all heads, and what convolutions make of the image, as if little were reused."""
    n, widest = (
        _tokens(tower, frame),
        max((max(t.shape) for t in tower.tensors.values() if len(t.shape) > 1), default=0),
    )
    rows = (
        n * (3 * tower.n_embd + 2 * tower.n_ff + min(widest, 4 * (tower.n_embd + tower.n_ff))) * _TOKEN_COPIES
    )
    scores = n * n * max(1, tower.n_head) * _SCORE_COPIES
    pixels = frame.width * frame.height * (3 * _IMAGE_COPIES + _CONVOLVED)
    return (rows + scores + pixels) * F32 + _SLACK
