"""`vramfit doctor`: what a machine has, what it would not tell, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_detect import Machine, recorded

import vramfit
from vramfit._cli import main
from vramfit._devices.host_memory import HostMemory
from vramfit._engines.doctor import Diagnosis, diagnose
from vramfit._engines.installed import Installed, installed_engines
from vramfit._report.doctor import doctor_json, doctor_text


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def equipped(machine: Machine) -> Machine:
    """A desktop with one card, which a server without CUDA does not use, and an Ollama."""
    machine.file("query", recorded("nvidia-smi-5080-busy.csv"))
    machine.file("table", recorded("nvidia-smi-desktop-table.txt"))
    machine.program(
        "nvidia-smi", f'case "$1" in --query*) cat {machine.root}/query;; *) cat {machine.root}/table;; esac'
    )
    machine.file("devices", recorded("list-devices-none.txt"))
    machine.program(
        "llama-server",
        f'test "$1" = --version && echo "version: 9527 (9c955c48b)" >&2 || cat {machine.root}/devices',
    )
    machine.prints("ollama", "ollama version is 0.24.0\n")
    return machine


def test_everything_that_was_found_is_shown(machine: Machine) -> None:
    text = doctor_text(diagnose(equipped(machine).here()))
    assert "NVIDIA GeForce RTX 5080" in text
    assert "Xorg 183 MiB" in text
    assert "gnome-shell 244 MiB" in text
    assert "64 GiB, 48 GiB available" in text
    assert "llama-server  " in text
    assert "counted as llama-server@b9527 (b9527: b9452 to b10750)" in text
    assert "counted as ollama@0.24.0" in text
    assert "  nvidia-smi" in text
    assert "1 card" in text
    assert "not installed" in text  # rocm-smi and its like
    assert "→ llama-server on this machine lists no device for NVIDIA GeForce RTX 5080" in text


def test_json_says_the_same(machine: Machine) -> None:
    found = json.loads(doctor_json(diagnose(equipped(machine).here())))
    assert vramfit.DoctorJson(**found).platform == "linux"
    (card,) = found["gpus"]
    assert (card["id"], card["free_measured"], card["by_engine"]) == ("rtx-5080", True, False)
    assert card["holders"][0] == {"name": "Xorg", "n_bytes": 183 << 20}
    assert found["host"] == {"total": 64 << 30, "available": 48 << 30, "limited": False}
    assert [e["build"] for e in found["engines"]][:2] == ["llama-server@b9527", "ollama@0.24.0"]
    assert {a["source"]: a["cards"] for a in found["asked"]}["nvidia-smi"] == 1
    assert any("built without CUDA or Vulkan" in a for a in found["advice"])


def test_a_bare_machine_is_told_what_to_do(tmp_path: Path) -> None:
    bare = diagnose(Machine(tmp_path, bare=True).here())
    text = doctor_text(bare)
    assert text.startswith("No card was found.")
    assert "host memory     not known" in text
    assert "engines         none on the path" in text or "llama-cpp-python" in text
    assert "--gpus none" in text
    assert json.loads(doctor_json(bare))["host"] is None


def test_failures_come_with_what_helps(machine: Machine) -> None:
    machine.prints("nvidia-smi", recorded("nvidia-smi-mismatch.txt"), 18)
    machine.prints("llama-server", "version: 0 (unknown)\nbuilt with cc\n")
    found = diagnose(machine.here())
    assert found.advice[0].startswith("nvidia-smi: exit status 18")
    assert "restart the machine" in found.advice[0]
    assert any("--engine-build b9527" in a for a in found.advice)
    assert "version: 0 (unknown) (its version names no build that is known)" in doctor_text(found)


def test_a_container_is_said(machine: Machine) -> None:
    found = diagnose(machine.here())
    assert not any("container" in a for a in found.advice)
    machine.file("sys/fs/cgroup/memory.max", f"{8 << 30}\n")
    found = diagnose(machine.here())
    assert found.host is not None
    assert found.host.limited
    assert any("container" in a for a in found.advice)
    assert "8 GiB (the limit of a container)" in doctor_text(found)


def test_engines_are_asked_for_their_builds(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.prints(
        "ollama",
        "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.31.2\n",
    )
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.3.28")
    found = installed_engines(machine.here())
    assert [e.build for e in found] == ["ollama@0.31.2", "llama-cpp-python@0.3.28"]
    assert all(e.era for e in found)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "one")
    assert installed_engines(machine.here())[1].failure.startswith("engine_build=")


def test_a_diagnosis_shows_itself() -> None:
    """As every result: text, a dict."""
    host = HostMemory(1 << 30, 1 << 29)
    found = Diagnosis("linux", vramfit.doctor().found, host, (Installed("ollama", failure="x"),), ("do",))
    assert "1 GiB, 512 MiB available" in str(found)
    assert found.to_dict()["advice"] == ["do"]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_the_command_runs_on_any_machine(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, ["doctor", *words])
    assert result.exit_code == 0
    assert ("host" in json.loads(result.output)) if words else ("Asked" in result.output)
