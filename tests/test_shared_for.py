"""Several models in engines that place each by themselves: who is loaded, and which contexts they get."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit import Gpu, Host, SettingsError, SharedPlan, Tenant
from vramfit._engines.beside import cards_beside, host_beside, process_counts, taken
from vramfit._engines.residents import residents
from vramfit._engines.settings import engine_settings
from vramfit._engines.shared import OTHERS, _Loads, shared_for
from vramfit._engines.table import find
from vramfit._planner.plan import plan
from vramfit._planner.warnings import process_bytes

MIB = 1 << 20
# Their caches are large beside their weights: 2 MiB for each step of 256 tokens and layer.
SIZES = [
    dense(n_layer=n, n_embd=2048, n_ff=1024, n_vocab=1024, n_head=16, n_head_kv=16, n_ctx_train=2048)
    for n in (4, 8, 12)
]


def tenant(engine: str, size: int, at: int = 0, **options: Any) -> Tenant:
    settings = engine_settings(engine, {"flash_attn": "on", **options.pop("told", {})})
    return Tenant(replace(SIZES[size], source=f"{at}.gguf"), settings, name=f"m{at}", **options)


def brute_force(found: SharedPlan, engine: str) -> list[tuple[int, ...]]:
    """All contexts, a step apart, at which the loaded models load one after the other."""
    loads = _Loads(found.tenants, found.gpus, find(engine), found.margin_bytes, found.host)
    steps = [range(256, found.tenants[t].wished + 1, 256) for t in found.loaded]
    return [c for c in product(*steps) if loads.load(found.loaded, c) is not None]


def growing(found: SharedPlan, contexts: tuple[int, ...]) -> float:
    """The smallest share of those that get less than they wish."""
    here = [found.tenants[t] for t in found.loaded]
    shares = (n / t.wished / t.weight for n, t in zip(contexts, here, strict=True) if n < t.wished)
    return min(shares, default=1.0)


def smallest(found: SharedPlan, contexts: tuple[int, ...]) -> float:
    here = [found.tenants[t] for t in found.loaded]
    return min(n / t.wished / t.weight for n, t in zip(contexts, here, strict=True))


@examples(8)
@given(
    st.sampled_from(["ollama", "lm-studio", "ollama-before-0.30"]), st.integers(780, 1400), st.booleans(),
    st.sampled_from([1.0, 2.0]), st.sampled_from(["share", "order"]),
)  # fmt: skip
def test_no_other_contexts_are_better(
    engine: str, room: int, two: bool, weight: float, objective: str
) -> None:
    """Of all contexts that load in this order none has a larger smallest share, or a longer first context."""
    each = process_bytes(gpu())
    gpus = [gpu(8192, free_mib=room + each // MIB, name=f"c{i}") for i in range(1 + two)]
    asked = [tenant(engine, 0, 0), tenant(engine, 1, 1, weight=weight)]
    found = shared_for(asked, gpus, engine, margin_bytes=MIB, objective=objective)
    contexts = tuple(found.plans[t].n_ctx for t in found.loaded)
    if not contexts:
        return
    all_of_them = brute_force(found, engine)
    assert contexts in all_of_them
    if objective == "order":
        assert contexts[0] == max(all_of_them)[0]
        return
    best = max(smallest(found, c) for c in all_of_them)
    assert found.share == pytest.approx(growing(found, contexts))
    if not two or engine == "lm-studio":  # where Ollama may change cards, less can be more than it can hold
        assert smallest(found, contexts) == pytest.approx(best)


@examples(10)
@given(
    st.sampled_from(["ollama", "lm-studio"]),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
    st.integers(200, 3000),
)
def test_what_is_loaded_fits_together(engine: str, sizes: list[int], room: int) -> None:
    """With all that is loaded, and a process for each, the margin stays free on every card that is used."""
    gpus = [gpu(8192, free_mib=room, name="a"), gpu(8192, free_mib=room // 2, name="b")]
    found = shared_for(
        [tenant(engine, s, i) for i, s in enumerate(sizes)], gpus, engine, margin_bytes=32 * MIB
    )
    for device in found.devices[:-1]:
        assert device.total == device.processes or device.left >= 32 * MIB
    assert all(found.plans[t].fits for t in found.loaded)
    assert found.proved == (found.fits and all(p.n_ctx >= 2048 for p in found.plans))
    assert bool(found.note) != found.proved
    if engine == "ollama":
        assert not any(s.evicted for s in residents(found, "ollama").steps)


def test_fixed_contexts_stay_and_others_share() -> None:
    """A context that was told is kept; the rest goes to those that wish for more, and says what keeps them from it."""
    fixed = tenant("ollama", 0, 0, told={"n_ctx": 1024})
    wide = shared_for([fixed, tenant("ollama", 1, 1)], [gpu(8192)], "ollama", margin_bytes=MIB)
    assert [p.n_ctx for p in wide.plans] == [1024, 2048]
    assert wide.proved
    assert wide.share == 1
    each = process_bytes(gpu()) // MIB
    tight = shared_for(
        [fixed, tenant("ollama", 1, 1)], [gpu(8192, free_mib=each + 960)], "ollama", margin_bytes=MIB
    )
    assert tight.plans[0].n_ctx == 1024
    assert 256 <= tight.plans[1].n_ctx < 2048
    assert tight.plans[1].limited_by == OTHERS
    assert not tight.proved
    only = shared_for([fixed], [gpu(8192)], "ollama")
    assert only.share is None


def test_ollama_keeps_a_model_out_that_would_fit() -> None:
    """Where Ollama expects more than 80 % of what is free, it would evict: the model is left out, and that is said."""
    windowed = dense(
        n_layer=8,
        n_embd=2048,
        n_ff=1024,
        n_head=16,
        n_head_kv=16,
        n_ctx_train=16384,
        window=256,
        swa_layers=8,
    )
    long = engine_settings(
        "ollama", flash_attn="on", n_ctx=16384
    )  # of which Ollama expects caches of the whole length
    asked = [tenant("ollama", 1), Tenant(replace(windowed, source="w.gguf"), long, name="m1")]
    found = shared_for(asked, [gpu(2600)], "ollama", margin_bytes=0)
    assert found.loaded == (0,)
    assert found.plans[1].fits
    assert "m1 fits beside the others" in found.warnings[0]
    assert "80 %" in found.warnings[0]
    replayed = residents(replace(found, loaded=(0, 1)), "ollama")
    assert replayed.steps[1].evicted == (0,)
    assert "# not as planned: when m1 is asked for" in replace(found, loaded=(0, 1)).command("ollama")


def test_engines_that_are_told_go_to_the_solver() -> None:
    """For llama-server the solver places the models; what is no tenant has the engine's defaults."""
    found = shared_for([SIZES[0]], [gpu(8192)])
    assert found.tenants[0].settings == engine_settings("llama-server")
    alone = plan(SIZES[0], [gpu(8192)], engine_settings("llama-server"))
    assert found.plans[0].n_ctx == alone.n_ctx
    old = shared_for([SIZES[0]], [gpu(8192)], "ollama@0.24")
    assert old.tenants[0].settings.engine_build == "ollama@0.24"


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {}, "0 models: give 1 to"),
        ([SIZES[0]], {"objective": "most"}, "objective='most': give one of share, order"),
        ([replace(SIZES[0], n_ctx_train=0)], {}, "give a wish or n_ctx"),
        ([tenant("ollama", 0), tenant("ollama", 0)], {}, "are one file"),
        ([Tenant(SIZES[0], engine_settings("llama-server", load_mode="none"))], {}, "cannot be told"),
    ],
)
def test_bad_questions(models: list[Any], options: dict[str, Any], message: str) -> None:
    """What cannot be planned is refused with the next step."""
    with pytest.raises(SettingsError, match=message):
        shared_for(models, [gpu(8192)], "ollama", **options)


def test_each_process_takes_a_context_of_its_own() -> None:
    """The first process on a card is already out of its free memory; each further one takes as much again."""
    cards: list[Gpu] = [gpu(8192, name="a"), gpu(8192, name="b")]
    both, one = frozenset({0, 1}), frozenset({1})
    left = cards_beside(cards, [(10, 0), (0, 20)], [both, one])
    each = process_bytes(cards[0])
    assert [g.free for g in left] == [cards[0].free - 10 - each, cards[1].free - 20 - 2 * each]
    assert cards_beside(cards, [], []) == tuple(cards)
    assert process_counts(cards, [both, one, one]) == (0, 2)
    assert cards_beside(cards, [(1 << 40, 0)], [both])[0].free == 1


def test_the_host_holds_all() -> None:
    """What models hold on the host is taken off what the next one finds there; an unknown host is no limit."""
    host = Host(1 << 34)
    found = plan(SIZES[0], [gpu(8192)], engine_settings("ollama"), host=host)
    left = host_beside(host, [found, found])
    assert left is not None
    assert left.free == host.free - 2 * (found.estimate.host.total + found.estimate.host.beside)
    assert host_beside(None, [found]) is None
    assert taken(found) == (found.estimate.gpus[0].total,)
