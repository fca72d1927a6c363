"""The collection of printed loads: its index says what is read, and its table what agrees."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.logs.__main__ import main
from tools.logs.collection import compared, entries, parsed_of, table
from vramfit._verify import Verification

REPORTS = Path(__file__).parent / "data" / "reports"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["logs", *words])
    return main()


def test_the_collection_is_whole() -> None:
    """Every log has an entry with its source, and every entry a log; engines, years and backends are many."""
    found = entries()
    logs = {p.stem for p in found[0].path.parent.glob("*.log")}
    assert {e.log for e in found} == logs
    assert all(e.source and e.parsed for e in found)
    assert {"CUDA", "ROCm", "Vulkan", "Metal", "SYCL", "CPU"} <= {e.backend for e in found}
    assert {2024, 2025, 2026} <= {e.year for e in found}


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each log, and beside the headers that are kept what agrees."""
    assert run(monkeypatch, "table") == 0
    text = capsys.readouterr().out
    line = next(x for x in text.splitlines() if "server-b8946" in x)
    assert line.count("as printed") == 2
    assert "2 as printed in every figure" in text


def test_checks_and_reads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The index holds what is read; a new log gives an entry, and a log of two loads is refused."""
    assert run(monkeypatch, "check") == 0
    entry = entries()[0]
    assert run(monkeypatch, "read", str(entry.path)) == 0
    assert "model" in capsys.readouterr().out
    twice = tmp_path / "x.log"
    line = "load_tensors: CUDA0 model buffer size = 1.00 MiB\nsched_reserve: CUDA0 compute buffer size = 1.00 MiB\n"
    twice.write_text(line * 2)
    with pytest.raises(SystemExit, match="2 loads"):
        parsed_of(twice)


def test_reports_are_replayed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is compared again; what is no report fails with its name."""
    assert run(monkeypatch, "replay", str(next(REPORTS.glob("b8946*")))) == 0
    assert "as printed" in capsys.readouterr().out
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    assert run(monkeypatch, "replay", str(bad)) == 1


def test_headers_make_a_comparison(tmp_path: Path) -> None:
    """A header that is not kept is looked for in a folder, and missed where it is not there."""
    entry = next(e for e in entries() if e.log.startswith("server-b5192"))
    assert compared(entry, tmp_path) == "header not here"
    kept = next(e for e in entries() if e.model == "tiny-qwen3")
    found = compared(kept, None)
    assert isinstance(found, Verification)
    assert found.agrees
    assert "as printed" in table([(kept, found)])
