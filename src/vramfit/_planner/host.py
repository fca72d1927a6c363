"""Find which of the contexts that fit on the cards fit in the host's memory, too, and how much of it a chip is lent.

In: a `Host`, or a card that shares the system's memory, and the question of a `plan`. Out: a context and a split. What the
host needs beside compute buffers never falls as the context grows, and no split changes it: it bounds the contexts
that are tried. The answer was replayed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .._base.units import GIB, MIB, format_bytes
from .._devices import Card, Gpu, Host, all_cards, rules
from .._estimate.compute import compute_bytes
from .._estimate.estimate import DeviceEstimate, Estimate
from .._llama.cparams import resolve
from .._llama.host_memory import HostNeeds, host_needs, shared_card
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import place
from .search import Chains, Company, Split, largest, last_where
from .segments import Segments
from .warnings import SYSTEM_LEAST, SYSTEM_SHARE

__all__ = ["Beside", "host_sentence", "host_warnings", "lent_sentence", "lent_warnings"]

_PROMPTS: Final = 8 * GIB  # of llama-server's prompt cache, unless --cache-ram says otherwise (common.h:634)
_PAGE: Final = 4096  # bytes that ttm.pages_limit counts


@dataclass(slots=True)
class Beside:
    """The host beside the cards in use of one question; `room` is what may be taken on each card."""

    model: Model
    gpus: Sequence[Gpu]
    settings: Settings
    used: Sequence[int]
    room: Sequence[int]
    margin: int
    host: Host | None
    segments: Callable[[], Segments]
    only: Split | None = None
    company: Company | None = None  # what is loaded beside the model takes, `gpus` of the cards in use
    known: dict[int, HostNeeds] = field(default_factory=dict)
    over: Callable[[Sequence[int]], Chains] | None = (
        None  # all splits over so much room, where more is divided
    )
    assume: Callable[[Split], None] | None = None  # takes the split that a draft is divided like, then

    @property
    def counts(self) -> bool:
        """Whether the host limits anything."""
        return self.host is not None or shared_card([self.gpus[i] for i in self.used]) is not None

    def needs(self, n_ctx: int) -> HostNeeds:
        """Count what the host needs at a context, compute buffers apart."""
        if n_ctx not in self.known:
            settings = replace(self.settings, n_ctx=n_ctx)
            context = resolve(self.model, settings)
            placement = place(self.model, self.gpus, settings)
            self.known[n_ctx] = host_needs(self.model, self.gpus, settings, context, placement, self.host)[0]
        return self.known[n_ctx]

    def chains(self, n_ctx: int, compute: int = 0) -> Chains:
        """Return all splits, with so much less room on a card that has the host's memory as that needs, `compute` included."""
        needs, room = self.needs(n_ctx), list(self.room)
        if needs.card is not None:
            room[needs.card] -= needs.pooled + compute
        if self.over is not None:
            return self.over(room)._replace(only=self.only)
        return Chains(self.segments(), room, self.only, self.company)

    def has_room(self, n_ctx: int, compute: int | None = None) -> bool:
        """Tell whether a host of known memory holds what it needs, with the margin left; without `compute` at least that."""
        if self.host is None:
            return True
        size = self.needs(n_ctx).held + (compute or 0)
        if self.company is not None:
            size += self.company(n_ctx, compute is None).host
        return size <= self.host.free - self.margin or size <= 0

    def largest(self, candidates: range) -> tuple[int, Split] | None:
        """Find the largest of the contexts that fits cards and host, and its split; None if none does."""
        high = last_where(lambda i: self.has_room(candidates[i]), -1, len(candidates) - 1)
        if high < 0:
            return None
        split: Split | None = ()
        if self.used:
            found = largest(self.chains(candidates[0]), candidates[: high + 1])
            if found is None:
                return None
            high, split = candidates.index(found[0]), found[1]
        answers: dict[int, Split] = {}

        def carries(i: int) -> bool:
            answer = self._split(candidates[i], split)
            if answer is not None:
                answers[i] = answer
            return answer is not None

        at = last_where(carries, -1, high)
        return None if at < 0 else (candidates[at], answers[at])

    def _split(self, n_ctx: int, hint: Split | None) -> Split | None:
        """Find a split under which a context fits cards and host; None where none was found."""
        compute = 0
        for _ in range(2):  # a split found for the host's compute buffer of another
            split = self._on_cards(n_ctx, compute, hint)
            if split is None:
                return None
            if self.assume is not None:
                self.assume(split)
            needed = self.compute(split, n_ctx)
            fits = not self.used or self.chains(n_ctx, needed).fits(split, n_ctx)
            if fits and self.has_room(n_ctx, needed):
                return split
            compute = max(compute, needed)
        return None

    def _on_cards(self, n_ctx: int, compute: int, hint: Split | None) -> Split | None:
        if not self.used:
            return ()
        chains = self.chains(n_ctx, compute)
        if hint is not None and chains.fits(hint, n_ctx):
            return hint
        found = largest(chains, range(n_ctx, n_ctx + 1))
        return found[1] if found else None

    def compute(self, split: Sequence[int], n_ctx: int) -> int:
        """Count the bytes of the host's compute buffer under a split."""
        if self.used:
            return self.segments().compute(split, n_ctx).host
        settings = replace(self.settings, n_ctx=n_ctx)
        placement = place(self.model, self.gpus, settings)
        return compute_bytes(self.model, placement, resolve(self.model, settings), ()).host

    def is_full(self, split: Sequence[int], n_ctx: int) -> bool:
        """Tell whether it is the host that a context would overfill."""
        return self.host is not None and not self.has_room(n_ctx, self.compute(split, n_ctx))


def host_warnings(result: Estimate, margin: int) -> Iterable[str]:
    """Say what to do where the host is short, and what is not counted there where little is left."""
    host = result.host
    if not host.is_judged:
        return
    known = [d for d in (*result.gpus, host) if d.total_bytes]
    needed, room = sum(d.total + d.beside for d in known), sum(max(0, d.free_bytes - margin) for d in known)
    if needed > room and len(known) > 1:
        yield (
            f"{format_bytes(needed)} are needed, and cards and host together have {format_bytes(room)} without the margins: take"
            " a smaller file type (vramfit compare), or a smaller context"
        )
    short = margin - host.left
    if short > 0:
        yield _advice(result, short)
    elif result.settings.defaults == "llama-server" and -short < _PROMPTS:
        size = max(0, -short) // MIB
        yield (
            f"llama-server keeps prompts in up to {format_bytes(_PROMPTS)} of the host beside this, and {format_bytes(-short)}"
            f" are left: give it --cache-ram {size}"
        )


def _advice(result: Estimate, short: int) -> str:
    """Say what helps a host that is short, and what happens if nothing is done."""
    host, settings = result.host, result.settings
    said = f"the host is short of {format_bytes(short)}: {_what_helps(result)}"
    if settings.load_mode in ("none", "mlock", "dio", "mmap+mlock"):
        return f"{said}; without -lm {settings.load_mode} (--no-mmap, --mlock) its weights would be pages of the file, which can be dropped"
    if host.mapped >= short:
        said += (
            f"; {format_bytes(host.mapped)} there are pages of the model's file, which the system drops and reads again: it would"
            " start, and wait for the disk with every token"
        )
    return said


def _what_helps(result: Estimate) -> str:
    host, settings = result.host, result.settings
    cards: Sequence[DeviceEstimate] = [g for g in result.gpus if g.total]
    found = ["a smaller context or cache type" if host.context else ""]
    if cards:
        found += [
            "fewer experts on the host (-ncmoe)" if settings.cpu_tensors else "",
            "more layers on the cards (-ngl)" if host.layers else "",
            "the cache on the cards (without -nkvo)" if not settings.offload_kqv else "",
        ]
    found.append("a smaller file type (vramfit compare)")
    return ", ".join(filter(None, found))


def host_sentence(result: Estimate) -> str:
    """What of a host's weights the system may drop, and what it must hold; "" where its memory is not known."""
    host = result.host
    if not host.is_judged or not host.model:
        return ""
    rest = host.model - host.mapped
    parts = (
        f"{format_bytes(host.mapped)} are pages of the model's file" if host.mapped else "",
        f"{format_bytes(rest)} are allocated" if rest else "",
    )
    return f"Of the weights on the host {', '.join(filter(None, parts))}."


def lent_sentence(gpu: Gpu) -> str:
    """How much of the system's memory a chip gets, and what makes it more; "" for cards and Macs (`wired_sentence`)."""
    if not gpu.unified or gpu.backend == "metal":
        return ""
    card = _card(gpu)
    if gpu.backend == "cuda":  # ggml-cuda.cu:5079
        return (
            f"{gpu.name} shares the system's memory, and free is what Linux has available: close what is open, the desktop"
            " as well (`sudo systemctl isolate multi-user.target`), and give what is left"
        )
    if gpu.backend == "hip" or (card is not None and card.vendor == "amd"):
        said = f"{gpu.name} shares the system's memory; Linux lends it half of that unless it is told otherwise (GTT)"
        if raised := _gtt(gpu, card):
            said += f": {_pages(raised)} among the kernel's parameters lends {format_bytes(raised)}, after a restart"
        return said
    return (
        f"{gpu.name} shares the system's memory, of which its driver lends a part: give what"
        " `llama-server --list-devices` shows as free"
    )


def lent_warnings(gpu: Gpu, needed: int) -> Iterable[str]:
    """What to say where what Linux lends an AMD chip keeps a context from fitting that needs `needed` bytes of it."""
    raised, card = _gtt(gpu, _card(gpu)), _card(gpu)
    if card is None or raised < gpu.total_bytes + GIB:
        return
    own = rules().context_mib(card, raised // MIB) * MIB
    if needed + own > raised:
        yield f"lending {gpu.name} {format_bytes(raised)}, about all of the machine's memory, would not be enough"
        return
    yield (
        f"what Linux lends the GPU is what is short, not the memory: {_pages(raised)} among the kernel's parameters lends"
        f" {format_bytes(raised)} after a restart; plan for that with --gpus {gpu.id}:{(raised - own) // MIB}MiB"
    )


def _card(gpu: Gpu) -> Card | None:
    return next((c for c in all_cards() if gpu.id and c.id == gpu.id), None)


def _gtt(gpu: Gpu, card: Card | None) -> int:
    """The most that Linux should lend an AMD chip of the catalogue, by our advice for Macs; 0 where that is not known."""
    if (
        card is None
        or card.vendor != "amd"
        or not card.unified
        or not card.memory_gib
        or gpu.backend == "cuda"
    ):
        return 0
    ram = card.memory_gib << 30
    return ram - max(SYSTEM_LEAST, int(ram * SYSTEM_SHARE))


def _pages(n_bytes: int) -> str:
    return f"`ttm.pages_limit={n_bytes // _PAGE}`"
