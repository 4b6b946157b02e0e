"""A context in which sequences share what they have in common: a prefix is decoded once for all.

Its memory is one pool of cells for all sequences (llama.cpp's unified KV cache), as
llama-perplexity has it for choice tasks. Knows nothing of what the sequences are for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggprune.runtime.compute import Compute
from ggprune.runtime.library import Llama, default_threads
from ggprune.runtime.session import LlamaModel, Logits, Session, Tokens

MAX_SEQ = 256  # LLAMA_MAX_SEQ


@dataclass(frozen=True)
class Entries:
    """Tokens to decode in this order, (n,) each; a token may belong to several sequences."""

    tokens: Tokens
    positions: NDArray[np.int32]
    sequences: tuple[tuple[int, ...], ...]
    outputs: NDArray[np.bool_]  # where logits are wanted

    def __len__(self) -> int:
        return len(self.tokens)


def join(parts: Sequence[Entries]) -> Entries:
    return Entries(
        np.concatenate([p.tokens for p in parts]),
        np.concatenate([p.positions for p in parts]),
        tuple(s for p in parts for s in p.sequences),
        np.concatenate([p.outputs for p in parts]),
    )


class SharedSession(Session):
    """A context of `n_cell` tokens in all for up to `n_seq` sequences of any length."""

    def __init__(
        self, model: LlamaModel, n_cell: int, *, n_seq: int, compute: Compute | None = None
    ) -> None:
        """Raises LlamaError if llama.cpp cannot create the context."""
        self.n_cell = n_cell
        self.n_threads = (compute or Compute()).n_threads or default_threads()
        super().__init__(model, -(-n_cell // n_seq), n_seq=n_seq, compute=compute)

    def _params(self, compute: Compute, *, tapped: bool) -> ctypes.Structure:
        params = super()._params(compute, tapped=tapped)
        params.n_ctx = self.n_cell
        params.kv_unified = True
        return params

    @property
    def can_share(self) -> bool:
        """Can a token belong to several sequences? Hybrids too have slots, pure states do not."""
        return not self.lib.llama_model_is_recurrent(self.model.handle)

    def decode_entries(self, entries: Entries) -> Iterator[tuple[int, Logits]]:
        """Decode in batches of n_batch; yields logits (n_output, n_vocab) of each as it comes.

        With them comes the number of outputs before; the logits are valid until the next step.
        """
        n_done = 0
        for start in range(0, len(entries), self.n_batch):
            part = slice(start, start + self.n_batch)
            batch, _alive = _batch(self.lib, entries, part)
            self._compute("decode", batch)
            n_output = int(entries.outputs[part].sum())
            if n_output:
                yield n_done, self.logits(1, n_output)[0]
            n_done += n_output


def _batch(
    lib: Llama, entries: Entries, part: slice
) -> tuple[ctypes.Structure, list[NDArray[np.generic]]]:
    """A llama_batch, and the arrays that it points into: they must outlive it."""
    sequences = entries.sequences[part]
    n_seq = np.array([len(s) for s in sequences], np.int32)
    flat = np.array([i for s in sequences for i in s], np.int32)
    starts = np.concatenate([[0], np.cumsum(n_seq[:-1])])
    arrays: dict[str, NDArray[np.generic]] = {
        "token": np.ascontiguousarray(entries.tokens[part], np.int32),
        "pos": np.ascontiguousarray(entries.positions[part], np.int32),
        "n_seq_id": n_seq,
        "seq_id": (flat.ctypes.data + 4 * starts).astype(np.uintp),
        "logits": entries.outputs[part].astype(np.int8),
    }
    batch: ctypes.Structure = lib.llama_batch()
    batch.n_tokens = len(sequences)
    kinds = dict(lib.llama_batch._fields_)
    for name, array in arrays.items():
        setattr(batch, name, ctypes.cast(array.ctypes.data, kinds[name]))
    return batch, [flat, *arrays.values()]
