"""LM Studio's folder, llama.cpp's downloads, standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import gguf_bytes as raw
import pytest

from vramfit import _sources as source
from vramfit._base.errors import SourceError
from vramfit._sources import choose, folders


def body(name: str) -> bytes:
    return raw.file([raw.key("general.name", "str", raw.string(name))])


def name_of(reference: str) -> object:
    return source.open_headers(reference)[0].metadata["general.name"]


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body(path.stem))


@pytest.fixture
def studio(alone: Path) -> Path:
    folder = alone / ".lmstudio" / "models"
    put(
        folder, "acme/Rocket-7B-GGUF/Rocket-7B-Q8_0.gguf", "acme/Rocket-7B-GGUF/Rocket-7B-Q4_K_M.gguf",
        "acme/Rocket-7B-GGUF/mmproj-Rocket-7B-f16.gguf", "other/Solo/solo.gguf",
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("lmstudio://acme/Rocket-7B-GGUF@q8_0", "Rocket-7B-Q8_0"),
        ("lmstudio://acme/rocket-7b@q4_k_m", "Rocket-7B-Q4_K_M"),
        ("lmstudio://rocket-7b:Q4_K_M", "Rocket-7B-Q4_K_M"),
        ("lm-studio://solo", "solo"),
        ("lmstudio://acme/Rocket-7B-GGUF/Rocket-7B-Q8_0.gguf", "Rocket-7B-Q8_0"),
        ("acme/Rocket-7B-GGUF/Rocket-7B-Q8_0.gguf", "Rocket-7B-Q8_0"),
        ("acme/Rocket-7B-GGUF@q8_0", "Rocket-7B-Q8_0"),
        ("acme/rocket-7b:q8_0", "Rocket-7B-Q8_0"),
        ("rocket-7b@q8_0", "Rocket-7B-Q8_0"),
        ("other/solo", "solo"),
        ("solo", "solo"),
        ("Rocket-7B-Q8_0.gguf", "Rocket-7B-Q8_0"),
    ],
)
def test_names_in_lm_studio(studio: Path, reference: str, name: str) -> None:
    assert name_of(reference) == name


def test_projectors_in_lm_studio(studio: Path) -> None:
    projector = source.resolve("rocket-7b@q8_0").companion("projector")
    assert projector is not None
    assert projector.path == studio / "acme" / "Rocket-7B-GGUF" / "mmproj-Rocket-7B-f16.gguf"
    assert source.resolve("lmstudio://solo").companions == ()


def test_what_lm_studio_does_not_have_is_listed(studio: Path) -> None:
    for reference in ("lmstudio://rocket-7b", "lmstudio://nothing"):
        with pytest.raises(
            SourceError, match="no such model, or several; it has:\n  lmstudio://acme/Rocket-7B-GGUF/"
        ):
            source.read_header(reference)


def test_lm_studio_without_models(alone: Path) -> None:
    with pytest.raises(SourceError, match=r"LM Studio has no such model, or several$"):
        source.read_header("lmstudio://nothing")


def test_lm_studio_elsewhere(alone: Path) -> None:
    """Its home may have been moved; older versions kept models elsewhere."""
    (alone / ".lmstudio-home-pointer").write_text(f"{alone / 'moved'}\n")
    put(alone / "moved" / "models", "a/b/moved.gguf")
    put(alone / ".cache" / "lm-studio" / "models", "a/c/older.gguf")
    assert name_of("lmstudio://a/b") == "moved"
    assert name_of("lmstudio://a/c") == "older"


def test_links_out_of_lm_studio_are_not_followed(studio: Path, alone: Path) -> None:
    put(alone, "outside.gguf")
    (studio / "other" / "Solo" / "solo.gguf").unlink()
    (studio / "other" / "Solo" / "solo.gguf").symlink_to(alone / "outside.gguf")
    with pytest.raises(
        SourceError, match=r"solo .*: .* is a link out of .*outside\.gguf; name that file itself"
    ):
        source.read_header("lmstudio://solo")


def test_downloads_of_llama_cpp(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that `llama-server -mu` downloaded is found by its name."""
    monkeypatch.setenv("LLAMA_CACHE", str(alone / "cache"))
    put(alone / "cache", "m.gguf")
    assert name_of("m.gguf") == "m"


def test_platforms(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each platform has its own place for caches."""
    places = {
        "win32": alone / "AppData" / "Local",
        "darwin": alone / "Library" / "Caches",
        "linux": alone / ".cache",
    }
    for platform, place in places.items():
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        assert list(folders.flat_caches()) == [place / "llama.cpp"]


def test_files_that_are_nowhere(alone: Path) -> None:
    """A name of a file is not asked of any server; what it could be on the Hub is told."""
    with pytest.raises(SourceError, match=r"^m\.gguf: no such file$"):
        source.read_header("m.gguf")
    with pytest.raises(
        SourceError, match=r"no such file; for a file of the Hub write hf\.co/user/repo/m\.gguf"
    ):
        source.read_header("user/repo/m.gguf")


class Pipe:
    """Standard input that is a pipe."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_standard_input(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(body("piped")))
    assert name_of("-") == "piped"
    keys = [raw.key("split.no", "u16", b"\0\0"), raw.key("split.count", "u16", b"\2\0")]
    monkeypatch.setattr(sys, "stdin", Pipe(raw.file(keys)))
    with pytest.raises(
        SourceError, match="<standard input>: is shard 1 of 2, and the others cannot be found"
    ):
        source.open_headers("-")
    monkeypatch.setattr(sys, "stdin", Pipe(b""))
    with pytest.raises(SourceError, match="<standard input>: is empty"):
        source.open_headers("-")


def test_file_urls(alone: Path) -> None:
    put(alone, "a b.gguf")
    assert name_of(f"file://{alone}/a%20b.gguf") == "a b"


FILES = [
    "a-Q8_0.gguf", "a-Q4_K_M.gguf", "a-UD-Q4_K_M.gguf", "a-UD-Q4_K_XL.gguf", "BF16/a-BF16-00001-of-00002.gguf",
    "BF16/a-BF16-00002-of-00002.gguf", "mmproj-F16.gguf", "a-imatrix.gguf", "mtp-a-Q8_0.gguf", "README.md",
]  # fmt: skip


@pytest.mark.parametrize(
    ("quant", "found"),
    [
        ("Q8_0", ["a-Q8_0.gguf"]),
        ("q4_k_m", ["a-Q4_K_M.gguf"]),
        ("UD-Q4_K_M", ["a-UD-Q4_K_M.gguf"]),
        ("Q4_K_XL", ["a-UD-Q4_K_XL.gguf"]),
        ("BF16", ["BF16/a-BF16-00001-of-00002.gguf"]),
        ("a-Q8_0", ["a-Q8_0.gguf"]),
        ("a-q8_0.gguf", ["a-Q8_0.gguf"]),
        ("Q4", []),
        (".*", []),
        ("F16", []),
    ],
)
def test_choosing_by_quantization(quant: str, found: list[str]) -> None:
    """The word must be whole; split models stand for their first shard; what goes with models is none."""
    assert choose.matching(FILES, quant) == found


def test_long_lists_are_cut() -> None:
    with pytest.raises(
        SourceError,
        match=r"holds 100 models; name one of its files:\n(  x/a\d+\.gguf\n){40}  \.\.\. and 60 more$",
    ):
        choose.choose([f"a{i}.gguf" for i in range(100)], "", "x", "x/{}")
