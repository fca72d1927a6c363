"""Next-token layers: their weights, a context of their own, and states to go back to, as the engine has them."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT

import vramfit
from vramfit._base.errors import EngineRefusal
from vramfit._cli import main
from vramfit._estimate.company import company_at_least
from vramfit._estimate.estimate import estimate
from vramfit._gguf import parse
from vramfit._graphs.next_tokens import FAMILIES
from vramfit._llama.arch import describe
from vramfit._llama.model import Model
from vramfit._llama.speculation import blocks_of, loaded, next_tokens

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.next_tokens import CASES, N_MAX, SLOTS
from tools.graphs.cases import SETTINGS, beside, cases, reservations
from tools.graphs.digest import digest, digests
from tools.graphs.ours import graph_of

FOLDER = Path(__file__).parent / "data/company"
RECORDED: dict[str, dict[str, Any]] = json.loads((FOLDER / "next_tokens.json").read_text())
BLOCKS: dict[str, list[list[list[int]]]] = json.loads((FOLDER / "blocks.json").read_text())
GRAPHS = digests(FOLDER)
EVERY_DAY = ("one card", "four streams, no flash attention", "q8_0 caches", "half of the layers, small batch")


@cache
def model_of(name: str) -> Model:
    header = gzip.decompress((FOLDER / f"{name}.gguf.gz").read_bytes())
    return describe(parse(header, name=name), source=name)


def settings(n: int, flash_attn: str = "on") -> vramfit.Settings:
    return vramfit.Settings(
        n_ctx=8192, n_seq_max=SLOTS, n_outputs_max=SLOTS * (1 + N_MAX), spec_type="draft-mtp",
        spec_draft_n_max=N_MAX, flash_attn=flash_attn,  # type: ignore[arg-type]
        tensor_split=(1.0,) * n,
    )  # fmt: skip


def cards(n: int) -> list[vramfit.Gpu]:
    return [vramfit.Gpu(f"card {i}", 600000 << 20, compute_capability="8.6") for i in range(n)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RECORDED)
def test_next_token_layers_take_what_the_engine_allocated(name: str, case: str) -> None:
    """Model and layers, to the byte."""
    told = CASES[case]
    n = len(told["gpus_mib"])
    found = estimate(model_of(name), cards(n), settings(n, told.get("flash_attn", "on")))
    model, own = RECORDED[name][case]
    assert [[d.model, d.context, d.compute] for d in (*found.gpus, found.host)] == model
    (layers,) = found.company
    assert layers.kind == "next-token layers"
    assert all(t.model == 0 for t in layers.gpus)
    assert layers.exact
    assert [[t.context, t.compute] for t in (*layers.gpus, layers.host)] == own


def unlike(name: str, chosen: tuple[str, ...]) -> list[str]:
    """Settings and reservations whose graph is not the engine's."""
    found = []
    told = beside({x: SETTINGS[x] for x in chosen}, next_tokens=True)
    for case in cases(FOLDER / name, model_of(name), told):
        wanted = GRAPHS[name][case.name]
        for number, (run, want) in enumerate(zip(reservations(case) if wanted else (), wanted, strict=False)):
            built = run._replace(fused=frozenset(want.fused or run.fused))
            if digest(graph_of(case.model, built, case.placement).graph, True) != want.digest:
                found.append(f"{case.name}, reservation {number}")
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_of_next_token_layers_are_the_engines(name: str) -> None:
    """Node for node; and every family that the engine runs was compared."""
    assert unlike(name, EVERY_DAY) == []
    families = {model_of(x).architecture for x in GRAPHS}
    assert set(FAMILIES) == families == {x.removeprefix("mtp-") for x in RECORDED}


def test_a_plan_leaves_room_for_them() -> None:
    """The context is the largest that fits with them beside it; the next one does not."""
    model = model_of("mtp-qwen35")
    asked = vramfit.server_settings(spec_type="draft-mtp", flash_attn="on")
    card = vramfit.Gpu("card", 2200 << 20, compute_capability="8.6")
    found = vramfit.plan(model, card, asked, margin_bytes=0)
    assert found.fits
    assert found.limited_by == "card"
    assert found.estimate.company[0].gpus[0].context
    more = estimate(model, card, replace(found.settings, n_ctx=found.n_ctx + 256))
    assert more.gpus[0].left < 0
    assert "--spec-type draft-mtp --spec-draft-n-max 3" in found.command()
    assert (
        vramfit.plan(model, card, vramfit.server_settings(flash_attn="on"), margin_bytes=0).n_ctx
        > found.n_ctx
    )


def test_their_caches_have_types_of_their_own(tmp_path: Path) -> None:
    """Those of -ctkd and -ctvd, which the command names too; the model's caches are others."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gzip.decompress((FOLDER / "mtp-glm4moe.gguf.gz").read_bytes()))
    words = [
        "plan",
        str(path),
        "--gpus",
        "8x80GiB",
        "-c",
        "8192",
        "--spec-type",
        "draft-mtp",
        "-ctk",
        "q4_0",
        "--json",
    ]
    words += ["-fa", "on", "-ctv", "q4_0", "--engine", "llama-server"]
    plain, found = (
        json.loads(CliRunner().invoke(main, [*words, *more]).stdout)
        for more in ((), ("-ctkd", "q8_0", "-ctvd", "q8_0"))
    )
    own, smaller = (sum(g["context"] for g in x["company"][0]["gpus"]) for x in (plain, found))
    assert smaller * 32 == own * 17
    assert "-ctkd q8_0 -ctvd q8_0" in found["command"]


def test_they_are_left_out_where_nobody_asks() -> None:
    """Without draft-mtp nothing of them is loaded; a model without them is refused."""
    model = model_of("mtp-glm4moe")
    plain = replace(settings(1), spec_type="none")
    assert loaded(model, plain) is model
    assert estimate(model, cards(1), plain).company == ()
    with pytest.raises(EngineRefusal, match="doesn't contain MTP layers"):
        next_tokens(vramfit.read(ROOT / "examples/gemma-3-12b-q4_k_m.gguf"))
    with pytest.raises(vramfit.SettingsError, match="leave out draft-mtp"):
        vramfit.sweep(model, cards(1), settings(1), n_ctx=[8192])


@pytest.mark.oracle
@pytest.mark.parametrize("name", GRAPHS)
def test_they_are_so_under_all_settings(name: str) -> None:
    """The same under every setting of a proof that the engine takes."""
    assert unlike(name, tuple(x for x, found in GRAPHS[name].items() if found)) == []


def doubled(name: str) -> Model:
    """A model whose last two layers are next-token layers."""
    model = model_of(name)
    layers = tuple(replace(x, is_nextn=x.index >= model.n_layer - 2) for x in model.layers)
    return replace(model, layers=layers)


def test_layers_that_no_graph_fits_are_bounded() -> None:
    """Where the blocks are several, attention is another or a file is not as the engine wants it, the note says so."""
    three, plain = model_of("mtp-mimo2"), replace(model_of("mtp-deepseek2"), is_mla=False)
    apart = replace(three, mtp=tuple(w for w in three.mtp if "attn_qkv" not in w.tensor.name))
    compressed = model_of("mtp-deepseek4")
    ratios = {**compressed.hparams, "attention.compress_ratios": (4,) * compressed.n_layer}
    unlike_it = replace(compressed, hparams=ratios)
    for model, why in (
        (doubled("mtp-glm4moe"), "2 next-token blocks"),
        (plain, "without latent attention"),
        (apart, "a matrix each"),
        (unlike_it, "compresses keys"),
        (replace(three, architecture="llama"), "no graph of the next-token layers"),
    ):
        (layers,) = estimate(model, cards(1), settings(1)).company
        assert why in layers.note
        assert layers.gpus[0].compute


def test_a_bounded_context_has_a_floor() -> None:
    """Of buffers that are only bounded, what is sure are the caches."""
    model, gpus = doubled("mtp-glm4moe"), cards(1)
    (layers,) = estimate(model, gpus, settings(1)).company
    floor = company_at_least(loaded(model, settings(1)), gpus, settings(1), 8192, estimate)
    assert floor.gpus[0] == layers.gpus[0].context > 0


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_on_several_cards_are_counted_as_when_all_have_run(name: str) -> None:
    """The engine reserves for the first; each card is taken to hold the most that the reservation for any block does."""
    model = model_of(name)
    told = replace(
        settings(2), tensor_split=(model.n_layer - 1, 2)
    )  # the last layer and the output lie on the second card
    (layers,) = estimate(model, cards(2), told).company
    assert "grow when a later one runs" in layers.note
    of_each = list(zip(*BLOCKS[name], strict=True))
    assert [t.context for t in (*layers.gpus, layers.host)] == [blocks[0][0] for blocks in of_each]
    assert [t.compute for t in (*layers.gpus, layers.host)] == [
        max(b[1] for b in blocks) for blocks in of_each
    ]
    first, last = BLOCKS[name]
    assert first[0][1] > last[0][1]
    assert first[1][1] < last[1][1]


def test_a_draft_of_several_blocks_grows_likewise(tmp_path: Path) -> None:
    """A file of its own that drafts by such blocks is counted as the model's are."""
    path = tmp_path / "draft.gguf"
    path.write_bytes(gzip.decompress((FOLDER / "mtp-mimo2.gguf.gz").read_bytes()))
    model = model_of("mtp-mimo2")
    told = replace(settings(2), tensor_split=(model.n_layer - 1, 2))
    (draft,) = estimate(vramfit.accompany(model, draft=path), cards(2), told).company
    assert draft.kind == "draft"
    assert "grow when a later one runs" in draft.note
    of_each = list(zip(*BLOCKS["mtp-mimo2"], strict=True))
    assert [t.compute for t in (*draft.gpus, draft.host)] == [max(b[1] for b in blocks) for blocks in of_each]


def test_all_layers_run_of_a_model_that_is_nothing_else() -> None:
    """An assistant that drafts for another model has no layers but these."""
    header = gzip.decompress((ROOT / "tests/data/builders/gemma4-assistant.gguf.gz").read_bytes())
    model = describe(parse(header, name="assistant"), source="assistant")
    assert all(x.is_nextn for x in model.layers)
    assert not any(x.is_nextn for x in next_tokens(model).layers)
    assert blocks_of(model) == ()
