"""What every builder of a projector has at hand: its weights, and the parts that most of them share.

In: a `Tower` and the `Frame` that it is built for. Out: `TowerContext`, whose operations append to one graph.
Source: `clip_graph` (clip.cpp:245-905), the functions named beside each part.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Final

from .._ggml.graph import WEIGHT, Extents, Tensor, contiguous
from .._ggml.ops import F16, F32, I32, Ops, Unbuildable
from .header import Tower
from .warmup import Frame, n_merge, patch_size

__all__ = ["TowerContext"]

# Files whose two matrices of a feed-forward network may bear each other's names (clip.cpp:2330-2345).
_SWAPPED: Final = frozenset(
    [
        "mlp",
        "ldp",
        "ldpv2",
        "qwen2vl_merger",
        "qwen2.5vl_merger",
        "exaone4_5",
        "adapter",
        "gemma3",
        "idefics3",
        "resampler",
        "minicpmv4_6",
    ]
)
_GATED: Final = {"silu": "swiglu", "gelu": "geglu", "gelu_erf": "geglu_erf", "gelu_quick": "geglu_quick"}
AddPositions = Callable[[Tensor], Tensor]


class TowerContext(Ops):
    """Makes the graph of one tower for one frame, its weights on the backend `home`."""

    def __init__(self, tower: Tower, frame: Frame, home: int, *, flash_attn: bool) -> None:
        super().__init__()
        self.tower, self.frame, self.flash_attn = tower, frame, flash_attn
        self.n_embd, self.n_head, self.n_head_kv = tower.n_embd, tower.n_head, tower.n_head_kv
        self.d_head, self.n_layer, self.ffn_op = tower.d_head, tower.n_layer, tower.ffn
        self.patch_size, self.n_merge = patch_size(tower), n_merge(tower)
        self.n_x, self.n_y = frame.width // self.patch_size, frame.height // self.patch_size
        self.n_patches = self.n_x * self.n_y
        self._home = home
        self._weights: dict[str, Tensor] = {}

    # --- weights

    def w(self, name: str) -> Tensor | None:
        """A weight, or None where the file has none of that name."""
        info = self.tower.tensors.get(name)
        if info is None:
            return None
        if name not in self._weights:
            ne: Extents = (*info.shape, 1, 1, 1, 1)[:4]  # type: ignore[assignment]
            found = Tensor(
                name, "NONE", info.type, ne, contiguous(info.type, ne), usage=WEIGHT, home=self._home
            )
            self._weights[name] = self.leaf(found)
        return self._weights[name]

    def need(self, name: str) -> Tensor:
        """A weight that must be there."""
        found = self.w(name)
        if found is None:
            raise Unbuildable(f"the projector has no {name}")
        return found

    def of_layer(self, il: int, name: str) -> Tensor | None:
        """A weight of a layer."""
        return self.w(f"{self.tower.prefix}.blk.{il}.{name}")

    # --- inputs

    def pixels(self, channels: int = 3) -> Tensor:
        """The image, or the recording's spectrum with one channel (build_inp_raw, 556)."""
        return self.input("inp_raw", F32, self.frame.width, self.frame.height, channels, 1)

    def patches(self) -> Tensor:
        """Embeddings of the patches: [n_embd, n_patches] (build_inp, 543)."""
        x = self.conv_2d(self.need("v.patch_embd.weight"), self.pixels(), self.patch_size)
        x = self.cont(self.transpose(self.reshape(x, self.n_patches, self.n_embd, 1)))
        bias = self.w("v.patch_embd.bias")
        return x if bias is None else self.add(x, bias)

    def indexes(self, name: str, n: int) -> Tensor:
        """Whole numbers that the caller fills in: positions, rows."""
        return self.input(name, I32, n)

    # --- convolutions and resizing, which ggml makes of other operations

    def im2col(self, kernel: Tensor, x: Tensor, ne: tuple[int, int, int, int], *, single: bool) -> Tensor:
        """Patches of `x` as rows, in f32 if `single` (ggml_im2col)."""
        if min(ne) < 1:
            raise Unbuildable(f"patches of {list(ne)}: the image is too small")
        return self.of("IM2COL", ne, kernel, x, type_=F32 if single else F16)

    def conv_2d(self, kernel: Tensor, x: Tensor, stride: int) -> Tensor:
        """A convolution of images, without padding (ggml_conv_2d)."""
        (kw, kh, ic, oc), q = kernel.ne, x.ne
        ne = (ic * kh * kw, (q[0] - kw) // stride + 1, (q[1] - kh) // stride + 1, q[3])
        col = self.im2col(kernel, x, ne, single=kernel.type.name == "bf16")
        rows = self.reshape(col, ne[0], ne[3] * ne[2] * ne[1])
        y = self.mul_mat(rows, self.reshape(kernel, kw * kh * ic, oc))
        return self.cont(self.permute(self.reshape(y, ne[1], ne[2], ne[3], oc), 0, 1, 3, 2))

    def conv_1d(self, kernel: Tensor, x: Tensor, stride: int) -> Tensor:
        """A convolution of sequences, padded to half the kernel (ggml_conv_1d_ph)."""
        (k, ic, oc, _), q = kernel.ne, x.ne
        length = (q[0] + 2 * (k // 2) - k) // stride + 1
        col = self.im2col(kernel, x, (ic * k, length, q[2], 1), single=kernel.type.name == "bf16")
        rows = self.reshape(col, ic * k, q[2] * length)
        y = self.mul_mat(rows, self.reshape(kernel, k * ic, oc))
        return self.reshape(y, length, oc, q[2])

    def pool_2d(self, x: Tensor, k: int) -> Tensor:
        """Means of squares of `k` by `k` (ggml_pool_2d)."""
        return self.of("POOL_2D", ((x.ne[0] - k) // k + 1, (x.ne[1] - k) // k + 1, *x.ne[2:]), x)

    def resized_positions(self) -> Tensor:
        """Learned positions, resized to the image where that is not the size they were learned for (315)."""
        table = self.need(f"{self.tower.prefix}.position_embd.weight")
        side = isqrt(table.ne[1])
        if self.n_y == side and self.n_x == side:
            return table
        x = self.permute(self.reshape(table, self.n_embd, side, side), 2, 0, 1, 3)
        x = self.of("UPSCALE", (self.n_x, self.n_y, self.n_embd, 1), x, type_=x.type)
        return self.cont(self.permute(x, 1, 2, 0, 3), self.n_embd, self.n_patches)

    # --- parts

    def normed(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None, kind: str = "norm"
    ) -> Tensor:
        """A norm with what there is of a weight and a bias; `kind` is "norm" or "rms_norm" (build_norm, 563)."""
        x = self.rms_norm(x) if kind == "rms_norm" else self.norm(x)
        x = x if weight is None else self.mul(x, weight)
        return x if bias is None else self.add(x, bias)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """A product with a bias where there is one."""
        return self.biased(self.mul_mat(self.need(f"{name}.weight"), x), self.w(f"{name}.bias"))

    def biased(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`x`, and a bias if there is one."""
        return x if bias is None else self.add(x, bias)

    def network(
        self, x: Tensor, up: tuple[Tensor | None, Tensor | None], gate: tuple[Tensor | None, Tensor | None],
        down: tuple[Tensor | None, Tensor | None], op: str,
    ) -> Tensor:  # fmt: skip
        """A feed-forward network of matrices and biases, with or without a gate (build_ffn, 585)."""
        wide = self.biased(x if up[0] is None else self.mul_mat(up[0], x), up[1])
        if gate[0] is None:
            x = self.unary(op, wide)
        else:
            x = self.glu(_GATED[op], self.biased(self.mul_mat(gate[0], x), gate[1]), wide)
        return self.biased(x if down[0] is None else self.mul_mat(down[0], x), down[1])

    def two_layers(self, x: Tensor, first: str, second: str, op: str = "gelu") -> Tensor:
        """What most projectors are: a product, a function, a product."""
        up, down = ((self.need(f"{n}.weight"), self.w(f"{n}.bias")) for n in (first, second))
        return self.network(x, up, (None, None), down, op)

    def layer_network(self, x: Tensor, il: int) -> Tensor:
        """The feed-forward network of a layer."""

        def both(name: str) -> tuple[Tensor | None, Tensor | None]:
            return self.of_layer(il, f"{name}.weight"), self.of_layer(il, f"{name}.bias")

        up, gate, down = both("ffn_up"), both("ffn_gate"), both("ffn_down")
        if self.of_layer(il, "ffn_gate_exps.weight") is not None:
            raise Unbuildable("the graph of a mixture of experts is not built for projectors")
        if up[0] is None or down[0] is None:
            raise Unbuildable(f"layer {il} has no feed-forward network")
        if self.tower.kind in _SWAPPED and down[0].ne[0] == self.n_embd:
            up, down = down, up
        return self.network(x, up, gate, down, self.ffn_op)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, out: tuple[Tensor | None, Tensor | None], mask: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """Attention over heads, and the product with its output matrix (build_attn, 748)."""
        for t in (q, k, v):
            self.expand(t)
        q, k = self.permute(q, 0, 2, 1, 3), self.permute(k, 0, 2, 1, 3)
        if self.flash_attn:
            v = self.cast(self.permute(v, 0, 2, 1, 3), F16)
            k = self.cast(k, F16)
            mask = None if mask is None else self.cast(mask, F16)
            x = self.flash_attn_ext(q, k, v, mask)
            x = self.reshape(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])
        else:
            v = self.cont(self.permute(v, 1, 2, 0, 3))
            x = self.mul_mat(v, self.soft_max(self.mul_mat(k, q), mask))
            x = self.permute(x, 0, 2, 1, 3)
            x = self.cont(x, x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])
        return self.biased(x if out[0] is None else self.mul_mat(out[0], x), out[1])

    def layer_output(self, il: int) -> tuple[Tensor | None, Tensor | None]:
        """The output matrix of a layer's attention, and its bias."""
        found = self.of_layer(il, "attn_out.weight")
        if found is None:
            raise Unbuildable(f"layer {il} has no attn_out.weight")
        return found, self.of_layer(il, "attn_out.bias")

    def layer_norm(self, x: Tensor, il: int, name: str, kind: str) -> Tensor:
        """A norm of a layer."""
        return self.normed(x, self.of_layer(il, f"{name}.weight"), self.of_layer(il, f"{name}.bias"), kind)

    def heads(self, x: Tensor, il: int, n_pos: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values in heads: [d_head, n_head, n_pos], from one matrix or from three."""
        if self.of_layer(il, "attn_qkv.weight") is not None:
            return self._fused_heads(x, il, n_pos, kind)
        made = []
        for c in "qkv":
            weight = self.of_layer(il, f"attn_{c}.weight")
            if weight is None:
                raise Unbuildable(f"layer {il} has no attn_{c}.weight")
            made.append(self.biased(self.mul_mat(weight, x), self.of_layer(il, f"attn_{c}.bias")))
        norms = [self.of_layer(il, f"attn_{c}_norm.weight") for c in "qk"]
        per_head = norms[0] is not None and norms[0].ne[0] == self.d_head

        def normed() -> None:
            for i, weight in enumerate(norms):
                if weight is not None:
                    made[i] = self.normed(made[i], weight, None, kind)

        if not per_head:
            normed()
        counts = (self.n_head, self.n_head_kv, self.n_head_kv)
        made = [self.reshape(t, self.d_head, n, n_pos, 1) for t, n in zip(made, counts, strict=True)]
        if per_head:
            normed()
        return made[0], made[1], made[2]

    def _fused_heads(self, x: Tensor, il: int, n_pos: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.of_layer(il, "attn_qkv.weight")
        assert weight is not None
        x = self.biased(self.mul_mat(weight, x), self.of_layer(il, "attn_qkv.bias"))
        row = self.d_head * x.type.block_bytes
        nb = (row, x.nb[1], x.nb[1] * n_pos)
        views = [
            self.view(x, (self.d_head, self.n_head, n_pos, 1), nb, i * self.n_head * row) for i in range(3)
        ]
        for i, c in enumerate("qk"):
            norm = self.of_layer(il, f"attn_{c}_norm.weight")
            if norm is not None:
                views[i] = self.normed(views[i], norm, None, kind)
        return views[0], views[1], views[2]

    def transformer(
        self, x: Tensor, n_pos: int, kind: str = "norm", positions: Tensor | None = None,
        turn: AddPositions | None = None,
    ) -> Tensor:  # fmt: skip
        """A vision transformer: [n_embd, positions, 1] (build_vit, 342). `turn` rotates queries and keys."""
        p = self.tower.prefix
        if positions is not None:
            x = self.add(x, positions)
        x = self.reshape(x, self.n_embd, n_pos)
        pre = self.w(f"{p}.pre_ln.weight")
        if pre is not None:
            x = self.normed(x, pre, self.w(f"{p}.pre_ln.bias"), kind)
        for il in range(self.n_layer):
            x = self._block(x, il, n_pos, kind, turn)
        if self.tower.kind in ("qwen2a", "voxtral", "musicflamingo"):  # halves of the sequence, averaged
            x = self.cont(self.transpose(x))
            x = self.of("POOL_1D", ((x.ne[0] - 2) // 2 + 1, *x.ne[1:]), x)
            x = self.cont(self.transpose(x))
        post = self.w(f"{p}.post_ln.weight")
        if post is not None:
            x = self.normed(x, post, self.w(f"{p}.post_ln.bias"), kind)
        return self.reshape(x, self.n_embd, x.ne[1], 1)

    def _block(self, x: Tensor, il: int, n_pos: int, kind: str, turn: AddPositions | None) -> Tensor:
        q, k, v = self.heads(self.layer_norm(x, il, "ln1", kind), il, n_pos, kind)
        if turn is not None:
            q, k = turn(q), turn(k)
        h = self.attend(q, k, v, self.layer_output(il))
        h = self._scaled(h, il, "ls1")
        post = self.of_layer(il, "attn_post_norm.weight")
        h = h if post is None else self.normed(h, post, None, kind)
        x = self.add(h, x)
        h = self.layer_network(self.layer_norm(x, il, "ln2", kind), il)
        post = self.of_layer(il, "ffn_post_norm.weight")
        h = h if post is None else self.normed(h, post, None, kind)
        return self._scaled(self.add(x, self._scaled(h, il, "ls2")), il, "out_scale")

    def _scaled(self, x: Tensor, il: int, name: str) -> Tensor:
        scale = self.of_layer(il, f"{name}.weight")
        return x if scale is None else self.mul(x, scale)

    def turned(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Rotary positions in two dimensions: half of a head each (build_rope_2d, 824)."""
        return self.rope(self.rope(x, first), second)

    def merged(self, x: Tensor, by: int) -> Tensor:
        """Squares of patches as one row each (build_patch_merge_permute, 893)."""
        if by < 2:
            raise Unbuildable("the engine merges no single patches")
        n, width, height = x.ne[0], self.n_x, self.n_y
        x = self.reshape(x, n, width, height)
        more = (-width % by, -height % by)
        if any(more):
            x, width, height = self.pad(x, 0, *more), width + more[0], height + more[1]
        x = self.permute(self.reshape(x, n * by, width // by, height), 0, 2, 1, 3)
        x = self.permute(self.cont(x, n * by * by, height // by, width // by), 0, 2, 1, 3)
        return self.cont(x, x.ne[0], x.ne[1] * x.ne[2])
