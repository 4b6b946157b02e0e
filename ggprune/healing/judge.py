"""How near a model is to the original, on the chunks that nothing is fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ggprune.healing.kept import Kept
from ggprune.healing.layers import LayerModel
from ggprune.healing.result import Judged
from ggprune.metrics.chunks import Chunk
from ggprune.metrics.estimates import Float64, mean_estimate, ppl_estimate
from ggprune.metrics.logits import BaseLogits, base_logits
from ggprune.runtime.finite import naming

LOGITS = "logits"  # of the original


class Judge:
    """Keeps what the original says, and compares others with it."""

    def __init__(
        self, kept: Kept, aside: Sequence[Chunk], drop: Sequence[int], n_threads: int
    ) -> None:
        """`drop`: layers that the others are computed without."""
        self.kept, self.aside, self.drop, self.n_threads = kept, aside, drop, n_threads

    def remember(self, original: LayerModel) -> Float64:
        """Keep the original's logits; (n_token,) nats of what came."""
        nll = []
        for chunk in self.aside:
            with naming(original.session.model.path):
                base = base_logits(original.logits(chunk), chunk.targets, self.n_threads)
            self.kept.put(LOGITS, chunk.number, base.logits)
            nll.append(base.scores.nll)
        return np.concatenate(nll)

    def compare(self, model: LayerModel) -> Judged:
        """A model as it is now."""
        kld, nll = [], []
        for chunk in self.aside:
            kept = self.kept.get(LOGITS, chunk.number)
            base: BaseLogits = base_logits(kept, chunk.targets, self.n_threads)
            logits = model.logits(chunk, self.drop)
            with naming(model.session.model.path, " without the dropped layers"):
                result = base.compare(logits, chunk.targets, self.n_threads)
            kld.append(result.kld)
            nll.append(result.scores.nll)
        return Judged(kld=mean_estimate(np.concatenate(kld)), ppl=ppl_estimate(np.concatenate(nll)))
