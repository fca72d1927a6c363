"""Ask the engine which tensor types it chooses, and freeze its answers in `engine.jsonl.gz`.

Run from this folder, in an environment with llama-cpp-python 0.3.36 and gguf:

    python freeze.py

The models are small and made up, one for each rule that depends on more than a tensor's name. The
engine reads their headers alone: a dry run of the quantizer loads no tensor, so a hole stands for the data.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as engine
import numpy as np

from vramfit._ggml.types import BY_NAME
from vramfit._quant import FILE_TYPES

HERE = Path(__file__).parent
BASE = {"context_length": 4096, "embedding_length": 512, "attention.layer_norm_rms_epsilon": 1e-5}
LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
MIXTURE = {"expert_count": 8, "expert_used_count": 2}
KDA = {
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "attention.q_lora_rank": 256,
    "attention.kv_lora_rank": 256,
    "ssm.conv_kernel": 4,
    "kda.head_dim": 128,
    "kda.gate_lower_bound": -5.0,
    "expert_feed_forward_length": 256,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "leading_dense_block_count": 1,
}
HYPER = {
    "attention.indexer.head_count": 64,
    "attention.indexer.key_length": 128,
    "attention.indexer.top_k": 2048,
    "attention.indexer.kpool": 4,
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 2,
    "hyper_connection.epsilon": 1e-6,
}

# A row of 512 divides by every block, 576 by blocks of 64, 96 by blocks of 32, 40 by none.
DENSE = {
    "attn_norm.weight": (512,),
    "attn_q.weight": (512, 512),
    "attn_k.weight": (512, 128),
    "attn_v.weight": (512, 128),
    "attn_output.weight": (512, 512),
    "ffn_gate.weight": (512, 1024),
    "ffn_up.weight": (512, 1024),
    "ffn_down.weight": (1024, 512),
}
EXPERTS = {
    "attn_q.weight": (512, 512),
    "attn_k.weight": (512, 128),
    "attn_v.weight": (512, 128),
    "attn_output.weight": (512, 512),
    "ffn_gate_inp.weight": (512, 8),
    "ffn_gate_exps.weight": (512, 256, 8),
    "ffn_up_exps.weight": (512, 256, 8),
    "ffn_down_exps.weight": (256, 512, 8),
    "ffn_down_shexp.weight": (256, 512),
}
LATENT = {
    "attn_q_a.weight": (512, 256),
    "attn_q_b.weight": (256, 512),
    "attn_kv_a_mqa.weight": (512, 320),
    "attn_kv_b.weight": (256, 1024),
    "attn_k_b.weight": (256, 256, 4),
    "attn_v_b.weight": (256, 256, 4),
    "attn_output.weight": (512, 512),
    "indexer.proj.weight": (512, 32),
    "ssm_f_a.weight": (512, 64),
    "hc_attn.weight": (512, 4),
    "nextn.eh_proj.weight": (1024, 512),
}
FUSED = {
    "attn_qkv.weight": (512, 768),
    "attn_output.weight": (512, 512),
    "ffn_up.weight": (512, 2048),
    "ffn_down.weight": (2048, 512),
}
UNEVEN = {
    "attn_q.weight": (96, 96),
    "attn_k.weight": (40, 96),
    "attn_v.weight": (576, 96),
    "attn_output.weight": (576, 96),
    "ffn_gate.weight": (96, 192),
    "ffn_up.weight": (96, 192),
    "ffn_down.weight": (2880, 96),
}
ODDS = {
    "ssm_conv1d.weight": (4, 512),
    "ssm_in.weight": (512, 1024),
    "shortconv.conv.weight": (4, 512),
    "time_mix_w1.weight": (512, 64),
    "time_mix_key.weight": (512, 512),
    "attn_rel_b.weight": (32, 8),
    "laurel_l.weight": (512, 64),
    "inp_gate.weight": (512, 256),
    "ffn_down.weight": (1024, 512),
    "attn_v.weight": (512, 64),
}
ENDS = {"token_embd.weight": (512, 1000), "output.weight": (512, 1000), "output_norm.weight": (512,)}
TIED = {"token_embd.weight": (512, 1000), "output_norm.weight": (512,)}

# name: architecture, layers, heads, KV heads, more metadata, tensors of a layer, other tensors
MODELS = {
    "llama-70b": ("llama", 80, 8, 1, {}, {k: DENSE[k] for k in ("attn_v.weight", "ffn_down.weight")}, ENDS),
    "llama-65b": ("llama", 80, 8, 8, {}, {k: DENSE[k] for k in ("attn_v.weight", "ffn_down.weight")}, ENDS),
    "qwen2-70b": ("qwen2", 80, 8, 8, {}, {k: DENSE[k] for k in ("attn_v.weight", "ffn_down.weight")}, ENDS),
    "jais2-70b": (
        "jais2",
        68,
        8,
        4,
        LAYER_NORM,
        {k: DENSE[k] for k in ("attn_v.weight", "ffn_down.weight")},
        ENDS,
    ),
    "llama-gqa-2": ("llama", 18, 8, 4, {}, DENSE, ENDS),
    "qwen2-tied": ("qwen2", 17, 8, 2, {}, DENSE, TIED),
    "llama-eight-experts": ("llama", 16, 8, 2, MIXTURE, EXPERTS, ENDS),
    "qwen3moe": ("qwen3moe", 9, 8, 2, MIXTURE | {"expert_count": 4}, EXPERTS, ENDS),
    "falcon": ("falcon", 32, 8, 1, LAYER_NORM, FUSED, ENDS),
    "glm5-next": ("glm5-next", 8, 8, 1, MIXTURE | KDA | HYPER, LATENT, ENDS),
    "bailingmoe3": ("bailingmoe3", 8, 8, 1, MIXTURE | KDA, LATENT | EXPERTS, ENDS),
    "starcoder2-tied": ("starcoder2", 9, 8, 8, LAYER_NORM, FUSED, TIED),
    "uneven": ("llama", 8, 8, 8, {}, UNEVEN, {"token_embd.weight": (96, 1000), "output.weight": (96, 1000)}),
    "per-layer-embeddings": (
        "llama",
        8,
        8,
        8,
        {},
        ODDS,
        TIED | {"per_layer_token_embd.weight": (512, 1000), "per_layer_model_proj.weight": (512, 512)},
    ),
    "positions": ("gpt2", 8, 8, 8, LAYER_NORM, FUSED, ENDS | {"position_embd.weight": (512, 64)}),
}

OPTIONS: tuple[dict[str, object], ...] = (
    {},
    {"imatrix": True},
    {"output_tensor_type": "q8_0", "token_embedding_type": "q5_1"},
    {"tensor_types": [["attn_v", "q6_K"], ["blk\\.[0-2]\\.ffn_down", "iq4_nl"], ["per_layer", "f16"]]},
    {"token_embedding_type": "q4_0", "tensor_types": [["per_layer_token_embd", "q8_0"]]},
    {"pure": True},
    {"leave_output_tensor": True},
    {"keep_split": True},
)
LINE = re.compile(
    r"\[\s*\d+/\s*\d+\] (\S+)\s+- \[[^\]]*\], type =\s*(\S+), size =\s*[\d.]+ MiB(?: ->\s*[\d.]+ MiB \((\S+)\))?"
)
LOG: list[str] = []


@engine.llama_log_callback
def keep_log(level: int, text: bytes, user_data: object) -> None:
    LOG.append(text.decode(errors="replace"))


def tensors_of(model: tuple) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of each tensor, layers last to first: the engine must sort them."""
    _, n_layer, _, _, _, layer, others = model
    for i in reversed(range(n_layer)):
        for name, shape in layer.items():
            yield f"blk.{i}.{name}", shape, "f16" if len(shape) > 1 else "f32"
    for name, shape in others.items():
        yield name, shape, "f16" if len(shape) > 1 else "f32"


def metadata_of(model: tuple) -> dict[str, int | float]:
    _, n_layer, n_head, n_head_kv, more, _, _ = model
    heads = {"block_count": n_layer, "attention.head_count": n_head, "attention.head_count_kv": n_head_kv}
    return BASE | {"feed_forward_length": 1024} | heads | more


def write(path: Path, model: tuple) -> None:
    writer = gguf.GGUFWriter(path, model[0])
    for key, value in metadata_of(model).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{model[0]}.{key}", value)
    size = 0
    for name, shape, kind in tensors_of(model):
        n_bytes = BY_NAME[kind].row_bytes(shape[0])
        for n in shape[1:]:
            n_bytes *= n
        size += -(-n_bytes // 32) * 32
        dtype = gguf.GGMLQuantizationType[kind.upper()]
        writer.add_tensor_info(name, shape[::-1], np.dtype("float16"), n_bytes, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size + 32)


def params_of(file_type: str, options: dict) -> tuple[ctypes.Structure, list[object]]:
    """The engine's parameters, and what must stay alive while it reads them."""
    params = engine.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.nthread = FILE_TYPES[file_type].id, True, 1
    params.pure = options.get("pure", False)
    params.keep_split = options.get("keep_split", False)
    params.quantize_output_tensor = not options.get("leave_output_tensor", False)
    for key in ("output_tensor_type", "token_embedding_type"):
        if key in options:
            setattr(params, key, BY_NAME[options[key]].id)
    alive: list[object] = []
    if overrides := options.get("tensor_types"):
        rows = (engine.llama_model_tensor_override * (len(overrides) + 1))()
        for row, (pattern, kind) in zip(rows, overrides, strict=False):
            row.pattern, row.type = pattern.encode(), BY_NAME[kind].id
        params.tt_overrides = ctypes.cast(rows, type(params.tt_overrides))
        alive.append(rows)
    if options.get("imatrix"):
        matrix = (engine.llama_model_imatrix_data * 2)()
        one = (ctypes.c_float * 1)(1.0)
        matrix[0].name, matrix[0].size = b"none", 1
        matrix[0].data = ctypes.cast(one, ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(matrix, type(params.imatrix))
        alive += [matrix, one]
    return params, alive


def ask(path: Path, file_type: str, options: dict) -> dict[str, str] | None:
    """The type of every tensor, or None when the engine refuses."""
    params, alive = params_of(file_type, options)
    LOG.clear()
    failed = engine.llama_model_quantize(str(path).encode(), b"", ctypes.byref(params))
    del alive
    if failed and file_type == "F16":
        raise SystemExit(f"{path}, {file_type}: {''.join(LOG)[-300:]}")
    return None if failed else {m[1]: m[3] or m[2] for m in LINE.finditer("".join(LOG))}


def answers(path: Path, names: list[str], palette: list[str]) -> Iterator[dict[str, object]]:
    for file_type in FILE_TYPES:
        if file_type == "COPY":
            continue
        for options in OPTIONS if file_type in ("Q4_K_M", "IQ2_M", "F16") else OPTIONS[:2]:
            types = ask(path, file_type, options)
            chosen = types and "".join(chr(ord("A") + palette.index(types[n])) for n in names)
            yield {"file_type": file_type, "options": options, "types": chosen}


def main() -> None:
    engine.llama_log_set(keep_log, None)
    palette = list(BY_NAME)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            path = Path(folder) / "model.gguf"
            path.unlink(missing_ok=True)
            write(path, model)
            tensors = list(tensors_of(model))
            found = list(answers(path, [t[0] for t in tensors], palette))
            row = {"name": name, "architecture": model[0], "hparams": metadata_of(model), "palette": palette}
            rows.append(json.dumps(row | {"tensors": tensors, "answers": found}, separators=(",", ":")))
    data = "\n".join(rows).encode()
    (HERE / "engine.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
    print(f"{len(rows)} models, {len(data)} bytes")


if __name__ == "__main__":
    main()
