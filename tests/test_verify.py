"""Estimates beside printed loads: what agrees, what explains a difference, and what is said of a log that does not fit."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import settings as settings_
from hypothesis import strategies as st
from small import dense, gpu, mixture

import vramfit
from vramfit._base.errors import SettingsError, SourceError
from vramfit._cli import main
from vramfit._estimate.estimate import Estimate, estimate
from vramfit._llama.flags import first_experts
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._logs import Size
from vramfit._report.html import fragment
from vramfit._verify import Verification, verify
from vramfit._verify.builds import candidates, named_build, representatives
from vramfit._verify.compare import differences, verdict_of
from vramfit._verify.nouns import Row
from vramfit._verify.verify import loads_of

LOGS = Path(__file__).parent / "data" / "logs"
MODEL = replace(dense(n_layer=8, n_vocab=65536), architecture="llama")
CARD = gpu(8192, name="NVIDIA GeForce RTX 3090")
SETTINGS = Settings(n_ctx=4096, flash_attn="on", n_outputs_max=1)


def header(name: str) -> Model:
    return vramfit.read(gzip.decompress((LOGS / f"{name}.gguf.gz").read_bytes()))


def mib(n: int) -> str:
    return f"{n / 2**20:8.2f} MiB"


def printed(
    found: Estimate, model: Model = MODEL, *, build: str = "", places: str = "CUDA", facts: bool = True
) -> str:
    """What an engine would print of an estimate."""
    s = found.settings
    lines = [f"build: {build} (0c1e57098) with cc"] if build else []
    for i, card in enumerate(found.gpus):
        lines.append(f"  Device {i}: {card.name.split(' #')[0]}, compute capability 8.6, VMM: yes")
    if facts:
        lines += [
            f"print_info: arch = {model.architecture}", f"print_info: n_layer = {model.n_layer}", f"print_info: n_embd = {model.n_embd}",
            f"print_info: n_vocab = {model.n_vocab}", f"print_info: file size = {model.tensor_bytes / 2**20:.2f} MiB (16.00 BPW)",
            f"print_info: n_embd_k_gqa = {model.layers[0].caches[0].k_width}", f"print_info: n_embd_v_gqa = {model.layers[0].caches[0].v_width}",
        ]  # fmt: skip
    on = model.n_layer + 1 if s.n_gpu_layers < 0 else s.n_gpu_layers
    lines.append(f"load_tensors: offloaded {on}/{model.n_layer + 1} layers to GPU")
    lines += [
        f"load_tensors: {places}{i} model buffer size = {mib(g.model)}"
        for i, g in enumerate(found.gpus)
        if g.model
    ]
    lines.append(f"load_tensors: CPU model buffer size = {mib(found.host.model)}")
    for name in ("n_seq_max", "n_ctx", "n_batch", "n_ubatch", "n_outputs_max"):
        lines.append(f"llama_context: {name} = {getattr(s, name)}")
    lines.append(f"llama_context: flash_attn = {'enabled' if s.flash_attn == 'on' else 'disabled'}")
    lines.append(f"llama_context: kv_unified = {str(s.kv_unified).lower()}")
    lines += [
        f"llama_kv_cache: {places}{i} KV buffer size = {mib(g.context)}"
        for i, g in enumerate(found.gpus)
        if g.context
    ]
    if found.host.context:
        lines.append(f"llama_kv_cache: CPU KV buffer size = {mib(found.host.context)}")
    cells = s.n_ctx
    lines.append(
        f"llama_kv_cache: size = {mib(found.host.context)} ({cells} cells, {model.n_layer} layers, 1/1 seqs), K ({s.type_k}): 1.00 MiB, V ({s.type_v}): 1.00 MiB"
    )
    lines += [
        f"sched_reserve: {places}{i} compute buffer size = {mib(g.compute)}"
        for i, g in enumerate(found.gpus)
        if g.compute
    ]
    lines.append(f"sched_reserve: CUDA_Host compute buffer size = {mib(found.host.compute)}")
    return "\n".join(lines) + "\n"


LOG = printed(estimate(MODEL, [CARD], SETTINGS))


def test_what_build_8946_printed() -> None:
    """A real load of a 27B hybrid on an RTX 3090: weights, caches and compute as printed, from the log's own build and settings."""
    found = verify(header("qwen3.6-27b"), LOGS / "printed" / "server-b8946-cuda-qwen36-27b.log")
    rows = {r.kind: r for r in found.rows if r.device == "CUDA0"}
    assert found.settings.engine_build == "b8946"
    assert rows["context"].agrees
    assert rows["compute"].agrees
    assert not rows["model"].judged
    assert found.agrees
    assert "-ctk q8_0" in found.command
    assert "-c 200192" in found.command


def test_what_the_binding_printed() -> None:
    """A tiny model really loaded by llama-cpp-python 0.3.36 on the CPU: to the last printed digit."""
    found = verify(
        header("tiny-qwen3"),
        LOGS / "printed" / "llama-cpp-python-0.3.36-cpu.log",
        {"engine_build": "llama-cpp-python@0.3.36"},
    )
    assert found.verdict == "equal"
    assert {(r.kind, r.agrees) for r in found.rows if r.judged} == {("context", True), ("compute", True)}


@pytest.mark.parametrize(
    "given",
    [
        {}, {"n_ubatch": 1024}, {"flash_attn": "off"}, {"type_k": "q8_0", "type_v": "q8_0"}, {"n_seq_max": 4, "kv_unified": True},
        {"n_gpu_layers": 5}, {"offload_kqv": False}, {"n_gpu_layers": 0},
    ],
)  # fmt: skip
def test_what_is_estimated_verifies(given: dict[str, Any]) -> None:
    """A log made of an estimate is equal to it, whatever the settings: they are all read back."""
    asked = replace(SETTINGS, **given)
    found = verify(MODEL, printed(estimate(MODEL, [CARD], asked)))
    assert found.agrees, [r for r in found.rows if r.differs]
    same = replace(found.settings, engine_build="", n_batch=asked.n_batch)
    assert same.n_ctx == asked.n_ctx
    assert same.type_k == asked.type_k


@given(st.lists(st.integers(1, 5), min_size=2, max_size=3), st.integers(0, 3))
@settings_(max_examples=12, deadline=None)
def test_splits_are_found_from_bytes(shares: list[int], off: int) -> None:
    """However layers are divided, what lies on each card tells how many are there, and every figure agrees."""
    cards = [CARD] * len(shares)
    asked = replace(SETTINGS, tensor_split=tuple(map(float, shares)), n_gpu_layers=MODEL.n_layer + 1 - off)
    made = estimate(MODEL, cards, asked)
    if any(not g.layers for g in made.gpus):
        return
    found = verify(MODEL, printed(made))
    assert [g.layers for g in estimate(MODEL, found.gpus, found.settings).gpus] == [
        g.layers for g in made.gpus
    ]
    assert found.agrees


def test_printed_layers_count_first() -> None:
    """Where the log has a line for each layer, nothing has to be found."""
    asked = replace(SETTINGS, tensor_split=(1.0, 8.0))
    made = estimate(MODEL, [CARD, CARD], asked)
    at = made.placement.layers
    text = "".join(
        f"load_tensors: layer {i:3} assigned to device CUDA{d}, is_swa = 0\n" for i, d in enumerate(at)
    )
    found = verify(MODEL, text + printed(made))
    assert found.settings.tensor_split == tuple(float(g.layers) for g in made.gpus)
    assert found.agrees


CHANGED = [
    ({"n_ubatch": 1024}, "physical batch of 1024"), ({"flash_attn": "off"}, "flash attention off"),
    ({"type_k": "q8_0", "type_v": "q8_0"}, "caches in q8_0"), ({"n_outputs_max": 0}, "logits for the whole batch"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "what"), CHANGED, ids=[w for _, w in CHANGED])
def test_causes_are_found_by_estimating(change: dict[str, Any], what: str) -> None:
    """A log of other settings than a person says: the change that makes it equal is named, and the command has it."""
    real = printed(estimate(MODEL, [CARD], replace(SETTINGS, **change)), build="11250")
    over = {name: getattr(SETTINGS, name) for name in change}
    found = verify(MODEL, real, over)
    assert found.verdict in ("higher", "lower", "near")
    assert found.causes[0].agrees
    assert what in found.causes[0].what
    assert not any(r.differs for r in found.causes[0].rows)
    assert verify(MODEL, real, over, causes=False).causes == ()


def test_a_build_explains_a_difference() -> None:
    """A log of an older build under the name of a newer one: the older rules make it equal."""
    older = printed(estimate(MODEL, [CARD], replace(SETTINGS, engine_build="b9000")), build="11250")
    found = verify(MODEL, older)
    assert found.verdict == "lower"
    assert found.causes
    assert found.causes[0].agrees
    assert "rules of a build" in found.causes[0].what or "logits" in found.causes[0].what


def test_without_a_build_a_change_may_explain_it() -> None:
    """Of the builds a log may be of, the first with which one change explains the rest is told."""
    real = printed(estimate(MODEL, [CARD], replace(SETTINGS, n_ubatch=1024)))
    found = verify(MODEL, real, {"n_ubatch": 512})
    assert found.settings.engine_build == "b11250"
    assert found.causes[0].agrees
    assert "1024" in found.causes[0].what


def test_a_log_without_a_build_takes_that_which_agrees() -> None:
    """Of the builds that print such lines the one that agrees is taken, and said."""
    older = printed(estimate(MODEL, [CARD], replace(SETTINGS, engine_build="b9000")))
    found = verify(MODEL, older.replace("llama_context: n_outputs_max = 1\n", ""))
    assert found.agrees
    assert any("names no build" in text for text in found.taken)
    assert len(candidates(next(loads_of(older)))) > 1
    assert len(set(representatives())) == len(representatives()) > 5


def test_two_changes_at_once() -> None:
    """Where one change is not enough, a second is sought on top of the best."""
    real = printed(
        estimate(MODEL, [CARD], replace(SETTINGS, type_k="q8_0", type_v="q8_0", n_ubatch=1024)), build="11250"
    )
    found = verify(MODEL, real, {"type_k": "f16", "type_v": "f16", "n_ubatch": 512})
    assert found.causes[0].agrees
    assert " and " in found.causes[0].what


def test_a_log_of_another_model_is_said() -> None:
    """Nothing is compared, and each thing that differs is named."""
    other = replace(MODEL, architecture="qwen2", n_embd=512)
    found = verify(other, LOG)
    assert found.verdict == "other model"
    assert found.rows == ()
    assert len(found.reasons) == 2
    assert "qwen2" in str(found)
    deeper = LOG.replace("n_layer = 8", "n_layer = 9")
    assert verify(MODEL, deeper).reasons == ("the log says 9 layers, the header 8",)
    bare = printed(estimate(MODEL, [CARD], SETTINGS), facts=False)
    assert "layers" in verify(dense(n_layer=3), bare).reasons[0]
    assert differences(next(loads_of(LOG)), MODEL) == ()


def test_other_weights_are_not_judged() -> None:
    """The same model in another quantization: caches and compute are compared, weights are not."""
    found = verify(replace(dense(n_layer=8, n_vocab=65536, weight_type="q8_0"), architecture="llama"), LOG)
    assert found.agrees
    row = next(r for r in found.rows if r.device == "CUDA0" and r.kind == "model")
    assert not row.judged
    assert "quantized" in row.why


def test_a_log_alone() -> None:
    """Without a model the cache follows from the widths that the log prints; what needs the model is said."""
    found = verify(None, LOG)
    assert found.verdict == "equal"
    cache = next(r for r in found.rows if r.kind == "context")
    assert cache.agrees
    assert any("compute" in r for r in found.reasons)
    wrong = verify(None, LOG.replace("n_embd_k_gqa = 128", "n_embd_k_gqa = 64"))
    assert wrong.verdict == "lower"
    without = verify(None, LOG.replace("n_embd_k_gqa", "x"))
    assert not any(r.kind == "context" for r in without.rows)


def test_which_load_of_several() -> None:
    """The last whole load is taken, or the one that is asked for by its number."""
    second = printed(estimate(MODEL, [CARD], replace(SETTINGS, n_ctx=8192)))
    both = LOG + second + second.split("sched_reserve")[0]
    found = verify(MODEL, both)
    assert (found.at, found.loads, found.settings.n_ctx) == (2, 3, 8192)
    assert verify(MODEL, both, load=1).settings.n_ctx == 4096
    with pytest.raises(SettingsError, match="the log holds 3 loads"):
        verify(MODEL, both, load=4)


def test_logs_come_as_text_lines_or_files(tmp_path: Path) -> None:
    """However it is given, the same load is found."""
    file = tmp_path / "server.log"
    file.write_text(LOG)
    for log in (LOG, LOG.encode(), file, str(file), LOG.splitlines(), iter(LOG.splitlines(keepends=True))):
        assert verify(MODEL, log).agrees
    with pytest.raises(SourceError, match="cannot be read"):
        verify(MODEL, tmp_path / "none.log")
    with pytest.raises(SourceError, match="says nothing of memory"):
        verify(MODEL, "nothing\nhere\n")
    with pytest.raises(SourceError, match="give the text of a log"):
        verify(MODEL, 7)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no setting is called"):
        verify(MODEL, LOG, {"n_contex": 1})


def test_cards_may_be_given() -> None:
    """In the log's order, as many as it has."""
    assert verify(MODEL, LOG, gpus="3090").agrees
    with pytest.raises(SettingsError, match="2 cards given"):
        verify(MODEL, LOG, gpus="2x3090")


def test_what_the_log_does_not_say_is_said() -> None:
    """The context from the cells of the cache; slots and flash attention as the program has them."""
    text = "".join(
        x + "\n"
        for x in LOG.splitlines()
        if "n_ctx =" not in x and "n_seq_max" not in x and "flash_attn" not in x
    )
    found = verify(MODEL, text)
    assert found.settings.n_ctx == 4096
    assert {w for t in found.taken for w in ("cells", "slots", "flash") if w in t} == {
        "cells",
        "slots",
        "flash",
    }
    bare = "".join(x + "\n" for x in text.splitlines() if "cells" not in x and "KV buffer" not in x)
    with pytest.raises(SettingsError, match="give --ctx"):
        verify(MODEL, bare)


def test_tensors_that_were_moved_by_name() -> None:
    """Tensors that the log says lie on the host are kept there; the figures agree."""
    moved = r"blk\.[0-3]\.ffn_(up|gate)\.weight"
    made = estimate(MODEL, [CARD], replace(SETTINGS, cpu_tensors=(moved,)))
    said = "".join(
        f"tensor blk.{i}.ffn_{p}.weight (0 MiB f16) buffer type overridden to CPU\n"
        for i in range(4)
        for p in ("up", "gate")
    )
    found = verify(MODEL, said + printed(made))
    assert found.agrees
    assert found.settings.cpu_tensors
    by_command = verify(MODEL, f"$ llama-server -m x.gguf -ot '{moved}=CPU' -c 4096\n" + printed(made))
    assert by_command.settings.cpu_tensors == (moved,)
    assert by_command.agrees


def test_programs_with_builds_of_their_own() -> None:
    """ik_llama.cpp left llama.cpp in August 2024; its numbers are not llama.cpp's."""
    ik = next(loads_of(LOGS / "printed" / "ik-2025-cuda15-deepseek-r1.log"))
    assert named_build(ik) == "b5150"  # with -mla
    assert named_build(replace(ik, settings={})) == "b3600"


def test_ollamas_own_runner_is_shown_and_not_judged() -> None:
    """It allocates by rules of its own: figures stand beside each other, and it is said why nothing is judged."""
    text = (
        (LOGS / "printed" / "ollama-0.11.10-rocm-gptoss.log")
        .read_text()
        .replace("architecture=gptoss", "architecture=llama")
    )
    found = verify(MODEL, text.replace("37/37", "9/9"))
    assert found.verdict == "unchecked"
    assert all("runner" in r.why for r in found.rows if r.kind == "compute" and r.device != "host")


@pytest.mark.parametrize("place", ["Vulkan", "ROCm", "SYCL", "CANN"])
def test_cards_of_other_backends(place: str) -> None:
    """Each by the rules of its backend; one that is not known is said."""
    found = verify(MODEL, printed(estimate(MODEL, [CARD], SETTINGS), places=place), causes=False)
    assert [g.backend for g in found.gpus] == [
        {"Vulkan": "vulkan", "ROCm": "hip", "SYCL": "sycl"}.get(place, "cuda")
    ]
    assert any("CANN" in t for t in found.taken) == (place == "CANN")


def test_results_show_themselves() -> None:
    """As text, HTML and a dict; what others wrote is escaped."""
    hostile = LOG.replace("NVIDIA GeForce RTX 3090", "<b>x\u202e</b>")
    found = verify(MODEL, hostile)
    assert "as printed" in str(found)
    page = fragment(found)
    assert "<b>x" not in page
    assert "CUDA0" in page
    data = found.to_dict()
    assert data["verdict"] == found.verdict
    assert json.loads(json.dumps(data))["rows"][0]["device"] == "CUDA0"
    assert isinstance(found, Verification)
    assert verdict_of(()) == "unchecked"
    assert found.total("CUDA0")[0] == sum(r.estimate for r in found.rows if r.device == "CUDA0")


def run(*args: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["verify", *args], input=text)


EXAMPLE = "examples/qwen2.5-14b-instruct-1m-q8_0.gguf"


@pytest.fixture(scope="module")
def example() -> str:
    model = vramfit.read(EXAMPLE)
    return printed(
        estimate(model, [gpu(32768, name="NVIDIA GeForce RTX 3090")], replace(SETTINGS, n_ctx=8192)), model
    )


def test_the_command(example: str, tmp_path: Path) -> None:
    """From a file and from a pipe; 0 as printed, 3 where it differs, and a model is not needed."""
    file = tmp_path / "server.log"
    file.write_text(example)
    done = run(EXAMPLE, "--log", str(file))
    assert done.exit_code == 0, done.output
    assert "Every figure that can be judged is as printed." in done.output
    assert run(EXAMPLE, "--log", "-", text=example).exit_code == 0
    differs = run(EXAMPLE, "--log", str(file), "-ub", "2048", "-fa", "off", "-ctk", "q8_0", "--json")
    assert differs.exit_code in (1, 3)
    alone = run("--log", str(file), "--json")
    assert alone.exit_code == 0
    assert json.loads(alone.output)["verdict"] == "equal"
    twice = run("--log", "-", "--all", "--json", text=example * 2)
    assert len(json.loads(twice.output)) == 2
    assert run(EXAMPLE).exit_code == 2
    assert "give a number" in run(EXAMPLE, "--log", str(file), "--ctx", "train").output
    assert run("examples/gemma-3-12b-q4_k_m.gguf", "--log", str(file)).exit_code == 3
    assert run(EXAMPLE, "--log", str(tmp_path / "none")).exit_code == 1


@given(st.sampled_from([2048, 4096, 12288, 65536]), st.sampled_from(["f16", "q8_0"]), st.booleans())
@settings_(max_examples=8, deadline=None)
def test_a_context_from_bytes_alone(n_ctx: int, kind: str, typed: bool) -> None:
    """Where a log has neither a context nor cells, the bytes of its caches tell, and the types with it."""
    made = estimate(MODEL, [CARD], replace(SETTINGS, n_ctx=n_ctx, type_k=kind, type_v=kind))
    text = "".join(x + "\n" for x in printed(made).splitlines() if "n_ctx =" not in x and "cells" not in x)
    text += (
        f"llama_kv_cache_init: kv_size = 1, offload = 1, type_k = '{kind}', type_v = '{kind}'\n"
        if typed
        else ""
    )
    found = verify(MODEL, text, causes=False)
    assert (found.settings.n_ctx, found.settings.type_k) == (n_ctx, kind)
    assert any("bytes of the cache" in t for t in found.taken)


def test_a_cache_that_no_context_has() -> None:
    """Bytes that no context and no type gives say nothing."""
    text = "".join(x + "\n" for x in LOG.splitlines() if "n_ctx =" not in x and "cells" not in x)
    with pytest.raises(SettingsError, match="give --ctx"):
        verify(MODEL, re.sub(r"(KV buffer size =\s+)[\d.]+", r"\g<1>16.03", text))


def test_slots_from_the_bytes_of_states() -> None:
    """A hybrid keeps a state for each slot: where slots are not printed, the bytes tell how many there are."""
    model = replace(MODEL, layers=tuple(replace(layer, states=(4096, 65536)) for layer in MODEL.layers))
    for slots in (1, 4):
        made = estimate(
            model, [CARD], replace(SETTINGS, n_seq_max=slots, kv_unified=True, n_outputs_max=slots)
        )
        text = "".join(x + "\n" for x in printed(made, model).splitlines() if "n_seq_max" not in x)
        found = verify(model, text, causes=False)
        assert found.settings.n_seq_max == slots
        bare = "".join(x + "\n" for x in text.splitlines() if "n_ctx =" not in x and "cells" not in x)
        found = verify(model, bare, causes=False)
        assert (found.settings.n_ctx, found.settings.n_seq_max) == (4096, slots)


def test_a_capability_that_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the card's kind is not said, and the largest figure of all is none, one with which the figures agree is taken."""

    def estimated(model: Model, gpus: Any, settings: Settings) -> Estimate:
        found = estimate(model, gpus, settings)
        more = 0 if gpus[0].compute_capability == "7.5" else 1 << 20
        return replace(found, gpus=(replace(found.gpus[0], compute=found.gpus[0].compute + more),))

    monkeypatch.setattr(sys.modules["vramfit._verify.verify"], "estimate", estimated)
    text = LOG.replace("NVIDIA GeForce RTX 3090, compute capability 8.6", "a card, of which nothing is said")
    found = verify(MODEL, text)
    assert found.agrees
    assert any("7.5, with which the figures agree" in t for t in found.taken)
    off = verify(MODEL, re.sub(r"(CUDA0 compute buffer size =\s+)[\d.]+", r"\g<1>999.99", text), causes=False)
    assert not any("figures agree" in t for t in off.taken)
    assert off.gpus[0].compute_capability is None


def test_flags_of_a_command_line_are_read_one_by_one() -> None:
    """A flag that cannot be planned for, a redirection and words behind the line stop none of the others."""
    line = "$ llama-server -m x.gguf -ot 'exps=CUDA0' -ncmoe 2 --no-such 3 -ot 'ffn=CPU' --mmproj p.gguf -c 4096 2>&1 | tee log\n"
    found = verify(MODEL, line + LOG, causes=False)
    assert len(found.settings.cpu_tensors) == 3
    said = " ".join(found.taken)
    assert "only the host is a target" in said
    assert "projector" in said
    unclosed = verify(MODEL, "$ llama-server -m x.gguf -a 'it -nkvo\n" + LOG, causes=False)
    assert not unclosed.settings.offload_kqv


def test_splits_by_rows_are_not_compared() -> None:
    """The engine's other way to split is not planned; that is said."""
    found = verify(MODEL, LOG + "load_tensors: CUDA0_Split model buffer size = 1.00 MiB\n", load=1)
    assert found.verdict in ("equal", "unchecked")
    rows = LOG.replace("CUDA0 model", "CUDA_Split model")
    assert "rows" in verify(MODEL, rows).reasons[0]


def test_windows_paths_in_a_command_line() -> None:
    """Backslashes of paths are no escapes; those of patterns are."""
    line = r"C:\llama\llama-server.exe -m C:\models\x.gguf -ot blk\.0\.ffn=CPU -c 4096" + "\n"
    found = verify(MODEL, line.replace(r"-ot blk\.0\.ffn", r"-ot 'blk\.0\.ffn'") + LOG, causes=False)
    assert found.settings.cpu_tensors == (r"blk\.0\.ffn",)


def test_the_older_runner_of_ollama() -> None:
    """Its flags are those of a program of Ollama's own."""
    cmd = "/usr/bin/ollama runner --model x --ctx-size 4096 --batch-size 256 --n-gpu-layers 9 --parallel 2 --kv-cache-type q8_0 --flash-attn"
    text = f'time=1 level=INFO source=server.go:1 msg="starting llama server" cmd="{cmd}"\n'
    bare = "".join(
        x + "\n" for x in LOG.splitlines() if "llama_context" not in x and "llama_kv_cache: size" not in x
    )
    found = verify(MODEL, text + bare, causes=False)
    s = found.settings
    assert (s.n_ctx, s.n_ubatch, s.n_seq_max, s.type_k, s.flash_attn) == (4096, 256, 2, "q8_0", "on")


def test_what_lies_beside_is_said() -> None:
    """A projector's buffers are in no row, and a sentence names them."""
    found = verify(MODEL, LOG + "alloc_compute_meta:      CUDA0 compute buffer size =   120.00 MiB\n")
    assert found.agrees
    assert "Beside the model: a projector, 120.00 MiB" in str(found)
    odd = re.sub(r"(CUDA0 compute buffer size =\s+)[\d.]+", r"\g<1>999.99", LOG)
    differs = verify(MODEL, odd, {"engine_build": "b11250"})
    assert differs.verdict == "lower"
    assert "No single change" in str(differs)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"n_embd_v_gqa": "x"}, "how wide"), ({"n_layer = 8": "n_layer = 4"}, "more layers"), ({"n_embd_k_gqa = 128": "n_embd_k_gqa = [128, 64, 128]"}, "every layer"),
     ({"n_embd_k_gqa = 128": "n_embd_k_gqa = [128, 64, 128, 128, 128, 128, 128, 128]", "8 layers": "7 layers"}, "differ in width"),
     ({"llama_kv_cache: size": "llama_memory_recurrent: size"}, "recurrent")],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_what_a_log_alone_does_not_say(change: dict[str, str], said: str) -> None:
    """Each thing that a cache cannot be checked without is named."""
    text = LOG
    for before, after in change.items():
        assert before in text
        text = text.replace(before, after)
    assert said in " ".join(verify(None, text).reasons)


def test_a_log_alone_without_cells() -> None:
    """The context is enough where no cells were printed; without either that is said."""
    without = "".join(x + "\n" for x in LOG.splitlines() if "cells" not in x)
    found = verify(None, without)
    assert next(r for r in found.rows if r.kind == "context").agrees
    assert "neither cells nor context" in " ".join(
        verify(None, "".join(x + "\n" for x in without.splitlines() if "n_ctx" not in x)).reasons
    )
    assert verify(None, "sched_reserve: CUDA0 compute buffer size = 1.00 MiB\n").verdict == "unchecked"


WHOLE = (
    "ggml_cuda_init: found 2 CUDA devices:\n"
    + LOG
    + "tensor blk.1.ffn_up.weight buffer type overridden to CPU\n"
    "llama_model_load_from_file_impl: using device CUDA1 (NVIDIA RTX A4000) - 16000 MiB free\nsrv load_model: initializing slots, n_slots = 4\n"
)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@given(st.data())
@settings_(max_examples=30, deadline=None)
def test_hostile_logs(data: st.DataObject) -> None:
    """Whatever numbers, words and orders a log has, it is compared or refused with an error of ours."""
    values = st.sampled_from(
        ["0", "1", "-1", "999999999", "2147483648", "3", "17", "1e9", "x", "", "0.01", "[1, 2]"]
    )
    lines = data.draw(st.lists(st.sampled_from(WHOLE.splitlines()), max_size=12)) + WHOLE.splitlines()
    for _ in range(data.draw(st.integers(0, 6))):
        i = data.draw(st.integers(0, len(lines) - 1))
        found = [m.span() for m in NUMBER.finditer(lines[i])]
        if found:
            a, b = data.draw(st.sampled_from(found))
            lines[i] = lines[i][:a] + data.draw(values) + lines[i][b:]
    for model in (MODEL, None):
        with contextlib.suppress(vramfit.VramfitError):
            assert str(verify(model, "\n".join(lines), causes=False))


def test_more_devices_than_an_engine_takes() -> None:
    """Such a log is said not to be comparable."""
    many = "".join(f"load_tensors: CUDA{i} model buffer size = 1.00 MiB\n" for i in range(1, 30))
    text = LOG.replace("load_tensors: CPU model", many + "load_tensors: CPU model")
    assert "30 devices" in " ".join(verify(MODEL, text).reasons)


def test_what_no_server_can_be_told() -> None:
    """A pattern that llama-server's flags cannot hold leaves the command out, and the rest stands."""
    found = verify(MODEL, LOG, {"cpu_tensors": ("a,b=c",)})
    assert found.command == ""
    assert found.rows


def test_causes_are_told() -> None:
    """As a sentence: what makes the figures equal, and what else helps; also of layers on the cards."""
    real = printed(estimate(MODEL, [CARD], replace(SETTINGS, n_gpu_layers=5)), build="11250")
    found = verify(MODEL, real, {"n_gpu_layers": 4})
    assert "5 layers on the cards" in str(found)
    assert "Equal with" in str(found)
    two = verify(
        MODEL,
        printed(
            estimate(MODEL, [CARD], replace(SETTINGS, type_k="q8_0", type_v="q8_0", n_ubatch=1024)),
            build="11250",
        ),
        {"type_k": "f16", "type_v": "f16", "n_ubatch": 512},
    )
    assert "Also " in str(two)
    named = replace(two, load=replace(two.load, version="1.98.1"))
    assert "version 1.98.1" in str(named)


def test_builds_that_no_era_knows() -> None:
    """A build whose name says nothing is as none."""
    load = next(loads_of(LOG))
    assert named_build(replace(load, build="x y")) == ""
    assert named_build(replace(load, build="b8470")) == "b8470"


def test_experts_without_a_size_of_the_file() -> None:
    """What lies on cards and host is the file, where nothing of it is mapped; else the header's size counts."""
    model = mixture(MODEL, n_expert=8, n_used=2)
    made = estimate(model, [CARD], replace(SETTINGS, cpu_tensors=first_experts(4)))
    bare = printed(made, model, facts=False)
    for text in (
        bare,
        bare.replace("CPU model", "CPU_Mapped model"),
        bare.replace("load_tensors: CPU model", "x"),
    ):
        assert verify(model, text, causes=False).settings.cpu_tensors == first_experts(4)
    without = "".join(x + "\n" for x in bare.splitlines() if "CUDA0 model" not in x)
    assert verify(model, without, causes=False).settings.cpu_tensors == ()


def test_what_was_measured_as_nothing_is_not_near() -> None:
    """A device that an engine gave nothing, and the estimate something, makes the estimate higher."""
    nothing = Row("CUDA0", "compute", 1 << 20, Size(0, 0))
    assert verdict_of([nothing]) == "higher"
    assert verdict_of([replace(nothing, estimate=0)]) == "equal"
