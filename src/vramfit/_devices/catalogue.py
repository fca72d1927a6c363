"""Load `data/gpus.yaml` as `Card` and `Rules`, and say what a driver reports by them.

The file is YAML in its JSON style, so that it loads in a millisecond without PyYAML; written in
any other style PyYAML reads it. It lies in the package once installed, and beside `src` in a
checkout, where an editable install finds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from .._base.errors import GpuError

__all__ = ["Card", "Rules", "all_cards", "catalogue_path", "load", "rules"]

MIB: Final = 1 << 20
_PACKAGE: Final = Path(__file__).resolve().parents[1]


class Card(NamedTuple):
    """One card of the catalogue; a chip with several memory sizes is one `Card` for each.

    Sizes are MiB, ranges (low, high); None is "not known". The file's head explains each field.
    """

    id: str
    name: str
    vendor: str
    backend: str
    arch: str
    memory_gib: int | None = None
    aliases: tuple[str, ...] = ()
    compute_capability: str | None = None
    nvidia_smi_mib: int | None = None
    linux_mib: tuple[int, int] | None = None
    windows_mib: int | None = None
    ecc_mib: int | None = None
    ecc_assumed: bool = False
    bandwidth_gbs: float | None = None
    sm: int | None = None
    unified: bool = False
    unverified: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    note: str = ""


class Rules(NamedTuple):
    """The rules of the file: how sizes that no one has seen follow from those that someone has."""

    fallback_total: Mapping[str, Any]
    fallback_nvidia_smi_fraction: float
    context: Mapping[str, Any]
    apple_limit: Mapping[str, Any]
    windows: Mapping[str, Any]
    ecc_share: float
    cublas_workspace_mib: Mapping[str, int]
    vulkan_drivers: Mapping[str, Mapping[str, Any]]
    vulkan_without_fp16: Sequence[str]

    def total_mib(self, card: Card) -> int | None:
        """Estimate the size that the engine reports for the card under Linux or macOS, in MiB, at the least.

        An observed figure if there is one, else the fallback; None when no size is known at all.
        """
        if card.backend == "metal":
            return None if card.memory_gib is None else self._metal_mib(card.memory_gib)
        if card.linux_mib is not None and not card.ecc_assumed:
            return card.linux_mib[0]
        size = self._nominal_mib(card)
        if size is None:
            return None
        rule = self.fallback_total["unified" if card.unified else card.vendor]
        return min(int(size * rule["fraction"]), size - int(rule["gap_mib"]))

    def context_mib(self, card: Card, total_mib: int) -> int:
        """Estimate what a process loses to its own context, in MiB, on a card of which nothing was measured."""
        rule = self.context.get(card.backend, {})
        if "max_mib" in rule and card.sm is None:
            return int(rule["max_mib"])
        mib = rule.get("base_mib", 0) + rule.get("per_sm_mib", 0) * (card.sm or 0)
        mib = mib * rule.get("spread", 1) + rule.get("fraction", 0) * total_mib
        return int(min(mib, rule.get("max_mib", mib)) + 0.999)

    def _nominal_mib(self, card: Card) -> int | None:
        if card.ecc_assumed and card.ecc_mib is not None:
            return card.ecc_mib
        if card.nvidia_smi_mib is not None:
            return card.nvidia_smi_mib
        if card.memory_gib is None:
            return None
        share = self.fallback_nvidia_smi_fraction if card.vendor == "nvidia" and not card.unified else 1
        return int(card.memory_gib * 1024 * share)

    def _metal_mib(self, ram_gib: int) -> int:
        rule = self.apple_limit["older_macos"]
        top, bottom = rule["fraction"] if ram_gib <= rule["up_to_gib"] else rule["above"]
        return int(ram_gib * 1024 * top // bottom)


def catalogue_path() -> Path:
    """Find the catalogue file; raises `GpuError` when the installation lacks it."""
    checkout = _PACKAGE.parents[1] / "data" / "gpus.yaml"
    for path in (_PACKAGE / "data" / "gpus.yaml", checkout):
        if path.is_file():
            return path
    raise GpuError(f"{checkout}: the catalogue of cards is missing; install gguf-vramfit again")


def load(path: Path) -> dict[str, Any]:
    """Load the file as plain data, unchecked; raises `GpuError` when it is not a YAML mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise GpuError(f"{path}: cannot be read: {e}") from None
    try:
        data = json.loads("\n".join(x for x in text.split("\n") if not x.lstrip().startswith("#")))
    except ValueError:
        data = _load_yaml(path, text)
    if not isinstance(data, dict):
        raise GpuError(f"{path}: not a mapping with `rules` and `cards`")
    return data


def _load_yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError) as e:  # ValueError: such as a date that does not exist
        raise GpuError(f"{path}: not YAML: {' '.join(str(e).split())}") from None


@lru_cache(maxsize=1)
def _catalogue() -> tuple[tuple[Card, ...], Rules]:
    path = catalogue_path()
    data = load(path)
    known = set(Rules._fields)
    try:
        cards = [_card(entry, gib) for entry in data["cards"] for gib in _sizes(entry)]
        return tuple(cards), Rules(**{k: _unchanging(v) for k, v in data["rules"].items() if k in known})
    except (AttributeError, KeyError, TypeError) as e:
        raise GpuError(f"{path}: faulty ({e}); vramfit.gpus.validate_catalogue() lists every fault") from None


def _unchanging(value: Any) -> Any:
    """A table of the file as nobody can change it."""
    return MappingProxyType(value) if isinstance(value, dict) else value


def _sizes(entry: dict[str, Any]) -> list[int | None]:
    memory = entry.get("memory_gib")
    return memory if isinstance(memory, list) else [memory]


def _card(entry: dict[str, Any], memory_gib: int | None) -> Card:
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if v is not None
    }
    if isinstance(entry.get("memory_gib"), list):
        values["id"] += f"-{memory_gib}gb"
        values["name"] += f" {memory_gib}GB"
    if isinstance(entry.get("linux_mib"), int):
        values["linux_mib"] = (entry["linux_mib"],) * 2
    return Card(**{**values, "memory_gib": memory_gib})


@lru_cache(maxsize=1)
def all_cards() -> tuple[Card, ...]:
    """List every card, least memory first; those of unknown size come before."""
    return tuple(
        sorted(_catalogue()[0], key=lambda c: (c.memory_gib or 0, rules().total_mib(c) or 0, c.name))
    )


def rules() -> Rules:
    """Load the rules of the catalogue."""
    return _catalogue()[1]
