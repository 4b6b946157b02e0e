"""Text cut into chunks of tokens, as llama-perplexity cuts it.

The whole text is tokenized once and cut into chunks of n_ctx tokens, a rest is left over. Knows
nothing of models beyond a function that tokenizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError
from ggprune.metrics.text import Text

Tokens = NDArray[np.int32]


def make_chunks(
    text: Text, tokenize: Callable[[str], Tokens], n_ctx: int, n_chunk: int | None = None
) -> Tokens:
    """Token ids, (n_chunk, n_ctx): all whole chunks, or the first `n_chunk` of them.

    Raises DataError if the text gives less than two chunks or less than asked for.
    """
    tokens = tokenize(text.content)
    n_max = len(tokens) // n_ctx
    if n_max < 2:
        raise DataError(
            f"{text.source}: gives {len(tokens)} tokens, at least {2 * n_ctx} are needed for "
            f"chunks of {n_ctx}: use a longer text or a smaller -c"
        )
    if n_chunk is not None and n_chunk > n_max:
        raise DataError(
            f"{text.source}: gives {n_max} chunks of {n_ctx} tokens, {n_chunk} are asked for"
        )
    n = n_max if n_chunk is None else n_chunk
    return tokens[: n * n_ctx].reshape(n, n_ctx)


def n_scored(n_ctx: int) -> int:
    """Tokens scored in a chunk: the second half, without the last, whose successor is unknown."""
    return n_ctx - 1 - n_ctx // 2


def describe_text(text: Text, n_ctx: int, n_chunk: int) -> dict[str, Any]:
    return {
        "source": text.source,
        "sha256": text.sha256,
        "n_ctx": n_ctx,
        "n_chunk": n_chunk,
        "n_token": n_chunk * n_scored(n_ctx),
    }
