"""Pages are well-formed, need nothing but themselves, and escape what a model is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._devices import parse_gpus
from vramfit._estimate.estimate import DeviceEstimate, estimate
from vramfit._llama.params import Settings
from vramfit._planner.compare import compare
from vramfit._planner.plan import plan
from vramfit._planner.sweep import sweep
from vramfit._planner.whatif import best, trades
from vramfit._planner.which import which
from vramfit._report.bars import bars
from vramfit._report.comparisons import comparison_text
from vramfit._report.html import fragment, page
from vramfit._report.plans import plan_text
from vramfit._report.style import DARK_HOSTS, LIGHT_HOSTS
from vramfit._report.svg import Point, scatter
from vramfit._report.terminal import text

VOID = {"meta", "br", "link", "img"}
ON = Settings(flash_attn="on", n_outputs_max=1)
MODEL = dense(4, n_ctx_train=1 << 16)
CARDS = [gpu(2048, name="large"), gpu(1400, name="small")]


class Checker(HTMLParser):
    """Fails on a tag that is closed out of turn, and notes addresses and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [name for name, _ in attrs if name in ("src", "href", "onclick", "onload")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    assert not checker.outside
    assert not {"script", "link", "iframe", "img"} & set(checker.tags)
    assert "url(" not in text
    return checker


def results(name: str = "Some Model") -> list[Any]:
    model = replace(MODEL, name=name)
    return [
        plan(model, CARDS, ON),
        plan(model, [gpu(64, name="tiny")], ON),
        plan(model, [], replace(ON, n_ctx=512)),
        compare(model, CARDS, ON, file_types=["F16", "Q4_0", "MXFP4_MOE"]),
        compare(
            model, [gpu(64)], replace(ON, flash_attn="off"), file_types=["F16"], cache_types=["f16", "q8_0"]
        ),
        sweep(model, CARDS, ON, n_ctx=[256, 65536], type_k=["f16", "q8_0"]),
        sweep(model, [gpu(64)], ON, n_ctx=[256]),
    ]


TIGHT = [gpu(90, name="tight")]  # too small for 8192 tokens with 1 MiB left, enough for a narrower cache


def others(name: str = "Some Model") -> list[Any]:
    """Results beside plans, comparisons and sweeps."""
    model = replace(MODEL, name=name)
    at = replace(ON, n_ctx=8192)
    changes = trades(model, TIGHT, at, margin_bytes=1 << 20, brief=True)
    assert changes.useful
    return [
        model,
        estimate(model, CARDS, replace(ON, n_ctx=4096, n_seq_max=2)),
        changes,
        best(model, TIGHT, at, margin_bytes=1 << 20, prefer="quality"),
        which(replace(model, n_ctx_train=4096), ON),
        which(model, ON, gpus=[gpu(4)]),
    ]


def test_pages_are_whole() -> None:
    """Every result makes one well-formed document without scripts or addresses, in dark and in light."""
    for result in (*results(), *others()):
        document = page(result)
        checker = check(document)
        assert document.startswith("<!DOCTYPE html>")
        assert checker.tags.count("html") == 1
        assert "prefers-color-scheme:dark" in document
        assert all(host in document for host in (*LIGHT_HOSTS, *DARK_HOSTS))
        assert result._repr_html_() == fragment(result)
        assert fragment(result) in document


@given(st.text(max_size=20).map(lambda s: f"<b>{s}</b>&amp;\"'"))
def test_names_cannot_break_out(name: str) -> None:
    """Whatever a model or a card is called appears as text."""
    cards = [gpu(2048, name="<i>card</i>")]
    found = sweep(replace(MODEL, name=name), cards, ON, n_ctx=[256])
    for result in (plan(replace(MODEL, name=name), cards, replace(ON, n_ctx=256)), found):
        checker = check(page(result))
        assert not {"b", "i"} & set(checker.tags)
        assert "<b>" in "".join(checker.words)


def test_pages_say_what_matters() -> None:
    """A plan its verdict, what does not fit in the colour of a warning; a comparison its front and sources."""
    good, bad, _, compared, nothing, swept, none = (fragment(r) for r in results())
    assert "fits with" in good
    assert not re.search('class="[^"]*bad', good)
    assert 'class="answer bad"' in bad
    assert '<td class="bad"' in bad
    assert "Not counted above" in fragment(plan(MODEL, parse_gpus("3060"), ON))
    assert "ring" in compared
    assert "Llama 3 8B and not of this model" in compared
    assert '<p class="answer bad">Nothing fits.</p>' in nothing
    assert "Nothing fits" not in compared
    assert "Refused: F16 q8_0" in nothing
    assert "4 points" in swept
    assert "<table>" not in none


def test_results_print_as_the_commands_do() -> None:
    """`print(result)` is the text of the command, or of a sweep its size and largest contexts."""
    good, bad, host, compared, nothing, swept, none = results()
    for found in (good, bad, host):
        assert str(found) == plan_text(found)
    for found in (compared, nothing):
        assert str(found) == comparison_text(found)
    model, one, changes, change, carried, uncarried = others()
    assert "trained context  65,536" in str(model)
    assert "Context 4,096 tokens (2,048 a slot) fits" in str(one)
    assert "Alternatives: the context with one change." in str(changes)
    assert str(change).startswith(f"Changed: {change.flags}; ")
    assert str(change).endswith(plan_text(change.plan))
    assert "all lists them" in str(carried)
    assert "No card to choose from" in str(uncarried)
    assert "4 points" in str(swept)
    for row in swept.largest():
        assert f"{row['n_ctx']:,}" in str(swept)
    assert "1 point\n" in str(none)


def test_only_results_are_shown() -> None:
    """Anything else is a mistake of the caller's program."""
    with pytest.raises(TypeError, match="int is not a result"):
        text(3)
    with pytest.raises(TypeError, match="int is not a result"):
        page(3)


def test_the_page_of_a_plan_holds_its_alternatives() -> None:
    """What other settings would carry stands under the plan, with what each costs; the plan alone has none."""
    found = trades(MODEL, TIGHT, replace(ON, n_ctx=8192), margin_bytes=1 << 20, brief=True)
    document = page(found.asked, found)
    check(document)
    assert "Alternatives" not in page(found.asked)
    for row in found.useful:
        assert f">{row.flags}</td>" in document
    none = replace(found, rows=())
    assert "No single change makes it fit" in page(found.asked, none)


def test_a_comparison_keeps_the_rest_folded() -> None:
    """Every choice is on the page, those not worth choosing behind a fold."""
    found = compare(MODEL, CARDS, ON)
    document = fragment(found)
    check(document)
    shown, folded = document.split("<details>")
    assert 0 < shown.count("<tr") - 1 < len(found.choices)
    assert shown.count("<tr") + folded.count("<tr") == len(found.choices) + 2


def device(sizes: Sequence[int], free: int) -> DeviceEstimate:
    model, context, compute = sizes
    return DeviceEstimate("card", model, context, compute, layers=1, free_bytes=free, total_bytes=free)


@given(
    st.lists(st.integers(0, 1 << 40), min_size=3, max_size=3),
    st.sampled_from([0, 1, 10 << 30]) | st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
)
def test_bars_stay_in_the_picture(sizes: list[int], free: int, margin: int) -> None:
    """All parts of a bar end within it; what is short of its margin is marked, from the margin to its end."""
    text = bars([device(sizes, free)], margin)
    check(text)
    parts = {
        kind: (float(left), float(left) + float(width or 0))
        for kind, left, width in re.findall(
            r'<span class="(\w+)" title="[^"]*" style="left:([\d.]+)%(?:;width:([\d.]+)%)?"', text
        )
    }
    assert all(end <= 100.01 for _, end in parts.values())
    used = [name for name, size in zip(("weights", "context", "compute"), sizes, strict=True) if size]
    assert [name for name in parts if name in ("weights", "context", "compute")] == used
    short = bool(free and sum(sizes) and free - sum(sizes) < margin)
    assert ("over" in parts) == short
    assert ("cap" in parts) == bool(free)
    assert ("margin" in parts) == bool(free and margin)
    if short:
        start, end = parts["over"]
        assert end == pytest.approx(max(b for name, (_, b) in parts.items() if name in used), abs=0.01)
        assert start == pytest.approx(parts.get("margin", parts["cap"])[0], abs=0.01)


def _numbers(text: str, name: str) -> list[float]:
    return [float(x) for x in re.findall(rf'{name}="([\d.]+)"', text)] or [0.0]


@given(
    st.lists(
        st.builds(
            Point, st.floats(0.1, 40), st.floats(256, 1e7), st.integers(0, 5), st.just("name"), st.booleans()
        ),
        min_size=1,
        max_size=9,
    )
)
def test_points_stay_in_the_picture(points: list[Point]) -> None:
    """Every mark lies between the axes, each marked point has its ring, ticks are few."""
    text = scatter(points, "bits", "tokens")
    check(text)
    assert text.count('class="ring"') == sum(p.marked for p in points)
    centres = _numbers(text, " cx")
    assert all(0 <= x <= 600 for x in centres)
    assert 4 <= text.count('text-anchor="end"') <= 12
