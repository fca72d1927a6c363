"""Random models and random settings: rows at dimensions that no fixture has.

`write_rows(folder, architectures, seed)` fills `folder` as `compare.py --base folder` wants it: headers
under `arch/`, rows in `rows-arch.jsonl.gz`. Every dimension is drawn alone; where an architecture ties
two, the engine refuses, and the next draw ties more.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .load import Refused
from .measure import Row, measure, measure_all
from .metadata import Dims
from .models import DENSE_OR_MIXTURE, MIXTURES, make_model

# Groups of tensors that a file may lack; one that the engine needs makes it refuse, and is kept.
OPTIONAL = (
    r"\.(?:input_)?scale$", r"\.bias$", r"attn_[qk]_norm", r"^output\.weight$", r"^rope_f|\.rope_f",
    r"exp_probs_b", r"attn_sinks", r"_shexp", r"ffn_gate\.weight", r"attn_norm_2", r"^cls", r"post_.*norm",
)  # fmt: skip
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k", "iq4_xs")
GPUS_MIB: tuple[list[int], ...] = (
    [], [1000000], [1000000], [1000000], [24564, 12288], [12288, 24564], [8192, 16384], [24564, 24564],
    [24564, 12288, 8192], [16384] * 4, [24564, 24564, 12288, 12288], [10240, 24564, 8192, 6144, 16384],
)  # fmt: skip
CACHE_TYPES = ("f16", "f32", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
CAPABILITIES = ("6.1", "7.0", "7.5", "8.6", "8.6", "8.6", "8.9", "9.0", "12.0")
FREEDOMS = 4
ATTEMPTS = 4  # at a model, with other draws; some end the process


@dataclass(frozen=True, slots=True)
class Model:
    """A header that the engine loads."""

    architecture: str
    path: pathlib.Path
    dims: Dims
    experts: bool
    without: tuple[str, ...]


def draw_dims(rng: random.Random, ties: int) -> Dims:
    """Dimensions; `ties` 0 ties none, 1 the value's head size to the key's, 2 the width to the heads,
    3 the KV heads to the heads.
    """
    head_k = rng.choice((32, 48, 64, 64, 80, 96, 112, 128, 128, 160, 256))
    n_head = rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24))
    n_embd = n_head * head_k if ties >= 2 else 32 * rng.randrange(4, 100)
    n_head_kv = n_head if ties >= 3 else rng.choice([k for k in range(1, n_head + 1) if n_head % k == 0])
    n_expert = rng.choice((4, 8, 16, 40, 64, 128))
    mla_rot = rng.choice((16, 32, 64))
    dt_rank = rng.choice((4, 8, 12, 16))
    return Dims(
        n_embd=n_embd,
        n_layer=rng.choice((2, 3, 4, 5, 6, 7, 9, 12, 24, 26, 30, 36)),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_k=head_k,
        head_v=head_k if ties else rng.choice((32, 64, 96, 128, head_k)),
        n_rot=rng.choice((head_k, head_k, head_k // 2)) if not ties else head_k,
        n_ff=32 * rng.randrange(4, 150),
        n_vocab=rng.choice((128, 1001, 5000, 32000, 50257, 100352, 151936, 262144)),
        n_ctx_train=rng.choice((512, 4096, 8192, 32768, 131072)),
        window=rng.choice((64, 128, 500, 512, 1024, 2048, 4096)),
        period=rng.choice((2, 3, 4, 6)),
        n_expert=n_expert,
        n_expert_used=rng.randrange(1, 9) if n_expert > 8 else rng.randrange(1, n_expert),
        n_expert_shared=rng.choice((1, 1, 2)),
        n_ff_exp=32 * rng.randrange(2, 60),
        n_ff_shexp=32 * rng.randrange(2, 60),
        n_dense_lead=rng.choice((0, 1, 1, 2)),
        q_lora=32 * rng.randrange(2, 24),
        kv_lora=rng.choice((64, 128, 256, 512)),
        mla_rot=mla_rot,
        mla_k=mla_rot + rng.choice((32, 64, 96, 128)),
        mla_v=rng.choice((32, 64, 96, 128)),
        d_state=rng.choice((16, 32, 64, 128)),
        d_inner=dt_rank * rng.choice((32, 64, 128)),
        d_conv=rng.choice((3, 4, 4, 5)),
        dt_rank=dt_rank,
        n_group=rng.choice((1, 2, 4)),
        kda_head=rng.choice((32, 64, 128)),
        index_heads=rng.choice((4, 8, 16, 64)),
        index_size=rng.choice((32, 64, 128)),
        index_top_k=rng.choice((64, 512, 2048)),
        lora=rng.choice((16, 32, 64)),
    )


def draw_model(rng: random.Random, architecture: str, path: pathlib.Path, tries: int = 60) -> Model:
    """Write a header of random dimensions, types and optional tensors. Raises Refused when none loads."""
    experts = architecture in MIXTURES or (architecture in DENSE_OR_MIXTURE and rng.random() < 0.5)
    reason = ""
    for i in range(tries):
        dims = draw_dims(rng, i * FREEDOMS // tries)
        name = rng.choice(TYPES)
        for without in _leaner(rng):
            model = Model(architecture, path, dims, experts, without)
            try:
                _write(model, name)
                if "refused" not in (row := measure(path, [1000000], {"n_ctx": 512})):
                    return model
                reason = row["refused"]
            except Refused as refused:
                reason = str(refused)
    raise Refused(reason)


def _leaner(rng: random.Random) -> Iterator[tuple[str, ...]]:
    """Optional tensors to leave out: a random few, then ever fewer, then none."""
    groups = [OPTIONAL[0], *(g for g in OPTIONAL[1:] if rng.random() < 0.5)]
    while groups:
        yield tuple(groups)
        groups.pop(rng.randrange(len(groups)))
    yield ()


def _write(model: Model, types: str) -> None:
    make_model(
        model.architecture,
        model.path,
        model.dims,
        types=types,
        experts=model.experts,
        without="|".join(model.without),
    )


def draw_settings(rng: random.Random, gpus_mib: Sequence[int], dims: Dims, experts: bool) -> dict[str, Any]:
    """Settings of a row; only what differs from the engine's defaults."""
    s: dict[str, Any] = {
        "n_ctx": rng.choice(
            (512, 2048, 4096, 8192, 12345, 16384, 32768, 43008, 65536, rng.randrange(256, 140000))
        )
    }
    if rng.random() < 0.4:
        s["n_ubatch"] = rng.choice((16, 32, 64, 128, 256, 300, 1024, 2048))
    if rng.random() < 0.15:
        s["n_batch"] = rng.choice((128, 512, 1000, 4096))
    if rng.random() < 0.35:
        s |= {"n_seq_max": rng.choice((2, 3, 4, 8, 16)), "kv_unified": rng.random() < 0.5}
    if rng.random() < 0.65:
        s["n_outputs_max"] = s.get("n_seq_max", 1)
    if rng.random() < 0.85:
        s["flash_attn"] = rng.choice(("on", "on", "off", "auto"))
    if rng.random() < 0.35:
        s["type_k"] = rng.choice(CACHE_TYPES)
    if rng.random() < 0.3 and s.get("flash_attn") == "on":
        s["type_v"] = rng.choice((s.get("type_k", "f16"), rng.choice(CACHE_TYPES)))
    for name, value, share in (
        ("swa_full", True, 0.1),
        ("offload_kqv", False, 0.08),
        ("op_offload", False, 0.06),
    ):
        if rng.random() < share:
            s[name] = value
    if len(gpus_mib) and rng.random() < 0.25:
        s["n_gpu_layers"] = rng.randrange(0, dims.n_layer + 2)
    if len(gpus_mib) > 1:
        if rng.random() < 0.12:
            s["split_mode"] = "none"
        elif rng.random() < 0.5:
            s["tensor_split"] = [float(rng.randrange(0, 10)) for _ in gpus_mib]
            if not any(s["tensor_split"]):
                s["tensor_split"][0] = 1.0
    if experts and rng.random() < 0.15:
        layers = "|".join(map(str, range(rng.randrange(1, dims.n_layer + 1))))
        s["cpu_tensors"] = [rf"blk\.({layers})\.ffn_(up|down|gate|gate_up)_exps"]
    return s


def draw_rows(rng: random.Random, folder: pathlib.Path, model: Model, n: int) -> Iterator[Row]:
    """Measured rows of one model; what ends in a failed assertion is drawn again."""
    for _ in range(n):
        for _ in range(8):
            gpus = rng.choice(GPUS_MIB)
            settings = draw_settings(rng, gpus, model.dims, model.experts)
            capability = rng.choice(CAPABILITIES)
            row = measure(model.path, gpus, settings | {"compute_capability": capability})
            if not row.get("refused", "").startswith("aborted"):
                yield {
                    "file": str(model.path.relative_to(folder)),
                    "gpus_mib": gpus,
                    "settings": settings,
                    "compute_capability": capability,
                    **row,
                }
                break


def write_rows(
    folder: pathlib.Path, architectures: Sequence[str], seed: int, models: int, rows: int
) -> dict[str, str]:
    """Fill `folder`; the architectures that a model is missing of, with the engine's reason."""
    (folder / "arch").mkdir(parents=True, exist_ok=True)
    jobs: list[Row] = [
        {"draw": a, "folder": str(folder), "seed": f"{seed} {a} {i}", "number": i, "rows": rows}
        for a in architectures
        for i in range(models)
    ]
    failed = {}
    with gzip.open(folder / "rows-arch.jsonl.gz", "wt") as out:
        for attempt in range(ATTEMPTS):
            left = []
            for job, result in zip(jobs, measure_all(jobs), strict=True):
                for row in result.get("rows", ()):
                    out.write(json.dumps(row, separators=(",", ":")) + "\n")
                if reason := result.get("failed") or result.get("died"):
                    failed[job["draw"]] = reason
                    left.append(job | {"seed": f"{job['seed']} {attempt}"})
            jobs = left
    return {job["draw"]: failed[job["draw"]] for job in jobs}


def draw_rows_of_model(job: Row) -> Row:
    """One model with its rows: what a worker does for `write_rows`."""
    folder = pathlib.Path(job["folder"])
    rng = random.Random(job["seed"])
    path = folder / "arch" / f"{job['draw']}-{job['number']}.gguf"
    try:
        model = draw_model(rng, job["draw"], path)
    except Refused as refused:
        path.unlink(missing_ok=True)
        return {"failed": str(refused)}
    return {"rows": list(draw_rows(rng, folder, model, job["rows"]))}
