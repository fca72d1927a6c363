"""A sweep is `estimate` at every point: equal where it says exact, never lower anywhere."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, shortened, with_states

from vramfit._base.errors import EngineRefusal, SettingsError
from vramfit._estimate import compute
from vramfit._estimate.context_ranges import NotStraight
from vramfit._estimate.estimate import Estimate, estimate
from vramfit._ggml.backends import HOST_BACKEND, backend
from vramfit._graphs import Unbuildable
from vramfit._llama.cparams import cells, resolve, resolve_counts
from vramfit._llama.memory import context_bytes
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._planner.sweep import Sweep, sweep
from vramfit._planner.sweep.curves import Ways, learn
from vramfit._planner.sweep.runs import Run, cut, distinct
from vramfit._quant import requantize
from vramfit._sources.load import read

EXAMPLES = ROOT / "examples"

SLIDING = dense(8, window=1000, swa_layers=5)
# one layer of each kind on a card: states depend on slots alone, windows on batches too, full caches on contexts
HYBRID = replace(SLIDING, layers=(*with_states(SLIDING, 640, 4096).layers[:3], *SLIDING.layers[3:]))
MODELS = st.sampled_from([dense(4), dense(6, tied=True), SLIDING, with_states(dense(3), 640, 4096), HYBRID])
CARDS = [gpu(2048, name="large"), gpu(1024, name="small")]
COUNTS = st.integers(1, 40_000)
SLOTS = st.integers(1, 16)
BATCHES = st.integers(1, 3000)
SETTINGS = st.builds(
    Settings,
    flash_attn=st.sampled_from(["on", "off", "auto"]),
    kv_unified=st.booleans(),
    swa_full=st.booleans(),
    offload_kqv=st.booleans(),
    n_gpu_layers=st.sampled_from([-1, 3]),
    n_batch=st.sampled_from([64, 2048]),
)


@given(MODELS, SETTINGS, st.lists(st.tuples(COUNTS, SLOTS, BATCHES), min_size=1, max_size=5))
def test_one_formula_serves_values_and_arrays(model: Any, settings: Settings, points: list[Any]) -> None:
    """Context bytes of an array are, element by element, those of each value alone."""
    arrays: list[Any] = [np.array(column, np.int64) for column in zip(*points, strict=True)]
    placement = place(model, CARDS, settings)
    rules = [backend("cuda")] * 2

    def sizes(context: Any) -> tuple[Any, ...]:
        found = context_bytes(model, placement, context, rules, HOST_BACKEND)
        return (*found.gpus, found.host)

    many = [np.broadcast_to(x, len(points)) for x in sizes(resolve_counts(model, settings, *arrays))]
    for i, (n_ctx, n_seq_max, n_ubatch) in enumerate(points):
        one = replace(settings, n_ctx=n_ctx, n_seq_max=n_seq_max, n_ubatch=n_ubatch)
        context = resolve(model, one)
        assert sizes(context) == tuple(int(x[i]) for x in many)
        assert all(type(x) is int for x in sizes(context))


def at(found: Sweep, row: dict[str, Any], settings: Settings) -> Estimate:
    """`estimate` of one row of a sweep."""
    i = found.categories["gpus"].index(row["gpus"])
    model = found.model if row["file_type"] == "as it is" else requantize(found.model, row["file_type"])
    names = ("n_ctx", "n_seq_max", "n_ubatch", "type_k", "type_v")
    return estimate(model, found.gpu_sets[i], replace(settings, **{name: row[name] for name in names}))


@examples(8)
@given(
    MODELS,
    st.builds(Settings, flash_attn=st.sampled_from(["on", "auto"]), n_gpu_layers=st.sampled_from([-1, 3])),
    st.lists(COUNTS, min_size=1, max_size=4),
    st.lists(SLOTS, min_size=1, max_size=2),
    st.lists(BATCHES, min_size=1, max_size=2),
    st.sampled_from([2, 3, None]),
)
def test_every_point_is_an_estimate(
    model: Any, settings: Settings, contexts: list[int], slots: list[int], batches: list[int], replays: Any
) -> None:
    """Weights and context are equal everywhere, compute where `exact` or all are replayed; else not below."""
    found = sweep(
        model, CARDS, settings, n_ctx=contexts, n_seq_max=slots, n_ubatch=batches, type_k=["f16", "q8_0"],
        file_types=["F16", "Q4_K_M"], gpu_sets=[[gpu(4096)], "none"], replays=replays, margin_bytes=1 << 20,
    )  # fmt: skip
    assert len(found) == len(contexts) * len(slots) * len(batches) * 2 * 2 * 3
    for row in found:
        one = at(found, row, settings)
        devices = [(f"gpu{i}", d) for i, d in enumerate(one.gpus)] + [("host", one.host)]
        for name, device in devices:
            assert row[f"{name}_model"] == device.model
            assert row[f"{name}_context"] == device.context
            assert int(row[f"{name}_compute"]) >= device.compute
            if replays is None or row["exact"]:
                assert row[f"{name}_compute"] == device.compute
        assert not row["exact"] or one.exact
        if replays is None:
            assert row["fits"] == all(g.left >= 1 << 20 for g in one.gpus if g.total)
            assert row["left"] == min((g.left for g in one.gpus), default=0)


@examples(6)
@given(
    st.sampled_from(["qwen2.5-14b-instruct-1m-q8_0.gguf", "gemma-3-12b-q4_k_m.gguf"]),
    st.builds(
        Settings,
        flash_attn=st.sampled_from(["on", "off"]),
        n_gpu_layers=st.sampled_from([-1, 5]),
        kv_unified=st.booleans(),
        n_seq_max=st.sampled_from([1, 3]),
        n_ubatch=st.sampled_from([64, 512]),
    ),
    st.integers(1, 5000),
    st.sampled_from([100, 256, 1024, 1777]),
    st.integers(7, 60),
    st.sampled_from([2, 6, 20, None]),
)
def test_stretches_of_contexts_are_estimates(
    name: str, settings: Settings, first: int, step: int, n: int, replays: Any
) -> None:
    """Along many contexts too, exact points are what `estimate` says, and the others no less."""
    model = shortened(read(EXAMPLES / name), 8)
    cards = [gpu()] * 2
    found = sweep(model, cards, settings, n_ctx=first + step * np.arange(n), replays=replays)
    for row in list(found)[:: max(n // 8, 1)]:
        one = estimate(model, cards, replace(settings, n_ctx=int(row["n_ctx"])))
        sizes = [int(row[f"{name}_compute"]) for name in ("gpu0", "gpu1", "host")]
        truth = [one.gpus[0].compute, one.gpus[1].compute, one.host.compute]
        assert sizes == truth if row["exact"] else all(a >= b for a, b in zip(sizes, truth, strict=True))
        assert row["exact"] or replays is not None


@given(
    st.lists(st.integers(1, 1 << 20), min_size=1, max_size=40, unique=True),
    st.integers(1, 12),
    st.lists(st.integers(1, 39), max_size=4),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.sampled_from([None, NotStraight, Unbuildable]),
)
def test_curves_are_exact_or_bounded(
    contexts: list[int], work: int, cuts: list[int], lengths: list[int], error: Any
) -> None:
    """Replayed contexts and pieces have their own figures, whatever their shape; all others a bound from above."""
    contexts.sort()
    here = np.array(contexts)
    edges = sorted({0, *(at for at in cuts if at < len(contexts)), len(contexts)})
    runs = [Run(a, here[a:b]) for a, b in pairwise(edges)]
    asked: list[int] = []
    walked: set[int] = set()

    def size(n_ctx: int) -> tuple[int, ...]:
        return (n_ctx * 7 % 1000, n_ctx)

    def replay(n_ctx: int) -> tuple[tuple[int, ...], bool]:
        asked.append(n_ctx)
        return size(n_ctx), n_ctx % 5 > 0

    def pieces(run: Run) -> Any:
        if error is not None and len(run) > 10:
            raise error

        def learned(at: int) -> Any:
            covered = run.cells[at : at + lengths[at % len(lengths)]].tolist()
            walked.update(covered)
            return np.array([size(n_ctx) for n_ctx in covered])

        return learned

    ways = Ways(replay, pieces, lambda n_ctx: (1000 + n_ctx, 2 * n_ctx), True)
    curve = learn(ways, here, runs, work)
    sizes, exact = curve.at(here)
    assert len(asked) == len(set(asked)) <= max(work, 2)
    assert curve.work <= max(work, 2) + 1
    assert contexts[-1] in walked or contexts[-1] in asked
    for n_ctx, (first, second), is_exact in zip(contexts, sizes.tolist(), exact.tolist(), strict=True):
        if n_ctx in asked or n_ctx in walked:
            assert is_exact == (n_ctx in walked or n_ctx % 5 > 0)
            assert (first, second) == size(n_ctx)
        else:
            assert not is_exact
            assert first >= 1000 + n_ctx
            assert second >= 2 * n_ctx


@given(MODELS, SETTINGS, st.lists(COUNTS, min_size=1, max_size=30), SLOTS, st.sampled_from([64, 512]))
def test_caches_grow_evenly_along_a_run(
    model: Any, settings: Settings, contexts: list[int], slots: int, batch: int
) -> None:
    """Runs hold every context once, in order; in each, cells of all caches lie on a line and the batch is one."""
    settings = replace(settings, n_seq_max=slots, n_ubatch=batch)
    here = distinct(model, settings, np.unique(contexts))
    runs = cut(model, settings, here)
    assert [run.start for run in runs] == [0, *np.cumsum([len(run) for run in runs]).tolist()[:-1]]
    assert sum(map(len, runs)) == len(here)
    for run in runs:
        asked = [resolve(model, replace(settings, n_ctx=n)) for n in here[run.start :][: len(run)].tolist()]
        assert run.cells.tolist() == [context.n_ctx for context in asked]
        assert len({context.n_ubatch for context in asked}) == 1
        for cache in {cache for layer in model.layers for cache in layer.caches}:
            sizes = [cells(cache, context) for context in asked]
            x, y = asked[0].n_ctx, sizes[0]
            rise, way = sizes[-1] - y, asked[-1].n_ctx - x
            assert all((b - y) * way == rise * (a.n_ctx - x) for a, b in zip(asked, sizes, strict=True))


def test_a_grid_of_contexts_is_exact_in_little_work() -> None:
    """A thousand contexts on two cards are exact for the work of eight replays; without lines, at that many."""
    model = read(EXAMPLES / "qwen2.5-14b-instruct-1m-q8_0.gguf")
    axes: dict[str, Any] = {"settings": Settings(flash_attn="on"), "n_ctx": np.arange(2, 1002) * 256}
    assert sweep(model, [gpu()] * 2, **axes, replays=8).columns["exact"].all()
    assert sweep(model, [gpu()] * 2, **axes, replays=3).columns["exact"].sum() == 3


def test_contexts_that_are_padded_alike_share_a_replay() -> None:
    """All contexts of one step are exact when one of them is: the engine makes the same of them."""
    model = read(EXAMPLES / "gemma-3-12b-q4_k_m.gguf")
    n_ctx = np.arange(2 * 4096 - 511, 2 * 4096 + 1)
    found = sweep(model, CARDS, Settings(flash_attn="on", n_seq_max=2), n_ctx=n_ctx, replays=1)
    assert found.columns["exact"].all()
    assert len(set(found.columns["gpu0_compute"].tolist())) == 1


def test_bounds_count_flash_attention_where_auto_turns_it_on() -> None:
    """Between two replays that ran with it, "auto" is bounded as "on" is."""
    model = read(EXAMPLES / "gemma-3-12b-q4_k_m.gguf")
    auto, on = (
        sweep(model, CARDS, Settings(flash_attn=flash), n_ctx=[4096, 8192, 16384], replays=2).columns
        for flash in ("auto", "on")
    )
    assert auto["exact"].tolist() == [True, False, True]
    assert auto["gpu0_compute"].tolist() == on["gpu0_compute"].tolist()


def test_a_buffer_larger_than_both_neighbours_is_not_missed() -> None:
    """The engine reserves 368 MiB at 49,408 tokens, 225 and 281 MiB at the neighbours: measured with it."""
    model = read(EXAMPLES / "qwen2.5-14b-instruct-1m-q8_0.gguf")
    settings = Settings(flash_attn="on", n_outputs_max=1, n_gpu_layers=2, tensor_split=(1, 1))
    axes: dict[str, Any] = {"gpus": [gpu(24576)] * 2, "settings": settings, "n_ctx": [19712, 49408, 51456]}
    truth = [235919360, 385636352, 294934528]
    some = sweep(model, **axes, replays=2).columns
    every = sweep(model, **axes, replays=None).columns
    assert some["exact"].tolist() == [True, False, True]
    assert every["gpu0_compute"].tolist() == truth
    assert every["exact"].all()
    assert (some["gpu0_compute"] >= truth).all()


def test_file_types_share_their_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types of weights on cards are in no compute buffer; those of layers on the host may be."""
    count = 0
    real = compute.compute_bytes

    def counting(*args: Any) -> Any:
        nonlocal count
        count += 1
        return real(*args)

    monkeypatch.setattr("vramfit._planner.sweep.curves.compute_bytes", counting)
    axes: dict[str, Any] = {"n_ctx": [256, 8192], "file_types": ["F16", "Q8_0", "Q4_0"]}
    sweep(dense(4), CARDS, Settings(flash_attn="on"), **axes)
    assert count == 2
    sweep(dense(4), CARDS, Settings(flash_attn="on", n_gpu_layers=2), **axes)
    assert count == 2 + 3 * 2


def test_refused_points_stay_and_say_why() -> None:
    """A combination that the engine refuses has no sizes and a reason; the others are not touched."""
    found = sweep(
        dense(4), CARDS, Settings(flash_attn="off"), n_ctx=[512, 1024], type_k=["f16", "q8_0"], margin_bytes=0
    )
    refused = [row for row in found if row["refused"]]
    assert [row["type_k"] for row in refused] == ["q8_0"] * 2
    assert "flash_attn" in str(refused[0]["refused"])
    assert not any(row["fits"] or row["gpu0_model"] for row in refused)
    assert all(row["fits"] for row in found if not row["refused"])


def test_file_types_are_named_once() -> None:
    """Aliases and repeats of a file type are one; one that cannot be made stays and says why."""
    odd = dense(2, n_embd=96, n_ff=100, n_head=4)
    found = sweep(odd, [gpu(512)], n_ctx=[512], file_types=["q4_k", "Q4_K_M", "Q8_0", "Q1_0"], margin_bytes=0)
    assert [row["file_type"] for row in found] == ["Q4_K_M", "Q8_0", "Q1_0"]
    assert [bool(row["refused"]) for row in found] == [False, False, True]
    assert [row["fits"] for row in found] == [True, True, False]
    with pytest.raises(EngineRefusal) as reason:
        requantize(odd, "Q1_0")
    assert found[2]["refused"] == str(reason.value)


def test_a_model_without_trained_context_needs_contexts() -> None:
    """Where the header names none, contexts have to be given, and then are enough."""
    model = replace(dense(4), n_ctx_train=0)
    assert len(sweep(model, CARDS, n_ctx=[512])) == 1
    with pytest.raises(SettingsError, match="n_ctx"):
        sweep(model, CARDS)


def test_largest_is_the_largest_that_fits() -> None:
    """One row a combination, in any order of contexts; combinations that never fit are left out."""
    contexts = [4096, 65536, 256, 16384, 1 << 20]
    found = sweep(
        dense(4), [gpu(1500)], n_ctx=contexts, type_k=["f16", "q8_0"], gpu_sets=[[gpu(64)]], replays=None
    )
    best = found.largest()
    assert 1 <= len(best) <= 2
    for row in best:
        alike = [r for r in found if (r["gpus"], r["type_k"]) == (row["gpus"], row["type_k"]) and r["fits"]]
        assert row["n_ctx"] == max(int(r["n_ctx"]) for r in alike)


def test_frames_are_the_columns() -> None:
    """Numbers reach pandas and polars without a copy; codes become words there."""
    found = sweep(dense(4), CARDS, n_ctx=np.arange(1, 100) * 256, type_k=["f16", "q8_0"], file_types=["Q8_0"])
    frame = found.to_pandas()
    other = found.to_polars()
    for name, column in found.columns.items():
        if name not in found.categories:
            assert np.shares_memory(frame[name].to_numpy(), column)
            assert other[name].to_list() == column.tolist()
    assert list(frame["type_k"]) == [row["type_k"] for row in found] == other["type_k"].to_list()
    assert isinstance(other, pl.DataFrame)
    assert frame["gpus"].dtype == pd.CategoricalDtype(found.categories["gpus"])


def test_frames_need_their_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pandas or polars the error says what to install."""
    found = sweep(dense(4), CARDS)
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(SettingsError, match=f"pip install {name}"):
            getattr(found, f"to_{name}")()


def test_rows() -> None:
    """Rows are plain values, by index too, and there are as many as `len` says."""
    found = sweep(dense(4), CARDS, n_ctx=[256, 512, 768])
    rows = list(found)
    assert len(rows) == len(found) == 3
    assert rows[-1] == found[-1] == found[2]
    assert {type(value) for row in rows for value in row.values()} <= {int, str, bool}
    with pytest.raises(IndexError):
        found[3]


def test_memory_is_linear() -> None:
    """Bytes a point do not depend on the number of points, and are few."""
    small = sweep(dense(4), CARDS, n_ctx=np.arange(1, 11) * 256)
    large = sweep(dense(4), CARDS, n_ctx=np.arange(1, 1001) * 256)
    assert small.nbytes / len(small) == large.nbytes / len(large) < 128


def test_equal_sets_of_cards_can_be_told_apart() -> None:
    """Two sets with the same names have two labels."""
    found = sweep(dense(4), [gpu(512)], gpu_sets=[[gpu(1024)]])
    assert found.categories["gpus"] == ("card #1", "card #2")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"gpus": None}, "no cards"),
        ({"n_ctx": []}, "n_ctx"),
        ({"n_ctx": [[256]]}, "one dimension"),
        ({"n_ctx": [256.5]}, "whole numbers"),
        ({"n_seq_max": [0]}, "1 or more"),
        ({"n_seq_max": [257]}, "n_seq_max=257"),
        ({"type_k": []}, "without values"),
        ({"file_types": []}, "without values"),
        ({"type_k": ["q9"]}, "q9"),
        ({"file_types": ["Q9"]}, "Q9"),
        ({"margin_bytes": -1}, "margin_bytes=-1"),
        ({"replays": 0}, "replays=0"),
        ({"n_ctx": np.arange(1, 70_000), "n_ubatch": np.arange(1, 2000)}, "in parts"),
    ],
)
def test_what_makes_no_sense_is_an_error(arguments: dict[str, Any], word: str) -> None:
    """Every axis is checked before anything is computed, and the message names the value."""
    with pytest.raises(SettingsError, match=word):
        sweep(dense(4), **{"gpus": CARDS, **arguments})
