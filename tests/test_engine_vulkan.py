"""The tool's changes to the engine's Vulkan backend, before it is built: needs no engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # the tools are no part of the distribution

from tools.engine.errors import EngineError
from tools.engine.vulkan import VARIABLE, change, library

SOURCE = """\
        device->properties = props2.properties;
    VkBool32 enable_best_practice = layer_settings;
    std::vector<vk::LayerSettingEXT> settings = {
    };
    vk::LayerSettingsCreateInfoEXT layer_setting_info(settings);
    vk::InstanceCreateInfo instance_create_info(vk::InstanceCreateFlags{}, &app_info, layers, extensions, &layer_setting_info);
"""


def test_two_places_are_changed() -> None:
    """The range that a software device binds, and settings of layers, which old headers do not know."""
    text = change(SOURCE)
    assert "maxStorageBufferRange = UINT32_MAX" in text
    assert text.count("#if VK_HEADER_VERSION >= 272") == text.count("#endif") == 2
    assert text.index("#if VK") < text.index("LayerSettingEXT") < text.index("#else")


def test_a_place_that_is_not_there_once_is_named() -> None:
    for text in ("", SOURCE * 2):
        with pytest.raises(EngineError, match=r"compare tools/engine/vulkan\.py"):
            change(text)


def test_a_library_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0")
    with pytest.raises(EngineError, match=r"libggml-vulkan\.so"):
        library()
    made = tmp_path / "libggml-vulkan.so"
    made.touch()
    monkeypatch.setenv(VARIABLE, str(made))
    assert library() == made
