"""Perplexity of a model, and its distance from another one, as llama-perplexity measures them.

Chunks of n_ctx tokens, BOS first, second half scored; n_batch / n_ctx chunks per batch. Both models
are loaded at once and read the same tokens, so no logits need to be stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np

from ggprune.errors import DataError
from ggprune.evaluation.baselogits import (
    BaseFile,
    Header,
    StoredLogits,
    compare_stored,
    open_base,
    write_base,
)
from ggprune.files.keys import Key
from ggprune.metrics.chunks import Chunk, Chunks, TextInfo, describe_text, make_chunks, n_scored
from ggprune.metrics.estimates import Divergence, Estimate, divergence, ppl_estimate
from ggprune.metrics.logits import (
    BaseLogits,
    Comparison,
    TokenScores,
    base_logits,
    compare,
    score_tokens,
)
from ggprune.metrics.text import EVALUATION, Text, shipped_text
from ggprune.progress import SILENT, Progress
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.sequences import MAX_SEQ
from ggprune.runtime.session import Compute, LlamaModel, Logits, Session, Tokens

N_CTX = 512  # llama-perplexity's default

Base = BaseLogits | StoredLogits
BaseOf = Callable[[Chunks], Sequence[Base]]  # what the base model says of the scored tokens


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
    n_threads = compute.n_threads or default_threads()
    stored = _open_base(base_logits, n_ctx) if base_logits else None
    n_ctx = stored.header.n_ctx if stored else n_ctx or N_CTX
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(_Reader(path, n_ctx, compute)) for path in paths]
        reference = stack.enter_context(_Reader(base, n_ctx, compute)) if base else None
        models = [reader.model for reader in readers]
        if stored is not None:
            chunks, info = _stored_chunks(stored, models, n_chunk)
        else:
            first = (reference or readers[0]).model
            text = text or shipped_text(EVALUATION)
            chunks, info = _text_chunks(text, first, models, n_ctx, n_chunk)
        subjects = [_Subject(reader, n_threads) for reader in readers]
        if save_logits is not None:
            subjects[0].save = stack.enter_context(
                _saved(save_logits, chunks, models[0].n_vocab, n_threads)
            )
        _measure(subjects, chunks, _base_of(stored, reference, n_threads), progress)
    return tuple(
        Evaluation(
            path=str(path), text=info, ppl=subject.tally.ppl(),
            divergence=subject.tally.divergence(), versions=versions(),
        )
        for path, subject in zip(paths, subjects, strict=True)
    )  # fmt: skip


def _open_base(path: Path, n_ctx: int | None) -> BaseFile:
    stored = open_base(path)
    if n_ctx not in (None, stored.header.n_ctx):
        raise DataError(
            f"{path}: was computed with chunks of {stored.header.n_ctx} tokens, {n_ctx} are asked "
            "for: leave -c away"
        )
    return stored


def _text_chunks(
    text: Text, first: LlamaModel, models: Sequence[LlamaModel], n_ctx: int, n_chunk: int | None
) -> tuple[Chunks, TextInfo]:
    chunks = make_chunks(text, first.tokenize, n_ctx, n_chunk)
    for model in models:
        _check_same_tokens(model, first, text)
    return chunks, describe_text(text, n_ctx, len(chunks))


def _stored_chunks(
    stored: BaseFile, models: Sequence[LlamaModel], n_chunk: int | None
) -> tuple[Chunks, TextInfo]:
    header = stored.header
    for model in models:
        if model.n_vocab != header.n_vocab:
            raise DataError(
                f"{model.path} has {model.n_vocab} tokens, {stored.path} has {header.n_vocab}: "
                "their probabilities cannot be compared"
            )
    if n_chunk is not None and n_chunk > header.n_chunk:
        raise DataError(f"{stored.path}: has {header.n_chunk} chunks, {n_chunk} are asked for")
    chunks = stored.chunks[:n_chunk]
    info = TextInfo(
        source=str(stored.path), sha256=None, n_ctx=header.n_ctx, n_chunk=len(chunks),
        n_token=len(chunks) * n_scored(header.n_ctx),
    )  # fmt: skip
    return chunks, info


def _saved(
    to: SaveLogits, chunks: Chunks, n_vocab: int, n_threads: int
) -> contextlib.AbstractContextManager[Callable[[Logits], None]]:
    header = Header(chunks.n_ctx, n_vocab, len(chunks))
    return write_base(to.path, header, chunks, force=to.force, n_threads=n_threads)


def _base_of(stored: BaseFile | None, reference: _Reader | None, n_threads: int) -> BaseOf | None:
    """Where the base's numbers come from: a file, a model, or nowhere."""
    if stored is not None:
        return lambda group: [stored.read(chunk) for chunk in group]
    if reference is None:
        return None

    def score(group: Chunks) -> list[Base]:
        pairs = zip(group, reference.logits(group), strict=True)
        return [base_logits(rows, chunk.targets, n_threads) for chunk, rows in pairs]

    return score


def _measure(
    subjects: Sequence[_Subject], chunks: Chunks, base_of: BaseOf | None, progress: Progress
) -> None:
    """All subjects on a group of chunks, then on the next one."""
    for group in chunks.groups(subjects[0].reader.n_seq):
        base = base_of(group) if base_of is not None else None
        for subject in subjects:
            subject.read(group, base)
        progress.step(group.first + len(group), len(chunks))


class _Reader:
    """A model and a session for as many chunks at once as a batch holds."""

    def __init__(self, path: Path, n_ctx: int, compute: Compute) -> None:
        self.n_seq = min(max(1, compute.n_batch // n_ctx), MAX_SEQ)
        self.model = LlamaModel(path, compute)
        self.n_ctx, self.compute = n_ctx, compute

    @cached_property
    def session(self) -> Session:
        """Made when it is first used: the memory of a context is not taken in vain."""
        return Session(self.model, self.n_ctx, n_seq=self.n_seq, compute=self.compute)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if "session" in vars(self):
            self.session.close()
        self.model.close()

    def logits(self, group: Chunks) -> Logits:
        """Logits of the scored tokens, (n_seq, n_scored, n_vocab), valid until the next call."""
        return self.session.chunk_logits(group.tokens, group.n_output)[:, : group.n_scored]


class _Subject:
    """A model that is measured: what reads, what counts, and whoever wants the logits."""

    def __init__(self, reader: _Reader, n_threads: int) -> None:
        self.reader, self.tally = reader, _Tally(n_threads)
        self.save: Callable[[Logits], None] | None = None

    def read(self, group: Chunks, base: Sequence[Base] | None) -> None:
        for i, (chunk, rows) in enumerate(zip(group, self.reader.logits(group), strict=True)):
            if self.save is not None:
                self.save(rows)
            self.tally.add(chunk, rows, base[i] if base is not None else None)


class _Tally:
    """Per-token scores of all chunks so far."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.scores: list[TokenScores] = []
        self.base: list[TokenScores] = []
        self.compared: list[Comparison] = []

    def add(self, chunk: Chunk, rows: Logits, base: Base | None) -> None:
        """Logits of the chunk's scored tokens, (n_scored, n_vocab)."""
        if base is None:
            self.scores.append(score_tokens(rows, chunk.targets, self.n_threads))
            return
        comparison = _compare(base, rows, chunk.targets, self.n_threads)
        self.scores.append(comparison.scores)
        self.base.append(base.scores)
        self.compared.append(comparison)

    def ppl(self) -> Estimate:
        return ppl_estimate(np.concatenate([s.nll for s in self.scores]))

    def divergence(self) -> Divergence | None:
        if not self.compared:
            return None
        return divergence(
            nll=np.concatenate([s.nll for s in self.scores]),
            base_nll=np.concatenate([s.nll for s in self.base]),
            kld=np.concatenate([c.kld for c in self.compared]),
            delta_p=np.concatenate(
                [s.p - b.p for s, b in zip(self.scores, self.base, strict=True)]
            ),
            same_top=np.concatenate([c.same_top for c in self.compared]),
        )


def _compare(base: Base, logits: Logits, targets: Tokens, n_threads: int) -> Comparison:
    if isinstance(base, StoredLogits):
        return compare_stored(base, logits, targets, n_threads)
    return compare(base, logits, targets, n_threads)


def _check_same_tokens(model: LlamaModel, base: LlamaModel, text: Text) -> None:
    if model.n_vocab != base.n_vocab:
        raise DataError(
            f"{model.path} has {model.n_vocab} tokens, {base.path} has {base.n_vocab}: "
            "their probabilities cannot be compared"
        )
    if not np.array_equal(model.tokenize(text.content), base.tokenize(text.content)):
        raise DataError(f"{model.path} and {base.path} split the text into different tokens")
