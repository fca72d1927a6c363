"""What a plan of several models says as text: its figures are those of the plans, and nothing is said twice."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, shortened
from together import ON, together

import vramfit
from vramfit._base.units import format_bytes, format_mib
from vramfit._company import Company, Draft
from vramfit._devices import parse_gpus, parse_host
from vramfit._planner.older import more_on_each
from vramfit._planner.shared import OBJECTIVES, SharedPlan, Tenant
from vramfit._report.look import Look, Marked, cell_len
from vramfit._report.shared import shared_text
from vramfit._report.shared_facts import (
    PROCESSES,
    device_rows,
    missing,
    model_rows,
    names,
    on_devices,
    verdict,
)
from vramfit._report.shared_notes import shared_notes

EXAMPLE = str(Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")
LARGE = dense(4, n_vocab=1 << 15, n_ctx_train=1 << 16)
SMALL = dense(2, n_ctx_train=1 << 13)
CARDS = [gpu(512, name="GeForce RTX one"), gpu(300, name="GeForce RTX two"), gpu(300, name="GeForce RTX two")]
AT = replace(ON, n_ctx=4096)
PAIR = (Tenant(LARGE, replace(ON, tensor_split=(2.0, 1.0)), name="large"), Tenant(SMALL, AT, name="small"))


@cache
def pair() -> SharedPlan:
    """A model on two cards and a small one of a fixed context on the third, with a host and further processes."""
    host = parse_host("4GiB")
    return together(PAIR, [(0, 1), (2,)], CARDS, host=host, processes=(7 << 20, 0, 5 << 20))


@cache
def crowded() -> SharedPlan:
    """The second of three does not fit."""
    three = (*PAIR, Tenant(SMALL, ON, wish=1024, name="third"))
    return together(
        [three[1], replace(three[0], settings=replace(ON, n_ctx=1 << 16)), three[2]],
        [(0,), (2,), (2,)],
        CARDS,
    )


def columns(plan: SharedPlan) -> dict[str, dict[str, str]]:
    head, *rows = device_rows(plan)
    return {name: {row[0]: row[i] for row in rows} for i, name in enumerate(head) if i}


@given(st.lists(st.tuples(st.sampled_from([LARGE, SMALL]), st.sampled_from([ON, AT]), st.sampled_from([(0,), (0, 1), (1, 2), (0, 1, 2)])),
                min_size=1, max_size=4), st.booleans(), st.integers(0, 9))  # fmt: skip
@examples(10)
def test_figures_are_those_of_the_plans(models: list[Any], host: bool, extra: int) -> None:
    """In every column what the models take is what their own plans say, totals are sums, and what is left is the rest of what is free."""
    tenants = [Tenant(model, settings) for model, settings, _ in models]
    known = parse_host("4GiB") if host else None
    plan = together(tenants, [own for *_, own in models], CARDS, host=known, processes=(extra << 20,) * 3)
    found = columns(plan)
    assert list(found) == [d.name for d in plan.devices]
    for at, device in enumerate(plan.devices):
        cells, taken = found[device.name], {}
        for t in plan.loaded:
            own = dict(on_devices(plan, t)).get(at)
            taken[names(plan)[t]] = own.total + own.beside if own else 0
        assert [cells[name] for name in taken] == [format_mib(n) if n else "" for n in taken.values()]
        total = sum(taken.values()) + (extra << 20 if at < len(CARDS) else 0)
        assert cells["total"] == format_mib(total)
        assert cells.get(PROCESSES, "") == (format_mib(extra << 20) if extra and at < len(CARDS) else "")
        if at < len(CARDS) or host:
            assert cells["left"] == format_mib(device.free_bytes - total)
        else:
            assert cells["left"] == cells["free"] == ""
        short = device.total and device.total_bytes and device.left < plan.margin_bytes
        assert (getattr(cells["left"], "mark", "") == "bad") == bool(short)


def row(plan: SharedPlan, name: str) -> dict[str, str]:
    head, *rows = model_rows(plan)
    return next(dict(zip(head, r, strict=True)) for r in rows if r[0] == name)


def test_models_say_where_they_are_and_what_limits_them() -> None:
    """Cards by the names that they have among all, without brands that all share; a fixed context is called so."""
    plan = pair()
    one, two = plan.plans
    split = [d.layers for d in one.estimate.gpus]
    assert min(split) > 0
    large, small = row(plan, "large"), row(plan, "small")
    assert large["layers"] == f"one: {split[0]} · two #1: {split[1]}"
    assert large["context"] == f"{one.n_ctx:,}"
    assert large["of wish"] == f"{one.n_ctx * 100 // (1 << 16)} %"
    assert one.limited_by == "GeForce RTX two"  # which its own cards are enough to tell
    assert large["limited by"] == "two #1"
    assert large["bytes"] == ("exact" if one.estimate.exact else "bound")
    assert small == {
        **small,
        "context": "4,096",
        "of wish": "",
        "limited by": "fixed",
        "layers": f"two #2: {two.model.n_layer + 1}",
    }
    assert "a slot" not in large


def test_what_limits_a_context() -> None:
    """Its wish, a card by its name among all, or what is left to it by the others."""
    wishing = together([Tenant(SMALL, ON, wish=1000)], [(1,)], CARDS)
    assert row(wishing, "Hand Made")["limited by"] == "its wish"
    assert row(wishing, "Hand Made")["of wish"] == "76 %"  # 768 of 1000: contexts are multiples of 256
    tight = together([Tenant(LARGE, ON)], [(1,)], [gpu(9999), gpu(130, name="GeForce tight")])
    assert tight.plans[0].limited_by == "GeForce tight"
    assert row(tight, "Hand Made")["limited by"] == "tight"
    (found,) = tight.plans
    for said, shown in (("the context asked for", "what the others take"), ("max_ctx", "max_ctx")):
        told = replace(tight, plans=(replace(found, limited_by=said),))
        assert row(told, "Hand Made")["limited by"] == shown
    trained = together([Tenant(SMALL, ON)], [(0,)], CARDS)
    assert row(trained, "Hand Made")["limited by"] == "the trained context"
    slots = together([Tenant(SMALL, replace(AT, n_seq_max=4, n_outputs_max=4))], [(0,)], CARDS)
    assert row(slots, "Hand Made")["a slot"] == "1,024"
    little = replace(wishing, tenants=(Tenant(SMALL, ON, wish=1 << 20),))
    assert row(little, "Hand Made")["of wish"] == "under 1 %"


def test_the_verdict_where_all_fit() -> None:
    """How many of how many, what is left, the smallest share and whose it is, what was maximised, and whether that is proved."""
    plan = pair()
    said = verdict(plan)
    assert said.startswith("2 of 2 models fit together with at least 1 MiB left on every card and the host; ")
    assert f"; the smallest share is {row(plan, 'large')['of wish']} of its wish, of large; " in said
    assert said.endswith(f"maximised is {OBJECTIVES['share']}, and no other placement gives more.")
    unproved = verdict(replace(plan, proved=False, note="too\nmany", objective="order"))
    assert unproved.endswith(f"{OBJECTIVES['order']}, which is not proved to be the most: too\\nmany.")
    assert verdict(replace(plan, proved=False)).endswith("which is not proved to be the most.")
    heavy = replace(plan, tenants=(replace_tenant(PAIR[0], weight=2), PAIR[1]))
    assert "of its wish, of large (weight 2); " in verdict(heavy)
    fixed = together([PAIR[1]], [(0,)], CARDS[:1])
    told = "1 of 1 model fits with at least 1 MiB left on every card; "
    assert verdict(fixed) == f"{told}each context is as asked for."
    wished = replace(fixed, tenants=(Tenant(PAIR[1].model, ON, wish=fixed.plans[0].n_ctx, name="small"),))
    assert verdict(wished) == f"{told}each gets all the context that it wishes."
    shares = together(
        [Tenant(SMALL, ON, wish=1 << 12, name="a"), Tenant(SMALL, ON, wish=1000, name="b")],
        [(0,), (1,)],
        CARDS,
    )
    assert "the smallest share is 76 % of its wish, of b;" in verdict(shares)
    heavy = replace(shares, tenants=(Tenant(SMALL, ON, wish=1 << 12, weight=2, name="a"), shares.tenants[1]))
    assert "the smallest share is 100 % of its wish, of a (weight 2);" in verdict(heavy)


def replace_tenant(tenant: Tenant, **told: Any) -> Tenant:
    return Tenant(tenant.model, tenant.settings, name=tenant.name, **told)


def test_the_verdict_where_not_all_fit() -> None:
    """Which fit, which does not, what it lacks and on which card; its row is no context and it takes nothing."""
    plan = crowded()
    assert plan.loaded == (0, 2)
    assert verdict(plan).startswith(
        "2 of 3 models, small and third, fit together with at least 1 MiB left on every card; "
    )
    (said,) = missing(plan)
    lack = format_bytes(plan.plans[1].shortfall)
    assert said.startswith(
        f"large does not fit beside the others: at 65,536 tokens two #2 is short of {lack} (with 1 MiB "
    )
    found = row(plan, "large")
    assert (found["context"], found["limited by"], found["layers"]) == (
        "does not fit",
        f"two #2, by {lack}",
        "",
    )
    assert "large" not in columns(plan)["host"]
    assert on_devices(plan, 1) == []
    assert said in shared_text(plan)
    none = together([PAIR[1]], [(0,)], [gpu(9)])
    assert verdict(none) == "None of 1 model fits with 1 MiB to be left on every card."
    assert missing(none)[0].startswith("small does not fit: at 4,096 tokens card is short of ")


def test_what_holds_for_all_is_said_once() -> None:
    """Warnings and settings of all stand once above; those of one model under its name alone."""
    plan = pair()
    one, two = plan.plans
    warned = replace(
        plan,
        plans=(replace(one, warnings=("of all", "of one")), replace(two, warnings=("of all",))),
        warnings=("of the machine",),
    )
    text = shared_text(warned)
    for said in ("of all", "of one", "of the machine"):
        assert text.count(f"Warning: {said}\n") == 1
    common, (large, small) = shared_notes(warned)
    assert Marked("Warning: of all", "warn") in common
    assert [n.mark for n in common if isinstance(n, Marked)] == ["warn", "warn"]
    assert "Warning: of one" in large.said
    assert not any("Warning" in said for said in small.said)
    assert (
        text.index("Warning: of all")
        < text.index("large: hand-made")
        < text.index("Warning: of one")
        < text.index("small: hand-made")
    )
    assert text.count("Counted by the rules of llama.cpp") == text.count("Not counted above") == 1
    assert "Settings of all: defaults of llama.cpp, flash attention on" in text
    assert not any("Settings" in said for said in (*large.said, *small.said))


def test_settings_that_differ_stand_under_their_model() -> None:
    """And those alone."""
    other = Tenant(SMALL, replace(AT, type_k="q8_0", type_v="q8_0", engine_build="b4567"), name="small")
    common, (large, small) = shared_notes(together([PAIR[0], other], [(0,), (1,)], CARDS))
    assert "Settings: cache f16/f16." in large.said
    assert "Settings: cache q8_0/q8_0." in small.said
    assert not any("cache" in said for said in common)
    assert any(said.startswith("Counted by the rules") for said in common)
    assert any(said.startswith("Counted by the rules") for said in small.said)
    assert not any(said.startswith("Counted by the rules") for said in large.said)


def test_a_model_alone_has_no_others() -> None:
    """Everything stands under its name, and nothing is said of further processes."""
    common, (only,) = shared_notes(together([PAIR[0]], [(0,)], CARDS))
    assert any(said.startswith("Settings: defaults") for said in only.said)
    assert not any("Settings" in said or "process of its own" in said for said in common)


def test_what_exact_figures_rest_on_is_said_once() -> None:
    """Of cards that are not CUDA's, by their own plans; and whose rules count, where each model's build is told."""
    model = shortened(vramfit.read(EXAMPLE), 2)
    told = replace(AT, engine_build="0c1e57098")
    plan = together(
        [Tenant(model, told, name="a"), Tenant(model, told, name="b")], [(0,), (0,)], parse_gpus("7900xtx")
    )
    common, models = shared_notes(plan)
    assert plan.plans[0].estimate.exact
    assert sum(said.startswith("Exact. What the rules were checked against: ") for said in common) == 1
    assert sum(said.startswith("Counted by the rules of llama.cpp") for said in common) == 1
    assert not any("Exact" in said or "Counted" in said for of in models for said in of.said)
    assert [row(plan, name)["bytes"] for name in ("a", "b")] == ["exact", "exact"]


def test_the_host_may_be_what_limits() -> None:
    """And is called so where a model does not fit it."""
    plan = together([PAIR[0]], [(0, 1)], CARDS, host=parse_host("20MiB"))
    assert plan.plans[0].limited_by == "host"
    assert row(plan, "large")["limited by"].startswith("host, by ")
    assert "at 256 tokens host is short of " in missing(plan)[0]
    assert "with 1 MiB to be left on every card and the host" in verdict(plan)


def test_company_stands_under_its_model() -> None:
    """A draft is named where it is loaded, and not for all, even where each has one."""
    drafting = replace(
        LARGE, company=Company(Draft(replace(dense(2, n_vocab=1 << 15), architecture="llama")))
    )
    told = replace(AT, spec_type="draft-simple")
    plan = together([Tenant(drafting, told, name="a"), Tenant(drafting, told, name="b")], [(0,), (1,)], CARDS)
    common, models = shared_notes(plan)
    for of in models:
        assert sum(said.startswith("Beside the model: draft") for said in of.said) == 1
    assert not any("Beside" in said for said in common)


def test_an_older_build_is_counted_for_all_together() -> None:
    """What it needs more on a card is the sum over the models there."""
    model, cards = dense(8, 1024, 4096, 1 << 15, 16, 16), parse_gpus("3060-12gb")
    told = replace(ON, n_ctx=8192, n_outputs_max=512)
    plan = together([Tenant(model, told, name="a"), Tenant(model, told, name="b")], [(0,), (0,)], cards)
    assert shared_text(plan).count("Speed while the others wait: at most") == 2
    assert shared_text(plan).count("Speeds are upper bounds") == 1
    assert "Speeds are" not in shared_text(pair())
    more = sum(more_on_each(p)[0] for p in plan.plans)
    assert more > 2 << 20
    assert f"would need {format_mib(more)} MiB more on GeForce RTX 3060 12GB;" in shared_text(plan)


def test_cards_of_other_machines() -> None:
    """What the network costs stands under each model; that a server serves one engine is said once."""
    cards = parse_gpus("near/3060-12gb,far/3060-12gb", main="near")
    far = next(i for i, g in enumerate(cards) if g.remote)
    tenants = [replace_tenant(t) for t in PAIR]
    plan = together(tenants, [(far,), (far,)], cards)
    common, models = shared_notes(plan)
    assert sum("rpc-server serves one engine" in said for said in common) == 1
    assert all(any("network" in said.lower() for said in of.said) for of in models)
    common, _ = shared_notes(together(tenants[:1], [(far,)], cards))
    assert not any("rpc-server" in said for said in common)


CARD = "<i>" + "$x" * 5000
HOSTILE = "<b>\x1b[31mred\n\u202e" + "x" * 10_000


def test_names_stay_in_their_place() -> None:
    """Whatever a model is called is cut and on one line; equal names are numbered."""
    model = replace(SMALL, source=f"/models/{HOSTILE.replace('/', '')}.gguf")
    plan = together(
        [Tenant(model, AT), Tenant(model, AT)], [(0,), (1,)], [replace(g, name=CARD) for g in CARDS]
    )
    text = str(plan)
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text) < 30_000
    one, two = names(plan)
    assert one != two
    assert one.endswith(" #1")
    for width in (80, 40):
        assert all(cell_len(line) <= width for line in shared_text(plan, Look(width)).splitlines())


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, None])
def test_text_fits_the_screen(width: int | None) -> None:
    """No line is wider; every figure is there at every width, and colour changes nothing but colour."""
    for plan in (pair(), crowded()):
        text = shared_text(plan, Look(width))
        assert all(width is None or cell_len(line) <= width for line in text.splitlines())
        figures = {cell for cells in columns(plan).values() for cell in cells.values()}
        assert all(figure in text for figure in figures)
        assert all(name in text for name in names(plan))
    assert str(pair()) == shared_text(pair())
    assert "\x1b[" in shared_text(crowded(), Look(80, color=True))
