"""How fast this machine reads memory, with all threads that compute.

Short passes, each over another part of a buffer far larger than any cache, so that nothing read is
still in one. The best counts: what is measured is a ceiling, and whatever disturbs a pass can only
lower it. Two ways of reading compete, since neither is the fastest on every processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
from numpy.typing import NDArray

BUFFER_BYTES = 1 << 30
N_PART = 8  # of the buffer, one for each pass
N_ROUND = 4  # over the whole buffer

Part = NDArray[np.float32] | NDArray[np.uint64]
Read = Callable[[Part], object]

READS: tuple[tuple[type[np.float32] | type[np.uint64], Read], ...] = (
    (np.float32, lambda numbers: np.dot(numbers, numbers)),
    (np.uint64, np.sum),
)


def measure_bandwidth(n_threads: int, buffer_bytes: int = BUFFER_BYTES) -> float:
    """Bytes read per second. Takes at most a quarter of the memory that is free."""
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
