"""python -m tools.templates qwen3 gemma3 …: learn templates, check them, write them.

Each architecture is learned from models that the tool makes, checked against a model that it was not
learned from, and written to src/vramfit/_graphs/templates if it is right there. What could not be
expressed is printed. With --all, every architecture that has a template is made again.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
from collections import Counter
from dataclasses import replace

from tools.engine.binding import EngineError
from vramfit._graphs.text import format_template

from . import plan
from .check import check
from .learn import DENSE_OR_MIXTURE, Workshop, learn
from .observe import Untraceable

FOLDER = pathlib.Path(__file__).parents[2] / "src/vramfit/_graphs/templates"


def main() -> int:
    """Learn what the command line names; 1 if something is missing or wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architecture", nargs="*")
    parser.add_argument("--all", action="store_true")
    parser.add_argument(
        "--careful", action="store_true", help="live through models that make the engine crash"
    )
    parser.add_argument("--out", type=pathlib.Path, default=FOLDER)
    options = parser.parse_args()
    names = sorted(p.stem for p in options.out.glob("*.txt")) if options.all else options.architecture
    return max([refresh(name, options.out, options.careful) for name in names], default=0)


def refresh(architecture: str, out: pathlib.Path, careful: bool = False) -> int:
    """Learn, check and write one template; 1 if it is missing or wrong."""
    with tempfile.TemporaryDirectory(prefix="templates-") as folder:
        try:
            template, report, shop = learn(architecture, folder, careful)
        except (EngineError, Untraceable) as e:
            print(f"{architecture}: no template: {e}")
            return 1
        for line in report.lines:
            print(f"{architecture}: {line}")
        wrong: Counter[str] = Counter()
        right = 0
        for header in unseen(shop):
            for setting in plan.settings(plan.SOME, part=1):
                try:
                    found = check(template, header, setting.arguments)
                except EngineError:
                    continue
                right += not found
                wrong.update(["; ".join(found[:2])] if found else [])
    for reason, n in wrong.most_common(3):
        print(f"{architecture}: {n} times: {reason}")
    print(f"{architecture}: {right} of {right + sum(wrong.values())} unseen contexts are equal node for node")
    (out / f"{architecture}.txt").write_text(format_template(template), encoding="utf-8")
    return int(bool(wrong))


def unseen(shop: Workshop) -> list[str]:
    """Headers of models with other dimensions than any that was learned from."""
    dims = replace(
        plan.dimensions()[0], n_embd=640, n_head=10, n_head_kv=2, n_ff=1216, n_vocab=1100, n_layer=7, window=128,
        n_ff_exp=304, n_expert=9, n_expert_used=3, q_lora=120, d_state=48, d_inner=384, dt_rank=8, n_group=4,
    )  # fmt: skip
    found = []
    for experts in (False, True) if shop.architecture in DENSE_OR_MIXTURE else (None,):
        shop.experts = experts
        mini = shop.fitting(dims)
        if mini is not None:
            found.append(mini.path)
    return found


if __name__ == "__main__":
    sys.exit(main())
