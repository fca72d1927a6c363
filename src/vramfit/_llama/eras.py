"""Find the era of the engine's build that a person runs: which of its rules were different.

In: what names a build ("b8470", "ollama@0.24", a commit). Out: an `Era`, a handful of switches. All rules of this package
are those of the pinned build; a switch says where another build differs, and acts at the one place where its rule lies.
Where a build cannot be told from its neighbours the larger figure counts.

Sources: the pull requests named beside each change; llama.cpp as llama-cpp-python 0.3.16, 0.3.20, 0.3.28, 0.3.35 and
0.3.36 ship it; buffers that builds of known number printed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from .._base.errors import SettingsError, shown
from .._devices import Gpu, backend_of
from .._ggml.backends import Backend

__all__ = [
    "BEFORE", "CHANGES", "OWN_RUNNER", "PINNED", "RELEASES", "Change", "Era", "Release", "era_of", "is_before", "rules_of",
]  # fmt: skip

PINNED_BUILD: Final = 11250  # 0c1e57098, 2026-10-01; its number is only near this
NEWEST: Final = 99999


class Era(NamedTuple):
    """The rules of a build that differ from those of the pinned one; all false is the pinned build.

    `title` is for people; `why` says why figures are not known to be exact, "" where they are.
    """

    title: str
    why: str = ""
    older_graph: bool = False  # attention as it was built in 2024: not replayed, figures are raised
    older_order: bool = False  # other backends than CUDA kept inputs longer: not replayed, theirs are raised
    no_latent: bool = False  # K and V of latent attention are stored head by head
    full_windows: bool = False  # layers with a window have caches of the whole context
    one_cache: bool = False  # all slots share one cache, whatever is asked
    one_slot: bool = False  # llama-server has one slot where nobody says how many
    output_last: bool = False  # -ngl counts the output layer last
    f32_mask: bool = False  # masks under flash attention are made in f32 and cast
    all_logits: bool = False  # logits are reserved for the whole physical batch
    pooled_copies: bool = False  # CUDA's f16 copies of a quantized cache are in no buffer
    no_sum: bool = False  # CUDA keeps nothing alive for the weighted sum of experts
    no_choice: bool = False  # nor for the choice of experts
    more_inputs: bool = False  # a batch may mix tokens and embeddings, which takes inputs and a copy

    @property
    def is_raised(self) -> bool:
        """Whether what it reserves is not replayed but raised from what the pinned build reserves."""
        return self.older_graph or self.older_order or self.more_inputs


class Change(NamedTuple):
    """A change of the engine that moved bytes.

    Builds below `first` lack it, builds from `sure` on have it; between the two it is not known, and what is larger
    counts: `grows` says whether that is the new rule. `switch` is the field of `Era` that is true without the change,
    or with it where `later` is.
    """

    switch: str
    first: int
    sure: int
    date: str
    source: str
    what: str
    grows: bool = False
    later: bool = False


CHANGES: Final = (
    Change("older_graph", 4880, 5192, "2025-04", "b5192 to b5622 (printed)", "attention takes no more than today"),
    Change("no_latent", 5129, 5133, "2025-04-15", "#12801, b4553 and b4905 (printed)", "latent attention stores one compressed row"),
    Change("full_windows", 5400, 5450, "2025-05-20", "#13194", "layers with a window have caches of its size"),
    Change("older_order", 6000, 6160, "2025-08", "b5781 (printed), 4227c9be4 (read)", "Vulkan frees inputs it has read"),
    Change("one_cache", 6000, 6160, "2025-08", "#14363, 4227c9be4 (read)", "a cache for each slot"),
    Change("one_slot", 6900, 7050, "2025-11", "#16736", "llama-server starts four slots with one cache"),
    Change("output_last", 7440, 7480, "2025-12-17", "#18148", "-ngl counts the output layer first", grows=True),
    Change("f32_mask", 9360, 9452, "2026-05-29", "#23764", "masks under flash attention are f16"),
    Change("all_logits", 9398, 9452, "2026-06-01", "#23861", "logits for the outputs that are kept"),
    Change(
        "pooled_copies", 9453, 9527, "2026-06-04", "#23907", "f16 copies of a quantized cache are reserved", grows=True
    ),
    Change("no_sum", 10700, 10751, "2026-09", "#25952, #27301", "CUDA keeps what the sum of experts reads", grows=True),
    Change("no_choice", 10751, PINNED_BUILD, "2026-09-09", "0c1e57098 (read)", "the same for their choice", grows=True),
    Change(
        "more_inputs", PINNED_BUILD + 1, PINNED_BUILD + 1, "2026-10-08", "b11549 (read)", "inputs of mixed batches", grows=True, later=True
    ),
)  # fmt: skip


class Release(NamedTuple):
    """A version of a program, or all `until` another one, and the build of llama.cpp in it.

    `near`: the number of the build is only near this, which is enough to tell its era.
    """

    program: str
    version: tuple[int, ...]
    build: int
    commit: str
    until: tuple[int, ...] = ()
    near: bool = True


# Sources: llama-cpp-python's submodule; Ollama's FETCH_HEAD in Makefile.sync, and from 0.30 LLAMA_CPP_VERSION.
RELEASES: Final = (
    Release("llama-cpp-python", (0, 3, 16), 6160, "4227c9be4"),
    Release("llama-cpp-python", (0, 3, 20), 8640, "f49e91787"),
    Release("llama-cpp-python", (0, 3, 28), 9553, "9e3b928fd"),
    Release("llama-cpp-python", (0, 3, 35), 10400, "4df29be4f"),
    Release("llama-cpp-python", (0, 3, 36), PINNED_BUILD, "0c1e57098"),
    Release("ollama", (0, 6), 4760, "d7cfe1ffe"),
    Release("ollama", (0, 7), 5360, "de4c07f93", until=(0, 11)),
    Release("ollama", (0, 11, 10), 6160, "e54d41bef"),
    Release("ollama", (0, 12, 6), 6700, "7049736b2"),
    Release("ollama", (0, 13), 6870, "3cfa9c3f1"),
    Release("ollama", (0, 13, 5), 7400, "ec98e2002", until=(0, 24, 99)),
    Release("ollama", (0, 30), 9452, "", near=False),
    Release("ollama", (0, 30, 11), 9781, "", near=False),
    Release("ollama", (0, 31, 2), 9888, "", near=False),
    Release("ollama", (0, 32, 5), 10091, "", near=False),
    Release("ollama", (0, 33), 10488, "", near=False),
)
PROGRAMS: Final = tuple(dict.fromkeys(r.program for r in RELEASES))
OWN_RUNNER: Final = (0, 30)  # Ollama before this runs many models in a runner of its own
_PINNED_NAMES: Final = ("", "pinned")

_BUILD: Final = re.compile(r"b?(\d{3,6})(?:[-\s(].*)?", re.DOTALL)
_COMMIT: Final = re.compile(r"[0-9a-f]{7,40}")
_VERSION: Final = re.compile(r"v?(\d{1,4}(?:\.\d{1,6}){0,3})(?:[-+.]?(?:rc|post|dev|a|b)[\w.]*)?")

PINNED: Final = Era("0c1e57098, October 2026")


@lru_cache(maxsize=64)
def era_of(build: str) -> Era:
    """Find the era of a build; "" is the pinned one.

    Takes a number ("b8470"), a program and its version ("ollama@0.24", "llama-cpp-python@0.3.28") or a commit. A commit that
    is not known gets the larger figure of all. Raises `SettingsError` for anything else.
    """
    text = build.strip().lower() if isinstance(build, str) else None
    if text in _PINNED_NAMES:
        return PINNED
    program, at, version = (text or "").replace("==", "@").partition("@")
    if at and program in ("llama.cpp", "llama-server"):
        text, at = version, ""
    if at:
        return _of_release(build, program, version)
    number = _BUILD.fullmatch(text or "")
    if number:
        return _era(f"b{int(number[1])}", int(number[1]), int(number[1]))
    if text and _COMMIT.fullmatch(text):
        return _of_commit(text)
    raise SettingsError(
        f"engine_build={shown(build)}: give a build such as b8470, a commit, or a program and its version such as"
        f" {' or '.join(f'{p}@{_newest(p)}' for p in PROGRAMS)}"
    )


def is_before(version: str, other: tuple[int, ...]) -> bool:
    """Tell whether a version such as "0.24" is older than another one."""
    found = _VERSION.fullmatch(version.strip().lower())
    return found is not None and _padded(tuple(map(int, found[1].split(".")))) < _padded(other)


def rules_of(gpu: Gpu, era: Era) -> Backend:
    """Find the rules of a card's backend in the builds of an era."""
    return backend_of(
        gpu,
        pooled_copies=era.pooled_copies,
        keeps_sum=not era.no_sum,
        keeps_choice=not era.no_choice,
    )


def _of_release(given: str, program: str, version: str) -> Era:
    found = _VERSION.fullmatch(version)
    if program not in PROGRAMS or not found:
        raise SettingsError(
            f"engine_build={shown(given)}: give one of {', '.join(f'{p}@{_newest(p)}' for p in PROGRAMS)}, or"
            " llama-server@b8470"
        )
    at = _padded(tuple(map(int, found[1].split("."))))
    releases = [r for r in RELEASES if r.program == program]
    before = [r for r in releases if _padded(r.version) <= at]
    behind = [r for r in releases if _padded(r.version) > at]
    low = before[-1].build if before else 0
    exactly = before and at <= _padded(before[-1].until or before[-1].version)
    high = low if exactly else behind[0].build if behind else NEWEST
    own = program == "ollama" and at < _padded(OWN_RUNNER)
    why = "Ollama before 0.30 runs many models in a runner of its own" if own else ""
    return _era(f"{program} {found[1]}", low, high, why)


def _padded(version: tuple[int, ...]) -> tuple[int, ...]:
    return (*version, 0, 0, 0, 0)[:4]


def _newest(program: str) -> str:
    return ".".join(map(str, [r for r in RELEASES if r.program == program][-1].version))


def _of_commit(text: str) -> Era:
    for r in RELEASES:
        if r.commit and (text.startswith(r.commit) or r.commit.startswith(text)):
            return PINNED if r.build == PINNED_BUILD else _era(r.commit, r.build, r.build)
    return _era(text[:9], 0, NEWEST, "this commit is not known, so the larger figure was taken")


def _era(name: str, low: int, high: int, why: str = "") -> Era:
    """Make the era of a build that is one of [low, high]; each switch as it is in all of these, else the larger way."""
    if low == high == PINNED_BUILD:
        return PINNED
    switches: dict[str, bool] = {}
    for c in CHANGES:
        if high < c.first:
            switches[c.switch] = not c.later
        elif low >= c.sure:
            switches[c.switch] = c.later
        else:
            switches[c.switch] = c.grows == c.later
    title = f"{name}: {_span(low, high)}"
    return Era(
        title,
        why or f"the rules of {_span(low, high)} follow the engine's source and printed loads",
        **switches,
    )


_BOUNDS: Final[Sequence[tuple[int, str]]] = (
    (6160, "before August 2025"),
    (9452, "August 2025 to b9451"),
    (10751, "b9452 to b10750"),
    (PINNED_BUILD + 1, "b10751 to 0c1e57098"),
    (NEWEST + 1, "after 0c1e57098"),
)


def _span(low: int, high: int) -> str:
    """Name the eras that a build of [low, high] can be of."""
    first, last = (next(name for until, name in _BOUNDS if n < until) for n in (low, min(high, NEWEST)))
    return first if first == last else f"{first}, or up to {last}"


BEFORE: Final = "b9359"  # the last build before the changes of June 2026, for saying what older ones need
