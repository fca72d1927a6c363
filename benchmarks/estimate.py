"""Time of one estimate, against layers, devices and architectures.

    python benchmarks/estimate.py [HEADER...]

Prints milliseconds of `vramfit.estimate` (median of several, template loaded) and, for the same header
in the same run, how often a bare loop of the interpreter fits into it, which does not depend on the
machine's speed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
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
    print(f"{'header':<36} {'layers':>6} {'cards':>5} {'ms':>8} {'loops':>7}  exact")
    for path in map(Path, sys.argv[1:] or EXAMPLES):
        model = vramfit.read(path)
        for n in (1, 2, 4, 8):
            cards = [vramfit.Gpu(name=f"gpu{i}", total_bytes=80 << 30) for i in range(n)]
            settings = vramfit.Settings(n_ctx=32768, flash_attn="on", n_outputs_max=1)
            ms = median_ms(lambda m=model, c=cards, s=settings: vramfit.estimate(m, c, s))  # type: ignore[misc]
            exact = vramfit.estimate(model, cards, settings).exact
            print(f"{path.stem:<36} {model.n_layer:>6} {n:>5} {ms:>8.2f} {ms / unit:>7.2f}  {exact}")


if __name__ == "__main__":
    main()
