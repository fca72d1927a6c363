"""The engine in this process: the bundled libraries of `llama-cpp-python`, behind a shim of our own.

In: nothing but an installed `llama_cpp` and its source tree. Out: `engine()`, a `ctypes` library with the
functions of `shim.cpp`, libllama and libggml. `llama_cpp` itself is never imported (it is slow to start);
only the libraries beside it are loaded. Linux with g++ only: the shim relies on symbol interposition.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from .cut import write_cuts
from .errors import EngineError as EngineError

SOURCE_VARIABLE = "LLAMA_CPP_SOURCE"
LIBRARIES_VARIABLE = "LLAMA_CPP_LIBRARIES"
SHIM = pathlib.Path(__file__).with_name("shim.cpp")


def library_dir() -> pathlib.Path:
    """The engine's shared libraries: $LLAMA_CPP_LIBRARIES, or where the installed `llama_cpp` keeps them."""
    if folder := os.environ.get(LIBRARIES_VARIABLE):
        if not (pathlib.Path(folder) / "libllama.so").is_file():
            raise EngineError(
                f"{LIBRARIES_VARIABLE}: {folder} has no libllama.so: build the engine's target `llama`"
            )
        return pathlib.Path(folder)
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise EngineError(
            "llama_cpp is not installed in this environment; docs/internals/engine.md says how to build it"
        )
    return pathlib.Path(spec.origin).with_name("lib")


def source_dir() -> pathlib.Path:
    """The engine's source tree: $LLAMA_CPP_SOURCE, or one unpacked beside the environment."""
    for path in _source_candidates():
        if (path / "ggml/src/ggml-backend-impl.h").is_file():
            return path
    raise EngineError(
        f"no llama.cpp source found; set {SOURCE_VARIABLE} to the tree that llama_cpp was built from"
    )


def _source_candidates() -> Iterator[pathlib.Path]:
    if SOURCE_VARIABLE in os.environ:
        yield pathlib.Path(os.environ[SOURCE_VARIABLE])
    beside = pathlib.Path(sys.prefix).parent
    yield from sorted(beside.glob("llama_cpp_python-*/vendor/llama.cpp"), reverse=True)


def is_available() -> bool:
    """Whether the engine can be driven from this interpreter."""
    try:
        library_dir(), source_dir()
    except EngineError:
        return False
    return True


def _shim() -> pathlib.Path:
    """The compiled shim, cached by its text, what it takes from the engine and the libraries it is linked with."""
    lib, source = library_dir(), source_dir()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_cuts(source, folder)
        cuts = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
        key = hashlib.sha256(SHIM.read_bytes() + cuts + str((lib, source)).encode()).hexdigest()[:16]
        out = pathlib.Path(tempfile.gettempdir()) / f"vramfit-engine-{os.getuid()}-{key}.so"
        if not out.exists():
            _compile(out, lib, source, folder)
    return out


def _compile(out: pathlib.Path, lib: pathlib.Path, source: pathlib.Path, cuts: pathlib.Path) -> None:
    partial = out.with_suffix(f".{os.getpid()}")
    folders = [cuts, *(source / sub for sub in ("include", "ggml/include", "ggml/src", "src", "tools/mtmd"))]
    include = [f"-I{folder}" for folder in folders]
    link = [f"-L{lib}", "-lllama", "-lggml", "-lggml-cpu", "-lggml-base", f"-Wl,-rpath,{lib}"]
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", *include, str(SHIM)]
    done = subprocess.run([*command, "-o", str(partial), *link], capture_output=True, text=True)
    if done.returncode:
        raise EngineError(
            f"the shim does not compile against {source}: {undeclared(done.stderr)}\n{done.stderr}"
        )
    partial.rename(out)


def undeclared(errors: str) -> str:
    """What a compiler's errors say that the engine's functions use and nobody gives them: for `cut.py` or for the shim."""
    names = sorted(set(re.findall(r"['‘](\w+)['’] (?:was not declared|has not been declared)", errors)))
    return (
        f"it uses {', '.join(names)}: list them in tools/engine/cut.py, or give shim.cpp stand-ins"
        if names
        else ""
    )


@functools.cache
def engine() -> ctypes.CDLL:
    """The loaded engine with its shim, quiet, its devices registered. One per process."""
    lib = ctypes.CDLL(str(_shim()), mode=ctypes.RTLD_GLOBAL)
    for name, result, *arguments in _SIGNATURES:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.vf_start()
    return lib


class ContextSettings(ctypes.Structure):
    """`vf_settings` of the shim."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_outputs_max")),
        *((name, ctypes.c_int32) for name in ("flash_attn", "type_k", "type_v", "pooling_type")),
        *(
            (name, ctypes.c_int32)
            for name in (
                "kv_unified",
                "offload_kqv",
                "swa_full",
                "op_offload",
                "embeddings",
                "n_rs_seq",
                "next_tokens",
            )
        ),
    ]


GraphCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
AllocationCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64))

_p, _s, _i, _u = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32
_SIGNATURES = (
    ("vf_start", None),
    ("vf_complaint", _s),
    ("vf_device", _p, _i, ctypes.c_size_t, _i),
    ("vf_vulkan", None, *(ctypes.c_size_t,) * 4, ctypes.c_bool, ctypes.c_bool),
    ("vf_real_vulkan", ctypes.c_bool, _s),
    ("vf_memory_only", None),
    ("vf_metal", None, ctypes.c_size_t),
    ("vf_apart", None, ctypes.c_bool),
    ("vf_sycl", None, ctypes.c_size_t, ctypes.c_bool),
    ("vf_server", _i, _s),
    ("vf_serve", ctypes.c_bool, _s, _i),
    ("vf_really", None, ctypes.c_bool),
    ("vf_load_mtp", None, ctypes.c_bool),
    ("vf_beside", None, _p),
    ("vf_tap", ctypes.c_bool, _p, ctypes.POINTER(_u), _i),
    ("vf_model", _p, _s, _p, _i, _i, _i, ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_char_p)),
    ("vf_context", _p, _p, ctypes.POINTER(ContextSettings), GraphCallback, AllocationCallback),
    ("vf_graph", ctypes.c_bool, _p, _u, _u, _u),
    ("vf_decode", ctypes.c_bool, _p, _i),
    ("vf_breakdown", None, _p, ctypes.POINTER(ctypes.c_int64)),
    ("vf_schedule", _i, ctypes.POINTER(ctypes.c_int64)),
    ("vf_place", _i, _p),
    (
        "vf_adapt",
        ctypes.c_bool,
        _p,
        _p,
        ctypes.POINTER(_s),
        ctypes.POINTER(ctypes.c_float),
        _i,
        _i,
        ctypes.POINTER(ctypes.c_int64),
    ),
    ("vf_next_block", ctypes.c_bool, _p, _i),
    (
        "vf_projector",
        ctypes.c_bool,
        _p,
        _p,
        _s,
        ctypes.c_bool,
        _i,
        _i,
        _i,
        ctypes.POINTER(ctypes.c_int64),
    ),
    ("vf_n_types", _i),
    ("vf_tensors", _i, _p, ctypes.POINTER(_p), _i),
    ("llama_model_free", None, _p),
    ("llama_free", None, _p),
    ("llama_n_ctx", _u, _p),
    ("llama_model_n_layer", ctypes.c_int32, _p),
    ("ggml_op_name", _s, _i),
    ("ggml_type_name", _s, _i),
    ("ggml_blck_size", ctypes.c_int64, _i),
    ("ggml_type_size", ctypes.c_size_t, _i),
    ("gguf_init_empty", _p),
    ("gguf_free", None, _p),
    ("gguf_set_kv", None, _p, _p),
    ("gguf_set_val_u32", None, _p, _s, _u),
    ("gguf_set_val_u64", None, _p, _s, ctypes.c_uint64),
    ("gguf_set_val_i32", None, _p, _s, ctypes.c_int32),
    ("gguf_set_val_f32", None, _p, _s, ctypes.c_float),
    ("gguf_set_val_bool", None, _p, _s, ctypes.c_bool),
    ("gguf_set_val_str", None, _p, _s, _s),
    ("gguf_set_arr_data", None, _p, _s, _i, _p, ctypes.c_size_t),
    ("gguf_set_arr_str", None, _p, _s, ctypes.POINTER(ctypes.c_char_p), ctypes.c_size_t),
    ("gguf_add_tensor", None, _p, _p),
    ("gguf_set_tensor_type", None, _p, _s, _i),
    ("gguf_write_to_file", ctypes.c_bool, _p, _s, ctypes.c_bool),
)
