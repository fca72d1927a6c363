"""A `Load` without a model: what its own dimensions say of its caches, and which figures cannot be checked so.

A cache is a sum: cells times the widths of K and V that the engine printed. Where layers differ in what was printed of
them only as one number (windows, recurrent layers), the lines that count cells and layers say how many are of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from .._base.errors import SettingsError
from .._ggml.types import tensor_type
from .._logs import Load, Size
from .nouns import Row, Verdict, Verification

__all__ = ["alone"]

_WHY_COMPUTE: Final = "compute buffers follow from the graph of the model: give the model"
_WHY_MODEL: Final = (
    "weights of a device follow from the tensors of the file: give the model; their sum is checked"
)


def alone(load: Load, over: Mapping[str, Any], again: Callable[..., Verification]) -> Verification:
    """Check a load by what it prints of its own dimensions."""
    rows: list[Row] = []
    reasons: list[str] = []
    weights = _weights(load)
    if weights is not None:
        rows.append(weights)
    try:
        cache = _cache(load)
        if cache is not None:
            rows.append(cache)
    except SettingsError as e:
        reasons.append(str(e))
    reasons += [_WHY_MODEL, _WHY_COMPUTE]
    verdict: Verdict = "unchecked"
    judged = [r for r in rows if r.judged]
    if judged:
        lower = any(r.estimate < r.measured.low for r in judged)
        verdict = "equal" if all(r.agrees for r in judged) else "lower" if lower else "higher"
    return Verification(load, tuple(rows), verdict, reasons=tuple(reasons), taken=tuple(load.notes))


def _sum(load: Load, kind: str) -> Size | None:
    found = [b.size for b in load.buffers if b.kind == kind]
    return sum(found[1:], found[0]) if found else None


def _weights(load: Load) -> Row | None:
    """The size of the file beside the sum of all buffers of weights, where the file was not mapped."""
    size, measured = load.facts.get("file_size"), _sum(load, "model")
    if not isinstance(size, Size) or measured is None:
        return None
    mapped = any(b.is_mapped for b in load.buffers if b.kind == "model")
    wide = Size(measured.low - (size.high - size.low), measured.high + (size.high - size.low))
    why = "what is tied or mapped lies in memory twice, so the sum may be more than the file"
    return Row(
        "all devices", "model", size.middle, wide, judged=not mapped and wide.holds(size.middle), why=why
    )


def _cache(load: Load) -> Row | None:
    """The KV cache from widths, cells and types. Raises `SettingsError` where the log does not say enough."""
    measured = _sum(load, "context")
    if measured is None:
        return None
    widths = _widths(load)
    groups = [
        (cells, layers, streams)
        for by, cells, layers, streams in load.settings.get("caches", ())
        if "recurrent" not in by
    ]
    if any("recurrent" in by for by, *_ in load.settings.get("caches", ())):
        raise SettingsError("the cache of a model with recurrent layers needs the model")
    n_layer = len(widths)
    if not groups:
        n_ctx = load.settings.get("n_ctx")
        if not isinstance(n_ctx, int):
            raise SettingsError("the cache cannot be checked: the log says neither cells nor context")
        groups = [(-(-n_ctx // 32) * 32, n_layer, 1)]
    if len(set(widths)) > 1 and [g[1] for g in groups] != [n_layer]:
        raise SettingsError(
            "the cache cannot be checked: its layers differ in width, and which of them are cached is not said"
        )
    if sum(layers for _, layers, _ in groups) > n_layer:
        raise SettingsError("the cache cannot be checked: more layers are cached than the model has")
    k, v = tensor_type(load.settings.get("type_k", "f16")), tensor_type(load.settings.get("type_v", "f16"))
    total = 0
    for cells, layers, _ in groups:
        for wide_k, wide_v in widths[:layers]:
            total += cells * (k.row_bytes(wide_k) + v.row_bytes(wide_v))
    streams = max(1, *(s for _, _, s in groups)) if load.settings.get("kv_unified") is False else 1
    return Row("all devices", "context", total * streams, measured)


def _widths(load: Load) -> list[tuple[int, int]]:
    """Elements of K and of V in a cell of each layer."""
    n = load.facts.get("n_layer")
    k, v = load.facts.get("n_embd_k_gqa"), load.facts.get("n_embd_v_gqa")
    if not isinstance(n, int) or not 0 < n <= 1024 or k is None or v is None:
        raise SettingsError(
            "the cache cannot be checked: the log does not say how many layers there are, and how wide K and V are"
        )
    ks, vs = (x if isinstance(x, list) else [x] * n for x in (k, v))
    if len(ks) < n or len(vs) < n or not all(isinstance(x, int) and 0 <= x < 2**24 for x in (*ks, *vs)):
        raise SettingsError("the cache cannot be checked: widths are not given for every layer")
    return list(zip(ks[:n], vs[:n], strict=True))
