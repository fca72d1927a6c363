"""The llama-server command line of a plan, and back from a command line to settings.

Flags: common/arg.cpp of the pinned build. Every flag that a plan rests on is written out, also where it is
the default, because defaults change; `--fit off` keeps the engine from moving what was planned.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import SettingsError
from ..foreign import shell_line
from ..settings import EXPERTS, Settings
from ..solve import Plan
from .settings import as_run, engine_settings

__all__ = ["arguments", "host_flags", "model_flags", "parse_command", "shares", "words"]

MAX_LAYERS: Final = 512  # LLAMA_MAX_LAYERS
MAX_SHARES: Final = 15  # arg.cpp:2831 refuses as many as llama_max_devices()


def words(plan: Plan) -> str:
    """The command, ready to be pasted into a shell."""
    fit = ["--fit", "off"] if plan.fits else []
    return shell_line(["llama-server", *model_flags(plan.model.source), *arguments(plan.settings), *fit])


def model_flags(source: str) -> list[str]:
    """How llama-server is told a model: a file, a URL or a repository of the Hub."""
    repo = re.fullmatch(r"(?:hf\.co/|huggingface\.co/|hf://)([^/]+/[^/:]+)(?::([^/]+)|/(.+\.gguf))?", source)
    if repo:
        name, quant, file = repo.groups()
        return ["-hf", f"{name}:{quant}" if quant else name, *(["-hff", file] if file else [])]
    if source.startswith(("http://", "https://")):
        return ["-mu", source]
    return ["-m", source if source and not source.startswith("<") else "model.gguf"]


def arguments(settings: Settings) -> list[str]:
    """Every flag that llama-server needs for `settings`. Raises `SettingsError` for what it cannot be told."""
    s = as_run(settings, "llama-server")
    flags = ["-c", str(s.n_ctx), "-b", str(s.n_batch), "-ub", str(s.n_ubatch), "-np", str(s.n_seq_max)]
    flags += ["-kvu" if s.kv_unified else "-no-kvu", "-fa", s.flash_attn, "-ctk", s.type_k, "-ctv", s.type_v]
    flags += ["-ngl", "all" if s.n_gpu_layers < 0 else str(s.n_gpu_layers), "-sm", s.split_mode]
    if s.tensor_split:
        flags += ["-ts", shares(s.tensor_split)]
    if s.main_gpu or s.split_mode == "none":
        flags += ["-mg", str(s.main_gpu)]
    for on, flag in ((not s.offload_kqv, "-nkvo"), (s.swa_full, "--swa-full"),
                     (not s.op_offload, "--no-op-offload"), (s.embeddings, "--embeddings")):  # fmt: skip
        flags += [flag] if on else []
    return flags + host_flags(s.cpu_tensors)


def shares(split: tuple[float, ...]) -> str:
    """`34,15`: the shares as a flag or variable takes them; where there are too many, zeros at the end go."""
    given = list(split)
    while len(given) > MAX_SHARES and not given[-1]:
        given.pop()
    if len(given) > MAX_SHARES:
        raise SettingsError(
            f"tensor_split of {len(given)} shares: llama-server takes at most {MAX_SHARES}; leave one card out"
        )
    return ",".join(str(int(x)) if x == int(x) else repr(x) for x in given)


def host_flags(patterns: tuple[str, ...]) -> list[str]:
    """Flags that keep tensors on the host: `-ncmoe N` and `-cmoe` where the patterns are theirs, else `-ot`."""
    count = next(
        n for n in range(len(patterns), -1, -1) if patterns[len(patterns) - n :] == _first_experts(n)
    )
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


def _first_experts(n: int) -> tuple[str, ...]:
    return tuple(rf"blk\.{i}{EXPERTS}" for i in range(n))


@dataclass(frozen=True, slots=True)
class _Flag:
    """`field` takes the value that follows, read by `kind`; or, when there is none, `constant`."""

    field: str
    kind: str = "int"
    constant: object = None


_FLAGS: Final[Mapping[str, _Flag]] = {
    name: flag
    for names, flag in (
        ("-c --ctx-size", _Flag("n_ctx")),
        ("-b --batch-size", _Flag("n_batch")),
        ("-ub --ubatch-size", _Flag("n_ubatch")),
        ("-np --parallel", _Flag("n_seq_max")),
        ("-kvu --kv-unified", _Flag("kv_unified", "constant", True)),
        ("-no-kvu --no-kv-unified", _Flag("kv_unified", "constant", False)),
        ("-fa --flash-attn", _Flag("flash_attn", "switch")),
        ("-ctk --cache-type-k", _Flag("type_k", "text")),
        ("-ctv --cache-type-v", _Flag("type_v", "text")),
        ("-ngl --gpu-layers --n-gpu-layers", _Flag("n_gpu_layers", "layers")),
        ("-sm --split-mode", _Flag("split_mode", "text")),
        ("-ts --tensor-split", _Flag("tensor_split", "shares")),
        ("-mg --main-gpu", _Flag("main_gpu")),
        ("-kvo --kv-offload", _Flag("offload_kqv", "constant", True)),
        ("-nkvo --no-kv-offload", _Flag("offload_kqv", "constant", False)),
        ("--swa-full", _Flag("swa_full", "constant", True)),
        ("--op-offload", _Flag("op_offload", "constant", True)),
        ("--no-op-offload", _Flag("op_offload", "constant", False)),
        ("--embedding --embeddings", _Flag("embeddings", "constant", True)),
        ("-ot --override-tensor", _Flag("cpu_tensors", "overrides")),
        ("-cmoe --cpu-moe", _Flag("cpu_tensors", "patterns", (EXPERTS,))),
        ("-ncmoe --n-cpu-moe", _Flag("cpu_tensors", "experts")),
    )
    for name in names.split()
}
# Flags that change nothing we plan for, by the number of words that follow them.
_WITH_VALUE: Final = """-m --model -hf -hfr --hf-repo -hff --hf-file -mu --model-url -fit --fit -fitt --fit-target
    -fitc --fit-ctx --host --port -a --alias -t --threads -tb --threads-batch --api-key --temp --top-k --top-p
    --min-p -n --predict -s --seed --chat-template --rope-scaling --rope-scale --rope-freq-base --rope-freq-scale
    --yarn-orig-ctx -cram --cache-ram -ctxcp --ctx-checkpoints"""
_ALONE: Final = """--jinja --no-jinja --no-webui --offline -v --verbose --metrics --slots --no-slots --mlock
    --no-mmap --no-warmup"""
_ASIDE: Final = {**dict.fromkeys(_WITH_VALUE.split(), 1), **dict.fromkeys(_ALONE.split(), 0)}


def parse_command(text: str) -> Settings:
    """The settings that a llama-server command line asks for; defaults are the server's own.

    Raises `SettingsError` for a flag that is not known here, a value that is missing or malformed, and a
    quote that is not closed.
    """
    try:
        given = shlex.split(text.replace("\\\n", " "))
    except ValueError as e:
        raise SettingsError(f"{text!r} is no command line: {e}") from None
    values: dict[str, Any] = {}
    rest = iter(given[1:] if given and not given[0].startswith("-") else given)
    for word in rest:
        if word in _ASIDE:
            for _ in range(_ASIDE[word]):
                _value(word, next(rest, None))
        elif word in _FLAGS:
            flag = _FLAGS[word]
            needs = flag.kind not in ("constant", "patterns")
            _set(values, word, flag, _value(word, next(rest, None)) if needs else "")
        else:
            raise SettingsError(f"{word}: not a flag of llama-server that a plan knows; leave it out")
    if values.get("n_seq_max", 0) < 0:
        del values["n_seq_max"]  # auto: the default
    return engine_settings("llama-server", values)


def _value(flag: str, word: str | None) -> str:
    if word is None:
        raise SettingsError(f"{flag} needs a value")
    return word


def _set(values: dict[str, Any], name: str, flag: _Flag, word: str) -> None:
    if flag.field == "cpu_tensors":
        values["cpu_tensors"] = (*values.get("cpu_tensors", ()), *_patterns(name, flag, word))
        return
    try:
        values[flag.field] = _read(flag, word)
    except ValueError:
        raise SettingsError(f"{name} {word!r}: not a number") from None


def _read(flag: _Flag, word: str) -> object:
    if flag.kind == "constant":
        return flag.constant
    if flag.kind == "text":
        return word
    if flag.kind == "switch":
        return {"1": "on", "true": "on", "enabled": "on", "0": "off", "false": "off", "disabled": "off"}.get(
            word, word
        )
    if flag.kind == "layers":
        return -1 if word in ("auto", "all") else int(word)
    if flag.kind == "shares":
        return tuple(float(x) for x in re.split(r"[,/]+", word) if x)
    return int(word)


def _patterns(name: str, flag: _Flag, word: str) -> tuple[str, ...]:
    if flag.kind == "patterns":
        return (EXPERTS,)
    if flag.kind == "experts":
        if not word.isdecimal() or int(word) > MAX_LAYERS:
            raise SettingsError(f"{name} {word!r}: give a number of layers, at most {MAX_LAYERS}")
        return _first_experts(int(word))
    found = []
    for part in word.split(","):
        pattern, _, buffer = part.partition("=")
        if not pattern or buffer.upper() != "CPU":
            raise SettingsError(f"{name} {part!r}: write REGEX=CPU; only the host is a target here")
        found.append(pattern)
    return tuple(found)
