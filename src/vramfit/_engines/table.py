"""Describe engines as data: defaults, what each can be told, who decides the split.

Sources: llama-server: common/common.h:452-590, tools/server/server.cpp:156, server-context.cpp:41 of the
pinned build. llama-cpp-python 0.3.36: llama_cpp/llama.py. Ollama 0.33 (llm/llama_server.go) and 0.29
(llm/server.go). LM Studio publishes no source: its defaults are those of its documentation and its SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Final

from .._base.errors import GpuError, SettingsError, shown
from .._base.matches import get_close_matches
from .._devices import BACKENDS, Gpu
from .._llama.eras import OWN_RUNNER, era_of, is_before
from .._llama.params import CACHE_TYPES, Settings

__all__ = ["ENGINES", "Engine", "find", "named"]


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine. `defaults` holds the fields of `Settings` that it sets itself.

    `told` names the fields that a person can change there; the others stay as they are. `split` says who
    decides how many layers a card gets: "told" by the user, by "free" memory, or the same on each ("even").
    """

    name: str
    title: str
    defaults: Mapping[str, object] = field(hash=False)
    told: frozenset[str]
    split: str = "told"
    all_outputs: bool = False  # keeps logits of the whole batch, not one row a slot
    one_batch: bool = False  # n_ubatch is n_batch
    one_cache_type: bool = False  # K and V alike
    embeds_in_slots: bool = False  # in embedding mode every sequence of a batch is a slot of one cache
    cache_types: tuple[str, ...] = CACHE_TYPES
    backends: tuple[str, ...] = BACKENDS  # that it ships, or can be built with

    def check_backends(self, gpus: Sequence[Gpu]) -> None:
        """Raise `GpuError` for a card under a backend that the engine does not have."""
        for gpu in gpus:
            if gpu.backend not in self.backends:
                raise GpuError(
                    f"{gpu.name}: {self.title} has no backend for it under {gpu.backend}; plan for it under one of"
                    f" {', '.join(self.backends)}, or for llama-server, which can be built with {gpu.backend}"
                )


def _defaults(**values: object) -> Mapping[str, object]:
    return MappingProxyType(values)


_ALL: Final = frozenset(f.name for f in fields(Settings)) - {"n_outputs_max", "defaults"}
_SPECULATION: Final = ("spec_type", "spec_draft_n_max")
_OLD_OLLAMA: Final = frozenset(
    {"n_ctx", "n_batch", "n_ubatch", "n_seq_max", "flash_attn", "type_k", "type_v", "n_gpu_layers", "split_mode", "main_gpu", "embeddings"}
)  # fmt: skip

_SHIPPED: Final = ("cuda", "hip", "vulkan", "metal", "cpu")  # what Ollama and LM Studio bring

ENGINES: Final[Mapping[str, Engine]] = {
    engine.name: engine
    for engine in (
        Engine(
            name="llama-server",
            title="llama-server",
            defaults=_defaults(n_batch=2048, n_ubatch=512, n_seq_max=4, kv_unified=True, flash_attn="auto"),
            told=_ALL,
        ),
        Engine(
            name="ollama",
            title="Ollama 0.30 or newer",
            defaults=_defaults(n_batch=512, n_ubatch=512, n_seq_max=1, flash_attn="auto"),
            told=_ALL - {"op_offload", "load_mode", "pooling", *_SPECULATION},
            split="free",
            one_batch=True,
            backends=_SHIPPED,
        ),
        Engine(
            name="ollama-before-0.30",
            title="Ollama before 0.30",
            defaults=_defaults(
                n_batch=512, n_ubatch=512, n_seq_max=1, flash_attn="off", engine_build="ollama@0.24"
            ),
            told=_OLD_OLLAMA,
            split="free",
            all_outputs=True,
            one_batch=True,
            one_cache_type=True,
            cache_types=("f16", "q8_0", "q4_0"),
            backends=_SHIPPED,
        ),
        Engine(
            name="llama-cpp-python",
            title="llama-cpp-python",
            defaults=_defaults(n_batch=512, n_ubatch=512, n_seq_max=1, flash_attn="off", swa_full=True),
            told=_ALL - {"n_seq_max", "kv_unified", "cpu_tensors", *_SPECULATION},
            all_outputs=True,
            embeds_in_slots=True,
        ),
        Engine(
            name="lm-studio",
            title="LM Studio",
            defaults=_defaults(n_batch=512, n_ubatch=512, n_seq_max=4, kv_unified=True, flash_attn="auto"),
            told=frozenset(
                {"n_ctx", "n_batch", "n_ubatch", "n_seq_max", "kv_unified", "flash_attn", "type_k", "type_v", "n_gpu_layers", "offload_kqv"}
            ),
            split="even",
            all_outputs=True,
            one_batch=True,
            backends=_SHIPPED,
        ),
    )
}  # fmt: skip


def find(name: str | Engine) -> Engine:
    """Find the engine of that name, with a version or without. Raises `SettingsError`, which names the nearest."""
    return named(name)[0]


def named(name: str | Engine) -> tuple[Engine, str]:
    """Find an engine and the build that its name says: "ollama@0.24" is Ollama before 0.30, and "ollama@0.24".

    Without a version the build is "". Raises as `find`, and for a version that `eras` does not know.
    """
    if isinstance(name, str) and "@" in name:
        program, _, version = name.partition("@")
        era_of(name)
        old = program == "ollama" and is_before(version, OWN_RUNNER)
        return _find("ollama-before-0.30" if old else program), name
    return _find(name), ""


def _find(name: str | Engine) -> Engine:
    if isinstance(name, Engine):
        return name
    if isinstance(name, str) and name in ENGINES:
        return ENGINES[name]
    near = get_close_matches(name, ENGINES, n=1, cutoff=0.4) if isinstance(name, str) else ()
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SettingsError(f"engine {shown(name)}: give one of {', '.join(ENGINES)}{hint}")
