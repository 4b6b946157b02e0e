from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.ablation.taps import StreamRecorder, ablation_taps
from ggprune.arch.architecture import architecture_of
from ggprune.errors import LlamaError
from ggprune.model.model import Model
from ggprune.runtime.compute import Compute
from ggprune.runtime.session import LlamaModel, Session
from tests.conftest import CALIBRATION, TINY
from tests.helpers import ONE_GRAPH, logits_of, pruned_copy, random_tokens
from tests.hostile.models import made

SETS = [(2,), (0,), (8,), (1, 2), (3, 7), (0, 4, 8), (5, 6, 7)]


@pytest.mark.parametrize("drop", SETS)
@pytest.mark.parametrize("kind", ["tiny", "tiny_q4"])
def test_the_written_file_equals_the_ablation_bit_for_bit(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, drop: tuple[int, ...]
) -> None:
    model: Model = request.getfixturevalue(kind)
    tokens = random_tokens(1024, 512)
    pruned = pruned_copy(model, drop, tmp_path / "out.gguf")
    for n_output in (512, 256):
        taps = ablation_taps(architecture_of(model).places, drop)
        predicted = logits_of(model.path, tokens, n_output, taps)
        assert np.array_equal(predicted, logits_of(pruned.path, tokens, n_output))


def test_the_model_is_untouched_when_the_taps_are_off(tiny: Model) -> None:
    tokens = random_tokens(1024, 128)
    with LlamaModel(TINY) as model, Session(model, 128, tapped=True) as session:
        before = session.chunk_logits(tokens, 64).copy()
        session.tap(ablation_taps(architecture_of(tiny).places, (3,)))
        assert not np.array_equal(before, session.chunk_logits(tokens, 64))
        session.tap({})
        assert np.array_equal(before, session.chunk_logits(tokens, 64))
    assert np.array_equal(before[0], logits_of(TINY, tokens, 64))


def test_the_stream_is_recorded_at_every_layer(tiny: Model) -> None:
    recorder = StreamRecorder(architecture_of(tiny).places)
    with LlamaModel(TINY) as model, Session(model, 64, tapped=True) as session:
        session.tap(recorder.taps)
        session.chunk_logits(random_tokens(1024, 64), 32)
    shapes = [x.shape for x in recorder.stream if x is not None]
    assert shapes == [(64, 256)] * 9 + [(32, 256)]


def test_several_chunks_at_once_give_what_one_gives() -> None:
    chunks = np.concatenate([random_tokens(1024, 64, seed) for seed in range(3)])
    with LlamaModel(TINY) as model:
        with Session(model, 64, n_seq=3) as session:
            together = session.chunk_logits(chunks, 32).copy()
        with Session(model, 64) as session:
            apart = [session.chunk_logits(c[None, :], 32)[0].copy() for c in chunks]
    assert np.allclose(together, np.stack(apart), atol=0.1)
    assert (together.argmax(-1) == np.stack(apart).argmax(-1)).mean() > 0.99


def test_a_chunk_longer_than_a_batch_is_decoded_in_parts() -> None:
    tokens = random_tokens(1024, 128)
    small = Compute(n_batch=32, n_ubatch=32)
    with LlamaModel(TINY) as model, Session(model, 128, compute=small) as session:
        parts = session.chunk_logits(tokens, 80)[0].copy()
    assert parts.shape == (80, 1024)
    assert np.allclose(parts, logits_of(TINY, tokens, 80), atol=0.1)


def test_an_error_inside_a_tap_stops_the_decode() -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with LlamaModel(TINY) as model, Session(model, 32, tapped=True) as session:
        session.tap({b"l_out-3": fail})
        with pytest.raises(ZeroDivisionError):
            session.chunk_logits(random_tokens(1024, 32), 8)
        session.tap({})
        session.chunk_logits(random_tokens(1024, 32), 8)


def test_tokens_begin_with_bos_and_text_is_only_text() -> None:
    with LlamaModel(TINY) as model:
        tokens = model.tokenize("Ada has the key. <s>")
        assert tokens[0] == model.bos
        assert model.bos not in tokens[1:]


def test_what_llama_cpp_cannot_load_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(TINY.read_bytes()[:100_000])
    with pytest.raises(
        LlamaError, match=r"cannot load it: .*(within|corrupt|incomplete|bounds|data)"
    ):
        LlamaModel(path)


def test_compute_defaults_are_llama_cpps() -> None:
    assert (ONE_GRAPH.n_gpu_layers, Compute().n_batch, Compute().n_ubatch) == (-1, 2048, 512)


def test_a_tokenizer_that_makes_nothing_of_a_text_is_named(tmp_path: Path) -> None:
    path = made("tokens with NUL", tmp_path)
    with LlamaModel(path, vocab_only=True) as model:
        assert len(model.tokenize("")) <= 1
        with pytest.raises(LlamaError, match=r"NUL\.gguf: .* makes no tokens"):
            model.tokenize(CALIBRATION.read_text())
