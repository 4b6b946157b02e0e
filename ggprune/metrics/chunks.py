"""Text cut into chunks of tokens, and which of them are scored, as llama-perplexity has it.

The whole text is tokenized once and cut into chunks of n_ctx tokens, a rest is left over. Of each
chunk the second half is scored, without the last token, whose successor is unknown. Knows nothing
of models beyond a function that tokenizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, overload

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError
from ggprune.files.keys import Key
from ggprune.metrics.estimates import Float32
from ggprune.metrics.text import Text

Tokens = NDArray[np.int32]


def n_scored(n_ctx: int) -> int:
    """Tokens scored in a chunk."""
    return n_ctx - n_ctx // 2 - 1


@dataclass(frozen=True, eq=False)
class Chunk:
    """A piece of a text that is computed from an empty memory."""

    number: int  # in the text
    tokens: Tokens  # (n_ctx,)

    @property
    def n_output(self) -> int:
        """Tokens at the end whose logits are computed: the scored ones and the last."""
        return n_scored(len(self.tokens)) + 1

    @property
    def targets(self) -> Tokens:
        """The tokens to predict, (n_scored,): those behind the scored ones."""
        return self.tokens[len(self.tokens) - self.n_output + 1 :]

    def scored(self, rows: Float32) -> Float32:
        """Those of the scored tokens, of rows that end with the chunk's last token.

        (n_row, n) of at least the last `n_output` tokens -> (n_scored, n), a view.
        """
        return rows[len(rows) - self.n_output : len(rows) - 1]


@dataclass(frozen=True, eq=False)
class Chunks(Sequence[Chunk]):
    """Chunks of the same length that follow each other in a text."""

    tokens: Tokens  # (n_chunk, n_ctx)
    first: int = 0  # number of the first one

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...

    @overload
    def __getitem__(self, index: slice) -> Chunks: ...

    def __getitem__(self, index: int | slice) -> Chunk | Chunks:
        """A slice keeps the numbers that chunks have in the text; it has no step."""
        if isinstance(index, slice):
            return Chunks(self.tokens[index], self.first + index.indices(len(self))[0])
        return Chunk(self.first + range(len(self))[index], self.tokens[index])

    @property
    def n_ctx(self) -> int:
        return int(self.tokens.shape[1])

    def groups(self, size: int) -> Iterator[Chunks]:
        """`size` chunks at a time, to be computed together; the last group may have less."""
        return (self[start : start + size] for start in range(0, len(self), size))


@dataclass(frozen=True, kw_only=True)
class TextInfo:
    """Which text was read, and how much of it."""

    source: str
    sha256: Annotated[str | None, "of the text; null where only its tokens are known"]
    n_ctx: int
    n_chunk: int
    n_token: Annotated[int, "that were scored"]
    stride: Annotated[int | None, Key(optional=True),
                      "with --ppl-stride: tokens between windows of n_ctx"] = None  # fmt: skip


def make_chunks(
    text: Text, tokenize: Callable[[str], Tokens], n_ctx: int, n_chunk: int | None = None
) -> Chunks:
    """All whole chunks of the text, or the first `n_chunk` of them if there are so many.

    Raises DataError if the text gives less than two chunks.
    """
    tokens = tokenize(text.content)
    n_max = len(tokens) // n_ctx
    if n_max < 2:
        raise DataError(
            f"{text.source}: gives {len(tokens)} tokens, at least {2 * n_ctx} are needed for "
            f"chunks of {n_ctx}: use a longer text or a smaller -c"
        )
    n = n_max if n_chunk is None else min(n_chunk, n_max)
    return Chunks(tokens[: n * n_ctx].reshape(n, n_ctx))


def describe_text(text: Text, n_ctx: int, n_chunk: int) -> TextInfo:
    """Of a text that `n_chunk` chunks were read of."""
    return TextInfo(
        source=text.source, sha256=text.sha256, n_ctx=n_ctx, n_chunk=n_chunk,
        n_token=n_chunk * n_scored(n_ctx),
    )  # fmt: skip
