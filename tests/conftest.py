"""Models that many tests share. All are made from the committed fixtures at test time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ggprune.model.model import Model, open_model
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.quantizer import quantize

FIXTURES = Path(__file__).parent.parent / "fixtures"
TINY = FIXTURES / "tiny.gguf"
TINY_MOE = FIXTURES / "tiny-moe.gguf"
# The fuzzer has limits of memory and time that are Linux's.
collect_ignore = [] if Path("/proc/self/statm").exists() else ["test_fuzz.py"]
CALIBRATION = FIXTURES / "calibration.txt"
EVALUATION = FIXTURES / "evaluation.txt"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what another one, or the user, has measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny() -> Model:
    """The trained model: llama, 9 layers, F16."""
    return open_model(TINY)


@pytest.fixture(scope="session")
def tiny_moe() -> Model:
    """The trained model with experts: llama, 4 layers of 16, Q5_1."""
    return open_model(TINY_MOE)


@pytest.fixture(scope="session")
def tiny_q4(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The trained model in Q4_K_M."""
    path = tmp_path_factory.mktemp("q4") / "tiny-q4.gguf"
    quantize(TINY, path, QuantizeOptions("Q4_K_M"))
    return open_model(path)


@pytest.fixture(scope="session")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The trained model with a layer 4 that does nothing."""
    path = tmp_path_factory.mktemp("dead") / "dead.gguf"
    script = str(FIXTURES / "dead_layer.py")
    subprocess.run([sys.executable, script, str(TINY), str(path), "--layer", "4"], check=True)
    return open_model(path)
