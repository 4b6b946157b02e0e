"""Does llama.cpp load a file and compute finite numbers with it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ggprune.errors import VerificationError
from ggprune.runtime.session import Compute, LlamaModel, Session

N_TOKEN = 8


def check_loads(paths: Sequence[Path]) -> None:
    """Load a model (all its shards) on the CPU and decode a few tokens. Run it through `isolated`.

    Raises LlamaError if it does not load, VerificationError if its logits are not finite.
    """
    compute = Compute(n_gpu_layers=0)
    with (
        LlamaModel(paths[0], compute, repack=False, shards=paths) as model,
        Session(model, 2 * N_TOKEN, compute=compute) as session,
    ):
        tokens = np.arange(N_TOKEN, dtype=np.int32)[None, :] % model.n_vocab
        if model.has_encoder:
            session.encode(tokens)
        logits = session.chunk_logits(tokens, N_TOKEN)
        if not np.isfinite(logits).all():
            raise VerificationError(f"{paths[0]}: llama.cpp loads it, its logits are not finite")
