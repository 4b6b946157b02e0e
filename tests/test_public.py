"""The names of the package itself: all there, and safe to call with any file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ggprune
from tests.conftest import TINY


def test_every_name_is_there() -> None:
    assert all(hasattr(ggprune, name) for name in ggprune.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'verify'"):
        ggprune.__getattr__("verify")


def test_importing_costs_nothing() -> None:
    script = "import sys, ggprune; print(*(m for m in sys.modules if m.startswith('ggprune')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == [b"ggprune.lean", b"ggprune.version", b"ggprune"]


def test_what_computes_does_so_in_a_child() -> None:
    """All four, on a model that is fine: llama.cpp is never loaded where they are called."""
    script = f"""
import sys, ggprune
from pathlib import Path
path, text = Path({str(TINY)!r}), ggprune.shipped_text("calibration.txt")
model, compute = ggprune.open_model(path), ggprune.Compute(n_threads=1)
measuring = ggprune.MeasureOptions(n_ctx=64, n_chunk=1, compute=compute)
ggprune.benchmark([path], n_prompt=1, n_gen=0, n_repeat=1, compute=compute)
ggprune.evaluate([path], text, n_ctx=64, n_chunk=1, compute=compute)
ranking = ggprune.rank(model, text, ggprune.RankOptions(measuring=measuring))
request = ggprune.DropRequest(ggprune.Target(ggprune.Goal.LAYERS, 1))
ggprune.choose(model, text, ranking, request)
print("llama_cpp.llama_cpp" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]


def test_a_bad_file_does_not_end_the_caller(tmp_path: Path) -> None:
    """Half of the tensors' bytes: llama.cpp's own check, or its abort, becomes an error."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(TINY.read_bytes()[: TINY.stat().st_size // 2])
    with pytest.raises(ggprune.GGPruneError):
        ggprune.benchmark([broken], n_prompt=1, n_gen=0, n_repeat=1)
