"""An estimate and a `Load` → rows, and whether they agree; and whether the log is of this model at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf
from typing import Any, Final

from .._estimate.estimate import Estimate
from .._llama.model import Model
from .._logs import HOST, KINDS, Load, Size
from .nouns import Row, Verdict

__all__ = ["NEAR", "differences", "is_same_weights", "rows_of", "verdict_of"]

NEAR: Final = 0.01  # of a device's total
_SPELT: Final = {"gptoss": "gpt-oss", "qwen25vl": "qwen2vl", "glm4moelite": "deepseek2"}  # Ollama's names


def rows_of(load: Load, found: Estimate, model: Model) -> tuple[Row, ...]:
    """A row for each kind of memory on each device that was printed; the host's last, which is never judged.

    The devices of the estimate are in the order of `load.places`.
    """
    rows: list[Row] = []
    same = is_same_weights(load, model)
    cached = any(
        b.kind == "context" for b in load.buffers
    )  # what is printed of one device is missing of others
    for place, device in zip(load.places, found.gpus, strict=True):
        for kind in KINDS:
            measured = load.sizes(place, kind)
            if measured is None and not (kind == "context" and device.context and cached):
                continue
            measured = measured or Size(0, 0)
            judged, why = _judged(load, place, kind, same, getattr(device, kind), measured)
            rows.append(Row(place, kind, getattr(device, kind), measured, judged, why))
    for kind in KINDS:
        measured = load.sizes(HOST, kind)
        if measured is not None:
            why = "host memory, parts of which are a mapped file or are counted elsewhere"
            own = not load.places and kind != "model"
            rows.append(Row(HOST, kind, getattr(found.host, kind), measured, own, "" if own else why))
    return tuple(rows)


def _judged(load: Load, place: str, kind: str, same: bool, ours: int, measured: Size) -> tuple[bool, str]:
    if load.own_runner:
        return False, "Ollama's own runner allocates by rules of its own"
    if load.program == "ik_llama.cpp" and kind == "compute" and not measured.holds(ours):
        return False, "ik_llama.cpp builds graphs of its own"
    if kind == "model":
        if any(b.is_mapped for b in load.buffers if b.device == place and b.kind == "model"):
            return False, "a range of the mapped file, with what lies between its tensors"
        if not same and not measured.holds(ours):
            return False, "the weights are quantized otherwise than in this header"
    return True, ""


def is_same_weights(load: Load, model: Model) -> bool:
    """Whether the log says a size of the file that is the header's."""
    size = load.facts.get("file_size")
    return isinstance(size, Size) and size.holds(model.tensor_bytes)


def verdict_of(rows: Sequence[Row]) -> Verdict:
    """What the judged rows say together."""
    judged = [r for r in rows if r.judged]
    if not judged:
        return "unchecked"
    if all(r.agrees for r in judged):
        return "equal"
    ratios = []
    for device in dict.fromkeys(r.device for r in judged):
        own = [r for r in rows if r.device == device]
        # what is not judged counts as measured on both sides
        ours = sum(r.estimate if r.judged else r.measured.middle for r in own)
        theirs = sum(r.measured.middle for r in own)
        slack = sum(r.measured.high - r.measured.middle for r in own if r.judged)
        if theirs:
            ratios.append((ours / theirs, slack / theirs))
        elif ours > slack:
            ratios.append((inf, 0.0))  # nothing was measured there
    if all(abs(ratio - 1) <= NEAR + slack for ratio, slack in ratios):
        return "near"
    return "lower" if any(ratio < 1 - NEAR - slack for ratio, slack in ratios) else "higher"


def differences(load: Load, model: Model) -> tuple[str, ...]:
    """Why the log is of another model than the header, in sentences; () where nothing says so."""
    f: dict[str, Any] = dict(load.facts)
    found = []
    arch = str(f.get("arch", ""))
    if arch and _plain(_SPELT.get(arch, arch)) != _plain(model.architecture):
        found.append(f"the log says architecture {arch}, the header {model.architecture}")
    nextn = sum(layer.is_nextn for layer in model.layers)
    layers = {model.n_layer, model.n_layer - nextn}
    said = f.get("n_layer_all", f.get("n_layer"))
    if isinstance(said, int) and said not in layers:
        found.append(f"the log says {said} layers, the header {model.n_layer}")
    elif said is None and load.offloaded and load.offloaded[1] - 1 not in layers:
        found.append(f"the log says {load.offloaded[1] - 1} layers, the header {model.n_layer}")
    for name, ours in (("n_embd", model.n_embd), ("n_vocab", model.n_vocab)):
        if isinstance(f.get(name), int) and ours and f[name] != ours:
            found.append(f"the log says {name} {f[name]}, the header {ours}")
    heads = f.get("n_head_kv")
    if (
        isinstance(heads, int)
        and not any(x.n_head_kv == heads for x in model.layers)
        and not model.is_mla
        and heads > 1
    ):
        found.append(f"the log says n_head_kv {heads}, the header has no such layer")
    return tuple(found)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
