"""Check what PARAMETER takes: names and kinds (Ollama, api/types.go:568-596, 1096-1123)."""

from __future__ import annotations

import re
from typing import Final

from .._base.errors import ModelfileError
from .._base.matches import get_close_matches
from .grammar import Command, Modelfile

__all__ = ["check_names", "number", "whole"]

WHOLE: Final = (
    "num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread",
    "draft_num_predict",
)  # fmt: skip
OTHER: Final = (
    "top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop", "use_mmap",
)  # fmt: skip
IGNORED: Final = (
    "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat", "mirostat_tau", "mirostat_eta",
)  # fmt: skip
KNOWN: Final = (*WHOLE, *OTHER, *IGNORED)


def check_names(file: Modelfile) -> None:
    """Refuse a parameter that Ollama does not know. Raises `ModelfileError`."""
    for command in file.commands:
        if command.name == "parameter" and command.key not in KNOWN:
            near = get_close_matches(command.key, KNOWN, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ModelfileError(
                f"{file.name}, line {command.line}: Ollama knows no parameter {command.key!r}{hint}"
            )


def number(file: Modelfile, key: str) -> int | None:
    """Read the whole number that counts for `key`: the last one; None without one. Raises as `whole` does."""
    given = file.parameters(key)
    return whole(file, given[-1]) if given else None


def whole(file: Modelfile, command: Command) -> int:
    """Read the value of a PARAMETER as a whole number. Raises `ModelfileError` for another."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", command.value):
        raise ModelfileError(
            f"{file.name}, line {command.line}: {command.key} {command.value!r} is not a whole number"
        )
    return int(command.value)
