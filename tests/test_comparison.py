"""A comparison is one plan a choice, measures that were published, and the front of what fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.errors import SettingsError
from vramfit._llama.params import Settings
from vramfit._planner.compare import CACHES, TYPES, Choice, Comparison, _marked, compare
from vramfit._planner.plan import plan
from vramfit._planner.quality import Measure, cache_measure
from vramfit._quant import FILE_TYPES, bits_per_weight, file_bytes, requantize
from vramfit._report.comparisons import SHOWN, comparison_text, worth_showing

MODEL = dense(4, n_embd=512, n_ff=1024, n_ctx_train=1 << 17)
ON = Settings(flash_attn="on", n_outputs_max=1, n_ubatch=64)
MARGIN = 8 << 20


@examples(4)
@given(st.lists(st.integers(60, 400), min_size=1, max_size=2))
def test_each_choice_is_a_plan(mib: list[int]) -> None:
    """Context and size of a choice are those of planning the requantized model alone."""
    cards = [replace(gpu(n), bandwidth_gbs=100.0) for n in mib]
    found = compare(
        MODEL, cards, ON, file_types=["F16", "Q4_0"], cache_types=["f16", "q8_0/q4_0"], margin_bytes=MARGIN
    )
    assert [(c.file_type, c.type_k, c.type_v) for c in found.choices] == [
        (name, *pair) for name in ("F16", "Q4_0") for pair in (("f16", "f16"), ("q8_0", "q4_0"))
    ]
    for choice in found.choices:
        made = requantize(MODEL, choice.file_type)
        one = plan(made, cards, replace(ON, type_k=choice.type_k, type_v=choice.type_v), margin_bytes=MARGIN)
        assert (choice.n_ctx, choice.fits, choice.shortfall > 0) == (one.n_ctx, one.fits, one.shortfall > 0)
        assert sum(choice.tensor_split) == made.n_layer + 1
        assert (choice.file_bytes, choice.bits_per_weight) == (file_bytes(made), bits_per_weight(made))
        assert choice.tokens_per_second
    assert found.fits == any(c.fits for c in found.choices)


def choice(n_ctx: int, kld: float | None, cache: str, fits: bool) -> Choice:
    measure = None if kld is None else Measure(kld, 1.0, imatrix=False)
    published = cache_measure(cache, cache)
    return Choice("F16", cache, cache, n_ctx=n_ctx, fits=fits, measure=measure, cache_measure=published)


CHOICES = st.builds(
    choice,
    st.integers(1, 5).map(lambda n: n * 256),
    st.none() | st.integers(1, 5).map(lambda n: n / 1000),
    st.sampled_from(CACHES),
    st.booleans(),
)


@given(st.lists(CHOICES, max_size=12))
def test_the_front_is_what_nothing_beats(choices: list[Choice]) -> None:
    """On the front: fits, is measured, and no other such choice has as much context for as little KLD, or better.

    KLDs of weights and cache add up; a cache that nobody measured is not ranked, but where there is no other.
    """
    alike = len({c.type_k for c in choices}) == 1

    def key(c: Choice) -> tuple[int, float] | None:
        if not c.fits or c.measure is None or not (alike or c.cache_measure):
            return None
        return c.n_ctx, -c.measure.kld - (0 if alike else c.cache_measure.kld)  # type: ignore[union-attr]

    marked = list(_marked(choices))
    assert [replace(c, on_front=False) for c in marked] == choices
    ranked = [k for c in choices if (k := key(c))]
    for c in marked:
        mine = key(c)
        beaten = any(k != mine and k[0] >= mine[0] and k[1] >= mine[1] for k in ranked) if mine else True
        assert c.on_front == (not beaten)
    assert not ranked or any(c.on_front for c in marked)


def test_front_is_ordered_by_context() -> None:
    """`front` gives the marked choices, largest context first."""
    found = compare(MODEL, [gpu(400)], ON, file_types=["F16", "Q8_0"], margin_bytes=MARGIN)
    assert found.front
    assert [c.n_ctx for c in found.front] == sorted((c.n_ctx for c in found.front), reverse=True)


@given(st.lists(st.lists(CHOICES, min_size=1, max_size=6), min_size=1, max_size=6))
def test_what_is_worth_showing(types: list[list[Choice]]) -> None:
    """All of the front, each file type at least once and as good as it gets, few choices whole; `everything` all."""
    named = [replace(c, file_type=f"T{i}") for i, group in enumerate(types) for c in group]
    choices = [replace(c, file_bytes=i) for i, c in enumerate(named)]  # no two alike
    found = Comparison(MODEL, (), ON, 0, tuple(_marked(choices)))
    shown = worth_showing(found)
    assert set(found.front) <= set(shown)
    assert {c.file_type for c in shown} == {c.file_type for c in choices}
    assert list(shown) == [c for c in found.choices if c in shown]
    if len(choices) <= SHOWN:
        assert shown == found.choices
    for group in types if len(choices) > SHOWN else ():
        best = max((c.n_ctx for c in group if c.fits and c.cache_measure), default=0)
        assert not best or best in {c.n_ctx for c in shown if c.fits and c.cache_measure}
    missing = len(choices) - len(shown)
    assert (f"... and {missing} more" in comparison_text(found)) == bool(missing)
    assert "more" not in comparison_text(found, everything=True)


def test_the_usual_comparison_can_be_chosen_from() -> None:
    """Of the usual 39 choices fewer than half are shown."""
    found = compare(replace(MODEL, file_type="F16"), [gpu(400)], ON, margin_bytes=MARGIN)
    assert len(found.choices) == len(TYPES) * len(CACHES)
    assert len(TYPES) <= len(worth_showing(found)) < len(found.choices) / 2


def test_refused_choices_say_why() -> None:
    """Where the engine refuses a cache type the choice has a reason, and the rest goes on."""
    found = compare(
        MODEL, [gpu(400)], Settings(flash_attn="off"), file_types=["Q8_0"], cache_types=["f16", "q8_0"]
    )
    assert not found.choices[0].refused
    assert "flash_attn" in found.choices[1].refused
    assert not found.choices[1].fits


def test_defaults() -> None:
    """The usual types, and the file itself when its mix is none of them; the cache types that were asked for."""
    plain = compare(replace(MODEL, file_type="F16"), [gpu(400)], ON)
    assert [c.file_type for c in plain.choices[:: len(CACHES)]] == list(TYPES)
    own = compare(dense(4, weight_type="q5_0"), [gpu(400)], replace(ON, type_k="q8_0", type_v="q8_0"))
    assert [c.file_type for c in own.choices] == ["this file", *TYPES]
    assert {(c.type_k, c.type_v) for c in own.choices} == {("q8_0", "q8_0")}
    assert own.choices[0].measure is None


def test_every_file_type_can_be_compared() -> None:
    """All of llama-quantize's types give a choice, made or refused, and the useless ones are marked."""
    found = compare(dense(2), [gpu(400)], ON, file_types=tuple(FILE_TYPES), cache_types=["f16"])
    assert len(found.choices) == len(FILE_TYPES)
    assert all(c.refused or c.file_bytes for c in found.choices)
    marked = {c.file_type for c in found.choices if c.needs_imatrix}
    assert "IQ1_S" in marked
    assert "Q8_0" not in marked


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"file_types": ["Q9"]}, "Q9"),
        ({"cache_types": ["q9"]}, "q9"),
        ({"cache_types": ["q8_0/"]}, None),
        ({"cache_types": ["q8_0/x"]}, "q8_0/x"),
        ({"host_bandwidth_gbs": 0}, "host_bandwidth_gbs"),
        ({"margin_bytes": -1}, "margin_bytes"),
    ],
)
def test_what_makes_no_sense_is_an_error(arguments: dict[str, Any], word: str | None) -> None:
    """A wrong name or number is one error that names it; "q8_0/" means both."""
    arguments = {"file_types": ["Q8_0"], **arguments}
    if word is None:
        assert isinstance(compare(MODEL, [gpu(400)], ON, **arguments), Comparison)
        return
    with pytest.raises(SettingsError, match=word):
        compare(MODEL, [gpu(400)], ON, **arguments)
