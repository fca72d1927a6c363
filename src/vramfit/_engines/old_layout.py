"""Replay which layers Ollama 0.11 to 0.29 put on which card, and which it left to the host.

Source: Ollama 0.29, llm/server.go:955-1202 (`buildLayout`, `assignLayers`, `findBestFit`, `greedyFit`) and
fs/ggml/ggml.go (`GraphSize`, `OllamaEngineRequired`). Sizes are its own estimates, not ours: what does not fit by them
goes to the host, whether it would have fitted or not; what fits by them and not in truth runs out of memory. Models of
its own engine were measured and backed off from; those of the older runner were not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .._base.units import MIB
from .._devices import Gpu
from .._llama.model import Home, Model
from .._llama.params import Settings

__all__ = ["OWN_ENGINE", "Layout", "as_settings", "assign", "graph_bytes", "layout"]

MINIMUM: Final = 457 * MIB  # kept free on every card
MINIMUM_METAL: Final = 512 * MIB
OUTPUT: Final = r"^(output|token_embd)"
_EXACT: Final = 1e-6  # of the capacity factor
_CACHE_BYTES: Final = {"q8_0": 1.0, "q4_0": 0.5, "f32": 4.0}  # an element, as Ollama counts; else 2

# Architectures that its own engine ran, which allocates before it loads and gives way when that fails.
OWN_ENGINE: Final = frozenset(
    {"bert", "deepseek2", "deepseekocr", "gemma3", "gemma3n", "gemma4", "gptoss", "gpt-oss", "laguna", "llama4",
     "mistral3", "mllama", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni", "nomic-bert", "olmo3", "qwen25vl",
     "qwen3", "qwen3moe", "qwen35", "qwen35moe", "qwen3next", "qwen3vl", "qwen3vlmoe", "glm4moelite", "glmocr",
     "lfm2", "lfm2moe"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """Layers on each card, in the order of the cards. `output`: whether the output layer is among them."""

    counts: tuple[int, ...]
    output: bool
    n_host: int  # of n_layer + 1

    @property
    def full(self) -> bool:
        """Whether nothing is left to the host."""
        return not self.n_host


def layout(model: Model, gpus: Sequence[Gpu], settings: Settings, graph: int | None = None) -> Layout:
    """Place the layers of `settings.n_ctx` tokens (all slots together) on cards by their free memory.

    `graph` is the compute buffer of a card where it was measured, as Ollama's own engine did; else Ollama's formula.
    """
    layers = layer_sizes(model, settings)
    older = model.architecture not in OWN_ENGINE
    graph = graph_bytes(model, settings) if graph is None else graph
    order = sorted(range(len(gpus)), key=lambda i: -gpus[i].free)
    spare = layers[0] if older else 0  # one layer more, for what the estimate misses
    base = [gpus[i].free - spare - (MINIMUM_METAL if gpus[i].backend == "metal" else MINIMUM) for i in order]
    used, counts = 0, [0] * len(order)
    while True:  # a card that is used holds a graph, too; each round uses more cards, or is the last
        free = [max(0, n - graph) if i < used else max(0, n) for i, n in enumerate(base)]
        counts = assign(layers, free, max(1, used))
        reached = max((i + 1 for i, n in enumerate(counts) if n), default=0)
        if reached <= used:
            break
        used = reached
    placed = dict(zip(order, counts, strict=True))
    n_host = len(layers) - sum(counts)
    return Layout(tuple(placed[i] for i in range(len(gpus))), not n_host, n_host)


def as_settings(found: Layout, settings: Settings) -> Settings:
    """Make the settings under which the modelled engine loads that layout.

    It counts the output among the layers on the cards before any other; where Ollama leaves it out, its tensors are
    kept on the host by name.
    """
    if not any(found.counts):
        return replace(settings, n_gpu_layers=0)
    shares, cpu = list(found.counts), settings.cpu_tensors
    if not found.output:
        shares[max(i for i, n in enumerate(shares) if n)] += 1
        cpu = (*cpu, OUTPUT)
    return replace(
        settings, n_gpu_layers=sum(shares), tensor_split=tuple(map(float, shares)), main_gpu=0,
        split_mode="layer", cpu_tensors=cpu,
    )  # fmt: skip


def assign(layers: Sequence[int], free: Sequence[int], least: int = 1) -> list[int]:
    """Count the layers on each card, most free memory first: the last layers, on as few cards as hold all.

    At least `least` cards are tried. Where not all layers have room, the output layer, which is the last, goes first.
    """
    counts = [0] * len(free)
    for wanted in (layers, layers[:-1]):
        for n in range(min(least, len(free)), len(free) + 1):
            counts = _balanced(wanted, free[:n])
            if sum(counts) == len(wanted):
                break
        if sum(counts) == len(layers):
            break
    return counts + [0] * (len(free) - len(counts))


def _balanced(layers: Sequence[int], free: Sequence[int]) -> list[int]:
    """Place as many layers as have room, under the smallest share of every card's memory that holds so many."""
    best = _greedy(layers, free, 1.0)
    most, low, high = sum(best), 0.0, 1.0
    while high - low > _EXACT:
        middle = (low + high) / 2
        found = _greedy(layers, free, middle)
        if sum(found) == most:
            best, high = found, middle
        else:
            low = middle
    return best


def _greedy(layers: Sequence[int], free: Sequence[int], share: float) -> list[int]:
    """Fill cards from the last layer on the last card to the first ones, until a layer has no room anywhere."""
    counts = [0] * len(free)
    device = len(free) - 1
    room = int(free[device] * share) if free else 0
    for size in reversed(layers):
        while device >= 0 and size > room:
            device -= 1
            room = int(free[device] * share) if device >= 0 else 0
        if device < 0:
            break
        counts[device] += 1
        room -= size
    return counts


def layer_sizes(model: Model, settings: Settings) -> list[int]:
    """Count bytes of weights and cache of each layer, the output layer last, as Ollama estimates them."""
    sizes = [0] * (len(model.layers) + 1)
    for weight in model.weights:
        if isinstance(weight.home, Home):
            sizes[-1] += weight.tensor.n_bytes if weight.home is Home.OUTPUT else 0
        else:
            sizes[weight.home] += weight.tensor.n_bytes
    for il, cache in enumerate(cache_sizes(model, settings)):
        sizes[il] += cache
    return sizes


def cache_sizes(model: Model, settings: Settings) -> list[int]:
    """Count bytes of cache of each layer: the whole context in each that attends, whatever its window."""
    element = _CACHE_BYTES.get(settings.type_k, 2.0)
    return [
        int(settings.n_ctx * (x.head_k + x.head_v) * x.n_head_kv * element)
        if x.n_head and x.n_head_kv
        else 4 * sum(x.states)
        for x in model.layers
    ]


@dataclass(frozen=True, slots=True)
class _Dims:
    """What the formulas for a graph speak of."""

    batch: int
    ctx: int
    embd: int
    heads: int
    heads_kv: int
    head_k: int
    vocab: int
    experts_gate: int  # bytes of a layer's stack of gates; 0 without experts
    ff: int

    @property
    def logits(self) -> int:
        """Output rows of a whole batch, and what goes into them."""
        return 4 * self.batch * (self.embd + self.vocab)

    @property
    def table(self) -> int:
        """The output's weights, copied for a batch."""
        return self.embd * self.vocab * 105 // 128

    @property
    def scores(self) -> int:
        """Elements of attention scores and their mask, for a token of the batch."""
        return self.ctx * (1 + self.heads)


def _llama(d: _Dims) -> int:
    head = d.embd // d.heads
    full = max(4 * d.batch * (1 + 4 * d.embd + d.scores), d.logits)
    if d.experts_gate:
        moe = 3 * d.experts_gate + 4 * d.batch * (2 * d.ff + d.heads_kv + d.embd + d.ctx + head * d.heads_kv)
        wide = (
            d.ctx * d.batch * d.heads
            + d.ctx * head * d.heads_kv
            + d.batch * 1024
            + head * d.heads_kv * d.batch
        )
        return max(full, moe, 4 * wide)
    part = 4 * d.batch * (1 + d.embd + max(d.ctx, d.embd)) + d.embd * d.embd * 9 // 16
    part += 4 * d.ctx * (d.batch * d.heads + head * d.heads_kv)
    return max(full, 4 * d.batch * d.embd + max(part, d.logits + d.table))


def _qwen2(d: _Dims) -> int:
    each = d.batch * (1 + 2 * d.embd + d.scores)
    return max(d.logits + d.table, 4 * (each + d.embd * (1 + d.ctx)))


def _gemma(d: _Dims) -> int:
    each = 4 * d.batch * (2 * d.embd + 2 + 2 * d.head_k * d.heads + d.scores)
    return max(d.logits + d.table, each + 32 * d.head_k * d.ctx + d.embd * d.head_k * d.heads * 9 // 16)


def _command_r(d: _Dims) -> int:
    full = 4 * d.batch * (2 + 4 * d.embd + d.scores)
    part = 4 * d.batch * (1 + 2 * d.embd + d.scores) + 4 * d.embd * d.ctx + d.embd * d.embd * 9 // 16
    return max(full, part, d.logits + d.table)


def _phi2(d: _Dims) -> int:
    wide = 4 * d.batch * (2 * d.embd + d.vocab) + d.table
    return max(wide, 4 * d.batch * (2 + 4 * d.embd + d.scores))


def _stablelm(d: _Dims) -> int:
    return max(4 * d.batch * (d.vocab + 2 * d.embd), 4 * d.batch * (d.scores + 3 * d.embd + 2))


_GRAPHS: Final[dict[str, Callable[[_Dims], int]]] = {
    "llama": _llama, "qwen2": _qwen2, "gemma": _gemma, "gemma2": _gemma, "command-r": _command_r,
    "phi2": _phi2, "stablelm": _stablelm,
}  # fmt: skip


def graph_bytes(model: Model, settings: Settings) -> int:
    """Count the bytes that Ollama sets aside for the graph on each card: the larger of whole and partial offload.

    Architectures without a formula of their own get a sixth of the cache times the heads that share one.
    """
    heads = max((x.n_head for x in model.layers), default=0)
    fewest = min((x.n_head_kv for x in model.layers if x.n_head_kv), default=1)
    formula = _GRAPHS.get(model.architecture)
    if formula is None or not heads:
        return heads // fewest * sum(cache_sizes(model, settings)) // 6
    gates = [w.tensor.n_bytes for w in model.weights if w.tensor.name == "blk.0.ffn_gate_exps.weight"]
    return formula(
        _Dims(
            batch=settings.n_batch, ctx=settings.n_ctx, embd=model.n_embd, heads=heads,
            heads_kv=max(x.n_head_kv for x in model.layers), head_k=max(x.head_k for x in model.layers),
            vocab=model.n_vocab, experts_gate=sum(gates), ff=max(x.n_ff for x in model.layers),
        )
    )  # fmt: skip
