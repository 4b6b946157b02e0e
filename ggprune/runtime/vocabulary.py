"""Tokens back to text, and the tokens that mean something to a vocabulary: end, prefix.

The way there, text to tokens, is LlamaModel.tokenize.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cached_property

from ggprune.errors import DataError, LlamaError
from ggprune.runtime.session import LlamaModel

PIECE_BYTES = 256  # more than any ordinary token; longer ones say how much they need


class Vocabulary:
    """The vocabulary of a loaded model; pieces of text are looked up once."""

    def __init__(self, model: LlamaModel) -> None:
        self.model, self.lib, self.handle = model, model.lib, model.vocab
        self._pieces: dict[int, bytes] = {}

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; control tokens stand for none."""
        if token not in self._pieces:
            self._pieces[token] = self._look_up(token, PIECE_BYTES)
        return self._pieces[token]

    def _look_up(self, token: int, n_max: int) -> bytes:
        buffer = ctypes.create_string_buffer(n_max)
        n = self.lib.llama_token_to_piece(self.handle, token, buffer, n_max, 0, False)
        if n < 0 and -n > n_max:
            return self._look_up(token, -n)
        if n < 0:
            raise LlamaError(f"{self.model.path}: token {token} cannot be turned into text")
        return buffer.raw[:n]

    def text(self, tokens: Iterable[int]) -> str:
        """Text as it continues a text; incomplete characters become U+FFFD."""
        return b"".join(self.piece(int(token)) for token in tokens).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Does generation end with this token?"""
        return bool(self.lib.llama_vocab_is_eog(self.handle, token))

    @cached_property
    def end(self) -> int | None:
        """The token that ends a text, None if the vocabulary has none."""
        token = int(self.lib.llama_vocab_eos(self.handle))
        return token if token >= 0 else None

    @cached_property
    def start(self) -> int:
        """The token that a text without any context is read after: BOS, else the end of another.

        Raises DataError if the vocabulary has neither.
        """
        token = int(self.lib.llama_vocab_bos(self.handle))
        if token < 0 and self.end is None:
            raise DataError(f"{self.model.path}: the vocabulary has neither BOS nor EOS")
        return token if token >= 0 else self.end or 0
