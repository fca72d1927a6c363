"""Models of one architecture, made and traced while an architecture is learned.

What the engine refuses is remembered; with `careful`, what ends its process is tried in another one first.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tools.engine.binding import EngineError
from tools.engine.metadata import Dims
from tools.engine.models import make_model

from . import plan
from .fuse import fuse
from .observe import Ambiguous, Traced
from .trace import read, traces

SCALES = r"(?<!ffn_gate_inp)\.(?:input_)?scale$"  # the router's is no quantization scale


@dataclass
class Mini:
    """A small model that was made for tracing."""

    path: str
    dims: Dims
    overrides: dict[str, Any]
    without: str


class Workshop:
    """Makes models of one architecture and traces them."""

    def __init__(self, architecture: str, folder: str, careful: bool = False) -> None:
        self.careful = careful
        self.architecture = architecture
        self.folder = folder
        self.experts: bool | None = None
        self.n = 0
        self.traced: list[Traced] = []
        self.refused: list[str] = []

    def make(self, dims: Dims, overrides: dict[str, Any] | None = None, without: str = "") -> Mini | None:
        """A model, or None if the engine refuses it."""
        self.n += 1
        path = os.path.join(self.folder, f"{self.architecture}-{self.n}.gguf")
        fixed = plan.FIXED.get(self.architecture, {})
        if self.careful and not self._survives(path, dims, fixed | (overrides or {}), without):
            self.refused.append("the engine died")
            return None
        try:
            make_model(
                self.architecture,
                path,
                dims,
                fixed | (overrides or {}),
                experts=self.experts,
                without=without,
            )
        except EngineError as e:
            self.refused.append(str(e))
            return None
        return Mini(path, dims, overrides or {}, without)

    def fused(self, mini: Mini) -> Mini | None:
        """The model with Q, K and V in one tensor, if the engine takes that."""
        path = mini.path.replace(".gguf", "-fused.gguf")
        if not fuse(mini.path, path):
            return None
        found = replace(mini, path=path)
        if self.careful and not self._tried(found, list(plan.settings(plan.FEW))[:1]):
            return None
        return found if self.trace(found, plan.settings(plan.FEW), keep=False) else None

    def _survives(self, path: str, dims: Dims, overrides: dict[str, Any], without: str) -> bool:
        """Whether the engine lives through making and tracing a model: tried in another process."""
        child = os.fork()
        if not child:
            with contextlib.suppress(Exception):  # the parent will meet it
                make_model(self.architecture, path, dims, overrides, experts=self.experts, without=without)
                self.trace(Mini(path, dims, overrides, without), plan.settings(plan.FEW), keep=False)
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0

    def fitting(self, dims: Dims, without: str = "") -> Mini | None:
        """A model in the loosest style that loads and makes graphs."""
        for styled in plan.styles(dims):
            mini = self.make(styled, without=without)
            if mini is not None and self.trace(mini, plan.settings(plan.FEW), keep=False):
                return mini
        return None

    def trace(self, mini: Mini, settings: Iterable[plan.Setting], keep: bool = True) -> list[Traced]:
        """All graphs of a model under some settings; refused settings are left out."""
        found: list[Traced] = []
        if self.architecture in plan.UNROLLED:
            settings = [s for s in settings if s.one_stream]
        for setting in self._survivors(mini, list(settings)) if self.careful and keep else settings:
            try:
                found += traces(mini.path, setting.arguments)
            except (EngineError, Ambiguous) as e:
                self.refused.append(f"{setting.arguments}: {e}")
            if not keep and found:
                break
        if keep:
            self.traced += found
        return found

    def _survivors(self, mini: Mini, settings: list[plan.Setting]) -> list[plan.Setting]:
        """The settings that the engine lives through: tried in other processes."""
        alive, rest = [], settings
        while rest:
            done = self._tried(mini, rest)
            alive += rest[:done]
            rest = rest[done + 1 :]
        return alive

    def _tried(self, mini: Mini, settings: list[plan.Setting]) -> int:
        """How many settings a child goes through before the engine dies."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            for setting in settings:
                with contextlib.suppress(Exception):  # the parent will meet it
                    list(traces(mini.path, setting.arguments))
                os.write(writer, b".")
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as marks:
            done = len(marks.read())
        os.waitpid(child, 0)
        return done

    def optional(self, mini: Mini) -> list[str]:
        """Suffixes (or whole names outside layers) of tensors that the model loads without."""
        names = {re.sub(r"^blk\.\d+\.", "@", t.name) for t in read(mini.path).tensors}
        found = []
        for name in sorted(names):
            if re.search(SCALES, name):
                continue
            without = either(mini.without, pattern_of(name))
            made = self.make(mini.dims, mini.overrides, without)
            if made is not None and self.trace(made, plan.settings(plan.FEW), keep=False):
                found.append(name)
        return found


def pattern_of(name: str) -> str:
    body = re.escape(name.removeprefix("@"))
    return rf"^blk\.\d+\.{body}$" if name[0] == "@" else f"^{body}$"


def either(*patterns: str) -> str:
    return "|".join(f"(?:{p})" for p in patterns if p)
