"""How long a sweep takes and how much memory it keeps, against the number of points.

    python benchmarks/sweep.py [MODEL]

Prints a row for each size of the grid: points, seconds (least of three) and those of the processor, which a busy machine
does not stretch, the share of them that goes into learning compute buffers, the share of exact points, and bytes a point.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

import vramfit
from vramfit._planner.sweep import curves

HEADER = Path(__file__).parents[1] / "examples" / "qwen2.5-14b-instruct-1m-q8_0.gguf"
AXES: dict[str, Any] = {
    "n_seq_max": [1, 2, 4, 8],
    "n_ubatch": [256, 512],
    "type_k": ["f16", "q8_0"],
    "file_types": ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS"],
}
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def run(model: vramfit.Model, points: int) -> tuple[vramfit.Sweep, float, float]:
    """One sweep of at least so many points, its seconds, and those of the processor."""
    rest = 4 * 2 * 2 * 5
    n_ctx = np.linspace(256, 262144, -(-points // rest)).astype(np.int64)
    start, busy = time.perf_counter(), time.process_time()
    found = vramfit.sweep(
        model, "3090ti,3060-12gb", vramfit.Settings(flash_attn="on", n_outputs_max=1), n_ctx=n_ctx, **AXES
    )
    return found, time.perf_counter() - start, time.process_time() - busy


def learning(model: vramfit.Model) -> float:
    """Seconds of the processor that the compute buffers of a small sweep take to learn."""
    spent, count = 0.0, 0
    real = curves.learn

    def timed(*args: Any) -> Any:
        nonlocal spent, count
        start = time.process_time()
        found = real(*args)
        spent, count = spent + time.process_time() - start, count + 1
        return found

    curves.learn = timed  # type: ignore[assignment]
    try:
        run(model, 10_000)
    finally:
        curves.learn = real
    print(f"one curve: {spent / count * 1e3:.2f} ms; learned in a sweep: {count}")
    return spent


def main() -> None:
    model = vramfit.read(sys.argv[1] if len(sys.argv) > 1 else HEADER)
    spent = learning(model)
    print(
        f"{'points':>10} {'seconds':>9} {'processor':>10} {'of it learning':>15} {'exact':>7} {'bytes/point':>12} {'peak/point':>11}"
    )
    for size in SIZES:
        found, seconds, busy = min((run(model, size) for _ in range(3)), key=lambda three: three[1])
        tracemalloc.start()
        run(model, size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        n = len(found)
        print(
            f"{n:>10,} {seconds:>9.3f} {busy:>10.3f} {min(1, spent / busy):>15.0%} {found.columns['exact'].mean():>7.2%}"
            f" {found.nbytes / n:>12.1f} {peak / n:>11.1f}"
        )


if __name__ == "__main__":
    main()
