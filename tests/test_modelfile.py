"""Modelfiles: read without losing a byte, every context judged, mended where asked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from vramfit._base.errors import ModelfileError, SourceError
from vramfit._cli import main
from vramfit._devices import Gpu, parse_gpus
from vramfit._engines.ollama import auto_batch
from vramfit._estimate.estimate import estimate
from vramfit._modelfile import Modelfile, Verdict, check, fix, parse_modelfile
from vramfit._modelfile.check import Finding

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
QWEN = EXAMPLES / "qwen2.5-14b-instruct-1m-q8_0.gguf"
GEMMA = EXAMPLES / "gemma-3-12b-q4_k_m.gguf"
CARDS = parse_gpus("3090ti,3060-12gb")
MIB = 1 << 20

ALL_OF_IT = '''# a comment, "quoted"
from ./model.gguf
FROM ./projector.gguf
  PARAMETER num_ctx   "8192"\t
PARAMETER\tstop """<|im_end|>"""
PARAMETER stop <|x|> # not a comment
template """{{ .System }}
# not a comment either
{{ .Prompt }}"""

SYSTEM "say ""nothing"", \r\nelse"
MESSAGE user How?
MESSAGE assistant """So."""
LICENSE ""
ADAPTER ./lora.gguf
REQUIRES 0.30
#'''


def test_the_whole_grammar() -> None:
    """Case, indentation, all three kinds of value, comments only where a command could start."""
    file = parse_modelfile(ALL_OF_IT)
    assert [(c.name, c.key, c.value) for c in file.commands] == [
        ("from", "", "./model.gguf"),
        ("from", "", "./projector.gguf"),
        ("parameter", "num_ctx", "8192"),
        ("parameter", "stop", "<|im_end|>"),
        ("parameter", "stop", "<|x|> # not a comment"),
        ("template", "", "{{ .System }}\n# not a comment either\n{{ .Prompt }}"),
        ("system", "", 'say ""nothing"", \r\nelse'),
        ("message", "user", "How?"),
        ("message", "assistant", "So."),
        ("license", "", ""),
        ("adapter", "", "./lora.gguf"),
        ("requires", "", "0.30"),
    ]
    assert [c.line for c in file.commands] == [2, 3, 4, 5, 6, 7, 11, 13, 14, 15, 16, 17]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PARAMETER num_ctx 1", "no FROM"),
        ("", "no FROM"),
        ("FROM x\nFORM y", "line 2: 'FORM' is not a command"),
        ("FROM", "line 1: FROM has no value"),
        ("FROM x\n\nPARAMETER num_ctx", "line 3: PARAMETER has no value"),
        ("FROM x\nPARAMETER", "line 2: PARAMETER ''"),
        ("FROM x\nPARAMETER num-ctx 1", "letters, digits and _"),
        ("FROM x\nMESSAGE robot hi", "give system, user, assistant"),
        ('FROM x\nSYSTEM """never', "line 2: a quote is not closed"),
        ('FROM x\nSYSTEM """', "not closed"),
        ('FROM x\nSYSTEM "', "not closed"),
    ],
)
def test_what_ollama_would_not_accept(text: str, message: str) -> None:
    """A fault names the file, the line and what stands there."""
    with pytest.raises(ModelfileError, match=message) as found:
        parse_modelfile(text, name="My.modelfile")
    assert "My.modelfile" in str(found.value)


@given(st.binary(max_size=300))
def test_any_bytes_come_back_or_are_refused(data: bytes) -> None:
    """Whatever the bytes: a Modelfile that writes the same bytes, or a ModelfileError."""
    try:
        file = parse_modelfile(b"FROM x\n" + data)
    except ModelfileError:
        return
    assert file.to_bytes() == b"FROM x\n" + data


@given(
    st.lists(
        st.sampled_from(
            ['"', '"""', "\n", "\r", " ", "\t", "#", "PARAMETER num_ctx 1", "SYSTEM ", "a", "é", "\x00"]
        )
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_encodings_come_back(parts: list[str], encoding: str) -> None:
    """With and without a byte order mark, in UTF-8 and UTF-16, every byte is kept."""
    data = ("FROM x\n" + "".join(parts)).encode(encoding)
    with suppress(ModelfileError):
        assert parse_modelfile(data).to_bytes() == data


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"\r\n'), max_size=9), max_size=5
    ),
    st.integers(0, 2**31),
)
def test_a_change_changes_nothing_else(comments: list[str], value: int) -> None:
    """Another value for one command leaves every other character and command as it was."""
    before = "".join(f"# {c}\n" for c in comments)
    file = parse_modelfile(f'{before}FROM x\nPARAMETER num_ctx "4096"\r\nSYSTEM """a\nb"""\n')
    changed = file.replace(file.parameters("num_ctx")[0], str(value))
    assert changed.text == file.text.replace('"4096"', f'"{value}"')
    assert changed.parameters("num_ctx")[0].value == str(value)
    assert changed.values("system") == ("a\nb",)


def old_value(text: str, at: int) -> tuple[str, int] | None:
    """The value by the rule alone: the first line end after which, blanks apart, the quote is closed."""
    ends = [i for i, c in enumerate(text) if i >= at and c in "\r\n"] + [len(text)]
    for end in ends:
        inner = text[at:end].strip()
        quote = next((q for q in ('"' * 3, '"') if inner.startswith(q)), "")
        if not quote:
            return inner, end
        if len(inner) >= 2 * len(quote) and inner.endswith(quote):
            return inner[len(quote) : -len(quote)], end
    return None


@given(
    st.lists(st.sampled_from(['"', '"' * 3, "\n", "\r", " ", "\t", "\x0b", "\u2028", "x", "#"]), max_size=12)
)
def test_a_value_ends_where_its_quote_closes(parts: list[str]) -> None:
    """The quick search finds what the rule says."""
    text = "".join(parts)
    found = old_value("FROM " + text, 5)
    if found is None:
        with pytest.raises(ModelfileError, match="quote is not closed"):
            parse_modelfile("FROM " + text)
        return
    with suppress(ModelfileError):  # of what stands behind the value
        assert parse_modelfile("FROM " + text).commands[0].value == found[0]


@pytest.mark.parametrize("filler", ["\n", "\r\n", " \n", '" \n', '" x', " ", '"', '""" x\n', "#\n", "\x0b"])
@pytest.mark.parametrize("quote", ['"' * 3, '"', ""])
def test_the_time_grows_with_the_length(filler: str, quote: str) -> None:
    """Eight times the text takes at most some twenty times as long: 64 would be the square."""

    def seconds(n: int) -> float:
        text = f"FROM x\nSYSTEM {quote}" + filler * n
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            with suppress(ModelfileError):
                parse_modelfile(text)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(16000) < 20 * max(seconds(2000), 0.0002)


def test_bad_utf16_is_refused() -> None:
    """A mark that promises UTF-16 and bytes that are none."""
    with pytest.raises(ModelfileError, match="utf-16-le"):
        parse_modelfile(b"\xff\xfeF")


def finding(text: str, cards: tuple[Gpu, ...] = CARDS, **options: object) -> Finding:
    (found,) = check(parse_modelfile(text), EXAMPLES, cards, **options)  # type: ignore[arg-type]
    return found


STORY = {43008: (18542, 11286, 3792), 49125: (19862, 12174, 4320), 57344: (21622, 13358, 5024)}


@pytest.mark.parametrize("num_ctx", STORY)
def test_the_story(num_ctx: int) -> None:
    """Flash attention off on 24 + 12 GB: each card holds a compute buffer nobody counts, and the second overflows."""
    path = EXAMPLES / "modelfiles" / f"qwen-{num_ctx // 1024}k.modelfile"
    cards = parse_gpus("24564MiB,12288MiB")
    (found,) = check(parse_modelfile(path.read_bytes()), path.parent, cards, engine="ollama-before-0.30")
    first, second = found.plan.estimate.gpus
    measured = estimate(found.plan.model, cards, replace(found.plan.settings, engine_build=""))
    assert measured.exact  # by today's rules; what Ollama 0.24 ships was not measured, and says so
    assert measured.gpus[0].compute == first.compute
    assert "runner of its own" in found.plan.estimate.compute_note
    assert (first.layers, second.layers) == (33, 16)
    assert (round(first.model / MIB), round(second.model / MIB)) == (9206, 4974)
    assert (round(first.total / MIB), round(second.total / MIB)) == STORY[num_ctx][:2]
    assert {round(d.compute / MIB) for d in (first, second)} == {STORY[num_ctx][2]}
    assert found.num_ctx == num_ctx


def test_the_story_does_not_fit_on_the_real_cards_and_is_mended() -> None:
    """On the cards as their drivers report them, none of the three fits; what is written instead does.

    Of the first Ollama thinks that it does, by its own estimate; of the others it leaves layers to the host.
    """
    for num_ctx in STORY:
        path = EXAMPLES / "modelfiles" / f"qwen-{num_ctx // 1024}k.modelfile"
        findings = check(parse_modelfile(path.read_bytes()), path.parent, CARDS, engine="ollama-before-0.30")
        (found,) = findings
        verdict = Verdict.DEPENDS if num_ctx == 43008 else Verdict.SPILLS
        assert (found.verdict, found.card) == (verdict, "GeForce RTX 3060 12GB")
        assert found.shortfall == (1 << 30) - found.plan.estimate.gpus[1].left > 0
        mended = fix(findings)
        assert mended.text == parse_modelfile(path.read_bytes()).text.replace(str(num_ctx), str(found.best))
        (again,) = check(mended, path.parent, CARDS, engine="ollama-before-0.30")
        assert again.verdict is Verdict.FITS
        assert again.num_ctx == again.best == found.best


def test_the_value_that_would_fit_is_the_largest() -> None:
    """One step of 256 more than the value offered does not fit."""
    text = "FROM qwen2.5-14b-instruct-1m-q8_0.gguf\nPARAMETER num_gpu 49\nPARAMETER num_ctx {}"
    for options in (
        {"engine": "ollama"},
        {"engine": "ollama-before-0.30"},
        {"given": {"flash_attn": "on", "n_seq_max": 2}},
    ):
        best = finding(text.format(200_000), **options).best
        assert best % 256 == 0
        assert finding(text.format(4096), **options).best == best
        assert finding(text.format(best), **options).fits
        assert not finding(text.format(best + 256), **options).fits


def test_the_largest_safe_context_is_said_of_one_that_fits() -> None:
    """What fits is told how far it could go: to the trained length at most, whatever was asked for."""
    text = "FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctx {}"
    for num_ctx in (4096, 131_072, 500_000):
        found = finding(text.format(num_ctx), parse_gpus("h100"))
        assert (found.verdict, found.best, found.mended) == (Verdict.FITS, 131_072, 0)
    small = finding(text.format(4096), parse_gpus("3060-12gb"))
    assert small.best > 4096
    assert fix([small]).text == text.format(4096)


def test_a_context_is_only_ever_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the batch makes a larger context safe and the one asked for not, what is written is below it."""

    def batches(model: object, gpus: object, contexts: Sequence[int], flash_attn: str) -> tuple[int, ...]:
        return tuple(4096 if 32768 < n <= 34048 else 32 for n in contexts)

    monkeypatch.setattr(import_module("vramfit._modelfile.check"), "auto_batches", batches)
    text = "FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctx 33024"
    found = finding(text, parse_gpus("10800MiB"), given={"flash_attn": "on"})
    assert not found.fits
    assert found.mended == 32768 < 33024 < found.best
    assert fix([found]).text == text.replace("33024", "32768")


def test_the_batch_that_ollama_chooses_is_counted() -> None:
    """Where the batch hangs on the context, the value offered is one whose own batch fits, and the largest."""
    cards = parse_gpus("24GiB,16GiB")
    text = "FROM qwen2.5-14b-instruct-1m-q8_0.gguf\nPARAMETER num_ctx {}"
    best = finding(text.format(1_000_000), cards, given={"flash_attn": "on"}).best
    offered = finding(text.format(best), cards, given={"flash_attn": "on"})
    assert offered.fits
    assert offered.plan.settings.n_ubatch == auto_batch(offered.plan.model, cards, best, "on")
    assert not finding(text.format(best + 256), cards, given={"flash_attn": "on"}).fits
    assert finding(text.format(4096), parse_gpus("8GiB")).best == 0


def test_a_name_of_ollamas_store_brings_its_context(alone: Path) -> None:
    """FROM a name: the model in the store, and the context that it was made with."""
    store = alone / ".ollama" / "models"
    (store / "blobs").mkdir(parents=True)
    layers = []
    for kind, data in (("model", GEMMA.read_bytes()), ("params", b'{"num_ctx": 12288}')):
        digest = hashlib.sha256(data).hexdigest()
        (store / "blobs" / f"sha256-{digest}").write_bytes(data)
        layers.append(
            {
                "mediaType": f"application/vnd.ollama.image.{kind}",
                "digest": f"sha256:{digest}",
                "size": len(data),
            }
        )
    manifest = store / "manifests" / "registry.ollama.ai" / "library" / "mine" / "latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    (found,) = check(parse_modelfile("FROM mine"), alone, CARDS)
    assert (found.num_ctx, found.command, found.verdict) == (12288, None, Verdict.FITS)


@pytest.mark.parametrize("engine", ["ollama", "ollama-before-0.30"])
def test_ollama_moves_layers_unless_it_is_told_how_many(engine: str) -> None:
    """What does not fit goes to the host; with num_gpu memory runs out."""
    text = "FROM qwen2.5-14b-instruct-1m-q8_0.gguf\nPARAMETER num_ctx 200000\n"
    assert finding(text, engine=engine).verdict is Verdict.SPILLS
    assert finding(text + "PARAMETER num_gpu 49\n", engine=engine).verdict is Verdict.CRASHES


def test_an_old_ollama_says_how_many_layers_go_to_the_host() -> None:
    """Its own estimate decides: more on the host the longer the context, and some where all would have fitted."""
    text = "FROM qwen2.5-14b-instruct-1m-q8_0.gguf\nPARAMETER num_ctx {}\n"
    moved = []
    for num_ctx in (57_344, 100_000, 200_000):
        found = finding(text.format(num_ctx), engine="ollama-before-0.30")
        said = re.search(r"leave (\d+) of 49 layers to the host", found.notes[0])
        assert found.verdict is Verdict.SPILLS
        assert said
        moved.append(int(said[1]))
    assert 0 < moved[0] < moved[1] < moved[2] < 49
    short = finding(text.format(43_008), engine="ollama-before-0.30")
    assert "put 37 + 12 of 49 layers on the cards" in short.notes[0]
    cards = parse_gpus("16300MiB")
    spared = finding(text.format(4096), cards, engine="ollama-before-0.30", margin_bytes=0)
    assert spared.verdict is Verdict.FITS
    assert "PARAMETER num_gpu 49 prevents it" in spared.notes[0]


def test_what_an_old_ollama_believes_to_fit_and_does_not_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate that is too low puts layers where they have no room; its own engine gives way instead."""
    module = import_module("vramfit._engines.old_layout")
    monkeypatch.setattr(module, "graph_bytes", lambda model, settings: 0)
    text = "FROM qwen2.5-14b-instruct-1m-q8_0.gguf\nPARAMETER num_ctx 90000\n"
    found = finding(text, engine="ollama-before-0.30")
    assert found.verdict is Verdict.CRASHES
    assert "more than the fullest card has" in found.notes[0]
    monkeypatch.setattr(module, "OWN_ENGINE", {"qwen2"})
    assert finding(text, engine="ollama-before-0.30").verdict is Verdict.SPILLS


def test_what_the_file_says_counts() -> None:
    """Batch, layers and card of the Modelfile come before the server's settings; the last value counts."""
    text = (
        "FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_batch 64\nPARAMETER num_batch 128\nPARAMETER num_gpu 20\n"
        "PARAMETER main_gpu 1\nPARAMETER num_ctx 4096"
    )
    settings = finding(text, given={"n_batch": 1024, "type_k": "q8_0", "type_v": "q8_0"}).plan.settings
    assert (settings.n_batch, settings.n_ubatch, settings.n_gpu_layers) == (128, 128, 20)
    assert (settings.main_gpu, settings.split_mode, settings.type_k) == (1, "none", "q8_0")


def test_trained_length_is_the_limit_that_ollama_keeps() -> None:
    """More than the trained context is cut to it, and said."""
    card = parse_gpus("h100")
    found = finding("FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctx 500000", card)
    assert found.plan.n_ctx == 131072
    assert any("Ollama loads 131,072" in note for note in found.notes)
    old = finding("FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctx 200000", card, engine="ollama-before-0.30")
    assert any("degrade badly" in note for note in old.notes)


def test_without_a_context_the_engines_own_is_judged() -> None:
    """No num_ctx, or 0, is the default by memory; --fix has nothing to write then."""
    for text in ("FROM gemma-3-12b-q4_k_m.gguf", "FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctx 0"):
        findings = check(parse_modelfile(text), EXAMPLES, CARDS)
        assert [(f.command, f.num_ctx) for f in findings] == [(None, 32768)]
        assert fix(findings).text == text


def test_every_context_of_a_file_is_judged_and_mended() -> None:
    """Several lines, several findings; only those that do not fit are written."""
    text = "FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctx 131072\nPARAMETER num_ctx 4096\nADAPTER x\n"
    findings = check(parse_modelfile(text), EXAMPLES, parse_gpus("3060-12gb"), given={"flash_attn": "on"})
    assert [f.fits for f in findings] == [False, True]
    assert "not counted: x" in findings[0].notes
    assert fix(findings).text == text.replace("131072", str(findings[0].best))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM ./none.gguf", "FROM ./none.gguf: no such file"),
        ("FROM http://127.0.0.1:9/m.gguf", "FROM http://127.0.0.1:9/m.gguf: Ollama takes a file or a model's name"),
        ("FROM hf://user/repo", "Ollama takes a file"),
        ("FROM -", "FROM -: Ollama takes a file"),
        ("FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctxx 1", "line 2: Ollama knows no parameter 'num_ctxx'; did you mean num_ctx"),
        ("FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctx 4_096", "not a whole number"),
        ("FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_ctx -1", "give 0 to"),
        ("FROM gemma-3-12b-q4_k_m.gguf\nPARAMETER num_batch many", "num_batch 'many'"),
    ],
)  # fmt: skip
def test_faults_are_named(text: str, message: str) -> None:
    """A FROM that leads nowhere and values that Ollama refuses are errors, not findings."""
    with pytest.raises((ModelfileError, SourceError), match=message):
        check(parse_modelfile(text), EXAMPLES, CARDS)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["modelfile", "check", *args])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, model, num_ctx in (
        ("Modelfile", QWEN, 57344), ("sub/small.modelfile", GEMMA, 4096), ("Modelfile.big", QWEN, 8192),
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"\ufeff# mine\r\nFROM {model}\r\nPARAMETER num_ctx {num_ctx}\r\n".encode())
    (tmp_path / "README").write_text("not a Modelfile")
    return tmp_path


def test_a_folder_is_checked_and_mended(folder: Path) -> None:
    """Exit 3 while one does not fit; --fix writes its number and not a byte more; then 0."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = run(str(folder), "--gpus", "3090ti,3060-12gb", "-fa", "off")
    assert result.exit_code == 3, result.output
    assert result.output.count("fits") == 2
    assert {p: p.read_bytes() for p in before} == before
    mended = run(str(folder), "--gpus", "3090ti,3060-12gb", "-fa", "off", "--fix")
    assert mended.exit_code == 3
    (said,) = (line for line in mended.output.split("\n") if line.startswith("Wrote"))
    assert said.startswith(f"Wrote {folder / 'Modelfile'}: line 3: num_ctx 57344 → ")
    assert said.endswith(f". Before: {folder / 'Modelfile~'}")
    best = json.loads(run(str(folder), "--gpus", "3090ti,3060-12gb", "-fa", "off", "--json").output)[
        "findings"
    ][0]["best"]
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    changed = folder / "Modelfile"
    assert after.pop(folder / "Modelfile~") == before[changed]
    assert after.pop(changed) == before.pop(changed).replace(b"57344", str(best).encode())
    assert after == before
    assert run(str(folder), "--gpus", "3090ti,3060-12gb", "-fa", "off").exit_code == 0


def test_json_has_it_all(folder: Path) -> None:
    """One object with a finding for each context, and the errors beside them."""
    (folder / "Modelfile.bad").write_text("FORM x")
    result = run(
        str(folder), "--gpus", "3090ti,3060-12gb", "-fa", "off", "--json", "--engine", "ollama-before-0.30"
    )
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["fits"] is False
    assert [f["verdict"] for f in found["findings"]] == ["spills", "fits", "fits"]
    assert found["findings"][0]["plan"]["gpus"][1]["name"] == "GeForce RTX 3060 12GB"
    assert "'FORM' is not a command" in found["errors"][0]
    assert "FORM" in result.stderr


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """What is not there is an error with the file's name; a folder with nothing to judge is one of its own."""
    assert run(str(tmp_path / "none"), "--gpus", "3060-12gb").exit_code == 1
    assert "none" in run(str(tmp_path / "none"), "--gpus", "3060-12gb").stderr
    big = tmp_path / "Modelfile"
    with big.open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert "this is not a Modelfile" in run(str(big), "--gpus", "3060-12gb").stderr
    big.unlink()
    empty = run(str(tmp_path), "--gpus", "3060-12gb")
    assert (empty.exit_code, empty.stdout) == (4, "")
    assert f"{tmp_path}: no Modelfile in it" in empty.stderr
    for name in ("one.modelfile", "two.modelfile"):
        (tmp_path / name).write_text("FROM ./none.gguf\n")
    unread = run(str(tmp_path), "--gpus", "3060-12gb")
    assert (unread.exit_code, unread.stdout, unread.stderr.count("no such file")) == (4, "", 2)
    assert "nothing was judged" in unread.stderr
    found = json.loads(run(str(tmp_path), "--gpus", "3060-12gb", "--json").stdout)
    assert (found["fits"], found["findings"], len(found["errors"])) == (False, [], 3)
    (tmp_path / "good.modelfile").write_text(f"FROM {GEMMA}\nPARAMETER num_ctx 4096\n")
    assert run(str(tmp_path), "--gpus", "3090ti").exit_code == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_modelfile_and_no_model(tmp_path: Path) -> None:
    """Nobody writes into it: to read it would be to wait for ever."""
    for name in ("Modelfile", "model.gguf"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "x.modelfile").write_text("FROM ./model.gguf\n")
    for asked in ("Modelfile", "x.modelfile"):
        ran = run(str(tmp_path / asked), "--gpus", "3060-12gb")
        assert (ran.exit_code, ran.stderr.count("it is a pipe")) == (1, 1)


def test_a_write_that_fails_leaves_all_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at any step: the old file, nothing beside it, and the next run mends."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    words = (str(folder), "--gpus", "3090ti,3060-12gb", "-fa", "off", "--fix")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("os.fsync", "os.chmod", "shutil.copy2", "os.replace"):
        with monkeypatch.context() as patched:
            patched.setattr(step, full)
            ran = run(*words)
        assert ran.exit_code == 1
        assert "Modelfile: cannot be written: No space left on device; it is as it was" in ran.stderr
        assert "Wrote" not in ran.output
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert run(*words).exit_code == 3
    (folder / "Modelfile").write_bytes(before[folder / "Modelfile"])
    assert run(*words).exit_code == 3
    assert (folder / "Modelfile~2").read_bytes() == (folder / "Modelfile~").read_bytes()
    found = json.loads(run(*words, "--json").stdout)
    assert found["written"] == []


def test_a_modelfile_that_was_printed_can_be_checked() -> None:
    """The Modelfile of a plan for Ollama passes its own check on the same cards."""
    import vramfit
    from vramfit._engines.choose import plan_for
    from vramfit._engines.settings import engine_settings

    model = vramfit.read(QWEN)
    planned = plan_for(model, CARDS, engine_settings("ollama", {"flash_attn": "on"}), "ollama")
    file: Modelfile = parse_modelfile(planned.modelfile())
    (found,) = check(file, ROOT, CARDS, given={"flash_attn": "on"})
    assert found.fits
    assert found.plan.estimate.gpus == planned.estimate.gpus
