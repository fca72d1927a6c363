"""Pages as a browser draws them: headless Chromium, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from small import dense, gpu

from vramfit.comparison import compare
from vramfit.report.html import page
from vramfit.settings import Settings
from vramfit.solve import plan

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ON = Settings(flash_attn="on", n_outputs_max=1)
MODEL = dense(4, n_vocab=1 << 18, n_ctx_train=1 << 16)
CARDS = [gpu(3000, name="large"), gpu(1800, name="small")]
# weights, context, compute, the limit, paper: as in the style of a page
LIGHT = ("0072b2", "e69f00", "009e73", "d55e00", "ffffff")
DARK = ("56b4e9", "f0b429", "2fc79a", "ff8a4c", "16181c")


def screenshot(text: str, folder: Path, *flags: str) -> np.ndarray:
    """Pixels of a page, rows × columns × RGB from 0 to 255."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    picture = folder / "page.png"
    command = [
        str(CHROMIUM), "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--window-size=900,900", f"--screenshot={picture}", *flags,
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--no-sandbox")
    subprocess.run([*command, (folder / "page.html").as_uri()], check=True, capture_output=True, timeout=120)
    return (imread(picture)[:, :, :3] * 255).round().astype(int)


def share(pixels: np.ndarray, color: str) -> float:
    """Share of the pixels that have exactly this colour."""
    wanted = [int(color[i : i + 2], 16) for i in (0, 2, 4)]
    return float((pixels == wanted).all(axis=2).mean())


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(
    ("flags", "colors"),
    [((), LIGHT), (("--force-dark-mode", "--blink-settings=preferredColorScheme=0"), DARK)],
    ids=["light", "dark"],
)
def test_a_plan_in_a_browser(tmp_path: Path, flags: tuple[str, ...], colors: tuple[str, ...]) -> None:
    """Mostly paper; bars of all three terms and a line at the capacity, in the colours of the mode."""
    pixels = screenshot(page(plan(MODEL, CARDS, ON)), tmp_path, *flags)
    *parts, limit, paper = (share(pixels, color) for color in colors)
    assert paper > 0.7
    assert min(parts) > 0.0002
    assert limit > 0.0001


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_comparison_in_a_browser(tmp_path: Path) -> None:
    """Points of each cache type are drawn, and text fills the table."""
    found = compare(MODEL, CARDS, ON, file_types=["F16", "Q8_0", "Q4_K_M"])
    pixels = screenshot(page(found), tmp_path)
    assert all(share(pixels, color) > 0.00002 for color in LIGHT[:3])
    ink = share(pixels, "1a1a1a")
    assert 0.0005 < ink < 0.2
