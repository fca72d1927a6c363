"""What the engine allocates for drafts that read parts of their target's: the record that the tests compare with.

    python -m tools.engine.lent tests/data/company

For each `draft-NAME.gguf.gz` of the folder beside `target-NAME.gguf.gz` and each case: bytes of weights, context and compute of the
draft, its devices first, the host last, and bytes by which the target's buffers grow where it keeps the inputs of layers for the draft;
or "refused" where the engine stops.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import sys
import tempfile
from typing import Any, Final

__all__ = ["CARD_MIB", "CASES", "N_MAX", "SPEC_TYPES", "measure"]

CARD_MIB: Final = 600000
N_MAX: Final = 3
SPEC_TYPES: Final = {"eagle3": "draft-eagle3", "dflash": "draft-dflash", "assistant": "draft-mtp"}
# Cards; how many of them the draft may use; settings of both; the draft's own.
CASES: Final[dict[str, tuple[int, int, dict[str, Any], dict[str, Any]]]] = {
    "one card": (1, 1, {"flash_attn": "on"}, {}),
    "two slots, no flash attention": (1, 1, {"flash_attn": "off", "n_seq_max": 2}, {}),
    "two cards, one cache": (2, 2, {"flash_attn": "auto", "n_seq_max": 4, "kv_unified": True}, {}),
    "quantized caches of the target": (1, 1, {"flash_attn": "auto", "type_k": "q8_0", "type_v": "q8_0"}, {"type_k": "f16", "type_v": "f16"}),
    "part of the draft on the host": (1, 1, {"flash_attn": "auto", "n_ubatch": 64}, {"n_gpu_layers": 2}),
    "the target on the host": (1, 1, {"flash_attn": "on", "offload_kqv": False, "n_gpu_layers": 2}, {"n_gpu_layers": -1}),
    "the draft on the first of two cards": (2, 1, {"flash_attn": "on"}, {}),
}  # fmt: skip


# Layers of the target whose inputs a draft reads (`target_layers` of its header).
TAPS: Final = {"eagle3": (2, 16, 29), "dflash": (2, 10, 18, 26, 34), "assistant": ()}


def measure(folder: pathlib.Path, name: str, case: str) -> list[list[list[int]]] | str:
    """The draft's devices, and how much each of the target's grows; or "refused"."""
    from .load import Refused, load

    n, n_draft, both, own = CASES[case]
    rows = both.get("n_seq_max", 1) * (1 + N_MAX if name == "dflash" else 1)
    told = {"n_ctx": 8192, "load_mtp": name == "assistant", **both}
    with tempfile.TemporaryDirectory() as place:
        for part in ("target", "draft"):
            header = gzip.decompress((folder / f"{part}-{name}.gguf.gz").read_bytes())
            pathlib.Path(place, part).write_bytes(header)
        cards = [CARD_MIB] * n
        try:
            with load(pathlib.Path(place, "target"), cards, tensor_split=[1] * n, **told) as target:
                before = [d["compute"] for d in target.breakdown()]
                if TAPS[name]:
                    target.tap(TAPS[name])
                after = [d["compute"] for d in target.breakdown()]
                grown = [b - a for a, b in zip(before, after, strict=True)]
                drafting = {**told, "next_tokens": name == "assistant", "n_outputs_max": rows, **own}
                with load(
                    pathlib.Path(place, "draft"), cards[:n_draft], beside=target,
                    tensor_split=[1] * n_draft, **drafting,
                ) as draft:  # fmt: skip
                    return [[[d["model"], d["context"], d["compute"]] for d in draft.breakdown()], [grown]]
        except Refused:
            return "refused"


def main(folder: str) -> None:
    """Measure every pair under every case."""
    rows = {name: {case: measure(pathlib.Path(folder), name, case) for case in CASES} for name in SPEC_TYPES}
    lines = ",\n".join(f'"{name}":{json.dumps(row, separators=(",", ":"))}' for name, row in rows.items())
    pathlib.Path(folder, "lent.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
