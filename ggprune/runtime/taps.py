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


def ablation_taps(arch: Architecture, drop: Sequence[int]) -> Taps:
    """Taps that leave out the layers `drop`: each run's output becomes the run's input.

    Where the graph has cut the stream down to the rows that yield logits (behind the last layer),
    those are taken to be the last rows of the batch. MTP blocks take no part in decoding.
    """
    saves: dict[bytes, Handler] = {}
    restores: dict[bytes, Handler] = {}
    for first, last in runs_of(n for n in drop if n < arch.n_trunk):
        for before, behind in zip(arch.entering(first), arch.leaving(last), strict=True):
            entering: list[NDArray[np.float32]] = []

            def save(node: Residual, entering: list[NDArray[np.float32]] = entering) -> None:
                entering[:] = [node.read()]

            def restore(node: Residual, entering: list[NDArray[np.float32]] = entering) -> None:
                n_row = node.shape[0]
                node.write(entering[0][len(entering[0]) - n_row :])

            saves |= {name.encode(): save for name in before}
            restores |= {name.encode(): restore for name in behind}
    both = {name: _both(restores[name], saves[name]) for name in restores.keys() & saves.keys()}
    return {**saves, **restores, **both}


def _both(first: Handler, second: Handler) -> Handler:
    def handle(node: Residual) -> None:
        first(node)
        second(node)

    return handle


class StreamRecorder:
    """Taps that keep the residual stream in front of every layer and behind the last one."""

    def __init__(self, arch: Architecture) -> None:
        self.stream: list[NDArray[np.float32] | None] = [None] * (arch.n_trunk + 1)
        self.taps: dict[bytes, Handler] = {}
        for position in range(arch.n_trunk + 1):

            def keep(node: Residual, position: int = position) -> None:
                self.stream[position] = node.read_tokens()

            if position < arch.n_trunk:
                names = arch.entering(position)[0]
            else:
                names = arch.leaving(position - 1)[0]
            for name in names:
                self.taps[name.encode()] = keep
