"""A public configuration as the keys that the engine's own converter writes for it.

    python tools/published/convert.py org--model.json... > lines.jsonl     # one line a configuration
    python -m tools.published keep lines.jsonl                             # and facts of them

The converter (`conversion/` in the engine's tree, LLAMA_CPP_SOURCE) runs up to its metadata, on a
configuration without weights: a stub stands for torch, and no tensor is indexed. Needs `transformers` at the
version that the converter asks for, `gguf` and `numpy`, and none of vramfit's dependencies; it serves to
make facts, which then need neither. A configuration that `transformers` does not know is taken as it is,
as the converter does; `"as_is": true` asks for that.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import sys
import tempfile
import types
from typing import Any
from unittest.mock import MagicMock

SOURCE_VARIABLE = "LLAMA_CPP_SOURCE"
_NOT_OURS = ("general.", "tokenizer.")  # names, texts and tokens: no sizes


class _Stub(types.ModuleType):
    """A module that has whatever is asked of it: classes for capitalized names, mocks for others."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {}) if name[0].isupper() else MagicMock(name=name)
        setattr(self, name, made)
        return made


def load_converter() -> Any:
    """The engine's `conversion` package, with a stub in torch's place."""
    from transformers import AutoConfig  # noqa: F401  (before the stub: it must not believe that torch is here)

    sys.path.insert(0, os.environ[SOURCE_VARIABLE])
    sys.modules["torch"] = _Stub("torch")
    import conversion

    return conversion


def keys(conversion: Any, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture, and its keys without the architecture's prefix, in the converter's order."""
    as_is = config.pop("as_is", False)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "config.json").write_text(json.dumps(config))
        values = config if as_is else conversion.ModelBase.load_hparams(folder, False)
        kind = conversion.ModelType.TEXT
        chosen = conversion.get_model_class(conversion.get_model_architecture(values, kind))
        chosen.index_tensors = lambda self, remote_hf_model_id=None: {}
        import gguf

        model = chosen(folder, gguf.LlamaFileType.MOSTLY_F16, folder / "x.gguf", hparams=values)
        model._get_suppress_tokens = list  # needs a tokenizer, and sizes nothing
        model.set_gguf_parameters()
    model = getattr(model, "impl", model)  # some delegate to the class that fits
    prefix = model.gguf_writer.arch + "."
    found = {k: v for shard in model.gguf_writer.kv_data for k, v in shard.items()}
    ours = {
        k.removeprefix(prefix): _plain(v.value, (v.sub_type or v.type).name)
        for k, v in found.items()
        if not k.startswith(_NOT_OURS) and not _is_mock(v.value)
    }
    size = model.hparams.get("vocab_size")
    return model.gguf_writer.arch, ours | ({"vocab_size": size} if size and "vocab_size" not in ours else {})


def _is_mock(value: Any) -> bool:
    """Whether torch would have computed it: a fact gives such a value itself."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, MagicMock)


def _plain(value: Any, kind: str) -> Any:
    """A value of the type that the file gives it: an integer, a float or a switch, or a list of them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(v, kind) for v in value]
    if kind == "ARRAY":  # each element has the type that Python gives it, as the writer reads it
        return value if isinstance(value, (bool, float, str)) else int(value)
    if kind.startswith(("FLOAT", "BOOL")):
        return bool(value) if kind == "BOOL" else float(value)
    return str(value) if kind == "STRING" else int(value)


def main() -> None:
    """Convert the configurations named on the command line."""
    conversion = load_converter()
    logging.disable(logging.WARNING)
    for path in map(pathlib.Path, sys.argv[1:]):
        line: dict[str, Any] = {"source": path.stem.replace("--", "/")}
        try:
            config = json.loads(path.read_text())
            line |= _hints(config)
            line["architecture"], line["keys"] = keys(conversion, config)
        except (Exception, SystemExit) as error:  # any converter may fail in its own way
            line["failed"] = f"{type(error).__name__}: {error}"
        print(json.dumps(line), flush=True)


def _hints(config: dict[str, Any]) -> dict[str, Any]:
    """What tells of tensors: whether the output is tied, and the kind of RoPE scaling."""
    text = config.get("text_config") or config
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return {"tied": bool(tied), "rope": scaling.get("rope_type") or scaling.get("type") or ""}


if __name__ == "__main__":
    main()
