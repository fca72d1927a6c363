"""Start an engine that is installed, with the flags of some settings, and read what it prints.

In: a model's file and `Settings`. Out: the text that the program printed. A program gets so many seconds and so many
characters; one that serves is ended as soon as it says that it does, by its own process and nothing else's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Final

from .._base.errors import SourceError
from .._ggml.types import tensor_type
from .._llama.cparams import physical_batch
from .._llama.params import POOLINGS, Settings

__all__ = ["PROGRAMS", "SECONDS", "printed_by"]

PROGRAMS: Final = ("llama-server", "llama-fit-params", "llama-cpp-python")
SECONDS: Final = 120.0
MOST: Final = 8 << 20  # characters of a program's output
_READY: Final = re.compile(r"server is listening|all slots are idle")

# Run by the Python that has the binding: a model and a context without memory, which print what they would take.
_BINDING: Final = """
import ctypes, json, sys
asked = json.loads(sys.argv[1])
try:
    import llama_cpp
    from llama_cpp import llama_cpp as engine
except ImportError as e:
    sys.exit(f"no binding in this Python: {e}")
print(f"llama_cpp_python {llama_cpp.__version__}", flush=True)
engine.llama_backend_init()
engine.llama_log_set(ctypes.cast(None, engine.llama_log_callback), None)
model, context = engine.llama_model_default_params(), engine.llama_context_default_params()
fields = {name for name, *_ in model._fields_}
for name, value in asked["model"].items():
    if name in fields:
        setattr(model, name, value)
    elif name == "no_alloc":
        sys.exit("this binding cannot load without memory")
for name, value in asked["context"].items():
    setattr(context, name, value)
loaded = engine.llama_model_load_from_file(asked["path"].encode(), model)
made = engine.llama_init_from_model(loaded, context) if loaded else None
sys.exit(0 if made else "the engine refused the model or the context")
"""


def printed_by(
    program: str, path: str, settings: Settings, flags: Sequence[str], *, seconds: float = SECONDS
) -> str:
    """Run one of `PROGRAMS` on the model at `path` and return what it printed.

    `flags` are llama-server's for `settings`. Raises `SourceError` where the program is not installed, fails or takes too long.
    """
    if program == "llama-cpp-python":
        return _run(
            [sys.executable, "-c", _BINDING, json.dumps(_of_binding(path, settings))], program, seconds
        )
    found = shutil.which(program)
    if not found:
        raise SourceError(f"{program}: not found on the PATH; install it, or give a log with --log FILE")
    if program == "llama-fit-params":
        return _run([found, "-m", path, *_of_fit(flags), "--fit-print", "on"], program, seconds)
    words = [
        found,
        "-m",
        path,
        *flags,
        "--fit",
        "off",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-warmup",
        "-v",
    ]
    return _run(words, program, seconds, until=_READY)


def _of_fit(flags: Sequence[str]) -> list[str]:
    """Flags without those that llama-fit-params does not know."""
    after = ["", *flags]
    known = [word for word, before in zip(flags, after, strict=False) if "--pooling" not in (word, before)]
    return [word for word in known if word not in ("-kvu", "-no-kvu", "--embeddings", "--rerank")]


def _of_binding(path: str, s: Settings) -> dict[str, object]:
    flash = {"auto": -1, "off": 0, "on": 1}[s.flash_attn]
    # a file that is mapped cannot be loaded without memory; older bindings say so in another field
    model = {
        "no_alloc": True,
        "use_mmap": False,
        "load_mode": 0,
        "n_gpu_layers": s.n_gpu_layers,
        "split_mode": 0 if s.split_mode == "none" else 1,
        "main_gpu": s.main_gpu,
    }
    context = {
        "n_ctx": s.n_ctx, "n_batch": s.n_batch, "n_ubatch": physical_batch(s), "n_seq_max": s.n_seq_max, "flash_attn_type": flash,
        "type_k": tensor_type(s.type_k).id, "type_v": tensor_type(s.type_v).id, "offload_kqv": s.offload_kqv,
        "swa_full": s.swa_full, "op_offload": s.op_offload, "kv_unified": s.kv_unified, "embeddings": s.embeddings,
        "pooling_type": POOLINGS.index(s.pooling) if s.pooling else -1,
    }  # fmt: skip
    return {"path": path, "model": model, "context": context}


def _run(words: Sequence[str], program: str, seconds: float, until: re.Pattern[str] | None = None) -> str:
    """What a program prints on both streams, until it ends, says that it is ready, or its time is over."""
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
            errors="replace", env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
    except OSError as e:
        raise SourceError(f"{program}: cannot be started: {e.strerror or e}") from None
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        text, ready = _read(process, until)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    if late.is_set():
        raise SourceError(f"{program}: gave no answer in {seconds:g} seconds; its log will do: --log FILE")
    if not ready and process.returncode and "buffer size" not in text:
        last = [line for line in text.splitlines() if line.strip()][-1:] or ["it said nothing"]
        raise SourceError(f"{program} failed: {last[0][:300]}")
    return text


def _read(process: subprocess.Popen[str], until: re.Pattern[str] | None) -> tuple[str, bool]:
    lines: list[str] = []
    n = 0
    assert process.stdout is not None
    with process.stdout:
        while line := process.stdout.readline(1 << 16):
            n += len(line)
            if n <= MOST:
                lines.append(line)
            if until is not None and until.search(line):
                return "".join(lines), True
    process.wait()
    return "".join(lines), process.returncode == 0
