"""A plan of several models as JSON, HTML and a picture: every byte of the plans is in them, and no name breaks out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from test_html import check
from test_shared_text import AT, CARD, CARDS, HOSTILE, LARGE, SMALL, crowded, pair
from together import ON, together

import vramfit
from vramfit._base.foreign import json_text
from vramfit._base.units import format_bytes
from vramfit._devices import parse_host
from vramfit._llama.params import Settings
from vramfit._planner.shared import SharedPlan, Tenant
from vramfit._report.html import fragment, page
from vramfit._report.shared_facts import missing, names, on_devices, terms, verdict
from vramfit._report.shared_notes import shared_notes
from vramfit._report.stacks import stacked_bars

OWN = st.sampled_from([(0,), (0, 1), (1, 2), (0, 1, 2)])


# Models, each with settings and cards; whether the host is known; MiB of further processes.
ASKED = st.tuples(
    st.lists(st.tuples(st.booleans(), st.sampled_from([ON, AT]), OWN), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 9),
)


def planned(asked: tuple[list[tuple[bool, Settings, tuple[int, ...]]], bool, int]) -> SharedPlan:
    """One to four models on some of three cards, which not all may fit."""
    models, host, extra = asked
    return together(
        [Tenant(LARGE if large else SMALL, settings) for large, settings, _ in models],
        [own for *_, own in models],
        CARDS,
        host=parse_host("4GiB") if host else None,
        processes=(extra << 20,) * len(CARDS),
    )


@given(ASKED)
@examples(8)
def test_json_says_what_the_plans_say(asked: Any) -> None:
    """It reads back through its schema, holds each plan as it shows itself, and devices take what the plans within say."""
    plan = planned(asked)
    found = plan.to_dict()
    assert json.loads(json_text(found)) == found
    read = vramfit.SharedPlanJson(**found)
    assert read.model_dump(mode="json") == found
    assert [m["plan"] for m in found["models"]] == [p.to_dict() for p in plan.plans]
    assert [t for t, m in enumerate(read.models) if m.loaded] == list(plan.loaded)
    assert read.fits == all(m.loaded for m in read.models)
    shares = [m.share / m.weight for m in read.models if m.share is not None]
    assert read.share == min(shares, default=None)
    for at, device in enumerate(read.devices):
        host = at == len(CARDS)
        for m, taken in zip(read.models, device.taken, strict=True):
            own = m.plan.host if host else m.plan.gpus[m.cards.index(at)] if at in m.cards else None
            assert taken == (own.total + own.beside if own and m.loaded else 0)
        assert device.total == sum(device.taken) + device.processes
        assert device.left is None or device.left == (device.free or 0) - device.total
        assert (device.free is None) == (host and plan.host is None)


def test_json_keeps_every_name_whole() -> None:
    """Text cuts and escapes; what programs read is what the model is called."""
    plan = together([Tenant(SMALL, AT, name="a" * 300)], [(0,)], CARDS)
    assert plan.to_dict()["models"][0]["name"] == "a" * 300


PART = re.compile(r'<span class="([\w -]+)" title="([^"]*)" style="left:([\d.]+)%(?:;width:([\d.]+)%)?"')
TAG = re.compile(r'<span class="tag" style="left:([\d.]+)%;width:([\d.]+)%"><b>(\d)</b>')


def drawn(text: str) -> Iterator[tuple[list[tuple[str, str, float, float]], str]]:
    """The parts of each bar: class, title, where it begins and how wide it is, in percent; and its HTML."""
    for bar in text.split('<div class="device">')[1:]:
        found = [(kind, title, float(at), float(width or 0)) for kind, title, at, width in PART.findall(bar)]
        yield found, bar


@given(ASKED)
@examples(10)
def test_bars_are_what_devices_take(asked: Any) -> None:
    """Parts lie end to end from the left, each as wide as its term is large; together they are as wide as the device takes."""
    plan = planned(asked)
    text = stacked_bars(plan)
    check(text)
    devices = [(i, d) for i, d in enumerate(plan.devices) if d.total or d.free_bytes]
    most = max(max(d.free_bytes, d.total) for _, d in devices) / 100
    for (at, device), (found, bar) in zip(devices, drawn(text), strict=True):
        parts = [p for p in found if p[0].startswith("in ") or p[0] == "processes"]
        wanted = [
            (f"in m{t} in-{term}", n)
            for t in plan.loaded
            for d, own in on_devices(plan, t)
            if d == at
            for term, n in terms(own)
        ]
        wanted += [("processes", device.processes)] if device.processes else []
        assert [kind for kind, *_ in parts] == [kind for kind, _ in wanted]
        assert [width for *_, width in parts] == pytest.approx([n / most for _, n in wanted], abs=0.001)
        assert sum(width for *_, width in parts) == pytest.approx(
            device.total / most, abs=0.001 * (len(parts) + 1)
        )
        start = 0.0
        for _, _, left, width in parts:
            assert left == pytest.approx(start, abs=0.002 * (len(parts) + 1))
            start = left + width
        tags = [(int(n) - 1, float(width)) for _, width, n in TAG.findall(bar)]
        assert [t for t, _ in tags] == [t for t, n in enumerate(device.taken) if n]
        assert [width for _, width in tags] == pytest.approx([n / most for n in device.taken if n], abs=0.001)
        marks = {kind: left for kind, _, left, _ in found}
        assert ("cap" in marks) == bool(device.free_bytes)
        assert ("over" in marks) == bool(
            device.free_bytes and device.total and device.left < plan.margin_bytes
        )
        assert max((left + width for *_, left, width in found), default=0) < 100.01


@given(ASKED)
@examples(6)
def test_terms_are_what_a_device_takes(asked: Any) -> None:
    """Of each model, and what is read and never held is in none."""
    plan = planned(asked)
    for t in plan.loaded:
        for at, own in on_devices(plan, t):
            assert sum(n for _, n in terms(own)) == plan.devices[at].taken[t]
            less = replace(own, beside=-min(own.model // 2, 5 << 20))
            assert sum(n for _, n in terms(less)) == less.total + less.beside
            never = replace(own, company=9 << 20, beside=-own.model - (4 << 20))  # of a draft's weights, too
            assert sum(n for _, n in terms(never)) == never.total + never.beside


def test_a_page_says_what_the_text_says() -> None:
    """Verdict, what is missing, every term of every model, and all notes, each once; and it needs nothing but itself."""
    for plan in (pair(), crowded()):
        text = page(plan)
        found = check(text)
        words = "".join(found.words)
        common, models = shared_notes(plan)
        for said in (
            verdict(plan),
            *missing(plan),
            *common,
            *(of.title for of in models),
            *(x for of in models for x in of.said),
        ):
            assert said in words
        assert all(words.count(said) == 1 for said in common)
        assert f'class="answer {"good" if plan.fits else "bad"}"' in text
        for t in plan.loaded:
            for term, n in (part for _, own in on_devices(plan, t) for part in terms(own)):
                assert f'title="{names(plan)[t]}: {term} {format_bytes(n)}"' in text
        assert plan._repr_html_() == fragment(plan)
    bars = stacked_bars(crowded())
    assert "m1 in-" not in bars  # it does not fit
    assert ">small</span>" in bars
    assert ">large</span>" not in bars
    assert (
        stacked_bars(replace(crowded(), loaded=(), gpus=(), plans=(), tenants=(), cards=(), processes=()))
        == ""
    )


def test_names_cannot_break_out() -> None:
    """Whatever models and cards are called is text, cut where it is long."""
    model = replace(SMALL, name=HOSTILE, source="")
    tenants = [Tenant(model, AT), Tenant(model, AT, name="<i>'\"&amp;")]
    plan = together(
        tenants, [(0,), (1,)], [replace(card, name=CARD) for card in CARDS], note=HOSTILE, proved=False
    )
    text = page(plan)
    found = check(text)
    assert "<b>\\x1b" in "".join(found.words)
    assert "i" not in found.tags
    assert all(line.isprintable() for line in text.splitlines())
    assert json_text(plan.to_dict()).replace("\n", "").isprintable()


def test_company_has_a_shade_of_its_own() -> None:
    """What is loaded beside a model is drawn in its model's hue, and the legend names what there is alone."""
    plan = pair()
    one = plan.plans[0]
    cards = tuple(replace(d, company=3 << 20) for d in one.estimate.gpus)
    told = replace(plan, plans=(replace(one, estimate=replace(one.estimate, gpus=cards)), plan.plans[1]))
    text = stacked_bars(told)
    assert text.count('class="in m0 in-company"') == 2
    assert 'class="any in-company"></span>company' in text
    assert "in-company" not in stacked_bars(plan)
    assert 'class="over" title=' in text  # the second card had 2 MiB left
    assert 'class="over"' not in stacked_bars(plan)
    assert ">further processes</span>" in text
    assert "further processes" not in stacked_bars(crowded())
