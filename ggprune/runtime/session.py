"""A loaded model and a context to compute in: text to tokens, tokens to logits.

Batches are built as llama-perplexity builds them, so that the numbers are its numbers. Knows
nothing of layers, metrics or files other than the model.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError, LlamaError
from ggprune.model.types import tensor_type
from ggprune.runtime.compute import Compute
from ggprune.runtime.lastwords import Limit, decode_limit_s, text_limit_s, time_limit
from ggprune.runtime.library import Llama, default_threads, llama, log_tail
from ggprune.runtime.nodes import EvalCallback, NamedTaps, Program, Taps
from ggprune.runtime.rpc import add_servers
from ggprune.runtime.shards import load_files

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]
T = TypeVar("T")

MAX_TOKEN_BYTES = 4096  # far more than any token stands for


class _Freed:
    """A context manager that gives back what llama.cpp holds for it."""

    close: weakref.finalize[..., object]

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LlamaModel(_Freed):
    """Weights and vocabulary of a GGUF file, loaded by llama.cpp. Use as a context manager."""

    def __init__(
        self, path: Path, compute: Compute | None = None, *,
        vocab_only: bool = False, weights: bool = True, repack: bool = True, mapped: bool = True,
        shards: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        """`shards` are all files of a split model, in order, if they are not named as such.

        Without `weights` all else is read, and nothing can be computed.
        Without `repack` weights stay in the mapped file: no second copy, but slower to compute.
        Weights that are not `mapped` are copies in memory: they can be exchanged.

        Raises LlamaError with llama.cpp's own reason if the file cannot be loaded.
        """
        self.path = path
        self.lib = llama()
        compute = compute or Compute()
        if weights and not vocab_only:
            add_servers(compute.rpc)
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers = compute.n_gpu_layers
        params.vocab_only = vocab_only
        params.use_extra_bufts = repack
        params.no_alloc = not weights
        if not (mapped and weights):
            params.load_mode = self.lib.LLAMA_LOAD_MODE_NONE
        log_tail().lines.clear()
        self.handle = load_files(self.lib, path, shards, params)
        if not self.handle:
            raise LlamaError(f"{path}: llama.cpp cannot load it: {log_tail().last_error()}")
        self.close = weakref.finalize(self, self.lib.llama_model_free, self.handle)
        self.vocab = self.lib.llama_model_get_vocab(self.handle)
        self.n_vocab = int(self.lib.llama_vocab_n_tokens(self.vocab))
        self.n_param = int(self.lib.llama_model_n_params(self.handle))
        self.size_bytes = int(self.lib.llama_model_size(self.handle))
        # Does it read its input with an encoder before it decodes?
        self.has_encoder = bool(self.lib.llama_model_has_encoder(self.handle))

    @property
    def description(self) -> str:
        """As llama-bench names it: `llama 8B Q4_K - Medium`."""
        buffer = ctypes.create_string_buffer(256)
        self.lib.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def bos(self) -> int | None:
        """The token every chunk starts with, None if the model wants none."""
        if not self.lib.llama_vocab_get_add_bos(self.vocab):
            return None
        return int(self.lib.llama_vocab_bos(self.vocab))

    def tokenize(self, text: str) -> Tokens:
        """Token ids, BOS in front if the model wants one; control tokens in the text are text.

        Raises DataError if the model has no tokenizer.
        """
        data = text.encode("utf-8")
        if self.lib.llama_vocab_type(self.vocab) == self.lib.LLAMA_VOCAB_TYPE_NONE:
            raise DataError(f"{self.path}: the model has no tokenizer, so it cannot read text")
        buffer = (ctypes.c_int32 * (n_max := len(data) + 8))()
        what = f"{self.path}: llama.cpp's tokenizer (does its kind fit the vocabulary?)"
        with time_limit(text_limit_s(len(data)), what):
            n = self.lib.llama_tokenize(self.vocab, data, len(data), buffer, n_max, True, False)
        if n * MAX_TOKEN_BYTES < len(data):
            raise LlamaError(f"{what} makes no tokens of the text")
        return np.array(buffer[:n], np.int32)


class Session(_Freed):
    """A context for up to `n_seq` chunks of `n_ctx` tokens at once. Use as a context manager.

    With `tapped`, the taps set by `tap` are in force in every decode.
    """

    def __init__(
        self, model: LlamaModel, n_ctx: int, *,
        n_seq: int = 1, compute: Compute | None = None, tapped: bool = False,
    ) -> None:  # fmt: skip
        """Raises LlamaError if llama.cpp cannot create the context."""
        compute = compute or Compute()
        self.model, self.lib, self.n_ctx, self.n_seq = model, model.lib, n_ctx, n_seq
        self.n_batch = min(compute.n_batch, n_ctx * n_seq)
        self._callback, self._limit = EvalCallback(), Limit(f"{model.path}: a batch of tokens")
        self._c_callback: object = None  # kept alive: a collected one is a segfault
        params = self._params(compute, tapped=tapped)
        self.handle = self.lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            reason = log_tail().last_error()
            raise LlamaError(f"{model.path}: llama.cpp cannot create a context: {reason}")
        self._batch = batch = self.lib.llama_batch_init(self.n_batch, 0, 1)
        for i in range(self.n_batch):
            batch.seq_id[i][0] = 0
        arrays = (batch.n_seq_id, batch.token, batch.pos, batch.logits)
        n_seq_id, *fields = (np.ctypeslib.as_array(array, (self.n_batch,)) for array in arrays)
        n_seq_id[:] = 1
        self._token, self._position, self._has_logits = fields
        kept = self._c_callback
        self.close = weakref.finalize(self, _free_session, self.lib, self.handle, batch, kept)

    def _params(self, compute: Compute, *, tapped: bool) -> ctypes.Structure:
        params: ctypes.Structure = self.lib.llama_context_default_params()
        params.n_ctx = self.n_ctx * self.n_seq
        params.n_batch = self.n_batch
        params.n_ubatch = min(compute.n_ubatch, self.n_batch)
        params.n_seq_max = self.n_seq
        params.n_threads = params.n_threads_batch = compute.n_threads or default_threads()
        if compute.flash_attn is not None:
            params.flash_attn_type = int(compute.flash_attn)
        params.type_k = tensor_type(compute.type_k.upper()).id
        params.type_v = tensor_type(compute.type_v.upper()).id
        if tapped:
            self._c_callback = self.lib.ggml_backend_sched_eval_callback(self._callback)
            params.cb_eval = self._c_callback
        return params

    def tap(self, taps: Taps) -> None:
        """Exchange the taps; an empty mapping computes the model as it is."""
        self._callback.program = NamedTaps(taps)

    def run(self, program: Program) -> None:
        """Set what the decodes to come do with their graph nodes."""
        self._callback.program = program

    @property
    def callback_s(self) -> float:
        """Time spent in the taps so far, a part of the decodes' time."""
        return self._callback.time_s

    def clear(self, *, erase: bool = True) -> None:
        """Forget all tokens; without `erase` the cache keeps its bytes, which nobody reads."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.handle), erase)

    def synchronize(self) -> None:
        self.lib.llama_synchronize(self.handle)

    @property
    def n_ctx_made(self) -> int:
        """Tokens the context has room for: llama.cpp rounds up what was asked for."""
        return int(self.lib.llama_n_ctx(self.handle))

    def chunk_logits(self, chunks: Tokens, n_output: int, *, bos: bool = True) -> Logits:
        """Logits of the last `n_output` tokens of every chunk, each computed from an empty memory.

        chunks: (n_seq, n_ctx) token ids; with `bos`, the first of each is replaced by BOS if the
        model wants one. Returns (n_seq, n_output, n_vocab), valid until the next decode.
        """
        whole = np.empty((len(chunks), n_output, self.model.n_vocab), np.float32)  # untouched yet
        for rows, logits in self.logit_pieces(chunks, n_output, bos=bos):
            if rows == slice(0, n_output):
                return logits
            whole[:, rows] = logits
        return whole

    def logit_pieces(
        self, chunks: Tokens, n_output: int, *, bos: bool = True
    ) -> Iterator[tuple[slice, Logits]]:
        """The same batch by batch, so that never all logits of a long chunk are in memory.

        Yields which of the `n_output` rows they are, and (n_seq, n_row, n_vocab), valid until the
        next one is asked for.
        """
        n_seq, n_ctx = chunks.shape
        tokens, first = chunks.copy(), n_ctx - n_output
        if bos and self.model.bos is not None:
            tokens[:, 0] = self.model.bos
        self.clear()
        step = n_ctx if n_seq > 1 else min(self.n_batch, n_ctx)
        for start in range(0, n_ctx, step):
            end = min(start + step, n_ctx)
            rows = slice(max(start - first, 0), max(end - first, 0))
            self.decode(tokens[:, start:end], start, rows.stop - rows.start)
            if rows.stop:
                yield rows, self.logits(n_seq, rows.stop - rows.start)

    def decode(self, tokens: Tokens, position: int, n_output: int = 1) -> None:
        """Decode the next tokens of one sequence, (n,), or of all in one batch, (n_seq, n).

        Computes logits for the last `n_output` of each; one is what llama-bench asks for.
        """
        self._fill_batch(np.atleast_2d(tokens), position, n_output)
        self._compute("decode", self._batch)

    def encode(self, tokens: Tokens) -> None:
        """Have the encoder of an encoder-decoder model read one sequence, (1, n) token ids."""
        self.clear()
        self._fill_batch(tokens, 0, tokens.shape[1])
        self._compute("encode", self._batch)

    def read_state(self) -> bytes:
        """What a session of one sequence remembers: saves reading the same tokens again."""
        n_byte = self.lib.llama_state_seq_get_size(self.handle, 0)
        buffer = (ctypes.c_uint8 * n_byte)()
        if self.lib.llama_state_seq_get_data(self.handle, buffer, n_byte, 0) != n_byte:
            raise LlamaError(f"{self.model.path}: llama.cpp could not copy the context's state")
        return bytes(buffer)

    def write_state(self, state: bytes) -> bool:
        """Put it back into an empty session; False if it does not fit, which leaves no trace."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        return bool(self.lib.llama_state_seq_set_data(self.handle, buffer, len(state), 0))

    def _fill_batch(self, tokens: Tokens, position: int, n_output: int) -> None:
        n_seq, n = tokens.shape
        batch, total = self._batch, n_seq * n
        batch.n_tokens = total
        self._token[:total] = tokens.ravel()
        self._position[:total].reshape(n_seq, n)[:] = np.arange(position, position + n)
        self._has_logits[:total].reshape(n_seq, n)[:] = np.arange(n) >= n - n_output
        if self.n_seq > 1:
            for i in range(total):
                batch.seq_id[i][0] = i // n

    def _compute(self, what: str, batch: ctypes.Structure) -> None:
        """Have llama.cpp decode or encode a batch. Raises LlamaError, and what a tap raised."""
        model = self.model
        self._limit.start(decode_limit_s(model.size_bytes, model.n_param, batch.n_tokens))
        status = getattr(self.lib, f"llama_{what}")(self.handle, batch)
        self._limit.stop()
        error, self._callback.error = self._callback.error, None
        if error is not None:
            raise error
        if status != 0:
            told = f"llama.cpp could not {what} ({status}): {log_tail().last_error()}"
            raise LlamaError(f"{model.path}: {told}")

    def logits(self, n_seq: int, n_output: int) -> Logits:
        """Of the last decode, (n_seq, n_output, n_vocab); valid until the next one."""
        shape = (n_seq, n_output, self.model.n_vocab)
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.handle), shape)


def _free_session(lib: Llama, handle: object, batch: ctypes.Structure, callback: object) -> None:
    """`callback` is only kept alive until here."""
    lib.llama_free(handle)
    lib.llama_batch_free(batch)
    del callback
