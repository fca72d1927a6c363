"""Write the llama-server command line of a plan, and read a command line back into settings.

Flags: common/arg.cpp of the pinned build. Every flag that a plan rests on is written out, also where it is
the default, because defaults change; `--fit off` keeps the engine from moving what was planned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from .._base.errors import SettingsError
from .._base.foreign import shell_line
from .._coerce import word
from .._devices import Gpu, machines
from .._llama.flags import first_experts, read, split_text
from .._llama.params import EXPERTS, Settings
from .._planner.plan import Plan
from .settings import as_run, engine_settings

__all__ = [
    "Among",
    "all_flags",
    "arguments",
    "company_flags",
    "device_names",
    "host_flags",
    "model_flags",
    "parse_command",
    "pooling_flags",
    "rpc_flags",
    "shares",
    "words",
]

MAX_SHARES: Final = 15  # arg.cpp:2831 refuses as many as llama_max_devices()


class Among(NamedTuple):
    """All cards that the engine sees, and which of them (indexes) a plan's cards are."""

    gpus: Sequence[Gpu]
    cards: Sequence[int]


def words(plan: Plan) -> str:
    """Write the command, ready to be pasted into a shell."""
    return shell_line(["llama-server", *all_flags(plan)])


def all_flags(plan: Plan, among: Among | None = None) -> list[str]:
    """List every word behind the program's name; those that name cards count them `among` all that it sees."""
    fit = ["--fit", "off"] if plan.fits else []
    return [
        *model_flags(plan.model.source),
        *rpc_flags(plan, among),
        *company_flags(plan, among),
        *arguments(plan.settings),
        *fit,
    ]


def rpc_flags(plan: Plan, among: Among | None = None) -> list[str]:
    """Name the servers of other machines to llama-server, in the order of its cards, where the plan has cards there."""
    if not any(g.remote for g in plan.gpus):
        return []
    return ["--rpc", ",".join(m.endpoint for m in machines(among.gpus if among else plan.gpus) if m.endpoint)]


_DEVICES: Final = {"cuda": "CUDA", "hip": "ROCm", "vulkan": "Vulkan", "metal": "MTL", "sycl": "SYCL"}


def device_names(plan: Plan, indexes: tuple[int, ...], among: Among | None = None) -> str:
    """Name cards of the plan as the engine does (--list-devices): by backend, and counted from 0 in each."""
    if among is not None:
        indexes = tuple(among.cards[i] for i in indexes)
    names = ["RPC" if g.remote else _DEVICES.get(g.backend, "GPU") for g in (among or plan).gpus]
    return ",".join(f"{names[i]}{names[:i].count(names[i])}" for i in indexes) or "none"


def company_flags(plan: Plan, among: Among | None = None) -> list[str]:
    """Name what is loaded beside a model to llama-server, and say where it goes."""
    if plan.model.company is None:
        return []
    from .._company import company_of

    company, flags = company_of(plan.model), list[str]()
    if company.draft is not None:
        d = company.draft
        source = model_flags(d.model.source)
        flags += ["-hfd" if source[0] == "-hf" else "-md", source[1], "-ctkd", d.type_k, "-ctvd", d.type_v]
        flags += ["-ngld", "all" if d.n_gpu_layers < 0 else str(d.n_gpu_layers)]
        if d.devices is not None:
            flags += ["-devd", device_names(plan, d.devices, among)]
        for pattern in d.cpu_tensors:
            flags += ["-otd", f"{pattern}=CPU"]
    elif company.draft_types != ("f16", "f16"):
        flags += ["-ctkd", company.draft_types[0], "-ctvd", company.draft_types[1]]
    if company.encoder is not None:
        e = company.encoder
        remote = e.projector.source.startswith(("http://", "https://"))
        flags += ["--mmproj-url" if remote else "--mmproj", e.projector.source]
        nowhere = (
            among is not None and not among.cards
        )  # "-dev none" keeps a model off the cards, and no projector
        flags += [] if e.offload and not nowhere else ["--no-mmproj-offload"]
        flags += ["--mmproj-device", device_names(plan, (e.device,), among)] if e.device is not None else []
        flags += ["--image-max-tokens", str(e.max_tokens)] if e.max_tokens else []
    for name, files in (("--lora", company.adapters), ("--control-vector", company.control_vectors)):
        for one in files:
            plain = one.scale == 1
            flags += [name, one.source] if plain else [f"{name}-scaled", f"{one.source}:{one.scale:g}"]
    return flags


def model_flags(source: str) -> list[str]:
    """Name the model to llama-server: a file, a URL or a repository of the Hub."""
    repo = re.fullmatch(r"(?:hf\.co/|huggingface\.co/|hf://)([^/]+/[^/:]+)(?::([^/]+)|/(.+\.gguf))?", source)
    if repo:
        name, quant, file = repo.groups()
        return ["-hf", f"{name}:{quant}" if quant else name, *(["-hff", file] if file else [])]
    if source.startswith(("http://", "https://")):
        return ["-mu", source]
    return ["-m", source if source and not source.startswith("<") else "model.gguf"]


def arguments(settings: Settings) -> list[str]:
    """List every flag that llama-server needs for `settings`. Raises `SettingsError` for what it cannot be told."""
    s = as_run(settings, "llama-server")
    flags = ["-c", str(s.n_ctx), "-b", str(s.n_batch), "-ub", str(s.n_ubatch), "-np", str(s.n_seq_max)]
    flags += ["-kvu" if s.kv_unified else "-no-kvu", "-fa", s.flash_attn, "-ctk", s.type_k, "-ctv", s.type_v]
    flags += ["-ngl", "all" if s.n_gpu_layers < 0 else str(s.n_gpu_layers), "-sm", s.split_mode]
    if s.tensor_split:
        flags += ["-ts", shares(s.tensor_split)]
    if s.main_gpu or s.split_mode == "none":
        flags += ["-mg", str(s.main_gpu)]
    for on, flag in ((not s.offload_kqv, "-nkvo"), (s.swa_full, "--swa-full"),
                     (not s.op_offload, "--no-op-offload")):  # fmt: skip
        flags += [flag] if on else []
    flags += pooling_flags(s)
    if s.load_mode != "auto":
        flags += ["-lm", s.load_mode]
    if s.spec_type != "none":
        flags += ["--spec-type", s.spec_type, "--spec-draft-n-max", str(s.spec_draft_n_max)]
    return flags + host_flags(s.cpu_tensors)


def pooling_flags(s: Settings) -> list[str]:
    """List the flags of embedding mode: --rerank stands for two (arg.cpp:3484)."""
    if s.embeddings and s.pooling == "rank":
        return ["--rerank"]
    return (["--embeddings"] if s.embeddings else []) + (["--pooling", s.pooling] if s.pooling else [])


def shares(split: tuple[float, ...]) -> str:
    """Write shares as a flag or variable takes them: `34,15`; where there are too many, zeros at the end go."""
    given = list(split)
    while len(given) > MAX_SHARES and not given[-1]:
        given.pop()
    if len(given) > MAX_SHARES:
        raise SettingsError(
            f"tensor_split of {len(given)} shares: llama-server takes at most {MAX_SHARES}; leave one card out"
        )
    return ",".join(str(int(x)) if x == int(x) else repr(x) for x in given)


def host_flags(patterns: tuple[str, ...]) -> list[str]:
    """List the flags that keep tensors on the host: `-ncmoe N` and `-cmoe` where the patterns are theirs, else `-ot`."""
    count = next(n for n in range(len(patterns), -1, -1) if patterns[len(patterns) - n :] == first_experts(n))
    rest = patterns[: len(patterns) - count]
    all_experts = bool(rest) and rest[-1] == EXPERTS
    flags: list[str] = []
    for pattern in rest[:-1] if all_experts else rest:
        if "," in pattern or "=" in pattern:
            raise SettingsError(
                f"cpu_tensors {pattern!r}: llama-server cuts -ot at , and =; write it without"
            )
        flags += ["-ot", f"{pattern}=CPU"]
    return flags + (["-cmoe"] if all_experts else []) + (["-ncmoe", str(count)] if count else [])


def parse_command(text: str) -> Settings:
    """Read the settings that a llama-server command line asks for; defaults are the server's own.

    What the line holds beside settings, `flags.read` tells. Raises `SettingsError` for a flag that is not known,
    one that cannot be planned for, a value that is missing or malformed, and a quote that is not closed.
    """
    text = word("text", text)
    return engine_settings("llama-server", read(split_text(text)).given)
