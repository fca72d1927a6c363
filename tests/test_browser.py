"""Pages as a browser draws them: headless Chromium, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from small import dense, gpu
from together import together

from vramfit._llama.params import Settings
from vramfit._planner.compare import compare
from vramfit._planner.plan import plan
from vramfit._planner.shared import Tenant
from vramfit._planner.sweep import sweep
from vramfit._planner.whatif import trades
from vramfit._report.html import fragment, page
from vramfit._report.style import DARK_MODELS, LIGHT_MODELS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ON = Settings(flash_attn="on", n_outputs_max=1)
MODEL = dense(4, n_vocab=1 << 18, n_ctx_train=1 << 16)
CARDS = [gpu(3000, name="large"), gpu(1800, name="small")]
# weights, context, compute, the limit, paper: as in the style of a page
LIGHT = ("0072b2", "e69f00", "009e73", "d55e00", "ffffff")
DARK = ("56b4e9", "f0b429", "2fc79a", "ff8a4c", "16181c")
DARK_SYSTEM = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")


def chromium(text: str, folder: Path, *flags: str) -> str:
    """Opens a page; what the browser prints."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--window-size=900,900", *flags,
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--no-sandbox")
    page_url = (folder / "page.html").as_uri()
    return subprocess.run(
        [*command, page_url], check=True, capture_output=True, text=True, timeout=120
    ).stdout


def screenshot(text: str, folder: Path, *flags: str) -> np.ndarray:
    """Pixels of a page, rows × columns × RGB from 0 to 255."""
    picture = folder / "page.png"
    chromium(text, folder, f"--screenshot={picture}", *flags)
    pixels: np.ndarray = (imread(picture)[:, :, :3] * 255).round().astype(int)
    return pixels


def share(pixels: np.ndarray, color: str) -> float:
    """Share of the pixels that have exactly this colour."""
    wanted = [int(color[i : i + 2], 16) for i in (0, 2, 4)]
    return float((pixels == wanted).all(axis=2).mean())


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(
    ("flags", "colors"),
    [((), LIGHT), (DARK_SYSTEM, DARK)],
    ids=["light", "dark"],
)
def test_a_plan_in_a_browser(tmp_path: Path, flags: tuple[str, ...], colors: tuple[str, ...]) -> None:
    """Mostly paper; bars of all three terms and a line at the capacity, in the colours of the mode."""
    pixels = screenshot(page(plan(MODEL, CARDS, ON)), tmp_path, *flags)
    *parts, limit, paper = (share(pixels, color) for color in colors)
    assert paper > 0.7
    assert min(parts) > 0.0002
    assert limit > 0.0001


EIGHT = together(
    [
        Tenant(MODEL, replace(ON, n_ctx=n_ctx), name=f"some-model-of-a-long-name-{n_ctx}-instruct-q8_0")
        for n_ctx in range(1024, 9216, 1024)
    ],
    [(i % 2,) for i in range(8)],
    [gpu(10_000, name="GeForce RTX large"), gpu(9_000, name="GeForce RTX small")],
)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(
    ("flags", "colors"), [((), LIGHT_MODELS), (DARK_SYSTEM, DARK_MODELS)], ids=["light", "dark"]
)
def test_eight_models_in_a_browser(tmp_path: Path, flags: tuple[str, ...], colors: tuple[str, ...]) -> None:
    """Each has its hue, its number, and a darker shade of it for what is computed."""
    assert EIGHT.fits
    pixels = screenshot(page(EIGHT), tmp_path, *flags)
    assert min(share(pixels, color[1:]) for color in colors) > 0.0002
    darker = [f"{round(int(c[i : i + 2], 16) * 8 / 15):02x}" for c in colors[:1] for i in (1, 3, 5)]
    assert share(pixels, "".join(darker)) > 0.00005


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_comparison_in_a_browser(tmp_path: Path) -> None:
    """Points of each cache type are drawn, and text fills the table."""
    found = compare(MODEL, CARDS, ON, file_types=["F16", "Q8_0", "Q4_K_M"])
    pixels = screenshot(page(found), tmp_path)
    assert all(share(pixels, color) > 0.00002 for color in LIGHT[:3])
    ink = share(pixels, "1a1a1a")
    assert 0.0005 < ink < 0.2


# What a front end puts around an output: how it says its theme, its variables, and the rows it paints itself.
LAB = """<style>:root{{--jp-content-font-color1:{ink};--jp-layout-color0:{paper}}}body{{background:{paper};margin:0}}
.jp-RenderedHTMLCommon tbody tr:nth-child(n){{background:{paper}}}</style>
<body data-jp-theme-light="{light}"><div class="jp-RenderedHTMLCommon">{fragment}</div>"""
CODE = """<style>:root{{--vscode-editor-foreground:{ink};--vscode-editor-background:{paper}}}
body{{background:{paper};margin:0}}</style><body class="vscode-{mode}">{fragment}"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("host", [LAB, CODE], ids=["JupyterLab", "VS Code"])
@pytest.mark.parametrize("dark", [False, True], ids=["light in a dark system", "dark in a light system"])
def test_a_notebook_follows_its_front_end(tmp_path: Path, host: str, dark: bool) -> None:
    """Where theme and system disagree, ink, paper and parts are the theme's: nothing is left of the system's."""
    ink, paper = ("fafafa", "111111") if dark else ("222222", "fefefe")
    found = fragment(plan(MODEL, CARDS, ON)) + fragment(compare(MODEL, CARDS, ON, file_types=["Q8_0"]))
    around = {"light": str(not dark).lower(), "mode": "dark" if dark else "light", "fragment": found}
    text = "<!DOCTYPE html>" + host.format(ink=f"#{ink}", paper=f"#{paper}", **around)
    pixels = screenshot(text, tmp_path, *(() if dark else DARK_SYSTEM))
    theirs, ours = (DARK, LIGHT) if dark else (LIGHT, DARK)
    assert share(pixels, paper) > 0.7
    assert share(pixels, ink) > 0.002
    assert share(pixels, theirs[0]) > 0.0001
    assert max(share(pixels, ours[0]), share(pixels, ours[-1])) == 0


FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<script>onload = () => {{
const found = [];
for (const frame of document.querySelectorAll("iframe")) {{
  const inside = frame.contentDocument, wide = [inside.documentElement, ...inside.querySelectorAll(".wide")];
  const text = [...inside.querySelectorAll("svg text")].map(x => x.getBoundingClientRect().height);
  found.push(frame.name + ":" + Math.max(...wide.map(x => x.scrollWidth - x.clientWidth)) + ":" + Math.min(99, ...text));
}}
document.body.textContent = "FOUND " + found.join(" ") + " END";
}}</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_pages_fit_a_telephone(tmp_path: Path) -> None:
    """At 390, 800 and 1400 pixels no page and no table is wider than its room, and no word is too small to read."""
    short = replace(ON, n_ctx=1 << 16)
    changes = trades(MODEL, CARDS, short, brief=True)
    found = {
        "plan": page(plan(MODEL, [gpu(3000, name=f"GeForce RTX 3060 12GB #{i}") for i in range(4)], ON)),
        "short": page(changes.asked, changes),
        "comparison": page(compare(MODEL, CARDS, ON)),
        "model": page(MODEL),
        "together": page(EIGHT),
        "sweep": page(sweep(MODEL, CARDS, ON, n_ctx=[256, 65536], type_k=["f16", "q8_0"])),
    }
    frames = "".join(
        f'<iframe name="{name}@{width}" style="border:0;width:{width}px;height:900px" srcdoc="{escape(text)}"></iframe>'
        for name, text in found.items()
        for width in (390, 800, 1400)
    )
    printed = (
        chromium(FRAMES.format(frames=frames), tmp_path, "--dump-dom").split("FOUND ")[1].split(" END")[0]
    )
    measured = [line.split(":") for line in printed.split()]
    assert len(measured) == len(found) * 3
    assert [name for name, over, _ in measured if float(over) > 0] == []
    assert [name for name, _, height in measured if float(height) < 10] == []
