"""Load weights into host memory for real, over a hole in the place of data, and tell which buffers the engine makes.

In: a header that ends after its tensor table, a load mode. Out: bytes by the name of the buffer type ("CPU_Mapped",
"CPU_REPACK"), and under "locked" what the system says is locked. The engine runs in a process of its own.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile

from .errors import EngineError

__all__ = ["LOAD_MODES", "host_buffers"]

LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1, "mlock": 2, "mmap+mlock": 3}  # enum llama_load_mode
_MIB = 1 << 20
_BUFFER = re.compile(r"(\w+) model buffer size = +([\d.]+) MiB")
_LOCKED = re.compile(r"VmLck:\s+(\d+) kB")
_PROGRAM = """
import ctypes, pathlib, sys
from llama_cpp import llama_cpp as engine

@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def say(level, text, data):
    sys.stdout.write(text.decode(errors="replace"))

engine.llama_log_set(say, None)
engine.llama_backend_init()
params = engine.llama_model_default_params()
params.n_gpu_layers, params.load_mode = 0, int(sys.argv[2])
if not engine.llama_model_load_from_file(sys.argv[1].encode(), params):
    sys.exit(1)
print(pathlib.Path("/proc/self/status").read_text())
"""


def host_buffers(header: str | os.PathLike[str], n_bytes: int, load_mode: str = "auto") -> dict[str, int]:
    """Bytes of each buffer, to the hundredth of a MiB that is printed; `n_bytes` is no less than the tensors take.

    Raises EngineError where the engine does not load the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        path.write_bytes(pathlib.Path(header).read_bytes())
        os.truncate(path, path.stat().st_size + n_bytes + _MIB)
        words = [sys.executable, "-c", _PROGRAM, str(path), str(LOAD_MODES[load_mode])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise EngineError(f"{header}: {(done.stdout + done.stderr)[-300:]}")
    found = {name: round(float(size) * _MIB) for name, size in _BUFFER.findall(done.stdout)}
    locked = _LOCKED.search(done.stdout)
    return found | {"locked": int(locked[1]) << 10 if locked else 0}
