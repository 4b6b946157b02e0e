"""Small things that several tests do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ggprune.model.cut import Cut
from ggprune.model.model import Model, open_model
from ggprune.pipeline.job import Job, write
from ggprune.progress import Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.nodes import Taps
from ggprune.runtime.session import LlamaModel, Logits, Session, Tokens
from ggprune.surgery.plan import make_plan

ONE_GRAPH = Compute(n_threads=1, n_batch=512, n_ubatch=512)  # small: threads would only wait


def random_tokens(n_vocab: int, n: int, seed: int = 0) -> Tokens:
    """One chunk, (1, n)."""
    return np.random.default_rng(seed).integers(0, n_vocab, (1, n), dtype=np.int32)


def logits_of(path: Path, tokens: Tokens, n_output: int, taps: Taps | None = None) -> Logits:
    """Logits of the last `n_output` tokens, (n_output, n_vocab), through a model of its own."""
    with (
        LlamaModel(path, ONE_GRAPH) as model,
        Session(model, tokens.shape[1], compute=ONE_GRAPH, tapped=taps is not None) as session,
    ):
        if taps is not None:
            session.tap(taps)
        logits: Logits = session.chunk_logits(tokens, n_output)[0].copy()
        return logits


def pruned_copy(model: Model, drop: Cut | tuple[int, ...], path: Path) -> Model:
    """The file that `ggprune prune` writes, without the check in another process."""
    write(Job(model=model, plan=make_plan(model, drop), out=path, check_load=False))
    return open_model(path)


PARTS = (
    r"auto|repeat|rank|choose|heal(?: \d of \d)?|train(?:, seed \d+)?|evaluate|benchmark|write|"
    r"compare|read|copy|experts|routers|one by one|quantize to \w+|self-text|taylor"
)
TOLD = re.compile(rf"(?m)^ggprune: (?:{PARTS}): .+\n")


def without_progress(stderr: str) -> str:
    """What was said besides how far the job is: errors, notes, and whatever should not be there."""
    return TOLD.sub("", stderr)


class Steps(Progress):
    """A listener that remembers the steps, and what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.told: list[str] = []

    def step(self, done: int, total: int) -> None:
        self.seen.append((done, total))

    def say(self, text: str, share: float | None = None) -> None:
        self.told.append(text)
