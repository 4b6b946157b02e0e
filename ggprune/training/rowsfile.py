"""What the training process reads: rows of tokens, and what llama.cpp says about one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ggprune.metrics.chunks import Chunk, make_chunks
from ggprune.metrics.estimates import Float32, mean_estimate, ppl_estimate
from ggprune.metrics.logits import base_logits
from ggprune.metrics.text import Text
from ggprune.runtime.chat import ChatVocabulary
from ggprune.runtime.compute import Compute
from ggprune.runtime.finite import naming
from ggprune.runtime.library import default_threads
from ggprune.runtime.session import LlamaModel, Session, Tokens
from ggprune.training.options import MAX_JUDGED, Judgement, TrainOptions
from ggprune.training.samples import Corpus, Rows, make_rows, text_to_fit


def read_rows(path: Path, corpus: Corpus, options: TrainOptions) -> tuple[Rows, Rows, Text]:
    """Rows to train on, rows set aside, and what closed-form fitting may see.

    Raises DataError as `make_rows`. Loads the vocabulary alone.
    """
    with LlamaModel(path, vocab_only=True) as model:
        vocabulary = ChatVocabulary(model)
        train, aside = make_rows(
            corpus, vocabulary, options.n_ctx, answers_only=options.answers_only
        )
        return train, aside, text_to_fit(corpus, vocabulary)


def read_chunks(path: Path, text: Text, n_ctx: int, n_chunk: int | None) -> Tokens:
    """The chunks of a text that a ranking computes, (n_chunk, n_ctx), with its BOS in front.

    Raises DataError as `make_chunks`. Loads the vocabulary alone.
    """
    with LlamaModel(path, vocab_only=True) as model:
        tokens: Tokens = make_chunks(text, model.tokenize, n_ctx, n_chunk).tokens.copy()
        if model.bos is not None:
            tokens[:, 0] = model.bos
        return tokens


def row_logits(path: Path, tokens: Tokens, compute: Compute) -> Float32:
    """(n_ctx,) -> (n_ctx, n_vocab), by llama.cpp."""
    n_ctx = len(tokens)
    with LlamaModel(path, compute) as model, Session(model, n_ctx, compute=compute) as session:
        logits: Float32 = session.chunk_logits(tokens[None], n_ctx)[0].copy()
        return logits


def write_rows(
    target: Path, train: Rows, aside: Rows, proof: Tokens, original: Float32, pruned: Float32
) -> None:
    """`proof` is the row that `original` and `pruned`, (n_ctx, n_vocab), speak of."""
    np.savez(
        target, train=train.tokens, train_learned=train.learned, aside=aside.tokens,
        aside_learned=aside.learned, proof=proof, original=original, pruned=pruned,
    )  # fmt: skip


def judge(
    base: Path, paths: Sequence[Path], aside: Rows, compute: Compute
) -> tuple[Judgement, ...]:
    """Models by llama.cpp on the rows set aside, as many as training looks at."""
    rows = range(0, len(aside), -(-len(aside) // MAX_JUDGED))
    n_ctx, n_threads = aside.tokens.shape[1], compute.n_threads or default_threads()
    nll: list[list[np.ndarray]] = [[] for _ in paths]
    kld: list[list[np.ndarray]] = [[] for _ in paths]
    with LlamaModel(base, compute) as model, Session(model, n_ctx, compute=compute) as original:
        for i, path in enumerate(paths):
            with LlamaModel(path, compute) as other, Session(other, n_ctx, compute=compute) as own:
                for n in rows:
                    wanted = aside.learned[n, 1:]
                    chunk = Chunk(n, aside.tokens[n])
                    targets = chunk.tokens[1:][wanted]
                    known = original.chunk_logits(chunk.tokens[None], n_ctx)[0][:-1][wanted]
                    with naming(base):
                        against = base_logits(known, targets, n_threads)
                    logits = own.chunk_logits(chunk.tokens[None], n_ctx)[0][:-1][wanted]
                    with naming(path):
                        result = against.compare(logits, targets, n_threads)
                    nll[i].append(result.scores.nll)
                    kld[i].append(result.kld)
    return tuple(
        Judgement(
            kld=mean_estimate(np.concatenate(kld[i])), ppl=ppl_estimate(np.concatenate(nll[i]))
        )
        for i in range(len(paths))
    )
