"""References: what is read of a file, which files make a model, and what is said of those that do not."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import cast

import gguf
import gguf_bytes as raw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramfit import _sources as source
from vramfit._base.errors import InvalidHeader, SourceError, Truncated
from vramfit._gguf import Array
from vramfit._sources import origin, paths

EXAMPLES = Path(__file__).parents[1] / "examples"


def u16(value: int) -> bytes:
    return struct.pack("<H", value)


def shard(no: int, count: int, tensors: list[bytes], total: int, *more: bytes) -> bytes:
    return raw.file(
        [
            raw.key("split.no", "u16", u16(no)),
            raw.key("split.count", "u16", u16(count)),
            raw.key("split.tensors.count", "i32", struct.pack("<i", total)),
            *more,
        ],
        tensors,
    )


def name(no: int, count: int) -> str:
    return f"m-{no + 1:05d}-of-{count:05d}.gguf"


def put_shards(folder: Path, count: int = 3) -> list[Path]:
    """A model of one tensor a shard."""
    paths = [folder / name(i, count) for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(shard(i, count, [raw.tensor(f"t{i}", (8,))], count))
    return paths


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.gguf")), ids=lambda p: p.stem)
def test_examples(path: Path) -> None:
    """The headers that the project ships are whole, as a path, as text and as bytes."""
    found = source.read_header(path)
    assert found.name == str(path)
    assert found.tensors == source.read_header(str(path)).tensors
    data = path.read_bytes()
    for given_bytes in (data, bytearray(data), memoryview(data)):
        assert source.read_header(given_bytes).metadata.keys() == found.metadata.keys()
    assert source.open_headers(path) == (found,)


def test_examples_are_there() -> None:
    assert len(list(EXAMPLES.glob("*.gguf"))) >= 2


def test_a_file_that_is_mostly_a_hole(tmp_path: Path) -> None:
    """Of a file of 15 GB the header is read, and nothing near its size."""
    path = tmp_path / "hole.gguf"
    path.write_bytes(raw.file((), [raw.tensor("t", (15 << 30,), 24)]))
    os.truncate(path, 16 << 30)
    found = source.read_header(path)
    assert found.tensors[0].n_bytes == 15 << 30
    with path.open("rb", buffering=0) as stream:
        origin.read_header(origin.Origin("hole", stream, 16 << 30))
        assert stream.tell() <= origin.STEP_BYTES


@pytest.mark.parametrize("n_strings", [10, 40_000, 400_000])
def test_the_window_grows(tmp_path: Path, n_strings: int) -> None:
    """A header longer than the first window is read, and no more than one step beyond it."""
    body = raw.string("word") * n_strings
    path = tmp_path / "long.gguf"
    path.write_bytes(raw.file([raw.key("a", "arr", raw.array("str", n_strings, body))]))
    os.truncate(path, 1 << 30)
    with path.open("rb", buffering=0) as stream:
        found, _ = origin.read_header(origin.Origin("long", stream, None))
        assert stream.tell() < found.header_bytes + origin.STEP_BYTES
    assert len(cast("Array", found.metadata["a"])) == n_strings


@pytest.mark.parametrize("missing", [0, 1])
def test_a_pipe(monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    """What has no size and cannot be sought is read as well; what ends early is truncated."""
    data = (EXAMPLES / "gemma-3-12b-q4_k_m.gguf").read_bytes()
    header_bytes = source.read_header(data).header_bytes
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(data[: header_bytes - missing])

    writer = threading.Thread(target=write)
    writer.start()
    need = 0
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        try:
            assert source.read_header("-").header_bytes == header_bytes
        except Truncated as truncated:
            need = truncated.need
    assert need == (header_bytes if missing else 0)
    writer.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names elsewhere")
def test_what_is_no_file_is_refused_at_once(alone: Path) -> None:
    """A pipe may have no writer, a device no end: neither is opened, wherever a file is looked for."""
    os.mkfifo(alone / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(alone / "socket"))
        for path, kind in (("pipe", "a pipe"), ("socket", "a socket"), ("/dev/zero", "a device")):
            for reference in (path, Path(path)):
                with pytest.raises(SourceError, match=f"{path}: cannot be opened: it is {kind}, not a file"):
                    source.read_header(reference)
    with pytest.raises(SourceError, match=r"redirect what it gives to standard input, and name that: -$"):
        source.open_headers("pipe")
    os.mkfifo(alone / ".lmstudio-home-pointer")
    with pytest.raises(SourceError, match="LM Studio has no such model"):
        source.open_headers("lmstudio://m")


def test_a_file_that_becomes_another_meanwhile(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was opened is looked at, too: a pipe put in the file's place is not waited for."""
    os.mkfifo(alone / "m.gguf")
    (alone / "file").touch()
    before = os.stat(alone / "file")
    monkeypatch.setattr(os, "stat", lambda *_, **__: before)
    with pytest.raises(OSError, match="it is a pipe, not a file"):
        paths.open_regular(alone / "m.gguf")


def test_bytes_that_end_early_are_truncated() -> None:
    """More bytes may follow those given, so the fault is `Truncated`, with what is needed."""
    data = shard(0, 1, [raw.tensor("t", (8,))], 1)
    for length in range(1, len(data)):
        with pytest.raises(Truncated) as caught:
            source.read_header(data[:length])
        assert length < caught.value.need <= len(data)


def test_a_file_that_ends_early_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    data = shard(0, 1, [raw.tensor("t", (8,))], 1)
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InvalidHeader, match=r"cut\.gguf: .*incomplete"):
            source.read_header(path)


FOREIGN = {
    "is empty": b"",
    "zeros so far": bytes(1000),
    "safetensors": struct.pack("<Q", 80) + b'{"__metadata__":{}}',
    "legacy GGML": b"tjgg\x03\0\0\0",
    "ZIP archive": b"PK\x03\x04rest",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "web page": b"\n<!DOCTYPE html><html>",
    "gzip": b"\x1f\x8b\x08\0",
    "Modelfile": b"FROM llama3\n",
    "starts with b'rubbish!'": b"rubbish! and more",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_files(tmp_path: Path, what: str) -> None:
    """What is not GGUF is named for what it is, whether a file or bytes."""
    path = tmp_path / "model.gguf"
    path.write_bytes(FOREIGN[what])
    with pytest.raises(SourceError, match=f"model.gguf: .*{what}"):
        source.read_header(path)
    with pytest.raises(SourceError, match=what):
        source.read_header(FOREIGN[what])


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    """Each says which path, why, and what to do where something can be done."""
    with pytest.raises(SourceError, match=r"absent\.gguf: no such file"):
        source.read_header(tmp_path / "absent.gguf")
    with pytest.raises(SourceError, match=r"is a directory; name a \.gguf file; it holds none"):
        source.read_header(tmp_path)
    for i in range(6):
        (tmp_path / f"{i}.gguf").touch()
    with pytest.raises(SourceError, match=r"one of its files: 0\.gguf, .*4\.gguf \.\.\."):
        source.read_header(tmp_path)
    with pytest.raises(SourceError, match=r"cannot be opened: .*null"):
        source.read_header("a\0b")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "m.gguf").touch()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceError, match=r"m\.gguf: cannot be opened: Permission denied"):
        source.read_header(tmp_path / "m.gguf")


def test_a_read_that_fails(tmp_path: Path) -> None:
    class Broken:
        def read(self, _: int) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(SourceError, match="m: cannot be read: Input/output error"):
        origin.read_header(origin.Origin("m", Broken(), None))


def test_names_of_references() -> None:
    assert source.reference_name(b"12345") == "<5 bytes>"
    assert source.reference_name(Path("a") / "b") == str(Path("a") / "b")


@given(st.integers(2, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_any_shard_finds_the_others(tmp_path_factory: pytest.TempPathFactory, case: tuple[int, int]) -> None:
    """Whichever shard is named, the answer is all of them in order."""
    count, chosen = case
    paths = put_shards(tmp_path_factory.mktemp("split"), count)
    found = source.open_headers(paths[chosen])
    assert [h.name for h in found] == [str(p) for p in paths]
    assert [h.split_no for h in found] == list(range(count))
    assert found[chosen].split_tensors_count == count


def test_shards_of_the_writer(tmp_path: Path) -> None:
    """Shards that `gguf.GGUFWriter` makes are one model."""
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "llama", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = source.open_headers(tmp_path / "w-00002-of-00003.gguf")
    assert [t.name for h in found for t in h.tensors] == [f"t{i}" for i in range(5)]
    assert found[0].metadata["general.architecture"] == "llama"


def test_missing_shards_are_named(tmp_path: Path) -> None:
    paths = put_shards(tmp_path, 3)
    paths[1].unlink()
    with pytest.raises(SourceError, match=r"is shard 1 of 3; missing beside it: m-00002-of-00003\.gguf$"):
        source.open_headers(paths[0])
    many = tmp_path / name(0, 9)
    many.write_bytes(shard(0, 9, [], 9))
    with pytest.raises(SourceError, match=r"m-00004-of-00009\.gguf and 5 more$"):
        source.open_headers(many)


def test_a_renamed_shard_cannot_find_the_others(tmp_path: Path) -> None:
    path = put_shards(tmp_path)[1]
    for other in ("model.gguf", name(2, 3), name(1, 4)):
        with pytest.raises(
            SourceError, match=f"{other}: is shard 2 of 3, but is not called <name>-00002-of-00003"
        ):
            source.open_headers(_copy(path, other))


def _copy(path: Path, other: str) -> Path:
    folder = path.parent / "renamed"
    folder.mkdir(exist_ok=True)
    copy = folder / other
    copy.write_bytes(path.read_bytes())
    return copy


def test_a_shard_beyond_the_last(tmp_path: Path) -> None:
    path = tmp_path / name(4, 3)
    path.write_bytes(shard(4, 3, [], 3))
    with pytest.raises(SourceError, match="says it is shard 5 of 3"):
        source.open_headers(path)


def test_what_is_no_reference() -> None:
    with pytest.raises(SourceError, match="named by a path or given as bytes, not by 7"):
        source.open_headers(7)  # type: ignore[arg-type]


def test_bytes_are_not_copied() -> None:
    """A view of a whole file may be given: nothing but its header is touched."""
    data = bytearray(64 << 20)
    head = raw.file((), [raw.tensor("t", (8,))])
    data[: len(head)] = head
    tracemalloc.start()
    try:
        assert source.read_header(memoryview(data)).n_tensors == 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_bytes_of_a_shard_have_no_others(tmp_path: Path) -> None:
    data = put_shards(tmp_path)[1].read_bytes()
    with pytest.raises(SourceError, match="these bytes are shard 2 of 3; give the path"):
        source.open_headers(data)


STRANGERS = {
    "says it is shard 3 of 3, but its name says 2 of 3": shard(2, 3, [raw.tensor("t1", (8,))], 3),
    "says it is shard 2 of 4": shard(1, 4, [raw.tensor("t1", (8,))], 3),
    "its 'split.tensors.count' differs": shard(1, 3, [raw.tensor("t1", (8,))], 4),
    "tensor 't0' is in .*m-00001-of-00003.gguf too": shard(1, 3, [raw.tensor("t0", (8,))], 3),
    "the model has 3 tensors, but its shards hold 2": shard(1, 3, [], 3),
}


@pytest.mark.parametrize("fault", STRANGERS)
def test_shards_of_another_model(tmp_path: Path, fault: str) -> None:
    """A shard that cannot belong to the others is named."""
    paths = put_shards(tmp_path)
    paths[1].write_bytes(STRANGERS[fault])
    with pytest.raises(SourceError, match=fault):
        source.open_headers(paths[0])
