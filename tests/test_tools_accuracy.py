"""The tables of docs/reference/accuracy.md: what they count, and where they are written."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(ROOT))  # benchmarks are no part of the distribution

from benchmarks.accuracy_page import PAGE, blocks, figures, main, percent, quantile, share, written
from benchmarks.peers.__main__ import ask_node, is_one_card

MIB = 1 << 20


def sample(ours: int, theirs: int, **more: Any) -> dict[str, Any]:
    """A run of one card, in MiB, with an equal host."""
    found = {
        "rows": "rows-arch.jsonl.gz", "file": "x.gguf", "architecture": "llama", "settings": {"flash_attn": "on"},
        "backend": "cuda", "n_ctx": 512, "gpus_mib": [1024], "compute_capability": "8.6", "exact": ours == theirs,
        "falsely": False, "ours": [ours * MIB, MIB], "theirs": [theirs * MIB, MIB],
    }  # fmt: skip
    return {**found, **more}


def test_figures_count_what_is_off_and_too_low() -> None:
    """Small devices are no share of anything; the worst keeps its sign; one of three is not 100 %."""
    assert figures([sample(100, 100)]) == ["1", "100 %", "0", "0", "0", "0"]
    assert figures([sample(100, 100), sample(90, 100), sample(1, 2)]) == [
        "3",
        "33.33 %",
        "10 %",
        "10 %",
        "-10 %",
        "2",
    ]
    assert (
        figures([{**sample(1, 2), "ours": [90 * MIB], "theirs": [100 * MIB]}])[-1] == "1"
    )  # no card: the host


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values(values: list[float], part: float) -> None:
    """And no less than the quantile of a smaller share."""
    assert quantile(values, part) in values
    assert quantile(values, part / 2) <= quantile(values, part) <= max(values)


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_only_all_is_all(whole: int, left_out: int) -> None:
    """A share reads as 100 % exactly where nothing is left out."""
    part = max(0, whole - left_out)
    assert (share(part, whole) == "100 %") == (part == whole)
    assert percent(0) == "0"
    assert percent(0.0004) == "0.04 %"
    assert percent(-0.25, "+") == "-25 %"


def test_tables_are_written_between_their_marks(tmp_path: Path) -> None:
    """And nothing else of the page changes; peers stay as they are where none was asked; a missing place is told."""
    page, samples, peer = tmp_path / "page.md", tmp_path / "samples", tmp_path / "peer"
    names = ("rows", "backends", "settings", "architectures", "loads", "peers")
    page.write_text(
        "prose\n" + "".join(f"<!-- begin {n} -->\nold {n}\n<!-- end {n} -->\nmore\n" for n in names)
    )
    mixed = sample(
        90, 100, architecture="odd", settings={"type_k": "q8_0", "cpu_tensors": ["x"], "offload_kqv": False}
    )
    samples.write_text("\n".join(map(json.dumps, [sample(100, 100), mixed, sample(9, 9, backend="vulkan")])))
    peer.write_text('{"sample": 0, "cards": [94371840]}\n{"sample": 1, "refused": "no"}\n')
    main([str(samples), "--page", str(page)])
    first = page.read_text()
    assert first.startswith("prose\n<!-- begin rows -->\n| rows |")
    assert "old peers" in first
    assert "old rows" not in first
    assert "| `odd` | 1 | 0.00 % | 10 % | 10 % | -10 % | 1 |" in first
    assert "1 architectures in 1 runs: `llama` 1." in first
    assert "| on the host: caches | 1 |" in first
    assert re.search(r"llama-server b7342 .*\| 6,444\.75 \| 6,444\.75 \(0\) \|", first)
    main([str(samples), "--page", str(page), "--peer", f"another=1={peer}"])
    second = page.read_text()
    assert "| another=1 | f16, bf16 or f32 | 1 of 1 | 0.00 % | 10 % | 10 % | -10 % | 100 % |" in second
    assert "| another=1 | quantized | 0 of 1 |" in second
    assert "| vramfit, the same runs | all | 1 | 100 % | 0 | 0 | 0 | 0 |" in second
    main([str(samples), "--page", str(page)])
    assert page.read_text() == second
    with pytest.raises(SystemExit, match="begin other"):
        written(second, {"other": ""})


def test_the_page_has_a_place_for_every_table() -> None:
    text = PAGE.read_text()
    for name in (*blocks([sample(100, 100)], {}), "peers"):
        assert f"<!-- begin {name} -->" in text
        assert f"<!-- end {name} -->" in text


def test_others_are_asked_what_they_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One card with everything on it; a line for each run, refusals too."""
    assert is_one_card(sample(1, 1))
    for other in (
        {"flash_attn": "auto"},
        {"flash_attn": "on", "kv_unified": True},
        {"flash_attn": "on", "n_gpu_layers": 3},
    ):
        assert not is_one_card(sample(1, 1, settings=other))

    class Done:
        stdout = '{"card": 7}\n{"card": null}\n'

    monkeypatch.setattr("subprocess.run", lambda *_, **__: Done)
    found = list(ask_node([(3, sample(1, 1)), (5, sample(1, 1))], tmp_path, tmp_path))
    assert found == [{"sample": 3, "cards": [7]}, {"sample": 5, "refused": '{"card": null}'}]
