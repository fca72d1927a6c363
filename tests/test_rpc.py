"""Cards behind rpc-servers, against servers that were really asked: bytes of every buffer, and of the network.

The rows were measured on loopback, with the CPU or memory-only devices behind the servers; where an engine with RPC is
named (tools/engine/rpc.py), they are measured again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from vramfit._base.errors import EngineRefusal
from vramfit._devices import Gpu
from vramfit._estimate.estimate import DeviceEstimate, estimate
from vramfit._ggml import sched
from vramfit._gguf import parse
from vramfit._llama.arch import describe
from vramfit._llama.model import Model
from vramfit._llama.params import Settings
from vramfit._planner.link import link

sys.path.insert(0, str(ROOT))

from tools.engine.rpc import freeze, header_of, is_built

ROWS = [json.loads(line) for line in (ROOT / "tests/data/rpc/rows.jsonl").read_text().splitlines()]

# What a card of each kind is known to be; other words are compute capabilities.
KINDS: dict[str, dict[str, Any]] = {
    "cpu": {"backend": "cpu"},
    "metal": {"backend": "metal", "max_buffer_bytes": 48 << 30},
    "vulkan": {
        "backend": "vulkan",
        "alignment": 16,
        "host_alignment": 64,
        "max_tensor_bytes": 2**32 - 1,
        "max_buffer_bytes": 1 << 30,
    },
}


def cards(row: dict[str, Any]) -> list[Gpu]:
    """The devices of a row, as the engine ranks them."""
    found = []
    for at, kind in enumerate(row["servers"]):
        for word in kind:
            of = KINDS.get(word, {"compute_capability": word})
            found.append(Gpu("far", 48 << 30, host=f"server{at}", remote=True, **of))
    capability = str(row["settings"].get("compute_capability", 8.6))
    return found + [Gpu("near", mib << 20, compute_capability=capability) for mib in row["gpus_mib"]]


def settings(row: dict[str, Any], **others: Any) -> Settings:
    return Settings(**{k: v for k, v in row["settings"].items() if k != "compute_capability"} | others)


def model(row: dict[str, Any]) -> Model:
    return describe(parse(header_of(row, ROOT)))


def terms(d: DeviceEstimate) -> dict[str, int]:
    return {"model": d.model, "context": d.context, "compute": d.compute}


def named(rows: list[dict[str, Any]]) -> list[Any]:
    """Rows as parameters, each with a short name."""
    return [pytest.param(r, id=f"{ROWS.index(r)}-{Path(r['header']).name.partition('.')[0]}") for r in rows]


@pytest.mark.parametrize("row", named(ROWS))
def test_every_buffer_is_what_the_engine_allocates_over_rpc(
    row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every device of every server, on the cards and the host where the engine runs: to the byte, and called so.

    What a server could not compute is reserved all the same, and refused here.
    """
    if "dies" in row:
        with pytest.raises(EngineRefusal, match=f"cuda does not run {row['dies']}.*over RPC"):
            estimate(model(row), cards(row), settings(row))
        monkeypatch.setattr(sched, "_check_servers", lambda *of: None)
    found = estimate(model(row), cards(row), settings(row))
    assert found.exact == (
        ["metal"] not in row["servers"]
    )  # whose rules are not proved, behind a server or not
    assert found.n_ctx == row["row"]["n_ctx"]
    assert [terms(d) for d in (*found.gpus, found.host)] == [*row["row"]["gpus"], row["row"]["host"]]


@pytest.mark.parametrize("row", named([r for r in ROWS if r.get("decode")]))
def test_a_token_carries_the_bytes_that_were_counted_on_the_wire(row: dict[str, Any]) -> None:
    """In and out of each server, messages and graphs included; the cache had 256 cells in use then."""
    chosen = settings(row, n_ctx=256)
    described, on = model(row), cards(row)
    found = link(described, on, chosen, estimate(described, on, chosen).placement)
    assert found is not None
    assert [[c.received, c.sent] for c in found.token] == row["row"]["link"]


@pytest.mark.oracle
@pytest.mark.skipif(not is_built(), reason="no engine with RPC is named (docs/internals/engine.md)")
def test_the_rows_are_measured_again_on_real_servers(tmp_path: Path) -> None:
    """Whatever is recorded comes out again: real servers on loopback, real sockets."""
    again = tmp_path / "rows.jsonl"
    again.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    freeze(again, ROOT)
    assert [json.loads(line) for line in again.read_text().splitlines()] == ROWS
