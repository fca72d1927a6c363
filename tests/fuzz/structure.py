"""Structure-aware fuzzing of everything behind the header: a header that is well-formed and says what cannot be.

    python -m tests.fuzz.structure --runs 50000 --seed 1 --out found

A seed is taken apart into keys and tensors, some of them are changed, and the bytes are put together again. Each is
read, estimated, planned, compared and requantized: whatever comes back, or a `VramfitError`, within two seconds of
processor time each. What breaks that is written to `--out`, once a place in the code, with what happened beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import gguf_bytes as raw  # noqa: E402

ROOT = Path(__file__).parents[2]
SECONDS = 2.0  # of processor time, for any one step
MEMORY = 4 << 30  # of address space: more is a `MemoryError`
HANGS = 20.0  # when a step is broken off
LONGEST_ARRAY = 256  # of a seed: what a model's numbers come from is shorter
SMALL = 150  # tensors of a seed: what a change breaks shows in few layers, and in a tenth of the time
LARGE_EVERY = 12  # headers, of which one is made of a larger seed
WIDTHS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?",
          "u64": "Q", "i64": "q", "f64": "d"}  # fmt: skip
TYPE_IDS = (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 24, 26, 30, 39, 40, 4, 99)
NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 511, 512, 513, 1000, 1024, 4095,
           4096, 65535, 65536, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, -1)  # fmt: skip
REALS = (0.0, -0.0, 1.0, -1.0, 1e-40, 1e38, -1e38, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "llama", "qwen2", "none", "yarn", "linear", "longrope", "x" * 300, "\x1b[31m\n\u202e", "0", "16")


@dataclass
class Key:
    """One key: `value` is a number, a text, or a list for an array of `type`."""

    name: str
    type: str
    value: Any

    def packed(self) -> bytes:
        if not isinstance(self.value, list):
            return raw.key(self.name, self.type, _value(self.type, self.value))
        body = b"".join(_value(self.type, x) for x in self.value)
        return raw.key(self.name, "arr", raw.array(self.type, len(self.value), body))


def _value(type_: str, value: Any) -> bytes:
    """The value, made to fit the type."""
    if type_ == "str":
        return raw.string(str(value).encode("utf-8", "replace"))
    if isinstance(value, str):
        value = len(value)
    if type_ in ("f32", "f64"):
        value = float(value)
        if type_ == "f32" and abs(value) > 3e38 and value not in (float("inf"), float("-inf")):
            value = 3e38
        return struct.pack("<" + WIDTHS[type_], value)
    if type_ == "bool":
        return bytes([bool(value)])
    whole = int(value) if value == value and abs(value) != float("inf") else 0
    bits = 8 * struct.calcsize(WIDTHS[type_])
    return (whole % (1 << bits)).to_bytes(bits // 8, "little")


@dataclass
class Draft:
    """A header taken apart."""

    keys: list[Key]
    tensors: list[tuple[str, list[int], int]]
    n_kv: int = 0  # what the counts lie by
    n_tensors: int = 0
    tail: int = 0  # bytes cut off
    shift: int = 0  # what offsets are wrong by

    def copy(self) -> Draft:
        keys = [
            Key(k.name, k.type, list(k.value) if isinstance(k.value, list) else k.value) for k in self.keys
        ]
        return Draft(keys, [(n, list(s), t) for n, s, t in self.tensors])

    def packed(self) -> bytes:
        """The bytes; offsets are those that the shapes and types make."""
        from vramfit._ggml.types import BY_ID

        tensors, at = [], 0
        for name, shape, type_id in self.tensors:
            dims = [min(max(n, -(2**63)), 2**63 - 1) for n in shape]
            encoded = name.encode("utf-8", "replace")[:80]
            tensors.append(raw.tensor(encoded, dims, type_id, min(at + self.shift, 2**64 - 1)))
            known = BY_ID.get(type_id)
            if known and dims and dims[0] % known.block == 0 and min(dims) >= 0:
                size = dims[0] // known.block * known.block_bytes
                for n in dims[1:]:
                    size *= n
                at += -(-size // 32) * 32
            at = min(at, 2**62)
        data = raw.file(
            [k.packed() for k in self.keys], tensors, n_kv=len(self.keys) + self.n_kv,
            n_tensors=len(tensors) + self.n_tensors,
        )  # fmt: skip
        return data[: len(data) - self.tail] if self.tail else data


def taken_apart(data: bytes) -> Draft:
    """The draft of a sound header; long arrays are cut, which models do not depend on beyond their length."""
    from vramfit import _gguf as header

    found = header.parse(data)
    keys = []
    for name, value in found.metadata.items():
        if isinstance(value, header.Array):
            keys.append(Key(name, value.type, list(value)[:LONGEST_ARRAY]))
        else:
            keys.append(Key(name, found.types[name], value))
    return Draft(keys, [(t.name, list(t.shape), t.type.id) for t in found.tensors])


# Changes.


def change(draft: Draft, dice: random.Random, others: list[Draft]) -> Draft:
    """One to four changes; most of a draft stays as it is."""
    found = draft.copy()
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 4))):
        dice.choice(CHANGES)(found, dice, others)
    return found


def _key(draft: Draft, dice: random.Random) -> Key | None:
    return dice.choice(draft.keys) if draft.keys else None


def _number(dice: random.Random, old: Any) -> Any:
    kind = dice.randrange(4)
    if kind == 0 or not isinstance(old, int | float):
        return dice.choice(NUMBERS)
    if kind == 1 and isinstance(old, float):
        return dice.choice(REALS)
    return dice.choice(
        (old + 1, old - 1, old * 2, old // 2 if old == old and abs(old) < 1e300 else 0, -old, old + 7)
    )


def drop_key(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    if draft.keys:
        del draft.keys[dice.randrange(len(draft.keys))]


def other_value(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    key = _key(draft, dice)
    if key is None:
        return
    if isinstance(key.value, list):
        if key.value:
            at = dice.randrange(len(key.value))
            key.value[at] = _number(dice, key.value[at]) if key.type != "str" else dice.choice(TEXTS)
    elif key.type == "str":
        key.value = dice.choice(TEXTS)
    elif key.type == "bool":
        key.value = not key.value
    elif key.type in ("f32", "f64") and dice.random() < 0.6:
        key.value = dice.choice(REALS)
    else:
        key.value = _number(dice, key.value)


def other_type(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    key = _key(draft, dice)
    if key is not None:
        key.type = dice.choice((*WIDTHS, "str"))


def array_of_one(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    """A number becomes an array over layers, or of a wrong length."""
    key = _key(draft, dice)
    if key is not None and not isinstance(key.value, list):
        n = next(
            (k.value for k in draft.keys if k.name.endswith(".block_count") and isinstance(k.value, int)), 4
        )
        length = dice.choice((n, n, n, n + 1, n - 1, 0, 1, 513))
        key.value = [key.value] * max(0, min(length, 2000))
        if key.value and dice.random() < 0.6:
            key.value[dice.randrange(len(key.value))] = _number(dice, key.value[0])


def other_length(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    arrays = [k for k in draft.keys if isinstance(k.value, list)]
    if arrays:
        key = dice.choice(arrays)
        key.value = dice.choice(
            (key.value[:-1], key.value[1:], key.value * 2, [], key.value[:1], key.value[0:1] * 600)
        )[:4096]


def foreign_key(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    """A key of another model, under this one's architecture."""
    other = dice.choice(others)
    key, mine = _key(other, dice), _architecture(draft)
    if key is None:
        return
    name = key.name.replace(_architecture(other), mine, 1) if dice.random() < 0.8 else key.name
    draft.keys = [k for k in draft.keys if k.name != name]
    draft.keys.append(Key(name, key.type, list(key.value) if isinstance(key.value, list) else key.value))


def other_architecture(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    """The same keys under another name."""
    old, new = _architecture(draft), _architecture(dice.choice(others))
    for key in draft.keys:
        if key.name == "general.architecture":
            key.value = new
        elif key.name.startswith(f"{old}."):
            key.name = f"{new}.{key.name[len(old) + 1 :]}"


def _architecture(draft: Draft) -> str:
    return next((str(k.value) for k in draft.keys if k.name == "general.architecture"), "llama")


def twice(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    if dice.random() < 0.5 and draft.keys:
        draft.keys.append(dice.choice(draft.keys))
    elif draft.tensors:
        draft.tensors.append(dice.choice(draft.tensors))


def lie(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    """Counts, offsets or an end that are wrong."""
    kind = dice.randrange(4)
    if kind == 0:
        draft.n_kv += dice.choice((-1, 1, 5, 2**20, 2**62))
    elif kind == 1:
        draft.n_tensors += dice.choice((-1, 1, 5, 2**20, 2**62))
    elif kind == 2:
        draft.tail = dice.randrange(1, 200)
    else:
        draft.shift = dice.choice((32, 1, 2**40, 2**63))


def drop_tensor(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    if draft.tensors:
        del draft.tensors[dice.randrange(len(draft.tensors))]


def rename(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    if not draft.tensors:
        return
    at = dice.randrange(len(draft.tensors))
    name, shape, type_id = draft.tensors[at]
    other = dice.choice(dice.choice(others).tensors or [("x", [1], 0)])[0]
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) > 2 and dice.random() < 0.5:
        other = ".".join(("blk", str(dice.choice((0, 1, 2, 511, 512, 9999, 10**12))), *parts[2:]))
    draft.tensors[at] = (dice.choice((other, name + ".bias", dice.choice(TEXTS))), shape, type_id)


def reshape(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    if not draft.tensors:
        return
    chosen = dice.choice(draft.tensors)[0]
    for shape_ in [shape for name, shape, _ in draft.tensors if name == chosen or dice.random() < 0.02]:
        at = dice.randrange(max(1, len(shape_)))
        kind = dice.randrange(5)
        if kind == 0:
            shape_.reverse()
        elif kind == 1 and len(shape_) < 5:
            shape_.append(dice.choice((1, 2, 0)))
        elif kind == 2 and len(shape_) > 1:
            shape_.pop()
        elif shape_:
            shape_[at] = dice.choice(
                (shape_[at] + 1, shape_[at] * 2, shape_[at] // 2, *NUMBERS[:12], 2**31, 2**40, 2**62)
            )


def retype(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    """One tensor of another type, or all of a kind."""
    if not draft.tensors:
        return
    at, type_id = dice.randrange(len(draft.tensors)), dice.choice(TYPE_IDS)
    end = draft.tensors[at][0].rpartition(".blk.")[2].split(".", 2)[-1]
    for i, (name, shape, old) in enumerate(draft.tensors):
        if i == at or (name.endswith(end) and dice.random() < 0.5):
            draft.tensors[i] = (name, shape, type_id if len(shape) > 1 or i == at else old)


def consistent(draft: Draft, dice: random.Random, others: list[Draft]) -> None:
    """One size changed wherever it stands, in keys and tensors alike: a strange model that may well be sound."""
    sizes = [n for _, shape, _ in draft.tensors for n in shape if n > 1]
    if not sizes:
        return
    old = dice.choice(sizes)
    new = dice.choice((old * 2, old // 2, old + 32, old * 3, max(old // 4, 1), old + 256, old * 8))
    for _, shape, _ in draft.tensors:
        shape[:] = [new if n == old else n for n in shape]
    for key in draft.keys:
        if isinstance(key.value, int) and not isinstance(key.value, bool) and key.value == old:
            key.value = new


Change = Callable[[Draft, random.Random, "list[Draft]"], None]
CHANGES: tuple[Change, ...] = (
    drop_key, other_value, other_value, other_value, other_value, other_type, array_of_one, array_of_one, other_length,
    foreign_key, foreign_key, other_architecture, twice, lie, drop_tensor, rename, reshape, reshape, retype, retype,
    consistent, consistent, consistent,
)  # fmt: skip


# What is done with each.


@dataclass
class Seen:
    """What came of the runs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)


class Hang(BaseException):
    """A step took too long, and was broken off."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Hang(f"broken off after {HANGS} s")


def steps(data: bytes, dice: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The steps for one header, each of which may fail with a `VramfitError`; later ones use what the first gave."""
    import vramfit

    made: dict[str, Any] = {}

    def read() -> None:
        made["model"] = vramfit.read(data)

    yield "read", read
    if "model" not in made:
        return
    model, how = made["model"], options(dice)
    yield "settings", lambda: made.update(settings=vramfit.Settings(**how))
    cards = vramfit.parse_gpus(
        dice.choice(("3060", "2x4090", "24GiB,8GiB", "3090ti,3060,6GiB", "2GiB", "none", "m4 max 64gb"))
    )
    settings = made["settings"]
    yield "estimate", lambda: vramfit.estimate(model, cards, settings)
    yield "plan", lambda: vramfit.plan(model, cards, settings, margin_bytes=dice.choice((0, 1 << 30)))
    types = dice.sample(("Q8_0", "Q4_K_M", "IQ2_XS", "F16", "MXFP4_MOE", "Q2_K"), 2)
    yield (
        "compare",
        lambda: vramfit.compare(model, cards, settings, file_types=types[:1], cache_types=["f16"]),
    )
    yield "requantize", lambda: vramfit.requantize(model, types[1])
    yield "show", lambda: show(model)


def show(model: Any) -> None:
    from vramfit._report.describe import model_json, model_text

    for text in (model_text(model), model_json(model)):
        assert all(line.isprintable() for line in text.split("\n")), "what is printed is not printable"


def options(dice: random.Random) -> dict[str, Any]:
    """Settings that people use, and a few that they do not."""
    types = ("f16", "f16", "q8_0", "q4_0", "f32", "iq4_nl")
    return {
        "n_ctx": dice.choice((0, 512, 4096, 8192, 65536)),
        "n_ubatch": dice.choice((512, 512, 128, 2048, 1)),
        "n_seq_max": dice.choice((1, 1, 1, 4)),
        "kv_unified": dice.random() < 0.3,
        "flash_attn": dice.choice(("auto", "on", "off")),
        "type_k": dice.choice(types),
        "type_v": dice.choice(types),
        "n_gpu_layers": dice.choice((-1, -1, -1, 0, 3)),
        "offload_kqv": dice.random() < 0.9,
        "n_outputs_max": dice.choice((0, 1)),
    }


def check(data: bytes, seed: int, seen: Seen) -> tuple[str, str] | None:
    """Run all steps; the first fault as its place and its text, or None."""
    from vramfit._base.errors import VramfitError

    for name, step in steps(data, random.Random(seed)):
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, HANGS)
        try:
            step()
            seen.outcomes[f"{name}: done"] += 1
        except VramfitError as e:
            seen.outcomes[f"{name}: {type(e).__name__}"] += 1
            if not str(e).replace("\n  ", "").isprintable():
                return f"{name}: error not printable", repr(str(e))
        except (Exception, Hang) as e:
            frames = traceback.extract_tb(e.__traceback__)
            where = frames[-2 if isinstance(e, Hang) else -1]
            return (
                f"{name}: {type(e).__name__} at {Path(where.filename).name}:{where.lineno}",
                traceback.format_exc(),
            )
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        took = time.process_time() - start
        seen.slowest[name] = max(seen.slowest.get(name, 0.0), took)
        if took > SECONDS:
            return f"{name}: slow", f"{name} took {took:.1f} s of processor time"
    return None


def drafts() -> list[Draft]:
    """The examples, and the engine's own small models of each architecture where they are at hand."""
    paths = sorted((ROOT / "examples").glob("*.gguf"))
    paths += sorted((ROOT.parent / "shared/engine-truth").glob("*/*.gguf"))
    return [taken_apart(path.read_bytes()) for path in paths]


def run(n: int, seed: int, out: Path | None, seen: Seen | None = None) -> Seen:
    """Check `n` changed headers; write each new fault to `out`."""
    seen = seen or Seen()
    signal.signal(signal.SIGPROF, _stop)
    seeds = drafts()
    small = [draft for draft in seeds if len(draft.tensors) <= SMALL] or seeds
    start = time.monotonic()
    for i in range(n):
        if i % 1000 == 0:
            print(f"{i:,} runs, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        dice = random.Random(f"{seed}:{i}")
        data = change(dice.choice(small if i % LARGE_EVERY else seeds), dice, seeds).packed()
        fault = check(data, i, seen)
        if fault is None:
            continue
        place, text = fault
        seen.faults[place] = seen.faults.get(place, 0) + 1
        if out is not None and seen.faults[place] == 1:
            out.mkdir(parents=True, exist_ok=True)
            stem = f"{seed}-{i}"
            (out / f"{stem}.gguf").write_bytes(data)
            (out / f"{stem}.txt").write_text(
                f"{place}\nsettings of random.Random({i})\n{text}\n", encoding="utf-8"
            )
            print(f"{stem}: {place}", flush=True)
    return seen


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--runs", type=int, default=1000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, default=Path("fuzz-found"))
    asked.add_argument(
        "--replay", type=Path, help="check one file that was written, by the number in its name"
    )
    given = asked.parse_args()
    if given.replay:
        signal.signal(signal.SIGPROF, _stop)
        print(check(given.replay.read_bytes(), int(given.replay.stem.partition("-")[2] or 0), Seen()))
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    start = time.monotonic()
    seen = run(given.runs, given.seed, given.out)
    print(json.dumps({
        "runs": given.runs, "seed": given.seed, "seconds": round(time.monotonic() - start),
        "outcomes": dict(sorted(seen.outcomes.items())), "slowest": {k: round(v, 2) for k, v in seen.slowest.items()},
        "faults": seen.faults,
    }, indent=1))  # fmt: skip
    sys.exit(1 if seen.faults else 0)


if __name__ == "__main__":
    main()
