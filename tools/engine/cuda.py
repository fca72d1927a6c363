"""The CUDA backend's own answers: its host-side functions, cut unchanged out of the engine's source.

`write_rules(source, folder)` writes two files for `shim.cpp` to include: `cuda-types.inc` (capabilities,
structs) and `cuda-rules.inc` (the functions). Nothing of the engine's text is kept in this project: what is
listed here are names, each looked up in its file whenever the shim is compiled. The backend itself cannot
be compiled without CUDA, since the same files hold its kernels.
"""

from __future__ import annotations

import itertools
import pathlib
import re

from .errors import EngineError

# In the order in which C++ wants them. A name is a pattern, and everything that it names is cut.
TYPES = (
    ("common.cuh", r"GGML_CUDA_CC_\w+"),
    ("common.cuh", r"GGML_CUDA_USE_CUB"),
    ("common.cuh", r"FLASH_ATTN_AVAILABLE"),
    ("common.cuh", r"MATRIX_ROW_PADDING"),
    ("common.cuh", r"ggml_cuda_device_info"),
    ("common.cuh", r"static int ggml_cuda_highest_compiled_arch"),  # where none are listed: the device's own
    ("common.cuh", r"(?:amd_mfma|amd_wmma|volta_mma|turing_mma)_available"),
    ("common.cuh", r"ggml_cuda_concurrent_event"),
    ("common.cuh", r"ggml_cuda_stream_context"),
)
RULES = (
    ("fattn-common.cuh", r"FATTN_KQ_STRIDE"),
    ("fattn-common.cuh", r"ggml_cuda_flash_attn_ext_f16_extra_data"),
    ("fattn-common.cuh", r"ggml_cuda_flash_attn_ext_get_f16_extra_data"),
    ("fattn-mma-f16.cuh", r"ggml_cuda_flash_attn_ext_mma_f16_may_use_sparse"),
    ("fattn.cu", r"ggml_cuda_flash_attn_ext_mma_f16_shall_use_sparse"),
    ("fattn.cu", r"FATTN_VEC_CASE\w*"),
    ("fattn.cu", r"fattn_vec_case_t"),
    ("fattn.cu", r"ggml_cuda_get_fattn_vec_case"),
    ("fattn.cu", r"best_fattn_kernel"),
    ("fattn.cu", r"ggml_cuda_fattn_kv_type_supported"),
    ("fattn.cu", r"ggml_cuda_get_best_fattn_kernel"),
    ("fattn.cu", r"ggml_cuda_flash_attn_ext_get_alloc_size"),
    ("fattn.cu", r"ggml_cuda_flash_attn_ext_supported"),
    ("fwht.cu", r"ggml_cuda_op_mul_mat_use_fwht"),
    ("lightning-indexer.cu", r"ggml_cuda_lightning_indexer_supported"),
    ("topk-moe.cuh", r"ggml_cuda_topk_moe_args"),
    ("topk-moe.cu", r"ggml_cuda_should_use_topk_moe"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_buffer_type_context"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_buffer_type_get_name"),
    ("ggml-cuda.cu", r"ggml_backend_buft_is_cuda"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_buffer_type_get_alignment"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_buffer_type_get_alloc_size"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_host_buffer_type_name"),
    ("ggml-cuda.cu", r"ggml_backend_buft_is_cuda_host"),
    ("ggml-cuda.cu", r"ggml_cuda_topk_moe_fusion"),
    ("ggml-cuda.cu", r"MOE_WEIGHTED_REDUCTION_MAX_EXPERTS"),
    ("ggml-cuda.cu", r"ggml_cuda_moe_weighted_reduction_match"),
    ("ggml-cuda.cu", r"ggml_cuda_match_moe_weighted_reduction"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_graph_optimize"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_device_context"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_device_supports_op"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_device_supports_buft"),
    ("ggml-cuda.cu", r"get_op_batch_size"),
    ("ggml-cuda.cu", r"ggml_backend_cuda_device_offload_op"),
)

# What a name may stand for; the engine closes every struct and function in the first column.
_SHAPES = (
    r"^#if[^\n]*\n# *define (?:{name})\b[^\n]*\n#endif[^\n]*\n",
    r"^# *define (?:{name})\b(?:[^\n]*\\\n)*[^\n]*\n",
    r"^static constexpr \w+ (?:{name}) = [^;]*;\n",
    r"^typedef [^;\n]*\b(?:{name})\b[^;]*;\n",
    r"^(?:struct|enum) (?:{name}) \{{\n.*?^\}};\n",
    r"^(?:[a-z][^\n;(]*[ *])?(?:{name})\([^;{{]*\) \{{\n.*?^\}}\n",
)


def write_rules(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Write both files into `folder`. Raises EngineError for a name that `source` does not have."""
    cuda = source / "ggml/src/ggml-cuda"
    quants = "".join(f"#define {pair} {int(compiled)}\n" for pair, compiled in vector_kernels(source).items())
    (folder / "cuda-types.inc").write_text("".join(cut(cuda / file, name) for file, name in TYPES))
    (folder / "cuda-rules.inc").write_text(quants + "".join(cut(cuda / file, name) for file, name in RULES))


def cut(file: pathlib.Path, name: str) -> str:
    """The definitions of all that the pattern `name` names, verbatim, each under a #line."""
    text = _read(file)
    for shape in _SHAPES:
        if found := list(re.finditer(shape.format(name=name), text, re.M | re.S)):
            return "".join(f'#line {1 + text.count(chr(10), 0, m.start())} "{file}"\n{m[0]}' for m in found)
    raise EngineError(f"{file} defines no {name!r}: compare tools/engine/cuda.py with that version")


def vector_kernels(source: pathlib.Path) -> dict[str, bool]:
    """The macro of each pair of cache types, and whether a default build compiles a vector kernel for it.

    As `ggml_cuda_fattn_vec_instances` (ggml/cmake/common.cmake) defines them.
    """
    listed = _setting(source / "ggml/CMakeLists.txt", r'GGML_CUDA_FA_QUANTS\s+"([^"]+)"')
    types = _setting(source / "ggml/cmake/common.cmake", r"FA_TYPES ([^)]+)").split()
    compiled = {"f16-f16", *listed.split(";")}
    return {
        f"GGML_CUDA_FA_{k}_{v}".upper(): f"{k}-{v}" in compiled for k, v in itertools.product(types, types)
    }


def _setting(file: pathlib.Path, pattern: str) -> str:
    found = re.search(r"set\s*\(" + pattern, _read(file))
    if not found:
        raise EngineError(f"{file} sets no {pattern!r}: compare tools/engine/cuda.py with that version")
    return found[1]


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise EngineError(
            f"{file} cannot be read ({error.strerror}): is this the engine's source?"
        ) from error
