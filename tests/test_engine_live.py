"""The tool that drives the engine, where the engine is installed."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import gzip
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TRUTH = ROOT.parent / "shared" / "engine-truth"

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.binding import is_available  # noqa: E402

if not is_available():
    pytest.skip("the engine is not installed here (docs/internals/engine.md)", allow_module_level=True)

from tools.engine.errors import EngineError  # noqa: E402
from tools.engine.host import host_buffers  # noqa: E402
from tools.engine.load import Refused, load  # noqa: E402
from tools.engine.measure import measure, measure_all  # noqa: E402
from tools.engine.metadata import Dims  # noqa: E402
from tools.engine.models import ARCHITECTURES, make_model  # noqa: E402
from tools.engine.prove import prove  # noqa: E402
from tools.engine.quantize import types  # noqa: E402
from tools.engine.reserve import reservations  # noqa: E402
from tools.engine.trace import COMPUTE, INPUT, WEIGHT, Tracer, to_graph, to_text, trace  # noqa: E402
from tools.engine.vulkan import VARIABLE  # noqa: E402
from vramfit._base.errors import EngineRefusal  # noqa: E402
from vramfit._devices import Gpu, Host  # noqa: E402
from vramfit._devices.host_detection import detect_host  # noqa: E402
from vramfit._estimate.estimate import estimate  # noqa: E402
from vramfit._ggml.graph import NONE  # noqa: E402
from vramfit._gguf import parse  # noqa: E402
from vramfit._llama.arch import describe  # noqa: E402
from vramfit._llama.params import Settings  # noqa: E402
from vramfit._quant import FILE_TYPES, requantize  # noqa: E402


@pytest.fixture
def model(tmp_path):
    """A small model with grouped heads, quantized."""
    path = tmp_path / "model.gguf"
    make_model(
        "llama",
        path,
        Dims(n_embd=320, n_layer=5, n_head=6, n_head_kv=3, head_k=64, n_vocab=1000),
        types="q8_0",
    )
    return path


@pytest.mark.skipif(not TRUTH.is_dir(), reason="no engine-truth rows here")
def test_frozen_rows_are_measured_again_to_the_byte():
    rows = []
    for kind, n in (("arch", 60), ("models", 40), ("published", 20), ("cc", 30)):
        with gzip.open(TRUTH / f"rows-{kind}.jsonl.gz", "rt") as file:
            rows += random.Random(1).sample(list(map(json.loads, file)), n)
    jobs = [
        {
            "file": str(TRUTH / r["file"]),
            "gpus_mib": r["gpus_mib"],
            "settings": r["settings"] | {"compute_capability": r.get("compute_capability", 8.6)},
        }
        for r in rows
    ]
    keys = ("n_ctx", "gpus", "host", "refused")
    wanted = [{k: r[k] for k in keys if k in r} for r in rows]
    assert list(measure_all(jobs)) == wanted


@pytest.mark.skipif(not TRUTH.is_dir(), reason="no engine-truth rows here")
def test_devices_that_answer_as_vulkan_give_the_rows_of_the_real_backend():
    with gzip.open(TRUTH / "backend-rows-vulkan.jsonl.gz", "rt") as file:
        rows = random.Random(2).sample(list(map(json.loads, file)), 8)
    for row in rows:
        found = measure(TRUTH / row["file"], [48 << 10], row["settings"] | {"vulkan": {}})
        assert found == {k: row[k] for k in ("n_ctx", "gpus", "host")}


@pytest.mark.parametrize("settings", [{"n_ctx": 4096}, {"n_ctx": 4096, "n_gpu_layers": 3, "type_k": "q8_0"}])
def test_vramfit_gives_what_devices_that_answer_as_metal_reserve(model, settings):
    chosen = settings | {"flash_attn": "on", "type_v": settings.get("type_k", "f16")}
    found = measure(model, [10_000], chosen | {"metal": 1 << 40})
    mac = Gpu("mac", 10_000 << 20, backend="metal")
    ours = estimate(describe(parse(model.read_bytes())), [mac], Settings(**chosen))
    assert [ours.gpus[0].compute, ours.host.compute] == [
        found["gpus"][0]["compute"],
        found["host"]["compute"],
    ]


@pytest.mark.skipif(not TRUTH.is_dir(), reason="no engine-truth rows here")
@pytest.mark.parametrize("backend", ["cuda", "hip", "vulkan", "sycl", "metal"])
def test_random_loads_of_every_backend_are_estimated_to_the_byte(backend, tmp_path):
    """Metal's may take a percent more: it is never called exact."""
    kept = tmp_path / "rows.jsonl"
    *lines, score = prove(backend, sorted((TRUTH / "arch").glob("*.gguf")), 12, 3, kept)
    assert "0 of them not" in score
    assert "too low 0 on cards" in score
    assert not lines or backend == "metal"
    assert len(kept.read_text().splitlines()) == 12


@pytest.mark.skipif(VARIABLE not in os.environ, reason="the real Vulkan backend is not built here")
def test_rows_of_the_real_vulkan_backend_are_measured_again():
    with gzip.open(ROOT / "tests" / "data" / "backend-rows.jsonl.gz", "rt") as file:
        rows = [row for row in map(json.loads, file) if row["backend"] == "real-vulkan"][:8]
    for row in rows:
        found = measure(TRUTH / row["file"], row["gpus_mib"], row["settings"])
        assert found == {k: row[k] for k in ("n_ctx", "gpus", "host")}


def test_what_the_engine_refuses_is_refused_with_its_reason(model):
    row = measure(model, [1000], {"flash_attn": "off", "type_v": "q8_0"})
    assert row == {"refused": "quantized V cache requires flash_attn to be enabled"}


def test_a_failed_assertion_leaves_the_process_alive(tmp_path):
    with pytest.raises(Refused, match=r"aborted: .*GGML_ASSERT"):
        make_model("llama", tmp_path / "x.gguf", overrides={"block_count": 0})
    make_model("llama", tmp_path / "x.gguf")


def test_unknown_settings_are_named(model):
    with pytest.raises(EngineError, match="n_cxt"):
        load(model, n_cxt=5)


def test_the_cache_is_what_its_shape_says(model):
    row = measure(model, [10_000], {"n_ctx": 1024})
    assert (
        row["gpus"][0]["context"] == 2 * 5 * 1024 * 3 * 64 * 2
    )  # K and V, layers, cells, heads, head size, bytes


def test_devices_answer_by_their_compute_capability(model):
    """Two tokens over a quantized cache: from 8.9 on a vector kernel reads it, before that it is copied to f16."""
    settings = {"n_ctx": 8192, "n_ubatch": 2, "flash_attn": "on", "type_k": "q8_0", "type_v": "q8_0"}
    turing, ada, mixed = (
        [gpu["compute"] for gpu in row["gpus"]]
        for row in (
            measure(model, [10_000, 10_000], settings | {"compute_capability": capability})
            for capability in (7.5, "8.9", [7.5, 8.9])
        )
    )
    copies = 2 * 8192 * 3 * 64 * 2  # K and V, cells, heads, head size, bytes
    assert copies - 1024 < turing[0] - ada[0] <= copies  # less what else lay there
    assert mixed == [turing[0], ada[1]]


@pytest.mark.parametrize(("given", "complaint"), [("ada", "'ada'"), ([8.6], "1 compute capabilities for 2")])
def test_a_compute_capability_that_is_none_is_named(model, given, complaint):
    with pytest.raises(EngineError, match=complaint):
        measure(model, [1000, 1000], {"compute_capability": given})


@pytest.fixture
def mixture(tmp_path):
    """Four experts of eight."""
    path = tmp_path / "mixture.gguf"
    make_model("qwen3moe", path, Dims(n_layer=3, n_expert=8, n_expert_used=4))
    return path


def test_what_a_fusion_reads_is_kept_until_its_last_node(mixture):
    prompt = reservations(mixture, [10_000], n_ctx=512)[0]
    tensors = prompt.allocated.tensors
    kept = {s for i in prompt.allocated.nodes if tensors[i].op == "NONE" for s in tensors[i].src}
    assert {"ffn_moe_logits-1", "ffn_moe_argsort-1", "ffn_moe_weights-1"} <= {tensors[i].name for i in kept}
    scaled = next(t for t in tensors if t.name == "ffn_moe_down_scaled-1")
    assert set(scaled.src) <= kept  # the experts and their scales, until their weighted sum is there
    assert len(prompt.allocated.nodes) > len(prompt.graph.nodes)


def test_blocks_that_live_together_lie_within_what_is_held(mixture):
    prompt, *_ = passes = reservations(mixture, [10_000, 10_000], n_ctx=2048, n_ubatch=64)
    row = measure(mixture, [10_000, 10_000], {"n_ctx": 2048, "n_ubatch": 64})
    assert list(passes[-1].n_bytes) == [gpu["compute"] for gpu in (*row["gpus"], row["host"])]
    for backend, held in enumerate(prompt.n_bytes):
        ends = [b.offset + b.n_bytes for b in prompt.blocks if b.backend == backend and b.n_bytes >= 0]
        assert held - 128 <= max(ends) <= held
    for i, block in enumerate(prompt.blocks):
        t = prompt.allocated.tensors[i]
        assert (block.n_bytes < 0) == (t.view != NONE or t.usage != COMPUTE)


def test_a_trace_shows_the_graphs_of_the_three_reservations(model):
    prompt, generation, again = trace(model, n_ctx=2048, n_ubatch=128, n_outputs_max=7, n_seq_max=2)
    assert to_text(prompt) == to_text(again)
    logits = [g.tensors[g.nodes[-1]].ne[:2] for g in (prompt, generation)]
    assert logits == [(1000, 7), (1000, 2)]


def test_a_trace_tells_weights_inputs_and_the_devices_of_all(model):
    with Tracer(model, [10_000, 10_000], n_ctx=512, offload_kqv=False) as tracer:
        graph = tracer.graph(n_tokens=4, n_seqs=1, n_outputs=1)
    tensors = {t.name: t for t in graph.tensors}
    assert (tensors["blk.0.attn_q.weight"].usage, tensors["blk.0.attn_q.weight"].home) == (WEIGHT, 0)
    assert tensors["output.weight"].home == 1
    assert tensors["inp_tokens"].flags & INPUT
    assert tensors["inp_tokens"].usage == COMPUTE
    assert {t.pinned for t in graph.tensors if t.name.startswith("norm-")} == {0, 1}


def test_a_dump_loads_into_the_nouns_of_the_library(model):
    dump = trace(model)[0]
    graph = to_graph(dump)
    assert [t.name for t in graph.tensors] == [t.name for t in dump.tensors]
    assert all(graph.tensors[i].op == "NONE" for i in graph.leafs)
    assert all(s < i for i in graph.nodes for s in graph.tensors[i].src if s != i)


def test_the_command_line_measures(model):
    command = [
        sys.executable,
        "-m",
        "tools.engine",
        "measure",
        str(model),
        "--gpus",
        "8192,8192",
        "n_ctx=1000",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert row["n_ctx"] == 1024
    assert len(row["gpus"]) == 2
    assert done.stderr == ""


# Their loaders ask for fused matrices of as many keys as heads, and no graph is made of fewer: a file of fewer is refused.
OF_ALL_HEADS = {"bailingmoe2", "cogvlm", "modern-bert", "qwen"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_quantizer_chooses_the_types_that_the_library_says(architecture, tmp_path):
    """Every file type, with and without an importance matrix, for a model of each architecture."""
    path = tmp_path / "model.gguf"
    make_model(architecture, path, Dims(n_layer=17, n_head_kv=4 if architecture in OF_ALL_HEADS else 1))
    model = describe(parse(path.read_bytes()))
    for kind in FILE_TYPES.values():
        for imatrix in (False, True):
            if kind.copies:
                continue
            try:
                wanted = types(path, kind.id, imatrix=imatrix)
            except Refused:
                with pytest.raises(EngineRefusal):
                    requantize(model, kind.name, imatrix=imatrix)
                continue
            found = requantize(model, kind.name, imatrix=imatrix)
            assert {t.name: t.type.name for t in found.tensors} == wanted, (kind.name, imatrix)


@pytest.mark.parametrize("kind", ["q4_0", "q4_k", "q6_k", "q2_k", "iq4_nl", "mxfp4", "q8_0", "f16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3moe"])
def test_what_this_cpu_repacks_and_what_is_mapped(tmp_path, architecture, kind):
    """The engine really loads the file: what it repacks, maps and locks is what is said of a CPU with these features."""
    path = tmp_path / "model.gguf"
    make_model(architecture, path, Dims(n_embd=512, n_layer=2, n_ff=1024, n_vocab=2000), types=kind)
    model = describe(parse(path.read_bytes()))
    machine = detect_host()
    host = Host(1 << 40, features=machine.features if machine else None)
    rounding = 1 << 14  # what is printed, and whole pages
    for mode in ("mmap", "none", "mmap+mlock"):
        found = host_buffers(path, model.tensor_bytes, mode)
        said = estimate(model, "none", Settings(n_ctx=512, load_mode=mode), host=host).host
        assert said.model - said.mapped == pytest.approx(
            sum(found.get(name, 0) for name in ("CPU_REPACK", "CPU", "AMX")), abs=rounding
        )
        locked = said.mapped + said.beside if mode == "mmap+mlock" else 0
        assert found["locked"] == pytest.approx(locked, abs=rounding)
        assert ("CPU_Mapped" in found) is ("mmap" in mode)
