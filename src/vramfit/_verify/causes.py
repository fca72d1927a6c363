"""One setting changed at a time: which change makes an estimate what was printed.

Every cause is found by estimating again, none is guessed: a change counts where rows that differed agree with it and none
that agreed does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from .._base.errors import VramfitError
from .._llama.eras import era_of
from .._llama.params import Settings
from .builds import representatives
from .nouns import Cause, Row

__all__ = ["find_causes"]

MOST: Final = 64  # estimates in all
_TYPES: Final = ("f16", "q8_0", "q4_0", "bf16", "f32", "q5_1", "q4_1", "iq4_nl", "q5_0")
_UBATCHES: Final = (512, 1024, 2048, 256, 4096, 128, 64)

Estimate = Callable[[Settings], Sequence[Row]]


def find_causes(
    settings: Settings, rows: Sequence[Row], again: Estimate, *, build_known: bool
) -> tuple[Cause, ...]:
    """Changes after which more rows agree, best first, at most four; () where nothing differs or no change helps.

    `again` estimates with other settings. Where one change leaves rows that differ, a second is sought on top of it.
    """
    budget = [MOST]
    found = _round(settings, rows, again, budget, "", build_known)
    if found and not found[0].agrees:
        more = _round(found[0].settings, found[0].rows, again, budget, f"{found[0].what} and ", build_known)
        found = [*more, *found]
    return tuple(sorted(found, key=lambda c: not c.agrees))[:4]


def _round(
    settings: Settings,
    rows: Sequence[Row],
    again: Estimate,
    budget: list[int],
    before: str,
    build_known: bool,
) -> list[Cause]:
    open_rows = [r for r in rows if r.differs]
    kinds = {r.kind for r in open_rows}
    if not kinds:
        return []
    found: list[tuple[int, Cause]] = []
    for what, changed in _changes(settings, kinds, build_known):
        if budget[0] <= 0:
            break
        budget[0] -= 1
        try:
            then = tuple(again(changed))
        except VramfitError:
            continue
        gain = _gain(rows, then)
        if gain > 0:
            cause = Cause(before + what, changed, then, agrees=not any(r.differs for r in then))
            found.append((gain, cause))
            if cause.agrees:
                break
    return [cause for _, cause in sorted(found, key=lambda x: -x[0])]


def _gain(rows: Sequence[Row], then: Sequence[Row]) -> int:
    """How many rows more agree; 0 where one that agreed does not any more."""
    if len(rows) != len(then) or any(
        a.agrees and not b.agrees and a.judged for a, b in zip(rows, then, strict=True)
    ):
        return 0
    return sum(a.differs and not b.differs for a, b in zip(rows, then, strict=True))


def _changes(s: Settings, kinds: set[str], build_known: bool) -> Iterator[tuple[str, Settings]]:
    """Changes that can move these kinds of memory, the likeliest first."""
    builds = list(_builds(s))
    if not build_known:
        yield from builds
    if "context" in kinds:
        yield from _of_cache(s)
    if "compute" in kinds:
        yield from _of_compute(s)
    if "model" in kinds:
        yield from ((f"{n} layers on the cards", replace(s, n_gpu_layers=n)) for n in _layers(s))
    if build_known:
        yield from builds


def _builds(s: Settings) -> Iterator[tuple[str, Settings]]:
    own = era_of(s.engine_build)
    for build in representatives():
        if era_of(build) != own:
            yield (
                f"the rules of a build such as {build} ({era_of(build).title})",
                replace(s, engine_build=build),
            )


def _of_cache(s: Settings) -> Iterator[tuple[str, Settings]]:
    for kind in _TYPES:
        if (kind, kind) != (s.type_k, s.type_v):
            yield f"caches in {kind}", replace(s, type_k=kind, type_v=kind)
    yield "K in q8_0 and V in f16", replace(s, type_k="q8_0", type_v="f16")
    for flash in ("on", "off"):
        if flash != s.flash_attn:
            yield f"flash attention {flash}", replace(s, flash_attn=flash)
    yield (
        "a full-size cache for windows (--swa-full)" if not s.swa_full else "no --swa-full",
        replace(s, swa_full=not s.swa_full),
    )
    yield from _slots(s)
    yield (
        "the cache on the host (-nkvo)" if s.offload_kqv else "the cache on the cards",
        replace(s, offload_kqv=not s.offload_kqv),
    )
    yield from _ubatches(s)


def _of_compute(s: Settings) -> Iterator[tuple[str, Settings]]:
    for flash in ("on", "off", "auto"):
        if flash != s.flash_attn:
            yield f"flash attention {flash}", replace(s, flash_attn=flash)
    for outputs, what in (
        (0, "logits for the whole batch"),
        (1, "one row of logits"),
        (s.n_seq_max, "a row of logits a slot"),
    ):
        if outputs != s.n_outputs_max:
            yield what, replace(s, n_outputs_max=outputs)
    yield from _ubatches(s)
    yield from _slots(s)
    yield (
        "no --no-op-offload" if not s.op_offload else "--no-op-offload",
        replace(s, op_offload=not s.op_offload),
    )
    yield "embedding mode", replace(s, embeddings=not s.embeddings)


def _ubatches(s: Settings) -> Iterator[tuple[str, Settings]]:
    for n in _UBATCHES:
        if n != s.n_ubatch:
            yield f"a physical batch of {n}", replace(s, n_ubatch=n, n_batch=max(n, s.n_batch))


def _slots(s: Settings) -> Iterator[tuple[str, Settings]]:
    for n, unified in ((4, True), (1, False), (4, False), (2, True), (2, False), (8, True)):
        if (n, unified) != (s.n_seq_max, s.kv_unified):
            words = f"{n} slot{'s' if n > 1 else ''}" + (" with one cache" if unified and n > 1 else "")
            outputs = n if s.n_outputs_max == s.n_seq_max else s.n_outputs_max
            yield words, replace(s, n_seq_max=n, kv_unified=unified, n_outputs_max=outputs)


def _layers(s: Settings) -> Iterator[int]:
    if s.n_gpu_layers > 0:
        yield from (s.n_gpu_layers - 1, s.n_gpu_layers + 1)
    yield -1
