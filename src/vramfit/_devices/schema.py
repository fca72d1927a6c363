"""The shape of `data/gpus.yaml`, for pydantic. Slow to import: `check` does so when it is asked to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["CatalogueSchema"]

Mib = Annotated[int, Field(strict=True, gt=0, lt=1 << 24)]
Gib = Annotated[int, Field(strict=True, gt=0, lt=1 << 14)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Number = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Card(_Strict):
    id: Annotated[str, Field(strict=True, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    name: Text
    aliases: list[Text] = []
    vendor: Literal["nvidia", "amd", "intel", "apple"]
    backend: Literal["cuda", "hip", "vulkan", "metal", "sycl"]
    arch: Text
    compute_capability: Annotated[str, Field(strict=True, pattern=r"^(\d+\.\d|gfx[0-9a-f]+)$")] | None = None
    memory_gib: Gib | Annotated[list[Gib], Field(min_length=1)] | None = None
    nvidia_smi_mib: Mib | None = None
    linux_mib: Mib | Annotated[list[Mib], Field(min_length=2, max_length=2)] | None = None
    windows_mib: Mib | None = None
    ecc_mib: Mib | None = None
    ecc_assumed: Annotated[bool, Field(strict=True)] = False
    bandwidth_gbs: Annotated[float, Field(gt=0, lt=1e5)] | None = None
    sm: Annotated[int, Field(strict=True, gt=0, lt=4096)] | None = None
    unified: Annotated[bool, Field(strict=True)] = False
    unverified: list[Text] = []
    sources: Annotated[list[Text], Field(min_length=1)]
    note: Text | None = None

    @model_validator(mode="after")
    def _consistent(self) -> _Card:
        low, high = self.linux_mib if isinstance(self.linux_mib, list) else (self.linux_mib, self.linux_mib)
        if low and high and low > high:
            raise ValueError("linux_mib: the low end is above the high end")
        size = self.memory_gib
        most = size * 1024 if isinstance(size, int) else None
        for field in ("nvidia_smi_mib", "windows_mib", "ecc_mib"):
            value = getattr(self, field)
            if most and value and value > most * 1.02:
                raise ValueError(f"{field}: {value} MiB is more than memory_gib allows")
        if self.ecc_assumed and self.ecc_mib is None:
            raise ValueError("ecc_assumed needs ecc_mib")
        return self


class _Total(_Strict):
    fraction: Share
    gap_mib: Annotated[int, Field(ge=0)]
    observed: Text


class _Context(_Strict):
    base_mib: Number = 0
    per_sm_mib: Number = 0
    spread: Annotated[float, Field(ge=1)] = 1
    max_mib: Number | None = None
    fraction: Annotated[float, Field(ge=0, lt=1)] = 0


class _Older(_Strict):
    versions: Text
    up_to_gib: Gib
    fraction: tuple[int, int]
    above: tuple[int, int]
    observed_mib: dict[str, Mib]


class _Apple(_Strict):
    older_macos: _Older
    macos_26: dict[str, Any]


class _Driver(_Strict):
    title: Text
    vendor: Literal["nvidia", "amd", "intel", "apple", "software"]
    alignment: Annotated[int, Field(strict=True, ge=1, le=256)]
    host_alignment: Annotated[int, Field(strict=True, ge=1, le=65536)]
    max_tensor: Annotated[int, Field(strict=True, ge=1 << 27)] | None = None
    reaches: Annotated[int, Field(strict=True, ge=1 << 27)] | None = None
    sources: Annotated[list[Text], Field(min_length=1)]
    observed: Text

    @model_validator(mode="after")
    def _one_limit(self) -> _Driver:
        if self.max_tensor and self.reaches:
            raise ValueError("max_tensor and reaches: give one of them")
        return self


class _Rules(_Strict):
    fallback_total: dict[Literal["nvidia", "amd", "intel", "unified"], _Total]
    fallback_nvidia_smi_fraction: Share
    windows: dict[str, Any]
    ecc_share: Share
    context: dict[Literal["cuda", "hip", "vulkan", "metal", "sycl"], _Context]
    cublas_workspace_mib: dict[str, Annotated[int, Field(ge=0)]]
    apple_limit: _Apple
    vulkan_drivers: dict[Annotated[str, Field(pattern=r"^[a-z]+(-[a-z]+)*$")], _Driver]
    vulkan_without_fp16: list[Text]


class CatalogueSchema(_Strict):
    """The whole file."""

    format: Literal[1]
    sources: dict[str, Text]
    rules: _Rules
    cards: Annotated[list[_Card], Field(min_length=1)]
