"""What several test modules share: where the engine's truth is, and small models made by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
TRUTH = SHARED / "engine-truth"

COMMON: Final[dict[str, Any]] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("everyday", max_examples=20, **COMMON)
settings.register_profile("thorough", max_examples=50, **COMMON)  # as .ci/run asks for
settings.load_profile("everyday")


def examples(everyday: int, **options: Any) -> settings:
    """Settings for a costly law: so many examples every day, and as the profiles go more in a thorough run."""
    assert settings.default is not None
    return settings(max_examples=everyday * settings.default.max_examples // 20, **options)


def pytest_runtest_setup() -> None:
    """No width and no colour of the terminal that runs the tests, nor of what a worker's readline makes up."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
        os.environ.pop(name, None)
        os.unsetenv(name)  # what readline sets, Python does not know


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
