"""What the whole job says of itself before it begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ggprune.errors import DataError
from ggprune.metrics.text import Text, read_text
from ggprune.pipeline.ahead import Ahead, look_ahead
from ggprune.pipeline.options import ALL, EVAL_TOKENS, AutoOptions
from ggprune.scoring.target import DropRequest, Goal, Target
from tests.conftest import CALIBRATION, EVALUATION, TINY

AHEAD = Ahead(n_ctx=512, n_rank=30, n_evaluate=64, n_whole=938, chunk_s=1.5)
OPTIONS = AutoOptions(request=DropRequest(Target(Goal.LAYERS, 1)))


def test_the_time_is_that_of_as_many_chunks() -> None:
    assert AHEAD.ranking_s(n_layer=9) == 30 * 1.5 * 5  # all, and eight halves
    assert AHEAD.told(n_layer=9, n_model=4) == (
        "a chunk of 512 tokens takes 1.5 s, so ranking on 30 of them takes 3 min 45 s at most, and "
        "evaluating 4 models on 64 about 6 min 24 s"
    )
    assert AHEAD.left_out("wiki.txt", 4) == (
        "wiki.txt: 64 of its 938 chunks are evaluated on; --eval-chunks -1 takes all of them, "
        "about 1 h 34 min"
    )
    assert replace(AHEAD, n_whole=64).left_out("wiki.txt", 4) is None


@pytest.mark.parametrize(
    ("n_ctx", "asked", "n_evaluate"),
    [(128, None, 142), (128, 3, 3), (128, ALL, 142), (128, 1000, 142), (8, None, 2285)],
)
def test_chunks_are_counted_and_one_is_timed(
    n_ctx: int, asked: int | None, n_evaluate: int
) -> None:
    options = replace(OPTIONS, n_ctx=n_ctx, n_chunk=5, n_eval_chunk=asked)
    ahead = look_ahead(TINY, read_text(CALIBRATION), read_text(EVALUATION), options)
    assert (ahead.n_rank, ahead.n_evaluate) == (5, n_evaluate)
    assert ahead.n_whole == {128: 142, 8: 2285}[n_ctx]
    assert ahead.chunk_s > 0


def test_a_long_text_is_not_judged_on_whole() -> None:
    long = Text("long", read_text(EVALUATION).content * 4)
    options = replace(OPTIONS, n_chunk=2)
    ahead = look_ahead(TINY, read_text(CALIBRATION), long, options)
    assert ahead.n_evaluate == EVAL_TOKENS // 512 < ahead.n_whole
    whole = look_ahead(TINY, long, long, replace(options, n_eval_chunk=ALL))
    assert whole.n_evaluate == whole.n_whole == ahead.n_whole


def test_a_short_text_is_said_before_the_weights_are_loaded() -> None:
    with pytest.raises(DataError, match="short: gives"):
        look_ahead(TINY, read_text(CALIBRATION), Text("short", "Once."), OPTIONS)
