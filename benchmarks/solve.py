"""Time of a plan, as layers and cards grow.

    python benchmarks/solve.py [HEADER...]

Prints the milliseconds of one `vramfit.plan` from nothing known (median of several, builder loaded): over a model
stretched to 16 … 128 layers on two cards, over 1 … 16 cards for 80 layers, and for each header named. Cards are
uneven, and share out one and a half times the memory of the weights, so that there is a split to be found and a
context to be limited. `loops` is how often a bare loop of the interpreter fits into the time, which does not depend
on the machine's speed. Then come all alternatives of a header, and the whole catalogue (`vramfit.trades`,
`vramfit.which`); last the shipped models together on cards that they share.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import vramfit
from vramfit._llama.model import Layer, Model, Tensor, Weight

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.gguf"))
LAYERS = (16, 32, 48, 64, 80, 96, 128)
CARDS = (1, 2, 3, 4, 6, 8, 12, 16)
LOOP = 100_000
SETTINGS = vramfit.Settings(flash_attn="on", n_outputs_max=1)


def stretched(model: Model, n_layer: int) -> Model:
    """`model` with its layers repeated, or cut off, until there are `n_layer`."""
    own = model.n_layer
    tensors: dict[str, Tensor] = {}
    weights: list[Weight] = [w for w in model.weights if not isinstance(w.home, int)]
    for il in range(n_layer):
        for weight in model.weights:
            if weight.home == il % own:
                name = re.sub(r"^blk\.\d+\.", f"blk.{il}.", weight.tensor.name)
                weights.append(weight._replace(tensor=replace(weight.tensor, name=name), home=il))
    for weight in weights:
        tensors.setdefault(weight.tensor.name, weight.tensor)
    layers: Iterator[Layer] = (replace(model.layers[il % own], index=il) for il in range(n_layer))
    return replace(model, weights=tuple(weights), tensors=tuple(tensors.values()), layers=tuple(layers))


def cards(model: Model, n: int) -> list[vramfit.Gpu]:
    """`n` uneven cards with room for one and a half times the weights beside what each sets aside."""
    shares = [2 + i % 3 for i in range(n)]
    room = model.tensor_bytes * 3 // 2
    sizes = [(room * s // sum(shares) + (2 << 30)) >> 20 << 20 for s in shares]
    return [vramfit.Gpu(name=f"gpu{i}", total_bytes=size) for i, size in enumerate(sizes)]


def median_ms(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def loop() -> None:
    for _ in range(LOOP):
        pass


def measure(name: str, model: Model, n: int, times: int, unit: float) -> None:
    gpus = cards(model, n)
    ms = median_ms(lambda: vramfit.plan(model, gpus, SETTINGS), times)
    found = vramfit.plan(model, gpus, SETTINGS)
    print(f"{name:<32} {model.n_layer:>6} {n:>5} {ms:>9.1f} {ms / unit:>7.1f}"
          f" {found.n_ctx:>9,}  {found.estimate.exact}")  # fmt: skip


TOGETHER = (
    ("two models", 2, "3090ti,3060-12gb"),
    ("three models", 3, "3090ti"),
    ("three models", 3, "3090ti,3060-12gb"),
    ("three models", 3, "2x4090"),
    ("three models", 3, "3090ti,2x3060-12gb"),
)
SHARING = (*EXAMPLES[::-1], ROOT / "examples/beside/qwen2.5-0.5b-instruct-q4_k_m.gguf")


def measure_together(unit: float) -> None:
    """The shipped models on cards that they share, at the contexts that they were trained for."""
    models = [vramfit.read(path) for path in SHARING]
    for name, n, gpus in TOGETHER:
        start = time.perf_counter()
        found = vramfit.plan(models[:n], gpus, SETTINGS)
        ms = 1000 * (time.perf_counter() - start)
        said = f"{len(found.loaded)} loaded, {'proved' if found.proved else 'not proved'}"
        print(f"{f'{name} on {gpus}':<46} {ms:>9.1f} {ms / unit:>7.1f}  {said}")


def measure_whole(name: str, model: Model, unit: float) -> None:
    """Every alternative on two cards, and every card and pair for the context that the plan finds."""
    gpus = cards(model, 2)
    found = vramfit.plan(model, gpus, SETTINGS)
    at = replace(SETTINGS, n_ctx=found.n_ctx)
    for what, work in (
        ("alternatives", lambda: vramfit.trades(model, gpus, SETTINGS)),
        ("which", lambda: vramfit.which(model, at)),
    ):
        ms = median_ms(work, 1)
        print(f"{f'{name} ({what})':<46} {ms:>9.1f} {ms / unit:>7.1f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("headers", nargs="*", type=Path, default=EXAMPLES)
    parser.add_argument("--layers", type=int, nargs="*", default=LAYERS)
    parser.add_argument("--cards", type=int, nargs="*", default=CARDS)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args(arguments)
    unit = median_ms(loop, 7)
    print(f"a bare loop of {LOOP:,} steps takes {unit:.2f} ms")
    print(f"{'header':<32} {'layers':>6} {'cards':>5} {'ms':>9} {'loops':>7} {'context':>9}  exact")
    for path in options.headers:
        model = vramfit.read(path)
        vramfit.plan(model, cards(model, 1), SETTINGS)  # loads the builder
        for n_layer in options.layers:
            measure(path.stem, stretched(model, n_layer), 2, options.times, unit)
        for n in options.cards:
            measure(path.stem, stretched(model, 80), n, options.times, unit)
        measure(path.stem, model, 2, options.times, unit)
        measure_whole(path.stem, model, unit)
    measure_together(unit)


if __name__ == "__main__":
    main()
