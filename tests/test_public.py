"""The names of the package itself: all there, and safe to call with any file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ggprune
from ggprune.pipeline import safe
from tests.conftest import TINY

COMPUTING = ("benchmark", "choose", "evaluate", "rank")


def test_every_name_is_there() -> None:
    assert all(hasattr(ggprune, name) for name in ggprune.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'verify'"):
        ggprune.__getattr__("verify")


def test_importing_costs_nothing() -> None:
    script = "import sys, ggprune; print(*(m for m in sys.modules if m.startswith('ggprune')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == [b"ggprune.version", b"ggprune"]


@pytest.mark.parametrize("name", COMPUTING)
def test_what_computes_does_so_in_a_child(name: str) -> None:
    assert getattr(ggprune, name) is getattr(safe, name)


def test_a_bad_file_does_not_end_the_caller(tmp_path: Path) -> None:
    """Half of the tensors' bytes: llama.cpp's own check, or its abort, becomes an error."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(TINY.read_bytes()[: TINY.stat().st_size // 2])
    with pytest.raises(ggprune.GGPruneError):
        ggprune.benchmark([broken], n_prompt=1, n_gen=0, n_repeat=1)
