"""What is remembered is what would be worked out again, for any number of threads, and keeps no model alive."""

# mypy: disable-error-code="comparison-overlap"

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from weakref import ref

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit._base.memo import Memo
from vramfit._estimate import compute
from vramfit._estimate.estimate import estimate
from vramfit._llama.cparams import resolve
from vramfit._llama.params import Settings
from vramfit._llama.placement import place
from vramfit._planner.plan import plan
from vramfit._sources.load import read

EXAMPLE = ROOT / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf"
MODELS = [dense(1), dense(2), dense(3)]
PLACED = place(MODELS[0], [], Settings())
CONTEXT = resolve(MODELS[0], Settings())


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3))), st.integers(1, 5))
def test_the_last_answers_are_remembered(asked: list[tuple[int, int]], most: int) -> None:
    """Every answer is its own question's; the last `most` different ones are not worked out again."""
    memo: Memo[tuple[int, int]] = Memo(most)
    order: list[tuple[int, int]] = []
    for question in asked:
        worked: list[bool] = []
        model, key = question
        assert memo.get(MODELS[model], key, lambda q=question, w=worked: (w.append(True), q)[1]) == question  # type: ignore[misc]
        assert bool(worked) == (question not in order[-most:])
        order = [q for q in order if q != question] + [question]
        assert len(memo) == min(most, len(order))


def test_what_fails_is_tried_again() -> None:
    """An error is the caller's, and is not remembered."""
    memo: Memo[int] = Memo(1)
    with pytest.raises(ZeroDivisionError):
        memo.get(MODELS[0], None, lambda: 1 // 0)
    assert memo.get(MODELS[0], None, lambda: 7) == 7


def test_a_model_at_an_old_address_is_another() -> None:
    """Answers about a model that is gone are not given for the next one, wherever it lies."""
    memo: Memo[int] = Memo(1)
    addresses = set()
    for i in range(50):
        model = dense(1)
        addresses.add(id(model))
        assert memo.get(model, None, lambda i=i: i) == i  # type: ignore[misc]
        del model
    assert len(addresses) < 50  # or nothing was tested


def test_no_model_is_kept_alive() -> None:
    """Reading a header and asking about it leaves nothing of the model behind, graph or no graph."""
    for read_one in (lambda: read(EXAMPLE), lambda: dense(2)):
        model = read_one()  # type: ignore[no-untyped-call]
        assert estimate(model, [gpu()], Settings(n_ctx=512)) == estimate(model, [gpu()], Settings(n_ctx=512))
        gone = ref(model)
        del model
        gc.collect()
        assert gone() is None


@pytest.mark.usefixtures("hasty")
def test_threads_may_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute buffers asked for by many threads, about several models, are each that of its own question."""
    answers: Callable[..., object] = lambda model, placement, context, *_: (model.n_layer, context.n_ctx)  # noqa: E731
    monkeypatch.setattr(compute, "_compute", answers)

    def ask(i: int) -> bool:
        model = MODELS[i % 3]
        at = CONTEXT._replace(n_ctx=256 * (i * 7 % 31))
        return compute.compute_bytes(model, PLACED, at, []) == (model.n_layer, at.n_ctx)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8000)))


def test_a_plan_replays_its_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was worked out for a card alone, or for a split, is what the estimate of the answer asks for."""
    asked = []
    worked_out = compute._compute

    def count(model, placement, context, *rest):  # type: ignore[no-untyped-def]
        asked.append((placement, context))
        return worked_out(model, placement, context, *rest)

    monkeypatch.setattr(compute, "_compute", count)
    for cards in ([gpu()], [gpu(), gpu()]):
        plan(dense(6), cards, Settings(n_ctx=1024))
        assert len(asked) == len(set(asked)) > 0
        asked.clear()
