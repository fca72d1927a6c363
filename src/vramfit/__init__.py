"""What a GGUF model will allocate on your GPUs, to the byte, and the largest context that is still safe.

    model = vramfit.read("model.gguf")
    gpus = vramfit.parse_gpus("3090ti,3060")
    plan = vramfit.plan(model, gpus, vramfit.server_settings(flash_attn="on"))
    plan.n_ctx, plan.tensor_split, plan.estimate.gpus[0].compute

Every error that a caller can cause is a `VramfitError`. Names are imported when they are first used,
so that a program that needs one of them does not pay for all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

__version__: Final = "0.1.0"

_WHERE: Final = {
    "Alternative": "alternatives",
    "Alternatives": "alternatives",
    "Carrier": "shortlist",
    "Choice": "comparison",
    "Comparison": "comparison",
    "DeviceEstimate": "estimates",
    "EngineRefusal": "errors",
    "Estimate": "estimates",
    "Gpu": "gpus",
    "GpuError": "errors",
    "HeaderError": "errors",
    "InvalidHeader": "errors",
    "Model": "model",
    "ModelError": "errors",
    "Plan": "solve",
    "Settings": "settings",
    "SettingsError": "errors",
    "Shortlist": "shortlist",
    "SourceError": "errors",
    "Sweep": "sweeps",
    "Tensor": "model",
    "Truncated": "errors",
    "UnknownArchitecture": "errors",
    "VramfitError": "errors",
    "best": "alternatives",
    "compare": "comparison",
    "detect_gpus": "gpus",
    "engine_settings": "engines",
    "estimate": "estimates",
    "parse_gpus": "gpus",
    "plan": "solve",
    "read": "load",
    "requantize": "quants",
    "server_settings": "engines",
    "sweep": "sweeps",
    "trades": "alternatives",
    "which": "shortlist",
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
    from .alternatives import Alternative, Alternatives, best, trades
    from .comparison import Choice, Comparison, compare
    from .engines import engine_settings, server_settings
    from .errors import (
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
    from .estimates import DeviceEstimate, Estimate, estimate
    from .gpus import Gpu, detect_gpus, parse_gpus
    from .load import read
    from .model import Model, Tensor
    from .quants import requantize
    from .settings import Settings
    from .shortlist import Carrier, Shortlist, which
    from .solve import Plan, plan
    from .sweeps import Sweep, sweep


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
