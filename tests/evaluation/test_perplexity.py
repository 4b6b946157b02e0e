from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError
from ggprune.evaluation.perplexity import Evaluation, SaveLogits, evaluate
from ggprune.metrics.estimates import distribution, divergence
from ggprune.metrics.text import Text, read_text
from ggprune.model.model import Model
from ggprune.pipeline.job import Job, write
from ggprune.report.blocks import terminal
from ggprune.report.evaluation import blocks
from ggprune.runtime.compute import Compute
from ggprune.surgery.plan import make_plan
from tests.conftest import EVALUATION, FIXTURES, TINY
from tests.random_models import make_random_model

# llama-perplexity -m fixtures/tiny.gguf -f fixtures/evaluation.txt -c 512
LLAMA_PERPLEXITY = (2.6256, 0.03940)
# ... --kl-divergence of the model without layers 1 and 2, against 16-bit base logits
LLAMA_KLD = {
    "Mean PPL(Q)": 2.892447, "Mean ln(PPL(Q)/PPL(base))": 0.096791,
    "Mean PPL(Q)/PPL(base)": 1.101631, "Mean    KLD": 0.093531, "Mean    Δp": -2.701,
    "RMS Δp": 12.716, "Same top p": 88.571,
}  # fmt: skip


@pytest.fixture(scope="module")
def pruned(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "out.gguf"
    write(Job(model=tiny, plan=make_plan(tiny, (1, 2)), out=out, check_load=False))
    return out


@pytest.fixture(scope="module")
def compared(pruned: Path) -> Evaluation:
    (result,) = evaluate([pruned], read_text(EVALUATION), base=TINY)
    return result


def test_perplexity_is_llama_perplexitys() -> None:
    (result,) = evaluate([TINY], read_text(EVALUATION))
    assert result.ppl.value == pytest.approx(LLAMA_PERPLEXITY[0], rel=1e-4)
    assert result.ppl.se == pytest.approx(LLAMA_PERPLEXITY[1], rel=1e-3)
    assert result.divergence is None
    assert result.ppl.n == 35 * 255


def test_divergence_is_llama_perplexitys(compared: Evaluation) -> None:
    lines = dict(
        re.findall(r"^(.*?\S)\s*: +(-?[0-9.]+)", terminal(blocks([compared])), re.MULTILINE)
    )
    for name, value in LLAMA_KLD.items():
        assert float(lines[name]) == pytest.approx(value, rel=5e-4), name


def test_a_model_does_not_differ_from_itself(tiny: Model) -> None:
    (result,) = evaluate([TINY], read_text(EVALUATION), base=TINY, n_chunk=4)
    d = result.divergence
    assert d is not None
    assert (d.kld.mean.value, d.kld.maximum, d.delta_p.maximum) == (0, 0, 0)
    assert d.same_top_p.value == 1
    assert (d.ratio.value, d.difference.value) == (1, 0)


def test_several_models_share_the_base(pruned: Path, compared: Evaluation) -> None:
    one, two = evaluate([TINY, pruned], read_text(EVALUATION), base=TINY)
    assert two == compared
    assert one.divergence is not None
    assert one.divergence.kld.maximum == 0


def test_contexts_and_batches_of_other_sizes(pruned: Path) -> None:
    from ggprune.runtime.compute import Compute

    text = read_text(EVALUATION)
    ppl = [
        evaluate([pruned], text, n_ctx=256, n_chunk=5, compute=Compute(n_batch=n))[0].ppl
        for n in (64, 256, 2048)
    ]
    assert [p.value for p in ppl] == pytest.approx([ppl[0].value] * 3, rel=1e-3)
    assert ppl[0].n == 5 * 127


def test_models_with_other_tokens_cannot_be_compared(tmp_path: Path) -> None:
    other = make_random_model(FIXTURES / "arch" / "llama.gguf", tmp_path / "other.gguf")
    with pytest.raises(DataError, match="cannot be compared"):
        evaluate([TINY], read_text(EVALUATION), base=other)
    with pytest.raises(DataError, match="at least 1024 are needed"):
        evaluate([TINY], Text("short", "a b c"))


def test_statistics_by_hand() -> None:
    values = np.arange(101.0)
    d = distribution(values)
    assert (d.mean.value, d.minimum, d.maximum) == (50, 0, 100)
    assert (d.percentiles[90.0], d.percentiles[50.0], d.percentiles[0.1]) == pytest.approx(
        (90, 50, 0.1)
    )
    nll, base = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.5, 2.0])
    same = np.array([True, False, True])
    result = divergence(nll, base, np.zeros(3), np.array([0.3, -0.4, 0.0]), same)
    assert result.correlation == pytest.approx(1)
    assert result.ln_ratio.value == pytest.approx(0.5)
    assert result.ln_ratio.se == pytest.approx(np.std([0, 0.5, 1]) / np.sqrt(2))
    assert result.ratio.value == pytest.approx(np.exp(0.5))
    assert result.rms_delta_p.value == pytest.approx(np.sqrt(0.25 / 3))


PEERS = os.environ.get("GGPRUNE_PEERS", "")
PEER = shutil.which("llama-perplexity", path=PEERS or None)


@pytest.mark.skipif(PEER is None, reason="llama-perplexity is neither on PATH nor in GGPRUNE_PEERS")
def test_every_printed_line_is_the_peers(
    pruned: Path, compared: Evaluation, tmp_path: Path
) -> None:
    """All lines agree within what storing the base in 16 bits loses."""
    base = tmp_path / "base.kld"
    common = [str(PEER), "-c", "512"]
    subprocess.run(
        [*common, "-m", TINY, "-f", EVALUATION, "--save-all-logits", base],
        check=True, capture_output=True,
    )  # fmt: skip
    done = subprocess.run(
        [*common, "-m", pruned, "--kl-divergence-base", base, "--kl-divergence"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    pattern = re.compile(r"^(.*?\S)\s*: +(-?[0-9.]+)", re.MULTILINE)
    theirs = dict(pattern.findall(done.stdout[done.stdout.index("=====") :]))
    ours = dict(pattern.findall(terminal(blocks([compared]))))
    assert len(theirs) > 30
    for name, value in theirs.items():
        assert float(ours[name]) == pytest.approx(float(value), rel=2e-3, abs=2e-3), name


def test_long_chunks_are_read_piece_by_piece(pruned: Path, tmp_path: Path) -> None:
    """The same numbers, whether a batch holds a chunk or a tenth of it."""
    text, stored = read_text(EVALUATION), tmp_path / "base"
    whole, parts = (Compute(n_batch=n, n_ubatch=96) for n in (960, 96))
    expected = evaluate([pruned, TINY], text, base=TINY, n_ctx=960, n_chunk=2, compute=whole)
    found = evaluate([pruned, TINY], text, base=TINY, n_ctx=960, n_chunk=2, compute=parts)
    assert found == expected
    evaluate(
        [TINY], text, n_ctx=960, n_chunk=2, compute=parts, save_logits=SaveLogits(stored)
    )  # fmt: skip
    first, second = (
        evaluate([pruned], base_logits=stored, compute=compute) for compute in (whole, parts)
    )
    assert first == second
    assert first[0].ppl == expected[0].ppl
