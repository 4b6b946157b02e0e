"""What is in the files that users get."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ggprune.version import __version__
from tests.wheel.conftest import ROOT, Built

# What is not Python: the wheel is of no use without it.
DATA = (
    "arch/architectures.json", "evaluation/prompts.txt", "metrics/texts/calibration.txt",
    "metrics/texts/evaluation.txt", "pipeline/synth/shapes.json", "py.typed",
)  # fmt: skip


def test_the_wheel_is_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
    package = {name for name in names if ".dist-info/" not in name}
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ggprune").rglob("*")
              if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    assert package == source
    assert {f"ggprune/{name}" for name in DATA} <= package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert built.wheel.name == f"ggprune-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built.sdist) as sdist:
        sdist.extractall(folder, filter="data")
    return folder / f"ggprune-{__version__}"


def test_the_sdist_is_all_that_is_kept_under_version_control(unpacked: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    tracked = {name for name in listed.split("\0") if (ROOT / name).is_file()}
    inside = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    assert tracked - inside == set()


def test_the_sdist_can_be_tested(unpacked: Path) -> None:
    """All of `make test` is found there, and what reads sources and documents passes."""
    everything = ["--collect-only", "-qq", "--ignore", "tests/torch"]
    for arguments in (everything, ["tests/test_docs.py", "tests/test_structure.py"]):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=unpacked, env=os.environ | {"PYTHONPATH": str(unpacked)},
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
