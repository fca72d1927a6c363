"""Alternatives are plans: what they say fits does, and a preference gives up no more than it must."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, mixture

from vramfit._base.errors import SettingsError
from vramfit._devices import Gpu
from vramfit._engines.choose import plan_for
from vramfit._engines.server import parse_command
from vramfit._estimate.estimate import estimate
from vramfit._llama.flags import read, split_text
from vramfit._llama.model import Model
from vramfit._llama.params import EXPERTS, Settings
from vramfit._planner.plan import Plan, plan
from vramfit._planner.whatif import PREFERENCES, Alternative, Alternatives, best, trades
from vramfit._planner.whatif.changes import cache_pairs, flags, ubatches
from vramfit._planner.whatif.nouns import by_preference, cache_bits
from vramfit._report.alternatives import alternatives_text, worth_showing

MARGIN = 8 << 20
PLAIN = dense(4, n_embd=512, n_ff=1024, n_vocab=4096, n_head=8, n_head_kv=4, n_ctx_train=1 << 15)
EXPERT = mixture(PLAIN, first=1)
MODEL_LAYERS = PLAIN.n_layer + 1  # the output layer counts
WINDOWED = dense(4, window=1000, swa_layers=2, n_ctx_train=1 << 15)
MODELS = st.sampled_from([PLAIN, EXPERT, WINDOWED])
CARDS = st.lists(st.integers(50, 450), min_size=1, max_size=2)
SETTINGS = st.builds(
    Settings,
    n_ctx=st.sampled_from([0, 4096, 20000]),
    flash_attn=st.sampled_from(["on", "off"]),
    n_seq_max=st.sampled_from([1, 3]),
    kv_unified=st.booleans(),
    n_outputs_max=st.just(3),
)
ON = Settings(flash_attn="on", n_outputs_max=1)


def cards(mib: list[int]) -> list[Gpu]:
    return [gpu(n, name=f"card {i}") for i, n in enumerate(mib)]


def leaves_the_margin(model: Model, gpus: list[Gpu], settings: Settings) -> bool:
    return all(g.left >= MARGIN for g in estimate(model, gpus, settings).gpus if g.total)


@examples(10)
@given(MODELS, CARDS, SETTINGS)
def test_what_is_said_to_fit_passes_the_estimate(model: Model, mib: list[int], settings: Settings) -> None:
    """Every alternative's own settings, estimated, leave the margin exactly where it says that it fits."""
    for row in trades(model, cards(mib), settings, margin_bytes=MARGIN, brief=True).rows:
        assert row.fits == leaves_the_margin(model, cards(mib), row.plan.settings)


@examples(10)
@given(MODELS, CARDS, SETTINGS)
def test_an_alternative_is_the_plan_of_its_settings(model: Model, mib: list[int], settings: Settings) -> None:
    """No alternative promises more, or less, than `plan` finds for the settings that it names."""
    found = trades(model, cards(mib), settings, margin_bytes=MARGIN, brief=True)
    for row in found.rows:
        changed = replace(row.plan.settings, n_ctx=0, tensor_split=())
        if settings.n_ctx:
            changed = replace(changed, n_ctx=row.plan.n_ctx)
        again = plan(model, cards(mib), changed, margin_bytes=MARGIN)
        assert (again.n_ctx, again.fits) == (row.plan.n_ctx, row.fits)
        assert row.before == (found.asked.estimate.n_ctx_seq if found.asked.fits else 0)


@examples(10)
@given(MODELS, CARDS, SETTINGS, st.sampled_from(PREFERENCES))
def test_the_best_fits_and_is_never_less_than_as_asked(
    model: Model, mib: list[int], settings: Settings, prefer: str
) -> None:
    """What a preference picks fits if anything as asked did, and has no less context a slot."""
    asked = plan(model, cards(mib), settings, margin_bytes=MARGIN)
    found = best(model, cards(mib), settings, prefer=prefer, margin_bytes=MARGIN)
    assert found.fits >= asked.fits
    assert found.fits == leaves_the_margin(model, cards(mib), found.plan.settings)
    assert found.n_ctx >= (asked.estimate.n_ctx_seq if asked.fits else 0)


@examples(10)
@given(MODELS, CARDS, SETTINGS)
def test_each_preference_is_best_at_what_it_prefers(model: Model, mib: list[int], settings: Settings) -> None:
    """Of the three, none leaves the host less to read than "speed", none has a wider cache than "quality",
    none more context than "context"."""
    found = {p: best(model, cards(mib), settings, prefer=p, margin_bytes=MARGIN) for p in PREFERENCES}
    reaching = [row for row in found.values() if row.fits]
    if not reaching:
        return
    assert all(found["speed"].host_bytes <= row.host_bytes for row in reaching)
    assert all(cache_bits(found["quality"].plan.settings) >= cache_bits(r.plan.settings) for r in reaching)
    assert all(found["context"].n_ctx >= row.n_ctx for row in reaching)


@pytest.mark.parametrize("slots", [1, 3])
def test_the_longest_context_may_lie_on_the_way_to_the_host(slots: int) -> None:
    """Where all on the host carries less than a part of it, for the copies of weights, "context" still has most."""
    asked = replace(ON, n_seq_max=slots)
    found = {p: best(EXPERT, cards([62, 100]), asked, prefer=p, margin_bytes=MARGIN) for p in PREFERENCES}
    assert found["context"].n_ctx == max(row.n_ctx for row in found.values()) > 768


@pytest.mark.parametrize("mib", [130, 150, 190])
def test_no_combination_leaves_the_host_less(mib: int) -> None:
    """Every combination of layers, batch and cache types, tried one by one: if one carries the context without the
    host, "speed" takes that of the largest batch, then of the widest cache; else the largest batch comes before
    as few layers on the host as will do, and these before the cache."""
    asked = replace(ON, n_ctx=8192)

    def kept(s: Settings) -> tuple[bool, int, int, int]:
        layers = MODEL_LAYERS if s.n_gpu_layers < 0 else s.n_gpu_layers
        return layers == MODEL_LAYERS, s.n_ubatch, layers, cache_bits(s)

    carrying = [
        kept(settings)
        for n_gpu_layers, n_ubatch, (k, v) in product(
            range(MODEL_LAYERS + 1), ubatches(asked), cache_pairs(PLAIN, asked)
        )
        for settings in [replace(asked, n_gpu_layers=n_gpu_layers, n_ubatch=n_ubatch, type_k=k, type_v=v)]
        if leaves_the_margin(PLAIN, cards([mib]), settings)
    ]
    found = best(PLAIN, cards([mib]), asked, prefer="speed", margin_bytes=MARGIN)
    if not found.plan.settings.offload_kqv:
        pytest.skip("the cache on the host is less for it to read than layers are")
    assert kept(found.plan.settings) == max(carrying)


@examples(10)
@given(MODELS, CARDS, SETTINGS, st.sampled_from(PREFERENCES))
def test_rows_are_in_the_order_of_the_preference(
    model: Model, mib: list[int], settings: Settings, prefer: str
) -> None:
    """A preference sorts the rows, what fits first, and changes none of them."""
    plain = trades(model, cards(mib), settings, margin_bytes=MARGIN, brief=True)
    found = trades(model, cards(mib), settings, margin_bytes=MARGIN, prefer=prefer, brief=True)
    assert {(r.flags, r.n_ctx) for r in found.rows} == {(r.flags, r.n_ctx) for r in plain.rows}
    fits = [row.fits for row in found.rows]
    assert fits == sorted(fits, reverse=True)
    if prefer == "context":
        assert [r.n_ctx for r in found.rows] == sorted((r.n_ctx for r in found.rows), reverse=True)


def pasted(text: str, asked: Settings) -> Settings:
    """`asked` with the flags as the command line reads them."""
    return replace(asked, **read(split_text(text)).given)


@pytest.mark.parametrize("model", [PLAIN, EXPERT])
def test_flags_pasted_back_give_the_settings(model: Model) -> None:
    """The command line reads each alternative's flags as the settings that were planned."""
    asked = replace(ON, flash_attn="off", n_seq_max=2)
    for row in trades(model, cards([200]), asked, margin_bytes=MARGIN, brief=True).rows:
        made = replace(row.plan.settings, n_ctx=0, tensor_split=(), n_outputs_max=1)
        assert pasted(row.flags, asked) == made, row.flags


def test_the_command_of_an_alternative_says_its_settings() -> None:
    """llama-server's command line for single experts on the host, read back, is what was planned."""
    asked = replace(ON, n_ctx=4096)
    rows = trades(EXPERT, cards([220]), asked, margin_bytes=MARGIN, brief=True).rows
    assert any("-ncmoe" in row.flags or "-ot" in row.flags for row in rows)
    for row in rows:
        assert parse_command(row.plan.command("llama-server")) == row.plan.settings


def kinds(found: Alternatives, kind: str) -> list[Alternative]:
    return [row for row in found.rows if row.kind == kind]


def test_every_pair_that_the_engine_accepts_is_there() -> None:
    """All pairs of types that are no wider; where flash attention was off, a quantized V switches it on."""
    off = replace(ON, flash_attn="off")
    found = kinds(trades(PLAIN, cards([200]), off, margin_bytes=MARGIN), "cache types")
    assert len(found) == 35
    assert all(("-fa on" in row.flags) == ("-ctv" in row.flags) for row in found)
    assert len(cache_pairs(PLAIN, replace(ON, type_k="q8_0", type_v="q4_1"))) == 5 * 2
    alike = kinds(
        trades(replace(PLAIN, same_kv_type=True), cards([200]), ON, margin_bytes=MARGIN), "cache types"
    )
    assert {(r.plan.settings.type_k == r.plan.settings.type_v) for r in alike} == {True}


def test_a_narrower_cache_carries_more_and_says_what_is_known() -> None:
    """q8_0 for both has a published measure and the source's model by name; a mixed pair says that it has none."""
    rows = {r.flags: r for r in trades(PLAIN, cards([200]), ON, margin_bytes=MARGIN).rows}
    both, one = rows["-ctk q8_0 -ctv q8_0"], rows["-ctv q8_0"]
    assert both.n_ctx > one.n_ctx > one.before > 0
    assert both.measure is not None
    assert "KLD 0.0010 on Llama 3 8B" in both.costs[0]
    assert one.measure is None
    assert "no measure is published" in one.costs[0]


def test_the_fewest_experts_are_on_the_host() -> None:
    """As many layers of experts stay on the cards as can; of the last one only the tensors that must go."""
    asked = replace(ON, n_ctx=4096)
    need = sum(g.total for g in estimate(EXPERT, cards([4000]), asked).gpus)
    mib = (need + MARGIN - (1 << 20) >> 20) - 4
    found = kinds(trades(EXPERT, cards([mib]), asked, margin_bytes=MARGIN), "experts on the host")
    assert len(found) == 1
    assert found[0].fits
    assert re.search(r"-ot 'blk\\\.\d+\\\.ffn_\w+_exps\\\.weight=CPU'", found[0].flags), found[0].flags
    assert found[0].host_bytes > 0
    assert re.fullmatch(r"slower: .* of weights on the host, .* read a token", found[0].costs[0])


def test_one_layer_more_on_the_cards_does_not_fit() -> None:
    """The row of `-ngl` has the largest number that carries the context."""
    asked = replace(ON, n_ctx=1 << 14)
    (row,) = kinds(trades(PLAIN, cards([220]), asked, margin_bytes=MARGIN, brief=True), "layers on the host")
    assert row.fits
    more = replace(asked, n_gpu_layers=row.plan.settings.n_gpu_layers + 1)
    assert not plan(PLAIN, cards([220]), more, margin_bytes=MARGIN).fits


def test_slots_are_compared_by_what_each_has() -> None:
    """One slot in place of four carries four times the context of one, where the cache is divided among them."""
    asked = replace(ON, n_seq_max=4, n_outputs_max=4)
    (row,) = kinds(trades(PLAIN, cards([200]), asked, margin_bytes=MARGIN), "slots")
    assert row.flags == "-np 1"
    assert row.n_ctx > 3 * row.before > 0
    assert row.costs == ("one sequence at a time, not 4",)
    limited = trades(PLAIN, cards([200]), asked, margin_bytes=MARGIN, max_ctx=4 * 4096)
    assert all(row.n_ctx <= 4096 for row in limited.rows)


def test_one_slot_is_not_offered_again() -> None:
    """Where there is one slot, no alternative says so; a context that the engine pads is no change."""
    found = trades(PLAIN, cards([200]), replace(ON, n_ctx=20000), margin_bytes=MARGIN)
    assert found.rows
    assert all(row.flags and row.kind != "slots" for row in found.rows)


def test_nothing_is_traded_for_nothing() -> None:
    """Where the context is as long as it may get, or no card holds anything, there are no alternatives."""
    assert trades(PLAIN, cards([4000]), ON).rows == ()
    assert trades(PLAIN, [], ON).rows == ()
    unchanged = best(PLAIN, cards([4000]), ON, prefer="context")
    assert (unchanged.flags, unchanged.costs, unchanged.fits) == ("", (), True)
    assert best(PLAIN, cards([20]), replace(ON, n_ctx=1 << 15), margin_bytes=1 << 30).flags == ""


def test_the_two_that_buy_most() -> None:
    """One of each kind, the largest gain first, and what burdens the host behind what does not."""
    found = trades(PLAIN, cards([200]), ON, margin_bytes=MARGIN)
    first, second = found.most()
    assert {first.kind, second.kind} == {"cache types", "physical batch"}
    assert first.n_ctx >= second.n_ctx
    assert first.gain == max(r.gain for r in found.rows if not r.host_bytes)
    assert len({row.kind for row in found.most(9)}) == len(found.most(9)) > 2


def test_an_engine_is_asked_what_it_can_be_told() -> None:
    """With an engine's planner, alternatives that it cannot be told are left out."""

    def old_ollama(settings: Settings, max_ctx: int | None) -> Plan:
        given = {"margin_bytes": MARGIN, "max_ctx": max_ctx}
        return plan_for(PLAIN, cards([200]), settings, "ollama-before-0.30", **given, compare=False)  # type: ignore[arg-type]

    asked = replace(ON, n_batch=512, n_outputs_max=0)
    found = trades(PLAIN, cards([200]), asked, planner=old_ollama)
    types = {(r.plan.settings.type_k, r.plan.settings.type_v) for r in kinds(found, "cache types")}
    assert types == {("q8_0", "q8_0"), ("q4_0", "q4_0")}
    assert not any("-nkvo" in row.flags for row in found.rows)


def test_experts_that_are_on_the_host_already_stay() -> None:
    """Alternatives start from what was asked: more experts than that, never fewer; none where all are there."""
    some = replace(ON, cpu_tensors=(rf"blk\.0{EXPERTS}", rf"blk\.1{EXPERTS}"))
    for row in trades(EXPERT, cards([200]), some, margin_bytes=MARGIN, brief=True).rows:
        assert set(some.cpu_tensors) <= set(row.plan.settings.cpu_tensors)
    every = replace(ON, cpu_tensors=(EXPERTS,))
    assert not kinds(
        trades(EXPERT, cards([200]), every, margin_bytes=MARGIN, brief=True), "experts on the host"
    )


def test_words() -> None:
    """Batches halve down to 64, nothing changed is no flag, and what makes no sense is an error."""
    assert ubatches(Settings(n_ubatch=0, n_batch=512)) == (512, 256, 128, 64)
    assert ubatches(Settings(n_ubatch=32)) == (32,)
    assert flags(ON, replace(ON, n_ctx=77, tensor_split=(1, 2))) == ""
    with pytest.raises(SettingsError, match="prefer='size'"):
        best(PLAIN, cards([200]), prefer="size")
    with pytest.raises(SettingsError, match="host_bandwidth_gbs"):
        trades(PLAIN, cards([200]), host_bandwidth_gbs=0)


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_sorting_puts_what_fits_first(prefer: str) -> None:
    """An alternative that does not fit comes behind every one that does, whatever it would keep."""
    small = best(PLAIN, cards([200]), replace(ON, n_ctx=4096), margin_bytes=MARGIN)
    large = best(PLAIN, cards([20]), replace(ON, n_ctx=4096), margin_bytes=1 << 30)
    assert small.fits > large.fits
    assert by_preference(small, prefer) < by_preference(large, prefer)  # type: ignore[arg-type]


def test_the_page_says_what_is_of_no_use() -> None:
    """Changes without gain are named in one line, and contexts from bounds are called that."""
    found = trades(PLAIN, cards([190]), replace(ON, n_ctx=1 << 14), margin_bytes=MARGIN)
    text = alternatives_text(found)
    idle = [row for row in found.rows if row.kind == "cache types" and row.gain <= 0]
    assert idle
    assert f"cache types ({len(idle)})" in text.split("Tried without gain: ")[1]
    assert "upper bound where not exact" in text
    fast = [replace(g, bandwidth_gbs=900.0) for g in cards([220])]
    with_rates = trades(PLAIN, fast, replace(ON, n_ctx=1 << 14), margin_bytes=MARGIN, host_bandwidth_gbs=50)
    assert "tokens/s: memory bandwidth" in alternatives_text(with_rates)
    assert all(row.tokens_per_second for row in with_rates.rows)


def test_the_short_page_has_the_first_of_each_kind() -> None:
    """One row a kind, in the order of the rows."""
    found = trades(PLAIN, cards([200]), ON, margin_bytes=MARGIN, brief=True)
    text = alternatives_text(found, brief=True)
    first = {row.kind: row.flags for row in reversed(found.useful)}
    assert [line.split("  ")[0] for line in text.splitlines()[4:]] == list(first.values())[::-1]


def test_of_pairs_as_wide_the_page_shows_the_wider_k() -> None:
    """The page has one row for each width of a pair, that of the wider K; the rows have them all."""
    found = trades(PLAIN, cards([200]), ON, margin_bytes=MARGIN)
    assert "-ctk q4_0 -ctv q8_0" in {row.flags for row in found.rows}
    text = alternatives_text(found, everything=True)
    assert "-ctk q8_0 -ctv q4_0" in text
    assert "-ctk q4_0 -ctv q8_0" not in text


def test_the_page_has_what_a_person_can_choose_among() -> None:
    """Of cache types those measured, the first and the one that carries most; of other kinds all; the rest is counted."""
    found = trades(PLAIN, cards([200]), ON, margin_bytes=MARGIN)
    everything = worth_showing(found, everything=True)
    shown = worth_showing(found)
    caches = [row for row in everything if row.kind == "cache types"]
    most = max(caches, key=lambda row: row.n_ctx)
    assert [row for row in shown if row.kind != "cache types"] == [r for r in everything if r not in caches]
    assert {row.flags for row in shown if row.kind == "cache types"} == {
        caches[0].flags, most.flags, *(row.flags for row in caches if row.measure)
    }  # fmt: skip
    missing = len(everything) - len(shown)
    assert missing > len(shown) / 2
    assert f"... and {missing} more, whose cost nobody has published; --all lists them." in alternatives_text(
        found
    )
    assert "--all" not in alternatives_text(found, everything=True)
    assert "--all" not in alternatives_text(found, brief=True)


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_nothing_is_moved_to_a_host_that_is_the_same_memory(prefer: str) -> None:
    """Cards that share the system's memory gain nothing from the host: no row and no preference moves there."""
    asked = replace(ON, n_ctx=4096)
    need = sum(g.total for g in estimate(EXPERT, cards([4000]), asked).gpus)
    own = cards([need // 2 >> 20])
    shared = [replace(own[0], unified=True)]
    assert any("host" in row.kind for row in trades(EXPERT, own, asked, margin_bytes=MARGIN).rows)
    assert not any("host" in row.kind for row in trades(EXPERT, shared, asked, margin_bytes=MARGIN).rows)
    assert best(EXPERT, own, asked, prefer=prefer, margin_bytes=MARGIN).fits
    chosen = best(EXPERT, shared, asked, prefer=prefer, margin_bytes=MARGIN)
    assert not chosen.fits
    assert not chosen.plan.settings.cpu_tensors
