"""Architectures: a header's metadata and tensors become the numbers that the engine would work with."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit._base.errors import ModelError, UnknownArchitecture, VramfitError
from vramfit._ggml.types import BY_NAME
from vramfit._gguf import Array, Header, TensorInfo, parse
from vramfit._llama.arch import NAMES, describe
from vramfit._llama.arch.names import parse as parse_name
from vramfit._llama.arch.table import NOT_MODELS, TABLE, Mla, Recurrent
from vramfit._llama.model import Cells, Home, Layer, Model, Weight

N_LAYER = 8
EMBEDDING = ("token_embd.weight", (64, 100))
OUTPUT = ("output.weight", (64, 100))

# every key that some architecture wants; those that do not know a key never look at it
KEYS: Mapping[str, Any] = {
    "block_count": N_LAYER,
    "context_length": 4096,
    "embedding_length": 64,
    "features_length": 48,
    "feed_forward_length": 128,
    "vocab_size": 100,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "attention.value_length": 8,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 8,
    "attention.sliding_window": 512,
    "attention.sliding_window_pattern": [1, 1, 1, 0] * 2,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 20,
    "attention.kv_lora_rank": 12,
    "attention.indexer.key_length": 6,
    "attention.indexer.types": [1, 0, 0, 0, 1, 0, 0, 0],
    "attention.compress_ratios": [0, 4, 128, 4, 128, 4, 128, 4],
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 10,
    "ssm.group_count": 2,
    "kda.head_dim": 5,
    "wkv.head_size": 32,
    "shortconv.l_cache": 3,
    "hrm.layers_per_stack": 2,
    "hrm.l_cycles": 1,
    "hrm.h_cycles": 2,
}
HEADLESS = {"attention.head_count_kv": [0, 0, 0, 2] * 2, "attention.sliding_window_pattern": None}


def array(values: Sequence[Any], kind: str = "i32") -> Array:
    kind = "str" if values and isinstance(values[0], str) else kind
    if kind == "str":
        body = b"".join(struct.pack("<Q", len(v.encode())) + v.encode() for v in values)
    else:
        body = struct.pack(f"<{len(values)}{ {'i32': 'i', 'f32': 'f', 'bool': '?'}[kind] }", *values)
    return Array(key="", type=kind, count=len(values), byte_order="<", body=memoryview(body))


def header(
    arch: str | None,
    changes: Mapping[str, Any] | None = None,
    tensors: Sequence[tuple[str, tuple[int, ...]]] = (EMBEDDING, OUTPUT),
    general: Mapping[str, Any] | None = None,
) -> Header:
    """A header with `KEYS` and `changes` (None takes a key away) under `arch`, and f32 `tensors`."""
    pairs = {f"{arch}.{k}": v for k, v in {**KEYS, **(changes or {})}.items() if v is not None}
    pairs |= {"general.architecture": arch} if arch is not None else {}
    pairs |= general or {}
    metadata = {k: array(v) if isinstance(v, list) else v for k, v in pairs.items()}
    infos = tuple(TensorInfo(name, shape, BY_NAME["f32"], 0) for name, shape in tensors)
    return Header(3, "<", 32, metadata, {}, infos, 0, 0, 0, name="file.gguf")


def model(arch: str, changes: Mapping[str, Any] | None = None, **more: Any) -> Model:
    rules = TABLE[arch]
    base: dict[str, Any] = {}
    n_head_kv = 2 if rules.mla is Mla.NEVER else 1  # latent attention keeps one head
    if rules.recurrent in (Recurrent.HEADLESS, Recurrent.IDLE):
        base = {**HEADLESS, "attention.head_count_kv": [0, 0, 0, n_head_kv] * 2}
    elif rules.mla is not Mla.NEVER:
        base = {"attention.head_count_kv": n_head_kv}
    if rules.recurrent is Recurrent.IDLE:
        base |= {"feed_forward_length": 0}
    return describe(header(arch, {**base, **(changes or {})}, **more))


def kinds(layer: Layer) -> list[str]:
    return [cache.kind for cache in layer.caches]


def windowed(found: Model) -> str:
    """One letter a layer: w for a window, f for the full context, - for no cache."""
    letters = {Cells.WINDOW: "w", Cells.FULL: "f", Cells.COMPRESSED: "c"}
    return "".join(letters[layer.caches[0].cells] if layer.caches else "-" for layer in found.layers)


def recurrent(found: Model) -> str:
    return "".join("r" if layer.states else "-" for layer in found.layers)


# --- the table -------------------------------------------------------------------------------


def test_there_are_153_names_and_two_are_no_models() -> None:
    assert len(NAMES) == 153
    assert set(NAMES) == set(TABLE) | set(NOT_MODELS)
    assert sorted(NOT_MODELS) == ["clip", "gptj"]


@pytest.mark.parametrize("arch", sorted(TABLE))
def test_every_architecture_describes_a_small_header(arch: str) -> None:
    """A header with the keys that an architecture wants becomes a model with all its layers."""
    output = TABLE[arch].output.value in ("tied", "own", "optional", "embeds")
    found = model(arch, tensors=(EMBEDDING, OUTPUT) if output else (EMBEDDING,))
    extra = 1 if arch == "graniteswitch" else 0
    assert found.n_layer == N_LAYER + extra
    assert found.architecture == arch
    assert found.unknown_tensors == ()
    assert found.n_vocab == 100
    keeps = any(layer.caches or layer.states for layer in found.layers)
    assert keeps is (found.has_cache and arch != "gemma4-assistant")


@pytest.mark.parametrize("arch", sorted(NOT_MODELS))
def test_what_is_no_text_model_says_so(arch: str) -> None:
    with pytest.raises(ModelError, match=f"file.gguf: architecture '{arch}'"):
        describe(header(arch))


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(UnknownArchitecture, match=r"file.gguf: architecture 'qwen33' .* qwen3.*--assume"):
        describe(header("qwen33"))


def test_a_missing_name_and_a_wrong_one_are_errors() -> None:
    with pytest.raises(UnknownArchitecture, match=r"general\.architecture is missing"):
        describe(header(None))
    with pytest.raises(ModelError, match=r"general\.architecture = 7"):
        describe(header("llama", general={"general.architecture": 7}))


def test_assume_reads_the_files_own_keys_and_is_recorded() -> None:
    found = describe(header("foo"), assume="llama")
    assert (found.architecture, found.assumed, found.n_layer) == ("llama", "llama", N_LAYER)
    assert found.hparams["block_count"] == N_LAYER


def test_assume_falls_back_on_the_assumed_prefix() -> None:
    found = describe(header("llama", general={"general.architecture": "foo"}), assume="llama")
    assert (found.n_layer, found.assumed) == (N_LAYER, "llama")


def test_assuming_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownArchitecture, match=r"assumed architecture 'lama'.*llama"):
        describe(header("llama"), assume="lama")


def test_an_adapter_is_no_model() -> None:
    with pytest.raises(ModelError, match=r"general\.type = 'adapter'"):
        describe(header("llama", general={"general.type": "adapter"}))


def test_the_parts_of_a_split_file_make_one_model() -> None:
    parts = [header("llama", tensors=(EMBEDDING,)), header("llama", tensors=(OUTPUT,))]
    assert [t.name for t in describe(parts).tensors] == [EMBEDDING[0], OUTPUT[0]]
    with pytest.raises(ModelError, match="no header"):
        describe([])


# --- caches ----------------------------------------------------------------------------------


def test_a_plain_layer_keeps_k_and_v_of_its_kv_heads() -> None:
    layer = model("llama").layers[3]
    (cache,) = layer.caches
    assert (cache.kind, cache.k_width, cache.v_width, cache.cells) == ("kv", 32, 16, Cells.FULL)
    assert (layer.head_k, layer.head_v, layer.n_head, layer.n_head_kv, layer.n_ff) == (16, 8, 4, 2, 128)


def test_head_sizes_default_to_a_share_of_the_width() -> None:
    layer = model("llama", {"attention.key_length": None, "attention.value_length": None}).layers[0]
    assert (layer.head_k, layer.head_v) == (16, 16)


def test_kv_heads_default_to_heads_and_may_differ_by_layer() -> None:
    heads = [4, 0, 2, 1, 4, 4, 4, 4]
    found = model("deci", {"attention.head_count_kv": heads})
    assert [layer.caches[0].k_width for layer in found.layers] == [16 * n for n in heads]
    assert found.v_width_max == 4 * 8
    assert model("llama", {"attention.head_count_kv": None}).layers[0].n_head_kv == 4


@pytest.mark.parametrize(
    ("arch", "changes", "expected"),
    [
        ("gemma2", {}, "wwwfwwwf"),  # the pattern of the header wins
        ("gemma2", {"attention.sliding_window_pattern": None}, "wfwfwfwf"),
        ("gemma2", {"attention.sliding_window_pattern": 3}, "wwfwwfww"),
        ("gemma2", {"attention.sliding_window_pattern": 0}, "wwwwwwww"),
        ("gemma2", {"attention.sliding_window_pattern": [1, 0, 1]}, "wfwfffff"),
        ("gemma3", {"attention.sliding_window_pattern": None}, "wwwwwfww"),
        ("gemma3", {"attention.sliding_window": 0}, "ffffffff"),
        ("gemma3", {"attention.sliding_window": None}, "ffffffff"),
        ("laguna", {"attention.sliding_window_pattern": None}, "fwwwfwww"),
        ("llama4", {"attention.sliding_window": 0}, "ffffffff"),
        ("phi3", {}, "ffffffff"),
        ("exaone4", {}, "ffffffff"),
        ("cohere2moe", {"attention.sliding_window_pattern": None, "nextn_predict_layers": 1}, "fwwwfww-"),
        ("dflash", {"attention.sliding_window": 0}, "ffffffff"),
        ("dflash", {"hyper_connection.count": 4, "attention.sliding_window_pattern": None}, "wwwwwwww"),
        ("lfm2", {"attention.sliding_window": 64}, "---w---w"),
        ("lfm2", {"attention.sliding_window": 0}, "---f---f"),
    ],
)
def test_which_layers_see_a_window(arch: str, changes: dict[str, Any], expected: str) -> None:
    assert windowed(model(arch, changes)) == expected


@pytest.mark.parametrize(
    ("arch", "given", "expected"),
    [
        ("gemma2", None, 4096),
        ("gemma2", 100, 100),
        ("llama4", None, 8192),
        ("llama4", 100, 8192),
        ("smallthinker", 100, 4096),
    ],
)
def test_how_wide_the_window_is(arch: str, given: int | None, expected: int) -> None:
    assert model(arch, {"attention.sliding_window": given}).layers[0].caches[0].window == expected


def test_exaone4_has_a_window_at_64_layers_only() -> None:
    changes = {"block_count": 64, "attention.sliding_window": None, "attention.sliding_window_pattern": None}
    found = model("exaone4", changes)
    assert windowed(found) == "wwwf" * 16
    assert found.layers[0].caches[0].window == 4096


def test_windowed_layers_can_have_head_sizes_of_their_own() -> None:
    found = model("mimo2", {"attention.key_length_swa": 32, "attention.value_length_swa": 64})
    assert [(layer.head_k, layer.head_v) for layer in found.layers[2:4]] == [(32, 64), (16, 8)]
    assert found.v_width_max == 2 * 64


def test_gemma3n_shares_the_caches_of_its_first_twenty_layers() -> None:
    changes = {"block_count": 30, "attention.sliding_window_pattern": None}
    found = model("gemma3n", changes, tensors=(EMBEDDING,))
    assert windowed(found) == "wwwwf" * 4 + "-" * 10
    assert [layer.shares_kv_with for layer in found.layers[19:25]] == [None, 18, 18, 18, 18, 19]


def test_gemma4_shares_as_many_as_the_header_says() -> None:
    changes = {"attention.shared_kv_layers": 4, "attention.sliding_window_pattern": [1, 1, 1, 0] * 2}
    found = model("gemma4", changes, tensors=(EMBEDDING,))
    assert [layer.shares_kv_with for layer in found.layers] == [None] * 4 + [2, 2, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention.shared_kv_layers": 7}, "leaves 1 of 8 layers"),
        ({"attention.shared_kv_layers": 5}, "share the cache of layer"),
        ({"attention.sliding_window_pattern": None}, "is missing or no array"),
        ({"attention.sliding_window_pattern": [0] * 8}, "no layer with a window"),
        ({"attention.key_length_swa": None}, "key_length_swa is missing"),
    ],
)
def test_gemma4_refuses_what_the_engine_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model("gemma4", changes, tensors=(EMBEDDING,))


def test_latent_attention_keeps_one_row_of_keys_and_no_values() -> None:
    found = model("deepseek2", {"attention.head_count_kv": 1, "attention.key_length": 576})
    (cache,) = found.layers[0].caches
    assert (cache.k_width, cache.v_width, cache.has_v) == (576, 0, False)
    assert found.is_mla
    assert found.same_kv_type


def test_without_the_decompressed_sizes_deepseek2_keeps_k_and_v() -> None:
    changes = {"attention.key_length_mla": None, "attention.value_length_mla": None}
    found = model("deepseek2", changes)
    assert found.layers[0].caches[0].has_v
    assert not found.is_mla
    with pytest.raises(ModelError, match="key_length_mla is missing"):
        model("kimi-k3", changes)


def test_sparse_attention_keeps_index_keys_on_the_layers_that_own_an_indexer() -> None:
    for arch, layers in (("deepseek32", range(8)), ("glm-dsa", (0, 4)), ("dots3note", (0, 4))):
        found = model(arch)
        owners = [layer.index for layer in found.layers if "indexer" in kinds(layer)]
        assert owners == list(layers), arch
        index = found.layers[0].caches[1]
        # a windowed layer's index keys are as wide as its own keys
        assert (index.k_width, index.has_v) == (16 if arch == "dots3note" else 6, False)


def test_glm_5_2_has_its_own_default_of_indexers() -> None:
    changes = {"attention.indexer.types": None, "context_length": 1 << 20}
    owners = [layer.index for layer in model("glm-dsa", changes).layers if "indexer" in kinds(layer)]
    assert owners == [0, 1, 2, 6]
    earlier = model("glm-dsa", {"attention.indexer.types": None})
    assert all("indexer" in kinds(layer) for layer in earlier.layers)


def test_hy_v4_keeps_index_keys_only_with_a_top_k() -> None:
    assert all(kinds(layer) == ["kv"] for layer in model("hy_v4").layers)
    with_indexer = model("hy_v4", {"attention.indexer.top_k": 8})
    assert [len(layer.caches) for layer in with_indexer.layers] == [2, 1, 1, 1, 2, 1, 1, 1]


def test_minimax_m3_keeps_values_beside_its_index_keys() -> None:
    found = model("minimax-m3", {"leading_dense_block_count": 3})
    assert [len(layer.caches) for layer in found.layers] == [1] * 3 + [2] * 5
    index = found.layers[3].caches[1]
    assert (index.k_width, index.v_width, index.has_v) == (6, 8, True)


def test_glm5_next_keeps_key_gate_and_pooled_key() -> None:
    found = model("glm5-next", {"attention.indexer.kpool": 4, "attention.indexer.types": None})
    assert found.layers[3].caches[1].k_width == 18
    assert found.layers[3].head_v == 12


def test_deepseek4_keeps_a_window_and_compressed_keys() -> None:
    found = model("deepseek4", {"nextn_predict_layers": 1})
    assert [kinds(layer) for layer in found.layers[:3]] == [["kv"], ["kv", "csa", "indexer"], ["kv", "hca"]]
    assert [cache.cells.value for cache in found.layers[1].caches] == ["window", "compressed", "compressed"]
    assert [cache.k_width for cache in found.layers[1].caches] == [32, 32, 6]
    assert all(cache.always_split and not cache.has_v for layer in found.layers for cache in layer.caches)
    assert found.layers[1].states == (4 * 2 * 2 * 16,) * 2 + (4 * 2 * 2 * 6,) * 2
    assert found.layers[2].states == (128 * 16,) * 2
    assert found.same_kv_type
    assert not any(layer.is_nextn for layer in found.layers)  # the file has no such block


def test_a_layer_without_heads_or_with_too_few_ratios_is_an_error() -> None:
    with pytest.raises(ModelError, match="compress_ratios is missing or has fewer"):
        model("deepseek4", {"attention.compress_ratios": [0, 4]})
    with pytest.raises(ModelError, match="head_count gives the keys of layer 0 no width"):
        model("llama", {"attention.head_count": None, "attention.head_count_kv": 2})


# --- recurrent states ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "states"),
    [
        ("mamba", (3 * 128, 10 * 128)),
        ("mamba2", (3 * (128 + 2 * 2 * 10), 10 * 128)),
        ("jamba", (3 * 128, 10 * 128)),
        ("qwen3next", (3 * (128 + 2 * 2 * 10), 10 * 128)),
        ("rwkv6", (2 * 64, 32 * 64)),
        ("lfm2", (2 * 64, 0)),
        ("kimi-linear", (3 * 3 * 4 * 5, 5 * 5 * 4)),
        ("minimax-01", (0, 16 * 16 * 4)),
    ],
)
def test_the_size_of_a_recurrent_state(arch: str, states: tuple[int, int]) -> None:
    assert model(arch).layers[0].states == states


def test_token_shift_and_kernel_have_their_defaults() -> None:
    assert model("rwkv7", {"token_shift_count": 1}).layers[0].states[0] == 64
    assert model("kimi-linear", {"ssm.conv_kernel": 0}).layers[0].states[0] == 3 * 3 * 4 * 5


@pytest.mark.parametrize(
    ("arch", "changes", "states", "caches"),
    [
        ("mamba", {}, "rrrrrrrr", "--------"),
        ("jamba", {}, "rrr-rrr-", "---f---f"),
        ("falcon-h1", {}, "rrrrrrrr", "ffffffff"),
        ("qwen3next", {}, "rrr-rrr-", "---f---f"),
        ("qwen3next", {"full_attention_interval": 2}, "r-r-r-r-", "-f-f-f-f"),
        ("qwen3next", {"attention.recurrent_layers": [1, 1] + [0] * 6}, "rr------", "--ffffff"),
        ("qwen3next", {"nextn_predict_layers": 1}, "rrr-rrr-", "---f----"),
        ("minimax-01", {}, "rrrrrrr-", "-------f"),
        ("bailingmoe3", {"nextn_predict_layers": 1}, "rrr-rrr-", "---f---f"),
        ("nemotron_h", {"feed_forward_length": [0, 9, 0, 0, 0, 9, 0, 9]}, "r-r-r-r-", "---f----"),
    ],
)
def test_which_layers_are_recurrent(arch: str, changes: dict[str, Any], states: str, caches: str) -> None:
    found = model(arch, changes)
    assert (recurrent(found), windowed(found)) == (states, caches)


def test_the_history_of_n_gram_embeddings_is_a_third_state() -> None:
    keys = {"ple.layers": [1], "ple.conv_kernel": 3, "ple.ngram_size": 2, "hyper_connection.count": 4}
    found = model("qwen4exp", keys)
    assert [len(layer.states) for layer in found.layers[:4]] == [2, 3, 2, 0]
    assert found.layers[1].states[2] == 2 * 2 * 4 * 64


# --- layers that are more or fewer than the blocks of the file ---------------------------------


def test_next_token_prediction_blocks_have_no_cache_in_the_main_context() -> None:
    found = model("glm4moe", {"nextn_predict_layers": 2})
    assert [layer.is_nextn for layer in found.layers] == [False] * 6 + [True] * 2
    assert windowed(found) == "ffffff--"
    assert found.n_layer == 8


def test_a_looped_model_has_a_cache_for_every_pass() -> None:
    found = model("nanbeige", {"num_loops": 3})
    assert found.n_layer == 24
    assert windowed(found) == "f" * 24
    assert [x.block for x in found.layers] == [None] * 8 + [*range(8)] * 2


def test_a_later_pass_has_scales_of_its_own_and_no_weights() -> None:
    own = [("blk.8.attn_q.scale", (1,)), ("blk.8.attn_norm.weight", (64,)), ("blk.24.attn_q.scale", (1,))]
    found = model("nanbeige", {"num_loops": 3}, tensors=(EMBEDDING, OUTPUT, *own))
    assert [x.tensor.name for x in found.weights if x.tensor.name.startswith("blk.")] == [
        "blk.8.attn_q.scale"
    ]


def test_stacks_run_their_blocks_in_turns() -> None:
    changes = {"block_count": 6, "hrm.layers_per_stack": 1, "hrm.l_cycles": 2}
    assert [x.block for x in model("hrm_text", changes).layers] == [0, 0, 1, 0, 0, 1]
    assert [x.block for x in model("hrm_text").layers] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_graniteswitch_routes_with_one_more_layer_of_one_head() -> None:
    router = model("graniteswitch").layers[-1]
    assert (router.index, router.n_head_kv, router.caches[0].k_width, router.is_nextn) == (8, 1, 16, False)


def test_encoders_have_no_memory_and_diffusion_models_look_ahead() -> None:
    bert = model("bert", {"attention.causal": False}, tensors=(EMBEDDING,))
    assert (bert.has_cache, bert.is_causal) == (False, False)
    dream = model("dream")
    assert (dream.has_cache, dream.is_causal) == (False, False)
    assert model("t5").is_encoder
    assert model("grok").flash_attn is False


# --- weights ---------------------------------------------------------------------------------


def weights_of(found: Model, name: str) -> list[Weight]:
    return [w for w in found.weights if w.tensor.name == name]


def test_where_tensors_live() -> None:
    """The name alone decides between input, output and layer."""
    homes = {
        "token_embd.weight": Home.INPUT,
        "per_layer_token_embd.weight": Home.INPUT,
        "token_types.weight": Home.INPUT,
        "output.weight": Home.OUTPUT,
        "output_norm.bias": Home.OUTPUT,
        "cls.output.weight": Home.OUTPUT,
        "token_embd_norm.weight": 0,
        "per_layer_model_proj.weight": 0,
        "blk.17.attn_q.weight": 17,
        "blk.3.ffn_down_exps.scale": 3,
        "blk.3.ssm_a": 3,
        "enc.blk.2.attn_rel_b.weight": 2,
        "posnet.4.conv1.weight": 4,
    }
    for name, home in homes.items():
        parsed = parse_name(name)
        assert parsed is not None, name
        assert parsed.home == home, name
    for name in (
        "blk.0.attn_magic.weight",
        "v.blk.0.attn_q.weight",
        "blk.01.attn_q.weight",
        "blk.x.attn_q.weight",
        "",
    ):
        assert parse_name(name) is None, name


def test_a_tied_embedding_is_created_again_for_the_output() -> None:
    found = model("llama", tensors=(EMBEDDING,))
    assert [(w.home, w.duplicate) for w in found.weights] == [(Home.INPUT, False), (Home.OUTPUT, True)]
    own = model("llama")
    assert [(w.home, w.duplicate) for w in own.weights] == [(Home.INPUT, False), (Home.OUTPUT, False)]


def test_gemma4_creates_the_output_first_so_that_the_host_holds_it_twice() -> None:
    found = model("gemma4", tensors=(EMBEDDING,))
    assert [(w.home, w.duplicate) for w in found.weights] == [(Home.OUTPUT, True), (Home.INPUT, False)]


def test_an_output_that_is_always_tied_may_not_be_in_the_file() -> None:
    found = model("gemma2")
    assert found.unknown_tensors == ("output.weight",)
    assert [w.home for w in found.weights] == [Home.INPUT, Home.OUTPUT]


def test_bitnet_has_no_output_matrix() -> None:
    assert [w.home for w in model("bitnet", tensors=(EMBEDDING,)).weights] == [Home.INPUT]


def test_codeshell_embeds_with_its_output_when_it_must() -> None:
    found = model("codeshell", tensors=(OUTPUT,))
    assert [(w.home, w.duplicate) for w in found.weights] == [(Home.OUTPUT, True), (Home.OUTPUT, False)]


def test_missing_embeddings_are_errors_but_for_drafts() -> None:
    with pytest.raises(ModelError, match=r"file.gguf: tensor 'token_embd.weight' is missing"):
        model("llama", tensors=(OUTPUT,))
    with pytest.raises(ModelError, match=r"tensor 'output.weight' is missing"):
        model("baichuan", tensors=(EMBEDDING,))
    with pytest.raises(ModelError, match=r"tensor 'output.weight' is missing"):
        model("codeshell", tensors=(EMBEDDING,))
    assert model("eagle3", tensors=()).weights == ()


def test_rope_factors_are_created_by_every_layer_that_uses_them() -> None:
    factors = ("rope_freqs.weight", (8,))
    found = weights_of(model("llama", tensors=(EMBEDDING, factors)), factors[0])
    assert [(w.home, w.duplicate) for w in found] == [(il, il > 0) for il in range(8)]
    dense = weights_of(model("gemma4", tensors=(EMBEDDING, factors)), factors[0])
    assert [w.home for w in dense] == [3, 7]
    assert model("qwen2", tensors=(EMBEDDING, factors)).unknown_tensors == (factors[0],)


def test_next_token_prediction_blocks_are_not_loaded() -> None:
    names = [
        "blk.6.attn_q.weight",
        "blk.7.attn_q.weight",
        "blk.7.nextn.eh_proj.weight",
        "blk.7.ffn_up.weight",
    ]
    tensors = (EMBEDDING, OUTPUT, *((name, (64, 128 if "ffn" in name else 64)) for name in names))
    skipped = model("glm4moe", {"nextn_predict_layers": 1}, tensors=tensors)
    assert [w.home for w in skipped.weights if isinstance(w.home, int)] == [6]
    assert skipped.unknown_tensors == ()
    kept = model("step35", {"nextn_predict_layers": 1}, tensors=tensors)
    assert [w.tensor.name for w in kept.weights if w.home == 7] == ["blk.7.ffn_up.weight"]
    stranger = model("llama", {"nextn_predict_layers": 1}, tensors=tensors)
    assert stranger.unknown_tensors == tuple(names[1:])


def test_the_bias_of_experts_is_loaded_even_of_a_block_that_is_not() -> None:
    """models/glm-dsa.cpp and deepseek32.cpp create it without the flag that skips."""
    tensors = (EMBEDDING, ("blk.7.attn_q.weight", (64, 64)), ("blk.7.exp_probs_b.bias", (4,)))
    for name in ("glm-dsa", "deepseek32"):
        changes = {"nextn_predict_layers": 1, "attention.indexer.types": 1}
        found = model(name, changes, tensors=tensors)
        assert [w.tensor.name for w in found.weights if w.home == 7] == ["blk.7.exp_probs_b.bias"], name


def test_two_tensors_of_one_name_are_tested_with_their_own_operations() -> None:
    """DeepSeek V4 reads rows of it, GLM 5 Next adds it (llama-arch.cpp:972-975)."""
    tensors = (EMBEDDING, OUTPUT, ("blk.0.indexer_compressor_ape.weight", (64, 4)))
    ops = {
        name: weights_of(model(name, tensors=tensors), tensors[2][0])[0].op
        for name in ("deepseek4", "glm5-next")
    }
    assert ops == {"deepseek4": "GET_ROWS", "glm5-next": "ADD"}


def test_tensors_that_the_engine_would_not_ask_for_are_named() -> None:
    tensors = (EMBEDDING, ("blk.0.magic.weight", (4,)), ("blk.8.attn_q.weight", (4,)))
    assert model("llama", tensors=tensors).unknown_tensors == ("blk.0.magic.weight", "blk.8.attn_q.weight")


def test_unused_tensors_are_known_and_not_created() -> None:
    found = model("t5", tensors=(EMBEDDING, ("dec.blk.0.cross_attn_rel_b.weight", (4, 4))))
    assert found.unknown_tensors == ()
    assert len(found.weights) == 2


def test_the_embedding_norm_of_lfm2_is_its_output_norm() -> None:
    tensors = (EMBEDDING, ("token_embd_norm.weight", (64,)))
    assert model("lfm2", tensors=tensors).weights[1].home is Home.OUTPUT
    assert model("bloom", tensors=tensors).weights[1].home == 0


def test_huge_per_layer_embeddings_are_read_on_demand() -> None:
    for n_rows, lazy in ((1 << 20, False), ((1 << 20) + 1, True)):
        tensors = (EMBEDDING, ("per_layer_token_embd.weight", (1024, n_rows)))
        (weight,) = weights_of(model("gemma4", tensors=tensors), "per_layer_token_embd.weight")
        assert weight.lazy is lazy


# --- identity --------------------------------------------------------------------------------


def test_name_file_type_and_trained_context() -> None:
    found = model("llama", general={"general.name": "Small", "general.file_type": 15 + 1024})
    assert (found.name, found.file_type, found.n_ctx_train, found.n_embd) == ("Small", "Q4_K_M", 4096, 64)
    odd = model("llama", general={"general.name": 3, "general.file_type": 999})
    assert (odd.name, odd.file_type) == ("", "")
    assert model("llama", general={"general.file_type": True}).file_type == ""


def test_the_tokenizer_counts_before_the_vocab_size() -> None:
    tokens = array([f"t{i}" for i in range(100)], "str")
    assert model("llama", {"vocab_size": 7}, general={"tokenizer.ggml.tokens": tokens}).n_vocab == 100
    general = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.model": "no_vocab"}
    with pytest.raises(ModelError, match="gives 7 tokens, the embedding has 100"):
        model("llama", {"vocab_size": 7}, general=general)
    assert model("llama", {"vocab_size": None}).n_vocab == 100


@pytest.mark.parametrize(
    ("keys", "scaling", "factor"),
    [
        ({}, "none", 1.0),
        ({"rope.scaling.factor": 0.0}, "none", 1.0),
        ({"rope.scaling.factor": 4.0}, "linear", 4.0),
        ({"rope.scale_linear": 2.0}, "linear", 2.0),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "yarn", 4.0),
        ({"rope.scaling.type": "longrope"}, "longrope", 4.0),
    ],
)
def test_rope_scaling(keys: dict[str, Any], scaling: str, factor: float) -> None:
    rope = model("llama", {**keys, "rope.scaling.original_context_length": 1024}).rope
    assert (rope.scaling, rope.factor, rope.original_context) == (scaling, factor, 1024)


def test_long_factors_stretch_the_original_context() -> None:
    tensors = (EMBEDDING, ("rope_factors_long.weight", (8,)), ("rope_factors_short.weight", (8,)))
    rope = model("phi3", {"rope.scaling.original_context_length": 1024}, tensors=tensors).rope
    assert (rope.scaling, rope.factor, rope.original_context) == ("longrope", 4.0, 1024)
    assert model("phi3", tensors=tensors).rope.factor == 1.0


def test_the_width_of_wavtokenizer_is_its_features_length() -> None:
    assert model("wavtokenizer-dec").n_embd == 48


def test_heads_of_indexers_are_those_of_the_header() -> None:
    """None without the key; a value of another type is none that the engine would read."""
    key = "attention.indexer.head_count"
    assert [model("llama", {key: n} if n else {}).n_head_indexer for n in (None, 7, "x")] == [0, 7, 0]


def test_hparams_keep_short_arrays_and_leave_long_ones() -> None:
    found = model("llama", {"some.array": [1, 2], "long.array": [0] * 1025})
    assert found.hparams["some.array"] == (1, 2)
    assert found.hparams["attention.head_count"] == 4
    assert "long.array" not in found.hparams


def test_what_a_model_keeps_of_its_header_travels() -> None:
    """The same after pickling; numbers, cut strings and arrays; equal to a plain mapping."""
    found = model("llama", {"some.array": [1, 2], "other.array": ["a", "b"], "long": "x" * 5000}).hparams
    again = pickle.loads(pickle.dumps(found))
    assert again == found == dict(found)
    assert (again["some.array"], again["other.array"], again["long"]) == ((1, 2), ("a", "b"), "x" * 1024)
    assert again["some.array"] is again["some.array"]
    assert len(again) == len(list(again))


# --- what cannot be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": None}, r"file.gguf: llama.block_count is missing"),
        ({"block_count": 0}, "block_count = 0 is not between 1 and 512"),
        ({"block_count": 513}, "block_count = 513 is not between"),
        ({"block_count": "many"}, "block_count = 'many' is not a whole number"),
        ({"block_count": True}, "block_count = True is not a whole number"),
        ({"block_count": -1}, "= -1 is not between 0"),
        ({"block_count": 1 << 40}, "is not between 0"),
        ({"nextn_predict_layers": 9}, "nextn_predict_layers = 9 is more"),
        ({"context_length": None}, "context_length is missing"),
        ({"embedding_length": None}, "embedding_length is missing"),
        ({"embedding_length": 0}, "embedding_length = 0"),
        ({"attention.head_count": [4] * 7}, "head_count has 7 elements where 8"),
        ({"attention.head_count_kv": [2] * 513}, "has 513 elements"),
        ({"attention.head_count_kv": [-1] * 8}, "head_count_kv = -1"),
        ({"attention.key_length": 16.0}, "key_length = 16.0 is not a whole number"),
        ({"attention.key_length": 1 << 31}, "more than the engine counts"),
        ({"attention.causal": 1}, "causal = 1 is not a truth value"),
        ({"expert_count": 1025, "expert_used_count": 2}, "at most 1024"),
        ({"expert_count": 4, "expert_used_count": 5}, "= 5 is more than expert_count = 4"),
        ({"expert_count": 4}, "expert_used_count is missing or 0"),
        (
            {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 8},
            "= 8 is not below expert_count",
        ),
        ({"expert_group_count": 1}, "expert_group_count = 1 is not below expert_count = 0"),
        ({"expert_count": 8, "expert_used_count": 2, "expert_group_count": 3}, "= 3 does not divide"),
        (
            {
                "expert_count": 8,
                "expert_used_count": 2,
                "expert_group_count": 4,
                "expert_group_used_count": 4,
            },
            "expert_group_used_count = 4 is not between 1",
        ),
        ({"attention.head_count_kv": 0}, r"head_count_kv = 0 \(layer 0\) leaves an attention without keys"),
        ({"attention.head_count_kv": [2, 2, 0, 2, 2, 2, 2, 2]}, r"head_count_kv = 0 \(layer 2\)"),
        ({"attention.head_count_kv": 3}, "head_count_kv = 3 .* does not divide attention.head_count = 4"),
        ({"attention.head_count_kv": 8}, "head_count_kv = 8 .* does not divide attention.head_count = 4"),
        ({"attention.head_count": [4, 0, 4, 4, 4, 4, 4, 4]}, r"\(layer 1\) does not divide .* = 0"),
        ({"rope.dimension_count": 8}, "rope.dimension_count = 8 is not attention.key_length = 16"),
        ({"rope.scaling.type": "magic"}, "'magic' is none of"),
        ({"rope.scaling.type": 1}, "type = 1 is not a string"),
        ({"rope.scaling.factor": "x"}, "factor = 'x' is not a finite number"),
        ({"rope.scaling.factor": float("nan")}, "is not a finite number"),
    ],
)
def test_impossible_metadata_names_file_key_and_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model("llama", changes)


@pytest.mark.parametrize(
    ("arch", "changes", "message"),
    [
        ("mamba", {"ssm.inner_size": None}, "ssm.inner_size is missing"),
        ("mamba", {"ssm.inner_size": 1 << 31}, "more than the engine counts"),
        ("qwen3next", {"full_attention_interval": 0}, "= 0 is not an interval"),
        ("nanbeige", {"num_loops": 0}, "num_loops = 0 makes 0 layers"),
        ("nanbeige", {"num_loops": 65}, "makes 520 layers"),
        ("hrm_text", {"hrm.l_cycles": 0}, "block_count = 8 is not 2 turns of 0"),
        ("hrm_text", {"hrm.h_cycles": 3}, "block_count = 8 is not 3 turns of 1"),
        ("graniteswitch", {"block_count": 512}, "leaves no room"),
        ("gemma2", {"attention.sliding_window_pattern": 1}, "no layer with a window"),
        ("dots3note", {"attention.indexer.types": None}, "indexer.types is missing"),
        ("cohere2", {"attention.sliding_window": None}, "sliding_window is missing"),
        (
            "deepseek2",
            {"attention.head_count_kv": 4},
            "head_count_kv = 4 .*: latent attention keeps one head",
        ),
    ],
)
def test_impossible_metadata_of_one_architecture(arch: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model(
            arch,
            changes,
            tensors=(EMBEDDING,) if TABLE[arch].output.value == "always tied" else (EMBEDDING, OUTPUT),
        )


LAYER_SHAPES = {
    "attn_norm": (64,), "ffn_norm": (64,), "attn_q": (64, 64), "attn_k": (64, 32), "attn_v": (64, 16),
    "attn_output": (32, 64), "ffn_up": (64, 128), "ffn_gate": (64, 128), "ffn_down": (128, 64),
    "ffn_gate_inp": (64, 6), "ffn_up_exps": (64, 9, 6), "ffn_gate_exps": (64, 9, 6), "ffn_down_exps": (9, 64, 6),
}  # fmt: skip
WITH_EXPERTS = {"expert_count": 6, "expert_used_count": 2}


def layer_tensors(changes: Mapping[str, tuple[int, ...]] | None = None) -> list[tuple[str, tuple[int, ...]]]:
    shapes = {**LAYER_SHAPES, **(changes or {})}
    return [EMBEDDING, OUTPUT, *((f"blk.3.{name}.weight", shape) for name, shape in shapes.items())]


@pytest.mark.parametrize("name", LAYER_SHAPES)
def test_tensors_that_contradict_the_keys_are_refused(name: str) -> None:
    """One tensor with a wrong extent, and the key that says otherwise is named with its value."""
    assert model("llama", WITH_EXPERTS, tensors=layer_tensors()).unknown_tensors == ()
    shape = list(LAYER_SHAPES[name])
    shape[-1] += 1
    with pytest.raises(
        ModelError, match=rf"^file.gguf: llama\.\w.* = \d+.* want \d+ .*'blk.3.{name}.weight'"
    ):
        model("llama", WITH_EXPERTS, tensors=layer_tensors({name: tuple(shape)}))


def test_tensors_are_held_against_the_keys_of_their_layer() -> None:
    """Heads by layer, fused queries, keys and values, gated feed-forward, widths outside layers."""
    fused = (EMBEDDING, ("blk.0.attn_qkv.weight", (64, 64 + 32 + 16)), ("blk.0.ffn_up.weight", (64, 256)))
    assert model("llama", tensors=fused).n_layer == N_LAYER
    heads = {"attention.head_count_kv": [2, 2, 2, 4, 2, 2, 2, 2]}
    four = layer_tensors({"attn_k": (64, 64), "attn_v": (64, 32)})
    assert model("llama", WITH_EXPERTS | heads, tensors=four).n_layer == N_LAYER
    for tensors in (
        four,
        (EMBEDDING, ("blk.0.attn_qkv.weight", (64, 64))),
        (EMBEDDING, ("output_norm.weight", (9,))),
    ):
        with pytest.raises(ModelError, match=r"want .* as extent"):
            model("llama", WITH_EXPERTS, tensors=tensors)
    assert model("llama", tensors=(("token_embd.weight", (64, 100)),), general={}).n_layer == N_LAYER
    with pytest.raises(
        ModelError, match=r"embedding_length = 64 want 64 as extent 0 of tensor 'token_embd.weight'"
    ):
        model("llama", tensors=(("token_embd.weight", (63, 100)),))


def test_an_assumed_architecture_is_not_held_against_the_tensors() -> None:
    tensors = (EMBEDDING, ("blk.0.attn_q.weight", (64, 128)))
    found = describe(header("foo", tensors=tensors), assume="llama")
    assert len(found.weights) == 3


def test_layers_of_deci_may_have_no_attention() -> None:
    """No heads at all, or one matrix in place of an attention (models/deci.cpp:44-53)."""
    changes = {"attention.head_count_kv": [2, 0] * 4, "attention.head_count": [4, 0, 4, 4] * 2}
    tensors = (EMBEDDING, ("blk.3.attn_output.weight", (64, 64)))
    assert [x.n_head_kv for x in model("deci", changes, tensors=tensors).layers] == [2, 0] * 4


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("block_count", "u64"),
        ("attention.head_count", "i32"),
        ("embedding_length", "f64"),
        ("rope.freq_base", "f64"),
    ],
)
def test_types_are_those_that_the_engine_insists_on(key: str, found: str) -> None:
    """`get_key` of another type throws (llama-model-loader.cpp:165)."""
    head = header("llama", {"rope.freq_base": 10000.0})
    odd = replace(head, types={f"llama.{key}": found})
    wanted = "f32" if key == "rope.freq_base" else "u32"
    with pytest.raises(ModelError, match=f"llama.{key} is of type {found}, but must be {wanted}"):
        describe(odd)


def test_arrays_over_layers_are_of_whole_numbers() -> None:
    with pytest.raises(ModelError, match="head_count is an array of f32, but must be one of u32, i32, bool"):
        model("llama", {"attention.head_count": array([4.0] * N_LAYER, "f32")})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 600),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(width=32),
    st.text(max_size=4),
    st.lists(st.integers(-2, 130), max_size=12).map(array),
    st.lists(st.booleans(), max_size=12).map(lambda v: array(v, "bool")),
    st.lists(st.floats(width=32), max_size=9).map(lambda v: array(v, "f32")),
    st.lists(st.text(max_size=3), max_size=9).map(lambda v: array(v, "str")),
)
OTHER_KEYS = (
    "nextn_predict_layers", "expert_count", "expert_used_count", "attention.shared_kv_layers", "num_loops",
    "full_attention_interval", "attention.recurrent_layers", "attention.indexer.kpool", "token_shift_count",
    "attention.indexer.top_k", "hyper_connection.count", "ple.layers", "ple.conv_kernel", "ple.ngram_size",
    "rope.scaling.type", "rope.scaling.factor", "leading_dense_block_count", "attention.causal",
)  # fmt: skip


@given(
    arch=st.sampled_from(NAMES),
    changes=st.dictionaries(st.sampled_from([*KEYS, *OTHER_KEYS]), VALUES, max_size=4),
    names=st.lists(
        st.sampled_from(["output.weight", "rope_freqs.weight", "blk.7.attn_q.weight", "x"]), max_size=3
    ),
)
def test_any_metadata_gives_a_model_or_an_error_of_ours(
    arch: str, changes: dict[str, Any], names: list[str]
) -> None:
    """Whatever stands under the known keys, `describe` returns a model or raises a `VramfitError`."""
    tensors = (EMBEDDING, *((name, (64, 100)) for name in names))
    try:
        found = describe(header(arch, changes, tensors=tensors))
    except VramfitError as error:
        message = str(error)
    else:
        assert 1 <= found.n_layer <= 512
        assert all(layer.index == i for i, layer in enumerate(found.layers))
        message = f"file.gguf: {found.source}"
    assert message.startswith("file.gguf: ")


# --- real files ------------------------------------------------------------------------------


def test_a_file_written_by_the_reference_writer(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 1])
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor_info("token_embd.weight", [3, 64], np.dtype("float32"), 3 * 64 * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    found = describe(parse(path.read_bytes()), source="small")
    assert [layer.caches[0].k_width for layer in found.layers] == [32, 16]
    assert (found.n_vocab, found.source, found.hparams["attention.head_count_kv"]) == (3, "small", (2, 1))


def test_every_header_that_the_engine_measured_is_understood(truth: Path) -> None:
    """The engine loads them, so no tensor of theirs is unknown and nothing about them is impossible."""
    paths = sorted([*truth.glob("arch/*.gguf"), *truth.glob("models/*.gguf")])
    assert len(paths) > 100
    for path in paths:
        found = describe(parse(path.read_bytes()), source=path.name)
        assert found.unknown_tensors == (), path.name
        assert found.tensor_bytes > 0
