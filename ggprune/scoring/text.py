"""Text for measuring: where it comes from, and how it is cut into chunks of tokens.

The cutting is llama-perplexity's: the whole text is tokenized once and cut into chunks of n_ctx
tokens, a rest is left over. Knows nothing of models beyond a function that tokenizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError

Tokens = NDArray[np.int32]

CALIBRATION, EVALUATION = "calibration.txt", "evaluation.txt"  # shipped in texts/


@dataclass(frozen=True)
class Text:
    """A text and its identity."""

    source: str  # a path, or `ggprune/...` for one that ships with the package
    content: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode("utf-8")).hexdigest()


def read_text(path: Path) -> Text:
    """A UTF-8 text; like llama.cpp's -f, one line break at the very end does not count.

    Raises DataError if it cannot be read, is empty, or is not UTF-8.
    """
    try:
        content = path.read_bytes().decode("utf-8")
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not a UTF-8 text (byte {e.start})") from e
    if not content.strip():
        raise DataError(f"{path}: the text is empty")
    return Text(str(path), content.removesuffix("\n"))


def shipped_text(name: str) -> Text:
    """`CALIBRATION` or `EVALUATION`: two different texts of the same kind."""
    content = (files("ggprune.scoring") / "texts" / name).read_text("utf-8")
    return Text(f"ggprune/{name}", content.removesuffix("\n"))


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
