"""Count what a placed model needs of the host before any compute buffer: weights, caches, and what of them a card has as well.

In: a placed `Model`, cards, `Settings`, a context. Out: bytes. Weights that are mapped are pages of the file: the system may drop
them and read them again, and a device that maps the file has the very same pages.
Source: `load_tensors` (llama-model.cpp:1508-1531, 1835-1895), `load_all_data` (llama-model-loader.cpp:1640-1670).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .._devices import Gpu, Host
from .._ggml.backends import HOST_BACKEND, Backend, cpu_of, host_of, pad
from .cparams import Context
from .eras import era_of, rules_of
from .memory import DeviceBytes, context_bytes, is_repacked, weight_bytes, weight_sizes
from .model import Model
from .params import Settings
from .placement import HOST, Placement, devices

__all__ = [
    "HostNeeds",
    "HostWeights",
    "host_needs",
    "host_weights",
    "maps_file",
    "pooled_weights",
    "shared_card",
]

_NO_MMAP: Final = (
    "cuda",
    "hip",
    "vulkan",
)  # where a chip that shares the system's memory has no mmap_support
_MAPPING: Final = ("metal", "cpu")  # backends with buffer_from_host_ptr
_APPLE: Final = (
    "neon",
    "dotprod",
    "i8mm",
)  # of a Mac whose chip is not told apart: more is repacked with than without
_FILE_ALIGNMENT: Final = 32  # of tensors in a file, unless its header says otherwise


class HostWeights(NamedTuple):
    """Bytes of weights on the host: `mapped` are pages of the file, `lazy` of these are never held as a whole.

    `locked` come on top: what lies between them in the file is locked with them.
    """

    mapped: int = 0
    lazy: int = 0
    locked: int = 0


def maps_file(settings: Settings, used: Sequence[Gpu]) -> bool:
    """Tell whether weights on the host stay mapped: always with `mmap`, by itself unless a card shares the system's memory.

    A Mac's card maps the file as well (mmap_support: ggml-cuda.cu:5128, ggml-vulkan.cpp:15290, ggml-metal.cpp:700).
    """
    if settings.load_mode == "auto":
        return not any(map(_has_no_mmap, used))
    return settings.load_mode in ("mmap", "mmap+mlock")


def _has_no_mmap(gpu: Gpu) -> bool:
    return gpu.unified and gpu.backend in _NO_MMAP


def host_weights(
    model: Model,
    placement: Placement,
    settings: Settings,
    used: Sequence[Gpu],
    rules: Sequence[Backend],
    host: Backend,
) -> HostWeights:
    """Count how the host holds what `weight_bytes` counts there."""
    mapping = maps_file(settings, used)
    reads_rows = not any(map(_has_no_mmap, used))  # whatever the load mode
    sizes = weight_sizes(model, host)
    mapped: dict[str, int] = {}
    lazy: dict[str, int] = {}
    for weight, at, size in zip(model.weights, placement.weights, sizes, strict=True):
        if at != HOST or is_repacked(weight, rules, host):
            continue
        if weight.lazy and reads_rows:
            lazy[weight.tensor.name] = size
        elif mapping:
            mapped[weight.tensor.name] = size
    locked = _locked(model, mapped) if mapping and settings.load_mode == "mmap+mlock" else 0
    return HostWeights(sum(mapped.values()) + sum(lazy.values()), sum(lazy.values()), locked)


def _locked(model: Model, mapped: dict[str, int]) -> int:
    """Count the bytes that are locked beside the mapped tensors: of each file all from its start to the last of them (1663)."""
    end = at = 0
    for tensor in model.tensors:
        at += pad(tensor.n_bytes, _FILE_ALIGNMENT)
        end = at if tensor.name in mapped else end
    return max(0, end - sum(mapped.values()))


def pooled_weights(model: Model, placement: Placement, device: int, rules: Backend, *, mapping: bool) -> int:
    """Count the bytes of weights that a card and the host, where their memory is one, take less than both together; below 0: more.

    A Mac's GPU maps the range of the file that its tensors span: what the host maps of it is there once
    (llama-model.cpp:1868), and so is what nobody uses.
    """
    if not mapping or rules.name not in _MAPPING:
        return 0
    on_card = {w.tensor.name for w, at in zip(model.weights, placement.weights, strict=True) if at == device}
    elsewhere = {
        w.tensor.name for w, at in zip(model.weights, placement.weights, strict=True) if at != device
    }
    positions = [i for i, t in enumerate(model.tensors) if t.name in on_card]
    span = model.tensors[positions[0] : positions[-1] + 1] if positions else ()
    unused = sum(t.n_bytes for t in span if t.name not in on_card and t.name not in elsewhere)
    twice = sum(t.n_bytes for t in model.tensors if t.name in on_card and t.name in elsewhere)
    return twice - unused


class HostNeeds(NamedTuple):
    """Bytes on the host but for compute buffers. `beside` and `mapped` are as in `DeviceEstimate`.

    `card` is the device (of those in use) that has the system's memory, if one has; `pooled` is what of this, and of
    pages that nobody uses, counts against its memory.
    """

    weights: int
    caches: int
    mapped: int
    beside: int
    card: int | None = None
    pooled: int = 0

    @property
    def held(self) -> int:
        """Bytes that the host must hold."""
        return self.weights + self.caches + self.beside


def shared_card(used: Sequence[Gpu]) -> int | None:
    """Find the device in use that shares the system's memory: of several the first, since it is one memory."""
    return next((device for device, gpu in enumerate(used) if gpu.unified), None)


def host_needs(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    context: Context,
    placement: Placement,
    host: Host | None = None,
) -> tuple[HostNeeds, DeviceBytes, DeviceBytes]:
    """Count what the host needs, and weights and caches of all devices."""
    used = [gpus[i] for i in devices(gpus, settings)]
    rules = [rules_of(gpu, era_of(settings.engine_build)) for gpu in used]
    own = _own_rules(rules, host)
    weights = weight_bytes(model, placement, rules, own)
    caches = context_bytes(model, placement, context, rules, HOST_BACKEND)
    found = host_weights(model, placement, settings, used, rules, own)
    beside = found.locked - found.lazy
    card, pooled = shared_card(used), 0
    if card is not None:
        mapping = maps_file(settings, used)
        less = pooled_weights(model, placement, card, rules[card], mapping=mapping)
        pooled = weights.host + caches.host + beside - less
    return HostNeeds(weights.host, caches.host, found.mapped, beside, card, pooled), weights, caches


def _own_rules(rules: Sequence[Backend], host: Host | None) -> Backend:
    """Find the rules by which the host holds weights."""
    here = [r for r in rules if not r.behind]
    if host is not None and host.features is not None and not here:
        return cpu_of(host.features)
    if here and here[0].name == "metal":
        return cpu_of(_APPLE)
    return host_of(rules, of_weights=True)
