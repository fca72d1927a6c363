"""What the engine allocates, in the shape of an engine-truth row.

`measure(header, gpus_mib, settings)` runs in this process; the engine ends a process on a failed
assertion, so long runs go through `measure_all`, which keeps a worker process and replaces it when it
dies. Weights and context are the engine's memory breakdown, compute is what its scheduler has reserved
after the three passes of a context's start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO

from .load import Refused, load

Row = dict[str, Any]
RECYCLE = 500  # jobs for one worker, so that what the engine leaks stays small


def measure(header: str | os.PathLike[str], gpus_mib: Sequence[int], settings: dict[str, Any]) -> Row:
    """`n_ctx`, `gpus` and `host` with bytes of model, context and compute; or `refused` with the reason."""
    try:
        with load(header, gpus_mib, **settings) as context:
            *gpus, host = context.breakdown()
            return {"n_ctx": context.n_ctx, "gpus": gpus, "host": host}
    except Refused as refused:
        return {"refused": str(refused)}


def measure_all(jobs: Iterable[Row]) -> Iterator[Row]:
    """A result for each job (`file`: path of a header, `gpus_mib`, `settings`), in order.

    A job that ends the process yields `died` with the last words of the engine.
    """
    worker, left = None, 0
    for job in jobs:
        if worker is None or not left:
            _end(worker)
            worker, left = _start(), RECYCLE
        left -= 1
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        if line:
            yield json.loads(line)
        else:
            words = worker.stderr.read().strip() if worker.stderr else ""
            _end(worker)
            worker = None
            yield {"died": words.splitlines()[-1] if words else "no last words"}
    _end(worker)


def _start() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.engine", "worker"]
    return subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _end(worker: subprocess.Popen[str] | None) -> None:
    if worker is not None:
        worker.communicate()


def serve(jobs: TextIO, results: TextIO, does: Callable[[Row], Row]) -> None:
    """The worker's side: one JSON job a line in, one JSON result a line out."""
    for line in jobs:
        results.write(json.dumps(does(json.loads(line))) + "\n")
        results.flush()
