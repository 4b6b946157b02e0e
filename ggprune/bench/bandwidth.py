"""How fast this machine reads memory, with all threads that compute.

The best of many passes over a buffer far larger than any cache: what is measured is a ceiling, and
whatever disturbs a pass can only lower it. Two ways of reading compete, since neither is the
fastest on every processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil

BUFFER_BYTES = 2 << 30
N_PASS = 8

READS: tuple[tuple[type[Any], Callable[[Any], object]], ...] = (
    (np.float32, lambda numbers: np.dot(numbers, numbers)),
    (np.uint64, np.sum),
)


def measure_bandwidth(n_threads: int, buffer_bytes: int = BUFFER_BYTES) -> float:
    """Bytes read per second. Takes at most a quarter of the memory that is free."""
    free = int(psutil.virtual_memory().available) // 4
    n_byte = min(buffer_bytes, free) // n_threads // 8 * 8
    parts = [np.full(n_byte, i % 2, np.uint8) for i in range(n_threads)]  # written: pages exist
    with ThreadPoolExecutor(n_threads) as pool:
        times = [
            _time_s(pool, read, [part.view(dtype) for part in parts])
            for dtype, read in READS
            for _ in range(N_PASS)
        ]
    return n_byte * n_threads / min(times)


def _time_s(pool: ThreadPoolExecutor, read: Callable[[Any], object], parts: list[Any]) -> float:
    start = time.perf_counter()
    list(pool.map(read, parts))
    return time.perf_counter() - start
