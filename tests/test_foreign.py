"""What others wrote stays in its place: on a screen, and in every language that we emit."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf_bytes as raw
import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import examples
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from small import gpu

from vramfit._base.errors import SettingsError, SourceError, Truncated
from vramfit._base.foreign import json_text, modelfile_value, printable, shell, shell_line, yaml_text
from vramfit._cli import main
from vramfit._engines.clients import CLIENTS, client_config
from vramfit._engines.ollama import environment
from vramfit._engines.table import find
from vramfit._llama.params import Settings
from vramfit._modelfile import parse_modelfile
from vramfit._planner.plan import Plan, plan
from vramfit._report.html import page
from vramfit._sources.load import read

PIECES = (
    "\x1b[31m", "\x1b]0;owned\x07", "\n", "\r", "\t", "\x00", "\x7f", "\x9b2J", "\u202e", "\u200b", "\u2028", "\ufeff",
    "\xa0", "\U000e0041", '"', "'", '"""', "$(id)", "`id`", "${HOME}", "\\", "#", "; id", " && id", "| id", "> x",
    "\nSYSTEM owned", "\nPARAMETER num_ctx 1", ": ", "- ", "{", "}", "%", "&amp;", "<script>", "-->", "$x$", "*", "~",
    "é", "漢", "😀", " ", "a",
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=8).map(
    "".join
)
UNDECODED = st.lists(st.sampled_from([*PIECES, "\udcff", "\udc80"]), max_size=8).map("".join)


def is_shown(text: str) -> bool:
    """Whether a terminal shows `text` as it is, lines apart."""
    return all(line.isprintable() for line in text.split("\n"))


# --- one function a language


@given(UNDECODED)
@example("\x1b[31m\u202e\u009b\n")
def test_what_is_printable_is_one_line_and_printable_text_is_unchanged(text: str) -> None:
    """The result is printable, the same again, and nothing but escapes has changed."""
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert shown.startswith(text) if text.isprintable() else "\\" in shown


def test_long_texts_lose_their_middle() -> None:
    shown = printable("a" * 500 + "b" * 500, 100)
    assert re.fullmatch("a{66} … b{34}", shown)


@given(
    st.recursive(
        UNDECODED | st.integers(), lambda x: st.lists(x) | st.dictionaries(UNDECODED, x), max_leaves=6
    )
)
def test_json_is_printable_and_lossless(value: object) -> None:
    text = json_text(value)
    assert is_shown(text)
    assert json.loads(text) == value
    assert json.loads(json_text(value, None)) == value


def test_json_has_no_numbers_that_are_none() -> None:
    assert json_text({"a": [float("nan"), float("inf"), 1.5]}, None) == '{"a": [null, null, 1.5]}'


@given(HOSTILE)
def test_yaml_is_printable_and_lossless(text: str) -> None:
    assert yaml_text(text).isprintable()
    assert yaml.safe_load(f"a: {yaml_text(text)}\nb: 1") == {"a": text, "b": 1}


@examples(10)
@given(st.lists(UNDECODED.map(lambda x: x.replace("\x00", "")), min_size=1, max_size=8))
def test_words_of_a_shell_come_back_from_one(words: list[str]) -> None:
    """A shell reads the line as these words, whatever bytes they stand for."""
    line = shell_line(words)
    assert line.isprintable()
    if all(word.isprintable() for word in words):
        assert shlex.split(line) == words
    assert shell_words(line) == [os.fsencode(word) for word in words]


def shell_words(line: str) -> list[bytes]:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no shell that knows $'...' is here")
    ran = subprocess.run([bash, "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert ran.stderr == b""
    return ran.stdout.split(b"\0")[:-1]


@given(HOSTILE)
@example("x\nSYSTEM owned")
@example(' "x"')
def test_a_value_of_a_modelfile_is_held_or_refused(text: str) -> None:
    """The file that is emitted has the one command, and its value."""
    value = modelfile_value(text)
    if value is None:
        assert not text.isprintable() or '"' in text or not text
        return
    (command,) = parse_modelfile(f"FROM {value}\n").commands
    assert (command.name, command.value) == ("from", text)


# --- errors


@given(HOSTILE)
def test_an_error_is_a_line_for_each_thing_that_it_says(text: str) -> None:
    assert str(SourceError(f"{text}: not found")).isprintable()
    assert str(SourceError("several", text, text)).count("\n") == 2
    assert str(Truncated(text, 7)).isprintable()


# --- what is emitted for a plan


@cache
def small_plan() -> Plan:
    model = read(Path(__file__).parents[1] / "examples/qwen2.5-14b-instruct-1m-q8_0.gguf")
    return plan(model, [gpu(24576), gpu(12288)], Settings(n_ctx=8192, flash_attn="on"))


def hostile_plan(text: str) -> Plan:
    """A plan in which every name is foreign."""
    found = small_plan()
    model = replace(found.model, name=text, source=f"/models/{text}.gguf")
    card = printable(text).strip() or "x"  # as `Gpu` wants it
    cards = tuple(replace(g, name=card) for g in found.gpus)
    estimate = replace(
        found.estimate, gpus=tuple(replace(g, name=text) for g in found.estimate.gpus), compute_note=text
    )
    return replace(
        found, model=model, gpus=cards, estimate=estimate, limited_by=text or "x", warnings=(text,)
    )


def server_words(found: Plan) -> list[bytes]:
    line = found.command("llama-server")
    assert line.isprintable()
    return shell_words(line)


@examples(6)
@given(UNDECODED.map(lambda x: x.replace("\x00", "").replace("/", "")))
@example("x\nSYSTEM owned\n")
def test_commands_hold_the_path_and_nothing_more(text: str) -> None:
    """A shell and Python find the path that the plan has, and as many words as of any other path."""
    plain, found = hostile_plan("a"), hostile_plan(text)
    words = server_words(found)
    assert words[words.index(b"-m") + 1] == os.fsencode(found.model.source)
    assert len(words) == len(server_words(plain))
    source = found.command("llama-cpp-python")
    assert is_shown(source)
    (call,) = (x for x in ast.walk(ast.parse(source)) if isinstance(x, ast.Call))
    values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert values["model_path"] == found.model.source
    assert len(ast.parse(source).body) == 2
    even = replace(found, tensor_split=(25, 24))
    lines = even.command("lm-studio").split("\n")
    assert all(line.isprintable() for line in lines)
    assert [line[0] == "#" for line in lines] == [True] * 6 + [False]
    assert shell_words(lines[-1])[2] == os.fsencode(text or ".gguf")


@examples(10)
@given(UNDECODED)
@example("x\nSYSTEM owned\n")
@example("x\nPARAMETER num_ctx 1\n")
def test_a_modelfile_holds_the_path_and_nothing_more(text: str) -> None:
    plain, found = hostile_plan("a"), hostile_plan(text)
    if not text.isprintable():
        with pytest.raises(SettingsError, match="rename the file") as caught:
            found.modelfile("ollama")
        assert str(caught.value).isprintable()
        return
    emitted = found.modelfile("ollama")
    assert is_shown(emitted)
    wanted = parse_modelfile(plain.modelfile("ollama")).commands
    commands = parse_modelfile(emitted).commands
    assert [(c.name, c.key) for c in commands] == [(c.name, c.key) for c in wanted]
    assert commands[0].value == found.model.source
    assert [c.value for c in commands[1:]] == [c.value for c in wanted[1:]]
    assert emitted.count("\n") == plain.modelfile("ollama").count("\n")


@examples(4)
@given(
    st.lists(st.sampled_from([x for x in PIECES if "," not in x and "\x00" not in x]), max_size=3).map(
        "".join
    )
)
def test_an_environment_holds_its_values_and_nothing_more(text: str) -> None:
    """A pattern that a person gave is one word of the command, and one line of the Modelfile's comments."""
    pattern = "q" + re.escape(text).replace("=", "")
    found = hostile_plan("a")
    found = replace(found, settings=replace(found.settings, cpu_tensors=(pattern,), tensor_split=(24, 25)))
    engine = find("ollama")
    values = environment(found, engine)
    assert values["LLAMA_ARG_OVERRIDE_TENSOR"] == f"{pattern}=CPU"
    line = " ".join(f"{name}={shell(value)}" for name, value in values.items())
    assert line in found.command("ollama")
    if line.isprintable() and "$'" not in line:
        assert shlex.split(line) == [f"{name}={value}" for name, value in values.items()]
    assert is_shown(found.modelfile("ollama"))
    plain = replace(found, settings=replace(found.settings, cpu_tensors=("q",)))
    assert found.modelfile("ollama").count("\n") == plain.modelfile("ollama").count("\n")


@pytest.mark.parametrize("client", CLIENTS)
@given(HOSTILE)
@example("x\nowned: 1")
@example("😀\u202e")
def test_configurations_of_clients_hold_the_name_and_nothing_more(client: str, text: str) -> None:
    """YAML and JSON parse to what any other name gives, with the name in its place."""
    name = text or "x"
    emitted = client_config(small_plan(), client, model=name)
    assert is_shown(emitted)
    load = yaml.safe_load if client in ("aider", "continue") else json.loads
    plain = load(client_config(small_plan(), client, model="PLACE"))

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {put(k): put(v) for k, v in value.items()}
        if isinstance(value, list):
            return [put(x) for x in value]
        return value.replace("PLACE", name) if isinstance(value, str) else value

    assert load(emitted) == put(plain)


@given(UNDECODED)
@example("<script>\u202e</title>")
def test_pages_hold_names_as_text(text: str) -> None:
    """The same tags as for any other name; nothing that is not printable."""
    tags = re.compile(r"<[^<>]*>")
    plain, found = page(hostile_plan("a")), page(hostile_plan(text))
    assert is_shown(found)
    names = [re.match(r"</?\w*", t)[0] for t in tags.findall(found)]  # type: ignore[index]
    assert names == [re.match(r"</?\w*", t)[0] for t in tags.findall(plain)]  # type: ignore[index]


@pytest.mark.parametrize("text", ["$x$", "$", "$$\\frac{", "\x1b[31m\n\u202e"])
def test_pictures_take_names_as_text(text: str) -> None:
    pytest.importorskip("matplotlib")
    figure = hostile_plan(text).plot()
    figure.draw_without_rendering()
    assert printable(text).replace("$", r"\$") in {a.get_title() for a in figure.axes}


# --- what the commands print


def model_file(text: str, *, tensor: str = "blk.0.attn_norm.weight", arch: str = "llama") -> bytes:
    """A small model in which every string is `text`."""
    u32 = lambda n: n.to_bytes(4, "little")  # noqa: E731
    numbers = {
        "block_count": 1, "context_length": 512, "embedding_length": 64, "feed_forward_length": 64, "vocab_size": 8,
        "attention.head_count": 1,
    }  # fmt: skip
    keys = [
        raw.key("general.architecture", "str", raw.string(arch)),
        raw.key("general.name", "str", raw.string(text)),
        raw.key(f"{arch}.hidden_activation", "str", raw.string(text)),
        *(raw.key(f"{arch}.{name}", "u32", u32(n)) for name, n in numbers.items()),  # type: ignore[no-untyped-call]
    ]
    embedding = raw.tensor("token_embd.weight", (64, 8), 0, 0)
    return raw.file(keys, [embedding, raw.tensor(tensor, (64,), 0, 64 * 8 * 4)])


def run(*words: str) -> Result:
    ran = CliRunner().invoke(main, list(words), catch_exceptions=True)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran


COMMANDS = (
    ("inspect", "{}"),
    ("inspect", "{}", "--json"),
    ("plan", "{}", "--gpus", "3060", "--engine", "llama-server", "--client", "aider", "--explain"),
    ("plan", "{}", "--gpus", "3060", "--json", "--engine", "llama-cpp-python"),
    ("plan", "{}", "--gpus", "64MiB", "--alternatives"),
    ("compare", "{}", "--gpus", "3060"),
    ("compare", "{}", "--gpus", "3060", "--json"),
    ("which", "{}", "--ctx", "512", "--max-cards", "1"),
    ("which", "{}", "--ctx", "512", "--max-cards", "1", "--json"),
    ("modelfile", "check", "{}", "--gpus", "3060"),
    ("modelfile", "check", "{}", "--gpus", "3060", "--json"),
)


@examples(2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@given(text=UNDECODED.map(lambda x: x.replace("/", "").replace("\x00", "")[:40]))
@example(text="\x1b]0;owned\x07\n\u202e\u009b\udcff")
def test_no_command_prints_what_a_terminal_obeys(tmp_path: Path, command: tuple[str, ...], text: str) -> None:
    """Whatever the file, its header and its tensors are called: printable lines, as many as of a plain file."""
    inside = text.encode("utf-8", "replace").decode("utf-8")
    lines = []
    for name, said in ((text, inside), ("a", "a")):
        model = tmp_path / f"m{name}.gguf"
        tensor = f"blk.9.{said}".encode()[:60].decode("utf-8", "ignore")
        model.write_bytes(model_file(said, tensor=tensor))
        if command[0] == "modelfile":
            asked = tmp_path / f"{name}.modelfile"
            asked.write_bytes(
                b"FROM "
                + (os.fsencode(model) if "\n" not in name else b"./none")
                + b"\nPARAMETER num_ctx 64\n"
            )
        else:
            asked = model
        ran = run(*(word.format(asked) for word in command))
        assert is_shown(ran.output), ran.output
        lines.append(ran.output.count("\n"))
        if "--json" in command and ran.exit_code in (0, 3):
            found = json.loads(ran.stdout)
            assert found.get("source", found.get("model", str(asked))) == str(asked)
            assert found.get("name", said) == said
    if command[0] != "modelfile":
        assert lines[0] == lines[1]


@examples(4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=UNDECODED.map(lambda x: x.replace("/", "").replace("\x00", "")[:40]), arch=HOSTILE)
@example(text="\x1b[31m\n", arch="\x1b[31m\n")
def test_no_error_prints_what_a_terminal_obeys(tmp_path: Path, text: str, arch: str) -> None:
    """A file that is none, one of an architecture that is none, a folder of several, an unknown card."""
    other = tmp_path / f"x{text}.gguf"
    other.write_bytes(model_file("a", arch="q" + arch))
    broken = tmp_path / f"y{text}.gguf"
    broken.write_bytes(b"GGUF" + text.encode("utf-8", "replace"))
    for words in (
        ("inspect", str(other)), ("inspect", str(broken)), ("inspect", str(tmp_path / f"z{text}")),
        ("plan", str(other), "--gpus", f"q{text}"), ("modelfile", "check", str(broken), "--gpus", "3060"),
    ):  # fmt: skip
        ran = run(*words)
        assert ran.exit_code == 1
        assert ran.stderr.isprintable() or ran.stderr[:-1].isprintable() or "\n  " in ran.stderr
        assert is_shown(ran.output), ran.output
