"""Leaving layers out while the model computes, and listening to its residual stream.

llama.cpp asks about every graph node before computing it (`cb_eval`); for the nodes we name it
stops right behind them and lets us read or overwrite the values. A layer whose output is
overwritten with its input is gone: the rest computes exactly what a file without it would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ggprune.arch import Architecture
from ggprune.runtime.tensor import Residual, check_layout, tensor_name
from ggprune.surgery.selection import runs_of

Handler = Callable[[Residual], None]
Taps = Mapping[bytes, Handler]


class EvalCallback:
    """The function llama.cpp calls for every node. `taps` may be exchanged between decodes."""

    def __init__(self) -> None:
        self.taps: Taps = {}
        self.error: BaseException | None = None
        self._checked = False

    def __call__(self, pointer: int, ask: bool, _: object) -> bool:
        """What ctypes cannot raise is kept in `error` and stops the decode."""
        try:
            handler = self.taps.get(tensor_name(pointer))
            if ask or handler is None:
                return handler is not None
            if not self._checked:
                check_layout(pointer)
                self._checked = True
            handler(Residual(pointer))
        except BaseException as e:
            self.error = e
            return False
        return True


def stream_names(arch: Architecture, position: int) -> tuple[bytes, ...]:
    """Graph names of the residual stream in front of layer `position`."""
    return tuple(name.encode() for name in arch.stream_names(position))


def ablation_taps(arch: Architecture, drop: Sequence[int]) -> Taps:
    """Taps that leave out the layers `drop`: each run's output becomes the run's input.

    Where the graph has cut the stream down to the rows that yield logits (behind the last layer),
    those are taken to be the last rows of the batch.
    """
    taps: dict[bytes, Handler] = {}
    for first, last in runs_of(drop):
        entering: list[NDArray[np.float32]] = []

        def save(node: Residual, entering: list[NDArray[np.float32]] = entering) -> None:
            entering[:] = [node.read()]

        def restore(node: Residual, entering: list[NDArray[np.float32]] = entering) -> None:
            n_row = node.shape[0]
            node.write(entering[0][len(entering[0]) - n_row :])

        for name in stream_names(arch, first):
            taps[name] = save
        for name in stream_names(arch, last + 1):
            taps[name] = restore
    return taps


class StreamRecorder:
    """Taps that keep the residual stream in front of every layer and behind the last one."""

    def __init__(self, arch: Architecture, n_layer: int) -> None:
        self.stream: list[NDArray[np.float32] | None] = [None] * (n_layer + 1)
        self.taps: dict[bytes, Handler] = {}
        for position in range(n_layer + 1):

            def keep(node: Residual, position: int = position) -> None:
                self.stream[position] = node.read()

            for name in stream_names(arch, position):
                self.taps[name] = keep
