"""The built files, and a fresh environment in which they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from setup.install import python_of
from tests.conftest import TINY
from tests.wheel.repack import repack_dependencies

ROOT = Path(__file__).parent.parent.parent
# What could lead from the fresh environment back to the checkout.
LEADING_BACK = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Built:
    """What is uploaded when it is released."""

    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Installed:
    """ggprune in an environment of its own; `folder` is where its commands run."""

    venv: Path
    folder: Path

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run(python_of(self.venv), *arguments)

    def ggprune(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As a user's shell runs it: the script that pip has made."""
        return self._run(python_of(self.venv).with_name("ggprune"), *arguments)

    def succeed(self, *arguments: str) -> str:
        done = self.ggprune(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run(self, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments], cwd=self.folder, env=environment(),
            check=False, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in LEADING_BACK}
    return kept | {"PYTHONNOUSERSITE": "1", "PYTHONIOENCODING": "utf-8"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--dist", type=Path, help="holds the sdist and the wheel; default: build them")


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Those of --dist, or new ones; the wheel is then built from the sdist."""
    folder: Path | None = request.config.getoption("--dist")
    if folder is None:
        folder = tmp_path_factory.mktemp("dist")
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
        subprocess.run(
            [*build, str(folder), str(ROOT)], cwd=folder, check=True, capture_output=True
        )
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(sdist.resolve(), wheel.resolve())


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel and what it says it needs, without any extra."""
    root = tmp_path_factory.mktemp("installed")
    venv, wheels, folder = root / "venv", root / "wheels", root / "work"
    wheels.mkdir()
    folder.mkdir()
    repack_dependencies("ggprune", wheels)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [str(python_of(venv)), "-m", "pip", "install", "--quiet", "--no-index"]
    subprocess.run(
        [*pip, "--find-links", str(wheels), str(built.wheel)], check=True, env=environment()
    )
    shutil.rmtree(wheels)
    shutil.copy(TINY, folder)
    return Installed(venv, folder)
