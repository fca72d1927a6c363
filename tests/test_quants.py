from __future__ import annotations

import gzip
import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit._base.errors import EngineRefusal, SettingsError
from vramfit._ggml.types import BY_NAME
from vramfit._gguf import parse
from vramfit._llama.arch import describe
from vramfit._llama.model import Home, Layer, Model, Tensor, Weight
from vramfit._quant import (
    FILE_TYPES,
    bits_per_weight,
    file_bytes,
    file_type,
    needs_imatrix,
    parse_tensor_types,
    recipe,
    requantize,
)

FROZEN = Path(__file__).parent / "data" / "quants" / "engine.jsonl.gz"
SHARED = Path(__file__).parents[2] / "shared" / "engine-truth"
QUANTIZED = sorted(name for name, kind in FILE_TYPES.items() if kind.base.is_quantized)
MIXED = sorted(set(QUANTIZED) - {"Q1_0"})  # those that have a type for every row


def a_model(
    tensors: list[Tensor],
    architecture: str = "llama",
    n_layer: int = 8,
    n_head: int = 0,
    n_head_kv: int = 0,
    **more: Any,
) -> Model:
    layers = tuple(Layer(i, n_head=n_head, n_head_kv=n_head_kv) for i in range(n_layer))
    weights = tuple(Weight(t, Home.INPUT) for t in tensors)
    numbers: dict[str, Any] = {"n_ctx_train": 4096, "n_embd": 512, "n_vocab": 1000} | more
    return Model(architecture, "a model", tuple(tensors), weights, layers, **numbers)


def dense(n_layer: int = 8, tied: bool = False, row: int = 512, **more: Any) -> Model:
    """A small model with every category of matrix, from a file in f16."""
    shapes = {"token_embd.weight": (row, 1000), "output_norm.weight": (row,)}
    if not tied:
        shapes["output.weight"] = (row, 1000)
    for i in range(n_layer):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            shapes[f"blk.{i}.{name}.weight"] = (row, row)
        shapes[f"blk.{i}.attn_norm.weight"] = (row,)
    kinds = {1: BY_NAME["f32"], 2: BY_NAME["f16"]}
    return a_model([Tensor(n, s, kinds[len(s)]) for n, s in shapes.items()], n_layer=n_layer, **more)


def types(model: Model) -> dict[str, str]:
    return {t.name: t.type.name for t in model.tensors}


# What the engine chose.


with gzip.open(FROZEN, "rt") as file:
    ROWS: list[dict[str, Any]] = [json.loads(line) for line in file]


def frozen_model(row: dict[str, Any]) -> Model:
    tensors = [Tensor(name, tuple(shape), BY_NAME[kind]) for name, shape, kind in row["tensors"]]
    hparams = row["hparams"]
    heads = hparams["attention.head_count"]
    heads_kv = hparams.get("attention.head_count_kv", heads)
    first = [n[0] if isinstance(n, list) else n for n in (heads, heads_kv)]
    n_expert = hparams.get("expert_count", 0)
    return a_model(tensors, row["architecture"], hparams["block_count"], *first, n_expert=n_expert)


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_every_type_is_the_engines(row: dict[str, Any]) -> None:
    model = frozen_model(row)
    for answer in row["answers"]:
        asked = answer["file_type"], answer["options"]
        if answer["types"] is None:
            with pytest.raises(EngineRefusal):
                requantize(model, asked[0], **asked[1])
            continue
        expected = [row["palette"][ord(letter) - ord("A")] for letter in answer["types"]]
        got = [t.type.name for t in requantize(model, asked[0], **asked[1]).tensors]
        wrong = {
            t.name: pair for t, *pair in zip(model.tensors, got, expected, strict=True) if pair[0] != pair[1]
        }
        assert not wrong, asked


@pytest.mark.skipif(not SHARED.exists(), reason="the measured rows are not here")
def test_types_and_totals_of_published_models_are_the_engines() -> None:
    """Whatever type the header at hand has, the answer for a file type is the same."""
    models: dict[str, list[Model]] = {}
    for path in sorted((SHARED / "models").glob("*.gguf")):
        models.setdefault(path.stem.rpartition("-")[0], []).append(describe(parse(path.read_bytes())))
    with gzip.open(SHARED / "quant-types.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        for model in models[row["model"]]:
            result = requantize(model, row["ftype"])
            assert row["types"].items() <= types(result).items(), (row["model"], row["ftype"])
            assert result.tensor_bytes == row["tensor_bytes"], (row["model"], row["ftype"])
    assert rows


def test_the_frozen_answers_cover_every_file_type_and_option() -> None:
    answers = [answer for row in ROWS for answer in row["answers"]]
    assert {a["file_type"] for a in answers} == set(FILE_TYPES) - {"COPY"}
    options = {option for a in answers for option in a["options"]}
    assert options >= {"imatrix", "pure", "tensor_types", "leave_output_tensor", "keep_split"}


# File types by name.


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("q4_k", "Q4_K_M"),
        ("Q3_K", "Q3_K_M"),
        ("Q5_k", "Q5_K_M"),
        ("15", "Q4_K_M"),
        ("0", "F32"),
        (" bf16 ", "BF16"),
    ],
)
def test_file_types_have_names_aliases_and_numbers(asked: str, name: str) -> None:
    assert file_type(asked).name == name


@pytest.mark.parametrize(("asked", "hint"), [("Q4_KM", "Q4_K_M"), ("NVFP4", "known: "), ("39", "known: ")])
def test_an_unknown_file_type_names_the_nearest(asked: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        file_type(asked)


def test_every_name_finds_itself() -> None:
    """A file type's own name and number lead back to it; only COPY shares the number of F32."""
    for name, kind in FILE_TYPES.items():
        assert file_type(name) is kind
        assert file_type(str(kind.id)).id == kind.id


# Laws.

models = st.builds(
    dense,
    n_layer=st.integers(1, 17),
    tied=st.booleans(),
    row=st.sampled_from([32, 96, 256, 512, 576, 2880]),
    n_expert=st.sampled_from([0, 4, 8, 16]),
    n_head=st.just(8),
    n_head_kv=st.sampled_from([1, 2, 4, 8]),
    architecture=st.sampled_from(["llama", "qwen2", "falcon"]),
)


@given(models, st.sampled_from(MIXED), st.booleans())
def test_quantizing_twice_changes_nothing(model: Model, name: str, imatrix: bool) -> None:
    """A file type's result is a fixed point, because the choice never looks at the source's types."""
    once = requantize(model, name, imatrix=imatrix)
    assert requantize(once, name, imatrix=imatrix) == once
    assert requantize(requantize(model, "Q8_0"), name, imatrix=imatrix) == once


@given(models, st.sampled_from(MIXED))
def test_only_types_change(model: Model, name: str) -> None:
    """Names, shapes, order, places and everything else that a model is stay."""
    result = requantize(model, name)
    assert [(t.name, t.shape) for t in result.tensors] == [(t.name, t.shape) for t in model.tensors]
    assert [w.tensor for w in result.weights] == list(result.tensors)
    assert replace(result, tensors=(), weights=(), file_type="") == replace(model, tensors=(), weights=())


@given(models, st.sampled_from(MIXED))
def test_every_row_divides_and_vectors_keep_their_type(model: Model, name: str) -> None:
    """Whatever the shape, a tensor gets a type that its rows divide by; vectors stay as they are."""
    for before, after in zip(model.tensors, requantize(model, name).tensors, strict=True):
        assert after.n_bytes == after.type.row_bytes(after.shape[0]) * prod(after.shape[1:])
        assert len(before.shape) > 1 or after.type == before.type


@given(models.filter(lambda model: model.n_expert != 8))
def test_larger_file_types_take_more_bytes(model: Model) -> None:
    """Within a family, a name that promises more bits never takes fewer bytes.

    Not so with eight experts: there Q3_K_M raises the attention output, and Q3_K_L does not.
    """
    families = (
        ("Q3_K_S", "Q3_K_M", "Q3_K_L"),
        ("Q4_K_S", "Q4_K_M"),
        ("Q5_K_S", "Q5_K_M"),
        ("Q4_K_S", "Q5_K_S", "Q6_K", "Q8_0", "BF16", "F32"),
        ("Q4_0", "Q4_1", "Q5_1", "Q8_0", "F16", "F32"),
    )
    for family in families:
        sizes = [requantize(model, name).tensor_bytes for name in family]
        assert sizes == sorted(sizes), family


@given(models, st.sampled_from(MIXED), st.sampled_from(["q8_0", "f16", "q4_0"]))
def test_an_override_wins(model: Model, name: str, kind: str) -> None:
    """A tensor that a pattern matches has the pattern's type, and the first pattern decides."""
    result = requantize(model, name, tensor_types=[("ffn_down", kind), ("ffn", "q5_1")])
    assert {t.type.name for t in result.tensors if "ffn_down" in t.name} == {kind}
    assert {t.type.name for t in result.tensors if "ffn_up" in t.name} == {"q5_1"}


@pytest.mark.parametrize("name", ["F16", "BF16", "F32"])
def test_an_unquantized_file_type_has_one_type_for_every_matrix(name: str) -> None:
    """Overrides and mixes are for quantized file types only."""
    result = requantize(dense(), name, tensor_types=[("ffn", "q8_0")])
    assert {t.type.name for t in result.tensors if len(t.shape) > 1} == {name.lower()}


def test_copying_keeps_every_type() -> None:
    model = requantize(dense(), "Q3_K_M")
    assert requantize(model, "COPY", output_tensor_type="f16") is model


# Options.


def test_the_output_and_the_embeddings_can_be_named_apart() -> None:
    found = types(requantize(dense(), "Q4_K_M", output_tensor_type="Q8_0", token_embedding_type="q6_k"))
    assert (found["output.weight"], found["token_embd.weight"]) == ("q8_0", "q6_K")


def test_tied_embeddings_follow_the_output() -> None:
    model = dense(tied=True)
    assert types(requantize(model, "Q4_K_M"))["token_embd.weight"] == "q6_K"
    assert types(requantize(model, "Q4_K_M", output_tensor_type="q8_0"))["token_embd.weight"] == "q8_0"


def test_a_weight_that_no_file_tensor_backs_is_left_alone() -> None:
    model = dense()
    lost = Weight(Tensor("made.up.weight", (512, 512), BY_NAME["f32"]), 0)
    result = requantize(replace(model, weights=(*model.weights, lost)), "Q4_K_M")
    assert result.weights[-1] == lost


def test_patterns_are_lowered_as_the_tool_lowers_them() -> None:
    assert (
        types(requantize(dense(), "Q4_K_M", tensor_types=[("ATTN_Q", "q8_0")]))["blk.0.attn_q.weight"]
        == "q8_0"
    )


def test_overrides_are_read_as_the_tool_writes_them() -> None:
    text = "attn_v=q8_0\nblk\\.[0-3]\\.ffn_down=Q6_K"
    assert parse_tensor_types(text) == (("attn_v", "q8_0"), ("blk\\.[0-3]\\.ffn_down", "Q6_K"))


@pytest.mark.parametrize("text", ["attn_v", "=q8_0", "attn_v=", "attn_v=q9_9"])
def test_malformed_overrides_are_named(text: str) -> None:
    with pytest.raises(SettingsError, match="tensor_types"):
        parse_tensor_types(text)


@given(models, st.sampled_from(MIXED), st.sampled_from(MIXED))
def test_a_recipe_carries_every_type_over(model: Model, name: str, other: str) -> None:
    """The recipe of one file makes the same types of any file type, however that would choose."""
    wanted = requantize(model, name)
    assert requantize(model, other, tensor_types=recipe(wanted)).tensors == wanted.tensors


# Refusals.


def test_a_type_that_wants_a_matrix_is_refused_without_one_unless_it_is_a_dry_run() -> None:
    wanted = needs_imatrix(requantize(dense(), "IQ3_XS"))
    assert "blk.0.attn_q.weight" in wanted
    assert "token_embd.weight" not in wanted
    with pytest.raises(EngineRefusal, match="importance matrix"):
        requantize(dense(), "IQ3_XS", dry_run=False)
    requantize(dense(), "IQ3_XS", dry_run=False, imatrix=True)
    requantize(dense(), "Q4_K_M", dry_run=False)


def test_q2_k_wants_a_matrix_only_in_its_small_file_type() -> None:
    assert not needs_imatrix(requantize(dense(), "Q2_K"))
    assert "blk.0.ffn_up.weight" in needs_imatrix(requantize(dense(), "Q2_K_S"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_tensor_type": "q9"}, "output_tensor_type"),
        ({"tensor_types": [("(", "q8_0")]}, "not a regular expression"),
        ({"tensor_types": [("ffn", "q9")]}, "tensor_types"),
    ],
)
def test_options_that_mean_nothing_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        requantize(dense(), "Q4_K_M", **options)


def test_types_that_cannot_be_written_are_refused() -> None:
    with pytest.raises(EngineRefusal, match="cannot convert"):
        requantize(dense(), "Q4_K_M", tensor_types=[("ffn", "q8_K")])
    with pytest.raises(EngineRefusal, match="not a multiple"):
        requantize(dense(row=96), "Q4_K_M", output_tensor_type="q4_K")
    with pytest.raises(EngineRefusal, match="no type to fall back to"):
        requantize(dense(row=96), "Q1_0")


def test_an_expert_outside_the_layers_is_refused() -> None:
    model = dense(n_expert=4)
    stray = Tensor("mtp.ffn_down.weight", (512, 512), BY_NAME["f16"])
    with pytest.raises(EngineRefusal, match=r"mtp\.ffn_down"):
        requantize(replace(model, tensors=(*model.tensors, stray)), "Q4_K_M")


# Sizes.


def test_a_file_pads_every_tensor_and_puts_the_header_first() -> None:
    model = a_model([Tensor("a.bias", (3,), BY_NAME["f32"]), Tensor("b.weight", (32, 2), BY_NAME["q8_0"])])
    assert file_bytes(model) == 32 + 96
    assert file_bytes(model, header_bytes=4096, alignment=64) == 4096 + 64 + 128


def test_bits_per_weight_counts_scales() -> None:
    assert bits_per_weight(a_model([Tensor("b.weight", (32, 2), BY_NAME["q8_0"])])) == 8.5
    assert bits_per_weight(a_model([])) == 0
