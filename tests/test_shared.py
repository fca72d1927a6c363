"""Several models: the answer is that of trying every place of every model, and all of it fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, product

from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from small import dense, gpu, shortened
from test_plan import splits

import vramfit
from vramfit._devices import Gpu
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
    st.lists(st.integers(24, 90), min_size=1, max_size=2),
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


@examples(3)
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
