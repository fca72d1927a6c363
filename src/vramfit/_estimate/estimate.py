"""Add up what one model allocates under one set of settings: weights, context and compute, device by device.

In: `Model`, cards, `Settings`. Out: an `Estimate`. `model` and `context` are exact; `compute` says of
itself whether it is exact or a bound (see `compute`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .._base.shown import Shown
from .._coerce import AnyGpus, AnyHost, AnyModel, AnySettings, cards, host_of, model_of, settings_of
from .._devices import Gpu, Host, told_apart
from .._ggml.backends import HOST_BACKEND, Backend
from .._llama.cparams import Context, resolve
from .._llama.eras import era_of, rules_of
from .._llama.host_memory import HostNeeds, host_needs
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import HOST, Placement, devices, place
from .._llama.speculation import loaded, predicts
from .compute import Compute, compute_bytes

if TYPE_CHECKING:
    from .company import Companion, Terms

__all__ = ["DeviceEstimate", "Estimate", "estimate"]


@dataclass(frozen=True, slots=True)
class DeviceEstimate:
    """Bytes on one device, by the engine's own three terms. Cards of one model have names with a number.

    `layers` counts of n_layer + 1 (the output layer is one). `free_bytes` and `total_bytes` are 0 for a host whose
    memory is not known, and so is not judged. `beside` counts against this memory and is none of its own terms: the
    host's share where a card has the system's memory, what is locked with mapped weights; below 0 weights that are read
    row by row and never held. `mapped` are pages of the model's file within `model`. `company` is within `total`.
    """

    name: str
    model: int
    context: int
    compute: int
    layers: int
    free_bytes: int = 0
    total_bytes: int = 0
    compute_exact: bool = False
    beside: int = 0
    mapped: int = 0
    company: int = 0  # of what is loaded beside the model, see `Estimate.company`

    @property
    def total(self) -> int:
        """Bytes of all three terms, and of what is loaded beside the model."""
        return self.model + self.context + self.compute + self.company

    @property
    def left(self) -> int:
        """Free bytes that remain; negative when the device is short."""
        return self.free_bytes - self.total - self.beside

    @property
    def is_judged(self) -> bool:
        """Whether it is used, and its memory known: a card's always is."""
        return self.total > 0 and self.total_bytes > 0


@dataclass(frozen=True, slots=True)
class Estimate(Shown):
    """What the engine allocates for one context."""

    n_ctx: int  # after the engine's padding, all slots together
    n_ctx_seq: int  # what one slot gets
    gpus: tuple[DeviceEstimate, ...]
    host: DeviceEstimate
    settings: Settings
    flash_attn: bool  # after `auto` was resolved
    placement: Placement = field(repr=False)
    compute_note: str = ""  # why compute is a bound, when it is one
    proof: str = ""  # by backend, what the figures were checked against, when they are exact
    company: tuple[Companion, ...] = ()  # what is loaded beside the model: a draft, a projector, ...

    @property
    def fits(self) -> bool:
        """Whether every card, and a host of known memory, has room for what lands on it, with nothing to spare."""
        return all(d.left >= 0 for d in (*self.gpus, self.host) if d is not self.host or d.is_judged)

    @property
    def compute_exact(self) -> bool:
        """Whether the model's own compute buffers are the engine's to the byte, on every device."""
        return all(d.compute_exact for d in (*self.gpus, self.host))

    @property
    def exact(self) -> bool:
        """Whether every figure is what the engine allocates, to the byte."""
        return self.compute_exact and all(c.exact for c in self.company)


def estimate(
    model: AnyModel,
    gpus: AnyGpus,
    settings: AnySettings = None,
    *,
    bound: bool = False,
    host: AnyHost = None,
) -> Estimate:
    """Count the bytes that the engine allocates for `model` on each of `gpus` (none: on the host alone).

    With `bound` compute buffers are no less than the engine's, and never called exact: those of the model's graph as
    if next to nothing took over memory that is free, or where no graph is known, of one that holds more.
    `host` is the machine's own memory, such as "64GiB"; without it what lies there is not judged.
    Raises `EngineRefusal` where the engine would not create the context, `SettingsError` or
    `GpuError` for values that make no sense together.
    """
    model, gpus, settings = model_of(model), cards(gpus), settings_of(settings)
    known = host_of(host, gpus)
    model = loaded(model, settings)
    context = resolve(model, settings)
    placement = place(model, gpus, settings)
    rules = _rules(gpus, settings)
    compute = compute_bytes(model, placement, context, rules, bound=bound)
    return assemble(model, gpus, settings, context, placement, compute, known)


def _rules(gpus: Sequence[Gpu], settings: Settings) -> list[Backend]:
    era = era_of(settings.engine_build)
    return [rules_of(gpus[i], era) for i in devices(gpus, settings)]


def assemble(
    model: Model,
    gpus: Sequence[Gpu],
    settings: Settings,
    context: Context,
    placement: Placement,
    compute: Compute,
    host: Host | None = None,
) -> Estimate:
    """Make the `Estimate` of a placement whose compute buffers are known (the solver tries many)."""
    used = devices(gpus, settings)
    if any(gpus[i].max_buffer_bytes for i in used):
        from .limits import check_buffers  # few cards say that they have such a limit

        check_buffers(model, placement, [gpus[i] for i in used])
    on_host, weights, caches = host_needs(model, gpus, settings, context, placement, host)
    shared = None if on_host.card is None else used[on_host.card]
    at = {index: device for device, index in enumerate(used)}
    cards = tuple(
        DeviceEstimate(
            name=name,
            model=weights.gpus[at[i]] if i in at else 0,
            context=caches.gpus[at[i]] if i in at else 0,
            compute=compute.gpus[at[i]] if i in at else 0,
            layers=placement.count(at[i]) if i in at else 0,
            free_bytes=gpu.free,
            total_bytes=gpu.total_bytes,
            compute_exact=compute.exact or i not in at,
            beside=on_host.pooled + compute.host if i == shared else 0,
        )
        for i, (gpu, name) in enumerate(zip(gpus, told_apart(gpus), strict=True))
    )
    found = Estimate(
        n_ctx=context.n_ctx,
        n_ctx_seq=context.n_ctx_seq,
        gpus=cards,
        host=_host(on_host, compute, placement, host),
        settings=settings,
        flash_attn=compute.flash_attn,
        placement=placement,
        compute_note=compute.note,
        proof=_proof(_rules(gpus, settings)) if compute.exact else "",
    )
    alone = model.company is None and not predicts(settings)
    return found if alone else _accompanied(found, model, gpus, host)


def _accompanied(alone: Estimate, model: Model, gpus: Sequence[Gpu], host: Host | None) -> Estimate:
    """Count what is loaded beside the model, too."""
    from .company import companions

    taken = [g.total + g.beside for g in alone.gpus]
    company = companions(model, gpus, alone.settings, alone.n_ctx, taken, estimate, host)
    return replace(
        alone,
        gpus=tuple(_with(card, [c.gpus[i] for c in company]) for i, card in enumerate(alone.gpus)),
        host=_with(alone.host, [c.host for c in company]),
        company=company,
    )


def _with(device: DeviceEstimate, company: Sequence[Terms]) -> DeviceEstimate:
    more = sum(c.beside for c in company)
    return replace(device, company=sum(c.total for c in company), beside=device.beside + more)


def _proof(rules: Sequence[Backend]) -> str:
    """Name the backends of the cards, or the CPU's where there is none, with what each was checked against."""
    found = dict.fromkeys((b.title, b.proof) for b in rules or (HOST_BACKEND,))
    return "; ".join(f"{title}: {proof}" for title, proof in found)


def _host(found: HostNeeds, compute: Compute, placement: Placement, host: Host | None) -> DeviceEstimate:
    return DeviceEstimate(
        "host",
        found.weights,
        found.caches,
        compute.host,
        placement.count(HOST),
        free_bytes=host.free if host else 0,
        total_bytes=host.total_bytes if host else 0,
        compute_exact=compute.exact,
        beside=found.beside,
        mapped=found.mapped,
    )
