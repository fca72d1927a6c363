"""Beside a draft, or next-token layers, that are divided as the model is, a plan is still that of trying every split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, shortened
from test_company import DRAFT
from test_lent import RECORDED as LENT
from test_lent import asked
from test_next_tokens import model_of
from test_plan import MARGIN, MODEL, splits
from test_projectors import fitting

import vramfit
from vramfit._company import Company, Draft, company_of
from vramfit._devices import Gpu, Host
from vramfit._estimate.company import company_apart, divided
from vramfit._estimate.estimate import estimate
from vramfit._llama.model import Model, Weight
from vramfit._llama.params import Settings
from vramfit._llama.placement import ends_like, place
from vramfit._llama.speculation import loaded
from vramfit._planner.plan import plan
from vramfit._planner.question import Question

STEP, MOST = 2048, 5 * 2048
SPECULATING = Settings(
    n_outputs_max=8, n_seq_max=8, kv_unified=False, flash_attn="on", spec_type="draft-simple"
)
PREDICTING = replace(SPECULATING, spec_type="draft-mtp")
LARGER = replace(dense(7, n_vocab=4096, n_embd=512, n_ff=768, n_ctx_train=1 << 17), architecture="llama")
ITSELF = replace(MODEL, architecture="llama")


def beside(draft: Model, **told: object) -> Model:
    return replace(MODEL, company=Company(Draft(draft, **told)))  # type: ignore[arg-type]


def all_splits(model: Model, gpus: Sequence[Gpu], settings: Settings) -> Iterator[Settings]:
    on_cards = sum(1 for at in place(model, gpus, settings).layers if at >= 0)
    for split in splits(on_cards, len(gpus)):
        yield replace(settings, tensor_split=tuple(map(float, split)))


def carried(model: Model, gpus: Sequence[Gpu], settings: Settings, host: Host | None = None) -> bool:
    found = estimate(model, gpus, settings, host=host)
    return all(d.left >= MARGIN for d in (*found.gpus, found.host) if d.is_judged)


def best(model: Model, gpus: Sequence[Gpu], settings: Settings) -> int:
    """The largest context that any split carries: every split at every context, from the top."""
    for n in range(MOST, 0, -STEP):
        for told in all_splits(model, gpus, replace(settings, n_ctx=n)):
            if carried(model, gpus, told):
                return n
    return 0


def last_layers(name: str, n: int) -> Model:
    """A model's last layers alone, next-token layers among them, numbered from 0."""
    model = model_of(name)
    first = model.n_layer - n

    def renumbered(weights: Sequence[Weight]) -> tuple[Weight, ...]:
        found = []
        for w in weights:
            if isinstance(w.home, int):
                if w.home < first:
                    continue
                at = w.home - first
                name = w.tensor.name.replace(f"blk.{w.home}.", f"blk.{at}.")
                tensor = replace(w.tensor, name=name)
                w = w._replace(tensor=tensor, home=at)
            found.append(w)
        return tuple(found)

    weights, mtp = renumbered(model.weights), renumbered(model.mtp)
    layers = tuple(replace(x, index=x.index - first) for x in model.layers[first:])
    tensors = tuple({w.tensor.name: w.tensor for w in (*weights, *mtp)}.values())
    return replace(model, weights=weights, mtp=mtp, layers=layers, tensors=tensors)


def predicting(name: str, n: int) -> Model:
    """A model's last layers; of "mtp-deepseek2, bounded" the next-token layer has no graph."""
    model = last_layers(name.split(",")[0], n)
    return replace(model, is_mla=False) if "bounded" in name else model


def just_enough(data: st.DataObject, model: Model, settings: Settings) -> list[Gpu]:
    """Cards with about as much room as some split needs at some context: a little less or more decides."""
    n_ctx = data.draw(st.integers(1, MOST // STEP)) * STEP
    counts = data.draw(st.lists(st.integers(0, model.n_layer), min_size=2, max_size=3).filter(any))
    told = replace(settings, n_ctx=n_ctx, tensor_split=tuple(map(float, counts)))
    found = estimate(model, [gpu(1 << 20)] * len(counts), told)
    more = [data.draw(st.integers(-300, 3000)) << 10 for _ in counts]
    free = [max(1, g.total + MARGIN + n) for g, n in zip(found.gpus, more, strict=True)]
    return [Gpu(f"card {i}", n, compute_capability="8.6") for i, n in enumerate(free)]


def check(model: Model, gpus: Sequence[Gpu], settings: Settings) -> None:
    found = plan(model, gpus, settings, margin_bytes=MARGIN, max_ctx=MOST)
    assert (found.n_ctx if found.fits else 0) == best(model, gpus, settings)
    if found.fits:
        assert carried(model, gpus, found.settings)
    assert not any("in rounds" in w for w in found.warnings)


@examples(8, deadline=20_000)
@given(
    st.data(), st.sampled_from([DRAFT, LARGER, ITSELF]), st.sampled_from([-1, 4]), st.sampled_from([-1, 2])
)
def test_beside_a_draft_no_split_carries_more(
    data: st.DataObject, draft: Model, layers: int, own: int
) -> None:
    """The context is that of trying every split at every context, wherever the draft's layers then are."""
    model, settings = beside(draft, n_gpu_layers=own), replace(SPECULATING, n_gpu_layers=layers)
    check(model, just_enough(data, model, settings), settings)


@examples(4, deadline=20_000)
@given(st.data(), st.sampled_from(["mtp-glm4moe", "mtp-qwen35", "mtp-deepseek2, bounded"]))
def test_beside_next_token_layers_no_split_carries_more(data: st.DataObject, name: str) -> None:
    """Nor beside the context of next-token layers, whose caches are all on one card; bounded ones, too."""
    model = predicting(name, 4)
    check(model, just_enough(data, model, PREDICTING), PREDICTING)


@examples(40)
@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=4).filter(any), st.integers(1, 60), st.integers(-1, 70)
)
def test_shares_divide_a_draft_as_they_are_placed(counts: list[int], n_layer: int, asked: int) -> None:
    """What `ends_like` says of each card alone is what placing the whole draft gives."""
    draft = replace(DRAFT, layers=tuple(replace(DRAFT.layers[0], index=i) for i in range(n_layer)))
    told = Settings(n_gpu_layers=asked, tensor_split=tuple(map(float, counts)))
    placement = place(draft, [gpu()] * len(counts), told)
    placed = [placement.count(i) for i in range(len(counts))]
    ends = ends_like(sum(counts), sum(placed))
    at = [0, *accumulate(counts)]
    assert [ends[b] - ends[a] for a, b in pairwise(at)] == placed


@pytest.mark.parametrize("spec_type", ["draft-simple", "draft-eagle3"])
@pytest.mark.parametrize("split", [(3, 2, 1), (0, 6, 0), (0, 0, 6)])
def test_runs_count_what_the_estimate_counts(spec_type: str, split: tuple[int, ...], tmp_path: Path) -> None:
    """With what lies on the cards apart, the bytes of a split are those of its estimate, card by card."""
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(fitting(MODEL.n_embd))
    seeing = vramfit.accompany(MODEL, mmproj=path)
    model = replace(seeing, company=replace(company_of(seeing), draft=Draft(LARGER)))
    gpus, settings = [gpu(4096)] * 3, replace(SPECULATING, spec_type=spec_type)
    pair = Question(model, gpus, settings, MARGIN, {}).paired()
    assert pair is not None
    told = replace(settings, n_ctx=5000, tensor_split=tuple(map(float, split)))
    found = [g.total for g in estimate(model, gpus, told).gpus]
    apart = company_apart(model, gpus, settings).gpus
    assert [a + b for a, b in zip(pair.learn(split, 5000), apart, strict=True)] == found
    assert apart[0] > apart[1]
    assert (apart[1] > 0) is (spec_type == "draft-eagle3")
    assert pair.holds(split, 5000, found)
    assert not pair.holds(split, 5000, [n - 1 - a for n, a in zip(found, apart, strict=True)])


def test_more_memory_never_gives_less() -> None:
    """A model of two layers that drafts for itself, on cards that grow: never less than before, nor than a split by hand."""
    large = vramfit.read(ROOT / "examples/qwen2.5-14b-instruct-1m-q8_0.gguf")
    short = shortened(large, 2)
    model = replace(short, company=Company(Draft(short)))
    before, learned = 0, dict[Any, Any]()
    for mib in (2800, 3000, 4000, 4500, 5000, 5500, 6000):
        gpus = [gpu(mib, name="a"), gpu(mib, name="b")]
        told = vramfit.server_settings(flash_attn="on", spec_type="draft-simple")
        found = plan(model, gpus, told, learned=learned)
        n_ctx = found.n_ctx if found.fits else 0
        assert n_ctx >= before
        for split in ((1.0, 2.0), (2.0, 1.0)) if mib in (4000, 5000) else ():
            by_hand = plan(model, gpus, replace(told, tensor_split=split))
            assert n_ctx >= by_hand.n_ctx * by_hand.fits
        before = n_ctx
    assert before > 100_000


def test_where_none_fits_the_split_lacks_least() -> None:
    """The split that is shown lacks no more than any other, to a MiB, with the draft counted."""
    model, gpus = beside(LARGER), [gpu(70, name="a"), gpu(50, name="b"), gpu(40, name="c")]
    found = plan(model, gpus, SPECULATING, margin_bytes=MARGIN)
    assert not found.fits
    lacks = []
    for told in all_splits(model, gpus, replace(SPECULATING, n_ctx=found.n_ctx)):
        lacks.append(max(MARGIN - g.left for g in estimate(model, gpus, told).gpus if g.total))
    assert min(lacks) <= found.shortfall <= min(lacks) + (1 << 20)


def test_an_answer_found_in_rounds_says_so() -> None:
    """Where a card takes more than its own layers say, the split is the best of some rounds, which a warning says."""
    gpus = [gpu(150, name="a"), gpu(180, name="b"), gpu(120, name="c")]
    said = "sought in rounds"
    for devices, in_rounds in (
        ((1, 0), True),
        ((1, 2), True),
        ((2,), False),
        ((), False),
        ((0, 1, 2), False),
    ):
        model = beside(DRAFT, devices=devices)
        found = plan(model, gpus, SPECULATING, margin_bytes=MARGIN, max_ctx=1 << 16)
        assert found.fits
        assert found.limited_by in {"a", "b", "c"}
        assert any(said in w for w in found.warnings) is in_rounds
        assert carried(model, gpus, found.settings)
    blocks = last_layers("mtp-mimo2", 4)
    whole = estimate(blocks, [gpu(1 << 20)], replace(PREDICTING, n_ctx=2048)).gpus[0].total >> 20
    found = plan(blocks, [gpu(whole * 6 // 10, name="a"), gpu(whole * 6 // 10, name="b")], PREDICTING)
    assert found.limited_by in {"a", "b"}
    assert any(said in w for w in found.warnings)
    request = plan(beside(DRAFT, devices=(1, 0)), gpus, replace(SPECULATING, n_ctx=2048), margin_bytes=MARGIN)
    assert request.fits
    assert not any(said in w for w in request.warnings)


@pytest.mark.parametrize("name", ["", "mtp-glm4moe", "mtp-deepseek2, bounded"])
def test_among_many_contexts_none_above_is_carried(name: str) -> None:
    """Where contexts are hundreds they are learned along lines, but for bounds: the few above the answer fit under no split."""
    one = replace(PREDICTING if name else SPECULATING, n_seq_max=1, n_outputs_max=1, flash_attn="off")
    model, most = (predicting(name, 3), 32 * 256) if name else (beside(LARGER), 256 * 256)
    told = replace(one, n_ctx=most - 2048, tensor_split=(2.0, 1.0))
    need = [g.total for g in estimate(model, [gpu(1 << 20)] * 2, told).gpus]
    gpus = [Gpu(f"card {i}", n + MARGIN, compute_capability="8.6") for i, n in enumerate(need)]
    found = plan(model, gpus, one, margin_bytes=MARGIN, max_ctx=most)
    assert found.fits
    assert carried(model, gpus, found.settings)
    assert most - 2048 <= found.n_ctx < most
    for n in range(found.n_ctx + 256, min(most, found.n_ctx + 1024) + 1, 256):
        assert not any(carried(model, gpus, t) for t in all_splits(model, gpus, replace(one, n_ctx=n)))


@pytest.mark.parametrize("name", LENT)
def test_a_draft_that_reads_its_target_is_no_run_of_it(name: str) -> None:
    """Where what it reads lies hangs on the whole split: there are no pairs of runs, and the split is sought in rounds."""
    model, gpus, settings = asked(name, "one card")
    assert divided(model, gpus, settings) is None
    assert divided(beside(DRAFT), gpus, replace(settings, spec_type="draft-simple")) is not None


def test_a_chip_with_the_systems_memory_keeps_the_rounds() -> None:
    """What a draft has on the host is on that chip, too, and its buffer there depends on the whole split."""
    gpus = [replace(gpu(300, name="chip"), unified=True), gpu(130, name="card")]
    found = plan(beside(DRAFT), gpus, SPECULATING, margin_bytes=MARGIN, max_ctx=1 << 16)
    assert found.fits
    assert any("sought in rounds" in w for w in found.warnings)


def test_beside_a_host_no_split_carries_more() -> None:
    """A known host with just room for what is there changes nothing; one with less lowers the context."""
    model, gpus = beside(LARGER), [gpu(210, name="a"), gpu(180, name="b")]
    alone = plan(model, gpus, SPECULATING, margin_bytes=MARGIN, max_ctx=MOST)
    assert alone.fits
    needed = alone.estimate.host.total + alone.estimate.host.beside + MARGIN
    for less in (0, 1):
        host = Host(needed - less)
        found = plan(model, gpus, SPECULATING, margin_bytes=MARGIN, max_ctx=MOST, host=host)
        at = replace(SPECULATING, n_ctx=alone.n_ctx)
        assert (found.fits and found.n_ctx == alone.n_ctx) is any(
            carried(model, gpus, told, host) for told in all_splits(model, gpus, at)
        )
        assert not found.fits or carried(model, gpus, found.settings, host)


@pytest.mark.parametrize("backend", ["cuda", "vulkan"])
@pytest.mark.parametrize("name", ["mtp-glm4moe", "mtp-deepseek2, bounded"])
def test_runs_count_next_token_layers_as_the_estimate(name: str, backend: str) -> None:
    """To the byte where they are exact, and where they are bounds; what is known without a replay is no more than that."""
    split, n_ctx = (3, 1), 2048
    model = loaded(predicting(name, 3), PREDICTING)
    gpus = [replace(gpu(1 << 20), backend=backend) for _ in split]
    pair, floors = (Question(model, gpus, PREDICTING, MARGIN, {}).paired() for _ in range(2))
    assert pair is not None
    assert floors is not None
    told = replace(PREDICTING, n_ctx=n_ctx, tensor_split=(3.0, 1.0))
    found = estimate(model, gpus, told)
    assert list(pair.learn(split, n_ctx)) == [g.total for g in found.gpus]
    assert found.company[0].exact is ("bounded" not in name and backend == "cuda")
    floors.learn_floors(split, n_ctx)
    for device, run in enumerate([(0, 3), (3, 4)]):
        assert floors.at_least(device, *run, n_ctx) <= pair.at_least(device, *run, n_ctx)
