"""Real rpc-servers on this machine, and what the engine allocates on them.

    LLAMA_CPP_LIBRARIES=BUILD/bin LLAMA_CPP_SOURCE=TREE python -m tools.engine.rpc x.gguf \\
        '{"servers": [["cpu"], ["8.6", "8.6"]], "gpus_mib": [24564], "settings": {"n_ctx": 8192}}'

BUILD is the engine compiled with `-DGGML_RPC=ON`. A server has the CPU behind it (`ggml-rpc-server`, of the build), or
memory-only devices of these compute capabilities, or that all answer as "vulkan" or "metal" (this module, in a process of its own). They listen on loopback alone.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .binding import LIBRARIES_VARIABLE, engine, library_dir
from .errors import EngineError
from .load import MIB, Context, Refused, load

Row = dict[str, Any]
PATIENCE = 60.0  # seconds for a server to answer
MEMORY_MIB = 48 << 10  # of each memory-only device
PROGRAM = "ggml-rpc-server"
TOKENS = 8  # that are computed before bytes are counted, and while


def is_built() -> bool:
    """Whether an engine with RPC is named: $LLAMA_CPP_LIBRARIES, where its libraries and its rpc-server are."""
    return LIBRARIES_VARIABLE in os.environ and (library_dir() / PROGRAM).is_file()


@contextlib.contextmanager
def servers(kinds: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Start one server for each list: ["cpu"], or a compute capability, "vulkan" or "metal" for each device; yields endpoints."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        endpoints = []
        for kind in kinds:
            port = _free_port()
            started.append(_start(kind, port))
            endpoints.append(f"127.0.0.1:{port}")
        for endpoint, process in zip(endpoints, started, strict=True):
            _await(endpoint, process)
        yield endpoints
    finally:
        for process in started:
            process.kill()
            process.wait()


def _start(kind: Sequence[str], port: int) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if list(kind) == ["cpu"]:
        command = [str(library_dir() / PROGRAM), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
    else:
        command = [sys.executable, "-m", __spec__.name, "serve", str(port), *kind]
    return subprocess.Popen(command, **quiet)  # type: ignore[call-overload,no-any-return]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _await(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens; raises EngineError where nothing does in time."""
    host, _, port = endpoint.partition(":")
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.1)
    raise EngineError(f"no rpc-server answers at {endpoint}")


class Counter:
    """Stands before a server and counts the bytes of each way."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.partition(":")
        self._server = (host, int(port))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._door.getsockname()[1]}"
        self.received = self.sent = 0
        threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        while True:
            client, _ = self._door.accept()
            server = socket.create_connection(self._server)
            for pair, name in (((client, server), "received"), ((server, client), "sent")):
                threading.Thread(target=self._pass, args=(*pair, name), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, name: str) -> None:
        while data := source.recv(1 << 20):
            setattr(self, name, getattr(self, name) + len(data))
            target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)  # a server takes one client at a time, and waits for its end


def measure_remote(header: str | os.PathLike[str], job: Row) -> Row:
    """A row as of `measure`, in a process of its own: devices of the servers first, then memory-only ones here.

    `job`: `servers`, `gpus_mib` and `settings`; with `really` buffers are allocated, and weights read, as in a real load.
    With `decode`, for which all servers must have a CPU and there is no device here, `link` has the bytes that each
    server receives and sends for one token.
    """
    with servers(job["servers"]) as endpoints:
        words = json.dumps(job | {"endpoints": endpoints})
        command = [sys.executable, "-m", __spec__.name, "load", str(header), words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10 * PATIENCE)
    if done.returncode:
        raise EngineError(f"the engine died: {done.stderr.strip()[-400:]}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _load(header: str, job: Row) -> Row:
    lib = engine()
    n_remote = 0
    counters = [Counter(endpoint) for endpoint in job["endpoints"]] if job.get("decode") else []
    for endpoint in [c.endpoint for c in counters] or job["endpoints"]:
        found = lib.vf_server(endpoint.encode())
        if found < 0:
            raise EngineError(f"{endpoint}: no answer, or the engine is built without GGML_RPC")
        n_remote += found
    lib.vf_really(bool(job.get("really") or counters))
    try:
        with load(header, job.get("gpus_mib", ()), **job["settings"]) as context:
            context.n_gpus += n_remote
            *gpus, host = context.breakdown()
            row = {"n_ctx": context.n_ctx, "gpus": gpus, "host": host}
            return row | ({"link": _traffic(context, counters)} if counters else {})
    except Refused as refused:
        return {"refused": str(refused)}


def _traffic(context: Context, counters: Sequence[Counter]) -> list[list[int]]:
    """Bytes that each server receives and sends for one token, once the graph is known there."""
    seen = []
    for _ in range(2):
        if not engine().vf_decode(context.handle, TOKENS):
            raise EngineError("a token is not computed")
        time.sleep(0.5)
        seen.append([(c.received, c.sent) for c in counters])
    return [[(b - a) // TOKENS for a, b in zip(*pair, strict=True)] for pair in zip(*seen, strict=True)]


def _serve(port: int, capabilities: Sequence[str]) -> None:
    from .load import DEFAULT_CAPABILITY, VULKAN, _capabilities

    lib = engine()
    if "vulkan" in capabilities:
        lib.vf_vulkan(*VULKAN.values())
        capabilities = [str(DEFAULT_CAPABILITY)] * len(capabilities)
    if "metal" in capabilities:
        lib.vf_metal(MEMORY_MIB * MIB)
        capabilities = [str(DEFAULT_CAPABILITY)] * len(capabilities)
    for i, number in enumerate(_capabilities(list(capabilities), len(capabilities))):
        lib.vf_device(i, MEMORY_MIB * MIB, number)
    lib.vf_serve(f"127.0.0.1:{port}".encode(), len(capabilities))


def header_of(row: Row, root: pathlib.Path) -> bytes:
    """The header that a recorded row is of: a file of this repository, packed or not."""
    data = (root / str(row["header"])).read_bytes()
    return gzip.decompress(data) if str(row["header"]).endswith(".gz") else data


def freeze(file: pathlib.Path, root: pathlib.Path) -> None:
    """Measure recorded rows again, one a line: `header`, a job as of `measure_remote`, and `row`, which is replaced."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        with tempfile.NamedTemporaryFile(suffix=".gguf") as header:
            header.write(header_of(row, root))
            header.flush()
            row["row"] = measure_remote(header.name, {k: v for k, v in row.items() if k != "row"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(words: Sequence[str]) -> None:
    """Serve, load, both, or measure recorded rows again: `freeze FILE`."""
    if words and words[0] == "serve":
        _serve(int(words[1]), words[2:])
    elif words and words[0] == "load":
        print(json.dumps(_load(words[1], json.loads(words[2]))))
    elif words and words[0] == "freeze":
        freeze(pathlib.Path(words[1]), pathlib.Path(__file__).parents[2])
    elif len(words) == 2:
        print(json.dumps(measure_remote(pathlib.Path(words[0]), json.loads(words[1])), indent=1))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
