"""Drafts that read their target's embeddings, output matrix or caches: no byte twice, and graphs as the engine reserves them."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import vramfit
from vramfit._base.errors import EngineRefusal, ModelError
from vramfit._company import Company, Draft
from vramfit._company.drafts import speculation_warnings, taps_of
from vramfit._company.lent import lend, reads_target
from vramfit._estimate.company import company_at_least, company_bytes
from vramfit._estimate.estimate import estimate
from vramfit._gguf import parse
from vramfit._llama.arch import describe
from vramfit._llama.model import Home, Model
from vramfit._llama.params import Settings
from vramfit._llama.placement import HOST, place

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.lent import CARD_MIB, CASES, N_MAX, SPEC_TYPES, TAPS

FOLDER = Path(__file__).parent / "data/company"
RECORDED: dict[str, dict[str, Any]] = json.loads((FOLDER / "lent.json").read_text())
KEPT = "what the model keeps of its layers for the draft is an upper bound"


@cache
def model_of(name: str) -> Model:
    return describe(parse(gzip.decompress((FOLDER / f"{name}.gguf.gz").read_bytes()), name=name), source=name)


def paired(name: str, **told: Any) -> Model:
    return replace(model_of(f"target-{name}"), company=Company(Draft(model_of(f"draft-{name}"), **told)))


def cards(n: int) -> list[vramfit.Gpu]:
    return [vramfit.Gpu(f"card {i}", CARD_MIB << 20, compute_capability="8.6") for i in range(n)]


def asked(name: str, case: str) -> tuple[Model, list[vramfit.Gpu], Settings]:
    """A case of the record in the library's words."""
    n, n_draft, both, own = CASES[case]
    draft = {"type_k": both.get("type_k", "f16"), "type_v": both.get("type_v", "f16")}
    draft |= {"n_gpu_layers": both.get("n_gpu_layers", -1), **own}
    settings = Settings(
        n_ctx=8192, tensor_split=(1.0,) * n, spec_type=SPEC_TYPES[name], spec_draft_n_max=N_MAX, **both
    )
    devices = None if n == n_draft else tuple(range(n_draft))
    return paired(name, devices=devices, **draft), cards(n), settings


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SPEC_TYPES)
def test_a_draft_takes_what_the_engine_allocated_beside_its_target(name: str, case: str) -> None:
    """To the byte; refused where the engine stops at a part that is out of the draft's reach."""
    recorded = RECORDED[name][case]
    model, gpus, settings = asked(name, case)
    if recorded == "refused":
        with pytest.raises(EngineRefusal, match="not among its own"):
            estimate(model, gpus, settings)
        return
    (found,) = estimate(model, gpus, settings).company
    (*drafted, drafted_host), ((*grown, grown_host),) = recorded
    drafted += [[0, 0, 0]] * (len(gpus) - len(drafted))
    wanted = [[m, c, compute + max(0, more)] for (m, c, compute), more in zip(drafted, grown, strict=True)]
    read = len(TAPS[name]) * model.n_embd * settings.n_batch * 4  # of a whole batch, on the host
    host = [*drafted_host[:2], drafted_host[2] + max(0, grown_host) + read]
    assert [[t.model, t.context, t.compute] for t in (*found.gpus, found.host)] == [*wanted, host]
    assert found.exact


def test_what_an_unmeasured_model_keeps_is_bounded() -> None:
    """Of another architecture no more is known than a bound, which is no less; ids of no inner layer are as little."""
    model, gpus, settings = asked("dflash", "one card")
    (exact,) = estimate(model, gpus, settings).company
    (bound,) = estimate(replace(model, architecture="qwen2"), gpus, settings).company
    assert bound.note.endswith(KEPT)
    assert bound.gpus[0].compute > exact.gpus[0].compute
    assert bound.host.compute > exact.host.compute
    draft, target = model_of("draft-dflash"), model_of("target-dflash")
    assert taps_of(target, draft) == TAPS["dflash"]
    for odd in ((0, 2), (2, 36), ("a",), None):
        assert taps_of(target, replace(draft, hparams={"target_layers": odd})) == ()


@pytest.mark.parametrize("name", SPEC_TYPES)
def test_what_is_lent_takes_no_room_of_the_drafts(name: str) -> None:
    """Weights are those of the file, and the assistant has no cache of its own."""
    model, gpus, settings = asked(name, "one card")
    (found,) = estimate(model, gpus, settings).company
    own = sum(t.n_bytes for t in model_of(f"draft-{name}").tensors)
    tied = 220200960 if name == "assistant" else 0  # its own embeddings, on the host and as the output
    assert 0 <= found.gpus[0].model + found.host.model - own - tied < 1 << 14  # padding
    assert (found.gpus[0].context == 0) is (name == "assistant")


def lent_to(name: str, **changed: Any) -> Model:
    draft, target = model_of(f"draft-{name}"), model_of(f"target-{name}")
    placed = place(target, cards(1), Settings())
    return lend(replace(draft, **changed), target, placed, {0: 0}, ("f16", "f16"))


def test_tables_are_read_where_the_target_has_them() -> None:
    """Embeddings on the host, the output matrix on the target's last card, by the draft's count of its cards."""
    lent = {w.home: w for w in lent_to("dflash").weights if w.lent is not None}
    assert (lent[Home.INPUT].lent, lent[Home.OUTPUT].lent) == (HOST, 0)
    assert [w.tensor.name for w in lent.values()] == ["token_embd.weight", "output.weight"]
    draft, target = model_of("draft-dflash"), model_of("target-dflash")
    tied = replace(target, weights=tuple(
        w._replace(tensor=replace(w.tensor, name="token_embd.weight")) if w.home is Home.OUTPUT and w.tensor.name == "output.weight"
        else w for w in target.weights
    ))  # fmt: skip
    again = lend(draft, tied, place(tied, cards(2), Settings()), {0: 1, 1: 0}, ("f16", "f16"))
    found = next(w for w in again.weights if w.home is Home.OUTPUT and w.lent is not None)
    assert (found.tensor.name, found.lent) == ("output.weight", 0)


def test_a_draft_with_tables_of_its_own_reads_none() -> None:
    whole = lent_to("dflash")
    assert not reads_target(replace(whole, borrows=False))
    assert not reads_target(model_of("target-dflash"))


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("dflash", {"n_embd": 1024}, "rows of 1024 elements.*token_embd.weight has 4096"),
        ("assistant", {"hparams": {"embedding_length_out": 8}}, "rows of 8 elements"),
        ("assistant", {"layers": ()}, ""),
    ],
)
def test_a_draft_of_another_target(name: str, changed: dict[str, Any], message: str) -> None:
    """Widths that do not match are refused, with both."""
    if not message:
        draft = model_of(f"draft-{name}")
        changed = {"layers": tuple(replace(x, head_k=64) for x in draft.layers)}
        message = "reads keys of 1024 elements"
    with pytest.raises(ModelError, match=message):
        lent_to(name, **changed)


def test_a_target_without_the_tables() -> None:
    draft, target = model_of("draft-dflash"), model_of("target-dflash")
    bare = replace(target, weights=())
    with pytest.raises(ModelError, match=r"no token_embd.weight of its own"):
        lend(draft, bare, place(bare, cards(1), Settings()), {0: 0}, ("f16", "f16"))


def test_alone_such_a_draft_is_bounded() -> None:
    """Planned as a model of its own it has no graph, and says whose parts it would read."""
    for name, why in (
        ("dflash", "takes the target model's"),
        ("assistant", "no graph of the next-token layers"),
    ):
        found = estimate(model_of(f"draft-{name}"), cards(1), Settings(n_ctx=8192))
        assert not found.exact
        assert why in found.compute_note


@pytest.mark.parametrize("name", SPEC_TYPES)
def test_a_larger_context_takes_no_less_than_the_least(name: str) -> None:
    """What the solver takes from below holds at every larger context."""
    model, gpus, settings = asked(name, "one card")
    for n_ctx in (4096, 8192):
        least = company_at_least(model, gpus, replace(settings, n_ctx=n_ctx), n_ctx, estimate)
        for larger in (8192, 20480):
            found = company_bytes(model, gpus, replace(settings, n_ctx=larger), larger, estimate)
            assert all(a <= b for a, b in zip(least.taken, found.taken, strict=True))
            assert least.host <= found.host


def test_a_plan_fits_beside_the_assistant() -> None:
    """The solver takes it as any draft: the plan's own estimate leaves the margin, and says that it is exact."""
    model = vramfit.accompany(model_of("target-assistant"), draft=model_of("draft-assistant"))
    found = vramfit.plan(model, "3090ti", vramfit.server_settings(spec_type="draft-mtp", flash_attn="on"))
    assert found.fits
    assert found.estimate.company[0].exact
    assert found.estimate.gpus[0].left >= found.margin_bytes


def test_a_target_that_hands_nothing_to_a_draft_is_warned_of() -> None:
    """The engine stops there with the first token: nobody sees it at the start."""
    settings = Settings(spec_type="draft-eagle3")
    for architecture, n in (("qwen2", 1), ("deepseek4", 0), ("llama", 0)):
        model = replace(paired("eagle3"), architecture=architecture)
        assert len(speculation_warnings(model, settings)) == n
    assert (
        speculation_warnings(
            replace(paired("eagle3"), architecture="qwen2"), Settings(spec_type="draft-simple")
        )
        == ()
    )
