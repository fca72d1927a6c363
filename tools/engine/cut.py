"""What the shim takes from the engine's source, cut out of it unchanged whenever the shim is compiled.

The backend for CUDA cannot be compiled without CUDA, because its kernels stand in the same files. What the
scheduler and the allocator ask it needs none of them: those functions, and the types they mention, are
listed here by name. `write_cuts(source, folder)` looks each of them up and writes files for `shim.cpp` to
include. No text of the engine is kept in this project.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
import re
from collections.abc import Callable

from .errors import EngineError

# Files below ggml/src and names in the order in which C++ wants them. A name is a pattern; all that it
# names is cut.
Cuts = tuple[tuple[str, str], ...]
CUDA_TYPES: Cuts = (
    ("ggml-cuda/common.cuh", r"GGML_CUDA_CC_\w+"),
    ("ggml-cuda/common.cuh", r"GGML_CUDA_USE_CUB"),
    ("ggml-cuda/common.cuh", r"FLASH_ATTN_AVAILABLE"),
    ("ggml-cuda/common.cuh", r"MATRIX_ROW_PADDING"),
    ("ggml-cuda/common.cuh", r"ggml_cuda_device_info"),
    (
        "ggml-cuda/common.cuh",
        r"static int ggml_cuda_highest_compiled_arch",
    ),  # where none are listed: the device's own
    ("ggml-cuda/common.cuh", r"amd_mfma_available"),
    ("ggml-cuda/common.cuh", r"amd_wmma_available"),
    ("ggml-cuda/common.cuh", r"volta_mma_available"),
    ("ggml-cuda/common.cuh", r"turing_mma_available"),
    ("ggml-cuda/common.cuh", r"ggml_cuda_concurrent_event"),
    ("ggml-cuda/common.cuh", r"ggml_cuda_stream_context"),
)
CUDA_RULES: Cuts = (
    ("ggml-cuda/fattn-common.cuh", r"FATTN_KQ_STRIDE"),
    ("ggml-cuda/fattn-common.cuh", r"ggml_cuda_flash_attn_ext_f16_extra_data"),
    ("ggml-cuda/fattn-common.cuh", r"ggml_cuda_flash_attn_ext_get_f16_extra_data"),
    ("ggml-cuda/fattn-mma-f16.cuh", r"ggml_cuda_flash_attn_ext_mma_f16_may_use_sparse"),
    ("ggml-cuda/fattn.cu", r"ggml_cuda_flash_attn_ext_mma_f16_shall_use_sparse"),
    ("ggml-cuda/fattn.cu", r"FATTN_VEC_CASE\w*"),
    ("ggml-cuda/fattn.cu", r"fattn_vec_case_t"),
    ("ggml-cuda/fattn.cu", r"ggml_cuda_get_fattn_vec_case"),
    ("ggml-cuda/fattn.cu", r"best_fattn_kernel"),
    ("ggml-cuda/fattn.cu", r"ggml_cuda_fattn_kv_type_supported"),
    ("ggml-cuda/fattn.cu", r"ggml_cuda_get_best_fattn_kernel"),
    ("ggml-cuda/fattn.cu", r"ggml_cuda_flash_attn_ext_get_alloc_size"),
    ("ggml-cuda/fattn.cu", r"ggml_cuda_flash_attn_ext_supported"),
    ("ggml-cuda/fwht.cu", r"ggml_cuda_op_mul_mat_use_fwht"),
    ("ggml-cuda/lightning-indexer.cu", r"ggml_cuda_lightning_indexer_supported"),
    ("ggml-cuda/topk-moe.cuh", r"ggml_cuda_topk_moe_args"),
    ("ggml-cuda/topk-moe.cu", r"ggml_cuda_should_use_topk_moe"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_buffer_type_context"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_buffer_type_get_name"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_buft_is_cuda"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_buffer_type_get_alignment"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_buffer_type_get_alloc_size"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_host_buffer_type_name"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_buft_is_cuda_host"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_cuda_topk_moe_fusion"),
    ("ggml-cuda/ggml-cuda.cu", r"MOE_WEIGHTED_REDUCTION_MAX_EXPERTS"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_cuda_moe_weighted_reduction_match"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_cuda_match_moe_weighted_reduction"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_cuda_should_fuse_mul_mat"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_cuda_match_shared_expert"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_graph_optimize"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_device_context"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_device_supports_op"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_device_supports_buft"),
    ("ggml-cuda/ggml-cuda.cu", r"get_op_batch_size"),
    ("ggml-cuda/ggml-cuda.cu", r"ggml_backend_cuda_device_offload_op"),
)
VULKAN_RULES: Cuts = (
    ("ggml-vulkan/ggml-vulkan-types.h", r"num_argsort_pipelines"),
    ("ggml-vulkan/ggml-vulkan-types.h", r"num_topk_pipelines"),
    ("ggml-vulkan/ggml-vulkan-types.h", r"topk_moe_(?:early|late|sigmoid|sqrt)_\w+(?<!_edges)"),
    ("ggml-vulkan/ggml-vulkan-types.h", r"\w+_pattern"),
    ("ggml-vulkan/ggml-vulkan-types.h", r"lightning_indexer_k_types"),
    ("ggml-vulkan/ggml-vulkan.cpp", r"ggml_vk_lightning_indexer_k_type_supported"),
    ("ggml-vulkan/ggml-vulkan.cpp", r"ggml_vk_concat_supported"),
    ("ggml-vulkan/ggml-vulkan.cpp", r"ggml_vk_dim01_contiguous"),
    ("ggml-vulkan/ggml-vulkan.cpp", r"ggml_vk_unary_mul_op_index"),
    ("ggml-vulkan/ggml-vulkan.cpp", r"ggml_vk_can_fuse_unary_mul"),
    ("ggml-vulkan/ggml-vulkan.cpp", r"ggml_vk_graph_optimize"),
    ("ggml-vulkan/ggml-vulkan-debug.cpp", r"ggml_vk_get_op_batch_size"),
    ("ggml-vulkan/ggml-vulkan.cpp", r"ggml_backend_vk_device_supports_op"),
    ("ggml-vulkan/ggml-vulkan.cpp", r"ggml_backend_vk_device_offload_op"),
)
METAL_RULES: Cuts = (
    ("ggml-metal/ggml-metal-impl.h", r"N_MM_NPART_AMAX|OP_FLASH_ATTN_EXT_\w+|OP_LIGHTNING_INDEXER_\w+"),
    ("ggml-metal/ggml-metal-ops.cpp", r"ggml_metal_op_mul_mat_id_extra_\w+"),
    ("ggml-metal/ggml-metal-ops.cpp", r"ggml_metal_op_flash_attn_ext_use_vec"),
    ("ggml-metal/ggml-metal-ops.cpp", r"ggml_metal_op_flash_attn_ext_use_kv_f16"),
    ("ggml-metal/ggml-metal-ops.cpp", r"ggml_metal_op_flash_attn_ext_n_kv_max_sparse"),
    ("ggml-metal/ggml-metal-ops.cpp", r"ggml_metal_op_flash_attn_ext_v_is_view_of_k"),
    ("ggml-metal/ggml-metal-ops.cpp", r"ggml_metal_op_flash_attn_ext_kv_f16_k_size"),
    ("ggml-metal/ggml-metal-ops.cpp", r"ggml_metal_op_flash_attn_ext_extra_\w+"),
    ("ggml-metal/ggml-metal.cpp", r"ggml_backend_metal_buffer_type_get_alloc_size"),
    ("ggml-metal/ggml-metal-device.m", r"ggml_metal_supports_mul_mat_op"),
    ("ggml-metal/ggml-metal-device.m", r"ggml_metal_device_supports_op"),
    ("ggml-metal/ggml-metal.cpp", r"get_op_batch_size"),
)
SYCL_RULES: Cuts = (
    ("ggml-sycl/common.hpp", r"SYCL_FLASH_ATTN|GGML_SYCL_FA_ALL_QUANTS"),
    ("ggml-sycl/common.hpp", r"SYCL_BUFFER_ALIGNMENT"),
    ("ggml-sycl/solve_tri.hpp", r"SYCL_SOLVE_TRI_MAX_\w"),
    ("ggml-sycl/fattn.hpp", r"ggml_sycl_fattn_extra"),
    ("ggml-sycl/fattn-onednn.cpp", r"GGML_SYCL_FA_ONEDNN_MIN_Q"),
    ("ggml-sycl/fattn-onednn.cpp", r"ggml_sycl_fattn_onednn_binds_kv"),
    ("ggml-sycl/fattn-onednn.cpp", r"ggml_sycl_flash_attn_ext_onednn_supported"),
    ("ggml-sycl/fattn.cpp", r"best_fattn_kernel"),
    ("ggml-sycl/fattn.cpp", r"ggml_sycl_get_best_fattn_kernel"),
    ("ggml-sycl/fattn.cpp", r"ggml_sycl_flash_attn_ext_supported"),
    ("ggml-sycl/fattn.cpp", r"ggml_sycl_fattn_reserve_halves"),
    ("ggml-sycl/fattn.cpp", r"ggml_sycl_fattn_get_extra"),
    ("ggml-sycl/fattn.cpp", r"ggml_sycl_flash_attn_ext_get_alloc_size"),
    ("ggml-sycl/ggml-sycl.cpp", r"ggml_backend_sycl_buffer_type_get_alloc_size"),
    ("ggml-sycl/ggml-sycl.cpp", r"do_ggml_backend_sycl_device_supports_op"),
    ("ggml-sycl/ggml-sycl.cpp", r"get_op_batch_size"),
    ("ggml-sycl/ggml-sycl.cpp", r"ggml_backend_sycl_device_offload_op"),
)
ALLOCATOR: Cuts = (
    ("ggml-alloc.c", r"buffer_address"),
    ("ggml-alloc.c", r"tensor_alloc"),
    ("ggml-alloc.c", r"leaf_alloc"),
    ("ggml-alloc.c", r"node_alloc"),
    ("ggml-alloc.c", r"ggml_gallocr"),
)

# Names of which a build may have none: those that came after the build that the library follows.
LATER = frozenset((r"ggml_cuda_match_shared_expert",))

# What a name may stand for; the engine closes every struct and function in the first column.
_SHAPES = (
    r"^#if[^\n]*\n# *define (?:{name})\b[^\n]*\n#endif[^\n]*\n",
    r"^# *define (?:{name})\b(?:[^\n]*\\\n)*[^\n]*\n",
    r"^static constexpr \w+ (?:{name}) = [^;]*;\n",
    r"^static constexpr std::[^;={{]*[ >](?:{name})\s*(?:= *)?\{{[^;]*;\n",
    r"^typedef [^;\n]*\(\* (?:{name})\)\([^;]*\);\n",
    r"^(?:struct|enum) (?:{name}) \{{\n.*?^\}};\n",
    r"^(?:[a-z][^\n;(]*[ *])?(?:{name})\([^;{{]*\)\s\{{\n.*?^\}}\n",
)


def write_cuts(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Write the files into `folder`. Raises EngineError that names all that `source` does not have."""
    missing: list[str] = []

    def found(make: Callable[[], str]) -> str:
        try:
            return make()
        except EngineError as error:
            missing.append(str(error))
            return ""

    built = found(lambda: _macros(source))
    for name, start, cuts in (
        ("cuda-types.inc", "", CUDA_TYPES),
        ("cuda-rules.inc", built, CUDA_RULES),
        ("vulkan-rules.inc", "", VULKAN_RULES),
        ("metal-rules.inc", "", METAL_RULES),
        ("sycl-rules.inc", "", SYCL_RULES),
        ("allocator.inc", "", ALLOCATOR),
    ):
        rules = (found(functools.partial(cut, source / "ggml/src" / file, pattern)) for file, pattern in cuts)
        (folder / name).write_text(start + "".join(rules))
    if missing:
        raise EngineError("\n".join(dict.fromkeys(missing)))


def _macros(source: pathlib.Path) -> str:
    return "".join(f"#define {pair} {int(there)}\n" for pair, there in vector_kernels(source).items())


def cut(file: pathlib.Path, name: str) -> str:
    """The definitions of all that the pattern `name` names, verbatim, each under a #line."""
    text = _read(file)
    for shape in _SHAPES:
        if found := list(re.finditer(shape.format(name=name), text, re.M | re.S)):
            return "".join(f'#line {1 + text.count(chr(10), 0, m.start())} "{file}"\n{m[0]}' for m in found)
    if name in LATER:
        return ""
    raise EngineError(f"{file} defines no {name!r}: compare tools/engine/cut.py with that version")


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
        raise EngineError(f"{file} sets no {pattern!r}: compare tools/engine/cut.py with that version")
    return found[1]


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise EngineError(
            f"{file} cannot be read ({error.strerror}): is this the engine's source?"
        ) from error
