"""Pictures show what the results say; they were looked at, and these laws keep them so."""

# mypy: disable-error-code="union-attr,index,call-overload,attr-defined,arg-type,type-var"

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small import dense, gpu

from vramfit._base.errors import SettingsError
from vramfit._base.units import GIB
from vramfit._estimate.estimate import estimate
from vramfit._llama.params import Settings
from vramfit._planner.compare import compare
from vramfit._planner.plan import plan
from vramfit._planner.sweep import sweep
from vramfit._report.plots import CURVES, draw

ON = Settings(flash_attn="on", n_outputs_max=1)
MODEL = dense(4, n_ctx_train=1 << 16)
CARDS = [gpu(2048, name="large"), gpu(1200, name="small")]


@pytest.mark.parametrize("dark", [False, True])
def test_a_plan_is_stacked_memory_against_context(dark: bool) -> None:
    """One picture a card in use; the top of the stack at the planned context is the card's total."""
    found = plan(MODEL, CARDS, ON, margin_bytes=1 << 29)
    figure = found.plot(dark=dark)
    used = [card for card in found.estimate.gpus if card.total]
    assert [axes.get_title() for axes in figure.axes] == [card.name for card in used]
    for axes, card in zip(figure.axes, used, strict=True):
        top = axes.collections[2].get_paths()[0].vertices
        assert 0 < top[:, 0].max() >= found.n_ctx
        heights = [line.get_ydata()[0] for line in axes.lines[:2]]
        assert heights == [card.free_bytes / GIB, (card.free_bytes - found.margin_bytes) / GIB]
        assert axes.lines[2].get_xdata()[0] == found.n_ctx
        rightmost = top[top[:, 0] == top[:, 0].max()][:, 1].max()
        at = replace(found.settings, n_ctx=int(top[:, 0].max()))
        one = next(g for g in estimate(MODEL, CARDS, at).gpus if g.name == card.name)
        assert rightmost == pytest.approx(one.total / GIB)


def test_a_comparison_is_contexts_and_a_front() -> None:
    """Left, one series a cache type with every choice that fits; right, those with a measure."""
    found = compare(MODEL, CARDS, ON, file_types=["F16", "Q8_0", "MXFP4_MOE"], cache_types=["f16", "q8_0"])
    left, right = found.plot().axes
    fitting = [c for c in found.choices if c.fits]
    assert [line.get_label() for line in left.lines] == ["f16 cache", "q8_0 cache"]
    assert sorted(x for line in left.lines for x in line.get_xdata()) == sorted(c.n_ctx for c in fitting)
    marked = {line.get_label(): line for line in right.lines if not line.get_label().startswith("_")}
    measured = [c.measure.kld for c in fitting if c.measure and c.type_k == "f16"]
    assert list(marked["f16 cache"].get_ydata()) == measured
    assert "Llama 3 8B" in right.get_ylabel()


def test_a_sweep_is_lines() -> None:
    """A line for each combination, sorted by context, at most eight, and the title says of how many."""
    found = sweep(MODEL, CARDS, ON, n_ctx=[4096, 256, 1024], type_k=["f16", "q8_0"])
    (axes,) = found.plot().axes
    lines = axes.lines[:-1]
    assert [line.get_label() for line in lines] == ["f16", "q8_0"]
    assert list(lines[0].get_xdata()) == [256, 1024, 4096]
    left = dict(zip(found.columns["n_ctx"].tolist(), (found.columns["left"] / GIB).tolist(), strict=False))
    assert dict(zip(lines[0].get_xdata().tolist(), lines[0].get_ydata().tolist(), strict=True)) == left
    many = sweep(MODEL, CARDS, ON, n_ctx=[256, 512], n_ubatch=np.arange(1, 13) * 32)
    (axes,) = many.plot().axes
    assert len(axes.lines) == CURVES + 1
    assert "8 of 12" in axes.get_title()


def test_nothing_to_draw_is_an_error() -> None:
    """No card, nothing that fits, everything refused: a sentence, not an empty picture."""
    cases: list[Any] = [
        plan(MODEL, [], replace(ON, n_ctx=256)),
        compare(MODEL, [gpu(64)], ON, file_types=["F16"], cache_types=["f16"]),
        sweep(MODEL, CARDS, Settings(flash_attn="off"), n_ctx=[256], type_k=["q8_0"]),
    ]
    for result in cases:
        with pytest.raises(SettingsError):
            result.plot()
    with pytest.raises(TypeError, match="int is not a result"):
        draw(3)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SettingsError, match=r"gguf-vramfit\[plots\]"):
        plan(MODEL, CARDS, ON).plot()
