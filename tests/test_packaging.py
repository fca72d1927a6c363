"""The catalogue, the types and the licence reach whoever installs, however they install."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("hatchling")
pytest.importorskip("pip")

ROOT = Path(__file__).parents[1]
ASK = """
import vramfit
from vramfit._devices import find, validate_catalogue
from vramfit._devices.catalogue import catalogue_path
print(vramfit.__file__, catalogue_path(), validate_catalogue(), find("3090 ti").id, sep="\\n")
"""


def run(*command: object, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "COV"))}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An sdist, and the wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return {"sdist": next(out.glob("*.tar.gz")), "wheel": next(out.glob("*.whl"))}


ORACLE = pytest.mark.oracle


@pytest.mark.parametrize(
    "how", ["wheel", pytest.param("sdist", marks=ORACLE), pytest.param("editable", marks=ORACLE)]
)
def test_every_installation_brings_the_catalogue(how: str, dist: dict[str, Path], tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=os.name != "nt")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    # The dependencies of this interpreter, behind whatever gets installed.
    (site / "zz-dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    what = ["-e", ROOT] if how == "editable" else [dist[how]]
    offline = (
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--force-reinstall",
        "--disable-pip-version-check",
    )
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", *offline, *what, cwd=tmp_path)

    module, catalogue, cards, card = run(python, "-c", ASK, cwd=tmp_path).splitlines()

    home = ROOT if how == "editable" else site
    assert Path(module).is_relative_to(home)
    assert (
        Path(catalogue) == (ROOT / "data" if how == "editable" else site / "vramfit" / "data") / "gpus.yaml"
    )
    assert (int(cards), card) == (213, "rtx-3090-ti")


def test_the_wheel_holds_types_licence_and_package_data(dist: dict[str, Path]) -> None:
    with zipfile.ZipFile(dist["wheel"]) as wheel:
        names = set(wheel.namelist())
    assert {"vramfit/py.typed", "vramfit/data/gpus.yaml"} <= names
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)
    package = ROOT / "src" / "vramfit"
    data = {
        p.relative_to(package).as_posix()
        for p in package.rglob("*")
        if p.suffix in {".txt", ".json", ".yaml"}
    }
    assert {f"vramfit/{d}" for d in data} <= names
    assert not any("__pycache__" in n for n in names)


def test_the_sdist_holds_the_tests_and_the_catalogue(dist: dict[str, Path]) -> None:
    with tarfile.open(dist["sdist"]) as sdist:
        names = {n.partition("/")[2] for n in sdist.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "data/gpus.yaml", "tests/test_packaging.py"} <= names
