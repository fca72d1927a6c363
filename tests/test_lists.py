"""Lists of models: what people have is told by its content, read in bounds, and refused with what to do."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, examples
from hypothesis import example, given
from hypothesis import strategies as st

import vramfit
from vramfit import Tenant, VramfitError
from vramfit._base.foreign import yaml_text
from vramfit._engines.lists import MAX_BYTES, Listed, read_list
from vramfit._engines.lists.over import both, check_weights, limited, named_apart, over
from vramfit._llama.flags import Line, read
from vramfit._sources.named import by_flags, reference_of
from vramfit._sources.texts import short_file

SERVER = "llama-server -m a.gguf"
BESIDE = ROOT / "examples/beside"
SMALL = BESIDE / "qwen2.5-0.5b-instruct-q4_k_m.gguf"


def models(text: str, *only: str) -> tuple[Listed, ...]:
    return read_list(text, "list", only).models


def one(text: str) -> Listed:
    (found,) = models(text)
    return found


def refused(text: str | bytes, *only: str) -> str:
    with pytest.raises(VramfitError) as e:
        read_list(text, "list", only)
    return str(e.value)


# commands


def test_a_script_is_read_as_a_shell_reads_it() -> None:
    """Variables, continuations, comments, redirections, wrappers and the environment mean what they mean there."""
    text = """#!/bin/sh
set -e
M='/data/my models'   # where they are
export LLAMA_ARG_CACHE_TYPE_K=q8_0

nohup llama-server -m "$M/a b.gguf" -c 32k \\
    -ngl 99 --jinja > log#1.txt 2>&1 &
CUDA_VISIBLE_DEVICES=1 exec /opt/bin/llama-server -hf me/b:Q8_0 -a coder,other -ctk f16 # the end
cd /tmp && taskset -c 0-7 llama-server --model='c#.gguf' | tee out
"""
    a, b, c = (found := read_list(text, "list")).models
    assert [x.reference for x in (a, b, c)] == ["/data/my models/a b.gguf", "hf://me/b:Q8_0", "c#.gguf"]
    assert dict(a.line.given) == {"n_ctx": 32768, "n_gpu_layers": 99, "type_k": "q8_0"}
    assert (a.where, b.where, b.name, b.called, a.called) == (
        "list: line 6",
        "list: line 8",
        "coder",
        "coder",
        "a b",
    )
    assert b.line.given["type_k"] == "f16"
    assert "CUDA_VISIBLE_DEVICES=1 (which cards" in b.line.warnings[0]
    assert not a.line.warnings
    assert not c.line.warnings
    assert found.notes == ("Passed over: line 2: set", "Passed over: line 9: cd", "Passed over: line 9: tee")


def test_of_two_values_of_a_variable_the_last_counts() -> None:
    """What stands before a command goes over what was exported."""
    text = f"export CUDA_VISIBLE_DEVICES=0\nCUDA_VISIBLE_DEVICES=1,2 {SERVER}"
    assert one(text).line.uncounted[0][1] == ("CUDA_VISIBLE_DEVICES=1,2",)


@pytest.mark.parametrize(
    "before", ["exec", "nohup", "sudo -u llama-user", "nice -n 5 env A=b", "nohup /usr/bin/time", "A=b exec"]
)
@pytest.mark.parametrize("program", ["llama-server", "./bin/llama-server-b8470", "./my-server"])
def test_what_starts_a_program_is_no_part_of_its_line(before: str, program: str) -> None:
    """However many there are; a program of another name is told by its flags."""
    if program == "./my-server" and " -" in before:
        return  # whose option its word is, nobody knows
    command = f"{before} {program} -m a.gguf -c 4k"
    assert one(command).line.given == {"n_ctx": 4096}
    assert one(f"models: {{x: {{cmd: {command}}}}}").line.given == {"n_ctx": 4096}


def test_a_context_of_0_is_as_much_as_can_be() -> None:
    """As one that is not named; any other is fixed."""
    assert "n_ctx" not in one(f"{SERVER} -c 0").line.given
    assert one(f"{SERVER} -c 0").line.given == one(SERVER).line.given
    assert one(f"{SERVER} -c 4096").line.given["n_ctx"] == 4096


def test_companions_and_the_token_are_of_each_line() -> None:
    """A draft of one model is none of the other."""
    a, b = models(f"{SERVER} -md d.gguf -hft secret\nllama-server -m b.gguf --mmproj p.gguf")
    assert dict(a.line.company) == {"draft": "d.gguf"}
    assert dict(b.line.company) == {"mmproj": "p.gguf"}
    assert (a.token, b.token) == ("secret", "")
    assert one(ours("model: hf.co/me/a, flags: -hft secret")).token == "secret"
    assert "secret" not in repr(a)
    assert "secret" not in refused(ours("model: x, flags: -hft secret -m https://me:secret@h/a.gguf"))


def test_home_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell does, for ~ and $HOME."""
    monkeypatch.setenv("HOME", "/home/me")
    assert one("llama-server -m ~/a.gguf").reference == "/home/me/a.gguf"
    assert one('llama-server -m "${HOME}/a.gguf"').reference == "/home/me/a.gguf"
    assert one("models: [~/a.gguf]").reference == "/home/me/a.gguf"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{SERVER}\nllama-server -c 4096", "list: line 2: names no model; add -m FILE"),
        (f"{SERVER} -c 4096x", "list: line 1: -c '4096x'"),
        (f"{SERVER} --ctx-sze 4", "did you mean --ctx-size"),
        (f"{SERVER} 'open", "line 1: \"'open\" is not a command line: No closing quotation"),
        ("llama-server -m $DIR/a.gguf", "list: line 1: '$DIR' is for a shell to know; write out"),
        ("llama-server -m $(ls)", "'$(ls)' is for a shell to know"),
        ("llama-server -m `ls`", "is for a shell to know"),
        ('M="it\'s"\nllama-server -m $M', "is for a shell to know"),
        (f"{SERVER} <<EOF", "give plain commands"),
        (f"{SERVER}\nfor x in a b", "line 2: 'for x in a b' is no command of llama-server; A list is"),
        ("docker run --rm x -m a.gguf", "list: line 1: docker: give a command line of llama-server: that which runs"),
        ("llama-server --models-preset my.ini", "it starts a router; give its presets, as in --models 'my.ini'"),
        ("llama-server --models-dir d", "it starts a router; name the models of that folder"),
        (f"{SERVER} -hf me/b", "list: line 1: two models given: a.gguf and hf://me/b"),
        (f"{SERVER} -hff x", "--hf-file x needs --hf-repo"),
        ("set -e\nwait", "none of its commands starts a llama-server"),
        ("\n".join([SERVER] * 9), "9 models: give 1 to 8, or name before --models"),
        ("\n".join([SERVER] * 257), "more than 256 models; cut the list"),
        ("A=" + "a" * 40000 + "\nllama-server -m $A$A", "more than 65,536 characters"),
        ("\n".join(f"A{i}=b" for i in range(300)), "or 256 of them"),
    ],
)  # fmt: skip
def test_a_script_is_refused_with_its_line(text: str, said: str) -> None:
    assert said in refused(text)


# YAML of ours


def test_yaml_has_settings_for_each_and_for_all() -> None:
    """Every key is read; words stay words, whatever YAML makes of them."""
    text = """
gpus: [3090ti, 2x4090]
host: 64GiB
margin: 512MiB
maximise: order
models:
  - hf.co/me/a:Q8_0
  - {model: b.gguf, name: on, ctx: 010, flags: -fa on -ctk q8_0 --jinja}
  - command: llama-server -m c.gguf -np 2
    wish: 64k
  - {model: d.gguf, ctx: train}
  - {model: e.gguf, ctx: max, wish: train}
"""
    found = read_list(text, "list")
    assert (found.gpus, found.host, found.margin, found.maximise) == (
        "3090ti,2x4090",
        "64GiB",
        "512MiB",
        "order",
    )
    a, b, c, d, e = found.models
    assert (a.reference, a.where) == ("hf.co/me/a:Q8_0", "list: models[0]")
    assert (b.name, b.line.given["n_ctx"], b.line.given["type_k"], b.line.ignored) == (
        "on",
        10,
        "q8_0",
        ("--jinja",),
    )
    assert (c.reference, c.wish, c.line.given["n_seq_max"]) == ("c.gguf", 65536, 2)
    assert d.line.given["n_ctx"] == 0
    assert ("n_ctx" in e.line.given, e.wish) == (False, 0)


def ours(model: str) -> str:
    return f"models:\n  - {{{model}}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu: 3090\nmodels: [a]", "list: 'gpu' is no key of it; did you mean gpus?"),
        (ours("model: a, wich: 5"), "list: models[0]: 'wich' is no key of it; did you mean wish?"),
        (ours("model: a, ctx: 4k, wish: 8k"), "models[0]: ctx 4096 fixes its context, and wish 8192 asks for another"),
        (ours("command: llama-server -m a -c 4096, wish: 8k"), "ctx 4096 fixes its context, and wish 8192"),
        (ours("model: a, ctx: 4k, flags: -c 8192"), "ctx 4k and -c 8192: give one of the two"),
        (ours("model: a, ctx: 4k, weight: 2"), "ctx 4096 fixes its context, and weight 2"),
        (ours("model: a, ctx: many"), "models[0]: ctx: 'many': not a number"),
        (ours("model: a, wish: 0"), "models[0]: wish 0: give 1 or more, or train"),
        (ours("model: a, weight: heavy"), "models[0]: weight 'heavy': give a number above 0"),
        (ours("model: a, command: llama-server -m b"), "give model, or command"),
        (ours("name: a"), "give model, or command"),
        (ours("command: llama-server -m b, flags: -fa on"), "flags beside command"),
        (ours("model: a, flags: b"), "flags 'b': give flags of llama-server"),
        (ours("model: a, flags: -m b"), "two models given: a and b; leave one out"),
        (ours("model: a, flags: \"-ot 'x\""), "models[0]: \"-ot 'x\" is not a command line: No closing quotation"),
        (ours("model: [a]"), "models[0]: model: ['a']: give one value"),
        ("models: [llama-server -m a]", "is a command; write - command: before it"),
        ("models: [[a]]", "give a model's name, or a mapping"),
        ("models: a", "list: models: give a list"),
        ("models: []", "list: no model in it; a list is one of"),
        ("gpus: 3090", "list: models: give a list"),
        ("gpus: {a: b}\nmodels: [a]", "list: gpus: {'a': 'b'}: give one value"),
        ("maximise: all\nmodels: [a]", "list: maximise: 'all': give one of share, order"),
        ("- a\n- b", "YAML without models; write models: before the list"),
        ("models: &x [a]", "line 1: an alias or anchor ('x'); write out"),
        ("models: [a]\ngpus: *x", "line 2: an alias or anchor ('x')"),
        ("models: !!python/name:os.system [a]", "line 1: a tag ("),
        ("models: [a]\nmodels: [b]", "line 2: 'models' is there twice"),
        ("models: [a", "list: line 1: not YAML: "),
        ("models: [a]\n---\nmodels: [b]", "not YAML: but found another document"),
        ("models: [\x01]", "not YAML: unacceptable character"),
        ("models: " + "[" * 20, "nested deeper than 12"),
        ("models: [" + "a," * 20000, "more than 10,000 words"),
        ("? [a]\n: b\nmodels: []", "a key is a word"),
        ("models: [" + "a," * 300 + "]", "more than 256 models"),
        ("services:\n  a: b", "'services' is no key of it"),
    ],
)  # fmt: skip
def test_yaml_is_refused_with_its_key(text: str, said: str) -> None:
    assert said in refused(text)


# llama-server's presets


def test_presets_are_read_as_the_router_reads_them() -> None:
    """Sections are models, `[*]` lies under each; keys are flags of any spelling, or variables."""
    text = """version = 1
; for all
[*]
c = 8192
mmap = false

[me/x-gguf:q8_0]   # of the Hub
n-gpu-layers = 12 ; not all
no-kv-offload = true
LLAMA_ARG_CACHE_TYPE_K = q8_0
LLAMA_ARG_MODELS_MAX = 4
alias = x
[custom]
load-on-startup = true
model = /a/b c.gguf
ctx-size = 0
kv-offload = off
swa-full = false
"""
    hub, own = models(text)
    assert (hub.name, hub.reference, hub.where) == (
        "me/x-gguf:Q8_0",
        "hf://me/x-gguf:Q8_0",
        "list: [me/x-gguf:q8_0]",
    )
    assert dict(hub.line.given) == {
        "n_ctx": 8192, "load_mode": "none", "n_gpu_layers": 12, "offload_kqv": False, "type_k": "q8_0",
    }  # fmt: skip
    assert (own.name, own.reference) == ("custom", "/a/b c.gguf")
    assert dict(own.line.given) == {"load_mode": "none", "offload_kqv": False}
    assert not own.line.warnings


def test_a_negated_variable_of_a_preset_is_not_turned_round() -> None:
    """As in the engine, which turns round negated flags alone (preset.cpp:97)."""
    section = "[a]\nmodel = a.gguf\n"
    assert one(f"{section}LLAMA_ARG_NO_KV_OFFLOAD = true").line.given["offload_kqv"] is True
    assert one(f"{section}LLAMA_ARG_KV_OFFLOAD = false").line.given["offload_kqv"] is False
    assert one(f"{section}no-kv-offload = false").line.given["offload_kqv"] is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]\nctx-sizes = 4", "list: [a]: 'ctx-sizes' is no flag of llama-server; did you mean ctx-size?"),
        ("[a]\nctx-size = 4", "list: [a]: names no model; add model = FILE"),
        ("c = 4\n[a]\nmodel = a", "list: [default]: names no model; keys that hold for all models stand under [*]"),
        ("[a]\nmodel = a\nhf-repo = b/c", "list: [a]: two models given"),
        ("[a]\nmodel = a\nc = x", "list: [a]: --ctx-size 'x'"),
        ("[a]\nmodel a", "list: line 2: 'model a': write [section], key = value"),
        ("[a]\ncontrol-vector-layer-range = 1", "it takes 2 values, which a preset cannot give"),
        ("".join(f"[a{i}]\nmodel=a\n" for i in range(300)), "more than 256 sections"),
        ("[*]\nc = 1", "no model in it"),
    ],
)  # fmt: skip
def test_presets_are_refused_with_their_section(text: str, said: str) -> None:
    assert said in refused(text)


# llama-swap


SWAP = """
startPort: 9000
macros:
  ctx: 4096
  server: /bin/llama-server --port ${PORT} -a ${MODEL_ID}
  coded: ${server} -fa on
models:
  "coder:big":
    cmd: |
      # comment
      ${coded}
      -m a.gguf --ctx-size ${ctx}
    macros: {ctx: 8192}
    env: ["CUDA_VISIBLE_DEVICES=0"]
    ttl: 60
  other: {cmd: "vllm serve x"}
groups: {}
"""


def test_a_config_of_llama_swap_is_read_with_its_macros() -> None:
    """A model's own macros go over those of all; other servers hurt only where they are meant."""
    (found,) = models(SWAP, "coder:big")
    assert (found.name, found.reference, found.where) == ("coder:big", "a.gguf", "list: models.coder:big")
    assert dict(found.line.given) == {"n_ctx": 8192, "flash_attn": "on"}
    assert "CUDA_VISIBLE_DEVICES=0" in found.line.warnings[0]
    assert "list: models.other: 'serve': not a flag" in refused(SWAP)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {a: {cmd: '${srv} x'}}\nmacros: {srvr: llama-server}", "models.a: '${srv}': no such macro; did you mean srvr?"),
        ("models: {a: {cmd: 'llama-server -m ${env.HOME}/a'}}", "'${env.HOME}' is of llama-swap's environment; write out"),
        ("models: {a: {ttl: 3}}", "list: models.a: it has no cmd; write the command"),
        ("models: {a: {cmd: x, env: A=b}}", "list: models.a: env: give a list of NAME=value"),
        ("models: {a: {cmd: x, macros: [a]}}", "list: models.a: macros: give a mapping of words"),
        ("macros: {a: '${b}'}\nmodels: {a: {cmd: x}}", "list: macros: '${b}': no such macro"),
        ("models: {a: {cmd: \"llama-server 'x\"}}", "models.a: \"llama-server 'x\" is not a command line"),
        ("macros:\n" + "".join(f"  m{i}: b\n" for i in range(300)) + "models: {a: {cmd: x}}", "more than 256; cut them"),
        ("macros: {a: " + "b" * 60000 + "}\nmodels: {a: {cmd: '${a}${a}'}}", "macros make it longer than 65,536"),
        ("models: {}", "no model in it"),
        ("models: {" + "".join(f"m{i}: b," for i in range(300)) + "}", "more than 256 models"),
    ],
)  # fmt: skip
def test_a_config_is_refused_with_its_model(text: str, said: str) -> None:
    assert said in refused(text)


# any kind


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (SMALL.read_bytes()[:1000], "a GGUF file, not a list of models; name it without --models"),
        (b"a\0b", "a zero byte at 1: no text"),
        (b"\xff\xfe\x00", "byte 0 is no text in UTF-8"),
        (b"x" * (MAX_BYTES + 1), "larger than 256 KiB"),
        (b"", "no model in it; a list is one of: commands"),
        (b"\n# nothing\n", "no model in it"),
        (b"a.gguf\nb.gguf", "line 1: 'a.gguf' is no command of llama-server; list: none of the kinds that are read"),
        (b"Dear Sir or Madam", "none of the kinds that are read. A list is one of: commands of llama-server, one a line; YAML"),
    ],
)  # fmt: skip
def test_what_is_no_list_is_refused(data: bytes, said: str) -> None:
    assert said in refused(data)


def test_names_choose_among_the_models_in_their_order() -> None:
    """Names, or what a model without one is called by."""
    text = f"llama-server -m x/b.gguf\n{SERVER} -a coder"
    assert [m.called for m in models(text, "coder", "b")] == ["coder", "b"]
    assert [m.called for m in models(SWAP.replace("vllm serve", "llama-server -m"), "other")] == ["other"]
    assert "list: no model in it is called 'codr'; did you mean coder?" in refused(text, "codr")
    assert "no model in it is called 'zzz'; it has 'b', 'coder'" in refused(text, "zzz")
    assert "did you mean coder:big?" in refused(SWAP, "coder:bi")
    assert len(models("\n".join(f"{SERVER} -a m{i}" for i in range(20)), "m3", "m17")) == 2


def test_line_ends_and_marks_of_other_systems_change_nothing() -> None:
    """What was written on Windows reads as what was not."""
    for text in (
        f"{SERVER} \\\n -fa on\n",
        SWAP.replace("vllm serve", "llama-server -m"),
        "[a]\nmodel = b\n",
        "models:\n- a\n",
    ):
        plain = read_list(text, "list")
        assert read_list(text.replace("\n", "\r\n").encode("utf-8-sig"), "list") == plain
        assert read_list("\ufeff" + text, "list") == plain


LINES = st.sampled_from([
    "models:", "- model: a", "  - b.gguf", "    ctx: 4k", "[a]", "[*]", "model = a", "c = 1", SERVER, "llama-server", "-c", "--", "export A=b", "macros:",
    "  a:", "    cmd: ${x} llama-server", "${PORT}", "$A", "'", '"', "\\", "|", "&", ">", "<", "#", "gpus: 1", "&a", "*a", "!x", "{", "}", "- ", "? ", "\t", "a: b",
    "-ot a=CPU", "-ncmoe 3", "-hf a/b", "-a", "--lora", "=", "\x85", "\u2028", "\ud800", "\x00",
])  # fmt: skip
MIXED = st.lists(LINES | st.text(max_size=6), max_size=12).flatmap(
    lambda parts: st.sampled_from(["\n", " ", "", "\\\n"]).map(lambda end: end.join(parts))
)


@examples(120, deadline=None)
@given(st.text() | MIXED | st.binary())
@example("models: 2001-99-99")
@example("models: [0x]\n")
@example("flags: '\\\n'")
@example(ours('model: a, flags: "\\\\\\n"'))
def test_reading_raises_nothing_but_our_error(text: str | bytes) -> None:
    """Whatever the text, it is a listing, or a `VramfitError`."""
    with suppress(VramfitError):
        assert 1 <= len(read_list(text, "list").models) <= 8


WORD = st.text(
    st.characters(categories=("L", "M", "N", "P", "S"), include_characters=" "), min_size=1, max_size=12
).filter(lambda s: s.strip() == s)
NUMBER = st.integers(1, 1 << 20)
MODEL = st.fixed_dictionaries(
    {"model": WORD.filter(lambda w: not w.startswith("~/"))},
    optional={
        "name": WORD,
        "wish": NUMBER,
        "weight": st.floats(0.5, 4, exclude_min=True),
        "flags": st.sampled_from(["-fa on", "-ctk q8_0 -np 2", "-ot 'a b=CPU'", "--mmproj x.gguf --jinja"]),
    },
)


@examples(40, deadline=None)
@given(st.lists(MODEL, min_size=1, max_size=8), st.booleans())
def test_what_is_written_as_yaml_reads_back(given_: list[dict[str, Any]], flow: bool) -> None:
    """A list written with every value quoted holds what went in, in the style of blocks and of JSON."""
    pairs = [[f"{k}: {yaml_text(str(v))}" for k, v in one.items()] for one in given_]
    items = ["  - {" + ", ".join(p) + "}" if flow else "  - " + "\n    ".join(p) for p in pairs]
    found = models("\n".join(["models:", *items]))
    assert [m.reference for m in found] == [m["model"] for m in given_]
    for read_, wrote in zip(found, given_, strict=True):
        assert (read_.name, read_.wish, read_.weight) == (
            wrote.get("name", ""), wrote.get("wish", 0), wrote.get("weight", 1.0),
        )  # fmt: skip
        line = read(["llama-server", *wrote.get("flags", "").replace("'a b=CPU'", "a\0b=CPU").split()])
        assert len(read_.line.given) == len(line.given)
        assert read_.line.company == line.company
        assert read_.line.ignored == line.ignored


@pytest.mark.parametrize(
    "text",
    [
        "models: [" + "a," * 130000,
        "[a]\nx =" + " " * 250000 + "y",
        "A=b\n" + "A=$A$A\n" * 30000,
        "&" * 250000,
    ],
)
def test_nothing_takes_long(text: str) -> None:
    """A file of the largest size is read or refused in a second or two of a slow machine."""
    start = time.process_time()
    refused(text)
    assert time.process_time() - start < 5


# over and names


def test_typed_flags_go_over_a_list_and_what_they_contradict_is_said() -> None:
    """A context takes the place of a wish, a wish that of a context; lists of flags are put together."""
    listed = one(f"{SERVER} -c 4096 -ctk q8_0 --jinja --mmproj a")
    typed = read(["-c", "8192", "-ctk", "q8_0", "--rpc", "h:1", "--mmproj", "b", "--port", "1"])
    found, said = over(listed, typed)
    assert dict(found.line.given) == {"n_ctx": 8192, "type_k": "q8_0"}
    assert dict(found.line.company) == {"mmproj": "b"}
    assert said == (
        "a: n_ctx=8192 of the command line, not n_ctx=4096 of list: line 1",
        "a: mmproj=b of the command line, not mmproj=a of list: line 1",
    )
    assert (found.line.ignored, len(found.line.warnings)) == (("--jinja", "--port"), 1)
    assert found.reference == listed.reference
    wishing, said = over(listed, Line(), 5000)
    assert ("n_ctx" in wishing.line.given, wishing.wish) == (False, 5000)
    assert said == ("a: n_ctx=4096 of list: line 1 gives way to wish of the command line",)
    wisher = one(ours("model: a, wish: 5, weight: 2"))
    fixed, said = over(wisher, typed)
    assert (fixed.wish, fixed.weight, fixed.line.given["n_ctx"]) == (0, 1.0, 8192)
    assert said == ("a: wish=5 of list: models[0] gives way to ctx of the command line",)
    assert over(wisher, Line())[0].wish == 5
    assert both([]).notes == ()


def named(*pairs: tuple[str, str]) -> tuple[Listed, ...]:
    return tuple(Listed(name, ref, Line(), where=f"at {i}") for i, (name, ref) in enumerate(pairs))


def test_every_model_has_a_name_of_its_own() -> None:
    """Files of one name in two folders are told apart by the whole reference; whoever has a name keeps it."""
    found = named_apart(named(("", "a/m.gguf"), ("", "b/m.gguf"), ("", "c/n.gguf"), ("x", "a/m2.gguf")))
    assert [m.called for m in found] == ["a/m.gguf", "b/m.gguf", "n", "x"]
    assert [m.called for m in named_apart(named(("m", "x/y.gguf"), ("", "a/m.gguf")))] == ["m", "a/m.gguf"]
    assert [m.called for m in named_apart(named(("a", "m.gguf"), ("b", "./m.gguf")))] == ["a", "b"]
    for pairs, said in (
        (
            (("", "m.gguf"), ("", "./m.gguf")),
            "./m.gguf is named twice (at 0, at 1); give each a name of its own",
        ),
        ((("", "m.gguf"), ("b", "m.gguf")), "is named twice"),
        (
            (("a", "m.gguf"), ("a", "n.gguf")),
            "two models are called 'a' (at 0, at 1); give each a name of its own",
        ),
    ):
        with pytest.raises(VramfitError) as e:
            named_apart(named(*pairs))
        assert said in str(e.value)


def test_weights_and_limits_that_contradict_are_refused() -> None:
    """A weight counts for shares alone; no context or wish may lie above the limit for all."""
    (weighed,) = models(ours("model: a, weight: 2, wish: 8k"))
    check_weights([weighed], "share")
    with pytest.raises(VramfitError, match=r"models\[0\]: weight 2 of a counts for shares"):
        check_weights([weighed], "order")
    limited(weighed, None)
    limited(weighed, 8192)
    with pytest.raises(VramfitError, match=r"models\[0\]: wish 8192 is above --max-ctx 8191"):
        limited(weighed, 8191)
    with pytest.raises(VramfitError, match="ctx 4096 is above"):
        limited(one(f"{SERVER} -c 4096"), 4095)


# what names a model


def test_flags_name_one_model() -> None:
    """The rule for options is that for flags of a command."""
    assert by_flags(("-hf", "me/x:Q8_0", "-hff", "f.gguf", "-hft", "secret")) == (
        "hf://me/x/f.gguf",
        "secret",
    )
    assert by_flags(("-dr", "x")) == ("docker://x", "")
    assert by_flags(()) == ("", "")
    assert reference_of({"argument": None}) == ""


# the whole way


def test_the_page_shows_the_files_that_are_shipped() -> None:
    """What a reader copies is what the tests read."""
    page = (ROOT / "docs/users/several.md").read_text()
    for name in ("servers.sh", "models.yaml"):
        assert (ROOT / "examples/several" / name).read_text() in page


def test_models_are_read_from_a_path_or_a_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every shipped list reads, from its path, its text or its bytes; with settings, names and companions."""
    monkeypatch.chdir(ROOT)
    folder = Path("examples/several")
    for path in (p for p in folder.iterdir() if p.suffix != ".gguf"):
        found = vramfit.read_models(path)
        assert [t.name for t in found][:2] == ["coder", "embedder" if path.name == "desk.sh" else "eyes"]
        assert vramfit.read_models(path.read_text()) == vramfit.read_models(path.read_bytes()) == found
    coder, eyes = vramfit.read_models(str(folder / "servers.sh"))
    assert isinstance(coder, Tenant)
    assert (coder.settings.n_ctx, coder.settings.defaults) == (16384, "llama-server")
    assert coder.settings.spec_type == "draft-simple"
    assert coder.model.company is not None
    assert eyes.model.company is not None
    assert eyes.settings.n_seq_max == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("no-such.sh", "no-such.sh: no such file"),
        (5, "source=5: give the path of a list of models, or its text"),
        (str(ROOT), "it is a directory"),
        (str(SMALL), "a GGUF file, not a list"),
        ("a\0b", "cannot be read"),
        ("models: [no-such.gguf]\n", "<text>: models[0]: no-such.gguf: no such file"),
        (f"maximise: order\n{ours(f'model: {SMALL}, weight: 2')}", "weight 2 of"),
        (ours(f"model: {SMALL}, weight: .inf"), "models[0]: weight '.inf'"),
        (ours(f"model: {SMALL}, weight: inf"), "models[0]: weight=inf: give a number above 0"),
        (ours(f"model: {SMALL}, flags: --mmproj {SMALL}"), "models[0]: "),
        (f"{ours(f'model: {SMALL}')}\n  - {SMALL}", "is named twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(source: Any, said: str) -> None:
    with pytest.raises(VramfitError) as e:
        vramfit.read_models(source)
    assert said in str(e.value)


def test_a_pipe_that_a_shell_opened_is_a_list() -> None:
    """As in --models <(command); any other pipe may have nobody who writes."""
    from_, to = os.pipe()
    os.write(to, b"models:\n- a.gguf\n")
    os.close(to)
    try:
        assert short_file(f"/dev/fd/{from_}", 7) == b"models:"
    finally:
        os.close(from_)


def test_what_is_printed_to_run_reads_back(tmp_path: Path) -> None:
    """The commands of a plan and the router's presets are lists, which hold the settings that were planned."""
    files = [tmp_path / f"{name} x.gguf" for name in "ab"]
    for file in files:
        file.write_bytes(SMALL.read_bytes())
    told = vramfit.server_settings(n_ctx=4096, flash_attn="on", type_k="q8_0", n_seq_max=2)
    plan = vramfit.plan([Tenant(file, told) for file in files], "8GiB")
    for text in (plan.command(), plan.files()["models.ini"]):
        found = vramfit.read_models(text)
        assert [t.model.source for t in found] == [str(file) for file in files]
        for tenant, own in zip(found, plan.plans, strict=True):
            assert tenant.settings == own.settings
