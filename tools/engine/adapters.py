"""Adapters for a header, and what the engine allocates with them: the record that the tests compare with.

    python -m tools.engine.adapters tests/data/builders tests/data/company/adapters.json

A LoRA adapter of rank 8 for every matrix of a layer and the output, and a control vector. A record has for each header, each
kind of adapter and each device, the host last: bytes of weights with those of the adapter, and of compute buffers.
"""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import struct
import sys
import tempfile
from collections.abc import Sequence
from math import prod
from typing import Any

from vramfit._gguf import parse
from vramfit._llama.arch import describe
from vramfit._llama.model import Model

__all__ = [
    "GPUS_MIB", "KINDS", "RANK", "SETTINGS", "adapter_bytes", "changed", "given", "measure", "vector_bytes",
]  # fmt: skip

GPUS_MIB = (1000, 1000)
KINDS = ("lora", "control vector")
RANK = 8
SETTINGS: dict[str, Any] = {"n_ctx": 1024, "flash_attn": "on", "n_outputs_max": 1, "tensor_split": (1.0, 1.0)}
# What the engine looks rows up in, convolves or adds: no matrix that a product is made of.
_NO_MATRIX = ("conv", "ssm_a", "altup_correct_coef", "_scale", "ape")


def changed(model: Model) -> list[tuple[str, tuple[int, ...]]]:
    """The weights that an adapter can change: name and shape."""
    loaded = {w.tensor.name for w in model.weights}
    return [
        (t.name, t.shape)
        for t in model.tensors
        if t.name in loaded
        and len(t.shape) > 1
        and min(t.shape[:2]) > 1
        and t.name.endswith(".weight")
        and ("blk" in t.name or t.name == "output.weight")
        and not any(part in t.name for part in _NO_MATRIX)
    ]


def adapter_bytes(
    architecture: str, weights: Sequence[tuple[str, tuple[int, ...]]], rank: int = RANK
) -> bytes:
    """The header of a LoRA adapter in f32 for these weights."""
    tensors = []
    for name, (n, m, *rest) in weights:
        tensors += [(f"{name}.lora_a", (n, rank, *rest)), (f"{name}.lora_b", (rank, m, *rest))]
    keys = {"general.type": "adapter", "general.architecture": architecture, "adapter.type": "lora"}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        out += _text(key) + struct.pack("<I", 8) + _text(value)
    at = 0
    for name, shape in tensors:
        out += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, at)
        at += -(-4 * prod(shape) // 32) * 32
    return out + bytes(-len(out) % 32)


def vector_bytes(n_embd: int) -> bytes:
    """The header of a control vector of so many elements."""
    name = b"direction.1"
    info = struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, n_embd, 0, 0)
    out = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + info
    return out + bytes(-len(out) % 32)


def given(kind: str, model: Model, folder: pathlib.Path) -> tuple[Any, ...]:
    """What `Context.adapt` takes for a kind of adapter, "lora" or "control vector"; files are written to a folder."""
    if kind == "control vector":
        return [], model.n_embd, sum(not x.is_nextn for x in model.layers)
    lora = folder / "lora.gguf"
    lora.write_bytes(adapter_bytes(model.architecture, changed(model)))
    os.truncate(lora, 1 << 32)
    return ([(str(lora), 1.0)],)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def measure(header: bytes) -> dict[str, list[list[int]]]:
    """What the engine allocates for a header with each kind of adapter. Raises Refused."""
    from .load import load

    model = describe(parse(header, name="header"), source="header")
    found = {}
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name, "model.gguf")
        path.write_bytes(header)
        for kind in KINDS:
            with load(path, GPUS_MIB, **SETTINGS) as context:
                more = context.adapt(*given(kind, model, path.parent))
                rows = zip(context.breakdown(), more, strict=True)
                found[kind] = [[row["model"] + n, row["compute"]] for row, n in rows]
    return found


def main(folder: str, out: str) -> None:
    """Measure every header of a folder."""
    from .errors import EngineError

    rows = {}
    for path in sorted(pathlib.Path(folder).glob("*.gguf.gz")):
        try:
            rows[path.name.partition(".")[0]] = measure(gzip.decompress(path.read_bytes()))
        except EngineError as e:
            print(f"{path.name}: {e}")
    lines = ",\n".join(f'"{name}":{json.dumps(row, separators=(",", ":"))}' for name, row in rows.items())
    pathlib.Path(out).parent.mkdir(exist_ok=True)
    pathlib.Path(out).write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
