"""Bounds of a plan's speed: the least that has to be read and computed, never more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from small import dense, gpu
from test_speed import output_and_layers, with_experts

import vramfit
from vramfit._cli import main
from vramfit._llama.model import Cache, Cells, Model
from vramfit._llama.params import Settings
from vramfit._planner.bounds import LinkTerm, Speed, speed, speed_of
from vramfit._planner.plan import Plan, plan
from vramfit._planner.speed import active_bytes, decode_limit
from vramfit._report.html import fragment, page
from vramfit._report.speeds import speed_sentence, speed_text

GB = 10**9
QWEN = str(Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf")


def made(model: Model, rates: list[float | None], **values: Any) -> Plan:
    given_ = {"n_ctx": 512, "n_ubatch": 64, "flash_attn": "on", **values}
    cards = [replace(gpu(4096, name=f"card {i}"), bandwidth_gbs=rate) for i, rate in enumerate(rates)]
    return plan(model, cards, Settings(**given_), margin_bytes=0)


def test_decoding_is_bounded_as_everywhere_else() -> None:
    """At an empty cache the bound is the one that alternatives and comparisons show."""
    found = made(dense(4), [100])
    bound = speed(found)
    assert bound.decode == decode_limit(found.model, found.estimate.placement, found.gpus)
    assert [t.weights for t in bound.terms] == list(active_bytes(found.model, found.estimate.placement))


def test_a_full_context_reads_its_cache() -> None:
    model = dense(4)
    bound = speed(made(model, [100]))
    cache = sum(2 * (c.k_width + c.v_width) for layer in model.layers for c in layer.caches) * 512
    assert bound.terms[0].cache == cache
    assert bound.n_ctx == 512
    assert bound.decode_full == pytest.approx(100 * GB / (output_and_layers(model) + cache))


@pytest.mark.parametrize(
    ("caches", "cells"),
    [
        ((Cache("kv", 8, 8),), 512),
        ((Cache("kv", 8, 8, Cells.WINDOW, window=100),), 100),
        ((Cache("kv", 8, 8, Cells.WINDOW, window=9999),), 512),
        ((Cache("kv", 8, 8, Cells.COMPRESSED, ratio=4),), 128),
        ((Cache("csa", 8, 8),), 0),
        ((Cache("kv", 64, 64), Cache("indexer", 16, 0, has_v=False)), 512),
    ],
)
def test_no_more_of_a_cache_counts_than_attention_must_look_at(caches: tuple[Cache, ...], cells: int) -> None:
    """Of a window what is in it; where cells are chosen, the keys of the choice alone: rows of 32 bytes in f16."""
    model = dense(1)
    model = replace(model, layers=(replace(model.layers[0], caches=caches),))
    found = made(dense(1), [100])
    bound = speed_of(replace(found, model=model))
    assert bound.terms[0].cache == cells * 32


def test_a_prompt_reads_its_layers_once_a_batch() -> None:
    """Logits are made of the last token: the output layer is not read for the others."""
    model = dense(4)
    output = (
        sum(w.tensor.n_bytes for w in model.weights if not isinstance(w.home, int)) - model.tensors[0].n_bytes
    )
    bound = speed(made(model, [100]))
    assert bound.terms[0].batch == output_and_layers(model) - output
    assert bound.prompt == pytest.approx(64 * 100 * GB / bound.terms[0].batch)
    assert (bound.n_ubatch, bound.pipelined) == (64, False)


def test_cards_read_a_prompt_at_the_same_time() -> None:
    """Where the engine pipelines batches the slowest card counts; else their times add up."""
    bound = speed(made(dense(4), [100, 50], tensor_split=(2, 3)))
    slow = max(t.batch / t.gbs for t in bound.terms if t.gbs)
    assert bound.pipelined
    assert bound.prompt == pytest.approx(64 * GB / slow)
    one = speed(made(dense(4), [100, 50], tensor_split=(2, 3), offload_kqv=False), 10)
    assert not one.pipelined
    assert one.prompt == pytest.approx(64 * GB / sum(t.batch / t.gbs for t in one.terms if t.gbs))
    assert one.terms[-1].cache > 0


def test_only_experts_in_use_are_computed() -> None:
    bound = speed_of(
        replace(
            made(dense(1), [100]), model=with_experts(8, 2), estimate=made(with_experts(8, 2), [100]).estimate
        )
    )
    assert (
        bound.terms[0].weights
        == active_bytes(with_experts(8, 2), made(with_experts(8, 2), [100]).estimate.placement)[0]
    )
    fewer = speed_of(made(dense(1), [100]))
    assert bound.terms[0].flops - fewer.terms[0].flops == 2 * 3 * 256 * 512  # two experts and a chunk


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 4000), st.floats(0.001, 1000), st.floats(0, 0.1))
def test_more_terms_are_never_faster(gbs: float, tflops: float, wait: float) -> None:
    """Computing and links only slow down, and a full context is never faster than an empty one."""
    found = made(dense(2), [gbs])
    plain = speed_of(found)
    more = speed_of(found, links=[LinkTerm("link", wait, wait)], tflops=[tflops])
    for name in ("decode", "decode_full", "prompt"):
        assert getattr(more, name) <= getattr(plain, name) * (1 + 1e-12)
    assert plain.decode is not None
    assert plain.decode_full is not None
    assert plain.decode_full <= plain.decode


def test_computing_counts_where_it_is_known() -> None:
    found = made(dense(2), [1000])
    bound = speed_of(found, tflops=[0.001])
    assert bound.prompt == pytest.approx(1e9 / bound.terms[0].flops)
    assert bound.missing == ()
    assert "and what has to be computed" in speed_sentence(bound)


def test_what_is_not_known_is_named() -> None:
    """No figure without a bandwidth; computing is missing from every figure, and said to be."""
    half = made(dense(4), [100], n_gpu_layers=2)
    bound = speed(half)
    assert (bound.decode, bound.prompt) == (None, None)
    assert bound.missing[0] == "the memory bandwidth of the host is not known"
    assert speed_sentence(bound).endswith("--host-bandwidth GB/S names it.")
    assert speed(half, 50).missing == ("computing is not counted: no rate is known of card 0 and the host",)
    card = speed(made(dense(4), [None]))
    assert speed_sentence(card) == "No bound for the speed: the memory bandwidth of card 0 is not known."


def test_a_model_that_does_not_decode_has_no_such_bound() -> None:
    found = made(dense(2), [100])
    bound = speed_of(replace(found, model=replace(found.model, has_cache=False)))
    assert (bound.decode, bound.decode_full) == (None, None)
    assert speed_sentence(bound).startswith("Speed: at most ")
    assert "decoding" not in speed_sentence(bound)


def test_links_are_terms() -> None:
    found = made(dense(2), [100])
    bound = speed_of(found, links=[LinkTerm("network to mini", 0.002, 0.1)])
    assert bound.decode == pytest.approx(1 / (1 / (speed_of(found).decode or 0) + 0.002))
    assert "network to mini 2 ms" in speed_sentence(bound)
    assert "network to mini" in speed_text(bound)
    assert bound.to_dict()["links"] == [
        {"name": "network to mini", "token_seconds": 0.002, "batch_seconds": 0.1}
    ]


def test_a_plan_shows_its_bounds() -> None:
    """In text, JSON and HTML; a plan that does not fit has none."""
    found = made(dense(4), [100])
    bound = speed(found)
    assert speed_sentence(bound) in str(found)
    assert found.to_dict()["speed"] == bound.to_dict()
    assert "what the bounds are made of" in fragment(found)
    assert "card 0" in str(bound)
    assert "what the bounds are made of" in bound._repr_html_()
    short = replace(found, fits=False)
    assert short.to_dict()["speed"] is None
    assert "Speed:" not in str(short)
    assert "50 GB/s" in page(made(dense(4), [100], n_gpu_layers=2), None, 50)


def test_the_command_takes_the_hosts_bandwidth() -> None:
    words = ["plan", QWEN, "--gpus", "3060-12gb", "-ngl", "20", "--ctx", "4096", "-fa", "on"]
    bound = json.loads(CliRunner().invoke(main, [*words, "--json"]).output)["speed"]
    assert bound["decode"] is None
    known = json.loads(CliRunner().invoke(main, [*words, "--json", "--host-bandwidth", "60"]).output)["speed"]
    assert known["decode"] == pytest.approx(1 / sum(t["weights"] / t["gbs"] / 1e9 for t in known["terms"]))
    assert vramfit.SpeedJson(**known).terms[1].gbs == 60


@pytest.mark.parametrize("wrong", [None, 7, "plan"])
def test_anything_but_a_plan_is_refused(wrong: Any) -> None:
    with pytest.raises(vramfit.SettingsError, match="give a Plan"):
        vramfit.speed(wrong)
    with pytest.raises(vramfit.SettingsError, match="host_bandwidth_gbs=0"):
        vramfit.speed(made(dense(1), [100]), 0)


def test_small_rates_keep_their_digits() -> None:
    bound = Speed(0.123, None, None, 512, 64, False, ())
    assert "0.12 tokens/s decoding" in speed_sentence(bound)
    assert (
        speed_sentence(replace(bound, decode=None)) == "No bound for the speed: nothing is known to be read."
    )
