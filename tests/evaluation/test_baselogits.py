from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError, OutputError
from ggprune.evaluation.baselogits import HEADER, decode_rows, encode_rows, open_base, write_base
from ggprune.evaluation.perplexity import Evaluation, SaveLogits, evaluate
from ggprune.metrics.chunks import Chunks
from ggprune.metrics.text import read_text
from ggprune.model.model import Model
from ggprune.runtime.compute import Compute
from tests.conftest import EVALUATION, FIXTURES, TINY
from tests.helpers import pruned_copy
from tests.random_models import make_random_model

N_CHUNK = 3
ONE = Compute(n_threads=1)  # threads would only wait for each other


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.kld"
    text = read_text(EVALUATION)
    evaluate([TINY], text, n_chunk=N_CHUNK, save_logits=SaveLogits(path), compute=ONE)
    return path


def test_the_file_is_what_the_format_says(saved: Path) -> None:
    data = saved.read_bytes()
    assert data[:8] == b"_logits_"
    assert struct.unpack_from("<3i", data, 8) == (512, 1024, N_CHUNK)
    assert len(data) == 20 + 4 * 512 * N_CHUNK + N_CHUNK * 255 * 2 * (1024 + 4)
    assert list(saved.parent.iterdir()) == [saved]


def test_a_stored_base_gives_the_statistics_of_the_model(
    tiny: Model, saved: Path, tmp_path: Path
) -> None:
    pruned = pruned_copy(tiny, (1, 2), tmp_path / "pruned.gguf").path
    (live,) = evaluate([pruned], read_text(EVALUATION), base=TINY, n_chunk=N_CHUNK, compute=ONE)
    (stored,) = evaluate([pruned], base_logits=saved, compute=ONE)
    assert stored.text.n_token == live.text.n_token
    assert numbers(stored) == pytest.approx(numbers(live), rel=2e-3, abs=1e-4)
    (first,) = evaluate([pruned], base_logits=saved, n_chunk=1, compute=ONE)
    assert first.ppl.n == 255


def numbers(result: Evaluation) -> list[float]:
    d = result.divergence
    assert d is not None
    measured = (result.ppl, d.base_ppl, d.ln_ratio, d.kld.mean, d.delta_p.mean, d.rms_delta_p)
    return [*(m.value for m in measured), d.ln_ratio.se, d.kld.maximum, d.same_top_p.value]


def test_rows_keep_log_probabilities_within_a_step() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (7, 33)).astype(np.float32)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = encode_rows(logits)
    assert rows.shape == (7, 38)
    stored = decode_rows(rows, 33, np.arange(7, dtype=np.int32))
    near = log_p > log_p.max(axis=1, keepdims=True) - 15.9
    found = stored.log_p(slice(None), np.empty_like(logits))
    assert np.abs(found - log_p)[near].max() < 16 / 65535
    assert stored.scores.nll == pytest.approx(-log_p[np.arange(7), np.arange(7)], abs=1e-3)
    assert (stored.scores.top == logits.argmax(axis=1)).all()


def test_by_hand() -> None:
    """Two tokens, p = (3/4, 1/4) stored, (1/2, 1/2) now: KLD = 3/4 ln 3/2 + 1/4 ln 1/2."""
    base = np.log(np.array([[0.75, 0.25]], np.float32))
    stored = decode_rows(encode_rows(base), 2, np.array([0], np.int32))
    now = stored.compare(np.zeros((1, 2), np.float32), np.array([0], np.int32))
    assert now.kld[0] == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), abs=1e-6)
    assert now.scores.p[0] - stored.scores.p[0] == pytest.approx(-0.25, abs=1e-6)
    uniform = encode_rows(np.zeros((1, 3), np.float32))
    assert decode_rows(uniform, 3, np.array([2], np.int32)).scores.p[0] == pytest.approx(1 / 3)


def test_damaged_and_foreign_files_are_one_line(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    bad_token = data[: HEADER.size] + struct.pack("<i", 5000) + data[HEADER.size + 4 :]
    cases = {
        b"": "does not begin with _logits_",
        b"GGUF" + data[4:]: "does not begin with _logits_",
        data[:-1]: "not complete",
        data + b"x": "expected",
        HEADER.pack(b"_logits_", 512, -1, 3): "damaged",
        HEADER.pack(b"_logits_", 2**31 - 1, 2**31 - 1, 2**31 - 1): "expected",
        bad_token: "outside of its vocabulary",
    }
    for content, message in cases.items():
        path = tmp_path / "bad.kld"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_base(path)
    with pytest.raises(DataError, match="cannot be read"):
        open_base(tmp_path / "missing")


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, np.nan), (0, 1e30), (0, -1e-6), (0, np.inf), (4, np.nan), (4, 0.5), (4, -1e30)],
)
def test_probabilities_that_are_none_name_file_and_chunk(
    saved: Path, tmp_path: Path, place: int, value: float
) -> None:
    """`place` 0: the scale of a row, 4: its lowest log-probability. The KLD was NaN, or 1e30."""
    data, path = bytearray(saved.read_bytes()), tmp_path / "bad.kld"
    at = HEADER.size + 4 * 512 * N_CHUNK + (255 + 7) * 2 * (1024 + 4) + place  # of chunk 1
    data[at : at + 4] = struct.pack("<f", value)
    path.write_bytes(data)
    base = open_base(path)
    assert len(base.bases(base.chunks[:1], slice(0, 255))) == 1
    with pytest.raises(DataError, match=r"bad\.kld: damaged: chunk 1 has log-probabilities that"):
        base.bases(base.chunks[1:], slice(0, 255))


def test_the_range_of_what_is_stored_is_that_of_the_format() -> None:
    """Logits as far apart as can be, and all the same ones."""
    for logits in (np.array([[80.0, -80.0, 0.0]]), np.zeros((1, 3)), np.array([[0.0, 0.0, -50.0]])):
        rows = encode_rows(logits.astype(np.float32))
        assert decode_rows(rows, 3, np.array([0], np.int32)).is_plausible


def test_what_does_not_fit_is_refused(saved: Path, tmp_path: Path) -> None:
    other = make_random_model(FIXTURES / "arch" / "llama.gguf", tmp_path / "other.gguf")
    with pytest.raises(DataError, match="cannot be compared"):
        evaluate([other], base_logits=saved)
    with pytest.raises(DataError, match="chunks of 512 tokens, 256 are asked for"):
        evaluate([TINY], base_logits=saved, n_ctx=256)


def test_all_chunks_of_the_file_where_more_are_asked_for(saved: Path) -> None:
    (result,) = evaluate([TINY], base_logits=saved, n_chunk=4, compute=ONE)
    assert result.text.n_chunk == N_CHUNK == 3


def test_a_file_that_cannot_be_finished_is_not_there(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "base.kld"
    chunks = Chunks(np.zeros((2, 8), np.int32))
    with pytest.raises(ZeroDivisionError), write_base(path, chunks, 4, force=False) as append:
        append(np.zeros((3, 4), np.float32))
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="exists already"):
        evaluate([TINY], read_text(EVALUATION), n_chunk=2, save_logits=SaveLogits(saved))
