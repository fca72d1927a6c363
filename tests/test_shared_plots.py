"""The picture of several models shows what devices take, model by model; it was looked at, and these laws keep it so."""

# mypy: disable-error-code="union-attr,attr-defined,arg-type"

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from small import gpu
from test_shared_text import AT, CARDS, SMALL, crowded, pair
from together import together

from vramfit._base.errors import SettingsError
from vramfit._base.units import GIB
from vramfit._planner.shared import Tenant
from vramfit._report.shared_facts import PROCESSES, names, on_devices, terms
from vramfit._report.style import DARK_MODELS, LIGHT_MODELS


@given(st.sampled_from([pair, crowded]), st.booleans())
@examples(4)
def test_bars_are_what_devices_take(made: object, dark: bool) -> None:
    """End to end by model and then by term, in the model's hue; the lines stand at what is free, and at that less the margin."""
    plan = made()  # type: ignore[operator]
    (axes,) = plan.plot(dark=dark).axes
    hues = DARK_MODELS if dark else LIGHT_MODELS
    devices = [(i, d) for i, d in enumerate(plan.devices) if d.total or d.free_bytes]
    assert [label.get_text() for label in axes.get_yticklabels()] == [d.name for _, d in devices]
    for y, (at, device) in enumerate(devices):
        bars = [p for p in axes.patches if p.get_fill() and p.get_y() < y < p.get_y() + p.get_height()]
        wanted = [
            (n, hues[t], term)
            for t in plan.loaded
            for d, own in on_devices(plan, t)
            if d == at
            for term, n in terms(own)
        ]
        widths = [n for n, *_ in wanted] + ([device.processes] if device.processes else [])
        assert [p.get_width() for p in bars] == pytest.approx([n / GIB for n in widths])
        assert sum(p.get_width() for p in bars) == pytest.approx(device.total / GIB)
        starts = [sum(widths[:i]) / GIB for i in range(len(widths))]
        assert [p.get_x() for p in bars] == pytest.approx(starts)
        for bar, (_, hue, term) in zip(bars, wanted, strict=False):
            if term == "weights":
                assert to_hex(bar.get_facecolor()) == hue
            else:
                lighter = sum(bar.get_facecolor()[:3]) > sum(to_rgb(hue))
                assert lighter == (term == "context")
    lines = sorted(segment[0][0] for c in axes.collections for segment in c.get_segments())
    known = [d for _, d in devices if d.free_bytes]
    assert lines == pytest.approx(
        sorted(x / GIB for d in known for x in (d.free_bytes, d.free_bytes - plan.margin_bytes))
    )


def test_the_legend_names_models_by_number() -> None:
    """Those that fit, the terms that there are, and what is drawn beside them."""
    plan = crowded()
    (legend,) = plan.plot().legends
    found = [text.get_text() for text in legend.get_texts()]
    assert found == ["1 small", "3 third", "weights", "context", "compute", "free memory", "less the margin"]
    bare = replace(pair(), margin_bytes=0)
    found = [text.get_text() for text in bare.plot().legends[0].get_texts()]
    assert found[-2:] == [PROCESSES, "free memory"]
    assert {text.get_text() for text in bare.plot().axes[0].texts} <= {"1", "2"}


def test_company_and_what_is_short() -> None:
    """What is beside the model has patterns; what reaches into the margin is crossed out."""
    plan = pair()
    one = plan.plans[0]
    cards = tuple(replace(d, company=3 << 20, beside=2 << 20) for d in one.estimate.gpus)
    told = replace(plan, plans=(replace(one, estimate=replace(one.estimate, gpus=cards)), plan.plans[1]))
    figure = told.plot()
    assert {"company", "the host's, or locked"} <= {t.get_text() for t in figure.legends[0].get_texts()}
    assert [p.get_hatch() for p in figure.axes[0].patches].count("///") == 2
    (over,) = [p for p in figure.axes[0].patches if not p.get_fill()]
    short = next(d for d in told.devices if d.total and d.left < told.margin_bytes)
    assert over.get_x() + over.get_width() == pytest.approx(short.total / GIB)
    assert over.get_x() == pytest.approx((short.free_bytes - told.margin_bytes) / GIB)


def test_names_are_no_formulas() -> None:
    """What others wrote is shown as text."""
    plan = together([Tenant(SMALL, AT, name="$x$")], [(0,)], [replace(CARDS[0], name="$y$")])
    figure = plan.plot()
    assert figure.legends[0].get_texts()[0].get_text() == r"1 \$x\$"
    assert figure.axes[0].get_yticklabels()[0].get_text() == r"\$y\$"
    assert names(plan) == ("$x$",)


def test_nothing_to_draw_is_an_error() -> None:
    """No model fits: a sentence, not an empty picture."""
    with pytest.raises(SettingsError, match="no model fits"):
        together([Tenant(SMALL, AT)], [(0,)], [gpu(9)]).plot()
