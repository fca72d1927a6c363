"""What several test modules share: where the engine's truth is, and small models made by hand."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def truth() -> Path:
    """The folder of the engine's measured rows; tests that need it are skipped without it."""
    if not TRUTH.is_dir():
        pytest.skip("the engine's measured rows are not here")
    return TRUTH
