"""Small loadable models of any architecture, as headers.

    make_model("qwen3moe", "x.gguf", Dims(n_embd=512, n_layer=24), types="q4_k")
    make_model("gemma3", "y.gguf", overrides={"attention.sliding_window": 512})

The engine makes a model from metadata alone and says which tensors it wants; those are written into a
GGUF header with the chosen types. The header serves `measure`, `trace` and the library alike. A model
that the engine refuses raises Refused; some it refuses by ending the process.
"""

from __future__ import annotations

import array
import ctypes
import os
import re
from collections.abc import Callable
from typing import Any

from .binding import engine
from .errors import EngineError
from .load import Refused, complaint, load_model, type_id
from .metadata import Dims, Long, metadata

_MIXTURES = """
    llama4 cohere2moe grok qwen2moe qwen3moe qwen3next qwen3vlmoe qwen35moe qwen4exp phimoe dbrx olmoe
    arctic deepseek deepseek2 deepseek32 dots3note deepseek4 glm4moe glm-dsa exaone-moe bailingmoe
    bailingmoe2 bailingmoe3 dots1 afmoe ernie4_5 ernie4_5-moe hunyuan-moe hy_v3 hy_v4 gpt-oss lfm2moe
    smallthinker llada-moe grovemoe minimax-01 minimax-m2 minimax-m3 rnd1 paddleocr mimo2 kimi-linear
    kimi-k3 glm5-next step35 mistral4 mellum laguna maple granitemoe nomic-bert-moe deepseek2-ocr
    nemotron_h_moe
"""
_DENSE_OR_MIXTURE = (
    "llama refact minicpm granite granitemoe granitehybrid mistral3 llama-embed nemotron_h_moe jamba gemma4"
)
_ALL = """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert bitnet bloom
    chameleon chatglm codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2
    deepseek2-ocr deepseek32 deepseek4 dots1 dots3note dream ernie4_5 ernie4_5-moe eurobert exaone
    exaone-moe exaone4 falcon falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 glm-dsa glm4
    glm4moe glm5-next gpt-oss gpt2 gptneox granite granite_swa granitehybrid granitemoe graniteswitch
    grok grovemoe hrm_text hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba
    jina-bert-v2 jina-bert-v3 kimi-k3 kimi-linear laguna lfm2 lfm2moe llada llada-moe llama llama-embed
    llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3 minimax-01 minimax-m2 minimax-m3
    mistral3 mistral4 modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert
    nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe
    plamo plamo2 plamo3 pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next
    qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker
    smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5 t5encoder talkie xverse
"""
ARCHITECTURES = tuple(_ALL.split())  # all that a model can be made of
MIXTURES = frozenset(_MIXTURES.split())  # with experts only
DENSE_OR_MIXTURE = frozenset(_DENSE_OR_MIXTURE.split())
_SMALL = Dims()

# A tensor that the engine reads as optional although the architecture's graph cannot bear it.
_NEVER = {"rwkv6qwen2": "time_mix_first"}

# The matrices that a quantizer converts; all else stays as the engine made it (src/llama-quant.cpp).
_QUANTIZED = re.compile(
    r"(?:^|\.)(?:token_embd|output|attn_(?:q|k|v|qkv|output|gate|q_a|q_b|kv_a_mqa|kv_b|k_b|v_b)"
    r"|ffn_(?:up|down|gate)(?:_exps|_shexp)?|ssm_(?:in|out)|per_layer_token_embd)\.weight$"
)
_FALLBACKS = ("q8_0", "f16")  # where a row is no multiple of a type's block


def make_model(
    architecture: str,
    path: str | os.PathLike[str],
    dims: Dims = _SMALL,
    overrides: dict[str, Any] | None = None,
    types: str | Callable[[str], str] = "f32",
    experts: bool | None = None,
    without: str = "",
) -> list[str]:
    """Write the header of a model; its tensors' names.

    `overrides`: metadata over what `dims` give. `types`: of the matrices, by name or as a function of the
    tensor's name. `without`: a pattern of optional tensors to leave out. Raises Refused.
    """
    without = "|".join(filter(None, (without, _NEVER.get(architecture))))
    experts = architecture in MIXTURES if experts is None else experts
    values = metadata(architecture, dims, experts) | (overrides or {})
    lib = engine()
    gguf = lib.gguf_init_empty()
    try:
        lib.gguf_set_val_str(gguf, b"general.architecture", architecture.encode())
        for key, value in values.items():
            if value is None:  # an override that takes a key away
                continue
            _set(gguf, key if key.startswith(("tokenizer.", "xielu.")) else f"{architecture}.{key}", value)
        names = _add_tensors(gguf, (lambda _: types) if isinstance(types, str) else types, without)
        if not lib.gguf_write_to_file(gguf, os.fspath(path).encode(), True):
            raise EngineError(f"cannot write {path}")
    finally:
        lib.gguf_free(gguf)
    lib.llama_model_free(load_model(path))
    return names


def _add_tensors(gguf: int, types: Callable[[str], str], without: str) -> list[str]:
    lib = engine()
    model = lib.vf_model(None, gguf, 0, 0, 1, None, (ctypes.c_char_p * 1)(None))
    if not model:
        raise Refused(complaint())
    addresses = (ctypes.c_void_p * lib.vf_tensors(model, None, 0))()
    lib.vf_tensors(model, addresses, len(addresses))
    names: dict[str, None] = {}
    for address in addresses:
        name = ctypes.string_at(address + 256).decode()
        if name in names or (without and re.search(without, name)):
            continue
        names[name] = None
        lib.gguf_add_tensor(gguf, address)
        if _QUANTIZED.search(name):
            ne0 = ctypes.c_int64.from_address(address + 16).value
            lib.gguf_set_tensor_type(gguf, name.encode(), type_id(_type_for(types(name), ne0)))
    lib.llama_model_free(model)
    return list(names)


def _type_for(wanted: str, ne0: int) -> str:
    return next(t for t in (wanted, *_FALLBACKS) if ne0 % engine().ggml_blck_size(type_id(t)) == 0)


def _set(gguf: int, key: str, value: Any) -> None:
    lib, name = engine(), key.encode()
    if isinstance(value, bool):
        lib.gguf_set_val_bool(gguf, name, value)
    elif isinstance(value, int):
        lib.gguf_set_val_u32(gguf, name, value)
    elif isinstance(value, float):
        lib.gguf_set_val_f32(gguf, name, value)
    elif isinstance(value, str):
        lib.gguf_set_val_str(gguf, name, value.encode())
    else:
        _set_list(gguf, name, value)


# GGUF's numbers for value types (gguf.h), with the letters of the array module
_U32, _F32, _U64 = (4, "I"), (6, "f"), (10, "Q")


def _set_list(gguf: int, name: bytes, values: list[Any]) -> None:
    kind, letter = _U64 if isinstance(values, Long) else _F32 if isinstance(values[0], float) else _U32
    data = array.array(letter, values)
    engine().gguf_set_arr_data(gguf, name, kind, data.buffer_info()[0], len(data))
