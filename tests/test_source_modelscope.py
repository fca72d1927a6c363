"""Models of ModelScope: a stand-in that lists repositories and serves their files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gguf_bytes as raw
import pytest
from servers import Handler, Served, Server, running

from vramfit import _sources as source
from vramfit._base.errors import SourceError

FAR = 1 << 40
LIST = "/api/v1/models/user/repo/repo/files"


def far(name: str) -> Served:
    return Served(raw.file([raw.key("general.name", "str", raw.string(name))]), FAR, etag=f'"{name}"')


def name_of(reference: str, **options: str) -> object:
    return source.open_headers(reference, **options)[0].metadata["general.name"]  # type: ignore[arg-type]


@pytest.fixture
def scope(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with running() as server:
        monkeypatch.setenv("MODELSCOPE_DOMAIN", server.host)
        rows: list[object] = [
            {"Path": path, "Size": size, "Type": "blob"}
            for path, size in {"README.md": 1, "q8/m-Q8_0.gguf": 2, "m-Q4_K_M.gguf": 3, "mmproj.gguf": 4}.items()
        ]  # fmt: skip
        rows += [
            7,
            {},
            {"Path": 7, "Size": 1},
            {"Path": "../../m-Q5_0.gguf"},
            {"Path": "odd.txt", "Size": -1},
        ]
        server.files[LIST] = Served(json.dumps({"Code": 200, "Data": {"Files": rows}}).encode())
        for revision in ("master", "v1"):
            server.files[f"/models/user/repo/resolve/{revision}/q8/m-Q8_0.gguf"] = far(f"Q8 {revision}")
        yield server


def test_files_by_path_and_by_quantization(scope: Server) -> None:
    """A file costs one request where its path is given, and a listing more where it has to be chosen."""
    assert name_of("ms://user/repo/q8/m-Q8_0.gguf") == "Q8 master"
    assert len(scope.log) == 1
    assert name_of("modelscope://user/repo:Q8_0") == "Q8 master"
    assert [r.path for r in scope.log[1:]] == [f"{LIST}?Revision=master&Recursive=True"]
    assert name_of("ms://user/repo@v1:Q8_0") == name_of("ms://user/repo:Q8_0", revision="v1") == "Q8 v1"
    assert name_of("https://modelscope.cn/models/user/repo/file/view/v1/q8%2Fm-Q8_0.gguf") == "Q8 v1"


def test_the_second_look_asks_nobody(scope: Server) -> None:
    for _ in range(2):
        found = source.resolve("ms://user/repo:Q8_0")
        assert [(c.kind, c.name, c.n_bytes) for c in found.companions] == [("projector", "mmproj.gguf", 4)]
        asked = len(scope.log)
    assert asked == 2


def test_choices_are_listed(scope: Server) -> None:
    with pytest.raises(SourceError, match=r"(?s)holds 2 models.*  ms://user/repo/m-Q4_K_M\.gguf\n") as told:
        source.read_header("ms://user/repo")
    assert "Q5_0" not in str(told.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "list of files is not JSON"),
        (b"[" * 100_000, "list of files is not JSON"),
        (b'{"Data": []}', "lists no files"),
        (b'{"Code": 10010, "Data": null, "Message": "gone"}', "lists no files: 'gone'"),
        (b'{"Data": {"Files": []}}', "holds no GGUF model"),
        (None, "has no such repository"),
    ],
)
def test_listings_that_are_none(scope: Server, body: bytes | None, message: str) -> None:
    if body is None:
        del scope.files[LIST]
    else:
        scope.files[LIST] = Served(body)
    with pytest.raises(SourceError, match=rf"^ms://user/repo: .*{message}"):
        source.read_header("ms://user/repo")


def test_a_listing_without_end(scope: Server) -> None:
    def endless(handler: Handler) -> bool:
        handler.serve(Served(b" " * 1000, endless=True, length=-1))
        return True

    scope.answer = endless
    with pytest.raises(SourceError, match="more than 33,554,432 bytes"):
        source.read_header("ms://user/repo")


@pytest.mark.parametrize("folder", [".cache/modelscope/hub/models", "elsewhere"])
def test_what_was_downloaded(
    scope: Server, alone: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ModelScope's tools keep here is read here, unless a revision is asked for."""
    if folder == "elsewhere":
        monkeypatch.setenv("MODELSCOPE_CACHE", str(alone / folder))
    path = alone / folder / "user" / "repo" / "q8" / "m-Q8_0.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(far("here").body)
    assert name_of("ms://user/repo:Q8_0") == name_of("ms://user/repo/q8/m-Q8_0.gguf") == "here"
    assert not scope.log
    assert name_of("ms://user/repo@v1/q8/m-Q8_0.gguf") == "Q8 v1"
