"""Warn beside a plan: RoPE range, sliding windows, and memory outside the engine's buffers.

In: `Model`, `Settings`, cards. Out: sentences, and `Overhead`s in bytes. RoPE scaling is read as the
engine reads it (llama-model.cpp:1404-1432, llama-context.cpp:130-190).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Final, NamedTuple

from .._base.units import GIB, MIB, format_bytes
from .._coerce import card
from .._devices import Gpu, all_cards, find, rules
from .._ggml.backends import backend, pad
from .._llama.cparams import CONTEXT_STEP, Context, cache_streams, cells, resolve
from .._llama.memory import cache_rows, layer_context_bytes
from .._llama.model import Cells, Model
from .._llama.params import DENSE, EXPERTS, Settings

__all__ = [
    "Overhead",
    "Reach",
    "context_warnings",
    "margin_warning",
    "overheads",
    "pool_warning",
    "process_bytes",
    "reach",
    "rope_sentence",
    "settings_warnings",
    "swa_sentence",
    "wired_sentence",
    "wired_warnings",
]  # fmt: skip

STRONG: Final = 1.5  # times the length that a model was made for: answers degrade visibly
HOPELESS: Final = 2.0
_LAYER: Final = re.compile(rf"blk\\\.\d+(?:({re.escape(EXPERTS)})|{re.escape(DENSE)})")
# What macOS and its programs are left when the wired limit is raised; a rule of thumb, nobody's measure.
SYSTEM_LEAST: Final = 4 << 30
SYSTEM_SHARE: Final = 0.1
_WIRED: Final = "wired limit"  # of the machine, once; all else is of each process
_METHODS: Final = {
    "linear": "linear position interpolation",
    "yarn": "YaRN",
    "longrope": "LongRoPE factors",
}


class Reach(NamedTuple):
    """How long a context the header supports, in tokens. `trained` is 0 where it does not say."""

    trained: int
    extended: int
    method: str = ""  # how it was extended; "" when it was not


def reach(model: Model) -> Reach:
    """Read trained and extended length, in tokens, from the header. The engine's own limit is neither, but `n_ctx_train`.

    YaRN starts from `original_context_length`, else from `context_length`, as in the engine. A linear or
    LongRoPE header that names no original length is taken to state the extended one, as converters write it.
    """
    rope, stated = model.rope, model.n_ctx_train
    method = _METHODS.get(rope.scaling, "")
    if not method or (rope.factor <= 1 and rope.original_context in (0, stated)):
        return Reach(stated, stated)
    if rope.scaling == "yarn":
        original = rope.original_context or stated
        return Reach(original, max(stated, int(original * rope.factor)), method)
    original = rope.original_context
    return Reach(original, max(stated, int(original * rope.factor)), method)


def rope_sentence(model: Model) -> str:
    """Say the trained length, the extended length and how, in one sentence."""
    found = reach(model)
    if not found.extended:
        return "The header does not say how long a context the model was trained for."
    if not found.method:
        return f"Trained for {found.extended:,} tokens; no RoPE scaling."
    factor = f"{found.method} (factor {model.rope.factor:g})"
    if not found.trained:
        return (
            f"Reaches {found.extended:,} tokens by {factor}; the header does not say what length it was"
            " trained for before."
        )
    return (
        f"Trained for {found.trained:,} tokens, extended to {found.extended:,} by {factor};"
        f" past {found.trained:,} it is the scaling that carries it."
    )


def context_warnings(model: Model, n_ctx_seq: int, engine: str = "llama-server") -> tuple[str, ...]:
    """Warn of `n_ctx_seq` tokens per slot: nothing up to the extended length, more past 1.5 and 2 times.

    How to extend it is said in the words that `engine` takes.
    """
    found = reach(model)
    if not found.extended or n_ctx_seq <= pad(found.extended, CONTEXT_STEP):
        return ()
    times = n_ctx_seq / found.extended
    what = "was extended to" if found.method else "was trained for"
    length = f"{n_ctx_seq:,} tokens a slot are {times:.3g} times what the model {what} ({found.extended:,})"
    how = _extending(model, n_ctx_seq, engine)
    if times <= STRONG:
        return (f"{length}: expect worse answers" + (f", or extend it with {how}" if how else ""),)
    badly = f"{length}: past {STRONG} times, answers degrade badly; do not use it"
    said = [f"{badly} without {how}" if how else f"{badly}, for {engine} takes no YaRN"]
    if times > HOPELESS:
        said.append(
            f"{n_ctx_seq:,} tokens are more than twice what the model {what}: without scaling it will lose the thread,"
            " and even scaled it should be tested on long inputs first"
        )
    return tuple(said)


def _extending(model: Model, n_ctx_seq: int, engine: str) -> str:
    """Name the flags that turn on YaRN up to `n_ctx_seq`, "" where none does; a scale of its own replaces the header's."""
    original = model.rope.original_context or reach(model).trained or model.n_ctx_train
    scale = max(2, ceil(n_ctx_seq / original))
    if engine == "llama-cpp-python":  # llama_cpp/llama.py:80-91; 2 is LLAMA_ROPE_SCALING_TYPE_YARN
        return f"rope_scaling_type=2, rope_freq_scale=1/{scale}, yarn_orig_ctx={original}"
    if engine != "llama-server":
        return ""
    return f"--rope-scaling yarn --rope-scale {scale} --yarn-orig-ctx {original}"


def settings_warnings(model: Model, settings: Settings) -> tuple[str, ...]:
    """Warn of settings that do nothing: patterns that no tensor matches, a physical batch above the logical one."""
    names = [weight.tensor.name for weight in model.weights]
    said = [
        f"{flag}: no tensor of this model matches, so nothing more stays on the host"
        for flag, patterns in _by_flag(settings.cpu_tensors).items()
        if not any(re.search(pattern, name) for pattern in patterns for name in names)
    ]
    if settings.n_ubatch > settings.n_batch:
        said.append(
            f"-ub {settings.n_ubatch} is above -b {settings.n_batch}: the engine takes {settings.n_batch} for both"
        )
    return tuple(said)


def pool_warning(model: Model, context: Context, backends: Collection[str]) -> tuple[str, ...]:
    """Warn of what an older build of CUDA's backend takes from a card while it runs over a quantized cache, in no buffer.

    It converts K and V of a layer to f16 in a pool (before #23907); from then on that is in the compute buffer.
    """
    if not context.era.pooled_copies or not context.flash_attn or not {"cuda", "hip"} & set(backends):
        return ()
    sizes = [
        sum(
            2 * width * cells(cache, context) * cache_streams(cache, context)
            for cache in layer.caches
            for kind, width in cache_rows(model, cache, context)
            if kind.is_quantized
        )
        for layer in model.layers
    ]
    most = max(sizes, default=0)
    if not most:
        return ()
    return (
        f"this build converts a quantized cache to f16 outside every buffer: a card may take up to {format_bytes(most)} more"
        " while it reads a prompt; leave that in the margin",
    )


def _by_flag(patterns: Sequence[str]) -> dict[str, list[str]]:
    """Group patterns by the flags that they come from; those of the first N layers belong together."""
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        layer = _LAYER.fullmatch(pattern)
        flag = (
            ("-ncmoe" if layer[1] else "-ncffn")
            if layer
            else "-cmoe"
            if pattern == EXPERTS
            else f"-ot {pattern!r}"
        )
        found.setdefault(flag, []).append(pattern)
    counted = ("-ncmoe", "-ncffn")
    return {f"{flag} {len(own)}" if flag in counted else flag: own for flag, own in found.items()}


def swa_sentence(model: Model, settings: Settings) -> str:
    """Say what `swa_full` costs (or would) at this context and what it is good for; "" without such layers."""
    windows = {c.window for layer in model.layers for c in layer.caches if c.cells is Cells.WINDOW}
    if not windows:
        return ""
    count = sum(any(c.cells is Cells.WINDOW for c in layer.caches) for layer in model.layers)
    full, small = (_context_bytes(model, replace(settings, swa_full=on)) for on in (True, False))
    seen = "/".join(f"{w:,}" for w in sorted(windows))
    cost = (
        f"{'takes' if settings.swa_full else 'would take'} {format_bytes(full - small)} more at this context"
    )
    return (
        f"{count} of {len(model.layers)} layers see the last {seen} tokens only; --swa-full {cost}. It pays where"
        " prompts share a beginning and go on differently: without it, whatever lies behind the window is computed again."
    )


def _context_bytes(model: Model, settings: Settings) -> int:
    context, cuda = resolve(model, settings), backend("cuda")
    return sum(layer_context_bytes(model, layer, context, cuda) for layer in model.layers)


class Overhead(NamedTuple):
    """Memory that a card loses and that is in none of the engine's buffers.

    `counted`: it is already out of the card's free bytes. Otherwise the margin has to cover it.
    """

    name: str
    n_bytes: int
    counted: bool
    why: str


def overheads(gpu: Gpu | str) -> tuple[Overhead, ...]:
    """List the memory that `gpu` loses outside every buffer, by the rules of the catalogue (`data/gpus.yaml`). Raises `GpuError`."""
    gpu = card(gpu)
    found = [_context(gpu)]
    if gpu.backend == "cuda":
        found += [_cublas(gpu), _pool(), _desktop()]
    if gpu.backend == "hip":
        found.append(_desktop())
    if gpu.backend == "metal":
        found += _wired_limit(gpu)
    return tuple(found)


def process_bytes(gpu: Gpu) -> int:
    """Count the bytes of a card that each further process takes before it loads a model: its driver's context, and a workspace.

    A card's free memory is what one process finds; each model runs in a process of its own (llama-server, the router's
    children, Ollama's runners, LM Studio's), and each makes its context on every card that it sees.
    """
    unmeasured = replace(gpu, free_bytes=None, free_measured=False)
    return sum(o.n_bytes for o in overheads(unmeasured) if o.name != _WIRED)


def _context(gpu: Gpu) -> Overhead:
    name = "process" if gpu.backend == "metal" else f"{gpu.backend.upper()} context"
    if gpu.backend == "cpu":
        return Overhead("process", 0, True, "host memory")
    if gpu.free_measured:
        return Overhead(name, 0, True, "free memory was given: what a process finds, its context included")
    if gpu.overhead_bytes:
        return Overhead(
            name, gpu.overhead_bytes, True, "free memory was not measured: set aside for the driver"
        )
    rule = rules().context.get(gpu.backend, {})
    mib = rule.get("max_mib", rule.get("base_mib", 0)) + rule.get("fraction", 0) * (gpu.total_bytes // MIB)
    return Overhead(name, int(mib) * MIB, False, "the card is not in the catalogue; at most about this much")


def _cublas(gpu: Gpu) -> Overhead:
    """Count the bytes of cuBLAS's workspace of a device, made when it is first used (ggml-cuda/common.cuh:1538)."""
    rule = rules().cublas_workspace_mib
    major = float(gpu.compute_capability or "99")
    mib = rule["from_compute_capability_9.0"] if major >= 9 else rule["below"]
    return Overhead("cuBLAS workspace", mib * MIB, False, "allocated when a prompt is first processed")


def _pool() -> Overhead:
    return Overhead(
        "memory pool", 0, False, "scratch of the kernels; grows with the batch, no figure is known"
    )


def _desktop() -> Overhead:
    low, high = rules().windows["desktop_mib"]
    return Overhead(
        "desktop", 0, False,
        f"none is assumed; Windows (WDDM) and screens take {low} to {high} MiB: give the free memory, as in 3060:10500MiB",
    )  # fmt: skip


class WiredLimit(NamedTuple):
    """What macOS lends the GPU of its memory, in bytes: `lent` now, `most` at most by our advice, of `ram`."""

    lent: int
    most: int
    ram: int

    def command(self, n_bytes: int) -> str:
        """Return the command that makes the Mac lend so many bytes, until its next restart."""
        return f"sudo sysctl iogpu.wired_limit_mb={-(-n_bytes // MIB)}"


def wired_limit(gpu: Gpu) -> WiredLimit | None:
    """Find the limit of a Mac of the catalogue; None for other cards."""
    card = next((c for c in all_cards() if gpu.id and c.id == gpu.id), None)
    if gpu.backend != "metal" or card is None or not card.memory_gib:
        return None
    ram = card.memory_gib << 30
    kept = max(SYSTEM_LEAST, int(ram * SYSTEM_SHARE))
    return WiredLimit(gpu.total_bytes, max(gpu.total_bytes, ram - kept), ram)


def wired_sentence(gpu: Gpu) -> str:
    """Say why a Mac's GPU has less than the machine, and what raises it; "" for other cards."""
    limit = wired_limit(gpu)
    if limit is None or limit.lent >= limit.ram:
        return ""
    said = f"macOS lends the GPU {format_bytes(limit.lent)} of the machine's {format_bytes(limit.ram)}"
    if limit.lent == (rules().total_mib(find(str(gpu.id))) or 0) * MIB:
        said += " unless it is told otherwise (two thirds up to 36 GiB, three quarters above; macOS 26 lends more)"
    if limit.most > limit.lent:
        said += f"; `{limit.command(limit.most)}` lends {format_bytes(limit.most)}, until the next restart"
    return said


def _wired_limit(gpu: Gpu) -> list[Overhead]:
    limit = wired_limit(gpu)
    if limit is None:
        return []
    return [Overhead(_WIRED, max(0, limit.ram - limit.lent), True, wired_sentence(gpu))]


def wired_warnings(gpu: Gpu, needed: int) -> tuple[str, ...]:
    """Warn where a Mac's limit keeps a context from fitting that needs `needed` bytes of the GPU."""
    limit = wired_limit(gpu)
    if limit is None or limit.most - limit.lent < GIB:
        return ()
    own = rules().context_mib(find(str(gpu.id)), limit.lent // MIB) * MIB
    if needed + own > limit.most:
        lent, ram = format_bytes(limit.most), format_bytes(limit.ram)
        return (f"raising the wired limit to {lent}, which is about all of the {ram}, would not be enough",)
    size = limit.most // MIB
    return (
        f"the wired limit is what is short, not the memory: `{limit.command(limit.most)}` lends the GPU"
        f" {format_bytes(limit.most)} until the next restart; plan for that with --gpus {gpu.id}:{size - own // MIB}MiB",
    )


def margin_warning(gpus: Mapping[str, Gpu], margin: int) -> tuple[str, ...]:
    """Warn where a margin is smaller than the memory outside every buffer, on the card (of those named) where it is worst."""
    needed = {name: sum(o.n_bytes for o in overheads(gpu) if not o.counted) for name, gpu in gpus.items()}
    worst = max(needed, key=needed.__getitem__, default="")
    if not worst or margin >= needed[worst]:
        return ()
    return (
        f"the margin of {format_bytes(margin)} is less than the {format_bytes(needed[worst])} that {worst} needs"
        " outside every buffer: leave more, or give the free memory that you measured",
    )
