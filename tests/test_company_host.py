"""What is loaded beside a model counts on a known host, on a chip that shares its memory, and on other machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu
from test_host import MARGIN, MIB, MODEL, SETTINGS, jetson, judged, mac
from test_next_tokens import model_of
from test_projectors import GEMMA, fitting

import vramfit
from vramfit._company import Company, Draft
from vramfit._devices import Gpu, Host
from vramfit._estimate.company import company_at_least, company_bytes
from vramfit._estimate.estimate import Estimate, estimate
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._planner.bounds import speed
from vramfit._planner.plan import carries, plan
from vramfit._planner.speed import decode_limit
from vramfit._planner.which import which
from vramfit._report.speeds import speed_as_schema, speed_sentence

DRAFT = dense(2, n_vocab=4096, n_ctx_train=1 << 15)
SPECULATING = replace(SETTINGS, spec_type="draft-simple")


def drafting(**told: Any) -> Model:
    return replace(MODEL, company=Company(Draft(DRAFT, **told)))


def on_host(found: Estimate) -> int:
    return sum(c.host.taken for c in found.company)


@examples(15, deadline=10_000)
@given(
    host=st.integers(6, 120),
    cards=st.lists(st.integers(40, 160), max_size=2),
    own=st.sampled_from([None, ()]),
    shared=st.booleans(),
)
def test_a_plan_leaves_room_for_company_everywhere(
    host: int, cards: list[int], own: tuple[int, ...] | None, shared: bool
) -> None:
    """What fits leaves the margin on every card and on the host; what does not, lacks it; a step more is not carried."""
    gpus = [jetson(n) if shared else gpu(n, name=f"card {i}") for i, n in enumerate(cards)]
    memory = None if shared and gpus else Host(host * MIB)
    model = drafting(devices=own)
    found = plan(model, gpus, SPECULATING, margin_bytes=MARGIN, host=memory)
    assert judged(found) is found.fits
    assert (found.shortfall > 0) is not found.fits
    more = replace(found.settings, n_ctx=found.n_ctx + 256)
    if found.fits and more.n_ctx <= MODEL.n_ctx_train:
        assert not plan(model, gpus, more, margin_bytes=MARGIN, host=memory).fits
        assert not carries(model, gpus, more, margin_bytes=MARGIN, host=memory)


def test_a_draft_takes_of_the_host() -> None:
    """The host's largest context is smaller with a draft there, which is within its total."""
    alone, both = (
        plan(m, [gpu(400)], replace(SPECULATING, offload_kqv=False), margin_bytes=MARGIN, host=160 * MIB)
        for m in (MODEL, drafting(devices=()))
    )
    assert alone.limited_by == both.limited_by == "host"
    assert both.fits
    assert both.n_ctx < alone.n_ctx
    assert both.estimate.host.company == sum(c.host.total for c in both.estimate.company) > 0
    assert not any(g.company for g in both.estimate.gpus)


@pytest.mark.parametrize("chip", [jetson(800), mac(800)])
def test_what_is_on_the_host_takes_of_a_chip_that_shares_its_memory(chip: Gpu) -> None:
    """A draft's host part counts against the chip, whether its layers are there or not."""
    settings = replace(SPECULATING, n_ctx=1024)
    alone = estimate(MODEL, [chip], settings)
    for model in (drafting(), drafting(devices=())):
        found = estimate(model, [chip], settings)
        draft = estimate(DRAFT, [chip], replace(settings, spec_type="none"))
        more = found.gpus[0].beside - alone.gpus[0].beside
        assert more == sum(c.gpus[0].beside for c in found.company)
        if found.gpus[0].company:
            assert more == draft.gpus[0].beside > 0
        else:
            assert more == on_host(found) > draft.gpus[0].beside


@pytest.mark.parametrize("chip", [jetson(8000), gpu(8000)])
def test_projectors_and_next_token_layers_take_of_a_shared_chip(chip: Gpu, tmp_path: Path) -> None:
    """What they have on the host counts against a chip that has the system's memory, and against no other card."""
    path = tmp_path / "mmproj.gguf"
    seen = vramfit.read(GEMMA)
    path.write_bytes(fitting(seen.n_embd))
    for model, told in (
        (vramfit.accompany(seen, mmproj=path, mmproj_offload=False), Settings(n_ctx=1024)),
        (vramfit.accompany(seen, mmproj=path), Settings(n_ctx=1024)),
        (model_of("mtp-qwen35"), Settings(n_ctx=1024, spec_type="draft-mtp")),
    ):
        (companion,) = estimate(model, [chip], told).company
        assert companion.host.total > 0
        assert companion.gpus[0].beside == (companion.host.total if chip.unified else 0)


@pytest.mark.parametrize("own", [None, ()])
def test_what_is_beside_never_falls_below_its_floor(own: tuple[int, ...] | None) -> None:
    """On the host and against a shared chip, too, the floor is no more than what is taken at any larger context."""
    chips, contexts = [jetson(4096)], range(256, 8192, 1536)
    sizes, floors = (
        [look(drafting(devices=own), chips, SPECULATING, n, estimate) for n in contexts]
        for look in (company_bytes, company_at_least)
    )
    for one in (lambda c: c.host, lambda c: c.taken[0]):
        low, high = list(map(one, floors)), list(map(one, sizes))
        assert low == sorted(low)
        assert all(0 < floor < min(high[i:]) for i, floor in enumerate(low))


def test_a_host_with_room_changes_nothing_with_a_draft() -> None:
    """The plan is that without a host: what the draft takes of the cards counts by either way."""
    cards = [gpu(200, name="a"), gpu(120, name="b")]
    free, limited = (
        plan(drafting(), cards, SPECULATING, margin_bytes=MARGIN, host=h) for h in (None, Host(1 << 36))
    )
    assert free.fits
    assert free.n_ctx < MODEL.n_ctx_train
    assert (limited.n_ctx, limited.tensor_split, limited.estimate.gpus) == (
        free.n_ctx,
        free.tensor_split,
        free.estimate.gpus,
    )


def test_what_a_model_keeps_for_a_draft_is_on_a_shared_chip_twice() -> None:
    """The outputs of layers that are kept on the chip and on the host both take of its memory."""
    settings = replace(SPECULATING, n_ctx=1024)
    plain, tapped = (
        estimate(drafting(), [jetson(800)], replace(settings, spec_type=kind))
        for kind in ("draft-simple", "draft-eagle3")
    )
    kept = tapped.gpus[0].company - plain.gpus[0].company
    on_host = tapped.host.company - plain.host.company
    assert 0 < kept < on_host
    assert tapped.gpus[0].beside - plain.gpus[0].beside == on_host


def test_locked_pages_of_a_draft_count() -> None:
    """A draft that lies on the host is locked with the model, and rows that are never held count for neither."""
    settings = replace(SPECULATING, n_ctx=1024)
    draft = estimate(DRAFT, [], replace(settings, spec_type="none", load_mode="mmap+mlock"))
    for mode in ("auto", "mmap+mlock"):
        told = replace(settings, load_mode=mode)
        found, alone = (estimate(m, [gpu(400)], told) for m in (drafting(devices=()), MODEL))
        assert found.host.beside - alone.host.beside == found.company[0].host.beside
    assert draft.host.beside >= 0


def test_cards_to_buy_carry_the_company() -> None:
    """A card is named that holds the draft, too, with the host beside it judged."""
    settings = replace(SPECULATING, n_ctx=8192)
    for host, any_found in ((Host(200 * MIB), True), (Host(4 * MIB), False)):
        found = which(drafting(), settings, max_cards=1, margin_bytes=MARGIN, gpus=[gpu(400)], host=host)
        assert bool(found.carriers) is any_found


def test_other_machines_hold_little_with_a_draft() -> None:
    """What is near is filled first with a draft beside the model, too, and all fits."""
    far = replace(gpu(400, name="far"), host="mini", remote=True)
    near = gpu(160, name="near")
    free = plan(drafting(), [far, near], replace(SPECULATING, n_ctx=4096), margin_bytes=MARGIN)
    assert free.fits
    assert judged(free)
    assert free.tensor_split[1] >= free.tensor_split[0]


def test_speculation_raises_the_bound_of_speed() -> None:
    """A pass gives at most its own token and all that are proposed: the bound says so."""
    card = replace(gpu(4096), bandwidth_gbs=100)
    drafted = replace(SPECULATING, n_ctx=1024, spec_draft_n_max=7)
    alone, bound = (
        speed(plan(MODEL, [card], s, margin_bytes=0)) for s in (replace(SETTINGS, n_ctx=1024), drafted)
    )
    assert alone.n_tokens == 1
    assert alone.decode is not None
    assert bound.decode == pytest.approx(alone.decode * 8)
    found = plan(MODEL, [card], drafted, margin_bytes=0)
    assert bound.decode == decode_limit(MODEL, found.estimate.placement, [card], None, 8)
    assert "Each pass is taken to give 8 tokens" in speed_sentence(bound)
    assert "Each pass" not in speed_sentence(alone)
    assert speed_as_schema(bound).n_tokens == 8
