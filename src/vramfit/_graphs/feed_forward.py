"""Append feed-forward networks: dense ones, and mixtures of experts.

In: a `GraphContext`, the input, the names of the weights. Out: the result, [n_embd, n_tokens].
Source: `build_ffn` (llama-graph.cpp:1762-1961) and `build_moe_ffn` (2007-2373).
"""

from __future__ import annotations

from typing import Final

from .._ggml.graph import Tensor
from .._ggml.ops import Unbuildable
from .context import GraphContext

__all__ = ["NO_LIMIT", "choose", "ffn", "moe", "situ"]

NO_LIMIT: Final = 1e-6  # a limit of a gated unit that is not above this is none (llama-graph.cpp:1845)

# Activations beside a gate: the gated unit that ggml has for them
_GATED: Final = {"silu": "swiglu", "gelu": "geglu", "relu": "reglu", "swiglu_oai": "swiglu_oai"}


def ffn(
    g: GraphContext,
    x: Tensor,
    il: int,
    *,
    act: str = "silu",
    parallel: bool = True,
    up: str = "ffn_up",
    gate: str | None = "ffn_gate",
    down: str | None = "ffn_down",
    biases: bool = True,
    scales: bool | tuple[str, ...] = False,
    clamp: str = "",
    act_scale: str = "",
) -> Tensor:
    """Append a dense feed-forward network.

    `act` is silu, gelu, relu, relu_sqr, swiglu_oai, situ, or swiglu, geglu, reglu for an `up` that holds both halves.
    `gate` applies where the model has its weight, beside `up` (`parallel`) or behind it. `scales`: whether the
    builder's architecture hands the weights' scales on, or which of "up", "gate", "down". `act_scale` names what divides the
    activation. `clamp` limits the gated unit: "op" in one operation,
    "steps" in several (see `limited`).
    """
    scaled = ("up", "gate", "down") if scales is True else scales or ()
    gated = gate is not None and g.has(f"{gate}.weight", il)
    h = x
    if g.has(f"{up}.weight", il):
        h = g.named(_product(g, x, up, il, biases, "up" in scaled), "ffn_up")
    if gated and gate is not None:
        x = g.named(_product(g, x if parallel else h, gate, il, biases, "gate" in scaled), "ffn_gate")
    else:
        x = h
    x = _activate(g, x, h if gated and parallel else None, act, clamp)
    divisor = g.w(f"{act_scale}.scales", il) if act_scale else None
    if divisor is not None:
        x = g.div(x, divisor)
    if down is not None and g.has(f"{down}.weight", il):
        x = _product(g, x, down, il, biases, "down" in scaled)
    return g.named(x, "ffn_out")


def _product(g: GraphContext, x: Tensor, name: str, il: int, biases: bool, scales: bool) -> Tensor:
    """Append a product, then its bias, then its scale: the order of `build_ffn`."""
    x = g.mul_mat(g.need(f"{name}.weight", il), x)
    bias, scale = g.w(f"{name}.bias", il), g.w(f"{name}.scale", il)
    if biases and bias is not None:
        x = g.add(x, bias)
    return g.mul(x, scale) if scales and scale is not None else x


def _activate(g: GraphContext, x: Tensor, h: Tensor | None, act: str, clamp: str) -> Tensor:
    """Append the activation of `x`, times `h` where there is one."""
    if h is None:
        if act == "situ":
            raise Unbuildable("this activation needs a gate")
        if act == "relu_sqr":
            return g.sqr(g.relu(x))
        return g.glu(act, x) if act in ("swiglu", "geglu", "reglu") else g.unary(act, x)
    if act == "situ":
        return situ(g, x, h)
    if clamp:
        return limited(g, x, h, clamp)
    if act in _GATED:
        return g.named(g.glu(_GATED[act], x, h), f"ffn_{_GATED[act]}")
    return g.mul(_activate(g, x, None, act, ""), h)


def situ(g: GraphContext, x: Tensor, h: Tensor) -> Tensor:
    """Append a gated unit whose halves bend towards limits (LLM_FFN_SITU, llama-graph.cpp:2266)."""
    x = g.mul(g.scale(g.tanh(g.scale(x))), g.sigmoid(x))
    if g.hp("activation.situ_linear_beta") > 0:
        h = g.scale(g.tanh(g.scale(h)))
    return g.mul(x, h)


def limited(g: GraphContext, x: Tensor, h: Tensor, how: str) -> Tensor:
    """Append a gated unit whose halves are limited: in one operation, or step by step (llama-graph.cpp:1850-1866)."""
    if how == "op":
        return g.glu("swiglu_clamp", x, h)
    h = g.clamp(h)
    return g.mul(g.clamp(g.silu(x)), h)


def moe(
    g: GraphContext, x: Tensor, il: int, *,
    gating: str = "softmax", norm: bool = True, scale: float = 0.0, act: str = "silu",
    router: str = "ffn_gate_inp", router_bias: bool = False, bias: str | None = None,
    up: str = "ffn_up_exps", gate: str | None = "ffn_gate_exps", down: str = "ffn_down_exps", gate_up: str | None = None,
    biases: bool = False, scales: bool = False, clamp: str = "", n_expert: int | None = None, n_used: int | None = None,
    logits_in: Tensor | None = None, selected_in: Tensor | None = None, precise: bool = False, weights_first: bool = False,
) -> Tensor:  # fmt: skip
    """Append a mixture of experts. Names are of weights without ".weight"; those that the model has not are left out.

    `gating` is softmax, sigmoid, softmax_weight (of the chosen ones only) or sqrt_softplus; `norm` divides the
    weights by their sum, `scale` multiplies them unless it is 0 or 1; `bias` names what is added to choose by.
    `gate_up` names a matrix that holds gate and up, where the architecture can read one. `weights_first` weighs the
    input and not the output (Llama 4). `precise`: products in f32 (Mistral 4).
    """
    total = g.n_expert if n_expert is None else n_expert
    used = g.n_expert_used() if n_used is None else n_used
    n_embd, n_tokens = x.ne[0], x.ne[1]
    logits = _routed(g, x, il, router, router_bias, logits_in)
    probs = _probabilities(g, logits, gating)
    chosen = selected_in
    if chosen is None:
        chosen = choose(g, logits if weights_first else probs, il, total, used, bias)
    weights = _weigh(g, g.reshape(probs, 1, total, n_tokens), chosen, gating, norm, scale)
    g.expand(weights)
    x = g.reshape(x, n_embd, 1, n_tokens)
    if weights_first:
        x = g.mul(g.repeat(x, n_embd, used, n_tokens), weights)
    both = gate_up if gate_up is not None and g.has(f"{gate_up}.weight", il) else None
    x = _experts(g, x, chosen, il, (up, gate, both), (biases, scales), act, clamp)
    x = g.named(by_expert(g, x, down, chosen, il, biases, scales, precise), "ffn_moe_down")
    if not weights_first:
        x = g.named(g.mul(x, weights), "ffn_moe_weighted")
    return sum_experts(g, x, g.n_expert_used(il))


def _routed(g: GraphContext, x: Tensor, il: int, router: str, biased: bool, logits: Tensor | None) -> Tensor:
    """Append the router's scores of each expert, [n_expert, n_tokens]: its own product unless `logits` are given."""
    logits = g.mul_mat(g.need(f"{router}.weight", il), x) if logits is None else logits
    bias = g.w(f"{router}.bias", il) if biased else None
    return g.named(logits if bias is None else g.add(logits, bias), "ffn_moe_logits")


def _probabilities(g: GraphContext, logits: Tensor, gating: str) -> Tensor:
    if gating == "softmax":
        return g.soft_max(logits)
    if gating == "sigmoid":
        return g.sigmoid(logits)
    if gating == "sqrt_softplus":
        return g.sqrt(g.softplus(logits))
    if gating != "softmax_weight":
        raise Unbuildable(f"experts are not chosen by {gating}")
    return logits


def choose(g: GraphContext, probs: Tensor, il: int, total: int, used: int, bias: str | None = None) -> Tensor:
    """Choose the experts of each token, [n_expert_used, n_tokens]: the best, of the best groups where there are groups."""
    more = None if bias is None else g.w(bias, il)
    if more is not None:
        probs = g.add(probs, more)
    groups = g.n("expert_group_count")
    if groups > 1 and probs.ne[1] > 0:
        probs = _best_groups(g, probs, total, groups)
    return g.named(g.argsort_top_k(probs, used), "ffn_moe_topk")


def _best_groups(g: GraphContext, probs: Tensor, total: int, groups: int) -> Tensor:
    """Put the probabilities of all groups but the best out of reach (llama-graph.cpp:2095-2116)."""
    n, n_tokens = total // groups, probs.ne[1]
    by_group = g.reshape(probs, n, groups, n_tokens)
    best = g.argsort_top_k(by_group, 2)
    score = g.get_rows(g.reshape(by_group, 1, n, groups, n_tokens), best)
    score = g.sum_rows(g.reshape(score, *score.ne[1:]))
    score = g.reshape(score, *score.ne[1:3])
    taken = g.argsort_top_k(score, g.n("expert_group_used_count"))
    kept = g.get_rows(by_group, taken)
    return g.reshape(g.set_rows(g.fill(by_group), kept, taken), total, n_tokens)


def _weigh(g: GraphContext, probs: Tensor, chosen: Tensor, gating: str, norm: bool, scale: float) -> Tensor:
    """Weigh each chosen expert: [1, n_expert_used, n_tokens]."""
    weights = g.get_rows(probs, chosen)
    shape = weights.ne[:3]
    if gating == "softmax_weight":
        weights = g.reshape(g.soft_max(g.reshape(weights, *shape[1:])), *shape)
    if norm:
        weights = g.reshape(weights, *shape[1:])
        weights = g.reshape(g.div(weights, g.clamp(g.sum_rows(weights))), *shape)
    return g.scale(weights) if scale not in (0, 1) else weights


def by_expert(
    g: GraphContext,
    x: Tensor,
    name: str,
    chosen: Tensor,
    il: int,
    biases: bool,
    scales: bool,
    precise: bool = False,
) -> Tensor:
    """Multiply by each chosen expert's matrix, with its scale and its bias (build_lora_mm_id, 1555)."""
    precise = precise and not g.is_adapted(f"{name}.weight", il)  # else it is the sum that is asked to be
    return _by_matrix(g, x, name, chosen, il, name, (biases, scales), (0, 0, 0, 10) if precise else ())


def _by_matrix(
    g: GraphContext, x: Tensor, name: str, chosen: Tensor, il: int, scaled_by: str,
    passes: tuple[bool, bool], params: tuple[int, ...] = (),
) -> Tensor:  # fmt: skip
    """The same with the scale of another weight, `scaled_by`; `passes`: whether bias and scale are applied."""
    biases, scales = passes
    scale = g.w(f"{scaled_by}.scale", il) if scales else None
    y = g.mul_mat_id(g.need(f"{name}.weight", il), x, chosen, params, scale)
    bias = g.w(f"{name}.bias", il) if biases else None
    return y if bias is None else g.add_id(y, bias, chosen)


def _experts(
    g: GraphContext, x: Tensor, chosen: Tensor, il: int,
    names: tuple[str, str | None, str | None], passes: tuple[bool, bool], act: str, clamp: str,
) -> Tensor:  # fmt: skip
    """Append the hidden layer of each chosen expert: gate and up in one matrix or in two."""
    up, gate, both = names
    if both is not None:
        t = g.named(_both(g, x, both, up, chosen, il, *passes), "ffn_moe_gate_up")
        n = t.ne[0] // 2
        a = g.view(t, (n, t.ne[1], t.ne[2]), t.nb[1:3])
        h = g.view(t, (n, t.ne[1], t.ne[2]), t.nb[1:3], n * t.nb[0])
        return _activate(g, a, h, act, "")
    h = g.named(by_expert(g, x, up, chosen, il, *passes), "ffn_moe_up")
    if gate is None or not g.has(f"{gate}.weight", il):
        return _activate(g, h, None, act, "")
    return _activate(g, g.named(by_expert(g, x, gate, chosen, il, *passes), "ffn_moe_gate"), h, act, clamp)


def _both(
    g: GraphContext, x: Tensor, name: str, up: str, chosen: Tensor, il: int, biases: bool, scales: bool
) -> Tensor:
    """Multiply by gate and up in one matrix; the scale is the one of up (llama-graph.cpp:2178)."""
    return _by_matrix(g, x, name, chosen, il, up, (biases, scales))


def sum_experts(g: GraphContext, x: Tensor, used: int) -> Tensor:
    """Add up the experts' results, whose views all come before the first addition (llama-graph.cpp:2341-2371)."""
    g.expand(x)
    n_embd, n_tokens = x.ne[0], x.ne[2]
    parts = [g.expand(g.view(x, (n_embd, n_tokens), (x.nb[2],), i * x.nb[1])) for i in range(used)]
    if not parts:
        raise Unbuildable("a mixture of no experts")
    total = parts[0]
    for part in parts[1:]:
        total = g.expand(g.add(total, part))
    return g.named(g.cont(total) if used == 1 else total, "ffn_moe_out")
