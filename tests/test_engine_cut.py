"""The tool's cutting of named definitions out of the engine's source: needs no engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.binding import undeclared
from tools.engine.cut import LATER, cut, vector_kernels, write_cuts
from tools.engine.errors import EngineError

SOURCE = """\
#if defined(B)
#define GUARDED
#endif // B
#define LONG(x) \\
    f(x)
#define SHORT_A 1
#define SHORT_B 2
static constexpr int LIMIT = 15;
typedef void (* handler_t)(int a, int b);
struct pair_t * declared(int);
struct pair_t {
    struct { int x; } inner;
};
enum kind {
    ONE, // };
};
static bool answer(int a);
static bool answer(
        const int a, const char * b) {
    if (a) {
        return answer(a - 1);
    }
    return other(b, "}");
}
bool other(int a) {
    return answer(a);
}
"""


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("GUARDED", 1, 3),
        ("LONG", 4, 5),
        (r"SHORT_\w", 6, 7),
        ("LIMIT", 8, 8),
        ("handler_t", 9, 9),
        ("pair_t", 11, 13),
        ("kind", 14, 16),
        ("answer", 18, 24),
        ("other", 25, 27),
        ("bool other", 25, 27),
    ],
)
def test_definitions_are_cut_verbatim_and_know_their_lines(
    tmp_path: Path, name: str, first: int, last: int
) -> None:
    """Declarations, calls, and braces in comments and strings are passed by."""
    file = tmp_path / "x.cu"
    file.write_text(SOURCE)
    text = cut(file, name).splitlines()
    assert text[0] == f'#line {first} "{file}"'
    lines = [line for line in text if not line.startswith("#line")]
    assert lines == SOURCE.splitlines()[first - 1 : last]


def test_what_the_source_does_not_define_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.cu"
    file.write_text(SOURCE)
    with pytest.raises(EngineError, match=r"x\.cu defines no 'missing'"):
        cut(file, "missing")
    assert cut(file, next(iter(LATER))) == ""  # which not every build has
    with pytest.raises(EngineError, match=r"(?s)CMakeLists\.txt .*common\.cuh .*fattn\.cu .*ggml-alloc\.c"):
        write_cuts(tmp_path, tmp_path)


def test_a_default_build_compiles_the_vector_kernels_that_it_lists(tmp_path: Path) -> None:
    """And f16 with f16, whatever is listed."""
    (tmp_path / "ggml/cmake").mkdir(parents=True)
    (tmp_path / "ggml/CMakeLists.txt").write_text('set   (GGML_CUDA_FA_QUANTS "q8_0-q4_0" CACHE STRING\n')
    (tmp_path / "ggml/cmake/common.cmake").write_text("    set(FA_TYPES q4_0 q8_0 f16)\n")
    kernels = vector_kernels(tmp_path)
    assert len(kernels) == 9
    assert {k for k, there in kernels.items() if there} == {
        "GGML_CUDA_FA_F16_F16",
        "GGML_CUDA_FA_Q8_0_Q4_0",
    }


def test_what_the_shim_lacks_is_named() -> None:
    """Out of a compiler's errors: the names that the engine's functions use and nobody declares."""
    errors = "x.cu:9: error: ‘later_rule’ was not declared in this scope\nx.cu:12: error: 'INT_MAX' was not declared in this scope"
    assert undeclared(errors).startswith("it uses INT_MAX, later_rule: list them in tools/engine/cut.py")
    assert undeclared("x.cu:9: error: expected ‘;’") == ""
