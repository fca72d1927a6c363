"""A `Load` → the cards and the `Settings` that it was loaded with.

In: a `Load`, a model, what a person says over it. Out: an `Asked`. What the log leaves open is taken as the program has it
by default, and said. What is printed counts before what stands in a command line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from .._base.errors import GpuError, SettingsError, VramfitError
from .._base.units import GIB
from .._company import company_of
from .._devices import Gpu, versions
from .._engines.settings import engine_settings
from .._ggml.backends import HOST_BACKEND
from .._llama.eras import era_of, rules_of
from .._llama.flags import read, split_text, take
from .._llama.model import Model
from .._llama.params import CACHE_TYPES, Settings
from .._logs import HOST, Device, Load
from .context import context_of, slots_of

__all__ = ["Asked", "asked", "cards_of"]

LARGE: Final = 1024 * GIB  # of a card whose size the log does not say: nothing is judged by it
BACKENDS: Final = {
    "CUDA": "cuda",
    "ROCm": "hip",
    "MUSA": "cuda",
    "Vulkan": "vulkan",
    "Metal": "metal",
    "MTL": "metal",
    "SYCL": "sycl",
}
_PRINTED: Final = ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_outputs_max")
_WINDOWS: Final = re.compile(
    r"\S*(?:[A-Za-z]:\\|\.exe\b)\S*"
)  # paths with backslashes, which a shell would take away
_COMPANY: Final = {
    "draft": "a draft beside the model",
    "mmproj": "a projector beside the model",
    "lora": "adapters of the model",
    "control_vector": "control vectors of the model",
}  # what flags load that no figure of the model has
_COUNTED: Final = tuple(f"({_COMPANY[k]})" for k in ("draft", "mmproj"))
_SERVERS: Final = ("llama-server", "lm-studio", "")
_SLOTS: Final = 4  # of a server that is told none, since build 7050


@dataclass(frozen=True, slots=True)
class Asked:
    """What was loaded how. `taken` are sentences on what the log does not say."""

    gpus: tuple[Gpu, ...]
    places: tuple[str, ...]  # the names of the cards in the log
    settings: Settings
    taken: tuple[str, ...]


def cards_of(load: Load) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The cards that hold buffers, and sentences on what was taken for granted of them."""
    known = {d.name: d for d in load.devices}
    taken: list[str] = []
    gpus = []
    for place in load.places[:16]:
        gpus.append(_card(known.get(place, Device(place)), taken))
    return tuple(gpus), tuple(dict.fromkeys(taken))


def _card(device: Device, taken: list[str]) -> Gpu:
    library = re.match(r"[A-Za-z]*", device.name)
    backend = BACKENDS.get(library[0] if library else "", "")
    if not backend:
        taken.append(f"the rules of CUDA were taken for {device.name}, of which none are known")
    capability = (
        device.capability if backend == "cuda" and re.fullmatch(r"[1-9]\d?\.\d", device.capability) else None
    )
    if backend == "hip" and device.capability.startswith("gfx"):
        capability = device.capability
    name = " ".join(f"{device.title or device.name}".split()) or device.name
    name = name if name.isprintable() else device.name
    if backend == "cuda" and capability is None:
        capability = _capability(name)
    if backend == "cuda" and capability is None:
        taken.append(
            f"the compute capability of {device.name} is not said: the largest figure of all was taken"
        )
    total = max(device.total, device.free) or LARGE
    free = device.free or total
    return Gpu(
        name=name[:80],
        total_bytes=total,
        free_bytes=free,
        backend=backend or "cuda",
        compute_capability=capability,
    )


def _capability(title: str) -> str | None:
    try:
        return next((c.compute_capability for c in versions(title) if c.compute_capability), None)
    except GpuError:
        return None


def asked(load: Load, model: Model, build: str, over: Mapping[str, Any]) -> Asked:
    """The cards and settings of a load, for the rules of `build`; `over` are fields that a person says.

    Raises `SettingsError` where the log does not say the context, and for fields that make no sense.
    """
    gpus, taken = cards_of(load)
    said = list(taken)
    fields = _of_command(load, said)
    if company_of(model).takes_room:  # it is told what else is loaded, and counts it
        said = [text for text in said if not text.endswith(_COUNTED)]
    fields |= _printed(load, model, said)
    fields |= over
    fields.setdefault("engine_build", build)
    rules = rules_of(gpus[0], era_of(fields["engine_build"])) if gpus else HOST_BACKEND
    quiet: list[str] = []
    if not fields.get("n_ctx"):
        fields |= context_of(
            load, model, rules, lambda n: _settings(load, {**fields, "n_ctx": n}, over, quiet), said
        )
    elif "n_seq_max" not in fields and (
        slots := slots_of(load, model, rules, _settings(load, dict(fields), over, quiet))
    ):
        fields |= {"n_seq_max": slots, "kv_unified": True}
        said.append(f"slots were taken from the bytes of their states: {slots}")
    settings = _settings(load, fields, over, said)
    return Asked(gpus, load.places[:16], settings, tuple(dict.fromkeys(said)))


def _of_command(load: Load, said: list[str]) -> dict[str, Any]:
    """Fields that a printed command line sets; what cannot be planned is said."""
    if not load.command or load.program in ("ollama", "koboldcpp"):
        return _of_runner(load.command) if load.program == "ollama" else {}
    words: list[str] = []
    try:
        words = split_text(_WINDOWS.sub(lambda m: m[0].replace("\\", "/"), load.command))
    except SettingsError:
        words = load.command.split()
    return _flags(words, said)


def _flags(words: Sequence[str], said: list[str]) -> dict[str, Any]:
    """Fields that flags set, each read by itself: what stands between them or behind the line stops none."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(words):
        flag = take(words, at)
        part, at = words[at : at + (flag[2] if flag else 1)], at + (flag[2] if flag else 1)
        if flag is None:
            continue
        try:
            line = read(part)
        except VramfitError as e:
            said.append(f"not read in the command line: {e}")
            continue
        moved = (*found.get("cpu_tensors", ()), *line.given.get("cpu_tensors", ()))
        found |= {k: v for k, v in line.given.items() if v or k != "n_ctx"}
        found |= {"cpu_tensors": moved} if moved else {}
        said += [f"not counted: {' '.join(names)} ({why})" for why, names in line.uncounted]
        said += [
            f"not counted: {part[0].partition('=')[0]} ({_COMPANY[k]})" for k in line.company if k in _COMPANY
        ]
    return found


_RUNNER: Final = {
    "--ctx-size": "n_ctx",
    "--batch-size": "n_batch",
    "--parallel": "n_seq_max",
    "--n-gpu-layers": "n_gpu_layers",
}


def _of_runner(command: str) -> dict[str, Any]:
    """The flags of Ollama's older runner."""
    words = command.split()
    found: dict[str, Any] = {}
    for flag, value in itertools.pairwise(words):
        if flag in _RUNNER and value.isdecimal() and len(value) < 10:
            found[_RUNNER[flag]] = int(value)
        if flag == "--kv-cache-type" and value in CACHE_TYPES:
            found |= {"type_k": value, "type_v": value}
    if "--flash-attn" in words:
        found["flash_attn"] = "on"
    if found.get("n_batch"):
        found["n_ubatch"] = found["n_batch"]
    return found


def _printed(load: Load, model: Model, said: list[str]) -> dict[str, Any]:
    """Fields that the engine printed of its context, and where it put things."""
    s = load.settings
    found: dict[str, Any] = {k: s[k] for k in _PRINTED if isinstance(s.get(k), int) and 0 < s[k] < 2**31}
    for name in ("kv_unified", "swa_full", "offload_kqv"):
        if isinstance(s.get(name), bool):
            found[name] = s[name]
    for name in ("type_k", "type_v"):
        if s.get(name) in CACHE_TYPES:
            found[name] = s[name]
    flash = {0: "off", 1: "on"}.get(s.get("flash_attn"), s.get("flash_attn"))  # type: ignore[arg-type]
    if flash in ("on", "off", "auto"):
        found["flash_attn"] = flash
    if load.offloaded:
        on, of = load.offloaded
        found["n_gpu_layers"] = -1 if on >= of else on
        context = {b.device for b in load.buffers if b.kind == "context"}
        if on and context == {HOST} and len(load.places):
            found["offload_kqv"] = False
    elif not load.places:
        found["n_gpu_layers"] = 0
    moved = [name for name, to in load.moved if to.upper().startswith("CPU") or to.endswith("_Host")]
    elsewhere = sorted(
        {to for _, to in load.moved if not (to.upper().startswith("CPU") or to.endswith("_Host"))}
    )
    if moved:
        found["cpu_tensors"] = (f"^(?:{'|'.join(re.escape(name) for name in moved)})$",)
    if elsewhere:
        said.append(f"tensors were moved to {', '.join(elsewhere[:4])} by name, which is not planned")
    return found


def _settings(load: Load, fields: dict[str, Any], over: Mapping[str, Any], said: list[str]) -> Settings:
    """Put what is known over what the program has by default."""
    era = era_of(fields["engine_build"])
    slots = load.settings.get("n_slots")
    if "n_seq_max" not in fields:
        unified = fields.get("kv_unified", load.settings.get("kv_unified"))
        server = load.program in _SERVERS and not era.one_slot
        fields["n_seq_max"] = slots or (_SLOTS if unified and server else 1)
        said.append(f"slots are not printed: {fields['n_seq_max']} were taken")
    if "kv_unified" not in fields:
        fields["kv_unified"] = fields["n_seq_max"] == 1 or (era.one_slot and era.one_cache)
    if "flash_attn" not in fields:
        found = load.settings.get("flash_attn_found")
        fields["flash_attn"] = "auto" if found or not era.one_cache else "off"
        said.append(f"flash attention is not printed: {fields['flash_attn']} was taken")
    if "n_outputs_max" not in fields:
        pooled = fields.get("embeddings") or fields.get("pooling", "none") != "none"
        rows = load.program in _SERVERS or load.program == "ollama"
        fields["n_outputs_max"] = fields["n_seq_max"] if rows and not pooled else 0
    fields.pop("defaults", None)
    fields.pop("tensor_split", None) if "tensor_split" not in over else None
    return replace(Settings(**fields), defaults=load.program or "the log")


def server_like(settings: Settings) -> Settings:
    """The settings of a llama-server that does the same, as far as it can be told."""
    given = {k: getattr(settings, k) for k in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "kv_unified", "flash_attn", "type_k",
             "type_v", "offload_kqv", "swa_full", "op_offload", "n_gpu_layers", "tensor_split", "cpu_tensors", "embeddings", "pooling",
             "engine_build")}  # fmt: skip
    return engine_settings("llama-server", given)
