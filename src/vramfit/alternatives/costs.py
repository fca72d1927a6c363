"""What a change costs, in words with the figures of its plan."""

from __future__ import annotations

from collections.abc import Iterable

from ..placement import devices
from ..quality import MODEL, cache_measure
from ..solve import Plan
from ..speed import active_bytes, decode_limit
from ..units import format_bytes
from .changes import slots_of

__all__ = ["costs", "host_read", "tokens_per_second"]


def costs(asked: Plan, found: Plan) -> tuple[str, ...]:
    """What `found` costs against `asked`; empty where nothing is known to be lost."""
    return (*_quality(asked, found), *_batches(asked, found), *_host(asked, found))


def _quality(asked: Plan, found: Plan) -> Iterable[str]:
    s = found.settings
    if (s.type_k, s.type_v) != (asked.settings.type_k, asked.settings.type_v):
        measure = cache_measure(s.type_k, s.type_v)
        if measure is None:
            yield "less exact attention, by how much is not published"
        else:
            yield f"less exact attention: KLD {measure.kld:.4f} on {MODEL}"


def _batches(asked: Plan, found: Plan) -> Iterable[str]:
    before, after = asked.settings, found.settings
    if after.n_ubatch and after.n_ubatch < (before.n_ubatch or before.n_batch):
        yield f"prompts in steps of {after.n_ubatch} tokens, not {before.n_ubatch or before.n_batch}: slower"
    if after.n_seq_max < before.n_seq_max:
        share = "" if slots_of(before) > 1 else ", which had the context in common"
        yield f"one sequence at a time, not {before.n_seq_max}{share}"


def _host(asked: Plan, found: Plan) -> Iterable[str]:
    weights = found.estimate.host.model - asked.estimate.host.model
    read = _weights_read(found) - _weights_read(asked)
    if weights > 0:
        yield f"the host holds {format_bytes(weights)} of weights and reads {format_bytes(read)} a token"
    caches = found.estimate.host.context - asked.estimate.host.context
    if caches > 0:
        yield f"the host holds {format_bytes(caches)} of cache and attends there"


def _weights_read(plan: Plan) -> int:
    return active_bytes(plan.model, plan.estimate.placement)[-1]


def host_read(plan: Plan) -> int:
    """Bytes that the host reads for a token when the context is full."""
    return _weights_read(plan) + plan.estimate.host.context


def tokens_per_second(plan: Plan, host_bandwidth_gbs: float | None) -> float | None:
    """The bound of `speed.decode_limit` for a plan."""
    used = [plan.gpus[i] for i in devices(plan.gpus, plan.settings)]
    return decode_limit(plan.model, plan.estimate.placement, used, host_bandwidth_gbs)
