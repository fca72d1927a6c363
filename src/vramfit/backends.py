"""The rules of each backend that decide how many bytes a tensor takes and where it can run.

In: names, types, shapes. Out: `int` bytes and yes or no. A backend is a row of data; the replay of
scheduler and allocator is the same for all. `exact` is set where the rules were checked against
what the engine allocates; the others follow the engine's source and err to the large side where the
answer depends on the device. Source: ggml/src/ggml-<backend>/, as each rule says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from .errors import GpuError
from .ggml import BY_NAME, TensorType

__all__ = ["BACKENDS", "HOST_BACKEND", "Attention", "Backend", "HeadSize", "backend", "pad"]

_F16: Final = BY_NAME["f16"]
_F16_BYTES: Final = _F16.block_bytes

Shape = tuple[int, ...]


def pad(n: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `n` (GGML_PAD)."""
    return (n + step - 1) // step * step


@dataclass(frozen=True, slots=True)
class Attention:
    """One flash-attention node: extents of its sources in ggml's order."""

    q: Shape
    k: Shape
    v: Shape
    k_type: TensorType
    v_type: TensorType
    mask: Shape = (0, 0, 0, 0)  # no elements: no mask
    v_in_k: bool = False  # V is a view of K (latent attention)


@dataclass(frozen=True, slots=True)
class HeadSize:
    """A pair of head sizes that a flash-attention kernel exists for.

    `gqa` is the number of query heads for each KV head: at least `gqa_min`, a multiple of `gqa_step`.
    """

    k: int
    v: int
    gqa_min: int = 1
    gqa_step: int = 1


Scratch = Callable[[int, Attention], int]  # bytes of the result, node -> bytes with scratch
Expand = Callable[[str, int, Sequence[Shape]], int]  # op, bytes of the result, sources -> bytes


@dataclass(frozen=True, slots=True)
class Backend:
    """What the replay must know of a backend. Sizes are bytes, counts are as each field says."""

    name: str
    alignment: int  # every tensor starts at and is padded to a multiple of it
    exact: bool = False
    row_padding: int = 0  # elements: a quantized tensor's last row is padded to a multiple of it
    head_sizes: tuple[HeadSize, ...] = ()  # flash attention; empty: any
    head_step: int = 1  # flash attention: head sizes are multiples of it
    same_kv_type: bool = False  # flash attention: K and V must share a type
    scratch: Scratch | None = None  # what a flash-attention node carries beside its result
    expand: Expand | None = None  # what other nodes carry beside their result
    offload_batch: int = 0  # rows from which operations on host weights move here; 0: never
    offload_ops: frozenset[str] = frozenset()  # only these; empty: all
    async_events: bool = False  # asynchronous compute and events: pipeline parallelism can switch on
    host_buffer: bool = False  # has a pinned host buffer type
    max_buffer: int = 0  # largest single buffer; 0: no limit
    is_cpu: bool = False
    repacked: frozenset[str] = (
        frozenset()
    )  # types whose matrices are kept in another order, in a buffer apart

    def alloc_bytes(self, type_: TensorType, shape: Shape) -> int:
        """Bytes that a weight or cache tensor asks for, before alignment (get_alloc_size)."""
        return type_.row_bytes(shape[0]) * prod(shape[1:]) + self.padding_bytes(type_, shape[0])

    def repacks(self, type_: TensorType, shape: Shape) -> bool:
        """Whether a matrix is stored eight rows interleaved, where single rows cannot be read from."""
        return type_.name in self.repacked and len(shape) > 1 and not shape[1] % 8

    def padding_bytes(self, type_: TensorType, ne0: int) -> int:
        """Bytes that complete the last row of a quantized tensor (ggml-cuda.cu:911-916).

        A row may be a head of a wider row, and no multiple of the block: the engine then rounds down.
        """
        if not self.row_padding or type_.block == 1 or not ne0 % self.row_padding:
            return 0
        return (self.row_padding - ne0 % self.row_padding) * type_.block_bytes // type_.block

    def attention_bytes(self, n_bytes: int, node: Attention) -> int:
        """Bytes of a flash-attention node whose result has `n_bytes`."""
        return n_bytes if self.scratch is None else self.scratch(n_bytes, node)

    def runs_attention(self, node: Attention) -> bool:
        """Whether the backend has a flash-attention kernel for `node`."""
        k, v, gqa = node.k[0], node.v[0], node.q[2] // node.k[2]
        if k % self.head_step or v % self.head_step:
            return False
        if self.same_kv_type and node.k_type is not node.v_type:
            return False
        return not self.head_sizes or any(
            (h.k, h.v) == (k, v) and gqa >= h.gqa_min and not gqa % h.gqa_step for h in self.head_sizes
        )

    def runs_mul_mat(self, a: TensorType, b: TensorType, is_hadamard: bool) -> bool:
        """Whether `a` times `b` runs here. The CPU multiplies f32 activations, or pairs of one
        unquantized type (ggml-cpu.cpp:453); devices take what graphs hold.
        """
        if not self.is_cpu or b.name == "f32" or a is b:
            return True
        return a.name == "f32" and (b.name == "bf16" or (is_hadamard and b.name == "f16"))

    def offloads(self, op: str, ne: Shape) -> bool:
        """Whether the backend takes over an operation whose weight stays on the host (offload_op)."""
        if not self.offload_batch or (self.offload_ops and op not in self.offload_ops):
            return False
        return _batch(op, ne) >= self.offload_batch


def _batch(op: str, ne: Shape) -> int:
    """Rows that an operation computes (get_op_batch_size, ggml-cuda.cu:5636)."""
    if op == "GET_ROWS":
        return 0
    if op == "MUL_MAT":
        return ne[1]
    if op in ("MUL_MAT_ID", "ROPE", "ROPE_BACK"):
        return ne[2]
    return ne[1] * ne[2] * ne[3]


def _cuda_scratch(n_bytes: int, node: Attention) -> int:
    """F16 copies of K and V for the tensor-core kernels (fattn-common.cuh:53, fattn.cu:722).

    Up to two tokens the vector kernel reads every cache type as it is.
    """
    if node.q[1] <= 2:
        return n_bytes
    if node.k_type is not _F16:
        n_bytes = pad(n_bytes, 128) + prod(node.k) * _F16_BYTES
    if node.v_type is not _F16 and not node.v_in_k:
        n_bytes = pad(n_bytes, 128) + prod(node.v) * _F16_BYTES
    return n_bytes


def _sycl_scratch(n_bytes: int, node: Attention) -> int:
    """The worst case over all kernels: Q, K, V, a scale and the result in f16 (ggml-sycl/fattn.cpp:383)."""
    n_q = node.q[2] * node.q[1] * node.k[0]
    for n in (n_q, prod(node.k), prod(node.v), 1, n_q):
        n_bytes = pad(n_bytes, 128) + n * _F16_BYTES
    return n_bytes


def _metal_scratch(n_bytes: int, node: Attention) -> int:
    """Always reserved, used or not (ggml-metal-ops.cpp:3064-3211).

    A padded tail of K, V and mask; a map of masked blocks; partial results of 32 workgroups; f16
    copies of K and V. Rows of the tail are counted as f32 rows over all heads: never too few.
    """
    q, k, v, mask = node.q, node.k, node.v, node.mask
    tail = 64 * (4 * prod(k) // max(k[1], 1) + 4 * prod(v) // max(v[1], 1) + _F16_BYTES * prod(mask[1:]))
    blocks = pad(-(-mask[0] // 32) * q[1] * mask[2] * mask[3], 32)
    partial = 4 * min(q[1], 32) * q[2] * q[3] * 32 * (v[0] + 2)
    copies = pad(_F16_BYTES * prod(k), 16) + pad(_F16_BYTES * prod(v), 16)
    return n_bytes + tail + blocks + partial + copies


def _metal_expand(op: str, n_bytes: int, sources: Sequence[Shape]) -> int:
    """Maps of tokens to experts, and second halves of sorts (ggml-metal.cpp:220-252)."""
    if op == "MUL_MAT_ID":
        n_expert, n_tokens = sources[0][2], sources[2][1]
        return n_bytes + 4 * n_expert * (1 + n_tokens) + 8 + 4 * 256
    if op in ("CUMSUM", "ARGSORT"):
        return 2 * n_bytes
    return 8 * prod(sources[0]) if op == "TOP_K" else n_bytes


# fattn.cu:577-620
_CUDA_HEADS: Final = (
    *(HeadSize(n, n) for n in (40, 64, 72, 80, 96, 112, 128, 256)),
    HeadSize(192, 128, gqa_min=2, gqa_step=8),
    HeadSize(320, 256, gqa_min=2, gqa_step=32),
    HeadSize(512, 512, gqa_min=2),
    HeadSize(576, 512, gqa_min=2),
)
# ggml-metal-device.m:1727-1750
_METAL_HEADS: Final = (
    *(HeadSize(n, n) for n in (32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576)),
    HeadSize(192, 128),
    HeadSize(320, 256),
    HeadSize(576, 512),
)

_CUDA: Final = Backend(
    name="cuda",
    alignment=128,
    exact=True,
    row_padding=512,
    head_sizes=_CUDA_HEADS,
    scratch=_cuda_scratch,
    offload_batch=32,
    async_events=True,
    host_buffer=True,
)
_HIP: Final = Backend(
    name="hip",  # the CUDA source compiled for AMD; peer copies, hence events, are a build option
    alignment=128,
    row_padding=512,
    head_sizes=_CUDA_HEADS,
    scratch=_cuda_scratch,
    offload_batch=32,
    async_events=True,
    host_buffer=True,
)
_VULKAN: Final = Backend(
    name="vulkan",
    alignment=256,  # minStorageBufferOffsetAlignment: 4 to 256, the largest that is allowed
    head_step=8,  # ggml-vulkan.cpp:15454
    offload_batch=32,
    async_events=True,
    host_buffer=True,
    max_buffer=1 << 30,  # ggml-vulkan.cpp:4216
)
_METAL: Final = Backend(
    name="metal",
    alignment=32,
    head_sizes=_METAL_HEADS,
    same_kv_type=True,
    scratch=_metal_scratch,
    expand=_metal_expand,
    offload_batch=32,
    offload_ops=frozenset({"MUL_MAT", "MUL_MAT_ID"}),
    async_events=True,
)
_SYCL: Final = Backend(
    name="sycl",
    alignment=128,
    row_padding=512,
    head_sizes=_CUDA_HEADS,
    scratch=_sycl_scratch,
    offload_batch=32,
    async_events=True,
    host_buffer=True,
)
# x86 with AVX2 (ggml-cpu/repack.cpp:4974-5096); q2_K with AVX-512 only, which is the larger answer
_REPACKED: Final = frozenset({"q4_0", "q4_K", "iq4_nl", "mxfp4", "q2_K"})
# alignment: ggml-backend.cpp:2474
HOST_BACKEND: Final = Backend(name="cpu", alignment=32, exact=True, is_cpu=True, repacked=_REPACKED)

BACKENDS: Final[dict[str, Backend]] = {b.name: b for b in (_CUDA, _HIP, _VULKAN, _METAL, _SYCL, HOST_BACKEND)}


def backend(name: str) -> Backend:
    """The backend called `name`, in any case; `GpuError` names the known ones if there is none."""
    try:
        return BACKENDS[name.lower()]
    except KeyError:
        raise GpuError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}") from None
