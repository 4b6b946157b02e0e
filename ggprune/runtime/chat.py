"""Conversations as a model reads them: its chat template, and the control tokens in them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np

from ggprune.errors import DataError
from ggprune.runtime.lastwords import text_limit_s, time_limit
from ggprune.runtime.session import LlamaModel, Tokens


class ChatMessage(ctypes.Structure):
    """`struct llama_chat_message` of include/llama.h."""

    _fields_ = (("role", ctypes.c_char_p), ("content", ctypes.c_char_p))


class ChatVocabulary:
    """Text and conversations to tokens, with the vocabulary of a loaded model."""

    def __init__(self, model: LlamaModel) -> None:
        self.model, self.lib = model, model.lib

    @property
    def bos(self) -> int | None:
        """The token a row starts with, None if the model wants none."""
        return self.model.bos

    def tokenize(self, text: str, *, special: bool = False) -> Tokens:
        """BOS in front if the model wants one. With `special` control tokens are read as such."""
        if not special:
            return self.model.tokenize(text)
        data = text.encode("utf-8")
        n_max = len(data) + 8
        buffer = (ctypes.c_int32 * n_max)()
        with time_limit(text_limit_s(len(data)), f"{self.model.path}: llama.cpp's tokenizer"):
            n = self.lib.llama_tokenize(
                self.model.vocab, data, len(data), buffer, n_max, True, True
            )
        return np.array(buffer[:n], np.int32)

    def render(self, messages: Sequence[Mapping[str, str]], *, opens_answer: bool = False) -> str:
        """The conversation as text. With `opens_answer` it ends where an answer would begin.

        Raises DataError if the model has no chat template, or one that llama.cpp's library does not
        know: it recognizes templates, it does not run them.
        """
        template = self.lib.llama_model_chat_template(self.model.handle, None)
        if template is None:
            raise DataError(
                f"{self.model.path}: the model has no chat template: give plain text instead of "
                "conversations"
            )
        pairs = [(m["role"].encode(), m["content"].encode()) for m in messages]
        chat = (ChatMessage * len(pairs))(*(ChatMessage(*pair) for pair in pairs))
        size = 1024 + 4 * sum(len(role) + len(content) for role, content in pairs)
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            n = self._apply(template, chat, len(pairs), opens_answer, buffer)
            if n < 0:
                raise DataError(
                    f"{self.model.path}: llama.cpp does not know the model's chat template: write "
                    "the conversations out as text"
                )
            if n <= size:
                break
            size = n
        return buffer.raw[:n].decode("utf-8")

    def _apply(
        self, template: bytes, chat: ctypes.Array[ChatMessage], n: int, opens: bool,
        buffer: ctypes.Array[ctypes.c_char],
    ) -> int:  # fmt: skip
        first = ctypes.cast(chat, ctypes.POINTER(self.lib.llama_chat_message))
        return int(
            self.lib.llama_chat_apply_template(template, first, n, opens, buffer, len(buffer))
        )
