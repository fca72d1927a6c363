"""Recurrent states to go back to, which speculative decoding asks for: graphs and caches as the engine has them.

`python -m tools.graphs record --states` makes the digests, of the headers that `test_builders` has.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache

import pytest
from conftest import ROOT

import vramfit
from vramfit._estimate.estimate import estimate
from vramfit._gguf import parse
from vramfit._llama.arch import describe
from vramfit._llama.arch.table import ROLLBACK
from vramfit._llama.model import Model

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.graphs.cases import SETTINGS, beside, cases, reservations
from tools.graphs.digest import FOLDER, digest, digests, header_of
from tools.graphs.ours import graph_of
from tools.graphs.record import GOES_BACK, STATES

RECORDED = digests(file=STATES)
EVERY_DAY = ("one card", "four streams, no flash attention", "half of the layers, small batch")


@cache
def model_of(name: str) -> Model:
    return describe(parse(header_of(name), name=name), source=name)


def unlike(name: str, chosen: tuple[str, ...]) -> list[str]:
    """Settings and reservations whose graph is not the engine's."""
    found = []
    for case in cases(FOLDER / name, model_of(name), beside({x: SETTINGS[x] for x in chosen}, **GOES_BACK)):
        assert case.context.n_rs_seq
        for number, (run, want) in enumerate(
            zip(reservations(case), RECORDED[name][case.name], strict=False)
        ):
            built = run._replace(fused=frozenset(want.fused or run.fused))
            if digest(graph_of(case.model, built, case.placement).graph, True) != want.digest:
                found.append(f"{case.name}, reservation {number}")
    return found


@pytest.mark.parametrize("name", RECORDED)
def test_graphs_with_states_to_go_back_to_are_the_engines(name: str) -> None:
    """Node for node: what a batch puts aside, and what it begins with."""
    assert unlike(name, EVERY_DAY) == []


@pytest.mark.oracle
@pytest.mark.parametrize("name", RECORDED)
def test_they_are_so_under_all_settings(name: str) -> None:
    """The same under every setting of a proof."""
    assert unlike(name, tuple(x for x, found in RECORDED[name].items() if found)) == []


def test_all_that_keep_states_were_compared() -> None:
    """Whoever can go back has digests, and exact figures; whoever cannot takes no more for being asked."""
    assert {model_of(name).architecture for name in RECORDED} == set(ROLLBACK)
    card = vramfit.Gpu("card", 100 << 30, compute_capability="8.6")
    plain = vramfit.Settings(n_ctx=2048, n_outputs_max=4, flash_attn="on")
    back = replace(plain, **GOES_BACK)  # type: ignore[arg-type]
    for name, grows in (("lfm2", True), ("qwen3next", False)):
        before, after = (estimate(model_of(name), [card], told) for told in (plain, back))
        assert after.exact
        assert (after.gpus[0].context > before.gpus[0].context) == grows
