"""The lines that can matter, with their numbers: most of a log says nothing of memory.

In: lines. Out: (number from 1, line). Words are looked for in blocks of many lines at once, which is a hundred times as fast as a
pattern asked line by line; a line behind a backslash goes with the one before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from typing import Final

__all__ = ["worth_reading"]

BLOCK: Final = 4096  # lines
MOST_BLOCK: Final = 1 << 22  # characters, with lines as long as they get
# A line without any of these words says nothing of memory. A line that begins with the last ones is a row of llama-fit-params.
WORDS: Final = (
    "buffer size", "llama_", "print_info", "llm_load", "load_tensors", "sched_reserve", "load_model", "msg=", "offloaded", "ggml_",
    "Device ", "uild", "ersion", "overrid", "resolve_fused", "n_slots", "init:", "clip", "llama-", "main:", "chat format", "KoboldCpp",
    "LM Studio", "lmstudio", "LMStudio", "LM STUDIO", "server is listening", "level_zero:gpu", "opencl:gpu", "draft", "using device",
    "\nCUDA", "\nROCm", "\nVulkan", "\nSYCL", "\nMTL", "\nMetal", "\nMUSA", "\nCANN", "\nRPC", "\nHost ", "\nb",
)  # fmt: skip


def worth_reading(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The lines with one of the words, and those that go on from them."""
    before, goes_on = 0, False
    for block in _blocks(lines):
        found = _found(block)
        for i, line in enumerate(block):
            if goes_on or i in found:
                yield before + i + 1, line
                goes_on = line.endswith("\\")
        before += len(block)


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    source = iter(lines)
    while block := list(islice(source, 1)):
        size = len(block[0])
        for line in islice(source, BLOCK):
            block.append(line)
            size += len(line)
            if size > MOST_BLOCK:
                break
        yield block


def _found(block: list[str]) -> set[int]:
    """The places in a block of lines that hold a word."""
    text = "\n" + "\n".join(block)
    starts = list(accumulate((len(line) + 1 for line in block), initial=1))
    found: set[int] = set()
    for word in WORDS:
        at = text.find(word)
        while at >= 0:
            line = bisect_right(starts, at + (word[0] == "\n")) - 1
            found.add(line)
            at = text.find(word, starts[line + 1] - 1)
    return found
