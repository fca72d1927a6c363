"""What a GGUF model will allocate on your GPUs, to the byte, and the largest context that is still safe.

    model = vramfit.read("model.gguf")
    gpus = vramfit.parse_gpus("3090ti,3060")
    plan = vramfit.plan(model, gpus, vramfit.server_settings(flash_attn="on"))
    plan.n_ctx, plan.tensor_split, plan.estimate.gpus[0].compute

Every error that a caller can cause is a `VramfitError`. Names are imported when they are first used,
so that a program that needs one of them does not pay for all.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ._base.given import give
from ._base.version import __version__

_WHERE: Final = {
    "Alternative": "_planner.whatif",
    "Alternatives": "_planner.whatif",
    "Carrier": "_planner.which",
    "Choice": "_planner.compare",
    "Comparison": "_planner.compare",
    "DeviceEstimate": "_estimate.estimate",
    "EngineRefusal": "_base.errors",
    "Estimate": "_estimate.estimate",
    "Gpu": "_devices",
    "GpuError": "_base.errors",
    "HeaderError": "_base.errors",
    "InvalidHeader": "_base.errors",
    "Model": "_llama.model",
    "ModelError": "_base.errors",
    "Plan": "_planner.plan",
    "Settings": "_llama.params",
    "SettingsError": "_base.errors",
    "Shortlist": "_planner.which",
    "SourceError": "_base.errors",
    "Sweep": "_planner.sweep",
    "Tensor": "_llama.model",
    "Truncated": "_base.errors",
    "UnknownArchitecture": "_base.errors",
    "VramfitError": "_base.errors",
    "best": "_planner.whatif",
    "compare": "_planner.compare",
    "detect_gpus": "_devices",
    "engine_settings": "_engines",
    "estimate": "_estimate.estimate",
    "parse_gpus": "_devices",
    "plan": "_planner.plan",
    "read": "_sources.load",
    "requantize": "_quant",
    "server_settings": "_engines",
    "sweep": "_planner.sweep",
    "trades": "_planner.whatif",
    "which": "_planner.which",
}

__all__ = [
    "Alternative",
    "Alternatives",
    "Carrier",
    "Choice",
    "Comparison",
    "DeviceEstimate",
    "EngineRefusal",
    "Estimate",
    "Gpu",
    "GpuError",
    "HeaderError",
    "InvalidHeader",
    "Model",
    "ModelError",
    "Plan",
    "Settings",
    "SettingsError",
    "Shortlist",
    "SourceError",
    "Sweep",
    "Tensor",
    "Truncated",
    "UnknownArchitecture",
    "VramfitError",
    "__version__",
    "best",
    "compare",
    "detect_gpus",
    "engine_settings",
    "estimate",
    "parse_gpus",
    "plan",
    "read",
    "requantize",
    "server_settings",
    "sweep",
    "trades",
    "which",
]

if TYPE_CHECKING:
    from ._base.errors import (
        EngineRefusal,
        GpuError,
        HeaderError,
        InvalidHeader,
        ModelError,
        SettingsError,
        SourceError,
        Truncated,
        UnknownArchitecture,
        VramfitError,
    )
    from ._devices import Gpu, detect_gpus, parse_gpus
    from ._engines import engine_settings, server_settings
    from ._estimate.estimate import DeviceEstimate, Estimate, estimate
    from ._llama.model import Model, Tensor
    from ._llama.params import Settings
    from ._planner.compare import Choice, Comparison, compare
    from ._planner.plan import Plan, plan
    from ._planner.sweep import Sweep, sweep
    from ._planner.whatif import Alternative, Alternatives, best, trades
    from ._planner.which import Carrier, Shortlist, which
    from ._quant import requantize
    from ._sources.load import read


def _find(module: str, name: str) -> Any:
    """A name of one of the rooms, which is imported if it was not."""
    return getattr(import_module(f".{module}", __name__), name)


# What results and references use of rooms that stand above theirs.
for _name, _place in {
    "text": "_report.terminal.text",
    "html": "_report.html.fragment",
    "dict": "_report.dicts.as_dict",
    "plot": "_report.plots.draw",
    "read": "_sources.load.read",
    "command": "_engines.command",
    "modelfile": "_engines.modelfile",
}.items():
    give(_name, partial(_find, *_place.rsplit(".", 1)))


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = _find(_WHERE[name], name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
