"""How large an image or a recording the engine reserves a projector's buffers for, and how large the largest may be.

In: a `Tower`, limits of tokens as the engine's flags have them. Out: pixels, or frames. The table by kind of projector is data.
Source: clip.cpp:1372-2040, `set_limit_image_tokens` and `set_warmup_n_tokens` (clip-model.h:192-215).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Final

from .._base.errors import ModelError
from .header import Tower

__all__ = ["Frame", "largest", "n_merge", "patch_size", "warmup"]

FRAMES: Final = 3000  # of a recording: 30 seconds
MAX_IMAGE: Final = 8192
_SCALE, _SPATIAL = "vision.projector.scale_factor", "vision.spatial_merge_size"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a kind of projector does with images.

    `merge` patches a side become one token, unless the header says under `key`; `side` tokens a side are reserved for, 0
    for the header's image size. `most` tokens an image has at most; 0: as the header's image_max_pixels says, or its
    image size.
    """

    merge: int = 1
    key: str = ""
    side: int = 0
    most: int = 0
    fixed: int = 0  # pixels a side, whatever the header says


_IMAGE: Final = _Kind()
_KINDS: Final[dict[str, _Kind]] = {
    "minicpmv4_6": _Kind(4, _SCALE),
    "internvl": _Kind(1, _SCALE),
    "nemotron_v2_vl": _Kind(1, _SCALE),
    "idefics3": _Kind(1, _SCALE),
    "lfm2": _Kind(1, _SCALE, most=256),
    "phi4": _Kind(side=16),
    "pixtral": _Kind(1, _SPATIAL, 16, 1024),
    "lightonocr": _Kind(1, _SPATIAL, 16),
    "dots_ocr": _Kind(1, _SCALE, 46),
    "dots3note_v": _Kind(1, _SPATIAL, 46),
    "kimivl": _Kind(1, _SCALE, 16, 1024),
    "kimik25": _Kind(1, _SCALE, most=4096),
    "deepseek4v": _Kind(1, _SCALE, 16, 384),
    "gemma3": _Kind(4, _SCALE),
    "gemma3nv": _Kind(1, _SCALE),
    "gemma4v": _Kind(3, _SCALE, 16, 1120),
    "gemma4uv": _Kind(3, _SCALE, 16, 1120),
    "qwen2vl_merger": _Kind(2, _SPATIAL, 46, 4096),
    "qwen2.5vl_merger": _Kind(2, _SPATIAL, 46, 4096),
    "qwen3vl_merger": _Kind(2, _SPATIAL, 46, 4096),
    "ling3vl": _Kind(2, _SPATIAL, 46, 4096),
    "minimax_m3": _Kind(2, _SPATIAL, 16, 576),
    "muse-glimmer": _Kind(2, _SPATIAL, 32, 4096),
    "mimovl": _Kind(2, _SPATIAL, 46),
    "step3vl": _Kind(4, _SCALE),
    "youtuvl": _Kind(2, _SPATIAL, 16, 62500),
    "glm4v": _Kind(2, _SPATIAL, 46, 4096),
    "glm5v": _Kind(2, _SPATIAL, 46),
    "llama4": _Kind(1, _SCALE),
    "paddleocr": _Kind(2, "", 28),
    "deepseekocr": _Kind(fixed=1024),
    "deepseekocr2": _Kind(fixed=1024),
    "hunyuanvl": _Kind(2, _SPATIAL, 32, 16384),
    "exaone4_5": _Kind(2, _SPATIAL, 46),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What a graph is built for: pixels of an image, or frames of a recording and its bins."""

    width: int
    height: int


def n_merge(tower: Tower) -> int:
    """Patches a side that become one token."""
    kind = _KINDS.get(tower.kind, _IMAGE)
    found = tower.number(kind.key, kind.merge) if kind.key else kind.merge
    if not 0 < found < 65536:
        raise ModelError(f"{tower.source}: clip.{kind.key} = {found}; take another file")
    return found


def patch_size(tower: Tower) -> int:
    """Pixels a side of a patch."""
    if tower.modality == "audio":
        return 1
    found = 16 if _KINDS.get(tower.kind, _IMAGE).fixed else tower.number("vision.patch_size")
    if not 0 < found < 65536:
        raise ModelError(f"{tower.source}: clip.vision.patch_size = {found}; take another file")
    return found


def warmup(tower: Tower, max_tokens: int = 0) -> Frame:
    """What the engine reserves for when it loads a projector."""
    if tower.modality == "audio":
        bins = 640 if tower.kind == "gemma4ua" else tower.number("audio.num_mel_bins")
        return Frame(FRAMES, bins)
    kind, token = _KINDS.get(tower.kind, _IMAGE), patch_size(tower) * n_merge(tower)
    side = kind.fixed or kind.side * token
    if tower.kind == "deepseek4v" and max_tokens:
        side = isqrt(min(256, max(max_tokens, 16))) * token
    elif not side and tower.kind == "kimik25" and not _given_pixels(tower):
        side = isqrt((max_tokens or kind.most) * token * token)
    elif not side and tower.kind == "kimik25":
        side = isqrt(_given_pixels(tower))
    elif not side and kind.most:
        side = isqrt((max_tokens or kind.most) * token * token)
    return _square(tower, side or tower.number("vision.image_size"))


def largest(tower: Tower, max_tokens: int = 0) -> Frame:
    """The largest image that the engine makes of any, as a square; what is reserved for where that is as large."""
    first = warmup(tower, max_tokens)
    if tower.modality == "audio":
        return first
    kind, token = _KINDS.get(tower.kind, _IMAGE), patch_size(tower) * n_merge(tower)
    pixels = max_tokens * token * token if max_tokens and kind.side else 0
    pixels = pixels or kind.most * token * token or (_given_pixels(tower) if kind.side else 0)
    side = isqrt(pixels) // token * token
    return _square(tower, max(first.width, min(side, MAX_IMAGE)))


def _given_pixels(tower: Tower) -> int:
    return tower.number("vision.image_max_pixels", 0)


def _square(tower: Tower, side: int) -> Frame:
    if not 0 < side <= MAX_IMAGE:
        raise ModelError(f"{tower.source}: images of {side} pixels a side; take another file")
    return Frame(side, side)
