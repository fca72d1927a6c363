"""The header reader: what `gguf.GGUFWriter` writes comes back, and nothing else gets through."""

# mypy: disable-error-code="union-attr,arg-type"

from __future__ import annotations

import lzma
import struct
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import gguf_bytes as raw
import numpy as np
import pytest
from conftest import SHARED
from fuzz import header as fuzz
from hypothesis import example, given
from hypothesis import strategies as st

from vramfit import _gguf as header
from vramfit._base.errors import HeaderError, InvalidHeader, Truncated
from vramfit._gguf import limits
from vramfit._sources.load import read

INTEGERS = {"u8": 8, "i8": 8, "u16": 16, "i16": 16, "u32": 32, "i32": 32, "u64": 64, "i64": 64}
WRITER_TYPES = {name: gguf.GGUFValueType(i) for i, name in enumerate(limits.TYPE_NAMES)}
TENSOR_TYPES = ("F32", "F16", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4", "I32", "BF16")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEY_NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=10)


def scalars(type_name: str) -> st.SearchStrategy[Any]:
    """Values that a type holds exactly."""
    if type_name in INTEGERS:
        bits = INTEGERS[type_name]
        if type_name[0] == "u":
            return st.integers(0, 2**bits - 1)
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if type_name in ("f32", "f64"):
        return st.floats(width=int(type_name[1:]), allow_nan=False)
    return st.booleans() if type_name == "bool" else TEXT


ELEMENT_TYPES = [t for t in limits.TYPE_NAMES if t != "arr"]
SCALARS = st.sampled_from(ELEMENT_TYPES).flatmap(lambda t: st.tuples(st.just(t), scalars(t)))
# The writer takes no empty array.
ARRAYS = st.sampled_from(ELEMENT_TYPES).flatmap(
    lambda t: st.tuples(st.just("arr:" + t), st.lists(scalars(t), min_size=1, max_size=5))
)
KEYS = st.dictionaries(KEY_NAMES.map("test.".__add__), SCALARS | ARRAYS, max_size=8)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
TENSORS = st.dictionaries(TEXT.filter(bool), st.tuples(st.sampled_from(TENSOR_TYPES), SHAPES), max_size=5)


def written(
    keys: dict[str, tuple[str, Any]],
    tensors: dict[str, tuple[str, list[int]]],
    alignment: int | None,
    big: bool,
) -> bytes:
    """The header that `gguf.GGUFWriter` makes; a shape counts blocks in its first (fastest) dimension."""
    endian = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.gguf"
        writer = gguf.GGUFWriter(path, "test", endianess=endian)
        if alignment:
            writer.add_custom_alignment(alignment)
        for key, (type_name, value) in keys.items():
            outer, _, element = type_name.partition(":")
            kinds = {"sub_type": WRITER_TYPES[element]} if element else {}
            writer.add_key_value(key, value, WRITER_TYPES[outer], **kinds)
        for name, (type_name, shape) in tensors.items():
            kind = gguf.GGMLQuantizationType[type_name]
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            elements = [shape[0] * block, *shape[1:]]
            writer.add_tensor_info(
                name,
                tuple(reversed(elements)),
                np.dtype(np.float32),
                int(np.prod(shape)) * block_bytes,
                raw_dtype=kind,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return path.read_bytes()


@given(KEYS, TENSORS, st.sampled_from([None, 8, 32, 64, 4096]), st.booleans())
def test_round_trip(
    keys: dict[str, tuple[str, Any]],
    tensors: dict[str, tuple[str, list[int]]],
    alignment: int | None,
    big: bool,
) -> None:
    """What `gguf.GGUFWriter` writes, in either byte order, is what the header says."""
    data = written(keys, tensors, alignment, big)
    found = header.parse(data)
    assert (found.version, found.byte_order) == (3, ">" if big else "<")
    assert found.alignment == (alignment or 32)
    assert found.header_bytes <= len(data) <= found.data_offset
    assert found.n_kv == len(keys) + 1 + bool(alignment)
    for key, (type_name, value) in keys.items():
        outer, _, element = type_name.partition(":")
        assert found.types[key] == outer
        got = found.metadata[key]
        if isinstance(got, header.Array):
            assert (got.type, len(got)) == (element, len(value))
            assert got.values() == tuple(got) == tuple(value)
            got = got.values()[0]
            value = value[0]
        assert got == value
        assert type(got) is type(value)
    assert [t.name for t in found.tensors] == list(tensors)
    end = 0
    for tensor in found.tensors:
        type_name, shape = tensors[tensor.name]
        block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
        assert tensor.type.name.upper() == type_name
        assert tensor.shape == (shape[0] * block, *shape[1:])
        assert tensor.n_elements == int(np.prod(shape)) * block
        assert tensor.n_bytes == int(np.prod(shape)) * block_bytes
        assert tensor.offset == end
        end += -(-tensor.n_bytes // found.alignment) * found.alignment
    assert found.data_bytes == end
    assert found.data_offset % (found.alignment if tensors else 1) == 0


def sample(order: str = "<", version: int = 3) -> bytes:
    """A header with every kind of part."""
    u32 = struct.Struct(order + "I").pack
    strings = b"".join(raw.string(s, order) for s in ("a", "", "Grüße", "x" * 40))
    return raw.file(
        [
            raw.key("general.architecture", "str", raw.string("llama", order), order),
            raw.key("general.alignment", "u32", u32(64), order),
            raw.key("strings", "arr", raw.array("str", 4, strings, order), order),
            raw.key("numbers", "arr", raw.array("u32", 3, u32(1) + u32(2) + u32(3), order), order),
            raw.key("none", "arr", raw.array("str", 0, b"", order), order),
            raw.key("flag", "bool", b"\x02", order),
            raw.key("flags", "arr", raw.array("bool", 3, b"\x00\x01\x07", order), order),
        ],
        [
            raw.tensor("token_embd.weight", (64, 3), 8, 0, order),
            raw.tensor("output.weight", (5,), 0, 256, order),
            raw.tensor("scalar", (), 0, 320, order),
            raw.tensor("empty", (0, 7), 0, 384, order),
            raw.tensor("last", (1, 1, 1, 2), 0, 384, order),
        ],
        version=version,
        order=order,
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_versions_and_byte_orders(order: str, version: int) -> None:
    found = header.parse(sample(order, version))
    assert (found.version, found.byte_order) == (version, order)
    assert found.metadata["strings"].values() == ("a", "", "Grüße", "x" * 40)
    assert found.metadata["numbers"].values() == (1, 2, 3)
    assert found.metadata["flag"] is True
    assert found.metadata["flags"].values() == (False, True, True)
    assert len(found.metadata["none"]) == 0
    assert [t.shape for t in found.tensors] == [(64, 3), (5,), (1,), (0, 7), (1, 1, 1, 2)]
    assert found.data_bytes == 448
    assert (found.split_no, found.split_count, found.split_tensors_count) == (0, 0, 0)
    assert (found.n_kv, found.n_tensors) == (7, 5)


def test_a_header_is_a_value() -> None:
    """Two parses of the same bytes are equal and hash alike; nothing in them can be set."""
    data = sample()
    one, two = header.parse(data), header.parse(bytearray(data))
    assert one == two
    assert hash(one) == hash(two)
    assert len({one.metadata["numbers"], two.metadata["numbers"]}) == 1
    with pytest.raises(TypeError):
        one.metadata["flag"] = False  # type: ignore[index]
    with pytest.raises(TypeError):
        two.metadata["numbers"].body[0] = 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_prefix_asks_for_more(order: str) -> None:
    """A strict prefix raises `Truncated`, which asks for more than it got and no more than there is."""
    data = sample(order)
    for length in range(len(data)):
        with pytest.raises(Truncated) as caught:
            header.parse(data[:length])
        assert length < caught.value.need <= len(data)


def test_bytes_behind_the_header_are_not_read() -> None:
    assert header.parse(sample() + b"\xff" * 99).header_bytes == len(sample())


@given(st.lists(st.integers(1, 30), max_size=40))
def test_a_window_that_grows_gets_there(steps: list[int]) -> None:
    """A parse that goes on in any steps ends where one of the whole does, each time having asked for more."""
    data = sample()
    parser, window = header.Parser(name="m"), bytearray()
    for step in [*steps, len(data)]:
        window += data[len(window) : len(window) + step]
        try:
            found = parser.parse(window)
        except Truncated as truncated:
            need = truncated.need
        else:
            assert len(window) == len(data)
            assert found == header.parse(data, name="m")
            return
        assert len(window) < need <= len(data)
    raise AssertionError("the window held all and the parser asked for more")


def test_following_need_alone_converges() -> None:
    """Giving just what is asked for ends after at most one step for each part of the header."""
    data = sample()
    parser, need = header.Parser(), 0
    for _ in range(100):
        try:
            assert parser.parse(data[:need]).header_bytes == len(data)
            return
        except Truncated as truncated:
            need = truncated.need
    raise AssertionError("no end")


@given(st.integers(0, len(sample()) - 1), st.integers(0, 255), st.booleans())
@example(4, 4, True)
def test_a_flipped_byte_gives_a_header_or_an_error(at: int, value: int, sized: bool) -> None:
    """Any byte in any place gives a `Header` or a `HeaderError`."""
    data = bytearray(sample())
    data[at] = value
    _decode(bytes(data), sized)


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_any_bytes_give_a_header_or_an_error(body: bytes, sized: bool, n_kv: int, n_tensors: int) -> None:
    """Any bytes, behind a sound start too, give a `Header` or a `HeaderError`."""
    _decode(body, sized)
    _decode(raw.file(n_kv=n_kv, n_tensors=n_tensors) + body, sized)


def _decode(data: bytes, sized: bool) -> None:
    try:
        found = header.parse(data, file_size=len(data) if sized else None)
        for value in found.metadata.values():
            if isinstance(value, header.Array):
                value.values()
    except HeaderError as error:
        need = getattr(error, "need", None)
        assert need is None or (need > len(data) and not sized)


U32 = struct.Struct("<I").pack
ONE = raw.key("a", "u32", U32(1))
F32 = raw.tensor("t", (8,), 0)

REFUSED = {
    "no magic": (b"GGML" + b"\0" * 40, "not a GGUF file.*b'GGML'"),
    "version 0": (raw.file(version=0), "version 0"),
    "version 1": (raw.file(version=1), "version 1.*convert"),
    "version 4": (raw.file(version=4), "version 4"),
    "negative count": (raw.file(n_kv=-1), "number of keys is -1"),
    "too many keys": (raw.file(n_kv=limits.MAX_KEYS + 1), "number of keys.*65,536"),
    "too many tensors": (raw.file(n_tensors=limits.MAX_TENSORS + 1), "number of tensors.*131,072"),
    "empty key": (raw.file([raw.key("", "u32", U32(1))]), "key 0 is empty"),
    "key too long": (raw.file([raw.key("k" * 65536, "u32", U32(1))]), "key 0 is 65,536 bytes"),
    "key no UTF-8": (raw.file([raw.key(b"\xff", "u32", U32(1))]), "key 0 is not UTF-8"),
    "key twice": (raw.file([ONE, ONE]), "key 'a' appears twice"),
    "unknown value type": (raw.file([raw.key("a", 13, U32(1))]), "'a' has value type 13"),
    "negative value type": (raw.file([raw.key("a", -1, U32(1))]), "'a' has value type -1"),
    "unknown element type": (raw.file([raw.key("a", "arr", raw.array(99, 0, b""))]), "value type 99"),
    "nested array": (raw.file([raw.key("a", "arr", raw.array("arr", 0, b""))]), "array of arrays"),
    "array too long": (raw.file([raw.key("a", "arr", raw.array("u8", 2**30 + 1, b""))]), "1,073,741,825 el"),
    "string too long": (raw.file([raw.key("a", "str", struct.pack("<Q", 2**30 + 1))]), "1,073,741,825 bytes"),
    "string beyond us": (raw.file([raw.key("a", "str", struct.pack("<Q", 2**30))]), "268,435,456"),
    "array beyond us": (raw.file([raw.key("a", "arr", raw.array("u64", 2**25, b""))]), "268,435,456"),
    "strings beyond us": (raw.file([raw.key("a", "arr", raw.array("str", 2**25, b""))]), "268,435,456"),
    "value no UTF-8": (raw.file([raw.key("a", "str", raw.string(b"\xff"))]), "'a' is not UTF-8"),
    "last string too long": (
        raw.file([raw.key("a", "arr", raw.array("str", 1, struct.pack("<Q", 2**64 - 1)))]),
        "string 0 of the array is 18,446,744,073,709,551,615 bytes",
    ),
    "inner string too long": (
        raw.file([raw.key("a", "arr", raw.array("str", 2, struct.pack("<QQ", 2**64 - 1, 0)))]),
        "string 0 of the array",
    ),
    "alignment of another type": (
        raw.file([raw.key("general.alignment", "u64", struct.pack("<Q", 32))]),
        "'general.alignment' is of type u64, but must be u32",
    ),
    "alignment 0": (raw.file([raw.key("general.alignment", "u32", U32(0))]), "is 0; it must be a power"),
    "alignment 48": (raw.file([raw.key("general.alignment", "u32", U32(48))]), "is 48; it must be a power"),
    "split.count of another type": (raw.file([raw.key("split.count", "u32", U32(2))]), "must be u16"),
    "tensor name too long": (raw.file((), [raw.tensor("t" * 64, (8,))]), "name of tensor 0 is 64 bytes"),
    "tensor name no UTF-8": (raw.file((), [raw.tensor(b"\xff", (8,))]), "name of tensor 0 is not UTF-8"),
    "tensor twice": (raw.file((), [F32, raw.tensor("t", (8,), 0, 32)]), "tensor 't' appears twice"),
    "five dimensions": (raw.file((), [raw.tensor("t", (1, 1, 1, 1, 1))]), "5 dimensions"),
    "negative extent": (raw.file((), [raw.tensor("t", (8, -1))]), r"shape \(8, -1\)"),
    "element overflow": (
        raw.file((), [raw.tensor("t", (2**40, 2**23))]),
        "shape .*9,223,372,036,854,775,807",
    ),
    "overflow before a zero": (raw.file((), [raw.tensor("t", (2**40, 2**23, 0))]), "shape"),
    "byte overflow": (raw.file((), [raw.tensor("t", (2**61,))]), "no file is that long"),
    "row no multiple": (raw.file((), [raw.tensor("t", (33,), 8)]), "'t': a row of 33 q8_0"),
    "unknown type": (raw.file((), [raw.tensor("t", (8,), 77)]), "tensor 't' has type 77"),
    "removed type": (raw.file((), [raw.tensor("t", (8,), 4)]), "type 4, q4_2.*removed.*quantize"),
    "overlap": (raw.file((), [F32, raw.tensor("u", (8,), 0, 0)]), "'u' lies at offset 0.*overlaps.*at 32"),
    "gap": (raw.file((), [F32, raw.tensor("u", (8,), 0, 64)]), "'u' lies at offset 64.*gap.*at 32"),
    "misaligned": (raw.file((), [raw.tensor("t", (8,), 0, 4)]), "'t' lies at offset 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """What breaks the format or a limit is refused at once, with the file's name and the fault."""
    data, message = REFUSED[case]
    with pytest.raises(InvalidHeader, match="(?s)^m.gguf: .*" + message):
        header.parse(data, name="m.gguf")


@pytest.mark.parametrize("removed", limits.REMOVED_TYPES)
def test_removed_types_are_not_known_ones(removed: int) -> None:
    with pytest.raises(InvalidHeader, match=limits.REMOVED_TYPES[removed]):
        header.parse(raw.file((), [raw.tensor("t", (256,), removed)]))


def test_at_the_limits() -> None:
    """What just keeps a limit is read."""
    found = header.parse(
        raw.file([raw.key("k" * 65535, "u32", U32(1))], [raw.tensor("t" * 63, (2**40, 2**20))])
    )
    assert found.tensors[0].n_elements == 2**60


def test_string_arrays_decode_late() -> None:
    """Bad UTF-8 in an array is no concern until someone asks for its strings."""
    body = raw.string("fine") + raw.string(b"\xff")
    found = header.parse(raw.file([raw.key("a", "arr", raw.array("str", 2, body))])).metadata["a"]
    assert len(found) == 2
    assert next(iter(found)) == "fine"
    with pytest.raises(InvalidHeader, match="key 'a': string 1 "):
        found.values()


def test_a_count_is_held_against_the_size_of_the_file() -> None:
    data = raw.file(n_tensors=1000)
    with pytest.raises(Truncated):
        header.parse(data)
    with pytest.raises(InvalidHeader, match=r"needs 24,0\d\d bytes, but the file has 24"):
        header.parse(data, file_size=len(data))


def test_a_file_holds_all_tensors_or_none() -> None:
    """A file ends at its header, or behind its last tensor, whose padding may lack."""
    data = raw.file((), [raw.tensor("t", (3,), 0), raw.tensor("u", (5,), 0, 32)])
    offset = header.parse(data).data_offset
    for size in (len(data), offset, offset + 52, offset + 64, offset + 999):
        assert header.parse(data, file_size=size).n_tensors == 2
    for size, name in ((offset + 1, "t"), (offset + 11, "t"), (offset + 12, "u"), (offset + 51, "u")):
        with pytest.raises(InvalidHeader, match=f"tensor '{name}' ends at byte .* incomplete"):
            header.parse(data, file_size=size)


def test_engine_fixtures(truth: Path) -> None:
    """Every header that the engine measured is read to its end, which is the end of the file."""
    for path in truth.glob("*/*.gguf"):
        data = path.read_bytes()
        found = header.parse(data, file_size=len(data), name=path.name)
        assert len(data) in (found.header_bytes, found.data_offset)
        assert found.metadata["general.architecture"]


@pytest.mark.parametrize(
    ("stem", "n_tokens", "n_tensors"),
    [("gemma-3-270m-q4_k_m", 262144, 236), ("deepseek-r1-distill-qwen-7b", 152064, 339)],
)
def test_real_headers(stem: str, n_tokens: int, n_tensors: int) -> None:
    """A published model's vocabulary is counted, not decoded: the parse needs little beside the bytes."""
    packed = SHARED / "real-headers" / f"{stem}.gguf-header.xz"
    if not packed.exists():
        pytest.skip("the headers of real files are not here")
    data = lzma.decompress(packed.read_bytes())
    tracemalloc.start()
    try:
        found = header.parse(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tokens = found.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, header.Array)
    assert (len(tokens), found.n_tensors) == (n_tokens, n_tensors)
    assert len(set(tokens)) == n_tokens
    assert peak < 1 << 20


def _arrays() -> list[bytes]:
    """2,000 arrays of 1,000 numbers each: short enough to be kept."""
    body = raw.array("u32", 1000, np.random.default_rng(0).bytes(4000))
    return [raw.key(f"llama.a{i}", "arr", body) for i in range(2000)]


COSTLY = {
    "small arrays": _arrays,
    "empty strings": lambda: [raw.key("llama.x", "arr", raw.array("str", 1 << 18, bytes(2 << 20)))],
    "one string": lambda: [raw.key("general.name", "str", raw.string("x" * (8 << 20)))],
    "a wide string": lambda: [raw.key("general.name", "str", raw.string("😀" + "x" * (8 << 20)))],
    "many wide strings": lambda: [
        raw.key(f"llama.{i}", "str", raw.string("😀" + "x" * (1 << 19))) for i in range(16)
    ],
    "long keys": lambda: [raw.key(f"llama.{i}" + "é" * 2000, "u8", b"\0") for i in range(2000)],
}


@pytest.mark.parametrize("case", COSTLY)
def test_a_model_costs_its_header_and_little_more(case: str, tmp_path: Path) -> None:
    """To read what hostile bytes hold takes at most two and a half times the header; to keep the model, once."""
    names = (
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
    )
    path = tmp_path / "m.gguf"
    keys = [raw.key("general.architecture", "str", raw.string("llama")), *COSTLY[case]()]  # type: ignore[no-untyped-call]
    keys += [raw.key(f"llama.{name}", "u32", U32(1)) for name in names]
    path.write_bytes(raw.file(keys, [raw.tensor("token_embd.weight", (1, 1))]))
    size = path.stat().st_size
    del keys
    tracemalloc.start()
    try:
        model = read(path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert model.n_layer == 1
    assert peak < 2.5 * size + (2 << 20)
    assert kept < 1.1 * size + (2 << 20)


def test_long_strings_lie_where_they_are() -> None:
    """Beyond a mebibyte a string is given as its bytes; up to it, and one that is wrong near its end, as ever."""
    limit = limits.LONGEST_TEXT
    for text, kind in (("é" * (limit // 2), str), ("é" * (limit // 2) + "x", header.Text)):
        value = header.parse(raw.file([raw.key("a", "str", raw.string(text))])).metadata["a"]
        assert isinstance(value, kind)
        assert str(value) == text
    assert len(value) == limit + 1
    for bad in (b"x" * limit + b"\xff", b"x" * limit + "é".encode()[:1]):
        with pytest.raises(InvalidHeader, match="key 'a' is not UTF-8"):
            header.parse(raw.file([raw.key("a", "str", raw.string(bad))]))


def test_fuzz_corpus() -> None:
    """What the fuzzer has found to matter, and random changes of it, give a header or an error."""
    corpus = sorted(fuzz.CORPUS.iterdir())
    assert len(corpus) > 20
    for path in corpus:
        fuzz.check(path.read_bytes())
    fuzz.mutated(2000)
