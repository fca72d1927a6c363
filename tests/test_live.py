"""Engines at hand: programs that are started are stand-ins on the PATH, servers replay what real ones answer."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from servers import Handler, Served, Server, running
from small import gpu
from test_verify import EXAMPLE, SETTINGS, printed

import vramfit
from vramfit._base.errors import SourceError
from vramfit._cli import main
from vramfit._engines.settings import engine_settings
from vramfit._estimate.estimate import estimate
from vramfit._live import printed_by, running_at
from vramfit._live.programs import MOST
from vramfit._llama.params import Settings
from vramfit._verify.running import verify_running

MODEL = vramfit.read(EXAMPLE)
CARD = gpu(32768, name="NVIDIA GeForce RTX 3090")
ASKED = engine_settings("llama-server", {"n_ctx": 8192, "flash_attn": "on"})

# What a llama-server of b9849 and an Ollama of 0.30.11 answer, shortened to what is read.
PROPS = {
    "default_generation_settings": {"n_ctx": 8192, "params": {"seed": 4294967295}}, "total_slots": 4, "model_alias": "qwen",
    "model_path": "/models/qwen.gguf", "build_info": "b9849-799fcc04a", "chat_template": "x",
}  # fmt: skip
PS = {
    "models": [
        {"name": "qwen2.5:14b", "model": "qwen2.5:14b", "size": 17_000_000_000, "digest": "00", "details": {"format": "gguf", "family": "qwen2"},
         "expires_at": "2026-11-21T00:00:00Z", "size_vram": 17_000_000_000, "context_length": 8192},
    ]
}  # fmt: skip


def program(folder: Path, name: str, body: str) -> None:
    """A stand-in on the PATH: Python that prints what the engine would."""
    file = folder / name
    file.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as found:
        yield found


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["verify", EXAMPLE, *args])


def test_a_llama_server_is_started_and_ended(path: Path) -> None:
    """It gets the flags of the settings, its lines are read, and it is ended when it serves."""
    text = printed(estimate(MODEL, [CARD], ASKED), MODEL)
    program(
        path,
        "llama-server",
        f"open({str(path / 'args')!r}, 'w').write(' '.join(sys.argv[1:]))\nprint({text!r})\nprint('main: server is listening on x', flush=True)\ntime.sleep(60)",
    )
    began = time.monotonic()
    done = run("--against", "llama-server", "-c", "8192", "-fa", "on")
    assert time.monotonic() - began < 30
    assert done.exit_code == 0, done.output
    assert "Every figure that can be judged is as printed." in done.output
    flags = (path / "args").read_text()
    assert "-c 8192" in flags
    assert "-fa on" in flags
    assert "--port 0" in flags


def test_llama_fit_params_prints_whole_mib(path: Path) -> None:
    """Its rows have MiB rounded down; flags that it does not know are left out."""
    found = estimate(MODEL, [CARD], Settings(n_ctx=8192, flash_attn="on"))
    card, mib = found.gpus[0], 1 << 20
    rows = f"CUDA0 {card.model // mib} {card.context // mib} {card.compute // mib} \nHost {found.host.model // mib} 0 {found.host.compute // mib} \n"
    program(
        path,
        "llama-fit-params",
        f"assert '-kvu' not in sys.argv and '--fit-print' in sys.argv\nprint({rows!r})",
    )
    done = run("--against", "llama-fit-params", "-c", "8192", "-fa", "on", "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.output)
    assert all(r["agrees"] for r in data["rows"] if r["device"] == "CUDA0")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('error: no such model')", "failed: error: no such model"),
        ("sys.exit(1)", "it said nothing"),
        ("time.sleep(30)", "no answer in"),
    ],
)
def test_programs_that_fail_or_hang(path: Path, body: str, said: str) -> None:
    """Each is an error that says what to do; nothing goes on running."""
    program(path, "llama-server", body)
    began = time.monotonic()
    with pytest.raises(SourceError, match=said):
        printed_by("llama-server", "x.gguf", SETTINGS, ["-c", "1"], seconds=1)
    assert time.monotonic() - began < 20


def test_programs_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither on the PATH, nor one that can be started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="not found on the PATH"):
        printed_by("llama-server", "x.gguf", SETTINGS, [])
    (tmp_path / "llama-server").write_bytes(b"\x7fELF")
    (tmp_path / "llama-server").chmod(0o755)
    with pytest.raises(SourceError, match="cannot be started"):
        printed_by("llama-server", "x.gguf", SETTINGS, [])


def test_a_program_that_never_stops_printing(path: Path) -> None:
    """What is kept of it is bounded."""
    program(
        path,
        "llama-server",
        f"for _ in range({MOST // 65536 + 40}): print('x' * 65535)\nprint('server is listening', flush=True)\ntime.sleep(30)",
    )
    assert len(printed_by("llama-server", "x.gguf", SETTINGS, [], seconds=60)) <= MOST


def test_the_binding_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, or with one that refuses, an error says so; the settings reach it under its own names."""
    fake = tmp_path / "llama_cpp"
    fake.mkdir()
    (fake / "__init__.py").write_text("__version__ = '0.3.36'\n")
    text = printed(estimate(MODEL, [CARD], ASKED), MODEL)
    (fake / "llama_cpp.py").write_text(
        "import ctypes\nllama_log_callback = ctypes.CFUNCTYPE(None)\n"
        "class P:\n    _fields_ = [(n, 0) for n in ('no_alloc', 'n_gpu_layers', 'load_mode', 'split_mode', 'main_gpu')]\n"
        "llama_backend_init = lambda: None\nllama_log_set = lambda *a: None\n"
        "llama_model_default_params = P\nllama_context_default_params = P\nllama_model_load_from_file = lambda path, p: p.no_alloc\n"
        f"def llama_init_from_model(m, c):\n    assert c.flash_attn_type == 1 and c.n_ctx == 8192\n    print({text!r})\n    return 1\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = printed_by("llama-cpp-python", EXAMPLE, ASKED, [])
    assert "llama_cpp_python 0.3.36" in out
    (fake / "llama_cpp.py").write_text("raise ImportError('none')\n")
    with pytest.raises(SourceError, match="no binding in this Python"):
        printed_by("llama-cpp-python", EXAMPLE, ASKED, [])


def test_what_a_llama_server_says_of_itself(server: Server) -> None:
    """Its context, slots and build; it gives no sizes, and that is said."""
    server.files["/props"] = Served(json.dumps(PROPS).encode())
    (found,) = running_at(server.url)
    assert (found.program, found.build, found.n_ctx, found.slots) == ("llama-server", "b9849", 8192, 4)
    done = run("--against", server.url, "--gpus", "32GiB")
    assert done.exit_code == 0, done.output
    assert "gives no sizes" in done.output
    assert "b9849" in done.output


def test_a_server_fills_in_what_its_log_lacks(server: Server, tmp_path: Path) -> None:
    """With both given, context and build are the server's."""
    server.files["/props"] = Served(json.dumps(PROPS).encode())
    made = estimate(MODEL, [CARD], vramfit.server_settings(n_ctx=8192, flash_attn="on", engine_build="b9849"))
    text = "".join(
        x + "\n"
        for x in printed(made, MODEL).splitlines()
        if "n_ctx =" not in x and "cells" not in x and "KV buffer" not in x
    )
    log = tmp_path / "x.log"
    log.write_text(text)
    assert run("--log", str(log)).exit_code == 1
    done = run("--log", str(log), "--against", server.host)
    assert done.exit_code == 0, done.output


def test_what_ollama_says_of_itself(server: Server) -> None:
    """The bytes of all cards together, beside the estimate for its version."""
    server.files["/api/ps"] = Served(json.dumps(PS).encode())
    server.files["/api/version"] = Served(b'{"version":"0.30.11"}')
    (found,) = running_at(server.url)
    assert (found.build, found.size_vram, found.n_ctx) == ("ollama@0.30.11", 17_000_000_000, 8192)
    done = run("--against", server.url, "--gpus", "32GiB", "--json")
    assert done.exit_code in (0, 3), done.output
    data = json.loads(done.output)
    assert data["rows"][0]["measured"] == 17_000_000_000
    assert data["rows"][0]["device"] == "all cards"
    assert data["settings"]["n_ctx"] == 8192


def test_verdicts_of_one_figure() -> None:
    """As many bytes, nearly as many, more or fewer than the server says."""
    given: dict[str, object] = {"n_ctx": 8192}
    first = verify_running(MODEL, [CARD], "ollama", "ollama@0.30.11", dict(given), 1, 1)
    n = first.rows[0].estimate
    for size, verdict in ((n, "equal"), (n + n // 200, "near"), (2 * n, "lower"), (n // 2, "higher")):
        assert (
            verify_running(MODEL, [CARD], "ollama", "ollama@0.30.11", dict(given), size, size).verdict
            == verdict
        )
    two = verify_running(MODEL, [CARD, CARD], "ollama", "ollama@0.30.11", dict(given), n, n)
    assert two.rows
    assert str(two)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "answers neither"), ({"/props": b"[]"}, "answers neither"), ({"/props": b"{" * 5000}, "answers neither"), ({"/api/ps": b'{"models": 3}'}, "answers neither"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "said"), BAD, ids=range(len(BAD)))
def test_servers_that_are_none(server: Server, files: dict[str, bytes], said: str) -> None:
    """What answers otherwise is an error."""
    server.files.update({path: Served(body) for path, body in files.items()})
    with pytest.raises(SourceError, match=said):
        running_at(server.url)


def test_a_server_that_fails(server: Server) -> None:
    """An answer with another status than 200 is none, whatever it holds."""
    body = json.dumps(PROPS).encode()

    def answer(handler: Handler) -> bool:
        handler.send_response(503)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    server.answer = answer
    with pytest.raises(SourceError, match="answers neither"):
        running_at(server.url)


def test_addresses_that_are_none() -> None:
    """Neither an address nor a program; a port where nobody listens."""
    assert "give one of" in run("--against", "kobold").output
    assert run("--against", "ftp://x").exit_code == 1
    assert "cannot be reached" in run("--against", "http://127.0.0.1:9").output
    assert CliRunner().invoke(main, ["verify", "--against", "ollama"]).exit_code == 2


def test_ollama_without_a_model(server: Server) -> None:
    """Nothing loaded is nothing to compare with."""
    server.files["/api/ps"] = Served(b'{"models":[]}')
    assert "no model loaded" in run("--against", server.url).output


def test_odd_answers_are_no_figures(server: Server) -> None:
    """Numbers that cannot be sizes count as none."""
    odd = {"models": [{"name": 7, "size": -1, "size_vram": "many", "context_length": 1e99}, "x"]}
    server.files["/api/ps"] = Served(json.dumps(odd).encode())
    (found,) = running_at(server.url)
    assert (found.size, found.size_vram, found.n_ctx, found.build) == (0, 0, 0, "")
