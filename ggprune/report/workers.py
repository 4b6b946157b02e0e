"""Who measured, where it was not this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ggprune.runtime.workers import KindInfo, WorkerInfo


def worker_notes(
    workers: Sequence[WorkerInfo] | None, kinds: Sequence[KindInfo] | None
) -> Iterator[str]:
    """Nothing where there were none; with --mixed, which chunks were computed by what."""
    if workers is not None:
        n = Counter(f"{worker.device} ({worker.backend}) of {worker.host}" for worker in workers)
        told = (f"{count} x {what}" if count > 1 else what for what, count in n.items())
        yield f"Measured by {', '.join(told)}."
    if kinds is not None:
        told = (f"{kind.chunks} on {kind.device}" for kind in kinds)
        apart = max(kind.kld for kind in kinds)
        yield (
            f"Chunks {', '.join(told)}; they differ by a KLD of {apart:.1g}; every comparison is "
            "within one of them."
        )
