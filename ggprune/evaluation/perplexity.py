"""Perplexity of a model, and its distance from another one, as llama-perplexity measures them.

Chunks of n_ctx tokens, BOS first, second half scored; n_batch / n_ctx chunks per batch. Both models
are loaded at once and read the same tokens, so no logits need to be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np

from ggprune.errors import DataError
from ggprune.evaluation.baselogits import BaseFile, StoredLogits, open_base, write_base
from ggprune.files.keys import Key
from ggprune.metrics.chunks import Chunks, TextInfo, describe_text, make_chunks, n_scored
from ggprune.metrics.estimates import Divergence, Estimate, Float64, divergence, ppl_estimate
from ggprune.metrics.logits import BaseLogits, Comparison, TokenScores, score_tokens
from ggprune.metrics.text import EVALUATION, Text, shipped_text
from ggprune.progress import SILENT, Progress
from ggprune.runtime.finite import naming
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.sequences import MAX_SEQ
from ggprune.runtime.session import Compute, LlamaModel, Logits, Session, Tokens

N_CTX = 512  # llama-perplexity's default


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one text; `divergence` where it was compared with a base model."""

    path: Annotated[str, Key(name="model.path")]
    text: TextInfo
    ppl: Estimate
    divergence: Annotated[Divergence | None, "from the base model, where there is one"]
    versions: dict[str, str]


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
        subjects = [stack.enter_context(closing(_Subject(path, n_ctx, compute))) for path in paths]
        reference = stack.enter_context(closing(_Reader(base, n_ctx, compute))) if base else None
        models = [subject.model for subject in subjects]
        if stored is not None:
            chunks, info = _stored_chunks(stored, models, n_chunk)
        else:
            first = (reference or subjects[0]).model
            text = text or shipped_text(EVALUATION)
            chunks, info = _text_chunks(text, first, models, n_ctx, n_chunk)
        if save_logits is not None:
            to, force, n_threads = save_logits.path, save_logits.force, subjects[0].n_threads
            saved = write_base(to, chunks, models[0].n_vocab, force=force, n_threads=n_threads)
            subjects[0].save = stack.enter_context(saved)
        readers = [*([reference] if reference is not None else []), *subjects]
        count = _Count(len(readers), chunks, progress)
        for group in chunks.groups(subjects[0].n_seq):
            pieces_of = (count.through(group, reader.pieces(group)) for reader in readers)
            for pieces in zip(*pieces_of, strict=True):
                bases: Bases = None
                if stored is not None:
                    bases = stored.bases(group, pieces[0].rows)
                elif reference is not None:
                    bases = reference.bases(group, pieces[0])
                for subject, piece in zip(subjects, pieces[-len(subjects) :], strict=True):
                    subject.read(group, piece, bases)
    return tuple(subject.evaluation(info) for subject in subjects)


def _text_chunks(
    text: Text, first: LlamaModel, models: Sequence[LlamaModel], n_ctx: int, n_chunk: int | None
) -> tuple[Chunks, TextInfo]:
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


@dataclass(frozen=True)
class _Piece:
    """Some of the scored tokens of chunks that are computed together."""

    rows: slice  # of each chunk's scored tokens
    logits: Logits  # (n_seq, n_row, n_vocab)


Bases = Sequence[BaseLogits] | Sequence[StoredLogits] | None


class _Count:
    """Scored tokens of all models so far, for whoever is told."""

    def __init__(self, n_model: int, chunks: Chunks, progress: Progress) -> None:
        n_chunk, n_ctx = len(chunks), chunks.n_ctx
        self.done, self.total = 0, n_model * n_chunk * n_scored(n_ctx)
        self.progress = progress
        models = "1 model" if n_model == 1 else f"{n_model} models"
        progress.begin(f"{models} on {n_chunk} chunks of {n_ctx} tokens")

    def through(self, group: Chunks, pieces: Iterator[_Piece]) -> Iterator[_Piece]:
        """Pieces as they are computed."""
        for piece in pieces:
            self.done += len(group) * (piece.rows.stop - piece.rows.start)
            self.progress.step(self.done, self.total)
            yield piece


class _Reader:
    """A model and a session for as many chunks at once as a batch holds."""

    def __init__(self, path: Path, n_ctx: int, compute: Compute) -> None:
        self.n_seq = min(max(1, compute.n_batch // n_ctx), MAX_SEQ)
        self.n_threads = compute.n_threads or default_threads()
        self.model = LlamaModel(path, compute)
        self.n_ctx, self.compute = n_ctx, compute

    @cached_property
    def session(self) -> Session:
        """Made when it is first used: the memory of a context is not taken in vain."""
        return Session(self.model, self.n_ctx, n_seq=self.n_seq, compute=self.compute)

    def close(self) -> None:
        if "session" in vars(self):
            self.session.close()
        self.model.close()

    def pieces(self, group: Chunks) -> Iterator[_Piece]:
        """Of the scored tokens of all chunks; each is valid until the next one."""
        n_scored = group[0].n_output - 1  # nobody knows what comes behind the last token
        for rows, logits in self.session.logit_pieces(group.tokens, n_scored + 1):
            stop = min(rows.stop, n_scored)
            if rows.start < stop:
                yield _Piece(slice(rows.start, stop), logits[:, : stop - rows.start])

    def bases(self, group: Chunks, piece: _Piece) -> list[BaseLogits]:
        """What others are compared with, for each chunk, while the piece is valid."""
        with naming(self.model.path):
            return [
                BaseLogits(logits, score_tokens(logits, chunk.targets[piece.rows], self.n_threads))
                for chunk, logits in zip(group, piece.logits, strict=True)
            ]


class _Subject(_Reader):
    """A model that is measured, with the per-token scores of all chunks so far."""

    def __init__(self, path: Path, n_ctx: int, compute: Compute) -> None:
        super().__init__(path, n_ctx, compute)
        self.save: Callable[[Logits], object] | None = None
        self.scores: list[TokenScores] = []
        self.compared: list[Comparison] = []

    def read(self, group: Chunks, piece: _Piece, bases: Bases) -> None:
        with naming(self.model.path):
            for i, (chunk, logits) in enumerate(zip(group, piece.logits, strict=True)):
                targets = chunk.targets[piece.rows]
                if self.save is not None:
                    self.save(logits)
                if bases is None:
                    self.scores.append(score_tokens(logits, targets, self.n_threads))
                else:
                    self.compared.append(bases[i].compare(logits, targets, self.n_threads))
                    self.scores.append(self.compared[-1].scores)

    def evaluation(self, text: TextInfo) -> Evaluation:
        nll = np.concatenate([scores.nll for scores in self.scores])
        compared = self.compared
        distance = divergence(
            nll=nll,
            base_nll=np.concatenate([c.base.nll for c in compared]),
            kld=np.concatenate([c.kld for c in compared]),
            delta_p=np.concatenate([c.delta_p for c in compared]),
            same_top=np.concatenate([c.same_top for c in compared]),
        ) if compared else None  # fmt: skip
        return Evaluation(
            path=str(self.model.path), text=text, ppl=ppl_estimate(nll), divergence=distance,
            versions=versions(),
        )  # fmt: skip


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
