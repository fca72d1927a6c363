"""Measures are published figures with their model and source, or nothing."""

from __future__ import annotations

import pytest

from vramfit._base.errors import SettingsError
from vramfit._planner.quality import cache_measure, file_type_measure
from vramfit._quant import FILE_TYPES


@pytest.mark.parametrize(
    ("name", "imatrix", "kld", "perplexity", "with_imatrix"),
    [
        ("Q8_0", False, 0.001355, 6.234284, False),
        ("Q8_0", True, 0.001355, 6.234284, False),  # measured without a matrix only
        ("Q4_K_M", False, 0.031273, 6.407115, False),
        ("Q4_K_M", True, 0.028152, 6.382937, True),
        ("q4_k", False, 0.031273, 6.407115, False),  # an alias
        ("IQ3_XXS", False, 0.183625, 7.458436, True),  # measured with one only
    ],
)
def test_published_figures(
    name: str, imatrix: bool, kld: float, perplexity: float, with_imatrix: bool
) -> None:
    """The scoreboard's own rows, and which way each was quantized."""
    found = file_type_measure(name, imatrix)
    assert found is not None
    assert (found.kld, found.perplexity, found.imatrix) == (kld, perplexity, with_imatrix)
    assert found.model == "Llama 3 8B"
    assert "f364eb6f" in found.source


def test_nothing_is_made_up() -> None:
    """What was not published has no measure; what does not exist is an error."""
    assert file_type_measure("MXFP4_MOE") is None
    assert cache_measure("q4_0", "q4_0") is None
    assert cache_measure("q8_0", "f16") is None
    with pytest.raises(SettingsError, match="Q4_9"):
        file_type_measure("Q4_9")


def test_cache_measures_name_their_source() -> None:
    """A cache's figure comes from the pull request that measured it."""
    found = cache_measure("q8_0", "q8_0")
    assert found is not None
    assert found.kld == 0.000980
    assert "pull/7412" in found.source


@pytest.mark.parametrize("imatrix", [False, True])
def test_divergence_and_perplexity_tell_one_story(imatrix: bool) -> None:
    """Coarse types lose more than fine ones, in both figures: no row slipped."""
    order = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q3_K_S", "Q2_K", "IQ1_M", "IQ1_S")
    found = [m for m in (file_type_measure(name, imatrix) for name in order) if m]
    assert [m.kld for m in found] == sorted(m.kld for m in found)
    assert [m.perplexity for m in found] == sorted(m.perplexity for m in found)
    assert all(file_type_measure(name) is None or name in FILE_TYPES for name in FILE_TYPES)
