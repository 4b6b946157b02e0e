"""The bytes of tensors that are more than copied: slices, rescaled ones, new ones.

Always a bounded block at a time, whatever the tensor's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ggprune.arch.change import Scale, Slice
from ggprune.files.system import read_at
from ggprune.model.gguf import Tensor
from ggprune.surgery.contents import OutTensor

BLOCK_BYTES = 4 << 20


def edited_blocks(tensor: OutTensor, fd: int) -> Iterator[bytes]:
    """The bytes of an edited or new tensor, in order. `fd` reads the file of its source.

    Raises EOFError if the source is short.
    """
    if tensor.source is None and tensor.values:
        yield np.asarray(tensor.values, "<f4").tobytes()
    elif tensor.source is None:
        yield from _zeros(tensor.size_bytes)
    elif isinstance(tensor.edit, Slice):
        yield from _sliced(tensor.source, tensor.edit, fd)
    elif isinstance(tensor.edit, Scale):
        yield from _scaled(tensor.source, tensor.edit.factor, fd)
    else:
        raise ValueError(f"{tensor.name} is copied, not edited")


def is_edited(tensor: OutTensor) -> bool:
    return tensor.source is None or tensor.edit is not None


def _zeros(n: int) -> Iterator[bytes]:
    """Zeros of any type: the scale of a block of them is zero."""
    for done in range(0, n, BLOCK_BYTES):
        yield bytes(min(BLOCK_BYTES, n - done))


def _sliced(source: Tensor, edit: Slice, fd: int) -> Iterator[bytes]:
    """Groups of bytes: within a row on axis 0, whole rows on axis 1, whole matrices on axis 2."""
    per_read = source.size_bytes // math.prod(source.shape[edit.axis + 1 :])
    group_bytes, kept = per_read // edit.n_group, list(edit.kept)
    if edit.axis == 0:  # many short groups: several rows at a time
        n_row = max(BLOCK_BYTES // per_read, 1)
        for start in range(0, source.size_bytes, n_row * per_read):
            raw = _read(fd, source, start, min(n_row * per_read, source.size_bytes - start))
            groups = np.frombuffer(raw, np.uint8).reshape(-1, edit.n_group, group_bytes)
            yield groups[:, kept].tobytes()
        return
    for start in range(0, source.size_bytes, per_read):
        for group in kept:
            yield from _blocks(fd, source, start + group * group_bytes, group_bytes)


def _scaled(source: Tensor, factor: float, fd: int) -> Iterator[bytes]:
    for raw in _blocks(fd, source, 0, source.size_bytes):
        values = np.frombuffer(raw, "<f4").astype(np.float64) * factor
        yield values.astype("<f4").tobytes()


def _blocks(fd: int, source: Tensor, start: int, n: int) -> Iterator[bytes]:
    for done in range(0, n, BLOCK_BYTES):
        yield _read(fd, source, start + done, min(BLOCK_BYTES, n - done))


def _read(fd: int, source: Tensor, start: int, n: int) -> bytes:
    raw = read_at(fd, n, source.offset + start)
    if len(raw) != n:
        raise EOFError("the source became shorter while it was copied")
    return raw
