"""What is asked of healing, and what came of it. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from ggprune.errors import UsageError
from ggprune.files.keys import LEFT_OUT, Key
from ggprune.metrics.chunks import TextInfo
from ggprune.metrics.estimates import Estimate
from ggprune.runtime.compute import Compute

METHOD = "refit"
RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # that are tried where none is given
FIRST_RIDGE = 4  # its place among them
RANK = 32  # of adapters
MEMORY_BYTES = 1 << 27  # of activations that are kept in memory; the rest goes to the disk
ASIDE = 8  # one chunk in so many is never fitted
MAX_JUDGED = 16  # of the chunks set aside, that whole models are judged on
ROWS_PER_INPUT, GOOD_ROWS_PER_INPUT = 4, 20


def is_aside(number: int) -> bool:
    """Is the chunk of this number never fitted?"""
    return number % ASIDE == ASIDE // 2


class Fitted(str, Enum):
    """Which matrices are fitted."""

    BOTH = "both"
    ATTN = "attn"
    FFN = "ffn"


def parse_fitted(name: str) -> Fitted:
    """Raises UsageError for an unknown name."""
    try:
        return Fitted(name)
    except ValueError as e:
        raise UsageError(f"--refit {name}: one of {', '.join(f.value for f in Fitted)}") from e


@dataclass(frozen=True, kw_only=True)
class HealOptions:
    """How a pruned model is repaired."""

    n_ctx: int = 512
    n_chunk: int | None = None  # None: all chunks of the text
    ridge: float | None = None  # None: chosen for every matrix on chunks set aside
    fitted: Fitted = Fitted.BOTH
    n_layer: int | None = None  # None: all layers from the one in front of the first cut on
    rank: int | None = None  # of the adapter to make beside; None: there is none
    tensor_type: str | None = None  # that fitted tensors are stored in; None: their own
    memory_bytes: int = MEMORY_BYTES
    compute: Compute | None = None
    cache: Path | None = None  # folder for what is finished


@dataclass(frozen=True)
class Factors:
    """A change of low rank in 32-bit floats among the bytes of fitted matrices."""

    offset: int  # of A, (rank, n_in); B, (n_out, rank), lies behind it
    rank: int  # less than what was asked for where the matrix is smaller


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """A matrix that was fitted anew."""

    layer: Annotated[int, "of the original model"]
    tensor: Annotated[str, "its name in the original model"]
    type: Annotated[str, "that it is stored in"]
    shape: Annotated[tuple[int, ...], LEFT_OUT] = ()
    offset: Annotated[int, LEFT_OUT] = 0  # of its bytes among all that were fitted
    factors: Annotated[Factors | None, LEFT_OUT] = None  # of the change, for an adapter
    ridge: float
    error_before: Annotated[float, "squared error of the stream by its square, on chunks set aside"]
    error: Annotated[float, "the same of the fitted matrix as it is stored"]


@dataclass(frozen=True)
class Left:
    """A matrix that stays as it is."""

    layer: Annotated[int, "of the original model"]
    tensor: Annotated[str, "its name in the original model"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The pruned model on the chunks set aside."""

    kld: Annotated[Estimate, "from the original model, nats"]
    ppl: Estimate


@dataclass(frozen=True, kw_only=True)
class Adapted(Judged):
    """The pruned model as it was before, with the change as a LoRA adapter."""

    rank: Annotated[int, "of each matrix's change, at most"]


@dataclass(frozen=True, kw_only=True)
class Healing:
    """What healing did, and what it gained on chunks that nothing was fitted to."""

    method: str = METHOD
    text: Annotated[TextInfo, "what was read; one chunk in 8 is not fitted"]
    n_fitted: Annotated[int, "tokens that matrices were fitted to"]
    ridge: Annotated[float | None, "null: chosen for every matrix"]
    refitted: tuple[Refitted, ...]
    left: Annotated[tuple[Left, ...], "matrices that stay as they are, and why"]
    base_ppl: Annotated[Estimate, "of the original model, on the chunks set aside"]
    before: Judged
    after: Judged
    adapter: Annotated[
        Adapted | None, Key(optional=True), "what --lora gives instead of what was fitted"
    ] = None
    time_s: float
    stored_bytes: Annotated[int, "most activations on the disk at once"]
    peak_bytes: Annotated[int, "most memory of the process, models included"]

    @property
    def is_better(self) -> bool:
        """Is it nearer to the original model than before?"""
        return self.after.kld.value < self.before.kld.value
