"""Models on the Hugging Face Hub, by a stand-in that huggingface-hub itself talks to."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf_bytes as raw
import pytest
from servers import Hub, Served, Server, running

from vramfit import _sources as source
from vramfit._base.errors import SourceError
from vramfit._sources import client

FAR = 1 << 40
TOKEN = "hf_secret"


def model(name: str = "m", n_strings: int = 1) -> Served:
    keys = [
        raw.key("general.name", "str", raw.string(name)),
        raw.key("a", "arr", raw.array("str", n_strings, raw.string("wordword") * n_strings)),
    ]
    return Served(raw.file(keys), size=FAR)


@pytest.fixture
def store(alone: Path) -> Iterator[Server]:
    """Where the bytes lie."""
    with running() as store:
        yield store


@pytest.fixture
def hub(store: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    patience = client.Patience(idle=5.0, total=20.0, back_off=0.001)
    monkeypatch.setattr(client.Patience, "from_environment", lambda: patience)
    with running(Hub(store)) as hub:
        assert isinstance(hub, Hub)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name in ("m-Q8_0", "m-Q4_K_M", "big/m-UD-Q2_K_XL"):
            hub.put("user/repo", f"{name}.gguf", model(name))
        hub.put("user/repo", "mmproj-F16.gguf", model("projector"))
        hub.put("user/one", "only.gguf", model("only"))
        hub.put("user/none", "model.safetensors", model())
        yield hub


def name_of(reference: str, **options: str) -> object:
    return source.open_headers(reference, **options)[0].metadata["general.name"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("hf.co/user/repo:Q8_0", "m-Q8_0"),
        ("hf.co/user/repo:q4_k_m", "m-Q4_K_M"),
        ("hf.co/user/repo:UD-Q2_K_XL", "big/m-UD-Q2_K_XL"),
        ("hf://user/repo/big/m-UD-Q2_K_XL.gguf", "big/m-UD-Q2_K_XL"),
        ("hf://user/repo@main/m-Q8_0.gguf", "m-Q8_0"),
        ("user/repo:Q8_0", "m-Q8_0"),
        ("user/repo@q8_0", "m-Q8_0"),
        ("user/one", "only"),
        ("hf.co/user/one:latest", "only"),
    ],
)
def test_names(hub: Hub, reference: str, name: str) -> None:
    assert name_of(reference) == name


def test_web_addresses_of_the_hub(hub: Hub) -> None:
    assert name_of(f"{hub.url}/user/repo/blob/main/m-Q8_0.gguf") == "m-Q8_0"
    assert name_of(f"{hub.url}/user/one") == "only"


def test_several_files_are_listed(hub: Hub) -> None:
    """A repository with several models is an error that can be copied from; projectors are no models."""
    with pytest.raises(SourceError) as caught:
        source.read_header("user/repo")
    assert str(caught.value) == (
        "user/repo: holds 3 models; name one of its files:\n  hf.co/user/repo/big/m-UD-Q2_K_XL.gguf\n"
        "  hf.co/user/repo/m-Q4_K_M.gguf\n  hf.co/user/repo/m-Q8_0.gguf"
    )
    with pytest.raises(SourceError, match=r"holds no Q3_K_S; name one of its files:\n  hf\.co/user/repo/big"):
        source.read_header("hf.co/user/repo:Q3_K_S")
    with pytest.raises(SourceError, match="holds no GGUF model; look for a conversion"):
        source.read_header("hf.co/user/none")


def test_what_goes_with_a_model(hub: Hub) -> None:
    found = source.resolve("hf.co/user/repo:Q8_0")
    projector = found.companion("projector")
    assert projector is not None
    assert projector.name == "mmproj-F16.gguf"
    assert found.name == "hf.co/user/repo/m-Q8_0.gguf"
    assert found.companion("adapter") is None


@pytest.mark.parametrize("n_strings", [1, 5_000, 30_000])
@pytest.mark.parametrize("reference", ["hf.co/user/big", "hf://user/big/m.gguf"])
def test_costs(hub: Hub, store: Server, reference: str, n_strings: int) -> None:
    """Three requests in all, the listing and the redirect included."""
    hub.put("user/big", "m.gguf", model("m", n_strings))
    assert name_of(reference) == "m"
    assert len(hub.log) + len(store.log) <= 3
    assert store.sent < 30_000 * 16 + (8 << 20)


def test_the_second_look_asks_nobody(hub: Hub, store: Server) -> None:
    name_of("hf.co/user/repo:Q8_0")
    asked = len(hub.log) + len(store.log)
    assert name_of("hf.co/user/repo:Q8_0") == "m-Q8_0"
    assert len(hub.log) + len(store.log) == asked


def test_an_old_look_is_confirmed(hub: Hub, store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the Hub is asked for the file's etag; the bytes come again only when it differs."""
    monkeypatch.setattr("vramfit._sources.cache.FRESH_SECONDS", 0)
    for _ in range(2):
        name_of("hf://user/one/only.gguf")
    assert (len(hub.log), len(store.log)) == (2, 1)
    hub.put("user/one", "only.gguf", model("another"))
    assert name_of("hf://user/one/only.gguf") == "another"


def test_revisions(hub: Hub) -> None:
    hub.revisions |= {"v1", "refs/pr/1"}
    assert name_of("user/one", revision="v1") == "only"
    assert "/api/models/user/one/revision/v1" in [r.path for r in hub.log]
    assert any("/resolve/v1/" in r.path for r in hub.log)
    with pytest.raises(SourceError, match=r"hf\.co/user/one: has no revision 'v2'"):
        source.read_header("hf://user/one@v2")
    with pytest.raises(
        SourceError,
        match="only models of the Hugging Face Hub and of ModelScope have revisions; leave out 'v1'",
    ):
        source.open_headers("m:7b", revision="v1")


def test_a_token_that_is_given(hub: Hub, store: Server, alone: Path) -> None:
    """It stands for the one that huggingface-hub would find, and is written nowhere."""
    hub.private["user/one"] = TOKEN
    assert name_of("hf.co/user/one", token=TOKEN) == "only"
    assert not any("authorization" in r.headers for r in store.log)
    assert not any(TOKEN.encode() in p.read_bytes() for p in alone.rglob("*") if p.is_file())


def test_the_hub_that_llama_cpp_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`MODEL_ENDPOINT` names it for llama.cpp, and comes before `HF_ENDPOINT`."""
    monkeypatch.setenv("MODEL_ENDPOINT", f"{hub.url}/")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert name_of("hf.co/user/one") == name_of(f"{hub.url}/user/one/blob/main/only.gguf") == "only"


def test_a_token_stays_with_the_hub(hub: Hub, store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private repository is read with the person's token, which the other host never sees."""
    hub.private["user/one"] = TOKEN
    with pytest.raises(
        SourceError, match=r"no such repository on the Hub, or it is private: .* or set HF_TOKEN"
    ):
        source.read_header("user/one")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = source.read_header("user/one")
    assert all(TOKEN in r.headers["authorization"] for r in hub.log[1:])
    assert store.log
    assert all("authorization" not in r.headers for r in store.log)
    assert "sig=secret" not in found.name


def test_a_gated_repository(hub: Hub) -> None:
    hub.gated.add("user/one")
    with pytest.raises(SourceError, match=rf"is gated; accept its terms at {hub.url}/user/one, then log in"):
        source.read_header("user/one")


def test_what_is_not_there(hub: Hub) -> None:
    with pytest.raises(SourceError, match="no such repository on the Hub"):
        source.read_header("user/nothing")
    with pytest.raises(SourceError, match=r"the repository has no such file; .*hf\.co/user/one"):
        source.read_header("hf.co/user/one/other.gguf")


def test_a_busy_hub_is_asked_again(hub: Hub) -> None:
    hub.busy = [503, 429]
    assert name_of("user/one") == "only"
    hub.busy = [500] * 20
    with pytest.raises(SourceError, match=rf"{hub.url} cannot be reached"):
        source.open_headers("user/one", cache=False)


def test_a_hub_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"hf\.co/user/one: http://127\.0\.0\.1:9 cannot be reached"):
        source.read_header("user/one")


def test_a_store_that_holds_another_file(hub: Hub, store: Server) -> None:
    """The size that the Hub announces is compared with what its store says."""
    store.files["/cdn/user/one/only.gguf"] = Served(model().body, size=FAR - 1)
    with pytest.raises(
        SourceError, match=r"the Hub says it has 1,099,511,627,776 bytes, but 127\.0\.0\.1 has"
    ):
        source.read_header("user/one")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/m.gguf"])
def test_a_hub_that_points_elsewhere(hub: Hub, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only web addresses are followed, whoever gives them."""
    monkeypatch.setattr(type(hub.store), "url", location)
    with pytest.raises(SourceError, match=r"is redirected to .* which is not a web address"):
        source.read_header("user/one")


def test_shards(hub: Hub, store: Server) -> None:
    """All shards of a split model are found beside the one that is named; each costs no more than three requests."""
    for i in range(3):
        keys = [
            raw.key("split.no", "u16", struct.pack("<H", i)),
            raw.key("split.count", "u16", struct.pack("<H", 3)),
            raw.key("split.tensors.count", "i32", struct.pack("<i", 3)),
        ]
        body = raw.file(keys, [raw.tensor(f"t{i}", (8,))])
        hub.put("user/split", f"Q8_0/m-Q8_0-{i + 1:05d}-of-00003.gguf", Served(body, size=FAR))
    found = source.open_headers("hf.co/user/split")
    assert [t.name for h in found for t in h.tensors] == ["t0", "t1", "t2"]
    assert len(hub.log) + len(store.log) <= 7
    del hub.repos["user/split"]["Q8_0/m-Q8_0-00002-of-00003.gguf"]
    with pytest.raises(SourceError, match=r"missing beside it: m-Q8_0-00002-of-00003\.gguf"):
        source.open_headers("hf.co/user/split", cache=False)


def test_names_from_the_hub_are_not_believed(hub: Hub, alone: Path) -> None:
    """A file name that climbs or controls the terminal is never a path here, nor printed."""
    hub.put("user/evil", "../../../evil.gguf", model())
    hub.put("user/evil", "a\x1b[2J.gguf", model())
    hub.put("user/evil", "good.gguf", model())
    with pytest.raises(SourceError) as caught:
        source.read_header("user/evil")
    assert "\x1b" not in str(caught.value)
    assert not list(alone.rglob("evil*"))


def test_no_request_but_for_the_header(hub: Hub) -> None:
    """In a process of its own, huggingface-hub is not made to ask for anything else."""
    code = "from vramfit import _sources as source; source.open_headers('user/one')"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HF_ENDPOINT": hub.url})
    assert [r.path.split("?")[0] for r in hub.log] == [
        "/api/models/user/one",
        "/user/one/resolve/main/only.gguf",
    ]


def test_offline(hub: Hub) -> None:
    """What is not here is not asked for when huggingface-hub is told to stay offline."""
    code = "from vramfit import _sources as source\ntry: source.open_headers('user/one')\nexcept source.SourceError as e: print(e)"
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True
    ).stdout
    assert "HF_HUB_OFFLINE says not to ask the Hub" in out
    assert not hub.log


# What huggingface-hub has downloaded already.

COMMIT = "c" * 40


def download(cache: Path, repo: str, filename: str, body: bytes, revision: str = "main") -> Path:
    """A file as huggingface-hub and llama.cpp lay it out."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    for part in ("refs", "blobs", f"snapshots/{COMMIT}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(COMMIT)
    blob = folder / "blobs" / f"blob-{filename.replace('/', '-')}"
    blob.write_bytes(body)
    path = folder / "snapshots" / COMMIT / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(blob, path.parent))
    return path


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE", "XDG_CACHE_HOME", ""])
def test_downloaded_files_come_first(
    hub: Hub, alone: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The Hub is not asked for what is here, wherever its cache was put."""
    monkeypatch.delenv("HF_HOME")
    folder = alone / "caches"
    cache = {"HF_HOME": folder / "hub", "XDG_CACHE_HOME": folder / "huggingface" / "hub",
             "": alone / ".cache" / "huggingface" / "hub"}.get(variable, folder)  # fmt: skip
    if variable:
        monkeypatch.setenv(variable, str(folder))
    path = download(cache, "user/repo", "m-Q8_0.gguf", model("local").body)
    download(cache, "user/repo", "mmproj-F16.gguf", b"GGUF")
    found = source.resolve("hf.co/user/repo:Q8_0")
    assert found.path == path
    assert found.headers[0].metadata["general.name"] == "local"
    projector = found.companion("projector")
    assert projector is not None
    assert projector.n_bytes == 4
    assert name_of("user/repo/m-Q8_0.gguf") == name_of("user/repo") == "local"
    assert name_of(f"hf://user/repo@{COMMIT}/m-Q8_0.gguf") == "local"
    assert not hub.log
    assert name_of("hf.co/user/repo:Q4_K_M") == "m-Q4_K_M"


def test_downloads_of_another_revision(hub: Hub, alone: Path) -> None:
    hub.revisions.add("v1")
    download(alone / "hf" / "hub", "user/one", "only.gguf", model("local").body, revision="v1")
    assert name_of("user/one") == "only"
    assert name_of("hf://user/one@v1") == "local"


def test_links_out_of_the_cache_are_not_followed(hub: Hub, alone: Path) -> None:
    secret = alone / "secret"
    secret.write_bytes(model("secret").body)
    path = download(alone / "hf" / "hub", "user/one", "only.gguf", b"")
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(
        SourceError, match=r"is a link out of .*models--user--one, to .*secret; name that file itself"
    ):
        source.read_header("user/one")


def test_older_downloads_of_llama_cpp(hub: Hub, alone: Path) -> None:
    """llama.cpp once kept user_repo_file.gguf in a flat folder."""
    cache = alone / ".cache" / "llama.cpp"
    cache.mkdir(parents=True)
    if sys.platform == "darwin":
        pytest.skip("its caches are elsewhere")
    (cache / "user_repo_m-Q8_0.gguf").write_bytes(model("flat").body)
    assert (
        name_of("user/repo") == name_of("hf.co/user/repo:Q8_0") == name_of("user_repo_m-Q8_0.gguf") == "flat"
    )
    assert name_of("hf.co/user/repo/m-Q8_0.gguf") == "flat"
    assert not hub.log


def test_repositories_that_ollama_pulled(hub: Hub, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ollama keeps what it pulls from the Hub under the Hub's name."""
    monkeypatch.setenv("OLLAMA_MODELS", str(alone / "ollama"))
    body = model("pulled").body
    manifest = {
        "layers": [
            {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "a" * 64, "size": 1}
        ]
    }
    path = alone / "ollama" / "manifests" / "hf.co" / "user" / "repo" / "Q8_0"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    (alone / "ollama" / "blobs").mkdir()
    (alone / "ollama" / "blobs" / ("sha256-" + "a" * 64)).write_bytes(body)
    assert name_of("hf.co/user/repo:Q8_0") == "pulled"
    assert not hub.log
