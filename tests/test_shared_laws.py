"""Laws of plans of several models: what a better or a smaller question may not make worse, and sums that must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import EngineRefusal
from vramfit._devices import Gpu
from vramfit._estimate.estimate import estimate
from vramfit._llama.params import Settings
from vramfit._planner.shared import SharedPlan, Tenant, plan_shared
from vramfit._planner.warnings import process_bytes

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


def cards(mib: Sequence[int]) -> list[Gpu]:
    extra = 2 * process_bytes(gpu(16384)) >> 20
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


def test_what_is_refused_names_its_model() -> None:
    """What the engine refuses of one of several models says of which."""
    *others, last = tenants()
    told = replace(last.settings, spec_type="draft-mtp")
    with pytest.raises(EngineRefusal, match=r"^embed: .*MTP"):
        plan([*others, replace(last, settings=told)], cards([90]))
