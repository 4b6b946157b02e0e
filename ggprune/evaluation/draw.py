"""Which tasks llama-perplexity picks, and in which order: its generator, its rounding.

The generator is std::mt19937 with seed 1; what is made of its numbers is what libstdc++ makes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SEED = 1


def draw_uniform(n_task: int, n_drawn: int) -> list[int]:
    """Without replacement by std::uniform_int_distribution, as for HellaSwag."""
    numbers = _mt19937()
    left = list(range(n_task))
    return [left.pop(_below(numbers, len(left))) for _ in range(min(n_drawn, n_task))]


def draw_scaled(n_task: int, n_drawn: int) -> list[int]:
    """By scaling to a float, the last task moving into the gap: Winogrande, multiple choice."""
    numbers = _mt19937()
    left, drawn = list(range(n_task)), []
    scale = np.float32(2.0**-32)
    for _ in range(n_drawn):
        place = int(scale * np.float32(next(numbers)) * np.float32(len(left)))
        place = min(place, len(left) - 1)  # the float may have been rounded up
        drawn.append(left[place])
        left[place] = left[-1]
        left.pop()
    return drawn


def _below(numbers: Iterator[int], n: int) -> int:
    """Lemire's method, as libstdc++ has had it since GCC 11."""
    product = next(numbers) * n
    if product % 2**32 < n:
        threshold = (2**32 - n) % n
        while product % 2**32 < threshold:
            product = next(numbers) * n
    return product >> 32


def _mt19937() -> Iterator[int]:
    state = np.random.RandomState(SEED)
    while True:
        yield int(state.randint(0, 2**32, dtype=np.uint64))
