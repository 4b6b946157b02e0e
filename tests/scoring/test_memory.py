"""Peak memory with a large vocabulary, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ggprune.pipeline.synth import find_shape, make_blueprint, synthesize
from tests.conftest import CALIBRATION

N_VOCAB = 131_072
GIB = 1 << 30

SCRIPT = """
import sys
from pathlib import Path
from ggprune.model.model import open_model
from ggprune.runtime.session import LlamaModel
from ggprune.metrics.text import read_text
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.rank import RankOptions, rank
from ggprune.scoring.target import DropRequest, Goal, Target

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

path, text = map(Path, sys.argv[1:])
with LlamaModel(path):
    loaded = status("VmRSS")
request = DropRequest(Target(Goal.LAYERS, 2))
measuring = MeasureOptions(n_ctx=512, n_chunk=4, keep_bytes=0)
options = RankOptions(measuring=measuring, request=request)
ranking = rank(open_model(path), read_text(text), options)
assert ranking.chosen is not None
print(loaded, status("VmHWM"))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_below_a_gibibyte_above_the_loaded_model(tmp_path: Path) -> None:
    """n_ctx 512, 128k vocabulary: logits of the whole model and of one without layers, no more."""
    shape = replace(
        find_shape("llama-3.2-1b", 6), n_vocab=N_VOCAB, n_embd=256, n_ff=512, n_head=4, n_head_kv=2,
    )  # fmt: skip
    path = tmp_path / "wide.gguf"
    synthesize(make_blueprint(shape, "Q8_0"), path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(CALIBRATION)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded, peak = map(int, done.stdout.split())
    logits = 256 * 4 * N_VOCAB
    assert logits < peak - loaded < GIB
