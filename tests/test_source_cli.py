"""Any reference on the command line: options, what is printed, errors, the line that says what is waited for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from servers import Hub, Registry, Served, Server, running

import vramfit
from vramfit import _sources as source
from vramfit._cli import main, models
from vramfit._sources import client

QWEN = (Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf").read_bytes()
NAME = "14,770,033,664"  # its parameters
FAR = 1 << 40


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.fixture
def server(alone: Path) -> Iterator[Server]:
    with running() as server:
        server.files["/m.gguf"] = Served(QWEN, size=FAR, etag='"1"')
        yield server


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(Hub(server)) as hub:
        assert isinstance(hub, Hub)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.put("user/repo", "m-Q8_0.gguf", Served(QWEN, size=FAR))
        hub.put("user/repo", "m-Q4_K_M.gguf", Served(QWEN, size=FAR))
        yield hub


def test_a_url(server: Server) -> None:
    """Every command takes a URL, as the argument or by llama.cpp's flags."""
    url = f"{server.url}/m.gguf"
    assert NAME in run("inspect", url).output
    assert run("inspect", "-mu", url).output == run("inspect", "-m", url).output == run("inspect", url).output
    assert run("plan", url, "--gpus", "80GiB", "--ctx", "4096").exit_code == 0


@pytest.mark.parametrize("command", ["plan", "inspect"])
def test_json_of_a_url(server: Server, alone: Path, command: str) -> None:
    """A model far away gets the same JSON as the file, to the last value, but for what it is called."""
    (alone / "m.gguf").write_bytes(QWEN)
    cards = ["--gpus", "3090ti,3060-12gb"] if command == "plan" else []

    def told(reference: str) -> object:
        result = run(command, reference, *cards, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.output.replace(json.dumps(reference), '"MODEL"'))

    near, far, again = told("m.gguf"), told(f"{server.url}/m.gguf"), told(f"{server.url}/m.gguf")
    assert near == far == again
    assert "MODEL" in json.dumps(near)


def test_no_cache(server: Server) -> None:
    url = f"{server.url}/m.gguf"
    for _ in range(2):
        assert run("inspect", url).exit_code == 0
    assert len(server.log) == 1
    assert run("inspect", url, "--no-cache").exit_code == 0
    assert len(server.log) == 2


def test_llama_cpp_flags_of_the_hub(hub: Hub) -> None:
    """`-hf user/repo:quant` and `-hf user/repo -hff file` mean what they mean to llama-server."""
    hub.revisions.add("v1")
    for args in (["-hf", "user/repo:Q8_0"], ["-hf", "user/repo", "-hff", "m-Q8_0.gguf"], ["--hf-repo", "user/repo:Q4_K_M"],
                 ["hf.co/user/repo:Q8_0", "--revision", "v1"]):  # fmt: skip
        assert NAME in run("inspect", *args).output, args
    assert any("/resolve/v1/" in r.path for r in hub.log)
    several = run("inspect", "-hf", "user/repo")
    assert several.exit_code == 1
    assert "hf.co/user/repo/m-Q4_K_M.gguf" in several.output


def test_a_token_on_the_command_line(hub: Hub) -> None:
    """llama-server's `-hft` opens a private repository."""
    hub.private["user/repo"] = "hf_secret"
    assert run("inspect", "-hf", "user/repo:Q8_0").exit_code == 1
    assert NAME in run("inspect", "-hf", "user/repo:Q8_0", "-hft", "hf_secret").output


@pytest.mark.parametrize(
    ("args", "reference"),
    [
        (["-dr", "gemma3"], "docker://gemma3"),
        (["--docker-repo", "ai/gemma3:4B-Q4_K_M"], "docker://ai/gemma3:4B-Q4_K_M"),
        (["-hfr", "user/repo:Q8_0", "-hff", "m.gguf"], "hf://user/repo/m.gguf"),
        (["--ms-repo", "user/repo", "--ms-file", "q8/m.gguf"], "ms://user/repo/q8/m.gguf"),
        (["--ol-model", "qwen3:4b"], "ollama://qwen3:4b"),
        (["--url", "https://example.com/m.gguf"], "https://example.com/m.gguf"),
        (["--path", "m.gguf"], "m.gguf"),
    ],
)
def test_flags_of_peers(monkeypatch: pytest.MonkeyPatch, args: list[str], reference: str) -> None:
    """A model by another tool's flag is the model by that place's prefix."""
    asked: list[str] = []

    def stop(choice: models.Choice) -> None:
        asked.append(choice.reference)
        raise vramfit.SourceError("stop")

    for method in ("read", "resolve"):
        monkeypatch.setattr(models.Choice, method, stop)
    assert run("inspect", *args).output == "vramfit: stop\n"
    assert asked == [reference]


def test_what_comes_with_a_model_is_printed(server: Server) -> None:
    with running(Registry(server)) as registry:
        assert isinstance(registry, Registry)
        registry.put(
            "library/m/7b", model=Served(QWEN, size=FAR), projector=bytes(2048), license=b"MIT",
            params=b'{"num_ctx": 43008, "stop": ["a"]}',
        )  # fmt: skip
        printed = run("inspect", f"{registry.host}/library/m:7b").output
        told = json.loads(run("inspect", f"{registry.host}/library/m:7b", "--json").output)
    assert told["parameters"] == {"num_ctx": 43008, "stop": ["a"]}
    assert [c["bytes"] for c in told["companions"] if c["kind"] == "projector"] == [2048]
    assert "projector        sha256:" in printed
    assert ", 2 KiB" in printed
    assert printed.endswith("run options      num_ctx 43008, stop ['a']\n")
    assert "icense" not in printed


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["inspect"], 2, "Missing argument 'MODEL'"),
        (["inspect", "a.gguf", "-m", "b.gguf"], 1, "vramfit: two models given: a.gguf and b.gguf"),
        (["inspect", "-hff", "m.gguf"], 1, "vramfit: --hf-file m.gguf needs --hf-repo USER/REPO"),
        (["inspect", "--ms-file", "m.gguf"], 1, "vramfit: --ms-file m.gguf needs --ms-repo USER/REPO"),
        (["inspect", "absent.gguf"], 1, "vramfit: absent.gguf: no such file"),
        (["inspect", "s3://x/y"], 1, "vramfit: s3://x/y: models are not read from s3: addresses"),
        (
            ["inspect", "a.gguf", "--revision", "v1"],
            1,
            "only models of the Hugging Face Hub and of ModelScope have",
        ),
    ],
)
def test_refusals(alone: Path, args: list[str], status: int, message: str) -> None:
    result = run(*args)
    assert (result.exit_code, message in result.output) == (status, True), result.output


def test_standard_input(alone: Path) -> None:
    assert NAME in CliRunner().invoke(main, ["inspect", "-"], input=QWEN).output


def test_read_takes_what_resolve_found(server: Server) -> None:
    """A reference is looked up once, for its model and for what comes with it."""
    url = f"{server.url}/m.gguf"
    found = source.resolve(url)
    assert vramfit.read(found) == vramfit.read(url)
    assert vramfit.read(url, cache=False).source == url


def test_local_models_pay_nothing_for_remote_ones(alone: Path) -> None:
    """Reading a file imports no HTTP library, and a second look at a remote one neither."""
    heavy = ["urllib3", "huggingface_hub", "http.client", "ssl", "rich"]
    code = (
        f"import sys, vramfit; vramfit.read(sys.argv[1]); print([m for m in {heavy!r} if m in sys.modules])"
    )

    def loaded(reference: str) -> str:
        return subprocess.check_output([sys.executable, "-c", code, reference], text=True).strip()

    (alone / "m.gguf").write_bytes(QWEN)
    assert loaded("m.gguf") == "[]"
    with running() as server:
        server.files["/m.gguf"] = Served(QWEN, size=FAR, etag='"1"')
        assert loaded(f"{server.url}/m.gguf") != "[]"
        assert loaded(f"{server.url}/m.gguf") == "[]"
        assert len(server.log) == 1


def test_a_long_wait_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal a line appears once the wait is long, says how much came, and goes; else nothing is printed."""
    with models._told() as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with models._told() as progress:  # a short wait
        assert progress is not None
        progress("m", 1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(models, "_LONG_SECONDS", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with models._told() as progress:
        assert isinstance(progress, models._Waiting)
        progress._timer.join()
        progress("hf.co/user/[repo]", 3 << 20)
        time.sleep(0.3)
    assert "Reading the header of hf.co/user/[repo]: 3 MiB" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_https(server: Server, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is checked: one that nobody vouches for is refused, at once; one that is trusted is not."""
    import ssl

    for name in ("key", "certificate"):
        assert not (alone / name).exists()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "certificate", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("certificate", "key")
    secure = Server()
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    secure.files["/m.gguf"] = Served(QWEN, size=FAR)
    url = f"https://{secure.host}/m.gguf"
    with running(secure):
        client._certificates.cache_clear()
        with pytest.raises(vramfit.SourceError, match=r"cannot be reached: .*certificate"):
            source.read_header(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(alone / "certificate"))
        client._certificates.cache_clear()
        assert source.read_header(url).header_bytes == source.read_header(QWEN).header_bytes
    client._certificates.cache_clear()
