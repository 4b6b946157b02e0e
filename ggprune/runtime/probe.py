"""What llama.cpp makes of a file: does it take it, and does what it computes say anything?

It aborts on some files: run these functions through `isolated`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import numpy as np

from ggprune.runtime.buffers import listening, parse_buffers
from ggprune.runtime.compute import Compute
from ggprune.runtime.session import LlamaModel, Session

CPU = Compute(n_gpu_layers=0)


class Sense(Enum):
    """What the logits of a few tokens are like."""

    SOUND = "sound"
    CONSTANT = "the same for all tokens of the vocabulary"
    NOT_FINITE = "not finite"


def check_taken(paths: Sequence[Path]) -> None:
    """Load all of a model (all its shards) but its weights. Raises LlamaError if that fails."""
    LlamaModel(paths[0], CPU, weights=False, repack=False, shards=paths).close()


def cache_bytes(paths: Sequence[Path], n_ctx: int) -> int:
    """What llama.cpp allocates for keys and values (F16), and recurrent states, of `n_ctx` tokens.

    No weights are read. Raises LlamaError if the model does not load, or makes no context.
    """
    with (
        listening() as log,
        LlamaModel(paths[0], CPU, weights=False, repack=False, shards=paths) as model,
        Session(model, n_ctx, compute=CPU),
    ):
        pass
    return sum(cache.size_bytes for cache in parse_buffers("".join(log)).caches)


def probe(paths: Sequence[Path], n_token: int = 8) -> Sense:
    """Load a model (all its shards) on the CPU and decode a few tokens.

    Raises LlamaError if it does not load.
    """
    with (
        LlamaModel(paths[0], CPU, repack=False, shards=paths) as model,
        Session(model, 2 * n_token, compute=CPU) as session,
    ):
        tokens = np.arange(n_token, dtype=np.int32)[None, :] % model.n_vocab
        if model.has_encoder:
            session.encode(tokens)
        logits = session.chunk_logits(tokens, n_token)
        if not np.isfinite(logits).all():
            return Sense.NOT_FINITE
        is_constant = model.n_vocab > 1 and bool((logits.min(-1) == logits.max(-1)).all())
        return Sense.CONSTANT if is_constant else Sense.SOUND
