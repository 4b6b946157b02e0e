"""Perplexity by a sliding window, as `llama-perplexity --ppl-stride`: windows of n_ctx tokens that
move on by `stride`, of which the last `stride` tokens are scored.

As there, the window is n_ctx + stride / 2 tokens, rounded up to what llama.cpp makes of a context
(a multiple of 256), and no window but the first has BOS in front. There it works with -b of at most
-c only; here always.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ggprune.errors import DataError
from ggprune.evaluation.perplexity import N_CTX, Evaluation
from ggprune.metrics.chunks import TextInfo
from ggprune.metrics.estimates import Float64, ppl_estimate
from ggprune.metrics.logits import score_tokens
from ggprune.metrics.text import Text
from ggprune.progress import SILENT, Progress
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.session import Compute, LlamaModel, Session, Tokens


def evaluate_strided(
    paths: Sequence[Path],
    text: Text,
    stride: int,
    *,
    n_ctx: int = N_CTX,
    n_chunk: int | None = None,
    compute: Compute | None = None,
    progress: Progress = SILENT,
) -> tuple[Evaluation, ...]:
    """Raises DataError if the text gives less than two windows or the stride is no part of one."""
    compute = compute or Compute()
    n_threads, evaluations = compute.n_threads or default_threads(), []
    for path in paths:
        scored: list[Float64] = []
        with (
            LlamaModel(path, compute) as model,
            Session(model, n_ctx + stride // 2, compute=compute) as session,
        ):
            window = session.n_ctx_made
            windows = _windows(text, model.tokenize(text.content), window, stride, n_chunk)
            for i, tokens in enumerate(windows):
                logits = session.chunk_logits(tokens[None, :], stride + 1, bos=False)[0, :-1]
                scored.append(score_tokens(logits, tokens[-stride:], n_threads).nll)
                progress.step(i + 1, len(windows))
        ppl = ppl_estimate(np.concatenate(scored))
        info = TextInfo(
            source=text.source, sha256=text.sha256, n_ctx=window, n_chunk=len(windows),
            n_token=ppl.n, stride=stride,
        )  # fmt: skip
        evaluations.append(
            Evaluation(path=str(path), text=info, ppl=ppl, divergence=None, versions=versions())
        )
    return tuple(evaluations)


def _windows(text: Text, tokens: Tokens, window: int, stride: int, n_chunk: int | None) -> Tokens:
    """(n_window, window) token ids, a view."""
    if not 0 < stride < window:
        raise DataError(f"--ppl-stride {stride}: expected 1 to {window - 1}, less than a window")
    if len(tokens) < 2 * window:
        raise DataError(
            f"{text.source}: gives {len(tokens)} tokens, at least {2 * window} are needed for "
            f"windows of {window}: use a longer text or a smaller -c"
        )
    n_max = -(-(len(tokens) - window) // stride)
    if n_chunk is not None and n_chunk > n_max:
        raise DataError(f"{text.source}: gives {n_max} windows, {n_chunk} are asked for")
    views = np.lib.stride_tricks.sliding_window_view(tokens, window)[::stride]
    return views[: n_max if n_chunk is None else n_chunk]
