"""A plan of several models as JSON, HTML and a picture: every byte of the plans is in them, and no name breaks out."""

from __future__ import annotations

import json

from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from test_shared_text import AT, CARDS, LARGE, ON, SMALL
from together import together

import vramfit
from vramfit._base.foreign import json_text
from vramfit._devices import parse_host
from vramfit._planner.shared import SharedPlan, Tenant

OWN = st.sampled_from([(0,), (0, 1), (1, 2), (0, 1, 2)])


@st.composite
def plans(draw: st.DrawFn) -> SharedPlan:
    """One to four models on some of three cards, which not all may fit, with and without a known host and further processes."""
    models = draw(
        st.lists(
            st.tuples(st.sampled_from([LARGE, SMALL]), st.sampled_from([ON, AT]), OWN), min_size=1, max_size=4
        )
    )
    known = parse_host("4GiB") if draw(st.booleans()) else None
    extra = (draw(st.integers(0, 9)) << 20,) * len(CARDS)
    tenants = [Tenant(model, settings) for model, settings, _ in models]
    return together(tenants, [own for *_, own in models], CARDS, host=known, processes=extra)


@given(plans())
@examples(8)
def test_json_says_what_the_plans_say(plan: SharedPlan) -> None:
    """It reads back through its schema, holds each plan as it shows itself, and devices take what the plans within say."""
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
