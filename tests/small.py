"""Small models, made by hand: layers that the arithmetic can be checked on with a pencil."""

from __future__ import annotations

from dataclasses import replace

from vramfit._devices import Gpu
from vramfit._ggml.types import BY_NAME, tensor_type
from vramfit._llama.model import Cache, Cells, Home, Layer, Model, Tensor, Weight

F16 = BY_NAME["f16"]
F32 = BY_NAME["f32"]


def gpu(
    mib: int = 8192, free_mib: int | None = None, name: str = "card", compute_capability: str = "8.6"
) -> Gpu:
    """A card of `mib` MiB, all of it free unless said otherwise."""
    free = mib if free_mib is None else free_mib
    return Gpu(name=name, total_bytes=mib << 20, free_bytes=free << 20, compute_capability=compute_capability)


def dense(
    n_layer: int = 4,
    n_embd: int = 256,
    n_ff: int = 512,
    n_vocab: int = 1024,
    n_head: int = 4,
    n_head_kv: int = 2,
    *,
    weight_type: str = "f16",
    n_ctx_train: int = 8192,
    tied: bool = False,
    window: int = 0,
    swa_layers: int = 0,
) -> Model:
    """A plain transformer; the first `swa_layers` layers see `window` tokens only."""
    kind = tensor_type(weight_type)
    head = n_embd // n_head
    kv = head * n_head_kv
    embd = Tensor("token_embd.weight", (n_embd, n_vocab), kind)
    weights = [Weight(embd, Home.INPUT), Weight(Tensor("output_norm.weight", (n_embd,), F32), Home.OUTPUT)]
    if tied:
        weights.append(Weight(embd, Home.OUTPUT, duplicate=True))
    else:
        weights.append(Weight(Tensor("output.weight", (n_embd, n_vocab), kind), Home.OUTPUT))
    layers = []
    for il in range(n_layer):
        shapes = {
            "attn_norm": (n_embd,), "attn_q": (n_embd, n_embd), "attn_k": (n_embd, kv), "attn_v": (n_embd, kv),
            "attn_output": (n_embd, n_embd), "ffn_norm": (n_embd,), "ffn_gate": (n_embd, n_ff),
            "ffn_up": (n_embd, n_ff), "ffn_down": (n_ff, n_embd),
        }  # fmt: skip
        for name, shape in shapes.items():
            kind_of = kind if len(shape) > 1 else F32
            weights.append(Weight(Tensor(f"blk.{il}.{name}.weight", shape, kind_of), il))
        swa = il < swa_layers
        cache = Cache("kv", kv, kv, Cells.WINDOW if swa else Cells.FULL, window if swa else 0)
        layers.append(Layer(il, (cache,), (), n_head, n_head_kv, head, head, n_ff, is_swa=swa))
    seen: dict[str, Tensor] = {w.tensor.name: w.tensor for w in weights}
    return Model(
        architecture="hand-made", name="Hand Made", tensors=tuple(seen.values()), weights=tuple(weights),
        layers=tuple(layers), n_ctx_train=n_ctx_train, n_embd=n_embd, n_vocab=n_vocab, v_width_max=kv,
    )  # fmt: skip


def shortened(model: Model, n_layer: int) -> Model:
    """A published model with its first layers alone: its graphs, in a fraction of the time."""

    def stays(weight: Weight) -> bool:
        return not isinstance(weight.home, int) or weight.home < n_layer

    weights = tuple(filter(stays, model.weights))
    names = {w.tensor.name for w in weights}
    tensors = tuple(t for t in model.tensors if t.name in names)
    return replace(model, weights=weights, tensors=tensors, layers=model.layers[:n_layer])


def with_states(model: Model, *states: int) -> Model:
    """`model` with every layer recurrent instead of attending."""
    layers = tuple(replace(x, caches=(), states=states, is_recurrent=True) for x in model.layers)
    return replace(model, layers=layers)


def mixture(model: Model, n_expert: int = 8, n_used: int = 2, *, first: int = 0) -> Model:
    """`model` with experts in the layers from `first` on in place of their feed-forward weights."""
    weights: list[Weight] = []
    for weight in model.weights:
        tensor, home = weight.tensor, weight.home
        if isinstance(home, int) and home >= first and ".ffn_" in tensor.name and len(tensor.shape) > 1:
            name = tensor.name.replace(".weight", "_exps.weight")
            weights.append(Weight(Tensor(name, (*tensor.shape, n_expert), tensor.type), home))
        else:
            weights.append(weight)
    layers = tuple(replace(x, n_expert_used=n_used if x.index >= first else 0) for x in model.layers)
    tensors = tuple(w.tensor for w in weights if not w.duplicate)
    return replace(model, weights=tuple(weights), tensors=tensors, layers=layers, n_expert=n_expert)
