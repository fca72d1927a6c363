"""Adapters: their tensors lie beside the weights that they change, and their products in the graph, as in the engine."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from gguf_bytes import file, key, string, tensor

import vramfit
from vramfit._base.errors import ModelError, SettingsError
from vramfit._company import company_of
from vramfit._gguf import parse
from vramfit._graphs.unadapted import ignores_adapters, ignores_vectors
from vramfit._llama.arch import describe
from vramfit._llama.model import Model
from vramfit._llama.placement import HOST

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.adapters import GPUS_MIB, SETTINGS, adapter_bytes, changed
from tools.graphs.cases import cases, reservations
from tools.graphs.digest import FOLDER, digest, digests
from tools.graphs.ours import graph_of
from tools.graphs.record import ADAPTED, ADAPTERS

RECORDED: dict[str, dict[str, list[list[int]]]] = json.loads(
    (Path(__file__).parent / "data/company/adapters.json").read_text()
)
GRAPHS = digests(file=ADAPTERS)
EVERY_DAY = [
    "llama",
    "qwen3moe",
    "gemma3",
    "gpt-oss",
    "mamba2",
    "phi3",
    "bert",
    "qwen35",
    "granitehybrid",
    "t5",
    "deepseek2",
    "lfm2",
    "mistral4",
    "rwkv7",
    "nanbeige",
    "graniteswitch",
    "wavtokenizer-dec",
]
UNCOUNTED = "hrm_text"
GPUS = [vramfit.Gpu(f"card {i}", mib << 20, compute_capability="8.6") for i, mib in enumerate(GPUS_MIB)]


@cache
def model_of(name: str) -> Model:
    header = gzip.decompress((ROOT / f"tests/data/builders/{name}.gguf.gz").read_bytes())
    return describe(parse(header, name=name), source=name)


def vector(n_embd: int, layers: int = 2, type_id: int = 0) -> bytes:
    step = -(-(2 if type_id else 4) * n_embd // 32) * 32
    return file([], [tensor(f"direction.{i + 1}", (n_embd,), type_id, step * i) for i in range(layers)])


def with_adapters(model: Model, kind: str) -> Model:
    if kind == "lora":
        return vramfit.accompany(model, lora=adapter_bytes(model.architecture, changed(model)))
    return vramfit.accompany(model, control_vector=vector(model.n_embd))


def differences(name: str) -> Iterator[tuple[str, Any, Any]]:
    """Where an estimate is not what the engine allocated, or is not called exact."""
    for kind, wanted in RECORDED[name].items():
        if name == UNCOUNTED:
            continue
        found = vramfit.estimate(with_adapters(model_of(name), kind), GPUS, SETTINGS)
        got = [[d.model, d.compute] for d in (*found.gpus, found.host)]
        if got != wanted or not found.exact:
            yield kind, got, wanted


@pytest.mark.parametrize("name", EVERY_DAY)
def test_adapters_take_what_the_engine_allocated(name: str) -> None:
    """Weights and compute buffers with an adapter for every matrix, and with a control vector, to the byte."""
    assert name in RECORDED
    assert list(differences(name)) == []


@pytest.mark.oracle
@pytest.mark.parametrize("name", sorted(RECORDED))
def test_adapters_of_every_architecture(name: str) -> None:
    """The same for all architectures."""
    assert list(differences(name)) == []


def unlike(name: str) -> list[str]:
    """Kinds of adapters and reservations whose graph is not the engine's."""
    found = []
    for case in cases(FOLDER / name, model_of(name), ADAPTED):
        for number, (run, want) in enumerate(zip(reservations(case), GRAPHS[name][case.name], strict=False)):
            built = run._replace(fused=frozenset(want.fused or run.fused))
            if digest(graph_of(case.model, built, case.placement).graph, True) != want.digest:
                found.append(f"{case.name}, reservation {number}")
    return found


@pytest.mark.parametrize(
    "name",
    [*EVERY_DAY, "nemotron_h", "nemotron_h_moe.experts", "kimi-linear", "glm4moe", "qwen3vl", "deepseek4"],
)
def test_graphs_with_adapters_are_the_engines(name: str) -> None:
    """Node for node, with half of the weights on the host."""
    assert unlike(name) == []


@pytest.mark.oracle
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_with_adapters_of_every_header(name: str) -> None:
    """The same for every header that the other graphs are recorded for."""
    assert unlike(name) == []


LLAMA = model_of("llama")


def test_an_adapter_is_where_the_weight_is() -> None:
    """Also where that is kept on the host by a pattern that ends with the weight's name."""
    name = "blk.0.ffn_down.weight"
    model = vramfit.accompany(LLAMA, lora=adapter_bytes("llama", [(name, dict(changed(LLAMA))[name])]))
    plain = vramfit.estimate(model, GPUS, SETTINGS)
    kept = vramfit.estimate(model, GPUS, {**SETTINGS, "cpu_tensors": (r"ffn_down\.weight$",)})
    at = [i for i, w in enumerate(model.weights) if w.beside is not None]
    assert len(at) == 2
    assert [plain.placement.weights[i] for i in at] == [0, 0]
    assert [kept.placement.weights[i] for i in at] == [HOST, HOST]


def test_a_direction_stays_with_its_layer() -> None:
    """Whatever a pattern says of the layer's weights: the engine asks none for it."""
    model = vramfit.accompany(LLAMA, control_vector=vector(LLAMA.n_embd))
    kept = vramfit.estimate(model, GPUS, {**SETTINGS, "cpu_tensors": (r"blk\.1\.",)})
    at = [i for i, w in enumerate(model.weights) if w.tensor.name.startswith("blk.1.")]
    assert {kept.placement.weights[i] for i in at[:-1]} == {HOST}
    assert model.weights[at[-1]].tensor.name == "blk.1.direction"
    assert kept.placement.weights[at[-1]] == 0


def test_the_engine_uses_no_adapter_for_some_matrices() -> None:
    """Latent attention multiplies by its matrices alone, kimi-linear by a projection where it keeps a state; bert is not steered."""
    for name, weight, recurrent, ignored in (
        ("deepseek2", "blk.3.attn_q_b.weight", False, True),
        ("deepseek2", "blk.3.ffn_down.weight", False, False),
        ("llama", "blk.3.attn_q.weight", False, False),
        ("kimi-linear", "blk.3.attn_output.weight", True, True),
        ("kimi-linear", "blk.3.attn_output.weight", False, False),
        ("hy_v4", "output.weight", False, True),
        ("deepseek4", "output_hc_fn.weight", False, True),
    ):
        assert ignores_adapters(name, weight, recurrent=recurrent) == ignored
    assert ignores_vectors("bert")
    assert not ignores_vectors("llama")


def test_an_idle_adapter_is_loaded_and_makes_no_nodes() -> None:
    """With a scale of 0 its tensors are there, and the compute buffers are those of the model alone."""
    adapter = adapter_bytes("llama", changed(LLAMA))
    alone = vramfit.estimate(LLAMA, GPUS, SETTINGS)
    idle = vramfit.estimate(vramfit.accompany(LLAMA, lora=(adapter, 0.0)), GPUS, SETTINGS)
    twice = vramfit.estimate(vramfit.accompany(LLAMA, lora=[adapter, (adapter, 0.5)]), GPUS, SETTINGS)
    more = [a.model - b.model for a, b in zip(idle.gpus, alone.gpus, strict=True)]
    assert all(n > 0 for n in more)
    assert [d.compute for d in idle.gpus] == [d.compute for d in alone.gpus]
    assert [a.model - b.model for a, b in zip(twice.gpus, alone.gpus, strict=True)] == [2 * n for n in more]
    assert any(a.compute > b.compute for a, b in zip(twice.gpus, alone.gpus, strict=True))


def test_a_plan_counts_adapters(tmp_path: Path) -> None:
    """They are among the weights, named in the text and the command, and leave less room for a context."""
    path = tmp_path / "a.gguf"
    path.write_bytes(adapter_bytes("llama", changed(LLAMA), rank=64))
    (tmp_path / "v.gguf").write_bytes(vector(LLAMA.n_embd))
    model = vramfit.accompany(LLAMA, lora=(str(path), 0.5), control_vector=str(tmp_path / "v.gguf"))
    assert [a.scale for a in company_of(model).adapters] == [0.5]
    settings = vramfit.server_settings(flash_attn="on")
    card = vramfit.Gpu("card", 60 << 20, compute_capability="8.6")
    plain, found = (vramfit.plan(m, card, settings, margin_bytes=0, max_ctx=1 << 20) for m in (LLAMA, model))
    assert plain.fits
    assert found.n_ctx < plain.n_ctx
    assert f"--lora-scaled {path}:0.5" in found.command()
    assert "--control-vector " in found.command()
    text = str(found)
    assert "Among the weights: adapter a.gguf" in text
    assert "control vector v.gguf" in text


OTHER = "give one that was made for it"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (file([], []), "not a LoRA adapter"),
        (adapter_bytes("gemma", changed(LLAMA)), "an adapter of 'gemma', but the model is llama"),
        (adapter_bytes("llama", [("blk.99.attn_q.weight", (64, 64))]), "which the model does not have"),
        (adapter_bytes("llama", [("blk.0.attn_q.weight", (7, 9))]), "is it made for another"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_model_is_refused(given: bytes, message: str) -> None:
    """With what does not match."""
    with pytest.raises(ModelError, match=message):
        vramfit.accompany(LLAMA, lora=given)


def test_what_cannot_be_counted_is_refused() -> None:
    """A model that runs its layers again has no bound for what adapters add."""
    for kind in ("lora", "control vector"):
        with pytest.raises(ModelError, match="adapters of hrm_text cannot be counted"):
            with_adapters(model_of(UNCOUNTED), kind)


def adapter(*names: str) -> bytes:
    texts = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama"}
    keys = [key(name, "str", string(value)) for name, value in texts.items()]
    return file(keys, [tensor(name, (8, 8), 0, 256 * i) for i, name in enumerate(names)])


def test_halves_and_strangers_are_refused() -> None:
    """One matrix without the other, or a tensor of another kind; norms are passed over, as in the engine."""
    with pytest.raises(ModelError, match="has lora_a alone"):
        vramfit.accompany(LLAMA, lora=adapter("blk.0.attn_q.weight.lora_a"))
    with pytest.raises(ModelError, match=r"end with \.lora_a or \.lora_b"):
        vramfit.accompany(LLAMA, lora=adapter("blk.0.attn_q.weight"))
    passed = vramfit.accompany(LLAMA, lora=adapter("blk.0.attn_norm.weight"))
    assert passed.weights == LLAMA.weights


def test_control_vectors_that_do_not_match_are_refused() -> None:
    """Of another width, of another type, or none at all."""
    with pytest.raises(ModelError, match=rf"directions of 7 elements, but the model has {LLAMA.n_embd}"):
        vramfit.accompany(LLAMA, control_vector=vector(7))
    for given in (vector(LLAMA.n_embd, type_id=1), file([], [])):
        with pytest.raises(ModelError, match="of one size in f32"):
            vramfit.accompany(LLAMA, control_vector=given)


def test_scales_and_files_are_checked() -> None:
    """A scale is a number; nothing beside a model leaves it as it is."""
    with pytest.raises(SettingsError, match="give a number"):
        vramfit.accompany(LLAMA, lora=[(adapter(), float("nan"))])
    assert vramfit.accompany(LLAMA) is LLAMA
    assert replace(LLAMA, company=None) == LLAMA
