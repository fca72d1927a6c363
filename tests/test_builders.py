"""Every builder against digests of the engine's graphs, and what holds of all of them.

`python -m tools.graphs record` makes the data: for each architecture a small header, and digests of the graphs that
the engine builds for it. A digest holds all that `tools.graphs.compare` compares, so equal digests are equal graphs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vramfit
from vramfit._base.errors import VramfitError
from vramfit._estimate.reserve import reserve_at_most, reserve_context
from vramfit._ggml.backends import BACKENDS
from vramfit._ggml.graph import HOST
from vramfit._gguf import parse
from vramfit._graphs import Instance, Run
from vramfit._graphs.attention import attend
from vramfit._graphs.context import GraphContext
from vramfit._graphs.models import architectures, builder_for, qwen2
from vramfit._graphs.parts import norm
from vramfit._llama.arch import describe
from vramfit._llama.arch.table import TABLE
from vramfit._llama.cparams import resolve
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._llama.placement import place

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.graphs.cases import SETTINGS, Case, cases, reservations  # noqa: E402
from tools.graphs.digest import FOLDER, digest, digests, header_of, names  # noqa: E402
from tools.graphs.draft import Draft  # noqa: E402
from tools.graphs.keys import false_switches, keys_read  # noqa: E402
from tools.graphs.ours import Unbuildable, graph_of  # noqa: E402
from tools.graphs.prove import collapse_difference  # noqa: E402
from tools.graphs.vary import SWITCHES  # noqa: E402

NAMES = names()
RECORDED = digests()
# Drafts: the engine makes no context of them without the model that they draft for.
NEVER_ALONE = {"gemma4-assistant"}
EVERY_DAY = ("one card", "four streams, no flash attention", "half of the layers, small batch")
COLLAPSED = ("no flash attention", "half of the layers")


@cache
def model_of(name: str) -> Model:
    return describe(parse(header_of(name), name=name), source=name)


def recorded_cases(name: str, chosen: tuple[str, ...]) -> Iterator[Case]:
    yield from cases(FOLDER / name, model_of(name), {x: SETTINGS[x] for x in chosen})


def unlike(name: str, chosen: tuple[str, ...]) -> list[str]:
    """Settings and reservations whose graph is not the engine's."""
    found = []
    for case in recorded_cases(name, chosen):
        wanted = RECORDED[name][case.name]
        for number, (run, want) in enumerate(zip(reservations(case) if wanted else (), wanted, strict=False)):
            built = run._replace(fused=frozenset(want.fused or run.fused))
            if digest(made(case, built).graph, case.placement.n_devices > 0) != want.digest:
                found.append(f"{case.name}, reservation {number}")
    return found


def made(case: Case, run: Run) -> Instance:
    return graph_of(case.model, run, case.placement)


def test_every_architecture_has_a_builder_and_digests() -> None:
    """What is loadable has a builder, no builder is of nothing, and all were compared with the engine's graphs."""
    assert [name for name in TABLE if builder_for(name) is None] == []
    assert set(architectures()) == {name.replace("-", "_") for name in TABLE}
    compared = {model_of(name).architecture for name in NAMES if any(RECORDED[name].values())}
    assert set(TABLE) - compared == NEVER_ALONE
    assert set(NAMES) == set(RECORDED)


def test_the_digests_are_of_the_settings_of_a_proof() -> None:
    """All settings were asked, and few were refused: those that the engine cannot reserve."""
    assert all(list(found) == list(SETTINGS) for found in RECORDED.values())
    refused = [(name, x) for name in NAMES for x, found in RECORDED[name].items() if not found]
    assert len(refused) < 0.03 * len(NAMES) * len(SETTINGS)


def test_the_data_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 600_000


@pytest.mark.parametrize("name", NAMES)
def test_a_builder_makes_the_graphs_of_the_engine(name: str) -> None:
    """Node for node, under settings that part most: streams, masks that are built, layers on two cards and the host."""
    assert unlike(name, EVERY_DAY) == []


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMES)
def test_a_builder_makes_the_graphs_of_the_engine_under_all_settings(name: str) -> None:
    assert unlike(name, tuple(SETTINGS)) == []


@pytest.mark.parametrize("name", NAMES)
def test_layers_stand_for_their_repeats(name: str) -> None:
    """Layers called repeats make the same nodes; those that stand for all, built alone, make what they make among all."""
    number = NAMES.index(name)
    for case in recorded_cases(name, COLLAPSED[number % 2 :][:1]):
        if RECORDED[name][case.name]:
            run = reservations(case)[number // 2 % 2]
            assert collapse_difference(case, run, made(case, run)) == ""


@pytest.mark.skipif("LLAMA_CPP_SOURCE" not in os.environ, reason="LLAMA_CPP_SOURCE names no tree")
@pytest.mark.parametrize("name", NAMES)
def test_no_builder_reads_what_the_engine_does_not(name: str) -> None:
    """A key that the engine does not load for the architecture decides nothing, whatever a header says."""
    source = pathlib.Path(os.environ["LLAMA_CPP_SOURCE"])
    assert false_switches(model_of(name), FOLDER / name, source) == []


# -- without a builder

# Graphs beyond the stand-in's idea of a model: streams that are projected and predicted, two stacks of layers, and
# one that is 0.1 % above it.
BEYOND = {"gemma3n", "hrm_text", "mistral4"}


@pytest.mark.oracle
@pytest.mark.parametrize("name", [n for n in NAMES if n not in BEYOND])
def test_a_stand_in_holds_no_less_than_the_graph(name: str) -> None:
    """What a model of unknown architecture is bounded by is no less than what its own graph needs, where it has one."""
    model = model_of(name)
    half, one_cache = max(1, model.n_layer // 2), model.architecture == "t5"  # the engine has no other of it
    off = Settings(n_ctx=4096, flash_attn="off", n_seq_max=2, kv_unified=one_cache, n_gpu_layers=half)
    for asked in (Settings(n_ctx=4096, flash_attn="on", n_outputs_max=1), off):
        placement = place(model, CARDS, asked)
        question = (model, placement, resolve(model, asked), [BACKENDS["cuda"]] * placement.n_devices)
        with suppress(Unbuildable):
            exact, most = reserve_context(*question), reserve_at_most(*question, stand_in=True)
            assert all(a <= b for a, b in zip(exact.needs, most.needs, strict=True))


# -- a broken builder is seen


def without_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        qwen2, "norm", lambda g, x, name, il=None: x if name == "ffn_norm" else norm(g, x, name, il)
    )


def without_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen2, "select", lambda g, rows, il, *tensors: tensors)


def with_keys_for_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen2, "attend", lambda g, kv, q, k, v, il: attend(g, kv, q, k, k, il))


def without_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphContext, "pin", lambda self, t, il: t)


def without_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphContext, "output", lambda self, t, name: t)


@pytest.mark.parametrize(
    "broken", [without_norm, without_selection, with_keys_for_values, without_pins, without_outputs]
)
def test_a_broken_builder_is_seen(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node, an edge, a pin or a flag that a builder forgets makes another digest."""
    assert unlike("qwen2", EVERY_DAY) == []
    broken(monkeypatch)
    assert "one card, reservation 0" in unlike("qwen2", EVERY_DAY)


def test_a_forgotten_trait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder that decides by the number of a layer, and does not say so, takes unlike layers for repeats."""
    found = builder_for("smollm3")
    assert found is not None
    assert found.traits is not None
    silent = found._replace(traits=None)
    monkeypatch.setattr("vramfit._graphs.builder_for", lambda architecture: silent)
    monkeypatch.setattr("tools.graphs.ours._LAST", [])
    case = next(recorded_cases("smollm3", ("one card",)))
    run = reservations(case)[0]
    assert "is taken for a repeat" in collapse_difference(case, run, made(case, run))


# -- whatever a header says

ODD: tuple[Any, ...] = (
    None, 0, 1, 2, 3, -1, -(2**31), 255, 2**20, 2**31 - 1, 2**32 - 1,
    0.0, 0.5, -1.0, 1e30, math.inf, -math.inf, math.nan, True, False, "", "none", [0], [1, 2], [0] * 8, [1] * 80,
)  # fmt: skip
CARDS = [vramfit.Gpu(name="card", total_bytes=1 << 34, free_bytes=1 << 34)] * 2
CPU_SECONDS = 1.0
# All but models that are whole, whose many layers take their time whatever a key says
FEW_LAYERS = [n for n in NAMES if not n.endswith(("GLM-5.3-Flash", "Ling-3.0-flash", "gemma-4-E2B-it"))]


@st.composite
def odd_headers(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A header's name, and one or two of its keys (or of those that others have) with odd values."""
    name = draw(st.sampled_from(FEW_LAYERS))
    own = sorted(model_of(name).hparams)
    keys = st.one_of(st.sampled_from(own), st.sampled_from(sorted(SWITCHES)))
    return name, draw(st.dictionaries(keys, st.sampled_from(ODD), min_size=1, max_size=2))


@cache
def read_by(name: str) -> list[str]:
    """Keys that the builder of a recorded header asks for."""
    return sorted(keys_read(model_of(name), FOLDER / name))


@st.composite
def odd_numbers(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A header's name, and odd values of keys that its builder asks for."""
    name = draw(st.sampled_from(FEW_LAYERS))
    return name, draw(
        st.dictionaries(
            st.sampled_from(read_by(name) or ["block_count"]), st.sampled_from(ODD), min_size=1, max_size=2
        )
    )


@given(odd_numbers())
@settings(max_examples=60, deadline=None)
def test_a_builder_raises_unbuildable_alone(odd: tuple[str, dict[str, Any]]) -> None:
    """Whatever a builder is told by a key that it reads, past the reader's checks: a graph or `Unbuildable`, and soon.

    (An `EngineRefusal` is for what is asked of a model, not for its keys.)
    """
    name, values = odd
    model = model_of(name)
    told = {k: v for k, v in {**model.hparams, **values}.items() if v is not None}
    case = next(cases(FOLDER / name, model, {"one card": SETTINGS["one card"]}))
    began = time.process_time()
    with suppress(Unbuildable):
        graph_of(dataclasses.replace(model, hparams=told), reservations(case)[0], case.placement)
    assert time.process_time() - began < CPU_SECONDS


@given(odd_headers())
@settings(max_examples=50, deadline=None)
def test_no_header_brings_a_builder_to_fall(odd: tuple[str, dict[str, Any]]) -> None:
    """Whatever a key says, there is a figure, a bound or our own refusal, and soon."""
    name, values = odd
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "odd.gguf")
        path.write_bytes(header_of(name))
        draft = Draft.read(path)
        for key, value in values.items():
            draft.put(key, value)
        draft.write(path)
        began = time.process_time()
        with suppress(VramfitError):
            assert vramfit.estimate(path, CARDS, vramfit.Settings(n_ctx=4096)).host.total > 0
        assert time.process_time() - began < CPU_SECONDS


def test_a_builder_says_what_it_cannot_build() -> None:
    """Where the engine would stop, a builder does: with `Unbuildable`, not with what Python raises."""
    model = model_of("qwen2")
    weights = tuple(w for w in model.weights if w.tensor.name != "blk.3.ffn_down.weight")
    lacking = dataclasses.replace(model, weights=weights)
    case = next(cases(FOLDER, lacking, {"one card": SETTINGS["one card"]}))
    with pytest.raises(Unbuildable, match="ggml makes no ADD"):
        made(case, reservations(case)[0])


def test_places_are_devices_or_the_host() -> None:
    """Weights, caches and pins of every graph lie on a card or on the host."""
    case = next(recorded_cases("gemma4", ("half of the layers, small batch",)))
    tensors = made(case, reservations(case)[0]).graph.tensors
    assert {t.home for t in tensors if t.usage} == {HOST, 0, 1}
    assert {t.pinned for t in tensors} >= {0, 1}
