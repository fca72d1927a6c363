"""How the header reader compares with `gguf.GGUFReader`: time, and peak memory against the header.

    python benchmarks/header.py FILE...

FILE is a GGUF file, its header alone, or the xz-compressed header of one. Without FILE a header of
262,144 made-up tokens is measured. Both readers read the same file in the same process.
"""

from __future__ import annotations

import argparse
import lzma
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from vramfit import _sources as source

ROUNDS = 5


def seconds(call: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def gguf_reader(path: Path) -> None:
    """Read `path` as the `gguf` package does; of a header alone it reads all but the tensors' data."""
    import gguf

    try:
        gguf.GGUFReader(path)
    except ValueError as error:  # it views the data of every tensor, which a header alone lacks
        if "cannot reshape" not in str(error):
            raise


def made_up(path: Path, n_tokens: int = 262144) -> None:
    """A header with the arrays of a vocabulary: strings, scores, types."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    def array(key: str, kind: int, body: bytes) -> bytes:
        return string(key) + struct.pack("<iiQ", 9, kind, n_tokens) + body

    path.write_bytes(
        b"GGUF"
        + struct.pack("<Iqq", 3, 0, 3)
        + array("tokenizer.ggml.tokens", 8, b"".join(string(f"t{i}") for i in range(n_tokens)))
        + array("tokenizer.ggml.scores", 6, bytes(4 * n_tokens))
        + array("tokenizer.ggml.token_type", 5, bytes(4 * n_tokens))
    )


def measure(name: str, path: Path) -> None:
    size = source.read_header(path).header_bytes
    ours = seconds(lambda: source.read_header(path), ROUNDS)
    theirs = seconds(lambda: gguf_reader(path), 1)
    memory = peak_bytes(lambda: source.read_header(path))
    print(
        f"{name:45} {size / 1e6:8.2f} MB {ours * 1e3:8.1f} ms {theirs * 1e3:9.0f} ms "
        f"{theirs / ours:7.0f} x {memory / size:9.2f} x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    files: list[Path] = parser.parse_args().files
    columns = f"{'header':>11} {'vramfit':>11} {'GGUFReader':>12} {'faster':>9} {'peak/header':>11}"
    print(f"{'':45} {columns}")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "header.gguf"
        for path in files:
            if path.suffix == ".xz":
                plain.write_bytes(lzma.decompress(path.read_bytes()))
            measure(path.name, plain if path.suffix == ".xz" else path)
        if not files:
            made_up(plain)
            measure("262,144 made-up tokens", plain)


if __name__ == "__main__":
    main()
