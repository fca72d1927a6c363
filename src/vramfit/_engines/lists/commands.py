"""Read commands of llama-server as people keep them: one a line, in a script or alone."""

from __future__ import annotations

import os
import re
from itertools import takewhile
from pathlib import PurePath
from typing import Final

from ..._base.errors import SettingsError, shown
from ..._llama.flags import is_command
from .nouns import MAX_LISTED, Raw, placed
from .shell import MAX_COMMAND, commands_of, logical_lines

__all__ = ["KINDS", "of_commands"]

KINDS: Final = "commands of llama-server, one a line; YAML with gpus and models; a preset of llama-server's router; llama-swap's config.yaml"
_SERVER: Final = ("llama-server", "llama-cli")  # how the names of its programs begin
_ASSIGNED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
# They start what is named behind them, and options of their own.
_BEFORE: Final = (
    "exec",
    "nohup",
    "env",
    "time",
    "command",
    "sudo",
    "nice",
    "ionice",
    "taskset",
    "numactl",
    "setsid",
    "stdbuf",
)
# They start no model, and what they do changes no size.
_BESIDE: Final = (
    "set", "cd", "echo", "printf", "sleep", "wait", "trap", "ulimit", "mkdir", "source", ".", "tee", "cat", "grep", "sed", "awk",
    "tail", "head", "kill", "pkill", "curl", "wget", "nvidia-smi", "rm", "mv", "cp", "ln", "touch",
    "exit", "true", "shopt", "umask", "logger", "disown", "pushd", "popd", "clear", "date", "unset",
)  # fmt: skip
_VISIBLE: Final = (
    "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "ZE_AFFINITY_MASK",
    "ONEAPI_DEVICE_SELECTOR",
)  # fmt: skip
_WHY: Final = "which cards a model may use: the plan chooses among all of --gpus, and says which"


def of_commands(text: str, source: str) -> tuple[list[Raw], tuple[str, ...]]:
    """Read a script: each command of llama-server is a model; the second value says what was passed over.

    Variables that the script sets are put in, those that it exports count for the commands behind them.
    Raises `SettingsError`, which names the line.
    """
    script = _Script(source)
    for number, line in logical_lines(text):
        if line.strip() and not line.lstrip().startswith("#"):
            with placed(f"{source}: line {number}"):
                for words in commands_of(line, script.variables):
                    script.take(number, words)
    if not script.found and script.notes:
        raise SettingsError(
            f"{source}: none of its commands starts a llama-server; a list is one of: {KINDS}"
        )
    return script.found, tuple(script.notes)


class _Script:
    """Collects models while commands are read."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.variables = {"HOME": os.path.expanduser("~")}
        self.exported: dict[str, None] = {}
        self.found: list[Raw] = []
        self.notes: list[str] = []

    def take(self, number: int, words: list[str]) -> None:
        """Take one command."""
        if words[0] == "export":
            words = words[1:]
            self.exported |= {word.partition("=")[0]: None for word in words}
        assigned = [(m[1], m[2]) for word in words if (m := _ASSIGNED.fullmatch(word))]
        if len(assigned) == len(words) or all(word in self.exported for word in words):
            self.variables |= dict(assigned)
            if sum(map(len, self.variables.values())) > MAX_COMMAND or len(self.variables) > MAX_LISTED:
                raise SettingsError(
                    f"variables of more than {MAX_COMMAND:,} characters, or {MAX_LISTED} of them; cut them"
                )
            return
        words = _started(words)
        program = PurePath(next((w for w in words if not _ASSIGNED.fullmatch(w)), "")).name
        if program in _BESIDE:
            self.notes.append(f"Passed over: line {number}: {program}")
            return
        if not _is_server(program) and not is_command(words):
            first = (
                f"{self.source}: none of the kinds that are read. " if not (self.found or self.notes) else ""
            )
            raise SettingsError(
                f"{shown(' '.join(words)[:60])} is no command of llama-server; {first}A list is one of: {KINDS}"
            )
        if len(self.found) == MAX_LISTED:
            raise SettingsError(f"more than {MAX_LISTED} models; cut the list")
        exported = [f"{name}={self.variables[name]}" for name in self.exported if name in self.variables]
        self.found.append(raw_of(f"{self.source}: line {number}", [*exported, *words]))


def raw_of(where: str, words: list[str], name: str = "") -> Raw:
    """Make a model of the words of its command, variables first; says that which cards it sees is not counted."""
    words = _started(words)
    before = [*takewhile(_ASSIGNED.fullmatch, words)]
    last = {word.partition("=")[0]: word for word in before}
    seen = tuple(last[name] for name in _VISIBLE if name in last)
    return Raw(where, tuple(words), name, uncounted=((_WHY, seen),) if seen else ())


def _is_server(word: str) -> bool:
    return PurePath(word).name.startswith(_SERVER)


def _started(words: list[str]) -> list[str]:
    """Take away what starts the program, such as nohup, once or often; variables stay."""
    at = len([*takewhile(_ASSIGNED.fullmatch, words)])
    if at == len(words) or PurePath(words[at]).name not in _BEFORE:
        return words
    behind = next((i for i in range(at + 1, len(words)) if _is_server(words[i])), None)
    if behind is None:  # a program of another name: behind the word and its variables
        behind = next(
            (i for i in range(at + 1, len(words)) if not words[i].startswith("-") and "=" not in words[i]),
            len(words),
        )
    return _started(
        [*words[:at], *(w for w in words[at + 1 : behind] if _ASSIGNED.fullmatch(w)), *words[behind:]]
    )
