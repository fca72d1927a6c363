"""One file that shows a difference to somebody else, and the `Verification` made again from it.

In: a `Verification`. Out: plain values without names, paths, prompts or command lines: the header's dimensions and tensors, what
the engine printed as numbers, the settings, the figures. `replay` needs nothing else, so a report can stand as a test.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any, Final

from .._base.errors import SourceError, VramfitError
from .._base.foreign import json_text
from .._base.version import __version__
from .._devices import Gpu
from .._ggml.types import tensor_type
from .._gguf import Array, Header, TensorInfo
from .._llama.arch import describe
from .._llama.model import Model
from .._llama.params import Settings
from .._logs import Buffer, Load, Size
from .nouns import Verification
from .verify import verify_load

__all__ = ["as_report", "replay", "report_text"]

FORMAT: Final = 1
MOST_LAYERS: Final = 4096
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")
_WORD: Final = re.compile(
    r"[a-z0-9_.\-]{1,24}"
)  # of a header's values: a rope's scaling, a pooling; no sentence, no path
_FACTS: Final = ("n_vocab", "n_embd", "n_layer", "n_layer_all", "n_head_kv")
_CARD: Final = ("backend", "total_bytes", "free_bytes", "compute_capability", "alignment", "host_alignment", "max_tensor_bytes",
                "max_buffer_bytes")  # fmt: skip
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def as_report(found: Verification) -> dict[str, Any]:
    """Write what a maintainer needs. Raises `SourceError` where there is nothing to compare: no model, or another one."""
    if found.model is None or found.verdict == "other model" or not found.rows:
        raise SourceError(
            "there is nothing to report: a report needs a model and figures that were printed for it"
        )
    load = found.load
    settings = asdict(found.settings)
    settings.pop("defaults")
    return {
        "report": FORMAT,
        "vramfit": __version__,
        "model": _model_facts(found.model),
        "program": load.program,
        "build": load.build,
        "own_runner": load.own_runner,
        "offloaded": list(load.offloaded) if load.offloaded else None,
        "facts": {k: load.facts[k] for k in _FACTS if isinstance(load.facts.get(k), int)},
        "file_size": _pair(load.facts.get("file_size")),
        "gpus": [{name: getattr(gpu, name) for name in _CARD} for gpu in found.gpus],
        "buffers": [[_place(b.place), b.kind, b.size.low, b.size.high] for b in load.buffers],
        "settings": settings,
        "verdict": found.verdict,
        "rows": [
            {"device": _place(r.device), "kind": r.kind, "estimate": r.estimate, "low": r.measured.low, "high": r.measured.high,
             "judged": r.judged, "agrees": r.agrees}
            for r in found.rows
        ],
        "causes": [{"what": c.what, "agrees": c.agrees} for c in found.causes],
    }  # fmt: skip


def report_text(found: Verification) -> str:
    """Write a report as JSON, one part a line."""
    parts = (f"{json_text(name)}: {json_text(value, None)}" for name, value in as_report(found).items())
    return "{\n" + ",\n".join(parts) + "\n}\n"


def replay(report: Mapping[str, Any]) -> Verification:
    """Compare again with the rules of today. Raises `SourceError` for what is no report."""
    try:
        if report["report"] != FORMAT:
            raise ValueError(f"format {report['report']!r} is not {FORMAT}")
        model, load = _model_of(report["model"]), _load_of(report)
        gpus = [Gpu(name=f"card {i}", **{k: card[k] for k in _CARD}) for i, card in enumerate(report["gpus"])]
        known = {f.name for f in fields(Settings)}
        over = {k: v for k, v in report["settings"].items() if k in known}
    except VramfitError as e:
        raise SourceError(f"this report cannot be replayed: {e}") from None
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        struct.error,
    ) as e:
        raise SourceError(f"this is no report of vramfit verify: {type(e).__name__}: {e}") from None
    return verify_load(model, load, over, gpus, causes=False)


def _pair(size: object) -> list[int] | None:
    return [size.low, size.high] if isinstance(size, Size) else None


def _place(name: str) -> str:
    """The name of a buffer without an address, which those of RPC have."""
    return re.sub(r"\[.*\]", "", name)[:40]


def _model_facts(model: Model) -> dict[str, Any]:
    known = {w.tensor.name for w in model.weights} | {
        t.name for t in model.tensors if t.name not in model.unknown_tensors
    }
    return {
        "architecture": model.architecture,
        "assumed": model.assumed,
        "hparams": {k: v for k, x in model.hparams.items() if (v := _plain(x)) is not None},
        "tensors": list(_grouped(t for t in model.tensors if t.name in known)),
    }


def _plain(value: object) -> Any:
    """A number, a list of numbers, a short word; None for anything else."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else None
    if isinstance(value, tuple) and all(isinstance(x, bool | int | float) for x in value):
        return list(value)
    return None


def _grouped(tensors: Iterable[Any]) -> Iterable[list[Any]]:
    """Tensors that differ in one number of their name alone, as one entry."""
    found: dict[tuple[str, tuple[int, ...], str], list[int]] = {}
    for t in tensors:
        number = _NUMBER.search(t.name)
        pattern = f"{t.name[: number.start()]}{{}}{t.name[number.end() :]}" if number else t.name
        found.setdefault((pattern, t.shape, t.type.name), []).append(int(number[0]) if number else 0)
    for (pattern, shape, kind), numbers in found.items():
        yield [pattern, list(shape), kind, _ranges(numbers)]


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers in short: "0-3,6"."""
    parts: list[list[int]] = []
    for n in sorted(set(numbers)):
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _numbers(text: str) -> Iterable[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) - int(first) > MOST_LAYERS:
            raise ValueError(f"{part}: too many layers")
        yield from range(int(first), int(last or first) + 1)


def _model_of(facts: Mapping[str, Any]) -> Model:
    """The model of a report: a header is made again from its dimensions and tensors."""
    own = str(facts["architecture"])
    pairs: dict[str, Any] = {"general.architecture": own}
    for key, value in facts["hparams"].items():
        pairs[f"{own}.{key}"] = _array(f"{own}.{key}", value) if isinstance(value, list) else value
    tensors = tuple(
        TensorInfo(str(pattern).format(n), tuple(map(int, shape)), tensor_type(str(kind)), 0)
        for pattern, shape, kind, numbers in facts["tensors"]
        for n in _numbers(str(numbers))
    )
    header = Header(3, "<", 32, MappingProxyType(pairs), _NOTHING, tensors, 0, 0, 0, "the report")
    return describe(header, assume=facts.get("assumed"))


def _array(key: str, values: list[Any]) -> Array:
    if all(isinstance(x, bool) for x in values):
        return Array(key, "bool", len(values), "<", memoryview(bytes(values)))
    whole = all(isinstance(x, int) for x in values)
    kind, code = ("i32", "i") if whole and all(abs(x) < 2**31 for x in values) else ("f32", "f")
    return Array(key, kind, len(values), "<", memoryview(struct.pack(f"<{len(values)}{code}", *values)))


def _load_of(report: Mapping[str, Any]) -> Load:
    facts = dict(report["facts"])
    if report["file_size"]:
        facts["file_size"] = Size(*map(int, report["file_size"]))
    buffers = tuple(
        Buffer(str(place), str(kind), Size(int(low), int(high)))
        for place, kind, low, high in report["buffers"]
    )
    offloaded = report["offloaded"]
    return Load(
        1,
        program=str(report["program"]),
        build=str(report["build"]),
        own_runner=bool(report["own_runner"]),
        facts=MappingProxyType(facts),
        buffers=buffers,
        offloaded=(int(offloaded[0]), int(offloaded[1])) if offloaded else None,
    )
