"""Perplexity of a model, and its distance from another one, as llama-perplexity measures them.

Chunks of n_ctx tokens, BOS first, second half scored; n_batch / n_ctx chunks per batch. Both models
are loaded at once and read the same tokens, so no logits need to be stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
from ggprune.metrics.chunks import Tokens, describe_text, make_chunks, n_scored
from ggprune.metrics.divergence import Divergence, divergence
from ggprune.metrics.estimates import Estimate, ppl_estimate
from ggprune.metrics.logits import (
    BaseLogits,
    Comparison,
    TokenScores,
    base_logits,
    compare,
    score_tokens,
)
from ggprune.metrics.text import EVALUATION, Text, shipped_text
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.sequences import MAX_SEQ
from ggprune.runtime.session import Compute, LlamaModel, Logits, Session

N_CTX = 512  # llama-perplexity's default

Base = BaseLogits | StoredLogits
Progress = Callable[[int, int], object]  # done, total


@dataclass(frozen=True)
class Evaluation:
    """One model on one text; `divergence` where it was compared with a base model."""

    path: str
    text: dict[str, Any]
    ppl: Estimate
    divergence: Divergence | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": {"path": self.path},
            "text": self.text,
            "ppl": self.ppl.to_json(),
            "divergence": self.divergence.to_json() if self.divergence else None,
            "versions": self.versions,
        }


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
    progress: Progress | None = None,
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
        subjects = [stack.enter_context(_Reader(path, n_ctx, compute)) for path in paths]
        reference = stack.enter_context(_Reader(base, n_ctx, compute)) if base else None
        first = reference or subjects[0]
        models = [subject.model for subject in subjects]
        if stored is not None:
            chunks, about = _stored_chunks(stored, models, n_chunk)
        else:
            text = text or shipped_text(EVALUATION)
            chunks, about = _text_chunks(text, first.model, models, n_ctx, n_chunk)
        header = Header(n_ctx, subjects[0].model.n_vocab, len(chunks))
        append = stack.enter_context(
            write_base(save_logits.path, header, chunks, force=save_logits.force,
                       n_threads=n_threads)
        ) if save_logits else None  # fmt: skip
        tallies = [_Tally(n_threads) for _ in subjects]
        for group in first.groups(chunks):
            scores: Sequence[Base] | None = None
            if stored is not None:
                scores = _read_base(stored, group, tallies[0].n_chunk)
            elif reference is not None:
                scores = _score_base(reference, group, n_threads)
            for subject, tally in zip(subjects, tallies, strict=True):
                logits = subject.logits(group)
                if append is not None and subject is subjects[0]:
                    for rows in logits:
                        append(rows)
                tally.add(group, logits, scores)
            if progress is not None:
                progress(tallies[0].n_chunk, len(chunks))
    return tuple(
        Evaluation(str(path), about, tally.ppl(), tally.divergence(), versions())
        for path, tally in zip(paths, tallies, strict=True)
    )


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
) -> tuple[Tokens, dict[str, Any]]:
    chunks = make_chunks(text, first.tokenize, n_ctx, n_chunk).tokens
    for model in models:
        _check_same_tokens(model, first, text)
    return chunks, vars(describe_text(text, n_ctx, len(chunks)))


def _stored_chunks(
    stored: BaseFile, models: Sequence[LlamaModel], n_chunk: int | None
) -> tuple[Tokens, dict[str, Any]]:
    header = stored.header
    for model in models:
        if model.n_vocab != header.n_vocab:
            raise DataError(
                f"{model.path} has {model.n_vocab} tokens, {stored.path} has {header.n_vocab}: "
                "their probabilities cannot be compared"
            )
    if n_chunk is not None and n_chunk > header.n_chunk:
        raise DataError(f"{stored.path}: has {header.n_chunk} chunks, {n_chunk} are asked for")
    chunks = stored.tokens[:n_chunk]
    about = {
        "source": str(stored.path), "sha256": None, "n_ctx": header.n_ctx, "n_chunk": len(chunks),
        "n_token": len(chunks) * n_scored(header.n_ctx),
    }  # fmt: skip
    return chunks, about


def _read_base(stored: BaseFile, group: Tokens, start: int) -> list[Base]:
    return [stored.read(start + i, _targets(chunk)) for i, chunk in enumerate(group)]


def _score_base(reference: _Reader, group: Tokens, n_threads: int) -> list[Base]:
    rows = reference.logits(group)
    return [base_logits(rows[i], _targets(chunk), n_threads) for i, chunk in enumerate(group)]


def _targets(chunk: Tokens) -> Tokens:
    """The tokens to predict: those behind the scored ones."""
    return chunk[len(chunk) // 2 + 1 :]


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

    def groups(self, chunks: Tokens) -> Iterator[Tokens]:
        for start in range(0, len(chunks), self.n_seq):
            yield chunks[start : start + self.n_seq]

    def logits(self, group: Tokens) -> Logits:
        """Logits of the scored tokens, (n_seq, n_scored, n_vocab), valid until the next call."""
        n_ctx = group.shape[1]
        return self.session.chunk_logits(group, n_ctx - n_ctx // 2)[:, : n_scored(n_ctx)]


class _Tally:
    """Per-token scores of all chunks so far."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.n_chunk = 0
        self.scores: list[TokenScores] = []
        self.base: list[TokenScores] = []
        self.compared: list[Comparison] = []

    def add(self, group: Tokens, logits: Logits, base: Sequence[Base] | None) -> None:
        """Logits of the scored tokens of a group of chunks, (n_seq, n_scored, n_vocab)."""
        for i, chunk in enumerate(group):
            targets = _targets(chunk)
            if base is None:
                self.scores.append(score_tokens(logits[i], targets, self.n_threads))
            else:
                comparison = _compare(base[i], logits[i], targets, self.n_threads)
                self.scores.append(comparison.scores)
                self.base.append(base[i].scores)
                self.compared.append(comparison)
            self.n_chunk += 1

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
