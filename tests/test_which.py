"""The cards that carry a context: those listed do, smaller ones do not, and no pair is listed for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import GpuError, SettingsError
from vramfit._cli import main
from vramfit._devices import Gpu, all_gpus, select_gpus
from vramfit._llama.params import Settings
from vramfit._planner.plan import plan
from vramfit._planner.speed import decode_limit
from vramfit._planner.which import SORTS, Shortlist, which

QWEN = Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf"

MARGIN = 8 << 20
MODEL = dense(8, n_embd=512, n_ff=8192, n_vocab=4096, n_head=8, n_head_kv=4, n_ctx_train=1 << 14)
ASKED = Settings(n_ctx=1024, flash_attn="on", n_outputs_max=1)
SIZES = st.lists(st.integers(150, 600), min_size=1, max_size=5)


def catalogue(mib: list[int], backend: str = "cuda") -> list[Gpu]:
    return [replace(gpu(n, name=f"{backend} card {i}"), backend=backend) for i, n in enumerate(mib)]


def carry(*gpus: Gpu) -> bool:
    return plan(MODEL, gpus, ASKED, margin_bytes=MARGIN).fits


def names(found: Shortlist) -> set[tuple[str, ...]]:
    """Each single card and each pair by name, in no order."""
    singles = {(name,) for carrier in found.singles for name in carrier.alike[0]}
    pairs = {tuple(sorted((a, b))) for c in found.pairs for a in c.alike[0] for b in c.alike[1]}
    return singles | pairs


@examples(6)
@given(SIZES)
def test_it_lists_what_a_plan_for_each_would_find(mib: list[int]) -> None:
    """A card is listed exactly if it carries the context, a pair exactly if it does and neither card alone."""
    cards = catalogue(mib)
    alone = {g.name for g in cards if carry(g)}
    wanted: set[tuple[str, ...]] = {(name,) for name in alone}
    for a, b in combinations_with_replacement(cards, 2):
        if not alone & {a.name, b.name} and (carry(a, b) or carry(b, a)):
            wanted.add(tuple(sorted((a.name, b.name))))
    assert names(which(MODEL, ASKED, margin_bytes=MARGIN, gpus=cards)) == wanted


def test_a_context_is_asked_as_it_is() -> None:
    """A context that the engine pads is planned as asked, since it bounds the batch, and named as padded."""
    asked = replace(ASKED, n_ctx=100)
    enough = next(n for n in range(50, 800) if plan(MODEL, catalogue([n]), asked, margin_bytes=MARGIN).fits)
    found = which(MODEL, asked, margin_bytes=MARGIN, gpus=catalogue([enough - 1, enough]), max_cards=1)
    assert found.n_ctx == 256
    assert [c.alike for c in found.singles] == [(("cuda card 1",),)]


@examples(4)
@given(SIZES)
def test_pairs_stand_in_an_order_that_carries(mib: list[int]) -> None:
    """The cards of a carrier, planned in the order given, carry the context."""
    for carrier in which(MODEL, ASKED, margin_bytes=MARGIN, gpus=catalogue(mib)).carriers:
        assert carry(*carrier.gpus)


@examples(4)
@given(SIZES, SIZES)
def test_cheapest_memory_comes_first(mib: list[int], others: list[int]) -> None:
    """Carriers are sorted by the memory of their cards together, and no pair mixes backends."""
    found = which(MODEL, ASKED, margin_bytes=MARGIN, gpus=[*catalogue(mib), *catalogue(others, "hip")])
    totals = [c.total_bytes for c in found.carriers]
    assert totals == sorted(totals)
    assert all(len({g.backend for g in c.gpus}) == 1 for c in found.carriers)
    assert found.fits == bool(totals)


def test_equal_cards_are_one_carrier() -> None:
    """Cards with as much free memory are tried once and stand together."""
    (carrier,) = which(MODEL, ASKED, margin_bytes=MARGIN, gpus=catalogue([800, 800])).singles
    assert carrier.alike == (("cuda card 0", "cuda card 1"),)
    assert carrier.free_bytes == 800 << 20


def test_memory_of_the_system_is_not_paired() -> None:
    """Two machines are not a pair, and a single card was asked for when `max_cards` is 1."""
    small = catalogue([400])
    assert which(MODEL, ASKED, margin_bytes=MARGIN, gpus=small).pairs
    shared = [replace(g, unified=True) for g in small]
    assert not which(MODEL, ASKED, margin_bytes=MARGIN, gpus=shared).fits
    assert not which(MODEL, ASKED, margin_bytes=MARGIN, gpus=small, max_cards=1).fits
    assert not which(MODEL, replace(ASKED, split_mode="none"), margin_bytes=MARGIN, gpus=small).fits


def test_the_catalogue_is_the_default() -> None:
    """Without cards to choose from, those of the catalogue; without a context, the trained one."""
    found = which(MODEL, replace(ASKED, n_ctx=0))
    assert found.n_ctx == 1 << 14
    listed = {name for c in found.singles for name in c.alike[0]}
    assert listed == {g.name for g in all_gpus() if plan(MODEL, [g], replace(ASKED, n_ctx=1 << 14)).fits}


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"max_cards": 3}, SettingsError, "max_cards=3"),
        ({"max_cards": 0}, SettingsError, "max_cards=0"),
        ({"margin_bytes": -1}, SettingsError, "margin_bytes"),
        ({"gpus": []}, GpuError, "no cards"),
        ({"sort": "price"}, SettingsError, "sort='price'"),
        ({"settings": replace(ASKED, tensor_split=(1, 2))}, SettingsError, "tensor_split"),
        ({"settings": replace(ASKED, main_gpu=1)}, SettingsError, "main_gpu"),
    ],
)
def test_what_makes_no_sense_is_an_error(
    arguments: dict[str, object], error: type[Exception], word: str
) -> None:
    """A wrong number, no cards, or a split of cards that are not known yet is one error that names it."""
    with pytest.raises(error, match=word):
        which(**{"model": MODEL, "settings": ASKED, **arguments})  # type: ignore[arg-type]


def test_what_comes_with_its_computer_stands_behind_cards_and_makes_no_pair() -> None:
    """Laptops' chips and shared memory come last in every order, and nobody buys two laptops for one model."""
    chips = [replace(gpu(700, name="Fast Laptop GPU"), bandwidth_gbs=900.0), replace(gpu(690), unified=True)]
    cards = [replace(gpu(800, name="slow"), bandwidth_gbs=100.0), gpu(900, name="unknown")]
    for sort in SORTS:
        found = which(MODEL, ASKED, margin_bytes=MARGIN, gpus=[*chips, *cards], sort=sort)
        assert [c.built_in for c in found.singles] == [False, False, True, True]
        assert [c.built_in for c in found.carriers] == sorted(c.built_in for c in found.carriers)
    small = [replace(gpu(400, name="A Laptop GPU"))]
    assert not which(MODEL, ASKED, margin_bytes=MARGIN, gpus=small).fits
    assert which(MODEL, ASKED, margin_bytes=MARGIN, gpus=[*small, gpu(400)]).pairs


def test_cards_are_sorted_as_asked() -> None:
    """Bandwidth and speed: most first, unknown last; cards of one size and different bandwidth are apart."""
    cards = [replace(gpu(800, name=f"{n}"), bandwidth_gbs=n) for n in (300.0, None, 900.0)]
    for sort in SORTS[1:]:
        found = which(MODEL, ASKED, margin_bytes=MARGIN, gpus=cards, sort=sort)
        assert [c.bandwidth_gbs for c in found.singles] == [900, 300, None]
    fast = found.singles[0]
    own = plan(MODEL, [cards[2]], ASKED, margin_bytes=MARGIN)
    assert fast.tokens_per_second == decode_limit(MODEL, own.estimate.placement, [cards[2]])
    assert found.singles[-1].tokens_per_second is None


@examples(6)
@given(SIZES, st.lists(st.floats(50, 5000), min_size=5, max_size=5))
def test_no_plan_is_faster_than_the_bound(mib: list[int], rates: list[float]) -> None:
    """The bound of a carrier is at or above the one of the plan for its cards, whose split is known."""
    cards = [replace(g, bandwidth_gbs=rate) for g, rate in zip(catalogue(mib), rates, strict=False)]
    for carrier in which(MODEL, ASKED, margin_bytes=MARGIN, gpus=cards).carriers:
        found = plan(MODEL, carrier.gpus, ASKED, margin_bytes=MARGIN)
        known = decode_limit(MODEL, found.estimate.placement, carrier.gpus)
        assert known is not None
        assert carrier.tokens_per_second is not None
        assert known <= carrier.tokens_per_second * (1 + 1e-9)


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        ("nvidia", lambda g: g.backend == "cuda"),
        ("AMD desktop", lambda g: re.match("Radeon|Instinct", g.name) and not g.built_in),
        ("laptop", lambda g: "Laptop" in g.name),
        ("apple,jetson", lambda g: g.backend == "metal" or "Jetson" in g.name),
        ("3060,24GiB", lambda g: g.name in ("GeForce RTX 3060 8GB", "GeForce RTX 3060 12GB", "24GiB")),
        ("3090:22GiB, 3090:22GiB", lambda g: g.free == 22 << 30),
    ],
)
def test_words_choose_cards(words: str, holds: Callable[[Gpu], bool]) -> None:
    """Groups and names: what is chosen is of them, each once, and nothing of the catalogue is left out."""
    found = select_gpus(words)
    assert len(set(found)) == len(found) > 0
    assert all(map(holds, found))
    if not any(c.isdigit() for c in words):
        assert set(found) == set(filter(holds, all_gpus()))


@pytest.mark.parametrize("words", ["nvidia apple", "nvidea", "780m", "", "none", "17x3060"])
def test_words_that_choose_nothing_are_an_error(words: str) -> None:
    """Nothing left, or an unknown word, is one error of ours."""
    with pytest.raises(GpuError):
        which(MODEL, ASKED, gpus=words)


def test_which_on_the_command_line() -> None:
    """Filter and order are options; text has three tables with GB/s and a bound, JSON the figures."""
    args = ["which", str(QWEN), "--ctx", "65536", "--max-cards", "1"]
    text = CliRunner().invoke(main, args).output
    assert text.index("Radeon PRO W7800") < text.index("Jetson AGX Orin 32GB")
    assert "GB/s" in text
    found = json.loads(
        CliRunner().invoke(main, [*args, "--gpus", "nvidia", "--sort", "speed", "--json"]).output
    )
    assert found["sort"] == "speed"
    cards = [c for c in found["carriers"] if not c["built_in"]]
    rates = [c["tokens_per_second"] for c in cards]
    assert rates == sorted(rates, reverse=True)
    assert {c["backend"] for c in cards} == {"cuda"}
    assert all(len(c["bandwidth_gbs"]) == len(c["gpus"]) for c in cards)
