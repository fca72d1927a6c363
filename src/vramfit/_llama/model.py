"""Describe a model in numbers: nothing here knows the name of an architecture.

`arch` turns a header into these values; `placement`, `memory`, the graphs and the
quantizer read them. Sizes are in elements or `int` bytes as each field says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from types import MappingProxyType
from typing import Final, NamedTuple

from .._base.shown import Shown
from .._ggml.types import TensorType

__all__ = ["Cache", "Cells", "Home", "Layer", "Model", "Rope", "Tensor", "Weight"]

_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


class Home(Enum):
    """Where a tensor that belongs to no layer lives (llama-arch.cpp, LLM_TENSOR_LAYER_*)."""

    INPUT = "input"  # always on the host
    OUTPUT = "output"  # with the output layer


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file. `shape` is in ggml's order: the fastest dimension first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def n_elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes in the file (ggml_nbytes of a contiguous tensor), without padding."""
        return self.type.row_bytes(self.shape[0]) * prod(self.shape[1:])


class Weight(NamedTuple):
    """A tensor that the engine creates, and where: a layer index, or a `Home`.

    One file tensor can be created more than once (tied embeddings, shared RoPE factors); copies
    that land in the same buffer type are one allocation.
    """

    tensor: Tensor
    home: Home | int
    duplicate: bool = False  # created with TENSOR_DUPLICATED: free where the first copy already is
    lazy: bool = False  # read row by row from the mapped file, never resident (TENSOR_READ_LAZY)
    op: str = "MUL_MAT"  # the operation that a device must run to hold it (llama-arch.cpp, LLM_TENSOR_INFOS)
    scan: tuple[int, ...] = ()  # of an SSM_SCAN: elements of a state, of a head, heads, groups
    beside: int | None = None  # of an adapter: position of the weight that it changes, and lies beside
    lent: int | None = None  # of another model, whose memory it is: the device that it lies on


class Cells(Enum):
    """How many cells a cache has, as a function of the context (see `memory.cells`)."""

    FULL = "full"  # one a token of the context
    WINDOW = "window"  # the sliding window and a batch, at most the context
    COMPRESSED = "compressed"  # one for every `ratio` tokens


class Cache(NamedTuple):
    """One cache of one layer: K and V rows that grow with the context."""

    kind: str  # "kv", "indexer", "csa", "hca", ...: what it is for, as the engine tags it
    k_width: int  # elements of K in a cell
    v_width: int  # elements of V in a cell; 0 when the cache is K only
    cells: Cells = Cells.FULL
    window: int = 0  # n_swa, for WINDOW
    ratio: int = 1  # for COMPRESSED
    always_split: bool = False  # one stream a sequence even when `kv_unified` is set
    has_v: bool = True  # whether the engine creates a V tensor at all (False for latent attention)


@dataclass(frozen=True, slots=True)
class Layer:
    """One block of the model: its caches, its recurrent state, its attention geometry.

    A layer without attention has `n_head_kv == 0` or no cache. `shares_kv_with` names the layer whose
    cache this one reads when it has none of its own; `block` is the number in the names of the tensors that it
    uses, where that is not its index. States are f32, a copy for every sequence.
    """

    index: int
    caches: tuple[Cache, ...] = ()
    states: tuple[int, ...] = ()  # elements of each state tensor of one sequence (e.g. convolution, ssm)
    n_head: int = 0
    n_head_kv: int = 0
    head_k: int = 0  # elements of one key head (n_embd_head_k)
    head_v: int = 0
    n_ff: int = 0
    n_expert_used: int = 0
    is_swa: bool = False
    is_recurrent: bool = False
    is_nextn: bool = False  # a next-token-prediction block: in the file, not in the main context
    shares_kv_with: int | None = None
    block: int | None = None
    lent: int | None = (
        None  # its caches are another model's, whose memory they are: the device that they lie on
    )


class Rope(NamedTuple):
    """The model's own RoPE scaling, as its header says."""

    scaling: str = "none"  # none, linear, yarn, longrope
    factor: float = 1.0
    original_context: int = 0  # 0 when the header does not say
    freq_base: float = 10000.0
    dimensions: int = 0


class _Weakly:
    """Lets a class be referred to weakly: dataclasses with slots do not offer it before Python 3.11."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class Model(_Weakly, Shown):
    """A model, from its header alone."""

    architecture: str
    name: str
    tensors: tuple[Tensor, ...]  # what the file holds
    weights: tuple[Weight, ...]  # what the engine creates from it
    layers: tuple[Layer, ...]  # block_count of them, next-token-prediction blocks last
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    n_expert: int = 0
    n_head_indexer: int = 0  # heads of the indexers that choose what attention reads; 0 without
    file_type: str = ""  # general.file_type by name ("Q4_K_M"), "" when absent
    rope: Rope = field(default_factory=Rope)
    v_width_max: int = 0  # widest V row of all layers: what every layer gets without flash attention
    has_cache: bool = True  # False for encoders and diffusion models: no memory at all
    is_causal: bool = True
    is_encoder: bool = False
    is_mla: bool = False
    same_kv_type: bool = False  # the engine wants type_k == type_v
    flash_attn: bool = True  # False where the engine turns flash attention off (grok)
    assumed: str | None = None  # the architecture that `assume=` put in place of the header's
    hparams: Mapping[str, object] = field(
        default_factory=lambda: _NOTHING
    )  # "<architecture>.*" without the prefix
    source: str = ""  # the reference it was read from, for messages
    unknown_tensors: tuple[str, ...] = ()  # tensors that the engine has no use for, and refuses the file for
    mtp: tuple[
        Weight, ...
    ] = ()  # what is created of next-token-prediction blocks if these are to be loaded, too
    rollback: bool = False  # whether recurrent states are kept to go back to (llm_arch_supports_rs_rollback)
    tokenizer: str = ""  # tokenizer.ggml.model, "" when absent
    borrows: bool = False  # whether weights or caches of it are another model's (see `Weight.lent`)
    lent_types: tuple[str, ...] = ()  # of K and V in caches that are another model's
    company: object = None  # what is loaded beside it: a `Company` (see `_company`), None for nothing

    def __repr__(self) -> str:
        """Show which model it is and how large, not the thousands of values that it holds."""
        said = (
            "name",
            "architecture",
            "file_type",
            "n_layer",
            "n_params",
            "tensor_bytes",
            "n_ctx_train",
            "source",
        )
        return f"Model({', '.join(f'{name}={getattr(self, name)!r}' for name in said)})"

    @property
    def n_layer(self) -> int:
        """Number of blocks, next-token-prediction blocks included (n_layer_all)."""
        return len(self.layers)

    @property
    def tensor_bytes(self) -> int:
        """Sum of the bytes of all tensors of the file."""
        return sum(t.n_bytes for t in self.tensors)

    @property
    def n_params(self) -> int:
        """Number of elements of all tensors of the file."""
        return sum(t.n_elements for t in self.tensors)
