"""The tensors that a published file of a model has: what the engine's loader asks for, less what it lacks.

The engine makes a model from keys alone and creates all that it might load. Published files differ from that
by rules (`_SELDOM`, experts in two matrices) and by what each fact says; what the loader then misses is put back.
Needs the engine (docs/engine.md).
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tools.engine.binding import engine
from tools.engine.load import Refused, complaint, load_model
from tools.engine.quantize import types
from vramfit._ggml.types import BY_NAME
from vramfit._quant import file_type

from .facts import Fact
from .gguf import Tensor, header

# Tensors that the engine would take from any file, and few have: scales of NVFP4, biases, factors of RoPE,
# a next-token block's own copies of the embeddings, the fused form of what also exists apart.
_SELDOM = re.compile(
    r"scale$|(?<!exp_probs_b)\.bias$|rope_freqs|rope_factors|nextn\.(embed_tokens|shared_head_head)|attn_sinks"
)
_FUSED_EXPERTS = re.compile(r"ffn_gate_up_exps\.weight$")
_MISSING = re.compile(r"(?:missing tensor|tensor) '([^']+)'(?: not found)?$")
# Matrices that the converter leaves in f32, beside what has one dimension or is a norm (conversion/base.py:1080)
_F32 = re.compile(
    r"_norm\.weight$|ffn_gate_inp(_shexp)?\.|position_embd\.|token_types\.|ssm_conv1d|shortconv\.conv|time_mix_(first|w1|w2)\."
    r"|time_mix_decay_w[12]|time_mix_lerp_fused|posnet\.\d+\.norm|altup_(correct_coef|predict_coef)|indexer\.proj\."
)
# and those that the converter of one architecture leaves in f32
_F32_OF = {
    "glm5-next": "hc_|indexer_compressor",
    "hy_v4": "hc_",
    "deepseek4": "hc_",
    "minimax-m3": r"\.indexer\.",
}
_TABLES = {"d2t": "i64", "ffn_gate_tid2eid.weight": "i32"}  # of numbers of tokens and experts
_NAME, _SHAPE, _DIMS = 256, 16, 4  # offsets in `struct ggml_tensor`, and how many dimensions it has


class _Params(ctypes.Structure):
    """`llama_model_params` (llama.h)."""

    _fields_ = [
        ("devices", ctypes.POINTER(ctypes.c_void_p)),
        ("overrides", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("gpu_layers", "split", "load", "lazy", "main_gpu")),
        *((name, ctypes.c_void_p) for name in ("tensor_split", "progress", "progress_data", "kv_overrides")),
        *(
            (name, ctypes.c_bool)
            for name in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc", "load_mtp")
        ),
    ]


class _Init(ctypes.Structure):
    """`gguf_init_params` (gguf.h)."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


_SetData = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


def all_keys(fact: Fact) -> dict[str, Any]:
    """A header's keys, with a vocabulary that is only a number."""
    general = {"general.architecture": fact.architecture, "general.name": fact.source}
    return (
        general
        | {_full(fact.architecture, k): v for k, v in fact.keys.items()}
        | {"tokenizer.ggml.model": "none"}
    )


def _full(architecture: str, key: str) -> str:
    return key if key.startswith(("xielu.", "tokenizer.")) else f"{architecture}.{key}"


def created(keys: dict[str, Any]) -> list[Tensor]:
    """Every tensor that the engine creates from keys alone, next-token blocks included. Raises Refused."""
    lib = engine()
    init, make = lib.gguf_init_from_buffer, lib.llama_model_init_from_user
    init.restype, init.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_size_t, _Init]
    make.restype = ctypes.c_void_p
    make.argtypes = [ctypes.c_void_p, _SetData, ctypes.c_void_p, _Params]
    raw = header(keys, ())
    gguf = init(raw, len(raw), _Init(True, None))
    nothing = _SetData(lambda tensor, data: None)
    devices = (ctypes.c_void_p * 1)(None)
    model = make(gguf, nothing, None, _Params(devices, None, -1, 1, 0, no_alloc=True, load_mtp=True))
    if not model:
        lib.vf_model(None, gguf, 0, 0, 1, None, (ctypes.c_char_p * 1)(None))  # again, for the reason
        raise Refused(complaint())
    addresses = (ctypes.c_void_p * lib.vf_tensors(model, None, 0))()
    lib.vf_tensors(model, addresses, len(addresses))
    found = {tensor.name: tensor for tensor in map(_read, addresses)}  # some are made twice
    lib.llama_model_free(model)
    lib.gguf_free(gguf)
    return list(found.values())


def _read(address: int) -> Tensor:
    shape = list((ctypes.c_int64 * _DIMS).from_address(address + _SHAPE))
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return Tensor(ctypes.string_at(address + _NAME).decode(), tuple(shape))


def published(fact: Fact) -> list[Tensor]:
    """The tensors of the model's file, in the types of a converted one. Raises Refused."""
    keys = all_keys(fact)
    added = {name: Tensor(name, tuple(shape)) for key, shape in fact.adds.items() for name in _names(key)}
    every = [] if "output_norm.weight" in added else created(_loadable(fact))
    every = _with_fused([part for tensor in every for part in _apart(tensor, fact)], fact)
    every = [t for t in every if t.name not in added] + list(added.values())
    kept = {t.name for t in every if _is_kept(t.name, fact)}
    while missing := _missing(keys, [_converted(t, fact.architecture) for t in every if t.name in kept]):
        again = {t.name for t in every if _kind(t.name) == _kind(missing)} - kept
        if not again:
            raise Refused(f"the engine misses {missing}")
        kept |= again & _wanted(again, missing, fact)
    return [_converted(t, fact.architecture) for t in every if t.name in kept]


def _loadable(fact: Fact) -> dict[str, Any]:
    """Keys of a model that the engine can make without a file.

    It ends at a block that it never loads, so a fact with such a block adds its tensors, and it is left out here.
    """
    if not any(".nextn." in name for name in fact.adds):
        return all_keys(fact)
    blocks = fact.keys["block_count"]
    count = blocks - fact.keys["nextn_predict_layers"]
    lists = {
        key: value[:count]
        for key, value in fact.keys.items()
        if isinstance(value, list) and len(value) == blocks
    }
    changed = lists | {"block_count": count, "nextn_predict_layers": 0}
    return all_keys(replace(fact, keys=fact.keys | changed))


def _names(key: str) -> list[str]:
    """Tensors that a fact adds under one name: `blk.0-3.attn_norm.weight` are four, `blk.0-6:2.…` every second."""
    many = re.fullmatch(r"blk\.(\d+)-(\d+)(?::(\d+))?\.(.+)", key)
    if not many:
        return [key]
    return [f"blk.{i}.{many[4]}" for i in range(int(many[1]), int(many[2]) + 1, int(many[3] or 1))]


def _wanted(again: set[str], missing: str, fact: Fact) -> set[str]:
    """Those of a kind that comes back: all, but where the fact says that some lack it, one by one."""
    return {missing} & again if any(re.search(p, missing) for p in fact.lacks) else again


def _is_kept(name: str, fact: Fact) -> bool:
    if any(re.search(pattern, name) for pattern in fact.lacks):
        return False
    if name in fact.adds:
        return True
    return not _SELDOM.search(name) or any(re.search(pattern, name) for pattern in fact.has)


def _apart(tensor: Tensor, fact: Fact) -> list[Tensor]:
    """Experts as the converter writes them: gate and up in a matrix each."""
    if not _FUSED_EXPERTS.search(tensor.name) or "ffn_gate_up_exps" in fact.has:
        return [tensor]
    row, both, *rest = tensor.shape
    shape = (row, both // 2, *rest)
    return [Tensor(tensor.name.replace("gate_up", name), shape) for name in ("gate", "up")]


def _with_fused(every: list[Tensor], fact: Fact) -> list[Tensor]:
    """With Q, K and V in one matrix where the fact has `attn_qkv`."""
    if not any(p.startswith("attn_qkv") for p in fact.has):
        return every
    out, by_name = [], {t.name: t for t in every}
    for tensor in every:
        part = re.fullmatch(r"(.*\.attn)_([qkv])(\.weight|\.bias)", tensor.name)
        if not part:
            out.append(tensor)
        elif part[2] == "q":
            three = [by_name[f"{part[1]}_{x}{part[3]}"].shape for x in "qkv"]
            out.append(Tensor(f"{part[1]}_qkv{part[3]}", (*three[0][:-1], sum(s[-1] for s in three))))
    return out


def _kind(name: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", name)


def _converted(tensor: Tensor, architecture: str) -> Tensor:
    """The tensor in the type that the converter gives it."""
    for ending, kind in _TABLES.items():
        if tensor.name.endswith(ending):
            return Tensor(tensor.name, tensor.shape, kind)
    kept = (_F32.pattern, _F32_OF.get(architecture, "^$"))
    is_small = len(tensor.shape) == 1 or not tensor.name.endswith(".weight")
    is_small = is_small or any(re.search(pattern, tensor.name) for pattern in kept)
    return Tensor(tensor.name, tensor.shape, "f32" if is_small else "f16")


def _missing(keys: dict[str, Any], tensors: list[Tensor]) -> str:
    """The tensor that the engine's loader misses first. Raises Refused when it has another complaint."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(header(keys, tensors))
        file.flush()
        try:
            engine().llama_model_free(load_model(file.name))
        except Refused as refused:
            if found := _MISSING.search(str(refused)):
                return found[1]
            raise
    return ""


def write(fact: Fact, folder: str | os.PathLike[str]) -> pathlib.Path:
    """Write the header of a model, quantized as its fact says. Raises Refused."""
    path = pathlib.Path(folder) / fact.file_name
    keys, tensors = all_keys(fact), published(fact)
    try:
        if fact.type.upper() != "F16":
            path.write_bytes(header(keys, tensors))
            tensors = list(_quantized(path, tensors, file_type(fact.type).id))
        path.write_bytes(header(keys, tensors))
        engine().llama_model_free(load_model(path))
    except Refused:
        path.unlink(missing_ok=True)
        raise
    return path


def _quantized(path: pathlib.Path, tensors: Iterable[Tensor], number: int) -> Iterable[Tensor]:
    chosen = types(path, number)
    names = {name.lower(): name for name in BY_NAME}
    for tensor in tensors:
        yield Tensor(tensor.name, tensor.shape, names[chosen.get(tensor.name, tensor.type).lower()])
