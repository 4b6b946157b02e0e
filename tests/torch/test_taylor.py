"""Taylor against a few lines of plain torch. What needs torch is skipped where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ggprune
from ggprune.errors import ArchitectureError
from ggprune.metrics.estimates import Float64
from ggprune.metrics.text import read_text
from ggprune.model.model import Model, open_model
from ggprune.pipeline.launch import EXTRA, by_torch
from ggprune.pipeline.taylor import with_taylor
from ggprune.progress import SILENT
from ggprune.report.blocks import terminal
from ggprune.report.ranking import blocks
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated
from ggprune.runtime.session import LlamaModel, Tokens
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.rank import RankOptions
from ggprune.scoring.ranking import parse_metric, read_ranking
from ggprune.training.rowsfile import row_logits
from tests.conftest import CALIBRATION, TINY
from tests.helpers import without_progress
from tests.split import split
from tests.torch.models import write_model

N_CTX, N_CHUNK = 128, 2
ONE_THREAD = Compute(n_threads=1)
OPTIONS = RankOptions(
    measuring=MeasureOptions(n_ctx=N_CTX, n_chunk=N_CHUNK, compute=ONE_THREAD),
    by=parse_metric("taylor"),
)
ON_TEXT = ("-f", CALIBRATION, "-c", N_CTX, "--chunks", N_CHUNK, "-t", 1)


@pytest.fixture(scope="module")
def rows() -> Tokens:
    """The chunks that a ranking computes, each with BOS in front as llama.cpp gets it."""
    with LlamaModel(TINY, vocab_only=True) as model:
        tokens = model.tokenize(CALIBRATION.read_text("utf-8"))[: N_CTX * N_CHUNK]
        chunks: Tokens = tokens.reshape(N_CHUNK, N_CTX).copy()
        if model.bos is not None:
            chunks[:, 0] = model.bos
        return chunks


def plain_sums(path: Path, rows: Tokens, layers: str) -> Float64:
    """Of every layer, as a reader of the paper would write it; skips where there is no torch."""
    for name in EXTRA:
        pytest.importorskip(name)
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    for row in torch.from_numpy(rows).long():
        loss = network(input_ids=row[None], labels=row[None]).loss
        (loss / len(rows)).backward()
    matrices = [[w for w in x.parameters() if w.dim() == 2] for x in network.get_submodule(layers)]
    return np.array([sum((w * w.grad).abs().sum().item() for w in own) for own in matrices])


@pytest.fixture(scope="module")
def plain(rows: Tokens) -> Float64:
    return plain_sums(TINY, rows, "model.layers")


def taylor_of(model: Model) -> Float64:
    """Without the ranking."""
    return np.array(with_taylor(model, read_text(CALIBRATION), OPTIONS, SILENT).taylor)


def test_sums_are_those_of_plain_torch(tiny: Model, plain: Float64) -> None:
    ranking = ggprune.rank(tiny, read_text(CALIBRATION), OPTIONS)
    assert [score.taylor for score in ranking.layers] == pytest.approx(plain, rel=1e-4)
    assert ranking.order == tuple(np.argsort(plain))
    assert "Taylor" in terminal(blocks(ranking))
    assert "Ordered by taylor." in terminal(blocks(ranking))


def test_the_first_four_and_the_last_two_come_last(plain: Float64, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    command = [sys.executable, "-m", "ggprune", "rank", TINY, *ON_TEXT, "--metric", "taylor+",
               "-o", out]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert without_progress(done.stderr) == ""
    ranking = read_ranking(out)
    assert str(ranking.by) == "taylor+"
    assert [score.taylor for score in ranking.layers] == pytest.approx(plain, rel=1e-4)
    assert ranking.order[:3] == tuple(sorted((4, 5, 6), key=plain.__getitem__))
    assert ranking.order[3:] == tuple(sorted((0, 1, 2, 3, 7, 8), key=plain.__getitem__))


@pytest.mark.usefixtures("plain")
def test_the_dead_layer_is_worth_exactly_nothing(dead: Model) -> None:
    """Its writers are zero, so is their product with any gradient; no other matrix has a gradient,
    for it would come through them.
    """
    sums = taylor_of(dead)
    assert sums[4] == 0
    assert all(value > 0 for layer, value in enumerate(sums) if layer != 4)


@pytest.mark.usefixtures("plain")
def test_shards_are_worth_what_the_whole_is(tiny: Model, tmp_path: Path) -> None:
    shards = open_model(split(tiny.path, tmp_path, 3)[0])
    assert np.array_equal(taylor_of(shards), taylor_of(tiny))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.usefixtures("plain")
def test_another_model_is_not_ranked(tiny: Model, rows: Tokens) -> None:
    known = isolated(row_logits, tiny.path, rows[0], ONE_THREAD)
    with pytest.raises(ArchitectureError, match="computes another llama"):
        isolated(by_torch, "taylor", "measure", tiny, rows, np.roll(known, 1, axis=1), 1)


def test_matrices_that_lie_transposed_count(tmp_path: Path, rows: Tokens) -> None:
    model = write_model("gpt2", tmp_path / "gpt2.gguf")
    expected = plain_sums(model.path, rows, "transformer.h")
    assert taylor_of(model) == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("plain")
def test_a_routers_and_experts_matrices_count() -> None:
    import torch
    from torch import nn

    from ggprune.training.taylor import matrices_of

    router, other = nn.Module(), nn.Module()
    router.register_parameter("weight", nn.Parameter(torch.zeros(4, 8)))
    other.register_parameter("A_log", nn.Parameter(torch.zeros(8, 2)))
    experts = nn.ParameterDict({"up": nn.Parameter(torch.zeros(4, 2, 8))})
    linear, norm, conv = nn.Linear(8, 3), nn.LayerNorm(8), nn.Conv1d(8, 8, 4, groups=8)
    layer = nn.ModuleList([router, other, experts, linear, norm, conv])
    assert [tuple(w.shape) for w in matrices_of(layer)] == [(4, 8), (4, 2, 8), (3, 8)]


def failure(script: str, *args: object) -> str:
    """The only line that the command line prints, on stderr."""
    command = [
        sys.executable,
        "-c",
        f"{script}\nfrom ggprune.cli import main\nmain()",
        "rank",
        TINY,
    ]
    done = subprocess.run(
        list(map(str, (*command, *ON_TEXT, *args))), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
    return done.stderr


def test_without_torch_the_command_is_named() -> None:
    script = "from ggprune.pipeline import launch\nlaunch.find_spec = lambda name: None"
    assert "pip install 'ggprune[train]'" in failure(script, "--metric", "taylor")


@pytest.mark.parametrize("metric", ["taylor", "taylor+"])
def test_attention_alone_is_refused(metric: str) -> None:
    line = failure("", "--metric", metric, "--unit", "attn")
    assert f"--metric {metric}: of whole layers only, not of --unit attn" in line
