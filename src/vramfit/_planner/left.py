"""Say what a plan leaves for a model that is loaded next, card by card.

In: a `Plan` or a `SharedPlan`. Out: `Left`s: what is free, without what is taken, the margin, and the driver's context of one
more process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .._base.errors import SettingsError
from .._coerce import shown
from .._devices import Gpu
from .plan import Plan
from .warnings import process_bytes

if TYPE_CHECKING:
    from .._estimate.estimate import DeviceEstimate
    from .shared.nouns import SharedDevice, SharedPlan

__all__ = ["Left", "leaves"]


class Left(NamedTuple):
    """Bytes of a card, or of the host, that a model may take which is loaded next, with the margin still free.

    `process_bytes` is what the driver takes for that model's own process; it is counted already.
    """

    name: str
    n_bytes: int
    process_bytes: int = 0


def leaves(plan: Plan | SharedPlan) -> tuple[Left, ...]:
    """Count what a plan leaves for the next model on each card, and last on a host of known memory.

    A chip that shares the system's memory stands for its host, too. Nothing for a `Plan` that does not fit.
    Raises `SettingsError` for anything but a plan.
    """
    if isinstance(plan, Plan):
        if not plan.fits:
            return ()
        return tuple(_left((*plan.estimate.gpus, plan.estimate.host), plan.gpus, plan.margin_bytes))
    from .shared.nouns import SharedPlan

    if not isinstance(plan, SharedPlan):
        raise SettingsError(
            f"plan={shown(plan)}: give a Plan or a SharedPlan, as `vramfit.plan` returns them"
        )
    return tuple(_left(plan.devices, plan.gpus, plan.margin_bytes))


def _left(
    devices: Sequence[DeviceEstimate | SharedDevice], gpus: Sequence[Gpu], margin: int
) -> Iterator[Left]:
    *cards, host = devices
    for device, gpu in zip(cards, gpus, strict=True):
        process = process_bytes(gpu)
        yield Left(device.name, max(0, device.left - margin - process), process)
    if host.total_bytes:
        yield Left(host.name, max(0, host.left - margin))
