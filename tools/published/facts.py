"""Facts about published models: the keys of their headers, and which tensors their files lack or have.

One JSON file an architecture, in `facts/`. `keys` at the top are those that all its models share; each model
adds its own. Layer arrays are written as runs (`{"runs": [[3, 0], [45, 1]]}`: three zeros, 45 ones) or
cycles (`{"cycle": [1, 1, 0], "length": 48}`). Whether a number is an integer, a float or a switch is the type
that the converter writes.

    by      `config`: the model's public configuration; `defaults`: the configuration class that `transformers` has
            for it, whose numbers may differ from the model's; `recalled`: well-known numbers, written from memory;
            `assumed`: some numbers only fit what is known of its size and family
    lacks   patterns of the tensors that the engine would load and the file does not have
    has     patterns of tensors that files seldom have (biases, fused projections, factors of RoPE), and this has
    adds    tensors that no key tells of, with their shapes: of a size that only the file knows (the vocabulary of
            a draft), or of blocks that the engine skips; with `output_norm.weight` among them, they are all
    type    what it is quantized to, where that is not `DEFAULT_TYPE`

Nothing here needs the engine or a network.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

FOLDER = pathlib.Path(__file__).with_name("facts")
DEFAULT_TYPE = "Q4_K_M"
CERTAINTY = ("config", "defaults", "recalled", "assumed")  # best first
_PLAIN = 4  # a list no longer than this stays as it is

Keys = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fact:
    """One published model."""

    architecture: str
    model: str  # a name for the file
    source: str  # the public name of the model
    by: str  # one of CERTAINTY
    keys: Keys  # without the architecture's prefix
    lacks: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    adds: Mapping[str, list[int]] = field(default_factory=dict)
    type: str = DEFAULT_TYPE

    @property
    def file_name(self) -> str:
        """What its header is called."""
        return f"{self.architecture}--{self.model}.gguf"


def facts(architecture: str = "") -> list[Fact]:
    """All facts, or those of one architecture, by architecture and in the order of the file."""
    names = [FOLDER / f"{architecture}.json"] if architecture else sorted(FOLDER.glob("*.json"))
    return [fact for path in names for fact in _read(path)]


def _read(path: pathlib.Path) -> Iterator[Fact]:
    text = json.loads(path.read_text())
    for model, own in text["models"].items():
        yield Fact(
            path.stem,
            model,
            own["source"],
            own["by"],
            {k: unpack(v) for k, v in (text.get("keys", {}) | own.get("keys", {})).items()},
            (*text.get("lacks", ()), *own.get("lacks", ())),
            (*text.get("has", ()), *own.get("has", ())),
            own.get("adds", {}),
            own.get("type", text.get("type", DEFAULT_TYPE)),
        )


def save(architecture: str, known: Sequence[Fact]) -> None:
    """Write the file of one architecture: what all models share once, then a line a model."""
    assert all(fact.architecture == architecture for fact in known)
    shared = _shared([fact.keys for fact in known])
    common = {
        "keys": {k: pack(v) for k, v in shared.items()},
        "lacks": _common(fact.lacks for fact in known),
        "has": _common(fact.has for fact in known),
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in common.items() if value]
    models = ",\n".join(
        f"  {json.dumps(fact.model)}: {json.dumps(_own(fact, shared, common))}" for fact in known
    )
    lines.append(' "models": {\n' + models + "\n }")
    (FOLDER / f"{architecture}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def keep(lines: Iterable[Mapping[str, Any]], by: str) -> list[Fact]:
    """Add facts from what `convert` prints, each in place of the one of its name; those that it could convert.

    What a file lacks or has beyond its tied output and its factors of RoPE is to be written by hand.
    """
    made = [_from_line(line, by) for line in lines if "keys" in line]
    for architecture in sorted({fact.architecture for fact in made}):
        path = FOLDER / f"{architecture}.json"
        known = {fact.model: fact for fact in (_read(path) if path.exists() else ())}
        known |= {fact.model: fact for fact in made if fact.architecture == architecture}
        save(architecture, list(known.values()))
    return made


def _from_line(line: Mapping[str, Any], by: str) -> Fact:
    factors = {"llama3": ("rope_freqs",), "longrope": ("rope_factors",), "su": ("rope_factors",)}
    return Fact(
        line["architecture"],
        re.sub(r"[^\w.+-]", "-", line["source"].rpartition("/")[2]),
        line["source"],
        by,
        line["keys"],
        (r"^output\.weight",) if line["tied"] else (),
        factors.get(line["rope"], ()),
    )


def _own(fact: Fact, shared: Keys, common: dict[str, Any]) -> dict[str, Any]:
    own: dict[str, Any] = {"source": fact.source, "by": fact.by}
    own["keys"] = {k: pack(v) for k, v in fact.keys.items() if k not in shared}
    own["lacks"] = [p for p in fact.lacks if p not in common["lacks"]]
    own["has"] = [p for p in fact.has if p not in common["has"]]
    own["adds"] = dict(fact.adds)
    own["type"] = "" if fact.type == DEFAULT_TYPE else fact.type
    return {name: value for name, value in own.items() if value}


def _shared(many: Sequence[Keys]) -> Keys:
    """The keys that have one value, of one type, in all."""
    first, *rest = many
    return {k: v for k, v in first.items() if all(k in o and _is_same(v, o[k]) for o in rest)}


def _is_same(a: Any, b: Any) -> bool:
    return json.dumps(a) == json.dumps(b)  # 1, 1.0 and true differ


def _common(many: Iterable[Sequence[str]]) -> list[str]:
    first, *rest = many
    return [pattern for pattern in first if all(pattern in other for other in rest)]


def pack(value: Any) -> Any:
    """A value as a file holds it: a long list as a cycle or as runs, whichever is shorter."""
    if not isinstance(value, list) or len(value) <= _PLAIN:
        return value
    forms: list[Any] = [{"runs": [[len(list(group)), v] for v, group in groupby(value)]}, value]
    for n in range(1, len(value) // 2 + 1):
        if all(value[i] == value[i % n] for i in range(len(value))):
            forms.append({"cycle": value[:n], "length": len(value)})
            break
    return min(forms, key=lambda form: len(json.dumps(form)))


def unpack(value: Any) -> Any:
    """The value that `pack` was given."""
    if not isinstance(value, dict):
        return value
    if "runs" in value:
        return [v for n, v in value["runs"] for _ in range(n)]
    return [value["cycle"][i % len(value["cycle"])] for i in range(value["length"])]
