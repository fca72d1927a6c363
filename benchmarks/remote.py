"""What a remote header costs: requests, bytes, time, and the second look.

    python benchmarks/remote.py [FILE...]

FILE is a GGUF file, its header alone, or the xz-compressed header of one; without FILE the headers in `examples` and
made-up ones are read. A server on loopback serves each as a file of a terabyte, counts requests, and waits before each
answer as a far one would. `read` is what vramfit took from its sockets; `arrived` is what the kernel had received when it
hung up, unread bytes and answers' heads included (Linux); `over` is `arrived` less the header. The second look is made by
a process of its own that has imported what reading any model needs: its time is that of the look-up.
"""

from __future__ import annotations

import argparse
import lzma
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from servers import Handler, Hub, Registry, Served, Server, running  # noqa: E402

from vramfit import _sources as source  # noqa: E402
from vramfit._sources import client  # noqa: E402

FAR = 1 << 40
TCP_INFO_BYTES_RECEIVED = 128  # offset in Linux's struct tcp_info
SECOND_LOOK = """
import sys, time
from vramfit._sources import load
from vramfit import _sources as source  # noqa: E402
start = time.perf_counter()
source.open_headers(sys.argv[1])
print((time.perf_counter() - start) * 1e3)
"""


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def key(name: str, type_id: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<i", type_id) + value


def made_up(n_strings: int) -> bytes:
    body = struct.pack("<iQ", 8, n_strings) + string("wordword") * n_strings
    return b"GGUF" + struct.pack("<Iqq", 3, 0, 1) + key("tokenizer.ggml.tokens", 9, body)


def shard(no: int, count: int, n_tensors: int = 60) -> bytes:
    keys = [
        key("split.no", 2, struct.pack("<H", no)),
        key("split.count", 2, struct.pack("<H", count)),
        key("split.tensors.count", 5, struct.pack("<i", count * n_tensors)),
    ]
    tensors = [
        string(f"blk.{no * n_tensors + i}.ffn_down.weight") + struct.pack("<IqiQ", 1, 8, 0, 32 * i)
        for i in range(n_tensors)
    ]
    return b"GGUF" + struct.pack("<Iqq", 3, n_tensors, 3) + b"".join(keys + tensors)


class Counter:
    """Follows the sockets of the client."""

    def __init__(self) -> None:
        self.read, self.arrived = 0, {}  # type: int, dict[int, int]
        make, close = client.Client.__init__, client._GuardedReader.close

        def made(client: client.Client, *args: Any, **options: Any) -> None:
            make(client, *args, **options)
            self.clients.append(client)

        def closed(reader: client._GuardedReader) -> None:
            if not reader.closed:
                with suppress(OSError, AttributeError):
                    info = reader._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    self.arrived[id(reader._sock)] = struct.unpack_from("Q", info, TCP_INFO_BYTES_RECEIVED)[0]
                    self.sockets.append(reader._sock)  # so that its id is not given again
            close(reader)

        self.clients: list[client.Client] = []
        self.sockets: list[Any] = []
        client.Client.__init__ = made  # type: ignore[assignment, method-assign]
        client._GuardedReader.close = closed  # type: ignore[assignment, method-assign]

    def reset(self) -> None:
        self.clients.clear()
        self.sockets.clear()
        self.arrived.clear()

    @property
    def row(self) -> tuple[int, int]:
        return sum(c.received for c in self.clients), sum(self.arrived.values())


@contextmanager
def far_away(*servers: Server, seconds: float) -> Iterator[None]:
    """Answers come as late as a round trip would make them."""
    for server in servers:
        inner = server.answer

        def late(handler: Handler, inner: Any = inner) -> bool:
            time.sleep(seconds)
            return bool(inner and inner(handler))

        server.answer = late
    yield


def report(label: str, reference: str, counter: Counter, servers: list[Server]) -> None:
    for server in servers:
        server.log.clear()
    counter.reset()
    start = time.perf_counter()
    headers = source.open_headers(reference)
    first = (time.perf_counter() - start) * 1e3
    time.sleep(0.05)
    n_bytes = sum(h.header_bytes for h in headers)
    read, arrived = counter.row
    requests = sum(len(s.log) for s in servers)
    second = min(
        float(subprocess.check_output([sys.executable, "-c", SECOND_LOOK, reference], text=True))
        for _ in range(3)
    )
    assert sum(len(s.log) for s in servers) == requests, "the second look asked a server"
    print(
        f"{label:<44}{len(headers):>7}{requests:>10}{n_bytes:>12,}{read:>12,}{arrived:>12,}"
        f"{arrived - n_bytes:>11,}{first:>9,.0f}{second:>9.1f}"
    )


def bodies(paths: list[Path]) -> dict[str, bytes]:
    found = {}
    for path in paths or sorted((ROOT / "examples").glob("*.gguf")):
        data = path.read_bytes()
        data = lzma.decompress(data) if path.suffix == ".xz" else data
        found[path.name.partition(".gguf")[0]] = data[: source.read_header(data).header_bytes]
    for n_strings in (1_000, 20_000, 120_000, 400_000):
        found[f"made up, {n_strings:,} tokens"] = made_up(n_strings)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--latency", type=float, default=30.0, help="milliseconds before each answer")
    options = parser.parse_args()
    counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"VRAMFIT_CACHE": folder, "HF_HOME": folder, "OLLAMA_MODELS": folder, "HF_TOKEN": ""}
        with running() as store, running(Hub(store)) as hub, running(Registry(store)) as registry:
            assert isinstance(hub, Hub)
            assert isinstance(registry, Registry)
            os.environ["HF_ENDPOINT"] = hub.url
            print(
                f"{'':<44}{'headers':>7}{'requests':>10}{'bytes':>12}{'read':>12}{'arrived':>12}{'over':>11}"
                f"{'ms':>9}{'again ms':>9}"
            )
            all_servers: list[Server] = [store, hub, registry]
            with far_away(*all_servers, seconds=options.latency / 1e3):
                measure(bodies(options.files), store, hub, registry, counter)


def measure(found: dict[str, bytes], store: Server, hub: Hub, registry: Registry, counter: Counter) -> None:
    servers: list[Server] = [store, hub, registry]
    for i, (name, body) in enumerate(found.items()):
        served = Served(body, size=FAR, etag=f'"{i}"')
        store.files[f"/{i}.gguf"] = served
        report(name, f"{store.url}/{i}.gguf", counter, servers)
    name, body = next(iter(found.items()))
    hub.put("user/repo", "m-Q8_0.gguf", Served(body, size=FAR))
    report(f"{name}, hf.co/user/repo:Q8_0", "hf.co/user/repo:Q8_0", counter, servers)
    registry.put("library/m/7b", model=Served(body + b"\0", size=FAR))
    report(f"{name}, Ollama registry", f"{registry.host}/library/m:7b", counter, servers)
    for i in range(10):
        store.files[f"/s-{i + 1:05d}-of-00010.gguf"] = Served(shard(i, 10), size=FAR, etag=f'"s{i}"')
        hub.put("user/split", f"s-{i + 1:05d}-of-00010.gguf", Served(shard(i, 10), size=FAR))
    report("10 shards", f"{store.url}/s-00001-of-00010.gguf", counter, servers)
    report("10 shards, hf.co/user/split", "hf.co/user/split", counter, servers)


if __name__ == "__main__":
    main()
