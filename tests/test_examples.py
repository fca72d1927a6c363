"""The examples run: the notebook in a kernel, the sweep over a folder on Dask's local cluster."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytestmark = pytest.mark.oracle
EXAMPLES = Path(__file__).parents[1] / "examples"


def test_notebook_runs() -> None:
    """Every cell runs, in order, in a fresh kernel; results show themselves as HTML and as pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the notebook tools among themselves
        import nbformat
        from nbclient import NotebookClient

        notebook = nbformat.read(EXAMPLES / "quantization_tradeoffs.ipynb", as_version=4)
        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
        ).execute()
    shown = [
        kind for cell in notebook.cells for out in cell.get("outputs", ()) for kind in out.get("data", ())
    ]
    assert shown.count("text/html") == 4  # a plan, a comparison, a sweep, a frame
    assert shown.count("image/png") == 3


def test_sweep_over_a_folder_on_dask(tmp_path: Path) -> None:
    """Two workers sweep every header of a folder; a file that is no model is named and left out."""
    for name in ("gemma-3-12b-q4_k_m.gguf", "qwen2.5-14b-instruct-1m-q8_0.gguf"):
        shutil.copy(EXAMPLES / name, tmp_path)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03")
    command = [
        sys.executable, str(EXAMPLES / "dask_sweep.py"), str(tmp_path), "--gpus", "24GiB", "--gpus", "3090ti,3060-12gb",
        "--file-types", "Q4_K_M", "--cache-types", "q8_0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len({(row["model"], row["gpus"]) for row in rows}) == len(rows) == 4
    assert all(int(row["n_ctx"]) >= 256 for row in rows)
    assert any(line.startswith(f"{tmp_path / 'broken.gguf'}: ") for line in done.stderr.splitlines())
