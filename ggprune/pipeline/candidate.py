"""Models of the final table, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ggprune.quantize.options import QuantizeOptions


@dataclass(frozen=True)
class Candidate:
    """A model of the final table, by whose path evaluations and speeds are joined."""

    name: str
    path: Path


def rival_name(options: QuantizeOptions) -> str:
    return f"{options.type}, nothing pruned"


def result_name(n_drop: int, quantize: QuantizeOptions | None) -> str:
    kept = f"{n_drop} layer{'s' if n_drop > 1 else ''} pruned"
    return f"{quantize.type}, {kept}" if quantize else kept


def healed_name(name: str) -> str:
    return f"{name}, healed"


def trained_name(name: str) -> str:
    return f"{name}, trained"


def round_name(number: int) -> str:
    return f"round {number}, trained"
