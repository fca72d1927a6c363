"""Embeddings and reranking: flags, what the engine makes of them, and the bytes that it allocated for each pooling."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from small import dense

import vramfit
from vramfit._base.errors import EngineRefusal, SettingsError
from vramfit._engines.binding import keywords
from vramfit._engines.server import arguments, pooling_flags
from vramfit._engines.settings import engine_settings
from vramfit._gguf import parse
from vramfit._live.programs import _of_fit
from vramfit._llama.arch import describe
from vramfit._llama.flags import read
from vramfit._llama.model import Model
from vramfit._llama.params import POOLINGS, Settings

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.pooling import CARDS_MIB, HEADERS, LINES
from tools.graphs.digest import header_of

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data/pooling/rows.json").read_text()
)


@cache
def model_of(name: str) -> Model:
    return describe(parse(header_of(name), name=name), source=name)


def estimated(name: str, line: str) -> Any:
    """Bytes as the record has them: what is estimated for a command line."""
    cards = [vramfit.Gpu(f"card {i}", m << 20, compute_capability="8.6") for i, m in enumerate(CARDS_MIB)]
    settings = vramfit.parse_command(f"llama-server -m x.gguf -c 2048 {line}")
    try:
        found = vramfit.estimate(model_of(name), cards[: LINES[line][0]], settings)
    except EngineRefusal:
        return "refused"
    assert found.exact
    return [[d.model, d.context, d.compute] for d in (*found.gpus, found.host)]


@pytest.mark.parametrize("name", HEADERS)
def test_each_pooling_takes_what_the_engine_allocated(name: str) -> None:
    """To the byte, under every way to pool, from the command line alone; and refused where the engine stops."""
    assert {line: estimated(name, line) for line in LINES} == RECORDED[name]


def test_a_mean_that_the_engine_stops_at_says_what_to_set() -> None:
    settings = Settings(n_ctx=2048, n_seq_max=3, kv_unified=True, embeddings=True, pooling="mean")
    with pytest.raises(EngineRefusal, match=r"513 tokens, of which 512 are outputs.*multiple of the 3 slots"):
        vramfit.estimate(model_of("bert"), "3090ti", settings)


def test_t5_has_one_cache() -> None:
    with pytest.raises(EngineRefusal, match="kv_unified"):
        vramfit.estimate(model_of("t5"), "3090ti", Settings(n_ctx=2048, n_seq_max=2))


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--rerank"], {"embeddings": True, "pooling": "rank"}),
        (["--reranking", "--pooling", "CLS"], {"embeddings": True, "pooling": "cls"}),
        (["--pooling", "cls", "--rerank"], {"embeddings": True, "pooling": "rank"}),
        (["LLAMA_ARG_POOLING=mean", "llama-server", "--embedding"], {"embeddings": True, "pooling": "mean"}),
        (["LLAMA_ARG_RERANKING=0", "llama-server"], {"embeddings": False}),
    ],
)
def test_flags_of_pooling(words: list[str], given: dict[str, Any]) -> None:
    """The later flag counts; a variable that is off asks for nothing (arg.cpp:3484)."""
    assert read(words).given == given


def test_a_pooling_that_there_is_not() -> None:
    with pytest.raises(SettingsError, match="--pooling 'max': give one of none, mean"):
        read(["--pooling", "max"])
    with pytest.raises(SettingsError, match="pooling='max'"):
        Settings(pooling="max")


@pytest.mark.parametrize("pooling", ["", *POOLINGS])
@pytest.mark.parametrize("embeddings", [False, True])
def test_settings_of_pooling_survive_the_command_line(pooling: str, embeddings: bool) -> None:
    """What is written out is read back as the same settings; a pooled server keeps all rows (server-context.cpp:41)."""
    settings = engine_settings("llama-server", pooling=pooling, embeddings=embeddings, n_ctx=512)
    assert vramfit.parse_command(f"llama-server {' '.join(arguments(settings))}") == settings
    pooled = embeddings or pooling not in ("", "none")
    assert settings.n_outputs_max == (0 if pooled else 4)
    assert settings.n_batch == (512 if embeddings else 2048)


def test_rerank_stands_for_both_flags() -> None:
    assert pooling_flags(Settings(embeddings=True, pooling="rank")) == ["--rerank"]
    assert pooling_flags(Settings(pooling="rank")) == ["--pooling", "rank"]


def test_other_programs_are_told_as_they_can_be() -> None:
    """The binding takes the engine's number; Ollama pools as the header says, and llama-fit-params knows none of the flags."""
    plan = vramfit.plan(
        dense(), "3090ti", engine_settings("llama-cpp-python", embeddings=True, pooling="mean", n_ctx=512)
    )
    assert keywords(plan)["pooling_type"] == 1
    with pytest.raises(SettingsError, match="pooling"):
        engine_settings("ollama", embeddings=True, pooling="mean")
    assert _of_fit(["-c", "1", "--pooling", "cls", "-kvu", "--rerank"]) == ["-c", "1"]


def test_settings_show_what_was_told() -> None:
    """A repr is the call that makes them, without what is left at its default."""
    settings = Settings(n_ctx=512, pooling="cls", tensor_split=(1.0, 2.0), defaults="ollama")
    assert repr(settings) == "Settings(n_ctx=512, tensor_split=(1.0, 2.0), pooling='cls', defaults='ollama')"
    again = eval(repr(settings))
    assert (again, again.defaults) == (settings, "ollama")
    assert repr(Settings()) == "Settings()"
