"""Hold and check what a person sets: the engine's parameters, by its names and with its defaults.

Source: `llama_model_default_params` and `llama_context_default_params` (llama-model.cpp,
llama-context.cpp); names as in llama.h.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Literal, get_args

from .._base.errors import SettingsError, shown
from .._base.units import parse_count
from .._ggml.types import BY_NAME
from .eras import era_of

__all__ = [
    "CACHE_TYPES",
    "DENSE",
    "EXPERTS",
    "LOAD_MODES",
    "MAX_SEQUENCES",
    "MAX_TOKENS",
    "POOLINGS",
    "SPEC_TYPES",
    "SPLIT_MODES",
    "UNPLANNED_MODES",
    "FlashAttn",
    "Settings",
]

CACHE_TYPES: Final = (
    "f32",
    "f16",
    "bf16",
    "q8_0",
    "q4_0",
    "q4_1",
    "iq4_nl",
    "q5_0",
    "q5_1",
)  # common/arg.cpp
FlashAttn = Literal["on", "off", "auto"]  # what is asked; what it became is a bool, in `cparams.Context`
FLASH_ATTN: Final[tuple[FlashAttn, ...]] = get_args(FlashAttn)
SPLIT_MODES: Final = ("layer", "none")
POOLINGS: Final = ("none", "mean", "cls", "last", "rank")  # enum llama_pooling_type, in its order
LOAD_MODES: Final = ("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")  # common/arg.cpp:2691
# What the engine takes beside these, and why no plan is made for it.
UNPLANNED_MODES: Final = {
    "row": "cuts every weight by rows, for which CUDA, HIP, Vulkan and Metal have no buffers any more: the engine stops with"
    ' "does not support split buffers" (llama-model.cpp:1166); what SYCL takes is not proved',
    "tensor": "cuts every weight and the cache over all cards at once (ggml-backend-meta.cpp), and keeps whole what cannot be cut;"
    " what each card then takes is not proved",
}
SPEC_TYPES: Final = (  # speculative.cpp:33
    "none",
    "draft-simple",
    "draft-eagle3",
    "draft-mtp",
    "draft-dflash",
    "draft-dspark",
    "ngram-simple",
    "ngram-map-k",
    "ngram-map-k4v",
    "ngram-mod",
    "ngram-cache",
)
EXPERTS: Final = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # what --cpu-moe keeps on the host, common.h:1196
DENSE: Final = r"\.ffn_(up|down|gate)\."  # what --n-cpu-ffn keeps on the host, common.h:1200
MAX_SEQUENCES: Final = 256  # LLAMA_MAX_SEQ
MAX_DEVICES: Final = 16  # llama_max_devices
MAX_TOKENS: Final = 2**31 - 1
MAX_DRAFT: Final = 4096  # tokens proposed at once
MAX_SHARE: Final = 1e30  # their sum is still a float32, which the engine counts in


@dataclass(frozen=True, slots=True)
class Settings:
    """One way to run a model. Counts are tokens or sequences; see each field.

    What is left out is as in the engine's library; for the server's defaults, or another program's, take
    `engines.engine_settings`. `defaults` says whose they are and is no setting: it is not compared.
    Raises `SettingsError` for a value that the engine's parameters cannot hold.
    """

    n_ctx: int = 0  # 0: the trained context
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1  # slots
    kv_unified: bool = False  # one cache for all slots
    n_outputs_max: int = 0  # logits kept a batch; 0: n_batch
    flash_attn: FlashAttn = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    offload_kqv: bool = True
    swa_full: bool = False
    op_offload: bool = True
    n_gpu_layers: int = -1  # -1: all, the output layer included
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()  # empty: in proportion to free memory
    cpu_tensors: tuple[str, ...] = ()  # regular expressions: matching tensors stay on the host
    embeddings: bool = False
    pooling: str = ""  # of embeddings, one of `POOLINGS`; "": as the header says, none where it says nothing
    spec_type: str = "none"  # of speculative decoding: one of `SPEC_TYPES`, or several with commas between
    spec_draft_n_max: int = 3  # tokens that a draft proposes at once, at most
    engine_build: str = ""  # whose rules: "b8470", "ollama@0.24", a commit (see `eras`); "": the pinned build
    load_mode: str = "auto"  # how weights on the host are held: mapped from the file, allocated, locked
    defaults: str = field(
        default="llama.cpp", compare=False, kw_only=True
    )  # whose: of the library, or an engine's

    def __post_init__(self) -> None:
        """Bring sequences and case into one form, then check each field."""
        for name in ("tensor_split", "cpu_tensors"):
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name)))
        for name in _RANGES:
            object.__setattr__(self, name, _as_whole(getattr(self, name)))
        for name in ("type_k", "type_v", "flash_attn", "split_mode", "spec_type", "load_mode", "pooling"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, value.lower())
        _check(self)

    def __repr__(self) -> str:
        """Show the fields that are not as the library has them: the call that makes these settings."""
        told = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in told)})"


def _as_tuple(name: str, value: object) -> tuple[object, ...]:
    if value is None:
        return ()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    raise SettingsError(f"{name}={shown(value)}: give a list")


def _as_whole(value: object) -> object:
    """Turn a count in words ("32k"), or a number of another library, into an `int`; leave anything else as it is."""
    if isinstance(value, int):
        return value
    try:
        return parse_count(value) if isinstance(value, str) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, SettingsError):
        return value


_RANGES: Final = {
    "n_ctx": (0, MAX_TOKENS),
    "n_batch": (1, MAX_TOKENS),
    "n_ubatch": (0, MAX_TOKENS),
    "n_seq_max": (1, MAX_SEQUENCES),
    "n_outputs_max": (0, MAX_TOKENS),
    "n_gpu_layers": (-2, MAX_TOKENS),
    "main_gpu": (-1, MAX_DEVICES - 1),
    "spec_draft_n_max": (0, MAX_DRAFT),
}
_CHOICES: Final = {
    "flash_attn": FLASH_ATTN,
    "type_k": CACHE_TYPES,
    "type_v": CACHE_TYPES,
    "split_mode": SPLIT_MODES,
    "load_mode": LOAD_MODES,
    "pooling": ("", *POOLINGS),
}


def _check(s: Settings) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(s, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise SettingsError(f"{name}={shown(value)}: give a whole number from {low} to {high}")
    for name, known in _CHOICES.items():
        value = getattr(s, name)
        if name == "split_mode" and isinstance(value, str) and value in UNPLANNED_MODES:
            raise SettingsError(f"split_mode={value}: {UNPLANNED_MODES[value]}; give {' or '.join(known)}")
        if not isinstance(value, str) or value not in known:
            raise SettingsError(f"{name}={shown(value)}: give one of {', '.join(known)}")
    for f in fields(s):
        if f.type == "bool" and not isinstance(getattr(s, f.name), bool):
            raise SettingsError(f"{f.name}={shown(getattr(s, f.name))}: give True or False")
    if not isinstance(s.defaults, str) or not s.defaults.isprintable():
        raise SettingsError(f"defaults={shown(s.defaults)}: give the name of a program")
    era_of(s.engine_build)
    _check_spec_type(s.spec_type)
    _check_split(s.tensor_split)
    for pattern in s.cpu_tensors:
        try:
            if not isinstance(pattern, str):
                raise TypeError("give a string")
            re.compile(pattern)
        except (re.error, TypeError, RecursionError, OverflowError) as e:
            raise SettingsError(f"cpu_tensors: {shown(pattern)} is not a regular expression: {e}") from None


def _check_spec_type(value: object) -> None:
    if not isinstance(value, str) or not set(value.split(",")) <= set(SPEC_TYPES):
        raise SettingsError(f"spec_type={shown(value)}: give one or more of {', '.join(SPEC_TYPES)}")


def _check_split(split: tuple[float, ...]) -> None:
    if len(split) > MAX_DEVICES:
        raise SettingsError(f"tensor_split has {len(split)} shares; the engine takes at most {MAX_DEVICES}")
    for share in split:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= MAX_SHARE:
            raise SettingsError(
                f"tensor_split: {shown(share)} is not a valid share; give numbers from 0 to {MAX_SHARE:g}"
            )


assert all(t in BY_NAME for t in CACHE_TYPES)
