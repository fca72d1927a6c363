"""The engine's real Vulkan backend, built apart for Mesa's software device, and the path of the library.

`build(source, folder)` copies `ggml` out of the engine's source, changes two places of the copy and compiles the backend alone;
it uses the `libggml-base` of the engine that it is loaded into. Ten minutes to half an hour. `VARIABLE` then tells `load` where it
lies: `real_vulkan=true` of a load has the first device that the Vulkan loader finds answer, and allocate.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

from .errors import EngineError

__all__ = ["VARIABLE", "build", "change", "library"]

VARIABLE = "VRAMFIT_VULKAN"
_FILE = "src/ggml-vulkan/ggml-vulkan.cpp"
_PROJECT = "cmake_minimum_required(VERSION 3.19)\nproject(vulkan C CXX)\nadd_subdirectory(ggml)\n"
# A software device binds 128 MiB at once, where cards reach 4 GiB: what would move to the host stays. Headers of 2023 know no
# settings of layers, which only a build for validation asks for.
_CHANGES = (
    (
        "        device->properties = props2.properties;\n",
        "        device->properties = props2.properties;\n"
        "        device->properties.limits.maxStorageBufferRange = UINT32_MAX;\n",
    ),
    ("    std::vector<vk::LayerSettingEXT> settings = {\n", "#if VK_HEADER_VERSION >= 272\n    std::vector<vk::LayerSettingEXT> settings = {\n"),
    (
        "    vk::InstanceCreateInfo instance_create_info(vk::InstanceCreateFlags{}, &app_info, layers, extensions, &layer_setting_info);\n",
        "#else\n    (void) enable_best_practice;\n    void * layer_setting_info = nullptr;\n#endif\n"
        "    vk::InstanceCreateInfo instance_create_info(vk::InstanceCreateFlags{}, &app_info, layers, extensions);\n"
        "#if VK_HEADER_VERSION >= 272\n    instance_create_info.pNext = &layer_setting_info;\n#else\n    (void) layer_setting_info;\n#endif\n",
    ),
)  # fmt: skip


def change(text: str) -> str:
    """The backend's file with both changes. Raises EngineError where a place is not there just once."""
    for old, new in _CHANGES:
        if text.count(old) != 1:
            raise EngineError(
                f"{_FILE} has not one {old.strip()!r}: compare tools/engine/vulkan.py with that version"
            )
        text = text.replace(old, new)
    return text


def build(source: pathlib.Path, folder: pathlib.Path, jobs: int = 1) -> pathlib.Path:
    """Build the backend of the engine at `source` in `folder`; the path of the library. Raises EngineError."""
    ggml = folder / "ggml"
    if not ggml.exists():
        shutil.copytree(source / "ggml", ggml)
        (ggml / _FILE).write_text(change((source / "ggml" / _FILE).read_text()))
        (folder / "CMakeLists.txt").write_text(_PROJECT)
    out = folder / "build"
    options = (
        "-DGGML_VULKAN=ON",
        "-DGGML_CPU=OFF",
        "-DBUILD_SHARED_LIBS=ON",
        "-DCMAKE_BUILD_TYPE=MinSizeRel",
    )
    for command in (
        ["cmake", "-S", str(folder), "-B", str(out), *options],
        ["cmake", "--build", str(out), "--target", "ggml-vulkan", "-j", str(jobs)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise EngineError(f"{' '.join(command[:3])} fails:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return next(out.rglob("libggml-vulkan.so"))


def library() -> pathlib.Path:
    """The library that `VARIABLE` names. Raises EngineError if it names none."""
    os.environ.setdefault(
        "GGML_VK_VISIBLE_DEVICES", "0"
    )  # the backend passes over software devices otherwise
    path = pathlib.Path(os.environ.get(VARIABLE, ""))
    if not path.is_file():
        raise EngineError(f"{VARIABLE}={path}: give the libggml-vulkan.so that `tools.engine vulkan` builds")
    return path
