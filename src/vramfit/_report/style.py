"""The style of pages and of what notebooks show.

A notebook's front end knows whether it is light or dark, and the system may say otherwise. So ink and paper are
the front end's own variables (JupyterLab's, then VS Code's), the colours of parts follow the theme that it declares,
and the system is asked only where nobody else says. Rows keep the paper's background: front ends paint their own.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PAGE_STYLE", "SHARED_STYLE", "STYLE"]

LIGHT: Final = (
    "--ink:#1a1a1a;--paper:#fff;--faint:#666;--rule:#d0d0d0;--weights:#0072b2;--context:#e69f00;"
    "--compute:#009e73;--limit:#d55e00;--word:#b34700;--g3:#cc79a7;--company:#56b4e9;--good:#00734f"
)
DARK: Final = (
    "--ink:#e8e8e8;--paper:#16181c;--faint:#a0a0a0;--rule:#3c4048;--weights:#56b4e9;--context:#f0b429;"
    "--compute:#2fc79a;--limit:#ff8a4c;--word:#ff8a4c;--g3:#e39ac5;--company:#7d8fe0;--good:#2fc79a"
)
# How front ends say which theme is on: JupyterLab, VS Code, Colab, and pages of documentation.
LIGHT_HOSTS: Final = (
    "[data-jp-theme-light=true]", ".vscode-light", ".vscode-high-contrast-light", "html[theme=light]", "[data-theme=light]",
)  # fmt: skip
DARK_HOSTS: Final = (
    "[data-jp-theme-light=false]", ".vscode-dark", ".vscode-high-contrast:not(.vscode-high-contrast-light)",
    "html[theme=dark]", "[data-theme=dark]",
)  # fmt: skip


def _under(hosts: tuple[str, ...]) -> str:
    return ",".join(f"{host} .vramfit" for host in hosts)


def _themes(light: str, dark: str) -> str:
    return (
        f".vramfit{{{light}}}@media(prefers-color-scheme:dark){{.vramfit{{{dark}}}}}"
        f"{_under(LIGHT_HOSTS)}{{{light}}}{_under(DARK_HOSTS)}{{{dark}}}"
    )


STYLE: Final = (
    _themes(LIGHT, DARK)
    + """
.vramfit{--fg:var(--jp-content-font-color1,var(--vscode-editor-foreground,var(--ink)));
--bg:var(--jp-layout-color0,var(--vscode-editor-background,var(--paper)));
--dim:var(--jp-content-font-color2,var(--vscode-descriptionForeground,var(--faint)));
--line:var(--jp-border-color2,var(--vscode-widget-border,var(--rule)));
color:var(--fg);background:var(--bg);font:14px/1.5 system-ui,sans-serif;container-type:inline-size;
box-sizing:border-box;width:100%;max-width:62rem;padding:.5rem;overflow-wrap:anywhere}
.vramfit h1{font-size:1.2rem;line-height:1.3;margin:.2rem 0;color:inherit}.vramfit p{margin:.4rem 0;color:inherit}
.vramfit h2{font-size:1rem;margin:1.2rem 0 .2rem;color:inherit}
.vramfit .answer{font-size:1.1em;font-weight:600}.vramfit .good{color:var(--good)}
.vramfit .bad,.vramfit .warn{color:var(--word);font-weight:600}.vramfit .strong{font-weight:600}
.vramfit .note{color:var(--dim);font-size:.9em}.vramfit summary{cursor:pointer;color:var(--dim)}
.vramfit .wide{overflow-x:auto}
.vramfit table{border-collapse:collapse;margin:.6rem 0;font:inherit;font-size:13px;font-variant-numeric:tabular-nums;color:inherit;
border:0;background:none;table-layout:auto;overflow-wrap:normal}
.vramfit tr,.vramfit th,.vramfit td{background:none!important;color:inherit}
.vramfit th,.vramfit td{padding:.2rem .6rem;text-align:right;border:0;border-bottom:1px solid var(--line);white-space:nowrap;
vertical-align:baseline;max-width:none}
.vramfit th{font-weight:600;white-space:normal;vertical-align:bottom}
.vramfit th.name,.vramfit td.name{text-align:left;white-space:normal}.vramfit td.words{white-space:normal;min-width:12rem}
.vramfit td.bad,.vramfit td.warn{color:var(--word)}.vramfit td.good{color:var(--good)}
.vramfit .key{display:inline-block;margin-right:1em;white-space:nowrap}
.vramfit .key>span,.vramfit .key svg{display:inline-block;width:.9em;height:.9em;margin-right:.35em;vertical-align:-.1em}
.vramfit span.weights{background:var(--weights)}.vramfit span.context{background:var(--context)}
.vramfit span.compute{background:var(--compute)}
.vramfit span.company{background:var(--company)}
.vramfit span.other{background:var(--g3)}
.vramfit .device{margin:.7rem 0;max-width:47rem}
.vramfit .device p{display:flex;flex-wrap:wrap;justify-content:space-between;column-gap:1em;margin:0}
.vramfit .bar{position:relative;height:24px;margin-top:6px}
.vramfit .bar>span{position:absolute;top:0;bottom:0;box-sizing:border-box}
.vramfit .free{border:1px solid var(--line)}
.vramfit .over{background:repeating-linear-gradient(45deg,var(--limit) 0 3px,transparent 3px 7px);outline:1px solid var(--limit)}
.vramfit .bar>.cap,.vramfit .bar>.margin{top:-4px;bottom:-4px;width:3px;margin-left:-2px;background:var(--limit)}
.vramfit .bar>.margin{background:repeating-linear-gradient(var(--limit) 0 4px,transparent 4px 7px)}
.vramfit .key>.cap{width:3px;background:var(--limit)}
.vramfit .key>.margin{width:3px;background:repeating-linear-gradient(var(--limit) 0 4px,transparent 4px 7px)}
.vramfit svg{width:100%;height:auto;max-width:760px;display:block}
.vramfit svg text{fill:var(--fg);font-size:12px}.vramfit svg .small{fill:var(--dim);font-size:11px}
.vramfit .g0{fill:var(--weights)}.vramfit .g1{fill:var(--context)}.vramfit .g2{fill:var(--compute)}.vramfit .g3{fill:var(--g3)}
.vramfit .axis{fill:none;stroke:var(--dim)}
.vramfit .grid{stroke:var(--line);stroke-width:.5}.vramfit .ring{fill:none;stroke:var(--fg);stroke-width:1.5}
@container (max-width:56rem){.vramfit .less{display:none}}
@container (max-width:34rem){.vramfit .least{display:none}.vramfit th,.vramfit td{padding:.2rem .35rem}
.vramfit svg text{font-size:18px}.vramfit svg .small{font-size:16px}
.vramfit .stack thead{display:none}.vramfit .stack,.vramfit .stack tbody,.vramfit .stack tr,.vramfit .stack td{display:block}
.vramfit .stack tr{margin:.6rem 0}.vramfit .stack td{display:flex;justify-content:space-between;gap:1rem;white-space:normal}
.vramfit .stack td:empty{display:none}.vramfit .stack td.words{text-align:right}
.vramfit .stack td::before{content:attr(data-name);color:var(--dim);white-space:nowrap}
.vramfit .stack td:first-child{font-weight:600}.vramfit .stack td:first-child::before{display:none}
.vramfit .stack td[data-unit]::after{content:attr(data-unit);color:var(--dim);font-weight:400}}
"""
)
PAGE_STYLE: Final = """
html{color-scheme:light dark;background:#fff}@media(prefers-color-scheme:dark){html{background:#16181c}}
body{margin:0}body>.vramfit{margin:0 auto;padding:1rem}
"""
# Of several models: a hue for each, and shades of it for its terms. Those beyond Okabe and Ito's were sought for the largest
# least distance (CIELAB) that any two keep to people who see no red, no green or no blue.
LIGHT_MODELS: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#9326ff", "#4c1f3d", "#2d1799", "#732600",
)  # fmt: skip
DARK_MODELS: Final = (
    "#56b4e9", "#f0b429", "#2fc79a", "#e39ac5", "#7300e6", "#73452e", "#175899", "#b266ff",
)  # fmt: skip


def _hues(colors: tuple[str, ...]) -> str:
    return ";".join(f"--m{i}:{color}" for i, color in enumerate(colors))


SHARED_STYLE: Final = (
    _themes(_hues(LIGHT_MODELS), _hues(DARK_MODELS))
    + "".join(f".vramfit .m{i}{{background-color:var(--m{i})}}" for i in range(len(LIGHT_MODELS)))
    + """
.vramfit .bar>.in{border-left:1px solid var(--bg)}.vramfit .any{background-color:var(--dim)}
.vramfit .in-context{background-image:linear-gradient(#fff8,#fff8)}
.vramfit .in-compute{background-image:linear-gradient(#0007,#0007)}
.vramfit .in-company{background-image:repeating-linear-gradient(135deg,#fffa 0 2px,transparent 2px 6px)}
.vramfit .in-other{background-image:radial-gradient(#fffc 1px,transparent 1.6px);background-size:5px 5px}
.vramfit .processes{background:repeating-linear-gradient(90deg,var(--dim) 0 1px,transparent 1px 3px);outline:1px solid var(--dim)}
.vramfit .bar>.tag{border-left:1px solid var(--fg);overflow:hidden;pointer-events:none;container-type:inline-size}
.vramfit .tag>b{display:inline-block;margin:4px 3px;padding:0 4px;border-radius:3px;background:#000b;color:#fff;font-size:11px;line-height:16px}
.vramfit .key .tag{width:auto;height:auto}.vramfit .key .tag>b{margin:0}
.vramfit .models .key{white-space:normal}@container (max-width:20px){.vramfit .tag>b{display:none}}
"""
)
