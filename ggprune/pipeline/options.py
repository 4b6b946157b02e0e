"""What `auto` is asked for. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ggprune.healing.result import HealOptions
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.compute import Compute
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.rank import RankOptions
from ggprune.scoring.target import DropRequest
from ggprune.training.options import TrainOptions

# Tokens read of the text that models are judged on. Half of them are scored: enough for an error of
# the PPL of about one per cent, and of KL divergences of six to ten, where those of the models that
# are compared differ by factors. A fourth of the error takes sixteen times the text.
EVAL_TOKENS = 32_768
ALL = -1
N_DECIDE = 4  # layers that the ranking settles where the number to drop is not known before


@dataclass(frozen=True, kw_only=True)
class AutoOptions:
    """What to drop and how to measure it."""

    request: DropRequest
    drop_mtp: bool = False  # and all multi-token-prediction blocks
    quantize: QuantizeOptions | None = None
    n_ctx: int = 512
    n_chunk: int | None = None  # of the text to rank on; None: all
    n_eval_chunk: int | None = None  # of the text to judge on; None: EVAL_TOKENS of it; or ALL
    n_prompt: int = 512
    n_gen: int = 128
    n_repeat: int = 5
    compute: Compute | None = None
    cache: Path | None = None  # folder for finished measurements
    measure_front: bool = False  # time a file for every number of layers up to the chosen one
    generate: bool = False  # let the models write, and look at the texts
    heal: HealOptions | None = None  # repair the result
    train: TrainOptions | None = None  # behind healing
    keep_bytes: int | None = None  # of chunks in memory, as `MeasureOptions`
    n_round: int = 1  # drop, repair, rank what is left: so often

    @property
    def eval_limit(self) -> int | None:
        """Chunks to judge on at most, None: all."""
        if self.n_eval_chunk is None:
            return max(1, EVAL_TOKENS // self.n_ctx)
        return self.n_eval_chunk if self.n_eval_chunk != ALL else None

    @property
    def ranking(self) -> RankOptions:
        measuring = MeasureOptions(
            n_ctx=self.n_ctx, n_chunk=self.n_chunk, compute=self.compute, cache=self.cache,
            keep_bytes=self.keep_bytes,
        )  # fmt: skip
        return RankOptions(measuring=measuring, n_decide=N_DECIDE, request=self.request)
