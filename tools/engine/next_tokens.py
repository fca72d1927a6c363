"""What the engine allocates for models with next-token layers: the record that the tests compare with.

    python -m tools.engine.next_tokens tests/data/company

For each `mtp-NAME.gguf.gz` of the folder and each case: bytes of weights, context and compute of the model with these layers
loaded and states to go back to, and bytes of context and compute of these layers' own context; devices first, the host last.
`blocks.json` has, for models with several such layers that lie on two cards, the own context as each of them is reserved for.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["BLOCKS", "CASES", "N_MAX", "SLOTS", "measure", "measure_blocks"]

SLOTS, N_MAX = 2, 3
BLOCKS = 3  # of the models that have several
CASES: dict[str, dict[str, Any]] = {
    "one card": {"gpus_mib": [600000]},
    "two cards, no flash attention": {"gpus_mib": [600000, 600000], "flash_attn": "off"},
}


def measure(header: bytes, gpus_mib: list[int], flash_attn: str = "on") -> list[list[list[int]]]:
    """The model's devices, then those of its next-token layers. Raises Refused."""
    from .load import load

    told = _told([1] * len(gpus_mib), flash_attn)
    with _file(header) as path:
        rows = SLOTS * (1 + N_MAX)
        with load(path, gpus_mib, n_rs_seq=N_MAX, n_outputs_max=rows, **told) as context:
            model = [[d["model"], d["context"], d["compute"]] for d in context.breakdown()]
        with load(path, gpus_mib, next_tokens=True, n_outputs_max=SLOTS, **told) as context:
            own = [[d["context"], d["compute"]] for d in context.breakdown()]
    return [model, own]


def measure_blocks(header: bytes, n_layer: int) -> list[list[list[int]]]:
    """For each of two blocks the devices of the layers' own context, when the last layer is alone on the second card."""
    from .load import load

    found = []
    told = _told([n_layer - 1, 2], "on")
    with (
        _file(header) as path,
        load(path, [600000] * 2, next_tokens=True, n_outputs_max=SLOTS, **told) as context,
    ):
        for block in (0, BLOCKS - 1):
            context.run_block(block)
            found.append([[d["context"], d["compute"]] for d in context.breakdown()])
    return found


def _told(split: list[int], flash_attn: str) -> dict[str, Any]:
    return {
        "n_ctx": 8192, "n_seq_max": SLOTS, "flash_attn": flash_attn, "load_mtp": True, "tensor_split": split,
    }  # fmt: skip


@contextmanager
def _file(header: bytes) -> Iterator[pathlib.Path]:
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        path = pathlib.Path(file.name)
        path.write_bytes(header)
        yield path


def main(folder: str) -> None:
    """Measure every header of a folder."""
    from vramfit._gguf import parse

    rows, blocks = {}, {}
    for path in sorted(pathlib.Path(folder).glob("mtp-*.gguf.gz")):
        header, name = gzip.decompress(path.read_bytes()), path.name.partition(".")[0]
        rows[name] = {case: measure(header, **told) for case, told in CASES.items()}
        keys = parse(header, name=name).metadata
        n_layer, n = (
            keys.get(f"{keys['general.architecture']}.{k}") for k in ("block_count", "nextn_predict_layers")
        )
        if n == BLOCKS and isinstance(n_layer, int):
            blocks[name] = measure_blocks(header, n_layer)
    for file, found in (("next_tokens", rows), ("blocks", blocks)):
        lines = ",\n".join(
            f'"{name}":{json.dumps(row, separators=(",", ":"))}' for name, row in found.items()
        )
        pathlib.Path(folder, f"{file}.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
