"""The structure-aware fuzzer: its changes reach every step, and none of a few breaks one."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import structure

from vramfit._gguf import Array, parse

EXAMPLE = Path(__file__).parents[1] / "examples/gemma-3-12b-q4_k_m.gguf"

OTHER = EXAMPLE.with_name("qwen2.5-14b-instruct-1m-q8_0.gguf")


@pytest.fixture(autouse=True)
def alarms() -> Iterator[None]:
    """The fuzzer's handler goes with it."""
    before = signal.getsignal(signal.SIGPROF)
    yield
    signal.signal(signal.SIGPROF, before)


def test_what_is_taken_apart_comes_together_again() -> None:
    """The same keys and tensors, but for the ends of long arrays."""
    old = parse(EXAMPLE.read_bytes())
    new = parse(structure.taken_apart(EXAMPLE.read_bytes()).packed())
    assert new.tensors == old.tensors
    assert new.types == old.types
    for key, value in old.metadata.items():
        again = new.metadata[key]
        if isinstance(value, Array) and isinstance(again, Array):
            assert again.values() == value.values()[: structure.LONGEST_ARRAY]
        else:
            assert again == value


@pytest.mark.parametrize("change", sorted(set(structure.CHANGES), key=lambda x: getattr(x, "__name__", "")))
def test_every_change_changes_something(change: structure.Change) -> None:
    seed, other = (structure.taken_apart(path.read_bytes()) for path in (EXAMPLE, OTHER))
    seed.keys.append(structure.Key("gemma3.some", "u32", [1, 2, 3]))
    made = set()
    for i in range(20):
        draft = seed.copy()
        change(draft, random.Random(i), [other])
        made.add(draft.packed())
    assert len(made - {seed.packed()}) > (0 if change is structure.other_architecture else 2)


def test_a_few_headers_break_nothing() -> None:
    """Read, estimated, planned, compared, requantized: a result, or an error of ours; both come about."""
    seen = structure.run(40, 5, None)
    assert not seen.faults
    assert seen.outcomes["requantize: done"] > 3
    assert sum(n for name, n in seen.outcomes.items() if "read: " in name and "done" not in name) > 5


def test_a_fault_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no error of ours, and what takes too long, are written down with the bytes that did it."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("vramfit.requantize", broken)
    seen = structure.run(12, 5, tmp_path)
    (place,) = seen.faults
    assert place.startswith("requantize: ZeroDivisionError at test_fuzz.py")
    (found,) = tmp_path.glob("*.gguf")
    assert structure.check(found.read_bytes(), int(found.stem.partition("-")[2]), structure.Seen())
    monkeypatch.setattr(structure, "SECONDS", -1.0)
    slow = structure.check(EXAMPLE.read_bytes(), 0, structure.Seen())
    assert slow is not None
    assert slow[0] == "read: slow"
