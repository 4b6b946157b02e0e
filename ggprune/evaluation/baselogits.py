"""Files of base logits as llama-perplexity writes and reads them (`--save-all-logits`).

`_logits_`, then n_ctx, n_vocab, n_chunk (int32), the tokens of all chunks (int32), then for every
scored token of every chunk a row of 16-bit numbers: scale and lowest log-probability (two float32),
n_vocab values, padded to an even count. log p = scale * value + lowest; what is 16 below the
largest logit or less is 0. Arithmetic is float32 as in tools/perplexity/perplexity.cpp.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError
from ggprune.files.outputs import PendingFile, check_output, write_errors
from ggprune.files.reading import read_bytes
from ggprune.metrics.chunks import Chunks, n_scored
from ggprune.metrics.estimates import Float32
from ggprune.metrics.logits import Comparison, TokenScores, for_blocks, log_sum_exp, score_tokens
from ggprune.runtime.session import Logits, Tokens

MAGIC = b"_logits_"
HEADER = struct.Struct("<8s3i")
SCALE_VALUES = 4  # scale and lowest, in units of 16 bits
RANGE = 16.0  # nats below the largest logit, and the log-probability that no longer counts
STEPS = np.float32(65535.0)
ROUNDING = 0.01  # nats, and more than float32 loses


@dataclass(frozen=True)
class Header:
    """What the file is about; everything else follows from these."""

    n_ctx: int
    n_vocab: int
    n_chunk: int

    @property
    def row_values(self) -> int:
        return 2 * ((self.n_vocab + 1) // 2) + SCALE_VALUES

    @property
    def chunk_values(self) -> int:
        return n_scored(self.n_ctx) * self.row_values

    @property
    def tokens_end(self) -> int:
        return HEADER.size + 4 * self.n_ctx * self.n_chunk

    @property
    def size_bytes(self) -> int:
        return self.tokens_end + 2 * self.chunk_values * self.n_chunk


@dataclass(frozen=True)
class StoredLogits:
    """A base model's log-probabilities for the scored tokens of one chunk, as stored."""

    values: NDArray[np.uint16]  # (n_token, n_vocab)
    ends: Float32  # (n_token, 2): scale, lowest
    scores: TokenScores

    @property
    def is_plausible(self) -> bool:
        """Are the log-probabilities in the range that the format has for them?"""
        scale, lowest = self.ends.T.astype(np.float64)
        least = -RANGE - np.log(self.values.shape[1]) - ROUNDING
        # NaN is in no range.
        ends = (scale >= 0) & (lowest >= least) & (scale * STEPS + lowest <= ROUNDING)
        return bool(ends.all())

    def log_p(self, part: slice, out: Float32) -> Float32:
        """Of these tokens, (n_row, n_vocab), put into `out`: twice the size of what is stored."""
        np.multiply(self.values[part], self.ends[part, :1], out=out)
        out += self.ends[part, 1:]
        return out

    def compare(self, logits: Logits, targets: Tokens, n_threads: int = 1) -> Comparison:
        """As `BaseLogits.compare`, with what was stored taken as it is: the base's probabilities
        need not add up to one, and those of e^-16 or less do not count.
        """
        scores, kld = score_tokens(logits, targets, n_threads), np.empty(len(logits))

        def fill(part: slice, scratch: Float32) -> None:
            log_p = self.log_p(part, scratch[0])
            p = np.exp(log_p, out=scratch[1])
            p *= log_p > -RANGE
            log_p -= logits[part]
            log_p += scores.log_sum_exp[part, None].astype(np.float32)
            p *= log_p
            kld[part] = p.sum(axis=1, dtype=np.float64)

        for_blocks(fill, logits.shape, n_threads, n_scratch=2)
        return Comparison(scores, self.scores, kld)


@dataclass(frozen=True)
class BaseFile:
    """An open file; chunks are read when they are asked for."""

    path: Path
    header: Header
    chunks: Chunks

    def bases(self, group: Chunks, rows: slice) -> list[StoredLogits]:
        """What the base model said of these of the scored tokens of each chunk."""
        header, bases = self.header, []
        n_value = (rows.stop - rows.start) * header.row_values
        for chunk in group:
            start = header.chunk_values * chunk.number + header.row_values * rows.start
            offset = header.tokens_end + 2 * start
            values = np.fromfile(self.path, np.uint16, n_value, offset=offset)
            if len(values) != n_value:
                raise DataError(f"{self.path}: became shorter while it was read")
            stored = decode_rows(
                values.reshape(-1, header.row_values), header.n_vocab, chunk.targets[rows]
            )
            if not stored.is_plausible:
                where = f"{self.path}: damaged: chunk {chunk.number}"
                raise DataError(f"{where} has log-probabilities that are none")
            bases.append(stored)
        return bases


def open_base(path: Path, n_ctx: int | None = None) -> BaseFile:
    """Raises DataError if it is no such file, damaged, not complete, or of another `n_ctx`."""
    data = read_bytes(path, HEADER.size)
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise DataError(f"{path}: not a file of base logits, it does not begin with _logits_")
    header = Header(*HEADER.unpack(data)[1:])
    if header.n_ctx < 4 or header.n_vocab < 1 or header.n_chunk < 1:
        sizes = f"n_ctx {header.n_ctx}, {header.n_vocab} tokens, {header.n_chunk} chunks"
        raise DataError(f"{path}: damaged: {sizes}")
    size = path.stat().st_size
    if size != header.size_bytes:
        raise DataError(
            f"{path}: has {size} bytes, expected {header.size_bytes} for {header.n_chunk} chunks "
            f"of {header.n_ctx} tokens: not complete, or not a file of base logits"
        )
    tokens = np.frombuffer(read_bytes(path, header.tokens_end), np.int32, offset=HEADER.size)
    if ((tokens < 0) | (tokens >= header.n_vocab)).any():
        raise DataError(f"{path}: damaged: has tokens outside of its vocabulary")
    if n_ctx not in (None, header.n_ctx):
        raise DataError(
            f"{path}: was computed with chunks of {header.n_ctx} tokens, {n_ctx} are asked "
            "for: leave -c away"
        )
    return BaseFile(path, header, Chunks(tokens.reshape(header.n_chunk, header.n_ctx)))


@contextlib.contextmanager
def write_base(
    target: Path, chunks: Chunks, n_vocab: int, *, force: bool, n_threads: int = 1
) -> Iterator[Callable[[Logits], object]]:
    """A function that appends the logits of the next scored tokens, (n_token, n_vocab).

    The file appears under its name at the end of the block, complete, or not at all.
    Raises OutputError if it cannot be written.
    """
    header = Header(chunks.n_ctx, n_vocab, len(chunks))
    check_output(target, (), force=force, size_bytes=header.size_bytes)
    with write_errors(target), PendingFile(target) as pending:
        with os.fdopen(os.dup(pending.fd), "wb") as file:
            file.write(HEADER.pack(MAGIC, header.n_ctx, n_vocab, header.n_chunk))
            file.write(np.ascontiguousarray(chunks.tokens, np.int32).data)
            yield lambda logits: file.write(encode_rows(logits, n_threads).data)
        pending.commit(force=force)


def encode_rows(logits: Logits, n_threads: int = 1) -> NDArray[np.uint16]:
    """(n_token, n_vocab) logits as rows of the file, (n_token, row_values).

    Raises LlamaError if a logit is not finite.
    """
    n_token, n_vocab = logits.shape
    lse, _ = log_sum_exp(logits, n_threads)
    rows = np.zeros((n_token, Header(0, n_vocab, 0).row_values), np.uint16)

    def fill(part: slice, scratch: Float32) -> None:
        largest = logits[part].max(axis=1)
        lowest = np.maximum(logits[part].min(axis=1), largest - np.float32(RANGE))
        scale = (largest - lowest) / STEPS
        log_sum = (lse[part] - largest).astype(np.float32)
        ends = np.stack([scale, lowest - largest - log_sum], axis=1)  # (n_row, 2)
        rows[part, :SCALE_VALUES] = ends.view(np.uint16)
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        values = np.subtract(logits[part], lowest[:, None], out=scratch[0])
        np.maximum(values, np.float32(0), out=values)
        values *= inverse[:, None]
        rows[part, SCALE_VALUES : SCALE_VALUES + n_vocab] = np.rint(values, out=values)

    for_blocks(fill, logits.shape, n_threads)
    return rows


def decode_rows(rows: NDArray[np.uint16], n_vocab: int, targets: Tokens) -> StoredLogits:
    """rows: (n_token, row_values)."""
    ends = np.ascontiguousarray(rows[:, :SCALE_VALUES]).view(np.float32)  # (n_token, 2)
    values = rows[:, SCALE_VALUES : SCALE_VALUES + n_vocab]
    chosen = values[np.arange(len(rows)), targets]
    nll = -(chosen * ends[:, 0] + ends[:, 1]).astype(np.float64)
    scores = TokenScores(nll, values.argmax(axis=1), np.zeros(len(rows)))
    return StoredLogits(values, ends, scores)
