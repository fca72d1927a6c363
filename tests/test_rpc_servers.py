"""Asking rpc-servers what they have: answers like a real server's, and all that goes wrong."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from small import gpu

import vramfit
from vramfit._cli.main import main
from vramfit._devices import parse_gpus
from vramfit._devices.servers import ask_servers, offers

GIB = 1 << 30
Talk = Callable[[socket.socket], None]
EMPTY = st.binary(max_size=80)


@contextlib.contextmanager
def listening(talk: Talk) -> Iterator[str]:
    """A server that talks so to whoever connects; yields its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            with contextlib.suppress(OSError, struct.error), door.accept()[0] as client:
                talk(client)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{door.getsockname()[1]}"


def server(devices: list[tuple[int, int, int, int]], major: int = 7, count: int | None = None) -> Talk:
    """What llama.cpp's server says of devices: free, total, alignment, largest buffer."""

    def talk(client: socket.socket) -> None:
        while head := client.recv(9):
            command, n = struct.unpack("<BQ", head)
            asked = client.recv(n) if n else b""
            at = struct.unpack("<I", asked)[0] if command in (1, 2, 11) else 0
            if command == 14:
                answer = bytes([major, 0, 0, 0]) + bytes(24)
            elif command == 15:
                answer = struct.pack("<I", len(devices) if count is None else count)
            else:
                free, total, alignment, largest = devices[at]
                answer = {
                    11: struct.pack("<QQ", free, total),
                    1: struct.pack("<Q", alignment),
                    2: struct.pack("<Q", largest),
                }[command]
            client.sendall(struct.pack("<Q", len(answer)) + answer)

    return talk


CUDA = (11 * GIB, 12 * GIB, 128, 2**64 - 1)


def test_cards_get_the_memory_that_their_server_finds_free() -> None:
    """In the order of the server's devices; cards where the engine runs stay as they are."""
    with listening(server([CUDA, (5 * GIB, 8 * GIB, 128, 0)])) as endpoint:
        asked = ask_servers(parse_gpus(f"3090ti,{endpoint}/3060-12gb,{endpoint}/3070"))
    assert [(g.free, g.total_bytes) for g in asked[:2]] == [(11 * GIB, 12 * GIB), (5 * GIB, 8 * GIB)]
    assert [g.free_measured for g in asked] == [True, True, False]
    assert asked[2] == parse_gpus("3090ti")[0]
    assert ask_servers([gpu()]) == (gpu(),)


def test_what_a_driver_reports_through_its_server_is_a_rule_of_the_card() -> None:
    """Vulkan's alignment and largest buffer; CUDA has neither; what no device has is left out."""
    told = (11 * GIB, 12 * GIB, 16, 4 * GIB)
    with listening(server([told])) as endpoint:
        (card, _) = ask_servers(parse_gpus(f"3090ti,{endpoint}/b580"))
    if card.backend == "vulkan":
        assert card.alignment == 16
    assert card.max_buffer_bytes == 4 * GIB
    with listening(server([told])) as endpoint:
        (card, _) = ask_servers(parse_gpus(f"3090ti,{endpoint}/3060-12gb"))
    assert (card.alignment, card.max_buffer_bytes) == (None, None)


def hang(client: socket.socket) -> None:
    """Take what comes, and say nothing."""
    time.sleep(2)


def drip(client: socket.socket) -> None:
    """Say something now and then, for good."""
    while True:
        client.sendall(b"\x1c")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (hang, "within 0.3 s"),
        (drip, "no rpc-server answers"),
        (lambda client: client.close(), "no rpc-server answers"),
        (lambda client: client.sendall(struct.pack("<Q", 2**63)), "no rpc-server answers"),
        (lambda client: client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no rpc-server answers"),
        (server([CUDA], major=3), "speaks version 3"),
        (server([CUDA, CUDA]), "has 2 devices, and 1 cards"),
        (server([], count=0), "has 0 devices"),
        (server([], count=2**32 - 1), "has 4294967295 devices"),
        (server([(GIB, 0, 128, 0)]), "no memory of a card"),
        (server([(2 * GIB, GIB, 128, 0)]), "no memory of a card"),
    ],
)
def test_whatever_answers_otherwise_is_an_error_in_time(talk: Talk, said: str) -> None:
    """It names the server and what to do; nothing hangs."""
    began = time.monotonic()
    with listening(talk) as endpoint, pytest.raises(vramfit.GpuError, match=said) as e:
        ask_servers(parse_gpus(f"3090ti,{endpoint}/3060-12gb"), patience=0.3)
    assert endpoint in str(e.value)
    assert time.monotonic() - began < 1.5


@given(st.lists(EMPTY, max_size=4))
def test_no_bytes_escape_as_anything_else(parts: list[bytes]) -> None:
    """Offers, or our own error, whatever is sent."""

    def talk(client: socket.socket) -> None:
        for part in parts:
            client.sendall(struct.pack("<Q", len(part)) + part)

    with listening(talk) as endpoint, contextlib.suppress(vramfit.GpuError):
        offers(endpoint, 0.2)


def test_nobody_there_is_an_error() -> None:
    """A port where nothing listens, a name that nobody has, and no time at all."""
    for host in ("127.0.0.1:9", "no-such-machine.invalid"):
        with pytest.raises(vramfit.GpuError, match=r"no rpc-server answers.*start ggml-rpc-server"):
            ask_servers(parse_gpus(f"3090ti,{host}/3060-12gb"))
    for patience in (0, -1, True, "soon", 1e9):
        with pytest.raises(vramfit.GpuError, match="patience"):
            ask_servers(parse_gpus("3090ti"), patience=patience)  # type: ignore[arg-type]


def test_a_command_asks_where_it_is_told_to() -> None:
    """`--ask-servers`: the plan counts on what is free there; without a server it ends with an error."""
    path = str(ROOT / "examples/qwen2.5-14b-instruct-1m-q8_0.gguf")

    def run(endpoint: str) -> Any:
        words = ["plan", path, "--gpus", f"3090ti,{endpoint}/3060-12gb", "-c", "8192", "--json"]
        return CliRunner().invoke(main, [*words, "--ask-servers"])

    with listening(server([(7 * GIB, 12 * GIB, 128, 0)])) as endpoint:
        assert f'"free": {7 * GIB}' in run(endpoint).output
    done = run("127.0.0.1:9")
    assert (done.exit_code, "no rpc-server answers" in done.output) == (1, True)
