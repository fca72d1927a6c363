"""Time of one estimate, against layers, devices and architectures.

    python benchmarks/estimate.py [HEADER...]

Prints milliseconds of `vramfit.estimate` (median of several, builder loaded). `first` is the work with nothing
remembered of the model, `next` that of one more context of a model that was asked about before, `again` the same
question once more, which is remembered. `loops` is how often a bare loop of the interpreter fits into the first,
in the same run, which does not depend on the machine's speed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import vramfit

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.gguf"))
LOOP = 100_000


def median_ms(work: Callable[[], object], times: int = 7) -> float:
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def loop() -> None:
    for _ in range(LOOP):
        pass


def main() -> None:
    unit = median_ms(loop)
    print(f"a bare loop of {LOOP:,} steps takes {unit:.2f} ms")
    print(
        f"{'header':<36} {'layers':>6} {'cards':>5} {'first':>8} {'next':>8} {'again':>8} {'loops':>7}  exact"
    )
    for path in map(Path, sys.argv[1:] or EXAMPLES):
        model = vramfit.read(path)
        for n in (1, 2, 4, 8):
            cards = [vramfit.Gpu(name=f"gpu{i}", total_bytes=80 << 30) for i in range(n)]
            settings = vramfit.Settings(n_ctx=32768, flash_attn="on", n_outputs_max=1)
            print(f"{path.stem:<36} {model.n_layer:>6} {n:>5} {figures(model, cards, settings, unit)}")


def figures(model: vramfit.Model, cards: list[vramfit.Gpu], settings: vramfit.Settings, unit: float) -> str:
    contexts = count(settings.n_ctx, 256)
    first = median_ms(lambda: vramfit.estimate(replace(model), cards, settings))
    following = median_ms(lambda: vramfit.estimate(model, cards, replace(settings, n_ctx=next(contexts))))
    again = median_ms(lambda: vramfit.estimate(model, cards, settings))
    exact = vramfit.estimate(model, cards, settings).exact
    return f"{first:>8.2f} {following:>8.2f} {again:>8.2f} {first / unit:>7.1f}  {exact}"


if __name__ == "__main__":
    main()
