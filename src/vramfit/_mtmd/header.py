"""A projector's header → its towers: what each reads of the file, and its numbers.

In: a `Header`. Out: a `Projector`. Source: `clip_model_loader` (clip.cpp:1177-2060), `clip_init` (4000-4060).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from .._base.errors import ModelError, shown
from .._gguf import Array, Header, TensorInfo, Value

__all__ = ["Projector", "Tower", "read_projector"]

_TOWERS: Final = (("vision", "v"), ("audio", "a"))
# What the engine loads for any tower, whatever it is named after (clip.cpp:2245-2260).
_ALWAYS: Final = frozenset(
    ("v.class_embd", "v.patch_embd.bias", "v.patch_embd.weight", "v.patch_embd.weight.1")
)
_NORMS: Final = ("v.norm_embd.weight", "v.norm_embd.bias")
_SPLIT: Final = {"qwen2.5o": {"vision": "qwen2.5vl_merger", "audio": "qwen2a"}}
_MOST: Final = 2**31 - 1
_MAX_LAYERS: Final = 512


@dataclass(frozen=True, slots=True)
class Tower:
    """An encoder of one kind of input. `kind` is the engine's name of the projector behind it.

    `tensors` are those that it loads; numbers are of the header, sizes in elements, patches or pixels.
    """

    modality: str  # "vision" or "audio"
    kind: str
    tensors: Mapping[str, TensorInfo] = field(repr=False, hash=False)
    values: Mapping[str, Value] = field(repr=False, hash=False)  # all of the header
    source: str
    n_embd: int
    n_head: int
    n_head_kv: int
    d_head: int
    n_ff: int
    n_layer: int
    ffn: str

    @property
    def prefix(self) -> str:
        """How the names of its tensors begin."""
        return dict(_TOWERS)[self.modality]

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number under `clip.<key>`. Raises `ModelError` where there is none, or one that cannot be right."""
        return _number(self.values, self.source, key, default)

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers under `clip.<key>`; none where it is absent."""
        value = self.values.get(f"clip.{key}")
        if not isinstance(value, Array) or value.type == "str" or len(value) > _MAX_LAYERS:
            return ()
        return tuple(int(x) for x in value.values() if isinstance(x, int))


@dataclass(frozen=True, slots=True)
class Projector:
    """A file with one tower or two."""

    source: str
    name: str
    towers: tuple[Tower, ...]


def read_projector(header: Header, source: str) -> Projector:
    """Take a projector from its header. Raises `ModelError` for what is none."""
    values = header.metadata
    if values.get("general.architecture") != "clip":
        raise ModelError(
            f"{source}: general.architecture = {shown(values.get('general.architecture'))}: not a projector;"
            " give the mmproj file that belongs to the model"
        )
    present = [(m, p) for m, p in _TOWERS if values.get(f"clip.has_{m}_encoder") is True]
    if not present:
        raise ModelError(
            f"{source}: neither clip.has_vision_encoder nor clip.has_audio_encoder is set; take another file"
        )
    towers = [_tower(header, source, m, p, alone=len(present) == 1) for m, p in present]
    if towers[0].kind == "gemma3nv":  # the engine leaves its sound out
        towers = towers[:1]
    name = values.get("general.name")
    return Projector(source, name if isinstance(name, str) else "", tuple(towers))


def _tower(header: Header, source: str, modality: str, prefix: str, *, alone: bool) -> Tower:
    values = header.metadata
    given = values.get("clip.projector_type") or values.get(f"clip.{modality}.projector_type")
    if not isinstance(given, str):
        raise ModelError(f"{source}: clip.projector_type = {shown(given)} is no name; take another file")
    kind = _SPLIT.get(given, {}).get(modality, given)

    def number(key: str, default: int | None = None) -> int:
        return _number(values, source, f"{modality}.{key}", default)

    n_embd, n_head = number("embedding_length"), number("attention.head_count")
    n_layer = number("block_count")
    if n_layer > _MAX_LAYERS or not n_embd:
        raise ModelError(f"{source}: {n_layer} layers of {n_embd} elements; take another file")
    d_head = number("attention.head_dim", 0) or (n_embd // n_head if n_head else 0)
    sound = kind in _SOUND
    gelu, silu = values.get("clip.use_gelu") is True, values.get("clip.use_silu") is True
    return Tower(
        modality=modality,
        kind=kind,
        tensors={t.name: t for t in header.tensors if alone or _is_read(t.name, prefix, kind)},
        values=values,
        source=source,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=number("attention.head_count_kv", n_head),
        d_head=d_head,
        n_ff=number("feed_forward_length"),
        n_layer=n_layer,
        ffn="gelu_erf" if sound else "gelu" if gelu else "silu" if silu else "gelu_quick",
    )


# Encoders built like Whisper's, with its activation.
_SOUND: Final = frozenset(
    ("ultravox", "qwen2a", "qwen3a", "glma", "voxtral", "meralion", "musicflamingo", "mimo_audio")
)


def _is_read(name: str, prefix: str, kind: str) -> bool:
    """Whether one of two towers in a file loads a tensor."""
    if name in _ALWAYS or name in _NORMS:
        return True
    sound = name.startswith(("a.", "mm.a."))
    return sound == (prefix == "a") or (kind == "glma" and name in ("v.boi", "v.eoi"))


def _number(values: Mapping[str, Value], source: str, key: str, default: int | None) -> int:
    value = values.get(f"clip.{key}", default)
    if isinstance(value, float) and isfinite(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ModelError(
            f"{source}: clip.{key} = {shown(value)}: give a projector that says so; take another file"
        )
    return value
