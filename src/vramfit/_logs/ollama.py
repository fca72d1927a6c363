"""Ollama's own lines: `time=… level=… source=device.go:245 msg="model weights" device=CUDA0 size="1.9 GiB"`.

In: a line. Out: its words as a dict, and what they say of sizes, loads and cards. Source: Ollama 0.3 to 0.33
(llm/server.go, ml/device.go, runner/ollamarunner).
"""

from __future__ import annotations

import re
from typing import Any, Final

from .nouns import COMPUTE, CONTEXT, MODEL, Device, Size
from .patterns import size_step

__all__ = ["KINDS_OF", "device_of", "request_of", "size_of", "version_of", "words_of"]

KINDS_OF: Final = {"model weights": MODEL, "kv cache": CONTEXT, "compute graph": COMPUTE}
_WORD: Final = re.compile(r'("(?:[^"\\]|\\.){1,80}"|[\w.\-]{1,60})=("(?:[^"\\]|\\.){0,8000}"|[^\s"]{0,400})')
_VERSION: Final = re.compile(
    r"(?:\(version |ollama version is |Ollama version:? |version=)v?(\d+\.\d+(?:\.\d+)?)"
)
_SIZE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ([KMGT]i?B|B)")
_REQUEST: Final = re.compile(r"\b([A-Z]\w{2,24}):([^\s\[{}]*)")
_LAYERS: Final = re.compile(r"(?:ID:)?(\S{1,80}?) Layers:(\d{1,4})\(([^)]{0,40})\)")
BACKENDS: Final = {
    "cuda": "CUDA",
    "rocm": "ROCm",
    "metal": "Metal",
    "vulkan": "Vulkan",
    "sycl": "SYCL",
    "oneapi": "SYCL",
}


def words_of(line: str) -> dict[str, str]:
    """The words of a line in key=value form, without their quotes; {} where there is no `msg`."""
    if "msg=" not in line:
        return {}
    return {_bare(k): _bare(v) for k, v in _WORD.findall(line)}


def _bare(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word[:1] == '"' else word


def version_of(line: str) -> str:
    """The version of Ollama that a line names; "" for none."""
    found = _VERSION.search(line)
    return found[1] if found else ""


def size_of(text: str) -> Size | None:
    """A size as Ollama writes it ("18.5 GiB")."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        return None
    n, less, more = size_step(found[1], found[2])
    return Size(max(0, n - less), n + more)


def request_of(text: str) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    """What the runner was asked to load: settings under llama.cpp's names, and the layers of each card by its id."""
    said = dict(_REQUEST.findall(text))
    found: dict[str, Any] = {}
    for theirs, ours in (("KvSize", "n_ctx"), ("BatchSize", "n_ubatch"), ("Parallel", "n_seq_max")):
        if said.get(theirs, "").isdecimal() and len(said[theirs]) < 10:
            found[ours] = int(said[theirs])
    if "n_ubatch" in found:
        found["n_batch"] = found["n_ubatch"]
    if said.get("KvCacheType"):
        found["type_k"] = found["type_v"] = said["KvCacheType"].lower()
    flash = said.get("FlashAttention", "").lower()
    if flash in ("true", "enabled", "false", "disabled", "auto"):
        found["flash_attn"] = {"true": "on", "enabled": "on", "false": "off", "disabled": "off"}.get(
            flash, flash
        )
    return found, [(name, int(n)) for name, n, _ in _LAYERS.findall(text)]


def device_of(words: dict[str, str]) -> Device | None:
    """The card of a line "inference compute"; None for the host."""
    library = BACKENDS.get(words.get("library", "").lower())
    if not library:
        return None
    name = words.get("name", "")
    index = words.get("id", "0")
    named = re.fullmatch(rf"{library}\d*", name) is not None
    own = name if named else f"{library}{index}" if index.isdecimal() and library != "Metal" else library
    total, free = size_of(words.get("total", "")), size_of(words.get("available", ""))
    return Device(
        own,
        words.get("description") or ("" if named else name),
        free.middle if free else 0,
        total.middle if total else 0,
        words.get("compute", ""),
    )
