"""Several models: the answer is that of trying every place of every model, and all of it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, pairwise, product

import pytest
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, shortened
from test_next_tokens import model_of as next_token_model
from test_plan import splits

import vramfit
from vramfit._base.errors import GpuError, ModelError, SettingsError
from vramfit._devices import Gpu, Host, parse_gpus
from vramfit._estimate.estimate import estimate
from vramfit._llama.params import Settings
from vramfit._planner.shared import SharedPlan, Tenant, plan_shared
from vramfit._planner.warnings import process_bytes

MARGIN = 8 << 20
SETTINGS = Settings(flash_attn="on", n_outputs_max=1)
CHAT, CODE, EMBED = (
    dense(3, n_embd=512, n_ff=1024, n_vocab=2048, n_head=8, n_head_kv=8, n_ctx_train=2048),
    dense(4, n_embd=256, tied=True, n_head=4, n_head_kv=4, n_ctx_train=1536),
    dense(2, n_embd=256, n_ctx_train=1024),
)


def tenants(*weights: float) -> tuple[Tenant, ...]:
    names = ("chat", "code", "embed")
    models = (CHAT, CODE, EMBED)
    return tuple(
        Tenant(m, SETTINGS, weight=w, name=n) for m, w, n in zip(models, weights, names, strict=False)
    )


def cards(mib: Sequence[int], n_models: int) -> list[Gpu]:
    """Cards with so much memory beside what the models' processes take."""
    extra = (n_models - 1) * process_bytes(gpu(16384)) >> 20
    return [gpu(n + extra, name=f"card {i}") for i, n in enumerate(mib)]


@dataclass
class Tried:
    """Every place of every model, each estimated by itself."""

    tenants: Sequence[Tenant]
    gpus: Sequence[Gpu]
    margin: int = MARGIN
    known: dict[tuple[int, int], list[dict[int, int]]] = field(default_factory=dict)

    def places(self, i: int, n_ctx: int) -> list[dict[int, int]]:
        """What a model takes of which cards, under every set of them and every split."""
        if (i, n_ctx) not in self.known:
            self.known[i, n_ctx] = list(self._places(i, n_ctx))
        return self.known[i, n_ctx]

    def _places(self, i: int, n_ctx: int) -> Iterator[dict[int, int]]:
        model = self.tenants[i].model
        for n in range(1, len(self.gpus) + 1):
            for some in combinations(range(len(self.gpus)), n):
                for split in splits(model.n_layer + 1, n):
                    told = replace(
                        self.tenants[i].settings,
                        n_ctx=n_ctx,
                        tensor_split=tuple(map(float, split)) if n > 1 else (),
                    )
                    found = estimate(model, [self.gpus[c] for c in some], told)
                    yield {c: g.total for c, g in zip(some, found.gpus, strict=True)}

    def fits(self, loaded: Sequence[int], contexts: Sequence[int]) -> bool:
        """Whether any choice of places fits."""
        extra = [(len(loaded) - 1) * process_bytes(g) for g in self.gpus]
        room = [g.free - self.margin - more for g, more in zip(self.gpus, extra, strict=True)]
        own = [self.places(i, n) for i, n in zip(loaded, contexts, strict=True)]
        for chosen in product(*own):
            sums = [sum(place.get(c, 0) for place in chosen) for c in range(len(room))]
            if all(s <= r or not s for s, r in zip(sums, room, strict=True)):
                return True
        return False

    def best(self, objective: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Which models are loaded, and their contexts: the objective, in so many words."""
        loaded = self._loaded()
        contexts = [256] * len(loaded)
        growing = list(range(len(loaded)))
        while growing:
            row = list(self._row(loaded, contexts, growing if objective == "share" else growing[:1]))
            fitting = [at for at, (after, _) in enumerate(row) if self.fits(loaded, after)]
            last = max(fitting, default=-1)
            if last >= 0:
                contexts = list(row[last][0])
            stuck = [row[last + 1][1]] if last + 1 < len(row) else growing
            growing = [i for i in growing if i not in (stuck if objective == "share" else growing[:1])]
        return loaded, tuple(contexts)

    def _loaded(self) -> tuple[int, ...]:
        for n in range(len(self.tenants), 0, -1):
            for some in combinations(range(len(self.tenants)), n):
                if self.fits(some, [256] * n):
                    return some
        return ()

    def _row(
        self, loaded: Sequence[int], contexts: Sequence[int], growing: Sequence[int]
    ) -> Iterator[tuple[list[int], int]]:
        """Raise the model with the smallest share, one step each time, until all have what they wish."""
        now = list(contexts)

        def share(i: int) -> tuple[float, int]:
            tenant = self.tenants[loaded[i]]
            return now[i] / (tenant.wished * tenant.weight), i

        while open_ := [i for i in growing if now[i] + 256 <= self.tenants[loaded[i]].wished]:
            raised = min(open_, key=share)
            now[raised] += 256
            yield list(now), raised


def check(found: SharedPlan) -> None:
    """All that is said of devices adds up, and fits."""
    for i in found.loaded:
        plan = found.plans[i]
        assert plan.fits
        assert plan.n_ctx <= max(256, found.tenants[i].wished)
        for card, device in zip(found.cards[i], plan.estimate.gpus, strict=True):
            own = found.devices[card]
            assert own.taken[i] == device.total + device.beside
            assert device.left == own.left or device.free_bytes == 0
    for whole in found.devices:
        assert not whole.is_judged or not sum(whole.taken) or whole.left >= found.margin_bytes


@examples(8)
@given(
    st.lists(st.integers(50, 170), min_size=1, max_size=2),
    st.sampled_from(["share", "order"]),
    st.sampled_from([(1, 1, 1), (1, 3), (0.5, 1, 2)]),
)
def test_the_answer_is_that_of_trying_every_place(
    mib: list[int], objective: str, weights: tuple[float, ...]
) -> None:
    """Sets of cards, splits and contexts, all of them: the same models are loaded, with the same contexts."""
    own = tenants(*(weights if objective == "share" else [1.0] * len(weights)))
    gpus = cards(mib, len(own))
    found = plan_shared(own, gpus, margin_bytes=MARGIN, objective=objective)
    check(found)
    assert found.proved
    loaded, contexts = Tried(own, gpus).best(objective)
    assert found.loaded == loaded
    assert tuple(found.plans[i].n_ctx for i in loaded) == contexts


@cache
def published() -> tuple[Tenant, ...]:
    """Three models with graphs of their own: two shipped headers cut to a few layers, one with windows."""
    shipped = (
        ("coder", "qwen2.5-14b-instruct-1m-q8_0.gguf", 3, 3072),
        ("seer", "gemma-3-12b-q4_k_m.gguf", 6, 2048),
        ("draft", "beside/qwen2.5-0.5b-instruct-q4_k_m.gguf", 2, 1024),
    )
    return tuple(
        Tenant(shortened(vramfit.read(ROOT / "examples" / file), n), SETTINGS, wish=wish, name=name)
        for name, file, n, wish in shipped
    )


@examples(2)
@given(st.integers(3400, 4400), st.integers(0, 2200), st.sampled_from(["share", "order"]))
def test_with_graphs_of_their_own(total: int, second: int, objective: str) -> None:
    """The same for models whose compute buffers are replayed, and may shrink as a context grows."""
    own = published()
    gpus = cards([total - second, second] if second > 150 else [min(total, 3800)], len(own))
    found = plan_shared(own, gpus, margin_bytes=MARGIN, objective=objective)
    check(found)
    loaded, contexts = Tried(own, gpus).best(objective)
    assert found.proved
    assert (found.loaded, tuple(found.plans[i].n_ctx for i in loaded)) == (loaded, contexts)


@examples(5)
@given(st.integers(60, 170), st.integers(90, 220), st.integers(0, 2))
def test_a_host_of_known_memory_is_shared_too(mib: int, host: int, fixed: int) -> None:
    """With layers on the host its memory holds all of them, and the next step of each would not fit beside the others."""
    told = replace(SETTINGS, n_gpu_layers=2)
    own = [
        replace(t, settings=replace(told, n_ctx=512 if i == fixed else 0))
        for i, t in enumerate(tenants(1, 1, 1))
    ]
    found = plan_shared(own, cards([mib], 3), margin_bytes=MARGIN, host=Host(host << 20))
    check(found)
    assert found.proved
    for i in found.loaded:
        plan = found.plans[i]
        if own[i].settings.n_ctx:
            assert plan.limited_by == "the context asked for"
        elif plan.n_ctx < own[i].wished:
            further = replace(plan.settings, n_ctx=plan.n_ctx + 256)
            estimated = estimate(plan.model, plan.gpus, further, host=plan.host)
            assert min(d.left for d in (*estimated.gpus, estimated.host) if d.is_judged) < MARGIN


def test_a_chip_that_shares_the_memory_holds_the_hosts_part() -> None:
    """What models need of the host counts against a Mac's memory once for each of them."""
    (mac,) = parse_gpus("m3ultra-512gb")
    found = plan_shared(published(), [replace(mac, free_bytes=5 << 30)], margin_bytes=MARGIN)
    check(found)
    assert found.loaded == (0, 1, 2)
    assert found.devices[0].taken == tuple(
        p.estimate.gpus[0].total + p.estimate.gpus[0].beside for p in found.plans
    )
    assert all(p.estimate.gpus[0].beside for p in found.plans)


def test_a_draft_has_a_card_of_its_own_model() -> None:
    """What is loaded beside a model is told its card, so that a plan of several is proved with it."""
    coder, seer, small = published()
    together = vramfit.accompany(coder.model, draft=small.model)
    told = replace(SETTINGS, spec_type="draft-simple")
    found = plan_shared(
        [Tenant(together, told, wish=3072), seer], cards([2000, 2050], 2), margin_bytes=MARGIN
    )
    check(found)
    assert found.proved
    assert found.fits
    assert found.plans[0].estimate.company[0].exact
    assert found.plans[0].estimate.gpus[0].company > 100 << 20


def test_next_token_layers_are_divided_with_their_model() -> None:
    """They follow every split: what was found was replayed with them, on both cards."""
    told = replace(SETTINGS, spec_type="draft-mtp")
    own = Tenant(next_token_model("mtp-qwen35"), told, wish=512)
    gpus = cards([470, 500], 2)
    found = plan_shared([own, tenants(1)[0]], gpus, margin_bytes=MARGIN)
    check(found)
    assert found.fits
    assert found.cards[0] == (0, 1)
    assert found.plans[0].estimate.gpus[1].company


def test_many_cards_are_not_proved() -> None:
    """Of more than four cards a model gets neighbours, and the answer says that others were not tried."""
    own = [replace(t, wish=1 << 17) for t in published()[:2]]
    found = plan_shared(own, cards([1100] * 6, 2), margin_bytes=MARGIN)
    check(found)
    assert found.fits
    assert not found.proved
    assert "neighbours" in found.note
    assert len(found.cards[0]) > 1
    assert all(b == a + 1 for some in found.cards for a, b in pairwise(some))


def test_too_many_places_are_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the work ends before all places were tried, the answer fits all the same, and says so."""
    monkeypatch.setattr("vramfit._planner.shared.packing._WORK", 50)
    own = tenants(1, 1, 1)
    gpus = cards([90, 92, 94], 3)
    found = plan_shared(own, gpus, margin_bytes=MARGIN)
    check(found)
    assert not found.proved
    assert "than were tried" in found.note


def test_as_many_as_can_be_are_loaded() -> None:
    """The first ones first; what is left out says what it lacks beside the least of the others."""
    found = plan_shared(tenants(1, 1, 1), cards([100], 3), margin_bytes=MARGIN)
    check(found)
    assert not found.fits
    left_out = [i for i in range(3) if i not in found.loaded]
    assert left_out
    assert all(not found.plans[i].fits and found.plans[i].shortfall for i in left_out)
    nothing = plan_shared(tenants(1, 1), [gpu(20)], margin_bytes=MARGIN)
    assert nothing.loaded == ()
    assert nothing.share is None


def test_the_layers_of_a_given_split_stay() -> None:
    """Shares, and a split mode without any, are what the engine is told; the other models make room."""
    first, second, _ = tenants(1, 1, 1)
    gpus = cards([120, 130], 2)
    told = replace(first, settings=replace(SETTINGS, tensor_split=(1.0, 3.0)))
    found = plan_shared([told, second], gpus, margin_bytes=MARGIN)
    check(found)
    assert found.plans[0].tensor_split == (1, 3)
    alone = replace(first, settings=replace(SETTINGS, split_mode="none", main_gpu=1))
    found = plan_shared([alone, second], gpus, margin_bytes=MARGIN)
    check(found)
    assert found.cards[0] == (1,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vramfit.plan([], "4090"), SettingsError, "0 models: give 1 to 8"),
        (lambda: vramfit.plan([CHAT] * 9, "4090"), SettingsError, "9 models"),
        (lambda: vramfit.plan([CHAT, CHAT], "4090"), SettingsError, "Hand Made is given twice"),
        (lambda: vramfit.plan([CHAT], "4090", objective="sum"), SettingsError, "give one of share, order"),
        (lambda: vramfit.plan([CHAT], "4090", objective=["share"]), SettingsError, "objective="),  # type: ignore[call-overload]
        (lambda: vramfit.plan([Tenant(CHAT, weight=2)], "4090", objective="order"), SettingsError, "weights"),
        (lambda: vramfit.plan([5], "4090"), ModelError, "give a Model"),  # type: ignore[arg-type]
        (lambda: vramfit.plan([CHAT, CODE], "4090,mini/3090"), GpuError, "one process at a time"),
        (lambda: Tenant(CHAT, {"n_ctx": 512}, wish=1024), SettingsError, "wish=1024 asks for another"),
        (lambda: Tenant(CHAT, {"n_ctx": 512}, weight=3), SettingsError, "weight=3 asks for another"),
        (lambda: Tenant(CHAT, weight=0), SettingsError, "weight=0: give a number above 0"),
        (lambda: Tenant(CHAT, weight="2"), SettingsError, "weight="),  # type: ignore[arg-type]
        (lambda: Tenant(CHAT, wish=-1), SettingsError, "wish=-1"),
        (lambda: Tenant(CHAT, name="a\x1b[31m"), SettingsError, "printable name"),
        (lambda: Tenant(CHAT, name=7), SettingsError, "printable name"),  # type: ignore[arg-type]
        (
            lambda: vramfit.plan([replace(CHAT, n_ctx_train=0)], "4090"),
            SettingsError,
            "names no trained context",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    """Each with what does not match."""
    with pytest.raises(error, match=message):
        call()


def test_two_of_one_name_are_told_apart() -> None:
    """Models of one name are numbered; one model may be loaded twice under two names."""
    found = plan_shared([CHAT, CODE], cards([160], 2), SETTINGS, margin_bytes=MARGIN)
    assert [t.name for t in found.tenants] == ["Hand Made", "Hand Made #2"]
    twice = plan_shared(
        [Tenant(CHAT, SETTINGS, name="a"), Tenant(CHAT, SETTINGS, name="b")],
        cards([200], 2),
        margin_bytes=MARGIN,
    )
    assert twice.fits
    assert twice.devices[0].taken[0] >= twice.devices[0].taken[1]


def test_the_host_alone_holds_several() -> None:
    """Without a card the host's memory is divided."""
    found = plan_shared(tenants(1, 1), (), SETTINGS, margin_bytes=MARGIN, host=Host(120 << 20))
    check(found)
    assert found.proved
    assert found.fits
    assert found.devices[0].name == "host"
    assert {p.limited_by for p in found.plans} <= {"host", "the trained context"}


def test_nobody_gets_more_than_the_limit() -> None:
    """`max_ctx` is the most for each; a wish below it is what limits."""
    own = [replace(tenants(1)[0], wish=512), tenants(1, 1)[1]]
    found = plan_shared(own, cards([400], 2), margin_bytes=MARGIN, max_ctx=1024)
    assert [(p.n_ctx, p.limited_by) for p in found.plans] == [(512, "its wish"), (1024, "max_ctx")]
    assert found.share == 1.0


def test_two_divided_models_share_a_card() -> None:
    """Where each needs two of three cards, one card has layers of both: as trying every place finds."""
    own = [replace(t, wish=512) for t in published()[:2]]
    gpus = cards([950, 1620, 1300], 2)
    found = plan_shared(own, gpus, margin_bytes=MARGIN)
    check(found)
    assert found.proved
    assert found.fits
    assert len({*found.cards[0]} & {*found.cards[1]}) >= 1
    loaded, contexts = Tried(own, gpus).best("share")
    assert (found.loaded, tuple(p.n_ctx for p in found.plans)) == (loaded, contexts)
