"""Describe the JSON that the commands print, as pydantic models. Fields are added, never renamed.

Every size is a whole number of bytes, every context a number of tokens.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, SkipValidation

from .._llama.params import Settings

__all__ = [
    "AlternativeJson",
    "AlternativesJson",
    "AskedJson",
    "CarrierJson",
    "CauseJson",
    "ChoiceJson",
    "ComparisonJson",
    "DeviceJson",
    "DoctorJson",
    "EngineJson",
    "EstimateJson",
    "FindingJson",
    "FoundGpuJson",
    "GpuJson",
    "HolderJson",
    "HostMemoryJson",
    "LayerKindJson",
    "MeasureJson",
    "ModelJson",
    "ModelfilesJson",
    "OlderJson",
    "OverheadJson",
    "PlanJson",
    "RopeJson",
    "ShortlistJson",
    "SpeedJson",
    "SpeedLinkJson",
    "SpeedTermJson",
    "SweepJson",
    "VerificationJson",
    "VerifiedJson",
    "settings_json",
]

SCHEMA_VERSION: Literal[1] = 1
Text = Annotated[str, SkipValidation]  # of others: a path can hold what is no Unicode


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceJson(_Frozen):
    """One card, or the host."""

    name: Text
    layers: int
    model: int
    context: int
    compute: int
    total: int
    free: Optional[int]  # noqa: UP045 - pydantic evaluates it, on 3.10 too
    left: Optional[int]  # noqa: UP045
    compute_exact: bool
    beside: int = 0
    mapped: int = 0
    company: int = 0  # of what is loaded beside the model, within `total`


class TermsJson(_Frozen):
    """Bytes on one device, by the engine's terms."""

    model: int
    context: int
    compute: int


class CompanyJson(_Frozen):
    """What is loaded beside the model, on each card and the host; `note` says why its bytes are not exact."""

    kind: str
    name: Text
    gpus: list[TermsJson]
    host: TermsJson
    exact: bool
    note: Text


class OverheadJson(_Frozen):
    """What a card loses outside every buffer; `counted` when it is already out of free memory."""

    gpu: Text
    name: str
    n_bytes: int
    counted: bool
    why: str


class OlderJson(_Frozen):
    """What a build before June 2026 would need more, on the card where that is most."""

    gpu: Text
    n_bytes: int


class MeasureJson(_Frozen):
    """A published measure of quality: of `model`, not of the model compared."""

    kld: float
    perplexity: float
    imatrix: bool
    model: str
    metric: str
    source: str


class AlternativeJson(_Frozen):
    """Other settings, the contexts they reach and what they cost. Contexts are of one slot; 0: it does not fit."""

    kind: str
    flags: Text
    before: int
    n_ctx: int
    fits: bool
    exact: bool
    shortfall: int
    tensor_split: list[int]
    costs: list[Text]
    host_bytes: int
    tokens_per_second: Optional[float]  # noqa: UP045
    measure: Optional[MeasureJson]  # noqa: UP045
    settings: dict[str, Any]


class SpeedTermJson(_Frozen):
    """What one device does at the least: bytes for a token, at a full context, for a batch; operations for a token."""

    device: Text
    weights: int
    cache: int
    batch: int
    flops: int
    gbs: Optional[float]  # noqa: UP045
    tflops: Optional[float]  # noqa: UP045


class SpeedLinkJson(_Frozen):
    """What a token, and a batch of a prompt, wait at the least for a link between devices."""

    name: Text
    token_seconds: float
    batch_seconds: float


class SpeedJson(_Frozen):
    """Upper bounds in tokens a second, and their terms; null where a term is not known. `missing` says what is not counted."""

    decode: Optional[float]  # noqa: UP045
    decode_full: Optional[float]  # noqa: UP045
    prompt: Optional[float]  # noqa: UP045
    n_ctx: int
    n_ubatch: int
    pipelined: bool
    terms: list[SpeedTermJson]
    links: list[SpeedLinkJson] = []
    missing: list[Text]
    n_tokens: int = 1


class EstimateJson(_Frozen):
    """What the engine allocates for one context, device by device."""

    schema_version: int = SCHEMA_VERSION
    n_ctx: int
    n_ctx_seq: int
    fits: bool
    gpus: list[DeviceJson]
    host: DeviceJson
    settings: dict[str, Any]
    flash_attn: bool
    exact: bool
    compute_note: str
    proof: str = ""
    era: str
    company: list[CompanyJson] = []


class CrossingJson(_Frozen):
    """Bytes that a machine gets from, and sends to, the one that runs the engine."""

    received: int
    sent: int


class MachineJson(_Frozen):
    """One machine of several: bytes on its cards and in its memory, and what crosses the network for a token and for a batch.

    `endpoint` and `command` are "" for the one that runs the engine, which is last, and nothing crosses to it.
    """

    name: Text
    endpoint: Text
    command: Text
    gpus: list[Text]
    total: int
    host: int
    link_gbits: Optional[float]  # noqa: UP045
    link_assumed: bool
    token: Optional[CrossingJson]  # noqa: UP045
    batch: Optional[CrossingJson]  # noqa: UP045


class LeftJson(_Frozen):
    """What a card, or the host, has for another model, with what the driver takes for its `process` counted. Bytes."""

    name: Text
    n_bytes: int
    process: int


class GivesUpJson(_Frozen):
    """The context that leaves `size` bytes for another model on `card`, or on all cards for the one named `beside`."""

    size: int
    n_ctx: int
    card: Text
    tensor_split: list[int]
    beside: Text = ""
    beside_ctx: int = 0
    proved: bool = True


class PlanJson(_Frozen):
    """What `vramfit plan --json` prints."""

    schema_version: int = SCHEMA_VERSION
    model: Text
    architecture: Text
    n_ctx: int
    n_ctx_seq: int
    n_ctx_train: int
    fits: bool
    limited_by: Text
    shortfall: int
    margin: int
    tensor_split: list[int]
    gpus: list[DeviceJson]
    host: DeviceJson
    settings: dict[str, Any]
    flash_attn: bool
    exact: bool
    compute_note: Text
    proof: str = ""
    warnings: list[Text]
    reach: str
    overheads: list[OverheadJson]
    era: str
    company: list[CompanyJson] = []
    older_build: Optional[OlderJson] = None  # noqa: UP045
    speed: Optional[SpeedJson] = None  # noqa: UP045
    engine: Optional[str] = None  # noqa: UP045
    command: Optional[Text] = None  # noqa: UP045
    modelfile: Optional[Text] = None  # noqa: UP045
    prefer: Optional[str] = None  # noqa: UP045
    changed: Optional[AlternativeJson] = None  # noqa: UP045
    alternatives: Optional[list[AlternativeJson]] = None  # noqa: UP045
    ignored: list[str] = []
    machines: list[MachineJson] = []
    link_seconds: Optional[float] = None  # noqa: UP045
    leaves: list[LeftJson] = []
    gives_up: Optional[GivesUpJson] = None  # noqa: UP045


class AlternativesJson(_Frozen):
    """A plan as asked, and every change of its settings alone."""

    schema_version: int = SCHEMA_VERSION
    asked: PlanJson
    prefer: Optional[str]  # noqa: UP045
    alternatives: list[AlternativeJson]


class FindingJson(_Frozen):
    """One context of a Modelfile; `plan` is for what the engine loads."""

    file: Text
    line: Optional[int]  # noqa: UP045
    num_ctx: int
    verdict: Literal["fits", "spills", "depends", "crashes"]
    card: Text
    shortfall: int
    best: int
    mended: int
    notes: list[Text]
    plan: PlanJson


class WrittenJson(_Frozen):
    """A Modelfile that was mended, and the file that holds what was there."""

    file: Text
    backup: Text
    changes: list[Text]


class ModelfilesJson(_Frozen):
    """What `vramfit modelfile check --json` prints."""

    schema_version: int = SCHEMA_VERSION
    fits: bool
    findings: list[FindingJson]
    errors: list[Text]
    written: list[WrittenJson] = []


class RopeJson(_Frozen):
    """RoPE scaling as the header states it."""

    scaling: str
    factor: float
    original_context: int
    freq_base: float
    dimensions: int


class LayerKindJson(_Frozen):
    """Layers that share one attention geometry."""

    kind: str
    layers: list[int]
    n_head: int
    n_head_kv: int
    head_k: int
    head_v: int
    window: int
    cache_bytes_per_token: int
    state_bytes_per_slot: int


class CompanionJson(_Frozen):
    """A file that comes with a model: projector, adapter, draft, template. `bytes` is null where unknown."""

    kind: str
    name: Text
    bytes: Optional[int]  # noqa: UP045
    path: Optional[Text]  # noqa: UP045


class ModelJson(_Frozen):
    """What `vramfit inspect --json` prints."""

    schema_version: int = SCHEMA_VERSION
    source: Text
    name: Text
    architecture: Text
    assumed: Optional[Text]  # noqa: UP045
    file_type: str
    n_params: int
    tensor_bytes: int
    n_layer: int
    n_embd: int
    n_vocab: int
    n_expert: int
    n_ctx_train: int
    rope: RopeJson
    layer_kinds: list[LayerKindJson]
    cache_bytes_per_token: int
    tensor_types: dict[str, int]
    companions: list[CompanionJson] = []
    parameters: dict[str, Any] = {}  # Ollama's, such as num_ctx


class GpuJson(_Frozen):
    """One card of `vramfit gpus --json`."""

    id: str
    name: Text
    backend: str
    total: int
    free: int
    bandwidth_gbs: Optional[float]  # noqa: UP045
    compute_capability: Optional[str]  # noqa: UP045


class HolderJson(_Frozen):
    """A program that holds memory of a card; `n_bytes` is null where the driver does not say how much."""

    name: str
    n_bytes: Optional[int]  # noqa: UP045


class FoundGpuJson(GpuJson):
    """A card of this machine. `by_engine`: its sizes are those that llama-server prints."""

    free_measured: bool
    unified: bool
    by_engine: bool
    bus: str
    screen: bool
    holders: list[HolderJson]
    note: str


class HostMemoryJson(_Frozen):
    """Memory of a machine; `limited`: by a container."""

    total: int
    available: int
    limited: bool


class EngineJson(_Frozen):
    """An engine of a machine; `build` and `era` are "" where its version names no build to count for."""

    program: str
    version: str
    build: str
    era: str
    failure: str


class AskedJson(_Frozen):
    """A source that was asked for cards; `missing`: it is not installed, or has nothing here to ask."""

    source: str
    cards: int
    missing: bool
    failure: str
    advice: str


class DoctorJson(_Frozen):
    """What `vramfit doctor --json` prints."""

    schema_version: int = SCHEMA_VERSION
    platform: str
    gpus: list[FoundGpuJson]
    host: Optional[HostMemoryJson]  # noqa: UP045
    engines: list[EngineJson]
    asked: list[AskedJson]
    notes: list[str]
    advice: list[str]


class ChoiceJson(_Frozen):
    """One file type with one pair of cache types."""

    file_type: str
    type_k: str
    type_v: str
    bits_per_weight: float
    file_bytes: int
    needs_imatrix: bool
    n_ctx: int
    fits: bool
    limited_by: Text
    shortfall: int
    tensor_split: list[int]
    exact: bool
    tokens_per_second: Optional[float]  # noqa: UP045
    measure: Optional[MeasureJson]  # noqa: UP045
    cache_measure: Optional[MeasureJson]  # noqa: UP045
    on_front: bool
    refused: Text


class ComparisonJson(_Frozen):
    """What `vramfit compare --json` prints."""

    schema_version: int = SCHEMA_VERSION
    model: Text
    architecture: Text
    gpus: list[Text]
    margin: int
    fits: bool
    warnings: list[str]
    choices: list[ChoiceJson]
    settings: dict[str, Any]
    era: str
    ignored: list[str] = []


class CarrierJson(_Frozen):
    """Cards that hold a context; `alike` names for each of them all with as much free memory and bandwidth."""

    total: int
    free: int
    backend: str
    gpus: list[str]
    alike: list[list[str]]
    built_in: bool
    bandwidth_gbs: list[Optional[float]]  # noqa: UP045
    tokens_per_second: Optional[float]  # noqa: UP045


class ShortlistJson(_Frozen):
    """What `vramfit which --json` prints."""

    schema_version: int = SCHEMA_VERSION
    model: Text
    architecture: Text
    n_ctx: int
    margin: int
    fits: bool
    sort: str
    carriers: list[CarrierJson]
    settings: dict[str, Any]
    era: str
    ignored: list[str] = []


class SweepJson(_Frozen):
    """A sweep in columns of equal length; the last axis of `shape` runs fastest."""

    schema_version: int = SCHEMA_VERSION
    model: str
    architecture: str
    margin: int
    shape: list[int]
    columns: dict[str, list[Any]]
    settings: dict[str, Any]
    era: str


class VerifiedJson(_Frozen):
    """One kind of memory on one device; what was printed lies between `low` and `high`."""

    device: Text
    kind: str
    estimate: int
    measured: int
    low: int
    high: int
    judged: bool
    agrees: bool
    why: str


class CauseJson(_Frozen):
    """A change after which more figures agree, all of them where `agrees`."""

    what: Text
    agrees: bool
    settings: dict[str, Any]


class VerificationJson(_Frozen):
    """What `vramfit verify --json` prints."""

    schema_version: int = SCHEMA_VERSION
    model: Text
    verdict: str
    agrees: bool
    program: str
    build: Text
    line: int
    load: int
    loads: int
    rows: list[VerifiedJson]
    reasons: list[Text]
    causes: list[CauseJson]
    taken: list[Text]
    command: Text
    settings: dict[str, Any]
    era: str


def settings_json(settings: Settings) -> dict[str, Any]:
    """List the settings by the engine's parameter names."""
    return asdict(settings)
