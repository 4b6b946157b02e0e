"""What a model does on one chunk of a text, token by token, and what can be asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray

from ggprune.files.keys import Key
from ggprune.metrics.estimates import Float64
from ggprune.model.cut import Cut
from ggprune.runtime.workers import KindInfo, WorkerInfo

NOTHING = Cut()


@dataclass(frozen=True)
class BaseRows:
    """The whole model on one chunk: per token, and between its parts (layers, or modules)."""

    nll: Float64  # (n_token,) nats
    bi: Float64  # (n_part, n_token) 1 - cos(input, output)
    magnitude: Float64  # (n_part, n_token) |output - input| / |output|
    angular: Float64  # (n_part + 1, n_part + 1) mean over the tokens, 0..1


@dataclass(frozen=True)
class Rows:
    """The model without a cut on one chunk, beside the whole model; all (n_token,)."""

    kld: Float64  # KL(base || without), nats
    nll: Float64
    delta_p: Float64  # change of the probability of the token that came
    same_top: NDArray[np.bool_]


@dataclass(kw_only=True)
class Effort:
    """What measuring took."""

    n_pass: Annotated[int, "through the model, or what was left of it"] = 0
    n_cached: Annotated[int, "not computed again"] = 0
    work: Annotated[float, "passes weighted by the share of graph nodes computed"] = 0.0
    decode_s: float = 0.0
    callback_s: Annotated[float, "of it, in the callback that leaves nodes out"] = 0.0
    statistics_s: float = 0.0
    n_wasted: Annotated[
        int | None, Key(optional=True), "of the passes: ahead, for cuts that lost; with workers"
    ] = None

    def add(self, other: Effort) -> None:
        """Sum what several have taken."""
        self.n_pass += other.n_pass
        self.work += other.work
        self.decode_s += other.decode_s
        self.callback_s += other.callback_s
        self.statistics_s += other.statistics_s


class RowSource(Protocol):
    """Whatever can say what a model does on the chunks of a text: how and where is its own matter.

    It is asked for all cuts of a chunk at once, so that it can divide the work as it likes.
    """

    @property
    def n_chunk(self) -> int: ...

    @property
    def parts(self) -> Mapping[int, int]:
        """The layers that can be left out, and what they are called in `BaseRows`: layer -> part.

        In order. With modules, those of the layers that have such a one.
        """

    @property
    def divided(self) -> frozenset[int]:
        """The layers of which halves can be left out, too."""

    @property
    def effort(self) -> Effort:
        """So far."""

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        """Whoever measured, where that is not this process."""

    @property
    def kinds(self) -> tuple[KindInfo, ...]:
        """Of the workers, where they do not all compute the same bits."""

    def expect(
        self, first: Mapping[Cut, int], within: Cut = NOTHING, *, is_sure: bool = False
    ) -> None:
        """These cuts are going to be asked for, each from a chunk on; others are not any more.
        If that is sure, on all chunks.

        May be believed or not: what is asked for is computed in any case.
        """

    def base(self, number: int) -> BaseRows:
        """The whole model on a chunk."""

    def rows(self, number: int, cuts: Sequence[Cut], within: Cut = NOTHING) -> Iterator[Rows]:
        """The chunk without each of the cuts, in their order; each as soon as it is known.

        All of them contain `within`, which can save work.
        """
