"""The nouns of a compute graph: what builders make and what the replay walks.

In: extents, types and homes as ints. Out: nothing; `sched` and `galloc` hold the verbs.

A graph is a list of tensors that name each other by their index in it, so that the replay can keep
all its state in plain lists. Nothing here is changed once it is built: one graph can be scheduled
again over other devices. `Tensor` is slotted but not frozen because a plan builds thousands of them.
Source of the terms: `struct ggml_tensor` and `struct ggml_cgraph` (ggml/include/ggml.h,
ggml/src/ggml-impl.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .types import TensorType

__all__ = [
    "CACHE",
    "COMPUTE",
    "HOST",
    "INPUT",
    "NONE",
    "OUTPUT",
    "VIEW_OPS",
    "WEIGHT",
    "Extents",
    "Graph",
    "Tensor",
    "contiguous",
    "is_contiguous",
    "is_contiguous_rows",
    "n_bytes",
    "param",
]

Extents = tuple[
    int, int, int, int
]  # elements along each dimension, or bytes from one to the next; the fastest first

# Tensor.flags (GGML_TENSOR_FLAG_*)
INPUT: Final = 1  # filled by the caller before the graph runs
OUTPUT: Final = 2  # read by the caller afterwards: its memory is never reused

# Tensor.usage: what the buffer of a leaf is for (GGML_BACKEND_BUFFER_USAGE_*)
COMPUTE: Final = 0  # no buffer yet: the allocator places it
WEIGHT: Final = 1  # attracts the operations that read it
CACHE: Final = 2  # KV cache, recurrent state: placed, but no weight

# Where something is: an index into the devices, or one of these
HOST: Final = -1  # host memory, pinned or not, and the CPU backend, to which all of it belongs
NONE: Final = -2  # nowhere yet; also no tensor, where a tensor is asked for

# Operations that compute nothing: another look at the data of a source (ggml-backend.cpp:757)
VIEW_OPS: Final = frozenset({"VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"})


@dataclass(slots=True, eq=False)
class Tensor:
    """One tensor of a graph. Indices are positions in `Graph.tensors`.

    A leaf has the op "NONE". A view has the index of its root in `view`: never of another view. A
    tensor may name itself as a source (casts do). Sources are listed without the engine's gaps.
    """

    name: str
    op: str  # as ggml_op_name gives it: "MUL_MAT", "FLASH_ATTN_EXT", ...
    type: TensorType
    ne: Extents  # elements in each dimension, the fastest first
    nb: Extents  # bytes from one index of each dimension to the next
    src: tuple[int, ...] = ()
    view: int = NONE  # the tensor whose memory this one shares (view_src)
    offset: int = 0  # bytes into it (view_offs)
    flags: int = 0  # INPUT, OUTPUT
    usage: int = COMPUTE
    home: int = NONE  # where the buffer of a leaf is: device index or HOST; NONE: not placed yet
    pinned: int = NONE  # the backend the caller chose for a node: device index or HOST
    params: tuple[int, ...] = ()  # the first words of op_params, as far as a rule of a backend reads them
    index: int = NONE  # its position in `Graph.tensors`, where `ops` made it


@dataclass(slots=True, eq=False)
class Graph:
    """Tensors in the order they were made, and the engine's two orders over them.

    `leafs` and `nodes` hold indices into `tensors`. The order of the leafs that have no home is the
    order in which the allocator places them; leafs with a home may stand anywhere, but must be listed.
    """

    tensors: list[Tensor]
    leafs: list[int]
    nodes: list[int]


def contiguous(type_: TensorType, ne: Extents) -> Extents:
    """Compute the strides in bytes of a tensor without gaps (ggml_new_tensor_impl, ggml/src/ggml.c)."""
    nb1 = ne[0] // type_.block * type_.block_bytes
    nb2 = nb1 * ne[1]
    return (type_.block_bytes, nb1, nb2, nb2 * ne[2])


def n_bytes(t: Tensor) -> int:
    """Count the bytes from the first to the last element of `t`, gaps included (ggml_nbytes, ggml/src/ggml.c)."""
    ne, nb = t.ne, t.nb
    if not (ne[0] and ne[1] and ne[2] and ne[3]):
        return 0
    first = t.type.block_bytes + (ne[0] - 1) * nb[0] if t.type.block == 1 else ne[0] * nb[0] // t.type.block
    return first + (ne[1] - 1) * nb[1] + (ne[2] - 1) * nb[2] + (ne[3] - 1) * nb[3]


def param(t: Tensor, i: int) -> int:
    """Read word `i` of an operation's parameters (op_params); 0 where the graph does not state it."""
    return t.params[i] if i < len(t.params) else 0


def is_contiguous(t: Tensor, gaps_up_to: int = 0) -> bool:
    """Tell whether `t` has no gaps; those behind the first `gaps_up_to` dimensions do not count (ggml_is_contiguous_n)."""
    ne, nb, type_ = t.ne, t.nb, t.type
    if ne[0] != type_.block and nb[0] != type_.block_bytes:
        return False
    step = ne[0] // type_.block * type_.block_bytes
    for d in (1, 2, 3):
        if d <= gaps_up_to:
            step = ne[d] * nb[d]
            continue
        if ne[d] != 1 and nb[d] != step:
            return False
        step *= ne[d]
    return True


def is_contiguous_rows(t: Tensor) -> bool:
    """Tell whether each row of `t` has no gaps (ggml_is_contiguous_rows)."""
    return t.ne[0] == t.type.block or t.nb[0] == t.type.block_bytes
