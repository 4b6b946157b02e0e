"""How fast tokens could be generated if reading memory were all it took.

Every new token reads the weights once, and the keys and values of all tokens before it. Bytes over
bandwidth is a bound on the speed; the ratio of two models' bytes is the speed-up that memory
promises. A speed-up far below it says that something else takes the time. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ggprune.bench.speed import Benchmark, ModelSpeed, Speed

LEAST_SHARE = 0.85  # of the predicted speed-up; less is flagged


@dataclass(frozen=True)
class Roof:
    """Of one generation test on one model."""

    path: str
    test: str
    weight_bytes: int  # read for every token
    cache_bytes: int  # the same, in the middle of the test
    measured: float  # tok/s
    bandwidth: float | None  # bytes/s; None: not known
    predicted_speedup: float  # over the first model
    measured_speedup: float

    @property
    def token_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes

    @property
    def predicted(self) -> float | None:
        """Tokens per second that the bandwidth allows."""
        return self.bandwidth / max(self.token_bytes, 1) if self.bandwidth else None

    @property
    def is_short(self) -> bool:
        """Is less of the predicted speed-up reached than LEAST_SHARE?"""
        return self.measured_speedup < LEAST_SHARE * self.predicted_speedup

    def to_json(self) -> dict[str, Any]:
        return {
            "model_filename": self.path,
            "test": self.test,
            "weight_bytes": self.weight_bytes,
            "cache_bytes": self.cache_bytes,
            "avg_ts": self.measured,
            "predicted_ts": self.predicted,
            "ratio": self.measured_speedup,
            "predicted_ratio": self.predicted_speedup,
            "short": self.is_short,
        }


@dataclass(frozen=True)
class Roofline:
    """All generation tests. `bandwidth` is None where the weights are not in this memory."""

    bandwidth: float | None  # bytes/s
    roofs: tuple[Roof, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "bandwidth_bytes_per_s": self.bandwidth,
            "tests": [roof.to_json() for roof in self.roofs],
        }


def make_roofline(
    result: Benchmark, weight_bytes: Sequence[int], bandwidth: float | None
) -> Roofline:
    """`weight_bytes` are those that each model reads for a token, in the benchmark's order."""
    base = result.models[0]
    roofs = [
        _roof(model, i, weights, base, weight_bytes[0], bandwidth)
        for model, weights in zip(result.models, weight_bytes, strict=True)
        for i, speed in enumerate(model.speeds)
        if speed.case.is_generation
    ]
    return Roofline(bandwidth, tuple(roofs))


def cache_bytes(speed: Speed) -> int:
    """Read from the cache for a token in the middle of a test: it sees itself and what came before.

    A window or a recurrent state does not grow any more once its cells are full.
    """
    n_token = speed.case.n_depth + (speed.case.n_gen + 1) / 2
    return round(sum(cache.read_bytes(n_token) for cache in speed.caches))


def _roof(
    model: ModelSpeed,
    i: int,
    weights: int,
    base: ModelSpeed,
    base_weights: int,
    bandwidth: float | None,
) -> Roof:
    speed, first = model.speeds[i], base.speeds[i]
    read = cache_bytes(speed)
    predicted = (base_weights + cache_bytes(first)) / max(weights + read, 1)
    measured = model.ratios(base)[i].value
    return Roof(model.path, speed.test, weights, read, speed.mean, bandwidth, predicted, measured)
