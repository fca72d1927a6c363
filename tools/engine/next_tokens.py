"""What the engine allocates for models with next-token layers: the record that the tests compare with.

    python -m tools.engine.next_tokens tests/data/company

For each `mtp-NAME.gguf.gz` of the folder and each case: bytes of weights, context and compute of the model with these layers
loaded and states to go back to, and bytes of context and compute of these layers' own context; devices first, the host last.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import sys
import tempfile
from typing import Any

__all__ = ["CASES", "N_MAX", "SLOTS", "measure"]

SLOTS, N_MAX = 2, 3
CASES: dict[str, dict[str, Any]] = {
    "one card": {"gpus_mib": [600000]},
    "two cards, no flash attention": {"gpus_mib": [600000, 600000], "flash_attn": "off"},
}


def measure(header: bytes, gpus_mib: list[int], flash_attn: str = "on") -> list[list[list[int]]]:
    """The model's devices, then those of its next-token layers. Raises Refused."""
    from .load import load

    told: dict[str, Any] = {
        "n_ctx": 8192, "n_seq_max": SLOTS, "flash_attn": flash_attn, "load_mtp": True,
        "tensor_split": [1] * len(gpus_mib),
    }  # fmt: skip
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        path = pathlib.Path(file.name)
        path.write_bytes(header)
        rows = SLOTS * (1 + N_MAX)
        with load(path, gpus_mib, n_rs_seq=N_MAX, n_outputs_max=rows, **told) as context:
            model = [[d["model"], d["context"], d["compute"]] for d in context.breakdown()]
        with load(path, gpus_mib, next_tokens=True, n_outputs_max=SLOTS, **told) as context:
            own = [[d["context"], d["compute"]] for d in context.breakdown()]
    return [model, own]


def main(folder: str) -> None:
    """Measure every header of a folder."""
    rows = {}
    for path in sorted(pathlib.Path(folder).glob("mtp-*.gguf.gz")):
        header = gzip.decompress(path.read_bytes())
        rows[path.name.partition(".")[0]] = {case: measure(header, **told) for case, told in CASES.items()}
    lines = ",\n".join(f'"{name}":{json.dumps(row, separators=(",", ":"))}' for name, row in rows.items())
    pathlib.Path(folder, "next_tokens.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
