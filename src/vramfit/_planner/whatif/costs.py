"""Say what a change costs, in words with the numbers of its plan."""

from __future__ import annotations

from collections.abc import Iterable

from ..._base.units import format_bytes
from ..._llama.cparams import physical_batch
from ..._llama.placement import devices
from ..._llama.speculation import tokens_per_pass
from ..plan import Plan
from ..quality import MODEL, cache_measure
from ..speed import active_bytes, decode_limit

__all__ = ["costs", "extra_host_read", "tokens_per_second"]


def costs(asked: Plan, found: Plan) -> tuple[str, ...]:
    """Say what `found` costs against `asked`; empty where nothing is known to be lost."""
    return (*_quality(asked, found), *_batches(asked, found), *_host(asked, found))


def _quality(asked: Plan, found: Plan) -> Iterable[str]:
    s = found.settings
    if (s.type_k, s.type_v) != (asked.settings.type_k, asked.settings.type_v):
        measure = cache_measure(s.type_k, s.type_v)
        known = f"KLD {measure.kld:.4f} on {MODEL}" if measure else "no measure is published"
        yield f"narrower cache: {known}"


def _batches(asked: Plan, found: Plan) -> Iterable[str]:
    before, after = asked.settings, found.settings
    few, many = physical_batch(after), physical_batch(before)
    if few < many:
        yield f"slower prompts: {few} tokens at once, not {many}"
    if after.n_seq_max < before.n_seq_max:
        yield f"one sequence at a time, not {before.n_seq_max}"


def _host(asked: Plan, found: Plan) -> Iterable[str]:
    before, after = asked.estimate.host, found.estimate.host
    parts = [
        f"{format_bytes(size)} of {what}"
        for size, what in ((after.model - before.model, "weights"), (after.context - before.context, "cache"))
        if size > 0
    ]
    if parts:
        yield f"slower: {' and '.join(parts)} on the host, {format_bytes(extra_host_read(asked, found))} read a token"


def _weights_read(plan: Plan) -> int:
    return active_bytes(plan.model, plan.estimate.placement)[-1]


def host_read(plan: Plan) -> int:
    """Count the bytes that the host reads for a token when the context is full."""
    return _weights_read(plan) + plan.estimate.host.context


def extra_host_read(asked: Plan, found: Plan) -> int:
    """Count the bytes that the host reads for a token beyond what it reads as asked."""
    return max(0, host_read(found) - host_read(asked))


def tokens_per_second(plan: Plan, host_bandwidth_gbs: float | None) -> float | None:
    """Bound the tokens per second of a plan (see `speed`); None where the host's bandwidth is not known."""
    if plan.estimate.host.context and host_bandwidth_gbs is None:
        return None
    used = [plan.gpus[i] for i in devices(plan.gpus, plan.settings)]
    n_tokens = tokens_per_pass(plan.settings)
    return decode_limit(plan.model, plan.estimate.placement, used, host_bandwidth_gbs, n_tokens)
