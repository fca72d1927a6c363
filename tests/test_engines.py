"""Engines: their defaults, what each is told, and that it means what was planned."""

from __future__ import annotations

import ast
import json
import shlex
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import GpuError, SettingsError
from vramfit._cli import engines as options
from vramfit._cli import main
from vramfit._devices import Gpu
from vramfit._engines.choose import plan_for
from vramfit._engines.clients import CLIENTS, client_config
from vramfit._engines.ollama import (
    auto_batch,
    best_card,
    default_context,
    environment,
    largest_on_one_card,
    predicted,
    takes_one_card,
)
from vramfit._engines.server import arguments, model_flags, parse_command, shares
from vramfit._engines.settings import as_run, defaults, engine_settings
from vramfit._engines.table import ENGINES, find
from vramfit._engines.told import command
from vramfit._llama.model import Model
from vramfit._llama.params import CACHE_TYPES, EXPERTS, LOAD_MODES, Settings
from vramfit._planner.plan import Plan, plan

MIB = 1 << 20
EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL = replace(dense(n_layer=8, n_embd=512, n_ff=2048, n_ctx_train=65536), source="model.gguf")
UNEVEN = [gpu(600, name="big"), gpu(400, name="small")]


@lru_cache(maxsize=4)
def planned(**options: Any) -> Plan:
    return plan(MODEL, UNEVEN, Settings(flash_attn="on", **options), margin_bytes=64 * MIB)


patterns = st.one_of(
    st.just(EXPERTS),
    st.integers(0, 3).map(lambda i: rf"blk\.{i}{EXPERTS}"),
    st.from_regex(r"\A(blk\\\.[0-9]\\\.ffn_(up|down)|token_embd|attn_[kqv] 'x' \$HOME)\Z"),
)
any_settings = st.builds(
    Settings,
    n_ctx=st.integers(0, 2**31 - 1), n_batch=st.integers(1, 8192), n_ubatch=st.integers(0, 8192),
    n_seq_max=st.integers(1, 256), kv_unified=st.booleans(), flash_attn=st.sampled_from(["on", "off", "auto"]),
    type_k=st.sampled_from(CACHE_TYPES), type_v=st.sampled_from(CACHE_TYPES), offload_kqv=st.booleans(),
    swa_full=st.booleans(), op_offload=st.booleans(), n_gpu_layers=st.integers(-2, 200),
    split_mode=st.sampled_from(["layer", "none"]), main_gpu=st.integers(-1, 15), embeddings=st.booleans(),
    tensor_split=st.lists(st.floats(0, 1e12) | st.integers(0, 200).map(float), max_size=15).map(tuple),
    cpu_tensors=st.lists(patterns, max_size=6).map(tuple), n_outputs_max=st.integers(0, 8),
    load_mode=st.sampled_from(LOAD_MODES),
)  # fmt: skip


@given(any_settings)
def test_a_command_read_back_gives_the_same_settings(settings: Settings) -> None:
    """What llama-server is told means the settings that it was made from, as the server runs them."""
    text = shlex.join(["llama-server", "-m", "a b.gguf", *arguments(settings), "--fit", "off"])
    assert parse_command(text) == as_run(settings, "llama-server")


@given(any_settings, st.sampled_from(sorted(ENGINES)))
def test_running_is_idempotent(settings: Settings, engine: str) -> None:
    """What an engine makes of settings it makes of them again, or it refuses them for good."""
    try:
        once = as_run(settings, engine)
    except SettingsError:
        return
    assert as_run(once, engine) == once


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("llama-server", Settings(n_seq_max=4, kv_unified=True, n_outputs_max=4)),
        ("ollama", Settings(n_batch=512, n_outputs_max=1)),
        ("ollama-before-0.30", Settings(n_batch=512, flash_attn="off", engine_build="ollama@0.24")),
        ("llama-cpp-python", Settings(n_batch=512, flash_attn="off", swa_full=True)),
        ("lm-studio", Settings(n_batch=512, n_seq_max=4, kv_unified=True)),
    ],
)
def test_defaults(engine: str, expected: Settings) -> None:
    """Each engine's own slots, batches, logits and flash attention."""
    assert defaults(engine) == expected


def test_defaults_follow_what_is_given() -> None:
    """Explicit slots are not unified in llama-server; Ollama has one batch; what is given wins."""
    assert engine_settings("llama-server", {"n_seq_max": 2}) == Settings(n_seq_max=2, n_outputs_max=2)
    assert engine_settings("llama-server", {"n_seq_max": 2, "kv_unified": True}).kv_unified
    assert engine_settings("llama-server", kv_unified=False).kv_unified  # slots left to it share one cache
    assert engine_settings("ollama", {"n_batch": 1024}).n_ubatch == 1024
    assert engine_settings("ollama", {"n_ubatch": 256}).n_batch == 256
    assert engine_settings("llama-cpp-python", {"flash_attn": "on"}).flash_attn == "on"
    assert as_run(Settings(), "ollama").n_batch == 512
    assert engine_settings("llama-server", {"embeddings": True}).n_outputs_max == 0


@pytest.mark.parametrize(
    ("engine", "given_", "message"),
    [
        ("llama-cpp-python", {"n_seq_max": 2}, "n_seq_max=2"),
        ("llama-cpp-python", {"cpu_tensors": ("x",)}, "cpu_tensors"),
        ("ollama-before-0.30", {"type_k": "q8_0"}, "OLLAMA_KV_CACHE_TYPE"),
        ("ollama-before-0.30", {"type_k": "q5_0", "type_v": "q5_0"}, "q4_0"),
        ("ollama-before-0.30", {"tensor_split": (1, 2)}, "tensor_split"),
        ("lm-studio", {"swa_full": True}, "swa_full"),
        ("ollama", {"load_mode": "none"}, "load_mode='none'; it uses 'auto'"),
        ("lama-server", {}, "did you mean llama-server"),
    ],
)
def test_what_an_engine_cannot_be_told_is_an_error(engine: str, given_: dict[str, Any], message: str) -> None:
    """A setting that an engine does not offer is refused, not dropped."""
    with pytest.raises(SettingsError, match=message):
        engine_settings(engine, given_)


def test_the_server_command_says_everything() -> None:
    """Every flag the plan rests on is written out, the split included, and --fit is off."""
    found = planned(type_k="q8_0", type_v="q8_0")
    text = found.command()
    split = ",".join(map(str, found.tensor_split))
    assert text == (
        f"llama-server -m model.gguf -c {found.n_ctx} -b 2048 -ub 512 -np 1 -no-kvu -fa on -ctk q8_0 -ctv q8_0"
        f" -ngl all -sm layer -ts {split} --fit off"
    )
    assert parse_command(text) == as_run(found.settings, "llama-server")
    no = plan(MODEL, UNEVEN, Settings(n_ctx=10_000_000, flash_attn="on"))
    assert "--fit" not in no.command()


def test_models_are_named_as_the_server_wants_them() -> None:
    """Files, URLs and repositories of the Hub each have a flag of their own."""
    assert model_flags("hf.co/user/repo:Q8_0") == ["-hf", "user/repo:Q8_0"]
    assert model_flags("hf://user/repo/file.gguf") == ["-hf", "user/repo", "-hff", "file.gguf"]
    assert model_flags("https://host/x.gguf") == ["-mu", "https://host/x.gguf"]
    assert model_flags("<12 bytes>") == ["-m", "model.gguf"]


def test_shares_have_the_engines_limit() -> None:
    """llama-server takes 15 shares; a sixteenth of 0 can be left out, another cannot."""
    assert shares((34.0, 15.0)) == "34,15"
    assert shares((1.0,) * 15 + (0.0,)) == ",".join(["1"] * 15)
    with pytest.raises(SettingsError, match="at most 15"):
        shares((1.0,) * 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("llama-server --frobnicate 3", "--frobnicate"),
        ("llama-server -c", "-c needs a value"),
        ("llama-server -c many", "not a number"),
        ("llama-server -ot exps=CUDA0", "only the host"),
        ("llama-server -ncmoe x", "number of layers"),
        ("llama-server -m 'x", "not a command line"),
    ],
)
def test_malformed_commands(text: str, message: str) -> None:
    """A flag or value that cannot be understood is named."""
    with pytest.raises(SettingsError, match=message):
        parse_command(text)


WORDS = """llama-server -c -ts 3,1 -ngl all -ot a=CPU -ncmoe 7 -fa on -np 99999 nan -- ' \\ -m x -sm none -ctv q8_0"""
words = st.sampled_from(WORDS.split())


@given(st.one_of(st.text(max_size=40), st.lists(words, max_size=12).map(" ".join)))
def test_any_command_line_is_settings_or_an_error(text: str) -> None:
    """Whatever is pasted gives settings, or a SettingsError that says why not."""
    try:
        found = parse_command(text)
    except SettingsError:
        return
    assert as_run(found, "llama-server") == found


def test_commands_people_have() -> None:
    """Long names, shares behind slashes, continued lines, and flags that change no memory."""
    text = (
        "./llama-server --model x.gguf --ctx-size 32768 \\\n --flash-attn 1 --n-gpu-layers 99 --jinja --host 0.0.0.0"
        " -ts 3/1 --cpu-moe --parallel -1"
    )
    assert parse_command(text) == replace(
        defaults("llama-server"), n_ctx=32768, flash_attn="on", n_gpu_layers=99, tensor_split=(3.0, 1.0), cpu_tensors=(EXPERTS,)
    )  # fmt: skip


def test_patterns_that_the_flag_would_cut() -> None:
    """-ot is cut at commas and equals signs, so such a pattern cannot be told."""
    with pytest.raises(SettingsError, match="cuts -ot"):
        arguments(Settings(cpu_tensors=("blk{1,2}",)))


def test_python_source_calls_llama() -> None:
    """The source is valid Python, and its keywords are the plan's."""
    settings = Settings(type_k="q8_0", type_v="q8_0", split_mode="none", main_gpu=1)
    tree = ast.parse(plan(MODEL, UNEVEN, settings, margin_bytes=64 * MIB).command("llama-cpp-python"))
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert found["flash_attn"] is True
    assert (found["type_k"], found["main_gpu"], found["split_mode"]) == (8, 1, 0)
    assert found["model_path"] == "model.gguf"


def test_more_logits_than_were_counted_are_noticed() -> None:
    """A plan that counts one row of logits is not handed to an engine that keeps the batch's and would not fit."""
    wide = replace(dense(n_vocab=200_000, n_ctx_train=1 << 20), source="model.gguf")
    tight = plan(wide, [gpu(1500)], Settings(flash_attn="on", n_outputs_max=1), margin_bytes=64 * MIB)
    with pytest.raises(SettingsError, match="keeps logits"):
        tight.command("llama-cpp-python")


def variables(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text) if "=" in word)


def test_ollama_is_told_in_two_places() -> None:
    """The Modelfile carries context, layers and batch; the server's environment the rest."""
    found = planned(type_k="q8_0", type_v="q8_0")
    lines = found.modelfile().splitlines()
    assert "FROM ./model.gguf" in lines
    assert f"PARAMETER num_ctx {found.n_ctx}" in lines
    assert "PARAMETER num_gpu 9" in lines
    assert "PARAMETER num_batch 512" in lines
    env = variables(found.command("ollama"))
    assert env["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert env["OLLAMA_FLASH_ATTENTION"] == "1"
    assert env["LLAMA_ARG_TENSOR_SPLIT"] == ",".join(map(str, found.tensor_split))
    assert "LLAMA_ARG_TENSOR_SPLIT" not in variables(
        plan_for(MODEL, UNEVEN, defaults("ollama"), "ollama", margin_bytes=64 * MIB).command("ollama")
    )
    with pytest.raises(SettingsError, match="no Modelfile"):
        found.modelfile("llama-server")


def test_what_a_modelfile_cannot_say_goes_to_the_inner_server() -> None:
    """Host tensors, the cache's place and its shape are variables of the llama-server inside Ollama."""
    settings = Settings(
        type_k="q8_0", swa_full=True, offload_kqv=False, flash_attn="on",
        cpu_tensors=("blk.0", EXPERTS, rf"blk\.0{EXPERTS}"),
    )  # fmt: skip
    env = environment(plan(MODEL, [gpu()], settings), find("ollama"))
    assert env == env | {
        "LLAMA_ARG_CACHE_TYPE_K": "q8_0", "LLAMA_ARG_CACHE_TYPE_V": "f16", "LLAMA_ARG_SWA_FULL": "on",
        "LLAMA_ARG_KV_OFFLOAD": "off", "LLAMA_ARG_OVERRIDE_TENSOR": "blk.0=CPU", "LLAMA_ARG_CPU_MOE": "on",
        "LLAMA_ARG_N_CPU_MOE": "1",
    }  # fmt: skip


def test_old_ollama_is_told_less() -> None:
    """Before 0.30 no variable reaches the engine, and a split cannot be told at all."""
    with pytest.raises(SettingsError, match="cannot be told the split"):
        planned().command("ollama-before-0.30")
    own = plan_for(MODEL, UNEVEN, defaults("ollama-before-0.30"), "ollama-before-0.30", margin_bytes=64 * MIB)
    assert "LLAMA_ARG" not in own.modelfile("ollama-before-0.30")
    assert variables(own.command("ollama-before-0.30"))["OLLAMA_FLASH_ATTENTION"] == "0"


def test_lm_studio() -> None:
    """`lms load` gets context and slots; what only the window has is beside it."""
    found = plan(MODEL, [gpu()], defaults("lm-studio"))
    text = found.command("lm-studio")
    assert f"lms load model --gpu max --context-length {found.n_ctx} --parallel 4" in text
    assert "# K Cache Quantization f16" in text


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_plan_for_an_engine_can_be_run_there(engine: str) -> None:
    """What was planned for an engine is not refused by it, and never beats the best split."""
    found = plan_for(MODEL, UNEVEN, engine_settings(engine, {}), engine, margin_bytes=64 * MIB)
    assert found.fits
    assert str(found.n_ctx) in command(found, engine)
    if ENGINES[engine].split != "free":  # Ollama may take one card, which saves the copies between cards
        best = plan(MODEL, UNEVEN, defaults(engine), margin_bytes=64 * MIB)
        assert found.n_ctx <= best.n_ctx
        assert ENGINES[engine].split != "told" or found.n_ctx == best.n_ctx


def test_the_price_of_an_engines_own_split_is_said() -> None:
    """Even shares on uneven cards cost context, and the warning says how much and what would help."""
    even = plan_for(MODEL, UNEVEN, defaults("lm-studio"), "lm-studio", margin_bytes=64 * MIB)
    assert "splits the layers evenly" in even.warnings[-1]
    assert "cannot be told another" in even.warnings[-1]
    cards = [gpu(140, name="a"), gpu(110, name="b")]
    own = plan_for(MODEL, cards, engine_settings("ollama", {"flash_attn": "on"}), "ollama", margin_bytes=0)
    assert "LLAMA_ARG_TENSOR_SPLIT=" in own.warnings[-1] or "the plan counts on that" in own.warnings[-1]


def test_ollama_takes_one_card_while_it_believes_that_it_fits() -> None:
    """Up to four fifths of the best card's free memory by Ollama's formula, that card alone is used."""
    limit = largest_on_one_card(MODEL, UNEVEN, 256)
    assert takes_one_card(MODEL, UNEVEN, limit)
    assert not takes_one_card(MODEL, UNEVEN, limit + 256)
    assert best_card([gpu(500), Gpu("igpu", 4 << 30, unified=True), gpu(800)]) == 2
    one = plan_for(MODEL, UNEVEN, engine_settings("ollama", {"n_ctx": 4096}), "ollama", margin_bytes=0)
    assert (one.settings.split_mode, one.tensor_split) == ("none", (9, 0))
    assert "PARAMETER main_gpu 0" in one.modelfile()
    assert "takes big alone" in one.warnings[-1]
    huge = engine_settings("ollama", {"n_ctx": limit + 256})
    assert plan_for(MODEL, UNEVEN, huge, "ollama", margin_bytes=0).settings.split_mode == "layer"
    assert largest_on_one_card(MODEL, [gpu(8), gpu(8)], 256) == 0


def test_the_largest_context_is_one_that_ollama_lays_out_that_way() -> None:
    """Where Ollama's choice depends on the context, the plan's context is one for which it holds."""
    for big, small in ((1000, 500), (400, 350), (300, 290), (120, 110)):
        cards = [gpu(big, name="big"), gpu(small, name="small")]
        found = plan_for(
            MODEL, cards, engine_settings("ollama", {"flash_attn": "on"}), "ollama", margin_bytes=16 * MIB
        )
        assert takes_one_card(MODEL, cards, found.n_ctx) == (found.settings.split_mode == "none")


def test_ollamas_own_figures() -> None:
    """Its prediction, its default context by memory, and its batch by context and room."""
    assert predicted(MODEL, 1000) == MODEL.tensor_bytes + 2 * 8 * 2 * 128 * 1000 * 2
    assert [default_context([gpu(mib)]) for mib in (8192, 23 << 10, 48 << 10)] == [4096, 32768, 262144]
    big = [gpu(48 << 10)]
    assert [auto_batch(MODEL, big, n, "auto") for n in (4096, 4352, 32768, 33024)] == [512, 1024, 1024, 2048]
    assert auto_batch(MODEL, [gpu(900)], 33024, "auto") == 512
    assert [auto_batch(MODEL, [gpu(mib)], 8192, "off") for mib in (24 << 10, 8 << 10)] == [512, 256]
    assert auto_batch(replace(MODEL, is_encoder=True), big, 512, "auto") == 512


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_get_the_same_context(client: str) -> None:
    """Each client's configuration is well formed and carries the plan's context."""
    found = planned()
    text = client_config(found, client, model="mine")
    read = yaml.safe_load(text) if client in ("aider", "continue") else json.loads(text)
    assert str(found.n_ctx) in text
    assert "mine" in str(read)
    with pytest.raises(SettingsError, match="give one of"):
        client_config(found, "emacs")


def test_unnamed_models_and_urls() -> None:
    """A model without a file name gets a placeholder; Ollama reads no URLs."""

    def named(source: str) -> Plan:
        model: Model = replace(MODEL, source=source)
        return plan(model, [gpu()])

    assert "FROM ./model.gguf" in named("<100 bytes>").modelfile()
    assert "FROM qwen2.5:7b" in named("qwen2.5:7b").modelfile()
    assert "FROM hf.co/u/r:Q4_0" in named("hf.co/u/r:Q4_0").modelfile()
    assert "FROM /x/y.gguf" in named("/x/y.gguf").modelfile()
    with pytest.raises(SettingsError, match="no URLs"):
        named("https://host/x.gguf").modelfile()


def test_ollama_settles_slots_and_flash_attention() -> None:
    """Some families get one slot, old cards no flash attention, and the plan counts on both."""
    asked = engine_settings("ollama", {"n_seq_max": 4})
    assert plan_for(MODEL, [gpu()], asked, "ollama").settings.n_seq_max == 4
    several = replace(MODEL, architecture="qwen3vl")
    assert plan_for(several, [gpu()], asked, "ollama").settings.n_seq_max == 1
    for capability, expected in (("5.2", "off"), ("7.2", "off"), ("8.6", "auto")):
        card = replace(gpu(), compute_capability=capability)
        found = plan_for(MODEL, [card], defaults("ollama"), "ollama")
        assert found.settings.flash_attn == expected
    old = replace(gpu(), compute_capability="5.2")
    assert "OLLAMA_FLASH_ATTENTION=0" in plan_for(MODEL, [old], defaults("ollama"), "ollama").command(
        "ollama"
    )


def test_embedding_mode() -> None:
    """A server keeps one batch size for embeddings; llama-cpp-python makes every sequence of a batch a slot."""
    server = engine_settings("llama-server", {"embeddings": True})
    assert (server.n_batch, server.n_ubatch, server.n_outputs_max) == (512, 512, 0)
    binding = engine_settings("llama-cpp-python", {"embeddings": True, "n_ctx": 100})
    assert (binding.n_seq_max, binding.kv_unified) == (100, True)
    assert "embedding=True" in plan(MODEL, [gpu()], Settings(embeddings=True)).command("llama-cpp-python")


def test_limits_of_an_engines_own_split() -> None:
    """Where Ollama's change to all cards is the limit, it is named; the caller's own limit stays the caller's."""
    found = plan_for(MODEL, UNEVEN, defaults("ollama"), "ollama", margin_bytes=0)
    below = largest_on_one_card(MODEL, UNEVEN, 256)
    assert found.settings.split_mode == "none"
    assert found.n_ctx <= below
    assert (
        plan_for(MODEL, UNEVEN, defaults("ollama"), "ollama", margin_bytes=0, max_ctx=1024).limited_by
        == "max_ctx"
    )
    roomy = [gpu(90_000), gpu(6000)]
    assert plan_for(MODEL, roomy, defaults("ollama"), "ollama").limited_by == "the trained context"


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_no_cards(engine: str) -> None:
    """On the host alone there is no split to be told, in any engine."""
    found = plan_for(MODEL, [], defaults(engine), engine)
    assert found.fits
    assert found.command(engine)


@pytest.mark.parametrize("engine", ["ollama", "ollama@0.24", "lm-studio"])
def test_a_backend_that_an_engine_lacks_is_an_error_that_says_what_to_do(engine: str) -> None:
    card = replace(gpu(8000, name="Arc"), backend="sycl")
    with pytest.raises(GpuError, match=r"Arc: .* has no backend for it under sycl; .*vulkan.*llama-server"):
        plan_for(MODEL, [card], {"n_ctx": 512}, engine)
    assert plan_for(MODEL, [card], {"n_ctx": 512}, "llama-server").fits


def run(*args: str) -> Result:
    return CliRunner().invoke(
        main, ["plan", str(EXAMPLES / "gemma-3-12b-q4_k_m.gguf"), "--gpus", "4090", *args]
    )


def test_the_command_line_plans_for_an_engine() -> None:
    """--engine sets its defaults, what was typed wins, and what to run is printed and in the JSON."""
    result = run("--engine", "llama-cpp-python", "-fa", "on", "-c", "8192")
    assert result.exit_code == 0, result.output
    assert "swa_full=True" in result.output
    assert "n_batch=512" in result.output
    found = json.loads(run("--engine", "ollama", "-b", "256", "-c", "8192", "--json").output)
    assert found["settings"]["n_ubatch"] == 256
    assert "PARAMETER num_batch 256" in found["modelfile"]
    assert found["command"].endswith("ollama serve")
    assert json.loads(run("-c", "8192", "--json").output)["command"] is None
    assert run("--engine", "llama-cpp-python", "-np", "2").exit_code == 1
    assert "PARAMETER num_ctx 8192" in run("--engine", "ollama", "-c", "8192").output
    assert "Modelfile" not in run("--engine", "ollama", "-c", "131072", "-fa", "off", "-ctk", "f32").output
    assert "num_ctx: 8192" in run("-c", "8192", "--client", "aider").output


def test_the_command_line_offers_every_engine_and_client() -> None:
    """The choices of the options are the engines and clients there are."""
    assert set(options.ENGINES) == set(ENGINES)
    assert set(options.CLIENTS) == set(CLIENTS)
