"""Arrays that are kept between two passes: in memory, and what is too much in a nameless file.

The file lies beside the output and is gone with the process, whatever ends it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ggprune.errors import OutputError
from ggprune.files.outputs import PendingFile, disk_errors
from ggprune.files.system import read_at, write_at
from ggprune.metrics.estimates import Float32

BASE, MIDDLE, PRUNED = "base", "middle", "pruned"  # names of the residual streams
Place = tuple[int, int]  # in the file: offset, bytes


class Kept:
    """32-bit floats by name and number of a chunk. Use as a context manager."""

    def __init__(self, beside: Path, memory_bytes: int) -> None:
        """`memory_bytes`: as much stays in memory."""
        self.folder, self.memory_bytes = beside.parent, memory_bytes
        self._file = PendingFile(beside)
        self._held: dict[tuple[str, int], Float32] = {}
        self._stored: dict[tuple[str, int], tuple[Place, tuple[int, ...]]] = {}
        self._free: list[Place] = []
        self.held_bytes = self.file_bytes = 0

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()

    def put(self, name: str, number: int, values: Float32) -> None:
        """Raises OutputError if the disk is full."""
        self.drop(name, number)
        if self.held_bytes + values.nbytes <= self.memory_bytes:
            self._held[name, number] = values
            self.held_bytes += values.nbytes
            return
        place = self._place(values.nbytes)
        data = np.ascontiguousarray(values)
        with disk_errors(self._file.target):
            write_at(self._file.fd, data.data, place[0])
        self._stored[name, number] = place, values.shape

    def get(self, name: str, number: int) -> Float32:
        if (name, number) in self._held:
            return self._held[name, number]
        (offset, n_byte), shape = self._stored[name, number]
        raw = read_at(self._file.fd, n_byte, offset)
        if len(raw) != n_byte:
            raise OutputError(f"{self._file.target}: what was kept beside it cannot be read back")
        return np.frombuffer(raw, np.float32).reshape(shape)

    def drop(self, name: str, number: int) -> None:
        """Forget it, if it is there; its room is used again."""
        held = self._held.pop((name, number), None)
        if held is not None:
            self.held_bytes -= held.nbytes
        elif (name, number) in self._stored:
            self._free.append(self._stored.pop((name, number))[0])

    def _place(self, n_byte: int) -> Place:
        """Chunks are equally long, so that what is free fits exactly or not at all."""
        for place in self._free:
            if place[1] == n_byte:
                self._free.remove(place)
                return place
        place = self.file_bytes, n_byte
        self.file_bytes += n_byte
        return place
