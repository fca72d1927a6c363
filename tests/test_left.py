"""What a plan leaves, and what a model gives up: as a plan made again with so much less memory says, and every split tried by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, shortened

import vramfit
from vramfit._base.errors import EngineRefusal, SettingsError
from vramfit._base.units import GIB, MIB
from vramfit._cli import main
from vramfit._cli.models import Choice
from vramfit._cli.next import next_model
from vramfit._devices import Gpu, Host, parse_gpus
from vramfit._estimate.estimate import estimate
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._planner import gives_up as module
from vramfit._planner.gives_up import gives_up, next_size
from vramfit._planner.left import Left, leaves
from vramfit._planner.plan import Plan, plan
from vramfit._planner.shared import SharedPlan, Tenant
from vramfit._planner.warnings import process_bytes
from vramfit._report.html import fragment
from vramfit._report.left import gives_up_sentence, left_rows, left_text
from vramfit._report.plans import plan_text
from vramfit._report.schema import PlanJson

MARGIN = 8 * MIB
MODEL = dense(5, n_embd=512, n_ff=1024, n_vocab=4096, n_head=8, n_head_kv=4, n_ctx_train=1 << 16)
OTHER = dense(6, window=1000, swa_layers=4, n_ctx_train=1 << 15)
QWEN = str(ROOT / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")
REAL = replace(shortened(vramfit.read(QWEN), 2), company=None)
MODELS = st.sampled_from([MODEL, OTHER])
CARDS = st.lists(st.integers(700, 1600), min_size=1, max_size=3)
SIZES = st.integers(1, 900)
ON = Settings(flash_attn="on", n_outputs_max=1)


def cards(mib: list[int]) -> list[Gpu]:
    return [gpu(n, name=f"card {i}") for i, n in enumerate(mib)]


def less(gpus: list[Gpu], at: int, size: int) -> list[Gpu] | None:
    """The cards with a next model of `size` bytes on one of them, and its process; None where it has no room."""
    free = gpus[at].free - size - process_bytes(gpus[at])
    return None if free < 0 else [replace(g, free_bytes=free) if i == at else g for i, g in enumerate(gpus)]


def splits(layers: int, n: int) -> list[tuple[int, ...]]:
    if n == 1:
        return [(layers,)]
    return [(first, *rest) for first in range(layers + 1) for rest in splits(layers - first, n - 1)]


def fits_somehow(model: Model, gpus: list[Gpu], n_ctx: int) -> bool:
    """Whether any split of the layers leaves the margin at this context, tried one by one."""
    for split in splits(model.n_layer + 1, len(gpus)):
        settings = replace(ON, n_ctx=n_ctx, tensor_split=tuple(map(float, split)))
        result = estimate(model, gpus, settings)
        if all(g.left >= MARGIN for g in result.gpus if g.total):
            return True
    return False


@examples(8)
@given(MODELS, CARDS, SIZES)
def test_the_context_fits_beside_the_next_model_and_no_longer_one_does(
    model: Model, mib: list[int], size_mib: int
) -> None:
    """Every card and split tried by hand agrees: the context fits on the card named, a step more on none."""
    gpus, size = cards(mib), size_mib * MIB
    own = plan(model, gpus, ON, margin_bytes=MARGIN)
    found = gives_up(own, size)
    narrower = [less(gpus, i, size) for i in range(len(gpus))]
    if found is None:
        assert not own.fits or not any(x and fits_somehow(model, x, 256) for x in narrower)
        return
    there = narrower[[g.name for g in gpus].index(found.card)]
    assert there is not None
    assert fits_somehow(model, there, found.n_ctx)
    assert found.n_ctx <= own.n_ctx
    if found.n_ctx < own.n_ctx:
        assert not any(x and fits_somehow(model, x, found.n_ctx + 256) for x in narrower)
        assert found.plan.fits
        assert all(g.left >= MARGIN for g in found.plan.estimate.gpus if g.total)


@given(MODELS, CARDS, st.integers(0, 200))
def test_what_is_left_may_be_taken(model: Model, mib: list[int], margin_mib: int) -> None:
    """A plan made again with the bytes taken that a card has left, and a process's, has the same context; no more than is free."""
    gpus, margin = cards(mib), margin_mib * MIB
    own = plan(model, gpus, ON, margin_bytes=margin)
    for i, left in enumerate(leaves(own)):
        device = own.estimate.gpus[i]
        assert left.name == device.name
        assert left.process_bytes == process_bytes(gpus[i])
        assert left.n_bytes == max(0, device.left - margin - left.process_bytes) <= gpus[i].free
        if left.n_bytes:
            there = less(gpus, i, left.n_bytes)
            assert there is not None
            assert plan(model, there, ON, margin_bytes=margin).n_ctx == own.n_ctx
            assert gives_up(own, left.n_bytes) is not None


@given(MODELS, CARDS, st.lists(SIZES, min_size=2, max_size=3))
def test_a_larger_model_never_leaves_more(model: Model, mib: list[int], sizes: list[int]) -> None:
    """Contexts fall with the size, from the plan's own for nothing at all."""
    own = plan(model, cards(mib), ON, margin_bytes=MARGIN)
    found = [gives_up(own, size * MIB) for size in (0, *sorted(sizes))]
    contexts = [x.n_ctx if x else 0 for x in found]
    assert contexts == sorted(contexts, reverse=True)
    assert contexts[0] == (own.n_ctx if own.fits else 0)


@examples(8)
@given(st.integers(600, 1500), st.integers(600, 1500), SIZES, st.integers(300, 60000))
def test_a_fixed_context_is_kept_or_the_largest_is_found(a: int, b: int, size_mib: int, n_ctx: int) -> None:
    """A context that was asked for stays where that leaves enough; else the answer is that of a plan that was free, up to it."""
    gpus, size = cards([a, b]), size_mib * MIB
    own = plan(MODEL, gpus, replace(ON, n_ctx=n_ctx), margin_bytes=MARGIN)
    found = gives_up(own, size)
    fewer = [x for i in range(2) if (x := less(gpus, i, size))]
    kept = [plan(MODEL, x, replace(ON, n_ctx=n_ctx), margin_bytes=MARGIN) for x in fewer]
    free = [plan(MODEL, x, ON, margin_bytes=MARGIN, max_ctx=n_ctx) for x in fewer]
    best = max((p.n_ctx for p in (*kept, *free) if p.fits), default=0)
    assert (found.n_ctx if found else 0) == (best if own.fits else 0)


@examples(4)
@given(st.integers(1300, 2000), st.integers(1000, 1700), st.integers(1, 700))
def test_buffers_of_real_graphs_are_replayed(a: int, b: int, size_mib: int) -> None:
    """Where a compute buffer is that of the engine's graph, the answer holds to the byte, too."""
    gpus, size = cards([a, b]), size_mib * MIB
    own = plan(REAL, gpus, ON, margin_bytes=MARGIN)
    found = gives_up(own, size)
    narrower = [x for i in range(2) if (x := less(gpus, i, size))]
    if found is None:
        assert not own.fits or not any(fits_somehow(REAL, x, 256) for x in narrower)
        return
    assert found.plan.estimate.compute_exact
    assert any(fits_somehow(REAL, x, found.n_ctx) for x in narrower)
    if found.n_ctx < own.n_ctx:
        assert not any(fits_somehow(REAL, x, found.n_ctx + 256) for x in narrower)


def test_a_context_that_was_fixed_comes_down() -> None:
    """To the largest that fits, and no further than it has to."""
    own = plan(MODEL, cards([1500]), replace(ON, n_ctx=60000), margin_bytes=MARGIN)
    kept, fewer = gives_up(own, 100 * MIB), gives_up(own, 500 * MIB)
    assert kept is not None
    assert fewer is not None
    assert (kept.n_ctx, kept.card, kept.plan) == (own.n_ctx, "card 0", own)
    there = less(cards([1500]), 0, 500 * MIB)
    assert there is not None
    assert fewer.n_ctx == plan(MODEL, there, ON, margin_bytes=MARGIN).n_ctx < own.n_ctx
    two = plan(MODEL, cards([1500, 900]), replace(ON, n_ctx=50000), margin_bytes=MARGIN)
    moved = gives_up(two, 400 * MIB)
    assert moved is not None
    assert (moved.n_ctx, moved.card) == (two.n_ctx, "card 0")
    assert two.tensor_split == (6, 0) != moved.plan.tensor_split
    assert gives_up_sentence(two, 400 * MIB, moved).endswith(
        " stays at 50,176 tokens, with --tensor-split 0,6."
    )


def test_a_split_that_was_given_stays() -> None:
    """What the caller fixed is fixed for the answer, too; what the solver chose may move."""
    gpus = cards([1500, 1500])
    free, given_ = (
        plan(MODEL, gpus, s, margin_bytes=MARGIN) for s in (ON, replace(ON, tensor_split=(3.0, 3.0)))
    )
    for size in (400 * MIB, 600 * MIB):
        fixed, moved = gives_up(given_, size), gives_up(free, size)
        assert fixed is not None
        assert moved is not None
        assert fixed.plan.tensor_split == (3, 3)
        assert moved.n_ctx >= fixed.n_ctx
    assert moved is not None
    assert moved.plan.tensor_split != (3, 3)


def test_a_plan_that_does_not_fit_leaves_nothing() -> None:
    """It says already what lacks."""
    own = plan(MODEL, [gpu(20)], ON)
    assert leaves(own) == ()
    assert gives_up(own, GIB) is None
    assert gives_up(own, Tenant(MODEL, {"n_ctx": 512})) is None
    assert "eaves" not in plan_text(own)
    assert own.to_dict()["leaves"] == []


def test_the_host_counts_once() -> None:
    """A host of known memory comes last; a chip that shares its memory stands for both; without a card the host gives."""
    beside = plan(MODEL, [gpu(1000)], ON, margin_bytes=MARGIN, host="4GiB")
    host = leaves(beside)[-1]
    assert host == Left("host", beside.estimate.host.left - MARGIN)
    chip = plan(MODEL, parse_gpus("m2-max-64gb"), ON)
    assert [left.name for left in leaves(chip)] == [chip.estimate.gpus[0].name]
    own = chip.estimate.gpus[0]
    assert own.beside > 0
    assert leaves(chip)[0].n_bytes == own.left - GIB - process_bytes(chip.gpus[0])
    alone = plan(MODEL, [], ON, margin_bytes=MARGIN, host=Host(300 * MIB))
    assert [left.name for left in leaves(alone)] == ["host"]
    found = gives_up(alone, leaves(alone)[0].n_bytes + 64 * MIB)
    assert found is not None
    assert (found.card, found.n_ctx < alone.n_ctx) == ("host", True)
    with_less = plan(MODEL, [], ON, margin_bytes=MARGIN, host=Host(300 * MIB, 300 * MIB - found.size))
    assert found.n_ctx == with_less.n_ctx
    assert gives_up(alone, GIB) is None
    assert gives_up(alone, 290 * MIB) is None
    assert leaves(plan(MODEL, [], ON)) == ()


def test_the_size_that_is_named_unasked() -> None:
    """The smallest of 1, 2, 4, ... GiB that no card has left."""
    for mib, size in ((1500, 1), (2500, 2), (9000, 16)):
        own = plan(MODEL, cards([mib, 600]), ON, margin_bytes=MARGIN, max_ctx=256)
        most = max(left.n_bytes for left in leaves(own))
        assert (next_size(own), size // 2 * GIB <= most < size * GIB) == (size * GIB, True)


def test_a_card_may_be_filled_to_its_last_byte() -> None:
    """Without a byte left on any card there is no context; with one on another, that one carries it."""
    one, two = (plan(MODEL, cards(mib), ON, margin_bytes=MARGIN) for mib in ([700], [700, 900]))
    size = 700 * MIB - process_bytes(one.gpus[0])
    assert gives_up(one, size) is None
    found = gives_up(two, size)
    assert found is not None
    assert found.plan.tensor_split == (0, 6)


def test_a_card_that_the_engine_refuses_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer above what a card takes is no answer."""
    own = plan(MODEL, cards([1500]), ON, margin_bytes=MARGIN)
    assert gives_up(own, 500 * MIB) is not None

    def refuse(*_: Any, **__: Any) -> Plan:
        raise EngineRefusal("too large")

    monkeypatch.setattr(module, "solve", refuse)
    assert gives_up(own, 500 * MIB) is None

    def refuse_there(model: Model, gpus: Any, *args: Any, **how: Any) -> Plan:
        return refuse() if gpus[0].free < 1000 * MIB else plan(model, gpus, *args, **how)

    monkeypatch.setattr(module, "solve", refuse_there)
    found = gives_up(
        plan(MODEL, cards([1500, 1500]), replace(ON, n_ctx=0), margin_bytes=MARGIN, max_ctx=1 << 18),
        800 * MIB,
    )
    assert found is not None
    assert (found.card, found.proved) == ("card 1", False)


@pytest.mark.parametrize("mib", [[4000, 4000], [5500]])
def test_beside_a_draft_it_is_as_proved_as_the_plan(mib: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers are divided as the model's are; where a plan has to seek its split in rounds, nothing is proved."""
    model = vramfit.accompany(REAL, draft=REAL)
    own = plan(model, cards(mib), ON, margin_bytes=MARGIN)
    found = gives_up(own, 1900 * MIB)
    assert found is not None
    assert found.n_ctx < own.n_ctx
    assert found.proved
    monkeypatch.setattr(module, "in_rounds", lambda q: True)
    again = gives_up(own, 1900 * MIB)
    assert again is not None
    assert not again.proved


@pytest.mark.parametrize("needs", [-1, "4 apples", True, None, "4096"])
def test_what_is_no_size_is_refused(needs: Any) -> None:
    own = plan(MODEL, cards([1000]), ON, margin_bytes=MARGIN)
    with pytest.raises(SettingsError, match="needs="):
        gives_up(own, needs)


def test_what_is_no_plan_is_refused() -> None:
    for wrong in (None, MODEL, "plan"):
        with pytest.raises(SettingsError, match="plan="):
            leaves(wrong)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="plan="):
            gives_up(wrong, GIB)  # type: ignore[call-overload]


# Several models


def both(mib: list[int], *tenants: Tenant) -> SharedPlan:
    found = vramfit.plan(list(tenants), cards(mib), margin_bytes=MARGIN)
    assert isinstance(found, SharedPlan)
    return found


@examples(8)
@given(st.integers(1200, 2000), st.integers(1200, 2000), SIZES)
def test_each_model_gives_up_by_itself(a: int, b: int, size_mib: int) -> None:
    """As a plan in the memory that the others leave says, with the next model's process and bytes taken from one card."""
    shared = both([a, b], Tenant(OTHER, ON, wish=4096), Tenant(MODEL, ON, wish=16384))
    size, left = size_mib * MIB, leaves(shared)
    extra = shared.processes
    for t, found in enumerate(gives_up(shared, size)):
        if t not in shared.loaded:
            assert found is None
            continue
        best = shared.plans[t].n_ctx if max(x.n_bytes for x in left[:2]) >= size else 0
        for i in shared.cards[t] if not best else ():
            own = []
            for j in shared.cards[t]:
                g, taken = shared.gpus[j], shared.devices[j].taken
                free = g.free - extra[j] - (sum(taken) - taken[t])
                own.append(replace(g, free_bytes=max(0, free)))
            there = less(own, shared.cards[t].index(i), size)
            most = shared.plans[t].n_ctx
            again = there and plan(shared.tenants[t].model, there, ON, margin_bytes=MARGIN, max_ctx=most)
            best = max(best, again.n_ctx if again and again.fits else 0)
        assert (found.n_ctx if found else 0) == best


def stood(gpus: list[Gpu], *placed: tuple[Tenant, tuple[int, ...]]) -> SharedPlan:
    """Models that are placed by hand: each on cards of its own, in what those before it leave."""
    extra = tuple(process_bytes(g) * (len(placed) - 1) for g in gpus)
    free = [g.free - x for g, x in zip(gpus, extra, strict=True)]
    plans = []
    for tenant, on in placed:
        own = [replace(gpus[i], free_bytes=free[i]) for i in on]
        plans.append(
            plan(tenant.model, own, tenant.settings, margin_bytes=MARGIN, max_ctx=tenant.wish or None)
        )
        for i, device in zip(on, plans[-1].estimate.gpus, strict=True):
            free[i] -= device.total
    tenants, where = zip(*placed, strict=True)
    loaded = tuple(range(len(placed)))
    return SharedPlan(
        tenants, tuple(plans), where, loaded, "share", 1.0, True, tuple(gpus), None, MARGIN, extra
    )


def test_the_layers_of_one_of_several_may_move() -> None:
    """Where the solver placed them; a split that its settings fix stays, and so does a context."""
    for split, n_ctx in (((), 0), ((), 40000), ((6.0, 0.0), 0)):
        mine = Tenant(MODEL, replace(ON, tensor_split=split, n_ctx=n_ctx), wish=0 if n_ctx else 65536)
        shared = stood(cards([1800, 1500]), (Tenant(OTHER, ON, wish=4096), (0, 1)), (mine, (0, 1)))
        assert [p.tensor_split for p in shared.plans] == [(7, 0), (6, 0)]
        other, found = gives_up(shared, 400 * MIB)
        assert other is None
        assert found is not None
        assert (found.card, found.tensor_split) == ("card 0", (6, 0) if split else (0, 6))
        if split:
            assert found.n_ctx < 54784
            continue
        assert found.n_ctx == (shared.plans[1].n_ctx if n_ctx else 54784)


def test_models_have_cards_of_their_own() -> None:
    """What each gives lies on its own card, by the name and the place that the card has among all."""
    first, second = (Tenant(m, ON, wish=1 << 20) for m in (OTHER, MODEL))
    shared = stood(cards([2500, 2500, 1500]), (first, (0,)), (second, (1,)))
    left = leaves(shared)
    assert left[2].n_bytes > 300 * MIB > max(left[0].n_bytes, left[1].n_bytes)
    kept = gives_up(shared, 300 * MIB)
    assert [x and (x.n_ctx, x.card) for x in kept] == [(p.n_ctx, "card 2") for p in shared.plans]
    found = gives_up(shared, 600 * MIB)
    splits_ = [(OTHER.n_layer + 1, 0, 0), (0, MODEL.n_layer + 1, 0)]
    assert [x and (x.card, x.tensor_split) for x in found] == [
        ("card 0", splits_[0]), ("card 1", splits_[1]),
    ]  # fmt: skip
    assert [x and x.tensor_split for x in kept] == splits_
    for i, x in enumerate(found):
        there = less(
            [replace(shared.gpus[i], free_bytes=shared.gpus[i].free - process_bytes(shared.gpus[i]))],
            0,
            600 * MIB,
        )
        assert there is not None
        assert x is not None
        again = plan(shared.tenants[i].model, there, ON, margin_bytes=MARGIN, max_ctx=1 << 20)
        assert x.n_ctx == again.n_ctx < shared.plans[i].n_ctx


def test_what_several_models_leave() -> None:
    """What is free, without what all take, the processes beyond the first, the margin and one more process."""
    shared = both([1500, 1200], Tenant(OTHER, ON, wish=2048), Tenant(MODEL, ON, wish=4096))
    for device, g, left in zip(shared.devices, shared.gpus, leaves(shared), strict=False):
        taken = sum(device.taken) + device.processes
        assert left.n_bytes == max(0, g.free - taken - MARGIN - process_bytes(g))


def test_a_model_that_is_not_loaded_gives_nothing() -> None:
    """What does not fit beside the others has nothing to give."""
    shared = both(
        [2500], Tenant(MODEL, replace(ON, n_ctx=1024)), Tenant(MODEL, replace(ON, n_ctx=1 << 18), name="long")
    )
    assert not shared.fits
    found = gives_up(shared, 16 * MIB)
    assert [x is None for x in found] == [i not in shared.loaded for i in range(2)]


def test_a_model_named_twice_cannot_be_next_of_several() -> None:
    shared = both([1500], Tenant(MODEL, ON, wish=1024), Tenant(OTHER, ON, wish=1024))
    with pytest.raises(SettingsError, match="all models at once"):
        gives_up(shared, Tenant(MODEL, ON))  # type: ignore[call-overload]


def test_the_table_of_several_models() -> None:
    """Sizes double from the first that is not left, until no model can give as much."""
    shared = both(
        [5000, 3000], Tenant(OTHER, ON, wish=1 << 16, name="[small]"), Tenant(MODEL, ON, wish=1 << 20)
    )
    rows = left_rows(shared)
    first = next_size(shared) // GIB
    assert [row[0] for row in rows] == [f"{first << i} GiB" for i in range(len(rows))]
    for row in rows:
        found = gives_up(shared, int(row[0].split()[0]) * GIB)
        assert row[1:] == [f"{x.n_ctx:,}" if x else "—" for x in found]
    assert rows
    assert not any(gives_up(shared, (first << len(rows)) * GIB))
    text = left_text(shared)
    assert "[small]" in text
    assert text.startswith("Leaves ")
    assert "The context that each model" in text
    tight = both([1100], Tenant(OTHER, ON, wish=512), Tenant(MODEL, ON, wish=512))
    assert left_rows(tight) == []
    assert "The context" not in left_text(tight)


@examples(6)
@given(st.integers(1200, 2000), st.integers(900, 2000), st.integers(1, 60))
def test_a_model_that_is_named_has_room(a: int, b: int, k: int) -> None:
    """Both fit beside each other, as a plan for both says; the context is no longer than it was alone."""
    own = plan(MODEL, cards([a, b]), ON, margin_bytes=MARGIN)
    other = Tenant(OTHER, replace(ON, n_ctx=k * 512))
    found = gives_up(own, other)
    if found is None:
        return
    assert (found.beside, found.beside_ctx, found.card) == (other.name, k * 512, "")
    assert 0 < found.n_ctx <= own.n_ctx
    assert found.size >= sum(w.tensor.n_bytes for w in OTHER.weights if isinstance(w.home, int))
    assert all(g.left >= MARGIN for g in found.plan.estimate.gpus if g.total)
    free = sum(g.free for g in found.plan.gpus)
    assert free <= sum(g.free - process_bytes(g) for g in own.gpus) - found.size


def test_a_model_that_is_named_needs_a_context() -> None:
    own = plan(MODEL, cards([1000]), ON, margin_bytes=MARGIN)
    with pytest.raises(SettingsError, match="n_ctx"):
        gives_up(own, Tenant(OTHER, ON))
    assert gives_up(own, Tenant(OTHER, replace(ON, n_ctx=1 << 22))) is None


# As it is shown

GEMMA = str(ROOT / "examples" / "gemma-3-12b-q4_k_m.gguf")
TWO = ("--gpus", "3090ti,3060-12gb", "-fa", "on")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def said(*args: str) -> list[str]:
    """The sentences about a next model."""
    words = ("Leaves", "For another", "Beside", "No context", " does not fit beside")
    return [
        line for line in run("plan", QWEN, *TWO, *args).output.splitlines() if any(w in line for w in words)
    ]


def test_a_plan_says_what_it_leaves() -> None:
    """In text and HTML a sentence, in JSON a list; the question takes no time that was not asked for."""
    own = plan(MODEL, cards([900, 1300]), ON, margin_bytes=MARGIN, max_ctx=2048)
    left = leaves(own)
    sentence = f"{left[1].n_bytes / MIB:.3g} MiB on card 1"
    for text in (plan_text(own), fragment(own)):
        assert sentence in text
        assert "for another model (the driver" in text
        assert "come down" not in text
    read = PlanJson(**own.to_dict())
    assert [(x.name, x.n_bytes, x.process) for x in read.leaves] == list(left)
    assert read.gives_up is None
    nothing = plan(MODEL, cards([560]), ON, margin_bytes=MARGIN)
    assert "Leaves nothing for another model" in plan_text(nothing)
    assert "eaves" not in plan_text(plan(MODEL, [], ON))
    host = plan(MODEL, [], ON, margin_bytes=MARGIN, max_ctx=256, host="4GiB")
    assert "GiB on the host for another model." in plan_text(host)


def test_many_cards_are_not_all_named() -> None:
    """Those with most are, in their order, and the host."""
    own = plan(MODEL, cards([900, 2000, 1000, 1100, 1200]), ON, margin_bytes=MARGIN, max_ctx=256, host="4GiB")
    text = plan_text(own)
    assert " on card 1, " in text
    assert " on card 3, " in text
    assert " on card 4, no more on 2 other cards and " in text
    assert " on the host for another model" in text


def test_the_context_is_named_where_it_was_asked_for() -> None:
    """--next names a size, --alternatives the first that is not left; without either nothing is solved."""
    read = json.loads(run("plan", QWEN, *TWO, "--next", "4GiB", "--json").output)
    found, split = read["gives_up"], ",".join(map(str, read["gives_up"]["tensor_split"]))
    leaving, asked = said("--next", "4GiB")
    assert leaving.startswith("Leaves 88.4 MiB on GeForce RTX 3060 12GB for another model")
    assert asked == (
        f"For another model of 4 GiB on {found['card']} the context would come down to {found['n_ctx']:,} tokens,"
        f" with --tensor-split {split}."
    )
    assert (found["size"], found["n_ctx"] < read["n_ctx"]) == (4 * GIB, True)
    assert len(said()) == 1


def test_nothing_is_said_where_nothing_fits() -> None:
    """It says already what lacks, and what would make it fit."""
    choice = Choice("", "", "", cache=False, assume=None)
    short = plan(MODEL, [gpu(20)], ON)
    assert next_model(short, "4GiB", None, None, choice) is None


def test_a_model_that_names_no_context_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """--next-ctx is asked for."""
    monkeypatch.setattr(Choice, "read", lambda self, alone: replace(MODEL, n_ctx_train=0))
    choice, own = Choice("", "", "", cache=False, assume=None), plan(MODEL, [gpu(4000)], ON)
    with pytest.raises(
        SettingsError, match="--next other: the header has no trained context; give --next-ctx"
    ):
        next_model(own, "other", None, None, choice)
    found = next_model(own, "other", 512, None, choice)
    assert found is not None
    assert found.sentence.startswith("Beside Hand Made at 512 tokens the context stays at")


def test_alternatives_say_it_as_well() -> None:
    """With the first size that is not left."""
    output = run("plan", QWEN, "--gpus", "24GiB", "-fa", "on", "--max-ctx", "4096", "--alternatives").output
    assert re.search("For another model of 8 GiB on .* the context would come down to [0-9,]+ tokens", output)


def test_what_is_said_of_a_size() -> None:
    """That the context stays, comes down, was asked for, or that none leaves so much."""
    own = plan(MODEL, cards([1500]), ON, margin_bytes=MARGIN)
    asked = plan(MODEL, cards([1500]), replace(ON, n_ctx=65536), margin_bytes=MARGIN)
    found = gives_up(own, 400 * MIB)
    assert found is not None
    says = f" would come down to {found.n_ctx:,} tokens."
    assert (
        gives_up_sentence(own, found.size, found)
        == f"For another model of 400 MiB on card 0 the context{says}"
    )
    assert gives_up_sentence(asked, found.size, found).endswith(f" the context asked for{says}")
    stays = gives_up_sentence(own, 64 * MIB, gives_up(own, 64 * MIB))
    assert stays == "For another model of 64 MiB on card 0 the context stays at 65,536 tokens."
    assert (
        gives_up_sentence(own, GIB, None) == "No context of this model leaves 1 GiB on one card for another."
    )
    host = replace(found, card="host")
    assert gives_up_sentence(own, found.size, host).startswith("For another model of 400 MiB on the host the")
    unproved = replace(found, beside="b", beside_ctx=512, proved=False)
    assert gives_up_sentence(own, 0, unproved) == (
        f"Beside b at 512 tokens the context{says[:-1]}; that no longer one fits was not proved."
    )


def test_a_model_may_be_named() -> None:
    """At its trained context, or another; the answer is that for both."""
    one = ("plan", QWEN, "--gpus", "48GiB", "-fa", "on", "--max-ctx", "8192")
    read = json.loads(run(*one, "--next", GEMMA, "--json").output)["gives_up"]
    assert (read["beside"], read["beside_ctx"], read["n_ctx"]) == ("gemma-3-12b-q4_k_m", 131072, 8192)
    output = run(*one, "--next", GEMMA, "--next-ctx", "8k").output
    assert "\nBeside gemma-3-12b-q4_k_m at 8,192 tokens the context stays at 8,192 tokens" in output
    assert (
        "gemma-3-12b-q4_k_m at 921,600 tokens does not fit beside any context of this model; --next-ctx"
        in run(*one, "--next", GEMMA, "--next-ctx", "900k").output
    )


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--next-ctx", "8k"), "--next-ctx 8192: is for a model"),
        (("--next", "4GiB", "--next-ctx", "8k"), "--next-ctx 8192: is for a model"),
        (("--next", "0GiB"), "--next 0GiB: give a size above 0"),
        (("--next", "nothing.gguf"), "nothing.gguf"),
        (("--next", GEMMA, "--engine", "ollama"), "ollama places models itself"),
    ],
)
def test_options_that_contradict_are_refused(args: tuple[str, ...], why: str) -> None:
    done = run("plan", QWEN, *TWO, *args)
    assert done.exit_code == 1
    assert why in done.output
