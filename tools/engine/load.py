"""One model and one context in the engine, without memory.

`load(header, gpus_mib, **settings)` takes the settings of engine-truth rows by their names and returns a
`Context`; use it as a context manager. What the engine refuses raises `Refused` with the engine's words.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from .binding import AllocationCallback, ContextSettings, GraphCallback, engine
from .errors import EngineError
from .vulkan import library

Capability = float | str  # 8.6 or "8.6"

MIB = 1 << 20
DEFAULT_CAPABILITY = 8.6
MAX_DEVICES = 16  # of the shim, and of the engine's tensor splits
# What a driver reports, in bytes, as Mesa's software device does; `in_order`: GGML_VK_DISABLE_GRAPH_OPTIMIZE.
VULKAN = {
    "alignment": 16,
    "host_alignment": 64,
    "max_tensor": 2**32 - 1,
    "max_buffer": 1 << 30,
    "in_order": 0,
    "fp16": 1,
}
_HOLE = 1 << 44  # bytes: no header's tensors reach beyond, and a hole costs nothing
_AMD = 0x1000000  # GGML_CUDA_CC_OFFSET_AMD
_ARCHITECTURE = re.compile(r"gfx([0-9a-f]{1,2})([0-9a-f]{2})")
_FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}
_SPLIT_MODES = {"none": 0, "layer": 1}
_MODEL_SETTINGS = frozenset(
    {
        "n_gpu_layers",
        "split_mode",
        "tensor_split",
        "cpu_tensors",
        "compute_capability",
        "vulkan",
        "metal",
        "fuses",
        "real_vulkan",
        "sycl",
        "alchemist",
        "load_mtp",
    }
)
_DEFAULTS: dict[str, Any] = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max": 0, "flash_attn": "auto",
    "type_k": "f16", "type_v": "f16", "pooling_type": -1, "kv_unified": False, "offload_kqv": True,
    "swa_full": False, "op_offload": True, "embeddings": False, "n_rs_seq": 0, "next_tokens": False,
}  # fmt: skip


class Refused(EngineError):
    """The engine will not make this model or context; the text is its reason."""


@dataclass(slots=True)
class Context:
    """A loaded model with a context. Handles are addresses in the engine."""

    model: int
    handle: int
    n_gpus: int
    keep: object  # the callbacks that the engine may still call

    @property
    def n_ctx(self) -> int:
        """Tokens, after the engine's padding."""
        return int(engine().llama_n_ctx(self.handle))

    def breakdown(self) -> list[dict[str, int]]:
        """Bytes of each device, then of the host."""
        cells = (ctypes.c_int64 * (3 * (MAX_DEVICES + 1)))()
        engine().vf_breakdown(self.handle, cells)
        rows = [
            dict(zip(("model", "context", "compute"), cells[3 * i : 3 * i + 3], strict=True))
            for i in range(MAX_DEVICES + 1)
        ]
        return [*rows[: self.n_gpus], rows[-1]]

    def adapt(
        self, lora: Sequence[tuple[str, float]] = (), n_embd: int = 0, layers: int = 0
    ) -> tuple[int, ...]:
        """Load adapters and reserve again with them; the bytes of their tensors on each device, the host last.

        `lora` are files and their scales; a control vector has `n_embd` elements in each of `layers` layers.
        Raises Refused.
        """
        paths = (ctypes.c_char_p * (len(lora) + 1))(*(path.encode() for path, _ in lora), None)
        scales = (ctypes.c_float * max(1, len(lora)))(*(scale for _, scale in lora))
        cells = (ctypes.c_int64 * (MAX_DEVICES + 1))()
        if not engine().vf_adapt(self.model, self.handle, paths, scales, n_embd, layers, cells):
            raise Refused(complaint())
        return (*cells[: self.n_gpus], cells[MAX_DEVICES])

    def tap(self, layers: Sequence[int]) -> None:
        """Keep the inputs of these layers for a draft, and reserve again. Raises Refused."""
        if not engine().vf_tap(self.handle, (ctypes.c_uint32 * len(layers))(*layers), len(layers)):
            raise Refused(complaint())

    def run_block(self, block: int) -> None:
        """Reserve again as for the next-token block of this number, where only the first was reserved for. Raises Refused."""
        if not engine().vf_next_block(self.handle, block):
            raise Refused(complaint())

    def close(self) -> None:
        """Free both."""
        engine().llama_free(self.handle)
        engine().llama_model_free(self.model)

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    header: str | os.PathLike[str],
    gpus_mib: Sequence[int] = (),
    on_graph: Callable[[int], None] | None = None,
    on_allocation: Callable[[int, Any], None] | None = None,
    beside: Context | None = None,
    **settings: Any,
) -> Context:
    """Load a GGUF header and make a context.

    With `on_graph` alone, nothing is reserved: it is called with the address of every graph that would be.
    `on_allocation` is called with the address of what the scheduler made of one, and three numbers for each
    leaf and node: backend, offset, bytes. `beside` is the context of the model that this one drafts for.
    Raises Refused, or EngineError on an unknown setting.
    """
    chosen = {k: settings.pop(k) for k in _MODEL_SETTINGS & settings.keys()}
    unknown = settings.keys() - _DEFAULTS.keys()
    if unknown:
        raise EngineError(f"unknown settings: {', '.join(sorted(unknown))}")
    model = load_model(header, gpus_mib, **chosen)
    callbacks = (
        GraphCallback(on_graph) if on_graph else GraphCallback(),
        AllocationCallback(on_allocation) if on_allocation else AllocationCallback(),
    )
    engine().vf_beside(beside.handle if beside else None)
    handle = engine().vf_context(model, ctypes.byref(_context_settings(settings)), *callbacks)
    if not handle:
        reason = complaint()
        engine().llama_model_free(model)
        raise Refused(reason)
    return Context(model, handle, len(gpus_mib), callbacks)


def _context_settings(settings: dict[str, Any]) -> ContextSettings:
    values = _DEFAULTS | settings
    values["flash_attn"] = _FLASH_ATTN[values["flash_attn"]]
    values["type_k"], values["type_v"] = type_id(values["type_k"]), type_id(values["type_v"])
    return ContextSettings(**values)


def load_model(
    header: str | os.PathLike[str],
    gpus_mib: Sequence[int] = (),
    n_gpu_layers: int = -1,
    split_mode: str = "layer",
    tensor_split: Sequence[float] = (),
    cpu_tensors: Sequence[str] = (),
    compute_capability: Capability | Sequence[Capability] = DEFAULT_CAPABILITY,
    vulkan: Mapping[str, int] | None = None,
    metal: int = 0,
    fuses: bool = True,
    real_vulkan: bool = False,
    sycl: int = 0,
    alchemist: bool = False,
    load_mtp: bool = False,
) -> int:
    """The address of a model loaded from a header that ends after its tensor table.

    `compute_capability`: of every device, or one for each; "gfx1100" makes devices of HIP. `vulkan`: devices answer as
    Vulkan's, with these of `VULKAN`; `metal`: as Metal's, with a largest buffer of so many bytes; `sycl`: likewise, of
    Arc's first generation if `alchemist`; without `fuses`, CUDA's devices lack what the engine fuses. `real_vulkan`: not
    the memory-only devices but the first that the real backend finds (`vulkan.library`), which allocates.
    Raises Refused, or EngineError on one that is none.
    """
    lib = engine()
    limits = {**VULKAN, **vulkan} if vulkan is not None else dict.fromkeys(VULKAN, 0)
    if limits.keys() != VULKAN.keys():
        raise EngineError(f"vulkan: {', '.join(limits.keys() - VULKAN.keys())}: give {', '.join(VULKAN)}")
    lib.vf_vulkan(*limits.values())
    lib.vf_apart(not fuses)
    if metal:
        lib.vf_metal(metal)
    if sycl:
        lib.vf_sycl(sycl, alchemist)
    if not real_vulkan:
        lib.vf_memory_only()
    elif len(gpus_mib) != 1 or not lib.vf_real_vulkan(str(library()).encode()):
        raise EngineError("the real Vulkan backend has no device, or the load not one")
    lib.vf_load_mtp(load_mtp)
    for i, (mib, capability) in enumerate(
        zip(gpus_mib, _capabilities(compute_capability, len(gpus_mib)), strict=True)
    ):
        lib.vf_device(i, mib * MIB, capability)
    split = (ctypes.c_float * MAX_DEVICES)(*tensor_split) if tensor_split else None
    patterns = (ctypes.c_char_p * (len(cpu_tensors) + 1))(*(p.encode() for p in cpu_tensors), None)
    file = os.memfd_create("header")
    try:
        os.write(file, pathlib.Path(header).read_bytes())
        os.truncate(file, _HOLE)
        path = f"/proc/self/fd/{file}".encode()
        model = lib.vf_model(
            path, None, len(gpus_mib), n_gpu_layers, _SPLIT_MODES[split_mode], split, patterns
        )
    finally:
        os.close(file)
    if not model:
        raise Refused(complaint())
    return int(model)


def _capabilities(given: Capability | Sequence[Capability], n: int) -> list[int]:
    """The number that the backend makes of each device's capability: 860 for 8.6."""
    many = [given] * n if isinstance(given, (str, int, float)) else given
    if len(many) != n:
        raise EngineError(f"{len(many)} compute capabilities for {n} devices")
    numbers = []
    for one in map(str, many):
        if architecture := _ARCHITECTURE.fullmatch(one):
            numbers.append(_AMD + 0x100 * int(architecture[1], 16) + int(architecture[2], 16))
            continue
        major, _, minor = one.partition(".")
        if not (major.isdecimal() and (minor or "0").isdecimal()):
            raise EngineError(f"no compute capability: {one!r}; 8.6 is one, or gfx1100")
        numbers.append(100 * int(major) + 10 * int(minor or 0))
    return numbers


def complaint() -> str:
    """The engine's last error, without the function that printed it."""
    text = engine().vf_complaint().decode(errors="replace").strip()
    for prefix in ("error loading model: ", "failed to initialize the context: "):
        _, found, rest = text.partition(prefix)
        if found:
            return str(rest)
    return str(text.partition(": ")[2] or text)


def type_id(name: str) -> int:
    """A tensor type's number in the engine. Raises EngineError on an unknown name."""
    types = _types()
    if name not in types:
        raise EngineError(f"the engine has no tensor type {name!r}")
    return types[name]


def _types() -> dict[str, int]:
    if not _TYPES:
        for i in range(engine().vf_n_types()):
            raw = engine().ggml_type_name(i)
            if raw:
                _TYPES.setdefault(raw.decode().lower(), i)
    return _TYPES


_TYPES: dict[str, int] = {}
