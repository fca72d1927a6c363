"""What one model allocates under one set of settings: the three terms, device by device.

In: `Model`, cards, `Settings`. Out: an `Estimate`. `model` and `context` are exact; `compute` says of
itself whether it is exact or a bound (see `compute`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .._base.shown import Shown
from .._coerce import AnyGpus, AnyModel, AnySettings, cards, model_of, settings_of
from .._devices import Gpu, told_apart
from .._ggml.backends import HOST_BACKEND, Backend, host_of
from .._llama.cparams import Context, resolve
from .._llama.eras import era_of, rules_of
from .._llama.memory import context_bytes, weight_bytes
from .._llama.model import Model
from .._llama.params import Settings
from .._llama.placement import HOST, Placement, devices, place
from .._llama.speculation import loaded, predicts
from .compute import Compute, compute_bytes

if TYPE_CHECKING:
    from .company import Companion

__all__ = ["DeviceEstimate", "Estimate", "estimate"]


@dataclass(frozen=True, slots=True)
class DeviceEstimate:
    """Bytes on one device, by the engine's own three terms. Cards of one model have names with a number.

    `layers` counts of n_layer + 1 (the output layer is one). `free_bytes` and `total_bytes` are the
    card's, 0 for the host, whose memory vramfit does not judge.
    """

    name: str
    model: int
    context: int
    compute: int
    layers: int
    free_bytes: int = 0
    total_bytes: int = 0
    compute_exact: bool = False
    beside: int = 0  # of what is loaded beside the model, see `Estimate.company`

    @property
    def total(self) -> int:
        """Bytes of all three terms, and of what is loaded beside the model."""
        return self.model + self.context + self.compute + self.beside

    @property
    def left(self) -> int:
        """Free bytes that remain; negative when the device is short."""
        return self.free_bytes - self.total


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
    company: tuple[Companion, ...] = ()  # what is loaded beside the model: a draft, a projector, ...

    @property
    def fits(self) -> bool:
        """Whether every card has room for what lands on it, with nothing to spare."""
        return all(g.left >= 0 for g in self.gpus)

    @property
    def compute_exact(self) -> bool:
        """Whether the model's own compute buffers are the engine's to the byte, on every device."""
        return all(d.compute_exact for d in (*self.gpus, self.host))

    @property
    def exact(self) -> bool:
        """Whether every figure is what the engine allocates, to the byte."""
        return self.compute_exact and all(c.exact for c in self.company)


def estimate(
    model: AnyModel, gpus: AnyGpus, settings: AnySettings = None, *, bound: bool = False
) -> Estimate:
    """The memory that the engine allocates for `model` on `gpus` (none: on the host alone).

    With `bound` compute buffers are no less than the engine's, and never called exact: those of the model's graph as
    if next to nothing took over memory that is free, or where no graph is known, of one that holds more.
    Raises `EngineRefusal` where the engine would not create the context, `SettingsError` or
    `GpuError` for values that make no sense together.
    """
    model, gpus, settings = model_of(model), cards(gpus), settings_of(settings)
    model = loaded(model, settings)
    context = resolve(model, settings)
    placement = place(model, gpus, settings)
    rules = _rules(gpus, settings)
    compute = compute_bytes(model, placement, context, rules, bound=bound)
    return assemble(model, gpus, settings, context, placement, compute)


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
) -> Estimate:
    """An `Estimate` of a placement whose compute buffers are known (the solver tries many)."""
    used, rules = devices(gpus, settings), _rules(gpus, settings)
    weights = weight_bytes(model, placement, rules, host_of(rules))
    caches = context_bytes(model, placement, context, rules, HOST_BACKEND)
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
        )
        for i, (gpu, name) in enumerate(zip(gpus, told_apart(gpus), strict=True))
    )
    host = _host(weights.host, caches.host, compute, placement)
    found = Estimate(
        n_ctx=context.n_ctx,
        n_ctx_seq=context.n_ctx_seq,
        gpus=cards,
        host=host,
        settings=settings,
        flash_attn=compute.flash_attn,
        placement=placement,
        compute_note=compute.note,
    )
    alone = model.company is None and not predicts(settings)
    return found if alone else _accompanied(found, model, gpus)


def _accompanied(alone: Estimate, model: Model, gpus: Sequence[Gpu]) -> Estimate:
    """The same with what is loaded beside the model."""
    from .company import companions

    taken = [g.total for g in alone.gpus]
    company = companions(model, gpus, alone.settings, alone.n_ctx, taken, estimate)
    cards = tuple(replace(g, beside=sum(c.gpus[i].total for c in company)) for i, g in enumerate(alone.gpus))
    host = replace(alone.host, beside=sum(c.host.total for c in company))
    return replace(alone, gpus=cards, host=host, company=company)


def _host(weights: int, caches: int, compute: Compute, placement: Placement) -> DeviceEstimate:
    return DeviceEstimate(
        "host", weights, caches, compute.host, placement.count(HOST), compute_exact=compute.exact
    )
