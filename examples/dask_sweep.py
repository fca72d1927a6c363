"""The same sweep over a folder of headers, on Dask: which models fit which cards, and how far.

    python examples/dask_sweep.py FOLDER --gpus 3060 --gpus 3090ti,3060-12gb --workers 4

Each header is read and swept by one worker, which sends back only the largest context that fits for each
combination: thousands of headers need little memory. With `--scheduler tcp://...` it runs on a cluster that is
already there. Prints one line of CSV a row. A file that is no model is reported and left out.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from dask.distributed import Client, LocalCluster, as_completed

import vramfit

Row = dict[str, object]
STEP, MOST = 4096, 131072  # contexts that are tried
FIELDS = ("model", "gpus", "file_type", "type_k", "n_ctx", "left", "exact")


def best(path: Path, gpu_sets: list[str], file_types: list[str], cache_types: list[str]) -> list[Row] | str:
    """The largest context that fits, for each set of cards, file type and cache type; or what is wrong."""
    try:
        model = vramfit.read(path)
    except vramfit.VramfitError as e:
        return str(e)
    most = min(model.n_ctx_train or STEP, MOST)
    found = vramfit.sweep(
        model,
        settings=vramfit.Settings(flash_attn="on" if model.flash_attn else "off", n_outputs_max=1),
        n_ctx=np.arange(STEP, max(STEP, most) + 1, STEP),
        replays=None,  # exact at every context
        type_k=cache_types,
        file_types=file_types,
        gpu_sets=gpu_sets,
    )
    return [{"model": path.name, **row} for row in found.largest()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpus", action="append", required=True, help="a set of cards; can be repeated")
    parser.add_argument("--file-types", default="Q8_0,Q4_K_M")
    parser.add_argument("--cache-types", default="f16,q8_0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scheduler", help="address of a cluster; default: one on this machine")
    options = parser.parse_args()

    paths = sorted(options.folder.rglob("*.gguf"))
    cluster = options.scheduler or LocalCluster(
        n_workers=options.workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    )
    out = csv.DictWriter(sys.stdout, FIELDS, extrasaction="ignore", lineterminator="\n")
    out.writeheader()
    with Client(cluster) as client:
        asked = (options.gpus, options.file_types.split(","), options.cache_types.split(","))
        names = {client.submit(best, path, *asked, pure=False): path for path in paths}
        for future in as_completed(names):
            found = future.result()
            if isinstance(found, str):
                print(f"{names[future]}: {found}", file=sys.stderr)
            else:
                out.writerows(found)
            future.release()
    if not options.scheduler:
        cluster.close()


if __name__ == "__main__":
    main()
