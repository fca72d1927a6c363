"""Small projectors of each kind, as headers, and what the engine's own forecast says of them.

    python -m tools.engine.projectors tests/data/company/projectors.json

`KINDS` makes the header of each kind: numbers and tensors as the engine's converter writes them, small. `forecast` asks the
engine (mtmd_get_memory_usage) and counts what it allocates for weights.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

__all__ = ["KINDS", "forecast", "header"]

Shapes = dict[str, tuple[int, ...]]
_SIZES = {0: 4, 1: 2}


def header(
    keys: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], types: Mapping[str, int] | None = None
) -> bytes:
    """A GGUF header of keys by their Python types, and tensors in f32, matrices in f16."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, value in keys.items():
        signed = name == "clip.minicpmv_version"  # as the engine reads it
        out += _text(name) + (struct.pack("<Ii", 5, value) if signed else _value(value))
    at = 0
    for name, shape in tensors.items():
        kind = (types or {}).get(
            name, int(len(shape) > 1 and name.endswith("weight") and "position" not in name)
        )
        out += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
        at += -(-_SIZES[kind] * prod(shape) // 32) * 32
    return out + bytes(-len(out) % 32)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    kind, code = (6, "f") if isinstance(value[0], float) else (5, "i")
    return struct.pack(f"<IIQ{len(value)}{code}", 9, kind, len(value), *value)


def _vision(kind: str, n_embd: int = 128, n_head: int = 2, n_ff: int = 256, n_layer: int = 3, size: int = 224,
            patch: int = 14, **more: Any) -> dict[str, Any]:  # fmt: skip
    keys = {
        "general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": kind,
        "clip.vision.embedding_length": n_embd, "clip.vision.attention.head_count": n_head,
        "clip.vision.feed_forward_length": n_ff, "clip.vision.block_count": n_layer,
        "clip.vision.projection_dim": 192, "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.image_size": size, "clip.vision.patch_size": patch, "clip.use_gelu": True,
        "clip.vision.image_mean": [0.5, 0.5, 0.5], "clip.vision.image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    return keys | {f"clip.{name.replace('__', '.')}": value for name, value in more.items()}


def _audio(
    kind: str, n_embd: int = 128, n_head: int = 2, n_ff: int = 256, n_layer: int = 3, **more: Any
) -> dict[str, Any]:
    keys = {
        "general.architecture": "clip", "clip.has_audio_encoder": True, "clip.projector_type": kind,
        "clip.audio.embedding_length": n_embd, "clip.audio.attention.head_count": n_head,
        "clip.audio.feed_forward_length": n_ff, "clip.audio.block_count": n_layer,
        "clip.audio.projection_dim": 192, "clip.audio.attention.layer_norm_epsilon": 1e-5,
        "clip.audio.num_mel_bins": 80,
    }  # fmt: skip
    return keys | {f"clip.{name.replace('__', '.')}": value for name, value in more.items()}


def _linear(name: str, n: int, m: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (n, m)} | ({f"{name}.bias": (m,)} if bias else {})


def _norm(name: str, n: int, bias: bool = True) -> Shapes:
    found: Shapes = {f"{name}.weight": (n,)}
    return found | ({f"{name}.bias": (n,)} if bias else {})


def _layers(p: str, n: int, ff: int, layers: int, *, bias: bool = True, gate: bool = False, fused: bool = False,
            k_bias: bool = True, swapped: bool = False) -> Shapes:  # fmt: skip
    found: Shapes = {}
    for il in range(layers):
        at = f"{p}.blk.{il}."
        if fused:
            found |= _linear(f"{at}attn_qkv", n, 3 * n, bias)
        else:
            for c in "qkv":
                found |= _linear(f"{at}attn_{c}", n, n, bias and (c != "k" or k_bias))
        found |= (
            _linear(f"{at}attn_out", n, n, bias) | _norm(f"{at}ln1", n, bias) | _norm(f"{at}ln2", n, bias)
        )
        up, down = ("ffn_down", "ffn_up") if swapped else ("ffn_up", "ffn_down")
        found |= _linear(f"{at}{up}", n, ff, bias) | _linear(f"{at}{down}", ff, n, bias)
        found |= _linear(f"{at}ffn_gate", n, ff, bias) if gate else {}
    return found


def _patch(n: int = 128, size: int = 14, bias: bool = True, second: bool = False) -> Shapes:
    found: Shapes = {"v.patch_embd.weight": (size, size, 3, n)}
    found |= {"v.patch_embd.weight.1": (size, size, 3, n)} if second else {}
    return found | ({"v.patch_embd.bias": (n,)} if bias else {})


def _siglip(
    kind: str, mm: Shapes, n: int = 128, ff: int = 256, patches: int = 256, **more: Any
) -> tuple[dict[str, Any], Shapes]:
    tensors = (
        _patch(n) | {"v.position_embd.weight": (n, patches)} | _layers("v", n, ff, 3) | _norm("v.post_ln", n)
    )
    return _vision(kind, n, **{"n_ff": ff, **more}), tensors | mm


def _mlp(swapped: bool = False, norms: bool = False) -> tuple[dict[str, Any], Shapes]:
    mm = _linear("mm.0", 128, 192)
    if norms:
        mm |= _norm("mm.1", 192) | _linear("mm.3", 192, 192) | _norm("mm.4", 192)
    else:
        mm |= _linear("mm.2", 192, 192)
    tensors = (
        _patch(bias=False)
        | {"v.position_embd.weight": (128, 257), "v.class_embd": (128,)}
        | _norm("v.pre_ln", 128)
    )
    return _vision("mlp"), tensors | _layers("v", 128, 256, 3, swapped=swapped) | _norm("v.post_ln", 128) | mm


def _qwen(kind: str) -> tuple[dict[str, Any], Shapes]:
    newer = kind == "qwen2.5vl_merger"
    keys = _vision(
        kind, size=560, **({"vision__n_wa_pattern": 2, "use_silu": True, "use_gelu": False} if newer else {})
    )
    tensors = _patch(bias=False, second=True) | _layers("v", 128, 256, 3, gate=newer)
    return keys, tensors | _norm("v.post_ln", 128, not newer) | _linear("mm.0", 512, 512) | _linear(
        "mm.2", 512, 192
    )


def _qwen3() -> tuple[dict[str, Any], Shapes]:
    tensors = _patch(size=16, second=True) | {"v.position_embd.weight": (128, 2304)} | _norm("v.post_ln", 128)
    tensors |= _layers("v", 128, 256, 3, fused=True) | _linear("mm.0", 512, 512) | _linear("mm.2", 512, 192)
    at = "v.deepstack.1."
    tensors |= _norm(f"{at}norm", 512) | _linear(f"{at}fc1", 512, 512) | _linear(f"{at}fc2", 512, 192)
    return _vision("qwen3vl_merger", size=768, patch=16), tensors


def _pixtral(kind: str = "pixtral", merger: bool = True) -> tuple[dict[str, Any], Shapes]:
    keys = _vision(
        kind,
        size=1540,
        use_silu=True,
        use_gelu=False,
        **({"vision__spatial_merge_size": 2} if merger else {}),
    )
    tensors = (
        _patch(bias=False) | _norm("v.pre_ln", 128, False) | _layers("v", 128, 256, 3, bias=False, gate=True)
    )
    tensors |= _linear("mm.1", 128, 192) | _linear("mm.2", 192, 192)
    tensors |= {"v.token_embd.img_break": (192,)} if kind == "pixtral" else {}
    tensors |= {"mm.input_norm.weight": (128,), "mm.patch_merger.weight": (512, 128)} if merger else {}
    return keys, tensors


def _internvl(*, fused: bool = False, normed: int = 0) -> tuple[dict[str, Any], Shapes]:
    tensors = _patch() | {"v.position_embd.weight": (128, 257), "v.class_embd": (128,)}
    for il in range(3):
        tensors |= {f"v.blk.{il}.ls1.weight": (128,), f"v.blk.{il}.ls2.weight": (128,)}
        for c in "qk" if normed else "":
            tensors |= _norm(f"v.blk.{il}.attn_{c}_norm", normed, bias=False)
    mm = (
        _norm("mm.model.mlp.0", 512)
        | _linear("mm.model.mlp.1", 512, 192)
        | _linear("mm.model.mlp.3", 192, 192)
    )
    return _vision("internvl", vision__projector__scale_factor=2), tensors | _layers(
        "v", 128, 256, 3, fused=fused
    ) | mm


def _llama4() -> tuple[dict[str, Any], Shapes]:
    tensors: Shapes = {
        "v.patch_embd.weight": (588, 128),
        "v.position_embd.weight": (128, 257),
        "v.class_embd": (128,),
    }
    tensors |= _norm("v.pre_ln", 128) | _norm("v.post_ln", 128) | _layers("v", 128, 256, 3)
    mm = {
        "mm.model.mlp.1.weight": (512, 256),
        "mm.model.mlp.2.weight": (256, 256),
        "mm.model.fc.weight": (256, 192),
    }
    return _vision("llama4", vision__projector__scale_factor=2), tensors | mm


def _resampler() -> tuple[dict[str, Any], Shapes]:
    n = 256
    mm: Shapes = {"resampler.pos_embed_k": (n, 64), "resampler.query": (n, 64), "resampler.proj.weight": (n, n),
                  "resampler.kv.weight": (128, n)}  # fmt: skip
    for c in ("q", "k", "v", "out"):
        mm |= _linear(f"resampler.attn.{c}", n, n)
    for c in ("q", "kv", "post"):
        mm |= _norm(f"resampler.ln_{c}", n)
    keys, tensors = _siglip("resampler", mm, patches=1024)
    return keys | {"clip.minicpmv_version": 3}, tensors


def _kimivl() -> tuple[dict[str, Any], Shapes]:
    mm = _norm("mm.input_norm", 128) | _linear("mm.1", 512, 512) | _linear("mm.2", 512, 192)
    keys, tensors = _siglip("kimivl", mm, patches=4096)
    return keys | {"clip.vision.projector.scale_factor": 2}, tensors


def _whisper(kind: str, mm: Shapes, **more: Any) -> tuple[dict[str, Any], Shapes]:
    tensors: Shapes = {"a.conv1d.1.weight": (3, 80, 128), "a.conv1d.1.bias": (1, 128), "a.conv1d.2.weight": (3, 128, 128),
                       "a.conv1d.2.bias": (1, 128), "a.position_embd.weight": (128, 1500)}  # fmt: skip
    tensors |= _layers("a", 128, 256, 3, k_bias=False) | _norm("a.post_ln", 128)
    return _audio(kind, **more), tensors | mm


def _both() -> tuple[dict[str, Any], Shapes]:
    """A file for images and sound."""
    keys, tensors = _qwen("qwen2.5vl_merger")
    sound, more = _whisper("qwen2.5o", _linear("mm.a.fc", 128, 192))
    return keys | sound | {"clip.projector_type": "qwen2.5o"}, tensors | more


_STACK = {"audio__projector__stack_factor": 8}
_TWO = _linear("mm.a.mlp.1", 1024, 192, False) | _linear("mm.a.mlp.2", 192, 192, False)
KINDS: dict[str, Callable[[], tuple[dict[str, Any], Shapes]]] = {
    "mlp": _mlp,
    "mlp, swapped": lambda: _mlp(swapped=True),
    "mlp, norms": lambda: _mlp(norms=True),
    "gemma3": lambda: _siglip("gemma3", {"mm.input_projection.weight": (192, 128), "mm.soft_emb_norm.weight": (128,)}),
    "gemma3, heads of 72": lambda: _siglip(
        "gemma3", {"mm.input_projection.weight": (192, 288), "mm.soft_emb_norm.weight": (288,)}, n=288, n_head=4),
    "gemma3, heads of 48": lambda: _siglip(
        "gemma3", {"mm.input_projection.weight": (192, 192), "mm.soft_emb_norm.weight": (192,)}, n=192, n_head=4),
    "idefics3": lambda: _siglip("idefics3", {"mm.model.fc.weight": (512, 192)}, vision__projector__scale_factor=2),
    "lfm2": lambda: _siglip("lfm2", _norm("mm.input_norm", 512) | _linear("mm.1", 512, 256) | _linear("mm.2", 256, 192),
                            vision__projector__scale_factor=2),
    "janus_pro": lambda: _siglip("janus_pro", _linear("mm.0", 128, 192) | _linear("mm.1", 192, 192)),
    "phi4": lambda: _siglip("phi4", _linear("mm.0", 128, 192) | _linear("mm.2", 192, 192),
                            vision__image_min_pixels=3136, vision__image_max_pixels=705600),
    "pixtral": _pixtral,
    "pixtral, plain": lambda: _pixtral(merger=False),
    "lightonocr": lambda: _pixtral("lightonocr"),
    "qwen2vl_merger": lambda: _qwen("qwen2vl_merger"),
    "qwen2.5vl_merger": lambda: _qwen("qwen2.5vl_merger"),
    "qwen3vl_merger": _qwen3,
    "internvl": _internvl,
    "internvl, one matrix": lambda: _internvl(fused=True),
    "internvl, one matrix and norms": lambda: _internvl(fused=True, normed=64),
    "internvl, norms of heads": lambda: _internvl(normed=64),
    "internvl, norms of rows": lambda: _internvl(normed=128),
    "llama4": _llama4,
    "resampler": _resampler,
    "kimivl": _kimivl,
    "ultravox": lambda: _whisper("ultravox", {
        "mm.a.mlp.1.weight": (1024, 256), "mm.a.mlp.2.weight": (128, 192), "mm.a.norm_pre.weight": (1024,),
        "mm.a.norm_mid.weight": (128,)}, **_STACK),
    "qwen2a": lambda: _whisper("qwen2a", _linear("mm.a.fc", 128, 192)),
    "voxtral": lambda: _whisper("voxtral", _linear("mm.a.mlp.1", 512, 192, False) | _linear("mm.a.mlp.2", 192, 192, False),
                                audio__projector__stack_factor=4),
    "musicflamingo": lambda: _whisper("musicflamingo", _linear("mm.a.mlp.1", 128, 192) | _linear("mm.a.mlp.2", 192, 192)),
    "glma": lambda: _whisper("glma", _linear("mm.a.mlp.1", 512, 256) | _linear("mm.a.mlp.2", 256, 192)
                             | _norm("mm.a.norm_pre", 128) | {"v.boi": (192,), "v.eoi": (192,)},
                             audio__projector__stack_factor=4),
    "meralion": lambda: _whisper("meralion", _linear("mm.a.mlp.0", 1024, 192) | _linear("mm.a.mlp.1", 192, 256)
                                 | _linear("mm.a.mlp.2", 192, 256) | _linear("mm.a.mlp.3", 256, 192)
                                 | _norm("mm.a.norm_pre", 1024), **_STACK),
    "images and sound": _both,
}  # fmt: skip


def forecast(
    data: bytes, *, gpu: bool = True, flash_attn: int = -1, max_tokens: int = 0, capability: int = 860
) -> list[int]:
    """Bytes on the device and on the host by the engine's forecast, then of weights as allocated there. Raises Refused."""
    from .binding import engine, library_dir
    from .load import Refused, complaint

    lib = engine()
    mtmd = ctypes.CDLL(str(library_dir() / "libmtmd.so"))
    lib.vf_device(0, 24564 << 20, capability)
    cells = (ctypes.c_int64 * 4)()
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        os.truncate(file.name, 1 << 34)
        measure, defaults = (
            ctypes.cast(getattr(mtmd, name), ctypes.c_void_p)
            for name in ("_Z21mtmd_get_memory_usagePKc19mtmd_context_params", "mtmd_context_params_default")
        )
        if not lib.vf_projector(measure, defaults, file.name.encode(), gpu, flash_attn, 0, max_tokens, cells):
            raise Refused(complaint() or "the engine takes no such projector")
    return list(cells)


# What each kind is measured with: name -> arguments of `forecast`.
CASES: dict[str, dict[str, Any]] = {
    "card": {}, "no flash attention": {"flash_attn": 0}, "host": {"gpu": False}, "old card": {"capability": 610},
}  # fmt: skip


def main(out: str, names: Iterable[str] = ()) -> None:
    """Measure every kind."""
    from .errors import EngineError

    rows: dict[str, dict[str, list[int]]] = {}
    for name in names or KINDS:
        data = header(*KINDS[name]())
        try:
            rows[name] = {case: forecast(data, **told) for case, told in CASES.items()}
        except EngineError as e:
            print(f"{name}: {e}")
    lines = ",\n".join(f'"{name}":{json.dumps(row, separators=(",", ":"))}' for name, row in rows.items())
    pathlib.Path(out).write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
