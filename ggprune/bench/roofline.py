"""How fast tokens could be generated if reading memory were all it took.

Every new token reads the weights once, and the keys and values of all tokens before it. Bytes over
bandwidth is a bound on the speed; the ratio of two models' bytes is the speed-up that memory
promises. A speed-up far below it says that something else takes the time. Measured here is the
bandwidth alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import psutil
from numpy.typing import NDArray

from ggprune.bench.speed import Benchmark, Speed
from ggprune.files.keys import Key, written

LEAST_SHARE = 0.85  # of the predicted speed-up; less is flagged
BUFFER_BYTES = 1 << 30
N_PART = 8  # of the buffer, one for each pass
N_ROUND = 4  # over the whole buffer

Part = NDArray[np.float32] | NDArray[np.uint64]
Read = Callable[[Part], object]

# Two ways of reading compete, since neither is the fastest on every processor.
READS: tuple[tuple[type[np.float32] | type[np.uint64], Read], ...] = (
    (np.float32, lambda numbers: np.dot(numbers, numbers)),
    (np.uint64, np.sum),
)


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
    base, roofs = result.models[0], []
    for model, weights in zip(result.models, weight_bytes, strict=True):
        for test, base_speed in zip(model.tests, base.speeds, strict=True):
            if test.speed.case.n_prompt:
                continue
            cache = cache_bytes(test.speed)
            token_bytes = max(weights + cache, 1)
            base_bytes = weight_bytes[0] + cache_bytes(base_speed)
            roofs.append(
                Roof(
                    path=model.path, test=test.speed.case.name, weight_bytes=weights,
                    cache_bytes=cache, measured=test.speed.mean,
                    predicted=bandwidth / token_bytes if bandwidth else None,
                    measured_speedup=test.ratio.value if test.ratio is not None else 1.0,
                    predicted_speedup=base_bytes / token_bytes,
                )
            )  # fmt: skip
    return Roofline(bandwidth, tuple(roofs))


def cache_bytes(speed: Speed) -> int:
    """Read from the cache for a token in the middle of a test: it sees itself and what came before.

    A window or a recurrent state does not grow any more once its cells are full.
    """
    n_token = speed.case.n_depth + (speed.case.n_gen + 1) / 2
    return round(sum(cache.read_bytes(n_token) for cache in speed.caches))


def measure_bandwidth(n_threads: int, buffer_bytes: int = BUFFER_BYTES) -> float:
    """Bytes that this machine reads per second, with all threads that compute.

    Short passes, each over another part of a buffer far larger than any cache, so that nothing read
    is still in one. The best counts: what is measured is a ceiling, and whatever disturbs a pass
    can only lower it. Takes at most a quarter of the memory that is free.
    """
    free = int(psutil.virtual_memory().available) // 4
    n_byte = min(buffer_bytes, free) // (n_threads * N_PART) // 8 * 8  # of a thread in a pass
    shape = (N_PART, n_byte)
    own = [np.full(shape, i % 2, np.uint8) for i in range(n_threads)]  # written: pages exist
    with ThreadPoolExecutor(n_threads) as pool:
        times = [
            _time_s(pool, read, [parts[i % N_PART].view(dtype) for parts in own])
            for dtype, read in READS
            for i in range(N_ROUND * N_PART)
        ]
    return n_byte * n_threads / min(times)


def _time_s(pool: ThreadPoolExecutor, read: Read, parts: list[Part]) -> float:
    start = time.perf_counter()
    list(pool.map(read, parts))
    return time.perf_counter() - start
