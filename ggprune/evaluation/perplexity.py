"""Perplexity of a model, and its distance from another one, as llama-perplexity measures them.

Chunks of n_ctx tokens, BOS first, second half scored; n_batch / n_ctx chunks per batch. Both models
are loaded at once and read the same tokens, so no logits need to be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from ggprune.errors import DataError
from ggprune.evaluation.baselogits import BaseFile, open_base, write_base
from ggprune.evaluation.readers import Count, Readers, Scored
from ggprune.files.keys import Key
from ggprune.metrics.chunks import Chunks, TextInfo, describe_text, make_chunks, n_scored
from ggprune.metrics.estimates import Divergence, Estimate, Float64, divergence, ppl_estimate
from ggprune.metrics.logits import score_tokens
from ggprune.metrics.text import EVALUATION, Text, shipped_text
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.finite import naming
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.session import LlamaModel, Session, Tokens
from ggprune.runtime.workers import KindInfo, WorkerInfo

N_CTX = 512  # llama-perplexity's default


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one text; `divergence` where it was compared with a base model."""

    path: Annotated[str, Key(name="model.path")]
    text: TextInfo
    ppl: Estimate
    divergence: Annotated[Divergence | None, "from the base model, where there is one"]
    versions: dict[str, str]
    workers: Annotated[tuple[WorkerInfo, ...] | None, Key(optional=True),
        "with --workers or --scheduler: who measured"] = None  # fmt: skip
    kinds: Annotated[tuple[KindInfo, ...] | None, Key(optional=True),
        "with --mixed: which chunks were computed by what"] = None  # fmt: skip


@dataclass(frozen=True)
class SaveLogits:
    """Where to write a model's logits for others to be compared with."""

    path: Path
    force: bool = False  # replace a file that is there


def evaluate(
    paths: Sequence[Path],
    text: Text | None = None,
    *,
    base: Path | None = None,
    base_logits: Path | None = None,
    save_logits: SaveLogits | None = None,
    n_ctx: int | None = None,
    n_chunk: int | None = None,
    compute: Compute | None = None,
    progress: Progress = SILENT,
) -> tuple[Evaluation, ...]:
    """Perplexity of every model; with `base` also how far each is from that model, computed once.

    `base_logits` is a file that has the tokens and stands for text and base; `n_ctx` is 512, or
    the file's. `save_logits` writes such a file of the first model.
    Raises DataError if the text is too short, the models read it as different tokens, or the file
    is not for them; LlamaError if llama.cpp cannot load or compute a model; OutputError.
    """
    compute = compute or Compute()
    stored = open_base(base_logits, n_ctx) if base_logits else None
    n_ctx = stored.header.n_ctx if stored else n_ctx or N_CTX
    with ExitStack() as stack:
        readers = stack.enter_context(Readers(paths, base, n_ctx, compute))
        models = [subject.model for subject in readers.subjects]
        if stored is not None:
            chunks, info = _stored_chunks(stored, models, n_chunk)
        else:
            text = text or shipped_text(EVALUATION)
            first = readers.all[0].model
            chunks, info = text_chunks(text, first, models, n_ctx, n_chunk)
        if save_logits is not None:
            first_one = readers.subjects[0]
            to, force, n_threads = save_logits.path, save_logits.force, first_one.n_threads
            saved = write_base(to, chunks, models[0].n_vocab, force=force, n_threads=n_threads)
            first_one.save = stack.enter_context(saved)
        count = Count(len(readers.all), chunks, progress)
        groups = chunks.groups(readers.n_seq)
        scored = [readers.read(group, stored, count) for group in groups]
    return evaluations_of(paths, info, scored)


def evaluations_of(
    paths: Sequence[Path], text: TextInfo, groups: Sequence[Sequence[Scored]]
) -> tuple[Evaluation, ...]:
    """Of every model, from what it did on each group of chunks."""
    return tuple(
        _evaluation(path, text, parts)
        for path, parts in zip(paths, zip(*groups, strict=True), strict=True)
    )


def _evaluation(path: Path, text: TextInfo, parts: Sequence[Scored]) -> Evaluation:
    nll = np.concatenate([part.nll for part in parts])
    distance = None
    if parts[0].kld is not None:
        whole = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("base_nll", "kld", "delta_p", "same_top")
        }
        distance = divergence(nll=nll, **whole)
    return Evaluation(
        path=str(path), text=text, ppl=ppl_estimate(nll), divergence=distance, versions=versions()
    )


def text_chunks(
    text: Text, first: LlamaModel, models: Sequence[LlamaModel], n_ctx: int, n_chunk: int | None
) -> tuple[Chunks, TextInfo]:
    """Raises DataError if the models read the text as different tokens, or it is too short."""
    tokens = first.tokenize(text.content)
    chunks = make_chunks(text, lambda _: tokens, n_ctx, n_chunk)
    for model in models:
        _check_vocabulary(model, first.path, first.n_vocab)
        if model is not first and not np.array_equal(model.tokenize(text.content), tokens):
            raise DataError(f"{model.path} and {first.path} split the text into different tokens")
    return chunks, describe_text(text, n_ctx, len(chunks))


def _stored_chunks(
    stored: BaseFile, models: Sequence[LlamaModel], n_chunk: int | None
) -> tuple[Chunks, TextInfo]:
    header = stored.header
    for model in models:
        _check_vocabulary(model, stored.path, header.n_vocab)
    chunks = stored.chunks[:n_chunk]
    info = TextInfo(
        source=str(stored.path), sha256=None, n_ctx=header.n_ctx, n_chunk=len(chunks),
        n_token=len(chunks) * n_scored(header.n_ctx),
    )  # fmt: skip
    return chunks, info


def _check_vocabulary(model: LlamaModel, base: Path, n_vocab: int) -> None:
    if model.n_vocab != n_vocab:
        raise DataError(
            f"{model.path} has {model.n_vocab} tokens, {base} has {n_vocab}: "
            "their probabilities cannot be compared"
        )


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
    """Perplexity by a sliding window, as `--ppl-stride`: the last `stride` tokens of each count.

    As there, a window is n_ctx + stride / 2 tokens, rounded up to what llama.cpp makes of a context
    (a multiple of 256), and no window but the first has BOS in front. There it works with -b of at
    most -c only; here always.
    Raises DataError if the text gives less than two windows or the stride is no part of one.
    """
    compute = compute or Compute()
    n_threads, evaluations = compute.n_threads or default_threads(), []
    for path in paths:
        scored: list[Float64] = []
        with (
            naming(path),
            LlamaModel(path, compute) as model,
            Session(model, n_ctx + stride // 2, compute=compute) as session,
        ):
            window = session.n_ctx_made
            windows = _windows(text, model.tokenize(text.content), window, stride, n_chunk)
            for i, tokens in enumerate(windows):
                logits = session.chunk_logits(tokens[None, :], stride + 1, bos=False)[0, :-1]
                scored.append(score_tokens(logits, tokens[-stride:], n_threads).nll)
                progress.step((i + 1) * stride, len(windows) * stride)
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
    views = np.lib.stride_tricks.sliding_window_view(tokens, window)[::stride]
    return views[:n_max][:n_chunk]
