"""The function that llama.cpp calls for every graph node, and what can be made of it.

llama.cpp asks about every graph node before computing it (`cb_eval`); for the nodes that a program
names it stops right behind them and lets it read or overwrite the values. Knows nothing of layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ggprune.runtime.tensor import StreamNode, check_layout, set_computed, tensor_name

Handler = Callable[[StreamNode], None]
Taps = Mapping[bytes, Handler]


class Program(Protocol):
    """What to do during one decode."""

    def ask(self, pointer: int) -> bool:
        """Called for every node in the order of computation, before it; True: stop behind it."""

    def computed(self, pointer: int) -> None:
        """Called for the nodes that `ask` said True to."""


class EvalCallback:
    """The function llama.cpp calls for every node. The program may be exchanged between decodes."""

    def __init__(self) -> None:
        self.program: Program = NamedTaps({})
        self.error: BaseException | None = None
        self.time_s = 0.0  # spent in it, with what the program does
        self._checked = False

    def __call__(self, pointer: int, ask: bool, _: object) -> bool:
        """What ctypes cannot raise is kept in `error` and stops the decode."""
        if self.error is not None:
            return False
        start = time.perf_counter()
        try:
            if not self._checked:
                check_layout(pointer)
                self._checked = True
            if ask:
                return self.program.ask(pointer)
            self.program.computed(pointer)
            return True
        except BaseException as e:
            self.error = e
            return False
        finally:
            self.time_s += time.perf_counter() - start


class NamedTaps:
    """Calls handlers for nodes by name, and computes everything."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps

    def ask(self, pointer: int) -> bool:
        set_computed(pointer, True)  # an earlier program may have left it out
        return tensor_name(pointer) in self.taps

    def computed(self, pointer: int) -> None:
        self.taps[tensor_name(pointer)](StreamNode(pointer))
