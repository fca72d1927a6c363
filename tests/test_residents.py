"""What engines keep loaded by themselves: the most models, room beside others, who goes, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu

from vramfit import Gpu, Settings, SettingsError, Tenant
from vramfit._engines import ollama_sched
from vramfit._engines import residents as replay
from vramfit._engines.ollama import predicted
from vramfit._engines.residents import Residents, residents
from vramfit._engines.settings import engine_settings
from vramfit._engines.shared import shared_for
from vramfit._planner.plan import plan
from vramfit._planner.warnings import process_bytes

GIB = 1 << 30
MIB = 1 << 20
SIZES = [
    dense(n_layer=n, n_embd=2048, n_ff=8192, n_vocab=8192, n_head=16, n_ctx_train=16384) for n in (4, 12, 24)
]


def tenants(engine: str, *sizes: int, **options: Any) -> list[Tenant]:
    settings = engine_settings(engine, {"flash_attn": "on", **options})
    return [
        Tenant(replace(SIZES[s], source=f"{i}.gguf"), settings, name=f"m{i}") for i, s in enumerate(sizes)
    ]


requests = st.lists(st.integers(0, 3), min_size=1, max_size=8)
cards = st.lists(
    st.sampled_from([3, 6, 12]).map(lambda n: gpu(n * 1024, name=f"{n}")), min_size=1, max_size=2
)


def before(found: Residents, n: int) -> dict[int, replay.Resident]:
    return {r.tenant: r for r in found.steps[n - 1].loaded} if n else {}


def check_memory(found: Residents, gpus: Sequence[Gpu]) -> None:
    for step in found.steps:
        for i, card in enumerate(gpus):
            assert sum(r.taken[i] for r in step.loaded) <= card.free


@examples(40)
@given(requests, cards, st.sampled_from([0, 1, 2]), st.permutations([300.0, 300.0, 60.0, -1.0]))
def test_ollama_keeps_its_rules(order: list[int], gpus: list[Gpu], most: int, keep: list[float]) -> None:
    """Never more than the most; who goes was loaded, and the first by duration and path; what has room evicts nobody."""
    asked = tenants("ollama", 0, 1, 2, 1, n_ctx=4096)
    found = residents(asked, "ollama", gpus, requests=order, most=most, keep_alive=keep)
    limit = most or 3 * len(gpus)
    check_memory(found, gpus)
    kept = [k if k >= 0 else float("inf") for k in keep]
    for n, (step, tenant) in enumerate(zip(found.steps, order, strict=True)):
        there = before(found, n)
        now = {r.tenant for r in step.loaded}
        assert step.asked == tenant
        assert tenant in now
        assert len(now) <= limit
        assert now == (set(there) - set(step.evicted)) | {tenant}
        if tenant in there:
            assert not step.evicted
            continue
        going = sorted(there, key=lambda t: (kept[t], f"{t}.gguf"))
        assert list(step.evicted) == going[: len(step.evicted)]
        if len(gpus) > 1:
            continue
        for gone in range(
            len(step.evicted) + 1
        ):  # it had no room beside those that went, and has beside those that stay
            left = set(there) - set(step.evicted[:gone])
            free = gpus[0].free - sum(there[t].taken[0] for t in left) - len(left) * process_bytes(gpus[0])
            full = (
                len(left) >= limit
                or ollama_sched.needed(asked[tenant].model, 4096, 512) > max(1, free) * 80 // 100
            )
            assert (full and bool(left)) == (gone < len(step.evicted))


@examples(20)
@given(requests, cards, st.integers(1, 4))
def test_the_router_counts_and_weighs_nothing(order: list[int], gpus: list[Gpu], most: int) -> None:
    """Never more than --models-max; below it nobody goes, at it the one that was used the longest ago."""
    found = residents(
        tenants("llama-server", 0, 1, 2, 1, n_ctx=2048), "llama-server", gpus, requests=order, most=most
    )
    check_memory(found, gpus)
    used: dict[int, int] = {}
    for n, (step, tenant) in enumerate(zip(found.steps, order, strict=True)):
        there = before(found, n)
        assert len(step.loaded) <= most
        full = tenant not in there and len(there) == most
        assert list(step.evicted) == ([min(there, key=lambda t: used[t])] if full else [])
        used[tenant] = n
        assert tenant in {r.tenant for r in step.loaded}


def test_ollama_looks_at_its_own_prediction() -> None:
    """A model that would fit by its bytes evicts another where Ollama expects more than 80 % of what is free."""
    model = replace(SIZES[1], source="x.gguf")
    expected = predicted(model, 4096)
    room = [gpu(free_mib=expected * 5 // 4 // MIB + 2, mib=65536)]
    tight = [gpu(free_mib=expected * 5 // 4 // MIB - 2, mib=65536)]
    settings = Settings(n_batch=512)
    assert ollama_sched.has_room(model, room, settings, 4096)
    assert not ollama_sched.has_room(model, tight, settings, 4096)
    assert not ollama_sched.has_room(model, room, Settings(n_batch=1024), 4096)  # 768 MiB more
    whole = len(model.layers) + 1
    assert not ollama_sched.has_room(model, tight, settings, 4096, whole)
    assert ollama_sched.has_room(model, tight, settings, 4096, whole - 1)  # told to put a part on the card
    assert ollama_sched.has_room(model, tight, settings, 4096, 0)
    assert ollama_sched.has_room(model, [], settings, 4096)


def test_ollama_looks_at_the_card_that_it_takes() -> None:
    """A model for one card is weighed against that card, one for all against all."""
    model, big, small = SIZES[1], gpu(24576, name="big"), gpu(12288, name="small")
    assert ollama_sched.looked_at(model, [small, big], Settings(), 4096) == (1,)
    assert ollama_sched.looked_at(model, [gpu(1024), gpu(1024)], Settings(), 4096) == (0, 1)
    assert ollama_sched.looked_at(model, [small, big], Settings(split_mode="none", main_gpu=0), 4096) == (0,)
    assert ollama_sched.looked_at(model, [small, big], Settings(tensor_split=(1, 2)), 4096) == (0, 1)


def test_idle_models_go_after_their_time() -> None:
    """Ollama drops a model once it was idle for its keep-alive; -1 keeps it."""
    asked, gpus = tenants("ollama", 0, 0, n_ctx=4096), [gpu(65536)]
    found = residents(asked, "ollama", gpus, requests=[0, 1, 1], apart=301)
    assert [s.evicted for s in found.steps] == [(), (0,), (1,)]
    assert "idle for 300 s" in found.steps[1].why
    assert len(found.steps[2].loaded) == 1  # it was loaded again
    kept = residents(asked, "ollama", gpus, requests=[0, 1], apart=301, keep_alive=[-1, 5])
    assert [r.tenant for r in kept.steps[1].loaded] == [0, 1]


def test_idle_children_of_the_router_sleep() -> None:
    """A child that sleeps holds no memory and counts all the same; it comes back when it is asked for."""
    asked, gpus = tenants("llama-server", 0, 0), [gpu(65536)]
    found = residents(asked, "llama-server", gpus, requests=[0, 1, 0], most=2, apart=100, keep_alive=60)
    asleep = [[(r.tenant, r.asleep) for r in s.loaded] for s in found.steps]
    assert asleep == [[(0, False)], [(0, True), (1, False)], [(1, True), (0, False)]]
    assert sum(found.steps[1].loaded[0].taken) == 0
    one = residents(asked, "llama-server", gpus, requests=[0, 1], most=1, apart=100, keep_alive=60)
    assert one.steps[1].evicted == (0,)


def test_one_file_is_loaded_once() -> None:
    """Ollama knows a model by its file: asked for it with other settings it loads it anew."""
    one = tenants("ollama", 0, n_ctx=4096)[0]
    two = Tenant(one.model, replace(one.settings, n_ctx=2048), name="again")
    found = residents([one, two, one], "ollama", [gpu(65536)])
    assert [s.evicted for s in found.steps] == [(), (0,), (1,)]
    assert [r.n_ctx for r in found.steps[1].loaded] == [2048]
    assert "same file" in found.steps[1].why
    same = residents([one, one], "ollama", [gpu(65536)])
    assert same.steps[1].evicted == ()
    assert "its file is loaded" in same.steps[1].why
    assert same.names == ("m0 #1", "m0 #2")


def test_without_cards_only_the_number_counts() -> None:
    """On the host Ollama asks no memory: three models stay, the fourth evicts one."""
    found = residents(tenants("ollama", 2, 2, 2, 2), "ollama", ())
    assert [len(s.loaded) for s in found.steps] == [1, 2, 3, 3]
    assert found.steps[3].evicted == (0,)
    assert {r.n_ctx for r in found.steps[3].loaded} == {4096}


def test_a_plan_is_kept_as_planned() -> None:
    """What was planned for Ollama stays loaded, in any order of requests; so do the router's children."""
    gpus = [gpu(12288, name="a"), gpu(8192, name="b")]
    shared = shared_for(tenants("ollama", 1, 0), gpus, "ollama")
    assert shared.loaded == (0, 1)
    found = residents(shared, "ollama", requests=[0, 1, 0, 1])
    assert all(not s.evicted for s in found.steps)
    assert [r.n_ctx for r in found.steps[1].loaded] == [p.n_ctx for p in shared.plans]
    server = shared_for(tenants("llama-server", 1, 0), gpus)
    shown = residents(server, "llama-server", most=2)
    assert [r.n_ctx for r in shown.steps[-1].loaded] == [server.plans[i].n_ctx for i in server.loaded]


def test_a_child_that_was_told_too_much_does_not_start() -> None:
    """With --fit off a child takes what it was told or ends; nobody makes room for it."""
    gpus = [gpu(8192)]
    shared = shared_for(tenants("llama-server", 1), gpus)
    both = replace(
        shared, tenants=shared.tenants * 2, plans=shared.plans * 2, cards=shared.cards * 2, loaded=(0, 1),
        gpus=(gpu(shared.plans[0].estimate.gpus[0].total // MIB + 100),),
    )  # fmt: skip
    found = residents(both, "llama-server")
    assert [len(s.loaded) for s in found.steps] == [1, 1]
    assert found.steps[1].why == "it does not start, out of memory on card"


def test_the_router_s_fit_takes_what_is_left() -> None:
    """A child that is told no context starts with less beside others, and says that it is no more than that."""
    found = residents(tenants("llama-server", 2, 2, 2), "llama-server", [gpu(4096)])
    assert all(r.at_most or r.n_ctx == 16384 for r in found.steps[-1].loaded)
    assert found.steps[-1].why == "--fit moves layers to the host"
    assert "≤ 4,096" in str(found)
    assert any("not replayed" in note for note in found.notes)


def test_ollama_moves_layers_or_fails() -> None:
    """Told no layers, the rest goes to the host; told them, all others go, and then it fails."""
    tight = [gpu(3072)]
    found = residents(tenants("ollama", 2, n_ctx=16384), "ollama", tight)
    assert found.steps[0].loaded[0].at_most
    assert "to the host" in found.steps[0].why
    assert sum(found.steps[0].loaded[0].taken) <= tight[0].free - GIB
    asked = [
        *tenants("ollama", 0, n_ctx=512),
        replace_settings(tenants("ollama", 0, 2)[1], n_ctx=16384, n_gpu_layers=24),
    ]
    failed = residents(asked, "ollama", tight)
    assert failed.steps[1].evicted == (0,)
    assert failed.steps[1].loaded == ()
    assert "once more" in failed.steps[1].why
    assert "even alone" in failed.steps[1].why


def replace_settings(tenant: Tenant, **options: Any) -> Tenant:
    return Tenant(tenant.model, replace(tenant.settings, **options), name=tenant.name)


def test_it_shows_itself() -> None:
    """A line for each model after each request, with its bytes on each card, and why."""
    text = str(
        residents(
            tenants("ollama", 1, 1, n_ctx=4096),
            "ollama",
            [gpu(4096, name="left"), gpu(4096, name="right")],
            most=1,
        )
    )
    lines = text.splitlines()
    assert lines[0].split() == ["asked", "for", "loaded", "tokens", "left", "right"]
    assert lines[2].startswith("m1")
    assert "m0 goes, for 1 are loaded at most" in lines[2]
    notes = str(residents(tenants("ollama", 1, 1, 1, n_ctx=512), "ollama", [gpu(65536)], most=2))
    assert "checksum" in notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "lm-studio"}, "not replayed"),
        ({"requests": [2]}, "indexes of the models, 0 to 1"),
        ({"requests": [True]}, "indexes"),
        ({"most": -1}, "most=-1"),
        ({"keep_alive": [1.0]}, "1 durations for 2 models"),
    ],
)
def test_bad_questions(options: dict[str, Any], message: str) -> None:
    """What cannot be replayed is refused with what can."""
    with pytest.raises(SettingsError, match=message):
        residents([SIZES[0], SIZES[1]], **{"engine": "ollama", "gpus": [gpu()], **options})


def test_planned_sizes_are_what_stays() -> None:
    """A resident's bytes are those of its plan on what the others left."""
    gpus = [gpu(16384)]
    found = residents(tenants("ollama", 0, n_ctx=4096, n_batch=256), "ollama", gpus)
    alone = plan(
        SIZES[0], gpus, engine_settings("ollama", flash_attn="on", n_ctx=4096, n_batch=256), margin_bytes=0
    )
    assert found.steps[0].loaded[0].taken == (alone.estimate.gpus[0].total,)
