"""The bytes of fitted matrices on their way into the output, and what is known of them.

In the user's cache the file survives a killed run, with an index of the layers that are finished;
elsewhere it is nameless, and there is no index.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError, OutputError
from ggprune.files.documents import read_document, to_text
from ggprune.files.locks import Hold, hold
from ggprune.files.outputs import disk_errors, write_text
from ggprune.files.passing import remove_unheld
from ggprune.files.system import open_fd, read_at, write_at
from ggprune.healing.result import Factors, Left, Refitted


@dataclass(frozen=True)
class Finished:
    """A layer that needs no more work."""

    layer: int
    refitted: tuple[Refitted, ...]
    places: tuple[tuple[int, tuple[int, ...], Factors | None], ...]  # offset and shape of each
    left: tuple[Left, ...]


@dataclass(frozen=True)
class _Index:
    finished: tuple[Finished, ...]


class Patch:
    """Bytes by offset, and finished layers. Use as a context manager."""

    def __init__(self, path: Path, index: Path | None = None) -> None:
        """With `index` what an earlier run has finished is taken over from there."""
        self.path, self._index = path, index
        self._finished: tuple[Finished, ...] = ()
        with disk_errors(path):
            self._fd = open_fd(path, os.O_RDWR | (os.O_CREAT if index is not None else 0))
            self._hold = self._held() if index is not None else None
        if index is not None and index.exists():
            self._finished = self._known(index)

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if self._hold is not None:
            self._hold.release()

    @property
    def finished(self) -> dict[int, tuple[list[Refitted], list[Left]]]:
        """Fitted and other matrices, by layer of the original."""
        return {
            item.layer: (
                [
                    replace(matrix, offset=offset, shape=shape, factors=factors)
                    for matrix, (offset, shape, factors) in zip(
                        item.refitted, item.places, strict=True
                    )
                ],
                list(item.left),
            )
            for item in self._finished
        }

    def add(self, raw: NDArray[np.uint8]) -> int:
        """Keep a matrix's bytes; returns their offset. Raises OutputError if the disk is full."""
        with disk_errors(self.path):
            offset = os.fstat(self._fd).st_size
            write_at(self._fd, raw.data, offset)
        return offset

    def read(self, offset: int, n_byte: int) -> NDArray[np.uint8]:
        """Raises DataError if there are not so many."""
        raw = read_at(self._fd, n_byte, offset)
        if len(raw) != n_byte:
            raise DataError(f"{self.path}: is damaged: {n_byte} bytes at {offset} are missing")
        return np.frombuffer(raw, np.uint8)

    def finish(self, layer: int, refitted: Sequence[Refitted], left: Sequence[Left]) -> None:
        """Remember that a layer is done; in the cache, whatever happens next."""
        places = tuple((item.offset, item.shape, item.factors) for item in refitted)
        done = Finished(layer, tuple(refitted), places, tuple(left))
        self._finished = (*self._finished, done)
        if self._index is not None:
            with disk_errors(self.path):
                os.fsync(self._fd)
            write_text(self._index, to_text(_Index(self._finished)), force=True)

    def _held(self) -> Hold:
        """Raises OutputError if another run works on the same; a run that ends gives it free."""
        try:
            return hold(self.path)
        except BlockingIOError as e:
            os.close(self._fd)
            raise OutputError(f"{self.path}: another run heals the same (--no-cache)") from e

    def _known(self, index: Path) -> tuple[Finished, ...]:
        """Nothing, if the index cannot be read or speaks of more than there is: then all is fitted
        again."""
        try:
            finished = read_document(index, _Index, "what healing has finished").finished
        except DataError:
            return ()
        offsets = [place[0] for item in finished for place in item.places]
        return finished if os.fstat(self._fd).st_size > max(offsets, default=-1) else ()


def discard_unused(path: Path, index: Path) -> None:
    """Remove a file of the cache that no layer was finished in, unless a run is at work on it."""
    if not index.exists() and path.exists():
        remove_unheld(path)
