"""References to what is loaded beside a model → the `Model` with its company.

In: a model, references and numbers as the engine's flags have them. Out: the model with `company`, and with the tensors of
its adapters among its weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias, cast

from .._base.errors import ModelError, SettingsError, SourceError, shown
from .._coerce import AnyModel, count, flag, model_of, word, words
from .._company import Company, Draft, Encoder
from .._company.adapters import adapt, read_adapter, read_control_vector, steer
from .._company.drafts import check_vocabulary
from .._company.encoders import check_rows
from .._gguf import Header
from .._llama.model import Model
from .._llama.params import CACHE_TYPES
from .._mtmd import read_projector
from . import Reference, open_headers, reference_name

__all__ = ["accompany"]

Scaled: TypeAlias = tuple[Reference, float]
Files: TypeAlias = Reference | Scaled | Sequence[Reference | Scaled]
_LARGEST_INDEX: Final = 15
_LARGEST_SCALE: Final = 1e30


def accompany(
    model: AnyModel,
    *,
    draft: AnyModel | None = None,
    draft_n_gpu_layers: int = -1,
    draft_type_k: str = "f16",
    draft_type_v: str = "f16",
    draft_cpu_tensors: Sequence[str] = (),
    draft_devices: Sequence[int] | None = None,
    mmproj: Reference | None = None,
    mmproj_auto: bool = True,
    mmproj_offload: bool = True,
    mmproj_device: Sequence[int] | None = None,
    image_min_tokens: int = 0,
    image_max_tokens: int = 0,
    lora: Files = (),
    control_vector: Files = (),
) -> Model:
    """The model together with what is loaded beside it: estimates and plans of it then count all of that.

    `draft` is a model that proposes tokens to it, with settings of its own: layers on cards, cache types, tensors kept on
    the host, and indexes of its cards (None: the model's; empty: the host alone). `mmproj` is a projector of images or
    sound, on the first card, or that which `mmproj_device` names, or with `mmproj_offload=False` on the host; an image has
    at most `image_max_tokens` tokens. Without `mmproj_auto` none is loaded. `lora` and `control_vector` are files,
    one or several, each alone or with its scale. Only headers are read.
    Raises `ModelError` for what does not belong to the model, `SettingsError` for a value that makes no sense, and what
    `read` raises.
    """
    model = model_of(model)
    company = Company(draft_types=_types(draft_type_k, draft_type_v))
    layers = count("draft_n_gpu_layers", draft_n_gpu_layers, least=-1)
    patterns = (
        (draft_cpu_tensors,)
        if isinstance(draft_cpu_tensors, str)
        else words("draft_cpu_tensors", draft_cpu_tensors)
    )
    at = _indexes("draft_devices", draft_devices)
    if draft is not None:
        found = model_of(draft, "draft")
        check_vocabulary(model, found)
        company = replace(company, draft=Draft(found, layers, *company.draft_types, patterns or (), at))
    seeing = flag("mmproj_auto", mmproj_auto)
    encoder = _encoder(mmproj, mmproj_offload, mmproj_device, image_min_tokens, image_max_tokens)
    if encoder is not None and seeing:
        check_rows(model, encoder)
        company = replace(company, encoder=encoder)
    adapters = [read_adapter(h, name, scale) for h, name, scale in _headers("lora", lora)]
    vectors = [
        read_control_vector(h, name, scale) for h, name, scale in _headers("control_vector", control_vector)
    ]
    company = replace(company, adapters=tuple(adapters), control_vectors=tuple(vectors))
    if company.is_empty:
        return model
    return replace(steer(adapt(model, adapters), vectors), company=company)


def _types(type_k: str, type_v: str) -> tuple[str, str]:
    for name, kind in (("draft_type_k", type_k), ("draft_type_v", type_v)):
        if word(name, kind) not in CACHE_TYPES:
            raise SettingsError(f"{name}={shown(kind)}: give one of {', '.join(CACHE_TYPES)}")
    return type_k, type_v


def _encoder(
    reference: Reference | None, offload: bool, devices: Sequence[int] | None, least: int, most: int
) -> Encoder | None:
    at, offload = _indexes("mmproj_device", devices), flag("mmproj_offload", offload)
    if at is not None and len(at) > 1:
        raise SettingsError(f"mmproj_device={shown(devices)}: a projector is on one card")
    low, high = count("image_min_tokens", least), count("image_max_tokens", most)
    if high and low > high:
        raise SettingsError(f"image_min_tokens={low}: give no more than image_max_tokens={high}")
    if reference is None:
        return None
    reference = _reference("mmproj", reference)
    headers = open_headers(reference)
    projector = read_projector(headers[0], reference_name(reference))
    return Encoder(projector, offload and at != (), at[0] if at else None, high)


def _reference(name: str, value: object) -> Reference:
    """Take what names a file, or its bytes. Raises `SourceError`."""
    if not isinstance(value, str | os.PathLike | bytes | bytearray | memoryview):
        raise SourceError(f"{name}={shown(value)}: give a path, a URL, or bytes")
    return bytes(value) if isinstance(value, memoryview) and not value.c_contiguous else value


def _indexes(name: str, given: Sequence[int] | None) -> tuple[int, ...] | None:
    if given is None:
        return None
    found = tuple(given) if isinstance(given, list | tuple | range) else (None,)
    if not all(type(i) is int and 0 <= i <= _LARGEST_INDEX for i in found) or len(set(found)) < len(found):
        raise SettingsError(f"{name}={shown(given)}: give indexes of cards, each once, counted from 0")
    return cast("tuple[int, ...]", found)


def _headers(name: str, given: Files) -> list[tuple[Header, str, float]]:
    """The header of each file, what to call it, and its scale."""
    files: Sequence[Any] = [given] if not isinstance(given, list | tuple) else given
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int | float):
        files = [given]
    found = []
    for one in files:
        reference, scale = one if isinstance(one, tuple) and len(one) == 2 else (one, 1.0)
        reference = _reference(name, reference)
        if (
            isinstance(scale, bool)
            or not isinstance(scale, int | float)
            or not -_LARGEST_SCALE <= scale <= _LARGEST_SCALE
        ):
            raise SettingsError(f"{name}: scale {shown(scale)} of {reference_name(reference)}: give a number")
        headers = open_headers(reference)
        if len(headers) > 1:
            raise ModelError(f"{reference_name(reference)}: a split file is a model; give {name} one file")
        found.append((headers[0], reference_name(reference), float(scale)))
    return found
