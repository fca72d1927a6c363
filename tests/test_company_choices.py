"""Trades, comparisons and shortlists count what is loaded beside a model: each answer is a plan's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small import dense, gpu

import vramfit
from vramfit._company import Company, Draft
from vramfit._devices import Gpu
from vramfit._llama.model import Model
from vramfit._llama.params import Settings

MARGIN = 16 << 20
ALONE = replace(dense(3, n_ctx_train=1 << 13), architecture="llama")
DRAFT = replace(dense(2, n_vocab=1024, n_ctx_train=1 << 13), architecture="llama")
SPECULATING = Settings(spec_type="draft-simple", n_outputs_max=4, flash_attn="on")


@pytest.fixture
def model() -> Model:
    return replace(ALONE, company=Company(Draft(DRAFT)))


def cards(mib: int = 46) -> list[Gpu]:
    return [replace(gpu(mib, name=f"card of {mib}"), bandwidth_gbs=500.0)]


def test_each_trade_is_a_plan_with_the_draft(model: Model) -> None:
    """A change buys what the same plan with the draft says, and less than it would without."""
    found = vramfit.trades(model, cards(), SPECULATING, margin_bytes=MARGIN, brief=True)
    without = vramfit.trades(ALONE, cards(), SPECULATING, margin_bytes=MARGIN, brief=True)
    assert len(found.rows) > 1
    assert found.asked.n_ctx < without.asked.n_ctx
    for row in found.rows[:3]:
        again = vramfit.plan(model, cards(), row.plan.settings, margin_bytes=MARGIN)
        assert row.plan.estimate.company
        assert row.plan.n_ctx == again.n_ctx
        assert not row.plan.fits or row.plan.estimate.gpus[0].left >= MARGIN


def test_a_comparison_is_of_plans_with_the_draft(model: Model) -> None:
    """Every file type and cache keeps the draft beside it."""
    asked = {"file_types": ["Q8_0", "Q4_0"], "cache_types": ["f16"], "margin_bytes": MARGIN}
    found = vramfit.compare(model, cards(), SPECULATING, **asked)  # type: ignore[arg-type]
    without = vramfit.compare(ALONE, cards(), SPECULATING, **asked)  # type: ignore[arg-type]
    assert len(found.choices) == 2
    for choice, lone in zip(found.choices, without.choices, strict=True):
        made = vramfit.requantize(model, choice.file_type)
        settings = replace(SPECULATING, type_k=choice.type_k, type_v=choice.type_v)
        assert choice.n_ctx == vramfit.plan(made, cards(), settings, margin_bytes=MARGIN).n_ctx < lone.n_ctx


def test_a_shortlist_is_of_cards_that_hold_both(model: Model) -> None:
    """Exactly the cards on which a plan with the draft fits; a smaller one would do without."""
    choice = [one for mib in range(30, 70, 5) for one in cards(mib)]
    settings = replace(SPECULATING, n_ctx=4096)
    found, without = (
        [
            c.gpus[0].name
            for c in vramfit.which(m, settings, gpus=choice, max_cards=1, margin_bytes=MARGIN).singles
        ]
        for m in (model, ALONE)
    )
    fits = [
        one.name
        for one in choice
        if vramfit.plan(model, [one], settings, margin_bytes=MARGIN, max_ctx=4096).fits
    ]
    assert found == fits
    assert 0 < len(found) < len(without)
