"""Flags: one table of the engine's, every one of which the command line and Python read alike."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_engines import any_settings

from vramfit._base.errors import SettingsError
from vramfit._cli import main
from vramfit._cli.options import line, to_settings
from vramfit._engines.server import arguments
from vramfit._engines.settings import as_run, engine_settings
from vramfit._llama.flags import Does, Flag, Line, by_variable, find, flags, is_command, read, split_text
from vramfit._llama.flags import engine as facts
from vramfit._llama.params import DENSE, EXPERTS, Settings

VALUES = {
    "context": "32k", "count": "512", "slots": "2", "name": "q8_0", "switch": "on", "layers": "12", "mode": "none",
    "shares": "3,1", "number": "1", "overrides": "exps=CPU", "first_experts": "3", "first_dense": "3", "load": "mlock",
    "methods": "draft-simple", "path": "beside.gguf", "hub": "a/b", "devices": "CUDA1", "files": "a.gguf,b.gguf",
    "scaled": "a.gguf:0.5", "rerank": "on", "pooling": "mean",
}  # fmt: skip


def spellings(flag: Flag) -> Iterator[list[str]]:
    """Every way to write a flag, with values where it has some."""
    value = VALUES.get(flag.kind, "1")
    for name in (*flag.names, *flag.off):
        yield [name, *[value] * flag.n_values]


EVERY = [(flag, words) for flag in flags() for words in spellings(flag)]


def on_the_command_line(*words: str) -> tuple[Settings, Line]:
    """What `plan` reads of the words behind a model."""
    with main.commands["plan"].make_context("plan", ["model.gguf", *words]) as context:
        return to_settings(dict(context.params)), line()


def test_every_flag_is_understood() -> None:
    """Each spelling of each flag is read: it sets a field, names the model, is listed, or is refused with a reason."""
    for flag, words in EVERY:
        if flag.does is Does.REFUSED:
            with pytest.raises(SettingsError, match=flag.why[:20]):
                read(words)
            continue
        found = read(words)
        listed = (
            *found.ignored,
            *found.host,
            *found.other,
            *(n for _, names in found.uncounted for n in names),
        )
        if flag.does is Does.SETS:
            assert not listed, words
            assert (flag.field in found.given) != (flag.field == "n_ctx_slot")
        elif flag.does is Does.COMPANY:
            assert not listed, words
            assert list(found.company) == [flag.field]
            assert found.given == {}, words
        elif flag.does is Does.MODEL:
            assert found.model == (flag.names[0], *words[1:])
        else:
            assert listed == (words[0],), words
            assert found.given == {}, words
        if flag.does is not Does.UNCOUNTED or words[0] in flag.off:
            assert not found.warnings, words
        else:
            assert found.warnings == (f"not counted: {words[0]} ({flag.why})",)


def test_the_command_line_reads_what_python_reads() -> None:
    """Beside the command's own options and behind `--`, a flag means what `read` makes of it."""
    for flag, words in EVERY:
        if flag.does is Does.MODEL:
            continue
        if flag.does is Does.REFUSED:
            result = CliRunner().invoke(main, ["plan", "model.gguf", *words])
            assert (result.exit_code, flag.why in result.stderr) == (2, True), words
            continue
        expected = read(words)
        both = [["--", "llama-server", *words]]
        both += (
            [] if words[0] in ("-h", "--help", "--path", "--host") else [words]
        )  # the command has these of its own
        for typed in both:
            settings, found = on_the_command_line(*typed)
            assert found == expected, typed
            assert settings == engine_settings("llama-server", expected.given)


def test_the_commands_own_options_come_first() -> None:
    """`--path` names a model and `-h` asks for help, as before; behind `--` both are llama-server's."""
    plan = main.commands["plan"]
    with plan.make_context("plan", ["--path", "x.gguf", "--tags=a"]) as context:
        assert context.params["model"] == "x.gguf"
        assert line().ignored == ("--tags",)
    with plan.make_context("plan", ["--", "llama-server", "-h", "--path", "/www", "-m", "x.gguf"]) as context:
        assert context.params["model"] == "x.gguf"
        assert line().ignored == ("-h", "--path")
    assert "Usage" in CliRunner().invoke(main, ["plan", "-h"]).output
    with plan.make_context("plan", ["--", "-odd.gguf"]) as context:
        assert context.params["argument"] == ("-odd.gguf",)


def entries(source: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], int, str, bool]]:
    """Of common/arg.cpp: spellings, negations, number of values, variable, whether llama-server takes it."""
    for part in re.split(r"add_opt\(common_arg\(", source.partition("common_params_add_preset_options")[0])[
        1:
    ]:
        body = re.sub(r"^\s*//[^\n]*\n", "", part)
        lists = re.match(r"\s*\{([^}]*)\}\s*,\s*(?:\{([^}]*)\}\s*,)?", body)
        handler = re.search(r"\[\]\s*\((common_params[^)]*)\)", body)
        assert lists
        assert handler
        names, off = (tuple(re.findall(r'"([^"]+)"', text or "")) for text in lists.groups())
        values = len([x for x in handler[1].split(",") if "common_params" not in x and "bool " not in x])
        variable = re.search(r'set_env\("(\w+)"\)', body)
        programs = re.search(r"set_examples\(([^)]*)\)", body)
        server = programs is None or bool(re.search(r"SERVER|COMMON|mmproj_examples", programs[1]))
        yield names, off, 0 if off else values, variable[1] if variable else "", server


@lru_cache(maxsize=1)
def engine_source() -> str:
    """The pinned engine's argument table; "" where its source is not at hand."""
    places = [Path(os.environ["LLAMA_CPP_SOURCE"])] if "LLAMA_CPP_SOURCE" in os.environ else []
    root = Path(__file__).parents[1]
    places += [
        tree
        for place in (root, root.parent)
        for tree in place.glob("engine/llama_cpp_python-*/vendor/llama.cpp")
    ]
    files = [place / "common" / "arg.cpp" for place in places]
    return next((f.read_text() for f in files if f.is_file()), "")


def test_the_table_is_the_engines() -> None:
    """Spelling for spelling, the table holds what common/arg.cpp of the pinned engine holds."""
    if not engine_source():
        pytest.skip("the engine's source is not at hand: set LLAMA_CPP_SOURCE")
    theirs = set(entries(engine_source()))
    older = {word.strip("~;") for word in facts.OLDER.split()}
    ours = {
        (f.names, f.off, f.n_values, f.variable, f.does is not Does.OTHER)
        for f in flags()
        if f.names[0] not in older
    }
    assert ours == theirs


@given(any_settings)
def test_what_is_printed_can_be_pasted(settings: Settings) -> None:
    """The flags printed for any settings are read as these settings: beside options, and as a line behind `--`."""
    words = arguments(settings)
    expected = as_run(settings, "llama-server")
    assert on_the_command_line(*words)[0] == expected
    settings_, found = on_the_command_line("--", shlex.join(["/opt/llama-server", *words, "--fit", "off"]))
    assert (settings_, found.ignored, found.warnings) == (expected, ("--fit",), ())


@pytest.mark.parametrize(
    ("text", "given_"),
    [
        ("-fa", {"flash_attn": "on"}),
        ("-fa 0 -fa -1", {"flash_attn": "auto"}),
        ("-fa --jinja", {"flash_attn": "on"}),
        ("--flash_attn=Disabled", {"flash_attn": "off"}),
        ("-ngl all", {"n_gpu_layers": -1}),
        ("-ngl -2", {"n_gpu_layers": -2}),
        ("-c 0", {"n_ctx": 0}),
        ("--ctx train", {"n_ctx": 0}),
        ("-c 4096 --ctx max", {}),
        ("--ctx-size=65,536", {"n_ctx": 65536}),
        ("-np -1", {}),
        ("-np 3 --kv-unified-per-slot 1k", {"n_seq_max": 3, "n_ctx": 3072}),
        ("--kv-unified-per-slot 1024", {"n_ctx": 4096}),
        ("--kv-unified-per-slot 1024 -c 0", {"n_ctx": 0}),
        ("-ctk Q8_0", {"type_k": "q8_0"}),
        ("-ts 3/1", {"tensor_split": (3.0, 1.0)}),
        ("-ot a=CPU,b=cpu -cmoe", {"cpu_tensors": ("a", "b", EXPERTS)}),
        ("-ncffn 1", {"cpu_tensors": (rf"blk\.0{DENSE}",)}),
        ("--kv-offload", {"offload_kqv": True}),
        ("-lm MMAP+mlock", {"load_mode": "mmap+mlock"}),
        ("--mlock", {"load_mode": "mmap+mlock"}),
        ("--no-mmap --mlock", {"load_mode": "mlock"}),
        ("--no-mmap", {"load_mode": "none"}),
        ("--mmap", {"load_mode": "mmap"}),
        ("-dio", {"load_mode": "dio"}),
        ("-dio --mlock", {"load_mode": "mlock"}),
        ("-lm dio --no-mmap", {"load_mode": "dio"}),
        ("--rerank", {"embeddings": True, "pooling": "rank"}),
        ("LLAMA_ARG_CTX_SIZE=512 LLAMA_ARG_NO_KV_OFFLOAD=1 HOME=/x ./server -b 64",
         {"n_ctx": 512, "offload_kqv": False, "n_batch": 64}),
        ("LLAMA_ARG_N_PARALLEL=2 llama-server -np 3", {"n_seq_max": 3}),
        ("llama-server \\\n -ub 128", {"n_ubatch": 128}),
    ],
)  # fmt: skip
def test_spellings(text: str, given_: dict[str, Any]) -> None:
    """What the engine takes, and a little more, in the words that people have."""
    assert read(split_text(text)).given == given_


def test_what_is_passed_over_is_said_without_its_value() -> None:
    """Lists hold flags alone: a value may be a key; one sentence for each reason."""
    found = read(
        split_text("llama-server --api-key SECRET -t 8 -cram 0 --numa isolate --ppl -bs --spec-default")
    )
    assert found.notes == (
        "Ignored, sizes nothing: --api-key -t.",
        "Ignored, memory of the host that is not counted: -cram --numa.",
        "Ignored, not a flag of llama-server: --ppl.",
    )
    assert found.warnings == (
        "not counted: -bs (sampling on the cards: its buffers)",
        "not counted: --spec-default (speculative decoding: more rows of logits)",
    )
    assert "SECRET" not in "".join((*found.notes, *found.warnings))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("llama-server --jnja", "did you mean --jinja"),
        ("llama-server x.gguf", "not a flag"),
        ("llama-server -c", "-c needs a value"),
        ("--control-vector-layer-range 1", "needs 2 values"),
        ("-c 3x", "or max, or train"),
        ("-c 1.5", "not a number"),
        ("-sm row", "by rows"),
        ("-sm tensor", "the cache"),
        ("-fa maybe", "on, off or auto"),
        ("LLAMA_ARG_KV_UNIFIED=maybe llama-server", "on or off"),
        ("ollama serve", "llama-server"),
        ("-ncmoe 513", "at most 512"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    """The flag, what is wrong with it, and what would do."""
    with pytest.raises(SettingsError, match=message):
        read(split_text(text))


def test_variables_and_commands() -> None:
    """Variables and their negations name flags; a name alone is not a command."""
    swa = find("--swa_full")
    assert swa is not None
    assert by_variable("LLAMA_ARG_SWA_FULL") == swa
    assert by_variable("LLAMA_ARG_NO_SWA_FULL") is None
    assert by_variable("LLAMA_ARG_NO_MMPROJ_AUTO") == find("--no-mmproj")
    assert is_command(["llama-server", "-m", "x"])
    assert is_command(["LLAMA_ARG_MODEL=x.gguf", "llama-server"])
    assert not is_command(["-odd-name.gguf", "a=b.gguf"])
    assert read(["LLAMA_ARG_MODEL=x.gguf", "llama-server"]).model == ("-m", "x.gguf")


PIECES = st.sampled_from([*sorted({words[0] for _, words in EVERY}), *VALUES.values(), "x", "-", "=", "1,x"])


@given(st.lists(PIECES | st.text(max_size=8), max_size=8))
def test_any_words_are_a_line_or_an_error(words: list[str]) -> None:
    """Whatever is typed is read, or refused with a SettingsError; what is read makes settings or such an error."""
    try:
        engine_settings("llama-server", read(words).given)
    except SettingsError:
        return


MODEL = str(ROOT / "examples/qwen2.5-14b-instruct-1m-q8_0.gguf")


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "--gpus", "3090ti", "-c", "4096"),
        ("compare", "--gpus", "3090ti", "--file-types", "Q8_0", "--cache-types", "f16", "-c", "4096"),
        ("which", "--gpus", "3090ti", "-c", "4096"),
    ],
    ids=lambda command: command[0],
)
def test_what_is_passed_over_is_in_the_json(command: tuple[str, ...]) -> None:
    """Flags that change no figure are listed wherever they may be typed."""
    name, *options = command
    found = CliRunner().invoke(main, [name, MODEL, *options, "--jinja", "-t", "8", "--json"])
    assert json.loads(found.output)["ignored"] == ["--jinja", "-t"]


def test_a_line_that_scales_positions_is_not_told_to() -> None:
    """Where the line stretches positions itself, no advice says how; that nobody measured it still is."""
    asked = ["plan", MODEL, "--gpus", "8x80GiB", "-c", "2000000", "-np", "1"]
    plain = CliRunner().invoke(main, asked).output
    scaled = CliRunner().invoke(main, [*asked, "--rope-scaling", "yarn", "--rope-scale", "2"]).output
    assert "--rope-scaling yarn --rope-scale" in plain
    assert "Warning" in scaled
    assert "--rope-scaling yarn" not in scaled
    assert "is for a test to say" in " ".join(scaled.split())


@pytest.mark.parametrize(
    "pasted", ["ollama run x", "A=1 ollama serve", "/usr/bin/python3 -m x", "docker run -it y"]
)
def test_lines_of_other_engines_are_refused_with_what_to_do(pasted: str) -> None:
    """A pasted line of another program is no list of model names."""
    found = CliRunner().invoke(main, ["plan", "--gpus", "3090ti", "--", *pasted.split()])
    assert found.exit_code == 2
    assert "give a command line of llama-server" in found.output
    assert "--engine" in found.output or "container" in found.output
