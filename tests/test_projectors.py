"""Projectors: weights and reserves of each kind, as the engine's own forecast has them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from gguf_bytes import file, key, string

import vramfit
from vramfit._base.errors import ModelError, SettingsError
from vramfit._company import alone, company_of
from vramfit._ggml.backends import Backend
from vramfit._gguf import parse
from vramfit._llama.eras import era_of, rules_of
from vramfit._mtmd import Projector, read_projector, reserve
from vramfit._mtmd.builders import BUILDERS
from vramfit._mtmd.header import Tower
from vramfit._mtmd.reserve import _bound, _inputs, _replayed
from vramfit._mtmd.warmup import largest, warmup

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.projectors import CASES, KINDS, forecast, header

RECORDED: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parent / "data/company/projectors.json").read_text()
)
HAS_ENGINE = True
try:
    from tools.engine.binding import is_available

    HAS_ENGINE = is_available()
except ImportError:
    HAS_ENGINE = False


def card(capability: int = 860) -> vramfit.Gpu:
    text = f"{capability // 100}.{capability % 100 // 10}"
    return vramfit.Gpu("card", 24564 << 20, compute_capability=text)


@cache
def projector(name: str) -> Projector:
    return read_projector(parse(header(*KINDS[name]()), name=name), name)


def rules(told: dict[str, int]) -> Backend | None:
    return rules_of(card(told.get("capability", 860)), era_of("")) if told.get("gpu", True) else None


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", KINDS)
def test_a_projector_takes_what_the_engine_says(name: str, case: str) -> None:
    """Weights as allocated, and the reserve on the device and on the host, to the byte."""
    device, host, weights, host_weights = RECORDED[name][case]
    raw = sum(t.n_bytes for tower in projector(name).towers for t in tower.tensors.values())
    on = rules(CASES[case])
    found = reserve(projector(name), on, "off" if CASES[case].get("flash_attn") == 0 else "auto")
    assert found.note == ""
    if on is None:
        assert (found.weights, found.compute, found.host) == (host_weights, host - raw, 0)
    else:
        assert (found.weights, found.compute, found.host) == (weights, device - raw, host)


@pytest.mark.skipif(not HAS_ENGINE, reason="the engine is not installed here (docs/internals/engine.md)")
@pytest.mark.oracle
@pytest.mark.parametrize("name", KINDS)
def test_the_record_is_measured_again(name: str) -> None:
    """The engine says today what was recorded."""
    data = header(*KINDS[name]())
    assert {case: forecast(data, **told) for case, told in CASES.items()} == RECORDED[name]


def test_most_kinds_have_a_graph() -> None:
    """Those that people run; each is measured."""
    assert {t.kind for name in KINDS for t in projector(name).towers} == set(BUILDERS)
    assert len(BUILDERS) >= 20


@pytest.mark.parametrize("name", KINDS)
def test_the_bound_is_never_too_low(name: str) -> None:
    """Of a kind without a graph there is a bound: for kinds with one it is no less than what is reserved."""
    on = rules({})
    for tower in projector(name).towers:
        for frame in (warmup(tower), largest(tower)):
            for flash_attn in ("on", "off"):
                device, host = _replayed(tower, frame, on, flash_attn)
                assert _bound(tower, frame) >= device
                assert _inputs(tower, frame) >= host


def unknown(name: str = "qwen3vl_merger") -> Projector:
    """A projector of a kind that no builder knows."""
    known = projector(name)
    return replace(known, towers=tuple(replace(t, kind="glm4v") for t in known.towers))


def test_a_kind_without_a_graph_is_bounded_and_says_so() -> None:
    """Its weights are exact all the same."""
    found, known = reserve(unknown(), rules({})), reserve(projector("qwen3vl_merger"), rules({}))
    assert "no graph of the projector glm4v" in found.note
    assert found.weights == known.weights
    assert found.compute > known.compute
    assert found.widths == ()


def tower_of(kind: str, **more: object) -> Tower:
    keys, tensors = KINDS["gemma3"]()
    keys |= {"clip.projector_type": kind} | {f"clip.vision.{k}": v for k, v in more.items()}
    return read_projector(parse(header(keys, tensors), name=kind), kind).towers[0]


@pytest.mark.parametrize(
    ("kind", "more", "first", "most"),
    [("gemma3", {}, 224, 224), ("pixtral", {"spatial_merge_size": 2}, 448, 896), ("gemma4v", {}, 672, 1386),
     ("qwen2vl_merger", {}, 1288, 1792), ("glm5v", {"image_max_pixels": 1 << 22}, 1288, 2044),
     ("deepseekocr", {}, 1024, 1024), ("kimik25", {"projector.scale_factor": 2}, 1792, 1792),
     ("kimik25", {"projector.scale_factor": 2, "image_max_pixels": 1000000}, 1000, 1792),
     ("deepseek4v", {"projector.scale_factor": 2}, 448, 532), ("no such kind", {}, 224, 224)],
)  # fmt: skip
def test_images_that_are_reserved_for(kind: str, more: dict[str, int], first: int, most: int) -> None:
    """By kind, patches and merged squares; a limit of tokens makes the largest smaller."""
    tower = tower_of(kind, **more)
    assert (warmup(tower).width, largest(tower).width) == (first, most)
    if kind == "qwen2vl_merger":
        assert largest(tower, 1024).width == 1288  # no less than what is reserved
        assert largest(tower, 3000).width == 54 * 28
    if kind == "deepseek4v":
        assert warmup(tower, 100).width == 280


def test_numbers_that_cannot_be_are_refused() -> None:
    """With the file, the key and the value."""
    for more, message in (
        ({"patch_size": 0}, "patch_size = 0"), ({"image_size": 9000}, "9000 pixels"),
        ({"projector.scale_factor": 0}, "scale_factor = 0"), ({"block_count": 600}, "600 layers"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=message):
            warmup(tower_of("gemma3", **more))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file([], []), "not a projector"),
        (file([key("general.architecture", "str", string("clip"))], []), "neither clip.has_vision_encoder"),
        (header({"general.architecture": "clip", "clip.has_vision_encoder": True}, {}), "is no name"),
        (header({"general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": "mlp"}, {}),
         "clip.vision.embedding_length"),
    ],
)  # fmt: skip
def test_what_is_no_projector_is_refused(data: bytes, message: str) -> None:
    """And says what it is."""
    with pytest.raises(ModelError, match=message):
        read_projector(parse(data, name="x"), "x")


def test_a_file_without_its_weights_is_bounded() -> None:
    """Tensors that a builder needs and that are not there make a bound, no error."""
    for name in KINDS:
        whole = projector(name)
        for lost in (
            "attn_out",
            "ffn_up",
            "mm.",
            "resampler.kv",
            "attn_q",
            "patch_embd",
            "conv1d",
            "position_embd",
        ):
            towers = tuple(
                replace(t, tensors={k: v for k, v in t.tensors.items() if lost not in k})
                for t in whole.towers
            )
            found = reserve(replace(whole, source=lost, towers=towers), rules({}))
            assert found.compute > 0


GEMMA = ROOT / "examples/gemma-3-12b-q4_k_m.gguf"


def fitting(n_embd: int) -> bytes:
    keys, tensors = KINDS["gemma3"]()
    return header(keys | {"general.name": "Eyes"}, tensors | {"mm.input_projection.weight": (n_embd, 128)})


def test_a_plan_counts_a_projector(tmp_path: Path) -> None:
    """On the first card, in a line of its own, and in the command; on the host where it is told so."""
    model = vramfit.read(GEMMA)
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(fitting(model.n_embd))
    seeing = vramfit.accompany(model, mmproj=path)
    cards = [replace(card(), name="a", total_bytes=12 << 30, free_bytes=None), replace(card(), name="b")]
    settings = vramfit.server_settings(flash_attn="on")
    plain, found = (vramfit.plan(m, cards, settings) for m in (model, seeing))
    assert found.estimate.company[0].kind == "projector"
    assert [g.company > 0 for g in found.estimate.gpus] == [True, False]
    assert found.estimate.gpus[0].left >= found.margin_bytes
    assert found.n_ctx <= plain.n_ctx
    assert f"--mmproj {path}" in found.command()
    text = str(found)
    assert "projector" in text
    assert "Beside the model: projector Eyes" in text
    as_json = found.to_dict()
    assert as_json["company"][0]["kind"] == "projector"
    assert as_json["gpus"][0]["company"] == found.estimate.gpus[0].company
    assert "company" in found._repr_html_()
    second = vramfit.accompany(model, mmproj=path, mmproj_device=[1], image_max_tokens=64)
    on_host = vramfit.accompany(model, mmproj=path, mmproj_offload=False)
    assert [g.company > 0 for g in vramfit.estimate(second, cards, settings).gpus] == [False, True]
    assert "--mmproj-device CUDA1 --image-max-tokens 64" in vramfit.plan(second, cards, settings).command()
    hosted = vramfit.plan(on_host, cards, settings)
    assert not any(g.company for g in hosted.estimate.gpus)
    assert hosted.estimate.host.company
    assert "--no-mmproj-offload" in hosted.command()
    assert vramfit.accompany(model, mmproj=path, mmproj_auto=False) is model
    assert company_of(alone(seeing)).encoder is None


def test_a_larger_image_is_warned_of() -> None:
    """Where images may be larger than what is reserved for, the plan says how much they would need."""
    model = vramfit.read(GEMMA)
    keys, tensors = KINDS["pixtral, plain"]()
    data = header(keys, tensors | {"mm.2.weight": (192, model.n_embd), "mm.2.bias": (model.n_embd,),
                                   "v.token_embd.img_break": (model.n_embd,)})  # fmt: skip
    found = vramfit.plan(vramfit.accompany(model, mmproj=data), card(), vramfit.server_settings())
    assert any("reserves for a smaller image" in w for w in found.warnings)


def test_a_projector_of_another_model_is_refused() -> None:
    """Its rows have another width; and one device at most may be named."""
    model = vramfit.read(GEMMA)
    with pytest.raises(ModelError, match=f"rows of 64 elements, and the model takes {model.n_embd:,}"):
        vramfit.accompany(model, mmproj=fitting(64))
    data = fitting(model.n_embd)
    with pytest.raises(SettingsError, match="on one card"):
        vramfit.accompany(model, mmproj=data, mmproj_device=[0, 1])
    with pytest.raises(SettingsError, match="no more than image_max_tokens"):
        vramfit.accompany(model, mmproj=data, image_min_tokens=9, image_max_tokens=8)
    with pytest.raises(SettingsError, match="there is no card 3"):
        vramfit.estimate(vramfit.accompany(model, mmproj=data, mmproj_device=[3]), card())
