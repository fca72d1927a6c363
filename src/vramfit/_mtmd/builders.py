"""Graphs of projectors: one builder for each kind. Each appends to a `TowerContext` and returns what the graph ends with.

Source: tools/mtmd/models of the engine, the file named beside each builder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from .._ggml.graph import Tensor
from .._ggml.ops import F16, F32, Unbuildable
from .context import TowerContext

__all__ = ["BUILDERS", "build"]

Builder = Callable[[TowerContext], Tensor]


def build(g: TowerContext) -> None:
    """Append the graph of the tower's kind. Raises `Unbuildable` where no builder knows it."""
    builder = BUILDERS.get(g.tower.kind)
    if builder is None:
        raise Unbuildable(f"there is no graph of the projector {g.tower.kind} yet")
    try:
        g.expand(builder(g))
    except (ArithmeticError, LookupError, RecursionError) as e:
        raise Unbuildable(f"the graph of the projector {g.tower.kind} cannot be built: {e!r}") from e


def _llava(g: TowerContext) -> Tensor:
    """Layers up to the last but one, and two products (llava.cpp)."""
    if g.n_x != g.n_y:
        raise Unbuildable("images that are not square")
    x, cls = g.patches(), g.w("v.class_embd")
    n_pos = g.n_patches
    if cls is not None:
        x, n_pos = g.concat(x, cls, 1), n_pos + 1
    x = g.add(x, g.get_rows(g.need("v.position_embd.weight"), g.indexes("positions", n_pos)))
    pre = g.w("v.pre_ln.weight")
    x = x if pre is None else g.normed(x, pre, g.w("v.pre_ln.bias"))
    chosen = g.tower.numbers("vision.feature_layer")
    last, kept = max(chosen, default=g.n_layer - 1), list[Tensor]()
    for il in range(last):
        kept += [x] if il in chosen else []
        h = g.layer_norm(x, il, "ln1", "norm")
        q, k, v = _three(g, h, il, n_pos)
        x = g.add(g.attend(q, k, v, g.layer_output(il)), x)
        x = g.add(x, g.layer_network(g.layer_norm(x, il, "ln2", "norm"), il))
    post = g.w("v.post_ln.weight")
    x = x if post is None else g.normed(x, post, g.w("v.post_ln.bias"))
    kept += [x] if last in chosen else []
    if kept:
        x = kept[0]
        for more in kept[1:]:
            x = g.concat(x, more, 0)
    x = g.get_rows(g.reshape(x, x.ne[0], x.ne[1]), g.indexes("patches", g.n_patches))
    return _llava_projector(g, x)


def _three(g: TowerContext, x: Tensor, il: int, n_pos: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of three matrices, as many heads of each."""
    made = []
    for c in "qkv":
        weight = g.of_layer(il, f"attn_{c}.weight")
        if weight is None:
            raise Unbuildable(f"layer {il} has no attn_{c}.weight")
        made.append(g.biased(g.mul_mat(weight, x), g.of_layer(il, f"attn_{c}.bias")))
    q, k, v = (g.reshape(t, g.d_head, g.n_head, n_pos) for t in made)
    return q, k, v


def _llava_projector(g: TowerContext, x: Tensor) -> Tensor:
    x = g.add(g.mul_mat(g.need("mm.0.weight"), x), g.need("mm.0.bias"))
    if g.w("mm.3.weight") is not None:  # with norms between
        x = g.add(g.mul(g.norm(x), g.need("mm.1.weight")), g.need("mm.1.bias"))
        x = g.add(g.mul_mat(g.need("mm.3.weight"), g.gelu(x)), g.need("mm.3.bias"))
        return g.add(g.mul(g.norm(x), g.need("mm.4.weight")), g.need("mm.4.bias"))
    x = g.gelu(x)
    return (
        x if g.w("mm.2.weight") is None else g.add(g.mul_mat(g.need("mm.2.weight"), x), g.need("mm.2.bias"))
    )


def _siglip(g: TowerContext) -> Tensor:
    """A SigLIP transformer, and what the kind makes of its patches (siglip.cpp)."""
    resized = g.tower.kind in ("lfm2", "phi4")
    x = g.patches()
    positions = g.resized_positions() if resized else g.w("v.position_embd.weight")
    x = g.transformer(x, g.n_patches, positions=positions)
    return _AFTER_SIGLIP[g.tower.kind](g, x)


def _gemma3(g: TowerContext, x: Tensor) -> Tensor:
    if g.n_x != g.n_y:
        raise Unbuildable("images that are not square")
    x = g.cont(g.transpose(x), g.n_x, g.n_x, g.n_embd, 1)
    x = g.pool_2d(x, g.n_merge)
    x = g.cont(g.transpose(g.reshape(x, x.ne[0] * x.ne[0], g.n_embd, 1)))
    x = g.mul(g.rms_norm(x), g.need("mm.soft_emb_norm.weight"))
    return g.mul_mat(g.cont(g.transpose(g.need("mm.input_projection.weight"))), x)


def _lfm2(g: TowerContext, x: Tensor) -> Tensor:
    x, weight = g.merged(x, g.n_merge), g.w("mm.input_norm.weight")
    x = x if weight is None else g.mul(g.norm(x), weight)
    return g.two_layers(g.biased(x, g.w("mm.input_norm.bias")), "mm.1", "mm.2")


_AFTER_SIGLIP: Final[Mapping[str, Callable[[TowerContext, Tensor], Tensor]]] = MappingProxyType({
    "gemma3": _gemma3,
    "idefics3": lambda g, x: g.mul_mat(g.need("mm.model.fc.weight"), g.merged(x, g.n_merge)),
    "lfm2": _lfm2,
    "janus_pro": lambda g, x: g.two_layers(x, "mm.0", "mm.1", g.ffn_op),
    "phi4": lambda g, x: g.two_layers(x, "mm.0", "mm.2"),
})  # fmt: skip


def _pixtral(g: TowerContext) -> Tensor:
    """Rotary positions in two dimensions, a merger of patches, and a mark behind each row (pixtral.cpp)."""
    pos_h, pos_w = g.indexes("pos_h", g.n_patches), g.indexes("pos_w", g.n_patches)
    x = g.transformer(g.patches(), g.n_patches, "rms_norm", turn=lambda t: g.turned(t, pos_h, pos_w))
    by = g.n_merge
    if g.w("mm.patch_merger.weight") is not None:
        x = g.mul(g.rms_norm(x), g.need("mm.input_norm.weight"))
        x = g.cont(g.permute(g.reshape(x, g.n_embd, g.n_x, g.n_y), 2, 0, 1, 3))
        kernel = g.view(x, (by, by, x.ne[2]), (0, 0))
        ne = (x.ne[2] * by * by, (g.n_x - by) // by + 1, (g.n_y - by) // by + 1, 1)
        x = g.im2col(kernel, x, ne, single=True)
        x = g.mul_mat(g.need("mm.patch_merger.weight"), g.reshape(x, ne[0], ne[1] * ne[2]))
    x = g.two_layers(x, "mm.1", "mm.2")
    mark = g.w("v.token_embd.img_break")
    if mark is None:
        return x
    across, down, n = g.n_x // by, g.n_y // by, x.ne[0]
    marks = g.add(g.scale(g.tensor(F32, n, 1, down)), mark)
    rows = g.concat(g.reshape(x, n, across, down), marks, 1)
    return g.view(rows, (n, across * down + down - 1), (rows.nb[1],))


def _two_frames(g: TowerContext) -> Tensor:
    """A still image as two frames of a video, in the order of squares of four patches (qwen2vl.cpp)."""
    if g.n_x % 2 or g.n_y % 2:
        raise Unbuildable("an odd number of patches")
    raw = g.pixels()
    first, second = (
        g.conv_2d(g.need(name), raw, g.patch_size)
        for name in ("v.patch_embd.weight", "v.patch_embd.weight.1")
    )
    return _by_squares(g, g.permute(g.add(first, second), 1, 2, 0, 3))


def _by_squares(g: TowerContext, x: Tensor) -> Tensor:
    x = g.cont(x, g.n_embd * 2, g.n_x // 2, g.n_y, 1)
    x = g.permute(g.reshape(x, g.n_embd * 2, g.n_x // 2, 2, g.n_y // 2), 0, 2, 1, 3)
    return g.cont(x, g.n_embd, g.n_patches, 1)


def _qwen2vl(g: TowerContext) -> Tensor:
    """Rotary positions, and attention in windows in most layers of 2.5 (qwen2vl.cpp)."""
    kind = "rms_norm" if g.tower.kind == "qwen2.5vl_merger" else "norm"
    every, n_pos, mask = g.tower.number("vision.n_wa_pattern", 0), g.n_patches, None
    x = _two_frames(g)
    positions = g.indexes("positions", n_pos * 4)
    pre = g.w("v.pre_ln.weight")
    x = x if pre is None else g.normed(x, pre, g.w("v.pre_ln.bias"), kind)
    if every:
        rows = g.indexes("inv_window_idx", n_pos // 4)
        mask = g.input("window_mask", F32, n_pos, n_pos)
        if g.flash_attn:
            mask = g.cast(mask, F16)
        x = g.get_rows(g.reshape(x, g.n_embd * 4, n_pos // 4), rows)
        x = g.reshape(x, g.n_embd, n_pos, 1)
    for il in range(g.n_layer):
        q, k, v = _three(g, g.layer_norm(x, il, "ln1", kind), il, n_pos)
        q, k = g.rope(q, positions), g.rope(k, positions)
        whole = not every or (il + 1) % every == 0
        x = g.add(g.attend(q, k, v, g.layer_output(il), None if whole else mask), x)
        x = g.add(x, g.layer_network(g.layer_norm(x, il, "ln2", kind), il))
    post = g.w("v.post_ln.weight")
    x = x if post is None else g.normed(x, post, g.w("v.post_ln.bias"), kind)
    x = g.two_layers(g.reshape(x, g.n_embd * 4, n_pos // 4, 1), "mm.0", "mm.2")
    if every:
        n = g.tower.number("vision.projection_dim")
        x = g.get_rows(g.reshape(x, n, n_pos // 4), g.indexes("window_idx", n_pos // 4))
        x = g.reshape(x, n, n_pos // 4, 1)
    return x


def _qwen3vl(g: TowerContext) -> Tensor:
    """Learned and rotary positions, and features of some layers beside the last (qwen3vl.cpp)."""
    n_pos, deeper = g.n_patches, None
    x = g.add(_two_frames(g), g.need("v.patch_embd.bias"))
    x = g.add(x, _by_squares(g, g.resized_positions()))
    positions = g.indexes("positions", n_pos * 4)
    pre = g.w("v.pre_ln.weight")
    x = x if pre is None else g.normed(x, pre, g.w("v.pre_ln.bias"))
    by = g.n_merge * g.n_merge or 4
    for il in range(g.n_layer):
        q, k, v = _views(g, g.layer_norm(x, il, "ln1", "norm"), il, n_pos)
        h = g.attend(g.rope(q, positions), g.rope(k, positions), v, g.layer_output(il))
        x = g.add(h, x)
        x = g.add(x, g.layer_network(g.layer_norm(x, il, "ln2", "norm"), il))
        name = f"v.deepstack.{il}"
        if g.w(f"{name}.fc1.weight") is not None:
            feature = g.reshape(x, g.n_embd * by, n_pos // by, 1)
            feature = g.normed(feature, g.w(f"{name}.norm.weight"), g.w(f"{name}.norm.bias"))
            feature = g.two_layers(feature, f"{name}.fc1", f"{name}.fc2")
            deeper = feature if deeper is None else g.concat(deeper, feature, 0)
    post = g.w("v.post_ln.weight")
    x = x if post is None else g.normed(x, post, g.w("v.post_ln.bias"))
    x = g.two_layers(g.reshape(x, g.n_embd * 4, n_pos // 4, 1), "mm.0", "mm.2")
    return x if deeper is None else g.concat(x, deeper, 0)


def _views(g: TowerContext, x: Tensor, il: int, n_pos: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as views of one product."""
    weight, bias = g.of_layer(il, "attn_qkv.weight"), g.of_layer(il, "attn_qkv.bias")
    if weight is None or bias is None:
        raise Unbuildable(f"layer {il} has no attn_qkv")
    x = g.add(g.mul_mat(weight, x), bias)
    row = x.type.block_bytes
    q, k, v = (
        g.view(x, (g.d_head, g.n_head, n_pos), (g.d_head * row, x.nb[1]), i * g.n_embd * row)
        for i in range(3)
    )
    return q, k, v


def _internvl(g: TowerContext) -> Tensor:
    """A class token, which is dropped behind the layers, and pixels shuffled (internvl.cpp)."""
    cls = g.need("v.class_embd")
    x = g.concat(g.patches(), g.repeat(cls, cls.ne[0], 1, 1, 1), 1)
    large = g.n_embd == 3200 and g.n_layer == 45
    x = g.transformer(x, g.n_patches + 1, "rms_norm" if large else "norm", g.need("v.position_embd.weight"))
    x = g.cont(g.view(x, (g.n_embd, g.n_patches, 1), x.nb[1:3]))
    by = g.n_merge
    x = g.permute(g.reshape(x, g.n_embd * by, g.n_y // by, g.n_x, 1), 0, 2, 1, 3)
    x = g.permute(g.cont(x, g.n_embd * by * by, g.n_y // by, g.n_x // by, 1), 0, 2, 1, 3)
    x = g.cont(x, g.n_embd * by * by, x.ne[1] * x.ne[2], x.ne[3])
    x = g.normed(x, g.need("mm.model.mlp.0.weight"), g.need("mm.model.mlp.0.bias"))
    return g.two_layers(x, "mm.model.mlp.1", "mm.model.mlp.3")


def _llama4(g: TowerContext) -> Tensor:
    """Patches unfolded, rotary positions in two dimensions, a class token (llama4.cpp)."""
    n_pos, by = g.n_patches + 1, g.n_merge
    pos_h, pos_w = g.indexes("pos_h", n_pos), g.indexes("pos_w", n_pos)
    raw, matrix, size = g.pixels(), g.need("v.patch_embd.weight"), g.patch_size
    kernel = g.reshape(matrix, size, size, 3, g.n_embd)
    x = g.im2col(kernel, raw, (3 * size * size, g.n_x, g.n_y, 1), single=True)
    x = g.reshape(g.mul_mat(matrix, x), g.n_embd, g.n_patches)
    x = g.concat(x, g.need("v.class_embd"), 1)
    turn = lambda t: g.turned(t, pos_w, pos_h)  # noqa: E731
    x = g.transformer(x, n_pos, positions=g.need("v.position_embd.weight"), turn=turn)
    x = g.view(x, (g.n_embd, g.n_patches), (g.n_embd * x.type.block_bytes,))
    x = g.permute(g.reshape(x, g.n_embd * by, g.n_x // by, g.n_y, 1), 0, 2, 1, 3)
    x = g.cont(x, g.n_embd * by * by, g.n_x // by, g.n_y // by, 1)
    x = g.cont(x, g.n_embd * by * by, g.n_patches // by // by)
    for name in ("mm.model.mlp.1", "mm.model.mlp.2"):
        x = g.gelu(g.mul_mat(g.need(f"{name}.weight"), x))
    return g.mul_mat(g.need("mm.model.fc.weight"), x)


def _resampler(g: TowerContext) -> Tensor:
    """Learned queries that attend to the patches (minicpmv.cpp)."""
    n_pos, n = g.n_patches, g.need("resampler.proj.weight").ne[0]
    omega = g.input("omega", F32, n // 4)
    pos_h, pos_w = g.input("pos_h", F32, 1, n_pos), g.input("pos_w", F32, 1, n_pos)
    learned = g.get_rows(g.need("v.position_embd.weight"), g.indexes("positions", n_pos))
    x = g.transformer(g.patches(), n_pos, positions=learned)
    v = g.mul_mat(g.need("resampler.kv.weight"), x)
    q = g.normed(g.need("resampler.query"), g.need("resampler.ln_q.weight"), g.need("resampler.ln_q.bias"))
    v = g.normed(v, g.need("resampler.ln_kv.weight"), g.need("resampler.ln_kv.bias"))
    waves = g.repeat(omega, omega.ne[0], n_pos)
    x_angle, y_angle = g.mul(waves, pos_w), g.mul(waves, pos_h)
    x_wave, y_wave = (g.concat(g.sin(t), g.cos(t), 0) for t in (x_angle, y_angle))
    k = g.add(v, g.concat(x_wave, y_wave, 0))
    head, count = 128, n // 128
    made = [g.add(g.mul_mat(g.need(f"resampler.attn.{c}.weight"), t), g.need(f"resampler.attn.{c}.bias"))
            for c, t in (("q", q), ("k", k), ("v", v))]  # fmt: skip
    rows = (_queries(g), n_pos, n_pos)
    q, k, v = (g.reshape(t, head, count, r) for t, r in zip(made, rows, strict=True))
    x = g.attend(q, k, v, (g.need("resampler.attn.out.weight"), g.need("resampler.attn.out.bias")))
    x = g.normed(x, g.need("resampler.ln_post.weight"), g.need("resampler.ln_post.bias"))
    return g.mul_mat(g.need("resampler.proj.weight"), x)


def _queries(g: TowerContext) -> int:
    """Tokens of an image: as the header says, or as older versions have (clip.cpp:1340-1360)."""
    said = g.tower.number("minicpmv_query_num", 0)
    return said or (64 if g.tower.number("minicpmv_version", 0) in (3, 4, 5, 6, 100045) else 96)


def _kimivl(g: TowerContext) -> Tensor:
    """Learned positions beside rotary ones in two dimensions (kimivl.cpp)."""
    pos_h, pos_w = g.indexes("pos_h", g.n_patches), g.indexes("pos_w", g.n_patches)
    positions = g.resized_positions()
    turn = lambda t: g.turned(t, pos_w, pos_h)  # noqa: E731
    x = g.transformer(g.patches(), g.n_patches, positions=positions, turn=turn)
    x = g.merged(x, g.n_merge)
    wide, each = x.ne[0], g.n_embd * x.type.block_bytes
    x = g.view(x, (g.n_embd, x.ne[1] * g.n_merge * g.n_merge), (each,))
    x = g.normed(x, g.need("mm.input_norm.weight"), g.need("mm.input_norm.bias"))
    x = g.view(x, (wide, x.ne[1] // g.n_merge // g.n_merge), (wide * x.type.block_bytes,))
    return g.two_layers(x, "mm.1", "mm.2")


def _whisper(g: TowerContext) -> Tensor:
    """An encoder of sound behind two convolutions (whisper-enc.cpp)."""
    x, n_pos = g.pixels(1), g.frame.width // 2
    for number, stride in ((1, 1), (2, 2)):
        x = g.add(
            g.conv_1d(g.need(f"a.conv1d.{number}.weight"), x, stride), g.need(f"a.conv1d.{number}.bias")
        )
        x = g.unary("gelu_erf", x)
    x = g.cont(g.transpose(x))
    table = g.need("a.position_embd.weight")
    if table.ne[1] < n_pos:
        raise Unbuildable(f"{table.ne[1]} positions for {n_pos}")
    x = g.transformer(x, n_pos, positions=g.view(table, (table.ne[0], n_pos), (table.nb[1],)))
    kind = g.tower.kind
    if kind in ("ultravox", "voxtral", "meralion"):
        x = _stacked(g, x)
    return _AFTER_WHISPER[kind](g, x)


def _stacked(g: TowerContext, x: Tensor) -> Tensor:
    """Frames side by side, padded to a whole number of stacks (build_stack, 868)."""
    factor = g.tower.number("audio.projector.stack_factor")
    if factor <= 1:
        return x
    total, stride = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3], g.n_embd * factor
    more = -total % stride
    if more:
        x = g.pad(g.view(x, (total,)), more)
    return g.view(x, (stride, (total + more) // stride), (stride * x.type.block_bytes,))


def _ultravox(g: TowerContext, x: Tensor) -> Tensor:
    x = g.mul(g.rms_norm(x), g.need("mm.a.norm_pre.weight"))
    x = g.glu("swiglu", g.mul_mat(g.need("mm.a.mlp.1.weight"), x))
    x = g.mul(g.rms_norm(x), g.need("mm.a.norm_mid.weight"))
    return g.mul_mat(g.need("mm.a.mlp.2.weight"), x)


def _glma(g: TowerContext, x: Tensor) -> Tensor:
    x = _stacked(g, g.normed(x, g.need("mm.a.norm_pre.weight"), g.need("mm.a.norm_pre.bias")))
    x = g.two_layers(x, "mm.a.mlp.1", "mm.a.mlp.2", g.ffn_op)
    return g.concat(g.concat(g.need("v.boi"), x, 1), g.need("v.eoi"), 1)


def _meralion(g: TowerContext, x: Tensor) -> Tensor:
    x = g.normed(x, g.need("mm.a.norm_pre.weight"), g.need("mm.a.norm_pre.bias"))
    x = g.silu(g.linear(x, "mm.a.mlp.0"))
    gate = g.silu(g.linear(x, "mm.a.mlp.1"))
    return g.linear(g.mul(gate, g.linear(x, "mm.a.mlp.2")), "mm.a.mlp.3")


_AFTER_WHISPER: Final[Mapping[str, Callable[[TowerContext, Tensor], Tensor]]] = MappingProxyType({
    "ultravox": _ultravox,
    "qwen2a": lambda g, x: g.add(g.mul_mat(g.need("mm.a.fc.weight"), x), g.need("mm.a.fc.bias")),
    "voxtral": lambda g, x: g.two_layers(x, "mm.a.mlp.1", "mm.a.mlp.2", "gelu_erf"),
    "musicflamingo": lambda g, x: g.two_layers(x, "mm.a.mlp.1", "mm.a.mlp.2", "gelu_erf"),
    "glma": _glma,
    "meralion": _meralion,
})  # fmt: skip

BUILDERS: Final[Mapping[str, Builder]] = MappingProxyType({
    "mlp": _llava, **dict.fromkeys(_AFTER_SIGLIP, _siglip), "pixtral": _pixtral, "lightonocr": _pixtral,
    "qwen2vl_merger": _qwen2vl, "qwen2.5vl_merger": _qwen2vl, "qwen3vl_merger": _qwen3vl, "internvl": _internvl,
    "llama4": _llama4, "resampler": _resampler, "kimivl": _kimivl, **dict.fromkeys(_AFTER_WHISPER, _whisper),
})  # fmt: skip
