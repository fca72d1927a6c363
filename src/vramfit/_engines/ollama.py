"""Replay what Ollama decides by itself, and write what it has to be told of the rest.

Source: Ollama 0.33, llm/llama_server.go and server/sched.go; 0.29, llm/server.go. Since 0.30 a model runs
in a llama-server of its own, which also reads `LLAMA_ARG_*` from the environment of the Ollama server:
what a Modelfile cannot say is said there, for all models at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePath
from typing import Final

from .._base.errors import SettingsError
from .._base.foreign import modelfile_value, printable
from .._base.units import GIB, MIB
from .._devices import Gpu
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import devices, place
from .._planner.plan import Plan
from .server import host_flags, shares
from .settings import as_run
from .table import Engine

__all__ = [
    "auto_batch", "auto_batches", "best_card", "default_context", "environment", "largest_on_one_card", "modelfile_text",
    "predicted", "settle",
]  # fmt: skip

ONE_CARD_SHARE: Final = (
    4,
    5,
)  # sched.go: a card is taken alone when at most this part of its free memory is needed
BATCHES: Final = (
    (2048, 32768, 0.60, 2 * GIB),
    (1024, 4096, 0.75, 768 * MIB),
)  # size, above this context, limits
# Families that Ollama gives one slot whatever OLLAMA_NUM_PARALLEL says.
ONE_SLOT: Final = frozenset(
    {"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe", "nemotron_h",
     "nemotron_h_moe", "nemotron_h_omni"}
)  # fmt: skip
_TIERS: Final = ((47 * GIB, 262144), (23 * GIB, 32768))


def predicted(model: Model, n_ctx: int) -> int:
    """Count the bytes that Ollama expects a model to take (PredictServerVRAM, llama_server.go:2681).

    Its own rough formula, not ours: the file, and an f16 cache in which every layer has the fewest KV heads
    of all. `n_ctx` counts the tokens of all slots.
    """
    heads = [layer.n_head for layer in model.layers if layer.n_head]
    kv_heads = [layer.n_head_kv for layer in model.layers if layer.n_head_kv]
    head = model.n_embd // heads[0] if heads else 0
    return model.tensor_bytes + 2 * len(model.layers) * min(kv_heads, default=0) * head * n_ctx * 2


def best_card(gpus: Sequence[Gpu]) -> int:
    """Find the card that Ollama would take alone: a discrete one before a shared one, then the most free; its index."""
    return max(range(len(gpus)), key=lambda i: (not gpus[i].unified, gpus[i].free, -i))


def takes_one_card(model: Model, gpus: Sequence[Gpu], n_ctx: int) -> bool:
    """Whether Ollama puts the model on one card although there are more."""
    return _one_card(gpus, predicted(model, n_ctx))


def _one_card(gpus: Sequence[Gpu], need: int) -> bool:
    part, whole = ONE_CARD_SHARE
    return len(gpus) > 1 and need * whole <= gpus[best_card(gpus)].free * part


def largest_on_one_card(model: Model, gpus: Sequence[Gpu], step: int) -> int:
    """Find the largest context, a multiple of `step`, up to which Ollama takes one card; 0 when it never does."""
    part, whole = ONE_CARD_SHARE
    per_step = predicted(model, step) - model.tensor_bytes
    room = gpus[best_card(gpus)].free * part // whole - model.tensor_bytes
    if room < per_step or not per_step:
        return 0
    return room // per_step * step


def auto_batch(model: Model, gpus: Sequence[Gpu], n_ctx: int, flash_attn: str) -> int:
    """Choose `num_batch` where nobody sets it (sched.go:796-915); `n_ctx` counts the tokens of all slots."""
    return auto_batches(model, gpus, (n_ctx,), flash_attn)[0]


def auto_batches(
    model: Model, gpus: Sequence[Gpu], contexts: Sequence[int], flash_attn: str
) -> tuple[int, ...]:
    """Choose `auto_batch` for each of many contexts; what is predicted grows by the same with every token."""
    if model.is_encoder:
        return tuple(min(2048, n_ctx) for n_ctx in contexts)
    if flash_attn == "off" and any(g.backend == "cuda" for g in gpus):
        small = min((g.total_bytes for g in gpus), default=0) <= 8 * GIB
        return tuple(256 if small and n_ctx > 4096 else 512 for n_ctx in contexts)
    at_none = predicted(model, 0)
    a_token = predicted(model, 1) - at_none
    return tuple(_batch(gpus, n_ctx, at_none + a_token * n_ctx) for n_ctx in contexts)


def _batch(gpus: Sequence[Gpu], n_ctx: int, need: int) -> int:
    """Choose the largest batch that Ollama dares with `need` bytes predicted."""
    free = gpus[best_card(gpus)].free if _one_card(gpus, need) else sum(g.free for g in gpus)
    for size, above, share, surcharge in BATCHES:
        if n_ctx > above and need <= share * free and need + surcharge <= 0.8 * free:
            return size
    return 512


def default_context(gpus: Sequence[Gpu]) -> int:
    """Choose `num_ctx` where nobody sets it (server/routes.go:2043): by the memory of all cards."""
    total = sum(g.total_bytes for g in gpus)
    return next((n_ctx for least, n_ctx in _TIERS if total >= least), 4096)


def settle(settings: Settings, model: Model, gpus: Sequence[Gpu]) -> Settings:
    """Make the changes that Ollama makes of its own for a model and cards: slots, and flash attention left to it.

    Source: sched.go:495-510; llama_server.go:597-625 with ml/device.go:571.
    """
    if model.is_encoder or settings.embeddings or model.architecture in ONE_SLOT:
        settings = replace(settings, n_seq_max=1)
    if settings.flash_attn == "auto" and not all(map(_has_flash_attention, gpus)):
        settings = replace(settings, flash_attn="off")
    return settings


def _has_flash_attention(gpu: Gpu) -> bool:
    if gpu.backend != "cuda" or gpu.compute_capability is None:
        return True
    return gpu.compute_capability != "7.2" and float(gpu.compute_capability) >= 6


def environment(plan: Plan, engine: Engine) -> dict[str, str]:
    """List the variables that the Ollama server needs for the plan, and that a Modelfile cannot hold."""
    settings = as_run(plan.settings, engine)
    found = {
        "OLLAMA_CONTEXT_LENGTH": str(plan.estimate.n_ctx_seq),
        "OLLAMA_NUM_PARALLEL": str(settings.n_seq_max),
    }
    if settings.flash_attn != "auto":
        found["OLLAMA_FLASH_ATTENTION"] = "1" if settings.flash_attn == "on" else "0"
    if settings.type_k == settings.type_v:
        if settings.type_k != "f16":
            found["OLLAMA_KV_CACHE_TYPE"] = settings.type_k
    else:
        found |= {"LLAMA_ARG_CACHE_TYPE_K": settings.type_k, "LLAMA_ARG_CACHE_TYPE_V": settings.type_v}
    spread = sum(1 for n in plan.tensor_split if n) > 1
    if spread and takes_one_card(plan.model, plan.gpus, plan.n_ctx):
        found["OLLAMA_SCHED_SPREAD"] = "1"
    if engine.name == "ollama":
        found |= _server_variables(plan, settings, spread)
    return found


def _server_variables(plan: Plan, settings: Settings, spread: bool) -> dict[str, str]:
    """List what only the llama-server inside Ollama understands (common/arg.cpp, `set_env`)."""
    found = {}
    if spread and by_free_memory(plan) != plan.tensor_split:
        found["LLAMA_ARG_TENSOR_SPLIT"] = shares(tuple(map(float, plan.tensor_split)))
    if not settings.offload_kqv:
        found["LLAMA_ARG_KV_OFFLOAD"] = "off"
    for on, name in (
        (settings.swa_full, "LLAMA_ARG_SWA_FULL"),
        (settings.kv_unified, "LLAMA_ARG_KV_UNIFIED"),
    ):
        found |= {name: "on"} if on else {}
    flags = host_flags(settings.cpu_tensors)
    patterns = [word for flag, word in pairwise(flags) if flag == "-ot"]
    if patterns:
        found["LLAMA_ARG_OVERRIDE_TENSOR"] = ",".join(patterns)
    if "-cmoe" in flags:
        found["LLAMA_ARG_CPU_MOE"] = "on"
    if "-ncmoe" in flags:
        found["LLAMA_ARG_N_CPU_MOE"] = flags[flags.index("-ncmoe") + 1]
    return found


def by_free_memory(plan: Plan) -> tuple[int, ...]:
    """Count the layers on each card when the split follows free memory, as it does where nobody sets it."""
    placement = place(plan.model, plan.gpus, replace(plan.settings, tensor_split=()))
    counts = (placement.count(i) for i in range(placement.n_devices))
    at = dict(zip(devices(plan.gpus, plan.settings), counts, strict=True))
    return tuple(at.get(i, 0) for i in range(len(plan.gpus)))


def modelfile_text(plan: Plan, engine: Engine) -> str:
    """Write a Modelfile for the plan; comments say what the server's environment has to hold."""
    settings = as_run(plan.settings, engine)
    layers = sum(plan.tensor_split)
    cards = printable(", ".join(g.name for g in plan.gpus) or "the host")
    lines = [f"# {plan.estimate.n_ctx_seq:,} tokens, planned for {cards}"]
    lines += [f"# server: {name}={printable(value)}" for name, value in environment(plan, engine).items()]
    model = modelfile_value(_from(plan.model.source))
    if model is None:
        raise SettingsError(f"{plan.model.source!r}: no Modelfile can hold this name; rename the file")
    lines += [f"FROM {model}", f"PARAMETER num_ctx {plan.estimate.n_ctx_seq}"]
    lines += [f"PARAMETER num_gpu {layers}", f"PARAMETER num_batch {settings.n_batch}"]
    if settings.split_mode == "none" and len(plan.gpus) > 1:
        lines.append(f"PARAMETER main_gpu {settings.main_gpu}")
    return "\n".join(lines) + "\n"


def _from(source: str) -> str:
    """Write what FROM takes: a name of Ollama's or the Hub's as it is, a file by a path that cannot pass for a name."""
    if not source or source.startswith("<"):
        return "./model.gguf"
    if source.startswith(("http://", "https://")):
        raise SettingsError(f"{source}: Ollama reads no URLs; download the file and plan from it")
    if not source.lower().endswith(".gguf") or source.startswith((".", "/", "~", "hf.co/")):
        return source
    return source if PurePath(source).is_absolute() else f"./{PurePath(source).as_posix()}"
