"""How fast tokens could be generated if reading memory were all it took.

Every new token reads the weights once, and the keys and values of all tokens before it. Bytes over
bandwidth is a bound on the speed; the ratio of two models' bytes is the speed-up that memory
promises. A speed-up far below it says that something else takes the time. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ggprune.bench.speed import Benchmark, ModelSpeed, Speed
from ggprune.files.keys import Key, written

LEAST_SHARE = 0.85  # of the predicted speed-up; less is flagged


@dataclass(frozen=True, kw_only=True)
class Roof:
    """The bound on one generation test of one model, and what was reached of it."""

    path: Annotated[str, Key(name="model_filename")]
    test: str
    weight_bytes: Annotated[int, "read for every token"]
    cache_bytes: Annotated[int, "the same, in the middle of the test"]
    measured: Annotated[float, Key(name="avg_ts")]
    predicted: Annotated[
        float | None, Key(name="predicted_ts"), "that the bandwidth allows, if it is known"
    ]
    measured_speedup: Annotated[float, Key(name="ratio"), "over the first model"]
    predicted_speedup: Annotated[float, Key(name="predicted_ratio")]

    @property
    def token_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes

    @property
    @written("short")
    def is_short(self) -> Annotated[bool, "below 85 % of the predicted ratio"]:
        return self.measured_speedup < LEAST_SHARE * self.predicted_speedup


@dataclass(frozen=True)
class Roofline:
    """All generation tests. `bandwidth` is None where the weights are not in this memory."""

    bandwidth: Annotated[
        float | None, Key(name="bandwidth_bytes_per_s"), "null where weights are on a GPU"
    ]
    roofs: Annotated[tuple[Roof, ...], Key(name="tests")]


def make_roofline(
    result: Benchmark, weight_bytes: Sequence[int], bandwidth: float | None
) -> Roofline:
    """`weight_bytes` are those that each model reads for a token, in the benchmark's order."""
    base = result.models[0]
    roofs = [
        _roof(model, i, bandwidth, (weights, weight_bytes[0]), base)
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
    bandwidth: float | None,
    weight_bytes: tuple[int, int],
    base: ModelSpeed,
) -> Roof:
    """Of a model's i-th test; `weight_bytes` are its and the base's."""
    test = model.tests[i]
    cache = cache_bytes(test.speed)
    token_bytes = max(weight_bytes[0] + cache, 1)
    base_bytes = weight_bytes[1] + cache_bytes(base.speeds[i])
    return Roof(
        path=model.path,
        test=test.speed.test,
        weight_bytes=weight_bytes[0],
        cache_bytes=cache,
        measured=test.speed.mean,
        predicted=bandwidth / token_bytes if bandwidth else None,
        measured_speedup=test.ratio.value if test.ratio is not None else 1.0,
        predicted_speedup=base_bytes / token_bytes,
    )
