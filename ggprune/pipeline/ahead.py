"""How much is ahead of the whole job: chunks of both texts, and the time that they would take.

The time is that of one chunk, computed in front of the work. It is coarse: pruned and quantized
models are taken to be as slow as the original. Nothing is known of searching, healing, writing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ggprune.metrics.chunks import Chunks, make_chunks
from ggprune.metrics.text import Text
from ggprune.pipeline.options import AutoOptions
from ggprune.progress import duration
from ggprune.runtime.session import LlamaModel, Session


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What has been counted and measured before the work begins."""

    n_ctx: int
    n_rank: int  # chunks to rank on
    n_evaluate: int  # and to judge on
    n_whole: int  # chunks that the text to judge on gives
    chunk_s: float  # of the original

    def evaluating_s(self, n_model: int, n_chunk: int) -> float:
        return n_model * n_chunk * self.chunk_s

    def ranking_s(self, n_layer: int) -> float:
        """At most: the whole model, then without each layer what lies behind it."""
        return self.n_rank * self.chunk_s * (1 + (n_layer - 1) / 2)

    def told(self, n_layer: int, n_model: int) -> str:
        ranking = duration(self.ranking_s(n_layer))
        evaluating = duration(self.evaluating_s(n_model, self.n_evaluate))
        return (
            f"a chunk of {self.n_ctx} tokens takes {self.chunk_s:.2g} s, so ranking on "
            f"{self.n_rank} of them takes {ranking} at most, and evaluating {n_model} models on "
            f"{self.n_evaluate} about {evaluating}"
        )

    def left_out(self, source: str, n_model: int) -> str | None:
        """What is not judged on, if there is any, and what all of it would take."""
        if self.n_evaluate == self.n_whole:
            return None
        whole = duration(self.evaluating_s(n_model, self.n_whole))
        return (
            f"{source}: {self.n_evaluate} of its {self.n_whole} chunks are evaluated on; "
            f"--eval-chunks -1 takes all of them, about {whole}"
        )


def look_ahead(path: Path, calibration: Text, evaluation: Text, options: AutoOptions) -> Ahead:
    """Raises DataError if a text is too short for the model: before the weights are loaded."""
    n_ctx = options.n_ctx
    with LlamaModel(path, vocab_only=True) as model:
        ranked = make_chunks(calibration, model.tokenize, n_ctx, options.n_chunk)
        whole = make_chunks(evaluation, model.tokenize, n_ctx)
    return Ahead(
        n_ctx=n_ctx, n_rank=len(ranked), n_evaluate=len(whole[: options.eval_limit]),
        n_whole=len(whole), chunk_s=_chunk_s(path, whole, options),
    )  # fmt: skip


def _chunk_s(path: Path, chunks: Chunks, options: AutoOptions) -> float:
    """Seconds of one chunk, once the weights are in memory."""
    n_output = chunks[0].n_output
    with (
        LlamaModel(path, options.compute) as model,
        Session(model, chunks.n_ctx, compute=options.compute) as session,
    ):
        session.decode(chunks.tokens[0, :1], 0)  # reads the weights
        session.synchronize()
        start = time.perf_counter()
        session.chunk_logits(chunks.tokens[:1], n_output)
        session.synchronize()
        return time.perf_counter() - start
