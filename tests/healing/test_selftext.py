"""What a model writes itself to be healed with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError, LlamaError
from ggprune.healing.result import is_aside
from ggprune.healing.selftext import (
    SelfTextOptions,
    draw,
    enough_tokens,
    stand_in,
    write_self_text,
)
from ggprune.metrics.text import CALIBRATION, Text, shipped_text
from ggprune.model.model import Model, open_model
from ggprune.pipeline.selftext import text_to_fit
from ggprune.runtime.session import LlamaModel
from ggprune.runtime.vocabulary import Vocabulary
from tests.conftest import TINY
from tests.helpers import ONE_GRAPH, Steps, without_progress

FEW = SelfTextOptions(n_token=1024, n_ctx=128, compute=ONE_GRAPH)


def n_token(text: Text) -> int:
    with LlamaModel(TINY, vocab_only=True) as model:
        return len(model.tokenize(text.content))


def test_a_token_is_where_the_distribution_function_exceeds_the_number() -> None:
    row = np.log(np.array([0.25, 0.5, 0.25], np.float32))
    uniform = np.array([0.0, 0.2499, 0.2501, 0.7499, 0.7501, np.nextafter(1.0, 0.0)])
    assert draw(np.tile(row, (6, 1)), uniform).tolist() == [0, 0, 1, 1, 2, 2]


def test_equal_logits_are_drawn_equally_often() -> None:
    uniform = (np.arange(800) + 0.5) / 800
    tokens = draw(np.full((800, 8), 3.0, np.float32), uniform)
    assert np.bincount(tokens).tolist() == [100] * 8


@pytest.mark.parametrize("token", [0, 3, 6])
def test_what_is_certain_is_always_drawn(token: int) -> None:
    logits = np.full((3, 7), -1e4, np.float32)
    logits[:, token] = 1e4
    assert draw(logits, np.array([0.0, 0.5, np.nextafter(1.0, 0.0)])).tolist() == [token] * 3


def test_frequencies_are_those_of_the_softmax() -> None:
    rng = np.random.default_rng(1)
    row = rng.normal(0, 2, 50).astype(np.float32)
    expected = np.exp(row.astype(np.float64)) / np.exp(row.astype(np.float64)).sum()
    n = 20_000
    seen = np.bincount(draw(np.tile(row, (n, 1)), rng.random(n)), minlength=50) / n
    assert np.abs(seen - expected).max() < 5 * np.sqrt(0.25 / n)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(LlamaError, match="not finite"):
        draw(np.array([[0.0, bad]], np.float32), np.array([0.5]))


def test_as_many_tokens_as_asked_for_and_few_more(tiny: Model) -> None:
    steps = Steps()
    text = write_self_text(tiny, FEW, steps)
    assert 1024 <= n_token(text) < 1024 + 128 + 8
    assert text.source == "a text written by tiny.gguf (seed 0)"
    assert text.content.encode("utf-8").decode("utf-8") == text.content
    assert steps.seen[-1] == (1024, 1024)
    done = [done for done, _ in steps.seen]
    assert done == sorted(done)
    assert done[-2] < 1024


def test_what_is_written_is_likely_to_the_model(tiny: Model) -> None:
    """The model has learnt what these words mean; random tokens hardly ever spell one."""
    words = set(shipped_text(CALIBRATION).content.split())
    written = write_self_text(tiny, FEW).content.split()
    assert len(written) > 300
    assert sum(word in words for word in written) < len(written)  # it is no copy
    known = set((TINY.parent / "calibration.txt").read_text("utf-8").split())
    assert sum(word in known for word in written) > 0.8 * len(written)


def test_a_seed_is_a_text(tiny: Model) -> None:
    text = write_self_text(tiny, FEW)
    assert write_self_text(tiny, FEW) == text
    other = write_self_text(tiny, replace(FEW, seed=1))
    assert other.content != text.content
    assert "seed 1" in other.source


def test_more_of_it_begins_with_the_same(tiny: Model) -> None:
    """However many are written together: but for the logits' last bits, which may tip a token."""
    less = write_self_text(tiny, FEW).content.splitlines()
    more = write_self_text(tiny, replace(FEW, n_token=1500, n_seq=5)).content.splitlines()
    assert len(more) > len(less)
    assert len(set(less) & set(more)) > 0.5 * len(set(less))


def test_a_text_in_the_cache_needs_no_model(tiny: Model, tmp_path: Path) -> None:
    path, cache = tmp_path / "model.gguf", tmp_path / "cache"
    shutil.copy(TINY, path)
    model, options = open_model(path), replace(FEW, cache=cache)
    text = write_self_text(model, options)
    assert text == replace(write_self_text(tiny, FEW), source=text.source)
    model.fingerprint  # noqa: B018  # is remembered, and says which text it is
    path.unlink()
    steps = Steps()
    assert write_self_text(model, options, steps) == text
    assert steps.seen == []
    with pytest.raises(LlamaError):
        write_self_text(model, replace(options, seed=1))


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"source": 3}'])
def test_a_damaged_text_is_written_again(tiny: Model, tmp_path: Path, damage: bytes) -> None:
    options = replace(FEW, cache=tmp_path)
    text = write_self_text(tiny, options)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert write_self_text(tiny, options) == text
    kept.write_bytes(whole.replace(b"the", b"The", 1))
    assert write_self_text(tiny, options) == text
    assert kept.read_bytes() == whole


def test_a_model_without_a_first_token_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "mute.gguf"
    raw = TINY.read_bytes()
    assert raw.count(b"gpt2") == 1
    path.write_bytes(raw.replace(b"gpt2", b"none"))
    with pytest.raises(DataError, match=r"mute.gguf: .*neither BOS nor EOS, so .* with -f"):
        write_self_text(open_model(path), FEW)


def test_a_model_that_writes_nothing_is_not_asked_for_ever(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vocabulary, "piece", lambda *_: b"")
    with pytest.raises(DataError, match=r"tiny.gguf: writes next to nothing: \d+ tokens .* -f"):
        write_self_text(tiny, replace(FEW, n_token=64, n_ctx=16))


def test_an_end_is_a_line_break_and_broken_characters_are_marked(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vocabulary, "piece", lambda *_: b"x\xc3")
    monkeypatch.setattr(Vocabulary, "is_end", lambda _, token: token % 2 == 0)
    text = write_self_text(tiny, FEW).content
    assert set(text) == {"x", "\ufffd", "\n"}


def test_a_text_that_stands_in_has_as_many_tokens(tiny: Model) -> None:
    for n in (1024, 50_000):
        assert n <= n_token(stand_in(tiny, n, shipped_text(CALIBRATION))) < n + 64


@pytest.mark.parametrize(("n_input", "n_ctx"), [(256, 512), (256, 128), (576, 512), (7, 8)])
def test_enough_is_enough_and_no_more(n_input: int, n_ctx: int) -> None:
    def n_fitted(n_chunk: int) -> int:
        return n_ctx * sum(not is_aside(number) for number in range(n_chunk))

    n_chunk, rest = divmod(enough_tokens(n_input, n_ctx), n_ctx)
    assert rest == 0
    assert n_fitted(n_chunk) >= 20 * n_input > n_fitted(n_chunk - 2)


def test_a_given_text_stands_in_front(tiny: Model) -> None:
    given = Text("given.txt", "It is in the library.")
    assert text_to_fit(tiny, given, None) == given
    assert text_to_fit(tiny, None, None) == shipped_text(CALIBRATION)
    own = text_to_fit(tiny, None, FEW)
    assert own == write_self_text(tiny, FEW)
    both = text_to_fit(tiny, given, FEW)
    assert both.content == f"{given.content}\n{own.content}"
    assert both.source == "given.txt and a text written by tiny.gguf (seed 0)"


def heal(*args: object) -> subprocess.CompletedProcess[str]:
    command = ("heal", "--prune-layers", "2,3,5", "-t", 1, *args)
    return subprocess.run(
        [sys.executable, "-m", "ggprune", *map(str, command)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_model_is_healed_with_what_it_writes(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    planned = heal("--self-text", 4096, TINY, out, "--dry-run")
    assert "text     3584 tokens" in planned.stdout
    assert "or --self-text" in planned.stdout
    done = heal("--self-text", 4096, TINY, out)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert "fitted to 3584 tokens of a text written by tiny.gguf (seed 0)" in done.stdout
    assert open_model(out).n_layer == 6


def test_too_short_a_text_names_how_many_tokens_to_write(tmp_path: Path) -> None:
    text, out = tmp_path / "short.txt", tmp_path / "out.gguf"
    text.write_text(shipped_text(CALIBRATION).content[:2000], "utf-8")
    done = heal("-c", 64, "-f", text, TINY, out)
    assert done.returncode == 1
    assert f"--self-text {enough_tokens(256, 64)}" in done.stderr
    assert not out.exists()
