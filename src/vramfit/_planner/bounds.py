"""Bound the speed of a plan from above, in tokens a second: decoding at an empty and at a full context, and reading a prompt.

In: a `Plan`, rates of its devices. Out: `Speed`: bounds with their terms. For each token every active weight is read once,
and at a full context every cell of the cache that attention looks at; a batch of a prompt reads the weights of its layers once,
however many tokens share them. Devices take turns, so their times add up, but for prompts that the engine pipelines: there
the slowest device counts. Computing overlaps with reading, so that the longer of the two counts where both are known. Latency,
launches and copies come on top: real speeds are lower, by how much nobody can say from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .._base.errors import SettingsError
from .._base.shown import Shown
from .._coerce import bandwidth, shown
from .._llama.cparams import Context, physical_batch, resolve
from .._llama.eras import era_of, rules_of
from .._llama.model import Cache, Cells, Home, Layer
from .._llama.placement import HOST, devices, pipeline_copies
from .._llama.speculation import tokens_per_pass
from .plan import Plan
from .speed import GB, active_weights

__all__ = ["LinkTerm", "Speed", "Term", "speed", "speed_of"]

TERA: Final = 10**12
ATTENTION: Final = (
    "kv"  # kinds of caches whose every cell is read for each token; of others nothing is counted
)
CHOICE: Final = "indexer"


@dataclass(frozen=True, slots=True)
class Term:
    """What one device does at the least, in bytes and operations; `gbs` and `tflops` are None where not known.

    For a token it reads `weights`, at a full context `cache` as well; for a batch of a prompt it reads `batch`, and each of
    its tokens takes `flops` operations: two for each active element of its layers' weights.
    """

    device: str
    weights: int
    cache: int
    batch: int
    flops: int
    gbs: float | None
    tflops: float | None = None

    @property
    def works(self) -> bool:
        """Whether the device has anything to do."""
        return self.weights > 0 or self.cache > 0

    def seconds(self, n_bytes: int, n_tokens: int = 1) -> float | None:
        """Count the seconds that it takes at the least to read so much and to compute so many tokens; None where it reads at a rate not known."""
        if n_bytes and self.gbs is None:
            return None
        read = n_bytes / (self.gbs * GB) if self.gbs else 0.0
        compute = n_tokens * self.flops / (self.tflops * TERA) if self.tflops else 0.0
        return max(read, compute)


@dataclass(frozen=True, slots=True)
class LinkTerm:
    """A network or bus between devices: the seconds that a token, and a batch of a prompt, wait for it at the least."""

    name: str
    token_seconds: float
    batch_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Speed(Shown):
    """Upper bounds in tokens a second of one sequence, and the terms that they are made of.

    None: the model does not decode, or a term is not known. `missing` says in sentences which terms are not known, and those that no
    bound here has. `pipelined`: devices read a prompt at the same time, batch behind batch. `n_tokens` are those that a pass gives,
    if all that speculation proposes is right; what proposing takes is not counted.
    """

    decode: float | None
    decode_full: float | None
    prompt: float | None
    n_ctx: int  # tokens of the sequence at a full context
    n_ubatch: int
    pipelined: bool
    terms: tuple[Term, ...]
    links: tuple[LinkTerm, ...] = ()
    missing: tuple[str, ...] = ()
    n_tokens: int = 1


def speed(plan: Plan, host_bandwidth_gbs: float | None = None) -> Speed:
    """Bound the speed of a plan. `host_bandwidth_gbs`: of the host's memory, in GB/s, where it holds layers or the cache.

    Raises `SettingsError` for anything but a plan, and for a bandwidth that is not above 0.
    """
    if not isinstance(plan, Plan):
        raise SettingsError(f"plan={shown(plan)}: give a Plan, as `vramfit.plan` returns it")
    return speed_of(plan, bandwidth("host_bandwidth_gbs", host_bandwidth_gbs))


def speed_of(
    plan: Plan,
    host_gbs: float | None = None,
    *,
    links: Sequence[LinkTerm] = (),
    tflops: Sequence[float | None] = (),
) -> Speed:
    """Bound the speed of a plan; `tflops` are the peak rates of the cards in use, then of the host.

    `links` lie between its devices, beside the network between its machines.
    """
    terms, links = _terms(plan, host_gbs, tflops), (*links, *_network(plan))
    batch = physical_batch(plan.settings)
    pipelined = _is_pipelined(plan)
    decodes, n_tokens = plan.model.has_cache, tokens_per_pass(plan.settings)
    wait = sum(link.token_seconds for link in links)
    empty = _total([t.seconds(t.weights) for t in terms], wait)
    full = _total([t.seconds(t.weights + t.cache) for t in terms], wait)
    batches = [t.seconds(t.batch, batch) for t in terms]
    waits = [link.batch_seconds for link in links]
    return Speed(
        decode=_rate(n_tokens, empty) if decodes else None,
        decode_full=_rate(n_tokens, full) if decodes else None,
        prompt=_rate(batch, _longest([*batches, *waits]) if pipelined else _total(batches, sum(waits))),
        n_ctx=plan.estimate.n_ctx_seq,
        n_ubatch=batch,
        pipelined=pipelined,
        terms=terms,
        links=links,
        missing=tuple(_missing(terms)),
        n_tokens=n_tokens,
    )


def _network(plan: Plan) -> Iterator[LinkTerm]:
    """Make the term of the network: a token waits for all machines, a batch at the least for the one that takes longest."""
    found = plan.link()
    if found is not None:
        waits = [
            max(c.received, c.sent) * 8 / (g * GB) for c, g in zip(found.prompt, found.gbits, strict=True)
        ]
        yield LinkTerm("network", found.seconds, max(waits))


def _total(seconds: Sequence[float | None], more: float) -> float | None:
    known = [s for s in seconds if s is not None]
    return sum(known) + more if len(known) == len(seconds) else None


def _longest(seconds: Sequence[float | None]) -> float | None:
    known = [s for s in seconds if s is not None]
    return max(known, default=0.0) if len(known) == len(seconds) else None


def _rate(n_tokens: int, seconds: float | None) -> float | None:
    return n_tokens / seconds if seconds else None


def _terms(plan: Plan, host_gbs: float | None, tflops: Sequence[float | None]) -> tuple[Term, ...]:
    """Make a term for each device in use, and last for the host."""
    placement, used = plan.estimate.placement, devices(plan.gpus, plan.settings)
    n = placement.n_devices + 1
    weights, batch, flops, cache = [0] * n, [0] * n, [0] * n, [0] * n
    for weight, device, part, of in active_weights(plan.model, placement):
        size = weight.tensor.n_bytes * part // of
        weights[device] += size
        if weight.home is not Home.OUTPUT:  # logits are made of the last token alone
            batch[device] += size
            flops[device] += 2 * weight.tensor.n_elements * part // of if len(weight.tensor.shape) > 1 else 0
    context = resolve(plan.model, plan.settings)
    for layer, device in zip(plan.model.layers, placement.caches, strict=True):
        cache[device] += sum(_cache_read(layer, context))
    names = [plan.estimate.gpus[i].name for i in used]
    rates = [plan.gpus[i].bandwidth_gbs for i in used]
    peaks = (*tflops, *[None] * n)[:n]
    assert HOST == -1  # the last
    return tuple(
        Term(*values)
        for values in zip(
            (*names, "host"), weights, cache, batch, flops, (*rates, host_gbs), peaks, strict=True
        )
    )


def _cache_read(layer: Layer, context: Context) -> Iterator[int]:
    """Count the bytes of a layer's caches that a token reads at a full context, at the least: where a few cells are chosen, the choice alone."""
    chosen = any(cache.kind == CHOICE for cache in layer.caches)
    for cache in layer.caches:
        if cache.kind == (CHOICE if chosen else ATTENTION):
            row = context.type_k.row_bytes(cache.k_width)
            row += context.type_v.row_bytes(cache.v_width) if cache.has_v else 0
            yield row * _cells(cache, int(context.n_ctx_seq))


def _cells(cache: Cache, n_ctx: int) -> int:
    if cache.cells is Cells.WINDOW:
        return min(cache.window, n_ctx)
    return n_ctx // cache.ratio if cache.cells is Cells.COMPRESSED else n_ctx


def _is_pipelined(plan: Plan) -> bool:
    era = era_of(plan.settings.engine_build)
    rules = [rules_of(plan.gpus[i], era) for i in devices(plan.gpus, plan.settings)]
    return len(rules) > 1 and pipeline_copies(plan.estimate.placement, rules) > 1


def _missing(terms: Sequence[Term]) -> Iterator[str]:
    """Say which terms are not known: those without which there is no bound first."""
    for term in terms:
        if term.works and term.gbs is None:
            yield f"the memory bandwidth of {_named(term)} is not known"
    unknown = [_named(t) for t in terms if t.flops and t.tflops is None]
    if unknown:
        yield f"computing is not counted: no rate is known of {' and '.join(unknown)}"


def _named(term: Term) -> str:
    return "the host" if term.device == "host" else term.device
