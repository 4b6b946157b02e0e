"""Loaded by workers of a test: llama.cpp's way to end a process, on one cut of one chunk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ggprune.metrics.chunks import Chunk
from ggprune.model.cut import Cut
from ggprune.scoring.measure import Measurer
from ggprune.scoring.rows import NOTHING, Rows

right = Measurer.rows


def rows(
    self: Measurer, chunk: Chunk, cuts: Sequence[Cut], within: Cut = NOTHING
) -> Iterator[Rows]:
    if chunk.number == 2 and Cut.of((5,)) in cuts:
        os.write(2, b"ggml.c:1: GGML_ASSERT(no) failed\n")
        os.abort()
    return right(self, chunk, cuts, within)


def dask_setup(worker: object) -> None:
    Measurer.rows = rows  # type: ignore[method-assign]
