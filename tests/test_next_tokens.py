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
from vramfit._llama.arch import describe
from vramfit._llama.model import Model
from vramfit._llama.speculation import loaded, next_tokens

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.next_tokens import CASES, N_MAX, SLOTS

FOLDER = Path(__file__).parent / "data/company"
RECORDED: dict[str, dict[str, Any]] = json.loads((FOLDER / "next_tokens.json").read_text())
BOUNDED = {"mtp-step35"}


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
    """Model and layers, to the byte; of a family without a graph the layers' buffers are bounded, and say so."""
    told = CASES[case]
    n = len(told["gpus_mib"])
    found = estimate(model_of(name), cards(n), settings(n, told.get("flash_attn", "on")))
    model, own = RECORDED[name][case]
    assert [[d.model, d.context, d.compute] for d in (*found.gpus, found.host)] == model
    (layers,) = found.company
    assert layers.kind == "next-token layers"
    got = [[t.context, t.compute] for t in (*layers.gpus, layers.host)]
    assert all(t.model == 0 for t in layers.gpus)
    if name in BOUNDED:
        assert "no graph of the next-token layers" in layers.note
        assert [a for a, _ in got] == [a for a, _ in own]  # caches are exact all the same
        assert all(
            a >= b for mine, theirs in zip(got, own, strict=True) for a, b in zip(mine, theirs, strict=True)
        )
    else:
        assert layers.exact
        assert got == own


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


def test_layers_that_no_graph_fits_are_bounded() -> None:
    """Where the blocks are several, or attention is another, the note says so."""
    two = model_of("mtp-glm4moe")
    doubled = replace(two, layers=tuple(replace(x, is_nextn=x.index >= two.n_layer - 2) for x in two.layers))
    plain = replace(model_of("mtp-deepseek2"), is_mla=False)
    for model, why in ((doubled, "2 next-token blocks"), (plain, "without latent attention")):
        (layers,) = estimate(model, cards(1), settings(1)).company
        assert why in layers.note
        assert layers.gpus[0].compute


def test_a_bounded_context_has_a_floor() -> None:
    """Of buffers that are only bounded, what is sure are the caches."""
    model, gpus = model_of("mtp-step35"), cards(1)
    floor = company_at_least(loaded(model, settings(1)), gpus, settings(1), 8192, estimate)
    assert floor.gpus[0] == RECORDED["mtp-step35"]["one card"][1][0][0] > 0
