"""Random tensors as a stream of bytes: a few real random blocks, drawn again and again.

Quantizing takes far longer than writing, so only a pool of pieces of rows is quantized for each
tensor. Its rows are put together from pieces drawn at random: valid data with honest scales, hardly
two rows alike, at the speed of copying.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ggprune.model.types import TensorType
from ggprune.pipeline.synth.tensors import Weights
from ggprune.runtime.convert import encode_rows

PIECE = 256  # numbers; the longest block of any type
POOL = 1 << 18  # numbers, 1 MiB while they are floats
STEP_BYTES = 4 << 20

Bytes = NDArray[np.uint8]


def weight_bytes(weights: Weights, tensor_type: TensorType, seed: int) -> Iterator[memoryview]:
    """The tensor's bytes in order, in steps of at most 4 MiB.

    They follow from the seed, the tensor's name, shape and type.
    """
    piece = math.gcd(weights.shape[0], PIECE)
    if weights.values:
        values = np.array(weights.values, np.float32).reshape(-1, piece)
        yield encode_rows(values, tensor_type).ravel().data
        return
    rng = np.random.default_rng([seed, zlib.crc32(weights.name.encode())])
    n_piece = weights.n_element // piece
    n_pool = min(n_piece, POOL // piece)
    values = rng.standard_normal((n_pool, piece), np.float32)
    values *= np.float32(weights.sigma)
    values += np.float32(weights.mean)
    pool = encode_rows(values, tensor_type)
    if n_pool == n_piece:
        yield pool.ravel().data
    else:
        yield from _drawn(pool, n_piece, rng)


def _drawn(pool: Bytes, n_piece: int, rng: np.random.Generator) -> Iterator[memoryview]:
    step = STEP_BYTES // pool.shape[1]
    for done in range(0, n_piece, step):
        chosen = rng.integers(len(pool), size=min(step, n_piece - done))
        yield pool[chosen].ravel().data
