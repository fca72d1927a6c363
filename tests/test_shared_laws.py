"""Laws of plans of several models: what a better or a smaller question may not make worse, and sums that must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu
from test_company import SPECULATING, drafting

from vramfit._base.errors import EngineRefusal, SettingsError
from vramfit._devices import Gpu
from vramfit._engines.shared import shared_for
from vramfit._estimate.estimate import estimate
from vramfit._llama.params import Settings
from vramfit._planner.gives_up import gives_up
from vramfit._planner.plan import plan as one_plan
from vramfit._planner.shared import SharedPlan, Tenant, plan_shared
from vramfit._planner.warnings import process_bytes
from vramfit._report.shared_facts import missing, model_rows, verdict

MARGIN = 8 << 20
SETTINGS = Settings(flash_attn="on", n_outputs_max=1)
MODELS = (
    dense(3, n_embd=512, n_ff=1024, n_vocab=2048, n_head=8, n_head_kv=8, n_ctx_train=2048),
    dense(4, n_embd=256, tied=True, n_head=4, n_head_kv=4, n_ctx_train=1536),
    dense(2, n_embd=256, n_ctx_train=1024),
)
NAMES = ("chat", "code", "embed")
MIB = st.lists(st.integers(24, 90), min_size=1, max_size=2)
LAYERS = st.lists(st.sampled_from([-1, -1, 0, 1, 3]), min_size=3, max_size=3)


def tenants(layers: Sequence[int] = (-1, -1, -1), n_ctx: int = 0) -> list[Tenant]:
    return [
        Tenant(m, replace(SETTINGS, n_gpu_layers=n, n_ctx=n_ctx), name=name)
        for m, n, name in zip(MODELS, layers, NAMES, strict=True)
    ]


def cards(mib: Sequence[int], n_models: int = 3) -> list[Gpu]:
    """Cards with so much memory beside what the models' processes take."""
    extra = (n_models - 1) * process_bytes(gpu(16384)) >> 20
    return [gpu(n + extra, name=f"card {i}") for i, n in enumerate(mib)]


def plan(own: Sequence[Tenant], gpus: Sequence[Gpu]) -> SharedPlan:
    return plan_shared(own, gpus, margin_bytes=MARGIN)


def shares(found: SharedPlan) -> dict[str, float]:
    """The part of its wish that each loaded model gets."""
    return {
        found.tenants[i].name: found.plans[i].n_ctx / found.tenants[i].wished
        for i in found.loaded
        if not found.tenants[i].settings.n_ctx
    }


@examples(4)
@given(st.lists(st.integers(24, 90), min_size=1, max_size=3), LAYERS)
def test_what_is_said_adds_up(mib: list[int], layers: list[int]) -> None:
    """Each model takes what `estimate` says of its settings on its cards alone, and no card is filled beyond its margin."""
    gpus = cards(mib)
    found = plan(tenants(layers), gpus)
    taken = [0] * len(gpus)
    for i in found.loaded:
        alone = estimate(MODELS[i], [gpus[c] for c in found.cards[i]], found.plans[i].settings)
        assert [d.total for d in alone.gpus] == [d.total for d in found.plans[i].estimate.gpus]
        assert alone.host.total == found.plans[i].estimate.host.total
        for card, device in zip(found.cards[i], alone.gpus, strict=True):
            taken[card] += device.total + device.beside
    for card, n_bytes in enumerate(taken):
        others = max(0, len(found.loaded) - 1) * process_bytes(gpus[card])
        assert not n_bytes or n_bytes + others <= gpus[card].free - MARGIN


@examples(3)
@given(MIB, st.integers(0, 2))
def test_one_model_less_takes_nothing_from_the_others(mib: list[int], left_out: int) -> None:
    """Without one of the models all others fit where they did, and the smallest share is no smaller."""
    own = tenants()
    before = plan(own, gpus := cards(mib))
    after = plan([t for i, t in enumerate(own) if i != left_out], gpus)
    assert not before.fits or after.fits
    if before.fits and before.proved and after.proved:
        kept = {name: share for name, share in shares(before).items() if name != NAMES[left_out]}
        assert min(shares(after).values()) >= min(kept.values())


@examples(3)
@given(MIB, st.integers(0, 1), st.integers(1, 24))
def test_more_memory_is_never_worse(mib: list[int], at: int, more: int) -> None:
    """A card with more memory holds as many models, and the smallest share is no smaller."""
    before = plan(tenants(), cards(mib))
    mib[at % len(mib)] += more
    after = plan(tenants(), cards(mib))
    assert len(after.loaded) >= len(before.loaded)
    if after.proved and before.loaded and after.loaded == before.loaded:
        assert min(shares(after).values()) >= min(shares(before).values())


@examples(3)
@given(MIB, st.permutations(range(3)))
def test_their_order_changes_no_share(mib: list[int], order: list[int]) -> None:
    """Models in another order: as many are loaded, and where they are the same ones, the smallest share is the same."""
    own, gpus = tenants(), cards(mib)
    before, after = plan(own, gpus), plan([own[i] for i in order], gpus)
    assert len(after.loaded) == len(before.loaded)
    same = {own[order[i]].name for i in after.loaded} == {own[i].name for i in before.loaded}
    if same and before.loaded and before.proved and after.proved:
        assert min(shares(after).values()) == min(shares(before).values())


@pytest.mark.parametrize("n_cards", [3, 4, 5])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_fewer_layers_on_cards_than_cards(n_cards: int, layers: int) -> None:
    """They are on as many cards as they need, whatever else the machine has."""
    found = plan(tenants([layers] * 3), cards([90] * n_cards))
    assert found.fits
    assert all(sum(d.layers for d in p.estimate.gpus) == layers for p in found.plans)


def test_a_full_card_is_left_alone() -> None:
    """A card without free memory holds nothing, and keeps no model from the others."""
    gpus = cards([400, 400])
    full = replace(gpus[0], free_bytes=0)
    with_it, without = plan(tenants(), [full, gpus[1]]), plan(tenants(), gpus[1:])
    assert with_it.fits
    assert with_it.devices[0].total == with_it.devices[0].processes
    assert shares(with_it) == shares(without)


@pytest.mark.parametrize("n_ctx", [0, 512])
def test_who_gets_all_that_can_be_is_proved(n_ctx: int) -> None:
    """Nothing is better than the whole wish of all, wherever else they could be."""
    found = plan(tenants(n_ctx=n_ctx), cards([400] * 6))
    assert all(p.n_ctx == (n_ctx or t.wished) for p, t in zip(found.plans, found.tenants, strict=True))
    assert (found.proved, found.note) == (True, "")


def test_models_with_drafts_on_many_cards() -> None:
    """Of more than four cards those that are alike are tried once, whatever is loaded beside a model."""
    told = replace(SPECULATING, n_ctx=0, flash_attn="on")
    own = [Tenant(drafting(), told, wish=512, name="drafted"), tenants()[1]]
    found = plan(own, cards([200] * 5, 2))
    assert found.fits
    assert found.plans[0].estimate.company


def test_who_has_its_wish_has_not_the_smallest_share() -> None:
    """Of those who get less than they wish one has the smallest share, and text and value tell the same one's."""
    chat, code, _ = tenants()
    found = plan([replace(chat, wish=16384), replace(code, wish=1024, weight=9)], cards([200], 2))
    assert found.plans[1].n_ctx == 1024  # for a weight of 9 a smaller share than that of chat
    assert found.share == found.plans[0].n_ctx / 16384 > 1 / 9
    assert ", of chat;" in verdict(found)


def test_a_process_that_another_card_has_no_room_for() -> None:
    """A model that fits where there is room, while its process does not beside what lies on another card, says so."""
    alone = plan(tenants(n_ctx=512)[:1], [gpu(16384)])
    need = alone.devices[0].taken[0] + MARGIN
    full = replace(gpu(16384, name="full"), free_bytes=need)
    found = plan(tenants(n_ctx=512)[:2], [full, *cards([need // (1 << 20) - 2], 2)])
    assert found.loaded == (0,)
    assert not found.plans[1].fits
    assert (found.plans[1].limited_by, found.plans[1].shortfall) == ("full", process_bytes(full))
    assert "code does not fit beside the others: at 512 tokens full is short of" in missing(found)[0]


def test_a_limit_for_all_is_no_other_model() -> None:
    """Contexts that `max_ctx` keeps from growing say so."""
    found = plan_shared(tenants(), cards([400]), margin_bytes=MARGIN, max_ctx=512)
    head, *rows = model_rows(found)
    assert [row[head.index("limited by")] for row in rows] == ["max_ctx"] * 3


def test_a_name_of_a_file_is_made_printable() -> None:
    """What no terminal may show is spelt out in a model's own name; a name that was given is refused."""
    hostile = replace(MODELS[0], source="/models/a\x1b[31m\n.gguf")
    found = plan([Tenant(hostile, SETTINGS), *tenants()[1:]], cards([90]))
    assert found.tenants[0].name == r"a\x1b[31m\n"
    with pytest.raises(SettingsError, match="printable name"):
        Tenant(hostile, SETTINGS, name="a\x1b")


def test_what_is_refused_names_its_model() -> None:
    """What the engine refuses of one of several models says of which."""
    *others, last = tenants()
    told = replace(last.settings, spec_type="draft-mtp")
    with pytest.raises(EngineRefusal, match=r"^embed: .*MTP"):
        plan([*others, replace(last, settings=told)], cards([90]))


def test_a_split_that_an_engine_makes_stays() -> None:
    """What LM Studio divides evenly it divides evenly at every context, whatever split would leave more room."""
    gpus = [gpu(8192, name="a"), gpu(8192, name="b")]
    even = shared_for([Tenant(MODELS[0], wish=1024)], gpus, "lm-studio", margin_bytes=MARGIN)
    room = even.devices[0].left - MARGIN - process_bytes(gpus[0])
    (found,) = gives_up(even, room + (10 << 20))
    assert found
    assert found.n_ctx < 1024
    assert found.tensor_split == even.plans[0].tensor_split == (2, 2)


def test_a_model_beside_itself() -> None:
    """The next model may be the same one: each is in a process of its own."""
    chat = tenants(n_ctx=512)[0]
    alone = one_plan(chat.model, [gpu(2048)], SETTINGS, margin_bytes=MARGIN)
    found = gives_up(alone, chat)
    assert found
    assert (found.beside, found.n_ctx) == ("chat", alone.n_ctx)
    unnamed = gives_up(alone, Tenant(chat.model, chat.settings))
    assert unnamed
    assert unnamed.n_ctx == alone.n_ctx
