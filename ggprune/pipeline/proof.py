"""What llama.cpp says about a row of tokens, exactly enough to prove another program by.

With quantized weights llama.cpp rounds what enters them to eight bits as well, which moves the
probabilities of some models by more than 5e-3 nats. A copy in F16 has the same weights without
that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ggprune.errors import GGPruneError
from ggprune.files.outputs import PendingFile
from ggprune.metrics.estimates import Float32
from ggprune.model.model import Model
from ggprune.pipeline.job import Job, write_into
from ggprune.progress import SILENT, Progress
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated
from ggprune.runtime.session import Tokens
from ggprune.training.rowsfile import row_logits


def exact_logits(
    model: Model, tokens: Tokens, compute: Compute, beside: Path, progress: Progress = SILENT
) -> Float32:
    """(n_ctx,) -> (n_ctx, n_vocab). A copy that is made for it lies in the folder of `beside`."""
    with _unquantized(model, compute, beside, progress) as path:
        return isolated(row_logits, path, tokens, compute)


@contextlib.contextmanager
def _unquantized(
    model: Model, compute: Compute, beside: Path, progress: Progress
) -> Iterator[Path]:
    if all(tensor.type.block_size == 1 for tensor in model.tensors):
        yield model.path
        return
    options = QuantizeOptions("F16", allow_requantize=True, n_threads=compute.n_threads)
    with PendingFile(beside) as copy:
        try:
            write_into(Job(model=model, out=beside, quantize=options), copy, progress)
            path = copy.path
        except GGPruneError:  # types that llama.cpp's quantizer does not read: as it is, then
            path = model.path
        yield path
