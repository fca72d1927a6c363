"""The pinned engine itself reads the presets that are written for its router."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as effort
from test_engines import any_settings

from vramfit import Settings, SettingsError
from vramfit._engines.presets import section
from vramfit._engines.server import arguments
from vramfit._engines.settings import as_run, engine_settings
from vramfit._llama.flags import read

READER = r"""
#include "preset.h"
#include <cstdio>
int main(int, char ** argv) {
    common_preset_context reader(LLAMA_EXAMPLE_SERVER);
    common_preset all;
    for (auto & [name, preset] : reader.load_from_ini(argv[1], all)) {
        printf("%s\n", name.c_str());
        for (auto & word : preset.to_args()) printf("\t%s\n", word.c_str());
    }
}
"""


def reader(folder: Path) -> tuple[Path, dict[str, str]]:
    """Build a program that prints what the engine's own code makes of a file of presets."""
    source, engine = os.environ.get("LLAMA_CPP_SOURCE"), find_spec("llama_cpp")
    if source is None or engine is None or engine.origin is None or not shutil.which("g++"):
        pytest.skip("the built engine is not at hand, see docs/internals/engine.md")
    inside = Path(engine.origin).parent / "lib"
    common = inside.parents[1] / "lib"
    if not (common / "libllama-common.so.0").exists():
        pytest.skip("the engine was built without its common library")
    code, program = folder / "reader.cpp", folder / "reader"
    code.write_text(READER)
    headers = [f"-I{source}/{p}" for p in ("common", "include", "ggml/include", "vendor")]
    linked = [f"-L{common}", "-l:libllama-common.so.0", "-Wl,--allow-shlib-undefined"]
    subprocess.run(["g++", "-std=c++17", *headers, str(code), "-o", str(program), *linked], check=True)
    return program, {**os.environ, "LD_LIBRARY_PATH": f"{common}:{inside}"}


@pytest.mark.oracle
def test_the_engine_reads_what_was_written(tmp_path: Path) -> None:
    """Every section means to the engine the settings that it was made from; tensors that are kept on the host stand in any order."""
    program, environment = reader(tmp_path)
    written: dict[str, tuple[Settings, str]] = {}

    @effort(max_examples=200, database=None)
    @given(any_settings)
    def write(settings: Settings) -> None:
        try:
            text = section(
                f"m{len(written)}", ["-m", "a b.gguf", *arguments(settings)], load_on_startup="true"
            )
        except SettingsError:
            return
        written[f"m{len(written)}"] = as_run(settings, "llama-server"), text

    write()
    file = tmp_path / "models.ini"
    file.write_text("\n".join(text for _, text in written.values()))
    done = subprocess.run([program, file], env=environment, text=True, capture_output=True, check=True)
    blocks = [block.split("\n\t") for block in done.stdout.rstrip("\n").split("\nm")]
    words = {f"m{block[0].removeprefix('m')}": block[1:] for block in blocks}
    assert words.keys() == written.keys()
    for name, (settings, _) in written.items():
        line_read = read(words[name])
        assert line_read.model == ("-m", "a b.gguf")
        assert in_order(engine_settings("llama-server", line_read.given)) == in_order(settings)


def in_order(settings: Settings) -> Settings:
    return replace(settings, cpu_tensors=tuple(sorted(settings.cpu_tensors)))
