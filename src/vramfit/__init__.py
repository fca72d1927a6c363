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
    "AlternativesJson": "_report.schema",
    "Carrier": "_planner.which",
    "Choice": "_planner.compare",
    "Comparison": "_planner.compare",
    "ComparisonJson": "_report.schema",
    "DeviceEstimate": "_estimate.estimate",
    "DoctorJson": "_report.schema",
    "EngineRefusal": "_base.errors",
    "Estimate": "_estimate.estimate",
    "EstimateJson": "_report.schema",
    "GivesUp": "_planner.gives_up",
    "Gpu": "_devices",
    "GpuError": "_base.errors",
    "GpuJson": "_report.schema",
    "HeaderError": "_base.errors",
    "Host": "_devices",
    "InvalidHeader": "_base.errors",
    "Left": "_planner.left",
    "Model": "_llama.model",
    "ModelError": "_base.errors",
    "ModelJson": "_report.schema",
    "Plan": "_planner.plan",
    "PlanJson": "_report.schema",
    "Settings": "_llama.params",
    "SettingsError": "_base.errors",
    "SharedPlan": "_planner.shared",
    "SharedPlanJson": "_report.shared_schema",
    "Shortlist": "_planner.which",
    "ShortlistJson": "_report.schema",
    "SourceError": "_base.errors",
    "Speed": "_planner.bounds",
    "SpeedJson": "_report.schema",
    "Sweep": "_planner.sweep",
    "SweepJson": "_report.schema",
    "Tenant": "_planner.shared",
    "Tensor": "_llama.model",
    "Truncated": "_base.errors",
    "UnknownArchitecture": "_base.errors",
    "Verification": "_verify",
    "VerificationJson": "_report.schema",
    "VramfitError": "_base.errors",
    "accompany": "_sources.company",
    "best": "_planner.whatif",
    "bits_per_weight": "_quant",
    "cache_measure": "_planner.quality",
    "compare": "_planner.compare",
    "detect_gpus": "_devices.detect",
    "detect_host": "_devices.host_detection",
    "doctor": "_engines.doctor",
    "engine_settings": "_engines.settings",
    "estimate": "_estimate.estimate",
    "file_bytes": "_quant",
    "file_type_measure": "_planner.quality",
    "gives_up": "_planner.gives_up",
    "leaves": "_planner.left",
    "needs_imatrix": "_quant",
    "overheads": "_planner.warnings",
    "ask_servers": "_devices.servers",
    "parse_command": "_engines.server",
    "parse_gpus": "_devices",
    "parse_host": "_devices",
    "parse_modelfile": "_modelfile",
    "parse_tensor_types": "_quant",
    "plan": "_planner.any_plan",
    "plan_for": "_engines.choose",
    "read": "_sources.load",
    "read_models": "_engines.tenants",
    "recipe": "_quant",
    "requantize": "_quant",
    "residents": "_engines.residents",
    "server_settings": "_engines.settings",
    "shared_for": "_engines.shared",
    "speed": "_planner.bounds",
    "sweep": "_planner.sweep",
    "trades": "_planner.whatif",
    "validate_catalogue": "_devices",
    "verify": "_verify",
    "which": "_planner.which",
}

__all__ = [
    "Alternative",
    "Alternatives",
    "AlternativesJson",
    "Carrier",
    "Choice",
    "Comparison",
    "ComparisonJson",
    "DeviceEstimate",
    "DoctorJson",
    "EngineRefusal",
    "Estimate",
    "EstimateJson",
    "GivesUp",
    "Gpu",
    "GpuError",
    "GpuJson",
    "HeaderError",
    "Host",
    "InvalidHeader",
    "Left",
    "Model",
    "ModelError",
    "ModelJson",
    "Plan",
    "PlanJson",
    "Settings",
    "SettingsError",
    "SharedPlan",
    "SharedPlanJson",
    "Shortlist",
    "ShortlistJson",
    "SourceError",
    "Speed",
    "SpeedJson",
    "Sweep",
    "SweepJson",
    "Tenant",
    "Tensor",
    "Truncated",
    "UnknownArchitecture",
    "Verification",
    "VerificationJson",
    "VramfitError",
    "__version__",
    "accompany",
    "ask_servers",
    "best",
    "bits_per_weight",
    "cache_measure",
    "compare",
    "detect_gpus",
    "detect_host",
    "doctor",
    "engine_settings",
    "estimate",
    "file_bytes",
    "file_type_measure",
    "gives_up",
    "leaves",
    "needs_imatrix",
    "overheads",
    "parse_command",
    "parse_gpus",
    "parse_host",
    "parse_modelfile",
    "parse_tensor_types",
    "plan",
    "plan_for",
    "read",
    "read_models",
    "recipe",
    "requantize",
    "residents",
    "server_settings",
    "shared_for",
    "speed",
    "sweep",
    "trades",
    "validate_catalogue",
    "verify",
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
    from ._devices import Gpu, Host, parse_gpus, parse_host, validate_catalogue
    from ._devices.detect import detect_gpus
    from ._devices.host_detection import detect_host
    from ._devices.servers import ask_servers
    from ._engines.choose import plan_for
    from ._engines.doctor import doctor
    from ._engines.residents import residents
    from ._engines.server import parse_command
    from ._engines.settings import engine_settings, server_settings
    from ._engines.shared import shared_for
    from ._engines.tenants import read_models
    from ._estimate.estimate import DeviceEstimate, Estimate, estimate
    from ._llama.model import Model, Tensor
    from ._llama.params import Settings
    from ._modelfile import parse_modelfile
    from ._planner.any_plan import plan
    from ._planner.bounds import Speed, speed
    from ._planner.compare import Choice, Comparison, compare
    from ._planner.gives_up import GivesUp, gives_up
    from ._planner.left import Left, leaves
    from ._planner.plan import Plan
    from ._planner.quality import cache_measure, file_type_measure
    from ._planner.shared import SharedPlan, Tenant
    from ._planner.sweep import Sweep, sweep
    from ._planner.warnings import overheads
    from ._planner.whatif import Alternative, Alternatives, best, trades
    from ._planner.which import Carrier, Shortlist, which
    from ._quant import bits_per_weight, file_bytes, needs_imatrix, parse_tensor_types, recipe, requantize
    from ._report.schema import (
        AlternativesJson,
        ComparisonJson,
        DoctorJson,
        EstimateJson,
        GpuJson,
        ModelJson,
        PlanJson,
        ShortlistJson,
        SpeedJson,
        SweepJson,
        VerificationJson,
    )
    from ._report.shared_schema import SharedPlanJson
    from ._sources.company import accompany
    from ._sources.load import read
    from ._verify import Verification, verify


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
    "command": "_engines.told.command",
    "modelfile": "_engines.told.modelfile",
    "residents": "_engines.residents.residents",
    "several_command": "_engines.several.several_command",
    "several_commands": "_engines.several.several_commands",
    "several_files": "_engines.several.several_files",
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
