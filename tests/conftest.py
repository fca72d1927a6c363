"""What several test modules share: where the engine's truth is, and small models made by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
TRUTH = SHARED / "engine-truth"

settings.register_profile(
    "vramfit", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("vramfit")


def pytest_runtest_setup() -> None:
    """No width and no colour of the terminal that runs the tests, nor of what a worker's readline makes up."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def truth() -> Path:
    """The folder of the engine's measured rows; tests that need it are skipped without it."""
    if not TRUTH.is_dir():
        pytest.skip("the engine's measured rows are not here")
    return TRUTH


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: no store, cache, token or proxy of the person who runs the tests, no way out."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(
            ("HF_", "HUGGING", "OLLAMA_", "LLAMA_", "MODEL_ENDPOINT", "MODELSCOPE_", "XDG_", "VRAMFIT_")
        ):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("VRAMFIT_CACHE", str(home / "vramfit"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.chdir(home)
    return home
