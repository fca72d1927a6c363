"""What the engine allocates for embeddings and reranking: the record that the tests compare with.

    python -m tools.engine.pooling tests/data/pooling/rows.json

For each header of `tests/data/builders` that is named here and each command line of `LINES`: bytes of weights, context and
compute, devices first, the host last; or why the engine refuses it. What llama-server makes of its flags is written out
beside each line, so that nothing of the library is asked (server.cpp:150, server-context.cpp:41).
"""

from __future__ import annotations

import gzip
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Final

from .measure import measure_all

__all__ = ["CARDS_MIB", "HEADERS", "LINES", "jobs"]

FOLDER: Final = pathlib.Path(__file__).parents[2] / "tests" / "data" / "builders"
# Encoders, a reranker, decoders that pool, dense layers behind the pooling, both sides of T5.
HEADERS: Final = (
    "bert", "bert.bge-reranker-v2-m3", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed",
    "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "qwen3", "qwen3vl", "t5", "t5encoder",
)  # fmt: skip
CARDS_MIB: Final = (80000, 80000)
_ALL: Final = {"n_ctx": 2048, "compute_capability": 8.6}
_FOUR: Final = {"n_seq_max": 4, "kv_unified": True}
_ONE: Final = {"n_seq_max": 1, "kv_unified": False}
# Flags behind `-c 2048`; cards; what the server asks of the engine.
LINES: Final[dict[str, tuple[int, dict[str, Any]]]] = {
    "--embeddings": (1, {**_FOUR, "n_batch": 512, "embeddings": True, "n_outputs_max": 512}),
    "--embeddings --pooling none -fa off": (1, {**_FOUR, "n_batch": 512, "embeddings": True, "pooling_type": 0, "n_outputs_max": 512,
                                               "flash_attn": "off"}),
    "--embeddings --pooling mean -fa on": (1, {**_FOUR, "n_batch": 512, "embeddings": True, "pooling_type": 1, "n_outputs_max": 512,
                                              "flash_attn": "on"}),
    "--embeddings --pooling mean -np 3 -kvu": (1, {"n_seq_max": 3, "kv_unified": True, "n_batch": 512, "embeddings": True,
                                                   "pooling_type": 1, "n_outputs_max": 512}),
    "--embeddings --pooling cls -ub 64 -ts 1,1": (2, {**_FOUR, "n_batch": 64, "n_ubatch": 64, "embeddings": True, "pooling_type": 2,
                                                     "n_outputs_max": 64, "tensor_split": [1, 1]}),
    "--embeddings --pooling last -np 1 -b 128": (1, {**_ONE, "n_batch": 128, "embeddings": True, "pooling_type": 3,
                                                     "n_outputs_max": 128}),
    "--rerank -ts 1,1 -fa off": (2, {**_FOUR, "n_batch": 512, "embeddings": True, "pooling_type": 4, "n_outputs_max": 512,
                                     "tensor_split": [1, 1], "flash_attn": "off"}),
    "--rerank -np 2": (1, {"n_seq_max": 2, "n_batch": 512, "embeddings": True, "pooling_type": 4, "n_outputs_max": 512}),
    "--pooling cls": (1, {**_FOUR, "pooling_type": 2, "n_outputs_max": 2048}),
    "--pooling none": (1, {**_FOUR, "pooling_type": 0, "n_outputs_max": 4}),
}  # fmt: skip


def jobs(folder: pathlib.Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Header, line and job of each row; headers are unpacked into `folder`."""
    for name in HEADERS:
        path = folder / f"{name}.gguf"
        path.write_bytes(gzip.decompress((FOLDER / f"{name}.gguf.gz").read_bytes()))
        for line, (n, told) in LINES.items():
            cards = list(CARDS_MIB[:n])
            yield name, line, {"file": str(path), "gpus_mib": cards, "settings": {**_ALL, **told}}


def main(out: str) -> None:
    """Measure every row."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        asked = list(jobs(pathlib.Path(folder)))
        for (name, line, _), found in zip(asked, measure_all(job for _, _, job in asked), strict=True):
            bytes_ = [
                [d["model"], d["context"], d["compute"]]
                for d in (*found.get("gpus", ()), found.get("host", {}))
                if d
            ]
            rows.setdefault(name, {})[line] = bytes_ or "refused"
    lines = ",\n".join(f'"{name}":{json.dumps(row, separators=(",", ":"))}' for name, row in rows.items())
    pathlib.Path(out).write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
